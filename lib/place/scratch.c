/*
 * scratch: two chained arenas a thread, made when the thread first asks.
 *
 * Chunks come from the thread's heap by fh_aligned_alloc, and go back by fh_free_any, which any thread may
 * call at any time: also the destructor of a pthread key, when the thread's heap may have been given away
 * already. A destructor of another key that runs later and asks for scratch memory makes new arenas, and
 * the key is set again; POSIX calls destructors again for that, a few times.
 *
 * One thread-local pointer leads to both arenas and costs one load (initial-exec). The key holds the same pointer,
 * only so that its destructor is called.
 *
 * Between scopes an arena keeps KEEP bytes: at the end of an outermost scope what is beyond is trimmed, so one
 * large use does not stay for the thread's life. The check costs one comparison of the arena's footprint.
 *
 * Fork: the child's thread has the pointer and the arenas of the thread that forked, as with any memory of its
 * own. Those of the other threads are lost there with the stacks of these.
 */
#include "freehold/scratch.h"

#include "base/core/fail.h"
#include "base/core/macros.h"
#include "freehold/heap.h"
#include "place/general.h"

#include <pthread.h>

#define ARENAS 2
#define KEEP   ((size_t)1 << 20) /* a megabyte a thread is little beside its stack of eight */
/* The first chunk of each: most scopes fit, and no more than a small stack frame's worth of pages is
 * touched by a thread that needs little. */
#define CHUNK  ((size_t)16 << 10)

struct scratch_thread {
    struct fh_arena arenas[ARENAS];
};

static __thread struct scratch_thread *mine __attribute__((tls_model("initial-exec")));
static pthread_key_t end_key;
static bool has_end_key;
static pthread_once_t once = PTHREAD_ONCE_INIT;

/* ---- threads ------------------------------------------------------------------------------------ */

static void thread_ends(void *pointer)
{
    struct scratch_thread *thread = pointer;
    mine = NULL;
    for (unsigned i = 0; i < ARENAS; i++)
        fh_arena_destroy(&thread->arenas[i]);
    fh_free_any(thread);
}

static void make_key(void)
{
    has_end_key = pthread_key_create(&end_key, thread_ends) == 0;
}

static FH_COLD struct scratch_thread *begin_thread(void)
{
    struct scratch_thread *thread =
        fh_aligned_alloc(__alignof__(struct scratch_thread), sizeof *thread);
    if (thread == NULL)
        return NULL;
    for (unsigned i = 0; i < ARENAS; i++)
        fh_arena_init(&thread->arenas[i],
                      &(struct fh_arena_options){.place = FH_PLACE_PARENT(&fh_place_general, 0),
                                                 .chunk = CHUNK});
    pthread_once(&once, make_key);
    /* Without a key the arenas stay for good, which is better than none. */
    if (has_end_key)
        pthread_setspecific(end_key, thread);
    mine = thread;
    return thread;
}

/* ---- scopes ------------------------------------------------------------------------------------- */

static bool is_among(const struct fh_arena *arena, const struct fh_arena *const *conflicts,
                     size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (conflicts[i] == arena)
            return true;
    return false;
}

struct fh_scratch fh_scratch_begin_beside(const struct fh_arena *const *conflicts, size_t count)
{
    struct scratch_thread *thread = mine != NULL ? mine : begin_thread();
    if (thread == NULL)
        return (struct fh_scratch){fh_fail(FH_ENOMEM), {0}};
    for (unsigned i = 0; i < ARENAS; i++) {
        struct fh_arena *arena = &thread->arenas[i];
        if (!is_among(arena, conflicts, count))
            return (struct fh_scratch){arena, fh_arena_mark(arena)};
    }
    return (struct fh_scratch){fh_fail(EBUSY), {0}};
}

struct fh_scratch fh_scratch_begin(const struct fh_arena *conflict)
{
    return fh_scratch_begin_beside(&conflict, 1);
}

void fh_scratch_end(struct fh_scratch *scratch)
{
    struct fh_arena *arena = scratch->arena;
    if (arena == NULL)
        return;
    fh_arena_rewind(arena, scratch->mark);
    scratch->arena = NULL;
    /* An outermost scope: nothing is in use any more. */
    if (arena->chunk == &arena->nothing && arena->ground.bytes > KEEP)
        fh_arena_trim(arena, KEEP);
}

size_t fh_scratch_trim(void)
{
    size_t given = 0;
    for (unsigned i = 0; mine != NULL && i < ARENAS; i++)
        given += fh_arena_trim(&mine->arenas[i], 0);
    return given;
}
