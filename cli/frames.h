/*
 * Lines of a report, with functions, files and lines in place of addresses.
 *
 *     #2 0x55d0c0a8 in main+0x1f (/usr/bin/program+0x1234)     becomes
 *     #2 0x55d0c0a8 in helper helper.h:12                      (inlined into)
 *     #3 0x55d0c0a8 in main program.c:40
 *
 * What is no such line, or can't be told more of, stays as it is, byte by byte. Not thread-safe.
 */
#ifndef FH_CLI_FRAMES_H
#define FH_CLI_FRAMES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

struct json_object;
struct frames;

/* What one process, or one file, says. Zero at first. */
struct frames_writer {
    char *text; /* what is kept back: a line that is not whole, or a report */
    size_t len, room;
    size_t line; /* where the last line in it begins */
    bool is_in_report;
    /* Where its lines are. */
    bool is_in_stack;
    unsigned added; /* inlined frames so far, by which the numbers of those further out grow */
};

/* NULL without memory. */
struct frames *frames_open(void);
void frames_close(struct frames *frames);

/* Takes what the writer says and writes the lines that are whole. The lines of a report are kept
 * until it is, since its end says which build each of its modules is. */
void frames_take(struct frames *frames, struct frames_writer *writer, const char *text, size_t len,
                 FILE *out);
/* Writes what was kept back. */
void frames_flush(struct frames *frames, struct frames_writer *writer, FILE *out);
/* Frees the writer's memory: nothing is kept back any more. */
void frames_forget(struct frames_writer *writer);

/* From now on each stack that is written is added to the array, too: its "title" (the line
 * before it, or the report's first line) and its "frames". */
void frames_collect(struct frames *frames, struct json_object *stacks);

/* Gives every object in it that has "module" and "offset" a "function", "file" and "line", and
 * "inlined", an array, where functions were inlined there. Whether there were any such objects. */
bool frames_add_to_json(struct frames *frames, struct json_object *value);

/* Why a stack begins without a line: one sentence, or NULL when all begin with one. */
const char *frames_hint(const struct frames *frames);

#endif
