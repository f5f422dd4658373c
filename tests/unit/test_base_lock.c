/* base/lock: one holder at a time under contention, a limit that is kept, and the registry that
 * holds everything. */
#include "base/lock.h"
#include "os/sys.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum { THREADS = 4, ROUNDS = 50000 };

static int start_os(void **state)
{
    (void)state;
    fh_os_init();
    return 0;
}

static void test_a_free_lock_is_taken_and_given_back(void **state)
{
    (void)state;
    struct fh_lock lock = FH_LOCK_INIT;
    assert_true(fh_lock_try(&lock));
    assert_false(fh_lock_try(&lock));
    fh_lock_release(&lock);
    assert_true(fh_lock_try(&lock));
}

static struct {
    struct fh_lock lock;
    uint64_t plain_count; /* under the lock */
    unsigned holders;     /* under the lock */
    _Atomic unsigned seen_two;
} contended;

static void *count_under_lock(void *arg)
{
    (void)arg;
    for (int i = 0; i < ROUNDS; i++) {
        fh_lock_acquire(&contended.lock);
        if (++contended.holders != 1)
            atomic_store(&contended.seen_two, 1);
        contended.plain_count++;
        contended.holders--;
        fh_lock_release(&contended.lock);
    }
    return NULL;
}

static void test_four_threads_never_hold_it_together(void **state)
{
    (void)state;
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, count_under_lock, NULL), 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(contended.seen_two, 0);
    assert_int_equal(contended.plain_count, THREADS * ROUNDS);
    assert_int_equal(contended.lock.word, 0);
}

static struct fh_lock held_long = FH_LOCK_INIT;

static void *hold_for_20_ms(void *arg)
{
    fh_lock_acquire(&held_long);
    atomic_store((_Atomic bool *)arg, true);
    fh_os_sleep_ns(20000000);
    fh_lock_release(&held_long);
    return NULL;
}

static pthread_t start_holder(void)
{
    static _Atomic bool is_held;
    pthread_t holder;
    atomic_store(&is_held, false);
    assert_int_equal(pthread_create(&holder, NULL, hold_for_20_ms, (void *)&is_held), 0);
    while (!atomic_load(&is_held))
        fh_os_sleep_ns(100000);
    return holder;
}

static void test_a_sleeping_waiter_is_woken_by_the_release(void **state)
{
    (void)state;
    pthread_t holder = start_holder();
    fh_lock_acquire(&held_long);
    fh_lock_release(&held_long);
    pthread_join(holder, NULL);
}

static void test_try_for_gives_up_at_its_limit(void **state)
{
    (void)state;
    struct fh_lock lock = FH_LOCK_INIT;
    fh_lock_acquire(&lock);
    uint64_t start = fh_os_now_ns();
    assert_false(fh_lock_try_for(&lock, 10000000));
    uint64_t elapsed = fh_os_now_ns() - start;
    assert_in_range(elapsed, 10000000, 5000000000);
}

static void test_try_for_takes_what_becomes_free_in_time(void **state)
{
    (void)state;
    pthread_t holder = start_holder();
    assert_true(fh_lock_try_for(&held_long, 10000000000));
    fh_lock_release(&held_long);
    pthread_join(holder, NULL);
}

static void test_a_reset_lock_is_free(void **state)
{
    (void)state;
    struct fh_lock lock = FH_LOCK_INIT;
    fh_lock_acquire(&lock);
    fh_lock_reset(&lock);
    assert_true(fh_lock_try(&lock));
}

/* Registered locks live as long as the process: static, and shared by the tests below. */
static struct fh_lock pages_lock, heaps_lock, meta_lock, other_heaps_lock;

static struct fh_lock *const by_floor[] = {&heaps_lock, &other_heaps_lock, &pages_lock, &meta_lock};

static void register_locks(void)
{
    fh_locks_register(&pages_lock, FH_FLOOR_PAGES);
    fh_locks_register(&heaps_lock, FH_FLOOR_HEAPS);
    fh_locks_register(&meta_lock, FH_FLOOR_META);
    fh_locks_register(&other_heaps_lock, FH_FLOOR_HEAPS);
    fh_locks_register(&pages_lock,
                      FH_FLOOR_PAGES); /* again: ignored, or hold_all would wait for itself */
}

static void test_hold_all_holds_every_registered_lock_once(void **state)
{
    (void)state;
    register_locks();
    fh_locks_hold_all();
    for (size_t i = 0; i < FH_ARRAY_LEN(by_floor); i++)
        assert_false(fh_lock_try(by_floor[i]));
    fh_locks_release_all();
    for (size_t i = 0; i < FH_ARRAY_LEN(by_floor); i++)
        assert_int_equal(by_floor[i]->word, 0);
}

static void *hold_everything(void *arg)
{
    (void)arg;
    fh_locks_hold_all();
    fh_locks_release_all();
    return NULL;
}

/* Blocks hold_all at one lock after another: those before it must be taken by then, those after it
 * free. */
static void test_hold_all_takes_the_lowest_floor_first(void **state)
{
    (void)state;
    register_locks();
    for (size_t stop = 0; stop < FH_ARRAY_LEN(by_floor); stop++) {
        fh_lock_acquire(by_floor[stop]);
        pthread_t holder;
        assert_int_equal(pthread_create(&holder, NULL, hold_everything, NULL), 0);
        while (atomic_load(&by_floor[stop]->word) != 2) /* until it waits there */
            fh_os_sleep_ns(100000);
        for (size_t i = 0; i < FH_ARRAY_LEN(by_floor); i++) {
            if (i < stop)
                assert_int_not_equal(by_floor[i]->word, 0);
            else if (i > stop)
                assert_int_equal(by_floor[i]->word, 0);
        }
        fh_lock_release(by_floor[stop]);
        pthread_join(holder, NULL);
    }
}

static void *hold_everything_often(void *arg)
{
    for (int i = 0; i < 2000; i++)
        hold_everything(arg);
    return NULL;
}

static void *take_pages_and_meta_often(void *arg)
{
    (void)arg;
    for (int i = 0; i < 20000; i++) {
        fh_lock_acquire(&pages_lock);
        fh_lock_acquire(&meta_lock);
        fh_locks_register(&heaps_lock, FH_FLOOR_HEAPS); /* registering is allowed under any lock */
        fh_lock_release(&meta_lock);
        fh_lock_release(&pages_lock);
    }
    return NULL;
}

static void test_holders_of_everything_and_of_some_do_not_deadlock(void **state)
{
    (void)state;
    register_locks();
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(
            pthread_create(&threads[i], NULL,
                           i % 2 == 0 ? hold_everything_often : take_pages_and_meta_often, NULL),
            0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    for (size_t i = 0; i < FH_ARRAY_LEN(by_floor); i++)
        assert_int_equal(by_floor[i]->word, 0);
}

static void test_a_forked_child_resets_what_its_parent_held(void **state)
{
    (void)state;
    register_locks();
    fh_locks_hold_all();
    pid_t child = fork();
    if (child == 0) {
        fh_locks_reset_all();
        fh_locks_hold_all(); /* would hang if any were still held */
        fh_locks_release_all();
        _exit(0);
    }
    fh_locks_release_all();
    int status = -1;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_free_lock_is_taken_and_given_back),
        cmocka_unit_test(test_four_threads_never_hold_it_together),
        cmocka_unit_test(test_a_sleeping_waiter_is_woken_by_the_release),
        cmocka_unit_test(test_try_for_gives_up_at_its_limit),
        cmocka_unit_test(test_try_for_takes_what_becomes_free_in_time),
        cmocka_unit_test(test_a_reset_lock_is_free),
        cmocka_unit_test(test_hold_all_holds_every_registered_lock_once),
        cmocka_unit_test(test_hold_all_takes_the_lowest_floor_first),
        cmocka_unit_test(test_holders_of_everything_and_of_some_do_not_deadlock),
        cmocka_unit_test(test_a_forked_child_resets_what_its_parent_held),
    };
    return cmocka_run_group_tests(tests, start_os, NULL);
}
