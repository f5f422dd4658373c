/*
 * What heap.h claims beyond the rules of every allocator, which tests/unit/test_place_conformance.c holds
 * the heap to.
 */
#include "freehold/heap.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define BUFFER_BYTES ((size_t)6 << 20)
#define LIMIT_BYTES  ((size_t)8 << 20)

static _Alignas(65536) unsigned char buffer[BUFFER_BYTES];

static void test_heap_in_buffer_stays_inside_it(void **state)
{
    struct fh_source_buffer source;
    struct fh_heap_options options = {.size = sizeof(options)};

    (void)state;
    options.source = fh_source_buffer_init(&source, buffer, sizeof(buffer));
    struct fh_heap *heap = fh_heap_create(&options);
    assert_non_null(heap);
    for (size_t size = 1; size < 500000; size = size * 2 + 1) {
        unsigned char *block = fh_heap_alloc(heap, size);
        assert_non_null(block);
        assert_true(block >= buffer && block + size <= buffer + sizeof(buffer));
    }
    fh_heap_destroy(heap);
}

/* Whoever fills it up and empties it again gets as much a second time. */
static void test_limited_heap_loses_nothing(void **state)
{
    struct fh_heap_options options = {.size = sizeof(options), .limit = LIMIT_BYTES};
    struct fh_heap *heap = fh_heap_create(&options);
    static void *blocks[LIMIT_BYTES / 48 + 1];
    size_t first = 0;

    (void)state;
    assert_non_null(heap);
    for (unsigned round = 0; round < 6; round++) {
        size_t size = round % 2 == 0 ? 48 : 3000, count = 0, bytes = 0;
        while ((blocks[count] = fh_heap_alloc(heap, size)) != NULL) {
            count++;
            bytes += size;
            assert_true(bytes <= LIMIT_BYTES);
        }
        if (round == 0)
            first = bytes;
        assert_true(bytes >= first / 2);
        assert_true(bytes >= LIMIT_BYTES / 2);
        for (size_t i = 0; i < count; i++)
            fh_heap_free(heap, blocks[i]);
        assert_int_equal(fh_heap_check(heap), 0);
    }
    fh_heap_destroy(heap);
}

static void test_wrong_options_are_refused(void **state)
{
    struct fh_heap_options wrong_size = {.size = 3};
    struct fh_heap_options wrong_canary = {.size = sizeof(wrong_canary), .canary_bytes = 17};

    (void)state;
    errno = 0;
    assert_null(fh_heap_create(&wrong_size));
    assert_int_equal(errno, EINVAL);
    errno = 0;
    assert_null(fh_heap_create(&wrong_canary));
    assert_int_equal(errno, EINVAL);
}

static void test_wrong_alignments_are_refused(void **state)
{
    size_t wrong[] = {0, 3, 24, 4095, SIZE_MAX};
    struct fh_heap *heap = fh_heap_create(NULL);

    (void)state;
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        errno = 0;
        assert_null(fh_aligned_alloc(wrong[i], 100));
        assert_int_equal(errno, EINVAL);
        errno = 0;
        assert_null(fh_heap_aligned_alloc(heap, wrong[i], 100));
        assert_int_equal(errno, EINVAL);
    }
    fh_heap_destroy(heap);
}

static void test_impossible_sizes_say_enomem(void **state)
{
    size_t sizes[] = {FH_SIZE_MAX,   FH_SIZE_MAX + 1,  SIZE_MAX,
                      SIZE_MAX - 15, SIZE_MAX - 65535, (size_t)1 << 60};
    struct fh_heap_options guarded = {.size = sizeof(guarded), .canary_bytes = 16};
    struct fh_heap *heaps[] = {fh_heap_create(NULL), fh_heap_create(&guarded)};

    (void)state;
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        for (size_t which = 0; which < 2; which++) {
            void *block = fh_heap_alloc(heaps[which], 100);
            memset(block, 7, 100);
            void *results[] = {fh_heap_alloc(heaps[which], sizes[i]),
                               fh_heap_calloc(heaps[which], 1, sizes[i]),
                               fh_heap_calloc(heaps[which], sizes[i], 3),
                               fh_heap_aligned_alloc(heaps[which], 4096, sizes[i]),
                               fh_heap_realloc(heaps[which], block, sizes[i]),
                               fh_heap_realloc(heaps[which], NULL, sizes[i]),
                               fh_malloc(sizes[i]),
                               fh_calloc(sizes[i], 2),
                               fh_aligned_alloc(128, sizes[i])};
            for (size_t r = 0; r < sizeof(results) / sizeof(results[0]); r++)
                assert_null(results[r]);
            assert_int_equal(errno, ENOMEM);
            assert_int_equal(((char *)block)[99], 7);
            fh_heap_free(heaps[which], block);
            assert_int_equal(fh_heap_check(heaps[which]), 0);
        }
    }
    fh_heap_destroy(heaps[0]);
    fh_heap_destroy(heaps[1]);
}

static void *use_heap(void *arg)
{
    struct fh_heap *heap = arg;
    void *blocks[200];

    for (unsigned round = 0; round < 200; round++) {
        for (size_t i = 0; i < 200; i++) {
            size_t size = (i * 37 + round) % 2000;
            blocks[i] = fh_heap_alloc(heap, size);
            if (blocks[i] == NULL)
                abort();
            memset(blocks[i], (int)i, size);
        }
        for (size_t i = 0; i < 200; i++) {
            size_t size = (i * 37 + round) % 2000;
            for (size_t at = 0; at < size; at++) {
                if (((unsigned char *)blocks[i])[at] != (unsigned char)i)
                    abort();
            }
            fh_free_any(blocks[i]);
        }
    }
    return NULL;
}

static void test_first_class_heap_is_shared_by_threads(void **state)
{
    struct fh_heap *heap = fh_heap_create(NULL);
    struct fh_measure measure = {.size = sizeof(measure)};
    pthread_t threads[4];

    (void)state;
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, use_heap, heap), 0);
    for (size_t i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(fh_heap_check(heap), 0);
    assert_int_equal(fh_heap_measure(heap, &measure), 0);
    assert_int_equal(measure.live_blocks, 0);
    fh_heap_destroy(heap);
}

/* Two hundred heaps, each left full, must not need two hundred times the memory. */
static void test_destroyed_heaps_give_their_memory_back(void **state)
{
    struct fh_measure before = {.size = sizeof(before)}, after = {.size = sizeof(after)};

    (void)state;
    for (unsigned i = 0; i < 200; i++) {
        struct fh_heap *heap = fh_heap_create(NULL);
        assert_non_null(heap);
        for (size_t size = 1; size < 2000000; size = size * 2 + 1)
            memset(fh_heap_alloc(heap, size), 1, size);
        fh_heap_destroy(heap);
        if (i == 10)
            assert_int_equal(fh_heap_measure(NULL, &before), 0);
    }
    assert_int_equal(fh_heap_measure(NULL, &after), 0);
    assert_true(after.footprint <= before.footprint + ((size_t)8 << 20));
    assert_true(after.metadata <= before.metadata + ((size_t)1 << 20));
}

static void test_realloc_to_zero_gives_smallest_block(void **state)
{
    (void)state;
    void *block = fh_malloc(1000);
    block = fh_realloc(block, 0);
    assert_non_null(block);
    assert_in_range(fh_usable_size(block), 0, 64);
    fh_free_any(block);
    assert_int_equal(fh_usable_size(NULL), 0);
    fh_free_any(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_heap_in_buffer_stays_inside_it),
        cmocka_unit_test(test_limited_heap_loses_nothing),
        cmocka_unit_test(test_wrong_options_are_refused),
        cmocka_unit_test(test_wrong_alignments_are_refused),
        cmocka_unit_test(test_impossible_sizes_say_enomem),
        cmocka_unit_test(test_first_class_heap_is_shared_by_threads),
        cmocka_unit_test(test_destroyed_heaps_give_their_memory_back),
        cmocka_unit_test(test_realloc_to_zero_gives_smallest_block),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
