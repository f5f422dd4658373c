/*
 * handler.h: what the entry points' trampoline asks when a signal has arrived; see handler.c.
 */
#ifndef FH_HEAP_HANDLER_H
#define FH_HEAP_HANDLER_H

#include "heap/heap.h"

/* A signal handler that runs in the middle of allocator code. */
struct fh_interruption {
    struct fh_interruption *outer; /* the thread's, from the inside out */
    struct fh_heap *heap;          /* the thread's current heap at that moment */
    struct fh_window *windows[2];  /* closed for the handler's time */
    uintptr_t low, high;           /* the handler's stack pointer lies between them */
    uintptr_t *mark; /* a word of the trampoline's frame, holds MARK while that is alive; NULL:
                        bounds suffice */
    int signal;
};

/* Did the signal come while this thread was in allocator code? The range is the entry points'
 * section. */
FH_API bool fh_handler_is_inside(const void *ucontext, uintptr_t entry_begin, uintptr_t entry_end);
/* Puts an asynchronous signal off until the slow path that it interrupted is over: true when that
 * was possible; then the trampoline just returns. */
FH_API bool fh_handler_postpone(int number, const void *info, void *ucontext);
/* From begin to end malloc and free serve a handler: allocations from the emergency arena, frees
 * without touching a list of the thread. *mark is a word of the caller's frame, `window` the entry
 * points' window; `own` is used when there is no memory for a record. */
FH_API struct fh_interruption *fh_handler_begin(struct fh_interruption *own, uintptr_t *mark,
                                                struct fh_window *window, int signal,
                                                const void *ucontext);
FH_API void fh_handler_end(struct fh_interruption *interruption);

#endif
