/*
 * guard: the table that the heap hands its calls to (heap/mode.h), and what is common to all guarded blocks.
 *
 * Which kind of block a request gets: a fenced one while the budget of its site and of the process allow (fence.c), a
 * slot of a class (slots.c), a run of its own (large.c). Who gives a block back is led to its kind by the address
 * alone: the fences' region is one range, all others are runs of the main window of kind GUARDED.
 *
 * A free from a signal handler that interrupted this code can't touch anything of ours: the block goes into `late`,
 * a small array without locks, which is emptied by whoever frees next. When it is full the block stays as it is: a
 * leak, which is better than what else could happen.
 */
#include "base/lock.h"
#include "base/message.h"
#include "guard/pressure.h"
#include "guard/thread.h"
#include "heap/heap.h"
#include "os/sys.h"

#include <errno.h>
#include <string.h>

enum { LATE = 64, KNOWN_BITS = 9, AREA_WORDS = 1 << 14 };

static struct {
    _Atomic(struct fh_guard_thread *) threads;
    _Atomic uint32_t thread_count;
    _Atomic(void *) late[LATE];
    _Atomic uint32_t late_count; /* at least so many are there */
} guard;

/* ---- threads ----------------------------------------------------------------------------------- */

static struct fh_guard_thread *make_thread(void)
{
    const size_t entries = sizeof(struct fh_known_entry) << KNOWN_BITS;
    struct fh_guard_thread *mine = fh_meta_map(sizeof *mine);
    if (mine == NULL)
        return NULL;
    mine->known.entries = fh_meta_map(entries + AREA_WORDS * 8);
    if (mine->known.entries == NULL || !fh_quarantine_start(&mine->quarantine)) {
        if (mine->known.entries != NULL)
            fh_meta_unmap(mine->known.entries, entries + AREA_WORDS * 8);
        fh_meta_unmap(mine, sizeof *mine);
        return NULL;
    }
    mine->known.area = (uint64_t *)((char *)mine->known.entries + entries);
    mine->known.area_words = AREA_WORDS;
    mine->known.bits = KNOWN_BITS;
    fh_random_seed(&mine->random, fh_os_random());
    mine->gap = fh_sample_draw(&mine->random, fh_guard_settings.guard);
    atomic_fetch_add_explicit(&guard.thread_count, 1, memory_order_relaxed);
    struct fh_guard_thread *first = atomic_load_explicit(&guard.threads, memory_order_relaxed);
    do
        mine->next = first;
    /* release pairs with the acquire in fh_guard_threads */
    while (!atomic_compare_exchange_weak_explicit(&guard.threads, &first, mine,
                                                  memory_order_release, memory_order_relaxed));
    return mine;
}

/* The heap came from another thread: what it knows of stacks is not true of this one's. */
static void adopt(struct fh_guard_thread *mine)
{
    memset(mine->known.entries, 0, sizeof(struct fh_known_entry) << KNOWN_BITS);
    memset(&mine->stack, 0, sizeof mine->stack);
    memset(mine->recent, 0, sizeof mine->recent);
    mine->thread = fh_thread_pointer();
    fh_quarantine_share(&mine->quarantine,
                        atomic_load_explicit(&guard.thread_count, memory_order_relaxed));
    mine->tid = fh_os_gettid();
    fh_fault_thread();
}

FH_INLINE struct fh_guard_thread *mine_of(struct fh_heap *heap)
{
    struct fh_guard_thread *mine = heap->guard;
    if (FH_UNLIKELY(mine == NULL)) {
        mine = make_thread();
        if (mine == NULL)
            return NULL;
        heap->guard = mine;
    }
    if (FH_UNLIKELY(mine->thread != fh_thread_pointer()))
        adopt(mine);
    return mine;
}

struct fh_guard_thread *fh_guard_mine(void)
{
    return mine_of(fh_heap_current);
}

struct fh_guard_thread *fh_guard_threads(void)
{
    return atomic_load_explicit(&guard.threads, memory_order_acquire);
}

/* ---- late frees -------------------------------------------------------------------------------- */

void fh_guard_free_later(void *block)
{
    for (unsigned i = 0; i < LATE; i++) {
        void *none = NULL;
        if (atomic_compare_exchange_strong_explicit(&guard.late[i], &none, block,
                                                    memory_order_relaxed, memory_order_relaxed)) {
            atomic_fetch_add_explicit(&guard.late_count, 1, memory_order_relaxed);
            return;
        }
    }
}

FH_INLINE bool has_late(void)
{
    return FH_UNLIKELY(atomic_load_explicit(&guard.late_count, memory_order_relaxed) != 0);
}

void *fh_guard_next_late(void)
{
    if (!has_late())
        return NULL;
    for (unsigned i = 0; i < LATE; i++) {
        void *block = atomic_exchange_explicit(&guard.late[i], NULL, memory_order_relaxed);
        if (block == NULL)
            continue;
        atomic_fetch_sub_explicit(&guard.late_count, 1, memory_order_relaxed);
        return block;
    }
    return NULL;
}

/* ---- the table ---------------------------------------------------------------------------------- */

static bool guard_is_mine(const void *address)
{
    if (fh_pages_contain(&fh_pages_main, address)) {
        const struct fh_run *run = fh_window_run(&fh_pages_main.window, address);
        if (run->kind == FH_RUN_GUARDED)
            return true;
        return (run->kind == FH_RUN_REST || run->kind == FH_RUN_NONE) &&
               fh_pages_find_guarded(address) != NULL;
    }
    return fh_fence_owns(address);
}

static bool is_pressed(void)
{
    return FH_UNLIKELY(fh_guard_settings.is_failing || fh_guard_settings.limit != 0);
}

/* As slots and large blocks are (slots.c, large.c): fences are zero. */
static void fill_fenced(char *block, size_t size, unsigned how, uint32_t stack)
{
    const uint64_t word = FH_FILL_NEW(stack);
    if (!fh_guard_settings.is_filling || (how & FH_HOW_ZEROED) != 0)
        return;
    for (size_t at = 0; at < size; at += sizeof word)
        memcpy(block + at, &word, fh_min(sizeof word, size - at));
}

/* guard=SIZE: see heap/sample.c, whose heirs these samples are where the heap is not asked. */
FH_INLINE bool is_due(struct fh_guard_thread *mine, size_t size)
{
    if (FH_LIKELY(size < mine->gap)) {
        mine->gap -= size;
        return false;
    }
    mine->gap = fh_sample_draw(&mine->random, fh_guard_settings.guard);
    return true;
}

/* The site's next block between inaccessible pages, or NULL; and when to ask again. */
static FH_NOINLINE void *alloc_fenced(struct fh_guard_thread *mine, size_t size, size_t align,
                                      unsigned how, struct fh_site *site, bool is_sample)
{
    void *block = NULL;
    if (fh_fence_wanted(site, is_sample))
        block = fh_fence_alloc(size, align, how, site->stack, (site->fenced & 1) == 0);
    if (block != NULL) {
        site->ask_at = 0;
        mine->live += (int64_t)size;
        fill_fenced(block, size, how, site->stack);
    } else {
        const uint32_t count = atomic_load_explicit(&site->count, memory_order_relaxed);
        site->ask_at = fh_guard_settings.guard == 1 ? 0 : count + 1 + count / 16;
    }
    return block;
}

/* One allocation more; whether a fence is to be thought of. */
FH_INLINE bool count_alloc(struct fh_site *site)
{
    const uint32_t count = atomic_load_explicit(&site->count, memory_order_relaxed) + 1;
    atomic_store_explicit(&site->count, count, memory_order_relaxed);
    return FH_UNLIKELY(count >= site->ask_at);
}

static void *alloc_at(struct fh_guard_thread *mine, size_t size, size_t align, unsigned how,
                      struct fh_site *site)
{
    void *block = NULL;
    const bool is_sample = is_due(mine, size);
    if (site != NULL && (count_alloc(site) || is_sample))
        block = alloc_fenced(mine, size, align, how, site, is_sample);
    if (block != NULL)
        return block;
    const uint32_t number = site != NULL ? site->number : 0;
    block = size <= FH_CLASS_MAX - 8 && align <= FH_CLASS_ONE_MAX
                ? fh_slot_alloc(mine, size, align, how, number)
                : fh_wide_alloc(mine, size, align, how, number);
    if (block != NULL)
        mine->live += (int64_t)size;
    return block;
}

static void *alloc_of(struct fh_guard_thread *mine, size_t size, size_t align, unsigned how,
                      const struct fh_call *call)
{
    return alloc_at(mine, size, align, how, fh_site_of(mine, call));
}

static void *guard_alloc(size_t size, size_t align, unsigned how, const struct fh_call *call)
{
    struct fh_guard_thread *mine = fh_guard_mine();
    if (mine == NULL || (is_pressed() && fh_pressure_refuses(size, 0, how, call)))
        return NULL;
    return alloc_of(mine, size, align, how, call);
}

static void free_one(void *block, size_t size, size_t align, unsigned how,
                     const struct fh_call *call)
{
    struct fh_guard_thread *mine = fh_guard_mine();
    if (mine == NULL)
        return;
    const struct fh_site *site = fh_site_of(mine, call);
    const uint32_t number = site != NULL ? site->number : 0;
    if (fh_fence_owns(block)) {
        struct fh_extent extent;
        if (fh_fence_extent(block, &extent) && extent.is_live)
            mine->live -= (int64_t)(extent.high - extent.low);
        fh_fence_free(block, size, align, how, fh_site_stack(number), call);
        if (fh_guard_settings.is_sweeping)
            fh_sweep_count(mine, FH_FENCE_SWEPT);
        return;
    }
    struct fh_run *run = fh_pages_find_guarded(block);
    if (run == NULL)
        return; /* another thread gave the run back meanwhile: it was freed twice at once */
    if (run->class_index == FH_CLASS_LARGE)
        fh_wide_free(mine, run, block, size, align, how, number, call);
    else
        fh_slot_free(mine, run, block, size, align, how, number, call);
}

static bool guard_free(void *block, size_t size, size_t align, unsigned how,
                       const struct fh_call *call)
{
    if (FH_UNLIKELY(!guard_is_mine(block)))
        return false;
    free_one(block, size, align, how, call);
    while (FH_UNLIKELY((block = fh_guard_next_late()) != NULL))
        free_one(block, 0, 0, FH_HOW_ANY, call);
    return true;
}

/* ---- the same for hardened mode alone ------------------------------------------------------------- */

FH_INLINE struct fh_guard_thread *mine_quickly(void)
{
    struct fh_guard_thread *mine = fh_heap_current->guard;
    if (FH_UNLIKELY(mine == NULL || mine->thread != fh_thread_pointer()))
        return fh_guard_mine();
    return mine;
}

static void *plain_alloc(size_t size, size_t align, unsigned how, const struct fh_call *call)
{
    struct fh_guard_thread *mine = mine_quickly();
    if (FH_UNLIKELY(mine == NULL))
        return NULL;
    struct fh_site *site = fh_site_quick(mine, call);
    if (FH_UNLIKELY(size > FH_CLASS_STEP_MAX - 8 || align != 0))
        return alloc_at(mine, size, align, how, site);
    if (FH_UNLIKELY(site == NULL))
        return fh_slot_alloc_plain(mine, size, how, 0);
    const bool is_sample = is_due(mine, size);
    if (count_alloc(site) || FH_UNLIKELY(is_sample)) {
        void *block = alloc_fenced(mine, size, align, how, site, is_sample);
        if (block != NULL)
            return block;
    }
    return fh_slot_alloc_plain(mine, size, how, site->number);
}

static bool plain_free(void *block, size_t size, size_t align, unsigned how,
                       const struct fh_call *call)
{
    struct fh_guard_thread *mine = mine_quickly();
    if (FH_UNLIKELY(!fh_pages_contain(&fh_pages_main, block)))
        return guard_free(block, size, align, how, call);
    struct fh_run *run = fh_window_run(&fh_pages_main.window, block);
    if (FH_UNLIKELY(mine == NULL || run->kind != FH_RUN_GUARDED ||
                    run->block_size - 1 >= FH_CLASS_STEP_MAX ||
                    (how & ~(unsigned)FH_HOW_RESIZE) != 0 || has_late()))
        return guard_free(block, size, align, how, call);
    const struct fh_site *site = fh_site_quick(mine, call);
    fh_slot_free_plain(mine, run, block, how, site != NULL ? site->number : 0, call);
    return true;
}

/* Whether realloc may leave the block where it is; debug mode moves it, so that who still has the old address is
 * found out, unless it is large. */
static bool resize_in_place(void *block, size_t size)
{
    struct fh_run *run = fh_pages_find_guarded(block);
    if (run == NULL)
        return false;
    if (run->class_index == FH_CLASS_LARGE)
        return fh_wide_resize(run, block, size);
    return fh_guard_settings.mode != FH_MODE_DEBUG && fh_slot_resize(run, block, size);
}

static void *guard_resize(void *block, size_t size, const struct fh_call *call)
{
    struct fh_guard_block old;
    struct fh_guard_thread *mine = fh_guard_mine();
    if (mine == NULL || !fh_guard_find(block, &old))
        return NULL;
    if (fh_free_is_wrong(&old, block, 0, 0, FH_HOW_MALLOC | FH_HOW_RESIZE, call))
        return NULL;
    if (size > old.requested && is_pressed() &&
        fh_pressure_refuses(size, old.requested, FH_HOW_MALLOC | FH_HOW_RESIZE, call))
        return NULL;
    if (resize_in_place(block, size)) {
        mine->live += (int64_t)size - (int64_t)old.requested;
        return block;
    }
    void *moved = alloc_of(mine, size, 0, FH_HOW_MALLOC, call);
    if (moved == NULL)
        return NULL;
    memcpy(moved, block, fh_min(old.requested, size));
    guard_free(block, 0, 0, FH_HOW_MALLOC | FH_HOW_RESIZE, call);
    return moved;
}

size_t fh_guard_usable(const void *block)
{
    struct fh_guard_block found;
    if (!fh_guard_find(block, &found))
        return 0;
    if (found.address == (uintptr_t)block && found.state == FH_BLOCK_LIVE)
        return found.requested;
    const struct fh_call call = FH_CALL_HERE();
    const struct fh_error error = {
        .kind = "invalid-free",
        .address = (uintptr_t)block,
        .function = "malloc_usable_size",
        .call = &call,
        .block = &found,
        .detail = "usable size asked of a pointer that is no block",
    };
    fh_error(&error);
    return 0;
}

static void guard_finish(void)
{
    struct fh_heap *before = fh_busy_begin();
    fh_fence_inspect();
    fh_slots_inspect(UINT32_MAX);
    fh_busy_end(before);
}

void fh_guard_end(void)
{
    if (fh_root.mode != NULL && fh_root.mode->finish != NULL)
        fh_root.mode->finish();
    fh_error_sum_up();
}

static void guard_count(uint64_t *allocs, uint64_t *frees)
{
    for (const struct fh_guard_thread *t = fh_guard_threads(); t != NULL; t = t->next)
        for (unsigned i = 0; i <= FH_CLASS_COUNT; i++) {
            allocs[i] += t->allocs[i];
            frees[i] += t->frees[i];
        }
}

static void guard_forked(void)
{
    fh_fence_forked();
    struct fh_guard_thread *mine = fh_heap_current->guard;
    if (mine != NULL)
        mine->tid = fh_os_gettid();
    fh_sweep_forked();
}

/* ---- blocks ------------------------------------------------------------------------------------- */

static bool find_in_heap(const void *address, struct fh_guard_block *out)
{
    struct fh_block block;
    const struct fh_run *run = fh_pages_find(address, NULL);
    if (run == NULL || run->manager == NULL ||
        !run->manager->resolve(run, (uintptr_t)address, &block))
        return false;
    *out = (struct fh_guard_block){
        .address = (uintptr_t)block.address,
        .requested = block.usable,
        .usable = block.usable,
        .state = block.is_live ? FH_BLOCK_LIVE : FH_BLOCK_FREED,
        .kind = "heap",
    };
    return true;
}

bool fh_guard_find(const void *address, struct fh_guard_block *out)
{
    if (fh_fence_owns(address))
        return fh_fence_find(address, out);
    const struct fh_run *run = fh_pages_find_guarded(address);
    if (run == NULL)
        return find_in_heap(address, out);
    return run->class_index == FH_CLASS_LARGE ? fh_wide_find(run, (uintptr_t)address, out)
                                              : fh_slot_find(run, (uintptr_t)address, out);
}

bool fh_guard_extent(const void *address, struct fh_extent *out)
{
    struct fh_guard_block block;
    if (!fh_pages_contain(&fh_pages_main, address))
        return fh_fence_extent(address, out);
    const struct fh_run *run = fh_window_run(&fh_pages_main.window, address);
    if (FH_LIKELY(run->kind == FH_RUN_GUARDED && run->class_index != FH_CLASS_LARGE))
        return fh_slot_extent(run, (uintptr_t)address, out);
    run = fh_pages_find_guarded(address);
    if (run != NULL)
        return run->class_index == FH_CLASS_LARGE ? fh_wide_extent(run, out)
                                                  : fh_slot_extent(run, (uintptr_t)address, out);
    if (!find_in_heap(address, &block))
        return false;
    *out = (struct fh_extent){
        .low = block.address,
        .high = block.address + block.requested,
        .is_live = block.state == FH_BLOCK_LIVE,
    };
    return true;
}

size_t fh_guard_live(void)
{
    int64_t live = 0;
    for (const struct fh_guard_thread *t = fh_guard_threads(); t != NULL; t = t->next)
        live += t->live;
    return live > 0 ? (size_t)live : 0;
}

int fh_guard_walk(int (*visit)(void *context, const struct fh_guard_block *block), void *context)
{
    int result = fh_fence_walk(visit, context);
    if (result == 0)
        result = fh_slots_walk(visit, context, false);
    return result != 0 ? result : fh_wides_walk(visit, context, false);
}

/* ---- start -------------------------------------------------------------------------------------- */

const struct fh_mode *fh_mode_start(void)
{
    static struct fh_mode mode = {
        .alloc = guard_alloc,
        .free = guard_free,
        .free_later = fh_guard_free_later,
        .resize = guard_resize,
        .is_mine = guard_is_mine,
        .usable = fh_guard_usable,
        .finish = guard_finish,
        .count = guard_count,
        .forked = guard_forked,
    };
    fh_guard_settle();
    if (fh_guard_settings.is_plain) {
        mode.alloc = plain_alloc;
        mode.free = plain_free;
    }
    const struct fh_guard_settings *s = &fh_guard_settings;
    mode.is_guarded = s->mode != FH_MODE_FAST || s->limit != 0 || s->is_failing || s->is_sweeping ||
                      s->guard == 1;
    if (!mode.is_guarded)
        return fh_sample_mode();
    if (s->mode == FH_MODE_DEBUG && s->has_wrappers && &fh_debug_is_loaded == NULL)
        fh_message(
            "mode=debug: libfreehold-debug is not preloaded; what memcpy, strcpy, read and their "
            "kind do is not checked (freehold run preloads it)");
    fh_canary_start();
    fh_slots_start();
    fh_wides_start();
    fh_sweep_start();
    fh_fault_start();
    fh_executable_stack_start();
    return &mode;
}
