/*
 * What the files of lib/scan share: one scan.
 *
 * Everything of a scan lies in one piece of memory, this struct first, which is shared with the copy of
 * the process when there is one: the copy writes, the parent reads when it is done.
 */
#ifndef FH_SCAN_INTERNAL_H
#define FH_SCAN_INTERNAL_H

#include "base/core/bits.h"
#include "os/sys.h"
#include "scan/scan.h"
#include "scan/stop.h"

/* Of 64 blocks. */
struct fh_scan_marks {
    uint64_t wanted;
    uint64_t grey; /* a trace's: found, and not read yet */
};

struct fh_scan_area {
    uintptr_t base;
    size_t bytes; /* count * stride */
    size_t stride;
    uint64_t reciprocal; /* ceil(2^40 / stride) where that gives exact quotients; else 0 */
    uint32_t count;
    uint32_t number; /* areas are numbered from 0, as they were added */
    bool is_paged;   /* read through the page table: its pages may be missing or guarded */
    uint64_t *live;
    struct fh_scan_marks *marks;
    struct fh_scan_area *next;
};

/* What looking for words needs of a granule's area, side by side. */
struct fh_scan_place {
    uintptr_t base;
    uint64_t reciprocal;
    struct fh_scan_marks *marks; /* NULL: no block there is wanted */
    struct fh_scan_area *area;
};

/* A word that leads to a mark. */
struct fh_scan_candidate {
    struct fh_scan_marks *marks;
    uint64_t bit;
    struct fh_scan_area *area;
    uint64_t reciprocal;
    uintptr_t word;
    uint32_t index;
};
#define FH_SCAN_CANDIDATES 64u /* at a time: 3 KiB */

/* Areas with grey blocks, a bit each; and a bit for each word of these that is not zero. */
struct fh_scan_grey {
    uint64_t *areas, *words;
    uint32_t count; /* of words in `words` */
};

struct fh_scan_range {
    uintptr_t low, high;
};

/* A list in the scan's memory, or beside it: of at most `capacity`. */
struct fh_scan_ranges {
    struct fh_scan_range *items;
    unsigned count, capacity;
};

struct fh_scan_mapping {
    uintptr_t low, high;
    bool is_private, is_file, is_main_stack;
    bool has_stack; /* a thread's stack pointer is in it: below that it is dead */
};

enum fh_scan_phase { FH_SCAN_UNDER_WAY, FH_SCAN_DONE };

struct fh_scan {
    struct fh_scan_options options;
    _Atomic uint32_t phase; /* enum fh_scan_phase */
    unsigned gaps;          /* the copy's, while there is one */
    bool has_strays;        /* the parent's: a thread ran on */
    int pid;                /* of the copy; 0 without */
    /* Memory for notes, from `next` to `end`. */
    char *next, *end;
    size_t mapped;
    /* From a granule of the main window to the area that has memory in it. */
    struct fh_scan_area **granules;
    struct fh_scan_place *places; /* of the same granules, made when the looking begins */
    uintptr_t window_low;
    size_t window_bytes; /* of the granules in the table */
    struct fh_scan_area *areas;
    uint32_t areas_count;
    struct fh_scan_area **numbered; /* by their numbers, when the looking begins */
    /* Areas outside the window, by address; sorted by fh_scan_seal. */
    struct fh_scan_area **others;
    unsigned others_count;
    uintptr_t others_low, others_high;
    struct fh_scan_ranges roots, excluded, holes;
    struct fh_scan_mapping *mappings; /* that can be read and written, lowest first */
    unsigned mappings_count, mappings_capacity;
    int process, own_tid;     /* of the program, also in a copy of it */
    struct fh_scan_grey grey; /* the trace's */
    bool is_tracing;
    unsigned candidate_count;
    struct fh_scan_candidate candidates[FH_SCAN_CANDIDATES];
    struct fh_stop_threads stopped;
    uintptr_t own_sp; /* of the scanning thread: the registers of its callers lie above */
    struct fh_scan_counts counts;
    int pagemap; /* descriptor, or a negative errno */
};

/* What is done with words. */
typedef void fh_scan_read(struct fh_scan *scan, const uintptr_t *low, const uintptr_t *high);

/* Zeroed, 64-byte aligned, from the scan's memory; NULL, and the gap noted, when it is used up. */
void *fh_scan_note(struct fh_scan *scan, size_t size);
bool fh_scan_ranges_add(struct fh_scan *scan, struct fh_scan_ranges *ranges, uintptr_t low,
                        uintptr_t high);
void fh_scan_ranges_sort(struct fh_scan_ranges *ranges);
/* The first range that ends above the address; ranges are sorted and don't overlap. */
unsigned fh_scan_ranges_above(const struct fh_scan_ranges *ranges, uintptr_t address);

/* areas.c */
void fh_scan_hold_owners(void);
void fh_scan_release_owners(void);
void fh_scan_list_owners(struct fh_scan *scan);
bool fh_scan_is_helper(int tid);
/* All areas are there: sorts what find_outside searches. */
void fh_scan_seal(struct fh_scan *scan);
struct fh_scan_area *fh_scan_find_outside(const struct fh_scan *scan, uintptr_t address);

/* roots.c */
void fh_scan_find_roots(struct fh_scan *scan);

/* read.c: calls read with those words of [low, high) that can be read and may be other than zero. */
void fh_scan_read_paged(struct fh_scan *scan, uintptr_t low, uintptr_t high, fh_scan_read *read);

/* The area that holds the address, or NULL. */
FH_INLINE struct fh_scan_area *fh_scan_area_of(const struct fh_scan *scan, uintptr_t address)
{
    uintptr_t offset = address - scan->window_low;
    if (FH_LIKELY(offset >= scan->window_bytes)) {
        if (FH_LIKELY(address - scan->others_low >= scan->others_high - scan->others_low))
            return NULL;
        return fh_scan_find_outside(scan, address);
    }
    struct fh_scan_area *area = scan->granules[offset >> 16];
    return area != NULL && address - area->base < area->bytes ? area : NULL;
}

/* Which block of the area; the address lies in it. */
FH_INLINE uint32_t fh_scan_index(const struct fh_scan_area *area, uintptr_t address)
{
    size_t offset = address - area->base;
    if (FH_LIKELY(area->reciprocal != 0))
        return (uint32_t)((offset * area->reciprocal) >> 40);
    return area->count == 1 ? 0 : (uint32_t)(offset / area->stride);
}

FH_INLINE bool fh_scan_has_bit(const uint64_t *bits, uint32_t index)
{
    return (bits[index / 64] >> (index % 64) & 1) != 0;
}

FH_INLINE bool fh_scan_has_mark(const struct fh_scan_marks *marks, uint32_t index)
{
    return (marks[index / 64].wanted >> (index % 64) & 1) != 0;
}

#endif
