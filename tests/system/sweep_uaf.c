/*
 * Uses after free as an attacker would have them: an object is freed while a pointer to it remains, the attacker allocates
 * until a block of theirs lies where the object was, and the program uses the old pointer.
 *
 *     sweep_uaf CASE      0: harmless: the old pointer finds what the object was, or nothing;
 *                         3: exploited: it finds what the attacker wrote; 4: the twin without an error went wrong
 *
 * The old pointer is where the case says, and only there: the attacker knows the object's address masked.
 */
#define _GNU_SOURCE 1
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { HARMLESS = 0, EXPLOITED = 3, WRONG = 4 };

#define MASK   ((uintptr_t)0x5a5a5a5a5a5a5a5au)
#define TRIES  400000 /* 64-byte blocks: some 25 MB */
#define EVIL   0x4141414141414141u
#define LENGTH 5

struct object {
    void (*call)(void);
    size_t length;
    struct object *next;
    char text[40];
};

static void innocent(void)
{
}

static uintptr_t masked; /* of the freed object */
static struct object *volatile in_global;
static __thread struct object *volatile in_thread_local;
static struct object **volatile in_heap;

static struct object *new_object(void)
{
    struct object *object = malloc(sizeof *object);
    if (object == NULL)
        exit(WRONG);
    memset(object, 0, sizeof *object);
    object->call = innocent;
    object->length = LENGTH;
    return object;
}

/* Allocates and frees until a block lies at the masked address; fills it. */
__attribute__((noinline)) static void attack(size_t size, unsigned tries)
{
    for (unsigned i = 0; i < tries; i++) {
        uintptr_t *block = malloc(size);
        if (block == NULL)
            exit(WRONG);
        if (((uintptr_t)block ^ MASK) == masked) {
            for (size_t word = 0; word < size / sizeof *block; word++)
                block[word] = EVIL;
            return; /* it is the attacker's now */
        }
        block[0] = i;
        free(block);
    }
}

static int verdict(const struct object *object)
{
    if ((uintptr_t)object->call == EVIL || object->length == EVIL ||
        (uintptr_t)object->next == EVIL)
        return EXPLOITED;
    return HARMLESS;
}

/* The objects before it take what a site's first blocks get: pages of their own. */
static void warm_up(void)
{
    static struct object *before[3000];
    for (unsigned i = 0; i < sizeof before / sizeof before[0]; i++)
        before[i] = new_object();
}

__attribute__((noinline)) static void free_masked(void)
{
    free((void *)(masked ^ MASK));
}

__attribute__((noinline)) static void begin(struct object *volatile *place)
{
    warm_up();
    *place = new_object();
    masked = (uintptr_t)*place ^ MASK;
    free_masked();
}

/* ---- cases --------------------------------------------------------------------------------------- */

static int use_global(void)
{
    begin(&in_global);
    attack(sizeof(struct object), TRIES);
    return verdict(in_global);
}

static int use_thread_local(void)
{
    begin(&in_thread_local);
    attack(sizeof(struct object), TRIES);
    return verdict(in_thread_local);
}

static int use_stack(void)
{
    struct object *volatile here;
    begin(&here);
    attack(sizeof(struct object), TRIES);
    return verdict(here);
}

static int use_heap(void)
{
    in_heap = malloc(256);
    begin((struct object *volatile *)&in_heap[7]);
    attack(sizeof(struct object), TRIES);
    return verdict(in_heap[7]);
}

/* A list whose middle is freed: walked past it. */
static int use_next(void)
{
    struct object *volatile middle;
    begin(&middle);
    struct object *first = new_object();
    first->next = middle;
    middle = NULL;
    attack(sizeof(struct object), TRIES);
    return verdict(first->next);
}

/* The pointer is to the inside. */
static int use_inside(void)
{
    static char *volatile text;
    begin(&in_global);
    text = in_global->text;
    in_global = NULL;
    attack(sizeof(struct object), TRIES);
    return memcmp(text, "AAAAAAAA", 8) == 0 ? EXPLOITED : HARMLESS;
}

static int use_large(void)
{
    static char *volatile large;
    large = malloc(200000);
    memset(large, 1, 200000);
    masked = (uintptr_t)large ^ MASK;
    free_masked();
    attack(200000, 4000);
    for (unsigned i = 0; i < 4000; i++) /* never to be at the same address again */
        free(malloc(200000 + i));
    uintptr_t seen = 0;
    int ends[2]; /* the kernel looks: an address that traps is EFAULT */
    if (pipe(ends) != 0)
        return WRONG;
    if (write(ends[1], large + 4096, sizeof seen) == (ssize_t)sizeof seen &&
        read(ends[0], &seen, sizeof seen) != (ssize_t)sizeof seen)
        return WRONG;
    return seen == EVIL ? EXPLOITED : HARMLESS;
}

static int use_after_realloc(void)
{
    static char *volatile old;
    warm_up();
    old = malloc(64);
    masked = (uintptr_t)old ^ MASK;
    char *moved = realloc(old, 5000);
    attack(64, TRIES);
    uintptr_t seen;
    memcpy(&seen, old, sizeof seen);
    free(moved);
    return seen == EVIL ? EXPLOITED : HARMLESS;
}

/* Freed twice, so that two owners get one block. */
static int free_twice(void)
{
    enum { COUNT = 200000 };
    static uintptr_t *blocks[COUNT];
    begin(&in_global);
    attack(sizeof(struct object), 20000); /* it has left a list that would see the second free */
    if (((uintptr_t)in_global->call == EVIL))
        return EXPLOITED;
    free((void *)in_global);
    for (unsigned i = 0; i < COUNT; i++) {
        blocks[i] = malloc(sizeof(struct object));
        blocks[i][0] = i;
    }
    for (unsigned i = 0; i < COUNT; i++)
        if (blocks[i][0] != i)
            return EXPLOITED;
    return HARMLESS;
}

static pthread_barrier_t is_made, is_attacked;

static void *hold_in_thread(void *unused)
{
    struct object *volatile here;
    (void)unused;
    here = new_object();
    masked = (uintptr_t)here ^ MASK;
    pthread_barrier_wait(&is_made);
    pthread_barrier_wait(&is_attacked);
    return (void *)(intptr_t)verdict(here);
}

/* The old pointer is on the stack of a thread that waits; another frees and attacks. */
static int use_in_thread(void)
{
    pthread_t thread;
    void *result;
    pthread_barrier_init(&is_made, NULL, 2);
    pthread_barrier_init(&is_attacked, NULL, 2);
    warm_up();
    if (pthread_create(&thread, NULL, hold_in_thread, NULL) != 0)
        return WRONG;
    pthread_barrier_wait(&is_made);
    free_masked();
    attack(sizeof(struct object), TRIES);
    pthread_barrier_wait(&is_attacked);
    pthread_join(thread, &result);
    return (int)(intptr_t)result;
}

/* A heap of `size` live bytes, so large that a copy of the process sweeps. */
static int use_beside_much(void)
{
    enum { COUNT = 1600000 };
    void **live = malloc(COUNT * sizeof *live);
    for (unsigned i = 0; i < COUNT; i++)
        live[i] = new_object();
    begin(&in_global);
    attack(sizeof(struct object), 4 * TRIES);
    return verdict(in_global);
}

/* ---- twins: nothing points there any more ----------------------------------------------------------- */

/* Memory is used again: what the process needs stays small. Says so by its peak. */
static int reuse(void)
{
    warm_up();
    for (unsigned i = 0; i < 4000000; i++) {
        char *block = malloc(1000);
        block[0] = 1;
        free(block);
    }
    FILE *status = fopen("/proc/self/status", "r");
    char line[256];
    long peak = -1;
    while (status != NULL && fgets(line, sizeof line, status) != NULL)
        if (sscanf(line, "VmHWM: %ld kB", &peak) == 1)
            break;
    return peak > 0 && peak < 64 * 1024 ? HARMLESS : WRONG;
}

static int reuse_large(void)
{
    for (unsigned i = 0; i < 20000; i++) {
        char *block = malloc(300000);
        memset(block, 1, 5000);
        free(block);
    }
    return HARMLESS;
}

static int good(void)
{
    struct object *volatile object = new_object();
    masked = 0;
    attack(sizeof(struct object), TRIES);
    int result = object->length == LENGTH && object->call == innocent ? HARMLESS : WRONG;
    free(object);
    return result;
}

static int fork_while_sweeping(void)
{
    for (unsigned i = 0; i < 30; i++) {
        masked = 0;
        attack(sizeof(struct object), 30000);
        pid_t child = fork();
        if (child == 0) {
            attack(sizeof(struct object), 200000);
            _exit(HARMLESS);
        }
        int status = -1;
        if (child < 0 || waitpid(child, &status, 0) != child || status != 0)
            return WRONG;
    }
    return HARMLESS;
}

static const struct {
    const char *name;
    int (*run)(void);
} cases[] = {
    {"global", use_global},
    {"thread-local", use_thread_local},
    {"stack", use_stack},
    {"heap", use_heap},
    {"next", use_next},
    {"inside", use_inside},
    {"large", use_large},
    {"realloc", use_after_realloc},
    {"twice", free_twice},
    {"thread", use_in_thread},
    {"beside-much", use_beside_much},
    {"reuse", reuse},
    {"reuse-large", reuse_large},
    {"good", good},
    {"fork", fork_while_sweeping},
};

int main(int argc, char **argv)
{
    for (unsigned i = 0; argc == 2 && i < sizeof cases / sizeof cases[0]; i++)
        if (strcmp(argv[1], cases[i].name) == 0)
            return cases[i].run();
    return WRONG;
}
