/*
 * stack/cfi: the reader of .eh_frame.
 *
 * What a compiler writes for C++ exceptions says, for each instruction address, how to find the
 * caller's registers: the *canonical frame address* (CFA: what the stack pointer was before the
 * call) and where each saved register lies relative to it. (DWARF 5 section 6.4; Linux Standard
 * Base 5.0, "Exception Frames".)
 *
 * Three layers, each usable alone:
 *   find    .eh_frame_hdr is a sorted table of functions: a binary search gives the description
 * (FDE) of one; run     its small program is executed row by row: a *row* is a range of addresses
 * with one set of rules; rule    a row is pressed into 32 bits (struct-less, so that it can be
 * copied atomically).
 *
 * Nothing here trusts its input: each byte is read inside the bounds of the image, each count is
 * limited, and a description that cannot be read is absent. The fuzz target eh_frame holds that.
 */
#ifndef FH_STACK_CFI_H
#define FH_STACK_CFI_H

#include "base/core/macros.h"

/* DWARF's numbers of the x86-64 registers; the column of the return address follows them. */
enum {
    FH_CFI_RBX = 3,
    FH_CFI_RBP = 6,
    FH_CFI_RSP = 7,
    FH_CFI_RA = 16,
    FH_CFI_COLUMNS = 17,
};

/* The readable bytes that hold .eh_frame_hdr and .eh_frame, and the sorted table inside them.
 * Addresses are those of the running process. */
struct fh_cfi_image {
    uintptr_t low, high;
    uintptr_t header; /* of .eh_frame_hdr */
    const int32_t
        *table; /* pairs {function, its FDE}, relative to header; NULL: there is no usable table */
    size_t table_len; /* pairs */
};

/* Reads .eh_frame_hdr at `header`; false when it is damaged or has no binary search table that we
 * know. */
bool fh_cfi_open(struct fh_cfi_image *image, uintptr_t low, uintptr_t high, uintptr_t header);

/* A function's description, its shared part (CIE) included. */
struct fh_cfi_function {
    uintptr_t begin, end;
    uint64_t code_align;
    int64_t data_align;
    bool is_signal_frame;
    uint8_t pointer_encoding;
    const uint8_t *common, *common_end; /* the CIE's instructions */
    const uint8_t *own, *own_end;       /* the FDE's */
};

/* The index of the last table pair whose function begins at or below pc; table_len when there is
 * none. */
size_t fh_cfi_search(const struct fh_cfi_image *image, uintptr_t pc);
/* Reads the description that table pair `index` points to. */
bool fh_cfi_function_at(const struct fh_cfi_image *image, size_t index, struct fh_cfi_function *fn);
/* The description that covers pc. */
bool fh_cfi_find(const struct fh_cfi_image *image, uintptr_t pc, struct fh_cfi_function *fn);

enum fh_cfi_how {
    FH_CFI_SAME,        /* the caller's value is the register's own */
    FH_CFI_UNDEFINED,   /* lost; of the return address: this is the outermost frame */
    FH_CFI_AT_OFFSET,   /* saved at CFA + value */
    FH_CFI_IS_OFFSET,   /* is CFA + value */
    FH_CFI_IN_REGISTER, /* is in register `value` */
    FH_CFI_AT_EXPR,     /* saved at the address that the expression computes */
    FH_CFI_IS_EXPR,     /* is what the expression computes */
};

struct fh_cfi_column {
    enum fh_cfi_how how;
    uint32_t expr_len;
    union {
        int64_t value;
        const uint8_t *expr;
    };
};

/* One row. The CFA is register + offset, or (expr not NULL) what an expression computes. */
struct fh_cfi_row {
    uintptr_t begin, end;
    unsigned cfa_register;
    int64_t cfa_offset;
    const uint8_t *cfa_expr;
    uint32_t cfa_expr_len;
    struct fh_cfi_column columns[FH_CFI_COLUMNS];
};

enum { FH_CFI_REMEMBERED = 4 }; /* DW_CFA_remember_state nests one deep in what compilers write */

struct fh_cfi_run {
    const struct fh_cfi_function *fn;
    const uint8_t *at;
    struct fh_cfi_row row;
    struct fh_cfi_row initial;
    struct fh_cfi_row remembered[FH_CFI_REMEMBERED];
    unsigned remembered_len;
    bool is_done, is_damaged;
};

/* Runs a function's program: start, then next until it returns false; run->row is the current row.
 * A damaged program ends early with is_damaged. */
void fh_cfi_start(struct fh_cfi_run *run, const struct fh_cfi_function *fn);
bool fh_cfi_next(struct fh_cfi_run *run);

/*
 * The compact rule: bits 0–2 kind; bits 3–10 `slot`: the caller's rbp lies at CFA − 8·slot (0: rbp
 * is the caller's); bits 11–31: an offset in units of 8 bytes. The return address always lies at
 * CFA − 8. Over 99.9 % of the rows that gcc and clang write are FH_RULE_RSP or FH_RULE_RBP.
 */
enum fh_rule_kind {
    FH_RULE_NONE,      /* no description: only a frame pointer can lead on, and must prove itself */
    FH_RULE_RSP,       /* CFA = rsp + offset */
    FH_RULE_RBP,       /* CFA = rbp + offset */
    FH_RULE_RBP_DEREF, /* CFA = *(rbp − offset), caller's rbp = *rbp: gcc's realigned frames */
    FH_RULE_PLT,       /* CFA = rsp + 8, + 8 when (pc & 15) ≥ offset: the linker's lazy stubs */
    FH_RULE_SIGNAL,    /* the kernel's signal frame: a ucontext lies at rsp */
    FH_RULE_END,       /* the outermost frame of its thread */
    FH_RULE_EXACT,     /* none of these: every register must be followed (stack/exact) */
};

FH_INLINE enum fh_rule_kind fh_rule_kind(uint32_t rule)
{
    return (enum fh_rule_kind)(rule & 7);
}

FH_INLINE size_t fh_rule_slot(uint32_t rule)
{
    return rule >> 3 & 255;
}

/* In bytes. */
FH_INLINE size_t fh_rule_offset(uint32_t rule)
{
    return (size_t)(rule >> 11) * 8;
}

#define FH_RULE(kind, slot, offset)                                                                \
    ((uint32_t)(kind) | (uint32_t)(slot) << 3 | (uint32_t)((offset) / 8) << 11)

/* What `push %rbp; mov %rsp,%rbp` leaves: the frame pointer's rule. */
#define FH_RULE_FRAME_POINTER FH_RULE(FH_RULE_RBP, 2, 16)

uint32_t fh_cfi_rule(const struct fh_cfi_row *row, bool is_signal_frame);
/* Resolves FH_RULE_PLT for one address; other rules are returned as they are. */
uint32_t fh_cfi_rule_at(uint32_t rule, uintptr_t pc);

/*
 * Evaluates a DWARF expression. `push` is put on the stack first when it is not NULL (the CFA, for
 * columns). Memory is read only inside [low, high). False when it cannot be evaluated.
 */
struct fh_cfi_machine {
    uint64_t registers[FH_CFI_COLUMNS];
    uintptr_t low, high;
};
bool fh_cfi_evaluate(const struct fh_cfi_machine *machine, const uint8_t *expr, size_t len,
                     const uint64_t *push, uint64_t *result);

#endif
