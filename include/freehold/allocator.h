/*
 * allocator.h: the one interface of everything that hands out blocks.
 *
 * Each manager has direct functions (fh_heap_alloc, fh_tlsf_alloc, …) for who knows what they hold, and
 * offers this interface for who doesn't: containers, contexts, the conformance suite, replay,
 * measurement. A call costs one indirect jump. Do not use it in a loop that makes millions of small
 * blocks of an arena: fh_arena_alloc is inline and takes a nanosecond.
 *
 *     struct fh_allocator a = fh_heap_allocator(heap);
 *     int *v = fh_alloc_array(&a, 10, sizeof *v);
 *     v = fh_resize(&a, v, 20 * sizeof *v);
 *     fh_free(&a, v);
 *
 * Rules for every implementation:
 *   - Sizes are bytes; size 0 gives a block of its own (usable size may be 0 or more).
 *   - Alignment is a power of two, at most 2 GiB; 0 means FH_ALIGN_DEFAULT. Another value: NULL, EINVAL.
 *   - Failure is NULL (or false) and errno (ENOMEM, EINVAL, ENOTSUP), all as it was. Nothing aborts for
 *     want of memory. A manager's `exhausted` callback (place.h) is asked first.
 *   - Misuse (a pointer that is no live block, a second free where it can be seen, a wrong size) is
 *     reported as invalid-free, interior-free, double-free or size-mismatch and ends the program, unless
 *     on_error says otherwise; then the call has changed nothing.
 *   - A function that a manager can't offer is NULL in its table; the inline functions below then do what
 *     their comments say.
 *   - Not thread-safe unless FH_ALLOCATOR_THREAD_SAFE is set; wrap it (locked.h).
 */
#ifndef FREEHOLD_ALLOCATOR_H
#define FREEHOLD_ALLOCATOR_H

#include "freehold/types.h"

FH_BEGIN_DECLS

#define FH_ALIGN_DEFAULT 16u /* of a block when 0 is asked for */
#define FH_ALIGN_MAX     ((size_t)1 << 31)

enum fh_alloc_flags {
    FH_ALLOC_ZEROED = 1 << 0,    /* the requested bytes read as zero */
    FH_ALLOC_NO_GROWTH = 1 << 1, /* fail rather than take more from the source or parent */
};

enum fh_allocator_capability {
    FH_ALLOCATOR_THREAD_SAFE = 1 << 0,
    FH_ALLOCATOR_CONSTANT_TIME = 1 << 1, /* every alloc and free is O(1) once memory is there */
    FH_ALLOCATOR_NEEDS_SIZE = 1 << 2,    /* free needs the size: use fh_free_sized */
    FH_ALLOCATOR_MOVES = 1 << 3,         /* resize may move */
    FH_ALLOCATOR_RELOCATABLE =
        1 << 4,                     /* its range may be moved or shared: attach again afterwards */
    FH_ALLOCATOR_NO_FREE = 1 << 5,  /* free gives nothing back before reset (arena, fixed) */
    FH_ALLOCATOR_ONE_SIZE = 1 << 6, /* blocks up to one size only (pool, slab): larger is ENOMEM */
    FH_ALLOCATOR_SEES_DOUBLE_FREE = 1 << 7, /* each second free is reported, not only some */
};

/* One look at a manager, all in bytes but for the counts. Fields a manager can't know are 0. */
struct fh_measure {
    size_t size;         /* sizeof(struct fh_measure) of the caller */
    size_t live_blocks;  /* handed out and not freed */
    size_t live_bytes;   /* their usable bytes */
    size_t free_bytes;   /* in free blocks that can be handed out without the source */
    size_t largest_free; /* the largest of them */
    size_t metadata;  /* beside the blocks: headers, tables, the handle's own state in the range */
    size_t footprint; /* taken from the source or parent and not purged */
    size_t reserved;  /* address space */
    size_t free_blocks;    /* how many free_bytes is made of */
    size_t peak_footprint; /* the largest footprint since creation or reset */
};

/* One block of a walk. Blocks come in address order within each contiguous range. */
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
    /* True when the block has the new size at its old place; old_size may be 0 where the manager
     * knows. */
    bool (*resize_in_place)(void *self, void *block, size_t old_size, size_t new_size);
    /* As realloc, block NULL allocates; align 0 keeps the alignment that the block was given. old_size
     * is the size last asked for, or 0 where the manager knows it. */
    void *(*resize)(void *self, void *block, size_t old_size, size_t new_size, size_t align);
    void (*free)(void *self, void *block);
    /* `size` and `align` as they were asked for; checked where the manager knows better. */
    void (*free_sized)(void *self, void *block, size_t size, size_t align);
    size_t (*usable_size)(void *self, const void *block);
    bool (*owns)(void *self, const void *address);
    void (*reset)(void *self);
    void (*destroy)(void *self);
    int (*measure)(void *self, struct fh_measure *out);
    /* Calls visit for every block, live and free; stops early and returns its value when that is not
     * 0. */
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

static inline bool fh_allocator_can(const struct fh_allocator *a, unsigned capabilities)
{
    return (a->ops->capabilities & capabilities) == capabilities;
}

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

static inline void *fh_alloc_with(const struct fh_allocator *a, size_t size, size_t align,
                                  unsigned flags)
{
    return a->ops->alloc(a->self, size, align, flags);
}

/* count × size bytes; NULL and ENOMEM when the product does not fit a size_t. */
static inline void *fh_alloc_array(const struct fh_allocator *a, size_t count, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes))
        bytes = SIZE_MAX; /* no manager has that: its failure sets errno */
    return a->ops->alloc(a->self, bytes, 0, 0);
}

static inline void *fh_alloc_array_zeroed(const struct fh_allocator *a, size_t count, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes))
        bytes = SIZE_MAX;
    return a->ops->alloc(a->self, bytes, 0, FH_ALLOC_ZEROED);
}

/* The contents are kept up to the smaller size, the alignment too; block NULL allocates; NULL on
 * failure, then the block is as before. */
static inline void *fh_resize(const struct fh_allocator *a, void *block, size_t new_size)
{
    return a->ops->resize(a->self, block, 0, new_size, 0);
}

/* The same for managers that need sizes, and with an alignment for the result (0: keep). */
static inline void *fh_resize_sized(const struct fh_allocator *a, void *block, size_t old_size,
                                    size_t new_size, size_t align)
{
    return a->ops->resize(a->self, block, old_size, new_size, align);
}

static inline void *fh_resize_array(const struct fh_allocator *a, void *block, size_t count,
                                    size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes))
        bytes = SIZE_MAX;
    return a->ops->resize(a->self, block, 0, bytes, 0);
}

/* False where it does not fit there, or the manager can't say; the block is then as before. */
static inline bool fh_resize_in_place(const struct fh_allocator *a, void *block, size_t old_size,
                                      size_t new_size)
{
    return a->ops->resize_in_place != NULL &&
           a->ops->resize_in_place(a->self, block, old_size, new_size);
}

/* NULL is nothing. */
static inline void fh_free(const struct fh_allocator *a, void *block)
{
    a->ops->free(a->self, block);
}

/* `size` and `align` as asked for (the last resize's); the quicker free where a manager can use them. */
static inline void fh_free_sized(const struct fh_allocator *a, void *block, size_t size,
                                 size_t align)
{
    if (a->ops->free_sized != NULL)
        a->ops->free_sized(a->self, block, size, align);
    else
        a->ops->free(a->self, block);
}

/* Bytes that may be written at block; 0 for NULL, and where the manager does not know
 * (FH_ALLOCATOR_NEEDS_SIZE). A pointer that is no live block is misuse: reported where it is seen, then 0. */
static inline size_t fh_allocator_usable_size(const struct fh_allocator *a, const void *block)
{
    return a->ops->usable_size != NULL ? a->ops->usable_size(a->self, block) : 0;
}

/* True when address lies in memory that this manager hands blocks out of. */
static inline bool fh_allocator_owns(const struct fh_allocator *a, const void *address)
{
    return a->ops->owns(a->self, address);
}

/* Frees every block; memory is kept for the next ones. */
static inline void fh_allocator_reset(const struct fh_allocator *a)
{
    a->ops->reset(a->self);
}

/* Gives all memory back to where it came from. */
static inline void fh_allocator_destroy(const struct fh_allocator *a)
{
    a->ops->destroy(a->self);
}

/* out->size must be set. 0 or a negative errno. */
static inline int fh_allocator_measure(const struct fh_allocator *a, struct fh_measure *out)
{
    return a->ops->measure(a->self, out);
}

static inline int fh_allocator_walk(const struct fh_allocator *a,
                                    int (*visit)(void *context, const struct fh_block *block),
                                    void *context)
{
    return a->ops->walk(a->self, visit, context);
}

static inline int fh_allocator_check(const struct fh_allocator *a)
{
    return a->ops->check(a->self);
}

FH_END_DECLS
#endif
