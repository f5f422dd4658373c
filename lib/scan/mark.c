/*
 * Looking for addresses: the sweep and the trace.
 *
 * Both come down to one question a word: does it point into a block that is wanted? The bit is the answer
 * and the mark at once: it is taken away when the first word points there, so a block is found once.
 *
 * The trace must read what it finds, and blocks are found in no order of addresses. Reading them in the order in
 * which they are found costs a cache miss and, worse, a miss of the address translation for each (measured: 165 ns a
 * block of 64 bytes over 256 MiB, nearly all of it the translation). So what is found is a bit, `grey`, in the block's
 * area, and areas with grey blocks wait in a queue, first in, first out: while an area waits its grey
 * blocks gather, and when its turn comes they are read together, in the order of addresses. That needs no memory
 * beyond the bits, however deep the program's structures are.
 *
 * Source: the queue of areas follows M. Knyszek, A. Clements, "Green Tea", the Go project's garbage collector (2025).
 */
#include "base/core/macros.h"
#include "pages/pages.h"
#include "scan/internal.h"

/* ---- one word ------------------------------------------------------------------------------------ */

static bool has_wanted(const struct fh_scan_area *area)
{
    uint64_t any = 0;
    for (uint32_t word = 0; word < (area->count + 63) / 64; word++)
        any |= area->wanted[word];
    return any != 0;
}

/* What is wanted is known: fills the table of places. False: no memory. */
static bool make_places(struct fh_scan *scan)
{
    const size_t granules = scan->window_bytes >> FH_GRANULE_SHIFT;
    scan->places = fh_scan_note(scan, (granules + 1) * sizeof scan->places[0]);
    if (scan->places == NULL)
        return false;
    for (size_t i = 0; i < granules; i++) {
        struct fh_scan_area *area = scan->granules[i];
        if (area == NULL)
            continue;
        bool is_same = i > 0 && scan->granules[i - 1] == area;
        if (is_same || has_wanted(area))
            scan->places[i] =
                is_same ? scan->places[i - 1]
                        : (struct fh_scan_place){area->base, area->reciprocal, area->wanted, area};
    }
    return true;
}

/* The mark is there: takes it, unless the word is no address in the block after all. */
static bool take(struct fh_scan *scan, struct fh_scan_area *area, uint32_t index, uintptr_t word)
{
    uintptr_t offset = word - area->base - index * area->stride;
    if (offset >= area->stride || ((scan->options.flags & FH_SCAN_BEGINS_ONLY) != 0 && offset != 0))
        return false;
    area->wanted[index / 64] &= ~((uint64_t)1 << (index % 64));
    return true;
}

static FH_NOINLINE bool look_outside(struct fh_scan *scan, uintptr_t word,
                                     struct fh_scan_area **area, uint32_t *index)
{
    *area = fh_scan_find_outside(scan, word);
    if (*area == NULL)
        return false;
    *index = fh_scan_index(*area, word);
    return fh_scan_has_bit((*area)->wanted, *index) && take(scan, *area, *index, word);
}

/* Whether the word points into a block that is wanted, which it is no more then. */
__attribute__((no_sanitize("address", "thread"))) FH_INLINE bool
look(struct fh_scan *scan, uintptr_t word, struct fh_scan_area **area, uint32_t *index)
{
    const uintptr_t offset = word - scan->window_low;
    if (FH_LIKELY(offset >= scan->window_bytes))
        return FH_UNLIKELY(word - scan->others_low < scan->others_high - scan->others_low) &&
               look_outside(scan, word, area, index);
    const struct fh_scan_place *place = &scan->places[offset >> FH_GRANULE_SHIFT];
    if (place->wanted == NULL)
        return false;
    *index = (uint32_t)(((word - place->base) * place->reciprocal) >> 40);
    *area = place->area;
    return fh_scan_has_bit(place->wanted, *index) && take(scan, *area, *index, word);
}

/* ---- sweep ----------------------------------------------------------------------------------------- */

__attribute__((no_sanitize("address", "thread"))) static void
sweep_words(struct fh_scan *scan, const uintptr_t *low, const uintptr_t *high)
{
    struct fh_scan_area *area;
    uint32_t index;
    for (; low < high; low++)
        look(scan, *low, &area, &index);
}

/* Live blocks in rows, clipped where a mapping in the area can't be read. */
static void read_blocks(struct fh_scan *scan, uintptr_t low, uintptr_t high, fh_scan_read *read)
{
    for (unsigned i = fh_scan_ranges_above(&scan->holes, low); low < high; i++) {
        bool has_hole = i < scan->holes.count && scan->holes.items[i].low < high;
        uintptr_t end = has_hole ? fh_max(low, scan->holes.items[i].low) : high;
        read(scan, (const uintptr_t *)low, (const uintptr_t *)end);
        if (!has_hole)
            return;
        low = scan->holes.items[i].high;
    }
}

static void read_live(struct fh_scan *scan, const struct fh_scan_area *area, fh_scan_read *read)
{
    for (uint32_t index = 0; index < area->count;) {
        uint64_t rest = area->live[index / 64] >> (index % 64);
        if (rest == 0) {
            index = (index / 64 + 1) * 64;
            continue;
        }
        index += (uint32_t)__builtin_ctzll(rest);
        uint32_t first = index;
        while (index < area->count && fh_scan_has_bit(area->live, index))
            index++;
        uintptr_t low = area->base + first * area->stride, high = area->base + index * area->stride;
        scan->counts.live_bytes += high - low;
        if (area->is_paged)
            fh_scan_read_paged(scan, low, high, read);
        else
            read_blocks(scan, low, high, read);
    }
}

static void read_roots(struct fh_scan *scan, fh_scan_read *read)
{
    for (unsigned i = 0; i < scan->roots.count; i++) {
        const struct fh_scan_range *root = &scan->roots.items[i];
        scan->counts.root_bytes += root->high - root->low;
        fh_scan_read_paged(scan, root->low, root->high, read);
    }
}

void fh_scan_sweep(struct fh_scan *scan)
{
    if (!make_places(scan))
        return;
    read_roots(scan, sweep_words);
    for (const struct fh_scan_area *area = scan->areas; area != NULL; area = area->next)
        read_live(scan, area, sweep_words);
}

/* ---- trace ----------------------------------------------------------------------------------------- */

static void queue(struct fh_scan *scan, struct fh_scan_area *area)
{
    area->is_queued = true;
    area->next_grey = NULL;
    if (scan->last_grey != NULL)
        scan->last_grey->next_grey = area;
    else
        scan->first_grey = area;
    scan->last_grey = area;
}

static struct fh_scan_area *unqueue(struct fh_scan *scan)
{
    struct fh_scan_area *area = scan->first_grey;
    if (area == NULL)
        return NULL;
    scan->first_grey = area->next_grey;
    if (scan->first_grey == NULL)
        scan->last_grey = NULL;
    area->is_queued = false;
    return area;
}

__attribute__((no_sanitize("address", "thread"))) static void
trace_words(struct fh_scan *scan, const uintptr_t *low, const uintptr_t *high)
{
    for (; low < high; low++) {
        struct fh_scan_area *area;
        uint32_t index;
        if (FH_LIKELY(!look(scan, *low, &area, &index)))
            continue;
        area->grey[index / 64] |= (uint64_t)1 << (index % 64);
        if (!area->is_queued)
            queue(scan, area);
    }
}

static void trace_block(struct fh_scan *scan, const struct fh_scan_area *area, uint32_t index)
{
    const uintptr_t low = area->base + index * area->stride, high = low + area->stride;
    scan->counts.live_bytes += area->stride;
    if (area->is_paged)
        fh_scan_read_paged(scan, low, high, trace_words);
    else if (FH_UNLIKELY(scan->holes.count != 0))
        read_blocks(scan, low, high, trace_words);
    else
        trace_words(scan, (const uintptr_t *)low, (const uintptr_t *)high);
}

/* Reads what is grey now; what becomes grey meanwhile queues the area again. */
static void trace_area(struct fh_scan *scan, struct fh_scan_area *area)
{
    for (uint32_t word = 0; word < (area->count + 63) / 64; word++) {
        uint64_t bits = area->grey[word];
        area->grey[word] = 0;
        for (; bits != 0; bits &= bits - 1)
            trace_block(scan, area, word * 64 + (uint32_t)__builtin_ctzll(bits));
    }
}

void fh_scan_trace(struct fh_scan *scan)
{
    for (struct fh_scan_area *area = scan->areas; area != NULL; area = area->next)
        for (uint32_t word = 0; word < (area->count + 63) / 64; word++)
            area->wanted[word] = area->live[word];
    if (!make_places(scan))
        return;
    read_roots(scan, trace_words);
    for (struct fh_scan_area *area; (area = unqueue(scan)) != NULL;)
        trace_area(scan, area);
}
