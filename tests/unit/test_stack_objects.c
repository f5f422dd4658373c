/* Where objects on the stack and static ones end, as far as that can be known. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "stack/objects.h"

#include "stack/region.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

#define NOINLINE __attribute__((noinline))

/* ---- static objects --------------------------------------------------------------------------- */

static char table[100];
static int number = 1;
static const char constant[33] = "constant";
static struct {
    int first;
    char text[20];
} whole = {1, "text"};
char behind_the_alias[64] = {1};
extern char part[8] __attribute__((alias("behind_the_alias")));
static char element[4] __attribute__((section("elements"), used));

static void expect_object(const void *address, const void *low, size_t size)
{
    struct fh_static_object object;
    assert_true(fh_static_object_at((uintptr_t)address, &object));
    assert_int_equal(object.low, (uintptr_t)low);
    assert_int_equal(object.high, (uintptr_t)low + size);
}

static void test_a_static_object_has_the_size_of_its_symbol(void **state)
{
    (void)state;
    expect_object(table, table, sizeof table);
    expect_object(&table[99], table, sizeof table);
    expect_object(&number, &number, sizeof number);
    expect_object(constant + 3, constant, sizeof constant);
    expect_object(&whole.text, &whole, sizeof whole);
}

static void test_an_alias_of_a_part_does_not_bound_the_whole(void **state)
{
    (void)state;
    expect_object(part, behind_the_alias, sizeof behind_the_alias);
}

static void test_an_element_of_a_section_of_its_own_is_not_known(void **state)
{
    struct fh_static_object object;
    (void)state;
    assert_false(fh_static_object_at((uintptr_t)element, &object));
}

static void test_what_is_no_static_object_is_not_known(void **state)
{
    struct fh_static_object object;
    char variable;
    (void)state;
    assert_false(fh_static_object_at((uintptr_t)&variable, &object));
    assert_false(fh_static_object_at(0, &object));
    assert_false(
        fh_static_object_at((uintptr_t)test_what_is_no_static_object_is_not_known, &object));
}

static void test_a_static_object_has_a_name(void **state)
{
    struct fh_static_object object;
    char name[32];
    (void)state;
    assert_true(fh_static_object_at((uintptr_t)table, &object));
    assert_true(fh_static_object_name(name, sizeof name, &object));
    assert_string_equal(name, "table");
}

static void test_a_library_without_a_file_of_symbols_knows_its_exported_objects(void **state)
{
    struct fh_static_object object;
    (void)state;
    /* libc's own variable, or the program's copy of it. */
    assert_true(fh_static_object_at((uintptr_t)&environ, &object));
    assert_int_equal(object.high - object.low, sizeof environ);
}

static void test_errno_is_kept(void **state)
{
    struct fh_static_object object;
    (void)state;
    errno = 4711;
    fh_static_object_at((uintptr_t)table, &object);
    fh_static_object_at((uintptr_t)test_errno_is_kept, &object);
    assert_int_equal(errno, 4711);
}

/* ---- stacks ----------------------------------------------------------------------------------- */

/* Asks from a function called by the one that has the object. */
static NOINLINE bool ask(const void *address, struct fh_stack_bound *bound)
{
    const uintptr_t *here = __builtin_frame_address(0);
    const struct fh_stack_frame from = {here[1], (uintptr_t)(here + 2), here[0]};
    struct fh_stack_region region;
    if (!fh_stack_region_own((uintptr_t)here, &region))
        return false;
    return fh_stack_object_bound(&from, region, (uintptr_t)address, bound);
}

static NOINLINE void expect_variables_below_the_saved_words(void)
{
    char variable[100];
    struct fh_stack_bound bound;
    const uintptr_t return_address_at = (uintptr_t)__builtin_frame_address(0) + 8;
    memset(variable, 0, sizeof variable);
    assert_true(ask(variable, &bound));
    assert_true(bound.saved >= (uintptr_t)variable + sizeof variable);
    assert_true(bound.saved <= return_address_at - 8); /* the frame pointer is saved too */
    assert_int_equal(bound.cfa, return_address_at + 8);
    assert_int_equal(bound.frame, *(const uintptr_t *)return_address_at);
}

static void test_a_frames_variables_lie_below_what_it_saved(void **state)
{
    (void)state;
#ifdef __SANITIZE_ADDRESS__
    skip(); /* its variables lie elsewhere */
#endif
    expect_variables_below_the_saved_words();
}

static NOINLINE void pass_down(int depth, const char *far, size_t size)
{
    struct fh_stack_bound bound;
    volatile char here[64];
    here[0] = (char)depth;
    if (depth > 0) {
        pass_down(depth - 1, far, size);
        here[1] = 1;
        return;
    }
    assert_true(ask(far, &bound));
    assert_true(bound.saved >= (uintptr_t)far + size);
    assert_true(bound.low > (uintptr_t)here);
}

static void test_the_frame_is_found_from_far_below(void **state)
{
    char far[200];
    (void)state;
#ifdef __SANITIZE_ADDRESS__
    skip();
#endif
    memset(far, 0, sizeof far);
    pass_down(20, far, sizeof far);
}

static void test_what_a_frame_saved_is_nobodys_object(void **state)
{
    struct fh_stack_bound bound;
    (void)state;
    assert_false(ask((const char *)__builtin_frame_address(0) + 8, &bound));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_static_object_has_the_size_of_its_symbol),
        cmocka_unit_test(test_an_alias_of_a_part_does_not_bound_the_whole),
        cmocka_unit_test(test_an_element_of_a_section_of_its_own_is_not_known),
        cmocka_unit_test(test_what_is_no_static_object_is_not_known),
        cmocka_unit_test(test_a_static_object_has_a_name),
        cmocka_unit_test(test_a_library_without_a_file_of_symbols_knows_its_exported_objects),
        cmocka_unit_test(test_errno_is_kept),
        cmocka_unit_test(test_a_frames_variables_lie_below_what_it_saved),
        cmocka_unit_test(test_the_frame_is_found_from_far_below),
        cmocka_unit_test(test_what_a_frame_saved_is_nobodys_object),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
