/*
 * What an allocator holds and what it gives back.
 *
 *   burst     300 MiB of blocks, sizes log-uniform over 16–4096 bytes, all written. A random 95
 *             % is freed, then the process sleeps 1.5 s and makes no call: its resident memory,
 *             and what the system has free, divided by the peak. The freed bytes are filled
 *             again with blocks 1.5 times as large (÷ peak: can memory of one size serve
 *             another?). All is freed, the process sleeps 3 s: what is left.
 *   classes   the same with nine sizes only, the powers of two from 16 to 4096: the blocks of
 *             the refill, 1.5 times as large, share no size class with what was freed, so
 *             nothing but whole free pages helps
 *   freeing   a thread makes blocks, another frees them and does nothing else; 90 MiB are live
 *             all the time: the largest resident memory
 *   makers    eight threads, each with its share of 90 MiB in blocks of 592 bytes, replace a
 *             random one again and again; the old blocks go through a queue to a thread that
 *             frees them and has never allocated (mimalloc's issue 1364)
 *   tiny      does nothing: the resident memory with which a program begins (the launcher reads
 *             it)
 *
 * Resident memory is the kernel's exact sum (smaps_rollup), not the approximate counter of
 * statm. System memory is MemFree: what the allocator really gave back when huge pages make RSS
 * lie; it is the whole machine's, so it is worth something only when little else runs. The floor
 * after 95 % is .21 with 4 KiB pages, for that many pages hold at least one survivor.
 *
 * Nothing here allocates while it measures, and the list of blocks lies outside the heap.
 */
#include "harness.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <unistd.h>

/* The number after LABEL in a file of /proc, in KiB, as bytes; 0 if it is not there. */
static double proc_bytes(const char *path, const char *label)
{
    char text[4096];
    int file = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t length = file < 0 ? -1 : read(file, text, sizeof(text) - 1);
    if (file >= 0) {
        close(file);
    }
    if (length <= 0) {
        return 0;
    }
    text[length] = '\0';
    const char *at = strstr(text, label);
    return at == NULL ? 0 : 1024.0 * (double)strtoull(at + strlen(label), NULL, 10);
}

static double resident(void)
{
    return proc_bytes("/proc/self/smaps_rollup", "Rss:");
}

static double system_free(void)
{
    return proc_bytes("/proc/meminfo", "MemFree:");
}

static void *outside_heap(size_t size)
{
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        perror("bench: mmap");
        exit(1);
    }
    return memory;
}

static void sleep_ms(long ms)
{
    struct timespec rest = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
    while (nanosleep(&rest, &rest) != 0) {
    }
}

/* A power of two from 16 to 4096, each as likely. */
static size_t power_of_two(uint64_t *random)
{
    return (size_t)16 << bench_below(random, 9);
}

/* Each power of two from 16 to 2048 as likely as the next, uniform within it: mean 740 bytes. */
static size_t log_uniform(uint64_t *random)
{
    uint32_t octave = bench_below(random, 8);
    return ((size_t)16 << octave) + bench_below(random, (uint64_t)16 << octave) + 1;
}

static void *written(size_t size)
{
    return memset(bench_must(malloc(size)), 0x5a, size);
}

enum { BURST_BYTES = 300 << 20, BURST_SLOTS = 2000000 };

struct live {
    void *block;
    size_t size;
};

static void burst(const char *name, size_t (*draw)(uint64_t *random))
{
    struct live *live = outside_heap(BURST_SLOTS * sizeof(*live));
    memset(live, 0, BURST_SLOTS * sizeof(*live));
    uint64_t random = 29;
    double own = resident();
    double free_before = system_free();
    size_t count = 0;
    for (size_t bytes = 0; bytes < BURST_BYTES && count < BURST_SLOTS; count++) {
        live[count].size = draw(&random);
        live[count].block = written(live[count].size);
        bytes += live[count].size;
    }
    double peak = resident() - own;
    double system_peak = free_before - system_free();

    size_t freed = 0;
    for (size_t i = 0; i < count; i++) {
        if (bench_below(&random, 100) < 95) {
            free(live[i].block);
            freed += live[i].size;
            live[i].block = NULL;
        }
    }
    sleep_ms(1500);
    bench_report(name, "peak", peak / 1048576, "MiB");
    bench_report(name, "after_95", (resident() - own) / peak, "of peak");
    bench_report(name, "after_95_system", (free_before - system_free()) / system_peak, "of peak");

    for (size_t i = 0; i < count && freed > 0; i++) {
        if (live[i].block == NULL) {
            size_t size = draw(&random) * 3 / 2;
            live[i].block = written(size);
            freed -= size < freed ? size : freed;
        }
    }
    bench_report(name, "refilled", (resident() - own) / peak, "of peak");

    for (size_t i = 0; i < count; i++) {
        free(live[i].block);
    }
    sleep_ms(3000);
    bench_report(name, "after_all", (resident() - own) / 1048576, "MiB");
}

static void run_burst(void)
{
    burst("burst", log_uniform);
}

static void run_classes(void)
{
    burst("classes", power_of_two);
}

/* --- a thread that only frees --- */

enum { LIVE_BYTES = 90 << 20, FREEING_SLOTS = 1 << 18, FREEING_BLOCKS = 3000000 };

/*
 * A ring between one maker and one freer. The maker publishes by `made` (release; the freer's
 * acquire pairs with it), the freer by `freed_bytes` (release, the maker's acquire), which bounds
 * what is live.
 */
static struct {
    struct live *ring;
    _Atomic size_t made, made_bytes;
    _Atomic size_t freed, freed_bytes;
    _Atomic int is_done;
} handover;

/* Frees whenever LIVE_BYTES are out, so that the queue is as full as it may be. */
static void *only_frees(void *argument)
{
    size_t at = 0;
    size_t bytes = 0;
    for (;;) {
        int is_done = atomic_load_explicit(&handover.is_done, memory_order_acquire);
        size_t made = atomic_load_explicit(&handover.made, memory_order_acquire);
        size_t made_bytes = atomic_load_explicit(&handover.made_bytes, memory_order_relaxed);
        if (at == made && is_done) {
            return argument;
        }
        if (at == made || (!is_done && made_bytes - bytes < LIVE_BYTES)) {
            sched_yield();
            continue;
        }
        struct live live = handover.ring[at % FREEING_SLOTS];
        free(live.block);
        at++;
        bytes += live.size;
        atomic_store_explicit(&handover.freed_bytes, bytes, memory_order_release);
        atomic_store_explicit(&handover.freed, at, memory_order_release);
    }
}

struct maker {
    uint64_t random;
    size_t made, bytes;
    double own, most;
};

static void makes(struct maker *maker)
{
    for (; maker->made < FREEING_BLOCKS; maker->made++) {
        size_t size = log_uniform(&maker->random);
        while (maker->bytes + size -
                       atomic_load_explicit(&handover.freed_bytes, memory_order_acquire) >
                   LIVE_BYTES + (LIVE_BYTES >> 7) ||
               maker->made - atomic_load_explicit(&handover.freed, memory_order_acquire) >=
                   FREEING_SLOTS) {
            sched_yield();
        }
        handover.ring[maker->made % FREEING_SLOTS] = (struct live){written(size), size};
        maker->bytes += size;
        atomic_store_explicit(&handover.made_bytes, maker->bytes, memory_order_relaxed);
        atomic_store_explicit(&handover.made, maker->made + 1, memory_order_release);
        if (maker->made % 50000 == 0) {
            double now = resident() - maker->own;
            maker->most = now > maker->most ? now : maker->most;
        }
    }
}

static void start(pthread_t *thread, void *(*body)(void *), void *argument)
{
    if (pthread_create(thread, NULL, body, argument) != 0) {
        perror("bench: pthread_create");
        exit(1);
    }
}

static void run_freeing(void)
{
    handover.ring = outside_heap(FREEING_SLOTS * sizeof(*handover.ring));
    memset(handover.ring, 0, FREEING_SLOTS * sizeof(*handover.ring));
    struct maker maker = {.random = 31, .own = resident()};
    pthread_t freer;
    start(&freer, only_frees, NULL);
    makes(&maker);
    bench_report("freeing", "most", maker.most / LIVE_BYTES, "of live");
    bench_report("freeing", "most_bytes", maker.most / 1048576, "MiB");
    atomic_store_explicit(&handover.is_done, 1, memory_order_release);
    pthread_join(freer, NULL);
}

/* --- many makers, one freer --- */

enum {
    MAKERS = 8,
    MAKER_BLOCK = 592,
    MAKER_BLOCKS = LIVE_BYTES / MAKERS / MAKER_BLOCK,
    MAKER_STEPS = 500000,
    RETURNED_SLOTS = 2048,
};

static struct {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    void **slots; /* a ring */
    size_t put, taken;
    int is_done;
} returned = {.mutex = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static void *frees_what_returns(void *argument)
{
    pthread_mutex_lock(&returned.mutex);
    while (!returned.is_done || returned.taken != returned.put) {
        if (returned.taken == returned.put) {
            pthread_cond_wait(&returned.changed, &returned.mutex);
            continue;
        }
        void *batch[64];
        size_t count = 0;
        while (count < BENCH_COUNT_OF(batch) && returned.taken != returned.put) {
            batch[count++] = returned.slots[returned.taken++ % RETURNED_SLOTS];
        }
        pthread_cond_broadcast(&returned.changed);
        pthread_mutex_unlock(&returned.mutex);
        while (count > 0) {
            free(batch[--count]);
        }
        pthread_mutex_lock(&returned.mutex);
    }
    pthread_mutex_unlock(&returned.mutex);
    return argument;
}

static void give_back(void *const *blocks, size_t count)
{
    pthread_mutex_lock(&returned.mutex);
    while (returned.put + count - returned.taken > RETURNED_SLOTS) {
        pthread_cond_wait(&returned.changed, &returned.mutex);
    }
    for (size_t i = 0; i < count; i++) {
        returned.slots[returned.put++ % RETURNED_SLOTS] = blocks[i];
    }
    pthread_cond_broadcast(&returned.changed);
    pthread_mutex_unlock(&returned.mutex);
}

static void *keeps_a_share(void *argument)
{
    void **share = argument;
    uint64_t random = 1 + (uint64_t)(uintptr_t)argument;
    void *old[64];
    size_t count = 0;
    for (size_t i = 0; i < MAKER_BLOCKS; i++) {
        share[i] = written(MAKER_BLOCK);
    }
    for (size_t i = 0; i < MAKER_STEPS; i++) {
        void **slot = &share[bench_below(&random, MAKER_BLOCKS)];
        old[count++] = *slot;
        *slot = written(MAKER_BLOCK);
        if (count == BENCH_COUNT_OF(old)) {
            give_back(old, count);
            count = 0;
        }
    }
    give_back(old, count);
    return NULL;
}

static void run_makers(void)
{
    pthread_t freer;
    pthread_t makers[MAKERS];
    returned.slots = outside_heap(RETURNED_SLOTS * sizeof(void *));
    void **shares = outside_heap((size_t)MAKERS * MAKER_BLOCKS * sizeof(void *));
    memset(shares, 0, (size_t)MAKERS * MAKER_BLOCKS * sizeof(void *));
    double own = resident();
    start(&freer, frees_what_returns, NULL);
    for (size_t i = 0; i < MAKERS; i++) {
        start(&makers[i], keeps_a_share, shares + i * MAKER_BLOCKS);
    }
    for (size_t i = 0; i < MAKERS; i++) {
        pthread_join(makers[i], NULL);
    }
    double most = resident() - own;
    bench_report("makers", "most", most / LIVE_BYTES, "of live");
    bench_report("makers", "most_bytes", most / 1048576, "MiB");
    pthread_mutex_lock(&returned.mutex);
    returned.is_done = 1;
    pthread_cond_broadcast(&returned.changed);
    pthread_mutex_unlock(&returned.mutex);
    pthread_join(freer, NULL);
}

static void run_tiny(void)
{
}

static const struct pattern {
    const char *name;
    void (*run)(void);
} patterns[] = {{"burst", run_burst},
                {"classes", run_classes},
                {"makers", run_makers},
                {"freeing", run_freeing},
                {"tiny", run_tiny}};

int main(int argc, char **argv)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    patterns[BENCH_FIND(patterns, argc > 1 ? argv[1] : NULL)].run();
    return 0;
}
