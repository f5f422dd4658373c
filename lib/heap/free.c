/*
 * The slow ways of free: where a block goes when the fast path did not take it, and what happens to
 * its run then.
 *
 * Who comes here: blocks of other threads' runs (remote.c), of shared heaps (lock), of runs of
 * several granules (the offset needs a real division), large blocks, runs that are lent to the
 * decay helper, heaps that are observed or checked, and every pointer that is no block at all.
 *
 * A run's way through its states (heap locked):
 *
 *     CURRENT --drained--> FULL or FRESH --a free--> PARTIAL --taken by a refill--> CURRENT
 *                                                    PARTIAL --all free--> EMPTY --> another class,
 *                                                    or the page pool
 *
 * The countdown brings the owner here at the first free of a full run and at the last free of a
 * partial one; all frees between cost a decrement.
 *
 * A handful of empty runs are kept by the heap (EMPTY_KEPT) so that a class that comes and goes
 * does not take the pool's lock each time; the others go to the pool.
 */
#include "base/message.h"
#include "freehold/event.h"
#include "heap/fast.h"
#include "heap/heap.h"
#include "os/sys.h"

#include <string.h>

#define EMPTY_KEPT_ONE  8u /* 512 KiB of runs of one granule */
#define EMPTY_KEPT_FOUR 2u /* 512 KiB of runs of four */

/* ---- runs ------------------------------------------------------------------------------------ */

void fh_run_emptied(struct fh_heap *heap, struct fh_run *run)
{
    run->countdown = run->used_floor = 0;
    /* A poke on its way: the run must not leave the heap before it is collected. */
    bool is_expected = atomic_load_explicit(&run->remote, memory_order_relaxed) != 0;
    if (is_expected ||
        heap->empty_count[run->span != 1] < (run->span == 1 ? EMPTY_KEPT_ONE : EMPTY_KEPT_FOUR))
        fh_queue_push(heap, run, FH_STATE_EMPTY);
    else
        fh_run_release(heap, run);
}

void fh_run_settle(struct fh_heap *heap, struct fh_run *run)
{
    uint32_t used = fh_run_used(run);
    switch (run->state) {
    case FH_STATE_FULL:
    case FH_STATE_FRESH:
        if (run->local == NULL) { /* a poke without a block */
            run->countdown = 1;
            run->used_floor = used - 1;
            return;
        }
        fh_decay_wanted(heap, (size_t)run->span << FH_GRANULE_SHIFT);
        fh_queue_remove(heap, run);
        run->countdown = used;
        run->used_floor = 0;
        if (used == 0)
            fh_run_emptied(heap, run);
        else
            fh_queue_push(heap, run, FH_STATE_PARTIAL);
        return;
    case FH_STATE_PARTIAL:
        if (used == 0) {
            /* It was announced when its first block came free; the helper may have looked and ended
             * since. */
            fh_decay_wanted(heap, (size_t)run->span << FH_GRANULE_SHIFT);
            fh_queue_remove(heap, run);
            fh_run_emptied(heap, run);
        }
        return;
    default:
        return;
    }
}

FH_FAST void fh_free_event(struct fh_run *run)
{
    struct fh_heap *heap = run->heap;
    if (run->state == FH_STATE_CURRENT)
        return; /* its bin's list is used up and all came back: the next refill takes them */
    if (atomic_load_explicit(&heap->depth, memory_order_relaxed) != 0) {
        fh_run_poke(run); /* a signal handler in the middle of our slow path */
        return;
    }
    atomic_store_explicit(&heap->depth, 1, memory_order_relaxed);
    fh_lock_acquire(&heap->lock);
    fh_run_settle(heap, run);
    fh_lock_release(&heap->lock);
    fh_depth_leave(heap);
}

static uint64_t canary_of(const void *block)
{
    return (fh_root.canary_secret ^ (uintptr_t)block) * 0x9e3779b97f4a7c15u;
}

void fh_canary_write(const struct fh_heap *heap, const struct fh_run *run, void *block)
{
    unsigned bytes = heap->options.canary_bytes;
    uint64_t word[2] = {canary_of(block), ~canary_of(block)};
    size_t size = run->kind == FH_RUN_LARGE ? run->large_bytes : run->block_size;
    memcpy((char *)block + size - bytes, word, bytes);
}

static bool canary_is_whole(const struct fh_heap *heap, const struct fh_run *run, const void *block)
{
    unsigned bytes = heap->options.canary_bytes;
    uint64_t word[2] = {canary_of(block), ~canary_of(block)};
    size_t size = run->kind == FH_RUN_LARGE ? run->large_bytes : run->block_size;
    return memcmp((const char *)block + size - bytes, word, bytes) == 0;
}

void fh_run_put_back(struct fh_heap *heap, struct fh_run *run, void *block)
{
    if (fh_run_used(run) == 0 || run->local == block) {
        fh_report("double-free", block, "the block is free already");
        return;
    }
    fh_set_next(block, run->local);
    run->local = block;
    if (--run->countdown == 0)
        fh_run_settle(heap, run);
}

/* ---- pointers -------------------------------------------------------------------------------- */

struct fh_run *fh_block_run(const void *p, struct fh_pages **pages)
{
    struct fh_run *run = fh_pages_find(p, pages);
    if (run == NULL)
        return NULL;
    size_t offset = (uintptr_t)p - run->base;
    if (run->kind == FH_RUN_LARGE)
        return offset == 0 ? run : NULL;
    return fh_run_begins_block(run, offset) && offset < (size_t)run->capacity * run->block_size
               ? run
               : NULL;
}

/* Reports a pointer that is no block, when it can only be one of ours gone wrong; false: it is
 * somebody else's. */
FH_COLD bool fh_report_own(const void *p)
{
    struct fh_run *run = fh_pages_find(p, NULL);
    if (run != NULL) {
        struct fh_block block;
        bool is_inside = run->manager->resolve(run, (uintptr_t)p, &block);
        fh_report(is_inside && block.address != p ? "interior-free" : "invalid-free", p,
                  is_inside ? "inside a block, not its beginning"
                            : "in a run, but in none of its blocks");
        return true;
    }
    const struct fh_run *granule = fh_window_run(&fh_pages_main.window, p);
    if (!fh_pages_contain(&fh_pages_main, p) ||
        fh_run_index(&fh_pages_main, granule) < fh_pages_main.first ||
        fh_run_index(&fh_pages_main, granule) >= fh_pages_main.top)
        return false;
    fh_report("double-free", p, "in memory that is free already");
    return true;
}

static FH_COLD void fh_free_nothing(void *p)
{
    fh_start(); /* nothing was allocated yet? The settings say what to do with somebody else's
                 * pointer */
    if (fh_emergency_owns(p))
        fh_emergency_free(p);
    else if (!fh_report_own(p))
        fh_report_foreign(p);
}

static void free_checked(struct fh_heap *heap, struct fh_run *run, void *block, bool is_final)
{
    if (heap->options.canary_bytes != 0 && !canary_is_whole(heap, run, block)) {
        fh_report("heap-buffer-overflow", block, "the canary behind the block was overwritten");
        return;
    }
    if (!is_final && heap->options.quarantine != NULL &&
        heap->options.quarantine(heap->options.quarantine_context, block, fh_run_usable(run)))
        return;
    if (run->kind == FH_RUN_LARGE) {
        fh_all_unlink(heap, run);
        heap->run_granules -= run->span;
        fh_large_free(heap->pages, run);
    } else {
        fh_run_put_back(heap, run, block);
    }
}

/* A thread that has no heap yet gets one: its depth tells signal handlers. Where there is no memory
 * for one, the current heap
 * does (fh_busy_begin), and is put back here. */
void fh_heap_lock(struct fh_heap *heap)
{
    if (FH_UNLIKELY(fh_heap_current == &fh_heap_emergency))
        fh_handler_settle();
    if (FH_UNLIKELY(fh_heap_current == &fh_heap_none))
        fh_heap_thread();
    fh_busy_begin();
    fh_lock_acquire(&heap->lock);
}

void fh_heap_unlock(struct fh_heap *heap)
{
    fh_lock_release(&heap->lock);
    bool was_none = fh_heap_current == &fh_heap_emergency && !fh_handler_is_under_way();
    fh_busy_end(was_none ? &fh_heap_none : fh_heap_current);
}

static void free_first_class(struct fh_heap *heap, struct fh_run *run, void *block, bool is_final)
{
    fh_heap_lock(heap);
    free_checked(heap, run, block, is_final);
    fh_heap_unlock(heap);
}

void fh_heap_release_quarantined(struct fh_heap *heap, void *block)
{
    struct fh_run *run = fh_block_run(block, NULL);
    if (run == NULL || run->heap != heap) {
        fh_free_nothing(block);
        return;
    }
    free_first_class(heap, run, block, true);
}

/* In a handler that interrupted us, or nested in our own slow path: no lock, no list of this
 * thread. */
static FH_COLD void free_inside(struct fh_run *run, void *block)
{
    if (run->kind == FH_RUN_LARGE && run->heap == NULL)
        fh_large_free_later(run);
    else if (run->kind == FH_RUN_LARGE)
        free_first_class(run->heap, run, block, false);
    else
        fh_remote_push(run, block, block, 1);
}

FH_FAST void fh_free_slow(void *block)
{
    if (block == NULL)
        return;
    if (fh_is_guarded(fh_heap_current))
        fh_guarded_free(block);
    else
        fh_free_unguarded(block);
}

FH_FAST void fh_free_unguarded(void *block)
{
    struct fh_heap *current = fh_heap_current;
    if (FH_UNLIKELY(current == &fh_heap_emergency))
        current = fh_handler_settle();
    fh_window_open(&fh_free_window);
    struct fh_pages *pages = &fh_pages_main;
    struct fh_run *run = fh_run_quickly(block);
    if (run == NULL) {
        if (!fh_is_guarded(current) && fh_is_modes(block)) {
            fh_guarded_free(block);
            return;
        }
        run = fh_block_run(block, &pages);
    }
    if (FH_UNLIKELY(run == NULL)) {
        fh_free_nothing(block);
        return;
    }
    if (fh_event_is_heard())
        fh_event_tell(FH_EVENT_FREE, block, NULL, 0, fh_run_usable(run),
                      __builtin_return_address(0));
    struct fh_heap *heap = run->heap;
    if (FH_UNLIKELY(fh_is_inside(current))) {
        free_inside(run, block);
        return;
    }
    if (run->kind == FH_RUN_LARGE) {
        if (heap != NULL) {
            free_first_class(heap, run, block, false);
            return;
        }
        current = fh_busy_begin();
        fh_large_free_late();
        fh_large_free(pages, run);
        fh_busy_end(current);
        return;
    }
    uintptr_t me = fh_thread_pointer();
    if (fh_run_is_mine(run)) {
        if (run->local == block) {
            fh_report("double-free", block, "the block was the last one freed");
            return;
        }
        fh_set_next(block, run->local);
        run->local = block;
        if (--run->countdown == 0)
            fh_free_event(run);
        return;
    }
    if (heap->modes & FH_HEAP_SHARED) {
        free_first_class(heap, run, block, false);
        return;
    }
    bool is_mine = atomic_load_explicit(&heap->thread, memory_order_relaxed) == me;
    if (is_mine && atomic_load_explicit(&heap->depth, memory_order_relaxed) == 0) {
        /* Lent to the helper (the lock waits for it), or observed, or checked. */
        free_first_class(heap, run, block, false);
        return;
    }
    fh_remote_free(run, block);
}

FH_FAST void fh_free_any(void *block)
{
    fh_free_fast(&fh_free_window, block);
}

void fh_heap_free(struct fh_heap *heap, void *block)
{
    if (block == NULL)
        return;
    if (heap->own_pages != NULL && fh_pages_find_in(heap->own_pages, block) == NULL) {
        fh_free_nothing(block);
        return;
    }
    fh_free_any(block);
}
