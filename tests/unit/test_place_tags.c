/* place/: what first, next, best and worst fit, TLSF and half-fit promise alike, since one engine makes them.
 * Every claim is tested for each of them, with blocks aligned to 16 and to 8. */
#include "base/message.h"
#include "freehold/fit.h"
#include "freehold/half_fit.h"
#include "freehold/stats.h"
#include "freehold/tlsf.h"
#include "os/sys.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { RANGE = 256 << 10, LIVE = 200, STEPS = 3000 };

struct manager {
    const char *name;
    size_t align;
    union {
        struct fh_fit fit;
        struct fh_tlsf tlsf;
        struct fh_half_fit half_fit;
    } handle;
    enum kind { FIRST, NEXT, BEST, WORST, TLSF, HALF_FIT, KINDS } kind;
};

static struct fh_allocator interface_of(struct manager *m)
{
    return m->kind == TLSF       ? fh_tlsf_allocator(&m->handle.tlsf)
           : m->kind == HALF_FIT ? fh_half_fit_allocator(&m->handle.half_fit)
                                 : fh_fit_allocator(&m->handle.fit);
}

static int open_over(struct manager *m, struct fh_place_options place)
{
    struct fh_tlsf_options tlsf = {.place = place, .align = m->align};
    struct fh_half_fit_options half_fit = {.place = place, .align = m->align};
    struct fh_fit_options fit = {
        .place = place, .align = m->align, .policy = (enum fh_fit_policy)m->kind};
    return m->kind == TLSF       ? fh_tlsf_init(&m->handle.tlsf, &tlsf)
           : m->kind == HALF_FIT ? fh_half_fit_init(&m->handle.half_fit, &half_fit)
                                 : fh_fit_init(&m->handle.fit, &fit);
}

static int attach_to(struct manager *m, void *memory, size_t bytes)
{
    return m->kind == TLSF       ? fh_tlsf_attach(&m->handle.tlsf, memory, bytes)
           : m->kind == HALF_FIT ? fh_half_fit_attach(&m->handle.half_fit, memory, bytes)
                                 : fh_fit_attach(&m->handle.fit, memory, bytes);
}

static _Alignas(4096) unsigned char memory[RANGE], elsewhere[RANGE];

/* Runs a claim for each manager and granule over `memory`. */
static void for_each(void (*claim)(struct manager *m, const struct fh_allocator *a))
{
    for (size_t align = 8; align <= 16; align += 8) {
        for (enum kind kind = 0; kind < KINDS; kind++) {
            struct manager m = {.align = align, .kind = kind};
            assert_int_equal(open_over(&m, FH_PLACE_BUFFER(memory, sizeof memory)), 0);
            struct fh_allocator a = interface_of(&m);
            m.name = a.ops->name;
            claim(&m, &a);
            assert_int_equal(fh_allocator_check(&a), 0);
            fh_allocator_destroy(&a);
        }
    }
}

static struct fh_measure measure(const struct fh_allocator *a)
{
    struct fh_measure now = {.size = sizeof now};
    assert_int_equal(fh_allocator_measure(a, &now), 0);
    return now;
}

static uint64_t random_state;

static uint32_t below(uint32_t bound)
{
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    return (uint32_t)((random_state * 0x2545f4914f6cdd1du >> 32) * bound >> 32);
}

/* ---- One sequence, checked after each step ------------------------------------------------------- */

struct live {
    unsigned char *block;
    size_t size, align;
    unsigned char fill;
};

static void fill(struct live *live)
{
    live->fill = (unsigned char)(below(255) + 1);
    memset(live->block, live->fill, live->size);
}

static void assert_kept(const struct live *live, size_t size)
{
    for (size_t i = 0; i < size; i++)
        assert_int_equal(live->block[i], live->fill);
}

static size_t some_size(void)
{
    return below(1u << (4 + below(9)));
}

static void step(const struct fh_allocator *a, struct live *live, size_t granule)
{
    if (live->block == NULL) {
        live->size = some_size();
        live->align = below(8) == 0 ? (size_t)8 << below(7) : 0;
        bool is_zeroed = below(4) == 0;
        live->block = fh_alloc_with(a, live->size, live->align, is_zeroed ? FH_ALLOC_ZEROED : 0);
        if (live->block == NULL)
            return;
        size_t align = live->align > granule ? live->align : granule;
        assert_int_equal((uintptr_t)live->block % align, 0);
        assert_true(fh_allocator_usable_size(a, live->block) >= live->size);
        for (size_t i = 0; is_zeroed && i < live->size; i++)
            assert_int_equal(live->block[i], 0);
        fill(live);
    } else if (below(3) == 0) {
        size_t size = some_size(), kept = size < live->size ? size : live->size;
        unsigned char *moved;
        if (below(2) == 0)
            moved = fh_resize_in_place(a, live->block, live->size, size) ? live->block : NULL;
        else
            moved = fh_resize(a, live->block, size);
        if (moved == NULL) {
            assert_kept(live, live->size);
            return;
        }
        live->block = moved;
        assert_kept(live, kept);
        if (live->align > granule)
            assert_int_equal((uintptr_t)moved % live->align, 0);
        live->size = size;
        fill(live);
    } else {
        assert_kept(live, live->size);
        if (below(2) == 0)
            fh_free_sized(a, live->block, live->size, live->align);
        else
            fh_free(a, live->block);
        live->block = NULL;
    }
}

static void claim_a_random_sequence_keeps_all_invariants(struct manager *m,
                                                         const struct fh_allocator *a)
{
    static struct live live[LIVE];
    memset(live, 0, sizeof live);
    random_state = 0x9e3779b97f4a7c15u + m->kind;
    for (int i = 0; i < STEPS; i++) {
        step(a, &live[below(LIVE)], m->align);
        assert_int_equal(fh_allocator_check(a), 0);
    }
    for (int i = 0; i < LIVE; i++)
        fh_free(a, live[i].block);
    assert_int_equal(measure(a).free_blocks, 1);
    assert_int_equal(measure(a).live_blocks, 0);
}

static void test_a_random_sequence_keeps_all_invariants(void **state)
{
    (void)state;
    for_each(claim_a_random_sequence_keeps_all_invariants);
}

/* ---- Relocation ------------------------------------------------------------------------------------ */

static void claim_a_range_works_where_it_is_moved_to(struct manager *m,
                                                     const struct fh_allocator *a)
{
    static struct live live[LIVE];
    memset(live, 0, sizeof live);
    random_state = 7;
    for (int i = 0; i < STEPS; i++)
        step(a, &live[below(LIVE)], m->align);
    memcpy(elsewhere, memory, sizeof memory);
    memset(memory, 0xa5, sizeof memory);
    struct manager moved = {.kind = m->kind, .align = m->align};
    assert_int_equal(attach_to(&moved, elsewhere, sizeof elsewhere), 0);
    struct fh_allocator b = interface_of(&moved);
    assert_string_equal(b.ops->name, m->name);
    assert_int_equal(fh_allocator_check(&b), 0);
    for (int i = 0; i < LIVE; i++)
        if (live[i].block != NULL)
            live[i].block = elsewhere + (live[i].block - memory);
    for (int i = 0; i < STEPS; i++)
        step(&b, &live[below(LIVE)], m->align);
    assert_int_equal(fh_allocator_check(&b), 0);
    for (int i = 0; i < LIVE; i++)
        fh_free(&b, live[i].block);
    assert_int_equal(measure(&b).free_blocks, 1);
    for (size_t i = 0; i < sizeof memory; i++)
        assert_int_equal(memory[i], 0xa5);
    memcpy(memory, elsewhere, sizeof memory);
}

static void test_a_range_works_where_it_is_moved_to(void **state)
{
    (void)state;
#if defined(__SANITIZE_ADDRESS__)
    skip(); /* it may not copy what is hidden from the program */
#endif
    for_each(claim_a_range_works_where_it_is_moved_to);
}

static void claim_attach_refuses_what_is_no_range(struct manager *m, const struct fh_allocator *a)
{
    struct manager other = {.kind = m->kind == TLSF ? HALF_FIT : TLSF};
    (void)a;
    assert_int_equal(attach_to(&other, memory, sizeof memory), -EINVAL);
    other.kind = m->kind;
    assert_int_equal(attach_to(&other, memory, sizeof memory / 2), -EINVAL);
    assert_int_equal(attach_to(&other, memory + 8, sizeof memory - 8), -EINVAL);
    assert_int_equal(attach_to(&other, memory, sizeof memory), 0);
}

static void test_attach_refuses_what_is_no_range(void **state)
{
    (void)state;
    for_each(claim_attach_refuses_what_is_no_range);
}

/* ---- Growth and exhaustion ------------------------------------------------------------------------- */

static void test_a_range_grows_over_its_source_up_to_its_capacity(void **state)
{
    (void)state;
    for (enum kind kind = 0; kind < KINDS; kind++) {
        struct manager m = {.kind = kind};
        assert_int_equal(open_over(&m, FH_PLACE_SOURCE(fh_source_system(), 8 << 20)), 0);
        struct fh_allocator a = interface_of(&m);
        size_t before = measure(&a).footprint, blocks = 0;
        assert_true(before <= 128 << 10);
        void *last = NULL;
        for (void *p; (p = fh_alloc(&a, 8192)) != NULL; blocks++) {
            memset(p, 1, 8192);
            last = p;
        }
        assert_int_equal(errno, ENOMEM);
        assert_true(blocks > (8 << 20) / 8208 - 10);
        assert_int_equal(measure(&a).footprint, 8 << 20);
        assert_int_equal(measure(&a).live_blocks, blocks);
        fh_free(&a, last);
        assert_non_null(fh_alloc(&a, 8192));
        assert_int_equal(fh_allocator_check(&a), 0);
        fh_allocator_destroy(&a);
    }
}

static void test_no_growth_is_obeyed(void **state)
{
    (void)state;
    for (enum kind kind = 0; kind < KINDS; kind++) {
        struct manager m = {.kind = kind};
        assert_int_equal(open_over(&m, FH_PLACE_SOURCE(fh_source_system(), 8 << 20)), 0);
        struct fh_allocator a = interface_of(&m);
        size_t footprint = measure(&a).footprint;
        assert_null(fh_alloc_with(&a, 1 << 20, 0, FH_ALLOC_NO_GROWTH));
        assert_int_equal(errno, ENOMEM);
        assert_int_equal(measure(&a).footprint, footprint);
        assert_non_null(fh_alloc_with(&a, 1 << 20, 0, 0));
        fh_allocator_destroy(&a);
    }
}

static void test_the_last_block_grows_in_place_with_the_range(void **state)
{
    (void)state;
    for (enum kind kind = 0; kind < KINDS; kind++) {
        struct manager m = {.kind = kind};
        assert_int_equal(open_over(&m, FH_PLACE_SOURCE(fh_source_system(), 8 << 20)), 0);
        struct fh_allocator a = interface_of(&m);
        void *block = fh_alloc(&a, 1000);
        assert_true(fh_resize_in_place(&a, block, 1000, 4 << 20));
        memset(block, 1, 4 << 20);
        assert_int_equal(fh_allocator_check(&a), 0);
        assert_false(fh_resize_in_place(&a, block, 4 << 20, 9 << 20));
        assert_int_equal(fh_allocator_check(&a), 0);
        fh_free(&a, block);
        assert_int_equal(measure(&a).free_blocks, 1);
        fh_allocator_destroy(&a);
    }
}

static void claim_exhaustion_at_every_size_is_clean(struct manager *m, const struct fh_allocator *a)
{
    (void)m;
    for (size_t size = 0; size <= 70000; size = size * 3 + 1) {
        void *first = NULL, **chain = NULL;
        size_t count = 0;
        for (void **p; (p = fh_alloc(a, size < 8 ? 8 : size)) != NULL; chain = p, count++) {
            *p = chain;
            first = p;
        }
        assert_int_equal(errno, ENOMEM);
        assert_non_null(first);
        assert_int_equal(measure(a).live_blocks, count);
        assert_int_equal(fh_allocator_check(a), 0);
        while (chain != NULL) {
            void **next = *chain;
            fh_free(a, chain);
            chain = next;
        }
        assert_int_equal(measure(a).free_blocks, 1);
    }
    errno = 0;
    assert_null(fh_alloc(a, SIZE_MAX));
    assert_int_equal(errno, ENOMEM);
    assert_null(fh_alloc_aligned(a, SIZE_MAX - 2, 4096));
    assert_null(fh_alloc_aligned(a, 1, FH_ALIGN_MAX));
    assert_null(fh_alloc_array(a, SIZE_MAX / 2, 3));
}

static void test_exhaustion_at_every_size_is_clean(void **state)
{
    (void)state;
    for_each(claim_exhaustion_at_every_size_is_clean);
}

static void claim_the_largest_free_block_can_be_had(struct manager *m, const struct fh_allocator *a)
{
    (void)m;
    void *rest = fh_alloc(a, 1000);
    void *whole = fh_alloc(a, measure(a).largest_free);
    assert_non_null(whole);
    assert_null(fh_alloc(a, 1));
    fh_free(a, whole);
    fh_free(a, rest);
}

static void test_the_largest_free_block_can_be_had(void **state)
{
    (void)state;
    for_each(claim_the_largest_free_block_can_be_had);
}

static void test_a_buffer_too_small_is_refused_at_every_size(void **state)
{
    (void)state;
    for (enum kind kind = 0; kind < KINDS; kind++) {
        bool was_opened = false;
        for (size_t bytes = 0; bytes < 8192; bytes += 8) {
            struct manager m = {.kind = kind};
            int error = open_over(&m, FH_PLACE_BUFFER(memory, bytes));
            assert_true(error == 0 || error == -EINVAL);
            if (error != 0) {
                assert_false(was_opened);
                continue;
            }
            was_opened = true;
            struct fh_allocator a = interface_of(&m);
            assert_int_equal(fh_allocator_check(&a), 0);
            void *block = fh_alloc(&a, 1);
            assert_non_null(block);
            assert_true((unsigned char *)block + fh_allocator_usable_size(&a, block) <=
                        memory + bytes);
            assert_int_equal(fh_allocator_check(&a), 0);
            fh_allocator_destroy(&a);
        }
        assert_true(was_opened);
    }
}

struct victim {
    struct fh_allocator a;
    void *block;
    int asked;
};

static bool give_up_one(void *context, size_t size)
{
    struct victim *victim = context;
    (void)size;
    victim->asked++;
    fh_free(&victim->a, victim->block);
    bool had_one = victim->block != NULL;
    victim->block = NULL;
    return had_one;
}

static void test_the_program_is_asked_once_before_failure(void **state)
{
    (void)state;
    for (enum kind kind = 0; kind < KINDS; kind++) {
        struct victim victim = {0};
        struct manager m = {.kind = kind};
        struct fh_place_options place = FH_PLACE_BUFFER(memory, 64 << 10);
        place.exhausted = give_up_one;
        place.exhausted_context = &victim;
        assert_int_equal(open_over(&m, place), 0);
        struct fh_allocator a = interface_of(&m);
        victim.a = a;
        victim.block = fh_alloc(&a, 40000);
        assert_non_null(fh_alloc(&a, 39000));
        assert_int_equal(victim.asked, 1);
        assert_null(fh_alloc(&a, 39000));
        assert_int_equal(victim.asked, 2);
        fh_allocator_destroy(&a);
    }
}

static void test_a_manager_lives_in_a_block_of_another(void **state)
{
    (void)state;
    for (enum kind kind = 0; kind < KINDS; kind++) {
        struct manager outer = {.kind = TLSF}, inner = {.kind = kind};
        assert_int_equal(open_over(&outer, FH_PLACE_BUFFER(memory, sizeof memory)), 0);
        struct fh_allocator parent = interface_of(&outer);
        assert_int_equal(open_over(&inner, FH_PLACE_PARENT(&parent, 64 << 10)), 0);
        struct fh_allocator a = interface_of(&inner);
        void *block = fh_alloc(&a, 5000);
        memset(block, 1, 5000);
        assert_int_equal(fh_allocator_check(&parent), 0);
        fh_allocator_destroy(&a);
        assert_int_equal(measure(&parent).live_blocks, 0);
        fh_allocator_destroy(&parent);
    }
}

/* ---- Blocks ---------------------------------------------------------------------------------------- */

static void claim_a_block_costs_a_word_and_the_rounding(struct manager *m,
                                                        const struct fh_allocator *a)
{
    for (size_t size = 40; size < 600; size++) {
        void *block = fh_alloc(a, size);
        size_t usable = fh_allocator_usable_size(a, block);
        size_t coarse = m->kind == TLSF ? size / 64 : m->kind == HALF_FIT ? size / 4 : 0;
        assert_true(usable >= size && usable < size + m->align + coarse);
        assert_int_equal((usable + 4) % m->align, 0);
        fh_free(a, block);
    }
}

static void claim_a_power_of_two_costs_a_granule(struct manager *m, const struct fh_allocator *a)
{
    for (size_t size = 32; size <= 64 << 10; size *= 2) {
        void *block = fh_alloc(a, size);
        assert_int_equal(fh_allocator_usable_size(a, block), size + m->align - 4);
        fh_free(a, block);
    }
}

static void test_a_power_of_two_costs_a_granule(void **state)
{
    (void)state;
    for_each(claim_a_power_of_two_costs_a_granule);
}

/* What is left at last is used although the size would be rounded to more. */
static void claim_the_last_bytes_serve_a_size_that_is_rounded(struct manager *m,
                                                              const struct fh_allocator *a)
{
    (void)m;
    size_t largest = measure(a).largest_free;
    void *block = fh_alloc(a, largest);
    assert_non_null(block);
    assert_int_equal(fh_allocator_usable_size(a, block), largest);
    fh_free_sized(a, block, largest, 0);
    assert_int_equal(measure(a).live_blocks, 0);
}

static void test_the_last_bytes_serve_a_size_that_is_rounded(void **state)
{
    (void)state;
    for_each(claim_the_last_bytes_serve_a_size_that_is_rounded);
}

static void test_a_block_costs_a_word_and_the_rounding(void **state)
{
    (void)state;
    for_each(claim_a_block_costs_a_word_and_the_rounding);
}

static void claim_resize_keeps_the_alignment_given(struct manager *m, const struct fh_allocator *a)
{
    (void)m;
    for (size_t align = 16; align <= 16384; align *= 2) {
        unsigned char *block = fh_alloc_aligned(a, 100, align);
        memset(block, 0x5a, 100);
        /* Enough steps that it grows in place, slides and moves: others lie behind. */
        for (size_t size = 200; size < 30000; size += size / 2) {
            void *wall = fh_alloc(a, 64);
            block = fh_resize(a, block, size);
            assert_non_null(block);
            assert_int_equal((uintptr_t)block % align, 0);
            for (int i = 0; i < 100; i++)
                assert_int_equal(block[i], 0x5a);
            fh_free(a, wall);
            assert_int_equal(fh_allocator_check(a), 0);
        }
        block = fh_resize(a, block, 10);
        assert_int_equal((uintptr_t)block % align, 0);
        fh_free_sized(a, block, 10, align);
    }
}

static void test_resize_keeps_the_alignment_given(void **state)
{
    (void)state;
    for_each(claim_resize_keeps_the_alignment_given);
}

static void claim_resize_gives_an_alignment_asked_for(struct manager *m,
                                                      const struct fh_allocator *a)
{
    (void)m;
    unsigned char *block = fh_alloc(a, 100);
    memset(block, 0x5a, 100);
    block = fh_resize_sized(a, block, 100, 200, 2048);
    assert_int_equal((uintptr_t)block % 2048, 0);
    for (int i = 0; i < 100; i++)
        assert_int_equal(block[i], 0x5a);
    block = fh_resize(a, block, 20000);
    assert_int_equal((uintptr_t)block % 2048, 0);
    fh_free(a, block);
}

static void test_resize_gives_an_alignment_asked_for(void **state)
{
    (void)state;
    for_each(claim_resize_gives_an_alignment_asked_for);
}

static void claim_resize_slides_into_the_block_in_front(struct manager *m,
                                                        const struct fh_allocator *a)
{
    (void)m;
    unsigned char *front = fh_alloc(a, 5000), *block = fh_alloc(a, 1000);
    void *wall = fh_alloc(a, 64), *rest;
    memset(block, 0x5a, 1000);
    while ((rest = fh_alloc(a, 4000)) != NULL) /* nowhere else */
        memset(rest, 1, 4000);
    fh_free(a, front);
    unsigned char *moved = fh_resize(a, block, 5500);
    assert_ptr_equal(moved, front);
    for (int i = 0; i < 1000; i++)
        assert_int_equal(moved[i], 0x5a);
    assert_int_equal(fh_allocator_check(a), 0);
    fh_free(a, wall);
}

static void test_resize_slides_into_the_block_in_front(void **state)
{
    (void)state;
    for_each(claim_resize_slides_into_the_block_in_front);
}

static void claim_reset_frees_everything(struct manager *m, const struct fh_allocator *a)
{
    (void)m;
    size_t largest = measure(a).largest_free;
    for (int i = 0; i < 50; i++)
        assert_non_null(fh_alloc(a, (size_t)i * 17));
    fh_allocator_reset(a);
    assert_int_equal(measure(a).live_blocks, 0);
    assert_int_equal(measure(a).largest_free, largest);
    assert_int_equal(fh_allocator_check(a), 0);
}

static void test_reset_frees_everything(void **state)
{
    (void)state;
    for_each(claim_reset_frees_everything);
}

static int sum(void *context, const struct fh_block *block)
{
    *(size_t *)context += block->usable;
    return 0;
}

static void claim_measure_accounts_for_every_byte(struct manager *m, const struct fh_allocator *a)
{
    void *blocks[40];
    for (int i = 0; i < 40; i++)
        blocks[i] = fh_alloc(a, (size_t)i * 31);
    for (int i = 0; i < 40; i += 3)
        fh_free(a, blocks[i]);
    struct fh_measure now = measure(a);
    size_t walked = 0;
    assert_int_equal(fh_allocator_walk(a, sum, &walked), 0);
    assert_int_equal(walked, now.live_bytes + now.free_bytes);
    assert_int_equal(now.live_bytes + now.free_bytes + now.metadata, now.footprint);
    assert_int_equal(now.live_blocks, 26);
    assert_true(now.metadata < (m->kind == TLSF ? 4096 : 2048));
    assert_true(fh_allocator_owns(a, blocks[1]));
    assert_false(fh_allocator_owns(a, elsewhere));
    assert_false(fh_allocator_owns(a, memory + sizeof memory));
}

static void test_measure_accounts_for_every_byte(void **state)
{
    (void)state;
    for_each(claim_measure_accounts_for_every_byte);
}

/* ---- Misuse ---------------------------------------------------------------------------------------- */

/* The words of a report, caught on their way out. */
static char said[8192];
static size_t said_len;

static void listen(int fd, const char *text, size_t len)
{
    (void)fd;
    len = len < sizeof said - 1 - said_len ? len : sizeof said - 1 - said_len;
    memcpy(said + said_len, text, len);
    said_len += len;
    said[said_len] = '\0';
}

static size_t state_hash(void)
{
    size_t hash = 0, word;
    for (size_t i = 0; i < sizeof memory; i += sizeof word) {
        memcpy(&word, memory + i, sizeof word);
        hash = hash * 31 + word;
    }
    return hash;
}

/* The call is reported as `kind`, and changes nothing. */
#define assert_reports(kind, call)                                                                 \
    do {                                                                                           \
        size_t before = state_hash();                                                              \
        void (*hook)(int, const char *, size_t) = fh_message_write_hook;                           \
        said[said_len = 0] = '\0';                                                                 \
        fh_message_write_hook = listen;                                                            \
        fh_ctl_set("on_error", "continue"); /* begins anew: else the same place is told once */    \
        call;                                                                                      \
        fh_message_write_hook = hook;                                                              \
        if (strstr(said, "ERROR: " kind) == NULL)                                                  \
            fail_msg("%s of %s: expected " kind ", said: %s", #call, m->name, said);               \
        assert_true(before == state_hash());                                                       \
    } while (0)

static int continue_after_errors(void **state)
{
    (void)state;
    fh_os_init();
    return fh_ctl_set("on_error", "continue");
}

static int end_at_errors(void **state)
{
    (void)state;
    return fh_ctl_set("on_error", "abort");
}

static void claim_wrong_frees_are_reported(struct manager *m, const struct fh_allocator *a)
{
    unsigned char *p[6];
    for (int i = 0; i < 6; i++) {
        p[i] = fh_alloc(a, 200);
        memset(p[i], i * 0x11, 200);
    }
    fh_free(a, p[1]);
    fh_free(a, p[3]);
    fh_free(a, p[2]); /* joined with both */
    assert_reports("invalid-free", fh_free(a, elsewhere));
    assert_reports("invalid-free", fh_free(a, memory + sizeof memory));
    assert_reports("invalid-free", fh_free(a, memory));
    assert_reports("double-free", fh_free(a, p[1]));
    assert_reports("double-free", fh_free(a, p[2]));
    assert_reports("double-free", fh_free(a, p[3]));
    for (size_t inside = 1; inside < 200; inside++) {
        assert_reports("interior-free", fh_free(a, p[0] + inside));
        assert_reports("interior-free", fh_free(a, p[4] + inside));
    }
    assert_reports("size-mismatch", fh_free_sized(a, p[4], 150, 0));
    assert_reports("size-mismatch", fh_free_sized(a, p[4], 250, 0));
    assert_reports("size-mismatch", fh_free_sized(a, p[4], 200, 64));
    assert_reports("interior-free", fh_free_sized(a, p[4] + 16, 200, 0));
    assert_reports("double-free", assert_null(fh_resize(a, p[2], 10)));
    assert_reports("interior-free", assert_false(fh_resize_in_place(a, p[4] + 16, 0, 10)));
    assert_reports("double-free", assert_int_equal(fh_allocator_usable_size(a, p[3]), 0));
}

static void test_wrong_frees_are_reported(void **state)
{
    (void)state;
#if defined(__SANITIZE_ADDRESS__)
    skip(); /* the hash reads what is hidden */
#endif
    for_each(claim_wrong_frees_are_reported);
}

/* A block that others filled before is full of old headers, unless they were wiped. */
static void claim_old_headers_inside_a_block_are_no_blocks(struct manager *m,
                                                           const struct fh_allocator *a)
{
    void *small[64];
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 64; i++)
            small[i] = fh_alloc(a, 20 + (size_t)(i * round) % 64);
        for (int i = 0; i < 64; i++)
            fh_free(a, small[round == 1 ? 63 - i : i * 37 % 64]);
        unsigned char *large = fh_alloc(a, 64 * 20);
        assert_non_null(large);
        for (int i = 0; i < 64; i++)
            if ((unsigned char *)small[i] > large && (unsigned char *)small[i] < large + 64 * 20)
                assert_reports("interior-free", fh_free(a, small[i]));
        fh_free(a, large);
    }
}

static void test_old_headers_inside_a_block_are_no_blocks(void **state)
{
    (void)state;
#if defined(__SANITIZE_ADDRESS__)
    skip();
#endif
    for_each(claim_old_headers_inside_a_block_are_no_blocks);
}

static void claim_overflows_are_reported_when_freed(struct manager *m, const struct fh_allocator *a)
{
    unsigned char *p = fh_alloc(a, 100), *q = fh_alloc(a, 100), *end = fh_alloc(a, 100);
    unsigned char kept[4], *word = p + fh_allocator_usable_size(a, p);
    memcpy(kept, word, 4);
    memset(word, 0x41, 4);
    assert_reports("heap-corruption", fh_free(a, q));
    memcpy(word, kept, 4);
    /* The word before p as an underflow leaves it. */
    memcpy(kept, p - 4, 4);
    memset(p - 4, 0, 4);
    assert_reports("heap-corruption", fh_free(a, p));
    memcpy(p - 4, kept, 4);
    /* The tag of a free neighbour. */
    fh_free(a, p);
    memcpy(kept, q - 8, 4);
    memset(q - 8, 0x7f, 4);
    assert_reports("heap-corruption", fh_free(a, q));
    memcpy(q - 8, kept, 4);
    fh_free(a, q);
    fh_free(a, end);
}

static void test_overflows_are_reported_when_freed(void **state)
{
    (void)state;
#if defined(__SANITIZE_ADDRESS__)
    skip();
#endif
    for_each(claim_overflows_are_reported_when_freed);
}

static void claim_free_keeps_errno(struct manager *m, const struct fh_allocator *a)
{
    (void)m;
    void *block = fh_alloc(a, 10);
    errno = 77;
    fh_free(a, NULL);
    fh_free(a, block);
    assert_int_equal(errno, 77);
}

static void test_free_keeps_errno(void **state)
{
    (void)state;
    for_each(claim_free_keeps_errno);
}

static void claim_wrong_arguments_are_einval(struct manager *m, const struct fh_allocator *a)
{
    (void)m;
    for (size_t align = 3; align < 200; align += 2) {
        errno = 0;
        assert_null(fh_alloc_aligned(a, 10, align));
        assert_int_equal(errno, EINVAL);
    }
    errno = 0;
    assert_null(fh_alloc_aligned(a, 10, FH_ALIGN_MAX * 2));
    assert_int_equal(errno, EINVAL);
    struct manager other = {.kind = m->kind, .align = 32};
    assert_int_equal(open_over(&other, FH_PLACE_BUFFER(elsewhere, sizeof elsewhere)), -EINVAL);
}

static void test_wrong_arguments_are_einval(void **state)
{
    (void)state;
    for_each(claim_wrong_arguments_are_einval);
}

/* What check is worth: damage of each kind in a range is found. */
static void claim_check_finds_damage(struct manager *m, const struct fh_allocator *a)
{
    (void)m;
    unsigned char *p[8];
    for (int i = 0; i < 8; i++)
        p[i] = fh_alloc(a, 200);
    for (int i = 1; i < 8; i += 2)
        fh_free(a, p[i]);
    unsigned char *places[] = {p[0] - 4, p[1] - 4, p[1], p[1] + 4, p[2] - 8, p[2] - 4};
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        for (int bit = 3; bit < 8; bit++) {
            places[i][0] ^= (unsigned char)(1 << bit);
            if (fh_allocator_check(a) == 0)
                fail_msg("%s: bit %d of place %zu", a->ops->name, bit, i);
            places[i][0] ^= (unsigned char)(1 << bit);
        }
    }
}

static void test_check_finds_damage(void **state)
{
    (void)state;
#if defined(__SANITIZE_ADDRESS__)
    skip(); /* links lead astray */
#endif
    void (*hook)(int, const char *, size_t) = fh_message_write_hook;
    fh_message_write_hook = listen;
    for_each(claim_check_finds_damage);
    fh_message_write_hook = hook;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_random_sequence_keeps_all_invariants),
        cmocka_unit_test(test_a_range_works_where_it_is_moved_to),
        cmocka_unit_test(test_attach_refuses_what_is_no_range),
        cmocka_unit_test(test_a_range_grows_over_its_source_up_to_its_capacity),
        cmocka_unit_test(test_no_growth_is_obeyed),
        cmocka_unit_test(test_the_last_block_grows_in_place_with_the_range),
        cmocka_unit_test(test_exhaustion_at_every_size_is_clean),
        cmocka_unit_test(test_the_largest_free_block_can_be_had),
        cmocka_unit_test(test_a_buffer_too_small_is_refused_at_every_size),
        cmocka_unit_test(test_the_program_is_asked_once_before_failure),
        cmocka_unit_test(test_a_manager_lives_in_a_block_of_another),
        cmocka_unit_test(test_a_block_costs_a_word_and_the_rounding),
        cmocka_unit_test(test_a_power_of_two_costs_a_granule),
        cmocka_unit_test(test_the_last_bytes_serve_a_size_that_is_rounded),
        cmocka_unit_test(test_resize_keeps_the_alignment_given),
        cmocka_unit_test(test_resize_gives_an_alignment_asked_for),
        cmocka_unit_test(test_resize_slides_into_the_block_in_front),
        cmocka_unit_test(test_reset_frees_everything),
        cmocka_unit_test(test_measure_accounts_for_every_byte),
        cmocka_unit_test(test_wrong_frees_are_reported),
        cmocka_unit_test(test_old_headers_inside_a_block_are_no_blocks),
        cmocka_unit_test(test_overflows_are_reported_when_freed),
        cmocka_unit_test(test_free_keeps_errno),
        cmocka_unit_test(test_wrong_arguments_are_einval),
        cmocka_unit_test(test_check_finds_damage),
    };
    return cmocka_run_group_tests(tests, continue_after_errors, end_at_errors);
}
