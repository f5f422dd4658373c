/*
 * Single-thread patterns whose cost is a handful of nanoseconds: each is a loop around one pair
 * of calls, with as little else in it as the pattern allows, so that the figure is the
 * allocator's.
 *
 *   pair       malloc(64), write, free: the hottest path there is
 *   pair8      the same with 8 blocks live, oldest freed first
 *   fifo1000   1000 blocks of 64 bytes, then all freed in the order of their making: more than a
 *              thread cache of a few hundred holds
 *   fifo100k   the same with 100,000: the working set leaves the near caches
 *   random     10,000 live, a random one replaced by a block of 8–1031 bytes
 *   calloc     calloc(1, 64), write, free
 *   realloc    one block grown from 16 to 16,384 bytes by steps of 16; a step is one operation
 *
 * `micro PATTERN` runs 21 equal chunks and reports the fastest: the chunk that nobody disturbed.
 * `micro PATTERN COUNT` runs COUNT operations once and reports nothing but their number; the
 * difference of two counts under callgrind is the number of instructions an operation takes
 * (instructions.sh).
 */
#include "harness.h"

enum { CHUNKS = 21, RANDOM_LIVE = 10000 };

static void run_pair(uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        volatile char *block = malloc(64);
        block[0] = 1;
        free((void *)block);
    }
}

static void run_pair8(uint64_t count)
{
    static void *ring[8];
    for (uint64_t i = count; i != 0; i--) {
        void **slot = &ring[i & 7];
        free(*slot);
        *slot = malloc(64);
    }
}

/* Fills a queue, then empties it in the order in which it was filled. A pair is one operation. */
static void fifo(void **queue, size_t length, uint64_t count)
{
    for (uint64_t done = 0; done < count; done += length) {
        for (size_t i = 0; i < length; i++) {
            queue[i] = malloc(64);
        }
        for (size_t i = 0; i < length; i++) {
            free(queue[i]);
        }
    }
}

static void run_fifo1000(uint64_t count)
{
    static void *queue[1000];
    fifo(queue, BENCH_COUNT_OF(queue), count);
}

static void run_fifo100k(uint64_t count)
{
    static void *queue[100000];
    fifo(queue, BENCH_COUNT_OF(queue), count);
}

static void run_random(uint64_t count)
{
    static void *live[RANDOM_LIVE];
    uint64_t state = 88172645463325252u;
    for (uint64_t i = 0; i < count; i++) {
        uint64_t draw = bench_random(&state);
        void **slot = &live[((draw >> 32) * RANDOM_LIVE) >> 32];
        free(*slot);
        char *block = malloc(8 + (draw & 1023));
        block[0] = 1;
        *slot = block;
    }
}

static void run_calloc(uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        volatile char *block = calloc(1, 64);
        block[0] = 1;
        free((void *)block);
    }
}

static void run_realloc(uint64_t count)
{
    char *block = NULL;
    size_t size = 0;
    for (uint64_t i = 0; i < count; i++) {
        size += 16;
        block = realloc(block, size);
        block[size - 1] = 1;
        if (size == 16384) {
            free(block);
            block = NULL;
            size = 0;
        }
    }
    free(block);
}

static const struct pattern {
    const char *name;
    void (*run)(uint64_t count);
    uint64_t chunk; /* operations in a chunk: about 10 ms of the C library's malloc */
} patterns[] = {
    {"pair", run_pair, 2000000},         {"pair8", run_pair8, 2000000},
    {"fifo1000", run_fifo1000, 1000000}, {"fifo100k", run_fifo100k, 1000000},
    {"random", run_random, 500000},      {"calloc", run_calloc, 1500000},
    {"realloc", run_realloc, 1024000},
};

int main(int argc, char **argv)
{
    const struct pattern *pattern = &patterns[BENCH_FIND(patterns, argc > 1 ? argv[1] : NULL)];
    if (argc > 2) {
        uint64_t count = strtoull(argv[2], NULL, 10);
        pattern->run(count);
        bench_report(pattern->name, "count", (double)count, "operations");
        return 0;
    }
    pattern->run(pattern->chunk / 4); /* warm: pages touched, caches filled */
    double best = 0;
    for (int i = 0; i < CHUNKS; i++) {
        uint64_t begin = bench_thread_ns();
        pattern->run(pattern->chunk);
        double cost = (double)(bench_thread_ns() - begin) / (double)pattern->chunk;
        if (i == 0 || cost < best) {
            best = cost;
        }
    }
    bench_report(pattern->name, "cost", best, "ns");
    return 0;
}
