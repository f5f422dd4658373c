/*
 * The functions of a manager over the engine. They are the same for every one but for the index, whose functions are
 * defined where this is included (tags_moves.h).
 *
 * FH_TAGS_FUNCTIONS(tlsf, &index, &ops) writes fh_tlsf_alloc and the others that fh_tlsf_init and
 * fh_tlsf_allocator complete, and those of the table, for a handle whose first member is `tags`. The
 * table itself is FH_ADAPTER_OPS (base/core/adapter.h).
 */
#ifndef FH_PLACE_MANAGER_H
#define FH_PLACE_MANAGER_H

#include "base/core/adapter.h"
#include "place/tags_moves.h"

#define FH_TAGS_FUNCTIONS(manager, index, ops)                                                     \
    int fh_##manager##_attach(struct fh_##manager *self, void *memory, size_t bytes)               \
    {                                                                                              \
        return tags_attach(&self->tags, index, memory, bytes);                                     \
    }                                                                                              \
    static void *op_alloc(void *self, size_t size, size_t align, unsigned flags)                   \
    {                                                                                              \
        return tags_alloc(self, index, size, align, flags);                                        \
    }                                                                                              \
    static bool op_resize_in_place(void *self, void *block, size_t old_size, size_t new_size)      \
    {                                                                                              \
        (void)old_size;                                                                            \
        return tags_resize_in_place(self, index, block, new_size);                                 \
    }                                                                                              \
    static void *op_resize(void *self, void *block, size_t old_size, size_t new_size,              \
                           size_t align)                                                           \
    {                                                                                              \
        (void)old_size;                                                                            \
        return tags_resize(self, index, ops, block, new_size, align);                              \
    }                                                                                              \
    static void op_free(void *self, void *block)                                                   \
    {                                                                                              \
        tags_free(self, index, block);                                                             \
    }                                                                                              \
    static void op_free_sized(void *self, void *block, size_t size, size_t align)                  \
    {                                                                                              \
        tags_free_sized(self, index, block, size, align);                                          \
    }                                                                                              \
    static size_t op_usable_size(void *self, const void *block)                                    \
    {                                                                                              \
        return tags_usable_size(self, block);                                                      \
    }                                                                                              \
    static bool op_owns(void *self, const void *address)                                           \
    {                                                                                              \
        return tags_owns(self, address);                                                           \
    }                                                                                              \
    static void op_reset(void *self)                                                               \
    {                                                                                              \
        tags_clear(self, index);                                                                   \
    }                                                                                              \
    static void op_destroy(void *self)                                                             \
    {                                                                                              \
        tags_close(self);                                                                          \
    }                                                                                              \
    static int op_measure(void *self, struct fh_measure *out)                                      \
    {                                                                                              \
        return tags_measure(self, out);                                                            \
    }                                                                                              \
    static int op_walk(void *self, int (*visit)(void *context, const struct fh_block *block),      \
                       void *context)                                                              \
    {                                                                                              \
        return tags_walk(self, visit, context);                                                    \
    }                                                                                              \
    static int op_check(void *self)                                                                \
    {                                                                                              \
        return tags_check(self, index);                                                            \
    }                                                                                              \
    void *fh_##manager##_alloc(struct fh_##manager *self, size_t size)                             \
    {                                                                                              \
        return tags_alloc(&self->tags, index, size, 0, 0);                                         \
    }                                                                                              \
    void *fh_##manager##_alloc_with(struct fh_##manager *self, size_t size, size_t align,          \
                                    unsigned flags)                                                \
    {                                                                                              \
        return op_alloc(&self->tags, size, align, flags);                                          \
    }                                                                                              \
    void fh_##manager##_free(struct fh_##manager *self, void *block)                               \
    {                                                                                              \
        tags_free(&self->tags, index, block);                                                      \
    }                                                                                              \
    void fh_##manager##_free_sized(struct fh_##manager *self, void *block, size_t size,            \
                                   size_t align)                                                   \
    {                                                                                              \
        op_free_sized(&self->tags, block, size, align);                                            \
    }                                                                                              \
    bool fh_##manager##_resize_in_place(struct fh_##manager *self, void *block, size_t new_size)   \
    {                                                                                              \
        return tags_resize_in_place(&self->tags, index, block, new_size);                          \
    }                                                                                              \
    void *fh_##manager##_resize(struct fh_##manager *self, void *block, size_t new_size)           \
    {                                                                                              \
        return tags_resize(&self->tags, index, ops, block, new_size, 0);                           \
    }                                                                                              \
    size_t fh_##manager##_usable_size(const struct fh_##manager *self, const void *block)          \
    {                                                                                              \
        return tags_usable_size(&self->tags, block);                                               \
    }                                                                                              \
    bool fh_##manager##_owns(const struct fh_##manager *self, const void *address)                 \
    {                                                                                              \
        return tags_owns(&self->tags, address);                                                    \
    }                                                                                              \
    void fh_##manager##_reset(struct fh_##manager *self)                                           \
    {                                                                                              \
        tags_clear(&self->tags, index);                                                            \
    }                                                                                              \
    void fh_##manager##_destroy(struct fh_##manager *self)                                         \
    {                                                                                              \
        tags_close(&self->tags);                                                                   \
    }                                                                                              \
    int fh_##manager##_measure(const struct fh_##manager *self, struct fh_measure *out)            \
    {                                                                                              \
        return tags_measure(&self->tags, out);                                                     \
    }                                                                                              \
    int fh_##manager##_walk(const struct fh_##manager *self,                                       \
                            int (*visit)(void *context, const struct fh_block *block),             \
                            void *context)                                                         \
    {                                                                                              \
        return tags_walk(&self->tags, visit, context);                                             \
    }                                                                                              \
    int fh_##manager##_check(const struct fh_##manager *self)                                      \
    {                                                                                              \
        return tags_check(&self->tags, index);                                                     \
    }

#endif
