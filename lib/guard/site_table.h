/*
 * site_table.h: allocation sites by names that are the same in every run, and the memory in which
 * processes tell `freehold run --fail sweep` about them.
 *
 * A *site* here is a whole call stack, innermost frame first. Its name is a hash over what its
 * frames are in the files that were loaded: the module's build id (without one, where the section
 * headers lie) and the offset from its beginning. So it does not depend on where the loader put a
 * module, on process ids or on the environment; a module that was built anew gives new names. The
 * low 16 bits come from the innermost frame alone: whoever looks for one site can pass over nearly
 * all others without walking a stack.
 *
 * The table is a memfd of the command's, sparse, mapped by every process of a run (setting
 * fail_table=PATH). All of it is zeroes at first. Sites and modules are open-addressing tables: a
 * place is claimed by a compare-and-swap of its name from 0 (relaxed), filled by who won, and then
 * is_ready is stored (release); readers load that (acquire). Nothing is taken out. A process that
 * dies between the two leaves a place that is not ready, which readers pass over.
 */
#ifndef FH_GUARD_SITE_TABLE_H
#define FH_GUARD_SITE_TABLE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    FH_TABLE_MAGIC = 0x46485354,
    FH_TABLE_SITES = 1 << 15, /* the table of a large program is half full at most */
    FH_TABLE_MODULES = 512,
    FH_TABLE_FRAMES = 64, /* innermost ones; further out stacks count as the same */
    FH_TABLE_PATH = 240,
    FH_TABLE_FUNCTION = 24,
    FH_TABLE_PROBES = 64,       /* places tried before something is counted as lost */
    FH_TABLE_MODULE_SHIFT = 48, /* of a frame: below, the offset; above, the module's index + 1 */
};

struct fh_table_module {
    _Atomic uint64_t print; /* tells builds apart; 0: free */
    _Atomic uint32_t is_ready;
    uint32_t reserved;
    char path[FH_TABLE_PATH];
};

struct fh_table_stack {
    uint32_t len;
    uint32_t reserved;
    uint64_t frames[FH_TABLE_FRAMES]; /* return addresses; without a module: 0 above */
};

struct fh_table_site {
    _Atomic uint64_t site; /* its name; 0: free */
    _Atomic uint64_t count;
    _Atomic uint64_t bytes;
    _Atomic uint64_t first; /* number of the allocation, in its process, that was its first */
    _Atomic uint32_t is_ready;
    uint32_t reserved;
    char function[FH_TABLE_FUNCTION]; /* "malloc", "operator new[]", "mmap" */
    struct fh_table_stack stack;
};

/* What became of a process that was ended by a signal. */
struct fh_table_crash {
    _Atomic uint32_t is_claimed; /* the first one is kept */
    _Atomic uint32_t is_ready;
    int32_t signal, pid;
    uint32_t is_handled; /* the program had a handler of its own for it, and may have lived on */
    uint32_t reserved;
    uint64_t address;
    struct fh_table_stack stack;
};

struct fh_site_table {
    uint32_t magic;
    uint32_t is_recording; /* sites are entered; else only failures are told */
    _Atomic uint64_t allocations;
    _Atomic uint64_t failures;     /* made */
    _Atomic uint64_t lost;         /* allocations whose site found no place */
    _Atomic uint64_t last_failure; /* name of the site */
    struct fh_table_crash crash;
    struct fh_table_module modules[FH_TABLE_MODULES];
    struct fh_table_site sites[FH_TABLE_SITES];
};

/* ---- In the process (site_table.c) ----------------------------------------------------------- */

/* The name of a stack; never 0. Lock-free. */
uint64_t fh_site_name(const uintptr_t *frames, size_t n);
/* What its low 16 bits are when frames[0] is this. */
uint16_t fh_site_name_begin(uintptr_t frame);

/* The command's table at path: mapped; NULL when it is none. */
struct fh_site_table *fh_site_table_map(const char *path);
/* One more allocation there. */
void fh_site_table_count(struct fh_site_table *table, const uintptr_t *frames, size_t n,
                         uint64_t number, size_t bytes, const char *function);
void fh_site_table_crashed(struct fh_site_table *table, int signal, uintptr_t address,
                           bool is_handled, const uintptr_t *frames, size_t n);

#endif
