/* Regions whose access is switched: what protect.h promises. */
#include "freehold/arena.h"
#include "freehold/pool.h"
#include "freehold/protect.h"
#include "freehold/tlsf.h"
#include "guard/guard.h"
#include "guard_faults.h"
#include "os/mem.h"
#include "told.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

static struct fh_protected region;
static unsigned char *block;

static int open_block(void **state)
{
    (void)state;
    block = fh_protected_alloc(&region, 100, 0);
    return block == NULL;
}

static int close_block(void **state)
{
    (void)state;
    fh_os_force_features(~0u);
    fh_os_fail_after(0, false);
    return region.base != NULL && !region.is_sealed ? fh_protected_free(&region) : 0;
}

/* ---- access ---------------------------------------------------------------------------------- */

static void test_a_block_is_zero_and_writable_at_first(void **state)
{
    (void)state;
    for (int i = 0; i < 100; i++)
        assert_int_equal(block[i], 0);
    memset(block, 1, 100);
    assert_int_equal((uintptr_t)block % 16, 0);
    assert_int_equal(fh_protect_now(&region), FH_PROTECT_WRITE);
}

static void test_a_read_only_region_can_be_read_and_not_written(void **state)
{
    (void)state;
    assert_int_equal(fh_protect(&region, FH_PROTECT_READ), 0);
    assert_true(can_read(block));
    assert_false(can_write(block));
}

static void test_a_closed_region_can_not_even_be_read(void **state)
{
    (void)state;
    block[5] = 7;
    assert_int_equal(fh_protect(&region, FH_PROTECT_NONE), 0);
    assert_false(can_read(block));
    assert_int_equal(fh_protect(&region, FH_PROTECT_READ), 0);
    assert_int_equal(block[5], 7);
}

static void test_writing_is_open_until_the_last_writer_ends(void **state)
{
    (void)state;
    fh_protect(&region, FH_PROTECT_READ);
    assert_int_equal(fh_protect_begin_write(&region), 0);
    assert_int_equal(fh_protect_begin_write(&region), 0);
    block[0] = 1;
    assert_int_equal(fh_protect_end_write(&region), 0);
    block[0] = 2;
    assert_int_equal(fh_protect_end_write(&region), 0);
    assert_false(can_write(block));
    assert_true(can_read(block));
}

static void test_a_reader_that_outlives_a_writer_still_reads(void **state)
{
    (void)state;
    fh_protect(&region, FH_PROTECT_NONE);
    assert_int_equal(fh_protect_begin_read(&region), 0);
    assert_int_equal(fh_protect_begin_write(&region), 0);
    assert_int_equal(fh_protect_end_write(&region), 0);
    assert_true(can_read(block));
    assert_false(can_write(block));
    assert_int_equal(fh_protect_end_read(&region), 0);
    assert_false(can_read(block));
}

static void test_the_access_at_rest_may_change_while_a_writer_is_at_work(void **state)
{
    (void)state;
    assert_int_equal(fh_protect_begin_write(&region), 0);
    assert_int_equal(fh_protect(&region, FH_PROTECT_NONE), 0);
    block[0] = 1;
    assert_int_equal(fh_protect_end_write(&region), 0);
    assert_false(can_read(block));
}

static void test_an_end_without_a_begin_is_refused(void **state)
{
    (void)state;
    fh_protect(&region, FH_PROTECT_READ);
    assert_int_equal(fh_protect_end_write(&region), -EINVAL);
    assert_int_equal(fh_protect_end_read(&region), -EINVAL);
    assert_int_equal(errno, EINVAL);
    assert_int_equal(fh_protect_now(&region), FH_PROTECT_READ);
}

static void test_a_refused_switch_changes_nothing(void **state)
{
    (void)state;
    fh_protect(&region, FH_PROTECT_READ);
    fh_os_fail_after(1, true);
    assert_int_equal(fh_protect_begin_write(&region), -ENOMEM);
    assert_int_equal(fh_protect(&region, FH_PROTECT_NONE), -ENOMEM);
    fh_os_fail_after(0, false);
    assert_int_equal(fh_protect_now(&region), FH_PROTECT_READ);
    assert_int_equal(fh_protect_end_write(&region), -EINVAL);
}

/* Many threads open and close; each writes only between, so none may trap. */
static void *write_often(void *context)
{
    for (int i = 0; i < 500; i++) {
        if (fh_protect_begin_write(&region) != 0)
            return context;
        __atomic_fetch_add(&block[0], 1, __ATOMIC_RELAXED);
        if (fh_protect_end_write(&region) != 0)
            return context;
    }
    return NULL;
}

static void test_threads_open_and_close_independently(void **state)
{
    pthread_t threads[4];

    (void)state;
    fh_protect(&region, FH_PROTECT_NONE);
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, write_often, &region), 0);
    for (int i = 0; i < 4; i++) {
        void *failed = NULL;
        pthread_join(threads[i], &failed);
        assert_null(failed);
    }
    assert_int_equal(fh_protect_now(&region), FH_PROTECT_NONE);
    fh_protect(&region, FH_PROTECT_READ);
    assert_int_equal(block[0], 2000 % 256);
}

/* ---- bounds ---------------------------------------------------------------------------------- */

static void test_the_first_byte_behind_the_block_traps(void **state)
{
    (void)state;
    struct fh_protected exact;
    unsigned char *at = fh_protected_alloc(&exact, 64, 0);
    assert_non_null(at);
    assert_true(can_write(at + 63));
    assert_false(can_write(at + 64));
    assert_false(can_read(at + 64));
    assert_int_equal(fh_protected_free(&exact), 0);
}

static void test_a_page_in_front_of_the_block_traps(void **state)
{
    (void)state;
    assert_false(can_read(region.base - 1));
}

static void test_damage_behind_the_block_is_reported_when_it_is_freed(void **state)
{
    (void)state;
    block[100] = 1; /* within the last 16 bytes, where no page ends */
    struct told told = told_begin();
    assert_int_equal(fh_protected_free(&region), 0);
    assert_true(told_end(told, "heap-buffer-overflow"));
}

static void test_damage_in_front_of_the_block_is_reported_when_it_is_freed(void **state)
{
    (void)state;
    block[-1] ^= 1;
    struct told told = told_begin();
    assert_int_equal(fh_protected_free(&region), 0);
    assert_true(told_end(told, "heap-buffer-underflow"));
}

static void test_an_undamaged_block_is_freed_in_silence(void **state)
{
    (void)state;
    memset(block, 0xff, 100);
    struct told told = told_begin();
    assert_int_equal(fh_protected_free(&region), 0);
    assert_true(told_end(told, NULL));
}

/* ---- secrets --------------------------------------------------------------------------------- */

static void has_nothing(void *address)
{
    if (*(volatile unsigned char *)address != 0)
        abort();
}

static void test_a_child_finds_zeroes_in_place_of_a_secret(void **state)
{
    struct fh_protected vault;

    (void)state;
    unsigned char *key = fh_protected_alloc(&vault, 32, FH_PROTECT_SECRET);
    assert_non_null(key);
    key[3] = 42;
    assert_int_equal(signal_of(has_nothing, key + 3), 0);
    assert_int_equal(key[3], 42);
    assert_int_equal(fh_protected_free(&vault), 0);
}

static void frees_in_child(void *context)
{
    if (fh_protected_free(context) != 0)
        abort();
}

static void test_a_child_may_free_a_wiped_secret(void **state)
{
    struct fh_protected vault;

    (void)state;
    assert_non_null(fh_protected_alloc(&vault, 33, FH_PROTECT_SECRET));
    assert_int_equal(signal_of(frees_in_child, &vault), 0);
    assert_int_equal(fh_protected_free(&vault), 0);
}

/* The flags of the mapping that holds an address, as /proc/self/smaps has them. */
static bool has_flag(const void *address, const char *flag)
{
    FILE *maps = fopen("/proc/self/smaps", "re");
    char line[512];
    bool is_it = false, has = false;
    while (fgets(line, sizeof line, maps) != NULL) {
        unsigned long low, high;
        if (sscanf(line, "%lx-%lx ", &low, &high) == 2)
            is_it = (uintptr_t)address >= low && (uintptr_t)address < high;
        else if (is_it && strncmp(line, "VmFlags:", 8) == 0)
            has = strstr(line, flag) != NULL;
    }
    fclose(maps);
    return has;
}

static void test_a_secret_is_not_dumped_and_not_swapped(void **state)
{
    struct fh_protected vault;

    (void)state;
    unsigned char *key = fh_protected_alloc(&vault, 32, FH_PROTECT_SECRET);
    assert_non_null(key);
    assert_true(has_flag(key, " dd"));
    assert_true(has_flag(key, " wf"));
    if (fh_protected_is_locked(&vault))
        assert_true(has_flag(key, " lo"));
    assert_false(has_flag(block, " dd"));
    assert_int_equal(fh_protected_free(&vault), 0);
}

static void test_a_secret_is_had_where_memory_can_not_be_locked(void **state)
{
    enum { RESERVING, COMMITTING, LOCKING };
    struct fh_protected vault;

    (void)state;
    fh_os_fail_after(LOCKING + 1, false);
    assert_non_null(fh_protected_alloc(&vault, 32, FH_PROTECT_SECRET));
    assert_false(fh_protected_is_locked(&vault));
    assert_int_equal(fh_protected_free(&vault), 0);
}

/* ---- sealing --------------------------------------------------------------------------------- */

static void test_what_is_sealed_can_not_be_opened(void **state)
{
    (void)state;
    fh_protect(&region, FH_PROTECT_READ);
    assert_in_range(fh_protect_seal(&region), 0, 1);
    assert_int_equal(fh_protect_begin_write(&region), -EPERM);
    assert_int_equal(fh_protect(&region, FH_PROTECT_WRITE), -EPERM);
    assert_int_equal(fh_protected_free(&region), -EPERM);
    assert_int_equal(fh_protect_begin_read(&region), 0);
    assert_int_equal(fh_protect_end_read(&region), 0);
    assert_true(can_read(block));
}

static void test_the_kernel_refuses_to_open_what_is_sealed(void **state)
{
    (void)state;
    if (!(fh_os_features() & FH_OS_SEAL))
        skip();
    fh_protect(&region, FH_PROTECT_READ);
    assert_int_equal(fh_protect_seal(&region), 0);
    assert_int_equal(mprotect(region.base, fh_os_page_size, PROT_READ | PROT_WRITE), -1);
    assert_int_equal(errno, EPERM);
    assert_int_equal(munmap(region.base, fh_os_page_size), -1);
}

static void test_an_older_kernel_seals_by_refusal_alone(void **state)
{
    (void)state;
    fh_os_force_features(~(unsigned)FH_OS_SEAL);
    fh_protect(&region, FH_PROTECT_READ);
    assert_int_equal(fh_protect_seal(&region), 1);
    assert_int_equal(fh_protect_begin_write(&region), -EPERM);
}

static void test_only_a_read_only_region_without_writers_is_sealed(void **state)
{
    (void)state;
    assert_int_equal(fh_protect_seal(&region), -EINVAL);
    fh_protect(&region, FH_PROTECT_READ);
    fh_protect_begin_write(&region);
    assert_int_equal(fh_protect_seal(&region), -EBUSY);
    fh_protect_end_write(&region);
}

/* ---- managers -------------------------------------------------------------------------------- */

static void test_an_arena_is_writable_between_begin_and_end_only(void **state)
{
    struct fh_protected ground;
    struct fh_arena arena;

    (void)state;
    const struct fh_source *source = fh_protected_source(&ground, 0);
    assert_int_equal(fh_arena_init(&arena, &(struct fh_arena_options){.place = FH_PLACE_SOURCE(
                                                                          source, 1 << 20)}),
                     0);
    char *name = fh_arena_strdup(&arena, "threads=4");
    assert_int_equal(fh_protect(&ground, FH_PROTECT_READ), 0);
    assert_string_equal(name, "threads=4");
    assert_false(can_write(name));
    fh_protect_begin_write(&ground);
    assert_non_null(fh_arena_alloc(&arena, 300 << 10)); /* more memory is taken meanwhile */
    fh_protect_end_write(&ground);
    assert_false(can_write(name));
    fh_protect(&ground, FH_PROTECT_WRITE);
    fh_arena_destroy(&arena);
    assert_null(ground.base);
}

static void test_a_region_that_is_closed_takes_no_more_memory(void **state)
{
    struct fh_protected ground;

    (void)state;
    const struct fh_source *source = fh_protected_source(&ground, 0);
    unsigned char *base = source->reserve(source->self, 1 << 20, 1 << 16);
    assert_non_null(base);
    assert_int_equal((uintptr_t)base % (1 << 16), 0);
    assert_int_equal(source->commit(source->self, base, 1 << 16), 0);
    fh_protect(&ground, FH_PROTECT_READ);
    assert_int_equal(source->commit(source->self, base + (1 << 16), 1 << 16), -EACCES);
    fh_protect(&ground, FH_PROTECT_WRITE);
    source->release(source->self, base, 1 << 20);
}

static void test_a_pool_and_tlsf_live_in_protected_memory(void **state)
{
    struct fh_protected grounds[2];
    struct fh_pool pool;
    struct fh_tlsf tlsf;

    (void)state;
    struct fh_place_options places[2];
    for (int i = 0; i < 2; i++)
        places[i] = FH_PLACE_SOURCE(fh_protected_source(&grounds[i], 0), 4 << 20);
    assert_int_equal(fh_pool_init(&pool, &(struct fh_pool_options){.place = places[0], .size = 48}),
                     0);
    assert_int_equal(fh_tlsf_init(&tlsf, &(struct fh_tlsf_options){.place = places[1]}), 0);
    void *object = fh_pool_alloc(&pool), *text = fh_tlsf_alloc(&tlsf, 1000);
    for (int i = 0; i < 2; i++)
        fh_protect(&grounds[i], FH_PROTECT_READ);
    assert_false(can_write(object));
    assert_false(can_write(text));
    for (int i = 0; i < 2; i++)
        fh_protect(&grounds[i], FH_PROTECT_WRITE);
    fh_pool_free(&pool, object);
    fh_tlsf_free(&tlsf, text);
    fh_pool_destroy(&pool);
    fh_tlsf_destroy(&tlsf);
}

/* ---- errors ---------------------------------------------------------------------------------- */

static void test_nonsense_is_refused(void **state)
{
    struct fh_protected none;

    (void)state;
    assert_null(fh_protected_alloc(&none, 0, 0));
    assert_int_equal(errno, EINVAL);
    assert_null(fh_protected_alloc(&none, 10, 1u << 9));
    assert_null(fh_protected_alloc(&none, SIZE_MAX - 10, 0));
    assert_int_equal(errno, ENOMEM);
    assert_int_equal(fh_protect(&none, FH_PROTECT_READ), -EINVAL);
    assert_int_equal(fh_protected_free(&none), -EINVAL);
    assert_int_equal(fh_protect(&region, (enum fh_protection)7), -EINVAL);
}

static void test_each_failing_request_leaves_nothing_behind(void **state)
{
    struct fh_protected other;

    (void)state;
    unsigned char *got = NULL;
    unsigned failures = 0;
    for (unsigned n = 1; got == NULL && n < 10; n++) {
        fh_os_fail_after(n, false);
        got = fh_protected_alloc(&other, 5000, 0);
        fh_os_fail_after(0, false);
        if (got == NULL) {
            failures++;
            assert_int_equal(errno, ENOMEM);
            assert_null(other.base);
        }
    }
    assert_in_range(failures, 2, 8);
    assert_int_equal(fh_protected_free(&other), 0);
}

static void test_reports_can_say_what_is_wrong_with_an_access(void **state)
{
    (void)state;
    fh_protect(&region, FH_PROTECT_READ);
    assert_non_null(strstr(fh_region_explain(block), "read-only"));
    assert_non_null(strstr(fh_region_explain(region.base - 1), "guard page"));
    fh_protect(&region, FH_PROTECT_NONE);
    assert_non_null(strstr(fh_region_explain(block), "inaccessible"));
    assert_null(fh_region_explain(&region));
    unsigned char *was = block;
    assert_int_equal(fh_protected_free(&region), 0);
    assert_null(fh_region_explain(was));
}

int main(void)
{
#define WITH_BLOCK(test) cmocka_unit_test_setup_teardown(test, open_block, close_block)
    const struct CMUnitTest tests[] = {
        WITH_BLOCK(test_a_block_is_zero_and_writable_at_first),
        WITH_BLOCK(test_a_read_only_region_can_be_read_and_not_written),
        WITH_BLOCK(test_a_closed_region_can_not_even_be_read),
        WITH_BLOCK(test_writing_is_open_until_the_last_writer_ends),
        WITH_BLOCK(test_a_reader_that_outlives_a_writer_still_reads),
        WITH_BLOCK(test_the_access_at_rest_may_change_while_a_writer_is_at_work),
        WITH_BLOCK(test_an_end_without_a_begin_is_refused),
        WITH_BLOCK(test_a_refused_switch_changes_nothing),
        WITH_BLOCK(test_threads_open_and_close_independently),
        WITH_BLOCK(test_the_first_byte_behind_the_block_traps),
        WITH_BLOCK(test_a_page_in_front_of_the_block_traps),
        WITH_BLOCK(test_damage_behind_the_block_is_reported_when_it_is_freed),
        WITH_BLOCK(test_damage_in_front_of_the_block_is_reported_when_it_is_freed),
        WITH_BLOCK(test_an_undamaged_block_is_freed_in_silence),
        WITH_BLOCK(test_a_child_finds_zeroes_in_place_of_a_secret),
        WITH_BLOCK(test_a_child_may_free_a_wiped_secret),
        WITH_BLOCK(test_a_secret_is_not_dumped_and_not_swapped),
        WITH_BLOCK(test_a_secret_is_had_where_memory_can_not_be_locked),
        WITH_BLOCK(test_what_is_sealed_can_not_be_opened),
        WITH_BLOCK(test_the_kernel_refuses_to_open_what_is_sealed),
        WITH_BLOCK(test_an_older_kernel_seals_by_refusal_alone),
        WITH_BLOCK(test_only_a_read_only_region_without_writers_is_sealed),
        WITH_BLOCK(test_an_arena_is_writable_between_begin_and_end_only),
        WITH_BLOCK(test_a_region_that_is_closed_takes_no_more_memory),
        WITH_BLOCK(test_a_pool_and_tlsf_live_in_protected_memory),
        WITH_BLOCK(test_nonsense_is_refused),
        WITH_BLOCK(test_each_failing_request_leaves_nothing_behind),
        WITH_BLOCK(test_reports_can_say_what_is_wrong_with_an_access),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
