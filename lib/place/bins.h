/*
 * bins: the index of TLSF and half-fit: a list of free blocks for each class of sizes (classes.h).
 *
 * Behind the head of the range lie the class map and then the heads of the lists, each a pair of links like those
 * in the first 8 bytes of a free block, so that a list is a ring through its head and neither end is a special
 * case:
 *
 *     | struct class_map, words | {next, prev} of class 0 | of class 1 | … | of class last |
 *
 * Links are units. A list has become empty when the two links of the block that leaves it are equal, and then they
 * name the head, whose distance from the first head is the class: a block is taken out without knowing its size.
 *
 * Lists are last in, first out: the block freed last is the one still in the cache.
 *
 * Good fit: a request takes the first block of the first list all of whose blocks are large enough. The list of the
 * request's own class may hold larger blocks too, among smaller ones. BINS_LOOKS of them are tried when nothing else is
 * left and the range would have to grow: a constant number, so the bound on time stays, and a range that is nearly
 * full is used better.
 */
#ifndef FH_PLACE_BINS_H
#define FH_PLACE_BINS_H

#include "place/classes.h"
#include "place/tags.h"

/* The last resort costs as many cache misses. */
enum { BINS_LOOKS = 32 };

/* Second level known at compile time (half-fit), or BINS_CHOSEN: as the range was opened. */
enum { BINS_CHOSEN = -1 };

enum { BINS_NEXT, BINS_PREV }; /* words of a node */

struct bins {
    uint64_t heads; /* unit of class 0's head; the others follow */
    struct class_map map;
};

FH_INLINE struct bins *bins_of(unsigned char *base)
{
    return tags_index_data(base);
}

FH_INLINE uint32_t bins_second(unsigned char *base, int second)
{
    return second == BINS_CHOSEN ? bins_of(base)->map.second : (uint32_t)second;
}

FH_INLINE size_t bins_bytes(uint32_t second, uint32_t most)
{
    uint32_t last = class_of(second, most) + 1;
    return sizeof(struct bins) + class_map_words(last) * sizeof(uint64_t) +
           (last + 1) * (size_t)TAGS_UNIT;
}

FH_INLINE uint32_t bins_heads(unsigned char *base)
{
    return (uint32_t)bins_of(base)->heads;
}

FH_INLINE void bins_insert(unsigned char *base, uint32_t block, uint32_t units, int second)
{
    uint32_t class = class_of(bins_second(base, second), tags_sort_by(tags_head(base), units));
    uint32_t head = bins_heads(base) + class, next = tags_node(base, head)[BINS_NEXT];
    tags_word *node = tags_node(base, block);
    tags_node(base, next)[BINS_PREV] = block;
    node[BINS_NEXT] = next;
    node[BINS_PREV] = head;
    tags_node(base, head)[BINS_NEXT] = block;
    if (FH_UNLIKELY(next == head))
        class_map_set(&bins_of(base)->map, class);
}

FH_INLINE void bins_remove(unsigned char *base, uint32_t block)
{
    uint32_t next = tags_node(base, block)[BINS_NEXT], prev = tags_node(base, block)[BINS_PREV];
    tags_node(base, prev)[BINS_NEXT] = next;
    tags_node(base, next)[BINS_PREV] = prev;
    if (FH_UNLIKELY(next == prev))
        class_map_clear(&bins_of(base)->map, next - bins_heads(base));
}

FH_INLINE uint32_t bins_take(unsigned char *base, uint32_t units, int second)
{
    struct class_map *map = &bins_of(base)->map;
    uint32_t class = class_fitting(bins_second(base, second), tags_sort_by(tags_head(base), units));
    class = class_map_next(map, class);
    if (FH_UNLIKELY(class == map->last))
        return 0;
    uint32_t block = tags_node(base, bins_heads(base) + class)[BINS_NEXT];
    bins_remove(base, block);
    if (block == 0)
        __builtin_unreachable();
    return block;
}

/* Of the first `looks` blocks in the request's own list, the first that is large enough; or 0. */
FH_INLINE uint32_t bins_look(unsigned char *base, uint32_t units, int second, int looks)
{
    uint32_t head = bins_heads(base) +
                    class_of(bins_second(base, second), tags_sort_by(tags_head(base), units));
    uint32_t block = tags_node(base, head)[BINS_NEXT];
    for (; block != head && looks > 0; looks--) {
        if (tags_size_of(base, block) >= units) {
            bins_remove(base, block);
            return block;
        }
        block = tags_node(base, block)[BINS_NEXT];
    }
    return 0;
}

FH_INLINE void bins_open(unsigned char *base, uint32_t second)
{
    struct tags_head *head = tags_head(base);
    struct bins *bins = bins_of(base);
    class_map_open(&bins->map, second, head->most);
    bins->heads =
        (size_t)((unsigned char *)&bins->map.words[class_map_words(bins->map.last)] - base) /
        TAGS_UNIT;
    uint32_t heads = bins_heads(base);
    for (uint32_t i = heads; i <= heads + bins->map.last; i++)
        tags_node(base, i)[BINS_NEXT] = tags_node(base, i)[BINS_PREV] = i;
}

/* Every list: rings closed, blocks free and of their class, the map's bit right. */
FH_HIDDEN int bins_check(unsigned char *base, size_t *count);

#endif
