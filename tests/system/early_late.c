/*
 * Allocation at each moment of a program's life, in the order in which they come:
 *
 *   an IFUNC resolver     while the loader still relocates; glibc fills thread-local data
 * afterwards, so what an allocator wrote there is gone .preinit_array        before any constructor
 *   constructors          of priority 101 and of none
 *   main, threads
 *   thread's end          thread_local destructors, then key destructors, in rounds; a key set
 * again runs again atexit, on_exit       after main, with a detached thread still running
 *   destructors           of none and of priority 101
 *   .fini_array's last    after which only the loader runs
 *
 * At each moment blocks of the earlier ones are checked, resized or freed, and new ones left for
 * the later. Each moment writes a line; the script compares all of them with what is expected, so a
 * moment that is missing is seen.
 */
#include "common.h"

#include <pthread.h>
#include <stdatomic.h>

extern int __cxa_thread_atexit_impl(void (*destroy)(void *), void *object, void *dso);
extern void *__dso_handle;

#define KEPT       16
#define KEPT_SIZES 6

static const size_t sizes[KEPT_SIZES] = {1, 24, 500, 5000, 70000, (size_t)2 << 20};
static unsigned char *kept[KEPT][KEPT_SIZES];

/* Leaves blocks of all sizes in row `moment`. */
static void leave(unsigned moment)
{
    for (size_t i = 0; i < KEPT_SIZES; i++) {
        unsigned char *block = opaque(i % 2 == 0 ? malloc(sizes[i]) : calloc(1, sizes[i]));
        EXPECT(block != NULL, "expected %zu bytes at moment %u", sizes[i], moment);
        memset(block, (int)moment + 1, sizes[i]);
        kept[moment][i] = block;
    }
}

/* Takes those of an earlier moment: resized once, checked, freed. */
static void take(unsigned moment)
{
    for (size_t i = 0; i < KEPT_SIZES; i++) {
        unsigned char *block = kept[moment][i];
        EXPECT(block != NULL, "expected moment %u to have left blocks", moment);
        block = opaque(realloc(block, sizes[i] + 100));
        EXPECT(block != NULL, "expected realloc of a block of moment %u to succeed", moment);
        for (size_t at = 0; at < sizes[i]; at++)
            EXPECT(block[at] == moment + 1, "expected a block of moment %u to keep its contents",
                   moment);
        free(block);
        kept[moment][i] = NULL;
    }
}

static void churn(void)
{
    for (size_t i = 1; i < 300; i++) {
        void *block = opaque(malloc(i * 7));
        memset(block, 1, i * 7);
        free(block);
    }
}

/* While the loader relocates the program: malloc is bound already, standard I/O and write are not
 * to be relied on. */
static void *resolver_block;
static size_t resolver_size = 300;

static int picked(void)
{
    return 42;
}

typedef int picked_function(void);
__attribute__((used)) static picked_function *resolve(void)
{
    unsigned char *block = malloc(resolver_size);

    for (size_t i = 0; i < resolver_size; i++)
        block[i] = 0x42;
    for (size_t i = 1; i < 100; i++)
        free(opaque(malloc(i)));
    resolver_block = block;
    return picked;
}

int indirect(void) __attribute__((ifunc("resolve")));

static void preinit(int argc, char **argv, char **env)
{
    (void)argc, (void)argv, (void)env;
    leave(1);
    say("preinit");
}

__attribute__((section(".preinit_array"), used)) static void (*preinit_entry)(int, char **,
                                                                              char **) = preinit;

__attribute__((constructor(101))) static void first_constructor(void)
{
    take(1);
    leave(2);
    say("constructor 101");
}

__attribute__((constructor)) static void plain_constructor(void)
{
    take(2);
    leave(3);
    churn();
    say("constructor");
}

static void *from_key;

static void key_destroy(void *value)
{
    static pthread_key_t key;
    static int round;

    if (round == 0)
        key = *(pthread_key_t *)value;
    round++;
    churn();
    free(from_key);
    from_key = opaque(malloc(5000));
    memset(from_key, 1, 5000);
    say("key destructor, round %d", round);
    if (round < 3) {
        pthread_key_t *again = opaque(malloc(sizeof(*again)));
        *again = key;
        pthread_setspecific(key, again);
    }
    free(value);
}

static void thread_object_destroy(void *object)
{
    free(object);
    take(5);
    leave(6);
    churn();
    say("thread_local destructor");
}

static void *end_in_each_way(void *arg)
{
    static pthread_key_t key;

    (void)arg;
    pthread_key_create(&key, key_destroy);
    pthread_key_t *value = opaque(malloc(sizeof(*value)));
    *value = key;
    pthread_setspecific(key, value);
    __cxa_thread_atexit_impl(thread_object_destroy, opaque(malloc(100)), &__dso_handle);
    take(4);
    leave(5);
    say("thread");
    return NULL;
}

static atomic_bool is_running;

static void *run_on(void *arg)
{
    (void)arg;
    for (;;) {
        churn();
        atomic_store(&is_running, true);
    }
    return NULL;
}

static void main_object_destroy(void *object)
{
    free(object);
    take(7);
    leave(8);
    say("main thread's thread_local destructor");
}

static void at_exit(void)
{
    take(8);
    leave(9);
    churn();
    say("atexit");
}

static void on_exit_too(int status, void *arg)
{
    free(arg);
    take(9);
    leave(10);
    say("on_exit, status %d", status);
}

__attribute__((destructor)) static void plain_destructor(void)
{
    take(10);
    leave(11);
    churn();
    say("destructor");
}

__attribute__((destructor(101))) static void last_destructor(void)
{
    take(11);
    leave(12);
    say("destructor 101");
    for (size_t i = 0; i < 100; i++)
        free(opaque(strdup("a string after which nothing of this program runs")));
    take(12);
    heap_check("in the last destructor");
    say("all moments passed");
}

int main(void)
{
    pthread_t thread;

    alarm(30);
    EXPECT(indirect() == 42, "expected the resolver's choice to be called");
    unsigned char *block = resolver_block;
    for (size_t i = 0; i < resolver_size; i++)
        EXPECT(block[i] == 0x42, "expected the block of the IFUNC resolver to keep its contents");
    free(opaque(realloc(block, 4000)));
    say("resolver's block freed in main");
    take(3);
    leave(4);
    EXPECT(pthread_create(&thread, NULL, end_in_each_way, NULL) == 0, "expected a thread");
    pthread_join(thread, NULL);
    free(from_key);
    take(6);
    leave(7);
    on_exit(on_exit_too, opaque(malloc(33)));
    atexit(at_exit);
    __cxa_thread_atexit_impl(main_object_destroy, opaque(malloc(100)), &__dso_handle);
    pthread_create(&thread, NULL, run_on, NULL);
    pthread_detach(thread);
    while (!atomic_load(&is_running))
        usleep(100);
    say("main ends");
    return 0;
}
