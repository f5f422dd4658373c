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

#endif
