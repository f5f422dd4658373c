/*
 * pool.h: blocks of one size, given and taken back in any order, in constant time.
 *
 * Use it for the nodes of a list, tree or graph, for connections, messages, particles: many objects of
 * one type that come and go singly. Allocation pops a free list and free pushes on it, both inline; each
 * object costs its size and one bit. Do not use it for objects of several sizes (slab.h, tlsf.h), nor
 * for those that all die together (arena.h).
 *
 *     struct fh_pool pool;
 *     fh_pool_init(&pool, &(struct fh_pool_options){.size = sizeof(struct node)});
 *     struct node *node = fh_pool_alloc(&pool);
 *     fh_pool_free(&pool, node);
 *     fh_pool_destroy(&pool);
 *
 * A bit for each block says whether it is live. So every second free, and every free of an address that is
 * no block's, is seen and reported (double-free, interior-free, invalid-free), and the live blocks can be visited.
 *
 * The memory is up to 32 chunks, each as large as all before it together: blocks of a parent, or pieces of
 * the one range of a buffer or source, which is relocatable then. Blocks are at least 8 bytes and stay where
 * they are. Not thread-safe; wrap it (locked.h).
 *
 * Sources: free lists in the free blocks: Knuth, The Art of Computer Programming 1, 2.2.3; Kenwright, Fast
 * efficient fixed-size memory pool, Computation Tools 2012, for indices in place of pointers.
 */
#ifndef FREEHOLD_POOL_H
#define FREEHOLD_POOL_H

#include "freehold/allocator.h"
#include "freehold/place.h"
#include "freehold/types.h"

FH_BEGIN_DECLS

/* A self-contained stretch of blocks: this header, one bit for each granule, the blocks. Places are counted
 * in granules (the largest power of two up to 64 that divides the distance of two blocks) from the chunk's
 * beginning; a granule's bit is set while a live block begins there. */
struct fh_pool_chunk {
    uint32_t
        free; /* the first free block, whose first four bytes are the next; FH_POOL_NONE: none */
    uint32_t granules; /* where the last block ends */
    uint32_t shift;    /* log2 of a granule */
    uint32_t first;    /* where the first block begins */
    uint32_t stride;   /* from one block to the next */
    uint32_t fresh;    /* from here on no block has ever been handed out */
    uint32_t align;    /* of the blocks, bytes */
    uint32_t chunks;   /* of the range; kept in its first chunk */
    uint64_t bytes;    /* of the chunk; the next one of the range begins there */
    uint64_t unused;
};

#define FH_POOL_NONE   UINT32_MAX
#define FH_POOL_CHUNKS 32

struct fh_pool {
    struct fh_pool_chunk *chunk;  /* blocks are taken from it and, when they are its, freed to it */
    struct fh_pool_chunk nothing; /* stands in while there is none */
    struct fh_pool_chunk *chunks[FH_POOL_CHUNKS];
    uint32_t count;     /* of them */
    uint32_t with_free; /* bit n: chunks[n] may have a block to give */
    size_t size;        /* of a block, as it may be written */
    size_t align;
    size_t next_bytes; /* of the next chunk */
    struct fh_ground ground;
    bool is_contiguous;
    bool is_watched; /* poisoned: each call takes the slow path */
};

struct fh_pool_options {
    struct fh_place_options place;
    size_t size; /* of a block; 1 byte to 1 GiB */
    size_t
        align; /* of a block: a power of two; 0: 16. With 8 a size such as 24 is not rounded up to 32 */
    size_t
        first; /* blocks in the first chunk; 0: what 4 KiB hold (over a source: 64 KiB), at least 8 */
};

/* Takes nothing from a parent yet. 0; -EINVAL (size or align, a buffer too small for one block), -ENOMEM.
 * A buffer is made one chunk, whose bits are cleared: O(bytes / 64) there, else O(1). */
FH_API int fh_pool_init(struct fh_pool *pool, const struct fh_pool_options *options);
/* Over memory in which another handle's pool over a buffer or source lies, moved or mapped here; it can't grow.
 * 0; -EINVAL when that is not what lies there, or it is not aligned as it was. O(chunks). */
FH_API int fh_pool_attach(struct fh_pool *pool, void *memory, size_t bytes);

FH_API void *fh_pool_alloc_slow(struct fh_pool *pool);
FH_API void fh_pool_free_slow(struct fh_pool *pool, void *block);

/* The bits behind a chunk's header. */
static inline uint64_t *fh_pool_bits(struct fh_pool_chunk *chunk)
{
    return (uint64_t *)(void *)(chunk + 1);
}

/* A block; its content is undefined. NULL and ENOMEM when there is no memory. Inline; the slow path looks for a
 * chunk with free blocks, makes up to 64 fresh blocks free, or takes a chunk. A block that is live is never
 * handed out again, even when the list was overwritten: that is reported as heap-corruption. */
static inline __attribute__((always_inline, warn_unused_result)) void *
fh_pool_alloc(struct fh_pool *pool)
{
    struct fh_pool_chunk *chunk = pool->chunk;
    uint32_t granule = chunk->free;
    if (__builtin_expect(granule >= chunk->granules, 0))
        return fh_pool_alloc_slow(pool);
    uint64_t *word = fh_pool_bits(chunk) + granule / 64, bit = (uint64_t)1 << granule % 64;
    if (__builtin_expect((*word & bit) != 0, 0))
        return fh_pool_alloc_slow(pool);
    *word |= bit;
    void *block = (unsigned char *)chunk + ((size_t)granule << chunk->shift);
    __builtin_memcpy(&chunk->free, block, sizeof chunk->free);
    return block;
}

/* Frees a block; NULL is nothing. Keeps errno. */
static inline __attribute__((always_inline)) void fh_pool_free(struct fh_pool *pool, void *block)
{
    struct fh_pool_chunk *chunk = pool->chunk;
    size_t offset = (size_t)((uintptr_t)block - (uintptr_t)chunk);
    /* Rotated, not shifted: bits below a granule come out on top and fail the comparison. */
    uint32_t shift = chunk->shift & 63;
    size_t granule = offset >> shift | offset << (-shift & 63);
    if (__builtin_expect(granule >= chunk->granules, 0)) {
        fh_pool_free_slow(pool, block);
        return;
    }
    uint64_t *word = fh_pool_bits(chunk) + granule / 64, bit = (uint64_t)1 << granule % 64;
    if (__builtin_expect((*word & bit) == 0, 0)) {
        fh_pool_free_slow(pool, block);
        return;
    }
    *word &= ~bit;
    __builtin_memcpy(block, &chunk->free, sizeof chunk->free);
    chunk->free = (uint32_t)granule;
}

/* As allocator.h's, for sizes up to the pool's: a larger size or alignment is NULL and ENOMEM; align 0 is
 * the pool's own, which may be 8. */
FH_API void *fh_pool_alloc_with(struct fh_pool *pool, size_t size, size_t align, unsigned flags);
/* A size larger than a block is reported (size-mismatch). */
FH_API void fh_pool_free_sized(struct fh_pool *pool, void *block, size_t size, size_t align);
/* The block itself when the new size is not larger than a block; else NULL and ENOMEM. */
FH_API void *fh_pool_resize(struct fh_pool *pool, void *block, size_t old_size, size_t new_size,
                            size_t align);
FH_API bool fh_pool_resize_in_place(struct fh_pool *pool, void *block, size_t old_size,
                                    size_t new_size);
/* Of any block of the pool: its size rounded up to its alignment. 0 for NULL. */
FH_API size_t fh_pool_usable_size(const struct fh_pool *pool, const void *block);
/* Whether the address lies in a chunk. O(chunks). */
FH_API bool fh_pool_owns(const struct fh_pool *pool, const void *address);

/* Calls visit for each live block, in address order within a chunk; it may free the block it is given. Stops
 * early and returns visit's value when that is not 0. O(blocks / 64 + live blocks). */
FH_API int fh_pool_each(struct fh_pool *pool, int (*visit)(void *context, void *block),
                        void *context);
/* Live blocks, counted. O(blocks / 64). */
FH_API size_t fh_pool_live(const struct fh_pool *pool);

/* Frees every block and keeps the memory. O(blocks / 64). */
FH_API void fh_pool_reset(struct fh_pool *pool);
/* Gives chunks without a live block back to the parent (a range keeps its own); returns their bytes.
 * O(blocks / 64). */
FH_API size_t fh_pool_trim(struct fh_pool *pool);
/* Gives everything back. */
FH_API void fh_pool_destroy(struct fh_pool *pool);

/* As in allocator.h. O(blocks / 64), O(blocks), O(blocks). */
FH_API int fh_pool_measure(const struct fh_pool *pool, struct fh_measure *out);
FH_API int fh_pool_walk(const struct fh_pool *pool,
                        int (*visit)(void *context, const struct fh_block *block), void *context);
FH_API int fh_pool_check(const struct fh_pool *pool);
FH_API struct fh_allocator fh_pool_allocator(struct fh_pool *pool);

FH_END_DECLS
#endif
