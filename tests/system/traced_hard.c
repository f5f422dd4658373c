/*
 * Programs that make recording hard, for system.record_slow: traced_hard MODE [ARGUMENT]
 *
 *   short        1,000 threads, ten at a time, each allocates 77 bytes ten times
 *   crowd N      N threads that live at the same time; each allocates 111 bytes 100 times
 *   plugin FILE  loads the library, lets it allocate, unloads it; five times
 *   vfork        children by vfork that end at once, and calls between them
 *   spawn FILE   posix_spawn of FILE with the argument "calls"
 *   setuid       becomes another user, then allocates, also in a new thread and in a child
 *   filter       allows only the system calls that glibc's malloc makes, then allocates a lot
 *   faults       its own handler for SIGSEGV allocates and jumps back, 100 times
 *   closes       closes all descriptors above 2, then allocates
 *   forks        forks 50 children while two threads allocate; each child allocates and ends
 */
#include <dlfcn.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* A function that stays one, by its name, in every stack. */
#if __has_attribute(noclone)
#define KEPT __attribute__((noinline, noclone))
#else
#define KEPT __attribute__((noinline))
#endif

extern char **environ;

static void expect(int is_so, const char *what)
{
    if (!is_so) {
        fprintf(stderr, "traced_hard: expected %s\n", what);
        _exit(1);
    }
}

KEPT static void pairs(long count, size_t size)
{
    for (long i = 0; i < count; i++) {
        char *volatile block = malloc(size);
        expect(block != NULL, "memory");
        free(block);
    }
}

static void *ten_pairs(void *argument)
{
    (void)argument;
    pairs(10, 77);
    return NULL;
}

static void short_threads(void)
{
    enum { AT_A_TIME = 10 };
    for (int round = 0; round < 1000 / AT_A_TIME; round++) {
        pthread_t threads[AT_A_TIME];
        for (int i = 0; i < AT_A_TIME; i++)
            expect(pthread_create(&threads[i], NULL, ten_pairs, NULL) == 0, "a thread");
        for (int i = 0; i < AT_A_TIME; i++)
            pthread_join(threads[i], NULL);
    }
}

static pthread_barrier_t all_are_here;

static void *one_of_many(void *argument)
{
    (void)argument;
    pairs(50, 111);
    pthread_barrier_wait(&all_are_here);
    pairs(50, 111);
    pthread_barrier_wait(&all_are_here);
    return NULL;
}

static void crowd(unsigned count)
{
    pthread_t *threads = calloc(count, sizeof(*threads));
    expect(threads != NULL && count > 0, "threads");
    pthread_barrier_init(&all_are_here, NULL, count);
    for (unsigned i = 0; i < count; i++)
        expect(pthread_create(&threads[i], NULL, one_of_many, NULL) == 0, "a thread");
    for (unsigned i = 0; i < count; i++)
        pthread_join(threads[i], NULL);
    free(threads);
}

static void plugin(const char *file)
{
    for (int i = 0; i < 5; i++) {
        void *library = dlopen(file, RTLD_NOW);
        expect(library != NULL, "the library");
        void *(*gift)(size_t) = (void *(*)(size_t))dlsym(library, "plugin_gift");
        expect(gift != NULL, "its function");
        free(gift(5555));
        dlclose(library);
    }
}

static void wait_for(pid_t child, int status)
{
    int got = -1;
    expect(child > 0 && waitpid(child, &got, 0) == child, "a child");
    expect(WIFEXITED(got) && WEXITSTATUS(got) == status, "its status");
}

static void vforks(void)
{
    for (int i = 0; i < 100; i++) {
        pairs(10, 111);
        const pid_t child = vfork();
        if (child == 0)
            _exit(5);
        wait_for(child, 5);
    }
}

static void spawn(char *file)
{
    char *arguments[] = {file, (char[]){"calls"}, NULL};
    pid_t child;
    pairs(100, 111);
    expect(posix_spawn(&child, file, NULL, NULL, arguments, environ) == 0, "posix_spawn");
    wait_for(child, 0);
    pairs(100, 111);
}

static void other_user(void)
{
    pthread_t thread;
    pairs(10, 111);
    expect(setgid(65534) == 0 && setuid(65534) == 0, "to become another user");
    pairs(100, 111);
    expect(pthread_create(&thread, NULL, ten_pairs, NULL) == 0, "a thread");
    pthread_join(thread, NULL);
    const pid_t child = fork();
    if (child == 0) {
        pairs(100, 111);
        _exit(0);
    }
    wait_for(child, 0);
}

#define ALLOW(number)                                                                              \
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (number), 0, 1),                                           \
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)

static void filtered(void)
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
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
    };
    struct sock_fprog program = {sizeof(filter) / sizeof(filter[0]), filter};
    pairs(10, 111);
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0) != 0)
        _exit(77);
    for (size_t size = 1; size < 10000000; size *= 3)
        pairs(10, size);
    pairs(2000000, 111);
    _exit(0);
}

static sigjmp_buf before_fault;

static void on_fault(int number)
{
    (void)number;
    pairs(1, 111);
    siglongjmp(before_fault, 1);
}

static void faults(void)
{
    const struct sigaction action = {.sa_handler = on_fault};
    char *wall = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    sigaction(SIGSEGV, &action, NULL);
    for (volatile int i = 0; i < 100; i++) {
        pairs(10, 77);
        if (sigsetjmp(before_fault, 1) == 0)
            *(volatile char *)wall = 1;
    }
}

static void closes(void)
{
    pairs(10, 111);
    for (int fd = 3; fd < 1024; fd++)
        close(fd);
    pairs(990, 111);
    const pid_t child = fork();
    if (child == 0) {
        pairs(100, 111);
        _exit(0);
    }
    wait_for(child, 0);
}

static atomic_bool is_over;

static void *allocates(void *argument)
{
    (void)argument;
    while (!atomic_load(&is_over))
        pairs(100, 77);
    return NULL;
}

static void forks(void)
{
    pthread_t threads[2];
    for (int i = 0; i < 2; i++)
        expect(pthread_create(&threads[i], NULL, allocates, NULL) == 0, "a thread");
    for (int i = 0; i < 50; i++) {
        const pid_t child = fork();
        if (child == 0) {
            pairs(100, 111);
            exit(0);
        }
        pairs(10, 111);
        wait_for(child, 0);
    }
    atomic_store(&is_over, true);
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
}

int main(int argc, char **argv)
{
    const char *mode = argc > 1 ? argv[1] : "";
    char *argument = argc > 2 ? argv[2] : (char[]){""};
    static const struct {
        const char *name;
        void (*run)(void);
    } modes[] = {{"short", short_threads}, {"vfork", vforks},  {"setuid", other_user},
                 {"filter", filtered},     {"faults", faults}, {"closes", closes},
                 {"forks", forks}};
    for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
        if (strcmp(mode, modes[i].name) == 0) {
            modes[i].run();
            return 0;
        }
    }
    if (strcmp(mode, "crowd") == 0)
        crowd((unsigned)strtoul(argument, NULL, 10));
    else if (strcmp(mode, "plugin") == 0)
        plugin(argument);
    else if (strcmp(mode, "spawn") == 0)
        spawn(argument);
    else
        return 2;
    return 0;
}
