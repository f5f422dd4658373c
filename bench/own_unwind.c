/*
 * What a call stack of 20 frames costs, in nanoseconds.
 *
 * Four chains of calls, of code with frame pointers, of code without, and each of these with a
 * stack that changes between captures (one of 16 chains of different functions, chosen at random:
 * neither the last walk nor the branch predictor knows it all). Walkers: ours as it is, ours
 * without the recognition of the last walk, glibc's backtrace(), and libunwind's unw_backtrace()
 * when its library is installed. Least and median of 51 rounds of 2,000
 * captures: short, because what else runs on a machine comes in slices of milliseconds.
 */
#define _GNU_SOURCE 1 /* dlopen's RTLD_LOCAL with execinfo */

#include "base/core/random.h"
#include "os/sys.h"
#include "stack/stack.h"

#include <dlfcn.h>
#include <execinfo.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FRAMES = 20, ROUNDS = 51, CAPTURES = 2000, FRAMES_MAX = 64, WIDTH = 2 };

static struct fh_stack_cache cache;
static uintptr_t frames[FRAMES_MAX];
static int (*unw_backtrace)(void **, int);

static size_t by_ours(void)
{
    return fh_stack_capture(&cache, frames, FRAMES, 0);
}

static size_t by_ours_afresh(void)
{
    cache.last_len = 0;
    return fh_stack_capture(&cache, frames, FRAMES, 0);
}

static size_t by_glibc(void)
{
    return (size_t)backtrace((void **)frames, FRAMES);
}

static size_t by_libunwind(void)
{
    return (size_t)unw_backtrace((void **)frames, FRAMES);
}

/* ---- The chains ----------------------------------------------------------------------------- */

static size_t (*walker)(void);
static unsigned path; /* one bit a level: which of two functions is called */
static size_t repeats;
static uint64_t elapsed;
static volatile size_t sink;

static __attribute__((noinline)) void bottom(void)
{
    uint64_t begin = fh_os_now_ns();
    for (size_t i = 0; i < repeats; i++)
        sink = walker();
    elapsed += fh_os_now_ns() - begin;
}

#if defined(__clang__)
#define WITHOUT_FP
#else
#define WITHOUT_FP __attribute__((optimize("omit-frame-pointer")))
#endif

/* Keeps a frame's array and the code behind its call in being. */
#define USE(local) __asm__ volatile("" : : "r"(local) : "memory")
#define ONE(name, attribute, next, bytes)                                                          \
    attribute static __attribute__((noinline, unused)) void name(void)                             \
    {                                                                                              \
        char local[bytes];                                                                         \
        USE(local);                                                                                \
        next;                                                                                      \
        USE(local);                                                                                \
    }
#define LEVEL(kind, attribute, level, next, bytes)                                                 \
    ONE(kind##_a##level, attribute, next, bytes)                                                   \
    ONE(kind##_b##level, attribute, next, (bytes) + 48)
#define NEXT(kind, level) ((path >> (level)&1) != 0 ? kind##_b##level() : kind##_a##level())
#define CHAIN(kind, attribute)                                                                     \
    LEVEL(kind, attribute, 0, bottom(), 24)                                                        \
    LEVEL(kind, attribute, 1, NEXT(kind, 0), 40)                                                   \
    LEVEL(kind, attribute, 2, NEXT(kind, 1), 8)                                                    \
    LEVEL(kind, attribute, 3, NEXT(kind, 2), 100)                                                  \
    LEVEL(kind, attribute, 4, NEXT(kind, 3), 16)                                                   \
    LEVEL(kind, attribute, 5, NEXT(kind, 4), 200)                                                  \
    LEVEL(kind, attribute, 6, NEXT(kind, 5), 24)                                                   \
    LEVEL(kind, attribute, 7, NEXT(kind, 6), 56)                                                   \
    LEVEL(kind, attribute, 8, NEXT(kind, 7), 8)                                                    \
    LEVEL(kind, attribute, 9, NEXT(kind, 8), 32)                                                   \
    LEVEL(kind, attribute, 10, NEXT(kind, 9), 16)                                                  \
    LEVEL(kind, attribute, 11, NEXT(kind, 10), 72)                                                 \
    LEVEL(kind, attribute, 12, NEXT(kind, 11), 24)                                                 \
    LEVEL(kind, attribute, 13, NEXT(kind, 12), 40)                                                 \
    LEVEL(kind, attribute, 14, NEXT(kind, 13), 8)                                                  \
    LEVEL(kind, attribute, 15, NEXT(kind, 14), 120)                                                \
    LEVEL(kind, attribute, 16, NEXT(kind, 15), 16)                                                 \
    LEVEL(kind, attribute, 17, NEXT(kind, 16), 24)                                                 \
    LEVEL(kind, attribute, 18, NEXT(kind, 17), 48)                                                 \
    LEVEL(kind, attribute, 19, NEXT(kind, 18), 64)
CHAIN(with, )
CHAIN(without, WITHOUT_FP)

/* ---- Measuring ------------------------------------------------------------------------------ */

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static size_t by_nobody(void)
{
    return 0;
}

/* Nanoseconds of `captures` captures, the cost of measuring included. */
static double run_ns(size_t (*walk)(void), void (*top)(void), bool is_changing, size_t captures)
{
    struct fh_random random = {42};
    walker = walk;
    size_t chains = is_changing ? captures / WIDTH : 1;
    repeats = captures / chains;
    elapsed = 0;
    for (size_t i = 0; i < chains; i++) {
        /* 16 stacks, of 40 functions. */
        path = is_changing ? fh_random_below(&random, 16) * 0x8421u : 0;
        top();
    }
    return (double)elapsed;
}

/* Least and median of the rounds, for one capture. */
static void measure_rounds(size_t (*walk)(void), void (*top)(void), bool is_changing, double *least,
                           double *median)
{
    double rounds[ROUNDS];
    run_ns(walk, top, is_changing, CAPTURES);
    for (int i = 0; i < ROUNDS; i++)
        rounds[i] = run_ns(walk, top, is_changing, CAPTURES) / CAPTURES;
    qsort(rounds, ROUNDS, sizeof(rounds[0]), compare_doubles);
    *least = rounds[0];
    *median = rounds[ROUNDS / 2];
}

static void measure(const char *name, size_t (*walk)(void), void (*top)(void), bool is_changing)
{
    double least, median, empty_least, empty_median;
    measure_rounds(by_nobody, top, is_changing, &empty_least, &empty_median);
    measure_rounds(walk, top, is_changing, &least, &median);
    printf("%-36s %10.1f %10.1f\n", name, least - empty_least, median - empty_median);
}

static void measure_all(const char *title, void (*top)(void), bool is_changing)
{
    printf("\n%-36s %10s %10s\n", title, "least ns", "median ns");
    measure("  freehold", by_ours, top, is_changing);
    measure("  freehold, last walk forgotten", by_ours_afresh, top, is_changing);
    if (unw_backtrace != NULL)
        measure("  libunwind unw_backtrace", by_libunwind, top, is_changing);
    measure("  glibc backtrace", by_glibc, top, is_changing);
}

int main(void)
{
    void *libunwind = dlopen("libunwind.so.8", RTLD_NOW | RTLD_LOCAL);
    if (libunwind != NULL) {
        void *symbol = dlsym(libunwind, "unw_backtrace");
        memcpy(&unw_backtrace, &symbol, sizeof(symbol));
    }
    printf("%d frames, %d rounds\n", FRAMES, ROUNDS);
    measure_all("with frame pointers", with_a19, false);
    measure_all("without frame pointers", without_a19, false);
    measure_all("with, changing stacks", with_a19, true);
    measure_all("without, changing stacks", without_a19, true);
    return 0;
}
