/*
 * Looking for addresses: the sweep and the trace.
 *
 * Both come down to one question a word: does it point into a block that is wanted? The bit is the answer
 * and the mark at once: it is taken away when the first word points there, so a block is found once.
 *
 * The trace keeps a stack of stretches of memory that are still to be read. Reading a block in the order in
 * which it was found would wait for memory at each (nothing of it is in a cache); so what comes off the
 * stack is prefetched and goes through a ring of AHEAD stretches first, and is read when it comes out at
 * the other end (C.-Y. Cher, A. Hosking, T. Vijaykumar, "Software prefetching for mark-sweep garbage
 * collection", ASPLOS 2004). Long stretches are read piece by piece, the rest goes back on the stack:
 * what one piece finds is read before the next, and the stack stays short.
 *
 * All of that lies in the scan's own memory: a variable of ours that held an address of a block from an
 * earlier scan would be a root in a program that we are linked into.
 *
 * The stack is address space for as many stretches as there are live blocks, plus roots: each block is found
 * once. It is touched only as deep as it gets.
 */
#include "base/core/macros.h"
#include "os/mem.h"
#include "scan/internal.h"

enum {
    AHEAD = 16, /* stretches whose memory is on its way; a power of two */
    PIECE_BYTES = 1024,
    SPARE_STRETCHES = AHEAD /* rests of long ones; what is in the ring is not on the stack */
};

struct stretch {
    uintptr_t low; /* with IS_PAGED in it: pages of it may be inaccessible */
    uintptr_t high;
};

#define IS_PAGED ((uintptr_t)1) /* blocks begin at words */

struct fh_scan_work {
    struct stretch *stack;
    size_t depth, capacity;
    struct stretch ring[AHEAD];
    unsigned first, count;
};

/* ---- one word ------------------------------------------------------------------------------------ */

/* Takes the mark of the block into which the word points; false when there is none. */
__attribute__((no_sanitize("address", "thread"))) FH_INLINE bool
take(struct fh_scan *scan, uintptr_t word, struct fh_scan_area **area_, uint32_t *index_)
{
    struct fh_scan_area *area = fh_scan_area_of(scan, word);
    if (FH_LIKELY(area == NULL))
        return false;
    uint32_t index = fh_scan_index(area, word);
    uint64_t bit = (uint64_t)1 << (index % 64);
    if ((area->wanted[index / 64] & bit) == 0)
        return false;
    if ((scan->options.flags & FH_SCAN_BEGINS_ONLY) != 0 &&
        word != area->base + index * area->stride)
        return false;
    area->wanted[index / 64] &= ~bit;
    *area_ = area;
    *index_ = index;
    return true;
}

/* ---- sweep ----------------------------------------------------------------------------------------- */

__attribute__((no_sanitize("address", "thread"))) static void
sweep_words(struct fh_scan *scan, const uintptr_t *low, const uintptr_t *high)
{
    struct fh_scan_area *area;
    uint32_t index;
    for (; low < high; low++)
        take(scan, *low, &area, &index);
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
    read_roots(scan, sweep_words);
    for (const struct fh_scan_area *area = scan->areas; area != NULL; area = area->next)
        read_live(scan, area, sweep_words);
}

/* ---- trace ----------------------------------------------------------------------------------------- */

static void push(struct fh_scan *scan, uintptr_t low, uintptr_t high)
{
    struct fh_scan_work *work = scan->work;
    if (FH_UNLIKELY(work->depth == work->capacity)) {
        scan->gaps |= FH_SCAN_GAP_SPACE;
        return;
    }
    work->stack[work->depth++] = (struct stretch){low, high};
}

__attribute__((no_sanitize("address", "thread"))) static void
trace_words(struct fh_scan *scan, const uintptr_t *low, const uintptr_t *high)
{
    for (; low < high; low++) {
        struct fh_scan_area *area;
        uint32_t index;
        if (FH_LIKELY(!take(scan, *low, &area, &index)))
            continue;
        uintptr_t block = area->base + index * area->stride;
        push(scan, block | (area->is_paged ? IS_PAGED : 0), block + area->stride);
    }
}

/* The oldest stretch of the ring, which is kept full from the stack; false when both are empty. */
static bool next_stretch(struct fh_scan_work *work, struct stretch *out)
{
    while (work->count < AHEAD && work->depth > 0) {
        struct stretch newest = work->stack[--work->depth];
        __builtin_prefetch((const void *)newest.low);
        work->ring[(work->first + work->count++) % AHEAD] = newest;
    }
    if (work->count == 0)
        return false;
    *out = work->ring[work->first];
    work->first = (work->first + 1) % AHEAD;
    work->count--;
    return true;
}

static void drain(struct fh_scan *scan)
{
    struct stretch next;
    while (next_stretch(scan->work, &next)) {
        const bool is_paged = (next.low & IS_PAGED) != 0;
        next.low &= ~IS_PAGED;
        scan->counts.live_bytes += next.high - next.low;
        if (is_paged) {
            fh_scan_read_paged(scan, next.low, next.high, trace_words);
        } else if (scan->holes.count != 0) {
            read_blocks(scan, next.low, next.high, trace_words);
        } else {
            uintptr_t piece = fh_min(next.high, next.low + PIECE_BYTES);
            if (piece < next.high) {
                push(scan, piece, next.high);
                scan->counts.live_bytes -= next.high - piece;
            }
            trace_words(scan, (const uintptr_t *)next.low, (const uintptr_t *)piece);
        }
    }
}

/* Every live block is wanted; returns how many there are. */
static size_t want_all_live(struct fh_scan *scan)
{
    size_t count = 0;
    for (struct fh_scan_area *area = scan->areas; area != NULL; area = area->next)
        for (uint32_t word = 0; word < (area->count + 63) / 64; word++) {
            area->wanted[word] = area->live[word];
            count += fh_popcount(area->live[word]);
        }
    return count;
}

void fh_scan_trace(struct fh_scan *scan)
{
    size_t capacity = want_all_live(scan) + SPARE_STRETCHES;
    size_t bytes = fh_align_up(capacity * sizeof(struct stretch), fh_os_page_size);
    struct fh_scan_work *work = fh_scan_note(scan, sizeof *work);
    struct stretch *stack = fh_os_map(bytes);
    if (work == NULL || stack == NULL) {
        scan->gaps |= FH_SCAN_GAP_SPACE;
        return;
    }
    *work = (struct fh_scan_work){.stack = stack, .capacity = capacity};
    scan->work = work;
    read_roots(scan, trace_words);
    drain(scan);
    fh_os_release(stack, bytes);
}
