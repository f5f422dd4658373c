/* The range under an allocator: see ground.h. */
#include "place/ground.h"

#include "base/core/bits.h"
#include "base/core/fail.h"

#define DEFAULT_CAPACITY ((size_t)1 << 30)

static int open_buffer(struct fh_ground *ground, const struct fh_place_options *options,
                       size_t least, size_t align)
{
    uintptr_t begin = (uintptr_t)options->memory, base = fh_align_up(begin, align);
    if (base < begin || base - begin > options->bytes || options->bytes - (base - begin) < least)
        return fh_error(FH_EINVAL);
    ground->base = (unsigned char *)base;
    ground->bytes = ground->capacity = options->bytes - (base - begin);
    return 0;
}

static int open_block(struct fh_ground *ground, const struct fh_place_options *options,
                      size_t least, size_t align)
{
    if (options->capacity < least)
        return fh_error(FH_EINVAL);
    ground->parent = *options->parent;
    ground->base = fh_alloc_with(&ground->parent, options->capacity, align, 0);
    if (ground->base == NULL)
        return fh_error(FH_ENOMEM);
    ground->bytes = ground->capacity = options->capacity;
    return 0;
}

/* Reserves what was asked for; without a wish, what there is. */
static unsigned char *reserve(const struct fh_source *source, size_t *capacity, size_t align,
                              size_t least)
{
    bool is_wish = *capacity != 0;
    if (source->capabilities & FH_SOURCE_FIXED) {
        /* Its memory may begin anywhere, so aligning it may cost up to one alignment. */
        size_t bytes =
            fh_align_down(is_wish ? fh_min(*capacity, source->capacity) : source->capacity, align);
        for (int i = 0; i < 2 && bytes >= least && bytes > 0; i++, bytes -= align) {
            *capacity = bytes;
            void *base = source->reserve(source->self, bytes, align);
            if (base != NULL)
                return base;
        }
        return NULL;
    }
    size_t bytes;
    if (!fh_align_up_checked(is_wish ? *capacity : DEFAULT_CAPACITY, FH_GROUND_STEP, &bytes))
        return NULL;
    for (; bytes >= fh_max(least, FH_GROUND_STEP);
         bytes = fh_align_down(bytes / 2, FH_GROUND_STEP)) {
        *capacity = bytes;
        void *base = source->reserve(source->self, bytes, align);
        if (base != NULL || is_wish)
            return base;
    }
    return NULL;
}

static int open_source(struct fh_ground *ground, const struct fh_place_options *options,
                       size_t least, size_t align)
{
    const struct fh_source *source = options->source;
#ifndef FH_FREESTANDING
    if (source == NULL)
        source = fh_source_system();
#endif
    if (source == NULL || (options->capacity != 0 && options->capacity < least))
        return fh_error(FH_EINVAL);
    bool is_fixed = (source->capabilities & FH_SOURCE_FIXED) != 0;
    ground->capacity = options->capacity;
    ground->base =
        reserve(source, &ground->capacity, fh_max(align, is_fixed ? 4096 : FH_GROUND_STEP), least);
    if (ground->base == NULL)
        return fh_error(FH_ENOMEM);
    ground->source = source;
    if (fh_ground_grow(ground, fh_max(least, 1)))
        return 0;
    source->release(source->self, ground->base, ground->capacity);
    return fh_error(FH_ENOMEM);
}

int fh_ground_open(struct fh_ground *ground, const struct fh_place_options *options, size_t least,
                   size_t align)
{
    static const struct fh_place_options none;
    if (options == NULL)
        options = &none;
    *ground = (struct fh_ground){
        .align = align,
        .exhausted = options->exhausted,
        .exhausted_context = options->exhausted_context,
    };
    int error = options->memory != NULL   ? open_buffer(ground, options, least, align)
                : options->parent != NULL ? open_block(ground, options, least, align)
                                          : open_source(ground, options, least, align);
    ground->peak_bytes = ground->bytes;
    return error;
}

void fh_ground_attach(struct fh_ground *ground, void *memory, size_t bytes)
{
    *ground =
        (struct fh_ground){.base = memory, .bytes = bytes, .capacity = bytes, .peak_bytes = bytes};
}

bool fh_ground_grow(struct fh_ground *ground, size_t bytes)
{
    if (bytes <= ground->bytes)
        return true;
    if (bytes > ground->capacity || ground->source == NULL) {
        fh_set_errno(FH_ENOMEM);
        return false;
    }
    size_t wanted = fh_max(bytes, ground->bytes + ground->bytes / 16);
    wanted = fh_min(fh_align_up(wanted, FH_GROUND_STEP), ground->capacity);
    if (ground->source->commit(ground->source->self, ground->base + ground->bytes,
                               wanted - ground->bytes) != 0) {
        fh_set_errno(FH_ENOMEM);
        return false;
    }
    ground->bytes = wanted;
    ground->peak_bytes = fh_max(ground->peak_bytes, wanted - ground->purged);
    return true;
}

size_t fh_ground_purge(struct fh_ground *ground, size_t offset, size_t bytes)
{
    size_t begin = fh_align_up(offset, FH_GROUND_STEP);
    size_t end = fh_align_down(offset + bytes, FH_GROUND_STEP);
    if (ground->source == NULL || !(ground->source->capabilities & FH_SOURCE_PURGE) ||
        begin >= end ||
        ground->source->purge(ground->source->self, ground->base + begin, end - begin) != 0)
        return 0;
    return end - begin;
}

void fh_ground_close(struct fh_ground *ground)
{
    if (ground->source != NULL)
        ground->source->release(ground->source->self, ground->base, ground->capacity);
    else if (ground->parent.ops != NULL)
        fh_free_sized(&ground->parent, ground->base, ground->capacity, ground->align);
    *ground = (struct fh_ground){0};
}
