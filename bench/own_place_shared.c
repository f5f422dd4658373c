/*
 * Allocators that threads share: the buddy system, slabs, wrappers. Nanoseconds a pair of alloc and free.
 *
 *     bench/own_place_shared [--json]     a table in Markdown, or the figures of all rounds
 *
 * mix     10,000 live blocks, 16-4096 bytes log-uniform; a random one is freed and one of a random size allocated.
 *         Each thread has its own 10,000.
 * slab    64-byte objects: 1,000 live, a random one is freed and one allocated; malloc is that of this program
 *         (LD_PRELOAD another), fh_malloc the thread's Freehold heap.
 *
 * Rows are interleaved within a round, ROUNDS rounds, median and least. With two threads the time is the wall's for
 * both threads' pairs, so "2 threads" halves when they do not hinder each other; a row's scaling is the one divided by
 * the other. The loop's own cost (some 2 ns) is in all figures.
 */
#include "base/core/random.h"
#include "freehold/buddy.h"
#include "freehold/freehold.h"
#include "freehold/locked.h"
#include "freehold/slab.h"
#include "os/sys.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROUNDS = 7, PAIRS = 200000, LIVE = 10000, OBJECTS = 1000, MEMORY = 128 << 20 };

struct step {
    uint32_t slot, size;
};

static struct step mixed[2][PAIRS];
static uint32_t chosen[2][PAIRS];

static struct fh_buddy private_buddy, shared_buddy;
static struct fh_locked with_mutex, with_magazines;
static struct fh_buddy under_mutex, under_magazines;
static struct fh_allocator mutex, magazines;
static struct fh_slab slab, single_slab;

/* ---- what is measured ------------------------------------------------------------------------- */

#define MIX(name, alloc, release)                                                                  \
    static void name(unsigned thread, void **live)                                                 \
    {                                                                                              \
        for (size_t i = 0; i < PAIRS; i++) {                                                       \
            const struct step *step = &mixed[thread][i];                                           \
            void **slot = &live[step->slot], *block = *slot;                                       \
            if (block != NULL)                                                                     \
                release;                                                                           \
            *slot = alloc;                                                                         \
        }                                                                                          \
    }
#define SAME(name, alloc, release)                                                                 \
    static void name(unsigned thread, void **live)                                                 \
    {                                                                                              \
        for (size_t i = 0; i < PAIRS; i++) {                                                       \
            void **slot = &live[chosen[thread][i]], *block = *slot;                                \
            if (block != NULL)                                                                     \
                release;                                                                           \
            *slot = alloc;                                                                         \
        }                                                                                          \
    }

MIX(run_private, fh_buddy_alloc(&private_buddy, step->size), fh_buddy_free(&private_buddy, block))
MIX(run_shared, fh_buddy_alloc(&shared_buddy, step->size), fh_buddy_free(&shared_buddy, block))
MIX(run_mutex, fh_alloc(&mutex, step->size), fh_free(&mutex, block))
MIX(run_magazines, fh_alloc(&magazines, step->size), fh_free(&magazines, block))
MIX(run_malloc, malloc(step->size), free(block))
SAME(run_slab, fh_slab_alloc(&slab), fh_slab_free(&slab, block))
SAME(run_single, fh_slab_alloc(&single_slab), fh_slab_free(&single_slab, block))
SAME(run_malloc64, malloc(64), free(block))
SAME(run_fh_malloc64, fh_malloc(64), fh_free_any(block))

static const struct row {
    const char *name;
    void (*run)(unsigned thread, void **live);
    bool for_two;
} rows[] = {
    {"mix: buddy, private", run_private, false},
    {"mix: buddy, shared", run_shared, true},
    {"mix: buddy under a mutex", run_mutex, true},
    {"mix: buddy under magazines", run_magazines, true},
    {"mix: malloc of the program", run_malloc, true},
    {"64 bytes: slab", run_slab, true},
    {"64 bytes: slab, single thread", run_single, false},
    {"64 bytes: malloc of the program", run_malloc64, true},
    {"64 bytes: fh_malloc", run_fh_malloc64, true},
};

enum { ROWS = sizeof rows / sizeof *rows };

static void *blocks[ROWS][2][LIVE]; /* live from round to round, as in a program that runs */
static double figures[ROWS][2][ROUNDS];

/* ---- measuring -------------------------------------------------------------------------------- */

static pthread_barrier_t barrier;
static const struct row *row_now;
static size_t row_index;

static void *second_thread(void *context)
{
    (void)context;
    for (;;) {
        pthread_barrier_wait(&barrier);
        if (row_now == NULL)
            return NULL;
        row_now->run(1, blocks[row_index][1]);
        pthread_barrier_wait(&barrier);
    }
}

static double measure_two(size_t index)
{
    row_index = index;
    row_now = &rows[index];
    pthread_barrier_wait(&barrier);
    uint64_t begin = fh_os_now_ns();
    rows[index].run(0, blocks[index][0]);
    pthread_barrier_wait(&barrier);
    return (double)(fh_os_now_ns() - begin) / (2.0 * PAIRS);
}

static double measure_one(size_t index)
{
    uint64_t begin = fh_os_now_ns();
    rows[index].run(0, blocks[index][0]);
    return (double)(fh_os_now_ns() - begin) / PAIRS;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void open_all(void)
{
    struct fh_random random = {42};
    for (unsigned thread = 0; thread < 2; thread++)
        for (size_t i = 0; i < PAIRS; i++) {
            double part = (double)(fh_random_next(&random) >> 11) * 0x1p-53;
            mixed[thread][i] =
                (struct step){fh_random_below(&random, LIVE), (uint32_t)(16 * pow(256, part))};
            chosen[thread][i] = fh_random_below(&random, OBJECTS);
        }
    struct fh_buddy *all[] = {&private_buddy, &shared_buddy, &under_mutex, &under_magazines};
    for (size_t i = 0; i < 4; i++) {
        struct fh_buddy_options options = {.is_shared = i == 1};
        options.place.memory = aligned_alloc((size_t)2 << 20, MEMORY);
        options.place.bytes = MEMORY;
        if (options.place.memory == NULL || fh_buddy_init(all[i], &options) != 0)
            exit(1);
    }
    struct fh_locked_options options = {.inner = fh_buddy_allocator(&under_mutex),
                                        .kind = FH_LOCKED_MUTEX};
    if (fh_locked_init(&with_mutex, &options) != 0)
        exit(1);
    options.inner = fh_buddy_allocator(&under_magazines);
    options.kind = FH_LOCKED_MAGAZINES;
    if (fh_locked_init(&with_magazines, &options) != 0)
        exit(1);
    mutex = fh_locked_allocator(&with_mutex);
    magazines = fh_locked_allocator(&with_magazines);
    struct fh_slab_options of = {.object_size = 64};
    if (fh_slab_init(&slab, &of) != 0)
        exit(1);
    of.is_single_thread = true;
    if (fh_slab_init(&single_slab, &of) != 0)
        exit(1);
}

static double median_of(const double *rounds, double *least)
{
    double sorted[ROUNDS];
    memcpy(sorted, rounds, sizeof sorted);
    qsort(sorted, ROUNDS, sizeof *sorted, compare);
    *least = sorted[0];
    return sorted[ROUNDS / 2];
}

static void print_table(void)
{
    printf(
        "| ns a pair | 1 thread, median | least | 2 threads, median | least | scaling (medians) |\n"
        "|---|---|---|---|---|---|\n");
    for (size_t i = 0; i < ROWS; i++) {
        double least, least_two, one = median_of(figures[i][0], &least);
        double two = median_of(figures[i][1], &least_two);
        if (rows[i].for_two)
            printf("| %s | %.1f | %.1f | %.1f | %.1f | %.2f |\n", rows[i].name, one, least, two,
                   least_two, one / two);
        else
            printf("| %s | %.1f | %.1f | | | |\n", rows[i].name, one, least);
    }
}

static void print_json(void)
{
    printf("{\"pairs\": %d, \"unit\": \"ns a pair\", \"rows\": [", PAIRS);
    for (size_t i = 0; i < ROWS; i++) {
        printf("%s\n  {\"name\": \"%s\"", i == 0 ? "" : ",", rows[i].name);
        for (int threads = 0; threads < (rows[i].for_two ? 2 : 1); threads++) {
            printf(", \"threads%d\": [", threads + 1);
            for (int round = 0; round < ROUNDS; round++)
                printf("%s%.2f", round == 0 ? "" : ", ", figures[i][threads][round]);
            printf("]");
        }
        printf("}");
    }
    printf("\n]}\n");
}

int main(int argc, char **argv)
{
    open_all();
    pthread_t thread;
    pthread_barrier_init(&barrier, NULL, 2);
    pthread_create(&thread, NULL, second_thread, NULL);
    /* Round -1 warms up. */
    for (int round = -1; round < ROUNDS; round++)
        for (size_t i = 0; i < ROWS; i++) {
            double one = measure_one(i), two = rows[i].for_two ? measure_two(i) : 0;
            if (round >= 0) {
                figures[i][0][round] = one;
                figures[i][1][round] = two;
            }
        }
    row_now = NULL;
    pthread_barrier_wait(&barrier);
    pthread_join(thread, NULL);
    if (argc > 1 && strcmp(argv[1], "--json") == 0)
        print_json();
    else
        print_table();
    return 0;
}
