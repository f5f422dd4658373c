/*
 * context.h: a tree of memory contexts.
 *
 * For programs whose data lives as its work does: a connection in a server, a transaction in the
 * connection, a statement in that. Each is a context; ending one ends its children first, runs what was
 * registered for its end, and frees all its memory in one go, on every way out, errors included. A
 * context is an arena unless it is given another allocator. Do not use it for one lifetime (arena.h), nor to share data
 * between threads: a tree belongs to one thread at a time.
 *
 *     struct fh_context *server = fh_context_create(NULL, &(struct fh_context_options){.name = "server"});
 *     struct fh_context *query = fh_context_create(server, &(struct fh_context_options){.name = "query"});
 *     struct plan *plan = fh_context_alloc(query, sizeof *plan);
 *     fh_context_on_reset(query, &plan->closing, close_files, plan);
 *     fh_context_delete(query);              // close_files(plan), then all of query's memory
 *
 * Accounting: the bytes a context has taken, and its subtree's, are known at any time; a limit holds for a
 * subtree, so a query can't take more than its share whatever it calls.
 *
 * Callbacks run when a context is reset or deleted: after its children have ended, before its memory goes,
 * the latest registered first, each once. What a callback may do:
 *   - read and write all of the context's memory, allocate in it (that dies with the rest), and free;
 *   - register callbacks: they run too, before those that were registered earlier;
 *   - make children of the context: they end as the others did, before the next callback;
 *   - leave by longjmp or a C++ exception: it counts as having run, the context stands with the callbacks that are
 *     left, and resetting or deleting it again goes on with these. (A context deleted after that keeps its
 *     handle, some 500 bytes, for good: the delete that was left might still have to return to it.)
 *   - reset or delete its own context or one above it: that happens at once, as far as is left, and the call
 *     that the callback came from then finds nothing more to do.
 *
 * Sources: PostgreSQL's memory contexts (src/backend/utils/mmgr/README), which this follows in what reset and
 * delete mean; talloc (Tridgell 2004), from which come reparenting and reports.
 */
#ifndef FREEHOLD_CONTEXT_H
#define FREEHOLD_CONTEXT_H

#include "freehold/allocator.h"
#include "freehold/arena.h"
#include "freehold/types.h"

FH_BEGIN_DECLS

struct fh_context;

/* All zero means default. */
struct fh_context_options {
    const char *name; /* not copied; NULL: "" */
    /* Where handles and chunks come from; copied. NULL: the parent context's, a root's the heap (fh_malloc). It
     * must give memory back when it is freed singly. */
    const struct fh_allocator *memory;
    /* Blocks of the context come from it, not from an arena over `memory`; copied. It is the context's alone,
     * must offer reset, and is reset with the context; on delete it is destroyed. */
    const struct fh_allocator *allocator;
    size_t limit; /* bytes of the subtree; 0: none */
    size_t chunk; /* of the arena, see fh_arena_options; 0: 4096 */
    size_t chunk_max;
};

/* A new context, the last child of `parent`; NULL makes a root. options may be NULL. NULL and ENOMEM, or EINVAL for a
 * wrong option. It takes one block for its handle, and chunks when it first allocates. O(depth). */
FH_API struct fh_context *fh_context_create(struct fh_context *parent,
                                            const struct fh_context_options *options);
/* Deletes the children, runs the callbacks, and leaves the context empty. Its arena keeps its memory for what
 * comes (fh_arena_trim of fh_context_arena gives it back). O(subtree). */
FH_API void fh_context_reset(struct fh_context *context);
/* The same with all contexts of the subtree kept, empty, children before parents. */
FH_API void fh_context_reset_subtree(struct fh_context *context);
/* Deletes the children, runs the callbacks, and gives everything back, the handle too. NULL is nothing. No
 * recursion: the depth of a tree is not bounded by the stack. O(subtree). */
FH_API void fh_context_delete(struct fh_context *context);
/* All children. */
FH_API void fh_context_delete_children(struct fh_context *context);

/* ---- memory -------------------------------------------------------------------------------------- */

/* As fh_arena_alloc of the context's arena or fh_alloc of its allocator. NULL and ENOMEM also when a limit of the
 * context or one above it stands in the way. */
FH_API void *fh_context_alloc(struct fh_context *context, size_t size) FH_ALLOC_SIZE(2);
FH_API void *fh_context_alloc_with(struct fh_context *context, size_t size, size_t align,
                                   unsigned flags) FH_ALLOC_SIZE(2);
FH_API void *fh_context_alloc_array(struct fh_context *context, size_t count, size_t size);
FH_API char *fh_context_strdup(struct fh_context *context, const char *text);
FH_API void *fh_context_resize(struct fh_context *context, void *block, size_t old_size,
                               size_t new_size);
/* In an arena only the last block goes back. */
FH_API void fh_context_free(struct fh_context *context, void *block, size_t size);
/* Its arena, for the inline calls of arena.h; NULL when it has an allocator of its own. Do not reset or
 * destroy it: that is the context's. */
FH_API struct fh_arena *fh_context_arena(struct fh_context *context);
/* As an allocator, accounted and limited; its reset and destroy are the context's reset and delete. It lives as
 * long as the context. */
FH_API struct fh_allocator fh_context_allocator(struct fh_context *context);

/* ---- callbacks ------------------------------------------------------------------------------------- */

/* The caller's, usually in the context's own memory; must stay until it has run. */
struct fh_context_callback {
    void (*run)(void *argument);
    void *argument;
    struct fh_context_callback *next;
};

/* run(argument) at the next reset or delete. Can't fail. O(1). */
FH_API void fh_context_on_reset(struct fh_context *context, struct fh_context_callback *callback,
                                void (*run)(void *argument), void *argument);
/* Not any more. False when it was not registered. O(callbacks). */
FH_API bool fh_context_off_reset(struct fh_context *context, struct fh_context_callback *callback);

/* ---- the tree ------------------------------------------------------------------------------------- */

/* The context, with its subtree, becomes the last child of new_parent (NULL: a root). Its memory stays where it is. 0;
 * -EINVAL when new_parent lies in the subtree; -ENOMEM when a limit above new_parent forbids it. O(depth). */
FH_API int fh_context_move(struct fh_context *context, struct fh_context *new_parent);
/* NULL where there is none. */
FH_API struct fh_context *fh_context_parent(const struct fh_context *context);
FH_API struct fh_context *fh_context_first_child(const struct fh_context *context);
FH_API struct fh_context *fh_context_next_sibling(const struct fh_context *context);
FH_API const char *fh_context_name(const struct fh_context *context);

/* Bytes taken by the context alone, its handle included (with an allocator of its own: its live blocks), and by its subtree; the most the
 * subtree has had. O(1). */
FH_API size_t fh_context_bytes(const struct fh_context *context);
FH_API size_t fh_context_subtree_bytes(const struct fh_context *context);
FH_API size_t fh_context_peak_bytes(const struct fh_context *context);
/* A new limit for the subtree; one below what it has now stops it from growing. 0: none. */
FH_API void fh_context_set_limit(struct fh_context *context, size_t limit);

/* Calls write for each line of the subtree, one a context, indented by its depth: name, bytes, the subtree's bytes, peak, limit
 * and number of callbacks. Not zero from write stops and is returned. Takes no memory. */
FH_API int fh_context_print(const struct fh_context *context,
                            int (*write)(void *argument, const char *line, size_t length),
                            void *argument);
/* 0, or the number of broken invariants of the subtree, each said on the diagnostic descriptor. */
FH_API int fh_context_check(const struct fh_context *context);

FH_END_DECLS
#endif
