/*
 * Forks while other threads allocate: `forks [COUNT]`, 10,000 by default.
 *
 * Three threads allocate, resize and free across each other without pause. The main thread forks;
 * each child allocates, frees, resizes, starts a thread of its own and ends. An allocator whose
 * lock was held by a thread that the child does not have hangs there; one whose structures were
 * half changed crashes there.
 *
 * A child that is not done in 10 seconds is a hang: it is killed and counted. A hang in fork itself
 * (handlers that wait for each other) is ended by an alarm. Ends with 1 if there was a hang or
 * crash.
 */
#include "harness.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { WORKERS = 3, SHARED_SLOTS = 512, CHILD_LIMIT_S = 10, FORK_LIMIT_S = 60 };

static void *_Atomic shared[SHARED_SLOTS]; /* blocks that any thread may take out and free */

static void churn_once(uint64_t *random)
{
    size_t size = 1 + bench_below(random, bench_below(random, 50) == 0 ? 200000 : 1024);
    char *block = bench_must(malloc(size));
    block[0] = block[size - 1] = 1;
    if (bench_below(random, 8) == 0) {
        block = bench_must(realloc(block, size * 2));
    }
    /* Both orders in one: what is taken out was written before it was put in. */
    free(atomic_exchange_explicit(&shared[bench_below(random, SHARED_SLOTS)], block,
                                  memory_order_acq_rel));
}

static void *worker(void *argument)
{
    uint64_t random = 1 + (uint64_t)(uintptr_t)argument;
    for (;;) {
        churn_once(&random);
    }
    return NULL;
}

static void *child_thread(void *argument)
{
    uint64_t random = 99;
    for (int i = 0; i < 50; i++) {
        churn_once(&random);
    }
    return argument;
}

static void child(unsigned number)
{
    uint64_t random = 7 + number;
    for (int i = 0; i < 100; i++) {
        churn_once(&random);
    }
    if (number % 8 == 0) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, child_thread, NULL) == 0) {
            pthread_join(thread, NULL);
        }
    }
    _exit(0);
}

static void fork_hangs(int signal_number)
{
    (void)signal_number;
    static const char text[] = "forks\thangs\tin fork\t\n";
    ssize_t written = write(STDOUT_FILENO, text, sizeof(text) - 1);
    _exit(written < 0 ? 2 : 1);
}

/* Whether the child ended within the limit; if not it is killed. */
static int ended_in_time(pid_t pid, int *status)
{
    int handle = (int)syscall(SYS_pidfd_open, pid, 0);
    struct pollfd wait_for = {.fd = handle, .events = POLLIN};
    int ready;
    do {
        ready = poll(&wait_for, 1, CHILD_LIMIT_S * 1000);
    } while (ready < 0 && errno == EINTR);
    close(handle);
    if (ready == 0) {
        kill(pid, SIGKILL);
    }
    while (waitpid(pid, status, 0) < 0 && errno == EINTR) {
    }
    return ready != 0;
}

int main(int argc, char **argv)
{
    unsigned count = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : 10000;
    unsigned hangs = 0;
    unsigned crashes = 0;
    signal(SIGALRM, fork_hangs);
    for (uintptr_t i = 0; i < WORKERS; i++) {
        pthread_t thread;
        errno = pthread_create(&thread, NULL, worker, (void *)i);
        if (errno != 0) {
            perror("bench: pthread_create");
            return 2;
        }
    }
    for (unsigned i = 0; i < count && hangs < 10; i++) {
        alarm(FORK_LIMIT_S);
        pid_t pid = fork();
        if (pid == 0) {
            child(i);
        }
        if (pid < 0) {
            perror("bench: fork");
            return 2;
        }
        int status = 0;
        if (!ended_in_time(pid, &status)) {
            hangs++;
        } else if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
            crashes++;
        }
    }
    printf("forks\thangs\t%u\tof %u\nforks\tcrashes\t%u\tof %u\n", hangs, count, crashes, count);
    fflush(stdout);
    _exit(hangs + crashes >
          0); /* the workers never end, so neither would an orderly exit's handlers wait */
}
