/*
 * Whether an access is stopped: tried in a child, which ends by the signal.
 */
#ifndef FH_TESTS_GUARD_FAULTS_H
#define FH_TESTS_GUARD_FAULTS_H

#include <signal.h>
#include <stdbool.h>
#include <sys/wait.h>
#include <unistd.h>

/* The signal that ends a child which does this; 0: none. */
static inline int signal_of(void (*act)(void *context), void *context)
{
    pid_t child = fork();
    if (child == 0) {
        /* Also a sanitizer's handlers. */
        signal(SIGSEGV, SIG_DFL);
        signal(SIGILL, SIG_DFL);
        signal(SIGTRAP, SIG_DFL);
        act(context);
        _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

static inline void read_byte(void *address)
{
    (void)*(volatile unsigned char *)address;
}

static inline void write_byte(void *address)
{
    *(volatile unsigned char *)address = 1;
}

static inline bool can_read(void *address)
{
    return signal_of(read_byte, address) == 0;
}

static inline bool can_write(void *address)
{
    return signal_of(write_byte, address) == 0;
}

#endif
