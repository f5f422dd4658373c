/*
 * The fast paths of the engine (tags.h), compiled with one index. Whoever includes this has defined
 *
 *     index_insert(index, base, block, units), index_remove(index, base, block, units), index_take(index, base, units)
 *
 * with the meaning that struct tags_index gives them: a manager its own functions, inline; tags.c those of the table
 * `index`. They are called by name, so that being inline doesn't hang on what a compiler finds out about a
 * constant table.
 */
#ifndef FH_PLACE_TAGS_MOVES_H
#define FH_PLACE_TAGS_MOVES_H

#include "base/core/plant.h"
#include "place/tags.h"

/* ---- The two moves: carve, join ----------------------------------------------------------------- */

/* Makes the first `units` of a block that is in no index a live one; the rest becomes free. `total` is the
 * block's size, its front neighbour is live or `flags` says PREV_FREE. (A branch: there nearly always is a rest.) */
FH_INLINE void tags_carve(unsigned char *base, const struct tags_index *index, uint32_t block,
                          uint32_t total, uint32_t units, uint32_t flags)
{
    struct tags_head *head = tags_head(base);
    uint32_t key = head->key, rest = total - units;
    if (FH_LIKELY(rest >= head->least)) {
        uint32_t next = block + units;
        tags_write(base, block, units << TAGS_FLAGS_LOG2 | flags, key);
        tags_write(base, next, tags_free_word(rest), key);
        *tags_last_word(base, next + rest) = rest;
        index_insert(index, base, next, rest);
    } else {
        uint32_t next = block + total;
        tags_write(base, block, total << TAGS_FLAGS_LOG2 | flags, key);
        tags_write(base, next, tags_read(base, next, key) & ~(uint32_t)TAGS_PREV_FREE, key);
    }
}

/* Frees a live block that tags_find has found. False: its neighbours disagree, nothing is changed. */
FH_INLINE bool tags_join(unsigned char *base, const struct tags_index *index, uint32_t block,
                         uint32_t word)
{
    struct tags_head *head = tags_head(base);
    uint32_t key = head->key, begin = block, next = block + tags_units(word), end = next;
    uint32_t next_word = tags_read(base, next, key), before = 0, after = 0;
    if (word & TAGS_PREV_FREE) {
        before = *tags_last_word(base, block);
        if (before > block - head->first ||
            tags_read(base, block - before, key) != tags_free_word(before))
            return false;
        begin -= before;
    }
    if (next_word & FH_PLANT(tags_forgets_next_neighbour, 0u, TAGS_FREE)) {
        after = tags_units(next_word);
        end += after;
    }
    if (FH_UNLIKELY((next_word & TAGS_PREV_FREE) != 0 || end > head->end))
        return false;
    if (before != 0) {
        index_remove(index, base, begin, before);
        tags_kill(base, block, key);
    }
    if (after != 0) {
        index_remove(index, base, next, after);
        tags_kill(base, next, key);
    } else {
        tags_write(base, next, next_word | TAGS_PREV_FREE, key);
    }
    tags_write(base, begin, tags_free_word(end - begin), key);
    *tags_last_word(base, end) = end - begin;
    index_insert(index, base, begin, end - begin);
    return true;
}

/* ---- The calls --------------------------------------------------------------------------------- */

/* Before a block taken out of the index is carved. */
FH_INLINE void tags_unhide(const struct fh_tags *tags, uint32_t block, uint32_t units)
{
    if (FH_UNLIKELY(tags->is_watched))
        fh_unpoison(tags_address(tags_base(tags), block), (size_t)units * TAGS_UNIT - 4);
}

/* What remains free of a block of `total` units after it was carved. */
FH_INLINE void tags_hide_rest(const struct fh_tags *tags, const struct tags_index *index,
                              uint32_t block, uint32_t total)
{
    if (FH_UNLIKELY(tags->is_watched)) {
        uint32_t units = tags_size_of(tags_base(tags), block);
        if (units < total)
            tags_hide(tags_base(tags), block + units, total - units, index->node_bytes);
    }
}

/* What needs more than a block from the index, and that whole, is done by tags_alloc_slow. */
FH_INLINE void *tags_alloc(struct fh_tags *tags, const struct tags_index *index, size_t size,
                           size_t align, unsigned flags)
{
    unsigned char *base = tags_base(tags);
    struct tags_head *head = tags_head(base);
    if (FH_UNLIKELY((align | flags) != 0 || size > head->largest || tags->is_watched))
        return tags_alloc_slow(tags, index, size, align, flags);
    uint32_t units = tags_rounded(index, head, tags_units_for(head, size));
    uint32_t block = index_take(index, base, units);
    if (FH_UNLIKELY(block == 0))
        return tags_alloc_slow(tags, index, size, align, flags);
    tags_carve(base, index, block, tags_size_of(base, block), units, 0);
    return tags_address(base, block);
}

FH_INLINE void tags_free(struct fh_tags *tags, const struct tags_index *index, void *ptr)
{
    uint32_t word, block;
    if (FH_UNLIKELY(tags->is_watched || !tags_find(tags, ptr, &block, &word) ||
                    !tags_join(tags_base(tags), index, block, word)))
        tags_free_slow(tags, index, ptr);
}

FH_INLINE void tags_free_sized(struct fh_tags *tags, const struct tags_index *index, void *ptr,
                               size_t size, size_t align)
{
    if (ptr == NULL || tags_size_matches(tags, index, ptr, size, align))
        tags_free(tags, index, ptr);
}

#endif
