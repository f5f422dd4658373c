/*
 * Runs of blocks: carving pages into blocks, and giving pages back.
 *
 * A run begins as address space. Its pages are *carved* when blocks are needed: a block exists when
 * every page that it touches is carved. So memory is touched page by page, in order, and a class
 * that hands out three blocks costs one page. Purging is the reverse: a carved page in which every
 * block is free is given back to the kernel and is not carved any more; its blocks leave the free
 * list and stop existing, until the page is carved again. Which blocks are free is derived from the
 * free list at that moment; no bits are kept. That works with the page's size as the grain,
 * whatever the size of the run.
 *
 * Carving prefers pages that are in memory already (`dirty`: left from an earlier life of the
 * granule) and otherwise the lowest. A class that has many runs is growing: it carves several pages
 * at once and asks the kernel for all of them with one call, but never more than a thirty-second of
 * what the class has (measured on Linux 6.18 in a VM: a page in a batch of 16 costs 1.5–1.7 µs, a
 * fault 1.7–1.9: 3 to 12 % less).
 *
 * Invariants (checked by fh_heap_check):
 *   available = blocks that exist; used = used_floor + countdown = available − length of `local`
 *   (blocks in a bin's active list count as used); state FULL, FRESH: local is empty, countdown is
 *   1. PARTIAL: local is not empty, used_floor 0. EMPTY: used 0.
 */
#include "base/notice.h"
#include "heap/heap.h"
#include "os/sys.h"

#include <string.h>

static bool resolve(const struct fh_run *run, uintptr_t address, struct fh_block *out);

const struct fh_owner fh_heap_manager = {.name = "heap", .resolve = resolve};

static unsigned granule_pages(void)
{
    return (unsigned)(FH_GRANULE >> fh_os_page_shift);
}

static unsigned run_pages(const struct fh_run *run)
{
    return run->span * granule_pages();
}

static uint64_t low_bits(unsigned count)
{
    return count >= 64 ? ~(uint64_t)0 : ((uint64_t)1 << count) - 1;
}

/* Bits of the pages that bytes [begin, end) of a run touch. */
static uint64_t pages_of(size_t begin, size_t end)
{
    unsigned first = (unsigned)(begin >> fh_os_page_shift),
             last = (unsigned)((end - 1) >> fh_os_page_shift);
    return low_bits(last + 1) & ~low_bits(first);
}

static uint64_t block_pages(const struct fh_run *run, uint32_t index)
{
    size_t begin = (size_t)index * run->block_size;
    return pages_of(begin, begin + run->block_size);
}

bool fh_run_is_carved(const struct fh_run *run, uint32_t index)
{
    return (block_pages(run, index) & ~run->carved) == 0;
}

static bool resolve(const struct fh_run *run, uintptr_t address, struct fh_block *out)
{
    if (run->kind == FH_RUN_LARGE) {
        *out = (struct fh_block){(void *)run->base, run->large_bytes, true};
        return address - run->base < run->large_bytes;
    }
    uint32_t index = (uint32_t)((address - run->base) / run->block_size);
    if (index >= run->capacity || (block_pages(run, index) & ~run->carved) != 0)
        return false;
    *out = (struct fh_block){(void *)(run->base + (size_t)index * run->block_size), run->block_size,
                             true};
    return true;
}

/* ---- lists ----------------------------------------------------------------------------------- */

uint32_t fh_list_length(const void *list, uint32_t at_most)
{
    uint32_t count = 0;
    for (; list != NULL && count < at_most; list = fh_next(list))
        count++;
    return count;
}

void fh_all_link(struct fh_heap *heap, struct fh_run *run)
{
    uint32_t index = fh_run_index(heap->pages, run);
    run->heap_prev = FH_NO_RUN;
    run->heap_next = heap->all_first;
    if (heap->all_first != FH_NO_RUN)
        fh_run_at(heap->pages, heap->all_first)->heap_prev = index;
    heap->all_first = index;
}

void fh_all_unlink(struct fh_heap *heap, struct fh_run *run)
{
    if (run->heap_prev != FH_NO_RUN)
        fh_run_at(heap->pages, run->heap_prev)->heap_next = run->heap_next;
    else
        heap->all_first = run->heap_next;
    if (run->heap_next != FH_NO_RUN)
        fh_run_at(heap->pages, run->heap_next)->heap_prev = run->heap_prev;
}

static uint32_t *list_of(struct fh_heap *heap, const struct fh_run *run)
{
    struct fh_class_queue *queue = &heap->queues[run->class_index];
    switch (run->state) {
    case FH_STATE_PARTIAL:
        return &queue->partial_first;
    case FH_STATE_FRESH:
        return &queue->fresh_first;
    case FH_STATE_EMPTY:
        return &heap->empty_first[run->span != 1];
    default:
        return NULL;
    }
}

void fh_queue_push(struct fh_heap *heap, struct fh_run *run, enum fh_run_state state)
{
    run->state = (uint8_t)state;
    uint32_t *first = list_of(heap, run);
    if (first == NULL)
        return;
    uint32_t index = fh_run_index(heap->pages, run);
    struct fh_class_queue *queue = &heap->queues[run->class_index];
    run->next = run->prev = FH_NO_RUN;
    if (state == FH_STATE_EMPTY)
        heap->empty_count[run->span != 1]++;
    if (state == FH_STATE_PARTIAL) { /* oldest first: a run that waits gathers more free blocks */
        if (queue->partial_last != FH_NO_RUN) {
            fh_run_at(heap->pages, queue->partial_last)->next = index;
            run->prev = queue->partial_last;
        } else {
            queue->partial_first = index;
        }
        queue->partial_last = index;
        return;
    }
    run->next = *first;
    if (*first != FH_NO_RUN)
        fh_run_at(heap->pages, *first)->prev = index;
    *first = index;
}

void fh_queue_remove(struct fh_heap *heap, struct fh_run *run)
{
    uint32_t *first = list_of(heap, run);
    if (first == NULL)
        return;
    if (run->prev != FH_NO_RUN)
        fh_run_at(heap->pages, run->prev)->next = run->next;
    else
        *first = run->next;
    if (run->next != FH_NO_RUN)
        fh_run_at(heap->pages, run->next)->prev = run->prev;
    if (run->state == FH_STATE_PARTIAL && run->next == FH_NO_RUN)
        heap->queues[run->class_index].partial_last = run->prev;
    if (run->state == FH_STATE_EMPTY)
        heap->empty_count[run->span != 1]--;
    run->state = FH_STATE_CURRENT;
}

void fh_run_set_owner(struct fh_heap *heap, struct fh_run *run)
{
    bool is_slow = (heap->modes & (FH_HEAP_SHARED | FH_HEAP_OBSERVED | FH_HEAP_CHECKED)) != 0;
    uintptr_t thread = atomic_load_explicit(&heap->thread, memory_order_relaxed);
    /* The first header is what every address leads to while a window is closed (handler.c). */
    is_slow |= (uintptr_t)run == fh_pages_main.window.headers;
    atomic_store_explicit(&run->key,
                          is_slow || thread == 0 ? FH_KEY_NOBODY : fh_run_key(thread, run->base),
                          memory_order_release);
}

/* ---- making and ending runs ------------------------------------------------------------------ */

/* A run's dirty bits are gathered from its granules when it begins and spread over them when it
 * ends. */
void fh_run_gather_dirty(struct fh_pages *pages, struct fh_run *run)
{
    uint32_t index = fh_run_index(pages, run);
    uint64_t dirty = 0;
    for (uint32_t i = run->span; i-- > 0;)
        dirty |= (fh_run_at(pages, index + i)->dirty & low_bits(granule_pages()))
                 << (i * granule_pages());
    run->dirty = dirty;
}

void fh_run_spread_dirty(struct fh_pages *pages, struct fh_run *run)
{
    uint32_t index = fh_run_index(pages, run);
    uint64_t dirty = run->dirty;
    for (uint32_t i = 0; i < run->span; i++)
        fh_run_at(pages, index + i)->dirty =
            (dirty >> (i * granule_pages())) & low_bits(granule_pages());
}

void fh_run_shape(struct fh_run *run, uint32_t size)
{
    run->block_size = size;
    run->reciprocal =
        run->span == 1 ? (uint32_t)(((uint64_t)1 << 32) / size + (((uint64_t)1 << 32) % size != 0))
                       : 0;
    run->coarse =
        run->span == 1 ? 0 : (uint32_t)((((uint64_t)1 << 32) + size / 1024 - 1) / (size / 1024));
}

static void run_init(struct fh_heap *heap, struct fh_run *run, unsigned class_index)
{
    uint32_t size = fh_class_size(class_index);
    run->local = NULL;
    fh_run_shape(run, size);
    run->countdown = run->used_floor = 0;
    run->base = (uintptr_t)fh_run_address(heap->pages, run);
    run->capacity = (uint32_t)(((size_t)run->span << FH_GRANULE_SHIFT) / size);
    run->available = 0;
    run->carved = 0;
    run->class_index = (uint8_t)class_index;
    run->flags = 0;
    run->quiet = 0;
    run->seen = 0;
    run->epoch = 0;
    run->state = FH_STATE_CURRENT;
    run->manager = &fh_heap_manager;
    run->heap = heap;
    fh_run_set_kind(run, FH_RUN_BLOCKS);
    heap->queues[class_index].runs++;
}

/* A run of the class with nothing carved, or one with free blocks that was kept; NULL when there is
 * no memory. */
struct fh_run *fh_run_new(struct fh_heap *heap, unsigned class_index)
{
    uint32_t granules = fh_class_granules(class_index);
    uint32_t index = heap->empty_first[granules != 1];
    struct fh_run *run;
    if (index != FH_NO_RUN) {
        run = fh_run_at(heap->pages, index);
        fh_queue_remove(heap, run);
        if (run->class_index == class_index)
            return run;
        heap->queues[run->class_index].runs--;
        atomic_store_explicit(&run->key, FH_KEY_NOBODY, memory_order_relaxed);
    } else {
        if (heap->options.limit != 0 &&
            (heap->run_granules + granules) << FH_GRANULE_SHIFT > heap->options.limit)
            return NULL;
        /* Many a class never needs more than a page or two. */
        bool is_first = heap->queues[class_index].runs == 0 && granules == 1;
        run = is_first ? fh_pages_alloc_sparse(heap->pages)
                       : fh_pages_alloc(heap->pages, granules, 1, NULL);
        if (run == NULL)
            return NULL;
        fh_run_gather_dirty(heap->pages, run);
        fh_all_link(heap, run);
        heap->run_granules += granules;
    }
    run_init(heap, run, class_index);
    fh_run_set_owner(heap, run);
    return run;
}

void fh_run_release(struct fh_heap *heap, struct fh_run *run)
{
    heap->queues[run->class_index].runs--;
    heap->run_granules -= run->span;
    atomic_store_explicit(&run->key, FH_KEY_NOBODY, memory_order_relaxed);
    fh_all_unlink(heap, run);
    fh_run_spread_dirty(heap->pages, run);
    fh_pages_free(heap->pages, run);
}

/* ---- carving --------------------------------------------------------------------------------- */

bool fh_run_can_carve(const struct fh_heap *heap, const struct fh_run *run)
{
    (void)heap;
    uint64_t useful = pages_of(0, (size_t)run->capacity * run->block_size);
    return (useful & ~run->carved) != 0;
}

/* Links the blocks that touch a page of `fresh` and exist now, in order, or at random when the heap
 * asks. */
static void *link_blocks(struct fh_heap *heap, struct fh_run *run, uint64_t fresh, uint32_t *count)
{
    unsigned first_page = (unsigned)__builtin_ctzll(fresh),
             last_page = 63 - (unsigned)__builtin_clzll(fresh);
    uint32_t index = (uint32_t)(((size_t)first_page << fh_os_page_shift) / run->block_size);
    uint32_t end = (uint32_t)((((size_t)last_page + 1) << fh_os_page_shift) / run->block_size) + 1;
    if (end > run->capacity)
        end = run->capacity;
    void *head = NULL, *tail = NULL;
    uint32_t linked = 0;
    for (; index < end; index++) {
        uint64_t need = block_pages(run, index);
        if ((need & fresh) == 0 || (need & ~run->carved) != 0)
            continue;
        void *block = (void *)(run->base + (size_t)index * run->block_size);
        if (head == NULL) {
            head = tail = block;
            fh_set_next(block, NULL);
        } else if (heap->options.randomise_slots && (fh_random_next(&heap->random) & 1) != 0) {
            fh_set_next(block, head);
            head = block;
        } else {
            fh_set_next(tail, block);
            fh_set_next(block, NULL);
            tail = block;
        }
        linked++;
    }
    *count = linked;
    return head;
}

/* A list in random order (Fisher and Yates over the list's blocks); for heaps with randomise_slots.
 * */
static void *shuffle(struct fh_heap *heap, void *list, uint32_t count)
{
    enum { BATCH = 1024 };
    void *blocks[BATCH];
    void *rest = list, *head = NULL;
    while (count > 0) {
        uint32_t batch = count < BATCH ? count : BATCH;
        for (uint32_t i = 0; i < batch; i++, rest = fh_next(rest))
            blocks[i] = rest;
        for (uint32_t i = batch; i > 0; i--) {
            uint32_t pick = fh_random_below(&heap->random, i);
            fh_set_next(blocks[pick], head);
            head = blocks[pick];
            blocks[pick] = blocks[i - 1];
        }
        count -= batch;
    }
    return head;
}

void *fh_run_carve(struct fh_heap *heap, struct fh_run *run, unsigned pages_wanted, uint32_t *count)
{
    uint64_t useful = pages_of(0, (size_t)run->capacity * run->block_size);
    void *list = NULL;
    *count = 0;
    while (list == NULL && (useful & ~run->carved) != 0) {
        uint64_t open = useful & ~run->carved;
        /* Blocks over several pages: begin with the lowest block that is not there. */
        uint64_t candidates = run->block_size <= fh_os_page_size && (open & run->dirty) != 0
                                  ? open & run->dirty
                                  : open;
        unsigned page = (unsigned)__builtin_ctzll(candidates), end = page;
        unsigned want = pages_wanted;
        if (run->block_size > fh_os_page_size) {
            uint32_t index = (uint32_t)(((size_t)page << fh_os_page_shift) / run->block_size);
            uint64_t need = block_pages(run, index);
            unsigned need_end = 64 - (unsigned)__builtin_clzll(need);
            if (need_end - page > want)
                want = need_end - page;
        }
        while (end < run_pages(run) && end - page < want && (open >> end & 1) != 0)
            end++;
        uint64_t fresh = low_bits(end) & ~low_bits(page);
        uint64_t clean = fresh & ~run->dirty;
        if (end - page >= 4 && clean == fresh)
            fh_pages_touch(heap->pages, (void *)(run->base + ((size_t)page << fh_os_page_shift)),
                           (size_t)(end - page) << fh_os_page_shift);
        if (clean != 0)
            fh_pages_count(heap->pages, (size_t)__builtin_popcountll(clean), 0);
        run->carved |= fresh;
        run->dirty |= fresh;
        list = link_blocks(heap, run, fresh, count);
    }
    run->available += *count;
    if (list != NULL && heap->options.randomise_slots)
        list = shuffle(heap, list, *count);
    return list;
}

/* ---- purging --------------------------------------------------------------------------------- */

#define MAX_BLOCKS (FH_GRANULE / 16)

static size_t purge_pages(struct fh_heap *heap, struct fh_run *run, uint64_t set)
{
    size_t given = 0;
    while (set != 0) {
        unsigned page = (unsigned)__builtin_ctzll(set);
        uint64_t row = ~(set >> page);
        unsigned length = row == 0 ? 64 - page : (unsigned)__builtin_ctzll(row);
        size_t bytes = (size_t)length << fh_os_page_shift;
        uint64_t bits = low_bits(length) << page;
        const struct fh_source *source = heap->pages->source;
        if (source->purge(source->self, (void *)(run->base + ((size_t)page << fh_os_page_shift)),
                          bytes) == 0) {
            run->dirty &= ~bits;
            given += bytes;
            if (fh_notice_is_wanted())
                fh_notice_put(FH_NOTICE_PURGE,
                              (void *)(run->base + ((size_t)page << fh_os_page_shift)), bytes,
                              fh_os_gettid());
        }
        set &= ~bits;
    }
    fh_pages_count(heap->pages, 0, given >> fh_os_page_shift);
    atomic_fetch_add_explicit(&heap->pages->purged, given, memory_order_relaxed);
    return given;
}

size_t fh_run_purge_uncarved(struct fh_heap *heap, struct fh_run *run)
{
    bool can_purge = (heap->pages->source->capabilities & FH_SOURCE_PURGE) != 0;
    return can_purge ? purge_pages(heap, run, run->dirty & ~run->carved) : 0;
}

size_t fh_run_purge(struct fh_heap *heap, struct fh_run *run)
{
    if (!(heap->pages->source->capabilities & FH_SOURCE_PURGE))
        return 0;
    uint32_t used = fh_run_used(run);
    if (run->local == NULL)
        return purge_pages(heap, run, run->dirty & ~run->carved);

    uint64_t is_free[MAX_BLOCKS / 64];
    memset(is_free, 0, (run->capacity + 63) / 64 * 8);
    for (const void *block = run->local; block != NULL; block = fh_next(block)) {
        uint32_t index = (uint32_t)(((uintptr_t)block - run->base) / run->block_size);
        if (index >= run->capacity || (is_free[index / 64] >> (index % 64) & 1) != 0) {
            fh_report(index >= run->capacity ? "heap-corruption" : "double-free", block,
                      "seen in the free list of its run");
            return 0;
        }
        is_free[index / 64] |= (uint64_t)1 << (index % 64);
    }
    uint64_t live = 0;
    for (uint32_t index = 0; index < run->capacity; index++) {
        uint64_t need = block_pages(run, index);
        if ((need & ~run->carved) == 0 && (is_free[index / 64] >> (index % 64) & 1) == 0)
            live |= need;
    }
    uint64_t set = run->carved & ~live;
    if (set == 0)
        return purge_pages(heap, run, run->dirty & ~run->carved);

    run->carved &= ~set;
    void *head = NULL, *tail = NULL;
    uint32_t kept = 0;
    for (uint32_t index = 0; index < run->capacity; index++) {
        if ((is_free[index / 64] >> (index % 64) & 1) == 0 ||
            (block_pages(run, index) & ~run->carved) != 0)
            continue;
        void *block = (void *)(run->base + (size_t)index * run->block_size);
        if (tail == NULL)
            head = block;
        else
            fh_set_next(tail, block);
        tail = block;
        kept++;
    }
    if (tail != NULL)
        fh_set_next(tail, NULL);
    run->local = head;
    run->available = used + kept;
    return purge_pages(heap, run, run->dirty & ~run->carved);
}
