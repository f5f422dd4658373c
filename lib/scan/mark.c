/*
 * Looking for addresses: the sweep and the trace.
 *
 * Both come down to one question a word: does it point into a block that is wanted? The bit is the answer
 * and the mark at once: it is taken away when the first word points there, so a block is found once.
 *
 * The trace must read what it finds, and blocks are found in no order of addresses. Reading them in the order in
 * which they are found costs a cache miss and, worse, a miss of the address translation for each (measured: 165 ns a
 * block of 64 bytes over 256 MiB, nearly all of it the translation). So what is found is a bit, `grey`, in the block's
 * area, and areas with grey blocks are visited in the order of their addresses, round after round: while an area waits
 * for its turn its grey blocks gather, and they are read together. That needs no memory beyond the bits, however deep
 * the program's structures are. What is touched at random is small: two bits of a block lie side by side, and a
 * bit of its area in an array that stays in the first cache. Words that lead to a mark are gathered, the mark
 * prefetched, and looked at a few dozen words later.
 *
 * Source: gathering follows M. Knyszek, A. Clements, "Green Tea", the Go project's garbage collector (2025).
 */
#include "base/core/macros.h"
#include "pages/pages.h"
#include "scan/internal.h"

#define PREFETCHED_MOST 128u /* bytes of a block: longer ones the processor reads ahead itself */

/* ---- one word ------------------------------------------------------------------------------------ */

static bool has_wanted(const struct fh_scan_area *area)
{
    uint64_t any = 0;
    for (uint32_t word = 0; word < (area->count + 63) / 64; word++)
        any |= area->marks[word].wanted;
    return any != 0;
}

static struct fh_scan_place place_of(struct fh_scan_area *area)
{
    return has_wanted(area)
               ? (struct fh_scan_place){area->base, area->reciprocal, area->marks, area}
               : (struct fh_scan_place){.marks = NULL};
}

/* What is wanted is known: fills the tables. False: no memory. */
static bool begin_looking(struct fh_scan *scan)
{
    const size_t granules = scan->window_bytes >> FH_GRANULE_SHIFT;
    const uint32_t words = scan->areas_count / 64 + 1;
    scan->places = fh_scan_note(scan, (granules + 1) * sizeof scan->places[0]);
    scan->numbered = fh_scan_note(scan, (words * 64) * sizeof(void *));
    scan->grey.count = words / 64 + 1;
    scan->grey.areas = fh_scan_note(scan, scan->grey.count * 64 * sizeof(uint64_t));
    scan->grey.words = fh_scan_note(scan, scan->grey.count * sizeof(uint64_t));
    if (scan->places == NULL || scan->numbered == NULL || scan->grey.areas == NULL ||
        scan->grey.words == NULL)
        return false;
    for (struct fh_scan_area *area = scan->areas; area != NULL; area = area->next)
        scan->numbered[area->number] = area;
    for (size_t i = 0; i < granules; i++) {
        struct fh_scan_area *area = scan->granules[i];
        if (area != NULL)
            scan->places[i] =
                i > 0 && scan->granules[i - 1] == area ? scan->places[i - 1] : place_of(area);
    }
    return true;
}

/* Whether the word counts as an address of the block. It may be one behind a block that is alone in its area; or
 * not of its first byte. */
FH_INLINE bool is_in_block(const struct fh_scan *scan, struct fh_scan_area *area, uint32_t index,
                           uintptr_t word, uint64_t reciprocal)
{
    const bool wants_begin = (scan->options.flags & FH_SCAN_BEGINS_ONLY) != 0;
    if (FH_UNLIKELY(reciprocal == 0 || wants_begin)) {
        uintptr_t offset = word - area->base - index * area->stride;
        if (offset >= area->stride || (wants_begin && offset != 0))
            return false;
    }
    return true;
}

/* The block is wanted no more; a trace will read it. */
FH_INLINE void find(struct fh_scan *scan, struct fh_scan_marks *marks, uint64_t bit,
                    const struct fh_scan_area *area)
{
    marks->wanted &= ~bit;
    if (!scan->is_tracing)
        return;
    if (marks->grey == 0) {
        const uint32_t number = area->number;
        scan->grey.areas[number / 64] |= (uint64_t)1 << (number % 64);
        scan->grey.words[number / 4096] |= (uint64_t)1 << (number / 64 % 64);
    }
    marks->grey |= bit;
}

static FH_NOINLINE void look_outside(struct fh_scan *scan, uintptr_t word)
{
    struct fh_scan_area *area = fh_scan_find_outside(scan, word);
    if (area == NULL)
        return;
    const uint32_t index = fh_scan_index(area, word);
    if (fh_scan_has_mark(area->marks, index) && is_in_block(scan, area, index, word, 0))
        find(scan, &area->marks[index / 64], (uint64_t)1 << (index % 64), area);
}

/* Their marks are on their way to the cache. */
static void settle(struct fh_scan *scan)
{
    for (unsigned i = 0; i < scan->candidate_count; i++) {
        const struct fh_scan_candidate *one = &scan->candidates[i];
        if ((one->marks->wanted & one->bit) != 0 &&
            is_in_block(scan, one->area, one->index, one->word, one->reciprocal))
            find(scan, one->marks, one->bit, one->area);
    }
    scan->candidate_count = 0;
}

/* Every word that leads to a mark becomes a candidate. */
__attribute__((no_sanitize("address", "thread"))) static void
look(struct fh_scan *scan, const uintptr_t *low, const uintptr_t *high)
{
    const uintptr_t window_low = scan->window_low, window_bytes = scan->window_bytes;
    const struct fh_scan_place *places = scan->places;
    for (; low < high; low++) {
        const uintptr_t word = *low, offset = word - window_low;
        if (FH_LIKELY(offset >= window_bytes)) {
            if (FH_UNLIKELY(word - scan->others_low < scan->others_high - scan->others_low))
                look_outside(scan, word);
            continue;
        }
        const struct fh_scan_place *place = &places[offset >> FH_GRANULE_SHIFT];
        if (place->marks == NULL)
            continue;
        const uint32_t index = (uint32_t)(((word - place->base) * place->reciprocal) >> 40);
        struct fh_scan_marks *marks = &place->marks[index / 64];
        __builtin_prefetch(marks, 1);
        scan->candidates[scan->candidate_count++] = (struct fh_scan_candidate){
            marks, (uint64_t)1 << (index % 64), place->area, place->reciprocal, word, index};
        if (FH_UNLIKELY(scan->candidate_count == FH_SCAN_CANDIDATES))
            settle(scan);
    }
}

/* ---- sweep ----------------------------------------------------------------------------------------- */

/* A sweep reads in order and finds little: what it asks of the marks is in the cache mostly, so it asks at once. */
__attribute__((no_sanitize("address", "thread"))) static void
look_at_once(struct fh_scan *scan, const uintptr_t *low, const uintptr_t *high)
{
    const uintptr_t window_low = scan->window_low, window_bytes = scan->window_bytes;
    const struct fh_scan_place *places = scan->places;
    for (; low < high; low++) {
        const uintptr_t word = *low, offset = word - window_low;
        if (FH_LIKELY(offset >= window_bytes)) {
            if (FH_UNLIKELY(word - scan->others_low < scan->others_high - scan->others_low))
                look_outside(scan, word);
            continue;
        }
        const struct fh_scan_place *place = &places[offset >> FH_GRANULE_SHIFT];
        if (place->marks == NULL)
            continue;
        const uint32_t index = (uint32_t)(((word - place->base) * place->reciprocal) >> 40);
        if (FH_UNLIKELY(fh_scan_has_mark(place->marks, index)) &&
            is_in_block(scan, place->area, index, word, place->reciprocal))
            place->marks[index / 64].wanted &= ~((uint64_t)1 << (index % 64));
    }
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
    if (!begin_looking(scan))
        return;
    read_roots(scan, look_at_once);
    for (const struct fh_scan_area *area = scan->areas; area != NULL; area = area->next)
        read_live(scan, area, look_at_once);
}

/* ---- trace ----------------------------------------------------------------------------------------- */

static void trace_block(struct fh_scan *scan, const struct fh_scan_area *area, uint32_t index)
{
    const uintptr_t low = area->base + index * area->stride, high = low + area->stride;
    scan->counts.live_bytes += area->stride;
    if (area->is_paged)
        fh_scan_read_paged(scan, low, high, look);
    else if (FH_UNLIKELY(scan->holes.count != 0))
        read_blocks(scan, low, high, look);
    else
        look(scan, (const uintptr_t *)low, (const uintptr_t *)high);
}

/* Their first lines: they lie near one another, but not so regularly that the processor would guess them. */
static void prefetch_blocks(const struct fh_scan_area *area, uint32_t first, uint64_t bits)
{
    for (; bits != 0; bits &= bits - 1)
        __builtin_prefetch(
            (const void *)(area->base + (first + (uint32_t)__builtin_ctzll(bits)) * area->stride));
}

/* Reads what is grey now; what becomes grey meanwhile is for the next round. */
static void trace_area(struct fh_scan *scan, const struct fh_scan_area *area)
{
    for (uint32_t word = 0; word < (area->count + 63) / 64; word++) {
        uint64_t bits = area->marks[word].grey;
        area->marks[word].grey = 0;
        if (area->stride <= PREFETCHED_MOST)
            prefetch_blocks(area, word * 64, bits);
        for (; bits != 0; bits &= bits - 1)
            trace_block(scan, area, word * 64 + (uint32_t)__builtin_ctzll(bits));
    }
}

/* One round over the areas that are grey; false when none is. */
static bool trace_grey(struct fh_scan *scan)
{
    bool has_any = false;
    for (uint32_t i = 0; i < scan->grey.count; i++) {
        uint64_t words = scan->grey.words[i];
        scan->grey.words[i] = 0;
        for (; words != 0; words &= words - 1) {
            const uint32_t word = i * 64 + (uint32_t)__builtin_ctzll(words);
            uint64_t areas = scan->grey.areas[word];
            scan->grey.areas[word] = 0;
            has_any = true;
            for (; areas != 0; areas &= areas - 1)
                trace_area(scan, scan->numbered[word * 64 + (uint32_t)__builtin_ctzll(areas)]);
        }
    }
    return has_any;
}

void fh_scan_trace(struct fh_scan *scan)
{
    for (struct fh_scan_area *area = scan->areas; area != NULL; area = area->next)
        for (uint32_t word = 0; word < (area->count + 63) / 64; word++)
            area->marks[word].wanted = area->live[word];
    if (!begin_looking(scan))
        return;
    scan->is_tracing = true;
    read_roots(scan, look);
    settle(scan);
    while (trace_grey(scan))
        settle(scan);
}
