/*
 * pointer_tag.h: small numbers in the unused bits of pointers, and Arm's memory tags (MTE), by which the
 * processor itself checks that a pointer and the memory that it leads to have the same number.
 *
 * Software tags are for data structures: the generation of an object beside its address (an old handle is
 * told from a new one), the counter that keeps a lock-free list from mistaking one state for
 * another, a type. Do not use them as a protection by themselves: nothing checks them but your code, and do not
 * give a tagged pointer to anybody else (libraries, system calls, free).
 *
 *     struct node *handle = fh_tag(node, node->generation);
 *     ...
 *     struct node *node = fh_untag(handle);
 *     if (fh_tag_of(handle) != node->generation % FH_TAGS)
 *         return stale();
 *
 * Always untag before use: that costs one instruction. On aarch64 the processor ignores the bits in any case; on
 * x86-64 it may where the kernel grants Linear Address Masking (fh_tags_ignore asks for it), which few
 * machines have.
 *
 * Memory tags are a protection. Every 16 bytes have a colour of four bits, kept apart from the memory, and an
 * access through a pointer of another colour ends in SIGSEGV at that instruction (si_code SEGV_MTESERR), whichever
 * code does it. An allocator colours its blocks:
 *
 *     fh_mte_start();                                        // at the beginning of main
 *     fh_mte_prepare(memory, bytes);                         // once
 *     struct fh_mte_range range = {memory, memory + bytes};
 *     block = fh_mte_colour(&range, block, size);            // when it is handed out first,
 *     fh_mte_colour(&range, block, size);                    // and when it is freed
 *     block = fh_mte_pointer(block);                         // handed out again
 *
 * fh_mte_colour draws a colour that neither the block has had before it nor a neighbour has. So an overflow into an
 * adjacent block is always caught, and so is a use after free until the block has been freed once
 * more; any other wrong pointer with probability 14/15. Overflows within the last 16 bytes of a
 * block are not seen (fill them with a canary). The memory must be private and anonymous. Where there
 * is no MTE (every x86-64), these functions say so and give pointers back as they are.
 *
 * Sources: Arm Architecture Reference Manual for A-profile, D8 (address tagging), D10 (MTE); Intel, Linear Address
 * Masking; Serebryany et al., Memory Tagging and how it improves C/C++ memory safety, 2018.
 */
#ifndef FREEHOLD_POINTER_TAG_H
#define FREEHOLD_POINTER_TAG_H

#include "freehold/types.h"

FH_BEGIN_DECLS

/* A tag is a number below FH_TAGS: at least 16. x86-64: the bits that LAM_U57 ignores; aarch64: the upper half of the
 * byte that is ignored, so that software tags and colours stay apart. */
#if defined(__aarch64__)
#define FH_TAG_BITS  4
#define FH_TAG_SHIFT 60
#else
#define FH_TAG_BITS  6
#define FH_TAG_SHIFT 57
#endif
#define FH_TAGS     (1u << FH_TAG_BITS)
#define FH_TAG_MASK ((uintptr_t)(FH_TAGS - 1) << FH_TAG_SHIFT)

/* The same address, with this tag (its low FH_TAG_BITS bits) in place of any that it had. */
static inline void *fh_tag(const void *pointer, unsigned tag)
{
    return (void *)(((uintptr_t)pointer & ~FH_TAG_MASK) | (uintptr_t)(tag % FH_TAGS)
                                                              << FH_TAG_SHIFT);
}

/* The pointer as it was before it was tagged; NULL stays NULL whatever its tag was. */
static inline void *fh_untag(const void *pointer)
{
    return (void *)((uintptr_t)pointer & ~FH_TAG_MASK);
}

/* 0 for a pointer that was never tagged. */
static inline unsigned fh_tag_of(const void *pointer)
{
    return (unsigned)(((uintptr_t)pointer & FH_TAG_MASK) >> FH_TAG_SHIFT);
}

/* The same address with the next tag; after the last comes 0. */
static inline void *fh_retag(const void *pointer)
{
    return fh_tag(pointer, fh_tag_of(pointer) + 1);
}

/* Asks that the processor ignore tags from now on, for the whole process; call it before there are
 * threads. 0: tagged pointers may be dereferenced without fh_untag; -ENOTSUP: they may not (the processor or the
 * kernel does not offer it). System calls still want untagged ones. */
FH_API int fh_tags_ignore(void);

/* ---- Arm's memory tags ----------------------------------------------------------------------- */

#define FH_MTE_GRANULE ((size_t)16)

/* The memory that blocks are cut from: what lies outside has no colour to differ from. */
struct fh_mte_range {
    unsigned char *low, *high; /* uncoloured pointers */
};

/* Checks accesses of the calling thread, and of threads that it makes from now on, at once (synchronously). 0;
 * -ENOTSUP where there is no MTE. */
FH_API int fh_mte_start(void);
/* Whether the calling thread's accesses are checked. O(1), a system call. */
FH_API bool fh_mte_is_on(void);
/* Gives readable and writable pages of private anonymous memory colours, 0 at first, which matches pointers that
 * were never coloured. memory and bytes are multiples of the page size. 0; -ENOTSUP, -EINVAL, -ENOMEM. */
FH_API int fh_mte_prepare(void *memory, size_t bytes);

/* Draws a new colour for a block and gives a pointer of it. `block` may have any colour; its address is
 * a multiple of 16, and `size` is rounded up to one. The colour is none of 0, the block's until now, and those of
 * the 16 bytes before and behind it, as far as they lie in the range. Contents stay. The caller has the
 * block and its neighbours' boundaries to itself (the allocator's lock). O(size). */
FH_API void *fh_mte_colour(const struct fh_mte_range *range, void *block, size_t size);
/* The pointer to `block` that has the colour of its memory. */
FH_API void *fh_mte_pointer(const void *block);
/* The address without colour (and tag): what may be compared with others. */
static inline void *fh_mte_plain(const void *pointer)
{
#if defined(__aarch64__)
    return (void *)((uintptr_t)pointer & (((uintptr_t)1 << 56) - 1));
#else
    return fh_untag(pointer);
#endif
}

FH_END_DECLS
#endif
