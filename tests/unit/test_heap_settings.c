/* heap/settings: names and values by fh_ctl, and FREEHOLD at the start of a process. */
#include "base/message.h"
#include "freehold/freehold.h"
#include "os/sys.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static void see_value(const char *name, const char *value)
{
    char text[64];
    int length = fh_ctl_get(name, text, sizeof text);
    assert_int_equal(length, strlen(value));
    assert_string_equal(text, value);
}

static void set_and_see(const char *name, const char *value)
{
    assert_int_equal(fh_ctl_set(name, value), 0);
    see_value(name, value);
}

static void test_each_value_can_be_set_and_read_back(void **state)
{
    (void)state;
    static const char *const values[][2] = {
        {"decay", "0"},           {"decay", "-1"},          {"decay", "500"},
        {"huge", "always"},       {"huge", "never"},        {"huge", "auto"},
        {"on_foreign", "warn"},   {"on_foreign", "ignore"}, {"on_foreign", "forward"},
        {"on_foreign", "abort"},  {"on_error", "continue"}, {"on_error", "exit=0"},
        {"on_error", "exit=255"}, {"on_error", "abort"},
    };
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++)
        set_and_see(values[i][0], values[i][1]);
}

static void test_a_wrong_value_changes_nothing(void **state)
{
    (void)state;
    static const char *const wrong[][2] = {
        {"decay", ""},
        {"decay", "-"},
        {"decay", "-2"},
        {"decay", "1e3"},
        {"decay", " 1"},
        {"decay", "1 "},
        {"decay", "9999999999999"},
        {"huge", "yes"},
        {"huge", ""},
        {"on_foreign", "eat"},
        {"on_error", "exit"},
        {"on_error", "exit="},
        {"on_error", "exit=256"},
        {"on_error", "exit=-1"},
        {"on_error", ""},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        char before[64], after[64];
        assert_true(fh_ctl_get(wrong[i][0], before, sizeof before) > 0);
        assert_int_equal(fh_ctl_set(wrong[i][0], wrong[i][1]), -EINVAL);
        assert_true(fh_ctl_get(wrong[i][0], after, sizeof after) > 0);
        assert_string_equal(before, after);
    }
}

static void test_an_unknown_name_is_said(void **state)
{
    (void)state;
    char text[8];
    assert_int_equal(fh_ctl_set("colour", "red"), -ENOENT);
    assert_int_equal(fh_ctl_get("colour", text, sizeof text), -ENOENT);
    assert_int_equal(fh_ctl_get("", text, sizeof text), -ENOENT);
}

static void test_a_value_that_does_not_fit_is_said(void **state)
{
    (void)state;
    char text[4] = "";
    assert_int_equal(fh_ctl_set("on_foreign", "abort"), 0);
    assert_int_equal(fh_ctl_get("on_foreign", text, 5), -ERANGE);
    assert_int_equal(fh_ctl_get("on_foreign", text, 0), -ERANGE);
}

/* ---- FREEHOLD ---- */

/* A process that never allocated starts the heap with FREEHOLD=value; how many lines it says. */
static int lines_said(const char *value, void (*then)(void))
{
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        close(ends[0]);
        setenv("FREEHOLD", value, 1);
        fh_os_init();
        fh_message_to(ends[1]);
        void *block = fh_malloc(100);
        fh_free_any(block);
        if (then != NULL)
            then();
        _exit(block != NULL ? 0 : 1);
    }
    close(ends[1]);
    int lines = 0;
    char text[256];
    for (ssize_t got; (got = read(ends[0], text, sizeof text)) > 0;)
        for (ssize_t i = 0; i < got; i++)
            lines += text[i] == '\n';
    close(ends[0]);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    return lines;
}

static void expect_both(void)
{
    char text[16];
    if (fh_ctl_get("decay", text, sizeof text) < 0 || strcmp(text, "77") != 0)
        _exit(2);
    if (fh_ctl_get("on_foreign", text, sizeof text) < 0 || strcmp(text, "warn") != 0)
        _exit(3);
}

static void test_what_is_right_is_taken_and_each_wrong_item_is_one_line(void **state)
{
    (void)state;
    assert_int_equal(lines_said("", NULL), 0);
    assert_int_equal(lines_said("decay=77,on-foreign=warn", expect_both), 0);
    assert_int_equal(lines_said("decay=77,nonsense=1,on_foreign=warn", expect_both), 1);
    assert_int_equal(lines_said("bad,decay=77,worse=,on_foreign=warn,huge=maybe", expect_both), 3);
    assert_int_equal(lines_said("=,=,==", NULL), 3);
    assert_int_equal(lines_said(",,,", NULL), 0);
    assert_int_equal(lines_said("log=/nowhere/at/all", NULL), 1);
    assert_int_equal(lines_said("evil=\n\x1b[2J", NULL), 1);
}

static void test_any_bytes_are_survived(void **state)
{
    (void)state;
    unsigned random = 1;
    static const char alphabet[] = "abdecylogistmhu=,,==-_%09\n\x80\xff/";
    for (int round = 0; round < 60; round++) {
        char text[1500];
        size_t length = (random = random * 1103515245 + 12345) / 65536 % (sizeof text - 1);
        for (size_t i = 0; i < length; i++)
            text[i] =
                alphabet[(random = random * 1103515245 + 12345) / 65536 % (sizeof alphabet - 1)];
        text[length] = 0;
        for (char *log; (log = strstr(text, "log=")) != NULL;)
            *log = 'x'; /* makes files */
        (void)lines_said(text, NULL);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        /* These first: they want a process that has not allocated by fh_malloc. */
        cmocka_unit_test(test_what_is_right_is_taken_and_each_wrong_item_is_one_line),
        cmocka_unit_test(test_any_bytes_are_survived),
        cmocka_unit_test(test_each_value_can_be_set_and_read_back),
        cmocka_unit_test(test_a_wrong_value_changes_nothing),
        cmocka_unit_test(test_an_unknown_name_is_said),
        cmocka_unit_test(test_a_value_that_does_not_fit_is_said),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
