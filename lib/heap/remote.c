/*
 * Frees from other threads.
 *
 * A thread that frees a block of somebody else's run gathers it: a handful of slots, each a list of
 * blocks of one run, sent off with one atomic operation when it is long enough, when the slot is
 * needed for another run, and at the thread's own heartbeats (batching as in snmalloc and BatchIt:
 * most blocks that travel together were allocated together).
 *
 * Sending: run->remote is {count, offset of the first block / 16 + 1}; a compare-and-swap puts the
 * batch in front. Whoever finds the word zero before has to tell: it pushes the run on the inbox of
 * the heap that owns it. So a run is in exactly one inbox from the moment its word is not zero
 * until it is collected.
 *
 * Collecting (heap locked): the inbox is taken whole; for each run `inbox_next` is read BEFORE the
 * word is exchanged for zero, because from then on somebody else may push the run again and write
 * inbox_next. A run that has changed hands since it was pushed (its heap was merged into another)
 * is sent on to the inbox of its heap; the inbox of a heap that was merged away is SHUT, so that
 * whoever read run->heap a moment too early finds out and reads it again.
 *
 * A word of count 0 with offset 0 in the lower half and bit 0 set is a *poke*: no block, but the
 * owner shall look at the run (a signal handler's free arrived where the slow path could not run).
 *
 * Model: models/remote_free.pml.
 */
#include "heap/heap.h"

#define POKE ((uint64_t)0xffffffffu)

static uint64_t word_of(const struct fh_run *run, const void *head, uint32_t count)
{
    return (uint64_t)count << 32 | ((uint32_t)(((uintptr_t)head - run->base) / 16) + 1);
}

static void *word_head(const struct fh_run *run, uint64_t word)
{
    uint32_t low = (uint32_t)word;
    return low == 0 || low == (uint32_t)POKE ? NULL : (void *)(run->base + (size_t)(low - 1) * 16);
}

#define SHUT ((struct fh_run *)1)

static void inbox_push(struct fh_run *run)
{
    /* acquire pairs with the merge that gave the run to another heap. */
    struct fh_heap *heap = atomic_load_explicit(&run->heap, memory_order_acquire);
    struct fh_run *first = atomic_load_explicit(&heap->inbox, memory_order_acquire);
    for (;;) {
        if (first == SHUT) { /* merged away: the run's heap was set before its old inbox was shut */
            heap = atomic_load_explicit(&run->heap, memory_order_acquire);
            first = atomic_load_explicit(&heap->inbox, memory_order_acquire);
            continue;
        }
        atomic_store_explicit(&run->inbox_next, first, memory_order_relaxed);
        /* release pairs with the acquire in fh_heap_collect_inbox: inbox_next is seen. */
        if (atomic_compare_exchange_weak_explicit(&heap->inbox, &first, run, memory_order_release,
                                                  memory_order_acquire))
            return;
    }
}

/* Sends the list head … tail of `count` blocks. Lock-free; safe in signal handlers. */
void fh_remote_push(struct fh_run *run, void *head, void *tail, uint32_t count)
{
    uint64_t word = atomic_load_explicit(&run->remote, memory_order_relaxed), mine;
    do {
        if (FH_UNLIKELY(word_head(run, word) == head)) {
            fh_report("double-free", head, "the block was the last one freed");
            return;
        }
        fh_set_next(tail, word_head(run, word));
        mine = word_of(run, head, count + (uint32_t)(word >> 32));
        /* release pairs with the acquire exchange of the collector: links are seen. acquire on
         * success: run->heap is read
         * after. */
    } while (!atomic_compare_exchange_weak_explicit(&run->remote, &word, mine, memory_order_acq_rel,
                                                    memory_order_relaxed));
    if (word == 0)
        inbox_push(run);
}

void fh_run_poke(struct fh_run *run)
{
    uint64_t none = 0;
    if (atomic_compare_exchange_strong_explicit(&run->remote, &none, POKE, memory_order_acq_rel,
                                                memory_order_relaxed))
        inbox_push(run);
}

const void *fh_remote_list(const struct fh_run *run)
{
    return word_head(run, atomic_load_explicit(&run->remote, memory_order_acquire));
}

static void send(struct fh_heap *heap, struct fh_out *out)
{
    if (out->run == NULL)
        return;
    size_t bytes = (size_t)out->count * out->run->block_size;
    fh_remote_push(out->run, out->head, out->tail, out->count);
    out->run = NULL;
    fh_decay_wanted(heap, bytes); /* its owner may be idle */
}

void fh_remote_flush(struct fh_heap *heap)
{
    for (unsigned i = 0; i < FH_OUT_SLOTS; i++)
        send(heap, &heap->out[i]);
}

/* A block of a run that the calling thread does not own. */
FH_FAST void fh_remote_free(struct fh_run *run, void *block)
{
    struct fh_heap *heap = fh_heap_current;
    if (heap == &fh_heap_none || heap == &fh_heap_emergency ||
        atomic_load_explicit(&heap->depth, memory_order_relaxed) != 0) {
        fh_remote_push(run, block, block, 1);
        return;
    }
    /* Neighbouring runs go to different slots. depth keeps a signal handler's free away from the
     * slot. */
    struct fh_out *out = &heap->out[((uintptr_t)run >> FH_RUN_SHIFT) % FH_OUT_SLOTS];
    if (FH_UNLIKELY(out->run == run && out->head == block)) {
        fh_report("double-free", block, "the block was the last one freed");
        return;
    }
    heap->remote_frees++;
    atomic_store_explicit(&heap->depth, 1, memory_order_relaxed);
    atomic_signal_fence(memory_order_seq_cst);
    if (out->run != run) {
        send(heap, out);
        *out = (struct fh_out){.run = run, .head = block, .tail = block, .count = 1};
        fh_set_next(block, NULL);
    } else {
        fh_set_next(block, out->head);
        out->head = block;
        out->count++;
    }
    if (out->count >= FH_OUT_COUNT || out->count * run->block_size >= FH_OUT_BYTES)
        send(heap, out);
    fh_depth_leave(heap);
}

/* The last of a list of `count` blocks; NULL when it is not that long, or longer (a ring). */
static void *list_tail(void *list, uint32_t count)
{
    for (; count > 1 && fh_next(list) != NULL; count--)
        list = fh_next(list);
    return count == 1 && fh_next(list) == NULL ? list : NULL;
}

/* What others freed of one run, back to it. Heap locked. */
static void collect(struct fh_heap *heap, struct fh_run *run)
{
    /* acquire pairs with the release in fh_remote_push; release: inbox_next was read before. */
    uint64_t word = atomic_exchange_explicit(&run->remote, 0, memory_order_acq_rel);
    void *head = word_head(run, word);
    uint32_t count = (uint32_t)(word >> 32);
    void *tail = head != NULL && run->local != NULL ? list_tail(head, count) : head;
    if (tail == NULL && head != NULL) {
        fh_report("double-free", head, "freed twice by another thread");
        head = NULL; /* lost, but no block is in a list twice */
        count = 0;
    }
    if (head != NULL) {
        if (run->local != NULL)
            fh_set_next(tail, run->local);
        run->local = head;
    }
    if (count > fh_run_used(run)) {
        fh_report("double-free", head, "more blocks of its run were freed than handed out");
        count = fh_run_used(run);
    }
    /* used -= count, with the countdown made to count all of them. */
    uint32_t used = fh_run_used(run) - count;
    if (run->state == FH_STATE_CURRENT || run->state == FH_STATE_PARTIAL) {
        run->countdown = used;
        run->used_floor = 0;
    } else if (count > 0) {
        run->countdown = 0;
        run->used_floor = used;
    }
    fh_run_settle(heap, run);
}

/* The runs of an inbox that was taken: collected, or sent on when they are another heap's. */
static void collect_all(struct fh_heap *heap, struct fh_run *run)
{
    while (run != NULL && run != SHUT) {
        struct fh_run *next = atomic_load_explicit(&run->inbox_next, memory_order_relaxed);
        if (run->heap != heap)
            inbox_push(run); /* its word is not zero: nobody else pushes it meanwhile */
        else
            collect(heap, run);
        run = next;
    }
}

void fh_heap_collect_inbox(struct fh_heap *heap)
{
    struct fh_run *first = atomic_load_explicit(&heap->inbox, memory_order_relaxed);
    if (first == NULL || first == SHUT)
        return;
    /* acquire pairs with the release in inbox_push. */
    collect_all(heap, atomic_exchange_explicit(&heap->inbox, NULL, memory_order_acquire));
}

bool fh_heap_collect_lent(struct fh_heap *heap, bool (*stands_still)(struct fh_heap *heap))
{
    struct fh_run *first = atomic_load_explicit(&heap->inbox, memory_order_relaxed);
    if (first == NULL || first == SHUT)
        return true;
    first = atomic_exchange_explicit(&heap->inbox, NULL, memory_order_acquire);
    for (struct fh_run *run = first; run != NULL;
         run = atomic_load_explicit(&run->inbox_next, memory_order_relaxed))
        if (run->heap == heap)
            atomic_store_explicit(&run->key, FH_KEY_NOBODY, memory_order_seq_cst);
    bool is_ours = stands_still(heap);
    for (struct fh_run *run = first, *next; run != NULL; run = next) {
        next = atomic_load_explicit(&run->inbox_next, memory_order_relaxed);
        bool is_lent = run->heap == heap;
        if (is_lent && is_ours)
            collect(heap, run);
        if (is_lent && run->kind == FH_RUN_BLOCKS &&
            run->heap == heap) /* it may have left the heap */
            fh_run_set_owner(heap, run);
        if (!is_lent || !is_ours)
            inbox_push(run);
    }
    return is_ours;
}

void fh_inbox_shut(struct fh_heap *heap)
{
    /* release: the runs' new heap is seen by who finds the inbox shut. */
    collect_all(heap, atomic_exchange_explicit(&heap->inbox, SHUT, memory_order_acq_rel));
}

void fh_inbox_open(struct fh_heap *heap)
{
    struct fh_run *shut = SHUT;
    atomic_compare_exchange_strong_explicit(&heap->inbox, &shut, NULL, memory_order_relaxed,
                                            memory_order_relaxed);
}

void fh_heap_collect_forked(struct fh_heap *heap)
{
    if (atomic_load_explicit(&heap->inbox, memory_order_relaxed) != SHUT)
        atomic_store_explicit(&heap->inbox, NULL, memory_order_relaxed);
    for (uint32_t index = heap->all_first; index != FH_NO_RUN;) {
        struct fh_run *run = fh_run_at(heap->pages, index);
        index = run->heap_next;
        if (run->kind != FH_RUN_BLOCKS)
            continue;
        if (atomic_load_explicit(&run->remote, memory_order_relaxed) != 0)
            collect(heap, run);
        else if (run->countdown == 0 && run->state != FH_STATE_CURRENT &&
                 run->state != FH_STATE_EMPTY)
            fh_run_settle(heap, run); /* its owner had counted down and waited for the lock that
                                       * fork held */
    }
}
