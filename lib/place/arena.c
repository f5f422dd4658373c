/*
 * arena: blocks one behind the other in chunks; a mark is a place, and rewinding goes back there.
 *
 * A chunk begins with its header, which says how far it is used and where the fast path must stop,
 * both as offsets from the header. The handle points to the chunk that is cut. So one inline path
 * (arena.h) serves both kinds of arena, and moving a contiguous one takes nothing but a new pointer
 * in the handle.
 *
 *     contiguous   | header | blocks ........ | free | (purged) | not committed yet ... capacity
 *                                               used   end        ground.bytes
 *
 *     chained      chunk -> [hdr| blocks | free ]   -> [hdr| blocks |tail] -> ... -> nothing
 *                  large -> [hdr| one block     ]   -> ...
 *                  spare -> [hdr|               ]   -> ...   empty, for reuse
 *
 * `end` is where a chunk really ends: its bytes, less what a trim has purged of the one range.
 * `limit` is what the fast path sees of it. While memory is watched (AddressSanitizer, valgrind)
 * limit is `used`, so that every call arrives here, where the block is unpoisoned and a red zone
 * left behind it. The fast path knows nothing of that.
 *
 * Chunks double. n bytes of blocks so take log2(n / first) calls of the parent, and the last chunk,
 * of which on average half is empty, is no larger than all before it together. Doubling stops at
 * chunk_max (1 MiB): beyond that the calls saved are few (one a mebibyte costs nothing beside
 * writing it) and the empty half would be large. The first is 4 KiB: many small arenas cost a page
 * each. A request over a quarter of chunk_max gets a chunk of its own; one over a quarter of the
 * next chunk makes that chunk larger. So what is lost at the end of a chunk that is left is less
 * than a quarter of its successor.
 *
 * Rewinding to a mark moves the chunks that came after it to `spare`, newest first, so the list has
 * the oldest at its head and they are reused in the order in which they were used. A request takes
 * the first spare chunk that holds it; a new chunk is made only when none does. So a cycle of reset
 * and the same requests comes to rest after at most one chunk more for each oversized one.
 *
 * The alignment a block was given is not written down. What a resize that moves must keep is
 * bounded from above by the block's address and by the largest alignment anybody asked this arena
 * for; the smaller one is kept: 16 where nobody asked for more.
 *
 * Invariants (fh_arena_check): header <= used <= end, limit <= end, all multiples of 16; of chained
 * arenas, the chunks' bytes add up to ground.bytes; `nothing` ends the list of chunks and holds no
 * block.
 */
#include "freehold/arena.h"

#include "base/core/adapter.h"
#include "base/core/bits.h"
#include "base/core/fail.h"
#include "base/core/misuse.h"
#include "base/core/plant.h"
#include "base/core/poison.h"
#include "base/core/probe.h"
#include "place/ground.h"

#define STEP          ((size_t)FH_ALIGN_DEFAULT)
#define HEADER        sizeof(struct fh_arena_chunk)
#define RED_ZONE      ((size_t)16) /* a step: the next block stays aligned */
#define CHUNK         ((size_t)4096)
#define CHUNK_MAX     ((size_t)1 << 20)
#define CHUNK_LEAST   ((size_t)256) /* the header and more than as much for blocks */
#define CHUNK_LARGEST ((size_t)1 << 46)

_Static_assert(HEADER % FH_ALIGN_DEFAULT == 0, "blocks follow the header");

/* ---- chunks ---------------------------------------------------------------------------------- */

static size_t end_of(const struct fh_arena *arena, const struct fh_arena_chunk *chunk)
{
    return fh_align_down(
        arena->is_contiguous ? arena->ground.bytes - arena->ground.purged : chunk->bytes, STEP);
}

/* After each change of used or of the end. */
static void set_limit(const struct fh_arena *arena, struct fh_arena_chunk *chunk)
{
    chunk->limit = arena->is_watched ? chunk->used : end_of(arena, chunk);
}

/* What a block of `size` takes; size is at most PTRDIFF_MAX. */
static size_t taken_by(const struct fh_arena *arena, size_t size)
{
    return fh_align_up(fh_max(size, 1), STEP) + (arena->is_watched ? RED_ZONE : 0);
}

static void *at(const struct fh_arena_chunk *chunk, size_t offset)
{
    return (unsigned char *)chunk + offset;
}

static size_t offset_in(const struct fh_arena_chunk *chunk, const void *address)
{
    return (uintptr_t)address - (uintptr_t)chunk;
}

/* Everything behind `used` is free. */
static void cut_off(const struct fh_arena *arena, struct fh_arena_chunk *chunk, size_t used)
{
    fh_poison(at(chunk, used), chunk->used - used);
    chunk->used = used;
    set_limit(arena, chunk);
}

static void note_alignment(struct fh_arena *arena, size_t align)
{
    if (align <= arena->align)
        return;
    arena->align = (uint32_t)align;
    if (arena->is_contiguous) {
        arena->chunk->align = (uint32_t)align;
        arena->chunk->base_low = (uint32_t)(uintptr_t)arena->chunk;
    }
}

/* A block at the end of what the chunk has used, if it fits there. */
static void *cut(struct fh_arena *arena, struct fh_arena_chunk *chunk, size_t size, size_t align)
{
    unsigned char *begin = at(chunk, chunk->used);
    size_t room = end_of(arena, chunk) - chunk->used, taken = taken_by(arena, size);
    size_t gap = FH_PLANT(arena_forgets_alignment, 0, -(uintptr_t)begin & (align - 1));
    if (gap > room || taken > room - gap)
        return NULL;
    note_alignment(arena, align);
    chunk->used += gap + FH_PLANT(arena_hands_out_twice, taken / 2 & ~(size_t)15, taken);
    set_limit(arena, chunk);
    fh_unpoison(begin + gap, size);
    return begin + gap;
}

static void push(struct fh_arena_chunk **list, struct fh_arena_chunk *chunk)
{
    chunk->next = *list;
    *list = chunk;
}

static struct fh_arena_chunk *pop(struct fh_arena_chunk **list)
{
    struct fh_arena_chunk *chunk = *list;
    *list = chunk->next;
    return chunk;
}

/* ---- more memory ----------------------------------------------------------------------------- */

/* Makes the one range reach to `end`: first what was purged, a sixteenth or a step at a time as
 * when it was committed; then the source. */
static bool extend(struct fh_arena *arena, size_t end)
{
    struct fh_ground *ground = &arena->ground;
    size_t before = ground->bytes;
    if (end > ground->capacity || (end > before && !fh_ground_grow(ground, end)))
        return false;
    fh_poison(at(arena->chunk, before), ground->bytes - before);
    size_t here = before - ground->purged;
    size_t wanted = fh_align_up(fh_max(end, here + here / 16), FH_GROUND_STEP);
    ground->purged -= fh_min(ground->purged, wanted - fh_min(wanted, here));
    if (end > before)
        ground->purged = 0;
    ground->peak_bytes = fh_max(ground->peak_bytes, ground->bytes - ground->purged);
    arena->chunk->bytes = ground->bytes;
    set_limit(arena, arena->chunk);
    FH_PROBE2(arena_grow, arena, ground->bytes);
    return true;
}

static void *take_contiguous(struct fh_arena *arena, size_t size, size_t align, unsigned flags)
{
    struct fh_arena_chunk *chunk = arena->chunk;
    size_t gap = -(uintptr_t)at(chunk, chunk->used) & (align - 1);
    if ((flags & FH_ALLOC_NO_GROWTH) || !extend(arena, chunk->used + gap + taken_by(arena, size)))
        return NULL;
    return cut(arena, chunk, size, align);
}

static struct fh_arena_chunk *take_spare(struct fh_arena *arena, size_t bytes)
{
    for (struct fh_arena_chunk **link = &arena->spare; *link != NULL; link = &(*link)->next)
        if ((*link)->bytes >= bytes)
            return pop(link);
    return NULL;
}

/* A chunk of `wish` bytes, or where there is no room for that, of `least`. */
static struct fh_arena_chunk *new_chunk(struct fh_arena *arena, size_t least, size_t wish)
{
    struct fh_ground *ground = &arena->ground;
    size_t left = ground->capacity - ground->bytes;
    for (size_t bytes = wish;; bytes = least) {
        struct fh_arena_chunk *chunk = NULL;
        if (bytes <= left)
            chunk = fh_alloc_with(&ground->parent, bytes, FH_ALIGN_DEFAULT, 0);
        if (chunk != NULL) {
            *chunk = (struct fh_arena_chunk){.used = HEADER, .bytes = bytes};
            fh_poison(at(chunk, HEADER), bytes - HEADER);
            ground->bytes += bytes;
            ground->peak_bytes = fh_max(ground->peak_bytes, ground->bytes);
            FH_PROBE2(arena_grow, arena, ground->bytes);
            return chunk;
        }
        if (bytes == least)
            return NULL;
    }
}

static void *take_chained(struct fh_arena *arena, size_t size, size_t align, unsigned flags)
{
    size_t least = HEADER + (align - STEP) + taken_by(arena, size);
    bool is_large = least > arena->chunk_max / 4;
    struct fh_arena_chunk *chunk = take_spare(arena, least);
    if (chunk == NULL) {
        if (flags & FH_ALLOC_NO_GROWTH)
            return NULL;
        size_t wish = is_large ? least : arena->chunk_bytes;
        while (!is_large && least > wish / 4)
            wish *= 2;
        chunk = new_chunk(arena, least, fh_min(wish, fh_max(least, arena->chunk_max)));
        if (chunk == NULL)
            return NULL;
        if (!is_large && chunk->bytes == wish)
            arena->chunk_bytes = fh_min(wish * 2, arena->chunk_max);
    }
    if (!is_large)
        push(&arena->chunk, chunk);
    else
        push(&arena->large, chunk);
    return cut(arena, chunk, size, align);
}

/* NULL without a word. */
static void *take(struct fh_arena *arena, size_t size, size_t align, unsigned flags)
{
    if (size > PTRDIFF_MAX - ((size_t)FH_ALIGN_MAX + CHUNK))
        return NULL;
    void *block = cut(arena, arena->chunk, size, align);
    if (block != NULL)
        return block;
    return arena->is_contiguous ? take_contiguous(arena, size, align, flags)
                                : take_chained(arena, size, align, flags);
}

static void *take_or_ask(struct fh_arena *arena, size_t size, size_t align, unsigned flags)
{
    void *block = take(arena, size, align, flags);
    if (block == NULL && fh_ground_ask(&arena->ground, size))
        block = take(arena, size, align, flags);
    return block != NULL ? block : fh_fail(FH_ENOMEM);
}

void *fh_arena_alloc_slow(struct fh_arena *arena, size_t size, size_t align)
{
    return take_or_ask(arena, size, align, 0);
}

void *fh_arena_alloc_with(struct fh_arena *arena, size_t size, size_t align, unsigned flags)
{
    if (align == 0)
        align = FH_ALIGN_DEFAULT;
    if (!fh_is_pow2(align) || align > FH_ALIGN_MAX)
        return fh_fail(FH_EINVAL);
    void *block = take_or_ask(arena, size, fh_max(align, FH_ALIGN_DEFAULT), flags);
    if (block != NULL && (flags & FH_ALLOC_ZEROED))
        __builtin_memset(block, 0, size);
    return block;
}

/* ---- opening and closing --------------------------------------------------------------------- */

static int open_chained(struct fh_arena *arena, const struct fh_arena_options *options)
{
    const struct fh_place_options *place = &options->place;
    size_t chunk = options->chunk != 0 ? options->chunk : CHUNK;
    size_t chunk_max = options->chunk_max != 0 ? options->chunk_max : fh_max(CHUNK_MAX, chunk);
    if (chunk > chunk_max || chunk_max > CHUNK_LARGEST)
        return fh_error(FH_EINVAL);
    arena->chunk_bytes = fh_pow2_ceil(fh_max(chunk, CHUNK_LEAST));
    arena->chunk_max = fh_pow2_ceil(fh_max(chunk_max, CHUNK_LEAST));
    arena->ground = (struct fh_ground){
        .capacity = place->capacity != 0 ? place->capacity : SIZE_MAX,
        .parent = *place->parent,
        .exhausted = place->exhausted,
        .exhausted_context = place->exhausted_context,
    };
    arena->chunk = &arena->nothing;
    return 0;
}

int fh_arena_init(struct fh_arena *arena, const struct fh_arena_options *options)
{
    *arena = (struct fh_arena){.is_watched = fh_poison_is_on(), .align = FH_ALIGN_DEFAULT};
    if (options != NULL && options->place.memory == NULL && options->place.parent != NULL)
        return open_chained(arena, options);
    int error = fh_ground_open(&arena->ground, options != NULL ? &options->place : NULL,
                               HEADER + STEP, FH_ALIGN_DEFAULT);
    if (error != 0)
        return error;
    arena->is_contiguous = true;
    arena->chunk = (struct fh_arena_chunk *)(void *)arena->ground.base;
    *arena->chunk = (struct fh_arena_chunk){.used = HEADER, .bytes = arena->ground.bytes};
    set_limit(arena, arena->chunk);
    fh_poison(at(arena->chunk, HEADER), arena->ground.bytes - HEADER);
    return 0;
}

int fh_arena_attach(struct fh_arena *arena, void *memory, size_t bytes)
{
    struct fh_arena_chunk *chunk = memory;
    if (memory == NULL || (uintptr_t)memory % STEP != 0 || bytes < HEADER || chunk->used < HEADER ||
        chunk->used % STEP != 0 || chunk->used > bytes || chunk->used > chunk->bytes ||
        (chunk->align != 0 && (!fh_is_pow2(chunk->align) ||
                               ((chunk->base_low ^ (uintptr_t)memory) & (chunk->align - 1)) != 0)))
        return fh_error(FH_EINVAL);
    *arena = (struct fh_arena){
        .chunk = chunk,
        .align = fh_max(chunk->align, FH_ALIGN_DEFAULT) & UINT32_MAX,
        .is_contiguous = true,
        .is_watched = fh_poison_is_on(),
    };
    fh_ground_attach(&arena->ground, memory, bytes);
    chunk->bytes = bytes;
    set_limit(arena, chunk);
    return 0;
}

static size_t release_list(struct fh_arena *arena, struct fh_arena_chunk **list, size_t keep)
{
    size_t released = 0;
    while (*list != NULL && *list != &arena->nothing) {
        size_t bytes = (*list)->bytes;
        if (bytes <= keep) {
            keep -= bytes;
            list = &(*list)->next;
            continue;
        }
        struct fh_arena_chunk *chunk = pop(list);
        fh_unpoison(chunk, bytes);
        fh_free_sized(&arena->ground.parent, chunk, bytes, FH_ALIGN_DEFAULT);
        released += bytes;
    }
    arena->ground.bytes -= released;
    return released;
}

void fh_arena_destroy(struct fh_arena *arena)
{
    if (arena->is_contiguous) {
        fh_unpoison(arena->ground.base, arena->ground.bytes);
        fh_ground_close(&arena->ground);
    } else {
        release_list(arena, &arena->large, 0);
        release_list(arena, &arena->chunk, 0);
        release_list(arena, &arena->spare, 0);
    }
    *arena = (struct fh_arena){.chunk = &arena->nothing};
}

size_t fh_arena_trim(struct fh_arena *arena, size_t keep)
{
    struct fh_ground *ground = &arena->ground;
    if (!arena->is_contiguous)
        return release_list(arena, &arena->spare, keep);
    size_t end = ground->bytes - ground->purged, begin;
    if (!fh_align_up_checked(arena->chunk->used, FH_GROUND_STEP, &begin) || keep > end ||
        !fh_align_up_checked(arena->chunk->used + keep, FH_GROUND_STEP, &begin) || begin >= end)
        return 0;
    size_t given = fh_ground_purge(ground, begin, end - begin);
    if (given != 0)
        ground->purged = ground->bytes - begin;
    set_limit(arena, arena->chunk);
    return given;
}

/* ---- blocks that are there ------------------------------------------------------------------- */

static struct fh_arena_chunk *find_in(struct fh_arena_chunk *list, const void *address)
{
    for (; list != NULL; list = list->next)
        if (offset_in(list, address) < list->bytes)
            return list;
    return NULL;
}

/* The chunk that the address lies in, a full one's tail included; spare ones are not looked at. */
static struct fh_arena_chunk *find(const struct fh_arena *arena, const void *address)
{
    struct fh_arena_chunk *chunk = find_in(arena->chunk, address);
    return chunk != NULL ? chunk : find_in(arena->large, address);
}

/* The chunk of what may be a block of at least `size` bytes; else NULL, and it is reported. */
static struct fh_arena_chunk *chunk_of_block(const struct fh_arena *arena, const void *block,
                                             size_t size)
{
    struct fh_arena_chunk *chunk = find(arena, block);
    if (chunk == NULL && find_in(arena->spare, block) == NULL) {
        fh_misuse("invalid-free", block, "not a block of this arena");
        return NULL;
    }
    size_t offset = chunk != NULL ? offset_in(chunk, block) : 0;
    if (chunk == NULL || offset >= chunk->used)
        fh_misuse("double-free", block, "in an arena, where no block is any more");
    else if (offset < HEADER)
        fh_misuse("invalid-free", block, "in the header of an arena's chunk");
    else if (offset % STEP != 0)
        fh_misuse("interior-free", block, "inside a block of an arena");
    else if (size > chunk->used - offset)
        fh_misuse("size-mismatch", block, "what the arena has handed out there is shorter");
    else
        return chunk;
    return NULL;
}

static bool is_last(const struct fh_arena *arena, const struct fh_arena_chunk *chunk,
                    const void *block, size_t size)
{
    return chunk == arena->chunk && offset_in(chunk, block) + taken_by(arena, size) == chunk->used;
}

bool fh_arena_owns(const struct fh_arena *arena, const void *address)
{
    return find(arena, address) != NULL || find_in(arena->spare, address) != NULL;
}

void fh_arena_free(struct fh_arena *arena, void *block)
{
    if (block != NULL)
        chunk_of_block(arena, block, 0);
}

void fh_arena_free_sized(struct fh_arena *arena, void *block, size_t size, size_t align)
{
    (void)align;
    struct fh_arena_chunk *chunk = block != NULL ? chunk_of_block(arena, block, size) : NULL;
    if (chunk != NULL && is_last(arena, chunk, block, size))
        cut_off(arena, chunk, offset_in(chunk, block));
}

/* The block has its new size; what it may touch now. */
static void mark_resized(const struct fh_arena *arena, unsigned char *block, size_t old_size,
                         size_t new_size)
{
    if (!arena->is_watched)
        return;
    if (old_size == 0)
        fh_unpoison_defined(block, new_size);
    else if (new_size > old_size)
        fh_unpoison(block + old_size, new_size - old_size);
    fh_poison(block + new_size, taken_by(arena, new_size) - new_size);
}

/* Of a block that `chunk` holds. An unknown old_size is taken for the least, one step: then what is
 * said is true of any. */
static bool resize_there(struct fh_arena *arena, struct fh_arena_chunk *chunk, void *block,
                         size_t old_size, size_t new_size)
{
    if (new_size > PTRDIFF_MAX - CHUNK)
        return false;
    size_t taken = taken_by(arena, new_size);
    if (is_last(arena, chunk, block, old_size)) {
        size_t begin = offset_in(chunk, block);
        if (taken > end_of(arena, chunk) - begin &&
            (!arena->is_contiguous || !extend(arena, begin + taken)))
            return false;
        if (begin + taken < chunk->used)
            cut_off(arena, chunk, begin + taken);
        chunk->used = begin + taken;
        set_limit(arena, chunk);
    } else if (taken > taken_by(arena, old_size)) {
        return false;
    }
    mark_resized(arena, block, old_size, new_size);
    return true;
}

bool fh_arena_resize_in_place(struct fh_arena *arena, void *block, size_t old_size, size_t new_size)
{
    struct fh_arena_chunk *chunk = chunk_of_block(arena, block, old_size);
    return chunk != NULL && resize_there(arena, chunk, block, old_size, new_size);
}

void *fh_arena_resize(struct fh_arena *arena, void *block, size_t old_size, size_t new_size,
                      size_t align)
{
    if (block == NULL)
        return fh_arena_alloc_with(arena, new_size, align, 0);
    if (align != 0 && (!fh_is_pow2(align) || align > FH_ALIGN_MAX))
        return fh_fail(FH_EINVAL);
    struct fh_arena_chunk *chunk = chunk_of_block(arena, block, old_size);
    if (chunk == NULL)
        return fh_fail(FH_EINVAL);
    uintptr_t address = (uintptr_t)block;
    if ((align == 0 || (address & (align - 1)) == 0) &&
        resize_there(arena, chunk, block, old_size, new_size))
        return block;
    size_t rest = chunk->used - offset_in(chunk, block);
    void *moved = fh_arena_alloc_with(
        arena, new_size, align != 0 ? align : fh_min(address & -address, arena->align), 0);
    if (moved == NULL)
        return NULL;
    size_t copied = fh_min(old_size != 0 ? old_size : rest, new_size);
    if (old_size == 0)
        fh_unpoison_defined(block, copied); /* it may reach over the ends of blocks */
    __builtin_memcpy(moved, block, copied);
    return moved;
}

/* ---- marks ----------------------------------------------------------------------------------- */

static bool is_in(const struct fh_arena_chunk *list, const struct fh_arena_chunk *chunk)
{
    while (list != NULL && list != chunk)
        list = list->next;
    return list == chunk;
}

static void set_aside(struct fh_arena *arena, struct fh_arena_chunk **list)
{
    struct fh_arena_chunk *chunk = pop(list);
    cut_off(arena, chunk, HEADER);
    push(&arena->spare, chunk);
}

void fh_arena_rewind(struct fh_arena *arena, struct fh_arena_mark mark)
{
    if (arena->is_contiguous) /* it may have moved since */
        mark.chunk = arena->chunk;
    else if (mark.chunk == NULL)
        mark.chunk = &arena->nothing;
    if (!is_in(arena->chunk, mark.chunk) || !is_in(arena->large, mark.large) ||
        mark.used > mark.chunk->used || mark.used % STEP != 0) {
        fh_misuse("invalid-free", mark.chunk, "rewound to a mark that does not hold any more");
        return;
    }
    while (arena->large != mark.large)
        set_aside(arena, &arena->large);
    while (arena->chunk != mark.chunk)
        set_aside(arena, &arena->chunk);
    if (mark.used < arena->chunk->used)
        cut_off(arena, arena->chunk, mark.used);
}

void fh_arena_reset(struct fh_arena *arena)
{
    fh_arena_rewind(arena, (struct fh_arena_mark){.used = arena->is_contiguous ? HEADER : 0});
}

/* ---- looking at it --------------------------------------------------------------------------- */

struct look {
    int (*visit)(void *context, const struct fh_block *block);
    void *context;
    struct fh_measure *out;
};

/* One stretch of a chunk, visited or counted. */
static int see(const struct look *look, void *address, size_t bytes, bool is_live)
{
    if (bytes == 0)
        return 0;
    if (look->visit != NULL) {
        struct fh_block block = {address, bytes, is_live};
        return look->visit(look->context, &block);
    }
    struct fh_measure *out = look->out;
    if (is_live) {
        out->live_blocks++;
        out->live_bytes += bytes;
    } else {
        out->free_blocks++;
        out->free_bytes += bytes;
        out->largest_free = fh_max(out->largest_free, bytes);
    }
    return 0;
}

/* A chunk: what is handed out; and what is not, where it can still be. */
static int see_chunk(const struct fh_arena *arena, const struct look *look,
                     struct fh_arena_chunk *chunk, bool can_be_cut)
{
    if (chunk == &arena->nothing)
        return 0;
    int result = see(look, at(chunk, HEADER), chunk->used - HEADER, true);
    if (result != 0 || !can_be_cut)
        return result;
    return see(look, at(chunk, chunk->used), end_of(arena, chunk) - chunk->used, false);
}

static int see_all(const struct fh_arena *arena, const struct look *look)
{
    int result = 0;
    for (struct fh_arena_chunk *chunk = arena->chunk; chunk != NULL && result == 0;
         chunk = chunk->next)
        result = see_chunk(arena, look, chunk, chunk == arena->chunk);
    for (struct fh_arena_chunk *chunk = arena->large; chunk != NULL && result == 0;
         chunk = chunk->next)
        result = see_chunk(arena, look, chunk, false);
    for (struct fh_arena_chunk *chunk = arena->spare; chunk != NULL && result == 0;
         chunk = chunk->next)
        result = see_chunk(arena, look, chunk, true);
    return result;
}

int fh_arena_measure(const struct fh_arena *arena, struct fh_measure *out)
{
    if (out->size != sizeof *out)
        return fh_error(FH_EINVAL);
    const struct fh_ground *ground = &arena->ground;
    *out = (struct fh_measure){
        .size = sizeof *out,
        .footprint = ground->bytes - ground->purged,
        .reserved = arena->is_contiguous ? ground->capacity : ground->bytes,
        .peak_footprint = ground->peak_bytes,
    };
    see_all(arena, &(struct look){.out = out});
    /* Headers, and what is lost at the ends of full chunks. */
    out->metadata = out->footprint - out->live_bytes - out->free_bytes;
    return 0;
}

int fh_arena_walk(const struct fh_arena *arena,
                  int (*visit)(void *context, const struct fh_block *block), void *context)
{
    return see_all(arena, &(struct look){.visit = visit, .context = context});
}

static int check_chunk(const struct fh_arena *arena, const struct fh_arena_chunk *chunk)
{
    size_t end = end_of(arena, chunk);
    if (chunk->used >= HEADER && chunk->used % STEP == 0 && chunk->used <= end &&
        chunk->limit <= end && (!arena->is_watched || chunk->limit == chunk->used))
        return 0;
    fh_broken("arena %p: chunk %p used to %zu, limit %zu, end %zu", (const void *)arena,
              (const void *)chunk, chunk->used, chunk->limit, end);
    return 1;
}

static int check_list(const struct fh_arena *arena, const struct fh_arena_chunk *list,
                      size_t *bytes)
{
    int broken = 0;
    for (; list != NULL && list != &arena->nothing; list = list->next) {
        broken += check_chunk(arena, list);
        *bytes += list->bytes;
        if (*bytes > arena->ground.bytes)
            break; /* a ring, or a chunk that does not belong here */
    }
    return broken;
}

int fh_arena_check(const struct fh_arena *arena)
{
    size_t bytes = 0;
    int broken = check_list(arena, arena->chunk, &bytes);
    broken += check_list(arena, arena->large, &bytes);
    broken += check_list(arena, arena->spare, &bytes);
    if (bytes != arena->ground.bytes) {
        fh_broken("arena %p: chunks of %zu bytes, %zu were taken", (const void *)arena, bytes,
                  arena->ground.bytes);
        broken++;
    }
    if (arena->nothing.used != 0 || arena->nothing.limit != 0) {
        fh_broken("arena %p: a block was cut from no chunk", (const void *)arena);
        broken++;
    }
    return broken;
}

/* ---- fh_allocator ---------------------------------------------------------------------------- */

FH_ADAPT_ALLOC(arena)
FH_ADAPT_FREE(arena)
FH_ADAPT_FREE_SIZED(arena)
FH_ADAPT_RESIZE_SIZED(arena)
FH_ADAPT_WHOLE(arena)

#define ARENA_OPS(more)                                                                            \
    FH_ADAPTER_OPS("arena",                                                                        \
                   FH_ALLOCATOR_NEEDS_SIZE | FH_ALLOCATOR_MOVES | FH_ALLOCATOR_NO_FREE | (more),   \
                   op_resize_in_place, NULL)

struct fh_allocator fh_arena_allocator(struct fh_arena *arena)
{
    static const struct fh_allocator_ops contiguous =
        ARENA_OPS(FH_ALLOCATOR_CONSTANT_TIME | FH_ALLOCATOR_RELOCATABLE);
    static const struct fh_allocator_ops chained = ARENA_OPS(0);
    return (struct fh_allocator){arena->is_contiguous ? &contiguous : &chained, arena};
}
