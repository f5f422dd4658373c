/*
 * Statistics: what the heaps have done, summed up when somebody asks.
 *
 * Nothing is counted per call. A class's allocations are the blocks handed to active lists, less
 * what is still in the lists; its live blocks are what its runs count as used, less the same; frees
 * are the difference. The lists of other threads can't be walked while those run, so their figures
 * lag by what the lists hold.
 */
#include "freehold/stats.h"

#include "base/message.h"
#include "heap/heap.h"
#include "os/sys.h"

#include <errno.h>
#include <string.h>

/* Blocks in the active list of a class; 0 for threads that run. */
static uint32_t in_list(const struct fh_heap *heap, unsigned class_index)
{
    uintptr_t thread = atomic_load_explicit(&heap->thread, memory_order_relaxed);
    if (thread != 0 && thread != fh_thread_pointer())
        return 0;
    /* No list is longer than what was handed out; but a program's error may have closed one to a
     * ring. */
    const struct fh_class_queue *queue = &heap->queues[class_index];
    const void *list =
        heap->bins[class_index].free != NULL ? heap->bins[class_index].free : queue->held;
    return fh_list_length(list, queue->handed < FH_GRANULE ? (uint32_t)queue->handed
                                                           : (uint32_t)FH_GRANULE);
}

static const uint64_t for_ever = UINT64_MAX;

/* Keeps signal handlers out of this thread's own heap while locks are held. */
static void enter(int by)
{
    struct fh_heap *mine = fh_heap_current;
    if (mine == &fh_heap_none || mine == &fh_heap_emergency)
        return;
    if (by > 0)
        atomic_fetch_add_explicit(&mine->depth, 1, memory_order_relaxed);
    else
        fh_depth_leave(mine);
}

static bool hold(struct fh_lock *lock, uint64_t ns)
{
    if (ns != for_ever)
        return fh_lock_try_for(lock, ns);
    fh_lock_acquire(lock);
    return true;
}

/* Blocks in use of each class, added to used[]; heap locked. */
static void add_used(const struct fh_heap *heap, uint64_t used[FH_CLASS_COUNT])
{
    for (uint32_t index = heap->all_first; index != FH_NO_RUN;) {
        const struct fh_run *run = fh_run_at(heap->pages, index);
        index = run->heap_next;
        if (run->kind == FH_RUN_BLOCKS)
            used[run->class_index] +=
                fh_run_used(run) -
                (uint32_t)(atomic_load_explicit(&run->remote, memory_order_relaxed) >> 32);
    }
    for (unsigned i = 1; i < FH_CLASS_COUNT; i++) {
        uint32_t waiting = in_list(heap, i);
        used[i] -= waiting < used[i] ? waiting : used[i];
    }
}

static bool add_heap(struct fh_heap *heap, struct fh_stats *stats, uint64_t used[FH_CLASS_COUNT],
                     uint64_t ns)
{
    if (!hold(&heap->lock, ns))
        return false;
    add_used(heap, used);
    for (unsigned i = 1; i < FH_CLASS_COUNT; i++) {
        stats->classes[i - 1].allocs += heap->queues[i].handed - in_list(heap, i);
        stats->classes[i - 1].runs += heap->queues[i].runs;
    }
    stats->large_allocs += atomic_load_explicit(&heap->large_allocs, memory_order_relaxed);
    stats->large_frees += atomic_load_explicit(&heap->large_frees, memory_order_relaxed);
    stats->remote_frees += heap->remote_frees;
    stats->heaps++;
    stats->threads += atomic_load_explicit(&heap->thread, memory_order_relaxed) != 0 &&
                      (heap->modes & FH_HEAP_FIRST_CLASS) == 0;
    fh_lock_release(&heap->lock);
    return true;
}

/* Large blocks freed by threads that have no heap any more, and first-class heaps that are gone or
 * were reset. */
static void add_others(struct fh_stats *stats)
{
    const struct fh_heap *const heapless[] = {&fh_heap_none, &fh_heap_emergency};
    for (unsigned i = 0; i < FH_ARRAY_LEN(heapless); i++) {
        stats->large_allocs +=
            atomic_load_explicit(&heapless[i]->large_allocs, memory_order_relaxed);
        stats->large_frees += atomic_load_explicit(&heapless[i]->large_frees, memory_order_relaxed);
    }
    for (unsigned i = 1; i < FH_CLASS_COUNT; i++)
        stats->classes[i - 1].allocs +=
            atomic_load_explicit(&fh_root.retired[i], memory_order_relaxed);
    uint64_t large = atomic_load_explicit(&fh_root.retired_large, memory_order_relaxed);
    stats->large_allocs += large;
    stats->large_frees += large;
}

void fh_stats_retire(struct fh_heap *heap)
{
    for (unsigned i = 1; i < FH_CLASS_COUNT; i++)
        atomic_fetch_add_explicit(&fh_root.retired[i], heap->queues[i].handed - in_list(heap, i),
                                  memory_order_relaxed);
    atomic_fetch_add_explicit(
        &fh_root.retired_large,
        atomic_exchange_explicit(&heap->large_allocs, 0, memory_order_relaxed),
        memory_order_relaxed);
}

static bool add_heaps(struct fh_stats *stats, uint64_t used[FH_CLASS_COUNT], uint64_t ns)
{
    bool is_whole = true;
    enter(1);
    if (hold(&fh_root.heaps_lock, ns)) {
        for (struct fh_heap *heap = fh_root.heaps; heap != NULL && is_whole; heap = heap->next)
            is_whole = add_heap(heap, stats, used, ns);
        fh_lock_release(&fh_root.heaps_lock);
    } else {
        is_whole = false;
    }
    enter(-1);
    return is_whole;
}

static int sum_up(struct fh_stats *stats, uint64_t ns)
{
    if (stats->size != sizeof *stats)
        return -EINVAL;
    memset(stats, 0, sizeof *stats);
    stats->size = sizeof *stats;
    stats->class_count = FH_CLASS_COUNT;
    uint64_t used[FH_CLASS_COUNT] = {0};
    if (!add_heaps(stats, used, ns))
        return -EBUSY;
    add_others(stats);
    for (unsigned i = 1; i < FH_CLASS_COUNT; i++) {
        struct fh_stats_class *class = &stats->classes[i - 1];
        class->block_size = fh_class_size(i);
        class->frees = class->allocs > used[i] ? class->allocs - used[i] : 0;
        stats->allocs += class->allocs;
        stats->frees += class->frees;
        stats->live_blocks += used[i];
        stats->live_bytes += used[i] * class->block_size;
    }
    struct fh_stats_class *large = &stats->classes[FH_CLASS_COUNT - 1];
    large->allocs = stats->large_allocs;
    large->frees = stats->large_frees;
    stats->allocs += stats->large_allocs;
    stats->frees += stats->large_frees;
    stats->live_blocks += stats->large_allocs - stats->large_frees;
    stats->live_bytes += atomic_load_explicit(&fh_root.large_bytes, memory_order_relaxed);
    stats->footprint = atomic_load_explicit(&fh_pages_main.footprint, memory_order_relaxed);
    stats->peak_footprint =
        atomic_load_explicit(&fh_pages_main.peak_footprint, memory_order_relaxed);
    stats->purged_bytes = atomic_load_explicit(&fh_pages_main.purged, memory_order_relaxed);
    stats->reserved = fh_pages_main.reserved_bytes;
    return 0;
}

int fh_stats(struct fh_stats *stats)
{
    return sum_up(stats, for_ever);
}

int fh_stats_try(struct fh_stats *stats, uint64_t ns)
{
    return sum_up(stats, ns);
}

int fh_stats_threads(int (*visit)(void *context, const struct fh_stats_thread *thread),
                     void *context)
{
    int result = 0;
    enter(1);
    fh_lock_acquire(&fh_root.heaps_lock);
    for (struct fh_heap *heap = fh_root.heaps; heap != NULL && result == 0; heap = heap->next) {
        if (heap->modes & FH_HEAP_FIRST_CLASS)
            continue;
        struct fh_stats_thread thread = {
            .tid = heap->tid,
            .is_alive = atomic_load_explicit(&heap->thread, memory_order_relaxed) != 0,
            .remote_frees = heap->remote_frees,
            .allocs = atomic_load_explicit(&heap->large_allocs, memory_order_relaxed),
            .frees = atomic_load_explicit(&heap->large_frees, memory_order_relaxed),
        };
        uint64_t used[FH_CLASS_COUNT] = {0};
        fh_lock_acquire(&heap->lock);
        add_used(heap, used);
        for (unsigned i = 1; i < FH_CLASS_COUNT; i++) {
            uint64_t allocs = heap->queues[i].handed - in_list(heap, i);
            thread.allocs += allocs;
            thread.frees += allocs > used[i] ? allocs - used[i] : 0;
        }
        fh_lock_release(&heap->lock);
        result = visit(context, &thread);
    }
    fh_lock_release(&fh_root.heaps_lock);
    enter(-1);
    return result;
}
