/*
 * movable.h: a heap whose blocks may be moved, because the program holds them by handles.
 *
 * A heap that never moves a block keeps every page on which one block has survived. Here the program
 * holds a handle and asks for the address when it needs it; between times the heap may put blocks
 * closer together and give whole pages back, in steps whose length the program chooses: between two
 * requests, between two frames, in an idle moment.
 *
 * Use it for many blocks that live for very different times and are reached through a few places of
 * the code: cache entries, documents, rows, assets, the objects of an interpreter. Do not use it for
 * blocks that point at each other by address, for memory that the kernel or a library keeps an address
 * of for long (pin it, or use another manager), or for blocks under some 32 bytes: each costs 16 bytes
 * and 4 more in the table.
 *
 *     struct fh_movable heap;
 *     fh_movable_init(&heap, NULL);
 *     fh_handle name = fh_movable_alloc(&heap, 32);
 *     strcpy(fh_movable_resolve(&heap, name), "moved, and none the wiser");
 *     while (fh_compact_step(&heap, 256 << 10, 1000000) != 0) // at most 256 KiB and 1 ms
 *         do_something_else();
 *
 * An address from fh_movable_resolve holds until the next fh_compact_step of the heap, or a resize or
 * free of that block; nothing else moves a block. A pinned block stays where it is.
 *
 * Not thread-safe. Where threads share a heap, one lock covers every call, and an address is used under
 * that lock or while the block is pinned.
 *
 * One contiguous range of at most 32 GiB, on whatever ground place.h names. Relocatable: the range may be
 * copied or mapped elsewhere and attached. Compaction as in Jones, Hosking and Moss, The Garbage Collection Handbook (2nd
 * ed.), chapters 3 and 10.5 (evacuation, mark-region); handles as in Wanninger et al., "Getting a Handle
 * on Unmanaged Memory", ASPLOS 2024.
 */
#ifndef FREEHOLD_MOVABLE_H
#define FREEHOLD_MOVABLE_H

#include "freehold/place.h"

FH_BEGIN_DECLS

/* A block's name for its life, a value to copy and store; {0} names no block. The generation is new for
 * every block, so that a handle kept too long is seen (32 bits: after 4 billion blocks numbers come
 * again). */
typedef struct fh_handle {
    uint32_t index;
    uint32_t generation;
} fh_handle;

static inline bool fh_handle_is_null(fh_handle handle)
{
    return handle.index == 0;
}

struct fh_movable_options {
    struct fh_place_options place;
    /* Handles to make room for at once; 0: the table begins small. It grows by halves, and growing
     * copies it (4 bytes a handle) in the allocation that needs it: say here how many there will be
     * when no allocation may take long. */
    size_t handles;
};

/* The caller's; its fields are for the inline functions. */
struct fh_movable {
    unsigned char *base;   /* of the range */
    const uint32_t *table; /* by handle index: where the block is, in units of 16 bytes from base */
    struct fh_ground ground;
};

/* Opens a heap. options may be NULL: the system's memory, 1 GiB of address space. 0, -EINVAL (a buffer
 * of less than some 8 KiB, unknown values) or -ENOMEM, and errno. */
FH_API int fh_movable_init(struct fh_movable *m, const struct fh_movable_options *options);

/* Takes over a heap that lies in memory (aligned to 16): a copy, or the same memory mapped elsewhere. The old
 * struct must not be used any more, and the heap can't grow. Blocks keep an alignment above 16 as far
 * as the new base is congruent to the first. 0 or -EINVAL when no such heap lies there.
 * O(bytes / 64 KiB). */
FH_API int fh_movable_attach(struct fh_movable *m, void *memory, size_t bytes);

/* A block of at least `size` bytes aligned to 16, or a null handle and errno ENOMEM. Amortised O(1); a
 * block of many pages searches the table of units (12 bytes for 64 KiB of the range). */
FH_API fh_handle fh_movable_alloc(struct fh_movable *m, size_t size);

/* With an alignment, kept when the block moves (0: 16), and flags of enum fh_alloc_flags. Null and EINVAL
 * for other values. */
FH_API fh_handle fh_movable_alloc_with(struct fh_movable *m, size_t size, size_t align,
                                       unsigned flags);

/* Ends a block; a null handle is nothing. A stale handle is reported as double-free, one that was never
 * given or whose block is pinned as invalid-free; the heap is then as before. Keeps errno. O(1). */
FH_API void fh_movable_free(struct fh_movable *m, fh_handle handle);

/* Gives the block another size under the same handle. The contents are kept up to the smaller size, the
 * alignment too; the address may change. False, and all as it was: ENOMEM; EINVAL (stale handle); EBUSY
 * when a pinned block would have to move. */
FH_API bool fh_movable_resize(struct fh_movable *m, fh_handle handle, size_t size);

/* The address of a live block, by one load from the table. What a stale handle gives: while its index
 * has not been given to another block, an address at least 32 GiB above the heap, which faults; after
 * that the other block's. When in doubt use the checked one. */
static inline void *fh_movable_resolve(const struct fh_movable *m, fh_handle handle)
{
    return m->base + ((size_t)m->table[handle.index] << 4);
}

/* The same, but NULL (errno untouched) for a null, stale or invented handle. Two more loads. */
FH_API void *fh_movable_resolve_checked(const struct fh_movable *m, fh_handle handle);

/* Holds the block where it is until as many unpins; its address, or NULL: EINVAL (stale handle),
 * EOVERFLOW (65,535 pins). A pinned block keeps its page: pin for moments. O(1), for a block of many pages
 * O(bytes / 64 KiB). */
FH_API void *fh_movable_pin(struct fh_movable *m, fh_handle handle);
/* A stale handle or one that is not pinned is reported as invalid-free. */
FH_API void fh_movable_unpin(struct fh_movable *m, fh_handle handle);

/* Bytes that may be written; 0 for a stale handle. */
FH_API size_t fh_movable_usable_size(const struct fh_movable *m, fh_handle handle);

/* The handle of the live block that begins at `block`, or a null handle. O(1). */
FH_API fh_handle fh_movable_handle_of(const struct fh_movable *m, const void *block);

/* True for addresses in the range that blocks are handed out of. */
FH_API bool fh_movable_owns(const struct fh_movable *m, const void *address);

/*
 * Compacts for a while: empties the emptiest parts of the heap by moving their blocks, and gives parts
 * that are empty back to the source. Moves at most max_bytes and stops before max_ns nanoseconds are over
 * (0: no limit of that kind); a block that the rest of a step has no room for waits for the next, and
 * one that no step of these limits could move (it reckons 1 ns a byte) stays. Blocks over 512 KiB
 * never move, whatever the limits: they begin on a part of their own and waste less than an eighth.
 *
 * Returns the bytes that further steps can give back, as far as it can tell; 0 says: stop, it would not
 * help any more. That is so when what is left is denser than 15/16, pinned, or when moving has gained
 * nothing for a while; frees change it.
 */
FH_API size_t fh_compact_step(struct fh_movable *m, size_t max_bytes, uint64_t max_ns);

/* What compaction has done since the heap was opened or reset. */
struct fh_compaction {
    size_t size; /* sizeof(struct fh_compaction) of the caller */
    uint64_t steps;
    uint64_t moved_blocks;
    uint64_t moved_bytes;
    uint64_t returned_bytes; /* given back to the source */
    uint64_t longest_ns;     /* of all steps */
    size_t remaining;        /* as fh_compact_step would return it now */
    size_t pinned_bytes;     /* of live blocks that are pinned or too large to move */
};
/* 0 or -EINVAL. O(1). */
FH_API int fh_movable_compaction(const struct fh_movable *m, struct fh_compaction *out);

/* Ends every block, and its pins; memory is kept. Handles from before are stale. */
FH_API void fh_movable_reset(struct fh_movable *m);
/* Gives all memory back to where it came from. */
FH_API void fh_movable_destroy(struct fh_movable *m);

/* out->size must be set; 0 or -EINVAL. `metadata` has 16 bytes a block, the table of handles and that of
 * units. O(blocks). */
FH_API int fh_movable_measure(const struct fh_movable *m, struct fh_measure *out);
/* Every block, live and free, by address. */
FH_API int fh_movable_walk(const struct fh_movable *m,
                           int (*visit)(void *context, const struct fh_block *block),
                           void *context);
/* 0, or the number of broken invariants. O(blocks). */
FH_API int fh_movable_check(const struct fh_movable *m);

/* For code that wants addresses: blocks allocated through the interface are pinned for their life, in
 * parts of the heap of their own. Freed space between them is used again; what moves are the blocks
 * held by handles. */
FH_API struct fh_allocator fh_movable_allocator(struct fh_movable *m);

FH_END_DECLS
#endif
