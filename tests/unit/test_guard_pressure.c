/* Which allocations fail: the rules as they are written and as they decide; names of stacks; the
 * table of sites. */
#include "guard/fail_spec.h"
#include "guard/site_table.h"
#include "stack/stack.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct fh_fail_spec spec_of(const char *text)
{
    struct fh_fail_spec spec;
    if (fh_fail_parse(text, &spec) != 0)
        fail_msg("not accepted: %s", text);
    return spec;
}

static bool is_failing(struct fh_fail_spec *spec, uint64_t number)
{
    return fh_fail_decide(spec, &(struct fh_fail_question){.number = number});
}

static void test_nth_fails_that_one_alone(void **state)
{
    (void)state;
    struct fh_fail_spec spec = spec_of("nth=3");
    for (uint64_t i = 1; i < 10; i++)
        assert_int_equal(is_failing(&spec, i), i == 3);
}

static void test_a_range_of_numbers_has_both_its_ends(void **state)
{
    (void)state;
    struct fh_fail_spec spec = spec_of("nth=3..5");
    for (uint64_t i = 1; i < 10; i++)
        assert_int_equal(is_failing(&spec, i), i >= 3 && i <= 5);
}

static void test_an_open_range_has_no_end(void **state)
{
    (void)state;
    struct fh_fail_spec spec = spec_of("nth=3..");
    assert_false(is_failing(&spec, 2));
    assert_true(is_failing(&spec, 3));
    assert_true(is_failing(&spec, UINT64_MAX));
}

static void test_rules_joined_fail_when_one_says_so(void **state)
{
    (void)state;
    struct fh_fail_spec spec = spec_of("nth=2+nth=7");
    for (uint64_t i = 1; i < 10; i++)
        assert_int_equal(is_failing(&spec, i), i == 2 || i == 7);
}

static void test_after_fails_once_that_much_was_allocated(void **state)
{
    (void)state;
    struct fh_fail_spec spec = spec_of("after=4K");
    assert_false(fh_fail_decide(&spec, &(struct fh_fail_question){.allocated = 4095}));
    assert_true(fh_fail_decide(&spec, &(struct fh_fail_question){.allocated = 4096}));
}

static unsigned failures_of(struct fh_fail_spec *spec, unsigned among)
{
    unsigned failures = 0;
    for (uint64_t i = 1; i <= among; i++)
        failures += is_failing(spec, i);
    return failures;
}

static void test_a_rate_is_met(void **state)
{
    (void)state;
    struct fh_fail_spec spec = spec_of("rate=0.1+seed=1");
    /* 10,000 expected of 100,000, standard deviation 95 */
    assert_in_range(failures_of(&spec, 100000), 9500, 10500);
}

static void test_rates_at_the_ends_are_never_and_always(void **state)
{
    (void)state;
    struct fh_fail_spec never = spec_of("rate=0+seed=1"), always = spec_of("rate=100%+seed=1");
    assert_int_equal(failures_of(&never, 10000), 0);
    assert_int_equal(failures_of(&always, 10000), 10000);
}

static void test_a_seed_repeats_a_rate(void **state)
{
    (void)state;
    struct fh_fail_spec one = spec_of("rate=0.5+seed=42"), same = spec_of("rate=50%+seed=42");
    for (uint64_t i = 1; i < 1000; i++)
        assert_int_equal(is_failing(&one, i), is_failing(&same, i));
}

static void test_another_seed_fails_others(void **state)
{
    (void)state;
    struct fh_fail_spec one = spec_of("rate=0.5+seed=42"), other = spec_of("rate=0.5+seed=43");
    unsigned different = 0;
    for (uint64_t i = 1; i < 1000; i++)
        different += is_failing(&one, i) != is_failing(&other, i);
    assert_in_range(different, 400, 600);
}

static void test_a_function_may_be_failed_the_nth_time(void **state)
{
    (void)state;
    struct fh_fail_spec spec = spec_of("site=parse_*:2");
    struct fh_fail_question without = {.number = 1}, with = {.number = 2, .functions = 1};
    assert_string_equal(spec.rules[0].function, "parse_*");
    assert_false(fh_fail_decide(&spec, &with));
    assert_false(fh_fail_decide(&spec, &without));
    assert_true(fh_fail_decide(&spec, &with));
    assert_false(fh_fail_decide(&spec, &with));
}

static void test_persist_fails_all_after_the_first(void **state)
{
    (void)state;
    struct fh_fail_spec spec = spec_of("nth=3+persist");
    for (uint64_t i = 1; i < 10; i++)
        assert_int_equal(is_failing(&spec, i), i >= 3);
}

static void test_a_stack_fails_by_its_name(void **state)
{
    (void)state;
    struct fh_fail_spec spec = spec_of("site=0xabcdef0123456789");
    assert_true(spec.has_sites);
    assert_true(fh_fail_decide(&spec, &(struct fh_fail_question){.site = 0xabcdef0123456789u}));
    assert_false(fh_fail_decide(&spec, &(struct fh_fail_question){.site = 0xabcdef0123456788u}));
}

static void test_nonsense_is_refused(void **state)
{
    (void)state;
    static const char *const nonsense[] = {
        "",
        "nth",
        "nth=",
        "nth=0",
        "nth=x",
        "nth=3x",
        "nth=5..3",
        "nth=1...2",
        "nth=-1",
        "nth=99999999999999999999",
        "rate=",
        "rate=2",
        "rate=-0.1",
        "rate=1e-3",
        "rate=0.5x",
        "rate=0.1.2",
        "rate=.",
        "rate=200%",
        "seed=1",
        "nth=1+seed=1",
        "rate=0.5+seed=",
        "site=",
        "site=:3",
        "site=f:0",
        "site=f:x",
        "site=0x",
        "site=0xg",
        "site=0x12345678901234567",
        "after=",
        "after=5Q",
        "after=K",
        "persist",
        "nth=1+persist=1",

        "nth=1+",
        "+nth=1",
        "nth=1++nth=2",
        "ninth=9",
        "nth=1+nth=2+nth=3+nth=4+nth=5+nth=6+nth=7+nth=8+nth=9",
    };
    for (size_t i = 0; i < sizeof nonsense / sizeof nonsense[0]; i++) {
        struct fh_fail_spec spec;
        if (fh_fail_parse(nonsense[i], &spec) != -EINVAL)
            fail_msg("accepted: \"%s\"", nonsense[i]);
    }
}

static void test_a_text_without_end_is_refused(void **state)
{
    (void)state;
    struct fh_fail_spec spec;
    char text[2000];
    memset(text, '9', sizeof text - 1);
    memcpy(text, "site=", 5);
    text[sizeof text - 1] = 0;
    assert_int_equal(fh_fail_parse(text, &spec), -EINVAL);
    text[300] = 0; /* fits the copy, but not a name */
    assert_int_equal(fh_fail_parse(text, &spec), -EINVAL);
}

static void test_sizes_have_suffixes(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        size_t size;
    } sizes[] = {{"0", 0},
                 {"17", 17},
                 {"3k", 3072},
                 {"3K", 3072},
                 {"64M", 64 << 20},
                 {"64MiB", 64 << 20},
                 {"2G", (size_t)2 << 30},
                 {"1T", (size_t)1 << 40}};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        size_t size = 1;
        assert_true(fh_parse_size(sizes[i].text, &size));
        assert_int_equal(size, sizes[i].size);
    }
}

static void test_sizes_beyond_64_bits_are_refused(void **state)
{
    (void)state;
    size_t size;
    assert_false(fh_parse_size("18446744073709551616", &size));
    assert_false(fh_parse_size("99999999999G", &size));
    assert_false(fh_parse_size("12 M", &size));
    assert_false(fh_parse_size("1MM", &size));
}

static void test_globs(void **state)
{
    (void)state;
    assert_true(fh_glob_matches("main", "main"));
    assert_false(fh_glob_matches("main", "mainly"));
    assert_false(fh_glob_matches("main", "domain"));
    assert_true(fh_glob_matches("*main", "domain"));
    assert_true(fh_glob_matches("lua?_*", "luaH_new"));
    assert_true(fh_glob_matches("*a*b*", "xxaxxabxx"));
    assert_true(fh_glob_matches("*", ""));
    assert_false(fh_glob_matches("?", ""));
    assert_false(fh_glob_matches("a*b", "aXbX"));
}

/* ---- names of stacks ------------------------------------------------------------------------- */

enum { FRAMES = 32 };

struct stack {
    uintptr_t frames[FRAMES];
    size_t len;
};

static __attribute__((noinline)) struct stack stack_here(void)
{
    struct stack stack;
    stack.len = fh_stack_capture(NULL, stack.frames, FRAMES, 0);
    return stack;
}

static void test_a_stack_has_one_name(void **state)
{
    (void)state;
    uint64_t names[2];
    for (volatile int i = 0; i < 2; i++) { /* one call, not two */
        struct stack stack = stack_here();
        names[i] = fh_site_name(stack.frames, stack.len);
    }
    assert_true(names[0] == names[1]);
}

static void test_different_stacks_have_different_names(void **state)
{
    (void)state;
    struct stack one = stack_here(), other = stack_here();
    assert_true(fh_site_name(one.frames, one.len) != fh_site_name(other.frames, other.len));
    assert_true(fh_site_name(one.frames, one.len) != fh_site_name(one.frames, one.len - 1));
}

static void test_a_name_begins_as_its_innermost_frame_says(void **state)
{
    (void)state;
    struct stack stack = stack_here();
    for (size_t i = 1; i <= stack.len; i++)
        assert_int_equal((uint16_t)fh_site_name(stack.frames, i),
                         fh_site_name_begin(stack.frames[0]));
}

static void test_the_empty_stack_has_a_name_too(void **state)
{
    (void)state;
    assert_true(fh_site_name(NULL, 0) != 0);
}

/* The program writes the name of a stack when it is run so: in another process, at other
 * addresses. */
static const char *own_path;

static __attribute__((noinline)) void print_name(FILE *out)
{
    uintptr_t frames[FRAMES];
    /* This frame and its caller: further out the two ways to here differ. */
    size_t n = fh_stack_capture(NULL, frames, 1, 0);
    fprintf(out, "%llx %p\n", (unsigned long long)fh_site_name(frames, n), (void *)frames[0]);
    fflush(out);
}

static void test_a_name_is_the_same_in_every_run(void **state)
{
    (void)state;
    char command[4200], lines[2][80];
    snprintf(command, sizeof command, "'%s' --print-name", own_path);
    for (int i = 0; i < 2; i++) {
        FILE *pipe = popen(command, "r"); /* NOLINT: our own path */
        assert_non_null(pipe);
        assert_non_null(fgets(lines[i], sizeof lines[i], pipe));
        pclose(pipe);
        *strchr(lines[i], ' ') = 0;
    }
    assert_string_equal(lines[0], lines[1]);
}

/* ---- the table ------------------------------------------------------------------------------- */

static struct fh_site_table *new_table(void)
{
    struct fh_site_table *table = calloc(1, sizeof *table);
    assert_non_null(table);
    table->magic = FH_TABLE_MAGIC;
    return table;
}

static const struct fh_table_site *site_in(const struct fh_site_table *table, uint64_t name)
{
    for (size_t i = 0; i < FH_TABLE_SITES; i++)
        if (table->sites[i].site == name)
            return &table->sites[i];
    return NULL;
}

static void test_the_table_counts_a_sites_allocations(void **state)
{
    (void)state;
    struct fh_site_table *table = new_table();
    struct stack stack = stack_here();
    for (uint64_t i = 1; i <= 5; i++)
        fh_site_table_count(table, stack.frames, stack.len, 100 + i, 7, "calloc");
    const struct fh_table_site *site = site_in(table, fh_site_name(stack.frames, stack.len));
    assert_non_null(site);
    assert_int_equal(site->count, 5);
    assert_int_equal(site->bytes, 35);
    assert_int_equal(site->first, 101);
    assert_string_equal(site->function, "calloc");
    assert_int_equal(table->allocations, 5);
    free(table);
}

static void test_the_table_has_the_stack_by_module_and_offset(void **state)
{
    (void)state;
    struct fh_site_table *table = new_table();
    struct stack stack = stack_here();
    fh_site_table_count(table, stack.frames, stack.len, 1, 7, "calloc");
    const struct fh_table_site *site = site_in(table, fh_site_name(stack.frames, stack.len));
    assert_int_equal(site->stack.len, stack.len);
    uint64_t module = site->stack.frames[0] >> FH_TABLE_MODULE_SHIFT;
    assert_in_range(module, 1, FH_TABLE_MODULES);
    assert_int_equal(table->modules[module - 1].is_ready, 1);
    assert_string_equal(strrchr(table->modules[module - 1].path, '/'), strrchr(own_path, '/'));
    free(table);
}

static void test_a_full_table_says_what_it_lost(void **state)
{
    (void)state;
    struct fh_site_table *table = new_table();
    for (size_t i = 0; i < FH_TABLE_SITES; i++)
        table->sites[i].site = 1;
    struct stack stack = stack_here();
    fh_site_table_count(table, stack.frames, stack.len, 1, 7, "calloc");
    assert_int_equal(table->lost, 1);
    assert_int_equal(table->allocations, 1);
    free(table);
}

static void test_a_file_that_is_no_table_is_refused(void **state)
{
    (void)state;
    char path[] = "/tmp/freehold-no-table-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, sizeof(struct fh_site_table)), 0);
    assert_null(fh_site_table_map(path));
    close(fd);
    unlink(path);
    assert_null(fh_site_table_map(path));
}

static void test_the_first_crash_is_kept(void **state)
{
    (void)state;
    struct fh_site_table *table = new_table();
    struct stack stack = stack_here();
    fh_site_table_crashed(table, 11, 0x10, false, stack.frames, stack.len);
    fh_site_table_crashed(table, 6, 0, false, stack.frames, 1);
    assert_int_equal(table->crash.is_ready, 1);
    assert_int_equal(table->crash.signal, 11);
    assert_int_equal(table->crash.stack.len, stack.len);
    free(table);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nth_fails_that_one_alone),
        cmocka_unit_test(test_a_range_of_numbers_has_both_its_ends),
        cmocka_unit_test(test_an_open_range_has_no_end),
        cmocka_unit_test(test_rules_joined_fail_when_one_says_so),
        cmocka_unit_test(test_after_fails_once_that_much_was_allocated),
        cmocka_unit_test(test_a_rate_is_met),
        cmocka_unit_test(test_rates_at_the_ends_are_never_and_always),
        cmocka_unit_test(test_a_seed_repeats_a_rate),
        cmocka_unit_test(test_another_seed_fails_others),
        cmocka_unit_test(test_a_function_may_be_failed_the_nth_time),
        cmocka_unit_test(test_persist_fails_all_after_the_first),
        cmocka_unit_test(test_a_stack_fails_by_its_name),
        cmocka_unit_test(test_nonsense_is_refused),
        cmocka_unit_test(test_a_text_without_end_is_refused),
        cmocka_unit_test(test_sizes_have_suffixes),
        cmocka_unit_test(test_sizes_beyond_64_bits_are_refused),
        cmocka_unit_test(test_globs),
        cmocka_unit_test(test_a_stack_has_one_name),
        cmocka_unit_test(test_different_stacks_have_different_names),
        cmocka_unit_test(test_a_name_begins_as_its_innermost_frame_says),
        cmocka_unit_test(test_the_empty_stack_has_a_name_too),
        cmocka_unit_test(test_a_name_is_the_same_in_every_run),
        cmocka_unit_test(test_the_table_counts_a_sites_allocations),
        cmocka_unit_test(test_the_table_has_the_stack_by_module_and_offset),
        cmocka_unit_test(test_a_full_table_says_what_it_lost),
        cmocka_unit_test(test_a_file_that_is_no_table_is_refused),
        cmocka_unit_test(test_the_first_crash_is_kept),
    };
    own_path = argv[0];
    if (argc == 2 && strcmp(argv[1], "--print-name") == 0) {
        print_name(stdout);
        return 0;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
