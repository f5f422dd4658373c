/*
 * What an allocator must know of the process that it lives in: that threads end, and that processes fork.
 *
 * Only what several threads share needs it: slab.c and locked.c. The freestanding allocators do without.
 */
#ifndef FH_PLACE_PROCESS_H
#define FH_PLACE_PROCESS_H

#include "base/core/macros.h"
#include "base/lock.h"
#include "freehold/locked.h"

/* ---- locks that come and go ------------------------------------------------------------------ */

/* base/lock.h's registry is for few locks that live as long as the process; these are any number. fork's
 * prepare takes them all, in whatever order it gets them, and lets go of all when one can't be had. */
void fh_fork_lock_open(struct fh_fork_lock *lock, void (*forked)(void *self), void *self);
void fh_fork_lock_close(struct fh_fork_lock *lock);

FH_INLINE struct fh_lock *fh_fork_lock_word(struct fh_fork_lock *lock)
{
    _Static_assert(sizeof(struct fh_lock) == sizeof lock->word, "the public word is a lock");
    return (struct fh_lock *)(void *)&lock->word;
}

/* ---- something for each thread ---------------------------------------------------------------- */

enum {
    FH_THREAD_OWNERS = 128, /* at once; later ones go without: their threads share under the lock */
};

struct fh_thread_slot {
    uint64_t serial; /* of the owner that `mine` is for; 0: none. Serials are never used again */
    void *mine;
};

struct fh_thread_slots {
    struct fh_thread_slot slots[FH_THREAD_OWNERS + 1]; /* the last is nobody's: always empty */
    struct fh_thread_slots *next;                      /* in the list of all, or of spare ones */
};

/* Never NULL: threads without slots have an empty table that nobody writes to. */
extern FH_HIDDEN __thread struct fh_thread_slots *fh_thread_slots
    __attribute__((tls_model("initial-exec")));

/* owner->thread_ends and owner->self are set before; it is called with the registry locked, so it may take the
 * owner's lock, and open and close must not be called with that held. */
void fh_thread_owner_open(struct fh_thread_owner *owner);
void fh_thread_owner_close(struct fh_thread_owner *owner);

/* What the calling thread has for the owner; NULL: nothing. */
FH_INLINE void *fh_thread_mine(const struct fh_thread_owner *owner)
{
    const struct fh_thread_slot *slot = &fh_thread_slots->slots[owner->index];
    return FH_LIKELY(slot->serial == owner->serial) ? slot->mine : NULL;
}

/* Whether the calling thread can have something: not after its end, nor for an owner without index. */
bool fh_thread_can_have(const struct fh_thread_owner *owner);
/* After fh_thread_can_have, no lock held. */
void fh_thread_set_mine(const struct fh_thread_owner *owner, void *mine);

/* A number that is the calling thread's as long as it lives. */
FH_INLINE uintptr_t fh_thread_id(void)
{
    return (uintptr_t)&fh_thread_slots;
}

#endif
