/* os/features: the mask can be forced down by number and by name, and never up. */
#include "os/internal.h"
#include "os/sys.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static int start_os(void **state)
{
    (void)state;
    fh_os_init();
    return 0;
}

static int allow_all_features(void **state)
{
    (void)state;
    fh_os_force_features(~0u);
    return 0;
}

static void test_forcing_never_adds_a_feature(void **state)
{
    (void)state;
    unsigned natural = fh_os_features();
    fh_os_force_features(~0u);
    assert_int_equal(fh_os_features(), natural);
    fh_os_force_features(0);
    assert_int_equal(fh_os_features(), 0);
}

static void test_kernel_6_1_has_nothing_newer(void **state)
{
    (void)state;
    unsigned natural = fh_os_features();
    assert_true(fh_os_force_features_by_name("6.1"));
    unsigned newer = FH_OS_GUARD_INSTALL | FH_OS_UFFD_MOVE | FH_OS_PAGEMAP_SCAN | FH_OS_SEAL;
    assert_int_equal(fh_os_features(), natural & ~newer);
}

static void test_a_container_refuses_userfaultfd_and_io_uring(void **state)
{
    (void)state;
    unsigned natural = fh_os_features();
    assert_true(fh_os_force_features_by_name("container"));
    unsigned refused = FH_OS_USERFAULTFD | FH_OS_UFFD_MOVE | FH_OS_IO_URING;
    assert_int_equal(fh_os_features(), natural & ~refused);
}

static void test_words_of_a_list_add_up(void **state)
{
    (void)state;
    assert_true(fh_os_force_features_by_name("6.1,container,-thp,-membarrier"));
    assert_int_equal(fh_os_features() & ~(unsigned)(FH_OS_POPULATE | FH_OS_TASK_SYSCALL), 0);
}

static void test_an_unknown_word_changes_nothing(void **state)
{
    (void)state;
    unsigned natural = fh_os_features();
    assert_false(fh_os_force_features_by_name("6.1,nonsense"));
    assert_false(fh_os_force_features_by_name("6.12"));
    assert_false(fh_os_force_features_by_name("-guar"));
    assert_int_equal(fh_os_features(), natural);
}

static void test_the_variable_forces_features_at_start(void **state)
{
    (void)state;
    pid_t child = fork();
    if (child == 0) {
        setenv("FREEHOLD_FEATURES", "-guard", 1);
        execl("/proc/self/exe", "test_os_features", "may-guard", (char *)NULL);
        _exit(127);
    }
    int status = -1;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "may-guard") == 0) {
        fh_os_init();
        return fh_os_may_use(FH_OS_GUARD_INSTALL) || !fh_os_may_use(FH_OS_POPULATE);
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_forcing_never_adds_a_feature, allow_all_features),
        cmocka_unit_test_teardown(test_kernel_6_1_has_nothing_newer, allow_all_features),
        cmocka_unit_test_teardown(test_a_container_refuses_userfaultfd_and_io_uring,
                                  allow_all_features),
        cmocka_unit_test_teardown(test_words_of_a_list_add_up, allow_all_features),
        cmocka_unit_test_teardown(test_an_unknown_word_changes_nothing, allow_all_features),
        cmocka_unit_test(test_the_variable_forces_features_at_start),
    };
    return cmocka_run_group_tests(tests, start_os, NULL);
}
