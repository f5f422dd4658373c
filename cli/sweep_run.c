/*
 * The runs of a sweep.
 *
 * A run is a process group of its own: what the program leaves behind is killed with it, when it has ended or its time is
 * up. It tells us through two memfds, which it opens by our /proc/PID/fd: the table of sites (guard/site_table.h) and the
 * log, to which the library's reports go. Both are read when the run is over, so a program can at worst tell nonsense, which is
 * checked for.
 *
 * As many run side by side as there are processors. One loop starts them, waits for a signal (SIGCHLD, or one that ends the
 * sweep) or for the first whose time is up, and judges those that have ended. All signals that it waits for are blocked, so none is
 * lost between looking and waiting. If this process is killed, its runs are too (PR_SET_PDEATHSIG).
 *
 * A run whose time is up gets SIGABRT first: the library's handler notes where it hangs. SIGKILL follows after GRACE_NS.
 *
 * The verdict: a crash is a process of the run that a deadly signal ended, or a report of Freehold's; an exit status is the
 * program's own answer to the failure, whatever it is.
 */
#include "sweep.h"

#include "cli.h"
#include "guard/site_table.h"
#include "library.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
    TIMES_PLAIN = 10,     /* a run may take so many times what the plain one took */
    STATUS_NOT_RUN = 127, /* of a child that could not become the program */
};

static const uint64_t least_timeout_ns = 10000000000U;
static const uint64_t grace_ns = 300000000U;

struct run {
    struct sweep_trial *trial; /* NULL: the plain run, or none */
    pid_t pid;                 /* 0: none */
    uint64_t began_ns;
    uint64_t deadline_ns; /* UINT64_MAX: none */
    bool is_late;         /* has had its SIGABRT */
    int table_fd, log_fd;
    struct fh_site_table *table;
};

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000U + (uint64_t)now.tv_nsec;
}

/* ---- The two files of a run ---- */

static void close_files(struct run *run)
{
    if (run->table != NULL) {
        munmap(run->table, sizeof(*run->table));
    }
    if (run->table_fd >= 0) {
        close(run->table_fd);
    }
    if (run->log_fd >= 0) {
        close(run->log_fd);
    }
    *run = (struct run){.table_fd = -1, .log_fd = -1};
}

static bool open_files(struct run *run, bool is_recording)
{
    run->table_fd = memfd_create("freehold-sites", MFD_CLOEXEC);
    run->log_fd = memfd_create("freehold-log", MFD_CLOEXEC);
    if (run->table_fd >= 0 && run->log_fd >= 0 &&
        ftruncate(run->table_fd, sizeof(*run->table)) == 0) {
        void *table =
            mmap(NULL, sizeof(*run->table), PROT_READ | PROT_WRITE, MAP_SHARED, run->table_fd, 0);
        if (table != MAP_FAILED) {
            run->table = table;
            run->table->magic = FH_TABLE_MAGIC;
            run->table->is_recording = is_recording;
            return true;
        }
    }
    cli_complain("no memory for a run can be made: %s", strerror(errno));
    close_files(run);
    return false;
}

/* ---- Starting ---- */

void sweep_condition(const struct sweep *sweep, const struct sweep_trial *trial, char *text,
                     size_t size)
{
    snprintf(text, size, "site=0x%016" PRIx64 ":%" PRIu64 "%s", sweep->sites[trial->site].name,
             trial->nth, trial->is_persistent ? "+persist" : "");
}

static bool configure(const struct sweep *sweep, const struct run *run)
{
    char settings[512];
    char condition[96] = "";
    size_t len = (size_t)snprintf(
        settings, sizeof(settings), "mode=%s,log=/proc/%ld/fd/%d,fail_table=/proc/%ld/fd/%d",
        sweep->options.mode, (long)getppid(), run->log_fd, (long)getppid(), run->table_fd);
    if (run->trial != NULL) {
        sweep_condition(sweep, run->trial, condition, sizeof(condition));
        snprintf(settings + len, sizeof(settings) - len, ",fail=%s", condition);
    }
    return library_configure(settings);
}

/* Where the program's output goes: a file of its own in the folder, or nowhere. */
static int open_output(const struct sweep *sweep, const struct run *run)
{
    char path[PATH_MAX];
    if (sweep->options.output == NULL) {
        return open("/dev/null", O_WRONLY);
    }
    if (run->trial == NULL) {
        snprintf(path, sizeof(path), "%s/plain.txt", sweep->options.output);
    } else {
        snprintf(path, sizeof(path), "%s/0x%016" PRIx64 ".%" PRIu64 "%s.txt", sweep->options.output,
                 sweep->sites[run->trial->site].name, run->trial->nth,
                 run->trial->is_persistent ? ".persist" : "");
    }
    return open(path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND, 0666);
}

static _Noreturn void become_program(const struct sweep *sweep, const struct run *run, pid_t parent)
{
    const struct rlimit no_core = {0, 0};
    sigset_t none;
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    setrlimit(RLIMIT_CORE, &no_core);
    const int input = open(sweep->options.input, O_RDONLY);
    const int output = open_output(sweep, run);
    if (getppid() != parent || input < 0 || output < 0 || dup2(input, STDIN_FILENO) < 0 ||
        dup2(output, STDOUT_FILENO) < 0 || dup2(output, STDERR_FILENO) < 0 ||
        !configure(sweep, run)) {
        _exit(STATUS_NOT_RUN);
    }
    close(input);
    close(output);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    execv(sweep->options.path, sweep->options.program);
    _exit(STATUS_NOT_RUN);
}

static bool start(const struct sweep *sweep, struct run *run, struct sweep_trial *trial,
                  uint64_t timeout_ns)
{
    const pid_t parent = getpid();
    if (!open_files(run, trial == NULL)) {
        return false;
    }
    run->trial = trial;
    run->began_ns = now_ns();
    run->deadline_ns = timeout_ns != 0 ? run->began_ns + timeout_ns : UINT64_MAX;
    run->pid = fork();
    if (run->pid == 0) {
        become_program(sweep, run, parent);
    }
    if (run->pid < 0) {
        cli_complain("no process can be started: %s", strerror(errno));
        close_files(run);
        return false;
    }
    setpgid(run->pid, run->pid); /* whoever of the two comes first */
    return true;
}

/* ---- Judging ---- */

/* The stack as the sweep keeps it, its modules numbered by the sweep. */
static void take_stack(struct sweep *sweep, const struct fh_site_table *table,
                       const struct fh_table_stack *from, struct sweep_stack *to)
{
    uint64_t frames[SWEEP_FRAMES];
    const size_t len = from->len < SWEEP_FRAMES ? from->len : SWEEP_FRAMES;
    for (size_t i = 0; i < len; i++) {
        const uint64_t number = from->frames[i] >> FH_TABLE_MODULE_SHIFT;
        const uint64_t offset = from->frames[i] & (((uint64_t)1 << FH_TABLE_MODULE_SHIFT) - 1);
        size_t index = SIZE_MAX;
        if (number != 0 && number <= FH_TABLE_MODULES &&
            atomic_load_explicit(&table->modules[number - 1].is_ready, memory_order_acquire)) {
            index = sweep_module(sweep, table->modules[number - 1].path,
                                 sizeof(table->modules[0].path));
        }
        frames[i] =
            index != SIZE_MAX ? (uint64_t)(index + 1) << SWEEP_MODULE_SHIFT | offset : offset;
    }
    sweep_stack_set(to, frames, len);
}

/* The class of the first error that the library reported, "" when it is silent. */
static void read_kind(int log_fd, char *kind)
{
    static const char mark[] = "ERROR: ";
    char text[4096];
    kind[0] = '\0';
    const ssize_t got = pread(log_fd, text, sizeof(text) - 1, 0);
    text[got > 0 ? got : 0] = '\0';
    const char *error = strstr(text, mark);
    if (error == NULL) {
        return;
    }
    error += sizeof(mark) - 1;
    const size_t len = strcspn(error, " :,\n");
    snprintf(kind, SWEEP_KIND, "%.*s", (int)len, error);
}

static void take_crash(struct sweep *sweep, const struct run *run)
{
    const struct fh_table_crash *crash = &run->table->crash;
    struct sweep_trial *trial = run->trial;
    if (!atomic_load_explicit(&crash->is_ready, memory_order_acquire)) {
        return;
    }
    trial->signal = crash->signal;
    trial->address = crash->address;
    take_stack(sweep, run->table, &crash->stack, &trial->crash);
}

static bool has_crashed(const struct sweep *sweep, const struct run *run, int wait_status)
{
    const struct fh_table_crash *crash = &run->table->crash;
    if (run->trial->kind[0] != '\0') {
        return true;
    }
    if (WIFSIGNALED(wait_status) && wait_status != sweep->wait_status) {
        return true;
    }
    return atomic_load_explicit(&crash->is_ready, memory_order_acquire) && !crash->is_handled;
}

static void judge(struct sweep *sweep, struct run *run, int wait_status)
{
    struct sweep_trial *trial = run->trial;
    trial->wait_status = wait_status;
    trial->wall_ns = now_ns() - run->began_ns;
    read_kind(run->log_fd, trial->kind);
    if (run->is_late) {
        trial->verdict = SWEEP_HANG;
        take_crash(sweep, run);
    } else if (atomic_load_explicit(&run->table->failures, memory_order_acquire) == 0) {
        trial->verdict = SWEEP_MISSED;
    } else if (has_crashed(sweep, run, wait_status)) {
        trial->verdict = SWEEP_CRASH;
        trial->signal = WIFSIGNALED(wait_status) ? WTERMSIG(wait_status) : 0;
        take_crash(sweep, run);
    } else {
        trial->verdict = SWEEP_HANDLED;
    }
    sweep->done++;
    sweep_state_add(sweep, trial);
}

/* ---- Waiting ---- */

static void fill_with_awaited(sigset_t *set)
{
    static const int awaited[] = {SIGCHLD, SIGINT, SIGTERM, SIGHUP, SIGQUIT};
    sigemptyset(set);
    for (size_t i = 0; i < sizeof(awaited) / sizeof(awaited[0]); i++) {
        sigaddset(set, awaited[i]);
    }
}

/* From now on the signals wait for us to ask. Who started us may have ignored SIGCHLD: then there would be no news. */
static void hold_awaited(void)
{
    const struct sigaction by_default = {.sa_handler = SIG_DFL};
    sigset_t set;
    fill_with_awaited(&set);
    sigprocmask(SIG_BLOCK, &set, NULL);
    sigaction(SIGCHLD, &by_default, NULL);
}

/* Until a signal comes or the first deadline; the number of the signal that asks us to end, else 0. */
static int await(const struct run *runs, size_t count)
{
    sigset_t set;
    uint64_t first = UINT64_MAX;
    fill_with_awaited(&set);
    for (size_t i = 0; i < count; i++) {
        if (runs[i].pid != 0 && runs[i].deadline_ns < first) {
            first = runs[i].deadline_ns;
        }
    }
    const uint64_t now = now_ns();
    const uint64_t ns = first <= now ? 0 : first - now;
    const struct timespec time = {(time_t)(ns / 1000000000U), (long)(ns % 1000000000U)};
    const int signal =
        first == UINT64_MAX ? sigwaitinfo(&set, NULL) : sigtimedwait(&set, NULL, &time);
    return signal > 0 && signal != SIGCHLD ? signal : 0;
}

/* Whether the run has ended; its group is killed with it. */
static bool has_ended(struct run *run, int *wait_status)
{
    pid_t got;
    do {
        got = waitpid(run->pid, wait_status, WNOHANG);
    } while (got < 0 && errno == EINTR);
    if (got == 0) {
        return false;
    }
    kill(-run->pid, SIGKILL);
    return true;
}

static void hurry(struct run *run)
{
    if (now_ns() < run->deadline_ns) {
        return;
    }
    if (run->is_late) {
        kill(-run->pid, SIGKILL);
        run->deadline_ns = UINT64_MAX;
        return;
    }
    kill(run->pid, SIGABRT);
    run->is_late = true;
    run->deadline_ns = now_ns() + grace_ns;
}

static void stop_all(struct run *runs, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (runs[i].pid != 0) {
            kill(-runs[i].pid, SIGKILL);
            waitpid(runs[i].pid, NULL, 0);
            close_files(&runs[i]);
        }
    }
}

/* ---- The plain run ---- */

static bool take_sites(struct sweep *sweep, const struct fh_site_table *table)
{
    for (size_t i = 0; i < FH_TABLE_SITES; i++) {
        const struct fh_table_site *from = &table->sites[i];
        if (!atomic_load_explicit(&from->is_ready, memory_order_acquire)) {
            continue;
        }
        struct sweep_site site = {
            .name = from->site,
            .count = from->count,
            .bytes = from->bytes,
            .first = from->first,
        };
        memcpy(site.function, from->function, sizeof(site.function) - 1);
        take_stack(sweep, table, &from->stack, &site.stack);
        if (!sweep_site_add(sweep, &site)) {
            return false;
        }
    }
    return true;
}

static int complain_of_plain(const struct run *run, int wait_status)
{
    if (WIFEXITED(wait_status) && WEXITSTATUS(wait_status) == STATUS_NOT_RUN &&
        run->table->allocations == 0) {
        cli_complain("the program could not be started with its input and output");
    } else {
        cli_complain("the program made no allocation that Freehold saw; there is nothing to fail");
    }
    return CLI_OWN_TROUBLE;
}

static int take_plain(struct sweep *sweep, struct run *run, int wait_status)
{
    char kind[SWEEP_KIND];
    sweep->wait_status = wait_status;
    sweep->wall_ns = now_ns() - run->began_ns;
    sweep->allocations = run->table->allocations;
    sweep->lost = run->table->lost;
    read_kind(run->log_fd, kind);
    if (sweep->allocations == 0) {
        return complain_of_plain(run, wait_status);
    }
    if (run->is_late) {
        cli_complain("the program did not end in the time that --timeout gives it");
        return CLI_OWN_TROUBLE;
    }
    if (kind[0] != '\0' || WIFSIGNALED(wait_status)) {
        cli_complain("the program ends by %s%s while nothing fails; correct that first",
                     kind[0] != '\0' ? kind : "signal SIG",
                     kind[0] != '\0' ? "" : sigabbrev_np(WTERMSIG(wait_status)));
        return CLI_OWN_TROUBLE;
    }
    if (!take_sites(sweep, run->table)) {
        cli_complain("no memory for the program's allocation sites");
        return CLI_OWN_TROUBLE;
    }
    return 0;
}

int sweep_record(struct sweep *sweep)
{
    struct run run = {.table_fd = -1, .log_fd = -1};
    int wait_status;
    hold_awaited();
    if (!start(sweep, &run, NULL, sweep->options.timeout_ns)) {
        return CLI_OWN_TROUBLE;
    }
    while (!has_ended(&run, &wait_status)) {
        const int signal = await(&run, 1);
        if (signal != 0) {
            stop_all(&run, 1);
            return 128 + signal;
        }
        hurry(&run);
    }
    const int status = take_plain(sweep, &run, wait_status);
    close_files(&run);
    return status;
}

/* ---- The others ---- */

static struct sweep_trial *next_waiting(struct sweep *sweep, size_t *next)
{
    while (*next < sweep->trial_count) {
        struct sweep_trial *trial = &sweep->trials[(*next)++];
        if (trial->verdict == SWEEP_WAITING) {
            return trial;
        }
    }
    return NULL;
}

/* Starts what there is room for; false when nothing runs and nothing is left. */
static bool fill_up(struct sweep *sweep, struct run *runs, size_t *next, uint64_t timeout_ns)
{
    bool is_running = false;
    for (size_t i = 0; i < sweep->options.jobs; i++) {
        if (runs[i].pid == 0) {
            struct sweep_trial *trial = next_waiting(sweep, next);
            if (trial == NULL || !start(sweep, &runs[i], trial, timeout_ns)) {
                continue;
            }
        }
        is_running = true;
    }
    return is_running;
}

static void take_ended(struct sweep *sweep, struct run *runs)
{
    int wait_status;
    for (size_t i = 0; i < sweep->options.jobs; i++) {
        if (runs[i].pid == 0) {
            continue;
        }
        if (has_ended(&runs[i], &wait_status)) {
            judge(sweep, &runs[i], wait_status);
            close_files(&runs[i]);
        } else {
            hurry(&runs[i]);
        }
    }
}

int sweep_try_all(struct sweep *sweep)
{
    uint64_t timeout_ns = sweep->options.timeout_ns;
    struct run *runs = calloc(sweep->options.jobs, sizeof(*runs));
    const uint64_t began_ns = now_ns();
    size_t next = 0;
    int signal = 0;
    if (runs == NULL) {
        return SIGABRT;
    }
    hold_awaited();
    if (timeout_ns == 0) {
        timeout_ns = TIMES_PLAIN * sweep->wall_ns;
        timeout_ns = timeout_ns < least_timeout_ns ? least_timeout_ns : timeout_ns;
    }
    while (signal == 0 && fill_up(sweep, runs, &next, timeout_ns)) {
        signal = await(runs, sweep->options.jobs);
        take_ended(sweep, runs);
        sweep_progress(sweep, now_ns() - began_ns);
    }
    stop_all(runs, sweep->options.jobs);
    free(runs);
    return signal;
}
