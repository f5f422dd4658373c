/* Tags in pointers: what pointer_tag.h promises everywhere; colours of memory are tests/aarch64's. */
#include "freehold/pointer_tag.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static void test_a_pointer_that_was_tagged_is_found_again(void **state)
{
    int object;

    (void)state;
    for (unsigned tag = 0; tag < FH_TAGS; tag++) {
        void *tagged = fh_tag(&object, tag);
        assert_int_equal(fh_tag_of(tagged), tag);
        assert_ptr_equal(fh_untag(tagged), &object);
    }
}

static void test_pointers_have_no_tag_by_themselves(void **state)
{
    static int in_data;
    void *in_heap = malloc(10);

    (void)state;
    assert_int_equal(fh_tag_of(&in_data), 0);
    assert_int_equal(fh_tag_of(in_heap), 0);
    assert_int_equal(fh_tag_of(&state), 0);
    assert_ptr_equal(fh_untag(in_heap), in_heap);
    free(in_heap);
}

static void test_a_tag_replaces_the_one_before(void **state)
{
    int object;

    (void)state;
    assert_ptr_equal(fh_tag(fh_tag(&object, 5), 10), fh_tag(&object, 10));
    assert_ptr_equal(fh_tag(fh_tag(&object, 5), 0), &object);
}

static void test_only_the_low_bits_of_a_number_are_the_tag(void **state)
{
    int object;

    (void)state;
    assert_int_equal(fh_tag_of(fh_tag(&object, FH_TAGS * 3 + 2)), 2);
    assert_ptr_equal(fh_untag(fh_tag(&object, ~0u)), &object);
}

static void test_retag_counts_and_wraps(void **state)
{
    int object;
    void *tagged = &object;

    (void)state;
    for (unsigned i = 1; i < FH_TAGS; i++) {
        tagged = fh_retag(tagged);
        assert_int_equal(fh_tag_of(tagged), i);
    }
    assert_ptr_equal(fh_retag(tagged), &object);
}

static void test_null_is_null_under_any_tag(void **state)
{
    (void)state;
    assert_null(fh_untag(fh_tag(NULL, 7)));
}

/* The kernel's word must be true: where tags are said to be ignored, a tagged pointer works. In a child, since this
 * can't be undone. */
static void test_tags_are_ignored_where_that_is_said(void **state)
{
    (void)state;
    pid_t child = fork();
    if (child == 0) {
        volatile int object = 42;
        int error = fh_tags_ignore();
        if (error != 0)
            _exit(error == -ENOTSUP && errno == ENOTSUP ? 0 : 1);
        _exit(*(volatile int *)fh_tag((const int *)(uintptr_t)&object, 3) == 42 ? 0 : 2);
    }
    int status = -1;
    waitpid(child, &status, 0);
    assert_int_equal(status, 0);
}

static void test_without_memory_tags_pointers_stay_as_they_are(void **state)
{
    static _Alignas(4096) unsigned char memory[8192];
    struct fh_mte_range range = {memory, memory + sizeof memory};

    (void)state;
    if (fh_mte_is_on())
        skip();
    assert_int_equal(fh_mte_prepare(memory + 1, sizeof memory), -EINVAL);
#if !defined(__aarch64__)
    assert_int_equal(fh_mte_start(), -ENOTSUP);
    assert_int_equal(fh_mte_prepare(memory, sizeof memory), -ENOTSUP);
    assert_ptr_equal(fh_mte_colour(&range, memory + 64, 64), memory + 64);
    assert_ptr_equal(fh_mte_pointer(memory + 64), memory + 64);
    assert_ptr_equal(fh_mte_plain(fh_tag(memory, 3)), memory);
#endif
    (void)range;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_pointer_that_was_tagged_is_found_again),
        cmocka_unit_test(test_pointers_have_no_tag_by_themselves),
        cmocka_unit_test(test_a_tag_replaces_the_one_before),
        cmocka_unit_test(test_only_the_low_bits_of_a_number_are_the_tag),
        cmocka_unit_test(test_retag_counts_and_wraps),
        cmocka_unit_test(test_null_is_null_under_any_tag),
        cmocka_unit_test(test_tags_are_ignored_where_that_is_said),
        cmocka_unit_test(test_without_memory_tags_pointers_stay_as_they_are),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
