/*
 * A model of one heap, driven by bytes: the fuzzer's input and the unit tests' random strings are
 * read the same way, so whatever the fuzzer finds is a unit test at once.
 *
 * The first byte picks the heap (the calling thread's; first-class ones of each kind of option),
 * then each call takes an opcode and a slot, and a size where it needs one. The model knows of each
 * live block its place, sizes, alignment and contents, and of the heap which calls may fail: those
 * of heaps over a small buffer or with a limit, and any call while the test injects failures.
 * Claims, after each call: alignment, usable >= requested, no overlap with any live or quarantined
 * block, contents kept, zeroes where promised, errno ENOMEM on failure. Every now and then and at
 * the end: walk visits each live block once and no other as live, measure agrees with it, owns()
 * knows them, check() finds nothing.
 *
 * A claim that fails prints itself and ends by abort(), which cmocka and libFuzzer both report.
 */
#ifndef FH_TESTS_HEAP_MODEL_H
#define FH_TESTS_HEAP_MODEL_H

#include "freehold/allocator.h"
#include "freehold/heap.h"
#include "freehold/source.h"

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MODEL_SLOTS        64
#define MODEL_QUARANTINED  8
#define MODEL_BUFFER_BYTES ((size_t)6 << 20)
#define MODEL_LIMIT_BYTES  ((size_t)8 << 20)

enum model_kind {
    MODEL_THREAD,
    MODEL_DEFAULT,
    MODEL_SINGLE_THREAD,
    MODEL_RANDOMISED,
    MODEL_LIMITED,
    MODEL_BUFFER,
    MODEL_QUARANTINE,
    MODEL_KINDS
};

struct model_block {
    unsigned char *ptr;
    size_t requested;
    size_t usable;
    uint64_t tag;
};

struct heap_model {
    enum model_kind kind;
    struct fh_heap *heap; /* of MODEL_THREAD the thread's own */
    bool may_fail;
    unsigned octaves; /* sizes go up to 2^octaves */
    unsigned long calls;
    unsigned long failed;
    uint64_t tags;
    struct model_block slots[MODEL_SLOTS];
    struct model_block quarantined[MODEL_QUARANTINED];
    struct fh_source_buffer buffer;
    const uint8_t *input;
    size_t input_left;
};

#define MODEL_CLAIM(model, claim, ...)                                                             \
    do {                                                                                           \
        if (!(claim)) {                                                                            \
            fprintf(stderr, "heap model: kind %d, call %lu: expected ", (int)(model)->kind,        \
                    (model)->calls);                                                               \
            fprintf(stderr, __VA_ARGS__);                                                          \
            fprintf(stderr, "\n");                                                                 \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

static inline uint8_t model_byte(struct heap_model *model)
{
    if (model->input_left == 0)
        return 0;
    model->input_left--;
    return *model->input++;
}

/* Two bytes to a size: each power of two is as likely as the next. */
static inline size_t model_size(struct heap_model *model)
{
    unsigned octave = model_byte(model) % model->octaves;
    size_t low = (size_t)1 << octave;

    return low - 1 + low * model_byte(model) / 256;
}

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

static inline void model_compare(struct heap_model *model, const struct model_block *block,
                                 const unsigned char *at, size_t size, const char *when)
{
    for (size_t i = 0; i < size && i < block->usable; i = model_next(i, block->usable))
        MODEL_CLAIM(model, at[i] == (unsigned char)((block->tag >> (i % 8 * 8)) + i / 8),
                    "byte %zu of the block at %p (%zu asked, %zu usable) to be kept %s", i,
                    (void *)block->ptr, block->requested, block->usable, when);
}

static inline bool model_overlaps(const struct model_block *a, const struct model_block *b)
{
    return a->ptr != NULL && b->ptr != NULL && a->ptr < b->ptr + (b->usable > 0 ? b->usable : 1) &&
           b->ptr < a->ptr + (a->usable > 0 ? a->usable : 1);
}

static inline size_t model_usable(struct heap_model *model, const void *ptr)
{
    if (model->kind == MODEL_THREAD)
        return fh_usable_size(ptr);
    struct fh_allocator allocator = fh_heap_allocator(model->heap);
    return allocator.ops->usable_size(allocator.self, ptr);
}

static inline bool model_quarantine(void *context, void *block, size_t usable)
{
    struct heap_model *model = context;

    (void)usable;
    for (size_t i = 0; i < MODEL_QUARANTINED; i++) {
        if (model->quarantined[i].ptr == NULL && (uintptr_t)block / 16 % 3 != 0) {
            model->quarantined[i] = (struct model_block){.ptr = block, .usable = 1};
            return true;
        }
    }
    return false;
}

static inline void model_enter(struct heap_model *model, struct model_block *slot, void *ptr,
                               size_t size, size_t align)
{
    struct model_block block = {.ptr = ptr, .requested = size};

    MODEL_CLAIM(model, (uintptr_t)ptr % align == 0, "a block of %zu bytes aligned to %zu, got %p",
                size, align, ptr);
    block.usable = model_usable(model, ptr);
    MODEL_CLAIM(model, block.usable >= size, "%zu usable bytes or more, got %zu", size,
                block.usable);
    for (size_t i = 0; i < MODEL_SLOTS; i++)
        MODEL_CLAIM(model, !model_overlaps(&block, &model->slots[i]),
                    "%p (%zu usable) not to overlap the live block %p (%zu usable)", ptr,
                    block.usable, (void *)model->slots[i].ptr, model->slots[i].usable);
    for (size_t i = 0; i < MODEL_QUARANTINED; i++)
        MODEL_CLAIM(model, !model_overlaps(&block, &model->quarantined[i]),
                    "%p (%zu usable) not to overlap the quarantined block %p", ptr, block.usable,
                    (void *)model->quarantined[i].ptr);
    block.tag = model->tags = model->tags * 0x5851f42d4c957f2du + 0x14057b7ef767814fu;
    model_fill(&block);
    *slot = block;
}

static inline void model_failed(struct heap_model *model, const char *call, size_t size, int error)
{
    MODEL_CLAIM(model, model->may_fail, "%s(%zu) to succeed, errno %d", call, size, error);
    MODEL_CLAIM(model, error == ENOMEM, "a failing %s(%zu) to say ENOMEM, it said %d", call, size,
                error);
    model->failed++;
}

static inline void model_free(struct heap_model *model, struct model_block *slot, unsigned way)
{
    struct model_block block = *slot;

    if (block.ptr == NULL)
        return;
    model_compare(model, &block, block.ptr, block.usable, "until it is freed");
    *slot = (struct model_block){0};
    errno = 1234;
    struct fh_allocator allocator = fh_heap_allocator(model->heap);
    if (way % 4 == 1)
        fh_heap_free(model->heap, block.ptr);
    else if (way % 4 == 2)
        fh_free(&allocator, block.ptr);
    else if (way % 4 == 3 && allocator.ops->free_sized != NULL)
        allocator.ops->free_sized(allocator.self, block.ptr, block.requested, 0);
    else
        fh_free_any(block.ptr);
    MODEL_CLAIM(model, errno == 1234, "free to keep errno, it is %d", errno);
}

static inline void model_allocate(struct heap_model *model, struct model_block *slot, unsigned way)
{
    size_t size = model_size(model), align = 16;
    bool is_zeroed = false;
    const char *call = "alloc";
    void *ptr;

    model_free(model, slot, way);
    errno = 0;
    switch (way % 5) {
    case 0: {
        size_t count = 1 + way / 5 % 7;
        size = size / count * count;
        call = "calloc";
        is_zeroed = true;
        ptr = model->kind == MODEL_THREAD ? fh_calloc(count, size / count)
                                          : fh_heap_calloc(model->heap, count, size / count);
        break;
    }
    case 1:
        align = (size_t)1 << (way / 5 % 17);
        call = "aligned_alloc";
        ptr = model->kind == MODEL_THREAD ? fh_aligned_alloc(align, size)
                                          : fh_heap_aligned_alloc(model->heap, align, size);
        break;
    case 2: {
        struct fh_allocator allocator = fh_heap_allocator(model->heap);
        is_zeroed = way % 2 == 0;
        call = "the allocator's alloc";
        align = way % 3 == 0 ? 0 : (size_t)16 << (way % 8);
        ptr = allocator.ops->alloc(allocator.self, size, align, is_zeroed ? FH_ALLOC_ZEROED : 0);
        align = align == 0 ? 16 : align;
        break;
    }
    default:
        ptr = model->kind == MODEL_THREAD ? fh_malloc(size) : fh_heap_alloc(model->heap, size);
    }
    if (ptr == NULL) {
        model_failed(model, call, size, errno);
        return;
    }
    for (size_t i = 0; is_zeroed && i < size; i++)
        MODEL_CLAIM(model, ((unsigned char *)ptr)[i] == 0,
                    "%s(%zu) to give zeroes, byte %zu is not", call, size, i);
    model_enter(model, slot, ptr, size, align < 16 ? 1 : align);
}

static inline void model_resize(struct heap_model *model, struct model_block *slot, unsigned way)
{
    struct model_block block = *slot;
    size_t size = model_size(model);
    struct fh_allocator allocator = fh_heap_allocator(model->heap);
    void *ptr;

    if (way % 2 == 1 && block.ptr != NULL)
        size = block.requested / 2 + size % (block.requested + 16);
    if (block.ptr != NULL)
        model_compare(model, &block, block.ptr, block.usable, "until it is resized");
    *slot = (struct model_block){0};
    errno = 0;
    if (way % 8 >= 6 && block.ptr != NULL && allocator.ops->resize_in_place != NULL) {
        if (!allocator.ops->resize_in_place(allocator.self, block.ptr, block.requested, size)) {
            *slot = block;
            model_compare(model, &block, block.ptr, block.usable,
                          "by a resize in place that can't be");
            return;
        }
        ptr = block.ptr;
    } else if (way % 8 >= 4) {
        ptr = fh_resize(&allocator, block.ptr, size);
    } else {
        ptr = model->kind == MODEL_THREAD ? fh_realloc(block.ptr, size)
                                          : fh_heap_realloc(model->heap, block.ptr, size);
    }
    if (ptr == NULL) {
        model_failed(model, "realloc", size, errno);
        *slot = block;
        if (block.ptr != NULL)
            model_compare(model, &block, block.ptr, block.usable, "by a realloc that fails");
        return;
    }
    if (block.ptr != NULL)
        model_compare(model, &block, ptr, block.requested < size ? block.requested : size,
                      "over realloc");
    model_enter(model, slot, ptr, size, 16);
}

static inline void model_release_quarantined(struct heap_model *model)
{
    for (size_t i = 0; i < MODEL_QUARANTINED; i++) {
        void *ptr = model->quarantined[i].ptr;
        model->quarantined[i].ptr = NULL;
        if (ptr != NULL)
            fh_heap_release_quarantined(model->heap, ptr);
    }
}

struct model_walk {
    struct heap_model *model;
    size_t live;
    size_t live_bytes;
    size_t known;
    bool is_seen[MODEL_SLOTS];
    uint8_t
        slot_of[256]; /* by hash of the address, open addressing: slot + 1, 0 where there is none */
};

static inline unsigned model_hash(const void *ptr)
{
    return (unsigned)(((uintptr_t)ptr >> 4) * 0x9e3779b97f4a7c15u >> 56);
}

static inline void model_walk_knows(struct model_walk *walk, size_t slot)
{
    unsigned at = model_hash(walk->model->slots[slot].ptr);

    while (walk->slot_of[at] != 0)
        at = (at + 1) % 256;
    walk->slot_of[at] = (uint8_t)(slot + 1);
}

static inline int model_visit(void *context, const struct fh_block *block)
{
    struct model_walk *walk = context;

    if (block->is_live) {
        walk->live++;
        walk->live_bytes += block->usable;
    }
    for (unsigned at = model_hash(block->address); walk->slot_of[at] != 0; at = (at + 1) % 256) {
        size_t slot = walk->slot_of[at] - 1u;
        if (walk->model->slots[slot].ptr != block->address)
            continue;
        MODEL_CLAIM(walk->model, block->is_live, "walk to show the block %p as live",
                    block->address);
        MODEL_CLAIM(walk->model, !walk->is_seen[slot], "walk to visit the block %p once",
                    block->address);
        walk->is_seen[slot] = true;
        walk->known++;
    }
    return 0;
}

/* The heap as a whole. A thread's heap also has blocks that are not the model's, and does not list
 * large ones: those of a page and more are asked for in first-class heaps only. */
static inline void model_survey(struct heap_model *model)
{
    struct model_walk walk = {.model = model};
    struct fh_measure measure = {.size = sizeof(measure)};
    struct fh_heap *heap = model->kind == MODEL_THREAD ? NULL : model->heap;
    size_t live = 0, quarantined = 0, live_bytes = 0;

    for (size_t i = 0; i < MODEL_SLOTS; i++) {
        if (model->slots[i].ptr == NULL)
            continue;
        if (model->kind == MODEL_THREAD && model->slots[i].usable >= 4096)
            continue;
        model_walk_knows(&walk, i);
        live++;
        live_bytes += model->slots[i].usable;
        MODEL_CLAIM(model,
                    model->kind == MODEL_THREAD || fh_heap_owns(model->heap, model->slots[i].ptr),
                    "the heap to own its block %p", (void *)model->slots[i].ptr);
    }
    for (size_t i = 0; i < MODEL_QUARANTINED; i++)
        quarantined += model->quarantined[i].ptr != NULL;
    MODEL_CLAIM(model, !fh_heap_owns(model->heap, model), "the heap not to own the test's memory");
    int result = fh_heap_check(heap);
    MODEL_CLAIM(model, result == 0, "check to find nothing, it found %d", result);
    result = fh_heap_walk(heap, model_visit, &walk);
    MODEL_CLAIM(model, result == 0, "walk to return 0, got %d", result);
    MODEL_CLAIM(model, walk.known == live, "walk to visit %zu live blocks, it visited %zu of them",
                live, walk.known);
    result = fh_heap_measure(heap, &measure);
    MODEL_CLAIM(model, result == 0, "measure to return 0, got %d", result);
    MODEL_CLAIM(model, measure.live_blocks == walk.live,
                "measure to count the %zu live blocks of walk, it counts %zu", walk.live,
                measure.live_blocks);
    MODEL_CLAIM(model, measure.live_bytes >= live_bytes,
                "measure to see %zu live bytes or more, it sees %zu", live_bytes,
                measure.live_bytes);
    MODEL_CLAIM(model, measure.footprint >= measure.live_bytes,
                "a footprint of at least the %zu live bytes, got %zu", measure.live_bytes,
                measure.footprint);
    MODEL_CLAIM(model, measure.reserved >= measure.footprint,
                "at least the footprint %zu reserved, got %zu", measure.footprint,
                measure.reserved);
    if (model->kind != MODEL_THREAD)
        MODEL_CLAIM(model, walk.live >= live && walk.live <= live + quarantined,
                    "%zu live blocks (and up to %zu in quarantine), walk shows %zu", live,
                    quarantined, walk.live);
}

static inline void model_forget(struct heap_model *model)
{
    memset(model->slots, 0, sizeof(model->slots));
    memset(model->quarantined, 0, sizeof(model->quarantined));
}

static inline void model_step(struct heap_model *model)
{
    unsigned opcode = model_byte(model), way = model_byte(model);
    struct model_block *slot = &model->slots[model_byte(model) % MODEL_SLOTS];

    model->calls++;
    switch (opcode % 16) {
    case 0:
        if (way % 4 == 0)
            model_survey(model);
        break;
    case 1:
        if (way % 8 == 0 && model->kind != MODEL_THREAD) {
            fh_heap_reset(model->heap);
            model_forget(model);
            model_survey(model);
        } else if (way % 8 == 1) {
            fh_heap_trim(way * (size_t)4096);
        }
        break;
    case 2:
        model_release_quarantined(model);
        break;
    case 3:
    case 4:
    case 5:
    case 6:
        model_free(model, slot, way);
        break;
    case 7:
    case 8:
    case 9:
        model_resize(model, slot, way);
        break;
    default:
        model_allocate(model, slot, way);
    }
}

/* False when the heap could not be made, which may be where failures are injected. */
static inline bool model_open(struct heap_model *model, enum model_kind kind, void *buffer,
                              bool may_fail)
{
    struct fh_heap_options options = {.size = sizeof(options), .name = "model"};

    memset(model, 0, sizeof(*model));
    model->kind = kind;
    model->octaves = 22;
    model->may_fail = may_fail || kind == MODEL_LIMITED || kind == MODEL_BUFFER;
    errno = 0;
    switch (kind) {
    case MODEL_THREAD:
        model->heap = fh_heap_mine();
        break;
    case MODEL_DEFAULT:
        model->heap = fh_heap_create(NULL);
        break;
    case MODEL_SINGLE_THREAD:
        options.is_single_thread = true;
        break;
    case MODEL_RANDOMISED:
        options.randomise_slots = true;
        options.canary_bytes = 16;
        break;
    case MODEL_LIMITED:
        options.limit = MODEL_LIMIT_BYTES;
        break;
    case MODEL_BUFFER:
        options.source = fh_source_buffer_init(&model->buffer, buffer, MODEL_BUFFER_BYTES);
        MODEL_CLAIM(model, options.source != NULL, "a source over a buffer");
        break;
    default:
        options.quarantine = model_quarantine;
        options.quarantine_context = model;
        options.canary_bytes = 5;
    }
    if (kind > MODEL_DEFAULT)
        model->heap = fh_heap_create(&options);
    if (model->heap == NULL)
        MODEL_CLAIM(model, may_fail && errno == ENOMEM, "a heap to be made, errno %d", errno);
    return model->heap != NULL;
}

static inline void model_close(struct heap_model *model)
{
    model_survey(model);
    for (size_t i = 0; i < MODEL_SLOTS; i++) {
        /* Half of them by hand; the rest goes with the heap. */
        if (i % 2 == 0 || model->kind == MODEL_THREAD)
            model_free(model, &model->slots[i], (unsigned)i);
    }
    model_survey(model);
    if (model->kind != MODEL_THREAD)
        fh_heap_destroy(model->heap);
}

/* A whole run over an input. `buffer` has MODEL_BUFFER_BYTES. */
static inline void model_run(struct heap_model *model, const uint8_t *input, size_t size,
                             void *buffer)
{
    if (size == 0)
        return;
    model_open(model, (enum model_kind)(input[0] % MODEL_KINDS), buffer, false);
    model->input = input + 1;
    model->input_left = size - 1;
    while (model->input_left > 0)
        model_step(model);
    model_close(model);
}

#endif
