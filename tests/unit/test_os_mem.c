/* os/mem: what the states of address space promise, whichever tier of the kernel carries them out.
 */
#include "base/core/bits.h"
#include "os/mem.h"
#include "os/sys.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define MiB ((size_t)1 << 20)
static const unsigned all_features = ~0u;

static int start_os(void **state)
{
    (void)state;
    fh_os_init();
    return 0;
}

/* Tests that force features or failures put them back even when they fail. */
static int undo_forcing(void **state)
{
    (void)state;
    fh_os_force_features(all_features);
    fh_os_fail_after(0, false);
    return 0;
}

/* Whether touching the byte ends a process by SIGSEGV. */
static bool faults(volatile char *addr, bool by_writing)
{
    pid_t child = fork();
    if (child == 0) {
        signal(SIGSEGV, SIG_DFL); /* also a sanitizer's handler */
        if (by_writing)
            *addr = 1;
        else
            (void)*addr;
        _exit(0);
    }
    int status = -1;
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV;
}

static void test_page_size_is_the_systems(void **state)
{
    (void)state;
    assert_int_equal(fh_os_page_size, sysconf(_SC_PAGESIZE));
    assert_int_equal((size_t)1 << fh_os_page_shift, fh_os_page_size);
}

static void test_reserved_space_is_aligned_and_cannot_be_touched(void **state)
{
    (void)state;
    for (size_t align = fh_os_page_size; align <= 64 * MiB; align *= 4) {
        char *addr = fh_os_reserve(NULL, MiB, align);
        assert_non_null(addr);
        assert_int_equal((uintptr_t)addr & (align - 1), 0);
        assert_true(faults(addr, false));
        assert_int_equal(fh_os_release(addr, MiB), 0);
    }
}

static void test_aligned_mapping_leaves_nothing_mapped_beside_it(void **state)
{
    (void)state;
    char *addr = fh_os_map_aligned(MiB, 16 * MiB);
    assert_non_null(addr);
    memset(addr, 1, MiB);
    assert_int_equal(fh_os_release(addr, MiB), 0);
    assert_int_equal(fh_os_resident(addr, MiB), -ENOMEM);
}

static void test_a_free_hint_is_taken(void **state)
{
    (void)state;
    char *addr = fh_os_reserve(NULL, MiB, fh_os_page_size);
    assert_int_equal(fh_os_release(addr, MiB), 0);
    assert_ptr_equal(fh_os_reserve(addr, MiB, fh_os_page_size), addr);
    fh_os_release(addr, MiB);
}

static void test_an_impossible_size_is_refused(void **state)
{
    (void)state;
    assert_null(fh_os_reserve(NULL, SIZE_MAX & ~(fh_os_page_size - 1), fh_os_page_size));
    assert_null(fh_os_map_aligned(SIZE_MAX & ~(fh_os_page_size - 1), 2 * MiB));
}

static void test_reserve_at_does_not_replace_what_is_there(void **state)
{
    (void)state;
    char *addr = fh_os_map(MiB);
    addr[0] = 42;
    assert_null(fh_os_reserve_at(addr, MiB));
    assert_int_equal(addr[0], 42);
    fh_os_release(addr, MiB);
    assert_ptr_equal(fh_os_reserve_at(addr, MiB), addr);
    fh_os_release(addr, MiB);
}

static void test_readable_space_reads_zero_and_refuses_writes(void **state)
{
    (void)state;
    char *addr = fh_os_reserve_readable(NULL, MiB);
    assert_non_null(addr);
    assert_int_equal(addr[MiB / 2], 0);
    assert_true(faults(addr, true));
    fh_os_release(addr, MiB);
}

static void test_committed_space_is_zero_and_writable(void **state)
{
    (void)state;
    char *addr = fh_os_reserve(NULL, MiB, fh_os_page_size);
    assert_int_equal(fh_os_commit(addr, MiB / 2), 0);
    assert_int_equal(addr[0], 0);
    memset(addr, 1, MiB / 2);
    assert_true(faults(addr + MiB / 2, false));
    fh_os_release(addr, MiB);
}

static void test_decommitted_space_is_inaccessible_and_zero_when_committed_again(void **state)
{
    (void)state;
    char *addr = fh_os_map(MiB);
    memset(addr, 1, MiB);
    assert_int_equal(fh_os_decommit(addr, MiB), 0);
    assert_true(faults(addr, false));
    assert_int_equal(fh_os_resident(addr, MiB), 0);
    assert_int_equal(fh_os_commit(addr, MiB), 0);
    assert_int_equal(addr[100], 0);
    fh_os_release(addr, MiB);
}

static void test_purged_pages_leave_memory_and_read_zero(void **state)
{
    (void)state;
    char *addr = fh_os_map(MiB);
    memset(addr, 1, MiB);
    assert_int_equal(fh_os_resident(addr, MiB), MiB);
    assert_int_equal(fh_os_purge(addr, MiB / 2), 0);
    assert_int_equal(fh_os_resident(addr, MiB), MiB / 2);
    assert_int_equal(addr[0], 0);
    assert_int_equal(addr[MiB - 1], 1);
    fh_os_release(addr, MiB);
}

/* In a child, for the lock is the whole process's. 77: this machine lets nobody lock. */
static int purge_under_mlockall(void)
{
    if (mlockall(MCL_CURRENT | MCL_FUTURE) != 0)
        return 77;
    char *addr = fh_os_reserve(NULL, 4 * MiB, fh_os_page_size);
    if (addr == NULL || fh_os_commit(addr, MiB) != 0)
        return 1;
    memset(addr, 1, MiB);
    if (fh_os_purge(addr, MiB) != 0 || fh_os_resident(addr, MiB) != 0 || addr[0] != 0)
        return 2;
    if (fh_os_guard(addr, fh_os_page_size) != 0 || fh_os_unguard(addr, fh_os_page_size) != 0)
        return 3;
    addr[0] = 1;
    return fh_os_decommit(addr, MiB) == 0 ? 0 : 4;
}

static void test_locked_memory_can_be_purged_guarded_and_decommitted(void **state)
{
    (void)state;
    pid_t child = fork();
    if (child == 0)
        _exit(purge_under_mlockall());
    int status = -1;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == 77)
        skip();
    assert_int_equal(WEXITSTATUS(status), 0);
}

static void test_populated_pages_are_resident(void **state)
{
    (void)state;
    char *addr = fh_os_map(MiB);
    int result = fh_os_populate(addr, MiB);
    if (result == -ENOSYS)
        skip();
    assert_int_equal(result, 0);
    assert_int_equal(fh_os_resident(addr, MiB), MiB);
    fh_os_release(addr, MiB);
}

static void test_populate_says_when_the_kernel_is_too_old(void **state)
{
    (void)state;
    char *addr = fh_os_map(MiB);
    fh_os_force_features(all_features & ~(unsigned)FH_OS_POPULATE);
    assert_int_equal(fh_os_populate(addr, MiB), -ENOSYS);
    assert_int_equal(fh_os_resident(addr, MiB), 0);
    fh_os_release(addr, MiB);
}

static void test_remap_keeps_the_content(void **state)
{
    (void)state;
    char *addr = fh_os_map(MiB);
    memset(addr, 7, MiB);
    char *moved = fh_os_remap(addr, MiB, 8 * MiB, true);
    assert_non_null(moved);
    assert_int_equal(moved[MiB - 1], 7);
    assert_int_equal(moved[8 * MiB - 1], 0);
    fh_os_release(moved, 8 * MiB);
}

static void test_remap_in_place_fails_where_something_follows(void **state)
{
    (void)state;
    char *addr = fh_os_reserve(NULL, 2 * MiB, fh_os_page_size);
    assert_int_equal(fh_os_commit(addr, MiB), 0);
    assert_null(fh_os_remap(addr, MiB, 2 * MiB, false));
    addr[MiB - 1] = 1;
    fh_os_release(addr, 2 * MiB);
}

static void test_remap_to_lands_on_the_reserved_range(void **state)
{
    (void)state;
    char *addr = fh_os_map(MiB);
    memset(addr, 7, MiB);
    char *target = fh_os_reserve(NULL, MiB, 2 * MiB);
    assert_ptr_equal(fh_os_remap_to(addr, MiB, MiB, target), target);
    assert_int_equal(target[MiB - 1], 7);
    fh_os_release(target, MiB);
}

static void test_a_failed_remap_to_leaves_the_target_reserved(void **state)
{
    (void)state;
    char *target = fh_os_reserve(NULL, MiB, 2 * MiB);
    char *hole = fh_os_map(MiB);
    fh_os_release(hole, MiB);
    assert_null(fh_os_remap_to(hole, MiB, MiB, target));
    assert_null(fh_os_reserve_at(target, MiB));
    fh_os_release(target, MiB);
}

static void expect_guards_to_work(void)
{
    char *addr = fh_os_map(MiB);
    memset(addr, 1, MiB);
    size_t page = fh_os_page_size;
    assert_int_equal(fh_os_guard(addr + page, page), 0);
    assert_true(faults(addr + page, false));
    assert_true(faults(addr + 2 * page - 1, true));
    addr[page - 1] = 2;
    addr[2 * page] = 2;
    assert_int_equal(fh_os_unguard(addr + page, page), 0);
    assert_int_equal(addr[page], 0);
    addr[page] = 3;
    fh_os_release(addr, MiB);
}

static void test_a_guard_faults_and_an_unguarded_page_is_zero(void **state)
{
    (void)state;
    expect_guards_to_work();
}

static void test_guards_work_on_an_older_kernel(void **state)
{
    (void)state;
    fh_os_force_features(all_features & ~(unsigned)FH_OS_GUARD_INSTALL);
    expect_guards_to_work();
}

static void test_a_guard_made_by_either_tier_is_undone(void **state)
{
    (void)state;
    char *addr = fh_os_map(MiB);
    fh_os_force_features(all_features & ~(unsigned)FH_OS_GUARD_INSTALL);
    assert_int_equal(fh_os_guard(addr, fh_os_page_size), 0);
    fh_os_force_features(all_features);
    assert_int_equal(fh_os_guard(addr + fh_os_page_size, fh_os_page_size), 0);
    assert_int_equal(fh_os_unguard(addr, 2 * fh_os_page_size), 0);
    memset(addr, 1, 2 * fh_os_page_size);
    fh_os_release(addr, MiB);
}

/* Kilobytes of huge pages in the mapping that holds addr. */
static long huge_kib(const void *addr)
{
    static char smaps[MiB]; /* far more than this program's mappings take */
    assert_true(fh_os_read_file("/proc/self/smaps", smaps, sizeof(smaps)) > 0);
    bool is_ours = false;
    for (char *line = strtok(smaps, "\n"); line != NULL; line = strtok(NULL, "\n")) {
        unsigned long first, behind;
        long kib;
        if (sscanf(line, "%lx-%lx ", &first, &behind) == 2)
            is_ours = (uintptr_t)addr >= first && (uintptr_t)addr < behind;
        else if (is_ours && sscanf(line, "AnonHugePages: %ld kB", &kib) == 1)
            return kib;
    }
    return -1;
}

/* A 2 MiB huge page filled with fives; NULL where the machine has none to spare. */
static char *map_huge(void)
{
    char *addr = fh_os_map_aligned(2 * MiB, 2 * MiB);
    assert_non_null(addr);
    (void)fh_os_advise_huge(addr, 2 * MiB, FH_OS_HUGE_YES);
    memset(addr, 5, 2 * MiB);
    if (huge_kib(addr) > 0)
        return addr;
    fh_os_release(addr, 2 * MiB);
    return NULL;
}

/* Splits until it has happened: the kernel leaves a page whole that it is just looking at itself (to move or to age
 * it), and says nothing. */
static bool split_at_last(char *addr)
{
    (void)fh_os_advise_huge(addr, 2 * MiB, FH_OS_HUGE_NO); /* no collapse meanwhile */
    for (int tries = 0; tries < 100 && huge_kib(addr) != 0; tries++) {
        assert_int_equal(fh_os_split_huge(addr + MiB), 0);
        fh_os_sleep_ns(1000000);
    }
    return huge_kib(addr) == 0;
}

static void test_a_split_huge_page_keeps_its_content(void **state)
{
    (void)state;
    char *addr = map_huge();
    if (addr == NULL)
        skip();
    assert_true(split_at_last(addr));
    for (size_t at = 0; at < 2 * MiB; at += fh_os_page_size)
        assert_int_equal(addr[at], 5);
    fh_os_release(addr, 2 * MiB);
}

/* Huge pages that the kernel has really taken apart (not only their tables) since it started. */
static long pages_split(void)
{
    static char vmstat[64 << 10];
    assert_true(fh_os_read_file("/proc/vmstat", vmstat, sizeof(vmstat)) > 0);
    const char *at = strstr(vmstat, "thp_split_page ");
    return at != NULL ? strtol(at + strlen("thp_split_page "), NULL, 10) : -1;
}

static void test_splitting_takes_the_memory_apart_and_not_only_its_tables(void **state)
{
    (void)state;
    char *addr = map_huge();
    long before = pages_split();
    if (addr == NULL || before < 0)
        skip();
    for (int tries = 0; tries < 100 && pages_split() == before; tries++) {
        assert_int_equal(fh_os_split_huge(addr), 0);
        fh_os_sleep_ns(1000000);
    }
    assert_true(pages_split() > before);
    fh_os_release(addr, 2 * MiB);
}

static void test_a_file_in_memory_is_shared_by_its_mappings(void **state)
{
    (void)state;
    int fd = fh_os_memfd("freehold-test", MiB);
    assert_true(fd >= 0);
    char *one = fh_os_map_fd(fd, MiB, 0, true);
    char *other = fh_os_map_fd(fd, MiB, 0, true);
    char *own = fh_os_map_fd(fd, MiB, 0, false);
    one[10] = 42;
    assert_int_equal(other[10], 42);
    own[10] = 1;
    assert_int_equal(one[10], 42);
    fh_os_release(one, MiB);
    fh_os_release(other, MiB);
    fh_os_release(own, MiB);
    fh_os_close(fd);
}

/* Every call that may run out of memory, as one row each; `space` is mapped, `reserved` is not
 * usable. */
static bool nth_call_fails(int which, char *space, char *reserved)
{
    switch (which) {
    case 0:
        return fh_os_reserve(NULL, MiB, MiB) == NULL;
    case 1:
        return fh_os_reserve_at(reserved + MiB, MiB) == NULL;
    case 2:
        return fh_os_reserve_readable(NULL, MiB) == NULL;
    case 3:
        return fh_os_map(MiB) == NULL;
    case 4:
        return fh_os_map_at(reserved, MiB) == NULL;
    case 5:
        return fh_os_map_aligned(MiB, MiB) == NULL;
    case 6:
        return fh_os_commit(reserved, MiB) == -ENOMEM;
    case 7:
        return fh_os_decommit(space, MiB) == -ENOMEM;
    case 8:
        return fh_os_remap(space, MiB, 2 * MiB, true) == NULL;
    case 9:
        return fh_os_remap_to(space, MiB, MiB, reserved) == NULL;
    case 10:
        return fh_os_protect(space, MiB, FH_OS_READ) == -ENOMEM;
    case 11:
        return fh_os_guard(space, MiB) == -ENOMEM;
    case 12:
        return fh_os_memfd("freehold-test", MiB) == -ENOMEM;
    case 13: {
        int result = fh_os_populate(space, MiB);
        return result == -ENOMEM || result == -ENOSYS;
    }
    default:
        return false;
    }
}

static void test_each_call_can_be_made_to_fail_and_then_changes_nothing(void **state)
{
    (void)state;
    char *space = fh_os_map(MiB);
    memset(space, 9, MiB);
    char *reserved = fh_os_reserve(NULL, MiB, fh_os_page_size);
    for (int which = 0; which <= 13; which++) {
        fh_os_fail_after(1, false);
        if (!nth_call_fails(which, space, reserved))
            fail_msg("call %d of the table did not fail", which);
        fh_os_fail_after(0, false);
        space[0] = 9;
        assert_int_equal(space[MiB - 1], 9);
        assert_true(faults(reserved, false));
    }
    fh_os_release(space, MiB);
    fh_os_release(reserved, MiB);
}

static void test_only_the_chosen_call_fails(void **state)
{
    (void)state;
    fh_os_fail_after(2, false);
    char *first = fh_os_map(MiB);
    assert_non_null(first);
    assert_null(fh_os_map(MiB));
    char *third = fh_os_map(MiB);
    assert_non_null(third);
    assert_int_equal(fh_os_fail_after(0, false), 3);
    fh_os_release(first, MiB);
    fh_os_release(third, MiB);
}

static void test_each_later_call_fails_when_asked_for(void **state)
{
    (void)state;
    fh_os_fail_after(2, true);
    char *first = fh_os_map(MiB);
    assert_non_null(first);
    for (int i = 0; i < 5; i++)
        assert_null(fh_os_map(MiB));
    fh_os_fail_after(0, false);
    fh_os_release(first, MiB);
}

/* In a child, for the limit stays. 77: the process is larger than that already (a sanitizer's
 * shadow). */
static int reserve_under_a_limit(void)
{
    char statm[128];
    if (fh_os_read_file("/proc/self/statm", statm, sizeof(statm)) <= 0)
        return 5;
    if (strtoul(statm, NULL, 10) * fh_os_page_size > 256 * MiB)
        return 77;
    struct rlimit limit = {512 * MiB, 512 * MiB};
    if (setrlimit(RLIMIT_AS, &limit) != 0)
        return 1;
    if (fh_os_limit_address_space() != 512 * MiB)
        return 2;
    if (fh_os_reserve(NULL, 1024 * MiB, fh_os_page_size) != NULL)
        return 3;
    /* Fits as it is, but would not with room to cut the alignment out of. */
    char *addr = fh_os_reserve(NULL, 4 * MiB, 2 * MiB);
    return addr != NULL ? 0 : 4;
}

static void test_the_limit_of_address_space_is_known_and_kept(void **state)
{
    (void)state;
    pid_t child = fork();
    if (child == 0)
        _exit(reserve_under_a_limit());
    int status = -1;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == 77)
        skip();
    assert_int_equal(WEXITSTATUS(status), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_page_size_is_the_systems),
        cmocka_unit_test(test_reserved_space_is_aligned_and_cannot_be_touched),
        cmocka_unit_test(test_aligned_mapping_leaves_nothing_mapped_beside_it),
        cmocka_unit_test(test_a_free_hint_is_taken),
        cmocka_unit_test(test_an_impossible_size_is_refused),
        cmocka_unit_test(test_reserve_at_does_not_replace_what_is_there),
        cmocka_unit_test(test_readable_space_reads_zero_and_refuses_writes),
        cmocka_unit_test(test_committed_space_is_zero_and_writable),
        cmocka_unit_test(test_decommitted_space_is_inaccessible_and_zero_when_committed_again),
        cmocka_unit_test(test_purged_pages_leave_memory_and_read_zero),
        cmocka_unit_test(test_locked_memory_can_be_purged_guarded_and_decommitted),
        cmocka_unit_test(test_populated_pages_are_resident),
        cmocka_unit_test_teardown(test_populate_says_when_the_kernel_is_too_old, undo_forcing),
        cmocka_unit_test(test_remap_keeps_the_content),
        cmocka_unit_test(test_remap_in_place_fails_where_something_follows),
        cmocka_unit_test(test_remap_to_lands_on_the_reserved_range),
        cmocka_unit_test(test_a_failed_remap_to_leaves_the_target_reserved),
        cmocka_unit_test(test_a_guard_faults_and_an_unguarded_page_is_zero),
        cmocka_unit_test_teardown(test_guards_work_on_an_older_kernel, undo_forcing),
        cmocka_unit_test_teardown(test_a_guard_made_by_either_tier_is_undone, undo_forcing),
        cmocka_unit_test(test_a_split_huge_page_keeps_its_content),
        cmocka_unit_test(test_splitting_takes_the_memory_apart_and_not_only_its_tables),
        cmocka_unit_test(test_a_file_in_memory_is_shared_by_its_mappings),
        cmocka_unit_test_teardown(test_each_call_can_be_made_to_fail_and_then_changes_nothing,
                                  undo_forcing),
        cmocka_unit_test_teardown(test_only_the_chosen_call_fails, undo_forcing),
        cmocka_unit_test_teardown(test_each_later_call_fails_when_asked_for, undo_forcing),
        cmocka_unit_test(test_the_limit_of_address_space_is_known_and_kept),
    };
    return cmocka_run_group_tests(tests, start_os, NULL);
}
