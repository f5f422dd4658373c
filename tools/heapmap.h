/*
 * Pictures of a heap: a map (one cell a granule) and a strip over time.
 *
 * Sample an allocator as often as you like while a workload runs; each sample is one column of the strip,
 * and the last one is the map. Old columns are thinned out when there are too many, and granules doubled
 * when there are too many cells, so a map costs a few MiB however long the run and large the heap.
 *
 *     struct heapmap *map = heapmap_create("tlsf: shifting sizes", 0);
 *     …
 *     heapmap_sample(map, &allocator, NULL, 0);
 *     …
 *     heapmap_write(map, "map.png");          // or map.svg
 *     heapmap_destroy(map);
 *
 * A cell's colour mixes what its bytes are: live, free, metadata (and padding), or not in use. Ranges of an allocator that are apart by more than HEAPMAP_GAP are drawn behind one
 * another.
 */
#ifndef FH_TOOLS_HEAPMAP_H
#define FH_TOOLS_HEAPMAP_H

#include "freehold/allocator.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define HEAPMAP_GAP ((size_t)64 << 10)
#define HEAPMAP_COLUMNS                                                                            \
    128u /* cells in a row of the map, and the most columns of the strip are four times it */
#define HEAPMAP_CELLS (HEAPMAP_COLUMNS * 64u)

/* An opaque colour, as in a picture. */
struct heapmap_colour {
    uint8_t red, green, blue;
};

extern const struct heapmap_colour heapmap_live, heapmap_free, heapmap_other, heapmap_unused,
    heapmap_paper;

struct heapmap;

/* granule: bytes a cell, a power of two from 16; 0: begins with 64 and doubles as needed (as any does when
 * the cells become more than HEAPMAP_CELLS). The title is copied. NULL: no memory. */
struct heapmap *heapmap_create(const char *title, size_t granule);
void heapmap_destroy(struct heapmap *map);
/* base and bytes say where the allocator's one range lies, so that what is before its first and behind its last
 * block is seen too; NULL: from the first to the last block of each range. 0 or a negative errno. */
int heapmap_sample(struct heapmap *map, const struct fh_allocator *a, const void *base,
                   size_t bytes);
/* What the samples are a series of, under the strip: "operations", "ms"; and how much lies between the
 * first and the last. */
void heapmap_set_axis(struct heapmap *map, const char *unit, double last);

/* By the name's end: .svg, else PNG. 0 or a negative errno; then no file is left. */
int heapmap_write(const struct heapmap *map, const char *path);
int heapmap_write_png(const struct heapmap *map, FILE *file);
int heapmap_write_svg(const struct heapmap *map, FILE *file);

/* Where the parts of the picture are, in pixels; for whoever reads one again. */
struct heapmap_layout {
    unsigned width, height;
    unsigned map_x, map_y, cell; /* cell i: map_x + i % HEAPMAP_COLUMNS * cell, … */
    unsigned cells;              /* that are drawn */
    unsigned strip_x, strip_y, strip_width, strip_height; /* its bottom is footprint 0 */
    unsigned legend_x, legend_y;
    size_t granule;
};
void heapmap_layout(const struct heapmap *map, struct heapmap_layout *out);

#endif
