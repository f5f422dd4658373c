/* Object pools over every kind of memory: what pool.h promises. */
#include "base/core/poison.h"
#include "base/core/random.h"
#include "freehold/heap.h"
#include "freehold/pool.h"
#include "told.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

enum { MEMORY = 64 << 10, MANY = 3000 };

static _Alignas(4096) unsigned char memory[MEMORY];
static struct fh_pool pool;
static struct fh_heap *heap;
static struct fh_allocator parent;

static int open_with(struct fh_place_options place, size_t size, size_t align)
{
    return fh_pool_init(&pool,
                        &(struct fh_pool_options){.place = place, .size = size, .align = align});
}

static int open_chained(void **state)
{
    (void)state;
    heap = fh_heap_create(NULL);
    parent = fh_heap_allocator(heap);
    return open_with(FH_PLACE_PARENT(&parent, 0), 24, 0);
}

static int open_range(void **state)
{
    (void)state;
    return open_with((struct fh_place_options){0}, 24, 0);
}

static int open_buffer(void **state)
{
    (void)state;
    return open_with(FH_PLACE_BUFFER(memory, MEMORY), 24, 8);
}

static int close_it(void **state)
{
    (void)state;
    int broken = fh_pool_check(&pool);
    fh_pool_destroy(&pool);
    if (heap != NULL)
        fh_heap_destroy(heap);
    heap = NULL;
    return broken;
}

/* ---- blocks ---------------------------------------------------------------------------------- */

/* Random allocation and frees; each block holds its number, so two that overlap are seen. */
static void test_blocks_are_apart(void **state)
{
    static unsigned *blocks[MANY];
    struct fh_random random = {3};

    (void)state;
    for (unsigned step = 0; step < 60000; step++) {
        unsigned slot = fh_random_below(&random, 2000);
        if (blocks[slot] == NULL) {
            blocks[slot] = fh_pool_alloc(&pool);
            assert_non_null(blocks[slot]);
            memset(blocks[slot], 0xee, 24);
            *blocks[slot] = slot;
        } else {
            assert_int_equal(*blocks[slot], slot);
            fh_pool_free(&pool, blocks[slot]);
            blocks[slot] = NULL;
        }
        if (step % 5000 == 0)
            assert_int_equal(fh_pool_check(&pool), 0);
    }
    memset(blocks, 0, sizeof blocks);
}

static void test_every_size_and_alignment_fits_its_blocks(void **state)
{
    (void)state;
    for (size_t align = 8; align <= 4096; align *= 2) {
        for (size_t size = 1; size < 3000; size = size * 3 / 2 + 1) {
            assert_int_equal(open_with(FH_PLACE_BUFFER(memory, MEMORY), size, align), 0);
            unsigned char *block, *last = NULL;
            size_t count = 0;
            while ((block = fh_pool_alloc(&pool)) != NULL) {
                assert_int_equal((uintptr_t)block % align, 0);
                assert_true(block >= memory && block + size <= memory + MEMORY);
                assert_true(last == NULL || block >= last + size || block + size <= last);
                memset(block, 0xff, size);
                last = block;
                count++;
            }
            size_t stride = (size + align - 1) / align * align;
            assert_true((count + 1) * stride + stride / 32 * count + 2 * align + 128 +
                            MEMORY / 60 >=
                        MEMORY);
            assert_int_equal(fh_pool_check(&pool), 0);
            fh_pool_destroy(&pool);
        }
    }
}

static void test_first_chunk_holds_what_was_asked_for(void **state)
{
    (void)state;
    for (size_t size = 1; size < 9000; size = size * 3 / 2 + 1) {
        for (size_t first = 1; first < 2000; first = first * 3 + 1) {
            fh_pool_destroy(&pool);
            struct fh_pool_options options = {
                .place = FH_PLACE_PARENT(&parent, 0), .size = size, .align = 8, .first = first};
            assert_int_equal(fh_pool_init(&pool, &options), 0);
            for (size_t i = 0; i < first; i++)
                assert_non_null(fh_pool_alloc(&pool));
            assert_int_equal(pool.count, 1);
        }
    }
}

static void test_freed_block_is_the_next_one(void **state)
{
    (void)state;
    void *block = fh_pool_alloc(&pool);
    assert_non_null(fh_pool_alloc(&pool));
    fh_pool_free(&pool, block);
    assert_ptr_equal(fh_pool_alloc(&pool), block);
}

static void test_larger_size_or_alignment_is_no_memory(void **state)
{
    (void)state;
    errno = 0;
    assert_null(fh_pool_alloc_with(&pool, pool.size + 1, 0, 0));
    assert_int_equal(errno, ENOMEM);
    errno = 0;
    assert_null(fh_pool_alloc_with(&pool, 1, 64, 0));
    assert_int_equal(errno, ENOMEM);
    errno = 0;
    assert_null(fh_pool_alloc_with(&pool, 1, 3, 0));
    assert_int_equal(errno, EINVAL);
    assert_non_null(fh_pool_alloc_with(&pool, 0, 8, 0));
}

static void test_zeroed_block_is_zero_after_use(void **state)
{
    (void)state;
    void *block = fh_pool_alloc(&pool);
    memset(block, 0xff, 24);
    fh_pool_free(&pool, block);
    unsigned char *again = fh_pool_alloc_with(&pool, 24, 0, FH_ALLOC_ZEROED);
    assert_ptr_equal(again, block);
    for (size_t i = 0; i < 24; i++)
        assert_int_equal(again[i], 0);
}

static void test_resize_stays_or_fails(void **state)
{
    (void)state;
    void *block = fh_pool_alloc(&pool);
    assert_ptr_equal(fh_pool_resize(&pool, block, 24, 3, 0), block);
    assert_ptr_equal(fh_pool_resize(&pool, block, 3, pool.size, 0), block);
    errno = 0;
    assert_null(fh_pool_resize(&pool, block, 3, pool.size + 1, 0));
    assert_int_equal(errno, ENOMEM);
    assert_int_equal(fh_pool_usable_size(&pool, block), pool.size);
}

static void test_small_alignment_saves_memory(void **state)
{
    struct fh_measure measure = {.size = sizeof measure};

    (void)state;
    assert_int_equal(fh_pool_measure(&pool, &measure), 0);
    assert_true((measure.free_blocks + 1) * 24 > MEMORY - MEMORY / 50);
}

/* ---- misuse ------------------------------------------------------------------------------------ */

static void test_every_double_free_is_told(void **state)
{
    void *blocks[300];

    (void)state;
    for (size_t i = 0; i < 300; i++)
        blocks[i] = fh_pool_alloc(&pool);
    for (size_t i = 0; i < 300; i++)
        fh_pool_free(&pool, blocks[i]);
    for (size_t i = 0; i < 300; i++) {
        TOLD("double-free", fh_pool_free(&pool, blocks[i]));
        TOLD("double-free", fh_pool_free_sized(&pool, blocks[i], 24, 0));
    }
}

static void test_misuse_is_told_and_changes_nothing(void **state)
{
    unsigned char *block = fh_pool_alloc(&pool);
    int mine;

    (void)state;
    TOLD("invalid-free", fh_pool_free(&pool, &mine));
    TOLD("invalid-free", fh_pool_free(&pool, block + 100 * pool.size));
    TOLD("interior-free", fh_pool_free(&pool, block + 1));
    TOLD("interior-free", fh_pool_free(&pool, block + 8));
    TOLD("size-mismatch", fh_pool_free_sized(&pool, block, pool.size + 1, 0));
    TOLD("invalid-free", assert_null(fh_pool_resize(&pool, &mine, 1, 2, 0)));
    TOLD(NULL, fh_pool_free(&pool, NULL));
    assert_int_equal(fh_pool_live(&pool), 1);
    TOLD(NULL, fh_pool_free(&pool, block));
}

static void test_free_keeps_errno(void **state)
{
    (void)state;
    void *block = fh_pool_alloc(&pool);
    errno = 77;
    fh_pool_free(&pool, block);
    assert_int_equal(errno, 77);
}

static void test_overwritten_list_is_told_and_mended(void **state)
{
    (void)state;
    if (fh_poison_is_on())
        return; /* the write below is what is reported then */
    void *live = fh_pool_alloc(&pool), *block = fh_pool_alloc(&pool);
    fh_pool_free(&pool, block);
    memset(block, 0x7f, 4); /* a write after the free: the link is nonsense */
    assert_ptr_equal(fh_pool_alloc(&pool), block);
    TOLD("heap-corruption", assert_ptr_not_equal(fh_pool_alloc(&pool), live));
    assert_int_equal(fh_pool_check(&pool), 0);
}

static void test_live_block_is_never_handed_out_again(void **state)
{
    (void)state;
    if (fh_poison_is_on())
        return;
    void *live = fh_pool_alloc(&pool), *block = fh_pool_alloc(&pool);
    uint32_t place = (uint32_t)(((uintptr_t)live - (uintptr_t)pool.chunk) >> pool.chunk->shift);
    fh_pool_free(&pool, block);
    memcpy(block, &place, sizeof place);
    assert_ptr_equal(fh_pool_alloc(&pool), block);
    TOLD("heap-corruption", assert_ptr_not_equal(fh_pool_alloc(&pool), live));
}

/* ---- memory ------------------------------------------------------------------------------------ */

static void test_chunks_double(void **state)
{
    (void)state;
    for (int i = 0; i < 100000; i++)
        assert_non_null(fh_pool_alloc(&pool));
    assert_in_range(pool.count, 2, 12);
    assert_int_equal(fh_pool_live(&pool), 100000);
}

static void test_blocks_come_from_the_oldest_chunk(void **state)
{
    static void *blocks[MANY];

    (void)state;
    if (fh_poison_is_on())
        return; /* there is no chunk at hand then */
    for (int i = 0; i < MANY; i++)
        blocks[i] = fh_pool_alloc(&pool);
    for (int i = MANY - 1; i >= 0; i--)
        fh_pool_free(&pool, blocks[i]);
    for (int i = 0; i < 100; i++)
        fh_pool_free(&pool, fh_pool_alloc(&pool));
    assert_int_equal(fh_pool_check(&pool), 0);
    /* What is free in the chunk at hand is taken first; then the first chunk's. */
    while (pool.chunk->free != FH_POOL_NONE)
        assert_non_null(fh_pool_alloc(&pool));
    uintptr_t next = (uintptr_t)fh_pool_alloc(&pool);
    assert_true(next - (uintptr_t)pool.chunks[0] < pool.chunks[0]->bytes);
}

static void test_trim_gives_empty_chunks_back(void **state)
{
    static void *blocks[MANY];
    struct fh_measure before = {.size = sizeof before}, after = {.size = sizeof after};

    (void)state;
    void *kept = fh_pool_alloc(&pool);
    for (int i = 0; i < MANY; i++)
        blocks[i] = fh_pool_alloc(&pool);
    for (int i = 0; i < MANY; i++)
        fh_pool_free(&pool, blocks[i]);
    fh_pool_measure(&pool, &before);
    size_t given = fh_pool_trim(&pool);
    fh_pool_measure(&pool, &after);
    assert_true(given > before.footprint / 2);
    assert_int_equal(after.footprint, before.footprint - given);
    assert_int_equal(fh_pool_check(&pool), 0);
    for (int i = 0; i < MANY; i++)
        assert_ptr_not_equal(fh_pool_alloc(&pool), kept);
    assert_int_equal(fh_pool_live(&pool), MANY + 1);
}

static void test_reset_frees_all_and_keeps_memory(void **state)
{
    struct fh_measure before = {.size = sizeof before}, after = {.size = sizeof after};

    (void)state;
    for (int i = 0; i < 2000; i++)
        assert_non_null(fh_pool_alloc(&pool));
    fh_pool_measure(&pool, &before);
    fh_pool_reset(&pool);
    assert_int_equal(fh_pool_live(&pool), 0);
    for (int i = 0; i < 2000; i++)
        assert_non_null(fh_pool_alloc(&pool));
    fh_pool_measure(&pool, &after);
    assert_int_equal(after.footprint, before.footprint);
}

static void test_full_buffer_recovers(void **state)
{
    void *block, *last = NULL;
    size_t count = 0;

    (void)state;
    while ((block = fh_pool_alloc(&pool)) != NULL) {
        last = block;
        count++;
    }
    assert_int_equal(errno, ENOMEM);
    assert_int_equal(fh_pool_live(&pool), count);
    fh_pool_free(&pool, last);
    assert_ptr_equal(fh_pool_alloc(&pool), last);
    assert_null(fh_pool_alloc(&pool));
}

static void test_capacity_limits_a_chained_pool(void **state)
{
    struct fh_measure measure = {.size = sizeof measure};

    (void)state;
    fh_pool_destroy(&pool);
    assert_int_equal(open_with(FH_PLACE_PARENT(&parent, 100000), 32, 0), 0);
    while (fh_pool_alloc(&pool) != NULL)
        ;
    fh_pool_measure(&pool, &measure);
    assert_in_range(measure.live_bytes, 95000, 100000);
    assert_true(measure.footprint <= 100000);
}

static void test_no_growth_takes_nothing(void **state)
{
    struct fh_measure before = {.size = sizeof before}, after = {.size = sizeof after};

    (void)state;
    assert_non_null(fh_pool_alloc(&pool));
    fh_pool_measure(&pool, &before);
    while (fh_pool_alloc_with(&pool, 24, 0, FH_ALLOC_NO_GROWTH) != NULL)
        ;
    fh_pool_measure(&pool, &after);
    assert_int_equal(after.footprint, before.footprint);
    assert_int_equal(after.free_blocks, 0);
    assert_non_null(fh_pool_alloc(&pool));
}

static void test_nothing_is_left_with_the_parent(void **state)
{
    struct fh_measure measure = {.size = sizeof measure};

    (void)state;
    for (int i = 0; i < MANY; i++)
        assert_non_null(fh_pool_alloc(&pool));
    fh_pool_destroy(&pool);
    assert_int_equal(fh_heap_measure(heap, &measure), 0);
    assert_int_equal(measure.live_blocks, 0);
}

static void test_works_where_it_was_moved_to(void **state)
{
    (void)state;
    enum { COUNT = 20000 };
    static uint32_t places[COUNT];
    for (uint32_t i = 0; i < COUNT; i++) {
        uint32_t *block = fh_pool_alloc(&pool);
        *block = i;
        places[i] = (uint32_t)((unsigned char *)block - pool.ground.base);
    }
    for (uint32_t i = 0; i < COUNT; i += 2)
        fh_pool_free(&pool, pool.ground.base + places[i]);
    size_t bytes = pool.ground.bytes;
    assert_true(pool.count > 1);
    unsigned char *elsewhere = fh_aligned_alloc(4096, bytes);
    fh_unpoison_defined(pool.ground.base, bytes);
    memcpy(elsewhere, pool.ground.base, bytes);
    memset(pool.ground.base, 0xa5, bytes);
    struct fh_pool moved;
    assert_int_equal(fh_pool_attach(&moved, elsewhere, bytes), 0);
    assert_int_equal(fh_pool_check(&moved), 0);
    assert_int_equal(fh_pool_live(&moved), COUNT / 2);
    for (uint32_t i = 1; i < COUNT; i += 2) {
        assert_int_equal(*(uint32_t *)(void *)(elsewhere + places[i]), i);
        fh_pool_free(&moved, elsewhere + places[i]);
    }
    for (uint32_t i = 0; i < COUNT; i++)
        assert_non_null(fh_pool_alloc(&moved));
    assert_int_equal(fh_pool_check(&moved), 0);
    fh_unpoison(elsewhere, bytes);
    fh_free_any(elsewhere);
    fh_pool_destroy(&pool); /* its bytes are scribbled over */
    assert_int_equal(open_range(NULL), 0);
}

static void test_attaching_nonsense_is_refused(void **state)
{
    static _Alignas(64) unsigned char elsewhere[4096];
    struct fh_pool moved;

    (void)state;
    for (int fill = 0; fill < 256; fill++) {
        memset(elsewhere, fill, sizeof elsewhere);
        assert_int_equal(fh_pool_attach(&moved, elsewhere, sizeof elsewhere), -EINVAL);
    }
    assert_int_equal(fh_pool_attach(&moved, NULL, 4096), -EINVAL);
}

static void test_wrong_options_are_refused(void **state)
{
    (void)state;
    assert_int_equal(open_with(FH_PLACE_BUFFER(memory, MEMORY), 0, 0), -EINVAL);
    assert_int_equal(open_with(FH_PLACE_BUFFER(memory, MEMORY), 8, 24), -EINVAL);
    assert_int_equal(open_with(FH_PLACE_BUFFER(memory, MEMORY), SIZE_MAX, 8), -EINVAL);
    assert_int_equal(open_with(FH_PLACE_BUFFER(memory, 64), 8, 8), -EINVAL);
    assert_int_equal(open_buffer(NULL), 0);
}

/* ---- looking at it ------------------------------------------------------------------------------ */

static int free_odd(void *context, void *block)
{
    ++*(size_t *)context;
    if (*(unsigned *)block % 2 == 1)
        fh_pool_free(&pool, block);
    return 0;
}

static void test_each_visits_live_blocks_which_may_be_freed(void **state)
{
    size_t visits = 0;

    (void)state;
    for (unsigned i = 0; i < 1000; i++)
        *(unsigned *)fh_pool_alloc(&pool) = i;
    assert_int_equal(fh_pool_each(&pool, free_odd, &visits), 0);
    assert_int_equal(visits, 1000);
    assert_int_equal(fh_pool_live(&pool), 500);
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
    for (unsigned i = 0; i < 1000; i++)
        *(unsigned *)fh_pool_alloc(&pool) = i;
    fh_pool_each(&pool, free_odd, &sum.size);
    assert_int_equal(fh_pool_walk(&pool, count, &sum), 0);
    assert_int_equal(fh_pool_measure(&pool, &measure), 0);
    assert_int_equal(measure.live_blocks, sum.live_blocks);
    assert_int_equal(measure.live_bytes, sum.live_bytes);
    assert_int_equal(measure.free_blocks, sum.free_blocks);
    assert_int_equal(measure.free_bytes, sum.free_bytes);
    assert_int_equal(measure.live_bytes + measure.free_bytes + measure.metadata, measure.footprint);
}

static void test_check_finds_a_wrong_bit(void **state)
{
    (void)state;
    void *block = fh_pool_alloc(&pool);
    struct fh_pool_chunk *chunk = pool.chunks[0];
    size_t granule = ((uintptr_t)block - (uintptr_t)chunk) >> chunk->shift;
    uint64_t *word = fh_pool_bits(chunk) + granule / 64, bit = (uint64_t)1 << granule % 64;
    *word &= ~bit;
    TOLD("free list", assert_true(fh_pool_check(&pool) > 0));
    *word |= bit;
    assert_int_equal(fh_pool_check(&pool), 0);
}

int main(void)
{
#define CHAINED(f) cmocka_unit_test_setup_teardown(f, open_chained, close_it)
#define RANGE(f)   cmocka_unit_test_setup_teardown(f, open_range, close_it)
#define BUFFER(f)  cmocka_unit_test_setup_teardown(f, open_buffer, close_it)
#define ALL(f)     CHAINED(f), RANGE(f), BUFFER(f)
    const struct CMUnitTest tests[] = {
        ALL(test_blocks_are_apart),
        cmocka_unit_test(test_every_size_and_alignment_fits_its_blocks),
        CHAINED(test_first_chunk_holds_what_was_asked_for),
        ALL(test_freed_block_is_the_next_one),
        ALL(test_larger_size_or_alignment_is_no_memory),
        ALL(test_zeroed_block_is_zero_after_use),
        ALL(test_resize_stays_or_fails),
        BUFFER(test_small_alignment_saves_memory),
        ALL(test_every_double_free_is_told),
        ALL(test_misuse_is_told_and_changes_nothing),
        ALL(test_free_keeps_errno),
        ALL(test_overwritten_list_is_told_and_mended),
        BUFFER(test_live_block_is_never_handed_out_again),
        RANGE(test_live_block_is_never_handed_out_again),
        CHAINED(test_chunks_double),
        RANGE(test_chunks_double),
        CHAINED(test_blocks_come_from_the_oldest_chunk),
        CHAINED(test_trim_gives_empty_chunks_back),
        ALL(test_reset_frees_all_and_keeps_memory),
        BUFFER(test_full_buffer_recovers),
        CHAINED(test_capacity_limits_a_chained_pool),
        CHAINED(test_no_growth_takes_nothing),
        RANGE(test_no_growth_takes_nothing),
        CHAINED(test_nothing_is_left_with_the_parent),
        RANGE(test_works_where_it_was_moved_to),
        BUFFER(test_attaching_nonsense_is_refused),
        BUFFER(test_wrong_options_are_refused),
        ALL(test_each_visits_live_blocks_which_may_be_freed),
        ALL(test_measure_agrees_with_walk),
        ALL(test_check_finds_a_wrong_bit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
