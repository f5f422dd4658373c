/*
 * What the heap tells a scan (scan/scan.h): its blocks, and which of them are handed out.
 *
 * Every run of blocks is an area, every large block one of its own. Handed out is what exists (its pages are
 * carved) and is in no list of free blocks: its run's, what other threads sent, what this thread gathers to
 * send, an active list.
 *
 * All locks are held and all threads stand still, so queues and headers are whole. What needs no lock may
 * have been cut off anywhere: a list is whole at each instruction, but a block, or an active list as a
 * whole, may be on its way from one to another and in none. It counts as handed out then, which is the
 * safe side: its words are read, and a leak scan that finds nothing pointing to it looks a second time.
 *
 * Lists are followed only inside their run and for no more steps than it has blocks: a program that has
 * written to a freed block must not lead the scan astray.
 */
#include "heap/heap.h"
#include "scan/scan.h"

static void clear_list(struct fh_scan *scan, const struct fh_run *run, const void *list)
{
    size_t bytes = (size_t)run->capacity * run->block_size;
    for (uint32_t steps = run->capacity; list != NULL && steps > 0; steps--) {
        if ((uintptr_t)list - run->base >= bytes || (uintptr_t)list % sizeof(void *) != 0)
            return;
        fh_scan_not_live(scan, (uintptr_t)list);
        list = fh_next(list);
    }
}

/* Blocks all of whose pages are carved, in rows. */
static void set_carved(struct fh_scan_area *area, const struct fh_run *run)
{
    uint32_t first = 0, index = 0;
    if (run->available == run->capacity) {
        fh_scan_live(area, 0, run->capacity);
        return;
    }
    for (; index < run->capacity; index++) {
        if (fh_run_is_carved(run, index))
            continue;
        fh_scan_live(area, first, index - first);
        first = index + 1;
    }
    fh_scan_live(area, first, index - first);
}

static void list_run(struct fh_scan *scan, const struct fh_run *run)
{
    if (run->kind == FH_RUN_LARGE) {
        struct fh_scan_area *block = fh_scan_add(scan, run->base, run->large_bytes, 1);
        if (block != NULL)
            fh_scan_live(block, 0, 1);
        return;
    }
    struct fh_scan_area *area = fh_scan_add(scan, run->base, run->block_size, run->capacity);
    if (area == NULL)
        return;
    set_carved(area, run);
    clear_list(scan, run, run->local);
    clear_list(scan, run, fh_remote_list(run));
}

static void list_pool(struct fh_scan *scan, const struct fh_pages *pages)
{
    for (uint32_t index = pages->first; index < pages->top;) {
        const struct fh_run *run = fh_run_at(pages, index);
        switch (run->kind) {
        case FH_RUN_BLOCKS:
        case FH_RUN_LARGE:
            list_run(scan, run);
            index += run->span;
            break;
        case FH_RUN_CLEAN:
        case FH_RUN_DIRTY:
        case FH_RUN_BUSY:
            index += run->span;
            break;
        default:
            index++;
            break;
        }
    }
}

static void list_heap(struct fh_scan *scan, const struct fh_heap *heap)
{
    for (unsigned i = 0; i < FH_CLASS_COUNT; i++) {
        const struct fh_run *run = heap->bins[i].run;
        if (run == NULL)
            continue;
        clear_list(scan, run, heap->bins[i].free);
        clear_list(scan, run, heap->queues[i].held);
    }
    for (unsigned i = 0; i < FH_OUT_SLOTS; i++)
        if (heap->out[i].run != NULL)
            clear_list(scan, heap->out[i].run, heap->out[i].head);
}

static void list_late(struct fh_scan *scan)
{
    for (const struct fh_run *run = atomic_load_explicit(&fh_root.late, memory_order_acquire);
         run != NULL; run = atomic_load_explicit(&run->inbox_next, memory_order_relaxed))
        fh_scan_not_live(scan, run->base);
}

static void list_blocks(struct fh_scan *scan)
{
    list_pool(scan, &fh_pages_main);
    for (struct fh_pages *pages = fh_pages_private(NULL); pages != NULL;
         pages = fh_pages_private(pages)) {
        list_pool(scan, pages);
        fh_scan_exclude(scan, pages->base,
                        pages->base + ((uintptr_t)pages->limit << FH_GRANULE_SHIFT));
    }
    for (const struct fh_heap *heap = fh_root.heaps; heap != NULL; heap = heap->next)
        list_heap(scan, heap);
    list_late(scan);
    uintptr_t low, high;
    if (fh_emergency_range(&low, &high))
        fh_scan_add_root(scan, low, high);
}

static bool is_helper(int tid)
{
    return atomic_load_explicit(&fh_root.helper_tid, memory_order_relaxed) == tid;
}

struct fh_scan_owner fh_heap_scanned = {
    .name = "heap",
    .hold = fh_heaps_hold,
    .release = fh_heaps_release,
    .list = list_blocks,
    .is_helper = is_helper,
};
