/*
 * pool: blocks of one size on free lists of 32-bit places.
 *
 * A chunk is self-contained: header, one bit a granule, blocks. All places in it are granules from
 * its own beginning, so it may lie anywhere.
 *
 *     chunk  | header | bits | block | block | block | ......... fresh ........ |
 *                            first                   fresh                      granules
 *
 * A block below `fresh` is live (its bit is set) or in the chunk's free list (its first four bytes
 * are the next one's place); a block beyond has never been touched. The slow path puts fresh blocks
 * on the list, a page's worth at a time, so a pool touches no memory much before it needs it and
 * the fast path knows of one list only.
 *
 * Granules, not numbers of blocks, are what places and bits count: the free path then needs no
 * division to come from an address to its bit. A granule is the largest power of two that divides
 * the distance of two blocks, so blocks of 16, 32 or 64 bytes have exactly one bit each, and at
 * worst (sizes such as 24 or 1016) one in 8 bytes is a bit's: 1.6 %. Beyond 64 bytes finer granules
 * cost less than 0.2 %, and coarser ones would make the header as large as a granule; so 64 is the
 * most. Only the beginnings of live blocks have bits, so an address inside a block, a block that is
 * free and one that never was are all told by one test: that is why the bit is cheaper than a state
 * beside or inside each block, which an address inside a block would have to be divided to find. It
 * costs 9 instructions of an allocation's 22, and as many of a free's 25.
 *
 * Chunks: each is as large as all before it together, so that there are at most 32 of them (the
 * handle has a bit for each: may it have a block to give?), and an address is found by comparing
 * with the largest first: half of all blocks are in it. The price is that half of the memory may be
 * fresh just after growing; fresh memory is not touched. In one range the chunks lie behind each
 * other. A buffer is one chunk.
 *
 * Blocks are taken from the oldest chunk that has one, so late chunks run empty and can be trimmed.
 *
 * While memory is watched (AddressSanitizer, valgrind) the handle's chunk is `nothing`, whose list
 * is empty and whose end is 0: every call arrives in the slow paths here, which poison.
 *
 * Invariants (fh_pool_check): bits are set at beginnings of blocks below fresh only; the free list
 * holds every other block below fresh exactly once; a chunk whose bit in with_free is clear has
 * nothing to give.
 */
#include "freehold/pool.h"

#include "base/core/adapter.h"
#include "base/core/bits.h"
#include "base/core/fail.h"
#include "base/core/misuse.h"
#include "base/core/plant.h"
#include "base/core/poison.h"
#include "base/core/probe.h"
#include "place/ground.h"

#define ALIGN_LEAST  ((size_t)8) /* a free block holds its link, and bits are not finer */
#define GRANULE_MOST ((size_t)64)
#define SIZE_MOST    ((size_t)1 << 30)
#define BLOCKS_LEAST ((size_t)8)
#define FIRST_BYTES  ((size_t)4096)
#define CARVE_BYTES  ((size_t)4096) /* a page: touched together anyway */
#define CARVE_BLOCKS 64u            /* a bound for the slow path where blocks are small */
#define HEADER       sizeof(struct fh_pool_chunk)

_Static_assert(HEADER % 16 == 0, "bits follow the header");

/* ---- places ---------------------------------------------------------------------------------- */

static void *at(const struct fh_pool_chunk *chunk, uint32_t granule)
{
    return (unsigned char *)chunk + ((size_t)granule << chunk->shift);
}

static bool is_set(const struct fh_pool_chunk *chunk, uint32_t granule)
{
    return (((const uint64_t *)(const void *)(chunk + 1))[granule / 64] >> granule % 64) & 1;
}

static size_t words_of(const struct fh_pool_chunk *chunk)
{
    return ((size_t)chunk->granules + 63) / 64;
}

static bool is_block_place(const struct fh_pool_chunk *chunk, uint32_t granule)
{
    return granule >= chunk->first && granule < chunk->granules &&
           (granule - chunk->first) % chunk->stride == 0;
}

static size_t blocks_of(const struct fh_pool_chunk *chunk)
{
    return (chunk->granules - chunk->first) / chunk->stride;
}

static size_t live_in(const struct fh_pool_chunk *chunk)
{
    const uint64_t *bits = (const uint64_t *)(const void *)(chunk + 1);
    size_t live = 0;
    for (size_t i = 0, words = words_of(chunk); i < words; i++)
        live += fh_popcount(bits[i]);
    return live;
}

static unsigned shift_of(size_t stride)
{
    return (unsigned)__builtin_ctzll(stride | GRANULE_MOST);
}

/* What the beginning of a chunk must be a multiple of. */
static size_t base_align(size_t stride, size_t align)
{
    return fh_max(fh_max(align, (size_t)1 << shift_of(stride)), FH_ALIGN_DEFAULT);
}

/* Bytes of a chunk for so many blocks. */
static size_t bytes_for(size_t blocks, size_t stride, size_t align)
{
    unsigned shift = shift_of(stride);
    size_t bits = (blocks * stride + HEADER + align) >> shift;
    size_t begin = HEADER + (bits / 8 + bits / 256) + 2 * sizeof(uint64_t);
    size_t unit = base_align(stride, align);
    return fh_align_up(fh_align_up(begin, unit) + blocks * stride, unit);
}

/* Makes `bytes` at `memory` an empty chunk; false when not one block fits. */
static bool make_chunk(const struct fh_pool *pool, void *memory, size_t bytes)
{
    unsigned shift = shift_of(pool->size);
    size_t granules = fh_min(bytes >> shift, FH_POOL_NONE - 1);
    size_t begin = fh_align_up(HEADER + (granules + 63) / 64 * sizeof(uint64_t),
                               base_align(pool->size, pool->align)) >>
                   shift;
    size_t stride = pool->size >> shift;
    if (begin >= granules || granules - begin < stride)
        return false;
    struct fh_pool_chunk *chunk = memory;
    *chunk = (struct fh_pool_chunk){
        .free = FH_POOL_NONE,
        .granules = (uint32_t)(begin + (granules - begin) / stride * stride),
        .shift = shift,
        .first = (uint32_t)begin,
        .stride = (uint32_t)stride,
        .fresh = (uint32_t)begin,
        .align = (uint32_t)pool->align,
        .bytes = bytes,
    };
    __builtin_memset(fh_pool_bits(chunk), 0, words_of(chunk) * sizeof(uint64_t));
    fh_poison(at(chunk, chunk->first), bytes - ((size_t)chunk->first << shift));
    return true;
}

/* ---- free lists ------------------------------------------------------------------------------ */

static void push(const struct fh_pool *pool, struct fh_pool_chunk *chunk, uint32_t granule)
{
    void *block = at(chunk, granule);
    if (pool->is_watched)
        fh_unpoison(block, sizeof chunk->free);
    __builtin_memcpy(block, &chunk->free, sizeof chunk->free);
    chunk->free = granule;
    if (pool->is_watched)
        fh_poison(block, pool->size);
}

/* Puts fresh blocks on the empty list, the lowest first. */
static void carve(const struct fh_pool *pool, struct fh_pool_chunk *chunk)
{
    size_t stride_bytes = (size_t)chunk->stride << chunk->shift;
    uint32_t most = (uint32_t)fh_max(CARVE_BYTES / stride_bytes, 1);
    uint32_t left = (chunk->granules - chunk->fresh) / chunk->stride;
    uint32_t count = (uint32_t)fh_min(fh_min(most, CARVE_BLOCKS), left);
    uint32_t begin = chunk->fresh;
    chunk->fresh += count * chunk->stride;
    while (count-- > 0)
        push(pool, chunk, begin + count * chunk->stride);
}

/* The list was overwritten, by a write into a freed block. The bits know what is free. */
static void mend(const struct fh_pool *pool, struct fh_pool_chunk *chunk)
{
    fh_misuse("heap-corruption", chunk, "the free list of a pool was overwritten");
    chunk->free = FH_POOL_NONE;
    for (uint32_t granule = chunk->first; granule < chunk->fresh; granule += chunk->stride)
        if (!is_set(chunk, granule))
            push(pool, chunk, granule);
}

/* Whether the chunk has a block on its list now. */
static bool has_block(const struct fh_pool *pool, struct fh_pool_chunk *chunk)
{
    if (chunk->free != FH_POOL_NONE && (chunk->free >= chunk->fresh || is_set(chunk, chunk->free)))
        mend(pool, chunk);
    if (chunk->free == FH_POOL_NONE)
        carve(pool, chunk);
    return chunk->free != FH_POOL_NONE;
}

static void *pop(const struct fh_pool *pool, struct fh_pool_chunk *chunk)
{
    uint32_t granule = chunk->free;
    void *block = at(chunk, granule);
    if (pool->is_watched)
        fh_unpoison_defined(block, pool->size);
    __builtin_memcpy(&chunk->free, block, sizeof chunk->free);
    fh_pool_bits(chunk)[granule / 64] |= (uint64_t)FH_PLANT(pool_forgets_live_bit, 0, 1)
                                         << granule % 64;
    if (pool->is_watched)
        fh_unpoison(block, pool->size);
    return block;
}

/* ---- chunks ---------------------------------------------------------------------------------- */

static void use(struct fh_pool *pool, struct fh_pool_chunk *chunk)
{
    pool->chunk = pool->is_watched || chunk == NULL ? &pool->nothing : chunk;
}

static void add(struct fh_pool *pool, struct fh_pool_chunk *chunk)
{
    pool->chunks[pool->count] = chunk;
    pool->with_free |= (uint32_t)1 << pool->count++;
    if (pool->is_contiguous)
        pool->chunks[0]->chunks = pool->count;
}

static size_t chunk_bytes(const struct fh_pool *pool)
{
    size_t bytes = 0;
    for (uint32_t i = 0; i < pool->count; i++)
        bytes += pool->chunks[i]->bytes;
    return bytes;
}

/* The next piece of the one range: as large as all before it, or what is left. */
static bool grow_range(struct fh_pool *pool)
{
    struct fh_ground *ground = &pool->ground;
    size_t begin = chunk_bytes(pool), wanted = fh_min(pool->next_bytes, ground->capacity - begin);
    if (!fh_ground_grow(ground, begin + wanted))
        return false;
    size_t bytes = fh_align_down(ground->bytes - begin, base_align(pool->size, pool->align));
    if (!make_chunk(pool, ground->base + begin, bytes))
        return false;
    add(pool, (struct fh_pool_chunk *)(void *)(ground->base + begin));
    pool->next_bytes = begin + bytes;
    return true;
}

static bool grow_by_block(struct fh_pool *pool)
{
    struct fh_ground *ground = &pool->ground;
    size_t align = base_align(pool->size, pool->align);
    size_t left = fh_align_down(ground->capacity - ground->bytes, align);
    size_t least = bytes_for(1, pool->size, pool->align);
    for (size_t bytes = fh_min(pool->next_bytes, left); bytes >= least;
         bytes = fh_align_down(bytes / 2, align)) {
        void *memory = fh_alloc_with(&ground->parent, bytes, align, 0);
        if (memory == NULL)
            continue;
        if (!make_chunk(pool, memory, bytes)) {
            fh_free_sized(&ground->parent, memory, bytes, align);
            return false;
        }
        add(pool, memory);
        ground->bytes += bytes;
        ground->peak_bytes = fh_max(ground->peak_bytes, ground->bytes);
        pool->next_bytes = fh_max(pool->next_bytes, ground->bytes);
        return true;
    }
    return false;
}

static bool grow(struct fh_pool *pool)
{
    if (pool->count == FH_POOL_CHUNKS)
        return false;
    bool has_grown = pool->is_contiguous ? grow_range(pool) : grow_by_block(pool);
    if (has_grown)
        FH_PROBE2(pool_grow, pool, pool->ground.bytes);
    return has_grown;
}

/* A block of the oldest chunk that has one; NULL without a word. */
static void *take(struct fh_pool *pool, unsigned flags)
{
    do {
        while (pool->with_free != 0) {
            unsigned index = (unsigned)__builtin_ctz(pool->with_free);
            struct fh_pool_chunk *chunk = pool->chunks[index];
            if (has_block(pool, chunk)) {
                use(pool, chunk);
                return pop(pool, chunk);
            }
            pool->with_free &= ~((uint32_t)1 << index);
        }
    } while ((flags & FH_ALLOC_NO_GROWTH) == 0 && grow(pool));
    use(pool, NULL);
    return NULL;
}

static void *take_or_ask(struct fh_pool *pool, unsigned flags)
{
    void *block = take(pool, flags);
    if (block == NULL && fh_ground_ask(&pool->ground, pool->size))
        block = take(pool, flags);
    return block != NULL ? block : fh_fail(FH_ENOMEM);
}

void *fh_pool_alloc_slow(struct fh_pool *pool)
{
    return take_or_ask(pool, 0);
}

void *fh_pool_alloc_with(struct fh_pool *pool, size_t size, size_t align, unsigned flags)
{
    if (align != 0 && (!fh_is_pow2(align) || align > FH_ALIGN_MAX))
        return fh_fail(FH_EINVAL);
    if (size > pool->size || align > pool->align)
        return fh_fail(FH_ENOMEM);
    void *block = flags & FH_ALLOC_NO_GROWTH ? take_or_ask(pool, flags) : fh_pool_alloc(pool);
    if (block != NULL && (flags & FH_ALLOC_ZEROED))
        __builtin_memset(block, 0, FH_PLANT(pool_zeroes_half, size / 2, size));
    return block;
}

/* ---- opening and closing --------------------------------------------------------------------- */

static int open_range(struct fh_pool *pool, const struct fh_place_options *place, size_t first)
{
    bool has_wish = place->memory == NULL && place->capacity == 0 && first != 0;
    size_t least = bytes_for(has_wish ? first : 1, pool->size, pool->align);
    int error = fh_ground_open(&pool->ground, place, least, base_align(pool->size, pool->align));
    if (error != 0)
        return error;
    pool->is_contiguous = true;
    size_t bytes = fh_align_down(pool->ground.bytes, base_align(pool->size, pool->align));
    if (!make_chunk(pool, pool->ground.base, bytes)) {
        fh_ground_close(&pool->ground);
        return fh_error(FH_EINVAL);
    }
    add(pool, (struct fh_pool_chunk *)(void *)pool->ground.base);
    pool->next_bytes = bytes;
    use(pool, pool->chunks[0]);
    return 0;
}

int fh_pool_init(struct fh_pool *pool, const struct fh_pool_options *options)
{
    size_t align = options == NULL || options->align == 0 ? FH_ALIGN_DEFAULT : options->align;
    if (options == NULL || options->size == 0 || options->size > SIZE_MOST || !fh_is_pow2(align) ||
        align > SIZE_MOST)
        return fh_error(FH_EINVAL);
    align = fh_max(align, ALIGN_LEAST);
    size_t stride = fh_align_up(options->size, align);
    if (options->first > ((size_t)1 << 45) / stride)
        return fh_error(FH_EINVAL);
    const struct fh_place_options *place = &options->place;
    *pool = (struct fh_pool){.size = stride, .align = align, .is_watched = fh_poison_is_on()};
    use(pool, NULL);
    if (options->first != 0)
        pool->next_bytes = bytes_for(options->first, stride, align);
    else
        pool->next_bytes = fh_max(FIRST_BYTES, bytes_for(BLOCKS_LEAST, stride, align));
    if (place->memory != NULL || place->parent == NULL)
        return open_range(pool, place, options->first);
    pool->ground = (struct fh_ground){
        .capacity = place->capacity != 0 ? place->capacity : SIZE_MAX,
        .parent = *place->parent,
        .exhausted = place->exhausted,
        .exhausted_context = place->exhausted_context,
    };
    return 0;
}

/* Whether what lies there can be a chunk like `like` (NULL: any), and fits `bytes`. */
static bool is_chunk(const struct fh_pool_chunk *chunk, const struct fh_pool_chunk *like,
                     size_t bytes)
{
    if (bytes < HEADER || chunk->bytes > bytes || chunk->shift < 3 || chunk->shift > 6 ||
        chunk->stride == 0 || !fh_is_pow2(chunk->align) || chunk->first > chunk->fresh ||
        chunk->fresh > chunk->granules || chunk->granules == FH_POOL_NONE ||
        ((size_t)chunk->granules << chunk->shift) > chunk->bytes ||
        HEADER + words_of(chunk) * sizeof(uint64_t) > (size_t)chunk->first << chunk->shift)
        return false;
    size_t align = base_align((size_t)chunk->stride << chunk->shift, chunk->align);
    if ((uintptr_t)chunk % align != 0 || chunk->bytes % align != 0)
        return false;
    return like == NULL || (like->shift == chunk->shift && like->stride == chunk->stride &&
                            like->align == chunk->align);
}

int fh_pool_attach(struct fh_pool *pool, void *memory, size_t bytes)
{
    struct fh_pool_chunk *first = memory;
    if (memory == NULL || (uintptr_t)memory % FH_ALIGN_DEFAULT != 0 ||
        !is_chunk(first, NULL, bytes) || first->chunks == 0 || first->chunks > FH_POOL_CHUNKS)
        return fh_error(FH_EINVAL);
    size_t offset = 0;
    for (uint32_t i = 0; i < first->chunks; i++) {
        struct fh_pool_chunk *chunk = (void *)((unsigned char *)memory + offset);
        if (!is_chunk(chunk, first, bytes - offset))
            return fh_error(FH_EINVAL);
        offset += chunk->bytes;
    }
    *pool = (struct fh_pool){
        .size = (size_t)first->stride << first->shift,
        .align = first->align,
        .is_contiguous = true,
        .is_watched = fh_poison_is_on(),
    };
    fh_ground_attach(&pool->ground, memory, bytes);
    uint32_t count = first->chunks;
    offset = 0;
    for (uint32_t i = 0; i < count; i++) {
        struct fh_pool_chunk *chunk = (void *)((unsigned char *)memory + offset);
        offset += chunk->bytes;
        add(pool, chunk);
    }
    use(pool, first);
    return 0;
}

void fh_pool_destroy(struct fh_pool *pool)
{
    if (pool->is_contiguous) {
        fh_unpoison(pool->ground.base, pool->ground.bytes);
        fh_ground_close(&pool->ground);
    } else {
        size_t align = base_align(pool->size, pool->align);
        while (pool->count > 0) {
            struct fh_pool_chunk *chunk = pool->chunks[--pool->count];
            size_t bytes = chunk->bytes;
            fh_unpoison(chunk, bytes);
            fh_free_sized(&pool->ground.parent, chunk, bytes, align);
        }
    }
    *pool = (struct fh_pool){.chunk = &pool->nothing};
}

void fh_pool_reset(struct fh_pool *pool)
{
    for (uint32_t i = 0; i < pool->count; i++) {
        struct fh_pool_chunk *chunk = pool->chunks[i];
        __builtin_memset(fh_pool_bits(chunk), 0, words_of(chunk) * sizeof(uint64_t));
        fh_poison(at(chunk, chunk->first), (size_t)(chunk->fresh - chunk->first) << chunk->shift);
        chunk->free = FH_POOL_NONE;
        chunk->fresh = chunk->first;
        pool->with_free |= (uint32_t)1 << i;
    }
    use(pool, pool->count != 0 ? pool->chunks[0] : NULL);
}

size_t fh_pool_trim(struct fh_pool *pool)
{
    if (pool->is_contiguous)
        return 0;
    size_t given = 0, align = base_align(pool->size, pool->align);
    uint32_t kept = 0, with_free = 0;
    for (uint32_t i = 0; i < pool->count; i++) {
        struct fh_pool_chunk *chunk = pool->chunks[i];
        if (live_in(chunk) != 0) {
            with_free |= (pool->with_free >> i & 1) << kept;
            pool->chunks[kept++] = chunk;
            continue;
        }
        size_t bytes = chunk->bytes;
        fh_unpoison(chunk, bytes);
        fh_free_sized(&pool->ground.parent, chunk, bytes, align);
        given += bytes;
    }
    pool->count = kept;
    pool->with_free = with_free;
    pool->ground.bytes -= given;
    use(pool, NULL);
    return given;
}

/* ---- blocks that are there ------------------------------------------------------------------- */

/* The index of the chunk that the address lies in; count when in none. */
static uint32_t find(const struct fh_pool *pool, const void *address)
{
    for (uint32_t i = pool->count; i-- > 0;)
        if ((uintptr_t)address - (uintptr_t)pool->chunks[i] < pool->chunks[i]->bytes)
            return i;
    return pool->count;
}

bool fh_pool_owns(const struct fh_pool *pool, const void *address)
{
    return find(pool, address) != pool->count;
}

/* The chunk's index and the place of a live block; false, and reported, when it is none. */
static bool find_live(const struct fh_pool *pool, const void *block, uint32_t *index,
                      uint32_t *granule)
{
    *index = find(pool, block);
    if (*index == pool->count) {
        fh_misuse("invalid-free", block, "not a block of this pool");
        return false;
    }
    const struct fh_pool_chunk *chunk = pool->chunks[*index];
    size_t offset = (uintptr_t)block - (uintptr_t)chunk;
    *granule = (uint32_t)fh_min(offset >> chunk->shift, FH_POOL_NONE);
    if (*granule < chunk->first || *granule >= chunk->fresh)
        fh_misuse("invalid-free", block, "in a pool, where no block has ever been handed out");
    else if (at(chunk, *granule) != block || !is_block_place(chunk, *granule))
        fh_misuse("interior-free", block, "inside a block of a pool");
    else if (!is_set(chunk, *granule))
        fh_misuse("double-free", block, "a block of a pool that is free already");
    else
        return true;
    return false;
}

void fh_pool_free_slow(struct fh_pool *pool, void *block)
{
    uint32_t index, granule;
    if (block == NULL || !find_live(pool, block, &index, &granule))
        return;
    struct fh_pool_chunk *chunk = pool->chunks[index];
    fh_pool_bits(chunk)[granule / 64] &= ~((uint64_t)1 << granule % 64);
    push(pool, chunk, granule);
    pool->with_free |= (uint32_t)1 << index;
}

void fh_pool_free_sized(struct fh_pool *pool, void *block, size_t size, size_t align)
{
    (void)align;
    if (block != NULL && size > pool->size) {
        fh_misuse("size-mismatch", block, "freed with a size larger than the pool's blocks");
        return;
    }
    fh_pool_free(pool, block);
}

bool fh_pool_resize_in_place(struct fh_pool *pool, void *block, size_t old_size, size_t new_size)
{
    uint32_t index, granule;
    (void)old_size;
    return find_live(pool, block, &index, &granule) && new_size <= pool->size;
}

void *fh_pool_resize(struct fh_pool *pool, void *block, size_t old_size, size_t new_size,
                     size_t align)
{
    if (block == NULL)
        return fh_pool_alloc_with(pool, new_size, align, 0);
    if (align != 0 && (!fh_is_pow2(align) || align > FH_ALIGN_MAX))
        return fh_fail(FH_EINVAL);
    uint32_t index, granule;
    if (!find_live(pool, block, &index, &granule))
        return fh_fail(FH_EINVAL);
    (void)old_size;
    return new_size <= pool->size && align <= pool->align ? block : fh_fail(FH_ENOMEM);
}

size_t fh_pool_usable_size(const struct fh_pool *pool, const void *block)
{
    return block != NULL ? pool->size : 0;
}

/* ---- looking at it --------------------------------------------------------------------------- */

int fh_pool_each(struct fh_pool *pool, int (*visit)(void *context, void *block), void *context)
{
    for (uint32_t i = 0; i < pool->count; i++) {
        struct fh_pool_chunk *chunk = pool->chunks[i];
        for (size_t word = 0, words = words_of(chunk); word < words; word++) {
            for (uint64_t bits = fh_pool_bits(chunk)[word]; bits != 0; bits &= bits - 1) {
                uint32_t granule = (uint32_t)(word * 64 + (size_t)__builtin_ctzll(bits));
                int result = visit(context, at(chunk, granule));
                if (result != 0)
                    return result;
            }
        }
    }
    return 0;
}

size_t fh_pool_live(const struct fh_pool *pool)
{
    size_t live = 0;
    for (uint32_t i = 0; i < pool->count; i++)
        live += live_in(pool->chunks[i]);
    return live;
}

int fh_pool_measure(const struct fh_pool *pool, struct fh_measure *out)
{
    if (out->size != sizeof *out)
        return fh_error(FH_EINVAL);
    size_t blocks = 0, live = fh_pool_live(pool);
    for (uint32_t i = 0; i < pool->count; i++)
        blocks += blocks_of(pool->chunks[i]);
    *out = (struct fh_measure){
        .size = sizeof *out,
        .live_blocks = live,
        .live_bytes = live * pool->size,
        .free_bytes = (blocks - live) * pool->size,
        .largest_free = blocks != live ? pool->size : 0,
        .metadata = pool->ground.bytes - blocks * pool->size,
        .footprint = pool->ground.bytes,
        .reserved = pool->is_contiguous ? pool->ground.capacity : pool->ground.bytes,
        .free_blocks = blocks - live,
        .peak_footprint = pool->ground.peak_bytes,
    };
    return 0;
}

int fh_pool_walk(const struct fh_pool *pool,
                 int (*visit)(void *context, const struct fh_block *block), void *context)
{
    for (uint32_t i = 0; i < pool->count; i++) {
        const struct fh_pool_chunk *chunk = pool->chunks[i];
        for (uint32_t granule = chunk->first; granule < chunk->granules; granule += chunk->stride) {
            struct fh_block block = {at(chunk, granule), pool->size, is_set(chunk, granule)};
            int result = visit(context, &block);
            if (result != 0)
                return result;
        }
    }
    return 0;
}

/* Blocks on the list; `most` + 1 when it has a ring or a wrong link. */
static size_t count_list(const struct fh_pool *pool, const struct fh_pool_chunk *chunk, size_t most)
{
    size_t count = 0;
    uint32_t granule = chunk->free;
    while (granule != FH_POOL_NONE && count <= most) {
        if (!is_block_place(chunk, granule) || granule >= chunk->fresh || is_set(chunk, granule))
            return most + 1;
        const void *block = at(chunk, granule);
        if (pool->is_watched)
            fh_unpoison_defined(block, sizeof granule);
        __builtin_memcpy(&granule, block, sizeof granule);
        if (pool->is_watched)
            fh_poison(block, sizeof granule);
        count++;
    }
    return count;
}

static int check_chunk(const struct fh_pool *pool, uint32_t index)
{
    const struct fh_pool_chunk *chunk = pool->chunks[index];
    int broken = 0;
    size_t live = 0;
    for (uint32_t granule = chunk->first; granule < chunk->fresh; granule += chunk->stride)
        live += is_set(chunk, granule);
    if (live != live_in(chunk)) {
        fh_broken("pool %p: %zu bits of chunk %u are set where no block begins", (const void *)pool,
                  live_in(chunk) - live, index);
        broken++;
    }
    size_t below = (chunk->fresh - chunk->first) / chunk->stride;
    size_t listed = count_list(pool, chunk, below - live);
    if (listed != below - live) {
        fh_broken("pool %p: the free list of chunk %u is not the %zu free blocks",
                  (const void *)pool, index, below - live);
        broken++;
    }
    if ((pool->with_free >> index & 1) == 0 &&
        (chunk->free != FH_POOL_NONE || chunk->fresh != chunk->granules)) {
        fh_broken("pool %p: chunk %u has blocks to give and is not asked", (const void *)pool,
                  index);
        broken++;
    }
    return broken;
}

int fh_pool_check(const struct fh_pool *pool)
{
    int broken = 0;
    size_t bytes = chunk_bytes(pool);
    for (uint32_t i = 0; i < pool->count; i++)
        broken += check_chunk(pool, i);
    if (bytes > pool->ground.bytes) {
        fh_broken("pool %p: chunks of %zu bytes, %zu were taken", (const void *)pool, bytes,
                  pool->ground.bytes);
        broken++;
    }
    return broken;
}

/* ---- fh_allocator ---------------------------------------------------------------------------- */

FH_ADAPT_ALLOC(pool)
FH_ADAPT_FREE(pool)
FH_ADAPT_FREE_SIZED(pool)
FH_ADAPT_USABLE_SIZE(pool)
FH_ADAPT_RESIZE_SIZED(pool)
FH_ADAPT_WHOLE(pool)

#define POOL_OPS(more)                                                                             \
    FH_ADAPTER_OPS("pool",                                                                         \
                   FH_ALLOCATOR_CONSTANT_TIME | FH_ALLOCATOR_ONE_SIZE |                            \
                       FH_ALLOCATOR_SEES_DOUBLE_FREE | (more),                                     \
                   op_resize_in_place, op_usable_size)

struct fh_allocator fh_pool_allocator(struct fh_pool *pool)
{
    static const struct fh_allocator_ops contiguous = POOL_OPS(FH_ALLOCATOR_RELOCATABLE);
    static const struct fh_allocator_ops chained = POOL_OPS(0);
    return (struct fh_allocator){pool->is_contiguous ? &contiguous : &chained, pool};
}
