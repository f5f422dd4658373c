/*
 * run.h: the header of a run, and the window in which every run lies.
 *
 * Words. A *granule* is 64 KiB of address space, aligned; a *run* is one or more adjacent granules
 * that serve one purpose: blocks of one size, one large block, or nothing yet. The *window* is one
 * contiguous range of address space that holds all granules of a page pool. The headers of its
 * granules lie at the window's start, one array of n 128-byte entries, n a power of two:
 *
 *     base                        base + i * 64 KiB
 *     | headers | granule k | … | granule i | …            header of any p: headers[(p / 64 KiB) mod n]
 *
 * So every address there can be, foreign ones too, leads to a header by a shift and a mask, without
 * reading memory that might not be there (the whole array can be read; what was never written is
 * the kernel's zero page). Whether the header is really that of p is told by its key.
 *
 * The key. run->key = 17 × thread pointer of the owner − address of the granule. For p in the
 * granule and the owner's thread pointer t, p + key − 17t is the offset of p in the granule, less
 * than 64 KiB; for any other p and for any other thread it is 64 KiB or more. Why 17: stacks may be
 * as small as 16 KiB, and thread pointers as near; seventeen times as far they are over 64 KiB
 * apart, and 17t still fits in 52 bits. A multiplication and two additions answer three questions:
 * is it ours, is it this thread's, where in the granule is it. A run that nobody may free to
 * without asking has a key that no address fits.
 *
 * Metadata is out of line: no header is next to a block, so an overflow can't reach one.
 *
 * The first cache line of a header belongs to the thread that owns the run, the second to
 * everybody.
 */
#ifndef FH_PAGES_RUN_H
#define FH_PAGES_RUN_H

#include "base/core/bits.h"
#include "base/core/macros.h"

#include <stdatomic.h>

#define FH_GRANULE_SHIFT 16
#define FH_GRANULE       ((size_t)1 << FH_GRANULE_SHIFT)
#define FH_RUN_SHIFT     7  /* log2 of sizeof(struct fh_run) */
#define FH_NO_RUN        0u /* granule 0 holds headers: never a run's */

enum fh_run_kind {
    FH_RUN_NONE = 0,  /* never used, or the array's own granules */
    FH_RUN_CLEAN,     /* first granule of a free span without memory behind it */
    FH_RUN_DIRTY,     /* first granule of a free span with pages in memory */
    FH_RUN_FREE_TAIL, /* last granule of a free span of two and more: `head` says where it begins */
    FH_RUN_BUSY,      /* free, being purged outside the pool's lock */
    FH_RUN_BLOCKS,    /* blocks of one size */
    FH_RUN_LARGE,     /* one block, at base, of large_bytes */
    FH_RUN_GUARDED,   /* lib/guard's: slots or one block; the heap does not see it */
    FH_RUN_REST,      /* a further granule of a run: `head` says where it begins */
};

/* Where a run of blocks stands with its heap; changed under the heap's lock or by the owner in a
 * refill. */
enum fh_run_state {
    FH_STATE_CURRENT = 0, /* its class's bin takes from it; not queued */
    FH_STATE_FULL,        /* no free block: the next free (countdown 1) queues it */
    FH_STATE_PARTIAL,     /* in the class's queue: has free blocks in `local` */
    FH_STATE_FRESH,       /* in the class's fresh queue: `local` empty, pages not carved yet */
    FH_STATE_EMPTY,       /* all free, kept by the heap for whichever class asks next */
};

struct fh_heap;
struct fh_owner;

struct fh_run {
    /* -- the owner's line ------------------------------------------------------------------ */
    /* Says which thread may free without asking; see above, fh_run_key(). Written by the owner, or
     * by others under the heap's lock (hand-over protocol, heap/decay.c). */
    _Atomic uintptr_t key;
    /* ceil(2^32 / block_size): off is a multiple iff (uint32_t)(off * reciprocal) < reciprocal. 0
     * in runs of several granules: nothing passes, the slow path uses `coarse`. */
    uint32_t reciprocal;
    uint32_t countdown;  /* frees until the slow path must look; used = used_floor + countdown */
    void *local;         /* blocks freed by the owner, linked by their first word */
    uint32_t block_size; /* bytes */
    uint32_t used_floor;
    _Atomic(struct fh_heap *) heap; /* whose run it is; a merge changes it */
    uintptr_t base;                 /* address of block 0 */
    uint32_t capacity;              /* blocks when every page is carved */
    uint32_t available;             /* blocks that exist: all their pages are carved */
    uint8_t kind;                   /* enum fh_run_kind */
    uint8_t state;                  /* enum fh_run_state */
    uint8_t class_index;
    uint8_t flags; /* enum fh_run_flag */
    union {
        uint32_t head;   /* REST, FREE_TAIL: index of the first granule */
        uint32_t coarse; /* BLOCKS of several granules: ceil(2^32 / (block_size / 1024)), as
                           * `reciprocal` in KiB */
        uint32_t align;  /* LARGE: the alignment that the block was given */
    };

    /* -- everybody's line ------------------------------------------------------------------ */
    /* Blocks freed by other threads: count in the upper half, (offset of the first / 16) + 1 in
     * the lower half; see heap/remote.c. */
    _Atomic uint64_t remote;
    _Atomic(struct fh_run *) inbox_next; /* valid while the run is in an inbox */
    uint32_t next, prev;                 /* the class's queue, or the pool's bin; FH_NO_RUN ends */
    uint32_t heap_next, heap_prev;       /* all runs of the heap */
    union {
        uint64_t carved;    /* BLOCKS: pages cut into blocks, bit i for page i */
        size_t large_bytes; /* LARGE: usable bytes */
    };
    uint64_t dirty; /* BLOCKS: pages in memory. A granule without a run: bits for its own
                             * pages */
    const struct fh_owner *manager;
    uint32_t span; /* granules, at the first granule of a run or free span */
    uint16_t seen; /* decay: fingerprint of `used` at the last tick */
    uint8_t quiet; /* decay: ticks since it changed */
    uint8_t epoch; /* free span: low bits of the tick at which it became free; run: ticks
                             * since it began */
};

_Static_assert(sizeof(struct fh_run) == (size_t)1 << FH_RUN_SHIFT, "a header is two cache lines");

enum fh_run_flag {
    FH_RUN_SLOW = 1 << 0,     /* frees of this run always take the slow path (shared heap, mode,
                               * events) */
    FH_RUN_REMAPPED = 1 << 1, /* pages came by mremap: to be mapped anew when freed */
    FH_RUN_ZERO = 1 << 2,     /* LARGE: pages read as zero (fresh from the kernel) */
    /* BLOCKS: its thread stayed in the parent of a fork, perhaps in the middle of a free: the list
     * may hold a block more or less
     * than the counts say, until it is taken next. */
    FH_RUN_CUT = 1 << 3,
};

#define FH_KEY_FACTOR 17u /* see above */

/* The key of a run whose frees all take the slow path: shared, lent to the decay helper, observed,
 * of several granules. */
#define FH_KEY_NOBODY ((uintptr_t)1 << 62)

/* Address to block, for who has only an address: reports, leak scan, sweep, collectors. */
struct fh_block;
struct fh_owner {
    const char *name;
    /* The block of `run` in which `address` lies: false when it lies in none (tail, pages not
     * carved). */
    bool (*resolve)(const struct fh_run *run, uintptr_t address, struct fh_block *out);
};

/* What the fast paths need to know of the window; a copy per library, so that it is reached without
 * the GOT. Before there is a
 * window: a header of zeroes, and mask 0. `mask` is written last and read first. */
struct fh_window {
    uintptr_t headers;
    size_t mask; /* (n - 1) << FH_RUN_SHIFT */
};

/* The kind of a neighbour, as the pool sees it: its owner may be making it a run of blocks, or a large one, at this
 * moment and without the pool's lock. Neither is a free span, so the pool does not mind which it sees. Relaxed, on both
 * sides. */
FH_INLINE uint8_t fh_run_kind(const struct fh_run *run)
{
    return __atomic_load_n(&run->kind, __ATOMIC_RELAXED);
}

FH_INLINE void fh_run_set_kind(struct fh_run *run, enum fh_run_kind kind)
{
    __atomic_store_n(&run->kind, (uint8_t)kind, __ATOMIC_RELAXED);
}

/* Distance of p's header from the first. */
FH_INLINE size_t fh_window_slot(const struct fh_window *window, const void *p)
{
    return ((uintptr_t)p >> (FH_GRANULE_SHIFT - FH_RUN_SHIFT)) & window->mask;
}

/* The header that p leads to; p's own only if p lies in the window. */
FH_INLINE struct fh_run *fh_window_run(const struct fh_window *window, const void *p)
{
    return (struct fh_run *)(window->headers + fh_window_slot(window, p));
}

/* Blocks handed out, those in a bin's active list included. */
FH_INLINE uint32_t fh_run_used(const struct fh_run *run)
{
    return run->used_floor + run->countdown;
}

/* The key by which `thread` may free to the run at `granule` (its first granule's address). */
FH_INLINE uintptr_t fh_run_key(uintptr_t thread, uintptr_t granule)
{
    return thread * FH_KEY_FACTOR - granule;
}

/* Offset of p in the run's first granule when `thread` may free there without asking; else 64 KiB
 * or more. */
FH_INLINE uintptr_t fh_run_offset(const struct fh_run *run, const void *p, uintptr_t thread)
{
    /* acquire: what the decay helper did to a run it had borrowed is seen with the key it put back.
     * */
    return (uintptr_t)p + atomic_load_explicit(&run->key, memory_order_acquire) -
           thread * FH_KEY_FACTOR;
}

#endif
