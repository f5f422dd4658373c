/*
 * mesh.h: a heap that gives memory back from under living blocks without moving their addresses.
 *
 * Two runs of pages on which few blocks are left, none at the same place in both, fit on one: the blocks of
 * one are copied to the free places of the other, and both addresses show the same memory from then on
 * ("meshing"). The pages of one are given back; no pointer changes.
 *
 * Use it for very many small blocks, most of which die while the rest lives long: caches, sessions,
 * indices after a bulk load. Do not use it as a general heap: blocks are spread at random, an
 * allocation takes some 10 ns more than malloc's, each mesh uses up one or two of the process's
 * mappings, memory of a memfd is slower to touch for the first time, and fork copies it (source.h).
 * Blocks over 8 KiB get pages of their own and are only given back when freed.
 *
 *     struct fh_source_memfd memory;
 *     struct fh_mesh heap;
 *     fh_mesh_init(&heap, &(struct fh_mesh_options){
 *         .place = FH_PLACE_SOURCE(fh_source_memfd_init(&memory, true), (size_t)1 << 30)});
 *     void *block = fh_mesh_alloc(&heap, 100);
 *     while (fh_mesh_step(&heap, 1000000)) // a millisecond at a time
 *         do_something_else();
 *
 * Not thread-safe: one lock covers all calls (locked.h), frees from other threads too. While fh_mesh_step
 * runs nobody may WRITE to any block of the heap, or the write may be lost with the copy; reading is
 * safe. Call it where the program knows that: between requests, under the lock that writers take.
 *
 * Follows Powers, Tench, Berger and McGregor, "Mesh: Compacting Memory Management for C/C++
 * Applications", PLDI 2019; see lib/place/mesh.c for where it differs.
 */
#ifndef FREEHOLD_MESH_H
#define FREEHOLD_MESH_H

#include "freehold/place.h"

FH_BEGIN_DECLS

struct fh_mesh_options {
    struct fh_place_options place; /* a source with FH_SOURCE_ALIAS; capacity 0: 1 GiB */
    size_t max_mappings; /* for meshes; 0: a quarter of the process's limit (vm.max_map_count) */
    uint64_t seed;       /* of where blocks are put; 0: the kernel's randomness */
};

/* The caller's; what else there is lies at the beginning of the range. */
struct fh_mesh {
    unsigned char *base;
    struct fh_ground ground;
};

/* 0; -EINVAL; -ENOTSUP when the place is no source that can alias; -ENOMEM. */
FH_API int fh_mesh_init(struct fh_mesh *m, const struct fh_mesh_options *options);

/* At least `size` bytes aligned to 16, or NULL and ENOMEM. O(1) amortised up to 8 KiB; larger: O(pages). */
FH_API void *fh_mesh_alloc(struct fh_mesh *m, size_t size);
FH_API void *fh_mesh_alloc_with(struct fh_mesh *m, size_t size, size_t align, unsigned flags);
/* NULL is nothing; every misuse is seen. Keeps errno. O(1). */
FH_API void fh_mesh_free(struct fh_mesh *m, void *block);
/* As realloc; align 0 keeps the alignment the block was given. */
FH_API void *fh_mesh_resize(struct fh_mesh *m, void *block, size_t size, size_t align);
FH_API size_t fh_mesh_usable_size(const struct fh_mesh *m, const void *block);
FH_API bool fh_mesh_owns(const struct fh_mesh *m, const void *address);

/*
 * Meshes and gives back for about max_ns nanoseconds (0: until done): it looks at the clock before each mesh
 * (some 20-50 µs) and between groups of 256 comparisons. True: there is more to try. False: it has gone
 * round once without gaining anything; call again after frees. A step that finds no memory or no
 * mapping leaves everything as it was.
 */
FH_API bool fh_mesh_step(struct fh_mesh *m, uint64_t max_ns);

struct fh_meshing {
    size_t size; /* sizeof(struct fh_meshing) of the caller */
    uint64_t meshes;
    uint64_t meshed_bytes; /* given back by them */
    uint64_t purged_bytes; /* given back as empty pages */
    uint64_t copied_bytes;
    uint64_t longest_ns; /* of a step */
    size_t mappings;     /* that the heap's range takes now */
    size_t max_mappings;
};
/* 0 or -EINVAL. */
FH_API int fh_mesh_meshing(const struct fh_mesh *m, struct fh_meshing *out);

/* Frees every block and all meshes; memory goes back to the source. */
FH_API void fh_mesh_reset(struct fh_mesh *m);
FH_API void fh_mesh_destroy(struct fh_mesh *m);
/* As fh_allocator's; footprint counts a shared page once. */
FH_API int fh_mesh_measure(const struct fh_mesh *m, struct fh_measure *out);
FH_API int fh_mesh_walk(const struct fh_mesh *m,
                        int (*visit)(void *context, const struct fh_block *block), void *context);
FH_API int fh_mesh_check(const struct fh_mesh *m);
FH_API struct fh_allocator fh_mesh_allocator(struct fh_mesh *m);

FH_END_DECLS
#endif
