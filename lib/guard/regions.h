/*
 * regions.h: the ranges that the API of this room protects (protect.c, code.c), known to reports.
 *
 * A fault in one of them is no error of the heap; what is wrong with it is one of a few sentences
 * (fh_region_explain in guard.h). The table is of fixed size, because a report may read it at any
 * moment: a region that finds no row is protected all the same, only not explained.
 */
#ifndef FH_GUARD_REGIONS_H
#define FH_GUARD_REGIONS_H

#include "guard/guard.h"

#include <errno.h>

enum fh_region_state {
    FH_REGION_FREE, /* no region: the row is nobody's */
    FH_REGION_CLAIMED,
    FH_REGION_CLOSED,   /* protected memory, no access */
    FH_REGION_READABLE, /* protected memory, read-only */
    FH_REGION_WRITABLE,
    FH_REGION_CODE,
};

/* A row for [low, high), whose first and last `guard` bytes are guard pages; its number, or -1.
 * Lock-free. */
int fh_region_note(uintptr_t low, uintptr_t high, size_t guard, enum fh_region_state state);
void fh_region_change(int number, enum fh_region_state state);
void fh_region_forget(int number);

/* A result of the interface: a negative errno goes into errno too. */
FH_INLINE int fh_region_error(int code)
{
    if (code < 0)
        errno = -code;
    return code;
}

FH_INLINE void *fh_region_fail(int code)
{
    errno = code;
    return NULL;
}

#endif
