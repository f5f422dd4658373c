/*
 * Owners, and the areas that they list: from any word to the block in which it points.
 *
 * Blocks of one size lie side by side in runs; a run is an area: base, stride, count. A table leads
 * from each 64 KiB granule of the main window to the area that has memory there, so a word costs a
 * subtraction, two loads and a multiplication. Areas elsewhere (heaps over a source of their own, page
 * fences) are few and searched by halving.
 *
 * What is known of a block are two bits, in arrays of the scan's own: nothing is written into blocks or
 * their headers, so a scan can run in a copy of the process and disturbs no page of it.
 *
 * The quotient. For an offset o in the area and the stride s, o * ceil(2^40 / s) >> 40 is o / s while
 * o * (s - 1) < 2^40 (the error of the reciprocal is below s / 2^40 of the quotient's unit). Where that
 * does not hold, and there is more than one block, a division does it.
 */
#include "scan/internal.h"

#include "base/lock.h"
#include "pages/pages.h"

#include <string.h>

#define RECIPROCAL_SHIFT 40
#define DIRECT_MOST      32768u /* bytes: larger blocks may have pages that nobody has touched */

static struct {
    _Atomic(struct fh_scan_owner *) first;
    struct fh_lock adding;
} owners;

void fh_scan_register(struct fh_scan_owner *owner)
{
    fh_lock_acquire(&owners.adding);
    /* At the end: the first that registers is the first that is held. */
    _Atomic(struct fh_scan_owner *) *link = &owners.first;
    struct fh_scan_owner *last = NULL;
    bool is_known = false;
    for (struct fh_scan_owner *at = owners.first; at != NULL; at = at->next) {
        is_known |= at == owner;
        last = at;
    }
    if (!is_known) {
        owner->next = NULL;
        if (last != NULL)
            __atomic_store_n(&last->next, owner, __ATOMIC_RELEASE); /* with the loads below */
        else
            atomic_store_explicit(link, owner, memory_order_release);
    }
    fh_lock_release(&owners.adding);
}

static struct fh_scan_owner *first_owner(void)
{
    return atomic_load_explicit(&owners.first, memory_order_acquire);
}

static struct fh_scan_owner *next_owner(struct fh_scan_owner *owner)
{
    return __atomic_load_n(&owner->next, __ATOMIC_ACQUIRE);
}

void fh_scan_hold_owners(void)
{
    for (struct fh_scan_owner *owner = first_owner(); owner != NULL; owner = next_owner(owner))
        if (owner->hold != NULL)
            owner->hold();
}

void fh_scan_release_owners(void)
{
    for (struct fh_scan_owner *owner = first_owner(); owner != NULL; owner = next_owner(owner))
        if (owner->release != NULL)
            owner->release();
}

void fh_scan_list_owners(struct fh_scan *scan)
{
    for (struct fh_scan_owner *owner = first_owner(); owner != NULL; owner = next_owner(owner))
        if (owner->list != NULL)
            owner->list(scan);
}

bool fh_scan_is_helper(int tid)
{
    for (struct fh_scan_owner *owner = first_owner(); owner != NULL; owner = next_owner(owner))
        if (owner->is_helper != NULL && owner->is_helper(tid))
            return true;
    return false;
}

/* ---- areas --------------------------------------------------------------------------------------- */

static uint64_t reciprocal_of(size_t stride, size_t bytes)
{
    if (stride < 2 || bytes > ((uint64_t)1 << RECIPROCAL_SHIFT) / stride)
        return 0;
    return (((uint64_t)1 << RECIPROCAL_SHIFT) + stride - 1) / stride;
}

static bool file_inside(struct fh_scan *scan, struct fh_scan_area *area)
{
    uintptr_t offset = area->base - scan->window_low;
    if (offset >= scan->window_bytes || area->bytes > scan->window_bytes - offset)
        return false;
    size_t last = (offset + area->bytes - 1) >> FH_GRANULE_SHIFT;
    for (size_t i = offset >> FH_GRANULE_SHIFT; i <= last; i++)
        scan->granules[i] = area;
    return true;
}

struct fh_scan_area *fh_scan_add(struct fh_scan *scan, uintptr_t base, size_t stride,
                                 uint32_t count)
{
    size_t bits = (((size_t)count + 63) / 64) * sizeof(uint64_t);
    struct fh_scan_area *area = fh_scan_note(scan, sizeof *area + 2 * bits);
    if (area == NULL)
        return NULL;
    *area = (struct fh_scan_area){.base = base,
                                  .bytes = stride * count,
                                  .stride = stride,
                                  .reciprocal = reciprocal_of(stride, stride * count),
                                  .count = count,
                                  .is_paged = stride > DIRECT_MOST,
                                  .live = (uint64_t *)(area + 1),
                                  .wanted = (uint64_t *)((char *)(area + 1) + bits),
                                  .next = scan->areas};
    scan->areas = area;
    if (!file_inside(scan, area))
        scan->others_count++;
    return area;
}

void fh_scan_live(struct fh_scan_area *area, uint32_t first, uint32_t count)
{
    for (uint32_t index = first; index < first + count;) {
        if (index % 64 == 0 && first + count - index >= 64) {
            area->live[index / 64] = ~(uint64_t)0;
            index += 64;
        } else {
            area->live[index / 64] |= (uint64_t)1 << (index % 64);
            index++;
        }
    }
}

void fh_scan_by_pages(struct fh_scan_area *area)
{
    area->is_paged = true;
}

void fh_scan_bits(struct fh_scan_area *area, uint32_t word, uint64_t live, uint64_t wanted)
{
    area->live[word] = live;
    area->wanted[word] = wanted;
}

/* The block that begins at the address. */
static bool find_block(const struct fh_scan *scan, uintptr_t block, struct fh_scan_area **area,
                       uint32_t *index)
{
    *area = fh_scan_area_of(scan, block);
    if (*area == NULL)
        return false;
    *index = fh_scan_index(*area, block);
    return (*area)->base + *index * (*area)->stride == block;
}

void fh_scan_not_live(struct fh_scan *scan, uintptr_t block)
{
    struct fh_scan_area *area;
    uint32_t index;
    if (find_block(scan, block, &area, &index))
        area->live[index / 64] &= ~((uint64_t)1 << (index % 64));
}

bool fh_scan_want(struct fh_scan *scan, uintptr_t block)
{
    struct fh_scan_area *area;
    uint32_t index;
    if (!find_block(scan, block, &area, &index))
        return false;
    area->live[index / 64] &= ~((uint64_t)1 << (index % 64));
    area->wanted[index / 64] |= (uint64_t)1 << (index % 64);
    return true;
}

bool fh_scan_is_wanted(const struct fh_scan *scan, uintptr_t block)
{
    struct fh_scan_area *area;
    uint32_t index;
    return find_block(scan, block, &area, &index) && fh_scan_has_bit(area->wanted, index);
}

void fh_scan_each_wanted(const struct fh_scan *scan,
                         void (*visit)(void *context, uintptr_t block, size_t size), void *context)
{
    for (const struct fh_scan_area *area = scan->areas; area != NULL; area = area->next)
        for (uint32_t word = 0; word < (area->count + 63) / 64; word++)
            for (uint64_t bits = area->wanted[word]; bits != 0; bits &= bits - 1) {
                uint32_t index = word * 64 + (uint32_t)__builtin_ctzll(bits);
                visit(context, area->base + index * area->stride, area->stride);
            }
}

/* ---- areas outside the window ---------------------------------------------------------------------- */

static void sift(struct fh_scan_area **heap, size_t root, size_t count)
{
    for (size_t child; (child = 2 * root + 1) < count; root = child) {
        if (child + 1 < count && heap[child + 1]->base > heap[child]->base)
            child++;
        if (heap[root]->base >= heap[child]->base)
            return;
        struct fh_scan_area *held = heap[root];
        heap[root] = heap[child];
        heap[child] = held;
    }
}

static void sort_by_base(struct fh_scan_area **items, size_t count)
{
    for (size_t i = count / 2; i-- > 0;)
        sift(items, i, count);
    for (size_t end = count; end-- > 1;) {
        struct fh_scan_area *held = items[0];
        items[0] = items[end];
        items[end] = held;
        sift(items, 0, end);
    }
}

void fh_scan_seal(struct fh_scan *scan)
{
    if (scan->others_count == 0)
        return;
    scan->others = fh_scan_note(scan, scan->others_count * sizeof scan->others[0]);
    if (scan->others == NULL)
        return;
    unsigned count = 0;
    for (struct fh_scan_area *area = scan->areas; area != NULL; area = area->next)
        if (area->base - scan->window_low >= scan->window_bytes ||
            area->bytes > scan->window_bytes - (area->base - scan->window_low))
            scan->others[count++] = area;
    sort_by_base(scan->others, count);
    scan->others_low = scan->others[0]->base;
    scan->others_high = scan->others[count - 1]->base + scan->others[count - 1]->bytes;
}

struct fh_scan_area *fh_scan_find_outside(const struct fh_scan *scan, uintptr_t address)
{
    unsigned low = 0, high = scan->others_count;
    while (low < high) {
        unsigned middle = low + (high - low) / 2;
        if (scan->others[middle]->base > address)
            high = middle;
        else
            low = middle + 1;
    }
    if (low == 0)
        return NULL;
    struct fh_scan_area *area = scan->others[low - 1];
    return address - area->base < area->bytes ? area : NULL;
}
