/*
 * The table of protected ranges.
 *
 * A row is claimed by a compare-and-swap of its state, filled, and published by storing the state
 * that it shall have (release, pairs with the acquire of whoever explains). It is freed by storing
 * FREE. A reader that meets a row in the middle of being freed and taken again may pair one region's
 * bounds with another's state: it says a wrong sentence in a report about an address whose
 * region is being given back, and touches nothing.
 */
#include "guard/regions.h"

#define ROWS 256 /* 8 KiB; programs have a handful */

static struct {
    _Atomic int state; /* enum fh_region_state */
    _Atomic uintptr_t low, high;
    _Atomic size_t guard;
} rows[ROWS];

int fh_region_note(uintptr_t low, uintptr_t high, size_t guard, enum fh_region_state state)
{
    for (int i = 0; i < ROWS; i++) {
        int expected = FH_REGION_FREE;
        if (!atomic_compare_exchange_strong_explicit(&rows[i].state, &expected, FH_REGION_CLAIMED,
                                                     memory_order_acquire, memory_order_relaxed))
            continue;
        atomic_store_explicit(&rows[i].low, low, memory_order_relaxed);
        atomic_store_explicit(&rows[i].high, high, memory_order_relaxed);
        atomic_store_explicit(&rows[i].guard, guard, memory_order_relaxed);
        fh_region_change(i, state);
        return i;
    }
    return -1;
}

void fh_region_change(int number, enum fh_region_state state)
{
    if (number >= 0)
        atomic_store_explicit(&rows[number].state, (int)state, memory_order_release);
}

void fh_region_forget(int number)
{
    fh_region_change(number, FH_REGION_FREE);
}

static const char *explain(int state, bool is_guard)
{
    if (is_guard)
        return "the address lies in a guard page beside protected memory (freehold/protect.h, "
               "code.h): "
               "the access missed the region's bounds";
    switch (state) {
    case FH_REGION_CLOSED:
        return "the address lies in protected memory that is inaccessible now: access it between "
               "fh_protect_begin_read or _write and its end";
    case FH_REGION_READABLE:
        return "the address lies in protected memory that is read-only now: write between "
               "fh_protect_begin_write and fh_protect_end_write, if it is not sealed";
    case FH_REGION_CODE:
        return "the address lies in memory for code, which is never written where it is executed: "
               "write "
               "with fh_code_write";
    default:
        return NULL;
    }
}

const char *fh_region_explain(const void *address)
{
    uintptr_t at = (uintptr_t)address;
    for (int i = 0; i < ROWS; i++) {
        int state = atomic_load_explicit(&rows[i].state, memory_order_acquire);
        uintptr_t low = atomic_load_explicit(&rows[i].low, memory_order_relaxed);
        uintptr_t high = atomic_load_explicit(&rows[i].high, memory_order_relaxed);
        if (state <= FH_REGION_CLAIMED || at < low || at >= high)
            continue;
        size_t guard = atomic_load_explicit(&rows[i].guard, memory_order_relaxed);
        return explain(state, at - low < guard || high - at <= guard);
    }
    return NULL;
}
