/*
 * fault.h: what others ask of the fault handler; see fault.c.
 */
#ifndef FH_GUARD_FAULT_H
#define FH_GUARD_FAULT_H

#include "base/core/bits.h"
#include "freehold/types.h"

#include <signal.h>
#include <stdatomic.h>

/* The signals that are ours once it has been started; bit n - 1. */
#define FH_FAULT_SIGNALS ((uint64_t)1 << (SIGSEGV - 1) | (uint64_t)1 << (SIGBUS - 1))

/* Instruction, stack and frame pointer that a signal interrupted. */
void fh_fault_place(const void *context, uintptr_t *pc, uintptr_t *sp, uintptr_t *fp);
bool fh_fault_is_started(void);

/* For the entry points: sigaction(2) of the program. Of the signals that are ours it is kept here, and the kernel hears
 * nothing. */
FH_API int fh_fault_sigaction(int number, const struct sigaction *action, struct sigaction *old);
/* sigaltstack(2) of the program: stack_t, either may be NULL. */
FH_API int fh_fault_sigaltstack(const void *stack, void *before);

#endif
