/*
 * The JSON writer: commas, escapes, what is no UTF-8, and a buffer that is too small at every
 * length.
 */
#include "base/json.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void write_sample(struct fh_json *json)
{
    fh_json_open(json, NULL, '{');
    fh_json_number(json, "n", UINT64_MAX);
    fh_json_open(json, "a", '[');
    fh_json_open(json, NULL, '{');
    fh_json_close(json, '}');
    fh_json_open(json, NULL, '{');
    fh_json_number(json, "k", 0);
    fh_json_close(json, '}');
    fh_json_close(json, ']');
    fh_json_string(json, "s", "x");
    fh_json_close(json, '}');
}

static const char sample[] = "{\"n\":18446744073709551615,\"a\":[{},{\"k\":0}],\"s\":\"x\"}";

static void test_commas_stand_between_members_only(void **state)
{
    char text[256];
    struct fh_json json;
    (void)state;
    fh_json_begin(&json, text, sizeof(text));
    write_sample(&json);
    assert_false(json.is_cut);
    assert_int_equal(json.len, strlen(sample));
    assert_memory_equal(text, sample, json.len);
}

static void test_cut_text_is_a_beginning_and_says_so(void **state)
{
    (void)state;
    for (size_t size = 1; size <= sizeof(sample); size++) {
        char text[sizeof(sample) + 1];
        struct fh_json json;
        memset(text, '#', sizeof(text));
        fh_json_begin(&json, text, size);
        write_sample(&json);
        assert_int_equal(json.is_cut, size < sizeof(sample));
        assert_true(json.len < size);
        assert_memory_equal(text, sample, json.len);
        assert_int_equal(text[size], '#');
    }
}

static void assert_string_becomes(const char *string, const char *expected)
{
    char text[256];
    struct fh_json json;
    fh_json_begin(&json, text, sizeof(text));
    fh_json_string(&json, NULL, string);
    text[json.len] = '\0';
    assert_string_equal(text, expected);
}

static void test_strings_are_escaped(void **state)
{
    (void)state;
    assert_string_becomes("", "\"\"");
    assert_string_becomes("a\"b\\c/", "\"a\\\"b\\\\c/\"");
    assert_string_becomes("\n\t\x01", "\"\\u000a\\u0009\\u0001\"");
}

static void test_what_is_no_utf8_becomes_question_marks(void **state)
{
    (void)state;
    assert_string_becomes("g\xc3\xbcn \xe2\x82\xac \xf0\x9f\x8c\xb3",
                          "\"g\xc3\xbcn \xe2\x82\xac \xf0\x9f\x8c\xb3\"");
    assert_string_becomes("\x80", "\"?\"");                /* a continuation alone */
    assert_string_becomes("\xc3", "\"?\"");                /* cut off by the end */
    assert_string_becomes("\xe2\x82", "\"??\"");           /* the same, later */
    assert_string_becomes("\xc0\xaf", "\"??\"");           /* overlong */
    assert_string_becomes("\xed\xa0\x80", "\"???\"");      /* a surrogate */
    assert_string_becomes("\xf4\x90\x80\x80", "\"????\""); /* beyond the last code point */
    assert_string_becomes("\xff", "\"?\"");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_commas_stand_between_members_only),
        cmocka_unit_test(test_cut_text_is_a_beginning_and_says_so),
        cmocka_unit_test(test_strings_are_escaped),
        cmocka_unit_test(test_what_is_no_utf8_becomes_question_marks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
