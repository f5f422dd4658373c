/*
 * Sampling: which blocks are offered to root.mode->sample, in fast mode.
 *
 * Samples are the points of a Poisson process over the bytes that a thread allocates: from one to
 * the next it is a random number of bytes, exponentially distributed, `sample_bytes` of them in the
 * mean. So each byte has the same chance, nobody can run in step with it, and a process that
 * allocates nothing is not sampled. The block in which a point lies is the sample.
 *
 * The fast path knows nothing of this. Bytes are counted where blocks are handed to a bin, a list
 * at a time (refill.c): when the gap ends inside the list, the list is cut before that block, what
 * was behind goes back to its run's free blocks, and the class is *due*: the malloc that finds the
 * bin empty takes the slow path and is the sample. A point in the first block of a list makes the
 * malloc that asked for the list the sample. Large blocks are counted one by one.
 *
 * The block is taken from the heap first. When the sample becomes a block of the table's it is
 * freed again; else (too large, nothing free) it is what the caller gets, and what was a sample is
 * none.
 *
 * Nothing is sampled before the process has allocated `sample_bytes`: a small program pays nothing,
 * not even the memory for one. Threads tell what they have allocated when a gap of theirs ends.
 *
 * A heap's gap, like all else here but `passed`, belongs to the heap's thread; it goes to the next
 * thread with the heap.
 */
#include "freehold/event.h"
#include "heap/fast.h"
#include "heap/heap.h"

/* Bytes of all gaps that have ended. */
static _Atomic uint64_t passed;

/* -ln of a number in (0, 1], by the series of artanh; to 5 digits, which no sample will show. */
static double minus_log(uint64_t random)
{
    const double ln_2 = 0.6931471805599453;
    unsigned zeros = (unsigned)__builtin_clzll(random);
    double mantissa = (double)(random << zeros) * 0x1p-63; /* [1, 2] */
    double z = (mantissa - 1) / (mantissa + 1), z2 = z * z;
    double log = 2 * z * (1 + z2 * (1.0 / 3 + z2 * (1.0 / 5 + z2 * (1.0 / 7 + z2 / 9))));
    return (double)(zeros + 1) * ln_2 - log;
}

uint64_t fh_sample_draw(struct fh_random *random, size_t mean)
{
    return (uint64_t)(minus_log(fh_random_next(random) | 1) * (double)mean);
}

void fh_sample_start(struct fh_heap *heap)
{
    if (fh_root.mode == NULL || fh_root.mode->sample_bytes == 0 || heap->gap != FH_GAP_NEVER)
        return;
    heap->gap = heap->gap_drawn = fh_sample_draw(&heap->random, fh_root.mode->sample_bytes);
}

/* Whether there shall be a sample where it ended; the next gap begins. */
static bool end_gap(struct fh_heap *heap)
{
    /* relaxed: a count. */
    uint64_t before = atomic_fetch_add_explicit(&passed, heap->gap_drawn, memory_order_relaxed);
    bool is_early = before + heap->gap_drawn < fh_root.mode->sample_bytes;
    heap->gap = heap->gap_drawn = fh_sample_draw(&heap->random, fh_root.mode->sample_bytes);
    return !is_early;
}

/* The first `keep` of the list remain, what is behind them is free as if it had been freed. */
static void cut(struct fh_run *run, void *list, uint32_t keep, uint32_t count)
{
    for (uint32_t i = 1; i < keep && fh_next(list) != NULL; i++)
        list = fh_next(list);
    run->local = fh_next(list);
    run->countdown -= count - keep;
    fh_set_next(list, NULL);
}

void fh_sample_list(struct fh_heap *heap, struct fh_run *run, void *list, uint32_t count)
{
    uint64_t size = run->block_size;
    uint32_t at = 0; /* blocks that the gaps have passed */
    while (heap->gap < (count - at) * size) {
        at += (uint32_t)(heap->gap / size);
        if (!end_gap(heap)) {
            at++;
        } else if (at == 0) {
            heap->is_sampling = true;
            at++;
        } else {
            heap->queues[run->class_index].is_due = true;
            cut(run, list, at, count);
            return;
        }
    }
    heap->gap -= (count - at) * size;
}

void fh_sample_large(struct fh_heap *heap, size_t bytes)
{
    if (heap->modes & FH_HEAP_NONE)
        return;
    if (heap->gap >= bytes)
        heap->gap -= bytes;
    else if (end_gap(heap))
        heap->is_sampling = true;
}

void *fh_sample_offer(size_t size, void *block)
{
    const struct fh_call call = FH_CALL_HERE();
    struct fh_heap *heap = fh_busy_begin();
    heap->is_sampling = false;
    void *sampled = fh_root.mode->sample(size, 0, FH_HOW_MALLOC, &call);
    fh_busy_end(heap);
    if (sampled != NULL) {
        bool before = fh_event_mute();
        fh_free_any(block);
        fh_event_unmute(before);
        block = sampled;
    }
    if (fh_event_is_heard())
        fh_event_tell(FH_EVENT_ALLOC, block, NULL, size, fh_usable_size(block),
                      (const void *)call.pc);
    return block;
}
