/* Ids of stacks: one number for one stack, whoever asks and however many there are. */
#include "stack/stack.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/core/random.h"

enum { DEPTH = 12, STACKS = 50000, THREADS = 4 };

static void make_stack(uint32_t number, uintptr_t *frames)
{
    /* Outer frames are shared by many, as in programs. */
    for (size_t i = 0; i < DEPTH; i++)
        frames[i] = 0x400000u + (number >> i) * 64u + i;
}

static void test_equal_stacks_have_equal_ids(void **state)
{
    (void)state;
    uintptr_t a[DEPTH], b[DEPTH];
    make_stack(77, a);
    make_stack(77, b);
    uint32_t id = fh_stack_id(a, DEPTH);
    assert_int_not_equal(id, 0);
    assert_int_equal(fh_stack_id(b, DEPTH), id);
    b[0]++;
    assert_int_not_equal(fh_stack_id(b, DEPTH), id);
    assert_int_not_equal(fh_stack_id(a, DEPTH - 1), id);
}

static void test_an_id_gives_its_frames_back(void **state)
{
    (void)state;
    uintptr_t frames[DEPTH], back[DEPTH + 1];
    for (uint32_t i = 0; i < 1000; i++) {
        make_stack(i * 31, frames);
        uint32_t id = fh_stack_id(frames, DEPTH);
        assert_int_equal(fh_stack_frames(id, back, DEPTH + 1), DEPTH);
        assert_memory_equal(back, frames, sizeof(frames));
        assert_int_equal(fh_stack_frames(id, back, 3), 3);
        assert_int_equal(fh_stack_innermost(id), frames[0]);
        assert_int_equal(fh_stack_parent(id), fh_stack_id(frames + 1, DEPTH - 1));
    }
}

static void test_outer_frames_are_shared(void **state)
{
    (void)state;
    uintptr_t frames[DEPTH];
    make_stack(123456789, frames);
    fh_stack_id(frames, DEPTH);
    uint32_t before = fh_stack_nodes();
    frames[0] ^= 1;
    fh_stack_id(frames, DEPTH);
    assert_true(fh_stack_nodes() <= before + 2); /* the new frame, and a bucket at the most */
}

static void test_the_empty_stack_is_0(void **state)
{
    (void)state;
    uintptr_t frames[DEPTH] = {0};
    assert_int_equal(fh_stack_id(frames, 0), 0);
    assert_int_equal(fh_stack_frames(0, frames, DEPTH), 0);
    assert_int_equal(fh_stack_frames(UINT32_MAX, frames, DEPTH), 0);
    assert_int_equal(fh_stack_parent(UINT32_MAX), 0);
}

static uint32_t ids_of[THREADS][STACKS];

static void *make_ids(void *arg)
{
    uint32_t *ids = arg;
    uintptr_t frames[DEPTH];
    uint32_t at = (uint32_t)((uint32_t(*)[STACKS])arg - ids_of) * (STACKS / THREADS);
    /* Each begins elsewhere, so that each is first with some and late with others. */
    for (uint32_t i = 0; i < STACKS; i++, at = at + 1 == STACKS ? 0 : at + 1) {
        make_stack(at + 1000000, frames);
        ids[at] = fh_stack_id(frames, DEPTH);
    }
    return NULL;
}

static void test_threads_agree_on_ids(void **state)
{
    (void)state;
    pthread_t threads[THREADS];
    for (size_t i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, make_ids, ids_of[i]), 0);
    for (size_t i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    uintptr_t frames[DEPTH], back[DEPTH];
    for (uint32_t i = 0; i < STACKS; i++) {
        for (size_t j = 1; j < THREADS; j++)
            assert_int_equal(ids_of[j][i], ids_of[0][i]);
        make_stack(i + 1000000, frames);
        assert_int_equal(fh_stack_frames(ids_of[0][i], back, DEPTH), DEPTH);
        assert_memory_equal(back, frames, sizeof(frames));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equal_stacks_have_equal_ids),
        cmocka_unit_test(test_an_id_gives_its_frames_back),
        cmocka_unit_test(test_outer_frames_are_shared),
        cmocka_unit_test(test_the_empty_stack_is_0),
        cmocka_unit_test(test_threads_agree_on_ids),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
