/*
 * Threads that come and go, 10,000 of them, in waves.
 *
 * Each thread allocates, frees what another thread left, leaves blocks of its own behind and lets
 * destructors of thread-specific keys and of thread-local objects allocate and free once more when
 * it ends, after and between Freehold's own. What a thread leaves is freed by a later one, long
 * after its owner is gone. Memory must not grow with the number of threads that have been: the
 * resident size after the last wave is compared with that after the first tenth.
 *
 * With `small` the threads have the smallest stack that the system allows (16 KiB here), and also
 * allocate in a signal handler on an alternative stack; with `detached` nobody joins them.
 *
 * usage: threads [COUNT [WAVE [small|detached]]]
 */
#include "common.h"

#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <time.h>

#define LEFT_SLOTS              4096
#define MAX_WAVE                256
/* What may come after the first tenth: a steady state of its own, and a heap for each thread of a
 * wave. */
#define GROWTH_ALLOWED          ((size_t)24 << 20)
#define GROWTH_ALLOWED_A_THREAD ((size_t)256 << 10)
#define SIGNAL_STACK            16384

extern int __cxa_thread_atexit_impl(void (*destroy)(void *), void *object, void *dso);
extern void *__dso_handle;

static _Atomic(void *) left[LEFT_SLOTS];
static _Atomic unsigned ended;
static pthread_key_t keys[40];
static bool is_small;

/* A block that knows its size, so that whoever finds it can check it. */
static void *marked_block(size_t size)
{
    size = size < 16 ? 16 : size;
    unsigned char *block = opaque(malloc(size));

    EXPECT(block != NULL, "expected malloc(%zu) to succeed", size);
    memcpy(block, &size, sizeof(size));
    memset(block + sizeof(size), (int)(size & 0xff), size - sizeof(size));
    return block;
}

static void free_marked(void *ptr)
{
    unsigned char *block = ptr;
    size_t size;

    if (block == NULL)
        return;
    memcpy(&size, block, sizeof(size));
    for (size_t i = sizeof(size); i < size; i++)
        EXPECT(block[i] == (unsigned char)size,
               "expected block %p of %zu bytes, left by a thread that is gone, to keep "
               "its contents",
               ptr, size);
    free(block);
}

static void leave(uint64_t *random, void *block)
{
    free_marked(atomic_exchange(&left[random_below(random, LEFT_SLOTS)], block));
}

/* Runs when a thread ends; sets its key anew the first time, so that it runs again, in a later
 * round. */
static void key_destroy(void *value)
{
    uint64_t random = (uintptr_t)value;
    void **slot = value;
    void *again = marked_block(200);

    free_marked(slot[0]);
    free_marked(slot[1]);
    leave(&random, again);
    free(slot);
}

static void object_destroy(void *object)
{
    free_marked(object);
    free_marked(marked_block(3000));
}

static void on_signal(int number)
{
    (void)number;
    free_marked(marked_block(64));
    free_marked(marked_block(40000));
}

static void *live_briefly(void *arg)
{
    uint64_t random = (uintptr_t)arg;
    stack_t alternative = {.ss_size = SIGNAL_STACK};

    for (size_t i = 0; i < 40; i++)
        leave(&random, marked_block(random_size(&random, i == 0 ? 200000 : 2000)));
    for (size_t i = 0; i < 3; i++) {
        void **value = opaque(calloc(2, sizeof(void *)));
        EXPECT(value != NULL, "expected calloc to succeed");
        value[0] = marked_block(100);
        value[1] = marked_block(1000);
        /* Keys above 32 live in a second level that glibc allocates. */
        pthread_setspecific(keys[(size_t)(random_next(&random) % 13) + i * 13], value);
    }
    __cxa_thread_atexit_impl(object_destroy, marked_block(500), &__dso_handle);
    if (is_small && random_below(&random, 8) == 0) {
        alternative.ss_sp = opaque(malloc(SIGNAL_STACK));
        EXPECT(alternative.ss_sp != NULL, "expected malloc of a signal stack to succeed");
        sigaltstack(&alternative, NULL);
        pthread_kill(pthread_self(), SIGUSR1);
        stack_t none = {.ss_flags = SS_DISABLE};
        sigaltstack(&none, NULL);
        free(alternative.ss_sp);
    }
    atomic_fetch_add(&ended, 1);
    return NULL;
}

static void run_wave(pthread_attr_t *attr, unsigned first, unsigned count, bool is_detached)
{
    pthread_t threads[MAX_WAVE];
    unsigned before = atomic_load(&ended);

    for (unsigned i = 0; i < count; i++) {
        int error = pthread_create(&threads[i], attr, live_briefly, (void *)(uintptr_t)(first + i));
        EXPECT(error == 0, "expected thread %u to start, got error %d", first + i, error);
    }
    if (!is_detached) {
        for (unsigned i = 0; i < count; i++)
            pthread_join(threads[i], NULL);
        return;
    }
    while (atomic_load(&ended) < before + count)
        nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
}

int main(int argc, char **argv)
{
    unsigned count = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 0) : 10000;
    unsigned wave = argc > 2 ? (unsigned)strtoul(argv[2], NULL, 0) : 8;
    const char *how = argc > 3 ? argv[3] : "";
    bool is_detached = strcmp(how, "detached") == 0;
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_ONSTACK | SA_RESTART};
    pthread_attr_t attr;
    size_t early = 0;

    is_small = strcmp(how, "small") == 0;
    EXPECT(wave >= 1 && wave <= MAX_WAVE, "expected waves of 1 to %d threads", MAX_WAVE);
    snprintf(repeat_with, sizeof(repeat_with), "threads %u %u %s", count, wave, how);
    alarm(120);
    sigaction(SIGUSR1, &action, NULL);
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
        EXPECT(pthread_key_create(&keys[i], key_destroy) == 0,
               "expected pthread_key_create to succeed");
    pthread_attr_init(&attr);
    if (is_small) {
        long least = sysconf(_SC_THREAD_STACK_MIN);
        size_t size = least > 16384 ? (size_t)least : 16384;
        EXPECT(pthread_attr_setstacksize(&attr, size) == 0,
               "expected a stack of %zu bytes to be allowed", size);
    }
    if (is_detached)
        pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);

    for (unsigned done = 0; done < count; done += wave) {
        unsigned now = count - done < wave ? count - done : wave;
        run_wave(&attr, done + 1, now, is_detached);
        if (early == 0 && done >= count / 10)
            early = resident_bytes();
    }
    size_t late = resident_bytes();
    EXPECT(late <= early + GROWTH_ALLOWED + wave * GROWTH_ALLOWED_A_THREAD,
           "expected memory not to grow with the number of threads that have been: %zu KiB "
           "resident after a "
           "tenth of %u threads, %zu KiB after all",
           early >> 10, count, late >> 10);
    for (size_t i = 0; i < LEFT_SLOTS; i++)
        free_marked(atomic_exchange(&left[i], NULL));
    if (!is_detached)
        heap_check("after all threads have ended");
    say("threads: %u %s threads in waves of %u; resident %zu KiB after a tenth, %zu KiB after all",
        count, how, wave, early >> 10, late >> 10);
    return 0;
}
