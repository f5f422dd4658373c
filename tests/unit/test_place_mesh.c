/* The meshing heap: contents, budget, failing memory, fork. */
#include "base/core/random.h"
#include "freehold/mesh.h"
#include "freehold/stats.h"
#include "os/mem.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum { COUNT = 60000 };

static struct fh_source_memfd memory;
static unsigned char *blocks[COUNT];
static size_t sizes[COUNT];

static void open_heap(struct fh_mesh *heap, size_t max_mappings)
{
    struct fh_mesh_options options = {
        .place = FH_PLACE_SOURCE(fh_source_memfd_init(&memory, true), (size_t)256 << 20),
        .max_mappings = max_mappings,
        .seed = 42};
    assert_int_equal(fh_mesh_init(heap, &options), 0);
}

static void expect_sound(const struct fh_mesh *heap)
{
    assert_int_equal(fh_mesh_check(heap), 0);
}

static struct fh_measure measure(const struct fh_mesh *heap)
{
    struct fh_measure out = {.size = sizeof out};
    assert_int_equal(fh_mesh_measure(heap, &out), 0);
    return out;
}

static struct fh_meshing meshing(const struct fh_mesh *heap)
{
    struct fh_meshing out = {.size = sizeof out};
    assert_int_equal(fh_mesh_meshing(heap, &out), 0);
    return out;
}

static void fill(size_t i)
{
    for (size_t j = 0; j < sizes[i]; j++)
        blocks[i][j] = (unsigned char)(i + j);
}

static bool is_kept(size_t i)
{
    for (size_t j = 0; j < sizes[i]; j++)
        if (blocks[i][j] != (unsigned char)(i + j))
            return false;
    return true;
}

static void expect_all_kept(void)
{
    for (size_t i = 0; i < COUNT; i++)
        if (blocks[i] != NULL && !is_kept(i))
            fail_msg("block %zu of %zu bytes at %p lost its contents", i, sizes[i],
                     (void *)blocks[i]);
}

/* COUNT blocks of low to high bytes, of which at random all but one in ten are freed. */
static void make_sparse(struct fh_mesh *heap, size_t low, size_t high)
{
    struct fh_random random;
    fh_random_seed(&random, 7);
    for (size_t i = 0; i < COUNT; i++) {
        sizes[i] = low + fh_random_below(&random, (uint32_t)(high - low + 1));
        blocks[i] = fh_mesh_alloc(heap, sizes[i]);
        assert_non_null(blocks[i]);
        fill(i);
    }
    for (size_t i = 0; i < COUNT; i++)
        if (fh_random_below(&random, 10) != 0) {
            fh_mesh_free(heap, blocks[i]);
            blocks[i] = NULL;
        }
}

/* What the file has in memory, by its extents. */
static size_t file_bytes(void)
{
    size_t bytes = 0;
    for (size_t offset = 0, size; fh_os_next_data(memory.fd, &offset, &size); offset += size)
        bytes += size;
    return bytes;
}

static void mesh_all(struct fh_mesh *heap)
{
    while (fh_mesh_step(heap, 0))
        ;
}

static void test_meshing_keeps_contents_and_gives_memory_back(void **unused)
{
    (void)unused;
    static const size_t mixes[][2] = {{240, 240}, {16, 512}, {64, 64}};
    for (size_t mix = 0; mix < 3; mix++) {
        struct fh_mesh heap;
        open_heap(&heap, 0);
        make_sparse(&heap, mixes[mix][0], mixes[mix][1]);
        size_t before = file_bytes();
        mesh_all(&heap);
        expect_sound(&heap);
        expect_all_kept();
        assert_true(meshing(&heap).meshes > 0);
        if (file_bytes() > before / 10 * 7)
            fail_msg("%zu of %zu bytes are left", file_bytes(), before);
        assert_true(file_bytes() <= measure(&heap).footprint + (1 << 16));
        fh_mesh_destroy(&heap);
    }
}

static void test_meshed_spans_take_new_blocks_and_frees(void **unused)
{
    (void)unused;
    struct fh_mesh heap;
    open_heap(&heap, 0);
    make_sparse(&heap, 16, 512);
    struct fh_random random;
    fh_random_seed(&random, 3);
    for (unsigned round = 0; round < 30; round++) {
        for (unsigned i = 0; i < 3000; i++) {
            size_t at = fh_random_below(&random, COUNT);
            if (blocks[at] != NULL) {
                assert_true(is_kept(at));
                fh_mesh_free(&heap, blocks[at]);
                blocks[at] = NULL;
            } else if (fh_random_below(&random, 9) == 0) {
                sizes[at] = 1 + fh_random_below(&random, 600);
                blocks[at] = fh_mesh_alloc(&heap, sizes[at]);
                fill(at);
            }
        }
        fh_mesh_step(&heap, 300000);
        expect_sound(&heap);
    }
    expect_all_kept();
    for (size_t i = 0; i < COUNT; i++)
        fh_mesh_free(&heap, blocks[i]);
    mesh_all(&heap);
    expect_sound(&heap);
    assert_int_equal(measure(&heap).live_blocks, 0);
    fh_mesh_reset(&heap);
    expect_sound(&heap);
    assert_int_equal(meshing(&heap).mappings, 1);
    fh_mesh_destroy(&heap);
}

static void test_the_budget_of_mappings_is_kept(void **unused)
{
    (void)unused;
    struct fh_mesh heap;
    open_heap(&heap, 50);
    make_sparse(&heap, 64, 64);
    while (fh_mesh_step(&heap, 100000))
        assert_true(meshing(&heap).mappings <= 50);
    expect_sound(&heap);
    expect_all_kept();
    assert_true(meshing(&heap).mappings >= 40);
    fh_mesh_destroy(&heap);
}

static size_t mappings_of_process(const void *begin, size_t bytes)
{
    FILE *maps = fopen("/proc/self/maps", "re");
    char line[512];
    size_t count = 0;
    while (fgets(line, sizeof line, maps) != NULL) {
        uintptr_t from = strtoul(line, NULL, 16);
        count += from >= (uintptr_t)begin && from < (uintptr_t)begin + bytes;
    }
    fclose(maps);
    return count;
}

static void test_the_mappings_counted_are_those_of_the_process(void **unused)
{
    (void)unused;
    struct fh_mesh heap;
    open_heap(&heap, 0);
    make_sparse(&heap, 16, 512);
    mesh_all(&heap);
    assert_int_equal(meshing(&heap).mappings, mappings_of_process(memory.base, memory.bytes));
    fh_mesh_destroy(&heap);
}

static void test_a_mesh_that_fails_leaves_everything_as_it_was(void **unused)
{
    (void)unused;
    for (uint64_t n = 1; n < 60; n++) {
        struct fh_mesh heap;
        open_heap(&heap, 0);
        make_sparse(&heap, 60, 64);
        fh_os_fail_after(n, n % 2 == 0);
        fh_mesh_step(&heap, 0);
        for (size_t i = 0; i < COUNT; i += 3) {
            fh_mesh_free(&heap, blocks[i]);
            blocks[i] = NULL;
        }
        fh_os_fail_after(0, false);
        expect_sound(&heap);
        expect_all_kept();
        fh_mesh_destroy(&heap);
        if (n == 20)
            n = 55;
    }
}

static void test_opening_fails_at_any_point_and_leaves_nothing(void **unused)
{
    (void)unused;
    unsigned failures = 0;
    for (uint64_t n = 1; n < 12; n++) {
        struct fh_mesh heap;
        struct fh_mesh_options options = {
            .place = FH_PLACE_SOURCE(fh_source_memfd_init(&memory, true), (size_t)64 << 20)};
        fh_os_fail_after(n, false);
        int error = fh_mesh_init(&heap, &options);
        fh_os_fail_after(0, false);
        if (error == 0)
            fh_mesh_destroy(&heap);
        else
            failures++;
        assert_null(memory.base);
        assert_int_equal(memory.fd, -1);
    }
    assert_true(failures >= 3);
}

static void test_a_forked_child_has_its_own_blocks(void **unused)
{
    (void)unused;
    struct fh_mesh heap;
    open_heap(&heap, 0);
    make_sparse(&heap, 16, 512);
    mesh_all(&heap);
    pid_t child = fork();
    if (child == 0) {
        bool is_right = true;
        for (size_t i = 0; i < COUNT; i++)
            is_right = is_right && (blocks[i] == NULL || is_kept(i));
        is_right = is_right && fh_mesh_check(&heap) == 0;
        for (size_t i = 0; i < COUNT; i++) /* must not reach the parent */
            if (blocks[i] != NULL)
                memset(blocks[i], 0xee, sizes[i]);
        for (size_t i = 0; i < COUNT; i += 2)
            fh_mesh_free(&heap, blocks[i]);
        mesh_all(&heap);
        is_right = is_right && fh_mesh_check(&heap) == 0;
        _exit(is_right ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    expect_all_kept();
    expect_sound(&heap);
    fh_mesh_destroy(&heap);
}

static void test_a_child_without_memory_for_a_copy_does_not_touch_the_parents(void **unused)
{
    (void)unused;
    struct fh_mesh heap;
    open_heap(&heap, 0);
    unsigned char *block = fh_mesh_alloc(&heap, 100);
    *block = 1;
    fh_os_fail_after(1, true);
    pid_t child = fork();
    if (child == 0) {
        signal(SIGSEGV, SIG_DFL); /* not the test program's */
        *(volatile unsigned char *)block = 2;
        _exit(0);
    }
    fh_os_fail_after(0, false);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
    assert_int_equal(*block, 1);
    fh_mesh_destroy(&heap);
}

static void test_alignment_is_given_and_kept(void **unused)
{
    (void)unused;
    struct fh_mesh heap;
    open_heap(&heap, 0);
    for (size_t align = 1; align <= 1 << 20; align *= 2) {
        unsigned char *block = fh_mesh_alloc_with(&heap, 40, align, FH_ALLOC_ZEROED);
        assert_int_equal((uintptr_t)block % align, 0);
        for (size_t size = 100; size < 100000; size *= 3) {
            block = fh_mesh_resize(&heap, block, size, 0);
            assert_int_equal((uintptr_t)block % align, 0);
            memset(block, 1, size);
        }
        expect_sound(&heap);
        fh_mesh_free(&heap, block);
    }
    assert_null(fh_mesh_alloc_with(&heap, 1, 3, 0));
    assert_int_equal(errno, EINVAL);
    assert_null(fh_mesh_alloc(&heap, (size_t)1 << 40));
    assert_int_equal(errno, ENOMEM);
    fh_mesh_destroy(&heap);
}

static void test_misuse_is_seen_and_changes_nothing(void **unused)
{
    (void)unused;
    struct fh_mesh heap;
    open_heap(&heap, 0);
    struct fh_allocator a = fh_mesh_allocator(&heap);
    assert_int_equal(fh_ctl_set("on_error", "continue"), 0);
    unsigned char *kept = fh_alloc(&a, 100), *gone = fh_alloc(&a, 100);
    unsigned char *large = fh_alloc(&a, 100000);
    fh_free(&a, gone);
    struct fh_measure before = measure(&heap);
    fh_free(&a, gone);
    fh_free(&a, kept + 16);
    fh_free(&a, large + 4096);
    fh_free(&a, heap.base);
    fh_free(&a, &heap);
    fh_free_sized(&a, kept, 10, 0);
    fh_free_sized(&a, large, 10, 0);
    assert_null(fh_resize(&a, gone, 10));
    struct fh_measure after = measure(&heap);
    assert_memory_equal(&before, &after, sizeof after);
    fh_ctl_set("on_error", "abort");
    fh_free_sized(&a, kept, 100, 0);
    fh_free_sized(&a, large, 100000, 0);
    expect_sound(&heap);
    fh_mesh_destroy(&heap);
}

static void test_exhaustion_is_an_error_and_ends_with_frees(void **unused)
{
    (void)unused;
    struct fh_mesh heap;
    struct fh_mesh_options options = {
        .place = FH_PLACE_SOURCE(fh_source_memfd_init(&memory, false), (size_t)8 << 20)};
    assert_int_equal(fh_mesh_init(&heap, &options), 0);
    size_t count = 0;
    while (count < COUNT && (blocks[count] = fh_mesh_alloc(&heap, 1000)) != NULL)
        count++;
    assert_true(count > 1000 && count < COUNT);
    assert_int_equal(errno, ENOMEM);
    for (size_t i = 0; i < count; i++)
        fh_mesh_free(&heap, blocks[i]);
    expect_sound(&heap);
    void *large = fh_mesh_alloc(&heap, 5 << 20);
    assert_non_null(large);
    expect_sound(&heap);
    fh_mesh_free(&heap, large);
    fh_mesh_destroy(&heap);
}

static void test_it_is_refused_over_what_can_not_alias(void **unused)
{
    (void)unused;
    struct fh_mesh heap;
    assert_int_equal(fh_mesh_init(&heap, NULL), -ENOTSUP);
    struct fh_mesh_options options = {.place = FH_PLACE_SOURCE(fh_source_system(), 0)};
    assert_int_equal(fh_mesh_init(&heap, &options), -ENOTSUP);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_meshing_keeps_contents_and_gives_memory_back),
        cmocka_unit_test(test_meshed_spans_take_new_blocks_and_frees),
        cmocka_unit_test(test_the_budget_of_mappings_is_kept),
        cmocka_unit_test(test_the_mappings_counted_are_those_of_the_process),
        cmocka_unit_test(test_a_mesh_that_fails_leaves_everything_as_it_was),
        cmocka_unit_test(test_opening_fails_at_any_point_and_leaves_nothing),
        cmocka_unit_test(test_a_forked_child_has_its_own_blocks),
        cmocka_unit_test(test_a_child_without_memory_for_a_copy_does_not_touch_the_parents),
        cmocka_unit_test(test_alignment_is_given_and_kept),
        cmocka_unit_test(test_misuse_is_seen_and_changes_nothing),
        cmocka_unit_test(test_exhaustion_is_an_error_and_ends_with_frees),
        cmocka_unit_test(test_it_is_refused_over_what_can_not_alias),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
