/*
 * context: a tree of arenas with accounts.
 *
 * A context is a handle with its links, an arena (or the caller's allocator), a list of callbacks
 * and two sums: bytes of its own, and of its subtree. The arena's parent is the context itself, by
 * a table of functions that charge a chunk to the context and to all above it before it is taken,
 * and refuse it where a limit would be passed. So accounting costs one walk up the tree for a
 * chunk, nothing for a block. With an allocator of the caller's each block is charged, by its
 * usable size.
 *
 * Ending a subtree: from the top down to the last child's last child and so on, end that, go on
 * with its parent; no recursion. A callback may do anything to the tree meanwhile. Two rules make
 * that safe:
 *
 *   - whoever will return to a context has counted up its `busy`. A context that is deleted while
 *     it is busy loses everything at once but its handle, is marked dead, and whoever counts busy
 *     down to zero frees the handle. Only the top of the operation and the context whose callback
 *     runs are returned to.
 *   - after a callback nothing is taken for granted: when the context is dead, or no longer below
 *     the top, the walk starts at the top again.
 *
 * A callback is taken off its list before it runs: one that leaves by longjmp has run. What it
 * leaves behind is a busy count that nobody takes back; all it costs is the handle, once the
 * context is deleted.
 *
 * Invariants (fh_context_check): subtree = bytes + the children's subtree, and at most peak; links
 * agree in both directions; bytes = the handle + what the arena has taken.
 */
#include "freehold/context.h"

#include "base/core/adapter.h"
#include "base/core/bits.h"
#include "base/core/fail.h"
#include "base/core/misuse.h"
#include "base/core/plant.h"
#include "base/message.h"
#include "place/general.h"

#include <string.h>

struct fh_context {
    struct fh_context *parent, *first_child, *last_child, *next, *prev;
    const char *name;
    struct fh_context_callback *callbacks; /* the latest first */
    struct fh_allocator memory;            /* of the handle and the chunks */
    struct fh_allocator own;               /* the caller's; ops NULL: the arena */
    struct fh_arena arena;
    struct fh_allocator_ops face; /* of fh_context_allocator: capabilities differ */
    size_t bytes, subtree, peak, limit;
    unsigned busy;
    bool is_dead;
};

#define HANDLE_BYTES sizeof(struct fh_context)

/* ---- accounts -------------------------------------------------------------------------------- */

static bool has_room(const struct fh_context *context, size_t bytes)
{
    for (; context != NULL; context = context->parent)
        if (context->limit != 0 &&
            (context->subtree > context->limit || bytes > context->limit - context->subtree))
            return false;
    return true;
}

static void add_to_subtrees(struct fh_context *context, size_t bytes)
{
    for (; context != NULL; context = context->parent) {
        context->subtree += bytes;
        context->peak = fh_max(context->peak, context->subtree);
    }
}

static void take_from_subtrees(struct fh_context *context, size_t bytes)
{
    for (; context != NULL; context = context->parent)
        context->subtree -= bytes;
}

static void charge(struct fh_context *context, size_t bytes)
{
    context->bytes += bytes;
    add_to_subtrees(context, bytes);
}

/* Blocks freed twice are not charged back twice. */
static void discharge(struct fh_context *context, size_t bytes)
{
    bytes = fh_min(bytes, context->bytes - HANDLE_BYTES);
    context->bytes -= bytes;
    take_from_subtrees(context, bytes);
}

/* ---- the parent of a context's arena --------------------------------------------------------- */

static void *chunk_alloc(void *self, size_t size, size_t align, unsigned flags)
{
    struct fh_context *context = self;
    if (!has_room(context, size))
        return fh_fail(FH_ENOMEM);
    void *chunk = fh_alloc_with(&context->memory, size, align, flags);
    if (chunk != NULL)
        charge(context, size);
    return chunk;
}

static void chunk_free_sized(void *self, void *chunk, size_t size, size_t align)
{
    struct fh_context *context = self;
    fh_free_sized(&context->memory, chunk, size, align);
    discharge(context, size);
}

/* All that an arena asks of its parent. */
static const struct fh_allocator_ops chunk_ops = {
    .size = sizeof chunk_ops,
    .name = "context",
    .alloc = chunk_alloc,
    .free_sized = chunk_free_sized,
};

/* ---- the tree -------------------------------------------------------------------------------- */

static void link_last(struct fh_context *context, struct fh_context *parent)
{
    context->parent = parent;
    context->next = NULL;
    context->prev = parent != NULL ? parent->last_child : NULL;
    if (parent == NULL)
        return;
    *(parent->last_child != NULL ? &parent->last_child->next : &parent->first_child) = context;
    parent->last_child = context;
}

static void unlink_it(struct fh_context *context)
{
    struct fh_context *parent = context->parent;
    if (parent == NULL)
        return;
    *(context->prev != NULL ? &context->prev->next : &parent->first_child) = context->next;
    *(context->next != NULL ? &context->next->prev : &parent->last_child) = context->prev;
    context->parent = context->next = context->prev = NULL;
}

static bool is_below(const struct fh_context *context, const struct fh_context *top)
{
    while (context != NULL && context != top)
        context = context->parent;
    return context == top;
}

static struct fh_context *last_leaf(struct fh_context *context)
{
    while (context->last_child != NULL)
        context = context->last_child;
    return context;
}

int fh_context_move(struct fh_context *context, struct fh_context *new_parent)
{
    if (is_below(new_parent, context))
        return fh_error(FH_EINVAL);
    take_from_subtrees(context->parent, context->subtree);
    if (!has_room(new_parent, context->subtree)) {
        add_to_subtrees(context->parent, context->subtree);
        return fh_error(FH_ENOMEM);
    }
    unlink_it(context);
    link_last(context, new_parent);
    add_to_subtrees(new_parent, context->subtree);
    return 0;
}

struct fh_context *fh_context_parent(const struct fh_context *context)
{
    return context->parent;
}

struct fh_context *fh_context_first_child(const struct fh_context *context)
{
    return context->first_child;
}

struct fh_context *fh_context_next_sibling(const struct fh_context *context)
{
    return context->next;
}

const char *fh_context_name(const struct fh_context *context)
{
    return context->name;
}

/* ---- blocks ---------------------------------------------------------------------------------- */

/* What a block of the caller's allocator is charged with. */
static size_t charged(const struct fh_context *context, const void *block, size_t size)
{
    if (context->own.ops->usable_size != NULL)
        return fh_allocator_usable_size(&context->own, block);
    return size <= PTRDIFF_MAX ? fh_align_up(fh_max(size, 1), FH_ALIGN_DEFAULT) : size;
}

void *fh_context_alloc_with(struct fh_context *context, size_t size, size_t align, unsigned flags)
{
    if (context->own.ops == NULL)
        return fh_arena_alloc_with(&context->arena, size, align, flags);
    if (!has_room(context, size))
        return fh_fail(FH_ENOMEM);
    void *block = fh_alloc_with(&context->own, size, align, flags);
    if (block == NULL)
        return NULL;
    size_t bytes = charged(context, block, size);
    if (has_room(context, bytes)) {
        charge(context, bytes);
        return block;
    }
    fh_free_sized(&context->own, block, size, align);
    return fh_fail(FH_ENOMEM);
}

void *fh_context_alloc(struct fh_context *context, size_t size)
{
    if (context->own.ops == NULL)
        return fh_arena_alloc(&context->arena, size);
    return fh_context_alloc_with(context, size, 0, 0);
}

void *fh_context_alloc_array(struct fh_context *context, size_t count, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes))
        return fh_fail(FH_ENOMEM);
    return fh_context_alloc(context, bytes);
}

char *fh_context_strdup(struct fh_context *context, const char *text)
{
    size_t size = strlen(text) + 1;
    char *copy = fh_context_alloc(context, size);
    return copy != NULL ? memcpy(copy, text, size) : NULL;
}

/* Accounts for a block that was charged `before` and now has `now`; it was let in already. */
static void recharge(struct fh_context *context, size_t before, size_t now)
{
    if (now > before)
        charge(context, now - before);
    else
        discharge(context, before - now);
}

static void *resize(struct fh_context *context, void *block, size_t old_size, size_t new_size,
                    size_t align)
{
    if (block == NULL)
        return fh_context_alloc_with(context, new_size, align, 0);
    if (context->own.ops == NULL)
        return fh_arena_resize(&context->arena, block, old_size, new_size, align);
    size_t before = charged(context, block, old_size);
    if (new_size > before && !has_room(context, new_size - before))
        return fh_fail(FH_ENOMEM);
    void *resized = fh_resize_sized(&context->own, block, old_size, new_size, align);
    if (resized != NULL)
        recharge(context, before, charged(context, resized, new_size));
    return resized;
}

static bool resize_in_place(struct fh_context *context, void *block, size_t old_size,
                            size_t new_size)
{
    if (context->own.ops == NULL)
        return fh_arena_resize_in_place(&context->arena, block, old_size, new_size);
    size_t before = charged(context, block, old_size);
    if ((new_size > before && !has_room(context, new_size - before)) ||
        !fh_resize_in_place(&context->own, block, old_size, new_size))
        return false;
    recharge(context, before, charged(context, block, new_size));
    return true;
}

void *fh_context_resize(struct fh_context *context, void *block, size_t old_size, size_t new_size)
{
    return resize(context, block, old_size, new_size, 0);
}

static void free_sized(struct fh_context *context, void *block, size_t size, size_t align)
{
    if (block == NULL)
        return;
    if (context->own.ops == NULL) {
        fh_arena_free_sized(&context->arena, block, size, align);
        return;
    }
    discharge(context, charged(context, block, size));
    fh_free_sized(&context->own, FH_PLANT(context_keeps_what_is_freed, NULL, block), size, align);
}

void fh_context_free(struct fh_context *context, void *block, size_t size)
{
    free_sized(context, block, size, 0);
}

struct fh_arena *fh_context_arena(struct fh_context *context)
{
    return context->own.ops == NULL ? &context->arena : NULL;
}

/* What the blocks come from, for calls that change no account. */
static struct fh_allocator inner(struct fh_context *context)
{
    return context->own.ops != NULL ? context->own : fh_arena_allocator(&context->arena);
}

/* ---- fh_allocator ---------------------------------------------------------------------------- */

FH_ADAPT_ALLOC(context)

static bool op_resize_in_place(void *self, void *block, size_t old_size, size_t new_size)
{
    return resize_in_place(self, block, old_size, new_size);
}

static void *op_resize(void *self, void *block, size_t old_size, size_t new_size, size_t align)
{
    return resize(self, block, old_size, new_size, align);
}

static void op_free(void *self, void *block)
{
    struct fh_context *context = self;
    if (context->own.ops == NULL || block == NULL) {
        fh_arena_free(&context->arena, block);
        return;
    }
    discharge(context, charged(context, block, 0));
    fh_free(&context->own, block);
}

static void op_free_sized(void *self, void *block, size_t size, size_t align)
{
    free_sized(self, block, size, align);
}

static size_t op_usable_size(void *self, const void *block)
{
    struct fh_context *context = self;
    return fh_allocator_usable_size(&context->own, block);
}

static bool op_owns(void *self, const void *address)
{
    struct fh_allocator allocator = inner(self);
    return fh_allocator_owns(&allocator, address);
}

static void op_reset(void *self)
{
    fh_context_reset(self);
}

static void op_destroy(void *self)
{
    fh_context_delete(self);
}

static int op_measure(void *self, struct fh_measure *out)
{
    struct fh_allocator allocator = inner(self);
    return fh_allocator_measure(&allocator, out);
}

static int op_walk(void *self, int (*visit)(void *context, const struct fh_block *block),
                   void *context)
{
    struct fh_allocator allocator = inner(self);
    return fh_allocator_walk(&allocator, visit, context);
}

static int op_check(void *self)
{
    return fh_context_check(self);
}

static void make_face(struct fh_context *context)
{
    struct fh_allocator allocator = inner(context);
    unsigned capabilities = allocator.ops->capabilities &
                            ~(unsigned)(FH_ALLOCATOR_THREAD_SAFE | FH_ALLOCATOR_RELOCATABLE);
    context->face = (struct fh_allocator_ops)FH_ADAPTER_OPS(
        "context", capabilities, op_resize_in_place,
        allocator.ops->usable_size != NULL ? op_usable_size : NULL);
}

struct fh_allocator fh_context_allocator(struct fh_context *context)
{
    return (struct fh_allocator){&context->face, context};
}

/* ---- beginning and end ----------------------------------------------------------------------- */

struct fh_context *fh_context_create(struct fh_context *parent,
                                     const struct fh_context_options *options)
{
    static const struct fh_context_options none;
    if (options == NULL)
        options = &none;
    if ((options->allocator != NULL && options->allocator->ops->reset == NULL) ||
        (parent != NULL && parent->is_dead))
        return fh_fail(FH_EINVAL);
    if (!has_room(parent, HANDLE_BYTES) || (options->limit != 0 && options->limit < HANDLE_BYTES))
        return fh_fail(FH_ENOMEM);
    const struct fh_allocator *memory = options->memory != NULL ? options->memory
                                        : parent != NULL        ? &parent->memory
                                                                : &fh_place_general;
    struct fh_context *context =
        fh_alloc_aligned(memory, HANDLE_BYTES, __alignof__(struct fh_context));
    if (context == NULL)
        return fh_fail(FH_ENOMEM);
    *context = (struct fh_context){
        .name = options->name != NULL ? options->name : "",
        .memory = *memory,
        .limit = options->limit,
    };
    const struct fh_allocator chunks = {&chunk_ops, context};
    const struct fh_arena_options arena = {
        .place = FH_PLACE_PARENT(&chunks, 0),
        .chunk = options->chunk,
        .chunk_max = options->chunk_max,
    };
    if (options->allocator != NULL) {
        context->own = *options->allocator;
    } else if (fh_arena_init(&context->arena, &arena) != 0) {
        fh_free_sized(memory, context, HANDLE_BYTES, __alignof__(struct fh_context));
        return fh_fail(FH_EINVAL);
    }
    make_face(context);
    link_last(context, parent);
    charge(context, HANDLE_BYTES);
    return context;
}

static void free_handle(struct fh_context *context)
{
    struct fh_allocator memory = context->memory;
    fh_free_sized(&memory, context, HANDLE_BYTES, __alignof__(struct fh_context));
}

/* Counts busy down. False when the context is dead; its handle may be gone. */
static bool leave(struct fh_context *context)
{
    context->busy--;
    if (!context->is_dead)
        return true;
    if (context->busy == 0)
        free_handle(context);
    return false;
}

static bool run_callback(struct fh_context *context)
{
    struct fh_context_callback *callback = context->callbacks;
    context->callbacks = callback->next;
    callback->next = NULL;
    context->busy++;
    callback->run(callback->argument);
    return leave(context);
}

static void reset_memory(struct fh_context *context)
{
    if (context->own.ops == NULL) {
        fh_arena_reset(&context->arena);
        return;
    }
    fh_allocator_reset(&context->own);
    discharge(context, context->bytes - HANDLE_BYTES);
}

/* Nothing is left of a context without children and callbacks but, where somebody returns to it,
 * its handle. */
static void bury(struct fh_context *context)
{
    if (context->own.ops == NULL) {
        fh_arena_destroy(&context->arena);
    } else {
        fh_allocator_destroy(&context->own);
        discharge(context, context->bytes - HANDLE_BYTES);
    }
    take_from_subtrees(context, HANDLE_BYTES);
    unlink_it(context);
    context->is_dead = true;
    if (context->busy == 0)
        free_handle(context);
}

/* All below the top, which is busy, and may be dead afterwards. */
static void end_descendants(struct fh_context *top)
{
    struct fh_context *context = top;
    while (!top->is_dead) {
        context = last_leaf(context);
        if (context == top)
            return;
        if (context->callbacks != NULL) {
            if (!run_callback(context) || !is_below(context, top))
                context = top;
            continue;
        }
        struct fh_context *parent = context->parent;
        bury(context);
        context = parent;
    }
}

/* Children and callbacks; a callback may bring new ones of both. */
static void end_content(struct fh_context *context)
{
    for (;;) {
        end_descendants(context);
        if (context->is_dead || context->callbacks == NULL)
            return;
        run_callback(context);
    }
}

void fh_context_reset(struct fh_context *context)
{
    context->busy++;
    end_content(context);
    if (!context->is_dead)
        reset_memory(context);
    leave(context);
}

void fh_context_delete(struct fh_context *context)
{
    if (context == NULL)
        return;
    context->busy++;
    end_content(context);
    if (!context->is_dead)
        bury(context);
    leave(context);
}

void fh_context_delete_children(struct fh_context *context)
{
    context->busy++;
    end_descendants(context);
    leave(context);
}

void fh_context_reset_subtree(struct fh_context *top)
{
    top->busy++;
    struct fh_context *context = last_leaf(top);
    while (!top->is_dead) {
        if (context->callbacks != NULL) {
            if (!run_callback(context) || !is_below(context, top))
                context = top->is_dead ? top : last_leaf(top);
            continue;
        }
        reset_memory(context);
        if (context == top)
            break;
        context = context->prev != NULL ? last_leaf(context->prev) : context->parent;
    }
    leave(top);
}

void fh_context_on_reset(struct fh_context *context, struct fh_context_callback *callback,
                         void (*run)(void *argument), void *argument)
{
    callback->run = run;
    callback->argument = argument;
    callback->next = context->callbacks;
    context->callbacks = callback;
}

bool fh_context_off_reset(struct fh_context *context, struct fh_context_callback *callback)
{
    for (struct fh_context_callback **link = &context->callbacks; *link != NULL;
         link = &(*link)->next) {
        if (*link == callback) {
            *link = callback->next;
            callback->next = NULL;
            return true;
        }
    }
    return false;
}

/* ---- looking at it --------------------------------------------------------------------------- */

size_t fh_context_bytes(const struct fh_context *context)
{
    return context->bytes;
}

size_t fh_context_subtree_bytes(const struct fh_context *context)
{
    return context->subtree;
}

size_t fh_context_peak_bytes(const struct fh_context *context)
{
    return context->peak;
}

void fh_context_set_limit(struct fh_context *context, size_t limit)
{
    context->limit = limit;
}

/* The next context of top's subtree, parents before children; *depth follows. */
static const struct fh_context *next_of(const struct fh_context *context,
                                        const struct fh_context *top, size_t *depth)
{
    if (context->first_child != NULL) {
        ++*depth;
        return context->first_child;
    }
    for (; context != top; context = context->parent, --*depth)
        if (context->next != NULL)
            return context->next;
    return NULL;
}

static size_t count_callbacks(const struct fh_context *context)
{
    size_t count = 0;
    for (const struct fh_context_callback *c = context->callbacks; c != NULL; c = c->next)
        count++;
    return count;
}

int fh_context_print(const struct fh_context *context,
                     int (*write)(void *argument, const char *line, size_t length), void *argument)
{
    enum { LINE = 300, INDENT_MAX = 100 }; /* deeper ones are not indented further */
    const struct fh_context *top = context;
    size_t depth = 0;
    for (; context != NULL; context = next_of(context, top, &depth)) {
        char line[LINE];
        size_t length = fh_min(2 * depth, INDENT_MAX);
        memset(line, ' ', length);
        length += fh_format(line + length, LINE - 1 - length,
                            "%s: %zu bytes, with children %zu, peak %zu", context->name,
                            context->bytes, context->subtree, context->peak);
        if (context->limit != 0)
            length += fh_format(line + length, LINE - 1 - length, ", limit %zu", context->limit);
        size_t callbacks = count_callbacks(context);
        if (callbacks != 0)
            length += fh_format(line + length, LINE - 1 - length, ", %zu callback%s", callbacks,
                                callbacks == 1 ? "" : "s");
        line[length++] = '\n';
        int result = write(argument, line, length);
        if (result != 0)
            return result;
    }
    return 0;
}

static int check_one(const struct fh_context *context)
{
    int broken = 0;
    size_t subtree = context->bytes;
    const struct fh_context *before = NULL;
    for (const struct fh_context *child = context->first_child; child != NULL;
         before = child, child = child->next) {
        subtree += child->subtree;
        if (child->parent != context || child->prev != before) {
            fh_broken("context %s: the links of its child %s", context->name, child->name);
            broken++;
        }
    }
    if (before != context->last_child) {
        fh_broken("context %s: its last child is another", context->name);
        broken++;
    }
    if (subtree != context->subtree || context->subtree > context->peak) {
        fh_broken("context %s: %zu bytes in its subtree, %zu counted, peak %zu", context->name,
                  subtree, context->subtree, context->peak);
        broken++;
    }
    if (context->own.ops != NULL)
        return broken + fh_allocator_check(&context->own);
    struct fh_measure measure = {.size = sizeof measure};
    fh_arena_measure(&context->arena, &measure);
    if (context->bytes != HANDLE_BYTES + measure.footprint) {
        fh_broken("context %s: charged %zu bytes, its arena has %zu", context->name, context->bytes,
                  measure.footprint);
        broken++;
    }
    return broken + fh_arena_check(&context->arena);
}

int fh_context_check(const struct fh_context *context)
{
    const struct fh_context *top = context;
    int broken = 0;
    size_t depth = 0;
    for (; context != NULL; context = next_of(context, top, &depth))
        broken += check_one(context);
    return broken;
}
