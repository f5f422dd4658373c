/*
 * Programs that fault, each with a twin that does nearly the same and does not. `faults NAME` commits it, `faults NAME good`
 * is the twin, `faults --list` prints for each its name, the kind that a report shall have in debug mode, and an extended regular
 * expression that shall match a line of it.
 */
#include "common.h"

#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>

static bool is_good;

#if defined(__clang__)
#define FRAME __attribute__((noinline, optnone))
#else
#define FRAME __attribute__((noinline, optimize("O0")))
#endif

enum { BLOCKS = 8, MANY = 5000 };

struct node {
    char before[24];
    struct node *next;
    int value;
};

/* Blocks of one call site: the first ones lie between page guards, at the right end or at the left. */
FRAME static char *allocated_here(size_t size)
{
    return malloc(size);
}

FRAME static void write_byte(char *at)
{
    *at = 1;
}

FRAME static int read_int(const char *at)
{
    return *(const int *)at;
}

static void overflow(void)
{
    char *blocks[BLOCKS];
    for (int i = 0; i < BLOCKS; i++)
        blocks[i] = allocated_here(32);
    for (int i = 0; i < BLOCKS; i++)
        write_byte(blocks[i] + (is_good ? 31 : 32));
    for (int i = 0; i < BLOCKS; i++)
        free(blocks[i]);
}

static void underflow(void)
{
    char *blocks[BLOCKS];
    for (int i = 0; i < BLOCKS; i++)
        blocks[i] = allocated_here(48);
    for (int i = 0; i < BLOCKS; i++)
        read_int(blocks[i] - (is_good ? 0 : 4));
    for (int i = 0; i < BLOCKS; i++)
        free(blocks[i]);
}

FRAME static void freed_here(void *block)
{
    free(block);
}

static void after_free(void)
{
    char *block = allocated_here(64);
    memset(block, 0, 64);
    if (is_good)
        read_int(block + 8);
    freed_here(block);
    if (!is_good)
        read_int(block + 8);
}

static void large_overflow(void)
{
    char *block = malloc((size_t)1 << 20);
    write_byte(block + ((size_t)1 << 20) - (is_good ? 1 : 0));
    free(block);
}

FRAME static int follow(struct node *node)
{
    return node->next->value;
}

static void null_field(void)
{
    struct node node = {.next = is_good ? &node : NULL, .value = 3};
    follow(&node);
}

static void null_write(void)
{
    char byte = 0;
    write_byte(is_good ? &byte : opaque(NULL));
}

static void nothing(void)
{
}

FRAME static void call(void (*function)(void))
{
    function();
}

static void null_call(void)
{
    void *function = opaque(NULL);
    call(is_good ? nothing : *(void (**)(void)) & function);
}

FRAME static struct node *new_node(void)
{
    return malloc(sizeof(struct node));
}

static void unset_pointer(void)
{
    struct node *node = new_node();
    if (is_good)
        node->next = node;
    follow(node);
    free(node);
}

/* Of a site that has used up its page guards. */
static void pointer_from_freed(void)
{
    struct node **nodes = table_map(MANY * sizeof(struct node *));
    for (int i = 0; i < MANY; i++) {
        nodes[i] = new_node();
        nodes[i]->next = nodes[i];
    }
    for (int i = MANY / 2; i < MANY; i++) {
        struct node *node = nodes[i];
        if (is_good)
            follow(node);
        freed_here(node);
        if (!is_good)
            follow(node);
    }
}

FRAME static int recurse(int depth)
{
    volatile char frame[2048];
    frame[0] = (char)depth;
    return depth == 0 ? 0 : recurse(depth - 1) + frame[0];
}

static void endless(void)
{
    recurse(is_good ? 3 : 1 << 30);
}

static void *endless_in_thread(void *arg)
{
    (void)arg;
    free(opaque(malloc(10)));
    endless();
    return NULL;
}

static void run_thread(size_t stack)
{
    pthread_attr_t attr;
    pthread_t thread;
    pthread_attr_init(&attr);
    EXPECT(pthread_attr_setstacksize(&attr, stack) == 0, "expected a stack of %zu bytes", stack);
    EXPECT(pthread_create(&thread, &attr, endless_in_thread, NULL) == 0, "expected a thread");
    pthread_join(thread, NULL);
}

static void endless_thread(void)
{
    run_thread((size_t)256 << 10);
}

static void endless_small_thread(void)
{
    run_thread((size_t)16 << 10);
}

/* The program's own alternate stack, as small as is allowed. */
static void endless_own_stack(void)
{
    stack_t stack = {.ss_sp = table_map((size_t)SIGSTKSZ), .ss_size = (size_t)SIGSTKSZ};
    EXPECT(sigaltstack(&stack, NULL) == 0, "expected sigaltstack to work");
    free(opaque(malloc(10)));
    endless();
}

FRAME static void large_frame(void)
{
    volatile char frame[16 << 20];
    frame[0] = 1;
    frame[sizeof frame - 1] = 1;
    nothing();
}

static void too_large_frame(void)
{
    if (!is_good)
        large_frame();
}

static void unmapped(void)
{
    char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (!is_good)
        munmap(page, 4096);
    write_byte(page + 100);
}

static void read_only(void)
{
    static const char text[] = "constant";
    char copy[] = "variable";
    write_byte(is_good ? copy : opaque((char *)(uintptr_t)text));
}

static void no_address(void)
{
    char byte = 0;
    write_byte(is_good ? &byte : opaque((void *)(uintptr_t)0x1234567812345678u));
}

static void jump_into_heap(void)
{
    void *block = opaque(malloc(100));
    call(is_good ? nothing : *(void (**)(void)) & block);
    free(block);
}

static void beyond_file(void)
{
    int fd = memfd_create("empty", 0);
    EXPECT(fd >= 0, "expected a memfd");
    if (is_good)
        EXPECT(ftruncate(fd, 4096) == 0, "expected it to grow");
    char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    read_int(page);
}

#if defined(__x86_64__)
FRAME static void copy_words(char *to, const char *from, size_t words)
{
    __asm__ volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(words) : : "memory");
}

static void string_copy(void)
{
    char *blocks[BLOCKS], source[64] = {0};
    for (int i = 0; i < BLOCKS; i++)
        blocks[i] = allocated_here(48);
    for (int i = 0; i < BLOCKS; i++)
        copy_words(blocks[i], source, is_good ? 6 : 8);
    for (int i = 0; i < BLOCKS; i++)
        free(blocks[i]);
}

FRAME static void store_aligned(char *to)
{
    __asm__ volatile("movaps %%xmm0, (%0)" : : "r"(to) : "memory");
}

static void misaligned(void)
{
    _Alignas(16) char words[48];
    store_aligned(words + (is_good ? 16 : 8));
}
#endif

static const struct {
    const char *name, *kind, *line;
    void (*run)(void);
} faults[] = {
    {"overflow", "heap-buffer-overflow", "^WRITE of size 1 at 0x", overflow},
    {"underflow", "heap-buffer-underflow", "bytes before 48-byte block", underflow},
    {"after_free", "heap-use-after-free", "^READ of size 4 at 0x", after_free},
    {"large_overflow", "heap-buffer-overflow", "0 bytes after 1048576-byte block", large_overflow},
    {"null_field", "null-dereference", "field at offset 32 of a null pointer", null_field},
    {"null_write", "null-dereference", "^WRITE of size 1 at 0", null_write},
    {"null_call", "null-dereference", "#0 0x.* in call", null_call},
    {"unset_pointer", "uninitialised-use", "^that block was allocated here:", unset_pointer},
    {"pointer_from_freed", "heap-use-after-free", "in freed_here", pointer_from_freed},
    {"endless", "stack-overflow", "#0 0x.* in recurse", endless},
    {"endless_thread", "stack-overflow", "is used up", endless_thread},
    {"endless_small_thread", "stack-overflow", "is used up", endless_small_thread},
    {"endless_own_stack", "stack-overflow", "#0 0x.* in recurse", endless_own_stack},
    {"too_large_frame", "stack-overflow", "#0 0x.* in large_frame", too_large_frame},
    {"unmapped", "wild-access", "nothing is mapped there", unmapped},
    {"read_only", "wild-access", "the memory there is \"r--p\"", read_only},
    {"no_address", "wild-access", "no address of any program", no_address},
    {"jump_into_heap", "wild-jump", "#0 0x.* in call", jump_into_heap},
    {"beyond_file", "bus-error", "^READ of size 4", beyond_file},
#if defined(__x86_64__)
    {"string_copy", "heap-buffer-overflow", "^WRITE of size 8", string_copy},
    {"misaligned", "misaligned-access", "aligned to 16", misaligned},
#endif
};

int main(int argc, char **argv)
{
    alarm(20);
    EXPECT(argc > 1, "usage: faults --list | NAME [good]");
    is_good = argc > 2;
    for (size_t i = 0; i < sizeof(faults) / sizeof(faults[0]); i++) {
        if (strcmp(argv[1], "--list") == 0) {
            say("%s %s %s", faults[i].name, faults[i].kind, faults[i].line);
        } else if (strcmp(argv[1], faults[i].name) == 0) {
            faults[i].run();
            return 0;
        }
    }
    return strcmp(argv[1], "--list") == 0 ? 0 : 2;
}
