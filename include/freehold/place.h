/*
 * place.h: where an explicit allocator's memory comes from. All of them (arena.h, pool.h, slab.h, fit.h,
 * buddy.h, tlsf.h, …) are opened with these options, so that any of them runs on a static buffer, on
 * any source, or inside a block of any other allocator.
 *
 *     static _Alignas(16) unsigned char memory[64 << 10];
 *     struct fh_tlsf tlsf;
 *     fh_tlsf_init(&tlsf, &(struct fh_tlsf_options){.place = FH_PLACE_BUFFER(memory, sizeof memory)});
 *     void *block = fh_tlsf_alloc(&tlsf, 100);
 *
 * The handle (struct fh_tlsf) is the caller's, local to the process and must stay where it is while it is
 * used. What the handle knows beyond addresses and callbacks lies in the memory itself, as offsets:
 * where FH_ALLOCATOR_RELOCATABLE is set, the range may be copied or mapped elsewhere and attached again
 * (fh_tlsf_attach).
 */
#ifndef FREEHOLD_PLACE_H
#define FREEHOLD_PLACE_H

#include "freehold/allocator.h"
#include "freehold/source.h"
#include "freehold/types.h"

FH_BEGIN_DECLS

/* The first of memory, parent, source that is set is used; none: the system's memory
 * (fh_source_system), which a freestanding build does not have: there it is EINVAL. */
struct fh_place_options {
    void *memory; /* a buffer of the caller, of `bytes`; what aligning it costs is lost */
    size_t bytes;
    const struct fh_allocator *parent; /* copied; must outlive the manager */
    const struct fh_source *source;    /* must outlive the manager */
    /* The most bytes to take from parent or source. 0: a FIXED source's capacity; of another source 1 GiB
     * of address space (memory is committed as it is needed) or as much as there is; of a parent, no
     * limit for managers that take chunks, EINVAL for those that need one contiguous range. */
    size_t capacity;
    /* Asked when there is no memory, before NULL is returned: true says that something was freed, and
     * the request is tried once more. May call the manager's free. */
    bool (*exhausted)(void *context, size_t size);
    void *exhausted_context;
};

#define FH_PLACE_BUFFER(memory_, bytes_)                                                           \
    ((struct fh_place_options){.memory = (memory_), .bytes = (bytes_)})
#define FH_PLACE_PARENT(parent_, capacity_)                                                        \
    ((struct fh_place_options){.parent = (parent_), .capacity = (capacity_)})
#define FH_PLACE_SOURCE(source_, capacity_)                                                        \
    ((struct fh_place_options){.source = (source_), .capacity = (capacity_)})

/* One contiguous range that can grow at its end. Part of the handles; its fields are for the allocators. */
struct fh_ground {
    unsigned char *base;
    size_t bytes;                   /* that may be used now */
    size_t capacity;                /* the most they can become */
    const struct fh_source *source; /* of the range when it is a source's; else NULL */
    struct fh_allocator parent;     /* of the range when it is a block; else ops is NULL */
    size_t align;                   /* that the base was asked to have */
    size_t purged;                  /* of them given back for now */
    size_t peak_bytes;
    bool (*exhausted)(void *context, size_t size);
    void *exhausted_context;
};

FH_END_DECLS
#endif
