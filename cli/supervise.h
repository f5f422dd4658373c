/*
 * A program started and waited for, as if nobody stood between it and its user.
 */
#ifndef FH_CLI_SUPERVISE_H
#define FH_CLI_SUPERVISE_H

#include <stdint.h>
#include <sys/resource.h>
#include <sys/types.h>

/* How a program ended. */
struct outcome {
    pid_t pid;
    int wait_status;     /* as wait(2) gives it */
    uint64_t wall_ns;    /* from before fork until it was reaped */
    struct rusage usage; /* of it and the children it has waited for */
};

/* Starts path with argv and waits for its end, passing on signals and stops. 0; or the errno for
 * which it did not start. */
int supervise(const char *path, char **argv, struct outcome *outcome);

/* Ends this process as the program ended: its status, or its signal. */
_Noreturn void end_like(const struct outcome *outcome);

/* Replaces this process by the program; text files without `#!` go to the shell. Returns the errno
 * of failure. */
int replace_by(const char *path, char **argv);

#endif
