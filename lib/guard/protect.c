/*
 * Regions whose access is switched: see protect.h for what they promise.
 *
 *     | guard | committed, access `now` ............ | not taken yet | guard |
 *             base                                                   base + capacity
 *
 * All of it is reserved at once, without access; what is committed is one mapping (two while not
 * all of the range is), so that switching is one mprotect. A block lies at the end of its pages, as
 * an allocator of guarded blocks puts it: overflows are the commoner bug. What its pages hold
 * beside it is a canary.
 *
 * State. `writers` and `readers` count who has begun; access follows from them and from at_rest
 * (wanted_access), and `now` is what the kernel was last told. Counting and telling must be one
 * step, or a second writer would return from begin before the first one's mprotect: so both happen
 * under a lock. It is one lock for all regions, since the kernel changes the mappings of a process
 * one at a time anyway. Nothing is called under it but the kernel. Fork takes it (handlers
 * registered with the first region), so that a child finds counts and access in agreement.
 *
 * Invariants: now == wanted_access whenever the lock is free, unless the kernel refused to take
 * access away; a sealed region is READ and has no writer.
 *
 * `committed` grows without the lock: only who may write to the region commits, so nobody can
 * switch it meanwhile (its writer has not ended). A lock here would be taken under those of the
 * manager's wrappers.
 */
#include "freehold/protect.h"

#include "base/core/bits.h"
#include "base/core/misuse.h"
#include "base/lock.h"
#include "guard/regions.h"
#include "os/mem.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

#define BLOCK_ALIGN ((size_t)16)

static struct {
    struct fh_lock lock;
    _Atomic bool has_handlers;
} all = {.lock = FH_LOCK_INIT};

/* ---- fork ------------------------------------------------------------------------------------ */

static void before_fork(void)
{
    fh_lock_acquire(&all.lock);
}

static void after_fork_in_parent(void)
{
    fh_lock_release(&all.lock);
}

static void after_fork_in_child(void)
{
    fh_lock_reset(&all.lock);
}

static void register_handlers(void)
{
    /* relaxed: who loses the exchange needs nothing of the winner's but that it registers. */
    if (!atomic_exchange_explicit(&all.has_handlers, true, memory_order_relaxed))
        pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

/* ---- access ---------------------------------------------------------------------------------- */

static size_t committed(const struct fh_protected *region)
{
    return __atomic_load_n(&region->committed, __ATOMIC_RELAXED); /* see the theory */
}

static enum fh_protection wanted_access(const struct fh_protected *region)
{
    if (region->writers != 0)
        return FH_PROTECT_WRITE;
    return region->readers != 0 && region->at_rest == FH_PROTECT_NONE ? FH_PROTECT_READ
                                                                      : region->at_rest;
}

/* Tells the kernel what follows from the counts. Under the lock. */
static int switch_access(struct fh_protected *region)
{
    static const struct {
        enum fh_os_access access;
        enum fh_region_state state;
    } as[] = {
        [FH_PROTECT_NONE] = {FH_OS_NONE, FH_REGION_CLOSED},
        [FH_PROTECT_READ] = {FH_OS_READ, FH_REGION_READABLE},
        [FH_PROTECT_WRITE] = {FH_OS_READ_WRITE, FH_REGION_WRITABLE},
    };
    enum fh_protection wanted = wanted_access(region);
    if (wanted == region->now)
        return 0;
    size_t bytes = committed(region);
    int result = bytes != 0 ? fh_os_protect(region->base, bytes, as[wanted].access) : 0;
    if (result != 0)
        return result;
    region->now = wanted;
    fh_region_change(region->note, as[wanted].state);
    return 0;
}

int fh_protect(struct fh_protected *region, enum fh_protection at_rest)
{
    if (region->base == NULL || (unsigned)at_rest > FH_PROTECT_WRITE)
        return fh_region_error(-EINVAL);
    fh_lock_acquire(&all.lock);
    enum fh_protection before = region->at_rest;
    int result = region->is_sealed ? -EPERM : 0;
    if (result == 0) {
        region->at_rest = at_rest;
        result = switch_access(region);
    }
    if (result != 0)
        region->at_rest = before;
    fh_lock_release(&all.lock);
    return fh_region_error(result);
}

static int begin(struct fh_protected *region, uint32_t *count, bool needs_writing)
{
    if (region->base == NULL)
        return fh_region_error(-EINVAL);
    fh_lock_acquire(&all.lock);
    int result = needs_writing && region->is_sealed ? -EPERM : 0;
    if (result == 0) {
        ++*count;
        result = switch_access(region);
        if (result != 0)
            --*count;
    }
    fh_lock_release(&all.lock);
    return fh_region_error(result);
}

static int end(struct fh_protected *region, uint32_t *count)
{
    if (region->base == NULL)
        return fh_region_error(-EINVAL);
    fh_lock_acquire(&all.lock);
    int result = *count == 0 ? -EINVAL : 0;
    if (result == 0) {
        --*count;
        result = switch_access(region);
        if (result != 0)
            ++*count;
    }
    fh_lock_release(&all.lock);
    return fh_region_error(result);
}

int fh_protect_begin_read(struct fh_protected *region)
{
    return begin(region, &region->readers, false);
}

int fh_protect_begin_write(struct fh_protected *region)
{
    return begin(region, &region->writers, true);
}

int fh_protect_end_read(struct fh_protected *region)
{
    return end(region, &region->readers);
}

int fh_protect_end_write(struct fh_protected *region)
{
    return end(region, &region->writers);
}

/* The guard pages too: who may not open the region may not move its bounds either. */
static int seal(struct fh_protected *region)
{
    if (region->is_sealed || region->at_rest != FH_PROTECT_READ)
        return -EINVAL;
    if (region->writers != 0)
        return -EBUSY;
    region->is_sealed = true;
    return fh_os_seal(region->base - fh_os_page_size, region->capacity + 2 * fh_os_page_size) == 0
               ? 0
               : 1;
}

int fh_protect_seal(struct fh_protected *region)
{
    if (region->base == NULL)
        return fh_region_error(-EINVAL);
    fh_lock_acquire(&all.lock);
    int result = seal(region);
    fh_lock_release(&all.lock);
    return fh_region_error(result);
}

enum fh_protection fh_protect_now(const struct fh_protected *region)
{
    fh_lock_acquire(&all.lock);
    enum fh_protection now = region->base != NULL ? region->now : FH_PROTECT_NONE;
    fh_lock_release(&all.lock);
    return now;
}

bool fh_protected_is_locked(const struct fh_protected *region)
{
    return region->base != NULL && region->is_locked;
}

/* ---- memory ---------------------------------------------------------------------------------- */

/* `bytes`, a multiple of the page size, between two guard pages; nothing committed. */
static bool reserve(struct fh_protected *region, size_t bytes, size_t align)
{
    fh_os_init();
    register_handlers();
    size_t guard = fh_os_page_size, slack = align > guard ? align : 0;
    if (bytes > SIZE_MAX / 2 || slack > SIZE_MAX / 4)
        return false;
    /* With a larger alignment the lower guard is as wide as it takes to keep the base aligned. */
    size_t total = slack + bytes + 2 * guard;
    unsigned char *range = fh_os_reserve_hidden(total, guard);
    if (range == NULL)
        return false;
    unsigned char *base = range + guard;
    base += fh_align_up((uintptr_t)base, fh_max(align, guard)) - (uintptr_t)base;
    if (base - guard > range)
        fh_os_release(range, (size_t)(base - guard - range));
    if (base + bytes + guard < range + total)
        fh_os_release(base + bytes + guard, (size_t)(range + total - (base + bytes + guard)));
    region->base = base;
    region->capacity = bytes;
    region->committed = 0;
    region->readers = region->writers = 0;
    region->at_rest = region->now = FH_PROTECT_WRITE;
    region->is_sealed = false;
    region->is_locked = (region->flags & FH_PROTECT_LOCKED) != 0;
    region->process = fh_os_getpid();
    region->note = fh_region_note((uintptr_t)base - guard, (uintptr_t)base + bytes + guard, guard,
                                  FH_REGION_WRITABLE);
    return true;
}

/* Makes all up to `end` bytes from the base memory; the caller may write to the region. */
static int commit(struct fh_protected *region, size_t end)
{
    size_t from = committed(region);
    if (end <= from)
        return 0;
    unsigned char *begin = region->base + from;
    int result = fh_os_commit(begin, end - from);
    if (result != 0)
        return result;
    if (region->flags & FH_PROTECT_NO_DUMP)
        (void)fh_os_leave_out_of_dumps(begin, end - from);
    if (region->flags & FH_PROTECT_WIPE_ON_FORK)
        (void)fh_os_wipe_on_fork(begin, end - from);
    if (region->is_locked)
        region->is_locked = fh_os_lock_in_ram(begin, end - from) == 0;
    __atomic_store_n(&region->committed, end, __ATOMIC_RELAXED); /* see the theory */
    return 0;
}

/* The compiler would leave out writes to memory that is given back next. */
static void zero(void *memory, size_t bytes)
{
    memset(memory, 0, bytes);
    __asm__ volatile("" : : "r"(memory) : "memory");
}

/* Zeroes and unmaps a region that is writable. */
static void give_back(struct fh_protected *region)
{
    zero(region->base, committed(region));
    fh_region_forget(region->note);
    fh_os_release(region->base - fh_os_page_size, region->capacity + 2 * fh_os_page_size);
    region->base = NULL;
}

/* ---- one block ------------------------------------------------------------------------------- */

static unsigned char *block_of(const struct fh_protected *region)
{
    return region->base + region->capacity - fh_align_up(region->block, BLOCK_ALIGN);
}

static unsigned char canary_at(const struct fh_protected *region, const unsigned char *address)
{
    return (unsigned char)(region->canary >> ((uintptr_t)address % sizeof region->canary * 8));
}

static void fill_with_canary(struct fh_protected *region, unsigned char *from, unsigned char *to)
{
    for (; from < to; from++)
        *from = canary_at(region, from);
}

static const unsigned char *first_damage(const struct fh_protected *region,
                                         const unsigned char *from, const unsigned char *to)
{
    for (; from < to; from++)
        if (*from != canary_at(region, from))
            return from;
    return NULL;
}

void *fh_protected_alloc(struct fh_protected *region, size_t size, unsigned flags)
{
    *region = (struct fh_protected){.flags = flags, .block = size};
    if (size == 0 || (flags & ~(unsigned)FH_PROTECT_SECRET) != 0)
        return fh_region_fail(EINVAL);
    fh_os_init();
    size_t bytes;
    if (!fh_align_up_checked(size, fh_os_page_size, &bytes) || !reserve(region, bytes, 0))
        return fh_region_fail(ENOMEM);
    if (commit(region, bytes) != 0) {
        give_back(region);
        return fh_region_fail(ENOMEM);
    }
    region->canary = fh_os_random();
    unsigned char *block = block_of(region);
    fill_with_canary(region, region->base, block);
    fill_with_canary(region, block + size, region->base + bytes);
    return block;
}

/* A child finds zeroes where its parent's memory is wiped. */
static bool has_canary(const struct fh_protected *region)
{
    return !(region->flags & FH_PROTECT_WIPE_ON_FORK) || region->process == fh_os_getpid();
}

static void check_canary(const struct fh_protected *region)
{
    const unsigned char *block = block_of(region);
    const unsigned char *below = first_damage(region, region->base, block);
    const unsigned char *above =
        first_damage(region, block + region->block, region->base + region->capacity);
    if (below != NULL)
        fh_misuse("heap-buffer-underflow", below,
                  "memory in front of a protected block was overwritten; found when it was freed");
    if (above != NULL)
        fh_misuse("heap-buffer-overflow", above,
                  "memory behind a protected block was overwritten; found when it was freed");
}

/* Makes the region writable for its end. */
static int open_for_the_end(struct fh_protected *region)
{
    if (region->is_sealed)
        return -EPERM;
    if (region->readers != 0 || region->writers != 0)
        return -EBUSY;
    enum fh_protection before = region->at_rest;
    region->at_rest = FH_PROTECT_WRITE;
    int result = switch_access(region);
    if (result != 0)
        region->at_rest = before;
    return result;
}

int fh_protected_free(struct fh_protected *region)
{
    if (region->base == NULL || region->block == 0)
        return fh_region_error(-EINVAL);
    fh_lock_acquire(&all.lock);
    int result = open_for_the_end(region);
    fh_lock_release(&all.lock);
    if (result != 0)
        return fh_region_error(result);
    if (has_canary(region))
        check_canary(region);
    give_back(region);
    return 0;
}

/* ---- the source ------------------------------------------------------------------------------ */

static void *source_reserve(void *self, size_t bytes, size_t align)
{
    struct fh_protected *region = self;
    if (region->base != NULL || !reserve(region, fh_align_up(bytes, fh_os_page_size), align))
        return NULL;
    return region->base;
}

static int source_commit(void *self, void *addr, size_t bytes)
{
    struct fh_protected *region = self;
    if (region->now != FH_PROTECT_WRITE)
        return -EACCES;
    return commit(region, (size_t)((unsigned char *)addr - region->base) + bytes);
}

static int source_purge(void *self, void *addr, size_t bytes)
{
    struct fh_protected *region = self;
    if (region->now != FH_PROTECT_WRITE)
        return -EACCES;
    zero(addr, bytes);
    return fh_os_purge(addr, bytes);
}

static void source_release(void *self, void *addr, size_t bytes)
{
    struct fh_protected *region = self;
    (void)addr, (void)bytes;
    fh_lock_acquire(&all.lock);
    region->readers = region->writers = 0; /* there is nothing left to end */
    int result = open_for_the_end(region);
    fh_lock_release(&all.lock);
    if (result == 0)
        give_back(region);
}

const struct fh_source *fh_protected_source(struct fh_protected *region, unsigned flags)
{
    *region = (struct fh_protected){
        .source = {.size = sizeof(struct fh_source),
                   .capabilities = FH_SOURCE_PURGE | FH_SOURCE_ZEROED | FH_SOURCE_FORKABLE,
                   .self = region,
                   .reserve = source_reserve,
                   .commit = source_commit,
                   .purge = source_purge,
                   .release = source_release},
        .flags = flags,
    };
    if ((flags & ~(unsigned)FH_PROTECT_SECRET) != 0)
        return fh_region_fail(EINVAL);
    return &region->source;
}
