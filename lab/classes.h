/*
 * Managers of blocks of one size, put together to one of many sizes: a table of them, one a size
 * class.
 */
#ifndef FH_LAB_CLASSES_H
#define FH_LAB_CLASSES_H

#include "freehold/allocator.h"
#include "freehold/place.h"

enum { LAB_CLASSES = 48 };

/* The block size of a class, and the class of a size: LAB_CLASSES when it is larger than all. */
size_t lab_class_size(unsigned index);
unsigned lab_class_of(size_t size);

struct lab_classes {
    struct fh_place_options place;
    /* Opens the manager of a class, whose handle it finds by `index`; 0 or a negative errno. */
    int (*open_one)(unsigned index, size_t size, const struct fh_place_options *place,
                    struct fh_allocator *out);
    struct fh_allocator managers[LAB_CLASSES]; /* ops is NULL until the first block of the class */
};

/* The table as one allocator that needs sizes on free. */
struct fh_allocator lab_classes_allocator(struct lab_classes *classes);

#endif
