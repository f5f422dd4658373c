/*
 * Hundreds of memory errors, each with a good twin.
 *
 *     cases --list          number, kind, name, stacks, kinds of a right report; one case a line
 *     cases NUMBER          commits it
 *     cases NUMBER good     the same within bounds
 *
 * A case is a row of cases.def times one value of each of its sets. It is told by what it did to
 * others, not only by whether it was caught: *the harm oracle*. Around the block that is misused
 * lie innocents, blocks with known contents; others are made after a free, so that they may
 * inherit its memory. After the bad act
 *
 *     - an innocent's contents have changed: a write did harm
 *     - what was read holds an innocent's bytes: a read did harm
 *     - new blocks overlap each other or an innocent, are not zero though calloc made them, or lie
 *       where an attacker wanted them: the allocator was led astray
 *
 * Exit status: 0 no harm done, 10 harm, 77 the case can't be made here (realloc did not move).
 * Whoever ends the process before has stopped the act. Innocents' bytes are 0xc0 and above, the
 * victim's 'V', what is written wrongly 'A'.
 *
 * The program is plain: it runs under any malloc, and nothing in it knows which.
 */
#define _GNU_SOURCE
#include "cases.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <wchar.h>

#define FRAME       __attribute__((noinline))
#define UNPROTECTED __attribute__((noinline, no_stack_protector))

enum {
    STATUS_HARM = 10,
    STATUS_NOT_HERE = 77,
    SIDE = 6,         /* innocents on each side */
    LARGE = 64 << 10, /* of larger blocks there is one on each side */
    INNOCENTS = 512,  /* at most */
    PROBES = 64,      /* blocks by which the allocator is asked */
    WARMTH = 3000,    /* blocks that a warm call site has made */
    LIMIT_S = 20,
    INNOCENT = 0xc0, /* lowest byte of their contents */
    SOURCE = 4 << 20,
};

static struct {
    unsigned char *at;
    size_t size;
    unsigned char fill;
} innocents[INNOCENTS];
static size_t innocent_count;
static bool is_harmed;
static char *source; /* SOURCE bytes 'A' and a 0 */
static char *sink;   /* what was read */

/* ---- words ---------------------------------------------------------------------------- */

static void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void say(const char *format, ...)
{
    char line[512];
    va_list args;

    va_start(args, format);
    int size = vsnprintf(line, sizeof line, format, args);
    va_end(args);
    if (size > 0 && write(STDOUT_FILENO, line, (size_t)size) < 0)
        _exit(4);
}

static void harm(const char *what)
{
    if (!is_harmed)
        say("harm: %s\n", what);
    is_harmed = true;
}

static void *opaque(void *ptr)
{
    __asm__ volatile("" : "+r"(ptr) : : "memory");
    return ptr;
}

static void *map(size_t size)
{
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (memory == MAP_FAILED)
        _exit(4);
    return memory;
}

static const char *string_of(size_t length)
{
    return source + SOURCE - length;
}

/* ---- blocks --------------------------------------------------------------------------- */

enum { MADE_BY_MALLOC, MADE_BY_CALLOC, MADE_BY_REALLOC, MADE_BY_NEW, MADE_BY_ARRAY };

FRAME static void *make_block(size_t size, size_t align, unsigned maker)
{
    void *aligned = NULL;

    if (align != 0)
        return posix_memalign(&aligned, align, size) == 0 ? aligned : NULL;
    switch (maker) {
    case MADE_BY_CALLOC:
        return calloc(1, size);
    case MADE_BY_REALLOC:
        return realloc(NULL, size);
    case MADE_BY_NEW:
        return cxx_new(size);
    case MADE_BY_ARRAY:
        return cxx_new_array(size);
    default:
        return malloc(size);
    }
}

FRAME static void free_block(void *block, unsigned maker)
{
    if (maker == MADE_BY_NEW)
        cxx_delete(block);
    else if (maker == MADE_BY_ARRAY)
        cxx_delete_array(block);
    else
        free(block);
}

FRAME static void add_innocent(size_t size)
{
    unsigned char *block = opaque(malloc(size));
    unsigned char fill = (unsigned char)(INNOCENT + innocent_count % 0x3f);

    if (block == NULL || innocent_count == INNOCENTS)
        _exit(4);
    memset(block, fill, size);
    innocents[innocent_count].at = block;
    innocents[innocent_count].size = size;
    innocents[innocent_count++].fill = fill;
}

static size_t side_of(size_t size)
{
    return size > LARGE ? 1 : SIDE;
}

/* The block to be misused, between innocents. A warm call site has made many before it; they are
 * gone. */
FRAME static char *set_scene(const struct trial *trial, unsigned maker)
{
    size_t rounds = trial->is_warm ? (trial->size > LARGE ? 100 : WARMTH) : 0;
    char *victim = NULL;

    for (size_t i = 0; i < side_of(trial->size); i++)
        add_innocent(trial->size);
    for (size_t i = 0; i <= rounds; i++) {
        victim = opaque(make_block(trial->size, trial->align, maker));
        if (victim == NULL)
            _exit(4);
        if (i != rounds)
            free_block(victim, maker);
    }
    for (size_t i = 0; i < side_of(trial->size); i++)
        add_innocent(trial->size);
    memset(victim, 'V', trial->size);
    return victim;
}

/* ---- the oracle ----------------------------------------------------------------------- */

FRAME static bool is_all(const unsigned char *bytes, size_t size, unsigned char value)
{
    for (size_t i = 0; i < size; i++) {
        if (bytes[i] != value)
            return false;
    }
    return true;
}

FRAME static void check_innocents(void)
{
    for (size_t i = 0; i < innocent_count; i++) {
        if (!is_all(innocents[i].at, innocents[i].size, innocents[i].fill)) {
            harm("an innocent block's contents have changed");
            return;
        }
    }
}

/* What was read: an innocent's bytes in it? */
FRAME static void check_seen(const char *seen, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        if ((unsigned char)seen[i] >= INNOCENT) {
            harm("an innocent block's contents were read");
            return;
        }
    }
}

static bool overlap(const void *a, size_t a_size, const void *b, size_t b_size)
{
    return (uintptr_t)a < (uintptr_t)b + b_size && (uintptr_t)b < (uintptr_t)a + a_size;
}

/* Where an attacker would like a block to lie. */
static uint64_t target[64] __attribute__((aligned(64)));

/* Whether new blocks are what they should be. */
FRAME static void probe(size_t size)
{
    unsigned char *blocks[PROBES];
    size_t count = size > LARGE ? 4 : PROBES;

    for (size_t i = 0; i < count; i++) {
        blocks[i] = opaque((i & 1) != 0 ? malloc(size) : calloc(1, size));
        if (blocks[i] == NULL)
            _exit(4);
        if (overlap(blocks[i], size, target, sizeof target))
            harm("the allocator gives out what an attacker chose");
        if ((i & 1) == 0 && !is_all(blocks[i], size, 0))
            harm("calloc's block is not zero");
        for (size_t k = 0; k < i; k++) {
            if (overlap(blocks[i], size, blocks[k], size))
                harm("the allocator gives out the same memory twice");
        }
        for (size_t k = 0; k < innocent_count; k++) {
            if (overlap(blocks[i], size, innocents[k].at, innocents[k].size))
                harm("the allocator gives out a living block's memory");
        }
        if (is_harmed)
            _exit(STATUS_HARM); /* the heap is not to be trusted any more */
        memset(blocks[i], 'P', size);
    }
    for (size_t i = 0; i < count; i++) {
        if (!is_all(blocks[i], size, 'P'))
            harm("a new block's contents have changed");
        free(blocks[i]);
    }
}

/* After the act: what came of it, and the end of all blocks. victim may be NULL. */
FRAME static void judge(const struct trial *trial, char *victim, unsigned maker)
{
    check_innocents();
    if (victim != NULL)
        free_block(victim, maker);
    probe(trial->size);
    check_innocents();
    for (size_t i = 0; i < innocent_count; i++)
        free(innocents[i].at);
    innocent_count = 0;
    probe(trial->size + 16);
}

/* ---- accesses ------------------------------------------------------------------------- */

/* What an act touches: [low, high), or of one instruction the byte at. */
struct range {
    char *low, *high, *at;
};

struct wide {
    uint64_t value;
} __attribute__((packed, may_alias));

static inline __attribute__((always_inline)) void write_range(enum access by, struct range range)
{
    size_t size = (size_t)(range.high - range.low);

    switch (by) {
    case BY_WIDE: /* across the bound that at is nearer to */
        ((volatile struct wide *)(range.at == range.low ? range.low : range.high - 8))->value =
            0x4141414141414141;
        break;
    case BY_LOOP:
        for (volatile char *p = range.low; p < range.high; p++)
            *p = 'A';
        break;
    case BY_MEMSET:
        memset(range.low, 'A', size);
        break;
    case BY_MEMCPY:
        memcpy(range.low, source, size);
        break;
    case BY_MEMMOVE:
        memmove(range.low, source, size);
        break;
    case BY_STRCPY:
        strcpy(range.low, string_of(size - 1));
        break;
    case BY_STRNCPY:
        strncpy(range.low, source, size);
        break;
    case BY_STRCAT:
        range.low[0] = '\0';
        strcat(range.low, string_of(size - 1));
        break;
    case BY_SPRINTF:
        sprintf(range.low, "%s", string_of(size - 1));
        break;
    case BY_WCSCPY: {
        static wchar_t text[8192];
        for (size_t i = 0; i + 1 < size / sizeof(wchar_t) && i < 8191; i++)
            text[i] = L'A';
        wcscpy((wchar_t *)(void *)range.low, text);
        break;
    }
    case BY_KERNEL: {
        int zeros = open("/dev/zero", O_RDONLY | O_CLOEXEC);
        if (read(zeros, range.low, size) < 0 && errno != EFAULT)
            _exit(4);
        close(zeros);
        break;
    }
    default:
        *(volatile char *)range.at = 'A';
    }
}

static inline __attribute__((always_inline)) void read_range(enum access by, struct range range)
{
    size_t size = (size_t)(range.high - range.low);

    switch (by) {
    case BY_WIDE: {
        uint64_t value =
            ((volatile struct wide *)(range.at == range.low ? range.low : range.high - 8))->value;
        check_seen((const char *)&value, sizeof value);
        break;
    }
    case BY_LOOP:
        for (size_t i = 0; i < size; i++)
            sink[i] = ((volatile char *)range.low)[i];
        check_seen(sink, size);
        break;
    case BY_MEMCPY:
        memcpy(sink, range.low, size);
        check_seen(sink, size);
        break;
    case BY_KERNEL: {
        int file = memfd_create("seen", MFD_CLOEXEC);
        ssize_t written = write(file, range.low, size);
        if (written > 0 && pread(file, sink, (size_t)written, 0) == written)
            check_seen(sink, (size_t)written);
        close(file);
        break;
    }
    case BY_MEMCMP:
        *(volatile int *)(void *)sink = memcmp(range.low, source, size);
        break;
    case BY_STRLEN: {
        size_t length = strlen(range.low);
        check_seen(range.low, length);
        break;
    }
    case BY_STRDUP: {
        char *copy = opaque(strdup(range.low));
        check_seen(copy, strlen(copy));
        free(copy);
        break;
    }
    case BY_STRCPY:
        strcpy(sink, range.low);
        check_seen(sink, strlen(sink));
        break;
    default:
        sink[0] = *(volatile char *)range.at;
        check_seen(sink, 1);
    }
}

/* ---- by this thread or another -------------------------------------------------------- */

struct doing {
    void (*what)(const struct trial *, struct range);
    const struct trial *trial;
    struct range range;
};

static void *do_it(void *argument)
{
    const struct doing *doing = argument;

    doing->what(doing->trial, doing->range);
    return NULL;
}

static void commit(const struct trial *trial, struct range range,
                   void (*what)(const struct trial *, struct range))
{
    struct doing doing = {what, trial, range};
    pthread_t thread;

    if (!trial->is_threaded) {
        do_it(&doing);
    } else {
        if (pthread_create(&thread, NULL, do_it, &doing) != 0)
            _exit(4);
        pthread_join(thread, NULL);
    }
}

FRAME static void write_wrongly(const struct trial *trial, struct range range)
{
    write_range(trial->access, range);
}

FRAME static void read_wrongly(const struct trial *trial, struct range range)
{
    read_range(trial->access, range);
}

/* ---- beyond the end and before the beginning ------------------------------------------ */

static struct range range_over_end(const struct trial *trial, char *block)
{
    size_t end = trial->size + (trial->is_good ? 0 : trial->distance);
    struct range range = {block, block + end, block + end - 1};

    if (trial->access == BY_LOOP && trial->size > 16)
        range.low = block + trial->size - 16;
    if (trial->access == BY_WCSCPY)
        range.high = block + (trial->is_good ? end & ~(size_t)3 : (end + 3) & ~(size_t)3);
    return range;
}

static struct range range_before_beginning(const struct trial *trial, char *block)
{
    char *low = trial->is_good ? block : block - trial->distance;
    size_t inside = trial->size < 8 ? trial->size : 8;

    return (struct range){low, block + inside, low};
}

static void overflow(const struct trial *trial)
{
    char *block = set_scene(trial, trial->variant);

    commit(trial, range_over_end(trial, block), write_wrongly);
    judge(trial, block, trial->variant);
}

/* A string that does not end in the block, by those who look for its end. */
static void overflow_read(const struct trial *trial)
{
    char *block = set_scene(trial, MADE_BY_MALLOC);

    if (trial->is_good)
        block[trial->size - 1] = '\0';
    commit(trial, range_over_end(trial, block), read_wrongly);
    judge(trial, block, MADE_BY_MALLOC);
}

static void underflow(const struct trial *trial)
{
    char *block = set_scene(trial, MADE_BY_MALLOC);

    commit(trial, range_before_beginning(trial, block), write_wrongly);
    judge(trial, block, MADE_BY_MALLOC);
}

static void underflow_read(const struct trial *trial)
{
    char *block = set_scene(trial, MADE_BY_MALLOC);

    commit(trial, range_before_beginning(trial, block), read_wrongly);
    judge(trial, block, MADE_BY_MALLOC);
}

/* ---- after the free ------------------------------------------------------------------- */

static struct range range_inside(const struct trial *trial, char *block)
{
    return (struct range){block, block + (trial->size < 64 ? trial->size : 64),
                          block + trial->size / 2};
}

/* Blocks that may inherit what was freed. */
static void add_heirs(const struct trial *trial)
{
    size_t count = trial->size > LARGE && trial->distance > 4 ? 4 : trial->distance;

    for (size_t i = 0; i < count; i++)
        add_innocent(trial->size);
}

static void use_freed(const struct trial *trial, void (*use)(const struct trial *, struct range))
{
    char *block = set_scene(trial, trial->variant);
    struct range range = range_inside(trial, block);

    block[trial->size - 1] = '\0'; /* a string, of which the good twin finds the end */
    if (trial->is_good)
        commit(trial, range, use);
    free_block(block, trial->variant);
    add_heirs(trial);
    if (!trial->is_good)
        commit(trial, range, use);
    judge(trial, NULL, MADE_BY_MALLOC);
}

static void use_after_free(const struct trial *trial)
{
    use_freed(trial, write_wrongly);
}

static void use_after_free_read(const struct trial *trial)
{
    use_freed(trial, read_wrongly);
}

static char *move(char *block, size_t size)
{
    char *moved = opaque(realloc(block, size * 4 + (64 << 10)));

    if (moved == block)
        _exit(STATUS_NOT_HERE);
    return moved;
}

static void use_after_realloc(const struct trial *trial)
{
    char *block = set_scene(trial, MADE_BY_MALLOC);
    struct range range = range_inside(trial, block);

    if (trial->is_good)
        commit(trial, range, write_wrongly);
    char *moved = move(block, trial->size);
    add_heirs(trial);
    if (!trial->is_good)
        commit(trial, range, write_wrongly);
    judge(trial, moved, MADE_BY_MALLOC);
}

/* ---- freed wrongly -------------------------------------------------------------------- */

FRAME static void free_wrongly(const struct trial *trial, struct range range)
{
    switch (trial->access) {
    case BY_REALLOC:
        sink = opaque(realloc(range.at, trial->size + 100));
        break;
    case BY_DELETE:
        cxx_delete(range.at);
        break;
    case BY_DELETE_ARRAY:
        cxx_delete_array(range.at);
        break;
    default:
        free(range.at);
    }
    __asm__ volatile("" : : : "memory");
}

static unsigned maker_for(enum access access)
{
    return access == BY_DELETE         ? MADE_BY_NEW
           : access == BY_DELETE_ARRAY ? MADE_BY_ARRAY
                                       : MADE_BY_MALLOC;
}

static void double_free(const struct trial *trial)
{
    char *others[64];
    unsigned maker = maker_for(trial->access);
    char *block = set_scene(trial, maker);

    for (size_t i = 0; i < trial->distance; i++)
        others[i] = make_block(trial->size, trial->align, maker);
    free_block(block, maker);
    for (size_t i = 0; i < trial->distance; i++)
        free_block(others[i], maker);
    if (!trial->is_good)
        commit(trial, (struct range){.at = block}, free_wrongly);
    judge(trial, NULL, MADE_BY_MALLOC);
}

static void double_free_reused(const struct trial *trial)
{
    char *block = set_scene(trial, MADE_BY_MALLOC);

    free(block);
    add_heirs(trial);
    if (!trial->is_good)
        commit(trial, (struct range){.at = block}, free_wrongly);
    judge(trial, NULL, MADE_BY_MALLOC);
}

static void double_free_realloc(const struct trial *trial)
{
    char *block = set_scene(trial, MADE_BY_MALLOC);
    char *moved = move(block, trial->size);

    add_heirs(trial);
    if (!trial->is_good)
        commit(trial, (struct range){.at = block}, free_wrongly);
    judge(trial, moved, MADE_BY_MALLOC);
}

static void realloc_after_free(const struct trial *trial)
{
    char *block = set_scene(trial, MADE_BY_MALLOC);

    if (trial->is_good)
        block = opaque(realloc(block, trial->size + 100));
    free(block);
    add_heirs(trial);
    if (!trial->is_good)
        commit(trial, (struct range){.at = block}, free_wrongly);
    judge(trial, NULL, MADE_BY_MALLOC);
}

/* Memory that looks like a block of glibc's before each address in it. */
static uint64_t *look_like_blocks(uint64_t *words, size_t count)
{
    for (size_t i = 0; i < count; i++)
        words[i] = 0x41;
    return words;
}

static void invalid_free(const struct trial *trial)
{
    static uint64_t in_static_memory[256] __attribute__((aligned(64)));
    uint64_t on_stack[256] __attribute__((aligned(64)));
    char *block = set_scene(trial, maker_for(trial->access));
    char *wrong = NULL;

    switch (trial->variant) {
    case 0:
        wrong = (char *)look_like_blocks(on_stack, 256) + 512 + trial->distance;
        break;
    case 1:
        wrong = (char *)look_like_blocks(in_static_memory, 256) + 512 + trial->distance;
        break;
    case 2:
        wrong = (char *)look_like_blocks(map(64 << 10), 8192) + 4096 + trial->distance;
        break;
    case 3:
        wrong = (char *)(uintptr_t)(16 + trial->distance);
        break;
    default:
        wrong = (char *)(uintptr_t)invalid_free + trial->distance;
    }
    opaque(on_stack);
    if (!trial->is_good)
        commit(trial, (struct range){.at = wrong}, free_wrongly);
    judge(trial, block, maker_for(trial->access));
}

static void interior_free(const struct trial *trial)
{
    char *block = set_scene(trial, MADE_BY_MALLOC);

    if (!trial->is_good)
        commit(trial, (struct range){.at = block + trial->distance}, free_wrongly);
    judge(trial, block, MADE_BY_MALLOC);
}

static void size_mismatch(const struct trial *trial)
{
    char *block = set_scene(trial, maker_for(trial->access));
    size_t said = trial->size + (trial->is_good ? 0 : trial->distance);

    if (trial->access == BY_DELETE)
        cxx_delete_sized(block, said);
    else
        cxx_delete_array_sized(block, said);
    judge(trial, NULL, MADE_BY_MALLOC);
}

enum { ALIGNED_NEW = 3 };

static void family_mismatch(const struct trial *trial)
{
    static const unsigned makers[] = {MADE_BY_MALLOC, MADE_BY_NEW, MADE_BY_ARRAY};
    char *block = set_scene(trial, MADE_BY_MALLOC), *wrong;

    if (trial->variant == ALIGNED_NEW)
        wrong = cxx_new_aligned(trial->size, 64);
    else
        wrong = make_block(trial->size, 0, makers[trial->variant]);
    if (!trial->is_good)
        commit(trial, (struct range){.at = wrong}, free_wrongly);
    else if (trial->variant == ALIGNED_NEW)
        cxx_delete_aligned(wrong, 64);
    else
        free_block(wrong, makers[trial->variant]);
    judge(trial, block, MADE_BY_MALLOC);
}

/* ---- pointers that are none ----------------------------------------------------------- */

FRAME static void dereference(const struct trial *trial, struct range range)
{
    if (trial->access == BY_STORE || trial->access == BY_MEMCPY)
        write_range(trial->access, range);
    else
        read_range(trial->access, range);
}

static void null_dereference(const struct trial *trial)
{
    char *block = set_scene(trial, MADE_BY_MALLOC);
    char *at = trial->is_good ? block : (char *)opaque(NULL) + trial->distance;

    block[trial->size - 1] = '\0';
    commit(trial, (struct range){at, at + 8, at}, dereference);
    judge(trial, block, MADE_BY_MALLOC);
}

/* A pointer is read from a block that nobody wrote to. Variant 0: blocks that lived there before
 * held a valid one. */
FRAME static char *block_after_others(size_t size, char *pointer)
{
    char **blocks[16];

    for (size_t i = 0; i < 16; i++) {
        blocks[i] = opaque(malloc(size));
        for (size_t k = 0; k < size / sizeof(char *); k++)
            blocks[i][k] = pointer;
    }
    for (size_t i = 0; i < 16; i++)
        free(opaque(blocks[i]));
    return opaque(malloc(size));
}

static void uninitialised_use(const struct trial *trial)
{
    char *block = set_scene(trial, MADE_BY_MALLOC), *page = map(4096);
    char **fresh;

    memset(page, INNOCENT, 4096);
    if (trial->variant == 0)
        fresh = (void *)block_after_others(trial->size, page);
    else
        fresh = opaque(malloc(trial->size));
    char **field = fresh + trial->distance / sizeof(char *);
    if (trial->is_good)
        *field = block;
    char *at = *(char *volatile *)field;
    commit(trial, (struct range){at, at + 8, at}, dereference);
    if (!is_all((unsigned char *)page, 4096, INNOCENT))
        harm("a pointer of a former block was followed");
    free(fresh);
    judge(trial, block, MADE_BY_MALLOC);
}

/* ---- everything around a block -------------------------------------------------------- */

/* Variant 0: on both sides; 1: before it; 2: links of freed blocks, as an attacker would have
 * them. */
static void heap_corruption(const struct trial *trial)
{
    char *block = set_scene(trial, MADE_BY_MALLOC);
    size_t far = trial->is_good ? 0 : trial->distance;

    if (trial->variant == 2) {
        char *other = opaque(malloc(trial->size));
        uintptr_t link = (uintptr_t)target;
        free(other);
        free(block);
        if (!trial->is_good) {
            /* glibc's protected links are the address xor where they lie. */
            uintptr_t value = trial->access == BY_LOOP ? link ^ ((uintptr_t)block >> 12) : link;
            for (size_t i = 0;
                 i < trial->distance / sizeof value && (i + 1) * sizeof value <= trial->size; i++)
                ((volatile uintptr_t *)(void *)block)[i] = value;
        }
        block = NULL;
    } else {
        struct range range = {block - far, block + trial->size + (trial->variant == 0 ? far : 0),
                              block};
        commit(trial, range, write_wrongly);
    }
    judge(trial, block, MADE_BY_MALLOC);
}

/* ---- stacks and globals --------------------------------------------------------------- */

FRAME static size_t recurse(size_t depth, size_t frame)
{
    char room[4096];
    char *used = opaque(room + sizeof room - frame);

    memset(used, (int)depth, frame);
    if (depth == 0)
        return (size_t)used[0];
    return recurse(depth - 1, frame) + (size_t)used[frame - 1];
}

FRAME static size_t recurse_small(size_t depth)
{
    volatile char room[64];

    room[0] = (char)depth;
    if (depth == 0)
        return (size_t)room[0];
    return recurse_small(depth - 1) + (size_t)room[0];
}

static void *recurse_as_told(void *argument)
{
    const struct trial *trial = argument;
    size_t depth = trial->is_good ? 2 : SIZE_MAX;

    if (trial->size < 4096)
        *(volatile size_t *)(void *)sink = recurse_small(depth);
    else
        *(volatile size_t *)(void *)sink = recurse(depth, 4096);
    return NULL;
}

/* Variant 1, in a thread: its stack is small. */
static void stack_overflow(const struct trial *trial)
{
    pthread_attr_t attr;
    pthread_t thread;
    struct trial told = *trial;

    if (!trial->is_threaded) {
        recurse_as_told(&told);
        return;
    }
    pthread_attr_init(&attr);
    if (trial->variant == 1)
        pthread_attr_setstacksize(&attr, 32 << 10);
    if (pthread_create(&thread, &attr, recurse_as_told, &told) != 0)
        _exit(4);
    pthread_join(thread, NULL);
    pthread_attr_destroy(&attr);
}

/* The buffer's own function calls what goes beyond it. */
#define OVERFLOW_OF_STACK(name, how, bytes)                                                        \
    how static void name(const struct trial *trial, struct range unused)                           \
    {                                                                                              \
        char buffer[bytes];                                                                        \
        char *at = opaque(buffer);                                                                 \
        size_t size = bytes + (trial->is_good ? 0 : trial->distance);                              \
        (void)unused;                                                                              \
        write_range(trial->access, (struct range){at, at + size, at + size - 1});                  \
        opaque(buffer);                                                                            \
    }

OVERFLOW_OF_STACK(overflow_16, UNPROTECTED, 16)
OVERFLOW_OF_STACK(overflow_100, UNPROTECTED, 100)
OVERFLOW_OF_STACK(overflow_protected_16, FRAME, 16)
OVERFLOW_OF_STACK(overflow_protected_100, FRAME, 100)

static void stack_buffer_overflow(const struct trial *trial)
{
    static void (*const acts[2][2])(const struct trial *, struct range) = {
        {overflow_16, overflow_100}, {overflow_protected_16, overflow_protected_100}};

    commit(trial, (struct range){0}, acts[trial->variant][trial->size == 100]);
}

char global_16[16];
char global_behind_16[256];
char global_100[100];
char global_behind_100[256];

FRAME static void overflow_global(const struct trial *trial, struct range range)
{
    write_range(trial->access, range);
}

static void global_buffer_overflow(const struct trial *trial)
{
    char *global = trial->size == 16 ? global_16 : global_100;

    memset(global_behind_16, INNOCENT, sizeof global_behind_16);
    memset(global_behind_100, INNOCENT, sizeof global_behind_100);
    commit(trial, range_over_end(trial, opaque(global)), overflow_global);
    if (!is_all((unsigned char *)global_behind_16, sizeof global_behind_16, INNOCENT) ||
        !is_all((unsigned char *)global_behind_100, sizeof global_behind_100, INNOCENT))
        harm("another global's contents have changed");
}

/* Not an error of memory: nothing is to be said of it. */
static void leak(const struct trial *trial)
{
    for (int i = 0; i < 10; i++) {
        char *block = set_scene(trial, MADE_BY_MALLOC);
        if (trial->is_good)
            free(block);
    }
    check_innocents();
}

/* ---- the table ------------------------------------------------------------------------ */

#define SET_MAX 24

struct set {
    size_t count;
    size_t values[SET_MAX];
};

struct row {
    const char *kind, *reports;
    void (*act)(const struct trial *);
    unsigned stacks;
    struct set accesses, sizes, aligns, distances, threads, warmths, variants;
};

#define SET(...)                                                                                   \
    {                                                                                              \
        sizeof((size_t[]){__VA_ARGS__}) / sizeof(size_t),                                          \
        {                                                                                          \
            __VA_ARGS__                                                                            \
        }                                                                                          \
    }
#define SIZES_ALL                                                                                  \
    SET(1, 7, 8, 10, 15, 16, 17, 24, 31, 32, 100, 255, 256, 1000, 4095, 4096, 5000, 32768, 40000,  \
        1 << 20)
#define SIZES_FEW                            SET(10, 24, 100, 1000, 5000, 40000)
#define ROW(kind, act, reports, stacks, ...) {kind, reports, act, stacks, __VA_ARGS__},

static const struct row rows[] = {
#include "cases.def"
};

static const char *const access_names[ACCESSES] = {
    "store",   "wide",   "loop",    "memset", "memcpy",       "memmove", "strcpy",
    "strncpy", "strcat", "sprintf", "wcscpy", "kernel",       "strlen",  "memcmp",
    "strdup",  "free",   "realloc", "delete", "delete-array",
};

static bool is_right_pair(const struct trial *trial)
{
    switch (trial->access) {
    case BY_DELETE:
        return trial->variant == 1;
    case BY_DELETE_ARRAY:
        return trial->variant == 2;
    default:
        return trial->variant == 0;
    }
}

/* Combinations that say nothing, or would be no error. */
static bool is_sensible(const struct row *row, const struct trial *trial)
{
    if (row->act == family_mismatch)
        return !is_right_pair(trial);
    if (row->act == interior_free)
        return trial->distance < trial->size;
    if (row->act == uninitialised_use)
        return trial->distance + sizeof(char *) <= trial->size;
    if (row->act == stack_overflow)
        return trial->variant == 0 || trial->is_threaded;
    if (row->act == heap_corruption && trial->variant == 2)
        return trial->size >= 16;
    if (trial->access == BY_WIDE)
        return trial->size >= 8;
    return true;
}

static void fill(struct trial *trial, const struct row *row, size_t index)
{
    const struct set *sets[] = {&row->accesses, &row->sizes,   &row->aligns,  &row->distances,
                                &row->threads,  &row->warmths, &row->variants};
    size_t chosen[7];

    for (size_t i = 0; i < 7; i++) {
        chosen[i] = sets[i]->values[index % sets[i]->count];
        index /= sets[i]->count;
    }
    *trial = (struct trial){
        .kind = row->kind,
        .access = (enum access)chosen[0],
        .size = chosen[1],
        .align = chosen[2],
        .distance = chosen[3],
        .is_threaded = chosen[4] != 0,
        .is_warm = chosen[5] != 0,
        .variant = (unsigned)chosen[6],
    };
}

static size_t combinations(const struct row *row)
{
    return row->accesses.count * row->sizes.count * row->aligns.count * row->distances.count *
           row->threads.count * row->warmths.count * row->variants.count;
}

static void list(size_t number, const struct row *row, const struct trial *trial)
{
    say("%zu\t%s\t%s/%s/size=%zu/align=%zu/distance=%zu/%s/%s/%u\t%u\t%s\n", number, trial->kind,
        trial->kind, access_names[trial->access], trial->size, trial->align, trial->distance,
        trial->is_threaded ? "thread" : "main", trial->is_warm ? "warm" : "fresh", trial->variant,
        row->stacks, row->reports);
}

/* Lists all cases, or runs one; whether it was found. */
static bool go_through(bool is_list, size_t wanted, bool is_good)
{
    struct trial trial;
    size_t number = 0;

    for (size_t r = 0; r < sizeof rows / sizeof rows[0]; r++) {
        for (size_t i = 0; i < combinations(&rows[r]); i++) {
            fill(&trial, &rows[r], i);
            if (!is_sensible(&rows[r], &trial))
                continue;
            if (is_list) {
                list(number, &rows[r], &trial);
            } else if (number == wanted) {
                trial.is_good = is_good;
                rows[r].act(&trial);
                return true;
            }
            number++;
        }
    }
    return is_list;
}

int main(int argc, char **argv)
{
    bool is_list = argc > 1 && strcmp(argv[1], "--list") == 0;

    if (argc < 2) {
        say("usage: cases --list | NUMBER [good]\n");
        return 2;
    }
    alarm(LIMIT_S);
    source = map(SOURCE + 4096);
    memset(source, 'A', SOURCE);
    sink = map(SOURCE + 4096);
    if (!go_through(is_list, strtoul(argv[1], NULL, 10), argc > 2))
        return 2;
    return is_harmed ? STATUS_HARM : 0;
}
