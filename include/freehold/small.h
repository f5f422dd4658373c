/*
 * small.h: a buffer on the stack while that is enough, in an allocator when it is not.
 *
 * For scratch arrays whose length is usually small and sometimes anything: paths, vectors of descriptors,
 * rows of a matrix. The buffer ends with its scope, however that is left (return, break, a C++
 * exception; not longjmp). Do not use it for what outlives the function, and not for large `on_stack`: that
 * much stack is taken each time.
 *
 *     FH_SMALL_BUFFER(points, struct point, 32, count, &allocator);
 *     if (points == NULL)
 *         return -ENOMEM;
 *     for (size_t i = 0; i < count; i++)
 *         points[i] = project(source[i]);
 *
 * Everything is in this header and freestanding.
 */
#ifndef FREEHOLD_SMALL_H
#define FREEHOLD_SMALL_H

#include "freehold/allocator.h"
#include "freehold/types.h"

FH_BEGIN_DECLS

/* Bytes, their alignment, and who is to have them back; the stack's have allocator.ops NULL. */
struct fh_small_buffer {
    void *memory;
    size_t bytes, align;
    struct fh_allocator allocator;
};

/* `count` elements of `size`: at `stack` when that has room for so many, else of the allocator. memory NULL and
 * ENOMEM when the product does not fit a size_t, when there is no memory, or no allocator (NULL) to ask. */
static inline struct fh_small_buffer fh_small_buffer_begin(void *stack, size_t on_stack,
                                                           size_t count, size_t size, size_t align,
                                                           const struct fh_allocator *allocator)
{
    struct fh_small_buffer buffer = {stack, 0, align, {NULL, NULL}};
    if (__builtin_expect(count <= on_stack, 1))
        return buffer;
    buffer.memory = NULL;
    if (__builtin_mul_overflow(count, size, &buffer.bytes))
        buffer.bytes = SIZE_MAX; /* no manager has that: its failure sets errno */
    if (allocator != NULL)
        buffer.memory = fh_alloc_aligned(allocator, buffer.bytes, align < 16 ? 0 : align);
    if (buffer.memory != NULL)
        buffer.allocator = *allocator;
    return buffer;
}

static inline void fh_small_buffer_end(struct fh_small_buffer *buffer)
{
    if (buffer->allocator.ops != NULL)
        fh_free_sized(&buffer->allocator, buffer->memory, buffer->bytes,
                      buffer->align < 16 ? 0 : buffer->align);
}

/* Declares `type *const name`, an array of `count` elements: on the stack while count <= on_stack (a
 * constant), else of `allocator` (a pointer, or NULL: then more than on_stack is NULL). name is NULL and
 * errno ENOMEM when that fails. The content is undefined. A declaration, not an expression: it can't stand
 * behind an if without braces. Over an arena the memory goes back when nothing was allocated after it. */
#define FH_SMALL_BUFFER(name, type, on_stack, count, allocator)                                    \
    type name##_on_stack[on_stack];                                                                \
    __attribute__((cleanup(fh_small_buffer_end))) struct fh_small_buffer name##_buffer =           \
        fh_small_buffer_begin(name##_on_stack, (on_stack), (count), sizeof(type),                  \
                              __alignof__(type), (allocator));                                     \
    type *const name = (type *)name##_buffer.memory

FH_END_DECLS
#endif
