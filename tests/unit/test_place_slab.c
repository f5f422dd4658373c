/*
 * The slab allocator: objects stay constructed, memory comes back under pressure, threads and their
 * magazines.
 */
#include "base/core/random.h"
#include "freehold/buddy.h"
#include "freehold/freehold.h"
#include "freehold/slab.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum { MEMORY = 1 << 20, MANY = 5000 };

static _Alignas(4096) unsigned char memory[MEMORY];
static struct fh_slab cache;
static void *objects[MANY];

static void open_single(size_t object_size, size_t align)
{
    struct fh_slab_options options = {.place = FH_PLACE_BUFFER(memory, MEMORY),
                                      .object_size = object_size,
                                      .align = align,
                                      .is_single_thread = true};
    assert_int_equal(fh_slab_init(&cache, &options), 0);
}

static void open_over_heap(size_t object_size)
{
    struct fh_allocator heap = fh_heap_allocator(fh_heap_mine());
    struct fh_slab_options options = {.place = FH_PLACE_PARENT(&heap, 0),
                                      .object_size = object_size};
    assert_int_equal(fh_slab_init(&cache, &options), 0);
}

static size_t live(void)
{
    struct fh_measure measure = {.size = sizeof measure};
    assert_int_equal(fh_slab_measure(&cache, &measure), 0);
    return measure.live_blocks;
}

static char said[4096];

static void listen_to(void (*act)(void *), void *context)
{
    int pipes[2], kept = dup(2);
    assert_int_equal(pipe(pipes), 0);
    fh_ctl_set("on_error", "continue"); /* begins anew: else the same place is told once */
    dup2(pipes[1], 2);
    act(context);
    dup2(kept, 2);
    close(pipes[1]);
    close(kept);
    ssize_t n = read(pipes[0], said, sizeof said - 1);
    close(pipes[0]);
    said[n > 0 ? n : 0] = '\0';
}

static void free_it(void *object)
{
    fh_slab_free(&cache, object);
}

static void expect_report(void *object, const char *kind)
{
    listen_to(free_it, object);
    if (strstr(said, kind) == NULL)
        fail_msg("freeing %p: expected %s, heard '%s'", object, kind, said);
    assert_int_equal(fh_slab_check(&cache), 0);
}

/* ---- objects --------------------------------------------------------------------------------- */

static void test_objects_are_apart_and_aligned(void **state)
{
    (void)state;
    for (size_t size = 1; size < 3000; size += size < 100 ? 7 : 313) {
        for (size_t align = 16; align <= 256; align *= 4) {
            open_single(size, align);
            size_t count = 0;
            while (count < 200 && (objects[count] = fh_slab_alloc(&cache)) != NULL) {
                assert_int_equal((uintptr_t)objects[count] % align, 0);
                memset(objects[count], (int)count, size);
                count++;
            }
            assert_true(count > 100);
            for (size_t i = 0; i < count; i++)
                for (size_t j = 0; j < size; j++)
                    assert_int_equal(((unsigned char *)objects[i])[j], (unsigned char)i);
            assert_int_equal(fh_slab_check(&cache), 0);
            fh_slab_destroy(&cache);
        }
    }
}

static void test_little_memory_is_used_whole(void **state)
{
    (void)state;
    struct fh_slab_options options = {.place = FH_PLACE_BUFFER(memory, 4096), .object_size = 64};
    assert_int_equal(fh_slab_init(&cache, &options), 0);
    size_t count = 0;
    while (fh_slab_alloc(&cache) != NULL)
        count++;
    assert_int_equal(errno, ENOMEM);
    assert_int_equal(count, (4096 - 48) / 64);
    fh_slab_destroy(&cache);
    options.place.bytes = 2000;
    assert_int_equal(fh_slab_init(&cache, &options), -EINVAL);
}

static void test_nonsense_options_are_refused(void **state)
{
    (void)state;
    struct fh_slab_options options = {.object_size = 0};
    assert_int_equal(fh_slab_init(&cache, &options), -EINVAL);
    options.object_size = 10;
    options.align = 24;
    assert_int_equal(fh_slab_init(&cache, &options), -EINVAL);
    options.align = 0;
    options.object_size = (size_t)1 << 40;
    assert_int_equal(fh_slab_init(&cache, &options), -EINVAL);
}

static int constructed, destructed, failing = -1;

struct thing {
    int number;
    char rest[60];
};

static int construct(void *context, void *object)
{
    assert_ptr_equal(context, &constructed);
    if (failing >= 0 && failing-- == 0)
        return -ENOMEM;
    ((struct thing *)object)->number = 42;
    constructed++;
    return 0;
}

static void destruct(void *context, void *object)
{
    (void)context;
    assert_int_equal(((struct thing *)object)->number, 42);
    destructed++;
}

static void open_things(bool is_single_thread)
{
    constructed = destructed = 0;
    struct fh_slab_options options = {.object_size = sizeof(struct thing),
                                      .construct = construct,
                                      .destruct = destruct,
                                      .context = &constructed,
                                      .is_single_thread = is_single_thread};
    assert_int_equal(fh_slab_init(&cache, &options), 0);
}

static void test_an_object_stays_constructed_while_it_is_free(void **state)
{
    open_things(*state != NULL);
    for (int i = 0; i < 1000; i++)
        assert_int_equal(((struct thing *)(objects[i] = fh_slab_alloc(&cache)))->number, 42);
    int made = constructed;
    for (int round = 0; round < 10; round++) {
        for (int i = 0; i < 1000; i++)
            fh_slab_free(&cache, objects[i]);
        for (int i = 0; i < 1000; i++)
            assert_int_equal(((struct thing *)(objects[i] = fh_slab_alloc(&cache)))->number, 42);
    }
    assert_int_equal(constructed, made);
    fh_slab_destroy(&cache);
    assert_int_equal(destructed, constructed);
}

static void test_a_constructor_that_fails_fails_the_allocation(void **state)
{
    open_things(*state != NULL);
    failing = 7;
    /* The second try, after others were reaped for it, may succeed: every one has to fail. */
    for (int i = 0; i < 3; i++)
        if (failing < 0)
            failing = 7;
    assert_int_equal(destructed, 0);
    void *object = fh_slab_alloc(&cache);
    failing = -1;
    assert_int_equal(destructed, 7);
    assert_int_equal(fh_slab_check(&cache), 0);
    if (object == NULL)
        assert_int_equal(errno, ENOMEM);
    fh_slab_destroy(&cache);
    assert_int_equal(destructed, constructed);
}

static void test_reset_constructs_anew(void **state)
{
    open_things(*state != NULL);
    for (int i = 0; i < 100; i++)
        objects[i] = fh_slab_alloc(&cache);
    int made = constructed;
    fh_slab_reset(&cache);
    assert_int_equal(destructed, made);
    assert_int_equal(live(), 0);
    assert_int_equal(((struct thing *)fh_slab_alloc(&cache))->number, 42);
    assert_true(constructed > made);
    assert_int_equal(fh_slab_check(&cache), 0);
    fh_slab_destroy(&cache);
}

static void test_first_objects_begin_in_different_colours(void **state)
{
    (void)state;
    open_single(720, 16);
    size_t last = 0, colours = 0;
    for (size_t i = 0; i < 100; i++) {
        void *object = fh_slab_alloc(&cache);
        size_t page = (size_t)((unsigned char *)object - memory) & ~(size_t)8191;
        if (i == 0 || page != last)
            colours |= (size_t)1 << (((size_t)((unsigned char *)object - memory) & 8191) / 64 % 64);
        last = page;
    }
    assert_true(__builtin_popcountll(colours) > 1);
    fh_slab_destroy(&cache);
}

/* ---- memory that comes back ------------------------------------------------------------------ */

static void test_reaping_gives_back_what_is_free(void **state)
{
    (void)state;
    open_over_heap(100);
    for (int i = 0; i < MANY; i++)
        assert_non_null(objects[i] = fh_slab_alloc(&cache));
    struct fh_measure before = {.size = sizeof before}, after = before;
    fh_slab_measure(&cache, &before);
    for (int i = 1; i < MANY; i++)
        fh_slab_free(&cache, objects[i]);
    assert_true(fh_slab_reap(&cache) > before.footprint / 2);
    fh_slab_measure(&cache, &after);
    assert_true(after.footprint < before.footprint / 2);
    assert_int_equal(after.live_blocks, 1);
    assert_int_equal(fh_slab_check(&cache), 0);
    fh_slab_free(&cache, objects[0]);
    fh_slab_destroy(&cache);
}

static void test_a_cache_gives_back_for_its_neighbour(void **state)
{
    (void)state;
    struct fh_buddy buddy;
    struct fh_buddy_options from = {.place = FH_PLACE_BUFFER(memory, MEMORY), .is_shared = true};
    assert_int_equal(fh_buddy_init(&buddy, &from), 0);
    struct fh_allocator parent = fh_buddy_allocator(&buddy);
    struct fh_slab other;
    struct fh_slab_options options = {.place = FH_PLACE_PARENT(&parent, 0), .object_size = 64};
    assert_int_equal(fh_slab_init(&cache, &options), 0);
    options.object_size = 200;
    assert_int_equal(fh_slab_init(&other, &options), 0);
    static void *all[MEMORY / 64 + 1];
    size_t count = 0;
    while ((all[count] = fh_slab_alloc(&cache)) != NULL)
        count++;
    assert_null(fh_slab_alloc(&other));
    for (size_t i = 0; i < count; i++)
        fh_slab_free(&cache, all[i]);
    assert_non_null(fh_slab_alloc(&other));
    fh_slab_destroy(&other);
    fh_slab_destroy(&cache);
    assert_int_equal(fh_buddy_check(&buddy), 0);
    struct fh_measure measure = {.size = sizeof measure};
    fh_buddy_measure(&buddy, &measure);
    assert_int_equal(measure.live_blocks, 0);
    fh_buddy_destroy(&buddy);
}

static void test_a_limit_is_kept(void **state)
{
    (void)state;
    struct fh_allocator heap = fh_heap_allocator(fh_heap_mine());
    struct fh_slab_options options = {.place = FH_PLACE_PARENT(&heap, 64 << 10), .object_size = 64};
    assert_int_equal(fh_slab_init(&cache, &options), 0);
    while (fh_slab_alloc(&cache) != NULL)
        ;
    struct fh_measure measure = {.size = sizeof measure};
    fh_slab_measure(&cache, &measure);
    assert_true(measure.live_bytes > 32 << 10);
    assert_true(measure.live_bytes <= 64 << 10);
    fh_slab_destroy(&cache);
}

/* ---- misuse ---------------------------------------------------------------------------------- */

static void test_every_second_free_is_seen_in_a_single_thread(void **state)
{
    (void)state;
    open_single(48, 0);
    void *a = fh_slab_alloc(&cache), *b = fh_slab_alloc(&cache);
    fh_slab_free(&cache, a);
    expect_report(a, "double-free");
    fh_slab_free(&cache, b);
    expect_report(a, "double-free");
    fh_slab_destroy(&cache);
}

static void reap_it(void *context)
{
    (void)context;
    fh_slab_reap(&cache);
}

static void test_second_frees_are_seen_at_once_or_when_magazines_are_emptied(void **state)
{
    (void)state;
    open_over_heap(48);
    void *a = fh_slab_alloc(&cache), *b = fh_slab_alloc(&cache);
    fh_slab_free(&cache, a);
    expect_report(a, "double-free");
    fh_slab_free(&cache, b);
    fh_slab_free(&cache, a);
    listen_to(reap_it, NULL);
    assert_non_null(strstr(said, "double-free"));
    assert_int_equal(fh_slab_check(&cache), 0);
    fh_slab_destroy(&cache);
}

static void test_interior_and_foreign_pointers_are_seen(void **state)
{
    for (int kind = 0; kind < 2; kind++) {
        if (kind == 0)
            open_single(100, 0);
        else
            open_over_heap(100);
        char *object = fh_slab_alloc(&cache);
        for (size_t i = 1; i < 100; i++)
            expect_report(object + i, "interior-free");
        expect_report(&object, "invalid-free");
        expect_report((void *)(uintptr_t)16, "invalid-free");
        expect_report((void *)((uintptr_t)object & ~(uintptr_t)4095), "invalid-free");
        fh_slab_free(&cache, object);
        assert_int_equal(live(), 0);
        fh_slab_destroy(&cache);
    }
    (void)state;
}

static void test_the_interface_keeps_to_one_size(void **state)
{
    (void)state;
    open_single(100, 64);
    struct fh_allocator a = fh_slab_allocator(&cache);
    assert_null(fh_alloc(&a, 101));
    assert_int_equal(errno, ENOMEM);
    assert_null(fh_alloc_aligned(&a, 10, 128));
    char *block = fh_alloc_zeroed(&a, 100);
    for (size_t i = 0; i < 100; i++)
        assert_int_equal(block[i], 0);
    assert_ptr_equal(fh_resize(&a, block, 50), block);
    assert_null(fh_resize(&a, block, 101));
    fh_free_sized(&a, block, 50, 64);
    fh_allocator_destroy(&a);
}

/* ---- sequences and threads ------------------------------------------------------------------- */

static void test_a_random_sequence_keeps_every_object(void **state)
{
    bool is_single = *state != NULL;
    if (is_single)
        open_single(40, 0);
    else
        open_over_heap(40);
    struct fh_random random = {99};
    memset(objects, 0, sizeof objects);
    size_t count = 0;
    for (int step = 0; step < 200000; step++) {
        size_t i = fh_random_below(&random, 3000);
        if (objects[i] == NULL) {
            assert_non_null(objects[i] = fh_slab_alloc(&cache));
            memset(objects[i], (int)i, 40);
            count++;
        } else {
            for (size_t j = 0; j < 40; j++)
                assert_int_equal(((unsigned char *)objects[i])[j], (unsigned char)i);
            fh_slab_free(&cache, objects[i]);
            objects[i] = NULL;
            count--;
        }
        if (step % 5000 == 0) {
            assert_int_equal(fh_slab_check(&cache), 0);
            assert_int_equal(live(), count);
        }
    }
    fh_slab_destroy(&cache);
}

static void *volatile exchanged[64];

static void *take_and_pass_on(void *seed)
{
    struct fh_random random = {(uintptr_t)seed * 1001 + 1};
    for (int step = 0; step < 60000; step++) {
        struct thing *object = fh_slab_alloc(&cache);
        assert_int_equal(object->number, 42);
        memset(object->rest, (int)(uintptr_t)object, sizeof object->rest);
        /* Put into a common place; what was there is freed, whoever made it. */
        void *volatile *place = &exchanged[fh_random_below(&random, 64)];
        struct thing *other = __atomic_exchange_n(place, object, __ATOMIC_ACQ_REL);
        if (other == NULL)
            continue;
        for (size_t i = 0; i < sizeof other->rest; i++)
            assert_int_equal(other->rest[i], (char)(uintptr_t)other);
        fh_slab_free(&cache, other);
    }
    return NULL;
}

static void test_threads_exchange_objects(void **state)
{
    (void)state;
    open_things(false);
    pthread_t threads[4];
    for (size_t i = 0; i < 4; i++)
        pthread_create(&threads[i], NULL, take_and_pass_on, (void *)(i + 1));
    for (size_t i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(fh_slab_check(&cache), 0);
    for (size_t i = 0; i < 64; i++) {
        fh_slab_free(&cache, exchanged[i]);
        exchanged[i] = NULL;
    }
    assert_int_equal(live(), 0);
    fh_slab_reap(&cache);
    struct fh_slab_stats stats;
    fh_slab_statistics(&cache, &stats);
    assert_int_equal(stats.slabs, 0);
    assert_int_equal(destructed, constructed);
    fh_slab_destroy(&cache);
}

static void *use_a_little(void *context)
{
    (void)context;
    void *mine[10];
    for (int i = 0; i < 10; i++)
        mine[i] = fh_slab_alloc(&cache);
    for (int i = 0; i < 10; i++)
        fh_slab_free(&cache, mine[i]);
    return NULL;
}

static void test_a_threads_magazines_come_back_when_it_ends(void **state)
{
    (void)state;
    open_over_heap(64);
    struct fh_measure first = {.size = sizeof first}, last = first;
    for (int i = 0; i < 300; i++) {
        pthread_t thread;
        pthread_create(&thread, NULL, use_a_little, NULL);
        pthread_join(thread, NULL);
        if (i == 2)
            fh_slab_measure(&cache, &first);
    }
    fh_slab_measure(&cache, &last);
    assert_int_equal(last.live_blocks, 0);
    assert_int_equal(last.footprint, first.footprint);
    fh_slab_destroy(&cache);
}

static void test_a_destroyed_caches_magazines_are_not_its_successors(void **state)
{
    (void)state;
    for (int i = 0; i < 300; i++) {
        open_over_heap((size_t)16 << i % 5);
        void *object = fh_slab_alloc(&cache);
        memset(object, 1, (size_t)16 << i % 5);
        fh_slab_free(&cache, object);
        assert_int_equal(fh_slab_check(&cache), 0);
        fh_slab_destroy(&cache);
    }
}

static bool is_enough;

static void *never_stop(void *context)
{
    while (!__atomic_load_n(&is_enough, __ATOMIC_RELAXED))
        for (int i = 0; i < 100; i++)
            use_a_little(context);
    return NULL;
}

static void test_a_forked_child_can_use_the_cache(void **state)
{
    (void)state;
    open_over_heap(64);
    pthread_t thread;
    is_enough = false;
    pthread_create(&thread, NULL, never_stop, NULL);
    for (int i = 0; i < 50; i++) {
        void *object = fh_slab_alloc(&cache);
        pid_t child = fork();
        if (child == 0) {
            alarm(10);
            fh_slab_free(&cache, object);
            for (int j = 0; j < 200; j++)
                use_a_little(NULL);
            _exit(fh_slab_check(&cache) == 0 ? 0 : 1);
        }
        int status = -1;
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_int_equal(status, 0);
        fh_slab_free(&cache, object);
    }
    __atomic_store_n(&is_enough, true, __ATOMIC_RELAXED);
    pthread_join(thread, NULL);
    fh_slab_destroy(&cache);
}

static int setup(void **state)
{
    (void)state;
    return fh_ctl_set("on_error", "continue");
}

#define BOTH(test)                                                                                 \
    {#test, test, NULL, NULL, NULL},                                                               \
    {                                                                                              \
#test " (single)", test, NULL, NULL, memory                                                \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_objects_are_apart_and_aligned),
        cmocka_unit_test(test_little_memory_is_used_whole),
        cmocka_unit_test(test_nonsense_options_are_refused),
        BOTH(test_an_object_stays_constructed_while_it_is_free),
        BOTH(test_a_constructor_that_fails_fails_the_allocation),
        BOTH(test_reset_constructs_anew),
        cmocka_unit_test(test_first_objects_begin_in_different_colours),
        cmocka_unit_test(test_reaping_gives_back_what_is_free),
        cmocka_unit_test(test_a_cache_gives_back_for_its_neighbour),
        cmocka_unit_test(test_a_limit_is_kept),
        cmocka_unit_test(test_every_second_free_is_seen_in_a_single_thread),
        cmocka_unit_test(test_second_frees_are_seen_at_once_or_when_magazines_are_emptied),
        cmocka_unit_test(test_interior_and_foreign_pointers_are_seen),
        cmocka_unit_test(test_the_interface_keeps_to_one_size),
        BOTH(test_a_random_sequence_keeps_every_object),
        cmocka_unit_test(test_threads_exchange_objects),
        cmocka_unit_test(test_a_threads_magazines_come_back_when_it_ends),
        cmocka_unit_test(test_a_destroyed_caches_magazines_are_not_its_successors),
        cmocka_unit_test(test_a_forked_child_can_use_the_cache),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}
