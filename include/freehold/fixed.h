/*
 * fixed.h: allocation out of static memory, with no system call and no heap, ever.
 *
 * For firmware, real-time tasks, and start-up code: what is needed is taken once, one block behind the
 * other, from a buffer whose size is known when the program is compiled; that what will be taken fits can
 * be asserted then, too. It works before main, in constructors, in signal handlers of one thread, and in
 * programs without libc. Do not use it for blocks that come and go in any order (tlsf.h on the same
 * buffer), nor when the amount is known only at run time (arena.h).
 *
 *     FH_FIXED_DEFINE(boot, 4096);                                       // at file scope
 *     FH_FIXED_ASSERT_FITS(4096, sizeof(struct uart), 64 * sizeof(struct event), 1024);
 *
 *     struct uart *uart = fh_fixed_alloc(&boot, sizeof *uart);
 *     struct event *queue = fh_fixed_alloc_with(&boot, 64 * sizeof *queue, 64, FH_ALLOC_ZEROED);
 *
 * Blocks are taken upwards in steps of 16 bytes. Freeing the last block gives it back, and with
 * fh_fixed_free_sized any number in the reverse order; other blocks stay until reset (FH_ALLOCATOR_NO_FREE).
 * A block has no header, so resize needs the old size (FH_ALLOCATOR_NEEDS_SIZE), and a walk shows what is
 * handed out as one live block. The state lies in the buffer as offsets: it may be copied and attached
 * elsewhere (FH_ALLOCATOR_RELOCATABLE). Every call is O(1) but for zeroing and copying. Not thread-safe.
 */
#ifndef FREEHOLD_FIXED_H
#define FREEHOLD_FIXED_H

#include "freehold/allocator.h"
#include "freehold/place.h"
#include "freehold/types.h"

FH_BEGIN_DECLS

/* Sizes and places in steps of 16 bytes, counted from the first block; 32 bits reach 64 GiB. All zero is a
 * valid state, that of an empty buffer, which is why a static buffer needs no initialisation. */
struct fh_fixed_state {
    uint32_t used;      /* handed out, the gaps of alignments included */
    uint32_t last;      /* where the last block begins, + 1; 0: not known */
    uint32_t peak;      /* the most `used` has been */
    uint32_t align;     /* the largest alignment that was asked for, when above 16 */
    uint32_t base_low;  /* then: the low bits of the buffer's address */
    uint32_t unused[3]; /* the first block lies on a multiple of 16 */
};

struct fh_fixed {
    struct fh_fixed_state *state; /* at the beginning of the memory */
    size_t bytes;                 /* behind the state */
    bool (*exhausted)(void *context, size_t size);
    void *exhausted_context;
};

struct fh_fixed_options {
    struct fh_place_options place; /* only `memory`, `bytes` and `exhausted` */
};

/* Bytes of the budget that a block of `size` takes; the second with an alignment above 16, at worst. */
#define FH_FIXED_TAKES(size)                                                                       \
    (((size_t)(size) + ((size_t)(size) == 0) + (FH_ALIGN_DEFAULT - 1u)) & ~(size_t)15)
#define FH_FIXED_TAKES_ALIGNED(size, align)                                                        \
    (FH_FIXED_TAKES(size) + ((align) > FH_ALIGN_DEFAULT ? (size_t)(align)-FH_ALIGN_DEFAULT : 0))
/* Bytes of memory for a budget: what fh_fixed_init must be given, aligned to 16. */
#define FH_FIXED_BYTES(budget) (FH_FIXED_TAKES(budget) + sizeof(struct fh_fixed_state))

#ifdef __cplusplus
#define FH_FIXED_ASSERT_(claim, text) static_assert(claim, text)
#else
#define FH_FIXED_ASSERT_(claim, text) _Static_assert(claim, text)
#endif

/* Defines, at file scope, `static struct fh_fixed name` that has `budget` bytes to hand out, ready for use
 * before any code has run. The budget is a constant. */
#define FH_FIXED_DEFINE(name, budget)                                                              \
    FH_FIXED_ASSERT_((budget) > 0 && (unsigned long long)(budget) < (1ull << 36),                  \
                     "the budget of " #name " must be between 1 byte and 64 GiB");                 \
    static unsigned char name##_memory[FH_FIXED_BYTES(budget)] __attribute__((aligned(64)));       \
    static struct fh_fixed name = {(struct fh_fixed_state *)(void *)name##_memory,                 \
                                   FH_FIXED_TAKES(budget), NULL, NULL}

/* At file scope: stops the compilation unless blocks of these sizes (constants, up to 16 of them) fit the
 * budget together. For n blocks of a size write n * FH_FIXED_TAKES(size), for alignments above 16
 * FH_FIXED_TAKES_ALIGNED(size, align). */
#define FH_FIXED_ASSERT_FITS(budget, ...)                                                          \
    FH_FIXED_FITS_(budget, __VA_ARGS__, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
#define FH_FIXED_PART_(size) ((size) == 0 ? (size_t)0 : FH_FIXED_TAKES(size))
#define FH_FIXED_FITS_(budget, a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, more, ...)          \
    FH_FIXED_ASSERT_((more) == 0, "more than 16 sizes: add some of them up");                      \
    FH_FIXED_ASSERT_(                                                                              \
        FH_FIXED_PART_(a) + FH_FIXED_PART_(b) + FH_FIXED_PART_(c) + FH_FIXED_PART_(d) +            \
                FH_FIXED_PART_(e) + FH_FIXED_PART_(f) + FH_FIXED_PART_(g) + FH_FIXED_PART_(h) +    \
                FH_FIXED_PART_(i) + FH_FIXED_PART_(j) + FH_FIXED_PART_(k) + FH_FIXED_PART_(l) +    \
                FH_FIXED_PART_(m) + FH_FIXED_PART_(n) + FH_FIXED_PART_(o) + FH_FIXED_PART_(p) <=   \
            FH_FIXED_TAKES(budget),                                                                \
        "these blocks do not fit the budget")

/* Over options->place.memory, whose content does not matter. 0; -EINVAL when it is missing or too small for one
 * block: parents and sources are for managers that grow (arena.h). */
FH_API int fh_fixed_init(struct fh_fixed *fixed, const struct fh_fixed_options *options);
/* Over memory that holds the state and blocks of another handle, moved or mapped here: `bytes` as there.
 * 0; -EINVAL when that is not what it holds, or its blocks would lose the alignment they were given. */
FH_API int fh_fixed_attach(struct fh_fixed *fixed, void *memory, size_t bytes);

/* `size` bytes aligned to 16. NULL and ENOMEM when the budget is spent. */
FH_API void *fh_fixed_alloc(struct fh_fixed *fixed, size_t size) FH_ALLOC_SIZE(2);
/* align: a power of two up to 2 GiB, or 0 for 16 (else EINVAL); flags of enum fh_alloc_flags. */
FH_API void *fh_fixed_alloc_with(struct fh_fixed *fixed, size_t size, size_t align, unsigned flags)
    FH_ALLOC_SIZE(2);
/* The last block goes back; another stays till reset. NULL is nothing. Invalid, interior and second frees
 * are reported where they can be told: outside what is handed out, and off the steps of 16 bytes. */
FH_API void fh_fixed_free(struct fh_fixed *fixed, void *block);
/* The same with the size as it was asked for: also the last but one, once the last is gone. */
FH_API void fh_fixed_free_sized(struct fh_fixed *fixed, void *block, size_t size, size_t align);
/* As allocator.h's. The last block grows and shrinks where it is. old_size 0 is allowed: when the block
 * moves then, all that follows it is copied with it, as far as the new size reaches. */
FH_API void *fh_fixed_resize(struct fh_fixed *fixed, void *block, size_t old_size, size_t new_size,
                             size_t align);
FH_API bool fh_fixed_resize_in_place(struct fh_fixed *fixed, void *block, size_t old_size,
                                     size_t new_size);
/* Whether the address lies in the memory that blocks are handed out of. */
FH_API bool fh_fixed_owns(const struct fh_fixed *fixed, const void *address);
/* Takes all blocks back; the peak stays. */
FH_API void fh_fixed_reset(struct fh_fixed *fixed);
/* Nothing may be allocated any more; the memory is the caller's again. */
FH_API void fh_fixed_destroy(struct fh_fixed *fixed);

/* Bytes of the budget: the most that were taken at once, and those that are left. */
FH_API size_t fh_fixed_peak(const struct fh_fixed *fixed);
FH_API size_t fh_fixed_left(const struct fh_fixed *fixed);

/* As in allocator.h. */
FH_API int fh_fixed_measure(const struct fh_fixed *fixed, struct fh_measure *out);
FH_API int fh_fixed_walk(const struct fh_fixed *fixed,
                         int (*visit)(void *context, const struct fh_block *block), void *context);
FH_API int fh_fixed_check(const struct fh_fixed *fixed);
FH_API struct fh_allocator fh_fixed_allocator(struct fh_fixed *fixed);

FH_END_DECLS
#endif
