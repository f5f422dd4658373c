/*
 * What the command and a worker process of a replay share: a few pages of memory, with the task in
 * them when the worker starts and the result when it ends.
 */
#ifndef FH_LAB_JOB_H
#define FH_LAB_JOB_H

#include "program.h"

#include <limits.h>

enum lab_pass {
    LAB_PASS_TIME = 1, /* the operations at full speed */
    LAB_PASS_MEMORY,   /* memory looked at, at the peak, at the end, and at samples between */
    LAB_PASS_LATENCY,  /* every call timed; what each took goes to job->latency_fd if it is less */
    LAB_PASS_MINIMUM,  /* the smallest buffer that serves all */
    LAB_PASS_MAP,      /* a picture of the manager's blocks over the replay, to task->map */
};

struct lab_task {
    enum lab_pass pass;
    struct lab_program program; /* its descriptor is LAB_PROGRAM_FD in the worker */
    char manager[32]; /* of lab/allocators.h; empty: the process's malloc; "none": no allocator */
    char library[PATH_MAX]; /* that must be this process's malloc; empty: the C library's */
    uint64_t capacity;      /* the most that a manager may take */
    char map[PATH_MAX];     /* of LAB_PASS_MAP: the file, .png or .svg */
    char map_title[128];
};

/* A manager or malloc at one moment, in bytes. */
struct lab_look {
    uint64_t requested; /* of the blocks that are live in the replay */
    uint64_t blocks;
    uint64_t usable; /* of the same blocks, and of those that the manager can't free */
    uint64_t metadata;
    uint64_t footprint;
    uint64_t resident;
    uint64_t free_bytes, free_blocks, largest_free;
    double scatter; /* 1 - sqrt(sum of squares) / sum, over free blocks */
};

/* A point of the course of a replay. */
struct lab_sample {
    uint64_t op; /* operations done */
    uint64_t requested, footprint, resident;
};

enum { LAB_MOST_SAMPLES = 128 };

enum lab_state {
    LAB_STARTED = 0, /* and not ended: if the worker is gone it died */
    LAB_DONE,
    LAB_NOT_OPENED, /* the manager refused to open: `error` says why */
    LAB_NOT_LOADED, /* malloc is not the library's */
    LAB_NO_MEMORY,  /* for the replay itself */
    LAB_NO_MAP,     /* the picture could not be made: `error` says why */
};

struct lab_result {
    enum lab_state state;
    int error;         /* errno */
    int wait_status;   /* of the worker */
    uint64_t progress; /* operations done, in steps */
    uint64_t wall_ns, cpu_ns;
    uint64_t refused, refused_bytes; /* allocations and growths that got NULL */
    bool has_usable;                 /* of LAB_PASS_MEMORY: usable is known in both looks */
    bool has_measure;                /* the rest of the looks is, too: it is a manager */
    bool frees;                      /* what is freed can be handed out again */
    struct lab_look at_peak, at_end;
    uint64_t peak_footprint; /* of a manager that does not keep it: the largest of the samples */
    uint64_t peak_resident;
    unsigned sample_count;
    struct lab_sample samples[LAB_MOST_SAMPLES];
    uint64_t minimum;    /* of LAB_PASS_MINIMUM: bytes; 0: no buffer serves all */
    double ticks_per_ns; /* of LAB_PASS_LATENCY */
};

struct lab_job {
    struct lab_task task;
    struct lab_result result;
};

enum {
    LAB_JOB_FD = 3,
    LAB_PROGRAM_FD = 4,
    LAB_LATENCY_FD = 5, /* a file of one uint32_t an operation */
};

/* argv[0] of a worker: by it the command knows what it has been started as. */
#define LAB_WORKER_NAME "freehold-replay-worker"

/* All that a worker does; the exit status of its process. */
int lab_worker(void);

#endif
