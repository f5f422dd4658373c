/*
 * Locks and their registry.
 *
 * The lock. word is 0 (free), 1 (held) or 2 (held, and a waiter may sleep). Taking it free costs
 * one compare-and-swap, giving it back one exchange; only an exchange that finds 2 calls the
 * kernel. A thread that has once waited takes the lock as 2, for it can't know whether others still
 * sleep: a needless wake-up is the price, a lost one can't happen.
 *
 * Before it sleeps a thread spins SPINS times: the sections under these locks last well under a
 * microsecond, a sleep and a wake-up between two cores some 37 µs, so waiting a few µs is nearly
 * always enough.
 *
 * The registry. Locks are appended and never leave (at most MAX_LOCKS, all of static lifetime).
 * `registering` guards the append. It is the innermost lock of all: a room may register while it
 * holds any lock of its own, and nothing is taken under it, except that hold_all takes it after
 * every other. So once hold_all has returned, nobody is inside any registered lock nor inside the
 * registry, and a forked child may reset them all. A lock that is registered while hold_all
 * collects the others would be missed: hold_all sees that the count has grown, gives everything
 * back and starts again (that can happen at most MAX_LOCKS times).
 *
 * Invariants: entries[0..count) are complete before count is published; they are sorted when
 * hold_all has returned only through `held`, which belongs to the thread between hold_all and
 * release_all.
 *
 * Follows: U. Drepper, "Futexes Are Tricky" (2011), section 6, mutex 2.
 */
#include "base/lock.h"

enum {
    SPINS = 100,     /* at 20-45 ns a pause instruction: 2-4.5 µs */
    MAX_LOCKS = 160, /* one a class of guarded slots, a few a room */
};

enum { FREE = 0, HELD = 1, CONTENDED = 2 };

/* Until os/ is up there is one thread as a rule; should there be two, waiting is spinning. */
static void wait_by_spinning(_Atomic uint32_t *word, uint32_t expected, uint64_t ns)
{
    (void)word;
    (void)expected;
    (void)ns;
}

static void wake_nobody(_Atomic uint32_t *word, int count)
{
    (void)word;
    (void)count;
}

/* A clock for as long as there is none: every look at it takes a microsecond. */
static uint64_t now_by_counting(void)
{
    static _Atomic uint64_t looks;
    return atomic_fetch_add_explicit(&looks, 1, memory_order_relaxed) * 1000;
}

void (*fh_lock_wait_hook)(_Atomic uint32_t *word, uint32_t expected,
                          uint64_t ns) = wait_by_spinning;
void (*fh_lock_wake_hook)(_Atomic uint32_t *word, int count) = wake_nobody;
uint64_t (*fh_lock_now_hook)(void) = now_by_counting;

static void pause_briefly(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb");
#endif
}

bool fh_lock_try(struct fh_lock *lock)
{
    uint32_t seen = FREE;
    /* acquire: pairs with the release in fh_lock_release. */
    return atomic_compare_exchange_strong_explicit(&lock->word, &seen, HELD, memory_order_acquire,
                                                   memory_order_relaxed);
}

static bool try_spinning(struct fh_lock *lock)
{
    for (int i = 0; i < SPINS; i++) {
        /* relaxed: only a hint; the compare-and-swap decides. */
        uint32_t seen = atomic_load_explicit(&lock->word, memory_order_relaxed);
        if (seen == FREE && fh_lock_try(lock))
            return true;
        if (seen == CONTENDED)
            return false; /* others sleep already: queue up behind them */
        pause_briefly();
    }
    return false;
}

/* acquire: pairs with the release in fh_lock_release. */
static bool try_as_waiter(struct fh_lock *lock)
{
    return atomic_exchange_explicit(&lock->word, CONTENDED, memory_order_acquire) == FREE;
}

static FH_COLD void acquire_slow(struct fh_lock *lock)
{
    if (try_spinning(lock))
        return;
    while (!try_as_waiter(lock))
        fh_lock_wait_hook(&lock->word, CONTENDED, 0);
}

void fh_lock_acquire(struct fh_lock *lock)
{
    if (FH_UNLIKELY(!fh_lock_try(lock)))
        acquire_slow(lock);
}

bool fh_lock_try_for(struct fh_lock *lock, uint64_t ns)
{
    if (fh_lock_try(lock) || try_spinning(lock))
        return true;
    uint64_t start = fh_lock_now_hook();
    while (!try_as_waiter(lock)) {
        uint64_t elapsed = fh_lock_now_hook() - start;
        if (elapsed >= ns)
            return false;
        fh_lock_wait_hook(&lock->word, CONTENDED, ns - elapsed);
    }
    return true;
}

void fh_lock_release(struct fh_lock *lock)
{
    /* release: what was written under the lock is seen by whoever acquires it next. */
    uint32_t seen = atomic_exchange_explicit(&lock->word, FREE, memory_order_release);
    if (FH_UNLIKELY(seen == CONTENDED))
        fh_lock_wake_hook(&lock->word, 1);
}

void fh_lock_reset(struct fh_lock *lock)
{
    /* relaxed: the child of a fork has one thread. */
    atomic_store_explicit(&lock->word, FREE, memory_order_relaxed);
}

struct entry {
    struct fh_lock *lock;
    enum fh_floor floor;
};

static struct {
    struct fh_lock registering; /* innermost; see above */
    unsigned count;             /* entries in use; under `registering` */
    struct entry entries[MAX_LOCKS];
    struct entry held[MAX_LOCKS]; /* what hold_all took, in the order it did; its holder's */
    unsigned held_count;
} registry;

static bool is_registered(const struct fh_lock *lock)
{
    for (unsigned i = 0; i < registry.count; i++)
        if (registry.entries[i].lock == lock)
            return true;
    return false;
}

void fh_locks_register(struct fh_lock *lock, enum fh_floor floor)
{
    fh_lock_acquire(&registry.registering);
    if (!is_registered(lock)) {
        if (registry.count == MAX_LOCKS)
            __builtin_trap(); /* a room registers locks that are not long-lived */
        registry.entries[registry.count++] = (struct entry){lock, floor};
    }
    fh_lock_release(&registry.registering);
}

/* Copies the registry into `out`, lowest floor first, in the order of registration within a floor.
 */
static unsigned copy_in_order(struct entry *out)
{
    fh_lock_acquire(&registry.registering);
    unsigned count = registry.count;
    for (unsigned i = 0; i < count; i++) {
        unsigned at = i;
        for (; at > 0 && out[at - 1].floor > registry.entries[i].floor; at--)
            out[at] = out[at - 1];
        out[at] = registry.entries[i];
    }
    fh_lock_release(&registry.registering);
    return count;
}

static void release_in_reverse(const struct entry *entries, unsigned count)
{
    while (count > 0)
        fh_lock_release(entries[--count].lock);
}

void fh_locks_hold_all(void)
{
    struct entry wanted[MAX_LOCKS];
    for (;;) {
        unsigned count = copy_in_order(wanted);
        for (unsigned i = 0; i < count; i++)
            fh_lock_acquire(wanted[i].lock);
        fh_lock_acquire(&registry.registering);
        if (registry.count == count) {
            for (unsigned i = 0; i < count; i++)
                registry.held[i] = wanted[i];
            registry.held_count = count;
            return;
        }
        fh_lock_release(&registry.registering);
        release_in_reverse(wanted, count);
    }
}

void fh_locks_release_all(void)
{
    /* `held` may be overwritten by another thread's hold_all as soon as the locks are free. */
    struct entry held[MAX_LOCKS];
    unsigned count = registry.held_count;
    for (unsigned i = 0; i < count; i++)
        held[i] = registry.held[i];
    registry.held_count = 0;
    fh_lock_release(&registry.registering);
    release_in_reverse(held, count);
}

void fh_locks_reset_all(void)
{
    for (unsigned i = 0; i < registry.count; i++)
        fh_lock_reset(registry.entries[i].lock);
    registry.held_count = 0;
    fh_lock_reset(&registry.registering);
}
