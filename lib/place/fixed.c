/*
 * fixed: blocks one behind the other in static memory.
 *
 * The memory begins with the state (32 bytes), the blocks follow in steps of 16 bytes. Four numbers
 * are all there is: what is used, where the last block begins, the high-water mark, and the largest
 * alignment that was asked for. They count steps from the first block, so the memory may lie
 * anywhere; all zero is an empty buffer, so a static one needs no code to run before its first use.
 *
 *     state | block | block | gap | block (64-aligned) | ............... |
 *             0                                          used      peak  bytes/16
 *
 * Invariants (fh_fixed_check): last <= used <= peak <= steps; last is a step that is used, or
 * unknown.
 *
 * The alignment a block was given is not written down. What a resize that moves must keep is
 * bounded from above twice: by the address of the block, and by the largest alignment anybody asked
 * for. The smaller of both is at least what the block was given, and 16 where nobody asked for
 * more.
 *
 * Under AddressSanitizer and valgrind, what is not handed out may not be touched. There are no red
 * zones: the budget is exact in every build.
 */
#include "freehold/fixed.h"

#include "base/core/adapter.h"
#include "base/core/bits.h"
#include "base/core/fail.h"
#include "base/core/misuse.h"
#include "base/core/plant.h"
#include "base/core/poison.h"

#define STEP ((size_t)FH_ALIGN_DEFAULT)

_Static_assert(sizeof(struct fh_fixed_state) % FH_ALIGN_DEFAULT == 0, "blocks follow the state");

static unsigned char *blocks_of(const struct fh_fixed *fixed)
{
    return (unsigned char *)(fixed->state + 1);
}

static size_t used_bytes(const struct fh_fixed *fixed)
{
    return fixed->state->used * STEP;
}

/* Steps that a block takes; `size` is at most the budget. */
static uint32_t steps_of(size_t size)
{
    return (uint32_t)(size == 0 ? 1 : (size + STEP - 1) / STEP);
}

int fh_fixed_init(struct fh_fixed *fixed, const struct fh_fixed_options *options)
{
    const struct fh_place_options *place = options != NULL ? &options->place : NULL;
    if (place == NULL || place->memory == NULL)
        return fh_error(FH_EINVAL);
    uintptr_t begin = (uintptr_t)place->memory, base = fh_align_up(begin, STEP);
    if (base < begin || place->bytes < base - begin ||
        place->bytes - (base - begin) < sizeof(struct fh_fixed_state) + STEP)
        return fh_error(FH_EINVAL);
    size_t bytes = place->bytes - (base - begin) - sizeof(struct fh_fixed_state);
    *fixed = (struct fh_fixed){
        .state = (struct fh_fixed_state *)base,
        .bytes = fh_min(fh_align_down(bytes, STEP), (size_t)UINT32_MAX * STEP),
        .exhausted = place->exhausted,
        .exhausted_context = place->exhausted_context,
    };
    *fixed->state = (struct fh_fixed_state){0};
    return 0;
}

static bool is_state(const struct fh_fixed_state *state, size_t bytes)
{
    return state->last <= state->used && state->used <= state->peak && state->peak <= bytes / STEP;
}

int fh_fixed_attach(struct fh_fixed *fixed, void *memory, size_t bytes)
{
    struct fh_fixed_state *state = memory;
    if (memory == NULL || (uintptr_t)memory % STEP != 0 || bytes < sizeof *state + STEP ||
        !is_state(state, bytes - sizeof *state) ||
        (state->align != 0 && (!fh_is_pow2(state->align) ||
                               ((state->base_low ^ (uintptr_t)memory) & (state->align - 1)) != 0)))
        return fh_error(FH_EINVAL);
    *fixed = (struct fh_fixed){
        .state = state,
        .bytes = fh_min(fh_align_down(bytes - sizeof *state, STEP), (size_t)UINT32_MAX * STEP),
    };
    return 0;
}

/* The next `size` bytes, or NULL without a word. */
static void *take(struct fh_fixed *fixed, size_t size, size_t align)
{
    struct fh_fixed_state *state = fixed->state;
    unsigned char *end = blocks_of(fixed) + used_bytes(fixed);
    size_t left = fixed->bytes - used_bytes(fixed);
    size_t gap = FH_PLANT(fixed_forgets_alignment, 0, -(uintptr_t)end & (align - 1));
    if (gap > left || fh_max(size, 1) > left - gap)
        return NULL;
    if (fh_poison_is_on() && state->peak == 0)
        fh_poison(end, left);
    if (align > FH_ALIGN_DEFAULT && align > state->align) {
        state->align = (uint32_t)align;
        state->base_low = (uint32_t)(uintptr_t)state;
    }
    state->used += (uint32_t)(gap / STEP);
    state->last = state->used + 1;
    state->used += steps_of(size);
    if (state->used > state->peak)
        state->peak = state->used;
    fh_unpoison(end + gap, size);
    return end + gap;
}

void *fh_fixed_alloc_with(struct fh_fixed *fixed, size_t size, size_t align, unsigned flags)
{
    if (align == 0)
        align = FH_ALIGN_DEFAULT;
    if (!fh_is_pow2(align) || align > FH_ALIGN_MAX)
        return fh_fail(FH_EINVAL);
    align = fh_max(align, FH_ALIGN_DEFAULT);
    void *block = take(fixed, size, align);
    if (FH_UNLIKELY(block == NULL)) {
        if (fixed->exhausted != NULL && fixed->exhausted(fixed->exhausted_context, size))
            block = take(fixed, size, align);
        if (block == NULL)
            return fh_fail(FH_ENOMEM);
    }
    if (flags & FH_ALLOC_ZEROED)
        __builtin_memset(block, 0, FH_PLANT(fixed_zeroes_half, size / 2, size));
    return block;
}

void *fh_fixed_alloc(struct fh_fixed *fixed, size_t size)
{
    return fh_fixed_alloc_with(fixed, size, 0, 0);
}

bool fh_fixed_owns(const struct fh_fixed *fixed, const void *address)
{
    return (uintptr_t)address - (uintptr_t)blocks_of(fixed) < fixed->bytes;
}

/* Whether the block may be one: inside what is handed out, on a step, `size` bytes long. Else
 * reported. */
static bool is_block(const struct fh_fixed *fixed, const void *block, size_t size)
{
    size_t offset = (uintptr_t)block - (uintptr_t)blocks_of(fixed), used = used_bytes(fixed);
    if (offset >= used) {
        if (offset < fixed->state->peak * STEP)
            fh_misuse("double-free", block, "in static memory, where no block is any more");
        else
            fh_misuse("invalid-free", block, "not a block of this static memory");
        return false;
    }
    if (offset % STEP != 0) {
        fh_misuse("interior-free", block, "inside a block of static memory");
        return false;
    }
    if (size > used - offset) {
        fh_misuse("size-mismatch", block, "a block of static memory is shorter than that");
        return false;
    }
    return true;
}

/* The block is the last one: what it takes is free again. */
static void give_back(struct fh_fixed *fixed, const void *block)
{
    size_t offset = (uintptr_t)block - (uintptr_t)blocks_of(fixed);
    fh_poison(block, used_bytes(fixed) - offset);
    fixed->state->used = (uint32_t)(offset / STEP);
    fixed->state->last = 0;
}

static bool is_last(const struct fh_fixed *fixed, const void *block, size_t size)
{
    const struct fh_fixed_state *state = fixed->state;
    size_t step = (size_t)((uintptr_t)block - (uintptr_t)blocks_of(fixed)) / STEP;
    return step + 1 == state->last ||
           (size <= fixed->bytes && step + steps_of(size) == state->used);
}

void fh_fixed_free(struct fh_fixed *fixed, void *block)
{
    if (block == NULL || !is_block(fixed, block, 0))
        return;
    if (is_last(fixed, block, 0))
        give_back(fixed, block);
}

void fh_fixed_free_sized(struct fh_fixed *fixed, void *block, size_t size, size_t align)
{
    (void)align;
    if (block == NULL || !is_block(fixed, block, size))
        return;
    if (is_last(fixed, block, size))
        give_back(fixed, block);
}

/* Of the block's `room` bytes, new_size may be used from now on; old_size 0: how many could is not known. */
static void show(unsigned char *block, size_t old_size, size_t new_size, size_t room)
{
    if (old_size == 0)
        fh_unpoison_defined(block, new_size);
    else if (new_size > old_size)
        fh_unpoison(block + old_size, new_size - old_size);
    fh_poison(block + new_size, room - new_size);
}

bool fh_fixed_resize_in_place(struct fh_fixed *fixed, void *block, size_t old_size, size_t new_size)
{
    struct fh_fixed_state *state = fixed->state;
    size_t offset = (uintptr_t)block - (uintptr_t)blocks_of(fixed);
    if (!is_block(fixed, block, old_size) || new_size > fixed->bytes - offset)
        return false;
    if (!is_last(fixed, block, old_size)) {
        if (steps_of(new_size) > steps_of(old_size))
            return false;
        show(block, old_size, new_size, steps_of(old_size) * STEP);
        return true;
    }
    uint32_t end = (uint32_t)(offset / STEP) + steps_of(new_size);
    if (end > fixed->bytes / STEP)
        return false;
    size_t old_end = used_bytes(fixed);
    state->last = (uint32_t)(offset / STEP) + 1;
    state->used = end;
    if (end > state->peak)
        state->peak = end;
    show(block, old_size, new_size, fh_max(old_end, end * STEP) - offset);
    return true;
}

void *fh_fixed_resize(struct fh_fixed *fixed, void *block, size_t old_size, size_t new_size,
                      size_t align)
{
    if (block == NULL)
        return fh_fixed_alloc_with(fixed, new_size, align, 0);
    if (align != 0 && (!fh_is_pow2(align) || align > FH_ALIGN_MAX))
        return fh_fail(FH_EINVAL);
    if (!is_block(fixed, block, old_size))
        return fh_fail(FH_EINVAL);
    uintptr_t address = (uintptr_t)block;
    if ((address & (align == 0 ? 0 : align - 1)) == 0 &&
        fh_fixed_resize_in_place(fixed, block, old_size, new_size))
        return block;
    size_t kept =
        align != 0 ? align : fh_min(address & -address, fh_max(fixed->state->align, STEP));
    size_t rest = used_bytes(fixed) - (address - (uintptr_t)blocks_of(fixed));
    void *moved = fh_fixed_alloc_with(fixed, new_size, kept, 0);
    if (moved == NULL)
        return NULL;
    size_t copied = fh_min(old_size != 0 ? old_size : rest, new_size);
    if (old_size == 0)
        fh_unpoison_defined(block, copied); /* it may reach over the ends of blocks */
    __builtin_memcpy(moved, block, copied);
    return moved;
}

void fh_fixed_reset(struct fh_fixed *fixed)
{
    fh_poison(blocks_of(fixed), used_bytes(fixed));
    fixed->state->used = 0;
    fixed->state->last = 0;
}

void fh_fixed_destroy(struct fh_fixed *fixed)
{
    fh_unpoison(blocks_of(fixed), fixed->bytes);
    *fixed->state = (struct fh_fixed_state){0};
}

size_t fh_fixed_peak(const struct fh_fixed *fixed)
{
    return fixed->state->peak * STEP;
}

size_t fh_fixed_left(const struct fh_fixed *fixed)
{
    return fixed->bytes - used_bytes(fixed);
}

int fh_fixed_measure(const struct fh_fixed *fixed, struct fh_measure *out)
{
    if (out->size != sizeof *out)
        return fh_error(FH_EINVAL);
    size_t used = used_bytes(fixed), left = fh_fixed_left(fixed);
    size_t all = fixed->bytes + sizeof *fixed->state;
    *out = (struct fh_measure){
        .size = sizeof *out,
        .live_blocks = used != 0,
        .live_bytes = used,
        .free_bytes = left,
        .largest_free = left,
        .metadata = sizeof *fixed->state,
        .footprint = all,
        .reserved = all,
        .free_blocks = left != 0,
        .peak_footprint = all,
    };
    return 0;
}

int fh_fixed_walk(const struct fh_fixed *fixed,
                  int (*visit)(void *context, const struct fh_block *block), void *context)
{
    size_t used = used_bytes(fixed), left = fh_fixed_left(fixed);
    struct fh_block live = {blocks_of(fixed), used, true};
    struct fh_block free = {blocks_of(fixed) + used, left, false};
    int result = used != 0 ? visit(context, &live) : 0;
    return result == 0 && left != 0 ? visit(context, &free) : result;
}

int fh_fixed_check(const struct fh_fixed *fixed)
{
    const struct fh_fixed_state *state = fixed->state;
    if (is_state(state, fixed->bytes))
        return 0;
    fh_broken("fixed %p: last %u, used %u, peak %u of %zu steps", (const void *)fixed, state->last,
              state->used, state->peak, fixed->bytes / STEP);
    return 1;
}

/* ---- fh_allocator ---------------------------------------------------------------------------- */

FH_ADAPT_ALLOC(fixed)
FH_ADAPT_FREE(fixed)
FH_ADAPT_FREE_SIZED(fixed)
FH_ADAPT_RESIZE_SIZED(fixed)
FH_ADAPT_WHOLE(fixed)

struct fh_allocator fh_fixed_allocator(struct fh_fixed *fixed)
{
    static const struct fh_allocator_ops ops =
        FH_ADAPTER_OPS("fixed",
                       FH_ALLOCATOR_CONSTANT_TIME | FH_ALLOCATOR_NEEDS_SIZE | FH_ALLOCATOR_MOVES |
                           FH_ALLOCATOR_RELOCATABLE | FH_ALLOCATOR_NO_FREE,
                       op_resize_in_place, NULL);
    return (struct fh_allocator){&ops, fixed};
}
