/*
 * The kernel says no, at every call.
 *
 * A scenario of all kinds of allocation, in two threads and over first-class heaps, runs with the
 * n-th call that could run out of memory failing, for n = 1, 2, … until a run is through without
 * reaching its n-th call; then the same with every later call failing as well. Each run is a fork
 * from a process that never allocated, so the first calls, those that set the heap up, are among
 * them. Expected of each run: calls succeed or fail with ENOMEM and no effect (the model's claims),
 * all heaps pass their check after it, and once memory is to be had again the same scenario
 * succeeds as a whole, twice over, without growing: nothing was lost.
 */
#include "allocator_model.h"
#include "os/mem.h"
#include "os/sys.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define STEPS          250u
#define INPUT_BYTES    (STEPS * MODEL_STEP_BYTES)
#define NOT_REACHED    7
#define MOST_CALLS     5000
/* What a run that met no failure may grow by when it is repeated: runs kept ahead of need. */
#define GROWTH_ALLOWED ((size_t)4 << 20)

#define LARGEST_OCTAVE 19u /* many runs: their time is page faults */

static _Alignas(65536) unsigned char arena[SUBJECT_MOST_BUDGET + 2 * SUBJECT_GUARD];
static struct allocator_model model, other_model;
static uint8_t input[INPUT_BYTES];

static void run_model(struct allocator_model *one, const struct subject_kind *kind, bool may_fail)
{
    one->arena = arena;
    one->may_fail = may_fail;
    one->has_no_misuse = true;
    if (!model_open(one, kind, model_ground(kind, 0), 0, 0, (struct fh_place_options){0}))
        return;
    one->octaves = LARGEST_OCTAVE;
    one->input = input;
    one->input_left = INPUT_BYTES;
    while (one->input_left > 0)
        model_step(one);
    model_close(one);
}

static void *run_in_thread(void *arg)
{
    run_model(&other_model, subject_kind_named("heap-thread"), arg != NULL);
    return NULL;
}

static void run_scenario(bool may_fail)
{
    pthread_t thread;

    run_model(&model, subject_kind_named("heap-thread"), may_fail);
    if (pthread_create(&thread, NULL, run_in_thread, may_fail ? &model : NULL) == 0)
        pthread_join(thread, NULL);
    for (size_t i = 0; i < SUBJECT_KINDS; i++)
        if (strncmp(subject_kinds[i].name, "heap", 4) == 0)
            run_model(&model, &subject_kinds[i], may_fail);
}

static size_t footprint(void)
{
    struct fh_measure measure = {.size = sizeof(measure)};

    if (fh_heap_measure(NULL, &measure) != 0)
        abort();
    return measure.footprint;
}

static void run_with_failure(uint64_t n, bool and_all_after)
{
    alarm(30);
    fh_os_init();
    fh_os_fail_after(n, and_all_after);
    run_scenario(true);
    uint64_t calls = fh_os_fail_after(0, false);
    if (fh_heap_check(NULL) != 0)
        abort();
    run_scenario(false);
    size_t before = footprint();
    run_scenario(false);
    if (footprint() > before + GROWTH_ALLOWED) {
        fprintf(
            stderr,
            "expected the scenario not to grow after a failure: %zu KiB before, %zu KiB after\n",
            before >> 10, footprint() >> 10);
        abort();
    }
    if (fh_heap_check(NULL) != 0)
        abort();
    _exit(calls < n ? NOT_REACHED : 0);
}

static void fail_at_every_call(bool and_all_after)
{
    uint64_t seed = 42, n;

    for (size_t i = 0; i < INPUT_BYTES; i++) {
        seed = seed * 0x5851f42d4c957f2du + 0x14057b7ef767814fu;
        input[i] = (uint8_t)(seed >> 56);
    }
    for (n = 1; n <= MOST_CALLS; n++) {
        int status;
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0)
            run_with_failure(n, and_all_after);
        assert_int_equal(waitpid(child, &status, 0), child);
        if (WIFEXITED(status) && WEXITSTATUS(status) == NOT_REACHED)
            break;
        if (status != 0)
            fail_msg("expected the heap to stand the failure of call %llu%s, the run's wait status "
                     "is %#x",
                     (unsigned long long)n, and_all_after ? " and all later ones" : "", status);
    }
    assert_in_range(n, 10, MOST_CALLS);
    print_message("%llu calls that can fail, each failed once%s\n", (unsigned long long)(n - 1),
                  and_all_after ? " with all later ones" : "");
}

static void test_heap_stands_one_failure_at_any_call(void **state)
{
    (void)state;
    fail_at_every_call(false);
}

static void test_heap_stands_lasting_failure_from_any_call(void **state)
{
    (void)state;
    fail_at_every_call(true);
}

/* The kernel refuses to move the pages, and may have emptied the target before: they are copied. */
static void test_a_large_block_grows_when_its_pages_cannot_be_moved(void **state)
{
    (void)state;
    for (uint64_t n = 1; n < 8; n++) {
        size_t size = (size_t)2 << 20;
        char *block = fh_malloc(size), *behind = fh_malloc(size);
        assert_non_null(block);
        memset(block, 0x5a, size);
        fh_os_fail_after(n, false);
        char *grown = fh_realloc(block, (size_t)64 << 20);
        fh_os_fail_after(0, false);
        assert_non_null(grown);
        assert_int_equal(grown[size - 1], 0x5a);
        grown[((size_t)64 << 20) - 1] = 1;
        fh_free_any(grown);
        fh_free_any(behind);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_heap_stands_one_failure_at_any_call),
        cmocka_unit_test(test_heap_stands_lasting_failure_from_any_call),
        cmocka_unit_test(test_a_large_block_grows_when_its_pages_cannot_be_moved),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
