/*
 * The buddy system, private and shared: placement, coalescing, what it remembers of blocks, what it
 * reports, and threads that take and give at once.
 */
#include "base/core/poison.h"
#include "base/core/random.h"
#include "freehold/buddy.h"
#include "freehold/freehold.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

enum { MEMORY = 1 << 20 };

static _Alignas(1 << 20) unsigned char memory[MEMORY];
static _Alignas(64) unsigned char metadata[64 << 10];

static struct fh_buddy buddy;

static void open_apart(size_t unit, size_t bytes, bool is_shared)
{
    assert_int_equal(fh_buddy_init(&buddy,
                                   &(struct fh_buddy_options){
                                       .place = FH_PLACE_BUFFER(memory, bytes),
                                       .unit = unit,
                                       .metadata = metadata,
                                       .metadata_bytes = sizeof metadata,
                                       .is_shared = is_shared,
                                   }),
                     0);
}

static size_t free_bytes(size_t *largest)
{
    struct fh_measure measure = {.size = sizeof measure};
    assert_int_equal(fh_buddy_measure(&buddy, &measure), 0);
    if (largest != NULL)
        *largest = measure.largest_free;
    return measure.free_bytes;
}

/* What a misuse leaves on the diagnostic descriptor, the program going on. */
static char said[4096];

static void listen_to(void (*act)(void *), void *context)
{
    int pipes[2], kept = dup(2);
    assert_int_equal(pipe(pipes), 0);
    fh_ctl_set("on_error", "continue"); /* begins anew: else the same place is told once */
    fflush(stderr);
    dup2(pipes[1], 2);
    act(context);
    dup2(kept, 2);
    close(pipes[1]);
    close(kept);
    ssize_t n = read(pipes[0], said, sizeof said - 1);
    close(pipes[0]);
    said[n > 0 ? n : 0] = '\0';
}

static void free_it(void *block)
{
    fh_buddy_free(&buddy, block);
}

static void expect_report(void *block, const char *kind)
{
    size_t before = free_bytes(NULL);
    listen_to(free_it, block);
    if (strstr(said, kind) == NULL)
        fail_msg("freeing %p: expected %s, heard '%s'", block, kind, said);
    assert_int_equal(free_bytes(NULL), before);
    assert_int_equal(fh_buddy_check(&buddy), 0);
}

/* ---- placement ------------------------------------------------------------------------------- */

static void test_blocks_are_powers_of_two_at_multiples_of_their_size(void **state)
{
    (void)state;
    open_apart(16, MEMORY, false);
    for (size_t size = 0; size < 9000; size = size * 2 + 1) {
        unsigned char *block = fh_buddy_alloc(&buddy, size);
        size_t usable = fh_buddy_usable_size(&buddy, block);
        assert_true(usable >= size && usable >= 16 && (usable & (usable - 1)) == 0);
        assert_true(usable == 16 || usable / 2 < size);
        assert_int_equal((uintptr_t)block % usable, 0);
    }
    assert_int_equal(fh_buddy_check(&buddy), 0);
    fh_buddy_destroy(&buddy);
}

static void test_all_coalesces_when_all_is_free(void **state)
{
    bool is_shared = *state != NULL;
    open_apart(16, MEMORY, is_shared);
    static void *blocks[MEMORY / 16 + 1];
    size_t count = 0;
    while ((blocks[count] = fh_buddy_alloc(&buddy, 16)) != NULL)
        count++;
    assert_int_equal(count, MEMORY / 16);
    assert_int_equal(errno, ENOMEM);
    assert_int_equal(fh_buddy_check(&buddy), 0);
    for (size_t i = 0; i < count; i += 2)
        fh_buddy_free(&buddy, blocks[i]);
    assert_int_equal(fh_buddy_check(&buddy), 0);
    for (size_t i = 1; i < count; i += 2)
        fh_buddy_free(&buddy, blocks[i]);
    size_t largest;
    assert_int_equal(free_bytes(&largest), MEMORY);
    assert_int_equal(largest, MEMORY);
    assert_int_equal(fh_buddy_check(&buddy), 0);
    fh_buddy_destroy(&buddy);
}

static void test_sizes_that_are_no_power_of_two_are_used_whole(void **state)
{
    bool is_shared = *state != NULL;
    size_t bytes = 4096 * 7 * 5;
    open_apart(4096, bytes, is_shared);
    size_t count = 0;
    while (fh_buddy_alloc(&buddy, 1) != NULL)
        count++;
    assert_int_equal(count, 35);
    assert_null(fh_buddy_alloc(&buddy, SIZE_MAX));
    fh_buddy_destroy(&buddy);
}

static void test_memory_is_never_touched(void **state)
{
    bool is_shared = *state != NULL;
    void *nowhere = mmap(NULL, 64 << 20, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(nowhere, MAP_FAILED);
    struct fh_buddy_options options = {.place = FH_PLACE_BUFFER(nowhere, 64 << 20),
                                       .unit = 4096,
                                       .metadata = metadata,
                                       .metadata_bytes = sizeof metadata,
                                       .is_shared = is_shared};
    assert_int_equal(fh_buddy_init(&buddy, &options), 0);
    void *blocks[100];
    for (size_t i = 0; i < 100; i++)
        assert_non_null(blocks[i] = fh_buddy_alloc(&buddy, 4096 * (i % 9 + 1)));
    for (size_t i = 0; i < 100; i++)
        fh_buddy_free(&buddy, blocks[i]);
    assert_int_equal(fh_buddy_check(&buddy), 0);
    fh_buddy_destroy(&buddy);
    munmap(nowhere, 64 << 20);
}

static void test_metadata_is_two_bits_a_unit(void **state)
{
    (void)state;
    struct fh_buddy_options options = {.place = {.capacity = (size_t)64 << 20}};
    assert_true((double)fh_buddy_metadata_size(&options) <= 0.016 * (64 << 20));
    options.unit = 4096;
    assert_true((double)fh_buddy_metadata_size(&options) <= 0.0001 * (64 << 20));
    options.place.capacity = (size_t)1 << 30;
    options.is_shared = true;
    assert_true((double)fh_buddy_metadata_size(&options) <= 0.0001 * (1 << 30));
}

static void test_metadata_one_byte_short_is_refused(void **state)
{
    (void)state;
    struct fh_buddy_options options = {.place = FH_PLACE_BUFFER(memory, MEMORY)};
    options.metadata = metadata;
    options.metadata_bytes = fh_buddy_metadata_size(&options);
    assert_int_equal(fh_buddy_init(&buddy, &options), 0);
    fh_buddy_destroy(&buddy);
    options.metadata_bytes -= 64;
    assert_int_equal(fh_buddy_init(&buddy, &options), -EINVAL);
}

static void test_nonsense_options_are_refused(void **state)
{
    (void)state;
    struct fh_buddy_options options = {.place = FH_PLACE_BUFFER(memory, MEMORY), .unit = 24};
    assert_int_equal(fh_buddy_init(&buddy, &options), -EINVAL);
    options.unit = 8;
    assert_int_equal(fh_buddy_init(&buddy, &options), -EINVAL);
    options.unit = (size_t)4 << 20;
    assert_int_equal(fh_buddy_init(&buddy, &options), -EINVAL);
    options.unit = 16;
    options.place.bytes = 100;
    assert_int_equal(fh_buddy_init(&buddy, &options), -EINVAL);
}

static void test_a_buffer_at_an_odd_address_gives_aligned_blocks(void **state)
{
    (void)state;
    for (size_t shift = 0; shift < 5000; shift += 48) {
        struct fh_buddy_options options = {
            .place = FH_PLACE_BUFFER(memory + 1 + shift, MEMORY - 1 - shift)};
        assert_int_equal(fh_buddy_init(&buddy, &options), 0);
        for (size_t align = 16; align <= 4096; align *= 2) {
            void *block = fh_buddy_alloc_with(&buddy, 10, align, 0);
            assert_non_null(block);
            assert_int_equal((uintptr_t)block % align, 0);
        }
        assert_int_equal(fh_buddy_check(&buddy), 0);
        fh_buddy_destroy(&buddy);
    }
}

static void test_a_sources_range_grows(void **state)
{
    (void)state;
    struct fh_buddy_options options = {.place =
                                           FH_PLACE_SOURCE(fh_source_system(), (size_t)256 << 20)};
    assert_int_equal(fh_buddy_init(&buddy, &options), 0);
    size_t bytes = 0;
    char *block;
    while ((block = fh_buddy_alloc(&buddy, 1 << 20)) != NULL) {
        memset(block, 1, 1 << 20);
        bytes += 1 << 20;
    }
    assert_true(bytes >= (size_t)250 << 20);
    assert_int_equal(fh_buddy_check(&buddy), 0);
    fh_buddy_destroy(&buddy);
}

static void test_no_growth_means_none(void **state)
{
    (void)state;
    struct fh_buddy_options options = {.place =
                                           FH_PLACE_SOURCE(fh_source_system(), (size_t)64 << 20)};
    assert_int_equal(fh_buddy_init(&buddy, &options), 0);
    assert_null(fh_buddy_alloc_with(&buddy, 32 << 20, 0, FH_ALLOC_NO_GROWTH));
    assert_non_null(fh_buddy_alloc_with(&buddy, 16 << 20, 0, 0));
    fh_buddy_destroy(&buddy);
}

static bool free_kept(void *context, size_t size)
{
    (void)size;
    void **kept = context;
    fh_buddy_free(&buddy, *kept);
    *kept = NULL;
    return true;
}

static void test_the_exhausted_callback_is_asked_once(void **state)
{
    bool is_shared = *state != NULL;
    void *kept;
    struct fh_buddy_options options = {.place = FH_PLACE_BUFFER(memory, MEMORY),
                                       .metadata = metadata,
                                       .metadata_bytes = sizeof metadata,
                                       .is_shared = is_shared};
    options.place.exhausted = free_kept;
    options.place.exhausted_context = &kept;
    assert_int_equal(fh_buddy_init(&buddy, &options), 0);
    kept = fh_buddy_alloc(&buddy, MEMORY);
    assert_non_null(fh_buddy_alloc(&buddy, 100));
    assert_null(kept);
    fh_buddy_destroy(&buddy);
}

/* ---- resize ---------------------------------------------------------------------------------- */

static void test_grows_in_place_when_the_buddies_are_free(void **state)
{
    bool is_shared = *state != NULL;
    open_apart(16, MEMORY, is_shared);
    char *block = fh_buddy_alloc(&buddy, 100);
    char *other = fh_buddy_alloc(&buddy, 100);
    assert_ptr_equal(other, block + 128);
    assert_false(fh_buddy_resize_in_place(&buddy, block, 200));
    fh_buddy_free(&buddy, other);
    assert_true(fh_buddy_resize_in_place(&buddy, block, 200));
    assert_true(fh_buddy_resize_in_place(&buddy, block, MEMORY));
    assert_int_equal(fh_buddy_usable_size(&buddy, block), MEMORY);
    assert_int_equal(fh_buddy_check(&buddy), 0);
    fh_buddy_destroy(&buddy);
}

static void test_a_growth_that_fails_takes_nothing(void **state)
{
    bool is_shared = *state != NULL;
    open_apart(16, MEMORY, is_shared);
    char *block = fh_buddy_alloc(&buddy, 16);
    char *far = fh_buddy_alloc(&buddy, MEMORY / 2);
    size_t before = free_bytes(NULL);
    assert_false(fh_buddy_resize_in_place(&buddy, block, MEMORY));
    assert_int_equal(free_bytes(NULL), before);
    assert_int_equal(fh_buddy_usable_size(&buddy, block), 16);
    assert_int_equal(fh_buddy_check(&buddy), 0);
    fh_buddy_free(&buddy, far);
    fh_buddy_destroy(&buddy);
}

static void test_shrinking_gives_the_rest_back(void **state)
{
    bool is_shared = *state != NULL;
    open_apart(16, MEMORY, is_shared);
    char *block = fh_buddy_alloc(&buddy, MEMORY);
    assert_true(fh_buddy_resize_in_place(&buddy, block, 16));
    size_t largest;
    assert_int_equal(free_bytes(&largest), MEMORY - 16);
    assert_int_equal(largest, MEMORY / 2);
    assert_int_equal(fh_buddy_check(&buddy), 0);
    fh_buddy_free(&buddy, block);
    assert_int_equal(free_bytes(&largest), MEMORY);
    assert_int_equal(largest, MEMORY);
    fh_buddy_destroy(&buddy);
}

static void test_resize_keeps_the_alignment_a_block_was_given(void **state)
{
    bool is_shared = *state != NULL;
    open_apart(16, MEMORY, is_shared);
    for (size_t align = 32; align <= 4096; align *= 2) {
        char *block = fh_buddy_alloc_with(&buddy, 10, align, 0);
        strcpy(block, "123456789");
        /* Down, up where it is blocked, down and up again. */
        const size_t sizes[] = {1000, 20, 33, 5000, 12, 70, 10000, 16};
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            void *wall = fh_buddy_alloc(&buddy, 16);
            block = fh_buddy_resize(&buddy, block, sizes[i], 0);
            assert_non_null(block);
            assert_int_equal((uintptr_t)block % align, 0);
            assert_string_equal(block, "123456789");
            assert_int_equal(fh_buddy_check(&buddy), 0);
            fh_buddy_free(&buddy, wall);
        }
        fh_buddy_free_sized(&buddy, block, 16, align);
    }
    size_t largest;
    free_bytes(&largest);
    assert_int_equal(largest, MEMORY);
    fh_buddy_destroy(&buddy);
}

static void test_resize_can_ask_for_a_new_alignment(void **state)
{
    (void)state;
    open_apart(16, MEMORY, false);
    assert_non_null(fh_buddy_alloc(&buddy, 16));
    char *block = fh_buddy_alloc(&buddy, 16);
    strcpy(block, "keep");
    block = fh_buddy_resize(&buddy, block, 100, 4096);
    assert_int_equal((uintptr_t)block % 4096, 0);
    assert_string_equal(block, "keep");
    assert_null(fh_buddy_resize(&buddy, block, 10, 24));
    assert_int_equal(errno, EINVAL);
    fh_buddy_destroy(&buddy);
}

static void test_zeroed_memory_is_zero(void **state)
{
    (void)state;
    open_apart(16, MEMORY, false);
    unsigned char *block = fh_buddy_alloc(&buddy, 5000);
    memset(block, 0xa5, 5000);
    fh_buddy_free(&buddy, block);
    block = fh_buddy_alloc_with(&buddy, 5000, 0, FH_ALLOC_ZEROED);
    for (size_t i = 0; i < 5000; i++)
        assert_int_equal(block[i], 0);
    fh_buddy_destroy(&buddy);
}

/* ---- misuse ---------------------------------------------------------------------------------- */

static void test_every_second_free_is_seen(void **state)
{
    bool is_shared = *state != NULL;
    open_apart(16, MEMORY, is_shared);
    assert_non_null(fh_buddy_alloc(&buddy, 16));
    for (size_t size = 1; size <= MEMORY / 8; size *= 2) {
        void *a = fh_buddy_alloc(&buddy, size), *b = fh_buddy_alloc(&buddy, size);
        fh_buddy_free(&buddy, a);
        expect_report(a, "double-free");
        fh_buddy_free(&buddy, b);
        expect_report(a, "double-free");
        expect_report(b, "double-free");
    }
    fh_buddy_destroy(&buddy);
}

static void test_interior_and_foreign_pointers_are_seen(void **state)
{
    bool is_shared = *state != NULL;
    open_apart(16, MEMORY, is_shared);
    char *block = fh_buddy_alloc(&buddy, 1024);
    char *aligned = fh_buddy_alloc_with(&buddy, 1024, 1024, 0);
    for (size_t offset = 1; offset < 1024; offset += offset < 64 ? 1 : 16) {
        expect_report(block + offset, "interior-free");
        expect_report(aligned + offset, "interior-free");
    }
    static int foreign;
    expect_report(&foreign, "invalid-free");
    expect_report(memory + MEMORY, "invalid-free");
    fh_buddy_free(&buddy, block);
    fh_buddy_free(&buddy, aligned);
    expect_report(memory + MEMORY / 2 + 8, "invalid-free");
    fh_buddy_destroy(&buddy);
}

static void free_wrongly(void *block)
{
    fh_buddy_free_sized(&buddy, block, 100, 0);
}

static void test_a_wrong_size_is_seen(void **state)
{
    bool is_shared = *state != NULL;
    open_apart(16, MEMORY, is_shared);
    void *block = fh_buddy_alloc(&buddy, 1000);
    listen_to(free_wrongly, block);
    assert_non_null(strstr(said, "size-mismatch"));
    fh_buddy_free_sized(&buddy, block, 1000, 0);
    assert_int_equal(free_bytes(NULL), MEMORY);
    fh_buddy_destroy(&buddy);
}

/* ---- holes, moving --------------------------------------------------------------------------- */

static void test_reserved_ranges_are_never_handed_out(void **state)
{
    bool is_shared = *state != NULL;
    open_apart(16, MEMORY, is_shared);
    assert_int_equal(fh_buddy_reserve(&buddy, memory + 1000, 30001), 0);
    assert_int_equal(fh_buddy_check(&buddy), 0);
    assert_int_equal(fh_buddy_reserve(&buddy, memory + 31000, 100), -ENOMEM);
    assert_int_equal(fh_buddy_reserve(&buddy, memory + MEMORY - 16, 17), -EINVAL);
    unsigned char *block;
    size_t count = 0;
    while ((block = fh_buddy_alloc(&buddy, 16)) != NULL) {
        assert_true(block + 16 <= memory + 1000 || block >= memory + 31001);
        count++;
    }
    assert_int_equal(count, MEMORY / 16 - (31001 / 16 + 1 - 1000 / 16));
    fh_buddy_reset(&buddy);
    assert_int_equal(fh_buddy_reserve(&buddy, memory + 1000, 30001), 0);
    assert_int_equal(fh_buddy_unreserve(&buddy, memory + 1000, 30001), 0);
    assert_int_equal(free_bytes(NULL), MEMORY);
    assert_int_equal(fh_buddy_unreserve(&buddy, memory + 1000, 30001), -EINVAL);
    fh_buddy_destroy(&buddy);
}

static void test_the_range_may_be_moved(void **state)
{
    bool is_shared = *state != NULL;
    struct fh_buddy_options options = {.place = FH_PLACE_BUFFER(memory, MEMORY),
                                       .is_shared = is_shared};
    assert_int_equal(fh_buddy_init(&buddy, &options), 0);
    size_t offsets[200];
    for (size_t i = 0; i < 200; i++) {
        unsigned char *block = fh_buddy_alloc(&buddy, i * 7 + 1);
        memset(block, (int)i, i * 7 + 1);
        offsets[i] = (size_t)(block - memory);
    }
    for (size_t i = 0; i < 200; i += 3)
        fh_buddy_free(&buddy, memory + offsets[i]);
    unsigned char *moved = aligned_alloc(4096, MEMORY);
    fh_unpoison_defined(memory, MEMORY);
    memcpy(moved, memory, MEMORY);
    memset(memory, 0xdd, MEMORY);
    assert_int_equal(fh_buddy_attach(&buddy, moved + 16, MEMORY - 16), -EINVAL);
    assert_int_equal(fh_buddy_attach(&buddy, moved, MEMORY / 2), -EINVAL);
    assert_int_equal(fh_buddy_attach(&buddy, moved, MEMORY), 0);
    assert_int_equal(fh_buddy_check(&buddy), 0);
    for (size_t i = 0; i < 200; i++) {
        if (i % 3 == 0)
            continue;
        for (size_t j = 0; j < i * 7 + 1; j++)
            assert_int_equal(moved[offsets[i] + j], (unsigned char)i);
        fh_buddy_free_sized(&buddy, moved + offsets[i], i * 7 + 1, 0);
    }
    assert_int_equal(fh_buddy_check(&buddy), 0);
    struct fh_measure measure = {.size = sizeof measure};
    fh_buddy_measure(&buddy, &measure);
    assert_int_equal(measure.live_blocks, 0);
    fh_buddy_destroy(&buddy);
    free(moved);
}

/* ---- sequences ------------------------------------------------------------------------------- */

struct live {
    unsigned char *address;
    size_t size;
    unsigned char mark;
};

static void fill(struct live *block)
{
    memset(block->address, block->mark, block->size);
}

static void expect_content(const struct live *block, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if (block->address[i] != block->mark)
            fail_msg("byte %zu of %p changed", i, (void *)block->address);
}

static void test_a_random_sequence_keeps_every_block(void **state)
{
    bool is_shared = *state != NULL;
    struct fh_random random = {0x1234567};
    for (int round = 0; round < 6; round++) {
        open_apart(round % 2 == 0 ? 16 : 64, MEMORY - (size_t)round * 4112, is_shared);
        struct live blocks[300] = {0};
        for (int step = 0; step < 12000; step++) {
            struct live *block = &blocks[fh_random_below(&random, 300)];
            size_t size = (size_t)1 << fh_random_below(&random, 14);
            size += fh_random_below(&random, (uint32_t)size);
            size_t align =
                fh_random_below(&random, 4) == 0 ? (size_t)16 << fh_random_below(&random, 8) : 0;
            if (block->address == NULL) {
                block->address = fh_buddy_alloc_with(&buddy, size, align, 0);
            } else if (fh_random_below(&random, 3) == 0) {
                expect_content(block, block->size);
                unsigned char *moved = fh_buddy_resize(&buddy, block->address, size, align);
                if (moved == NULL)
                    continue;
                block->address = moved;
                expect_content(block, block->size < size ? block->size : size);
            } else {
                expect_content(block, block->size);
                fh_buddy_free(&buddy, block->address);
                block->address = NULL;
                continue;
            }
            if (block->address == NULL)
                continue;
            if (align != 0)
                assert_int_equal((uintptr_t)block->address % align, 0);
            block->size = size;
            block->mark = (unsigned char)step;
            fill(block);
            if (step % 64 == 0)
                assert_int_equal(fh_buddy_check(&buddy), 0);
        }
        for (size_t i = 0; i < 300; i++)
            fh_buddy_free(&buddy, blocks[i].address);
        assert_int_equal(fh_buddy_check(&buddy), 0);
        struct fh_measure measure = {.size = sizeof measure};
        fh_buddy_measure(&buddy, &measure);
        assert_int_equal(measure.live_blocks, 0);
        fh_buddy_destroy(&buddy);
    }
}

/* ---- threads --------------------------------------------------------------------------------- */

static void *take_and_give(void *seed)
{
    struct fh_random random = {(uintptr_t)seed * 77 + 1};
    struct live blocks[60] = {0};
    for (int step = 0; step < 20000; step++) {
        struct live *block = &blocks[fh_random_below(&random, 60)];
        if (block->address != NULL) {
            expect_content(block, block->size);
            fh_buddy_free(&buddy, block->address);
            block->address = NULL;
            continue;
        }
        block->size = (size_t)16 << fh_random_below(&random, 9);
        block->mark = (unsigned char)((uintptr_t)seed + (uintptr_t)step);
        block->address = fh_buddy_alloc(&buddy, block->size);
        if (block->address != NULL)
            fill(block);
    }
    for (size_t i = 0; i < 60; i++)
        fh_buddy_free(&buddy, blocks[i].address);
    return NULL;
}

static void test_threads_share_a_range(void **state)
{
    (void)state;
    /* Little memory, so that they meet and run out. */
    open_apart(16, 64 << 10, true);
    pthread_t threads[4];
    for (size_t i = 0; i < 4; i++)
        pthread_create(&threads[i], NULL, take_and_give, (void *)(i + 1));
    for (size_t i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(fh_buddy_check(&buddy), 0);
    size_t largest;
    assert_int_equal(free_bytes(&largest), 64 << 10);
    assert_int_equal(largest, 64 << 10);
    fh_buddy_destroy(&buddy);
}

static void *volatile handed[1000];

static void *free_all(void *context)
{
    (void)context;
    for (size_t i = 0; i < 1000; i++)
        fh_buddy_free(&buddy, handed[i]);
    return NULL;
}

static void free_twice_at_once(void *context)
{
    (void)context;
    pthread_t threads[2];
    for (size_t i = 0; i < 2; i++)
        pthread_create(&threads[i], NULL, free_all, NULL);
    for (size_t i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
}

static void test_two_threads_that_free_one_block_do_no_harm(void **state)
{
    (void)state;
    open_apart(16, MEMORY, true);
    for (size_t i = 0; i < 1000; i++)
        handed[i] = fh_buddy_alloc(&buddy, (size_t)16 << i % 3);
    int kept = dup(2), nothing = fileno(tmpfile());
    dup2(nothing, 2);
    free_twice_at_once(NULL);
    dup2(kept, 2);
    close(kept);
    assert_int_equal(fh_buddy_check(&buddy), 0);
    size_t largest;
    assert_int_equal(free_bytes(&largest), MEMORY);
    assert_int_equal(largest, MEMORY);
    fh_buddy_destroy(&buddy);
}

static int setup(void **state)
{
    (void)state;
    return fh_ctl_set("on_error", "continue");
}

#define BOTH(test)                                                                                 \
    {#test, test, NULL, NULL, NULL},                                                               \
    {                                                                                              \
#test " (shared)", test, NULL, NULL, memory                                                \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_blocks_are_powers_of_two_at_multiples_of_their_size),
        BOTH(test_all_coalesces_when_all_is_free),
        BOTH(test_sizes_that_are_no_power_of_two_are_used_whole),
        BOTH(test_memory_is_never_touched),
        cmocka_unit_test(test_metadata_is_two_bits_a_unit),
        cmocka_unit_test(test_metadata_one_byte_short_is_refused),
        cmocka_unit_test(test_nonsense_options_are_refused),
        cmocka_unit_test(test_a_buffer_at_an_odd_address_gives_aligned_blocks),
        cmocka_unit_test(test_a_sources_range_grows),
        cmocka_unit_test(test_no_growth_means_none),
        BOTH(test_the_exhausted_callback_is_asked_once),
        BOTH(test_grows_in_place_when_the_buddies_are_free),
        BOTH(test_a_growth_that_fails_takes_nothing),
        BOTH(test_shrinking_gives_the_rest_back),
        BOTH(test_resize_keeps_the_alignment_a_block_was_given),
        cmocka_unit_test(test_resize_can_ask_for_a_new_alignment),
        cmocka_unit_test(test_zeroed_memory_is_zero),
        BOTH(test_every_second_free_is_seen),
        BOTH(test_interior_and_foreign_pointers_are_seen),
        BOTH(test_a_wrong_size_is_seen),
        BOTH(test_reserved_ranges_are_never_handed_out),
        BOTH(test_the_range_may_be_moved),
        BOTH(test_a_random_sequence_keeps_every_block),
        cmocka_unit_test(test_threads_share_a_range),
        cmocka_unit_test(test_two_threads_that_free_one_block_do_no_harm),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}
