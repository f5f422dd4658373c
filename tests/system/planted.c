/*
 * Twelve allocations whose failure nobody has thought of, each in its way, and twelve that are handled: what a sweep
 * (sweep.sh) has to tell apart.
 *
 *     planted            all of them
 *     planted good       the handled ones
 *     planted slow       the handled ones, 5 ms apart
 *     planted child      a child is left behind that sleeps, holding the standard output
 *     planted input      as many handled ones as there are bytes on the standard input, each from a stack of its own
 */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define APART __attribute__((noinline, used))

struct list {
    struct list *next;
    char name[56];
};

static volatile int zero;
static void *volatile kept; /* so that no block is the compiler's to leave out */

APART void unchecked_1(void)
{
    char *text = kept = malloc(100);
    text[0] = 'x';
    free(text);
}

APART void unchecked_2(void)
{
    int *numbers = kept = calloc(25, sizeof *numbers);
    numbers[24] = 7;
    free(numbers);
}

APART void unchecked_3(void)
{
    char small[8];
    char *text = kept = realloc(NULL, 3000);
    memset(text, small[0] = 1, 3000);
    free(text);
}

APART void unchecked_4(void)
{
    struct list *list = kept = reallocarray(NULL, 3, sizeof *list);
    list[2].next = list;
    free(list);
}

APART void unchecked_5(void)
{
    void *block = NULL;
    int error = posix_memalign(&block, 64, 640);
    *(char *)block = (char)error;
    free(block);
}

APART void unchecked_6(void)
{
    char *block = kept = aligned_alloc(64, 128);
    strcpy(block, "aligned");
    free(block);
}

APART void unchecked_7(void)
{
    char *copy = kept = strdup("what is copied");
    copy[0] = 'W';
    free(copy);
}

APART void unchecked_8(void)
{
    char *map = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == NULL) /* as if it were malloc */
        return;
    map[0] = 1;
    munmap(map, 8192);
}

/* The one check is of the wrong pointer. */
APART void unchecked_9(void)
{
    static struct list first;
    struct list *list = &first;
    list->next = kept = malloc(sizeof *list);
    if (list != NULL)
        list->next->next = NULL;
    free(list->next);
}

/* The way out frees twice. */
APART void unchecked_10(void)
{
    static char *first;
    if (first == NULL)
        first = strdup("held before");
    char *second = kept = malloc(200);
    if (second == NULL)
        free(first);
    free(second);
    free(first);
    first = NULL;
}

/* Waits for ever for what did not begin. */
APART void unchecked_11(void)
{
    char *buffer = kept = malloc(300);
    volatile int is_filled = buffer != NULL;
    while (!is_filled)
        zero = 0;
    free(buffer);
}

APART void unchecked_12(void)
{
    char *buffer = kept = malloc(400);
    assert(buffer != NULL);
    free(buffer);
}

#define CHECKED(n, call)                                                                           \
    APART int checked_##n(void)                                                                    \
    {                                                                                              \
        char *block = kept = call;                                                                 \
        if (block == NULL)                                                                         \
            return 1;                                                                              \
        block[0] = 0;                                                                              \
        free(block);                                                                               \
        return 0;                                                                                  \
    }

CHECKED(1, malloc(100))
CHECKED(2, calloc(10, 10))
CHECKED(3, realloc(NULL, 100))
CHECKED(4, reallocarray(NULL, 10, 10))
CHECKED(5, aligned_alloc(64, 64))
CHECKED(6, strdup("text"))
CHECKED(7, malloc(100000))
CHECKED(8, calloc(1, 5000000))

APART int checked_9(void)
{
    void *block;
    if (posix_memalign(&block, 64, 100) != 0)
        return 1;
    free(block);
    return 0;
}

APART int checked_10(void)
{
    char *map = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED)
        return 1;
    munmap(map, 4096);
    return 0;
}

/* A realloc that fails leaves the old block. */
APART int checked_11(void)
{
    char *block = calloc(1, 100);
    char *larger = block != NULL ? realloc(block, 100000) : NULL;
    kept = larger;
    free(larger != NULL ? larger : block);
    return larger == NULL;
}

/* Tries again with less. */
APART int checked_12(void)
{
    for (size_t size = 100000; size > 10; size /= 2) {
        void *block = kept = malloc(size);
        free(block);
        if (block != NULL)
            return 0;
    }
    return 1;
}

static int good(unsigned pause_us)
{
    int (*const all[])(void) = {checked_1, checked_2,  checked_3,  checked_4,
                                checked_5, checked_6,  checked_7,  checked_8,
                                checked_9, checked_10, checked_11, checked_12};
    int status = 0;
    for (size_t i = 0; i < 12; i++) {
        status |= all[i]();
        usleep(pause_us);
    }
    return status;
}

static void bad(void)
{
    void (*const all[])(void) = {unchecked_1, unchecked_2,  unchecked_3,  unchecked_4,
                                 unchecked_5, unchecked_6,  unchecked_7,  unchecked_8,
                                 unchecked_9, unchecked_10, unchecked_11, unchecked_12};
    for (size_t i = 0; i < 12; i++)
        all[i]();
}

/* Each level of calls is a stack of its own. */
APART int nested(void)
{
    if (getchar() == EOF)
        return 0;
    int status = checked_1();
    return nested() | status;
}

int main(int argc, char **argv)
{
    static char buffer[4096], input[4096];
    setvbuf(stdout, buffer, _IOFBF, sizeof buffer);
    setvbuf(stdin, input, _IOFBF, sizeof input);
    const char *what = argc > 1 ? argv[1] : "";
    if (strcmp(what, "input") == 0)
        return nested();
    if (strcmp(what, "child") == 0 && fork() == 0) {
        sleep(1000);
        return 0;
    }
    int status = good(strcmp(what, "slow") == 0 ? 5000 : 0);
    if (*what == 0)
        bad();
    puts("the end");
    return status;
}
