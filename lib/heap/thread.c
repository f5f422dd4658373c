/*
 * Heaps and threads: start-up, a thread's first allocation, its end, adoption, fork.
 *
 * Start. Whoever allocates first opens the page pool and registers for fork and thread end. It may
 * be a constructor of a library loaded before us, so nothing here relies on constructors.
 *
 * A thread's heap is made at its first allocation: an orphan if there is one, else a new struct.
 * When the thread ends (a pthread key's destructor) the heap is *abandoned*: batches are sent, the
 * runs get a key that nobody fits, and it waits in root.orphans, its active lists as they were: a
 * thread that adopts it whole begins with full bins. A thread that allocates after that, in a later
 * destructor, gets a heap again and the key is set again; if glibc runs no more destructors, that
 * heap stays with the thread pointer of a dead thread, and the next thread with that pointer (glibc
 * reuses stacks) finds and takes it.
 *
 * A live thread that needs a new run takes over the runs of an orphan instead (merge; active lists
 * go back to their runs first); the husk stays in the list of heaps and serves a later thread.
 * Blocks sent to the husk's inbox by somebody who read run->heap just before are sent on by whoever
 * drains that inbox.
 *
 * Fork. Prepare takes every lock: the list of heaps, then each heap, then the rooms' below. The
 * child has one thread: the heaps of the others are abandoned there. What those threads were doing
 * in their fast paths is cut off between two instructions; at worst a block is in no list any more
 * (lost in the child), never in two.
 */
#include "heap/heap.h"
#include "os/sys.h"
#include "scan/scan.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

struct fh_root fh_root = {
    .settings = {.decay_ms = 500},
};

struct fh_heap fh_heap_none = {.modes = FH_HEAP_NONE, .gap = FH_GAP_NEVER};
struct fh_heap fh_heap_emergency = {.modes = FH_HEAP_NONE, .gap = FH_GAP_NEVER};
__thread struct fh_heap *fh_heap_current __attribute__((tls_model("initial-exec"))) = &fh_heap_none;

/* A program whose threads come and go gives the heap of one to the next; merging it meanwhile would
 * make the next begin
 * with nothing, and the runs of few blocks would become more and more. */
#define MERGE_AFTER_NS 100000000u

static pthread_key_t end_key;
static bool has_end_key;

/* Nobody's any more, though its runs and blocks stay as they are. */
void fh_heap_condemn(struct fh_heap *heap)
{
    heap->all_first = FH_NO_RUN;
    atomic_store_explicit(&heap->thread, FH_THREAD_CONDEMNED, memory_order_relaxed);
}

/* ---- heaps ----------------------------------------------------------------------------------- */

struct fh_heap *fh_heap_struct(void)
{
    fh_lock_acquire(&fh_root.heaps_lock);
    struct fh_heap *heap = fh_root.spare;
    if (heap != NULL)
        fh_root.spare = heap->next;
    fh_lock_release(&fh_root.heaps_lock);
    if (heap == NULL)
        heap = fh_meta_alloc(sizeof *heap);
    else
        memset(heap, 0, sizeof *heap);
    return heap;
}

void fh_heap_init(struct fh_heap *heap, struct fh_pages *pages)
{
    heap->pages = pages;
    heap->gap = FH_GAP_NEVER;
    heap->options.size = sizeof heap->options;
    bool is_confined = atomic_load_explicit(&fh_root.is_confined, memory_order_relaxed);
    fh_random_seed(&heap->random,
                   is_confined ? fh_root.canary_secret ^ (uintptr_t)heap : fh_os_random());
    fh_lock_acquire(&fh_root.heaps_lock);
    heap->settings_seen = atomic_load_explicit(&fh_root.settings.generation, memory_order_relaxed);
    heap->next = fh_root.heaps;
    fh_root.heaps = heap;
    fh_lock_release(&fh_root.heaps_lock);
}

/* The active list of each bin goes back to its run; no bin has a run any more. */
void fh_heap_unbin(struct fh_heap *heap)
{
    for (unsigned i = 0; i < FH_CLASS_COUNT; i++) {
        struct fh_bin *bin = &heap->bins[i];
        struct fh_class_queue *queue = &heap->queues[i];
        void *list = bin->free != NULL ? bin->free : queue->held;
        struct fh_run *run = bin->run;
        bin->free = queue->held = NULL;
        bin->run = NULL;
        if (run == NULL)
            continue;
        uint32_t count = 0;
        void *tail = NULL;
        for (void *block = list; block != NULL; block = fh_next(block), count++)
            tail = block;
        queue->handed -= count;
        if (tail != NULL) {
            fh_set_next(tail, run->local);
            run->local = list;
        }
        uint32_t used = fh_run_used(run) - count;
        run->countdown = used;
        run->used_floor = 0;
        if (run->local == NULL) {
            run->countdown = 1;
            run->used_floor = used - 1;
            fh_queue_push(heap, run, fh_run_can_carve(heap, run) ? FH_STATE_FRESH : FH_STATE_FULL);
        } else if (used == 0) {
            fh_run_emptied(heap, run);
        } else {
            fh_queue_push(heap, run, FH_STATE_PARTIAL);
        }
    }
}

static void set_owner_of_all(struct fh_heap *heap)
{
    for (uint32_t index = heap->all_first; index != FH_NO_RUN;) {
        struct fh_run *run = fh_run_at(heap->pages, index);
        index = run->heap_next;
        if (run->kind == FH_RUN_BLOCKS)
            fh_run_set_owner(heap, run);
    }
}

/* Heap locked; nobody runs on it (any more). Its bins stay as they are for the thread that adopts
 * it; who merges or purges it
 * empties them first. */
static void orphan(struct fh_heap *heap)
{
    atomic_store_explicit(&heap->thread, 0, memory_order_relaxed); /* tid stays, for statistics */
    set_owner_of_all(heap);
    fh_heap_collect_inbox(heap);
    heap->orphaned_ns = fh_os_now_ns();
    fh_lock_acquire(&fh_root.orphans_lock);
    heap->next_orphan = fh_root.orphans;
    fh_root.orphans = heap;
    if (heap->all_first != FH_NO_RUN)
        atomic_fetch_add_explicit(&fh_root.orphans_with_runs, 1, memory_order_relaxed);
    fh_lock_release(&fh_root.orphans_lock);
}

/* Takes an orphan off the list: for a new thread any, best one with runs; for a merge one with runs
 * for which no thread has come for a while. */
static struct fh_heap *pop_orphan(bool is_merge)
{
    uint64_t now = is_merge ? fh_os_now_ns() : 0;
    fh_lock_acquire(&fh_root.orphans_lock);
    struct fh_heap **link = &fh_root.orphans, **any = link;
    while (*link != NULL && ((*link)->all_first == FH_NO_RUN ||
                             (is_merge && now - (*link)->orphaned_ns < MERGE_AFTER_NS)))
        link = &(*link)->next_orphan;
    if (*link == NULL && !is_merge)
        link = any;
    struct fh_heap *heap = *link;
    if (heap != NULL) {
        *link = heap->next_orphan;
        heap->next_orphan = NULL;
        if (heap->all_first != FH_NO_RUN)
            atomic_fetch_sub_explicit(&fh_root.orphans_with_runs, 1, memory_order_relaxed);
    }
    fh_lock_release(&fh_root.orphans_lock);
    return heap;
}

static void move_runs(struct fh_heap *from, struct fh_heap *to)
{
    while (from->all_first != FH_NO_RUN) {
        struct fh_run *run = fh_run_at(from->pages, from->all_first);
        enum fh_run_state state = (enum fh_run_state)run->state;
        fh_queue_remove(from, run);
        fh_all_unlink(from, run);
        from->queues[run->class_index].runs--;
        from->run_granules -= run->span;
        run->heap = to;
        fh_all_link(to, run);
        to->queues[run->class_index].runs++;
        to->run_granules += run->span;
        fh_run_set_owner(to, run);
        if (state == FH_STATE_EMPTY)
            fh_run_emptied(to, run);
        else
            fh_queue_push(to, run, state);
    }
}

void fh_heap_adopt_orphan(struct fh_heap *heap)
{
    struct fh_heap *husk = pop_orphan(true);
    if (husk == NULL)
        return;
    /* Only tried: fork takes the locks of all heaps in another order. */
    if (fh_lock_try(&husk->lock)) {
        fh_heap_unbin(husk);
        fh_heap_collect_inbox(husk);
        move_runs(husk, heap);
        fh_inbox_shut(husk);
        fh_lock_release(&husk->lock);
    }
    fh_lock_acquire(&fh_root.orphans_lock);
    husk->next_orphan = fh_root.orphans;
    fh_root.orphans = husk;
    if (husk->all_first != FH_NO_RUN)
        atomic_fetch_add_explicit(&fh_root.orphans_with_runs, 1, memory_order_relaxed);
    fh_lock_release(&fh_root.orphans_lock);
}

/* ---- threads --------------------------------------------------------------------------------- */

static void thread_ends(void *value)
{
    struct fh_heap *heap = value;
    if (atomic_load_explicit(&heap->thread, memory_order_relaxed) != fh_thread_pointer())
        return;
    fh_handler_forget(); /* a handler that ended the thread */
    if (fh_heap_current != heap)
        return;                           /* condemned */
    fh_heap_current = &fh_heap_emergency; /* for a signal handler that comes now */
    atomic_signal_fence(memory_order_seq_cst);
    fh_remote_flush(heap);
    size_t bytes = heap->run_granules << FH_GRANULE_SHIFT;
    fh_lock_acquire(&heap->lock);
    orphan(heap);
    fh_lock_release(&heap->lock);
    fh_decay_wanted(NULL, bytes);
    atomic_signal_fence(memory_order_seq_cst);
    fh_heap_current = &fh_heap_none;
}

/* A heap whose thread ended without telling: it had our thread pointer. */
static struct fh_heap *find_leftover(uintptr_t me)
{
    fh_lock_acquire(&fh_root.heaps_lock);
    struct fh_heap *heap = fh_root.heaps;
    /* The thread first: what else a heap has is only ours to read when it was this thread's. */
    while (heap != NULL && (atomic_load_explicit(&heap->thread, memory_order_relaxed) != me ||
                            (heap->modes & FH_HEAP_FIRST_CLASS) != 0))
        heap = heap->next;
    fh_lock_release(&fh_root.heaps_lock);
    return heap;
}

static struct fh_heap *find_or_make(uintptr_t me)
{
    struct fh_heap *heap = find_leftover(me);
    if (heap == NULL)
        heap = pop_orphan(false);
    if (heap == NULL) {
        heap = fh_heap_struct();
        if (heap == NULL)
            return NULL;
        fh_heap_init(heap, &fh_pages_main);
    }
    fh_lock_acquire(&heap->lock);
    atomic_store_explicit(&heap->depth, 0, memory_order_relaxed);
    /* Only the helper and statistics want it. */
    heap->tid =
        atomic_load_explicit(&fh_root.is_confined, memory_order_relaxed) ? 0 : fh_os_gettid();
    fh_inbox_open(heap);
    if (fh_root.mode != NULL && fh_root.mode->is_guarded)
        heap->modes |= FH_HEAP_GUARDED;
    fh_sample_start(heap);
    heap->orphan_ticks = 0;
    atomic_store_explicit(&heap->thread, me, memory_order_relaxed);
    fh_heap_follow_settings(heap);
    set_owner_of_all(heap);
    fh_lock_release(&heap->lock);
    return heap;
}

struct fh_heap *fh_heap_thread(void)
{
    if (fh_heap_current != &fh_heap_none)
        return fh_heap_current;
    if (!fh_start())
        return NULL;
    if (fh_heap_current != &fh_heap_none)
        return fh_heap_current; /* a nested call made it */
    struct fh_heap *before = fh_busy_begin();
    struct fh_heap *heap = find_or_make(fh_thread_pointer());
    fh_busy_end(before);
    if (heap == NULL)
        return NULL;
    fh_heap_current = heap;
    if (has_end_key) /* may allocate when there are many keys: the heap is there already */
        pthread_setspecific(end_key, heap);
    return heap;
}

struct fh_heap *fh_heap_mine(void)
{
    struct fh_heap *heap = fh_heap_thread();
    if (heap == NULL)
        errno = ENOMEM;
    return heap;
}

/* ---- fork ------------------------------------------------------------------------------------ */

static void mark_cut(struct fh_heap *heap)
{
    for (uint32_t index = heap->all_first; index != FH_NO_RUN;) {
        struct fh_run *run = fh_run_at(heap->pages, index);
        index = run->heap_next;
        if (run->kind == FH_RUN_BLOCKS)
            run->flags |= FH_RUN_CUT;
    }
}

/* In a handler that interrupted us the locks may be this thread's own: fork goes without. In the
 * child the other threads' heaps
 * are not touched then; they may have been in the middle of anything. */
static bool is_fork_blind(void)
{
    return fh_is_inside(fh_heap_current);
}

void fh_heaps_hold(void)
{
    fh_lock_acquire(&fh_root.heaps_lock);
    for (struct fh_heap *heap = fh_root.heaps; heap != NULL; heap = heap->next)
        fh_lock_acquire(&heap->lock);
}

void fh_heaps_release(void)
{
    for (struct fh_heap *heap = fh_root.heaps; heap != NULL; heap = heap->next)
        fh_lock_release(&heap->lock);
    fh_lock_release(&fh_root.heaps_lock);
}

static void fork_prepare(void)
{
    if (is_fork_blind())
        return;
    fh_heaps_hold();
    fh_locks_hold_all();
}

static void fork_parent(void)
{
    if (is_fork_blind())
        return;
    fh_locks_release_all();
    fh_heaps_release();
}

static void fork_child(void)
{
    fh_locks_reset_all();
    fh_scan_forked();
    fh_decay_forked();
    fh_root.pid = fh_os_getpid();
    uintptr_t me = fh_thread_pointer();
    bool is_blind = is_fork_blind();
    for (struct fh_heap *heap = fh_root.heaps; heap != NULL; heap = heap->next) {
        uintptr_t thread = atomic_load_explicit(&heap->thread, memory_order_relaxed);
        fh_lock_reset(&heap->lock);
        if (is_blind) {
            if (thread != me && thread != 0 && (heap->modes & FH_HEAP_FIRST_CLASS) == 0)
                fh_heap_condemn(heap);
            continue;
        }
        fh_heap_collect_forked(heap);
        if (thread == me) {
            heap->tid = fh_os_gettid();
            set_owner_of_all(heap); /* what was lent to the helper comes back */
        } else if (thread != 0 && (heap->modes & FH_HEAP_FIRST_CLASS) == 0) {
            /* Batches that were on their way are lost with their thread's slot: it may have been
             * half written. */
            mark_cut(heap);
            memset(heap->out, 0, sizeof heap->out);
            atomic_store_explicit(&heap->depth, 0, memory_order_relaxed);
            orphan(heap);
        }
    }
    fh_lock_reset(&fh_root.heaps_lock);
    if (fh_root.mode != NULL)
        fh_root.mode->forked();
}

/* ---- start ----------------------------------------------------------------------------------- */

bool fh_start(void)
{
    /* acquire pairs with the release below. */
    if (FH_LIKELY(atomic_load_explicit(&fh_root.started, memory_order_acquire) == 1))
        return true;
    bool is_first = false;
    struct fh_heap *before = fh_busy_begin();
    fh_os_init();
    fh_lock_acquire(&fh_root.start_lock);
    if (atomic_load_explicit(&fh_root.started, memory_order_relaxed) == 0 &&
        fh_pages_start() == 0) {
        fh_locks_register(&fh_root.orphans_lock, FH_FLOOR_HELPER);
        fh_scan_register(&fh_heap_scanned);
        fh_root.canary_secret = fh_os_random();
        fh_root.pid = fh_os_getpid();
        fh_settings_start();
        fh_root.mode = fh_mode_start();
        is_first = true;
        atomic_store_explicit(&fh_root.started, 1, memory_order_release);
    }
    fh_lock_release(&fh_root.start_lock);
    fh_busy_end(before);
    if (is_first) {
        /* Outside the lock: both may allocate. Registered at the first allocation, our prepare
         * handler runs last. */
        pthread_atfork(fork_prepare, fork_parent, fork_child);
        has_end_key = pthread_key_create(&end_key, thread_ends) == 0;
        if (fh_heap_current != &fh_heap_none && has_end_key)
            pthread_setspecific(end_key, fh_heap_current);
    }
    return atomic_load_explicit(&fh_root.started, memory_order_relaxed) == 1;
}
