/*
 * fit.h: the classical policies: first fit, next fit, best fit, worst fit, over one range (Knuth, The Art of Computer
 * Programming 1, 2.5). Which free block serves a request is all they differ in:
 *
 *     FH_FIT_FIRST   the lowest that is large enough: large blocks stay at the end; low fragmentation
 *     FH_FIT_NEXT    the first one behind the last allocation: spreads use over the range; fragments more
 *     FH_FIT_BEST    the smallest that is large enough, the lowest of equals: the least memory in practice
 *     FH_FIT_WORST   the largest: what is left over stays useful; in practice the most memory
 *
 * Use best fit when memory is what counts: caches in a fixed budget, small devices, ranges that are written to a file.
 * When not to use any of them: where time counts (tlsf.h is more than twice as fast and needs at most 1.6 per
 * cent more memory on what was measured); where calls must take constant time (a search here takes a number of steps
 * that grows with the logarithm of the free blocks); blocks that end together (arena.h) or have one size (pool.h).
 *
 *     static _Alignas(16) unsigned char memory[64 << 10];
 *     struct fh_fit heap;
 *     fh_fit_init(&heap, &(struct fh_fit_options){.place = FH_PLACE_BUFFER(memory, sizeof memory),
 *                                                 .policy = FH_FIT_BEST});
 *     char *line = fh_fit_alloc(&heap, 80);
 *     fh_fit_free(&heap, line);
 *
 * No policy walks a list: the free blocks are nodes of a search tree. n free blocks cost O(log n) steps, expected
 * (the tree is balanced by a hash of addresses, so no order of calls that does not know the range's key is worse).
 *
 * A block costs 4 bytes and the rounding to 16 (or to 8, as an option). Every call on a wrong pointer is reported,
 * changing nothing: what is no block, points into one, is free already, or whose neighbours were overwritten. Not
 * thread-safe. The range is relocatable and at most 4 GiB.
 */
#ifndef FREEHOLD_FIT_H
#define FREEHOLD_FIT_H

#include "freehold/tags.h"

FH_BEGIN_DECLS

enum fh_fit_policy {
    FH_FIT_FIRST,
    FH_FIT_NEXT,
    FH_FIT_BEST,
    FH_FIT_WORST,
};

struct fh_fit {
    struct fh_tags tags;
};

struct fh_fit_options {
    struct fh_place_options place;
    enum fh_fit_policy policy;
    /* What blocks are aligned to when no more is asked for, and rounded to: 16 (also when 0), or 8, which saves
     * memory where blocks are small. */
    size_t align;
};

/* Opens the manager over the memory that options->place names (place.h). 0; -EINVAL: an unknown value, no memory
 * named where there must be some, a buffer without room for the tables and one block; -ENOMEM. */
FH_API int fh_fit_init(struct fh_fit *self, const struct fh_fit_options *options);
/* Over a range that holds such a manager already, copied or mapped to `memory` (aligned to 16; to the largest
 * alignment that was given, if blocks are to keep theirs). It can't grow there. 0, or -EINVAL: no such range, or
 * `bytes` are fewer than it uses. */
FH_API int fh_fit_attach(struct fh_fit *self, void *memory, size_t bytes);
/* NULL and ENOMEM when no free block can serve it and the range can't grow. O(log n) expected. */
FH_API void *fh_fit_alloc(struct fh_fit *self, size_t size) FH_MALLOC_LIKE FH_ALLOC_SIZE(2);
/* `align` and `flags` (enum fh_alloc_flags) as in allocator.h. An alignment above the granule costs 4 bytes more,
 * and a search for `align` bytes more. */
FH_API void *fh_fit_alloc_with(struct fh_fit *self, size_t size, size_t align,
                               unsigned flags) FH_MALLOC_LIKE FH_ALLOC_SIZE(2);
/* Joins the block with free neighbours. O(log n) expected. NULL is nothing. */
FH_API void fh_fit_free(struct fh_fit *self, void *block);
/* The same; a size that the block can't have been given is a size-mismatch. Not quicker. */
FH_API void fh_fit_free_sized(struct fh_fit *self, void *block, size_t size, size_t align);
/* Shrinks, or grows into the free block behind, or at the end of a range that can grow. False and ENOMEM where
 * that is not enough. O(log n) expected. */
FH_API bool fh_fit_resize_in_place(struct fh_fit *self, void *block, size_t new_size);
/* In place if it can be; else into the free block in front; else it moves. Keeps the alignment that the block was
 * given. Block NULL allocates. NULL: the block is as it was. */
FH_API void *fh_fit_resize(struct fh_fit *self, void *block, size_t new_size);
/* Bytes that may be written. O(1) */
FH_API size_t fh_fit_usable_size(const struct fh_fit *self, const void *block);
/* Lies the address where this manager's blocks lie? O(1) */
FH_API bool fh_fit_owns(const struct fh_fit *self, const void *address);
/* Frees every block and keeps the memory. */
FH_API void fh_fit_reset(struct fh_fit *self);
/* Gives the memory back to where it came from. */
FH_API void fh_fit_destroy(struct fh_fit *self);
/* out->size must be set. Walks over all blocks: O(blocks). 0, or -EINVAL. */
FH_API int fh_fit_measure(const struct fh_fit *self, struct fh_measure *out);
/* Every block in address order; -EINVAL when a header was overwritten. O(blocks) */
FH_API int fh_fit_walk(const struct fh_fit *self,
                       int (*visit)(void *context, const struct fh_block *block), void *context);
/* 0, or the number of broken invariants, each said. O(blocks) */
FH_API int fh_fit_check(const struct fh_fit *self);
/* The manager behind the common interface; lives as long as *self. */
FH_API struct fh_allocator fh_fit_allocator(struct fh_fit *self);

FH_END_DECLS
#endif
