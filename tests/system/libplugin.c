/*
 * A library that is loaded and unloaded again and again by loading.c: it allocates in its
 * constructor, in its destructor and in thread-local destructors, frees what the program allocated
 * and lets the program free what it allocated.
 */
#pragma GCC visibility push(default) /* the build hides symbols */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void *plugin_gift(size_t size);
int plugin_take(void *block, size_t size);
void plugin_receive(void *block);

static void *of_constructor, *received;
static __thread char scratch[200];

__attribute__((constructor)) static void load(void)
{
    of_constructor = malloc(1000);
    if (of_constructor == NULL)
        abort();
    memset(of_constructor, 1, 1000);
    for (size_t i = 1; i < 100; i++)
        free(calloc(i, 3));
}

__attribute__((destructor)) static void unload(void)
{
    char *line = malloc(100);

    if (line == NULL)
        abort();
    snprintf(line, 100, "%p", of_constructor);
    free(line);
    free(of_constructor);
    free(received);
}

void *plugin_gift(size_t size)
{
    unsigned char *block = malloc(size);

    memset(scratch, 1, sizeof(scratch));
    if (block != NULL)
        memset(block, 0x66, size);
    return block;
}

int plugin_take(void *block, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        if (((unsigned char *)block)[i] != 0x55)
            return -1;
    }
    free(block);
    return 0;
}

/* Kept until the destructor frees it. */
void plugin_receive(void *block)
{
    free(received);
    received = block;
}
