/*
 * Large blocks: over 32 KiB, each a run of its own.
 *
 * Address space comes in granules of 64 KiB, memory in pages: a block of 33 KiB has 64 KiB of
 * addresses and touches nine pages. Usable is the request rounded up to pages. Freed runs stay
 * dirty in the pool until decay, so a block that comes and goes costs neither faults nor system
 * calls.
 *
 * Growing: in the run's own slack; then into free granules behind it; then, from REMAP_FROM on, by
 * moving the pages (mremap) to a new run instead of copying them (below that the copy into pages
 * that are in memory already is quicker than three system calls and the faults on what was
 * vacated). The vacated addresses are mapped anew at once. A run whose pages were moved in is a
 * mapping of its own that the kernel can't merge with its neighbours, so when it is freed its range
 * is mapped anew too.
 */
#include "heap/heap.h"
#include "os/sys.h"

#include <errno.h>
#include <string.h>

#define REMAP_FROM ((size_t)1 << 20)

static size_t granules_for(size_t bytes)
{
    return (bytes + FH_GRANULE - 1) >> FH_GRANULE_SHIFT;
}

/* Notes pages [0, bytes) of the run as in memory, for the pool and the account. */
static void touch(struct fh_pages *pages, struct fh_run *run, size_t bytes)
{
    if (run->span > FH_HUGE_SPAN)
        return; /* given back whole when freed, not counted page by page */
    unsigned per_granule = (unsigned)(FH_GRANULE >> fh_os_page_shift);
    uint32_t index = fh_run_index(pages, run);
    size_t left = (bytes + fh_os_page_size - 1) >> fh_os_page_shift, more = 0;
    for (uint32_t i = 0; left > 0 && i < run->span; i++) {
        struct fh_run *granule = fh_run_at(pages, index + i);
        unsigned count = left < per_granule ? (unsigned)left : per_granule;
        uint64_t bits = ((uint64_t)1 << count) - 1;
        more += (size_t)__builtin_popcountll(bits & ~granule->dirty);
        granule->dirty |= bits;
        left -= count;
    }
    if (more > 0)
        fh_pages_count(pages, more, 0);
}

/* heap: NULL for malloc's, whose large blocks nobody lists; else a first-class heap, locked. */
void *fh_large_alloc(struct fh_heap *heap, size_t size, size_t align, unsigned flags, bool *is_zero)
{
    size_t bytes;
    if (size > FH_SIZE_MAX || !fh_align_up_checked(size, fh_os_page_size, &bytes) ||
        (flags & FH_ALLOC_NO_GROWTH))
        return NULL;
    struct fh_pages *pages = heap != NULL ? heap->pages : &fh_pages_main;
    size_t granules = granules_for(bytes),
           align_granules = align > FH_GRANULE ? align >> FH_GRANULE_SHIFT : 1;
    if (heap != NULL && heap->options.limit != 0 &&
        (granules > heap->options.limit >> FH_GRANULE_SHIFT ||
         (heap->run_granules + granules) << FH_GRANULE_SHIFT > heap->options.limit))
        return NULL;
    bool zero = false;
    struct fh_run *run = fh_pages_alloc(pages, granules, align_granules, &zero);
    if (run == NULL)
        return NULL;
    run->large_bytes = bytes;
    run->base = (uintptr_t)fh_run_address(pages, run);
    run->block_size = 0;
    run->reciprocal = 0;
    run->local = NULL;
    run->countdown = run->used_floor = 1;
    run->flags = zero ? FH_RUN_ZERO : 0;
    run->class_index = FH_CLASS_LARGE;
    run->align = (uint32_t)fh_min(fh_max(align, FH_GRANULE), FH_ALIGN_MAX);
    run->manager = &fh_heap_manager;
    run->heap = heap;
    atomic_store_explicit(&run->remote, 0, memory_order_relaxed);
    touch(pages, run, bytes);
    if (heap != NULL) {
        fh_all_link(heap, run);
        heap->run_granules += granules;
    }
    fh_run_set_kind(run, FH_RUN_LARGE);
    atomic_fetch_add_explicit(&fh_root.large_bytes, bytes, memory_order_relaxed);
    struct fh_heap *account = heap != NULL ? heap : fh_heap_current;
    atomic_fetch_add_explicit(&account->large_allocs, 1, memory_order_relaxed);
    if (is_zero != NULL)
        *is_zero = zero;
    return (void *)run->base;
}

static void clear_dirty(struct fh_pages *pages, struct fh_run *run)
{
    size_t less = 0;
    uint32_t index = fh_run_index(pages, run);
    for (uint32_t i = 0; i < run->span && run->span <= FH_HUGE_SPAN; i++) {
        struct fh_run *granule = fh_run_at(pages, index + i);
        less += (size_t)__builtin_popcountll(granule->dirty);
        granule->dirty = 0;
    }
    fh_pages_count(pages, 0, less);
}

void fh_large_free(struct fh_pages *pages, struct fh_run *run)
{
    struct fh_heap *account = run->heap != NULL ? run->heap : fh_heap_current;
    atomic_fetch_add_explicit(&account->large_frees, 1, memory_order_relaxed);
    atomic_fetch_sub_explicit(&fh_root.large_bytes, run->large_bytes, memory_order_relaxed);
    size_t bytes = (size_t)run->span << FH_GRANULE_SHIFT;
    if (run->flags & FH_RUN_REMAPPED) {
        if (!fh_pages_renew(pages, run))
            return; /* a hole in the window: its header stays a run's that nobody has */
        clear_dirty(pages, run);
    }
    fh_run_set_kind(run, FH_RUN_NONE);
    fh_pages_free(pages, run);
    fh_decay_wanted(NULL, bytes);
}

void fh_large_free_later(struct fh_run *run)
{
    uint64_t none = 0;
    if (!atomic_compare_exchange_strong_explicit(&run->remote, &none, 1, memory_order_relaxed,
                                                 memory_order_relaxed)) {
        fh_report("double-free", (void *)run->base, "the block was freed in a signal handler");
        return;
    }
    struct fh_run *first = atomic_load_explicit(&fh_root.late, memory_order_relaxed);
    do
        atomic_store_explicit(&run->inbox_next, first, memory_order_relaxed);
    /* release pairs with the acquire below: inbox_next is seen. */
    while (!atomic_compare_exchange_weak_explicit(&fh_root.late, &first, run, memory_order_release,
                                                  memory_order_relaxed));
}

void fh_large_free_late(void)
{
    if (FH_LIKELY(atomic_load_explicit(&fh_root.late, memory_order_relaxed) == NULL))
        return;
    struct fh_run *run = atomic_exchange_explicit(&fh_root.late, NULL, memory_order_acquire);
    while (run != NULL) {
        struct fh_run *next = atomic_load_explicit(&run->inbox_next, memory_order_relaxed);
        struct fh_pages *pages;
        fh_pages_find((void *)run->base, &pages);
        atomic_store_explicit(&run->remote, 0, memory_order_relaxed);
        fh_large_free(pages, run);
        run = next;
    }
}

/* The run can't be cut, but its pages from `bytes` on can be given back. */
static void drop_tail(struct fh_pages *pages, struct fh_run *run, size_t bytes)
{
    const struct fh_source *source = pages->source;
    size_t all = (size_t)run->span << FH_GRANULE_SHIFT;
    if (!(source->capabilities & FH_SOURCE_PURGE) ||
        source->purge(source->self, (void *)(run->base + bytes), all - bytes) != 0)
        return;
    atomic_fetch_add_explicit(&pages->purged, all - bytes, memory_order_relaxed);
    if (run->span > FH_HUGE_SPAN)
        return;
    uint32_t index = fh_run_index(pages, run);
    size_t less = 0;
    for (uint32_t i = (uint32_t)(bytes >> FH_GRANULE_SHIFT); i < run->span; i++) {
        struct fh_run *granule = fh_run_at(pages, index + i);
        size_t begin = (size_t)i << FH_GRANULE_SHIFT;
        unsigned kept = begin < bytes ? (unsigned)((bytes - begin) >> fh_os_page_shift) : 0;
        uint64_t bits = ~(((uint64_t)1 << kept) - 1);
        less += (size_t)__builtin_popcountll(granule->dirty & bits);
        granule->dirty &= ~bits;
    }
    fh_pages_count(pages, 0, less);
}

bool fh_large_resize(struct fh_pages *pages, struct fh_run *run, size_t size)
{
    size_t bytes;
    if (size > FH_SIZE_MAX || !fh_align_up_checked(size, fh_os_page_size, &bytes))
        return false;
    struct fh_heap *heap = run->heap;
    size_t granules = granules_for(bytes);
    if (granules > run->span) {
        if (run->flags & FH_RUN_REMAPPED)
            return false; /* mremap over two mappings is refused */
        size_t more = granules - run->span;
        if ((heap != NULL && heap->options.limit != 0) || granules > FH_HUGE_SPAN ||
            !fh_pages_extend(pages, run, more))
            return false;
        if (heap != NULL)
            heap->run_granules += more;
    } else if (granules < run->span &&
               ((run->flags & FH_RUN_REMAPPED) || run->span > FH_HUGE_SPAN)) {
        if (bytes < run->large_bytes)
            drop_tail(pages, run, bytes);
    } else if (granules < run->span) {
        if (heap != NULL)
            heap->run_granules -= run->span - granules;
        fh_pages_shorten(pages, run, granules);
        fh_decay_wanted(NULL, 0);
    }
    atomic_fetch_add_explicit(&fh_root.large_bytes, bytes - run->large_bytes, memory_order_relaxed);
    run->large_bytes = bytes;
    touch(pages, run, bytes);
    return true;
}

/* A larger run with the same pages; NULL when that isn't worth it or can't be, then nothing has
 * changed. */
void *fh_large_move(struct fh_pages *pages, struct fh_run *run, size_t size)
{
    if (pages != &fh_pages_main || run->large_bytes < REMAP_FROM || run->heap != NULL)
        return NULL;
    size_t old_bytes = run->large_bytes;
    void *to = fh_large_alloc(NULL, size, 0, 0, NULL);
    if (to == NULL)
        return NULL;
    struct fh_run *target = fh_window_run(&pages->window, to);
    if (!fh_pages_move(pages, run, old_bytes, target)) {
        /* Kernels before 6.17 empty the target before they refuse. */
        if (!fh_pages_renew(pages, target)) {
            target->flags |= FH_RUN_REMAPPED;
            fh_large_free(pages, target);
            return NULL;
        }
        memcpy(to, (const void *)run->base, old_bytes);
    } else {
        target->flags |= FH_RUN_REMAPPED;
        run->flags |= FH_RUN_REMAPPED; /* freed: mapped anew */
    }
    fh_large_free(pages, run);
    return to;
}
