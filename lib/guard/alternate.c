/*
 * Alternate signal stacks, so that a fault of a thread whose own stack is used up can be told.
 *
 * Each thread gets one at its first call, unless it has its own. Stacks come from chunks, which are made when all
 * stacks of the others are in use and never unmapped; a stack costs address space, and memory only once a signal
 * has come on it. Below each lies a guard page.
 *
 * Who has a stack is told by `owners`, thread ids; 0: nobody. A thread that ends says nothing (we are called no more when
 * the last of its destructors have run, and a signal may come till then): its stack is taken over when all are in
 * use and the kernel says that the thread is gone. A thread id that comes again finds the stack of its namesake, which
 * is as good. In a forked child only the calling thread exists, with another id: all others' stacks are free.
 *
 * No lock: an owner is changed by compare-and-swap, a chunk is pushed on the list; two threads that make a chunk at
 * once leave a few more stacks.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "guard/alternate.h"

#include "base/core/bits.h"
#include "heap/heap.h"
#include "os/mem.h"
#include "os/sys.h"

#include <signal.h>
#include <stdatomic.h>

enum {
    STACKS = 32, /* of a chunk */
    /* Beside what the kernel writes: the fault handler down to the switch to the report's own stack takes 3 KiB. */
    OWN_BYTES = 12 << 10,
};

struct chunk {
    struct chunk *next;
    size_t bytes; /* of a stack and its guard page, which comes first */
    char *stacks;
    _Atomic int owners[STACKS];
};

static struct {
    _Atomic(struct chunk *) chunks;
    _Atomic int pid; /* whose threads the owners are */
} alternate;

static size_t stack_bytes(void)
{
    return fh_align_up(fh_os_alternate_stack_least() + OWN_BYTES, fh_os_page_size);
}

static struct chunk *make_chunk(int tid)
{
    size_t bytes = stack_bytes() + fh_os_page_size;
    size_t header = fh_align_up(sizeof(struct chunk), fh_os_page_size);
    char *memory = fh_os_map(header + STACKS * bytes);
    if (memory == NULL)
        return NULL;
    struct chunk *chunk = (struct chunk *)memory;
    chunk->bytes = bytes;
    chunk->stacks = memory + header;
    /* Refused where memory is locked: then without. */
    for (size_t i = 0; i < STACKS; i++)
        fh_os_guard(chunk->stacks + i * bytes, fh_os_page_size);
    atomic_store_explicit(&chunk->owners[0], tid, memory_order_relaxed);
    struct chunk *first = atomic_load_explicit(&alternate.chunks, memory_order_relaxed);
    do
        chunk->next = first;
    /* release pairs with the acquire in first_chunk */
    while (!atomic_compare_exchange_weak_explicit(&alternate.chunks, &first, chunk,
                                                  memory_order_release, memory_order_relaxed));
    return chunk;
}

static struct chunk *first_chunk(void)
{
    return atomic_load_explicit(&alternate.chunks, memory_order_acquire);
}

static char *stack_at(const struct chunk *chunk, size_t index)
{
    return chunk->stacks + index * chunk->bytes + fh_os_page_size;
}

/* A stack whose owner is `was`, or (was -1) has ended; the caller's now. */
static char *take(int was, int tid)
{
    for (struct chunk *chunk = first_chunk(); chunk != NULL; chunk = chunk->next) {
        for (size_t i = 0; i < STACKS; i++) {
            int owner = atomic_load_explicit(&chunk->owners[i], memory_order_relaxed);
            bool is_free = was == -1 ? fh_os_is_thread_gone(owner) : owner == was;
            if (is_free &&
                atomic_compare_exchange_strong_explicit(&chunk->owners[i], &owner, tid,
                                                        memory_order_relaxed, memory_order_relaxed))
                return stack_at(chunk, i);
        }
    }
    return NULL;
}

bool fh_alternate_owns(const void *stack)
{
    for (const struct chunk *chunk = first_chunk(); chunk != NULL; chunk = chunk->next)
        if ((uintptr_t)stack - (uintptr_t)chunk->stacks < STACKS * chunk->bytes)
            return true;
    return false;
}

/* The parent's threads are not here; the caller's stack, if it is ours, stays its own. */
static void forget_the_parents(const void *mine, int tid)
{
    for (struct chunk *chunk = first_chunk(); chunk != NULL; chunk = chunk->next)
        for (size_t i = 0; i < STACKS; i++)
            atomic_store_explicit(&chunk->owners[i], stack_at(chunk, i) == mine ? tid : 0,
                                  memory_order_relaxed);
}

void fh_alternate_have(void)
{
    stack_t now;
    if (atomic_load_explicit(&fh_root.is_confined, memory_order_relaxed) ||
        fh_os_alternate_stack(NULL, &now) != 0)
        return;
    int tid = fh_os_gettid(), pid = fh_os_getpid();
    if (atomic_exchange_explicit(&alternate.pid, pid, memory_order_relaxed) != pid)
        forget_the_parents(now.ss_sp, tid);
    if ((now.ss_flags & SS_DISABLE) == 0)
        return;
    char *stack = take(tid, tid);
    if (stack == NULL)
        stack = take(0, tid);
    if (stack == NULL)
        stack = take(-1, tid);
    if (stack == NULL) {
        struct chunk *chunk = make_chunk(tid);
        if (chunk == NULL)
            return;
        stack = stack_at(chunk, 0);
    }
    fh_os_alternate_stack(&(stack_t){.ss_sp = stack, .ss_size = stack_bytes()}, NULL);
}
