/*
 * The quick walk: two registers, one cached rule a frame.
 *
 * State is {frame, sp, fp}: a return address, the stack and the frame pointer that the caller had.
 * Each turn looks the frame's rule up in the thread's cache (cfi.h), and the rule gives the next
 * state:
 *   - code with frame pointers: next state at fp. The processor follows the chain of frame pointers
 * while the rules are still being fetched, because the branch is predicted: 1–2 ns a frame;
 *   - code without: sp plus a constant. The chain goes through the table: about 5 ns a frame;
 *   - the rest in step_rarely.
 * So frame pointers are used where the compiler's own description says that they are right, never
 * by belief. Only code without any description is followed by its frame pointer, and then what it
 * leads to must lie behind a call instruction. A frame is validated when its rule is found: it lies
 * in executable code of a loaded module.
 *
 * Bounds: sp only grows, from the start to the region's end (a signal frame may lead to another
 * region, at most REGIONS_MAX times), and each word read lies in between: garbage ends the walk.
 *
 * The last walk: when a state is met that the last complete walk also went through, the rest is the
 * same as long as the words it read (return addresses and saved frame pointers) still are. These
 * loads do not depend on each other, so a deep stack costs about 1 ns a frame. Modules of frames on
 * the stack cannot be closed, so the rules have not changed.
 *
 * Signals: a handler may interrupt a capture and capture with the same cache. is_busy, set with
 * compiler barriers (same thread), makes it leave the cache's rules and last walk alone.
 */
#include "stack/stack.h"

#include "base/bits.h"
#include "stack/exact.h"
#include "stack/module.h"
#include "stack/region.h"
#include "stack/root.h"
#include "stack/ucontext.h"

enum {
    REGIONS_MAX = 8,
    CHECKED = 8, /* modules that a walk remembers to have found current */
};

struct walk {
    uintptr_t frame, sp, fp;
    uintptr_t low, high; /* what may be read: low is the first sp in this region */
    unsigned regions;
    bool is_complete; /* ended at the outermost frame */
    bool needs_exact;
    uint32_t checked[CHECKED];
};

/* ---- The rule of a frame
 * --------------------------------------------------------------------------------- */

static size_t cache_index(uintptr_t frame)
{
    return (frame ^ frame >> 9) % FH_STACK_CACHE_RULES;
}

/* False: not executable. */
static FH_NOINLINE bool find_rule(struct fh_stack_cache *cache, struct walk *walk, uint32_t *rule)
{
    uint32_t ref;
    if (walk->frame == 0 || !fh_module_rule(walk->frame - 1, rule, &ref))
        return false;
    if (ref != 0)
        walk->checked[ref % CHECKED] = ref;
    if (cache != NULL) {
        size_t index = cache_index(walk->frame);
        cache->rules[index].frame = walk->frame;
        cache->rules[index].rule = (uint64_t)ref << 32 | *rule;
    }
    return true;
}

/* A cached rule of a module that can be closed: asks the loader once a walk. */
static bool is_current(struct walk *walk, uint32_t ref)
{
    if (walk->checked[ref % CHECKED] == ref)
        return true;
    if (!fh_module_is_current(ref, walk->frame - 1))
        return false;
    walk->checked[ref % CHECKED] = ref;
    return true;
}

static bool rule_of(struct fh_stack_cache *cache, struct walk *walk, uint32_t *rule)
{
    if (cache != NULL) {
        size_t index = cache_index(walk->frame);
        uint64_t cached = cache->rules[index].rule;
        if (FH_LIKELY(cache->rules[index].frame == walk->frame && walk->frame != 0) &&
            (cached >> 32 == 0 || is_current(walk, (uint32_t)(cached >> 32)))) {
            *rule = (uint32_t)cached;
            return true;
        }
    }
    return find_rule(cache, walk, rule);
}

/* ---- Steps
 * -----------------------------------------------------------------------------------------------
 */

/* The caller's state, from its CFA. Slots lie below it. */
static bool step_to(struct walk *walk, uintptr_t cfa, size_t slot)
{
    uintptr_t grown = cfa - walk->sp;
    if (grown - 8 > walk->high - walk->sp - 8 || walk->high - walk->sp < 8 || grown % 8 != 0)
        return false;
    if (slot * 8 > cfa - walk->low)
        return false;
    walk->frame = fh_stack_load(cfa - 8);
    if (slot != 0)
        walk->fp = fh_stack_load(cfa - slot * 8);
    walk->sp = cfa;
    return true;
}

static bool can_read(const struct walk *walk, uintptr_t addr, size_t size)
{
    return addr >= walk->low && addr < walk->high && walk->high - addr >= size;
}

static bool step_realigned(struct walk *walk, uint32_t rule)
{
    uintptr_t at = walk->fp - fh_rule_offset(rule), fp = walk->fp;
    if (!can_read(walk, at, 8) || !can_read(walk, fp, 8) || !step_to(walk, fh_stack_load(at), 0))
        return false;
    walk->fp = fh_stack_load(fp);
    return true;
}

static bool enter_region(struct fh_stack_cache *cache, struct walk *walk)
{
    struct fh_stack_region region = fh_stack_region_of(cache, walk->sp);
    walk->low = walk->sp;
    walk->high = region.high;
    return ++walk->regions <= REGIONS_MAX;
}

static bool step_signal(struct fh_stack_cache *cache, struct walk *walk)
{
    uintptr_t context = walk->sp, sp = walk->sp;
    if (!can_read(walk, context, FH_UCONTEXT_BYTES))
        return false;
    walk->frame = fh_ucontext_register((const void *)context, FH_UCONTEXT_RIP) + 1;
    walk->fp = fh_ucontext_register((const void *)context, FH_UCONTEXT_RBP);
    walk->sp = fh_ucontext_register((const void *)context, FH_UCONTEXT_RSP);
    if (walk->sp - sp < walk->high - sp)
        return true;
    return enter_region(cache, walk);
}

static bool step_guessing(struct walk *walk)
{
    uintptr_t fp = walk->fp;
    if (fp % 8 != 0 || fp < walk->sp || !can_read(walk, fp, 16) ||
        !fh_module_is_return_address(fh_stack_load(fp + 8)))
        return false;
    atomic_fetch_add_explicit(&fh_stack_root.guessed_frames, 1, memory_order_relaxed);
    return step_to(walk, fp + 16, 2);
}

static FH_NOINLINE bool step_rarely(struct fh_stack_cache *cache, struct walk *walk, uint32_t rule)
{
    switch (fh_rule_kind(rule)) {
    case FH_RULE_RBP_DEREF:
        return step_realigned(walk, rule);
    case FH_RULE_SIGNAL:
        return step_signal(cache, walk);
    case FH_RULE_NONE:
        return step_guessing(walk);
    case FH_RULE_END:
        walk->is_complete = true;
        return false;
    default:
        walk->needs_exact = true;
        return false;
    }
}

static bool step(struct fh_stack_cache *cache, struct walk *walk, uint32_t rule)
{
    if (rule == FH_RULE_FRAME_POINTER)
        return step_to(walk, walk->fp + 16, 2);
    if (fh_rule_kind(rule) == FH_RULE_RSP)
        return step_to(walk, walk->sp + fh_rule_offset(rule), fh_rule_slot(rule));
    if (fh_rule_kind(rule) == FH_RULE_RBP)
        return step_to(walk, walk->fp + fh_rule_offset(rule), fh_rule_slot(rule));
    return step_rarely(cache, walk, rule);
}

/* ---- The walk
 * -------------------------------------------------------------------------------------------- */

static size_t go(struct fh_stack_cache *cache, struct walk *walk, const struct fh_stack_output *out)
{
    size_t n = 0, index = 0;
    uint32_t rule;
    while (n < out->max && rule_of(cache, walk, &rule)) {
        if (index++ >= out->skip)
            out->frames[n++] = walk->frame;
        if (!step(cache, walk, rule))
            return n;
        /* The kernel's return address is no call's: it is the first instruction of the trampoline.
         */
        if (FH_UNLIKELY(fh_rule_kind(rule) == FH_RULE_SIGNAL) && n != 0 && index > out->skip)
            out->frames[n - 1]++;
    }
    walk->is_complete = walk->is_complete || n == out->max;
    return n;
}

static void count_broken(const struct walk *walk)
{
    if (!walk->is_complete && !walk->needs_exact)
        atomic_fetch_add_explicit(&fh_stack_root.broken_walks, 1, memory_order_relaxed);
}

static void begin(struct walk *walk, struct fh_stack_cache *cache)
{
    walk->low = walk->sp;
    walk->high = fh_stack_region_of(cache, walk->sp).high;
}

/* The cache for rules, or NULL while a capture that we interrupted uses it. */
static struct fh_stack_cache *lock_cache(struct fh_stack_cache *cache)
{
    if (cache == NULL || cache->is_busy)
        return NULL;
    cache->is_busy = true;
    atomic_signal_fence(memory_order_seq_cst);
    return cache;
}

static void unlock_cache(struct fh_stack_cache *cache)
{
    atomic_signal_fence(memory_order_seq_cst);
    if (cache != NULL)
        cache->is_busy = false;
}

FH_NOINLINE size_t fh_stack_capture(struct fh_stack_cache *cache, uintptr_t *frames, size_t max,
                                    size_t skip)
{
    const uintptr_t *here = __builtin_frame_address(0);
    struct walk walk = {.frame = here[1], .sp = (uintptr_t)(here + 2), .fp = here[0]};
    struct fh_stack_output out = {frames, max, skip};
    uintptr_t sp = walk.sp;
    cache = lock_cache(cache);
    begin(&walk, cache);
    size_t n = go(cache, &walk, &out);
    if (FH_UNLIKELY(walk.needs_exact))
        n = fh_stack_exact(cache, sp, &out);
    count_broken(&walk);
    unlock_cache(cache);
    return n;
}

/* A call through a null or wild pointer: the call has pushed a return address, nothing else has
 * happened. */
static size_t start_of_wild_call(struct walk *walk, struct fh_stack_output *out)
{
    struct fh_module_place place;
    if (fh_module_at(walk->frame - 1, &place) || !can_read(walk, walk->sp, 8) || out->max == 0)
        return 0;
    size_t written = 0;
    if (out->skip != 0)
        out->skip--;
    else
        out->frames[written++] = walk->frame;
    out->frames += written;
    out->max -= written;
    walk->frame = fh_stack_load(walk->sp);
    walk->sp += 8;
    return written;
}

size_t fh_stack_capture_from(struct fh_stack_cache *cache, const void *ucontext, uintptr_t *frames,
                             size_t max, size_t skip)
{
    struct walk walk = {.frame = fh_ucontext_register(ucontext, FH_UCONTEXT_RIP) + 1,
                        .sp = fh_ucontext_register(ucontext, FH_UCONTEXT_RSP),
                        .fp = fh_ucontext_register(ucontext, FH_UCONTEXT_RBP)};
    struct fh_stack_output out = {frames, max, skip};
    cache = lock_cache(cache);
    begin(&walk, cache);
    size_t n = start_of_wild_call(&walk, &out);
    n += go(cache, &walk, &out);
    if (FH_UNLIKELY(walk.needs_exact)) {
        struct fh_stack_output whole = {frames, max, skip};
        n = fh_stack_exact_from(cache, ucontext, &whole);
    }
    count_broken(&walk);
    unlock_cache(cache);
    return n;
}

void fh_stack_init(void)
{
    fh_module_read_list();
}

void fh_stack_reset_in_child(void)
{
    fh_module_reset_in_child();
}

void fh_stack_counts(struct fh_stack_counts *counts)
{
    const struct fh_modules *modules = &fh_stack_root.modules;
    *counts = (struct fh_stack_counts){
        .exact = atomic_load_explicit(&fh_stack_root.exact_walks, memory_order_relaxed),
        .broken = atomic_load_explicit(&fh_stack_root.broken_walks, memory_order_relaxed),
        .guessed = atomic_load_explicit(&fh_stack_root.guessed_frames, memory_order_relaxed),
        .tables = atomic_load_explicit(&modules->table_bytes, memory_order_relaxed),
        .modules = atomic_load_explicit(&modules->slots_used, memory_order_relaxed),
    };
}
