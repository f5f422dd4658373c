/*
 * Symbols: a program is compiled here, run to say where it lies and where its lines are, and then looked up as if it
 * had been recorded.
 */
#include "tools/symbols.h"

#include <elf.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

/* Prints its base, end, and of two places the address and line: in `inner`, which is inlined into
 * `outer`, and in `plain`. */
static const char source[] =
    "#include <stdio.h>\n"
    "extern char __ehdr_start[], _end[];\n"
    "struct place { void *at; int line; };\n"
    "#define HERE(p) do { __asm__ volatile(\"lea 0(%%rip), %0\" : \"=r\"((p)->at)); } while (0)\n"
    "static inline __attribute__((always_inline)) void inner(struct place *p) {\n"
    "    HERE(p); p->line = __LINE__; }\n"
    "__attribute__((noinline)) void outer(struct place *p) {\n"
    "    inner(p);\n"
    "    __asm__ volatile(\"\"); }\n"
    "__attribute__((noinline)) void plain(struct place *p) {\n"
    "    HERE(p); p->line = __LINE__;\n"
    "    __asm__ volatile(\"\"); }\n"
    "int main(void) { struct place a, b; outer(&a); plain(&b);\n"
    "    printf(\"%p %p %p %d %p %d\\n\", (void *)__ehdr_start, (void *)_end, a.at, a.line, b.at, "
    "b.line);\n"
    "    return 0; }\n";

struct program {
    char folder[64], path[96];
    uint64_t base, end, in_inner, in_plain;
    int inner_line, plain_line;
};

static void compile(struct program *program, const char *flags)
{
    char command[512];
    char name[128];
    snprintf(program->folder, sizeof(program->folder), "/tmp/freehold-symbols.XXXXXX");
    assert_non_null(mkdtemp(program->folder));
    snprintf(program->path, sizeof(program->path), "%s/program", program->folder);
    snprintf(name, sizeof(name), "%s/program.c", program->folder);
    FILE *file = fopen(name, "w");
    assert_non_null(file);
    fputs(source, file);
    fclose(file);
    snprintf(command, sizeof(command), "cc -O2 %s -Wl,--build-id %s -o %s", flags, name,
             program->path);
    assert_int_equal(system(command), 0);
    FILE *output = popen(program->path, "r");
    assert_non_null(output);
    void *base;
    void *end;
    void *in_inner;
    void *in_plain;
    assert_int_equal(fscanf(output, "%p %p %p %d %p %d", &base, &end, &in_inner,
                            &program->inner_line, &in_plain, &program->plain_line),
                     6);
    pclose(output);
    program->base = (uintptr_t)base;
    program->end = (uintptr_t)end;
    program->in_inner = (uintptr_t)in_inner;
    program->in_plain = (uintptr_t)in_plain;
}

static void discard(const struct program *program)
{
    char command[128];
    snprintf(command, sizeof(command), "rm -rf %s", program->folder);
    assert_int_equal(system(command), 0);
}

static void add(struct symbols *symbols, const struct program *program, uint64_t shift,
                uint64_t from_ns, uint64_t until_ns)
{
    const struct fh_trace_module module = {.begin = program->base + shift,
                                           .end = program->end + shift,
                                           .bias = program->base + shift,
                                           .from_ns = from_ns,
                                           .until_ns = until_ns,
                                           .path = program->path};
    assert_int_equal(symbols_add_module(symbols, &module), 0);
}

static void test_function_and_line(void **state)
{
    (void)state;
    struct program program;
    const struct symbols_frame *frames;
    compile(&program, "-g");
    struct symbols *symbols = symbols_open();
    add(symbols, &program, 0, 0, UINT64_MAX);
    assert_int_equal(symbols_look_up(symbols, program.in_plain - 1, 1, &frames), 1);
    assert_string_equal(frames[0].function, "plain");
    assert_true(frames[0].has_name);
    assert_string_equal(strrchr(frames[0].file, '/') + 1, "program.c");
    assert_int_equal(frames[0].line, program.plain_line);
    assert_string_equal(frames[0].module, program.path);
    assert_null(symbols_hint(symbols, 0));
    symbols_close(symbols);
    discard(&program);
}

static void test_inlined_function_comes_before_the_one_it_is_in(void **state)
{
    (void)state;
    struct program program;
    const struct symbols_frame *frames;
    compile(&program, "-g");
    struct symbols *symbols = symbols_open();
    add(symbols, &program, 0, 0, UINT64_MAX);
    assert_int_equal(symbols_look_up(symbols, program.in_inner - 1, 1, &frames), 2);
    assert_string_equal(frames[0].function, "inner");
    assert_int_equal(frames[0].line, program.inner_line);
    assert_true(frames[0].is_inlined);
    assert_string_equal(frames[1].function, "outer");
    assert_int_equal(frames[1].line, program.inner_line + 2);
    assert_false(frames[1].is_inlined);
    symbols_close(symbols);
    discard(&program);
}

static void test_addresses_of_one_function_have_one_beginning(void **state)
{
    (void)state;
    struct program program;
    compile(&program, "-g");
    struct symbols *symbols = symbols_open();
    add(symbols, &program, 0, 0, UINT64_MAX);
    const uint64_t begin = symbols_function_begin(symbols, program.in_plain, 1);
    assert_true(begin < program.in_plain);
    assert_int_equal(symbols_function_begin(symbols, program.in_plain - 1, 1), begin);
    assert_int_equal(symbols_function_begin(symbols, begin, 1), begin);
    assert_int_not_equal(symbols_function_begin(symbols, program.in_inner, 1), begin);
    symbols_close(symbols);
    discard(&program);
}

static void test_names_without_debug_information_come_with_a_hint(void **state)
{
    (void)state;
    struct program program;
    const struct symbols_frame *frames;
    compile(&program, "-g0");
    struct symbols *symbols = symbols_open();
    add(symbols, &program, 0, 0, UINT64_MAX);
    assert_int_equal(symbols_look_up(symbols, program.in_plain - 1, 1, &frames), 1);
    assert_string_equal(frames[0].function, "plain");
    assert_null(frames[0].file);
    assert_non_null(strstr(symbols_hint(symbols, 0), "-g"));
    assert_null(symbols_hint(symbols, 1));
    symbols_close(symbols);
    discard(&program);
}

static void test_debug_information_in_a_file_of_its_own_is_found(void **state)
{
    (void)state;
    struct program program;
    const struct symbols_frame *frames;
    char command[512];
    compile(&program, "-g");
    snprintf(command, sizeof(command),
             "cd %s && objcopy --only-keep-debug program program.debug && strip program && "
             "objcopy --add-gnu-debuglink=program.debug program",
             program.folder);
    assert_int_equal(system(command), 0);
    struct symbols *symbols = symbols_open();
    add(symbols, &program, 0, 0, UINT64_MAX);
    assert_int_equal(symbols_look_up(symbols, program.in_inner - 1, 1, &frames), 2);
    assert_string_equal(frames[0].function, "inner");
    assert_int_equal(frames[0].line, program.inner_line);
    symbols_close(symbols);
    discard(&program);
}

static void test_a_file_that_is_gone_leaves_module_and_address(void **state)
{
    (void)state;
    struct program program;
    const struct symbols_frame *frames;
    char expected[64];
    compile(&program, "-g");
    discard(&program);
    struct symbols *symbols = symbols_open();
    add(symbols, &program, 0, 0, UINT64_MAX);
    assert_int_equal(symbols_look_up(symbols, program.in_plain, 1, &frames), 1);
    snprintf(expected, sizeof(expected), "program+0x%llx",
             (unsigned long long)(program.in_plain - program.base));
    assert_string_equal(frames[0].function, expected);
    assert_false(frames[0].has_name);
    assert_non_null(strstr(symbols_hint(symbols, 0), "is gone"));
    symbols_close(symbols);
}

static void test_a_file_of_another_build_is_not_believed(void **state)
{
    (void)state;
    static const uint8_t other[20] = {1, 2, 3};
    struct program program;
    const struct symbols_frame *frames;
    compile(&program, "-g");
    struct symbols *symbols = symbols_open();
    const struct fh_trace_module module = {.begin = program.base,
                                           .end = program.end,
                                           .bias = program.base,
                                           .until_ns = UINT64_MAX,
                                           .path = program.path,
                                           .build_id = other,
                                           .build_id_size = sizeof(other)};
    assert_int_equal(symbols_add_module(symbols, &module), 0);
    assert_int_equal(symbols_look_up(symbols, program.in_plain, 1, &frames), 1);
    assert_false(frames[0].has_name);
    assert_non_null(strstr(symbols_hint(symbols, 0), "replaced"));
    symbols_close(symbols);
    discard(&program);
}

static void test_an_address_belongs_to_what_was_loaded_there_then(void **state)
{
    (void)state;
    struct program first;
    struct program second;
    const struct symbols_frame *frames;
    compile(&first, "-g");
    compile(&second, "-g");
    struct symbols *symbols = symbols_open();
    add(symbols, &first, 0, 0, 1000);
    add(symbols, &second, first.base - second.base, 2000, UINT64_MAX);
    const uint64_t address = first.in_plain - 1;
    assert_int_equal(symbols_look_up(symbols, address, 500, &frames), 1);
    assert_string_equal(frames[0].module, first.path);
    assert_int_equal(symbols_look_up(symbols, address, 2500, &frames), 1);
    assert_string_equal(frames[0].module, second.path);
    symbols_close(symbols);
    discard(&first);
    discard(&second);
}

static void test_an_address_in_no_module_is_shown_as_it_is(void **state)
{
    (void)state;
    const struct symbols_frame *frames;
    struct symbols *symbols = symbols_open();
    assert_int_equal(symbols_look_up(symbols, 0x1234, 1, &frames), 1);
    assert_string_equal(frames[0].function, "0x1234");
    assert_null(frames[0].module);
    symbols_close(symbols);
}

/* Where a library's code begins, and how long it is. */
static bool find_code(const char *path, uint64_t *begin, uint64_t *size)
{
    Elf64_Ehdr head;
    Elf64_Phdr part;
    FILE *file = fopen(path, "rb");
    bool is_found = false;
    if (file == NULL)
        return false;
    if (fread(&head, sizeof head, 1, file) == 1 && fseek(file, (long)head.e_phoff, SEEK_SET) == 0)
        for (unsigned i = 0;
             i < head.e_phnum && !is_found && fread(&part, sizeof part, 1, file) == 1; i++)
            is_found = part.p_type == PT_LOAD && (part.p_flags & PF_X) != 0;
    fclose(file);
    *begin = part.p_vaddr;
    *size = part.p_memsz;
    return is_found;
}

static void test_ten_thousand_addresses_take_less_than_two_seconds(void **state)
{
    (void)state;
    enum { ADDRESSES = 10000 };
    char path[512];
    const char *folder = getenv("BUILD_DIR");
    snprintf(path, sizeof(path), "%s/libfreehold.so", folder != NULL ? folder : ".");
    uint64_t code = 0;
    uint64_t size = 0;
    if (!find_code(path, &code, &size)) {
        skip();
    }
    struct symbols *symbols = symbols_open();
    const struct fh_trace_module module = {.begin = 0x10000000,
                                           .end = 0x11000000,
                                           .bias = 0x10000000,
                                           .until_ns = UINT64_MAX,
                                           .path = path};
    assert_int_equal(symbols_add_module(symbols, &module), 0);
    struct timespec from;
    struct timespec until;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &from);
    size_t named = 0;
    for (size_t i = 0; i < ADDRESSES; i++) {
        const struct symbols_frame *frames;
        assert_true(
            symbols_look_up(symbols, module.begin + code + i * size / ADDRESSES, 1, &frames) > 0);
        named += frames[0].has_name;
    }
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &until);
    assert_true(named > ADDRESSES / 2);
    assert_true(
        (double)(until.tv_sec - from.tv_sec) + 1e-9 * (double)(until.tv_nsec - from.tv_nsec) < 2);
    symbols_close(symbols);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_function_and_line),
        cmocka_unit_test(test_inlined_function_comes_before_the_one_it_is_in),
        cmocka_unit_test(test_addresses_of_one_function_have_one_beginning),
        cmocka_unit_test(test_names_without_debug_information_come_with_a_hint),
        cmocka_unit_test(test_debug_information_in_a_file_of_its_own_is_found),
        cmocka_unit_test(test_a_file_that_is_gone_leaves_module_and_address),
        cmocka_unit_test(test_a_file_of_another_build_is_not_believed),
        cmocka_unit_test(test_an_address_belongs_to_what_was_loaded_there_then),
        cmocka_unit_test(test_an_address_in_no_module_is_shown_as_it_is),
        cmocka_unit_test(test_ten_thousand_addresses_take_less_than_two_seconds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
