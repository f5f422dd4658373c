/*
 * The main window: how big it is, where it lies, and its source; and metadata memory.
 *
 * Size: eight times the RAM as a power of two, at least 256 GiB, so that no program runs out of
 * window before the machine runs out of memory; its headers are 1/512 of it, reserved like the
 * rest. Below a limit on address space (ulimit -v) nothing may be reserved ahead: then the window
 * is only a plan, four times the limit, and each step maps what it needs at its place
 * (MAP_FIXED_NOREPLACE); a step is at most a sixteenth of the limit. The same where a big reserve
 * is refused (valgrind, overcommit).
 *
 * Place: random, a multiple of 2 MiB between 16 TiB and 80 TiB (25 bits), clear of the program, the
 * brk heap and the area from which the kernel hands out mappings top down.
 *
 * The header array is readable from the start, so that any address may be looked up; parts become
 * writable as granules are committed.
 */
#include "pages/pages.h"

#include "os/mem.h"
#include "os/sys.h"

#include <errno.h>

#define WINDOW_MIN   ((size_t)256 << 30)
#define WINDOW_MAX   ((size_t)64 << 40)
#define WINDOW_SMALL ((size_t)1 << 30) /* reserves below this are no use: go without */
#define PLACE_FIRST  ((uintptr_t)16 << 40)
#define PLACE_SPAN   ((uintptr_t)64 << 40)
#define PLACE_ALIGN  ((uintptr_t)2 << 20)
#define PLACE_TRIES  16
#define CHUNK        64u /* granules: 4 MiB a commit */
#define META_CHUNK   ((size_t)64 << 10)

/* Before there is a window every address leads to a header that nobody owns. */
static struct fh_run nobody;
struct fh_pages fh_pages_main = {.window = {.headers = (uintptr_t)&nobody}};

/* ---- the window's source --------------------------------------------------------------------- */

static bool is_reserved;

/*
 * Huge pages: asked for where they pay. They can (one fault for 512 pages, fewer TLB misses), and
 * they can cost: where the kernel has to move memory about to find 2 MiB in one piece, filling 3
 * GiB took 6.9 s of CPU instead of 1.6 (Linux 6.18 in a small VM, defrag=madvise). So auto
 * measures: when the heap has HUGE_FROM and grows, a commit's first 2 MiB are touched by huge page,
 * the next by small ones, both timed. While huge is not slower each further commit asks for it, and
 * is timed again; when it is slower, the heap does without for HUGE_PAUSE commits. What is touched
 * early is at most a commit (4 MiB of 256). Smaller heaps never ask, and each commit that does not
 * ask advises against, for systems where huge pages are the default.
 *
 * `huge_map` has a bit for each 2 MiB that was advised huge and not split since. Before a part of a
 * huge page is purged it is split, or else the kernel would take the address range and keep the
 * memory (os/huge.c), and advised against, so that the kernel's collapser leaves it alone.
 */
#define HUGE_SHIFT 21
#define HUGE_SIZE  ((size_t)1 << HUGE_SHIFT)
#define HUGE_FROM  ((size_t)256 << 20)
#define HUGE_PAUSE 256

static _Atomic(uint64_t) *huge_map;
static uint64_t small_ns;   /* what 2 MiB of small pages took; 0: not measured yet */
static unsigned huge_pause; /* commits to go without */

static uint64_t touch_ns(uintptr_t addr, enum fh_os_huge want)
{
    uint64_t begin = fh_os_now_ns();
    fh_os_advise_huge((void *)addr, HUGE_SIZE, want);
    fh_os_populate((void *)addr, HUGE_SIZE);
    return fh_os_now_ns() - begin;
}

static void note_huge(uintptr_t addr, size_t bytes)
{
    size_t first = (addr - fh_pages_main.base) >> HUGE_SHIFT,
           end = (addr + bytes - 1 - fh_pages_main.base) >> HUGE_SHIFT;
    for (size_t i = first; i <= end; i++)
        atomic_fetch_or_explicit(&huge_map[i / 64], (uint64_t)1 << (i % 64), memory_order_relaxed);
}

/* Asks for huge pages for a commit; true when it did and they pay (or nobody wants to know). */
static bool ask_huge(uintptr_t addr, size_t bytes)
{
    int policy = atomic_load_explicit(&fh_pages_main.huge, memory_order_relaxed);
    if (policy == FH_OS_HUGE_NO || !is_reserved || bytes < 2 * HUGE_SIZE || addr % HUGE_SIZE != 0)
        return false;
    if (policy == FH_OS_HUGE_AUTO &&
        (atomic_load_explicit(&fh_pages_main.footprint, memory_order_relaxed) < HUGE_FROM ||
         (huge_pause > 0 && huge_pause-- > 0)))
        return false;
    if (huge_map == NULL)
        huge_map = fh_os_map(
            fh_align_up((fh_pages_main.reserved_bytes >> HUGE_SHIFT) / 8 + 64, fh_os_page_size));
    if (huge_map == NULL)
        return false;
    note_huge(addr, bytes);
    if (policy == FH_OS_HUGE_YES)
        return fh_os_advise_huge((void *)addr, bytes, FH_OS_HUGE_YES) == 0;
    uint64_t huge_ns = touch_ns(addr, FH_OS_HUGE_YES);
    if (small_ns == 0)
        small_ns = touch_ns(addr + HUGE_SIZE, FH_OS_HUGE_NO);
    if (huge_ns < small_ns)
        return fh_os_advise_huge((void *)(addr + HUGE_SIZE), bytes - HUGE_SIZE, FH_OS_HUGE_YES) ==
               0;
    huge_pause = HUGE_PAUSE;
    small_ns = 0; /* the machine may be another by then: measured again */
    fh_os_advise_huge((void *)(addr + HUGE_SIZE), bytes - HUGE_SIZE, FH_OS_HUGE_NO);
    return true;
}

/* Under the pool's lock, as all commits. */
static void advise_commit(uintptr_t addr, size_t bytes)
{
    if (!ask_huge(addr, bytes))
        fh_os_advise_huge((void *)addr, bytes, FH_OS_HUGE_NO);
}

static void split_for_purge(uintptr_t addr, size_t bytes)
{
    if (huge_map == NULL)
        return;
    uintptr_t base = fh_pages_main.base;
    for (size_t i = (addr - base) >> HUGE_SHIFT; base + (i << HUGE_SHIFT) < addr + bytes; i++) {
        uintptr_t begin = base + (i << HUGE_SHIFT), end = begin + HUGE_SIZE;
        uint64_t bit = (uint64_t)1 << (i % 64);
        if ((begin >= addr && end <= addr + bytes) ||
            (atomic_load_explicit(&huge_map[i / 64], memory_order_relaxed) & bit) == 0 ||
            (atomic_fetch_and_explicit(&huge_map[i / 64], ~bit, memory_order_relaxed) & bit) == 0)
            continue;
        fh_os_split_huge((void *)(begin > addr ? begin : addr));
        fh_os_advise_huge((void *)begin, HUGE_SIZE, FH_OS_HUGE_NO);
    }
}

static int window_commit(void *self, void *addr, size_t bytes)
{
    (void)self;
    bool is_header = (uintptr_t)addr - fh_pages_main.window.headers <= fh_pages_main.window.mask;
    if (is_reserved || is_header) {
        int error = fh_os_commit(addr, bytes);
        if (error == 0 && !is_header)
            advise_commit((uintptr_t)addr, bytes);
        return error;
    }
    if (fh_os_map_at_free(addr, bytes) != NULL) {
        advise_commit((uintptr_t)addr, bytes);
        return 0;
    }
    /* Taken, or no memory: a page that can be mapped anywhere tells which. */
    void *probe = fh_os_map(bytes);
    if (probe == NULL)
        return -ENOMEM;
    fh_os_release(probe, bytes);
    return -EEXIST;
}

static int window_purge(void *self, void *addr, size_t bytes)
{
    (void)self;
    split_for_purge((uintptr_t)addr, bytes);
    return fh_os_purge(addr, bytes);
}

static struct fh_source window_source = {
    .size = sizeof(struct fh_source),
    .capabilities = FH_SOURCE_PURGE | FH_SOURCE_ZEROED | FH_SOURCE_GUARD | FH_SOURCE_FORKABLE,
    .commit = window_commit,
    .purge = window_purge,
};

static size_t header_area(size_t window)
{
    return (window >> FH_GRANULE_SHIFT) << FH_RUN_SHIFT;
}

static uintptr_t random_place(size_t window)
{
    uintptr_t span = PLACE_SPAN - window;
    return PLACE_FIRST + fh_align_down((uintptr_t)fh_os_random() % span, PLACE_ALIGN);
}

/* The whole window reserved, headers readable. */
static uintptr_t reserve_window(size_t window)
{
    for (int i = 0; i < PLACE_TRIES; i++) {
        uintptr_t base = random_place(window);
        if (fh_os_reserve_at((void *)base, window) == NULL) {
            if (i == 1) /* twice refused: it is the size, or this kernel ignores places */
                break;
            continue;
        }
        if (fh_os_protect((void *)base, header_area(window), FH_OS_READ) == 0)
            return base;
        fh_os_release((void *)base, window);
        return 0;
    }
    uintptr_t base = (uintptr_t)fh_os_reserve(NULL, window, PLACE_ALIGN);
    if (base != 0 && fh_os_protect((void *)base, header_area(window), FH_OS_READ) != 0) {
        fh_os_release((void *)base, window);
        base = 0;
    }
    return base;
}

/* Only the headers are mapped; the rest of the window is a plan. */
static uintptr_t plan_window(size_t window)
{
    for (int i = 0; i < PLACE_TRIES; i++) {
        uintptr_t base = random_place(window);
        if (fh_os_reserve_at((void *)base, header_area(window)) == NULL)
            continue; /* taken, or no memory */
        if (fh_os_protect((void *)base, header_area(window), FH_OS_READ) == 0)
            return base;
        fh_os_release((void *)base, header_area(window));
    }
    return (uintptr_t)fh_os_reserve_readable(NULL, header_area(window));
}

int fh_pages_start(void)
{
    struct fh_pages *pages = &fh_pages_main;
    if (pages->limit != 0)
        return 0;
    size_t limit = fh_os_limit_address_space();
    size_t window = fh_min(fh_max(fh_pow2_ceil(fh_os_ram_bytes()) * 8, WINDOW_MIN), WINDOW_MAX);
    uintptr_t base = 0;
    pages->chunk = CHUNK;
    if (limit == SIZE_MAX) {
        for (; base == 0 && window >= WINDOW_SMALL; window /= 2)
            base = reserve_window(window);
        if (base != 0)
            window *= 2; /* the loop's last step */
        is_reserved = base != 0;
        if (base == 0)
            window = WINDOW_SMALL * 4;
    } else {
        window = fh_min(fh_pow2_ceil(fh_max(limit, (size_t)16 << 20)) * 4, window);
        pages->chunk = (uint32_t)fh_max(1, fh_min(CHUNK, limit / 16 >> FH_GRANULE_SHIFT));
    }
    for (; base == 0 && window >= ((size_t)64 << 20); window /= 2) {
        base = plan_window(window);
        if (base != 0)
            break;
    }
    if (base == 0)
        return -ENOMEM;
    pages->source = &window_source;
    pages->limit = (uint32_t)(window >> FH_GRANULE_SHIFT);
    pages->reserved_bytes = is_reserved ? window : header_area(window);
    pages->first = pages->top = pages->committed =
        (uint32_t)(fh_align_up(header_area(window), PLACE_ALIGN) >> FH_GRANULE_SHIFT);
    pages->base = base;
    pages->window.headers = base;
    pages->window.mask = header_area(window) - sizeof(struct fh_run);
    fh_os_advise_huge((void *)base, header_area(window), FH_OS_HUGE_NO);
    fh_locks_register(&pages->lock, FH_FLOOR_PAGES);
    return 0;
}

/* ---- what only the system's memory can do ---------------------------------------------------- */

void fh_pages_touch(const struct fh_pages *pages, void *address, size_t bytes)
{
    if (pages == &fh_pages_main)
        fh_os_populate(address, bytes);
}

bool fh_pages_move(struct fh_pages *pages, const struct fh_run *from, size_t bytes,
                   const struct fh_run *to)
{
    return pages == &fh_pages_main &&
           fh_os_remap_to(fh_run_address(pages, from), bytes, (size_t)to->span << FH_GRANULE_SHIFT,
                          fh_run_address(pages, to)) != NULL;
}

bool fh_pages_renew(struct fh_pages *pages, const struct fh_run *run)
{
    size_t bytes = (size_t)run->span << FH_GRANULE_SHIFT;
    /* In one step: what is unmapped another thread's mmap may take. */
    return fh_os_map_at(fh_run_address(pages, run), bytes) != NULL;
}

/* ---- metadata memory ------------------------------------------------------------------------- */

#define META_RANGES 512u /* a heap's struct takes 4 KiB of a chunk of 64: 8,000 threads */

static struct {
    struct fh_lock lock;
    char *next, *end;
} meta = {FH_LOCK_INIT, NULL, NULL};

/* Which mappings are metadata, for fh_meta_each. Without a lock: signal handlers map some too. A range that finds
 * no place is not known: a scan then takes its words for the program's. */
static struct {
    _Atomic uintptr_t low; /* 0: free */
    _Atomic uintptr_t high;
} meta_ranges[META_RANGES];

static void note_range(void *address, size_t bytes)
{
    for (unsigned i = 0; address != NULL && i < META_RANGES; i++) {
        uintptr_t none = 0;
        if (!atomic_compare_exchange_strong_explicit(&meta_ranges[i].low, &none, (uintptr_t)address,
                                                     memory_order_relaxed, memory_order_relaxed))
            continue;
        /* release pairs with the acquire in fh_meta_each. */
        atomic_store_explicit(&meta_ranges[i].high, (uintptr_t)address + bytes,
                              memory_order_release);
        return;
    }
}

static void forget_range(void *address)
{
    for (unsigned i = 0; i < META_RANGES; i++) {
        if (atomic_load_explicit(&meta_ranges[i].low, memory_order_relaxed) != (uintptr_t)address)
            continue;
        atomic_store_explicit(&meta_ranges[i].high, 0, memory_order_relaxed);
        atomic_store_explicit(&meta_ranges[i].low, 0, memory_order_release);
        return;
    }
}

void fh_meta_each(void (*visit)(void *context, uintptr_t low, uintptr_t high), void *context)
{
    for (unsigned i = 0; i < META_RANGES; i++) {
        uintptr_t high = atomic_load_explicit(&meta_ranges[i].high, memory_order_acquire);
        uintptr_t low = atomic_load_explicit(&meta_ranges[i].low, memory_order_relaxed);
        if (low != 0 && high > low)
            visit(context, low, high);
    }
}

void *fh_meta_map(size_t bytes)
{
    void *address = fh_os_map(bytes);
    note_range(address, bytes);
    return address;
}

void fh_meta_unmap(void *address, size_t bytes)
{
    forget_range(address);
    fh_os_release(address, bytes);
}

void *fh_meta_alloc(size_t size)
{
    fh_locks_register(&meta.lock, FH_FLOOR_META);
    size = fh_align_up(size, FH_CACHE_LINE);
    fh_lock_acquire(&meta.lock);
    if ((size_t)(meta.end - meta.next) < size) {
        size_t chunk = fh_align_up(fh_max(size, META_CHUNK), fh_os_page_size);
        char *memory = fh_meta_map(chunk);
        if (memory == NULL) {
            fh_lock_release(&meta.lock);
            return NULL;
        }
        meta.next = memory;
        meta.end = memory + chunk;
    }
    char *result = meta.next;
    meta.next += size;
    fh_lock_release(&meta.lock);
    return result;
}
