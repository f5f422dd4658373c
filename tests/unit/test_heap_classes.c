/* heap/classes: every size has a class, and what a block wastes is bounded. */
#include "heap/classes.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static void test_each_size_gets_the_smallest_class_that_holds_it(void **state)
{
    (void)state;
    for (size_t size = 1; size <= FH_CLASS_MAX; size++) {
        unsigned class_index = fh_class_of(size);
        assert_in_range(class_index, 1, FH_CLASS_COUNT - 1);
        assert_true(fh_class_size(class_index) >= size);
        if (class_index > 1)
            assert_true(fh_class_size(class_index - 1) < size);
    }
    assert_int_equal(fh_class_size(FH_CLASS_COUNT - 1), FH_CLASS_MAX);
}

static void test_waste_is_an_eighth_of_the_block_or_under_sixteen_bytes(void **state)
{
    (void)state;
    for (size_t size = 1; size <= FH_CLASS_MAX; size++) {
        size_t usable = fh_class_size(fh_class_of(size)), waste = usable - size;
        if (size <= 112)
            assert_true(waste < 16);
        else
            assert_true(waste * 8 <= usable);
    }
}

static void test_every_block_is_aligned_to_sixteen(void **state)
{
    (void)state;
    for (unsigned i = 1; i < FH_CLASS_COUNT; i++)
        assert_int_equal(fh_class_size(i) % 16, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_size_gets_the_smallest_class_that_holds_it),
        cmocka_unit_test(test_waste_is_an_eighth_of_the_block_or_under_sixteen_bytes),
        cmocka_unit_test(test_every_block_is_aligned_to_sixteen),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
