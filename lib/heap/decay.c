/*
 * Decay: memory that stays free is given back, without anybody calling.
 *
 * Who does it. The *helper* is a raw clone that exists only while there is something to wait for:
 * it is started by a free when enough has become free, wakes up four times per decay period, and
 * ends when nothing is left to do. It shares the thread-local storage of nobody: no libc, no errno,
 * no malloc here. Owners that are busy purge their own runs at a heartbeat when the helper has
 * asked them to (is_decay_due).
 *
 * Which pages. Pages of a run that are in memory but not carved, from an earlier life of the
 * granule, go when the run is four ticks old. A run is *quiet* when its count of used blocks has
 * not changed for four ticks. Quiet runs with free blocks lose the pages in which every block is
 * free (run.c). Free spans of the page pool go when they are four ticks old.
 *
 * Whose runs: the hand-over protocol. Owners push to run->local and pop bins without locks, so the
 * helper may touch a thread's run only when that thread is certainly not in the middle of a fast
 * path, and can't get into one unnoticed:
 *
 *   1. take the heap's lock (the owner's slow path waits for it; its quick refill checks the owner
 *      field);
 *   2. borrow: run->key = FH_KEY_NOBODY for a batch of quiet runs;
 *   3. a full barrier on all threads (membarrier);
 *   4. ask the kernel whether the thread is blocked in a system call (/proc/self/task/TID/syscall).
 *      If it is, it was in no fast path at that moment, and whatever it does later sees the owner
 *      field of step 2 (the kernel's way back to user mode orders it): its free fails the owner
 *      comparison and waits for the lock. If it is not: put the owner back, ask it to do it itself;
 *   5. purge; put the owner back; release the lock.
 *
 * depth > 0 says that a signal handler interrupted our code, or that the thread is in its slow
 * path's own system call: step 4's answer means nothing then, and the heap is left alone. Model:
 * models/handover.pml.
 */
#include "base/message.h"
#include "heap/heap.h"
#include "os/sys.h"

#include <errno.h>

#define TICKS_TO_DECAY 4u
#define QUIET_DONE     250u              /* purged already: nothing to do until it changes */
#define START_BYTES    ((size_t)1 << 20) /* less than this is not worth a helper */
/* runs borrowed at a time: the owner waits some 0.2 ms at most */
#define BATCH          64u
#define STACK_BYTES    ((size_t)32 << 10)
#define IDLE_TICKS     2u
/* a thread that never blocks, or can't be asked (after setuid): left to itself */
#define VAIN_TICKS     20u

static struct {
    struct fh_lock lock;      /* held by the helper while it works: fork waits for it */
    _Atomic size_t freed;     /* bytes that became free since the helper last looked */
    _Atomic uint32_t running; /* 1: a helper runs or is being started */
    _Atomic uint32_t alive;   /* the kernel clears it when the clone has ended */
    _Atomic(void *) stack;
    _Atomic uint32_t stops; /* > 0: no helper may run */
    _Atomic uint32_t bell;  /* changes when the helper shall look at `stops` */
} decay = {.lock = FH_LOCK_INIT};

static void helper_main(void *unused);

static void start_helper(void)
{
    uint32_t none = 0;
    /* seq_cst pairs with the helper's last look at `freed` after it cleared `running`: one of us
     * sees the other. */
    if (!atomic_compare_exchange_strong(&decay.running, &none, 1))
        return;
    /* seq_cst pairs with fh_decay_stop: one of us sees the other. */
    if (atomic_load(&decay.stops) != 0) {
        atomic_store(&decay.running, 0);
        return;
    }
    fh_locks_register(&decay.lock, FH_FLOOR_HELPER);
    void *stack = atomic_load_explicit(&decay.stack, memory_order_relaxed);
    if (stack == NULL) {
        stack = fh_meta_map(STACK_BYTES);
        atomic_store_explicit(&decay.stack, stack, memory_order_relaxed);
    }
    /* The previous one may still be on its way out, on the same stack. */
    for (int i = 0; i < 100 && atomic_load_explicit(&decay.alive, memory_order_acquire) != 0; i++)
        fh_os_sleep_ns(20000);
    if (stack == NULL || atomic_load_explicit(&decay.alive, memory_order_acquire) != 0 ||
        fh_os_helper_start(helper_main, NULL, stack, STACK_BYTES, &decay.alive) < 0)
        atomic_store(&decay.running, 0);
}

void fh_decay_wanted(struct fh_heap *heap, size_t bytes)
{
    if (heap != NULL) { /* gathered, so that the shared counter is not touched at each turn of a run
                         * */
        heap->freed += bytes;
        if (heap->freed < START_BYTES / 4)
            return;
        bytes = heap->freed;
        heap->freed = 0;
    }
    size_t freed = atomic_fetch_add(&decay.freed, bytes) + bytes;
    if (FH_LIKELY(freed < START_BYTES ||
                  atomic_load_explicit(&decay.running, memory_order_relaxed) != 0))
        return;
    if (atomic_load_explicit(&fh_root.settings.decay_ms, memory_order_relaxed) < 0)
        return;
    if (atomic_load_explicit(&decay.stops, memory_order_relaxed) != 0)
        return;
    /* A vfork child works in this memory, but its helper would be its own thread and die with it.
     * */
    if (fh_os_getpid() == fh_root.pid)
        start_helper();
}

/* After a fork there is one thread. */
void fh_decay_forked(void)
{
    fh_lock_reset(&decay.lock);
    if (!atomic_load_explicit(&fh_root.is_confined, memory_order_relaxed))
        atomic_store(&decay.stops, 0); /* whoever stopped it stayed in the parent */
    atomic_store(&decay.running, 0);
    atomic_store(&decay.alive, 0);
    atomic_store(&decay.stack, NULL); /* the parent's helper was in the middle of it; 32 KiB of
                                       * addresses */
}

/* ---- callers who must be the only thread ----------------------------------------------------- */

#define STOP_WAIT_NS 2000000000ull

bool fh_decay_stop(void)
{
    if (atomic_load_explicit(&fh_root.started, memory_order_acquire) != 1 ||
        fh_os_getpid() != fh_root.pid)
        return false;
    atomic_fetch_add(&decay.stops, 1);
    uint64_t begin = fh_os_now_ns();
    /* Somebody may just be starting it: `running` says so before `alive` does. */
    while (atomic_load(&decay.running) != 0 || atomic_load(&decay.alive) != 0) {
        atomic_fetch_add(&decay.bell, 1);
        fh_lock_wake_hook(&decay.bell, 1);
        if (!fh_os_helper_wait(&decay.alive, 1000000) && fh_os_now_ns() - begin > STOP_WAIT_NS)
            break;
        if (atomic_load(&decay.running) != 0)
            fh_os_sleep_ns(20000);
        if (fh_os_now_ns() - begin > STOP_WAIT_NS)
            break; /* a signal handler interrupted who was starting it: better go on than hang */
    }
    return true;
}

void fh_decay_resume(void)
{
    /* Before the last one leaves: what became free meanwhile, or was left by the helper that was
     * ended. */
    if (atomic_fetch_sub(&decay.stops, 1) == 1 &&
        atomic_load_explicit(&fh_root.settings.decay_ms, memory_order_relaxed) >= 0) {
        struct fh_heap *before = fh_busy_begin();
        start_helper();
        fh_busy_end(before);
    }
}

void fh_decay_confine(void)
{
    atomic_store(&decay.stops, 1u << 30);
    atomic_store_explicit(&fh_root.is_confined, true, memory_order_relaxed);
}

/* ---- one heap -------------------------------------------------------------------------------- */

static uint16_t fingerprint(const struct fh_run *run)
{
    return (uint16_t)(fh_run_used(run) * 31u + run->available);
}

/* Notes one more quiet tick, or a change. Reads what the owner may be writing: a torn look costs a
 * tick. */
static void observe(struct fh_run *run, bool *is_pending)
{
    uint16_t now = fingerprint(run);
    if (now != run->seen) {
        run->seen = now;
        run->quiet = 0;
    } else if (run->quiet < QUIET_DONE - 1) {
        run->quiet++;
    }
    if (run->quiet < TICKS_TO_DECAY &&
        (run->available > fh_run_used(run) || run->state == FH_STATE_EMPTY))
        *is_pending = true;
}

static bool is_ripe(const struct fh_run *run, unsigned ticks)
{
    if (run->kind != FH_RUN_BLOCKS || run->quiet < ticks || run->quiet >= QUIET_DONE)
        return false;
    bool has_free =
        (size_t)(run->available - fh_run_used(run)) * run->block_size >= fh_os_page_size;
    return run->state != FH_STATE_FULL && (has_free || (run->dirty & ~run->carved) != 0);
}

/* Heap locked and the run ours to touch. */
static size_t purge_run(struct fh_heap *heap, struct fh_run *run)
{
    size_t given = fh_run_purge(heap, run);
    run->seen = fingerprint(run);
    run->quiet = QUIET_DONE;
    if (run->state == FH_STATE_EMPTY) {
        if (atomic_load_explicit(&run->remote, memory_order_relaxed) == 0) {
            fh_queue_remove(heap, run);
            fh_run_release(heap, run);
        }
    } else if (run->state == FH_STATE_PARTIAL && run->local == NULL) {
        uint32_t used = fh_run_used(run);
        fh_queue_remove(heap, run);
        run->countdown = 1;
        run->used_floor = used - 1;
        fh_queue_push(heap, run, FH_STATE_FRESH);
    }
    return given;
}

/* Runs of a heap that nobody else can touch now: shared, abandoned, or the caller's own. Heap
 * locked. */
static size_t purge_mine(struct fh_heap *heap, unsigned ticks, unsigned at_most)
{
    size_t given = 0;
    for (uint32_t index = heap->all_first; index != FH_NO_RUN && at_most > 0;) {
        struct fh_run *run = fh_run_at(heap->pages, index);
        index = run->heap_next;
        if (is_ripe(run, ticks)) {
            given += purge_run(heap, run);
            at_most--;
        }
    }
    return given;
}

void fh_decay_owner(struct fh_heap *heap)
{
    atomic_store_explicit(&heap->is_decay_due, false, memory_order_relaxed);
    purge_mine(heap, TICKS_TO_DECAY, BATCH);
}

/* Steps 3 and 4 of the hand-over. The count of interruptions is read on both sides of the question:
 * a handler that interrupted a
 * fast path may be what blocks, and be over before we look at depth. */
static bool stands_still(struct fh_heap *heap)
{
    atomic_thread_fence(memory_order_seq_cst);
    fh_os_membarrier();
    uint32_t interruptions = atomic_load_explicit(&heap->interruptions, memory_order_seq_cst);
    return atomic_load_explicit(&heap->depth, memory_order_seq_cst) == 0 &&
           fh_os_thread_in_syscall(heap->tid) &&
           atomic_load_explicit(&heap->depth, memory_order_seq_cst) == 0 &&
           atomic_load_explicit(&heap->interruptions, memory_order_seq_cst) == interruptions;
}

/* Borrows up to BATCH ripe runs of another thread's heap, from *index on, if that thread stands
 * still in the kernel. Heap locked. */
static size_t purge_lent(struct fh_heap *heap, unsigned ticks, uint32_t *index, bool *is_busy)
{
    struct fh_run *lent[BATCH];
    unsigned count = 0;
    for (; *index != FH_NO_RUN && count < BATCH;) {
        struct fh_run *run = fh_run_at(heap->pages, *index);
        *index = run->heap_next;
        if (!is_ripe(run, ticks))
            continue;
        lent[count++] = run;
        atomic_store_explicit(&run->key, FH_KEY_NOBODY, memory_order_seq_cst);
    }
    if (count == 0)
        return 0;
    size_t given = 0;
    if (stands_still(heap)) {
        /* A run that becomes empty leaves the heap: its owner field is then the pool's. */
        for (unsigned i = 0; i < count; i++) {
            struct fh_run *run = lent[i];
            given += purge_run(heap, run);
            if (run->kind == FH_RUN_BLOCKS && run->heap == heap)
                fh_run_set_owner(heap, run);
        }
    } else {
        *is_busy = true;
        for (unsigned i = 0; i < count; i++)
            fh_run_set_owner(heap, lent[i]);
    }
    return given;
}

static size_t purge_heap(struct fh_heap *heap, unsigned ticks, bool *is_pending)
{
    size_t given = 0;
    uintptr_t thread = atomic_load_explicit(&heap->thread, memory_order_relaxed);
    if (thread == 0) {
        if (!fh_lock_try(&heap->lock)) {
            *is_pending = true;
            return 0;
        }
        /* A thread may have adopted it meanwhile: then it is not ours to touch. */
        if (atomic_load_explicit(&heap->thread, memory_order_relaxed) == 0) {
            if (ticks == 0 || heap->orphan_ticks >= TICKS_TO_DECAY) { /* nobody adopted it */
                fh_heap_unbin(heap);
            } else {
                heap->orphan_ticks++;
                *is_pending |= heap->all_first != FH_NO_RUN;
            }
            fh_heap_collect_inbox(heap);
            given = purge_mine(heap, ticks, ~0u);
        }
        fh_lock_release(&heap->lock);
        return given;
    }
    uint32_t index = FH_NO_RUN;
    bool is_busy = false, is_first = true;
    do {
        if (!fh_lock_try(&heap->lock)) {
            *is_pending = true;
            return given;
        }
        if (atomic_load_explicit(&heap->thread, memory_order_relaxed) != thread ||
            !fh_heap_collect_lent(heap, stands_still)) {
            fh_lock_release(&heap->lock);
            *is_pending = true;
            return given;
        }
        if (is_first)
            index = heap->all_first;
        else if (fh_run_at(heap->pages, index)->kind != FH_RUN_BLOCKS ||
                 fh_run_at(heap->pages, index)->heap != heap)
            index = FH_NO_RUN; /* the list changed between two batches: the next tick does the rest
                                * */
        is_first = false;
        given += purge_lent(heap, ticks, &index, &is_busy);
        fh_lock_release(&heap->lock);
    } while (index != FH_NO_RUN && !is_busy);
    if (is_busy) {
        atomic_store_explicit(&heap->is_decay_due, true, memory_order_relaxed);
        *is_pending = true;
    }
    return given;
}

static void observe_heap(struct fh_heap *heap, bool *is_pending)
{
    if (!fh_lock_try(&heap->lock)) {
        *is_pending = true;
        return;
    }
    unsigned left = BATCH;
    if (atomic_load_explicit(&heap->inbox, memory_order_relaxed) != NULL &&
        heap->all_first != FH_NO_RUN)
        *is_pending = true;
    for (uint32_t index = heap->all_first; index != FH_NO_RUN;) {
        struct fh_run *run = fh_run_at(heap->pages, index);
        index = run->heap_next;
        if (run->kind != FH_RUN_BLOCKS)
            continue;
        if (run->state != FH_STATE_FULL)
            observe(run, is_pending);
        if ((run->dirty & ~run->carved) == 0)
            continue;
        /* Carving is done under the lock that we hold, so this needs nobody to stand still. */
        if (run->epoch >= TICKS_TO_DECAY && left > 0) {
            fh_run_purge_uncarved(heap, run);
            left--;
        } else {
            run->epoch = (uint8_t)(run->epoch + (run->epoch < TICKS_TO_DECAY));
            *is_pending = true;
        }
    }
    fh_lock_release(&heap->lock);
}

/* One tick's work; true when there is a reason for another tick. Adds the time that went into
 * looking. */
static bool work(uint64_t *looking)
{
    bool is_pending = false;
    size_t remaining = 0;
    fh_lock_acquire(&decay.lock);
    atomic_store(&decay.freed, 0);
    atomic_fetch_add_explicit(&fh_pages_main.tick, 1, memory_order_relaxed);
    if (fh_lock_try(&fh_root.heaps_lock)) {
        for (struct fh_heap *heap = fh_root.heaps; heap != NULL; heap = heap->next) {
            if (heap->own_pages != NULL)
                continue; /* its purge is a caller's function: not for a thread without libc */
            uint64_t begin = fh_os_now_ns();
            observe_heap(heap, &is_pending);
            *looking += fh_os_now_ns() - begin;
            purge_heap(heap, TICKS_TO_DECAY, &is_pending);
        }
        fh_lock_release(&fh_root.heaps_lock);
    } else {
        is_pending = true;
    }
    fh_pages_purge(&fh_pages_main, TICKS_TO_DECAY, 0, &remaining);
    fh_lock_release(&decay.lock);
    return is_pending || remaining > 0;
}

static void helper_main(void *unused)
{
    (void)unused;
    atomic_store_explicit(&fh_root.helper_tid, fh_os_gettid(), memory_order_relaxed);
    unsigned idle = 0, vain = 0;
    uint64_t pause = 0;
    for (;;) {
        int decay_ms = atomic_load_explicit(&fh_root.settings.decay_ms, memory_order_relaxed);
        if (decay_ms >= 0) {
            uint64_t tick = (uint64_t)decay_ms * 1000000 / TICKS_TO_DECAY;
            uint32_t bell = atomic_load(&decay.bell);
            if (atomic_load(&decay.stops) == 0)
                fh_lock_wait_hook(&decay.bell, bell,
                                  tick < 5000000 ? 5000000
                                  : tick > pause ? tick
                                                 : pause);
            if (atomic_load(&decay.stops) != 0) {
                atomic_store(&decay.running, 0);
                return;
            }
            uint64_t looking = 0;
            uint64_t given = atomic_load_explicit(&fh_pages_main.purged, memory_order_relaxed);
            bool has_news = atomic_load(&decay.freed) != 0;
            idle = work(&looking) ? 0 : idle + 1;
            has_news |= atomic_load_explicit(&fh_pages_main.purged, memory_order_relaxed) != given;
            vain = has_news ? 0 : vain + 1;
            if (vain >= VAIN_TICKS)
                idle = IDLE_TICKS;
            /* Looking (not giving back) may cost 5 % of a core; with very many runs the ticks get
             * longer, up to twice. */
            pause = looking * 20 < 2 * tick ? looking * 20 : 2 * tick;
        } else {
            idle = IDLE_TICKS;
        }
        if (idle < IDLE_TICKS)
            continue;
        atomic_store(&decay.running, 0);
        uint32_t none = 0;
        /* Somebody may have freed a lot between our last look and the store. */
        if (decay_ms < 0 || atomic_load(&decay.freed) < START_BYTES ||
            !atomic_compare_exchange_strong(&decay.running, &none, 1))
            return;
        idle = vain = 0;
    }
}

/* ---- on request ------------------------------------------------------------------------------ */

size_t fh_decay_all(size_t keep)
{
    size_t given = 0;
    bool is_pending = false;
    struct fh_heap *mine = fh_heap_current;
    uintptr_t me = fh_thread_pointer();
    if (atomic_load_explicit(&fh_root.started, memory_order_acquire) != 1)
        return 0;
    if (fh_is_inside(mine))
        return 0;
    struct fh_heap *before = fh_busy_begin();
    fh_large_free_late();
    if (mine != &fh_heap_none)
        fh_remote_flush(mine);
    fh_lock_acquire(&fh_root.heaps_lock);
    for (struct fh_heap *heap = fh_root.heaps; heap != NULL; heap = heap->next) {
        /* The caller's own, first-class ones with is_single_thread among them. */
        if (atomic_load_explicit(&heap->thread, memory_order_relaxed) == me) {
            fh_lock_acquire(&heap->lock);
            fh_heap_collect_inbox(heap);
            for (uint32_t index = heap->all_first; index != FH_NO_RUN;) {
                struct fh_run *run = fh_run_at(heap->pages, index);
                index = run->heap_next;
                run->quiet =
                    run->quiet >= QUIET_DONE && fingerprint(run) != run->seen ? 0 : run->quiet;
            }
            given += purge_mine(heap, 0, ~0u);
            fh_lock_release(&heap->lock);
        } else {
            given += purge_heap(heap, 0, &is_pending);
        }
        if (heap->own_pages != NULL) /* it can't be destroyed while we hold the list's lock */
            given += fh_pages_purge(heap->own_pages, 0, 0, NULL);
    }
    fh_lock_release(&fh_root.heaps_lock);
    given += fh_pages_purge(&fh_pages_main, 0, keep, NULL);
    fh_busy_end(before);
    return given;
}

size_t fh_heap_trim(size_t keep)
{
    return fh_decay_all(keep);
}
