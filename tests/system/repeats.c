/*
 * Errors in a number: what is told of them, and by whom.
 *
 *   same        a thousand double frees at one place
 *   places      a double free at each of 512 places
 *   together    eight threads that fault at the same moment
 *   child       a child, forked while other threads allocate, frees twice
 *   handler     a signal handler frees twice
 */
#include "common.h"

#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>

/* Calls are where they are written: none is merged with another or made a jump. */
#if defined(__clang__)
#define FRAME __attribute__((noinline, optnone))
#else
#define FRAME __attribute__((noinline, optimize("O0")))
#endif

FRAME static void free_twice(void)
{
    void *block = opaque(malloc(40));
    free(block);
    free(opaque(block));
}

static void same(void)
{
    for (int i = 0; i < 1000; i++)
        free_twice();
}

/* Three calls, each at one of eight places: a stack for each number below 512. */
FRAME static void at_place(unsigned number, unsigned depth);

#define PLACE(n)                                                                                   \
    case n:                                                                                        \
        at_place(number / 8, depth - 1);                                                           \
        break;

FRAME static void at_place(unsigned number, unsigned depth)
{
    if (depth == 0) {
        free_twice();
        return;
    }
    switch (number % 8) {
        PLACE(0)
        PLACE(1)
        PLACE(2)
        PLACE(3)
        PLACE(4)
        PLACE(5)
        PLACE(6)
        PLACE(7)
    }
}

static void places(void)
{
    for (unsigned i = 0; i < 512; i++)
        at_place(i, 3);
}

static pthread_barrier_t barrier;

static void *fault_together(void *arg)
{
    free(opaque(malloc(10)));
    pthread_barrier_wait(&barrier);
    *(volatile int *)opaque(NULL) = 1;
    return arg;
}

static void together(void)
{
    pthread_t threads[8];
    pthread_barrier_init(&barrier, NULL, 8);
    for (int i = 0; i < 8; i++)
        EXPECT(pthread_create(&threads[i], NULL, fault_together, NULL) == 0, "expected a thread");
    for (int i = 0; i < 8; i++)
        pthread_join(threads[i], NULL);
}

static volatile bool is_over;

static void *allocate(void *arg)
{
    while (!is_over)
        free(opaque(malloc(100)));
    return arg;
}

static void child(void)
{
    pthread_t thread;
    int status = 0;
    EXPECT(pthread_create(&thread, NULL, allocate, NULL) == 0, "expected a thread");
    for (int i = 0; i < 20; i++) {
        pid_t pid = fork();
        EXPECT(pid >= 0, "expected a fork");
        if (pid == 0) {
            free_twice();
            _exit(0);
        }
        waitpid(pid, &status, 0);
        EXPECT(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT,
               "expected the child to end by SIGABRT, not %x", status);
    }
    is_over = true;
    pthread_join(thread, NULL);
}

FRAME static void on_signal(int number)
{
    (void)number;
    free_twice();
}

static void handler(void)
{
    signal(SIGUSR1, on_signal);
    raise(SIGUSR1);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*run)(void);
    } ways[] = {{"same", same},
                {"places", places},
                {"together", together},
                {"child", child},
                {"handler", handler}};
    alarm(30);
    EXPECT(argc == 2, "usage: repeats same|places|together|child|handler");
    for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++)
        if (strcmp(argv[1], ways[i].name) == 0)
            ways[i].run();
    return 0;
}
