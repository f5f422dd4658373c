/*
 * First, next, best and worst fit: Knuth 1973, 2.5; the engine is tags.h, and here are the two trees that find a
 * block for a policy without walking a list.
 *
 * By address (first, next)
 * ------------------------
 *
 * One search tree of all free blocks by address. A node holds also the largest size below it, so that the lowest
 * block of at least u units is found in one descent: left if the largest on the left is enough, else the node
 * itself, else right. (Stephenson's "Fast Fits", SOSP 1983, orders a tree by address and makes it a heap by size,
 * which answers the same question, but is as deep as the sizes happen to make it.) Next fit asks the same from an
 * address on, the rover, and once more from the beginning.
 *
 *     node: left, right, parent, most     16 bytes, so the smallest block has 24 (granule 8) or 32
 *
 * By size (best, worst)
 * ---------------------
 *
 * A search tree by (size, address) for each class of sizes (classes.h, 2^5 to a power of two), and the map of those
 * that are not empty. Best fit looks for the smallest sufficient size in the request's own class, else takes the first
 * of the next class that is not empty; below 256 bytes all blocks of a class have one size and the tree is one by
 * address. Worst fit looks in the highest class. Equal sizes: the lowest address, which leaves the high end of the
 * range alone. Trees of one class are small, so few cache lines are touched.
 *
 *     node: left, right      8 bytes, so the smallest block has 16
 *
 * Balance. Both are treaps (Seidel and Aragon 1996): heaps by a rank that is a hash of the block's unit and
 * the range's key. A node needs no room for it, and the shape of a tree does not depend on the order of calls. The
 * expected depth of a node among n is below 2 ln n, and the chance that any is deeper than c times that falls as
 * n^(1 - c ln(c / e)): at a million blocks a path of 28 is usual, and one of 150 will not be seen. Next to an
 * invariant that a program could break only by knowing the key, a bound that always holds (a red-black tree's) would
 * cost bits in nodes that have none left.
 *
 * By size no parent is kept: a block is found from the root by its key, and cut out or put in on the way down
 * (Tarjan, Levy and Timmel's zipping and unzipping, 2021).
 */
#include "freehold/fit.h"
#include "place/classes.h"
#include "place/tags.h"

enum { SECOND = 5 };

/* Of a block in the key's order: two integer hash steps (Mueller 2009), enough to look random. */
FH_INLINE uint32_t rank_of(unsigned char *base, uint32_t block)
{
    uint32_t x = block ^ tags_head(base)->key;
    x = (x ^ x >> 16) * 0x45d9f3bu;
    x = (x ^ x >> 16) * 0x45d9f3bu;
    return x ^ x >> 16;
}

FH_INLINE bool is_by_address(unsigned char *base)
{
    return tags_head(base)->choice <= FH_FIT_NEXT;
}

/* ---- By address -------------------------------------------------------------------------------- */

enum { LEFT, RIGHT, PARENT, MOST }; /* words of a node */

/* Behind the head. */
struct by_address {
    uint32_t root;
    uint32_t rover; /* next fit: where the last block given out ended */
};

FH_INLINE struct by_address *by_address(unsigned char *base)
{
    return tags_index_data(base);
}

FH_INLINE uint32_t most_below(unsigned char *base, uint32_t node)
{
    return node != 0 ? tags_node(base, node)[MOST] : 0;
}

FH_INLINE uint32_t max3(uint32_t a, uint32_t b, uint32_t c)
{
    uint32_t d = a > b ? a : b;
    return c > d ? c : d;
}

FH_INLINE void recount(unsigned char *base, uint32_t node)
{
    tags_word *words = tags_node(base, node);
    words[MOST] = max3(tags_size_of(base, node), most_below(base, words[LEFT]),
                       most_below(base, words[RIGHT]));
}

/* Whoever points to `node` points to `heir` from now on. */
FH_INLINE void replace(unsigned char *base, uint32_t parent, uint32_t node, uint32_t heir)
{
    if (parent == 0)
        by_address(base)->root = heir;
    else
        tags_node(base, parent)[tags_node(base, parent)[LEFT] == node ? LEFT : RIGHT] = heir;
    if (heir != 0)
        tags_node(base, heir)[PARENT] = parent;
}

/* Turns a node and its parent over, so that the node is above. */
static void rotate_up(unsigned char *base, uint32_t node)
{
    tags_word *words = tags_node(base, node);
    uint32_t parent = words[PARENT];
    tags_word *above = tags_node(base, parent);
    int side = above[LEFT] == node ? LEFT : RIGHT;
    uint32_t child = words[side ^ 1];
    replace(base, above[PARENT], parent, node);
    above[side] = child;
    if (child != 0)
        tags_node(base, child)[PARENT] = parent;
    words[side ^ 1] = parent;
    above[PARENT] = node;
    words[MOST] = above[MOST];
    recount(base, parent);
}

static void insert_by_address(unsigned char *base, uint32_t block, uint32_t units)
{
    uint32_t parent = 0, at = by_address(base)->root;
    int side = LEFT;
    while (at != 0) {
        tags_word *words = tags_node(base, at);
        if (words[MOST] < units)
            words[MOST] = units;
        parent = at;
        side = block < at ? LEFT : RIGHT;
        at = words[side];
    }
    tags_word *words = tags_node(base, block);
    words[LEFT] = words[RIGHT] = 0;
    words[PARENT] = parent;
    words[MOST] = units;
    if (parent == 0)
        by_address(base)->root = block;
    else
        tags_node(base, parent)[side] = block;
    uint32_t rank = rank_of(base, block);
    while (words[PARENT] != 0 && rank_of(base, words[PARENT]) < rank)
        rotate_up(base, block);
}

static void remove_by_address(unsigned char *base, uint32_t block)
{
    tags_word *words = tags_node(base, block);
    while (words[LEFT] != 0 && words[RIGHT] != 0)
        rotate_up(base, rank_of(base, words[LEFT]) > rank_of(base, words[RIGHT]) ? words[LEFT]
                                                                                 : words[RIGHT]);
    replace(base, words[PARENT], block, words[words[LEFT] != 0 ? LEFT : RIGHT]);
    for (uint32_t at = words[PARENT]; at != 0; at = tags_node(base, at)[PARENT])
        recount(base, at);
}

/* The lowest block below `node` of at least so many units, of which there is one. */
static uint32_t lowest(unsigned char *base, uint32_t node, uint32_t units)
{
    for (;;) {
        tags_word *words = tags_node(base, node);
        if (most_below(base, words[LEFT]) >= units)
            node = words[LEFT];
        else if (tags_size_of(base, node) >= units)
            return node;
        else
            node = words[RIGHT];
    }
}

/* The lowest block from `from` on of at least so many units, or 0. */
static uint32_t lowest_from(unsigned char *base, uint32_t from, uint32_t units)
{
    uint32_t found = 0; /* it, or the one of its ancestors on whose right side it lies */
    for (uint32_t at = by_address(base)->root; at != 0 && most_below(base, at) >= units;) {
        tags_word *words = tags_node(base, at);
        if (at < from) {
            at = words[RIGHT];
            continue;
        }
        if (tags_size_of(base, at) >= units || most_below(base, words[RIGHT]) >= units)
            found = at;
        at = words[LEFT];
    }
    if (found == 0 || tags_size_of(base, found) >= units)
        return found;
    return lowest(base, tags_node(base, found)[RIGHT], units);
}

static uint32_t take_by_address(unsigned char *base, uint32_t units)
{
    struct by_address *index = by_address(base);
    if (most_below(base, index->root) < units)
        return 0;
    uint32_t block = 0;
    if (tags_head(base)->choice == FH_FIT_NEXT)
        block = lowest_from(base, index->rover, units);
    if (block == 0)
        block = lowest(base, index->root, units);
    index->rover = block + units;
    remove_by_address(base, block);
    return block;
}

/* What a walk through a tree in order has seen so far. */
struct look {
    unsigned char *base;
    uint32_t last; /* the block before in order */
    size_t count;
    int broken;
};

static void look_at(struct look *look, uint32_t block, bool is_in_order)
{
    if (!is_in_order || !(tags_read(look->base, block, tags_head(look->base)->key) & TAGS_FREE)) {
        fh_broken("the tree holds %zu out of order or not free", (size_t)block * TAGS_UNIT);
        look->broken++;
    }
    look->last = block;
    look->count++;
}

static bool is_inside(unsigned char *base, uint32_t block)
{
    return block >= tags_head(base)->first && block < tags_head(base)->end;
}

static void check_by_address(struct look *look, uint32_t node, uint32_t parent)
{
    if (node == 0)
        return;
    if (!is_inside(look->base, node) || tags_node(look->base, node)[PARENT] != parent ||
        (parent != 0 && rank_of(look->base, parent) < rank_of(look->base, node))) {
        fh_broken("the tree is broken at %zu", (size_t)node * TAGS_UNIT);
        look->broken++;
        return;
    }
    tags_word *words = tags_node(look->base, node);
    check_by_address(look, words[LEFT], node);
    look_at(look, node, node > look->last);
    check_by_address(look, words[RIGHT], node);
    uint32_t most = max3(tags_size_of(look->base, node), most_below(look->base, words[LEFT]),
                         most_below(look->base, words[RIGHT]));
    if (look->broken == 0 && most != words[MOST]) {
        fh_broken("the tree is wrong about the largest below %zu", (size_t)node * TAGS_UNIT);
        look->broken++;
    }
}

/* ---- By size ----------------------------------------------------------------------------------- */

FH_INLINE struct class_map *by_size(unsigned char *base)
{
    return tags_index_data(base);
}

/* The roots lie behind the map. */
FH_INLINE tags_word *root_of(unsigned char *base, uint32_t class)
{
    struct class_map *map = by_size(base);
    return (tags_word *)(void *)&map->words[class_map_words(map->last)] + class;
}

/* Does block a, of a_units, come before b? */
FH_INLINE bool is_before(uint32_t a, uint32_t a_units, uint32_t b, uint32_t b_units)
{
    return a_units < b_units || (a_units == b_units && a < b);
}

static void insert_by_size(unsigned char *base, uint32_t block, uint32_t units)
{
    uint32_t class = class_of(SECOND, units), rank = rank_of(base, block);
    tags_word *link = root_of(base, class);
    while (*link != 0 && rank_of(base, *link) > rank) {
        uint32_t at = *link;
        link = &tags_node(base,
                          at)[is_before(block, units, at, tags_size_of(base, at)) ? LEFT : RIGHT];
    }
    /* What was below falls apart into what comes before and what comes after. */
    uint32_t at = *link;
    tags_word *left = &tags_node(base, block)[LEFT], *right = &tags_node(base, block)[RIGHT];
    *link = block;
    while (at != 0) {
        bool is_after = is_before(block, units, at, tags_size_of(base, at));
        tags_word **side = is_after ? &right : &left;
        **side = at;
        *side = &tags_node(base, at)[is_after ? LEFT : RIGHT];
        at = **side;
    }
    *left = *right = 0;
    class_map_set(by_size(base), class);
}

static void remove_by_size(unsigned char *base, uint32_t block, uint32_t units)
{
    uint32_t class = class_of(SECOND, units);
    tags_word *root = root_of(base, class), *link = root;
    while (*link != block) {
        uint32_t at = *link;
        if (FH_UNLIKELY(at == 0))
            return; /* a node was overwritten; check says so */
        link = &tags_node(base,
                          at)[is_before(block, units, at, tags_size_of(base, at)) ? LEFT : RIGHT];
    }
    uint32_t left = tags_node(base, block)[LEFT], right = tags_node(base, block)[RIGHT];
    while (left != 0 && right != 0) {
        bool is_left_above = rank_of(base, left) > rank_of(base, right);
        uint32_t *above = is_left_above ? &left : &right;
        *link = *above;
        link = &tags_node(base, *above)[is_left_above ? RIGHT : LEFT];
        *above = *link;
    }
    *link = left != 0 ? left : right;
    if (*root == 0)
        class_map_clear(by_size(base), class);
}

/* The smallest of a class with at least so many units, the lowest of these; or 0. */
static uint32_t smallest(unsigned char *base, uint32_t class, uint32_t units)
{
    uint32_t found = 0;
    for (uint32_t at = *root_of(base, class); at != 0;) {
        bool is_enough = tags_size_of(base, at) >= units;
        found = is_enough ? at : found;
        at = tags_node(base, at)[is_enough ? LEFT : RIGHT];
    }
    return found;
}

static uint32_t best(unsigned char *base, uint32_t units)
{
    const struct class_map *map = by_size(base);
    uint32_t class = class_of(SECOND, units);
    uint32_t block = smallest(base, class, units);
    if (block != 0)
        return block;
    class = class_map_next(map, class + 1);
    return class == map->last ? 0 : smallest(base, class, units);
}

static uint32_t worst(unsigned char *base, uint32_t units)
{
    const struct class_map *map = by_size(base);
    /* Without the class that is always set, the highest bit is what is wanted. */
    uint32_t word = map->last / 64;
    uint64_t bits = map->words[word] & ~((uint64_t)1 << map->last % 64);
    if (bits == 0) {
        uint64_t top = map->top & (((uint64_t)1 << word) - 1);
        if (top == 0)
            return 0;
        word = fh_log2(top);
        bits = map->words[word];
    }
    if (bits == 0)
        return 0;
    uint32_t class = word * 64 + fh_log2(bits), last = 0;
    for (uint32_t at = *root_of(base, class); at != 0; at = tags_node(base, at)[RIGHT])
        last = at;
    uint32_t most = tags_size_of(base, last);
    return most < units ? 0 : smallest(base, class, most);
}

static uint32_t take_by_size(unsigned char *base, uint32_t units)
{
    uint32_t block =
        tags_head(base)->choice == FH_FIT_BEST ? best(base, units) : worst(base, units);
    if (block != 0)
        remove_by_size(base, block, tags_size_of(base, block));
    return block;
}

static void check_by_size(struct look *look, uint32_t node, uint32_t class)
{
    if (node == 0)
        return;
    if (!is_inside(look->base, node)) {
        fh_broken("the tree of class %u is broken", class);
        look->broken++;
        return;
    }
    tags_word *words = tags_node(look->base, node);
    check_by_size(look, words[LEFT], class);
    uint32_t units = tags_size_of(look->base, node), last = look->last;
    look_at(look, node,
            class_of(SECOND, units) == class &&
                (last == 0 || is_before(last, tags_size_of(look->base, last), node, units)));
    if (look->broken == 0)
        check_by_size(look, words[RIGHT], class);
}

/* ---- The index --------------------------------------------------------------------------------- */

static size_t index_bytes(uint32_t choice, uint32_t most)
{
    if (choice <= FH_FIT_NEXT)
        return sizeof(struct by_address);
    uint32_t last = class_of(SECOND, most) + 1;
    return sizeof(struct class_map) + class_map_words(last) * sizeof(uint64_t) +
           (last + 1) * sizeof(tags_word);
}

static uint32_t index_least(uint32_t choice)
{
    return choice <= FH_FIT_NEXT ? 3 : 2; /* the word in front, the node, the tag: 24 or 16 bytes */
}

static void index_open(unsigned char *base)
{
    if (is_by_address(base)) {
        *by_address(base) = (struct by_address){0};
        return;
    }
    class_map_open(by_size(base), SECOND, tags_head(base)->most);
    for (uint32_t class = 0; class <= by_size(base)->last; class ++)
        *root_of(base, class) = 0;
}

static void index_insert(const struct tags_index *index, unsigned char *base, uint32_t block,
                         uint32_t units)
{
    (void)index;
    if (is_by_address(base))
        insert_by_address(base, block, units);
    else
        insert_by_size(base, block, units);
}

static void index_remove(const struct tags_index *index, unsigned char *base, uint32_t block,
                         uint32_t units)
{
    (void)index;
    if (is_by_address(base))
        remove_by_address(base, block);
    else
        remove_by_size(base, block, units);
}

static uint32_t index_take(const struct tags_index *index, unsigned char *base, uint32_t units)
{
    (void)index;
    return is_by_address(base) ? take_by_address(base, units) : take_by_size(base, units);
}

static int index_check(unsigned char *base, size_t *count)
{
    struct look look = {.base = base};
    if (is_by_address(base)) {
        check_by_address(&look, by_address(base)->root, 0);
        *count = look.count;
        return look.broken;
    }
    const struct class_map *map = by_size(base);
    for (uint32_t class = 1; class <= map->last; class ++) {
        look.last = 0;
        check_by_size(&look, *root_of(base, class), class);
        bool claims = class_map_has(map, class);
        if (claims != (*root_of(base, class) != 0 || class == map->last)) {
            fh_broken("the map is wrong about class %u", class);
            look.broken++;
        }
    }
    *count = look.count;
    return look.broken;
}

static const struct tags_index fit_index = {
    .magic = 0x46495401, /* "FIT", 1 */
    .bytes = index_bytes,
    .least = index_least,
    .open = index_open,
    .insert = index_insert,
    .remove = index_remove,
    .take = index_take,
    .take_hard = NULL, /* take finds whatever there is */
    .check = index_check,
    .node_bytes = 16,
    .sizes_log2 = TAGS_EXACT,
};

enum {
    CAPABILITIES = FH_ALLOCATOR_SEES_DOUBLE_FREE | FH_ALLOCATOR_MOVES | FH_ALLOCATOR_RELOCATABLE
};

#include "place/manager.h"

static const struct fh_allocator_ops ops[];

FH_TAGS_FUNCTIONS(fit, &fit_index, &ops[0])

static const struct fh_allocator_ops ops[] = {
    [FH_FIT_FIRST] = FH_ADAPTER_OPS("first-fit", CAPABILITIES, op_resize_in_place, op_usable_size),
    [FH_FIT_NEXT] = FH_ADAPTER_OPS("next-fit", CAPABILITIES, op_resize_in_place, op_usable_size),
    [FH_FIT_BEST] = FH_ADAPTER_OPS("best-fit", CAPABILITIES, op_resize_in_place, op_usable_size),
    [FH_FIT_WORST] = FH_ADAPTER_OPS("worst-fit", CAPABILITIES, op_resize_in_place, op_usable_size),
};

struct fh_allocator fh_fit_allocator(struct fh_fit *self)
{
    uint32_t policy = tags_head(tags_base(&self->tags))->choice;
    return (struct fh_allocator){.ops = &ops[policy], .self = &self->tags};
}

int fh_fit_init(struct fh_fit *self, const struct fh_fit_options *options)
{
    static const struct fh_fit_options none;
    if (options == NULL)
        options = &none;
    if ((unsigned)options->policy > FH_FIT_WORST)
        return fh_error(FH_EINVAL);
    return tags_open(&self->tags, &fit_index, &options->place, options->align,
                     (uint32_t)options->policy);
}
