/*
 * adapter: the table of a manager behind fh_allocator.
 *
 * The table's functions take `void *self`; a manager's own take its struct, fh_arena_free(struct fh_arena *, …).
 * What stands between them is a function for each entry, which converts the first argument and adds nothing. The macros below
 * write these, all named op_ENTRY, each for the public functions of the manager X:
 *
 *     FH_ADAPT_ALLOC(X)        op_alloc            fh_X_alloc_with
 *     FH_ADAPT_FREE(X)         op_free             fh_X_free
 *     FH_ADAPT_FREE_SIZED(X)   op_free_sized       fh_X_free_sized
 *     FH_ADAPT_USABLE_SIZE(X)  op_usable_size      fh_X_usable_size
 *     FH_ADAPT_RESIZE(X)       op_resize           fh_X_resize, of a manager that knows its blocks' sizes
 *     FH_ADAPT_RESIZE_SIZED(X) op_resize, op_resize_in_place: of one that is told the old size
 *     FH_ADAPT_WHOLE(X)        op_owns, op_reset, op_destroy, op_measure, op_walk, op_check
 *
 * A manager that does more for an entry defines that op_ENTRY itself and leaves its macro out: the compiler says when an
 * entry is missing or is there twice. FH_ADAPTER_OPS is the table's initialiser, once all of them are defined
 * or declared. The names are static: one table's functions in a file.
 *
 * Only the public interface is needed, so that the freestanding build has it too.
 */
#ifndef FH_BASE_CORE_ADAPTER_H
#define FH_BASE_CORE_ADAPTER_H

#include "freehold/allocator.h"

#define FH_ADAPT_ALLOC(X)                                                                          \
    static void *op_alloc(void *self, size_t size, size_t align, unsigned flags)                   \
    {                                                                                              \
        return fh_##X##_alloc_with(self, size, align, flags);                                      \
    }

#define FH_ADAPT_FREE(X)                                                                           \
    static void op_free(void *self, void *block)                                                   \
    {                                                                                              \
        fh_##X##_free(self, block);                                                                \
    }

#define FH_ADAPT_FREE_SIZED(X)                                                                     \
    static void op_free_sized(void *self, void *block, size_t size, size_t align)                  \
    {                                                                                              \
        fh_##X##_free_sized(self, block, size, align);                                             \
    }

#define FH_ADAPT_USABLE_SIZE(X)                                                                    \
    static size_t op_usable_size(void *self, const void *block)                                    \
    {                                                                                              \
        return fh_##X##_usable_size(self, block);                                                  \
    }

#define FH_ADAPT_RESIZE(X)                                                                         \
    static void *op_resize(void *self, void *block, size_t old_size, size_t new_size,              \
                           size_t align)                                                           \
    {                                                                                              \
        (void)old_size;                                                                            \
        return fh_##X##_resize(self, block, new_size, align);                                      \
    }

#define FH_ADAPT_RESIZE_SIZED(X)                                                                   \
    static void *op_resize(void *self, void *block, size_t old_size, size_t new_size,              \
                           size_t align)                                                           \
    {                                                                                              \
        return fh_##X##_resize(self, block, old_size, new_size, align);                            \
    }                                                                                              \
    static bool op_resize_in_place(void *self, void *block, size_t old_size, size_t new_size)      \
    {                                                                                              \
        return fh_##X##_resize_in_place(self, block, old_size, new_size);                          \
    }

#define FH_ADAPT_WHOLE(X)                                                                          \
    static bool op_owns(void *self, const void *address)                                           \
    {                                                                                              \
        return fh_##X##_owns(self, address);                                                       \
    }                                                                                              \
    static void op_reset(void *self)                                                               \
    {                                                                                              \
        fh_##X##_reset(self);                                                                      \
    }                                                                                              \
    static void op_destroy(void *self)                                                             \
    {                                                                                              \
        fh_##X##_destroy(self);                                                                    \
    }                                                                                              \
    static int op_measure(void *self, struct fh_measure *out)                                      \
    {                                                                                              \
        return fh_##X##_measure(self, out);                                                        \
    }                                                                                              \
    static int op_walk(void *self, int (*visit)(void *context, const struct fh_block *block),      \
                       void *context)                                                              \
    {                                                                                              \
        return fh_##X##_walk(self, visit, context);                                                \
    }                                                                                              \
    static int op_check(void *self)                                                                \
    {                                                                                              \
        return fh_##X##_check(self);                                                               \
    }

/* resize_in_place_ and usable_size_ are op_resize_in_place and op_usable_size, or NULL in the table of a manager (or of
 * one around another) that can't say. */
#define FH_ADAPTER_OPS(name_, capabilities_, resize_in_place_, usable_size_)                       \
    {                                                                                              \
        .size = sizeof(struct fh_allocator_ops), .name = (name_), .capabilities = (capabilities_), \
        .alloc = op_alloc, .resize_in_place = (resize_in_place_), .resize = op_resize,             \
        .free = op_free, .free_sized = op_free_sized, .usable_size = (usable_size_),               \
        .owns = op_owns, .reset = op_reset, .destroy = op_destroy, .measure = op_measure,          \
        .walk = op_walk, .check = op_check,                                                        \
    }

#endif
