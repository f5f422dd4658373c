/* The general heap as a parent: see general.h. */
#include "place/general.h"

#include "base/core/macros.h"
#include "freehold/heap.h"

#include <string.h>

static void *general_alloc(void *self, size_t size, size_t align, unsigned flags)
{
    (void)self;
    void *block = fh_aligned_alloc(align != 0 ? align : FH_ALIGN_DEFAULT, size);
    if (block != NULL && (flags & FH_ALLOC_ZEROED))
        memset(block, 0, size);
    return block;
}

static void general_free(void *self, void *block)
{
    (void)self;
    fh_free_any(block);
}

static const struct fh_allocator_ops general_ops = {
    .size = sizeof general_ops,
    .name = "heap",
    .capabilities = FH_ALLOCATOR_THREAD_SAFE,
    .alloc = general_alloc,
    .free = general_free,
};

FH_HIDDEN const struct fh_allocator fh_place_general = {&general_ops, NULL};
