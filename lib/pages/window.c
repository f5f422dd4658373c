/*
 * The main window: how big it is, where it lies, and its source; and metadata memory.
 *
 * Size: eight times the RAM as a power of two, at least 256 GiB, so that no program runs out of window before the
 * machine runs out of memory; its headers are 1/512 of it, reserved like the rest. Below a limit on address space
 * (ulimit -v) nothing may be reserved ahead: then the window is only a plan, four times the limit, and each step
 * maps what it needs at its place (MAP_FIXED_NOREPLACE); a step is at most a sixteenth of the limit. The same where
 * a big reserve is refused (valgrind, overcommit).
 *
 * Place: random, a multiple of 2 MiB between 16 TiB and 80 TiB (25 bits), clear of the program, the brk heap and the area
 * from which the kernel hands out mappings top down.
 *
 * The header array is readable from the start, so that any address may be looked up; parts become writable as
 * granules are committed.
 */
#include "pages/pages.h"

#include "os/mem.h"
#include "os/sys.h"

#include <errno.h>

#define WINDOW_MIN     ((size_t)256 << 30)
#define WINDOW_MAX     ((size_t)64 << 40)
#define WINDOW_SMALL   ((size_t)1 << 30) /* reserves below this are no use: go without */
#define PLACE_FIRST    ((uintptr_t)16 << 40)
#define PLACE_SPAN     ((uintptr_t)64 << 40)
#define PLACE_ALIGN    ((uintptr_t)2 << 20)
#define PLACE_TRIES    16
#define CHUNK          64u /* granules: 4 MiB a commit */
#define META_CHUNK     ((size_t)64 << 10)

/* Before there is a window every address leads to a header that nobody owns. */
static struct fh_run nobody;
struct fh_pages fh_pages_main = {.window = {.headers = (uintptr_t)&nobody}};

/* ---- the window's source ------------------------------------------------------------------------------------- */

static bool is_reserved;

static int window_commit(void *self, void *addr, size_t bytes)
{
    (void)self;
    if (is_reserved || (uintptr_t)addr - fh_pages_main.window.headers <= fh_pages_main.window.mask)
        return fh_os_commit(addr, bytes);
    if (fh_os_map_at(addr, bytes) != NULL)
        return 0;
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
        if (fh_os_reserve_readable((void *)base, header_area(window)) != NULL)
            return base;
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

/* ---- what only the system's memory can do ----------------------------------------------- */

void fh_pages_touch(const struct fh_pages *pages, void *address, size_t bytes)
{
    if (pages == &fh_pages_main)
        fh_os_populate(address, bytes);
}

bool fh_pages_move(struct fh_pages *pages, const struct fh_run *from, size_t bytes, const struct fh_run *to)
{
    return pages == &fh_pages_main && fh_os_remap_to(fh_run_address(pages, from), bytes,
                                                     (size_t)to->span << FH_GRANULE_SHIFT,
                                                     fh_run_address(pages, to)) != NULL;
}

bool fh_pages_renew(struct fh_pages *pages, const struct fh_run *run)
{
    size_t bytes = (size_t)run->span << FH_GRANULE_SHIFT;
    fh_os_release(fh_run_address(pages, run), bytes);
    return fh_os_map_at(fh_run_address(pages, run), bytes) != NULL;
}

/* ---- metadata memory ----------------------------------------------------------------------------------------- */

static struct {
    struct fh_lock lock;
    char *next, *end;
} meta = {FH_LOCK_INIT, NULL, NULL};

void *fh_meta_map(size_t bytes)
{
    return fh_os_map(bytes);
}

void fh_meta_unmap(void *address, size_t bytes)
{
    fh_os_release(address, bytes);
}

void *fh_meta_alloc(size_t size)
{
    fh_locks_register(&meta.lock, FH_FLOOR_META);
    size = fh_align_up(size, FH_CACHE_LINE);
    fh_lock_acquire(&meta.lock);
    if ((size_t)(meta.end - meta.next) < size) {
        size_t chunk = fh_align_up(fh_max(size, META_CHUNK), fh_os_page_size);
        char *memory = fh_os_map(chunk);
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
