/*
 * The resize that every manager can fall back on: a new block, the contents, the old one freed. What a
 * manager adds is the attempt in place before it.
 */
#ifndef FH_PLACE_MOVE_H
#define FH_PLACE_MOVE_H

#include "base/core/bits.h"
#include "freehold/allocator.h"

/* `old_size` bytes may be read at `block` (usable bytes, or what was asked for where only the caller knows);
 * `align` is the alignment that the result must have (the one the block was given, when the caller said
 * 0). NULL: the block is as before. */
FH_INLINE void *fh_resize_by_move(const struct fh_allocator_ops *ops, void *self, void *block,
                                  size_t old_size, size_t new_size, size_t align)
{
    void *moved = ops->alloc(self, new_size, align, 0);
    if (moved == NULL)
        return NULL;
    __builtin_memcpy(moved, block, fh_min(old_size, new_size));
    if (ops->capabilities & FH_ALLOCATOR_NEEDS_SIZE)
        ops->free_sized(self, block, old_size, align);
    else
        ops->free(self, block);
    return moved;
}

#endif
