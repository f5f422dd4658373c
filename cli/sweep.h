/*
 * `freehold run --fail sweep`: what its files share.
 *
 *   sweep.c         the command line, and the whole in its order
 *   sweep_run.c     one run of the program: started, watched, judged; many side by side
 *   sweep_state.c   what is known of the program and its runs, and the file it is in
 *   sweep_report.c  findings with names, for people and as JSON
 */
#ifndef FH_CLI_SWEEP_H
#define FH_CLI_SWEEP_H

#include "term.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

enum { SWEEP_FRAMES = 64, SWEEP_KIND = 64, SWEEP_FUNCTION = 24 };

/* Frames as the table has them: below SWEEP_MODULE_SHIFT the offset, above it the module's index +
 * 1 in struct sweep. */
enum { SWEEP_MODULE_SHIFT = 48 };

struct sweep_stack {
    size_t len;
    uint64_t *frames; /* return addresses; owned; NULL when len is 0 */
};

/* A call stack from which the program allocates. */
struct sweep_site {
    uint64_t name;
    uint64_t count, bytes;
    uint64_t first;                /* number of its first allocation, in the process */
    char function[SWEEP_FUNCTION]; /* "malloc", "mmap" */
    struct sweep_stack stack;
};

enum sweep_verdict {
    SWEEP_WAITING, /* has not run yet */
    SWEEP_HANDLED, /* the program ended by itself */
    SWEEP_CRASH,
    SWEEP_HANG,
    SWEEP_MISSED, /* the allocation was not made: nothing failed */
};

/* A run in which one allocation fails. */
struct sweep_trial {
    size_t site;
    uint64_t nth;       /* of the site's allocations, from 1 */
    bool is_persistent; /* and all allocations after it fail too */
    enum sweep_verdict verdict;
    int wait_status;
    uint64_t wall_ns;
    int signal;            /* of a crash, in whichever process; 0: not known */
    uint64_t address;      /* of the faulting access */
    char kind[SWEEP_KIND]; /* of Freehold's report, "heap-buffer-overflow"; "" when there is none */
    struct sweep_stack crash;
};

struct sweep_options {
    char **program;     /* argv */
    const char *path;   /* of the file to execute */
    const char *mode;   /* "fast", or as --mode says */
    const char *input;  /* file for standard input */
    const char *output; /* folder that keeps what the program writes; NULL: nowhere */
    const char *state_file;
    uint64_t timeout_ns; /* 0: by the plain run */
    unsigned jobs;
    uint64_t each; /* so many allocations of each site fail, one a run */
    bool fails_once,
        fails_on; /* runs in which one allocation fails; in which all that follow fail too */
};

struct sweep {
    struct sweep_options options;
    /* The run in which nothing failed. */
    int wait_status;
    uint64_t wall_ns;
    uint64_t allocations, lost;
    char **modules; /* paths; owned */
    size_t module_count;
    struct sweep_site *sites;
    size_t site_count;
    struct sweep_trial *trials;
    size_t trial_count;
    size_t done;        /* trials that have a verdict */
    size_t done_before; /* of them, before this process began */
    int state_fd;
};

/* ---- sweep_run.c ----------------------------------------------------------------------------- */

/* The run in which nothing fails: fills in what is known of the program. 0, or the exit status
 * after a complaint. */
int sweep_record(struct sweep *sweep);
/* All trials that wait. 0, or the signal that ended it early. */
int sweep_try_all(struct sweep *sweep);
/* The setting of the trial, "site=0x…:N". */
void sweep_condition(const struct sweep *sweep, const struct sweep_trial *trial, char *text,
                     size_t size);

/* ---- sweep_state.c --------------------------------------------------------------------------- */

/* A new state file with what the plain run has told. False after a complaint. */
bool sweep_state_begin(struct sweep *sweep);
/* What the file says of an earlier sweep of the same command. False after a complaint. */
bool sweep_state_resume(struct sweep *sweep);
/* A trial is done; trouble with the file is told once and changes nothing. */
void sweep_state_add(struct sweep *sweep, const struct sweep_trial *trial);
/* The sweep is complete: nothing is left to go on with. */
void sweep_state_end(struct sweep *sweep);
/* One trial for each site and each of its first allocations that --each asks for. False without
 * memory. */
bool sweep_plan(struct sweep *sweep);
/* Without memory the stack is empty. */
void sweep_stack_set(struct sweep_stack *stack, const uint64_t *frames, size_t len);
/* False without memory. */
bool sweep_site_add(struct sweep *sweep, const struct sweep_site *site);
/* The index of the module with that path (at most `size` bytes, terminated or not); SIZE_MAX
 * without memory. */
size_t sweep_module(struct sweep *sweep, const char *path, size_t size);
/* The program's arguments as a shell would be given them; owned by the caller; NULL without
 * memory. */
char *sweep_quoted(char **argv);

/* ---- sweep.c --------------------------------------------------------------------------------- */

/* Whether the arguments of `freehold run` ask for a sweep. */
bool sweep_is_wanted(int argc, char **argv);
/* A line on a terminal that is written over again: how far it is. */
void sweep_progress(const struct sweep *sweep, uint64_t elapsed_ns);

/* ---- sweep_report.c -------------------------------------------------------------------------- */

/* On the standard output. The number of trials that found something. */
size_t sweep_report(const struct sweep *sweep, struct term *term);
/* False after a complaint. */
bool sweep_write_json(const struct sweep *sweep, FILE *out);
bool sweep_is_finding(const struct sweep_trial *trial);

#endif
