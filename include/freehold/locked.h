/*
 * locked.h: any allocator made safe for threads, by a wrapper around it.
 *
 * The explicit allocators have no locks in them: most are used by one thread, and who shares one knows best how.
 * Wrap it with a mutex where calls are few; with per-thread magazines where small blocks come and go in
 * several threads at once: then most calls take no lock. Do not wrap what is thread-safe already (the
 * heap, a shared buddy system, a slab), and do not share what needn't be: an arena a thread is faster than any
 * lock.
 *
 *     struct fh_allocator tlsf = fh_tlsf_allocator(&handle);
 *     struct fh_locked locked;
 *     fh_locked_init(&locked, &(struct fh_locked_options){.inner = tlsf, .kind = FH_LOCKED_MUTEX});
 *     struct fh_allocator a = fh_locked_allocator(&locked);
 *     void *block = fh_alloc(&a, 100);   // from any thread
 *
 * fork: the parent's forking thread waits until no other thread is inside a wrapped allocator, so the child finds
 * each of them whole and free. (After a second of waiting it goes on without; the child's locks are free
 * all the same, but an allocator that a thread was changing may be half changed.) What other threads had in
 * their magazines is taken over in the child.
 */
#ifndef FREEHOLD_LOCKED_H
#define FREEHOLD_LOCKED_H

#include "freehold/allocator.h"

FH_BEGIN_DECLS

/* A lock that fork takes care of, and that comes and goes with its owner. Part of the handles. */
struct fh_fork_lock {
    uint32_t word;
    uint32_t is_listed;
    struct fh_fork_lock *next, **link;
    void (*forked)(void *self); /* in the child, all locks free; may be NULL */
    void *self;
};

/* An allocator that keeps something for each thread. Part of the handles. */
struct fh_thread_owner {
    uint64_t serial;
    uint32_t index;
    void (*thread_ends)(void *self, void *mine);
    void *self;
};

enum fh_locked_kind {
    FH_LOCKED_NONE,      /* no lock: the inner allocator as it is */
    FH_LOCKED_MUTEX,     /* one lock around each call */
    FH_LOCKED_MAGAZINES, /* each thread keeps small blocks to hand out again */
};

struct fh_locked_options {
    struct fh_allocator inner; /* copied; nobody else may call it while it is wrapped */
    enum fh_locked_kind kind;
    size_t largest; /* magazines: the largest block that is kept, up to 1024; 0: 1024 */
};

/* The caller's; its fields are for locked.c. */
struct fh_locked {
    struct fh_allocator inner;
    struct fh_allocator_ops ops;
    enum fh_locked_kind kind;
    size_t largest;
    struct fh_fork_lock lock;
    uintptr_t holder;   /* the thread that has the lock, for callbacks that call again */
    void *threads;      /* what each thread keeps; under the lock */
    uint64_t contended; /* times that the lock was not free */
    struct fh_thread_owner owner;
};

/* 0; -EINVAL for no allocator or a kind that is none. */
FH_API int fh_locked_init(struct fh_locked *locked, const struct fh_locked_options *options);
/* The inner allocator stays, with all blocks; what was kept goes back to it. Nobody else may call. (The
 * interface's destroy destroys the inner allocator too.) */
FH_API void fh_locked_close(struct fh_locked *locked);
/* What the inner allocator offers, and thread-safe. With magazines:
 *   - a block of up to `largest` bytes and no special alignment is a little larger than asked for (by a
 *     quarter at most), and up to 32 of a size stay with a thread: they are live to the inner allocator;
 *   - a free is only written down, 32 of them are looked at together: then misuse is reported, and a second
 *     free of a block that waits in another thread's magazine is not seen;
 *   - a thread's magazines are emptied when it ends, when the inner allocator is exhausted (the
 *     calling thread's), on reset, and by fh_locked_drain. walk, measure and check empty the caller's;
 *   - over an allocator of one size (pool) the wrapper is a mutex. */
FH_API struct fh_allocator fh_locked_allocator(struct fh_locked *locked);
/* Empties the calling thread's magazines. */
FH_API void fh_locked_drain(struct fh_locked *locked);

FH_END_DECLS
#endif
