/*
 * scan.h: who points where.
 *
 * A *scan* looks at the whole process while it stands still, takes every word that could be an address
 * for one (conservatively), and says which blocks nothing points to. The leak scan, the collectors and
 * the sweep of freed blocks are scans. What it is made of:
 *
 *   owner   who hands out blocks (the heap, lib/guard); lists them when a scan asks
 *   area    blocks of one size side by side: a run. Two bits a block, out of line:
 *             live    handed out: its words count
 *             wanted  looked for, and nothing found so far that points to it
 *   root    memory that counts whoever points to it: globals, stacks, registers, thread-local data,
 *           mappings of the program's own
 *
 * Two ways to look. A *trace* begins at the roots and follows what they reach (wanted is every live
 * block; what is left afterwards is not reachable). A *sweep* reads the roots and all live blocks once,
 * in order, and follows nothing: cheaper, and what is left is pointed to by nobody at all.
 *
 * And two ways to stand still: fh_scan_run stops the threads for as long as it takes;
 * fh_scan_snapshot stops them for a fork, and the copy scans while the program goes on. What nothing
 * points to at one instant nothing will point to later: an address can only be copied from where it
 * is.
 *
 *     static void work(struct fh_scan *scan, void *unused) { fh_scan_trace(scan); }
 *     const struct fh_scan_options options = {.roots = FH_SCAN_ALL_ROOTS};
 *     struct fh_scan *scan = fh_scan_run(&options, work, NULL, &error);
 *     if (scan != NULL && fh_scan_gaps(scan) == 0)
 *         fh_scan_each_wanted(scan, tell, NULL);
 *
 * When not to use it. Addresses that are not there as aligned words (compressed, XORed, in a
 * descriptor of the kernel, in another process) are not seen: whoever acts on "nothing points there"
 * must be safe when something does. Not after seccomp: threads are found in /proc.
 *
 * Source: H. Boehm, M. Weiser, "Garbage Collection in an Uncooperative Environment" (1988); for the
 * sweep M. Erdős, S. Ainsworth, T. Jones, "MineSweeper" (ASPLOS 2022).
 */
#ifndef FH_SCAN_SCAN_H
#define FH_SCAN_SCAN_H

#include "base/core/macros.h"

struct fh_scan;

enum fh_scan_roots {
    FH_SCAN_GLOBALS = 1 << 0,  /* writable segments of the program and its libraries */
    FH_SCAN_STACKS = 1 << 1,   /* of all threads, from the stack pointer up, and their registers */
    FH_SCAN_TLS = 1 << 2,      /* thread-local variables and what pthread_setspecific was given */
    FH_SCAN_MAPPINGS = 1 << 3, /* the program's own private mappings, coroutines' stacks in them */
    FH_SCAN_ALL_ROOTS = (1 << 4) - 1,
};

enum fh_scan_flag {
    FH_SCAN_BEGINS_ONLY = 1 << 0, /* a word counts only when it is the address of a block's first
                                   * byte; without, any address inside counts */
    FH_SCAN_UNDISTURBED =
        1 << 1, /* threads that wait in a system call get no signal: the registers that a
                                   * function keeps for its caller are not known then */
};

struct fh_scan_options {
    unsigned roots;   /* enum fh_scan_roots */
    unsigned flags;   /* enum fh_scan_flag */
    uint64_t stop_ns; /* how long to wait for threads that can't be stopped; 0: 100 ms */
};

/* Why a scan is not the whole truth; what it did not find may be there all the same. */
enum fh_scan_gap {
    FH_SCAN_GAP_THREADS = 1 << 0, /* a thread ran on, with all signals blocked, or can't be seen */
    FH_SCAN_GAP_MEMORY = 1 << 1,  /* some memory could not be read */
    FH_SCAN_GAP_SPACE = 1 << 2,   /* no memory for the scan's own notes */
    FH_SCAN_GAP_ENDED = 1 << 3,   /* the copy of the process ended early */
};

/* ---- scanning ---------------------------------------------------------------------------------- */

/* Stops all other threads, lists roots and blocks, calls work(scan, context), lets them go on. Every lock of
 * the house is held meanwhile: work calls the functions of this header and no others that allocate or
 * lock. The caller holds none. NULL when that can't be, and *error is -EPERM, -EACCES, -ENOENT (no /proc, a
 * seccomp filter), -EBUSY (no signal is free), -ENOMEM; work was not called then. Once at a time: others
 * wait. What was found stays until fh_scan_forget. */
struct fh_scan *fh_scan_run(const struct fh_scan_options *options,
                            void (*work)(struct fh_scan *scan, void *context), void *context,
                            int *error);

/* The same in a copy of the process: returns when the copy is made, and what is found is there when
 * fh_scan_is_done. The copy dies with the calling thread. The scan is the caller's: not thread-safe. */
struct fh_scan *fh_scan_snapshot(const struct fh_scan_options *options,
                                 void (*work)(struct fh_scan *scan, void *context), void *context,
                                 int *error);
bool fh_scan_is_done(struct fh_scan *scan);
void fh_scan_wait(struct fh_scan *scan);
/* Frees it; ends the copy first when it is not done. is_forked: in a forked child, whose parent has the
 * copy. */
void fh_scan_forget(struct fh_scan *scan, bool is_forked);
/* In a forked child, before anything else here. */
void fh_scan_forked(void);

/* For work. */
void fh_scan_trace(struct fh_scan *scan);
/* Looks for the block at this address in the sweep; false when it is none of a listed area. */
bool fh_scan_want(struct fh_scan *scan, uintptr_t block);
void fh_scan_sweep(struct fh_scan *scan);

/* Whether nothing was found that points to the block: not reached (trace), or wanted and not pointed
 * to (sweep). */
bool fh_scan_is_wanted(const struct fh_scan *scan, uintptr_t block);
/* Each such block, in no order. */
void fh_scan_each_wanted(const struct fh_scan *scan,
                         void (*visit)(void *context, uintptr_t block, size_t size), void *context);
unsigned fh_scan_gaps(const struct fh_scan *scan); /* of enum fh_scan_gap; 0: the whole truth */

struct fh_scan_counts {
    unsigned threads;              /* other threads that stood still */
    unsigned without_registers;    /* of these, waiting in a system call and left alone */
    size_t root_bytes, live_bytes; /* read */
    uint64_t stopped_ns;           /* from the first thread's stop to the last one's go */
};
void fh_scan_count(const struct fh_scan *scan, struct fh_scan_counts *out);

/* ---- owners ------------------------------------------------------------------------------------ */

struct fh_scan_owner {
    const char *name;
    /* Takes, and gives back, locks that fh_locks_register does not know. Owners are asked in the order in
     * which they registered, and all before fh_locks_hold_all. May be NULL. */
    void (*hold)(void);
    void (*release)(void);
    /* Adds every block: all threads stand still, all locks are held, perhaps in a copy of the process. A thread
     * may have been stopped between any two instructions of a path that takes no lock. */
    void (*list)(struct fh_scan *scan);
    /* Whether a thread is a helper of the owner's, which is not stopped: it holds no addresses of blocks and
     * stops at the locks. May be NULL. */
    bool (*is_helper)(int tid);
    struct fh_scan_owner *next; /* the registry's */
};
/* Once, and for good; ignored the second time. */
void fh_scan_register(struct fh_scan_owner *owner);

/* For list. `count` blocks of `stride` bytes side by side, none of them live yet; NULL when there is no
 * space for the scan's notes (which the scan then tells). */
struct fh_scan_area *fh_scan_add(struct fh_scan *scan, uintptr_t base, size_t stride,
                                 uint32_t count);
/* Bits of 64 blocks from 64 * word on: live ones, and those that a sweep looks for. */
void fh_scan_bits(struct fh_scan_area *area, uint32_t word, uint64_t live, uint64_t wanted);
/* Some of its pages may be inaccessible, or untouched and are to stay so. Blocks over 32 KiB are read so anyway. */
void fh_scan_by_pages(struct fh_scan_area *area);
void fh_scan_live(struct fh_scan_area *area, uint32_t first, uint32_t count);
/* The block at this address is free after all; addresses that are no block are ignored. */
void fh_scan_not_live(struct fh_scan *scan, uintptr_t block);
/* Memory that counts like a root, or never, whatever it lies in. */
void fh_scan_add_root(struct fh_scan *scan, uintptr_t low, uintptr_t high);
void fh_scan_exclude(struct fh_scan *scan, uintptr_t low, uintptr_t high);

#endif
