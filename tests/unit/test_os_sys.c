/* os/sys: clocks, files, the helper, what a thread is doing, and the environment before libc has
 * it. */
#include "os/mem.h"
#include "os/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

extern char **environ;

enum { STACK_BYTES = 64 << 10, SECOND = 1000000000 };

static int start_os(void **state)
{
    (void)state;
    fh_os_init();
    return 0;
}

static int allow_all_features(void **state)
{
    (void)state;
    fh_os_force_features(~0u);
    return 0;
}

/* The exit status of what the function does in a child; -SIGNAL when it died of one. */
static int outcome_in_child(void (*function)(void))
{
    pid_t child = fork();
    if (child == 0) {
        function();
        _exit(0);
    }
    int status = -1;
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

static void test_the_clock_is_the_one_of_libc(void **state)
{
    (void)state;
    struct timespec before, after;
    clock_gettime(CLOCK_MONOTONIC, &before);
    uint64_t now = fh_os_now_ns();
    clock_gettime(CLOCK_MONOTONIC, &after);
    assert_in_range(now, (uint64_t)before.tv_sec * SECOND + (uint64_t)before.tv_nsec,
                    (uint64_t)after.tv_sec * SECOND + (uint64_t)after.tv_nsec);
}

static void test_sleeping_takes_at_least_its_time(void **state)
{
    (void)state;
    uint64_t start = fh_os_now_ns();
    fh_os_sleep_ns(5000000);
    assert_in_range(fh_os_now_ns() - start, 5000000, 5ull * SECOND);
}

static void test_sleeping_costs_no_processor_time(void **state)
{
    (void)state;
    uint64_t start = fh_os_cpu_ns();
    fh_os_sleep_ns(50000000);
    assert_in_range(fh_os_cpu_ns() - start, 0, 40000000);
}

static void test_identity_is_the_processs(void **state)
{
    (void)state;
    assert_int_equal(fh_os_getpid(), getpid());
    assert_int_equal(fh_os_gettid(), getpid());
}

static void test_random_numbers_differ(void **state)
{
    (void)state;
    assert_true(fh_os_random() != fh_os_random());
}

static void test_processors_are_those_of_the_affinity_mask(void **state)
{
    (void)state;
    assert_int_equal(fh_os_cpu_count(), sysconf(_SC_NPROCESSORS_ONLN));
}

static void test_memory_is_what_sysconf_says(void **state)
{
    (void)state;
    size_t expected = (size_t)sysconf(_SC_PHYS_PAGES) * fh_os_page_size;
    assert_int_equal(fh_os_ram_bytes(), expected);
}

static void exit_by_23(void)
{
    fh_os_exit(23);
}

static void test_exit_gives_the_status(void **state)
{
    (void)state;
    assert_int_equal(outcome_in_child(exit_by_23), 23);
}

static void abort_against_resistance(void)
{
    signal(SIGABRT, SIG_IGN);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGABRT);
    sigprocmask(SIG_BLOCK, &set, NULL);
    fh_os_abort();
}

static void test_abort_dies_of_sigabrt_though_ignored_and_blocked(void **state)
{
    (void)state;
    assert_int_equal(outcome_in_child(abort_against_resistance), -SIGABRT);
}

static void test_a_written_file_is_read_back(void **state)
{
    (void)state;
    char path[] = "/tmp/freehold-test.XXXXXX";
    close(mkstemp(path));
    int fd = fh_os_open_write(path);
    assert_true(fd >= 0);
    assert_int_equal(fh_os_write(fd, "what was written", 16), 16);
    fh_os_close(fd);
    char buf[64];
    assert_int_equal(fh_os_read_file(path, buf, sizeof(buf)), 16);
    assert_string_equal(buf, "what was written");
    unlink(path);
}

static void test_a_file_larger_than_the_buffer_is_cut_and_terminated(void **state)
{
    (void)state;
    char buf[8];
    assert_int_equal(fh_os_read_file("/proc/self/status", buf, sizeof(buf)), 7);
    assert_int_equal(buf[7], '\0');
}

static void test_a_missing_file_gives_the_error_and_leaves_errno(void **state)
{
    (void)state;
    char buf[8];
    errno = 0;
    assert_int_equal(fh_os_read_file("/nowhere/at/all", buf, sizeof(buf)), -ENOENT);
    assert_int_equal(fh_os_write(-1, buf, 1), -EBADF);
    assert_int_equal(errno, 0);
}

static void *drain_slowly(void *arg)
{
    int fd = *(int *)arg;
    char buf[4096];
    while (read(fd, buf, sizeof(buf)) > 0)
        sched_yield();
    return NULL;
}

static void test_write_goes_on_until_all_is_written(void **state)
{
    (void)state;
    static char text[1 << 20];
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    pthread_t reader;
    assert_int_equal(pthread_create(&reader, NULL, drain_slowly, &ends[0]), 0);
    assert_int_equal(fh_os_write(ends[1], text, sizeof(text)), sizeof(text));
    close(ends[1]);
    pthread_join(reader, NULL);
    close(ends[0]);
}

/* A thread that does one of two things until it is told to end. */
struct subject {
    _Atomic int tid;
    _Atomic bool is_over;
    bool sleeps;
};

static void *be_observed(void *arg)
{
    struct subject *subject = arg;
    atomic_store(&subject->tid, fh_os_gettid());
    while (!atomic_load(&subject->is_over))
        if (subject->sleeps)
            fh_os_sleep_ns(100000000);
    return NULL;
}

static unsigned times_seen_in_syscall(bool sleeps, unsigned looks)
{
    struct subject subject = {.sleeps = sleeps};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, be_observed, &subject), 0);
    while (atomic_load(&subject.tid) == 0)
        sched_yield();
    fh_os_sleep_ns(10000000); /* until it does what it does */
    unsigned seen = 0;
    for (unsigned i = 0; i < looks; i++)
        seen += fh_os_thread_in_syscall(subject.tid);
    atomic_store(&subject.is_over, true);
    pthread_join(thread, NULL);
    return seen;
}

static void test_a_sleeping_thread_is_in_a_system_call(void **state)
{
    (void)state;
    if (!(fh_os_features() & FH_OS_TASK_SYSCALL))
        skip();
    assert_true(times_seen_in_syscall(true, 100) >= 90);
}

static _Atomic bool is_handler_over;

static void sleep_in_handler(int number)
{
    (void)number;
    while (!atomic_load(&is_handler_over))
        fh_os_sleep_ns(100000000);
}

/* What callers must reckon with: the thread spins, but a handler on top of it is blocked. */
static void test_a_handler_that_blocks_hides_what_it_interrupted(void **state)
{
    (void)state;
    if (!(fh_os_features() & FH_OS_TASK_SYSCALL))
        skip();
    struct sigaction action = {.sa_handler = sleep_in_handler};
    sigaction(SIGUSR1, &action, NULL);
    struct subject subject = {.sleeps = false};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, be_observed, &subject), 0);
    while (atomic_load(&subject.tid) == 0)
        sched_yield();
    pthread_kill(thread, SIGUSR1);
    bool is_seen = false;
    for (int i = 0; i < 1000 && !is_seen; i++) {
        fh_os_sleep_ns(1000000);
        is_seen = fh_os_thread_in_syscall(subject.tid);
    }
    atomic_store(&is_handler_over, true);
    atomic_store(&subject.is_over, true);
    pthread_join(thread, NULL);
    assert_true(is_seen);
}

static void test_a_spinning_thread_is_in_no_system_call(void **state)
{
    (void)state;
    assert_int_equal(times_seen_in_syscall(false, 2000), 0);
}

static void test_a_thread_that_is_not_there_is_in_no_system_call(void **state)
{
    (void)state;
    assert_false(fh_os_thread_in_syscall(0x3fffffff));
}

static void test_nothing_is_known_of_threads_where_proc_is_refused(void **state)
{
    (void)state;
    fh_os_force_features(~(unsigned)FH_OS_TASK_SYSCALL);
    assert_int_equal(times_seen_in_syscall(true, 10), 0);
}

static void test_membarrier_registers_itself(void **state)
{
    (void)state;
    if (!(fh_os_features() & FH_OS_MEMBARRIER))
        skip();
    assert_int_equal(fh_os_membarrier(), 0);
}

/* What a helper found out about itself. */
struct helper_facts {
    int tid;
    uint64_t blocked;
    void *thread_pointer;
};

static void *thread_pointer(void)
{
#if defined(__x86_64__)
    void *pointer;
    __asm__ volatile("mov %%fs:0, %0" : "=r"(pointer));
    return pointer;
#else
    return __builtin_thread_pointer();
#endif
}

static void find_facts(void *arg)
{
    struct helper_facts *facts = arg;
    facts->tid = fh_os_gettid();
    facts->thread_pointer = thread_pointer();
    uint64_t mask = 0;
    char text[2048];
    if (fh_os_read_file("/proc/thread-self/status", text, sizeof(text)) <= 0)
        return;
    for (const char *at = text; *at != '\0'; at++) {
        if (memcmp(at, "SigBlk:\t", 8) != 0)
            continue;
        for (at += 8; *at != '\n'; at++)
            mask = mask << 4 | (uint64_t)(*at <= '9' ? *at - '0' : *at - 'a' + 10);
        break;
    }
    facts->blocked = mask;
}

static void sleep_50_ms(void *arg)
{
    (void)arg;
    fh_os_sleep_ns(50000000);
}

/* Starts a helper, or skips the test where there is none. */
static int start_helper(void (*run)(void *), void *arg, _Atomic uint32_t *alive)
{
    static _Alignas(16) char stack[STACK_BYTES];
    int tid = fh_os_helper_start(run, arg, stack, sizeof(stack), alive);
    if (tid == -ENOSYS)
        skip();
    assert_true(tid > 0);
    return tid;
}

static void test_a_helper_runs_and_clears_alive(void **state)
{
    (void)state;
    static _Atomic uint32_t alive;
    static struct helper_facts facts;
    int tid = start_helper(find_facts, &facts, &alive);
    assert_true(fh_os_helper_wait(&alive, 10ull * SECOND));
    assert_int_equal(alive, 0);
    assert_int_equal(facts.tid, tid);
}

static void test_a_helper_has_every_signal_blocked_and_its_starter_none_more(void **state)
{
    (void)state;
    static _Atomic uint32_t alive;
    static struct helper_facts facts;
    sigset_t before, after;
    pthread_sigmask(SIG_SETMASK, NULL, &before);
    start_helper(find_facts, &facts, &alive);
    pthread_sigmask(SIG_SETMASK, NULL, &after);
    assert_true(fh_os_helper_wait(&alive, 10ull * SECOND));
    uint64_t cannot_be_blocked = (uint64_t)1 << (SIGKILL - 1) | (uint64_t)1 << (SIGSTOP - 1);
    assert_true(facts.blocked == ~cannot_be_blocked);
    assert_memory_equal(&before, &after, 8);
}

static void test_a_helper_has_a_thread_pointer_of_its_own(void **state)
{
    (void)state;
    static _Atomic uint32_t alive;
    static struct helper_facts facts;
    start_helper(find_facts, &facts, &alive);
    assert_true(fh_os_helper_wait(&alive, 10ull * SECOND));
    assert_non_null(facts.thread_pointer);
    assert_ptr_not_equal(facts.thread_pointer, thread_pointer());
}

static void test_waiting_for_a_helper_has_a_limit(void **state)
{
    (void)state;
    static _Atomic uint32_t alive;
    start_helper(sleep_50_ms, NULL, &alive);
    assert_false(fh_os_helper_wait(&alive, 1000000));
    assert_true(fh_os_helper_wait(&alive, 0));
}

static void *start_helper_and_leave(void *arg)
{
    static _Alignas(16) char stack[STACK_BYTES];
    return (void *)(intptr_t)fh_os_helper_start(sleep_50_ms, NULL, stack, sizeof(stack), arg);
}

static void test_a_helper_outlives_the_thread_that_started_it(void **state)
{
    (void)state;
    static _Atomic uint32_t alive;
    pthread_t starter;
    void *tid;
    assert_int_equal(pthread_create(&starter, NULL, start_helper_and_leave, (void *)&alive), 0);
    assert_int_equal(pthread_join(starter, &tid), 0);
    if ((intptr_t)tid == -ENOSYS)
        skip();
    assert_int_equal(alive, 1);
    assert_true(fh_os_helper_wait(&alive, 10ull * SECOND));
}

static void test_a_thousand_helpers_after_each_other_on_one_stack(void **state)
{
    (void)state;
    static _Atomic uint32_t alive;
    static struct helper_facts facts;
    for (int i = 0; i < 1000; i++) {
        start_helper(find_facts, &facts, &alive);
        assert_true(fh_os_helper_wait(&alive, 10ull * SECOND));
    }
}

static void test_a_stack_without_room_is_refused(void **state)
{
    (void)state;
    static _Atomic uint32_t alive;
    char stack[256];
    int result = fh_os_helper_start(sleep_50_ms, NULL, stack, sizeof(stack), &alive);
    assert_true(result == -EINVAL || result == -ENOSYS);
    assert_int_equal(alive, 0);
}

static void test_the_environment_is_found(void **state)
{
    (void)state;
    setenv("FREEHOLD_TEST_VARIABLE", "its value", 1);
    assert_string_equal(fh_os_getenv("FREEHOLD_TEST_VARIABLE"), "its value");
    assert_null(fh_os_getenv("FREEHOLD_TEST"));
    assert_null(fh_os_getenv("FREEHOLD_TEST_VARIABLE_MORE"));
    unsetenv("FREEHOLD_TEST_VARIABLE");
}

/* Runs in a program that was started with the variables below. */
static int look_before_libc(void)
{
    char **ours = environ;
    environ = NULL;
    const char *first = fh_os_getenv("FREEHOLD_TEST_FIRST");
    const char *last = fh_os_getenv("FREEHOLD_TEST_LAST");
    const char *again = fh_os_getenv("FREEHOLD_TEST_FIRST");
    const char *missing = fh_os_getenv("FREEHOLD_TEST_MISSING");
    const char *long_one = fh_os_getenv("FREEHOLD_TEST_LONG");
    environ = ours;
    if (first == NULL || strcmp(first, "one") != 0 || again != first)
        return 1;
    if (last == NULL || strcmp(last, "two") != 0)
        return 2;
    return missing == NULL && long_one == NULL ? 0 : 3;
}

static void start_anew(void)
{
    static char long_variable[8192] = "FREEHOLD_TEST_LONG="; /* more than is kept */
    memset(long_variable + 19, 'x', sizeof(long_variable) - 20);
    char *const variables[] = {"FREEHOLD_TEST_FIRST=one", long_variable, "FREEHOLD_TEST_LAST=two",
                               NULL};
    char *const arguments[] = {"test_os_sys", "look-before-libc", NULL};
    execve("/proc/self/exe", arguments, variables);
    _exit(127);
}

static void test_the_environment_is_found_before_libc_has_it(void **state)
{
    (void)state;
    assert_int_equal(outcome_in_child(start_anew), 0);
}

static void test_this_program_is_not_setuid(void **state)
{
    (void)state;
    assert_false(fh_os_is_secure());
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "look-before-libc") == 0)
        return look_before_libc();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_clock_is_the_one_of_libc),
        cmocka_unit_test(test_sleeping_takes_at_least_its_time),
        cmocka_unit_test(test_sleeping_costs_no_processor_time),
        cmocka_unit_test(test_identity_is_the_processs),
        cmocka_unit_test(test_random_numbers_differ),
        cmocka_unit_test(test_processors_are_those_of_the_affinity_mask),
        cmocka_unit_test(test_memory_is_what_sysconf_says),
        cmocka_unit_test(test_exit_gives_the_status),
        cmocka_unit_test(test_abort_dies_of_sigabrt_though_ignored_and_blocked),
        cmocka_unit_test(test_a_written_file_is_read_back),
        cmocka_unit_test(test_a_file_larger_than_the_buffer_is_cut_and_terminated),
        cmocka_unit_test(test_a_missing_file_gives_the_error_and_leaves_errno),
        cmocka_unit_test(test_write_goes_on_until_all_is_written),
        cmocka_unit_test(test_a_sleeping_thread_is_in_a_system_call),
        cmocka_unit_test(test_a_handler_that_blocks_hides_what_it_interrupted),
        cmocka_unit_test(test_a_spinning_thread_is_in_no_system_call),
        cmocka_unit_test(test_a_thread_that_is_not_there_is_in_no_system_call),
        cmocka_unit_test_teardown(test_nothing_is_known_of_threads_where_proc_is_refused,
                                  allow_all_features),
        cmocka_unit_test(test_membarrier_registers_itself),
        cmocka_unit_test(test_a_helper_runs_and_clears_alive),
        cmocka_unit_test(test_a_helper_has_every_signal_blocked_and_its_starter_none_more),
        cmocka_unit_test(test_a_helper_has_a_thread_pointer_of_its_own),
        cmocka_unit_test(test_waiting_for_a_helper_has_a_limit),
        cmocka_unit_test(test_a_helper_outlives_the_thread_that_started_it),
        cmocka_unit_test(test_a_thousand_helpers_after_each_other_on_one_stack),
        cmocka_unit_test(test_a_stack_without_room_is_refused),
        cmocka_unit_test(test_the_environment_is_found),
        cmocka_unit_test(test_the_environment_is_found_before_libc_has_it),
        cmocka_unit_test(test_this_program_is_not_setuid),
    };
    return cmocka_run_group_tests(tests, start_os, NULL);
}
