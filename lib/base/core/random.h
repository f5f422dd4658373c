/*
 * Random numbers for placement and sampling: a 64-bit xorshift* generator (Vigna 2016) per holder,
 * seeded by os/ from the kernel. Not for secrets: fh_os_random() is.
 */
#ifndef FH_BASE_RANDOM_H
#define FH_BASE_RANDOM_H

#include "base/core/macros.h"

struct fh_random {
    uint64_t state; /* never 0 */
};

FH_INLINE void fh_random_seed(struct fh_random *random, uint64_t seed)
{
    random->state = seed != 0 ? seed : 0x9e3779b97f4a7c15u;
}

FH_INLINE uint64_t fh_random_next(struct fh_random *random)
{
    uint64_t x = random->state;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    random->state = x;
    return x * 0x2545f4914f6cdd1du;
}

/* A number in [0, bound); bound must not be 0 (Lemire 2019, without the rejection step: bias <
 * bound/2^32). */
FH_INLINE uint32_t fh_random_below(struct fh_random *random, uint32_t bound)
{
    return (uint32_t)(((fh_random_next(random) >> 32) * bound) >> 32);
}

#endif
