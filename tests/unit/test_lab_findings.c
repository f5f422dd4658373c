/*
 * Sites and findings on traces made here: each finding has a trace that must produce it and a twin, different in
 * what matters only, that must not.
 */
#include "lab/findings.h"
#include "lab/trial.h"

#include "freehold/trace.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* Addresses below 0x10000 are wrappers; a function is 256 bytes of addresses. */
enum { MALLOC = 0x100, FREE = 0x200, MAIN = 0x20000 };

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

static const struct lab_names names = {NULL, is_wrapper, function_of, NULL};

/* A trace being written, and then its sites and findings. */
struct scene {
    char path[64];
    struct fh_trace_writer *writer;
    struct fh_trace *trace;
    uint64_t now;
    uint32_t thread;
    struct lab_sites *sites;
    struct lab_findings findings;
};

static void begin(struct scene *scene)
{
    memset(scene, 0, sizeof(*scene));
    snprintf(scene->path, sizeof(scene->path), "/tmp/freehold-findings.XXXXXX");
    const int fd = mkstemp(scene->path);
    assert_true(fd >= 0);
    close(fd);
    scene->writer = fh_trace_create(scene->path, "a test", NULL);
    assert_non_null(scene->writer);
}

static void event(struct scene *scene, struct fh_trace_event event, uint64_t allocator,
                  uint64_t site)
{
    const uint64_t frames[] = {allocator, site, MAIN + 0x10};
    event.time_ns = scene->now += 10;
    event.thread = scene->thread;
    event.stack = fh_trace_write_stack(scene->writer, frames, 3);
    assert_int_equal(fh_trace_write(scene->writer, &event), 0);
}

static void allocate(struct scene *scene, uint64_t address, uint64_t size, uint64_t site)
{
    event(scene, (struct fh_trace_event){.kind = FH_TRACE_ALLOC, .address = address, .size = size},
          MALLOC, site);
}

static void release(struct scene *scene, uint64_t address, uint64_t site)
{
    event(scene, (struct fh_trace_event){.kind = FH_TRACE_FREE, .address = address}, FREE, site);
}

static void resize(struct scene *scene, uint64_t from, uint64_t to, uint64_t size, uint64_t site)
{
    event(scene,
          (struct fh_trace_event){
              .kind = FH_TRACE_RESIZE, .address = to, .old_address = from, .size = size},
          MALLOC, site);
}

/* Size classes of 16 bytes, but 1024 is followed by 1280. */
static uint64_t usable(void *context, uint64_t size)
{
    (void)context;
    return size <= 1024 ? (size + 15) / 16 * 16 : size <= 1280 ? 1280 : size;
}

static void end(struct scene *scene)
{
    struct fh_trace_event events[256];
    long count;
    assert_int_equal(fh_trace_finish(scene->writer), 0);
    scene->trace = fh_trace_open(scene->path, NULL);
    assert_non_null(scene->trace);
    scene->sites = lab_sites_open(&names, 0, scene->now);
    assert_non_null(scene->sites);
    assert_int_equal(fh_trace_begin(scene->trace, 0), 0);
    while ((count = fh_trace_read(scene->trace, events, 256)) > 0) {
        assert_int_equal(lab_sites_add(scene->sites, scene->trace, events, (size_t)count), 0);
    }
    lab_sites_finish(scene->sites);
    assert_true(lab_findings_make(&scene->findings, scene->sites, true, usable, NULL));
}

static void discard(struct scene *scene)
{
    lab_findings_free(&scene->findings);
    lab_sites_close(scene->sites);
    fh_trace_close(scene->trace);
    unlink(scene->path);
}

static const struct lab_finding *found(const struct scene *scene, enum lab_finding_kind kind)
{
    for (size_t i = 0; i < scene->findings.count; i++) {
        if (scene->findings.items[i].kind == kind) {
            return &scene->findings.items[i];
        }
    }
    return NULL;
}

enum { BLOCK = 0x100000, STEP = 0x1000, SITE = 0x30010, OTHER = 0x40010, FREER = 0x50010 };

static uint64_t block(uint64_t number)
{
    return BLOCK + number * STEP;
}

/* ---- Sites ---- */

static void test_a_site_is_the_frame_outside_of_wrappers(void **state)
{
    (void)state;
    struct scene scene;
    begin(&scene);
    allocate(&scene, block(0), 10, SITE);
    allocate(&scene, block(1), 20, SITE);
    allocate(&scene, block(2), 40, OTHER);
    end(&scene);
    assert_int_equal(scene.sites->count, 2);
    assert_int_equal(scene.sites->site[0].frame, SITE);
    assert_int_equal(scene.sites->site[0].count, 2);
    assert_int_equal(scene.sites->site[0].bytes, 30);
    assert_int_equal(scene.sites->site[0].depth, 1);
    assert_int_equal(scene.sites->site[1].live_bytes, 40);
    discard(&scene);
}

static void test_live_at_the_peak_is_what_each_site_had_then(void **state)
{
    (void)state;
    struct scene scene;
    begin(&scene);
    allocate(&scene, block(0), 100, SITE);
    allocate(&scene, block(1), 50, OTHER); /* the peak: 150 */
    release(&scene, block(0), FREER);
    allocate(&scene, block(2), 70, OTHER);
    release(&scene, block(1), FREER);
    end(&scene);
    assert_int_equal(scene.sites->totals.peak_bytes, 150);
    assert_int_equal(scene.sites->site[0].peak_bytes, 100);
    assert_int_equal(scene.sites->site[1].peak_bytes, 50);
    assert_int_equal(scene.sites->site[1].live_bytes, 70);
    discard(&scene);
}

static void test_quantiles_are_right_to_a_fifth(void **state)
{
    (void)state;
    struct lab_distribution *distribution = calloc(1, sizeof(*distribution));
    for (uint64_t i = 1; i <= 1000; i++) {
        lab_distribution_add(distribution, i * 1000);
    }
    const double median = (double)lab_distribution_quantile(distribution, 0.5);
    assert_true(median > 500000 * 0.8 && median < 500000 * 1.2);
    for (uint64_t value = 0; value < 8; value++) {
        memset(distribution, 0, sizeof(*distribution));
        lab_distribution_add(distribution, value);
        assert_int_equal(lab_distribution_quantile(distribution, 0.5), value);
    }
    free(distribution);
}

/* ---- Findings ---- */

/* Groups of 32, freed in order of allocation or, mixed, each as another comes. */
static void groups(struct scene *scene, bool is_mixed)
{
    begin(scene);
    for (uint64_t i = 0; i < 640; i++) {
        allocate(scene, block(i), 24 + i % 40, SITE);
        if (is_mixed && i >= 32) {
            release(scene, block(i - 32), FREER);
        } else if (!is_mixed && i % 32 == 31) {
            for (uint64_t k = i - 31; k <= i; k++) {
                release(scene, block(k), FREER);
            }
        }
    }
    end(scene);
}

static void test_blocks_that_die_together_are_an_arena(void **state)
{
    (void)state;
    struct scene scene;
    groups(&scene, false);
    const struct lab_finding *finding = found(&scene, LAB_FIND_ARENA);
    assert_non_null(finding);
    assert_int_equal(finding->blocks, 640);
    assert_int_equal(scene.sites->site[0].groups, 20);
    assert_int_equal(scene.sites->site[0].free_function, FREER & ~0xff);
    discard(&scene);
}

static void test_blocks_that_die_one_by_one_are_none(void **state)
{
    (void)state;
    struct scene scene;
    groups(&scene, true);
    assert_null(found(&scene, LAB_FIND_ARENA));
    discard(&scene);
}

/* Two sites whose blocks one function frees, or two. */
static void two_sites(struct scene *scene, uint64_t other_freer)
{
    begin(scene);
    for (uint64_t round = 0; round < 8; round++) {
        for (uint64_t i = 0; i < 40; i++) {
            allocate(scene, block(i), 10 + i, i % 2 == 0 ? SITE : OTHER);
        }
        for (uint64_t i = 0; i < 40; i++) {
            release(scene, block(i), i % 2 == 0 ? FREER : other_freer);
        }
    }
    end(scene);
}

static void test_sites_of_one_end_are_one_arena(void **state)
{
    (void)state;
    struct scene scene;
    two_sites(&scene, FREER);
    assert_int_equal(scene.findings.count, 1);
    assert_int_equal(scene.findings.items[0].site_count, 2);
    assert_int_equal(scene.findings.items[0].blocks, 320);
    discard(&scene);
}

static void test_sites_of_two_ends_are_two_arenas(void **state)
{
    (void)state;
    struct scene scene;
    two_sites(&scene, FREER + 0x1000);
    assert_int_equal(scene.findings.count, 2);
    discard(&scene);
}

/* Up to 64 blocks live, freed in no order. */
static void shuffled(struct scene *scene, bool is_one_size)
{
    uint64_t live[64] = {0};
    uint64_t seed = 1;
    begin(scene);
    for (uint64_t i = 0; i < 2000; i++) {
        seed = seed * 6364136223846793005U + 1442695040888963407U;
        uint64_t *slot = &live[seed >> 58];
        if (*slot != 0) {
            release(scene, *slot, FREER);
        }
        *slot = block(i);
        allocate(scene, *slot, is_one_size ? 40 : 40 + i % 100, SITE);
    }
    for (size_t i = 0; i < 64; i++) {
        if (live[i] != 0) {
            release(scene, live[i], FREER);
        }
    }
    end(scene);
}

static void test_many_of_one_size_are_a_pool(void **state)
{
    (void)state;
    struct scene scene;
    shuffled(&scene, true);
    const struct lab_finding *finding = found(&scene, LAB_FIND_POOL);
    assert_non_null(finding);
    assert_int_equal(finding->size, 40);
    discard(&scene);
}

static void test_many_of_many_sizes_are_none(void **state)
{
    (void)state;
    struct scene scene;
    shuffled(&scene, false);
    assert_null(found(&scene, LAB_FIND_POOL));
    discard(&scene);
}

static void frames(struct scene *scene, uint64_t freer)
{
    begin(scene);
    for (uint64_t i = 0; i < 100; i++) {
        allocate(scene, block(1), 200 + i, SITE);
        release(scene, block(1), freer);
    }
    end(scene);
}

static void test_a_block_freed_where_it_was_allocated_can_be_on_the_stack(void **state)
{
    (void)state;
    struct scene scene;
    frames(&scene, SITE + 0x20); /* the same function, further down */
    const struct lab_finding *finding = found(&scene, LAB_FIND_STACK);
    assert_non_null(finding);
    assert_int_equal(finding->change, LAB_CHANGE_REMOVE);
    assert_int_equal(finding->size, 299);
    discard(&scene);
}

static void test_a_block_freed_by_another_function_can_not(void **state)
{
    (void)state;
    struct scene scene;
    frames(&scene, FREER);
    assert_null(found(&scene, LAB_FIND_STACK));
    discard(&scene);
}

/* Calls that allocate `count` blocks and free them again, all in one function and on `threads` threads at once. */
static void calls(struct scene *scene, unsigned times, uint64_t count, uint64_t size,
                  uint32_t threads)
{
    begin(scene);
    for (unsigned call = 0; call < times; call++) {
        for (uint64_t i = 0; i < count * threads; i++) {
            scene->thread = (uint32_t)(i % threads);
            allocate(scene, block(i), size, SITE);
        }
        for (uint64_t i = 0; i < count * threads; i++) {
            scene->thread = (uint32_t)(i % threads);
            release(scene, block(i), SITE + 0x20);
        }
    }
    end(scene);
}

static void assert_is_scratch(const struct scene *scene)
{
    const struct lab_finding *finding = found(scene, LAB_FIND_SCRATCH);
    assert_null(found(scene, LAB_FIND_STACK));
    assert_non_null(finding);
    assert_int_equal(finding->change, LAB_CHANGE_ARENA);
}

static void test_a_list_that_main_builds_and_frees_can_not(void **state)
{
    (void)state;
    struct scene scene;
    calls(&scene, 1, 20000, 24, 1);
    assert_int_equal(scene.sites->site[0].most_in_call, 20000);
    assert_is_scratch(&scene);
    discard(&scene);
}

static void test_an_array_of_strings_of_each_call_can_not(void **state)
{
    (void)state;
    struct scene scene;
    calls(&scene, 10, 3000, 20, 1);
    assert_is_scratch(&scene);
    discard(&scene);
}

/* The nodes of a map: allocated in its insert for one function, some freed before others come, the rest at the end. */
static void test_the_nodes_of_a_map_can_not(void **state)
{
    (void)state;
    struct scene scene;
    begin(&scene);
    for (uint64_t i = 0; i < 1000; i++) {
        allocate(&scene, block(i), 72, SITE);
        if (i % 3 == 2) {
            release(&scene, block(i - 1), SITE + 0x20);
        }
    }
    for (uint64_t i = 0; i < 1000; i++) {
        if (i % 3 != 1 || i == 999) {
            release(&scene, block(i), SITE + 0x30);
        }
    }
    end(&scene);
    assert_is_scratch(&scene);
    discard(&scene);
}

static void test_a_few_small_blocks_of_a_call_can_be_on_the_stack(void **state)
{
    (void)state;
    struct scene scene;
    calls(&scene, 100, 3, 100, 1);
    assert_int_equal(scene.sites->site[0].most_in_call, 3);
    assert_non_null(found(&scene, LAB_FIND_STACK));
    discard(&scene);
}

static void test_a_few_blocks_of_more_than_4_KiB_together_can_not(void **state)
{
    (void)state;
    struct scene scene;
    calls(&scene, 100, 3, 1400, 1);
    assert_is_scratch(&scene);
    discard(&scene);
}

static void test_calls_of_two_threads_are_two_calls(void **state)
{
    (void)state;
    struct scene scene;
    calls(&scene, 100, 1, 3000, 2);
    assert_int_equal(scene.sites->site[0].most_in_call, 1);
    assert_non_null(found(&scene, LAB_FIND_STACK));
    discard(&scene);
}

/* 20 blocks from 16 bytes on, each grown `times` times by `by`. */
static void growing(struct scene *scene, unsigned times, uint64_t by)
{
    begin(scene);
    for (uint64_t i = 0; i < 20; i++) {
        uint64_t size = 16;
        uint64_t at = block(2 * i);
        allocate(scene, at, size, SITE);
        for (unsigned k = 0; k < times; k++) {
            const uint64_t to = block(2 * i + (k + 1) % 2);
            size += by;
            resize(scene, at, to, size, SITE);
            at = to;
        }
        release(scene, at, FREER);
    }
    end(scene);
}

static void test_growing_again_and_again_is_found_with_the_bytes_it_copied(void **state)
{
    (void)state;
    struct scene scene;
    growing(&scene, 4, 16);
    const struct lab_finding *finding = found(&scene, LAB_FIND_GROWTH);
    assert_non_null(finding);
    assert_int_equal(finding->blocks, 20);
    assert_int_equal(finding->bytes, 20 * (16 + 32 + 48 + 64));
    assert_int_equal(finding->change, LAB_CHANGE_RESERVE);
    discard(&scene);
}

static void test_growing_once_is_not(void **state)
{
    (void)state;
    struct scene scene;
    growing(&scene, 1, 16);
    assert_null(found(&scene, LAB_FIND_GROWTH));
    discard(&scene);
}

static void shrinking(struct scene *scene, uint64_t last)
{
    begin(scene);
    for (uint64_t i = 0; i < 20; i++) {
        allocate(scene, block(i), 4096, SITE);
        resize(scene, block(i), block(i), last, SITE);
    }
    for (uint64_t i = 0; i < 20; i++) {
        release(scene, block(i), FREER);
    }
    end(scene);
}

static void test_room_that_was_given_back_is_found(void **state)
{
    (void)state;
    struct scene scene;
    shrinking(&scene, 100);
    const struct lab_finding *finding = found(&scene, LAB_FIND_CAPACITY);
    assert_non_null(finding);
    assert_int_equal(finding->bytes, 20 * (4096 - 100));
    discard(&scene);
}

static void test_room_that_was_nearly_used_is_not(void **state)
{
    (void)state;
    struct scene scene;
    shrinking(&scene, 4000);
    assert_null(found(&scene, LAB_FIND_CAPACITY));
    discard(&scene);
}

static void many(struct scene *scene, uint64_t count, uint64_t size, bool is_freed, bool is_remote)
{
    begin(scene);
    for (uint64_t i = 0; i < count; i++) {
        allocate(scene, block(i), size, SITE);
    }
    scene->thread = is_remote ? 1 : 0;
    for (uint64_t i = 0; is_freed && i < count; i++) {
        release(scene, block((i * 7) % count), FREER);
    }
    end(scene);
}

static void test_a_size_just_above_a_class_is_found(void **state)
{
    (void)state;
    struct scene scene;
    many(&scene, 100, 1025, true, false);
    const struct lab_finding *finding = found(&scene, LAB_FIND_SIZE);
    assert_non_null(finding);
    assert_int_equal(finding->from, 1025);
    assert_int_equal(finding->size, 1024);
    assert_int_equal(finding->bytes, 100 * 256);
    discard(&scene);
}

static void test_a_size_that_fills_its_class_is_not(void **state)
{
    (void)state;
    struct scene scene;
    many(&scene, 100, 1280, true, false);
    assert_null(found(&scene, LAB_FIND_SIZE));
    discard(&scene);
}

static void test_frees_by_another_thread_are_found(void **state)
{
    (void)state;
    struct scene scene;
    many(&scene, 1003, 64, true, true);
    const struct lab_finding *finding = found(&scene, LAB_FIND_REMOTE);
    assert_non_null(finding);
    assert_int_equal(finding->blocks, 1003);
    discard(&scene);
}

static void test_frees_by_the_same_thread_are_not(void **state)
{
    (void)state;
    struct scene scene;
    many(&scene, 1003, 64, true, false);
    assert_null(found(&scene, LAB_FIND_REMOTE));
    discard(&scene);
}

static void test_what_was_never_freed_is_found(void **state)
{
    (void)state;
    struct scene scene;
    many(&scene, 20, 64, false, false);
    const struct lab_finding *finding = found(&scene, LAB_FIND_LEAK);
    assert_non_null(finding);
    assert_int_equal(finding->blocks, 20);
    assert_int_equal(finding->bytes, 20 * 64);
    discard(&scene);
}

static void test_what_was_freed_is_no_leak(void **state)
{
    (void)state;
    struct scene scene;
    many(&scene, 20, 64, true, false);
    assert_null(found(&scene, LAB_FIND_LEAK));
    discard(&scene);
}

static void test_tiny_blocks_are_found(void **state)
{
    (void)state;
    struct scene scene;
    many(&scene, 1000, 8, false, false);
    assert_non_null(found(&scene, LAB_FIND_TINY));
    discard(&scene);
}

static void test_small_blocks_are_not_tiny(void **state)
{
    (void)state;
    struct scene scene;
    many(&scene, 1000, 24, false, false);
    assert_null(found(&scene, LAB_FIND_TINY));
    discard(&scene);
}

/* ---- Changes ---- */

static void test_a_reserved_block_is_resized_no_more(void **state)
{
    (void)state;
    struct scene scene;
    growing(&scene, 4, 16);
    struct lab_op *ops = calloc(scene.sites->op_count, sizeof(*ops));
    assert_true(lab_trial_change(scene.sites, found(&scene, LAB_FIND_GROWTH), ops));
    for (size_t i = 0; i < scene.sites->op_count; i++) {
        assert_int_not_equal(ops[i].kind, LAB_RESIZE);
        assert_true(ops[i].kind != LAB_ALLOC || ops[i].size >= 80);
    }
    free(ops);
    discard(&scene);
}

static void test_a_change_leaves_other_sites_alone(void **state)
{
    (void)state;
    struct scene scene;
    two_sites(&scene, FREER + 0x1000);
    struct lab_op *ops = calloc(scene.sites->op_count, sizeof(*ops));
    assert_true(lab_trial_change(scene.sites, &scene.findings.items[0], ops));
    size_t changed = 0;
    for (size_t i = 0; i < scene.sites->op_count; i++) {
        changed += ops[i].thread != 0;
    }
    assert_int_equal(changed, scene.sites->op_count / 2);
    free(ops);
    discard(&scene);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_site_is_the_frame_outside_of_wrappers),
        cmocka_unit_test(test_live_at_the_peak_is_what_each_site_had_then),
        cmocka_unit_test(test_quantiles_are_right_to_a_fifth),
        cmocka_unit_test(test_blocks_that_die_together_are_an_arena),
        cmocka_unit_test(test_blocks_that_die_one_by_one_are_none),
        cmocka_unit_test(test_sites_of_one_end_are_one_arena),
        cmocka_unit_test(test_sites_of_two_ends_are_two_arenas),
        cmocka_unit_test(test_many_of_one_size_are_a_pool),
        cmocka_unit_test(test_many_of_many_sizes_are_none),
        cmocka_unit_test(test_a_block_freed_where_it_was_allocated_can_be_on_the_stack),
        cmocka_unit_test(test_a_block_freed_by_another_function_can_not),
        cmocka_unit_test(test_a_list_that_main_builds_and_frees_can_not),
        cmocka_unit_test(test_an_array_of_strings_of_each_call_can_not),
        cmocka_unit_test(test_the_nodes_of_a_map_can_not),
        cmocka_unit_test(test_a_few_small_blocks_of_a_call_can_be_on_the_stack),
        cmocka_unit_test(test_a_few_blocks_of_more_than_4_KiB_together_can_not),
        cmocka_unit_test(test_calls_of_two_threads_are_two_calls),
        cmocka_unit_test(test_growing_again_and_again_is_found_with_the_bytes_it_copied),
        cmocka_unit_test(test_growing_once_is_not),
        cmocka_unit_test(test_room_that_was_given_back_is_found),
        cmocka_unit_test(test_room_that_was_nearly_used_is_not),
        cmocka_unit_test(test_a_size_just_above_a_class_is_found),
        cmocka_unit_test(test_a_size_that_fills_its_class_is_not),
        cmocka_unit_test(test_frees_by_another_thread_are_found),
        cmocka_unit_test(test_frees_by_the_same_thread_are_not),
        cmocka_unit_test(test_what_was_never_freed_is_found),
        cmocka_unit_test(test_what_was_freed_is_no_leak),
        cmocka_unit_test(test_tiny_blocks_are_found),
        cmocka_unit_test(test_small_blocks_are_not_tiny),
        cmocka_unit_test(test_a_reserved_block_is_resized_no_more),
        cmocka_unit_test(test_a_change_leaves_other_sites_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
