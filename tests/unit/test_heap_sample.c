/* heap/sample: which blocks are offered as samples. The table that they are offered to is this
 * test's own; each claim is made in a process of its own. */
#include "heap/heap.h"
#include "os/sys.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define EXPECT(claim)                                                                              \
    do {                                                                                           \
        if (!(claim)) {                                                                            \
            fprintf(stderr, "%s:%d: expected %s\n", __FILE__, __LINE__, #claim);                   \
            _exit(1);                                                                              \
        }                                                                                          \
    } while (0)

#define KIB ((size_t)1 << 10)
#define MIB ((size_t)1 << 20)

/* ---- a table that counts --------------------------------------------------------------------- */

static struct {
    _Atomic size_t samples;
    _Atomic size_t last_size;
    bool is_accepting;
    char pool[64][64 * KIB];
    unsigned next;
} table;

static void *sample(size_t size, size_t align, unsigned how, const struct fh_call *call)
{
    (void)align;
    EXPECT(how == FH_HOW_MALLOC && call->pc != 0);
    atomic_fetch_add(&table.samples, 1);
    table.last_size = size;
    return table.is_accepting ? table.pool[table.next++ % 64] : NULL;
}

static bool is_mine(const void *address)
{
    return (uintptr_t)address - (uintptr_t)table.pool < sizeof table.pool;
}

static bool free_nothing(void *block, size_t size, size_t align, unsigned how,
                         const struct fh_call *call)
{
    (void)size;
    (void)align;
    (void)how;
    (void)call;
    EXPECT(is_mine(block));
    return true;
}

static size_t usable(const void *block)
{
    (void)block;
    return 64 * KIB;
}

static struct fh_mode mode = {
    .free = free_nothing, .sample = sample, .is_mine = is_mine, .usable = usable};

static void alone(void (*body)(void), size_t sample_bytes)
{
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        mode.sample_bytes = sample_bytes;
        EXPECT(fh_start());
        fh_root.mode = &mode;
        body();
        fh_free_any(fh_malloc(1)); /* who asks for the check has a heap */
        EXPECT(fh_heap_check(NULL) == 0);
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
}

/* Allocates and frees `bytes` in blocks of one size, `kept` of them at a time. */
static void churn(size_t bytes, size_t size, unsigned kept)
{
    void *blocks[1000] = {0};
    for (size_t i = 0; i * size < bytes; i++) {
        void **at = &blocks[i % kept];
        fh_free_any(*at);
        *at = fh_malloc(size);
        EXPECT(*at != NULL);
        *(volatile char *)*at = 1;
    }
    for (unsigned i = 0; i < kept; i++)
        fh_free_any(blocks[i]);
}

/* Of a count that is `expected` in the mean: five standard deviations, which one run in a million
 * leaves. */
static bool is_near(size_t count, size_t expected)
{
    double off = (double)count - (double)expected;
    return off * off <= 25.0 * (double)expected;
}

/* ---- claims ---------------------------------------------------------------------------------- */

static void gaps_are_exponential(void)
{
    enum { DRAWS = 100000 };
    struct fh_random random = {.state = 42};
    unsigned below_median = 0, below_tenth = 0;
    double sum = 0;
    for (int i = 0; i < DRAWS; i++) {
        uint64_t gap = fh_sample_draw(&random, 1000000);
        sum += (double)gap;
        below_median += gap < 693147; /* ln 2 */
        below_tenth += gap < 105360;  /* -ln 0.9 */
    }
    EXPECT(sum / DRAWS > 985000 && sum / DRAWS < 1015000);
    EXPECT(is_near(below_median, DRAWS / 2) && is_near(below_tenth, DRAWS / 10));
}

static void nothing_is_sampled_at_first(void)
{
    churn(990 * KIB, 64, 100);
    EXPECT(atomic_load(&table.samples) == 0);
}

static void each_size_is_sampled_by_its_bytes(void)
{
    static const size_t sizes[] = {16, 112, 1024, 4096, 12288, 32768, 49152, 1048576};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (unsigned kept = 1; kept < 1000; kept = kept * 9 + 1) {
            size_t bytes = 20 * MIB + sizes[i] * 200;
            if (sizes[i] * kept > 100 * MIB)
                continue;
            churn(MIB, 64, 1); /* what is not sampled at first */
            atomic_store(&table.samples, 0);
            churn(bytes, sizes[i], kept);
            /* Blocks much larger than the distance are one sample each. */
            if (sizes[i] <= 4096)
                EXPECT(is_near(atomic_load(&table.samples), bytes / mode.sample_bytes));
            else
                EXPECT(atomic_load(&table.samples) > bytes / (mode.sample_bytes + sizes[i]) / 2);
        }
}

/* Which of two that take turns is the sample must not depend on where lists begin: those of 2 KiB
 * have two blocks. */
static void who_takes_turns_is_sampled_alike(void)
{
    for (size_t size = 64; size <= 2048; size *= 32) {
        size_t samples[2] = {0};
        void *blocks[2] = {0};
        for (size_t i = 0; i < ((size_t)256 * MIB) / size; i++) {
            fh_free_any(blocks[i % 2]);
            size_t before = atomic_load(&table.samples);
            blocks[i % 2] = fh_malloc(size);
            samples[i % 2] += atomic_load(&table.samples) - before;
        }
        size_t all = samples[0] + samples[1];
        EXPECT(all > 10000 && is_near(samples[0], all / 2) && is_near(samples[1], all / 2));
    }
}

static void what_is_accepted_is_what_the_caller_gets(void)
{
    size_t got = 0;
    table.is_accepting = true;
    for (int i = 0; i < 200000; i++) {
        size_t before = atomic_load(&table.samples), size = 40 + (size_t)(i % 7) * 100;
        void *block = fh_malloc(size);
        bool is_sample = atomic_load(&table.samples) != before;
        EXPECT(is_mine(block) == is_sample);
        EXPECT(!is_sample || table.last_size == size);
        got += is_sample;
        memset(block, 1, size);
        fh_free_any(block);
    }
    EXPECT(got > 100);
}

static void blocks_are_not_lost_where_lists_are_cut(void)
{
    static void *blocks[20000];
    for (int round = 0; round < 20; round++) {
        for (int i = 0; i < 20000; i++) {
            blocks[i] = fh_malloc(100);
            memset(blocks[i], round, 100);
        }
        for (int i = 0; i < 20000; i++) {
            EXPECT(*(char *)blocks[i] == round && ((char *)blocks[i])[99] == round);
            fh_free_any(blocks[i]);
        }
    }
    EXPECT(atomic_load(&table.samples) > 1000);
    EXPECT(fh_pages_main.footprint < 20 * MIB);
}

static void calloc_clears_samples(void)
{
    table.is_accepting = true;
    memset(table.pool, 0xee, sizeof table.pool);
    for (int i = 0; i < 100000; i++) {
        char *block = fh_calloc(1, 300);
        for (int at = 0; at < 300; at++)
            EXPECT(block[at] == 0);
        memset(block, 0xee, 300);
        fh_free_any(block);
    }
    EXPECT(atomic_load(&table.samples) > 100);
}

static void *short_life(void *arg)
{
    (void)arg;
    churn(32 * KIB, 64, 10);
    return NULL;
}

static void short_threads_are_sampled_too(void)
{
    for (int i = 0; i < 1000; i++) {
        pthread_t thread;
        EXPECT(pthread_create(&thread, NULL, short_life, NULL) == 0);
        pthread_join(thread, NULL);
    }
    /* Some 31 MiB, of which the first is not sampled. */
    size_t samples = atomic_load(&table.samples);
    EXPECT(samples >= 8 && samples <= 70);
}

static void *work(void *arg)
{
    churn(64 * MIB, (size_t)arg, 50);
    return NULL;
}

static void threads_are_sampled_at_the_same_time(void)
{
    pthread_t threads[3];
    for (size_t i = 0; i < 3; i++)
        EXPECT(pthread_create(&threads[i], NULL, work, (void *)(64 + i * 64)) == 0);
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    size_t samples = atomic_load(&table.samples);
    EXPECT(samples > 3 * 64 * 15 && samples < 3 * 64 * 17);
}

/* By chance there would be none in three of eight. */
static void test_nothing_is_sampled_at_first(void **state)
{
    (void)state;
    for (int i = 0; i < 16; i++)
        alone(nothing_is_sampled_at_first, MIB);
}

#define CLAIM(body, sample_bytes)                                                                  \
    static void test_##body(void **state)                                                          \
    {                                                                                              \
        (void)state;                                                                               \
        alone(body, sample_bytes);                                                                 \
    }
#define CLAIMS(X)                                                                                  \
    X(gaps_are_exponential, MIB)                                                                   \
    X(each_size_is_sampled_by_its_bytes, 64 * KIB)                                                 \
    X(who_takes_turns_is_sampled_alike, 8 * KIB)                                                   \
    X(what_is_accepted_is_what_the_caller_gets, 16 * KIB)                                          \
    X(blocks_are_not_lost_where_lists_are_cut, 16 * KIB)                                           \
    X(calloc_clears_samples, 16 * KIB)                                                             \
    X(short_threads_are_sampled_too, MIB)                                                          \
    X(threads_are_sampled_at_the_same_time, 64 * KIB)

CLAIMS(CLAIM)

static int start_up(void **state)
{
    (void)state;
    fh_os_init();
    return 0;
}

#define TEST(body, sample_bytes) cmocka_unit_test_setup(test_##body, start_up),

int main(void)
{
    const struct CMUnitTest tests[] = {CLAIMS(TEST) TEST(nothing_is_sampled_at_first, )};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
