/*
 * The emergency arena: what a signal handler gets that interrupted our own code.
 *
 * malloc is not async-signal-safe by any standard, yet programs call it in handlers. A handler that comes while the thread
 * is inside a fast path or the slow path must not pop the same list. It gets blocks from here instead: a bump
 * pointer over address space of its own, moved with one compare-and-swap; lock-free, so it works whatever was interrupted. A block
 * carries its size in front. When the last block has been freed the pointer goes back to the start.
 *
 * state = {live blocks : 32, bump in 16-byte units : 32}.
 */
#include "heap/heap_internal.h"
#include "os/mem.h"

#include <string.h>

#define ARENA_BYTES ((size_t)64 << 20)

static _Atomic uintptr_t arena_base;
static _Atomic uint64_t arena_state;

static uintptr_t arena(void)
{
    /* acquire pairs with the release of whoever mapped it. */
    uintptr_t base = atomic_load_explicit(&arena_base, memory_order_acquire);
    if (base != 0)
        return base;
    void *mine = fh_os_map(ARENA_BYTES);
    if (mine == NULL)
        return 0;
    uintptr_t none = 0;
    if (atomic_compare_exchange_strong_explicit(&arena_base, &none, (uintptr_t)mine, memory_order_acq_rel,
                                                memory_order_acquire))
        return (uintptr_t)mine;
    fh_os_release(mine, ARENA_BYTES);
    return none;
}

void *fh_emergency_alloc(size_t size, size_t align)
{
    uintptr_t base = arena();
    if (base == 0 || size > ARENA_BYTES / 2 || align > 65536)
        return NULL;
    if (align < 16)
        align = 16;
    uint64_t state = atomic_load_explicit(&arena_state, memory_order_relaxed), next;
    uintptr_t block;
    do {
        uintptr_t bump = base + (uintptr_t)(uint32_t)state * 16;
        block = fh_align_up(bump + 16, align);
        uintptr_t end = fh_align_up(block + (size != 0 ? size : 1), 16);
        if (end > base + ARENA_BYTES)
            return NULL;
        next = ((state >> 32) + 1) << 32 | (uint32_t)((end - base) / 16);
    } while (!atomic_compare_exchange_weak_explicit(&arena_state, &state, next, memory_order_acq_rel,
                                                    memory_order_relaxed));
    ((size_t *)block)[-1] = size;
    memset((void *)block, 0, size); /* the arena is used again without being purged; calloc relies on this */
    return (void *)block;
}

bool fh_emergency_owns(const void *p)
{
    uintptr_t base = atomic_load_explicit(&arena_base, memory_order_acquire);
    return base != 0 && (uintptr_t)p - base < ARENA_BYTES;
}

size_t fh_emergency_size(const void *p)
{
    return ((const size_t *)p)[-1];
}

void fh_emergency_free(void *p)
{
    (void)p;
    uint64_t state = atomic_load_explicit(&arena_state, memory_order_relaxed), next;
    do {
        if (state >> 32 == 0) {
            fh_report("double-free", p, "all blocks of the emergency arena are free already");
            return;
        }
        uint64_t live = (state >> 32) - 1;
        next = live == 0 ? 0 : live << 32 | (uint32_t)state;
    } while (!atomic_compare_exchange_weak_explicit(&arena_state, &state, next, memory_order_acq_rel,
                                                    memory_order_relaxed));
}
