/*
 * The event seam: listeners, and what a heap does so that they hear everything.
 *
 * A heap with listeners is *observed*: its active lists are held beside the bins (so malloc's fast
 * path finds nothing) and its runs have no owner (so free's finds nobody). Both take the slow path,
 * which tells. A thread becomes observed at its next refill, when it sees that the settings'
 * generation has changed; the thread that registers the listener, at once.
 *
 * A block that moves in a realloc is told as one resize, so the allocation and the free that it is
 * made of are *muted*. So is all that a listener does itself.
 *
 * What happens to pages is noted where it happens, with locks held or on the decay helper
 * (base/notice.h), and told with the next event of whichever thread, before it.
 */
#include "freehold/event.h"

#include "base/notice.h"
#include "heap/heap.h"
#include "os/sys.h"
#include "stack/stack.h"

#include <errno.h>

#define MAX_LISTENERS 8
#define OWN_FRAMES    12u /* our deepest call path is shorter */
#define CALLS         ((unsigned)(FH_EVENT_ALLOC | FH_EVENT_FREE | FH_EVENT_RESIZE))
#define PAGES         ((unsigned)(FH_EVENT_PURGE | FH_EVENT_GROW))

static struct {
    struct fh_lock lock;
    struct listener {
        /* Written last and read first (release, acquire): who sees it sees its context and kinds. A
         * thread that read it just before it was taken out and put in again may see another's:
         * relaxed, and no worse than the call that may still finish. */
        _Atomic(fh_event_listener *) call;
        _Atomic(void *) context;
        _Atomic unsigned kinds;
    } listeners[MAX_LISTENERS];
} events = {.lock = FH_LOCK_INIT};

/* This thread tells nothing: a listener is being called on it, or the call is part of something
 * else. */
static __thread bool is_muted __attribute__((tls_model("initial-exec")));

static void recount(void)
{
    unsigned kinds = 0;
    for (unsigned i = 0; i < MAX_LISTENERS; i++)
        if (atomic_load_explicit(&events.listeners[i].call, memory_order_relaxed) != NULL)
            kinds |= atomic_load_explicit(&events.listeners[i].kinds, memory_order_relaxed);
    atomic_store_explicit(&fh_root.listened, kinds, memory_order_relaxed);
    atomic_store_explicit(&fh_notices_wanted, (kinds & PAGES) != 0, memory_order_relaxed);
    atomic_fetch_add_explicit(&fh_root.settings.generation, 1, memory_order_release);
}

/* The calling thread does not wait for its next refill. */
static void follow_at_once(void)
{
    struct fh_heap *heap = fh_heap_current;
    if (heap == &fh_heap_none || fh_is_inside(heap))
        return;
    fh_heap_lock(heap);
    fh_heap_follow_settings(heap);
    fh_heap_unlock(heap);
}

int fh_event_listen(unsigned kinds, fh_event_listener *listener, void *context)
{
    if (listener == NULL || kinds == 0 || (kinds & ~(CALLS | PAGES)) != 0)
        return -EINVAL;
    int id = -ENOSPC;
    fh_lock_acquire(&events.lock);
    for (unsigned i = 0; i < MAX_LISTENERS && id < 0; i++) {
        struct listener *slot = &events.listeners[i];
        if (atomic_load_explicit(&slot->call, memory_order_relaxed) != NULL)
            continue;
        atomic_store_explicit(&slot->kinds, kinds, memory_order_relaxed);
        atomic_store_explicit(&slot->context, context, memory_order_relaxed);
        /* release pairs with the acquire of fh_event_tell. */
        atomic_store_explicit(&slot->call, listener, memory_order_release);
        id = (int)i + 1;
    }
    recount();
    fh_lock_release(&events.lock);
    follow_at_once();
    return id;
}

int fh_event_unlisten(int id)
{
    if (id < 1 || id > MAX_LISTENERS)
        return -EINVAL;
    fh_lock_acquire(&events.lock);
    bool was_there = atomic_exchange_explicit(&events.listeners[id - 1].call, NULL,
                                              memory_order_acq_rel) != NULL;
    recount();
    fh_lock_release(&events.lock);
    follow_at_once();
    return was_there ? 0 : -EINVAL;
}

bool fh_event_mute(void)
{
    bool before = is_muted;
    is_muted = true;
    return before;
}

void fh_event_unmute(bool before)
{
    is_muted = before;
}

static bool is_program(const void *code)
{
    return fh_stack_in_module((uintptr_t)code + 1, (const void *)(uintptr_t)fh_os_program_entry());
}

/* The caller of the interface. `caller` is the return address that our slow path was entered with:
 * the program's when the entry point jumped there, our own code's when it called. Then the stack is
 * walked, unless all is one module. */
static const void *find_caller(const void *caller)
{
    const void *own = (const void *)(uintptr_t)fh_event_tell, *entry = fh_root.entry.code;
    uintptr_t frames[OWN_FRAMES];
    uintptr_t at = (uintptr_t)caller;
    if (!fh_stack_in_module(at, own) && (entry == NULL || !fh_stack_in_module(at, entry)))
        return caller;
    if (is_program(own))
        return caller;
    size_t count = fh_stack_capture(NULL, frames, OWN_FRAMES, 0);
    for (size_t i = 0; i < count; i++)
        if (!fh_stack_in_module(frames[i], own) &&
            (entry == NULL || !fh_stack_in_module(frames[i], entry)))
            return (const void *)frames[i];
    return caller;
}

static void call_listeners(const struct fh_event *event)
{
    for (unsigned i = 0; i < MAX_LISTENERS; i++) {
        struct listener *slot = &events.listeners[i];
        fh_event_listener *call = atomic_load_explicit(&slot->call, memory_order_acquire);
        if (call != NULL &&
            (atomic_load_explicit(&slot->kinds, memory_order_relaxed) & event->kind))
            call(atomic_load_explicit(&slot->context, memory_order_relaxed), event);
    }
}

/* What happened to pages meanwhile. */
static void tell_notices(void)
{
    struct fh_notice notice;
    while (fh_notice_is_wanted() && fh_notice_take(&notice)) {
        bool is_helpers =
            notice.tid == atomic_load_explicit(&fh_root.helper_tid, memory_order_relaxed);
        const struct fh_event event = {
            .size = sizeof event,
            .kind = notice.kind == FH_NOTICE_GROW ? FH_EVENT_GROW : FH_EVENT_PURGE,
            .thread = is_helpers ? 0 : (unsigned)notice.tid,
            .time_ns = notice.time_ns,
            .address = notice.address,
            .usable = notice.size,
        };
        call_listeners(&event);
    }
}

void fh_event_tell(unsigned kind, void *address, void *old_address, size_t requested, size_t usable,
                   const void *caller)
{
    struct fh_heap *heap = fh_heap_current;
    /* A signal handler that interrupted our own code: locks may be held. */
    if (is_muted || fh_is_inside(heap))
        return;
    is_muted = true;
    int saved = errno;
    tell_notices();
    if (atomic_load_explicit(&fh_root.listened, memory_order_relaxed) & kind) {
        struct fh_event event = {
            .size = sizeof event,
            .kind = (enum fh_event_kind)kind,
            .thread = (unsigned)(heap != &fh_heap_none ? heap->tid : fh_os_gettid()),
            .time_ns = fh_os_now_ns(),
            .address = address,
            .old_address = old_address,
            .requested = requested,
            .usable = usable,
            .caller = find_caller(caller),
            .frame = __builtin_frame_address(0),
        };
        call_listeners(&event);
    }
    errno = saved;
    is_muted = false;
}

void fh_heap_follow_settings(struct fh_heap *heap)
{
    heap->settings_seen = atomic_load_explicit(&fh_root.settings.generation, memory_order_acquire);
    bool is_observed = (atomic_load_explicit(&fh_root.listened, memory_order_relaxed) & CALLS) != 0;
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
