/*
 * Every fh_allocator there is, as subjects of the conformance suite, the property tests and the fuzzer.
 *
 * A kind says how it is opened over a buffer, a parent or a source, and its traits: what a caller may
 * expect of it beyond the rules of allocator.h, and what it is excused from. A subject is one opened
 * allocator with what lies under it: a buffer between two guards, or a parent or source that counts what
 * is taken, checks what comes back, and fails when it is told to.
 *
 * Adding an allocator is a handle in the union, an open function and a row of the table.
 */
#ifndef FH_TESTS_ALLOCATORS_H
#define FH_TESTS_ALLOCATORS_H

#include "base/core/bits.h"
#include "base/core/poison.h"
#include "freehold/allocator.h"
#include "freehold/arena.h"
#include "freehold/buddy.h"
#include "freehold/context.h"
#include "freehold/fit.h"
#include "freehold/fixed.h"
#include "freehold/fragmentation.h"
#include "freehold/half_fit.h"
#include "freehold/heap.h"
#include "freehold/locked.h"
#include "freehold/mesh.h"
#include "freehold/movable.h"
#include "freehold/place.h"
#include "freehold/pool.h"
#include "freehold/scratch.h"
#include "freehold/slab.h"
#include "freehold/source.h"
#include "freehold/tlsf.h"

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SUBJECT_GUARD       ((size_t)4096)
#define SUBJECT_MOST_BUDGET ((size_t)6 << 20)
#define SUBJECT_QUARANTINED 8u
#define PARENT_BLOCKS       2048u
#define GARBAGE             0xa5

enum ground { GROUND_BUFFER, GROUND_PARENT, GROUND_SOURCE, GROUNDS };

static const char *const ground_names[GROUNDS] = {"buffer", "parent", "source"};

#define ON_BUFFER   (1u << GROUND_BUFFER)
#define ON_PARENT   (1u << GROUND_PARENT)
#define ON_SOURCE   (1u << GROUND_SOURCE)
#define ON_ANYTHING (ON_BUFFER | ON_PARENT | ON_SOURCE)

#define SUBJECT_CLAIM(claim, ...)                                                                  \
    do {                                                                                           \
        if (!(claim)) {                                                                            \
            fprintf(stderr, "what lies under the allocator: expected ");                           \
            fprintf(stderr, __VA_ARGS__);                                                          \
            fprintf(stderr, "\n");                                                                 \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

/* What was taken and not given back, and the failures that a test asks for. */
struct counts {
    size_t bytes;
    size_t growths;  /* calls that asked for more */
    size_t failures; /* of them refused */
    size_t fail_at;  /* the growth, counted from now, that is refused; 0: none */
    bool fails_on;   /* and every one after it */
};

static inline bool counts_refuse(struct counts *counts)
{
    counts->growths++;
    if (counts->fail_at == 0 || --counts->fail_at > 0)
        return false;
    counts->fail_at = counts->fails_on ? 1 : 0;
    counts->failures++;
    return true;
}

/* ---- a source that counts ---------------------------------------------------------------------- */

struct counting_source {
    struct fh_source source;
    const struct fh_source *under;
    struct fh_source_memfd memfd; /* `under` of those that alias */
    struct counts counts;
    unsigned char *base;
    size_t reserved;
    unsigned char *low, *high; /* of what was ever committed */
};

static inline void *counting_reserve(void *self, size_t bytes, size_t align)
{
    struct counting_source *counting = self;
    const struct fh_source *under = counting->under;

    SUBJECT_CLAIM(counting->base == NULL, "reserve to be called once");
    SUBJECT_CLAIM(fh_is_pow2(align) && align >= 4096 && bytes % 4096 == 0,
                  "whole pages to be reserved, not %zu bytes aligned to %zu", bytes, align);
    if (counts_refuse(&counting->counts))
        return NULL;
    counting->base = under->reserve(under->self, bytes, align);
    counting->reserved = counting->base != NULL ? bytes : 0;
    return counting->base;
}

static inline void counting_inside(const struct counting_source *counting, const void *addr,
                                   size_t bytes)
{
    uintptr_t offset = (uintptr_t)addr - (uintptr_t)counting->base;
    SUBJECT_CLAIM(offset <= counting->reserved && bytes <= counting->reserved - offset,
                  "%zu bytes at offset %zu to lie inside the %zu reserved", bytes, (size_t)offset,
                  counting->reserved);
    SUBJECT_CLAIM(offset % 4096 == 0 && bytes % 4096 == 0,
                  "whole pages, not %zu bytes at offset %zu", bytes, (size_t)offset);
}

static inline int counting_commit(void *self, void *addr, size_t bytes)
{
    struct counting_source *counting = self;
    const struct fh_source *under = counting->under;

    counting_inside(counting, addr, bytes);
    if (counts_refuse(&counting->counts))
        return -ENOMEM;
    int result = under->commit(under->self, addr, bytes);
    if (result != 0)
        return result;
    counting->counts.bytes += bytes;
    if (counting->low == NULL || (unsigned char *)addr < counting->low)
        counting->low = addr;
    if ((unsigned char *)addr + bytes > counting->high)
        counting->high = (unsigned char *)addr + bytes;
    return 0;
}

static inline int counting_purge(void *self, void *addr, size_t bytes)
{
    struct counting_source *counting = self;
    const struct fh_source *under = counting->under;

    counting_inside(counting, addr, bytes);
    return under->purge(under->self, addr, bytes);
}

static inline void counting_release(void *self, void *addr, size_t bytes)
{
    struct counting_source *counting = self;
    const struct fh_source *under = counting->under;

    SUBJECT_CLAIM(addr == counting->base && bytes == counting->reserved,
                  "the reserved range to be released as a whole");
    /* Whoever gets these addresses next must not find them poisoned; all of a window would be too much. */
    fh_unpoison(counting->low, (size_t)(counting->high - counting->low));
    under->release(under->self, addr, bytes);
    counting->base = counting->low = counting->high = NULL;
    counting->reserved = 0;
    counting->counts.bytes = 0;
}

static inline int counting_alias(void *self, void *addr, const void *onto, size_t bytes)
{
    struct counting_source *counting = self;
    const struct fh_source *under = counting->under;

    counting_inside(counting, addr, bytes);
    counting_inside(counting, onto, bytes);
    if (counts_refuse(&counting->counts))
        return -ENOMEM;
    return under->alias(under->self, addr, onto, bytes);
}

static inline const struct fh_source *counting_source_init(struct counting_source *counting,
                                                           bool aliases)
{
    *counting = (struct counting_source){
        .source = {.size = sizeof counting->source,
                   .self = counting,
                   .reserve = counting_reserve,
                   .commit = counting_commit,
                   .purge = counting_purge,
                   .release = counting_release},
    };
    counting->under = aliases ? fh_source_memfd_init(&counting->memfd, true) : fh_source_system();
    counting->source.capabilities = counting->under->capabilities;
    counting->source.alias = aliases ? counting_alias : NULL;
    if (!aliases)
        counting->source.capabilities &= ~(unsigned)FH_SOURCE_ALIAS;
    return &counting->source;
}

/* ---- a parent that counts ---------------------------------------------------------------------- */

struct parent_block {
    void *address;
    size_t bytes;
    size_t align;
};

struct counting_parent {
    struct counts counts;
    size_t live;
    struct parent_block blocks[PARENT_BLOCKS];
};

static inline void *parent_alloc(void *self, size_t size, size_t align, unsigned flags)
{
    struct counting_parent *parent = self;
    void *address = NULL;

    if (counts_refuse(&parent->counts) || size > SUBJECT_MOST_BUDGET * 4) {
        errno = ENOMEM;
        return NULL;
    }
    SUBJECT_CLAIM(parent->live < PARENT_BLOCKS, "fewer than %u blocks of the parent to be held",
                  PARENT_BLOCKS);
    SUBJECT_CLAIM(align == 0 || fh_is_pow2(align), "a power of two as alignment, not %zu", align);
    if (posix_memalign(&address, fh_max(align, FH_ALIGN_DEFAULT), fh_max(size, 1)) != 0) {
        errno = ENOMEM;
        return NULL;
    }
    memset(address, flags & FH_ALLOC_ZEROED ? 0 : GARBAGE, size);
    parent->blocks[parent->live++] = (struct parent_block){address, size, align};
    parent->counts.bytes += size;
    return address;
}

static inline void parent_drop(struct counting_parent *parent, void *block, const size_t *size)
{
    size_t i = 0;

    if (block == NULL)
        return;
    while (i < parent->live && parent->blocks[i].address != block)
        i++;
    SUBJECT_CLAIM(i < parent->live, "%p, which is given back, to be a block of the parent", block);
    SUBJECT_CLAIM(size == NULL || *size == parent->blocks[i].bytes,
                  "%zu bytes to be given back as they were taken, not %zu", parent->blocks[i].bytes,
                  *size);
    parent->counts.bytes -= parent->blocks[i].bytes;
    fh_unpoison(block, parent->blocks[i].bytes);
    free(block);
    parent->blocks[i] = parent->blocks[--parent->live];
}

static inline void parent_free(void *self, void *block)
{
    parent_drop(self, block, NULL);
}

static inline void parent_free_sized(void *self, void *block, size_t size, size_t align)
{
    (void)align;
    parent_drop(self, block, &size);
}

static inline void *parent_resize(void *self, void *block, size_t old_size, size_t new_size,
                                  size_t align)
{
    struct counting_parent *parent = self;
    size_t i = 0;

    while (block != NULL && i < parent->live && parent->blocks[i].address != block)
        i++;
    void *moved = parent_alloc(self, new_size, align, 0);
    if (moved != NULL && block != NULL) {
        memcpy(moved, block, fh_min(old_size != 0 ? old_size : parent->blocks[i].bytes, new_size));
        parent_free(self, block);
    }
    return moved;
}

static inline bool parent_owns(void *self, const void *address)
{
    struct counting_parent *parent = self;
    for (size_t i = 0; i < parent->live; i++)
        if ((uintptr_t)address - (uintptr_t)parent->blocks[i].address < parent->blocks[i].bytes)
            return true;
    return false;
}

static inline struct fh_allocator counting_parent_init(struct counting_parent *parent)
{
    static const struct fh_allocator_ops ops = {
        .size = sizeof ops,
        .name = "counting parent",
        .capabilities = FH_ALLOCATOR_MOVES,
        .alloc = parent_alloc,
        .resize = parent_resize,
        .free = parent_free,
        .free_sized = parent_free_sized,
        .owns = parent_owns,
    };
    parent->counts = (struct counts){0};
    parent->live = 0;
    return (struct fh_allocator){&ops, parent};
}

/* ---- kinds and subjects ------------------------------------------------------------------------ */

enum trait {
    TRAIT_SHARED = 1 << 0,         /* has blocks beside the subject's; no reset, no destroy */
    TRAIT_RANGES = 1 << 1,         /* walk shows ranges of blocks as one: it does not know each */
    TRAIT_QUARANTINES = 1 << 2,    /* freed blocks may be kept away from reuse, and shown as live */
    TRAIT_BLIND_INVALID = 1 << 3,  /* a pointer from elsewhere may go unseen */
    TRAIT_BLIND_INTERIOR = 1 << 4, /* so may one into a block */
    TRAIT_BLIND_SIZE = 1 << 5,     /* so may a wrong size */
    TRAIT_FREE_UNLISTED = 1 << 6,  /* free_bytes of measure also has what walk does not list */
    TRAIT_NEVER_ASKS = 1 << 7,     /* has no exhausted callback */
    TRAIT_LIMITED = 1 << 8,        /* its budget is kept although nothing under it is short */
    TRAIT_SLOW_SURVEY = 1 << 9,    /* walk and check are not for every step */
    TRAIT_PROCESS = 1 << 10,       /* takes the process's memory, whatever it is opened over */
    TRAIT_ALIASES = 1 << 11,       /* its source must be able to alias */
};

struct subject;

struct subject_kind {
    const char *name;
    /* 0 or a negative errno; fills subject->allocator. */
    int (*open)(struct subject *subject, const struct fh_place_options *place);
    /* Of relocatable ones over a buffer: the part of it that is theirs, and being told that it lies at
     * `memory` now. */
    unsigned char *(*range)(const struct subject *subject, size_t *bytes);
    int (*attach)(struct subject *subject, void *memory, size_t bytes);
    /* What a program calls at its leisure: trims, reaps, compacts, meshes. Blocks stay where they are. */
    void (*tend)(struct subject *subject);
    unsigned grounds;     /* ON_* */
    unsigned traits;      /* enum trait */
    size_t budget;        /* bytes of buffer or capacity */
    size_t sure;          /* requests that fit while live bytes stay below this must succeed */
    size_t largest;       /* size of a request that an empty subject must meet */
    size_t largest_align; /* alignments that must be met; beyond them it may say no */
    size_t kept_align;    /* by a resize; 0: whatever was given */
};

struct subject {
    const struct subject_kind *kind;
    enum ground ground;
    struct fh_allocator allocator;
    union {
        struct fh_heap *heap;
        struct fh_fixed fixed;
        struct fh_arena arena;
        struct fh_pool pool;
        struct fh_slab slab;
        struct fh_buddy buddy;
        struct fh_movable movable;
        struct fh_mesh mesh;
        struct fh_scratch scratch;
        struct fh_tags tags; /* the beginning of the three that follow */
        struct fh_fit fit;
        struct fh_tlsf tlsf;
        struct fh_half_fit half_fit;
    } as;
    struct fh_account account;
    struct fh_context *context;
    struct fh_locked locked;
    struct fh_source_buffer buffer_source;
    void *quarantined[SUBJECT_QUARANTINED];
    unsigned char *memory; /* of GROUND_BUFFER, between two guards */
    size_t bytes;
    struct counting_source source;
    struct counting_parent parent;
};

/* ---- the heap ---------------------------------------------------------------------------------- */

static inline bool subject_quarantine(void *context, void *block, size_t usable)
{
    struct subject *subject = context;

    (void)usable;
    for (size_t i = 0; i < SUBJECT_QUARANTINED; i++) {
        if (subject->quarantined[i] == NULL && (uintptr_t)block / 16 % 3 != 0) {
            subject->quarantined[i] = block;
            return true;
        }
    }
    return false;
}

static inline int open_heap_with(struct subject *subject, const struct fh_place_options *place,
                                 struct fh_heap_options options)
{
    options.size = sizeof options;
    if (place->memory != NULL)
        options.source =
            fh_source_buffer_init(&subject->buffer_source, place->memory, place->bytes);
    else if (!(subject->kind->traits & TRAIT_PROCESS))
        options.source = place->source;
    if (subject->kind->traits & TRAIT_LIMITED)
        options.limit = place->capacity;
    subject->as.heap = fh_heap_create(&options);
    if (subject->as.heap == NULL)
        return -errno;
    subject->allocator = fh_heap_allocator(subject->as.heap);
    return 0;
}

static inline int open_heap(struct subject *subject, const struct fh_place_options *place)
{
    return open_heap_with(subject, place, (struct fh_heap_options){.name = "subject"});
}

static inline int open_single_thread_heap(struct subject *subject,
                                          const struct fh_place_options *place)
{
    return open_heap_with(subject, place, (struct fh_heap_options){.is_single_thread = true});
}

static inline int open_randomised_heap(struct subject *subject,
                                       const struct fh_place_options *place)
{
    return open_heap_with(subject, place,
                          (struct fh_heap_options){.randomise_slots = true, .canary_bytes = 16});
}

static inline int open_quarantining_heap(struct subject *subject,
                                         const struct fh_place_options *place)
{
    return open_heap_with(subject, place,
                          (struct fh_heap_options){.quarantine = subject_quarantine,
                                                   .quarantine_context = subject,
                                                   .canary_bytes = 5});
}

/* The direct calls, through a table of our own: of one heap, or (self NULL) of the calling thread. */

static inline void *direct_alloc(void *self, size_t size, size_t align, unsigned flags)
{
    size_t half = size % 2 == 0 ? 2 : 1;

    if (flags & FH_ALLOC_NO_GROWTH || align > FH_ALIGN_MAX ||
        (flags & FH_ALLOC_ZEROED && align > FH_ALIGN_DEFAULT))
        return fh_heap_allocator(self != NULL ? self : fh_heap_mine())
            .ops->alloc(self != NULL ? self : fh_heap_mine(), size, align, flags);
    if (flags & FH_ALLOC_ZEROED)
        return self != NULL ? fh_heap_calloc(self, half, size / half)
                            : fh_calloc(half, size / half);
    if (align != 0)
        return self != NULL ? fh_heap_aligned_alloc(self, align, size)
                            : fh_aligned_alloc(align, size);
    return self != NULL ? fh_heap_alloc(self, size) : fh_malloc(size);
}

static inline void *direct_resize(void *self, void *block, size_t old_size, size_t new_size,
                                  size_t align)
{
    (void)old_size;
    if (align > FH_ALIGN_DEFAULT) {
        struct fh_heap *heap = self != NULL ? self : fh_heap_mine();
        struct fh_allocator a = fh_heap_allocator(heap);
        return fh_resize_sized(&a, block, 0, new_size, align);
    }
    return self != NULL ? fh_heap_realloc(self, block, new_size) : fh_realloc(block, new_size);
}

static inline bool direct_resize_in_place(void *self, void *block, size_t old_size, size_t new_size)
{
    struct fh_heap *heap = self != NULL ? self : fh_heap_mine();
    struct fh_allocator a = fh_heap_allocator(heap);
    return fh_resize_in_place(&a, block, old_size, new_size);
}

static inline void direct_free(void *self, void *block)
{
    if (self != NULL && (uintptr_t)block / 16 % 2 == 0)
        fh_heap_free(self, block);
    else
        fh_free_any(block);
}

static inline size_t direct_usable_size(void *self, const void *block)
{
    (void)self;
    return fh_usable_size(block);
}

/* A thread's heap has runs that no heap owns (large blocks), so every address of ours is taken as owned. */
static inline bool direct_owns(void *self, const void *address)
{
    return self == NULL || fh_heap_owns(self, address);
}

static inline void direct_reset(void *self)
{
    fh_heap_reset(self);
}

static inline void direct_destroy(void *self)
{
    fh_heap_destroy(self);
}

static inline int direct_measure(void *self, struct fh_measure *out)
{
    return fh_heap_measure(self, out);
}

static inline int direct_walk(void *self, int (*visit)(void *, const struct fh_block *),
                              void *context)
{
    return fh_heap_walk(self, visit, context);
}

static inline int direct_check(void *self)
{
    return fh_heap_check(self);
}

static inline int open_direct(struct subject *subject, struct fh_heap *heap)
{
    static const struct fh_allocator_ops ops = {
        .size = sizeof ops,
        .name = "heap by direct calls",
        .capabilities = FH_ALLOCATOR_THREAD_SAFE | FH_ALLOCATOR_MOVES,
        .alloc = direct_alloc,
        .resize_in_place = direct_resize_in_place,
        .resize = direct_resize,
        .free = direct_free,
        .usable_size = direct_usable_size,
        .owns = direct_owns,
        .reset = direct_reset,
        .destroy = direct_destroy,
        .measure = direct_measure,
        .walk = direct_walk,
        .check = direct_check,
    };
    subject->allocator = (struct fh_allocator){&ops, heap};
    return 0;
}

static inline int open_direct_heap(struct subject *subject, const struct fh_place_options *place)
{
    int error = open_heap(subject, place);
    return error != 0 ? error : open_direct(subject, subject->as.heap);
}

static inline int open_thread_heap(struct subject *subject, const struct fh_place_options *place)
{
    (void)place;
    return fh_heap_mine() == NULL ? -errno : open_direct(subject, NULL);
}

/* ---- fixed and arena --------------------------------------------------------------------------- */

static inline int open_fixed(struct subject *subject, const struct fh_place_options *place)
{
    subject->allocator = fh_fixed_allocator(&subject->as.fixed);
    return fh_fixed_init(&subject->as.fixed, &(struct fh_fixed_options){.place = *place});
}

static inline unsigned char *range_of_fixed(const struct subject *subject, size_t *bytes)
{
    *bytes = subject->as.fixed.bytes + sizeof *subject->as.fixed.state;
    return (unsigned char *)subject->as.fixed.state;
}

static inline int attach_fixed(struct subject *subject, void *memory, size_t bytes)
{
    return fh_fixed_attach(&subject->as.fixed, memory, bytes);
}

static inline int open_arena(struct subject *subject, const struct fh_place_options *place)
{
    int error = fh_arena_init(&subject->as.arena, &(struct fh_arena_options){.place = *place});
    subject->allocator = fh_arena_allocator(&subject->as.arena); /* its table is the kind's */
    return error;
}

static inline void tend_arena(struct subject *subject)
{
    fh_arena_trim(&subject->as.arena, 4096);
}

static inline unsigned char *range_of_arena(const struct subject *subject, size_t *bytes)
{
    *bytes = subject->as.arena.ground.bytes;
    return subject->as.arena.ground.base;
}

static inline int attach_arena(struct subject *subject, void *memory, size_t bytes)
{
    return fh_arena_attach(&subject->as.arena, memory, bytes);
}

/* ---- buddy ------------------------------------------------------------------------------------- */

static inline int open_buddy_with(struct subject *subject, struct fh_buddy_options options)
{
    subject->allocator = (struct fh_allocator){0};
    int error = fh_buddy_init(&subject->as.buddy, &options);
    if (error == 0)
        subject->allocator = fh_buddy_allocator(&subject->as.buddy);
    return error;
}

static inline int open_buddy(struct subject *subject, const struct fh_place_options *place)
{
    return open_buddy_with(subject, (struct fh_buddy_options){.place = *place});
}

static inline int open_shared_buddy(struct subject *subject, const struct fh_place_options *place)
{
    return open_buddy_with(subject, (struct fh_buddy_options){.place = *place, .is_shared = true});
}

static inline int open_buddy_of_pages(struct subject *subject, const struct fh_place_options *place)
{
    return open_buddy_with(subject, (struct fh_buddy_options){.place = *place, .unit = 4096});
}

static inline unsigned char *whole_range(const struct subject *subject, size_t *bytes)
{
    *bytes = subject->bytes;
    return subject->memory;
}

static inline int attach_buddy(struct subject *subject, void *memory, size_t bytes)
{
    return fh_buddy_attach(&subject->as.buddy, memory, bytes);
}

/* ---- movable, through addresses ---------------------------------------------------------------- */

static inline int open_movable(struct subject *subject, const struct fh_place_options *place)
{
    struct fh_movable_options options = {.place = *place};
    int error = fh_movable_init(&subject->as.movable, &options);
    if (error == 0)
        subject->allocator = fh_movable_allocator(&subject->as.movable);
    return error;
}

static inline void tend_movable(struct subject *subject)
{
    fh_compact_step(&subject->as.movable, (size_t)64 << 10, 0);
}

static inline unsigned char *range_of_movable(const struct subject *subject, size_t *bytes)
{
    *bytes = subject->as.movable.ground.bytes;
    return subject->as.movable.base;
}

static inline int attach_movable(struct subject *subject, void *memory, size_t bytes)
{
    return fh_movable_attach(&subject->as.movable, memory, bytes);
}

/* ---- pool -------------------------------------------------------------------------------------- */

#define POOL_SIZE ((size_t)240)

static inline int open_pool(struct subject *subject, const struct fh_place_options *place)
{
    int error = fh_pool_init(&subject->as.pool,
                             &(struct fh_pool_options){.place = *place, .size = POOL_SIZE});
    subject->allocator = fh_pool_allocator(&subject->as.pool); /* its table is the kind's */
    return error;
}

static inline void tend_pool(struct subject *subject)
{
    fh_pool_trim(&subject->as.pool);
}

static inline unsigned char *range_of_pool(const struct subject *subject, size_t *bytes)
{
    *bytes = subject->as.pool.ground.bytes;
    return subject->as.pool.ground.base;
}

static inline int attach_pool(struct subject *subject, void *memory, size_t bytes)
{
    return fh_pool_attach(&subject->as.pool, memory, bytes);
}

static inline int open_slab(struct subject *subject, const struct fh_place_options *place)
{
    int error = fh_slab_init(&subject->as.slab,
                             &(struct fh_slab_options){.place = *place, .object_size = POOL_SIZE});
    if (error == 0)
        subject->allocator = fh_slab_allocator(&subject->as.slab);
    return error;
}

static inline void tend_slab(struct subject *subject)
{
    fh_slab_reap(&subject->as.slab);
}

/* ---- mesh -------------------------------------------------------------------------------------- */

static inline int open_mesh(struct subject *subject, const struct fh_place_options *place)
{
    int error =
        fh_mesh_init(&subject->as.mesh, &(struct fh_mesh_options){.place = *place, .seed = 1});
    if (error == 0)
        subject->allocator = fh_mesh_allocator(&subject->as.mesh);
    return error;
}

static inline void tend_mesh(struct subject *subject)
{
    while (fh_mesh_step(&subject->as.mesh, 0))
        ;
}

/* ---- boundary tags ----------------------------------------------------------------------------- */

static inline int open_fit(struct subject *subject, const struct fh_place_options *place,
                           enum fh_fit_policy policy)
{
    int error =
        fh_fit_init(&subject->as.fit, &(struct fh_fit_options){.place = *place, .policy = policy});
    if (error == 0) /* its table is the policy's */
        subject->allocator = fh_fit_allocator(&subject->as.fit);
    return error;
}

static inline int open_first_fit(struct subject *subject, const struct fh_place_options *place)
{
    return open_fit(subject, place, FH_FIT_FIRST);
}

static inline int open_next_fit(struct subject *subject, const struct fh_place_options *place)
{
    return open_fit(subject, place, FH_FIT_NEXT);
}

static inline int open_best_fit(struct subject *subject, const struct fh_place_options *place)
{
    return open_fit(subject, place, FH_FIT_BEST);
}

static inline int open_worst_fit(struct subject *subject, const struct fh_place_options *place)
{
    return open_fit(subject, place, FH_FIT_WORST);
}

static inline int open_tlsf(struct subject *subject, const struct fh_place_options *place)
{
    subject->allocator = fh_tlsf_allocator(&subject->as.tlsf);
    return fh_tlsf_init(&subject->as.tlsf, &(struct fh_tlsf_options){.place = *place});
}

static inline int open_half_fit(struct subject *subject, const struct fh_place_options *place)
{
    subject->allocator = fh_half_fit_allocator(&subject->as.half_fit);
    return fh_half_fit_init(&subject->as.half_fit, &(struct fh_half_fit_options){.place = *place});
}

static inline unsigned char *range_of_tags(const struct subject *subject, size_t *bytes)
{
    *bytes = subject->as.tags.ground.bytes;
    return subject->as.tags.ground.base;
}

static inline int attach_fit(struct subject *subject, void *memory, size_t bytes)
{
    return fh_fit_attach(&subject->as.fit, memory, bytes);
}

static inline int attach_tlsf(struct subject *subject, void *memory, size_t bytes)
{
    return fh_tlsf_attach(&subject->as.tlsf, memory, bytes);
}

static inline int attach_half_fit(struct subject *subject, void *memory, size_t bytes)
{
    return fh_half_fit_attach(&subject->as.half_fit, memory, bytes);
}

/* ---- the account, around TLSF ------------------------------------------------------------------ */

static inline int open_account(struct subject *subject, const struct fh_place_options *place)
{
    int error = open_tlsf(subject, place);
    if (error != 0)
        return error;
    error = fh_account_init(&subject->account,
                            &(struct fh_account_options){.inner = subject->allocator});
    if (error != 0)
        fh_allocator_destroy(&subject->allocator);
    else
        subject->allocator = fh_account_allocator(&subject->account);
    return error;
}

/* ---- contexts and scratch arenas --------------------------------------------------------------- */

static inline int open_context_with(struct subject *subject,
                                    const struct fh_context_options *options)
{
    subject->context = fh_context_create(NULL, options);
    if (subject->context == NULL)
        return -errno;
    subject->allocator = fh_context_allocator(subject->context);
    return 0;
}

/* Its handle and its chunks come from the parent. */
static inline int open_context(struct subject *subject, const struct fh_place_options *place)
{
    return open_context_with(subject, &(struct fh_context_options){.memory = place->parent,
                                                                   .limit = place->capacity,
                                                                   .chunk_max = 4096});
}

/* With an allocator of its own. */
static inline int open_context_of_tlsf(struct subject *subject,
                                       const struct fh_place_options *place)
{
    int error = open_tlsf(subject, place);
    if (error != 0)
        return error;
    struct fh_allocator tlsf = subject->allocator;
    error = open_context_with(subject, &(struct fh_context_options){.allocator = &tlsf});
    if (error != 0)
        fh_allocator_destroy(&tlsf);
    return error;
}

/* The calling thread's, so there is one at a time; the table is the arena's but for the end. */
static struct fh_scratch *subject_scratch;

static inline void reset_scratch(void *self)
{
    fh_arena_rewind(self, subject_scratch->mark);
}

static inline void destroy_scratch(void *self)
{
    (void)self;
    fh_scratch_end(subject_scratch);
}

static inline int open_scratch(struct subject *subject, const struct fh_place_options *place)
{
    static struct fh_allocator_ops ops;

    (void)place;
    subject->as.scratch = fh_scratch_begin(NULL);
    if (subject->as.scratch.arena == NULL)
        return -errno;
    subject_scratch = &subject->as.scratch;
    subject->allocator = fh_arena_allocator(subject->as.scratch.arena);
    ops = *subject->allocator.ops;
    ops.name = "scratch";
    ops.reset = reset_scratch;
    ops.destroy = destroy_scratch;
    subject->allocator.ops = &ops;
    return 0;
}

static inline void tend_scratch(struct subject *subject)
{
    (void)subject;
    fh_scratch_trim();
}

/* ---- locks around others ----------------------------------------------------------------------- */

static inline int open_locked(struct subject *subject, int error, enum fh_locked_kind kind)
{
    if (error != 0)
        return error;
    error = fh_locked_init(&subject->locked,
                           &(struct fh_locked_options){.inner = subject->allocator, .kind = kind});
    if (error != 0)
        fh_allocator_destroy(&subject->allocator);
    else
        subject->allocator = fh_locked_allocator(&subject->locked);
    return error;
}

static inline int open_locked_tlsf(struct subject *subject, const struct fh_place_options *place)
{
    return open_locked(subject, open_tlsf(subject, place), FH_LOCKED_MUTEX);
}

static inline int open_magazines_fit(struct subject *subject, const struct fh_place_options *place)
{
    return open_locked(subject, open_best_fit(subject, place), FH_LOCKED_MAGAZINES);
}

static inline int open_magazines_buddy(struct subject *subject,
                                       const struct fh_place_options *place)
{
    return open_locked(subject, open_buddy(subject, place), FH_LOCKED_MAGAZINES);
}

/* ---- the table --------------------------------------------------------------------------------- */

/* A heap's smallest unit is a granule of 64 KiB for each class in use, so its budget is large and no
 * request is sure of its place in a limited one. */
#define HEAP_KIND                                                                                  \
    .budget = SUBJECT_MOST_BUDGET, .largest = (size_t)256 << 10, .largest_align = (size_t)64 << 10

/* Managers of one range that give blocks back: what a sixteenth of the budget lives in has room whatever the
 * order of calls was (Robson's bound for these sizes is below seven). */
#define RANGE_KIND                                                                                 \
    .budget = (size_t)1 << 20, .sure = (size_t)64 << 10, .largest = (size_t)32 << 10,              \
    .largest_align = 4096

/* Those that only go forward know no blocks, only how far they are. */
#define BUMP_TRAITS (TRAIT_RANGES | TRAIT_BLIND_INTERIOR | TRAIT_BLIND_SIZE)
#define BUMP_KIND                                                                                  \
    .budget = (size_t)2 << 20, .sure = (size_t)1 << 20, .largest = (size_t)64 << 10,               \
    .largest_align = 4096

/* A free is written down and looked at later, and surveys empty the magazines. */
#define MAGAZINE_TRAITS                                                                            \
    (TRAIT_BLIND_INVALID | TRAIT_BLIND_INTERIOR | TRAIT_BLIND_SIZE | TRAIT_SLOW_SURVEY)

#define HEAP_TRAITS (TRAIT_NEVER_ASKS | TRAIT_SLOW_SURVEY)

static const struct subject_kind subject_kinds[] = {
    {"heap", open_heap, .grounds = ON_BUFFER | ON_SOURCE, .traits = HEAP_TRAITS, HEAP_KIND},
    {"heap-process", open_heap, .grounds = ON_SOURCE, .traits = HEAP_TRAITS | TRAIT_PROCESS,
     HEAP_KIND},
    {"heap-limited", open_heap, .grounds = ON_SOURCE,
     .traits = HEAP_TRAITS | TRAIT_PROCESS | TRAIT_LIMITED, HEAP_KIND},
    {"heap-single-thread", open_single_thread_heap, .grounds = ON_SOURCE,
     .traits = HEAP_TRAITS | TRAIT_PROCESS, HEAP_KIND},
    {"heap-randomised", open_randomised_heap, .grounds = ON_SOURCE, .traits = HEAP_TRAITS,
     HEAP_KIND},
    {"heap-quarantining", open_quarantining_heap, .grounds = ON_SOURCE,
     .traits = HEAP_TRAITS | TRAIT_PROCESS | TRAIT_QUARANTINES, HEAP_KIND},
    {"heap-direct", open_direct_heap, .grounds = ON_SOURCE, .traits = HEAP_TRAITS | TRAIT_PROCESS,
     .kept_align = FH_ALIGN_DEFAULT, HEAP_KIND},
    {"heap-thread", open_thread_heap, .grounds = ON_SOURCE,
     .traits = HEAP_TRAITS | TRAIT_PROCESS | TRAIT_SHARED, .kept_align = FH_ALIGN_DEFAULT,
     HEAP_KIND},
    {"fixed", open_fixed, range_of_fixed, attach_fixed, .grounds = ON_BUFFER, .traits = BUMP_TRAITS,
     BUMP_KIND},
    {"arena", open_arena, range_of_arena, attach_arena, tend_arena, .grounds = ON_ANYTHING,
     .traits = BUMP_TRAITS, BUMP_KIND},
    {"scratch", open_scratch, .tend = tend_scratch, .grounds = ON_SOURCE,
     .traits = BUMP_TRAITS | TRAIT_PROCESS | TRAIT_NEVER_ASKS, .budget = (size_t)2 << 20,
     .largest = (size_t)64 << 10, .largest_align = 4096},
    {"context", open_context, .grounds = ON_PARENT,
     .traits = BUMP_TRAITS | TRAIT_NEVER_ASKS | TRAIT_LIMITED, BUMP_KIND},
    {"context-tlsf", open_context_of_tlsf, .grounds = ON_ANYTHING, RANGE_KIND},
    {"pool", open_pool, range_of_pool, attach_pool, tend_pool, .grounds = ON_ANYTHING,
     .budget = (size_t)256 << 10, .sure = (size_t)64 << 10, .largest = POOL_SIZE,
     .largest_align = FH_ALIGN_DEFAULT},
    {"slab", open_slab, .tend = tend_slab, .grounds = ON_BUFFER | ON_SOURCE,
     .budget = (size_t)768 << 10, .sure = (size_t)64 << 10, .largest = POOL_SIZE,
     .largest_align = FH_ALIGN_DEFAULT},
    {"slab", open_slab, .grounds = ON_ANYTHING, .budget = (size_t)768 << 10,
     .sure = (size_t)64 << 10, .largest = POOL_SIZE, .largest_align = FH_ALIGN_DEFAULT},
    {"first-fit", open_first_fit, range_of_tags, attach_fit, .grounds = ON_ANYTHING, RANGE_KIND},
    {"next-fit", open_next_fit, range_of_tags, attach_fit, .grounds = ON_ANYTHING, RANGE_KIND},
    {"best-fit", open_best_fit, range_of_tags, attach_fit, .grounds = ON_ANYTHING, RANGE_KIND},
    {"worst-fit", open_worst_fit, range_of_tags, attach_fit, .grounds = ON_ANYTHING, RANGE_KIND},
    {"tlsf", open_tlsf, range_of_tags, attach_tlsf, .grounds = ON_ANYTHING, RANGE_KIND},
    {"half-fit", open_half_fit, range_of_tags, attach_half_fit, .grounds = ON_ANYTHING, RANGE_KIND},
    {"movable", open_movable, range_of_movable, attach_movable, tend_movable,
     .grounds = ON_ANYTHING, .budget = (size_t)2 << 20, .largest = (size_t)32 << 10,
     .largest_align = 4096},
    {"mesh", open_mesh, .tend = tend_mesh, .grounds = ON_SOURCE,
     .traits = TRAIT_ALIASES | TRAIT_LIMITED, .budget = (size_t)4 << 20,
     .largest = (size_t)32 << 10, .largest_align = 4096},
    {"account", open_account, .grounds = ON_ANYTHING, RANGE_KIND},
    {"buddy", open_buddy, whole_range, attach_buddy, .grounds = ON_ANYTHING, RANGE_KIND},
    {"buddy-pages", open_buddy_of_pages, whole_range, attach_buddy, .grounds = ON_ANYTHING,
     .budget = (size_t)4 << 20, .sure = (size_t)256 << 10, .largest = (size_t)64 << 10,
     .largest_align = 4096},
    {"buddy-shared", open_shared_buddy, whole_range, attach_buddy, .grounds = ON_ANYTHING,
     RANGE_KIND},
    {"locked-tlsf", open_locked_tlsf, .grounds = ON_ANYTHING, RANGE_KIND},
    {"magazines-fit", open_magazines_fit, .grounds = ON_ANYTHING, .traits = MAGAZINE_TRAITS,
     RANGE_KIND},
    {"magazines-buddy", open_magazines_buddy, .grounds = ON_ANYTHING, .traits = MAGAZINE_TRAITS,
     RANGE_KIND},
};

#define SUBJECT_KINDS (sizeof subject_kinds / sizeof subject_kinds[0])

static inline bool subject_has(const struct subject *subject, unsigned traits)
{
    return (subject->kind->traits & traits) != 0;
}

/* Freed blocks that it keeps as live. */
static inline size_t subject_kept(const struct subject *subject)
{
    size_t kept = 0;
    for (size_t i = 0; i < SUBJECT_QUARANTINED; i++)
        kept += subject->quarantined[i] != NULL;
    return kept;
}

/* The counts of what lies under it; NULL over a buffer. */
static inline struct counts *subject_counts(struct subject *subject)
{
    return subject->ground == GROUND_PARENT   ? &subject->parent.counts
           : subject->ground == GROUND_SOURCE ? &subject->source.counts
                                              : NULL;
}

/* `arena` has subject_arena_bytes() bytes; `offset` makes the buffer begin that far behind an alignment
 * boundary. 0 or a negative errno. */
static inline size_t subject_arena_bytes(void)
{
    return SUBJECT_MOST_BUDGET + 2 * SUBJECT_GUARD;
}

/* Opens `kind` as `place` says, which gets what lies under it and the budget here. */
static inline int subject_open(struct subject *subject, const struct subject_kind *kind,
                               enum ground ground, unsigned char *arena, size_t offset,
                               struct fh_place_options place)
{
    struct fh_allocator parent = counting_parent_init(&subject->parent);
    const struct fh_source *source =
        counting_source_init(&subject->source, kind->traits & TRAIT_ALIASES);

    subject->kind = kind;
    subject->ground = ground;
    subject->bytes = place.capacity != 0 ? place.capacity : kind->budget;
    memset(subject->quarantined, 0, sizeof subject->quarantined);
    place.capacity = subject->bytes;
    if (ground == GROUND_BUFFER) {
        fh_unpoison(arena, subject->bytes + 2 * SUBJECT_GUARD);
        memset(arena, GARBAGE, subject->bytes + 2 * SUBJECT_GUARD);
        subject->memory = arena + SUBJECT_GUARD + offset % SUBJECT_GUARD;
        subject->bytes -= offset % SUBJECT_GUARD;
        place.memory = subject->memory;
        place.bytes = subject->bytes;
        place.capacity = 0;
    } else if (ground == GROUND_PARENT) {
        place.parent = &parent;
    } else {
        place.source = source;
    }
    return kind->open(subject, &place);
}

/* Nothing outside the buffer was written to. */
static inline void subject_check_guards(const struct subject *subject)
{
    if (subject->ground != GROUND_BUFFER)
        return;
    for (size_t i = 1; i <= 256; i++)
        SUBJECT_CLAIM(subject->memory[-(ptrdiff_t)i] == GARBAGE &&
                          subject->memory[subject->bytes + i - 1] == GARBAGE,
                      "nothing to be written outside the buffer, %zu bytes from its end", i);
}

/* After destroy: all was given back. */
static inline void subject_check_returned(struct subject *subject)
{
    subject_check_guards(subject);
    SUBJECT_CLAIM(subject->parent.live == 0, "every block of the parent to be freed, %zu are not",
                  subject->parent.live);
    SUBJECT_CLAIM(subject->source.base == NULL, "the source's range to be released");
}

static inline const struct subject_kind *subject_kind_named(const char *name)
{
    for (size_t i = 0; i < SUBJECT_KINDS; i++)
        if (strcmp(subject_kinds[i].name, name) == 0)
            return &subject_kinds[i];
    return NULL;
}

#endif
