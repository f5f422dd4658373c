/*
 * launch REPORT PRELOAD COMMAND [ARGUMENT…]: runs a command with LD_PRELOAD=PRELOAD ("" for none)
 * and writes what it took to the file REPORT: "CPU-seconds wall-seconds peak-RSS-KiB exit-status",
 * of the command and of every process it waited for (the peak is that of the largest one).
 *
 * The launcher is a static program of its own because a child begins with its parent's peak RSS: a
 * Python driver would lend its 10 MiB to each small program measured.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double seconds(struct timeval time)
{
    return (double)time.tv_sec + (double)time.tv_usec / 1e6;
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
    if (argc < 4) {
        fputs("usage: launch REPORT PRELOAD COMMAND [ARGUMENT...]\n", stderr);
        return 2;
    }
    double begin = now();
    pid_t pid = fork();
    if (pid == 0) {
        if (argv[2][0] != '\0') {
            setenv("LD_PRELOAD", argv[2], 1);
        }
        execvp(argv[3], argv + 3);
        perror(argv[3]);
        _exit(127);
    }
    if (pid < 0) {
        perror("launch: fork");
        return 2;
    }
    int status;
    struct rusage usage;
    while (wait4(pid, &status, 0, &usage) < 0) {
        if (errno != EINTR) {
            perror("launch: wait4");
            return 2;
        }
    }
    double wall = now() - begin;
    FILE *report = fopen(argv[1], "w");
    if (report == NULL) {
        perror(argv[1]);
        return 2;
    }
    int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    fprintf(report, "%.6f %.6f %ld %d\n", seconds(usage.ru_utime) + seconds(usage.ru_stime), wall,
            usage.ru_maxrss, code);
    return fclose(report) == 0 ? 0 : 2;
}
