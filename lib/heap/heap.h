/*
 * heap.h: what the files of lib/heap share: the heap, the root, and who may touch what.
 *
 * A heap belongs to a thread (`thread` is its thread pointer), or is shared (a first-class heap:
 * `thread` 0, each call takes `lock`), or is abandoned (its thread is gone: `thread` 0, in
 * root.orphans).
 *
 * Who may touch what in a thread's heap:
 *   bins             the thread, at any time, without a lock (the fast path pops them).
 *   run->local, run->countdown
 *                    the thread that run->key names, without a lock; when it names nobody, whoever
 *                    holds `lock` (the decay helper too, decay.c).
 *   queues, lists of runs, other fields of runs
 *                    whoever holds `lock`. The thread itself holds it in its slow path too, but for
 *                    the quick refill, which touches only the bin and its current run.
 *   inbox, run->remote
 *                    everybody, atomically (remote.c).
 *   depth            the thread; > 0 means its slow path is under way: a signal handler that comes then uses the
 *                    emergency arena and frees as if it were another thread.
 * Locks in order: root.heaps_lock, heap->lock, root.orphans_lock, decay, page pool, metadata.
 */
#ifndef FH_HEAP_HEAP_H
#define FH_HEAP_HEAP_H

#include "base/core/random.h"
#include "base/lock.h"
#include "freehold/heap.h"
#include "heap/classes.h"
#include "heap/mode.h"
#include "pages/pages.h"

struct fh_bin {
    void *free;         /* active list: the fast path pops it */
    struct fh_run *run; /* where its blocks come from; NULL before the first */
};

struct fh_class_queue {
    uint32_t partial_first, partial_last; /* runs with free blocks, oldest first */
    uint32_t fresh_first;                 /* runs with pages to carve, none free */
    uint32_t runs;                        /* all runs of the class in this heap */
    void *held;                           /* observed heaps: the active list, kept out of the bin */
    uint32_t short_refills;               /* refills of a few blocks in a row; see refill.c */
    uint32_t lengthening;                 /* pages carved only to lengthen short lists */
    uint64_t handed;                      /* blocks given to the active list so far */
    uint64_t handed_at_carve;             /* `handed` when the last page was carved to lengthen
                                           * short lists */
    bool is_due; /* the next malloc that finds its list empty is a sample */
};

#define FH_OUT_SLOTS 8u  /* runs of others whose blocks are being gathered */
#define FH_OUT_COUNT 64u /* blocks before a batch is sent */
#define FH_OUT_BYTES 16384u

struct fh_out {
    struct fh_run *run;
    void *head, *tail;
    uint32_t count;
};

enum fh_heap_mode {
    FH_HEAP_SHARED = 1 << 0,   /* first-class, calls take the lock */
    FH_HEAP_OBSERVED = 1 << 1, /* listeners: bins stay empty, frees take the slow path */
    FH_HEAP_CHECKED = 1 << 2,  /* canary, quarantine or random slots: same */
    FH_HEAP_FIRST_CLASS = 1 << 3,
    FH_HEAP_GUARDED = 1 << 4, /* bins stay empty, every call goes to root.mode */
    FH_HEAP_NONE = 1 << 5,    /* fh_heap_none, fh_heap_emergency: ask fh_heap_thread() */
};

struct fh_heap {
    struct fh_bin bins[FH_CLASS_COUNT]; /* first: the fast path addresses them from the heap's
                                         * address */
    _Atomic uintptr_t thread;
    _Atomic uint32_t depth;
    _Atomic uint32_t interruptions; /* beginnings and ends of signal handlers that interrupted our
                                     * code */
    _Atomic uint64_t postponed; /* signals that wait for the end of the slow path: handler.c; bit n
                                 * - 1 */
    unsigned modes;             /* of enum fh_heap_mode */
    uint64_t orphaned_ns;       /* when its thread ended */
    uint32_t orphan_ticks;      /* decay: ticks since its thread ended */
    uint32_t settings_seen;     /* generation of the settings it acts on */
    struct fh_lock lock;
    struct fh_pages *pages;
    uint32_t all_first; /* all runs of blocks, and large ones of first-class heaps
                                          * */
    uint32_t empty_first[2], empty_count[2]; /* runs of one granule, of four, all free */
    struct fh_class_queue queues[FH_CLASS_COUNT];
    struct fh_out out[FH_OUT_SLOTS]; /* the thread's */
    struct fh_random random;
    int tid;
    uint64_t remote_frees; /* blocks this thread gave to others */
    _Atomic uint64_t large_allocs, large_frees;
    size_t run_granules;       /* in its runs */
    size_t freed;              /* bytes that became free, not yet told to decay.c */
    _Atomic bool is_decay_due; /* the helper found work while the thread ran: do it at a
                                          * heartbeat */
    struct fh_heap *next;      /* root.heaps */
    struct fh_heap *next_orphan;
    struct fh_heap_options options;
    char name[32];
    struct fh_pages *own_pages; /* over options.source; NULL without */
    void *guard;                /* lib/guard's state of the heap's thread */
    uint64_t gap;               /* bytes to hand out until the next sample (sample.c) */
    uint64_t gap_drawn;         /* what the gap was when it began */
    bool is_sampling;           /* the block that was just taken is a sample */

    FH_CACHE_ALIGNED _Atomic(struct fh_run *) inbox; /* runs with blocks freed by others */
};

struct fh_settings {
    _Atomic uint32_t generation; /* counted up by each change */
    _Atomic int decay_ms;        /* -1: never */
    _Atomic int huge;            /* enum fh_os_huge */
    _Atomic int on_foreign, on_error, exit_status;
};

enum fh_on_foreign { FH_FOREIGN_ABORT, FH_FOREIGN_WARN, FH_FOREIGN_IGNORE, FH_FOREIGN_FORWARD };
enum fh_on_error { FH_ERROR_ABORT, FH_ERROR_CONTINUE, FH_ERROR_EXIT };

/* What preload/ tells about itself: where its code is (reports leave its frames out), libc's own
 * functions, for
 * pointers of somebody else's allocator, and who writes the record of a process that a memory error
 * ends. */
struct fh_entry_points {
    const void *code;
    void (*foreign_free)(void *block);
    void *(*foreign_realloc)(void *block, size_t size);
    void (*write_record)(const char *exit);
};

/* The one root. */
struct fh_root {
    struct fh_lock start_lock;
    _Atomic bool is_confined;    /* see fh_decay_confine */
    int pid;                     /* of the process that started, or was forked with our handlers */
    _Atomic int started;         /* 0 not, 1 yes */
    struct fh_lock heaps_lock;   /* FH_FLOOR_HEAPS: the list */
    struct fh_heap *heaps;       /* all that ever were, but for destroyed ones */
    struct fh_heap *spare;       /* structs of destroyed heaps */
    struct fh_lock orphans_lock; /* floor between heap and pages */
    _Atomic(struct fh_run *) late; /* large blocks that handlers freed: large.c; linked by
                                    * inbox_next */
    struct fh_heap *orphans;       /* abandoned heaps that may have runs */
    _Atomic uint32_t orphans_with_runs;
    _Atomic unsigned listened; /* event kinds that somebody listens to */
    _Atomic int helper_tid;    /* of the decay helper that runs or ran last */
    struct fh_settings settings;
    _Atomic size_t large_bytes; /* usable bytes of live large blocks */
    uint64_t canary_secret;
    /* Allocations of first-class heaps that were reset or destroyed: all of them freed. */
    _Atomic uint64_t retired[FH_CLASS_COUNT], retired_large;
    struct fh_entry_points entry;
    const struct fh_mode *mode; /* set at start, never changed; NULL: nothing is guarded */
};

extern struct fh_root fh_root;

/* The calling thread's heap. Never NULL: fh_heap_none (bins all empty) before the first allocation
 * and after the
 * thread's end. Exported to libfreehold-malloc; initial-exec, one pointer. */
extern FH_API __thread struct fh_heap *fh_heap_current __attribute__((tls_model("initial-exec")));
extern FH_API struct fh_heap fh_heap_none;
/* A signal handler that interrupted our code: allocations come from the emergency arena. */
extern FH_API struct fh_heap fh_heap_emergency;

/* heap->thread of a heap whose slow path was left by a jump: nobody's for ever. */
#define FH_THREAD_CONDEMNED ((uintptr_t)1)

FH_INLINE uintptr_t fh_thread_pointer(void)
{
#if defined(__x86_64__)
    uintptr_t self;
    __asm__("movq %%fs:0, %0" : "=r"(self));
    return self;
#else
    return (uintptr_t)__builtin_thread_pointer();
#endif
}

/* free.c: takes a heap's lock; a signal handler that comes meanwhile stays out of this thread's own
 * heap. */
void fh_heap_lock(struct fh_heap *heap);
void fh_heap_unlock(struct fh_heap *heap);

/* refill.c: the slow ways to a block. `size` and `align` as the caller gave them. */
FH_API void *fh_malloc_slow(size_t size);
void *fh_heap_take(struct fh_heap *heap, size_t size, size_t align, unsigned flags, bool *is_zero);
/* From one class, heap locked; NULL when there is no memory. */
void *fh_heap_take_class(struct fh_heap *heap, unsigned class_index, unsigned flags);

/* A block for a handler that interrupted us, or for a call nested in our own slow path. */
void *fh_take_inside(size_t size, size_t align);
/* A large block for the calling thread. */
void *fh_take_large(size_t size, size_t align);

/* free.c */
FH_API void fh_free_slow(void *block);
FH_API void fh_free_event(struct fh_run *run);
/* free.c: a block back to its run, heap locked, any state. */
void fh_run_put_back(struct fh_heap *heap, struct fh_run *run, void *block);
void fh_run_settle(struct fh_heap *heap, struct fh_run *run);  /* queues, empties after frees */
void fh_run_emptied(struct fh_heap *heap, struct fh_run *run); /* in no queue, all free: kept or to
                                                                * the pool */
/* The block at p: its run when p is the beginning of a block; else NULL (reports nothing). */
struct fh_run *fh_block_run(const void *p, struct fh_pages **pages);

/* Reports a pointer that is no block, when it can only be one of ours gone wrong; false: it is
 * somebody else's. */
bool fh_report_own(const void *p);

/* run.c: carving, purging, lists of runs; heap locked. */
extern const struct fh_owner fh_heap_manager;
struct fh_run *fh_run_new(struct fh_heap *heap, unsigned class_index);
bool fh_run_can_carve(const struct fh_heap *heap, const struct fh_run *run);
/* Cuts more pages into blocks; their list, *count of them; NULL when nothing can be carved. */
void *fh_run_carve(struct fh_heap *heap, struct fh_run *run, unsigned pages_wanted,
                   uint32_t *count);
/* Gives back pages of the run in which every block is free; bytes. */
size_t fh_run_purge(struct fh_heap *heap, struct fh_run *run);
/* Gives back pages left from an earlier life of the granules that are not carved (no fast path
 * knows them). */
size_t fh_run_purge_uncarved(struct fh_heap *heap, struct fh_run *run);
void fh_run_release(struct fh_heap *heap, struct fh_run *run);
/* The block size and what is divided by it. */
void fh_run_shape(struct fh_run *run, uint32_t size);
/* A run's dirty bits, from its granules' and back to them. */
void fh_run_gather_dirty(struct fh_pages *pages, struct fh_run *run);
void fh_run_spread_dirty(struct fh_pages *pages, struct fh_run *run);
void fh_queue_push(struct fh_heap *heap, struct fh_run *run, enum fh_run_state state);
void fh_queue_remove(struct fh_heap *heap, struct fh_run *run);
void fh_all_link(struct fh_heap *heap, struct fh_run *run);
void fh_all_unlink(struct fh_heap *heap, struct fh_run *run);
/* The owner field that its frees shall see. */
void fh_run_set_owner(struct fh_heap *heap, struct fh_run *run);
/* Whether the block exists: all its pages are carved. */
bool fh_run_is_carved(const struct fh_run *run, uint32_t index);
uint32_t fh_list_length(const void *list, uint32_t at_most);

/* remote.c */
void fh_remote_free(struct fh_run *run, void *block);
void fh_remote_push(struct fh_run *run, void *head, void *tail, uint32_t count);
void fh_remote_flush(struct fh_heap *heap);
void fh_run_poke(struct fh_run *run);
/* What others have freed of the run and nobody has collected; for who holds everything still. */
const void *fh_remote_list(const struct fh_run *run);
/* Takes in what others freed; heap locked. */
void fh_heap_collect_inbox(struct fh_heap *heap);
/* The same for the heap of another thread, by the hand-over protocol: the runs are borrowed, and if
 * the thread does not stand
 * still after that, they go back to the inbox. Heap locked; false when it did not. */
bool fh_heap_collect_lent(struct fh_heap *heap, bool (*stands_still)(struct fh_heap *heap));
/* The inbox of a heap whose runs are another's now: what arrives is sent on by whoever sends it. */
void fh_inbox_shut(struct fh_heap *heap);
void fh_inbox_open(struct fh_heap *heap);
/* In a forked child: takes in every run's blocks, whatever inbox they were on their way to. */
void fh_heap_collect_forked(struct fh_heap *heap);

/* guarded.c: the ways to root.mode. The first five are jumped to from the entry points' slow paths, so that their own
 * caller is the program. */
void *fh_guarded_malloc(size_t size);
void *fh_guarded_aligned(size_t align, size_t size);
void *fh_guarded_calloc(size_t count, size_t size);
void *fh_guarded_realloc(void *block, size_t size);
void fh_guarded_free(void *block);
FH_API void *fh_guarded_alloc(size_t size, size_t align, unsigned how, const struct fh_call *call);
FH_API void fh_guarded_free_as(void *block, size_t size, size_t align, unsigned how,
                               const struct fh_call *call);

FH_INLINE bool fh_is_guarded(const struct fh_heap *heap)
{
    return FH_UNLIKELY((heap->modes & FH_HEAP_GUARDED) != 0);
}

/* Entry points that say more than malloc and free do (which operator, which size): is it worth to say it? */
FH_INLINE bool fh_may_be_guarded(void)
{
    return FH_UNLIKELY((fh_heap_current->modes & (FH_HEAP_GUARDED | FH_HEAP_NONE)) != 0);
}

/* Whether the block is root.mode's; for who found that it is none of the heap's. */
FH_INLINE bool fh_is_modes(const void *block)
{
    return FH_UNLIKELY(fh_root.mode != NULL) && fh_root.mode->is_mine(block);
}

/* sample.c */
#define FH_GAP_NEVER (UINT64_MAX >> 1) /* of a heap that is not sampled */
/* An exponentially distributed number of bytes. */
uint64_t fh_sample_draw(struct fh_random *random, size_t mean);
/* A thread's heap begins, or goes on with another thread. */
void fh_sample_start(struct fh_heap *heap);
/* The gap ends in this list, which was just handed out: cuts it. Heap locked. */
FH_COLD void fh_sample_list(struct fh_heap *heap, struct fh_run *run, void *list, uint32_t count);
void fh_sample_large(struct fh_heap *heap, size_t bytes);
/* Instead of `block`, which was taken for the caller's caller: a sampled one, if there is one to be had. */
FH_COLD void *fh_sample_offer(size_t size, void *block);

/* large.c */
void *fh_large_alloc(struct fh_heap *heap, size_t size, size_t align, unsigned flags,
                     bool *is_zero);
void fh_large_free(struct fh_pages *pages, struct fh_run *run);
/* From a handler that interrupted us: lock-free; whoever next works on large blocks, or refills,
 * does it. */
void fh_large_free_later(struct fh_run *run);
void fh_large_free_late(void);
/* In place when it can be; else NULL. */
bool fh_large_resize(struct fh_pages *pages, struct fh_run *run, size_t size);
void *fh_large_move(struct fh_pages *pages, struct fh_run *run, size_t size);

/* thread.c */
bool fh_start(void);
struct fh_heap *fh_heap_thread(void); /* the current one, made if needed; NULL when there is
                                             * no memory */
void fh_heap_init(struct fh_heap *heap, struct fh_pages *pages);
struct fh_heap *fh_heap_struct(void);            /* from spare or metadata */
void fh_heap_adopt_orphan(struct fh_heap *heap); /* heap locked: merges one orphan's runs */
void fh_heap_condemn(struct fh_heap *heap);      /* given up in the middle of a change */
void fh_heap_unbin(struct fh_heap *heap);        /* active lists back to their runs */
/* The list of heaps and each of them locked: what fork and a scan do before fh_locks_hold_all. */
void fh_heaps_hold(void);
void fh_heaps_release(void);

/* scanned.c: registered at start. */
extern struct fh_scan_owner fh_heap_scanned;

/* decay.c */
void fh_decay_wanted(struct fh_heap *heap, size_t bytes); /* something became free */
void fh_decay_owner(struct fh_heap *heap); /* heartbeat of a busy owner, heap locked */
size_t fh_decay_all(size_t keep);          /* trim */
void fh_decay_forked(void);
/* Ends the helper and keeps it from starting until resume is called as often; false, and nothing
 * done, in a vfork child. */
FH_API bool fh_decay_stop(void);
FH_API void fh_decay_resume(void);
/* After a stop: for good. From now on the heap makes only the system calls that glibc's malloc
 * makes (seccomp). */
FH_API void fh_decay_confine(void);

/* emergency.c: for signal handlers that interrupted us. */
void *fh_emergency_alloc(size_t size, size_t align);
bool fh_emergency_owns(const void *p);
void fh_emergency_free(void *p);
size_t fh_emergency_size(const void *p);
/* The memory in which its blocks lie; false when there is none. */
bool fh_emergency_range(uintptr_t *low, uintptr_t *high);

/* handler.c */
extern struct fh_window fh_free_window;               /* for the fast paths of this library */
FH_API void fh_window_open(struct fh_window *window); /* fills a copy of the main window, unless a
                                                       * handler closed it */
struct fh_heap *fh_handler_settle(void); /* the current heap, after those handlers that did not
                                           * return have been ended */
void fh_handler_forget(void);            /* the thread ends, or was forked: no handler returns any
                                           * more */
bool fh_handler_is_under_way(void);
void fh_handler_let_in(struct fh_heap *heap); /* the signals that were postponed */
void fh_handler_tell(void);                   /* a handler allocates: a warning, once */

/* event.c */
void fh_event_tell(unsigned kind, void *address, void *old_address, size_t requested, size_t usable,
                   const void *caller);
/* Between the two this thread tells nothing: what it does is part of something that is told as a
 * whole. */
bool fh_event_mute(void); /* whether it told before, for unmute */
void fh_event_unmute(bool before);
FH_INLINE bool fh_event_is_heard(void)
{
    return FH_UNLIKELY(atomic_load_explicit(&fh_root.listened, memory_order_relaxed) != 0);
}
void fh_heap_follow_settings(struct fh_heap *heap); /* heap locked: a changed mode takes effect */

/* report.c: a memory error; returns only with on_error=continue. */
FH_API void fh_report(const char *kind, const void *address, const char *detail);
void fh_report_foreign(const void *address);

void *fh_report_foreign_realloc(void *address, size_t size);
FH_API void fh_entry_points_are(const struct fh_entry_points *entry);

/* settings.c */
void fh_settings_start(void);
/* stats.c */
void fh_stats_retire(struct fh_heap *heap); /* what it counted stays counted: it is about to be
                                             * emptied. Heap locked */

/* Usable bytes of a block of this run. */
FH_INLINE size_t fh_run_usable(const struct fh_run *run)
{
    size_t size = run->kind == FH_RUN_LARGE ? run->large_bytes : run->block_size;
    return FH_LIKELY(run->heap == NULL) ? size : size - run->heap->options.canary_bytes;
}

/* May the calling thread free to it without asking? */
FH_INLINE bool fh_run_is_mine(const struct fh_run *run)
{
    return fh_run_offset(run, (const void *)run->base, fh_thread_pointer()) == 0;
}

/* Is this offset the beginning of a block? (Sizes over 16 KiB are multiples of 1 KiB.) */
FH_INLINE bool fh_run_begins_block(const struct fh_run *run, size_t offset)
{
    if (FH_LIKELY(run->span == 1))
        return offset < FH_GRANULE && (uint32_t)offset * run->reciprocal < run->reciprocal;
    return (offset & 1023) == 0 && (uint32_t)(offset >> 10) * run->coarse < run->coarse;
}

/* Around everything that takes a lock or changes more than a list's head: a signal handler that
 * comes meanwhile sees it. */
FH_INLINE struct fh_heap *fh_busy_begin(void)
{
    struct fh_heap *heap = fh_heap_current;
    if (FH_UNLIKELY(heap == &fh_heap_emergency))
        heap = fh_handler_settle();
    if (heap == &fh_heap_none)
        fh_heap_current = &fh_heap_emergency;
    else if (heap != &fh_heap_emergency) /* handlers put back what they change: no need for one
                                          * instruction */
        atomic_store_explicit(&heap->depth,
                              atomic_load_explicit(&heap->depth, memory_order_relaxed) + 1,
                              memory_order_relaxed);
    atomic_signal_fence(memory_order_seq_cst);
    return heap;
}

/* The end of what raised the depth. Signals that came meanwhile are let in when nothing is under
 * way any more. */
FH_INLINE void fh_depth_leave(struct fh_heap *heap)
{
    atomic_signal_fence(memory_order_seq_cst);
    uint32_t depth = atomic_load_explicit(&heap->depth, memory_order_relaxed) - 1;
    atomic_store_explicit(&heap->depth, depth, memory_order_relaxed);
    atomic_signal_fence(memory_order_seq_cst);
    if (FH_UNLIKELY(atomic_load_explicit(&heap->postponed, memory_order_relaxed) != 0) &&
        depth == 0)
        fh_handler_let_in(heap);
}

FH_INLINE void fh_busy_end(struct fh_heap *heap)
{
    atomic_signal_fence(memory_order_seq_cst);
    if (heap == &fh_heap_none)
        fh_heap_current = heap;
    else if (heap != &fh_heap_emergency)
        fh_depth_leave(heap);
}

/* Is this thread further up its stack in a slow path, or in a handler that interrupted one? */
FH_INLINE bool fh_is_inside(const struct fh_heap *heap)
{
    return heap == &fh_heap_emergency ||
           atomic_load_explicit(&heap->depth, memory_order_relaxed) != 0;
}

FH_INLINE void *fh_next(const void *block)
{
    return *(void *const *)block;
}

FH_INLINE void fh_set_next(void *block, void *next)
{
    *(void **)block = next;
}

/* The run of a block in a class, found without asking other pools; NULL for all else. */
FH_INLINE struct fh_run *fh_run_quickly(const void *p)
{
    if (!fh_pages_contain(&fh_pages_main, p))
        return NULL;
    struct fh_run *run = fh_window_run(&fh_pages_main.window, p);
    if (run->kind == FH_RUN_REST)
        run = fh_run_at(&fh_pages_main, run->head);
    return run->kind == FH_RUN_BLOCKS && fh_run_begins_block(run, (uintptr_t)p - run->base) &&
                   (uintptr_t)p - run->base < (size_t)run->capacity * run->block_size
               ? run
               : NULL;
}

#endif
