/*
 * A source whose pages can be shown at two addresses: a memfd, mapped shared.
 *
 * Page i of the range shows page frames[i] of the file. At first that is i itself; alias makes it another's,
 * purge makes it i again. Pages of the file that no page of the range shows are holes, so the file's
 * memory is what the range uses, counted once (RSS counts an aliased page at each address, PSS does not).
 *
 * Each call maps first and punches then. Mapping may fail, for want of memory or of mappings, and then
 * nothing has changed; punching a hole fails only where the kernel can't (its memory is given back by the
 * next purge then).
 *
 * Adjacent pages of the range that show adjacent pages of the file are one mapping of the process, as long
 * as they have the same flags; so each new mapping gets MADV_DONTFORK as the first one has.
 *
 * Fork, for sources with copies_on_fork: before it, in the parent, every extent of the file that has memory is
 * written to a second file (all such pages are shown at their own place: what only an alias shows was
 * punched). The child maps that file as `frames` says, in place of the nothing that DONTFORK left. This is
 * the parent's time, but it is the only moment at which what is copied is what was there at the fork, as
 * long as other threads leave the manager alone (its lock held by who forks). All sources are in one list,
 * whose lock is held from before fork until after it.
 */
#include "base/core/bits.h"
#include "base/lock.h"
#include "freehold/source.h"
#include "os/mem.h"
#include "os/sys.h"

#include <errno.h>
#include <pthread.h>

#define FRAMES_MAX UINT32_MAX

static struct {
    struct fh_lock lock; /* of the list */
    struct fh_source_memfd *first;
    bool has_handlers;
} all = {.lock = FH_LOCK_INIT};

static size_t page_of(const struct fh_source_memfd *memfd, const void *addr)
{
    return (size_t)((const unsigned char *)addr - memfd->base) >> fh_os_page_shift;
}

static bool map_at(struct fh_source_memfd *memfd, void *addr, size_t frame, size_t bytes)
{
    if (fh_os_map_fd_at(addr, memfd->fd, bytes, frame << fh_os_page_shift) == NULL)
        return false;
    (void)fh_os_dont_fork(addr, bytes); /* can't fail on a mapping that is there */
    return true;
}

static void set_frames(struct fh_source_memfd *memfd, size_t page, size_t frame, size_t pages)
{
    for (size_t i = 0; i < pages; i++)
        memfd->frames[page + i] = (uint32_t)(frame + i);
}

/* Whether [page, page + pages) shows frames that follow one another from `frame` on. */
static bool is_one_piece(const struct fh_source_memfd *memfd, size_t page, size_t frame,
                         size_t pages)
{
    for (size_t i = 0; i < pages; i++)
        if (memfd->frames[page + i] != frame + i)
            return false;
    return true;
}

/* ---- Fork ---------------------------------------------------------------------------------------- */

/* A file with what the range holds, or a negative errno. */
static int copy_file(const struct fh_source_memfd *memfd)
{
    int copy = fh_os_memfd("freehold", memfd->bytes);
    size_t offset = 0, size = 0;
    while (copy >= 0 && offset < memfd->bytes && fh_os_next_data(memfd->fd, &offset, &size)) {
        int error = fh_os_write_at(copy, memfd->base + offset, size, offset);
        if (error != 0) {
            fh_os_close(copy);
            return error;
        }
        offset += size;
    }
    return copy;
}

static void before_fork(void)
{
    fh_lock_acquire(&all.lock);
    for (struct fh_source_memfd *memfd = all.first; memfd != NULL; memfd = memfd->next)
        memfd->child_fd = memfd->copies_on_fork ? copy_file(memfd) : -1;
}

static void after_fork_in_parent(void)
{
    for (struct fh_source_memfd *memfd = all.first; memfd != NULL; memfd = memfd->next)
        if (memfd->child_fd >= 0)
            fh_os_close(memfd->child_fd);
    fh_lock_release(&all.lock);
}

/* The range as frames says, of the child's file. False: as before, nothing is mapped there. */
static bool map_all(struct fh_source_memfd *memfd)
{
    size_t pages = memfd->bytes >> fh_os_page_shift;
    for (size_t page = 0, run; page < pages; page += run) {
        for (run = 1; page + run < pages && memfd->frames[page + run] == memfd->frames[page] + run;)
            run++;
        if (!map_at(memfd, memfd->base + (page << fh_os_page_shift), memfd->frames[page],
                    run << fh_os_page_shift)) {
            fh_os_release(memfd->base, memfd->bytes);
            return false;
        }
    }
    return true;
}

static void after_fork_in_child(void)
{
    for (struct fh_source_memfd *memfd = all.first; memfd != NULL; memfd = memfd->next) {
        fh_os_close(memfd->fd);
        memfd->fd = memfd->child_fd;
        /* Whoever touches a range that could not be copied is to find nobody's memory there. */
        if ((memfd->fd < 0 || !map_all(memfd)) && memfd->base != NULL)
            (void)fh_os_reserve_at(memfd->base, memfd->bytes);
    }
    fh_lock_reset(&all.lock);
}

/* ---- The source ---------------------------------------------------------------------------------- */

static void close_range(struct fh_source_memfd *memfd)
{
    if (memfd->frames != NULL)
        fh_os_release(memfd->frames, (memfd->bytes >> fh_os_page_shift) * sizeof(uint32_t));
    if (memfd->base != NULL)
        fh_os_release(memfd->base, memfd->bytes);
    if (memfd->fd >= 0)
        fh_os_close(memfd->fd);
    memfd->fd = -1;
    memfd->base = NULL;
    memfd->frames = NULL;
}

static bool open_range(struct fh_source_memfd *memfd, size_t bytes, size_t align)
{
    size_t pages = bytes >> fh_os_page_shift;
    memfd->bytes = bytes;
    memfd->fd = fh_os_memfd("freehold", bytes);
    memfd->base = memfd->fd >= 0 ? fh_os_reserve(NULL, bytes, align) : NULL;
    memfd->frames = memfd->base != NULL
                        ? fh_os_map(fh_align_up(pages * sizeof(uint32_t), fh_os_page_size))
                        : NULL;
    return memfd->frames != NULL && map_at(memfd, memfd->base, 0, bytes);
}

static void *memfd_reserve(void *self, size_t bytes, size_t align)
{
    struct fh_source_memfd *memfd = self;
    fh_os_init();
    if (memfd->base != NULL || bytes == 0 || bytes >> fh_os_page_shift >= FRAMES_MAX)
        return NULL;
    if (!open_range(memfd, bytes, align)) {
        close_range(memfd);
        return NULL;
    }
    set_frames(memfd, 0, 0, bytes >> fh_os_page_shift);
    fh_lock_acquire(&all.lock);
    bool is_first = !all.has_handlers;
    all.has_handlers = true;
    memfd->next = all.first;
    all.first = memfd;
    fh_lock_release(&all.lock);
    if (is_first) /* outside the lock: it allocates */
        pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
    return memfd->base;
}

/* All of the file may be touched: its pages get memory when they are. */
static int memfd_commit(void *self, void *addr, size_t bytes)
{
    (void)self, (void)addr, (void)bytes;
    return 0;
}

static int memfd_purge(void *self, void *addr, size_t bytes)
{
    struct fh_source_memfd *memfd = self;
    size_t page = page_of(memfd, addr), pages = bytes >> fh_os_page_shift;
    if (!is_one_piece(memfd, page, page, pages)) {
        if (!map_at(memfd, addr, page, bytes))
            return -ENOMEM;
        set_frames(memfd, page, page, pages);
    }
    return fh_os_punch(memfd->fd, page << fh_os_page_shift, bytes);
}

static int memfd_alias(void *self, void *addr, const void *onto, size_t bytes)
{
    struct fh_source_memfd *memfd = self;
    size_t page = page_of(memfd, addr), pages = bytes >> fh_os_page_shift;
    size_t from = page_of(memfd, onto), frame = memfd->frames[from];
    if (!is_one_piece(memfd, from, frame, pages))
        return -EINVAL;
    if (!map_at(memfd, addr, frame, bytes))
        return -ENOMEM;
    set_frames(memfd, page, frame, pages);
    (void)fh_os_punch(memfd->fd, page << fh_os_page_shift, bytes);
    return 0;
}

static void memfd_release(void *self, void *addr, size_t bytes)
{
    struct fh_source_memfd *memfd = self;
    (void)addr, (void)bytes;
    fh_lock_acquire(&all.lock);
    struct fh_source_memfd **link = &all.first;
    while (*link != memfd)
        link = &(*link)->next;
    *link = memfd->next;
    fh_lock_release(&all.lock);
    close_range(memfd);
}

const struct fh_source *fh_source_memfd_init(struct fh_source_memfd *memfd, bool copies_on_fork)
{
    *memfd = (struct fh_source_memfd){
        .source = {.size = sizeof(struct fh_source),
                   .capabilities = FH_SOURCE_PURGE | FH_SOURCE_ZEROED | FH_SOURCE_ALIAS |
                                   (copies_on_fork ? FH_SOURCE_FORKABLE : 0),
                   .self = memfd,
                   .reserve = memfd_reserve,
                   .commit = memfd_commit,
                   .purge = memfd_purge,
                   .release = memfd_release,
                   .alias = memfd_alias},
        .copies_on_fork = copies_on_fork,
        .fd = -1,
        .child_fd = -1,
    };
    return &memfd->source;
}
