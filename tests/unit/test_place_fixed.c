/* Static memory: what fixed.h promises. */
#include "base/core/poison.h"
#include "freehold/fixed.h"
#include "told.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

FH_FIXED_DEFINE(before_main, 256);
FH_FIXED_ASSERT_FITS(256, 100, 2 * FH_FIXED_TAKES(24), FH_FIXED_TAKES_ALIGNED(16, 64));

static void *taken_before_main;

__attribute__((constructor)) static void take_before_main(void)
{
    taken_before_main = fh_fixed_alloc(&before_main, 100);
}

static _Alignas(64) unsigned char memory[4096 + sizeof(struct fh_fixed_state)];
static struct fh_fixed fixed;

static int set_up(void **state)
{
    (void)state;
    return fh_fixed_init(
        &fixed, &(struct fh_fixed_options){.place = FH_PLACE_BUFFER(memory, sizeof memory)});
}

static void test_works_before_main_without_initialisation(void **state)
{
    (void)state;
    assert_non_null(taken_before_main);
    assert_true(fh_fixed_owns(&before_main, taken_before_main));
    assert_int_equal(fh_fixed_peak(&before_main), 112);
    assert_int_equal(fh_fixed_check(&before_main), 0);
}

static void test_budget_is_exact(void **state)
{
    (void)state;
    for (size_t i = 0; i < 4096 / 16; i++)
        assert_non_null(fh_fixed_alloc(&fixed, 16));
    assert_int_equal(fh_fixed_left(&fixed), 0);
    errno = 0;
    assert_null(fh_fixed_alloc(&fixed, 1));
    assert_int_equal(errno, ENOMEM);
}

static void test_asserted_sizes_do_fit(void **state)
{
    FH_FIXED_DEFINE(tight, 16 + 48 + 128 + 48);
    FH_FIXED_ASSERT_FITS(16 + 48 + 128 + 48, 1, 33, FH_FIXED_TAKES_ALIGNED(80, 64));

    (void)state;
    assert_non_null(fh_fixed_alloc(&tight, 1));
    assert_non_null(fh_fixed_alloc(&tight, 33));
    assert_non_null(fh_fixed_alloc_with(&tight, 80, 64, 0));
}

static void test_blocks_are_aligned(void **state)
{
    (void)state;
    for (size_t align = 1; align <= 1024; align *= 2) {
        assert_non_null(fh_fixed_alloc(&fixed, 1));
        assert_int_equal((uintptr_t)fh_fixed_alloc_with(&fixed, 3, align, 0) % align, 0);
    }
}

static void test_wrong_alignment_is_refused(void **state)
{
    (void)state;
    errno = 0;
    assert_null(fh_fixed_alloc_with(&fixed, 8, 24, 0));
    assert_int_equal(errno, EINVAL);
    assert_null(fh_fixed_alloc_with(&fixed, 8, FH_ALIGN_MAX * 2, 0));
}

static void test_huge_sizes_do_not_wrap(void **state)
{
    (void)state;
    for (size_t less = 0; less < 40; less++) {
        volatile size_t huge = SIZE_MAX - less; /* unknown to the compiler, which would warn */
        assert_null(fh_fixed_alloc(&fixed, huge));
        assert_null(fh_fixed_alloc_with(&fixed, huge, 4096, 0));
        void *block = fh_fixed_alloc(&fixed, 1);
        assert_null(fh_fixed_resize(&fixed, block, 1, huge, 0));
    }
    assert_int_equal(fh_fixed_peak(&fixed), 40 * 16);
}

static void test_empty_blocks_are_distinct(void **state)
{
    (void)state;
    void *one = fh_fixed_alloc(&fixed, 0), *other = fh_fixed_alloc(&fixed, 0);
    assert_ptr_not_equal(one, other);
}

static void test_last_block_goes_back(void **state)
{
    (void)state;
    fh_fixed_alloc(&fixed, 100);
    void *last = fh_fixed_alloc(&fixed, 1000);
    size_t left = fh_fixed_left(&fixed);
    fh_fixed_free(&fixed, last);
    assert_true(fh_fixed_left(&fixed) > left);
    assert_ptr_equal(fh_fixed_alloc(&fixed, 10), last);
}

static void test_sized_frees_in_reverse_give_all_back(void **state)
{
    void *blocks[20];

    (void)state;
    for (size_t i = 0; i < 20; i++)
        blocks[i] = fh_fixed_alloc(&fixed, i * 7);
    for (size_t i = 20; i-- > 0;)
        fh_fixed_free_sized(&fixed, blocks[i], i * 7, 0);
    assert_int_equal(fh_fixed_left(&fixed), 4096);
}

static void test_peak_outlives_reset(void **state)
{
    (void)state;
    fh_fixed_alloc(&fixed, 3000);
    fh_fixed_reset(&fixed);
    fh_fixed_alloc(&fixed, 10);
    assert_int_equal(fh_fixed_peak(&fixed), 3008);
    assert_int_equal(fh_fixed_left(&fixed), 4080);
}

static void test_zeroed_block_is_zero_after_use(void **state)
{
    (void)state;
    unsigned char *block = fh_fixed_alloc(&fixed, 500);
    memset(block, 0xff, 500);
    fh_fixed_free(&fixed, block);
    assert_ptr_equal(fh_fixed_alloc_with(&fixed, 500, 0, FH_ALLOC_ZEROED), block);
    for (size_t i = 0; i < 500; i++)
        assert_int_equal(block[i], 0);
}

static void test_last_block_is_resized_where_it_is(void **state)
{
    (void)state;
    unsigned char *block = fh_fixed_alloc(&fixed, 10);
    block[9] = 42;
    assert_ptr_equal(fh_fixed_resize(&fixed, block, 10, 1000, 0), block);
    assert_int_equal(block[9], 42);
    assert_ptr_equal(fh_fixed_resize(&fixed, block, 1000, 10, 0), block);
    assert_int_equal(fh_fixed_left(&fixed), 4096 - 16);
}

static void test_resize_keeps_alignment_and_content(void **state)
{
    (void)state;
    fh_fixed_alloc(&fixed, 16);
    unsigned char *block = fh_fixed_alloc_with(&fixed, 20, 256, 0);
    for (unsigned char i = 0; i < 20; i++)
        block[i] = i;
    fh_fixed_alloc(&fixed, 16);
    unsigned char *moved = fh_fixed_resize(&fixed, block, 20, 200, 0);
    assert_ptr_not_equal(moved, block);
    assert_int_equal((uintptr_t)moved % 256, 0);
    for (unsigned char i = 0; i < 20; i++)
        assert_int_equal(moved[i], i);
}

static void test_resize_without_old_size_loses_nothing(void **state)
{
    struct fh_allocator allocator = fh_fixed_allocator(&fixed);

    (void)state;
    char *text = fh_alloc(&allocator, 100);
    strcpy(text, "kept");
    fh_alloc(&allocator, 1);
    assert_string_equal(fh_resize(&allocator, text, 500), "kept");
}

static void test_misuse_is_told_and_changes_nothing(void **state)
{
    (void)state;
    unsigned char *first = fh_fixed_alloc(&fixed, 64), *last = fh_fixed_alloc(&fixed, 64);
    size_t left = fh_fixed_left(&fixed);
    TOLD("invalid-free", fh_fixed_free(&fixed, &left));
    TOLD("interior-free", fh_fixed_free(&fixed, first + 8));
    TOLD("size-mismatch", fh_fixed_free_sized(&fixed, last, 65, 0));
    TOLD(NULL, fh_fixed_free(&fixed, NULL));
    assert_int_equal(fh_fixed_left(&fixed), left);
    TOLD(NULL, fh_fixed_free(&fixed, last));
    TOLD("double-free", fh_fixed_free(&fixed, last));
    assert_int_equal(fh_fixed_check(&fixed), 0);
}

static int count(void *context, const struct fh_block *block)
{
    struct fh_measure *sum = context;
    *(block->is_live ? &sum->live_bytes : &sum->free_bytes) += block->usable;
    ++*(block->is_live ? &sum->live_blocks : &sum->free_blocks);
    return 0;
}

static void test_measure_agrees_with_walk(void **state)
{
    struct fh_measure sum = {0}, measure = {.size = sizeof measure};

    (void)state;
    fh_fixed_alloc(&fixed, 100);
    assert_int_equal(fh_fixed_walk(&fixed, count, &sum), 0);
    assert_int_equal(fh_fixed_measure(&fixed, &measure), 0);
    assert_int_equal(measure.live_blocks, sum.live_blocks);
    assert_int_equal(measure.live_bytes, sum.live_bytes);
    assert_int_equal(measure.free_bytes, sum.free_bytes);
    assert_int_equal(measure.live_bytes + measure.free_bytes + measure.metadata, measure.footprint);
}

static void test_works_where_it_was_moved_to(void **state)
{
    static _Alignas(64) unsigned char elsewhere[sizeof memory];
    struct fh_fixed moved;

    (void)state;
    char *text = fh_fixed_alloc_with(&fixed, 100, 64, 0);
    strcpy(text, "moved");
    size_t offset = (size_t)(text - (char *)memory), left = fh_fixed_left(&fixed);
    fh_unpoison_defined(memory, sizeof memory);
    memcpy(elsewhere, memory, (size_t)(text - (char *)memory) + 100);
    memset(memory, 0xa5, sizeof(struct fh_fixed_state));
    assert_int_equal(fh_fixed_attach(&moved, elsewhere, sizeof elsewhere), 0);
    assert_string_equal(elsewhere + offset, "moved");
    assert_int_equal(fh_fixed_left(&moved), left);
    fh_fixed_free_sized(&moved, elsewhere + offset, 100, 64);
    assert_int_equal(fh_fixed_check(&moved), 0);
}

static void test_attaching_nonsense_is_refused(void **state)
{
    static _Alignas(64) unsigned char elsewhere[sizeof memory + 64];
    struct fh_fixed moved;

    (void)state;
    memset(elsewhere, 0xff, sizeof elsewhere);
    assert_int_equal(fh_fixed_attach(&moved, elsewhere, sizeof memory), -EINVAL);
    assert_int_equal(fh_fixed_attach(&moved, NULL, sizeof memory), -EINVAL);
    /* Here a block of 64 would not be aligned to 64 any more. */
    fh_fixed_alloc_with(&fixed, 100, 64, 0);
    memcpy(elsewhere + 16, memory, sizeof(struct fh_fixed_state));
    assert_int_equal(fh_fixed_attach(&moved, elsewhere + 16, sizeof memory), -EINVAL);
}

static bool give_last(void *context, size_t size)
{
    (void)size;
    void **last = context;
    fh_fixed_free(&fixed, *last);
    return true;
}

static void test_exhausted_is_asked_before_failing(void **state)
{
    void *last = NULL;
    struct fh_fixed_options options = {.place = FH_PLACE_BUFFER(memory, sizeof memory)};

    (void)state;
    options.place.exhausted = give_last;
    options.place.exhausted_context = &last;
    assert_int_equal(fh_fixed_init(&fixed, &options), 0);
    last = fh_fixed_alloc(&fixed, 4096);
    assert_non_null(last);
    assert_ptr_equal(fh_fixed_alloc(&fixed, 4000), last);
}

static void test_only_a_buffer_will_do(void **state)
{
    struct fh_fixed other;

    (void)state;
    assert_int_equal(fh_fixed_init(&other, NULL), -EINVAL);
    assert_int_equal(
        fh_fixed_init(&other, &(struct fh_fixed_options){.place = FH_PLACE_BUFFER(memory, 40)}),
        -EINVAL);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup(f, set_up)
    const struct CMUnitTest tests[] = {
        TEST(test_works_before_main_without_initialisation),
        TEST(test_budget_is_exact),
        TEST(test_asserted_sizes_do_fit),
        TEST(test_blocks_are_aligned),
        TEST(test_wrong_alignment_is_refused),
        TEST(test_huge_sizes_do_not_wrap),
        TEST(test_empty_blocks_are_distinct),
        TEST(test_last_block_goes_back),
        TEST(test_sized_frees_in_reverse_give_all_back),
        TEST(test_peak_outlives_reset),
        TEST(test_zeroed_block_is_zero_after_use),
        TEST(test_last_block_is_resized_where_it_is),
        TEST(test_resize_keeps_alignment_and_content),
        TEST(test_resize_without_old_size_loses_nothing),
        TEST(test_misuse_is_told_and_changes_nothing),
        TEST(test_measure_agrees_with_walk),
        TEST(test_works_where_it_was_moved_to),
        TEST(test_attaching_nonsense_is_refused),
        TEST(test_exhausted_is_asked_before_failing),
        TEST(test_only_a_buffer_will_do),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
