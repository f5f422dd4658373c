/*
 * Refill: the heartbeat of a heap. A bin's active list is used up; here the next one comes from, in
 * this order:
 *
 *   1. the blocks freed on the bin's own run meanwhile (the *quick refill*: no lock, no call to
 *      anybody);
 *   2. what other threads gave back (inbox);
 *   3. the run that has waited longest with free blocks;
 *   4. pages not carved yet, of the current run, then of waiting ones;
 *   5. the runs of a heap whose thread has ended;
 *   6. a run from the heap's empties or the page pool.
 *
 * Memory that exists goes before memory that doesn't; and everything else that must happen now and
 * then happens here: settings, decay, batches of remote frees.
 *
 * Short lists. When a program frees and allocates one by one over many runs (a queue), 1 and 3 can
 * yield lists of a block or two for ever, and every malloc takes this path. Blocks in flight are
 * what lists are made of, so the cure is a few more of them: after SHORT_IN_ROW lists under
 * SHORT_LIST blocks the next list is a carved page, at most one per SHORT_PAUSE blocks handed out
 * and one in SHORT_SHARE pages of the class: a heap in which every run has a few free blocks must
 * not grow for it.
 *
 * Sampling (sample.c) counts bytes here, a list at a time; a list in which a sample lies ends
 * before it.
 *
 * The lock. The helper may look at our runs while this thread is blocked in the kernel, and only
 * then (decay.c). The quick refill makes no system call, so it needs no lock, only the owner check:
 * a lent run is not taken from.
 */
#include "freehold/event.h"
#include "heap/fast.h"
#include "heap/heap.h"
#include "os/sys.h"

#include <errno.h>
#include <string.h>

#define SHORT_LIST   8u
#define SHORT_BYTES  4096u
#define SHORT_IN_ROW 4u
#define SHORT_PAUSE  1024u
#define SHORT_SHARE  64u
#define CARVE_MOST   16u /* pages at a time */

static void *hand_out(struct fh_heap *heap, struct fh_run *run, void *list, uint32_t count)
{
    heap->queues[run->class_index].handed += count;
    heap->bins[run->class_index].run = run;
    run->state = FH_STATE_CURRENT;
    run->used_floor = 0;
    run->countdown = run->available;
    uint64_t bytes = (uint64_t)count * run->block_size;
    if (FH_LIKELY(bytes <= heap->gap))
        heap->gap -= bytes;
    else
        fh_sample_list(heap, run, list, count);
    return list;
}

/* All free blocks of the run, which becomes (or is) its bin's current one. */
static void *take_local(struct fh_heap *heap, struct fh_run *run, uint32_t *count)
{
    void *list = run->local;
    *count = run->available - fh_run_used(run);
    if (FH_UNLIKELY(*count > run->available)) {
        fh_report("double-free", list, "more blocks of its run were freed than handed out");
        *count = 1;
    }
    run->local = NULL;
    run->flags &= (uint8_t)~FH_RUN_CUT;
    return hand_out(heap, run, list, *count);
}

/* The bin's run is drained: it leaves the bin for where it can be found again. */
static void retire(struct fh_heap *heap, struct fh_run *run)
{
    if (run == NULL)
        return;
    uint32_t used = fh_run_used(run);
    if (run->local != NULL) {
        run->used_floor = 0;
        run->countdown = used;
        if (used == 0 && atomic_load_explicit(&run->remote, memory_order_relaxed) == 0)
            fh_queue_push(heap, run, FH_STATE_EMPTY);
        else
            fh_queue_push(heap, run, FH_STATE_PARTIAL);
        return;
    }
    run->countdown = 1;
    run->used_floor = used - 1;
    fh_queue_push(heap, run, fh_run_can_carve(heap, run) ? FH_STATE_FRESH : FH_STATE_FULL);
}

static void *carve_from(struct fh_heap *heap, struct fh_run *run, bool is_lengthening,
                        uint32_t *count)
{
    unsigned pages = heap->queues[run->class_index].runs / 2;
    pages = pages < 1 || is_lengthening ? 1 : pages > CARVE_MOST ? CARVE_MOST : pages;
    void *list = fh_run_carve(heap, run, pages, count);
    return list == NULL ? NULL : hand_out(heap, run, list, *count);
}

static bool is_lengthening_due(const struct fh_class_queue *queue)
{
    return queue->short_refills >= SHORT_IN_ROW &&
           queue->handed - queue->handed_at_carve >= SHORT_PAUSE &&
           (size_t)queue->lengthening * SHORT_SHARE <=
               queue->runs * (FH_GRANULE >> fh_os_page_shift);
}

/* Steps 2 to 6, heap locked. The list is not in the bin yet. */
static void *find_list(struct fh_heap *heap, unsigned class_index, unsigned flags)
{
    struct fh_class_queue *queue = &heap->queues[class_index];
    struct fh_bin *bin = &heap->bins[class_index];
    bool may_grow = (flags & FH_ALLOC_NO_GROWTH) == 0;
    bool want_longer = is_lengthening_due(queue);
    uint32_t count = 0;
    void *list;

    fh_heap_collect_inbox(heap);
    for (bool has_adopted = false;; has_adopted = true) {
        struct fh_run *run = bin->run;
        if (!want_longer) {
            if (run != NULL && run->local != NULL) {
                list = take_local(heap, run, &count);
                break;
            }
            if (queue->partial_first != FH_NO_RUN) {
                struct fh_run *next = fh_run_at(heap->pages, queue->partial_first);
                fh_queue_remove(heap, next);
                retire(heap, run);
                list = take_local(heap, next, &count);
                break;
            }
        }
        if (may_grow && run != NULL && run->local == NULL &&
            (list = carve_from(heap, run, want_longer, &count)) != NULL)
            break;
        if (may_grow && queue->fresh_first != FH_NO_RUN) {
            struct fh_run *next = fh_run_at(heap->pages, queue->fresh_first);
            if (next->local == NULL) {
                fh_queue_remove(heap, next);
                retire(heap, run);
                bin->run = NULL;
                list = carve_from(heap, next, want_longer, &count);
                if (list != NULL)
                    break;
                bin->run = next;
                continue;
            }
        }
        if (want_longer) {
            want_longer = false;
            if (queue->partial_first != FH_NO_RUN || (run != NULL && run->local != NULL))
                continue; /* a whole new run only for its list's length: not worth it */
        }
        if (!has_adopted &&
            atomic_load_explicit(&fh_root.orphans_with_runs, memory_order_relaxed) != 0 &&
            heap->pages == &fh_pages_main) {
            fh_heap_adopt_orphan(heap);
            continue;
        }
        run = may_grow ? fh_run_new(heap, class_index) : NULL;
        if (run == NULL)
            return NULL;
        retire(heap, bin->run);
        bin->run = NULL;
        if (run->local != NULL) {
            list = take_local(heap, run, &count);
            break;
        }
        list = carve_from(heap, run, want_longer, &count);
        break;
    }
    if (count < SHORT_LIST && count * bin->run->block_size < SHORT_BYTES) {
        queue->short_refills++;
    } else {
        if (want_longer) {
            queue->handed_at_carve = queue->handed;
            queue->lengthening++;
        }
        queue->short_refills = 0;
    }
    return list;
}

/* The active list of a class: in the bin, or (observed heaps) held beside it. */
static void **active_list(struct fh_heap *heap, unsigned class_index)
{
    return heap->modes & FH_HEAP_OBSERVED ? &heap->queues[class_index].held
                                          : &heap->bins[class_index].free;
}

void *fh_heap_take_class(struct fh_heap *heap, unsigned class_index, unsigned flags)
{
    void **active = active_list(heap, class_index);
    void *block = *active;
    if (block == NULL) {
        if (FH_UNLIKELY(heap->queues[class_index].is_due)) {
            heap->queues[class_index].is_due = false;
            heap->is_sampling = true;
        }
        block = find_list(heap, class_index, flags);
    }
    if (block != NULL)
        *active = fh_next(block);
    return block;
}

static void heartbeat(struct fh_heap *heap)
{
    if (FH_UNLIKELY(heap->settings_seen !=
                    atomic_load_explicit(&fh_root.settings.generation, memory_order_acquire)))
        fh_heap_follow_settings(heap);
    if (FH_UNLIKELY(atomic_load_explicit(&heap->is_decay_due, memory_order_relaxed)))
        fh_decay_owner(heap);
}

/* The thread's slow path: heap is the calling thread's own, not in use further down its stack. */
FH_FAST static void *take_slow(struct fh_heap *heap, unsigned class_index)
{
    atomic_store_explicit(&heap->depth, 1, memory_order_relaxed);
    atomic_signal_fence(memory_order_seq_cst);
    fh_lock_acquire(&heap->lock);
    heartbeat(heap);
    fh_large_free_late();
    void *block = fh_heap_take_class(heap, class_index, 0);
    fh_lock_release(&heap->lock);
    fh_depth_leave(heap);
    return block;
}

void *fh_take_inside(size_t size, size_t align)
{
    fh_handler_tell();
    return fh_emergency_alloc(size, align);
}

void *fh_take_large(size_t size, size_t align)
{
    struct fh_heap *before = fh_busy_begin();
    fh_large_free_late();
    void *block = fh_large_alloc(NULL, size, align, 0, NULL);
    fh_sample_large(before, size);
    fh_busy_end(before);
    return block;
}

FH_FAST static FH_NOINLINE void *malloc_slower(size_t size, unsigned class_index)
{
    struct fh_heap *heap = fh_heap_current;
    if (FH_UNLIKELY(heap == &fh_heap_emergency))
        heap = fh_handler_settle();
    if (heap == &fh_heap_none)
        heap = fh_heap_thread();
    void *block = NULL;
    if (heap != NULL && fh_is_guarded(heap))
        return fh_guarded_malloc(size);
    if (heap == NULL)
        block = NULL;
    else if (fh_is_inside(heap))
        block = fh_take_inside(size, 16);
    else if (class_index < FH_CLASS_COUNT)
        block = take_slow(heap, class_index);
    else
        block = fh_take_large(size, 0);
    if (block == NULL) {
        errno = ENOMEM;
        return NULL;
    }
    if (FH_UNLIKELY(heap->is_sampling) && !fh_is_inside(heap))
        return fh_sample_offer(size, block);
    if (fh_event_is_heard())
        fh_event_tell(FH_EVENT_ALLOC, block, NULL, size, fh_usable_size(block),
                      __builtin_return_address(0));
    return block;
}

/* The quick refill: the bin's own run has blocks again. */
FH_INLINE void *refill_quick(struct fh_heap *heap, struct fh_bin *bin)
{
    struct fh_run *run = bin->run;
    if (FH_UNLIKELY(run == NULL))
        return NULL;
    /* The key before anything else of the run: the helper may just be putting it back. */
    if (FH_UNLIKELY(!fh_run_is_mine(run)))
        return NULL;
    void *block = run->local;
    uint32_t available = run->available,
             count = available - run->countdown; /* used_floor is 0 while it is current */
    struct fh_class_queue *queue = &heap->queues[bin - heap->bins];
    uint64_t bytes = (uint64_t)count * run->block_size;
    if (FH_UNLIKELY(block == NULL || count > available ||
                    (count < SHORT_LIST && bytes < SHORT_BYTES) || bytes > heap->gap ||
                    queue->is_due || atomic_load_explicit(&heap->depth, memory_order_relaxed) != 0))
        return NULL;
    run->local = NULL;
    run->countdown = available;
    heap->gap -= bytes;
    queue->handed += count;
    bin->free = fh_next(block);
    return block;
}

FH_FAST void *fh_malloc_slow(size_t size)
{
    struct fh_heap *heap = fh_heap_current;
    if (fh_is_guarded(heap))
        return fh_guarded_malloc(size);
    unsigned class_index = fh_class_small(size);
    void *block = refill_quick(heap, &heap->bins[class_index]);
    if (FH_LIKELY(block != NULL))
        return block;
    return size != 0 ? malloc_slower(size, class_index) : fh_malloc_fast(1);
}

FH_FAST void *fh_malloc_medium(size_t size)
{
    struct fh_heap *heap = fh_heap_current;
    if (fh_is_guarded(heap))
        return fh_guarded_malloc(size);
    if (FH_UNLIKELY(size > FH_CLASS_MAX))
        return malloc_slower(size, FH_CLASS_LARGE);
    unsigned class_index = fh_class_medium(size);
    struct fh_bin *bin = &heap->bins[class_index];
    void *block = bin->free;
    if (FH_LIKELY(block != NULL)) {
        bin->free = fh_next(block);
        return block;
    }
    block = refill_quick(heap, bin);
    return block != NULL ? block : malloc_slower(size, class_index);
}
