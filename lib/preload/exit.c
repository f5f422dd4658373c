/*
 * The ways a process ends, for the record that it may leave (watch/record.c), and for errors that only the end shows
 * (guard/guard.c).
 *
 * exit() and a return from main run destructors; ours comes after the program's own exit handlers.
 * _exit() runs none, and shells and forked children end by it, so it is defined here: the record,
 * then the kernel's exit_group, which is all that the C library's does. (exit() itself calls the C
 * library's inner _exit, not this one.) Without stats=PATH there is nothing to do at either end but
 * one compare.
 *
 * The fork handler is registered in the constructor, after the heap's own, which the first
 * allocation registered: children run handlers in that order, so the heap's locks are free again
 * when ours sums up.
 */
#include "guard/guard.h"
#include "watch/record.h"

#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

__attribute__((constructor)) static void begin(void)
{
    if (fh_record_start()) {
        pthread_atfork(NULL, NULL, fh_record_forked);
    }
}

__attribute__((destructor)) static void end(void)
{
    fh_guard_end();
    fh_record_write("exit");
}

FH_PUBLIC _Noreturn void _exit(int status)
{
    fh_record_exit(status);
}

FH_PUBLIC _Noreturn void _Exit(int status)
{
    _exit(status);
}
