/*
 * arena.h: blocks that die together, one behind the other.
 *
 * Use it for what a request, a frame, a file being parsed leaves behind: allocation is an addition
 * (fh_arena_alloc is inline, 9 instructions, 7 for a constant size), and one call frees everything, or
 * everything since a mark. Do not use it for blocks that are freed singly and in any order: their memory
 * comes back at reset only (FH_ALLOCATOR_NO_FREE), though the last block can be freed and resized in
 * place, so a stack of blocks or one growing string costs nothing.
 *
 *     struct fh_arena arena;
 *     fh_arena_init(&arena, NULL);                       // the system's memory; see place.h for others
 *     struct node *node = fh_arena_new(&arena, struct node);
 *     struct fh_arena_mark mark = fh_arena_mark(&arena);
 *     char *path = fh_arena_printf(&arena, "%s/%s", folder, name);
 *     fh_arena_rewind(&arena, mark);                     // path is gone, node is not
 *     fh_arena_destroy(&arena);
 *
 * Two kinds, by the options. Over a buffer or a source (the default) the arena is one contiguous range
 * that grows at its end and is relocatable: all it knows lies in the range, as offsets. Over a parent
 * allocator it is a chain of chunks, each twice as large as the one before.
 *
 * Blocks have no header: resize needs the old size (FH_ALLOCATOR_NEEDS_SIZE), and a walk shows what is
 * handed out of a chunk as one live block. Every block takes its size rounded up to 16 bytes. Under
 * AddressSanitizer and valgrind there is a red zone of 16 bytes behind each block, and what was rewound
 * may not be touched. Not thread-safe; for a thread's own arenas see scratch.h.
 *
 * Sources: Hanson, Fast allocation and deallocation of memory based on object lifetimes, Software:
 * Practice and Experience 20(1), 1990; marks as in Pascal's mark and release.
 */
#ifndef FREEHOLD_ARENA_H
#define FREEHOLD_ARENA_H

#include "freehold/allocator.h"
#include "freehold/place.h"
#include "freehold/types.h"

#ifndef FH_FREESTANDING
#include <stdarg.h>
#endif

FH_BEGIN_DECLS

/* A stretch of memory that blocks are cut from; the header lies at its beginning and so do the offsets
 * count. */
struct fh_arena_chunk {
    size_t used;       /* where the next block begins; a multiple of 16 */
    size_t limit;      /* where the fast path must stop: used <= limit <= bytes */
    size_t bytes;      /* of the chunk, the header included */
    uint32_t align;    /* of the one range: the largest alignment asked for, when above 16 */
    uint32_t base_low; /* then: the low bits of its address */
    struct fh_arena_chunk *next; /* in the list that it is in; NULL in the one range */
} __attribute__((aligned(16)));

struct fh_arena {
    struct fh_arena_chunk *chunk;  /* blocks are cut from it; full ones follow */
    struct fh_arena_chunk *large;  /* chunks of one oversized block, the latest first */
    struct fh_arena_chunk *spare;  /* empty, kept by reset and rewind */
    struct fh_arena_chunk nothing; /* stands in while there is no chunk */
    struct fh_ground ground;       /* the one range, or the parent */
    size_t chunk_bytes;            /* of the next chunk */
    size_t chunk_max;
    uint32_t align;     /* the largest alignment asked for */
    bool is_contiguous; /* the one range */
    bool is_watched;    /* poisoned: each call takes the slow path */
};

struct fh_arena_options {
    struct fh_place_options place;
    /* Over a parent: bytes of the first chunk, 4096 when 0. Each further one is twice as large, up to
     * chunk_max, 1 MiB when 0. Both with the headers, and rounded up to powers of two, which parents
     * with size classes and pages like best. */
    size_t chunk;
    size_t chunk_max;
};

/* What was allocated before it and after it are told apart by a mark. */
struct fh_arena_mark {
    struct fh_arena_chunk *chunk;
    struct fh_arena_chunk *large;
    size_t used;
};

/* Takes nothing from a parent yet. 0; -EINVAL (a buffer too small for one block, chunk over chunk_max), -ENOMEM;
 * options NULL: the system's memory. O(1). */
FH_API int fh_arena_init(struct fh_arena *arena, const struct fh_arena_options *options);
/* Over memory in which another handle's contiguous arena lies, moved or mapped here: `bytes` is how much of
 * it is there (at least what was in use). It can't grow. 0; -EINVAL when that is not what lies there, or
 * its blocks would lose the alignment they were given. O(1). */
FH_API int fh_arena_attach(struct fh_arena *arena, void *memory, size_t bytes);

/* `size` bytes, at least 1, aligned to `align`, when the chunk at hand does not have them. */
FH_API void *fh_arena_alloc_slow(struct fh_arena *arena, size_t size, size_t align);

/* `size` bytes aligned to 16. NULL and ENOMEM when there is no memory. Inline: size 0, which must have a block
 * of its own, and a full chunk are the slow path's, and so is everything while memory is watched. */
static inline __attribute__((always_inline, warn_unused_result)) void *
fh_arena_alloc(struct fh_arena *arena, size_t size)
{
    struct fh_arena_chunk *chunk = arena->chunk;
    size_t used = chunk->used;
    /* size - 1: 0 becomes the largest number and does not fit. What fits can be rounded up without
     * overflow and still fits, because both ends are multiples of 16. */
    if (__builtin_expect(size - 1 >= chunk->limit - used, 0))
        return fh_arena_alloc_slow(arena, size, FH_ALIGN_DEFAULT);
    chunk->used = used + ((size - 1) | (FH_ALIGN_DEFAULT - 1)) + 1;
    return __builtin_assume_aligned((unsigned char *)chunk + used, FH_ALIGN_DEFAULT);
}

/* align: a power of two up to 2 GiB, or 0 for 16 (else EINVAL); flags of enum fh_alloc_flags. */
FH_API void *fh_arena_alloc_with(struct fh_arena *arena, size_t size, size_t align, unsigned flags)
    FH_ALLOC_SIZE(2);

/* As fh_arena_alloc_with; quick where `align` is a constant up to 16. */
static inline __attribute__((always_inline, warn_unused_result)) void *
fh_arena_alloc_aligned(struct fh_arena *arena, size_t size, size_t align)
{
    if (__builtin_constant_p(align) && (align == 0 || align == 1 || align == 2 || align == 4 ||
                                        align == 8 || align == FH_ALIGN_DEFAULT))
        return fh_arena_alloc(arena, size);
    return fh_arena_alloc_with(arena, size, align, 0);
}

/* The bytes read as zero. */
static inline __attribute__((always_inline, warn_unused_result)) void *
fh_arena_alloc_zeroed(struct fh_arena *arena, size_t size)
{
    void *block = fh_arena_alloc(arena, size);
    if (block != NULL)
        __builtin_memset(block, 0, size);
    return block;
}

/* count × size bytes; NULL and ENOMEM when that is no size_t. */
static inline __attribute__((always_inline, warn_unused_result)) void *
fh_arena_alloc_array(struct fh_arena *arena, size_t count, size_t size, size_t align)
{
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes))
        bytes = SIZE_MAX; /* no arena has that: its failure sets errno */
    return fh_arena_alloc_aligned(arena, bytes, align);
}

/* A T, or an array of them, aligned as T wants it; the content is whatever was there. */
#define fh_arena_new(arena, T) ((T *)fh_arena_alloc_aligned((arena), sizeof(T), __alignof__(T)))
#define fh_arena_new_array(arena, T, count)                                                        \
    ((T *)fh_arena_alloc_array((arena), (count), sizeof(T), __alignof__(T)))

/* A copy of `size` bytes. */
static inline __attribute__((warn_unused_result)) void *fh_arena_dup(struct fh_arena *arena,
                                                                     const void *bytes, size_t size)
{
    void *block = fh_arena_alloc(arena, size);
    if (block != NULL)
        __builtin_memcpy(block, bytes, size);
    return block;
}

#ifndef FH_FREESTANDING
/* Copies of strings: the whole, or its first `max` bytes, terminated; and a text as printf would print it,
 * formatted once, straight into the arena, where the chunk has room. NULL and ENOMEM, or what vsnprintf set. */
FH_API char *fh_arena_strdup(struct fh_arena *arena, const char *text);
FH_API char *fh_arena_strndup(struct fh_arena *arena, const char *text, size_t max);
FH_API char *fh_arena_printf(struct fh_arena *arena, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
FH_API char *fh_arena_vprintf(struct fh_arena *arena, const char *format, va_list args)
    __attribute__((format(printf, 2, 0)));
#endif

/* As allocator.h's. The last block grows and shrinks where it is, O(1); another moves when it grows. With
 * old_size 0 (not known) all that follows the block in its chunk is copied along, as far as new_size
 * reaches. */
FH_API void *fh_arena_resize(struct fh_arena *arena, void *block, size_t old_size, size_t new_size,
                             size_t align);
FH_API bool fh_arena_resize_in_place(struct fh_arena *arena, void *block, size_t old_size,
                                     size_t new_size);
/* Nothing but a check: an address that is no block's of the arena is reported (invalid-free, interior-free off
 * the steps of 16, double-free in what was given back). O(chunks), O(1) for the latest two. */
FH_API void fh_arena_free(struct fh_arena *arena, void *block);
/* The last block goes back; with the next call the one before it. `size` as asked for. */
FH_API void fh_arena_free_sized(struct fh_arena *arena, void *block, size_t size, size_t align);
/* Whether the address lies in a chunk. O(chunks). */
FH_API bool fh_arena_owns(const struct fh_arena *arena, const void *address);

/* Where the arena is now. O(1); takes no memory; needs no end. */
static inline struct fh_arena_mark fh_arena_mark(const struct fh_arena *arena)
{
    struct fh_arena_mark mark = {arena->chunk, arena->large, arena->chunk->used};
    return mark;
}
/* Frees everything allocated after the mark; the chunks are kept. A mark that does not hold any more (the
 * arena was rewound past it, or reset) is reported as invalid-free. Marks of a contiguous arena survive its
 * relocation. O(chunks since the mark). */
FH_API void fh_arena_rewind(struct fh_arena *arena, struct fh_arena_mark mark);
/* Frees everything; memory is kept for what comes: an arena that is reset again and again soon takes no more
 * from its parent. O(chunks). */
FH_API void fh_arena_reset(struct fh_arena *arena);
/* Gives back what is not in use but for `keep` bytes: spare chunks to the parent, pages behind the last block to
 * the source. Returns the bytes given back. O(spare chunks). */
FH_API size_t fh_arena_trim(struct fh_arena *arena, size_t keep);
/* Gives everything back; the handle may be opened again. */
FH_API void fh_arena_destroy(struct fh_arena *arena);

/* As in allocator.h. O(chunks). */
FH_API int fh_arena_measure(const struct fh_arena *arena, struct fh_measure *out);
FH_API int fh_arena_walk(const struct fh_arena *arena,
                         int (*visit)(void *context, const struct fh_block *block), void *context);
FH_API int fh_arena_check(const struct fh_arena *arena);
FH_API struct fh_allocator fh_arena_allocator(struct fh_arena *arena);

FH_END_DECLS
#endif
