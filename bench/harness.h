/*
 * What the pattern programs share: a clock of CPU time, a random sequence that is the same for
 * every allocator, and the one line in which a program reports.
 *
 * The programs call plain malloc and free; LD_PRELOAD decides whose they are. They are compiled
 * with -fno-builtin so that the compiler neither merges nor drops a pair, and -fno-plt so that a
 * call costs one indirect jump, as it does in most programs that distributions ship.
 *
 * A report is one line of tab-separated fields, NAME METRIC VALUE UNIT, which bench/run reads.
 */
#ifndef FH_BENCH_HARNESS_H
#define FH_BENCH_HARNESS_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define BENCH_COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

/* xorshift64* (Vigna 2016): good enough for choices of size and slot, 5 instructions. */
static inline uint64_t bench_random(uint64_t *state)
{
    uint64_t x = *state;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    *state = x;
    return x * 0x2545f4914f6cdd1du;
}

/* A number in [0, bound), bound ≤ 2^32. */
static inline uint32_t bench_below(uint64_t *state, uint64_t bound)
{
    return (uint32_t)(((bench_random(state) >> 32) * bound) >> 32);
}

/* CPU time of the calling thread: what others do on the machine counts as little as can be. */
static inline uint64_t bench_thread_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static inline void bench_report(const char *name, const char *metric, double value,
                                const char *unit)
{
    printf("%s\t%s\t%.4f\t%s\n", name, metric, value, unit);
}

/* Memory that must be there; a benchmark without it has nothing to say. */
static inline void *bench_must(void *ptr)
{
    if (ptr == NULL) {
        fputs("bench: out of memory\n", stderr);
        exit(1);
    }
    return ptr;
}

/* NAME's place in a table of {name, …} rows, or an exit that lists the names. */
#define BENCH_FIND(table, wanted)                                                                  \
    bench_find(&(table)[0].name, sizeof((table)[0]), BENCH_COUNT_OF(table), (wanted))
static inline size_t bench_find(const char *const *first_name, size_t stride, size_t count,
                                const char *wanted)
{
    const char *row = (const char *)first_name;
    for (size_t i = 0; wanted != NULL && i < count; i++) {
        if (strcmp(*(const char *const *)(const void *)(row + i * stride), wanted) == 0) {
            return i;
        }
    }
    fputs("usage: PROGRAM PATTERN [COUNT]; patterns:", stderr);
    for (size_t i = 0; i < count; i++) {
        fprintf(stderr, " %s", *(const char *const *)(const void *)(row + i * stride));
    }
    fputs("\n", stderr);
    exit(2);
}

#endif
