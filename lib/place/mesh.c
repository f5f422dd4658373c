/*
 * mesh: sparse spans that share memory.
 *
 * Spans. A span is up to 16 pages of address space cut into at most 256 slots of one size, so that a set of
 * slots is four words. Sizes are multiples of 16 up to 256 and then eight to a doubling up to 8 KiB; up
 * to 256 bytes a span is size/16 pages, filled without a rest. An over-aligned block has a kind (size and
 * alignment) of its own, so that its alignment is known without a header. Larger blocks are spans of
 * their own. All that is known lies at the beginning of the range, outside the blocks: the state, a span
 * number for each page, the spans.
 *
 * Groups. Spans that have been meshed are a group: one, the leader, shows its own memory, the members
 * show the leader's. Each span knows its own live slots (`bits`: whose blocks they are), the leader also
 * those of all (`all`: what of the memory is taken). Invariant: the members' and the leader's bits are
 * disjoint and their union is `all`. A block freed through any address clears both; new blocks take
 * slots that are free in `all`, at the leader's addresses.
 *
 * Placement. A kind allocates from one attached span, whose free slots stand in random order in a shuffle
 * vector (Powers et al. 2019, section 4.2): random places are what makes two spans disjoint with a
 * probability that can be computed. Of n slots with r and s live, it is about (1 - s/n)^r. For a
 * span of 256 slots of which a tenth lives, two are disjoint once in 15 pairs, a third fits a pair once in
 * 300, a fourth once in 9,000.
 *
 * Where this differs from Mesh: spans are larger (256 slots, not one page), because each mesh costs
 * mappings, of which a process has few, and a larger span returns more for it; more than two spans mesh
 * (a leader takes members as long as some fit); and instead of SplitMesher's few random probes the
 * candidates of a kind, at most 4,096 a time, are compared with every base, densest first: a
 * comparison is four words, some 2 ns, so that a round over 4,096 spans takes tens of milliseconds, cut
 * into steps.
 *
 * A mesh of member b into leader a: the live slots of b are copied to the same slots of a, which are free
 * there; then b's pages are made to show a's (one call: who reads sees the one or the other, with equal
 * contents), and b's memory is given back. Nothing has changed if the call fails: what was copied lies in
 * free slots. It is done only if b has more pages in memory than the copy touches anew in a.
 *
 * Besides, pages of a span in which nothing lives are given back one by one: that costs no mapping.
 *
 * Mappings. Each place in the range where neighbouring pages do not show neighbouring memory is a seam; the
 * range is one mapping more than it has seams. They are counted exactly, and no mesh is begun that could
 * exceed the budget.
 *
 * Ends. A member without live blocks gets memory of its own again and is free; a group ends when nothing in it
 * lives. Should the kernel refuse that (it needs a mapping for it), the span stays where it is, usable as
 * before, and is tried again by a later step.
 *
 * Not locked. Pages are the kernel's, at most 64 KiB.
 */
#include "freehold/mesh.h"

#include "base/core/adapter.h"
#include "base/core/bits.h"
#include "base/core/fail.h"
#include "base/core/misuse.h"
#include "base/core/plant.h"
#include "base/core/probe.h"
#include "base/core/random.h"
#include "os/sys.h"
#include "place/ground.h"

#include <errno.h>

enum {
    SLOTS = 256,
    WORDS = SLOTS / 64,
    SPAN_PAGES = 16,
    SMALL_STEP_MAX = 256, /* sizes up to here are multiples of 16 */
    SMALL_MAX = 8192,
    CLASSES = 16 + 5 * 8,
    ALIGNS = 9, /* 16 to 4096 */
    KINDS = CLASSES * ALIGNS,
    KIND_LARGE = KINDS,
    CANDIDATES = 4096,
    PROBES_A_LOOK = 256, /* comparisons between looks at the clock: 1 µs */
};

enum span_state { SPAN_UNUSED, SPAN_FREE, SPAN_LEADER, SPAN_MEMBER, SPAN_LARGE };

struct span {
    uint64_t bits[WORDS]; /* its own live slots */
    uint64_t all[WORDS];  /* of a leader: those of the group */
    uint32_t first;       /* page */
    uint32_t pages;
    uint32_t leader;         /* of a member; itself of a leader */
    uint32_t next_member;    /* 0: none */
    uint32_t previous, next; /* a ring of its kind's leaders with free slots; or free spans */
    uint16_t kind;
    uint16_t live;       /* slots in bits */
    uint16_t group_live; /* slots in all */
    uint16_t resident;   /* of a leader or free span: pages that may have memory, a bit each */
    uint8_t state;
    uint8_t is_listed;
    uint8_t is_attached;
    uint8_t align_log2; /* of a large one */
};

/* Where a kind allocates from. */
struct vector {
    uint32_t span; /* 0: none */
    uint32_t count;
    uint8_t slots[SLOTS];
};

struct candidate {
    uint64_t all[WORDS];
    uint32_t span; /* 0: used up */
    uint32_t live;
};

struct state {
    struct fh_random random;
    uint32_t pages;                /* in the range */
    uint32_t first_page;           /* behind what is kept here */
    uint32_t top;                  /* pages from here on were never used */
    uint32_t spans;                /* numbers given; 0 is none */
    uint32_t unused;               /* list of numbers given back */
    uint32_t free[SPAN_PAGES + 1]; /* free spans by pages */
    uint32_t listed[KINDS];        /* one of the ring */
    size_t mappings, max_mappings;

    /* The round that steps go on with. */
    uint32_t kind;
    uint32_t candidates; /* in the list; 0: to be made for this kind */
    uint32_t base, probe;
    bool has_gained; /* in this round */
    struct fh_meshing done;
    struct candidate list[CANDIDATES];
    struct vector vectors[KINDS];
};

static struct state *state_of(const struct fh_mesh *m)
{
    return (struct state *)(void *)m->base;
}

static uint32_t *map_of(const struct fh_mesh *m)
{
    return (uint32_t *)(void *)(m->base + fh_align_up(sizeof(struct state), 64));
}

static struct span *span_at(const struct fh_mesh *m, uint32_t number)
{
    size_t map = fh_align_up(state_of(m)->pages * sizeof(uint32_t), 64);
    return (struct span *)(void *)((unsigned char *)map_of(m) + map) + number;
}

static unsigned char *page_address(const struct fh_mesh *m, uint32_t page)
{
    return m->base + ((size_t)page << fh_os_page_shift);
}

static unsigned char *span_address(const struct fh_mesh *m, const struct span *span)
{
    return page_address(m, span->first);
}

static uint32_t number_of(const struct fh_mesh *m, const struct span *span)
{
    return (uint32_t)(span - span_at(m, 0));
}

/* ---- Kinds --------------------------------------------------------------------------------------- */

static uint32_t class_of(size_t size)
{
    if (size <= SMALL_STEP_MAX)
        return size == 0 ? 0 : (uint32_t)(size - 1) / 16;
    unsigned log = fh_log2(size - 1); /* 8 and more */
    return 16 + (log - 8) * 8 + (uint32_t)((size - 1) >> (log - 3) & 7);
}

static uint32_t class_size(uint32_t class)
{
    if (class < 16)
        return (class + 1) * 16;
    return (8 + (class & 7) + 1) << ((class - 16) / 8 + 5);
}

static uint32_t kind_size(uint32_t kind)
{
    return class_size(kind % CLASSES);
}

static size_t kind_align(uint32_t kind)
{
    return (size_t)16 << kind / CLASSES;
}

/* KIND_LARGE for what has pages of its own. */
static uint32_t kind_of(size_t size, size_t align)
{
    if (size > SMALL_MAX || align > 4096)
        return KIND_LARGE;
    uint32_t class = class_of(fh_max(size, align));
    while (class < CLASSES && class_size(class) % align != 0)
        class ++;
    return class < CLASSES ? class + (fh_log2(align) - 4) * CLASSES : KIND_LARGE;
}

static uint32_t kind_pages(uint32_t kind)
{
    size_t bytes = (size_t)SLOTS * kind_size(kind);
    return (uint32_t)fh_min((bytes + fh_os_page_size - 1) >> fh_os_page_shift, SPAN_PAGES);
}

static uint32_t kind_slots(uint32_t kind)
{
    size_t bytes = (size_t)kind_pages(kind) << fh_os_page_shift;
    return (uint32_t)fh_min(bytes / kind_size(kind), SLOTS);
}

/* The pages, a bit each, that a slot touches. */
static uint32_t slot_pages(uint32_t kind, uint32_t slot)
{
    size_t begin = (size_t)slot * kind_size(kind), end = begin + kind_size(kind) - 1;
    uint32_t from = (uint32_t)(begin >> fh_os_page_shift), to = (uint32_t)(end >> fh_os_page_shift);
    return (2u << to) - (1u << from);
}

static uint32_t live_pages(uint32_t kind, const uint64_t *bits)
{
    uint32_t pages = 0;
    for (uint32_t word = 0; word < WORDS; word++)
        for (uint64_t rest = bits[word]; rest != 0; rest &= rest - 1)
            pages |= slot_pages(kind, word * 64 + (uint32_t)__builtin_ctzll(rest));
    return pages;
}

static bool bit(const uint64_t *bits, uint32_t slot)
{
    return bits[slot / 64] >> slot % 64 & 1;
}

static void flip(uint64_t *bits, uint32_t slot)
{
    bits[slot / 64] ^= (uint64_t)1 << slot % 64;
}

static bool are_disjoint(const uint64_t *a, const uint64_t *b)
{
    return ((a[0] & b[0]) | (a[1] & b[1]) | (a[2] & b[2]) | (a[3] & b[3])) == 0;
}

/* ---- Pages and spans ----------------------------------------------------------------------------- */

static int purge(struct fh_mesh *m, uint32_t page, uint32_t pages)
{
    return m->ground.source->purge(m->ground.source->self, page_address(m, page),
                                   (size_t)pages << fh_os_page_shift);
}

static void set_map(struct fh_mesh *m, const struct span *span, uint32_t number)
{
    for (uint32_t i = 0; i < span->pages; i++)
        map_of(m)[span->first + i] = number;
}

static uint32_t new_number(struct fh_mesh *m)
{
    struct state *s = state_of(m);
    uint32_t number = s->unused;
    if (number != 0)
        s->unused = span_at(m, number)->next;
    else
        number = ++s->spans;
    return number;
}

static void drop_number(struct fh_mesh *m, uint32_t number)
{
    *span_at(m, number) = (struct span){.next = state_of(m)->unused, .state = SPAN_UNUSED};
    state_of(m)->unused = number;
}

static bool grow_to(struct fh_mesh *m, uint32_t page)
{
    return page <= state_of(m)->pages &&
           fh_ground_grow(&m->ground, (size_t)page << fh_os_page_shift);
}

/* Free spans become pages of nobody, without memory. Only when nothing else is left. */
static void dissolve_free(struct fh_mesh *m)
{
    struct state *s = state_of(m);
    for (uint32_t pages = 1; pages <= SPAN_PAGES; pages++)
        while (s->free[pages] != 0) {
            uint32_t number = s->free[pages];
            struct span *span = span_at(m, number);
            if (purge(m, span->first, span->pages) == 0)
                s->done.purged_bytes += (size_t)__builtin_popcount(span->resident)
                                        << fh_os_page_shift;
            s->free[pages] = span->next;
            set_map(m, span, 0);
            drop_number(m, number);
        }
}

/* The first page of `pages` that are nobody's, below top; 0: none. */
static uint32_t find_pages(const struct fh_mesh *m, uint32_t pages, uint32_t align_pages)
{
    const struct state *s = state_of(m);
    for (uint32_t page = s->first_page, run = 0; page < s->top; page++) {
        run = map_of(m)[page] == 0 ? run + 1 : 0;
        uint32_t first = page + 1 - run;
        first += (align_pages -
                  ((uint32_t)((uintptr_t)m->base >> fh_os_page_shift) + first) % align_pages) %
                 align_pages;
        if (run != 0 && first + pages <= page + 1)
            return first;
    }
    return 0;
}

/* A span of fresh address space; the number, or 0. */
static uint32_t new_span(struct fh_mesh *m, uint32_t pages, size_t align, bool may_grow)
{
    struct state *s = state_of(m);
    uint32_t number = pages <= SPAN_PAGES && align <= fh_os_page_size ? s->free[pages] : 0;
    if (number != 0) {
        s->free[pages] = span_at(m, number)->next;
        return number;
    }
    uint32_t align_pages = (uint32_t)(fh_max(align, fh_os_page_size) >> fh_os_page_shift);
    uint32_t base_page = (uint32_t)((uintptr_t)m->base >> fh_os_page_shift);
    uint32_t first = s->top + (align_pages - (base_page + s->top) % align_pages) % align_pages;
    bool fits = pages <= s->pages && first <= s->pages - pages;
    bool is_there = fits && ((size_t)(first + pages) << fh_os_page_shift) <= m->ground.bytes;
    if (is_there || (may_grow && fits && grow_to(m, first + pages))) {
        s->top = first + pages;
    } else {
        first = find_pages(m, pages, align_pages);
        if (first == 0) {
            dissolve_free(m);
            first = find_pages(m, pages, align_pages);
        }
        if (first == 0)
            return 0;
    }
    number = new_number(m);
    *span_at(m, number) = (struct span){.first = first, .pages = pages};
    set_map(m, span_at(m, number), number);
    return number;
}

static void file_free(struct fh_mesh *m, struct span *span)
{
    struct state *s = state_of(m);
    uint32_t first = span->first, pages = span->pages, resident = span->resident;
    *span = (struct span){.first = first,
                          .pages = pages,
                          .resident = (uint16_t)resident,
                          .next = s->free[pages],
                          .state = SPAN_FREE};
    s->free[pages] = number_of(m, span);
}

static void list(struct fh_mesh *m, struct span *span)
{
    uint32_t *ring = &state_of(m)->listed[span->kind], number = number_of(m, span);
    span->is_listed = true;
    if (*ring == 0) {
        *ring = span->next = span->previous = number;
        return;
    }
    span->next = *ring;
    span->previous = span_at(m, *ring)->previous;
    span_at(m, span->previous)->next = number;
    span_at(m, span->next)->previous = number;
}

static void unlist(struct fh_mesh *m, struct span *span)
{
    uint32_t *ring = &state_of(m)->listed[span->kind], number = number_of(m, span);
    if (!span->is_listed)
        return;
    span->is_listed = false;
    if (*ring == number)
        *ring = span->next != number ? span->next : 0;
    span_at(m, span->previous)->next = span->next;
    span_at(m, span->next)->previous = span->previous;
}

/* ---- Mappings ------------------------------------------------------------------------------------ */

/* The page of the file that a page of the range shows. */
static uint32_t frame_of(const struct fh_mesh *m, uint32_t page)
{
    const struct span *span = span_at(m, map_of(m)[page]);
    if (map_of(m)[page] == 0 || span->state != SPAN_MEMBER)
        return page;
    return span_at(m, span->leader)->first + (page - span->first);
}

/* Seams at the two ends of a span. */
static size_t seams(const struct fh_mesh *m, const struct span *span)
{
    uint32_t first = span->first, end = first + span->pages;
    size_t count = frame_of(m, first) != frame_of(m, first - 1) + 1;
    return count + (end < state_of(m)->pages && frame_of(m, end) != frame_of(m, end - 1) + 1);
}

static void unlink_member(struct fh_mesh *m, const struct span *span)
{
    uint32_t number = number_of(m, span), *link = &span_at(m, span->leader)->next_member;
    while (*link != number)
        link = &span_at(m, *link)->next_member;
    *link = span->next_member;
}

/* A member in which nothing lives gets its own memory back, and is free. False: the kernel would not. */
static bool detach_member(struct fh_mesh *m, struct span *span)
{
    struct state *s = state_of(m);
    if (purge(m, span->first, span->pages) != 0)
        return false;
    unlink_member(m, span);
    size_t before = seams(m, span);
    span->resident = 0;
    file_free(m, span);
    s->mappings = s->mappings + seams(m, span) - before;
    return true;
}

/* Nothing in the group lives. */
static void end_group(struct fh_mesh *m, struct span *leader)
{
    while (leader->next_member != 0)
        if (!detach_member(m, span_at(m, leader->next_member)))
            return; /* it stays a group, empty, with room for blocks */
    unlist(m, leader);
    file_free(m, leader);
}

/* ---- Allocating ---------------------------------------------------------------------------------- */

/* Fills the vector with the free slots of its span, in random order. */
static void shuffle(struct fh_mesh *m, struct vector *vector, const struct span *span)
{
    uint32_t slots = kind_slots(span->kind);
    vector->count = 0;
    for (uint32_t slot = 0; slot < slots; slot++) {
        if (bit(span->all, slot))
            continue;
        uint32_t at = fh_random_below(&state_of(m)->random, ++vector->count);
        vector->slots[vector->count - 1] = vector->slots[at];
        vector->slots[at] = (uint8_t)slot;
    }
}

static bool refill(struct fh_mesh *m, uint32_t kind, bool may_grow)
{
    struct state *s = state_of(m);
    struct vector *vector = &s->vectors[kind];
    if (vector->span != 0) { /* what was freed in it meanwhile */
        struct span *span = span_at(m, vector->span);
        if (span->group_live < kind_slots(kind)) {
            shuffle(m, vector, span);
            return true;
        }
        span->is_attached = false;
        vector->span = 0;
    }
    uint32_t number = s->listed[kind];
    if (number != 0) {
        unlist(m, span_at(m, number));
    } else {
        number = new_span(m, kind_pages(kind), 16, may_grow);
        if (number == 0)
            return false;
        struct span *span = span_at(m, number);
        span->state = SPAN_LEADER;
        span->kind = (uint16_t)kind;
        span->leader = number;
    }
    span_at(m, number)->is_attached = true;
    vector->span = number;
    shuffle(m, vector, span_at(m, number));
    return true;
}

static void *alloc_small(struct fh_mesh *m, uint32_t kind, bool may_grow)
{
    struct vector *vector = &state_of(m)->vectors[kind];
    if (vector->count == 0 && !refill(m, kind, may_grow))
        return NULL;
    struct span *span = span_at(m, vector->span);
    uint32_t slot = vector->slots[--vector->count];
    flip(span->bits, slot);
    flip(span->all, FH_PLANT(mesh_takes_wrong_slot, slot ^ 1, slot));
    span->live++;
    span->group_live++;
    span->resident |= (uint16_t)slot_pages(kind, slot);
    return span_address(m, span) + (size_t)slot * kind_size(kind);
}

static void *alloc_large(struct fh_mesh *m, size_t size, size_t align, bool may_grow)
{
    size_t bytes;
    if (!fh_align_up_checked(fh_max(size, 1), fh_os_page_size, &bytes) ||
        bytes >> fh_os_page_shift > state_of(m)->pages)
        return NULL;
    uint32_t number = new_span(m, (uint32_t)(bytes >> fh_os_page_shift), align, may_grow);
    if (number == 0)
        return NULL;
    struct span *span = span_at(m, number);
    span->state = SPAN_LARGE;
    span->kind = KIND_LARGE;
    span->live = 1;
    span->align_log2 = (uint8_t)fh_log2(align);
    return span_address(m, span);
}

static void *try_alloc(struct fh_mesh *m, size_t size, size_t align, bool may_grow)
{
    uint32_t kind = kind_of(size, align);
    return kind == KIND_LARGE ? alloc_large(m, size, align, may_grow)
                              : alloc_small(m, kind, may_grow);
}

void *fh_mesh_alloc_with(struct fh_mesh *m, size_t size, size_t align, unsigned flags)
{
    if (align == 0)
        align = FH_ALIGN_DEFAULT;
    if (!fh_is_pow2(align) || align > FH_ALIGN_MAX ||
        (flags & ~(unsigned)(FH_ALLOC_ZEROED | FH_ALLOC_NO_GROWTH)))
        return fh_fail(FH_EINVAL);
    align = fh_max(align, 16);
    bool may_grow = (flags & FH_ALLOC_NO_GROWTH) == 0;
    void *block = try_alloc(m, size, align, may_grow);
    if (block == NULL && fh_ground_ask(&m->ground, size))
        block = try_alloc(m, size, align, may_grow);
    if (block == NULL)
        return fh_fail(FH_ENOMEM);
    if (flags & FH_ALLOC_ZEROED)
        __builtin_memset(block, 0, size);
    return block;
}

void *fh_mesh_alloc(struct fh_mesh *m, size_t size)
{
    return fh_mesh_alloc_with(m, size, 0, 0);
}

/* ---- Freeing ------------------------------------------------------------------------------------- */

bool fh_mesh_owns(const struct fh_mesh *m, const void *address)
{
    size_t offset = (size_t)((uintptr_t)address - (uintptr_t)m->base);
    return offset >> fh_os_page_shift >= state_of(m)->first_page && offset < m->ground.bytes;
}

/* The span of a live block that begins at `block`, and its slot. Otherwise NULL and what is wrong. */
static struct span *find_block(const struct fh_mesh *m, const void *block, uint32_t *slot,
                               const char **wrong)
{
    *wrong = "invalid-free";
    if (!fh_mesh_owns(m, block))
        return NULL;
    size_t offset = (size_t)((uintptr_t)block - (uintptr_t)m->base);
    uint32_t number = map_of(m)[offset >> fh_os_page_shift];
    if (number == 0)
        return NULL;
    struct span *span = span_at(m, number);
    offset -= (size_t)span->first << fh_os_page_shift;
    *slot = 0;
    if (span->state == SPAN_LARGE) {
        *wrong = "interior-free";
        return offset == 0 ? span : NULL;
    }
    *wrong = "double-free";
    if (span->state == SPAN_FREE)
        return NULL;
    *slot = (uint32_t)(offset / kind_size(span->kind));
    bool is_live = *slot < kind_slots(span->kind) && bit(span->bits, *slot);
    bool is_begin = offset % kind_size(span->kind) == 0;
    *wrong = is_begin ? "double-free" : is_live ? "interior-free" : "invalid-free";
    return is_live && is_begin ? span : NULL;
}

static struct span *block_or_report(const struct fh_mesh *m, const void *block, uint32_t *slot)
{
    const char *wrong;
    struct span *span = find_block(m, block, slot, &wrong);
    if (span == NULL)
        fh_misuse(wrong, block, "no live block of this heap begins there");
    return span;
}

static void free_large(struct fh_mesh *m, struct span *span)
{
    (void)purge(m, span->first, span->pages); /* if not now, when the pages are purged again */
    set_map(m, span, 0);
    drop_number(m, number_of(m, span));
}

static void free_slot(struct fh_mesh *m, struct span *span, uint32_t slot)
{
    struct span *leader = span_at(m, span->leader);
    flip(span->bits, slot);
    flip(leader->all, slot);
    span->live--;
    leader->group_live--;
    if (!leader->is_attached && !leader->is_listed)
        list(m, leader);
    if (span != leader && span->live == 0)
        (void)detach_member(m, span); /* later, if not now */
    if (leader->group_live == 0 && !leader->is_attached)
        end_group(m, leader);
}

void fh_mesh_free(struct fh_mesh *m, void *block)
{
    uint32_t slot;
    struct span *span = block == NULL ? NULL : block_or_report(m, block, &slot);
    if (span == NULL)
        return;
    if (span->state == SPAN_LARGE)
        free_large(m, span);
    else
        free_slot(m, span, slot);
}

static size_t span_usable(const struct span *span)
{
    return span->state == SPAN_LARGE ? (size_t)span->pages << fh_os_page_shift
                                     : kind_size(span->kind);
}

size_t fh_mesh_usable_size(const struct fh_mesh *m, const void *block)
{
    uint32_t slot;
    const char *wrong;
    const struct span *span = find_block(m, block, &slot, &wrong);
    return span == NULL ? 0 : span_usable(span);
}

static size_t span_align(const struct span *span)
{
    return span->state == SPAN_LARGE ? (size_t)1 << span->align_log2 : kind_align(span->kind);
}

/* Whether a request is served by a block like this one. */
static bool is_same(const struct span *span, size_t size, size_t align)
{
    uint32_t kind = kind_of(size, align);
    if (kind != KIND_LARGE || span->state != SPAN_LARGE)
        return kind == span->kind;
    return size <= span_usable(span) && span_usable(span) - size < fh_os_page_size;
}

void *fh_mesh_resize(struct fh_mesh *m, void *block, size_t size, size_t align)
{
    if (block == NULL)
        return fh_mesh_alloc_with(m, size, align, 0);
    uint32_t slot;
    const struct span *span = block_or_report(m, block, &slot);
    if (span == NULL)
        return NULL;
    if (align == 0)
        align = span_align(span);
    if (fh_is_pow2(align) && is_same(span, size, fh_max(align, 16)) &&
        ((uintptr_t)block & (align - 1)) == 0)
        return block;
    size_t old = span_usable(span);
    void *moved = fh_mesh_alloc_with(m, size, align, 0);
    if (moved != NULL) {
        __builtin_memcpy(moved, block, fh_min(old, size));
        fh_mesh_free(m, block);
    }
    return moved;
}

/* ---- Meshing ------------------------------------------------------------------------------------- */

static bool is_over(uint64_t begin_ns, uint64_t max_ns)
{
    return max_ns != 0 && fh_os_now_ns() - begin_ns >= max_ns;
}

/* The kind's leaders with free slots, at most CANDIDATES of the ring, densest first; the ring is turned so
 * that the next list begins behind them. */
static void list_candidates(struct fh_mesh *m)
{
    struct state *s = state_of(m);
    uint32_t first = s->listed[s->kind], starts[SLOTS + 2] = {0}, count = 0;
    if (first == 0)
        return;
    uint32_t number = first;
    do {
        starts[SLOTS - span_at(m, number)->group_live + 1]++;
        number = span_at(m, number)->next;
    } while (++count < CANDIDATES && number != first);
    for (uint32_t i = 1; i < SLOTS + 2; i++)
        starts[i] += starts[i - 1];
    s->listed[s->kind] = number;
    number = first;
    for (uint32_t i = 0; i < count; i++) {
        const struct span *span = span_at(m, number);
        struct candidate *to = &s->list[starts[SLOTS - span->group_live]++];
        __builtin_memcpy(to->all, span->all, sizeof to->all);
        to->span = number;
        to->live = span->group_live;
        number = span->next;
    }
    s->candidates = count;
    s->base = 0;
    s->probe = 1;
}

/* Both are what they were when they were listed, or near enough: only what is true now counts. */
static bool may_mesh(const struct fh_mesh *m, const struct span *base, const struct span *member)
{
    const struct state *s = state_of(m);
    if (base->state != SPAN_LEADER || member->state != SPAN_LEADER || base == member ||
        base->kind != s->kind || member->kind != s->kind || base->is_attached ||
        member->is_attached || member->next_member != 0 || member->live == 0 ||
        !are_disjoint(base->all, member->all))
        return false;
    uint32_t anew = live_pages(s->kind, member->bits) & ~(uint32_t)base->resident;
    return __builtin_popcount(member->resident) > __builtin_popcount(anew);
}

/* True when member's memory was given back. */
static bool mesh(struct fh_mesh *m, struct span *base, struct span *member)
{
    struct state *s = state_of(m);
    uint32_t size = kind_size(member->kind), pages = live_pages(member->kind, member->bits);
    unsigned char *to = span_address(m, base), *from = span_address(m, member);
    for (uint32_t word = 0; word < WORDS; word++)
        for (uint64_t rest = member->bits[word]; rest != 0; rest &= rest - 1) {
            size_t at = (size_t)size * (word * 64 + (uint32_t)__builtin_ctzll(rest));
            __builtin_memcpy(to + at, from + at, size);
        }
    uint32_t anew = pages & ~(uint32_t)base->resident;
    base->resident |= (uint16_t)pages;
    if (m->ground.source->alias(m->ground.source->self, from, to,
                                (size_t)member->pages << fh_os_page_shift) != 0)
        return false;
    size_t before = seams(m, member);
    size_t gained = (size_t)(__builtin_popcount(member->resident) - __builtin_popcount(anew))
                    << fh_os_page_shift;
    unlist(m, member);
    member->state = SPAN_MEMBER;
    member->leader = base->leader;
    member->next_member = base->next_member;
    base->next_member = number_of(m, member);
    for (uint32_t word = 0; word < WORDS; word++)
        base->all[word] |= member->bits[word];
    base->group_live = (uint16_t)(base->group_live + member->live);
    member->resident = 0;
    s->mappings = s->mappings + seams(m, member) - before;
    if (base->group_live == kind_slots(base->kind))
        unlist(m, base);
    s->done.meshes++;
    s->done.copied_bytes += (size_t)member->live * size;
    s->done.meshed_bytes += gained;
    FH_PROBE2(mesh, base->first, member->first);
    return true;
}

/* Goes on with the list. False: time is over. */
static bool mesh_candidates(struct fh_mesh *m, uint64_t begin_ns, uint64_t max_ns)
{
    struct state *s = state_of(m);
    for (; s->base < s->candidates; s->base++, s->probe = s->base + 1) {
        struct candidate *base = &s->list[s->base];
        if (base->span == 0)
            continue;
        for (; s->probe < s->candidates; s->probe++) {
            if (s->probe % PROBES_A_LOOK == 0 && is_over(begin_ns, max_ns)) {
                return false;
            }
            struct candidate *with = &s->list[s->probe];
            if (with->span == 0 || !are_disjoint(base->all, with->all))
                continue;
            struct span *leader = span_at(m, base->span), *member = span_at(m, with->span);
            if (s->mappings + 2 > s->max_mappings)
                return true; /* the budget is used up; pages can still be given back */
            if (!may_mesh(m, leader, member))
                continue;
            if (is_over(begin_ns, max_ns))
                return false;
            if (!mesh(m, leader, member))
                return true; /* no mapping to be had: as with the budget */
            s->has_gained = true;
            with->span = 0;
            __builtin_memcpy(base->all, leader->all, sizeof base->all);
        }
    }
    return true;
}

/* Gives back the memory of pages that are wholly without live slots. */
static void purge_span(struct fh_mesh *m, struct span *span, uint32_t keep)
{
    struct state *s = state_of(m);
    uint32_t empty = (uint32_t)span->resident & ~keep;
    while (empty != 0) {
        uint32_t first = (uint32_t)__builtin_ctz(empty);
        uint32_t count = (uint32_t)__builtin_ctz(~(empty >> first));
        uint32_t mask = ((1u << count) - 1) << first;
        empty &= ~mask;
        if (purge(m, span->first + first, count) != 0)
            continue;
        span->resident &= (uint16_t)~mask;
        s->done.purged_bytes += (size_t)count << fh_os_page_shift;
        s->has_gained = true;
    }
}

/* Over what was listed: a page shown by members too is purged only where nothing of the group lives, and by its
 * leader's address. False: time is over. */
static bool purge_candidates(struct fh_mesh *m, uint64_t begin_ns, uint64_t max_ns)
{
    struct state *s = state_of(m);
    while (s->candidates > 0) {
        if (is_over(begin_ns, max_ns))
            return false;
        struct candidate *candidate = &s->list[--s->candidates];
        struct span *span = span_at(m, candidate->span);
        if (candidate->span == 0 || span->state != SPAN_LEADER || span->kind != s->kind ||
            span->is_attached)
            continue;
        if (span->group_live == 0)
            end_group(m, span);
        else
            purge_span(m, span, live_pages(span->kind, span->all));
    }
    return true;
}

static bool purge_free(struct fh_mesh *m, uint64_t begin_ns, uint64_t max_ns)
{
    struct state *s = state_of(m);
    for (uint32_t pages = 1; pages <= SPAN_PAGES; pages++)
        for (uint32_t number = s->free[pages]; number != 0; number = span_at(m, number)->next) {
            if (is_over(begin_ns, max_ns))
                return false;
            purge_span(m, span_at(m, number), 0);
        }
    return true;
}

static bool take_step(struct fh_mesh *m, uint64_t begin_ns, uint64_t max_ns)
{
    struct state *s = state_of(m);
    for (;;) {
        for (; s->kind < KINDS; s->kind++) {
            if (s->candidates == 0)
                list_candidates(m);
            if (s->candidates == 0)
                continue;
            if (!mesh_candidates(m, begin_ns, max_ns))
                return true;
            s->base = s->candidates; /* should the purging be interrupted */
            if (!purge_candidates(m, begin_ns, max_ns))
                return true;
        }
        if (!purge_free(m, begin_ns, max_ns))
            return true;
        s->kind = 0;
        bool has_gained = s->has_gained;
        s->has_gained = false;
        if (!has_gained)
            return false;
        if (is_over(begin_ns, max_ns))
            return true;
    }
}

bool fh_mesh_step(struct fh_mesh *m, uint64_t max_ns)
{
    struct state *s = state_of(m);
    uint64_t begin_ns = fh_os_now_ns();
    bool has_more = take_step(m, begin_ns, max_ns);
    s->done.longest_ns = fh_max(s->done.longest_ns, fh_os_now_ns() - begin_ns);
    return has_more;
}

int fh_mesh_meshing(const struct fh_mesh *m, struct fh_meshing *out)
{
    const struct state *s = state_of(m);
    size_t size = out->size;
    if (size < sizeof(size))
        return fh_error(FH_EINVAL);
    struct fh_meshing done = s->done;
    done.size = size;
    done.mappings = s->mappings;
    done.max_mappings = s->max_mappings;
    __builtin_memcpy(out, &done, fh_min(size, sizeof done));
    return 0;
}

/* ---- The heap as a whole ------------------------------------------------------------------------- */

int fh_mesh_init(struct fh_mesh *m, const struct fh_mesh_options *options)
{
    *m = (struct fh_mesh){0};
    if (options == NULL || options->place.memory != NULL || options->place.parent != NULL ||
        options->place.source == NULL || !(options->place.source->capabilities & FH_SOURCE_ALIAS))
        return fh_error(FH_ENOTSUP);
    int error = fh_ground_open(&m->ground, &options->place, sizeof(struct state), FH_GROUND_STEP);
    if (error != 0)
        return error;
    m->base = m->ground.base;
    size_t pages = fh_min(m->ground.capacity >> fh_os_page_shift, UINT32_MAX / 2);
    struct state *s = state_of(m);
    s->pages = (uint32_t)pages;
    size_t kept = (size_t)((unsigned char *)span_at(m, (uint32_t)pages + 1) - m->base);
    kept = fh_align_up(kept, fh_os_page_size);
    bool fits = kept >> fh_os_page_shift < pages;
    if (!fits || !fh_ground_grow(&m->ground, kept)) {
        fh_ground_close(&m->ground);
        *m = (struct fh_mesh){0};
        return fh_error(fits ? FH_ENOMEM : FH_EINVAL);
    }
    s->first_page = s->top = (uint32_t)(kept >> fh_os_page_shift);
    s->mappings = 1;
    s->max_mappings =
        options->max_mappings != 0 ? options->max_mappings : fh_os_mapping_limit() / 4;
    fh_random_seed(&s->random, options->seed != 0 ? options->seed : fh_os_random());
    return 0;
}

void fh_mesh_reset(struct fh_mesh *m)
{
    struct state *s = state_of(m);
    for (uint32_t kind = 0; kind < KINDS; kind++) {
        struct vector *vector = &s->vectors[kind];
        if (vector->span != 0) {
            span_at(m, vector->span)->is_attached = false;
            list(m, span_at(m, vector->span));
        }
        vector->span = vector->count = 0;
    }
    for (uint32_t number = 1; number <= s->spans; number++) {
        struct span *span = span_at(m, number);
        __builtin_memset(span->bits, 0, sizeof span->bits);
        __builtin_memset(span->all, 0, sizeof span->all);
        span->live = span->group_live = 0;
        if (span->state == SPAN_LARGE)
            free_large(m, span);
    }
    for (uint32_t number = 1; number <= s->spans; number++) {
        struct span *span = span_at(m, number);
        if (span->state == SPAN_LEADER) {
            if (!span->is_listed)
                list(m, span);
            end_group(m, span);
        }
    }
    (void)purge_free(m, 0, 0);
    s->candidates = s->kind = 0;
}

void fh_mesh_destroy(struct fh_mesh *m)
{
    fh_ground_close(&m->ground);
    *m = (struct fh_mesh){0};
}

static int walk_span(const struct fh_mesh *m, const struct span *span,
                     int (*visit)(void *context, const struct fh_block *block), void *context)
{
    struct fh_block block = {.address = span_address(m, span),
                             .usable = (size_t)span->pages << fh_os_page_shift,
                             .is_live = span->state == SPAN_LARGE};
    if (span->state == SPAN_FREE || span->state == SPAN_LARGE)
        return visit(context, &block);
    block.usable = kind_size(span->kind);
    for (uint32_t slot = 0; slot < kind_slots(span->kind); slot++) {
        block.address = span_address(m, span) + (size_t)slot * block.usable;
        block.is_live = bit(span->bits, slot);
        /* What is free is the group's, and is handed out at the leader's addresses. */
        if (!block.is_live && (span->state == SPAN_MEMBER || bit(span->all, slot)))
            continue;
        int result = visit(context, &block);
        if (result != 0)
            return result;
    }
    return 0;
}

int fh_mesh_walk(const struct fh_mesh *m, int (*visit)(void *context, const struct fh_block *block),
                 void *context)
{
    const struct state *s = state_of(m);
    for (uint32_t page = s->first_page; page < s->top;) {
        uint32_t number = map_of(m)[page], end = page;
        int result;
        if (number != 0) {
            end += span_at(m, number)->pages;
            result = walk_span(m, span_at(m, number), visit, context);
        } else {
            while (end < s->top && map_of(m)[end] == 0)
                end++;
            struct fh_block block = {.address = page_address(m, page),
                                     .usable = (size_t)(end - page) << fh_os_page_shift};
            result = visit(context, &block);
        }
        if (result != 0)
            return result;
        page = end;
    }
    return 0;
}

static int measure_block(void *context, const struct fh_block *block)
{
    struct fh_measure *out = context;
    if (block->is_live) {
        out->live_blocks++;
        out->live_bytes += block->usable;
    } else {
        out->free_blocks++;
        out->free_bytes += block->usable;
        out->largest_free = fh_max(out->largest_free, block->usable);
    }
    return 0;
}

int fh_mesh_measure(const struct fh_mesh *m, struct fh_measure *out)
{
    const struct state *s = state_of(m);
    size_t size = out->size;
    if (size < sizeof(size))
        return fh_error(FH_EINVAL);
    struct fh_measure all = {.size = size};
    fh_mesh_walk(m, measure_block, &all);
    all.metadata = sizeof(struct state) + s->top * sizeof(uint32_t) +
                   ((size_t)s->spans + 1) * sizeof(struct span);
    size_t pages = 0;
    for (uint32_t number = 1; number <= s->spans; number++) {
        const struct span *span = span_at(m, number);
        pages +=
            span->state == SPAN_LARGE ? span->pages : (size_t)__builtin_popcount(span->resident);
    }
    all.footprint = all.metadata + (pages << fh_os_page_shift);
    all.reserved = m->ground.capacity;
    all.peak_footprint = m->ground.peak_bytes;
    __builtin_memcpy(out, &all, fh_min(size, sizeof all));
    return 0;
}

#define BROKEN_UNLESS(claim, ...) ((claim) ? 0 : (fh_broken("mesh: " __VA_ARGS__), 1))

static int check_leader(const struct fh_mesh *m, uint32_t number)
{
    const struct span *leader = span_at(m, number);
    uint64_t all[WORDS];
    uint32_t live = leader->live, count = 0;
    int broken = 0;
    __builtin_memcpy(all, leader->bits, sizeof all);
    for (uint32_t next = leader->next_member; next != 0; next = span_at(m, next)->next_member) {
        const struct span *member = span_at(m, next);
        broken += BROKEN_UNLESS(member->state == SPAN_MEMBER && member->leader == number &&
                                    member->kind == leader->kind && are_disjoint(all, member->bits),
                                "span %u does not belong to the group of %u", next, number);
        if (broken != 0)
            return broken;
        for (uint32_t word = 0; word < WORDS; word++)
            all[word] |= member->bits[word];
        live += member->live;
    }
    for (uint32_t word = 0; word < WORDS; word++)
        count += (uint32_t)__builtin_popcountll(all[word]);
    broken += BROKEN_UNLESS(__builtin_memcmp(all, leader->all, sizeof all) == 0 &&
                                live == leader->group_live && count == live,
                            "the group of span %u counts %u live slots, it has %u", number,
                            leader->group_live, count);
    broken += BROKEN_UNLESS((live_pages(leader->kind, all) & ~(uint32_t)leader->resident) == 0,
                            "a live page of span %u is held for given back", number);
    broken +=
        BROKEN_UNLESS(leader->is_attached || leader->is_listed || count == kind_slots(leader->kind),
                      "span %u has free slots and nobody looks for them", number);
    return broken;
}

int fh_mesh_check(const struct fh_mesh *m)
{
    const struct state *s = state_of(m);
    int broken = 0;
    size_t mappings = 1;
    for (uint32_t page = s->first_page; page < s->top; page++) {
        uint32_t number = map_of(m)[page];
        const struct span *span = span_at(m, number);
        broken += BROKEN_UNLESS(number == 0 || (number <= s->spans && page >= span->first &&
                                                page < span->first + span->pages &&
                                                span->state != SPAN_UNUSED),
                                "page %u is of no span", page);
        if (broken != 0)
            return broken;
        mappings += frame_of(m, page) != frame_of(m, page - 1) + 1;
    }
    mappings += s->top < s->pages && s->top > s->first_page &&
                frame_of(m, s->top) != frame_of(m, s->top - 1) + 1;
    broken += BROKEN_UNLESS(mappings == s->mappings, "%zu mappings are counted as %zu", mappings,
                            s->mappings);
    for (uint32_t number = 1; number <= s->spans; number++)
        if (span_at(m, number)->state == SPAN_LEADER)
            broken += check_leader(m, number);
    return broken;
}

/* ---- The interface ------------------------------------------------------------------------------- */

FH_ADAPT_ALLOC(mesh)
FH_ADAPT_FREE(mesh)
FH_ADAPT_USABLE_SIZE(mesh)
FH_ADAPT_RESIZE(mesh)
FH_ADAPT_WHOLE(mesh)

static bool op_resize_in_place(void *self, void *block, size_t old_size, size_t new_size)
{
    uint32_t slot;
    (void)old_size;
    const struct span *span = block_or_report(self, block, &slot);
    return span != NULL && is_same(span, new_size, span_align(span));
}

static void op_free_sized(void *self, void *block, size_t size, size_t align)
{
    uint32_t slot;
    const struct span *span = block == NULL ? NULL : block_or_report(self, block, &slot);
    if (span == NULL)
        return;
    if (!is_same(span, size, align != 0 ? fh_max(align, 16) : span_align(span)))
        fh_misuse("size-mismatch", block, "freed with another size or alignment than asked for");
    else
        fh_mesh_free(self, block);
}

struct fh_allocator fh_mesh_allocator(struct fh_mesh *m)
{
    static const struct fh_allocator_ops ops =
        FH_ADAPTER_OPS("mesh", FH_ALLOCATOR_MOVES | FH_ALLOCATOR_SEES_DOUBLE_FREE,
                       op_resize_in_place, op_usable_size);
    return (struct fh_allocator){&ops, m};
}
