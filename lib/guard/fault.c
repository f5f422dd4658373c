/*
 * Faults: SIGSEGV and SIGBUS, seen before the program sees them.
 *
 * A page guard, an address that is none, the end of a stack: the processor finds these errors, and the kernel makes a
 * signal of them. The handler here says what it was, or passes the signal on as if it had never been here.
 *
 * What is told, and to whom a fault belongs:
 *
 *   in a guarded block's memory or guard pages    ours, always: heap-buffer-overflow, -underflow, heap-use-after-free.
 *                                                 But a live block's own pages can only be closed by the program
 *                                                 (mprotect, fh_protect): such a fault is the program's
 *   through a pointer out of such a block         ours, always: uninitialised-use, heap-use-after-free. Debug mode's
 *                                                 fill is no address, and names the stack that allocated or freed
 *   anything else, in hardened and debug mode     the program's, if it has a handler; else told: null-dereference,
 *                                                 stack-overflow, wild-jump, wild-access, misaligned-access,
 *                                                 protected-access, bus-error, heap-corruption (our own code faulted)
 *   in memory of freehold/protect.h, code.h       the program's, if it has a handler; else told: protected-access
 *   anything else, in fast mode                   the program's, or the kernel's
 *   a signal that was sent (kill)                 the program's, or the kernel's
 *
 * With on_error=continue a page that a guarded block's fault hit is opened and the program goes on, with what happens
 * to be there; any other fault ends the process after its report, for the instruction can't go on.
 *
 * The handler runs on an alternate stack (the program's, or ours: alternate.c), with every signal blocked but these
 * two, and keeps to a few KiB; the report has a stack of its own. A fault of a report comes here too and ends in a line.
 * A thread that has blocked SIGSEGV when it faults is killed by the kernel, here as without us.
 *
 * The program's actions. From fh_fault_start on, what the program sets for these signals is kept in `actions`, and told
 * when it asks; the kernel keeps our handler. Passing on does what the kernel does: the mask (SA_NODEFER and sa_mask),
 * SA_RESETHAND, and the stack. Of a handler without SA_ONSTACK, or in a thread whose only alternate stack is ours, the
 * kernel would have written the signal's frame on the interrupted stack. So the frame (return address, ucontext,
 * siginfo, and the processor's extended registers, whose address is in the ucontext) is copied there, and the handler
 * entered with the stack pointer at it: it returns to the kernel's own way back, may jump away, may be interrupted by
 * the next fault. Where the stack has no room the kernel would end the process, and so do we.
 *
 * Signals' handlers call sigaction too, and a fault may come in the middle of it: an action is written in a free place
 * of a ring and then published by its number. A reader takes it when the place still has that number after it was
 * copied. FORMER places must be overwritten within one read for that to fail, and then it is read again.
 *
 * A child of vfork has actions of its own but the parent's memory: what it sets goes to the kernel.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "guard/fault.h"

#include "base/core/bits.h"
#include "base/message.h"
#include "guard/alternate.h"
#include "guard/decode.h"
#include "guard/guard.h"
#include "guard/mappings.h"
#include "guard/report.h"
#include "heap/heap.h"
#include "os/mem.h"
#include "os/sys.h"
#include "stack/stack.h"

#include <errno.h>
#include <string.h>
#include <ucontext.h>

enum {
    SIGNALS = 2,
    FORMER = 16, /* actions of a signal that are kept */
    RED_ZONE = 128,
    DETAIL_BYTES = 192,
};

#define NULL_BYTES ((uintptr_t)64 << 10) /* what the kernel lets nobody map (vm.mmap_min_addr) */
#define BELOW_STACK                                                                                \
    ((uintptr_t)64 << 10) /* a push or a stack probe is that near to the stack pointer */
#define LARGEST_FRAME ((uintptr_t)8 << 20)

/* Exported by the C library, shared and static, besides the name that the entry points take. */
extern int __sigaction(int number, const struct sigaction *action, struct sigaction *old);

/* ---- The program's actions ----------------------------------------------------------------------------- */

struct kept {
    _Atomic uint64_t number; /* of the change that wrote it; 0: being written */
    _Atomic uintptr_t handler;
    _Atomic int flags;
    _Atomic uint64_t mask;
};

static struct {
    _Atomic uint64_t last;    /* number given out */
    _Atomic uint64_t current; /* in force; its place is number % FORMER */
    struct kept kept[FORMER];
} actions[SIGNALS];

static _Atomic bool is_started;

struct action {
    uintptr_t handler;
    int flags;
    uint64_t mask;
};

static int index_of(int number)
{
    return number == SIGSEGV ? 0 : 1;
}

static uint64_t mask_of(const sigset_t *set)
{
    uint64_t mask;
    memcpy(&mask, set, sizeof mask);
    return mask;
}

static void keep(int number, const struct action *action)
{
    unsigned i = (unsigned)index_of(number);
    uint64_t change = atomic_fetch_add_explicit(&actions[i].last, 1, memory_order_relaxed) + 1;
    struct kept *place = &actions[i].kept[change % FORMER];
    atomic_store_explicit(&place->number, 0, memory_order_relaxed);
    /* Pairs with the fence in current_action: who sees a field of this change sees the 0. */
    atomic_thread_fence(memory_order_release);
    atomic_store_explicit(&place->handler, action->handler, memory_order_relaxed);
    atomic_store_explicit(&place->flags, action->flags, memory_order_relaxed);
    atomic_store_explicit(&place->mask, action->mask, memory_order_relaxed);
    atomic_store_explicit(&place->number, change, memory_order_release);
    /* release: pairs with the acquire in current_action */
    atomic_store_explicit(&actions[i].current, change, memory_order_release);
}

static struct action current_action(int number)
{
    unsigned i = (unsigned)index_of(number);
    for (;;) {
        uint64_t change = atomic_load_explicit(&actions[i].current, memory_order_acquire);
        struct kept *place = &actions[i].kept[change % FORMER];
        struct action action = {
            .handler = atomic_load_explicit(&place->handler, memory_order_relaxed),
            .flags = atomic_load_explicit(&place->flags, memory_order_relaxed),
            .mask = atomic_load_explicit(&place->mask, memory_order_relaxed),
        };
        atomic_thread_fence(memory_order_acquire); /* pairs with the fence in keep */
        if (atomic_load_explicit(&place->number, memory_order_relaxed) == change)
            return action;
    }
}

static bool is_default(const struct action *action)
{
    return action->handler == (uintptr_t)SIG_DFL || action->handler == (uintptr_t)SIG_IGN;
}

static struct action from_libc(const struct sigaction *action)
{
    return (struct action){(uintptr_t)action->sa_sigaction, action->sa_flags,
                           mask_of(&action->sa_mask)};
}

static struct sigaction to_libc(const struct action *action)
{
    struct sigaction out = {.sa_flags = action->flags};
    out.sa_sigaction = (void (*)(int, siginfo_t *, void *))action->handler;
    memcpy(&out.sa_mask, &action->mask, sizeof action->mask);
    return out;
}

static void on_fault(int number, siginfo_t *info, void *context);

static bool is_ours(const struct sigaction *action)
{
    return (action->sa_flags & SA_SIGINFO) != 0 && action->sa_sigaction == on_fault;
}

static int ask_kernel(int number, const struct sigaction *action, struct sigaction *old)
{
    struct sigaction was;
    int result = __sigaction(number, action, &was);
    if (result == 0 && old != NULL) {
        struct action kept = is_ours(&was) ? current_action(number) : from_libc(&was);
        *old = is_ours(&was) ? to_libc(&kept) : was;
    }
    return result;
}

int fh_fault_sigaction(int number, const struct sigaction *action, struct sigaction *old)
{
    if ((number != SIGSEGV && number != SIGBUS) || !fh_fault_is_started())
        return __sigaction(number, action, old);
    if (fh_os_getpid() != fh_root.pid)
        return ask_kernel(number, action, old);
    struct action before = current_action(number);
    if (action != NULL) {
        struct action now = from_libc(action);
        keep(number, &now);
    }
    if (old != NULL)
        *old = to_libc(&before);
    return 0;
}

/* What the program has is an alternate stack, or none; ours is nobody's business. */
int fh_fault_sigaltstack(const void *stack, void *before)
{
    stack_t now = {.ss_flags = SS_DISABLE};
    const stack_t *wanted = stack;
    int error = fh_os_alternate_stack(NULL, &now);
    bool had_ours = error == 0 && (now.ss_flags & SS_DISABLE) == 0 && fh_alternate_owns(now.ss_sp);
    if (error == 0 && wanted != NULL)
        error = fh_os_alternate_stack(wanted, NULL);
    if (error == 0 && wanted != NULL && (wanted->ss_flags & SS_DISABLE) != 0 &&
        fh_fault_is_started())
        fh_alternate_have();
    if (error == 0 && before != NULL)
        *(stack_t *)before = had_ours ? (stack_t){.ss_flags = SS_DISABLE} : now;
    if (error == 0)
        return 0;
    errno = -error;
    return -1;
}

/* ---- What the processor was doing ------------------------------------------------------------------------ */

struct fault {
    int number;
    const siginfo_t *info;
    const ucontext_t *context;
    uintptr_t address, pc, sp, fp;
    bool is_fetch;   /* of an instruction */
    bool is_general; /* a general protection fault: the address is not told */
    enum fh_access access;
    size_t size;
    uint64_t registers[FH_REGISTERS];
    struct fh_instruction instruction;
    const struct fh_operand *operand; /* the one that faulted; NULL: not known */
    char detail[DETAIL_BYTES];
    struct fh_error error;
    struct fh_call caller;
};

void fh_fault_place(const void *ucontext, uintptr_t *pc, uintptr_t *sp, uintptr_t *fp)
{
    const ucontext_t *context = ucontext;
    *pc = (uintptr_t)context->uc_mcontext.gregs[REG_RIP];
    *sp = (uintptr_t)context->uc_mcontext.gregs[REG_RSP];
    *fp = (uintptr_t)context->uc_mcontext.gregs[REG_RBP];
}

static void read_registers(struct fault *f)
{
    static const uint8_t saved_as[FH_REGISTERS] = {
        REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI, REG_R8,
        REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15, REG_RIP};
    for (unsigned i = 0; i < FH_REGISTERS; i++)
        f->registers[i] = (uint64_t)f->context->uc_mcontext.gregs[saved_as[i]];
}

static uintptr_t address_of(const struct fault *f, const struct fh_operand *operand)
{
    uint64_t fs = 0, gs = 0;
    if (operand->segment != 0)
        fh_os_segment_bases(&fs, &gs);
    return fh_operand_address(operand, f->registers, fs, gs);
}

static bool covers(uintptr_t low, size_t size, uintptr_t address)
{
    return address - low < (size != 0 ? size : 4096);
}

/* Which operand it was: the one that holds the address; of two that do, the one with the right direction. */
static const struct fh_operand *find_operand(const struct fault *f)
{
    const struct fh_operand *found = NULL;
    for (unsigned i = 0; i < f->instruction.count; i++) {
        const struct fh_operand *operand = &f->instruction.operands[i];
        bool has_way = f->access == FH_ACCESS_WRITE ? operand->is_written : operand->is_read;
        bool is_there = operand->is_vector || f->is_general ||
                        covers(address_of(f, operand), operand->size, f->address);
        if (is_there && (found == NULL || has_way))
            found = operand;
    }
    return found;
}

static void decode(struct fault *f)
{
    if (f->is_fetch || !fh_decode((const uint8_t *)f->pc, &f->instruction)) {
        f->instruction.count = 0;
        return;
    }
    f->operand = find_operand(f);
    if (f->operand == NULL)
        return;
    f->size = f->operand->size;
    if (f->access == FH_ACCESS_UNKNOWN)
        f->access =
            f->operand->is_written && !f->operand->is_read ? FH_ACCESS_WRITE : FH_ACCESS_READ;
    if (f->is_general && !f->operand->is_vector)
        f->address = address_of(f, f->operand);
}

static void look(struct fault *f, int number, const siginfo_t *info, const ucontext_t *context)
{
    enum { TRAP_STACK = 12, TRAP_GENERAL = 13, TRAP_PAGE = 14, PAGE_WRITE = 2, PAGE_FETCH = 16 };
    memset(f, 0, sizeof *f);
    f->number = number;
    f->info = info;
    f->context = context;
    f->address = (uintptr_t)info->si_addr;
    fh_fault_place(context, &f->pc, &f->sp, &f->fp);
    int64_t trap = context->uc_mcontext.gregs[REG_TRAPNO];
    int64_t bits = context->uc_mcontext.gregs[REG_ERR];
    f->is_general = trap == TRAP_GENERAL || trap == TRAP_STACK;
    f->is_fetch = trap == TRAP_PAGE && (bits & PAGE_FETCH) != 0;
    f->access = trap != TRAP_PAGE          ? FH_ACCESS_UNKNOWN
                : (bits & PAGE_WRITE) != 0 ? FH_ACCESS_WRITE
                                           : FH_ACCESS_READ;
    read_registers(f);
    decode(f);
}

/* ---- Kinds ----------------------------------------------------------------------------------------------- */

static void set(struct fault *f, const char *kind)
{
    f->error.kind = kind;
    f->error.detail = f->detail[0] != 0 ? f->detail : NULL;
}

static bool is_block_of_ours(uintptr_t address, struct fh_guard_block *block)
{
    const void *at = (const void *)address;
    bool is_ours = fh_fence_owns(at) ||
                   (fh_guard_settings.mode != FH_MODE_FAST && fh_pages_contain(&fh_pages_main, at));
    return is_ours && fh_guard_find(at, block) && block->state != FH_BLOCK_NEVER;
}

/* In the memory of a guarded block, or its guards. */
static bool is_heap_error(struct fault *f)
{
    struct fh_guard_block block;
    if (f->is_general || f->is_fetch || !is_block_of_ours(f->address, &block))
        return false;
    if (f->address < block.address)
        set(f, "heap-buffer-underflow");
    else if (f->address >= block.address + block.requested)
        set(f, "heap-buffer-overflow");
    else if (block.state == FH_BLOCK_FREED)
        set(f, "heap-use-after-free");
    /* A freed block's neighbourhood is as freed as it. */
    if (f->error.kind != NULL && block.state == FH_BLOCK_FREED)
        set(f, "heap-use-after-free");
    return f->error.kind != NULL;
}

static bool has_fill(uint64_t word, uint64_t tag)
{
    return word >> 48 == tag;
}

/* The word is a pointer that was read out of filled memory. */
static bool is_fill(struct fault *f, uint64_t word, const char *where)
{
    bool is_new = has_fill(word, FH_FILL_NEW_TAG), is_freed = has_fill(word, FH_FILL_FREED_TAG);
    if (!is_new && !is_freed)
        return false;
    fh_format(f->detail, sizeof f->detail,
              is_new ? "the pointer in %s, %p, was read from a block where nothing had been written"
                     : "the pointer in %s, %p, was read from a block that had been freed",
              where, (const void *)(uintptr_t)word);
    set(f, is_new ? "uninitialised-use" : "heap-use-after-free");
    f->error.origin = is_new ? "that block was allocated" : "that block was freed";
    f->error.origin_stack = FH_FILL_STACK(word);
    return true;
}

static bool is_fill_in_register(struct fault *f, unsigned number)
{
    return number != FH_NO_REGISTER && number < FH_REGISTERS &&
           is_fill(f, f->registers[number], fh_register_name(number));
}

static bool is_canonical(uintptr_t address)
{
    int64_t top = (int64_t)address >> 47;
    return top == 0 || top == -1;
}

/* The target of a jump that goes through memory: the memory could be read, what it holds is the trouble. */
static bool is_fill_as_target(struct fault *f)
{
    const struct fh_instruction *instruction = &f->instruction;
    if (!instruction->is_indirect)
        return false;
    if (instruction->target != FH_NO_REGISTER)
        return is_fill_in_register(f, instruction->target);
    uintptr_t at = address_of(f, &instruction->operands[0]);
    uint64_t word;
    if (!is_canonical(at))
        return false;
    memcpy(&word, (const void *)at, sizeof word);
    f->address = (uintptr_t)word;
    return is_fill(f, word, "memory");
}

static bool is_fill_used(struct fault *f)
{
    if (!f->is_general)
        return false;
    if (is_fill_as_target(f))
        return true;
    for (unsigned i = 0; i < f->instruction.count; i++) {
        const struct fh_operand *operand = &f->instruction.operands[i];
        if (is_fill_in_register(f, operand->base) ||
            (!operand->is_vector && is_fill_in_register(f, operand->index)))
            return true;
    }
    return false;
}

/* In memory that the program has protected by our interface. */
static bool is_in_region(struct fault *f)
{
    const char *why = f->is_general ? NULL : fh_region_explain((const void *)f->address);
    if (why == NULL)
        return false;
    fh_format(f->detail, sizeof f->detail, "%s", why);
    set(f, "protected-access");
    return true;
}

/* The stack is used up: the address lies in no accessible memory, next to the stack pointer, and above it begins
 * what can only be the stack. Guard pages of threads and coroutines look so, and the end of the first stack. */
static bool is_stack_overflow(struct fault *f)
{
    struct fh_mapping at, above;
    if (f->number != SIGSEGV || f->is_general || f->is_fetch ||
        f->address - (f->sp - BELOW_STACK) >= BELOW_STACK + LARGEST_FRAME)
        return false;
    if (!fh_mappings_look(f->address, &at, &above))
        return f->address - (f->sp - BELOW_STACK) < 2 * BELOW_STACK;
    if (at.low != 0 && at.access[0] != '-')
        return false;
    bool is_rest = at.low != 0 ? above.low == at.high : above.low != 0;
    if (!is_rest || above.access[1] != 'w' || f->sp >= above.high)
        return false;
    fh_format(f->detail, sizeof f->detail,
              "the stack from %p to %p (%zu KiB) is used up; a recursion without end, or too large "
              "local variables",
              (const void *)above.low, (const void *)above.high,
              (size_t)(above.high - above.low) >> 10);
    set(f, "stack-overflow");
    return true;
}

static bool is_small(const struct fault *f, unsigned number)
{
    return number < FH_REGISTERS && f->registers[number] < NULL_BYTES;
}

static void describe_null(struct fault *f)
{
    const struct fh_operand *operand = f->operand;
    if (operand == NULL || (operand->base == FH_NO_REGISTER && operand->index == FH_NO_REGISTER)) {
        fh_format(f->detail, sizeof f->detail, "address %p", (const void *)f->address);
        return;
    }
    bool is_base = is_small(f, operand->base) && f->registers[operand->base] == 0;
    if (is_base && operand->index != FH_NO_REGISTER && !operand->is_vector)
        fh_format(f->detail, sizeof f->detail,
                  "address %p: an element at offset %zu of a null pointer (%s; the index is in %s)",
                  (const void *)f->address, (size_t)f->address, fh_register_name(operand->base),
                  fh_register_name(operand->index));
    else if (is_base && operand->displacement != 0)
        fh_format(f->detail, sizeof f->detail,
                  "address %p: a field at offset %lld of a null pointer (%s)",
                  (const void *)f->address, (long long)operand->displacement,
                  fh_register_name(operand->base));
    else if (is_base)
        fh_format(f->detail, sizeof f->detail, "address %p: a null pointer (%s)",
                  (const void *)f->address, fh_register_name(operand->base));
    else
        fh_format(
            f->detail, sizeof f->detail,
            "address %p: %lld bytes from what %s points to, which is a small number",
            (const void *)f->address, (long long)operand->displacement,
            fh_register_name(operand->base != FH_NO_REGISTER ? operand->base : operand->index));
}

static bool is_null_dereference(struct fault *f)
{
    if (f->address >= NULL_BYTES || f->is_general)
        return false;
    if (f->is_fetch)
        fh_format(f->detail, sizeof f->detail, "a call of a null function pointer");
    else
        describe_null(f);
    set(f, "null-dereference");
    return true;
}

static void describe_mapping(struct fault *f)
{
    struct fh_mapping at, above;
    if (!is_canonical(f->address))
        fh_format(f->detail, sizeof f->detail, "no address of any program can be %p",
                  (const void *)f->address);
    else if (!fh_mappings_look(f->address, &at, &above))
        return;
    else if (at.low == 0)
        fh_format(f->detail, sizeof f->detail, "nothing is mapped there");
    else
        fh_format(f->detail, sizeof f->detail, "the memory there is \"%s\"%s%s", at.access,
                  at.name[0] != 0 ? ", of " : "", at.name);
}

/* Where a jump came from: a call has left the address on the stack. */
static void walk_from_caller(struct fault *f)
{
    uint64_t word;
    if (f->pc != f->address || !fh_os_is_writable((void *)(f->sp - RED_ZONE - 8)))
        return;
    memcpy(&word, (const void *)f->sp, sizeof word);
    f->caller = (struct fh_call){(uintptr_t)word, f->sp + 8, f->fp};
}

static bool is_own_code(uintptr_t pc)
{
    return fh_stack_in_module(pc + 1, (const void *)(uintptr_t)fh_error) ||
           (fh_root.entry.code != NULL && fh_stack_in_module(pc + 1, fh_root.entry.code));
}

static bool is_in_live_block(const struct fault *f)
{
    struct fh_guard_block block;
    return fh_guard_find((const void *)f->address, &block) && block.state == FH_BLOCK_LIVE &&
           f->address - block.address < block.requested;
}

/* The rest: what kind of wildness. False: nothing that we understand. */
static bool is_wild(struct fault *f)
{
    if (f->is_general && f->operand == NULL && !f->instruction.is_indirect)
        return false; /* a privileged instruction, say */
    if (f->is_general && !f->instruction.is_indirect && is_canonical(f->address)) {
        fh_format(f->detail, sizeof f->detail, "the instruction needs an address aligned to %zu",
                  f->size);
        set(f, "misaligned-access");
        return true;
    }
    describe_mapping(f);
    if (f->is_fetch || f->instruction.is_indirect)
        set(f, "wild-jump");
    else if (is_own_code(f->pc))
        set(f, "heap-corruption");
    else if (f->number == SIGBUS)
        set(f, "bus-error");
    else if (is_in_live_block(f))
        set(f, "protected-access");
    else
        set(f, "wild-access");
    return true;
}

/* Names the fault if it is to be told. */
static bool is_to_be_told(struct fault *f)
{
    if (is_heap_error(f) || (fh_guard_settings.mode == FH_MODE_DEBUG && is_fill_used(f)))
        return true;
    struct action action = current_action(f->number);
    if (!is_default(&action))
        return false;
    if (is_in_region(f))
        return true;
    return fh_guard_settings.mode != FH_MODE_FAST &&
           (is_stack_overflow(f) || is_null_dereference(f) || is_wild(f));
}

static void tell(struct fault *f)
{
    f->error.address = f->address;
    f->error.size = f->size;
    f->error.access = f->is_fetch || f->instruction.is_indirect ? FH_ACCESS_NONE : f->access;
    f->error.context = f->context;
    if (f->is_fetch)
        walk_from_caller(f);
    if (f->caller.pc != 0) {
        f->error.call = &f->caller;
        f->error.context = NULL;
    }
    fh_error(&f->error);
}

/* The program goes on: the page is there now. Only for guarded blocks' memory. */
static bool open_page(const struct fault *f)
{
    struct fh_guard_block block;
    void *page = (void *)fh_align_down(f->address, fh_os_page_size);
    if (f->is_general || !is_block_of_ours(f->address, &block))
        return false;
    fh_os_unguard(page, fh_os_page_size);
    return fh_os_protect(page, fh_os_page_size, FH_OS_READ_WRITE) == 0;
}

/* ---- Passing on ------------------------------------------------------------------------------------------ */

/* What the kernel does where nobody has a handler. */
static void default_action(int number, const siginfo_t *info)
{
    struct sigaction action = {.sa_handler = SIG_DFL};
    __sigaction(number, &action, NULL);
    /* A fault is repeated when this returns; a signal that was sent is sent again. */
    if (info->si_code <= 0)
        fh_os_signal_self(number, info);
}

static bool is_on(const stack_t *stack, uintptr_t sp)
{
    return (stack->ss_flags & SS_DISABLE) == 0 && sp - (uintptr_t)stack->ss_sp < stack->ss_size;
}

/* Whether the kernel would have written the frame elsewhere: see the top. */
static bool is_misplaced(const struct action *action, const ucontext_t *context)
{
    uintptr_t sp = (uintptr_t)context->uc_mcontext.gregs[REG_RSP];
    if (!is_on(&context->uc_stack, (uintptr_t)context) || is_on(&context->uc_stack, sp))
        return false;
    return (action->flags & SA_ONSTACK) == 0 || fh_alternate_owns(context->uc_stack.ss_sp);
}

/* The processor's extended registers as the kernel saved them: 512 bytes, and as many more as they say. */
static size_t extended_bytes(const void *registers)
{
    enum { MAGIC_AT = 464, MAGIC = 0x46505853, WITH_MAGIC_AT_END = 4 };
    uint32_t words[2];
    memcpy(words, (const char *)registers + MAGIC_AT, sizeof words);
    return words[0] == MAGIC ? words[1] + (size_t)WITH_MAGIC_AT_END : 512;
}

static bool has_room(uintptr_t low, uintptr_t high)
{
    for (uintptr_t at = high - 8; at > low; at -= fh_min(at - low, fh_os_page_size))
        if (!fh_os_is_writable((void *)at))
            return false;
    return fh_os_is_writable((void *)low);
}

/* A signal's frame: it begins with the return address, 8 bytes below the ucontext. */
struct frame {
    uintptr_t low;
    siginfo_t *info;
    ucontext_t *context;
};

/* Copies the frame to the interrupted stack, as the kernel lays it out; false when there is no room. */
static bool move_frame(struct frame *frame)
{
    const ucontext_t *context = frame->context;
    size_t bytes = (uintptr_t)(frame->info + 1) - frame->low;
    void *extended = context->uc_mcontext.fpregs;
    size_t extended_size = extended != NULL ? extended_bytes(extended) : 0;
    uintptr_t top = (uintptr_t)context->uc_mcontext.gregs[REG_RSP] - RED_ZONE;
    uintptr_t registers = fh_align_down(top - extended_size, 64);
    uintptr_t low = fh_align_down(registers - bytes, 16) - 8;
    if (!has_room(low, top))
        return false;
    memcpy((void *)low, (const void *)frame->low, bytes);
    if (extended != NULL)
        memcpy((void *)registers, extended, extended_size);
    struct frame moved = {low, (siginfo_t *)((uintptr_t)frame->info - frame->low + low),
                          (ucontext_t *)(low + 8)};
    if (extended != NULL)
        moved.context->uc_mcontext.fpregs = (fpregset_t)registers;
    *frame = moved;
    return true;
}

/* Where the kernel enters a handler: all that was called here is forgotten. */
static _Noreturn void enter(const struct frame *frame, uintptr_t handler, int number)
{
    __asm__ volatile("mov %[sp], %%rsp\n\t"
                     "xor %%eax, %%eax\n\t"
                     "cld\n\t"
                     "jmp *%[handler]"
                     :
                     : [sp] "r"(frame->low), [handler] "r"(handler), "D"((long)number),
                       "S"(frame->info), "d"(frame->context)
                     : "memory");
    __builtin_unreachable();
}

static void pass_on(int number, siginfo_t *info, ucontext_t *context)
{
    struct action action = current_action(number);
    if (action.handler == (uintptr_t)SIG_IGN && info->si_code <= 0)
        return;
    struct frame frame = {(uintptr_t)context - 8, info, context};
    if (is_default(&action) || (is_misplaced(&action, context) && !move_frame(&frame))) {
        default_action(number, info);
        return;
    }
    if ((action.flags & (int)SA_RESETHAND) != 0)
        keep(number, &(struct action){.handler = (uintptr_t)SIG_DFL, .flags = action.flags});
    uint64_t mask = mask_of(&context->uc_sigmask) | action.mask;
    if ((action.flags & SA_NODEFER) == 0)
        mask |= (uint64_t)1 << (number - 1);
    fh_os_set_signal_mask(mask);
    enter(&frame, action.handler, number);
}

/* ---- The handler ----------------------------------------------------------------------------------------- */

static void on_fault(int number, siginfo_t *info, void *context)
{
    int saved = errno;
    if (fh_report_is_mine())
        fh_report_fault(number);
    struct fault fault;
    if (info->si_code > 0) {
        look(&fault, number, info, context);
        if (is_to_be_told(&fault)) {
            tell(&fault);
            if (open_page(&fault)) {
                errno = saved;
                return;
            }
        }
    }
    errno = saved;
    pass_on(number, info, context);
}

bool fh_fault_is_started(void)
{
    return atomic_load_explicit(&is_started, memory_order_relaxed);
}

void fh_fault_thread(void)
{
    if (fh_fault_is_started())
        fh_alternate_have();
}

void fh_fault_start(void)
{
    static const int numbers[SIGNALS] = {SIGSEGV, SIGBUS};
    for (unsigned i = 0; i < SIGNALS; i++) {
        struct sigaction ours = {.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER}, was;
        ours.sa_sigaction = on_fault;
        sigfillset(&ours.sa_mask);
        sigdelset(&ours.sa_mask, SIGSEGV);
        sigdelset(&ours.sa_mask, SIGBUS);
        if (__sigaction(numbers[i], NULL, &was) != 0)
            return;
        struct action before = from_libc(&was);
        keep(numbers[i], &before);
        __sigaction(numbers[i], &ours, NULL);
    }
    atomic_store_explicit(&is_started, true, memory_order_relaxed);
    fh_alternate_have();
}
