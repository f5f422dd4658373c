/*
 * Stress with a shadow model of every block.
 *
 * Each thread draws calls from the whole family (malloc, calloc, realloc, reallocarray,
 * aligned_alloc, posix_memalign, memalign, free, malloc_usable_size) over log-uniform sizes, hands
 * part of its blocks to other threads through mailboxes, and ends after its share of a round; its
 * leftovers go to the threads of the next round, so that blocks outlive the thread that allocated
 * them. Two models judge each call:
 *
 * - Content. A block carries a tag; the byte at each offset is a function of both. It is written
 * over all usable bytes after allocation and compared before free and around realloc, by whichever
 * thread holds the block then. Blocks above 16 KiB are written and compared at both ends and at one
 * word of each 512 bytes.
 * - Place. A bitmap has one bit for each 8 bytes of address space (a leaf of 16 MiB for each GiB,
 * mapped when first needed). Claiming the bytes of a block that are claimed already means that two
 * live blocks overlap, at the moment the second is handed out. A block's bytes are given up before
 * the call that frees it, so no schedule gives a false alarm.
 *
 * Both live in memory of mmap, out of the heap's reach. One thread with a given seed repeats
 * exactly; more depend on the schedule too, the calls of each thread stay the same up to what it
 * receives.
 */
#include "common.h"

#include <malloc.h>
#include <pthread.h>
#include <stdatomic.h>

#define MAX_THREADS         64
#define SLOTS_PER_THREAD    2048
#define MAILBOX_SLOTS       512
#define WHOLE_CONTENT_BELOW (16 * 1024)
#define CONTENT_STRIDE      512

struct block {
    unsigned char *ptr;
    size_t requested;
    size_t usable;
    size_t align;
    uint64_t tag;
    const char *from;
};

/* Blocks on their way to the thread that owns the mailbox; guarded by lock. */
struct mailbox {
    pthread_mutex_t lock;
    size_t count;
    struct block blocks[MAILBOX_SLOTS];
};

struct worker {
    pthread_t thread;
    unsigned index;
    uint64_t random;
    uint64_t op;
    size_t live_bytes;
    size_t count;
    struct block slots[SLOTS_PER_THREAD];
    struct mailbox mailbox;
};

static struct {
    uint64_t seed;
    uint64_t ops;
    unsigned threads;
    unsigned rounds;
    size_t max_size;
    size_t live_bytes;
    bool may_fail;
} options = {.ops = 200000,
             .threads = 2,
             .rounds = 4,
             .max_size = (size_t)8 << 20,
             .live_bytes = (size_t)96 << 20};

static struct worker *workers;
static _Atomic uint64_t calls_failed;

/* ---- the place model ---- */

#define LEAF_SHIFT 30
#define LEAF_WORDS ((((size_t)1 << LEAF_SHIFT) / 8) / 64)
#define LEAF_COUNT ((size_t)1 << (47 - LEAF_SHIFT))

typedef _Atomic uint64_t place_word;
static _Atomic(place_word *) *leaves;

static place_word *leaf_of(uintptr_t addr)
{
    size_t index = addr >> LEAF_SHIFT;

    EXPECT(index < LEAF_COUNT, "expected blocks in the lower half of the address space, got %#lx",
           (unsigned long)addr);
    place_word *leaf = atomic_load_explicit(&leaves[index], memory_order_acquire);
    if (leaf != NULL)
        return leaf;
    place_word *fresh = table_map(LEAF_WORDS * sizeof(place_word));
    if (atomic_compare_exchange_strong(&leaves[index], &leaf, fresh))
        return fresh;
    munmap(fresh, LEAF_WORDS * sizeof(place_word));
    return leaf;
}

/* Sets (or clears) the bits of [addr, addr + size); false when one was so already. */
static bool place_change(uintptr_t addr, size_t size, bool is_claim)
{
    uintptr_t bit = addr / 8;
    uintptr_t end = (addr + (size > 0 ? size : 1) + 7) / 8;
    bool is_clean = true;

    while (bit < end) {
        place_word *word = leaf_of(bit * 8) + bit % (LEAF_WORDS * 64) / 64;
        uintptr_t word_end = (bit | 63) + 1;
        uintptr_t stop = word_end < end ? word_end : end;
        uint64_t mask = (stop - bit == 64 ? ~(uint64_t)0 : ((uint64_t)1 << (stop - bit)) - 1)
                        << (bit % 64);
        uint64_t before = is_claim ? atomic_fetch_or(word, mask) : atomic_fetch_and(word, ~mask);
        if ((before & mask) != (is_claim ? 0 : mask))
            is_clean = false;
        bit = stop;
    }
    return is_clean;
}

/* ---- the content model ---- */

static unsigned char byte_at(uint64_t tag, size_t offset)
{
    return (unsigned char)((tag >> (offset % 8 * 8)) + offset / 8 * 31);
}

/* Calls visit for the parts of [0, size) that the model looks at. */
static size_t next_part(size_t offset, size_t size, size_t *part)
{
    if (size <= WHOLE_CONTENT_BELOW) {
        *part = offset == 0 ? size : 0;
        return 0;
    }
    size_t edge = 64;
    if (offset == 0) {
        *part = edge;
        return 0;
    }
    size_t start = (offset + CONTENT_STRIDE - 1) / CONTENT_STRIDE * CONTENT_STRIDE;
    if (start + edge < size) {
        *part = 8;
        return start;
    }
    start = offset < size - edge ? size - edge : offset;
    *part = size - start;
    return start;
}

static void content_write(const struct block *block, size_t size)
{
    size_t part;

    for (size_t at = next_part(0, size, &part); part > 0; at = next_part(at + part, size, &part)) {
        for (size_t i = at; i < at + part; i++)
            block->ptr[i] = byte_at(block->tag, i);
        if (at + part >= size)
            break;
    }
}

static void content_compare(const struct worker *worker, const struct block *block,
                            const unsigned char *at_ptr, size_t size, const char *when)
{
    /* What was written is a function of the old usable size: of a prefix only the regular words are
     * compared. */
    bool is_prefix = size < block->usable;
    size_t part;

    for (size_t at = next_part(0, block->usable, &part); part > 0 && at < size;
         at = next_part(at + part, block->usable, &part)) {
        for (size_t i = at; i < at + part && i < size; i++) {
            EXPECT(at_ptr[i] == byte_at(block->tag, i),
                   "expected block %p (%zu bytes asked of %s, %zu usable) to hold what was written "
                   "%s: "
                   "offset %zu is %#x instead of %#x%s (thread %u, call %llu)",
                   (void *)block->ptr, block->requested, block->from, block->usable, when, i,
                   at_ptr[i], byte_at(block->tag, i), is_prefix ? ", in the part kept" : "",
                   worker->index, (unsigned long long)worker->op);
        }
        if (at + part >= block->usable)
            break;
    }
}

static void expect_zeroed(const struct worker *worker, const unsigned char *ptr, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        EXPECT(ptr[i] == 0,
               "expected calloc to hand out zeroes, block %p of %zu bytes has %#x at %zu (thread "
               "%u, call %llu)",
               (const void *)ptr, size, ptr[i], i, worker->index, (unsigned long long)worker->op);
    }
}

/* ---- blocks ---- */

static void block_enter(struct worker *worker, struct block block)
{
    uintptr_t addr = (uintptr_t)block.ptr;

    EXPECT(addr % block.align == 0,
           "expected %s(%zu) aligned to %zu, got %p (thread %u, call %llu)", block.from,
           block.requested, block.align, (void *)block.ptr, worker->index,
           (unsigned long long)worker->op);
    /* First what was asked for: of a pointer that is wrong the usable size means nothing. */
    size_t asked = block.requested > 0 ? (block.requested + 7) / 8 * 8 : 8;
    bool is_free = place_change(addr, asked, true);
    block.usable = is_free ? malloc_usable_size(block.ptr) : 0;
    if (is_free && block.usable > asked)
        is_free = place_change(addr + asked, block.usable - asked, true);
    EXPECT(is_free,
           "expected %s(%zu) to hand out free memory, %p (%zu usable) overlaps a live block "
           "(thread %u, call %llu)",
           block.from, block.requested, (void *)block.ptr, block.usable, worker->index,
           (unsigned long long)worker->op);
    EXPECT(
        block.usable >= block.requested,
        "expected malloc_usable_size >= the %zu bytes asked of %s, got %zu (thread %u, call %llu)",
        block.requested, block.from, block.usable, worker->index, (unsigned long long)worker->op);
    block.tag = random_next(&worker->random);
    content_write(&block, block.usable);
    worker->live_bytes += block.usable;
    worker->slots[worker->count++] = block;
}

static struct block block_leave(struct worker *worker, size_t slot)
{
    struct block block = worker->slots[slot];

    worker->slots[slot] = worker->slots[--worker->count];
    worker->live_bytes -= block.usable;
    return block;
}

static void block_give_up_place(const struct worker *worker, const struct block *block)
{
    EXPECT(place_change((uintptr_t)block->ptr, block->usable, false),
           "expected block %p (%zu usable) to be the only one at its place (thread %u, call %llu)",
           (void *)block->ptr, block->usable, worker->index, (unsigned long long)worker->op);
}

static void block_free(struct worker *worker, size_t slot)
{
    struct block block = block_leave(worker, slot);

    content_compare(worker, &block, block.ptr, block.usable, "until it was freed");
    block_give_up_place(worker, &block);
    free(block.ptr);
}

static void call_failed(const struct worker *worker, const char *from, size_t size, int error)
{
    EXPECT(options.may_fail, "expected %s(%zu) to succeed (thread %u, call %llu), errno %d", from,
           size, worker->index, (unsigned long long)worker->op, error);
    EXPECT(error == ENOMEM, "expected a failing %s(%zu) to say ENOMEM, it said %d", from, size,
           error);
    atomic_fetch_add(&calls_failed, 1);
}

/* The least alignment of a plain block: that of the largest basic type that fits into it. */
static size_t natural_align(size_t size)
{
    return size > 8 ? 16 : 8;
}

/* Log-uniform, mostly below 32 KiB: else the time goes to filling the few large blocks, not to
 * calls. */
static size_t draw_size(struct worker *worker)
{
    size_t common = (size_t)32 << 10;
    bool is_any = options.max_size < common || random_below(&worker->random, 16) == 0;

    return random_size(&worker->random, is_any ? options.max_size : common);
}

static void step_allocate(struct worker *worker)
{
    size_t size = draw_size(worker);
    size_t align = (size_t)8 << random_below(&worker->random, 14);
    struct block block = {.requested = size, .align = natural_align(size)};
    int error = 0;

    errno = 0;
    switch (random_below(&worker->random, 16)) {
    case 0:
    case 1:
    case 2: {
        size_t count = 1 + random_below(&worker->random, 8);
        block.from = "calloc";
        block.requested = size / count * count;
        block.align = natural_align(block.requested);
        block.ptr = calloc(count, size / count);
        if (block.ptr != NULL)
            expect_zeroed(worker, block.ptr, block.requested);
        break;
    }
    case 3:
        block.from = "aligned_alloc";
        block.align = align;
        block.requested = size / align * align;
        block.ptr = aligned_alloc(align, block.requested);
        break;
    case 4: {
        void *ptr = NULL;
        block.from = "posix_memalign";
        block.align = align;
        error = posix_memalign(&ptr, align, size);
        block.ptr = ptr;
        break;
    }
    case 5:
        block.from = "memalign";
        block.align = align;
        block.ptr = memalign(align, size);
        break;
    case 6:
        block.from = "realloc";
        block.ptr = realloc(NULL, size);
        break;
    default:
        block.from = "malloc";
        block.ptr = malloc(size);
    }
    if (error == 0)
        error = errno;
    if (block.ptr == NULL)
        call_failed(worker, block.from, block.requested, error);
    else
        block_enter(worker, block);
}

static void step_resize(struct worker *worker, size_t slot)
{
    struct block block = block_leave(worker, slot);
    size_t size = draw_size(worker) | 1;
    struct block fresh = {.requested = size};

    /* Half of the time near the old size: that is where a block can stay in place. */
    if (random_below(&worker->random, 2) == 0)
        size = fresh.requested =
            block.requested / 2 + random_below(&worker->random, block.requested + 32) + 1;
    fresh.align = natural_align(size);
    content_compare(worker, &block, block.ptr, block.usable, "until it was resized");
    block_give_up_place(worker, &block);
    errno = 0;
    if (random_below(&worker->random, 4) == 0) {
        fresh.from = "reallocarray";
        fresh.ptr = reallocarray(block.ptr, size, 1);
    } else {
        fresh.from = "realloc";
        fresh.ptr = realloc(block.ptr, size);
    }
    if (fresh.ptr == NULL) {
        call_failed(worker, fresh.from, size, errno);
        content_compare(worker, &block, block.ptr, block.usable, "after a realloc that failed");
        EXPECT(place_change((uintptr_t)block.ptr, block.usable, true),
               "expected a failed realloc to leave block %p alone, its place was handed out",
               (void *)block.ptr);
        worker->slots[worker->count++] = block;
        worker->live_bytes += block.usable;
        return;
    }
    size_t kept = block.requested < size ? block.requested : size;
    content_compare(worker, &block, fresh.ptr, kept, "over realloc");
    block_enter(worker, fresh);
}

static void step_send(struct worker *worker, size_t slot)
{
    struct mailbox *to = &workers[random_below(&worker->random, options.threads)].mailbox;

    pthread_mutex_lock(&to->lock);
    if (to->count < MAILBOX_SLOTS)
        to->blocks[to->count++] = block_leave(worker, slot);
    pthread_mutex_unlock(&to->lock);
}

static void step_receive(struct worker *worker)
{
    struct mailbox *own = &worker->mailbox;

    pthread_mutex_lock(&own->lock);
    while (own->count > 0 && worker->count < SLOTS_PER_THREAD) {
        struct block block = own->blocks[--own->count];
        worker->live_bytes += block.usable;
        worker->slots[worker->count++] = block;
    }
    pthread_mutex_unlock(&own->lock);
}

static void step(struct worker *worker)
{
    worker->op++;
    if (worker->op % 64 == 0)
        step_receive(worker);
    size_t kind = random_below(&worker->random, 100);
    bool is_full = worker->count == SLOTS_PER_THREAD ||
                   worker->live_bytes > options.live_bytes / options.threads;

    if (is_full) {
        /* Down to a random part, so that whole runs empty and are used again by other sizes. */
        size_t keep = random_below(&worker->random, worker->count);
        while (worker->count > keep)
            block_free(worker, random_below(&worker->random, worker->count));
    } else if (kind < 48 || worker->count == 0) {
        step_allocate(worker);
    } else {
        size_t slot = random_below(&worker->random, worker->count);
        if (kind < 60)
            step_resize(worker, slot);
        else if (kind < 72 && options.threads > 1)
            step_send(worker, slot);
        else
            block_free(worker, slot);
    }
}

static void *work(void *arg)
{
    struct worker *worker = arg;
    uint64_t share = options.ops / options.threads / options.rounds;

    for (uint64_t i = 0; i < share; i++)
        step(worker);
    return NULL;
}

static void run_round(void)
{
    for (unsigned i = 0; i < options.threads; i++) {
        int error = pthread_create(&workers[i].thread, NULL, work, &workers[i]);
        EXPECT(error == 0, "expected pthread_create to succeed, errno %d", error);
    }
    for (unsigned i = 0; i < options.threads; i++)
        pthread_join(workers[i].thread, NULL);
    heap_check("after a round of stress, all its threads gone");
}

/* The main thread, which allocated none of them, frees what is left. */
static void free_all(void)
{
    for (unsigned i = 0; i < options.threads; i++) {
        do {
            step_receive(&workers[i]);
            while (workers[i].count > 0)
                block_free(&workers[i], workers[i].count - 1);
        } while (workers[i].mailbox.count > 0);
    }
    heap_check("after all blocks were freed");
}

static uint64_t number_after(const char *text, const char *name)
{
    char *end;
    uint64_t value = strtoull(text, &end, 0);

    switch (*end) {
    case 'K':
        value <<= 10, end++;
        break;
    case 'M':
        value <<= 20, end++;
        break;
    default:
        break;
    }
    EXPECT(*end == '\0' && *text != '\0', "expected a number after --%s, got '%s'", name, text);
    return value;
}

static void read_options(int argc, char **argv)
{
    bool has_seed = false;

    for (int i = 1; i < argc; i++) {
        const char *name = argv[i] + (strncmp(argv[i], "--", 2) == 0 ? 2 : 0);
        if (strcmp(name, "may-fail") == 0) {
            options.may_fail = true;
            continue;
        }
        EXPECT(i + 1 < argc, "expected a value after %s", argv[i]);
        uint64_t value = number_after(argv[++i], name);
        if (strcmp(name, "seed") == 0)
            options.seed = value, has_seed = true;
        else if (strcmp(name, "ops") == 0)
            options.ops = value;
        else if (strcmp(name, "threads") == 0)
            options.threads = (unsigned)value;
        else if (strcmp(name, "rounds") == 0)
            options.rounds = (unsigned)value;
        else if (strcmp(name, "max-size") == 0)
            options.max_size = value;
        else if (strcmp(name, "live") == 0)
            options.live_bytes = value;
        else
            fail(
                "usage: stress [--seed N] [--ops N] [--threads N] [--rounds N] [--max-size N[K|M]] "
                "[--live N[K|M]] [--may-fail]");
    }
    if (!has_seed)
        EXPECT(getentropy(&options.seed, sizeof(options.seed)) == 0,
               "expected a seed from the kernel");
    EXPECT(options.threads >= 1 && options.threads <= MAX_THREADS && options.rounds >= 1,
           "expected 1 to %d threads and at least one round", MAX_THREADS);
}

int main(int argc, char **argv)
{
    read_options(argc, argv);
    snprintf(repeat_with, sizeof(repeat_with),
             "stress --seed %llu --ops %llu --threads %u --rounds %u --max-size %zu --live %zu%s",
             (unsigned long long)options.seed, (unsigned long long)options.ops, options.threads,
             options.rounds, options.max_size, options.live_bytes,
             options.may_fail ? " --may-fail" : "");
    alarm(300);
    leaves = table_map(LEAF_COUNT * sizeof(*leaves));
    workers = table_map(options.threads * sizeof(*workers));
    for (unsigned i = 0; i < options.threads; i++) {
        workers[i].index = i;
        workers[i].random = options.seed + i * 0x1000193u;
        pthread_mutex_init(&workers[i].mailbox.lock, NULL);
    }
    for (unsigned round = 0; round < options.rounds; round++)
        run_round();
    free_all();
    say("stress: %llu calls by %u threads in %u rounds, all as modelled (%llu failed cleanly)",
        (unsigned long long)options.ops, options.threads, options.rounds,
        (unsigned long long)atomic_load(&calls_failed));
    return 0;
}
