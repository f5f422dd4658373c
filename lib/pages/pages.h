/*
 * pages.h: the page pool: runs of granules out of one window, and from an address to its run.
 */
#ifndef FH_PAGES_PAGES_H
#define FH_PAGES_PAGES_H

#include "base/lock.h"
#include "freehold/source.h"
#include "pages/run.h"

/* spans up to this many granules have a bin each */
#define FH_SPAN_EXACT 32
#define FH_SPAN_BINS  (FH_SPAN_EXACT + (32 - 5) * 8) /* then eight bins a doubling */
#define FH_SPAN_WORDS ((FH_SPAN_BINS + 63) / 64)

/* Runs longer than this (64 MiB) are tagged sparsely, come from clean memory and are given back at
 * once. */
#define FH_HUGE_SPAN 1024u

struct fh_span_bins {
    uint32_t first[FH_SPAN_BINS];
    uint64_t occupied[FH_SPAN_WORDS];
    size_t granules; /* in all bins */
};

struct fh_pages {
    struct fh_window window;
    uintptr_t base; /* address of granule 0; the headers begin here */
    const struct fh_source *source;
    struct fh_lock lock; /* all that follows, and the headers of free spans; floor FH_FLOOR_PAGES
                           * */
    uint32_t first;      /* first granule behind the headers */
    uint32_t top;        /* granules from here on were never used */
    uint32_t committed;  /* granules below may be touched */
    uint32_t limit;      /* granules in the window */
    uint32_t chunk;      /* granules committed at a time */
    size_t reserved_bytes;
    size_t used; /* granules in runs */
    struct fh_span_bins clean, dirty;
    _Atomic int huge;      /* enum fh_os_huge: huge pages for what is committed from now on (main
                            * pool) */
    _Atomic uint32_t tick; /* counted up by decay */
    _Atomic size_t footprint, peak_footprint; /* bytes of pages touched and not purged, as far as we
                                               * know */
    _Atomic uint64_t purged;                  /* bytes given back so far */
    _Atomic(struct fh_pages *) next_pool;     /* registry of private pools */
};

/* The pool that all heaps share but those over a source of their own. Opened once by
 * fh_pages_start. */
extern struct fh_pages fh_pages_main;

/* Opens the main pool: 0 or -ENOMEM. Not thread-safe (start-up lock). */
int fh_pages_start(void);
/* Opens a private pool over a source: all of a FIXED source's capacity, else `bytes` of address
 * space. 0 or a negative
 * errno. The pool is found by fh_pages_find until it is closed. */
int fh_pages_open(struct fh_pages *pages, const struct fh_source *source, size_t bytes);
void fh_pages_close(struct fh_pages *pages);

/* A run of `granules`, aligned to `align` granules, kind not set: dirty memory first. *is_zero says
 * whether all of it reads
 * as zero. NULL when there is no more. */
struct fh_run *fh_pages_alloc(struct fh_pages *pages, size_t granules, size_t align, bool *is_zero);
/* One granule for somebody who will touch little of it: a clean one if there is one, so that its
 * dirty pages don't lie idle. */
struct fh_run *fh_pages_alloc_sparse(struct fh_pages *pages);
/* Back to the pool; the granules' dirty bits say which pages have memory. */
void fh_pages_free(struct fh_pages *pages, struct fh_run *run);
/* Makes the run `more` granules longer when what follows is free. */
bool fh_pages_extend(struct fh_pages *pages, struct fh_run *run, size_t more);
/* Cuts the run to `granules`; the rest goes back. */
void fh_pages_shorten(struct fh_pages *pages, struct fh_run *run, size_t granules);
/* Gives back memory of free spans that have been free for at least `age` ticks, while more than
 * `keep` bytes remain. Takes
 * the lock for each span, not for the system call. Returns bytes; *remaining (may be NULL) says
 * what is still dirty. */
size_t fh_pages_purge(struct fh_pages *pages, unsigned age, size_t keep, size_t *remaining);
/* Marks pages as touched or given back, for the footprint's account. */
void fh_pages_count(struct fh_pages *pages, size_t pages_more, size_t pages_less);

/* The run in which an address lies (a REST granule leads to its first), NULL when it is foreign or
 * in no run. The pool
 * comes with it when pool is not NULL. */
struct fh_run *fh_pages_find(const void *address, struct fh_pages **pool);
/* The run of lib/guard in which an address lies (main pool), or NULL. */
struct fh_run *fh_pages_find_guarded(const void *address);
/* The same in a given pool. */
struct fh_run *fh_pages_find_in(const struct fh_pages *pages, const void *address);

/* The private pool that was opened before this one; the newest for NULL. NULL after the last. */
struct fh_pages *fh_pages_private(struct fh_pages *after);

/* Number of broken invariants of the pool, each said. Takes the lock. */
int fh_pages_check(struct fh_pages *pages);

FH_INLINE uint32_t fh_run_index(const struct fh_pages *pages, const struct fh_run *run)
{
    size_t slot =
        (uintptr_t)run - pages->window.headers - (pages->base >> FH_GRANULE_SHIFT << FH_RUN_SHIFT);
    return (uint32_t)((slot & pages->window.mask) >> FH_RUN_SHIFT);
}

FH_INLINE struct fh_run *fh_run_at(const struct fh_pages *pages, uint32_t index)
{
    size_t slot = ((pages->base >> FH_GRANULE_SHIFT) + index) << FH_RUN_SHIFT;
    return (struct fh_run *)(pages->window.headers + (slot & pages->window.mask));
}

FH_INLINE void *fh_run_address(const struct fh_pages *pages, const struct fh_run *run)
{
    return (void *)(pages->base + ((uintptr_t)fh_run_index(pages, run) << FH_GRANULE_SHIFT));
}

FH_INLINE bool fh_pages_contain(const struct fh_pages *pages, const void *address)
{
    return (uintptr_t)address - pages->base < (uintptr_t)pages->limit << FH_GRANULE_SHIFT;
}

/* Touches pages of the main pool ahead of use with one system call; does nothing elsewhere. */
void fh_pages_touch(const struct fh_pages *pages, void *address, size_t bytes);
/* Moves the first `bytes` of a run's memory onto another run of the main pool, without copying;
 * what it leaves is address space
 * without memory (renew it). False when the kernel refuses: then nothing has moved. */
bool fh_pages_move(struct fh_pages *pages, const struct fh_run *from, size_t bytes,
                   const struct fh_run *to);
/* Fresh memory for a run whose mapping was moved away or came from elsewhere. False: its addresses
 * are lost. */
bool fh_pages_renew(struct fh_pages *pages, const struct fh_run *run);

/* Whole pages for metadata, zero; NULL when there is no memory. */
void *fh_meta_map(size_t bytes);
void fh_meta_unmap(void *address, size_t bytes);
/* Memory for metadata, never freed, zero, 64-byte aligned; NULL when there is none. Takes
 * FH_FLOOR_META. */
void *fh_meta_alloc(size_t size);
/* Calls visit with each range of metadata; those that other threads map or unmap meanwhile may be
 * missing. A scan leaves them out: what is in there are our own notes of addresses. */
void fh_meta_each(void (*visit)(void *context, uintptr_t low, uintptr_t high), void *context);

#endif
