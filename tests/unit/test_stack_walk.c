/*
 * Walks that must end well: damaged stacks, bounds, skipping, interruption, modules that come and
 * go.
 */
#define _GNU_SOURCE 1 /* REG_RIP, pthread_getattr_np */

#include "stack/stack.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#include "base/core/macros.h"
#include "base/core/random.h"
#include "stack/region.h"
#include "stack/root.h"

enum {
    FRAMES = 64,
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
    SMALLEST_STACK = 1 << 20, /* what the sanitizers ask for */
#else
    SMALLEST_STACK = 16384,
#endif
};

static struct fh_stack_cache cache;
/* Two captures must come from one call to be equal: the compiler shall not make two of it. */
static volatile int twice = 2;

/* ---- Plain captures ------------------------------------------------------------------------- */

static __attribute__((noinline)) size_t recurse(size_t depth, uintptr_t *frames, size_t max,
                                                size_t skip)
{
    size_t n = depth == 0 ? fh_stack_capture(&cache, frames, max, skip)
                          : recurse(depth - 1, frames, max, skip);
    __asm__ volatile("" : "+r"(n));
    return n;
}

struct capture {
    size_t max, skip;
    bool is_uncached;
    size_t n;
    uintptr_t frames[FRAMES];
};

/* Fills both by the same call, so that every frame is the same. */
static __attribute__((noinline)) void capture_both(size_t depth, struct capture *captures)
{
    for (int i = 0; i < twice; i++) {
        struct capture *capture = &captures[i];
        cache.is_busy = capture->is_uncached;
        capture->n = recurse(depth, capture->frames, capture->max, capture->skip);
        cache.is_busy = false;
    }
}

static void test_skip_leaves_out_the_innermost(void **state)
{
    (void)state;
    for (size_t skip = 0; skip < 12; skip++) {
        struct capture both[2] = {{.max = FRAMES}, {.max = FRAMES, .skip = skip}};
        capture_both(8, both);
        assert_int_equal(both[1].n, both[0].n - skip);
        assert_memory_equal(both[1].frames, both[0].frames + skip, both[1].n * sizeof(uintptr_t));
    }
    uintptr_t frames[1];
    assert_int_equal(recurse(3, frames, 1, 1000), 0);
}

static void test_max_cuts_the_outermost(void **state)
{
    (void)state;
    for (size_t max = 0; max < 20; max++) {
        struct capture both[2] = {{.max = FRAMES}, {.max = max}};
        capture_both(8, both);
        assert_int_equal(both[1].n, max < both[0].n ? max : both[0].n);
        assert_memory_equal(both[1].frames, both[0].frames, both[1].n * sizeof(uintptr_t));
    }
}

static void test_the_cache_changes_nothing(void **state)
{
    (void)state;
    struct fh_random random = {7};
    for (int i = 0; i < 2000; i++) {
        struct capture both[2] = {{.max = FRAMES, .skip = fh_random_below(&random, 3)}};
        both[0].max -= fh_random_below(&random, 60);
        both[1] = both[0];
        both[1].is_uncached = true;
        capture_both(fh_random_below(&random, 40), both);
        assert_int_equal(both[1].n, both[0].n);
        assert_memory_equal(both[1].frames, both[0].frames, both[1].n * sizeof(uintptr_t));
    }
}

static void test_stacks_deeper_than_the_cache(void **state)
{
    (void)state;
    static uintptr_t frames[3000];
    for (size_t i = 0; i < 3; i++) {
        size_t n = recurse(2000, frames, FH_ARRAY_LEN(frames), 0);
        assert_true(n > 2000 && n < 2100);
        for (size_t j = 2; j < 2000; j++)
            assert_int_equal(frames[j], frames[1]);
    }
}

/* ---- Damage --------------------------------------------------------------------------------- */

/* A stack of its own between pages that fault, full of garbage. */
struct arena {
    uintptr_t low, high;
};

static struct arena make_arena(size_t size)
{
    char *pages = mmap(NULL, size + 8192, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(pages, MAP_FAILED);
    assert_int_equal(mprotect(pages + 4096, size, PROT_READ | PROT_WRITE), 0);
    return (struct arena){(uintptr_t)pages + 4096, (uintptr_t)pages + 4096 + size};
}

static void fill_garbage(struct arena arena, struct fh_random *random)
{
    uintptr_t code[] = {(uintptr_t)recurse, (uintptr_t)qsort, (uintptr_t)strtod,
                        (uintptr_t)pthread_create};
    for (uintptr_t at = arena.low; at < arena.high; at += 8) {
        uint64_t draw = fh_random_next(random);
        uintptr_t word = draw;
        switch (draw >> 60) {
        case 0:
        case 1:
        case 2:
        case 3: /* an address in some function */
            word = code[draw % FH_ARRAY_LEN(code)] + (draw >> 8) % 400;
            break;
        case 4:
        case 5:
        case 6:
        case 7: /* an address near here, perhaps beyond the end */
            word = at + (draw >> 8) % 512 * 8 - 256;
            break;
        case 8:
            word = 0;
            break;
        default:
            break;
        }
        *(uintptr_t *)at = word;
    }
}

static void test_garbage_ends_the_walk_without_a_fault(void **state)
{
    (void)state;
    struct arena arena = make_arena(16384);
    struct fh_random random = {99};
    uintptr_t frames[FRAMES];
    static struct fh_stack_cache own;
    fh_stack_cache_bound(&own, arena.low, arena.high);
    for (int i = 0; i < 20000; i++) {
        ucontext_t context;
        memset(&context, 0, sizeof(context));
        if (i % 16 == 0)
            fill_garbage(arena, &random);
        uintptr_t sp = arena.low + fh_random_below(&random, 16384 / 8) * 8;
        context.uc_mcontext.gregs[REG_RSP] = (greg_t)(sp + (i % 7 == 0 ? 3 : 0));
        context.uc_mcontext.gregs[REG_RBP] = (greg_t)(sp + fh_random_below(&random, 4096));
        context.uc_mcontext.gregs[REG_RIP] =
            (greg_t)((uintptr_t)(i % 2 ? recurse
                                       : (size_t(*)(size_t, uintptr_t *, size_t, size_t))(
                                             uintptr_t)qsort) +
                     fh_random_below(&random, 300));
        struct fh_stack_cache *used = i % 3 == 0 ? NULL : &own;
        size_t n = fh_stack_capture_from(used, &context, frames, FRAMES, 0);
        assert_true(n >= 1 && n <= FRAMES);
    }
    munmap((void *)(arena.low - 4096), 16384 + 8192);
}

static __attribute__((noinline)) size_t smash_frame_pointer(uintptr_t *frames, uintptr_t value)
{
    volatile uintptr_t *here = __builtin_frame_address(0);
    uintptr_t saved = here[0];
    here[0] = value;
    size_t n = fh_stack_capture(NULL, frames, FRAMES, 0);
    here[0] = saved;
    return n;
}

static void test_a_smashed_frame_pointer_ends_the_walk(void **state)
{
    (void)state;
    uintptr_t frames[FRAMES];
    uintptr_t values[] = {0,
                          1,
                          8,
                          0x4141414141414141u,
                          UINTPTR_MAX,
                          UINTPTR_MAX - 7,
                          (uintptr_t)&cache,
                          (uintptr_t)frames & ~(uintptr_t)0xfff,
                          (uintptr_t)frames + 4};
    for (size_t i = 0; i < FH_ARRAY_LEN(values); i++) {
        size_t n = smash_frame_pointer(frames, values[i]);
        assert_true(n >= 1);
    }
}

static void test_a_call_of_nothing_shows_its_caller(void **state)
{
    (void)state;
    uintptr_t frames[FRAMES];
    uintptr_t stack[64] = {0};
    ucontext_t context;
    getcontext(&context);
    stack[0] = (uintptr_t)recurse + 32;
    context.uc_mcontext.gregs[REG_RIP] = 0;
    context.uc_mcontext.gregs[REG_RSP] = (greg_t)(uintptr_t)stack;
    size_t n = fh_stack_capture_from(NULL, &context, frames, FRAMES, 0);
    assert_true(n >= 2);
    assert_int_equal(frames[0], 1);
    assert_int_equal(frames[1], stack[0]);
}

/* ---- Bounds --------------------------------------------------------------------------------- */

static void *check_bounds(void *arg)
{
    (void)arg;
    pthread_attr_t attributes;
    void *low;
    size_t size;
    uintptr_t sp = (uintptr_t)__builtin_frame_address(0);
    struct fh_stack_region region = fh_stack_region_of(NULL, sp);
    assert_int_equal(pthread_getattr_np(pthread_self(), &attributes), 0);
    assert_int_equal(pthread_attr_getstack(&attributes, &low, &size), 0);
    pthread_attr_destroy(&attributes);
    assert_true(region.low <= sp && sp < region.high);
    assert_true(region.high <= (uintptr_t)low + size);
    assert_true((uintptr_t)low + size - region.high < 16384);
    return NULL;
}

static void test_bounds_are_those_that_pthread_knows(void **state)
{
    (void)state;
    check_bounds(NULL);
    size_t sizes[] = {SMALLEST_STACK, SMALLEST_STACK + 4096, 2 << 20, 8 << 20};
    for (size_t i = 0; i < FH_ARRAY_LEN(sizes); i++) {
        for (int is_own = 0; is_own < 2; is_own++) {
            pthread_attr_t attributes;
            pthread_t thread;
            void *stack = aligned_alloc(4096, sizes[i]);
            pthread_attr_init(&attributes);
            if (is_own)
                pthread_attr_setstack(&attributes, stack, sizes[i]);
            else
                pthread_attr_setstacksize(&attributes, sizes[i]);
            assert_int_equal(pthread_create(&thread, &attributes, check_bounds, NULL), 0);
            pthread_join(thread, NULL);
            pthread_attr_destroy(&attributes);
            free(stack);
        }
    }
}

/* ---- Modules that come and go --------------------------------------------------------------- */

static uintptr_t seen[FRAMES];
static size_t seen_len;

static int capture_in_callback(const void *a, const void *b)
{
    (void)a;
    (void)b;
    seen_len = fh_stack_capture(&cache, seen, FRAMES, 0);
    return 0;
}

static __attribute__((noinline)) void ask_list(bool is_asked)
{
    fh_stack_root.modules.use_list = is_asked;
    fh_stack_init();
    memset(&cache, 0, sizeof(cache));
}

static void test_a_list_serves_where_the_loader_has_no_index(void **state)
{
    (void)state;
    uintptr_t frames[2][FRAMES];
    size_t lens[2];
    int numbers[2] = {1, 2};
    for (int i = 0; i < twice; i++) {
        ask_list(i != 0);
        qsort(numbers, 2, sizeof(numbers[0]), capture_in_callback);
        memcpy(frames[i], seen, sizeof(seen));
        lens[i] = seen_len;
    }
    ask_list(false);
    assert_true(lens[0] > 5);
    assert_int_equal(lens[1], lens[0]);
    assert_memory_equal(frames[1], frames[0], lens[0] * sizeof(uintptr_t));
}

static void test_modules_are_opened_and_closed(void **state)
{
    (void)state;
    /* Libraries that are installed with the C library and take callbacks are few: what matters here
     * is that the tables follow the loader, so their own functions are asked for by address. */
    const char *names[] = {"libm.so.6",    "libresolv.so.2",    "libBrokenLocale.so.1",
                           "libutil.so.1", "libnss_files.so.2", "libanl.so.1"};
    struct fh_random random = {5};
    size_t opened = 0;
    for (int i = 0; i < 600; i++) {
        void *module = dlopen(names[fh_random_below(&random, FH_ARRAY_LEN(names))], RTLD_NOW);
        if (module == NULL)
            continue;
        opened++;
        struct fh_module_place place;
        const void *dynamic = *(void **)((char *)module + 16); /* link_map.l_ld */
        uint32_t rule, ref;
        assert_true(fh_module_at((uintptr_t)dynamic, &place));
        assert_false(fh_module_rule((uintptr_t)dynamic, &rule, &ref)); /* data is not code */
        dlclose(module);
    }
    struct fh_stack_counts counts;
    fh_stack_counts(&counts);
    assert_true(opened > 100);
    assert_true(counts.modules < 32);
}

#if !defined(__SANITIZE_THREAD__)
/* ---- Interruption --------------------------------------------------------------------------- */

static volatile sig_atomic_t interruptions;

static void capture_in_handler(int number, siginfo_t *info, void *context)
{
    (void)number;
    (void)info;
    uintptr_t frames[FRAMES], called[FRAMES];
    size_t n = fh_stack_capture_from(&cache, context, frames, FRAMES, 0);
    size_t m = fh_stack_capture(&cache, called, FRAMES, 0);
    /* The handler, the trampoline, then what was interrupted. */
    if (n == 0 || m < n + 2 || memcmp(called + 2, frames, n * sizeof(frames[0])) != 0)
        abort();
    interruptions++;
}

static void test_captures_are_interrupted_by_captures(void **state)
{
    (void)state;
    struct sigaction action = {.sa_sigaction = capture_in_handler, .sa_flags = SA_SIGINFO};
    sigaction(SIGALRM, &action, NULL);
    timer_t timer;
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGALRM};
    struct itimerspec often = {{0, 50000}, {0, 50000}};
    assert_int_equal(timer_create(CLOCK_MONOTONIC, &event, &timer), 0);
    timer_settime(timer, 0, &often, NULL);
    uintptr_t frames[FRAMES];
    for (size_t i = 0; i < 20000000 && interruptions < 1000; i++)
        assert_true(recurse(i % 13, frames, FRAMES, 0) > i % 13);
    timer_delete(timer);
    assert_true(interruptions > 10);
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_skip_leaves_out_the_innermost),
        cmocka_unit_test(test_max_cuts_the_outermost),
        cmocka_unit_test(test_the_cache_changes_nothing),
        cmocka_unit_test(test_stacks_deeper_than_the_cache),
        cmocka_unit_test(test_garbage_ends_the_walk_without_a_fault),
        cmocka_unit_test(test_a_smashed_frame_pointer_ends_the_walk),
        cmocka_unit_test(test_a_call_of_nothing_shows_its_caller),
        cmocka_unit_test(test_bounds_are_those_that_pthread_knows),
        cmocka_unit_test(test_a_list_serves_where_the_loader_has_no_index),
        cmocka_unit_test(test_modules_are_opened_and_closed),
#if !defined(__SANITIZE_THREAD__) /* it calls handlers later, with a context of before */
        cmocka_unit_test(test_captures_are_interrupted_by_captures),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
