/*
 * fast.h: the fast paths of malloc and free, inlined into the entry points.
 *
 * Cost (x86-64, gcc -O2): malloc up to 256 bytes 12 instructions, no atomics, no lock, two branches
 * not taken; free 20, five. tests/system/instructions.sh counts them. They know no modes: a mode
 * makes them fail (an empty bin; a key that nobody fits), and what is slow then looks at modes.
 *
 * free validates its pointer on the way. The key says whether the address lies in a run of this
 * thread and where (pages/run.h); the multiplication says whether that is a multiple of the block
 * size (Lemire, Kaser, Kurz: "Faster remainder by direct computation", 2019, section 3.2); and a
 * block that is first in its run's list was freed just before.
 *
 * On x86-64 two comparisons are written as asm goto, because the compiler loads what it could
 * compare or multiply in memory, and spends a register and an instruction each time; KEEP stops it
 * from adding what an addressing mode adds.
 */
#ifndef FH_HEAP_FAST_H
#define FH_HEAP_FAST_H

#include "heap/heap.h"

/* Where a free goes that the fast path did not take; the entry points have a detour of their own.
 * */
#ifndef FH_FREE_MISS
#define FH_FREE_MISS fh_free_slow
#endif

FH_API void *fh_malloc_medium(size_t size);
FH_API void *fh_calloc_slow(size_t count, size_t size);
FH_API void *fh_realloc_slow(void *block, size_t size);

#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__) &&      \
    !defined(__clang__)
#define FH_FAST_ASM    1
#define FH_KEEP(x)     __asm__("" : "+r"(x))
#define FH_KEEP_RAX(x) __asm__("" : "+a"(x))
#else
#define FH_FAST_ASM 0
#define FH_KEEP(x)
#define FH_KEEP_RAX(x)
#endif

/* Sizes over 256 bytes: the class takes nine instructions more. */
FH_INLINE void *fh_malloc_fast_medium(size_t size)
{
    if (FH_UNLIKELY(size > FH_CLASS_MAX))
        return fh_malloc_medium(size);
    struct fh_bin *bin = &fh_heap_current->bins[fh_class_medium(size)];
    void *block = bin->free;
    if (FH_UNLIKELY(block == NULL))
        return fh_malloc_medium(size);
    bin->free = fh_next(block);
    return block;
}

FH_INLINE void *fh_malloc_fast(size_t size)
{
    if (FH_UNLIKELY(size > FH_CLASS_SMALL_MAX))
        return fh_malloc_fast_medium(size);
    char *bins = (char *)fh_heap_current->bins;
    size_t bin = (size + 15) & ~(size_t)15;
    void *block = *(void **)(bins + bin);
    if (FH_UNLIKELY(block == NULL))
        return fh_malloc_slow(size);
    FH_KEEP_RAX(block);
    FH_KEEP(bin);
    *(void **)(bins + bin) = fh_next(block);
    return block;
}

_Static_assert(sizeof(struct fh_bin) == 16 && offsetof(struct fh_bin, free) == 0,
               "a bin's offset is the rounded size");
_Static_assert(offsetof(struct fh_heap, bins) == 0, "bins come first");

#if FH_FAST_ASM

#define FH_AT(type, headers, slot, field)                                                          \
    (*(type *)((headers) + (slot) + offsetof(struct fh_run, field)))

FH_INLINE void fh_free_fast(const struct fh_window *window, void *block)
{
    size_t slot = fh_window_slot(window, block);
    __asm__ __volatile__("" ::: "memory"); /* mask before headers: see struct fh_window */
    char *headers = (char *)window->headers;
    uintptr_t offset;
    __asm__ __volatile__ goto(
        "imulq %[factor], %%fs:0, %[offset]\n\t"
        "addq %c[key](%[headers],%[slot]), %[offset]\n\t"
        "addq %[block], %[offset]\n\t"
        "cmpq $0xffff, %[offset]\n\t"
        "ja %l[miss]\n\t"
        "imull %c[reciprocal](%[headers],%[slot]), %k[offset]\n\t"
        "cmpl %c[reciprocal](%[headers],%[slot]), %k[offset]\n\t"
        "jae %l[miss]"
        : [offset] "=&r"(offset)
        : [block] "r"(block), [factor] "i"(-(long)FH_KEY_FACTOR), [headers] "r"(headers),
          [slot] "r"(slot), [key] "i"(offsetof(struct fh_run, key)),
          [reciprocal] "i"(offsetof(struct fh_run, reciprocal))
        : "cc", "memory"
        : miss);
    void *first = FH_AT(void *, headers, slot, local);
    if (FH_UNLIKELY(first == block))
        goto miss;
    fh_set_next(block, first);
    FH_KEEP(slot);
    FH_AT(void *, headers, slot, local) = block;
    __asm__ __volatile__ goto("decl %c2(%0,%1)\n\t"
                              "je %l3"
                              :
                              : "r"(headers), "r"(slot), "i"(offsetof(struct fh_run, countdown))
                              : "cc", "memory"
                              : event);
    return;
event:
    fh_free_event((struct fh_run *)(headers + slot));
    return;
miss:
    FH_FREE_MISS(block);
}

#else

FH_INLINE void fh_free_fast(const struct fh_window *window, void *block)
{
    size_t mask = __atomic_load_n(&window->mask, __ATOMIC_ACQUIRE); /* pairs with the release of who
                                                                     * wrote it last */
    size_t slot = ((uintptr_t)block >> (FH_GRANULE_SHIFT - FH_RUN_SHIFT)) & mask;
    struct fh_run *run = (struct fh_run *)(window->headers + slot);
    uintptr_t offset = fh_run_offset(run, block, fh_thread_pointer());
    uint32_t reciprocal = run->reciprocal;
    if (FH_UNLIKELY(offset >= FH_GRANULE || (uint32_t)offset * reciprocal >= reciprocal ||
                    run->local == block)) {
        FH_FREE_MISS(block);
        return;
    }
    fh_set_next(block, run->local);
    run->local = block;
    if (FH_UNLIKELY(--run->countdown == 0))
        fh_free_event(run);
}

#endif

/* Small blocks are cleared here, 16 bytes at a time: a call to memset costs as much as the
 * allocation. */
FH_INLINE void *fh_calloc_fast(size_t count, size_t size)
{
    typedef uint64_t pair __attribute__((vector_size(16), may_alias));
    size_t bytes;
    if (FH_UNLIKELY(__builtin_mul_overflow(count, size, &bytes)))
        return fh_calloc_slow(count, size);
    char *bins = (char *)fh_heap_current->bins;
    size_t bin = (bytes + 15) & ~(size_t)15;
    if (FH_UNLIKELY(bytes > FH_CLASS_SMALL_MAX))
        return fh_calloc_slow(count, size);
    char *block = *(char **)(bins + bin);
    if (FH_UNLIKELY(block == NULL))
        return fh_calloc_slow(count, size);
    *(void **)(bins + bin) = fh_next(block);
    /* Backwards, so that the count is the index; KEEP stops the compiler from making a memset (rep
     * stos) of it. */
    do {
        bin -= sizeof(pair);
        *(pair *)(block + bin) = (pair){0, 0};
        FH_KEEP(bin);
    } while (bin != 0);
    return block;
}

/* In place when the new size fits and wastes less than half of the block. */
FH_INLINE void *fh_realloc_fast(const struct fh_window *window, void *block, size_t size)
{
    size_t mask = __atomic_load_n(&window->mask, __ATOMIC_ACQUIRE);
    struct fh_run *run =
        (struct fh_run *)(window->headers +
                          (((uintptr_t)block >> (FH_GRANULE_SHIFT - FH_RUN_SHIFT)) & mask));
    uintptr_t offset = fh_run_offset(run, block, fh_thread_pointer());
    uint32_t reciprocal = run->reciprocal, usable = run->block_size;
    if (FH_LIKELY(offset < FH_GRANULE && (uint32_t)offset * reciprocal < reciprocal &&
                  size <= usable && size >= usable / 2))
        return block;
    return fh_realloc_slow(block, size);
}

#endif
