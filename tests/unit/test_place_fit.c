/* place/: first, next, best and worst fit take the block that their policy names, each time. A walk before every
 * allocation says what is free, and what the policy would take by looking at all of it. */
#include "freehold/fit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

enum { RANGE = 128 << 10, LIVE = 150, STEPS = 20000 };

static _Alignas(16) unsigned char memory[RANGE];
static uint64_t random_state;

static uint32_t below(uint32_t bound)
{
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    return (uint32_t)((random_state * 0x2545f4914f6cdd1du >> 32) * bound >> 32);
}

struct search {
    enum fh_fit_policy policy;
    size_t size;
    unsigned char *rover;
    const unsigned char *found,
        *first; /* for next fit: from the rover on, and from the beginning */
    size_t found_usable;
};

static int consider(void *context, const struct fh_block *block)
{
    struct search *search = context;
    if (block->is_live || block->usable < search->size)
        return 0;
    const unsigned char *address = block->address;
    bool is_better = search->found == NULL;
    if (search->policy == FH_FIT_NEXT) {
        if (search->first == NULL)
            search->first = address;
        is_better = is_better && address >= search->rover;
    } else if (search->policy == FH_FIT_BEST) {
        is_better = is_better || block->usable < search->found_usable;
    } else if (search->policy == FH_FIT_WORST) {
        is_better = is_better || block->usable > search->found_usable;
    }
    if (is_better) {
        search->found = address;
        search->found_usable = block->usable;
    }
    return 0;
}

static void follow_policy(enum fh_fit_policy policy)
{
    static void *live[LIVE];
    struct fh_fit fit;
    unsigned char *rover = NULL;
    size_t failures = 0;
    memset(live, 0, sizeof live);
    random_state = 88172645463325252u;
    assert_int_equal(
        fh_fit_init(&fit, &(struct fh_fit_options){.place = FH_PLACE_BUFFER(memory, RANGE),
                                                   .policy = policy}),
        0);
    for (int i = 0; i < STEPS; i++) {
        void **slot = &live[below(LIVE)];
        fh_fit_free(&fit, *slot);
        struct search search = {
            .policy = policy, .size = below(1u << (5 + below(7))), .rover = rover};
        /* The smallest block by address has room for a node. */
        if (policy <= FH_FIT_NEXT && search.size < 28)
            search.size = 28;
        fh_fit_walk(&fit, consider, &search);
        const unsigned char *expected = search.found != NULL ? search.found : search.first;
        *slot = fh_fit_alloc(&fit, search.size);
        assert_ptr_equal(*slot, expected);
        failures += *slot == NULL;
        if (*slot != NULL)
            rover = (unsigned char *)*slot + ((search.size + 4 + 15) & ~(size_t)15);
    }
    assert_int_equal(fh_fit_check(&fit), 0);
    assert_true(failures > 0 && failures < STEPS / 2); /* a range that is nearly full is no rest */
    fh_fit_destroy(&fit);
}

static void test_first_fit_takes_the_lowest_block_that_fits(void **state)
{
    (void)state;
    follow_policy(FH_FIT_FIRST);
}

static void test_next_fit_goes_on_from_where_it_was(void **state)
{
    (void)state;
    follow_policy(FH_FIT_NEXT);
}

static void test_best_fit_takes_the_smallest_and_lowest_block_that_fits(void **state)
{
    (void)state;
    follow_policy(FH_FIT_BEST);
}

static void test_worst_fit_takes_the_largest_and_lowest_block(void **state)
{
    (void)state;
    follow_policy(FH_FIT_WORST);
}

static void test_an_unknown_policy_is_refused(void **state)
{
    (void)state;
    struct fh_fit fit;
    struct fh_fit_options options = {.place = FH_PLACE_BUFFER(memory, RANGE),
                                     .policy = (enum fh_fit_policy)4};
    assert_true(fh_fit_init(&fit, &options) < 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_first_fit_takes_the_lowest_block_that_fits),
        cmocka_unit_test(test_next_fit_goes_on_from_where_it_was),
        cmocka_unit_test(test_best_fit_takes_the_smallest_and_lowest_block_that_fits),
        cmocka_unit_test(test_worst_fit_takes_the_largest_and_lowest_block),
        cmocka_unit_test(test_an_unknown_policy_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
