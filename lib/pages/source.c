/*
 * The sources that come with the house: the system's memory, and a caller's buffer.
 *
 * The system's is stateless: reserve is address space without memory, commit an mprotect, purge a
 * madvise. A buffer has all its memory from the start: commit and release do nothing, purge is not
 * offered.
 */
#include "freehold/source.h"

#include "base/core/bits.h"
#include "os/mem.h"
#include "os/sys.h"

#include <errno.h>

static void *system_reserve(void *self, size_t bytes, size_t align)
{
    (void)self;
    fh_os_init();
    return fh_os_reserve(NULL, bytes, align);
}

static int system_commit(void *self, void *addr, size_t bytes)
{
    (void)self;
    return fh_os_commit(addr, bytes);
}

static int system_purge(void *self, void *addr, size_t bytes)
{
    (void)self;
    return fh_os_purge(addr, bytes);
}

static void system_release(void *self, void *addr, size_t bytes)
{
    (void)self;
    fh_os_release(addr, bytes);
}

const struct fh_source *fh_source_system(void)
{
    static const struct fh_source source = {
        .size = sizeof(struct fh_source),
        .capabilities = FH_SOURCE_PURGE | FH_SOURCE_ZEROED | FH_SOURCE_GUARD | FH_SOURCE_FORKABLE,
        .reserve = system_reserve,
        .commit = system_commit,
        .purge = system_purge,
        .release = system_release,
    };
    return &source;
}

/* The manager gets the aligned part, whatever size it asks for up to that. */
static void *buffer_reserve(void *self, size_t bytes, size_t align)
{
    struct fh_source_buffer *buffer = self;
    uintptr_t begin = fh_align_up((uintptr_t)buffer->memory, align);
    uintptr_t end = (uintptr_t)buffer->memory + buffer->bytes;
    if (buffer->is_taken || begin > end || end - begin < bytes)
        return NULL;
    buffer->is_taken = true;
    return (void *)begin;
}

static int buffer_commit(void *self, void *addr, size_t bytes)
{
    (void)self, (void)addr, (void)bytes;
    return 0;
}

static int buffer_purge(void *self, void *addr, size_t bytes)
{
    (void)self, (void)addr, (void)bytes;
    return -ENOTSUP;
}

static void buffer_release(void *self, void *addr, size_t bytes)
{
    (void)addr, (void)bytes;
    ((struct fh_source_buffer *)self)->is_taken = false;
}

const struct fh_source *fh_source_buffer_init(struct fh_source_buffer *buffer, void *memory,
                                              size_t bytes)
{
    if (memory == NULL) {
        errno = EINVAL;
        return NULL;
    }
    *buffer = (struct fh_source_buffer){
        .source = {.size = sizeof(struct fh_source),
                   .capabilities = FH_SOURCE_FORKABLE | FH_SOURCE_FIXED,
                   .capacity = bytes,
                   .self = buffer,
                   .reserve = buffer_reserve,
                   .commit = buffer_commit,
                   .purge = buffer_purge,
                   .release = buffer_release},
        .memory = memory,
        .bytes = bytes,
    };
    return &buffer->source;
}
