/*
 * Standing between a program and its user without being noticed.
 *
 * The program stays in our process group and session, as under time(1), env(1) and strace(1): a
 * pipeline keeps its group, the shell's job control and the terminal see one job. So what the
 * terminal sends (interrupt, quit, suspend, hang-up, window size) reaches both of us from the
 * kernel, and must not be passed on: the program would get it twice. What somebody sends to our
 * process id reaches only us, and is passed on. The two are told apart by si_code: SI_KERNEL from
 * the terminal. A signal that a user sends to the whole group (kill %1) can't be told from one sent
 * to us, and reaches the program twice; the common ones are harmless then. A hang-up goes to the
 * session's leader alone, so when that is us it is passed on too.
 *
 * All signals are blocked here and taken one by one with sigwaitinfo, so no handler and no race
 * between "has it ended" and "wait". A blocked signal is queued even where its disposition is to be
 * ignored, and a program that was started under nohup and ignores SIGHUP goes on ignoring it: it
 * inherits dispositions and mask as they were, SIGCHLD's too, which we must not ignore ourselves
 * (wait would find nothing).
 *
 * Stops: when the program stops (by whatever signal), we stop by the same signal, so that the shell
 * sees the job stopped and why. SIGCONT starts us again, and is passed on unless the group's own
 * has continued the program already, or does within a moment. If SIGCONT arrives between the
 * program's stop and ours it is pending then, and we do not stop.
 *
 * The end: the program's status becomes ours; if a signal killed it, we die by that one, without a
 * core dump of our own (PR_SET_DUMPABLE also keeps core-pattern pipes from being started).
 *
 * A failed exec reports its errno through a pipe that a successful one closes.
 */
#include "supervise.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000U + (uint64_t)now.tv_nsec;
}

int replace_by(const char *path, char **argv)
{
    /* path has a slash, so execvp does not search again; it adds the shell for text without `#!`.
     */
    execvp(path, argv);
    return errno;
}

/* What the child must get back before it becomes the program. */
struct inherited {
    sigset_t mask;
    struct sigaction on_child;
};

static _Noreturn void become_program(const char *path, char **argv,
                                     const struct inherited *inherited, int report)
{
    sigaction(SIGCHLD, &inherited->on_child, NULL);
    sigprocmask(SIG_SETMASK, &inherited->mask, NULL);
    const int error = replace_by(path, argv);
    /* If the parent is gone there is nobody to tell. */
    if (write(report, &error, sizeof(error)) < 0) {
        _exit(126);
    }
    _exit(127);
}

/* Whether the kernel sent it, on the terminal's behalf, to the program too. */
static bool came_from_terminal(const siginfo_t *info)
{
    if (info->si_code != SI_KERNEL) {
        return false;
    }
    switch (info->si_signo) {
    case SIGINT:
    case SIGQUIT:
    case SIGTSTP:
    case SIGTTIN:
    case SIGTTOU:
    case SIGCONT:
    case SIGWINCH:
        return true;
    case SIGHUP:
        return getsid(0) != getpid();
    default:
        return false;
    }
}

static void pass_on(pid_t program, const siginfo_t *info)
{
    if (info->si_code == SI_QUEUE) {
        sigqueue(program, info->si_signo, info->si_value);
    } else {
        kill(program, info->si_signo);
    }
}

/* Stops this process by `signal`, unless it has been told to continue meanwhile. */
static void stop_like(int signal)
{
    sigset_t pending;
    sigpending(&pending);
    if (sigismember(&pending, SIGCONT) == 1) {
        return;
    }
    if (signal == SIGSTOP) {
        raise(SIGSTOP);
        return;
    }
    const struct sigaction by_default = {.sa_handler = SIG_DFL};
    struct sigaction before;
    sigset_t just_this;
    sigset_t mask;
    sigemptyset(&just_this);
    sigaddset(&just_this, signal);
    sigaction(signal, &by_default, &before);
    raise(signal);
    sigprocmask(SIG_UNBLOCK, &just_this, &mask); /* stops here */
    sigprocmask(SIG_SETMASK, &mask, NULL);
    sigaction(signal, &before, NULL);
}

/* The program as it is known to be. */
struct job {
    struct outcome *outcome;
    bool is_stopped;
    bool was_continued; /* by somebody else, since the last SIGCONT that reached us */
    bool we_continued;  /* the kernel's news of that is still to come */
};

/* Takes all news of the program; true when it has ended. */
static bool has_ended(struct job *job)
{
    struct outcome *outcome = job->outcome;
    int status;
    for (;;) {
        const pid_t got =
            wait4(outcome->pid, &status, WNOHANG | WUNTRACED | WCONTINUED, &outcome->usage);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            return false;
        }
        if (WIFCONTINUED(status)) {
            job->was_continued = !job->we_continued;
            job->we_continued = false;
            job->is_stopped = false;
        } else if (WIFSTOPPED(status)) {
            job->was_continued = false;
            job->we_continued = false;
            job->is_stopped = true;
            stop_like(WSTOPSIG(status));
        } else {
            outcome->wait_status = status;
            return true;
        }
    }
}

/* Answers a SIGCONT that reached us; true when the program has ended meanwhile. */
static bool pass_on_continue(struct job *job, const siginfo_t *info)
{
    /* A signal to the group reaches us first, and the program within microseconds unless the
     * machine is full. */
    static const struct timespec grace = {.tv_nsec = 20000000};
    sigset_t news;
    sigemptyset(&news);
    sigaddset(&news, SIGCHLD);
    if (job->is_stopped) {
        sigtimedwait(&news, NULL, &grace);
    }
    if (has_ended(job)) {
        return true;
    }
    if (job->was_continued) {
        job->was_continued = false;
        return false;
    }
    job->we_continued = job->is_stopped;
    job->is_stopped = false;
    pass_on(job->outcome->pid, info);
    return false;
}

static void wait_for_end(const sigset_t *all, struct outcome *outcome)
{
    struct job job = {.outcome = outcome};
    while (!has_ended(&job)) {
        siginfo_t info;
        if (sigwaitinfo(all, &info) < 0 || info.si_signo == SIGCHLD || came_from_terminal(&info)) {
            continue;
        }
        if (info.si_signo != SIGCONT) {
            pass_on(outcome->pid, &info);
        } else if (pass_on_continue(&job, &info)) {
            return;
        }
    }
}

/* Every signal but those that report a fault of our own. */
static void fill_with_passable(sigset_t *all)
{
    static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGABRT};
    sigfillset(all);
    for (size_t i = 0; i < sizeof(faults) / sizeof(faults[0]); i++) {
        sigdelset(all, faults[i]);
    }
}

int supervise(const char *path, char **argv, struct outcome *outcome)
{
    const struct sigaction by_default = {.sa_handler = SIG_DFL};
    struct inherited inherited;
    sigset_t all;
    int report[2];
    memset(outcome, 0, sizeof(*outcome));
    if (pipe2(report, O_CLOEXEC) != 0) {
        return errno;
    }
    fill_with_passable(&all);
    sigprocmask(SIG_BLOCK, &all, &inherited.mask);
    sigaction(SIGCHLD, &by_default, &inherited.on_child);

    const uint64_t started = now_ns();
    outcome->pid = fork();
    if (outcome->pid < 0) {
        const int error = errno;
        close(report[0]);
        close(report[1]);
        return error;
    }
    if (outcome->pid == 0) {
        become_program(path, argv, &inherited, report[1]);
    }
    close(report[1]);
    int error = 0;
    ssize_t got;
    do {
        got = read(report[0], &error, sizeof(error));
    } while (got < 0 && errno == EINTR);
    close(report[0]);
    wait_for_end(&all, outcome);
    outcome->wall_ns = now_ns() - started;
    return got == (ssize_t)sizeof(error) ? error : 0;
}

_Noreturn void end_like(const struct outcome *outcome)
{
    if (WIFSIGNALED(outcome->wait_status)) {
        const int signal = WTERMSIG(outcome->wait_status);
        const struct sigaction by_default = {.sa_handler = SIG_DFL};
        sigset_t just_this;
        sigemptyset(&just_this);
        sigaddset(&just_this, signal);
        prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
        sigaction(signal, &by_default, NULL);
        raise(signal);
        sigprocmask(SIG_UNBLOCK, &just_this, NULL);
        _exit(128 + signal); /* as pid 1 of a container, where default actions do not kill */
    }
    _exit(WEXITSTATUS(outcome->wait_status));
}
