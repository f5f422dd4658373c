/* Scratch arenas and small buffers: what scratch.h and small.h promise. */
#include "freehold/heap.h"
#include "freehold/scratch.h"
#include "freehold/small.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

/* ---- scratch --------------------------------------------------------------------------------- */

static void test_callee_gets_an_arena_that_is_not_the_result(void **state)
{
    (void)state;
    struct fh_scratch caller = fh_scratch_begin(NULL);
    struct fh_scratch callee = fh_scratch_begin(caller.arena);
    struct fh_scratch inner = fh_scratch_begin(callee.arena);
    assert_ptr_not_equal(callee.arena, caller.arena);
    assert_ptr_equal(inner.arena, caller.arena);
    fh_scratch_end(&inner);
    fh_scratch_end(&callee);
    fh_scratch_end(&caller);
}

/* The idiom's reason: a result that the callee makes in the caller's arena outlives the callee's own scope. */
static char *join(struct fh_arena *result, const char *a, const char *b)
{
    FH_SCRATCH(scratch, result);
    char *copy = fh_arena_strdup(scratch.arena, a);
    char *joined = fh_arena_printf(result, "%s%s", copy, b);
    memset(copy, 'x', strlen(copy));
    return joined;
}

static void test_result_outlives_the_callees_scope(void **state)
{
    (void)state;
    FH_SCRATCH(scratch, NULL);
    char *one = join(scratch.arena, "ab", "cd"), *two = join(scratch.arena, one, "ef");
    memset(fh_arena_alloc(scratch.arena, 1000), 'y', 1000);
    assert_string_equal(one, "abcd");
    assert_string_equal(two, "abcdef");
}

static void test_end_frees_what_the_scope_allocated(void **state)
{
    (void)state;
    FH_SCRATCH(outer, NULL);
    void *kept = fh_arena_alloc(outer.arena, 100);
    struct fh_scratch inner = fh_scratch_begin(NULL);
    assert_ptr_equal(inner.arena, outer.arena);
    void *block = fh_arena_alloc(inner.arena, 100);
    fh_scratch_end(&inner);
    assert_null(inner.arena);
    assert_ptr_equal(fh_arena_alloc(outer.arena, 100), block);
    assert_ptr_not_equal(kept, block);
}

static void test_both_in_use_is_refused(void **state)
{
    (void)state;
    FH_SCRATCH(one, NULL);
    FH_SCRATCH(two, one.arena);
    const struct fh_arena *both[] = {one.arena, two.arena};
    errno = 0;
    struct fh_scratch none = fh_scratch_begin_beside(both, 2);
    assert_null(none.arena);
    assert_int_equal(errno, EBUSY);
    fh_scratch_end(&none);
}

static size_t footprint(const struct fh_arena *arena)
{
    struct fh_measure measure = {.size = sizeof measure};
    fh_arena_measure(arena, &measure);
    return measure.footprint;
}

static void test_large_use_does_not_stay(void **state)
{
    (void)state;
    struct fh_scratch scratch = fh_scratch_begin(NULL);
    struct fh_arena *arena = scratch.arena;
    for (int i = 0; i < 64; i++)
        assert_non_null(fh_arena_alloc(arena, 256 << 10));
    assert_true(footprint(arena) >= 16 << 20);
    fh_scratch_end(&scratch);
    assert_true(footprint(arena) <= 1 << 20);
    fh_scratch_trim();
    assert_int_equal(footprint(arena), 0);
}

static void *use_scratch(void *others)
{
    FH_SCRATCH(one, NULL);
    FH_SCRATCH(two, one.arena);
    const struct fh_arena **arenas = others;
    assert_true(one.arena != arenas[0] && one.arena != arenas[1]);
    for (int i = 0; i < 100; i++) {
        assert_non_null(fh_arena_alloc(one.arena, 10000));
        assert_non_null(fh_arena_alloc(two.arena, 10000));
    }
    return NULL;
}

static void test_thread_has_arenas_of_its_own_and_gives_them_back(void **state)
{
    struct fh_measure before = {.size = sizeof before}, after = {.size = sizeof after};
    FH_SCRATCH(one, NULL);
    FH_SCRATCH(two, one.arena);
    struct fh_arena *arenas[] = {one.arena, two.arena};

    (void)state;
    for (int i = 0; i < 20; i++) {
        pthread_t thread;
        assert_int_equal(pthread_create(&thread, NULL, use_scratch, arenas), 0);
        assert_int_equal(pthread_join(thread, NULL), 0);
        if (i == 9)
            assert_int_equal(fh_heap_measure(NULL, &before), 0);
    }
    assert_int_equal(fh_heap_measure(NULL, &after), 0);
    assert_true(after.live_bytes < before.live_bytes + 1000000);
}

static pthread_key_t late_key;

static void scratch_in_destructor(void *value)
{
    FH_SCRATCH(scratch, NULL);
    *(int *)value += fh_arena_alloc(scratch.arena, 100) != NULL;
}

static void *set_late_key(void *value)
{
    pthread_setspecific(late_key, value);
    FH_SCRATCH(scratch, NULL);
    return scratch.arena;
}

static void test_destructors_of_a_thread_may_use_scratch(void **state)
{
    int served = 0;
    pthread_t thread;

    (void)state;
    {
        FH_SCRATCH(first, NULL); /* its key is made before ours, so its destructor comes first */
        assert_non_null(first.arena);
    }
    assert_int_equal(pthread_key_create(&late_key, scratch_in_destructor), 0);
    assert_int_equal(pthread_create(&thread, NULL, set_late_key, &served), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(served, 1);
    pthread_key_delete(late_key);
}

/* ---- small buffers ----------------------------------------------------------------------------- */

static struct fh_heap *heap;
static struct fh_allocator allocator;

static int open_heap(void **state)
{
    (void)state;
    heap = fh_heap_create(NULL);
    allocator = fh_heap_allocator(heap);
    return heap == NULL;
}

static int close_heap(void **state)
{
    (void)state;
    fh_heap_destroy(heap);
    return 0;
}

static size_t live_blocks(void)
{
    struct fh_measure measure = {.size = sizeof measure};
    fh_heap_measure(heap, &measure);
    return measure.live_blocks;
}

static bool is_on_stack(const void *address)
{
    char here;
    uintptr_t distance = (uintptr_t)address - (uintptr_t)&here;
    return distance + 100000 < 200000;
}

static void test_small_buffer_is_on_the_stack(void **state)
{
    (void)state;
    FH_SMALL_BUFFER(numbers, long, 32, 32, &allocator);
    assert_true(is_on_stack(numbers));
    memset(numbers, 1, 32 * sizeof *numbers);
    assert_int_equal(live_blocks(), 0);
}

static void test_larger_buffer_is_the_allocators_and_ends_with_its_scope(void **state)
{
    (void)state;
    for (size_t count = 33; count < 40; count++) {
        FH_SMALL_BUFFER(numbers, long, 32, count, &allocator);
        assert_true(fh_heap_owns(heap, numbers));
        memset(numbers, 1, count * sizeof *numbers);
        assert_int_equal(live_blocks(), 1);
        if (count == 38)
            break;
    }
    assert_int_equal(live_blocks(), 0);
}

static void test_buffer_of_aligned_type_is_aligned(void **state)
{
    struct wide {
        _Alignas(128) char bytes[128];
    };

    (void)state;
    for (size_t count = 1; count < 4; count++) {
        FH_SMALL_BUFFER(wides, struct wide, 2, count, &allocator);
        assert_int_equal((uintptr_t)wides % 128, 0);
    }
}

static void test_overflowing_buffer_is_no_memory(void **state)
{
    volatile size_t count = SIZE_MAX / sizeof(long) + 2;

    (void)state;
    errno = 0;
    FH_SMALL_BUFFER(numbers, long, 4, count, &allocator);
    assert_null(numbers);
    assert_int_equal(errno, ENOMEM);
}

static void test_buffer_without_allocator_is_the_stack_or_nothing(void **state)
{
    (void)state;
    FH_SMALL_BUFFER(few, char, 10, 10, NULL);
    FH_SMALL_BUFFER(many, char, 10, 11, NULL);
    assert_non_null(few);
    assert_null(many);
}

static void test_buffer_over_an_arena_gives_its_place_back(void **state)
{
    struct fh_arena arena;
    struct fh_arena_options options = {.place = FH_PLACE_PARENT(&allocator, 0)};

    (void)state;
    assert_int_equal(fh_arena_init(&arena, &options), 0);
    struct fh_allocator over = fh_arena_allocator(&arena);
    assert_non_null(fh_arena_alloc(&arena, 1));
    size_t used = fh_arena_mark(&arena).used;
    {
        FH_SMALL_BUFFER(text, char, 10, 500, &over);
        assert_true(fh_arena_owns(&arena, text));
    }
    assert_int_equal(fh_arena_mark(&arena).used, used);
    fh_arena_destroy(&arena);
}

int main(void)
{
#define HEAP(f) cmocka_unit_test_setup_teardown(f, open_heap, close_heap)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_callee_gets_an_arena_that_is_not_the_result),
        cmocka_unit_test(test_result_outlives_the_callees_scope),
        cmocka_unit_test(test_end_frees_what_the_scope_allocated),
        cmocka_unit_test(test_both_in_use_is_refused),
        cmocka_unit_test(test_large_use_does_not_stay),
        cmocka_unit_test(test_thread_has_arenas_of_its_own_and_gives_them_back),
        cmocka_unit_test(test_destructors_of_a_thread_may_use_scratch),
        HEAP(test_small_buffer_is_on_the_stack),
        HEAP(test_larger_buffer_is_the_allocators_and_ends_with_its_scope),
        HEAP(test_buffer_of_aligned_type_is_aligned),
        HEAP(test_overflowing_buffer_is_no_memory),
        HEAP(test_buffer_without_allocator_is_the_stack_or_nothing),
        HEAP(test_buffer_over_an_arena_gives_its_place_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
