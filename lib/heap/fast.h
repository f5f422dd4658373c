/*
 * fast.h: the fast paths of malloc and free, inlined into the entry points.
 *
 * Cost (x86-64, gcc -O2): malloc up to 256 bytes 12 instructions, no atomics, no lock, two branches not taken;
 * free 20 instructions, four. tests/system/instructions.sh counts them. They know no modes: a mode makes them fail
 * (an empty bin; an owner that nobody has), and what is slow then looks at modes.
 *
 * free checks its pointer for nothing extra: the owner comparison fails for every address that is in no run of this
 * thread (the header is zero, or somebody else's), and the multiplication tells whether the offset is a multiple of
 * the block size (Lemire, Kaser, Kurz: "Faster remainder by direct computation", 2019, section 3.2).
 */
#ifndef FH_HEAP_FAST_H
#define FH_HEAP_FAST_H

#include "heap/heap_internal.h"

/* Where a free goes that the fast path did not take; the entry points have a detour of their own. */
#ifndef FH_FREE_MISS
#define FH_FREE_MISS fh_free_slow
#endif

FH_API void *fh_malloc_medium(size_t size);
FH_API void *fh_calloc_slow(size_t count, size_t size);
FH_API void *fh_realloc_slow(void *block, size_t size);

FH_INLINE void *fh_malloc_fast(size_t size)
{
    struct fh_heap *heap = fh_heap_current;
    if (FH_UNLIKELY(size > FH_CLASS_SMALL_MAX))
        return fh_malloc_medium(size);
    struct fh_bin *bin = (struct fh_bin *)((char *)heap->bins + ((size + 15) & ~(size_t)15));
    void *block = bin->free;
    if (FH_UNLIKELY(block == NULL))
        return fh_malloc_slow(size);
    bin->free = fh_next(block);
    return block;
}

_Static_assert(sizeof(struct fh_bin) == 16, "a bin's offset is the rounded size");
_Static_assert(offsetof(struct fh_heap, bins) == 0, "bins come first");

FH_INLINE void fh_free_fast(const struct fh_window *window, void *block)
{
    size_t header = (((uintptr_t)block - window->base) >> (FH_GRANULE_SHIFT - FH_RUN_SHIFT)) &
                    ~(((size_t)1 << FH_RUN_SHIFT) - 1);
    struct fh_run *run = (struct fh_run *)(window->base + header);
    if (FH_UNLIKELY(header >= window->header_bytes ||
                    atomic_load_explicit(&run->owner, memory_order_relaxed) != fh_thread_pointer())) {
        FH_FREE_MISS(block);
        return;
    }
    uint32_t reciprocal = run->reciprocal;
    if (FH_UNLIKELY((uint32_t)((uint16_t)(uintptr_t)block * reciprocal) >= reciprocal)) {
        FH_FREE_MISS(block);
        return;
    }
    fh_set_next(block, run->local);
    run->local = block;
    if (FH_UNLIKELY(--run->countdown == 0))
        fh_free_event(run);
}

/* Small blocks are cleared here, 16 bytes at a time: a call to memset costs as much as the allocation. */
FH_INLINE void *fh_calloc_fast(size_t count, size_t size)
{
    size_t bytes;
    if (FH_UNLIKELY(__builtin_mul_overflow(count, size, &bytes) || bytes > FH_CLASS_SMALL_MAX))
        return fh_calloc_slow(count, size);
    typedef uint64_t pair __attribute__((vector_size(16), may_alias));
    pair *block = fh_malloc_fast(bytes);
    if (FH_UNLIKELY(block == NULL))
        return NULL;
    pair *end = (pair *)((char *)block + ((bytes + 15) & ~(size_t)15));
    for (pair *at = block; at < end; at++)
        *at = (pair){0, 0};
    return block;
}

/* In place when the new size fits and wastes less than half of the block. */
FH_INLINE void *fh_realloc_fast(const struct fh_window *window, void *block, size_t size)
{
    struct fh_run *run = fh_window_run(window, block);
    if (FH_LIKELY(run != NULL &&
                  atomic_load_explicit(&run->owner, memory_order_relaxed) == fh_thread_pointer())) {
        uint32_t reciprocal = run->reciprocal, usable = run->block_size;
        if (FH_LIKELY((uint32_t)((uint16_t)(uintptr_t)block * reciprocal) < reciprocal && size <= usable &&
                      size >= usable / 2))
            return block;
    }
    return fh_realloc_slow(block, size);
}

#endif
