/*
 * slab.h: many objects of one type, constructed once and used again.
 *
 * A slab cache cuts slabs of memory into objects of one size. An object that is freed stays constructed (its
 * lock initialised, its buffer there), so that allocating it again costs nothing but taking it. Use it for types
 * that come and go in great numbers, from several threads too: each thread keeps magazines of free objects,
 * so that most calls take no lock. Do not use it for blocks of many sizes (a heap) or objects that all die
 * together (a pool or an arena: they have less behind them).
 *
 *     struct fh_slab nodes;
 *     fh_slab_init(&nodes, &(struct fh_slab_options){.object_size = sizeof(struct node)});
 *     struct node *node = fh_slab_alloc(&nodes);
 *     fh_slab_free(&nodes, node);       // from any thread
 *     fh_slab_destroy(&nodes);
 *
 * Free objects are not written to: what the cache knows of them lies in their slab's header.
 *
 * Costs: about 15 instructions an allocation and 35 a free; of every magazine's worth of them (16 to 128, more where
 * threads meet at the depot) one takes the lock. Sources: Bonwick, The Slab Allocator (USENIX Summer 1994);
 * Bonwick and Adams, Magazines and Vmem (USENIX 2001), sections 3.1-3.5.
 *
 * Misuse: a pointer that is no object of the cache, or points inside one, is reported at once. A second free is
 * seen always in a single-thread cache; with magazines when the object was the last one freed by the
 * thread, and otherwise when its magazine is emptied into the slabs.
 */
#ifndef FREEHOLD_SLAB_H
#define FREEHOLD_SLAB_H

#include "freehold/allocator.h"
#include "freehold/locked.h"
#include "freehold/place.h"

FH_BEGIN_DECLS

struct fh_slab_options {
    /* Where slabs come from: each is a block of the parent, or a part of the buffer or source. A parent that is not
     * thread-safe is called under the cache's lock. */
    struct fh_place_options place;
    size_t object_size; /* up to 16 MiB; must be set */
    size_t align;       /* of objects; 0: 16 */
    /* Called once for each object of a new slab, outside all locks; not 0: it failed, and so does the
     * allocation (ENOMEM). */
    int (*construct)(void *context, void *object);
    /* Called for each object when its slab is given back. */
    void (*destruct)(void *context, void *object);
    void *context;
    bool is_single_thread; /* one thread at a time calls: no magazines, no lock */
};

struct fh_slab_list {
    void *first;
};

/* Counts since the cache was opened; exact when no other thread is inside. */
struct fh_slab_stats {
    size_t slabs;             /* there now */
    size_t objects;           /* in them */
    size_t free_in_slabs;     /* of them */
    size_t full_magazines;    /* in the depot */
    size_t magazine_size;     /* objects that a magazine takes now */
    uint64_t depot_visits;    /* calls that a thread's own magazines could not serve */
    uint64_t depot_contended; /* of them, those that found the depot's lock held */
    uint64_t slabs_made, slabs_given_back;
};

/* The caller's; its fields are for slab.c. */
struct fh_slab {
    struct fh_thread_owner owner; /* first: the short way reads it */
    uintptr_t range_base;         /* of the buffer or source; 0: slabs are a parent's blocks */
    size_t range_bytes;
    size_t slab_mask; /* bytes of a slab, less one */
    uint64_t inverse; /* of stride: 2^32 / stride, rounded up */
    uint32_t stride;  /* from one object to the next */
    uint32_t objects; /* in a slab */
    bool is_single_thread, is_poisoning, is_range;
    struct fh_fork_lock lock;
    struct fh_ground ground;
    struct fh_slab_options options;
    size_t colours, next_colour; /* how many 64-byte steps the first object can begin later */
    uint32_t header;             /* bytes before the first object without colour */
    /* Under the lock: */
    struct fh_slab_list partial, empty, full, chunks;
    size_t partial_count, empty_count, full_count, chunk_count, free_objects;
    void *table;   /* of slab addresses, where slabs are a parent's blocks */
    size_t carved; /* bytes of the range that were cut off so far */
    size_t peak_chunks;
    void *full_magazines, *empty_magazines, *threads, *spare_threads;
    size_t full_magazine_count;
    uint32_t magazine_size, visits_since;
    uint32_t contended_since;
    struct fh_slab_stats stats;
};

/* 0; -EINVAL: no size, one too large, an alignment that is none, a place too small for one slab; -ENOMEM. The
 * handle must stay where it is. */
FH_API int fh_slab_init(struct fh_slab *slab, const struct fh_slab_options *options);
/* Destructs all objects, live ones too, and gives all memory back. Nobody else may call. */
FH_API void fh_slab_destroy(struct fh_slab *slab);

/* An object, constructed; NULL with ENOMEM. Thread-safe unless is_single_thread, as all below. */
FH_API void *fh_slab_alloc(struct fh_slab *slab) FH_MALLOC_LIKE;
/* The object must be in its constructed state again. */
FH_API void fh_slab_free(struct fh_slab *slab, void *object);
/* Through the interface sizes up to object_size are served (a larger one is ENOMEM), and alignments up to the
 * cache's. FH_ALLOC_ZEROED is ENOTSUP where there is a constructor. */
FH_API void *fh_slab_alloc_with(struct fh_slab *slab, size_t size, size_t align,
                                unsigned flags) FH_MALLOC_LIKE;

/* Gives back what is free: the depot's and the caller's magazines are emptied, slabs without live objects
 * destructed and returned. It happens by itself when the parent or source is exhausted. Returns the bytes. */
FH_API size_t fh_slab_reap(struct fh_slab *slab);
/* All objects free, the memory kept; they are destructed and constructed again when needed. Nobody else may call. */
FH_API void fh_slab_reset(struct fh_slab *slab);

FH_API bool fh_slab_owns(struct fh_slab *slab, const void *address);
FH_API size_t fh_slab_usable_size(struct fh_slab *slab, const void *object);
FH_API void fh_slab_statistics(struct fh_slab *slab, struct fh_slab_stats *out);
/* As in allocator.h; objects in other threads' magazines count as live. */
FH_API int fh_slab_measure(struct fh_slab *slab, struct fh_measure *out);
FH_API int fh_slab_walk(struct fh_slab *slab,
                        int (*visit)(void *context, const struct fh_block *block), void *context);
FH_API int fh_slab_check(struct fh_slab *slab);
FH_API struct fh_allocator fh_slab_allocator(struct fh_slab *slab);

FH_END_DECLS
#endif
