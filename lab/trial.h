/*
 * A change tried: the trace replayed with it and without it.
 */
#ifndef FH_LAB_TRIAL_H
#define FH_LAB_TRIAL_H

#include "findings.h"
#include "job.h"

/* What a trial found. Times are those of the allocator's calls and the program's first touches, by the whole trace. */
struct lab_trial {
    int error; /* 0, or a negative errno: the rest is not known */
    unsigned rounds;
    double before_ns, after_ns; /* medians of processor time */
    double saved_ns;            /* median of the differences within a round */
    double
        noise_ns; /* the distance of their quartiles (of less than five rounds: their range), but at least 1 % of before_ns */
    uint64_t before_bytes, after_bytes; /* most memory in RAM that the replay took */
    int64_t saved_bytes;
    bool
        is_time_noise; /* |saved_ns| is not above noise_ns, or more than the changed calls can cost */
    bool is_bytes_noise; /* |saved_bytes| is not above 1/200 of before_bytes or four pages */
};

/* Replays in worker processes, `rounds` times in turns (1 to LAB_MOST_TRIALS), over the malloc library at that path
 * ("": the C library's). tick may be NULL; it is called before each replay. */
enum { LAB_MOST_TRIALS = 99 };
void lab_trial_run(struct lab_trial *trial, const struct lab_sites *sites,
                   const struct lab_finding *finding, unsigned rounds, const char *library,
                   void (*tick)(void *context), void *context);

/* The operations of a trace with a change in them, as a trial replays them: in `ops`, which has room for
 * sites->op_count. `thread` is 1 where the operation is the arena's or pool's, `kind` is LAB_GONE where the change took the
 * call away. False without memory. */
enum { LAB_GONE = 0 };
bool lab_trial_change(const struct lab_sites *sites, const struct lab_finding *finding,
                      struct lab_op *ops);

/* argv[0] of a worker, and what it does. */
#define LAB_TRIAL_NAME "freehold-trial-worker"
int lab_trial_worker(void);

#endif
