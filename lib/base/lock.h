/*
 * Locks that a memory allocator may hold.
 *
 * A lock is one 32-bit word: 0 free, 1 held, 2 held and somebody may be waiting (Drepper, "Futexes
 * are tricky", mutex 2). It touches neither libc nor thread-local storage, so the helper clone may
 * take it too. Waiters sleep in futex(2) through the hook that os/ fills at start-up (base/ itself
 * calls no kernel).
 *
 * Order: a lock is taken only while every lock held already has a lower floor. The floors are the
 * rooms' order in the house, from the top down (a heap's lock is taken before the page pool's):
 */
#ifndef FH_BASE_LOCK_H
#define FH_BASE_LOCK_H

#include "base/core/macros.h"

#include <stdatomic.h>

enum fh_floor {
    FH_FLOOR_HEAPS = 10,  /* the list of heaps, adoption of heaps of exited threads, options */
    FH_FLOOR_HEAP = 20,   /* one first-class heap */
    FH_FLOOR_HELPER = 30, /* start and stop of the decay helper */
    FH_FLOOR_GUARD = 35,  /* guarded slots, fences, the sweep */
    FH_FLOOR_PAGES = 40,  /* the page pool */
    FH_FLOOR_META = 50,   /* metadata memory */
    FH_FLOOR_STACK = 60,  /* module tables of the unwinder */
};

struct fh_lock {
    _Atomic uint32_t word;
};

#define FH_LOCK_INIT                                                                               \
    {                                                                                              \
        0                                                                                          \
    }

/* Blocks until the lock is held. Not recursive. */
void fh_lock_acquire(struct fh_lock *lock);
/* True when the lock was free and is now held. */
bool fh_lock_try(struct fh_lock *lock);
/* Tries for at most `ns` nanoseconds (crash reports only try). */
bool fh_lock_try_for(struct fh_lock *lock, uint64_t ns);
void fh_lock_release(struct fh_lock *lock);
/* Makes the lock free whoever held it: for the child of a fork. */
void fh_lock_reset(struct fh_lock *lock);

/*
 * The one way to hold everything still: rooms register each of their long-lived locks with its
 * floor (at most 160); hold_all takes them lowest floor first, release_all gives them back,
 * reset_all makes them free in a forked child. Registering the same lock twice is ignored.
 */
void fh_locks_register(struct fh_lock *lock, enum fh_floor floor);
void fh_locks_hold_all(void);
void fh_locks_release_all(void);
void fh_locks_reset_all(void);

/* os/ fills these; wait returns when *word != expected, on wake-up, or spuriously; ns 0 waits for
 * ever. */
extern void (*fh_lock_wait_hook)(_Atomic uint32_t *word, uint32_t expected, uint64_t ns);
extern void (*fh_lock_wake_hook)(_Atomic uint32_t *word, int count);
/* The monotonic clock, in nanoseconds, for fh_lock_try_for. */
extern uint64_t (*fh_lock_now_hook)(void);

#endif
