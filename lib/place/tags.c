/* The engine's slow half: opening, growing, resizing, reports, walks and checks. The theory is in tags.h. */
#include "place/tags.h"
#include "base/core/plant.h"

FH_INLINE void index_insert(const struct tags_index *index, unsigned char *base, uint32_t block,
                            uint32_t units)
{
    index->insert(index, base, block, units);
}

FH_INLINE void index_remove(const struct tags_index *index, unsigned char *base, uint32_t block,
                            uint32_t units)
{
    index->remove(index, base, block, units);
}

FH_INLINE uint32_t index_take(const struct tags_index *index, unsigned char *base, uint32_t units)
{
    return index->take(index, base, units);
}

#include "place/tags_moves.h"

/* ---- Opening ----------------------------------------------------------------------------------- */

/* Hidden in every word: see "Wrong pointers". Any value is right; one that differs between ranges is better.
 * (The finaliser of MurmurHash3, Appleby 2011.) */
static uint32_t key_for(uintptr_t address)
{
    uint64_t x = address;
    x ^= x >> 33;
    x *= 0xff51afd7ed558ccdu;
    x ^= x >> 33;
    x *= 0xc4ceb9fe1a85ec53u;
    return (uint32_t)(x >> 32) | 1u << 31;
}

/* The unit at which the sentinel stands in a range of so many bytes. */
static uint32_t end_of(size_t bytes, size_t granule)
{
    size_t most = (size_t)(TAGS_LIMIT - 1) * TAGS_UNIT;
    return (uint32_t)(fh_align_down(fh_min(bytes, most), granule) / TAGS_UNIT);
}

/* Lays out an opened ground; false when it has no room for one block. */
static bool lay_out(struct fh_tags *tags, const struct tags_index *index, size_t granule,
                    uint32_t choice)
{
    struct fh_ground *ground = &tags->ground;
    uint32_t most = end_of(ground->capacity, granule);
    size_t least = fh_align_up((size_t)index->least(choice) * TAGS_UNIT, granule);
    size_t first =
        fh_align_up(sizeof(struct tags_head) + index->bytes(choice, most) + 4, FH_ALIGN_DEFAULT);
    if (first + least > (size_t)most * TAGS_UNIT || !fh_ground_grow(ground, first + least))
        return false;
    uint32_t begin = (uint32_t)((first) / TAGS_UNIT);
    *tags_head(tags_base(tags)) = (struct tags_head){
        .magic = index->magic,
        .key = key_for((uintptr_t)ground->base),
        .granule = (uint32_t)granule / TAGS_UNIT,
        .least = (uint32_t)(least / TAGS_UNIT),
        .first = begin,
        .most = most - begin,
        .choice = choice,
        .largest = (size_t)(most - begin) * TAGS_UNIT - 4,
        .rounding = 4 + granule - 1,
        .mask = -(uint64_t)granule,
    };
    tags_clear(tags, index);
    return true;
}

int tags_open(struct fh_tags *tags, const struct tags_index *index,
              const struct fh_place_options *place, size_t align, uint32_t choice)
{
    size_t granule = align == 0 ? FH_ALIGN_DEFAULT : align;
    if (granule != 8 && granule != 16)
        return fh_error(FH_EINVAL);
    *tags = (struct fh_tags){.is_watched = fh_poison_is_on()};
    int error = fh_ground_open(&tags->ground, place, sizeof(struct tags_head), FH_ALIGN_DEFAULT);
    if (error != 0)
        return error;
    if (lay_out(tags, index, granule, choice))
        return 0;
    bool can_grow = tags->ground.source != NULL;
    fh_ground_close(&tags->ground);
    return fh_error(can_grow ? FH_ENOMEM : FH_EINVAL);
}

int tags_attach(struct fh_tags *tags, const struct tags_index *index, void *memory, size_t bytes)
{
    const struct tags_head *head = memory;
    if ((uintptr_t)memory % FH_ALIGN_DEFAULT != 0 || bytes < sizeof *head ||
        head->magic != index->magic || (size_t)head->end * TAGS_UNIT > bytes)
        return fh_error(FH_EINVAL);
    *tags = (struct fh_tags){.is_watched = fh_poison_is_on()};
    fh_ground_attach(&tags->ground, memory, bytes);
    return 0;
}

void tags_clear(struct fh_tags *tags, const struct tags_index *index)
{
    unsigned char *base = tags_base(tags);
    struct tags_head *head = tags_head(base);
    uint32_t first = head->first, key = head->key;
    uint32_t end = end_of(tags->ground.bytes, (size_t)head->granule * TAGS_UNIT);
    if (tags->is_watched)
        fh_unpoison(tags_address(base, first), (size_t)(end - first) * TAGS_UNIT);
    head->end = end;
    index->open(base);
    tags_write(base, first, tags_free_word(end - first), key);
    *tags_last_word(base, end) = end - first;
    tags_write(base, end, TAGS_PREV_FREE, key);
    index_insert(index, base, first, end - first);
    if (tags->is_watched)
        tags_hide(base, first, end - first, index->node_bytes);
}

void tags_close(struct fh_tags *tags)
{
    if (tags->is_watched && tags->ground.base != NULL)
        fh_unpoison(tags->ground.base, tags->ground.bytes);
    fh_ground_close(&tags->ground);
}

void tags_hide(unsigned char *base, uint32_t block, uint32_t units, unsigned node_bytes)
{
    size_t bytes = (size_t)units * TAGS_UNIT - 8; /* without the tag and the next block's word */
    if (bytes > node_bytes)
        fh_poison(tags_address(base, block) + node_bytes, bytes - node_bytes);
}

/* ---- Finding room when nothing is at hand ------------------------------------------------------ */

uint32_t tags_grow(struct fh_tags *tags, const struct tags_index *index, uint32_t units)
{
    unsigned char *base = tags_base(tags);
    struct tags_head *head = tags_head(base);
    uint32_t key = head->key, end = head->end;
    bool joins = tags_read(base, end, key) & TAGS_PREV_FREE;
    uint32_t before = joins ? *tags_last_word(base, end) : 0, block = end - before;
    if (before < units) {
        if (!fh_ground_grow(&tags->ground, ((size_t)block + units) * TAGS_UNIT))
            return 0;
        head->end = end_of(tags->ground.bytes, (size_t)head->granule * TAGS_UNIT);
        if (head->end < block + units) { /* TAGS_LIMIT */
            head->end = end;
            return 0;
        }
        FH_PROBE2(tags_grow, base, (size_t)head->end * TAGS_UNIT);
    }
    if (joins)
        index_remove(index, base, block, before);
    tags_kill(base, end, key);
    tags_write(base, block, tags_free_word(head->end - block), key);
    *tags_last_word(base, head->end) = head->end - block;
    tags_write(base, head->end, TAGS_PREV_FREE, key);
    return block;
}

/* A block of at least `units`; rather one of the size that `units` is rounded to. */
static uint32_t take_slow(struct fh_tags *tags, const struct tags_index *index, uint32_t units,
                          unsigned flags, size_t size)
{
    unsigned char *base = tags_base(tags);
    uint32_t block;
    FH_PROBE2(tags_alloc_slow, base, size);
    for (bool was_asked = false;; was_asked = true) {
        block = index_take(index, base, tags_rounded(index, tags_head(base), units));
        if (block == 0 && index->take_hard != NULL)
            block = index->take_hard(base, units);
        if (block == 0 && !(flags & FH_ALLOC_NO_GROWTH))
            block = tags_grow(tags, index, units);
        if (block != 0 || was_asked || !fh_ground_ask(&tags->ground, size))
            break;
    }
    if (block == 0)
        fh_set_errno(FH_ENOMEM);
    return block;
}

/* What a block for `units` gets of `total`. */
static uint32_t rounded_in(const struct fh_tags *tags, const struct tags_index *index,
                           uint32_t units, uint32_t total)
{
    uint32_t rounded = tags_rounded(index, tags_head(tags_base(tags)), units);
    return rounded < total ? rounded : total;
}

/* ---- Allocating, all cases ----------------------------------------------------------------------- */

static void *alloc_aligned(struct fh_tags *tags, const struct tags_index *index, size_t size,
                           size_t align, unsigned flags)
{
    unsigned char *base = tags_base(tags);
    struct tags_head *head = tags_head(base);
    /* Room for the logarithm, and for a block in front that is free or not there. */
    size_t room = (size_t)(head->least - head->granule) * TAGS_UNIT + align;
    if (head->largest < room + 4 || size > head->largest - room - 4)
        return fh_fail(FH_ENOMEM);
    uint32_t units = tags_units_for(head, size + 4);
    uint32_t block = take_slow(tags, index, units + (uint32_t)(room / TAGS_UNIT), flags, size);
    if (block == 0)
        return NULL;
    uint32_t total = tags_size_of(base, block);
    tags_unhide(tags, block, total);
    uintptr_t address = (uintptr_t)tags_address(base, block);
    uintptr_t aligned = fh_align_up(address, FH_PLANT(tags_aligns_too_little, 16, align));
    if (aligned != address && aligned - address < (size_t)head->least * TAGS_UNIT)
        aligned = fh_align_up(address + (size_t)head->least * TAGS_UNIT, align);
    uint32_t lead = (uint32_t)((aligned - address) / TAGS_UNIT), begin = block + lead;
    tags_carve(base, index, begin, total - lead, rounded_in(tags, index, units, total - lead),
               TAGS_FURTHER | (lead != 0 ? TAGS_PREV_FREE : 0));
    *tags_last_word(base, begin + tags_size_of(base, begin)) =
        FH_PLANT(tags_forgets_alignment_given, 0, fh_log2(align));
    tags_hide_rest(tags, index, begin, total - lead);
    if (lead != 0) {
        tags_write(base, block, tags_free_word(lead), head->key);
        *tags_last_word(base, begin) = lead;
        index_insert(index, base, block, lead);
        if (tags->is_watched)
            tags_hide(base, block, lead, index->node_bytes);
    }
    return tags_address(base, begin);
}

static void *alloc_plain(struct fh_tags *tags, const struct tags_index *index, size_t size,
                         unsigned flags)
{
    unsigned char *base = tags_base(tags);
    if (size > tags_head(base)->largest)
        return fh_fail(FH_ENOMEM);
    uint32_t units = tags_units_for(tags_head(base), size);
    uint32_t block = take_slow(tags, index, units, flags, size);
    if (block == 0)
        return NULL;
    uint32_t total = tags_size_of(base, block);
    tags_unhide(tags, block, total);
    tags_carve(base, index, block, total, rounded_in(tags, index, units, total), 0);
    tags_hide_rest(tags, index, block, total);
    return tags_address(base, block);
}

void *tags_alloc_slow(struct fh_tags *tags, const struct tags_index *index, size_t size,
                      size_t align, unsigned flags)
{
    if ((align & (align - 1)) != 0 || align > FH_ALIGN_MAX)
        return fh_fail(FH_EINVAL);
    void *ptr = align > (size_t)tags_head(tags_base(tags))->granule * TAGS_UNIT
                    ? alloc_aligned(tags, index, size, align, flags)
                    : alloc_plain(tags, index, size, flags);
    if (ptr != NULL && flags & FH_ALLOC_ZEROED)
        __builtin_memset(ptr, 0, FH_PLANT(tags_zeroes_half, size / 2, size));
    return ptr;
}

void tags_free_slow(struct fh_tags *tags, const struct tags_index *index, void *ptr)
{
    unsigned char *base = tags_base(tags);
    uint32_t block, word;
    if (ptr == NULL)
        return;
    bool is_block = tags_find(tags, ptr, &block, &word);
    uint32_t before = is_block && word & TAGS_PREV_FREE ? *tags_last_word(base, block) : 0;
    if (!is_block || !tags_join(base, index, block, word))
        tags_report(tags, ptr);
    else if (tags->is_watched)
        tags_hide(base, block - before, tags_size_of(base, block - before), index->node_bytes);
}

/* ---- Resizing ---------------------------------------------------------------------------------- */

/* A live block and what lies around it. */
struct surroundings {
    uint32_t block, word;
    uint32_t old;    /* units */
    uint32_t before; /* units of the free block in front, or 0 */
    uint32_t next;
    uint32_t after; /* units of the free block behind, or 0 */
    uint32_t align_log2;
    uint32_t wanted; /* units it is to have; more than `most`: no block can */
};

/* False: the pointer is none of a live block; reported. */
static bool survey(const struct fh_tags *tags, void *ptr, size_t new_size,
                   struct surroundings *around)
{
    unsigned char *base = tags_base(tags);
    const struct tags_head *head = tags_head(base);
    uint32_t word, block;
    if (!tags_find(tags, ptr, &block, &word)) {
        tags_report(tags, ptr);
        return false;
    }
    uint32_t next = block + tags_units(word), next_word = tags_read(base, next, head->key);
    uint32_t before = word & TAGS_PREV_FREE ? *tags_last_word(base, block) : 0;
    uint32_t after = next_word & TAGS_FREE ? tags_units(next_word) : 0;
    if (next_word & TAGS_PREV_FREE || before > block - head->first || after > head->end - next ||
        (before != 0 && tags_read(base, block - before, head->key) != tags_free_word(before))) {
        tags_report(tags, ptr);
        return false;
    }
    bool is_further = word & TAGS_FURTHER;
    size_t extra = is_further ? 4 : 0;
    *around = (struct surroundings){
        .block = block,
        .word = word,
        .old = tags_units(word),
        .before = before,
        .next = next,
        .after = after,
        .align_log2 = is_further ? *tags_last_word(base, next) : 0,
        .wanted = new_size > head->largest - extra ? head->most + 1
                                                   : tags_units_for(head, new_size + extra),
    };
    return true;
}

/* Makes one live block of `total` units from `begin` on, none of which is in the index any more. */
static void settle(struct fh_tags *tags, const struct tags_index *index,
                   const struct surroundings *around, uint32_t begin, uint32_t total)
{
    unsigned char *base = tags_base(tags);
    uint32_t key = tags_head(base)->key, flags = around->word & TAGS_FURTHER;
    if (begin == around->block)
        flags |= around->word & TAGS_PREV_FREE;
    tags_carve(base, index, begin, total, rounded_in(tags, index, around->wanted, total), flags);
    uint32_t end = begin + tags_size_of(base, begin);
    if (end != begin + total)
        tags_write(base, begin + total, tags_read(base, begin + total, key) | TAGS_PREV_FREE, key);
    if (flags & TAGS_FURTHER)
        *tags_last_word(base, end) = around->align_log2;
    tags_hide_rest(tags, index, begin, total);
}

/* Takes the free block behind into the live one: its header goes. */
static void absorb_next(struct fh_tags *tags, const struct tags_index *index,
                        const struct surroundings *around)
{
    if (around->after != 0) {
        index_remove(index, tags_base(tags), around->next, around->after);
        tags_kill(tags_base(tags), around->next, tags_head(tags_base(tags))->key);
    }
}

static bool stretch(struct fh_tags *tags, const struct tags_index *index,
                    const struct surroundings *around)
{
    uint32_t total = around->old + around->after;
    if (around->wanted > total)
        return false;
    bool is_right = around->wanted <= around->old &&
                    rounded_in(tags, index, around->wanted, around->old) == around->old;
    if (!is_right) {
        absorb_next(tags, index, around);
        tags_unhide(tags, around->block, total);
        settle(tags, index, around, around->block, total);
    }
    return true;
}

/* The last block, or the one before free bytes at the end: the range grows for it. */
static bool stretch_by_growth(struct fh_tags *tags, const struct tags_index *index,
                              const struct surroundings *around)
{
    unsigned char *base = tags_base(tags);
    struct tags_head *head = tags_head(base);
    if (around->wanted > head->most || around->next + around->after != head->end ||
        tags_grow(tags, index, around->wanted - around->old) == 0)
        return false;
    uint32_t total = around->old + tags_size_of(base, around->next);
    tags_kill(base, around->next, head->key);
    tags_unhide(tags, around->block, total);
    settle(tags, index, around, around->block, total);
    return true;
}

/* Into the free block in front: costs a copy, as moving elsewhere would, but no second block meanwhile. */
static void *slide(struct fh_tags *tags, const struct tags_index *index,
                   const struct surroundings *around, size_t new_size)
{
    unsigned char *base = tags_base(tags);
    uint32_t begin = around->block - around->before;
    uint32_t total = around->before + around->old + around->after;
    unsigned char *to = tags_address(base, begin);
    if (around->before == 0 ||
        around->wanted > FH_PLANT(tags_slides_over_next_block, total + 2, total) ||
        ((uintptr_t)to & (((uintptr_t)1 << around->align_log2) - 1)) != 0)
        return NULL;
    index_remove(index, base, begin, around->before);
    absorb_next(tags, index, around);
    tags_unhide(tags, begin, total);
    tags_kill(base, around->block, tags_head(base)->key);
    __builtin_memmove(to, tags_address(base, around->block),
                      fh_min(tags_usable(around->word), new_size));
    settle(tags, index, around, begin, total);
    return to;
}

bool tags_resize_in_place(struct fh_tags *tags, const struct tags_index *index, void *ptr,
                          size_t new_size)
{
    struct surroundings around;
    if (!survey(tags, ptr, new_size, &around)) {
        fh_set_errno(FH_EINVAL);
        return false;
    }
    if (stretch(tags, index, &around) || stretch_by_growth(tags, index, &around))
        return true;
    fh_set_errno(FH_ENOMEM);
    return false;
}

void *tags_resize(struct fh_tags *tags, const struct tags_index *index,
                  const struct fh_allocator_ops *ops, void *ptr, size_t new_size, size_t align)
{
    if (ptr == NULL)
        return ops->alloc(tags, new_size, align, 0);
    struct surroundings around;
    if ((align & (align - 1)) != 0 || align > FH_ALIGN_MAX || !survey(tags, ptr, new_size, &around))
        return fh_fail(FH_EINVAL);
    size_t given = (size_t)1 << around.align_log2;
    if (align <= fh_max(given, (size_t)tags_head(tags_base(tags))->granule * TAGS_UNIT)) {
        if (stretch(tags, index, &around))
            return ptr;
        void *moved = slide(tags, index, &around, new_size);
        if (moved != NULL)
            return moved;
        if (stretch_by_growth(tags, index, &around))
            return ptr;
        align = around.align_log2 != 0 ? given : 0;
    }
    return fh_resize_by_move(ops, tags, ptr, tags_usable(around.word), new_size, align);
}

/* ---- Questions --------------------------------------------------------------------------------- */

size_t tags_usable_size(const struct fh_tags *tags, const void *ptr)
{
    uint32_t word, block;
    if (ptr == NULL)
        return 0;
    if (tags_find(tags, ptr, &block, &word))
        return tags_usable(word);
    tags_report(tags, ptr);
    return 0;
}

bool tags_owns(const struct fh_tags *tags, const void *address)
{
    const struct tags_head *head = tags_head(tags_base(tags));
    uintptr_t offset = (uintptr_t)address - (uintptr_t)tags_base(tags);
    return offset >= (size_t)head->first * TAGS_UNIT && offset < (size_t)head->end * TAGS_UNIT;
}

bool tags_size_matches(const struct fh_tags *tags, const struct tags_index *index, const void *ptr,
                       size_t size, size_t align)
{
    unsigned char *base = tags_base(tags);
    const struct tags_head *head = tags_head(base);
    uint32_t word, block;
    if (!tags_find(tags, ptr, &block, &word)) {
        tags_report(tags, ptr);
        return false;
    }
    bool is_further = word & TAGS_FURTHER;
    uint32_t units = tags_units(word);
    size_t extra = is_further ? 4 : 0;
    size_t given = is_further ? (size_t)1 << *tags_last_word(base, block + units)
                              : (size_t)head->granule * TAGS_UNIT;
    uint32_t wanted =
        size > head->largest - extra ? head->most + 1 : tags_units_for(head, size + extra);
    /* A rest that is too small for a block stays with this one. */
    if (wanted <= units && units - rounded_in(tags, index, wanted, units) < head->least &&
        align <= given)
        return true;
    fh_misuse("size-mismatch", ptr, "freed with another size or alignment than it was given");
    return false;
}

/* ---- Every block in order ---------------------------------------------------------------------- */

struct step {
    uint32_t block, word;
};

/* The block behind, or the first one; false at the end, or where a size can't be right (then *is_broken). */
static bool next_step(const struct fh_tags *tags, struct step *at, bool *is_broken)
{
    unsigned char *base = tags_base(tags);
    const struct tags_head *head = tags_head(base);
    at->block = at->block == 0 ? head->first : at->block + tags_units(at->word);
    if (at->block == head->end)
        return false;
    at->word = tags_read(base, at->block, head->key);
    uint32_t units = tags_units(at->word);
    *is_broken = units < head->least || units > head->end - at->block;
    return !*is_broken;
}

void tags_report(const struct fh_tags *tags, const void *ptr)
{
    size_t offset = (size_t)((uintptr_t)ptr - (uintptr_t)tags_base(tags));
    struct step at = {0};
    bool is_broken = false;
    if (!tags_owns(tags, ptr)) {
        fh_misuse("invalid-free", ptr, "not in this manager's range");
        return;
    }
    while (next_step(tags, &at, &is_broken)) {
        size_t begin = (size_t)at.block * TAGS_UNIT;
        if (offset >= begin + (size_t)tags_units(at.word) * TAGS_UNIT)
            continue;
        if (at.word & TAGS_FREE)
            fh_misuse("double-free", ptr, "the memory is free already");
        else if (offset != begin)
            fh_misuse("interior-free", ptr, "points into a live block, not to its begin");
        else
            fh_misuse("heap-corruption", ptr, "what lies before or behind the block disagrees");
        return;
    }
    if (is_broken)
        fh_misuse("heap-corruption", tags_address(tags_base(tags), at.block),
                  "the block's size was overwritten");
}

int tags_walk(const struct fh_tags *tags, int (*visit)(void *context, const struct fh_block *block),
              void *context)
{
    struct step at = {0};
    bool is_broken = false;
    while (next_step(tags, &at, &is_broken)) {
        struct fh_block block = {
            .address = tags_address(tags_base(tags), at.block),
            .usable = tags_usable(at.word),
            .is_live = !(at.word & TAGS_FREE),
        };
        int answer = visit(context, &block);
        if (answer != 0)
            return answer;
    }
    return is_broken ? fh_error(FH_EINVAL) : 0;
}

static int add_up(void *context, const struct fh_block *block)
{
    struct fh_measure *sum = context;
    if (block->is_live) {
        sum->live_blocks++;
        sum->live_bytes += block->usable;
    } else {
        sum->free_blocks++;
        sum->free_bytes += block->usable;
        sum->largest_free = fh_max(sum->largest_free, block->usable);
    }
    return 0;
}

int tags_measure(const struct fh_tags *tags, struct fh_measure *out)
{
    const struct fh_ground *ground = &tags->ground;
    struct fh_measure sum = {
        .footprint = ground->bytes,
        .reserved = ground->capacity,
        .peak_footprint = ground->peak_bytes,
    };
    if (out->size < sizeof sum)
        return fh_error(FH_EINVAL);
    int error = tags_walk(tags, add_up, &sum);
    if (error != 0)
        return error;
    sum.metadata = ground->bytes - sum.live_bytes - sum.free_bytes;
    sum.size = out->size;
    *out = sum;
    return 0;
}

int tags_check(const struct fh_tags *tags, const struct tags_index *index)
{
    unsigned char *base = tags_base(tags);
    const struct tags_head *head = tags_head(base);
    int broken = 0;
    size_t free_blocks = 0, indexed = 0;
    struct step at = {0};
    bool is_broken = false, was_free = false;
    uint32_t last_units = 0;
    if (head->magic != index->magic || (size_t)head->end * TAGS_UNIT > tags->ground.bytes) {
        fh_broken("%s", "the head of the range is damaged");
        return 1;
    }
    for (;;) {
        bool is_there = next_step(tags, &at, &is_broken);
        if (is_broken) {
            fh_broken("block at %zu has an impossible size", (size_t)at.block * TAGS_UNIT);
            return broken + 1;
        }
        uint32_t word = is_there ? at.word : tags_read(base, head->end, head->key);
        if (!is_there && (word & ~(uint32_t)TAGS_PREV_FREE) != 0) {
            fh_broken("%s", "the sentinel was overwritten");
            broken++;
        }
        if (((word & TAGS_PREV_FREE) != 0) != was_free) {
            fh_broken("block at %zu says wrongly whether the one before is free",
                      (size_t)at.block * TAGS_UNIT);
            broken++;
        }
        if (was_free && *tags_last_word(base, at.block) != last_units) {
            fh_broken("the tag before %zu is wrong", (size_t)at.block * TAGS_UNIT);
            broken++;
        }
        if (!is_there)
            break;
        was_free = word & TAGS_FREE;
        last_units = tags_units(word);
        free_blocks += was_free;
    }
    broken += index->check(base, &indexed);
    if (indexed != free_blocks) {
        fh_broken("%zu free blocks, of which the index holds %zu", free_blocks, indexed);
        broken++;
    }
    return broken;
}
