/*
 * Heap maps: the picture is read again, and known cells have known colours.
 */
#include "tools/heapmap.h"

#include <errno.h>
#include <png.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define BASE    ((uintptr_t)1 << 30) /* nothing lies there: only addresses are drawn */
#define GRANULE ((size_t)64)

static struct fh_block blocks[64];
static size_t block_count, metadata;

static int measure(void *self, struct fh_measure *out)
{
    (void)self;
    out->metadata = metadata;
    return 0;
}

static int walk(void *self, int (*visit)(void *context, const struct fh_block *block),
                void *context)
{
    (void)self;
    for (size_t i = 0; i < block_count; i++) {
        int result = visit(context, &blocks[i]);
        if (result != 0)
            return result;
    }
    return 0;
}

static const struct fh_allocator_ops ops = {
    .size = sizeof ops, .name = "made up", .measure = measure, .walk = walk};
static const struct fh_allocator made_up = {&ops, NULL};

static void add(size_t first_cell, size_t cells, bool is_live)
{
    blocks[block_count++] =
        (struct fh_block){(void *)(BASE + first_cell * GRANULE), cells * GRANULE, is_live};
}

/* Cells 0 and 1 metadata, 2 to 129 live, 130 free, 131 metadata, 132 to 149 free, and behind them none. */
static struct heapmap *make(void)
{
    struct heapmap *map = heapmap_create("made up & <drawn>", GRANULE);
    assert_non_null(map);
    block_count = 0;
    metadata = 3 * GRANULE;
    add(2, 128, true);
    add(130, 1, false);
    add(132, 18, false);
    assert_int_equal(heapmap_sample(map, &made_up, (void *)BASE, 300 * GRANULE), 0);
    return map;
}

static png_image image;
static uint8_t *pixels;

static void draw_and_read(const struct heapmap *map)
{
    char path[] = "/tmp/heapmap-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    assert_int_equal(heapmap_write(map, path), 0);
    image = (png_image){.version = PNG_IMAGE_VERSION};
    assert_true(png_image_begin_read_from_file(&image, path));
    image.format = PNG_FORMAT_RGB;
    free(pixels);
    pixels = malloc(PNG_IMAGE_SIZE(image));
    assert_non_null(pixels);
    assert_true(png_image_finish_read(&image, NULL, pixels, 0, NULL));
    unlink(path);
}

static void expect_colour(unsigned x, unsigned y, struct heapmap_colour colour)
{
    const uint8_t *pixel = pixels + ((size_t)y * image.width + x) * 3;
    if (pixel[0] != colour.red || pixel[1] != colour.green || pixel[2] != colour.blue)
        fail_msg("expected #%02x%02x%02x at %u, %u, found #%02x%02x%02x", colour.red, colour.green,
                 colour.blue, x, y, pixel[0], pixel[1], pixel[2]);
}

static void expect_cell(const struct heapmap_layout *layout, unsigned cell,
                        struct heapmap_colour colour)
{
    unsigned x = layout->map_x + cell % HEAPMAP_COLUMNS * layout->cell,
             y = layout->map_y + cell / HEAPMAP_COLUMNS * layout->cell;
    expect_colour(x, y, colour);
    expect_colour(x + layout->cell - 1, y + layout->cell - 1, colour);
}

static void test_picture_has_size_of_layout(void **state)
{
    struct heapmap *map = make();
    struct heapmap_layout layout;
    (void)state;
    heapmap_layout(map, &layout);
    draw_and_read(map);
    assert_int_equal(image.width, layout.width);
    assert_int_equal(image.height, layout.height);
    assert_int_equal(layout.cells, 300);
    heapmap_destroy(map);
}

static void test_cells_have_colour_of_what_they_are(void **state)
{
    struct heapmap *map = make();
    struct heapmap_layout layout;
    (void)state;
    heapmap_layout(map, &layout);
    draw_and_read(map);
    expect_cell(&layout, 0, heapmap_other);
    expect_cell(&layout, 1, heapmap_other);
    expect_cell(&layout, 2, heapmap_live);
    expect_cell(&layout, 129, heapmap_live);
    expect_cell(&layout, 130, heapmap_free);
    expect_cell(&layout, 131, heapmap_other);
    expect_cell(&layout, 132, heapmap_free);
    expect_cell(&layout, 149, heapmap_free);
    expect_cell(&layout, 150, heapmap_unused);
    expect_cell(&layout, 299, heapmap_unused);
    expect_colour(0, 0, heapmap_paper);
    heapmap_destroy(map);
}

/* Half live, half free: neither colour, but one between. */
static void test_cell_of_two_kinds_is_mixed(void **state)
{
    struct heapmap *map = heapmap_create("mixed", GRANULE);
    struct heapmap_layout layout;
    (void)state;
    block_count = 0;
    metadata = 0;
    blocks[block_count++] = (struct fh_block){(void *)BASE, 32, true};
    blocks[block_count++] = (struct fh_block){(void *)(BASE + 32), 32, false};
    assert_int_equal(heapmap_sample(map, &made_up, (void *)BASE, GRANULE), 0);
    heapmap_layout(map, &layout);
    draw_and_read(map);
    const uint8_t *pixel = pixels + ((size_t)layout.map_y * image.width + layout.map_x) * 3;
    assert_in_range(pixel[0], heapmap_live.red + 20, heapmap_free.red - 20);
    heapmap_destroy(map);
}

/* Two samples: the left half of the strip is the first one, all live; the right half is half free. */
static void test_strip_shows_samples_from_left_to_right(void **state)
{
    struct heapmap *map = heapmap_create("strip", GRANULE);
    struct heapmap_layout layout;
    (void)state;
    metadata = 0;
    block_count = 0;
    add(0, 100, true);
    assert_int_equal(heapmap_sample(map, &made_up, (void *)BASE, 200 * GRANULE), 0);
    block_count = 0;
    add(0, 100, true);
    add(100, 100, false);
    assert_int_equal(heapmap_sample(map, &made_up, (void *)BASE, 200 * GRANULE), 0);
    heapmap_layout(map, &layout);
    draw_and_read(map);
    unsigned left = layout.strip_x + layout.strip_width / 4,
             right = layout.strip_x + layout.strip_width * 3 / 4,
             low = layout.strip_y + layout.strip_height * 3 / 4,
             high = layout.strip_y + layout.strip_height / 4;
    expect_colour(left, low, heapmap_live);
    expect_colour(left, high, heapmap_unused);
    expect_colour(right, low, heapmap_live);
    expect_colour(right, high, heapmap_free);
    heapmap_destroy(map);
}

/* What is far apart is drawn together, and what lies between is not. */
static void test_ranges_apart_are_drawn_behind_one_another(void **state)
{
    struct heapmap *map = heapmap_create("apart", GRANULE);
    struct heapmap_layout layout;
    (void)state;
    metadata = 0;
    block_count = 0;
    add(((size_t)1 << 20), 3, false);
    add(0, 2, true);
    assert_int_equal(heapmap_sample(map, &made_up, NULL, 0), 0);
    heapmap_layout(map, &layout);
    assert_int_equal(layout.cells, 5);
    draw_and_read(map);
    expect_cell(&layout, 1, heapmap_live);
    expect_cell(&layout, 2, heapmap_free);
    expect_cell(&layout, 4, heapmap_free);
    heapmap_destroy(map);
}

/* However large the heap and however often it is sampled, the picture stays a picture. */
static void test_large_heap_gets_larger_granules(void **state)
{
    struct heapmap *map = heapmap_create("large", 0);
    struct heapmap_layout layout;
    (void)state;
    metadata = 0;
    block_count = 0;
    add(0, 3 << 20, true);
    for (int i = 0; i < 2000; i++)
        assert_int_equal(heapmap_sample(map, &made_up, (void *)BASE, GRANULE * 4 << 20), 0);
    heapmap_layout(map, &layout);
    assert_true(layout.cells <= HEAPMAP_CELLS);
    assert_true(layout.granule >= GRANULE * 4 << 20 >> 13);
    draw_and_read(map);
    expect_cell(&layout, layout.cells / 2, heapmap_live);
    expect_cell(&layout, layout.cells - 1, heapmap_unused);
    heapmap_destroy(map);
}

static void test_empty_allocator_is_a_picture_too(void **state)
{
    struct heapmap *map = heapmap_create("empty", 0);
    (void)state;
    block_count = 0;
    assert_int_equal(heapmap_sample(map, &made_up, NULL, 0), 0);
    draw_and_read(map);
    heapmap_destroy(map);
}

static void test_svg_says_the_same(void **state)
{
    struct heapmap *map = make();
    char path[] = "/tmp/heapmap-XXXXXX.svg", text[65536], wanted[128];
    struct heapmap_layout layout;
    int fd = mkstemps(path, 4);
    (void)state;
    assert_true(fd >= 0);
    heapmap_layout(map, &layout);
    assert_int_equal(heapmap_write(map, path), 0);
    ssize_t size = read(fd, text, sizeof text - 1);
    assert_true(size > 0);
    text[size] = 0;
    close(fd);
    unlink(path);
    assert_non_null(strstr(text, "made up &amp; &lt;drawn&gt;"));
    /* The live cells of the first row are one rectangle. */
    snprintf(wanted, sizeof wanted, "fill=\"#%02x%02x%02x\" d=\"M%u %uh%uv", heapmap_live.red,
             heapmap_live.green, heapmap_live.blue, layout.map_x + 2 * layout.cell, layout.map_y,
             (HEAPMAP_COLUMNS - 2) * layout.cell);
    assert_non_null(strstr(text, wanted));
    assert_string_equal(text + size - 7, "</svg>\n");
    heapmap_destroy(map);
}

static void test_path_that_cannot_be_written_is_an_error(void **state)
{
    struct heapmap *map = make();
    (void)state;
    assert_int_equal(heapmap_write(map, "/nonexistent/map.png"), -ENOENT);
    assert_int_not_equal(heapmap_write(map, "/dev/full"), 0);
    heapmap_destroy(map);
}

static int free_pixels(void **state)
{
    (void)state;
    free(pixels);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_picture_has_size_of_layout),
        cmocka_unit_test(test_cells_have_colour_of_what_they_are),
        cmocka_unit_test(test_cell_of_two_kinds_is_mixed),
        cmocka_unit_test(test_strip_shows_samples_from_left_to_right),
        cmocka_unit_test(test_ranges_apart_are_drawn_behind_one_another),
        cmocka_unit_test(test_large_heap_gets_larger_granules),
        cmocka_unit_test(test_empty_allocator_is_a_picture_too),
        cmocka_unit_test(test_svg_says_the_same),
        cmocka_unit_test(test_path_that_cannot_be_written_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, free_pixels);
}
