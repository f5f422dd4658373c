/*
 * Call sites: a number for each stack that allocates or frees.
 *
 * Blocks keep numbers of sites (20 bits) where a stack's id (26) would not fit, and budgets count by site. A site
 * is found by its stack's id in a table of numbers, open addressing, at most half full, never shrunk; sites lie in
 * chunks that never move, so that a report reads them without a lock.
 *
 * Who calls is told by lib/stack's table of known stacks; a call that it does not know is walked. Where calls come from ever
 * new places (a recursion), walks are rationed by time and sites by number; a call that is not walked is
 * taken for the last one from its return address. Debug mode compares whole stacks and is generous. Hardened mode
 * takes a call for one before when two return addresses and the stack pointer agree: a site may then be
 * taken for another that differs further out, which costs a report an outer frame.
 */
#include "guard/thread.h"
#include "heap/heap.h"
#include "os/sys.h"
#include "pages/pages.h"

enum {
    CHUNK_SHIFT = 10,
    CHUNKS = 1 << (FH_SITE_BITS - CHUNK_SHIFT),
    TABLE_BITS = FH_SITE_BITS + 1, /* 8 MiB of address space, touched as it fills */
    FRAMES_HARDENED = 24,
    FRAMES_DEBUG = 48,
    INNERMOST = 6, /* words that hardened mode compares when it looks closely */
    PAUSE = 128,
    SITES_HARDENED = 1 << 14, /* each costs the memory of a stack: 400 bytes at most */
    SITES_DEBUG = 1 << 17,
};

static struct {
    _Atomic(_Atomic uint32_t *) table;
    _Atomic(struct fh_site *) chunks[CHUNKS];
    _Atomic uint32_t count;
} sites;

static _Atomic uint32_t *table_of_sites(void)
{
    _Atomic uint32_t *table = atomic_load_explicit(&sites.table, memory_order_acquire);
    if (FH_LIKELY(table != NULL))
        return table;
    _Atomic uint32_t *none = NULL;
    table = fh_meta_map(sizeof(*table) << TABLE_BITS);
    /* acq_rel: whoever wins publishes zeroed memory; whoever loses reads the other's. */
    if (table == NULL ||
        atomic_compare_exchange_strong_explicit(&sites.table, &none, table, memory_order_acq_rel,
                                                memory_order_acquire))
        return table;
    fh_meta_unmap((void *)table, sizeof(*table) << TABLE_BITS);
    return none;
}

struct fh_site *fh_site_at(uint32_t number)
{
    /* acquire pairs with the release in chunk_for */
    struct fh_site *chunk =
        atomic_load_explicit(&sites.chunks[number >> CHUNK_SHIFT], memory_order_acquire);
    return number == 0 || chunk == NULL ? NULL : &chunk[number & ((1u << CHUNK_SHIFT) - 1)];
}

uint32_t fh_site_stack(uint32_t number)
{
    const struct fh_site *site = fh_site_at(number);
    return site != NULL ? site->stack : 0;
}

static struct fh_site *chunk_for(uint32_t number)
{
    _Atomic(struct fh_site *) *place = &sites.chunks[number >> CHUNK_SHIFT];
    struct fh_site *chunk = atomic_load_explicit(place, memory_order_acquire), *none = NULL;
    if (chunk != NULL)
        return chunk;
    chunk = fh_meta_alloc(sizeof(*chunk) << CHUNK_SHIFT); /* one too many after a race is lost */
    if (chunk == NULL || atomic_compare_exchange_strong_explicit(
                             place, &none, chunk, memory_order_acq_rel, memory_order_acquire))
        return chunk;
    return none;
}

/* 0: there is no room for one more. */
static uint32_t new_site(uint32_t stack)
{
    const uint32_t number = atomic_fetch_add_explicit(&sites.count, 1, memory_order_relaxed) + 1;
    if (number > (fh_guard_settings.has_stacks ? SITES_DEBUG : SITES_HARDENED) ||
        chunk_for(number) == NULL) {
        atomic_fetch_sub_explicit(&sites.count, 1, memory_order_relaxed);
        return 0;
    }
    fh_site_at(number)->stack = stack;
    fh_site_at(number)->number = number;
    return number;
}

uint32_t fh_site_of_stack(uint32_t stack)
{
    _Atomic uint32_t *table = stack != 0 ? table_of_sites() : NULL;
    if (table == NULL)
        return 0;
    const uint32_t mask = (1u << TABLE_BITS) - 1;
    uint32_t own = 0;
    for (uint32_t i = stack * 0x9e3779b1u >> (32 - TABLE_BITS);; i = (i + 1) & mask) {
        /* acquire pairs with the release of who put the number there: the site is filled in */
        uint32_t number = atomic_load_explicit(&table[i], memory_order_acquire);
        if (number == 0) {
            if (own == 0)
                own = new_site(stack);
            if (own == 0 ||
                atomic_compare_exchange_strong_explicit(&table[i], &number, own,
                                                        memory_order_release, memory_order_acquire))
                return own;
        }
        if (fh_site_stack(number) == stack)
            return number;
    }
}

/* ---- who calls ---------------------------------------------------------------------------------- */

/* A walk to a new stack costs some 10 µs: debug mode spends a quarter of the time on walks if it must, hardened mode a
 * fortieth. */
struct rate {
    uint32_t burst, each_ns;
};

static struct rate rate_of_walks(void)
{
    return fh_guard_settings.has_stacks ? (struct rate){8000, 40000} : (struct rate){1000, 400000};
}

static bool may_walk(struct fh_guard_thread *mine)
{
    if (FH_LIKELY(mine->walks_left != 0)) {
        mine->walks_left--;
        return true;
    }
    if (mine->pause != 0) {
        mine->pause--;
        return false;
    }
    const struct rate rate = rate_of_walks();
    const uint64_t now = fh_os_now_ns();
    const uint64_t more = mine->walks_ns == 0 ? rate.burst : (now - mine->walks_ns) / rate.each_ns;
    mine->pause = PAUSE;
    if (more == 0)
        return false;
    mine->walks_ns = now;
    mine->walks_left = (uint32_t)fh_min(more, (uint64_t)rate.burst) - 1;
    return true;
}

static struct fh_pc_site *site_by_pc(struct fh_guard_thread *mine, uintptr_t pc)
{
    return &mine->by_pc[pc * 0x9e3779b97f4a7c15u >> (64 - FH_PC_BITS)];
}

/* Hardened mode: by its first words alone it is recognised next time. */
static void remember(struct fh_guard_thread *mine, const struct fh_call *call, struct fh_site *site)
{
    *site_by_pc(mine, call->pc) = (struct fh_pc_site){call->pc, site};
    uint32_t offset;
    uintptr_t word;
    if (!fh_guard_settings.has_stacks &&
        fh_known_first(&mine->known, call->pc, call->sp, &offset, &word))
        *fh_site_recent(mine, call) =
            (struct fh_recent_site){call->pc, call->sp, word, offset, site};
}

static FH_NOINLINE struct fh_site *walk(struct fh_guard_thread *mine, const struct fh_call *call)
{
    const struct fh_pc_site *known = site_by_pc(mine, call->pc);
    if (!may_walk(mine))
        return known->pc == call->pc ? known->site : NULL;
    fh_executable_stack_look(call->pc);
    uintptr_t frames[FRAMES_DEBUG];
    const size_t most = fh_guard_settings.has_stacks ? FRAMES_DEBUG : FRAMES_HARDENED;
    const size_t count =
        fh_stack_capture_at(&mine->stack, call->pc, call->sp, call->fp, frames, most);
    const uint32_t number = fh_site_of_stack(fh_stack_id(frames, count));
    fh_known_keep(&mine->known, &mine->stack, call->sp, frames, count, most, 0, number);
    struct fh_site *site = fh_site_at(number);
    remember(mine, call, site);
    return site;
}

struct fh_site *fh_site_of(struct fh_guard_thread *mine, const struct fh_call *call)
{
    uint32_t number;
    if (FH_UNLIKELY(mine->pause != 0 && mine->walks_left == 0) && !fh_guard_settings.has_stacks) {
        /* Such a program's calls come from ever new places: what is known is seldom asked for. */
        const struct fh_pc_site *known = site_by_pc(mine, call->pc);
        mine->pause--;
        return known->pc == call->pc ? known->site : NULL;
    }
    if (FH_UNLIKELY(!fh_known_find(&mine->known, call->pc, call->sp, call->fp, 0,
                                   fh_guard_settings.has_stacks ? FH_KNOWN_ALL : INNERMOST,
                                   &number)))
        return walk(mine, call);
    struct fh_site *site = fh_site_at(number);
    if (!fh_guard_settings.has_stacks)
        remember(mine, call, site);
    return site;
}
