/*
 * The messages of a run, on their way from its processes to the user, with functions and lines in
 * place of addresses.
 */
#ifndef FH_CLI_RELAY_H
#define FH_CLI_RELAY_H

#include <stddef.h>

struct relay_reader;

/* Begins to read; messages are copied to the log (its name may hold %p, the process id), or to
 * standard error when that is NULL. NULL on failure, *error is the errno. */
struct relay_reader *relay_start(const char *log_file, int *error);

/* The value of the setting `relay`, for the processes of the run. */
const char *relay_path(const struct relay_reader *reader);

/* Copies what has come until now, and a hint where stacks have no lines, and ends. What comes
 * later its process writes itself. */
void relay_finish(struct relay_reader *reader);

#endif
