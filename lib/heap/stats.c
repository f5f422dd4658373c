/*
 * Statistics: what the heaps have done, summed up when somebody asks.
 *
 * Nothing is counted per call. A class's allocations are the blocks handed to active lists, less what is still in the lists;
 * its live blocks are what its runs count as used, less the same; frees are the difference. The lists of other threads can't be walked while those run, so their
 * figures lag by what the lists hold.
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
    return fh_list_length(heap->bins[class_index].free, ~0u) + fh_list_length(heap->queues[class_index].held, ~0u);
}

static void add_heap(struct fh_heap *heap, struct fh_stats *stats, uint64_t used[FH_CLASS_COUNT])
{
    fh_lock_acquire(&heap->lock);
    for (uint32_t index = heap->all_first; index != FH_NO_RUN;) {
        const struct fh_run *run = fh_run_at(heap->pages, index);
        index = run->heap_next;
        if (run->kind == FH_RUN_BLOCKS)
            used[run->class_index] += fh_run_used(run) - (uint32_t)(atomic_load_explicit(&run->remote, memory_order_relaxed) >> 32);
    }
    for (unsigned i = 1; i < FH_CLASS_COUNT; i++) {
        uint32_t waiting = in_list(heap, i);
        stats->classes[i - 1].allocs += heap->queues[i].handed - waiting;
        stats->classes[i - 1].runs += heap->queues[i].runs;
        used[i] -= waiting;
    }
    stats->large_allocs += atomic_load_explicit(&heap->large_allocs, memory_order_relaxed);
    stats->large_frees += atomic_load_explicit(&heap->large_frees, memory_order_relaxed);
    stats->remote_frees += heap->remote_frees;
    stats->heaps++;
    stats->threads += atomic_load_explicit(&heap->thread, memory_order_relaxed) != 0;
    fh_lock_release(&heap->lock);
}

int fh_stats(struct fh_stats *stats)
{
    if (stats->size != sizeof *stats)
        return -EINVAL;
    memset(stats, 0, sizeof *stats);
    stats->size = sizeof *stats;
    stats->class_count = FH_CLASS_COUNT;
    uint64_t used[FH_CLASS_COUNT] = {0};
    fh_lock_acquire(&fh_root.heaps_lock);
    for (struct fh_heap *heap = fh_root.heaps; heap != NULL; heap = heap->next)
        add_heap(heap, stats, used);
    fh_lock_release(&fh_root.heaps_lock);
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
    stats->peak_footprint = atomic_load_explicit(&fh_pages_main.peak_footprint, memory_order_relaxed);
    stats->purged_bytes = atomic_load_explicit(&fh_pages_main.purged, memory_order_relaxed);
    stats->reserved = fh_pages_main.reserved_bytes;
    return 0;
}

int fh_stats_threads(int (*visit)(void *context, const struct fh_stats_thread *thread), void *context)
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
        };
        for (unsigned i = 1; i < FH_CLASS_COUNT; i++)
            thread.allocs += heap->queues[i].handed - in_list(heap, i);
        result = visit(context, &thread);
    }
    fh_lock_release(&fh_root.heaps_lock);
    return result;
}

/* One JSON object on one line; docs/stats-json.md. */
int fh_stats_json(int fd)
{
    struct fh_stats stats = {.size = sizeof stats};
    fh_stats(&stats);
    char line[256];
    size_t length = fh_format(line, sizeof line, "{\"freehold\":1,\"pid\":%d,\"mallocs\":%llu,\"frees\":%llu}\n",
                              fh_os_getpid(), (unsigned long long)stats.allocs, (unsigned long long)stats.frees);
    int64_t written = fh_os_write(fd, line, length);
    return written < 0 ? (int)written : 0;
}

int fh_stats_print(int fd)
{
    struct fh_stats stats = {.size = sizeof stats};
    fh_stats(&stats);
    char line[256];
    size_t length = fh_format(line, sizeof line, "freehold: %llu allocations, %llu frees, %zu live bytes\n",
                              (unsigned long long)stats.allocs, (unsigned long long)stats.frees, stats.live_bytes);
    int64_t written = fh_os_write(fd, line, length);
    return written < 0 ? (int)written : 0;
}
