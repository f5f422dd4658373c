/* The memfd source: aliasing, purging, failing. */
#include "freehold/source.h"
#include "os/mem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

enum { PAGE = 65536, PAGES = 16 };

static struct fh_source_memfd memfd;
static const struct fh_source *source;
static unsigned char *base;

static int open_source(void **unused)
{
    (void)unused;
    source = fh_source_memfd_init(&memfd, true);
    base = source->reserve(source->self, PAGE * PAGES, PAGE);
    for (size_t i = 0; base != NULL && i < PAGES; i++)
        memset(base + i * PAGE, (int)i + 1, PAGE);
    return base == NULL;
}

static int close_source(void **unused)
{
    (void)unused;
    source->release(source->self, base, PAGE * PAGES);
    return 0;
}

static size_t bytes_in_memory(void)
{
    size_t bytes = 0;
    for (size_t offset = 0, size; fh_os_next_data(memfd.fd, &offset, &size); offset += size)
        bytes += size;
    return bytes;
}

static int alias(size_t page, size_t onto)
{
    return source->alias(source->self, base + page * PAGE, base + onto * PAGE, PAGE);
}

static int purge(size_t page, size_t pages)
{
    return source->purge(source->self, base + page * PAGE, pages * PAGE);
}

static void test_an_aliased_part_shows_the_others_memory_and_gives_its_own_back(void **unused)
{
    (void)unused;
    assert_int_equal(alias(3, 5), 0);
    assert_int_equal(base[3 * PAGE], 6);
    base[3 * PAGE + 9] = 77;
    assert_int_equal(base[5 * PAGE + 9], 77);
    assert_int_equal(bytes_in_memory(), PAGE * (PAGES - 1));
}

static void test_purging_an_aliased_part_gives_it_zeroes_and_leaves_the_other(void **unused)
{
    (void)unused;
    assert_int_equal(alias(3, 5), 0);
    assert_int_equal(purge(3, 1), 0);
    assert_int_equal(base[3 * PAGE], 0);
    base[3 * PAGE] = 9;
    assert_int_equal(base[5 * PAGE], 6);
    assert_int_equal(purge(2, 3), 0);
    assert_int_equal(base[4 * PAGE], 0);
    assert_int_equal(base[1 * PAGE], 2);
}

static void test_an_alias_of_an_alias_shows_the_first(void **unused)
{
    (void)unused;
    assert_int_equal(alias(3, 5), 0);
    assert_int_equal(alias(7, 3), 0);
    assert_int_equal(purge(3, 1), 0);
    assert_int_equal(base[7 * PAGE], 6);
}

static void test_what_is_not_in_one_piece_is_no_target(void **unused)
{
    (void)unused;
    assert_int_equal(alias(3, 5), 0);
    assert_true(source->alias(source->self, base + 8 * PAGE, base + 3 * PAGE, 2 * PAGE) < 0);
    assert_int_equal(base[8 * PAGE], 9);
}

static void test_an_alias_that_fails_changes_nothing(void **unused)
{
    (void)unused;
    fh_os_fail_after(1, true);
    int aliased = alias(3, 5);
    fh_os_fail_after(0, false);
    assert_true(aliased < 0);
    assert_int_equal(base[3 * PAGE], 4);
    assert_int_equal(alias(3, 5), 0);
    fh_os_fail_after(1, true);
    int purged = purge(3, 1);
    fh_os_fail_after(0, false);
    assert_true(purged < 0);
    assert_int_equal(base[3 * PAGE], 6);
}

static void test_it_serves_one_manager_at_a_time(void **unused)
{
    (void)unused;
    assert_null(source->reserve(source->self, PAGE, PAGE));
}

static void test_capabilities_say_what_fork_does(void **unused)
{
    (void)unused;
    struct fh_source_memfd other;
    assert_int_equal(fh_source_memfd_init(&other, false)->capabilities & FH_SOURCE_FORKABLE, 0);
    assert_true(fh_source_memfd_init(&other, true)->capabilities & FH_SOURCE_FORKABLE);
    assert_null(other.source.reserve(&other, 0, PAGE));
}

#define OVER_A_SOURCE(test) cmocka_unit_test_setup_teardown(test, open_source, close_source)

int main(void)
{
    const struct CMUnitTest tests[] = {
        OVER_A_SOURCE(test_an_aliased_part_shows_the_others_memory_and_gives_its_own_back),
        OVER_A_SOURCE(test_purging_an_aliased_part_gives_it_zeroes_and_leaves_the_other),
        OVER_A_SOURCE(test_an_alias_of_an_alias_shows_the_first),
        OVER_A_SOURCE(test_what_is_not_in_one_piece_is_no_target),
        OVER_A_SOURCE(test_an_alias_that_fails_changes_nothing),
        OVER_A_SOURCE(test_it_serves_one_manager_at_a_time),
        OVER_A_SOURCE(test_capabilities_say_what_fork_does),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
