/*
 * guard.h: what the files of lib/guard share.
 *
 * A *guarded block* is one that this room hands out in place of the heap's. There are three kinds, and one
 * description of them all (struct fh_guard_block):
 *
 *   slot     in a run of blocks of one size (slots.c): state, size and call sites lie out of line, a canary fills
 *            what was not asked for, freed blocks wait in a quarantine
 *   fenced   on pages of its own between inaccessible ones (fence.c): an access outside, or after the free, traps
 *   large    a run of its own between inaccessible pages (slots.c)
 *
 * Who may call what. Nothing here allocates by malloc. guard.c is entered through struct fh_mode (heap/mode.h). Reports
 * (report.c, fault.c) may come at any moment, in a signal handler, with any lock of ours held by this
 * thread: what they call is marked "lock-free" and reads metadata only.
 */
#ifndef FH_GUARD_GUARD_H
#define FH_GUARD_GUARD_H

#include "base/core/bits.h"
#include "freehold/types.h"
#include "heap/mode.h"

#include <stdatomic.h>

/* ---- settings (settings.c) -------------------------------------------------------------------- */

enum fh_guard_mode { FH_MODE_FAST, FH_MODE_HARDENED, FH_MODE_DEBUG };

struct fh_guard_settings {
    enum fh_guard_mode mode;
    size_t guard;      /* mean bytes between sampled blocks; 1: every block; 0: off */
    size_t quarantine; /* bytes that wait, all threads together */
    bool is_zeroing;   /* freed blocks are zeroed (hardened) */
    bool is_filling;   /* new blocks are filled with a pattern, freed ones with another (debug) */
    bool is_plain;     /* what follows of hardened mode alone */
    bool is_sweeping;  /* uaf=sweep: see sweep.c */
    bool has_stacks;   /* each call's whole stack is kept, not only those of new sites */
    size_t limit;      /* bytes; 0: none (pressure.c) */
    bool has_wrappers; /* wrappers=on: libfreehold-debug checks, and its absence is told */
    bool is_failing;   /* pressure.c has failures to make */
};
#define FH_GUARD_DEFAULT ((size_t)8 << 20)
extern FH_API struct fh_guard_settings fh_guard_settings;
/* Reads no more: what follows from the settings is set. */
void fh_guard_settle(void);

/* Defined by libfreehold-debug, whose wrappers check the bounds of what is handed to the C library's functions (lib/bounds);
 * its address is NULL where that is not loaded. What is FH_PUBLIC in this file is so for that library. */
extern FH_PUBLIC const int fh_debug_is_loaded __attribute__((weak));

/* ---- blocks ------------------------------------------------------------------------------------ */

enum fh_block_state {
    FH_BLOCK_NEVER, /* memory of ours that is no block yet, or no more */
    FH_BLOCK_LIVE,
    FH_BLOCK_FREED, /* in quarantine, or given back and not handed out again */
};

struct fh_guard_block {
    uintptr_t address;
    size_t requested, usable; /* usable: to the end of its memory, canary included */
    size_t align;             /* 0: not asked for */
    enum fh_block_state state;
    unsigned family;                  /* enum fh_how */
    uint32_t alloc_stack, free_stack; /* ids of lib/stack; 0: not known */
    int alloc_thread, free_thread;    /* kernel's thread ids; 0: not known */
    uint64_t alloc_ns, free_ns;       /* CLOCK_MONOTONIC; 0: not known */
    const char *kind;                 /* "slot", "fenced", "large", "heap" */
};

/* The block in which an address lies; of one that lies in a gap, a canary or a guard page, the block that it most likely
 * belongs to (the nearest, first the one below). Every kind, the plain heap's blocks too. Lock-free. */
FH_PUBLIC bool fh_guard_find(const void *address, struct fh_guard_block *out);

/* What bounds checks ask, often: the live or freed block that holds the address. Lock-free, some 5 ns. */
struct fh_extent {
    uintptr_t low, high; /* requested bytes: [low, high) */
    bool is_live;
    /* For who remembers the answer: it holds while *word is value. It can always be read; NULL: not to be remembered. */
    const uint32_t *word;
    uint32_t value;
};
FH_PUBLIC bool fh_guard_extent(const void *address, struct fh_extent *out);

/* ---- call sites (sites.c) ---------------------------------------------------------------------- */

/*
 * A site is a stack from which the program allocates or frees. It counts how often, by which budgets decide.
 * Numbers from 1; 0: not known, or all FH_SITES_MOST are taken.
 */
#define FH_SITE_BITS  20u
#define FH_SITES_MOST (((uint32_t)1 << FH_SITE_BITS) - 1)

struct fh_site {
    uint32_t stack;          /* fh_stack id */
    _Atomic uint32_t count;  /* allocations; approximate with threads */
    _Atomic uint32_t fenced; /* of them, between page guards */
    uint32_t number;
    uint32_t ask_at; /* the count at which a fence is thought of again */
};
uint32_t fh_site_of_stack(uint32_t stack);
struct fh_site *fh_site_at(uint32_t number); /* NULL for 0. Lock-free */
uint32_t fh_site_stack(uint32_t number);     /* lock-free */

/* ---- fenced blocks (fence.c) -------------------------------------------------------------------- */

/* NULL: no budget, no slot, or too large. align 0: what the size needs. is_left: at the beginning of its pages, so that what is
 * below traps; else at their end. Zero-filled. */
void *fh_fence_alloc(size_t size, size_t align, unsigned how, uint32_t stack, bool is_left);
/* An address that fh_fence_owns; reports what is wrong with it. The rest as in struct fh_mode; stack: of
 * this call, kept with the block. */
void fh_fence_free(void *block, size_t size, size_t align, unsigned how, uint32_t stack,
                   const struct fh_call *call);
bool fh_fence_owns(const void *address);                             /* lock-free */
bool fh_fence_find(const void *address, struct fh_guard_block *out); /* lock-free */
/* Visits every live one; stops when visit returns non-zero, and returns that. Lock-free. */
int fh_fence_walk(int (*visit)(void *context, const struct fh_guard_block *block), void *context);
bool fh_fence_extent(const void *address, struct fh_extent *out); /* lock-free, some 5 ns */
/* Whether the budget of the site allows one now, or it is a sample; if so it is counted. NULL: a site that is not
 * known. */
bool fh_fence_wanted(struct fh_site *site, bool is_sample);
/* For a sweep (sweep.c), as for slots: lists the slots, everything stands still; and takes back what it released. */
struct fh_scan;
void fh_fences_list(struct fh_scan *scan);
size_t fh_fences_release_swept(const struct fh_scan *scan);
/* Bytes that a slot counts for while it waits: what is known of it, and its entries in the kernel's tables. */
#define FH_FENCE_SWEPT 256u
/* The same as the heap's walk shows them, of one thread (0: of all), until visit returns non-zero, and returns that. */
int fh_fence_walk_heap(int thread, int (*visit)(void *context, const struct fh_block *block),
                       void *context);
/* In the child of a fork, before anything else here. */
void fh_fence_forked(void);

struct fh_fence_counts {
    size_t live, freed, retired, never; /* slots: in use; waiting; given up; not used yet */
    size_t live_pages;                  /* accessible ones */
    size_t mappings;                    /* of the process, that slots cost; 0 with guard markers */
    size_t chunks;
};
/* Reports live blocks beside which something was written: at the process's end. */
void fh_fence_inspect(void);
void fh_fence_counts(struct fh_fence_counts *counts);
/* Number of broken invariants, each said. While no other thread is inside. */
int fh_fence_check(void);

/* ---- faults (fault.c) ----------------------------------------------------------------------------- */

void fh_fault_start(void);  /* once */
void fh_fault_thread(void); /* a thread's first call, inside fh_busy_begin */

/* ---- protected memory (protect.c, code.c) ------------------------------------------------------- */

/* What is wrong with an access to an address in memory of freehold/protect.h or code.h, as a sentence
 * for a report's `detail`; NULL: it lies in none. Lock-free. */
const char *fh_region_explain(const void *address);

/* ---- executable stacks (executable.c) ------------------------------------------------------------ */

/* In hardened mode: warns, once a process, when the program makes stacks executable; or the module in which a
 * return address lies, that of a call from a place not known yet. */
void fh_executable_stack_start(void);
void fh_executable_stack_look(uintptr_t pc);
/* The program makes the memory at this address executable: warns, once, when it is the heap's. */
FH_API void fh_executable_heap_look(const void *address);

/* ---- errors (report.c) --------------------------------------------------------------------------- */

enum fh_access { FH_ACCESS_NONE, FH_ACCESS_READ, FH_ACCESS_WRITE, FH_ACCESS_UNKNOWN };

struct fh_error {
    const char *kind;  /* "heap-buffer-overflow" …: architecture's words */
    uintptr_t address; /* accessed, or given to free */
    size_t size;       /* bytes of the access; 0: not known */
    enum fh_access access;
    const char
        *function; /* "free", "memcpy" …: who found it; NULL: an instruction of the program */
    const void *context;                /* ucontext of a fault; or NULL */
    const struct fh_call *call;         /* or where to walk from; or NULL: here */
    const struct fh_guard_block *block; /* NULL: fh_guard_find(address) */
    const char *detail;                 /* one sentence more; or NULL */
    /* Found later than it happened: the bytes that are not what was left there, and when they were last right. */
    uintptr_t damage_low, damage_high;
    uint64_t damaged_after_ns; /* the block was whole then; 0: since its allocation (or free) */
    const uint8_t *expected;   /* what was left at damage_low: the first 64 bytes; NULL: not told */
    /* One more stack (lib/stack's id; 0: none), and the words before "here:" that say what it is. */
    uint32_t origin_stack;
    const char *origin;
};

/* Tells it and does what on_error says: returns only with continue, or when it is suppressed. */
FH_PUBLIC void fh_error(const struct fh_error *error);
/* How many errors were not told, if any. */
void fh_error_sum_up(void);
/* At the process's end, when its own handlers have run: what only the end shows. */
FH_API void fh_guard_end(void);

/* Settings. report=PATH: one line of JSON for each error is appended there; %p in it is the process id.
 * -ENAMETOOLONG; "" ends it. */
int fh_report_to(const char *path);
/* suppress=FILE: errors that are counted, not told (suppress.c). A negative errno when it can't be read; that, and
 * each line that can't be understood, is said in a line. */
int fh_suppress_from(const char *path);

/*
 * What debug mode fills blocks with, a word at a time: as a pointer it is one that the processor refuses (neither half
 * of the address space has such upper bits, with 4 and with 5 levels of page tables), and bits 16 to 47 say whose it
 * is: the id of the stack that allocated, or freed. The low bits leave room to both sides for offsets of fields.
 */
#define FH_FILL_NEW_TAG      ((uint64_t)0xa5f5)
#define FH_FILL_FREED_TAG    ((uint64_t)0xdfdf)
#define FH_FILL(tag, stack)  ((tag) << 48 | (uint64_t)(uint32_t)(stack) << 16 | 0xa5f5)
#define FH_FILL_NEW(stack)   FH_FILL(FH_FILL_NEW_TAG, stack)
#define FH_FILL_FREED(stack) FH_FILL(FH_FILL_FREED_TAG, stack)
#define FH_FILL_STACK(word)  ((uint32_t)((uint64_t)(word) >> 16))

#endif
