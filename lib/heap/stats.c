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
#include "heap/heap_internal.h"
#include "os/sys.h"

#include <errno.h>
#include <string.h>

/* Blocks in the active list of a class; 0 for threads that run. */
static uint32_t in_list(const struct fh_heap *heap, unsigned class_index)
{
    uintptr_t thread = atomic_load_explicit(&heap->thread, memory_order_relaxed);
    if (thread != 0 && thread != fh_thread_pointer())
        return 0;
    return fh_list_length(heap->bins[class_index].free, ~0u) +
           fh_list_length(heap->queues[class_index].held, ~0u);
}

static const uint64_t for_ever = UINT64_MAX;

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
    for (unsigned i = 1; i < FH_CLASS_COUNT; i++)
        used[i] -= in_list(heap, i);
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
    stats->threads += atomic_load_explicit(&heap->thread, memory_order_relaxed) != 0;
    fh_lock_release(&heap->lock);
    return true;
}

static int sum_up(struct fh_stats *stats, uint64_t ns)
{
    if (stats->size != sizeof *stats)
        return -EINVAL;
    memset(stats, 0, sizeof *stats);
    stats->size = sizeof *stats;
    stats->class_count = FH_CLASS_COUNT;
    uint64_t used[FH_CLASS_COUNT] = {0};
    bool is_whole = true;
    if (!hold(&fh_root.heaps_lock, ns))
        return -EBUSY;
    for (struct fh_heap *heap = fh_root.heaps; heap != NULL && is_whole; heap = heap->next)
        is_whole = add_heap(heap, stats, used, ns);
    fh_lock_release(&fh_root.heaps_lock);
    if (!is_whole)
        return -EBUSY;
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
    return result;
}
