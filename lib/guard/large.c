/*
 * Large guarded blocks: each a run of its own, between inaccessible pages.
 *
 *     run  | guard page | canary … block … canary | guard page | rest of the last granule |
 *
 * The block ends at the second guard page, as near as its alignment allows; up to NEAR bytes on both sides that are
 * not the block's are canary. When it is freed the whole run becomes inaccessible, and gives its memory back by that; so a
 * use after free traps. Address space is what it costs to let it wait, so runs wait first in, first out, as long as
 * WAIT_BYTES and WAIT_MOST allow.
 *
 * Guards are system calls (some 2 µs each) and give memory back that the kernel must clear again. A program that
 * takes and frees large blocks all the time gets only so many by the budget (budget.c): then the block lies in
 * its run without guards, is checked by its canary, is cleared when it is freed, and waits as OPEN_BYTES allow.
 *
 * With uaf=sweep every freed run is closed, budget or not, and waits until a sweep finds that nothing points to its
 * block (sweep.c).
 *
 * What is known lies out of line in a *wide*, which the run's header points to. All wides are in a list; its lock
 * guards it, the queue of those that wait, and the spare ones.
 */
#include "base/lock.h"
#include "guard/thread.h"
#include "heap/heap.h"
#include "os/mem.h"
#include "os/sys.h"
#include "scan/scan.h"

#include <string.h>

#define WAIT_BYTES ((size_t)1 << 30)
#define OPEN_BYTES ((size_t)2 << 20)
enum { WAIT_MOST = 64, NEAR = 64, GUARD_NS = 2500, PAGE_NS = 300, CLOSED_SHARE = 16 };

struct wide {
    uintptr_t address;
    size_t requested, align;
    uintptr_t data_end; /* where the block's memory ends */
    struct fh_run *run;
    enum fh_block_state state;
    uint32_t turn; /* changes with what fh_wide_extent tells, over all blocks described here */
    unsigned family;
    bool is_guarded; /* pages around it are inaccessible; freed: all are */
    uint32_t alloc_site, free_site;
    int alloc_thread, free_thread;
    uint64_t alloc_ns, free_ns;
    struct wide *next, **link; /* all of them; spare: next */
    struct wide *next_waiting;
};

static struct {
    struct fh_lock lock;
    struct wide *all, *spare;
    struct wide *waiting_first, *waiting_last;
    size_t waiting_count, waiting_bytes;
    size_t waiting_open; /* bytes of those that keep their memory */
} wides;

#define PAGES (&fh_pages_main)

static struct wide *wide_of(const struct fh_run *run)
{
    return run->local;
}

/* ---- what a report says ---------------------------------------------------------------------- */

bool fh_wide_find(const struct fh_run *run, uintptr_t address, struct fh_guard_block *out)
{
    const struct wide *wide = wide_of(run);
    (void)address;
    if (wide == NULL)
        return false;
    *out = (struct fh_guard_block){
        .address = wide->address,
        .requested = wide->requested,
        .usable = wide->data_end - wide->address,
        .align = wide->align,
        .state = wide->state,
        .family = wide->family,
        .alloc_stack = fh_site_stack(wide->alloc_site),
        .alloc_thread = wide->alloc_thread,
        .alloc_ns = wide->alloc_ns,
        .kind = "large",
    };
    if (wide->state == FH_BLOCK_FREED) {
        out->free_stack = fh_site_stack(wide->free_site);
        out->free_thread = wide->free_thread;
        out->free_ns = wide->free_ns;
    }
    return true;
}

bool fh_wide_extent(const struct fh_run *run, struct fh_extent *out)
{
    const struct wide *wide = wide_of(run);
    if (wide == NULL || wide->state == FH_BLOCK_NEVER)
        return false;
    *out = (struct fh_extent){wide->address, wide->address + wide->requested,
                              wide->state == FH_BLOCK_LIVE, &wide->turn, wide->turn};
    return true;
}

static bool resolve(const struct fh_run *run, uintptr_t address, struct fh_block *out)
{
    struct fh_guard_block block;
    if (!fh_wide_find(run, address, &block) || address < block.address ||
        address >= block.address + block.usable)
        return false;
    *out = (struct fh_block){
        .address = (void *)block.address,
        .usable = block.requested,
        .is_live = block.state == FH_BLOCK_LIVE,
    };
    return true;
}

static const struct fh_owner wide_owner = {.name = "guarded", .resolve = resolve};

/* ---- the account of pages in memory ------------------------------------------------------------ */

static void set_dirty(struct fh_run *run, bool is_dirty)
{
    if (run->span > FH_HUGE_SPAN)
        return;
    const unsigned per_granule = (unsigned)(FH_GRANULE >> fh_os_page_shift);
    const uint64_t all = per_granule == 64 ? ~(uint64_t)0 : ((uint64_t)1 << per_granule) - 1;
    const uint32_t index = fh_run_index(PAGES, run);
    size_t more = 0, less = 0;
    for (uint32_t i = 0; i < run->span; i++) {
        struct fh_run *granule = fh_run_at(PAGES, index + i);
        if (is_dirty)
            more += (size_t)__builtin_popcountll(all & ~granule->dirty);
        else
            less += (size_t)__builtin_popcountll(granule->dirty);
        granule->dirty = is_dirty ? all : 0;
    }
    fh_pages_count(PAGES, more, less);
}

/* ---- allocation --------------------------------------------------------------------------------- */

static struct wide *take_wide(void)
{
    fh_lock_acquire(&wides.lock);
    struct wide *wide = wides.spare;
    if (wide != NULL)
        wides.spare = wide->next;
    fh_lock_release(&wides.lock);
    return wide != NULL ? wide : fh_meta_alloc(sizeof *wide);
}

static void spare_wide(struct wide *wide)
{
    fh_lock_acquire(&wides.lock);
    wide->next = wides.spare;
    wides.spare = wide;
    fh_lock_release(&wides.lock);
}

static uintptr_t run_end(const struct fh_run *run)
{
    return run->base + ((uintptr_t)run->span << FH_GRANULE_SHIFT);
}

/* The page before the block's and the one behind. False: the kernel refused, and none is there. */
static bool guard_both(const struct fh_run *run, uintptr_t data_end)
{
    const size_t page = fh_os_page_size;
    if (fh_os_guard((void *)run->base, page) != 0)
        return false;
    if (fh_os_guard((void *)data_end, page) == 0)
        return true;
    (void)fh_os_unguard((void *)run->base, page);
    return false;
}

static void fill_near(const struct wide *wide, uintptr_t data_begin)
{
    const uintptr_t end = wide->address + wide->requested;
    fh_canary_fill(wide->address - fh_min(wide->address - data_begin, (uintptr_t)NEAR),
                   wide->address);
    fh_canary_fill(end, fh_min(wide->data_end, end + NEAR));
}

static bool is_near_whole(const struct wide *wide, uintptr_t data_begin, uintptr_t *low,
                          uintptr_t *high)
{
    const uintptr_t end = wide->address + wide->requested;
    return fh_canary_holds(wide->address - fh_min(wide->address - data_begin, (uintptr_t)NEAR),
                           wide->address, low, high) &&
           fh_canary_holds(end, fh_min(wide->data_end, end + NEAR), low, high);
}

void *fh_wide_alloc(struct fh_guard_thread *mine, size_t size, size_t align, unsigned how,
                    uint32_t site)
{
    const size_t page = fh_os_page_size;
    const size_t step = fh_max(align, 16);
    if (size > FH_SIZE_MAX - 4 * FH_GRANULE || step > FH_SIZE_MAX / 4 - size / 4)
        return NULL;
    /* The block and its alignment, a canary, and a page on each side. */
    const size_t whole = fh_align_up(size + 8 + (step > page ? step : 16), page) + 2 * page;
    const size_t granules = (whole + FH_GRANULE - 1) >> FH_GRANULE_SHIFT;
    bool is_zero = false;
    struct wide *wide = take_wide();
    struct fh_run *run = wide != NULL ? fh_pages_alloc(PAGES, granules, 1, &is_zero) : NULL;
    if (run == NULL) {
        if (wide != NULL)
            spare_wide(wide);
        return NULL;
    }
    run->base = (uintptr_t)fh_run_address(PAGES, run);
    const uintptr_t data_begin = run->base + page, data_end = run->base + whole - page;
    *wide = (struct wide){
        .address = fh_align_down(data_end - size, step),
        .requested = size,
        .align = how & FH_HOW_ALIGNED ? align : 0,
        .data_end = data_end,
        .run = run,
        .state = FH_BLOCK_LIVE,
        .turn = wide->turn + 1,
        .family = how & FH_HOW_FAMILY,
        .alloc_site = site,
        .alloc_thread = mine->tid,
        .alloc_ns = fh_os_now_ns(),
    };
    set_dirty(run, true);
    if (!is_zero && ((how & FH_HOW_ZEROED) || fh_guard_settings.is_zeroing))
        memset((void *)wide->address, 0, size);
    wide->is_guarded = fh_budget_take(2 * GUARD_NS) && guard_both(run, data_end);
    if (fh_guard_settings.is_filling && (how & FH_HOW_ZEROED) == 0 &&
        size <= ((size_t)1 << 20)) { /* beyond, memory that is not touched counts more */
        uint64_t *words = (uint64_t *)wide->address;
        for (size_t i = 0; i < size / 8; i++)
            words[i] = FH_FILL_NEW(fh_site_stack(site));
    }
    fill_near(wide, data_begin);
    run->local = wide;
    run->block_size = 0;
    run->reciprocal = 0;
    run->capacity = run->available = 1;
    run->countdown = run->used_floor = 0;
    run->class_index = FH_CLASS_LARGE;
    run->flags = FH_RUN_SLOW;
    run->large_bytes = size;
    run->manager = &wide_owner;
    run->heap = NULL;
    atomic_store_explicit(&run->remote, 0, memory_order_relaxed);
    atomic_store_explicit(&run->key, FH_KEY_NOBODY, memory_order_relaxed);
    fh_lock_acquire(&wides.lock);
    wide->next = wides.all;
    wide->link = &wides.all;
    if (wide->next != NULL)
        wide->next->link = &wide->next;
    wides.all = wide;
    fh_lock_release(&wides.lock);
    fh_run_set_kind(run, FH_RUN_GUARDED);
    mine->allocs[FH_CLASS_LARGE]++;
    return (void *)wide->address;
}

/* ---- free ---------------------------------------------------------------------------------------- */

/* Nobody's any more: its pages can be used again. Not in any list. */
static void give_back(struct wide *wide)
{
    struct fh_run *run = wide->run;
    const size_t bytes = (size_t)run->span << FH_GRANULE_SHIFT;
    if (wide->is_guarded) {
        if (fh_os_unguard((void *)run->base, bytes) != 0)
            return; /* address space that stays inaccessible: safe, and lost */
        set_dirty(run, false);
    }
    run->local = NULL;
    fh_run_set_kind(run, FH_RUN_NONE);
    fh_pages_free(PAGES, run);
    fh_decay_wanted(NULL, bytes);
    spare_wide(wide);
}

static void unlink_wide(struct wide *wide)
{
    *wide->link = wide->next;
    if (wide->next != NULL)
        wide->next->link = wide->link;
}

/* Lock held: who waited longest, when there are too many; not in any list any more. */
static struct wide *pop_waiting(void)
{
    struct wide *wide = wides.waiting_first;
    if (wide == NULL || fh_guard_settings.is_sweeping ||
        (wides.waiting_count <= WAIT_MOST && wides.waiting_bytes <= WAIT_BYTES &&
         wides.waiting_open <= OPEN_BYTES))
        return NULL;
    wides.waiting_first = wide->next_waiting;
    if (wides.waiting_first == NULL)
        wides.waiting_last = NULL;
    const size_t bytes = run_end(wide->run) - wide->run->base;
    wides.waiting_count--;
    wides.waiting_bytes -= bytes;
    wides.waiting_open -= wide->is_guarded ? 0 : bytes;
    unlink_wide(wide);
    return wide;
}

static void wait(struct wide *wide)
{
    struct wide *gone;
    fh_lock_acquire(&wides.lock);
    wide->next_waiting = NULL;
    if (wides.waiting_last != NULL)
        wides.waiting_last->next_waiting = wide;
    else
        wides.waiting_first = wide;
    wides.waiting_last = wide;
    const size_t bytes = run_end(wide->run) - wide->run->base;
    wides.waiting_count++;
    wides.waiting_bytes += bytes;
    wides.waiting_open += wide->is_guarded ? 0 : bytes;
    while ((gone = pop_waiting()) != NULL) {
        fh_lock_release(&wides.lock);
        give_back(gone);
        fh_lock_acquire(&wides.lock);
    }
    fh_lock_release(&wides.lock);
}

static FH_COLD void report_near(struct wide *wide, uintptr_t low, uintptr_t high,
                                const struct fh_call *call)
{
    struct fh_guard_block block;
    uint8_t expected[2 * NEAR];
    fh_wide_find(wide->run, low, &block);
    fh_canary_tell(low, expected, sizeof expected);
    const struct fh_error error = {
        .kind = low < wide->address ? "heap-buffer-underflow" : "heap-buffer-overflow",
        .address = low,
        .size = high - low,
        .access = FH_ACCESS_WRITE,
        .function = "free",
        .call = call,
        .block = &block,
        .damage_low = low,
        .damage_high = high,
        .expected = expected,
        .detail = "the bytes beside the block were overwritten",
    };
    fh_error(&error);
}

/* What it counts for in the sweep: a closed block has no memory, but tables of the kernel and addresses. */
static size_t weight_of(const struct wide *wide)
{
    return fh_guard_settings.is_sweeping ? (run_end(wide->run) - wide->run->base) / CLOSED_SHARE
                                         : 0;
}

/* Makes a freed block's run inaccessible, as far as the budget allows, or whatever it costs when its addresses must
 * wait for a sweep. */
static bool close_all(struct wide *wide, size_t bytes)
{
    const uint32_t pages = (uint32_t)fh_min(bytes >> fh_os_page_shift, 4096);
    if (!fh_guard_settings.is_sweeping &&
        (!wide->is_guarded || !fh_budget_take(GUARD_NS + pages * PAGE_NS)))
        return false;
    if (fh_os_guard((void *)wide->run->base, bytes) != 0)
        return false;
    wide->is_guarded = true;
    return true;
}

void fh_wide_free(struct fh_guard_thread *mine, struct fh_run *run, void *block, size_t size,
                  size_t align, unsigned how, uint32_t site, const struct fh_call *call)
{
    struct wide *wide = wide_of(run);
    struct fh_guard_block described;
    uintptr_t low, high;
    if (!fh_wide_find(run, (uintptr_t)block, &described) ||
        fh_free_is_wrong(&described, block, size, align, how, call))
        return;
    if (!is_near_whole(wide, run->base + fh_os_page_size, &low, &high))
        report_near(wide, low, high, call);
    const size_t bytes = run_end(run) - run->base;
    wide->state = FH_BLOCK_FREED;
    wide->turn++;
    wide->free_site = site;
    wide->free_thread = mine->tid;
    wide->free_ns = fh_os_now_ns();
    mine->live -= (int64_t)wide->requested;
    mine->frees[FH_CLASS_LARGE]++;
    if (close_all(wide, bytes)) {
        wait(wide);
        fh_sweep_count(mine, weight_of(wide));
        return;
    }
    if (fh_guard_settings.is_zeroing || fh_guard_settings.is_filling)
        memset(block, 0, wide->requested);
    if (fh_guard_settings.is_sweeping) {
        wait(wide);
        fh_sweep_count(mine, weight_of(wide));
        return;
    }
    if (wide->is_guarded) { /* only its two pages are */
        const uintptr_t end = wide->data_end;
        if (fh_os_unguard((void *)run->base, fh_os_page_size) != 0 ||
            fh_os_unguard((void *)end, fh_os_page_size) != 0)
            return;
        wide->is_guarded = false;
    }
    wait(wide);
}

bool fh_wide_resize(struct fh_run *run, void *block, size_t size)
{
    struct wide *wide = wide_of(run);
    if ((uintptr_t)block != wide->address || size > wide->requested || size < wide->requested / 2 ||
        size <= FH_CLASS_MAX / 2)
        return false;
    wide->requested = run->large_bytes = size;
    wide->turn++;
    fill_near(wide, run->base + fh_os_page_size);
    return true;
}

/* ---- the sweep ------------------------------------------------------------------------------------- */

void fh_wides_list(struct fh_scan *scan)
{
    for (const struct wide *wide = wides.all; wide != NULL; wide = wide->next) {
        struct fh_scan_area *area =
            fh_scan_add(scan, wide->address, wide->data_end - wide->address, 1);
        if (area != NULL)
            fh_scan_bits(area, 0, wide->state == FH_BLOCK_LIVE, wide->state != FH_BLOCK_LIVE);
    }
}

/* Lock held: those of the waiting ones that the scan wants, in a list of their own by next_waiting. */
static struct wide *take_swept(const struct fh_scan *scan)
{
    struct wide *taken = NULL, **link = &wides.waiting_first;
    wides.waiting_last = NULL;
    for (struct wide *wide; (wide = *link) != NULL;) {
        if (scan != NULL && !fh_scan_is_wanted(scan, wide->address)) {
            wides.waiting_last = wide;
            link = &wide->next_waiting;
            continue;
        }
        *link = wide->next_waiting;
        wides.waiting_count--;
        wides.waiting_bytes -= run_end(wide->run) - wide->run->base;
        unlink_wide(wide);
        wide->next_waiting = taken;
        taken = wide;
    }
    return taken;
}

size_t fh_wides_release_swept(const struct fh_scan *scan)
{
    size_t weight = 0;
    fh_lock_acquire(&wides.lock);
    struct wide *taken = take_swept(scan);
    fh_lock_release(&wides.lock);
    for (struct wide *wide = taken, *next; wide != NULL; wide = next) {
        next = wide->next_waiting;
        weight += weight_of(wide);
        give_back(wide);
    }
    return weight;
}

/* ---- all of them ------------------------------------------------------------------------------------ */

int fh_wides_walk(int (*visit)(void *context, const struct fh_guard_block *block), void *context,
                  bool is_all)
{
    int result = 0;
    fh_lock_acquire(&wides.lock);
    for (const struct wide *wide = wides.all; wide != NULL && result == 0; wide = wide->next) {
        struct fh_guard_block block;
        if ((is_all || wide->state == FH_BLOCK_LIVE) &&
            fh_wide_find(wide->run, wide->address, &block))
            result = visit(context, &block);
    }
    fh_lock_release(&wides.lock);
    return result;
}

void fh_wides_start(void)
{
    fh_locks_register(&wides.lock, FH_FLOOR_GUARD);
}
