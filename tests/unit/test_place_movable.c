/* The movable heap: handles, pins, compaction, moving the whole range. */
#include "base/core/poison.h"
#include "base/core/random.h"
#include "freehold/heap.h"
#include "freehold/movable.h"
#include "freehold/stats.h"
#include "os/mem.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { BUFFER_BYTES = 256 << 10 };

static _Alignas(4096) unsigned char buffer[BUFFER_BYTES], other[BUFFER_BYTES];

static void open_buffer(struct fh_movable *heap)
{
    struct fh_movable_options options = {.place = FH_PLACE_BUFFER(buffer, sizeof buffer)};
    assert_int_equal(fh_movable_init(heap, &options), 0);
}

static void expect_sound(const struct fh_movable *heap)
{
    assert_int_equal(fh_movable_check(heap), 0);
}

static struct fh_measure measure(const struct fh_movable *heap)
{
    struct fh_measure out = {.size = sizeof out};
    assert_int_equal(fh_movable_measure(heap, &out), 0);
    return out;
}

static size_t compact(struct fh_movable *heap)
{
    size_t steps = 0;
    while (fh_compact_step(heap, 0, 0) != 0)
        assert_true(++steps < 100000);
    return steps;
}

/* ---- A model: what each block holds ------------------------------------------------------------ */

struct model {
    fh_handle handle;
    size_t size;
    size_t align;
    unsigned char seed;
    unsigned pins;
    unsigned char *pinned_at;
};

static void fill(struct fh_movable *heap, struct model *block, unsigned char seed)
{
    unsigned char *at = fh_movable_resolve(heap, block->handle);
    block->seed = seed;
    for (size_t i = 0; i < block->size; i++)
        at[i] = (unsigned char)(seed + i);
}

static void expect_kept(const struct fh_movable *heap, const struct model *block, size_t size)
{
    const unsigned char *at = fh_movable_resolve(heap, block->handle);
    assert_ptr_equal(at, fh_movable_resolve_checked(heap, block->handle));
    assert_true(fh_movable_usable_size(heap, block->handle) >= block->size);
    assert_int_equal((uintptr_t)at % block->align, 0);
    if (block->pins != 0)
        assert_ptr_equal(at, block->pinned_at);
    for (size_t i = 0; i < size; i++)
        if (at[i] != (unsigned char)(block->seed + i))
            fail_msg("byte %zu of a block of %zu is lost", i, block->size);
}

static size_t log_uniform(struct fh_random *random, unsigned low, unsigned high)
{
    unsigned shift = low + fh_random_below(random, high - low);
    return ((size_t)1 << shift) + fh_random_below(random, 1u << shift);
}

/* `operations` at random over `count` blocks; a check after each `every`. */
static void run_random(struct fh_movable *heap, size_t count, unsigned operations, unsigned every,
                       unsigned high, uint64_t seed)
{
    struct fh_random random;
    fh_random_seed(&random, seed);
    struct model *blocks = calloc(count, sizeof *blocks);
    for (unsigned i = 0; i < operations; i++) {
        struct model *block = &blocks[fh_random_below(&random, (uint32_t)count)];
        bool is_live = !fh_handle_is_null(block->handle);
        unsigned what = fh_random_below(&random, 100);
        if (what >= 97) {
            fh_compact_step(heap, 1u << fh_random_below(&random, 22),
                            fh_random_below(&random, 2) ? 0 : 200000);
        } else if (!is_live) {
            *block = (struct model){.size = log_uniform(&random, 3, high),
                                    .align = fh_random_below(&random, 8) == 0
                                                 ? (size_t)16 << fh_random_below(&random, 9)
                                                 : 16};
            block->handle = fh_movable_alloc_with(heap, block->size, block->align, 0);
            if (!fh_handle_is_null(block->handle))
                fill(heap, block, (unsigned char)i);
        } else if (what < 10) {
            block->pinned_at = fh_movable_pin(heap, block->handle);
            assert_non_null(block->pinned_at);
            block->pins++;
        } else if (block->pins != 0) {
            expect_kept(heap, block, block->size);
            fh_movable_unpin(heap, block->handle);
            block->pins--;
        } else if (what < 30) {
            size_t size = log_uniform(&random, 3, high), old = block->size;
            if (fh_movable_resize(heap, block->handle, size)) {
                block->size = size;
                expect_kept(heap, block, size < old ? size : old);
                fill(heap, block, (unsigned char)i);
            }
        } else {
            expect_kept(heap, block, block->size);
            fh_movable_free(heap, block->handle);
            assert_null(fh_movable_resolve_checked(heap, block->handle));
            block->handle = (fh_handle){0};
        }
        if (i % every == 0)
            expect_sound(heap);
    }
    size_t live = 0;
    for (size_t i = 0; i < count; i++) {
        if (fh_handle_is_null(blocks[i].handle))
            continue;
        live++;
        expect_kept(heap, &blocks[i], blocks[i].size);
    }
    assert_int_equal(measure(heap).live_blocks, live);
    free(blocks);
}

static void test_contents_survive_any_sequence_on_a_buffer(void **unused)
{
    (void)unused;
    for (uint64_t seed = 1; seed <= 4; seed++) {
        struct fh_movable heap;
        open_buffer(&heap);
        run_random(&heap, 300, 20000, 7, 11, seed);
        fh_movable_reset(&heap);
        expect_sound(&heap);
        run_random(&heap, 100, 5000, 7, 15, seed);
        fh_movable_destroy(&heap);
    }
}

static void test_contents_survive_any_sequence_over_the_system(void **unused)
{
    (void)unused;
    for (uint64_t seed = 1; seed <= 2; seed++) {
        struct fh_movable heap;
        assert_int_equal(fh_movable_init(&heap, NULL), 0);
        run_random(&heap, 2000, 30000, 500, 17, seed);
        compact(&heap);
        fh_movable_reset(&heap);
        expect_sound(&heap);
        run_random(&heap, 40, 3000, 50, 21, seed);
        fh_movable_destroy(&heap);
    }
}

/* ---- Handles ------------------------------------------------------------------------------------- */

static void test_a_stale_handle_is_seen(void **unused)
{
    (void)unused;
    struct fh_movable heap;
    open_buffer(&heap);
    fh_handle old = fh_movable_alloc(&heap, 10);
    fh_movable_free(&heap, old);
    assert_null(fh_movable_resolve_checked(&heap, old));
    fh_handle new = fh_movable_alloc(&heap, 10);
    assert_int_equal(new.index, old.index);
    assert_null(fh_movable_resolve_checked(&heap, old));
    assert_null(fh_movable_pin(&heap, old));
    assert_int_equal(errno, EINVAL);
    assert_false(fh_movable_resize(&heap, old, 20));
    assert_int_equal(fh_movable_usable_size(&heap, old), 0);
    assert_non_null(fh_movable_resolve_checked(&heap, new));
    fh_movable_destroy(&heap);
}

static void
test_a_stale_handle_resolves_beyond_the_heap_until_its_index_is_used_again(void **unused)
{
    (void)unused;
    struct fh_movable heap;
    open_buffer(&heap);
    fh_handle old = fh_movable_alloc(&heap, 10);
    fh_movable_free(&heap, old);
    uintptr_t address = (uintptr_t)fh_movable_resolve(&heap, old);
    assert_true(address >= (uintptr_t)heap.base + ((uintptr_t)32 << 30));
    fh_movable_destroy(&heap);
}

static void test_invented_handles_resolve_to_nothing(void **unused)
{
    (void)unused;
    struct fh_movable heap;
    open_buffer(&heap);
    fh_movable_alloc(&heap, 10);
    for (uint32_t index = 0; index < 1000; index++)
        assert_null(fh_movable_resolve_checked(&heap, (fh_handle){index, 77}));
    assert_null(fh_movable_resolve_checked(&heap, (fh_handle){UINT32_MAX, 1}));
    fh_movable_destroy(&heap);
}

static void test_misuse_of_handles_changes_nothing(void **unused)
{
    (void)unused;
    struct fh_movable heap;
    open_buffer(&heap);
    assert_int_equal(fh_ctl_set("on_error", "continue"), 0);
    fh_handle kept = fh_movable_alloc(&heap, 100), gone = fh_movable_alloc(&heap, 100);
    fh_movable_free(&heap, gone);
    struct fh_measure before = measure(&heap);
    errno = 77;
    fh_movable_free(&heap, gone);
    assert_int_equal(errno, 77);
    fh_movable_free(&heap, (fh_handle){5, 1234});
    fh_movable_free(&heap, (fh_handle){1u << 30, 1});
    fh_movable_unpin(&heap, kept);
    fh_movable_unpin(&heap, gone);
    fh_movable_pin(&heap, kept);
    fh_movable_free(&heap, kept);
    assert_non_null(fh_movable_resolve_checked(&heap, kept));
    struct fh_measure after = measure(&heap);
    assert_memory_equal(&before, &after, sizeof after);
    expect_sound(&heap);
    fh_ctl_set("on_error", "abort");
    fh_movable_destroy(&heap);
}

static void test_pins_nest(void **unused)
{
    (void)unused;
    struct fh_movable heap;
    open_buffer(&heap);
    fh_handle block = fh_movable_alloc(&heap, 100);
    void *at = fh_movable_pin(&heap, block);
    for (unsigned i = 1; i < 65535; i++)
        assert_ptr_equal(fh_movable_pin(&heap, block), at);
    assert_null(fh_movable_pin(&heap, block));
    assert_int_equal(errno, EOVERFLOW);
    for (unsigned i = 0; i < 65535; i++)
        fh_movable_unpin(&heap, block);
    expect_sound(&heap);
    fh_movable_free(&heap, block);
    expect_sound(&heap);
    fh_movable_destroy(&heap);
}

static void test_a_pinned_block_does_not_move_by_resize(void **unused)
{
    (void)unused;
    struct fh_movable heap;
    open_buffer(&heap);
    fh_handle block = fh_movable_alloc(&heap, 100);
    fh_movable_alloc(&heap, 100);
    void *at = fh_movable_pin(&heap, block);
    assert_false(fh_movable_resize(&heap, block, 5000));
    assert_int_equal(errno, EBUSY);
    assert_true(fh_movable_resize(&heap, block, 50));
    assert_ptr_equal(fh_movable_resolve(&heap, block), at);
    fh_movable_destroy(&heap);
}

static void test_the_address_leads_to_the_handle(void **unused)
{
    (void)unused;
    struct fh_movable heap;
    open_buffer(&heap);
    fh_handle block = fh_movable_alloc(&heap, 100);
    unsigned char *at = fh_movable_resolve(&heap, block);
    fh_handle found = fh_movable_handle_of(&heap, at);
    assert_memory_equal(&found, &block, sizeof block);
    memcpy(at + 16, at - 16, 16); /* what looks like a header is none */
    assert_true(fh_handle_is_null(fh_movable_handle_of(&heap, at + 32)));
    assert_true(fh_handle_is_null(fh_movable_handle_of(&heap, at + 8)));
    assert_true(fh_handle_is_null(fh_movable_handle_of(&heap, buffer)));
    assert_true(fh_handle_is_null(fh_movable_handle_of(&heap, &heap)));
    fh_movable_destroy(&heap);
}

static void test_ten_thousand_handles_grow_the_table_and_trim_it(void **unused)
{
    (void)unused;
    enum { COUNT = 10000 };
    static fh_handle handles[COUNT];
    struct fh_movable heap;
    assert_int_equal(fh_movable_init(&heap, NULL), 0);
    size_t empty = measure(&heap).metadata;
    for (uint32_t i = 0; i < COUNT; i++) {
        handles[i] = fh_movable_alloc(&heap, sizeof i);
        memcpy(fh_movable_resolve(&heap, handles[i]), &i, sizeof i);
    }
    for (uint32_t i = 0; i < COUNT; i++)
        assert_memory_equal(fh_movable_resolve(&heap, handles[i]), &i, sizeof i);
    assert_true(measure(&heap).metadata >= empty + COUNT * 20);
    for (uint32_t i = 100; i < COUNT; i++)
        fh_movable_free(&heap, handles[i]);
    compact(&heap);
    expect_sound(&heap);
    assert_true(measure(&heap).metadata <= empty + 100 * 16 + 1024);
    for (uint32_t i = 0; i < 100; i++)
        assert_memory_equal(fh_movable_resolve(&heap, handles[i]), &i, sizeof i);
    for (uint32_t i = 100; i < COUNT; i++)
        assert_null(fh_movable_resolve_checked(&heap, handles[i]));
    fh_movable_destroy(&heap);
}

/* ---- Compaction ---------------------------------------------------------------------------------- */

enum { MANY = 200000 };
static fh_handle many[MANY];

/* MANY blocks of log-uniform sizes; all but every tenth, at random, are freed. The live bytes. */
static size_t make_sparse(struct fh_movable *heap, unsigned low, unsigned high, unsigned percent)
{
    struct fh_random random;
    fh_random_seed(&random, 7);
    size_t live = 0;
    for (size_t i = 0; i < MANY; i++) {
        many[i] = fh_movable_alloc(heap, log_uniform(&random, low, high));
        assert_false(fh_handle_is_null(many[i]));
    }
    for (size_t i = 0; i < MANY; i++) {
        if (fh_random_below(&random, 100) < percent) {
            fh_movable_free(heap, many[i]);
            many[i] = (fh_handle){0};
        } else {
            live += fh_movable_usable_size(heap, many[i]);
            memset(fh_movable_resolve(heap, many[i]), (int)i,
                   fh_movable_usable_size(heap, many[i]));
        }
    }
    return live;
}

static void expect_many_kept(const struct fh_movable *heap)
{
    for (size_t i = 0; i < MANY; i++) {
        if (fh_handle_is_null(many[i]))
            continue;
        const unsigned char *at = fh_movable_resolve_checked(heap, many[i]);
        assert_non_null(at);
        for (size_t j = 0; j < fh_movable_usable_size(heap, many[i]); j++)
            assert_int_equal(at[j], (unsigned char)i);
    }
}

static void test_compaction_reaches_the_live_bytes_and_gives_pages_back(void **unused)
{
    (void)unused;
    struct fh_movable heap;
    assert_int_equal(fh_movable_init(&heap, NULL), 0);
    size_t live = make_sparse(&heap, 4, 12, 90);
    size_t before = measure(&heap).footprint;
    assert_true(before > live * 5);
    int64_t resident_before = fh_os_resident(heap.base, before);
    compact(&heap);
    expect_sound(&heap);
    expect_many_kept(&heap);
    struct fh_measure after = measure(&heap);
    if (after.footprint > live + live * 15 / 100)
        fail_msg("%zu live bytes in %zu", live, after.footprint);
    assert_true(fh_os_resident(heap.base, heap.ground.bytes) <= (int64_t)after.footprint);
    assert_true(resident_before > 0);
    fh_movable_destroy(&heap);
}

static void test_a_step_moves_no_more_than_it_may(void **unused)
{
    (void)unused;
    struct fh_movable heap;
    assert_int_equal(fh_movable_init(&heap, NULL), 0);
    make_sparse(&heap, 4, 12, 80);
    struct fh_compaction done = {.size = sizeof done};
    uint64_t moved = 0;
    for (unsigned i = 0; fh_compact_step(&heap, 10000, 0) != 0; i++) {
        fh_movable_compaction(&heap, &done);
        assert_true(done.moved_bytes - moved <= 10000);
        moved = done.moved_bytes;
        if (i % 64 == 0)
            expect_sound(&heap);
    }
    assert_true(moved > 0);
    expect_many_kept(&heap);
    assert_true(measure(&heap).footprint < 2 * measure(&heap).live_bytes);
    fh_movable_destroy(&heap);
}

static void test_a_step_without_time_ends_and_says_what_remains(void **unused)
{
    (void)unused;
    struct fh_movable heap;
    assert_int_equal(fh_movable_init(&heap, NULL), 0);
    make_sparse(&heap, 4, 10, 80);
    struct fh_compaction done = {.size = sizeof done};
    size_t remaining = fh_compact_step(&heap, 0, 20000);
    assert_true(remaining > 0);
    fh_movable_compaction(&heap, &done);
    assert_true(done.moved_bytes < measure(&heap).live_bytes);
    assert_int_equal(done.remaining, remaining);
    fh_movable_destroy(&heap);
}

static void test_pinned_blocks_end_compaction_rather_than_turn_it_round(void **unused)
{
    (void)unused;
    struct fh_movable heap;
    assert_int_equal(fh_movable_init(&heap, NULL), 0);
    make_sparse(&heap, 4, 10, 90);
    for (size_t i = 0; i < MANY; i++)
        if (!fh_handle_is_null(many[i]))
            fh_movable_pin(&heap, many[i]);
    size_t footprint = measure(&heap).footprint;
    struct fh_compaction done = {.size = sizeof done};
    compact(&heap);
    fh_movable_compaction(&heap, &done);
    assert_int_equal(done.moved_bytes, 0);
    assert_int_equal(done.pinned_bytes,
                     measure(&heap).live_bytes + 16 * measure(&heap).live_blocks);
    for (size_t i = 0; i < MANY; i++)
        if (!fh_handle_is_null(many[i]))
            fh_movable_unpin(&heap, many[i]);
    expect_sound(&heap);
    compact(&heap);
    assert_true(measure(&heap).footprint < footprint / 2);
    expect_many_kept(&heap);
    fh_movable_destroy(&heap);
}

static void test_a_full_heap_compacts_into_its_holes(void **unused)
{
    (void)unused;
    struct fh_movable heap;
    open_buffer(&heap);
    static fh_handle handles[BUFFER_BYTES / 64];
    size_t count = 0;
    while (!fh_handle_is_null(handles[count] = fh_movable_alloc(&heap, 200)))
        count++;
    assert_int_equal(errno, ENOMEM);
    for (size_t i = 0; i < count; i++)
        if (i % 3 != 0)
            fh_movable_free(&heap, handles[i]);
    fh_handle large = fh_movable_alloc(&heap, BUFFER_BYTES / 3);
    assert_true(fh_handle_is_null(large));
    compact(&heap);
    expect_sound(&heap);
    large = fh_movable_alloc(&heap, BUFFER_BYTES / 3);
    assert_false(fh_handle_is_null(large));
    fh_movable_destroy(&heap);
}

static void test_blocks_that_do_not_pack_are_not_carried_round_for_ever(void **unused)
{
    (void)unused;
    struct fh_movable heap;
    assert_int_equal(fh_movable_init(&heap, NULL), 0);
    static fh_handle handles[400];
    for (size_t i = 0; i < 400; i++)
        handles[i] = fh_movable_alloc(&heap, 40000 + i * 100);
    for (size_t i = 0; i < 400; i++)
        if (i % 4 != 0)
            fh_movable_free(&heap, handles[i]);
    size_t live = measure(&heap).live_bytes;
    compact(&heap);
    struct fh_compaction done = {.size = sizeof done};
    fh_movable_compaction(&heap, &done);
    assert_true(done.moved_bytes < 4 * live);
    uint64_t moved = done.moved_bytes;
    assert_int_equal(fh_compact_step(&heap, 0, 0), 0);
    fh_movable_compaction(&heap, &done);
    assert_int_equal(done.moved_bytes, moved);
    if (measure(&heap).footprint > live + live * 15 / 100)
        fail_msg("%zu live bytes in %zu", live, measure(&heap).footprint);
    fh_movable_destroy(&heap);
}

static void test_large_blocks_stay_and_their_pages_go_when_freed(void **unused)
{
    (void)unused;
    struct fh_movable heap;
    assert_int_equal(fh_movable_init(&heap, NULL), 0);
    fh_handle handles[20];
    void *at[20];
    for (size_t i = 0; i < 20; i++) {
        handles[i] = fh_movable_alloc(&heap, (1u << 20) + 100);
        at[i] = fh_movable_resolve(&heap, handles[i]);
        memset(at[i], 1, 1u << 20);
    }
    for (size_t i = 0; i < 20; i += 2)
        fh_movable_free(&heap, handles[i]);
    compact(&heap);
    for (size_t i = 1; i < 20; i += 2)
        assert_ptr_equal(fh_movable_resolve(&heap, handles[i]), at[i]);
    struct fh_measure now = measure(&heap);
    assert_true(now.footprint < now.live_bytes + now.live_bytes / 8 + (1 << 20));
    fh_movable_destroy(&heap);
}

static void test_steps_too_narrow_for_a_block_leave_it_and_wider_ones_do_not(void **unused)
{
    (void)unused;
    struct fh_movable heap;
    assert_int_equal(fh_movable_init(&heap, NULL), 0);
    static fh_handle handles[1000];
    for (size_t i = 0; i < 1000; i++)
        handles[i] = fh_movable_alloc(&heap, 10000);
    for (size_t i = 0; i < 1000; i++)
        if (i % 8 != 0)
            fh_movable_free(&heap, handles[i]);
    size_t steps = 0;
    while (fh_compact_step(&heap, 4096, 0) != 0)
        assert_true(++steps < 10000);
    struct fh_compaction done = {.size = sizeof done};
    fh_movable_compaction(&heap, &done);
    assert_int_equal(done.moved_blocks, 0);
    expect_sound(&heap);
    compact(&heap);
    fh_movable_compaction(&heap, &done);
    assert_true(done.moved_blocks > 0);
    expect_sound(&heap);
    fh_movable_destroy(&heap);
}

/* ---- Ground -------------------------------------------------------------------------------------- */

static void test_the_range_can_be_moved(void **unused)
{
    (void)unused;
    struct fh_movable heap, moved;
    open_buffer(&heap);
    struct model blocks[100];
    for (size_t i = 0; i < 100; i++) {
        blocks[i] = (struct model){.size = 10 + i * 10, .align = 16};
        blocks[i].handle = fh_movable_alloc(&heap, blocks[i].size);
        fill(&heap, &blocks[i], (unsigned char)i);
    }
    for (size_t i = 0; i < 100; i += 2)
        fh_movable_free(&heap, blocks[i].handle);
    fh_unpoison_defined(buffer, sizeof buffer); /* free blocks are copied too */
    memcpy(other, buffer, sizeof buffer);
    memset(buffer, 0xa5, sizeof buffer);
    assert_int_equal(fh_movable_attach(&moved, other, sizeof other), 0);
    expect_sound(&moved);
    for (size_t i = 1; i < 100; i += 2)
        expect_kept(&moved, &blocks[i], blocks[i].size);
    compact(&moved);
    for (size_t i = 1; i < 100; i += 2)
        expect_kept(&moved, &blocks[i], blocks[i].size);
    assert_int_equal(fh_movable_attach(&moved, buffer, sizeof buffer), -EINVAL);
    assert_int_equal(fh_movable_attach(&moved, NULL, 100), -EINVAL);
}

static void test_it_lives_in_a_block_of_another_allocator(void **unused)
{
    (void)unused;
    struct fh_heap *parent_heap = fh_heap_create(NULL);
    struct fh_allocator parent = fh_heap_allocator(parent_heap);
    struct fh_movable heap;
    struct fh_movable_options options = {.place = FH_PLACE_PARENT(&parent, 1 << 20)};
    assert_int_equal(fh_movable_init(&heap, &options), 0);
    run_random(&heap, 500, 5000, 100, 12, 9);
    fh_movable_destroy(&heap);
    struct fh_measure left = {.size = sizeof left};
    fh_heap_measure(parent_heap, &left);
    assert_int_equal(left.live_blocks, 0);
    fh_heap_destroy(parent_heap);
}

static void test_what_it_can_not_be_opened_over_is_said(void **unused)
{
    (void)unused;
    struct fh_movable heap;
    struct fh_movable_options small = {.place = FH_PLACE_BUFFER(buffer, 1000)};
    assert_int_equal(fh_movable_init(&heap, &small), -EINVAL);
    struct fh_movable_options crowded = {.place = FH_PLACE_BUFFER(buffer, 8192), .handles = 5000};
    assert_int_equal(fh_movable_init(&heap, &crowded), -EINVAL);
    struct fh_movable_options invented = {.handles = SIZE_MAX};
    assert_int_equal(fh_movable_init(&heap, &invented), -EINVAL);
    struct fh_movable_options least = {.place = FH_PLACE_BUFFER(buffer, 8192)};
    assert_int_equal(fh_movable_init(&heap, &least), 0);
    assert_false(fh_handle_is_null(fh_movable_alloc(&heap, 100)));
    expect_sound(&heap);
}

static void test_arguments_that_make_no_sense_are_refused(void **unused)
{
    (void)unused;
    struct fh_movable heap;
    open_buffer(&heap);
    assert_true(fh_handle_is_null(fh_movable_alloc_with(&heap, 10, 24, 0)));
    assert_int_equal(errno, EINVAL);
    assert_true(fh_handle_is_null(fh_movable_alloc_with(&heap, 10, 0, 1u << 20)));
    assert_int_equal(errno, EINVAL);
    errno = 0;
    assert_true(fh_handle_is_null(fh_movable_alloc(&heap, SIZE_MAX)));
    assert_int_equal(errno, ENOMEM);
    fh_handle block = fh_movable_alloc(&heap, 10);
    assert_false(fh_movable_resize(&heap, block, SIZE_MAX - 8));
    assert_int_equal(errno, ENOMEM);
    expect_sound(&heap);
    fh_movable_destroy(&heap);
}

static void test_zeroed_blocks_are_zero(void **unused)
{
    (void)unused;
    struct fh_movable heap;
    memset(buffer, 0xff, sizeof buffer);
    open_buffer(&heap);
    for (int i = 0; i < 50; i++) {
        fh_handle block = fh_movable_alloc_with(&heap, 777, 0, FH_ALLOC_ZEROED);
        unsigned char *at = fh_movable_resolve(&heap, block);
        for (size_t j = 0; j < 777; j++)
            assert_int_equal(at[j], 0);
        memset(at, 0xff, 777);
        if (i % 2)
            fh_movable_free(&heap, block);
    }
    fh_movable_destroy(&heap);
}

static void test_no_growth_is_kept_to(void **unused)
{
    (void)unused;
    struct fh_movable heap;
    assert_int_equal(fh_movable_init(&heap, NULL), 0);
    size_t bytes = heap.ground.bytes;
    while (!fh_handle_is_null(fh_movable_alloc_with(&heap, 5000, 0, FH_ALLOC_NO_GROWTH)))
        ;
    assert_int_equal(errno, ENOMEM);
    assert_int_equal(heap.ground.bytes, bytes);
    assert_false(fh_handle_is_null(fh_movable_alloc(&heap, 5000)));
    fh_movable_destroy(&heap);
}

static bool compact_when_exhausted(void *context, size_t size)
{
    (void)size;
    compact(context);
    return true;
}

static void test_the_exhausted_callback_may_compact(void **unused)
{
    (void)unused;
    struct fh_movable heap;
    struct fh_movable_options options = {.place = FH_PLACE_BUFFER(buffer, sizeof buffer)};
    options.handles = 1000; /* a table that grew would lie in the way */
    options.place.exhausted = compact_when_exhausted;
    options.place.exhausted_context = &heap;
    assert_int_equal(fh_movable_init(&heap, &options), 0);
    static fh_handle handles[BUFFER_BYTES / 64];
    size_t count = 0;
    while (!fh_handle_is_null(handles[count] = fh_movable_alloc(&heap, 300)))
        count++;
    for (size_t i = 0; i < count; i += 2)
        fh_movable_free(&heap, handles[i]);
    assert_false(fh_handle_is_null(fh_movable_alloc(&heap, BUFFER_BYTES / 4)));
    assert_true(fh_movable_resize(&heap, handles[1], BUFFER_BYTES / 8));
    expect_sound(&heap);
    fh_movable_destroy(&heap);
}

static void test_memory_that_fails_at_any_point_loses_nothing(void **unused)
{
    (void)unused;
    for (uint64_t n = 1; n < 40; n++) {
        struct fh_movable heap;
        fh_os_fail_after(n, true);
        int opened = fh_movable_init(&heap, NULL);
        if (opened != 0) {
            assert_int_equal(opened, -ENOMEM);
            fh_os_fail_after(0, false);
            continue;
        }
        fh_handle handles[200];
        size_t count = 0;
        while (count < 200) {
            handles[count] = fh_movable_alloc(&heap, 20000);
            if (fh_handle_is_null(handles[count]))
                break;
            memset(fh_movable_resolve(&heap, handles[count]), (int)count, 20000);
            count++;
        }
        expect_sound(&heap);
        compact(&heap);
        fh_os_fail_after(0, false);
        for (size_t i = 0; i < count; i++)
            assert_int_equal(*(unsigned char *)fh_movable_resolve(&heap, handles[i]), i);
        assert_false(fh_handle_is_null(fh_movable_alloc(&heap, 20000)));
        fh_movable_destroy(&heap);
    }
}

/* ---- The interface ------------------------------------------------------------------------------- */

static void test_blocks_of_the_interface_stay_where_they_are(void **unused)
{
    (void)unused;
    struct fh_movable heap;
    assert_int_equal(fh_movable_init(&heap, NULL), 0);
    struct fh_allocator a = fh_movable_allocator(&heap);
    static unsigned char *blocks[3000];
    make_sparse(&heap, 4, 9, 80);
    for (size_t i = 0; i < 3000; i++) {
        blocks[i] = fh_alloc(&a, 100);
        memset(blocks[i], (int)i, 100);
    }
    for (size_t i = 0; i < 3000; i += 2)
        fh_free(&a, blocks[i]);
    compact(&heap);
    expect_many_kept(&heap);
    for (size_t i = 1; i < 3000; i += 2) {
        assert_int_equal(blocks[i][99], (unsigned char)i);
        blocks[i] = fh_resize(&a, blocks[i], 3000);
        assert_int_equal(blocks[i][99], (unsigned char)i);
        fh_free_sized(&a, blocks[i], 3000, 0);
    }
    expect_sound(&heap);
    fh_allocator_destroy(&a);
}

static void test_resize_keeps_the_alignment_a_block_was_given(void **unused)
{
    (void)unused;
    struct fh_movable heap;
    assert_int_equal(fh_movable_init(&heap, NULL), 0);
    struct fh_allocator a = fh_movable_allocator(&heap);
    for (size_t align = 16; align <= 1 << 20; align *= 2) {
        void *block = fh_alloc_aligned(&a, 100, align);
        fh_handle handle = fh_movable_alloc_with(&heap, 100, align, 0);
        for (size_t size = 200; size < 100000; size *= 5) {
            block = fh_resize(&a, block, size);
            assert_int_equal((uintptr_t)block % align, 0);
            assert_true(fh_movable_resize(&heap, handle, size));
            assert_int_equal((uintptr_t)fh_movable_resolve(&heap, handle) % align, 0);
        }
        expect_sound(&heap);
    }
    compact(&heap);
    expect_sound(&heap);
    fh_movable_destroy(&heap);
}

static void test_misuse_through_the_interface_changes_nothing(void **unused)
{
    (void)unused;
    struct fh_movable heap;
    open_buffer(&heap);
    struct fh_allocator a = fh_movable_allocator(&heap);
    assert_int_equal(fh_ctl_set("on_error", "continue"), 0);
    unsigned char *kept = fh_alloc(&a, 100), *gone = fh_alloc(&a, 100);
    fh_free(&a, gone);
    struct fh_measure before = measure(&heap);
    fh_free(&a, gone);
    fh_free(&a, kept + 16);
    fh_free(&a, kept + 1);
    fh_free(&a, &heap);
    fh_free(&a, buffer + 8);
    fh_free(&a, buffer + sizeof buffer - 16);
    fh_free_sized(&a, kept, 99, 0);
    fh_free_sized(&a, kept, 100, 4096);
    assert_null(fh_resize(&a, gone, 10));
    struct fh_measure after = measure(&heap);
    assert_memory_equal(&before, &after, sizeof after);
    expect_sound(&heap);
    fh_ctl_set("on_error", "abort");
    fh_free_sized(&a, kept, 100, 16);
    fh_movable_destroy(&heap);
}

struct walked {
    const unsigned char *last;
    size_t live, live_bytes, free, free_bytes;
};

static int walk_one(void *context, const struct fh_block *block)
{
    struct walked *walked = context;
    assert_true((const unsigned char *)block->address >= walked->last);
    walked->last = (const unsigned char *)block->address + block->usable;
    if (block->is_live) {
        walked->live++;
        walked->live_bytes += block->usable;
    } else {
        walked->free++;
        walked->free_bytes += block->usable;
    }
    return 0;
}

static void test_walk_and_measure_agree(void **unused)
{
    (void)unused;
    struct fh_movable heap;
    open_buffer(&heap);
    run_random(&heap, 200, 3000, 100, 10, 5);
    struct walked walked = {0};
    assert_int_equal(fh_movable_walk(&heap, walk_one, &walked), 0);
    struct fh_measure now = measure(&heap);
    assert_int_equal(walked.live, now.live_blocks);
    assert_int_equal(walked.live_bytes, now.live_bytes);
    assert_int_equal(walked.free, now.free_blocks);
    assert_int_equal(walked.free_bytes, now.free_bytes);
    assert_true(now.live_bytes + now.free_bytes + now.metadata <= now.footprint);
    fh_movable_destroy(&heap);
}

static void test_check_sees_a_broken_header(void **unused)
{
    (void)unused;
    struct fh_movable heap;
    open_buffer(&heap);
    unsigned char *at = fh_movable_resolve(&heap, fh_movable_alloc(&heap, 100));
    fh_movable_alloc(&heap, 100);
    at[-8] ^= 1; /* its length */
    assert_true(fh_movable_check(&heap) > 0);
    at[-8] ^= 1;
    at[-16] ^= 1; /* its handle */
    assert_true(fh_movable_check(&heap) > 0);
    at[-16] ^= 1;
    expect_sound(&heap);
    fh_movable_destroy(&heap);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_contents_survive_any_sequence_on_a_buffer),
        cmocka_unit_test(test_contents_survive_any_sequence_over_the_system),
        cmocka_unit_test(test_a_stale_handle_is_seen),
        cmocka_unit_test(
            test_a_stale_handle_resolves_beyond_the_heap_until_its_index_is_used_again),
        cmocka_unit_test(test_invented_handles_resolve_to_nothing),
        cmocka_unit_test(test_misuse_of_handles_changes_nothing),
        cmocka_unit_test(test_pins_nest),
        cmocka_unit_test(test_a_pinned_block_does_not_move_by_resize),
        cmocka_unit_test(test_the_address_leads_to_the_handle),
        cmocka_unit_test(test_ten_thousand_handles_grow_the_table_and_trim_it),
        cmocka_unit_test(test_compaction_reaches_the_live_bytes_and_gives_pages_back),
        cmocka_unit_test(test_a_step_moves_no_more_than_it_may),
        cmocka_unit_test(test_a_step_without_time_ends_and_says_what_remains),
        cmocka_unit_test(test_pinned_blocks_end_compaction_rather_than_turn_it_round),
        cmocka_unit_test(test_a_full_heap_compacts_into_its_holes),
        cmocka_unit_test(test_blocks_that_do_not_pack_are_not_carried_round_for_ever),
        cmocka_unit_test(test_large_blocks_stay_and_their_pages_go_when_freed),
        cmocka_unit_test(test_steps_too_narrow_for_a_block_leave_it_and_wider_ones_do_not),
        cmocka_unit_test(test_the_range_can_be_moved),
        cmocka_unit_test(test_it_lives_in_a_block_of_another_allocator),
        cmocka_unit_test(test_what_it_can_not_be_opened_over_is_said),
        cmocka_unit_test(test_arguments_that_make_no_sense_are_refused),
        cmocka_unit_test(test_zeroed_blocks_are_zero),
        cmocka_unit_test(test_no_growth_is_kept_to),
        cmocka_unit_test(test_the_exhausted_callback_may_compact),
        cmocka_unit_test(test_memory_that_fails_at_any_point_loses_nothing),
        cmocka_unit_test(test_blocks_of_the_interface_stay_where_they_are),
        cmocka_unit_test(test_resize_keeps_the_alignment_a_block_was_given),
        cmocka_unit_test(test_misuse_through_the_interface_changes_nothing),
        cmocka_unit_test(test_walk_and_measure_agree),
        cmocka_unit_test(test_check_sees_a_broken_header),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
