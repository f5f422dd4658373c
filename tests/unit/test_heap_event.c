/* heap/event: each call is told once, to whoever listens for it, and nothing when nobody does. */
#include "freehold/freehold.h"
#include "os/sys.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#define CALLS (FH_EVENT_ALLOC | FH_EVENT_FREE | FH_EVENT_RESIZE)
#define ALL   (CALLS | FH_EVENT_PURGE | FH_EVENT_GROW)

enum { KEPT = 64, THREADS = 4, ROUNDS = 3000 };

struct log {
    _Atomic unsigned count;
    struct fh_event events[KEPT];
};

static void keep(void *context, const struct fh_event *event)
{
    struct log *log = context;
    unsigned at = atomic_fetch_add(&log->count, 1);
    if (at < KEPT)
        log->events[at] = *event;
}

static struct log heard;

static int listen_to(unsigned kinds)
{
    memset(&heard, 0, sizeof heard);
    int id = fh_event_listen(kinds, keep, &heard);
    assert_true(id > 0);
    return id;
}

static void expect(unsigned at, enum fh_event_kind kind, const void *address, const void *old,
                   size_t requested)
{
    const struct fh_event *event = &heard.events[at];
    assert_true(at < atomic_load(&heard.count));
    assert_int_equal(event->kind, kind);
    assert_ptr_equal(event->address, address);
    assert_ptr_equal(event->old_address, old);
    assert_int_equal(event->requested, requested);
    assert_int_equal(event->size, sizeof *event);
    assert_int_equal(event->thread, fh_os_gettid());
    assert_true(event->time_ns != 0);
    assert_true(event->usable >= requested);
    assert_non_null(event->caller);
    assert_true((uintptr_t)event->frame < (uintptr_t)__builtin_frame_address(0) + 65536);
}

static void test_each_call_of_this_thread_is_told_once(void **state)
{
    (void)state;
    void *before = fh_malloc(100);
    int id = listen_to(CALLS);
    unsigned at = 0;
    char *small = fh_malloc(100);
    expect(at++, FH_EVENT_ALLOC, small, NULL, 100);
    void *nothing = fh_malloc(0);
    expect(at++, FH_EVENT_ALLOC, nothing, NULL, 1); /* as it is served */
    void *zeroed = fh_calloc(3, 50);
    expect(at++, FH_EVENT_ALLOC, zeroed, NULL, 150);
    void *medium = fh_malloc(5000);
    expect(at++, FH_EVENT_ALLOC, medium, NULL, 5000);
    void *large = fh_malloc(100000);
    expect(at++, FH_EVENT_ALLOC, large, NULL, 100000);
    void *big_zeroed = fh_calloc(1000, 1000);
    expect(at++, FH_EVENT_ALLOC, big_zeroed, NULL, 1000000);
    void *aligned = fh_aligned_alloc(64, 100);
    expect(at++, FH_EVENT_ALLOC, aligned, NULL, 100);
    void *aligned_large = fh_aligned_alloc(1 << 20, 100);
    expect(at++, FH_EVENT_ALLOC, aligned_large, NULL, 100);
    char *same = fh_realloc(small, 104);
    expect(at++, FH_EVENT_RESIZE, same, small, 104);
    char *moved = fh_realloc(same, 4000);
    expect(at++, FH_EVENT_RESIZE, moved, same, 4000);
    void *grown = fh_realloc(large, 10000000);
    expect(at++, FH_EVENT_RESIZE, grown, large, 10000000);
    void *fresh = fh_realloc(NULL, 40);
    expect(at++, FH_EVENT_ALLOC, fresh, NULL, 40);
    void *all[] = {before,  nothing,       zeroed, medium, big_zeroed,
                   aligned, aligned_large, moved,  grown,  fresh};
    for (unsigned i = 0; i < sizeof all / sizeof all[0]; i++) {
        fh_free_any(all[i]);
        expect(at++, FH_EVENT_FREE, all[i], NULL, 0);
    }
    fh_free_any(NULL);
    assert_int_equal(at, atomic_load(&heard.count));
    assert_int_equal(fh_event_unlisten(id), 0);
    fh_free_any(fh_realloc(fh_malloc(100), 5000));
    assert_int_equal(at, atomic_load(&heard.count));
    assert_int_equal(fh_heap_check(NULL), 0);
}

static void use_first_class(struct fh_heap *heap)
{
    void *early = fh_heap_alloc(heap, 48);
    int id = listen_to(CALLS);
    unsigned at = 0;
    void *block = fh_heap_alloc(heap, 48);
    expect(at++, FH_EVENT_ALLOC, block, NULL, 48);
    void *moved = fh_heap_realloc(heap, block, 900);
    expect(at++, FH_EVENT_RESIZE, moved, block, 900);
    void *large = fh_heap_alloc(heap, 70000);
    expect(at++, FH_EVENT_ALLOC, large, NULL, 70000);
    fh_free_any(moved);
    expect(at++, FH_EVENT_FREE, moved, NULL, 0);
    fh_heap_free(heap, early);
    expect(at++, FH_EVENT_FREE, early, NULL, 0);
    fh_heap_free(heap, large);
    expect(at++, FH_EVENT_FREE, large, NULL, 0);
    assert_int_equal(at, atomic_load(&heard.count));
    assert_int_equal(fh_event_unlisten(id), 0);
    assert_int_equal(fh_heap_check(heap), 0);
    fh_heap_destroy(heap);
}

static void test_first_class_heaps_tell(void **state)
{
    (void)state;
    use_first_class(fh_heap_create(NULL));
    struct fh_heap_options single = {.size = sizeof single, .is_single_thread = true};
    use_first_class(fh_heap_create(&single));
    struct fh_heap_options checked = {.size = sizeof checked, .canary_bytes = 8};
    use_first_class(fh_heap_create(&checked));
}

static void test_only_the_kinds_asked_for_are_told(void **state)
{
    (void)state;
    int id = listen_to(FH_EVENT_FREE);
    void *block = fh_malloc(10);
    fh_free_any(fh_realloc(block, 1000));
    assert_int_equal(atomic_load(&heard.count), 1);
    assert_int_equal(heard.events[0].kind, FH_EVENT_FREE);
    assert_int_equal(fh_event_unlisten(id), 0);
}

static void allocate_too(void *context, const struct fh_event *event)
{
    _Atomic unsigned *count = context;
    (void)event;
    atomic_fetch_add(count, 1);
    void *block = fh_malloc(200);
    block = fh_realloc(block, 3000);
    assert_non_null(block);
    fh_free_any(block);
    errno = EDOM;
}

static void test_what_a_listener_allocates_is_not_told(void **state)
{
    (void)state;
    _Atomic unsigned count = 0;
    int id = fh_event_listen(CALLS, allocate_too, &count);
    errno = 0;
    fh_free_any(fh_malloc(200));
    assert_int_equal(errno, 0);
    assert_int_equal(atomic_load(&count), 2);
    assert_int_equal(fh_event_unlisten(id), 0);
    assert_int_equal(fh_heap_check(NULL), 0);
}

static void test_wrong_registrations_are_refused(void **state)
{
    (void)state;
    int ids[8];
    assert_int_equal(fh_event_listen(0, keep, NULL), -EINVAL);
    assert_int_equal(fh_event_listen(1 << 20, keep, NULL), -EINVAL);
    assert_int_equal(fh_event_listen(CALLS, NULL, NULL), -EINVAL);
    for (int i = 0; i < 8; i++)
        assert_true((ids[i] = listen_to(FH_EVENT_GROW)) > 0);
    assert_int_equal(fh_event_listen(CALLS, keep, &heard), -ENOSPC);
    for (int i = 0; i < 8; i++)
        assert_int_equal(fh_event_unlisten(ids[i]), 0);
    assert_int_equal(fh_event_unlisten(ids[0]), -EINVAL);
    assert_int_equal(fh_event_unlisten(0), -EINVAL);
    assert_int_equal(fh_event_unlisten(99), -EINVAL);
}

/* ---- threads ---- */

/* A block is told to be allocated and freed in turn: its count is 1 after the one, 0 after the
 * other. Blocks are identified by a hash of the address; a bucket counts the blocks in it. */
static struct {
    _Atomic int live[65536];
    _Atomic unsigned allocs, frees, resizes, wrong;
} tally;

static void count_event(void *context, const struct fh_event *event)
{
    (void)context;
    _Atomic int *bucket = &tally.live[((uintptr_t)event->address >> 4) % 65536];
    if (event->kind == FH_EVENT_ALLOC) {
        atomic_fetch_add(&tally.allocs, 1);
        atomic_fetch_add(bucket, 1);
    } else if (event->kind == FH_EVENT_FREE) {
        atomic_fetch_add(&tally.frees, 1);
        if (atomic_fetch_sub(bucket, 1) <= 0)
            atomic_fetch_add(&tally.wrong, 1);
    }
}

static _Atomic(void *) hand_over[THREADS];

static void *allocate_and_free(void *arg)
{
    unsigned me = (unsigned)(uintptr_t)arg;
    for (unsigned i = 0; i < ROUNDS; i++) {
        void *block = fh_malloc(16 + (i * 37 + me * 11) % 2000);
        /* The neighbour frees it, and this thread what the neighbour before gave. */
        fh_free_any(atomic_exchange(&hand_over[(me + i) % THREADS], block));
    }
    return NULL;
}

static void test_every_call_of_several_threads_is_told_once(void **state)
{
    (void)state;
    pthread_t threads[THREADS];
    memset(&tally, 0, sizeof tally);
    int id = fh_event_listen(CALLS, count_event, NULL);
    for (uintptr_t i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, allocate_and_free, (void *)i), 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < THREADS; i++)
        fh_free_any(atomic_exchange(&hand_over[i], NULL));
    assert_int_equal(fh_event_unlisten(id), 0);
    assert_int_equal(atomic_load(&tally.allocs), THREADS * ROUNDS);
    assert_int_equal(atomic_load(&tally.frees), THREADS * ROUNDS);
    assert_int_equal(atomic_load(&tally.wrong), 0);
    for (int i = 0; i < 65536; i++)
        assert_int_equal(atomic_load(&tally.live[i]), 0);
    assert_int_equal(fh_heap_check(NULL), 0);
}

static pthread_barrier_t barrier;

static void *begin_before(void *arg)
{
    void **blocks = arg;
    blocks[0] = fh_malloc(64); /* has a list now */
    pthread_barrier_wait(&barrier);
    pthread_barrier_wait(&barrier);
    unsigned i;
    for (i = 1; i < 20000 && atomic_load(&tally.allocs) == 0; i++)
        blocks[i] = fh_malloc(64);
    /* It tells now: from here on every one. */
    unsigned from = atomic_load(&tally.allocs);
    for (unsigned n = 0; n < 100; n++)
        fh_free_any(fh_malloc(64));
    assert_int_equal(atomic_load(&tally.allocs), from + 100);
    assert_true(atomic_load(&tally.frees) == 100);
    while (i-- > 0)
        fh_free_any(blocks[i]);
    return NULL;
}

static void test_a_thread_that_runs_begins_to_tell_when_its_list_is_used_up(void **state)
{
    (void)state;
    static void *blocks[20000];
    pthread_t thread;
    memset(&tally, 0, sizeof tally);
    pthread_barrier_init(&barrier, NULL, 2);
    pthread_create(&thread, NULL, begin_before, blocks);
    pthread_barrier_wait(&barrier);
    int id = fh_event_listen(CALLS, count_event, NULL);
    pthread_barrier_wait(&barrier);
    pthread_join(thread, NULL);
    assert_int_equal(fh_event_unlisten(id), 0);
    pthread_barrier_destroy(&barrier);
    assert_true(atomic_load(&tally.allocs) > 100);
}

static void *only_free(void *block)
{
    fh_free_any(block);
    return NULL;
}

static void test_a_thread_that_never_allocated_tells_its_frees(void **state)
{
    (void)state;
    pthread_t thread;
    void *block = fh_malloc(300);
    int id = listen_to(FH_EVENT_FREE);
    pthread_create(&thread, NULL, only_free, block);
    pthread_join(thread, NULL);
    assert_int_equal(atomic_load(&heard.count), 1);
    assert_ptr_equal(heard.events[0].address, block);
    assert_int_equal(fh_event_unlisten(id), 0);
}

/* ---- pages ---- */

static _Atomic size_t grown_bytes, purged_bytes;

static void add_pages(void *context, const struct fh_event *event)
{
    (void)context;
    if (event->kind == FH_EVENT_GROW)
        atomic_fetch_add(&grown_bytes, event->usable);
    if (event->kind == FH_EVENT_PURGE)
        atomic_fetch_add(&purged_bytes, event->usable);
}

static void test_growing_and_giving_back_are_told(void **state)
{
    (void)state;
    size_t bytes = (size_t)24 << 20;
    assert_int_equal(fh_ctl_set("decay", "-1"), 0); /* nobody else gives back */
    int id = fh_event_listen(FH_EVENT_GROW | FH_EVENT_PURGE, add_pages, NULL);
    char *block = fh_malloc(bytes);
    memset(block, 1, bytes);
    fh_free_any(fh_malloc(40000));              /* whoever calls next tells */
    assert_true(atomic_load(&grown_bytes) > 0); /* some of it may have been there */
    fh_free_any(block);
    size_t given = fh_heap_trim(0);
    assert_true(given >= bytes);
    fh_free_any(fh_malloc(40000));
    assert_true(atomic_load(&purged_bytes) >= given); /* the pool gives back on its own too */
    assert_int_equal(fh_event_unlisten(id), 0);
    assert_int_equal(fh_ctl_set("decay", "500"), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_call_of_this_thread_is_told_once),
        cmocka_unit_test(test_first_class_heaps_tell),
        cmocka_unit_test(test_only_the_kinds_asked_for_are_told),
        cmocka_unit_test(test_what_a_listener_allocates_is_not_told),
        cmocka_unit_test(test_wrong_registrations_are_refused),
        cmocka_unit_test(test_every_call_of_several_threads_is_told_once),
        cmocka_unit_test(test_a_thread_that_runs_begins_to_tell_when_its_list_is_used_up),
        cmocka_unit_test(test_a_thread_that_never_allocated_tells_its_frees),
        cmocka_unit_test(test_growing_and_giving_back_are_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
