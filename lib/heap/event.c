/*
 * The event seam: listeners, and what a heap does so that they hear everything.
 *
 * A heap with listeners is *observed*: its active lists are held beside the bins (so malloc's fast path finds nothing) and
 * its runs have no owner (so free's finds nobody). Both take the slow path, which tells. A thread becomes observed at its next refill, when it
 * sees that the settings' generation has changed.
 */
#include "freehold/event.h"

#include "heap/heap.h"
#include "os/sys.h"

#include <errno.h>

#define MAX_LISTENERS 8

static struct {
    struct fh_lock lock;
    struct listener {
        _Atomic(fh_event_listener *) call;
        void *context;
        unsigned kinds;
    } listeners[MAX_LISTENERS];
} events = {.lock = FH_LOCK_INIT};

static void recount(void)
{
    unsigned kinds = 0;
    for (unsigned i = 0; i < MAX_LISTENERS; i++)
        if (atomic_load_explicit(&events.listeners[i].call, memory_order_relaxed) != NULL)
            kinds |= events.listeners[i].kinds;
    atomic_store_explicit(&fh_root.listened, kinds, memory_order_relaxed);
    atomic_fetch_add_explicit(&fh_root.settings.generation, 1, memory_order_release);
}

int fh_event_listen(unsigned kinds, fh_event_listener *listener, void *context)
{
    if (listener == NULL || kinds == 0)
        return -EINVAL;
    int id = -ENOSPC;
    fh_lock_acquire(&events.lock);
    for (unsigned i = 0; i < MAX_LISTENERS && id < 0; i++) {
        struct listener *slot = &events.listeners[i];
        if (atomic_load_explicit(&slot->call, memory_order_relaxed) != NULL)
            continue;
        slot->kinds = kinds;
        slot->context = context;
        /* release pairs with the acquire of fh_event_tell. */
        atomic_store_explicit(&slot->call, listener, memory_order_release);
        id = (int)i + 1;
    }
    recount();
    fh_lock_release(&events.lock);
    return id;
}

int fh_event_unlisten(int id)
{
    if (id < 1 || id > MAX_LISTENERS)
        return -EINVAL;
    fh_lock_acquire(&events.lock);
    bool was_there = atomic_exchange_explicit(&events.listeners[id - 1].call, NULL, memory_order_acq_rel) != NULL;
    recount();
    fh_lock_release(&events.lock);
    return was_there ? 0 : -EINVAL;
}

/* What a listener does itself is not told: the heap says that one is being called. */
void fh_event_tell(unsigned kind, void *address, void *old_address, size_t requested, size_t usable, const void *caller)
{
    struct fh_heap *heap = fh_heap_current;
    if (heap == &fh_heap_none || heap == &fh_heap_emergency || heap->is_telling)
        return;
    heap->is_telling = true;
    struct fh_event event = {
        .size = sizeof event,
        .kind = (enum fh_event_kind)kind,
        .thread = (unsigned)heap->tid,
        .time_ns = fh_os_now_ns(),
        .address = address,
        .old_address = old_address,
        .requested = requested,
        .usable = usable,
        .caller = caller,
        .frame = __builtin_frame_address(0),
    };
    for (unsigned i = 0; i < MAX_LISTENERS; i++) {
        fh_event_listener *call = atomic_load_explicit(&events.listeners[i].call, memory_order_acquire);
        if (call != NULL && (events.listeners[i].kinds & kind))
            call(events.listeners[i].context, &event);
    }
    heap->is_telling = false;
}

void fh_heap_follow_settings(struct fh_heap *heap)
{
    heap->settings_seen = atomic_load_explicit(&fh_root.settings.generation, memory_order_acquire);
    bool is_observed = atomic_load_explicit(&fh_root.listened, memory_order_relaxed) != 0;
    if (is_observed == ((heap->modes & FH_HEAP_OBSERVED) != 0))
        return;
    heap->modes ^= FH_HEAP_OBSERVED;
    for (unsigned i = 0; i < FH_CLASS_COUNT; i++) {
        void **from = is_observed ? &heap->bins[i].free : &heap->queues[i].held;
        void **to = is_observed ? &heap->queues[i].held : &heap->bins[i].free;
        *to = *from;
        *from = NULL;
    }
    for (uint32_t index = heap->all_first; index != FH_NO_RUN;) {
        struct fh_run *run = fh_run_at(heap->pages, index);
        index = run->heap_next;
        if (run->kind == FH_RUN_BLOCKS)
            fh_run_set_owner(heap, run);
    }
}
