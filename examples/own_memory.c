/*
 * A heap over memory of one's own: a static buffer is the source, and no system call is made. When
 * the buffer is used up, allocation fails as it does everywhere: NULL and ENOMEM.
 */
#include <freehold/freehold.h>

#include <errno.h>
#include <stdio.h>

static _Alignas(65536) unsigned char storage[4 << 20];

int main(void)
{
    struct fh_source_buffer buffer;
    const struct fh_source *source = fh_source_buffer_init(&buffer, storage, sizeof(storage));
    struct fh_heap_options options = {.size = sizeof(options), .source = source};
    struct fh_heap *heap = fh_heap_create(&options);
    if (heap == NULL)
        return 1;
    unsigned char *block = fh_heap_alloc(heap, 1000);
    printf("%s the buffer\n",
           block >= storage && block < storage + sizeof(storage) ? "in" : "outside");
    size_t count = 0;
    while (fh_heap_alloc(heap, 100000) != NULL)
        count++;
    printf("%s after %s blocks\n", errno == ENOMEM ? "ENOMEM" : "another error",
           count >= 20 ? "20 or more" : "few");
    fh_heap_destroy(heap);
    return 0;
}
