/*
 * fragmentation.h: how much memory an allocator loses, and to what.
 *
 * Use it in tests and measurements, to choose an allocator for a workload or to see why one runs full. It
 * looks through fh_allocator's walk and measure, so it works for every manager here and for yours. Do
 * not call it in a program's loop: a look visits every block.
 *
 *     struct fh_account account;
 *     fh_account_init(&account, &(struct fh_account_options){.inner = fh_tlsf_allocator(&tlsf)});
 *     struct fh_allocator a = fh_account_allocator(&account);      // use it instead of the inner one
 *     …
 *     struct fh_fragmentation now = {.size = sizeof now};
 *     fh_account_look(&account, &now);                             // now.internal, now.external, …
 *     fh_account_destroy(&account);                                // and the inner one
 *
 * Words. *Requested* bytes are what callers asked for; managers round them up to *usable* bytes and keep
 * *metadata* beside them. Internal fragmentation is what rounding and metadata cost; external is free memory
 * that is in pieces too small to be of use. The two are shares of different things and are not added; what
 * both come to over a run is peak footprint ÷ peak live.
 *
 * Sources: Wilson, Johnstone, Neely, Boles, Dynamic Storage Allocation: A Survey and Critical Review (IWMM
 * 1995), which says why a single number can't be enough; Johnstone and Wilson, The Memory Fragmentation
 * Problem: Solved? (ISMM 1998), measure 4 of which is peak footprint ÷ peak live.
 */
#ifndef FREEHOLD_FRAGMENTATION_H
#define FREEHOLD_FRAGMENTATION_H

#include "freehold/allocator.h"
#include "freehold/place.h"
#include "freehold/types.h"

FH_BEGIN_DECLS

#define FH_FRAGMENTATION_BINS 48 /* of the histogram; the last one has all larger blocks too */

/* One look at an allocator. Bytes, counts, and shares between 0 and 1. */
struct fh_fragmentation {
    size_t size; /* sizeof(struct fh_fragmentation) of the caller */
    size_t live_blocks;
    size_t requested_bytes; /* of the live blocks: from the account or the caller; 0: not known */
    size_t usable_bytes;    /* of the live blocks */
    size_t metadata;
    size_t free_blocks;
    size_t free_bytes;
    size_t largest_free;
    size_t footprint;
    size_t peak_footprint; /* 0 where the manager does not know it */
    size_t peak_requested; /* the most that was live at once; 0: not known */
    /* (usable + metadata − requested) ÷ requested; may be over 1. 0 where nothing is known to be live. */
    double internal;
    double metadata_share; /* metadata ÷ footprint */
    /* 1 − largest free ÷ all free: 0 when all free memory is one block. */
    double external;
    /* 1 − √Σf² ÷ Σf over the free blocks' sizes f: as external, but every block counts by its size; n equal
     * blocks give 1 − 1/√n. */
    double scatter;
    double peak_ratio; /* peak footprint ÷ peak requested; 0: not known */
    /* Free blocks of 2^i to 2^(i+1) − 1 bytes, and those of size 0 in the first. */
    size_t free_count[FH_FRAGMENTATION_BINS];
    size_t free_sum[FH_FRAGMENTATION_BINS]; /* their bytes */
};

/* Looks at `a`; out->size must be set. `requested` is what the caller knows to be live, 0 if nothing: then
 * internal is 0. 0 or a negative errno (-EINVAL: a size that is not known; what measure and walk return).
 * Not thread-safe beyond what the allocator is. O(blocks). */
FH_API int fh_fragmentation_look(const struct fh_allocator *a, size_t requested,
                                 struct fh_fragmentation *out);

/* ---- an account of what was asked for ---------------------------------------------------------- */

/*
 * An allocator around another one that notes what each block was asked for, in a table of its own beside the
 * memory it watches: the inner allocator sees the same calls as without it. The table takes 16 bytes a
 * live block, twice that when it has just grown. An allocator that needs sizes on free needs none through
 * the account. Not thread-safe.
 */
struct fh_account_options {
    struct fh_allocator inner;
    struct fh_place_options table; /* where the table goes; a buffer is never outgrown */
};

/* The caller's; counters may be read. */
struct fh_account {
    struct fh_allocator inner;
    struct fh_place_options table_options;
    struct fh_ground table; /* of entries {address, size and alignment} */
    size_t slots;           /* of the table, a power of two */
    size_t live_blocks;
    size_t live_requested;
    size_t peak_requested; /* the most that was requested at once */
    size_t peak_blocks;
    unsigned long long allocations, frees, resizes, failures;
    unsigned long long requested; /* by all calls together */
};

/* 0, -EINVAL (no inner allocator), -ENOMEM. */
FH_API int fh_account_init(struct fh_account *account, const struct fh_account_options *options);
/* The account as an allocator. Its calls are the inner one's, plus O(1) expected for the table. Failure to grow
 * the table is ENOMEM of the request. destroy destroys the inner allocator too. */
FH_API struct fh_allocator fh_account_allocator(struct fh_account *account);
/* As fh_fragmentation_look at the inner allocator, with what is known here. */
FH_API int fh_account_look(struct fh_account *account, struct fh_fragmentation *out);
/* What was asked for at `block`; 0 when it is no live block (or was asked for as 0). O(1) expected. */
FH_API size_t fh_account_requested(const struct fh_account *account, const void *block);
/* Destroys the inner allocator and gives the table back. */
FH_API void fh_account_destroy(struct fh_account *account);

/* ---- the smallest arena that will do ----------------------------------------------------------- */

/* Runs a workload from its beginning in `capacity` bytes: true when every request was met. */
typedef bool (*fh_workload)(void *context, size_t capacity);

/* The smallest multiple of `step` (≥ 1) in [low, high] that the workload fits into, by binary search:
 * log2((high − low) ÷ step) runs. Divided by peak live bytes it is the one number of an allocator and a
 * workload. A capacity that fits may have a larger one above it that does not (placement is not monotone,
 * as in Graham's and Belady's anomalies): then the answer is a border of the two, still one that fits.
 * -ENOMEM when `high` does not fit, -EINVAL for a wrong range. */
FH_API int fh_minimum_capacity(fh_workload workload, void *context, size_t low, size_t high,
                               size_t step, size_t *out);

/* The least memory that any allocator which does not move blocks needs, at worst, for requests of powers of
 * two up to `largest` of which at most `live` bytes are live: live × (1 + log2(n)/2) − n + 1 in units of
 * `unit` bytes, the smallest request, where n = largest ÷ unit. Robson, An Estimate of the Store Size
 * Necessary for Dynamic Storage Allocation, JACM 18(3), 1971; Bounds for Some Functions Concerning
 * Dynamic Storage Allocation, JACM 21(3), 1974, for best possible placement. 0 for sizes that are none. */
FH_API size_t fh_robson_bound(size_t live, size_t largest, size_t unit);

FH_END_DECLS
#endif
