/*
 * Threads whose stacks, and so whose thread pointers, are closer together than an allocator's unit
 * of ownership.
 *
 * An allocator that tells threads apart by an address of theirs (the thread pointer, a stack
 * address) may mix up two that are near. Stacks of 16 to 60 KiB, as language runtimes and coroutine
 * pools make them, bring thread pointers within 64 KiB. One thread allocates and frees; the other,
 * its neighbour, frees what it is handed, of all sizes, at the same time and without ever
 * allocating. Each block is filled by the first and checked by who frees it.
 *
 * usage: near [MILLISECONDS]
 */
#include "common.h"

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#define HANDED 256
#define KEPT   512

struct block {
    unsigned char *ptr;
    size_t size;
    unsigned char fill;
};

static struct {
    _Atomic bool is_full;
    struct block block;
} handed[HANDED];
static atomic_bool is_over;
static _Atomic uintptr_t thread_pointers[2];

static uintptr_t thread_pointer(void)
{
    return (uintptr_t)__builtin_thread_pointer();
}

static void end_block(struct block block, const char *who)
{
    for (size_t i = 0; i < block.size; i++)
        EXPECT(block.ptr[i] == block.fill,
               "expected block %p of %zu bytes, freed by %s, to keep its contents",
               (void *)block.ptr, block.size, who);
    free(block.ptr);
}

static void *only_free(void *arg)
{
    (void)arg;
    atomic_store(&thread_pointers[1], thread_pointer());
    while (!atomic_load_explicit(&is_over, memory_order_relaxed)) {
        for (size_t i = 0; i < HANDED; i++) {
            if (!atomic_load_explicit(&handed[i].is_full, memory_order_acquire))
                continue;
            end_block(handed[i].block, "the neighbour of its owner");
            atomic_store_explicit(&handed[i].is_full, false, memory_order_release);
        }
    }
    return NULL;
}

static struct block kept[KEPT];

static void *allocate(void *arg)
{
    uint64_t random = (uintptr_t)arg;

    atomic_store(&thread_pointers[0], thread_pointer());
    while (!atomic_load_explicit(&is_over, memory_order_relaxed)) {
        size_t slot = random_below(&random, KEPT), at = random_below(&random, HANDED);
        struct block *own = &kept[slot];
        if (own->ptr != NULL && random_below(&random, 2) == 0 &&
            !atomic_load_explicit(&handed[at].is_full, memory_order_acquire)) {
            handed[at].block = *own;
            atomic_store_explicit(&handed[at].is_full, true, memory_order_release);
        } else if (own->ptr != NULL) {
            end_block(*own, "its owner");
        }
        own->size = random_size(&random, 2000);
        own->fill = (unsigned char)random_next(&random);
        own->ptr = opaque(malloc(own->size));
        EXPECT(own->ptr != NULL, "expected %zu bytes", own->size);
        memset(own->ptr, own->fill, own->size);
    }
    return NULL;
}

static void run_pair(size_t stack_bytes, unsigned long milliseconds)
{
    pthread_attr_t attr;
    pthread_t first, second;

    atomic_store(&is_over, false);
    pthread_attr_init(&attr);
    EXPECT(pthread_attr_setstacksize(&attr, stack_bytes) == 0,
           "expected stacks of %zu bytes to be allowed", stack_bytes);
    EXPECT(pthread_create(&first, &attr, allocate, (void *)(uintptr_t)stack_bytes) == 0,
           "expected a thread");
    EXPECT(pthread_create(&second, &attr, only_free, NULL) == 0, "expected a thread");
    nanosleep(&(struct timespec){.tv_sec = (time_t)(milliseconds / 1000),
                                 .tv_nsec = (long)(milliseconds % 1000) * 1000000},
              NULL);
    atomic_store(&is_over, true);
    pthread_join(first, NULL);
    pthread_join(second, NULL);
    for (size_t i = 0; i < HANDED; i++) {
        if (atomic_exchange(&handed[i].is_full, false))
            end_block(handed[i].block, "the main thread");
    }
    for (size_t i = 0; i < KEPT; i++) {
        end_block(kept[i], "the main thread");
        kept[i] = (struct block){0};
    }
    heap_check("after two threads with near stacks");
    say("near: stacks of %zu bytes, thread pointers %zu apart", stack_bytes,
        (size_t)(thread_pointers[0] > thread_pointers[1]
                     ? thread_pointers[0] - thread_pointers[1]
                     : thread_pointers[1] - thread_pointers[0]));
}

int main(int argc, char **argv)
{
    static const size_t stacks[] = {16384, 20480, 24576, 28672, 36864, 45056, 61440};
    unsigned long milliseconds = argc > 1 ? strtoul(argv[1], NULL, 0) : 700;
    size_t count = sizeof(stacks) / sizeof(stacks[0]),
           least = (size_t)sysconf(_SC_THREAD_STACK_MIN);

    alarm(60);
    for (size_t i = 0; i < count; i++)
        run_pair(stacks[i] > least ? stacks[i] : least, milliseconds / count);
    return 0;
}
