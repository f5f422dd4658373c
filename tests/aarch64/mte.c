/*
 * Blocks coloured with memory tags: what is caught, of how many trials. Run by tests/system/mte.sh on aarch64
 * or its emulator.
 *
 * The allocator is a buddy system whose metadata lies apart, so that it never touches the memory; each block
 * is coloured when it is first handed out and at each free. A trial does one wrong access, which either ends in
 * the handler of SIGSEGV (caught) or does not. `mte` prints a table and ends with 0 when each row is as it should be;
 * 77 where there is no MTE.
 */
#define _GNU_SOURCE
#include "freehold/buddy.h"
#include "freehold/pointer_tag.h"

#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum {
    TRIALS = 10000,
    BLOCK = 64,
    BLOCKS = 512,
    MEMORY = BLOCK * BLOCKS,
    MTE_SYNCHRONOUS = 9, /* SEGV_MTESERR */
};

/* What the allocators report goes here: there is none. */
void fh_misuse(const char *kind, const void *address, const char *detail)
{
    fprintf(stderr, "%s at %p: %s\n", kind, address, detail);
    abort();
}

void fh_broken(const char *format, ...)
{
    fputs(format, stderr);
    abort();
}

static unsigned char *memory;
static struct fh_mte_range range;
static struct fh_buddy buddy;
static sigjmp_buf before_access;
static volatile sig_atomic_t last_code;

static void on_fault(int number, siginfo_t *info, void *context)
{
    (void)number, (void)context;
    last_code = info->si_code;
    siglongjmp(before_access, 1);
}

enum access { READ, WRITE };

/* Whether the access ends in a fault of memory tags. */
static int is_caught(volatile unsigned char *address, enum access access)
{
    if (sigsetjmp(before_access, 1) != 0)
        return last_code == MTE_SYNCHRONOUS;
    if (access == WRITE)
        *address = 1;
    else
        (void)*address;
    return 0;
}

/* ---- the allocator --------------------------------------------------------------------------- */

static unsigned char *allocate(void)
{
    unsigned char *block = fh_buddy_alloc(&buddy, BLOCK);
    if (block == NULL)
        return NULL;
    unsigned char *pointer = fh_mte_pointer(block);
    return pointer == block ? fh_mte_colour(&range, block, BLOCK) : pointer;
}

static void release(unsigned char *block)
{
    fh_mte_colour(&range, block, BLOCK);
    fh_buddy_free(&buddy, fh_mte_plain(block));
}

static unsigned long seed = 1;

static unsigned below(unsigned bound)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (unsigned)(seed >> 33) % bound;
}

/* All blocks, in the order of their addresses. */
static unsigned char *at_index[BLOCKS];

static void take_all(void)
{
    unsigned char *block;
    while ((block = allocate()) != NULL)
        at_index[((unsigned char *)fh_mte_plain(block) - memory) / BLOCK] = block;
}

/* Some blocks change their colour between trials. */
static void stir(void)
{
    for (int i = 0; i < 4; i++) {
        unsigned index = below(BLOCKS);
        release(at_index[index]);
        at_index[index] = allocate();
    }
}

/* The same block again, after it was free. */
static unsigned char *give_and_take(unsigned index)
{
    release(at_index[index]);
    unsigned char *again = allocate();
    if (fh_mte_plain(again) != (void *)(memory + index * BLOCK))
        abort(); /* it was the only free one */
    return at_index[index] = again;
}

/* ---- trials ---------------------------------------------------------------------------------- */

static int right_access(enum access access)
{
    unsigned char *block = at_index[below(BLOCKS)];
    return is_caught(block + below(BLOCK), access);
}

static int overflow_into_the_next(enum access access)
{
    return is_caught(at_index[below(BLOCKS - 1)] + BLOCK + below(16), access);
}

static int underflow_into_the_one_before(enum access access)
{
    return is_caught(at_index[1 + below(BLOCKS - 1)] - 1 - below(16), access);
}

static int far_overflow(enum access access)
{
    unsigned from = below(BLOCKS), to = below(BLOCKS);
    while (to + 1 >= from && to <= from + 1)
        to = below(BLOCKS);
    return is_caught(at_index[from] + ((long)to - (long)from) * BLOCK, access);
}

static int use_after_free(enum access access)
{
    unsigned index = below(BLOCKS);
    unsigned char *old = at_index[index];
    release(old);
    int caught = is_caught(old + below(BLOCK), access);
    at_index[index] = allocate();
    return caught;
}

static int use_after_reuse(enum access access)
{
    unsigned index = below(BLOCKS);
    unsigned char *old = at_index[index];
    give_and_take(index);
    return is_caught(old + below(BLOCK), access);
}

static int use_after_many_reuses(enum access access)
{
    unsigned index = below(BLOCKS);
    unsigned char *old = at_index[index];
    for (unsigned i = 2 + below(8); i > 0; i--)
        give_and_take(index);
    return is_caught(old + below(BLOCK), access);
}

static const struct {
    const char *name;
    int (*trial)(enum access access);
    int least, most; /* caught, of TRIALS */
} rows[] = {
    {"right access", right_access, 0, 0},
    {"overflow into the next block", overflow_into_the_next, TRIALS, TRIALS},
    {"underflow into the block before", underflow_into_the_one_before, TRIALS, TRIALS},
    {"use after free", use_after_free, TRIALS, TRIALS},
    {"use after free and one reuse", use_after_reuse, TRIALS, TRIALS},
    /* Expected 11/12 to 14/15 of them; six standard deviations are 170. */
    {"use after free and 2 to 9 reuses", use_after_many_reuses, 8990, 9510},
    {"access to some other block", far_overflow, 8990, 9510},
};

static void open_memory(void)
{
    static _Alignas(64) unsigned char metadata[16 << 10];
    memory = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct fh_buddy_options options = {
        .place = FH_PLACE_BUFFER(memory, MEMORY),
        .unit = BLOCK,
        .metadata = metadata,
        .metadata_bytes = sizeof metadata,
    };
    range = (struct fh_mte_range){memory, memory + MEMORY};
    if (memory == MAP_FAILED || fh_mte_prepare(memory, MEMORY) != 0 ||
        fh_buddy_init(&buddy, &options) != 0)
        abort();
}

int main(void)
{
    if (fh_mte_start() != 0) {
        puts("no memory tags here");
        return 77;
    }
    if (!fh_mte_is_on())
        return 1;
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
    sigaction(SIGSEGV, &action, NULL);
    open_memory();
    take_all();
    int wrong = 0;
    printf("%-36s %8s %8s   of %d each\n", "", "reads", "writes", TRIALS);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        int caught[2] = {0, 0};
        for (int trial = 0; trial < 2 * TRIALS; trial++) {
            stir();
            caught[trial % 2] += rows[i].trial(trial % 2 == 0 ? READ : WRITE);
        }
        int is_right = 1;
        for (int access = 0; access < 2; access++)
            is_right &= caught[access] >= rows[i].least && caught[access] <= rows[i].most;
        printf("%-36s %8d %8d%s\n", rows[i].name, caught[0], caught[1], is_right ? "" : "   WRONG");
        wrong += !is_right;
    }
    return wrong != 0;
}
