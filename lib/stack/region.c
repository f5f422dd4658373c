/* The bounds of stacks: see region.h for the four ways and their order. */
#include "stack/region.h"

#include "os/sys.h"

#if !defined(__x86_64__)
#error                                                                                             \
    "stack/ is written for x86-64: registers, signal frames and thread control blocks are its own"
#endif

/* Set by the dynamic loader: the stack pointer at the program's first instruction. */
extern __attribute__((weak)) void *__libc_stack_end;

enum {
    /* struct pthread is 2.3 KiB in glibc 2.36; stackblock lies at 0x690. */
    THREAD_BLOCK_BYTES = 2304,
    /* What lies between the control block and the stack's end: the block itself and alignment. */
    THREAD_TOP_BYTES = 16384,
    MAPS_BUFFER = 512,
};
/* The kernel keeps at least 128 MiB below the first thread's stack free of its own mappings. */
#define FIRST_STACK_MAX ((uintptr_t)64 << 20)
/* No stack is larger; a pointer into the area of mappings is, taken for a size. */
#define STACK_MAX       ((uintptr_t)1 << 38)

static uintptr_t thread_pointer(void)
{
    uintptr_t tp;
    __asm__("mov %%fs:0, %0" : "=r"(tp));
    return tp;
}

static bool contains(struct fh_stack_region region, uintptr_t addr)
{
    return addr - region.low < region.high - region.low;
}

/* Way 2. The two words must bracket both sp and the control block, which no other pair there does:
 * the first is an address below sp, and it is a plausible number of bytes (not a pointer itself)
 * from there to just above the block. */
static bool find_in_control_block(uintptr_t tp, uintptr_t sp, struct fh_stack_region *region)
{
    if (sp >= tp)
        return false;
    for (uintptr_t at = tp; at < tp + THREAD_BLOCK_BYTES - 8; at += 8) {
        uintptr_t base = fh_stack_load(at), size = fh_stack_load(at + 8), end = base + size;
        if (size <= STACK_MAX && base <= sp && end > tp && end - tp <= THREAD_TOP_BYTES) {
            /* Above the control block there is nothing to walk. */
            *region = (struct fh_stack_region){base, tp};
            return true;
        }
    }
    return false;
}

static bool find_first_stack(uintptr_t sp, struct fh_stack_region *region)
{
    uintptr_t end = &__libc_stack_end != NULL ? (uintptr_t)__libc_stack_end : 0;
    if (sp >= end || end - sp > FIRST_STACK_MAX)
        return false;
    *region = (struct fh_stack_region){end - FIRST_STACK_MAX, end};
    return true;
}

/* One character of /proc/self/maps; lines are "low-high rwxp …". */
struct maps_parser {
    uintptr_t low, number;
    unsigned field; /* 0: low, 1: high, 2: the r of the access, 3: rest of the line */
    uintptr_t high;
};

/* True when the line read so far is readable memory around sp. */
static bool parse_maps(struct maps_parser *maps, char c, uintptr_t sp)
{
    if (c == '\n') {
        maps->field = 0;
        maps->number = 0;
    } else if (maps->field < 2 && (c == '-' || c == ' ')) {
        *(maps->field == 0 ? &maps->low : &maps->high) = maps->number;
        maps->field++;
        maps->number = 0;
    } else if (maps->field < 2) {
        maps->number = maps->number << 4 | (uintptr_t)(c <= '9' ? c - '0' : c - 'a' + 10);
    } else if (maps->field == 2) {
        maps->field = 3;
        return c == 'r' && maps->low <= sp && sp < maps->high;
    }
    return false;
}

static bool find_in_maps(uintptr_t sp, struct fh_stack_region *region)
{
    char buffer[MAPS_BUFFER];
    struct maps_parser maps = {0};
    bool is_found = false;
    int fd = fh_os_open_read("/proc/self/maps");
    if (fd < 0)
        return false;
    int64_t got;
    while (!is_found && (got = fh_os_read(fd, buffer, sizeof(buffer))) > 0) {
        for (int64_t i = 0; i < got && !is_found; i++)
            is_found = parse_maps(&maps, buffer[i], sp);
    }
    fh_os_close(fd);
    if (is_found)
        *region = (struct fh_stack_region){maps.low, maps.high};
    return is_found;
}

static bool find_own(uintptr_t tp, uintptr_t sp, struct fh_stack_region *region)
{
    return find_in_control_block(tp, sp, region) || find_first_stack(sp, region);
}

bool fh_stack_region_own(uintptr_t sp, struct fh_stack_region *region)
{
    return find_own(thread_pointer(), sp, region);
}

struct fh_stack_region fh_stack_region_of(struct fh_stack_cache *cache, uintptr_t sp)
{
    struct fh_stack_region region = {sp, sp};
    uintptr_t tp = 0;
    if (cache == NULL || !cache->is_bounded)
        tp = thread_pointer();
    if (cache == NULL) {
        if (!find_own(tp, sp, &region))
            find_in_maps(sp, &region);
        return region;
    }
    if (cache->thread != tp) {
        cache->thread = tp;
        if (!cache->is_bounded)
            cache->own = (struct fh_stack_region){0, 0};
        cache->other = (struct fh_stack_region){0, 0};
    }
    if (contains(cache->own, sp))
        return cache->own;
    if (!cache->is_bounded && find_own(tp, sp, &region))
        return cache->own = region;
    if (contains(cache->other, sp))
        return cache->other;
    if (find_in_maps(sp, &region))
        cache->other = region;
    return region;
}

struct fh_stack_region fh_stack_region_again(struct fh_stack_cache *cache, uintptr_t sp)
{
    if (cache != NULL && contains(cache->other, sp) && !contains(cache->own, sp))
        cache->other = (struct fh_stack_region){0, 0};
    return fh_stack_region_of(cache, sp);
}

void fh_stack_cache_bound(struct fh_stack_cache *cache, uintptr_t low, uintptr_t high)
{
    cache->thread = 0;
    cache->own = (struct fh_stack_region){low, high};
    cache->other = (struct fh_stack_region){0, 0};
    cache->is_bounded = true;
}
