/*
 * tlsf.h: TLSF, two-level segregated fit: blocks of any size from one range, in constant time and with little
 * waste. For real-time tasks, audio, games, firmware: whoever must know how long an allocation takes. Also a good
 * choice where only one heap over one range is wanted (Masmano et al., ECRTS 2004).
 *
 * When not to use it: blocks that all end together (arena.h: a tenth of the time); blocks of one size (pool.h,
 * slab.h: no header); threads that share it (wrap it: locked.h). Where memory is so tight that 1.5 per cent (steady
 * mix) counts and time does not, best fit (fit.h) packs tighter.
 *
 *     static _Alignas(16) unsigned char memory[64 << 10];
 *     struct fh_tlsf tlsf;
 *     fh_tlsf_init(&tlsf, &(struct fh_tlsf_options){.place = FH_PLACE_BUFFER(memory, sizeof memory)});
 *     float *samples = fh_tlsf_alloc(&tlsf, 512 * sizeof *samples);
 *     fh_tlsf_free(&tlsf, samples);
 *     fh_tlsf_destroy(&tlsf);
 *
 * A block costs 4 bytes, the rounding to 16 (or to 8, as an option) and from there to a 64th of a power of two, so
 * that powers of two aren't rounded further. Every call on a wrong pointer is reported,
 * changing nothing: what is no block, points into one, is free already, or whose neighbours were overwritten. Not
 * thread-safe. The range is relocatable and at most 4 GiB.
 */
#ifndef FREEHOLD_TLSF_H
#define FREEHOLD_TLSF_H

#include "freehold/tags.h"

FH_BEGIN_DECLS

struct fh_tlsf {
    struct fh_tags tags;
};

struct fh_tlsf_options {
    struct fh_place_options place;
    /* What blocks are aligned to when no more is asked for, and rounded to: 16 (also when 0), or 8, which saves
     * memory where blocks are small. */
    size_t align;
    /* log2 of the lists for each power of two of sizes, 2 to 6: more of them fit closer and cost a larger table (8 bytes a
     * list). 0: so that the table is about a 512th of the memory or capacity. */
    unsigned second_level;
};

/* Opens the manager over the memory that options->place names (place.h). 0; -EINVAL: an unknown value, no memory
 * named where there must be some, a buffer without room for the tables and one block; -ENOMEM. */
FH_API int fh_tlsf_init(struct fh_tlsf *self, const struct fh_tlsf_options *options);
/* Over a range that holds such a manager already, copied or mapped to `memory` (aligned to 16; to the largest
 * alignment that was given, if blocks are to keep theirs). It can't grow there. 0, or -EINVAL: no such range, or
 * `bytes` are fewer than it uses. */
FH_API int fh_tlsf_attach(struct fh_tlsf *self, void *memory, size_t bytes);
/* NULL and ENOMEM when no free block can serve it and the range can't grow. O(1): about
 * 110 instructions, whatever is free. */
FH_API void *fh_tlsf_alloc(struct fh_tlsf *self, size_t size) FH_MALLOC_LIKE FH_ALLOC_SIZE(2);
/* `align` and `flags` (enum fh_alloc_flags) as in allocator.h. An alignment above the granule costs 4 bytes more,
 * and a search for `align` bytes more. */
FH_API void *fh_tlsf_alloc_with(struct fh_tlsf *self, size_t size, size_t align,
                                unsigned flags) FH_MALLOC_LIKE FH_ALLOC_SIZE(2);
/* Joins the block with free neighbours. O(1). NULL is nothing. */
FH_API void fh_tlsf_free(struct fh_tlsf *self, void *block);
/* The same; a size that the block can't have been given is a size-mismatch. Not quicker. */
FH_API void fh_tlsf_free_sized(struct fh_tlsf *self, void *block, size_t size, size_t align);
/* Shrinks, or grows into the free block behind, or at the end of a range that can grow. False and ENOMEM where
 * that is not enough. O(1). */
FH_API bool fh_tlsf_resize_in_place(struct fh_tlsf *self, void *block, size_t new_size);
/* In place if it can be; else into the free block in front; else it moves. Keeps the alignment that the block was
 * given. Block NULL allocates. NULL: the block is as it was. */
FH_API void *fh_tlsf_resize(struct fh_tlsf *self, void *block, size_t new_size);
/* Bytes that may be written. O(1) */
FH_API size_t fh_tlsf_usable_size(const struct fh_tlsf *self, const void *block);
/* Lies the address where this manager's blocks lie? O(1) */
FH_API bool fh_tlsf_owns(const struct fh_tlsf *self, const void *address);
/* Frees every block and keeps the memory. */
FH_API void fh_tlsf_reset(struct fh_tlsf *self);
/* Gives the memory back to where it came from. */
FH_API void fh_tlsf_destroy(struct fh_tlsf *self);
/* out->size must be set. Walks over all blocks: O(blocks). 0, or -EINVAL. */
FH_API int fh_tlsf_measure(const struct fh_tlsf *self, struct fh_measure *out);
/* Every block in address order; -EINVAL when a header was overwritten. O(blocks) */
FH_API int fh_tlsf_walk(const struct fh_tlsf *self,
                        int (*visit)(void *context, const struct fh_block *block), void *context);
/* 0, or the number of broken invariants, each said. O(blocks) */
FH_API int fh_tlsf_check(const struct fh_tlsf *self);
/* The manager behind the common interface; lives as long as *self. */
FH_API struct fh_allocator fh_tlsf_allocator(struct fh_tlsf *self);

/* The bytes of a buffer in which allocation can't fail while at most `live_blocks` blocks with `live_bytes` bytes
 * in all are live at a time, none larger than `largest` (default alignments). A proof is in lib/place/tlsf.c. It
 * covers the worst order of calls that there is: programs rarely need more than 1.3 times what is live.
 * second_level 0, the default: the most that any level needs. SIZE_MAX: more than a range can have, a level that
 * does not exist, or `largest` beyond live_bytes. O(1) */
FH_API size_t fh_tlsf_bound(size_t live_bytes, size_t live_blocks, size_t largest,
                            unsigned second_level);

FH_END_DECLS
#endif
