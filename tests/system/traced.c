/*
 * A program whose allocations are known exactly, for system.record: traced MODE.
 *
 *   calls   from functions with names: 1,000 times malloc, realloc, calloc, aligned_alloc and the frees
 *   threads two threads hand blocks to each other
 *   fork    a child frees what its parent allocated, and allocates
 *   exec    becomes itself, with mode calls
 *   kill    makes 100,000 calls and dies by SIGKILL
 *   signals allocates in a handler, while allocating
 *   flood N makes N pairs of calls
 */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

/* A function that stays one, by its name, in every stack. */
#if __has_attribute(noclone)
#define KEPT __attribute__((noinline, noclone))
#else
#define KEPT __attribute__((noinline))
#endif

static void *volatile sink;

KEPT void *allocates_111(void)
{
    void *block = malloc(111);
    sink = block;
    return block;
}

KEPT void frees(void *block)
{
    free(block);
    sink = NULL;
}

KEPT void *resizes_to_5555(void *block)
{
    block = realloc(block, 5555);
    sink = block;
    return block;
}

KEPT static void calls(void)
{
    for (int i = 0; i < 1000; i++) {
        void *block = resizes_to_5555(allocates_111());
        void *zeroed = calloc(7, 19);
        void *aligned = aligned_alloc(256, 512);
        frees(block);
        frees(zeroed);
        frees(aligned);
    }
}

static _Atomic(void *) box;

static void *takes(void *arg)
{
    (void)arg;
    for (int n = 0; n < 20000;) {
        void *block = atomic_exchange(&box, NULL);
        if (block != NULL) {
            free(block);
            n++;
        }
    }
    return NULL;
}

static void threads(void)
{
    pthread_t other;
    pthread_create(&other, NULL, takes, NULL);
    for (int n = 0; n < 20000; n++) {
        void *block = malloc(77), *empty = NULL;
        while (!atomic_compare_exchange_weak(&box, &empty, block))
            empty = NULL;
    }
    pthread_join(other, NULL);
}

static void forks(void)
{
    void *inherited = malloc(333);
    const pid_t child = fork();
    if (child == 0) {
        free(inherited);
        for (int i = 0; i < 100; i++)
            frees(allocates_111());
        _exit(0);
    }
    waitpid(child, NULL, 0);
    free(inherited);
}

static volatile sig_atomic_t handled;

static void on_alarm(int number)
{
    (void)number;
    handled++;
    frees(allocates_111());
}

static void flood(long pairs)
{
    for (long i = 0; i < pairs; i++)
        frees(allocates_111());
}

static void signals(void)
{
    const struct itimerval every = {{0, 1000}, {0, 1000}};
    const struct sigaction action = {.sa_handler = on_alarm};
    sigaction(SIGALRM, &action, NULL);
    setitimer(ITIMER_REAL, &every, NULL);
    while (handled < 200)
        flood(100);
}

int main(int argc, char **argv)
{
    const char *mode = argc > 1 ? argv[1] : "";
    if (strcmp(mode, "calls") == 0)
        calls();
    else if (strcmp(mode, "threads") == 0)
        threads();
    else if (strcmp(mode, "fork") == 0)
        forks();
    else if (strcmp(mode, "exec") == 0) {
        frees(allocates_111());
        execl(argv[0], argv[0], "calls", (char *)NULL);
    } else if (strcmp(mode, "signals") == 0)
        signals();
    else if (strcmp(mode, "flood") == 0)
        flood(argc > 2 ? atol(argv[2]) : 1000);
    else if (strcmp(mode, "kill") == 0) {
        flood(50000);
        raise(SIGKILL);
    } else
        return 2;
    return 0;
}
