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
    /* Of FH_SOURCE_ALIAS, else NULL: from now on `addr` shows the memory that `onto` shows, and what is
     * written through one is read through the other; the memory that addr had is given back. What addr
     * held must be at onto before, if it is wanted: the change is one step for readers. `onto` and its
     * `bytes` must show memory in one piece (a part that was aliased piecewise does not). purge of an
     * aliased part takes it back to memory of its own, zero, and leaves the others alone; purge of a part
     * whose memory others show is the caller's mistake: they read zero too. An aliased part usually
     * costs one or two of the process's mappings (vm.max_map_count). */
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

/*
 * Memory of a file that only lives in memory (memfd_create): the source that can alias. Purging punches
 * holes. Use it for the meshing heap (mesh.h), or a manager of your own that shows one page in two
 * places. Do not use it otherwise: a first touch costs twice that of private memory, and fork copies.
 *
 * Fork. A shared mapping would be shared with the child. So the range is left out of the child
 * (MADV_DONTFORK), and where `copies_on_fork` is set a handler copies all that has memory into a file
 * for the child before fork returns anywhere: docs/place/meshing.md has the price. Without it, or when
 * there is no memory for the copy, the child faults when it touches the range, and so does a child made
 * past the handlers (raw clone, vfork may only exec).
 */
struct fh_source_memfd {
    struct fh_source source;
    bool copies_on_fork;
    int fd;
    int child_fd; /* while fork is under way: the child's copy; or negative */
    unsigned char *base;
    size_t bytes;
    uint32_t *frames; /* for each page the page of the file it shows */
    struct fh_source_memfd *next;
};

/* A source for one manager at a time; nothing is asked of the kernel before its `reserve`. The struct must
 * outlive the manager. Thread-safe where the manager is. Returns &memfd->source. */
FH_API const struct fh_source *fh_source_memfd_init(struct fh_source_memfd *memfd,
                                                    bool copies_on_fork);

FH_END_DECLS
#endif
