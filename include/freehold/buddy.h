/*
 * buddy.h: the binary buddy system.
 *
 * Blocks are powers of two times a unit, each at a multiple of its own size, and a block's only possible
 * partner in coalescing is its buddy, the other half of the next larger block. Use it for page-sized
 * buffers, for memory that must not be written by its allocator (device memory, a shared segment,
 * PROT_NONE), for blocks that must be naturally aligned, and, as the shared kind, where several
 * threads take from one range without a lock. Do not use it for odd sizes that add up: a request of 33
 * bytes takes 64, a quarter to a half of the memory is lost to rounding on average (best fit and TLSF lose a
 * few per cent).
 *
 *     static _Alignas(4096) unsigned char memory[1 << 20];
 *     struct fh_buddy buddy;
 *     fh_buddy_init(&buddy, &(struct fh_buddy_options){.place = FH_PLACE_BUFFER(memory, sizeof memory)});
 *     char *page = fh_buddy_alloc(&buddy, 4096);   // at a multiple of 4096
 *     fh_buddy_free(&buddy, page);
 *     fh_buddy_destroy(&buddy);
 *
 * What the system knows of the blocks is two bits a unit, kept beside them: in a buffer of the caller's
 * (`metadata`), or at the beginning of the range. The blocks themselves are never read nor written, but for
 * FH_ALLOC_ZEROED and a resize that moves. It costs 1.6 % of the memory at the smallest unit (16 bytes),
 * 0.007 % at pages; the shared kind keeps a third bit.
 *
 * Misuse is always seen: every free looks the block up, so a double, interior or invalid free, and a
 * wrong size, is reported. (In the shared kind also when two threads free the same block at once.)
 *
 * Costs: private alloc and free are constant but for every sixteenth of a kind on average, which splits or
 * coalesces: O(orders), and a search of O(units / 32768) words in the worst case. Sources: Knuth, TAOCP 1,
 * section 2.5, algorithms R and S; Barkley and Lee, A Lazy Buddy System Bounded by Two Coalescing
 * Delays per Class (SOSP 1989); Wrenger et al., LLFree (USENIX ATC 2023).
 */
#ifndef FREEHOLD_BUDDY_H
#define FREEHOLD_BUDDY_H

#include "freehold/allocator.h"
#include "freehold/place.h"

FH_BEGIN_DECLS

#define FH_BUDDY_UNIT_MIN ((size_t)16)
#define FH_BUDDY_UNIT_MAX ((size_t)2 << 20)
#define FH_BUDDY_LAYERS   4 /* of eight orders each; the header of buddy.c tells what they are */

struct fh_buddy_options {
    struct fh_place_options place;
    /* The smallest block, a power of two of 16 bytes to 2 MiB; 0: 16. The largest is the range. */
    size_t unit;
    /* Where the metadata goes: at least fh_buddy_metadata_size() bytes; NULL: into the range. */
    void *metadata;
    size_t metadata_bytes;
    /* Any number of threads may call at once; nothing locks. A source's memory is committed whole. */
    bool is_shared;
};

/* The caller's; its fields are for buddy.c. */
struct fh_buddy {
    struct fh_ground ground;
    struct fh_buddy_state *state;
    unsigned char *origin; /* of unit 0: aligned, at or before the range */
    unsigned unit_shift;
    unsigned stack_orders;
    unsigned quick; /* orders whose blocks are freed the short way */
    bool is_poisoning;
    void *stacks;
    uint64_t *layers[FH_BUDDY_LAYERS];
    size_t alignment; /* of origin: the most a block can be asked to have */
};

/* Bytes of metadata for the range that the options name (memory and bytes, or capacity); 0 when they
 * name none, or one of more than 2^31 units. */
FH_API size_t fh_buddy_metadata_size(const struct fh_buddy_options *options);

/* 0; -EINVAL: a unit that is none, a range or metadata too small, more than 2^31 units; -ENOMEM. O(metadata),
 * but O(1) over a source whose memory is zero. */
FH_API int fh_buddy_init(struct fh_buddy *buddy, const struct fh_buddy_options *options);
/* Over a range that has been moved or mapped elsewhere, metadata inside. `memory` must be what the range
 * was opened with (the buffer, or the base of the block or source), at the same address modulo the larger of
 * 4096 and the unit. Offsets stay; a private range must be used through one handle at a time, a shared one
 * may be attached by any number of processes. -EINVAL when there is no buddy system there. O(1). */
FH_API int fh_buddy_attach(struct fh_buddy *buddy, void *memory, size_t bytes);
/* The same where the metadata is apart. */
FH_API int fh_buddy_attach_apart(struct fh_buddy *buddy, void *memory, size_t bytes, void *metadata,
                                 size_t metadata_bytes);
/* Gives range and metadata back. Nobody may use the blocks any more. */
FH_API void fh_buddy_destroy(struct fh_buddy *buddy);

/* The block is `size` rounded up to a power of two of units, aligned to its own size. NULL with ENOMEM.
 * In the shared kind a request can fail for a moment while another thread coalesces just the memory that it
 * needs; it looks again until nothing moves, at most 1000 times. */
FH_API void *fh_buddy_alloc(struct fh_buddy *buddy, size_t size) FH_MALLOC_LIKE;
/* Alignments up to 1/128 of the range, at least 4096, can be had (of the system's memory: 2 MiB);
 * a larger one is ENOMEM. An alignment larger than the size makes the block that large. */
FH_API void *fh_buddy_alloc_with(struct fh_buddy *buddy, size_t size, size_t align,
                                 unsigned flags) FH_MALLOC_LIKE;
FH_API void fh_buddy_free(struct fh_buddy *buddy, void *block);
/* The size and alignment as asked for; a wrong one is reported. */
FH_API void fh_buddy_free_sized(struct fh_buddy *buddy, void *block, size_t size, size_t align);
/* Smaller: the rest is split off, unless the block was asked to be aligned beyond two units (its
 * alignment would be forgotten). Larger: true when the block is the left half of each larger
 * block up to the new size and the right halves are free. */
FH_API bool fh_buddy_resize_in_place(struct fh_buddy *buddy, void *block, size_t size);
FH_API void *fh_buddy_resize(struct fh_buddy *buddy, void *block, size_t size, size_t align);
FH_API size_t fh_buddy_usable_size(struct fh_buddy *buddy, const void *block);
FH_API bool fh_buddy_owns(const struct fh_buddy *buddy, const void *address);

/* Takes a range out of use (a hole in device memory, a part that is broken), rounded outwards to units:
 * as blocks that live until unreserve is called with the same range, or reset. 0; -ENOMEM when a part of it is not
 * free, -EINVAL when it is not in the range. O(orders²). */
FH_API int fh_buddy_reserve(struct fh_buddy *buddy, const void *address, size_t bytes);
FH_API int fh_buddy_unreserve(struct fh_buddy *buddy, const void *address, size_t bytes);

/* Frees all blocks. Nobody else may call meanwhile, also in the shared kind. O(metadata). */
FH_API void fh_buddy_reset(struct fh_buddy *buddy);
/* As in allocator.h. Of the shared kind: exact when nobody else calls. O(blocks × orders). */
FH_API int fh_buddy_measure(struct fh_buddy *buddy, struct fh_measure *out);
FH_API int fh_buddy_walk(struct fh_buddy *buddy,
                         int (*visit)(void *context, const struct fh_block *block), void *context);
FH_API int fh_buddy_check(struct fh_buddy *buddy);
FH_API struct fh_allocator fh_buddy_allocator(struct fh_buddy *buddy);

FH_END_DECLS
#endif
