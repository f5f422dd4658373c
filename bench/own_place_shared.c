/*
 * Allocators that threads share: the buddy system, slabs, wrappers. Nanoseconds a pair of alloc and
 * free.
 *
 *     bench/own_place_shared [--json FILE] [--peer buddy_alloc=LIBRARY]
 *
 * prints a table in Markdown and writes the figures of all rounds to FILE. The peer is a shared
 * library with the functions of buddy_alloc (github.com/spaskalev/buddy_alloc).
 *
 * mix     10,000 live blocks, 16-4096 bytes log-uniform; a random one is freed and one of a random
 *         size allocated. Each thread has its own 10,000.
 *         "sized" rows free with the size that was asked for.
 * slab    64-byte objects: 1,000 live, a random one is freed and one allocated; malloc is that of
 *         this program (LD_PRELOAD another), fh_malloc the thread's Freehold heap.
 *
 * Rows are interleaved within a round, ROUNDS rounds, median and least. With two threads the time
 * is the wall's for both threads' pairs, so "2 threads" halves when they do not hinder each other;
 * a row's scaling is the one divided by the other. The loop's own cost (some 2 ns) is in all
 * figures.
 */
#include "base/core/random.h"
#include "freehold/buddy.h"
#include "freehold/freehold.h"
#include "freehold/locked.h"
#include "freehold/slab.h"
#include "os/sys.h"

#include <dlfcn.h>
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
static struct fh_locked sized_mutex_lock, sized_magazines_lock;
static struct fh_buddy under_mutex, under_magazines, under_sized_mutex, under_sized_magazines;
static struct fh_allocator mutex, magazines, sized_mutex, sized_magazines;
static uint32_t mutex_sizes[2][LIVE], magazines_sizes[2][LIVE]; /* what "sized" rows asked for */
static struct fh_slab slab, single_slab;

/* ---- the peer -------------------------------------------------------------------------------- */

/* Its public functions, with prototypes of our own. */
static struct {
    size_t (*size_of)(size_t bytes, size_t align);
    void *(*init)(void *at, void *memory, size_t bytes, size_t align);
    void *(*alloc)(void *buddy, size_t size);
    void (*free)(void *buddy, void *block);
    void *buddy;
    size_t metadata;
} peer;

static void *symbol_of(void *library, const char *name)
{
    void *symbol = dlsym(library, name);
    if (symbol == NULL) {
        fprintf(stderr, "own_place_shared: %s\n", dlerror());
        exit(1);
    }
    return symbol;
}

/* A function pointer from dlsym's object pointer, as POSIX has it. */
#define SYMBOL(target, library, name)                                                              \
    memcpy(&(target), &(void *){symbol_of((library), (name))}, sizeof(target))

static void open_peer(const char *text)
{
    static const char kind[] = "buddy_alloc=";
    if (strncmp(text, kind, sizeof kind - 1) != 0) {
        fprintf(stderr, "own_place_shared: --peer %s: buddy_alloc=LIBRARY\n", text);
        exit(2);
    }
    void *library = dlopen(text + sizeof kind - 1, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        fprintf(stderr, "own_place_shared: %s\n", dlerror());
        exit(1);
    }
    SYMBOL(peer.size_of, library, "buddy_sizeof_alignment");
    SYMBOL(peer.init, library, "buddy_init_alignment");
    SYMBOL(peer.alloc, library, "buddy_malloc");
    SYMBOL(peer.free, library, "buddy_free");
    peer.metadata = peer.size_of(MEMORY, FH_BUDDY_UNIT_MIN);
    void *at = malloc(peer.metadata), *memory = aligned_alloc((size_t)2 << 20, MEMORY);
    peer.buddy =
        at == NULL || memory == NULL ? NULL : peer.init(at, memory, MEMORY, FH_BUDDY_UNIT_MIN);
    if (peer.buddy == NULL)
        exit(1);
}

/* ---- what is measured ------------------------------------------------------------------------ */

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
MIX(run_sized_mutex, fh_alloc(&sized_mutex, mutex_sizes[thread][step->slot] = step->size),
    fh_free_sized(&sized_mutex, block, mutex_sizes[thread][step->slot], 0))
MIX(run_sized_magazines,
    fh_alloc(&sized_magazines, magazines_sizes[thread][step->slot] = step->size),
    fh_free_sized(&sized_magazines, block, magazines_sizes[thread][step->slot], 0))
MIX(run_malloc, malloc(step->size), free(block))
MIX(run_peer, peer.alloc(peer.buddy, step->size), peer.free(peer.buddy, block))
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
    {"mix: buddy under a mutex, sized", run_sized_mutex, true},
    {"mix: buddy under magazines, sized", run_sized_magazines, true},
    {"mix: malloc of the program", run_malloc, true},
    {"64 bytes: slab", run_slab, true},
    {"64 bytes: slab, single thread", run_single, false},
    {"64 bytes: malloc of the program", run_malloc64, true},
    {"64 bytes: fh_malloc", run_fh_malloc64, true},
    {"mix: buddy_alloc", run_peer, false}, /* the last: only with --peer */
};

enum { ROWS = sizeof rows / sizeof *rows };

static size_t rows_used = ROWS - 1;

static void *blocks[ROWS][2][LIVE]; /* live from round to round, as in a program that runs */
static double figures[ROWS][2][ROUNDS];

/* ---- measuring ------------------------------------------------------------------------------- */

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

static struct fh_allocator wrap(struct fh_locked *locked, struct fh_buddy *buddy,
                                enum fh_locked_kind kind)
{
    struct fh_locked_options options = {.inner = fh_buddy_allocator(buddy), .kind = kind};
    if (fh_locked_init(locked, &options) != 0)
        exit(1);
    return fh_locked_allocator(locked);
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
    struct fh_buddy *all[] = {&private_buddy,   &shared_buddy,      &under_mutex,
                              &under_magazines, &under_sized_mutex, &under_sized_magazines};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        struct fh_buddy_options options = {.is_shared = i == 1};
        options.place.memory = aligned_alloc((size_t)2 << 20, MEMORY);
        options.place.bytes = MEMORY;
        if (options.place.memory == NULL || fh_buddy_init(all[i], &options) != 0)
            exit(1);
    }
    mutex = wrap(&with_mutex, &under_mutex, FH_LOCKED_MUTEX);
    magazines = wrap(&with_magazines, &under_magazines, FH_LOCKED_MAGAZINES);
    sized_mutex = wrap(&sized_mutex_lock, &under_sized_mutex, FH_LOCKED_MUTEX);
    sized_magazines = wrap(&sized_magazines_lock, &under_sized_magazines, FH_LOCKED_MAGAZINES);
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
    for (size_t i = 0; i < rows_used; i++) {
        double least, least_two, one = median_of(figures[i][0], &least);
        double two = median_of(figures[i][1], &least_two);
        if (rows[i].for_two)
            printf("| %s | %.1f | %.1f | %.1f | %.1f | %.2f |\n", rows[i].name, one, least, two,
                   least_two, one / two);
        else
            printf("| %s | %.1f | %.1f | | | |\n", rows[i].name, one, least);
    }
}

static double percent_of_buddy(size_t unit, size_t bytes, bool is_shared)
{
    struct fh_buddy_options options = {.unit = unit, .is_shared = is_shared};
    options.place.source = fh_source_system();
    options.place.capacity = bytes;
    return 100.0 * (double)fh_buddy_metadata_size(&options) / (double)bytes;
}

static void print_metadata(void)
{
    size_t gigabyte = (size_t)1 << 30;
    printf("\n| metadata, %% of the memory | 16 B, 128 MiB | 4 KiB, 1 GiB |\n|---|---|---|\n");
    for (int is_shared = 0; is_shared < 2; is_shared++)
        printf("| buddy, %s | %.3f | %.4f |\n", is_shared ? "shared" : "private",
               percent_of_buddy(16, MEMORY, is_shared),
               percent_of_buddy(4096, gigabyte, is_shared));
    if (peer.buddy != NULL)
        printf("| buddy_alloc | %.3f | %.4f |\n", 100.0 * (double)peer.metadata / MEMORY,
               100.0 * (double)peer.size_of(gigabyte, 4096) / (double)gigabyte);
}

static void print_json(FILE *out)
{
    fprintf(out, "{\"pairs\": %d, \"unit\": \"ns a pair\", \"rows\": [", PAIRS);
    for (size_t i = 0; i < rows_used; i++) {
        fprintf(out, "%s\n  {\"name\": \"%s\"", i == 0 ? "" : ",", rows[i].name);
        for (int threads = 0; threads < (rows[i].for_two ? 2 : 1); threads++) {
            fprintf(out, ", \"threads%d\": [", threads + 1);
            for (int round = 0; round < ROUNDS; round++)
                fprintf(out, "%s%.2f", round == 0 ? "" : ", ", figures[i][threads][round]);
            fprintf(out, "]");
        }
        fprintf(out, "}");
    }
    fprintf(out, "\n]}\n");
}

int main(int argc, char **argv)
{
    const char *json = NULL;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--json") == 0)
            json = argv[i + 1];
        else if (strcmp(argv[i], "--peer") == 0)
            open_peer(argv[i + 1]);
    }
    rows_used = peer.buddy != NULL ? ROWS : ROWS - 1;
    FILE *out = json == NULL ? NULL : fopen(json, "w");
    if (json != NULL && out == NULL) {
        perror(json);
        return 1;
    }
    open_all();
    pthread_t thread;
    pthread_barrier_init(&barrier, NULL, 2);
    pthread_create(&thread, NULL, second_thread, NULL);
    /* Round -1 warms up. */
    for (int round = -1; round < ROUNDS; round++)
        for (size_t i = 0; i < rows_used; i++) {
            double one = measure_one(i), two = rows[i].for_two ? measure_two(i) : 0;
            if (round >= 0) {
                figures[i][0][round] = one;
                figures[i][1][round] = two;
            }
        }
    row_now = NULL;
    pthread_barrier_wait(&barrier);
    pthread_join(thread, NULL);
    print_table();
    print_metadata();
    if (out != NULL) {
        print_json(out);
        return fclose(out) != 0;
    }
    return 0;
}
