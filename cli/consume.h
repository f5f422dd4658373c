/*
 * The command's end of the rings (lib/record/ring.h): reads what recorded programs wrote into them, and
 * writes the trace.
 */
#ifndef FH_CLI_CONSUME_H
#define FH_CLI_CONSUME_H

#include <stdbool.h>
#include <stdint.h>

struct consumer;

/* What has been written, for progress and summary. */
struct consumed {
    uint64_t events, lost, bytes;
    uint32_t processes, threads;
    uint32_t running; /* processes that had not ended */
    int error;        /* of the file, a negative errno: recording stopped there */
};

/* Makes the shared memory, and a thread that reads it into the file (which it owns from now on). NULL:
 * *error is a negative errno. `command` is for the trace; `tells_progress`: once a second, on standard
 * error. */
struct consumer *consumer_start(int fd, const char *command, bool tells_progress, int *error);
/* Puts the way to the memory into the environment; false without memory. */
bool consumer_configure(const struct consumer *consumer);
/* The first program has ended: reads what is left, closes the file, frees. */
void consumer_finish(struct consumer *consumer, int wait_status, struct consumed *consumed);

#endif
