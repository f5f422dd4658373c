/*
 * half_fit.h: half-fit: blocks of any size from one range in constant time, rounded to a quarter of a power of two,
 * with a list for each such size (after Ogasawara, RTCSA 1995). The quickest of the managers that join blocks.
 *
 * When not to use it: where memory is tight. TLSF (tlsf.h) is as constant and little slower, and needs 7 per
 * cent less for the same blocks (steady mix); for powers of two they need the same.
 *
 *     static _Alignas(16) unsigned char memory[4 << 10];
 *     struct fh_half_fit heap;
 *     fh_half_fit_init(&heap, &(struct fh_half_fit_options){.place = FH_PLACE_BUFFER(memory, sizeof memory)});
 *     char *line = fh_half_fit_alloc(&heap, 80);
 *     fh_half_fit_free(&heap, line);
 *     fh_half_fit_destroy(&heap);
 *
 * A block costs 4 bytes, the rounding to 16 (or to 8, as an option) and from there to a quarter of a power of two:
 * 9 per cent on average, nothing for powers of two. Every call on a wrong pointer is reported,
 * changing nothing: what is no block, points into one, is free already, or whose neighbours were overwritten. Not
 * thread-safe. The range is relocatable and at most 4 GiB.
 */
#ifndef FREEHOLD_HALF_FIT_H
#define FREEHOLD_HALF_FIT_H

#include "freehold/tags.h"

FH_BEGIN_DECLS

struct fh_half_fit {
    struct fh_tags tags;
};

struct fh_half_fit_options {
    struct fh_place_options place;
    /* What blocks are aligned to when no more is asked for, and rounded to: 16 (also when 0), or 8, which saves
     * memory where blocks are small. */
    size_t align;
};

/* Opens the manager over the memory that options->place names (place.h). 0; -EINVAL: an unknown value, no memory
 * named where there must be some, a buffer without room for the tables and one block; -ENOMEM. */
FH_API int fh_half_fit_init(struct fh_half_fit *self, const struct fh_half_fit_options *options);
/* Over a range that holds such a manager already, copied or mapped to `memory` (aligned to 16; to the largest
 * alignment that was given, if blocks are to keep theirs). It can't grow there. 0, or -EINVAL: no such range, or
 * `bytes` are fewer than it uses. */
FH_API int fh_half_fit_attach(struct fh_half_fit *self, void *memory, size_t bytes);
/* NULL and ENOMEM when no free block can serve it and the range can't grow. O(1): about
 * 110 instructions, whatever is free. */
FH_API void *fh_half_fit_alloc(struct fh_half_fit *self, size_t size) FH_MALLOC_LIKE
    FH_ALLOC_SIZE(2);
/* `align` and `flags` (enum fh_alloc_flags) as in allocator.h. An alignment above the granule costs 4 bytes more,
 * and a search for `align` bytes more. */
FH_API void *fh_half_fit_alloc_with(struct fh_half_fit *self, size_t size, size_t align,
                                    unsigned flags) FH_MALLOC_LIKE FH_ALLOC_SIZE(2);
/* Joins the block with free neighbours. O(1). NULL is nothing. */
FH_API void fh_half_fit_free(struct fh_half_fit *self, void *block);
/* The same; a size that the block can't have been given is a size-mismatch. Not quicker. */
FH_API void fh_half_fit_free_sized(struct fh_half_fit *self, void *block, size_t size,
                                   size_t align);
/* Shrinks, or grows into the free block behind, or at the end of a range that can grow. False and ENOMEM where
 * that is not enough. O(1). */
FH_API bool fh_half_fit_resize_in_place(struct fh_half_fit *self, void *block, size_t new_size);
/* In place if it can be; else into the free block in front; else it moves. Keeps the alignment that the block was
 * given. Block NULL allocates. NULL: the block is as it was. */
FH_API void *fh_half_fit_resize(struct fh_half_fit *self, void *block, size_t new_size);
/* Bytes that may be written. O(1) */
FH_API size_t fh_half_fit_usable_size(const struct fh_half_fit *self, const void *block);
/* Lies the address where this manager's blocks lie? O(1) */
FH_API bool fh_half_fit_owns(const struct fh_half_fit *self, const void *address);
/* Frees every block and keeps the memory. */
FH_API void fh_half_fit_reset(struct fh_half_fit *self);
/* Gives the memory back to where it came from. */
FH_API void fh_half_fit_destroy(struct fh_half_fit *self);
/* out->size must be set. Walks over all blocks: O(blocks). 0, or -EINVAL. */
FH_API int fh_half_fit_measure(const struct fh_half_fit *self, struct fh_measure *out);
/* Every block in address order; -EINVAL when a header was overwritten. O(blocks) */
FH_API int fh_half_fit_walk(const struct fh_half_fit *self,
                            int (*visit)(void *context, const struct fh_block *block),
                            void *context);
/* 0, or the number of broken invariants, each said. O(blocks) */
FH_API int fh_half_fit_check(const struct fh_half_fit *self);
/* The manager behind the common interface; lives as long as *self. */
FH_API struct fh_allocator fh_half_fit_allocator(struct fh_half_fit *self);

/* The bytes of a buffer in which allocation can't fail while at most `live_blocks` blocks with `live_bytes` bytes
 * in all are live at a time, none larger than `largest` (default alignments). The proof is in lib/place/tlsf.c; it
 * covers the worst order of calls that there is. SIZE_MAX: more than a range can have. */
FH_API size_t fh_half_fit_bound(size_t live_bytes, size_t live_blocks, size_t largest);

FH_END_DECLS
#endif
