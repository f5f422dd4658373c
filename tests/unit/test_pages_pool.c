/* pages/: runs come and go, merge, split, age, and are found again from any address; planted
 * damage is found. Over a private pool, so that every granule is accounted for. */
#include "base/message.h"
#include "os/sys.h"
#include "pages/pages.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static struct fh_pages pool;

static int open_pool(void **state)
{
    (void)state;
    fh_os_init();
    memset(&pool, 0, sizeof pool);
    return fh_pages_open(&pool, fh_source_system(), (size_t)1 << 30);
}

static int close_pool(void **state)
{
    (void)state;
    int broken = fh_pages_check(&pool);
    fh_pages_close(&pool);
    return broken;
}

/* A run as a holder of one large block sets it up. */
static struct fh_run *take(size_t granules, size_t align)
{
    bool is_zero;
    struct fh_run *run = fh_pages_alloc(&pool, granules, align, &is_zero);
    if (run == NULL)
        return NULL;
    run->base = (uintptr_t)fh_run_address(&pool, run);
    run->large_bytes = granules << FH_GRANULE_SHIFT;
    run->heap = NULL;
    run->kind = FH_RUN_LARGE;
    return run;
}

static void touch(struct fh_run *run)
{
    uint32_t index = fh_run_index(&pool, run);
    for (uint32_t i = 0; i < run->span; i++) {
        fh_run_at(&pool, index + i)->dirty = 1;
        *(char *)(run->base + ((size_t)i << FH_GRANULE_SHIFT)) = 1;
    }
    fh_pages_count(&pool, run->span, 0);
}

static void give(struct fh_run *run)
{
    run->kind = FH_RUN_NONE;
    fh_pages_free(&pool, run);
}

static void test_neighbours_merge_and_are_cut_again(void **state)
{
    (void)state;
    struct fh_run *runs[8];
    for (int i = 0; i < 8; i++) {
        runs[i] = take(4, 1);
        assert_non_null(runs[i]);
        touch(runs[i]);
    }
    for (int i = 0; i < 8; i += 2)
        give(runs[i]);
    assert_int_equal(fh_pages_check(&pool), 0);
    for (int i = 1; i < 8; i += 2)
        give(runs[i]);
    assert_int_equal(fh_pages_check(&pool), 0);
    assert_int_equal(pool.used, 0);
    struct fh_run *whole = take(32, 1); /* the eight in one piece */
    assert_ptr_equal(whole, runs[0]);
    give(whole);
    struct fh_run *part = take(5, 1);
    assert_int_equal(part->span, 5);
    assert_int_equal(fh_pages_check(&pool), 0);
    give(part);
}

static void test_runs_are_aligned_as_asked(void **state)
{
    (void)state;
    struct fh_run *runs[16];
    for (int i = 0; i < 16; i++) {
        size_t align = (size_t)1 << (i % 8);
        runs[i] = take(3, align);
        assert_non_null(runs[i]);
        assert_int_equal(runs[i]->base % (align << FH_GRANULE_SHIFT), 0);
    }
    assert_int_equal(fh_pages_check(&pool), 0);
    for (int i = 0; i < 16; i++)
        give(runs[i]);
    assert_int_equal(pool.used, 0);
}

static void test_a_run_never_used_reads_as_zero_and_says_so(void **state)
{
    (void)state;
    bool is_zero = false;
    struct fh_run *run = fh_pages_alloc(&pool, 2, 1, &is_zero);
    assert_true(is_zero);
    run->base = (uintptr_t)fh_run_address(&pool, run);
    assert_int_equal(*(char *)(run->base + FH_GRANULE), 0);
    touch(run);
    give(run);
    run = fh_pages_alloc(&pool, 2, 1, &is_zero);
    assert_false(is_zero);
    give(run);
}

static void test_only_spans_old_enough_are_purged(void **state)
{
    (void)state;
    struct fh_run *first = take(8, 1), *wall = take(1, 1), *second = take(8, 1), *end = take(1, 1);
    size_t remaining;
    touch(first);
    touch(second);
    give(first);
    atomic_fetch_add(&pool.tick, 4);
    give(second);
    size_t given = fh_pages_purge(&pool, 4, 0, &remaining);
    assert_int_equal(given, 8 << fh_os_page_shift); /* a page of each granule was touched */
    assert_int_equal(remaining, 8 * FH_GRANULE);
    assert_int_equal(fh_pages_purge(&pool, 4, 0, &remaining), 0);
    assert_int_equal(fh_pages_purge(&pool, 0, 8 * FH_GRANULE, &remaining), 0); /* kept */
    assert_int_equal(fh_pages_purge(&pool, 0, 0, &remaining), 8 << fh_os_page_shift);
    assert_int_equal(remaining, 0);
    give(wall);
    give(end);
}

static void test_a_run_is_lengthened_into_free_space_only(void **state)
{
    (void)state;
    struct fh_run *run = take(4, 1), *next = take(4, 1), *wall = take(1, 1);
    assert_false(fh_pages_extend(&pool, run, 1));
    give(next);
    assert_true(fh_pages_extend(&pool, run, 3));
    assert_int_equal(run->span, 7);
    assert_false(fh_pages_extend(&pool, run, 2));
    assert_ptr_equal(fh_pages_find((void *)(run->base + 7 * FH_GRANULE - 1), NULL), run);
    fh_pages_shorten(&pool, run, 2);
    assert_int_equal(run->span, 2);
    assert_null(fh_pages_find((void *)(run->base + 2 * FH_GRANULE), NULL));
    assert_int_equal(fh_pages_check(&pool), 0);
    give(run);
    give(wall);
    assert_int_equal(pool.used, 0);
}

static void test_addresses_find_their_run_and_foreign_ones_find_none(void **state)
{
    (void)state;
    static char static_memory[16];
    char on_stack[16];
    struct fh_pages *found;
    struct fh_run *run = take(3, 1);
    assert_ptr_equal(fh_pages_find((void *)run->base, &found), run);
    assert_ptr_equal(found, &pool);
    assert_ptr_equal(fh_pages_find((void *)(run->base + 3 * FH_GRANULE - 1), NULL), run);
    assert_ptr_equal(fh_pages_find((void *)(run->base + FH_GRANULE + 5), NULL), run);
    const void *foreign[] = {NULL,
                             (void *)1,
                             static_memory,
                             on_stack,
                             (void *)UINTPTR_MAX,
                             (void *)(pool.base), /* headers */
                             (void *)(uintptr_t)0x123456789abc,
                             (void *)0xffff888000000000u};
    for (size_t i = 0; i < sizeof foreign / sizeof foreign[0]; i++) {
        assert_null(fh_pages_find(foreign[i], &found));
        assert_null(found);
    }
    uintptr_t base = run->base;
    give(run);
    assert_null(fh_pages_find((void *)base, NULL));
}

static void test_a_huge_run_is_found_from_everywhere_inside(void **state)
{
    (void)state;
    const size_t granules = 3 * FH_HUGE_SPAN + 77;
    struct fh_run *before = take(5, 1), *run = take(granules, 1), *after = take(1, 1);
    assert_non_null(run);
    for (size_t i = 0; i < granules; i += 13)
        assert_ptr_equal(fh_pages_find((void *)(run->base + (i << FH_GRANULE_SHIFT) + 99), NULL),
                         run);
    assert_ptr_equal(fh_pages_find((void *)(run->base + (granules << FH_GRANULE_SHIFT) - 1), NULL),
                     run);
    assert_ptr_equal(fh_pages_find((void *)before->base, NULL), before);
    assert_ptr_equal(fh_pages_find((void *)after->base, NULL), after);
    assert_int_equal(fh_pages_check(&pool), 0);
    *(char *)run->base = 1;
    give(run);
    bool is_zero;
    run = fh_pages_alloc(&pool, granules, 1, &is_zero);
    assert_true(is_zero); /* given back at once */
    assert_int_equal(*(char *)fh_run_address(&pool, run), 0);
    give(run);
    give(before);
    give(after);
    assert_int_equal(pool.used, 0);
}

static void test_an_exhausted_pool_says_no_and_recovers(void **state)
{
    (void)state;
    struct fh_run *runs[64];
    size_t count = 0;
    while (count < 64 && (runs[count] = take(512, 1)) != NULL)
        count++;
    assert_true(count > 16 && count < 64);
    assert_null(take(512, 1));
    assert_null(take(pool.limit + (size_t)1, 1));
    assert_null(take(0, 1));
    assert_int_equal(fh_pages_check(&pool), 0);
    give(runs[count / 2]);
    runs[count / 2] = take(512, 1);
    assert_non_null(runs[count / 2]);
    while (count-- > 0)
        give(runs[count]);
    assert_int_equal(fh_pages_check(&pool), 0);
}

static void test_planted_damage_is_found(void **state)
{
    (void)state;
    struct fh_run *run = take(6, 1), *wall = take(1, 1);
    uint32_t index = fh_run_index(&pool, run);
    fh_message_to(-1);

    fh_run_at(&pool, index + 3)->head = index + 1;
    assert_true(fh_pages_check(&pool) > 0);
    fh_run_at(&pool, index + 3)->head = index;
    assert_int_equal(fh_pages_check(&pool), 0);

    touch(run);
    give(run);
    fh_run_at(&pool, index + 5)->head = index + 2;
    assert_true(fh_pages_check(&pool) > 0);
    fh_run_at(&pool, index + 5)->head = index;
    pool.dirty.granules++;
    assert_true(fh_pages_check(&pool) > 0);
    pool.dirty.granules--;
    fh_message_to(2);
    assert_int_equal(fh_pages_check(&pool), 0);
    give(wall);
}

#define POOL_TEST(test) cmocka_unit_test_setup_teardown(test, open_pool, close_pool)

/* A clean row to the left of a dirty span is long enough alone: nothing of the two gets lost. */
static void test_a_row_of_both_tempers_is_cut_where_it_is_too_long(void **state)
{
    (void)state;
    struct fh_run *left = take(40, 1), *right = take(10, 1), *behind = take(1, 1);
    touch(right);
    give(left);
    give(right);
    assert_int_equal(pool.clean.granules + pool.dirty.granules, 50);
    struct fh_run *row = take(20, 1);
    assert_int_equal(pool.clean.granules + pool.dirty.granules, 30);
    assert_int_equal(pool.dirty.granules, 0); /* what is in memory is used */
    give(row);
    give(behind);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        POOL_TEST(test_neighbours_merge_and_are_cut_again),
        POOL_TEST(test_runs_are_aligned_as_asked),
        POOL_TEST(test_a_run_never_used_reads_as_zero_and_says_so),
        POOL_TEST(test_only_spans_old_enough_are_purged),
        POOL_TEST(test_a_run_is_lengthened_into_free_space_only),
        POOL_TEST(test_addresses_find_their_run_and_foreign_ones_find_none),
        POOL_TEST(test_a_huge_run_is_found_from_everywhere_inside),
        POOL_TEST(test_an_exhausted_pool_says_no_and_recovers),
        POOL_TEST(test_a_row_of_both_tempers_is_cut_where_it_is_too_long),
        POOL_TEST(test_planted_damage_is_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
