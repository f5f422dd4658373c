/*
 * Claims about lib/scan: a block to which something points is found, wherever the address is kept, and a block
 * to which nothing points is not.
 *
 * Each place has a twin: the same without the address. A place that is never looked at fails the first,
 * one that holds stale words fails the second. Addresses are kept from the test's own variables by a
 * mask: `hidden` is not an address.
 */
#define _GNU_SOURCE 1
#include "freehold/freehold.h"
#include "os/mem.h"
#include "os/sys.h"
#include "os/task.h"
#include "pages/pages.h"
#include "scan/scan.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define MASK ((uintptr_t)0x5a5a5a5a5a5a5a5au)

static const struct fh_scan_options everything = {.roots = FH_SCAN_ALL_ROOTS};

/* A block whose address is nowhere but in the result, masked. Another frame writes over what is left. */
static FH_NOINLINE uintptr_t new_block(size_t size)
{
    void *block = fh_malloc(size);
    assert_non_null(block);
    memset(block, 0, size);
    return (uintptr_t)block ^ MASK;
}

static FH_NOINLINE void scrub_stack(void)
{
    char waste[16384];
    memset(waste, 0, sizeof waste);
    __asm__ volatile("" : : "r"(waste) : "memory");
}

/* The compiler can't do this ahead, nor keep the result. */
static FH_NOINLINE uintptr_t shown(uintptr_t hidden)
{
    __asm__ volatile("" : "+r"(hidden));
    return hidden ^ MASK;
}

static FH_NOINLINE uintptr_t hide_new(size_t size)
{
    uintptr_t hidden = new_block(size);
    scrub_stack();
    return hidden;
}

static FH_NOINLINE void free_hidden(uintptr_t hidden)
{
    fh_free_any((void *)shown(hidden));
}

/* ---- asking --------------------------------------------------------------------------------------- */

struct question {
    uintptr_t hidden;
    bool is_unreached;
    unsigned gaps;
    struct fh_scan_counts counts;
};

static void trace(struct fh_scan *scan, void *context)
{
    struct question *question = context;
    fh_scan_trace(scan);
    question->is_unreached = fh_scan_is_wanted(scan, shown(question->hidden));
    question->gaps = fh_scan_gaps(scan);
    fh_scan_count(scan, &question->counts);
}

static void sweep(struct fh_scan *scan, void *context)
{
    struct question *question = context;
    assert_true(fh_scan_want(scan, shown(question->hidden)));
    fh_scan_sweep(scan);
    question->is_unreached = fh_scan_is_wanted(scan, shown(question->hidden));
    question->gaps = fh_scan_gaps(scan);
    fh_scan_count(scan, &question->counts);
}

static void run(const struct fh_scan_options *options,
                void (*work)(struct fh_scan *scan, void *context), struct question *question)
{
    int error;
    struct fh_scan *scan = fh_scan_run(options, work, question, &error);
    assert_non_null(scan);
    fh_scan_forget(scan, false);
}

static FH_NOINLINE bool ask(const struct fh_scan_options *options, uintptr_t hidden)
{
    struct question question = {.hidden = hidden};
    run(options, trace, &question);
    assert_int_equal(question.gaps, 0);
    return !question.is_unreached;
}

/* Inline: the frames of an earlier call must not be left between the test's and the scan's. */
FH_INLINE bool is_reached_with(const struct fh_scan_options *options, uintptr_t hidden)
{
    scrub_stack();
    return ask(options, hidden);
}

/* Both ways to look say the same of a block that nothing but roots points to. */
static FH_NOINLINE bool ask_both(uintptr_t hidden)
{
    struct question question = {.hidden = hidden};
    run(&everything, sweep, &question);
    assert_int_equal(question.gaps, 0);
    bool is_swept = !question.is_unreached;
    assert_int_equal(is_reached_with(&everything, hidden), is_swept);
    return is_swept;
}

FH_INLINE bool is_reached(uintptr_t hidden)
{
    scrub_stack();
    return ask_both(hidden);
}

/* ---- places of one thread --------------------------------------------------------------------------- */

static volatile uintptr_t a_global;
static __thread volatile uintptr_t a_thread_local;

static void test_a_global_reaches_its_block(void **state)
{
    (void)state;
    uintptr_t hidden = hide_new(100);
    assert_false(is_reached(hidden));
    a_global = shown(hidden);
    assert_true(is_reached(hidden));
    a_global = 0;
    free_hidden(hidden);
}

static void test_a_thread_local_reaches_its_block(void **state)
{
    (void)state;
    uintptr_t hidden = hide_new(100);
    assert_false(is_reached(hidden));
    a_thread_local = shown(hidden);
    assert_true(is_reached(hidden));
    a_thread_local = 0;
    free_hidden(hidden);
}

static void test_a_key_of_pthread_reaches_its_block(void **state)
{
    (void)state;
    pthread_key_t key;
    assert_int_equal(pthread_key_create(&key, NULL), 0);
    uintptr_t hidden = hide_new(100);
    pthread_setspecific(key, NULL);
    assert_false(is_reached(hidden));
    pthread_setspecific(key, (void *)shown(hidden));
    assert_true(is_reached(hidden));
    pthread_setspecific(key, NULL);
    pthread_key_delete(key);
    free_hidden(hidden);
}

static void test_a_mapping_reaches_its_block(void **state)
{
    (void)state;
    uintptr_t *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uintptr_t hidden = hide_new(100);
    page[7] = 1;
    assert_false(is_reached(hidden));
    page[7] = shown(hidden);
    assert_true(is_reached(hidden));
    const struct fh_scan_options without = {.roots = FH_SCAN_ALL_ROOTS & ~FH_SCAN_MAPPINGS};
    assert_false(is_reached_with(&without, hidden));
    munmap(page, 4096);
    free_hidden(hidden);
}

static void test_the_stack_reaches_its_block(void **state)
{
    (void)state;
    uintptr_t hidden = hide_new(100);
    assert_false(is_reached(hidden));
    volatile uintptr_t here = shown(hidden);
    assert_int_equal(here, shown(hidden));
    assert_true(is_reached(hidden));
    here = 0;
    assert_false(is_reached(hidden));
    free_hidden(hidden);
}

/* Word `index` of one block points to another; nothing of it stays on the stack. */
static FH_NOINLINE void write_link(uintptr_t from, size_t index, uintptr_t to)
{
    ((uintptr_t *)shown(from))[index] = to != 0 ? shown(to) : 0;
}

static FH_NOINLINE void link_hidden(uintptr_t from, size_t index, uintptr_t to)
{
    write_link(from, index, to);
    scrub_stack();
}

/* ---- blocks that point to blocks ----------------------------------------------------------------------- */

static void test_a_chain_is_followed(void **state)
{
    (void)state;
    uintptr_t last = hide_new(64), middle = hide_new(40000), first = hide_new(200000);
    link_hidden(first, 20000, middle);
    link_hidden(middle, 4000, last);
    assert_false(is_reached_with(&everything, last));
    a_global = shown(first);
    assert_true(is_reached_with(&everything, last));
    link_hidden(middle, 4000, 0);
    assert_false(is_reached_with(&everything, last));
    a_global = 0;
    free_hidden(first);
    free_hidden(middle);
    free_hidden(last);
}

static void test_a_freed_block_reaches_nothing(void **state)
{
    (void)state;
    uintptr_t target = hide_new(64), holder = hide_new(96);
    ((uintptr_t *)shown(holder))[5] = shown(target);
    a_global = shown(holder);
    assert_true(is_reached_with(&everything, target));
    free_hidden(holder);
    assert_false(is_reached_with(&everything, target));
    a_global = 0;
    free_hidden(target);
}

static void test_an_address_inside_counts_unless_told_otherwise(void **state)
{
    (void)state;
    const struct fh_scan_options begins = {.roots = FH_SCAN_ALL_ROOTS,
                                           .flags = FH_SCAN_BEGINS_ONLY};
    uintptr_t hidden = hide_new(256);
    a_global = shown(hidden) + 255;
    assert_true(is_reached_with(&everything, hidden));
    assert_false(is_reached_with(&begins, hidden));
    a_global = shown(hidden);
    assert_true(is_reached_with(&begins, hidden));
    a_global = shown(hidden) + 256;
    assert_false(is_reached_with(&everything, hidden));
    a_global = 0;
    free_hidden(hidden);
}

static void test_a_heap_of_its_own_is_scanned(void **state)
{
    (void)state;
    static _Alignas(65536) char memory[1 << 20];
    struct fh_source_buffer buffer;
    struct fh_heap_options options = {
        .size = sizeof options, .source = fh_source_buffer_init(&buffer, memory, sizeof memory)};
    struct fh_heap *heap = fh_heap_create(&options);
    assert_non_null(heap);
    uintptr_t hidden = (uintptr_t)fh_heap_calloc(heap, 1, 100) ^ MASK;
    scrub_stack();
    assert_false(is_reached_with(&everything, hidden));
    a_global = shown(hidden);
    assert_true(is_reached_with(&everything, hidden));
    a_global = 0;
    fh_heap_destroy(heap);
}

static void test_memory_without_access_is_left_out(void **state)
{
    (void)state;
    uintptr_t hidden = hide_new(64);
    char *block = fh_aligned_alloc(4096, 5 * 4096);
    memset(block, 0, 5 * 4096);
    *(uintptr_t *)(block + 4 * 4096) = shown(hidden);
    assert_int_equal(mprotect(block + 4096, 4096, PROT_NONE), 0);
    assert_true(is_reached(hidden));
    assert_int_equal(mprotect(block + 4096, 4096, PROT_READ | PROT_WRITE), 0);
    *(uintptr_t *)(block + 4 * 4096) = 0;
    a_global = 0;
    fh_free_any(block);
    free_hidden(hidden);
}

static void test_memory_that_nobody_touched_stays_untouched(void **state)
{
    (void)state;
    size_t size = (size_t)64 << 20;
    char *mapping = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *block = fh_calloc(1, size);
    a_global = (uintptr_t)block;
    int64_t resident = fh_os_resident(block, size);
    is_reached_with(&everything, (uintptr_t)block ^ MASK);
    assert_int_equal(fh_os_resident(block, size), resident);
    assert_int_equal(fh_os_resident(mapping, size), 0);
    a_global = 0;
    fh_free_any(block);
    munmap(mapping, size);
}

/* ---- other threads -------------------------------------------------------------------------------------- */

enum place {
    IN_NOTHING,
    IN_STACK,
    IN_CALLEE_SAVED,
    IN_THREAD_LOCAL,
    IN_KEY,
    IN_WAITING_STACK,    /* blocked in poll with a limit: no signal */
    IN_WAITING_REGISTER, /* blocked in read: registers */
};

struct other {
    enum place place;
    uintptr_t hidden;
    _Atomic bool is_ready, is_done;
    int pipe[2];
    pthread_key_t key;
};

static FH_NOINLINE void spin_with_stack(struct other *other, uintptr_t address)
{
    volatile uintptr_t here = address;
    address = 0;
    atomic_store(&other->is_ready, true);
    while (!atomic_load(&other->is_done))
        ;
    here = 0;
    (void)here;
}

static FH_NOINLINE void spin_with_register(struct other *other)
{
#if defined(__x86_64__)
    /* The address is made in rbx, and only there. */
    __asm__ volatile("movq %[hidden], %%rbx\n\t"
                     "xorq %[mask], %%rbx\n\t"
                     "movb $1, %[ready]\n"
                     "1:\n\t"
                     "pause\n\t"
                     "cmpb $0, %[done]\n\t"
                     "je 1b\n\t"
                     "xorl %%ebx, %%ebx\n\t"
                     : [ready] "=m"(other->is_ready)
                     : [hidden] "r"(other->hidden), [mask] "r"(MASK), [done] "m"(other->is_done)
                     : "rbx", "memory", "cc");
#else
    spin_with_stack(other, shown(other->hidden));
#endif
}

static FH_NOINLINE void wait_with_register(struct other *other)
{
    char byte;
#if defined(__x86_64__)
    long result = 0; /* SYS_read */
    __asm__ volatile("movq %[hidden], %%rbx\n\t"
                     "xorq %[mask], %%rbx\n\t"
                     "movb $1, %[ready]\n\t"
                     "syscall\n\t"
                     "xorl %%ebx, %%ebx\n\t"
                     : "+a"(result), [ready] "=m"(other->is_ready)
                     : [hidden] "r"(other->hidden), [mask] "r"(MASK), "D"((long)other->pipe[0]),
                       "S"(&byte), "d"(1L)
                     : "rbx", "rcx", "r11", "memory", "cc");
    assert_int_equal(result, 1);
#else
    atomic_store(&other->is_ready, true);
    assert_int_equal(read(other->pipe[0], &byte, 1), 1);
#endif
}

static FH_NOINLINE void wait_with_stack(struct other *other, uintptr_t address)
{
    volatile uintptr_t here = address;
    address = 0;
    struct pollfd waits = {.fd = other->pipe[0], .events = POLLIN};
    atomic_store(&other->is_ready, true);
    assert_int_equal(poll(&waits, 1, 20000), 1);
    here = 0;
    (void)here;
}

static void *be_other(void *argument)
{
    struct other *other = argument;
    scrub_stack();
    switch (other->place) {
    case IN_NOTHING:
        spin_with_stack(other, 0);
        break;
    case IN_STACK:
        spin_with_stack(other, shown(other->hidden));
        break;
    case IN_CALLEE_SAVED:
        spin_with_register(other);
        break;
    case IN_THREAD_LOCAL:
        a_thread_local = shown(other->hidden);
        spin_with_stack(other, 0);
        break;
    case IN_KEY:
        pthread_setspecific(other->key, (void *)shown(other->hidden));
        spin_with_stack(other, 0);
        break;
    case IN_WAITING_STACK:
        wait_with_stack(other, shown(other->hidden));
        break;
    case IN_WAITING_REGISTER:
        wait_with_register(other);
        break;
    }
    return NULL;
}

/* Whether the block is reached while another thread has its address in this place. */
static bool is_reached_from(enum place place)
{
    struct other other = {.place = place, .hidden = hide_new(100)};
    pthread_t thread;
    assert_int_equal(pipe(other.pipe), 0);
    assert_int_equal(pthread_key_create(&other.key, NULL), 0);
    assert_int_equal(pthread_create(&thread, NULL, be_other, &other), 0);
    while (!atomic_load(&other.is_ready))
        sched_yield();
    usleep(2000); /* it is in its call now */
    scrub_stack();
    struct question question = {.hidden = other.hidden};
    run(&everything, trace, &question);
    assert_int_equal(question.gaps, 0);
    assert_int_equal(question.counts.threads, 1);
    assert_int_equal(question.counts.without_registers, place == IN_WAITING_STACK);
    atomic_store(&other.is_done, true);
    assert_int_equal(write(other.pipe[1], "x", 1), 1);
    pthread_join(thread, NULL);
    pthread_key_delete(other.key);
    close(other.pipe[0]);
    close(other.pipe[1]);
    free_hidden(other.hidden);
    return !question.is_unreached;
}

static void test_another_thread_without_the_address_does_not_reach_the_block(void **state)
{
    (void)state;
    assert_false(is_reached_from(IN_NOTHING));
}

static void test_another_threads_stack_reaches_the_block(void **state)
{
    (void)state;
    assert_true(is_reached_from(IN_STACK));
}

static void test_another_threads_register_reaches_the_block(void **state)
{
    (void)state;
    assert_true(is_reached_from(IN_CALLEE_SAVED));
}

static void test_another_threads_local_variable_reaches_the_block(void **state)
{
    (void)state;
    assert_true(is_reached_from(IN_THREAD_LOCAL));
}

static void test_another_threads_key_reaches_the_block(void **state)
{
    (void)state;
    assert_true(is_reached_from(IN_KEY));
}

static void test_the_stack_of_a_thread_in_poll_reaches_the_block(void **state)
{
    (void)state;
    assert_true(is_reached_from(IN_WAITING_STACK));
}

static void test_a_register_of_a_thread_in_read_reaches_the_block(void **state)
{
    (void)state;
    assert_true(is_reached_from(IN_WAITING_REGISTER));
}

/* ---- threads in handlers --------------------------------------------------------------------------------- */

struct interrupted {
    uintptr_t in_handler, below_handler; /* hidden; 0: none */
    _Atomic bool is_ready, is_done;
};
static struct interrupted *the_interrupted;

static void handle(int number)
{
    (void)number;
    volatile uintptr_t here =
        the_interrupted->in_handler != 0 ? shown(the_interrupted->in_handler) : 0;
    atomic_store(&the_interrupted->is_ready, true);
    while (!atomic_load(&the_interrupted->is_done))
        ;
    here = 0;
    (void)here;
}

static void *be_interrupted(void *argument)
{
    struct interrupted *self = argument;
    const stack_t alternate = {
        .ss_sp = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
        .ss_size = 65536};
    const stack_t none = {.ss_flags = SS_DISABLE};
    sigaltstack(&alternate, NULL);
    scrub_stack();
    volatile uintptr_t here = self->below_handler != 0 ? shown(self->below_handler) : 0;
    raise(SIGUSR1);
    here = 0;
    (void)here;
    sigaltstack(&none, NULL);
    munmap(alternate.ss_sp, alternate.ss_size);
    return NULL;
}

static bool is_reached_from_handler(bool is_in_handler, bool is_below)
{
    struct interrupted thread = {0};
    uintptr_t hidden = hide_new(100);
    thread.in_handler = is_in_handler ? hidden : 0;
    thread.below_handler = is_below ? hidden : 0;
    the_interrupted = &thread;
    const struct sigaction action = {.sa_handler = handle, .sa_flags = SA_ONSTACK};
    sigaction(SIGUSR1, &action, NULL);
    pthread_t id;
    assert_int_equal(pthread_create(&id, NULL, be_interrupted, &thread), 0);
    while (!atomic_load(&thread.is_ready))
        sched_yield();
    /* Both stacks are mappings, and near thread-local data: they must count as stacks. */
    const struct fh_scan_options options = {.roots = FH_SCAN_STACKS};
    bool result = is_reached_with(&options, hidden);
    atomic_store(&thread.is_done, true);
    pthread_join(id, NULL);
    free_hidden(hidden);
    return result;
}

static void test_a_handler_on_its_own_stack_reaches_the_block(void **state)
{
    (void)state;
    assert_false(is_reached_from_handler(false, false));
    assert_true(is_reached_from_handler(true, false));
    assert_true(is_reached_from_handler(false, true));
}

/* ---- threads that block all signals ------------------------------------------------------------------------ */

struct deaf {
    bool is_waiting;
    uintptr_t hidden;
    int pipe[2];
    _Atomic bool is_ready, is_done;
};

static void *be_deaf(void *argument)
{
    struct deaf *self = argument;
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, NULL);
    volatile uintptr_t here = shown(self->hidden);
    atomic_store(&self->is_ready, true);
    char byte;
    if (self->is_waiting)
        assert_int_equal(read(self->pipe[0], &byte, 1), 1);
    while (!atomic_load(&self->is_done))
        ;
    here = 0;
    (void)here;
    return NULL;
}

static struct question ask_deaf(bool is_waiting)
{
    struct deaf deaf = {.is_waiting = is_waiting, .hidden = hide_new(100)};
    pthread_t id;
    assert_int_equal(pipe(deaf.pipe), 0);
    assert_int_equal(pthread_create(&id, NULL, be_deaf, &deaf), 0);
    while (!atomic_load(&deaf.is_ready))
        sched_yield();
    usleep(2000);
    scrub_stack();
    const struct fh_scan_options options = {.roots = FH_SCAN_ALL_ROOTS, .stop_ns = 20000000};
    struct question question = {.hidden = deaf.hidden};
    run(&options, trace, &question);
    atomic_store(&deaf.is_done, true);
    assert_int_equal(write(deaf.pipe[1], "x", 1), 1);
    pthread_join(id, NULL);
    close(deaf.pipe[0]);
    close(deaf.pipe[1]);
    free_hidden(deaf.hidden);
    return question;
}

static void test_a_thread_that_waits_with_signals_blocked_is_seen(void **state)
{
    (void)state;
    struct question question = ask_deaf(true);
    assert_int_equal(question.gaps, 0);
    assert_int_equal(question.counts.without_registers, 1);
    assert_false(question.is_unreached);
}

static void test_a_thread_that_runs_with_signals_blocked_is_a_gap(void **state)
{
    (void)state;
    uint64_t begin = fh_os_now_ns();
    struct question question = ask_deaf(false);
    assert_int_equal(question.gaps, FH_SCAN_GAP_THREADS);
    assert_true(fh_os_now_ns() - begin < 10000000000u);
}

/* ---- system calls go on -------------------------------------------------------------------------------------- */

static _Atomic bool is_over;
static _Atomic unsigned disturbed;

static void note(bool is_disturbed)
{
    if (is_disturbed)
        atomic_fetch_add(&disturbed, 1);
}

static void *sleep_shortly(void *unused)
{
    while (!atomic_load(&is_over))
        note(usleep(3000) != 0);
    return unused;
}

static void *poll_shortly(void *unused)
{
    while (!atomic_load(&is_over))
        note(poll(NULL, 0, 3) != 0);
    return unused;
}

static void *poll_for_ever(void *pipe_)
{
    struct pollfd waits = {.fd = *(int *)pipe_, .events = POLLIN};
    note(poll(&waits, 1, -1) != 1);
    return pipe_;
}

static void *select_long(void *pipe_)
{
    int fd = *(int *)pipe_;
    fd_set set;
    FD_ZERO(&set);
    FD_SET(fd, &set);
    struct timeval limit = {.tv_sec = 60};
    note(select(fd + 1, &set, NULL, NULL, &limit) != 1);
    return pipe_;
}

static void *wait_for_event(void *pipe_)
{
    int events = epoll_create1(0);
    struct epoll_event wanted = {.events = EPOLLIN}, got;
    epoll_ctl(events, EPOLL_CTL_ADD, *(int *)pipe_, &wanted);
    note(epoll_wait(events, &got, 1, -1) != 1);
    close(events);
    return pipe_;
}

static sem_t a_semaphore;

static void *wait_until(void *unused)
{
    struct timespec limit;
    clock_gettime(CLOCK_REALTIME, &limit);
    limit.tv_sec += 60;
    note(sem_timedwait(&a_semaphore, &limit) != 0);
    return unused;
}

static void test_system_calls_of_stopped_threads_go_on(void **state)
{
    (void)state;
    void *(*const bodies[])(void *) = {sleep_shortly, poll_shortly,   poll_for_ever,
                                       select_long,   wait_for_event, wait_until};
    pthread_t threads[6];
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    sem_init(&a_semaphore, 0, 0);
    atomic_store(&is_over, false);
    atomic_store(&disturbed, 0);
    for (unsigned i = 0; i < 6; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, bodies[i], &ends[0]), 0);
    usleep(20000);
    unsigned complete = 0;
    for (unsigned i = 0; i < 50; i++) {
        struct question question = {.hidden = MASK};
        run(&everything, trace, &question);
        complete += question.gaps == 0;
        assert_true(question.counts.threads <= 6);
    }
    atomic_store(&is_over, true);
    sem_post(&a_semaphore);
    assert_int_equal(write(ends[1], "xxxx", 4), 4);
    for (unsigned i = 0; i < 6; i++)
        pthread_join(threads[i], NULL);
    close(ends[0]);
    close(ends[1]);
    assert_int_equal(atomic_load(&disturbed), 0);
    assert_true(complete > 0);
}

/* ---- threads that come and go ----------------------------------------------------------------------------------- */

static void *live_briefly(void *unused)
{
    void *blocks[20];
    for (unsigned i = 0; i < 20; i++)
        blocks[i] = fh_malloc(16 * i + 8);
    for (unsigned i = 0; i < 20; i++)
        fh_free_any(blocks[i]);
    return unused;
}

static void *make_threads(void *unused)
{
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 16384);
    while (!atomic_load(&is_over)) {
        pthread_t threads[4];
        unsigned count = 0;
        while (count < 4 && pthread_create(&threads[count], &small, live_briefly, NULL) == 0)
            count++;
        while (count > 0)
            pthread_join(threads[--count], NULL);
    }
    pthread_attr_destroy(&small);
    return unused;
}

static void test_threads_with_small_stacks_come_and_go_meanwhile(void **state)
{
    (void)state;
    pthread_t makers[3];
    atomic_store(&is_over, false);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(pthread_create(&makers[i], NULL, make_threads, NULL), 0);
    uintptr_t hidden = hide_new(100);
    a_global = shown(hidden);
    unsigned complete = 0;
    for (unsigned i = 0; i < 60; i++) {
        struct question question = {.hidden = hidden};
        run(&everything, trace, &question);
        assert_false(question.is_unreached);
        complete += question.gaps == 0;
    }
    atomic_store(&is_over, true);
    for (unsigned i = 0; i < 3; i++)
        pthread_join(makers[i], NULL);
    a_global = 0;
    free_hidden(hidden);
    assert_true(complete > 0);
    assert_int_equal(fh_heap_check(NULL), 0);
}

static void *fork_often(void *unused)
{
    while (!atomic_load(&is_over)) {
        pid_t child = fork();
        if (child == 0) {
            live_briefly(NULL);
            struct question question = {.hidden = MASK};
            int error;
            struct fh_scan *scan = fh_scan_run(&everything, trace, &question, &error);
            _exit(scan != NULL && question.gaps == 0 && question.counts.threads == 0 ? 0 : 1);
        }
        int status = -1;
        note(child < 0 || waitpid(child, &status, 0) != child || status != 0);
    }
    return unused;
}

static void test_forks_meanwhile_and_their_children_can_scan(void **state)
{
    (void)state;
    pthread_t forker;
    atomic_store(&is_over, false);
    atomic_store(&disturbed, 0);
    assert_int_equal(pthread_create(&forker, NULL, fork_often, NULL), 0);
    for (unsigned i = 0; i < 60; i++) {
        struct question question = {.hidden = MASK};
        run(&everything, trace, &question);
    }
    atomic_store(&is_over, true);
    pthread_join(forker, NULL);
    assert_int_equal(atomic_load(&disturbed), 0);
}

/* ---- copies ----------------------------------------------------------------------------------------------------- */

static void sweep_two(struct fh_scan *scan, void *context)
{
    const uintptr_t *hidden = context;
    fh_scan_want(scan, shown(hidden[0]));
    fh_scan_want(scan, shown(hidden[1]));
    fh_scan_sweep(scan);
}

static void test_a_copy_says_what_was_when_it_was_made(void **state)
{
    (void)state;
    int error;
    uintptr_t hidden[2] = {hide_new(64), hide_new(64)};
    a_global = shown(hidden[1]);
    scrub_stack();
    struct fh_scan *scan = fh_scan_snapshot(&everything, sweep_two, hidden, &error);
    assert_non_null(scan);
    a_global = 0; /* after the copy */
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
    assert_int_equal(errno, ECHILD);
    fh_scan_wait(scan);
    assert_true(fh_scan_is_done(scan));
    assert_int_equal(fh_scan_gaps(scan), 0);
    assert_true(fh_scan_is_wanted(scan, shown(hidden[0])));
    assert_false(fh_scan_is_wanted(scan, shown(hidden[1])));
    fh_scan_forget(scan, false);
    free_hidden(hidden[0]);
    free_hidden(hidden[1]);
}

static void end_early(struct fh_scan *scan, void *unused)
{
    (void)scan;
    (void)unused;
    fh_os_exit(1);
}

static void test_a_copy_that_ends_early_is_a_gap(void **state)
{
    (void)state;
    int error;
    struct fh_scan *scan = fh_scan_snapshot(&everything, end_early, NULL, &error);
    assert_non_null(scan);
    fh_scan_wait(scan);
    assert_int_equal(fh_scan_gaps(scan), FH_SCAN_GAP_ENDED);
    fh_scan_forget(scan, false);
}

static void test_a_signal_that_the_program_uses_is_left_to_it(void **state)
{
    (void)state;
    const struct sigaction theirs = {.sa_handler = handle};
    struct sigaction after;
    assert_int_equal(sigaction(63, &theirs, NULL), 0);
    assert_true(is_reached_from(IN_STACK));
    assert_int_equal(sigaction(63, NULL, &after), 0);
    assert_ptr_equal(after.sa_handler, handle);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_global_reaches_its_block),
        cmocka_unit_test(test_a_thread_local_reaches_its_block),
        cmocka_unit_test(test_a_key_of_pthread_reaches_its_block),
        cmocka_unit_test(test_a_mapping_reaches_its_block),
        cmocka_unit_test(test_the_stack_reaches_its_block),
        cmocka_unit_test(test_a_chain_is_followed),
        cmocka_unit_test(test_a_freed_block_reaches_nothing),
        cmocka_unit_test(test_an_address_inside_counts_unless_told_otherwise),
        cmocka_unit_test(test_a_heap_of_its_own_is_scanned),
        cmocka_unit_test(test_memory_without_access_is_left_out),
        cmocka_unit_test(test_memory_that_nobody_touched_stays_untouched),
        cmocka_unit_test(test_another_thread_without_the_address_does_not_reach_the_block),
        cmocka_unit_test(test_another_threads_stack_reaches_the_block),
        cmocka_unit_test(test_another_threads_register_reaches_the_block),
        cmocka_unit_test(test_another_threads_local_variable_reaches_the_block),
        cmocka_unit_test(test_another_threads_key_reaches_the_block),
        cmocka_unit_test(test_the_stack_of_a_thread_in_poll_reaches_the_block),
        cmocka_unit_test(test_a_register_of_a_thread_in_read_reaches_the_block),
        cmocka_unit_test(test_a_handler_on_its_own_stack_reaches_the_block),
        cmocka_unit_test(test_a_thread_that_waits_with_signals_blocked_is_seen),
        cmocka_unit_test(test_a_thread_that_runs_with_signals_blocked_is_a_gap),
        cmocka_unit_test(test_system_calls_of_stopped_threads_go_on),
        cmocka_unit_test(test_threads_with_small_stacks_come_and_go_meanwhile),
        cmocka_unit_test(test_forks_meanwhile_and_their_children_can_scan),
        cmocka_unit_test(test_a_copy_says_what_was_when_it_was_made),
        cmocka_unit_test(test_a_copy_that_ends_early_is_a_gap),
        cmocka_unit_test(test_a_signal_that_the_program_uses_is_left_to_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
