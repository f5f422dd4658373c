/*
 * The general heap as a parent: for hosted managers that a program opens without saying where memory comes
 * from, in small pieces. Any thread may allocate and free at any time.
 */
#ifndef FH_PLACE_GENERAL_H
#define FH_PLACE_GENERAL_H

#include "freehold/allocator.h"

/* alloc and free are all that it offers; a parent needs no more. */
extern const struct fh_allocator fh_place_general;

#endif
