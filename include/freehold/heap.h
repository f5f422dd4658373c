/*
 * heap.h: the general-purpose heap.
 *
 * Use it when sizes and lifetimes are anything: it is what malloc is with libfreehold-malloc. Each
 * thread has a heap of its own (fh_malloc and friends work on it); a program may make more of them
 * (fh_heap_create), to free everything in one go, to keep a subsystem's memory apart, or to place a
 * heap over another source. Do not use it for thousands of blocks of one type that die together (an
 * arena) or in a real-time task (TLSF has a bound, a heap has none).
 *
 *     struct fh_heap *heap = fh_heap_create(NULL);
 *     char *line = fh_heap_alloc(heap, 80);
 *     line = fh_heap_realloc(heap, line, 160);
 *     fh_free_any(line);            // any thread may free
 *     fh_heap_destroy(heap);        // and this frees the rest
 *
 * Design: DESIGN.md and lib/heap/README.md. Sources: free lists sharded by page (Leijen, Zorn, de
 * Moura: Mimalloc, APLAS 2019), batched remote frees (Lietar et al., snmalloc, ISMM 2019), decay
 * purging (jemalloc).
 */
#ifndef FREEHOLD_HEAP_H
#define FREEHOLD_HEAP_H

#include "freehold/allocator.h"
#include "freehold/source.h"
#include "freehold/types.h"

FH_BEGIN_DECLS

struct fh_heap;

/* The largest request that can succeed. */
#define FH_SIZE_MAX ((size_t)PTRDIFF_MAX)

/* ---- the calling thread's heap: as malloc, without replacing it
 * ------------------------------------------- */

/* `size` bytes aligned to 16; size 0 gives a block of its own. NULL with errno ENOMEM when there is
 * no memory. Constant time but for refills; thread-safe. */
FH_API void *fh_malloc(size_t size) FH_MALLOC_LIKE FH_ALLOC_SIZE(1);
/* count × size bytes, zero. NULL with errno ENOMEM on overflow too. */
FH_API void *fh_calloc(size_t count, size_t size) FH_MALLOC_LIKE;
/* Contents kept up to the smaller size; block NULL allocates; size 0 gives a block of the smallest
 * size. In place when the block's usable size allows. On failure NULL, errno ENOMEM, block
 * unchanged. */
FH_API void *fh_realloc(void *block, size_t size);
/* align: a power of two (else NULL, errno EINVAL). */
FH_API void *fh_aligned_alloc(size_t align, size_t size) FH_MALLOC_LIKE FH_ALLOC_SIZE(2);
/* Frees a block of any Freehold heap, from any thread; NULL is nothing. Keeps errno. A pointer that
 * is no live block ends the program with a report: invalid-free, interior-free, double-free (where
 * it is seen). */
FH_API void fh_free_any(void *block);
/* Bytes that may be written at block; 0 for NULL. */
FH_API size_t fh_usable_size(const void *block);

/* ---- first-class heaps
 * ------------------------------------------------------------------------------------- */

/* All zero means default. Read once, by fh_heap_create. */
struct fh_heap_options {
    size_t size;                    /* sizeof(struct fh_heap_options) of the caller */
    const char *name;               /* for statistics; copied, up to 31 bytes */
    const struct fh_source *source; /* NULL: the system, shared with all other heaps */
    bool is_single_thread;          /* only the creating thread allocates and frees: no lock */
    bool randomise_slots;           /* blocks of a run are handed out in random order */
    unsigned
        canary_bytes; /* 0, or 1..16 secret bytes behind each block, checked when it is freed */
    /* Called for each block that is freed, with the heap's lock held; true keeps it away from reuse
     * until fh_heap_release_quarantined(). It must not call the heap. */
    bool (*quarantine)(void *context, void *block, size_t usable);
    void *quarantine_context;
    size_t limit; /* bytes of footprint beyond which allocation fails; 0: none */
};

/* A new heap; options may be NULL. NULL with errno ENOMEM, or EINVAL for a wrong option (a size not
 * known, canary_bytes over 16). Thread-safe. The heap's calls are thread-safe unless
 * is_single_thread. */
FH_API struct fh_heap *fh_heap_create(const struct fh_heap_options *options);
/* Frees all its blocks and the heap. Nobody may use either any more. O(runs). */
FH_API void fh_heap_destroy(struct fh_heap *heap);
FH_API void *fh_heap_alloc(struct fh_heap *heap, size_t size) FH_MALLOC_LIKE FH_ALLOC_SIZE(2);
FH_API void *fh_heap_calloc(struct fh_heap *heap, size_t count, size_t size) FH_MALLOC_LIKE;
FH_API void *fh_heap_aligned_alloc(struct fh_heap *heap, size_t align, size_t size) FH_MALLOC_LIKE
    FH_ALLOC_SIZE(3);
/* As fh_realloc; a block that moves comes from `heap`. */
FH_API void *fh_heap_realloc(struct fh_heap *heap, void *block, size_t size);
/* As fh_free_any, and quicker to find a block of a heap over a source of its own. */
FH_API void fh_heap_free(struct fh_heap *heap, void *block);
/* Ends the quarantine of a block that the quarantine hook kept. */
FH_API void fh_heap_release_quarantined(struct fh_heap *heap, void *block);
/* All blocks freed, the heap kept. */
FH_API void fh_heap_reset(struct fh_heap *heap);
/* True when address lies in a block or free space of this heap. */
FH_API bool fh_heap_owns(struct fh_heap *heap, const void *address);
FH_API struct fh_allocator fh_heap_allocator(struct fh_heap *heap);
/* The calling thread's own heap, made if there is none yet; NULL with ENOMEM. Do not destroy it. */
FH_API struct fh_heap *fh_heap_mine(void);

/* Gives back what can be given back, now: free pages of every heap that stands still (the caller's
 * own, heaps of exited threads, first-class ones, those of threads blocked in the kernel). Keeps
 * `keep` bytes of free pages for reuse. Returns the bytes given back. O(runs + free blocks). */
FH_API size_t fh_heap_trim(size_t keep);

/* `visit` must not call the heap: its lock is held.
 * Measures, walks, checks one heap; NULL: all heaps that stand still. As in allocator.h. */
FH_API int fh_heap_measure(struct fh_heap *heap, struct fh_measure *out);
FH_API int fh_heap_walk(struct fh_heap *heap,
                        int (*visit)(void *context, const struct fh_block *block), void *context);
FH_API int fh_heap_check(struct fh_heap *heap);

FH_END_DECLS
#endif
