/*
 * Asks for memory in every way there is, and says what it got. The script (pressure.sh) makes requests fail.
 *
 *     pressure family        each function once, from a function try_NAME
 *     pressure row N         N blocks of 100 bytes; the numbers of those that failed
 *     pressure threads       four threads that allocate and free, and check what they get
 *     pressure fork          three blocks before a fork, three in the child: "f" failed, "-" not
 *     pressure shrink        a block made smaller and smaller
 *     pressure fill SIZE N   blocks of SIZE bytes, N at most, until one is refused; how many there were
 *     pressure reuse SIZE    the same, all freed, and again: both counts
 *     pressure grow A B      a block of A bytes made B bytes large: whether that went well
 *     pressure storm N       N requests that are too large for any limit
 *     pressure sites         blocks from twelve call sites, then one too many
 */
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define APART __attribute__((noinline, used))

static void tell(const char *name, const void *block, int error)
{
    printf("%s: %s\n", name, block != NULL ? "ok" : error == ENOMEM ? "ENOMEM" : "another error");
}

#define TRY(name, call)                                                                            \
    APART void try_##name(void);                                                                   \
    APART void try_##name(void)                                                                    \
    {                                                                                              \
        errno = 0;                                                                                 \
        void *volatile block = call;                                                               \
        tell(#name, block, errno);                                                                 \
        free(block);                                                                               \
    }

TRY(malloc, malloc(100))
TRY(calloc, calloc(10, 10))
TRY(realloc, realloc(NULL, 100))
TRY(reallocarray, reallocarray(NULL, 10, 10))
TRY(memalign, memalign(64, 100))
TRY(aligned_alloc, aligned_alloc(64, 128))
TRY(valloc, valloc(100))
TRY(pvalloc, pvalloc(100))
TRY(strdup, strdup("a text"))
TRY(large, malloc((size_t)5 << 20))

APART void try_posix_memalign(void);
APART void try_posix_memalign(void)
{
    void *block = &block;
    errno = 0;
    int error = posix_memalign(&block, 64, 100);
    if (error != 0 && (block != &block || errno != 0))
        puts("posix_memalign: touched what it must leave");
    tell("posix_memalign", error == 0 ? block : NULL, error);
    if (error == 0)
        free(block);
}

APART void try_mmap(void);
APART void try_mmap(void)
{
    errno = 0;
    void *map = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    tell("mmap", map != MAP_FAILED ? map : NULL, errno);
    if (map != MAP_FAILED)
        munmap(map, 4096);
}

/* A file's mapping needs no memory that could be short. */
static void map_file(void)
{
    FILE *file = fopen("/proc/self/exe", "r");
    void *map = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, file != NULL ? fileno(file) : -1, 0);
    printf("mmap of a file: %s\n", map != MAP_FAILED ? "ok" : "failed");
}

APART void *try_growing(void *block);
APART void *try_growing(void *block)
{
    void *volatile grown = realloc(block, 5000);
    return grown; /* no tail call: the frame is to be seen */
}

static void family(void)
{
    char *old = malloc(50);
    strcpy(old, "what was there");
    try_malloc();
    try_calloc();
    try_realloc();
    try_reallocarray();
    try_memalign();
    try_aligned_alloc();
    try_valloc();
    try_pvalloc();
    try_posix_memalign();
    try_strdup();
    try_large();
    try_mmap();
    char *grown = try_growing(old);
    if (strcmp(grown != NULL ? grown : old, "what was there") != 0)
        puts("realloc: the old block has changed");
    tell("growing", grown, errno);
    free(grown != NULL ? grown : old);
}

APART static void row(unsigned count)
{
    static void *blocks[1000];
    for (unsigned i = 0; i < count; i++)
        blocks[i] = malloc(100);
    for (unsigned i = 0; i < count; i++)
        if (blocks[i] == NULL)
            printf("%u ", i + 1);
    putchar('\n');
}

static void *thread(void *seed)
{
    static const size_t sizes[] = {16, 100, 3000, 70000};
    char *blocks[16] = {0};
    for (unsigned i = 0; i < 20000; i++) {
        unsigned at = i * 7 % 16;
        char mark = (char)(at + (unsigned)(size_t)seed);
        if (blocks[at] != NULL && blocks[at][0] != mark) {
            puts("a block has changed");
            exit(1);
        }
        free(blocks[at]);
        blocks[at] = malloc(sizes[i % 4]);
        if (blocks[at] != NULL)
            blocks[at][0] = mark;
    }
    for (unsigned i = 0; i < 16; i++)
        free(blocks[i]);
    return NULL;
}

static void threads(void)
{
    pthread_t ids[4];
    for (size_t i = 0; i < 4; i++)
        while (pthread_create(&ids[i], NULL, thread, (void *)i) != 0)
            continue; /* the thread's own memory was among what failed */
    for (size_t i = 0; i < 4; i++)
        pthread_join(ids[i], NULL);
}

static void forked(void)
{
    char told[8] = "";
    for (unsigned i = 0; i < 3; i++)
        told[i] = malloc(10) == NULL ? 'f' : '-';
    pid_t child = fork();
    if (child == 0) {
        for (unsigned i = 3; i < 6; i++)
            told[i] = malloc(10) == NULL ? 'f' : '-';
        told[6] = '\n';
        _exit(write(STDOUT_FILENO, told, 7) != 7);
    }
    waitpid(child, NULL, 0);
}

static void shrink(void)
{
    char *block = malloc(100000);
    unsigned failed = 0;
    for (size_t size = 90000; size > 10 && block != NULL; size = size * 2 / 3) {
        char *smaller = realloc(block, size);
        failed += smaller == NULL;
        block = smaller != NULL ? smaller : block;
    }
    printf("%u failed\n", failed);
}

static void **kept;

static unsigned fill(size_t size, unsigned most)
{
    unsigned count = 0;
    while (count < most && (kept[count] = malloc(size)) != NULL)
        count++;
    return count;
}

static void storm(unsigned count)
{
    unsigned failed = 0;
    for (unsigned i = 0; i < count; i++) {
        errno = 0;
        failed += malloc((size_t)1 << 40) == NULL && errno == ENOMEM;
    }
    printf("%u failed\n", failed);
}

#define SITE(n)                                                                                    \
    APART void site_##n(void);                                                                     \
    APART void site_##n(void)                                                                      \
    {                                                                                              \
        for (volatile int i = 0; i < n; i++) /* one call, not n */                                 \
            kept[100 * n + i] = malloc(1000);                                                      \
    }
SITE(1)
SITE(2)
SITE(3)
SITE(4)
SITE(5)
SITE(6)
SITE(7)
SITE(8)
SITE(9)
SITE(10)
SITE(11)
SITE(12)

static void sites(void)
{
    void (*const all[])(void) = {site_1, site_2, site_3, site_4,  site_5,  site_6,
                                 site_7, site_8, site_9, site_10, site_11, site_12};
    for (size_t i = 0; i < 12; i++)
        all[i]();
    puts(malloc((size_t)1 << 30) == NULL ? "refused" : "given");
}

int main(int argc, char **argv)
{
    /* Before anything is to fail: what is printed needs no memory then. */
    static char buffer[4096];
    setvbuf(stdout, buffer, _IOFBF, sizeof buffer);
    static void *room[100000];
    kept = room;
    const char *what = argc > 1 ? argv[1] : "";
    size_t first = argc > 2 ? strtoul(argv[2], NULL, 10) : 0;
    size_t second = argc > 3 ? strtoul(argv[3], NULL, 10) : 0;
    if (strcmp(what, "family") == 0) {
        family();
        map_file();
    } else if (strcmp(what, "row") == 0) {
        row((unsigned)first);
    } else if (strcmp(what, "threads") == 0) {
        threads();
    } else if (strcmp(what, "fork") == 0) {
        forked();
    } else if (strcmp(what, "shrink") == 0) {
        shrink();
    } else if (strcmp(what, "fill") == 0) {
        printf("%u\n", fill(first, (unsigned)second));
    } else if (strcmp(what, "reuse") == 0) {
        unsigned count = fill(first, 100000);
        for (unsigned i = 0; i < count; i++)
            free(kept[i]);
        printf("%u %u\n", count, fill(first, 100000));
    } else if (strcmp(what, "grow") == 0) {
        void *block = malloc(first);
        puts(realloc(block, second) != NULL ? "grown" : "refused");
    } else if (strcmp(what, "storm") == 0) {
        storm((unsigned)first);
    } else if (strcmp(what, "sites") == 0) {
        sites();
    } else {
        return 2;
    }
    return 0;
}
