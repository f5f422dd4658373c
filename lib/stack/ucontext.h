/*
 * stack/ucontext: the registers that the kernel saves for a signal handler (and getcontext for its
 * caller).
 */
#ifndef FH_STACK_UCONTEXT_H
#define FH_STACK_UCONTEXT_H

#include "stack/cfi.h"

/*
 * ucontext_t of x86-64: after 40 bytes (flags, link, signal stack) the general registers in the
 * order r8 … r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip. Spelled out here, because
 * sys/ucontext.h needs _GNU_SOURCE.
 */
enum {
    FH_UCONTEXT_REGISTERS = 40,
    FH_UCONTEXT_COUNT = 17,
    FH_UCONTEXT_BYTES = FH_UCONTEXT_REGISTERS + FH_UCONTEXT_COUNT * 8,
    FH_UCONTEXT_RBP = 10,
    FH_UCONTEXT_RSP = 15,
    FH_UCONTEXT_RIP = 16,
};

__attribute__((no_sanitize("address", "thread"))) FH_INLINE uint64_t
fh_ucontext_register(const void *ucontext, unsigned index)
{
    return ((const volatile uint64_t *)((uintptr_t)ucontext + FH_UCONTEXT_REGISTERS))[index];
}

/* All of them by their DWARF numbers; the return address's place gets rip. */
FH_INLINE void fh_ucontext_registers(const void *ucontext, uint64_t registers[FH_CFI_COLUMNS])
{
    /* DWARF's order: rax rdx rcx rbx rsi rdi rbp rsp r8 … r15 rip */
    static const uint8_t saved_as[FH_CFI_COLUMNS] = {13, 12, 14, 11, 9, 8, 10, 15, 0,
                                                     1,  2,  3,  4,  5, 6, 7,  16};
    for (unsigned i = 0; i < FH_CFI_COLUMNS; i++)
        registers[i] = fh_ucontext_register(ucontext, saved_as[i]);
}

#endif
