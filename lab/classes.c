/*
 * A table of managers with blocks of one size.
 *
 * A pool and a slab serve one type each; a program with blocks of many sizes would have one for
 * each type. A trace does not know types, so sizes stand for them: sixteen bytes apart up to 128,
 * then four to a doubling (at most a fifth of a block is lost, as in most mallocs), up to 128 KiB;
 * larger requests are refused, as a pool refuses what is larger than its blocks. A class is opened
 * when its first block is asked for. Frees find their manager by the size, which the program knows.
 */
#include "classes.h"

#include <errno.h>
#include <string.h>

enum {
    STEP = 16,
    LINEAR = 8,          /* classes that are a STEP apart: up to 128 bytes */
    LINEAR_LOG = 7,      /* the binary logarithm of the largest of them */
    PER_DOUBLING_LOG = 2 /* four classes */
};
_Static_assert(LAB_CLASSES == LINEAR + 10 * (1 << PER_DOUBLING_LOG),
               "ten doublings: up to 128 KiB");

size_t lab_class_size(unsigned index)
{
    if (index < LINEAR) {
        return (size_t)STEP * (index + 1);
    }
    const unsigned above = index - LINEAR;
    const unsigned doubling = above >> PER_DOUBLING_LOG;
    const unsigned quarter = (above & 3U) + 1;
    const size_t base = (size_t)1 << (LINEAR_LOG + doubling);
    return base + (base >> PER_DOUBLING_LOG) * quarter;
}

unsigned lab_class_of(size_t size)
{
    if (size <= (size_t)STEP * LINEAR) {
        return size == 0 ? 0 : (unsigned)((size - 1) / STEP);
    }
    const unsigned log = (unsigned)(63 - __builtin_clzll(size - 1));
    const unsigned quarter = (unsigned)((size - 1) >> (log - PER_DOUBLING_LOG)) & 3U;
    const unsigned index = LINEAR + ((log - LINEAR_LOG) << PER_DOUBLING_LOG) + quarter;
    return index < LAB_CLASSES ? index : LAB_CLASSES;
}

static const struct fh_allocator *manager_of(struct lab_classes *classes, size_t size)
{
    const unsigned index = lab_class_of(size);
    if (index == LAB_CLASSES) {
        errno = ENOMEM;
        return NULL;
    }
    struct fh_allocator *manager = &classes->managers[index];
    if (manager->ops == NULL) {
        const int error = classes->open_one(index, lab_class_size(index), &classes->place, manager);
        if (error != 0) {
            manager->ops = NULL;
            errno = -error;
            return NULL;
        }
    }
    return manager;
}

static void *classes_alloc(void *self, size_t size, size_t align, unsigned flags)
{
    const struct fh_allocator *manager = manager_of(self, size);
    return manager != NULL ? fh_alloc_with(manager, size, align, flags) : NULL;
}

static void classes_free_sized(void *self, void *block, size_t size, size_t align)
{
    if (block != NULL) {
        fh_free_sized(manager_of(self, size), block, size, align);
    }
}

/* Without the size nobody knows whose it is; that this manager needs it is said by its
 * capabilities. */
static void classes_free(void *self, void *block)
{
    struct lab_classes *classes = self;
    for (unsigned i = 0; i < LAB_CLASSES && block != NULL; i++) {
        const struct fh_allocator *manager = &classes->managers[i];
        if (manager->ops != NULL && fh_allocator_owns(manager, block)) {
            fh_free(manager, block);
            return;
        }
    }
}

static bool classes_resize_in_place(void *self, void *block, size_t old_size, size_t new_size)
{
    (void)self;
    (void)block;
    return lab_class_of(old_size) == lab_class_of(new_size);
}

static void *classes_resize(void *self, void *block, size_t old_size, size_t new_size, size_t align)
{
    if (block != NULL && classes_resize_in_place(self, block, old_size, new_size)) {
        return block;
    }
    void *moved = classes_alloc(self, new_size, align, 0);
    if (moved != NULL && block != NULL) {
        memcpy(moved, block, old_size < new_size ? old_size : new_size);
        classes_free_sized(self, block, old_size, align);
    }
    return moved;
}

static bool classes_owns(void *self, const void *address)
{
    const struct lab_classes *classes = self;
    for (unsigned i = 0; i < LAB_CLASSES; i++) {
        const struct fh_allocator *manager = &classes->managers[i];
        if (manager->ops != NULL && fh_allocator_owns(manager, address)) {
            return true;
        }
    }
    return false;
}

static void classes_reset(void *self)
{
    struct lab_classes *classes = self;
    for (unsigned i = 0; i < LAB_CLASSES; i++) {
        if (classes->managers[i].ops != NULL) {
            fh_allocator_reset(&classes->managers[i]);
        }
    }
}

static void classes_destroy(void *self)
{
    struct lab_classes *classes = self;
    for (unsigned i = 0; i < LAB_CLASSES; i++) {
        if (classes->managers[i].ops != NULL) {
            fh_allocator_destroy(&classes->managers[i]);
            classes->managers[i].ops = NULL;
        }
    }
}

/* Sums. The peak is the sum of the classes' peaks, which an allocator made of them can have
 * reached: no class gives its memory to another. */
static int classes_measure(void *self, struct fh_measure *out)
{
    struct lab_classes *classes = self;
    const size_t size = out->size;
    if (size < sizeof(*out)) {
        return -EINVAL;
    }
    *out = (struct fh_measure){.size = size};
    for (unsigned i = 0; i < LAB_CLASSES; i++) {
        struct fh_measure one = {.size = sizeof(one)};
        if (classes->managers[i].ops == NULL) {
            continue;
        }
        const int error = fh_allocator_measure(&classes->managers[i], &one);
        if (error != 0) {
            return error;
        }
        out->live_blocks += one.live_blocks;
        out->live_bytes += one.live_bytes;
        out->free_bytes += one.free_bytes;
        out->free_blocks += one.free_blocks;
        out->metadata += one.metadata;
        out->footprint += one.footprint;
        out->reserved += one.reserved;
        out->peak_footprint += one.peak_footprint;
        out->largest_free =
            one.largest_free > out->largest_free ? one.largest_free : out->largest_free;
    }
    return 0;
}

static int classes_walk(void *self, int (*visit)(void *context, const struct fh_block *block),
                        void *context)
{
    struct lab_classes *classes = self;
    int result = 0;
    for (unsigned i = 0; i < LAB_CLASSES && result == 0; i++) {
        if (classes->managers[i].ops != NULL) {
            result = fh_allocator_walk(&classes->managers[i], visit, context);
        }
    }
    return result;
}

static int classes_check(void *self)
{
    struct lab_classes *classes = self;
    int broken = 0;
    for (unsigned i = 0; i < LAB_CLASSES; i++) {
        if (classes->managers[i].ops != NULL) {
            broken += fh_allocator_check(&classes->managers[i]);
        }
    }
    return broken;
}

struct fh_allocator lab_classes_allocator(struct lab_classes *classes)
{
    static const struct fh_allocator_ops ops = {
        .size = sizeof(ops),
        .name = "classes",
        .capabilities = FH_ALLOCATOR_NEEDS_SIZE | FH_ALLOCATOR_MOVES | FH_ALLOCATOR_ONE_SIZE,
        .alloc = classes_alloc,
        .resize_in_place = classes_resize_in_place,
        .resize = classes_resize,
        .free = classes_free,
        .free_sized = classes_free_sized,
        .owns = classes_owns,
        .reset = classes_reset,
        .destroy = classes_destroy,
        .measure = classes_measure,
        .walk = classes_walk,
        .check = classes_check,
    };
    return (struct fh_allocator){&ops, classes};
}
