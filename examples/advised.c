/*
 * advised.c: a program with three habits that `freehold advise` finds (docs/advise.md): blocks of a request that die
 * together, a list that is grown by a little again and again, and a buffer that never leaves its function.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct header {
    struct header *next;
    char text[40];
};

static __attribute__((noinline)) struct header *parse_header(struct header *next, int number)
{
    struct header *header = malloc(sizeof(*header));
    header->next = next;
    snprintf(header->text, sizeof(header->text), "header %d", number);
    return header;
}

static __attribute__((noinline)) void free_request(struct header *header)
{
    while (header != NULL) {
        struct header *next = header->next;
        free(header);
        header = next;
    }
}

static __attribute__((noinline)) size_t format_answer(const struct header *header)
{
    char *line = malloc(128);
    const int len = snprintf(line, 128, "%s: %zu", header->text, strlen(header->text));
    free(line);
    return (size_t)len;
}

static __attribute__((noinline)) int *append(int *list, size_t count, int value)
{
    if (count % 8 == 0) {
        list = realloc(list, (count + 8) * sizeof(*list));
    }
    list[count] = value;
    return list;
}

int main(void)
{
    size_t bytes = 0;
    for (int request = 0; request < 500; request++) {
        struct header *headers = NULL;
        int *list = NULL;
        for (int i = 0; i < 64; i++) {
            headers = parse_header(headers, i);
            list = append(list, (size_t)i, i);
        }
        bytes += format_answer(headers);
        free(list);
        free_request(headers);
    }
    printf("%zu bytes answered\n", bytes);
    return 0;
}
