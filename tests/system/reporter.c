/*
 * A program whose memory error must reach the user with functions and lines, whatever it did before.
 *
 * `reporter WAY…` does what each word says, in order, and then frees an address of static memory.
 * Lines that the script expects in the stack are marked by "line: NAME" in a comment.
 */
#include "common.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

static char wrong[64];

static inline __attribute__((always_inline)) void innermost(void *ptr)
{
    free(ptr); /* line: innermost */
    __asm__ volatile("" : : : "memory");
}

static inline __attribute__((always_inline)) void in_between(void *ptr)
{
    innermost(ptr); /* line: in_between */
}

static __attribute__((noinline)) void commit(void)
{
    in_between(opaque(wrong + 16)); /* line: commit */
}

static void close_all(void)
{
    for (int fd = 0; fd < 1024; fd++)
        close(fd);
    /* What takes the lowest numbers now is not where messages go. */
    EXPECT(open("/dev/null", O_RDWR) == 0 && dup(0) == 1 && dup(0) == 2, "expected to begin anew");
}

static void limit_files(void)
{
    const struct rlimit none = {0, 0};
    EXPECT(setrlimit(RLIMIT_FSIZE, &none) == 0, "expected a limit of the files' size");
}

static void wait_until_gone(pid_t process)
{
    while (kill(process, 0) == 0)
        usleep(1000);
}

static void become_daemon(void)
{
    const pid_t parent = getppid();
    if (fork() != 0)
        _exit(0);
    setsid();
    wait_until_gone(parent);
}

static void lose_parent(void)
{
    const pid_t parent = getppid();
    kill(parent, SIGKILL);
    while (getppid() == parent) /* it may stay as a zombie */
        usleep(1000);
}

static void report_in_children(int count)
{
    for (int i = 0; i < count; i++)
        if (fork() == 0) {
            commit();
            _exit(0);
        }
    while (wait(NULL) > 0)
        ;
}

static void report_often(int count)
{
    for (int i = 0; i < count; i++)
        commit();
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        const char *way = argv[i];
        if (strcmp(way, "close-all") == 0)
            close_all();
        else if (strcmp(way, "limit-files") == 0)
            limit_files();
        else if (strcmp(way, "daemon") == 0)
            become_daemon();
        else if (strcmp(way, "lose-parent") == 0)
            lose_parent();
        else if (strcmp(way, "children") == 0)
            report_in_children(8);
        else if (strcmp(way, "often") == 0)
            report_often(3000);
        else
            return 2;
    }
    commit();
    return 0;
}
