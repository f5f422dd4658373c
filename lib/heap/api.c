/*
 * The heap's interface: the calling thread's heap, first-class heaps, and the fh_allocator of both.
 *
 * A first-class heap is shared by default: its calls take its lock and its runs have no owner, so
 * frees come here too. With is_single_thread it is a thread's heap like malloc's, only not that
 * thread's current one. Whatever its options ask of each block (canary, quarantine, random slots)
 * is done here, under the lock: malloc's fast path does not know of it.
 *
 * Alignment needs no padding: blocks of a class begin at multiples of the block size from an
 * aligned run, so a class whose size is a multiple of the alignment is aligned by construction;
 * over 16 KiB a run of its own is.
 */
#include "base/core/adapter.h"
#include "base/core/plant.h"
#include "freehold/heap.h"

#include "base/message.h"
#include "freehold/event.h"
#include "heap/fast.h"
#include "heap/heap.h"
#include "os/sys.h"

#include <errno.h>
#include <string.h>

void fh_canary_write(const struct fh_heap *heap, const struct fh_run *run, void *block);

/* Class whose blocks hold `size` bytes at multiples of `align`; FH_CLASS_LARGE when there is none.
 * */
static unsigned aligned_class(size_t size, size_t align)
{
    if (size > FH_CLASS_MAX || align > FH_CLASS_ONE_MAX)
        return FH_CLASS_LARGE;
    size = fh_max(size, 1);
    for (unsigned i = fh_class_of(size); i < FH_CLASS_COUNT; i++)
        if (fh_class_size(i) % align == 0)
            return i;
    return FH_CLASS_LARGE;
}

/* ---- the calling thread's heap --------------------------------------------------------------- */

FH_FAST void *fh_malloc(size_t size)
{
    return fh_malloc_fast(size);
}

FH_FAST void *fh_calloc(size_t count, size_t size)
{
    return fh_calloc_fast(count, size);
}

FH_FAST void *fh_calloc_slow(size_t count, size_t size)
{
    size_t bytes;
    if (fh_is_guarded(fh_heap_current))
        return fh_guarded_calloc(count, size);
    if (__builtin_mul_overflow(count, size, &bytes)) {
        errno = ENOMEM;
        return NULL;
    }
    void *block = fh_malloc_fast(bytes);
    if (block == NULL)
        return NULL;
    if (bytes > FH_CLASS_MAX) {
        const struct fh_run *run = fh_window_run(&fh_pages_main.window, block);
        if (fh_pages_contain(&fh_pages_main, block) && run->kind == FH_RUN_LARGE &&
            (run->flags & FH_RUN_ZERO))
            return block;
    }
    return memset(block, 0, bytes);
}

size_t fh_usable_size(const void *block)
{
    if (block == NULL)
        return 0;
    const struct fh_run *run = fh_run_quickly(block); /* some programs ask after each malloc */
    if (FH_LIKELY(run != NULL))
        return fh_run_usable(run);
    if (fh_is_modes(block))
        return fh_root.mode->usable(block);
    run = fh_block_run(block, NULL);
    if (run != NULL)
        return fh_run_usable(run);
    if (fh_emergency_owns(block))
        return fh_emergency_size(block);
    if (fh_pages_find(block, NULL) == NULL &&
        atomic_load_explicit(&fh_root.settings.on_foreign, memory_order_relaxed) !=
            FH_FOREIGN_ABORT)
        return 0; /* nobody may write there as far as we know */
    fh_report("invalid-free", block, "usable size asked of a pointer that is no block");
    return 0;
}

/* A listener hears what was asked for, not the class's size. */
FH_FAST static FH_NOINLINE void *aligned_told(unsigned class_index, size_t size)
{
    bool before = fh_event_mute();
    void *block = fh_malloc_fast(fh_class_size(class_index));
    fh_event_unmute(before);
    if (block != NULL)
        fh_event_tell(FH_EVENT_ALLOC, block, NULL, size, fh_usable_size(block),
                      __builtin_return_address(0));
    return block;
}

FH_FAST void *fh_aligned_alloc(size_t align, size_t size)
{
    if (!fh_is_pow2(align)) {
        errno = EINVAL;
        return NULL;
    }
    if (fh_is_guarded(fh_heap_current))
        return fh_guarded_aligned(align, size);
    if (align <= 16)
        return fh_malloc_fast(size);
    unsigned class_index = aligned_class(size, align);
    if (class_index < FH_CLASS_COUNT && !fh_event_is_heard())
        return fh_malloc_fast(fh_class_size(class_index));
    if (class_index < FH_CLASS_COUNT)
        return aligned_told(class_index, size);
    struct fh_heap *heap = fh_handler_settle();
    if (heap == &fh_heap_none)
        heap = fh_heap_thread();
    if (heap != NULL && fh_is_guarded(heap))
        return fh_guarded_aligned(align, size);
    void *block = NULL;
    if (heap != NULL)
        block = fh_is_inside(heap) ? fh_take_inside(size, align)
                                   : fh_take_large(fh_max(size, 1), align);
    if (block == NULL)
        errno = ENOMEM;
    else if (fh_event_is_heard())
        fh_event_tell(FH_EVENT_ALLOC, block, NULL, size, fh_usable_size(block),
                      __builtin_return_address(0));
    return block;
}

/* ---- realloc --------------------------------------------------------------------------------- */

static bool may_stay(size_t usable, size_t size)
{
    return size <= usable && (size >= usable / 2 || usable <= 16);
}

/* A large block can be made shorter where it is: memory that is not asked for goes back. */
static bool is_worth_cutting(const struct fh_run *run, size_t usable, size_t size)
{
    return run->kind == FH_RUN_LARGE && size > FH_CLASS_MAX && size < usable &&
           usable - size >= FH_GRANULE;
}

/* What to ask for when a block grows a little beyond its class: an eighth more, from 1 KiB on a
 * quarter, so that a string that grows byte by
 * byte is not copied at each class. Of large blocks only what is touched of it costs memory. */
static size_t grown(size_t usable, size_t size)
{
    size_t more = usable + (usable < 1024 ? usable / 8 : usable / 4);
    return usable >= 128 && size > usable && size < more && more <= FH_CLASS_MAX ? more : size;
}

static bool resize_large(struct fh_pages *pages, struct fh_run *run, size_t size)
{
    struct fh_heap *before = fh_busy_begin();
    bool is_done = fh_large_resize(pages, run, size);
    fh_busy_end(before);
    return is_done;
}

static void *move_large(struct fh_pages *pages, struct fh_run *run, size_t size)
{
    struct fh_heap *before = fh_busy_begin();
    void *moved = fh_large_move(pages, run, size);
    fh_busy_end(before);
    return moved;
}

FH_FAST void *fh_realloc_slow(void *block, size_t size)
{
    if (block == NULL)
        return fh_malloc_fast(size);
    struct fh_pages *pages = &fh_pages_main;
    struct fh_run *run = fh_run_quickly(block);
    if (run == NULL && fh_is_modes(block))
        return fh_guarded_realloc(block, size);
    if (FH_LIKELY(run != NULL && fh_run_is_mine(run)) && size <= run->block_size &&
        size >= run->block_size / 2)
        return block;
    run = fh_block_run(block, &pages);
    if (run == NULL && !fh_emergency_owns(block))
        return fh_report_foreign_realloc(block, size);
    struct fh_heap *home = run != NULL ? run->heap : NULL;
    bool is_inside = fh_is_inside(fh_heap_current);
    if (run != NULL && home != NULL && (home->modes & FH_HEAP_FIRST_CLASS) && !is_inside)
        return fh_heap_realloc(home, block, size);
    size_t usable = run != NULL ? fh_run_usable(run) : fh_emergency_size(block);
    bool is_told = fh_event_is_heard();
    bool gives_back = run != NULL && is_worth_cutting(run, usable, size) && !is_inside;
    if ((may_stay(usable, size) && !gives_back) ||
        (run != NULL && run->kind == FH_RUN_LARGE && size > FH_CLASS_MAX && size <= FH_SIZE_MAX &&
         !is_inside && resize_large(pages, run, size))) {
        if (is_told)
            fh_event_tell(FH_EVENT_RESIZE, block, block, size, fh_usable_size(block),
                          __builtin_return_address(0));
        return block;
    }
    void *moved = NULL;
    if (run != NULL && run->kind == FH_RUN_LARGE && size > usable && !is_inside)
        moved = move_large(pages, run, size);
    if (moved == NULL) {
        bool before = is_told && fh_event_mute();
        moved = fh_malloc_fast(grown(usable, size));
        if (moved != NULL) {
            memcpy(moved, block, usable < size ? usable : size);
            fh_free_fast(&fh_free_window, block);
        }
        if (is_told)
            fh_event_unmute(before);
        if (moved == NULL)
            return NULL;
    }
    if (is_told)
        fh_event_tell(FH_EVENT_RESIZE, moved, block, size, fh_usable_size(moved),
                      __builtin_return_address(0));
    return moved;
}

FH_FAST void *fh_realloc(void *block, size_t size)
{
    return fh_realloc_fast(&fh_free_window, block, size);
}

/* ---- first-class heaps ----------------------------------------------------------------------- */

#define OWN_WINDOW ((size_t)64 << 30)

static void give_struct_back(struct fh_heap *heap)
{
    struct fh_heap *before = fh_busy_begin();
    fh_lock_acquire(&fh_root.heaps_lock);
    heap->next = fh_root.spare;
    fh_root.spare = heap;
    fh_lock_release(&fh_root.heaps_lock);
    fh_busy_end(before);
}

struct fh_heap *fh_heap_create(const struct fh_heap_options *options)
{
    static const struct fh_heap_options defaults = {.size = sizeof defaults};
    if (options == NULL)
        options = &defaults;
    if (options->size != sizeof *options || options->canary_bytes > 16) {
        errno = EINVAL;
        return NULL;
    }
    struct fh_heap *heap = fh_heap_thread() != NULL ? fh_heap_struct() : NULL;
    if (heap == NULL) {
        errno = ENOMEM;
        return NULL;
    }
    struct fh_pages *pages = &fh_pages_main;
    if (options->source != NULL && options->source != fh_source_system()) {
        pages = fh_meta_alloc(sizeof *pages);
        int error = pages == NULL ? -ENOMEM : fh_pages_open(pages, options->source, OWN_WINDOW);
        if (error != 0) {
            give_struct_back(heap);
            errno = -error;
            return NULL;
        }
        heap->own_pages = pages;
    }
    bool is_checked = options->canary_bytes != 0 || options->quarantine != NULL;
    heap->modes = FH_HEAP_FIRST_CLASS | (is_checked ? (unsigned)FH_HEAP_CHECKED : 0u);
    if (options->is_single_thread) {
        atomic_store_explicit(&heap->thread, fh_thread_pointer(), memory_order_relaxed);
    } else {
        heap->modes |= FH_HEAP_SHARED;
    }
    fh_heap_init(heap, pages);
    heap->options = *options;
    if (options->name != NULL)
        strncpy(heap->name, options->name, sizeof heap->name - 1);
    heap->options.name = heap->name;
    return heap;
}

/* All runs back to the pool, bins and queues empty. Heap locked. */
static void drop_all(struct fh_heap *heap)
{
    fh_stats_retire(heap);
    while (heap->all_first != FH_NO_RUN) {
        struct fh_run *run = fh_run_at(heap->pages, heap->all_first);
        atomic_store_explicit(&run->remote, 0, memory_order_relaxed);
        if (run->kind == FH_RUN_LARGE) {
            fh_all_unlink(heap, run);
            heap->run_granules -= run->span;
            fh_large_free(heap->pages, run);
        } else {
            fh_run_release(heap, run);
        }
    }
    atomic_store_explicit(&heap->large_frees, 0,
                          memory_order_relaxed); /* fh_stats_retire took the allocations over */
    memset(heap->bins, 0, sizeof heap->bins);
    memset(heap->queues, 0, sizeof heap->queues);
    memset(heap->empty_first, 0, sizeof heap->empty_first);
    memset(heap->empty_count, 0, sizeof heap->empty_count);
    atomic_store_explicit(&heap->inbox, NULL, memory_order_relaxed);
}

void fh_heap_reset(struct fh_heap *heap)
{
    fh_heap_lock(heap);
    drop_all(heap);
    fh_heap_unlock(heap);
}

void fh_heap_destroy(struct fh_heap *heap)
{
    if (heap == NULL)
        return;
    struct fh_heap *before = fh_busy_begin();
    fh_lock_acquire(&fh_root.heaps_lock);
    struct fh_heap **link = &fh_root.heaps;
    while (*link != heap)
        link = &(*link)->next;
    *link = heap->next;
    fh_lock_release(&fh_root.heaps_lock);
    fh_busy_end(before);
    fh_heap_reset(heap);
    if (heap->own_pages != NULL)
        fh_pages_close(heap->own_pages); /* its struct is metadata and stays */
    give_struct_back(heap);
}

static void *heap_take(struct fh_heap *heap, size_t size, size_t align, unsigned flags)
{
    unsigned canary = heap->options.canary_bytes;
    if (size > FH_SIZE_MAX - canary || (align != 0 && !fh_is_pow2(align))) {
        errno = size > FH_SIZE_MAX - canary ? ENOMEM : EINVAL;
        return NULL;
    }
    size_t whole = fh_max(size + canary, 1);
    unsigned class_index = aligned_class(whole, align > 16 ? align : 1);
    bool is_zero = false;
    fh_heap_lock(heap);
    if (FH_UNLIKELY(heap->settings_seen !=
                    atomic_load_explicit(&fh_root.settings.generation, memory_order_acquire)))
        fh_heap_follow_settings(heap);
    void *block = class_index < FH_CLASS_COUNT
                      ? fh_heap_take_class(heap, class_index, flags)
                      : fh_large_alloc(heap, whole, align, flags, &is_zero);
    if (block != NULL && canary != 0)
        fh_canary_write(heap, fh_block_run(block, NULL), block);
    fh_heap_unlock(heap);
    if (block == NULL) {
        errno = ENOMEM;
        return NULL;
    }
    if ((flags & FH_ALLOC_ZEROED) && !is_zero)
        memset(block, 0, size);
    if (fh_event_is_heard())
        fh_event_tell(FH_EVENT_ALLOC, block, NULL, size, fh_usable_size(block),
                      __builtin_return_address(0));
    return block;
}

void *fh_heap_alloc(struct fh_heap *heap, size_t size)
{
    return heap_take(heap, size, 0, 0);
}

void *fh_heap_calloc(struct fh_heap *heap, size_t count, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes)) {
        errno = ENOMEM;
        return NULL;
    }
    return heap_take(heap, bytes, 0, FH_ALLOC_ZEROED);
}

void *fh_heap_aligned_alloc(struct fh_heap *heap, size_t align, size_t size)
{
    if (!fh_is_pow2(align)) {
        errno = EINVAL;
        return NULL;
    }
    return heap_take(heap, size, align, 0);
}

static bool heap_resize_in_place(struct fh_heap *heap, void *block, size_t size)
{
    struct fh_pages *pages;
    struct fh_run *run = fh_block_run(block, &pages);
    if (run == NULL)
        return false;
    size_t usable = fh_run_usable(run);
    if (may_stay(usable, size) && !is_worth_cutting(run, usable, size))
        return true;
    unsigned canary = heap->options.canary_bytes;
    if (run->kind != FH_RUN_LARGE || size <= FH_CLASS_MAX || size > FH_SIZE_MAX - canary)
        return false;
    fh_heap_lock(heap);
    bool done = fh_large_resize(pages, run, size + canary);
    if (done && canary != 0)
        fh_canary_write(heap, run, block);
    fh_heap_unlock(heap);
    return done;
}

static void *resize(struct fh_heap *heap, void *block, size_t size, size_t align)
{
    size_t usable = fh_usable_size(block);
    bool is_aligned = align <= 16 || (uintptr_t)block % align == 0;
    if (is_aligned && heap_resize_in_place(heap, block, size))
        return block;
    void *moved = heap_take(heap, size, align, 0);
    if (moved == NULL)
        return NULL;
    memcpy(moved, block, FH_PLANT(heap_copies_half, 1, 2) * (usable < size ? usable : size) / 2);
    fh_heap_free(heap, block);
    return moved;
}

static void *heap_resize(struct fh_heap *heap, void *block, size_t size, size_t align)
{
    if (block == NULL)
        return heap_take(heap, size, align, 0);
    if (!fh_event_is_heard())
        return resize(heap, block, size, align);
    bool before = fh_event_mute();
    void *resized = resize(heap, block, size, align);
    fh_event_unmute(before);
    if (resized != NULL)
        fh_event_tell(FH_EVENT_RESIZE, resized, block, size, fh_usable_size(resized),
                      __builtin_return_address(0));
    return resized;
}

void *fh_heap_realloc(struct fh_heap *heap, void *block, size_t size)
{
    return heap_resize(heap, block, size, 0);
}

bool fh_heap_owns(struct fh_heap *heap, const void *address)
{
    const struct fh_run *run = fh_pages_find(address, NULL);
    return run != NULL && run->heap == heap;
}

/* ---- measure, walk, check -------------------------------------------------------------------- */

/* Blocks of one run, with those of its local list and of the bin's active list as free ones. */
static int walk_run(struct fh_heap *heap, struct fh_run *run,
                    int (*visit)(void *, const struct fh_block *), void *context)
{
    if (run->kind == FH_RUN_LARGE) {
        struct fh_block block = {(void *)run->base, fh_run_usable(run), true};
        return visit(context, &block);
    }
    uint64_t is_free[FH_GRANULE / 16 / 64];
    memset(is_free, 0, sizeof is_free);
    const struct fh_bin *bin = &heap->bins[run->class_index];
    const void *lists[3] = {run->local, bin->run == run ? bin->free : NULL,
                            bin->run == run ? heap->queues[run->class_index].held : NULL};
    for (unsigned i = 0; i < 3; i++)
        for (const void *block = lists[i]; block != NULL; block = fh_next(block)) {
            uint32_t index = (uint32_t)(((uintptr_t)block - run->base) / run->block_size);
            if (index < run->capacity)
                is_free[index / 64] |= (uint64_t)1 << (index % 64);
        }
    for (uint32_t index = 0; index < run->capacity; index++) {
        struct fh_block block;
        if (!run->manager->resolve(run, run->base + (uintptr_t)index * run->block_size, &block))
            continue;
        block.usable = fh_run_usable(run);
        block.is_live = (is_free[index / 64] >> (index % 64) & 1) == 0;
        int result = visit(context, &block);
        if (result != 0)
            return result;
    }
    return 0;
}

/* May the caller look at this heap's runs? Its own, shared ones, abandoned ones. */
static bool stands_still(const struct fh_heap *heap)
{
    uintptr_t thread = atomic_load_explicit(&heap->thread, memory_order_relaxed);
    return thread == 0 || thread == fh_thread_pointer();
}

/* Locked, when it still stands still then: a new thread may have adopted it meanwhile. */
static bool lock_still(struct fh_heap *heap)
{
    fh_heap_lock(heap);
    if (stands_still(heap))
        return true;
    fh_heap_unlock(heap);
    return false;
}

static int walk_heap(struct fh_heap *heap, int (*visit)(void *, const struct fh_block *),
                     void *context)
{
    int result = 0;
    if (!lock_still(heap))
        return 0;
    if (atomic_load_explicit(&heap->thread, memory_order_relaxed) == fh_thread_pointer())
        fh_remote_flush(heap);
    fh_heap_collect_inbox(heap);
    for (uint32_t index = heap->all_first; index != FH_NO_RUN && result == 0;) {
        struct fh_run *run = fh_run_at(heap->pages, index);
        index = run->heap_next;
        result = walk_run(heap, run, visit, context);
    }
    fh_heap_unlock(heap);
    return result;
}

static int for_heaps(struct fh_heap *heap, int (*act)(struct fh_heap *, void *), void *context)
{
    if (heap != NULL)
        return act(heap, context);
    int result = 0;
    struct fh_heap *before = fh_busy_begin();
    fh_lock_acquire(&fh_root.heaps_lock);
    for (heap = fh_root.heaps; heap != NULL && result == 0; heap = heap->next)
        if (stands_still(heap))
            result = act(heap, context);
    fh_lock_release(&fh_root.heaps_lock);
    fh_busy_end(before);
    return result;
}

struct walk_call {
    int (*visit)(void *, const struct fh_block *);
    void *context;
};

static int walk_one(struct fh_heap *heap, void *context)
{
    struct walk_call *call = context;
    return walk_heap(heap, call->visit, call->context);
}

/* Blocks that a thread got in place of one of its heap's. */
static int walk_sampled(struct fh_heap *heap, int (*visit)(void *, const struct fh_block *),
                        void *context)
{
    const struct fh_mode *mode = fh_root.mode;
    if (mode == NULL || mode->walk == NULL ||
        (heap != NULL && (heap->modes & FH_HEAP_FIRST_CLASS) != 0))
        return 0;
    return mode->walk(heap != NULL ? heap->tid : 0, visit, context);
}

int fh_heap_walk(struct fh_heap *heap, int (*visit)(void *context, const struct fh_block *block),
                 void *context)
{
    struct walk_call call = {visit, context};
    int result = for_heaps(heap, walk_one, &call);
    return result != 0 ? result : walk_sampled(heap, visit, context);
}

static int measure_block(void *context, const struct fh_block *block)
{
    struct fh_measure *out = context;
    if (block->is_live) {
        out->live_blocks++;
        out->live_bytes += block->usable;
    } else {
        out->free_blocks++;
        out->free_bytes += block->usable;
        out->largest_free = fh_max(out->largest_free, block->usable);
    }
    return 0;
}

static int measure_one(struct fh_heap *heap, void *context)
{
    struct fh_measure *out = context;
    walk_heap(heap, measure_block, out);
    if (!lock_still(heap))
        return 0;
    for (uint32_t index = heap->all_first; index != FH_NO_RUN;) {
        const struct fh_run *run = fh_run_at(heap->pages, index);
        index = run->heap_next;
        out->metadata += (size_t)run->span << FH_RUN_SHIFT;
        out->reserved += (size_t)run->span << FH_GRANULE_SHIFT;
        out->footprint += run->kind == FH_RUN_LARGE
                              ? run->large_bytes
                              : (size_t)__builtin_popcountll(run->dirty) << fh_os_page_shift;
    }
    out->metadata += sizeof *heap;
    fh_heap_unlock(heap);
    return 0;
}

int fh_heap_measure(struct fh_heap *heap, struct fh_measure *out)
{
    if (out->size != sizeof *out)
        return -EINVAL;
    *out = (struct fh_measure){.size = sizeof *out};
    int result = for_heaps(heap, measure_one, out);
    return result != 0 ? result : walk_sampled(heap, measure_block, out);
}

static int check_run(struct fh_heap *heap, struct fh_run *run)
{
    int broken = 0;
    if (run->heap != heap) {
        fh_message("check: run %p is in the list of heap %p but belongs to %p", (void *)run,
                   (void *)heap, (void *)run->heap);
        broken++;
    }
    if (run->kind != FH_RUN_BLOCKS)
        return broken;
    uint32_t length = fh_list_length(run->local, run->capacity + 1), used = fh_run_used(run);
    if (used > run->available || run->available > run->capacity ||
        (length != run->available - used && (run->flags & FH_RUN_CUT) == 0)) {
        fh_message("check: run %p of %u-byte blocks: %u used and %u in its list of %u", (void *)run,
                   run->block_size, used, length, run->available);
        broken++;
    }
    for (const void *block = run->local; block != NULL && length-- > 0; block = fh_next(block))
        if (((uintptr_t)block - run->base) % run->block_size != 0 ||
            ((uintptr_t)block - run->base) / run->block_size >= run->capacity) {
            fh_message("check: run %p has %p in its free list, no block of it", (void *)run, block);
            broken++;
            break;
        }
    bool is_bin = heap->bins[run->class_index].run == run;
    bool is_right = run->state == FH_STATE_CURRENT   ? is_bin && run->used_floor == 0
                    : run->state == FH_STATE_FULL    ? run->local == NULL && run->countdown == 1
                    : run->state == FH_STATE_FRESH   ? run->local == NULL && run->countdown == 1
                    : run->state == FH_STATE_PARTIAL ? run->local != NULL && run->used_floor == 0
                                                     : used == 0;
    if (!is_right) {
        fh_message("check: run %p in state %u: %u used, countdown %u, local %p", (void *)run,
                   run->state, used, run->countdown, run->local);
        broken++;
    }
    return broken;
}

static int check_one(struct fh_heap *heap, void *context)
{
    int *broken = context;
    if (!lock_still(heap))
        return 0;
    uint32_t runs[FH_CLASS_COUNT] = {0};
    for (uint32_t index = heap->all_first; index != FH_NO_RUN;) {
        struct fh_run *run = fh_run_at(heap->pages, index);
        index = run->heap_next;
        *broken += check_run(heap, run);
        if (run->kind == FH_RUN_BLOCKS)
            runs[run->class_index]++;
    }
    for (unsigned i = 0; i < FH_CLASS_COUNT; i++)
        if (runs[i] != heap->queues[i].runs) {
            fh_message("check: %u runs of class %u counted, %u found", heap->queues[i].runs, i,
                       runs[i]);
            (*broken)++;
        }
    fh_heap_unlock(heap);
    return 0;
}

int fh_heap_check(struct fh_heap *heap)
{
    int broken = 0;
    for_heaps(heap, check_one, &broken);
    if (heap == NULL || heap->own_pages == NULL)
        broken += fh_pages_main.limit != 0 ? fh_pages_check(&fh_pages_main) : 0;
    else
        broken += fh_pages_check(heap->own_pages);
    return broken;
}

/* ---- fh_allocator ---------------------------------------------------------------------------- */

static void *op_alloc(void *self, size_t size, size_t align, unsigned flags)
{
    if (align > FH_ALIGN_MAX) {
        errno = EINVAL;
        return NULL;
    }
    return heap_take(self, size, align, flags);
}

static bool op_resize_in_place(void *self, void *block, size_t old_size, size_t new_size)
{
    (void)old_size;
    return heap_resize_in_place(self, block, new_size);
}

/* The alignment that a block may have been asked to have: of a class's blocks what all of them have. An
 * address must not be asked: by luck it has more, and a block that is resized often would need ever more. */
static size_t given_alignment(const void *block)
{
    const struct fh_run *run = fh_block_run(block, NULL);
    if (run == NULL && fh_is_modes(block)) { /* aligned as a block of the heap's of its size is */
        size_t size = fh_usable_size(block);
        return fh_min(fh_max(size & (~size + 1), FH_ALIGN_DEFAULT), FH_CLASS_ONE_MAX);
    }
    if (run == NULL)
        return FH_ALIGN_DEFAULT;
    if (run->kind == FH_RUN_LARGE)
        return run->align;
    return FH_PLANT(heap_forgets_alignment_given, FH_ALIGN_DEFAULT,
                    run->block_size & (~run->block_size + 1));
}

static void *op_resize(void *self, void *block, size_t old_size, size_t new_size, size_t align)
{
    (void)old_size;
    if (align > FH_ALIGN_MAX || (align & (align - 1)) != 0) {
        errno = EINVAL;
        return NULL;
    }
    if (block != NULL && fh_block_run(block, NULL) == NULL && !fh_emergency_owns(block) &&
        !fh_is_modes(block)) {
        (void)fh_usable_size(block); /* reports it */
        errno = EINVAL;
        return NULL;
    }
    if (align == 0 && block != NULL)
        align = given_alignment(block);
    return heap_resize(self, block, new_size, align);
}

FH_ADAPT_FREE(heap)
FH_ADAPT_WHOLE(heap)

static void op_free_sized(void *self, void *block, size_t size, size_t align)
{
    (void)align;
    if (block != NULL && fh_usable_size(block) < size) {
        fh_report("size-mismatch", block, "freed with a size larger than the block");
        return;
    }
    fh_heap_free(self, block);
}

static size_t op_usable_size(void *self, const void *block)
{
    (void)self;
    return fh_usable_size(block);
}

struct fh_allocator fh_heap_allocator(struct fh_heap *heap)
{
    static const struct fh_allocator_ops ops = FH_ADAPTER_OPS(
        "heap", FH_ALLOCATOR_THREAD_SAFE | FH_ALLOCATOR_MOVES, op_resize_in_place, op_usable_size);
    return (struct fh_allocator){&ops, heap};
}
