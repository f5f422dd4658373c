/*
 * One scan from its beginning to its end: locks, threads, lists, work, and back.
 *
 * In this order, because each step must not be interrupted by what comes before it: memory for the scan
 * is mapped; the owners' locks and then all registered ones are taken (the order in which fork takes
 * them), so nobody is in the middle of a change that a lock guards; the other threads are stopped, or found
 * waiting, perhaps for one of those locks. From there on no lock is taken and nothing of libc is called.
 *
 * A snapshot forks at this point and lets everybody go on: the copy has the same memory, one thread (a copy
 * of the caller), and what was noted of the others. It lists, finds roots and works there, in its own time; its
 * notes lie in memory that both share. In the copy all locks are held, for ever; nobody there takes one.
 *
 * The scan's memory is one mapping: this struct, lists whose greatest length is known (roots: one for
 * each mapping and three a thread), and the rest for areas: 2 KiB for each granule in use, where a run of
 * the smallest blocks takes 1,136 bytes. It is touched only as far as it is used.
 *
 * The caller's registers. Callees may keep them in theirs, or save them on the stack; run_work makes the
 * compiler save all that belong to its callers, in a frame that is there while the work is done.
 */
#include "base/lock.h"
#include "os/mem.h"
#include "os/sys.h"
#include "pages/pages.h"
#include "scan/internal.h"

#include <errno.h>
#include <string.h>

#define STOP_NS       100000000u
#define NOTES_LEAST   ((size_t)16 << 20) /* areas outside the main window */
#define NOTES_GRANULE ((size_t)2048)
#define ROOTS_MORE    (3u * 1024u)
#define EXCLUDED_MOST 4096u

static struct fh_lock one_at_a_time;

/* ---- memory --------------------------------------------------------------------------------------- */

void *fh_scan_note(struct fh_scan *scan, size_t size)
{
    size = fh_align_up(size, FH_CACHE_LINE);
    if ((size_t)(scan->end - scan->next) < size) {
        scan->gaps |= FH_SCAN_GAP_SPACE;
        return NULL;
    }
    void *memory = scan->next;
    scan->next += size;
    return memory;
}

static void make_ranges(struct fh_scan *scan, struct fh_scan_ranges *ranges, unsigned capacity)
{
    ranges->items = fh_scan_note(scan, capacity * sizeof ranges->items[0]);
    ranges->capacity = ranges->items != NULL ? capacity : 0;
}

static struct fh_scan *make_scan(const struct fh_scan_options *options, bool is_shared)
{
    unsigned mappings = (unsigned)fh_min(fh_os_mapping_limit(), (size_t)1 << 20);
    size_t granules = fh_pages_main.top;
    size_t bytes = NOTES_LEAST + granules * (NOTES_GRANULE + sizeof(void *)) +
                   mappings * (2 * sizeof(struct fh_scan_range) + sizeof(struct fh_scan_mapping)) +
                   (ROOTS_MORE + EXCLUDED_MOST) * sizeof(struct fh_scan_range);
    bytes = fh_align_up(bytes, fh_os_page_size);
    struct fh_scan *scan = is_shared ? fh_os_map_shared(bytes) : fh_os_map(bytes);
    if (scan == NULL)
        return NULL;
    scan->options = *options;
    if (scan->options.stop_ns == 0)
        scan->options.stop_ns = STOP_NS;
    scan->mapped = bytes;
    scan->end = (char *)scan + bytes;
    scan->next = (char *)scan + fh_align_up(sizeof *scan, FH_CACHE_LINE);
    scan->process = fh_os_getpid();
    scan->own_tid = fh_os_gettid();
    make_ranges(scan, &scan->roots, mappings + ROOTS_MORE);
    make_ranges(scan, &scan->excluded, EXCLUDED_MOST);
    make_ranges(scan, &scan->holes, mappings);
    scan->mappings = fh_scan_note(scan, mappings * sizeof scan->mappings[0]);
    scan->mappings_capacity = mappings;
    scan->window_low = fh_pages_main.base;
    scan->granules = fh_scan_note(scan, granules * sizeof scan->granules[0]);
    scan->window_bytes = granules << FH_GRANULE_SHIFT;
    return scan;
}

bool fh_scan_ranges_add(struct fh_scan *scan, struct fh_scan_ranges *ranges, uintptr_t low,
                        uintptr_t high)
{
    if (ranges->count == ranges->capacity) {
        scan->gaps |= FH_SCAN_GAP_SPACE;
        return false;
    }
    ranges->items[ranges->count++] = (struct fh_scan_range){low, high};
    return true;
}

void fh_scan_add_root(struct fh_scan *scan, uintptr_t low, uintptr_t high)
{
    fh_scan_ranges_add(scan, &scan->roots, low, high);
}

/* Insertion: the lists are nearly sorted already, or short. Overlapping ones are joined. */
void fh_scan_ranges_sort(struct fh_scan_ranges *ranges)
{
    struct fh_scan_range *items = ranges->items;
    for (unsigned i = 1; i < ranges->count; i++) {
        struct fh_scan_range held = items[i];
        unsigned at = i;
        for (; at > 0 && items[at - 1].low > held.low; at--)
            items[at] = items[at - 1];
        items[at] = held;
    }
    unsigned kept = 0;
    for (unsigned i = 0; i < ranges->count; i++) {
        if (kept > 0 && items[kept - 1].high >= items[i].low)
            items[kept - 1].high = fh_max(items[kept - 1].high, items[i].high);
        else
            items[kept++] = items[i];
    }
    ranges->count = kept;
}

unsigned fh_scan_ranges_above(const struct fh_scan_ranges *ranges, uintptr_t address)
{
    unsigned low = 0, high = ranges->count;
    while (low < high) {
        unsigned middle = low + (high - low) / 2;
        if (ranges->items[middle].high <= address)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* ---- standing still ---------------------------------------------------------------------------------- */

static void hold(void)
{
    fh_locks_register(&one_at_a_time, FH_FLOOR_HEAPS);
    fh_scan_hold_owners();
    fh_locks_hold_all();
}

static void release(void)
{
    fh_locks_release_all();
    fh_scan_release_owners();
}

/* Below every frame of the caller's. */
static FH_NOINLINE uintptr_t stack_pointer(void)
{
    return (uintptr_t)__builtin_frame_address(0);
}

static void list_and_work(struct fh_scan *scan, void (*work)(struct fh_scan *, void *),
                          void *context)
{
    scan->pagemap = fh_os_open_pagemap();
    fh_scan_list_owners(scan);
    fh_scan_seal(scan);
    fh_scan_find_roots(scan);
    work(scan, context);
    if (scan->pagemap >= 0)
        fh_os_close(scan->pagemap);
}

/* In the copy: never returns. */
static void work_and_end(struct fh_scan *scan, void (*work)(struct fh_scan *, void *),
                         void *context)
{
    list_and_work(scan, work, context);
    /* release pairs with the acquire in fh_scan_is_done. */
    atomic_store_explicit(&scan->phase, FH_SCAN_DONE, memory_order_release);
    fh_os_wake_shared(&scan->phase);
    fh_os_exit(0);
}

/* Stops, works (or forks), lets go. The frame holds the callers' registers: see above. */
static FH_NOINLINE int run_work(struct fh_scan *scan, bool is_snapshot,
                                void (*work)(struct fh_scan *, void *), void *context)
{
    __builtin_unwind_init();
    scan->own_sp = stack_pointer();
    bool is_undisturbed = (scan->options.flags & FH_SCAN_UNDISTURBED) != 0;
    /* A handler of the program's that came now would wait for our locks. */
    uint64_t mask = fh_os_swap_signal_mask(~(uint64_t)0);
    hold();
    uint64_t begin = fh_os_now_ns();
    int result =
        fh_stop_all(fh_scan_is_helper, is_undisturbed, scan->options.stop_ns, &scan->stopped);
    if (result == 0) {
        scan->has_strays = !scan->stopped.is_complete;
        if (is_snapshot) {
            result = fh_os_snapshot();
            if (result == 0)
                work_and_end(scan, work, context);
            scan->pid = result;
        } else {
            list_and_work(scan, work, context);
        }
        scan->has_strays |= !fh_stop_was_still(&scan->stopped);
        fh_stop_go();
        scan->counts.stopped_ns = fh_os_now_ns() - begin;
    }
    release();
    fh_os_swap_signal_mask(mask);
    return result;
}

static struct fh_scan *make_and_run(const struct fh_scan_options *options, bool is_snapshot,
                                    void (*work)(struct fh_scan *, void *), void *context,
                                    int *error)
{
    struct fh_scan *scan = make_scan(options, is_snapshot);
    *error = scan != NULL ? run_work(scan, is_snapshot, work, context) : -ENOMEM;
    if (scan == NULL || *error >= 0)
        return scan;
    fh_os_release(scan, scan->mapped);
    return NULL;
}

struct fh_scan *fh_scan_run(const struct fh_scan_options *options,
                            void (*work)(struct fh_scan *scan, void *context), void *context,
                            int *error)
{
    return make_and_run(options, false, work, context, error);
}

/* ---- copies ------------------------------------------------------------------------------------------- */

struct fh_scan *fh_scan_snapshot(const struct fh_scan_options *options,
                                 void (*work)(struct fh_scan *scan, void *context), void *context,
                                 int *error)
{
    return make_and_run(options, true, work, context, error);
}

/* The copy has ended: by itself, or not. */
static void note_end(struct fh_scan *scan)
{
    scan->pid = 0;
    if (atomic_load_explicit(&scan->phase, memory_order_acquire) != FH_SCAN_DONE)
        scan->gaps |= FH_SCAN_GAP_ENDED;
    atomic_store_explicit(&scan->phase, FH_SCAN_DONE, memory_order_relaxed);
}

bool fh_scan_is_done(struct fh_scan *scan)
{
    if (scan->pid == 0)
        return true;
    if (fh_os_snapshot_ended(scan->pid, false) == -EAGAIN)
        return false;
    note_end(scan);
    return true;
}

void fh_scan_wait(struct fh_scan *scan)
{
    if (scan->pid == 0)
        return;
    fh_os_snapshot_ended(scan->pid, true);
    note_end(scan);
}

void fh_scan_forget(struct fh_scan *scan, bool is_forked)
{
    if (scan->pid != 0 && !is_forked) {
        fh_os_snapshot_kill(scan->pid);
        fh_scan_wait(scan);
    }
    fh_os_release(scan, scan->mapped);
}

void fh_scan_forked(void)
{
    fh_stop_forked();
}

/* ---- what came of it ------------------------------------------------------------------------------------ */

unsigned fh_scan_gaps(const struct fh_scan *scan)
{
    return scan->gaps | (scan->has_strays ? (unsigned)FH_SCAN_GAP_THREADS : 0);
}

void fh_scan_count(const struct fh_scan *scan, struct fh_scan_counts *out)
{
    *out = scan->counts;
}
