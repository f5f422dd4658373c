/*
 * report_stack.h: calls a function on another stack.
 *
 * The frame that switches keeps the old stack pointer in its frame pointer and says so in its call
 * frame information, so that walks, debuggers and a core dump see through it.
 */
#ifndef FH_GUARD_REPORT_STACK_H
#define FH_GUARD_REPORT_STACK_H

#include "base/core/macros.h"

/* run(arg) with the stack pointer at top, which is aligned to 16. */
FH_HIDDEN void fh_call_on_stack(uintptr_t top, void (*run)(void *), void *arg);

#endif
