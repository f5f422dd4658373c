/*
 * A model of one allocator, driven by bytes: the fuzzer's input and the property tests' random strings
 * are read the same way, so whatever either finds is a unit test at once.
 *
 * Four bytes choose the allocator, what it stands on, where a buffer begins and the range of sizes; then
 * each step takes six bytes {call, slot, octave, fraction, alignment, way}, so a sequence from which steps
 * are taken out is a sequence again: that is what shrinking (shrink.h) relies on.
 *
 * The model knows of each live block its place, sizes, the alignment it was given and its contents, and
 * keeps the blocks sorted by address: what overlaps a block is its neighbour. It knows which calls may
 * fail: those that a growth is refused to, those without growth, those beyond what the kind is sure of.
 * Claims, after each step: alignment, usable >= requested, no overlap, contents kept, zeroes where
 * promised, the errno of failures, nothing written outside a buffer, no growth where none was allowed;
 * walk shows each live block once, as live, and nothing free over it; measure agrees with walk; owns() knows
 * them; check() finds nothing. Misuse is reported by its right name and changes nothing. A relocatable
 * allocator is moved, its old place scribbled over, and goes on.
 *
 * A claim that fails prints itself and ends by abort(), which cmocka, libFuzzer and shrink.h all see.
 * With `is_told` each step is printed first, as the C that it is.
 */
#ifndef FH_TESTS_ALLOCATOR_MODEL_H
#define FH_TESTS_ALLOCATOR_MODEL_H

#include "allocators.h"
#include "base/message.h"
#include "freehold/stats.h"

#include <unistd.h>

#define MODEL_SLOTS        64u
#define MODEL_HEADER_BYTES 4u
#define MODEL_STEP_BYTES   6u
#define MODEL_SURVEY_EVERY 24u /* of kinds that are slow to survey */

struct model_block {
    unsigned char *ptr;
    size_t requested;
    size_t usable;      /* that may be written: what the allocator says, or what was asked for */
    size_t asked_align; /* as it was asked for, 0 too */
    size_t align;       /* that it must have */
    uint64_t tag;
};

struct allocator_model {
    struct subject subject;
    struct fh_allocator a; /* the subject's */
    bool may_fail;         /* any call: failures are injected from outside */
    bool is_told;
    bool has_no_misuse; /* leave misuse out: messages and settings are the process's */
    size_t octaves;     /* sizes go up to 2^octaves */
    unsigned long steps;
    unsigned long calls;
    unsigned long failed;
    uint64_t tags;
    size_t live_bytes; /* what the live blocks cost at most; of NO_FREE all since reset */
    bool is_refusing;  /* growths are refused now */
    struct model_block slots[MODEL_SLOTS];
    unsigned char by_address[MODEL_SLOTS]; /* slots of live blocks, sorted */
    unsigned live;
    const uint8_t *input;
    size_t input_left;
    unsigned char *arena, *other; /* subject_arena_bytes() each; they change roles at a move */
    size_t offset;
};

#define MODEL_CLAIM(model, claim, ...)                                                             \
    do {                                                                                           \
        if (!(claim)) {                                                                            \
            fprintf(stderr, "allocator %s over a %s, step %lu: expected ",                         \
                    (model)->subject.kind->name, ground_names[(model)->subject.ground],            \
                    (model)->steps);                                                               \
            fprintf(stderr, __VA_ARGS__);                                                          \
            fprintf(stderr, "\n");                                                                 \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

#define MODEL_TELL(model, ...) ((model)->is_told ? (void)fprintf(stderr, __VA_ARGS__) : (void)0)

/* ---- blocks ------------------------------------------------------------------------------------ */

/* Each byte of small blocks and of the beginning of large ones, then one of 127, and the last. */
static inline size_t model_next(size_t i, size_t usable)
{
    if (usable <= 4096 || i < 1024 || i + 1 >= usable)
        return i + 1;
    return i + 127 < usable ? i + 127 : usable - 1;
}

static inline void model_fill(struct model_block *block)
{
    for (size_t i = 0; i < block->usable; i = model_next(i, block->usable))
        block->ptr[i] = (unsigned char)((block->tag >> (i % 8 * 8)) + i / 8);
}

/* `at`, which may be another place than the block was filled at, has the block's first `size` bytes. */
static inline void model_compare(struct allocator_model *model, const struct model_block *block,
                                 const unsigned char *at, size_t size, const char *when)
{
    for (size_t i = 0; i < size && i < block->usable; i = model_next(i, block->usable))
        MODEL_CLAIM(model, at[i] == (unsigned char)((block->tag >> (i % 8 * 8)) + i / 8),
                    "byte %zu of the block at %p (%zu asked, %zu usable) to be kept %s", i,
                    (void *)block->ptr, block->requested, block->usable, when);
}

/* A block takes at least one byte of address space, so that each is a block of its own. */
static inline uintptr_t model_end(const struct model_block *block)
{
    return (uintptr_t)block->ptr + fh_max(block->usable, 1);
}

/* The first in address order that ends behind `address`: model->live if none does. */
static inline unsigned model_find(const struct allocator_model *model, uintptr_t address)
{
    unsigned low = 0, high = model->live;

    while (low < high) {
        unsigned middle = (low + high) / 2;
        if (model_end(&model->slots[model->by_address[middle]]) <= address)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* The live block that [begin, end) overlaps, or NULL. */
static inline const struct model_block *model_overlapped(const struct allocator_model *model,
                                                         uintptr_t begin, uintptr_t end)
{
    unsigned at = model_find(model, begin);
    const struct model_block *block;

    if (at == model->live)
        return NULL;
    block = &model->slots[model->by_address[at]];
    return (uintptr_t)block->ptr < end ? block : NULL;
}

/* What a request takes at most of a manager that rounds sizes to powers of two and keeps a header. */
static inline size_t model_cost(size_t size, size_t align)
{
    return fh_pow2_ceil(fh_max(size, 48)) * 2 + (align > FH_ALIGN_DEFAULT ? align : 0);
}

/* A new block goes into the slot; `asked_align` as in the call, `align` what it must have. */
static inline void model_enter(struct allocator_model *model, struct model_block *slot, void *ptr,
                               size_t size, size_t asked_align, size_t align)
{
    struct model_block block = {
        .ptr = ptr, .requested = size, .asked_align = asked_align, .align = align};
    size_t usable;

    MODEL_CLAIM(model, (uintptr_t)ptr % align == 0, "a block of %zu bytes aligned to %zu, got %p",
                size, align, ptr);
    usable = fh_allocator_usable_size(&model->a, ptr);
    MODEL_CLAIM(model,
                usable >= size ||
                    (usable == 0 && (fh_allocator_can(&model->a, FH_ALLOCATOR_NEEDS_SIZE) ||
                                     model->a.ops->usable_size == NULL)),
                "%zu usable bytes or more, got %zu", size, usable);
    block.usable = fh_max(usable, size);
    const struct model_block *other = model_overlapped(model, (uintptr_t)ptr, model_end(&block));
    MODEL_CLAIM(model, other == NULL,
                "%p (%zu usable) not to overlap the live block %p (%zu usable)", ptr, block.usable,
                (void *)other->ptr, other->usable);
    for (size_t i = 0; i < SUBJECT_QUARANTINED; i++)
        MODEL_CLAIM(model, model->subject.quarantined[i] != ptr,
                    "%p not to be handed out while it is in quarantine", ptr);
    MODEL_CLAIM(model, fh_allocator_owns(&model->a, ptr), "the allocator to own its block %p", ptr);
    block.tag = model->tags = model->tags * 0x5851f42d4c957f2du + 0x14057b7ef767814fu;
    model_fill(&block);
    unsigned at = model_find(model, (uintptr_t)ptr);
    memmove(model->by_address + at + 1, model->by_address + at, model->live - at);
    model->by_address[at] = (unsigned char)(slot - model->slots);
    model->live++;
    model->live_bytes += model_cost(size, align);
    *slot = block;
}

static inline void model_leave(struct allocator_model *model, struct model_block *slot)
{
    unsigned at = model_find(model, (uintptr_t)slot->ptr);

    model->live--;
    memmove(model->by_address + at, model->by_address + at + 1, model->live - at);
    if (!fh_allocator_can(&model->a, FH_ALLOCATOR_NO_FREE))
        model->live_bytes -= model_cost(slot->requested, slot->align);
    *slot = (struct model_block){0};
}

static inline void model_forget(struct allocator_model *model)
{
    memset(model->slots, 0, sizeof model->slots);
    model->live = 0;
    model->live_bytes = 0;
}

/* ---- the survey: the allocator as a whole ------------------------------------------------------ */

struct model_walk {
    struct allocator_model *model;
    size_t live, live_bytes, known, free, free_bytes, largest_free;
    const struct fh_block *last;
    struct fh_block last_block;
    bool is_seen[MODEL_SLOTS];
};

static inline void model_visit_live(struct model_walk *walk, const struct fh_block *block)
{
    struct allocator_model *model = walk->model;
    uintptr_t begin = (uintptr_t)block->address, end = begin + fh_max(block->usable, 1);

    walk->live++;
    walk->live_bytes += block->usable;
    for (unsigned at = model_find(model, begin); at < model->live; at++) {
        unsigned slot = model->by_address[at];
        const struct model_block *known = &model->slots[slot];
        if ((uintptr_t)known->ptr >= end)
            break;
        if (subject_has(&model->subject, TRAIT_RANGES)) {
            MODEL_CLAIM(model, (uintptr_t)known->ptr >= begin && model_end(known) <= end,
                        "the block %p to lie inside the range %p that walk shows",
                        (void *)known->ptr, block->address);
        } else {
            MODEL_CLAIM(model, known->ptr == block->address,
                        "walk to show the block %p, not %p inside of it", (void *)known->ptr,
                        block->address);
            MODEL_CLAIM(model,
                        model->a.ops->usable_size == NULL || known->usable == block->usable ||
                            fh_allocator_usable_size(&model->a, known->ptr) == 0,
                        "walk to show the block %p with %zu usable bytes, it shows %zu",
                        (void *)known->ptr, known->usable, block->usable);
        }
        MODEL_CLAIM(model, !walk->is_seen[slot], "walk to visit the block %p once",
                    (void *)known->ptr);
        walk->is_seen[slot] = true;
        walk->known++;
    }
}

static inline int model_visit(void *context, const struct fh_block *block)
{
    struct model_walk *walk = context;
    struct allocator_model *model = walk->model;
    uintptr_t begin = (uintptr_t)block->address;

    if (model->subject.kind->range != NULL && model->subject.ground != GROUND_PARENT &&
        walk->last != NULL)
        MODEL_CLAIM(model,
                    (uintptr_t)walk->last->address + walk->last->usable <= begin &&
                        (uintptr_t)walk->last->address < begin,
                    "walk to go up: %p (%zu usable), then %p", walk->last->address,
                    walk->last->usable, block->address);
    walk->last_block = *block;
    walk->last = &walk->last_block;
    if (block->is_live) {
        model_visit_live(walk, block);
        return 0;
    }
    walk->free++;
    walk->free_bytes += block->usable;
    walk->largest_free = fh_max(walk->largest_free, block->usable);
    const struct model_block *other =
        model_overlapped(model, begin, begin + fh_max(block->usable, 1));
    MODEL_CLAIM(model, other == NULL, "walk not to show %p (%zu usable) as free over the live %p",
                block->address, block->usable, (void *)other->ptr);
    return 0;
}

static inline int model_stop_at_once(void *context, const struct fh_block *block)
{
    (void)block;
    ++*(int *)context;
    return 77;
}

static inline void model_survey_measure(struct allocator_model *model,
                                        const struct model_walk *walk)
{
    struct fh_measure measure = {.size = sizeof measure};
    struct counts *counts = subject_counts(&model->subject);
    int result = fh_allocator_measure(&model->a, &measure);

    MODEL_CLAIM(model, result == 0, "measure to return 0, got %d", result);
    if (subject_has(&model->subject, TRAIT_RANGES)) {
        MODEL_CLAIM(model,
                    measure.live_bytes >= walk->live_bytes / 2 || measure.live_bytes > 0 ||
                        walk->live_bytes == 0,
                    "measure to see live bytes where walk does");
    } else {
        MODEL_CLAIM(model, measure.live_blocks == walk->live,
                    "measure to count the %zu live blocks of walk, it counts %zu", walk->live,
                    measure.live_blocks);
        MODEL_CLAIM(model, measure.live_bytes == walk->live_bytes,
                    "measure to add up the %zu live bytes of walk, it says %zu", walk->live_bytes,
                    measure.live_bytes);
    }
    if (!subject_has(&model->subject, TRAIT_FREE_UNLISTED)) {
        MODEL_CLAIM(model, measure.free_bytes == walk->free_bytes,
                    "measure to add up the %zu free bytes of walk, it says %zu", walk->free_bytes,
                    measure.free_bytes);
        MODEL_CLAIM(model, measure.free_blocks == walk->free,
                    "measure to count the %zu free blocks of walk, it counts %zu", walk->free,
                    measure.free_blocks);
        MODEL_CLAIM(model, measure.largest_free == walk->largest_free,
                    "measure to know the largest free block of walk, %zu, it says %zu",
                    walk->largest_free, measure.largest_free);
    }
    MODEL_CLAIM(model, measure.largest_free <= measure.free_bytes,
                "the largest free block not to be larger than all of them");
    MODEL_CLAIM(model, measure.footprint >= measure.live_bytes,
                "a footprint of at least the %zu live bytes, got %zu", measure.live_bytes,
                measure.footprint);
    MODEL_CLAIM(model, measure.reserved >= measure.footprint,
                "at least the footprint %zu reserved, got %zu", measure.footprint,
                measure.reserved);
    MODEL_CLAIM(model, measure.peak_footprint == 0 || measure.peak_footprint >= measure.footprint,
                "a peak of at least the footprint %zu, got %zu", measure.footprint,
                measure.peak_footprint);
    if (subject_has(&model->subject, TRAIT_PROCESS))
        return;
    size_t taken = counts != NULL ? counts->bytes : model->subject.bytes;
    MODEL_CLAIM(model, measure.footprint <= taken,
                "a footprint of no more than the %zu bytes taken, got %zu", taken,
                measure.footprint);
}

static inline void model_survey(struct allocator_model *model)
{
    struct model_walk walk = {.model = model};
    size_t quarantined = subject_kept(&model->subject), visible = 0;
    int visited = 0;

    /* A thread's heap does not list its large blocks: they are nobody's in particular. */
    for (size_t i = 0; i < MODEL_SLOTS; i++)
        visible += model->slots[i].ptr != NULL &&
                   (!subject_has(&model->subject, TRAIT_SHARED) || model->slots[i].usable < 4096);
    subject_check_guards(&model->subject);
    int result = fh_allocator_check(&model->a);
    MODEL_CLAIM(model, result == 0, "check to find nothing, it found %d", result);
    result = fh_allocator_walk(&model->a, model_visit, &walk);
    MODEL_CLAIM(model, result == 0, "walk to return 0, got %d", result);
    MODEL_CLAIM(model, walk.known >= visible && walk.known <= model->live,
                "walk to visit %zu live blocks, it visited %zu of them", visible, walk.known);
    if (!subject_has(&model->subject, TRAIT_SHARED | TRAIT_RANGES))
        MODEL_CLAIM(model, walk.live >= model->live && walk.live <= model->live + quarantined,
                    "%u live blocks (and up to %zu in quarantine), walk shows %zu", model->live,
                    quarantined, walk.live);
    if (walk.live + walk.free > 0) {
        result = fh_allocator_walk(&model->a, model_stop_at_once, &visited);
        MODEL_CLAIM(model, result == 77 && visited == 1,
                    "walk to stop when it is told to, got %d after %d blocks", result, visited);
    }
    model_survey_measure(model, &walk);
    if (!subject_has(&model->subject, TRAIT_SHARED))
        MODEL_CLAIM(model, !fh_allocator_owns(&model->a, model),
                    "the allocator not to own the test's memory");
}

/* Every live block, as it was filled. */
static inline void model_compare_all(struct allocator_model *model, const char *when)
{
    for (unsigned i = 0; i < model->live; i++) {
        const struct model_block *block = &model->slots[model->by_address[i]];
        model_compare(model, block, block->ptr, block->usable, when);
    }
}

/* ---- steps ------------------------------------------------------------------------------------- */

struct model_step {
    uint8_t call, slot, octave, fraction, alignment, way;
};

/* Two bytes to a size: each power of two is as likely as the next. */
static inline size_t model_size(const struct allocator_model *model, const struct model_step *step)
{
    size_t low = (size_t)1 << (step->octave % model->octaves);

    return low - 1 + low * step->fraction / 256;
}

/* Half of all blocks have no wish; no alignment wastes more than the budget's share of a block. */
static inline size_t model_align(const struct allocator_model *model, const struct model_step *step)
{
    unsigned octaves = fh_log2(model->subject.kind->largest_align) + 1;

    return step->alignment < 128 ? 0 : (size_t)1 << (step->alignment % octaves);
}

/* A call returned NULL: was it allowed to, and did it say why? */
static inline void model_failed(struct allocator_model *model, const char *call, size_t size,
                                size_t align, bool may_fail)
{
    const struct subject_kind *kind = model->subject.kind;
    int error = errno;
    size_t share = model->live_bytes + model_cost(size, align);
    bool is_sure =
        model->subject.ground == GROUND_SOURCE && kind->sure == 0 && !(kind->traits & TRAIT_LIMITED)
            ? true
            : share <= kind->sure && size <= kind->largest;

    MODEL_CLAIM(model, error == ENOMEM, "a failing %s of %zu bytes to say ENOMEM, it said %d", call,
                size, error);
    MODEL_CLAIM(model, may_fail || model->may_fail || model->is_refusing || !is_sure,
                "%s of %zu bytes aligned to %zu to succeed while blocks of at most %zu bytes live",
                call, size, align, model->live_bytes);
    model->failed++;
}

static inline size_t model_growths(struct allocator_model *model)
{
    struct counts *counts = subject_counts(&model->subject);
    return counts != NULL ? counts->growths : 0;
}

static inline void model_free(struct allocator_model *model, struct model_block *slot, unsigned way)
{
    struct model_block block = *slot;
    bool is_sized = way % 2 == 1 || fh_allocator_can(&model->a, FH_ALLOCATOR_NEEDS_SIZE);

    if (block.ptr == NULL)
        return;
    MODEL_TELL(model,
               is_sized ? "fh_free_sized(&a, b[%zu], %zu, %zu);\n" : "fh_free(&a, b[%zu]);\n",
               (size_t)(slot - model->slots), block.requested, block.asked_align);
    model_compare(model, &block, block.ptr, block.usable, "until it is freed");
    model_leave(model, slot);
    errno = 1234;
    if (is_sized)
        fh_free_sized(&model->a, block.ptr, block.requested, block.asked_align);
    else
        fh_free(&model->a, block.ptr);
    MODEL_CLAIM(model, errno == 1234, "free to keep errno, it is %d", errno);
}

static inline void model_allocate(struct allocator_model *model, struct model_block *slot,
                                  const struct model_step *step)
{
    size_t size = model_size(model, step), align = model_align(model, step);
    unsigned flags = (step->way % 3 == 0 ? FH_ALLOC_ZEROED : 0u) |
                     (step->way % 11 == 0 ? FH_ALLOC_NO_GROWTH : 0u);
    size_t growths;
    void *ptr;

    model_free(model, slot, step->way);
    MODEL_TELL(model, "b[%zu] = fh_alloc_with(&a, %zu, %zu, %u);\n", (size_t)(slot - model->slots),
               size, align, flags);
    growths = model_growths(model);
    errno = 0;
    ptr = fh_alloc_with(&model->a, size, align, flags);
    MODEL_CLAIM(model, !(flags & FH_ALLOC_NO_GROWTH) || model_growths(model) == growths,
                "nothing more to be taken for %zu bytes without growth", size);
    if (ptr == NULL) {
        model_failed(model, "alloc", size, align, (flags & FH_ALLOC_NO_GROWTH) != 0);
        return;
    }
    if (flags & FH_ALLOC_ZEROED)
        for (size_t i = 0; i < size; i++)
            MODEL_CLAIM(model, ((unsigned char *)ptr)[i] == 0,
                        "%zu zeroed bytes, byte %zu is not zero", size, i);
    model_enter(model, slot, ptr, size, align, align == 0 ? FH_ALIGN_DEFAULT : align);
}

/* The alignment that a block must have after a resize by `align`. */
static inline size_t model_kept(const struct allocator_model *model,
                                const struct model_block *block, size_t align)
{
    size_t kept = model->subject.kind->kept_align;

    if (align != 0)
        return align;
    if (block->ptr == NULL)
        return FH_ALIGN_DEFAULT;
    return kept != 0 ? fh_min(block->align, kept) : block->align;
}

static inline void model_resize(struct allocator_model *model, struct model_block *slot,
                                const struct model_step *step)
{
    struct model_block block = *slot;
    size_t size = model_size(model, step), old_size;
    size_t align = step->way % 8 == 7 ? model_align(model, step) : 0, kept;
    void *ptr;

    if (step->way % 2 == 1 && block.ptr != NULL)
        size = block.requested / 2 + size % (block.requested + 16);
    old_size = step->way % 4 < 2 || fh_allocator_can(&model->a, FH_ALLOCATOR_NEEDS_SIZE)
                   ? block.requested
                   : 0;
    kept = model_kept(model, &block, align);
    MODEL_TELL(model, "b[%zu] = fh_resize_sized(&a, b[%zu], %zu, %zu, %zu);\n",
               (size_t)(slot - model->slots), (size_t)(slot - model->slots), old_size, size, align);
    if (block.ptr != NULL)
        model_compare(model, &block, block.ptr, block.usable, "until it is resized");
    errno = 0;
    ptr = fh_resize_sized(&model->a, block.ptr, old_size, size, align);
    if (ptr == NULL) {
        model_failed(model, "resize", size, kept, false);
        if (block.ptr != NULL)
            model_compare(model, &block, block.ptr, block.usable, "by a resize that fails");
        return;
    }
    if (block.ptr != NULL) {
        model_compare(model, &block, ptr, fh_min(block.requested, size), "over a resize");
        model_leave(model, slot);
    }
    /* What the block was given stays its due, unless the caller asked for another alignment. */
    model_enter(model, slot, ptr, size, align != 0 ? align : block.asked_align, kept);
}

static inline void model_resize_in_place(struct allocator_model *model, struct model_block *slot,
                                         const struct model_step *step)
{
    struct model_block block = *slot;
    size_t size = model_size(model, step);

    if (block.ptr == NULL)
        return;
    if (step->way % 2 == 1)
        size = block.requested / 2 + size % (block.requested + 16);
    MODEL_TELL(model, "fh_resize_in_place(&a, b[%zu], %zu, %zu);\n", (size_t)(slot - model->slots),
               block.requested, size);
    bool is_done = fh_resize_in_place(&model->a, block.ptr, block.requested, size);
    model_compare(model, &block, block.ptr, is_done ? fh_min(block.requested, size) : block.usable,
                  is_done ? "over a resize in place" : "by a resize in place that can't be");
    if (!is_done)
        return;
    model_leave(model, slot);
    model_enter(model, slot, block.ptr, size, block.asked_align, block.align);
}

/* Fills every empty slot with large blocks, most of which don't fit; then frees those. */
static inline void model_exhaust(struct allocator_model *model, const struct model_step *step)
{
    bool is_new[MODEL_SLOTS] = {false};
    struct model_step fill = *step;

    if (model->subject.ground == GROUND_SOURCE && model->subject.kind->sure == 0 &&
        !subject_has(&model->subject, TRAIT_LIMITED))
        return; /* it would take all there is */
    for (unsigned i = 0; i < MODEL_SLOTS; i++) {
        if (model->slots[i].ptr != NULL)
            continue;
        fill.octave = (uint8_t)(model->octaves - 1 - step->octave % 4);
        fill.alignment = 0;
        model_allocate(model, &model->slots[i], &fill);
        is_new[i] = model->slots[i].ptr != NULL;
    }
    model_survey(model);
    for (unsigned i = 0; i < MODEL_SLOTS; i++)
        if (is_new[i])
            model_free(model, &model->slots[i], step->way);
}

/* Requests that no allocator can meet, each with its errno and without effect. */
static inline void model_ask_too_much(struct allocator_model *model, struct model_block *slot,
                                      const struct model_step *step)
{
    static const size_t counts[] = {SIZE_MAX, SIZE_MAX / 2 + 1, (size_t)1 << 33, 3};
    static const size_t sizes[] = {2, 2, (size_t)1 << 32, SIZE_MAX / 3};
    static const size_t huge[] = {SIZE_MAX, SIZE_MAX - 15, SIZE_MAX - 65535, (size_t)PTRDIFF_MAX};
    static const size_t aligns[] = {3, 24, 4095, SIZE_MAX};
    unsigned i = step->way % 4;

    MODEL_TELL(model, "fh_alloc_array(&a, %zu, %zu);\n", counts[i], sizes[i]);
    errno = 0;
    MODEL_CLAIM(model, fh_alloc_array(&model->a, counts[i], sizes[i]) == NULL && errno == ENOMEM,
                "an array of %zu times %zu bytes to be refused with ENOMEM, errno is %d", counts[i],
                sizes[i], errno);
    errno = 0;
    MODEL_CLAIM(model,
                fh_alloc_array_zeroed(&model->a, counts[i], sizes[i]) == NULL && errno == ENOMEM,
                "a zeroed array of %zu times %zu bytes to be refused with ENOMEM, errno is %d",
                counts[i], sizes[i], errno);
    errno = 0;
    MODEL_CLAIM(model, fh_alloc(&model->a, huge[i]) == NULL && errno == ENOMEM,
                "%zu bytes to be refused with ENOMEM, errno is %d", huge[i], errno);
    errno = 0;
    MODEL_CLAIM(model, fh_alloc_aligned(&model->a, 100, aligns[i]) == NULL && errno == EINVAL,
                "an alignment of %zu to be refused with EINVAL, errno is %d", aligns[i], errno);
    if (slot->ptr == NULL)
        return;
    size_t old_size = fh_allocator_can(&model->a, FH_ALLOCATOR_NEEDS_SIZE) ? slot->requested : 0;
    errno = 0;
    MODEL_CLAIM(model,
                fh_resize_sized(&model->a, slot->ptr, old_size, huge[i], 0) == NULL &&
                    errno == ENOMEM,
                "a resize to %zu bytes to be refused with ENOMEM, errno is %d", huge[i], errno);
    MODEL_CLAIM(model, !fh_resize_in_place(&model->a, slot->ptr, slot->requested, huge[i]),
                "a resize in place to %zu bytes to be refused", huge[i]);
    model_compare(model, slot, slot->ptr, slot->usable, "by a resize that is refused");
}

/* ---- misuse ------------------------------------------------------------------------------------ */

/* Makes misuse go on, and its report go to the file that is returned. */
static inline FILE *model_expect_report(char *before, size_t before_size)
{
    FILE *file = tmpfile();

    if (file == NULL || fh_ctl_get("on_error", before, before_size) < 0 ||
        fh_ctl_set("on_error", "continue") != 0)
        abort();
    fh_message_to(fileno(file));
    return file;
}

/* The report said "ERROR: `kind` on address …", or, kind NULL, nothing was said. */
static inline bool model_was_reported(FILE *file, const char *before, const char *kind,
                                      char *report, size_t report_size)
{
    char wanted[64];

    fh_message_to(STDERR_FILENO);
    fh_ctl_set("on_error", before);
    rewind(file);
    report[fread(report, 1, report_size - 1, file)] = 0;
    fclose(file);
    snprintf(wanted, sizeof wanted, "ERROR: %s on address", kind != NULL ? kind : "");
    return kind != NULL ? strstr(report, wanted) != NULL : report[0] == 0;
}

/* Frees `address` in the wrong way and expects a report of the kind (or of the other one), and nothing
 * changed. size SIZE_MAX: a plain free. */
static inline void model_misuse(struct allocator_model *model, void *address, size_t size,
                                const char *kind, const char *or_kind)
{
    char before[32], report[4096];

    MODEL_TELL(model, "/* %s */ fh_free%s(&a, %p);\n", kind, size != SIZE_MAX ? "_sized" : "",
               address);
    FILE *file = model_expect_report(before, sizeof before);
    errno = 1234;
    if (size != SIZE_MAX)
        fh_free_sized(&model->a, address, size, 0);
    else
        fh_free(&model->a, address);
    int error = errno;
    bool is_reported = model_was_reported(file, before, kind, report, sizeof report);
    if (!is_reported && or_kind != NULL) {
        char wanted[64];
        snprintf(wanted, sizeof wanted, "ERROR: %s on address", or_kind);
        is_reported = strstr(report, wanted) != NULL;
    }
    MODEL_CLAIM(model, is_reported, "%s of %p to be reported, the report was: %s", kind, address,
                report[0] != 0 ? report : "(none)");
    MODEL_CLAIM(model, error == 1234, "a free that is reported to keep errno, it is %d", error);
    model_compare_all(model, "by a free that was refused");
}

static inline void model_misuse_somehow(struct allocator_model *model, struct model_block *slot,
                                        const struct model_step *step)
{
    static _Alignas(64) unsigned char elsewhere[64];
    bool needs_size = fh_allocator_can(&model->a, FH_ALLOCATOR_NEEDS_SIZE);

    if (model->has_no_misuse)
        return;
    switch (step->way % 4) {
    case 0:
        if (!subject_has(&model->subject, TRAIT_BLIND_INVALID))
            model_misuse(model, elsewhere + 16, needs_size ? 16 : SIZE_MAX, "invalid-free", NULL);
        break;
    case 1:
        if (slot->ptr != NULL && slot->requested >= 64 &&
            !subject_has(&model->subject, TRAIT_BLIND_INTERIOR))
            model_misuse(model, slot->ptr + 16 + step->fraction % 2 * 8,
                         needs_size ? slot->requested : SIZE_MAX, "interior-free", "invalid-free");
        break;
    case 2:
        if (slot->ptr != NULL && model->a.ops->free_sized != NULL &&
            !subject_has(&model->subject, TRAIT_BLIND_SIZE))
            model_misuse(model, slot->ptr, slot->usable + 1 + (size_t)step->fraction * 64,
                         "size-mismatch", NULL);
        break;
    default:
        if (slot->ptr != NULL && fh_allocator_can(&model->a, FH_ALLOCATOR_SEES_DOUBLE_FREE)) {
            void *ptr = slot->ptr;
            size_t size = slot->requested;
            model_free(model, slot, 0);
            /* It may have become part of a larger free block: then it is no block any more. */
            model_misuse(model, ptr, needs_size ? size : SIZE_MAX, "double-free", "invalid-free");
        }
    }
}

/* ---- relocation -------------------------------------------------------------------------------- */

/* memcpy without AddressSanitizer's questions: the range holds poisoned bytes. */
__attribute__((no_sanitize("address"))) static inline void
model_copy_raw(unsigned char *to, const unsigned char *from, size_t bytes)
{
    volatile unsigned char *target = to;
    const volatile unsigned char *source = from;

    for (size_t i = 0; i < bytes; i++)
        target[i] = source[i];
}

/* The range goes to another place, which has the same position within 64 KiB, and the old one is lost. */
static inline void model_relocate(struct allocator_model *model)
{
    const struct subject_kind *kind = model->subject.kind;

    size_t bytes;

    if (kind->attach == NULL || model->subject.ground != GROUND_BUFFER)
        return;
    unsigned char *base = kind->range(&model->subject, &bytes);
    size_t from_arena = (size_t)(base - model->arena);
    unsigned char *old = model->arena, *memory = model->other + from_arena;
    MODEL_TELL(model, "/* the range moves to another address */\n");
    fh_unpoison(model->other, subject_arena_bytes());
    memset(model->other, GARBAGE, model->subject.kind->budget + 2 * SUBJECT_GUARD);
    model_copy_raw(memory, base, bytes);
    int error = kind->attach(&model->subject, memory, bytes);
    MODEL_CLAIM(model, error == 0, "the moved range to be attached, got %d", error);
    model->a = model->subject.allocator;
    model->subject.memory = model->other + (model->subject.memory - old);
    for (size_t i = 0; i < MODEL_SLOTS; i++)
        if (model->slots[i].ptr != NULL)
            model->slots[i].ptr = model->other + (model->slots[i].ptr - old);
    fh_unpoison(old, subject_arena_bytes());
    memset(old, 0xdd, model->subject.kind->budget + 2 * SUBJECT_GUARD);
    model->arena = model->other;
    model->other = old;
    model_compare_all(model, "over a move of the range");
}

/* What is done to an allocator at leisure moves no block and changes none. */
static inline void model_tend(struct allocator_model *model)
{
    if (model->subject.kind->tend == NULL)
        return;
    MODEL_TELL(model, "/* the allocator is tended: trimmed, reaped, compacted or meshed */\n");
    model->subject.kind->tend(&model->subject);
    model_compare_all(model, "by what is done at leisure");
}

/* ---- a run ------------------------------------------------------------------------------------- */

static inline void model_take_step(struct allocator_model *model, const struct model_step *step)
{
    struct model_block *slot = &model->slots[step->slot % MODEL_SLOTS];
    struct counts *counts = subject_counts(&model->subject);

    switch (step->call % 32) {
    case 0:
        if (step->way % 4 == 0 && !subject_has(&model->subject, TRAIT_SHARED)) {
            MODEL_TELL(model, "fh_allocator_reset(&a);\n");
            fh_allocator_reset(&model->a);
            model_forget(model);
            memset(model->subject.quarantined, 0, sizeof model->subject.quarantined);
        }
        break;
    case 1:
        if (step->way % 16 == 0)
            model_exhaust(model, step);
        break;
    case 2:
        model_ask_too_much(model, slot, step);
        break;
    case 3:
        if (step->way % 8 < 4)
            model_misuse_somehow(model, slot, step);
        break;
    case 4:
        if (step->way % 4 == 0)
            model_relocate(model);
        else if (step->way % 4 == 1)
            model_tend(model);
        break;
    case 5:
        if (subject_has(&model->subject, TRAIT_QUARANTINES))
            for (size_t i = 0; i < SUBJECT_QUARANTINED; i++) {
                void *ptr = model->subject.quarantined[i];
                model->subject.quarantined[i] = NULL;
                if (ptr != NULL)
                    fh_heap_release_quarantined(model->subject.as.heap, ptr);
            }
        break;
    case 6:
        /* The next growth is refused, and so is every one behind it. */
        if (counts != NULL && counts->fail_at == 0) {
            counts->fail_at = 1 + step->way % 2;
            counts->fails_on = true;
            model->is_refusing = true;
            MODEL_TELL(model, "/* growth is refused in the next call */\n");
            if (step->fraction % 2 == 0)
                model_allocate(model, slot, step);
            else
                model_resize(model, slot, step);
            counts->fail_at = 0;
            counts->fails_on = false;
            model->is_refusing = false;
        }
        break;
    case 7:
        /* Every other block of a stretch of slots: makes holes. */
        for (unsigned i = 0; i < 16; i += 2)
            model_free(model, &model->slots[(step->slot + i) % MODEL_SLOTS], step->way);
        break;
    case 8:
    case 9:
        model_resize_in_place(model, slot, step);
        break;
    case 10:
    case 11:
    case 12:
    case 13:
    case 14:
        model_resize(model, slot, step);
        break;
    case 15:
    case 16:
    case 17:
    case 18:
    case 19:
    case 20:
    case 21:
    case 22:
        model_free(model, slot, step->way);
        break;
    default:
        model_allocate(model, slot, step);
    }
}

static inline void model_step(struct allocator_model *model)
{
    struct model_step step;

    memcpy(&step, model->input, sizeof step);
    model->input += MODEL_STEP_BYTES;
    model->input_left -= MODEL_STEP_BYTES;
    model->steps++;
    model->calls++;
    model_take_step(model, &step);
    if (!subject_has(&model->subject, TRAIT_SLOW_SURVEY) || model->steps % MODEL_SURVEY_EVERY == 0)
        model_survey(model);
}

/* Sizes go up to a sixteenth of the budget in half of the runs, in the others to something small, so that
 * many blocks are neighbours. False when it could not be opened, which may be where failures are
 * injected. The rest of `model` must be zero or as model_close left it. */
static inline bool model_open(struct allocator_model *model, const struct subject_kind *kind,
                              enum ground ground, size_t offset, size_t sizes,
                              struct fh_place_options place)
{
    size_t largest = fh_max(kind->largest, 2);
    size_t most = fh_log2(fh_pow2_ceil(largest)) + 1u;

    model_forget(model);
    model->steps = model->calls = model->failed = 0;
    model->tags = 0;
    model->is_refusing = false;
    model->octaves = sizes % 2 == 0 ? most : fh_max(most / 2, 7);
    model->offset = offset;
    errno = 0;
    MODEL_TELL(model, "/* %s over a %s of %zu bytes, %zu bytes off an alignment boundary */\n",
               kind->name, ground_names[ground], kind->budget, offset);
    int error = subject_open(&model->subject, kind, ground, model->arena, offset, place);
    model->a = model->subject.allocator;
    if (error == 0)
        return true;
    MODEL_CLAIM(model, model->may_fail && error == -ENOMEM, "it to open, got %d", error);
    return false;
}

static inline void model_close(struct allocator_model *model)
{
    model_survey(model);
    model_compare_all(model, "until the end");
    for (size_t i = 0; i < MODEL_SLOTS; i++) {
        /* Half of them by hand; the rest goes with the allocator. */
        if (i % 2 == 0 || subject_has(&model->subject, TRAIT_SHARED))
            model_free(model, &model->slots[i], (unsigned)i);
    }
    model_survey(model);
    if (subject_has(&model->subject, TRAIT_SHARED))
        return;
    fh_allocator_destroy(&model->a);
    subject_check_returned(&model->subject);
}

/* The ground that an input's byte means for a kind: one of those it can stand on. */
static inline enum ground model_ground(const struct subject_kind *kind, unsigned byte)
{
    for (unsigned i = 0;; i++)
        if (kind->grounds >> (byte + i) % GROUNDS & 1)
            return (enum ground)((byte + i) % GROUNDS);
}

/* A whole run over an input; model->arena and model->other are set, the rest is zero or used before. */
static inline void model_run(struct allocator_model *model, const uint8_t *input, size_t size)
{
    if (size < MODEL_HEADER_BYTES)
        return;
    const struct subject_kind *kind = &subject_kinds[input[0] % SUBJECT_KINDS];
    if (!model_open(model, kind, model_ground(kind, input[1]), input[2], input[3],
                    (struct fh_place_options){0}))
        return;
    model->input = input + MODEL_HEADER_BYTES;
    model->input_left = size - MODEL_HEADER_BYTES;
    while (model->input_left >= MODEL_STEP_BYTES)
        model_step(model);
    model_close(model);
}

#endif
