/*
 * classes.h: size classes.
 *
 * Steps of 16 bytes up to 256 (classes 1..16), of 32 up to 1024 (17..40), then eight equal steps a
 * doubling: 1152, 1280 … 2048, 2304 … 28672, 30720, 32768. A request wastes at most 15 bytes up to
 * 256, 31 up to 1024, and less than 1/8 of the block above. Class 0 is the request of nothing: its
 * bin is always empty, so it takes the slow path.
 *
 * Blocks up to 16 KiB live in runs of one granule (64 KiB), those up to 32 KiB in runs of four.
 * What does not divide a run evenly is address space, not memory: pages are touched when blocks are
 * carved from them. Larger blocks have a run of their own.
 */
#ifndef FH_HEAP_CLASSES_H
#define FH_HEAP_CLASSES_H

#include "base/core/bits.h"

#define FH_CLASS_SMALL_MAX 256u           /* one class each 16 bytes up to here */
#define FH_CLASS_STEP_MAX  1024u          /* one class each 32 bytes up to here */
#define FH_CLASS_ONE_MAX   16384u         /* runs of one granule up to here */
#define FH_CLASS_MAX       32768u         /* largest block in a class */
#define FH_CLASS_COUNT     81u            /* classes 0..80 */
#define FH_CLASS_LARGE     FH_CLASS_COUNT /* stands for large blocks in statistics */
#define FH_MEDIUM_GRANULES 4u

/* Class of a size in 1..FH_CLASS_SMALL_MAX. */
FH_INLINE unsigned fh_class_small(size_t size)
{
    return (unsigned)((size + 15) / 16);
}

/* Class of a size in FH_CLASS_SMALL_MAX+1..FH_CLASS_MAX. */
FH_INLINE unsigned fh_class_medium(size_t size)
{
    if (FH_LIKELY(size <= FH_CLASS_STEP_MAX))
        return (unsigned)((size - 1) / 32) + 9;
    unsigned log = fh_log2(size - 1); /* 10 for 1025..2048 */
    return 41 + (log - 10) * 8 + (unsigned)((size - 1) >> (log - 3)) - 8;
}

FH_INLINE unsigned fh_class_of(size_t size)
{
    return size <= FH_CLASS_SMALL_MAX ? fh_class_small(size != 0 ? size : 1)
                                      : fh_class_medium(size);
}

FH_INLINE uint32_t fh_class_size(unsigned class_index)
{
    if (class_index <= 16)
        return class_index * 16;
    if (class_index <= 40)
        return (class_index - 8) * 32;
    unsigned step = (class_index - 41) % 8, log = 10 + (class_index - 41) / 8;
    return (uint32_t)(9 + step) << (log - 3);
}

FH_INLINE uint32_t fh_class_granules(unsigned class_index)
{
    return fh_class_size(class_index) <= FH_CLASS_ONE_MAX ? 1 : FH_MEDIUM_GRANULES;
}

#endif
