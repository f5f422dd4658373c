/*
 * The reader of .eh_frame on damaged sections: whatever the bytes, it reads inside them and ends.
 *
 * An input is taken in one of two ways, by its first byte. Odd: what follows is a whole image,
 * .eh_frame_hdr first. Even: a valid image (a shared part, two functions with every kind of
 * instruction, a table) is changed at the places that the input names, three bytes each {offset,
 * offset, value}: so the fuzzer needs to find no structure before it gets deep.
 */
#include "stack/cfi.h"

#include <stdlib.h>
#include <string.h>

enum { ROWS_MAX = 4096, FUNCTIONS_MAX = 32, TEMPLATE_BYTES = 176 };

/* Offsets of the parts of the valid image. */
enum { HEADER = 0, COMMON = 28, FIRST = 56, SECOND = 112 };

static void put4(uint8_t *at, uint32_t value)
{
    memcpy(at, &value, sizeof(value));
}

/* A function's record up to its instructions, which follow at at + 17. */
static void put_function(uint8_t *image, size_t at, uint32_t len, int32_t begin, uint32_t size)
{
    put4(image + at, len - 4);
    put4(image + at + 4, (uint32_t)(at + 4 - COMMON));
    put4(image + at + 8, (uint32_t)(begin - (int32_t)(at + 8))); /* relative to its own place */
    put4(image + at + 12, size);
    image[at + 16] = 0; /* no augmentation data */
}

static void make_template(uint8_t *image)
{
    static const uint8_t header[] = {1, 0x1b, 0x03, 0x3b};
    static const uint8_t common[] = {1,    'z',  'R', 0, 1,    0x78, 16, 1,
                                     0x1b, 0x0c, 7,   8, 0x90, 1,    0,  0};
    static const uint8_t first[] = {
        0x41, 0x0e, 16,   0x86, 2,              /* push %rbp */
        0x43, 0x0d, 6,                          /* mov %rsp,%rbp */
        0x0a, 0x02, 40,   0x0c, 7,    8,  0xc6, /* remember; leave */
        0x41, 0x0b,                             /* restore */
        0x08, 3,    0x07, 12,   0x09, 13, 14,   0x05, 15, 4, 0x11, 3, 0x7d, 0x14, 12, 1, 0x06, 15,
    };
    static const uint8_t second[] = {
        0x0f, 3,    0x76, 0x78, 0x06,       /* *(rbp - 8) */
        0x10, 6,    2,    0x76, 0x00, 0x44, /* rbp at rbp */
        0x08, 6,    0x0f, 11,   0x77, 8,    0x80, 0,
        0x3f, 0x1a, 0x3b, 0x2a, 0x33, 0x24, 0x22, /* .plt */
        0x44, 0x2e, 8,    0x16, 3,    2,    0x77, 0,
    };
    memset(image, 0, TEMPLATE_BYTES);
    memcpy(image + HEADER, header, sizeof(header));
    put4(image + 4, COMMON - 4);
    put4(image + 8, 2);
    put4(image + 12, 0x1000);
    put4(image + 16, FIRST);
    put4(image + 20, 0x1100);
    put4(image + 24, SECOND);
    put4(image + COMMON, FIRST - COMMON - 4);
    memcpy(image + COMMON + 8, common, sizeof(common));
    put_function(image, FIRST, SECOND - FIRST, 0x1000, 0x80);
    memcpy(image + FIRST + 17, first, sizeof(first));
    put_function(image, SECOND, TEMPLATE_BYTES - SECOND, 0x1100, 0x80);
    memcpy(image + SECOND + 17, second, sizeof(second));
}

static void evaluate(const uint8_t *expr, size_t len, const struct fh_cfi_image *image)
{
    struct fh_cfi_machine machine = {.low = image->low, .high = image->high};
    uint64_t result, cfa = image->low;
    for (size_t i = 0; i < FH_CFI_COLUMNS; i++)
        machine.registers[i] = image->low + 8 * i;
    fh_cfi_evaluate(&machine, expr, len, &cfa, &result);
}

static void run(const struct fh_cfi_function *fn, const struct fh_cfi_image *image)
{
    struct fh_cfi_run run;
    fh_cfi_start(&run, fn);
    for (size_t rows = 0; rows < ROWS_MAX && fh_cfi_next(&run); rows++) {
        if (run.row.begin >= run.row.end || run.row.end > fn->end)
            abort(); /* rows are not empty and lie in the function */
        fh_cfi_rule_at(fh_cfi_rule(&run.row, fn->is_signal_frame), run.row.begin);
        if (run.row.cfa_expr != NULL)
            evaluate(run.row.cfa_expr, run.row.cfa_expr_len, image);
        for (size_t i = 0; i < FH_CFI_COLUMNS; i++) {
            const struct fh_cfi_column *column = &run.row.columns[i];
            if (column->how == FH_CFI_AT_EXPR || column->how == FH_CFI_IS_EXPR)
                evaluate(column->expr, column->expr_len, image);
        }
    }
}

static void read_image(const uint8_t *bytes, size_t size)
{
    struct fh_cfi_image image;
    struct fh_cfi_function fn;
    uintptr_t low = (uintptr_t)bytes;
    if (!fh_cfi_open(&image, low, low + size, low))
        return;
    for (size_t i = 0; i < image.table_len && i < FUNCTIONS_MAX; i++) {
        if (fh_cfi_function_at(&image, i, &fn))
            run(&fn, &image);
        uintptr_t pc = image.header + (uintptr_t)(intptr_t)image.table[2 * i];
        if (fh_cfi_find(&image, pc, &fn))
            run(&fn, &image);
    }
    fh_cfi_find(&image, low - 1, &fn);
    fh_cfi_find(&image, UINTPTR_MAX, &fn);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    bool is_whole = data[0] % 2 != 0;
    data++;
    size--;
    /* A block of its own size: the sanitizer sees each byte that is read beyond it. */
    size_t image_size = is_whole ? size : TEMPLATE_BYTES;
    uint8_t *image = malloc(image_size != 0 ? image_size : 1);
    if (image == NULL)
        return 0;
    if (is_whole) {
        memcpy(image, data, size);
    } else {
        make_template(image);
        for (; size >= 3; data += 3, size -= 3)
            image[(size_t)(data[0] | data[1] << 8) % TEMPLATE_BYTES] = data[2];
    }
    read_image(image, image_size);
    free(image);
    return 0;
}
