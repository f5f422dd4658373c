/* base/bits and base/random: rounding at its edges, and numbers that stay below their bound. */
#include "base/core/bits.h"
#include "base/core/random.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static void test_zero_is_no_power_of_two(void **state)
{
    (void)state;
    assert_false(fh_is_pow2(0));
    assert_true(fh_is_pow2(1));
    assert_false(fh_is_pow2(3));
    assert_true(fh_is_pow2((size_t)1 << 63));
}

static void test_alignment_leaves_multiples_alone(void **state)
{
    (void)state;
    assert_int_equal(fh_align_up(4096, 4096), 4096);
    assert_int_equal(fh_align_up(4097, 4096), 8192);
    assert_int_equal(fh_align_up(0, 4096), 0);
    assert_int_equal(fh_align_down(8191, 4096), 4096);
}

static void test_checked_alignment_refuses_what_would_wrap(void **state)
{
    (void)state;
    size_t out = 0;
    assert_true(fh_align_up_checked(SIZE_MAX - 4095, 4096, &out));
    assert_true(out == SIZE_MAX - 4095);
    assert_false(fh_align_up_checked(SIZE_MAX - 4094, 4096, &out));
}

static void test_logarithm_is_the_floor(void **state)
{
    (void)state;
    assert_int_equal(fh_log2(1), 0);
    assert_int_equal(fh_log2(4095), 11);
    assert_int_equal(fh_log2(4096), 12);
    assert_int_equal(fh_log2(SIZE_MAX), 63);
}

static void test_power_of_two_ceiling(void **state)
{
    (void)state;
    assert_int_equal(fh_pow2_ceil(0), 1);
    assert_int_equal(fh_pow2_ceil(1), 1);
    assert_int_equal(fh_pow2_ceil(5), 8);
    assert_int_equal(fh_pow2_ceil(8), 8);
}

static void test_random_numbers_stay_below_their_bound_and_reach_each_value(void **state)
{
    (void)state;
    struct fh_random random;
    fh_random_seed(&random, 1);
    unsigned seen[7] = {0};
    for (int i = 0; i < 7000; i++) {
        uint32_t value = fh_random_below(&random, 7);
        assert_true(value < 7);
        seen[value]++;
    }
    for (int i = 0; i < 7; i++)
        assert_in_range(seen[i], 800, 1200);
}

static void test_a_seed_of_zero_still_gives_numbers(void **state)
{
    (void)state;
    struct fh_random random;
    fh_random_seed(&random, 0);
    assert_true(fh_random_next(&random) != fh_random_next(&random));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_zero_is_no_power_of_two),
        cmocka_unit_test(test_alignment_leaves_multiples_alone),
        cmocka_unit_test(test_checked_alignment_refuses_what_would_wrap),
        cmocka_unit_test(test_logarithm_is_the_floor),
        cmocka_unit_test(test_power_of_two_ceiling),
        cmocka_unit_test(test_random_numbers_stay_below_their_bound_and_reach_each_value),
        cmocka_unit_test(test_a_seed_of_zero_still_gives_numbers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
