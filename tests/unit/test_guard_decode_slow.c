/*
 * The decoder of instructions against objdump: the same length and the same memory operand (size,
 * registers, displacement) for every instruction of the C library, and for each opcode of each map
 * with each prefix.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "guard/decode.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>
#include <dlfcn.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { LINE = 1024, SHOWN = 40 };

static unsigned compared, operands, unknown, wrong;

/* ---- As objdump writes it -------------------------------------------------------------------- */

static const struct {
    const char *name;
    size_t size;
} sizes[] = {
    {"BYTE PTR ", 1},   {"WORD PTR ", 2},     {"DWORD PTR ", 4},    {"QWORD PTR ", 8},
    {"TBYTE PTR ", 10}, {"XMMWORD PTR ", 16}, {"YMMWORD PTR ", 32}, {"ZMMWORD PTR ", 64},
    {"FWORD PTR ", 6},  {"OWORD PTR ", 16},   {"BYTE BCST ", 1},    {"WORD BCST ", 2},
    {"DWORD BCST ", 4}, {"QWORD BCST ", 8},
};

/* The size that the text gives to its memory operand; 0: it gives none. */
static size_t size_in(const char *text)
{
    for (size_t i = 0; i < FH_ARRAY_LEN(sizes); i++) {
        const char *found = strstr(text, sizes[i].name);
        /* "DWORD PTR" ends in "WORD PTR". */
        if (found != NULL && (found == text || strchr(" ,\t", found[-1]) != NULL))
            return sizes[i].size;
    }
    return 0;
}

static const char *short_name(unsigned number)
{
    static const char *const names[] = {"eax",  "ecx",  "edx",  "ebx",  "esp",  "ebp",
                                        "esi",  "edi",  "r8d",  "r9d",  "r10d", "r11d",
                                        "r12d", "r13d", "r14d", "r15d", "eip"};
    return names[number];
}

/* "[rax+rcx*8+0x10]" */
static void write_operand(char *text, size_t size, const struct fh_operand *o, unsigned length)
{
    const char *(*name)(unsigned) = o->is_short ? short_name : fh_register_name;
    int64_t displacement = o->displacement - (o->base == FH_REGISTER_RIP ? (int64_t)length : 0);
    size_t len = (size_t)snprintf(text, size, "[");
    if (o->base != FH_NO_REGISTER)
        len += (size_t)snprintf(text + len, size - len, "%s", name(o->base));
    if (o->index != FH_NO_REGISTER)
        len += (size_t)snprintf(text + len, size - len, "%s%s*%u",
                                o->base != FH_NO_REGISTER ? "+" : "", name(o->index), o->scale);
    uint64_t magnitude = displacement < 0 ? -(uint64_t)displacement : (uint64_t)displacement;
    snprintf(text + len, size - len, "%s0x%llx]", displacement < 0 ? "-" : "+",
             (unsigned long long)magnitude);
}

/* objdump's text, brought to the same form: no riz or eiz (an index that is none), no empty
 * displacement left out. */
static void normalise(char *out, size_t size, const char *text)
{
    const char *open = strchr(text, '['), *close = open != NULL ? strchr(open, ']') : NULL;
    if (close == NULL) {
        *out = 0;
        return;
    }
    snprintf(out, size, "%.*s", (int)(close - open), open);
    char *none = strstr(out, "+riz*");
    if (none == NULL)
        none = strstr(out, "+eiz*");
    if (none != NULL)
        memmove(none, none + 6, strlen(none + 6) + 1);
    char *last = out + strlen(out);
    while (last > out && *last != '+' && *last != '-' && *last != '[')
        last--;
    strcat(out, strncmp(last + 1, "0x", 2) == 0 ? "]" : "+0x0]");
}

/* Operands that are an address only, and those whose size objdump says otherwise: expand and
 * compress access as many elements as the mask has, and are counted one at a time here. */
static bool is_left_out(const char *text)
{
    static const char *const names[] = {
        "lea ",     "nop",  "prefetch", "gather",   "scatter",  "xlat",   "clflush",
        "cldemote", "clwb", "inv",      "expand",   "compress", "lfs",    "lgs",
        "lss",      "lar",  "lsl",      "rstorssp", "bnd",      "data16",
    };
    for (size_t i = 0; i < FH_ARRAY_LEN(names); i++)
        if (strstr(text, names[i]) != NULL)
            return true;
    return false;
}

static void mismatch(const uint8_t *code, size_t length, const char *text, const char *got)
{
    if (wrong++ >= SHOWN)
        return;
    char bytes[64] = "";
    for (size_t i = 0; i < length; i++)
        snprintf(bytes + 3 * i, sizeof bytes - 3 * i, "%02x ", code[i]);
    print_error("%s: objdump: %s; here: %s\n", bytes, text, got);
}

/* The operand of ModRM comes first. */
static void compare_operand(const uint8_t *code, size_t length, const char *text,
                            const struct fh_instruction *instruction)
{
    char expected[LINE], got[LINE], said[2 * LINE];
    const struct fh_operand *operand = &instruction->operands[0];
    size_t size = size_in(text);
    normalise(expected, sizeof expected, text);
    if (expected[0] == 0 || is_left_out(text))
        return;
    if (instruction->count == 0) {
        mismatch(code, length, text, "no operand");
        return;
    }
    operands++;
    write_operand(got, sizeof got, operand, instruction->length);
    snprintf(said, sizeof said, "%s of size %zu", got, operand->size);
    bool has_size = size == 0 || size == operand->size || operand->size == 0 ||
                    (size == 6 && (operand->size == 10 || operand->size == 4));
    if (strcmp(expected, got) != 0 || !has_size)
        mismatch(code, length, text, said);
}

/* What is no whole instruction, has bits that must be 0 or a W without a meaning, or is a branch
 * with a prefix that some processors ignore. */
static bool is_nonsense(const uint8_t *code, const char *text)
{
    return strstr(text, "{ba") != NULL || strstr(text, "bad}") != NULL ||
           strstr(text, "(bad)") != NULL || strstr(text, ".byte") != NULL ||
           strstr(text, "rex.W") != NULL ||
           (code[0] == 0x66 && (*text == 'j' || strncmp(text, "call", 4) == 0));
}

static void compare(const uint8_t *code, size_t length, const char *text)
{
    struct fh_instruction instruction;
    char said[64];
    if (is_nonsense(code, text))
        return;
    compared++;
    if (!fh_decode(code, &instruction)) {
        unknown += strchr(text, '[') != NULL && !is_left_out(text);
        return;
    }
    if (instruction.length != length) {
        snprintf(said, sizeof said, "%u bytes", instruction.length);
        mismatch(code, length, text, said);
        return;
    }
    compare_operand(code, length, text, &instruction);
}

/* "  401000:\t48 8b 45 f8 \tmov    rax,QWORD PTR [rbp-0x8]" */
static void read_line(char *line)
{
    uint8_t code[32] = {0};
    size_t length = 0;
    char *bytes = strchr(line, '\t'), *text = bytes != NULL ? strchr(bytes + 1, '\t') : NULL;
    if (text == NULL)
        return;
    *text = 0;
    for (char *at = bytes + 1; length < 15;) {
        char *end;
        unsigned long byte = strtoul(at, &end, 16);
        if (end == at)
            break;
        code[length++] = (uint8_t)byte;
        at = end;
    }
    text++;
    text[strcspn(text, "#\n")] = 0;
    compare(code, length, text);
}

static void compare_with_objdump(const char *options, const char *file)
{
    char command[LINE], line[LINE];
    snprintf(command, sizeof command, "objdump -d -w -M intel %s %s 2>/dev/null", options, file);
    FILE *output = popen(command, "r");
    assert_non_null(output);
    compared = operands = unknown = wrong = 0;
    while (fgets(line, sizeof line, output) != NULL)
        read_line(line);
    pclose(output);
}

static bool has_objdump(void)
{
    return system("command -v objdump >/dev/null 2>&1") == 0;
}

/* ---- Whole libraries ------------------------------------------------------------------------- */

static void test_every_instruction_of_the_c_library(void **state)
{
    (void)state;
    Dl_info info;
    if (!has_objdump())
        skip();
    assert_true(dladdr((void *)(uintptr_t)strlen, &info) != 0 ||
                dladdr((void *)(uintptr_t)malloc, &info) != 0);
    const char *name =
        strstr(info.dli_fname, "libc") != NULL ? info.dli_fname : "/lib/x86_64-linux-gnu/libc.so.6";
    compare_with_objdump("", name);
    print_message("%u instructions, %u memory operands, %u wrong\n", compared, operands, wrong);
    assert_true(compared > 100000 && operands > 50000);
    assert_int_equal(wrong, 0);
    assert_int_equal(unknown, 0);
}

/* ---- Every opcode ---------------------------------------------------------------------------- */

static FILE *codes;

/* An instruction and enough behind it that whatever its length, the next begins at a multiple of
 * 32. */
static void put_code(const uint8_t *code, size_t length)
{
    uint8_t padded[32];
    memset(padded, 0x90, sizeof padded);
    memcpy(padded, code, length);
    fwrite(padded, 1, sizeof padded, codes);
}

/* With each way to address, a displacement and an immediate behind. */
static void put_addressed(const uint8_t *prefix, size_t length)
{
    static const uint8_t ways[][6] = {
        {0x00}, {0x41, 0x10}, {0x84, 0x8d, 0x44, 0x33, 0x22, 0x11}, {0x44, 0xcb, 0x80}};
    for (unsigned digit = 0; digit < 8; digit++) {
        uint8_t code[32] = {0};
        const uint8_t *way = ways[digit % 4];
        memcpy(code, prefix, length);
        memcpy(code + length, way, sizeof ways[0]);
        code[length] = (uint8_t)((way[0] & 0xc7) | digit << 3);
        put_code(code, length + sizeof ways[0] + 4);
    }
}

/* Prefixes, and the beginning of another map. */
static bool is_no_opcode(unsigned byte)
{
    static const uint8_t others[] = {0x0f, 0x26, 0x2e, 0x36, 0x3e, 0x62, 0x64, 0x65,
                                     0x66, 0x67, 0xc4, 0xc5, 0xf0, 0xf2, 0xf3};
    return (byte & 0xf0) == 0x40 || memchr(others, (int)byte, sizeof others) != NULL;
}

static void put_legacy(void)
{
    static const uint8_t prefixes[] = {0, 0x66, 0xf3, 0xf2};
    static const uint8_t maps[][3] = {{0}, {0x0f}, {0x0f, 0x38}, {0x0f, 0x3a}};
    for (unsigned map = 0; map < 4; map++)
        for (unsigned prefix = 0; prefix < 4; prefix++)
            for (unsigned w = 0; w < 2; w++)
                for (unsigned opcode = 0; opcode < 256; opcode++) {
                    uint8_t code[16];
                    size_t length = 0;
                    if (map == 0 && is_no_opcode(opcode))
                        continue;
                    if (prefix != 0)
                        code[length++] = prefixes[prefix];
                    if (w != 0)
                        code[length++] = 0x48;
                    for (unsigned i = 0; i < map && i < 2; i++)
                        code[length++] = maps[map][i];
                    code[length++] = (uint8_t)opcode;
                    put_addressed(code, length);
                }
}

static void put_vex(void)
{
    for (unsigned map = 1; map <= 3; map++)
        for (unsigned bits = 0; bits < 16; bits++) /* W, L, pp */
            for (unsigned opcode = 0; opcode < 256; opcode++) {
                uint8_t last = (uint8_t)((bits & 8) << 4 | 0x78 | (bits & 7));
                uint8_t code[] = {0xc4, (uint8_t)(0xe0 | map), last, (uint8_t)opcode};
                put_addressed(code, sizeof code);
            }
}

static void put_evex(void)
{
    for (unsigned map = 1; map <= 3; map++)
        for (unsigned bits = 0; bits < 64; bits++) /* broadcast, L'L, W, pp */
            for (unsigned opcode = 0; opcode < 256; opcode++) {
                if ((bits >> 3 & 3) == 3)
                    continue;
                uint8_t code[] = {
                    0x62, (uint8_t)(0xf0 | map), (uint8_t)((bits & 4) << 5 | 0x7c | (bits & 3)),
                    (uint8_t)((bits >> 3 & 3) << 5 | (bits & 32) >> 1 | 0x08), (uint8_t)opcode};
                put_addressed(code, sizeof code);
            }
}

/* Each begins at a multiple of 32: what objdump shows of the rest is not looked at. */
static void compare_codes(void (*put)(void), const char *what)
{
    char path[] = "/tmp/freehold-decode.XXXXXX", command[LINE], line[LINE];
    if (!has_objdump())
        skip();
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    codes = fdopen(fd, "w");
    put();
    fclose(codes);
    snprintf(command, sizeof command, "objdump -D -b binary -m i386:x86-64 -w -M intel %s", path);
    FILE *output = popen(command, "r");
    assert_non_null(output);
    compared = operands = unknown = wrong = 0;
    while (fgets(line, sizeof line, output) != NULL)
        if (strchr(line, ':') != NULL && strtoul(line, NULL, 16) % 32 == 0)
            read_line(line);
    pclose(output);
    unlink(path);
    print_message("%s: %u instructions, %u memory operands, %u unknown, %u wrong\n", what, compared,
                  operands, unknown, wrong);
    /* AMD's of four operands, matrices, key locker, those of the system, and prefixes that mean
     * nothing there. */
    assert_true(compared > 10000 && unknown < compared / 8);
    assert_int_equal(wrong, 0);
}

static void test_every_legacy_opcode(void **state)
{
    (void)state;
    compare_codes(put_legacy, "legacy");
}

static void test_every_vex_opcode(void **state)
{
    (void)state;
    compare_codes(put_vex, "VEX");
}

static void test_every_evex_opcode(void **state)
{
    (void)state;
    compare_codes(put_evex, "EVEX");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_instruction_of_the_c_library),
        cmocka_unit_test(test_every_legacy_opcode),
        cmocka_unit_test(test_every_vex_opcode),
        cmocka_unit_test(test_every_evex_opcode),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
