/*
 * event.h: the stream of what happens to memory.
 *
 * A listener gets every allocation, free and resize of the process while it is registered.
 * Registering empties the threads' free lists at their next refill, so that each call takes the
 * slow path, which tells the listener; while nobody listens the fast path does not know that
 * listeners exist.
 *
 * A listener is called on the thread that allocates, after an allocation and before a free, with no
 * lock of Freehold held. It may allocate; what it allocates itself is not told. Do not use it to
 * sample cheaply: a listener costs every call some 30 ns and more.
 *
 *     static void on_event(void *context, const struct fh_event *event) { … }
 *     int id = fh_event_listen(FH_EVENT_ALLOC | FH_EVENT_FREE, on_event, NULL);
 *     …
 *     fh_event_unlisten(id);
 */
#ifndef FREEHOLD_EVENT_H
#define FREEHOLD_EVENT_H

#include "freehold/types.h"

FH_BEGIN_DECLS

enum fh_event_kind {
    FH_EVENT_ALLOC = 1 << 0,
    FH_EVENT_FREE = 1 << 1,
    FH_EVENT_RESIZE = 1 << 2,
    /* Of pages, bytes in `usable`; told before the next event of any thread, not at once. When over
     * a hundred wait, the last of them stands for all further ones. */
    FH_EVENT_PURGE = 1 << 3, /* given back; thread 0 when the helper did it */
    FH_EVENT_GROW = 1 << 4,  /* committed */
};

struct fh_event {
    size_t size; /* sizeof(struct fh_event) */
    enum fh_event_kind kind;
    unsigned thread;    /* kernel's thread id */
    uint64_t time_ns;   /* CLOCK_MONOTONIC */
    void *address;      /* block; the new one of a resize */
    void *old_address;  /* of a resize; else NULL */
    size_t requested;   /* bytes asked for (malloc(0) asks for 1); 0 for a free */
    size_t usable;      /* bytes that may be written */
    const void *caller; /* return address of the call, NULL when not known */
    const void *frame;  /* an address on the stack below all frames of the caller */
    uint32_t stack_id;  /* 0 unless a listener asked for stacks and filled it */
};

typedef void fh_event_listener(void *context, const struct fh_event *event);

/* Registers a listener for the kinds in the mask; at most 8. Returns its id (> 0), or a negative
 * errno: -EINVAL, -ENOSPC. Threads begin to tell at their next refill, at the latest when their
 * lists run out. Thread-safe. */
FH_API int fh_event_listen(unsigned kinds, fh_event_listener *listener, void *context);
/* Ends it. A call that is under way on another thread may still finish. 0 or -EINVAL. */
FH_API int fh_event_unlisten(int id);

FH_END_DECLS
#endif
