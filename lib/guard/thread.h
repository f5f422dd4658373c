/*
 * thread.h: what a thread of a guarded process has: blocks at hand, its part of the quarantine, known stacks.
 *
 * It hangs on the thread's heap (struct fh_heap.guard), and with the heap it goes from a thread that ends to one that
 * begins. Only the heap's thread touches it, inside fh_busy_begin.
 */
#ifndef FH_GUARD_THREAD_H
#define FH_GUARD_THREAD_H

#include "base/core/random.h"
#include "guard/guard.h"
#include "heap/classes.h"
#include "stack/known.h"

#define FH_AT_HAND 32u /* free slots of a class that a thread keeps */

struct fh_run;

struct fh_at_hand {
    uint32_t count;
    void *slots[FH_AT_HAND];
};

/* First in, first out; `ring` has room for a power of two. */
struct fh_quarantine {
    uintptr_t *ring;
    uint32_t mask, head, count;
    size_t bytes, budget;
};

#define FH_RECENT_BITS 8u
#define FH_PC_BITS     10u

/* Whose stack it is, as far as `word` at sp + offset says; not in debug mode. */
struct fh_recent_site {
    uintptr_t pc, sp, word;
    uint32_t offset;
    struct fh_site *site;
};

/* The last site of a return address; for when there is no budget to walk. */
struct fh_pc_site {
    uintptr_t pc;
    struct fh_site *site;
};

struct fh_guard_thread {
    uintptr_t thread; /* whose stacks `known` knows: the thread pointer */
    int tid;
    uint32_t ticks, now; /* calls; the time of one of the last (slots.c) */
    uint32_t beat;       /* slow paths so far: what happens now and then happens by it */
    struct fh_random random;
    struct fh_quarantine quarantine;
    struct fh_recent_site recent[1 << FH_RECENT_BITS];
    struct fh_pc_site by_pc[1 << FH_PC_BITS];
    uint64_t walks_ns;          /* when `walks_left` was filled last */
    uint32_t walks_left, pause; /* walks; calls until the clock is asked again */
    struct fh_known known;
    struct fh_stack_cache stack;
    size_t swept; /* bytes that wait for the sweep and are not counted there yet */
    uint64_t gap; /* bytes until the next sample, which is fenced whatever its site had */
    int64_t live; /* requested bytes that it allocated, less those that it freed */
    uint64_t allocs[FH_CLASS_COUNT + 1], frees[FH_CLASS_COUNT + 1];
    struct fh_guard_thread *next; /* all that ever were; never removed */
    struct fh_at_hand at_hand[FH_CLASS_COUNT];
};

/* The calling thread's; made at its first call; NULL: no memory. */
struct fh_guard_thread *fh_guard_mine(void);
/* All of them, for counts; each may be running. */
struct fh_guard_thread *fh_guard_threads(void);

/* The site of a call (sites.c); NULL: not known. */
struct fh_site *fh_site_of(struct fh_guard_thread *mine, const struct fh_call *call);

/* The same where the call is as one before: return address, stack pointer, and the next frame's return address. */
FH_INLINE struct fh_recent_site *fh_site_recent(struct fh_guard_thread *mine,
                                                const struct fh_call *call)
{
    const uint64_t key = (call->sp >> 3) * 31 + call->pc * 7;
    return &mine->recent[key * 0x9e3779b97f4a7c15u >> (64 - FH_RECENT_BITS)];
}

FH_INLINE struct fh_site *fh_site_quick(struct fh_guard_thread *mine, const struct fh_call *call)
{
    const struct fh_recent_site *recent = fh_site_recent(mine, call);
    if (FH_LIKELY(recent->pc == call->pc && recent->sp == call->sp &&
                  *(const uintptr_t *)(call->sp + recent->offset) == recent->word))
        return recent->site;
    return fh_site_of(mine, call);
}

/* ---- guard.c ---- */

/* From a handler that interrupted us; and what such handlers left to be freed, one by one; NULL: no more. */
void fh_guard_free_later(void *block);
void *fh_guard_next_late(void);
size_t fh_guard_usable(const void *block);

/* ---- sample.c ---- */

/* The table of fast mode; NULL: guard=off. */
const struct fh_mode *fh_sample_mode(void);

/* ---- slots.c: blocks of classes ---- */

void *fh_slot_alloc(struct fh_guard_thread *mine, size_t size, size_t align, unsigned how,
                    uint32_t site);
void fh_slot_free(struct fh_guard_thread *mine, struct fh_run *run, void *block, size_t size,
                  size_t align, unsigned how, uint32_t site, const struct fh_call *call);
/* The same in the mode that asks least: hardened, without a sweep or a limit (fh_guard_settings.is_plain). A class
 * up to FH_CLASS_STEP_MAX, no alignment, of malloc's family or an operator's. */
void *fh_slot_alloc_plain(struct fh_guard_thread *mine, size_t size, unsigned how, uint32_t site);
void fh_slot_free_plain(struct fh_guard_thread *mine, struct fh_run *run, void *block, unsigned how,
                        uint32_t site, const struct fh_call *call);
/* In place: true when it could be. */
bool fh_slot_resize(struct fh_run *run, void *block, size_t size);
bool fh_slot_find(const struct fh_run *run, uintptr_t address, struct fh_guard_block *out);
/* Of the same no more than bounds checks ask (fh_guard_extent). */
bool fh_slot_extent(const struct fh_run *run, uintptr_t address, struct fh_extent *out);
/* A block that nobody may point to any more: back to whoever asks next. Any thread. */
void fh_slot_release(struct fh_guard_thread *mine, void *block, unsigned class_index);
/* Visits live (and, is_all, waiting) slots; stops when visit returns non-zero, and returns that. Takes each class's
 * lock. */
int fh_slots_walk(int (*visit)(void *context, const struct fh_guard_block *block), void *context,
                  bool is_all);
/* Canaries of live slots and the fill of waiting ones; reports what is damaged. In small steps, `runs` of them. */
void fh_slots_inspect(unsigned runs);
int fh_slots_check(void);
void fh_slots_start(void);
struct fh_scan;
/* For a scan, everything stands still: live slots, and those that wait for the sweep as wanted. */
void fh_slots_list(struct fh_scan *scan);
/* Slots that wait for the sweep and that the scan still wants are free again; all that wait when scan is NULL.
 * Returns their bytes. */
size_t fh_slots_release_swept(const struct fh_scan *scan);

/* ---- large.c: blocks of their own ---- */

void *fh_wide_alloc(struct fh_guard_thread *mine, size_t size, size_t align, unsigned how,
                    uint32_t site);
void fh_wide_free(struct fh_guard_thread *mine, struct fh_run *run, void *block, size_t size,
                  size_t align, unsigned how, uint32_t site, const struct fh_call *call);
bool fh_wide_resize(struct fh_run *run, void *block, size_t size);
bool fh_wide_find(const struct fh_run *run, uintptr_t address, struct fh_guard_block *out);
bool fh_wide_extent(const struct fh_run *run, struct fh_extent *out);
int fh_wides_walk(int (*visit)(void *context, const struct fh_guard_block *block), void *context,
                  bool is_all);
void fh_wides_start(void);
/* As those of the slots. */
void fh_wides_list(struct fh_scan *scan);
size_t fh_wides_release_swept(const struct fh_scan *scan);

/* ---- quarantine.c ---- */

/* A freed slot waits; who waited longest is released when the thread's budget is used up. */
void fh_quarantine_put(struct fh_guard_thread *mine, void *block, unsigned class_index);
/* Its part of what may wait, with so many threads. */
void fh_quarantine_share(struct fh_quarantine *quarantine, unsigned threads);
/* Room for the thread's; false: no memory, blocks are released at once. */
bool fh_quarantine_start(struct fh_quarantine *quarantine);

/* ---- sweep.c ---- */

void fh_sweep_start(void);
/* So many bytes more wait for the sweep; it begins when they are enough. No lock is held. */
void fh_sweep_count(struct fh_guard_thread *mine, size_t bytes);
void fh_sweep_forked(void);

/* ---- what is asked of a free (slots.c) ---- */

/* Everything that can be wrong with it; true: it was told, and nothing is to be done. */
bool fh_free_is_wrong(const struct fh_guard_block *block, const void *address, size_t size,
                      size_t align, unsigned how, const struct fh_call *call);
/* The name of what was called, for reports. */
const char *fh_free_name(unsigned how);

/* ---- budget.c ---- */

/* Work that is worth `ns` of the processor's time; false: the share of the time that this mode may cost is used up. */
bool fh_budget_take(uint32_t ns);

/* ---- canary.c ---- */

extern uint64_t fh_canary_word; /* for addresses that are multiples of 8 */

/* What eight bytes from `address` on are: the machine is little-endian where this is used. */
FH_INLINE uint64_t fh_canary_at(uintptr_t address)
{
    const unsigned shift = (unsigned)(address & 7) * 8;
    return fh_canary_word >> shift | fh_canary_word << (-shift & 63);
}

/* Fills [from, to) with bytes that depend on the address and on the process's secret; none is 0. */
void fh_canary_fill(uintptr_t from, uintptr_t to);
/* Whether all are there; else the first and the end of the last that are not. */
bool fh_canary_holds(uintptr_t from, uintptr_t to, uintptr_t *low, uintptr_t *high);
/* The bytes that belong there. */
void fh_canary_tell(uintptr_t from, uint8_t *bytes, size_t size);
void fh_canary_start(void);

#endif
