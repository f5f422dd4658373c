/*
 * What an allocator holds and what it gives back.
 *
 *   burst     300 MiB of blocks, sizes log-uniform over 16–4096 bytes, all written. A random 95 %
 * is freed, then the process sleeps 1.5 s and makes no call: its resident memory, and what the
 * system has free, divided by the peak. The freed bytes are filled again with blocks 1.5 times as
 * large (÷ peak: can memory of one size serve another?). All is freed, the process sleeps 3 s: what
 * is left. freeing   a thread makes blocks, another frees them and does nothing else; 90 MiB are
 * live all the time. The largest resident memory once the queue is full tiny      does nothing: the
 * resident memory with which a program begins (the launcher reads it)
 *
 * Resident memory is the kernel's exact sum (smaps_rollup), not the approximate counter of statm.
 * System memory is MemFree: what the allocator really gave back when huge pages make RSS lie; it is
 * the whole machine's, so it is worth something only when little else runs. The floor of the burst
 * is .21 with 4 KiB pages, for that many pages hold at least one survivor.
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

/* --- a thread that only frees
 * ------------------------------------------------------------------------- */

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
    size_t made, bytes, until;
    double own, most;
};

static void *makes(void *argument)
{
    struct maker *maker = argument;
    for (; maker->made < maker->until; maker->made++) {
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
    return NULL;
}

static void start(pthread_t *thread, void *(*body)(void *), void *argument)
{
    if (pthread_create(thread, NULL, body, argument) != 0) {
        perror("bench: pthread_create");
        exit(1);
    }
}

static void freeing(const char *name, size_t blocks_per_maker)
{
    handover.ring = outside_heap(FREEING_SLOTS * sizeof(*handover.ring));
    memset(handover.ring, 0, FREEING_SLOTS * sizeof(*handover.ring));
    struct maker maker = {.random = 31, .own = resident()};
    pthread_t freer;
    start(&freer, only_frees, NULL);
    while (maker.made < FREEING_BLOCKS) {
        maker.until = maker.made + blocks_per_maker;
        pthread_t thread;
        start(&thread, makes, &maker);
        pthread_join(thread, NULL);
    }
    bench_report(name, "most", maker.most / LIVE_BYTES, "of live");
    bench_report(name, "most_bytes", maker.most / 1048576, "MiB");
    atomic_store_explicit(&handover.is_done, 1, memory_order_release);
    pthread_join(freer, NULL);
}

static void run_freeing(void)
{
    freeing("freeing", FREEING_BLOCKS);
}

static void run_makers(void)
{
    freeing("makers", 20000);
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
