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

/* Where the lines of one writer are: zero at first. */
struct frames_stack {
    unsigned added; /* inlined frames so far, by which the numbers of those further out grow */
    bool is_in_stack;
};

/* NULL without memory. */
struct frames *frames_open(void);
void frames_close(struct frames *frames);

/* Writes the line (its newline, if it has one, included). */
void frames_write_line(struct frames *frames, struct frames_stack *stack, const char *line,
                       size_t len, FILE *out);

/* From now on each stack that is written is added to the array, too: its "title" (the line before it) and its "frames". */
void frames_collect(struct frames *frames, struct json_object *stacks);

/* Gives every object in it that has "module" and "offset" a "function", "file" and "line", and "inlined", an array, where functions
 * were inlined there. Whether there were any such objects. */
bool frames_add_to_json(struct frames *frames, struct json_object *value);

/* Why a stack begins without a line: one sentence, or NULL when all begin with one. */
const char *frames_hint(const struct frames *frames);

#endif
