/*
 * Where an object on the stack must end.
 *
 * A function's frame reads, from its caller's frame downwards: the return address, the registers
 * that it saved by pushing them, then its variables. No variable can contain one of these words, so
 * a range that begins below the lowest of them and goes on beyond it leaves its object, whatever
 * that is. What is between the variables is not seen: this is the coarse bound that needs nothing
 * but the compiler's own description of the frame (.eh_frame).
 *
 * The walk is the quick walk's (walk.c) without its memory of earlier ones: two registers, one rule
 * a frame, until the stack pointer has passed the address. Its rules lie in a table that all threads
 * share, since the libraries that ask keep nothing for each thread: an entry is three words, the
 * first of them the exclusive or of all that it is true for, so readers and writers need no order
 * (relaxed everywhere).
 *
 * Beside its rule an entry says how many words below the return address hold saved registers. Only
 * those count that follow each other without a gap, since compilers may also save a register in the
 * midst of the variables.
 *
 * Everything that is not plain ends the walk without an answer.
 */
#include "base/core/bits.h"
#include "stack/cfi.h"
#include "stack/module.h"
#include "stack/objects.h"
#include "stack/region.h"
#include "stack/root.h"

enum {
    FRAMES_MAX = 256,          /* objects are handed down a few frames, seldom dozens */
    SAVED_WORDS_MAX = 6,       /* rbx, rbp, r12 … r15 */
    FIRST_SAVED_REGISTER = 12, /* of the run r12 … r15 */
    LAST_SAVED_REGISTER = 15,
};

struct rule {
    uint32_t how;   /* cfi.h's rule */
    uint32_t ref;   /* the module's, or 0 */
    uint64_t saved; /* words */
};

/* ---- the rule of a frame -------------------------------------------------------------------- */

/* Whether the row says that the register `column` lies at CFA + offset. */
static bool is_saved_at(const struct fh_cfi_row *row, unsigned column, int64_t offset)
{
    return row->columns[column].how == FH_CFI_AT_OFFSET && row->columns[column].value == offset;
}

static bool is_any_saved_at(const struct fh_cfi_row *row, int64_t offset)
{
    if (is_saved_at(row, FH_CFI_RBX, offset) || is_saved_at(row, FH_CFI_RBP, offset))
        return true;
    for (unsigned column = FIRST_SAVED_REGISTER; column <= LAST_SAVED_REGISTER; column++) {
        if (is_saved_at(row, column, offset))
            return true;
    }
    return false;
}

static uint64_t saved_words(const struct fh_cfi_row *row)
{
    uint64_t words = 0;
    while (words < SAVED_WORDS_MAX && is_any_saved_at(row, -16 - 8 * (int64_t)words))
        words++;
    return words;
}

static FH_NOINLINE uint64_t count_saved(uintptr_t addr)
{
    struct fh_cfi_function fn;
    struct fh_cfi_run run;
    if (!fh_module_function(addr, &fn))
        return 0;
    fh_cfi_start(&run, &fn);
    while (fh_cfi_next(&run)) {
        if (addr < run.row.end)
            return saved_words(&run.row);
    }
    return 0;
}

static FH_NOINLINE bool find_rule(struct fh_frame_rule *entry, uintptr_t frame, struct rule *rule)
{
    if (frame == 0 || !fh_module_rule(frame - 1, &rule->how, &rule->ref))
        return false;
    rule->saved = count_saved(frame - 1);
    uint64_t word = (uint64_t)rule->ref << 32 | rule->how;
    atomic_store_explicit(&entry->key, frame ^ word ^ rule->saved, memory_order_relaxed);
    atomic_store_explicit(&entry->rule, word, memory_order_relaxed);
    atomic_store_explicit(&entry->saved, rule->saved, memory_order_relaxed);
    return true;
}

static bool rule_of(uintptr_t frame, struct rule *rule)
{
    size_t index = (frame ^ frame >> 12) % FH_FRAME_RULES;
    struct fh_frame_rule *entry = &fh_stack_root.objects.rules[index];
    uintptr_t key = atomic_load_explicit(&entry->key, memory_order_relaxed);
    uint64_t word = atomic_load_explicit(&entry->rule, memory_order_relaxed);
    uint64_t saved = atomic_load_explicit(&entry->saved, memory_order_relaxed);
    *rule = (struct rule){(uint32_t)word, (uint32_t)(word >> 32), saved};
    if ((key ^ word ^ saved) == frame && frame != 0 &&
        (rule->ref == 0 || fh_module_is_current(rule->ref, frame - 1)))
        return true;
    return find_rule(entry, frame, rule);
}

/* ---- the walk ------------------------------------------------------------------------------- */

struct step {
    uintptr_t cfa;
    uintptr_t saved;    /* the lowest saved word of the frame */
    uintptr_t saved_fp; /* where the caller's frame pointer lies; 0: it is the callee's */
};

/* gcc's realigned frames: the word at fp − offset, which leads to the CFA, is the lowest. */
static bool step_realigned(const struct fh_stack_frame *at, struct fh_stack_region region,
                           const struct rule *rule, struct step *step)
{
    uintptr_t word = at->fp - fh_rule_offset(rule->how);
    if (word % 8 != 0 || word < at->sp || word >= region.high || at->fp % 8 != 0 ||
        at->fp < at->sp || at->fp >= region.high)
        return false;
    *step = (struct step){fh_stack_load(word), word, at->fp};
    return true;
}

static bool step_from(const struct fh_stack_frame *at, struct fh_stack_region region,
                      const struct rule *rule, struct step *step)
{
    enum fh_rule_kind kind = fh_rule_kind(rule->how);
    if (kind == FH_RULE_RSP || kind == FH_RULE_RBP) {
        size_t slot = fh_rule_slot(rule->how);
        step->cfa = (kind == FH_RULE_RSP ? at->sp : at->fp) + fh_rule_offset(rule->how);
        step->saved = step->cfa - 8 - 8 * rule->saved;
        step->saved_fp = slot != 0 ? step->cfa - 8 * slot : 0;
    } else if (kind != FH_RULE_RBP_DEREF || !step_realigned(at, region, rule, step)) {
        return false;
    }
    return step->cfa > at->sp && step->cfa <= region.high && step->cfa % 8 == 0 &&
           (step->saved_fp == 0 || step->saved_fp >= at->sp);
}

bool fh_stack_object_bound(const struct fh_stack_frame *from, struct fh_stack_region region,
                           uintptr_t address, struct fh_stack_bound *bound)
{
    struct fh_stack_frame at = *from;
    struct rule rule;
    struct step step;
    for (int i = 0; i < FRAMES_MAX; i++) {
        if (!rule_of(at.frame, &rule) || !step_from(&at, region, &rule, &step))
            return false;
        uintptr_t caller = fh_stack_load(step.cfa - 8);
        if (address < step.cfa) {
            *bound = (struct fh_stack_bound){at.sp, step.saved, step.cfa, caller};
            return address < step.saved;
        }
        at.frame = caller;
        at.sp = step.cfa;
        if (step.saved_fp != 0)
            at.fp = fh_stack_load(step.saved_fp);
    }
    return false;
}
