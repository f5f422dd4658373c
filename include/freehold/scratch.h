/*
 * scratch.h: each thread's own arenas for memory that a function needs until it returns.
 *
 * Use it where alloca is too dangerous and malloc too slow: temporary strings, lists, tables of any size.
 * A thread has two arenas. A function whose caller gave it an arena for the result names that one, and gets the
 * other: what it allocates for itself and frees at its end never lies between what the caller keeps.
 * Hosted programs only. Do not keep anything of it beyond the end of the scope, and do not hand it to
 * other threads.
 *
 *     char *join(struct fh_arena *result, struct list *words)
 *     {
 *         struct fh_scratch scratch = fh_scratch_begin(result);
 *         char **parts = fh_arena_new_array(scratch.arena, char *, words->count);
 *         ...                                            // result and scratch.arena are two
 *         fh_scratch_end(&scratch);
 *     }
 *
 * FH_SCRATCH(name, result) is the same with the end at the end of the scope, however it is left.
 *
 * Scopes nest. The arenas keep up to 1 MiB each between scopes; a thread's end gives all back, the main thread's
 * stay until the process ends. Costs a few nanoseconds: a thread-local load, a mark, a rewind.
 */
#ifndef FREEHOLD_SCRATCH_H
#define FREEHOLD_SCRATCH_H

#include "freehold/arena.h"
#include "freehold/types.h"

FH_BEGIN_DECLS

struct fh_scratch {
    struct fh_arena *arena; /* NULL: there was none to be had */
    struct fh_arena_mark mark;
};

/* One of the calling thread's arenas, but not `conflict` (NULL: either will do). arena is NULL and errno ENOMEM when
 * the thread has no arenas yet and there is no memory to make them. O(1). */
FH_API struct fh_scratch fh_scratch_begin(const struct fh_arena *conflict);
/* The same with several that it must not be. NULL and errno EBUSY when both are among them: then the caller holds
 * both for others and needs an arena of its own. O(count). */
FH_API struct fh_scratch fh_scratch_begin_beside(const struct fh_arena *const *conflicts,
                                                 size_t count);
/* Frees what was allocated since begin. Scopes of one arena must end in the reverse order of their begins. NULL
 * arena: nothing. */
FH_API void fh_scratch_end(struct fh_scratch *scratch);
/* Gives back what the calling thread's arenas don't use now; returns the bytes. Not while a scope needs the
 * speed: the next ones take the memory again. */
FH_API size_t fh_scratch_trim(void);

#define FH_SCRATCH(name, conflict)                                                                 \
    __attribute__((cleanup(fh_scratch_end))) struct fh_scratch name = fh_scratch_begin(conflict)

FH_END_DECLS
#endif
