/*
 * known.h: stacks that were walked before, recognised without a walk.
 *
 * A walk from a given return address and stack pointer reads certain words of the stack: return addresses, and
 * saved frame pointers where a frame was found by one. If all of them are what they were, the walk would be the same.
 * So a table by return address and stack pointer keeps those words of each walk, and what its owner wants to
 * know of it (a number); one load and one comparison a frame, with no branch between them, replace the walk. A
 * function that allocates for others is called from many places at one depth: WAYS walks are kept side by side.
 *
 * Entries are made only of walks that stayed on the thread's own stack and came to its end: all of an entry's words are
 * readable whenever the stack pointer is the same. The words are in a bump area; when that is full all entries are
 * forgotten.
 *
 *     uint32_t number;
 *     if (!fh_known_find(known, pc, sp, fp, salt, FH_KNOWN_ALL, &number)) {
 *         count = fh_stack_capture_at(cache, pc, sp, fp, frames, MOST);
 *         number = …;
 *         fh_known_keep(known, cache, sp, frames, count, MOST, salt, number);
 *     }
 *
 * One thread uses a table; a signal handler on it must not, while it is in use.
 */
#ifndef FH_STACK_KNOWN_H
#define FH_STACK_KNOWN_H

#include "base/core/bits.h"
#include "stack/stack.h"

struct fh_known_entry {
    uintptr_t sp, pc;
    uintptr_t fp, fp_mask; /* the caller's frame pointer; mask 0: the walk did not use it */
    uint32_t salt, number;
    uint32_t count;
    uint32_t words; /* index into the area: `count` values, then as many offsets from sp */
};

struct fh_known {
    uint64_t *area; /* area_words of them; the owner's memory */
    uint32_t area_words, area_used;
    unsigned bits; /* log2 of the entries; at least FH_KNOWN_WAY_BITS */
    uint32_t turn; /* which way is replaced next */
    struct fh_known_entry *entries;
};

#define FH_KNOWN_ALL      UINT32_MAX
#define FH_KNOWN_WAY_BITS 2u

/* The first of the ways where such a walk may be. */
FH_INLINE struct fh_known_entry *fh_known_at(const struct fh_known *known, uintptr_t pc,
                                             uintptr_t sp, uint32_t salt)
{
    const uint64_t key = (sp >> 3) * 31 + pc * 7 + salt;
    const uint64_t set = key * 0x9e3779b97f4a7c15u >> (64 + FH_KNOWN_WAY_BITS - known->bits);
    return &known->entries[set << FH_KNOWN_WAY_BITS];
}

/* Whether the first `most` words of the entry, innermost first, are what they were. */
FH_INLINE bool fh_known_holds(const struct fh_known *known, const struct fh_known_entry *entry,
                              uint32_t most)
{
    const uint64_t *values = known->area + entry->words;
    const uint32_t *offsets = (const uint32_t *)(values + entry->count);
    const uint32_t count = entry->count < most ? entry->count : most;
    uint64_t difference = 0;
    for (uint32_t i = 0; i < count; i++)
        difference |= *(const uint64_t *)(entry->sp + offsets[i]) ^ values[i];
    return difference == 0;
}

/* `salt` tells calls apart that are not the same though their stacks are. False: walk. */
FH_INLINE bool fh_known_find(const struct fh_known *known, uintptr_t pc, uintptr_t sp, uintptr_t fp,
                             uint32_t salt, uint32_t most, uint32_t *number)
{
    const struct fh_known_entry *entry = fh_known_at(known, pc, sp, salt);
    for (unsigned i = 0; i < 1u << FH_KNOWN_WAY_BITS; i++, entry++)
        if (FH_LIKELY(entry->sp == sp && entry->pc == pc && entry->salt == salt &&
                      ((entry->fp ^ fp) & entry->fp_mask) == 0 &&
                      fh_known_holds(known, entry, most))) {
            *number = entry->number;
            return true;
        }
    return false;
}

/* The innermost word of the walk that was kept last from there: its offset from sp, and what it was. */
FH_INLINE bool fh_known_first(const struct fh_known *known, uintptr_t pc, uintptr_t sp,
                              uint32_t *offset, uintptr_t *word)
{
    const struct fh_known_entry *entry = fh_known_at(known, pc, sp, 0);
    for (unsigned i = 0; i < 1u << FH_KNOWN_WAY_BITS; i++, entry++)
        if (entry->sp == sp && entry->pc == pc && entry->count != 0 &&
            fh_known_holds(known, entry, 1)) {
            *word = known->area[entry->words];
            *offset = *(const uint32_t *)(known->area + entry->words + entry->count);
            return true;
        }
    return false;
}

/* Keeps the walk that fh_stack_capture_at(cache, pc, sp, …, max) gave just now, if it can be kept. */
void fh_known_keep(struct fh_known *known, const struct fh_stack_cache *cache, uintptr_t sp,
                   const uintptr_t *frames, size_t count, size_t max, uint32_t salt,
                   uint32_t number);

#endif
