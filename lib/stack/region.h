/*
 * stack/region: which addresses around a stack pointer may be read.
 *
 * A walk over a damaged stack must end, not fault, so each word it reads lies inside a region that
 * is known to be readable. pthread_getattr_np would tell, but allocates and reads files. Here, in
 * the order of cost:
 *   1. the cache's regions, when they are this thread's and hold the stack pointer (two compares);
 *   2. a thread of glibc's: its control block (struct pthread) lies at the top of its stack and
 * holds the stack's base and size in adjacent words, which are recognised by what they must
 * satisfy;
 *   3. the first thread: below __libc_stack_end, if no further than the kernel's gap lets nothing
 * else be;
 *   4. any other stack (alternate signal stacks, coroutines, helper clones): the mapping in
 * /proc/self/maps. 2 and 3 make no system call, so they work under seccomp filters too.
 */
#ifndef FH_STACK_REGION_H
#define FH_STACK_REGION_H

#include "stack/stack.h"

/* The region that holds sp, from the cache or found and put there. cache may be NULL. When nothing
 * is known the region is empty: low = high = sp. */
struct fh_stack_region fh_stack_region_of(struct fh_stack_cache *cache, uintptr_t sp);

/* The same found anew when the region was remembered from the mappings, which may have changed
 * since: a coroutine's stack may lie where another's ended. */
struct fh_stack_region fh_stack_region_again(struct fh_stack_cache *cache, uintptr_t sp);

/* The region of the calling thread's own stack, when sp lies on it: ways 2 and 3. */
FH_PUBLIC bool fh_stack_region_own(uintptr_t sp, struct fh_stack_region *region);

/* Reads a word of a stack. Not for the sanitizers' eyes: other frames are read on purpose. */
__attribute__((no_sanitize("address", "thread"))) FH_INLINE uintptr_t fh_stack_load(uintptr_t addr)
{
    return *(const volatile uintptr_t *)addr;
}

#endif
