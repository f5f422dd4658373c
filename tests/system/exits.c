/*
 * _exit in a signal handler that may have interrupted malloc in any place: each process ends at
 * once, with its status.
 */
#include <signal.h>
#include <stdlib.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

static void leave(int signal)
{
    (void)signal;
    _exit(7);
}

static void allocate_until_signalled(long microseconds)
{
    struct itimerval timer = {.it_value = {.tv_usec = microseconds}};
    void *volatile blocks[64] = {0};
    signal(SIGALRM, leave);
    setitimer(ITIMER_REAL, &timer, NULL);
    for (unsigned i = 0;; i++) {
        free(blocks[i % 64]);
        blocks[i % 64] = malloc(16 + i * 7919 % 100000);
    }
}

int main(void)
{
    for (long turn = 0; turn < 50; turn++) {
        int status;
        pid_t child = fork();
        if (child == 0) {
            allocate_until_signalled(500 + turn * 37);
        }
        if (waitpid(child, &status, 0) != child || !WIFEXITED(status) || WEXITSTATUS(status) != 7) {
            return 1;
        }
    }
    _exit(7);
}
