/*
 * Threads that end and processes that fork, for the allocators that several threads share.
 *
 * Threads. One thread-local pointer leads to a table with a slot for each owner (a slab cache, a wrapper). A slot is
 * valid while its serial is the owner's; serials are never used twice, so a slot that a closed owner
 * left behind is never taken for its successor's, and nobody needs to visit the tables of other threads. When a
 * thread ends (a pthread key's destructor), the owners of its valid slots are told. Tables are recycled,
 * never freed. Frees that arrive after the destructor (other libraries' keys) find the empty table and go
 * under the owner's lock.
 *
 * Fork. Everybody who changes what is shared holds one of the listed locks, so when fork holds them all, all is whole.
 * Wrappers nest (a locked arena over a locked heap), in an order that only their users know, so a fixed order would
 * be wrong for somebody: fork tries, and when a lock does not come within a millisecond it gives all back and
 * begins again. Whoever holds one lock and waits for another gets on meanwhile. Our handlers are registered after the
 * heap's, so they run before them, while the heap's locks are still free for the holders of ours.
 *
 * `registry` guards the list of locks, the owners and the lists of tables. It is taken before any listed lock.
 */
#include "place/process.h"

#include "freehold/heap.h"
#include "os/sys.h"
#include "pages/pages.h"

#include <pthread.h>

enum {
    FORK_TRIES = 1000, /* of a millisecond each: then the child has to live with what there is */
};

static struct fh_thread_slots no_slots, ended_slots; /* empty both */
__thread struct fh_thread_slots *fh_thread_slots __attribute__((tls_model("initial-exec"))) =
    &no_slots;

static struct {
    struct fh_lock lock;
    bool has_begun, has_key;
    pthread_key_t key;
    struct fh_fork_lock *locks;
    struct fh_thread_owner *owners[FH_THREAD_OWNERS];
    struct fh_thread_slots *tables; /* in use */
    struct fh_thread_slots *spare;
    uint64_t last_serial;
    bool is_whole; /* fork holds every lock */
} registry;

/* ---- fork ------------------------------------------------------------------------------------ */

static void release_until(const struct fh_fork_lock *end)
{
    for (struct fh_fork_lock *lock = registry.locks; lock != end; lock = lock->next)
        fh_lock_release(fh_fork_lock_word(lock));
}

static bool try_all(void)
{
    for (struct fh_fork_lock *lock = registry.locks; lock != NULL; lock = lock->next)
        if (!fh_lock_try_for(fh_fork_lock_word(lock), 1000000)) {
            release_until(lock);
            return false;
        }
    return true;
}

static void fork_prepare(void)
{
    fh_lock_acquire(&registry.lock);
    registry.is_whole = try_all();
    for (int i = 1; i < FORK_TRIES && !registry.is_whole; i++) {
        fh_os_sleep_ns(100000); /* for those that we were in the way of */
        registry.is_whole = try_all();
    }
}

static void fork_parent(void)
{
    if (registry.is_whole)
        release_until(NULL);
    fh_lock_release(&registry.lock);
}

static void fork_child(void)
{
    for (struct fh_fork_lock *lock = registry.locks; lock != NULL; lock = lock->next)
        fh_lock_reset(fh_fork_lock_word(lock));
    fh_lock_reset(&registry.lock);
    for (struct fh_fork_lock *lock = registry.locks; lock != NULL; lock = lock->next)
        if (lock->forked != NULL)
            lock->forked(lock->self);
    /* Tables of threads that the child has not. */
    struct fh_thread_slots **link = &registry.tables;
    while (*link != NULL) {
        struct fh_thread_slots *table = *link;
        if (table == fh_thread_slots) {
            link = &table->next;
            continue;
        }
        *link = table->next;
        __builtin_memset(table, 0, sizeof *table);
        table->next = registry.spare;
        registry.spare = table;
    }
}

/* ---- threads --------------------------------------------------------------------------------- */

static void thread_ends(void *value)
{
    struct fh_thread_slots *table = value;
    fh_thread_slots = &ended_slots;
    fh_lock_acquire(&registry.lock);
    for (unsigned i = 0; i < FH_THREAD_OWNERS; i++) {
        struct fh_thread_owner *owner = registry.owners[i];
        struct fh_thread_slot *slot = &table->slots[i];
        if (slot->serial != 0 && owner != NULL && owner->serial == slot->serial)
            owner->thread_ends(owner->self, slot->mine);
    }
    struct fh_thread_slots **link = &registry.tables;
    while (*link != table)
        link = &(*link)->next;
    *link = table->next;
    __builtin_memset(table, 0, sizeof *table);
    table->next = registry.spare;
    registry.spare = table;
    fh_lock_release(&registry.lock);
}

/* Once, with no lock held: what is called here may allocate. */
static void begin(void)
{
    if (__atomic_load_n(&registry.has_begun, __ATOMIC_ACQUIRE)) /* pairs with the exchange below */
        return;
    fh_os_init();
    (void)fh_heap_mine(); /* registers the heap's fork handlers: before ours */
    if (__atomic_exchange_n(&registry.has_begun, true, __ATOMIC_ACQ_REL))
        return;
    pthread_atfork(fork_prepare, fork_parent, fork_child);
    __atomic_store_n(&registry.has_key, pthread_key_create(&registry.key, thread_ends) == 0,
                     __ATOMIC_RELEASE); /* pairs with the load in fh_thread_can_have */
}

bool fh_thread_can_have(const struct fh_thread_owner *owner)
{
    if (owner->index == FH_THREAD_OWNERS || !__atomic_load_n(&registry.has_key, __ATOMIC_ACQUIRE))
        return false;
    if (fh_thread_slots != &no_slots)
        return fh_thread_slots != &ended_slots;
    fh_lock_acquire(&registry.lock);
    struct fh_thread_slots *table = registry.spare;
    if (table != NULL)
        registry.spare = table->next;
    else
        table = fh_meta_alloc(sizeof *table);
    if (table != NULL) {
        table->next = registry.tables;
        registry.tables = table;
    }
    fh_lock_release(&registry.lock);
    if (table == NULL)
        return false;
    fh_thread_slots = table;
    pthread_setspecific(registry.key, table);
    return true;
}

void fh_thread_set_mine(const struct fh_thread_owner *owner, void *mine)
{
    fh_thread_slots->slots[owner->index] = (struct fh_thread_slot){owner->serial, mine};
}

void fh_thread_owner_open(struct fh_thread_owner *owner)
{
    begin();
    fh_lock_acquire(&registry.lock);
    owner->serial = ++registry.last_serial;
    owner->index = 0;
    while (owner->index < FH_THREAD_OWNERS && registry.owners[owner->index] != NULL)
        owner->index++;
    if (owner->index < FH_THREAD_OWNERS)
        registry.owners[owner->index] = owner;
    fh_lock_release(&registry.lock);
}

void fh_thread_owner_close(struct fh_thread_owner *owner)
{
    fh_lock_acquire(&registry.lock);
    if (owner->index < FH_THREAD_OWNERS)
        registry.owners[owner->index] = NULL;
    fh_lock_release(&registry.lock);
    owner->index = FH_THREAD_OWNERS;
}

/* ---- locks ----------------------------------------------------------------------------------- */

void fh_fork_lock_open(struct fh_fork_lock *lock, void (*forked)(void *self), void *self)
{
    begin();
    *lock = (struct fh_fork_lock){.forked = forked, .self = self, .is_listed = 1};
    fh_lock_acquire(&registry.lock);
    lock->next = registry.locks;
    lock->link = &registry.locks;
    if (lock->next != NULL)
        lock->next->link = &lock->next;
    registry.locks = lock;
    fh_lock_release(&registry.lock);
}

void fh_fork_lock_close(struct fh_fork_lock *lock)
{
    if (!lock->is_listed)
        return;
    fh_lock_acquire(&registry.lock);
    *lock->link = lock->next;
    if (lock->next != NULL)
        lock->next->link = lock->link;
    fh_lock_release(&registry.lock);
    lock->is_listed = 0;
}
