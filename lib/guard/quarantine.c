/*
 * The quarantine: freed slots wait before they are handed out again.
 *
 * Each thread has a ring of the slots that it freed, first in, first out, bounded by a number of slots and by their
 * bytes. As long as a slot waits, a use after free finds zeroes (or debug mode's pattern) and harms nobody, a
 * second free is seen, and what was written is found when the slot is used again.
 *
 * In hardened mode the setting is what each thread may let wait; in debug mode, where it is large, the threads share it.
 *
 * With uaf=sweep who has waited is not released but handed to the sweep, which releases what nobody points to.
 */
#include "guard/thread.h"
#include "pages/pages.h"

enum {
    SLOTS_HARDENED =
        1 << 10, /* 8 KiB of ring: more would push the program's data out of the cache */
    SLOTS_DEBUG = 1 << 16,
};

#define SHARE_LEAST ((size_t)256 << 10)

void fh_quarantine_share(struct fh_quarantine *quarantine, unsigned threads)
{
    const size_t all = fh_guard_settings.quarantine;
    quarantine->budget = fh_guard_settings.mode == FH_MODE_DEBUG
                             ? fh_max(all / threads, fh_min(all, SHARE_LEAST))
                             : all;
}

bool fh_quarantine_start(struct fh_quarantine *quarantine)
{
    const uint32_t slots =
        fh_guard_settings.mode == FH_MODE_DEBUG ? SLOTS_DEBUG : (uint32_t)SLOTS_HARDENED;
    quarantine->budget = fh_guard_settings.quarantine;
    if (quarantine->budget == 0)
        return true;
    quarantine->ring = fh_meta_map(slots * sizeof(uintptr_t));
    quarantine->mask = slots - 1;
    return quarantine->ring != NULL;
}

/* An entry is an address and, in the bits that no address has, the slot's class: who waited is released without a
 * look at it, which would be a look at cold memory. */
#define CLASS_SHIFT 56

static void release_oldest(struct fh_guard_thread *mine)
{
    struct fh_quarantine *quarantine = &mine->quarantine;
    const uintptr_t entry = quarantine->ring[quarantine->head & quarantine->mask];
    const unsigned class_index = (unsigned)(entry >> CLASS_SHIFT);
    quarantine->head++;
    quarantine->count--;
    quarantine->bytes -= fh_class_size(class_index);
    fh_slot_release(mine, (void *)(entry & (((uintptr_t)1 << CLASS_SHIFT) - 1)), class_index);
}

void fh_quarantine_put(struct fh_guard_thread *mine, void *block, unsigned class_index)
{
    struct fh_quarantine *quarantine = &mine->quarantine;
    const size_t bytes = fh_class_size(class_index);
    if (FH_UNLIKELY(quarantine->ring == NULL || bytes > quarantine->budget)) {
        fh_slot_release(mine, block, class_index);
        return;
    }
    quarantine->ring[(quarantine->head + quarantine->count) & quarantine->mask] =
        (uintptr_t)block | (uintptr_t)class_index << CLASS_SHIFT;
    quarantine->count++;
    quarantine->bytes += bytes;
    while (quarantine->count > quarantine->mask || quarantine->bytes > quarantine->budget)
        release_oldest(mine);
}
