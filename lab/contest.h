/*
 * A program replayed through several allocators, round by round.
 */
#ifndef FH_LAB_CONTEST_H
#define FH_LAB_CONTEST_H

#include "allocators.h"
#include "job.h"

enum { LAB_MOST_ROUNDS = 99 };

/* What calls of one kind took, in nanoseconds. Each call counts with the least it took in any
 * round: what interrupts and other programs add is not the allocator's. */
struct lab_latencies {
    double p50, p99, p9999, worst;
};

struct lab_contestant {
    char name[64];
    const struct lab_manager *manager; /* NULL: a malloc */
    char library[PATH_MAX];            /* of a malloc; empty: the C library's */
    bool is_missing;                   /* not installed: takes part in nothing */
    char map[PATH_MAX];                /* file of the picture of its heap; empty: none is wanted */

    /* Of the contest: */
    enum lab_state state;      /* of the first pass that went wrong; else LAB_DONE */
    struct lab_result failure; /* that pass's */
    struct lab_result memory;
    int map_error;   /* errno: why there is no picture; 0: there is, if one is wanted */
    unsigned rounds; /* times that are known */
    uint64_t wall_ns[LAB_MOST_ROUNDS], cpu_ns[LAB_MOST_ROUNDS];
    struct lab_latencies alloc_latency, free_latency; /* resizes are among the allocations */
    uint64_t minimum;                                 /* 0: not known */
    unsigned minimum_replays;
};

struct lab_contest {
    const struct lab_program *program; /* of at least one operation */
    unsigned rounds;                   /* 1 to LAB_MOST_ROUNDS */
    bool wants_latency, wants_minimum;
    const char *title;  /* of the pictures, after the allocator's name */
    uint64_t available; /* bytes of memory that one replay may take */
    struct lab_contestant *contestants;
    size_t count;
    struct lab_contestant loop; /* the replay itself, with no allocator; set by the contest */
    /* May be NULL. Called before each pass. */
    void (*tick)(void *context, unsigned done, unsigned total, const char *name);
    void *context;
};

/* 0, or a negative errno when no worker could be started: then nothing was measured. What an
 * allocator does wrong is in its contestant. */
int lab_contest_run(struct lab_contest *contest);

/* Middle of at most LAB_MOST_ROUNDS values, and the distance of their quartiles; of none 0. */
double lab_median(const uint64_t *values, unsigned count);
double lab_quartile_distance(const uint64_t *values, unsigned count);

/* The memory that a replay may take on this machine: three quarters of what is available. */
uint64_t lab_available_memory(void);

#endif
