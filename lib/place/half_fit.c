/*
 * Half-fit: Ogasawara, "An algorithm with constant execution time for dynamic storage allocation", RTCSA 1995.
 *
 * The engine (tags.h) over the lists of bins.h. As published, there is one list for each power of two, and a request of u
 * units takes the first block of the first list from 2^ceil(log2 u) on, all of whose blocks are large enough. Blocks of
 * the request's own list are passed over although many would fit, up to half of what is free, hence the name. When
 * blocks are cut to the request, that is most of what is freed: a freed block never serves a request of its own size.
 *
 * Here a block is rounded up to a quarter of a power of two, by 9 per cent on average, and each of these sizes has its
 * list (2^SECOND for a power of two). A freed block is the first that the next request of its size finds, most
 * requests are served whole, without a rest, and few free blocks are left lying that neighbours must be joined with.
 * The bound is TLSF's (tlsf.c) with s = 2.
 */
#include "freehold/half_fit.h"
#include "place/bins.h"
#include "place/bound.h"

/* Measured on the steady mix (bench/own_place_fit.c): one list and exact sizes need an arena of 1.56 times what is live,
 * one list and 2^2 sizes 1.60, 2^1 lists and sizes 1.23, 2^2 1.13, 2^3 1.09. */
enum { SECOND = 2 };

static size_t index_bytes(uint32_t choice, uint32_t most)
{
    (void)choice;
    return bins_bytes(SECOND, most);
}

static uint32_t index_least(uint32_t choice)
{
    (void)choice;
    return 2; /* the word in front, two links, the tag: 16 bytes */
}

static void index_open(unsigned char *base)
{
    bins_open(base, SECOND);
}

FH_INLINE void index_insert(const struct tags_index *index, unsigned char *base, uint32_t block,
                            uint32_t units)
{
    (void)index;
    bins_insert(base, block, units, SECOND);
}

FH_INLINE void index_remove(const struct tags_index *index, unsigned char *base, uint32_t block,
                            uint32_t units)
{
    (void)index;
    (void)units;
    bins_remove(base, block);
}

FH_INLINE uint32_t index_take(const struct tags_index *index, unsigned char *base, uint32_t units)
{
    (void)index;
    return bins_take(base, units, SECOND);
}

static uint32_t index_take_hard(unsigned char *base, uint32_t units)
{
    return bins_look(base, units, SECOND, BINS_LOOKS);
}

static const struct tags_index half_fit_index = {
    .magic = 0x48414c01, /* "HAL", 1 */
    .bytes = index_bytes,
    .least = index_least,
    .open = index_open,
    .insert = index_insert,
    .remove = index_remove,
    .take = index_take,
    .take_hard = index_take_hard,
    .check = bins_check,
    .node_bytes = 8,
    .sizes_log2 = SECOND,
};

#include "place/manager.h"

static const struct fh_allocator_ops ops;

FH_TAGS_FUNCTIONS(half_fit, &half_fit_index, &ops)

static const struct fh_allocator_ops ops =
    FH_ADAPTER_OPS("half-fit",
                   FH_ALLOCATOR_SEES_DOUBLE_FREE | FH_ALLOCATOR_CONSTANT_TIME | FH_ALLOCATOR_MOVES |
                       FH_ALLOCATOR_RELOCATABLE,
                   op_resize_in_place, op_usable_size);

struct fh_allocator fh_half_fit_allocator(struct fh_half_fit *self)
{
    return (struct fh_allocator){.ops = &ops, .self = &self->tags};
}

int fh_half_fit_init(struct fh_half_fit *self, const struct fh_half_fit_options *options)
{
    static const struct fh_half_fit_options none;
    if (options == NULL)
        options = &none;
    return tags_open(&self->tags, &half_fit_index, &options->place, options->align, SECOND);
}

size_t fh_half_fit_bound(size_t live_bytes, size_t live_blocks, size_t largest)
{
    return tags_bound(live_bytes, live_blocks, largest, SECOND, SECOND, index_bytes);
}
