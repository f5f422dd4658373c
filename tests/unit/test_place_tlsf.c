/* place/: TLSF and half-fit: the classes of sizes, the good fit, and the bound in which nothing can fail. */
#include "freehold/half_fit.h"
#include "freehold/tlsf.h"
#include "place/classes.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

enum { LIVE = 60, LARGEST = 2000, LIVE_BYTES = 40000, STEPS = 200000 };

static _Alignas(16) unsigned char memory[1 << 20];
static uint64_t random_state;

static uint32_t below(uint32_t bound)
{
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    return (uint32_t)((random_state * 0x2545f4914f6cdd1du >> 32) * bound >> 32);
}

static void test_classes_rise_with_sizes_and_fitting_ones_fit(void **state)
{
    (void)state;
    for (uint32_t second = 0; second <= 6; second++) {
        uint32_t last = 0;
        for (uint32_t units = 1; units < 100000; units++) {
            uint32_t class = class_of(second, units), fitting = class_fitting(second, units);
            assert_true(class == last || class == last + 1 || units == 1);
            assert_true(fitting == class || fitting == class + 1);
            uint32_t rounded = class_rounded(second, units);
            assert_true(rounded >= units);
            assert_int_equal(class_of(second, rounded), fitting);
            if (rounded > 1)
                assert_true(class_of(second, rounded - 1) < fitting);
            /* The search gives away less than a part in 2^s. */
            assert_true((rounded - units) < (units >> second) + 1);
            last = class;
        }
    }
}

static void test_every_second_level_works_and_others_are_refused(void **state)
{
    (void)state;
    struct fh_tlsf tlsf;
    for (unsigned second = 0; second <= 9; second++) {
        struct fh_tlsf_options options = {.place = FH_PLACE_BUFFER(memory, sizeof memory),
                                          .second_level = second};
        int error = fh_tlsf_init(&tlsf, &options);
        assert_true(second == 0 || (second >= 2 && second <= 6) ? error == 0 : error < 0);
        if (error != 0)
            continue;
        void *block = fh_tlsf_alloc(&tlsf, 1000);
        assert_non_null(block);
        fh_tlsf_free(&tlsf, block);
        assert_int_equal(fh_tlsf_check(&tlsf), 0);
        fh_tlsf_destroy(&tlsf);
    }
}

static void test_a_small_range_gets_a_small_table(void **state)
{
    (void)state;
    struct fh_tlsf tlsf;
    struct fh_measure now = {.size = sizeof now};
    assert_int_equal(
        fh_tlsf_init(&tlsf, &(struct fh_tlsf_options){.place = FH_PLACE_BUFFER(memory, 4096)}), 0);
    assert_int_equal(fh_tlsf_measure(&tlsf, &now), 0);
    assert_true(now.metadata < 512);
    fh_tlsf_destroy(&tlsf);
}

/* Sizes that change their kind, so that holes of one kind are left for the next; never more live than the
 * bound was computed for. */
static void never_fails_in(struct fh_allocator a)
{
    void *live[LIVE] = {0};
    size_t sizes[LIVE] = {0}, bytes = 0;
    random_state = 2463534242u;
    for (int i = 0; i < STEPS; i++) {
        int slot = (int)below(LIVE);
        fh_free(&a, live[slot]);
        bytes -= sizes[slot];
        live[slot] = NULL;
        sizes[slot] = 0;
        uint32_t kind = (uint32_t)(i / 500) % 4;
        size_t size = kind == 0   ? 1 + below(40)
                      : kind == 1 ? LARGEST - below(10)
                      : kind == 2 ? (size_t)1 << below(11)
                                  : 1 + below(LARGEST);
        if (bytes + size > LIVE_BYTES)
            continue;
        live[slot] = fh_alloc(&a, size);
        if (live[slot] == NULL)
            fail_msg("%s failed at step %d with %zu bytes live", a.ops->name, i, bytes);
        sizes[slot] = size;
        bytes += size;
    }
    assert_int_equal(fh_allocator_check(&a), 0);
}

/* Robson's way: fill with one size, keep a block in each hole of the next, twice as large, size. */
static void survives_doubling(struct fh_allocator a)
{
    static void *live[LIVE];
    memset(live, 0, sizeof live);
    for (size_t size = 12; size <= LARGEST; size = 2 * size + 4) {
        size_t bytes = 0, kept = 0;
        for (int i = 0; i < LIVE; i++) {
            if (live[i] != NULL && i % 2 != 0) {
                fh_free(&a, live[i]);
                live[i] = NULL;
            }
            kept += live[i] != NULL ? fh_allocator_usable_size(&a, live[i]) : 0;
        }
        for (int i = 0; i < LIVE; i++) {
            if (live[i] == NULL && kept + bytes + size <= LIVE_BYTES) {
                live[i] = fh_alloc(&a, size);
                assert_non_null(live[i]);
                bytes += size;
            }
        }
        assert_int_equal(fh_allocator_check(&a), 0);
    }
}

static void test_tlsf_never_fails_in_its_bound(void **state)
{
    (void)state;
    struct fh_tlsf tlsf;
    static const unsigned levels[] = {0, 2, 3, 4, 5, 6}; /* 0: the default */
    for (size_t i = 0; i < sizeof levels / sizeof levels[0]; i++) {
        unsigned second = levels[i];
        size_t bytes = fh_tlsf_bound(LIVE_BYTES, LIVE, LARGEST, second);
        assert_true(bytes < sizeof memory);
        struct fh_tlsf_options options = {.place = FH_PLACE_BUFFER(memory, bytes),
                                          .second_level = second};
        assert_int_equal(fh_tlsf_init(&tlsf, &options), 0);
        never_fails_in(fh_tlsf_allocator(&tlsf));
        fh_tlsf_reset(&tlsf);
        survives_doubling(fh_tlsf_allocator(&tlsf));
        fh_tlsf_destroy(&tlsf);
    }
}

static void test_half_fit_never_fails_in_its_bound(void **state)
{
    (void)state;
    struct fh_half_fit heap;
    size_t bytes = fh_half_fit_bound(LIVE_BYTES, LIVE, LARGEST);
    assert_true(bytes < sizeof memory);
    struct fh_half_fit_options options = {.place = FH_PLACE_BUFFER(memory, bytes)};
    assert_int_equal(fh_half_fit_init(&heap, &options), 0);
    never_fails_in(fh_half_fit_allocator(&heap));
    fh_half_fit_reset(&heap);
    survives_doubling(fh_half_fit_allocator(&heap));
    fh_half_fit_destroy(&heap);
}

static void test_a_bound_beyond_a_range_is_said(void **state)
{
    (void)state;
    assert_true(fh_tlsf_bound(SIZE_MAX, 10, 100, 0) == SIZE_MAX);
    assert_true(fh_tlsf_bound((size_t)1 << 31, 1000000, 1 << 20, 0) == SIZE_MAX);
    assert_true(fh_half_fit_bound(100, 10, SIZE_MAX) == SIZE_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_classes_rise_with_sizes_and_fitting_ones_fit),
        cmocka_unit_test(test_every_second_level_works_and_others_are_refused),
        cmocka_unit_test(test_a_small_range_gets_a_small_table),
        cmocka_unit_test(test_tlsf_never_fails_in_its_bound),
        cmocka_unit_test(test_half_fit_never_fails_in_its_bound),
        cmocka_unit_test(test_a_bound_beyond_a_range_is_said),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
