/*
 * The decoder of instructions against the processor: instructions are executed on a page that can't
 * be accessed, and what the fault says (the address, and whether it was a write) is what the
 * decoder says beforehand.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "guard/decode.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

enum { CODE_BYTES = 64 };

static sigjmp_buf back;
static uint8_t *code_page;
static char *closed_page;

/* What the fault said. */
static uint64_t registers[FH_REGISTERS];
static uintptr_t fault_address;
static bool was_write;

static void on_fault(int number, siginfo_t *info, void *ucontext)
{
    static const uint8_t saved_as[FH_REGISTERS] = {
        REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI, REG_R8,
        REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15, REG_RIP};
    const ucontext_t *context = ucontext;
    (void)number;
    for (unsigned i = 0; i < FH_REGISTERS; i++)
        registers[i] = (uint64_t)context->uc_mcontext.gregs[saved_as[i]];
    fault_address = (uintptr_t)info->si_addr;
    was_write = (context->uc_mcontext.gregs[REG_ERR] & 2) != 0;
    siglongjmp(back, 1);
}

/* rdi and rsi lead to the page, rcx is 2, r9 is -8, all else is 0 or the stack's. */
static void execute(const uint8_t *code, size_t length, bool is_source_closed,
                    bool is_target_closed)
{
    static char open_memory[4096];
    char *target = is_target_closed ? closed_page + 256 : open_memory + 256;
    char *source = is_source_closed ? closed_page + 512 : open_memory + 512;
    memcpy(code_page, code, length);
    __asm__ volatile("xor %%eax, %%eax\n\tmov $2, %%ecx\n\tmov $-8, %%r9\n\tjmp *%2"
                     :
                     : "D"(target), "S"(source), "r"((uintptr_t)code_page)
                     : "rax", "rcx", "r9", "memory");
    fail_msg("the instruction %02x %02x did not fault", code[0], code[1]);
}

static const struct fh_operand *operand_at(const struct fh_instruction *instruction)
{
    for (unsigned i = 0; i < instruction->count; i++) {
        const struct fh_operand *operand = &instruction->operands[i];
        if (fault_address - fh_operand_address(operand, registers, 0, 0) < operand->size)
            return operand;
    }
    return NULL;
}

struct sample {
    const char *name;
    size_t length, size;
    bool is_write, is_source_closed, is_target_closed;
    uint8_t code[12];
};

static const struct sample samples[] = {
    {"mov %al, (%rdi)", 2, 1, true, false, true, {0x88, 0x07}},
    {"mov (%rdi), %al", 2, 1, false, false, true, {0x8a, 0x07}},
    {"mov %rax, 16(%rdi,%rcx,8)", 5, 8, true, false, true, {0x48, 0x89, 0x44, 0xcf, 0x10}},
    {"mov -8(%rdi,%r9,4), %ax", 6, 2, false, false, true, {0x66, 0x42, 0x8b, 0x44, 0x8f, 0xf8}},
    {"movzbl (%rsi), %eax", 3, 1, false, true, false, {0x0f, 0xb6, 0x06}},
    {"movslq (%rsi), %rax", 3, 4, false, true, false, {0x48, 0x63, 0x06}},
    {"movl $5, 300(%rdi)", 10, 4, true, false, true, {0xc7, 0x87, 0x2c, 1, 0, 0, 5, 0, 0, 0}},
    {"cmpl $5, (%rdi)", 3, 4, false, false, true, {0x83, 0x3f, 5}},
    {"add %eax, (%rdi)", 2, 4, true, false, true, {0x01, 0x07}},
    {"lock cmpxchg %rcx, (%rdi)", 5, 8, true, false, true, {0xf0, 0x48, 0x0f, 0xb1, 0x0f}},
    {"xchg %eax, (%rdi)", 2, 4, true, false, true, {0x87, 0x07}},
    {"test $1, (%rdi)", 3, 1, false, false, true, {0xf6, 0x07, 1}},
    {"sete (%rdi)", 3, 1, true, false, true, {0x0f, 0x94, 0x07}},
    {"movups (%rsi), %xmm0", 3, 16, false, true, false, {0x0f, 0x10, 0x06}},
    {"movups %xmm0, (%rdi)", 3, 16, true, false, true, {0x0f, 0x11, 0x07}},
    {"movss (%rsi), %xmm0", 4, 4, false, true, false, {0xf3, 0x0f, 0x10, 0x06}},
    {"movsd %xmm0, (%rdi)", 4, 8, true, false, true, {0xf2, 0x0f, 0x11, 0x07}},
    {"movq (%rsi), %xmm0", 4, 8, false, true, false, {0xf3, 0x0f, 0x7e, 0x06}},
    {"movdqa %xmm0, (%rdi)", 4, 16, true, false, true, {0x66, 0x0f, 0x7f, 0x07}},
    {"pcmpeqb (%rsi), %xmm0", 4, 16, false, true, false, {0x66, 0x0f, 0x74, 0x06}},
    {"cvtsi2sd (%rsi), %xmm0", 4, 4, false, true, false, {0xf2, 0x0f, 0x2a, 0x06}},
    {"fldt (%rsi)", 2, 10, false, true, false, {0xdb, 0x2e}},
    {"fstpl (%rdi)", 2, 8, true, false, true, {0xdd, 0x1f}},
    {"fnstcw (%rdi)", 2, 2, true, false, true, {0xd9, 0x3f}},
    {"fxsave (%rdi)", 3, 512, true, false, true, {0x0f, 0xae, 0x07}},
    {"ldmxcsr (%rsi)", 3, 4, false, true, false, {0x0f, 0xae, 0x16}},
    {"rep movsb, from a closed page", 2, 1, false, true, false, {0xf3, 0xa4}},
    {"rep movsq, to a closed page", 3, 8, true, false, true, {0xf3, 0x48, 0xa5}},
    {"rep stosl", 2, 4, true, false, true, {0xf3, 0xab}},
    {"repe cmpsb", 2, 1, false, true, false, {0xf3, 0xa6}},
    {"repne scasw", 3, 2, false, false, true, {0xf2, 0x66, 0xaf}},
    {"lodsq", 2, 8, false, true, false, {0x48, 0xad}},
    {"push (%rsi)", 2, 8, false, true, false, {0xff, 0x36}},
    {"pop (%rdi)", 2, 8, true, false, true, {0x8f, 0x07}},
    {"call *(%rsi)", 2, 8, false, true, false, {0xff, 0x16}},
    {"bts $3, (%rdi)", 4, 4, true, false, true, {0x0f, 0xba, 0x2f, 3}},
    {"shll $3, (%rdi)", 3, 4, true, false, true, {0xc1, 0x27, 3}},
    {"imul $300, (%rsi), %eax", 6, 4, false, true, false, {0x69, 0x06, 0x2c, 1, 0, 0}},
    {"cmpxchg8b (%rdi)", 3, 8, true, false, true, {0x0f, 0xc7, 0x0f}},
    {"movnti %eax, (%rdi)", 3, 4, true, false, true, {0x0f, 0xc3, 0x07}},
};

static void check(const struct sample *sample)
{
    struct fh_instruction instruction;
    if (!fh_decode(sample->code, &instruction))
        fail_msg("%s is not known", sample->name);
    if (instruction.length != sample->length)
        fail_msg("%s: expected %zu bytes, not %u", sample->name, sample->length,
                 instruction.length);
    if (sigsetjmp(back, 1) == 0)
        execute(sample->code, sample->length, sample->is_source_closed, sample->is_target_closed);
    const struct fh_operand *operand = operand_at(&instruction);
    if (operand == NULL)
        fail_msg("%s: no operand is at %p", sample->name, (void *)fault_address);
    if (operand->size != sample->size)
        fail_msg("%s: expected an operand of %zu bytes, not %zu", sample->name, sample->size,
                 operand->size);
    if (was_write != sample->is_write || operand->is_written != was_write)
        fail_msg("%s: the fault says %s, the decoder %s", sample->name,
                 was_write ? "write" : "read", operand->is_written ? "write" : "read");
    /* What is that large is looked at from its end. */
    if (sample->size < 64 && fh_operand_address(operand, registers, 0, 0) != fault_address)
        fail_msg("%s: expected the address %p", sample->name, (void *)fault_address);
}

static void test_operands_are_those_that_fault(void **state)
{
    (void)state;
    struct sigaction action = {.sa_flags = SA_SIGINFO};
    action.sa_sigaction = on_fault;
    sigaction(SIGSEGV, &action, NULL);
    for (size_t i = 0; i < FH_ARRAY_LEN(samples); i++)
        check(&samples[i]);
}

static void test_targets_of_jumps_are_named(void **state)
{
    (void)state;
    struct fh_instruction instruction;
    assert_true(fh_decode((const uint8_t[]){0x41, 0xff, 0xd3}, &instruction)); /* call *%r11 */
    assert_true(instruction.is_indirect);
    assert_int_equal(instruction.target, 11);
    assert_true(fh_decode((const uint8_t[]){0xff, 0x60, 0x08}, &instruction)); /* jmp *8(%rax) */
    assert_true(instruction.is_indirect);
    assert_int_equal(instruction.target, FH_NO_REGISTER);
    assert_int_equal(instruction.operands[0].displacement, 8);
    assert_true(fh_decode((const uint8_t[]){0xc3}, &instruction)); /* ret */
    assert_int_equal(instruction.operands[0].base, FH_REGISTER_RSP);
}

static void test_segments_and_absolute_addresses(void **state)
{
    (void)state;
    struct fh_instruction instruction;
    uint64_t none[FH_REGISTERS] = {0};
    /* mov %fs:0x28, %rax */
    assert_true(
        fh_decode((const uint8_t[]){0x64, 0x48, 0x8b, 0x04, 0x25, 0x28, 0, 0, 0}, &instruction));
    assert_int_equal(fh_operand_address(&instruction.operands[0], none, 0x1000, 0), 0x1028);
    /* mov 0x10(%rip), %eax */
    none[FH_REGISTER_RIP] = 0x400000;
    assert_true(fh_decode((const uint8_t[]){0x8b, 0x05, 0x10, 0, 0, 0}, &instruction));
    assert_int_equal(fh_operand_address(&instruction.operands[0], none, 0, 0), 0x400016);
}

static void test_what_is_no_instruction_is_refused(void **state)
{
    (void)state;
    struct fh_instruction instruction;
    assert_false(fh_decode((const uint8_t[]){0x06, 0}, &instruction));
    assert_false(fh_decode((const uint8_t[]){0x0f, 0x04, 0}, &instruction));
    uint8_t endless[32];
    memset(endless, 0x66, sizeof endless);
    endless[31] = 0x90;
    assert_false(fh_decode(endless, &instruction));
}

int main(void)
{
    code_page =
        mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    closed_page = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_operands_are_those_that_fault),
        cmocka_unit_test(test_targets_of_jumps_are_named),
        cmocka_unit_test(test_segments_and_absolute_addresses),
        cmocka_unit_test(test_what_is_no_instruction_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
