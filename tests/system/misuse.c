/*
 * One misuse of the heap each, and its good twin: the same calls with the mistake taken out.
 *
 * `misuse NAME` commits it; the script expects the end of the process with a report. `misuse NAME
 * good` runs the twin, which must end well and say nothing. `misuse --list` prints each NAME with
 * the kind of error that the report must name. The mistake is made in a function of its own,
 * commit_misuse, called through two more, so that the stack of the report can be judged.
 */
#include "common.h"

#include <pthread.h>

static bool is_good;
static char in_static_memory[256];
static const char in_read_only_memory[64] = "text";

#define FRAME __attribute__((noinline))

FRAME static void commit_misuse(void *ptr)
{
    free(ptr);
    __asm__ volatile("" : : : "memory");
}

FRAME static void called_in_between(void *ptr)
{
    commit_misuse(ptr);
    __asm__ volatile("" : : : "memory");
}

static void *live(size_t size)
{
    void *block = opaque(malloc(size));

    EXPECT(block != NULL, "expected %zu bytes", size);
    memset(block, 1, size);
    return block;
}

/* The wrong pointer, or in the good twin a block to free in its place. */
FRAME static void free_wrong(void *wrong)
{
    called_in_between(is_good ? live(100) : opaque(wrong));
}

static void stack_address(void)
{
    char on_stack[256];

    free_wrong(on_stack + 64);
}

static void static_address(void)
{
    free_wrong(in_static_memory + 64);
}

static void read_only_address(void)
{
    free_wrong((void *)(uintptr_t)in_read_only_memory);
}

static void code_address(void)
{
    free_wrong((void *)(uintptr_t)stack_address);
}

static void mapped_page(void)
{
    free_wrong((char *)table_map(65536) + 4096);
}

static void inaccessible_page(void)
{
    void *page = mmap(NULL, 65536, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    free_wrong((char *)page + 4096);
}

static void unmapped_page(void)
{
    void *page = table_map(65536);

    munmap(page, 65536);
    free_wrong(page);
}

static void wild_pointer(void)
{
    free_wrong((void *)(uintptr_t)0x123456789ab0u);
}

static void small_number(void)
{
    free_wrong((void *)(uintptr_t)16);
}

static void odd_number(void)
{
    free_wrong((void *)(uintptr_t)1);
}

static void non_canonical_pointer(void)
{
    free_wrong((void *)(uintptr_t)0x4141414141414140u);
}

static void kernel_pointer(void)
{
    free_wrong((void *)(uintptr_t)0xffff888000001000u);
}

static void last_pointer(void)
{
    free_wrong((void *)UINTPTR_MAX);
}

/* Far from a live block, where no run is: still inside what the heap has reserved. */
static void free_space_of_the_heap(void)
{
    char *block = live(100);

    free_wrong((void *)(((uintptr_t)block + ((uintptr_t)2 << 30)) & ~(uintptr_t)0xffff));
}

static void interior_of(size_t size, size_t offset)
{
    char *block = live(size);

    called_in_between(is_good ? block : block + offset);
}

static void interior_small(void)
{
    interior_of(48, 16);
}

static void interior_misaligned(void)
{
    interior_of(48, 1);
}

static void interior_medium(void)
{
    interior_of(5000, 2048);
}

static void interior_page(void)
{
    interior_of(40000, 4096);
}

static void interior_large(void)
{
    interior_of((size_t)3 << 20, (size_t)1 << 20);
}

static void interior_aligned(void)
{
    char *block = opaque(aligned_alloc(4096, 100));

    called_in_between(is_good ? block : block + 32);
}

static void double_free_of(size_t size)
{
    void *block = live(size);

    free(block);
    if (!is_good)
        called_in_between(opaque(block));
}

static void double_free_small(void)
{
    double_free_of(48);
}

static void double_free_medium(void)
{
    double_free_of(3000);
}

static void double_free_large(void)
{
    double_free_of((size_t)1 << 20);
}

static void double_free_huge(void)
{
    double_free_of((size_t)64 << 20);
}

/* The block was used and freed while its neighbours live. */
static void double_free_among_others(void)
{
    void *blocks[100];

    for (size_t i = 0; i < 100; i++)
        blocks[i] = live(48);
    free(blocks[50]);
    if (!is_good)
        called_in_between(opaque(blocks[50]));
    for (size_t i = 0; i < 100; i++) {
        if (i != 50)
            free(blocks[i]);
    }
}

static void double_free_by_realloc(void)
{
    void *block = live(1000);
    void *moved = opaque(realloc(block, (size_t)4 << 20));

    EXPECT(moved != block, "expected realloc to 4 MiB to move");
    if (!is_good)
        called_in_between(opaque(block));
    free(moved);
}

static void *free_in_thread(void *block)
{
    free(block);
    return NULL;
}

static void double_free_large_in_thread(void)
{
    void *block = live((size_t)1 << 20);
    pthread_t thread;

    pthread_create(&thread, NULL, free_in_thread, block);
    pthread_join(thread, NULL);
    if (!is_good)
        called_in_between(opaque(block));
}

FRAME static void *resize(void *ptr)
{
    return realloc(ptr, 200);
}

static void realloc_of_stack(void)
{
    char on_stack[256];

    free(resize(is_good ? live(100) : opaque(on_stack + 64)));
}

static void realloc_of_interior(void)
{
    char *block = live(100);

    free(resize(is_good ? block : opaque(block + 16)));
}

/* A block of the C library's own malloc, which other libraries may hold. */
static void *foreign_block(void *(**foreign_malloc)(size_t))
{
    void *libc = dlopen("libc.so.6", RTLD_NOW | RTLD_NOLOAD);

    EXPECT(libc != NULL, "expected libc.so.6 to be loaded");
    *(void **)foreign_malloc = dlsym(libc, "__libc_malloc");
    EXPECT(*foreign_malloc != NULL, "expected libc to have __libc_malloc");
    char *block = (*foreign_malloc)(5000);
    EXPECT(block != NULL, "expected libc's malloc to work");
    memset(block, 0x22, 5000);
    return block;
}

/* Says whether the block came back to libc: its next block of that size is the same then. */
static void foreign_free(void)
{
    void *(*foreign_malloc)(size_t);
    void *block = foreign_block(&foreign_malloc);
    uintptr_t where = (uintptr_t)block;

    if (is_good)
        return;
    called_in_between(block);
    say("went on after a foreign free");
    if ((uintptr_t)foreign_malloc(5000) == where)
        say("libc got its block back");
}

static void foreign_realloc(void)
{
    void *(*foreign_malloc)(size_t);
    char *block = foreign_block(&foreign_malloc);

    if (is_good)
        return;
    char *grown = opaque(realloc(block, 9000));
    say("went on after a foreign realloc");
    if (grown != NULL && grown[0] == 0x22 && grown[4999] == 0x22)
        say("the contents were kept");
}

static const struct {
    const char *name;
    const char *kind;
    void (*run)(void);
} misuses[] = {
    {"stack_address", "invalid-free", stack_address},
    {"static_address", "invalid-free", static_address},
    {"read_only_address", "invalid-free", read_only_address},
    {"code_address", "invalid-free", code_address},
    {"mapped_page", "invalid-free", mapped_page},
    {"inaccessible_page", "invalid-free", inaccessible_page},
    {"unmapped_page", "invalid-free", unmapped_page},
    {"wild_pointer", "invalid-free", wild_pointer},
    {"small_number", "invalid-free", small_number},
    {"odd_number", "invalid-free", odd_number},
    {"non_canonical_pointer", "invalid-free", non_canonical_pointer},
    {"kernel_pointer", "invalid-free", kernel_pointer},
    {"last_pointer", "invalid-free", last_pointer},
    {"free_space_of_the_heap", "invalid-free", free_space_of_the_heap},
    {"interior_small", "interior-free", interior_small},
    {"interior_misaligned", "interior-free", interior_misaligned},
    {"interior_medium", "interior-free", interior_medium},
    {"interior_page", "interior-free", interior_page},
    {"interior_large", "interior-free", interior_large},
    {"interior_aligned", "interior-free", interior_aligned},
    {"double_free_small", "double-free", double_free_small},
    {"double_free_medium", "double-free", double_free_medium},
    {"double_free_large", "double-free", double_free_large},
    {"double_free_huge", "double-free", double_free_huge},
    {"double_free_among_others", "double-free", double_free_among_others},
    {"double_free_by_realloc", "double-free", double_free_by_realloc},
    {"double_free_large_in_thread", "double-free", double_free_large_in_thread},
    {"realloc_of_stack", "invalid-free", realloc_of_stack},
    {"realloc_of_interior", "interior-free", realloc_of_interior},
    {"foreign_free", "invalid-free", foreign_free},
    {"foreign_realloc", "invalid-free", foreign_realloc},
};

int main(int argc, char **argv)
{
    alarm(20);
    EXPECT(argc > 1, "usage: misuse --list | NAME [good]");
    is_good = argc > 2;
    for (size_t i = 0; i < sizeof(misuses) / sizeof(misuses[0]); i++) {
        if (strcmp(argv[1], "--list") == 0) {
            say("%s %s", misuses[i].name, misuses[i].kind);
        } else if (strcmp(argv[1], misuses[i].name) == 0) {
            misuses[i].run();
            if (is_good)
                heap_check("after the good twin");
            return 0;
        }
    }
    return strcmp(argv[1], "--list") == 0 ? 0 : 2;
}
