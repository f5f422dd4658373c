/*
 * The memory with which allocation can't fail, computed: the argument is in tlsf.c. What is counted in bytes by the
 * user is turned into units of blocks first: 4 bytes and rounding to the granule, 16, for each, and then the rounding to a size.
 */
#ifndef FH_PLACE_BOUND_H
#define FH_PLACE_BOUND_H

#include "place/classes.h"
#include "place/tags.h"

/* SIZE_MAX: no range is large enough. */
FH_INLINE size_t tags_bound(size_t live_bytes, size_t live_blocks, size_t largest, uint32_t second,
                            uint32_t sizes_log2,
                            size_t (*index_bytes)(uint32_t choice, uint32_t most))
{
    enum { GRANULE = 16, PER_BLOCK = 4 + (GRANULE - 1) };
    if (largest > (size_t)TAGS_LIMIT * TAGS_UNIT / 4 || largest > live_bytes)
        return SIZE_MAX;
    uint32_t units = (uint32_t)(fh_align_up(largest + 4, GRANULE) / TAGS_UNIT);
    size_t hole = (size_t)class_rounded(second, units - GRANULE / TAGS_UNIT) * TAGS_UNIT;
    size_t live, holes, range;
    if (__builtin_mul_overflow(live_blocks, PER_BLOCK, &live) ||
        __builtin_add_overflow(live, live_bytes, &live) ||
        __builtin_add_overflow(live, live >> sizes_log2, &live) ||
        __builtin_mul_overflow(live_blocks, hole, &holes) ||
        __builtin_add_overflow(live, holes, &range))
        return SIZE_MAX;
    /* The table depends on the range, and the range on the table: the table of the whole is enough. */
    size_t table = index_bytes(second, TAGS_LIMIT - 1) + sizeof(struct tags_head) + 2 * GRANULE;
    if (range > (size_t)(TAGS_LIMIT - 1) * TAGS_UNIT - table)
        return SIZE_MAX;
    table = index_bytes(second, (uint32_t)((range + table) / TAGS_UNIT)) +
            sizeof(struct tags_head) + 2 * GRANULE;
    return range + table;
}

#endif
