/* Lines of a report: names from the dynamic symbols, from the file's symbol table, or the module
 * alone. */
#include "stack/stack.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

static uintptr_t caught[32];
static size_t caught_len;

static int catch_stack(const void *a, const void *b)
{
    (void)a;
    (void)b;
    caught_len = fh_stack_capture(NULL, caught, 32, 0);
    return 0;
}

static __attribute__((noinline)) void a_static_function(void)
{
    int numbers[2] = {1, 2};
    qsort(numbers, 2, sizeof(numbers[0]), catch_stack);
    caught[31] = 0;
}

static bool some_line_has(const char *text)
{
    char line[512];
    for (size_t i = 0; i < caught_len; i++) {
        fh_stack_describe(line, sizeof(line), i, caught[i]);
        if (strstr(line, text) != NULL)
            return true;
    }
    return false;
}

static void test_static_functions_are_named_from_the_file(void **state)
{
    (void)state;
    a_static_function();
    assert_true(some_line_has(" in catch_stack+0x"));
    assert_true(some_line_has(" a_static_function+0x"));
    assert_true(some_line_has(" main+0x"));
}

static void test_library_functions_are_named_from_dynamic_symbols(void **state)
{
    (void)state;
    a_static_function();
    assert_true(some_line_has(" qsort"));
    assert_true(some_line_has("libc.so.6+0x"));
    assert_true(some_line_has(" __libc_start_main+0x"));
}

static void test_an_address_of_nothing_is_given_as_it_is(void **state)
{
    (void)state;
    char line[64];
    fh_stack_describe(line, sizeof(line), 7, 0x1235);
    assert_string_equal(line, "#7 0x1234 in ??");
    fh_stack_describe(line, sizeof(line), 0, 0);
    assert_true(strncmp(line, "#0 ", 3) == 0);
}

static void test_a_frame_is_located_with_its_modules_build_id(void **state)
{
    (void)state;
    a_static_function();
    struct fh_stack_place place;
    fh_stack_locate(caught[0], &place);
    assert_string_equal(place.function, "catch_stack");
    assert_int_equal(place.address, caught[0] - 1);
    assert_int_equal(place.module[0], '/');
    assert_int_equal(place.build_id_len, 20);
    fh_stack_locate(0x1235, &place);
    assert_null(place.module);
}

static void test_a_short_buffer_is_never_overrun(void **state)
{
    (void)state;
    a_static_function();
    char line[16] = "...............";
    assert_true(fh_stack_describe(line, 8, 0, caught[0]) < 8);
    assert_int_equal(line[7], 0);
    assert_int_equal(line[8], '.');
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_static_functions_are_named_from_the_file),
        cmocka_unit_test(test_library_functions_are_named_from_dynamic_symbols),
        cmocka_unit_test(test_an_address_of_nothing_is_given_as_it_is),
        cmocka_unit_test(test_a_frame_is_located_with_its_modules_build_id),
        cmocka_unit_test(test_a_short_buffer_is_never_overrun),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
