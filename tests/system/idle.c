/*
 * What an idle process does: memory is given back without any further call, and whatever does it
 * has gone when it is done.
 *
 * `idle SCENARIO` fills MIB mebibytes with blocks of mixed sizes, frees them, and sleeps:
 *   main         the main thread frees and sleeps
 *   thread       a second thread frees and waits on a condition while main sleeps too
 *   exited       the thread that freed has ended
 *   remote       one thread allocates, another frees, both wait
 *   fork         a forked child frees its copy and sleeps
 *   confined     a seccomp filter allows what glibc's malloc needs and kills for the rest: freeing
 * must not start anything identity     after setuid every task of the process has the new identity
 *   namespace    unshare(CLONE_NEWUSER), which the kernel refuses to processes of several tasks,
 * works Within LIMIT_MS the resident size must fall to an eighth of what was filled above the
 * start, and only the program's own threads may be left. The last three are about what is under way
 * at that time, not about what is given back.
 */
#include "common.h"

#include <dirent.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#define MIB         64
#define LIMIT_MS    4000
#define MOST_BLOCKS 200000

static void **blocks;
static size_t block_count, at_start, when_full;

static void sleep_ms(long ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
}

static void fill(void)
{
    uint64_t random = 5;
    size_t total = 0;

    if (blocks == NULL)
        blocks = table_map(MOST_BLOCKS * sizeof(void *));
    at_start = at_start == 0 ? resident_bytes() : at_start;
    for (block_count = 0; block_count < MOST_BLOCKS && total < (size_t)MIB << 20; block_count++) {
        size_t size = random_size(&random, random_below(&random, 100) == 0 ? 200000 : 4096);
        void *block = opaque(malloc(size));
        EXPECT(block != NULL, "expected %zu bytes", size);
        memset(block, 1, size);
        blocks[block_count] = block;
        total += size;
    }
    when_full = resident_bytes();
}

static void empty(void)
{
    for (size_t i = 0; i < block_count; i++)
        free(blocks[i]);
}

/* The tasks of this process, the program's own and any other. Reads without allocating: a process
 * that allocates now and then is not idle. */
static unsigned task_count(void)
{
    char text[4096];
    int fd = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
    ssize_t len = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

    if (fd >= 0)
        close(fd);
    EXPECT(len > 0, "expected /proc/self/status to be readable");
    text[len] = '\0';
    const char *line = strstr(text, "\nThreads:");
    EXPECT(line != NULL, "expected /proc/self/status to tell the number of threads");
    return (unsigned)strtoul(line + strlen("\nThreads:"), NULL, 10);
}

static void expect_given_back(unsigned own_tasks)
{
    size_t now = 0;
    unsigned tasks = 0;

    for (int waited = 0; waited < LIMIT_MS; waited += 100) {
        sleep_ms(100);
        now = resident_bytes();
        if (now <= at_start + (when_full - at_start) / 8)
            break;
    }
    EXPECT(now <= at_start + (when_full - at_start) / 8,
           "expected an idle process to give back what was freed within %d ms: resident %zu KiB at "
           "start, %zu KiB full, "
           "%zu KiB now",
           LIMIT_MS, at_start >> 10, when_full >> 10, now >> 10);
    for (int waited = 0; waited < LIMIT_MS; waited += 100) {
        tasks = task_count();
        if (tasks == own_tasks)
            break;
        sleep_ms(100);
    }
    EXPECT(tasks == own_tasks,
           "expected no more than the program's %u threads when all is given back, found %u",
           own_tasks, tasks);
    heap_check("after memory was given back");
    /* And it can be used again. */
    fill();
    empty();
    say("idle: resident %zu KiB at start, %zu KiB full, %zu KiB given back to", at_start >> 10,
        when_full >> 10, now >> 10);
}

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static unsigned step;

static void step_to(unsigned next)
{
    pthread_mutex_lock(&lock);
    step = next;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

static void step_wait(unsigned wanted)
{
    pthread_mutex_lock(&lock);
    while (step < wanted)
        pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
}

static void *fill_and_empty(void *arg)
{
    (void)arg;
    fill();
    empty();
    step_to(1);
    step_wait(2);
    return NULL;
}

static void *fill_and_wait(void *arg)
{
    (void)arg;
    fill();
    step_to(1);
    step_wait(3);
    return NULL;
}

static void *empty_and_wait(void *arg)
{
    (void)arg;
    step_wait(1);
    empty();
    step_to(2);
    step_wait(3);
    return NULL;
}

static void run_main(void)
{
    fill();
    empty();
    expect_given_back(1);
}

static void run_thread(void)
{
    pthread_t thread;

    pthread_create(&thread, NULL, fill_and_empty, NULL);
    step_wait(1);
    expect_given_back(2);
    step_to(2);
    pthread_join(thread, NULL);
}

static void run_exited(void)
{
    pthread_t thread;

    pthread_create(&thread, NULL, fill_and_empty, NULL);
    step_wait(1);
    step_to(2);
    pthread_join(thread, NULL);
    expect_given_back(1);
}

static void run_remote(void)
{
    pthread_t owner, other;

    pthread_create(&owner, NULL, fill_and_wait, NULL);
    pthread_create(&other, NULL, empty_and_wait, NULL);
    step_wait(2);
    expect_given_back(3);
    step_to(3);
    pthread_join(owner, NULL);
    pthread_join(other, NULL);
}

static void run_fork(void)
{
    int status;

    fill();
    pid_t child = fork();
    EXPECT(child >= 0, "expected fork to succeed");
    if (child == 0) {
        alarm(30);
        empty();
        expect_given_back(1);
        _exit(0);
    }
    waitpid(child, &status, 0);
    EXPECT(status == 0, "expected the child to give its copy back, its wait status is %#x", status);
    empty();
    expect_given_back(1);
}

static void confine(void)
{
    static const int allowed[] = {
        SYS_brk,          SYS_mmap,      SYS_munmap,          SYS_mprotect,     SYS_mremap,
        SYS_madvise,      SYS_futex,     SYS_write,           SYS_exit_group,   SYS_exit,
        SYS_rt_sigreturn, SYS_getrandom, SYS_clock_nanosleep, SYS_clock_gettime};
    struct sock_filter code[2 + 2 * sizeof(allowed) / sizeof(allowed[0])];
    unsigned short used = 0;

    code[used++] =
        (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    for (size_t i = 0; i < sizeof(allowed) / sizeof(allowed[0]); i++) {
        code[used++] =
            (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)allowed[i], 0, 1);
        code[used++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    }
    code[used++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
    struct sock_fprog program = {.len = used, .filter = code};
    EXPECT(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0, "expected prctl to succeed");
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) {
        say("idle: skipped: no seccomp filter here (errno %d)", errno);
        _exit(0);
    }
}

static void run_confined(void)
{
    uint64_t random = 6;

    blocks = table_map(MOST_BLOCKS * sizeof(void *));
    fill();
    empty();
    confine();
    for (unsigned round = 0; round < 3; round++) {
        for (block_count = 0; block_count < 3000; block_count++) {
            size_t size = random_size(&random, block_count % 100 == 0 ? (size_t)4 << 20 : 20000);
            void *block = opaque(malloc(size));
            EXPECT(block != NULL, "expected %zu bytes under a seccomp filter", size);
            memset(block, 1, size);
            blocks[block_count] = opaque(realloc(block, size + 1000));
        }
        empty();
        /* Longer than anything waits before it gives pages back. */
        sleep_ms(1000);
    }
    say("idle: all went well under a filter of glibc's malloc's system calls");
}

static void run_identity(void)
{
    DIR *tasks;
    char path[300], text[4096];

    if (geteuid() != 0) {
        say("idle: skipped: only root can change its identity");
        return;
    }
    fill();
    empty();
    sleep_ms(50);
    EXPECT(setgid(65534) == 0 && setuid(65534) == 0, "expected setuid to succeed, errno %d", errno);
    tasks = opendir("/proc/self/task");
    EXPECT(tasks != NULL, "expected /proc/self/task to be readable");
    for (struct dirent *entry; (entry = readdir(tasks)) != NULL;) {
        if (entry->d_name[0] == '.')
            continue;
        snprintf(path, sizeof(path), "/proc/self/task/%s/status", entry->d_name);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        ssize_t len = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
        if (fd >= 0)
            close(fd);
        if (len <= 0)
            continue;
        text[len] = '\0';
        EXPECT(strstr(text, "Uid:\t65534\t65534\t65534\t65534") != NULL,
               "expected each task to have the new identity, task %s hasn't", entry->d_name);
    }
    closedir(tasks);
    fill();
    empty();
    expect_given_back(1);
}

static void run_namespace(void)
{
    fill();
    empty();
    sleep_ms(600);
    if (unshare(CLONE_NEWUSER) != 0) {
        int error = errno;
        EXPECT(error != EINVAL, "expected unshare(CLONE_NEWUSER) not to find a second task");
        say("idle: skipped: no user namespaces here (errno %d)", error);
        return;
    }
    fill();
    empty();
    say("idle: unshare(CLONE_NEWUSER) worked while memory was being given back");
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*run)(void);
    } scenarios[] = {{"main", run_main},         {"thread", run_thread},
                     {"exited", run_exited},     {"remote", run_remote},
                     {"fork", run_fork},         {"confined", run_confined},
                     {"identity", run_identity}, {"namespace", run_namespace}};

    alarm(60);
    for (size_t i = 0; argc > 1 && i < sizeof(scenarios) / sizeof(scenarios[0]); i++) {
        if (strcmp(argv[1], scenarios[i].name) == 0) {
            scenarios[i].run();
            return 0;
        }
    }
    fail("usage: idle main|thread|exited|remote|fork|confined|identity|namespace");
}
