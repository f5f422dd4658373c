/*
 * fork while other threads allocate, free and send each other blocks.
 *
 * The child has one thread and a copy of every lock and list as it was at that instant, whoever was
 * inside the allocator then. It must be able to allocate all sizes, to free its parent's blocks and
 * those of threads that are gone, to start threads, to fork again and to end by exit(). A child
 * that hangs dies of its own alarm; a hang of fork itself is caught by the parent's. Every few
 * children: posix_spawn and vfork+exec, which skip the fork handlers.
 *
 * usage: forks [COUNT [THREADS]]
 */
#include "common.h"

#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <time.h>

#define POOL_SLOTS          256
#define CHILD_LIMIT_SECONDS 20
#define ENOUGH              4

struct block {
    unsigned char *ptr;
    size_t size;
    unsigned char fill;
};

/* Blocks that any thread may take, check and free: the remote frees. A slot is owned by whoever has
 * its lock. */
static struct {
    pthread_mutex_t lock;
    struct block block;
} pool[POOL_SLOTS];

static atomic_bool is_over;
static _Atomic uint64_t churned;

static struct block block_make(uint64_t *random)
{
    struct block block = {.size =
                              random_size(random, random_below(random, 50) == 0 ? 300000 : 3000),
                          .fill = (unsigned char)random_next(random)};

    block.ptr = opaque(random_below(random, 4) == 0 ? calloc(1, block.size) : malloc(block.size));
    EXPECT(block.ptr != NULL, "expected an allocation of %zu bytes to succeed", block.size);
    memset(block.ptr, block.fill, block.size);
    return block;
}

static void block_end(struct block block)
{
    for (size_t i = 0; i < block.size; i++)
        EXPECT(block.ptr[i] == block.fill, "expected block %p to keep its contents",
               (void *)block.ptr);
    free(block.ptr);
}

static void churn_once(uint64_t *random)
{
    size_t slot = random_below(random, POOL_SLOTS);
    struct block fresh = block_make(random), old;

    if (random_below(random, 8) == 0) {
        fresh.size += 100;
        fresh.ptr = realloc(fresh.ptr, fresh.size);
        EXPECT(fresh.ptr != NULL, "expected realloc to %zu bytes to succeed", fresh.size);
        memset(fresh.ptr, fresh.fill, fresh.size);
    }
    pthread_mutex_lock(&pool[slot].lock);
    old = pool[slot].block;
    pool[slot].block = fresh;
    pthread_mutex_unlock(&pool[slot].lock);
    block_end(old);
}

/* One of the threads forks too, so that two forks meet. */
static void fork_beside(uint64_t *random)
{
    int status;
    pid_t child = fork();

    EXPECT(child >= 0, "expected fork from a second thread to succeed, errno %d", errno);
    if (child == 0) {
        alarm(CHILD_LIMIT_SECONDS);
        for (size_t i = 0; i < 20; i++)
            block_end(block_make(random));
        _exit(0);
    }
    waitpid(child, &status, 0);
    EXPECT(status == 0, "expected a child of the second thread to end well, its wait status is %#x",
           status);
}

static void *churn(void *arg)
{
    uint64_t random = (uintptr_t)arg;

    for (uint64_t i = 1; !atomic_load_explicit(&is_over, memory_order_relaxed); i++) {
        churn_once(&random);
        atomic_fetch_add_explicit(&churned, 1, memory_order_relaxed);
        if ((uintptr_t)arg == 1 && i % 4096 == 0)
            fork_beside(&random);
    }
    return NULL;
}

static void *churn_briefly(void *arg)
{
    uint64_t random = (uintptr_t)arg;

    for (size_t i = 0; i < 100; i++)
        block_end(block_make(&random));
    return NULL;
}

/* The child: a slot whose lock a parent's thread held stays locked for ever and is left out. */
static void be_child(uint64_t number)
{
    uint64_t random = number;

    alarm(CHILD_LIMIT_SECONDS);
    for (size_t i = 0; i < 40; i++) {
        struct block block = block_make(&random);
        size_t slot = random_below(&random, POOL_SLOTS);
        if (pthread_mutex_trylock(&pool[slot].lock) == 0) {
            struct block old = pool[slot].block;
            pool[slot].block = block;
            pthread_mutex_unlock(&pool[slot].lock);
            block_end(old);
        } else {
            block_end(block);
        }
    }
    if (number % 8 == 0) {
        pthread_t threads[2];
        for (size_t i = 0; i < 2; i++)
            EXPECT(pthread_create(&threads[i], NULL, churn_briefly,
                                  (void *)(uintptr_t)(number + i)) == 0,
                   "expected a forked child to start a thread");
        for (size_t i = 0; i < 2; i++)
            pthread_join(threads[i], NULL);
    }
    if (number % 16 == 1) {
        pid_t grandchild = fork();
        EXPECT(grandchild >= 0, "expected a forked child to fork, errno %d", errno);
        if (grandchild == 0) {
            alarm(CHILD_LIMIT_SECONDS);
            churn_briefly((void *)(uintptr_t)number);
            _exit(0);
        }
        int status;
        waitpid(grandchild, &status, 0);
        EXPECT(status == 0, "expected a grandchild to end well, its wait status is %#x", status);
    }
    if (number % 32 == 2) {
        for (size_t i = 0; i < POOL_SLOTS; i++) {
            if (pthread_mutex_trylock(&pool[i].lock) == 0)
                block_end(pool[i].block);
        }
    }
    heap_check("in a forked child");
    if (number % 4 == 0)
        exit(0);
    _exit(0);
}

static void expect_ended_well(pid_t child, const char *what, uint64_t number)
{
    int status;

    EXPECT(waitpid(child, &status, 0) == child, "expected to wait for %s %llu", what,
           (unsigned long long)number);
    EXPECT(!(WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM),
           "expected %s %llu to end: it hung for %d s", what, (unsigned long long)number,
           CHILD_LIMIT_SECONDS);
    EXPECT(status == 0, "expected %s %llu to end well, its wait status is %#x", what,
           (unsigned long long)number, status);
}

static void spawn_without_handlers(uint64_t number)
{
    char *const args[] = {"true", NULL};
    pid_t child;

    int error = posix_spawnp(&child, "true", NULL, NULL, args, environ);
    EXPECT(error == 0, "expected posix_spawn to succeed, got %d", error);
    expect_ended_well(child, "the spawned program", number);
    child = vfork();
    if (child == 0) {
        execvp("true", args);
        _exit(127);
    }
    expect_ended_well(child, "the program after vfork", number);
}

int main(int argc, char **argv)
{
    uint64_t count = argc > 1 ? strtoull(argv[1], NULL, 0) : 1000;
    size_t thread_count = argc > 2 ? strtoull(argv[2], NULL, 0) : 3;
    pthread_t threads[64];
    uint64_t random = 1;

    EXPECT(thread_count < 64, "expected fewer than 64 threads");
    snprintf(repeat_with, sizeof(repeat_with), "forks %llu %zu", (unsigned long long)count,
             thread_count);
    for (size_t i = 0; i < POOL_SLOTS; i++) {
        pthread_mutex_init(&pool[i].lock, NULL);
        pool[i].block = block_make(&random);
    }
    for (size_t i = 0; i < thread_count; i++)
        EXPECT(pthread_create(&threads[i], NULL, churn, (void *)(uintptr_t)(i + 1)) == 0,
               "expected pthread_create to succeed");
    for (uint64_t i = 0; i < count; i++) {
        uint64_t before = atomic_load(&churned);
        alarm(CHILD_LIMIT_SECONDS + 10);
        pid_t child = fork();
        EXPECT(child >= 0, "expected fork %llu to succeed, errno %d", (unsigned long long)i, errno);
        if (child == 0)
            be_child(i);
        if (i % 100 == 50)
            spawn_without_handlers(i);
        churn_once(&random);
        expect_ended_well(child, "child", i);
        /* A fork is only interesting while the others are allocating. */
        while (thread_count > 0 && atomic_load(&churned) < before + ENOUGH)
            nanosleep(&(struct timespec){.tv_nsec = 50000}, NULL);
    }
    atomic_store(&is_over, true);
    for (size_t i = 0; i < thread_count; i++)
        pthread_join(threads[i], NULL);
    for (size_t i = 0; i < POOL_SLOTS; i++)
        block_end(pool[i].block);
    heap_check("after the forks");
    say("forks: %llu children of a process with %zu allocating threads, none hung, %llu blocks "
        "churned",
        (unsigned long long)count, thread_count, (unsigned long long)atomic_load(&churned));
    return 0;
}
