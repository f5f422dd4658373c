/*
 * decode.h: what memory an instruction accesses.
 *
 * For reports of faults: the kernel tells the address and, for page faults, whether it was a write; the rest (how
 * many bytes, by which registers, which of two operands) is in the instruction.
 */
#ifndef FH_GUARD_DECODE_H
#define FH_GUARD_DECODE_H

#include "base/core/macros.h"

/* Registers by the processor's numbers: rax rcx rdx rbx rsp rbp rsi rdi r8 … r15, then rip. */
enum {
    FH_REGISTER_RSP = 4,
    FH_REGISTER_RIP = 16,
    FH_REGISTERS = 17,
    FH_NO_REGISTER = 0xff,
};

struct fh_operand {
    uint8_t base, index; /* FH_NO_REGISTER: none */
    uint8_t scale;       /* 1, 2, 4, 8 */
    char segment;        /* 'f', 'g': relative to that segment's base; 0: not */
    bool is_read, is_written;
    bool is_vector; /* the index is a vector register: the address is not known from these alone */
    bool is_short;  /* the address is cut to 32 bits */
    int64_t displacement;
    size_t size; /* bytes; 0: not known */
};

struct fh_instruction {
    unsigned length;
    unsigned count; /* of operands: 0 to 2 */
    struct fh_operand operands[2];
    /* A jump or call to where this register (or the one memory operand) says. */
    bool is_indirect;
    uint8_t target; /* FH_NO_REGISTER: the operand */
};

/* Decodes the x86-64 instruction at code; reads no further than it reaches. False: not a valid one, or none that
 * is known. */
bool fh_decode(const uint8_t *code, struct fh_instruction *out);

/* The first byte of an operand. */
uintptr_t fh_operand_address(const struct fh_operand *operand,
                             const uint64_t registers[FH_REGISTERS], uint64_t fs_base,
                             uint64_t gs_base);
/* "rax" and so on; "?" for no register. */
const char *fh_register_name(unsigned number);

#endif
