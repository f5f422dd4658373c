/*
 * How much memory each placement algorithm loses: a table, and a picture of each.
 *
 *     own_place_fragmentation [--json FILE] [--maps FOLDER] [NAME...]
 *
 * Three questions, asked of every allocator of tests/allocators.h that stands on a buffer:
 *
 *   - Smallest arena over peak live (requested bytes; headers, rounding and the allocator's own state are in)
 *     on five modelled workloads, by binary search in steps of 256 bytes. A workload is a sequence of calls that
 *     is the same for everyone; what random numbers it needs come from one seed.
 *   - What is left where at the end of the shifting workload, in a range that grows as it must, up to three
 *     times the goal, so that all but those that free nothing get there: the four shares of fragmentation.h,
 *     the peak of the footprint over that of what was live, and how many free blocks there are of each size.
 *   - Robson's adversary (1971; the version for any allocator, 1974, section 2). It asks for blocks of 2^i
 *     units for i = 0, 1, …; before each step it frees every block but those that occupy a word at an offset f
 *     modulo 2^i, with f chosen so that as much as possible can be freed while as few holes as possible
 *     can take the next size. No allocator that does not move blocks can do with less than
 *     M (1 + log2(n) / 2) − n + 1; the table shows the smallest arena in which it was met.
 *
 * Nothing here is a time, so it may run beside anything; the same seed gives the same figures everywhere.
 */
#include "allocators.h"
#include "base/core/random.h"
#include "freehold/fragmentation.h"
#include "tools/heapmap.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SLOTS        4096u
#define OPERATIONS   40000u
#define STEP         ((size_t)256)
#define ROBSON_LIVE  ((size_t)256 << 10)
#define ROBSON_UNIT  ((size_t)16)
#define ROBSON_LARGE ((size_t)4096)
#define MAP_ARENA    ((size_t)1 << 20)
#define MAP_SAMPLES  384u
#define MAP_GOAL     ((size_t)400 << 10) /* live bytes at the top of the ramp */

static _Alignas(65536) unsigned char arena[SUBJECT_MOST_BUDGET + 2 * SUBJECT_GUARD];
static struct subject subject;

/* ---- workloads ---------------------------------------------------------------------------------- */

struct workload {
    const char *name;
    const char *what;
    /* Bytes of the next request, and how many bytes should be live, `part` (0 to 1) into the run. */
    size_t (*size)(struct fh_random *random, double part);
    double (*goal)(double part);
    bool is_stack;  /* the latest block is freed first */
    bool in_bursts; /* blocks live till the end of their burst, but for one of 64 */
};

static size_t log_uniform(struct fh_random *random, unsigned low, unsigned high)
{
    size_t octave = (size_t)1 << (low + fh_random_below(random, high - low));
    return octave + fh_random_below(random, (uint32_t)octave);
}

static size_t mixed_sizes(struct fh_random *random, double part)
{
    (void)part;
    return log_uniform(random, 4, 12);
}

/* From small to large and back in three phases. */
static size_t shifting_sizes(struct fh_random *random, double part)
{
    return part < 0.35  ? log_uniform(random, 4, 7)
           : part < 0.7 ? log_uniform(random, 8, 12)
                        : log_uniform(random, 5, 10);
}

/* What programs that make objects of a few types ask for. */
static size_t few_sizes(struct fh_random *random, double part)
{
    static const uint16_t sizes[] = {24, 24, 24, 40, 40, 56, 72, 96, 128, 200, 520, 1032};
    (void)part;
    return sizes[fh_random_below(random, sizeof sizes / sizeof sizes[0])];
}

static double steady(double part)
{
    return part < 0.1 ? part * 10 : 1;
}

/* Up, down to a third, up again. */
static double waves(double part)
{
    return part < 0.3    ? part / 0.3
           : part < 0.45 ? 1 - (part - 0.3) / 0.15 * 0.67
           : part < 0.7  ? 0.33 + (part - 0.45) / 0.25 * 0.67
           : part < 0.8  ? 1 - (part - 0.7) * 5
                         : 0.5;
}

static const struct workload workloads[] = {
    {"steady", "sizes 16-4096 log-uniform, random frees", mixed_sizes, steady, false, false},
    {"shifting", "small, then large, then medium sizes, in waves", shifting_sizes, waves, false,
     false},
    {"objects", "a dozen sizes, random frees", few_sizes, waves, false, false},
    {"stack", "last in, first out, sizes 16-4096", mixed_sizes, waves, true, false},
    {"bursts", "requests that free all but one block of 64", mixed_sizes, steady, false, true},
};

#define WORKLOADS (sizeof workloads / sizeof workloads[0])

struct run {
    struct fh_allocator a;
    void *blocks[SLOTS];
    size_t sizes[SLOTS];
    size_t count; /* the first `count` slots are in use */
    size_t live, peak;
    size_t largest;   /* sizes are cut to it: pools */
    bool starts_over; /* a failure frees everything instead of ending the run */
};

static void drop(struct run *run, size_t at)
{
    if (fh_allocator_can(&run->a, FH_ALLOCATOR_NEEDS_SIZE))
        fh_free_sized(&run->a, run->blocks[at], run->sizes[at], 0);
    else
        fh_free(&run->a, run->blocks[at]);
    run->live -= run->sizes[at];
    run->count--;
    run->blocks[at] = run->blocks[run->count];
    run->sizes[at] = run->sizes[run->count];
}

static bool take(struct run *run, size_t size)
{
    size = size < run->largest ? size : run->largest;
    void *block = fh_alloc(&run->a, size);
    if (block == NULL && run->starts_over) {
        fh_allocator_reset(&run->a);
        run->count = 0;
        run->live = 0;
        block = fh_alloc(&run->a, size);
    }
    if (block == NULL)
        return false;
    run->blocks[run->count] = block;
    run->sizes[run->count++] = size;
    run->live += size;
    run->peak = run->live > run->peak ? run->live : run->peak;
    return true;
}

static void free_burst(struct run *run, struct fh_random *random)
{
    for (size_t i = run->count; i-- > 0;)
        if (fh_random_below(random, 64) != 0)
            drop(run, i);
}

/* False as soon as a request fails. `sample`, when there is one, is called now and then. */
static bool play(struct run *run, const struct workload *workload, size_t goal,
                 void (*sample)(void *context), void *context)
{
    struct fh_random random;
    fh_random_seed(&random, 20240601);
    for (unsigned i = 0; i < OPERATIONS; i++) {
        double part = (double)i / OPERATIONS;
        size_t wanted = (size_t)(workload->goal(part) * (double)goal);
        size_t size = workload->size(&random, part);
        if (workload->in_bursts && (run->live + size > wanted || run->count == SLOTS))
            free_burst(run, &random);
        while (run->count > 0 && (run->live + size > wanted || run->count == SLOTS))
            drop(run, workload->is_stack ? run->count - 1
                                         : fh_random_below(&random, (uint32_t)run->count));
        /* Some turnover below the goal too. */
        if (!workload->in_bursts && run->count > 0 && fh_random_below(&random, 4) == 0)
            drop(run, workload->is_stack ? run->count - 1
                                         : fh_random_below(&random, (uint32_t)run->count));
        if (!take(run, size))
            return false;
        if (sample != NULL && i % (OPERATIONS / MAP_SAMPLES) == 0)
            sample(context);
    }
    return true;
}

/* ---- the smallest arena -------------------------------------------------------------------------- */

struct question {
    const struct subject_kind *kind;
    const struct workload *workload;
    size_t goal;
    size_t peak;
};

static bool open_in(const struct subject_kind *kind, size_t bytes)
{
    return subject_open(&subject, kind, GROUND_BUFFER, arena, 0,
                        (struct fh_place_options){.capacity = bytes}) == 0;
}

static bool fits_workload(void *context, size_t capacity)
{
    static struct run run;
    struct question *question = context;
    if (!open_in(question->kind, capacity))
        return false;
    run = (struct run){.a = subject.allocator, .largest = question->kind->largest};
    bool is_fit = play(&run, question->workload, question->goal, NULL, NULL);
    question->peak = run.peak;
    fh_allocator_destroy(&subject.allocator);
    return is_fit;
}

/* Smallest arena ÷ peak live; 0 when even the largest arena does not do. */
static double arena_over_peak(const struct subject_kind *kind, const struct workload *workload,
                              size_t goal)
{
    struct question question = {kind, workload, goal, 0};
    size_t least;
    if (!fits_workload(&question, SUBJECT_MOST_BUDGET))
        return 0;
    size_t peak = question.peak;
    if (fh_minimum_capacity(fits_workload, &question, peak / 2, SUBJECT_MOST_BUDGET, STEP,
                            &least) != 0)
        return 0;
    return (double)least / (double)peak;
}

/* ---- Robson's adversary -------------------------------------------------------------------------- */

#define ROBSON_BLOCKS (ROBSON_LIVE / ROBSON_UNIT)

static struct {
    uintptr_t address;
    size_t size;
} kept[ROBSON_BLOCKS];

/* The word that a block occupies at offset f modulo 2^i, if any. */
static bool occupies(uintptr_t address, size_t size, size_t f, size_t modulus)
{
    uintptr_t first = address - (address - f) % modulus; /* the last such place at or before it */
    return first == address || first + modulus < address + size;
}

static void robson_free(const struct fh_allocator *a, uintptr_t address, size_t size)
{
    if (fh_allocator_can(a, FH_ALLOCATOR_NEEDS_SIZE))
        fh_free_sized(a, (void *)address, size, 0);
    else
        fh_free(a, (void *)address);
}

/* Chooses f of {f, f + half}: the one whose blocks are kept for the least of what they hold up. */
static size_t choose(size_t count, size_t f, size_t half)
{
    double held[2] = {0, 0};
    size_t modulus = half * 2;
    for (size_t i = 0; i < count; i++)
        for (size_t side = 0; side < 2; side++)
            if (occupies(kept[i].address, kept[i].size, f + side * half, modulus))
                held[side] += (double)modulus - (double)kept[i].size;
    return held[0] >= held[1] ? f : f + half;
}

static bool fits_robson(void *context, size_t capacity)
{
    const struct subject_kind *kind = context;
    size_t count = 0, live = 0, f = 0;
    bool is_fit = true;
    if (!open_in(kind, capacity))
        return false;
    const struct fh_allocator *a = &subject.allocator;
    for (size_t size = ROBSON_UNIT; size <= ROBSON_LARGE && is_fit; size *= 2) {
        if (size > ROBSON_UNIT) {
            f = choose(count, f, size / 2);
            size_t left = 0;
            for (size_t i = 0; i < count; i++) {
                if (occupies(kept[i].address, kept[i].size, f, size)) {
                    kept[left++] = kept[i];
                } else {
                    live -= kept[i].size;
                    robson_free(a, kept[i].address, kept[i].size);
                }
            }
            count = left;
        }
        for (; live + size <= ROBSON_LIVE; live += size, count++) {
            void *block = fh_alloc(a, size);
            if (block == NULL) {
                is_fit = false;
                break;
            }
            kept[count].address = (uintptr_t)block;
            kept[count].size = size;
        }
    }
    fh_allocator_destroy(a);
    return is_fit;
}

/* ---- maps ---------------------------------------------------------------------------------------- */

struct picture {
    struct heapmap *map;
    struct fh_allocator a;
    const void *base;
    size_t bytes;
};

static void take_sample(void *context)
{
    struct picture *picture = context;
    if (heapmap_sample(picture->map, &picture->a, picture->base, picture->bytes) != 0)
        abort();
}

static int draw_map(const struct subject_kind *kind, const char *folder)
{
    static struct run run;
    char title[96], path[512];
    bool is_on_buffer = kind->grounds & ON_BUFFER;
    size_t bytes = kind->budget > MAP_ARENA * 4 ? SUBJECT_MOST_BUDGET : MAP_ARENA;
    if (!is_on_buffer)
        bytes = kind->budget; /* its pages are spread */
    if (subject_open(&subject, kind, is_on_buffer ? GROUND_BUFFER : GROUND_SOURCE, arena, 0,
                     (struct fh_place_options){.capacity = bytes}) != 0)
        return 0;
    run = (struct run){.a = subject.allocator, .largest = kind->largest, .starts_over = true};
    snprintf(title, sizeof title, "%s, %zu KiB: small, large, medium blocks", kind->name,
             bytes >> 10);
    struct picture picture = {heapmap_create(title, 64), subject.allocator,
                              is_on_buffer ? subject.memory : subject.source.base,
                              is_on_buffer ? subject.bytes : subject.source.reserved};
    play(&run, &workloads[1], MAP_GOAL, take_sample, &picture);
    heapmap_set_axis(picture.map, "requests", OPERATIONS);
    take_sample(&picture);
    snprintf(path, sizeof path, "%s/%s.png", folder, kind->name);
    int error = heapmap_write(picture.map, path);
    if (error != 0)
        fprintf(stderr, "%s: %s\n", path, strerror(-error));
    heapmap_destroy(picture.map);
    fh_allocator_destroy(&subject.allocator);
    return error;
}

/* ---- the table ----------------------------------------------------------------------------------- */

struct row {
    const struct subject_kind *kind;
    double over_peak[WORKLOADS];
    struct fh_fragmentation look;
    double robson; /* smallest arena ÷ live */
    bool has_look;
};

/* A look at the end of the shifting workload. */
static void look(struct row *row, size_t goal)
{
    static struct run run;
    static struct fh_account account;
    size_t bytes = row->kind->budget > goal * 8 ? SUBJECT_MOST_BUDGET : goal * 3;
    enum ground ground = row->kind->grounds & ON_SOURCE ? GROUND_SOURCE : GROUND_BUFFER;
    if (subject_open(&subject, row->kind, ground, arena, 0,
                     (struct fh_place_options){.capacity = bytes}) != 0)
        return;
    if (fh_account_init(&account, &(struct fh_account_options){.inner = subject.allocator}) != 0)
        abort();
    run = (struct run){.a = fh_account_allocator(&account), .largest = row->kind->largest};
    row->look.size = sizeof row->look;
    row->has_look =
        play(&run, &workloads[1], goal, NULL, NULL) && fh_account_look(&account, &row->look) == 0;
    fh_account_destroy(&account);
}

static struct row measure_row(const struct subject_kind *kind)
{
    struct row row = {.kind = kind};
    size_t goal = (size_t)512 << 10, least;
    for (size_t i = 0; i < WORKLOADS; i++)
        row.over_peak[i] = arena_over_peak(kind, &workloads[i], goal);
    look(&row, goal);
    if (kind->largest >= ROBSON_LARGE && fits_robson((void *)kind, SUBJECT_MOST_BUDGET) &&
        fh_minimum_capacity(fits_robson, (void *)kind, ROBSON_LIVE, SUBJECT_MOST_BUDGET, STEP,
                            &least) == 0)
        row.robson = (double)least / (double)ROBSON_LIVE;
    return row;
}

static void print_ratio(double ratio)
{
    if (ratio > 0)
        printf(" %.3f |", ratio);
    else
        printf(" - |");
}

static void print_row(const struct row *row)
{
    printf("| %s |", row->kind->name);
    for (size_t i = 0; i < WORKLOADS; i++)
        print_ratio(row->over_peak[i]);
    print_ratio(row->robson);
    if (row->has_look) {
        printf(" %.1f %% | %.1f %% | %.1f %% | %.1f %% |", row->look.internal * 100,
               row->look.metadata_share * 100, row->look.external * 100, row->look.scatter * 100);
        print_ratio(row->look.peak_ratio);
        printf("\n");
    } else {
        printf(" - | - | - | - | - |\n");
    }
}

static void print_json_ratio(FILE *file, const char *before, const char *name, double ratio)
{
    fprintf(file, "%s\"%s\": ", before, name);
    if (ratio > 0)
        fprintf(file, "%.4f", ratio);
    else
        fprintf(file, "null");
}

/* Pairs of the upper end of a class and the free blocks in it. */
static void print_json_histogram(FILE *file, const struct fh_fragmentation *look)
{
    const char *before = "";
    fprintf(file, ", \"free_blocks\": {");
    for (size_t bin = 0; bin < FH_FRAGMENTATION_BINS; bin++)
        if (look->free_count[bin] > 0) {
            fprintf(file, "%s\"%zu\": %zu", before, ((size_t)2 << bin) - 1, look->free_count[bin]);
            before = ", ";
        }
    fprintf(file, "}");
}

static void print_json(FILE *file, const struct row *rows, size_t count)
{
    fprintf(file,
            "{\n  \"robson\": {\"live\": %zu, \"largest\": %zu, \"unit\": %zu, \"bound\": %.4f},\n"
            "  \"allocators\": [\n",
            ROBSON_LIVE, ROBSON_LARGE, ROBSON_UNIT,
            (double)fh_robson_bound(ROBSON_LIVE, ROBSON_LARGE, ROBSON_UNIT) / ROBSON_LIVE);
    for (size_t i = 0; i < count; i++) {
        const struct row *row = &rows[i];
        fprintf(file, "    {\"name\": \"%s\", \"arena_over_peak\": {", row->kind->name);
        for (size_t w = 0; w < WORKLOADS; w++)
            print_json_ratio(file, w > 0 ? ", " : "", workloads[w].name, row->over_peak[w]);
        print_json_ratio(file, "}, ", "robson", row->robson);
        if (row->has_look) {
            fprintf(file,
                    ", \"internal\": %.4f, \"metadata_share\": %.4f, \"external\": %.4f, "
                    "\"scatter\": %.4f, \"footprint_over_peak\": %.4f",
                    row->look.internal, row->look.metadata_share, row->look.external,
                    row->look.scatter, row->look.peak_ratio);
            print_json_histogram(file, &row->look);
        }
        fprintf(file, "}%s\n", i + 1 < count ? "," : "");
    }
    fprintf(file, "  ]\n}\n");
}

/* How many free blocks of each size the look found: powers of four, a column each. */
static void print_histogram(const struct row *rows, size_t count)
{
    enum { FIRST = 3, LAST = 21 };
    printf("| free blocks of up to |");
    for (size_t bin = FIRST; bin <= LAST; bin += 2) {
        size_t end = (size_t)2 << bin;
        printf(end < 1024      ? " %zu B |"
               : end < 1048576 ? " %zu KiB |"
                               : " %zu MiB |",
               end < 1024      ? end
               : end < 1048576 ? end >> 10
                               : end >> 20);
    }
    printf("\n|---|");
    for (size_t bin = FIRST; bin <= LAST; bin += 2)
        printf("---|");
    printf("\n");
    for (size_t i = 0; i < count; i++) {
        const struct fh_fragmentation *look = &rows[i].look;
        if (!rows[i].has_look)
            continue;
        printf("| %s |", rows[i].kind->name);
        for (size_t bin = FIRST; bin <= LAST; bin += 2) {
            size_t blocks = look->free_count[bin] + look->free_count[bin - 1];
            for (size_t low = 0; bin == FIRST && low < FIRST - 1; low++)
                blocks += look->free_count[low];
            printf(" %zu |", blocks);
        }
        printf("\n");
    }
    printf("\n");
}

static void print_table(const struct row *rows, size_t count)
{
    printf("| allocator |");
    for (size_t i = 0; i < WORKLOADS; i++)
        printf(" %s |", workloads[i].name);
    printf(" Robson (bound %.3f) | internal | metadata | external | scatter | footprint / peak |\n"
           "|---|",
           (double)fh_robson_bound(ROBSON_LIVE, ROBSON_LARGE, ROBSON_UNIT) / ROBSON_LIVE);
    for (size_t i = 0; i < WORKLOADS + 6; i++)
        printf("---|");
    printf("\n");
    for (size_t i = 0; i < count; i++)
        print_row(&rows[i]);
    printf("\n");
    print_histogram(rows, count);
    for (size_t i = 0; i < WORKLOADS; i++)
        printf("- %s: %s\n", workloads[i].name, workloads[i].what);
}

int main(int argc, char **argv)
{
    static struct row rows[SUBJECT_KINDS];
    const char *json = NULL, *maps = NULL;
    size_t count = 0;
    int first_name = 1, status = 0;

    while (first_name + 1 < argc && argv[first_name][0] == '-') {
        if (strcmp(argv[first_name], "--json") == 0)
            json = argv[first_name + 1];
        else if (strcmp(argv[first_name], "--maps") == 0)
            maps = argv[first_name + 1];
        first_name += 2;
    }
    for (size_t i = 0; i < SUBJECT_KINDS; i++) {
        const struct subject_kind *kind = &subject_kinds[i];
        bool is_wanted = first_name >= argc;
        for (int n = first_name; n < argc; n++)
            is_wanted |= strcmp(argv[n], kind->name) == 0;
        /* A wrapper has the figures of what is in it. */
        bool is_wrapper = kind->open == open_account || kind->open == open_context_of_tlsf;
        if (!is_wanted || is_wrapper ||
            !(kind->grounds & ON_BUFFER || kind->traits & TRAIT_ALIASES))
            continue;
        if (kind->grounds & ON_BUFFER)
            rows[count++] = measure_row(kind);
        if (maps != NULL)
            status |= draw_map(kind, maps) != 0;
    }
    print_table(rows, count);
    if (json != NULL) {
        FILE *file = fopen(json, "w");
        if (file == NULL) {
            fprintf(stderr, "%s can't be written\n", json);
            return 1;
        }
        print_json(file, rows, count);
        status |= fclose(file) != 0;
    }
    return status;
}
