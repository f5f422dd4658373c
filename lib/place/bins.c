/* The check of the lists; their theory is in bins.h. */
#include "place/bins.h"

/* Links and blocks of one list; stops at the first that is broken, since nothing behind it can be trusted. */
static bool is_list_whole(unsigned char *base, uint32_t class, size_t *count)
{
    const struct tags_head *head = tags_head(base);
    uint32_t anchor = bins_heads(base) + class, at = anchor;
    do {
        uint32_t next = tags_node(base, at)[BINS_NEXT];
        if (next != anchor && (next < head->first || next >= head->end))
            return false;
        if (tags_node(base, next)[BINS_PREV] != at)
            return false;
        at = next;
        if (at != anchor) {
            uint32_t word = tags_read(base, at, head->key);
            if (!(word & TAGS_FREE) ||
                class_of(bins_of(base)->map.second, tags_sort_by(head, tags_units(word))) != class)
                return false;
            ++*count;
        }
    } while (at != anchor);
    return true;
}

int bins_check(unsigned char *base, size_t *count)
{
    const struct class_map *map = &bins_of(base)->map;
    int broken = 0;
    for (uint32_t class = 0; class < map->last; class ++) {
        size_t before = *count;
        if (!is_list_whole(base, class, count)) {
            fh_broken("the list of class %u is broken", class);
            broken++;
        } else if (class_map_has(map, class) != (*count != before)) {
            fh_broken("the map is wrong about class %u", class);
            broken++;
        }
    }
    for (uint32_t word = 0; word < class_map_words(map->last); word++) {
        bool claims = map->top >> word & 1;
        if (claims != (map->words[word] != 0)) {
            fh_broken("the map's top is wrong about word %u", word);
            broken++;
        }
    }
    if (!class_map_has(map, map->last) ||
        tags_node(base, bins_heads(base) + map->last)[BINS_NEXT] != bins_heads(base) + map->last) {
        fh_broken("%s", "the class behind the last is not as it must be");
        broken++;
    }
    return broken;
}
