/*
 * The table of fast mode: sampled blocks are fenced ones, all others are the heap's.
 *
 * Which allocations are sampled is the heap's business (heap/sample.c); here a sample becomes a
 * block, as long as fewer than some dozens live (fence.c). Nothing is set up before the first
 * sample: no region, no handler of faults, no memory. Stacks are captured anew each time: at one
 * call in 8 MiB none is worth remembering. A program that allocates 8 MiB in less than a
 * millisecond is sampled as often as the budget of time allows (1 %); who asks for a smaller
 * distance gets it.
 *
 * In fast mode the operators new and delete do not say that they are no malloc, so families are not
 * compared.
 */
#include "freehold/event.h"
#include "guard/thread.h"
#include "heap/heap.h"
#include "stack/stack.h"

#include <string.h>

enum {
    FRAMES = 48,
    SAMPLE_NS = 15000, /* two stacks, and what a fenced block costs */
};

static uint32_t stack_of(const struct fh_call *call)
{
    uintptr_t frames[FRAMES];
    size_t count = fh_stack_capture_at(NULL, call->pc, call->sp, call->fp, frames, FRAMES);
    return fh_stack_id(frames, count);
}

/* Blocks of a class are aligned as its size is, and aligned_alloc relies on it. No block is aligned
 * to less than 16, as in other modes small ones are: what runs in production gets what it always
 * got. */
static size_t usual_align(size_t size)
{
    return fh_max(16, fh_min(size & (~size + 1), FH_CLASS_ONE_MAX));
}

static void *sample_alloc(size_t size, size_t align, unsigned how, const struct fh_call *call)
{
    static _Atomic bool has_handler;
    if (fh_guard_settings.guard >= FH_GUARD_DEFAULT && !fh_budget_take(SAMPLE_NS))
        return NULL;
    align = fh_max(align, usual_align(size));
    bool is_left = (fh_random_next(&fh_heap_current->random) & 1) != 0;
    void *block = fh_fence_alloc(size, align, how, stack_of(call), is_left);
    /* relaxed: who comes second has a block that nobody has touched yet. */
    if (block != NULL && !atomic_exchange_explicit(&has_handler, true, memory_order_relaxed))
        fh_fault_start();
    return block;
}

static void free_one(void *block, unsigned how, const struct fh_call *call)
{
    fh_fence_free(block, 0, 0, FH_HOW_ANY | (how & FH_HOW_RESIZE), stack_of(call), call);
}

static bool sample_free(void *block, size_t size, size_t align, unsigned how,
                        const struct fh_call *call)
{
    (void)size;
    (void)align;
    if (!fh_fence_owns(block))
        return false;
    free_one(block, how, call);
    while ((block = fh_guard_next_late()) != NULL)
        free_one(block, 0, call);
    return true;
}

/* From the heap, as if nobody were inside: no lock is held, nothing is half done. */
static void *alloc_from_heap(size_t size)
{
    struct fh_heap *heap = fh_heap_current;
    bool before = fh_event_mute();
    fh_busy_end(heap);
    void *block = fh_malloc(size);
    fh_busy_begin();
    fh_event_unmute(before);
    return block;
}

static void *sample_resize(void *block, size_t size, const struct fh_call *call)
{
    struct fh_guard_block old;
    if (!fh_fence_find(block, &old) ||
        fh_free_is_wrong(&old, block, 0, 0, FH_HOW_ANY | FH_HOW_RESIZE, call))
        return NULL;
    void *moved = alloc_from_heap(size);
    if (moved == NULL)
        return NULL;
    memcpy(moved, block, fh_min(old.requested, size));
    free_one(block, FH_HOW_RESIZE, call);
    return moved;
}

static void sample_finish(void)
{
}

static void count_nothing(uint64_t *allocs, uint64_t *frees)
{
    (void)allocs;
    (void)frees;
}

const struct fh_mode *fh_sample_mode(void)
{
    static struct fh_mode mode = {
        .free = sample_free,
        .free_later = fh_guard_free_later,
        .resize = sample_resize,
        .sample = sample_alloc,
        .is_mine = fh_fence_owns,
        .usable = fh_guard_usable,
        .finish = sample_finish,
        .count = count_nothing,
        .walk = fh_fence_walk_heap,
        .forked = fh_fence_forked,
    };
    if (fh_guard_settings.guard == 0)
        return NULL;
    mode.sample_bytes = fh_guard_settings.guard;
    fh_canary_start();
    return &mode;
}
