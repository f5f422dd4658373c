/*
 * classes: sizes sorted into two levels, and the map of those that hold something.
 *
 * A class is a power of two (first level) cut into 2^s equal parts (second level), as in TLSF (Masmano et al.,
 * ECRTS 2004, section 3): a size of u units, u < 2^s, has a class of its own; above that a class is 2^l units
 * wide, with l = ⌊log2 u⌋ - s, and its number is
 *
 *     (l << s) + (u >> l)
 *
 * Since u >> l lies in [2^s, 2^(s+1)), the numbers of successive powers of two join without a gap, and the linear
 * part below is the case l = 0: one formula, no branch.
 *
 * The map has one bit for each class, in words of 64, and a word above them with a bit for each word that isn't
 * zero: at most 64 x 64 classes, of which 24 x 64 are needed (29 bits of units, s = 6). The class behind the last
 * one is always set, so a search needs no test for its end: it finds `last`, and nobody is there.
 *
 * Everything takes the same few instructions whatever the map holds, but for one predictable branch in
 * class_map_next.
 */
#ifndef FH_PLACE_CLASSES_H
#define FH_PLACE_CLASSES_H

#include "base/core/bits.h"

/* Lies in the managed range: no pointers. */
struct class_map {
    uint64_t top;  /* bit w: words[w] is not 0 */
    uint32_t last; /* a class that is always set and always empty: one more than a size can have */
    uint32_t second;  /* s: log2 of the classes in a power of two */
    uint64_t words[]; /* bit c % 64 of words[c / 64]: class c holds something */
};

FH_INLINE uint32_t class_width_log2(uint32_t second, uint32_t units)
{
    return (uint32_t)(31 - __builtin_clz(units | 1u << second)) - second;
}

/* The class that a block of so many units belongs to. */
FH_INLINE uint32_t class_of(uint32_t second, uint32_t units)
{
    uint32_t width = class_width_log2(second, units);
    return (width << second) + (units >> width);
}

/* The first class all of whose blocks have at least so many units. */
FH_INLINE uint32_t class_fitting(uint32_t second, uint32_t units)
{
    uint32_t width = class_width_log2(second, units);
    return (width << second) + ((units + (1u << width) - 1) >> width);
}

/* The smallest size in class_fitting(units): what a block must have to be found for sure. */
FH_INLINE uint32_t class_rounded(uint32_t second, uint32_t units)
{
    uint32_t width = class_width_log2(second, units);
    return ((units + (1u << width) - 1) >> width) << width;
}

FH_INLINE uint32_t class_map_words(uint32_t last)
{
    return last / 64 + 1;
}

FH_INLINE void class_map_set(struct class_map *map, uint32_t class)
{
    map->words[class / 64] |= (uint64_t)1 << class % 64;
    map->top |= (uint64_t)1 << class / 64;
}

FH_INLINE void class_map_clear(struct class_map *map, uint32_t class)
{
    if ((map->words[class / 64] &= ~((uint64_t)1 << class % 64)) == 0)
        map->top &= ~((uint64_t)1 << class / 64);
}

FH_INLINE bool class_map_has(const struct class_map *map, uint32_t class)
{
    return map->words[class / 64] >> class % 64 & 1;
}

/* The first class >= `class` that holds something, or `last`. */
FH_INLINE uint32_t class_map_next(const struct class_map *map, uint32_t class)
{
    uint32_t word = class / 64;
    uint64_t bits = map->words[word] & (uint64_t)-1 << class % 64;
    if (bits == 0) {
        /* `last` lies further on, so there is a word above. */
        word = (uint32_t)__builtin_ctzll(map->top & (uint64_t)-2 << word);
        bits = map->words[word];
    }
    return word * 64 + (uint32_t)__builtin_ctzll(bits);
}

/* Empties the map of a range whose largest block has `most` units. */
FH_INLINE void class_map_open(struct class_map *map, uint32_t second, uint32_t most)
{
    map->top = 0;
    map->second = second;
    map->last = class_of(second, most) + 1;
    for (uint32_t i = 0; i < class_map_words(map->last); i++)
        map->words[i] = 0;
    class_map_set(map, map->last);
}

#endif
