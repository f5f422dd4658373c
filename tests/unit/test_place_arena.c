/* Arenas of every kind of memory: what arena.h promises. */
#include "base/core/poison.h"
#include "base/core/random.h"
#include "freehold/arena.h"
#include "freehold/heap.h"
#include "told.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static _Alignas(64) unsigned char memory[64 << 10];
static struct fh_arena arena;
static struct fh_heap *heap;
static struct fh_allocator parent;

static int open_chained(void **state)
{
    (void)state;
    heap = fh_heap_create(NULL);
    parent = fh_heap_allocator(heap);
    return fh_arena_init(&arena, &(struct fh_arena_options){.place = FH_PLACE_PARENT(&parent, 0)});
}

static int open_range(void **state)
{
    (void)state;
    return fh_arena_init(&arena, NULL);
}

static int open_buffer(void **state)
{
    (void)state;
    return fh_arena_init(
        &arena, &(struct fh_arena_options){.place = FH_PLACE_BUFFER(memory, sizeof memory)});
}

static int close_it(void **state)
{
    (void)state;
    int broken = fh_arena_check(&arena);
    fh_arena_destroy(&arena);
    if (heap != NULL)
        fh_heap_destroy(heap);
    heap = NULL;
    return broken;
}

static size_t footprint(void)
{
    struct fh_measure measure = {.size = sizeof measure};
    fh_arena_measure(&arena, &measure);
    return measure.footprint;
}

/* ---- blocks ---------------------------------------------------------------------------------- */

/* Random sizes and alignments; every byte is written, and none of it is another's. */
static void test_blocks_are_aligned_and_apart(void **state)
{
    enum { COUNT = 400 };
    static struct {
        unsigned char *block;
        size_t size;
    } blocks[COUNT];
    struct fh_random random = {7};

    (void)state;
    for (unsigned i = 0; i < COUNT; i++) {
        size_t align = (size_t)1 << fh_random_below(&random, 8);
        size_t size = fh_random_below(&random, 90);
        unsigned char *block = fh_random_below(&random, 2) != 0
                                   ? fh_arena_alloc(&arena, size)
                                   : fh_arena_alloc_with(&arena, size, align, 0);
        if (block == NULL)
            break; /* the buffer is full */
        assert_int_equal((uintptr_t)block % FH_ALIGN_DEFAULT, 0);
        memset(block, (int)i, size);
        blocks[i].block = block;
        blocks[i].size = size;
    }
    for (unsigned i = 0; i < COUNT && blocks[i].block != NULL; i++)
        for (size_t j = 0; j < blocks[i].size; j++)
            assert_int_equal(blocks[i].block[j], (unsigned char)i);
}

static void test_alignment_is_what_was_asked_for(void **state)
{
    (void)state;
    for (size_t align = 1; align <= 8192; align *= 2) {
        assert_non_null(fh_arena_alloc(&arena, 1));
        void *block = fh_arena_alloc_with(&arena, 3, align, 0);
        assert_non_null(block);
        assert_int_equal((uintptr_t)block % align, 0);
    }
    errno = 0;
    assert_null(fh_arena_alloc_with(&arena, 8, 48, 0));
    assert_int_equal(errno, EINVAL);
    errno = 0;
    assert_null(fh_arena_alloc_with(&arena, 8, FH_ALIGN_MAX * 2, 0));
    assert_int_equal(errno, EINVAL);
}

static void test_empty_blocks_are_distinct(void **state)
{
    (void)state;
    void *one = fh_arena_alloc(&arena, 0), *other = fh_arena_alloc(&arena, 0);
    assert_non_null(one);
    assert_ptr_not_equal(one, other);
}

static void test_huge_sizes_do_not_wrap(void **state)
{
    (void)state;
    assert_non_null(fh_arena_alloc(&arena, 1));
    for (size_t less = 0; less < 40; less++) {
        volatile size_t huge = SIZE_MAX - less, half = PTRDIFF_MAX - less;
        errno = 0;
        assert_null(fh_arena_alloc(&arena, huge));
        assert_int_equal(errno, ENOMEM);
        assert_null(fh_arena_alloc(&arena, half));
        assert_null(fh_arena_alloc_with(&arena, huge, FH_ALIGN_MAX, 0));
        void *block = fh_arena_alloc(&arena, 1);
        assert_null(fh_arena_resize(&arena, block, 1, huge, 0));
        assert_null(fh_arena_resize(&arena, block, 1, half, 0));
    }
    assert_int_equal(fh_arena_check(&arena), 0);
}

static void test_array_overflow_is_no_memory(void **state)
{
    volatile size_t count = SIZE_MAX / 8 + 2; /* times 8 is 8 */

    (void)state;
    errno = 0;
    assert_null(fh_arena_new_array(&arena, uint64_t, count));
    assert_int_equal(errno, ENOMEM);
    assert_non_null(fh_arena_new_array(&arena, uint64_t, 8));
}

static void test_typed_blocks_are_aligned_for_their_type(void **state)
{
    struct wide {
        _Alignas(128) int value;
    };

    (void)state;
    assert_non_null(fh_arena_new(&arena, char));
    assert_int_equal((uintptr_t)fh_arena_new(&arena, struct wide) % 128, 0);
}

static void test_zeroed_memory_is_zero_after_use(void **state)
{
    (void)state;
    for (int round = 0; round < 3; round++) {
        unsigned char *block = round == 1 ? fh_arena_alloc_zeroed(&arena, 3000)
                                          : fh_arena_alloc_with(&arena, 3000, 0, FH_ALLOC_ZEROED);
        for (size_t i = 0; i < 3000; i++)
            assert_int_equal(block[i], 0);
        memset(block, 0xff, 3000);
        fh_arena_reset(&arena);
    }
}

static void test_last_block_grows_where_it_is(void **state)
{
    (void)state;
    char *text = fh_arena_alloc(&arena, 10);
    strcpy(text, "here");
    assert_ptr_equal(fh_arena_resize(&arena, text, 10, 2000, 0), text);
    assert_string_equal(text, "here");
    assert_true(fh_arena_resize_in_place(&arena, text, 2000, 100));
    char *next = fh_arena_alloc(&arena, 1);
    assert_int_equal(next - text, fh_poison_is_on() ? 112 + 16 : 112);
    assert_false(fh_arena_resize_in_place(&arena, text, 100, 113));
    assert_true(fh_arena_resize_in_place(&arena, text, 100, 112));
}

static void test_resize_keeps_alignment_and_content(void **state)
{
    (void)state;
    for (size_t align = 16; align <= 1024; align *= 2) {
        unsigned char *block = fh_arena_alloc_with(&arena, 20, align, 0);
        for (unsigned char i = 0; i < 20; i++)
            block[i] = i;
        assert_non_null(fh_arena_alloc(&arena, 16));
        unsigned char *moved = fh_arena_resize(&arena, block, 20, 200, 0);
        assert_ptr_not_equal(moved, block);
        assert_int_equal((uintptr_t)moved % align, 0);
        for (unsigned char i = 0; i < 20; i++)
            assert_int_equal(moved[i], i);
    }
}

static void test_resize_without_old_size_loses_nothing(void **state)
{
    struct fh_allocator allocator = fh_arena_allocator(&arena);

    (void)state;
    char *text = fh_alloc(&allocator, 100);
    strcpy(text, "kept");
    assert_non_null(fh_alloc(&allocator, 1));
    assert_string_equal(fh_resize(&allocator, text, 5000), "kept");
}

static void test_sized_frees_in_reverse_give_the_place_back(void **state)
{
    void *blocks[20], *first = fh_arena_alloc(&arena, 8);

    (void)state;
    for (size_t i = 0; i < 20; i++)
        blocks[i] = fh_arena_alloc(&arena, i * 7);
    for (size_t i = 20; i-- > 0;)
        fh_arena_free_sized(&arena, blocks[i], i * 7, 0);
    assert_ptr_equal(fh_arena_alloc(&arena, 30), blocks[0]);
    assert_ptr_not_equal(first, blocks[0]);
}

static void test_misuse_is_told_and_changes_nothing(void **state)
{
    (void)state;
    unsigned char *block = fh_arena_alloc(&arena, 64), *last = fh_arena_alloc(&arena, 64);
    struct fh_arena_mark before = fh_arena_mark(&arena);
    TOLD("invalid-free", fh_arena_free(&arena, &before));
    TOLD("interior-free", fh_arena_free(&arena, block + 8));
    TOLD("size-mismatch", fh_arena_free_sized(&arena, last, 4096, 0));
    TOLD("invalid-free", assert_null(fh_arena_resize(&arena, &before, 1, 2, 0)));
    TOLD(NULL, fh_arena_free(&arena, NULL));
    TOLD(NULL, fh_arena_free(&arena, block));
    assert_int_equal(fh_arena_mark(&arena).used, before.used);
    fh_arena_free_sized(&arena, last, 64, 0);
    TOLD("double-free", fh_arena_free_sized(&arena, last, 64, 0));
}

/* ---- marks ----------------------------------------------------------------------------------- */

static void test_rewind_frees_what_came_after_the_mark(void **state)
{
    (void)state;
    char *kept = fh_arena_strdup(&arena, "kept");
    struct fh_arena_mark mark = fh_arena_mark(&arena);
    void *next = fh_arena_alloc(&arena, 100);
    for (size_t size = 1; size < 9000 && fh_arena_alloc(&arena, size) != NULL; size *= 2)
        ;
    fh_arena_rewind(&arena, mark);
    assert_string_equal(kept, "kept");
    assert_ptr_equal(fh_arena_alloc(&arena, 100), next);
}

static void test_marks_nest(void **state)
{
    struct fh_arena_mark marks[50];

    (void)state;
    for (size_t i = 0; i < 50; i++) {
        marks[i] = fh_arena_mark(&arena);
        assert_non_null(fh_arena_alloc(&arena, i * 40));
    }
    for (size_t i = 50; i-- > 0;) {
        fh_arena_rewind(&arena, marks[i]);
        assert_int_equal(fh_arena_mark(&arena).used, marks[i].used);
        assert_int_equal(fh_arena_check(&arena), 0);
    }
}

static void test_mark_that_was_rewound_past_is_told(void **state)
{
    (void)state;
    struct fh_arena_mark early = fh_arena_mark(&arena);
    assert_non_null(fh_arena_alloc(&arena, 1000));
    struct fh_arena_mark late = fh_arena_mark(&arena);
    fh_arena_rewind(&arena, early);
    TOLD("invalid-free", fh_arena_rewind(&arena, late));
    assert_int_equal(fh_arena_mark(&arena).used, early.used);
}

static void test_reset_keeps_memory(void **state)
{
    size_t after_first = 0;

    (void)state;
    for (int round = 0; round < 10; round++) {
        for (int i = 0; i < 100; i++)
            assert_non_null(fh_arena_alloc(&arena, 500));
        if (round == 0)
            after_first = footprint();
        fh_arena_reset(&arena);
        assert_int_equal(footprint(), after_first);
    }
}

static void test_oversized_blocks_do_not_pile_up_over_resets(void **state)
{
    size_t after_second = 0;

    (void)state;
    for (int round = 0; round < 10; round++) {
        assert_non_null(fh_arena_alloc(&arena, 100));
        assert_non_null(fh_arena_alloc(&arena, 3 << 20));
        assert_non_null(fh_arena_alloc(&arena, 2 << 20));
        if (round == 2)
            after_second = footprint();
        fh_arena_reset(&arena);
        if (round >= 2)
            assert_int_equal(footprint(), after_second);
    }
}

static void test_trim_gives_memory_back(void **state)
{
    (void)state;
    void *kept = fh_arena_strdup(&arena, "kept");
    struct fh_arena_mark mark = fh_arena_mark(&arena);
    for (int i = 0; i < 300; i++)
        memset(fh_arena_alloc(&arena, 4096), 1, 4096);
    size_t before = footprint();
    fh_arena_rewind(&arena, mark);
    size_t given = fh_arena_trim(&arena, 0);
    assert_true(given > 900000);
    assert_int_equal(footprint(), before - given);
    assert_int_equal(fh_arena_check(&arena), 0);
    assert_string_equal(kept, "kept");
    for (int i = 0; i < 300; i++)
        memset(fh_arena_alloc(&arena, 4096), 1, 4096);
    assert_true(footprint() <= before + before / 8);
}

static void test_trim_keeps_what_it_is_told_to(void **state)
{
    (void)state;
    for (int i = 0; i < 300; i++)
        assert_non_null(fh_arena_alloc(&arena, 4096));
    fh_arena_reset(&arena);
    fh_arena_trim(&arena, 512 << 10);
    assert_in_range(footprint(), 256 << 10, 640 << 10);
}

/* ---- the kinds of memory ----------------------------------------------------------------------- */

static void test_chunks_double(void **state)
{
    struct fh_measure measure = {.size = sizeof measure};

    (void)state;
    for (int i = 0; i < 10000; i++)
        assert_non_null(fh_arena_alloc(&arena, 64));
    assert_int_equal(fh_arena_measure(&arena, &measure), 0);
    /* 4, 8, ... 512 KiB: 8 chunks, a live stretch each */
    assert_in_range(measure.live_blocks, 7, 9);
    assert_true(measure.footprint < 2 * measure.live_bytes + 8192);
}

static void test_oversized_block_does_not_waste_the_chunk(void **state)
{
    (void)state;
    unsigned char *before = fh_arena_alloc(&arena, 16);
    assert_non_null(fh_arena_alloc(&arena, 5 << 20));
    unsigned char *after = fh_arena_alloc(&arena, 16);
    assert_true(after - before <= 32 && after > before);
}

static void test_capacity_limits_a_chained_arena(void **state)
{
    (void)state;
    fh_arena_destroy(&arena);
    fh_arena_init(&arena, &(struct fh_arena_options){.place = FH_PLACE_PARENT(&parent, 100000)});
    size_t bytes = 0;
    while (fh_arena_alloc(&arena, 1000) != NULL)
        bytes += 1000;
    assert_int_equal(errno, ENOMEM);
    assert_in_range(bytes, 90000, 100000);
    assert_true(footprint() <= 100000);
}

static void test_nothing_is_left_with_the_parent(void **state)
{
    struct fh_measure measure = {.size = sizeof measure};

    (void)state;
    for (size_t size = 1; size < (4u << 20); size *= 3)
        assert_non_null(fh_arena_alloc(&arena, size));
    fh_arena_destroy(&arena);
    assert_int_equal(fh_heap_measure(heap, &measure), 0);
    assert_int_equal(measure.live_blocks, 0);
}

static bool refuse(void *context, size_t size)
{
    ++*(int *)context;
    (void)size;
    return false;
}

static void test_exhausted_is_asked_once(void **state)
{
    int asked = 0;
    struct fh_arena_options options = {.place = FH_PLACE_BUFFER(memory, 4096)};

    (void)state;
    options.place.exhausted = refuse;
    options.place.exhausted_context = &asked;
    assert_int_equal(fh_arena_init(&arena, &options), 0);
    assert_null(fh_arena_alloc(&arena, 5000));
    assert_int_equal(asked, 1);
}

static void test_no_growth_takes_nothing(void **state)
{
    (void)state;
    assert_non_null(fh_arena_alloc(&arena, 1));
    size_t before = footprint();
    while (fh_arena_alloc_with(&arena, 100, 0, FH_ALLOC_NO_GROWTH) != NULL)
        ;
    assert_int_equal(footprint(), before);
    assert_non_null(fh_arena_alloc(&arena, 100));
}

static void test_last_block_of_a_range_grows_without_a_copy(void **state)
{
    (void)state;
    char *text = fh_arena_alloc(&arena, 100), *grown = text;
    for (size_t size = 100; size < (32u << 20); size *= 2)
        grown = fh_arena_resize(&arena, grown, size, 2 * size, 0);
    assert_ptr_equal(grown, text);
}

static void test_works_where_it_was_moved_to(void **state)
{
    static _Alignas(64) unsigned char elsewhere[sizeof memory];
    struct fh_arena moved;

    (void)state;
    char *text = fh_arena_alloc_with(&arena, 100, 64, 0);
    strcpy(text, "moved");
    struct fh_arena_mark mark = fh_arena_mark(&arena);
    assert_non_null(fh_arena_alloc(&arena, 1000));
    size_t offset = (size_t)(text - (char *)memory), used = fh_arena_mark(&arena).used;
    fh_unpoison_defined(memory, sizeof memory);
    memcpy(elsewhere, memory, sizeof memory);
    memset(memory, 0xa5, sizeof memory);
    assert_int_equal(fh_arena_attach(&moved, elsewhere, sizeof elsewhere), 0);
    assert_int_equal(fh_arena_check(&moved), 0);
    assert_string_equal(elsewhere + offset, "moved");
    assert_int_equal(fh_arena_mark(&moved).used, used);
    fh_arena_rewind(&moved, mark);
    assert_non_null(fh_arena_alloc(&moved, 1000));
    assert_int_equal(fh_arena_mark(&moved).used, used);
    assert_int_equal(open_buffer(NULL), 0);
}

static void test_attaching_nonsense_is_refused(void **state)
{
    static _Alignas(64) unsigned char elsewhere[1024];
    struct fh_arena moved;

    (void)state;
    memset(elsewhere, 0xff, sizeof elsewhere);
    assert_int_equal(fh_arena_attach(&moved, elsewhere, sizeof elsewhere), -EINVAL);
    memset(elsewhere, 0, sizeof elsewhere);
    assert_int_equal(fh_arena_attach(&moved, elsewhere, sizeof elsewhere), -EINVAL);
    /* Here a block of 64 would not be aligned to 64 any more. */
    assert_non_null(fh_arena_alloc_with(&arena, 100, 64, 0));
    memcpy(elsewhere + 16, memory, sizeof(struct fh_arena_chunk));
    assert_int_equal(fh_arena_attach(&moved, elsewhere + 16, 512), -EINVAL);
}

static void test_wrong_options_are_refused(void **state)
{
    struct fh_arena other;

    (void)state;
    assert_int_equal(
        fh_arena_init(&other, &(struct fh_arena_options){.place = FH_PLACE_BUFFER(memory, 40)}),
        -EINVAL);
    assert_int_equal(
        fh_arena_init(&other, &(struct fh_arena_options){.place = FH_PLACE_PARENT(&parent, 0),
                                                         .chunk = 8192,
                                                         .chunk_max = 4096}),
        -EINVAL);
}

/* ---- texts ----------------------------------------------------------------------------------- */

static void test_texts_are_copied(void **state)
{
    char text[] = "hello, world";

    (void)state;
    char *all = fh_arena_strdup(&arena, text), *part = fh_arena_strndup(&arena, text, 5);
    char *whole = fh_arena_strndup(&arena, text, 500), *bytes = fh_arena_dup(&arena, text, 3);
    memset(text, 'x', sizeof text - 1);
    assert_string_equal(all, "hello, world");
    assert_string_equal(part, "hello");
    assert_string_equal(whole, "hello, world");
    assert_memory_equal(bytes, "hel", 3);
}

static void test_printed_text_of_any_length_is_whole(void **state)
{
    (void)state;
    for (int width = 1; width < 9000; width = width * 2 + 1) {
        char *text = fh_arena_printf(&arena, "%*d|", width, 7);
        assert_non_null(text);
        assert_int_equal(strlen(text), (size_t)width + 1);
        assert_int_equal(text[width - 1], '7');
        assert_int_equal(text[width], '|');
    }
}

/* ---- looking at it ------------------------------------------------------------------------------ */

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
    struct fh_arena_mark mark = {0};
    for (size_t i = 0; i < 600; i++) {
        assert_non_null(fh_arena_alloc(&arena, i % 90));
        if (i == 20)
            mark = fh_arena_mark(&arena);
    }
    fh_arena_rewind(&arena, mark);
    assert_int_equal(fh_arena_walk(&arena, count, &sum), 0);
    assert_int_equal(fh_arena_measure(&arena, &measure), 0);
    assert_int_equal(measure.live_blocks, sum.live_blocks);
    assert_int_equal(measure.live_bytes, sum.live_bytes);
    assert_int_equal(measure.free_blocks, sum.free_blocks);
    assert_int_equal(measure.free_bytes, sum.free_bytes);
    assert_int_equal(measure.live_bytes + measure.free_bytes + measure.metadata, measure.footprint);
}

static void test_owns_its_blocks_only(void **state)
{
    int mine;

    (void)state;
    void *block = fh_arena_alloc(&arena, 10);
    assert_true(fh_arena_owns(&arena, block));
    assert_false(fh_arena_owns(&arena, &mine));
    assert_false(fh_arena_owns(&arena, NULL));
}

static void test_check_finds_a_broken_chunk(void **state)
{
    (void)state;
    assert_non_null(fh_arena_alloc(&arena, 10));
    size_t used = arena.chunk->used;
    arena.chunk->used = used + 4;
    TOLD("arena", assert_true(fh_arena_check(&arena) > 0));
    arena.chunk->used = used;
    assert_int_equal(fh_arena_check(&arena), 0);
}

int main(void)
{
#define CHAINED(f) cmocka_unit_test_setup_teardown(f, open_chained, close_it)
#define RANGE(f)   cmocka_unit_test_setup_teardown(f, open_range, close_it)
#define BUFFER(f)  cmocka_unit_test_setup_teardown(f, open_buffer, close_it)
#define ALL(f)     CHAINED(f), RANGE(f), BUFFER(f)
    const struct CMUnitTest tests[] = {
        ALL(test_blocks_are_aligned_and_apart),
        ALL(test_alignment_is_what_was_asked_for),
        ALL(test_empty_blocks_are_distinct),
        ALL(test_huge_sizes_do_not_wrap),
        ALL(test_array_overflow_is_no_memory),
        ALL(test_typed_blocks_are_aligned_for_their_type),
        ALL(test_zeroed_memory_is_zero_after_use),
        ALL(test_last_block_grows_where_it_is),
        ALL(test_resize_keeps_alignment_and_content),
        ALL(test_resize_without_old_size_loses_nothing),
        ALL(test_sized_frees_in_reverse_give_the_place_back),
        ALL(test_misuse_is_told_and_changes_nothing),
        ALL(test_rewind_frees_what_came_after_the_mark),
        ALL(test_marks_nest),
        ALL(test_mark_that_was_rewound_past_is_told),
        ALL(test_reset_keeps_memory),
        ALL(test_texts_are_copied),
        ALL(test_printed_text_of_any_length_is_whole),
        ALL(test_measure_agrees_with_walk),
        ALL(test_owns_its_blocks_only),
        ALL(test_check_finds_a_broken_chunk),
        CHAINED(test_oversized_blocks_do_not_pile_up_over_resets),
        RANGE(test_oversized_blocks_do_not_pile_up_over_resets),
        CHAINED(test_trim_gives_memory_back),
        RANGE(test_trim_gives_memory_back),
        CHAINED(test_trim_keeps_what_it_is_told_to),
        RANGE(test_trim_keeps_what_it_is_told_to),
        CHAINED(test_chunks_double),
        CHAINED(test_oversized_block_does_not_waste_the_chunk),
        CHAINED(test_capacity_limits_a_chained_arena),
        CHAINED(test_nothing_is_left_with_the_parent),
        BUFFER(test_exhausted_is_asked_once),
        CHAINED(test_no_growth_takes_nothing),
        RANGE(test_no_growth_takes_nothing),
        RANGE(test_last_block_of_a_range_grows_without_a_copy),
        BUFFER(test_works_where_it_was_moved_to),
        BUFFER(test_attaching_nonsense_is_refused),
        CHAINED(test_wrong_options_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
