/*
 * The emergency arena: what a signal handler gets that interrupted our own code.
 *
 * malloc is not async-signal-safe by any standard, yet programs call it in handlers. A handler that
 * comes while the thread is inside a fast path or the slow path must not pop the same list. It gets
 * blocks from here instead, and so does who needs a block while the thread's heap is being made.
 * Everything is lock-free, so it works whatever was interrupted.
 *
 * Blocks are 32 << k bytes, cut from address space of our own by a bump pointer; freed ones wait in
 * a stack for each k (Treiber 1986), whose head is {changes : 32, offset of the first / 16 : 32}: a
 * pop that was overtaken sees that the count of changes has moved. The memory is never unmapped, so
 * reading the link of a block that somebody else has just popped is harmless.
 *
 * In front of what the caller gets is a tag: the request, k, the distance back to the block's begin
 * (alignment), and a word that says live or free, by which a pointer that is none of ours and a
 * second free are seen.
 */
#include "heap/heap.h"
#include "os/sys.h"

#define ARENA_BYTES ((size_t)256 << 20) /* of address space; a handler's blocks may live long */
#define SIZE_LEAST  5u
#define SIZE_COUNT  24u
#define ALIGN_MOST  ((size_t)65536)
#define TAG_LIVE    0x7f5a
#define TAG_FREE    0x7f5b

struct tag {
    uint64_t requested;
    uint32_t back; /* bytes from the block's begin to the caller's pointer */
    uint16_t size_log;
    _Atomic uint16_t state; /* TAG_LIVE, TAG_FREE */
};

_Static_assert(sizeof(struct tag) == 16, "a tag keeps blocks aligned");

static _Atomic uintptr_t arena_base;
static _Atomic uint64_t arena_used; /* bytes from the base on that were cut */
static _Atomic uint64_t stacks[SIZE_COUNT];

static uintptr_t arena(void)
{
    /* acquire pairs with the release of whoever mapped it. */
    uintptr_t base = atomic_load_explicit(&arena_base, memory_order_acquire);
    if (base != 0)
        return base;
    void *mine = fh_meta_map(ARENA_BYTES);
    if (mine == NULL)
        return 0;
    uintptr_t none = 0;
    if (atomic_compare_exchange_strong_explicit(&arena_base, &none, (uintptr_t)mine,
                                                memory_order_acq_rel, memory_order_acquire))
        return (uintptr_t)mine;
    fh_meta_unmap(mine, ARENA_BYTES);
    return none;
}

static uintptr_t pop(uintptr_t base, unsigned index)
{
    /* acquire pairs with the release in push: the link is seen. */
    uint64_t head = atomic_load_explicit(&stacks[index], memory_order_acquire), next;
    uintptr_t block;
    do {
        if ((uint32_t)head == 0)
            return 0;
        block = base + (uintptr_t)(uint32_t)head * 16;
        uint32_t link = atomic_load_explicit((_Atomic uint32_t *)block, memory_order_relaxed);
        next = ((head >> 32) + 1) << 32 | link;
    } while (!atomic_compare_exchange_weak_explicit(&stacks[index], &head, next,
                                                    memory_order_acquire, memory_order_acquire));
    return block;
}

static void push(uintptr_t base, unsigned index, uintptr_t block)
{
    uint64_t head = atomic_load_explicit(&stacks[index], memory_order_relaxed), next;
    do {
        atomic_store_explicit((_Atomic uint32_t *)block, (uint32_t)head, memory_order_relaxed);
        next = ((head >> 32) + 1) << 32 | (uint32_t)((block - base) / 16);
    } while (!atomic_compare_exchange_weak_explicit(&stacks[index], &head, next,
                                                    memory_order_release, memory_order_relaxed));
}

/* The first 16 bytes of the arena are nobody's: offset 0 ends a stack. */
static uintptr_t cut(uintptr_t base, size_t bytes)
{
    uint64_t used = atomic_load_explicit(&arena_used, memory_order_relaxed), from;
    do {
        from = used == 0 ? 16 : used;
        if (bytes > ARENA_BYTES - from)
            return 0;
    } while (!atomic_compare_exchange_weak_explicit(&arena_used, &used, from + bytes,
                                                    memory_order_relaxed, memory_order_relaxed));
    return base + from;
}

void *fh_emergency_alloc(size_t size, size_t align)
{
    uintptr_t base = arena();
    if (base == 0 || size > ARENA_BYTES / 2 || align > ALIGN_MOST)
        return NULL;
    size_t bytes = size + sizeof(struct tag) + (align > 16 ? align : 0);
    unsigned size_log = fh_log2(fh_pow2_ceil(fh_max(bytes, (size_t)1 << SIZE_LEAST)));
    uintptr_t block = pop(base, size_log - SIZE_LEAST);
    if (block == 0)
        block = cut(base, (size_t)1 << size_log);
    if (block == 0)
        return NULL;
    uintptr_t result = fh_align_up(block + sizeof(struct tag), align > 16 ? align : 16);
    struct tag *tag = (struct tag *)result - 1;
    tag->requested = size;
    tag->back = (uint32_t)(result - block);
    tag->size_log = (uint16_t)size_log;
    atomic_store_explicit(&tag->state, TAG_LIVE, memory_order_relaxed);
    return (void *)result;
}

bool fh_emergency_owns(const void *p)
{
    uintptr_t base = atomic_load_explicit(&arena_base, memory_order_acquire);
    return base != 0 && (uintptr_t)p - base < ARENA_BYTES;
}

bool fh_emergency_range(uintptr_t *low, uintptr_t *high)
{
    *low = atomic_load_explicit(&arena_base, memory_order_acquire);
    *high = *low + fh_min(atomic_load_explicit(&arena_used, memory_order_relaxed), ARENA_BYTES);
    return *low != 0;
}

size_t fh_emergency_size(const void *p)
{
    return ((const struct tag *)p)[-1].requested;
}

void fh_emergency_free(void *p)
{
    uintptr_t base = atomic_load_explicit(&arena_base, memory_order_acquire);
    bool is_aligned = (uintptr_t)p % 16 == 0 && (uintptr_t)p - base >= 32;
    struct tag *tag = (struct tag *)p - 1;
    uint16_t seen = TAG_LIVE;
    if (!is_aligned ||
        !atomic_compare_exchange_strong_explicit(&tag->state, &seen, TAG_FREE, memory_order_relaxed,
                                                 memory_order_relaxed)) {
        bool was_free = is_aligned && seen == TAG_FREE;
        fh_report(was_free ? "double-free" : "invalid-free", p,
                  was_free ? "the block of the emergency arena is free already"
                           : "in the emergency arena, but no block of it");
        return;
    }
    push(base, tag->size_log - SIZE_LEAST, (uintptr_t)p - tag->back);
}
