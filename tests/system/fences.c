/*
 * Blocks between inaccessible pages, as a program meets them.
 *
 * usage:
 *     fences live COUNT           so many blocks at once, each keeps what was written
 *     fences churn BYTES SIZE     allocates and frees so many bytes, then prints resident KiB,
 *                                 mappings, and whether SIGSEGV is caught
 *     fences overflow TIMES       so many times: writes one byte behind a block,
 *     fences underflow TIMES      one before it,
 *     fences late TIMES           reads it after its free,
 *     fences twice TIMES          frees it twice
 */
#include "common.h"

static int live(size_t count)
{
    unsigned char **blocks = malloc(count * sizeof *blocks);
    for (size_t i = 0; i < count; i++) {
        blocks[i] = malloc(24);
        if (blocks[i] == NULL)
            return 1;
        memset(blocks[i], (int)(i % 251), 24);
    }
    for (size_t i = 0; i < count; i++) {
        if (blocks[i][0] != i % 251 || blocks[i][23] != i % 251)
            return 1;
        free(blocks[i]);
    }
    free(blocks);
    return 0;
}

/* The number behind a name in /proc/self/status, in base 10 or 16. */
static unsigned long long status(const char *name, int base)
{
    char line[256];
    unsigned long long value = 0;
    FILE *file = fopen("/proc/self/status", "r");
    while (file != NULL && fgets(line, sizeof line, file) != NULL)
        if (strncmp(line, name, strlen(name)) == 0)
            value = strtoull(line + strlen(name) + 1, NULL, base);
    if (file != NULL)
        fclose(file);
    return value;
}

static size_t mappings(void)
{
    size_t lines = 0;
    FILE *maps = fopen("/proc/self/maps", "r");
    for (int c; maps != NULL && (c = fgetc(maps)) != EOF;)
        lines += c == '\n';
    if (maps != NULL)
        fclose(maps);
    return lines;
}

static int churn(size_t bytes, size_t size)
{
    void *blocks[100] = {0};
    for (size_t i = 0; i < bytes / size; i++) {
        free(blocks[i % 100]);
        blocks[i % 100] = malloc(size);
        memset(blocks[i % 100], 1, size);
    }
    enum { SEGV_BIT = 1 << 10 };
    printf("%llu %zu %d\n", status("VmRSS", 10), mappings(),
           (status("SigCgt", 16) & SEGV_BIT) != 0);
    return 0;
}

static volatile char sink;

static int go_wrong(const char *how, size_t times)
{
    void *first = malloc(100); /* has the heap's first address, below which may be nothing */
    const volatile int below = -1, behind = 100; /* unknown to the compiler, which would warn */
    for (size_t i = 0; i < times; i++) {
        volatile char *block = malloc(100);
        char *plain = (char *)block;
        block[0] = 1;
        if (strcmp(how, "overflow") == 0)
            block[behind] = 0;
        if (strcmp(how, "underflow") == 0)
            block[below] = 0;
        free(plain);
        if (strcmp(how, "late") == 0)
            sink = block[0];
        if (strcmp(how, "twice") == 0)
            free(plain);
    }
    free(first);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "live") == 0)
        return live(strtoull(argv[2], NULL, 10));
    if (argc == 4 && strcmp(argv[1], "churn") == 0)
        return churn(strtoull(argv[2], NULL, 10), strtoull(argv[3], NULL, 10));
    if (argc == 3)
        return go_wrong(argv[1], strtoull(argv[2], NULL, 10));
    fprintf(stderr, "usage: see the head of fences.c\n");
    return 2;
}
