/* Suppressions: which errors a line covers, how often, and what is said of lines that are none. */
#include "base/message.h"
#include "guard/report.h"
#include "os/sys.h"
#include "stack/stack.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char lines[] = "# what is known\n"
                            "\n"
                            "double-free:inner_function\n"
                            "heap-*:outer_*  max=2\n"
                            "invalid-free:*/libc.so.?\tmax=0\n"
                            "size-mismatch:*x*e*r_function # a comment\n"
                            "no colon\n"
                            ":no_kind\n"
                            "no-glob:\n"
                            "double-free:f max=many\n"
                            "wild-access:*"; /* without an end of line */

static char said[4096];
static size_t said_len;
static struct fh_report report;
static struct fh_error error;

static void listen(int fd, const char *text, size_t len)
{
    (void)fd;
    if (said_len + len < sizeof said)
        memcpy(said + said_len, text, len);
    said_len += len;
    said[said_len] = 0;
}

static __attribute__((noinline)) void inner_function(void)
{
    report.access.len = fh_stack_capture(NULL, report.access.frames, 1, 0);
    __asm__ volatile("");
}

static __attribute__((noinline)) void outer_function(void)
{
    report.allocation.len = fh_stack_capture(NULL, report.allocation.frames, 1, 0);
    inner_function();
    __asm__ volatile("");
}

static int find(const char *kind)
{
    error.kind = kind;
    return fh_suppress_find(&report);
}

static int read_lines(void **state)
{
    (void)state;
    char path[] = "/tmp/freehold-suppress.XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0 && write(fd, lines, strlen(lines)) == (ssize_t)strlen(lines));
    close(fd);
    fh_os_init();
    fh_message_write_hook = listen;
    int result = fh_suppress_from(path);
    unlink(path);
    report.error = &error;
    outer_function();
    return result;
}

static void test_a_function_of_the_access_is_found(void **state)
{
    (void)state;
    assert_int_equal(find("double-free"), 0);
    assert_int_equal(find("double-freed"), -1);
    assert_int_equal(find("interior-free"), -1);
}

static void test_a_function_of_the_allocation_is_found(void **state)
{
    (void)state;
    assert_int_equal(find("heap-buffer-overflow"), 1);
    assert_int_equal(find("heap-use-after-free"), 1);
    assert_int_equal(find("cheap-use"), -1);
}

static void test_stars_go_back_as_far_as_they_must(void **state)
{
    (void)state;
    assert_int_equal(find("size-mismatch"), -1); /* no x in either name */
    assert_int_equal(find("wild-access"), 4);
}

static void test_a_maximum_is_kept(void **state)
{
    (void)state;
    assert_true(fh_suppress_count(1));
    assert_true(fh_suppress_count(1));
    assert_false(fh_suppress_count(1));
    assert_false(fh_suppress_count(2));
    assert_true(fh_suppress_count(0));
    assert_int_equal(fh_suppress_total(), 3);
}

static void test_lines_that_are_none_are_said(void **state)
{
    (void)state;
    assert_non_null(strstr(said, ":7: expected KIND:GLOB"));
    assert_non_null(strstr(said, ":8: expected KIND:GLOB"));
    assert_non_null(strstr(said, ":9: expected KIND:GLOB"));
    assert_non_null(strstr(said, ":10: after KIND:GLOB only max=N may follow"));
    assert_null(strstr(said, ":6:"));
}

static void test_only_one_file_is_read(void **state)
{
    (void)state;
    assert_true(fh_suppress_from("/dev/null") < 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_function_of_the_access_is_found),
        cmocka_unit_test(test_a_function_of_the_allocation_is_found),
        cmocka_unit_test(test_stars_go_back_as_far_as_they_must),
        cmocka_unit_test(test_a_maximum_is_kept),
        cmocka_unit_test(test_lines_that_are_none_are_said),
        cmocka_unit_test(test_only_one_file_is_read),
    };
    return cmocka_run_group_tests(tests, read_lines, NULL);
}
