/*
 * Heap maps: from blocks to cells to pixels.
 *
 * A sample collects the blocks of a walk, sorts them, and joins them to ranges: a new one begins where
 * more than HEAPMAP_GAP bytes lie between two blocks. The ranges are laid one behind the other (each begins
 * on a cell's boundary) and cut into cells; a cell counts the live and the free bytes in it, and how many
 * bytes of it are in use at all: the rest is metadata and padding. Cells of twice the granule are sums of two
 * neighbours, so a granule can be doubled at any time, also of samples taken long ago.
 *
 * A walk does not show what is no block. Metadata and memory that is not in use yet are told apart by
 * size: the manager says how much metadata it has in all (measure); of the gaps between blocks the largest are
 * taken for unused as long as what is left is at least that much. A gap larger than all metadata is unused
 * too if what is left comes closer to it: some metadata may lie elsewhere, as a slab's magazines do.
 *
 * The picture is drawn by a small set of calls (a rectangle, a line of text) that both formats offer. PNG is
 * written by libpng, with a palette: shares are rounded to sevenths, so that a map is some ten kilobytes. Its
 * letters are a 5 × 7 font drawn below. SVG joins equal neighbours in a row to one rectangle.
 */
#include "tools/heapmap.h"

#include "tools/heapmap_font.h"

#include <errno.h>
#include <png.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define STRIP_COLUMNS (HEAPMAP_COLUMNS * 4) /* samples kept; then every other one is dropped */
#define STRIP_CELLS   1024u                 /* a sample of the strip is coarser than the map */
#define CELL          6u                    /* pixels */
#define MARGIN        20u
#define LINE          22u /* of text */
#define STRIP_WIDTH   (HEAPMAP_COLUMNS * CELL)
#define STRIP_HEIGHT  160u
#define SHARES        8u /* a share is drawn as one of eight: 0, 1/7, … 1 */

/* Told apart with any kind of colour vision, and in print: dark, light, and a warm one between. */
const struct heapmap_colour heapmap_live = {0x1b, 0x4f, 0x8a};
const struct heapmap_colour heapmap_free = {0xc9, 0xdc, 0xe8};
const struct heapmap_colour heapmap_other = {0xe8, 0x8b, 0x2e};
const struct heapmap_colour heapmap_paper = {0xff, 0xff, 0xff};
static const struct heapmap_colour ink = {0x22, 0x2b, 0x33};
const struct heapmap_colour heapmap_unused = {0xf1, 0xf3, 0xf5};

struct cell {
    uint32_t live, free, used; /* bytes; what is used and neither live nor free is metadata */
};

struct sample {
    struct cell *cells;
    size_t count;
    size_t granule;
};

struct heapmap {
    char title[96];
    char unit[32];
    double last;
    size_t granule;
    struct sample now; /* the latest, in the map's granule */
    size_t live, free, other, unused;
    struct sample strip[STRIP_COLUMNS];
    size_t samples; /* in the strip */
    size_t taken;   /* in all */
    size_t stride;  /* every stride-th one is kept */
};

struct heapmap *heapmap_create(const char *title, size_t granule)
{
    struct heapmap *map = calloc(1, sizeof *map);
    if (map == NULL)
        return NULL;
    snprintf(map->title, sizeof map->title, "%s", title);
    map->granule = granule != 0 ? granule : 64;
    map->stride = 1;
    return map;
}

void heapmap_destroy(struct heapmap *map)
{
    if (map == NULL)
        return;
    free(map->now.cells);
    for (size_t i = 0; i < map->samples; i++)
        free(map->strip[i].cells);
    free(map);
}

void heapmap_set_axis(struct heapmap *map, const char *unit, double last)
{
    snprintf(map->unit, sizeof map->unit, "%s", unit);
    map->last = last;
}

/* ---- from blocks to cells ---------------------------------------------------------------------- */

struct blocks {
    struct fh_block *list;
    size_t count, room;
};

static int collect(void *context, const struct fh_block *block)
{
    struct blocks *blocks = context;
    if (blocks->count == blocks->room) {
        size_t room = blocks->room != 0 ? blocks->room * 2 : 1024;
        struct fh_block *list = realloc(blocks->list, room * sizeof *list);
        if (list == NULL)
            return -ENOMEM;
        blocks->list = list;
        blocks->room = room;
    }
    blocks->list[blocks->count++] = *block;
    return 0;
}

static int by_address(const void *a, const void *b)
{
    uintptr_t x = (uintptr_t)((const struct fh_block *)a)->address,
              y = (uintptr_t)((const struct fh_block *)b)->address;
    return (x > y) - (x < y);
}

static size_t cells_for(size_t bytes, size_t granule)
{
    return (bytes + granule - 1) / granule;
}

/* Adds [offset, offset + bytes), counted from the first cell's beginning, to one counter of each cell, or
 * takes it away. */
static void spread(struct sample *sample, size_t offset, size_t bytes, size_t counter, bool is_more)
{
    size_t end = offset + bytes;
    while (offset < end) {
        size_t at = offset / sample->granule, next = (at + 1) * sample->granule;
        size_t part = (next < end ? next : end) - offset;
        if (at >= sample->count)
            return;
        uint32_t *count = (uint32_t *)(void *)((char *)&sample->cells[at] + counter);
        *count = is_more ? *count + (uint32_t)part : *count - (uint32_t)part;
        offset += part;
    }
}

static uintptr_t end_of(const struct fh_block *block)
{
    return (uintptr_t)block->address + block->usable;
}

/* One range: the blocks from `first` on that belong together. Returns how many they are. */
static size_t one_range(const struct blocks *blocks, size_t first, uintptr_t *end)
{
    size_t count = 1;
    *end = end_of(&blocks->list[first]);
    while (first + count < blocks->count) {
        const struct fh_block *block = &blocks->list[first + count];
        if ((uintptr_t)block->address > *end && (uintptr_t)block->address - *end > HEAPMAP_GAP)
            break;
        if (end_of(block) > *end)
            *end = end_of(block);
        count++;
    }
    return count;
}

/* The bytes that all ranges cover, each rounded up to cells. */
static size_t total_bytes(const struct blocks *blocks, size_t granule)
{
    size_t bytes = 0;
    uintptr_t end;
    for (size_t i = 0, count; i < blocks->count; i += count) {
        uintptr_t begin = (uintptr_t)blocks->list[i].address;
        count = one_range(blocks, i, &end);
        bytes += cells_for(end - begin, granule) * granule;
    }
    return bytes;
}

/* ---- what is no block --------------------------------------------------------------------------- */

struct gap {
    size_t offset, bytes;
};

static int by_bytes_down(const void *a, const void *b)
{
    size_t x = ((const struct gap *)a)->bytes, y = ((const struct gap *)b)->bytes;
    return (x < y) - (x > y);
}

/* Takes the unused gaps of the one range [base, base + bytes) out of what its cells call used. */
static int leave_out_unused(struct sample *sample, const struct blocks *blocks, uintptr_t base,
                            size_t bytes, size_t metadata)
{
    struct gap *gaps = malloc((blocks->count + 1) * sizeof *gaps);
    size_t count = 0, at = 0, left = 0;
    if (gaps == NULL)
        return -ENOMEM;
    for (size_t i = 0; i <= blocks->count; i++) {
        size_t begin = i < blocks->count ? (uintptr_t)blocks->list[i].address - base : bytes;
        if (begin > at) {
            gaps[count++] = (struct gap){at, begin - at};
            left += begin - at;
        }
        if (i < blocks->count && end_of(&blocks->list[i]) - base > at)
            at = end_of(&blocks->list[i]) - base;
    }
    qsort(gaps, count, sizeof *gaps, by_bytes_down);
    for (size_t i = 0; i < count && left > metadata; i++) {
        size_t most = left - metadata;
        if (gaps[i].bytes > most && (gaps[i].bytes < metadata || gaps[i].bytes > 2 * most))
            break;
        left -= gaps[i].bytes;
        spread(sample, gaps[i].offset, gaps[i].bytes, offsetof(struct cell, used), false);
    }
    free(gaps);
    return 0;
}

static int cut(const struct blocks *blocks, const void *base, size_t bytes, size_t granule,
               struct sample *out)
{
    size_t total = base != NULL ? bytes : total_bytes(blocks, granule), offset = 0;
    uintptr_t end;
    out->granule = granule;
    out->count = cells_for(total, granule);
    out->cells = calloc(out->count + 1, sizeof *out->cells);
    if (out->cells == NULL)
        return -ENOMEM;
    if (base != NULL)
        spread(out, 0, bytes, offsetof(struct cell, used), true);
    for (size_t i = 0, count; i < blocks->count; i += count) {
        uintptr_t begin = base != NULL ? (uintptr_t)base : (uintptr_t)blocks->list[i].address;
        count = one_range(blocks, i, &end);
        if (base == NULL)
            spread(out, offset, end - begin, offsetof(struct cell, used), true);
        for (size_t b = i; b < i + count; b++) {
            const struct fh_block *block = &blocks->list[b];
            uintptr_t address = (uintptr_t)block->address;
            if (address >= begin)
                spread(out, offset + (address - begin), block->usable,
                       block->is_live ? offsetof(struct cell, live) : offsetof(struct cell, free),
                       true);
        }
        if (base == NULL)
            offset += cells_for(end - begin, granule) * granule;
    }
    return 0;
}

static void coarsen(struct sample *sample)
{
    for (size_t i = 0; i < (sample->count + 1) / 2; i++) {
        struct cell sum = sample->cells[2 * i];
        if (2 * i + 1 < sample->count) {
            sum.live += sample->cells[2 * i + 1].live;
            sum.free += sample->cells[2 * i + 1].free;
            sum.used += sample->cells[2 * i + 1].used;
        }
        sample->cells[i] = sum;
    }
    sample->count = (sample->count + 1) / 2;
    sample->granule *= 2;
}

/* Every other column goes. */
static void thin_out(struct heapmap *map)
{
    for (size_t i = 1; i < map->samples; i += 2)
        free(map->strip[i].cells);
    for (size_t i = 0; i < (map->samples + 1) / 2; i++)
        map->strip[i] = map->strip[2 * i];
    map->samples = (map->samples + 1) / 2;
    map->stride *= 2;
}

static int keep_column(struct heapmap *map)
{
    if (map->taken++ % map->stride != 0)
        return 0;
    struct sample column = map->now;
    column.cells = malloc((column.count + 1) * sizeof *column.cells);
    if (column.cells == NULL)
        return -ENOMEM;
    memcpy(column.cells, map->now.cells, column.count * sizeof *column.cells);
    while (column.count > STRIP_CELLS)
        coarsen(&column);
    if (map->samples == STRIP_COLUMNS)
        thin_out(map);
    map->strip[map->samples++] = column;
    return 0;
}

int heapmap_sample(struct heapmap *map, const struct fh_allocator *a, const void *base,
                   size_t bytes)
{
    struct blocks blocks = {NULL, 0, 0};
    struct sample sample = {NULL, 0, 0};
    struct fh_measure measure = {.size = sizeof measure};
    int error = fh_allocator_walk(a, collect, &blocks);
    if (error == 0) {
        if (blocks.count > 0)
            qsort(blocks.list, blocks.count, sizeof *blocks.list, by_address);
        error = cut(&blocks, base, bytes, map->granule, &sample);
    }
    if (error == 0 && base != NULL && fh_allocator_measure(a, &measure) == 0 &&
        (error = leave_out_unused(&sample, &blocks, (uintptr_t)base, bytes, measure.metadata)) != 0)
        free(sample.cells);
    free(blocks.list);
    if (error != 0)
        return error;
    while (sample.count > HEAPMAP_CELLS)
        coarsen(&sample);
    map->granule = sample.granule;
    free(map->now.cells);
    map->now = sample;
    map->live = map->free = map->other = 0;
    map->unused = base != NULL ? bytes : 0;
    for (size_t i = 0; i < sample.count; i++) {
        const struct cell *cell = &sample.cells[i];
        map->live += cell->live;
        map->free += cell->free;
        if (cell->used > cell->live + cell->free)
            map->other += cell->used - cell->live - cell->free;
        map->unused -= cell->used < map->unused ? cell->used : map->unused;
    }
    return keep_column(map);
}

/* ---- colours ----------------------------------------------------------------------------------- */

/* Of cells that are neither all one thing nor all another the parts are rounded to sevenths. */
struct tone {
    uint8_t live, other; /* of SHARES - 1; the rest is free */
    bool is_unused;
};

static struct tone tone_of(const struct cell *cell)
{
    struct tone tone = {0, 0, cell->used == 0};
    if (tone.is_unused)
        return tone;
    uint64_t known = (uint64_t)cell->live + cell->free, covered = cell->used;
    if (known > covered)
        covered = known;
    tone.live = (uint8_t)((cell->live * (uint64_t)(SHARES - 1) + covered / 2) / covered);
    tone.other = (uint8_t)(((covered - known) * (uint64_t)(SHARES - 1) + covered / 2) / covered);
    if (tone.live + tone.other > (int)SHARES - 1)
        tone.other = (uint8_t)(SHARES - 1 - tone.live);
    return tone;
}

static uint8_t mix(unsigned live, unsigned other, uint8_t l, uint8_t o, uint8_t f)
{
    unsigned whole = SHARES - 1;
    return (uint8_t)((live * l + other * o + (whole - live - other) * f + whole / 2) / whole);
}

static struct heapmap_colour colour_of(struct tone tone)
{
    if (tone.is_unused)
        return heapmap_unused;
    return (struct heapmap_colour){
        mix(tone.live, tone.other, heapmap_live.red, heapmap_other.red, heapmap_free.red),
        mix(tone.live, tone.other, heapmap_live.green, heapmap_other.green, heapmap_free.green),
        mix(tone.live, tone.other, heapmap_live.blue, heapmap_other.blue, heapmap_free.blue)};
}

static bool is_same(struct heapmap_colour a, struct heapmap_colour b)
{
    return a.red == b.red && a.green == b.green && a.blue == b.blue;
}

/* ---- the picture, whatever it is drawn with ---------------------------------------------------- */

struct canvas {
    void (*rectangle)(struct canvas *canvas, unsigned x, unsigned y, unsigned width,
                      unsigned height, struct heapmap_colour colour);
    void (*text)(struct canvas *canvas, unsigned x, unsigned y, const char *text);
    FILE *file;
    uint8_t *pixels; /* of the PNG: indexes of the palette */
    unsigned width, height;
    struct heapmap_colour palette[256];
    unsigned colours;
};

static unsigned rows_of_map(const struct heapmap *map)
{
    size_t rows = (map->now.count + HEAPMAP_COLUMNS - 1) / HEAPMAP_COLUMNS;
    return rows > 0 ? (unsigned)rows : 1;
}

void heapmap_layout(const struct heapmap *map, struct heapmap_layout *out)
{
    *out = (struct heapmap_layout){
        .width = 2 * MARGIN + HEAPMAP_COLUMNS * CELL,
        .map_x = MARGIN,
        .map_y = MARGIN + 2 * LINE + LINE / 2,
        .cell = CELL,
        .cells = (unsigned)map->now.count,
        .strip_x = MARGIN,
        .strip_width = STRIP_WIDTH,
        .strip_height = STRIP_HEIGHT,
        .legend_x = MARGIN,
        .granule = map->granule,
    };
    out->strip_y = out->map_y + rows_of_map(map) * CELL + 2 * LINE;
    out->legend_y = out->strip_y + STRIP_HEIGHT + LINE + LINE / 2;
    out->height = out->legend_y + LINE / 2 + MARGIN;
}

static const char *bytes_text(char *text, size_t size, size_t bytes)
{
    if (bytes >= (size_t)10 << 20)
        snprintf(text, size, "%zu MiB", bytes >> 20);
    else if (bytes >= (size_t)10 << 10)
        snprintf(text, size, "%zu KiB", bytes >> 10);
    else
        snprintf(text, size, "%zu bytes", bytes);
    return text;
}

static void draw_map(const struct heapmap *map, const struct heapmap_layout *layout,
                     struct canvas *canvas)
{
    for (size_t i = 0; i < map->now.count;) {
        struct heapmap_colour colour = colour_of(tone_of(&map->now.cells[i]));
        size_t same = 1;
        while ((i + same) % HEAPMAP_COLUMNS != 0 && i + same < map->now.count &&
               is_same(colour, colour_of(tone_of(&map->now.cells[i + same]))))
            same++;
        canvas->rectangle(canvas, layout->map_x + (unsigned)(i % HEAPMAP_COLUMNS) * CELL,
                          layout->map_y + (unsigned)(i / HEAPMAP_COLUMNS) * CELL,
                          (unsigned)same * CELL, CELL, colour);
        i += same;
    }
}

static size_t largest_footprint(const struct heapmap *map)
{
    size_t largest = 1;
    for (size_t i = 0; i < map->samples; i++) {
        size_t bytes = map->strip[i].count * map->strip[i].granule;
        largest = bytes > largest ? bytes : largest;
    }
    return largest;
}

/* The bytes [from, to) of a sample as one cell; a cell that is cut counts by its share. */
static struct cell gather(const struct sample *sample, double from, double to)
{
    double live = 0, free_bytes = 0, covered = 0, granule = (double)sample->granule;
    for (size_t at = (size_t)(from / granule); at < sample->count; at++) {
        double begin = (double)at * granule, end = begin + granule;
        double part = ((end < to ? end : to) - (begin > from ? begin : from)) / granule;
        if (begin >= to)
            break;
        live += part * sample->cells[at].live;
        free_bytes += part * sample->cells[at].free;
        covered += part * sample->cells[at].used;
    }
    return (struct cell){(uint32_t)live, (uint32_t)free_bytes, (uint32_t)covered};
}

/* Columns stand side by side over the whole width; footprint 0 is at the bottom. */
static void draw_strip(const struct heapmap *map, const struct heapmap_layout *layout,
                       struct canvas *canvas)
{
    double high = (double)largest_footprint(map), step = 2 * high / STRIP_HEIGHT;
    canvas->rectangle(canvas, layout->strip_x, layout->strip_y, STRIP_WIDTH, STRIP_HEIGHT,
                      heapmap_unused);
    for (size_t i = 0; i < map->samples; i++) {
        unsigned from = (unsigned)(i * STRIP_WIDTH / map->samples),
                 to = (unsigned)((i + 1) * STRIP_WIDTH / map->samples);
        /* Bands of two pixels; equal ones become one rectangle. */
        for (unsigned band = 0, bands = STRIP_HEIGHT / 2, same; band < bands; band += same) {
            struct cell cell = gather(&map->strip[i], band * step, (band + 1) * step);
            struct heapmap_colour colour = colour_of(tone_of(&cell));
            for (same = 1; band + same < bands; same++) {
                cell = gather(&map->strip[i], (band + same) * step, (band + same + 1) * step);
                if (!is_same(colour, colour_of(tone_of(&cell))))
                    break;
            }
            if (!is_same(colour, heapmap_unused))
                canvas->rectangle(canvas, layout->strip_x + from,
                                  layout->strip_y + STRIP_HEIGHT - 2 * (band + same), to - from,
                                  2 * same, colour);
        }
    }
}

static unsigned legend_entry(struct canvas *canvas, unsigned x, unsigned y, const char *name,
                             size_t bytes, size_t whole, struct heapmap_colour colour)
{
    char text[64];
    snprintf(text, sizeof text, "%s %.1f%%", name,
             whole > 0 ? 100.0 * (double)bytes / (double)whole : 0.0);
    canvas->rectangle(canvas, x, y - 12, 13, 13, ink);
    canvas->rectangle(canvas, x + 1, y - 11, 11, 11, colour);
    canvas->text(canvas, x + 18, y, text);
    return x + 18 + (unsigned)strlen(text) * FONT_ADVANCE + 20;
}

static void draw(const struct heapmap *map, struct canvas *canvas)
{
    struct heapmap_layout layout;
    char text[160], amount[32];
    size_t whole = map->live + map->free + map->other + map->unused;

    heapmap_layout(map, &layout);
    canvas->rectangle(canvas, 0, 0, layout.width, layout.height, heapmap_paper);
    canvas->text(canvas, MARGIN, MARGIN + LINE / 2, map->title);
    snprintf(text, sizeof text, "at the end: %s, %zu bytes a cell",
             bytes_text(amount, sizeof amount, whole), map->granule);
    canvas->text(canvas, MARGIN, MARGIN + LINE + LINE / 2 + 4, text);
    draw_map(map, &layout, canvas);
    snprintf(text, sizeof text, "over time: %s high",
             bytes_text(amount, sizeof amount, largest_footprint(map)));
    if (map->unit[0] != 0)
        snprintf(text + strlen(text), sizeof text - strlen(text), ", %.0f %s wide", map->last,
                 map->unit);
    canvas->text(canvas, MARGIN, layout.strip_y - 8, text);
    draw_strip(map, &layout, canvas);
    unsigned x = layout.legend_x, y = layout.legend_y;
    x = legend_entry(canvas, x, y, "live", map->live, whole, heapmap_live);
    x = legend_entry(canvas, x, y, "free", map->free, whole, heapmap_free);
    x = legend_entry(canvas, x, y, "metadata", map->other, whole, heapmap_other);
    if (map->unused > 0)
        legend_entry(canvas, x, y, "unused", map->unused, whole, heapmap_unused);
}

/* ---- PNG --------------------------------------------------------------------------------------- */

static uint8_t palette_index(struct canvas *canvas, struct heapmap_colour colour)
{
    for (unsigned i = 0; i < canvas->colours; i++)
        if (is_same(canvas->palette[i], colour))
            return (uint8_t)i;
    if (canvas->colours == 256)
        return 0; /* there are fewer: 36 mixtures, paper, ink */
    canvas->palette[canvas->colours] = colour;
    return (uint8_t)canvas->colours++;
}

static void png_fill(struct canvas *canvas, unsigned x, unsigned y, unsigned width, unsigned height,
                     struct heapmap_colour colour)
{
    uint8_t index = palette_index(canvas, colour);
    for (unsigned row = y; row < y + height && row < canvas->height; row++)
        for (unsigned column = x; column < x + width && column < canvas->width; column++)
            canvas->pixels[(size_t)row * canvas->width + column] = index;
}

/* y is the letters' base line, as in SVG. */
static void png_letters(struct canvas *canvas, unsigned x, unsigned y, const char *text)
{
    for (; *text != 0; text++, x += FONT_ADVANCE) {
        const uint8_t *glyph = font_glyph(*text);
        for (unsigned column = 0; column < FONT_COLUMNS; column++)
            for (unsigned row = 0; row < FONT_ROWS; row++)
                if (glyph[column] >> row & 1)
                    png_fill(canvas, x + column * FONT_SCALE, y - (FONT_BASE - row) * FONT_SCALE,
                             FONT_SCALE, FONT_SCALE, ink);
    }
}

static int png_save(struct canvas *canvas, FILE *file)
{
    png_color palette[256];
    png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, NULL, NULL, NULL);
    png_infop info = png != NULL ? png_create_info_struct(png) : NULL;
    if (info == NULL) {
        png_destroy_write_struct(&png, NULL);
        return -ENOMEM;
    }
    if (setjmp(png_jmpbuf(png)) != 0) {
        png_destroy_write_struct(&png, &info);
        return -EIO;
    }
    for (unsigned i = 0; i < canvas->colours; i++)
        palette[i] =
            (png_color){canvas->palette[i].red, canvas->palette[i].green, canvas->palette[i].blue};
    png_init_io(png, file);
    png_set_compression_level(png, 9);
    png_set_IHDR(png, info, canvas->width, canvas->height, 8, PNG_COLOR_TYPE_PALETTE,
                 PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
    png_set_PLTE(png, info, palette, (int)canvas->colours);
    png_write_info(png, info);
    for (unsigned row = 0; row < canvas->height; row++)
        png_write_row(png, canvas->pixels + (size_t)row * canvas->width);
    png_write_end(png, NULL);
    png_destroy_write_struct(&png, &info);
    return 0;
}

int heapmap_write_png(const struct heapmap *map, FILE *file)
{
    struct heapmap_layout layout;
    heapmap_layout(map, &layout);
    struct canvas canvas = {
        .rectangle = png_fill, .text = png_letters, .width = layout.width, .height = layout.height};
    canvas.pixels = calloc(layout.width, layout.height);
    if (canvas.pixels == NULL)
        return -ENOMEM;
    draw(map, &canvas);
    int error = png_save(&canvas, file);
    free(canvas.pixels);
    return error;
}

/* ---- SVG --------------------------------------------------------------------------------------- */

static void svg_rectangle(struct canvas *canvas, unsigned x, unsigned y, unsigned width,
                          unsigned height, struct heapmap_colour colour)
{
    fprintf(canvas->file, "<path fill=\"#%02x%02x%02x\" d=\"M%u %uh%uv%uh-%uz\"/>\n", colour.red,
            colour.green, colour.blue, x, y, width, height, width);
}

static void svg_text(struct canvas *canvas, unsigned x, unsigned y, const char *text)
{
    fprintf(canvas->file, "<text x=\"%u\" y=\"%u\">", x, y);
    for (; *text != 0; text++) {
        const char *escaped = *text == '<' ? "&lt;" : *text == '>' ? "&gt;" : "&amp;";
        if (*text == '<' || *text == '>' || *text == '&')
            fputs(escaped, canvas->file);
        else
            fputc(*text, canvas->file);
    }
    fputs("</text>\n", canvas->file);
}

int heapmap_write_svg(const struct heapmap *map, FILE *file)
{
    struct heapmap_layout layout;
    struct canvas canvas = {.rectangle = svg_rectangle, .text = svg_text, .file = file};
    heapmap_layout(map, &layout);
    fprintf(file,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%u\" height=\"%u\" "
            "viewBox=\"0 0 %u %u\" shape-rendering=\"crispEdges\" "
            "font-family=\"sans-serif\" font-size=\"15\">\n<title>",
            layout.width, layout.height, layout.width, layout.height);
    for (const char *text = map->title; *text != 0; text++)
        if (*text != '<' && *text != '>' && *text != '&')
            fputc(*text, file);
    fputs("</title>\n", file);
    draw(map, &canvas);
    fputs("</svg>\n", file);
    return ferror(file) ? -EIO : 0;
}

static bool is_file(const char *path)
{
    struct stat status;
    return stat(path, &status) == 0 && S_ISREG(status.st_mode);
}

int heapmap_write(const struct heapmap *map, const char *path)
{
    size_t length = strlen(path);
    bool is_svg = length > 4 && strcmp(path + length - 4, ".svg") == 0;
    FILE *file = fopen(path, "wb");
    if (file == NULL)
        return -errno;
    int error = is_svg ? heapmap_write_svg(map, file) : heapmap_write_png(map, file);
    if (fclose(file) != 0 && error == 0)
        error = -errno;
    if (error != 0 && is_file(path))
        remove(path);
    return error;
}
