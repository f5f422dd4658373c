/*
 * Addresses of a recorded process as functions, files and lines: what `freehold advise` and the profiles
 * print.
 *
 *     struct symbols *symbols = symbols_open();
 *     symbols_add_modules(symbols, trace);                       // of the trace's current process
 *     const struct symbols_frame *frames;
 *     size_t n = symbols_look_up(symbols, address - 1, time_ns, &frames);
 *     for (size_t i = 0; i < n; i++) puts(frames[i].function);   // inlined ones first
 *     symbols_close(symbols);
 *
 * What is looked up once is remembered: 10,000 different addresses take well under 2 s, the same ones again
 * microseconds each. Nothing here needs the recorded process to be there still; where its files are not, frames are
 * named by module and address, and symbols_hint says what to do. Not thread-safe.
 */
#ifndef FH_TOOLS_SYMBOLS_H
#define FH_TOOLS_SYMBOLS_H

#include "freehold/trace.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Valid until symbols_close. */
struct symbols_frame {
    const char *function; /* demangled; where there is none "libfoo.so+0x12ab" or "0x7f…" */
    const char *file;     /* as the compiler was given it; NULL: not known */
    unsigned line;        /* 0: not known */
    const char *module;   /* path; NULL: the address is in no module */
    bool has_name;        /* function is one's name */
    bool is_inlined;      /* into the frame that follows */
};

struct symbols;

/* NULL without memory. */
struct symbols *symbols_open(void);
void symbols_close(struct symbols *symbols);

/* The module is copied. 0 or -ENOMEM. */
int symbols_add_module(struct symbols *symbols, const struct fh_trace_module *module);
/* All of the trace's current process. */
int symbols_add_modules(struct symbols *symbols, const struct fh_trace *trace);

/* The frames at an address (of an instruction, so of a return address less 1) at that time, innermost first. At least one, but 0
 * without memory. */
size_t symbols_look_up(struct symbols *symbols, uint64_t address, uint64_t time_ns,
                       const struct symbols_frame **frames);

/* Where the function begins that the address is in (not an inlined one): equal for two addresses exactly when they are in the
 * same function; known in stripped files, too. The address itself where no function is known. */
uint64_t symbols_function_begin(struct symbols *symbols, uint64_t address, uint64_t time_ns);

/* What stands in the way of better names: one sentence a module that was looked into in vain; NULL beyond the
 * last. */
const char *symbols_hint(const struct symbols *symbols, size_t index);

#endif
