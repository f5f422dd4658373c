/*
 * Funnels: functions that allocate for others are found by what stacks show, and nothing else is.
 */
#include "lab/funnels.h"
#include "lab/sites.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* A function is 256 addresses; below 0x10000 they are allocators'. */
enum { MALLOC = 0x1000, WRAPPER = 0x20000, INNER = 0x30000, WORKER = 0x40000, MAIN = 0x90000 };

static bool is_wrapper(void *context, uint64_t frame, uint64_t time_ns)
{
    (void)context;
    (void)time_ns;
    return frame < 0x10000;
}

static uint64_t function_of(void *context, uint64_t frame, uint64_t time_ns)
{
    (void)context;
    (void)time_ns;
    return frame & ~(uint64_t)0xff;
}

struct scene {
    char path[64];
    struct fh_trace_writer *writer;
    struct fh_trace *trace;
    struct lab_funnels *funnels;
    uint64_t now, address;
};

static void begin(struct scene *scene)
{
    memset(scene, 0, sizeof(*scene));
    snprintf(scene->path, sizeof(scene->path), "/tmp/freehold-funnels.XXXXXX");
    const int fd = mkstemp(scene->path);
    assert_true(fd >= 0);
    close(fd);
    scene->writer = fh_trace_create(scene->path, "a test", NULL);
    assert_non_null(scene->writer);
}

/* From malloc outwards; 0 ends the frames. */
static void allocate(struct scene *scene, uint64_t size, const uint64_t frames[8])
{
    size_t count = 0;
    while (count < 8 && frames[count] != 0) {
        count++;
    }
    const struct fh_trace_event event = {.kind = FH_TRACE_ALLOC,
                                         .time_ns = scene->now += 10,
                                         .thread = 0,
                                         .address = scene->address += 0x1000,
                                         .size = size,
                                         .stack =
                                             fh_trace_write_stack(scene->writer, frames, count)};
    assert_int_equal(fh_trace_write(scene->writer, &event), 0);
}

static void end(struct scene *scene)
{
    const struct lab_names names = {NULL, is_wrapper, function_of, NULL};
    struct fh_trace_event events[256];
    long count;
    assert_int_equal(fh_trace_finish(scene->writer), 0);
    scene->trace = fh_trace_open(scene->path, NULL);
    assert_non_null(scene->trace);
    scene->funnels = lab_funnels_open();
    assert_non_null(scene->funnels);
    assert_int_equal(fh_trace_begin(scene->trace, 0), 0);
    while ((count = fh_trace_read(scene->trace, events, 256)) > 0) {
        assert_int_equal(lab_funnels_add(scene->funnels, events, (size_t)count), 0);
    }
    assert_int_equal(lab_funnels_find(scene->funnels, scene->trace, &names), 0);
}

static void discard(struct scene *scene)
{
    lab_funnels_close(scene->funnels);
    fh_trace_close(scene->trace);
    unlink(scene->path);
}

/* 400 blocks of 20 sizes, that `callers` functions ask WRAPPER for. */
static void wrap(struct scene *scene, unsigned callers, uint64_t inner)
{
    for (unsigned i = 0; i < 400; i++) {
        const uint64_t caller = WORKER + 0x100 * (i % callers) + 0x10;
        const uint64_t deep[8] = {MALLOC, inner, WRAPPER + 0x10, caller, MAIN};
        const uint64_t flat[8] = {MALLOC, WRAPPER + 0x10, caller, MAIN};
        allocate(scene, 16 + 8 * (i % 20), inner != 0 ? deep : flat);
    }
}

static void test_a_function_that_many_ask_for_many_sizes_is_a_funnel(void **state)
{
    struct scene scene;
    (void)state;
    begin(&scene);
    wrap(&scene, 5, 0);
    end(&scene);
    assert_true(lab_funnels_has(scene.funnels, WRAPPER));
    assert_false(lab_funnels_has(scene.funnels, WORKER));
    assert_false(lab_funnels_has(scene.funnels, MAIN));
    discard(&scene);
}

static void test_a_function_with_one_caller_that_a_funnel_calls_is_one(void **state)
{
    struct scene scene;
    (void)state;
    begin(&scene);
    wrap(&scene, 5, INNER + 0x10);
    end(&scene);
    assert_true(lab_funnels_has(scene.funnels, INNER));
    assert_true(lab_funnels_has(scene.funnels, WRAPPER));
    discard(&scene);
}

static void test_a_function_with_one_caller_that_nobody_else_needs_is_none(void **state)
{
    struct scene scene;
    (void)state;
    begin(&scene);
    wrap(&scene, 1, 0);
    end(&scene);
    assert_false(lab_funnels_has(scene.funnels, WRAPPER));
    assert_false(lab_funnels_has(scene.funnels, WORKER));
    discard(&scene);
}

static void test_a_function_that_makes_one_thing_is_none(void **state)
{
    struct scene scene;
    (void)state;
    begin(&scene);
    for (unsigned i = 0; i < 400; i++) {
        const uint64_t frames[8] = {MALLOC, WRAPPER + 0x10, WORKER + 0x100 * (i % 5) + 0x10, MAIN};
        allocate(&scene, 48, frames);
    }
    end(&scene);
    assert_false(lab_funnels_has(scene.funnels, WRAPPER));
    discard(&scene);
}

/* An interpreter allocates from one place itself, and calls much else that does. */
static void test_a_function_that_calls_much_is_none(void **state)
{
    struct scene scene;
    (void)state;
    begin(&scene);
    wrap(&scene, 5, 0);
    for (unsigned i = 0; i < 400; i++) {
        const uint64_t frames[8] = {MALLOC, INNER + 0x100 * (1 + i % 12),
                                    WRAPPER + 0x20 + 2 * (i % 12), WORKER + 0x10, MAIN};
        allocate(&scene, 32, frames);
    }
    end(&scene);
    assert_false(lab_funnels_has(scene.funnels, WRAPPER));
    discard(&scene);
}

static void test_a_site_is_outside_of_funnels(void **state)
{
    struct scene scene;
    struct fh_trace_event events[256];
    long count;
    (void)state;
    begin(&scene);
    wrap(&scene, 5, 0);
    end(&scene);
    const struct lab_names names = {NULL, is_wrapper, function_of, scene.funnels};
    struct lab_sites *sites = lab_sites_open(&names, 0, scene.now);
    assert_non_null(sites);
    assert_int_equal(fh_trace_begin(scene.trace, 0), 0);
    while ((count = fh_trace_read(scene.trace, events, 256)) > 0) {
        assert_int_equal(lab_sites_add(sites, scene.trace, events, (size_t)count), 0);
    }
    lab_sites_finish(sites);
    assert_int_equal(sites->count, 5);
    assert_int_equal(sites->site[0].frame, WORKER + 0x10);
    assert_int_equal(sites->site[0].depth, 2);
    lab_sites_close(sites);
    discard(&scene);
}

static void test_no_events_have_no_funnels(void **state)
{
    struct scene scene;
    (void)state;
    begin(&scene);
    end(&scene);
    assert_false(lab_funnels_has(scene.funnels, WRAPPER));
    discard(&scene);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_function_that_many_ask_for_many_sizes_is_a_funnel),
        cmocka_unit_test(test_a_function_with_one_caller_that_a_funnel_calls_is_one),
        cmocka_unit_test(test_a_function_with_one_caller_that_nobody_else_needs_is_none),
        cmocka_unit_test(test_a_function_that_makes_one_thing_is_none),
        cmocka_unit_test(test_a_function_that_calls_much_is_none),
        cmocka_unit_test(test_a_site_is_outside_of_funnels),
        cmocka_unit_test(test_no_events_have_no_funnels),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
