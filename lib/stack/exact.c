/* The walk that follows every register: see exact.h for when and from where. */
#include "stack/exact.h"

#include "stack/module.h"
#include "stack/region.h"
#include "stack/root.h"
#include "stack/ucontext.h"

enum { STEPS_MAX = 100000 };

/* A frame with all that is known of its registers. registers[FH_CFI_RA] is the address of the
 * instruction that runs next (the return address, but in the innermost frame and below signal
 * frames). */
struct exact_frame {
    struct fh_cfi_machine machine;
    bool
        is_interrupted; /* that address is where an instruction was interrupted, not after a call */
};

static uintptr_t pc_of(const struct exact_frame *frame)
{
    return frame->machine.registers[FH_CFI_RA];
}

/* Remembered regions of other stacks may be out of date; this walk is rare enough to ask again. */
static struct fh_stack_region region_of(struct fh_stack_cache *cache, uintptr_t sp)
{
    return fh_stack_region_of(cache != NULL && cache->is_bounded ? cache : NULL, sp);
}

static bool load_word(const struct fh_cfi_machine *machine, uintptr_t addr, uint64_t *value)
{
    if (addr % sizeof(*value) != 0 || addr < machine->low || addr >= machine->high ||
        machine->high - addr < sizeof(*value))
        return false;
    *value = fh_stack_load(addr);
    return true;
}

static bool column_value(const struct fh_cfi_machine *machine, const struct fh_cfi_column *column,
                         unsigned index, uint64_t cfa, uint64_t *value)
{
    switch (column->how) {
    case FH_CFI_SAME:
    case FH_CFI_UNDEFINED:
        *value = machine->registers[index];
        return true;
    case FH_CFI_AT_OFFSET:
        return load_word(machine, cfa + (uint64_t)column->value, value);
    case FH_CFI_IS_OFFSET:
        *value = cfa + (uint64_t)column->value;
        return true;
    case FH_CFI_IN_REGISTER:
        if ((uint64_t)column->value >= FH_CFI_COLUMNS)
            return false;
        *value = machine->registers[column->value];
        return true;
    case FH_CFI_AT_EXPR:
        return fh_cfi_evaluate(machine, column->expr, column->expr_len, &cfa, value) &&
               load_word(machine, *value, value);
    case FH_CFI_IS_EXPR:
        return fh_cfi_evaluate(machine, column->expr, column->expr_len, &cfa, value);
    }
    return false;
}

static bool step_row(struct exact_frame *frame, const struct fh_cfi_row *row)
{
    struct fh_cfi_machine *machine = &frame->machine;
    uint64_t cfa, values[FH_CFI_COLUMNS];
    if (row->columns[FH_CFI_RA].how == FH_CFI_UNDEFINED ||
        row->columns[FH_CFI_RA].how == FH_CFI_SAME)
        return false;
    if (row->cfa_expr != NULL) {
        if (!fh_cfi_evaluate(machine, row->cfa_expr, row->cfa_expr_len, NULL, &cfa))
            return false;
    } else if (row->cfa_register < FH_CFI_COLUMNS) {
        cfa = machine->registers[row->cfa_register] + (uint64_t)row->cfa_offset;
    } else {
        return false;
    }
    for (unsigned i = 0; i < FH_CFI_COLUMNS; i++) {
        if (!column_value(machine, &row->columns[i], i, cfa, &values[i]))
            return false;
    }
    if (row->columns[FH_CFI_RSP].how == FH_CFI_SAME)
        values[FH_CFI_RSP] = cfa;
    for (unsigned i = 0; i < FH_CFI_COLUMNS; i++)
        machine->registers[i] = values[i];
    return true;
}

static bool find_row(struct fh_cfi_run *run, uintptr_t addr)
{
    while (fh_cfi_next(run)) {
        if (addr < run->row.end)
            return true;
    }
    return false;
}

static bool step_signal_frame(struct exact_frame *frame)
{
    uintptr_t context = frame->machine.registers[FH_CFI_RSP];
    if (context % 8 != 0 || context < frame->machine.low || context >= frame->machine.high ||
        frame->machine.high - context < FH_UCONTEXT_BYTES)
        return false;
    fh_ucontext_registers((const void *)context, frame->machine.registers);
    frame->is_interrupted = true;
    return true;
}

/* Code without description: what a frame pointer leads to, if that is a return address. */
static bool step_by_frame_pointer(struct exact_frame *frame)
{
    uint64_t *registers = frame->machine.registers, fp = registers[FH_CFI_RBP], saved, ra;
    if (fp < registers[FH_CFI_RSP] || !load_word(&frame->machine, fp, &saved) ||
        !load_word(&frame->machine, fp + 8, &ra) || !fh_module_is_return_address(ra))
        return false;
    registers[FH_CFI_RBP] = saved;
    registers[FH_CFI_RSP] = fp + 16;
    registers[FH_CFI_RA] = ra;
    return true;
}

/* Goes to the caller; false at the end of the stack and when it cannot be found. */
static bool step(struct exact_frame *frame, struct fh_stack_cache *cache)
{
    struct fh_cfi_function fn;
    struct fh_cfi_run run;
    uint32_t rule, ref;
    uintptr_t addr = pc_of(frame) - !frame->is_interrupted;
    uintptr_t sp = frame->machine.registers[FH_CFI_RSP];
    if (!fh_module_rule(addr, &rule, &ref))
        return false;
    frame->is_interrupted = false;
    bool has_stepped = false;
    if (fh_rule_kind(rule) == FH_RULE_SIGNAL) {
        has_stepped = step_signal_frame(frame);
    } else if (fh_rule_kind(rule) == FH_RULE_NONE) {
        has_stepped = step_by_frame_pointer(frame);
    } else if (fh_module_function(addr, &fn)) {
        fh_cfi_start(&run, &fn);
        has_stepped = find_row(&run, addr) && step_row(frame, &run.row);
    }
    uintptr_t caller_sp = frame->machine.registers[FH_CFI_RSP];
    if (!has_stepped || (caller_sp <= sp && !frame->is_interrupted))
        return false;
    if (caller_sp - frame->machine.low >= frame->machine.high - frame->machine.low) {
        /* Only a signal frame leads from one stack to another. */
        if (!frame->is_interrupted)
            return false;
        struct fh_stack_region region = region_of(cache, caller_sp);
        frame->machine.low = region.low;
        frame->machine.high = region.high;
    }
    return true;
}

static size_t emit(struct exact_frame *frame, struct fh_stack_cache *cache,
                   const struct fh_stack_output *out)
{
    size_t n = 0, index = 0;
    bool goes_on;
    do {
        uintptr_t address = pc_of(frame) + frame->is_interrupted;
        struct fh_module_place place;
        if (index > 0 && (address == 0 || !fh_module_at(address - 1, &place)))
            break;
        goes_on = step(frame, cache);
        /* As in the quick walk: a signal's trampoline was not called. */
        if (index++ >= out->skip && n < out->max)
            out->frames[n++] = address + (goes_on && frame->is_interrupted);
    } while (n < out->max && index < STEPS_MAX && goes_on);
    return n;
}

static void count(void)
{
    atomic_fetch_add_explicit(&fh_stack_root.exact_walks, 1, memory_order_relaxed);
}

size_t fh_stack_exact_from(struct fh_stack_cache *cache, const void *ucontext,
                           const struct fh_stack_output *out)
{
    struct exact_frame frame = {.is_interrupted = true};
    fh_ucontext_registers(ucontext, frame.machine.registers);
    struct fh_stack_region region = region_of(cache, frame.machine.registers[FH_CFI_RSP]);
    frame.machine.low = region.low;
    frame.machine.high = region.high;
    count();
    return emit(&frame, cache, out);
}

FH_NOINLINE size_t fh_stack_exact(struct fh_stack_cache *cache, uintptr_t sp,
                                  const struct fh_stack_output *out)
{
    struct exact_frame frame = {.is_interrupted = true};
    uint64_t *registers = frame.machine.registers;
    /* The registers that calls preserve, and the address at which they have these values. */
    __asm__ volatile("mov %%rbx, 24(%0)\n\t"
                     "mov %%rbp, 48(%0)\n\t"
                     "mov %%rsp, 56(%0)\n\t"
                     "mov %%r12, 96(%0)\n\t"
                     "mov %%r13, 104(%0)\n\t"
                     "mov %%r14, 112(%0)\n\t"
                     "mov %%r15, 120(%0)\n\t"
                     "lea 0(%%rip), %%rax\n\t"
                     "mov %%rax, 128(%0)"
                     :
                     : "r"(registers)
                     : "rax", "memory");
    struct fh_stack_region region = region_of(cache, registers[FH_CFI_RSP]);
    frame.machine.low = region.low;
    frame.machine.high = region.high;
    count();
    while (registers[FH_CFI_RSP] < sp) {
        if (!step(&frame, cache))
            return 0;
    }
    return registers[FH_CFI_RSP] == sp ? emit(&frame, cache, out) : 0;
}
