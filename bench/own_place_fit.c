/*
 * The allocators that cut one range into blocks of any size (TLSF, half-fit, first, next, best and worst fit), beside
 * others of their kind.
 *
 *     own_place_fit [--peer KIND=LIBRARY]… [--only NAME,…] [--part pairs,worst,arena] [--rounds N] [--json FILE]
 *
 * KIND is tlsf, o1heap or buddy_alloc; LIBRARY a shared object with that project's public functions, which is
 * opened here (--only takes names of the tables' rows, and "ideal" for the ideal ones). Allocators are interleaved within a round.
 *
 * pairs   Steady random mix: 10,000 live blocks, sizes 16 to 4096 log-uniform; a pair frees a random one and
 *         allocates another. CPU nanoseconds a pair over one million; median, least and quartile distance of the
 *         rounds. The range is eight times what is live and was touched before.
 * worst   The same, 200,000 pairs, each operation by itself in cycles of the time-stamp counter, replayed identically
 *         seven times. Of each operation the least of the seven counts, which interrupts do not reach; percentiles and
 *         the largest of these (worst*) are of that. What reading the counter costs is in it.
 * arena   The smallest buffer in which a workload succeeds, everything in it, over the most bytes that were live
 *         (requested) at a time: binary search to a part in 2,000. Success need not be monotonous in the size; the
 *         search ends at a border of some kind.
 *         The workloads:
 *           steady    as above, 300,000 pairs
 *           shifting  5,000 live; the sizes of a phase lie within a factor of four, and the phases go from 16 to 4096
 *                     and back, so that what small blocks leave behind must serve large ones
 *           server    32 requests in progress, each of 5 to 40 blocks that end together; one block in 16 goes
 *                     into a cache of 4,000 that drops a random one
 *           vectors   400 arrays that grow by doubling, the old one freed after the new one was allocated, and are
 *                     dropped at a random length, at most 64 KiB; a record of 24 to 120 bytes for each, kept in a window of 20,000
 *           graph     nodes of 5 sizes, 24 to 96 bytes, with lists of edges of 8 bytes each; built up and
 *                     pruned to a third, six times
 *         The ideal rows simulate best fit over addresses alone: (size, address) order, no headers, no tables. "ideal"
 *         with sizes as requested, to the byte; "ideal 16+4" with blocks of the cost that ours have, requested + 4
 *         rounded up to 16; "ideal 8+4" the same to 8.
 */
#include "freehold/fit.h"
#include "freehold/half_fit.h"
#include "freehold/tlsf.h"
#include "harness.h"

#include <dlfcn.h>
#include <math.h>
#include <sys/mman.h>
#include <x86intrin.h>

/* ---- Who is measured --------------------------------------------------------------------------- */

/* One allocator over one buffer. `open` returns what the other two are given, or NULL when the buffer is too small. */
struct adapter {
    const char *name;
    void *(*open)(void *memory, size_t bytes);
    void *(*alloc)(void *self, size_t size);
    void (*free)(void *self, void *block);
};

enum { ADAPTERS_MAX = 24 };
static struct adapter adapters[ADAPTERS_MAX];
static size_t adapter_count;

static void add_adapter(struct adapter adapter)
{
    if (adapter_count < ADAPTERS_MAX)
        adapters[adapter_count++] = adapter;
}

#define OURS(manager, name, ...)                                                                   \
    static void *name##_open(void *memory, size_t bytes)                                           \
    {                                                                                              \
        static struct fh_##manager self;                                                           \
        struct fh_##manager##_options options = {.place = FH_PLACE_BUFFER(memory, bytes),          \
                                                 __VA_ARGS__};                                     \
        return fh_##manager##_init(&self, &options) == 0 ? &self : NULL;                           \
    }                                                                                              \
    static void *name##_alloc(void *self, size_t size)                                             \
    {                                                                                              \
        return fh_##manager##_alloc(self, size);                                                   \
    }                                                                                              \
    static void name##_free(void *self, void *block)                                               \
    {                                                                                              \
        fh_##manager##_free(self, block);                                                          \
    }

OURS(tlsf, tlsf16, .align = 16)
OURS(tlsf, tlsf8, .align = 8)
OURS(half_fit, half_fit, .align = 16)
OURS(fit, first_fit, .policy = FH_FIT_FIRST)
OURS(fit, next_fit, .policy = FH_FIT_NEXT)
OURS(fit, best_fit, .policy = FH_FIT_BEST)
OURS(fit, best_fit8, .policy = FH_FIT_BEST, .align = 8)
OURS(fit, worst_fit, .policy = FH_FIT_WORST)

static void add_ours(void)
{
    add_adapter((struct adapter){"TLSF", tlsf16_open, tlsf16_alloc, tlsf16_free});
    add_adapter((struct adapter){"TLSF, align 8", tlsf8_open, tlsf8_alloc, tlsf8_free});
    add_adapter((struct adapter){"half-fit", half_fit_open, half_fit_alloc, half_fit_free});
    add_adapter((struct adapter){"first fit", first_fit_open, first_fit_alloc, first_fit_free});
    add_adapter((struct adapter){"next fit", next_fit_open, next_fit_alloc, next_fit_free});
    add_adapter((struct adapter){"best fit", best_fit_open, best_fit_alloc, best_fit_free});
    add_adapter(
        (struct adapter){"best fit, align 8", best_fit8_open, best_fit8_alloc, best_fit8_free});
    add_adapter((struct adapter){"worst fit", worst_fit_open, worst_fit_alloc, worst_fit_free});
}

/* The public functions of the peers, with prototypes of our own. */
static struct {
    void *(*tlsf_create_with_pool)(void *memory, size_t bytes);
    size_t (*tlsf_size)(void);
    void *(*o1heap_init)(void *memory, size_t bytes);
    size_t (*buddy_sizeof)(size_t bytes);
    void *(*buddy_init)(void *at, void *memory, size_t bytes);
} peers;

static void *peer_tlsf_open(void *memory, size_t bytes)
{
    return bytes < peers.tlsf_size() + 64 ? NULL : peers.tlsf_create_with_pool(memory, bytes);
}

static void *peer_o1heap_open(void *memory, size_t bytes)
{
    return peers.o1heap_init(memory, bytes);
}

/* Its bitset lies outside the memory, but counts as part of the buffer. */
static void *peer_buddy_open(void *memory, size_t bytes)
{
    size_t table = (peers.buddy_sizeof(bytes) + 63) & ~(size_t)63;
    return table >= bytes ? NULL : peers.buddy_init(memory, (char *)memory + table, bytes - table);
}

static void *symbol_of(void *library, const char *name)
{
    void *symbol = dlsym(library, name);
    if (symbol == NULL) {
        fprintf(stderr, "own_place_fit: %s\n", dlerror());
        exit(1);
    }
    return symbol;
}

/* A function pointer from dlsym's object pointer, as POSIX has it. */
#define SYMBOL(target, library, name)                                                              \
    memcpy(&(target), &(void *){symbol_of((library), (name))}, sizeof(target))

static void add_peer(const char *text)
{
    static const struct {
        const char *kind, *name, *alloc, *free;
        void *(*open)(void *memory, size_t bytes);
    } kinds[] = {
        {"tlsf", "tlsf (mattconte)", "tlsf_malloc", "tlsf_free", peer_tlsf_open},
        {"o1heap", "o1heap", "o1heapAllocate", "o1heapFree", peer_o1heap_open},
        {"buddy_alloc", "buddy_alloc", "buddy_malloc", "buddy_free", peer_buddy_open},
    };
    const char *path = strchr(text, '=');
    size_t length = path != NULL ? (size_t)(path - text) : 0;
    for (size_t i = 0; i < BENCH_COUNT_OF(kinds); i++) {
        if (strlen(kinds[i].kind) != length || strncmp(kinds[i].kind, text, length) != 0)
            continue;
        void *library = dlopen(path + 1, RTLD_NOW | RTLD_LOCAL);
        if (library == NULL) {
            fprintf(stderr, "own_place_fit: %s\n", dlerror());
            exit(1);
        }
        struct adapter adapter = {.name = kinds[i].name, .open = kinds[i].open};
        SYMBOL(adapter.alloc, library, kinds[i].alloc);
        SYMBOL(adapter.free, library, kinds[i].free);
        if (i == 0) {
            SYMBOL(peers.tlsf_create_with_pool, library, "tlsf_create_with_pool");
            SYMBOL(peers.tlsf_size, library, "tlsf_size");
        } else if (i == 1) {
            SYMBOL(peers.o1heap_init, library, "o1heapInit");
        } else {
            SYMBOL(peers.buddy_sizeof, library, "buddy_sizeof");
            SYMBOL(peers.buddy_init, library, "buddy_init");
        }
        add_adapter(adapter);
        return;
    }
    fprintf(stderr, "own_place_fit: --peer %s: KIND=LIBRARY, KIND tlsf, o1heap or buddy_alloc\n",
            text);
    exit(2);
}

/* ---- The steady mix ---------------------------------------------------------------------------- */

enum { LIVE = 10000, SIZES = 4096, PAIRS = 1000000, WORST_PAIRS = 200000, REPLAYS = 7 };
enum { ROUNDS_MAX = 64 };

static uint16_t sizes[SIZES]; /* log-uniform, so that drawing one costs no logarithm */
static void *blocks[LIVE];
static unsigned char *memory;
static const size_t memory_bytes = (size_t)64 << 20;

static size_t log_uniform(uint64_t *random, double low, double high)
{
    double unit = (double)(bench_random(random) >> 11) * 0x1p-53;
    return (size_t)(low * pow(high / low, unit));
}

static void *fill(const struct adapter *adapter, uint64_t *random)
{
    void *self = bench_must(adapter->open(memory, memory_bytes));
    for (size_t i = 0; i < LIVE; i++)
        blocks[i] = bench_must(adapter->alloc(self, sizes[bench_below(random, SIZES)]));
    return self;
}

static double pair_ns(const struct adapter *adapter)
{
    uint64_t random = 88172645463325252u;
    void *self = fill(adapter, &random);
    uint64_t begin = 0;
    for (size_t i = 0; i < PAIRS + PAIRS / 10; i++) {
        if (i == PAIRS / 10) /* the mix has settled */
            begin = bench_thread_ns();
        void **block = &blocks[bench_below(&random, LIVE)];
        adapter->free(self, *block);
        *block = adapter->alloc(self, sizes[bench_below(&random, SIZES)]);
    }
    return (double)(bench_thread_ns() - begin) / PAIRS;
}

/* What one number costs to draw, twice a pair: subtracted by nobody, but said. */
static double empty_ns(void)
{
    uint64_t random = 88172645463325252u, begin = bench_thread_ns();
    for (size_t i = 0; i < PAIRS; i++) {
        void **block = &blocks[bench_below(&random, LIVE)];
        *block = (void *)(uintptr_t)sizes[bench_below(&random, SIZES)];
    }
    return (double)(bench_thread_ns() - begin) / PAIRS;
}

static uint32_t least_cycles[2][WORST_PAIRS];

static uint32_t cycles_since(uint64_t begin)
{
    unsigned core;
    return (uint32_t)(__rdtscp(&core) - begin);
}

static void replay(const struct adapter *adapter, bool is_first)
{
    uint64_t random = 362436069362436069u;
    void *self = fill(adapter, &random);
    for (size_t i = 0; i < WORST_PAIRS; i++) {
        void **block = &blocks[bench_below(&random, LIVE)];
        size_t size = sizes[bench_below(&random, SIZES)];
        unsigned core;
        uint64_t begin = __rdtscp(&core);
        adapter->free(self, *block);
        uint32_t free_cycles = cycles_since(begin);
        begin = __rdtscp(&core);
        *block = adapter->alloc(self, size);
        uint32_t alloc_cycles = cycles_since(begin);
        if (is_first || alloc_cycles < least_cycles[0][i])
            least_cycles[0][i] = alloc_cycles;
        if (is_first || free_cycles < least_cycles[1][i])
            least_cycles[1][i] = free_cycles;
    }
}

static int compare_u32(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static int compare_double(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

struct spread {
    double least, median, quartiles; /* quartile distance in per cent of the median */
};

static struct spread spread_of(double *values, size_t count)
{
    qsort(values, count, sizeof *values, compare_double);
    double median = values[count / 2];
    return (struct spread){values[0], median,
                           100 * (values[count * 3 / 4] - values[count / 4]) / median};
}

/* ---- Workloads ----------------------------------------------------------------------------------- */

/* Slot s gets a block of so many bytes, or with 0 its block is freed. */
struct event {
    uint32_t slot, size;
};

struct workload {
    const char *name;
    struct event *events;
    size_t count, capacity, slots;
    size_t peak_live, peak_blocks; /* requested bytes, and blocks at that moment */
    uint64_t random;
    uint32_t *held; /* size by slot */
    size_t live, live_blocks;
};

static void put(struct workload *w, uint32_t slot, size_t size)
{
    if (w->count == w->capacity) {
        w->capacity = w->capacity == 0 ? 4096 : w->capacity * 2;
        w->events = bench_must(realloc(w->events, w->capacity * sizeof *w->events));
    }
    if (slot >= w->slots) {
        size_t slots = (slot + 1) * 2;
        w->held = bench_must(realloc(w->held, slots * sizeof *w->held));
        memset(w->held + w->slots, 0, (slots - w->slots) * sizeof *w->held);
        w->slots = slots;
    }
    w->events[w->count++] = (struct event){slot, (uint32_t)size};
    w->live += size - w->held[slot];
    w->live_blocks = w->live_blocks + (size != 0) - (w->held[slot] != 0);
    w->held[slot] = (uint32_t)size;
    if (w->live > w->peak_live) {
        w->peak_live = w->live;
        w->peak_blocks = w->live_blocks;
    }
}

/* Frees the slot's block if it has one. */
static void drop(struct workload *w, uint32_t slot)
{
    if (slot < w->slots && w->held[slot] != 0)
        put(w, slot, 0);
}

static void make_steady(struct workload *w)
{
    for (uint32_t i = 0; i < LIVE; i++)
        put(w, i, log_uniform(&w->random, 16, 4096));
    for (size_t i = 0; i < 300000; i++) {
        uint32_t slot = bench_below(&w->random, LIVE);
        drop(w, slot);
        put(w, slot, log_uniform(&w->random, 16, 4096));
    }
}

static void make_shifting(struct workload *w)
{
    enum { COUNT = 5000, PHASES = 16, PAIRS_A_PHASE = 15000 };
    for (int phase = 0; phase < PHASES; phase++) {
        int up = phase % 8 < 4 ? phase % 8 : 7 - phase % 8;
        double low = 16 << (2 * up);
        for (size_t i = 0; i < PAIRS_A_PHASE; i++) {
            uint32_t slot = bench_below(&w->random, COUNT);
            drop(w, slot);
            put(w, slot, log_uniform(&w->random, low, low * 4));
        }
    }
}

static void make_server(struct workload *w)
{
    enum { REQUESTS = 32, BLOCKS = 40, CACHE = 4000, TURNS = 20000 };
    uint32_t used[REQUESTS] = {0};
    for (size_t turn = 0; turn < TURNS; turn++) {
        uint32_t request = bench_below(&w->random, REQUESTS), first = request * BLOCKS;
        for (uint32_t i = 0; i < used[request]; i++)
            drop(w, first + i);
        used[request] = 5 + bench_below(&w->random, BLOCKS - 5);
        for (uint32_t i = 0; i < used[request]; i++) {
            put(w, first + i, log_uniform(&w->random, 16, i == 0 ? 16384 : 1024));
            if (bench_below(&w->random, 16) == 0) {
                uint32_t slot = REQUESTS * BLOCKS + bench_below(&w->random, CACHE);
                drop(w, slot);
                put(w, slot, log_uniform(&w->random, 64, 2048));
            }
        }
    }
}

static void make_vectors(struct workload *w)
{
    enum { VECTORS = 400, RECORDS = 20000, TURNS = 300000 };
    /* A vector has two slots and lies in one of them. */
    uint32_t length[VECTORS] = {0}, side[VECTORS] = {0};
    for (size_t turn = 0; turn < TURNS; turn++) {
        uint32_t v = bench_below(&w->random, VECTORS), *at = &side[v];
        if (length[v] == 65536 ||
            (length[v] != 0 && bench_below(&w->random, length[v] < 4096 ? 16 : 3) == 0)) {
            drop(w, v * 2 + *at);
            length[v] = 0;
        } else {
            length[v] = length[v] == 0 ? 32 : length[v] * 2;
            put(w, v * 2 + (*at ^ 1), length[v]);
            drop(w, v * 2 + *at);
            *at ^= 1;
        }
        uint32_t record = VECTORS * 2 + (uint32_t)(turn % RECORDS);
        drop(w, record);
        put(w, record, 24 + bench_below(&w->random, 97));
    }
}

static void make_graph(struct workload *w)
{
    enum { NODES = 40000, CYCLES = 6 };
    static const uint32_t node_sizes[] = {24, 32, 40, 64, 96};
    for (int cycle = 0; cycle < CYCLES; cycle++) {
        for (uint32_t node = 0; node < NODES; node++) {
            if (node * 2 < w->slots && w->held[node * 2] != 0)
                continue;
            put(w, node * 2, node_sizes[bench_below(&w->random, BENCH_COUNT_OF(node_sizes))]);
            put(w, node * 2 + 1, 8u << bench_below(&w->random, 4));
            /* Another node gets one more edge. */
            uint32_t other = bench_below(&w->random, node + 1) * 2 + 1;
            uint32_t edges = w->held[other];
            if (edges != 0 && edges < 1024) {
                drop(w, other);
                put(w, other, edges + 8);
            }
        }
        for (uint32_t node = 0; node < NODES; node++) {
            if (bench_below(&w->random, 3) != 0) {
                drop(w, node * 2);
                drop(w, node * 2 + 1);
            }
        }
    }
}

static struct workload workloads[] = {
    {.name = "steady"},  {.name = "shifting"}, {.name = "server"},
    {.name = "vectors"}, {.name = "graph"},
};

static void make_workloads(void)
{
    static void (*const makers[])(struct workload *) = {make_steady, make_shifting, make_server,
                                                        make_vectors, make_graph};
    for (size_t i = 0; i < BENCH_COUNT_OF(workloads); i++) {
        workloads[i].random = 2463534242u + i;
        makers[i](&workloads[i]);
    }
}

/* ---- The smallest arena -------------------------------------------------------------------------- */

static bool succeeds(const struct adapter *adapter, const struct workload *w, size_t bytes,
                     void **held)
{
    void *self = adapter->open(memory, bytes);
    if (self == NULL)
        return false;
    for (size_t i = 0; i < w->count; i++) {
        void **block = &held[w->events[i].slot];
        if (w->events[i].size == 0)
            adapter->free(self, *block);
        else if ((*block = adapter->alloc(self, w->events[i].size)) == NULL)
            return false;
    }
    return true;
}

/* Best fit without headers, over numbers: the free blocks as keys, size << 32 | address, and the sizes of blocks by
 * where they begin and end. Counted in bytes, or in what blocks are rounded to. The keys are sorted within shelves, of
 * which there are 64 for each power of two of sizes, so that one is put in by moving few others. */
enum { SHELF_LOG2 = 6, SHELVES = (33 - SHELF_LOG2) << SHELF_LOG2 };

struct shelf {
    uint64_t *keys;
    size_t count, capacity;
};

struct simulation {
    struct shelf shelves[SHELVES];
    uint32_t *begins, *ends; /* size of the free block that begins or ends there, or 0 */
    uint32_t rounding, header;
};

static struct shelf *shelf_of(struct simulation *s, uint32_t size)
{
    uint32_t width = 31 - (uint32_t)__builtin_clz(size | 1u << SHELF_LOG2) - SHELF_LOG2;
    return &s->shelves[(width << SHELF_LOG2) + (size >> width)];
}

/* The first key of a shelf that is not below. */
static size_t place_of(const struct shelf *shelf, uint64_t key)
{
    size_t low = 0, high = shelf->count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (shelf->keys[middle] < key)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static void add_free(struct simulation *s, uint32_t at, uint32_t size)
{
    uint64_t key = (uint64_t)size << 32 | at;
    struct shelf *shelf = shelf_of(s, size);
    if (shelf->count == shelf->capacity) {
        shelf->capacity = shelf->capacity * 2 + 16;
        shelf->keys = bench_must(realloc(shelf->keys, shelf->capacity * sizeof *shelf->keys));
    }
    size_t place = place_of(shelf, key);
    uint64_t *keys = shelf->keys + place;
    memmove(keys + 1, keys, (shelf->count++ - place) * sizeof *keys);
    *keys = key;
    s->begins[at] = s->ends[at + size] = size;
}

static void remove_free(struct simulation *s, uint32_t at, uint32_t size)
{
    struct shelf *shelf = shelf_of(s, size);
    size_t place = place_of(shelf, (uint64_t)size << 32 | at);
    uint64_t *keys = shelf->keys + place;
    memmove(keys, keys + 1, (--shelf->count - place) * sizeof *keys);
    s->begins[at] = s->ends[at + size] = 0;
}

/* The smallest block of at least so much, the lowest of these; 0: none. */
static uint64_t best_key(struct simulation *s, uint32_t size)
{
    struct shelf *shelf = shelf_of(s, size);
    for (size_t place = place_of(shelf, (uint64_t)size << 32); shelf < s->shelves + SHELVES;
         shelf++, place = 0)
        if (place < shelf->count)
            return shelf->keys[place];
    return 0;
}

static uint32_t cost_of(const struct simulation *s, uint32_t size)
{
    return (size + s->header + s->rounding - 1) / s->rounding;
}

static bool simulation_succeeds(struct simulation *s, const struct workload *w, size_t bytes,
                                uint32_t *at)
{
    uint32_t end = (uint32_t)(bytes / s->rounding);
    uint32_t *size_of = at + w->slots;
    for (size_t i = 0; i < SHELVES; i++)
        s->shelves[i].count = 0;
    memset(s->begins, 0, ((size_t)end + 1) * sizeof *s->begins);
    memset(s->ends, 0, ((size_t)end + 1) * sizeof *s->ends);
    add_free(s, 0, end);
    for (size_t i = 0; i < w->count; i++) {
        uint32_t slot = w->events[i].slot, size = w->events[i].size;
        if (size != 0) {
            size = cost_of(s, size);
            uint64_t key = best_key(s, size);
            if (key == 0)
                return false;
            uint32_t found = (uint32_t)key, had = (uint32_t)(key >> 32);
            remove_free(s, found, had);
            if (had > size)
                add_free(s, found + size, had - size);
            at[slot] = found;
            size_of[slot] = size;
            continue;
        }
        uint32_t begin = at[slot], stop = begin + size_of[slot];
        uint32_t before = s->ends[begin], after = s->begins[stop];
        if (before != 0)
            remove_free(s, begin - before, before);
        if (after != 0)
            remove_free(s, stop, after);
        add_free(s, begin - before, stop - begin + before + after);
    }
    return true;
}

struct try_context {
    const struct adapter *adapter; /* or NULL: the simulation */
    struct simulation *simulation;
    const struct workload *workload;
    void *scratch;
};

static bool try_bytes(const struct try_context *t, size_t bytes)
{
    return t->adapter != NULL ? succeeds(t->adapter, t->workload, bytes, t->scratch)
                              : simulation_succeeds(t->simulation, t->workload, bytes, t->scratch);
}

static double least_arena(const struct adapter *adapter, struct simulation *simulation,
                          const struct workload *w)
{
    struct try_context context = {adapter, simulation, w,
                                  bench_must(malloc(w->slots * 2 * sizeof(uint64_t)))};
    size_t low = w->peak_live, high = w->peak_live * 4;
    if (high > memory_bytes)
        high = memory_bytes;
    if (!try_bytes(&context, high)) {
        free(context.scratch);
        return INFINITY;
    }
    while (high - low > w->peak_live / 2000) {
        size_t middle = ((low + high) / 2) & ~(size_t)15;
        if (try_bytes(&context, middle))
            high = middle;
        else
            low = middle;
    }
    free(context.scratch);
    return (double)high / (double)w->peak_live;
}

/* ---- Report -------------------------------------------------------------------------------------- */

static FILE *json;
static bool json_has_rows, is_without_ideals;

static void json_row(const char *part, const char *row, const char *column, double value)
{
    if (json == NULL || !isfinite(value))
        return;
    fprintf(json,
            "%s\n  {\"part\": \"%s\", \"allocator\": \"%s\", \"metric\": \"%s\", \"value\": %.4f}",
            json_has_rows ? "," : "", part, row, column, value);
    json_has_rows = true;
}

static void report_pairs(size_t rounds)
{
    static double ns[ADAPTERS_MAX][ROUNDS_MAX];
    for (size_t round = 0; round < rounds; round++)
        for (size_t i = 0; i < adapter_count; i++)
            ns[i][round] = pair_ns(&adapters[i]);
    printf("\n| ns a pair (%zu rounds) | median | least | spread %% |\n|---|---|---|---|\n",
           rounds);
    for (size_t i = 0; i < adapter_count; i++) {
        struct spread s = spread_of(ns[i], rounds);
        printf("| %s | %.1f | %.1f | %.1f |\n", adapters[i].name, s.median, s.least, s.quartiles);
        json_row("pairs", adapters[i].name, "median_ns", s.median);
        json_row("pairs", adapters[i].name, "least_ns", s.least);
        json_row("pairs", adapters[i].name, "spread_percent", s.quartiles);
    }
    double empty = empty_ns();
    printf("| (drawing the numbers) | %.1f | | |\n", empty);
    json_row("pairs", "drawing the numbers", "median_ns", empty);
}

static void report_worst(void)
{
    static const char *const calls[] = {"alloc", "free"};
    printf(
        "\n| cycles, least of %d replays | p50 | p99 | p99.99 | worst* |\n|---|---|---|---|---|\n",
        REPLAYS);
    for (size_t i = 0; i < adapter_count; i++) {
        for (int pass = 0; pass < REPLAYS; pass++)
            replay(&adapters[i], pass == 0);
        for (int call = 0; call < 2; call++) {
            uint32_t *cycles = least_cycles[call];
            qsort(cycles, WORST_PAIRS, sizeof *cycles, compare_u32);
            uint32_t p50 = cycles[WORST_PAIRS / 2], p99 = cycles[WORST_PAIRS / 100 * 99],
                     p9999 = cycles[WORST_PAIRS / 10000 * 9999], worst = cycles[WORST_PAIRS - 1];
            printf("| %s, %s | %u | %u | %u | %u |\n", adapters[i].name, calls[call], p50, p99,
                   p9999, worst);
            char row[80];
            snprintf(row, sizeof row, "%s, %s", adapters[i].name, calls[call]);
            json_row("worst", row, "p50_cycles", p50);
            json_row("worst", row, "p99_cycles", p99);
            json_row("worst", row, "p9999_cycles", p9999);
            json_row("worst", row, "worst_cycles", worst);
        }
    }
}

static void report_arena(void)
{
    make_workloads();
    size_t most = 0;
    printf("\n| least arena / peak live |");
    for (size_t i = 0; i < BENCH_COUNT_OF(workloads); i++) {
        printf(" %s |", workloads[i].name);
        most = most > workloads[i].peak_live ? most : workloads[i].peak_live;
    }
    printf("\n|---|---|---|---|---|---|\n| (peak live, KiB) |");
    for (size_t i = 0; i < BENCH_COUNT_OF(workloads); i++)
        printf(" %zu |", workloads[i].peak_live >> 10);
    printf("\n| (live blocks then) |");
    for (size_t i = 0; i < BENCH_COUNT_OF(workloads); i++)
        printf(" %zu |", workloads[i].peak_blocks);
    printf("\n");
    for (size_t row = 0; row < adapter_count; row++) {
        printf("| %s |", adapters[row].name);
        for (size_t i = 0; i < BENCH_COUNT_OF(workloads); i++) {
            double ratio = least_arena(&adapters[row], NULL, &workloads[i]);
            printf(isfinite(ratio) ? " %.3f |" : " > 4 |", ratio);
            fflush(stdout);
            json_row("arena", adapters[row].name, workloads[i].name, ratio);
        }
        printf("\n");
    }
    static const struct {
        const char *name;
        uint32_t rounding, header;
    } ideals[] = {
        {"ideal best fit", 1, 0}, {"ideal best fit 8+4", 8, 4}, {"ideal best fit 16+4", 16, 4}};
    static struct simulation simulation;
    simulation = (struct simulation){
        .begins = bench_must(malloc((most * 4 + 2) * sizeof(uint32_t))),
        .ends = bench_must(malloc((most * 4 + 2) * sizeof(uint32_t))),
    };
    for (size_t row = 0; row < BENCH_COUNT_OF(ideals) && !is_without_ideals; row++) {
        simulation.rounding = ideals[row].rounding;
        simulation.header = ideals[row].header;
        printf("| %s |", ideals[row].name);
        for (size_t i = 0; i < BENCH_COUNT_OF(workloads); i++) {
            double ratio = least_arena(NULL, &simulation, &workloads[i]);
            printf(" %.3f |", ratio);
            fflush(stdout);
            json_row("arena", ideals[row].name, workloads[i].name, ratio);
        }
        printf("\n");
    }
}

/* Keeps the adapters whose names are in a list separated by commas. (Names with a comma in them are
 * matched up to it.) */
static void keep_only(const char *list)
{
    size_t kept = 0;
    for (size_t i = 0; i < adapter_count; i++) {
        char name[80];
        snprintf(name, sizeof name, "%s", adapters[i].name);
        for (char *c = name; *c != '\0'; c++)
            if (*c == ',')
                *c = '+';
        const char *at = list;
        while (at != NULL) {
            size_t length = strcspn(at, ",");
            if (strlen(name) == length && strncmp(name, at, length) == 0) {
                adapters[kept++] = adapters[i];
                break;
            }
            at = at[length] == ',' ? at + length + 1 : NULL;
        }
    }
    adapter_count = kept;
}

int main(int argc, char **argv)
{
    const char *parts = "pairs,worst,arena", *only = NULL, *json_path = NULL;
    size_t rounds = 7;
    add_ours();
    for (int i = 1; i < argc; i += 2) {
        const char *option = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (value != NULL && strcmp(option, "--peer") == 0) {
            add_peer(value);
        } else if (value != NULL && strcmp(option, "--only") == 0) {
            only = value;
        } else if (value != NULL && strcmp(option, "--part") == 0) {
            parts = value;
        } else if (value != NULL && strcmp(option, "--rounds") == 0 && atoi(value) > 0 &&
                   atoi(value) <= ROUNDS_MAX) {
            rounds = (size_t)atoi(value);
        } else if (value != NULL && strcmp(option, "--json") == 0) {
            json_path = value;
        } else {
            fputs("usage: own_place_fit [--peer KIND=LIBRARY]... [--only NAME,...] "
                  "[--part pairs,worst,arena] [--rounds 1..64] [--json FILE]\n",
                  stderr);
            return 2;
        }
    }
    is_without_ideals = only != NULL && strstr(only, "ideal") == NULL;
    if (only != NULL)
        keep_only(only);
    if (json_path != NULL) {
        json = bench_must(fopen(json_path, "w"));
        fputs("[", json);
    }
    memory = mmap(NULL, memory_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    bench_must(memory == MAP_FAILED ? NULL : memory);
    madvise(memory, memory_bytes, MADV_HUGEPAGE);
    memset(memory, 1, memory_bytes);
    uint64_t random = 88172645463325252u;
    for (size_t i = 0; i < SIZES; i++)
        sizes[i] = (uint16_t)log_uniform(&random, 16, 4096);
    if (strstr(parts, "pairs") != NULL)
        report_pairs(rounds);
    if (strstr(parts, "worst") != NULL)
        report_worst();
    if (strstr(parts, "arena") != NULL)
        report_arena();
    if (json != NULL) {
        fputs("\n]\n", json);
        fclose(json);
    }
    return 0;
}
