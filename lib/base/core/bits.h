/*
 * Bits and integers: rounding, logarithms, overflow-checked arithmetic. `align` is always a power
 * of two.
 */
#ifndef FH_BASE_BITS_H
#define FH_BASE_BITS_H

#include "base/core/macros.h"

FH_INLINE bool fh_is_pow2(size_t x)
{
    return x != 0 && (x & (x - 1)) == 0;
}

FH_INLINE size_t fh_align_down(size_t x, size_t align)
{
    return x & ~(align - 1);
}

/* Wraps past SIZE_MAX; use fh_align_up_checked for sizes that come from a caller. */
FH_INLINE size_t fh_align_up(size_t x, size_t align)
{
    return (x + (align - 1)) & ~(align - 1);
}

FH_INLINE bool fh_align_up_checked(size_t x, size_t align, size_t *out)
{
    return !__builtin_add_overflow(x, align - 1, out) && ((*out &= ~(align - 1)), true);
}

/* Floor of the binary logarithm; x must not be 0. */
FH_INLINE unsigned fh_log2(size_t x)
{
    return (unsigned)(63 - __builtin_clzll(x));
}

FH_INLINE size_t fh_pow2_ceil(size_t x)
{
    return x <= 1 ? 1 : (size_t)1 << (fh_log2(x - 1) + 1);
}

/* Ones in a word; without a call of the compiler's library, which a freestanding program has not. */
FH_INLINE size_t fh_popcount(uint64_t x)
{
    x -= x >> 1 & 0x5555555555555555u;
    x = (x & 0x3333333333333333u) + (x >> 2 & 0x3333333333333333u);
    x = (x + (x >> 4)) & 0x0f0f0f0f0f0f0f0fu;
    return (size_t)(x * 0x0101010101010101u >> 56);
}

FH_INLINE size_t fh_min(size_t a, size_t b)
{
    return a < b ? a : b;
}

FH_INLINE size_t fh_max(size_t a, size_t b)
{
    return a > b ? a : b;
}

#endif
