/*
 * tags: the engine of every manager that cuts one range into blocks of any size and joins them again: first,
 * next, best and worst fit (fit.c), TLSF (tlsf.c), half-fit (half_fit.c). They differ in the index of free
 * blocks and in nothing else. Each manager's source brings its own inline index_insert, index_remove and index_take to
 * the fast paths (tags_moves.h), which are compiled with them; what is slow (tags.c) is there once, and calls the
 * same functions through a table (struct tags_index).
 *
 * The range
 * ---------
 *
 *     0       head     first                                                          end
 *     | struct tags_head | index | block | block | block | …                  | block | sentinel's word
 *
 * All is counted in units of 8 bytes from the base: 32 bits of them reach as far as 29 bits of size do (LIMIT,
 * 4 GiB - 8), and an x86 address is base + 8 * unit. Nothing in the range is an address, so it can be moved. What
 * blocks are rounded to is the granule, 2 units (blocks aligned to 16) or 1 (to 8, for tight ranges).
 *
 * A block is named by the unit at which its user's bytes begin. Before them lies its word:
 *
 *     unit b of `size` units:    word(b)              the user's bytes                    word(b + size)
 *                              | 4 bytes | 8 * size - 4 bytes                            | 4 bytes
 *     free:                    | word    | index's node (8 or 16 bytes) | …  | size tag  | word
 *     live, aligned further:   | word    | the user's bytes             | log2 of align  | word
 *
 *     word = (size << 3 | flags) ^ key;    flags: FREE, PREV_FREE (the block before is free), FURTHER
 *
 * The boundary tag (Knuth 1973, 2.5 algorithm C) of a free block is the last word of its bytes, beside the next
 * block's word: a block and its neighbour in front are known from one cache line. A live block has no tag: what
 * it costs is 4 bytes and the rounding. A block that was given an alignment beyond the granule keeps the
 * logarithm in that same place, for a resize that moves it.
 *
 * Invariants (tags_check):
 *   - blocks follow one another from `first` to `end`, where the sentinel stands: live, of size 0;
 *   - no two free blocks are neighbours, so PREV_FREE of a free block is never set;
 *   - PREV_FREE of b is set if and only if a free block ends there, and then the tag before it is its size;
 *   - the index holds each free block once;
 *   - no live block contains a word that once was a header: when blocks join, the words between them are
 *     overwritten (DEAD). So a stale pointer into a block finds no header there.
 *
 * Wrong pointers. Before anything is changed, free looks at alignment and range, at the word (live, a size that
 * ends inside the range), at the next block's word (it must not say that a free block lies before it), and at
 * the free neighbour's word, which must agree with the tag. The key makes words of arbitrary data fail: it is
 * mixed from the address that the range was made at, and its highest bit is set, so that zeroed memory and small
 * numbers give sizes beyond any range below 2 GiB. These tests are branches that are never taken. When one fails,
 * a walk over the blocks (tags_report) says what the pointer really is: outside, inside a live block, in free
 * memory (a double free), or the start of a live block whose neighbours disagree (an overflow: heap-corruption).
 *
 * Branches. Whether a neighbour is free is tossed like a coin when sizes are arbitrary, and a wrong guess costs some 15
 * cycles. Doing without the branch, by taking out a block of size 0 where there is no neighbour, cost more: 35
 * instructions and up to six stores whose cache misses nobody needs. What helps is fewer neighbours: sizes are
 * rounded to a few for each power of two (sizes_log2), so that a block freed fits the next request of its kind whole,
 * is found by it first, and neither split nor joined. Sorting counts from the granule on (tags_sort_by), which makes
 * powers of two, the sizes that programs ask for most, begin a class and cost no rounding.
 *
 * Growth. When no free block fits, the range grows at its end (ground.h): the sentinel moves, and the new bytes join
 * the last block if it is free. Only then the program is asked for help, and then NULL is returned.
 */
#ifndef FH_PLACE_TAGS_H
#define FH_PLACE_TAGS_H

#include "base/core/bits.h"
#include "base/core/fail.h"
#include "base/core/misuse.h"
#include "base/core/poison.h"
#include "base/core/probe.h"
#include "freehold/tags.h"
#include "place/classes.h"
#include "place/ground.h"
#include "place/move.h"

enum { TAGS_UNIT = 8, TAGS_UNIT_LOG2 = 3 };
/* Of a range: sizes have 29 bits. */
#define TAGS_LIMIT ((uint32_t)1 << 29)
enum { TAGS_EXACT = 29 };

enum tags_flags {
    TAGS_FREE = 1,
    TAGS_PREV_FREE = 2,
    TAGS_FURTHER = 4, /* live, and aligned further than to the granule: log2 in its last word */
    TAGS_FLAGS = 7,
    TAGS_FLAGS_LOG2 = 3,
};

/* What the engine reads and writes in memory that programs use for whatever they like. */
typedef uint32_t __attribute__((may_alias)) tags_word;

/* Begins the range. Block 0 would lie in it, so 0 says: none. The index's own data follow the head. */
struct tags_head {
    uint32_t magic;   /* of the manager that made the range; last byte: version of the layout */
    uint32_t key;     /* words are stored xor this */
    uint32_t granule; /* units: 1 or 2 */
    uint32_t
        least; /* units of the smallest block: holds a node and a tag, a multiple of the granule */
    uint32_t first; /* unit of the first block */
    uint32_t end;   /* unit of the sentinel */
    uint32_t
        most; /* units that one block can have at most, when the range has grown to its capacity */
    uint32_t choice;         /* what the manager was opened with: a policy, a second level */
    uint64_t largest;        /* bytes of its user that the largest block can have */
    uint64_t rounding, mask; /* what is added to a size and kept of it: see tags_units_for */
};

_Static_assert(sizeof(struct tags_head) % TAGS_UNIT == 0, "the index follows, in units");

/* The free blocks, sorted for a policy. `base` is the range's; `units` the block's size. */
struct tags_index {
    uint32_t magic;
    /* Bytes that it wants behind the head, and its smallest block; `most` as above. */
    size_t (*bytes)(uint32_t choice, uint32_t most);
    uint32_t (*least)(uint32_t choice);
    /* Makes it empty. */
    void (*open)(unsigned char *base);
    void (*insert)(const struct tags_index *index, unsigned char *base, uint32_t block,
                   uint32_t units);
    void (*remove)(const struct tags_index *index, unsigned char *base, uint32_t block,
                   uint32_t units);
    /* Chooses a free block of at least so many units by the policy and takes it out; 0: there is none. */
    uint32_t (*take)(const struct tags_index *index, unsigned char *base, uint32_t units);
    /* The same when take found none, with more effort; NULL: no effort helps. */
    uint32_t (*take_hard)(unsigned char *base, uint32_t units);
    /* Broken invariants, each said; *count: the blocks that it holds. */
    int (*check)(unsigned char *base, size_t *count);
    unsigned node_bytes; /* that its node takes of a free block */
    /* Blocks are rounded up to one of 2^this sizes for each power of two; TAGS_EXACT: only to the granule. */
    uint32_t sizes_log2;
};

/* ---- Words, tags, nodes ---------------------------------------------------------------------- */

FH_INLINE struct tags_head *tags_head(unsigned char *base)
{
    return (struct tags_head *)(void *)base;
}

/* What units are counted from. */
FH_INLINE unsigned char *tags_base(const struct fh_tags *tags)
{
    return tags->ground.base;
}

/* Where the index has its data. */
FH_INLINE void *tags_index_data(unsigned char *base)
{
    return base + sizeof(struct tags_head);
}

/* Also reads where a wrong pointer points, which AddressSanitizer may have been told not to touch. */
#ifdef FH_POISON_ASAN
static __attribute__((noinline, unused, no_sanitize_address)) uint32_t
tags_peek(const unsigned char *at)
{
    return *(const tags_word *)(const void *)at;
}
#else
FH_INLINE uint32_t tags_peek(const unsigned char *at)
{
    return *(const tags_word *)(const void *)at;
}
#endif

FH_INLINE unsigned char *tags_address(unsigned char *base, uint32_t unit)
{
    return base + (size_t)unit * TAGS_UNIT;
}

FH_INLINE uint32_t tags_read(const unsigned char *base, uint32_t block, uint32_t key)
{
    return tags_peek(base + (size_t)block * TAGS_UNIT - 4) ^ key;
}

FH_INLINE void tags_write(unsigned char *base, uint32_t block, uint32_t word, uint32_t key)
{
    *(tags_word *)(void *)(base + (size_t)block * TAGS_UNIT - 4) = word ^ key;
}

/* No header is here any more: a live block of no size, which only the sentinel is. */
FH_INLINE void tags_kill(unsigned char *base, uint32_t block, uint32_t key)
{
    tags_write(base, block, 0, key);
}

/* The last word of the block that ends at `end`: size of a free one, log2 of the alignment of a live one. */
FH_INLINE tags_word *tags_last_word(unsigned char *base, uint32_t end)
{
    return (tags_word *)(void *)(base + (size_t)end * TAGS_UNIT - 8);
}

FH_INLINE tags_word *tags_node(unsigned char *base, uint32_t block)
{
    return (tags_word *)(void *)(base + (size_t)block * TAGS_UNIT);
}

FH_INLINE uint32_t tags_units(uint32_t word)
{
    return word >> TAGS_FLAGS_LOG2;
}

FH_INLINE uint32_t tags_free_word(uint32_t units)
{
    return units << TAGS_FLAGS_LOG2 | TAGS_FREE;
}

FH_INLINE uint32_t tags_size_of(unsigned char *base, uint32_t block)
{
    return tags_units(tags_read(base, block, tags_head(base)->key));
}

/* Bytes of a live block that are its user's. */
FH_INLINE size_t tags_usable(uint32_t word)
{
    return (size_t)tags_units(word) * TAGS_UNIT - (word & TAGS_FURTHER ? 8 : 4);
}

/* ---- What is not on a fast path (tags.c) ------------------------------------------------------- */

FH_HIDDEN int tags_open(struct fh_tags *tags, const struct tags_index *index,
                        const struct fh_place_options *place, size_t align, uint32_t choice);
FH_HIDDEN int tags_attach(struct fh_tags *tags, const struct tags_index *index, void *memory,
                          size_t bytes);
/* The range as one free block. */
FH_HIDDEN void tags_clear(struct fh_tags *tags, const struct tags_index *index);
/* Gives it back. */
FH_HIDDEN void tags_close(struct fh_tags *tags);
/* Grows the range until its last block has `units`, and takes that block out of the index. 0: it can't. */
FH_HIDDEN uint32_t tags_grow(struct fh_tags *tags, const struct tags_index *index, uint32_t units);
/* All of alloc: alignment, flags, growth, a program that is asked for help, watchers. */
FH_HIDDEN void *tags_alloc_slow(struct fh_tags *tags, const struct tags_index *index, size_t size,
                                size_t align, unsigned flags);
/* All of free: NULL, wrong pointers, watchers. */
FH_HIDDEN void tags_free_slow(struct fh_tags *tags, const struct tags_index *index, void *ptr);
FH_HIDDEN bool tags_resize_in_place(struct fh_tags *tags, const struct tags_index *index, void *ptr,
                                    size_t new_size);
FH_HIDDEN void *tags_resize(struct fh_tags *tags, const struct tags_index *index,
                            const struct fh_allocator_ops *ops, void *ptr, size_t new_size,
                            size_t align);
/* Says what is wrong with a pointer that is no live block. */
FH_HIDDEN void tags_report(const struct fh_tags *tags, const void *ptr);
FH_HIDDEN bool tags_size_matches(const struct fh_tags *tags, const struct tags_index *index,
                                 const void *ptr, size_t size, size_t align);
FH_HIDDEN size_t tags_usable_size(const struct fh_tags *tags, const void *ptr);
FH_HIDDEN bool tags_owns(const struct fh_tags *tags, const void *address);
FH_HIDDEN int tags_measure(const struct fh_tags *tags, struct fh_measure *out);
FH_HIDDEN int tags_walk(const struct fh_tags *tags,
                        int (*visit)(void *context, const struct fh_block *block), void *context);
FH_HIDDEN int tags_check(const struct fh_tags *tags, const struct tags_index *index);
/* Tells the watcher that of the free block only node, word and tag may be touched. */
FH_HIDDEN void tags_hide(unsigned char *base, uint32_t block, uint32_t units, unsigned node_bytes);

/* ---- Sizes ------------------------------------------------------------------------------------- */

/* Units of a block for `size` bytes of its user, which must not be more than `largest`: with its word, rounded up to the
 * granule. */
FH_INLINE uint32_t tags_units_for(const struct tags_head *head, size_t size)
{
    uint32_t units = (uint32_t)(((size + head->rounding) & head->mask) >> TAGS_UNIT_LOG2);
    return units > head->least ? units : head->least;
}

/* What sizes are sorted by: a block for a power of two of bytes is a granule longer, and is to begin a class. */
FH_INLINE uint32_t tags_sort_by(const struct tags_head *head, uint32_t units)
{
    return units - head->granule;
}

/* The size that a block of at least so many units is given. */
FH_INLINE uint32_t tags_rounded(const struct tags_index *index, const struct tags_head *head,
                                uint32_t units)
{
    return class_rounded(index->sizes_log2, tags_sort_by(head, units)) + head->granule;
}

/* ---- Pointers ---------------------------------------------------------------------------------- */

/* The block of a pointer and its word; false when it is no live one. */
FH_INLINE bool tags_find(const struct fh_tags *tags, const void *ptr, uint32_t *block,
                         uint32_t *word)
{
    unsigned char *base = tags_base(tags);
    const struct tags_head *head = tags_head(base);
    uint64_t offset = (uint64_t)((uintptr_t)ptr - (uintptr_t)base);
    /* The lowest three bits become the highest: what is not a multiple of a unit is out of range. */
    uint64_t unit = offset >> TAGS_UNIT_LOG2 | offset << (64 - TAGS_UNIT_LOG2);
    uint32_t end = head->end;
    if (FH_UNLIKELY(unit - head->first >= end - head->first))
        return false;
    *block = (uint32_t)unit;
    *word = tags_read(base, *block, head->key);
    /* FREE becomes the highest bit, and size 0 wraps: one comparison says live, of a size from 1 to what is
     * left of the range. */
    uint32_t turned = *word >> 1 | *word << 31;
    return FH_LIKELY(turned - (1u << (TAGS_FLAGS_LOG2 - 1)) < (end - *block)
                                                                  << (TAGS_FLAGS_LOG2 - 1));
}

#endif
