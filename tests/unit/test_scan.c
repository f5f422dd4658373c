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
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
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

/* ---- blocks that point to blocks ----------------------------------------------------------------------- */

static void test_a_chain_is_followed(void **state)
{
    (void)state;
    uintptr_t last = hide_new(64), middle = hide_new(40000), first = hide_new(200000);
    ((uintptr_t *)shown(first))[20000] = shown(middle);
    ((uintptr_t *)shown(middle))[4000] = shown(last);
    assert_false(is_reached_with(&everything, last));
    a_global = shown(first);
    assert_true(is_reached_with(&everything, last));
    ((uintptr_t *)shown(middle))[4000] = 0;
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
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
