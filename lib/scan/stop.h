/*
 * stop.h: all other threads of the process stand still.
 */
#ifndef FH_SCAN_STOP_H
#define FH_SCAN_STOP_H

#include "os/task.h"

#include <stdatomic.h>

enum fh_stop_state {
    FH_STOP_NEW,     /* found, not looked at yet; or it ran with the signal blocked: look again */
    FH_STOP_SENT,    /* the signal is on its way */
    FH_STOP_WATCHED, /* waits in a system call and is left there */
    FH_STOP_STOPPED, /* in our handler */
    FH_STOP_GONE,    /* has ended */
};

struct fh_stop_thread {
    int tid;
    _Atomic uint32_t
        state; /* enum fh_stop_state; the handler writes STOPPED, the stopper all else */
    struct fh_os_thread seen;
    /* Of a thread that is stopped: written by it before it says so. */
    struct fh_os_context at; /* of what it was doing */
    uintptr_t frame; /* lowest address of the handler's frames: the registers lie above it */
    uintptr_t thread_pointer; /* 0: not known */
    _Atomic bool has_left;    /* its handler touches nothing of the round any more */
};

/* All threads that stand still; valid until fh_stop_go. */
struct fh_stop_threads {
    struct fh_stop_thread *threads;
    unsigned count;
    bool is_complete; /* false: some thread runs on */
};

/* The caller holds what keeps another thread from calling this meanwhile. is_helper may be called for any
 * thread. 0 or a negative errno: then nobody was stopped. */
int fh_stop_all(bool (*is_helper)(int tid), bool is_undisturbed, uint64_t limit_ns,
                struct fh_stop_threads *out);
/* Whether the threads that were left in their system calls have been there all the time. */
bool fh_stop_was_still(const struct fh_stop_threads *threads);
void fh_stop_go(void);
/* In a forked child. */
void fh_stop_forked(void);

/* The calling thread's. */
FH_INLINE uintptr_t fh_stop_thread_pointer(void)
{
#if defined(__x86_64__)
    uintptr_t self;
    __asm__("movq %%fs:0, %0" : "=r"(self));
    return self;
#else
    return (uintptr_t)__builtin_thread_pointer();
#endif
}

#endif
