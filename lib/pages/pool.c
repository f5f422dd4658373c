/*
 * The page pool: runs of granules out of one window.
 *
 * What it keeps. Granules below `top` are in a run, in a free span, or lost (a hole: something else
 * was mapped there). A free span is a maximal row of free granules of one temper: *dirty* (some
 * page is in memory) or *clean* (none is: reads as zero, costs nothing). Its first header has the
 * kind, the length and the age, its last header the way back (boundary tags, Knuth 2.5); so a
 * neighbour is found in O(1) when a span is freed and they merge.
 *
 * Spans are filed by length: one bin for each length up to 32, then eight bins a doubling, with a
 * bit per bin that says "not empty" (segregated good fit, as in Masmano's TLSF). A request looks
 * into the bin of its own length, then takes from the next bin that has anything.
 *
 * Dirty goes before clean: a page that is in memory costs nothing, a page from the kernel half a
 * microsecond and more. A large request that no dirty span fits looks for a row of neighbours of
 * both tempers. When there is none and more than a quarter of what is in use lies idle in dirty
 * spans, as much of it as is now taken fresh is given back first: or else blocks of changing sizes
 * (5 MiB, 7 MiB, 6 MiB …) would pile up spans that fit nobody. The quarter is the hysteresis:
 * giving back each block at once costs three times the time (measured on mimalloc 2 with 5–25 MiB
 * blocks).
 *
 * Each bin is a ring, newest at `first`, oldest before it, so decay takes from the old end and
 * stops at the first young one. When spans merge the older age counts.
 *
 * Locking. One lock for all of it. The system call of a purge runs outside: the span is BUSY
 * meanwhile (nobody merges with it). REST headers of a run belong to the run's holder.
 */
#include "pages/pages.h"

#include "base/message.h"
#include "base/notice.h"
#include "os/mem.h"
#include "os/sys.h"

#include <errno.h>
#include <string.h>

#define PURGE_SURPLUS_FROM 16u /* granules: requests below never cause a purge */
#define DIRTY_ALLOWANCE    64u /* granules: 4 MiB may always lie idle */
#define COMMIT_CHUNK       64u /* granules: one mprotect a 4 MiB */
#define MIXED_TRIES        32u /* dirty spans looked at for a row of both tempers */

static unsigned bin_of(size_t granules)
{
    if (granules <= FH_SPAN_EXACT)
        return (unsigned)granules - 1;
    unsigned log = fh_log2(granules);
    return FH_SPAN_EXACT + (log - 5) * 8 + (unsigned)((granules >> (log - 3)) - 8);
}

static struct fh_span_bins *bins_for(struct fh_pages *pages, uint8_t kind)
{
    return kind == FH_RUN_DIRTY ? &pages->dirty : &pages->clean;
}

static unsigned pages_per_granule(void)
{
    return (unsigned)(FH_GRANULE >> fh_os_page_shift);
}

static uint64_t granule_pages_mask(void)
{
    return ((uint64_t)1 << pages_per_granule()) - 1;
}

/* ---- spans and bins -------------------------------------------------------------------------- */

static void span_tag(struct fh_pages *pages, uint32_t index, uint32_t span, uint8_t kind)
{
    struct fh_run *run = fh_run_at(pages, index);
    run->kind = kind;
    run->span = span;
    if (span > 1) {
        struct fh_run *tail = fh_run_at(pages, index + span - 1);
        tail->kind = FH_RUN_FREE_TAIL;
        tail->head = index;
    }
}

static void span_untag(struct fh_pages *pages, uint32_t index, uint32_t span)
{
    fh_run_at(pages, index)->kind = FH_RUN_NONE;
    fh_run_at(pages, index + span - 1)->kind = FH_RUN_NONE;
}

static void span_link(struct fh_pages *pages, uint32_t index)
{
    struct fh_run *run = fh_run_at(pages, index);
    struct fh_span_bins *bins = bins_for(pages, run->kind);
    unsigned bin = bin_of(run->span);
    uint32_t first = bins->first[bin];
    if (first == FH_NO_RUN) {
        run->next = run->prev = index;
        bins->occupied[bin / 64] |= (uint64_t)1 << (bin % 64);
    } else {
        struct fh_run *old = fh_run_at(pages, first);
        run->next = first;
        run->prev = old->prev;
        fh_run_at(pages, old->prev)->next = index;
        old->prev = index;
    }
    bins->first[bin] = index;
    bins->granules += run->span;
}

static void span_unlink(struct fh_pages *pages, uint32_t index)
{
    struct fh_run *run = fh_run_at(pages, index);
    struct fh_span_bins *bins = bins_for(pages, run->kind);
    unsigned bin = bin_of(run->span);
    if (run->next == index) {
        bins->first[bin] = FH_NO_RUN;
        bins->occupied[bin / 64] &= ~((uint64_t)1 << (bin % 64));
    } else {
        fh_run_at(pages, run->next)->prev = run->prev;
        fh_run_at(pages, run->prev)->next = run->next;
        if (bins->first[bin] == index)
            bins->first[bin] = run->next;
    }
    bins->granules -= run->span;
}

/* The free span that ends just before index, FH_NO_RUN when there is none. */
static uint32_t span_before(const struct fh_pages *pages, uint32_t index)
{
    if (index <= pages->first)
        return FH_NO_RUN;
    const struct fh_run *before = fh_run_at(pages, index - 1);
    uint8_t kind = fh_run_kind(before);
    if (kind == FH_RUN_FREE_TAIL)
        return fh_run_at(pages, before->head)->kind == FH_RUN_BUSY ? FH_NO_RUN : before->head;
    return kind == FH_RUN_CLEAN || kind == FH_RUN_DIRTY ? index - 1 : FH_NO_RUN;
}

/* Files a free row of granules, merged with neighbours of its temper. */
static void span_insert(struct fh_pages *pages, uint32_t index, uint32_t span, uint8_t kind,
                        uint8_t epoch)
{
    uint8_t now = (uint8_t)atomic_load_explicit(&pages->tick, memory_order_relaxed);
    uint32_t before = span_before(pages, index);
    if (before != FH_NO_RUN && fh_run_at(pages, before)->kind == kind) {
        struct fh_run *left = fh_run_at(pages, before);
        uint32_t length = left->span;
        if ((uint8_t)(now - left->epoch) > (uint8_t)(now - epoch))
            epoch = left->epoch;
        span_unlink(pages, before);
        span_untag(pages, before, length);
        index = before;
        span += length;
    }
    if (index + span < pages->top) {
        struct fh_run *right = fh_run_at(pages, index + span);
        if (fh_run_kind(right) == kind) {
            uint32_t at = index + span, length = right->span;
            if ((uint8_t)(now - right->epoch) > (uint8_t)(now - epoch))
                epoch = right->epoch;
            span_unlink(pages, at);
            span_untag(pages, at, length);
            span += length;
        }
    }
    span_tag(pages, index, span, kind);
    fh_run_at(pages, index)->epoch = epoch;
    span_link(pages, index);
}

/* Cuts [index, index + want) out of a free span that is in no bin any more; what remains on both
 * sides is filed again. */
static void span_cut(struct fh_pages *pages, uint32_t span_index, uint32_t index, uint32_t want)
{
    struct fh_run *run = fh_run_at(pages, span_index);
    uint32_t span = run->span;
    uint8_t kind = run->kind, epoch = run->epoch;
    span_untag(pages, span_index, span);
    uint32_t end = span_index + span;
    if (index > span_index) {
        span_tag(pages, span_index, index - span_index, kind);
        fh_run_at(pages, span_index)->epoch = epoch;
        span_link(pages, span_index);
    }
    if (index + want < end) {
        span_tag(pages, index + want, end - index - want, kind);
        fh_run_at(pages, index + want)->epoch = epoch;
        span_link(pages, index + want);
    }
}

/* First granule ≥ index that is aligned in the address space. */
static uint32_t aligned_index(const struct fh_pages *pages, uint32_t index, size_t align)
{
    uintptr_t number = (pages->base >> FH_GRANULE_SHIFT) + index;
    return (uint32_t)(fh_align_up(number, align) - (pages->base >> FH_GRANULE_SHIFT));
}

static bool span_fits(const struct fh_pages *pages, uint32_t index, size_t want, size_t align)
{
    uint32_t span = fh_run_at(pages, index)->span;
    if (align == 1)
        return span >= want;
    uint32_t at = aligned_index(pages, index, align);
    return at - index < span && span - (at - index) >= want;
}

static bool is_free(const struct fh_run *run)
{
    return run->kind == FH_RUN_CLEAN || run->kind == FH_RUN_DIRTY;
}

/* Takes [at, at + want) out of the free spans that fill [begin, end), each of which it meets; what
 * is left of the first and the last is filed again. */
static void take_row(struct fh_pages *pages, uint32_t begin, uint32_t end, uint32_t at,
                     uint32_t want)
{
    for (uint32_t index = begin; index < end;) {
        uint32_t next = index + fh_run_at(pages, index)->span;
        uint32_t from = index > at ? index : at, until = next < at + want ? next : at + want;
        span_unlink(pages, index);
        span_cut(pages, index, from, until - from);
        index = next;
    }
}

/* Takes `want` granules from one set of bins; FH_NO_RUN when none fits. */
static uint32_t take_from(struct fh_pages *pages, struct fh_span_bins *bins, size_t want,
                          size_t align)
{
    if (bins->granules < want)
        return FH_NO_RUN;
    unsigned bin = bin_of(want), tries = 0;
    for (unsigned word = bin / 64; word < FH_SPAN_WORDS; word++) {
        uint64_t bits = bins->occupied[word];
        if (word == bin / 64)
            bits &= ~(uint64_t)0 << (bin % 64);
        for (; bits != 0; bits &= bits - 1) {
            uint32_t first = bins->first[word * 64 + (unsigned)__builtin_ctzll(bits)];
            uint32_t index = first;
            do {
                if (span_fits(pages, index, want, align)) {
                    span_unlink(pages, index);
                    uint32_t at = align == 1 ? index : aligned_index(pages, index, align);
                    span_cut(pages, index, at, (uint32_t)want);
                    return at;
                }
                index = fh_run_at(pages, index)->next;
            } while (index != first && ++tries < 64);
        }
    }
    return FH_NO_RUN;
}

/* A row of free spans of both tempers that is long enough together, around one of the longest dirty
 * spans; taken, what is too much
 * filed again. For requests that would otherwise have to purge: the dirty part is used as it is. */
static uint32_t take_mixed(struct fh_pages *pages, size_t want)
{
    unsigned tries = 0;
    for (unsigned bin = FH_SPAN_BINS; bin-- > 0 && tries < MIXED_TRIES;) {
        uint32_t first = pages->dirty.first[bin], index = first;
        if (first == FH_NO_RUN)
            continue;
        do {
            uint32_t begin = index, end = index + fh_run_at(pages, index)->span;
            while (end - begin < want && end < pages->top && is_free(fh_run_at(pages, end)))
                end += fh_run_at(pages, end)->span;
            for (uint32_t before;
                 end - begin < want && (before = span_before(pages, begin)) != FH_NO_RUN;)
                begin = before;
            if (end - begin >= want) {
                /* What is too much lies at the side that was lengthened last, in one span. */
                uint32_t at = begin < index ? end - (uint32_t)want : begin;
                take_row(pages, begin, end, at, (uint32_t)want);
                return at;
            }
            index = fh_run_at(pages, index)->next;
        } while (index != first && ++tries < MIXED_TRIES);
    }
    return FH_NO_RUN;
}

/* ---- growing --------------------------------------------------------------------------------- */

/* Makes the headers of granules [from, until) writable. They lie in one row, or in two when the
 * array's end is between. */
static int commit_headers(struct fh_pages *pages, uint32_t from, uint32_t until)
{
    uintptr_t begin = (uintptr_t)fh_run_at(pages, from),
              end = (uintptr_t)fh_run_at(pages, until - 1) + sizeof(struct fh_run);
    if (end <= begin) {
        uint32_t wrap = from + (uint32_t)((pages->window.headers + pages->window.mask +
                                           sizeof(struct fh_run) - begin) >>
                                          FH_RUN_SHIFT);
        int error = commit_headers(pages, from, wrap);
        return error != 0 ? error : commit_headers(pages, wrap, until);
    }
    begin = fh_align_down(begin, fh_os_page_size);
    return pages->source->commit(pages->source->self, (void *)begin,
                                 fh_align_up(end, fh_os_page_size) - begin);
}

static int commit_granules(struct fh_pages *pages, uint32_t until)
{
    int error = commit_headers(pages, pages->committed, until);
    if (error != 0)
        return error;
    uintptr_t at = pages->base + ((uintptr_t)pages->committed << FH_GRANULE_SHIFT);
    error = pages->source->commit(pages->source->self, (void *)at,
                                  (size_t)(until - pages->committed) << FH_GRANULE_SHIFT);
    if (error != 0)
        return error;
    if (fh_notice_is_wanted())
        fh_notice_put(FH_NOTICE_GROW, (void *)at,
                      (size_t)(until - pages->committed) << FH_GRANULE_SHIFT, fh_os_gettid());
    pages->committed = until;
    return 0;
}

/* Makes [at, at + want) usable, where at ≤ top; moves top. May step over a hole: returns where it
 * begins, or FH_NO_RUN. */
static uint32_t grow(struct fh_pages *pages, uint32_t at, size_t want, size_t align)
{
    for (int holes = 0; holes < 256; holes++) {
        uint32_t begin = aligned_index(pages, at, align);
        if (want > pages->limit || begin > pages->limit - want)
            return FH_NO_RUN;
        uint32_t end = begin + (uint32_t)want;
        if (end > pages->committed) {
            uint32_t step =
                (uint32_t)fh_min(fh_max(end, pages->committed + pages->chunk), pages->limit);
            int error = commit_granules(pages, step);
            if (error == -ENOMEM && step > end)
                error = commit_granules(pages, end);
            if (error == -EEXIST) { /* somebody else's mapping lies in an unreserved window */
                if (pages->committed > pages->top) {
                    uint32_t rest = pages->top;
                    pages->top = pages->committed;
                    span_insert(pages, rest, pages->top - rest, FH_RUN_CLEAN, 0);
                }
                at = pages->top = pages->committed = step;
                continue;
            }
            if (error != 0)
                return FH_NO_RUN;
        }
        uint32_t old_top = pages->top;
        if (end > pages->top)
            pages->top = end;
        if (begin > at && at >= old_top) /* what alignment skipped */
            span_insert(pages, at, begin - at, FH_RUN_CLEAN, 0);
        return begin;
    }
    return FH_NO_RUN;
}

static uint32_t take_fresh(struct fh_pages *pages, size_t want, size_t align)
{
    uint32_t last = span_before(pages, pages->top);
    if (last == FH_NO_RUN || align != 1 || fh_run_at(pages, last)->kind != FH_RUN_CLEAN)
        return grow(pages, pages->top, want, align);
    /* A clean span at the top is the beginning of the new run. */
    uint32_t length = fh_run_at(pages, last)->span, top = pages->top;
    span_unlink(pages, last);
    span_untag(pages, last, length);
    uint32_t index = grow(pages, last, want, 1);
    if (index != last)
        span_insert(pages, last, top - last, FH_RUN_CLEAN, 0);
    return index;
}

/* ---- the interface --------------------------------------------------------------------------- */

void fh_pages_count(struct fh_pages *pages, size_t pages_more, size_t pages_less)
{
    /* Relaxed: figures for people, nothing is ordered by them. */
    size_t more = pages_more << fh_os_page_shift, less = pages_less << fh_os_page_shift;
    size_t now = atomic_fetch_add_explicit(&pages->footprint, more - less, memory_order_relaxed) +
                 more - less;
    if (now > atomic_load_explicit(&pages->peak_footprint, memory_order_relaxed))
        atomic_store_explicit(&pages->peak_footprint, now, memory_order_relaxed);
}

static bool run_is_zero(const struct fh_pages *pages, uint32_t index, size_t granules)
{
    if (!(pages->source->capabilities & FH_SOURCE_ZEROED))
        return false;
    if (granules > FH_HUGE_SPAN)
        return true; /* they come from clean spans only */
    for (size_t i = 0; i < granules; i++)
        if (fh_run_at(pages, index + (uint32_t)i)->dirty != 0)
            return false;
    return true;
}

/* The next granule behind `at` whose header a run writes: each; but of a run longer than
 * FH_HUGE_SPAN only those up to the
 * first multiple of FH_HUGE_SPAN, and then only the multiples, so that a sparse block of many
 * gigabytes does not fill
 * megabytes of headers. */
static uint32_t next_tagged(uint32_t index, uint32_t at, size_t granules)
{
    if (granules <= FH_HUGE_SPAN || at + 1 <= fh_align_up((size_t)index + 1, FH_HUGE_SPAN))
        return at + 1;
    return (uint32_t)fh_align_up((size_t)at + 1, FH_HUGE_SPAN);
}

static void run_tag(struct fh_pages *pages, uint32_t index, size_t granules)
{
    for (uint32_t i = index + 1; i < index + granules; i = next_tagged(index, i, granules)) {
        struct fh_run *rest = fh_run_at(pages, i);
        rest->head = index;
        rest->reciprocal = 0;
        atomic_store_explicit(&rest->key, FH_KEY_NOBODY, memory_order_relaxed);
        rest->kind = FH_RUN_REST;
    }
    fh_run_at(pages, index)->span = (uint32_t)granules;
}

static size_t purge(struct fh_pages *pages, unsigned age, size_t keep_granules);

struct fh_run *fh_pages_alloc(struct fh_pages *pages, size_t granules, size_t align, bool *is_zero)
{
    if (granules == 0 || granules > pages->limit)
        return NULL;
    fh_lock_acquire(&pages->lock);
    uint32_t index =
        granules > FH_HUGE_SPAN ? FH_NO_RUN : take_from(pages, &pages->dirty, granules, align);
    if (index == FH_NO_RUN) {
        if (granules >= PURGE_SURPLUS_FROM && align == 1 && granules <= FH_HUGE_SPAN)
            index = take_mixed(pages, granules);
    }
    if (index == FH_NO_RUN) {
        size_t allowance = fh_max(DIRTY_ALLOWANCE, pages->used / 4), dirty = pages->dirty.granules;
        if (granules >= PURGE_SURPLUS_FROM && dirty > allowance)
            purge(pages, 0,
                  dirty - granules > allowance && dirty > granules ? dirty - granules : allowance);
        index = take_from(pages, &pages->clean, granules, align);
    }
    if (index == FH_NO_RUN)
        index = take_fresh(pages, granules, align);
    if (index == FH_NO_RUN && pages->dirty.granules > 0) {
        /* Clean and dirty neighbours may be long enough together. */
        purge(pages, 0, 0);
        index = take_from(pages, &pages->clean, granules, align);
    }
    struct fh_run *run = NULL;
    if (index != FH_NO_RUN) {
        run = fh_run_at(pages, index);
        if (is_zero != NULL)
            *is_zero = run_is_zero(pages, index, granules);
        run_tag(pages, index, granules);
        pages->used += granules;
    }
    fh_lock_release(&pages->lock);
    return run;
}

struct fh_run *fh_pages_alloc_sparse(struct fh_pages *pages)
{
    fh_lock_acquire(&pages->lock);
    uint32_t index = take_from(pages, &pages->clean, 1, 1);
    struct fh_run *run = NULL;
    if (index != FH_NO_RUN) {
        run = fh_run_at(pages, index);
        run_tag(pages, index, 1);
        pages->used++;
    }
    fh_lock_release(&pages->lock);
    return run != NULL ? run : fh_pages_alloc(pages, 1, 1, NULL);
}

static void free_granules(struct fh_pages *pages, uint32_t index, uint32_t granules)
{
    uint8_t epoch = (uint8_t)atomic_load_explicit(&pages->tick, memory_order_relaxed);
    uint8_t kind = FH_RUN_CLEAN;
    for (uint32_t i = index; i < index + granules; i = next_tagged(index, i, granules)) {
        struct fh_run *run = fh_run_at(pages, i);
        run->reciprocal = 0;
        atomic_store_explicit(&run->key, FH_KEY_NOBODY, memory_order_relaxed);
        run->heap = NULL;
        run->manager = NULL;
        run->flags = 0;
        run->kind = FH_RUN_NONE;
        if (run->dirty != 0)
            kind = FH_RUN_DIRTY;
    }
    span_insert(pages, index, granules, kind, epoch);
    pages->used -= granules;
}

void fh_pages_free(struct fh_pages *pages, struct fh_run *run)
{
    if (run->span > FH_HUGE_SPAN) {
        size_t bytes = (size_t)run->span << FH_GRANULE_SHIFT;
        bool is_purged =
            (pages->source->capabilities & FH_SOURCE_PURGE) != 0 &&
            pages->source->purge(pages->source->self, fh_run_address(pages, run), bytes) == 0;
        if (is_purged) {
            if (fh_notice_is_wanted())
                fh_notice_put(FH_NOTICE_PURGE, fh_run_address(pages, run), bytes, fh_os_gettid());
            atomic_fetch_add_explicit(&pages->purged, bytes, memory_order_relaxed);
        } else {
            run->dirty = 1; /* filed as dirty: nobody may take it for zeroes */
        }
    }
    fh_lock_acquire(&pages->lock);
    free_granules(pages, fh_run_index(pages, run), run->span);
    fh_lock_release(&pages->lock);
}

bool fh_pages_extend(struct fh_pages *pages, struct fh_run *run, size_t more)
{
    if (more > pages->limit)
        return false;
    fh_lock_acquire(&pages->lock);
    uint32_t index = fh_run_index(pages, run), end = index + run->span;
    bool done = false;
    if (end < pages->top) {
        struct fh_run *next = fh_run_at(pages, end);
        uint8_t kind = fh_run_kind(next);
        if ((kind == FH_RUN_CLEAN || kind == FH_RUN_DIRTY) && next->span >= more) {
            span_unlink(pages, end);
            span_cut(pages, end, end, (uint32_t)more);
            done = true;
        }
    } else if (end == pages->top) {
        uint32_t at = grow(pages, end, more, 1);
        done = at == end;
        if (!done && at != FH_NO_RUN) /* behind a hole: not ours to have */
            span_insert(pages, at, (uint32_t)more, FH_RUN_CLEAN, 0);
    }
    if (done) {
        run_tag(pages, index, run->span + more);
        pages->used += more;
    }
    fh_lock_release(&pages->lock);
    return done;
}

void fh_pages_shorten(struct fh_pages *pages, struct fh_run *run, size_t granules)
{
    fh_lock_acquire(&pages->lock);
    uint32_t index = fh_run_index(pages, run);
    uint32_t rest = run->span - (uint32_t)granules;
    run->span = (uint32_t)granules;
    if (rest > 0)
        free_granules(pages, index + (uint32_t)granules, rest);
    fh_lock_release(&pages->lock);
}

/* With the lock held, which is let go for each system call. */
static size_t purge(struct fh_pages *pages, unsigned age, size_t keep_granules)
{
    if (!(pages->source->capabilities & FH_SOURCE_PURGE))
        return 0;
    size_t given = 0;
    uint8_t now = (uint8_t)atomic_load_explicit(&pages->tick, memory_order_relaxed);
    for (unsigned bin = FH_SPAN_BINS; bin-- > 0;) {
        while (pages->dirty.first[bin] != FH_NO_RUN && pages->dirty.granules > keep_granules) {
            uint32_t index = fh_run_at(pages, pages->dirty.first[bin])->prev;
            struct fh_run *run = fh_run_at(pages, index);
            if ((uint8_t)(now - run->epoch) < age)
                break;
            uint32_t span = run->span;
            span_unlink(pages, index);
            run->kind = FH_RUN_BUSY;
            fh_lock_release(&pages->lock);
            int error = pages->source->purge(pages->source->self, fh_run_address(pages, run),
                                             (size_t)span << FH_GRANULE_SHIFT);
            fh_lock_acquire(&pages->lock);
            size_t dirty_pages = 0;
            for (uint32_t i = 0; i < span && error == 0; i++) {
                struct fh_run *granule = fh_run_at(pages, index + i);
                dirty_pages += (size_t)__builtin_popcountll(granule->dirty & granule_pages_mask());
                granule->dirty = 0;
            }
            span_untag(pages, index, span);
            span_insert(pages, index, span, error == 0 ? FH_RUN_CLEAN : FH_RUN_DIRTY, now);
            if (error != 0)
                return given; /* locked memory on an old kernel: it stays */
            fh_pages_count(pages, 0, dirty_pages);
            if (fh_notice_is_wanted())
                fh_notice_put(FH_NOTICE_PURGE,
                              (void *)(pages->base + ((uintptr_t)index << FH_GRANULE_SHIFT)),
                              dirty_pages << fh_os_page_shift, fh_os_gettid());
            given += dirty_pages << fh_os_page_shift;
        }
    }
    atomic_fetch_add_explicit(&pages->purged, given, memory_order_relaxed);
    return given;
}

size_t fh_pages_purge(struct fh_pages *pages, unsigned age, size_t keep, size_t *remaining)
{
    fh_lock_acquire(&pages->lock);
    size_t given = purge(pages, age, keep >> FH_GRANULE_SHIFT);
    if (remaining != NULL)
        *remaining = pages->dirty.granules << FH_GRANULE_SHIFT;
    fh_lock_release(&pages->lock);
    return given;
}

/* ---- finding --------------------------------------------------------------------------------- */

static _Atomic(struct fh_pages *) private_pools; /* newest first; changed under registry_lock */
static struct fh_lock registry_lock = FH_LOCK_INIT;

/* The run that holds an address of the pool's, whatever its kind: its first header may be a free span's. */
static struct fh_run *find_first(const struct fh_pages *pages, const void *address,
                                 uint32_t *index_)
{
    struct fh_run *run = fh_window_run(&pages->window, address);
    uint32_t index = fh_run_index(pages, run);
    if (run->kind == FH_RUN_NONE) /* perhaps inside a huge run: those are tagged sparsely */
        run = fh_run_at(pages, (uint32_t)fh_align_down(index, FH_HUGE_SPAN));
    if (run->kind == FH_RUN_REST)
        run = fh_run_at(pages, run->head);
    *index_ = index;
    return run;
}

struct fh_run *fh_pages_find_in(const struct fh_pages *pages, const void *address)
{
    if (!fh_pages_contain(pages, address))
        return NULL;
    uint32_t index;
    struct fh_run *run = find_first(pages, address, &index);
    bool is_run = run->kind == FH_RUN_BLOCKS || run->kind == FH_RUN_LARGE;
    return is_run && index - fh_run_index(pages, run) < run->span ? run : NULL;
}

struct fh_run *fh_pages_find_guarded(const void *address)
{
    if (!fh_pages_contain(&fh_pages_main, address))
        return NULL;
    uint32_t index;
    struct fh_run *run = find_first(&fh_pages_main, address, &index);
    return run->kind == FH_RUN_GUARDED && index - fh_run_index(&fh_pages_main, run) < run->span
               ? run
               : NULL;
}

struct fh_run *fh_pages_find(const void *address, struct fh_pages **pool)
{
    struct fh_run *run = fh_pages_find_in(&fh_pages_main, address);
    struct fh_pages *found = &fh_pages_main;
    if (run == NULL) {
        /* acquire pairs with the release of fh_pages_open: the pool's window is set. */
        for (found = atomic_load_explicit(&private_pools, memory_order_acquire); found != NULL;
             found = atomic_load_explicit(&found->next_pool, memory_order_acquire)) {
            run = fh_pages_find_in(found, address);
            if (run != NULL)
                break;
        }
    }
    if (pool != NULL)
        *pool = run != NULL ? found : NULL;
    return run;
}

struct fh_pages *fh_pages_private(struct fh_pages *after)
{
    /* acquire pairs with the release of fh_pages_open. */
    return atomic_load_explicit(after != NULL ? &after->next_pool : &private_pools,
                                memory_order_acquire);
}

/* ---- opening and closing --------------------------------------------------------------------- */

int fh_pages_open(struct fh_pages *pages, const struct fh_source *source, size_t bytes)
{
    memset(pages, 0, sizeof *pages);
    if (source->capabilities & FH_SOURCE_FIXED)
        bytes = source->capacity;
    bytes = fh_align_down(bytes, FH_GRANULE);
    uintptr_t base = 0;
    while (bytes >= 2 * FH_GRANULE &&
           (base = (uintptr_t)source->reserve(source->self, bytes, FH_GRANULE)) == 0)
        bytes -= FH_GRANULE; /* a buffer that is not aligned has less */
    if (base == 0)
        return -ENOMEM;
    pages->source = source;
    pages->limit = (uint32_t)(bytes >> FH_GRANULE_SHIFT);
    pages->chunk = COMMIT_CHUNK;
    pages->reserved_bytes = bytes;
    pages->base = base;
    size_t slots = fh_pow2_ceil(pages->limit) << FH_RUN_SHIFT;
    size_t headers = fh_align_up(slots, fh_os_page_size);
    if (headers >= bytes) {
        source->release(source->self, (void *)base, bytes);
        return -ENOMEM;
    }
    int error = source->commit(source->self, (void *)base, headers);
    if (error != 0) {
        source->release(source->self, (void *)base, bytes);
        return error;
    }
    if (!(source->capabilities & FH_SOURCE_ZEROED))
        memset((void *)base, 0, headers);
    pages->window.headers = base;
    pages->window.mask = slots - sizeof(struct fh_run);
    pages->first = pages->top = pages->committed =
        (uint32_t)(fh_align_up(headers, FH_GRANULE) >> FH_GRANULE_SHIFT);
    fh_locks_register(&registry_lock, FH_FLOOR_META);
    fh_lock_acquire(&registry_lock);
    atomic_store_explicit(&pages->next_pool,
                          atomic_load_explicit(&private_pools, memory_order_relaxed),
                          memory_order_relaxed);
    /* release pairs with the acquire of fh_pages_find. */
    atomic_store_explicit(&private_pools, pages, memory_order_release);
    fh_lock_release(&registry_lock);
    return 0;
}

void fh_pages_close(struct fh_pages *pages)
{
    fh_lock_acquire(&registry_lock);
    _Atomic(struct fh_pages *) *link = &private_pools;
    while (atomic_load_explicit(link, memory_order_relaxed) != pages)
        link = &atomic_load_explicit(link, memory_order_relaxed)->next_pool;
    atomic_store_explicit(link, atomic_load_explicit(&pages->next_pool, memory_order_relaxed),
                          memory_order_release);
    fh_lock_release(&registry_lock);
    pages->source->release(pages->source->self, (void *)pages->base, pages->reserved_bytes);
}

/* ---- check ----------------------------------------------------------------------------------- */

int fh_pages_check(struct fh_pages *pages)
{
    int broken = 0;
    fh_lock_acquire(&pages->lock);
    size_t clean = 0, dirty = 0, used = 0;
    for (uint32_t index = pages->first; index < pages->top;) {
        const struct fh_run *run = fh_run_at(pages, index);
        uint32_t span = run->span;
        switch (run->kind) {
        case FH_RUN_CLEAN:
        case FH_RUN_DIRTY:
            *(run->kind == FH_RUN_CLEAN ? &clean : &dirty) += span;
            if (span == 0 || index + span > pages->top ||
                (span > 1 && (fh_run_at(pages, index + span - 1)->kind != FH_RUN_FREE_TAIL ||
                              fh_run_at(pages, index + span - 1)->head != index))) {
                fh_message("check: free span at granule %u of %u has a wrong tail", index, span);
                broken++;
            }
            if (index + span < pages->top && fh_run_at(pages, index + span)->kind == run->kind) {
                fh_message("check: free spans at granule %u and %u were not merged", index,
                           index + span);
                broken++;
            }
            break;
        case FH_RUN_BUSY:
            break;
        case FH_RUN_BLOCKS:
        case FH_RUN_LARGE:
        case FH_RUN_GUARDED:
            used += span;
            for (uint32_t i = index + 1; i < index + span; i = next_tagged(index, i, span))
                if (fh_run_at(pages, i)->kind != FH_RUN_REST ||
                    fh_run_at(pages, i)->head != index) {
                    fh_message("check: granule %u does not lead to its run %u", i, index);
                    broken++;
                }
            break;
        default: /* being set up or taken down by its holder, or a hole */
            span = 1;
        }
        if (span == 0)
            break;
        index += span;
    }
    if (clean != pages->clean.granules || dirty != pages->dirty.granules) {
        fh_message("check: bins count %zu clean, %zu dirty granules; the window has %zu, %zu",
                   pages->clean.granules, pages->dirty.granules, clean, dirty);
        broken++;
    }
    if (used > pages->used) {
        fh_message("check: %zu granules in runs, %zu counted", used, pages->used);
        broken++;
    }
    fh_lock_release(&pages->lock);
    return broken;
}
