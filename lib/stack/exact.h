/*
 * stack/exact: the walk that follows every register.
 *
 * The quick walk (walk.c) carries the stack and frame pointers only. A few functions need more: the
 * dynamic loader's resolver keeps its frame in rbx, hand-written code computes it by expressions.
 * When the quick walk meets one it starts over here: all registers are followed by executing
 * .eh_frame for each frame, from a place where they are known: a ucontext, or here and now,
 * unwinding our own functions first. Microseconds a frame, and rarely needed: it is counted.
 */
#ifndef FH_STACK_EXACT_H
#define FH_STACK_EXACT_H

#include "stack/cfi.h"
#include "stack/stack.h"

/* Where to write frames; shared by both walks. */
struct fh_stack_output {
    uintptr_t *frames;
    size_t max, skip;
};

/* From the registers of a ucontext. */
size_t fh_stack_exact_from(struct fh_stack_cache *cache, const void *ucontext,
                           const struct fh_stack_output *out);
/* From here; frames count from the one whose stack pointer is `sp` on (our callers' frame). */
size_t fh_stack_exact(struct fh_stack_cache *cache, uintptr_t sp,
                      const struct fh_stack_output *out);

#endif
