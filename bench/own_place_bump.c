/*
 * What an allocation costs that only moves a pointer, and a pool's pair, in nanoseconds.
 *
 * Allocations: 1,000 blocks, then all of them are freed at once (reset, rewind, pool freed), as a request
 * would do; sizes are a constant 24, or random from 8 to 120. Each block's first word is written, as
 * whoever wants a block does. Ours over the system's memory and over malloc, against glibc's obstack,
 * talloc (a pool and talloc_size, when its library is installed) and malloc with a free each.
 *
 * Pairs: 1,000 live objects of 48 bytes, one chosen at random is freed and one is taken. Ours against malloc.
 *
 * Rounds of all contestants are interleaved. Least and median over 101 rounds: short ones, because what
 * else runs on a machine comes in slices of milliseconds. Malloc is whoever's the program is run with.
 */
#define _GNU_SOURCE 1

#include "base/core/random.h"
#include "freehold/arena.h"
#include "freehold/fixed.h"
#include "freehold/pool.h"
#include "os/sys.h"

#include <dlfcn.h>
#include <obstack.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCKS = 1000, REPEATS = 20, ROUNDS = 101, OBJECT = 48 };

#define obstack_chunk_alloc malloc
#define obstack_chunk_free  free

static uint16_t sizes[BLOCKS], chosen[BLOCKS];
static void *blocks[BLOCKS];

static struct fh_arena range, chained;
static struct fh_pool pool;
static struct obstack obstack;
FH_FIXED_DEFINE(fixed, 256 << 10);

static void *(*talloc_pool)(const void *parent, size_t size);
static void *(*talloc_named_const)(const void *parent, size_t size, const char *name);
static void (*talloc_free_children)(void *parent);
static void *talloc_parent;

/* ---- contestants: BLOCKS allocations, then all are free ------------------------------------------- */

#define WRITE(block_)                                                                              \
    do {                                                                                           \
        uint64_t *word_ = (block_);                                                                \
        *word_ = i;                                                                                \
    } while (0)

#define BUMP(name, alloc_constant, alloc_random, end)                                              \
    static __attribute__((noinline)) void name##_constant(void)                                    \
    {                                                                                              \
        for (size_t i = 0; i < BLOCKS; i++)                                                        \
            WRITE(alloc_constant);                                                                 \
        end;                                                                                       \
    }                                                                                              \
    static __attribute__((noinline)) void name##_random(void)                                      \
    {                                                                                              \
        for (size_t i = 0; i < BLOCKS; i++)                                                        \
            WRITE(alloc_random);                                                                   \
        end;                                                                                       \
    }

static void free_all(void)
{
    for (size_t i = 0; i < BLOCKS; i++)
        free(blocks[i]);
}

static void empty_obstack(void)
{
    obstack_free(&obstack, blocks[0]);
    blocks[0] = obstack_alloc(&obstack, 8);
}

BUMP(range, fh_arena_alloc(&range, 24), fh_arena_alloc(&range, sizes[i]), fh_arena_reset(&range))
BUMP(chained, fh_arena_alloc(&chained, 24), fh_arena_alloc(&chained, sizes[i]),
     fh_arena_reset(&chained))
BUMP(fixed, fh_fixed_alloc(&fixed, 24), fh_fixed_alloc(&fixed, sizes[i]), fh_fixed_reset(&fixed))
BUMP(obstack, obstack_alloc(&obstack, 24), obstack_alloc(&obstack, sizes[i]), empty_obstack())
BUMP(talloc, talloc_named_const(talloc_parent, 24, "block"),
     talloc_named_const(talloc_parent, sizes[i], "block"), talloc_free_children(talloc_parent))
BUMP(malloc, (blocks[i] = malloc(24)), (blocks[i] = malloc(sizes[i])), free_all())

/* ---- pairs ------------------------------------------------------------------------------------------ */

static __attribute__((noinline)) void pool_pairs(void)
{
    for (size_t i = 0; i < BLOCKS; i++) {
        fh_pool_free(&pool, blocks[chosen[i]]);
        WRITE(blocks[chosen[i]] = fh_pool_alloc(&pool));
    }
}

static __attribute__((noinline)) void malloc_pairs(void)
{
    for (size_t i = 0; i < BLOCKS; i++) {
        free(blocks[chosen[i]]);
        WRITE(blocks[chosen[i]] = malloc(OBJECT));
    }
}

static void fill_pool(void)
{
    for (size_t i = 0; i < BLOCKS; i++)
        blocks[i] = fh_pool_alloc(&pool);
}

static void empty_pool(void)
{
    for (size_t i = 0; i < BLOCKS; i++)
        fh_pool_free(&pool, blocks[i]);
}

static void fill_malloc(void)
{
    for (size_t i = 0; i < BLOCKS; i++)
        blocks[i] = malloc(OBJECT);
}

static void begin_obstack(void)
{
    blocks[0] = obstack_alloc(&obstack, 8);
}

static void end_obstack(void)
{
    obstack_free(&obstack, blocks[0]);
}

/* ---- measuring -------------------------------------------------------------------------------------- */

static struct contestant {
    const char *name;
    void (*run)(void), (*begin)(void), (*end)(void);
    double ns[ROUNDS];
} contestants[] = {
    {.name = "arena, one range, 24 bytes", .run = range_constant},
    {.name = "arena, one range, 8-120 bytes", .run = range_random},
    {.name = "arena, chunks of malloc, 24 bytes", .run = chained_constant},
    {.name = "arena, chunks of malloc, 8-120 bytes", .run = chained_random},
    {.name = "fixed, 24 bytes", .run = fixed_constant},
    {.name = "fixed, 8-120 bytes", .run = fixed_random},
    {"obstack, 24 bytes", obstack_constant, begin_obstack, end_obstack, {0}},
    {"obstack, 8-120 bytes", obstack_random, begin_obstack, end_obstack, {0}},
    {.name = "talloc pool, 24 bytes", .run = talloc_constant},
    {.name = "talloc pool, 8-120 bytes", .run = talloc_random},
    {.name = "malloc and free, 24 bytes", .run = malloc_constant},
    {.name = "malloc and free, 8-120 bytes", .run = malloc_random},
    {"pool, pair of 48 bytes", pool_pairs, fill_pool, empty_pool, {0}},
    {"malloc, pair of 48 bytes", malloc_pairs, fill_malloc, free_all, {0}},
};

enum { CONTESTANTS = sizeof contestants / sizeof *contestants };

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void measure(struct contestant *contestant, unsigned round)
{
    if (contestant->begin != NULL)
        contestant->begin();
    uint64_t begin = fh_os_now_ns();
    for (unsigned i = 0; i < REPEATS; i++)
        contestant->run();
    contestant->ns[round] = (double)(fh_os_now_ns() - begin) / (REPEATS * BLOCKS);
    if (contestant->end != NULL)
        contestant->end();
}

static void *malloc_alloc(void *self, size_t size, size_t align, unsigned flags)
{
    (void)self, (void)align, (void)flags;
    return malloc(size);
}

static void malloc_free(void *self, void *block)
{
    (void)self;
    free(block);
}

static bool find_talloc(void)
{
    void *library = dlopen("libtalloc.so.2", RTLD_NOW);
    if (library == NULL)
        return false;
    void *pool_symbol = dlsym(library, "talloc_pool"),
         *named = dlsym(library, "talloc_named_const"),
         *children = dlsym(library, "talloc_free_children");
    memcpy(&talloc_pool, &pool_symbol, sizeof pool_symbol);
    memcpy(&talloc_named_const, &named, sizeof named);
    memcpy(&talloc_free_children, &children, sizeof children);
    if (talloc_pool == NULL || talloc_named_const == NULL || talloc_free_children == NULL)
        return false;
    talloc_parent = talloc_pool(NULL, 512 << 10);
    return talloc_parent != NULL;
}

int main(void)
{
    static const struct fh_allocator_ops ops = {
        .size = sizeof ops, .name = "malloc", .alloc = malloc_alloc, .free = malloc_free};
    static const struct fh_allocator parent = {&ops, NULL};
    struct fh_random random = {1};
    bool has_talloc = find_talloc();

    for (size_t i = 0; i < BLOCKS; i++) {
        sizes[i] = (uint16_t)(8 + fh_random_below(&random, 113));
        chosen[i] = (uint16_t)fh_random_below(&random, BLOCKS);
    }
    struct fh_arena_options options = {.place = FH_PLACE_PARENT(&parent, 0)};
    if (fh_arena_init(&range, NULL) != 0 || fh_arena_init(&chained, &options) != 0 ||
        fh_pool_init(&pool, &(struct fh_pool_options){.size = OBJECT}) != 0)
        return 1;
    obstack_init(&obstack);

    for (unsigned round = 0; round < ROUNDS; round++)
        for (unsigned i = 0; i < CONTESTANTS; i++)
            if (has_talloc || strncmp(contestants[i].name, "talloc", 6) != 0)
                measure(&contestants[i], round);

    printf("%-40s %8s %8s\n", "ns an allocation (a pair)", "least", "median");
    for (unsigned i = 0; i < CONTESTANTS; i++) {
        double *ns = contestants[i].ns;
        qsort(ns, ROUNDS, sizeof *ns, by_value);
        if (ns[0] > 0)
            printf("%-40s %8.2f %8.2f\n", contestants[i].name, ns[0], ns[ROUNDS / 2]);
    }
    fh_arena_destroy(&range);
    fh_arena_destroy(&chained);
    fh_pool_destroy(&pool);
    obstack_free(&obstack, NULL);
    return 0;
}
