/*
 * Errors in blocks that lie among others: what canaries, states and fills find when no guard page does. Run with guard=off.
 *
 *     slots KIND [good]     its good twin does the same within bounds
 */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool is_good;

/* So many that whatever waits is used again. */
static void use_again(size_t size)
{
    for (int i = 0; i < 200000; i++)
        free(malloc(size));
}

static void overflow(void)
{
    char *block = malloc(41);
    memset(block, 'a', is_good ? 41 : 42);
    free(block);
}

static void overflow_large(void)
{
    char *block = malloc(4000);
    block[is_good ? 3999 : 4000] = 1;
    free(block);
}

static void after_free(void)
{
    volatile char *block = malloc(100);
    if (is_good)
        block[50] = 1;
    free((void *)block);
    if (!is_good)
        block[50] = 1;
    use_again(100);
}

static void twice(void)
{
    void *first = malloc(24), *second = malloc(24);
    free(first);
    free(second);
    if (!is_good)
        free(first);
}

static void inside(void)
{
    char *block = malloc(64);
    free(is_good ? block : block + 16);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*run)(void);
    } kinds[] = {
        {"overflow", overflow},     {"overflow_large", overflow_large},
        {"after_free", after_free}, {"twice", twice},
        {"inside", inside},
    };
    is_good = argc > 2;
    for (size_t i = 0; argc > 1 && i < sizeof kinds / sizeof kinds[0]; i++)
        if (strcmp(argv[1], kinds[i].name) == 0) {
            kinds[i].run();
            puts("end");
            return 0;
        }
    return 2;
}
