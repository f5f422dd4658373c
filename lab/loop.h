/*
 * The loop of a replay, written once and instantiated for each kind of allocator, so that a replay
 * pays for what it measures: a direct call of malloc, an indirect one of a manager, none of
 * nothing.
 *
 * A loop of another style (lab/worker.c says when which is used) does the same calls and also
 *   COUNTED  adds up what is held, for looks at memory
 *   TIMED    reads the clock around each call, and keeps the least a call ever took
 */
#ifndef FH_LAB_LOOP_H
#define FH_LAB_LOOP_H

#include "job.h"

#include <stdint.h>
#if defined(__x86_64__)
#include <x86intrin.h>
#else
#include <time.h>
#endif

#define LAB_INLINE static inline __attribute__((always_inline))

enum lab_style { LAB_PLAIN, LAB_COUNTED, LAB_TIMED };

/* How an allocator is called. `align` is 0 where none is asked for. */
struct lab_calls {
    void *(*alloc)(void *self, size_t size, size_t align, bool is_zeroed);
    void *(*resize)(void *self, void *block, size_t old_size, size_t size);
    void (*free)(void *self, void *block, size_t size, size_t align);
    bool touches; /* false: what alloc returns is no memory */
};

struct lab_slot {
    unsigned char *block; /* NULL: empty, or refused */
    size_t size;
};

struct lab_replay {
    const struct lab_op *ops;
    struct lab_slot *slots;
    void *self;
    size_t page;
    uint32_t *latencies; /* of TIMED, in ticks, one an operation */
    uint64_t refused, refused_bytes;
    uint64_t held_bytes, held_blocks; /* of COUNTED */
};

LAB_INLINE uint64_t lab_ticks(void)
{
#if defined(__x86_64__)
    /* The fences keep the call between the two readings (Intel: How to Benchmark Code Execution
     * Times, 2010). */
    _mm_lfence();
    const uint64_t ticks = __rdtsc();
    _mm_lfence();
    return ticks;
#else
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000U + (uint64_t)now.tv_nsec;
#endif
}

/* Writes to the bytes from `from` on as a program does that fills them, at the cost of a byte a
 * page: pages must be there, and lines that hold the block's ends come into the cache. */
LAB_INLINE void lab_touch(unsigned char *block, size_t from, size_t size, size_t page)
{
    if (size <= from) {
        return;
    }
    for (size_t at = from; at < size; at += page) {
        block[at] = 1;
    }
    block[size - 1] = 1;
}

LAB_INLINE void lab_note_latency(struct lab_replay *replay, size_t op, uint64_t ticks)
{
    const uint32_t least = replay->latencies[op];
    const uint32_t taken = ticks < UINT32_MAX ? (uint32_t)ticks : UINT32_MAX;
    /* A file that was just made reads as zero: not measured yet. */
    if (least == 0 || taken < least) {
        replay->latencies[op] = taken > 0 ? taken : 1;
    }
}

LAB_INLINE void lab_loop(struct lab_replay *replay, size_t begin, size_t end,
                         const struct lab_calls *calls, enum lab_style style)
{
    void *self = replay->self;
    const size_t page = replay->page;
    for (size_t i = begin; i < end; i++) {
        const struct lab_op *op = &replay->ops[i];
        struct lab_slot *slot = &replay->slots[op->slot];
        const size_t size = op->size;
        const unsigned log_align = op->alignment & LAB_ALIGN_MASK;
        const size_t align = log_align == 0 ? 0 : (size_t)1 << log_align;
        const uint64_t before = style == LAB_TIMED ? lab_ticks() : 0;
        if (op->kind == LAB_FREE) {
            unsigned char *block = slot->block;
            if (block == NULL) {
                continue;
            }
            slot->block = NULL;
            calls->free(self, block, slot->size, align);
            if (style == LAB_TIMED) {
                lab_note_latency(replay, i, lab_ticks() - before);
            }
            if (style == LAB_COUNTED) {
                replay->held_bytes -= slot->size;
                replay->held_blocks--;
            }
            continue;
        }
        unsigned char *old = op->kind == LAB_RESIZE ? slot->block : NULL;
        const size_t old_size = old != NULL ? slot->size : 0;
        unsigned char *block =
            old != NULL ? calls->resize(self, old, old_size, size)
                        : calls->alloc(self, size, align, (op->alignment & LAB_ZEROED) != 0);
        if (style == LAB_TIMED) {
            lab_note_latency(replay, i, lab_ticks() - before);
        }
        if (__builtin_expect(block == NULL, 0)) {
            replay->refused++;
            replay->refused_bytes += size - (size > old_size ? old_size : size);
            continue;
        }
        slot->block = block;
        slot->size = size;
        if (style == LAB_COUNTED) {
            replay->held_bytes += size - old_size;
            replay->held_blocks += old == NULL;
        }
        if (calls->touches) {
            lab_touch(block, old_size, size, page);
        }
    }
}

#endif
