/*
 * The binary buddy system, private and shared, with two bits of metadata a unit.
 *
 * What is kept. Node i of order k stands for the units [i·2^k, (i+1)·2^k); its buddy is node i^1.
 * There is one bit a node, 2 − 2^-n bits a unit in all. A *pair* (the bits of two buddies) says:
 *
 *     01, 10   the marked node is a free block; its buddy is allocated or divided
 *     00       neither is free, or both lie inside a larger block
 *     11       the parent, of order k+1, is an allocated block
 *
 * Two free buddies are never there (they are coalesced at once), so 11 is free to say the second
 * thing. Below a free or an allocated block all other bits are zero, with one exception below. So a
 * look from a unit upwards along its path, to the first pair that is not 00 (at order j), tells
 * all:
 *
 *     11                  an allocated block of order j+1 (or the inside of it)
 *     my side is marked   a free block of order j (or the inside of it)
 *     the other side is   an allocated unit: a larger allocated block would have shown by its
 *                         11 before, a larger free one by its own mark
 *     none up to the root an allocated unit
 *
 * Each free makes that look, so no size is needed and every misuse is seen. What a free block says,
 * only its holder may change: who clears the mark of a free node owns its memory and every bit
 * below.
 *
 * Alignment kept. An allocated block that was asked to be aligned beyond two units carries 11 in
 * the pair of its right grandchildren: it never shrinks, since a smaller block that moves later
 * could not know the alignment. A look from inside the right half meets that 11 first, so a look
 * that found an allocated block asks whether the pair above it is 11 too.
 *
 * Layout. Eight orders of 256 units make 510 bits: one cache line, in which nearly every operation
 * on blocks of order 0-7 stays. Each of its words holds orders 0-4 of 32 units in 62 bits, order r
 * from bit 64 - 64/2^r on, so that a table of 32 masks finds a unit's path in it. The pairs of
 * orders 5-7 take the two bits left:
 *
 *     bits of a word   0-31      32-47   48-55   56-59   60-61   62-63
 *     order            0         1       2       3       4       5, 6, 7 (words 0 2 4 6, 1 5, 3)
 *
 * Lines of 256 units are layer 0; their 256-fold units, orders 8–15, are cut into lines of layer 1,
 * and so on. For each order a bitmap `avail` has one bit for two lines: there may be a free block
 * of the order in them. A bit too many is found and cleared by the next search, a bit too few never
 * lasts.
 *
 * The private kind. For orders of which 62 blocks are less than 1/128 of the range, up to 62 freed
 * blocks wait on a stack, still marked as allocated: most allocations and frees touch one stack and
 * one line. When a stack is full its older half is coalesced, and all of them before an allocation
 * fails, a walk, or a measurement (lazy coalescing, Barkley and Lee 1989). Lest a block be there
 * twice, no two blocks on a stack agree in the low eleven bits of their number; a bit for each of
 * the 2048 says whether there is one.
 *
 * The shared kind. All is in the words of the lines, and a pair lies in one word, so one
 * compare-and-swap decides between the two ends of a free at order k:
 *
 *     my buddy's mark is set     clear it: I own both, go on with the parent
 *     it is not                  set mine: the block is free
 *
 * Two threads that free two buddies can't both find the other absent: free buddies are always
 * coalesced. A block is claimed by the swap that clears its mark, divided by marking right halves
 * (nobody else may touch the pair of a node that I own), and allocated by 11. A free claims the
 * block by the swap from 11 to 00: of two frees of one block, one finds no 11. For single units a
 * third bit a unit says "allocated", for the same reason. While a thread holds parts of a larger
 * free block others may find too little: it counts itself as moving, and whoever fails looks again
 * until nothing has moved during its search (1000 times at most: a thread that is stopped in the
 * middle does not stop others). Threads begin to search at different places, by their stack's
 * address, so that they seldom meet in a line.
 *
 *     mark set (in a line), then avail bit read   |   avail bit cleared, then the lines read again
 *
 * are both sequentially consistent: either the marker sees the bit cleared and sets it, or the
 * searcher sees the mark. models/buddy.pml is the protocol of marks and avail bits.
 *
 * All but addresses lies in the metadata, as numbers of units and words: it may be copied or mapped
 * elsewhere with the range. Units before the range's first byte (the origin is aligned, the range
 * need not be), units of metadata inside, and units beyond the end are never marked free, so they
 * are never coalesced with; `first` and `units` bound what a free may name.
 */
#include "freehold/buddy.h"

#include "base/core/adapter.h"
#include "base/core/bits.h"
#include "base/core/fail.h"
#include "base/core/misuse.h"
#include "base/core/plant.h"
#include "base/core/poison.h"
#include "base/core/probe.h"
#include "place/ground.h"
#include "place/move.h"

enum {
    ORDERS = 32,
    LINE_WORDS = 8,
    STACK = 62, /* blocks that wait: as many as make eight cache lines with what belongs to them */
    FILTER = 2048,   /* its bits: one free in 100 meets one that is set, and coalesces at once */
    STACKS_MAX = 16, /* orders that have a stack */
    SLOTS = 8,       /* places where threads begin to search */
    LOOKS = 1000,    /* at most, of an allocation that fails while others move */
    GROUP_SHIFT = 1, /* two lines share an avail bit: one each makes 1.61 % at 16 bytes */
};

#define MAGIC 0x79646475422d4846u /* "FH-Buddy" */
#define NONE  SIZE_MAX

/* Of threads that begin at the same place; a cache line of its own begins each. */
struct slot {
    uint32_t moving;         /* threads that hold parts of blocks */
    uint32_t moves;          /* counts up before a thread that moved something leaves */
    uint32_t cursor[ORDERS]; /* word of avail where the last block was found */
    uint32_t unused[14];
};

/* What lies at the beginning of the metadata. Offsets (`_at`) are in words from here. */
struct fh_buddy_state {
    uint64_t magic;
    uint64_t bytes;  /* of all metadata */
    uint64_t skip;   /* bytes from the origin to the range */
    uint64_t inside; /* bytes of the range that metadata takes; 0: it is apart */
    uint32_t unit_shift;
    uint32_t is_shared;
    uint32_t root;        /* order of the one node that covers all */
    uint32_t stacks;      /* orders that have one */
    uint32_t first;       /* unit that may be handed out */
    uint32_t units;       /* end of those that may be used now */
    uint32_t capacity;    /* end of those that there is metadata for */
    uint32_t address_low; /* of the range, modulo max(4096, unit) */
    uint32_t layer_at[FH_BUDDY_LAYERS];
    uint32_t avail_at[ORDERS];
    uint32_t live_at;  /* shared: a bit for each allocated unit */
    uint32_t slots_at; /* shared */
    uint32_t stack_at; /* private: for each order that has one */
    /* Private, all of it: */
    uint32_t orders;         /* bit k: count[k] is not 0 */
    uint32_t count[ORDERS];  /* free blocks */
    uint32_t cursor[ORDERS]; /* no word of avail before it has a bit */
    uint32_t aligned;        /* blocks with their alignment kept */
};

/* Private: freed blocks of one order, marked as allocated. No two of them have the same bit of the
 * filter, so that one look tells that a block is not here. */
struct stack {
    uint32_t count, unused;
    uint64_t filter[FILTER / 64];
    uint32_t units[STACK];
};

/* ---- words ----------------------------------------------------------------------------------- */

/* What `is_shared` is, is known wherever these are compiled in. Sequentially consistent throughout:
 * on x86-64 a read-modify-write is so anyway, and the proof above needs it of the marks and the
 * avail bits. */
FH_INLINE uint64_t load(const uint64_t *word, bool is_shared)
{
    return is_shared ? __atomic_load_n(word, __ATOMIC_SEQ_CST) : *word;
}

FH_INLINE bool swap(uint64_t *word, uint64_t *seen, uint64_t wanted, bool is_shared)
{
    if (is_shared)
        return __atomic_compare_exchange_n(word, seen, wanted, false, __ATOMIC_SEQ_CST,
                                           __ATOMIC_SEQ_CST);
    *word = wanted;
    return true;
}

FH_INLINE void set_bits(uint64_t *word, uint64_t bits, bool is_shared)
{
    if (is_shared)
        (void)__atomic_fetch_or(word, bits, __ATOMIC_SEQ_CST);
    else
        *word |= bits;
}

FH_INLINE uint64_t clear_bits(uint64_t *word, uint64_t bits, bool is_shared)
{
    if (is_shared)
        return __atomic_fetch_and(word, ~bits, __ATOMIC_SEQ_CST);
    uint64_t before = *word;
    *word = before & ~bits;
    return before;
}

FH_INLINE bool is_shared_kind(const struct fh_buddy *buddy)
{
    return buddy->state->is_shared != 0;
}

FH_INLINE uint64_t *words_at(const struct fh_buddy *buddy, uint32_t at)
{
    return (uint64_t *)(void *)buddy->state + at;
}

/* A node's bit; its pair begins at bit & ~1. */
struct spot {
    uint64_t *word;
    unsigned bit;
};

FH_INLINE struct spot spot_in_line(uint64_t *line, unsigned u, unsigned r)
{
    unsigned word = u >> 5;
    if (r < 5)
        return (struct spot){line + word, 64 - (64u >> r) + ((u & 31) >> r)};
    unsigned below = (1u << (r - 5)) - 1;
    return (struct spot){line + ((word & ~(2 * below + 1)) | below), 62 + (u >> r & 1)};
}

FH_INLINE struct spot spot_of(const struct fh_buddy *buddy, size_t unit, unsigned order)
{
    unsigned layer = order >> 3;
    size_t in_layer = unit >> (8 * layer);
    uint64_t *line = buddy->layers[layer] + (in_layer >> 8) * LINE_WORDS;
    return spot_in_line(line, (unsigned)(in_layer & 255), order & 7);
}

FH_INLINE unsigned pair_at(struct spot spot)
{
    /* relaxed: what is read of other threads' blocks is judged by a swap. */
    return (unsigned)(__atomic_load_n(spot.word, __ATOMIC_RELAXED) >> (spot.bit & 62)) & 3;
}

/* The pairs of orders 0-4 that the path of unit u goes through in its word. */
#define FH_PATH(u)                                                                                 \
    ((uint64_t)3 << ((u)&30) | (uint64_t)3 << (32 + ((u) >> 1 & 14)) |                             \
     (uint64_t)3 << (48 + ((u) >> 2 & 6)) | (uint64_t)3 << (56 + ((u) >> 3 & 2)) |                 \
     (uint64_t)3 << 60)
#define FH_PATHS(u) FH_PATH(u), FH_PATH((u) + 1), FH_PATH((u) + 2), FH_PATH((u) + 3)

static const uint64_t paths[32] = {FH_PATHS(0),  FH_PATHS(4),  FH_PATHS(8),  FH_PATHS(12),
                                   FH_PATHS(16), FH_PATHS(20), FH_PATHS(24), FH_PATHS(28)};

/* The order of a pair, by its bit in a word; of orders 5-7 by 64 and its bit among theirs. */
#define FH_TWO(r)   r, r
#define FH_FOUR(r)  FH_TWO(r), FH_TWO(r)
#define FH_EIGHT(r) FH_FOUR(r), FH_FOUR(r)

static const unsigned char pair_orders[64 + 8] = {
    FH_EIGHT(0), FH_EIGHT(0), FH_EIGHT(0), FH_EIGHT(0), FH_EIGHT(1), FH_EIGHT(1), FH_EIGHT(2),
    FH_FOUR(3),  FH_TWO(4),   FH_TWO(0),   FH_TWO(5),   FH_TWO(6),   FH_TWO(7),   FH_TWO(8)};

/* The first pair that is not 00 on a unit's path in one line: its order there; 11 of order 8 when
 * there is none. */
struct pair {
    unsigned r, bits;
};

FH_INLINE struct pair first_pair(const uint64_t *line, unsigned u)
{
    unsigned word = u >> 5;
    /* relaxed: what is read of other threads' blocks is judged by a swap. */
    uint64_t low = __atomic_load_n(&line[word], __ATOMIC_RELAXED) & paths[u & 31];
    uint64_t high = __atomic_load_n(&line[word & 6], __ATOMIC_RELAXED) >> 62 |
                    __atomic_load_n(&line[(word & 4) | 1], __ATOMIC_RELAXED) >> 62 << 2 |
                    __atomic_load_n(&line[3], __ATOMIC_RELAXED) >> 62 << 4 | 3u << 6;
    /* Which of the two it is can't be foretold: chosen without a branch. */
    uint64_t is_high = (uint64_t)(low != 0) - 1, marks = low | (high & is_high);
    unsigned bit = (unsigned)__builtin_ctzll(marks);
    unsigned r = pair_orders[bit + (unsigned)(is_high & 64)];
    return (struct pair){r, (unsigned)(marks >> (bit & 62)) & 3};
}

/* Marks of free blocks in a word: those whose pair is not 11. */
FH_INLINE uint64_t free_marks(uint64_t word)
{
    uint64_t both = word & (word >> 1) & 0x5555555555555555u;
    return word & ~(both | both << 1);
}

/* ---- what a unit belongs to ------------------------------------------------------------------ */

enum what { ALLOCATED, FREE, INSIDE }; /* INSIDE: of an allocated block, not its beginning */

struct found {
    enum what what;
    unsigned order;
};

static struct found look_up(const struct fh_buddy *buddy, size_t unit)
{
    for (unsigned layer = 0; layer <= buddy->state->root >> 3; layer++) {
        size_t in_layer = unit >> (8 * layer);
        struct pair pair = first_pair(buddy->layers[layer] + (in_layer >> 8) * LINE_WORDS,
                                      (unsigned)(in_layer & 255));
        if (pair.r == 8)
            continue;
        unsigned order = 8 * layer + pair.r;
        if (pair.bits == 3) {
            bool is_inside = (unit & (((size_t)2 << order) - 1)) != 0 ||
                             pair_at(spot_of(buddy, unit, order + 1)) == 3;
            return (struct found){is_inside ? INSIDE : ALLOCATED, order + 1};
        }
        if (pair.bits >> (unit >> order & 1) & 1)
            return (struct found){FREE, order};
        break;
    }
    return (struct found){ALLOCATED, 0};
}

/* The pair that says that the alignment of a block of order ≥ 2 is kept. */
FH_INLINE struct spot aligned_spot(const struct fh_buddy *buddy, size_t unit, unsigned order)
{
    return spot_of(buddy, unit | (size_t)1 << (order - 1), order - 2);
}

FH_INLINE bool is_aligned_block(const struct fh_buddy *buddy, size_t unit, unsigned order)
{
    return order >= 2 && pair_at(aligned_spot(buddy, unit, order)) == 3;
}

/* ---- the tree -------------------------------------------------------------------------------- */

static size_t lines_of(const struct fh_buddy_state *state, unsigned layer)
{
    return ((size_t)state->capacity + (((size_t)256 << 8 * layer) - 1)) >> (8 * layer + 8);
}

static size_t avail_words(const struct fh_buddy_state *state, unsigned order)
{
    size_t groups = (lines_of(state, order >> 3) + (1u << GROUP_SHIFT) - 1) >> GROUP_SHIFT;
    return (groups + 63) / 64;
}

static struct slot *slot_of_thread(const struct fh_buddy *buddy)
{
    /* Stacks of threads lie megabytes apart; Knuth's multiplier spreads them. */
    uint64_t place = (uint64_t)(uintptr_t)__builtin_frame_address(0) >> 16;
    return (struct slot *)(void *)words_at(buddy, buddy->state->slots_at) +
           (place * 0x9e3779b97f4a7c15u >> 61);
}

static void begin_moving(struct slot *slot)
{
    (void)__atomic_fetch_add(&slot->moving, 1, __ATOMIC_SEQ_CST);
}

static void end_moving(struct slot *slot, bool has_moved)
{
    if (has_moved)
        (void)__atomic_fetch_add(&slot->moves, 1, __ATOMIC_SEQ_CST);
    (void)__atomic_fetch_sub(&slot->moving, 1, __ATOMIC_SEQ_CST);
}

/* A node has just been marked free: say so to searches. */
FH_INLINE void note_free(struct fh_buddy *buddy, size_t unit, unsigned order, bool is_shared)
{
    struct fh_buddy_state *state = buddy->state;
    size_t group = unit >> (8 * (order >> 3) + 8 + GROUP_SHIFT);
    uint64_t *avail = words_at(buddy, state->avail_at[order]) + group / 64;
    uint64_t bit = (uint64_t)1 << group % 64;
    if ((load(avail, is_shared) & bit) == 0)
        set_bits(avail, bit, is_shared);
    if (is_shared) {
        /* The next search of this thread begins here: without it most of its time goes into empty
         * words. */
        __atomic_store_n(&slot_of_thread(buddy)->cursor[order], (uint32_t)(group / 64),
                         __ATOMIC_RELAXED);
        return;
    }
    state->orders |= (uint32_t)1 << order;
    state->count[order]++;
    if (group / 64 < state->cursor[order])
        state->cursor[order] = (uint32_t)(group / 64);
}

FH_INLINE void note_taken(struct fh_buddy *buddy, unsigned order, bool is_shared)
{
    if (!is_shared && --buddy->state->count[order] == 0)
        buddy->state->orders &= ~((uint32_t)1 << order);
}

/* The caller owns the node: it becomes free, coalesced with free buddies. */
FH_INLINE void give(struct fh_buddy *buddy, size_t unit, unsigned order, bool is_shared)
{
    struct slot *slot = NULL;
    for (;; order++) {
        struct spot spot = spot_of(buddy, unit, order);
        uint64_t own = (uint64_t)1 << spot.bit, others = (uint64_t)1 << (spot.bit ^ 1);
        uint64_t seen = load(spot.word, is_shared);
        bool coalesces;
        do {
            coalesces = FH_PLANT(buddy_forgets_its_buddy, false, (seen & others) != 0);
            if (is_shared && coalesces && slot == NULL)
                begin_moving(slot = slot_of_thread(buddy));
        } while (!swap(spot.word, &seen, coalesces ? seen & ~others : seen | own, is_shared));
        if (!coalesces)
            break;
        note_taken(buddy, order, is_shared);
        unit &= ~((size_t)1 << order);
    }
    note_free(buddy, unit, order, is_shared);
    if (slot != NULL)
        end_moving(slot, true);
}

/* Where the bits of one order lie in a line: in every `step`th word from `first` on. */
struct places {
    unsigned first, step;
    uint64_t bits;
};

FH_INLINE struct places places_of(unsigned r)
{
    if (r < 5)
        return (struct places){0, 1, (((uint64_t)1 << (32 >> r)) - 1) << (64 - (64u >> r))};
    return (struct places){(1u << (r - 5)) - 1, 2u << (r - 5), (uint64_t)3 << 62};
}

/* Claims a free block of just this order in one line: its first unit there, or -1. */
FH_INLINE int claim_in_line(uint64_t *line, unsigned r, bool is_shared)
{
    struct places places = places_of(r);
    for (unsigned i = places.first; i < LINE_WORDS; i += places.step) {
        uint64_t seen = load(&line[i], is_shared), marks;
        while ((marks = free_marks(seen) & places.bits) != 0) {
            unsigned bit = (unsigned)__builtin_ctzll(marks);
            if (!swap(&line[i], &seen, seen & ~((uint64_t)1 << bit), is_shared))
                continue;
            return r < 5 ? (int)(32 * i + ((bit - (64 - (64u >> r))) << r))
                         : (int)(32 * (i - places.first) + ((bit & 1) << r));
        }
    }
    return -1;
}

FH_INLINE bool has_free(const uint64_t *line, unsigned r, bool is_shared)
{
    struct places places = places_of(r);
    for (unsigned i = places.first; i < LINE_WORDS; i += places.step)
        if ((free_marks(load(&line[i], is_shared)) & places.bits) != 0)
            return true;
    return false;
}

/* Claims a free block of just this order: its first unit, or NONE. */
FH_INLINE size_t claim(struct fh_buddy *buddy, unsigned order, bool is_shared)
{
    struct fh_buddy_state *state = buddy->state;
    unsigned layer = order >> 3, r = order & 7;
    uint64_t *avail = words_at(buddy, state->avail_at[order]);
    size_t words = avail_words(state, order), lines = lines_of(state, layer);
    uint32_t *cursor = is_shared ? &slot_of_thread(buddy)->cursor[order] : &state->cursor[order];
    size_t at = __atomic_load_n(cursor, __ATOMIC_RELAXED), began = at; /* a hint */
    for (size_t i = 0; i < words; i++, at = at + 1 < words ? at + 1 : 0) {
        for (uint64_t groups = load(&avail[at], is_shared); groups != 0; groups &= groups - 1) {
            unsigned bit = (unsigned)__builtin_ctzll(groups);
            size_t first = (at * 64 + bit) << GROUP_SHIFT;
            size_t end = fh_min(first + (1u << GROUP_SHIFT), lines);
            for (size_t line = first; line < end; line++) {
                int u = claim_in_line(buddy->layers[layer] + line * LINE_WORDS, r, is_shared);
                if (u >= 0) {
                    if (began != at)
                        __atomic_store_n(cursor, (uint32_t)at, __ATOMIC_RELAXED);
                    note_taken(buddy, order, is_shared);
                    return ((line << 8) + (size_t)u) << 8 * layer;
                }
            }
            (void)clear_bits(&avail[at], (uint64_t)1 << bit, is_shared);
            for (size_t line = first; is_shared && line < end; line++)
                if (has_free(buddy->layers[layer] + line * LINE_WORDS, r, true))
                    set_bits(&avail[at], (uint64_t)1 << bit, true);
        }
    }
    return NONE;
}

/* The node of order `have` is the caller's; the right halves down to `want` become free. */
FH_INLINE void split(struct fh_buddy *buddy, size_t unit, unsigned have, unsigned want,
                     bool is_shared)
{
    while (have > want) {
        size_t half = unit | (size_t)1 << --have;
        struct spot spot = spot_of(buddy, half, have);
        set_bits(spot.word, (uint64_t)1 << spot.bit, is_shared);
        note_free(buddy, half, have, is_shared);
    }
}

FH_INLINE void mark_allocated(struct fh_buddy *buddy, size_t unit, unsigned order, bool is_shared)
{
    if (order > 0) {
        struct spot spot = spot_of(buddy, unit, order - 1);
        set_bits(spot.word, (uint64_t)3 << spot.bit, is_shared);
    } else if (is_shared) {
        set_bits(words_at(buddy, buddy->state->live_at) + unit / 64, (uint64_t)1 << unit % 64,
                 true);
    }
}

/* Takes back what mark_allocated said; false when it was not said (any more). */
FH_INLINE bool unmark_allocated(struct fh_buddy *buddy, size_t unit, unsigned order, bool is_shared)
{
    if (order == 0) {
        uint64_t bit = (uint64_t)1 << unit % 64;
        return !is_shared ||
               (clear_bits(words_at(buddy, buddy->state->live_at) + unit / 64, bit, true) & bit) !=
                   0;
    }
    struct spot spot = spot_of(buddy, unit, order - 1);
    uint64_t both = (uint64_t)3 << spot.bit, seen = load(spot.word, is_shared);
    do {
        if ((seen & both) != both)
            return false;
    } while (!swap(spot.word, &seen, seen & ~both, is_shared));
    return true;
}

/* ---- private: stacks ------------------------------------------------------------------------- */

FH_INLINE struct stack *stack_of(const struct fh_buddy *buddy, unsigned order)
{
    return (struct stack *)buddy->stacks + order;
}

FH_INLINE unsigned filter_bit(size_t unit, unsigned order)
{
    return (unsigned)(unit >> order) % FILTER;
}

FH_INLINE bool keep(struct fh_buddy *buddy, size_t unit, unsigned order)
{
    struct stack *stack = stack_of(buddy, order);
    unsigned bit = filter_bit(unit, order);
    uint64_t *word = &stack->filter[bit / 64], mark = (uint64_t)1 << bit % 64;
    uint32_t count = stack->count;
    if (FH_UNLIKELY(count == STACK || (*word & mark) != 0))
        return false;
    *word |= mark;
    stack->units[count] = (uint32_t)unit;
    stack->count = count + 1;
    return true;
}

FH_INLINE size_t unkeep_last(struct stack *stack, unsigned order)
{
    size_t unit = stack->units[--stack->count];
    unsigned bit = filter_bit(unit, order);
    stack->filter[bit / 64] &= ~((uint64_t)1 << bit % 64);
    return unit;
}

/* The oldest `count` blocks of a stack are coalesced. */
static FH_NOINLINE void drain(struct fh_buddy *buddy, unsigned order, unsigned count)
{
    struct stack *stack = stack_of(buddy, order);
    for (unsigned i = 0; i < count; i++) {
        unsigned bit = filter_bit(stack->units[i], order);
        stack->filter[bit / 64] &= ~((uint64_t)1 << bit % 64);
        (void)unmark_allocated(buddy, stack->units[i], order, false);
        give(buddy, stack->units[i], order, false);
    }
    stack->count -= count;
    for (unsigned i = 0; i < stack->count; i++)
        stack->units[i] = stack->units[i + count];
}

static void drain_all(struct fh_buddy *buddy)
{
    for (unsigned order = 0; order < buddy->state->stacks; order++)
        drain(buddy, order, stack_of(buddy, order)->count);
}

/* The place on its stack of an allocated block that only waits there; -1 when it does not. */
static int place_on_stack(const struct fh_buddy *buddy, size_t unit, unsigned order)
{
    if (order >= buddy->state->stacks)
        return -1;
    const struct stack *stack = stack_of(buddy, order);
    for (unsigned i = 0; i < stack->count; i++)
        if (stack->units[i] == unit)
            return (int)i;
    return -1;
}

/* Takes one block off its stack, so that it can be coalesced or claimed. */
static void unkeep(struct fh_buddy *buddy, size_t unit, unsigned order)
{
    int place = place_on_stack(buddy, unit, order);
    if (place < 0)
        return;
    struct stack *stack = stack_of(buddy, order);
    uint32_t last = stack->units[stack->count - 1];
    stack->units[stack->count - 1] = (uint32_t)unit;
    stack->units[place] = last;
    (void)unkeep_last(stack, order);
    (void)unmark_allocated(buddy, unit, order, false);
    give(buddy, unit, order, false);
}

/* ---- memory ---------------------------------------------------------------------------------- */

FH_INLINE void *address_of(const struct fh_buddy *buddy, size_t unit)
{
    return buddy->origin + (unit << buddy->unit_shift);
}

FH_INLINE size_t size_of(const struct fh_buddy *buddy, unsigned order)
{
    return (size_t)1 << (buddy->unit_shift + order);
}

/* Units [from, to) become free, in the largest aligned blocks there are. */
static void give_range(struct fh_buddy *buddy, size_t from, size_t to)
{
    bool is_shared = is_shared_kind(buddy);
    while (from < to) {
        unsigned order = fh_log2(to - from);
        if (from != 0)
            order = (unsigned)fh_min(order, (size_t)__builtin_ctzll(from));
        give(buddy, from, order, is_shared);
        from += (size_t)1 << order;
    }
}

static void use_units(struct fh_buddy *buddy, size_t end)
{
    struct fh_buddy_state *state = buddy->state;
    if (end <= state->units)
        return;
    size_t from = state->units;
    state->units = (uint32_t)end;
    if (buddy->is_poisoning)
        fh_poison(address_of(buddy, from), (end - from) << buddy->unit_shift);
    give_range(buddy, from, end);
}

/* Units that lie within the first `bytes` of the range. */
static size_t units_within(const struct fh_buddy *buddy, size_t bytes)
{
    return fh_min((buddy->state->skip + bytes) >> buddy->unit_shift, buddy->state->capacity);
}

/* Private: the range grows until an aligned block of the order fits in what is new. */
static bool grow(struct fh_buddy *buddy, unsigned order)
{
    struct fh_buddy_state *state = buddy->state;
    size_t size = (size_t)1 << order;
    size_t ends[2] = {fh_align_down(state->units, size) + size,
                      fh_align_up(state->units, size) + size};
    for (int i = 0; i < 2; i++) {
        if (ends[i] > state->capacity ||
            !fh_ground_grow(&buddy->ground, (ends[i] << buddy->unit_shift) - state->skip))
            return false;
        FH_PROBE2(buddy_grow, buddy, buddy->ground.bytes);
        use_units(buddy, units_within(buddy, buddy->ground.bytes));
        if (state->orders >> order != 0)
            return true;
    }
    return false;
}

/* ---- taking ---------------------------------------------------------------------------------- */

static size_t take_private(struct fh_buddy *buddy, unsigned order)
{
    uint32_t larger = buddy->state->orders >> order;
    if (larger == 0)
        return NONE;
    unsigned have = order + (unsigned)__builtin_ctz(larger);
    size_t unit = claim(buddy, have, false);
    split(buddy, unit, have, order, false);
    mark_allocated(buddy, unit, order, false);
    return unit;
}

struct quiet {
    uint32_t moving, moves;
};

static struct quiet look_at_slots(const struct fh_buddy *buddy)
{
    const struct slot *slots = (const void *)words_at(buddy, buddy->state->slots_at);
    struct quiet sum = {0, 0};
    for (unsigned i = 0; i < SLOTS; i++)
        sum.moving += __atomic_load_n(&slots[i].moving, __ATOMIC_SEQ_CST);
    for (unsigned i = 0; i < SLOTS; i++)
        sum.moves += __atomic_load_n(&slots[i].moves, __ATOMIC_SEQ_CST);
    return sum;
}

static size_t split_shared(struct fh_buddy *buddy, unsigned order)
{
    struct slot *slot = slot_of_thread(buddy);
    begin_moving(slot);
    size_t unit = NONE;
    unsigned have = order;
    while (unit == NONE && have < buddy->state->root)
        unit = claim(buddy, ++have, true);
    if (unit != NONE)
        split(buddy, unit, have, order, true);
    end_moving(slot, unit != NONE);
    return unit;
}

static size_t take_shared(struct fh_buddy *buddy, unsigned order)
{
    size_t unit = claim(buddy, order, true);
    for (int i = 0; i < LOOKS && unit == NONE; i++) {
        struct quiet before = look_at_slots(buddy);
        unit = split_shared(buddy, order);
        if (unit == NONE)
            unit = claim(buddy, order, true);
        struct quiet after = look_at_slots(buddy);
        if (unit == NONE && after.moving == 0 && after.moves == before.moves)
            break;
    }
    if (unit != NONE)
        mark_allocated(buddy, unit, order, true);
    return unit;
}

static size_t take_once(struct fh_buddy *buddy, unsigned order, unsigned flags)
{
    if (is_shared_kind(buddy))
        return take_shared(buddy, order);
    size_t unit = take_private(buddy, order);
    if (unit != NONE)
        return unit;
    drain_all(buddy);
    unit = take_private(buddy, order);
    if (unit == NONE && (flags & FH_ALLOC_NO_GROWTH) == 0 && grow(buddy, order))
        unit = take_private(buddy, order);
    return unit;
}

FH_INLINE void *hand_out(struct fh_buddy *buddy, size_t unit, size_t size, unsigned flags)
{
    void *block = address_of(buddy, unit);
    if (FH_UNLIKELY(buddy->is_poisoning))
        fh_unpoison(block, size);
    if (FH_UNLIKELY(flags & FH_ALLOC_ZEROED))
        __builtin_memset(block, 0, FH_PLANT(buddy_zeroes_half, size / 2, size));
    return block;
}

static FH_NOINLINE void *alloc_slow(struct fh_buddy *buddy, size_t size, unsigned order,
                                    bool keeps_alignment, unsigned flags)
{
    size_t unit = NONE;
    if (order <= buddy->state->root) {
        unit = take_once(buddy, order, flags);
        if (unit == NONE && fh_ground_ask(&buddy->ground, size))
            unit = take_once(buddy, order, flags);
    }
    if (unit == NONE)
        return fh_fail(FH_ENOMEM);
    if (keeps_alignment) {
        struct spot spot = aligned_spot(buddy, unit, order);
        if (is_shared_kind(buddy)) {
            set_bits(spot.word, (uint64_t)3 << spot.bit, true);
        } else {
            set_bits(spot.word, (uint64_t)3 << spot.bit, false);
            buddy->state->aligned++;
            buddy->quick = 0;
        }
    }
    return hand_out(buddy, unit, size, flags);
}

/* Of the smallest block that holds `size` bytes; any number over the root's for what none holds. */
FH_INLINE unsigned order_for(const struct fh_buddy *buddy, size_t size)
{
    size_t units = (fh_max(size, 1) - 1) >> buddy->unit_shift;
    return fh_log2(2 * units + 1);
}

void *fh_buddy_alloc(struct fh_buddy *buddy, size_t size)
{
    unsigned order = order_for(buddy, size);
    if (FH_LIKELY(order < buddy->stack_orders)) {
        struct stack *stack = stack_of(buddy, order);
        if (FH_LIKELY(stack->count > 0))
            return hand_out(buddy, unkeep_last(stack, order), size, 0);
    }
    return alloc_slow(buddy, size, order, false, 0);
}

/* The order that a size and an alignment ask for, and whether the alignment must be remembered. */
static unsigned order_for_aligned(const struct fh_buddy *buddy, size_t size, size_t align,
                                  bool *keeps_alignment)
{
    unsigned order = order_for(buddy, size);
    if (align > size_of(buddy, 0))
        order = (unsigned)fh_max(order, fh_log2(align) - buddy->unit_shift);
    *keeps_alignment = align > size_of(buddy, 1) && align > FH_ALIGN_DEFAULT;
    return order;
}

void *fh_buddy_alloc_with(struct fh_buddy *buddy, size_t size, size_t align, unsigned flags)
{
    if (align != 0 && (!fh_is_pow2(align) || align > FH_ALIGN_MAX))
        return fh_fail(FH_EINVAL);
    if (align <= FH_ALIGN_DEFAULT && flags == 0)
        return fh_buddy_alloc(buddy, size);
    if (align > buddy->alignment)
        return fh_fail(FH_ENOMEM);
    bool keeps_alignment;
    unsigned order = order_for_aligned(buddy, size, align, &keeps_alignment);
    return alloc_slow(buddy, size, order, keeps_alignment, flags);
}

/* ---- giving back ----------------------------------------------------------------------------- */

/* The unit that a block begins at; NONE where it can't be one. */
FH_INLINE size_t unit_of(const struct fh_buddy *buddy, const void *block)
{
    size_t offset = (size_t)((uintptr_t)block - (uintptr_t)buddy->origin);
    size_t unit = offset >> buddy->unit_shift;
    const struct fh_buddy_state *state = buddy->state;
    if (unit - state->first >= (size_t)state->units - state->first ||
        (offset & (size_of(buddy, 0) - 1)) != 0)
        return NONE;
    return unit;
}

/* Says what is wrong with a block that is none. */
static FH_COLD void report(const struct fh_buddy *buddy, const void *block)
{
    size_t offset = (size_t)((uintptr_t)block - (uintptr_t)buddy->origin);
    size_t unit = offset >> buddy->unit_shift;
    if (unit < buddy->state->first || unit >= buddy->state->units) {
        fh_misuse("invalid-free", block, "not in the range of this buddy system");
        return;
    }
    bool is_even = (offset & (size_of(buddy, 0) - 1)) == 0;
    struct found found = look_up(buddy, unit);
    if (found.what == FREE && is_even)
        fh_misuse("double-free", block, "the memory is free already");
    else if (found.what == FREE)
        fh_misuse("invalid-free", block, "inside free memory");
    else if (found.what == INSIDE || !is_even)
        fh_misuse("interior-free", block, "inside a block");
    else
        fh_misuse("double-free", block, "the block is free already");
}

/* The allocated block that begins there; order -1 and a report otherwise. */
static int order_of_block(const struct fh_buddy *buddy, const void *block, size_t *unit)
{
    *unit = unit_of(buddy, block);
    if (*unit != NONE) {
        struct found found = look_up(buddy, *unit);
        bool is_live = found.what == ALLOCATED;
        if (is_live && is_shared_kind(buddy))
            is_live = found.order > 0 ||
                      (__atomic_load_n(words_at(buddy, buddy->state->live_at) + *unit / 64,
                                       __ATOMIC_RELAXED) >>
                           *unit % 64 &
                       1) != 0;
        else if (is_live)
            is_live = place_on_stack(buddy, *unit, found.order) < 0;
        if (is_live)
            return (int)found.order;
    }
    report(buddy, block);
    return -1;
}

/* Orders that free_fast serves: those that one line of layer 0 tells of, none where a free has more
 * to do. */
static unsigned quick_orders(const struct fh_buddy *buddy)
{
    return buddy->is_poisoning || buddy->state->aligned != 0
               ? 0
               : (unsigned)fh_min(buddy->state->stacks, 9);
}

/* The caller holds an allocated block: it becomes free. False when somebody else freed it first. */
static bool release(struct fh_buddy *buddy, size_t unit, unsigned order)
{
    bool is_shared = is_shared_kind(buddy), was_aligned = is_aligned_block(buddy, unit, order);
    if (!(is_shared ? unmark_allocated(buddy, unit, order, true)
                    : unmark_allocated(buddy, unit, order, false)))
        return false;
    if (buddy->is_poisoning)
        fh_poison(address_of(buddy, unit), size_of(buddy, order));
    if (was_aligned) {
        struct spot spot = aligned_spot(buddy, unit, order);
        (void)clear_bits(spot.word, (uint64_t)3 << spot.bit, is_shared);
        if (!is_shared && --buddy->state->aligned == 0)
            buddy->quick = quick_orders(buddy);
    }
    if (is_shared)
        give(buddy, unit, order, true);
    else
        give(buddy, unit, order, false);
    return true;
}

/* A size that a block of the order can have been asked for. One that keeps its alignment may be
 * larger than its last size wants; one aligned to two units may have shrunk to one. */
static bool can_have_size(const struct fh_buddy *buddy, size_t unit, unsigned order, size_t size,
                          size_t align)
{
    bool keeps_alignment;
    return order_for_aligned(buddy, size, align, &keeps_alignment) == order ||
           (!keeps_alignment && order_for(buddy, size) == order) ||
           (size <= size_of(buddy, order) && is_aligned_block(buddy, unit, order));
}

static FH_NOINLINE void free_slow(struct fh_buddy *buddy, void *block, const size_t *size_and_align)
{
    if (block == NULL)
        return;
    size_t unit;
    int order = order_of_block(buddy, block, &unit);
    if (order < 0)
        return;
    if (size_and_align != NULL &&
        !can_have_size(buddy, unit, (unsigned)order, size_and_align[0], size_and_align[1])) {
        fh_misuse("size-mismatch", block, "freed with a size that the block does not have");
        return;
    }
    if ((unsigned)order < buddy->state->stacks && !is_aligned_block(buddy, unit, (unsigned)order)) {
        if (stack_of(buddy, (unsigned)order)->count == STACK)
            drain(buddy, (unsigned)order, STACK / 2);
        if (keep(buddy, unit, (unsigned)order)) {
            if (buddy->is_poisoning)
                fh_poison(block, size_of(buddy, (unsigned)order));
            return;
        }
    }
    if (!release(buddy, unit, (unsigned)order))
        fh_misuse("double-free", block, "two threads freed the block at once");
}

/* Private, of an order with a stack that has room, no alignment to forget: nearly always. */
FH_INLINE bool free_fast(struct fh_buddy *buddy, void *block, int expected_order)
{
    const struct fh_buddy_state *state = buddy->state;
    size_t offset = (size_t)((uintptr_t)block - (uintptr_t)buddy->origin);
    /* Rotated: an offset that is no multiple of a unit is beyond every range. */
    size_t unit = offset >> buddy->unit_shift | offset << (-buddy->unit_shift & 63);
    if (FH_UNLIKELY(unit - state->first >= (size_t)state->units - state->first))
        return false;
    struct pair pair =
        first_pair(buddy->layers[0] + (unit >> 8) * LINE_WORDS, (unsigned)(unit & 255));
    unsigned is_block = 0u - (pair.bits == 3), order = (pair.r + 1) & is_block;
    /* A block begins at a multiple of its size; a unit is one if its side is not the marked one. */
    size_t wrong = (unit & (((size_t)1 << order) - 1)) |
                   (size_t)(pair.bits >> (unit >> pair.r & 1) & 1 & ~is_block);
    if (FH_UNLIKELY(wrong != 0 || order >= buddy->quick ||
                    (expected_order >= 0 && order != (unsigned)expected_order)))
        return false;
    return keep(buddy, unit, order);
}

void fh_buddy_free(struct fh_buddy *buddy, void *block)
{
    if (FH_UNLIKELY(!free_fast(buddy, block, -1)))
        free_slow(buddy, block, NULL);
}

void fh_buddy_free_sized(struct fh_buddy *buddy, void *block, size_t size, size_t align)
{
    bool keeps_alignment;
    unsigned order = order_for_aligned(buddy, size, align, &keeps_alignment);
    if (FH_UNLIKELY(!free_fast(buddy, block, (int)order)))
        free_slow(buddy, block, (const size_t[]){size, align});
}

/* ---- resize ---------------------------------------------------------------------------------- */

/* Claims the free right halves that make the block one of order `to`; false when one is not
 * free. */
static bool absorb(struct fh_buddy *buddy, size_t unit, unsigned from, unsigned to)
{
    bool is_shared = is_shared_kind(buddy);
    if ((unit & (((size_t)1 << to) - 1)) != 0)
        return false;
    struct slot *slot = is_shared ? slot_of_thread(buddy) : NULL;
    if (is_shared)
        begin_moving(slot);
    unsigned order = from;
    for (; order < to; order++) {
        size_t half = unit | (size_t)1 << order;
        if (half >= buddy->state->units)
            break;
        if (!is_shared)
            unkeep(buddy, half, order);
        struct spot spot = spot_of(buddy, half, order);
        uint64_t mark = (uint64_t)1 << spot.bit, seen = load(spot.word, is_shared);
        bool is_mine = false;
        while ((seen & mark) != 0 && !(is_mine = swap(spot.word, &seen, seen & ~mark, is_shared)))
            ;
        if (!is_mine)
            break;
        note_taken(buddy, order, is_shared);
    }
    bool is_done = order == to;
    while (!is_done && order > from) {
        order--;
        give(buddy, unit | (size_t)1 << order, order, is_shared);
    }
    if (is_shared)
        end_moving(slot, true);
    return is_done;
}

/* The block becomes one of order `to`, where it is. */
static bool change_order(struct fh_buddy *buddy, size_t unit, unsigned from, unsigned to)
{
    bool is_shared = is_shared_kind(buddy), was_aligned = is_aligned_block(buddy, unit, from);
    if (to == from || (to < from && was_aligned))
        return true;
    if (to > from && (to > buddy->state->root || !absorb(buddy, unit, from, to)))
        return false;
    (void)unmark_allocated(buddy, unit, from, is_shared);
    if (was_aligned) {
        struct spot spot = aligned_spot(buddy, unit, from);
        (void)clear_bits(spot.word, (uint64_t)3 << spot.bit, is_shared);
        spot = aligned_spot(buddy, unit, to);
        set_bits(spot.word, (uint64_t)3 << spot.bit, is_shared);
    }
    if (to < from) {
        if (buddy->is_poisoning)
            fh_poison((char *)address_of(buddy, unit) + size_of(buddy, to),
                      size_of(buddy, from) - size_of(buddy, to));
        split(buddy, unit, from, to, is_shared);
    }
    mark_allocated(buddy, unit, to, is_shared);
    return true;
}

static bool resize_here(struct fh_buddy *buddy, void *block, size_t unit, unsigned order,
                        size_t size)
{
    if (!change_order(buddy, unit, order, order_for(buddy, size)))
        return false;
    if (buddy->is_poisoning)
        fh_unpoison_defined(block, size);
    return true;
}

bool fh_buddy_resize_in_place(struct fh_buddy *buddy, void *block, size_t size)
{
    size_t unit;
    int order = order_of_block(buddy, block, &unit);
    return order >= 0 && resize_here(buddy, block, unit, (unsigned)order, size);
}

static const struct fh_allocator_ops private_ops, shared_ops;

static const struct fh_allocator_ops *ops_of(const struct fh_buddy *buddy)
{
    return is_shared_kind(buddy) ? &shared_ops : &private_ops;
}

void *fh_buddy_resize(struct fh_buddy *buddy, void *block, size_t size, size_t align)
{
    if (align != 0 && (!fh_is_pow2(align) || align > FH_ALIGN_MAX))
        return fh_fail(FH_EINVAL);
    if (block == NULL)
        return fh_buddy_alloc_with(buddy, size, align, 0);
    size_t unit;
    int order = order_of_block(buddy, block, &unit);
    if (order < 0)
        return NULL;
    size_t usable = size_of(buddy, (unsigned)order);
    bool keeps_alignment = is_aligned_block(buddy, unit, (unsigned)order);
    /* An alignment that the block has not, or would not remember, needs another block. */
    bool is_new = align > FH_ALIGN_DEFAULT &&
                  (((uintptr_t)block & (align - 1)) != 0 ||
                   (align > size_of(buddy, 1) && (!keeps_alignment || align > usable)));
    if (!is_new && resize_here(buddy, block, unit, (unsigned)order, size))
        return block;
    if (align == 0 && keeps_alignment)
        align = usable;
    if (order_for(buddy, size) > buddy->state->root)
        return fh_fail(FH_ENOMEM);
    if (buddy->is_poisoning)
        fh_unpoison_defined(block, fh_min(usable, size));
    return fh_resize_by_move(ops_of(buddy), buddy, block, usable, size, align);
}

size_t fh_buddy_usable_size(struct fh_buddy *buddy, const void *block)
{
    if (block == NULL)
        return 0;
    size_t unit;
    int order = order_of_block(buddy, block, &unit);
    if (order < 0)
        return 0;
    if (buddy->is_poisoning)
        fh_unpoison_defined(block, size_of(buddy, (unsigned)order));
    return size_of(buddy, (unsigned)order);
}

bool fh_buddy_owns(const struct fh_buddy *buddy, const void *address)
{
    size_t unit = (size_t)((uintptr_t)address - (uintptr_t)buddy->origin) >> buddy->unit_shift;
    return unit >= buddy->state->first && unit < buddy->state->units;
}

/* ---- holes ----------------------------------------------------------------------------------- */

/* Claims just this node, out of the free block that it is in; false when it is not free. */
static bool claim_node(struct fh_buddy *buddy, size_t unit, unsigned order)
{
    bool is_shared = is_shared_kind(buddy);
    for (unsigned have = order; have <= buddy->state->root; have++) {
        struct spot spot = spot_of(buddy, unit, have);
        uint64_t mark = (uint64_t)1 << spot.bit, seen = load(spot.word, is_shared);
        while ((free_marks(seen) & mark) != 0) {
            if (!swap(spot.word, &seen, seen & ~mark, is_shared))
                continue;
            note_taken(buddy, have, is_shared);
            while (have > order) {
                have--;
                size_t other = ((unit >> have) ^ 1) << have;
                spot = spot_of(buddy, other, have);
                set_bits(spot.word, (uint64_t)1 << spot.bit, is_shared);
                note_free(buddy, other, have, is_shared);
            }
            mark_allocated(buddy, unit, order, is_shared);
            return true;
        }
    }
    return false;
}

/* The largest aligned block at `from` within [from, to): the same ones for reserve and
 * unreserve. */
static unsigned order_within(const struct fh_buddy *buddy, size_t from, size_t to)
{
    unsigned order = fh_log2(to - from);
    if (from != 0)
        order = (unsigned)fh_min(order, (size_t)__builtin_ctzll(from));
    return (unsigned)fh_min(order, buddy->state->root);
}

static bool range_to_units(const struct fh_buddy *buddy, const void *address, size_t bytes,
                           size_t *from, size_t *to)
{
    uintptr_t begin = (uintptr_t)address, end;
    if (bytes == 0 || begin < (uintptr_t)buddy->origin ||
        __builtin_add_overflow(begin - (uintptr_t)buddy->origin, bytes, &end) ||
        !fh_align_up_checked(end, size_of(buddy, 0), &end))
        return false;
    *from = (begin - (uintptr_t)buddy->origin) >> buddy->unit_shift;
    *to = end >> buddy->unit_shift;
    return *from >= buddy->state->first && *to <= buddy->state->units;
}

int fh_buddy_reserve(struct fh_buddy *buddy, const void *address, size_t bytes)
{
    size_t from, to, unit;
    if (!range_to_units(buddy, address, bytes, &from, &to))
        return fh_error(FH_EINVAL);
    if (!is_shared_kind(buddy))
        drain_all(buddy);
    for (unit = from; unit < to;) {
        unsigned order = order_within(buddy, unit, to);
        if (!claim_node(buddy, unit, order))
            break;
        unit += (size_t)1 << order;
    }
    if (unit == to)
        return 0;
    for (size_t back = from; back < unit;) {
        unsigned order = order_within(buddy, back, to);
        (void)release(buddy, back, order);
        back += (size_t)1 << order;
    }
    return fh_error(FH_ENOMEM);
}

int fh_buddy_unreserve(struct fh_buddy *buddy, const void *address, size_t bytes)
{
    size_t from, to;
    if (!range_to_units(buddy, address, bytes, &from, &to))
        return fh_error(FH_EINVAL);
    for (size_t unit = from; unit < to;) {
        unsigned order = order_within(buddy, unit, to);
        struct found found = look_up(buddy, unit);
        if (found.what != ALLOCATED || found.order != order)
            return fh_error(FH_EINVAL);
        unit += (size_t)1 << order;
    }
    for (size_t unit = from; unit < to;) {
        unsigned order = order_within(buddy, unit, to);
        if (!release(buddy, unit, order))
            return fh_error(FH_EINVAL);
        unit += (size_t)1 << order;
    }
    return 0;
}

/* ---- opening --------------------------------------------------------------------------------- */

/* Says where everything lies for `capacity` units; the bytes of it. */
static size_t lay_out(struct fh_buddy_state *state, size_t capacity, bool is_shared)
{
    state->capacity = (uint32_t)capacity;
    state->is_shared = is_shared;
    state->root = capacity <= 1 ? 0 : fh_log2(capacity - 1) + 1;
    state->stacks = 0;
    while (!is_shared && state->stacks < STACKS_MAX && state->stacks <= state->root &&
           ((size_t)STACK << state->stacks) <= capacity / 128)
        state->stacks++;
    size_t at = fh_align_up(sizeof *state, FH_CACHE_LINE) / sizeof(uint64_t);
    for (unsigned layer = 0; layer <= state->root >> 3; layer++) {
        state->layer_at[layer] = (uint32_t)at;
        at += lines_of(state, layer) * LINE_WORDS;
    }
    state->slots_at = state->stack_at = (uint32_t)at;
    at += is_shared ? SLOTS * sizeof(struct slot) / sizeof(uint64_t)
                    : state->stacks * sizeof(struct stack) / sizeof(uint64_t);
    for (unsigned order = 0; order <= state->root; order++) {
        state->avail_at[order] = (uint32_t)at;
        at += avail_words(state, order);
    }
    state->live_at = (uint32_t)at;
    if (is_shared)
        at += (capacity + 63) / 64;
    return state->bytes = fh_align_up(at * sizeof(uint64_t), FH_CACHE_LINE);
}

#define UNITS_MAX ((size_t)1 << 31)

/* How far apart aligned addresses lie that the origin is one of: 1/128 of the range costs at most
 * so much metadata for units before it. */
static size_t origin_align(size_t bytes, size_t unit)
{
    size_t part = (size_t)1 << fh_log2(fh_max(bytes / 128, 1));
    return fh_min(fh_max(fh_max(part, 4096), unit), FH_ALIGN_MAX);
}

static size_t unit_asked(const struct fh_buddy_options *options)
{
    size_t unit = options->unit == 0 ? FH_BUDDY_UNIT_MIN : options->unit;
    bool is_good = fh_is_pow2(unit) && unit >= FH_BUDDY_UNIT_MIN && unit <= FH_BUDDY_UNIT_MAX;
    return is_good ? unit : 0;
}

size_t fh_buddy_metadata_size(const struct fh_buddy_options *options)
{
    size_t unit = unit_asked(options), bytes = options->place.capacity, skip = 0;
    if (options->place.memory != NULL) {
        bytes = options->place.bytes;
        skip = (uintptr_t)options->place.memory & (origin_align(bytes, fh_max(unit, 1)) - 1);
    } else if (options->place.source != NULL && bytes == 0) {
        bytes = options->place.source->capacity;
    } else if (options->place.parent != NULL) {
        skip = origin_align(bytes, fh_max(unit, 1));
    }
    if (unit == 0 || bytes == 0 || (skip + bytes) / unit > UNITS_MAX)
        return 0;
    struct fh_buddy_state state;
    return lay_out(&state, (skip + bytes) / unit, options->is_shared) + FH_CACHE_LINE - 1;
}

/* The handle's part that follows from where state and range lie. */
static void bind(struct fh_buddy *buddy, struct fh_buddy_state *state, unsigned char *base)
{
    buddy->state = state;
    buddy->origin = base - state->skip;
    buddy->unit_shift = state->unit_shift;
    buddy->is_poisoning = fh_poison_is_on();
    buddy->stacks = words_at(buddy, state->stack_at);
    buddy->stack_orders = state->stacks;
    buddy->quick = quick_orders(buddy);
    for (unsigned layer = 0; layer <= state->root >> 3; layer++)
        buddy->layers[layer] = words_at(buddy, state->layer_at[layer]);
    uintptr_t origin = (uintptr_t)buddy->origin;
    buddy->alignment = origin == 0 ? FH_ALIGN_MAX : fh_min(origin & -origin, FH_ALIGN_MAX);
}

/* Fills zeroed metadata and frees what may be used. */
static void begin(struct fh_buddy *buddy)
{
    struct fh_buddy_state *state = buddy->state;
    if (state->is_shared) {
        struct slot *slots = (struct slot *)(void *)words_at(buddy, state->slots_at);
        for (unsigned i = 0; i < SLOTS; i++)
            for (unsigned order = 0; order <= state->root; order++)
                slots[i].cursor[order] = (uint32_t)(avail_words(state, order) * i / SLOTS);
    }
    state->units = state->first;
    use_units(buddy, units_within(buddy, buddy->ground.bytes));
}

static bool is_zero_source(const struct fh_ground *ground)
{
    return ground->source != NULL && (ground->source->capabilities & FH_SOURCE_ZEROED) != 0;
}

/* The metadata's place and size, once it is known what range there is. */
static int settle(struct fh_buddy *buddy, const struct fh_buddy_options *options, size_t unit)
{
    struct fh_ground *ground = &buddy->ground;
    uintptr_t base = (uintptr_t)ground->base;
    size_t skip = base & (origin_align(ground->capacity, unit) - 1);
    if ((skip + ground->capacity) / unit > UNITS_MAX || (skip + ground->capacity) / unit == 0)
        return fh_error(FH_EINVAL);
    struct fh_buddy_state plan = {
        .magic = MAGIC,
        .skip = skip,
        .unit_shift = fh_log2(unit),
        .address_low = (uint32_t)(base & (fh_max(unit, 4096) - 1)),
    };
    size_t bytes = lay_out(&plan, (skip + ground->capacity) / unit, options->is_shared);
    bool is_apart = options->metadata != NULL;
    uintptr_t place = fh_align_up(is_apart ? (uintptr_t)options->metadata : base, FH_CACHE_LINE);
    size_t lost = place - (is_apart ? (uintptr_t)options->metadata : base);
    if (is_apart) {
        if (options->metadata_bytes < lost || options->metadata_bytes - lost < bytes)
            return fh_error(FH_EINVAL);
    } else {
        plan.inside = lost + bytes;
    }
    size_t first = (skip + plan.inside + unit - 1) / unit;
    size_t wanted = options->is_shared ? ground->capacity : (first + 1) * unit - skip;
    if (first >= plan.capacity)
        return fh_error(FH_EINVAL);
    if (!fh_ground_grow(ground, wanted))
        return fh_error(FH_ENOMEM);
    plan.first = (uint32_t)first;
    struct fh_buddy_state *state = (struct fh_buddy_state *)place;
    if (is_apart || !is_zero_source(ground))
        __builtin_memset(state, 0, bytes);
    *state = plan;
    bind(buddy, state, ground->base);
    return 0;
}

int fh_buddy_init(struct fh_buddy *buddy, const struct fh_buddy_options *options)
{
    static const struct fh_buddy_options defaults;
    if (options == NULL)
        options = &defaults;
    *buddy = (struct fh_buddy){0};
    size_t unit = unit_asked(options);
    if (unit == 0)
        return fh_error(FH_EINVAL);
    const struct fh_place_options *place = &options->place;
    /* A range of the system's can be aligned for nothing; elsewhere it would cost memory. */
    bool is_system = place->memory == NULL && place->parent == NULL &&
                     (place->source == NULL || !(place->source->capabilities & FH_SOURCE_FIXED));
    int error = fh_ground_open(&buddy->ground, place, unit,
                               is_system ? FH_BUDDY_UNIT_MAX : FH_ALIGN_DEFAULT);
    if (error != 0)
        return error;
    error = settle(buddy, options, unit);
    if (error != 0) {
        fh_ground_close(&buddy->ground);
        *buddy = (struct fh_buddy){0};
        return fh_error(-error);
    }
    begin(buddy);
    return 0;
}

/* `metadata` is all of `metadata_bytes`, in which a state begins. */
static int attach(struct fh_buddy *buddy, void *memory, size_t bytes, void *metadata,
                  size_t metadata_bytes, bool is_apart)
{
    *buddy = (struct fh_buddy){0};
    uintptr_t place = fh_align_up((uintptr_t)metadata, FH_CACHE_LINE);
    size_t lost = place - (uintptr_t)metadata;
    if (memory == NULL || metadata_bytes < lost + sizeof(struct fh_buddy_state))
        return fh_error(FH_EINVAL);
    struct fh_buddy_state *state = (struct fh_buddy_state *)place, plan;
    uintptr_t base = fh_align_up((uintptr_t)memory, FH_ALIGN_DEFAULT);
    if (state->magic != MAGIC || state->bytes > metadata_bytes - lost || state->unit_shift > 21 ||
        state->units > state->capacity || state->capacity > UNITS_MAX ||
        state->first > state->units || (state->inside == 0) != is_apart ||
        lay_out(&plan, state->capacity, state->is_shared != 0) != state->bytes ||
        state->root != plan.root || state->stacks != plan.stacks ||
        state->layer_at[0] != plan.layer_at[0] ||
        ((size_t)state->units << state->unit_shift) > state->skip + bytes ||
        (base & (fh_max((size_t)1 << state->unit_shift, 4096) - 1)) != state->address_low)
        return fh_error(FH_EINVAL);
    fh_ground_attach(&buddy->ground, (void *)base, bytes - (base - (uintptr_t)memory));
    bind(buddy, state, (unsigned char *)base);
    return 0;
}

int fh_buddy_attach(struct fh_buddy *buddy, void *memory, size_t bytes)
{
    return attach(buddy, memory, bytes, memory, bytes, false);
}

int fh_buddy_attach_apart(struct fh_buddy *buddy, void *memory, size_t bytes, void *metadata,
                          size_t metadata_bytes)
{
    return attach(buddy, memory, bytes, metadata, metadata_bytes, true);
}

void fh_buddy_reset(struct fh_buddy *buddy)
{
    struct fh_buddy_state *state = buddy->state, plan = *state;
    __builtin_memset(state, 0, plan.bytes);
    *state = plan;
    state->orders = 0;
    state->aligned = 0;
    __builtin_memset(state->count, 0, sizeof state->count);
    __builtin_memset(state->cursor, 0, sizeof state->cursor);
    buddy->quick = quick_orders(buddy);
    begin(buddy);
}

void fh_buddy_destroy(struct fh_buddy *buddy)
{
    if (buddy->state == NULL)
        return;
    if (buddy->is_poisoning)
        fh_unpoison(buddy->ground.base, buddy->ground.bytes);
    buddy->state->magic = 0;
    fh_ground_close(&buddy->ground);
    *buddy = (struct fh_buddy){0};
}

/* ---- looking --------------------------------------------------------------------------------- */

int fh_buddy_walk(struct fh_buddy *buddy, int (*visit)(void *, const struct fh_block *),
                  void *context)
{
    if (!is_shared_kind(buddy))
        drain_all(buddy);
    for (size_t unit = buddy->state->first; unit < buddy->state->units;) {
        struct found found = look_up(buddy, unit);
        struct fh_block block = {address_of(buddy, unit), size_of(buddy, found.order),
                                 found.what != FREE};
        int result = visit(context, &block);
        if (result != 0)
            return result;
        unit += (size_t)1 << found.order;
    }
    return 0;
}

static int measure_block(void *context, const struct fh_block *block)
{
    struct fh_measure *out = context;
    if (block->is_live) {
        out->live_blocks++;
        out->live_bytes += block->usable;
    } else {
        out->free_blocks++;
        out->free_bytes += block->usable;
        out->largest_free = fh_max(out->largest_free, block->usable);
    }
    return 0;
}

int fh_buddy_measure(struct fh_buddy *buddy, struct fh_measure *out)
{
    if (out->size != sizeof *out)
        return fh_error(FH_EINVAL);
    const struct fh_ground *ground = &buddy->ground;
    size_t apart = buddy->state->inside == 0 ? buddy->state->bytes : 0;
    *out = (struct fh_measure){
        .size = sizeof *out,
        .metadata = buddy->state->bytes,
        .footprint = ground->bytes + apart,
        .reserved = ground->capacity + apart,
        .peak_footprint = ground->peak_bytes + apart,
    };
    return fh_buddy_walk(buddy, measure_block, out);
}

struct tally {
    struct fh_buddy *buddy;
    uint32_t count[ORDERS];
    size_t bits;    /* that the blocks account for */
    size_t aligned; /* blocks that keep their alignment */
    size_t live_units;
    int broken;
};

/* Free: a buddy that is free too, an avail bit that is missing. */
static void check_free(struct tally *tally, size_t unit, unsigned order)
{
    const struct fh_buddy *buddy = tally->buddy;
    tally->count[order]++;
    tally->bits++;
    size_t group = unit >> (8 * (order >> 3) + 8 + GROUP_SHIFT);
    if ((words_at(buddy, buddy->state->avail_at[order])[group / 64] >> group % 64 & 1) == 0) {
        fh_broken("buddy %p: free block %p of order %u is not said to be available",
                  (const void *)buddy, address_of(buddy, unit), order);
        tally->broken++;
    }
}

static int check_block(void *context, const struct fh_block *block)
{
    struct tally *tally = context;
    const struct fh_buddy *buddy = tally->buddy;
    size_t unit = (size_t)((unsigned char *)block->address - buddy->origin) >> buddy->unit_shift;
    unsigned order = fh_log2(block->usable) - buddy->unit_shift;
    struct found found = look_up(buddy, unit);
    if (found.what == INSIDE || (unit & (((size_t)1 << order) - 1)) != 0 ||
        unit + ((size_t)1 << order) > buddy->state->units) {
        fh_broken("buddy %p: %p does not begin a block of order %u", (const void *)buddy,
                  block->address, order);
        tally->broken++;
        return 1;
    }
    if (!block->is_live) {
        check_free(tally, unit, order);
        return 0;
    }
    tally->live_units += order == 0;
    tally->bits += order > 0 ? 2 : 0;
    if (is_aligned_block(buddy, unit, order)) {
        tally->aligned++;
        tally->bits += 2;
    }
    return 0;
}

static int expect(const struct fh_buddy *buddy, const char *what, size_t have, size_t want)
{
    if (have == want)
        return 0;
    fh_broken("buddy %p: %s: %zu, the blocks make it %zu", (const void *)buddy, what, have, want);
    return 1;
}

static size_t bits_set(const uint64_t *words, size_t count)
{
    size_t bits = 0;
    for (size_t i = 0; i < count; i++)
        bits += fh_popcount(words[i]);
    return bits;
}

static int check_stack(const struct fh_buddy *buddy, unsigned order)
{
    const struct stack *stack = stack_of(buddy, order);
    uint64_t filter[FILTER / 64] = {0};
    int broken = 0;
    for (unsigned i = 0; i < fh_min(stack->count, STACK); i++) {
        size_t unit = stack->units[i];
        unsigned bit = filter_bit(unit, order);
        struct found found = {FREE, 0};
        if (unit >= buddy->state->first && unit < buddy->state->units)
            found = look_up(buddy, unit);
        if (found.what != ALLOCATED || found.order != order ||
            (filter[bit / 64] >> bit % 64 & 1) != 0) {
            fh_broken("buddy %p: place %u of the stack of order %u holds unit %zu",
                      (const void *)buddy, i, order, unit);
            broken++;
        }
        filter[bit / 64] |= (uint64_t)1 << bit % 64;
    }
    uint64_t difference = 0; /* no memcmp: this is built freestanding as well */
    for (unsigned i = 0; i < FILTER / 64; i++)
        difference |= filter[i] ^ stack->filter[i];
    if (stack->count > STACK || difference != 0) {
        fh_broken("buddy %p: the filter of the stack of order %u, which holds %u blocks, is wrong",
                  (const void *)buddy, order, stack->count);
        broken++;
    }
    return broken;
}

int fh_buddy_check(struct fh_buddy *buddy)
{
    const struct fh_buddy_state *state = buddy->state;
    if (state->magic != MAGIC) {
        fh_broken("buddy %p: its metadata is overwritten", (const void *)buddy);
        return 1;
    }
    struct tally tally = {.buddy = buddy};
    for (unsigned order = 0; order < state->stacks; order++)
        tally.broken += check_stack(buddy, order);
    if (tally.broken != 0 || fh_buddy_walk(buddy, check_block, &tally) != 0)
        return tally.broken;
    size_t bits = 0;
    for (unsigned layer = 0; layer <= state->root >> 3; layer++)
        bits += bits_set(buddy->layers[layer], lines_of(state, layer) * LINE_WORDS);
    tally.broken += expect(buddy, "bits set", bits, tally.bits);
    if (state->is_shared)
        return tally.broken + expect(buddy, "allocated units",
                                     bits_set(words_at(buddy, state->live_at),
                                              ((size_t)state->capacity + 63) / 64),
                                     tally.live_units);
    tally.broken += expect(buddy, "aligned blocks", state->aligned, tally.aligned);
    for (unsigned order = 0; order < ORDERS; order++) {
        tally.broken +=
            expect(buddy, "free blocks of an order", state->count[order], tally.count[order]);
        tally.broken +=
            expect(buddy, "an order's bit", state->orders >> order & 1, state->count[order] != 0);
    }
    return tally.broken;
}

/* ---- the interface --------------------------------------------------------------------------- */

FH_ADAPT_ALLOC(buddy)
FH_ADAPT_FREE(buddy)
FH_ADAPT_FREE_SIZED(buddy)
FH_ADAPT_USABLE_SIZE(buddy)
FH_ADAPT_RESIZE(buddy)
FH_ADAPT_WHOLE(buddy)

static bool op_resize_in_place(void *self, void *block, size_t old_size, size_t new_size)
{
    (void)old_size;
    return fh_buddy_resize_in_place(self, block, new_size);
}

#define BUDDY_OPS(name, more)                                                                      \
    FH_ADAPTER_OPS(name,                                                                           \
                   FH_ALLOCATOR_MOVES | FH_ALLOCATOR_RELOCATABLE | FH_ALLOCATOR_SEES_DOUBLE_FREE | \
                       (more),                                                                     \
                   op_resize_in_place, op_usable_size)

static const struct fh_allocator_ops private_ops = BUDDY_OPS("buddy", 0);
static const struct fh_allocator_ops shared_ops =
    BUDDY_OPS("buddy-shared", FH_ALLOCATOR_THREAD_SAFE);

struct fh_allocator fh_buddy_allocator(struct fh_buddy *buddy)
{
    return (struct fh_allocator){ops_of(buddy), buddy};
}
