/*
 * The register of managers. A row is all that a new one needs to take part in replays: its name, a
 * line for the list, and how it is opened over a place.
 *
 * The handles are static, since a worker process holds one manager: so the replay's own memory does
 * not move when a manager's handle is large.
 */
#include "allocators.h"

#include "classes.h"

#include "freehold/arena.h"
#include "freehold/buddy.h"
#include "freehold/fit.h"
#include "freehold/fixed.h"
#include "freehold/half_fit.h"
#include "freehold/heap.h"
#include "freehold/mesh.h"
#include "freehold/movable.h"
#include "freehold/pool.h"
#include "freehold/slab.h"
#include "freehold/tlsf.h"

#include <errno.h>
#include <string.h>

/* Offsets of 16-byte granules or of bytes in 32 bits, less what rounding the range takes. */
#define MOST_TAGGED (((size_t)4 << 30) - ((size_t)1 << 20))

static int open_fixed(const struct fh_place_options *place, struct fh_allocator *out)
{
    static struct fh_fixed fixed;
    const struct fh_fixed_options options = {.place = *place};
    const int error = fh_fixed_init(&fixed, &options);
    if (error == 0) {
        *out = fh_fixed_allocator(&fixed);
    }
    return error;
}

static int open_arena(const struct fh_place_options *place, struct fh_allocator *out)
{
    static struct fh_arena arena;
    const struct fh_arena_options options = {.place = *place};
    const int error = fh_arena_init(&arena, &options);
    if (error == 0) {
        *out = fh_arena_allocator(&arena);
    }
    return error;
}

static int open_pool_of(unsigned index, size_t size, const struct fh_place_options *place,
                        struct fh_allocator *out)
{
    static struct fh_pool pools[LAB_CLASSES];
    const struct fh_pool_options options = {.place = *place, .size = size};
    const int error = fh_pool_init(&pools[index], &options);
    if (error == 0) {
        *out = fh_pool_allocator(&pools[index]);
    }
    return error;
}

static int open_pool(const struct fh_place_options *place, struct fh_allocator *out)
{
    static struct lab_classes classes;
    classes = (struct lab_classes){.place = *place, .open_one = open_pool_of};
    *out = lab_classes_allocator(&classes);
    return 0;
}

static int open_slab_of(unsigned index, size_t size, const struct fh_place_options *place,
                        struct fh_allocator *out)
{
    static struct fh_slab slabs[LAB_CLASSES];
    const struct fh_slab_options options = {
        .place = *place, .object_size = size, .is_single_thread = true};
    const int error = fh_slab_init(&slabs[index], &options);
    if (error == 0) {
        *out = fh_slab_allocator(&slabs[index]);
    }
    return error;
}

static int open_slab(const struct fh_place_options *place, struct fh_allocator *out)
{
    static struct lab_classes classes;
    classes = (struct lab_classes){.place = *place, .open_one = open_slab_of};
    *out = lab_classes_allocator(&classes);
    return 0;
}

static int open_fit(const struct fh_place_options *place, enum fh_fit_policy policy,
                    struct fh_allocator *out)
{
    static struct fh_fit fit;
    const struct fh_fit_options options = {.place = *place, .policy = policy};
    const int error = fh_fit_init(&fit, &options);
    if (error == 0) {
        *out = fh_fit_allocator(&fit);
    }
    return error;
}

static int open_first_fit(const struct fh_place_options *place, struct fh_allocator *out)
{
    return open_fit(place, FH_FIT_FIRST, out);
}

static int open_next_fit(const struct fh_place_options *place, struct fh_allocator *out)
{
    return open_fit(place, FH_FIT_NEXT, out);
}

static int open_best_fit(const struct fh_place_options *place, struct fh_allocator *out)
{
    return open_fit(place, FH_FIT_BEST, out);
}

static int open_worst_fit(const struct fh_place_options *place, struct fh_allocator *out)
{
    return open_fit(place, FH_FIT_WORST, out);
}

static int open_tlsf(const struct fh_place_options *place, struct fh_allocator *out)
{
    static struct fh_tlsf tlsf;
    const struct fh_tlsf_options options = {.place = *place};
    const int error = fh_tlsf_init(&tlsf, &options);
    if (error == 0) {
        *out = fh_tlsf_allocator(&tlsf);
    }
    return error;
}

static int open_half_fit(const struct fh_place_options *place, struct fh_allocator *out)
{
    static struct fh_half_fit half_fit;
    const struct fh_half_fit_options options = {.place = *place};
    const int error = fh_half_fit_init(&half_fit, &options);
    if (error == 0) {
        *out = fh_half_fit_allocator(&half_fit);
    }
    return error;
}

static int open_buddy(const struct fh_place_options *place, struct fh_allocator *out)
{
    static struct fh_buddy buddy;
    const struct fh_buddy_options options = {.place = *place};
    const int error = fh_buddy_init(&buddy, &options);
    if (error == 0) {
        *out = fh_buddy_allocator(&buddy);
    }
    return error;
}

static int open_movable(const struct fh_place_options *place, struct fh_allocator *out)
{
    static struct fh_movable movable;
    const struct fh_movable_options options = {.place = *place};
    const int error = fh_movable_init(&movable, &options);
    if (error == 0) {
        *out = fh_movable_allocator(&movable);
    }
    return error;
}

/* Its memory is a memfd's, since only that can show at two addresses. */
static int open_mesh(const struct fh_place_options *place, struct fh_allocator *out)
{
    static struct fh_source_memfd memory;
    static struct fh_mesh mesh;
    struct fh_mesh_options options = {.place = *place};
    options.place.source = fh_source_memfd_init(&memory, true);
    if (options.place.source == NULL) {
        return -errno;
    }
    const int error = fh_mesh_init(&mesh, &options);
    if (error == 0) {
        *out = fh_mesh_allocator(&mesh);
    }
    return error;
}

static int open_heap(const struct fh_place_options *place, struct fh_allocator *out)
{
    const struct fh_heap_options options = {
        .size = sizeof(options), .source = place->source, .is_single_thread = true};
    struct fh_heap *heap = fh_heap_create(&options);
    if (heap == NULL) {
        return -errno;
    }
    *out = fh_heap_allocator(heap);
    return 0;
}

const struct lab_manager lab_managers[] = {
    {"fixed", "one block behind the other in a buffer; frees nothing but the last one",
     LAB_CONTIGUOUS | LAB_KEEPS_ALL | LAB_IN_BUFFER, 0, open_fixed},
    {"arena", "one block behind the other in chunks; frees nothing before it is reset",
     LAB_KEEPS_ALL, 0, open_arena},
    {"pool", "blocks of one size: a table of pools, one a size class, up to 128 KiB", 0, 0,
     open_pool},
    {"slab", "objects of one size: a table of slab caches, one a size class, up to 128 KiB", 0, 0,
     open_slab},
    {"first-fit", "boundary tags, the free block with the lowest address that fits", LAB_CONTIGUOUS,
     MOST_TAGGED, open_first_fit},
    {"next-fit", "boundary tags, the next free block that fits", LAB_CONTIGUOUS, MOST_TAGGED,
     open_next_fit},
    {"best-fit", "boundary tags, the smallest free block that fits", LAB_CONTIGUOUS, MOST_TAGGED,
     open_best_fit},
    {"worst-fit", "boundary tags, the largest free block", LAB_CONTIGUOUS, MOST_TAGGED,
     open_worst_fit},
    {"tlsf", "two-level segregated fit: a free block that fits well, in constant time",
     LAB_CONTIGUOUS, MOST_TAGGED, open_tlsf},
    {"half-fit", "one list of free blocks a power of two, in constant time", LAB_CONTIGUOUS,
     MOST_TAGGED, open_half_fit},
    {"buddy", "powers of two that halve and join", LAB_CONTIGUOUS, 0, open_buddy},
    {"movable", "blocks behind handles, here pinned and never compacted", 0, 0, open_movable},
    {"mesh", "blocks of a size at random in their pages, here never meshed", 0, 0, open_mesh},
    {"heap", "the general-purpose heap, one of its own (fh_heap_create)", 0, 0, open_heap},
};
const size_t lab_manager_count = sizeof(lab_managers) / sizeof(lab_managers[0]);

const struct lab_manager *lab_manager_named(const char *name)
{
    for (size_t i = 0; i < lab_manager_count; i++) {
        if (strcmp(lab_managers[i].name, name) == 0) {
            return &lab_managers[i];
        }
    }
    return NULL;
}
