/*
 * What a stream can show, and figures as people read them.
 */
#ifndef FH_CLI_TERM_H
#define FH_CLI_TERM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct term {
    FILE *out;
    bool has_unicode; /* a terminal in a UTF-8 locale */
    bool has_colour;  /* a terminal, unless NO_COLOR is set or TERM is dumb */
    int width;        /* columns; 80 where there is no terminal */
};

enum term_style { TERM_PLAIN, TERM_BOLD, TERM_DIM, TERM_GOOD, TERM_WARN, TERM_BAD, TERM_ACCENT };

void term_open(struct term *term, FILE *out);

/* The sequence that switches the style on; empty without colour. TERM_PLAIN switches all off. */
const char *term_style(const struct term *term, enum term_style style);

/* A bar of `cells` columns, filled to `share` (0 to 1), in steps of an eighth of a column with
 * Unicode. */
void term_bar(const struct term *term, double share, int cells);

/* One of two texts, by what the terminal can show. */
const char *term_pick(const struct term *term, const char *unicode, const char *ascii);

/* A buffer that any of the figures below fits. */
struct figure {
    char text[40];
};

struct figure figure_count(uint64_t count);   /* 1,234,567 */
struct figure figure_bytes(uint64_t bytes);   /* 48.2 MiB */
struct figure figure_duration(uint64_t ns);   /* 2.31 s */
struct figure figure_rate(double per_second); /* 4.2 million a second */
struct figure figure_share(double share);     /* 41.2 % */

#endif
