/*
 * What the heaps that move memory give back, and how long their longest step takes.
 *
 *     own_place_move [--rounds N] [--peer NAME=LIBRARY]… [--json FILE]
 *
 * Compaction: 200,000 blocks of each mix in a movable heap, a share of them freed at random, then
 * steps of at most 256 KiB and 1 ms until nothing remains. Footprint over live bytes (usable) before
 * and after, the longest step and the sum of all, in CPU time of the thread. The longest step is the least over
 * the rounds of each round's longest: the worst that is the heap's and not the machine's.
 *
 * Meshing: blocks of 240 B, of 16-512 B, and of 64 B, 480, 500 and 128 MiB in all, every one written to;
 * 90 % freed at random; steps of 1 ms until nothing is gained. Memory is PSS of the process
 * (smaps_rollup), in a child for each run. A peer runs the same pattern through malloc and free by
 * LD_PRELOAD and is then given 1.5 s and frees of other sizes to mesh in (Mesh works within frees).
 *
 * Fork: what copying a heap for a child costs for each MiB.
 *
 * Figures are medians of the rounds, peers interleaved. Markdown on standard output.
 */
#define _GNU_SOURCE 1

#include "base/core/random.h"
#include "freehold/mesh.h"
#include "freehold/movable.h"
#include "os/sys.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { ROUNDS_MAX = 31, PEERS_MAX = 8, BLOCKS = 200000, LIVE_PERCENT = 10 };

struct figures {
    double values[ROUNDS_MAX];
    int count;
};

static void add(struct figures *figures, double value)
{
    if (figures->count < ROUNDS_MAX)
        figures->values[figures->count++] = value;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double at_rank(const struct figures *figures, int num, int den)
{
    struct figures sorted = *figures;
    qsort(sorted.values, (size_t)sorted.count, sizeof sorted.values[0], compare);
    return sorted.count == 0 ? 0 : sorted.values[(sorted.count - 1) * num / den];
}

static double median(const struct figures *figures)
{
    return at_rank(figures, 1, 2);
}

static FILE *json;
static bool is_first = true;

static void record(const char *part, const char *name, const char *metric,
                   const struct figures *figures)
{
    if (json == NULL)
        return;
    fprintf(json,
            "%s\n {\"part\": \"%s\", \"name\": \"%s\", \"metric\": \"%s\", \"median\": %.4f, "
            "\"values\": [",
            is_first ? "" : ",", part, name, metric, median(figures));
    for (int i = 0; i < figures->count; i++)
        fprintf(json, "%s%.4f", i == 0 ? "" : ", ", figures->values[i]);
    fputs("]}", json);
    is_first = false;
}

static void must(bool is_true, const char *what)
{
    if (!is_true) {
        fprintf(stderr, "own_place_move: %s\n", what);
        exit(1);
    }
}

/* CPU time of the thread: what else runs on the machine is not the heap's. */
static uint64_t thread_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* ---- Compaction --------------------------------------------------------------------------------- */

static size_t log_uniform(struct fh_random *random, unsigned low, unsigned high)
{
    unsigned shift = low + fh_random_below(random, high - low);
    return ((size_t)1 << shift) + fh_random_below(random, 1u << shift);
}

struct mix {
    const char *name;
    unsigned low, high, freed_percent;
};

static const struct mix mixes[] = {
    {"16-4096 B, 50 % freed", 4, 12, 50},
    {"16-4096 B, 90 % freed", 4, 12, 90},
    {"256-64 Ki, 90 % freed", 8, 16, 90},
    {"64-128 B, 50 % freed", 6, 7, 50},
};

struct compaction {
    struct figures before, after, longest_us, total_ms, moved_mib;
};

static void compact_round(const struct mix *mix, struct compaction *out)
{
    static fh_handle handles[BLOCKS];
    struct fh_movable heap;
    struct fh_movable_options options = {.place.capacity = (size_t)1 << 30};
    struct fh_random random;
    fh_random_seed(&random, 11);
    must(fh_movable_init(&heap, &options) == 0, "no heap");
    size_t count = mix->high > 12 ? BLOCKS / 10 : BLOCKS;
    for (size_t i = 0; i < count; i++) {
        size_t size = log_uniform(&random, mix->low, mix->high);
        handles[i] = fh_movable_alloc(&heap, size);
        must(!fh_handle_is_null(handles[i]), "out of memory");
        memset(fh_movable_resolve(&heap, handles[i]), 1, size);
    }
    for (size_t i = 0; i < count; i++)
        if (fh_random_below(&random, 100) < mix->freed_percent)
            fh_movable_free(&heap, handles[i]);
    struct fh_measure now = {.size = sizeof now};
    fh_movable_measure(&heap, &now);
    add(&out->before, (double)now.footprint / (double)now.live_bytes);
    uint64_t longest = 0, begin = thread_ns();
    for (bool is_done = false; !is_done;) {
        uint64_t step = thread_ns();
        is_done = fh_compact_step(&heap, 256 << 10, 1000000) == 0;
        step = thread_ns() - step;
        longest = step > longest ? step : longest;
    }
    add(&out->total_ms, (double)(thread_ns() - begin) / 1e6);
    add(&out->longest_us, (double)longest / 1e3);
    struct fh_compaction done = {.size = sizeof done};
    fh_movable_compaction(&heap, &done);
    add(&out->moved_mib, (double)done.moved_bytes / (1 << 20));
    fh_movable_measure(&heap, &now);
    add(&out->after, (double)now.footprint / (double)now.live_bytes);
    must(fh_movable_check(&heap) == 0, "the heap is broken");
    fh_movable_destroy(&heap);
}

static void measure_compaction(int rounds)
{
    static struct compaction all[sizeof mixes / sizeof mixes[0]];
    for (int round = 0; round < rounds; round++)
        for (size_t i = 0; i < sizeof mixes / sizeof mixes[0]; i++)
            compact_round(&mixes[i], &all[i]);
    puts("\n| compaction | footprint / live before | after | longest step, least of rounds (us) | "
         "median (us) | total (ms) | moved (MiB) |\n|---|---|---|---|---|---|---|");
    for (size_t i = 0; i < sizeof mixes / sizeof mixes[0]; i++) {
        struct compaction *c = &all[i];
        printf("| %s | %.2f | %.3f | %.0f | %.0f | %.1f | %.1f |\n", mixes[i].name,
               median(&c->before), median(&c->after), at_rank(&c->longest_us, 0, 1),
               median(&c->longest_us), median(&c->total_ms), median(&c->moved_mib));
        record("compaction", mixes[i].name, "before", &c->before);
        record("compaction", mixes[i].name, "after", &c->after);
        record("compaction", mixes[i].name, "longest_us", &c->longest_us);
        record("compaction", mixes[i].name, "total_ms", &c->total_ms);
        record("compaction", mixes[i].name, "moved_mib", &c->moved_mib);
    }
}

/* ---- Meshing ------------------------------------------------------------------------------------- */

struct pattern {
    const char *name;
    uint32_t low, high;
    size_t bytes;
};

static const struct pattern patterns[] = {
    {"240 B", 240, 240, (size_t)480 << 20},
    {"16-512 B", 16, 512, (size_t)500 << 20},
    {"64 B", 64, 64, (size_t)128 << 20},
};

static double pss_mib(void)
{
    char line[256];
    double kib = 0;
    FILE *file = fopen("/proc/self/smaps_rollup", "re");
    must(file != NULL, "no smaps_rollup");
    while (fgets(line, sizeof line, file) != NULL)
        if (strncmp(line, "Pss:", 4) == 0)
            kib = strtod(line + 4, NULL);
    fclose(file);
    return kib / 1024;
}

static struct fh_mesh mesh_heap;
static bool is_mesh;

static void *get(size_t size)
{
    return is_mesh ? fh_mesh_alloc(&mesh_heap, size) : malloc(size);
}

static void give(void *block)
{
    if (is_mesh)
        fh_mesh_free(&mesh_heap, block);
    else
        free(block);
}

/* Runs one pattern and prints: before after longest_us total_ms meshes. In a process of its own. */
static int run_pattern(const char *kind, const struct pattern *pattern)
{
    static struct fh_source_memfd memory;
    is_mesh = strcmp(kind, "freehold") == 0;
    if (is_mesh) {
        struct fh_mesh_options options = {
            .place = FH_PLACE_SOURCE(fh_source_memfd_init(&memory, false), (size_t)2 << 30),
            .seed = 5};
        must(fh_mesh_init(&mesh_heap, &options) == 0, "no meshing heap");
    }
    struct fh_random random;
    fh_random_seed(&random, 9);
    size_t mean = (pattern->low + pattern->high) / 2, count = pattern->bytes / mean;
    void **blocks = get(count * sizeof *blocks);
    for (size_t i = 0; i < count; i++) {
        size_t size = pattern->low + fh_random_below(&random, pattern->high - pattern->low + 1);
        blocks[i] = get(size);
        must(blocks[i] != NULL, "out of memory");
        memset(blocks[i], 1, size);
    }
    double before = pss_mib();
    for (size_t i = 0; i < count; i++)
        if (fh_random_below(&random, 100) >= LIVE_PERCENT)
            give(blocks[i]);
    uint64_t longest = 0, begin = thread_ns();
    for (bool has_more = is_mesh; has_more;) {
        uint64_t step = thread_ns();
        has_more = fh_mesh_step(&mesh_heap, 1000000);
        step = thread_ns() - step;
        longest = step > longest ? step : longest;
    }
    double total = (double)(thread_ns() - begin) / 1e6;
    for (int i = 0; !is_mesh && i < 15; i++) { /* calls that give a peer its turn */
        void *some[100];
        for (int j = 0; j < 100; j++)
            some[j] = malloc(5000);
        for (int j = 0; j < 100; j++)
            free(some[j]);
        usleep(100000);
    }
    struct fh_meshing done = {.size = sizeof done};
    if (is_mesh) {
        fh_mesh_meshing(&mesh_heap, &done);
        must(fh_mesh_check(&mesh_heap) == 0, "the meshing heap is broken");
    }
    printf("%.2f %.2f %.1f %.2f %zu\n", before, pss_mib(), (double)longest / 1e3, total,
           done.mappings);
    return 0;
}

struct meshed {
    struct figures before, after, returned, longest_us, total_ms, mappings;
};

static void mesh_round(const char *self, const char *kind, const char *library, size_t pattern,
                       struct meshed *out)
{
    char command[1024];
    snprintf(command, sizeof command, "%s%s '%s' --run %s %zu", library[0] ? "LD_PRELOAD=" : "",
             library, self, kind, pattern);
    FILE *child = popen(command, "r");
    double before, after, longest, total, mappings;
    bool is_done = child != NULL && fscanf(child, "%lf %lf %lf %lf %lf", &before, &after, &longest,
                                           &total, &mappings) == 5;
    if (child != NULL)
        pclose(child);
    if (!is_done) {
        fprintf(stderr, "own_place_move: %s failed at %s\n", kind, patterns[pattern].name);
        return;
    }
    add(&out->before, before);
    add(&out->after, after);
    add(&out->returned, 100 * (before - after) / before);
    add(&out->longest_us, longest);
    add(&out->total_ms, total);
    add(&out->mappings, mappings);
}

static void measure_meshing(const char *self, int rounds, const char *(*peers)[2], int peer_count)
{
    static struct meshed all[PEERS_MAX + 2][3];
    for (int round = 0; round < rounds; round++)
        for (size_t pattern = 0; pattern < 3; pattern++)
            for (int peer = 0; peer < peer_count; peer++)
                mesh_round(self, peers[peer][0], peers[peer][1], pattern, &all[peer][pattern]);
    puts("\n| meshing, 90 % freed | | PSS before (MiB) | after | returned | mappings | longest "
         "step (us) | total (ms) |\n|---|---|---|---|---|---|---|---|");
    for (size_t pattern = 0; pattern < 3; pattern++)
        for (int peer = 0; peer < peer_count; peer++) {
            struct meshed *m = &all[peer][pattern];
            char name[128];
            snprintf(name, sizeof name, "%s %s", peers[peer][0], patterns[pattern].name);
            printf("| %s | %s | %.0f | %.0f | %.0f %% | %.0f | %.0f | %.0f |\n",
                   patterns[pattern].name, peers[peer][0], median(&m->before), median(&m->after),
                   median(&m->returned), median(&m->mappings), median(&m->longest_us),
                   median(&m->total_ms));
            record("meshing", name, "pss_before_mib", &m->before);
            record("meshing", name, "pss_after_mib", &m->after);
            record("meshing", name, "returned_percent", &m->returned);
            record("meshing", name, "longest_us", &m->longest_us);
            record("meshing", name, "total_ms", &m->total_ms);
            record("meshing", name, "mappings", &m->mappings);
        }
}

/* ---- Fork ---------------------------------------------------------------------------------------- */

static double fork_ms(bool copies, size_t mib)
{
    struct fh_source_memfd memory;
    struct fh_mesh heap;
    struct fh_mesh_options options = {
        .place = FH_PLACE_SOURCE(fh_source_memfd_init(&memory, copies), (size_t)1 << 30)};
    must(fh_mesh_init(&heap, &options) == 0, "no meshing heap");
    for (size_t i = 0; i < (mib << 20) / 1024; i++)
        memset(fh_mesh_alloc(&heap, 1024), 1, 1024);
    uint64_t begin = fh_os_now_ns();
    pid_t child = fork();
    if (child == 0)
        _exit(0);
    double took = (double)(fh_os_now_ns() - begin) / 1e6;
    waitpid(child, NULL, 0);
    fh_mesh_destroy(&heap);
    return took;
}

static void measure_fork(int rounds)
{
    struct figures with = {.count = 0}, without = {.count = 0};
    for (int round = 0; round < rounds; round++) {
        add(&without, fork_ms(false, 64));
        add(&with, fork_ms(true, 64));
    }
    printf("\nfork with a heap of 64 MiB: %.1f ms copied, %.1f ms not: %.0f us a MiB\n",
           median(&with), median(&without), 1000 * (median(&with) - median(&without)) / 64);
    record("fork", "64 MiB", "copied_ms", &with);
    record("fork", "64 MiB", "not_copied_ms", &without);
}

int main(int argc, char **argv)
{
    int rounds = 5, peer_count = 2;
    const char *peers[PEERS_MAX + 2][2] = {{"freehold", ""}, {"glibc", ""}};
    if (argc == 4 && strcmp(argv[1], "--run") == 0)
        return run_pattern(argv[2], &patterns[strtoul(argv[3], NULL, 10) % 3]);
    for (int i = 1; i + 1 < argc; i += 2) {
        char *value = argv[i + 1], *library = strchr(value, '=');
        if (strcmp(argv[i], "--rounds") == 0) {
            rounds = (int)strtol(value, NULL, 10);
        } else if (strcmp(argv[i], "--json") == 0) {
            json = fopen(value, "we");
            must(json != NULL, "the file for --json can't be written");
        } else if (strcmp(argv[i], "--peer") == 0 && library != NULL && peer_count < PEERS_MAX) {
            *library = '\0';
            peers[peer_count][0] = value;
            peers[peer_count++][1] = library + 1;
        } else {
            must(false,
                 "usage: own_place_move [--rounds N] [--peer NAME=LIBRARY]... [--json FILE]");
        }
    }
    must(rounds > 0 && rounds <= ROUNDS_MAX, "--rounds wants 1 to 31");
    if (json != NULL)
        fputs("[", json);
    measure_compaction(rounds);
    measure_meshing(argv[0], rounds, peers, peer_count);
    measure_fork(rounds);
    if (json != NULL) {
        fputs("\n]\n", json);
        fclose(json);
    }
    return 0;
}
