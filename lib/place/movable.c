/*
 * movable: blocks behind handles, compacted by evacuation.
 *
 * What is kept. One range, in granules of 16 bytes, cut into *units* of 64 KiB (smaller in small heaps, so
 * that there are at least 64 of them). From the base: the state, the table of units, and then blocks,
 * one of which holds the table of handles:
 *
 *     | state | units[] | block block . . | block   . . block block | table of handles | . . .
 *
 * A block is a header of one granule (index of its handle, generation, length, pins) and the bytes
 * behind it. The table has for each handle index the granule of its block's first byte: resolving is one
 * load and a shift. The generation is a counter over all allocations and lies in the block's header;
 * a handle has both. That an address is a live block's is proved in O(1): the table's entry for the index
 * in its header leads back to it, and no entry leads to what is not a block.
 *
 * Tiling. A unit is FREE (nothing known of its bytes), or headers tile it: from units[u].first, the
 * first header that touches it, each header leads to the next until the end of the unit. Live blocks may
 * lie across units; a dead one never does, it is cut at the edges when it dies. So a unit in which no
 * live granule is left can become FREE without a look at its neighbours, and a header before the unit
 * that `first` names is a live block's.
 *
 * Allocation bumps through a *gap*, a dead stretch in one unit. When a gap is used up, the next is a hole
 * of at least the size wanted in a unit that is a quarter empty (units in turn, as in Immix, Blackburn
 * and McKinley 2008), else a FREE unit, else new ground, else any hole that fits, at
 * last one across units. A block that does not
 * fit into a unit takes FREE ones behind the gap, or a run of them. There is a gap each for movable
 * blocks, for fixed ones (the interface's, the table of handles) and for what compaction moves; a
 * fixed block among movable ones would hold their unit for its life. No list of free blocks is kept: the
 * headers are the list.
 *
 * Compaction evacuates (Jones, Hosking and Moss 2012, 10.5; segments by their liveness as in Rumble et
 * al., Log-structured Memory, FAST 2014). Units with nothing fixed in them and less than 15/16 live are
 * counted in a histogram by sixteenths of liveness; a victim is taken from the lowest, its blocks are
 * moved into a FREE unit, or holes where there is none, and their entries in the table are redirected.
 * A victim stays one over steps, and is not allocated in. Each step ends before the block that would
 * exceed its limits; the clock is read every 4 KiB and before every large block. Blocks of more than
 * eight units never move: copying them would take longer than a step may, and as they begin on a unit of
 * their own, what is lost at their end is under an eighth. At the end of a step FREE units are purged, but
 * for two that the next allocations will take.
 *
 * Where the ground can't take units back (a buffer), a second phase folds the heap: while a FREE unit lies
 * below one that can be emptied, the highest such is, into the lowest FREE ones, so that what was gained
 * becomes one piece that large blocks find room in. It ends because addresses only fall.
 *
 * When it stops. Moving gains Σ(1 − liveness) over the candidates, in whole units: under one unit nothing is
 * left to gain. Blocks that do not pack (longer than the runs of FREE units) could be carried round for
 * ever, so after 32 units moved without a unit gained compaction resigns until a unit's worth of blocks has
 * been freed. Pinned blocks never enter the account: their units are no candidates.
 *
 * The table of handles is a fixed block of pages of 127 entries behind a word that counts the page's live
 * ones and heads its list of free ones. Indices come from the lowest page that has one, so pages at
 * the end empty and are cut off by compaction. A free entry has its top bit set: that is an address 32 GiB
 * above the base, beyond every block.
 *
 * Everything in the range is a granule number: it is relocatable. `struct fh_movable` holds the two
 * addresses that resolving needs and the ground. Not locked; the caller's lock covers all of it.
 */
#include "freehold/movable.h"

#include "base/core/adapter.h"
#include "base/core/bits.h"
#include "base/core/fail.h"
#include "base/core/misuse.h"
#include "base/core/plant.h"
#include "base/core/poison.h"
#include "base/core/probe.h"
#include "os/sys.h"
#include "place/ground.h"

#include <errno.h>

#define MAGIC         ((uint64_t)0x31766f6d64686572)
#define GRANULE_SHIFT 4
#define GRANULE       ((size_t)1 << GRANULE_SHIFT)
#define ENTRY_IS_FREE 0x80000000u /* and with it, granules end below: 32 GiB */
#define RANGE_MAX     ((size_t)ENTRY_IS_FREE << GRANULE_SHIFT)
#define NO_UNIT       UINT32_MAX
#define INDEX_DEAD    0u /* of no handle: word 0 of a page is its header */
#define INDEX_TABLE   UINT32_MAX

enum {
    UNIT_SHIFT_MAX = 16, /* what a ground can purge, and no page of any Linux is larger */
    UNIT_SHIFT_MIN = 10,
    UNITS_WANTED = 64, /* one unit is lost to a half-filled gap, a few to compaction's targets */
    PAGE_WORDS = 128,  /* of the table: 512 bytes, little enough for a heap of some KiB */
    PAGE_ENTRIES = PAGE_WORDS - 1,
    SIXTEENTHS = 16,
    DENSE = 15,         /* sixteenths live from which moving 15 bytes to gain one is not worth it */
    LARGE_UNITS = 8,    /* half a millisecond to copy at 1 ns a byte */
    RESIGN_UNITS = 32,  /* twice what gaining a unit costs from units just under DENSE */
    KEPT_FREE = 2,      /* units: the next gaps of allocation and of compaction */
    LOOK_BYTES = 4096,  /* between looks at the clock: 1-4 µs of copying */
    LOOK_UNITS = 16384, /* of the table in one step: 20 µs */
    PURGE_UNITS = 16,   /* in one call: 1 MiB, 50-100 µs */
    RECYCLED_PERCENT_MAX = 75,
    PINS_MAX = UINT16_MAX,
};

enum gap_kind { GAP_MOVABLE, GAP_FIXED, GAP_COMPACT, GAPS };
enum unit_state { UNIT_FREE, UNIT_USED, UNIT_OPEN, UNIT_VICTIM };

struct unit {
    uint32_t live;  /* granules of live blocks and of the manager itself; not FREE */
    uint32_t first; /* granule of the first header that touches it; not FREE */
    uint16_t fixed; /* blocks touching it that can't be moved */
    uint8_t state : 4;
    uint8_t is_skipped : 1; /* a block in it was beyond a step's limits */
    uint8_t is_purged : 1;  /* FREE, and its memory is with the source */
};

struct header {
    uint32_t index; /* INDEX_DEAD, INDEX_TABLE or of a handle */
    uint32_t generation;
    uint32_t granules; /* with the header */
    uint16_t pins;
    uint8_t align_log2;
    uint8_t slack; /* usable - requested, under a granule */
};

/* A dead stretch that allocation bumps through; a dead header says so at its beginning, unless it is
 * empty. Its unit is OPEN. */
struct gap {
    uint32_t unit; /* NO_UNIT: none */
    uint32_t begin;
    uint32_t end;
};

/* At the base of the range. */
struct state {
    uint64_t magic;
    uint32_t unit_shift;
    uint32_t units;      /* in the capacity */
    uint32_t meta;       /* granules of state and units[] */
    uint32_t table;      /* granule of the table's first word */
    uint32_t pages;      /* of the table */
    uint32_t free_page;  /* no page below has a free entry */
    uint32_t generation; /* of the last block */
    uint32_t home;       /* the first base's low bits: what alignments were made for */
    uint32_t free_unit;  /* no unit below is FREE */
    uint32_t last_free;  /* became FREE last: its memory is warm; or NO_UNIT */
    uint32_t recycle;    /* where the search for holes goes on */
    uint32_t scan;       /* where the search for victims goes on */
    uint32_t purge;      /* where purging goes on */
    uint32_t victim;     /* or NO_UNIT */
    bool is_folding;     /* the victim was chosen for its place: its blocks go below it */
    struct gap gaps[GAPS];

    uint64_t live_blocks;
    uint64_t live_granules; /* of blocks, headers in; the table is not among them */
    uint64_t fixed_granules;
    uint32_t used;                     /* units not FREE */
    uint32_t free_kept;                /* FREE, once used, not purged */
    uint32_t by_sixteenth[SIXTEENTHS]; /* candidates */
    uint64_t sparse_dead;              /* granules not live in candidates below DENSE */
    uint64_t freed;                    /* granules, ever */
    uint64_t dry_freed; /* `freed` when a search for a hole of dry_granules last failed */
    uint32_t dry_granules;

    uint64_t resigned_freed; /* `freed` when compaction resigned */
    bool is_resigned;
    uint32_t least_used;     /* units, since `moved` was 0 */
    uint64_t moved;          /* granules moved since the last unit was gained */
    uint64_t max_bytes_seen; /* the widest limits that set is_skipped */
    uint64_t max_ns_seen;
    struct fh_compaction done;
};

_Static_assert(sizeof(struct header) == GRANULE, "a header is one granule");

/* ---- Places ------------------------------------------------------------------------------------ */

static struct state *state_of(const struct fh_movable *m)
{
    return (struct state *)(void *)m->base;
}

static struct unit *units_of(const struct fh_movable *m)
{
    return (struct unit *)(void *)(m->base + sizeof(struct state));
}

static void *address_of(const struct fh_movable *m, uint32_t granule)
{
    return m->base + ((size_t)granule << GRANULE_SHIFT);
}

static struct header *header_at(const struct fh_movable *m, uint32_t granule)
{
    return address_of(m, granule);
}

static uint32_t *table_of(const struct fh_movable *m)
{
    return address_of(m, state_of(m)->table);
}

static uint32_t unit_granules(const struct state *s)
{
    return 1u << (s->unit_shift - GRANULE_SHIFT);
}

static uint32_t unit_of(const struct state *s, uint32_t granule)
{
    return granule >> (s->unit_shift - GRANULE_SHIFT);
}

static uint32_t unit_begin(const struct state *s, uint32_t u)
{
    return u << (s->unit_shift - GRANULE_SHIFT);
}

static uint32_t unit_end(const struct state *s, uint32_t u)
{
    return unit_begin(s, u + 1);
}

/* Units whose memory may be touched. */
static uint32_t committed(const struct fh_movable *m)
{
    const struct state *s = state_of(m);
    return (uint32_t)fh_min(m->ground.bytes >> s->unit_shift, s->units);
}

static bool is_large(const struct state *s, uint32_t granules)
{
    return granules > LARGE_UNITS * unit_granules(s);
}

static bool is_fixed(const struct state *s, const struct header *h)
{
    return h->pins != 0 || h->index == INDEX_TABLE || is_large(s, h->granules);
}

static size_t usable_of(const struct header *h)
{
    return (size_t)(h->granules - 1) << GRANULE_SHIFT;
}

/* ---- The account of candidates ------------------------------------------------------------------ */

static bool is_candidate(const struct unit *unit)
{
    return unit->state == UNIT_USED && unit->fixed == 0 && !unit->is_skipped;
}

static void count_candidate(struct state *s, const struct unit *unit, int sign)
{
    if (!is_candidate(unit))
        return;
    uint32_t all = unit_granules(s);
    uint32_t sixteenth = unit->live * SIXTEENTHS / all;
    if (sixteenth >= DENSE)
        return;
    s->by_sixteenth[sixteenth] += (uint32_t)sign;
    s->sparse_dead += (uint64_t)(int64_t)(sign * (int32_t)(all - unit->live));
}

/* Every change of a unit's fields lies between these two. */
static void unit_leave(struct state *s, const struct unit *unit)
{
    count_candidate(s, unit, -1);
}

static void unit_enter(struct state *s, const struct unit *unit)
{
    count_candidate(s, unit, 1);
}

/* ---- Tiles -------------------------------------------------------------------------------------- */

static struct header *write_header(struct fh_movable *m, uint32_t granule, struct header header)
{
    struct header *h = header_at(m, granule);
    fh_unpoison(h, sizeof *h);
    *h = header;
    return h;
}

static void write_dead(struct fh_movable *m, uint32_t granule, uint32_t granules)
{
    if (granules == 0)
        return;
    write_header(m, granule, (struct header){.index = INDEX_DEAD, .granules = granules});
    fh_poison(address_of(m, granule + 1), (size_t)(granules - 1) << GRANULE_SHIFT);
}

/* The first header of the unit that does not lie across its beginning. */
static uint32_t first_inside(const struct fh_movable *m, uint32_t u)
{
    const struct state *s = state_of(m);
    uint32_t first = units_of(m)[u].first;
    return first >= unit_begin(s, u) ? first : first + header_at(m, first)->granules;
}

static void unit_open(struct fh_movable *m, uint32_t u, enum unit_state state)
{
    struct state *s = state_of(m);
    struct unit *unit = &units_of(m)[u];
    s->used++;
    if (unit->is_purged)
        m->ground.purged -= (size_t)1 << s->unit_shift;
    else if (s->free_kept > 0)
        s->free_kept--;
    *unit = (struct unit){.first = unit_begin(s, u), .state = (uint8_t)state & 15u};
    size_t held = m->ground.bytes - m->ground.purged;
    m->ground.peak_bytes = fh_max(m->ground.peak_bytes, held);
}

static void unit_free(struct fh_movable *m, uint32_t u)
{
    struct state *s = state_of(m);
    struct unit *unit = &units_of(m)[u];
    *unit = (struct unit){.state = UNIT_FREE};
    s->used--;
    s->free_kept++;
    s->last_free = u;
    s->free_unit = (uint32_t)fh_min(s->free_unit, u);
    if (s->victim == u) {
        s->victim = NO_UNIT;
        s->is_folding = false;
    }
    fh_poison(address_of(m, unit_begin(s, u)), (size_t)1 << s->unit_shift);
}

/* Back from OPEN or VICTIM. */
static void unit_settle(struct fh_movable *m, uint32_t u)
{
    struct unit *unit = &units_of(m)[u];
    unit->state = UNIT_USED;
    if (unit->live == 0)
        unit_free(m, u);
    else
        unit_enter(state_of(m), unit);
}

/* [from, to) becomes part of the live block at `granule`. */
static void add_live(struct fh_movable *m, uint32_t granule, uint32_t from, uint32_t to,
                     bool counts_fixed)
{
    struct state *s = state_of(m);
    for (uint32_t u = unit_of(s, from); u <= unit_of(s, to - 1); u++) {
        struct unit *unit = &units_of(m)[u];
        uint32_t begin = (uint32_t)fh_max(from, unit_begin(s, u));
        uint32_t end = (uint32_t)fh_min(to, unit_end(s, u));
        bool is_new_here = begin == granule || begin == unit_begin(s, u);
        unit_leave(s, unit);
        unit->live += end - begin;
        if (is_new_here && begin == unit_begin(s, u))
            unit->first = granule;
        if (counts_fixed && is_new_here)
            unit->fixed++;
        unit_enter(s, unit);
    }
}

/* The end of a live block, from `from` on, becomes dead; all of it when from is `granule`. */
static void cut_live(struct fh_movable *m, uint32_t granule, uint32_t from, bool counts_fixed)
{
    struct state *s = state_of(m);
    uint32_t to = granule + header_at(m, granule)->granules;
    for (uint32_t u = unit_of(s, from); u <= unit_of(s, to - 1); u++) {
        struct unit *unit = &units_of(m)[u];
        uint32_t begin = (uint32_t)fh_max(from, unit_begin(s, u));
        uint32_t end = (uint32_t)fh_min(to, unit_end(s, u));
        bool leaves_unit = from == granule || begin == unit_begin(s, u);
        unit_leave(s, unit);
        unit->is_skipped = false;
        unit->live -= end - begin;
        if (begin == unit_begin(s, u))
            unit->first = begin;
        if (counts_fixed && leaves_unit)
            unit->fixed--;
        if (unit->live == 0 && unit->state != UNIT_OPEN) {
            unit_free(m, u);
        } else {
            write_dead(m, begin, end - begin);
            unit_enter(s, unit);
        }
    }
    s->freed += to - from;
    if (s->is_resigned && s->freed - s->resigned_freed >= unit_granules(s))
        s->is_resigned = false;
}

/* Marks all units that a block touches as having one fixed block more or less. */
static void count_fixed(struct fh_movable *m, uint32_t granule, bool is_more)
{
    struct state *s = state_of(m);
    uint32_t granules = header_at(m, granule)->granules;
    for (uint32_t u = unit_of(s, granule); u <= unit_of(s, granule + granules - 1); u++) {
        struct unit *unit = &units_of(m)[u];
        unit_leave(s, unit);
        unit->fixed = (uint16_t)(is_more ? unit->fixed + 1 : unit->fixed - 1);
        unit_enter(s, unit);
    }
    if (is_more)
        s->fixed_granules += granules;
    else
        s->fixed_granules -= granules;
}

/* ---- Finding room ------------------------------------------------------------------------------- */

/* The granule of the header for a block whose first byte is to be aligned, at or after `begin`. Alignment
 * is of addresses: the base itself is aligned to 64 KiB at most. */
static size_t place_header(const struct fh_movable *m, size_t begin, size_t align)
{
    size_t base = (uintptr_t)m->base >> GRANULE_SHIFT;
    return fh_align_up(base + begin + 1,
                       FH_PLANT(movable_forgets_alignment, 1, align >> GRANULE_SHIFT)) -
           base - 1;
}

static void gap_close(struct fh_movable *m, struct gap *gap)
{
    uint32_t u = gap->unit;
    *gap = (struct gap){.unit = NO_UNIT};
    if (u != NO_UNIT)
        unit_settle(m, u);
}

/* All of [from, to] FREE, as far as they are committed? The first that is not, or NO_UNIT. */
static uint32_t first_taken(const struct fh_movable *m, uint32_t from, uint32_t to)
{
    uint32_t end = (uint32_t)fh_min((size_t)to + 1, committed(m));
    for (uint32_t u = from; u < end; u++)
        if (units_of(m)[u].state != UNIT_FREE)
            return u;
    return NO_UNIT;
}

static bool commit_through(struct fh_movable *m, uint32_t last, bool may_grow)
{
    if (last < committed(m))
        return true;
    struct state *s = state_of(m);
    if (!may_grow || last >= s->units)
        return false;
    size_t before = m->ground.bytes;
    uint32_t units_before = committed(m);
    if (!fh_ground_grow(&m->ground, (size_t)(last + 1) << s->unit_shift))
        return false;
    fh_poison(m->base + before, m->ground.bytes - before);
    s->free_kept += committed(m) - units_before;
    return true;
}

/* Opens FREE units [from, last] for a block that ends at `end`; what is left of the last is the gap, or
 * just dead when no gap is given. */
static void open_for(struct fh_movable *m, struct gap *gap, uint32_t from, uint32_t last,
                     uint32_t end)
{
    struct state *s = state_of(m);
    for (uint32_t u = from; u <= last; u++) {
        unit_open(m, u, u == last && gap != NULL ? UNIT_OPEN : UNIT_USED);
        unit_enter(s, &units_of(m)[u]);
    }
    write_dead(m, end, unit_end(s, last) - end);
    if (gap != NULL)
        *gap = (struct gap){.unit = last, .begin = end, .end = unit_end(s, last)};
}

/* Room for n granules in the gap, or from the gap into FREE units behind it. 0: none. */
static uint32_t take_from_gap(struct fh_movable *m, struct gap *gap, uint32_t n, size_t align,
                              bool may_grow)
{
    struct state *s = state_of(m);
    if (gap->unit == NO_UNIT || gap->begin == gap->end)
        return 0;
    size_t at = place_header(m, gap->begin, align);
    if (at >= gap->end)
        return 0;
    size_t end = at + n;
    if (end > gap->end) {
        if (gap->end != unit_end(s, gap->unit))
            return 0;
        size_t last = (end - 1) >> (s->unit_shift - GRANULE_SHIFT);
        if (last >= s->units || first_taken(m, gap->unit + 1, (uint32_t)last) != NO_UNIT ||
            !commit_through(m, (uint32_t)last, may_grow))
            return 0;
        uint32_t u = gap->unit, begin = gap->begin;
        write_dead(m, begin, (uint32_t)at - begin);
        open_for(m, gap, u + 1, (uint32_t)last, (uint32_t)end);
        units_of(m)[u].state = UNIT_USED;
        unit_enter(s, &units_of(m)[u]);
        return (uint32_t)at;
    }
    write_dead(m, gap->begin, (uint32_t)at - gap->begin);
    gap->begin = (uint32_t)end;
    write_dead(m, gap->begin, gap->end - gap->begin);
    return (uint32_t)at;
}

/* The lowest FREE unit. */
static uint32_t lowest_free(const struct fh_movable *m)
{
    struct state *s = state_of(m);
    while (s->free_unit < committed(m) && units_of(m)[s->free_unit].state != UNIT_FREE)
        s->free_unit++;
    return s->free_unit;
}

/* The beginning of the longest run of FREE units. */
static uint32_t longest_free(const struct fh_movable *m)
{
    uint32_t end = committed(m), longest = 0, best = lowest_free(m);
    for (uint32_t u = best, run = 0; u < end; u++) {
        run = units_of(m)[u].state == UNIT_FREE ? run + 1 : 0;
        if (run > longest) {
            longest = run;
            best = u + 1 - run;
        }
    }
    return best;
}

/* Where to look first for room for n granules. Small blocks take the unit that was freed last, whose memory is
 * warm. What compaction moves is packed into the longest run: blocks of a quarter unit and more would
 * leave each short run partly empty. */
static uint32_t run_to_try(const struct fh_movable *m, enum gap_kind kind, uint32_t n, size_t align)
{
    const struct state *s = state_of(m);
    bool is_small = n <= unit_granules(s) / 8 && align <= GRANULE;
    if (kind == GAP_COMPACT && s->is_folding)
        return lowest_free(m);
    if (is_small && s->last_free != NO_UNIT && units_of(m)[s->last_free].state == UNIT_FREE &&
        !units_of(m)[s->last_free].is_purged)
        return s->last_free;
    return kind == GAP_COMPACT && !is_small ? longest_free(m) : lowest_free(m);
}

/* Room in a run of FREE units from `u` on and below limit; the rest of the last becomes the gap unless the
 * old one is larger. */
static uint32_t take_run(struct fh_movable *m, struct gap *gap, uint32_t n, size_t align,
                         uint32_t u, uint32_t limit, bool may_grow)
{
    const struct state *s = state_of(m);
    uint32_t shift = s->unit_shift - GRANULE_SHIFT;
    for (;; u++) {
        while (u < committed(m) && units_of(m)[u].state != UNIT_FREE)
            u++;
        size_t at = place_header(m, (size_t)u << shift, align), end = at + n;
        size_t from = at >> shift, last = (end - 1) >> shift;
        if (last >= limit)
            return 0;
        uint32_t taken = first_taken(m, (uint32_t)from, (uint32_t)last);
        if (taken != NO_UNIT) {
            u = taken;
            continue;
        }
        if (!commit_through(m, (uint32_t)last, may_grow))
            return 0;
        bool keeps_gap = is_large(s, n) || (gap->unit != NO_UNIT &&
                                            gap->end - gap->begin > ((last + 1) << shift) - end);
        if (!keeps_gap)
            gap_close(m, gap);
        open_for(m, keeps_gap ? NULL : gap, (uint32_t)from, (uint32_t)last, (uint32_t)end);
        write_dead(m, (uint32_t)(from << shift), (uint32_t)(at - (from << shift)));
        return (uint32_t)at;
    }
}

/* A hole in unit u for n granules: [begin, end), 0 and 0 when there is none. */
static struct gap hole_in(const struct fh_movable *m, uint32_t u, uint32_t n, size_t align)
{
    const struct state *s = state_of(m);
    uint32_t end = unit_end(s, u), hole = 0;
    for (uint32_t g = first_inside(m, u); g < end || hole != 0;) {
        bool is_dead = g < end && header_at(m, g)->index == INDEX_DEAD;
        if (is_dead && hole == 0)
            hole = g;
        if (!is_dead && hole != 0) {
            if (place_header(m, hole, align) + n <= g)
                return (struct gap){.unit = u, .begin = hole, .end = g};
            hole = 0;
        }
        if (g < end)
            g += header_at(m, g)->granules;
    }
    return (struct gap){.unit = NO_UNIT};
}

/* Looks for a hole in units that are at most max_live full, fixed ones for the gap of fixed blocks and others
 * for the rest, unless the kind is not to matter; makes it the gap. */
static uint32_t take_hole(struct fh_movable *m, enum gap_kind kind, uint32_t n, size_t align,
                          uint32_t max_live, bool any_kind)
{
    struct state *s = state_of(m);
    uint32_t end = committed(m);
    for (uint32_t tries = 0; tries < end; tries++) {
        uint32_t u = s->recycle = s->recycle + 1 < end ? s->recycle + 1 : 0;
        struct unit *unit = &units_of(m)[u];
        if (unit->state != UNIT_USED || unit->live > max_live ||
            (!any_kind && (unit->fixed != 0) != (kind == GAP_FIXED)))
            continue;
        struct gap hole = hole_in(m, u, n, align);
        if (hole.unit == NO_UNIT)
            continue;
        gap_close(m, &s->gaps[kind]);
        unit_leave(s, unit);
        unit->state = UNIT_OPEN;
        s->gaps[kind] = hole;
        write_dead(m, hole.begin, hole.end - hole.begin);
        return take_from_gap(m, &s->gaps[kind], n, align, false);
    }
    return 0;
}

/* Holes that were not there a moment ago are not there now, unless a unit's worth was freed since. */
static uint32_t recycle(struct fh_movable *m, enum gap_kind kind, uint32_t n, size_t align)
{
    struct state *s = state_of(m);
    uint32_t all = unit_granules(s);
    if (n > all / 2 || (n >= s->dry_granules && s->freed - s->dry_freed < all))
        return 0;
    uint32_t at = take_hole(m, kind, n, align, all / 100 * RECYCLED_PERCENT_MAX, false);
    if (at == 0) {
        s->dry_granules = n;
        s->dry_freed = s->freed;
    }
    return at;
}

/* Takes [at, at + n) out of a dead stretch from `hole` to `end`, the end of a tile or of a FREE unit. */
static uint32_t take_stretch(struct fh_movable *m, uint32_t hole, uint32_t at, uint32_t n,
                             uint32_t end)
{
    struct state *s = state_of(m);
    for (uint32_t u = unit_of(s, at); u <= unit_of(s, at + n - 1); u++)
        if (units_of(m)[u].state == UNIT_FREE) {
            unit_open(m, u, UNIT_USED);
            unit_enter(s, &units_of(m)[u]);
        }
    uint32_t from = (uint32_t)fh_max(hole, unit_begin(s, unit_of(s, at)));
    write_dead(m, from, at - from);
    write_dead(m, at + n, end - (at + n));
    return at;
}

/* The last resort: a dead stretch across units, found by walking the heap. */
static uint32_t take_across(struct fh_movable *m, uint32_t n, size_t align)
{
    const struct state *s = state_of(m);
    for (int kind = 0; kind < GAPS; kind++)
        gap_close(m, &state_of(m)->gaps[kind]);
    uint32_t hole = 0;
    for (uint32_t u = unit_of(s, s->meta - 1); u < committed(m); u++) {
        const struct unit *unit = &units_of(m)[u];
        bool is_free = unit->state == UNIT_FREE;
        uint32_t g = is_free ? unit_begin(s, u) : first_inside(m, u);
        if (g != unit_begin(s, u) || unit->state == UNIT_VICTIM)
            hole = 0;
        while (g < unit_end(s, u) && unit->state != UNIT_VICTIM) {
            bool is_dead = is_free || header_at(m, g)->index == INDEX_DEAD;
            uint32_t next = is_free ? unit_end(s, u) : g + header_at(m, g)->granules;
            hole = !is_dead ? 0 : hole != 0 ? hole : g;
            size_t at = hole != 0 ? place_header(m, hole, align) : next;
            if (is_dead && at + n <= next)
                return take_stretch(m, hole, (uint32_t)at, n, next);
            g = next;
        }
    }
    return 0;
}

/* Room for n granules, tiled around; 0: none. */
static uint32_t find_room(struct fh_movable *m, enum gap_kind kind, uint32_t n, size_t align,
                          bool may_grow)
{
    struct state *s = state_of(m);
    struct gap *gap = &s->gaps[kind];
    uint32_t at = 0, end = kind == GAP_COMPACT && s->is_folding ? s->victim : s->units;
    if (!is_large(s, n))
        at = take_from_gap(m, gap, n, align, false);
    if (at == 0 && kind != GAP_COMPACT)
        at = recycle(m, kind, n, align);
    if (at == 0)
        at = take_run(m, gap, n, align, run_to_try(m, kind, n, align), end, false);
    if (at == 0 && may_grow && !is_large(s, n))
        at = take_from_gap(m, gap, n, align, true);
    if (at == 0 && may_grow)
        at = take_run(m, gap, n, align, lowest_free(m), end, true);
    if (at == 0 && n <= unit_granules(s) && !s->is_folding)
        at = take_hole(m, kind, n, align, unit_granules(s) - n, true);
    if (at == 0 && kind != GAP_COMPACT)
        at = take_across(m, n, align);
    return at;
}

/* ---- The table of handles ----------------------------------------------------------------------- */

/* Word 0 of a page: top bit, live entries, first free word (0: none). */
static uint32_t page_word(uint32_t live, uint32_t head)
{
    return ENTRY_IS_FREE | live << 8 | head;
}

static uint32_t page_live(uint32_t word)
{
    return word >> 8 & 0xff;
}

static uint32_t page_head(uint32_t word)
{
    return word & 0xff;
}

static void page_init(uint32_t *page)
{
    page[0] = page_word(0, 1);
    for (uint32_t i = 1; i < PAGE_WORDS; i++)
        page[i] = ENTRY_IS_FREE | (i + 1 < PAGE_WORDS ? i + 1 : 0);
}

static uint32_t granules_for(size_t bytes)
{
    return (uint32_t)((bytes + GRANULE - 1) >> GRANULE_SHIFT) + 1;
}

static void point_at_table(struct fh_movable *m)
{
    m->table = table_of(m);
}

/* A table of `pages`, the old one's pages first. */
static bool table_move(struct fh_movable *m, uint32_t pages, bool may_grow)
{
    struct state *s = state_of(m);
    size_t bytes = (size_t)pages * PAGE_WORDS * sizeof(uint32_t);
    if (pages > INDEX_TABLE / PAGE_WORDS - 1 || bytes >= RANGE_MAX / 4)
        return false;
    uint32_t n = granules_for(bytes);
    uint32_t at = find_room(m, GAP_FIXED, n, GRANULE, may_grow);
    if (at == 0)
        return false;
    struct header *h =
        write_header(m, at, (struct header){.index = INDEX_TABLE, .granules = n, .align_log2 = 4});
    add_live(m, at, at, at + n, true);
    fh_unpoison(h + 1, bytes);
    uint32_t *table = (uint32_t *)(void *)(h + 1);
    if (s->table != 0)
        __builtin_memcpy(table, table_of(m), (size_t)s->pages * PAGE_WORDS * sizeof(uint32_t));
    for (uint32_t page = s->pages; page < pages; page++)
        page_init(table + (size_t)page * PAGE_WORDS);
    if (s->table != 0)
        cut_live(m, s->table - 1, s->table - 1, true);
    s->table = at + 1;
    s->pages = pages;
    point_at_table(m);
    return true;
}

/* An index whose entry is free; 0: the table can't grow. */
static uint32_t index_find(struct fh_movable *m, bool may_grow)
{
    struct state *s = state_of(m);
    while (s->free_page < s->pages && page_head(m->table[(size_t)s->free_page * PAGE_WORDS]) == 0)
        s->free_page++;
    if (s->free_page == s->pages && !table_move(m, s->pages + s->pages / 2 + 1, may_grow) &&
        !table_move(m, s->pages + 1, may_grow))
        return 0;
    return s->free_page * PAGE_WORDS + page_head(m->table[(size_t)s->free_page * PAGE_WORDS]);
}

static void index_take(struct fh_movable *m, uint32_t index, uint32_t granule)
{
    uint32_t *table = table_of(m), *word = &table[index & ~(uint32_t)(PAGE_WORDS - 1)];
    *word = page_word(page_live(*word) + 1, table[index] & 0xff);
    table[index] = granule;
}

static void index_give(struct fh_movable *m, uint32_t index)
{
    struct state *s = state_of(m);
    uint32_t *table = table_of(m), *word = &table[index & ~(uint32_t)(PAGE_WORDS - 1)];
    table[index] = ENTRY_IS_FREE | page_head(*word);
    *word = page_word(page_live(*word) - 1, index % PAGE_WORDS);
    s->free_page = (uint32_t)fh_min(s->free_page, index / PAGE_WORDS);
}

/* Pages without a live handle at the table's end go. */
static void table_trim(struct fh_movable *m)
{
    struct state *s = state_of(m);
    uint32_t pages = s->pages;
    while (pages > 1 && page_live(m->table[(size_t)(pages - 1) * PAGE_WORDS]) == 0)
        pages--;
    if (pages > s->pages / 4 * 3) /* the next handles would only make it grow again */
        return;
    uint32_t at = s->table - 1, n = granules_for((size_t)pages * PAGE_WORDS * sizeof(uint32_t));
    cut_live(m, at, at + n, true);
    header_at(m, at)->granules = n;
    s->pages = pages;
    s->free_page = (uint32_t)fh_min(s->free_page, pages);
}

/* The live block of a handle, or NULL. */
static struct header *header_of(const struct fh_movable *m, fh_handle handle)
{
    const struct state *s = state_of(m);
    if (handle.index / PAGE_WORDS >= s->pages || handle.index % PAGE_WORDS == 0)
        return NULL;
    uint32_t entry = m->table[handle.index];
    if (entry & ENTRY_IS_FREE)
        return NULL;
    struct header *h = header_at(m, entry - 1);
    return h->generation == handle.generation ? h : NULL;
}

/* The header of the live block that begins at `block`, or NULL. */
__attribute__((no_sanitize("address"))) static struct header *
header_before(const struct fh_movable *m, const void *block)
{
    const struct state *s = state_of(m);
    size_t offset = (size_t)((uintptr_t)block - (uintptr_t)m->base);
    if (offset >= m->ground.bytes || offset % GRANULE != 0 ||
        offset <= (size_t)s->meta << GRANULE_SHIFT)
        return NULL;
    uint32_t granule = (uint32_t)(offset >> GRANULE_SHIFT);
    /* A block without bytes may be the last of its unit: its header tells where it lies. */
    if (units_of(m)[unit_of(s, granule - 1)].state == UNIT_FREE)
        return NULL;
    /* What is there may be anybody's bytes: only the table's answer counts. */
    struct header *h = header_at(m, granule - 1);
    uint32_t index = h->index;
    if (index / PAGE_WORDS >= s->pages || index % PAGE_WORDS == 0 || m->table[index] != granule)
        return NULL;
    return h;
}

static uint32_t granule_of(const struct fh_movable *m, const struct header *h)
{
    return (uint32_t)((uintptr_t)((const unsigned char *)h - m->base) >> GRANULE_SHIFT);
}

/* ---- Allocating and freeing --------------------------------------------------------------------- */

static bool is_valid_align(size_t *align)
{
    if (*align == 0)
        *align = FH_ALIGN_DEFAULT;
    if (!fh_is_pow2(*align) || *align > FH_ALIGN_MAX)
        return false;
    *align = fh_max(*align, GRANULE);
    return true;
}

static bool granules_of_size(size_t size, uint32_t *out)
{
    if (size >= RANGE_MAX - 2 * GRANULE)
        return false;
    *out = granules_for(size);
    return true;
}

static struct header *try_alloc(struct fh_movable *m, size_t size, size_t align, bool is_pinned,
                                bool may_grow)
{
    struct state *s = state_of(m);
    uint32_t n;
    if (!granules_of_size(size, &n))
        return NULL;
    uint32_t index = index_find(m, may_grow);
    if (index == 0)
        return NULL;
    uint32_t at = find_room(m, is_pinned ? GAP_FIXED : GAP_MOVABLE, n, align, may_grow);
    if (at == 0)
        return NULL;
    struct header *h = write_header(m, at,
                                    (struct header){.index = index,
                                                    .generation = ++s->generation,
                                                    .granules = n,
                                                    .pins = is_pinned,
                                                    .align_log2 = (uint8_t)fh_log2(align)});
    h->slack = (uint8_t)(usable_of(h) - size);
    if (s->generation == 0)
        h->generation = ++s->generation; /* so that {index, 0} never names a block */
    bool fixed = is_fixed(s, h);
    add_live(m, at, at, at + n, fixed);
    if (fixed)
        s->fixed_granules += n;
    index_take(m, index, at + 1);
    s->live_blocks++;
    s->live_granules += n;
    fh_unpoison(h + 1, usable_of(h));
    return h;
}

static struct header *alloc_header(struct fh_movable *m, size_t size, size_t align, unsigned flags,
                                   bool is_pinned)
{
    if (!is_valid_align(&align) || (flags & ~(unsigned)(FH_ALLOC_ZEROED | FH_ALLOC_NO_GROWTH))) {
        fh_set_errno(FH_EINVAL);
        return NULL;
    }
    bool may_grow = (flags & FH_ALLOC_NO_GROWTH) == 0;
    struct header *h = try_alloc(m, size, align, is_pinned, may_grow);
    if (h == NULL && fh_ground_ask(&m->ground, size))
        h = try_alloc(m, size, align, is_pinned, may_grow);
    if (h == NULL) {
        fh_set_errno(FH_ENOMEM);
        return NULL;
    }
    if (flags & FH_ALLOC_ZEROED)
        __builtin_memset(h + 1, 0, FH_PLANT(movable_zeroes_half, size / 2, usable_of(h)));
    return h;
}

static void release_header(struct fh_movable *m, struct header *h)
{
    struct state *s = state_of(m);
    bool fixed = is_fixed(s, h);
    s->live_blocks--;
    s->live_granules -= h->granules;
    if (fixed)
        s->fixed_granules -= h->granules;
    index_give(m, h->index);
    uint32_t at = granule_of(m, h);
    cut_live(m, at, at, fixed);
}

fh_handle fh_movable_alloc_with(struct fh_movable *m, size_t size, size_t align, unsigned flags)
{
    const struct header *h = alloc_header(m, size, align, flags, false);
    return h == NULL ? (fh_handle){0} : (fh_handle){h->index, h->generation};
}

fh_handle fh_movable_alloc(struct fh_movable *m, size_t size)
{
    return fh_movable_alloc_with(m, size, 0, 0);
}

static void report_handle(const struct fh_movable *m, fh_handle handle)
{
    bool was_given = handle.index / PAGE_WORDS < state_of(m)->pages &&
                     handle.index % PAGE_WORDS != 0 && handle.generation != 0;
    fh_misuse(was_given ? "double-free" : "invalid-free", NULL,
              was_given ? "a stale handle: its block was freed before" : "no handle of this heap");
}

void fh_movable_free(struct fh_movable *m, fh_handle handle)
{
    if (fh_handle_is_null(handle))
        return;
    struct header *h = header_of(m, handle);
    if (h == NULL)
        report_handle(m, handle);
    else if (h->pins != 0)
        fh_misuse("invalid-free", h + 1, "the block is pinned");
    else
        release_header(m, h);
}

/* In place: cutting the end off, or growing into the gap right behind. */
static bool resize_here(struct fh_movable *m, struct header *h, size_t size)
{
    struct state *s = state_of(m);
    uint32_t n, at = granule_of(m, h), old = h->granules;
    if (!granules_of_size(size, &n))
        return false;
    bool was_fixed = is_fixed(s, h);
    if (n < old) {
        cut_live(m, at, at + n, was_fixed);
    } else if (n > old) {
        struct gap *gap = NULL;
        for (int i = 0; i < GAPS && gap == NULL; i++)
            if (s->gaps[i].unit != NO_UNIT && s->gaps[i].begin == at + old &&
                s->gaps[i].end - s->gaps[i].begin >= n - old)
                gap = &s->gaps[i];
        if (gap == NULL || (is_large(s, n) && !was_fixed))
            return false;
        gap->begin += n - old;
        write_dead(m, gap->begin, gap->end - gap->begin);
        add_live(m, at, at + old, at + n, was_fixed);
        fh_unpoison(address_of(m, at + old), (size_t)(n - old) << GRANULE_SHIFT);
    }
    h->granules = n;
    h->slack = (uint8_t)(usable_of(h) - size);
    s->live_granules += (uint64_t)n - old;
    if (was_fixed) {
        s->fixed_granules += (uint64_t)n - old;
        if (!is_fixed(s, h)) { /* it was large */
            count_fixed(m, at, false);
        }
    }
    return true;
}

/* The block's contents at a new place, under the same index and generation. */
static bool move_block(struct fh_movable *m, struct header *h, enum gap_kind kind, uint32_t n,
                       size_t align, bool may_grow)
{
    struct state *s = state_of(m);
    uint32_t at = find_room(m, kind, n, align, may_grow);
    if (at == 0)
        return false;
    struct header header = *h;
    header.granules = n;
    header.align_log2 = (uint8_t)fh_log2(align);
    bool was_fixed = is_fixed(s, h), fixed = is_fixed(s, &header);
    struct header *moved = write_header(m, at, header);
    add_live(m, at, at, at + n, fixed);
    fh_unpoison(moved + 1, usable_of(moved));
    __builtin_memcpy(moved + 1, h + 1, fh_min(usable_of(moved), usable_of(h)));
    table_of(m)[h->index] = at + 1;
    s->live_granules += (uint64_t)n - h->granules;
    s->fixed_granules += (fixed ? (uint64_t)n : 0) - (was_fixed ? (uint64_t)h->granules : 0);
    uint32_t old = granule_of(m, h);
    cut_live(m, old, old, was_fixed);
    return true;
}

bool fh_movable_resize(struct fh_movable *m, fh_handle handle, size_t size)
{
    struct header *h = header_of(m, handle);
    if (h == NULL) {
        fh_set_errno(FH_EINVAL);
        return false;
    }
    if (resize_here(m, h, size))
        return true;
    if (h->pins != 0) {
        fh_set_errno(EBUSY);
        return false;
    }
    uint32_t n;
    if (granules_of_size(size, &n)) {
        bool is_done = move_block(m, h, GAP_MOVABLE, n, (size_t)1 << h->align_log2, true);
        if (!is_done && fh_ground_ask(&m->ground, size)) {
            h = header_of(m, handle); /* what was asked may have compacted, or freed this one */
            is_done =
                h != NULL && move_block(m, h, GAP_MOVABLE, n, (size_t)1 << h->align_log2, true);
        }
        if (is_done) {
            h = header_of(m, handle);
            h->slack = (uint8_t)(usable_of(h) - size);
            return true;
        }
    }
    fh_set_errno(FH_ENOMEM);
    return false;
}

void *fh_movable_resolve_checked(const struct fh_movable *m, fh_handle handle)
{
    struct header *h = header_of(m, handle);
    return h == NULL ? NULL : h + 1;
}

void *fh_movable_pin(struct fh_movable *m, fh_handle handle)
{
    struct header *h = header_of(m, handle);
    if (h == NULL)
        return fh_fail(FH_EINVAL);
    if (h->pins == PINS_MAX)
        return fh_fail(EOVERFLOW);
    bool was_fixed = is_fixed(state_of(m), h);
    h->pins++;
    if (!was_fixed)
        count_fixed(m, granule_of(m, h), true);
    return h + 1;
}

void fh_movable_unpin(struct fh_movable *m, fh_handle handle)
{
    struct header *h = header_of(m, handle);
    if (h == NULL || h->pins == 0) {
        fh_misuse("invalid-free", h == NULL ? NULL : h + 1,
                  h == NULL ? "unpin of a stale handle" : "unpin of a block that is not pinned");
        return;
    }
    h->pins--;
    if (!is_fixed(state_of(m), h))
        count_fixed(m, granule_of(m, h), false);
}

size_t fh_movable_usable_size(const struct fh_movable *m, fh_handle handle)
{
    const struct header *h = header_of(m, handle);
    return h == NULL ? 0 : usable_of(h);
}

fh_handle fh_movable_handle_of(const struct fh_movable *m, const void *block)
{
    const struct header *h = header_before(m, block);
    return h == NULL ? (fh_handle){0} : (fh_handle){h->index, h->generation};
}

bool fh_movable_owns(const struct fh_movable *m, const void *address)
{
    size_t offset = (size_t)((uintptr_t)address - (uintptr_t)m->base);
    return offset < m->ground.bytes && offset >= (size_t)state_of(m)->meta << GRANULE_SHIFT;
}

/* ---- Compaction --------------------------------------------------------------------------------- */

/* The limits of one step, and what of them is used up. */
struct step {
    uint64_t begin_ns;
    uint64_t max_ns; /* 0: none */
    size_t max_bytes;
    size_t moved_bytes;
    size_t since_look;
    bool is_over;
};

/* Whether `bytes` more may be moved, reckoned at 1 ns a byte: ten times what copying warm memory costs, and
 * what it costs with a fault for every new page. */
static bool step_allows(struct step *step, size_t bytes)
{
    if (bytes > step->max_bytes - step->moved_bytes)
        return false;
    step->since_look += bytes;
    if (step->max_ns == 0 || step->since_look < LOOK_BYTES)
        return true;
    step->since_look = 0;
    return fh_os_now_ns() - step->begin_ns + bytes < step->max_ns;
}

static bool step_has_time(const struct step *step, uint64_t ns)
{
    return step->max_ns == 0 || fh_os_now_ns() - step->begin_ns + ns < step->max_ns;
}

/* Bytes that moving could gain: whole units only. */
static size_t gainable(const struct fh_movable *m)
{
    const struct state *s = state_of(m);
    if (s->is_resigned)
        return 0;
    uint64_t dead = s->sparse_dead;
    if (s->victim != NO_UNIT && !s->is_folding)
        dead += unit_granules(s) - units_of(m)[s->victim].live;
    return (size_t)(dead / unit_granules(s)) << s->unit_shift;
}

static bool can_purge(const struct fh_movable *m)
{
    return m->ground.source != NULL && (m->ground.source->capabilities & FH_SOURCE_PURGE) &&
           state_of(m)->unit_shift == UNIT_SHIFT_MAX;
}

/* Where empty units can't be given back they are worth most in one piece: the highest unit that can be
 * emptied into FREE ones below it, or NO_UNIT. */
static uint32_t highest_to_fold(const struct fh_movable *m)
{
    if (can_purge(m))
        return NO_UNIT;
    uint32_t lowest = lowest_free(m), u = committed(m);
    while (u-- > lowest)
        if (is_candidate(&units_of(m)[u]))
            return u;
    return NO_UNIT;
}

/* Bytes of FREE units that lie below blocks which could be moved into them. */
static size_t foldable(const struct fh_movable *m)
{
    const struct state *s = state_of(m);
    uint32_t highest = s->is_folding ? s->victim : highest_to_fold(m);
    size_t bytes = 0;
    for (uint32_t u = s->free_unit; highest != NO_UNIT && u < highest; u++)
        if (units_of(m)[u].state == UNIT_FREE)
            bytes += (size_t)1 << s->unit_shift;
    return bytes;
}

static size_t purgeable(const struct fh_movable *m)
{
    const struct state *s = state_of(m);
    return can_purge(m) && s->free_kept > KEPT_FREE
               ? (size_t)(s->free_kept - KEPT_FREE) << s->unit_shift
               : 0;
}

static void resign(struct state *s)
{
    s->is_resigned = true;
    s->resigned_freed = s->freed;
    s->moved = 0;
}

static void take_victim(struct fh_movable *m, uint32_t u, bool is_folding)
{
    struct state *s = state_of(m);
    unit_leave(s, &units_of(m)[u]);
    units_of(m)[u].state = UNIT_VICTIM;
    s->victim = u;
    s->is_folding = is_folding;
}

/* When nothing is to be gained any more: the highest unit. */
static bool choose_highest(struct fh_movable *m)
{
    struct state *s = state_of(m);
    uint32_t u = highest_to_fold(m);
    if (u == NO_UNIT)
        return false;
    if (s->gaps[GAP_COMPACT].unit != NO_UNIT && s->gaps[GAP_COMPACT].unit > u)
        gap_close(m, &s->gaps[GAP_COMPACT]);
    if (units_of(m)[u].state == UNIT_USED)
        take_victim(m, u, true);
    return s->victim != NO_UNIT;
}

/* The next unit of the lowest sixteenth there is; in a very large heap this step may not come to it. */
static bool choose_victim(struct fh_movable *m)
{
    struct state *s = state_of(m);
    if (gainable(m) == 0)
        return choose_highest(m);
    uint32_t lowest = 0;
    while (lowest < DENSE && s->by_sixteenth[lowest] == 0)
        lowest++;
    if (lowest == DENSE)
        return false;
    uint32_t end = committed(m);
    for (uint32_t looks = 0; looks < end && looks < LOOK_UNITS; looks++) {
        uint32_t u = s->scan = s->scan + 1 < end ? s->scan + 1 : 0;
        const struct unit *unit = &units_of(m)[u];
        if (!is_candidate(unit) || unit->live * SIXTEENTHS / unit_granules(s) != lowest)
            continue;
        take_victim(m, u, false);
        return true;
    }
    return false;
}

static void spare_victim(struct fh_movable *m, bool is_skipped)
{
    struct state *s = state_of(m);
    uint32_t u = s->victim;
    s->victim = NO_UNIT;
    s->is_folding = false;
    units_of(m)[u].is_skipped = is_skipped;
    unit_settle(m, u);
}

/* Moves what lives in the victim until it is empty or the step is over. */
static void evacuate(struct fh_movable *m, struct step *step)
{
    struct state *s = state_of(m);
    uint32_t u = s->victim, end = unit_end(s, u);
    for (uint32_t g = units_of(m)[u].first; g < end && s->victim == u;) {
        struct header *h = header_at(m, g);
        uint32_t n = h->granules;
        if (h->index != INDEX_DEAD) {
            size_t bytes = (size_t)n << GRANULE_SHIFT;
            if (is_fixed(s, h)) { /* pinned since the unit was chosen */
                spare_victim(m, false);
                return;
            }
            if (bytes > step->max_bytes || (step->max_ns != 0 && bytes > step->max_ns)) {
                s->max_bytes_seen = fh_max(s->max_bytes_seen, step->max_bytes);
                s->max_ns_seen = fh_max(s->max_ns_seen, step->max_ns);
                spare_victim(m, true);
                return;
            }
            if (!step_allows(step, bytes)) {
                step->is_over = true;
                return;
            }
            bool is_folding = s->is_folding;
            if (!move_block(m, h, GAP_COMPACT, n, (size_t)1 << h->align_log2, false)) {
                spare_victim(m, is_folding);
                if (!is_folding)
                    resign(s);
                return;
            }
            step->moved_bytes += bytes;
            s->done.moved_blocks++;
            s->done.moved_bytes += bytes;
            s->moved += is_folding ? 0 : n;
        }
        g += n;
    }
}

static void purge_free(struct fh_movable *m, struct step *step)
{
    struct state *s = state_of(m);
    uint32_t end = committed(m);
    for (uint32_t looks = 0; looks < end && looks < LOOK_UNITS && purgeable(m) != 0; looks++) {
        uint32_t u = s->purge = s->purge + 1 < end ? s->purge + 1 : 0, count = 0;
        while (count < PURGE_UNITS && count < s->free_kept - KEPT_FREE && u + count < end &&
               units_of(m)[u + count].state == UNIT_FREE && !units_of(m)[u + count].is_purged)
            count++;
        if (count == 0)
            continue;
        /* 64 KiB take 4-16 µs to give back; a call is not worth it for less time than that. */
        while (count > 1 && !step_has_time(step, (uint64_t)count << UNIT_SHIFT_MAX >> 2))
            count /= 2;
        if (!step_has_time(step, (uint64_t)count << UNIT_SHIFT_MAX >> 2)) {
            step->is_over = true;
            return;
        }
        size_t bytes =
            fh_ground_purge(&m->ground, (size_t)u << s->unit_shift, (size_t)count << s->unit_shift);
        if (bytes == 0)
            return;
        for (uint32_t i = 0; i < count; i++)
            units_of(m)[u + i].is_purged = true;
        s->purge += count - 1;
        s->free_kept -= count;
        m->ground.purged += bytes;
        s->done.returned_bytes += bytes;
        FH_PROBE2(movable_purge, m, bytes);
    }
}

/* Units spared for a narrower step are candidates again in a wider one. */
static void forget_skips(struct fh_movable *m, size_t max_bytes, uint64_t max_ns)
{
    struct state *s = state_of(m);
    if ((s->max_bytes_seen == 0 && s->max_ns_seen == 0) ||
        (max_bytes <= s->max_bytes_seen && max_ns != 0 && max_ns <= s->max_ns_seen))
        return;
    for (uint32_t u = 0; u < committed(m); u++) {
        struct unit *unit = &units_of(m)[u];
        unit_leave(s, unit);
        unit->is_skipped = false;
        unit_enter(s, unit);
    }
    s->max_bytes_seen = s->max_ns_seen = 0;
}

static size_t remaining(const struct fh_movable *m)
{
    size_t bytes = gainable(m) + purgeable(m);
    return bytes != 0 ? bytes : foldable(m);
}

size_t fh_compact_step(struct fh_movable *m, size_t max_bytes, uint64_t max_ns)
{
    struct state *s = state_of(m);
    /* The last call of a step may take a little longer than it was reckoned at: a sixteenth is kept back. */
    struct step step = {.begin_ns = fh_os_now_ns(),
                        .max_ns = max_ns - max_ns / 16,
                        .max_bytes = max_bytes != 0 ? max_bytes : SIZE_MAX};
    forget_skips(m, step.max_bytes, max_ns);
    if (s->used > s->least_used + 1) { /* not only a target opened: the program has allocated */
        s->least_used = s->used;
        s->moved = 0;
    }
    table_trim(m);
    while (!step.is_over && (s->victim != NO_UNIT || choose_victim(m))) {
        evacuate(m, &step);
        if (s->used < s->least_used) {
            s->least_used = s->used;
            s->moved = 0;
        } else if (s->moved > (uint64_t)RESIGN_UNITS * unit_granules(s)) {
            if (s->victim != NO_UNIT)
                spare_victim(m, false);
            resign(s);
        }
        if (!step_has_time(&step, 0))
            step.is_over = true;
    }
    purge_free(m, &step);
    uint64_t took = fh_os_now_ns() - step.begin_ns;
    s->done.steps++;
    s->done.longest_ns = fh_max(s->done.longest_ns, took);
    FH_PROBE3(movable_step, m, step.moved_bytes, took);
    return remaining(m);
}

int fh_movable_compaction(const struct fh_movable *m, struct fh_compaction *out)
{
    const struct state *s = state_of(m);
    size_t size = out->size;
    if (size < sizeof(size))
        return fh_error(FH_EINVAL);
    struct fh_compaction done = s->done;
    done.size = size;
    done.remaining = remaining(m);
    done.pinned_bytes = (size_t)s->fixed_granules << GRANULE_SHIFT;
    __builtin_memcpy(out, &done, fh_min(size, sizeof done));
    return 0;
}

/* ---- The heap as a whole ------------------------------------------------------------------------ */

static uint32_t shift_for(size_t capacity)
{
    uint32_t shift = UNIT_SHIFT_MAX;
    while (shift > UNIT_SHIFT_MIN && capacity >> shift < UNITS_WANTED)
        shift--;
    return shift;
}

static size_t meta_bytes(size_t units)
{
    return fh_align_up(sizeof(struct state) + units * sizeof(struct unit), GRANULE);
}

/* State and units as in a new heap, but for the generation and what is purged. False: no room for the
 * table of handles. */
static bool state_init(struct fh_movable *m, size_t capacity, uint32_t shift, uint32_t generation,
                       size_t handles)
{
    struct state *s = state_of(m);
    size_t units = capacity >> shift, meta = meta_bytes(units);
    *s = (struct state){.magic = MAGIC,
                        .unit_shift = shift,
                        .units = (uint32_t)units,
                        .meta = (uint32_t)(meta >> GRANULE_SHIFT),
                        .generation = generation,
                        .home = (uint32_t)(uintptr_t)m->base,
                        .last_free = NO_UNIT,
                        .victim = NO_UNIT,
                        .dry_granules = UINT32_MAX,
                        .gaps = {{NO_UNIT, 0, 0}, {NO_UNIT, 0, 0}, {NO_UNIT, 0, 0}}};
    for (uint32_t u = 0; u < units; u++)
        units_of(m)[u] = (struct unit){.is_purged = units_of(m)[u].is_purged};
    fh_poison(m->base + meta, m->ground.bytes - meta);
    s->free_kept = committed(m) - (uint32_t)(m->ground.purged >> shift);
    /* The manager's own beginning is live and fixed for ever. */
    uint32_t last = unit_of(s, s->meta - 1);
    for (uint32_t u = 0; u <= last; u++) {
        unit_open(m, u, UNIT_USED);
        units_of(m)[u].live = (uint32_t)fh_min(unit_end(s, u), s->meta) - unit_begin(s, u);
        units_of(m)[u].fixed = 1;
    }
    units_of(m)[last].first = s->meta;
    write_dead(m, s->meta, unit_end(s, last) - s->meta);
    if (s->meta < unit_end(s, last)) { /* what is left of it is the first gap of fixed blocks */
        units_of(m)[last].state = UNIT_OPEN;
        s->gaps[GAP_FIXED] = (struct gap){last, s->meta, unit_end(s, last)};
    }
    return table_move(m, (uint32_t)(handles / PAGE_ENTRIES) + 1, true);
}

int fh_movable_init(struct fh_movable *m, const struct fh_movable_options *options)
{
    static const struct fh_movable_options none;
    if (options == NULL)
        options = &none;
    *m = (struct fh_movable){0};
    if (options->handles > UINT32_MAX / 2)
        return fh_error(FH_EINVAL);
    int error = fh_ground_open(&m->ground, &options->place,
                               sizeof(struct state) + ((size_t)2 << UNIT_SHIFT_MIN), GRANULE);
    if (error != 0)
        return error;
    size_t capacity = fh_min(m->ground.capacity, RANGE_MAX);
    uint32_t shift = shift_for(capacity);
    size_t least = meta_bytes(capacity >> shift) + PAGE_WORDS * sizeof(uint32_t) + GRANULE;
    least = fh_align_up(least, (size_t)1 << shift);
    m->base = m->ground.base;
    bool is_open = least <= capacity && fh_ground_grow(&m->ground, least);
    if (is_open) {
        size_t meta = meta_bytes(capacity >> shift);
        fh_unpoison(m->base, meta);
        __builtin_memset(m->base, 0, meta); /* whatever lay in a buffer before */
        is_open = state_init(m, capacity, shift, 0, options->handles);
    }
    if (is_open)
        return 0;
    bool is_small = least > capacity || (options->place.memory != NULL);
    fh_ground_close(&m->ground);
    *m = (struct fh_movable){0};
    return fh_error(is_small ? FH_EINVAL : FH_ENOMEM);
}

int fh_movable_attach(struct fh_movable *m, void *memory, size_t bytes)
{
    struct state *s = memory;
    if (memory == NULL || (uintptr_t)memory % GRANULE != 0 || bytes < sizeof *s ||
        s->magic != MAGIC || s->unit_shift > UNIT_SHIFT_MAX || s->unit_shift < UNIT_SHIFT_MIN ||
        s->meta >= bytes >> GRANULE_SHIFT || s->table >= bytes >> GRANULE_SHIFT)
        return fh_error(FH_EINVAL);
    *m = (struct fh_movable){.base = memory};
    bytes = fh_min(bytes, (size_t)s->units << s->unit_shift);
    fh_ground_attach(&m->ground, memory, bytes);
    uint32_t end = committed(m);
    for (uint32_t u = 0; u < s->units; u++) {
        struct unit *unit = &units_of(m)[u];
        if (u >= end && unit->state != UNIT_FREE)
            return fh_error(FH_EINVAL);
        unit->is_purged = false;
    }
    s->free_kept = end - s->used;
    point_at_table(m);
    return 0;
}

void fh_movable_reset(struct fh_movable *m)
{
    const struct state *s = state_of(m);
    /* It had room for a table when it was opened, so it has now. */
    (void)state_init(m, (size_t)s->units << s->unit_shift, s->unit_shift, s->generation, 0);
    m->ground.peak_bytes = m->ground.bytes - m->ground.purged;
}

void fh_movable_destroy(struct fh_movable *m)
{
    if (m->base != NULL) {
        fh_unpoison(m->base, m->ground.bytes);
        state_of(m)->magic = 0;
    }
    fh_ground_close(&m->ground);
    *m = (struct fh_movable){0};
}

/* ---- Looking ------------------------------------------------------------------------------------ */

/* One tile or a row of dead ones. */
static int visit_dead(const struct fh_movable *m, uint32_t begin, uint32_t end,
                      int (*visit)(void *context, const struct fh_block *block), void *context)
{
    struct fh_block block = {.address = address_of(m, begin + 1),
                             .usable = (size_t)(end - begin - 1) << GRANULE_SHIFT};
    return visit(context, &block);
}

int fh_movable_walk(const struct fh_movable *m,
                    int (*visit)(void *context, const struct fh_block *block), void *context)
{
    const struct state *s = state_of(m);
    uint32_t dead = 0, end = committed(m); /* dead: where a row of dead tiles began, 0: in none */
    int result = 0;
    for (uint32_t u = unit_of(s, s->meta - 1); u < end; u++) {
        const struct unit *unit = &units_of(m)[u];
        if (unit->state == UNIT_FREE) {
            if (dead == 0)
                dead = unit_begin(s, u);
            continue;
        }
        for (uint32_t g = first_inside(m, u); g < unit_end(s, u);) {
            const struct header *h = header_at(m, g);
            bool is_live = h->index != INDEX_DEAD;
            if (!is_live && dead == 0)
                dead = g;
            if (is_live && dead != 0) {
                if ((result = visit_dead(m, dead, g, visit, context)) != 0)
                    return result;
                dead = 0;
            }
            uint32_t next = g + h->granules;
            if (is_live && h->index != INDEX_TABLE) {
                struct fh_block block = {
                    .address = address_of(m, g + 1), .usable = usable_of(h), .is_live = true};
                if ((result = visit(context, &block)) != 0)
                    return result;
            }
            g = next;
        }
    }
    return dead != 0 ? visit_dead(m, dead, unit_begin(s, end), visit, context) : 0;
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

int fh_movable_measure(const struct fh_movable *m, struct fh_measure *out)
{
    const struct state *s = state_of(m);
    size_t size = out->size;
    if (size < sizeof(size))
        return fh_error(FH_EINVAL);
    struct fh_measure all = {.size = size};
    fh_movable_walk(m, measure_block, &all);
    all.metadata = ((size_t)s->meta << GRANULE_SHIFT) +
                   ((size_t)header_at(m, s->table - 1)->granules << GRANULE_SHIFT) +
                   (all.live_blocks << GRANULE_SHIFT);
    all.footprint = m->ground.bytes - m->ground.purged;
    all.reserved = m->ground.capacity;
    all.peak_footprint = m->ground.peak_bytes;
    __builtin_memcpy(out, &all, fh_min(size, sizeof all));
    return 0;
}

/* What a check counts anew. */
struct recount {
    uint64_t blocks, granules, fixed;
    uint32_t by_sixteenth[SIXTEENTHS];
    uint64_t sparse_dead;
    uint32_t used, kept;
};

#define BROKEN_UNLESS(claim, ...) ((claim) ? 0 : (fh_broken("movable: " __VA_ARGS__), 1))

static int check_block(const struct fh_movable *m, uint32_t g, struct recount *found)
{
    const struct state *s = state_of(m);
    const struct header *h = header_at(m, g);
    int broken = 0;
    found->blocks++;
    found->granules += h->granules;
    if (is_fixed(s, h))
        found->fixed += h->granules;
    bool has_entry = h->index / PAGE_WORDS < s->pages && h->index % PAGE_WORDS != 0;
    broken += BROKEN_UNLESS(has_entry && m->table[h->index] == g + 1,
                            "the handle of the block at granule %u leads elsewhere", g);
    uint32_t mask = (1u << (h->align_log2 & 31)) - 1; /* as far as the base is where it was */
    broken += BROKEN_UNLESS(
        (((uint32_t)(uintptr_t)(h + 1) + s->home - (uint32_t)(uintptr_t)m->base) & mask) == 0,
        "the block at granule %u lost its alignment", g);
    broken += BROKEN_UNLESS(h->slack < GRANULE && h->slack <= usable_of(h),
                            "the block at granule %u was asked for as more than it is", g);
    return broken;
}

static int check_unit(const struct fh_movable *m, uint32_t u, struct recount *found)
{
    const struct state *s = state_of(m);
    const struct unit *unit = &units_of(m)[u];
    uint32_t begin = unit_begin(s, u), end = unit_end(s, u), live = 0, fixed = 0;
    int broken = 0;
    if (unit->state == UNIT_FREE) {
        if (!unit->is_purged)
            found->kept++;
        return BROKEN_UNLESS(unit->live == 0 && unit->fixed == 0, "free unit %u has live blocks",
                             u);
    }
    found->used++;
    if (begin < s->meta) { /* the manager's own */
        live += (uint32_t)fh_min(s->meta, end) - begin;
        fixed++;
        if (s->meta >= end)
            return BROKEN_UNLESS(unit->live == live, "unit %u of the state is broken", u);
    }
    uint32_t g = unit->first;
    broken += BROKEN_UNLESS(g < end && (g >= begin || header_at(m, g)->index != INDEX_DEAD),
                            "unit %u begins in a dead block", u);
    while (broken == 0 && g < end) {
        const struct header *h = header_at(m, g);
        uint32_t next = g + h->granules;
        bool is_live = h->index != INDEX_DEAD;
        broken += BROKEN_UNLESS(
            next > g && (is_live ? next <= unit_begin(s, committed(m)) : next <= end && g >= begin),
            "the tile at granule %u of unit %u has no sound length", g, u);
        if (is_live) {
            live += (uint32_t)(fh_min(next, end) - fh_max(g, begin));
            fixed += is_fixed(s, h);
            if (g >= begin && h->index != INDEX_TABLE)
                broken += check_block(m, g, found);
        }
        g = next;
    }
    broken += BROKEN_UNLESS(unit->live == live, "unit %u counts %u live granules, it has %u", u,
                            unit->live, live);
    broken += BROKEN_UNLESS(unit->fixed == fixed, "unit %u counts %u fixed blocks, it has %u", u,
                            unit->fixed, fixed);
    broken += BROKEN_UNLESS(live != 0 || unit->state != UNIT_USED, "unit %u is empty, not free", u);
    if (is_candidate(unit) && live * SIXTEENTHS / unit_granules(s) < DENSE) {
        found->by_sixteenth[live * SIXTEENTHS / unit_granules(s)]++;
        found->sparse_dead += unit_granules(s) - live;
    }
    return broken;
}

static int check_table(const struct fh_movable *m)
{
    const struct state *s = state_of(m);
    int broken = 0;
    uint64_t live = 0;
    for (uint32_t page = 0; page < s->pages; page++) {
        const uint32_t *words = m->table + (size_t)page * PAGE_WORDS;
        uint32_t used = 0, free = 0;
        for (uint32_t i = 1; i < PAGE_WORDS; i++)
            used += (words[i] & ENTRY_IS_FREE) == 0;
        for (uint32_t i = page_head(words[0]); i != 0 && free < PAGE_WORDS; i = words[i] & 0xff)
            free++;
        broken +=
            BROKEN_UNLESS(used == page_live(words[0]) && used + free == PAGE_ENTRIES,
                          "page %u of the table has %u live and %u free handles", page, used, free);
        broken +=
            BROKEN_UNLESS(free == 0 || page >= s->free_page,
                          "page %u of the table has free handles that are not looked for", page);
        live += used;
    }
    return broken + BROKEN_UNLESS(live == s->live_blocks, "the table has %llu handles of %llu",
                                  (unsigned long long)live, (unsigned long long)s->live_blocks);
}

int fh_movable_check(const struct fh_movable *m)
{
    const struct state *s = state_of(m);
    struct recount found = {0};
    int broken = BROKEN_UNLESS(s->magic == MAGIC, "the state at the base is not one");
    if (broken != 0)
        return broken;
    for (uint32_t u = 0; u < committed(m); u++)
        broken += check_unit(m, u, &found);
    if (broken != 0)
        return broken; /* the rest would follow from it */
    for (int i = 0; i < GAPS; i++) {
        const struct gap *gap = &s->gaps[i];
        broken +=
            BROKEN_UNLESS(gap->unit == NO_UNIT ||
                              (units_of(m)[gap->unit].state == UNIT_OPEN &&
                               gap->begin <= gap->end && gap->end <= unit_end(s, gap->unit) &&
                               (gap->begin == gap->end ||
                                (header_at(m, gap->begin)->index == INDEX_DEAD &&
                                 header_at(m, gap->begin)->granules == gap->end - gap->begin))),
                          "gap %d is no gap", i);
    }
    broken += BROKEN_UNLESS(found.blocks == s->live_blocks && found.granules == s->live_granules &&
                                found.fixed == s->fixed_granules,
                            "the counts of live blocks are wrong");
    broken += BROKEN_UNLESS(found.used == s->used && found.kept == s->free_kept,
                            "%u units used and %u kept are counted as %u and %u", found.used,
                            found.kept, s->used, s->free_kept);
    broken += BROKEN_UNLESS(
        __builtin_memcmp(found.by_sixteenth, s->by_sixteenth, sizeof found.by_sixteenth) == 0 &&
            found.sparse_dead == s->sparse_dead,
        "the account of units to empty is wrong");
    broken += BROKEN_UNLESS(m->table == table_of(m) && s->table != 0, "the table is elsewhere");
    return broken + check_table(m);
}

/* ---- The interface ------------------------------------------------------------------------------ */

static void *op_alloc(void *self, size_t size, size_t align, unsigned flags)
{
    struct header *h = alloc_header(self, size, align, flags, true);
    return h == NULL ? NULL : h + 1;
}

/* The header of a live block, after a report NULL. */
static struct header *block_or_report(struct fh_movable *m, const void *block)
{
    struct header *h = header_before(m, block);
    if (h != NULL)
        return h;
    const struct state *s = state_of(m);
    size_t offset = (size_t)((uintptr_t)block - (uintptr_t)m->base);
    /* Where its header would be: a block of no bytes is nothing else, and behind it the next block begins. */
    uint32_t granule = (uint32_t)(offset >> GRANULE_SHIFT) - 1;
    if (!fh_movable_owns(m, block) || offset < (size_t)(s->meta + 1) << GRANULE_SHIFT) {
        fh_misuse("invalid-free", block, "not in this heap");
        return NULL;
    }
    uint32_t u = unit_of(s, granule);
    if (units_of(m)[u].state != UNIT_FREE) {
        for (uint32_t g = units_of(m)[u].first; g <= granule;) {
            const struct header *tile = header_at(m, g);
            if (granule < g + tile->granules && tile->index != INDEX_DEAD) {
                fh_misuse("interior-free", block, "inside a block, not its beginning");
                return NULL;
            }
            g += tile->granules;
            if (g >= unit_end(s, u))
                break;
        }
    }
    fh_misuse(offset % GRANULE == 0 ? "double-free" : "invalid-free", block,
              offset % GRANULE == 0 ? "the block was freed before" : "no block was ever here");
    return NULL;
}

static void op_free(void *self, void *block)
{
    struct header *h = block == NULL ? NULL : block_or_report(self, block);
    if (h != NULL && h->pins > 1)
        fh_misuse("invalid-free", block, "the block is pinned");
    else if (h != NULL)
        release_header(self, h);
}

static void op_free_sized(void *self, void *block, size_t size, size_t align)
{
    struct header *h = block == NULL ? NULL : block_or_report(self, block);
    if (h == NULL)
        return;
    if (size != usable_of(h) - h->slack || (align != 0 && align > (size_t)1 << h->align_log2))
        fh_misuse("size-mismatch", block, "freed with another size or alignment than asked for");
    else
        op_free(self, block);
}

static bool op_resize_in_place(void *self, void *block, size_t old_size, size_t new_size)
{
    (void)old_size;
    struct header *h = block_or_report(self, block);
    return h != NULL && resize_here(self, h, new_size);
}

static void *op_resize(void *self, void *block, size_t old_size, size_t new_size, size_t align)
{
    struct fh_movable *m = self;
    (void)old_size;
    if (block == NULL)
        return op_alloc(self, new_size, align, 0);
    struct header *h = block_or_report(m, block);
    if (h == NULL)
        return NULL;
    size_t wanted = align != 0 ? align : (size_t)1 << h->align_log2;
    if (!is_valid_align(&wanted))
        return fh_fail(FH_EINVAL);
    if (((uintptr_t)block & (wanted - 1)) == 0 && resize_here(m, h, new_size)) {
        h->align_log2 = (uint8_t)fh_log2(wanted);
        return block;
    }
    if (h->pins > 1)
        return fh_fail(EBUSY);
    uint32_t n;
    fh_handle handle = {h->index, h->generation};
    bool is_done = granules_of_size(new_size, &n) && move_block(m, h, GAP_FIXED, n, wanted, true);
    if (!is_done && fh_ground_ask(&m->ground, new_size)) {
        h = header_of(m, handle);
        is_done = h != NULL && granules_of_size(new_size, &n) &&
                  move_block(m, h, GAP_FIXED, n, wanted, true);
    }
    if (!is_done)
        return fh_fail(FH_ENOMEM);
    h = header_of(m, handle);
    h->slack = (uint8_t)(usable_of(h) - new_size);
    return h + 1;
}

static size_t op_usable_size(void *self, const void *block)
{
    const struct header *h = header_before(self, block);
    return h == NULL ? 0 : usable_of(h);
}

FH_ADAPT_WHOLE(movable)

struct fh_allocator fh_movable_allocator(struct fh_movable *m)
{
    static const struct fh_allocator_ops ops = FH_ADAPTER_OPS(
        "movable", FH_ALLOCATOR_MOVES | FH_ALLOCATOR_RELOCATABLE | FH_ALLOCATOR_SEES_DOUBLE_FREE,
        op_resize_in_place, op_usable_size);
    return (struct fh_allocator){&ops, m};
}
