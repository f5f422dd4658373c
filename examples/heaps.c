/*
 * A heap of one's own: everything that belongs to one request is allocated from its heap and freed
 * in one go, without a list of what there is. Blocks may be freed earlier, by any thread.
 */
#include <freehold/freehold.h>

#include <stdio.h>
#include <string.h>

struct word {
    struct word *next;
    char text[];
};

static struct word *words_of(struct fh_heap *heap, const char *line)
{
    struct word *first = NULL;
    for (const char *at = line; *at != '\0';) {
        size_t length = strcspn(at, " ");
        struct word *word = fh_heap_alloc(heap, sizeof(*word) + length + 1);
        if (word == NULL)
            return NULL;
        memcpy(word->text, at, length);
        word->text[length] = '\0';
        word->next = first;
        first = word;
        at += length + (at[length] == ' ');
    }
    return first;
}

int main(void)
{
    struct fh_heap_options options = {.size = sizeof(options), .name = "request"};
    struct fh_heap *heap = fh_heap_create(&options);
    if (heap == NULL)
        return 1;
    for (struct word *word = words_of(heap, "everything is freed at once"); word != NULL;
         word = word->next)
        printf("%s%s", word->text, word->next != NULL ? " " : "\n");
    struct fh_measure measure = {.size = sizeof(measure)};
    fh_heap_measure(heap, &measure);
    printf("%zu blocks live\n", measure.live_blocks);
    fh_heap_destroy(heap);
    return 0;
}
