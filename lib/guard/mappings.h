/* mappings.h: what the kernel says about an address (/proc/self/maps), for reports. */
#ifndef FH_GUARD_MAPPINGS_H
#define FH_GUARD_MAPPINGS_H

#include "base/core/macros.h"

struct fh_mapping {
    uintptr_t low, high;
    char access[5]; /* "rw-p" */
    char name[96];  /* "" when it has none; a longer one loses its beginning */
};

/* The mapping that holds the address, and the next one above it; low is 0 in one that does not exist.
 * False when the file can't be read. */
bool fh_mappings_look(uintptr_t address, struct fh_mapping *at, struct fh_mapping *above);

#endif
