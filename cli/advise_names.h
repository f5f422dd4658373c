/*
 * How advise names the places of a trace: by symbols, with allocators and their wrappers left out.
 */
#ifndef FH_CLI_ADVISE_NAMES_H
#define FH_CLI_ADVISE_NAMES_H

#include "lab/sites.h"
#include "tools/symbols.h"

/* For lab_sites_open; the symbols are its context. */
struct lab_names advise_names(struct symbols *symbols);

/* The innermost frame at a return address that is no wrapper's, or the outermost there; NULL without memory. */
const struct symbols_frame *advise_frame(struct symbols *symbols, uint64_t frame, uint64_t time_ns);

/* Whether it is in a library that allocates for others. */
bool advise_is_allocator(const struct symbols_frame *frame);

/* Whether a function allocates or frees for others, by its name. */
bool advise_is_wrapper_name(const char *function);

#endif
