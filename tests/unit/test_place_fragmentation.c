/*
 * Figures of fragmentation, against allocators whose free blocks are known by construction.
 */
#include "freehold/buddy.h"
#include "freehold/fragmentation.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* ---- an allocator that is what the test says it is ---------------------------------------------- */

struct made_up {
    struct fh_block blocks[8];
    size_t count;
    struct fh_measure measure;
    int result;
};

static int made_up_measure(void *self, struct fh_measure *out)
{
    *out = ((struct made_up *)self)->measure;
    return 0;
}

static int made_up_walk(void *self, int (*visit)(void *context, const struct fh_block *block),
                        void *context)
{
    struct made_up *made_up = self;
    for (size_t i = 0; i < made_up->count; i++)
        if (visit(context, &made_up->blocks[i]) != 0)
            return -1;
    return made_up->result;
}

static struct fh_allocator allocator_of(struct made_up *made_up)
{
    static const struct fh_allocator_ops ops = {
        .size = sizeof ops, .name = "made up", .measure = made_up_measure, .walk = made_up_walk};
    return (struct fh_allocator){&ops, made_up};
}

static void expect_near(double expected, double found)
{
    if (found < expected - 1e-12 || found > expected + 1e-12)
        fail_msg("expected %.15g, found %.15g", expected, found);
}

static struct fh_fragmentation look_at(struct made_up *made_up, size_t requested)
{
    struct fh_fragmentation look = {.size = sizeof look};
    struct fh_allocator a = allocator_of(made_up);
    assert_int_equal(fh_fragmentation_look(&a, requested, &look), 0);
    return look;
}

static void test_internal_is_rounding_and_metadata_over_requested(void **state)
{
    struct made_up made_up = {.blocks = {{(void *)16, 100, true}, {(void *)160, 60, true}},
                              .count = 2,
                              .measure = {.metadata = 40, .footprint = 400}};
    (void)state;
    struct fh_fragmentation look = look_at(&made_up, 100);
    expect_near(1.0, look.internal);
    expect_near(0.1, look.metadata_share);
    assert_int_equal(look.usable_bytes, 160);
    assert_int_equal(look.live_blocks, 2);
    expect_near(0, look_at(&made_up, 0).internal);
}

static void test_external_is_what_the_largest_block_has_not(void **state)
{
    struct made_up made_up = {
        .blocks = {{(void *)16, 300, false}, {(void *)400, 50, true}, {(void *)500, 100, false}},
        .count = 3};
    (void)state;
    struct fh_fragmentation look = look_at(&made_up, 0);
    expect_near(0.25, look.external);
    assert_int_equal(look.free_bytes, 400);
    assert_int_equal(look.largest_free, 300);
}

/* Four equal blocks: 1 - 1/√4. One block: 0. 3 and 4: 1 - 5/7. */
static void test_scatter_weighs_blocks_by_size(void **state)
{
    struct made_up four = {.blocks = {{(void *)16, 48, false},
                                      {(void *)160, 48, false},
                                      {(void *)320, 48, false},
                                      {(void *)480, 48, false}},
                           .count = 4};
    struct made_up one = {.blocks = {{(void *)16, 4096, false}}, .count = 1};
    struct made_up two = {.blocks = {{(void *)16, 3, false}, {(void *)32, 4, false}}, .count = 2};
    (void)state;
    expect_near(0.5, look_at(&four, 0).scatter);
    expect_near(0.75, look_at(&four, 0).external);
    expect_near(0, look_at(&one, 0).scatter);
    expect_near(1 - 5.0 / 7, look_at(&two, 0).scatter);
}

static void test_full_allocator_is_not_fragmented(void **state)
{
    struct made_up made_up = {.blocks = {{(void *)16, 100, true}}, .count = 1};
    (void)state;
    struct fh_fragmentation look = look_at(&made_up, 100);
    expect_near(0, look.external);
    expect_near(0, look.scatter);
    assert_int_equal(look.free_blocks, 0);
}

static void test_histogram_goes_by_powers_of_two(void **state)
{
    struct made_up made_up = {.blocks = {{(void *)16, 16, false},
                                         {(void *)48, 31, false},
                                         {(void *)96, 32, false},
                                         {(void *)160, 0, false},
                                         {(void *)192, (size_t)1 << 50, false}},
                              .count = 5};
    (void)state;
    struct fh_fragmentation look = look_at(&made_up, 0);
    assert_int_equal(look.free_count[4], 2);
    assert_int_equal(look.free_sum[4], 47);
    assert_int_equal(look.free_count[5], 1);
    assert_int_equal(look.free_count[0], 1);
    assert_int_equal(look.free_count[FH_FRAGMENTATION_BINS - 1], 1);
}

static void test_unknown_size_is_refused(void **state)
{
    struct made_up made_up = {.count = 0};
    struct fh_allocator a = allocator_of(&made_up);
    struct fh_fragmentation look = {.size = 8};
    (void)state;
    assert_int_equal(fh_fragmentation_look(&a, 0, &look), -EINVAL);
}

static void test_walk_that_fails_is_told(void **state)
{
    struct made_up made_up = {.result = -EBUSY};
    struct fh_allocator a = allocator_of(&made_up);
    struct fh_fragmentation look = {.size = sizeof look};
    (void)state;
    assert_int_equal(fh_fragmentation_look(&a, 0, &look), -EBUSY);
}

/* ---- the account -------------------------------------------------------------------------------- */

static _Alignas(4096) unsigned char memory[1 << 20], table[64 << 10];
static struct fh_buddy buddy;
static struct fh_account account;

static struct fh_allocator open_account(struct fh_place_options table_options)
{
    struct fh_buddy_options options = {.place = FH_PLACE_BUFFER(memory, sizeof memory)};
    assert_int_equal(fh_buddy_init(&buddy, &options), 0);
    struct fh_account_options account_options = {.inner = fh_buddy_allocator(&buddy),
                                                 .table = table_options};
    assert_int_equal(fh_account_init(&account, &account_options), 0);
    return fh_account_allocator(&account);
}

static void test_account_knows_what_is_requested(void **state)
{
    struct fh_allocator a = open_account((struct fh_place_options){0});
    (void)state;
    void *one = fh_alloc(&a, 33), *two = fh_alloc_aligned(&a, 100, 256);
    assert_int_equal(account.live_requested, 133);
    assert_int_equal(fh_account_requested(&account, two), 100);
    one = fh_resize(&a, one, 70);
    assert_int_equal(account.live_requested, 170);
    fh_free(&a, two);
    assert_int_equal(account.live_requested, 70);
    assert_int_equal(account.peak_requested, 170);
    assert_int_equal(account.live_blocks, 1);
    assert_int_equal(fh_account_requested(&account, two), 0);
    assert_int_equal(fh_allocator_check(&a), 0);
    fh_allocator_destroy(&a);
}

/* 48 bytes of which 33 are requested, and so on: the figures of a look follow from the sizes. */
static void test_account_looks_at_the_inner_allocator(void **state)
{
    struct fh_allocator a = open_account((struct fh_place_options){0});
    struct fh_fragmentation look = {.size = sizeof look};
    (void)state;
    for (int i = 0; i < 100; i++)
        assert_non_null(fh_alloc(&a, 33)); /* a buddy system makes 64 of them */
    assert_int_equal(fh_account_look(&account, &look), 0);
    assert_int_equal(look.requested_bytes, 3300);
    assert_int_equal(look.usable_bytes, 6400);
    expect_near((6400.0 + (double)look.metadata) / 3300 - 1, look.internal);
    assert_int_equal(look.peak_requested, 3300);
    fh_allocator_destroy(&a);
}

/* More blocks than the first table has, freed in another order: the table grows and forgets nothing. */
static void test_account_of_many_blocks(void **state)
{
    enum { COUNT = 12000 };
    static void *blocks[COUNT];
    struct fh_allocator a = open_account((struct fh_place_options){0});
    (void)state;
    for (size_t i = 0; i < COUNT; i++)
        assert_non_null(blocks[i] = fh_alloc(&a, 1 + i % 16));
    assert_int_equal(fh_allocator_check(&a), 0);
    for (size_t i = 0; i < COUNT; i++)
        assert_int_equal(fh_account_requested(&account, blocks[i]), 1 + i % 16);
    for (size_t i = 0; i < COUNT; i++) {
        size_t at = i * 7919 % COUNT;
        fh_free_sized(&a, blocks[at], 1 + at % 16, 0);
        if (i % 1000 == 0)
            assert_int_equal(fh_allocator_check(&a), 0);
    }
    assert_int_equal(account.live_requested, 0);
    assert_int_equal(account.live_blocks, 0);
    assert_int_equal(fh_allocator_check(&a), 0);
    fh_allocator_destroy(&a);
}

static void test_account_in_a_buffer_is_full_at_its_end(void **state)
{
    size_t count = 0;
    struct fh_allocator a = open_account(FH_PLACE_BUFFER(table, 1024));
    (void)state;
    while (fh_alloc(&a, 16) != NULL)
        count++;
    assert_int_equal(errno, ENOMEM);
    assert_int_equal(count, 1024 / 16 - 1);
    assert_int_equal(account.live_blocks, count);
    assert_int_equal(fh_allocator_check(&a), 0);
    fh_allocator_destroy(&a);
}

static void test_account_survives_reset(void **state)
{
    struct fh_allocator a = open_account((struct fh_place_options){0});
    (void)state;
    void *block = fh_alloc(&a, 1000);
    fh_allocator_reset(&a);
    assert_int_equal(account.live_requested, 0);
    assert_int_equal(fh_account_requested(&account, block), 0);
    assert_int_equal(account.peak_requested, 1000);
    assert_non_null(fh_alloc(&a, 10));
    assert_int_equal(fh_allocator_check(&a), 0);
    fh_allocator_destroy(&a);
}

/* ---- the smallest arena ------------------------------------------------------------------------- */

struct threshold {
    size_t least;
    unsigned runs;
};

static bool fits_from(void *context, size_t capacity)
{
    struct threshold *threshold = context;
    threshold->runs++;
    return capacity >= threshold->least;
}

static void test_minimum_capacity_is_found_by_halving(void **state)
{
    struct threshold threshold = {.least = 123456};
    size_t found = 0;
    (void)state;
    assert_int_equal(fh_minimum_capacity(fits_from, &threshold, 0, 1 << 20, 16, &found), 0);
    assert_int_equal(found, 123456);
    assert_in_range(threshold.runs, 1, 18);
    threshold.least = 100;
    assert_int_equal(fh_minimum_capacity(fits_from, &threshold, 1000, 2000, 16, &found), 0);
    assert_int_equal(found, 1008);
}

static void test_workload_that_never_fits_is_enomem(void **state)
{
    struct threshold threshold = {.least = SIZE_MAX};
    size_t found = 7;
    (void)state;
    assert_int_equal(fh_minimum_capacity(fits_from, &threshold, 0, 4096, 16, &found), -ENOMEM);
    assert_int_equal(found, 7);
    assert_int_equal(fh_minimum_capacity(fits_from, &threshold, 4096, 0, 16, &found), -EINVAL);
    assert_int_equal(fh_minimum_capacity(fits_from, &threshold, 0, 4096, 0, &found), -EINVAL);
}

/* n = 1: no allocator loses anything. n = 1024, M = 4096: 4096 × 6 − 1023. */
static void test_robson_bound(void **state)
{
    (void)state;
    assert_int_equal(fh_robson_bound(4096, 1, 1), 4096);
    assert_int_equal(fh_robson_bound(4096, 1024, 1), 4096 * 6 - 1023);
    assert_int_equal(fh_robson_bound(4096 * 16, 1024 * 16, 16), (4096 * 6 - 1023) * 16);
    assert_int_equal(fh_robson_bound(16, 1024, 16), 0);
    assert_int_equal(fh_robson_bound(16, 8, 0), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_internal_is_rounding_and_metadata_over_requested),
        cmocka_unit_test(test_external_is_what_the_largest_block_has_not),
        cmocka_unit_test(test_scatter_weighs_blocks_by_size),
        cmocka_unit_test(test_full_allocator_is_not_fragmented),
        cmocka_unit_test(test_histogram_goes_by_powers_of_two),
        cmocka_unit_test(test_unknown_size_is_refused),
        cmocka_unit_test(test_walk_that_fails_is_told),
        cmocka_unit_test(test_account_knows_what_is_requested),
        cmocka_unit_test(test_account_looks_at_the_inner_allocator),
        cmocka_unit_test(test_account_of_many_blocks),
        cmocka_unit_test(test_account_in_a_buffer_is_full_at_its_end),
        cmocka_unit_test(test_account_survives_reset),
        cmocka_unit_test(test_minimum_capacity_is_found_by_halving),
        cmocka_unit_test(test_workload_that_never_fits_is_enomem),
        cmocka_unit_test(test_robson_bound),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
