/*
 * The ways to root.mode (mode.h): what the slow paths do when blocks are lib/guard's.
 *
 * Whoever allocates is told by the frame that called: the functions below keep a frame of their own, and the entry
 * points and slow paths before them jump here, so that the frame's return address is the program's. (Where a compiler
 * made calls of these jumps, the stack has a frame or two of ours more, which reports leave out.)
 *
 * Around the table's work the heap's depth is raised: a signal handler that comes meanwhile finds the thread in its
 * slow path, allocates from the emergency arena, and the blocks that it frees are freed later (free_later).
 */
#include "freehold/event.h"
#include "heap/heap.h"

#include <errno.h>
#include <string.h>

/* NULL: no memory for one. */
FH_INLINE struct fh_heap *heap_of_caller(void)
{
    struct fh_heap *heap = fh_heap_current;
    if (FH_LIKELY((heap->modes & FH_HEAP_NONE) == 0))
        return heap;
    heap = fh_handler_settle();
    return heap == &fh_heap_none ? fh_heap_thread() : heap;
}

FH_INLINE void *alloc_as(size_t size, size_t align, unsigned how, const struct fh_call *call)
{
    struct fh_heap *heap = heap_of_caller();
    void *block = NULL;
    if (FH_UNLIKELY(heap == NULL)) {
        errno = ENOMEM;
        return NULL;
    }
    if (FH_UNLIKELY(fh_is_inside(heap))) {
        block = fh_take_inside(size, fh_max(align, 16));
        if (block != NULL && (how & FH_HOW_ZEROED))
            memset(block, 0, size);
    } else {
        atomic_store_explicit(&heap->depth, 1, memory_order_relaxed);
        atomic_signal_fence(memory_order_seq_cst);
        block = fh_root.mode->alloc(size, align, how, call);
        fh_depth_leave(heap);
    }
    if (FH_UNLIKELY(block == NULL)) {
        errno = ENOMEM;
        return NULL;
    }
    if (fh_event_is_heard())
        fh_event_tell(FH_EVENT_ALLOC, block, NULL, size, fh_usable_size(block),
                      (const void *)call->pc);
    return block;
}

void *fh_guarded_alloc(size_t size, size_t align, unsigned how, const struct fh_call *call)
{
    return alloc_as(size, align, how, call);
}

void *fh_guarded_malloc(size_t size)
{
    const struct fh_call call = FH_CALL_HERE();
    return alloc_as(size, 0, FH_HOW_MALLOC, &call);
}

void *fh_guarded_aligned(size_t align, size_t size)
{
    const struct fh_call call = FH_CALL_HERE();
    return fh_guarded_alloc(size, align, FH_HOW_MALLOC | FH_HOW_ALIGNED, &call);
}

void *fh_guarded_calloc(size_t count, size_t size)
{
    const struct fh_call call = FH_CALL_HERE();
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes)) {
        errno = ENOMEM;
        return NULL;
    }
    return fh_guarded_alloc(bytes, 0, FH_HOW_MALLOC | FH_HOW_ZEROED, &call);
}

static FH_COLD void free_aside(struct fh_heap *heap, void *block, size_t size, size_t align,
                               unsigned how, const struct fh_call *call)
{
    if (!fh_is_modes(block)) {
        fh_free_unguarded(block);
        return;
    }
    if (fh_event_is_heard())
        fh_event_tell(FH_EVENT_FREE, block, NULL, 0, fh_usable_size(block), (const void *)call->pc);
    if (heap == NULL || fh_is_inside(heap)) {
        fh_root.mode->free_later(block);
        return;
    }
    atomic_store_explicit(&heap->depth, 1, memory_order_relaxed);
    atomic_signal_fence(memory_order_seq_cst);
    (void)fh_root.mode->free(block, size, align, how, call);
    fh_depth_leave(heap);
}

FH_INLINE void free_as(void *block, size_t size, size_t align, unsigned how,
                       const struct fh_call *call)
{
    struct fh_heap *heap = heap_of_caller();
    if (FH_UNLIKELY(heap == NULL || fh_is_inside(heap) || fh_event_is_heard())) {
        free_aside(heap, block, size, align, how, call);
        return;
    }
    atomic_store_explicit(&heap->depth, 1, memory_order_relaxed);
    atomic_signal_fence(memory_order_seq_cst);
    const bool is_freed = fh_root.mode->free(block, size, align, how, call);
    fh_depth_leave(heap);
    if (FH_UNLIKELY(!is_freed))
        fh_free_unguarded(block); /* a first-class heap's, the emergency arena's, nobody's */
}

void fh_guarded_free(void *block)
{
    const struct fh_call call = FH_CALL_HERE();
    free_as(block, 0, 0, FH_HOW_MALLOC, &call);
}

void fh_guarded_free_as(void *block, size_t size, size_t align, unsigned how,
                        const struct fh_call *call)
{
    if (block != NULL && fh_root.mode != NULL)
        free_as(block, size, align, how, call);
    else
        fh_free_slow(block);
}

/* The block itself says how large it is, whoever allocates the new one: the heap (in fast mode), or the table. */
static void *resize_inside(void *block, size_t size)
{
    const size_t usable = fh_root.mode->usable(block);
    void *moved = fh_take_inside(size, 16);
    if (moved == NULL)
        return NULL;
    memcpy(moved, block, fh_min(usable, size));
    fh_root.mode->free_later(block);
    return moved;
}

void *fh_guarded_realloc(void *block, size_t size)
{
    const struct fh_call call = FH_CALL_HERE();
    struct fh_heap *heap = heap_of_caller();
    void *moved;
    if (FH_UNLIKELY(heap == NULL || fh_is_inside(heap))) {
        moved = resize_inside(block, size);
    } else {
        atomic_store_explicit(&heap->depth, 1, memory_order_relaxed);
        atomic_signal_fence(memory_order_seq_cst);
        moved = fh_root.mode->resize(block, size, &call);
        fh_depth_leave(heap);
    }
    if (moved == NULL) {
        errno = ENOMEM;
        return NULL;
    }
    if (fh_event_is_heard())
        fh_event_tell(FH_EVENT_RESIZE, moved, block, size, fh_usable_size(moved),
                      (const void *)call.pc);
    return moved;
}
