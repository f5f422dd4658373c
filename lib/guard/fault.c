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
__attribute__((weak)) bool fh_guard_find(const void *address, struct fh_guard_block *out)
{
    struct fh_block block;
    const struct fh_run *run = fh_pages_find(address, NULL);
    if (run == NULL || run->manager == NULL ||
        !run->manager->resolve(run, (uintptr_t)address, &block))
        return false;
    *out = (struct fh_guard_block){.address = (uintptr_t)block.address,
                                   .requested = block.usable,
                                   .usable = block.usable,
                                   .state = block.is_live ? FH_BLOCK_LIVE : FH_BLOCK_FREED,
                                   .kind = "heap"};
    return true;
}
