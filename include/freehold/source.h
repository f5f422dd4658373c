/*
 * source.h: where page-aligned memory comes from.
 *
 * Every Freehold manager is created over a source. A source owns one contiguous range of address
 * space and knows four verbs: reserve the range, commit parts of it (from then on they may be read
 * and written), purge committed parts (contents dropped, memory given back, next read sees zero),
 * release the range. The system's own memory is one source; a static buffer is another, with no
 * system call behind it. Write your own to put a manager into a shared segment or a mapped file.
 *
 * Do not advise, protect or unmap memory behind its source's back.
 *
 *     static _Alignas(65536) unsigned char storage[4 << 20];
 *     struct fh_source_buffer buffer;
 *     const struct fh_source *source = fh_source_buffer_init(&buffer, storage, sizeof storage);
 *     struct fh_heap_options options = {.size = sizeof options, .source = source};
 *     struct fh_heap *heap = fh_heap_create(&options);
 *     void *block = fh_heap_alloc(heap, 100);
 */
#ifndef FREEHOLD_SOURCE_H
#define FREEHOLD_SOURCE_H

#include "freehold/types.h"

FH_BEGIN_DECLS

/* What a source can do; a manager asks before it relies on it. */
enum fh_source_capability {
    FH_SOURCE_PURGE = 1 << 0,    /* purge gives memory back and zeroes */
    FH_SOURCE_ZEROED = 1 << 1,   /* memory committed for the first time reads as zero */
    FH_SOURCE_GUARD = 1 << 2,    /* parts can be made inaccessible */
    FH_SOURCE_FORKABLE = 1 << 3, /* a forked child gets its own copy */
    FH_SOURCE_FIXED = 1 << 4,    /* the range can't be larger than capacity */
    FH_SOURCE_ALIAS = 1 << 5,    /* two parts of the range can be made to show the same memory */
};

struct fh_source {
    size_t size;           /* sizeof(struct fh_source) of the writer */
    unsigned capabilities; /* of enum fh_source_capability */
    size_t capacity;       /* bytes of a FIXED source; else 0 */
    void *self;            /* handed to each function */
    /* A range of `bytes` aligned to `align` (powers of two ≥ the page size), or NULL. Called once a
     * manager. */
    void *(*reserve)(void *self, size_t bytes, size_t align);
    /* Each returns 0 or a negative errno and then changed nothing. Ranges are page-aligned. */
    int (*commit)(void *self, void *addr, size_t bytes);
    /* Called by threads that allocate, free or trim; never by the decay helper. */
    int (*purge)(void *self, void *addr, size_t bytes);
    void (*release)(void *self, void *addr, size_t bytes);
    /* Of FH_SOURCE_ALIAS, else NULL: from now on `addr` shows the memory of `onto`; its own is given
     * back. purge of an aliased part takes it back to memory of its own, zero. */
    int (*alias)(void *self, void *addr, const void *onto, size_t bytes);
};

/* Memory of the operating system: anonymous, private. Thread-safe, never fails to be returned. */
FH_API const struct fh_source *fh_source_system(void);

/* A caller's buffer as a source. */
struct fh_source_buffer {
    struct fh_source source;
    void *memory;
    size_t bytes;
    bool is_taken;
};

/* Makes `memory` (bytes long, any alignment; what alignment costs is lost) a source for one
 * manager. No system call is made. Returns &buffer->source, or NULL with errno EINVAL when memory
 * is NULL. The buffer must outlive the manager. Not thread-safe. */
FH_API const struct fh_source *fh_source_buffer_init(struct fh_source_buffer *buffer, void *memory,
                                                     size_t bytes);

FH_END_DECLS
#endif
