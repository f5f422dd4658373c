/*
 * base/message: the formatter says what printf says for the conversions it knows, cuts and never
 * overruns; a message is one write, one line.
 */
#include "base/message.h"
#include "os/sys.h"

#include <limits.h>
#include <setjmp.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static int start_os(void **state)
{
    (void)state;
    fh_os_init();
    return 0;
}

/* Formats by both and expects the same text and length. */
#define EXPECT_AS_PRINTF(...)                                                                      \
    do {                                                                                           \
        char ours[256], theirs[256];                                                               \
        size_t len = fh_format(ours, sizeof(ours), __VA_ARGS__);                                   \
        snprintf(theirs, sizeof(theirs), __VA_ARGS__);                                             \
        assert_string_equal(ours, theirs);                                                         \
        assert_int_equal(len, strlen(theirs));                                                     \
    } while (0)

static void test_integers_read_as_printf_writes_them(void **state)
{
    (void)state;
    EXPECT_AS_PRINTF("%d %d %d %d", 0, -1, INT_MAX, INT_MIN);
    EXPECT_AS_PRINTF("%u %x", UINT_MAX, 0xdeadbeefu);
    EXPECT_AS_PRINTF("%ld %ld %lu", LONG_MAX, LONG_MIN, ULONG_MAX);
    EXPECT_AS_PRINTF("%lld %lld %llu", LLONG_MAX, LLONG_MIN, ULLONG_MAX);
    EXPECT_AS_PRINTF("%zu %zx %lx", (size_t)0, SIZE_MAX, 255ul);
}

static void test_pointers_read_as_printf_writes_them(void **state)
{
    (void)state;
    EXPECT_AS_PRINTF("%p %20p|%-20p|", (void *)state, (void *)0x1234, (void *)0x1234);
}

static void test_width_pads_numbers_and_strings_on_the_side_asked_for(void **state)
{
    (void)state;
    EXPECT_AS_PRINTF("|%5d|%-5d|%05d|%5d|%05d|", 42, 42, 42, -42, -42);
    EXPECT_AS_PRINTF("|%8s|%-8s|%2s|", "abc", "abc", "abc");
    EXPECT_AS_PRINTF("|%3c|%-3c|%%|", 'x', 'y');
    EXPECT_AS_PRINTF("|%12zu|%-12lu|%012llu|%08x|", (size_t)7, 8ul, 9ull, 0xabu);
}

static void test_text_beyond_the_buffer_is_cut_and_terminated(void **state)
{
    (void)state;
    char buf[16];
    memset(buf, '#', sizeof(buf));
    size_t len = fh_format(buf, 8, "%s and %d", "more than", 8);
    assert_int_equal(len, 7);
    assert_string_equal(buf, "more th");
    assert_int_equal(buf[8], '#');
}

static void test_a_buffer_of_one_byte_holds_the_terminator(void **state)
{
    (void)state;
    char buf[2] = {'#', '#'};
    assert_int_equal(fh_format(buf, 1, "%d", 123), 0);
    assert_int_equal(buf[0], '\0');
    assert_int_equal(buf[1], '#');
}

static void test_a_buffer_of_no_bytes_is_left_alone(void **state)
{
    (void)state;
    char buf[1] = {'#'};
    assert_int_equal(fh_format(buf, 0, "%d", 123), 0);
    assert_int_equal(buf[0], '#');
}

static void test_an_enormous_width_fills_the_buffer_only(void **state)
{
    (void)state;
    char buf[32];
    /* Through a variable: the compiler would warn about the width. */
    const char *volatile format = "%99999999999999999999d";
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
#pragma GCC diagnostic ignored "-Wformat-security"
    assert_int_equal(fh_format(buf, sizeof(buf), format, 1), sizeof(buf) - 1);
    assert_int_equal(buf[0], ' ');
}

static void test_null_as_a_string_is_named(void **state)
{
    (void)state;
    char buf[32];
    const char *volatile nothing = NULL;
    fh_format(buf, sizeof(buf), "<%s>", nothing);
    assert_string_equal(buf, "<(null)>");
}

static void test_an_unknown_conversion_ends_the_formatting_visibly(void **state)
{
    (void)state;
    char buf[32];
    const char *volatile format = "a %d b %q c %d";
    fh_format(buf, sizeof(buf), format, 1, 2, 3);
    assert_string_equal(buf, "a 1 b %q c %d");
    format = "100%";
    fh_format(buf, sizeof(buf), format);
    assert_string_equal(buf, "100%");
#pragma GCC diagnostic pop
}

/* Runs nothing itself: what was written to the descriptor since it was set. */
struct capture {
    int read_end;
    int write_end;
};

static struct capture begin_capture(void)
{
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    fh_message_to(ends[1]);
    return (struct capture){ends[0], ends[1]};
}

static size_t end_capture(struct capture capture, char *buf, size_t size)
{
    fh_message_to(STDERR_FILENO);
    close(capture.write_end);
    ssize_t got = read(capture.read_end, buf, size - 1);
    assert_true(got >= 0);
    buf[got] = '\0';
    close(capture.read_end);
    return (size_t)got;
}

static void test_a_message_is_a_line_that_names_us(void **state)
{
    (void)state;
    char buf[256];
    struct capture capture = begin_capture();
    fh_message("%s %d", "answer", 42);
    end_capture(capture, buf, sizeof(buf));
    assert_string_equal(buf, "freehold: answer 42\n");
}

static void test_a_raw_message_is_the_text_alone(void **state)
{
    (void)state;
    char buf[256];
    struct capture capture = begin_capture();
    fh_message_raw("%s", "as it is");
    end_capture(capture, buf, sizeof(buf));
    assert_string_equal(buf, "as it is");
}

static void test_a_long_message_is_cut_and_still_ends_its_line(void **state)
{
    (void)state;
    char text[3000];
    memset(text, 'x', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    char buf[4096];
    struct capture capture = begin_capture();
    fh_message("%s", text);
    size_t len = end_capture(capture, buf, sizeof(buf));
    assert_true(len < sizeof(text));
    assert_int_equal(buf[len - 1], '\n');
    assert_int_equal(buf[len - 2], 'x');
}

static void test_no_descriptor_silences_messages(void **state)
{
    (void)state;
    char buf[16];
    struct capture capture = begin_capture();
    fh_message_to(-1);
    fh_message("not to be seen");
    assert_int_equal(end_capture(capture, buf, sizeof(buf)), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_integers_read_as_printf_writes_them),
        cmocka_unit_test(test_pointers_read_as_printf_writes_them),
        cmocka_unit_test(test_width_pads_numbers_and_strings_on_the_side_asked_for),
        cmocka_unit_test(test_text_beyond_the_buffer_is_cut_and_terminated),
        cmocka_unit_test(test_a_buffer_of_one_byte_holds_the_terminator),
        cmocka_unit_test(test_a_buffer_of_no_bytes_is_left_alone),
        cmocka_unit_test(test_an_enormous_width_fills_the_buffer_only),
        cmocka_unit_test(test_null_as_a_string_is_named),
        cmocka_unit_test(test_an_unknown_conversion_ends_the_formatting_visibly),
        cmocka_unit_test(test_a_message_is_a_line_that_names_us),
        cmocka_unit_test(test_a_raw_message_is_the_text_alone),
        cmocka_unit_test(test_a_long_message_is_cut_and_still_ends_its_line),
        cmocka_unit_test(test_no_descriptor_silences_messages),
    };
    return cmocka_run_group_tests(tests, start_os, NULL);
}
