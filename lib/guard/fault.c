/* placeholder */
#define _GNU_SOURCE
#include "guard/fault.h"
#include "freehold/allocator.h"
#include "guard/guard.h"
#include "heap/heap.h"
#include <ucontext.h>

void fh_fault_place(const void *context, uintptr_t *pc, uintptr_t *sp, uintptr_t *fp)
{
    const ucontext_t *at = context;
    *pc = (uintptr_t)at->uc_mcontext.gregs[REG_RIP];
    *sp = (uintptr_t)at->uc_mcontext.gregs[REG_RSP];
    *fp = (uintptr_t)at->uc_mcontext.gregs[REG_RBP];
}
bool fh_fault_is_started(void)
{
    return false;
}
void fh_fault_start(void)
{
}
void fh_fault_thread(void)
{
}
