/*
 * dlopen and dlclose of a library that allocates in constructors and destructors, while other
 * threads allocate.
 *
 * The loader calls malloc under its own lock, and the library's code goes away while blocks that it
 * allocated live on: an allocator that remembers call sites, or takes a lock of the loader inside
 * malloc, fails here.
 *
 * usage: loading PLUGIN [COUNT [THREADS]]
 */
#include "common.h"

#include <pthread.h>
#include <stdatomic.h>

static atomic_bool is_over;

static void *churn(void *arg)
{
    uint64_t random = (uintptr_t)arg;

    while (!atomic_load_explicit(&is_over, memory_order_relaxed)) {
        size_t size = random_size(&random, 10000);
        unsigned char *block = opaque(malloc(size));
        EXPECT(block != NULL, "expected %zu bytes", size);
        memset(block, 1, size);
        free(block);
        /* The loader's error messages are thread-local allocations. */
        if (random_below(&random, 256) == 0) {
            EXPECT(dlsym(RTLD_DEFAULT, "no_such_symbol") == NULL, "expected no such symbol");
            EXPECT(dlerror() != NULL, "expected a message");
        }
    }
    return NULL;
}

int main(int argc, char **argv)
{
    EXPECT(argc > 1, "usage: loading PLUGIN [COUNT [THREADS]]");
    unsigned long count = argc > 2 ? strtoul(argv[2], NULL, 0) : 500;
    size_t thread_count = argc > 3 ? strtoul(argv[3], NULL, 0) : 2;
    pthread_t threads[16];
    unsigned char *gifts[64] = {0};
    size_t gift_sizes[64] = {0};
    uint64_t random = 9;

    alarm(60);
    EXPECT(thread_count <= 16, "expected at most 16 threads");
    for (size_t i = 0; i < thread_count; i++)
        EXPECT(pthread_create(&threads[i], NULL, churn, (void *)(uintptr_t)(i + 1)) == 0,
               "expected a thread");
    for (unsigned long i = 0; i < count; i++) {
        void *(*gift)(size_t);
        int (*take)(void *, size_t);
        void (*receive)(void *);
        void *plugin = dlopen(argv[1], i % 2 == 0 ? RTLD_NOW : RTLD_LAZY);

        EXPECT(plugin != NULL, "expected dlopen %lu to succeed: %s", i, dlerror());
        *(void **)&gift = dlsym(plugin, "plugin_gift");
        *(void **)&take = dlsym(plugin, "plugin_take");
        *(void **)&receive = dlsym(plugin, "plugin_receive");
        EXPECT(gift != NULL && take != NULL && receive != NULL, "expected the library's functions");

        size_t size = random_size(&random, 100000), slot = i % 64;
        unsigned char *ours = opaque(malloc(size));
        memset(ours, 0x55, size);
        EXPECT(take(ours, size) == 0, "expected the library to find the program's block as it was");
        receive(opaque(malloc(size)));
        for (size_t at = 0; at < gift_sizes[slot]; at++)
            EXPECT(gifts[slot][at] == 0x66,
                   "expected a block of an unloaded library to keep its contents");
        free(gifts[slot]);
        gifts[slot] = gift(size);
        gift_sizes[slot] = size;
        EXPECT(dlclose(plugin) == 0, "expected dlclose %lu to succeed: %s", i, dlerror());
        EXPECT(dlopen("no/such/library.so", RTLD_NOW) == NULL, "expected no such library");
    }
    atomic_store(&is_over, true);
    for (size_t i = 0; i < thread_count; i++)
        pthread_join(threads[i], NULL);
    for (size_t i = 0; i < 64; i++)
        free(gifts[i]);
    heap_check("after the loading");
    say("loading: %lu times loaded and unloaded beside %zu allocating threads", count,
        thread_count);
    return 0;
}
