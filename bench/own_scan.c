/*
 * What a scan costs: how long the program stands still, and how fast memory is read.
 *
 *     own_scan [MIB]      heap of MIB mebibytes (1,024), a table of figures
 *
 * Blocks of 64 bytes that point to one another: a tree of four children each in a random order of addresses (the
 * worst that a trace can meet: each block is a cache miss), and the same blocks without pointers. Threads: how long it
 * takes to stop and start them, running and waiting.
 */
#include "freehold/freehold.h"
#include "os/sys.h"
#include "scan/scan.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BLOCK ((size_t)64)

static void **root;
static const struct fh_scan_options options = {.roots = FH_SCAN_ALL_ROOTS};

struct times {
    uint64_t work_ns;
    size_t unreached;
    struct fh_scan_counts counts;
    unsigned gaps;
};

static void count_one(void *context, uintptr_t block, size_t size)
{
    (void)block;
    (void)size;
    ++*(size_t *)context;
}

static void trace(struct fh_scan *scan, void *context)
{
    struct times *times = context;
    uint64_t begin = fh_os_now_ns();
    fh_scan_trace(scan);
    times->work_ns = fh_os_now_ns() - begin;
}

static void sweep(struct fh_scan *scan, void *context)
{
    struct times *times = context;
    uint64_t begin = fh_os_now_ns();
    fh_scan_sweep(scan);
    times->work_ns = fh_os_now_ns() - begin;
}

static void nothing(struct fh_scan *scan, void *context)
{
    (void)scan;
    (void)context;
}

static void show(const char *name, void (*work)(struct fh_scan *, void *), bool is_snapshot)
{
    struct times times = {0};
    int error;
    uint64_t begin = fh_os_now_ns();
    struct fh_scan *scan = is_snapshot ? fh_scan_snapshot(&options, work, &times, &error)
                                       : fh_scan_run(&options, work, &times, &error);
    if (scan == NULL) {
        printf("%-34s failed: %d\n", name, error);
        return;
    }
    fh_scan_wait(scan);
    uint64_t all = fh_os_now_ns() - begin;
    fh_scan_count(scan, &times.counts);
    fh_scan_each_wanted(scan, count_one, &times.unreached);
    printf("%-34s %8.2f %8.2f %8.2f %9.1f %9zu %4u\n", name, (double)times.counts.stopped_ns / 1e6,
           (double)times.work_ns / 1e6, (double)all / 1e6,
           (double)(times.counts.live_bytes + times.counts.root_bytes) / 1048576.0,
           times.unreached, fh_scan_gaps(scan));
    fh_scan_forget(scan, false);
}

static uint32_t next_random(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

/* A tree over blocks in a random order; the first word of the first is the root. */
static void make_tree(void **blocks, size_t count, bool has_pointers)
{
    uint32_t random = 1;
    for (size_t i = 0; i < count; i++) {
        blocks[i] = fh_malloc(BLOCK);
        memset(blocks[i], 0, BLOCK);
    }
    for (size_t i = count; i-- > 1;) {
        size_t other = ((size_t)next_random(&random) << 24 | next_random(&random)) % (i + 1);
        void *held = blocks[i];
        blocks[i] = blocks[other];
        blocks[other] = held;
    }
    for (size_t i = 1; i < count && has_pointers; i++)
        ((void **)blocks[(i - 1) / 4])[1 + (i - 1) % 4] = blocks[i];
    root = blocks[0];
}

static _Atomic bool is_over;

static void *spin(void *unused)
{
    (void)unused;
    while (!atomic_load(&is_over))
        ;
    return NULL;
}

static void *wait(void *pipe_)
{
    char byte;
    return read(*(int *)pipe_, &byte, 1) == 1 ? NULL : pipe_;
}

static void with_threads(const char *name, unsigned count, void *(*body)(void *))
{
    pthread_t threads[256];
    int ends[2];
    if (pipe(ends) != 0)
        return;
    atomic_store(&is_over, false);
    for (unsigned i = 0; i < count; i++)
        pthread_create(&threads[i], NULL, body, &ends[0]);
    usleep(20000);
    show(name, nothing, false);
    show(name, nothing, false);
    atomic_store(&is_over, true);
    for (unsigned i = 0; i < count; i++)
        if (write(ends[1], "x", 1) != 1)
            return;
    for (unsigned i = 0; i < count; i++)
        pthread_join(threads[i], NULL);
    close(ends[0]);
    close(ends[1]);
}

int main(int argc, char **argv)
{
    size_t mib = argc > 1 ? strtoul(argv[1], NULL, 10) : 1024;
    size_t count = (mib << 20) / BLOCK;
    printf("%-34s %8s %8s %8s %9s %9s %4s\n", "", "stopped", "work", "all ms", "MiB", "unreached",
           "gaps");
    with_threads("nothing, no other thread", 0, spin);
    with_threads("nothing, 4 threads run", 4, spin);
    with_threads("nothing, 100 threads wait", 100, wait);
    /* The list of blocks is no memory of the program's: it would be the roots of all. */
    void **blocks = malloc(count * sizeof blocks[0]);
    make_tree(blocks, count, true);
    free(blocks);
    show("trace, tree of 64-byte blocks", trace, false);
    show("sweep, the same", sweep, false);
    show("trace in a copy", trace, true);
    show("sweep in a copy", sweep, true);
    root = NULL;
    show("trace, nothing reached", trace, false);
    return 0;
}
