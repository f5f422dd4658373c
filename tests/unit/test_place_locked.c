/* The wrappers: threads that share an allocator which has no lock, through a mutex or magazines. */
#include "base/core/random.h"
#include "freehold/buddy.h"
#include "freehold/freehold.h"
#include "freehold/locked.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum { MEMORY = 1 << 20 };

static _Alignas(1 << 20) unsigned char memory[MEMORY], metadata[64 << 10];
static struct fh_buddy buddy;
static struct fh_locked locked;
static struct fh_allocator a;

static void open_kind(enum fh_locked_kind kind)
{
    struct fh_buddy_options options = {.place = FH_PLACE_BUFFER(memory, MEMORY),
                                       .metadata = metadata,
                                       .metadata_bytes = sizeof metadata};
    assert_int_equal(fh_buddy_init(&buddy, &options), 0);
    assert_int_equal(
        fh_locked_init(&locked, &(struct fh_locked_options){.inner = fh_buddy_allocator(&buddy),
                                                            .kind = kind}),
        0);
    a = fh_locked_allocator(&locked);
}

static enum fh_locked_kind kind_of(void **state)
{
    return *state != NULL ? FH_LOCKED_MAGAZINES : FH_LOCKED_MUTEX;
}

static size_t live(void)
{
    struct fh_measure measure = {.size = sizeof measure};
    assert_int_equal(fh_allocator_measure(&a, &measure), 0);
    return measure.live_blocks;
}

struct live {
    unsigned char *address;
    size_t size;
    unsigned char mark;
};

static void *take_and_give(void *seed)
{
    struct fh_random random = {(uintptr_t)seed * 77 + 1};
    struct live blocks[60] = {0};
    for (int step = 0; step < 15000; step++) {
        struct live *block = &blocks[fh_random_below(&random, 60)];
        size_t size = (size_t)1 << fh_random_below(&random, 12);
        size += fh_random_below(&random, (uint32_t)size);
        if (block->address != NULL) {
            for (size_t i = 0; i < block->size; i++)
                assert_int_equal(block->address[i], block->mark);
            switch (fh_random_below(&random, 3)) {
            case 0:
                fh_free(&a, block->address);
                block->address = NULL;
                continue;
            case 1:
                fh_free_sized(&a, block->address, block->size, 0);
                block->address = NULL;
                continue;
            default: {
                unsigned char *moved = fh_resize(&a, block->address, size);
                if (moved == NULL)
                    continue;
                block->address = moved;
            }
            }
        } else {
            block->address = fh_alloc(&a, size);
        }
        if (block->address == NULL)
            continue;
        block->size = size;
        block->mark = (unsigned char)((uintptr_t)seed + (uintptr_t)step);
        memset(block->address, block->mark, size);
    }
    for (size_t i = 0; i < 60; i++)
        fh_free(&a, blocks[i].address);
    return NULL;
}

static void test_threads_share_an_allocator_without_a_lock(void **state)
{
    open_kind(kind_of(state));
    pthread_t threads[4];
    for (size_t i = 0; i < 4; i++)
        pthread_create(&threads[i], NULL, take_and_give, (void *)(i + 1));
    for (size_t i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(fh_allocator_check(&a), 0);
    assert_int_equal(live(), 0);
    fh_allocator_destroy(&a);
}

static void test_all_memory_can_be_had(void **state)
{
    open_kind(kind_of(state));
    static void *blocks[MEMORY / 64];
    size_t count = 0;
    while ((blocks[count] = fh_alloc(&a, 64)) != NULL)
        count++;
    assert_int_equal(errno, ENOMEM);
    assert_int_equal(count, MEMORY / 64);
    for (size_t i = 0; i < count; i++)
        fh_free(&a, blocks[i]);
    /* What waits in magazines is in the way; exhaustion empties them. */
    assert_non_null(fh_alloc(&a, MEMORY));
    fh_allocator_reset(&a);
    assert_int_equal(live(), 0);
    fh_allocator_destroy(&a);
}

static void test_none_is_the_allocator_itself(void **state)
{
    (void)state;
    open_kind(FH_LOCKED_NONE);
    assert_ptr_equal(a.self, &buddy);
    fh_locked_close(&locked);
    fh_buddy_destroy(&buddy);
}

static void test_nonsense_is_refused(void **state)
{
    (void)state;
    struct fh_locked_options options = {.kind = FH_LOCKED_MUTEX};
    assert_int_equal(fh_locked_init(&locked, &options), -EINVAL);
    options.inner = fh_heap_allocator(fh_heap_mine());
    options.largest = 4096;
    assert_int_equal(fh_locked_init(&locked, &options), -EINVAL);
}

static void *held;

static int ask_again(void *context, const struct fh_block *block)
{
    (void)context;
    return block->address == held && fh_allocator_usable_size(&a, held) >= 100 ? 7 : 0;
}

static void test_the_holder_of_the_lock_may_call_again(void **state)
{
    open_kind(kind_of(state));
    held = fh_alloc(&a, 100);
    assert_int_equal(fh_allocator_walk(&a, ask_again, NULL), 7);
    fh_allocator_destroy(&a);
}

static bool is_enough;

static void *never_stop(void *context)
{
    (void)context;
    while (!__atomic_load_n(&is_enough, __ATOMIC_RELAXED)) {
        void *blocks[50];
        for (size_t i = 0; i < 50; i++)
            blocks[i] = fh_alloc(&a, i * 40);
        for (size_t i = 0; i < 50; i++)
            fh_free(&a, blocks[i]);
    }
    return NULL;
}

static void test_a_forked_child_finds_it_whole(void **state)
{
    open_kind(kind_of(state));
    pthread_t thread;
    is_enough = false;
    pthread_create(&thread, NULL, never_stop, NULL);
    for (int i = 0; i < 30; i++) {
        void *block = fh_alloc(&a, 100);
        pid_t child = fork();
        if (child == 0) {
            alarm(10);
            fh_free(&a, block);
            for (int j = 0; j < 200; j++)
                fh_free(&a, fh_alloc(&a, 48));
            _exit(fh_allocator_check(&a) == 0 ? 0 : 1);
        }
        int status = -1;
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_int_equal(status, 0);
        fh_free(&a, block);
    }
    __atomic_store_n(&is_enough, true, __ATOMIC_RELAXED);
    pthread_join(thread, NULL);
    assert_int_equal(live(), 0);
    fh_allocator_destroy(&a);
}

#define BOTH(test)                                                                                 \
    {#test, test, NULL, NULL, NULL},                                                               \
    {                                                                                              \
#test " (magazines)", test, NULL, NULL, memory                                             \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
        BOTH(test_threads_share_an_allocator_without_a_lock),
        BOTH(test_all_memory_can_be_had),
        cmocka_unit_test(test_none_is_the_allocator_itself),
        cmocka_unit_test(test_nonsense_is_refused),
        BOTH(test_the_holder_of_the_lock_may_call_again),
        BOTH(test_a_forked_child_finds_it_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
