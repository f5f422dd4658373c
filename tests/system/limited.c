/*
 * Exhaustion, and memory that is locked.
 *
 * `limited exhaust LIMIT`: under `ulimit -v`, allocates blocks of one size until malloc says no,
 * for sizes from small to large, by each of malloc, calloc, realloc and aligned_alloc. Expected
 * each time: at least a part of the limit that a fair allocator gets (SHARE), NULL and ENOMEM at
 * the end and again when asked again, every block intact, and after all are freed the same once
 * more: nothing was lost. LIMIT is what the shell set, in KiB.
 *
 * `limited threads LIMIT`: the same by four threads at once.
 *
 * `limited locked`: mlockall now and for the future, then a working set of all sizes; freed, it is
 * given back in the measure malloc_trim promises.
 */
#include "common.h"

#include <malloc.h>
#include <pthread.h>
#include <sys/resource.h>

/* The share of the address space left at start that must be handed out, in percent, in small and in
 * large blocks. */
#define SHARE 50

struct chain {
    struct chain *next;
    size_t size;
    unsigned char fill;
};

static size_t limit_bytes;
static size_t allowed_share = SHARE;

static size_t mapped_bytes(void)
{
    char text[128] = "";
    unsigned long pages = 0;
    int fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);

    if (fd >= 0) {
        if (read(fd, text, sizeof(text) - 1) > 0)
            sscanf(text, "%lu", &pages);
        close(fd);
    }
    return pages * (size_t)sysconf(_SC_PAGESIZE);
}

static void *allocate(size_t size, unsigned way)
{
    switch (way % 4) {
    case 1:
        return opaque(calloc(1, size));
    case 2:
        return opaque(realloc(NULL, size));
    case 3:
        return opaque(aligned_alloc(64, size));
    default:
        return opaque(malloc(size));
    }
}

/* Allocates until there is no more; the bytes that were had. */
static size_t exhaust(struct chain **all, size_t size)
{
    size_t total = 0;

    for (unsigned way = 0;; way++) {
        errno = 0;
        struct chain *block = allocate(size, way);
        if (block == NULL) {
            int error = errno;
            EXPECT(error == ENOMEM, "expected ENOMEM when %zu bytes can't be had, got %d", size,
                   error);
            errno = 0;
            block = allocate(size, way);
            EXPECT(block != NULL || errno == ENOMEM,
                   "expected ENOMEM when asked again for %zu bytes, got %d", size, errno);
            if (block == NULL)
                return total;
        }
        *block = (struct chain){.next = *all, .size = size, .fill = (unsigned char)way};
        memset(block + 1, block->fill, size - sizeof(*block));
        *all = block;
        total += size;
        EXPECT(limit_bytes == 0 || total <= limit_bytes,
               "expected no more than the limit of %zu bytes", limit_bytes);
    }
}

static void free_chain(struct chain *all)
{
    while (all != NULL) {
        struct chain *next = all->next;
        unsigned char *content = (unsigned char *)(all + 1);
        for (size_t i = 0; i<all->size - sizeof(*all); i += all->size> 4096 ? 512 : 1)
            EXPECT(content[i] == all->fill,
                   "expected a block of %zu bytes to stay intact when memory runs out", all->size);
        free(all);
        all = next;
    }
}

static void expect_share(size_t had, size_t left, size_t size, const char *when)
{
    EXPECT(had * 100 >= left * allowed_share,
           "expected %zu%% of the %zu KiB that the limit leaves in blocks of %zu bytes %s, got %zu "
           "KiB",
           allowed_share, left >> 10, size, when, had >> 10);
}

static void exhaust_in_all_sizes(void)
{
    size_t sizes[] = {48, 1024, 10000, 100000, (size_t)1 << 20, (size_t)5 << 20, 64};
    size_t left = limit_bytes - mapped_bytes(), first = 0;

    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        for (unsigned round = 0; round < 2; round++) {
            struct chain *all = NULL;
            size_t had = exhaust(&all, sizes[i]);
            if (i == 0)
                first = had;
            heap_check("when memory has run out");
            /* The first size is had from a fresh heap; later ones must be able to use what the
             * earlier ones freed. */
            expect_share(had, left, sizes[i], round == 0 ? "the first time" : "the second time");
            free_chain(all);
            malloc_trim(0);
            heap_check("after all was freed again");
        }
    }
    say("limited: of %zu KiB left by the limit %zu KiB were had in small blocks, again and again "
        "in all sizes",
        left >> 10, first >> 10);
}

/* A growing block keeps its contents when it can't grow any more. */
static void grow_until_it_fails(void)
{
    size_t size = 1000;
    unsigned char *block = opaque(malloc(size));

    EXPECT(block != NULL, "expected a small block");
    memset(block, 7, size);
    for (;;) {
        size_t more = size + size / 2;
        errno = 0;
        unsigned char *grown = opaque(realloc(block, more));
        if (grown == NULL) {
            EXPECT(errno == ENOMEM, "expected ENOMEM from a realloc that fails, got %d", errno);
            break;
        }
        block = grown;
        memset(block + size, 7, more - size);
        size = more;
    }
    for (size_t i = 0; i < size; i += 97)
        EXPECT(block[i] == 7,
               "expected a block of %zu bytes to be unchanged by a realloc that fails", size);
    free(block);
}

static void *exhaust_in_thread(void *arg)
{
    struct chain *all = NULL;
    size_t had = exhaust(&all, (size_t)(uintptr_t)arg);

    free_chain(all);
    return (void *)(uintptr_t)had;
}

static void exhaust_in_threads(void)
{
    size_t sizes[4] = {48, 3000, 40000, 300000};
    pthread_t threads[4];
    pthread_attr_t attr;

    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, 65536 * 4);
    for (unsigned round = 0; round < 3; round++) {
        size_t left = limit_bytes - mapped_bytes(), had = 0;
        for (size_t i = 0; i < 4; i++)
            EXPECT(pthread_create(&threads[i], &attr, exhaust_in_thread,
                                  (void *)(uintptr_t)sizes[i]) == 0,
                   "expected a thread with a small stack to start");
        for (size_t i = 0; i < 4; i++) {
            void *result;
            pthread_join(threads[i], &result);
            had += (uintptr_t)result;
        }
        EXPECT(had > 0, "expected four threads to get something");
        heap_check("after threads ran out of memory");
        say("limited: round %u: four threads had %zu KiB beside the %zu KiB left", round, had >> 10,
            left >> 10);
    }
}

static int work_locked(void)
{
    void **blocks = table_map(20000 * sizeof(void *));
    uint64_t random = 4;

    free(opaque(malloc(100)));
    if (mlockall(MCL_CURRENT | MCL_FUTURE) != 0) {
        say("limited: skipped: mlockall is not permitted (errno %d)", errno);
        return 0;
    }
    for (unsigned round = 0; round < 3; round++) {
        for (size_t i = 0; i < 20000; i++) {
            size_t size = random_size(&random, i % 100 == 0 ? (size_t)2 << 20 : 4000);
            if (i % 100 == 0)
                size /= 4;
            unsigned char *block = opaque(i % 3 == 0 ? calloc(1, size) : malloc(size));
            EXPECT(block != NULL, "expected %zu bytes of locked memory", size);
            memset(block, 1, size);
            blocks[i] = block;
        }
        for (size_t i = 0; i < 20000; i++) {
            blocks[i] = i % 10 == 0 ? opaque(realloc(blocks[i], 100)) : blocks[i];
            free(blocks[i]);
        }
    }
    size_t full = resident_bytes();
    malloc_trim(0);
    heap_check("with all memory locked");
    say("limited: locked memory works; resident %zu KiB, after malloc_trim %zu KiB", full >> 10,
        resident_bytes() >> 10);
    return 0;
}

int main(int argc, char **argv)
{
    EXPECT(argc > 1, "usage: limited exhaust|threads|grow KIB | locked");
    alarm(100);
    limit_bytes = argc > 2 ? strtoull(argv[2], NULL, 0) << 10 : 0;
    if (argc > 3)
        allowed_share = strtoull(argv[3], NULL, 0);
    if (strcmp(argv[1], "locked") == 0)
        return work_locked();
    EXPECT(limit_bytes > 0, "expected the limit in KiB");
    if (strcmp(argv[1], "threads") == 0)
        exhaust_in_threads();
    else if (strcmp(argv[1], "grow") == 0)
        grow_until_it_fails();
    else
        exhaust_in_all_sizes();
    return 0;
}
