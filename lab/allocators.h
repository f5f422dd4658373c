/*
 * Every manager of Freehold by its name, opened for a replay.
 */
#ifndef FH_LAB_ALLOCATORS_H
#define FH_LAB_ALLOCATORS_H

#include "freehold/allocator.h"
#include "freehold/place.h"

enum lab_manager_trait {
    LAB_CONTIGUOUS = 1 << 0, /* lives in one range: there is a smallest one that serves a trace */
    LAB_KEEPS_ALL = 1 << 1, /* free gives nothing back: needs room for all that is ever allocated */
    LAB_IN_BUFFER = 1 << 2, /* takes no memory from a source: gets a mapping of its room */
};

struct lab_manager {
    const char *name;
    const char *description; /* one line, for --list */
    unsigned traits;         /* of enum lab_manager_trait */
    size_t most;             /* bytes of memory that it can manage; 0: any number */
    /* 0 and *out, or a negative errno. One manager of a kind is open in a process at a time: the
     * handle is static. fh_allocator_destroy closes it. */
    int (*open)(const struct fh_place_options *place, struct fh_allocator *out);
};

extern const struct lab_manager lab_managers[];
extern const size_t lab_manager_count;

/* NULL when there is none of that name. */
const struct lab_manager *lab_manager_named(const char *name);

#endif
