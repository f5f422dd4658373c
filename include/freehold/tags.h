/*
 * tags.h: the part of a handle that the managers with boundary tags share (fit.h, tlsf.h, half_fit.h). Not
 * for programs: its fields are for the managers.
 */
#ifndef FREEHOLD_TAGS_H
#define FREEHOLD_TAGS_H

#include "freehold/place.h"

FH_BEGIN_DECLS

struct fh_tags {
    struct fh_ground ground;
    bool is_watched; /* by AddressSanitizer or valgrind: they are told what may be touched */
};

FH_END_DECLS
#endif
