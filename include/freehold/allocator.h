/*
 * allocator.h: the one interface of everything that hands out blocks.
 *
 * Each manager has direct functions (fh_heap_alloc, …) for who knows what they hold, and offers
 * this interface for who doesn't: containers, the conformance suite, replay, measurement. A call
 * costs one indirect jump.
 *
 * Rules for every implementation: NULL and errno on failure, all as it was; sizes in bytes;
 * alignment a power of two, at most 2 GiB; a function that a manager can't offer is NULL in its
 * table.
 *
 *     struct fh_allocator a = fh_heap_allocator(heap);
 *     int *v = fh_alloc(&a, 10 * sizeof *v);
 *     v = fh_resize(&a, v, 20 * sizeof *v);
 *     fh_free(&a, v);
 */
#ifndef FREEHOLD_ALLOCATOR_H
#define FREEHOLD_ALLOCATOR_H

#include "freehold/types.h"

FH_BEGIN_DECLS

enum fh_alloc_flags {
    FH_ALLOC_ZEROED = 1 << 0,    /* the requested bytes read as zero */
    FH_ALLOC_NO_GROWTH = 1 << 1, /* fail rather than take more from the source */
};

enum fh_allocator_capability {
    FH_ALLOCATOR_THREAD_SAFE = 1 << 0,
    FH_ALLOCATOR_CONSTANT_TIME = 1 << 1,
    FH_ALLOCATOR_NEEDS_SIZE = 1 << 2, /* free needs the size */
    FH_ALLOCATOR_MOVES = 1 << 3,      /* resize may move */
};

/* One look at a manager, all in bytes but for `blocks`. */
struct fh_measure {
    size_t size;         /* sizeof(struct fh_measure) of the caller */
    size_t live_blocks;  /* handed out and not freed */
    size_t live_bytes;   /* their usable bytes */
    size_t free_bytes;   /* in free blocks that can be handed out without the source */
    size_t largest_free; /* the largest of them */
    size_t metadata;     /* beside the blocks */
    size_t footprint;    /* taken from the source and not purged */
    size_t reserved;     /* address space */
};

/* One block of a walk. */
struct fh_block {
    void *address;
    size_t usable;
    bool is_live;
};

struct fh_allocator_ops {
    size_t size;           /* sizeof(struct fh_allocator_ops) of the implementer */
    const char *name;      /* "heap", "arena", … */
    unsigned capabilities; /* of enum fh_allocator_capability */
    void *(*alloc)(void *self, size_t size, size_t align, unsigned flags);
    bool (*resize_in_place)(void *self, void *block, size_t old_size, size_t new_size);
    void *(*resize)(void *self, void *block, size_t old_size, size_t new_size, size_t align);
    void (*free)(void *self, void *block);
    void (*free_sized)(void *self, void *block, size_t size, size_t align);
    size_t (*usable_size)(void *self, const void *block);
    bool (*owns)(void *self, const void *address);
    void (*reset)(void *self);
    void (*destroy)(void *self);
    int (*measure)(void *self, struct fh_measure *out);
    /* Calls visit for every block; stops early and returns its value when that is not 0. */
    int (*walk)(void *self, int (*visit)(void *context, const struct fh_block *block),
                void *context);
    /* 0, or the number of broken invariants, each said on the diagnostic descriptor. */
    int (*check)(void *self);
};

/* A value: copy it as you like; it lives as long as what `self` points to. */
struct fh_allocator {
    const struct fh_allocator_ops *ops;
    void *self;
};

static inline void *fh_alloc(const struct fh_allocator *a, size_t size)
{
    return a->ops->alloc(a->self, size, 0, 0);
}

static inline void *fh_alloc_zeroed(const struct fh_allocator *a, size_t size)
{
    return a->ops->alloc(a->self, size, 0, FH_ALLOC_ZEROED);
}

static inline void *fh_alloc_aligned(const struct fh_allocator *a, size_t size, size_t align)
{
    return a->ops->alloc(a->self, size, align, 0);
}

/* The contents are kept up to the smaller size; NULL on failure, then the block is as before. */
static inline void *fh_resize(const struct fh_allocator *a, void *block, size_t new_size)
{
    return a->ops->resize(a->self, block, 0, new_size, 0);
}

static inline void fh_free(const struct fh_allocator *a, void *block)
{
    a->ops->free(a->self, block);
}

FH_END_DECLS
#endif
