/*
 * os/task: other threads of this process, and a process that is a copy of it, by raw system calls.
 * Safe in signal handlers and in the helper clone; nothing allocates. Negative errno on failure.
 */
#ifndef FH_OS_TASK_H
#define FH_OS_TASK_H

#include "base/core/macros.h"

/* Calls visit with each thread's id; 0, or why /proc/self/task can't be read. */
int fh_os_each_thread(void (*visit)(void *context, int tid), void *context);

struct fh_os_thread {
    bool is_blocked;          /* in a system call; else it runs, or waits for a page or a CPU */
    unsigned long number;     /* the call */
    unsigned long args[6];    /* its arguments */
    uintptr_t sp, pc;         /* of the program, behind the call's instruction */
    uint64_t blocked_signals; /* bit n - 1 for signal n */
    uint64_t switches; /* how often it gave its CPU away: when the number is the same later, it
                                 has not run in between */
};
/* Where a thread is, from /proc/self/task/TID/syscall and status; some 15 µs. -ESRCH when it is
 * gone, -EACCES and others when the kernel does not say. */
int fh_os_look_at_thread(int tid, struct fh_os_thread *out);
/* Whether a signal handler may interrupt the call that the thread waits in, and the program does not
 * notice: it waits without a limit, until a point in time, or with a limit that the kernel counts down in
 * the caller's memory. The kernel begins it again, or fh_os_repeat_call does. */
bool fh_os_is_repeatable(const struct fh_os_thread *thread);

/* A handler on the thread's alternate stack if it has one, all signals blocked meanwhile, system calls
 * begun again. 0; -EBUSY when the program has an action of its own for the signal. */
int fh_os_take_signal(int number, void (*handler)(int number, void *info, void *context));
/* The calling thread's mask, replaced; returns what it was. */
uint64_t fh_os_swap_signal_mask(uint64_t mask);
/* Sends a thread a signal with a value; the handler finds it by fh_os_signal_value. */
int fh_os_signal_thread(int tid, int number, void *value);
/* NULL when the signal was not sent by this process with fh_os_signal_thread. */
void *fh_os_signal_value(const void *info);

/* What a handler's context says of the code that it interrupted. */
struct fh_os_context {
    uintptr_t sp, pc, result; /* result: the register in which a system call's result comes */
    uintptr_t alternate_low, alternate_high; /* the thread's alternate stack; 0 and 0 without */
};
void fh_os_read_context(const void *context, struct fh_os_context *out);
/* Makes the thread do the system call once more that a signal ended with EINTR, with the arguments it
 * had: that in which it was seen, or (x86-64) one that it has begun since. False, and nothing changed, when it
 * was in none, or can't be set back. */
bool fh_os_repeat_call(void *context, const struct fh_os_thread *call);

/* A copy of this process: 0 in the child, its pid in the parent. No handler of fork runs, nobody's
 * wait() sees it end, it dies with the thread that made it, and has every signal blocked. The child
 * may call nothing of libc and ends by fh_os_exit. */
int fh_os_snapshot(void);
/* Waits for the end of such a child: its wait status, or a negative errno; -EAGAIN while it runs,
 * unless is_waiting. */
int fh_os_snapshot_ended(int pid, bool is_waiting);
void fh_os_snapshot_kill(int pid);

/* Copies memory that may not be there: bytes copied up to the first that can't be read; negative
 * errno when none can, or the kernel does not do it. */
int64_t fh_os_copy_memory(void *to, const void *from, size_t size);
/* /proc/self/pagemap of `count` pages: what the kernel has of them. */
enum {
    FH_OS_PAGE_PRESENT = 1, /* in memory: reading it is safe where the mapping permits */
    FH_OS_PAGE_ELSEWHERE =
        2, /* in swap, or a marker such as a guard page: copy it, don't read it */
};
int fh_os_open_pagemap(void);
/* Fills is_there[0 .. count); 0 for pages that nobody has written. At most 512 pages a call. */
int fh_os_read_pagemap(int fd, uintptr_t address, unsigned count, uint8_t *is_there);

/* Shared between this process and its children; zero. */
void *fh_os_map_shared(size_t size);

/* A line of /proc/self/maps. */
struct fh_os_mapping {
    uintptr_t low, high;
    bool is_readable, is_writable, is_private;
    bool is_file;       /* has a file behind it */
    bool is_main_stack; /* [stack] */
};
/* Calls visit with each mapping, lowest first. */
int fh_os_each_mapping(void (*visit)(void *context, const struct fh_os_mapping *mapping),
                       void *context);

/* The most pages that fh_os_read_pagemap takes. */
#define FH_OS_PAGEMAP_MOST 512u

#endif
