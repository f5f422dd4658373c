/*
 * TLSF, two-level segregated fit: Masmano, Ripoll, Crespo and Real, "TLSF: a new dynamic memory allocator for
 * real-time systems", ECRTS 2004.
 *
 * The engine (tags.h) over the lists of bins.h, with 2^s lists for each power of two of sizes. Allocating and
 * freeing are O(1), without a loop.
 *
 * s, the second level, weighs the table against the fit. A request of u units, u >= 2^s, is rounded up by less than
 * u / 2^s for the search (what is left over is cut off; the block itself is rounded by less than u / 64), so a block that would fit may be passed
 * over if it is larger than the request by less than a part in 2^s. The table costs 8 x 2^s bytes for each power of
 * two that the range spans. The default gives it about a 512th of the capacity, from s = 2 to s = 6.
 *
 * Why allocation can't fail with fh_tlsf_bound's bytes. When a request of u units finds nothing, every free block
 * is smaller than r(u), u rounded up to its class. (Live units count as blocks are rounded.) Free blocks are not
 * neighbours, so with L - 1 live blocks there are at most L of them. So the range holds less than
 *
 *     (live units) + L x (r(u) - granule),    and (live units) + u <= M, u <= n.
 *
 * The same argument holds for every policy that takes any free block that is large enough, with r(u) = u;
 * what it can't tell apart is how often the worst arrangement happens.
 */
#include "freehold/tlsf.h"
#include "place/bins.h"
#include "place/bound.h"

/* Blocks are rounded to 2^6 sizes for each power of two, on average by 0.5 per cent. 2^5 and 2^4 need
 * 0.7 and 1.5 per cent more memory on the shifting workload of bench/own_place_fit.c, which was not made up for by time. */
enum { SECOND_LEAST = 2, SECOND_MOST = 6, SIZES = SECOND_MOST, TABLE_PART_LOG2 = 9 };

static size_t index_bytes(uint32_t choice, uint32_t most)
{
    return bins_bytes(choice, most);
}

static uint32_t index_least(uint32_t choice)
{
    (void)choice;
    return 2; /* the word in front, two links, the tag: 16 bytes */
}

static void index_open(unsigned char *base)
{
    bins_open(base, tags_head(base)->choice);
}

FH_INLINE void index_insert(const struct tags_index *index, unsigned char *base, uint32_t block,
                            uint32_t units)
{
    (void)index;
    bins_insert(base, block, units, BINS_CHOSEN);
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
    return bins_take(base, units, BINS_CHOSEN);
}

static uint32_t index_take_hard(unsigned char *base, uint32_t units)
{
    return bins_look(base, units, BINS_CHOSEN, BINS_LOOKS);
}

static const struct tags_index tlsf_index = {
    .magic = 0x544c5301, /* "TLS", 1 */
    .bytes = index_bytes,
    .least = index_least,
    .open = index_open,
    .insert = index_insert,
    .remove = index_remove,
    .take = index_take,
    .take_hard = index_take_hard,
    .check = bins_check,
    .node_bytes = 8,
    .sizes_log2 = SIZES,
};

#include "place/manager.h"

static const struct fh_allocator_ops ops;

FH_TAGS_FUNCTIONS(tlsf, &tlsf_index, &ops)

static const struct fh_allocator_ops ops =
    FH_ADAPTER_OPS("tlsf",
                   FH_ALLOCATOR_SEES_DOUBLE_FREE | FH_ALLOCATOR_CONSTANT_TIME | FH_ALLOCATOR_MOVES |
                       FH_ALLOCATOR_RELOCATABLE,
                   op_resize_in_place, op_usable_size);

struct fh_allocator fh_tlsf_allocator(struct fh_tlsf *self)
{
    return (struct fh_allocator){.ops = &ops, .self = &self->tags};
}

/* The largest table that is a small part of a range of so many bytes. */
static uint32_t second_for(size_t bytes)
{
    uint32_t second = SECOND_MOST;
    uint32_t most = (uint32_t)fh_min(bytes / TAGS_UNIT, TAGS_LIMIT - 1);
    while (second > SECOND_LEAST && bins_bytes(second, most) > bytes >> TABLE_PART_LOG2)
        second--;
    return second;
}

int fh_tlsf_init(struct fh_tlsf *self, const struct fh_tlsf_options *options)
{
    static const struct fh_tlsf_options none;
    if (options == NULL)
        options = &none;
    if (options->second_level != 0 &&
        (options->second_level < SECOND_LEAST || options->second_level > SECOND_MOST))
        return fh_error(FH_EINVAL);
    const struct fh_place_options *place = &options->place;
    uint32_t second = options->second_level;
    if (second == 0)
        second = second_for(place->memory != NULL  ? place->bytes
                            : place->capacity != 0 ? place->capacity
                                                   : SIZE_MAX);
    return tags_open(&self->tags, &tlsf_index, place, options->align, second);
}

size_t fh_tlsf_bound(size_t live_bytes, size_t live_blocks, size_t largest, unsigned second_level)
{
    if (second_level != 0)
        return second_level < SECOND_LEAST || second_level > SECOND_MOST
                   ? SIZE_MAX
                   : tags_bound(live_bytes, live_blocks, largest, second_level, SIZES, index_bytes);
    /* The default is chosen by the capacity: what holds for each level holds for it. */
    size_t bound = 0;
    for (unsigned level = SECOND_LEAST; level <= SECOND_MOST; level++)
        bound = fh_max(bound, fh_tlsf_bound(live_bytes, live_blocks, largest, level));
    return bound;
}
