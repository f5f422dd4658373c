/*
 * Patterns of several threads. Each does a fixed amount of work, so the CPU time of the process
 * is the score.
 *
 *   larson1, larson2   after Larson and Krishnan (1998), by one and by two threads: a thread
 *                      replaces random blocks of its share (1,000 blocks, 10–500 bytes), then
 *                      leaves the share to a new thread and ends, so that most blocks are freed
 *                      by another thread than the one that made them
 *   handover           one thread makes blocks (16–512 bytes), another frees them: batches of 64
 *                      through a bounded queue
 *   crossfree2         two threads that each free what the other made, in both directions at
 *                      once
 *   churn              threads that live for a few hundred allocations: the cost of a heap's
 *                      birth and death
 *   burst2             two threads that each fill and empty 16 MiB again and again, last made
 *                      first freed
 */
#include "harness.h"

#include <errno.h>
#include <pthread.h>

static void start(pthread_t *thread, void *(*body)(void *), void *argument)
{
    errno = pthread_create(thread, NULL, body, argument);
    if (errno != 0) {
        perror("bench: pthread_create");
        exit(1);
    }
}

static void run_pair_of_threads(void *(*body)(void *), void *first, void *second)
{
    pthread_t threads[2];
    start(&threads[0], body, first);
    start(&threads[1], body, second);
    pthread_join(threads[0], NULL);
    pthread_join(threads[1], NULL);
}

/* --- larson --- */

enum { SHARE_BLOCKS = 1000, SHARE_MIN = 10, SHARE_SPAN = 491, SHARE_STEPS = 20000 };

struct share {
    void *blocks[SHARE_BLOCKS];
    uint64_t random;
};

static void *larson_generation(void *argument)
{
    struct share *share = argument;
    for (int i = 0; i < SHARE_STEPS; i++) {
        void **slot = &share->blocks[bench_below(&share->random, SHARE_BLOCKS)];
        free(*slot);
        char *block = bench_must(malloc(SHARE_MIN + bench_below(&share->random, SHARE_SPAN)));
        block[0] = 1;
        *slot = block;
    }
    return NULL;
}

static void larson(size_t lanes, uint64_t generations)
{
    static struct share shares[2];
    for (size_t lane = 0; lane < lanes; lane++) {
        shares[lane].random = 0x9e3779b97f4a7c15u + lane;
    }
    for (uint64_t i = 0; i < generations; i++) {
        pthread_t threads[2];
        for (size_t lane = 0; lane < lanes; lane++) {
            start(&threads[lane], larson_generation, &shares[lane]);
        }
        for (size_t lane = 0; lane < lanes; lane++) {
            pthread_join(threads[lane], NULL);
        }
    }
}

static void run_larson1(uint64_t generations)
{
    larson(1, generations);
}

static void run_larson2(uint64_t generations)
{
    larson(2, generations);
}

/* --- queues between threads --- */

enum { BATCH = 64, QUEUE_BATCHES = 64 };

/* A bounded queue of batches; a mutex is cheap against 64 blocks and keeps the waiting out of the
 * score. */
struct queue {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    size_t head, tail; /* batches taken and put since the beginning */
    void *batches[QUEUE_BATCHES][BATCH];
};

#define QUEUE_EMPTY                                                                                \
    {                                                                                              \
        .mutex = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER                    \
    }

static void queue_put(struct queue *queue, void *const batch[BATCH])
{
    pthread_mutex_lock(&queue->mutex);
    while (queue->tail - queue->head == QUEUE_BATCHES) {
        pthread_cond_wait(&queue->changed, &queue->mutex);
    }
    memcpy(queue->batches[queue->tail++ % QUEUE_BATCHES], batch, sizeof(queue->batches[0]));
    pthread_cond_signal(&queue->changed);
    pthread_mutex_unlock(&queue->mutex);
}

static void queue_take(struct queue *queue, void *batch[BATCH])
{
    pthread_mutex_lock(&queue->mutex);
    while (queue->tail == queue->head) {
        pthread_cond_wait(&queue->changed, &queue->mutex);
    }
    memcpy(batch, queue->batches[queue->head++ % QUEUE_BATCHES], sizeof(queue->batches[0]));
    pthread_cond_signal(&queue->changed);
    pthread_mutex_unlock(&queue->mutex);
}

struct lane {
    struct queue *out, *in;
    uint64_t batches;
    uint64_t random;
};

static void produce_batch(struct lane *lane)
{
    void *batch[BATCH];
    for (size_t i = 0; i < BATCH; i++) {
        char *block = bench_must(malloc(16 + bench_below(&lane->random, 497)));
        block[0] = 1;
        batch[i] = block;
    }
    queue_put(lane->out, batch);
}

static void consume_batch(struct lane *lane)
{
    void *batch[BATCH];
    queue_take(lane->in, batch);
    for (size_t i = 0; i < BATCH; i++) {
        free(batch[i]);
    }
}

static void *lane_body(void *argument)
{
    struct lane *lane = argument;
    for (uint64_t i = 0; i < lane->batches; i++) {
        if (lane->out != NULL) {
            produce_batch(lane);
        }
        if (lane->in != NULL) {
            consume_batch(lane);
        }
    }
    return NULL;
}

static void run_handover(uint64_t batches)
{
    static struct queue queue = QUEUE_EMPTY;
    struct lane producer = {.out = &queue, .batches = batches, .random = 1};
    struct lane consumer = {.in = &queue, .batches = batches, .random = 2};
    run_pair_of_threads(lane_body, &producer, &consumer);
}

static void run_crossfree2(uint64_t batches)
{
    static struct queue there = QUEUE_EMPTY;
    static struct queue back = QUEUE_EMPTY;
    struct lane first = {.out = &there, .in = &back, .batches = batches, .random = 1};
    struct lane second = {.out = &back, .in = &there, .batches = batches, .random = 2};
    run_pair_of_threads(lane_body, &first, &second);
}

/* --- birth and death of threads --- */

static void *short_life(void *argument)
{
    uint64_t random = (uint64_t)(uintptr_t)argument;
    void *blocks[200];
    for (size_t i = 0; i < BENCH_COUNT_OF(blocks); i++) {
        char *block = bench_must(malloc(16 + bench_below(&random, 1009)));
        block[0] = 1;
        blocks[i] = block;
    }
    for (size_t i = 0; i < BENCH_COUNT_OF(blocks); i++) {
        free(blocks[i]);
    }
    return NULL;
}

static void run_churn(uint64_t pairs)
{
    for (uintptr_t i = 1; i <= pairs; i++) {
        run_pair_of_threads(short_life, (void *)i, (void *)(i + 1));
    }
}

/* --- burst --- */

enum { BURST_BYTES = 16 << 20, BURST_SLOTS = BURST_BYTES / 16 };

/* Sizes such that each power of two from 16 to 2048 is as likely as the next. */
static size_t log_uniform(uint64_t *random)
{
    uint32_t octave = bench_below(random, 8);
    return ((size_t)16 << octave) + bench_below(random, (uint64_t)16 << octave);
}

static void *burst_body(void *argument)
{
    uint64_t cycles = *(uint64_t *)argument;
    uint64_t random = cycles;
    void **blocks = bench_must(malloc(BURST_SLOTS * sizeof(*blocks)));
    for (uint64_t i = 0; i < cycles; i++) {
        size_t count = 0;
        for (size_t bytes = 0; bytes < BURST_BYTES;) {
            size_t size = log_uniform(&random);
            char *block = bench_must(malloc(size));
            block[0] = block[size - 1] = 1;
            blocks[count++] = block;
            bytes += size;
        }
        while (count > 0) {
            free(blocks[--count]);
        }
    }
    free(blocks);
    return NULL;
}

static void run_burst2(uint64_t cycles)
{
    run_pair_of_threads(burst_body, &cycles, &cycles);
}

static const struct pattern {
    const char *name;
    void (*run)(uint64_t count);
    uint64_t count;
} patterns[] = {
    {"larson1", run_larson1, 800},     {"larson2", run_larson2, 250},
    {"handover", run_handover, 60000}, {"crossfree2", run_crossfree2, 40000},
    {"churn", run_churn, 3000},        {"burst2", run_burst2, 60},
};

int main(int argc, char **argv)
{
    const struct pattern *pattern = &patterns[BENCH_FIND(patterns, argc > 1 ? argv[1] : NULL)];
    uint64_t count = argc > 2 ? strtoull(argv[2], NULL, 10) : pattern->count;
    pattern->run(count);
    bench_report(pattern->name, "count", (double)count, "rounds");
    return 0;
}
