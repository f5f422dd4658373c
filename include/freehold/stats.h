/*
 * stats.h: what the heap has done, and its settings.
 *
 * Counts are kept per thread at refills, not per call: they lag by at most what the threads' free
 * lists hold, and bytes are usable bytes. Reading takes the heaps' locks for a moment; it never
 * stops a thread.
 *
 *     struct fh_stats stats = {.size = sizeof stats};
 *     fh_stats(&stats);
 *     printf("%zu live bytes\n", stats.live_bytes);
 *     fh_ctl_set("decay", "100");
 */
#ifndef FREEHOLD_STATS_H
#define FREEHOLD_STATS_H

#include "freehold/types.h"

FH_BEGIN_DECLS

#define FH_STATS_CLASSES 96

struct fh_stats_class {
    size_t block_size; /* usable bytes of its blocks; 0 for the class of large blocks */
    uint64_t allocs;
    uint64_t frees;
    size_t runs;
};

struct fh_stats {
    size_t size; /* sizeof(struct fh_stats) of the caller */
    uint64_t allocs, frees, remote_frees;
    size_t live_blocks, live_bytes, peak_live_bytes;
    size_t footprint, peak_footprint; /* pages taken and not given back */
    size_t reserved;                  /* address space */
    uint64_t purged_bytes;            /* given back so far */
    uint64_t large_allocs, large_frees;
    size_t heaps, threads;
    unsigned class_count;
    struct fh_stats_class classes[FH_STATS_CLASSES];
};

/* Fills *stats. 0, or -EINVAL when stats->size is not known. O(heaps × classes). Thread-safe. */
FH_API int fh_stats(struct fh_stats *stats);
/* The same where a lock may be held by the caller itself, as in a signal handler: waits at most ns
 * for each; -EBUSY then. */
FH_API int fh_stats_try(struct fh_stats *stats, uint64_t ns);

/* Calls visit for each thread's heap. Stops and returns its value when that is not 0. */
struct fh_stats_thread {
    int tid;
    bool is_alive;
    uint64_t allocs, frees, remote_frees;
};
FH_API int fh_stats_threads(int (*visit)(void *context, const struct fh_stats_thread *thread),
                            void *context);

/* Writes a table for people (fd), or one JSON object on one line (docs/stats-json.md). 0 or a
 * negative errno. No allocation. */
FH_API int fh_stats_print(int fd);
FH_API int fh_stats_json(int fd);

/* Settings by name, the same as in FREEHOLD="…": decay (ms; 0: at once; -1: never), huge
 * (auto|always|never), on_foreign (abort|warn|ignore|forward), on_error (abort|continue|exit=N). A
 * change takes effect at each thread's next refill. 0, -ENOENT for a name that does not exist,
 * -EINVAL for a value. get writes the terminated value: its length, or -ENOENT, -ERANGE; it also
 * knows stats, the file that this process's record will be appended to (empty: none). */
FH_API int fh_ctl_set(const char *name, const char *value);
FH_API int fh_ctl_get(const char *name, char *value, size_t size);

FH_END_DECLS
#endif
