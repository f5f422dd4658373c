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
 * The last walk: when a state is met that the last walk also went through, the rest is the same for
 * as long as the words that it read (return addresses and saved frame pointers) are. These loads do
 * not depend on each other, so a known frame costs less than a nanosecond. Modules with frames on
 * the stack cannot be closed, so the rules have not changed either. The walk that goes on is
 * written beside the last one, state by state, and replaces it at its end. A step that is not of
 * the two plain kinds empties what was written: its state cannot be verified by the words below it.
 *
 * Signals: a handler may interrupt a capture and capture with the same cache. is_busy, set with
 * compiler barriers (same thread), makes it leave the cache's rules and last walk alone.
 */
#include "stack/stack.h"

#include "base/core/bits.h"
#include "stack/exact.h"
#include "stack/module.h"
#include "stack/region.h"
#include "stack/root.h"
#include "stack/ucontext.h"

#include <string.h>

enum {
    REGIONS_MAX = 8,
    RED_ZONE_BYTES = 128, /* below sp, kept by signal handlers (System V ABI, x86-64) */
    CHECKED = 8,          /* modules that a walk remembers to have found current */
};

struct walk {
    uintptr_t frame, sp, fp, saved; /* as in struct fh_stack_state */
    size_t index;                   /* frames passed so far, skipped ones too */
    struct fh_stack_state *past;    /* the last walk */
    size_t past_at;                 /* its states before this one will not be met any more */
    struct fh_stack_state *now;     /* this walk, now_len states of it */
    size_t now_len;
    bool is_kept;        /* the last walk is up to date again: nothing more is written */
    uint32_t module;     /* ref of the module that was last found current */
    uintptr_t low, high; /* what may be read: from the first sp's red zone on */
    unsigned regions;
    bool is_complete; /* ended at the outermost frame */
    bool needs_exact;
    bool is_past_high; /* the last step wanted to go beyond the region */
    uint32_t checked[CHECKED];
};

/* ---- The rule of a frame -------------------------------------------------------------------- */

/* A frame's rule is in one of two adjacent places: of 20 frames two often meet in the same one. */
static size_t cache_index(uintptr_t frame)
{
    return (frame ^ frame >> 9) % FH_STACK_CACHE_RULES;
}

static void put_rule(struct fh_stack_cache *cache, uintptr_t frame, uint64_t rule)
{
    size_t index = cache_index(frame);
    if (cache->rules[index].frame != 0 && cache->rules[index].frame != frame)
        cache->rules[index ^ 1] = cache->rules[index];
    cache->rules[index].frame = frame;
    cache->rules[index].rule = rule;
}

/* False: not executable. */
static FH_NOINLINE bool find_rule(struct fh_stack_cache *cache, struct walk *walk, uint32_t *rule)
{
    uint32_t ref;
    if (walk->frame == 0 || !fh_module_rule(walk->frame - 1, rule, &ref))
        return false;
    if (ref != 0)
        walk->checked[ref % CHECKED] = walk->module = ref;
    if (cache != NULL)
        put_rule(cache, walk->frame, (uint64_t)ref << 32 | *rule);
    return true;
}

/* A cached rule of a module that can be closed: asks the loader once a walk. */
static bool is_current(struct walk *walk, uint32_t ref)
{
    if (walk->checked[ref % CHECKED] == ref) {
        walk->module = ref;
        return true;
    }
    if (!fh_module_is_current(ref, walk->frame - 1))
        return false;
    walk->checked[ref % CHECKED] = walk->module = ref;
    return true;
}

static bool rule_of(struct fh_stack_cache *cache, struct walk *walk, uint32_t *rule)
{
    if (cache != NULL) {
        size_t index = cache_index(walk->frame);
        if (cache->rules[index].frame != walk->frame)
            index ^= 1;
        uint64_t cached = cache->rules[index].rule;
        if (FH_LIKELY(cache->rules[index].frame == walk->frame && walk->frame != 0) &&
            (cached >> 32 == 0 || is_current(walk, (uint32_t)(cached >> 32)))) {
            *rule = (uint32_t)cached;
            return true;
        }
    }
    return find_rule(cache, walk, rule);
}

/* ---- Steps ---------------------------------------------------------------------------------- */

/* The caller's state, from its CFA. Slots lie below it. */
static bool step_to(struct walk *walk, uintptr_t cfa, size_t slot)
{
    walk->is_past_high = cfa > walk->high;
    if (cfa <= walk->sp || cfa > walk->high || cfa % 8 != 0 || slot * 8 > cfa - walk->low)
        return false;
    walk->frame = fh_stack_load(cfa - 8);
    if (slot != 0)
        walk->fp = fh_stack_load(cfa - slot * 8);
    walk->sp = cfa;
    return true;
}

static bool can_read(const struct walk *walk, uintptr_t addr, size_t size)
{
    return addr % 8 == 0 && addr >= walk->low && addr < walk->high && walk->high - addr >= size;
}

static bool step_realigned(struct walk *walk, uint32_t rule)
{
    uintptr_t at = walk->fp - fh_rule_offset(rule), fp = walk->fp;
    if (!can_read(walk, at, 8) || !can_read(walk, fp, 8) || !step_to(walk, fh_stack_load(at), 0))
        return false;
    walk->fp = fh_stack_load(fp);
    return true;
}

/* A stack pointer between two words is damage: there is nothing to read then. The red zone below it
 * may be read: behind `pop %rbp` compilers leave the rule that finds it just there. */
static void enter_region(struct fh_stack_cache *cache, struct walk *walk)
{
    struct fh_stack_region region = {walk->sp, walk->sp};
    if (walk->sp % 8 == 0)
        region = fh_stack_region_of(cache, walk->sp);
    walk->low = fh_max(region.low, walk->sp - RED_ZONE_BYTES);
    walk->high = region.high;
    walk->regions++;
}

static bool step_signal(struct fh_stack_cache *cache, struct walk *walk)
{
    uintptr_t context = walk->sp, sp = walk->sp;
    if (!can_read(walk, context, FH_UCONTEXT_BYTES))
        return false;
    walk->frame = fh_ucontext_register((const void *)context, FH_UCONTEXT_RIP) + 1;
    walk->fp = fh_ucontext_register((const void *)context, FH_UCONTEXT_RBP);
    walk->sp = fh_ucontext_register((const void *)context, FH_UCONTEXT_RSP);
    if (walk->sp % 8 != 0 || walk->sp - sp >= walk->high - sp)
        enter_region(cache, walk);
    return walk->regions <= REGIONS_MAX;
}

static bool step_guessing(struct walk *walk)
{
    uintptr_t fp = walk->fp;
    if (fp < walk->sp || !can_read(walk, fp, 16) ||
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

/* ---- The last walk -------------------------------------------------------------------------- */

static void emit(const struct fh_stack_output *out, size_t index, uintptr_t frame)
{
    if (index >= out->skip)
        out->frames[index - out->skip] = frame;
}

/* What was written becomes the last walk. */
static void keep(struct fh_stack_cache *cache, struct walk *walk)
{
    walk->now[walk->now_len].sp =
        UINTPTR_MAX; /* what is searched for is found here at the latest */
    cache->last ^= 1;
    cache->last_len = walk->now_len;
    walk->past = walk->now;
    walk->is_kept = true;
}

/* Writes states [from, to) of the last walk. What does not fit is forgotten from the inside. */
static void write_past(struct walk *walk, size_t from, size_t to)
{
    if (walk->now_len + (to - from) > FH_STACK_CACHE_FRAMES)
        walk->now_len = 0;
    memcpy(&walk->now[walk->now_len], &walk->past[from], (to - from) * sizeof(walk->past[0]));
    walk->now_len += to - from;
}

static bool is_unchanged(const struct fh_stack_state *state)
{
    return fh_stack_load(state->sp - 8) == state->frame &&
           (state->saved == 0 || fh_stack_load(state->saved) == state->fp);
}

/* The walk stands at state past_at of the last one: goes on along its states as far as they hold.
 * Where they end the walk then stands, and that frame is not yet given out. */
static FH_NOINLINE void follow_last(struct fh_stack_cache *cache, struct walk *walk,
                                    const struct fh_stack_output *out, size_t end)
{
    const struct fh_stack_state *past = walk->past;
    size_t begin = walk->past_at, at = begin;
    size_t limit = fh_min(cache->last_len, at + (end - walk->index));
    while (limit > at + 1 && past[limit - 1].sp > walk->high)
        limit--;
    while (at + 1 < limit && is_unchanged(&past[at + 1]))
        emit(out, walk->index++, past[at++].frame);
    walk->frame = past[at].frame;
    walk->sp = past[at].sp;
    walk->fp = past[at].fp;
    walk->saved = past[at].saved;
    if (at + 1 < limit) {
        write_past(walk, begin, at);
        walk->past_at = at + 1;
    } else if (walk->now_len == 0) {
        walk->is_kept = true;
        walk->past_at = cache->last_len;
    } else {
        write_past(walk, begin, cache->last_len);
        keep(cache, walk);
        walk->past_at = cache->last_len;
    }
}

/* ---- The walk ------------------------------------------------------------------------------- */

/* gcc 12 packs a state into two vector registers for the sake of storing it; taking it apart again
 * for each frame was measured to double the time. */
#define KEEP_SCALAR(a, b, c, d) __asm__("" : "+r"(a), "+r"(b), "+r"(c), "+r"(d))

/* Goes on while rules are cached and plain; leaves the walk at the first frame that needs more. All
 * of its state is in registers: this is the loop that the room's figures are about. */
static FH_NOINLINE void go_quickly(struct fh_stack_cache *cache, struct walk *walk,
                                   const struct fh_stack_output *out, size_t end)
{
    uintptr_t frame = walk->frame, sp = walk->sp, fp = walk->fp, saved = walk->saved;
    const uintptr_t high = walk->high, fp_max = high - 16;
    struct fh_stack_state *past = &walk->past[walk->past_at];
    struct fh_stack_state *const now = walk->now;
    size_t index = walk->index, now_len = walk->now_len;
    const uint32_t module = walk->module;
    bool is_kept = walk->is_kept;
    uintptr_t *const frames = out->frames;
    const size_t skip = out->skip;
    while (index < end) {
        size_t hash = cache_index(frame);
        if (FH_UNLIKELY(cache->rules[hash].frame != frame)) {
            hash ^= 1;
            if (cache->rules[hash].frame != frame)
                break;
        }
        uint64_t rule = cache->rules[hash].rule;
        if (rule >> 32 != 0 && (uint32_t)(rule >> 32) != module)
            break;
        while (past->sp < sp)
            past++;
        if (past->sp == sp && past->frame == frame && past->fp == fp) {
            walk->index = index;
            walk->now_len = now_len;
            walk->past_at = (size_t)(past - walk->past);
            follow_last(cache, walk, out, end);
            past = &walk->past[walk->past_at];
            now_len = walk->now_len;
            is_kept = walk->is_kept;
            index = walk->index;
            frame = walk->frame;
            sp = walk->sp;
            fp = walk->fp;
            saved = walk->saved;
            continue;
        }
        uintptr_t cfa, caller_fp = fp, caller_saved = 0;
        if ((uint32_t)rule == FH_RULE_FRAME_POINTER) {
            if (fp < sp || fp > fp_max || fp % 8 != 0)
                break;
            cfa = fp + 16;
            caller_saved = fp;
            caller_fp = fh_stack_load(fp);
        } else if (fh_rule_kind((uint32_t)rule) == FH_RULE_RSP) {
            size_t slot = fh_rule_slot((uint32_t)rule);
            cfa = sp + fh_rule_offset((uint32_t)rule);
            if (cfa > high)
                break;
            if (slot != 0) {
                caller_saved = cfa - slot * 8;
                if (caller_saved < sp)
                    break;
                caller_fp = fh_stack_load(caller_saved);
            }
        } else {
            break;
        }
        if (index >= skip)
            frames[index - skip] = frame;
        index++;
        if (!is_kept) {
            /* A walk that is too deep begins anew, so that its outermost frames stay. */
            now_len = now_len < FH_STACK_CACHE_FRAMES ? now_len : 0;
            now[now_len++] = (struct fh_stack_state){frame, sp, fp, saved};
        }
        frame = fh_stack_load(cfa - 8);
        sp = cfa;
        fp = caller_fp;
        saved = caller_saved;
        KEEP_SCALAR(frame, sp, fp, saved);
    }
    walk->frame = frame;
    walk->sp = sp;
    walk->fp = fp;
    walk->saved = saved;
    walk->index = index;
    walk->now_len = now_len;
    walk->past_at = (size_t)(past - walk->past);
}

/* One frame by any rule; false at the end of the walk. */
static bool go_surely(struct fh_stack_cache *cache, struct walk *walk,
                      const struct fh_stack_output *out, uint32_t rule)
{
    size_t index = walk->index++;
    uintptr_t frame = walk->frame;
    bool has_stepped = step(cache, walk, rule);
    if (!has_stepped && walk->is_past_high && cache != NULL) {
        uintptr_t high = fh_stack_region_again(cache, walk->sp).high;
        if (high > walk->high) {
            walk->high = high;
            has_stepped = step(cache, walk, rule);
        }
    }
    /* The kernel's return address is no call's: it is the first instruction of the trampoline. */
    emit(out, index, frame + (has_stepped && fh_rule_kind(rule) == FH_RULE_SIGNAL));
    walk->saved = 0;
    if (has_stepped)
        walk->now_len = 0;
    return has_stepped;
}

static size_t go(struct fh_stack_cache *cache, struct walk *walk, const struct fh_stack_output *out)
{
    size_t end = out->skip + out->max < out->skip ? SIZE_MAX : out->skip + out->max;
    size_t looked_up = SIZE_MAX; /* the frame that go_quickly was sent back to with its rule */
    uint32_t rule;
    if (cache != NULL) {
        walk->past = cache->walks[cache->last];
        walk->now = cache->walks[cache->last ^ 1];
        walk->past[cache->last_len].sp = UINTPTR_MAX;
    }
    for (;;) {
        if (cache != NULL)
            go_quickly(cache, walk, out, end);
        if (walk->index >= end || !rule_of(cache, walk, &rule))
            break;
        if (cache != NULL && looked_up != walk->index &&
            (fh_rule_kind(rule) == FH_RULE_RSP || rule == FH_RULE_FRAME_POINTER)) {
            looked_up = walk->index;
            continue;
        }
        if (!go_surely(cache, walk, out, rule))
            break;
    }
    if (cache != NULL && !walk->is_kept && walk->now_len != 0)
        keep(cache, walk);
    walk->is_complete = walk->is_complete || walk->index >= end;
    return walk->index > out->skip ? walk->index - out->skip : 0;
}

static void count_broken(const struct walk *walk)
{
    if (!walk->is_complete && !walk->needs_exact)
        atomic_fetch_add_explicit(&fh_stack_root.broken_walks, 1, memory_order_relaxed);
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
    enter_region(cache, &walk);
    size_t n = go(cache, &walk, &out);
    if (FH_UNLIKELY(walk.needs_exact))
        n = fh_stack_exact(cache, sp, &out);
    count_broken(&walk);
    unlock_cache(cache);
    return n;
}

size_t fh_stack_capture_at(struct fh_stack_cache *cache, uintptr_t frame, uintptr_t sp, uintptr_t fp,
                           uintptr_t *frames, size_t max)
{
    struct walk walk = {.frame = frame, .sp = sp, .fp = fp};
    struct fh_stack_output out = {frames, max, 0};
    cache = lock_cache(cache);
    enter_region(cache, &walk);
    size_t n = go(cache, &walk, &out);
    if (FH_UNLIKELY(walk.needs_exact))
        n = fh_stack_exact(cache, sp, &out);
    count_broken(&walk);
    unlock_cache(cache);
    return n;
}

const struct fh_stack_state *fh_stack_last_walk(const struct fh_stack_cache *cache, uintptr_t sp,
                                                const uintptr_t *frames, size_t count, size_t max,
                                                size_t *len)
{
    const struct fh_stack_state *states = cache->walks[cache->last];
    size_t first = 0, n = 0;
    while (first < cache->last_len && states[first].sp < sp)
        first++;
    states += first;
    while (first + n < cache->last_len && n < count && states[n].frame == frames[n])
        n++;
    if (n == 0 || states[0].sp != sp || sp < cache->own.low || states[n - 1].sp > cache->own.high)
        return NULL;
    *len = n;
    return n == count ? (count == max ? states : NULL) : n + 1 == count ? states : NULL;
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
    enter_region(cache, &walk);
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
