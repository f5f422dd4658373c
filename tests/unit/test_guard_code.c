/* Memory for code: what code.h promises, with two mappings and with one. */
#include "freehold/code.h"
#include "guard/guard.h"
#include "guard_faults.h"
#include "os/mem.h"
#include "told.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

static struct fh_code code;

typedef int (*function)(void);

/* Instructions that return a number below 65536; their size. */
static size_t returning(int number, unsigned char *out)
{
#if defined(__x86_64__)
    const unsigned char text[] = {0xb8, (unsigned char)number, (unsigned char)(number >> 8), 0, 0,
                                  0xc3};
#else
    const uint32_t text[] = {0x52800000u | (uint32_t)number << 5, 0xd65f03c0u};
#endif
    memcpy(out, text, sizeof text);
    return sizeof text;
}

static void write_returning(void *at, int number)
{
    unsigned char text[16];
    size_t size = returning(number, text);
    assert_int_equal(fh_code_write(&code, at, text, size), 0);
}

static int call(void *at)
{
    function run;
    memcpy(&run, &at, sizeof run);
    return run();
}

static void call_it(void *at)
{
    call(at);
}

static int open_two(void **state)
{
    (void)state;
    struct fh_code_options options = {.capacity = 1 << 20, .quarantine = 4096};
    return fh_code_init(&code, &options);
}

/* As where no code may come from a memfd: the first request that can fail is the memfd. */
static int open_one(void **state)
{
    (void)state;
    struct fh_code_options options = {.capacity = 1 << 20, .quarantine = 4096};
    fh_os_fail_after(1, false);
    int result = fh_code_init(&code, &options);
    fh_os_fail_after(0, false);
    return result;
}

static int close_it(void **state)
{
    (void)state;
    fh_os_force_features(~0u);
    fh_os_fail_after(0, false);
    return code.code != NULL && !code.is_sealed ? fh_code_destroy(&code) : 0;
}

/* ---- both kinds ------------------------------------------------------------------------------ */

static void test_what_is_written_is_executed(void **state)
{
    (void)state;
    void *seven = fh_code_alloc(&code, 16), *nine = fh_code_alloc(&code, 16);
    write_returning(seven, 7);
    write_returning(nine, 9);
    assert_int_equal(call(seven), 7);
    assert_int_equal(call(nine), 9);
    write_returning(seven, 8);
    assert_int_equal(call(seven), 8);
}

static void test_a_handle_writes_in_place(void **state)
{
    (void)state;
    void *block = fh_code_alloc(&code, 16);
    unsigned char *at = fh_code_begin_write(&code, block);
    assert_non_null(at);
    size_t size = returning(1234, at);
    assert_int_equal(fh_code_end_write(&code, block, size), 0);
    assert_int_equal(call(block), 1234);
}

static void test_code_can_not_be_written_where_it_is_executed(void **state)
{
    (void)state;
    void *block = fh_code_alloc(&code, 16);
    write_returning(block, 7);
    assert_true(can_read(block));
    assert_false(can_write(block));
}

/* Whether some mapping of the process is writable and executable. */
static bool has_writable_code(void)
{
    FILE *maps = fopen("/proc/self/maps", "re");
    char line[512];
    bool found = false;
    while (fgets(line, sizeof line, maps) != NULL)
        found = found || strstr(line, " rwx") != NULL;
    fclose(maps);
    return found;
}

static void test_no_mapping_is_ever_writable_and_executable(void **state)
{
    (void)state;
    void *block = fh_code_alloc(&code, 16);
    assert_false(has_writable_code());
    assert_non_null(fh_code_begin_write(&code, block));
    assert_false(has_writable_code());
    assert_int_equal(fh_code_end_write(&code, block, 0), 0);
    assert_false(has_writable_code());
}

static void test_unwritten_and_freed_code_traps(void **state)
{
    (void)state;
    void *block = fh_code_alloc(&code, 100);
    assert_int_not_equal(signal_of(call_it, block), 0);
    write_returning(block, 7);
    assert_int_equal(signal_of(call_it, block), 0);
    fh_code_free(&code, block);
    assert_int_not_equal(signal_of(call_it, block), 0);
    assert_int_not_equal(signal_of(call_it, (char *)block + 64), 0);
}

static void test_freed_code_is_not_reused_before_the_quarantine_is_full(void **state)
{
    (void)state;
    void *first = fh_code_alloc(&code, 1024);
    fh_code_free(&code, first);
    unsigned reused_after = 0;
    for (unsigned i = 1; i <= 100 && reused_after == 0; i++) {
        void *next = fh_code_alloc(&code, 1024);
        if (next == first)
            reused_after = i;
        fh_code_free(&code, next);
    }
    assert_in_range(reused_after, 5, 100); /* 4096 bytes wait: four others are freed before */
}

static void test_memory_in_quarantine_is_handed_out_when_there_is_no_other(void **state)
{
    void *blocks[2000];
    size_t count = 0;

    (void)state;
    while (count < 2000 && (blocks[count] = fh_code_alloc(&code, 4096)) != NULL)
        count++;
    assert_int_equal(errno, ENOMEM);
    assert_in_range(count, 250, 256);
    fh_code_free(&code, blocks[3]);
    assert_ptr_equal(fh_code_alloc(&code, 4096), blocks[3]);
}

static void test_what_is_no_block_is_reported(void **state)
{
    (void)state;
    char *block = fh_code_alloc(&code, 300);
    struct told told = told_begin();
    fh_code_free(&code, block + 64);
    assert_true(told_end(told, "interior-free"));
    told = told_begin();
    fh_code_free(&code, &told);
    assert_true(told_end(told, "invalid-free"));
    fh_code_free(&code, block);
    told = told_begin();
    fh_code_free(&code, block);
    assert_true(told_end(told, "double-free"));
}

static void test_writes_beyond_the_memory_are_refused(void **state)
{
    unsigned char text[16] = {0};

    (void)state;
    unsigned char *end = code.code + code.capacity;
    assert_int_equal(fh_code_write(&code, end - 8, text, 16), -EINVAL);
    assert_int_equal(fh_code_write(&code, code.code - 1, text, 1), -EINVAL);
    assert_int_equal(fh_code_write(&code, code.code, text, SIZE_MAX), -EINVAL);
    assert_int_equal(fh_code_write(&code, text, text, 1), -EINVAL);
    assert_null(fh_code_begin_write(&code, end));
    assert_int_equal(fh_code_end_write(&code, code.code, 1), -EINVAL);
}

static void test_sealed_code_runs_and_is_written_no_more(void **state)
{
    (void)state;
    void *block = fh_code_alloc(&code, 16);
    write_returning(block, 7);
    assert_in_range(fh_code_seal(&code), 0, 1);
    assert_int_equal(call(block), 7);
    assert_null(fh_code_begin_write(&code, block));
    assert_int_equal(errno, EPERM);
    assert_null(fh_code_alloc(&code, 16));
    assert_int_equal(fh_code_destroy(&code), -EPERM);
    assert_int_equal(fh_code_seal(&code), -EINVAL);
    if (fh_os_features() & FH_OS_SEAL)
        assert_int_equal(mprotect(code.code, fh_os_page_size, PROT_READ | PROT_WRITE), -1);
}

static void test_sealing_waits_for_writers(void **state)
{
    (void)state;
    void *block = fh_code_alloc(&code, 16);
    assert_non_null(fh_code_begin_write(&code, block));
    assert_int_equal(fh_code_seal(&code), -EBUSY);
    assert_int_equal(fh_code_end_write(&code, block, 0), 0);
}

static void rewrite_in_child(void *block)
{
    write_returning(block, 11);
    if (call(block) != 11)
        abort();
}

static void test_parent_and_child_write_their_own_code(void **state)
{
    (void)state;
    void *block = fh_code_alloc(&code, 16);
    write_returning(block, 7);
    assert_int_equal(signal_of(rewrite_in_child, block), 0);
    assert_int_equal(call(block), 7);
}

static void test_a_failing_switch_leaves_all_as_it_was(void **state)
{
    unsigned char text[16];

    (void)state;
    void *block = fh_code_alloc(&code, 16);
    write_returning(block, 7);
    size_t size = returning(8, text);
    fh_os_fail_after(1, true);
    assert_int_equal(fh_code_write(&code, block, text, size), -ENOMEM);
    assert_null(fh_code_alloc(&code, 16));
    fh_os_fail_after(0, false);
    assert_int_equal(call(block), 7);
    write_returning(block, 8);
    assert_int_equal(call(block), 8);
    assert_false(can_write(block));
}

static void test_a_report_says_that_code_is_written_by_its_handle(void **state)
{
    (void)state;
    assert_non_null(strstr(fh_region_explain(code.code), "fh_code_write"));
    assert_non_null(strstr(fh_region_explain(code.code + code.capacity), "guard page"));
}

/* ---- one kind -------------------------------------------------------------------------------- */

static void test_each_kind_is_what_it_says(void **state)
{
    (void)state;
    assert_true(fh_code_is_two_mapped(&code));
    fh_code_destroy(&code);
    open_one(NULL);
    assert_false(fh_code_is_two_mapped(&code));
    fh_code_destroy(&code);
    fh_os_fail_after(1, false);
    struct fh_code_options options = {.flags = FH_CODE_TWO_MAPPINGS};
    assert_int_equal(fh_code_init(&code, &options), -ENOTSUP);
}

/* A thread runs the code all the time while this one writes elsewhere. */
static _Atomic bool is_over;

static void *call_all_the_time(void *block)
{
    while (!atomic_load_explicit(&is_over, memory_order_relaxed))
        if (call(block) != 7)
            return block;
    return NULL;
}

static void test_other_threads_execute_while_one_writes(void **state)
{
    pthread_t thread;

    (void)state;
    void *block = fh_code_alloc(&code, 16);
    write_returning(block, 7);
    atomic_store(&is_over, false);
    assert_int_equal(pthread_create(&thread, NULL, call_all_the_time, block), 0);
    for (int i = 0; i < 2000; i++) {
        void *other = fh_code_alloc(&code, 16);
        write_returning(other, i);
        assert_int_equal(call(other), i);
        fh_code_free(&code, other);
    }
    atomic_store(&is_over, true);
    void *failed = NULL;
    pthread_join(thread, &failed);
    assert_null(failed);
}

static void test_what_nobody_writes_can_not_even_be_read_where_it_is_written(void **state)
{
    (void)state;
    assert_false(can_read(code.writable));
}

static void test_code_lies_near_where_it_is_wanted(void **state)
{
    struct fh_code near;

    (void)state;
    void *here = (void *)(uintptr_t)&test_code_lies_near_where_it_is_wanted;
    struct fh_code_options options = {.near = here};
    assert_int_equal(fh_code_init(&near, &options), 0);
    intptr_t away = (intptr_t)near.code - (intptr_t)here;
    assert_in_range(away + INT32_MAX, 0, 2 * (intptr_t)INT32_MAX);
    assert_int_equal(fh_code_destroy(&near), 0);
}

/* With the n-th request failing: one kind or the other, or a clean failure. */
static void test_each_failing_request_is_survived(void **state)
{
    (void)state;
    for (unsigned n = 1; n < 14; n++) {
        struct fh_code other;
        for (int all = 0; all < 2; all++) {
            fh_os_fail_after(n, all != 0);
            int result = fh_code_init(&other, NULL);
            fh_os_fail_after(0, false);
            if (result == 0)
                assert_int_equal(fh_code_destroy(&other), 0);
            else
                assert_null(other.code);
        }
    }
}

static void test_nonsense_is_refused(void **state)
{
    struct fh_code other;

    (void)state;
    struct fh_code_options options = {.capacity = (size_t)2 << 30};
    assert_int_equal(fh_code_init(&other, &options), -EINVAL);
    options = (struct fh_code_options){.flags = 8};
    assert_int_equal(fh_code_init(&other, &options), -EINVAL);
    assert_int_equal(fh_code_destroy(&other), -EINVAL);
}

int main(void)
{
#define WITH(open, test) cmocka_unit_test_setup_teardown(test, open, close_it)
#define WITH_EACH(test)  WITH(open_two, test), WITH(open_one, test)
    const struct CMUnitTest tests[] = {
        WITH_EACH(test_what_is_written_is_executed),
        WITH_EACH(test_a_handle_writes_in_place),
        WITH_EACH(test_code_can_not_be_written_where_it_is_executed),
        WITH_EACH(test_no_mapping_is_ever_writable_and_executable),
        WITH_EACH(test_unwritten_and_freed_code_traps),
        WITH_EACH(test_freed_code_is_not_reused_before_the_quarantine_is_full),
        WITH_EACH(test_memory_in_quarantine_is_handed_out_when_there_is_no_other),
        WITH_EACH(test_what_is_no_block_is_reported),
        WITH_EACH(test_writes_beyond_the_memory_are_refused),
        WITH_EACH(test_sealed_code_runs_and_is_written_no_more),
        WITH_EACH(test_sealing_waits_for_writers),
        WITH_EACH(test_parent_and_child_write_their_own_code),
        WITH_EACH(test_a_failing_switch_leaves_all_as_it_was),
        WITH_EACH(test_a_report_says_that_code_is_written_by_its_handle),
        WITH(open_two, test_each_kind_is_what_it_says),
        WITH(open_two, test_other_threads_execute_while_one_writes),
        WITH(open_two, test_what_nobody_writes_can_not_even_be_read_where_it_is_written),
        WITH(open_two, test_code_lies_near_where_it_is_wanted),
        WITH(open_two, test_each_failing_request_is_survived),
        WITH(open_two, test_nonsense_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
