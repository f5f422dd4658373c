/*
 * The rules of allocator.h, as claims, for every allocator over everything it can stand on.
 *
 * Each test is one claim of one subject (tests/allocators.h); a claim that a subject's capabilities or
 * traits excuse it from is no test of it. What no single claim reaches is looked for by random sequences
 * against the model, which are made small when they fail.
 */
#include "property.h"

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>

#include <cmocka.h>

/* ThreadSanitizer looks for races and takes ten times as long: what threads share is all it is asked about. */
#ifdef __SANITIZE_THREAD__
#define SEEDS          1u
#define IS_AFTER_RACES true
#else
#define SEEDS          3u
#define IS_AFTER_RACES false
#endif
#define MOST         4096u /* blocks of a claim */
#define MOST_LARGE   256u
#define LONGEST_NAME 120

static _Alignas(65536) unsigned char arenas[2][SUBJECT_MOST_BUDGET + 2 * SUBJECT_GUARD];
static struct allocator_model model;
static struct subject subject;
static void *blocks[MOST];

struct on {
    const struct subject_kind *kind;
    enum ground ground;
};

static struct fh_allocator open_with(const struct on *on, struct fh_place_options place)
{
    assert_int_equal(subject_open(&subject, on->kind, on->ground, arenas[0], 0, place), 0);
    return subject.allocator;
}

static struct fh_allocator open_subject(void **state)
{
    return open_with(*state, (struct fh_place_options){0});
}

static void close_subject(void)
{
    assert_int_equal(fh_allocator_check(&subject.allocator), 0);
    if (subject_has(&subject, TRAIT_SHARED))
        return;
    fh_allocator_destroy(&subject.allocator);
    subject_check_returned(&subject);
}

static bool can(const struct fh_allocator *a, unsigned capability)
{
    return fh_allocator_can(a, capability);
}

/* For those that need sizes, and for those that do not. */
static void give_back(const struct fh_allocator *a, void *block, size_t size, size_t align)
{
    if (can(a, FH_ALLOCATOR_NEEDS_SIZE))
        fh_free_sized(a, block, size, align);
    else
        fh_free(a, block);
}

static size_t some_size(const struct on *on)
{
    return fh_min(on->kind->largest, 100);
}

static size_t measured_live(const struct fh_allocator *a)
{
    struct fh_measure measure = {.size = sizeof measure};
    assert_int_equal(fh_allocator_measure(a, &measure), 0);
    return measure.live_blocks;
}

/* ---- the claims -------------------------------------------------------------------------------- */

static void test_obeys_model(void **state)
{
    const struct on *on = *state;
    if (!property_holds(&model, on->kind, on->ground, 1, SEEDS))
        fail_msg("%s over a %s to obey the model; what it did is said above", on->kind->name,
                 ground_names[on->ground]);
}

static void test_block_has_alignment_asked_for(void **state)
{
    const struct on *on = *state;
    struct fh_allocator a = open_subject(state);
    for (size_t align = 1; align <= on->kind->largest_align; align *= 2) {
        for (size_t size = 1; size <= fh_min(on->kind->largest, 1000); size = size * 3 + 1) {
            void *block = fh_alloc_aligned(&a, size, align);
            assert_non_null(block);
            assert_int_equal((uintptr_t)block % align, 0);
            memset(block, 1, size);
            give_back(&a, block, size, align);
        }
        if (!subject_has(&subject, TRAIT_SHARED))
            fh_allocator_reset(&a);
    }
    close_subject();
}

static void test_default_alignment_is_16(void **state)
{
    struct fh_allocator a = open_subject(state);
    for (size_t size = 1; size <= some_size(*state); size += 7) {
        void *block = fh_alloc(&a, size);
        assert_non_null(block);
        assert_int_equal((uintptr_t)block % FH_ALIGN_DEFAULT, 0);
        give_back(&a, block, size, 0);
    }
    close_subject();
}

static void test_size_zero_gives_block_of_its_own(void **state)
{
    struct fh_allocator a = open_subject(state);
    void *one = fh_alloc(&a, 0), *two = fh_alloc(&a, 0);
    assert_non_null(one);
    assert_non_null(two);
    assert_ptr_not_equal(one, two);
    give_back(&a, one, 0, 0);
    give_back(&a, two, 0, 0);
    close_subject();
}

static void test_wrong_alignment_is_einval(void **state)
{
    static const size_t wrong[] = {3, 24, 4095, SIZE_MAX, FH_ALIGN_MAX * 2};
    struct fh_allocator a = open_subject(state);
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        errno = 0;
        assert_null(fh_alloc_aligned(&a, some_size(*state), wrong[i]));
        assert_int_equal(errno, EINVAL);
    }
    close_subject();
}

static void test_product_that_overflows_is_enomem(void **state)
{
    struct fh_allocator a = open_subject(state);
    errno = 0;
    assert_null(fh_alloc_array(&a, SIZE_MAX / 2, 3));
    assert_int_equal(errno, ENOMEM);
    errno = 0;
    assert_null(fh_alloc_array_zeroed(&a, (size_t)1 << 32, (size_t)1 << 32));
    assert_int_equal(errno, ENOMEM);
    errno = 0;
    assert_null(fh_resize_array(&a, NULL, (size_t)1 << 33, (size_t)1 << 33));
    assert_int_equal(errno, ENOMEM);
    close_subject();
}

static void test_zeroed_block_is_zero_where_others_were(void **state)
{
    size_t size = some_size(*state), count = 64;
    struct fh_allocator a = open_subject(state);
    for (size_t i = 0; i < count; i++) {
        blocks[i] = fh_alloc(&a, size);
        assert_non_null(blocks[i]);
        memset(blocks[i], 0xee, size);
    }
    for (size_t i = 0; i < count; i++)
        give_back(&a, blocks[i], size, 0);
    if (!subject_has(&subject, TRAIT_SHARED))
        fh_allocator_reset(&a);
    for (size_t i = 0; i < count; i++) {
        unsigned char *block = blocks[i] = fh_alloc_zeroed(&a, size);
        assert_non_null(block);
        for (size_t at = 0; at < size; at++)
            assert_int_equal(block[at], 0);
    }
    for (size_t i = 0; i < count; i++)
        give_back(&a, blocks[i], size, 0);
    close_subject();
}

static void test_usable_bytes_can_all_be_written(void **state)
{
    const struct on *on = *state;
    struct fh_allocator a = open_subject(state);
    size_t count = 0, size = 0;
    size_t usable[64];
    for (; count < 64; count++, size = (size * 5 + 3) % fh_min(on->kind->largest, 2000)) {
        blocks[count] = fh_alloc(&a, size);
        assert_non_null(blocks[count]);
        usable[count] = fh_allocator_usable_size(&a, blocks[count]);
        if (usable[count] == 0)
            usable[count] = size;
        assert_true(usable[count] >= size);
        memset(blocks[count], (int)count, usable[count]);
    }
    for (size_t i = 0; i < count; i++)
        for (size_t at = 0; at < usable[i]; at++)
            assert_int_equal(((unsigned char *)blocks[i])[at], i);
    if (!subject_has(&subject, TRAIT_SHARED))
        fh_allocator_reset(&a);
    close_subject();
}

static void test_free_of_null_is_nothing(void **state)
{
    struct fh_allocator a = open_subject(state);
    size_t live = measured_live(&a);
    errno = 1234;
    if (!can(&a, FH_ALLOCATOR_NEEDS_SIZE))
        fh_free(&a, NULL);
    fh_free_sized(&a, NULL, 0, 0);
    assert_int_equal(errno, 1234);
    assert_int_equal(measured_live(&a), live);
    close_subject();
}

static void test_resize_of_null_allocates(void **state)
{
    size_t size = some_size(*state);
    struct fh_allocator a = open_subject(state);
    void *block = fh_resize(&a, NULL, size);
    assert_non_null(block);
    memset(block, 3, size);
    give_back(&a, block, size, 0);
    close_subject();
}

static void test_resize_keeps_contents_and_alignment(void **state)
{
    const struct on *on = *state;
    size_t align = fh_min(on->kind->largest_align, 1024), size = 1;
    size_t kept = on->kind->kept_align != 0 ? fh_min(align, on->kind->kept_align) : align;
    size_t most = fh_min(on->kind->largest, fh_max(on->kind->budget / 256, 256));
    struct fh_allocator a = open_subject(state);
    unsigned char *block = fh_alloc_aligned(&a, size, align), *wall;
    assert_non_null(block);
    block[0] = 1;
    for (size_t next = 3; next <= most; next = next * 2 + 1) {
        wall = fh_alloc(&a, some_size(on)); /* in the way of growing in place */
        assert_non_null(wall);
        block = fh_resize_sized(&a, block, size, next, 0);
        assert_non_null(block);
        assert_int_equal((uintptr_t)block % kept, 0);
        for (size_t i = 0; i < size; i++)
            assert_int_equal(block[i], (unsigned char)(i * 7 + 1));
        for (size_t i = 0; i < next; i++)
            block[i] = (unsigned char)(i * 7 + 1);
        size = next;
        give_back(&a, wall, some_size(on), 0);
    }
    for (size_t next = size / 3; next > 0; size = next, next /= 3) {
        block = fh_resize_sized(&a, block, size, next, 0);
        assert_non_null(block);
        assert_int_equal((uintptr_t)block % kept, 0);
        for (size_t i = 0; i < next; i++)
            assert_int_equal(block[i], (unsigned char)(i * 7 + 1));
    }
    give_back(&a, block, size, align);
    close_subject();
}

/* A shrunken block has neighbours all around when it grows again, so that it must move. */
static void test_alignment_outlives_a_shrink_and_a_move(void **state)
{
    enum { WALLS = 200 };
    const struct on *on = *state;
    size_t align = fh_min(on->kind->largest_align, 1024), small = 20;
    size_t kept = on->kind->kept_align != 0 ? fh_min(align, on->kind->kept_align) : align;
    size_t large = fh_min(on->kind->largest, 5000);
    struct fh_allocator a = open_subject(state);
    unsigned char *block = fh_alloc_aligned(&a, fh_min(large, 900), align);
    assert_non_null(block);
    block = fh_resize_sized(&a, block, fh_min(large, 900), small, 0);
    assert_non_null(block);
    for (size_t i = 0; i < WALLS; i++) {
        blocks[i] = fh_alloc(&a, small);
        assert_non_null(blocks[i]);
    }
    for (size_t size = small * 2; size <= large; small = size, size *= 2) {
        block = fh_resize_sized(&a, block, small, size, 0);
        assert_non_null(block);
        assert_int_equal((uintptr_t)block % kept, 0);
    }
    give_back(&a, block, small, align);
    for (size_t i = 0; i < WALLS; i++)
        give_back(&a, blocks[i], 20, 0);
    close_subject();
}

static void test_resize_that_fails_leaves_block(void **state)
{
    size_t size = some_size(*state);
    struct fh_allocator a = open_subject(state);
    unsigned char *block = fh_alloc(&a, size);
    assert_non_null(block);
    memset(block, 9, size);
    errno = 0;
    assert_null(fh_resize_sized(&a, block, size, (size_t)PTRDIFF_MAX, 0));
    assert_int_equal(errno, ENOMEM);
    assert_false(fh_resize_in_place(&a, block, size, (size_t)PTRDIFF_MAX));
    for (size_t i = 0; i < size; i++)
        assert_int_equal(block[i], 9);
    give_back(&a, block, size, 0);
    close_subject();
}

static void test_sized_free_frees(void **state)
{
    size_t size = some_size(*state);
    struct fh_allocator a = open_subject(state);
    size_t live = measured_live(&a);
    void *block = fh_alloc_aligned(&a, size, 16);
    assert_non_null(block);
    fh_free_sized(&a, block, size, 16);
    if (!can(&a, FH_ALLOCATOR_NO_FREE))
        assert_in_range(measured_live(&a), live, live + subject_kept(&subject));
    close_subject();
}

static void test_owns_its_blocks_and_nothing_else(void **state)
{
    int local = 0;
    struct fh_allocator a = open_subject(state);
    char *block = fh_alloc(&a, some_size(*state));
    assert_non_null(block);
    assert_true(fh_allocator_owns(&a, block));
    assert_true(fh_allocator_owns(&a, block + some_size(*state) - 1));
    assert_false(fh_allocator_owns(&a, &local));
    assert_false(fh_allocator_owns(&a, &subject));
    assert_false(fh_allocator_owns(&a, NULL));
    assert_false(fh_allocator_owns(&a, (void *)UINTPTR_MAX));
    close_subject();
}

/* Blocks of `size` until there is no memory; how many there were. */
static size_t fill(const struct fh_allocator *a, size_t size)
{
    size_t count = 0;
    errno = 0;
    while (count < MOST && (blocks[count] = fh_alloc(a, size)) != NULL) {
        memset(blocks[count], (int)count, size);
        count++;
    }
    return count;
}

/* A size that fills the budget with some hundred blocks. */
static size_t filling_size(const struct on *on)
{
    return fh_min(on->kind->largest, on->kind->budget / 256);
}

static void expect_filled(const struct on *on, const struct fh_allocator *a, size_t count)
{
    size_t size = filling_size(on);
    assert_in_range(count, 8, MOST - 1);
    assert_int_equal(errno, ENOMEM);
    assert_int_equal(fh_allocator_check(a), 0);
    for (size_t i = 0; i < count; i++)
        for (size_t at = 0; at < size; at++)
            assert_int_equal(((unsigned char *)blocks[i])[at], (unsigned char)i);
}

static void test_exhaustion_is_enomem_and_all_comes_back(void **state)
{
    const struct on *on = *state;
    struct fh_allocator a = open_subject(state);
    size_t size = filling_size(on), count = fill(&a, size);
    expect_filled(on, &a, count);
    /* Even ones first, so that those freed later have free neighbours on both sides. */
    for (size_t i = 0; i < count; i += 2)
        give_back(&a, blocks[i], size, 0);
    for (size_t i = 1; i < count; i += 2)
        give_back(&a, blocks[i], size, 0);
    if (can(&a, FH_ALLOCATOR_NO_FREE))
        fh_allocator_reset(&a);
    size_t again = fill(&a, size);
    /* A limit counts what a heap keeps ahead of need, so a few blocks may be missing. */
    assert_in_range(again, count - count / 16, MOST - 1);
    close_subject();
}

/* Whatever size is asked for last: all of it can be written, and nothing beside the buffer is. */
static void test_the_last_bytes_are_inside(void **state)
{
    const struct on *on = *state;
    struct fh_allocator a = open_subject(state);
    unsigned char *block;
    size_t size = filling_size(on);
    fill(&a, size);
    for (; size > 0; size /= 2)
        for (unsigned i = 0; i < MOST && (block = fh_alloc(&a, size)) != NULL; i++)
            memset(block, (int)i, size);
    subject_check_guards(&subject);
    close_subject();
}

/* What was cut into small blocks serves large ones again. */
static void test_small_blocks_freed_make_room_for_large_ones(void **state)
{
    const struct on *on = *state;
    struct fh_allocator a = open_subject(state);
    size_t large = fh_min(on->kind->largest, on->kind->budget / 8), size = filling_size(on), first;
    for (first = 0; first < MOST_LARGE && (blocks[first] = fh_alloc(&a, large)) != NULL; first++)
        ;
    assert_in_range(first, 1, MOST_LARGE - 1);
    for (size_t i = 0; i < first; i++)
        give_back(&a, blocks[i], large, 0);
    size_t count = fill(&a, size), again = 0;
    for (size_t i = 0; i < count; i++)
        give_back(&a, blocks[(i * 7 + 3) % count], size, 0);
    assert_in_range(count % 7, 1, 6); /* or the loop above has left some out */
    for (again = 0; again < MOST_LARGE && (blocks[again] = fh_alloc(&a, large)) != NULL; again++)
        ;
    assert_true(again >= first - first / 8 - 1);
    assert_true(again >= 1);
    close_subject();
}

static void test_reset_frees_everything(void **state)
{
    const struct on *on = *state;
    struct fh_allocator a = open_subject(state);
    size_t size = filling_size(on), count = fill(&a, size);
    for (int round = 0; round < 3; round++) {
        fh_allocator_reset(&a);
        assert_int_equal(measured_live(&a), 0);
        assert_int_equal(fh_allocator_check(&a), 0);
        size_t again = fill(&a, size);
        assert_in_range(again, count - count / 16, MOST - 1);
    }
    close_subject();
}

static void test_reset_keeps_memory(void **state)
{
    const struct on *on = *state;
    struct fh_allocator a = open_subject(state);
    size_t size = some_size(on), growths;
    struct counts *counts = subject_counts(&subject);
    for (size_t i = 0; i < 100; i++)
        assert_non_null(fh_alloc(&a, size));
    fh_allocator_reset(&a);
    growths = counts->growths;
    for (size_t i = 0; i < 100; i++)
        assert_non_null(fh_alloc(&a, size));
    assert_int_equal(counts->growths, growths);
    close_subject();
}

static void test_without_growth_nothing_is_taken(void **state)
{
    const struct on *on = *state;
    struct fh_allocator a = open_subject(state);
    struct counts *counts = subject_counts(&subject);
    size_t size = filling_size(on), growths = counts->growths, count = 0;
    while (count < MOST && fh_alloc_with(&a, size, 0, FH_ALLOC_NO_GROWTH) != NULL)
        count++;
    assert_in_range(count, 0, MOST - 1);
    assert_int_equal(counts->growths, growths);
    assert_int_equal(fh_allocator_check(&a), 0);
    close_subject();
}

static void test_destroy_gives_everything_back(void **state)
{
    const struct on *on = *state;
    struct fh_allocator a = open_subject(state);
    fill(&a, filling_size(on));
    fh_allocator_destroy(&a);
    subject_check_returned(&subject);
    assert_true(subject_counts(&subject) == NULL || subject_counts(&subject)->bytes == 0);
}

/* ---- the callback of last resort --------------------------------------------------------------- */

struct last_resort {
    struct fh_allocator a;
    size_t size, asked, asked_size, left;
    bool frees;
};

static bool free_something(void *context, size_t size)
{
    struct last_resort *resort = context;
    resort->asked++;
    resort->asked_size = size;
    if (!resort->frees || resort->left == 0)
        return resort->frees;
    resort->left--;
    give_back(&resort->a, blocks[resort->left], resort->size, 0);
    return true;
}

static void test_exhausted_callback_is_asked_once_before_null(void **state)
{
    const struct on *on = *state;
    struct last_resort resort = {.size = filling_size(on)};
    struct fh_allocator a = open_with(on, (struct fh_place_options){
                                              .exhausted = free_something,
                                              .exhausted_context = &resort,
                                          });
    resort.a = a;
    size_t count = fill(&a, resort.size);
    assert_in_range(count, 8, MOST - 1);
    assert_int_equal(errno, ENOMEM);
    assert_int_equal(resort.asked, 1);
    assert_true(resort.asked_size >= resort.size);
    /* Saying "freed" without having freed does not loop either. */
    resort.frees = true;
    assert_null(fh_alloc(&a, resort.size));
    assert_int_equal(resort.asked, 2);
    close_subject();
}

static void test_exhausted_callback_may_free(void **state)
{
    const struct on *on = *state;
    struct last_resort resort = {.size = filling_size(on)};
    struct fh_allocator a = open_with(on, (struct fh_place_options){
                                              .exhausted = free_something,
                                              .exhausted_context = &resort,
                                          });
    resort.a = a;
    resort.left = fill(&a, resort.size);
    resort.frees = true;
    for (int i = 0; i < 3; i++) {
        assert_non_null(fh_alloc(&a, resort.size));
        assert_int_equal(fh_allocator_check(&a), 0);
    }
    close_subject();
}

/* ---- misuse ------------------------------------------------------------------------------------ */

static void expect_misuse(const struct fh_allocator *a, void *address, size_t size,
                          const char *kind, const char *or_kind)
{
    char before[32], report[4096];
    size_t live = measured_live(a);
    FILE *file = model_expect_report(before, sizeof before);
    if (size != SIZE_MAX)
        fh_free_sized(a, address, size, 0);
    else
        fh_free(a, address);
    bool is_reported = model_was_reported(file, before, kind, report, sizeof report);
    if (!is_reported && (or_kind == NULL || strstr(report, or_kind) == NULL))
        fail_msg("expected a report of %s, got: %s", kind, report);
    assert_int_equal(fh_allocator_check(a), 0);
    assert_int_equal(measured_live(a), live);
}

static size_t misuse_size(const struct fh_allocator *a, size_t size)
{
    return can(a, FH_ALLOCATOR_NEEDS_SIZE) ? size : SIZE_MAX;
}

static void test_foreign_pointer_is_reported(void **state)
{
    static _Alignas(64) unsigned char elsewhere[128];
    struct fh_allocator a = open_subject(state);
    expect_misuse(&a, elsewhere + 64, misuse_size(&a, 16), "invalid-free", NULL);
    close_subject();
}

static void test_interior_pointer_is_reported(void **state)
{
    size_t size = some_size(*state);
    struct fh_allocator a = open_subject(state);
    unsigned char *block = fh_alloc(&a, size);
    assert_non_null(block);
    /* Contents that look like a header of some allocator must not deceive it. */
    memset(block, 0x11, size);
    expect_misuse(&a, block + 16, misuse_size(&a, size), "interior-free", "invalid-free");
    for (size_t i = 0; i < size; i++)
        assert_int_equal(block[i], 0x11);
    give_back(&a, block, size, 0);
    close_subject();
}

static void test_second_free_is_reported(void **state)
{
    size_t size = some_size(*state);
    struct fh_allocator a = open_subject(state);
    void *block = fh_alloc(&a, size), *other = fh_alloc(&a, size);
    assert_non_null(block);
    assert_non_null(other);
    give_back(&a, block, size, 0);
    expect_misuse(&a, block, misuse_size(&a, size), "double-free", NULL);
    give_back(&a, other, size, 0);
    close_subject();
}

static void test_wrong_size_is_reported(void **state)
{
    const struct on *on = *state;
    size_t size = fh_min(on->kind->largest, 100);
    struct fh_allocator a = open_subject(state);
    void *block = fh_alloc(&a, size);
    assert_non_null(block);
    expect_misuse(&a, block, fh_allocator_usable_size(&a, block) + 1 + on->kind->largest,
                  "size-mismatch", NULL);
    give_back(&a, block, size, 0);
    close_subject();
}

static void test_misuse_ends_program_by_default(void **state)
{
    static _Alignas(64) unsigned char elsewhere[128];
    const struct on *on = *state;
    int status;
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct rlimit no_core = {0, 0};
        setrlimit(RLIMIT_CORE, &no_core);
        fh_message_to(-1);
        if (subject_open(&subject, on->kind, on->ground, arenas[0], 0,
                         (struct fh_place_options){0}) == 0)
            give_back(&subject.allocator, elsewhere + 64, 16, 0);
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGABRT);
}

/* ---- moving, failing, sharing ------------------------------------------------------------------ */

static void test_range_may_move(void **state)
{
    const struct on *on = *state;
    model.is_told = false;
    assert_true(model_open(&model, on->kind, on->ground, 0, 1, (struct fh_place_options){0}));
    uint8_t steps[MODEL_STEP_BYTES * 32];
    for (unsigned round = 0; round < 8; round++) {
        for (size_t i = 0; i < sizeof steps; i++)
            steps[i] = (uint8_t)((i * 97 + round * 31 + i / 6 * 13) ^ (i >> 3));
        model.input = steps;
        model.input_left = sizeof steps;
        while (model.input_left > 0)
            model_step(&model);
        model_relocate(&model);
        model_survey(&model);
    }
    model_close(&model);
}

/* With growth n refused, and with all from n on: calls fail cleanly, and all goes back at the end. */
static void fail_growths(const struct on *on, bool and_all_after)
{
    static uint8_t input[MODEL_HEADER_BYTES + 300 * MODEL_STEP_BYTES];
    size_t size = property_input(input, on->kind, on->ground, 7, 300), n;
    for (n = 1; n < 500; n++) {
        model.may_fail = true;
        model.has_no_misuse = true;
        assert_true(model_open(&model, on->kind, on->ground, 0, 0, (struct fh_place_options){0}));
        struct counts *counts = subject_counts(&model.subject);
        counts->fail_at = n;
        counts->fails_on = and_all_after;
        model.input = input + MODEL_HEADER_BYTES;
        model.input_left = size - MODEL_HEADER_BYTES;
        while (model.input_left > 0)
            model_step(&model);
        bool was_reached = counts->failures > 0;
        counts->fail_at = 0;
        counts->fails_on = false;
        model_close(&model);
        if (!was_reached)
            break;
    }
    model.may_fail = model.has_no_misuse = false;
    assert_in_range(n, 1, 499);
}

static void test_every_growth_may_fail_once(void **state)
{
    fail_growths(*state, false);
}

static void test_every_growth_may_fail_for_good(void **state)
{
    fail_growths(*state, true);
}

/* What opening takes may be refused too; then nothing is open, and nothing is kept. */
static void test_opening_may_fail(void **state)
{
    const struct on *on = *state;
    for (size_t n = 1; n < 100; n++) {
        struct fh_allocator parent = counting_parent_init(&subject.parent);
        struct fh_place_options place = {.capacity = on->kind->budget};
        const struct fh_source *source =
            counting_source_init(&subject.source, on->kind->traits & TRAIT_ALIASES);
        subject.kind = on->kind;
        subject.ground = on->ground;
        subject.bytes = on->kind->budget;
        if (on->ground == GROUND_PARENT)
            place.parent = &parent;
        else
            place.source = source;
        subject_counts(&subject)->fail_at = n;
        errno = 0;
        int error = on->kind->open(&subject, &place);
        bool was_reached = subject_counts(&subject)->failures > 0;
        subject_counts(&subject)->fail_at = 0;
        if (error == 0) {
            assert_non_null(fh_alloc(&subject.allocator, some_size(on)));
            fh_allocator_destroy(&subject.allocator);
        } else {
            assert_int_equal(error, -ENOMEM);
        }
        subject_check_returned(&subject);
        if (!was_reached)
            return;
    }
    fail_msg("expected opening to need fewer than 100 growths");
}

struct sharer {
    struct fh_allocator a;
    unsigned seed;
    size_t largest;
};

static void *share(void *arg)
{
    struct sharer *sharer = arg;
    unsigned char *mine[32] = {NULL};
    size_t sizes[32] = {0};
    uint64_t random = sharer->seed;
    for (unsigned i = 0; i < 20000; i++) {
        random = random * 0x5851f42d4c957f2du + 0x14057b7ef767814fu;
        size_t at = (random >> 59) % 32, size = (random >> 40) % fh_min(sharer->largest, 600) + 1;
        if (mine[at] != NULL) {
            for (size_t byte = 0; byte < sizes[at]; byte++)
                if (mine[at][byte] != (unsigned char)(sharer->seed + at))
                    abort();
            give_back(&sharer->a, mine[at], sizes[at], 0);
            mine[at] = NULL;
        } else if ((mine[at] = fh_alloc(&sharer->a, size)) != NULL) {
            sizes[at] = size;
            memset(mine[at], (int)(sharer->seed + at), size);
        }
    }
    for (size_t at = 0; at < 32; at++)
        if (mine[at] != NULL)
            give_back(&sharer->a, mine[at], sizes[at], 0);
    return NULL;
}

static void test_threads_may_share_it(void **state)
{
    const struct on *on = *state;
    struct fh_allocator a = open_subject(state);
    struct sharer sharers[3];
    pthread_t threads[3];
    for (unsigned i = 0; i < 3; i++) {
        sharers[i] = (struct sharer){a, i * 64, on->kind->largest};
        assert_int_equal(pthread_create(&threads[i], NULL, share, &sharers[i]), 0);
    }
    for (unsigned i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(fh_allocator_check(&a), 0);
    assert_in_range(measured_live(&a), 0, subject_kept(&subject));
    close_subject();
}

/* ---- which claim is about whom ----------------------------------------------------------------- */

/* Capabilities are asked of an opened one. */
static unsigned capabilities_of(const struct on *on)
{
    static struct subject asked;
    if (subject_open(&asked, on->kind, on->ground, arenas[0], 0, (struct fh_place_options){0}) !=
        0) {
        print_error("%s over a %s can't be opened\n", on->kind->name, ground_names[on->ground]);
        exit(1);
    }
    unsigned capabilities = asked.allocator.ops->capabilities;
    if (asked.allocator.ops->free_sized == NULL)
        capabilities |= 1u << 31;
    if (!subject_has(&asked, TRAIT_SHARED))
        fh_allocator_destroy(&asked.allocator);
    return capabilities;
}

enum condition {
    OWN = 1 << 0,     /* not shared with others: may be reset, filled, destroyed */
    LIMIT = 1 << 1,   /* its memory has an end */
    COUNTED = 1 << 2, /* over a parent or source */
    FREES = 1 << 3,   /* gives single blocks back */
    SIZES = 1 << 4,   /* not of one size */
    ASKS = 1 << 5,    /* has the callback */
    SEES_ALIEN = 1 << 6,
    SEES_INSIDE = 1 << 7,
    SEES_TWICE = 1 << 8,
    SEES_SIZE = 1 << 9,
    MOVABLE = 1 << 10,
    THREADS = 1 << 11,
};

static unsigned conditions_of(const struct on *on)
{
    unsigned traits = on->kind->traits, capabilities = capabilities_of(on), met = 0;
    bool is_own = !(traits & TRAIT_SHARED);
    met |= is_own ? OWN : 0u;
    met |=
        on->ground != GROUND_SOURCE || on->kind->sure != 0 || traits & TRAIT_LIMITED ? LIMIT : 0u;
    met |= on->ground != GROUND_BUFFER && !(traits & TRAIT_PROCESS) ? COUNTED : 0u;
    met |= capabilities & FH_ALLOCATOR_NO_FREE ? 0u : FREES;
    met |= capabilities & FH_ALLOCATOR_ONE_SIZE ? 0u : SIZES;
    met |= traits & TRAIT_NEVER_ASKS ? 0u : ASKS;
    met |= traits & TRAIT_BLIND_INVALID ? 0u : SEES_ALIEN;
    met |= traits & TRAIT_BLIND_INTERIOR ? 0u : SEES_INSIDE;
    met |= capabilities & FH_ALLOCATOR_SEES_DOUBLE_FREE ? SEES_TWICE : 0u;
    met |= traits & TRAIT_BLIND_SIZE || capabilities >> 31 ? 0u : SEES_SIZE;
    met |= on->kind->attach != NULL && on->ground == GROUND_BUFFER ? MOVABLE : 0u;
    met |= capabilities & FH_ALLOCATOR_THREAD_SAFE && is_own ? THREADS : 0u;
    return met;
}

struct claim {
    const char *name;
    CMUnitTestFunction test;
    unsigned conditions; /* all of them */
};

#define CLAIM(function, conditions_)                                                               \
    {                                                                                              \
#function, function, conditions_                                                           \
    }

static const struct claim claims[] = {
    CLAIM(test_obeys_model, 0),
    CLAIM(test_block_has_alignment_asked_for, 0),
    CLAIM(test_default_alignment_is_16, 0),
    CLAIM(test_size_zero_gives_block_of_its_own, 0),
    CLAIM(test_wrong_alignment_is_einval, 0),
    CLAIM(test_product_that_overflows_is_enomem, 0),
    CLAIM(test_zeroed_block_is_zero_where_others_were, 0),
    CLAIM(test_usable_bytes_can_all_be_written, 0),
    CLAIM(test_free_of_null_is_nothing, 0),
    CLAIM(test_resize_of_null_allocates, 0),
    CLAIM(test_resize_keeps_contents_and_alignment, 0),
    CLAIM(test_alignment_outlives_a_shrink_and_a_move, 0),
    CLAIM(test_resize_that_fails_leaves_block, 0),
    CLAIM(test_sized_free_frees, OWN),
    CLAIM(test_owns_its_blocks_and_nothing_else, OWN),
    CLAIM(test_exhaustion_is_enomem_and_all_comes_back, OWN | LIMIT),
    CLAIM(test_the_last_bytes_are_inside, OWN | LIMIT),
    CLAIM(test_small_blocks_freed_make_room_for_large_ones, OWN | LIMIT | FREES | SIZES),
    CLAIM(test_reset_frees_everything, OWN | LIMIT),
    CLAIM(test_reset_keeps_memory, OWN | COUNTED),
    CLAIM(test_without_growth_nothing_is_taken, OWN | COUNTED),
    CLAIM(test_destroy_gives_everything_back, OWN | LIMIT),
    CLAIM(test_exhausted_callback_is_asked_once_before_null, OWN | LIMIT | ASKS),
    CLAIM(test_exhausted_callback_may_free, OWN | LIMIT | ASKS | FREES),
    CLAIM(test_foreign_pointer_is_reported, SEES_ALIEN),
    CLAIM(test_interior_pointer_is_reported, SEES_INSIDE),
    CLAIM(test_second_free_is_reported, SEES_TWICE),
    CLAIM(test_wrong_size_is_reported, SEES_SIZE | FREES),
    CLAIM(test_misuse_ends_program_by_default, SEES_ALIEN),
    CLAIM(test_range_may_move, MOVABLE),
    CLAIM(test_every_growth_may_fail_once, COUNTED),
    CLAIM(test_every_growth_may_fail_for_good, COUNTED),
    CLAIM(test_opening_may_fail, COUNTED),
    CLAIM(test_threads_may_share_it, THREADS),
};

#define CLAIMS (sizeof claims / sizeof claims[0])

/* ---- the suite's own tools --------------------------------------------------------------------- */

/* Fails with a 5 somewhere and a 9 behind it: the smallest such input is two steps. */
static bool fails_with_five_then_nine(void *context, const uint8_t *input, size_t size)
{
    bool is_five = false;
    ++*(unsigned *)context;
    for (size_t i = MODEL_HEADER_BYTES; i + MODEL_STEP_BYTES <= size; i += MODEL_STEP_BYTES) {
        if (is_five && input[i] == 9)
            return true;
        is_five |= input[i] == 5;
    }
    return false;
}

static void test_shrinking_finds_the_two_steps_that_matter(void **state)
{
    static uint8_t input[PROPERTY_BYTES], scratch[PROPERTY_BYTES];
    unsigned asked = 0;
    (void)state;
    size_t size = property_input(input, subject_kinds, GROUND_SOURCE, 1, PROPERTY_STEPS);
    input[MODEL_HEADER_BYTES + 100 * MODEL_STEP_BYTES] = 5;
    input[MODEL_HEADER_BYTES + 900 * MODEL_STEP_BYTES] = 9;
    size = shrink(input, size, MODEL_HEADER_BYTES, MODEL_STEP_BYTES, scratch,
                  fails_with_five_then_nine, &asked);
    assert_int_equal(size, MODEL_HEADER_BYTES + 2 * MODEL_STEP_BYTES);
    assert_int_equal(input[MODEL_HEADER_BYTES], 5);
    assert_int_equal(input[MODEL_HEADER_BYTES + MODEL_STEP_BYTES], 9);
    for (size_t i = 1; i < MODEL_STEP_BYTES; i++)
        assert_int_equal(input[MODEL_HEADER_BYTES + i], 0);
    assert_in_range(asked, 1, 4000);
}

/* The table of docs/place/README.md; tests/system/place_docs.sh compares. */
static void print_capabilities(void)
{
    static const char *const grounds[] = {"", "B", "P", "BP", "S", "BS", "PS", "BPS"};
    static const struct {
        unsigned bit;
        const char *name;
    } columns[] = {{FH_ALLOCATOR_CONSTANT_TIME, "O(1)"},
                   {FH_ALLOCATOR_THREAD_SAFE, "threads"},
                   {FH_ALLOCATOR_MOVES, "resize may move"},
                   {FH_ALLOCATOR_RELOCATABLE, "relocatable"},
                   {FH_ALLOCATOR_SEES_DOUBLE_FREE, "sees each double free"},
                   {FH_ALLOCATOR_NEEDS_SIZE, "needs size"},
                   {FH_ALLOCATOR_NO_FREE, "no free"},
                   {FH_ALLOCATOR_ONE_SIZE, "one size"}};
    const size_t count = sizeof columns / sizeof columns[0];
    printf("| allocator | stands on |");
    for (size_t c = 0; c < count; c++)
        printf(" %s |", columns[c].name);
    printf("\n|---|---|");
    for (size_t c = 0; c < count; c++)
        printf("---|");
    printf("\n");
    for (size_t i = 0; i < SUBJECT_KINDS; i++) {
        const struct subject_kind *kind = &subject_kinds[i];
        if (strncmp(kind->name, "heap-", 5) == 0 || strncmp(kind->name, "context-", 8) == 0)
            continue;
        unsigned capabilities = capabilities_of(&(struct on){kind, model_ground(kind, 0)});
        printf("| %s | %s |", kind->name, grounds[kind->grounds & 7]);
        for (size_t c = 0; c < count; c++)
            printf(" %s |", capabilities & columns[c].bit ? "yes" : "");
        printf("\n");
    }
}

/* Names of kinds given as arguments are the only ones tested. */
static bool is_wanted(const char *name, int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], name) == 0)
            return true;
    return argc < 2;
}

int main(int argc, char **argv)
{
    static struct on on[SUBJECT_KINDS * GROUNDS];
    static char names[SUBJECT_KINDS * GROUNDS * CLAIMS][LONGEST_NAME];
    static struct CMUnitTest tests[SUBJECT_KINDS * GROUNDS * CLAIMS + 1];
    size_t count = 0, subjects = 0;

    if (argc == 2 && strcmp(argv[1], "--capabilities") == 0) {
        print_capabilities();
        return 0;
    }
    model.arena = arenas[0];
    model.other = arenas[1];
    for (size_t i = 0; i < SUBJECT_KINDS; i++)
        for (unsigned ground = 0; ground < GROUNDS; ground++) {
            if (!(subject_kinds[i].grounds >> ground & 1) ||
                !is_wanted(subject_kinds[i].name, argc, argv))
                continue;
            on[subjects] = (struct on){&subject_kinds[i], (enum ground)ground};
            unsigned met = conditions_of(&on[subjects]);
            if (IS_AFTER_RACES && !(met & THREADS))
                continue;
            for (size_t c = 0; c < CLAIMS; c++) {
                if ((claims[c].conditions & ~met) != 0)
                    continue;
                snprintf(names[count], LONGEST_NAME, "%s[%s over %s]", claims[c].name,
                         subject_kinds[i].name, ground_names[ground]);
                tests[count] = (struct CMUnitTest){.name = names[count],
                                                   .test_func = claims[c].test,
                                                   .initial_state = &on[subjects]};
                count++;
            }
            subjects++;
        }
    tests[count++] =
        (struct CMUnitTest)cmocka_unit_test(test_shrinking_finds_the_two_steps_that_matter);
    return _cmocka_run_group_tests("conformance", tests, count, NULL, NULL);
}
