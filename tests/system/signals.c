/*
 * Handlers that allocate while the interrupted code allocates.
 *
 * POSIX forbids it and programs do it. Timers of high rate interrupt threads that do nothing but
 * allocate and free; the handler allocates, resizes and frees too, keeps blocks from one signal to
 * the next and frees blocks of the main program. Two things must not happen: a hang (alarm ends the
 * program) and a block with two owners, which the contents of all blocks show, those of the handler
 * and those of the main program. Handlers are installed by each of the ways that libc has:
 * sigaction with and without SA_SIGINFO, SA_NODEFER (handlers nest), signal.
 *
 * glibc's malloc and the usual others fail here; `quiet` (handlers that do not allocate) shows that
 * the test itself is sound.
 *
 * usage: signals [MILLISECONDS [THREADS [quiet]]]
 */
#include "common.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/time.h>
#include <time.h>

#define SLOTS        512
#define HANDED_SLOTS 64

struct block {
    unsigned char *ptr;
    size_t size;
    unsigned char fill;
};

/* What a thread's main code and its handlers own; a handler that interrupts a handler gets the next
 * depth's table. */
struct table {
    struct block slots[SLOTS];
    uint64_t random;
};

#define MAX_DEPTH   4
#define MAX_THREADS 16

struct owner {
    pthread_t thread;
    struct table main;
    struct table handler[MAX_DEPTH];
    /* Blocks from the main code for the handler to free, and back: taken by exchange. */
    _Atomic(unsigned char *) handed[HANDED_SLOTS];
    volatile int depth;
};

static struct owner *owners;
static __thread struct owner *self __attribute__((tls_model("initial-exec")));
static atomic_bool is_over;
static _Atomic uint64_t handled, nested, steps;
static bool is_quiet;

static void block_check(const struct block *block, const char *whose)
{
    for (size_t i = 0; i < block->size; i++)
        EXPECT(block->ptr[i] == block->fill,
               "expected block %p of %zu bytes of the %s to have one owner, byte %zu is not what "
               "was written",
               (void *)block->ptr, block->size, whose, i);
}

static void step(struct table *table, const char *whose)
{
    struct block *slot = &table->slots[random_below(&table->random, SLOTS)];
    size_t size = random_size(&table->random, random_below(&table->random, 64) == 0 ? 100000 : 600);

    if (slot->ptr != NULL)
        block_check(slot, whose);
    if (slot->ptr != NULL && random_below(&table->random, 4) != 0) {
        free(slot->ptr);
        *slot = (struct block){0};
        return;
    }
    unsigned char *fresh;
    if (slot->ptr != NULL) {
        fresh = opaque(realloc(slot->ptr, size + 1));
        size++;
    } else if (random_below(&table->random, 4) == 0) {
        fresh = opaque(calloc(1, size));
        for (size_t i = 0; fresh != NULL && i < size; i++)
            EXPECT(fresh[i] == 0, "expected calloc of the %s to give zeroes", whose);
    } else {
        fresh = opaque(malloc(size));
    }
    EXPECT(fresh != NULL, "expected the %s to get %zu bytes", whose, size);
    *slot = (struct block){
        .ptr = fresh, .size = size, .fill = (unsigned char)random_next(&table->random)};
    memset(fresh, slot->fill, size);
}

/* Blocks that one side allocates and the other frees. */
static void hand_over(struct owner *owner, struct table *table)
{
    unsigned char *fresh = opaque(malloc(48));

    EXPECT(fresh != NULL, "expected 48 bytes");
    memset(fresh, 0x77, 48);
    unsigned char *old =
        atomic_exchange(&owner->handed[random_below(&table->random, HANDED_SLOTS)], fresh);
    for (size_t i = 0; old != NULL && i < 48; i++)
        EXPECT(old[i] == 0x77,
               "expected a block handed over between handler and main code to have one owner");
    free(old);
}

static void handle(void)
{
    struct owner *owner = self;
    int saved = errno;

    atomic_fetch_add(&handled, 1);
    if (!is_quiet && owner != NULL && owner->depth < MAX_DEPTH) {
        int depth = owner->depth++;
        if (depth > 0)
            atomic_fetch_add(&nested, 1);
        for (size_t i = 0; i < 6; i++)
            step(&owner->handler[depth], "handler");
        hand_over(owner, &owner->handler[depth]);
        owner->depth = depth;
    }
    errno = saved;
}

static void on_plain(int number)
{
    (void)number;
    handle();
}

static void on_info(int number, siginfo_t *info, void *context)
{
    (void)number, (void)info, (void)context;
    handle();
}

static void install(void)
{
    struct sigaction plain = {.sa_handler = on_plain, .sa_flags = SA_RESTART};
    struct sigaction info = {.sa_sigaction = on_info,
                             .sa_flags = SA_RESTART | SA_SIGINFO | SA_NODEFER};
    struct sigaction old;

    EXPECT(sigaction(SIGALRM, &plain, NULL) == 0, "expected sigaction to succeed");
    EXPECT(sigaction(SIGPROF, &info, NULL) == 0, "expected sigaction with SA_SIGINFO to succeed");
    EXPECT(signal(SIGUSR1, on_plain) != SIG_ERR, "expected signal to succeed");
    EXPECT(signal(SIGUSR2, on_plain) != SIG_ERR, "expected signal to succeed");
    /* What is asked back is what was installed: an interposed sigaction must not show. */
    EXPECT(sigaction(SIGALRM, NULL, &old) == 0 && old.sa_handler == on_plain,
           "expected sigaction to report the handler that was installed");
    EXPECT(sigaction(SIGPROF, NULL, &old) == 0 && old.sa_sigaction == on_info &&
               (old.sa_flags & (SA_SIGINFO | SA_NODEFER)) == (SA_SIGINFO | SA_NODEFER),
           "expected sigaction to report the SA_SIGINFO handler and flags that were installed");
    EXPECT(signal(SIGUSR2, SIG_DFL) == on_plain, "expected signal to return the handler before");
    EXPECT(signal(SIGUSR2, SIG_IGN) == SIG_DFL, "expected signal to return SIG_DFL");
    EXPECT(signal(SIGUSR2, on_plain) == SIG_IGN, "expected signal to return SIG_IGN");
}

static void *work(void *arg)
{
    struct owner *owner = arg;

    self = owner;
    while (!atomic_load_explicit(&is_over, memory_order_relaxed)) {
        step(&owner->main, "main code");
        atomic_fetch_add_explicit(&steps, 1, memory_order_relaxed);
        if (random_below(&owner->main.random, 8) == 0)
            hand_over(owner, &owner->main);
    }
    self = NULL;
    return NULL;
}

int main(int argc, char **argv)
{
    unsigned long milliseconds = argc > 1 ? strtoul(argv[1], NULL, 0) : 1500;
    size_t threads = argc > 2 ? strtoul(argv[2], NULL, 0) : 1;
    struct itimerval often = {.it_interval = {.tv_usec = 40}, .it_value = {.tv_usec = 40}};
    struct itimerval cpu = {.it_interval = {.tv_usec = 1000}, .it_value = {.tv_usec = 1000}};
    struct timespec now, start;

    is_quiet = argc > 3 && strcmp(argv[3], "quiet") == 0;
    EXPECT(threads <= MAX_THREADS, "expected at most %d threads", MAX_THREADS);
    owners = table_map((threads + 1) * sizeof(*owners));
    for (size_t i = 0; i <= threads; i++) {
        owners[i].main.random = i * 100 + 1;
        for (size_t depth = 0; depth < MAX_DEPTH; depth++)
            owners[i].handler[depth].random = i * 100 + depth + 2;
    }
    install();
    /* A process-directed signal interrupts any thread that does not block it: the timers meet
     * whoever runs. */
    for (size_t i = 1; i <= threads; i++)
        EXPECT(pthread_create(&owners[i].thread, NULL, work, &owners[i]) == 0, "expected a thread");
    self = &owners[0];
    setitimer(ITIMER_REAL, &often, NULL);
    setitimer(ITIMER_PROF, &cpu, NULL);
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (size_t i = 0;; i++) {
        step(&owners[0].main, "main code");
        if (i % 8 == 0)
            hand_over(&owners[0], &owners[0].main);
        if (i % 16 == 0 && threads > 0)
            pthread_kill(owners[1 + i / 16 % threads].thread, i % 32 == 0 ? SIGUSR1 : SIGUSR2);
        clock_gettime(CLOCK_MONOTONIC, &now);
        if ((unsigned long)((now.tv_sec - start.tv_sec) * 1000 +
                            (now.tv_nsec - start.tv_nsec) / 1000000) >= milliseconds)
            break;
    }
    setitimer(ITIMER_REAL, &(struct itimerval){0}, NULL);
    setitimer(ITIMER_PROF, &(struct itimerval){0}, NULL);
    atomic_store(&is_over, true);
    for (size_t i = 1; i <= threads; i++)
        pthread_join(owners[i].thread, NULL);
    for (size_t i = 0; i <= threads; i++) {
        for (size_t slot = 0; slot < SLOTS; slot++) {
            block_check(&owners[i].main.slots[slot], "main code");
            free(owners[i].main.slots[slot].ptr);
            for (size_t depth = 0; depth < MAX_DEPTH; depth++) {
                block_check(&owners[i].handler[depth].slots[slot], "handler");
                free(owners[i].handler[depth].slots[slot].ptr);
            }
        }
        for (size_t slot = 0; slot < HANDED_SLOTS; slot++)
            free(owners[i].handed[slot]);
    }
    heap_check("after the signals");
    EXPECT(atomic_load(&handled) > milliseconds, "expected more than %lu signals, got %llu",
           milliseconds, (unsigned long long)atomic_load(&handled));
    say("signals: %llu handled, %llu of them nested, over %llu steps of other threads, no hang, no "
        "doubly owned block",
        (unsigned long long)atomic_load(&handled), (unsigned long long)atomic_load(&nested),
        (unsigned long long)atomic_load(&steps));
    return 0;
}
