/*
 * A file that a tool writes its figures to: there whole, or not at all.
 */
#ifndef FH_CLI_OUTPUT_H
#define FH_CLI_OUTPUT_H

#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/types.h>

struct output {
    FILE *stream; /* NULL: none is wanted */
    const char *option;
    const char *path;             /* "-": standard output */
    char temporary[PATH_MAX + 8]; /* empty when `path` is written to directly */
};

/* Finds out now, before the work, whether `path` can be written; path NULL: none is wanted. "-" is
 * standard output. False after a complaint that names the option. */
bool output_open(struct output *output, const char *option, const char *path);
/* What was written gets its name. False after a complaint: then an older file of the name is as it
 * was. */
bool output_finish(struct output *output);
/* Without a trace. Nothing, when it is finished or was never opened. */
void output_drop(struct output *output);

/* The file name with each %p replaced by the process id; false when it gets too long. */
bool output_expand_name(const char *file, pid_t pid, char *name, size_t size);

#endif
