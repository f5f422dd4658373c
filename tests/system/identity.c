/*
 * Calls that change who a thread is, after enough has been freed that a helper runs.
 *
 * The helper is a thread that libc does not know. After setuid every thread of the process must
 * have the new identity; a new user namespace is refused to a process with two threads; after a
 * seccomp filter that allows what glibc's malloc calls, and no more, the program must go on.
 *
 * usage: identity user|namespace|filter|raw-filter
 */
#include "common.h"

#include <dirent.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define NOBODY 65534

static unsigned thread_count(void)
{
    unsigned count = 0;
    DIR *tasks = opendir("/proc/self/task");
    EXPECT(tasks != NULL, "expected to read /proc/self/task");
    for (struct dirent *entry; (entry = readdir(tasks)) != NULL;)
        count += entry->d_name[0] != '.';
    closedir(tasks);
    return count;
}

/* Frees so much that it is worth a helper. */
static void churn(void)
{
    enum { COUNT = 4000 };
    static void *blocks[COUNT];
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < COUNT; i++) {
            blocks[i] = opaque(malloc(4000));
            EXPECT(blocks[i] != NULL, "expected 4000 bytes");
            memset(blocks[i], 1, 4000);
        }
        for (int i = 0; i < COUNT; i++)
            free(blocks[i]);
    }
}

static void *churn_in_thread(void *unused)
{
    churn();
    return unused;
}

/* The Uid: line of each thread. */
static void expect_all_threads_are(unsigned user)
{
    DIR *tasks = opendir("/proc/self/task");
    EXPECT(tasks != NULL, "expected to read /proc/self/task");
    for (struct dirent *entry; (entry = readdir(tasks)) != NULL;) {
        if (entry->d_name[0] == '.')
            continue;
        char path[300], line[256];
        snprintf(path, sizeof(path), "/proc/self/task/%s/status", entry->d_name);
        FILE *status = fopen(path, "r");
        while (status != NULL && fgets(line, sizeof(line), status) != NULL) {
            unsigned real, effective, saved, filesystem;
            if (sscanf(line, "Uid: %u %u %u %u", &real, &effective, &saved, &filesystem) == 4)
                EXPECT(real == user && effective == user && saved == user && filesystem == user,
                       "expected thread %s to be user %u, it is %s", entry->d_name, user, line);
        }
        if (status != NULL)
            fclose(status);
    }
    closedir(tasks);
}

static void test_user(void)
{
    EXPECT(setuid(NOBODY) == 0, "expected setuid to succeed, errno %d", errno);
    expect_all_threads_are(NOBODY);
    churn();
    expect_all_threads_are(NOBODY);
}

static void test_namespace(void)
{
    int result = unshare(CLONE_NEWUSER);
    if (result != 0 && errno != EINVAL) {
        say("identity: this machine allows no user namespaces (errno %d)", errno);
        exit(77);
    }
    EXPECT(result == 0, "expected unshare(CLONE_NEWUSER) to find one thread, errno %d", errno);
    churn();
}

#define ALLOW(number)                                                                              \
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (number), 0, 1),                                           \
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)

/* What glibc's malloc calls, what it takes to say something and to end; all else kills. */
static void test_filter(bool is_raw)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        ALLOW(SYS_brk),
        ALLOW(SYS_mmap),
        ALLOW(SYS_munmap),
        ALLOW(SYS_mremap),
        ALLOW(SYS_mprotect),
        ALLOW(SYS_madvise),
        ALLOW(SYS_futex),
        ALLOW(SYS_write),
        ALLOW(SYS_exit_group),
        ALLOW(SYS_newfstatat),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
    };
    struct sock_fprog program = {sizeof(filter) / sizeof(filter[0]), filter};
    EXPECT(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0, "expected no_new_privs");
    churn();
    long result = is_raw ? syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program)
                         : prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0);
    EXPECT(result == 0, "expected the filter to be taken, errno %d", errno);
    for (int i = 0; i < 10; i++)
        churn();
    for (size_t size = 1; size < 100000000; size = size * 5 / 3 + 1) {
        char *block = opaque(malloc(size));
        EXPECT(block != NULL, "expected %zu bytes", size);
        block[0] = block[size - 1] = 1;
        block = opaque(realloc(block, size * 2));
        EXPECT(block != NULL, "expected realloc to %zu bytes", size * 2);
        free(block);
    }
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "user";
    pthread_t thread;
    alarm(60);
    EXPECT(syscall(SYS_getpid) == getpid() && syscall(SYS_close, -1) == -1 && errno == EBADF,
           "expected syscall to return results and errors");
    churn();
    if (is_freehold() && argc <= 2)
        EXPECT(thread_count() > 1, "expected a helper after that much was freed");
    if (strcmp(what, "user") == 0) {
        if (getuid() != 0)
            return 77;
        test_user();
    } else if (strcmp(what, "namespace") == 0) {
        test_namespace();
    } else {
        test_filter(strcmp(what, "raw-filter") == 0);
        say("identity %s: passed", what);
        _exit(0);
    }
    EXPECT(pthread_create(&thread, NULL, churn_in_thread, NULL) == 0, "expected a thread");
    pthread_join(thread, NULL);
    say("identity %s: passed", what);
    return 0;
}
