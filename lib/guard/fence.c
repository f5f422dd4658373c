/*
 * Fenced blocks: each on pages of its own, with an inaccessible page on both sides.
 *
 * Layout. One region of address space, reserved at the first use and filled from its beginning by
 * chunks of CHUNK_PAGES pages (2 MiB). A chunk belongs to a class: its slots have 1, 2, 4, 8 or 16
 * data pages, and look so:
 *
 *     | guard | data … | guard | data … | guard | … | guard (what does not make a slot) |
 *
 * so neighbours share a guard page, and chunk, slot and place in the slot follow from an address by
 * a subtraction and a division. A block lies at the end of its data pages, as near as its alignment
 * permits, or at their beginning. Of the data pages only those that the block touches are
 * accessible: a block of 40 KiB in a slot of 16 pages costs ten. What it leaves of them is filled
 * with a canary (canary.c) that is looked at when the block is freed.
 *
 * Three states of data pages, and their ways:
 *
 *     closed, no memory --open--> zero and accessible --close--> closed, no memory
 *
 * There are three kinds of chunk, and the first that the kernel has is taken:
 *
 *   MARKED   All is readable and writable but for guard markers (MADV_GUARD_INSTALL, Linux 6.13),
 *            set for all pages at once when the chunk is made: 28 ns a page. No mapping is added.
 *   MISSING  All is readable and writable, but closed pages are missing ones under a userfaultfd
 *            (os/faults.c). No mapping is added either. A trap is SIGBUS here, not SIGSEGV.
 *   HOLE     Where there is neither (a container before 6.13), or markers are refused (locked
 *            memory): all is as reserved, and what live blocks touch is made accessible: two
 *            mappings of the process for each of them. They are counted, and at a quarter of what
 *            the process may have there are no fences any more: the program goes on with other
 *            blocks.
 *
 * A slot that can't be closed as it should (memory was locked since, no memory for the kernel's
 * tables) becomes a hole with the mappings that this costs, or, if that fails too, is only emptied;
 * either way it is *retired*, never used again.
 *
 * A freed slot waits as long as it can: fresh slots go first while fewer than a budget's wait, then
 * the one that waits longest, or one of the seven behind it: nobody can count on which block will
 * lie where. Fresh slots come in random order too.
 *
 * Records. What is known of a slot's block lies out of line, in memory for metadata, and is read
 * without a lock, by fault handlers too. slot->turn says the state in its low bits and counts
 * changes in the others: whoever changes a record makes it CHANGING first, writes, and sets the new
 * state; a reader takes what it read when the turn is the same before and after. (After a few tries
 * it takes what there is and says that the block is freed: it may have interrupted the writer,
 * whose block nobody can have yet or any more.) From LIVE to CHANGING goes by compare-and-swap, so
 * of two frees at once one sees the other.
 *
 * Who may touch what. `fence.lock` (FH_FLOOR_GUARD): lists, counts, making chunks. A slot that is
 * in no list and not LIVE belongs to the thread that took it: it opens, fills and closes it without
 * the lock. A child that is forked meanwhile has lost that slot; all else is as in the parent,
 * guard markers too, but missing pages, which it must register itself (fh_fence_forked).
 *
 * Budgets. A pair of alloc and free costs some 9 µs, of which the kernel takes six:
 * fh_fence_wanted() takes it out of the process's share of time (budget.c) and sees to it that each
 * site gets some: its first allocations, then a few in each doubling of its count. Memory: pages
 * that live blocks touch.
 *
 * Follows: B. Perens, Electric Fence (1987), for the guard pages; GWP-ASan (Serebryany et al.,
 * 2024) for slots out of a pool and their records; the Linux kernel's KFENCE for the canary in what
 * the block leaves.
 */
#include "base/core/random.h"
#include "base/lock.h"
#include "base/message.h"
#include "guard/thread.h"
#include "heap/heap.h"
#include "os/mem.h"
#include "os/sys.h"
#include "pages/pages.h"
#include "scan/scan.h"

#include <errno.h>
#include <string.h>

enum {
    CLASSES = 5,
    SLOT_PAGES_MAX = 1 << (CLASSES - 1),
    CHUNK_PAGES = 512,     /* what one page of the kernel's tables describes */
    CHUNK_SLOTS_MAX = 255, /* (CHUNK_PAGES - 1) / 2 */
    CHUNK_SLOTS_SHIFT = 8, /* an id is the chunk's number and the slot's in it */
    CHUNKS_MAX = 8192,     /* 16 GiB: two million slots of one page */
    PICK_FROM = 8,
    READ_TRIES = 64,     /* a writer takes some 10 ns; a reader's try 5 */
    MAPPING_SHARE = 4,   /* of the process's mappings one in four */
    HOLE_MAPPINGS = 2,   /* an accessible slot cuts a hole in two, and is one itself */
    LIMIT_SHARE = 16,    /* of a limit of address space */
    PAIR_NS = 10000,     /* of alloc and free, caches lost included */
    SITE_IN_DOUBLING = 4 /* fences in each doubling of a site's count, after its first ones */
};

#define NO_SLOT  UINT32_MAX
#define NO_LIMIT ((size_t)-1)

enum slot_state { NEVER, LIVE, FREED, CHANGING, STATE_MASK = 3, TURN = 4 };

struct record {
    uintptr_t address;
    uint64_t alloc_ns, free_ns;
    uint32_t requested;
    uint32_t alloc_stack, free_stack;
    int32_t alloc_thread, free_thread;
    uint16_t how;
    uint16_t align_log; /* 0: not asked for; else one more than the logarithm */
};
enum { RECORD_WORDS = sizeof(struct record) / sizeof(uint64_t) };
_Static_assert(sizeof(struct record) == RECORD_WORDS * sizeof(uint64_t), "records are whole words");

struct slot {
    _Atomic uint32_t turn;
    uint32_t next; /* in a list; under the lock */
    _Atomic uint64_t words[RECORD_WORDS];
};

/* How what is closed is closed, the best first. */
enum chunk_kind { MARKED, MISSING, HOLE };

struct chunk {
    _Atomic(struct slot *) slots; /* NULL: not made yet; what follows is set before and stays */
    uint8_t class_index;
    uint8_t kind; /* enum chunk_kind */
};

struct list {
    uint32_t first, last, count;
};

/* What each mode may use. */
struct limits {
    size_t chunks;
    size_t live_slots, live_pages;
    size_t heap_shift;    /* or this part of the heap's footprint, if that is more pages */
    size_t waiting_slots; /* of one page; half as many of each larger class */
    uint32_t site_first;  /* fences of a site before they become rarer */
};

/* Hardened: a page for each block must not show in a small program's memory, so 2 MiB. Fast: dozens
 * of samples, below 1 MiB with all their records. */
static const struct limits limits_of_mode[] = {
    [FH_MODE_FAST] =
        {
            .chunks = 2 * CLASSES,
            .live_slots = 48,
            .live_pages = 128,
            .heap_shift = 63,
            .waiting_slots = 32,
        },
    [FH_MODE_HARDENED] =
        {
            .chunks = CHUNKS_MAX,
            .live_slots = NO_LIMIT,
            .live_pages = 512,
            .heap_shift = 5,
            .waiting_slots = 4096,
            .site_first = 8,
        },
    [FH_MODE_DEBUG] =
        {
            .chunks = CHUNKS_MAX,
            .live_slots = NO_LIMIT,
            .live_pages = 16384,
            .heap_shift = 2,
            .waiting_slots = 65536,
            .site_first = 64,
        },
};

/* With guard=1: all that there are. */
static const struct limits limits_of_all = {
    .chunks = CHUNKS_MAX,
    .live_slots = NO_LIMIT,
    .live_pages = NO_LIMIT,
    .heap_shift = 63,
    .waiting_slots = 65536,
};

static struct {
    struct fh_lock lock;
    /* The region; bytes is 0 until base is there (released after it, acquired by who looks). */
    _Atomic uintptr_t base;
    _Atomic size_t bytes;
    _Atomic size_t mappings;
    size_t mapping_limit;
    _Atomic int faults; /* descriptor of missing pages; negative: none */
    /* Under the lock: */
    bool has_begun;
    enum chunk_kind kind; /* of the next chunk: what has not been refused yet */
    struct fh_random random;
    uint32_t chunk_count;
    size_t live, live_pages, retired;
    struct list fresh[CLASSES], waiting[CLASSES];
    struct chunk chunks[CHUNKS_MAX];
} fence = {.lock = FH_LOCK_INIT, .faults = -1};

static const struct limits *limits(void)
{
    return fh_guard_settings.guard == 1 ? &limits_of_all : &limits_of_mode[fh_guard_settings.mode];
}

/* ---- geometry -------------------------------------------------------------------------------- */

static size_t chunk_bytes(void)
{
    return (size_t)CHUNK_PAGES << fh_os_page_shift;
}

static size_t data_pages(unsigned class_index)
{
    return (size_t)1 << class_index;
}

static uint32_t slots_in_chunk(unsigned class_index)
{
    return (uint32_t)((CHUNK_PAGES - 1) / (data_pages(class_index) + 1));
}

static uintptr_t region_base(void)
{
    return atomic_load_explicit(&fence.base, memory_order_relaxed); /* ordered by bytes */
}

static uint32_t chunk_number(const struct chunk *chunk)
{
    return (uint32_t)(chunk - fence.chunks);
}

static uintptr_t chunk_address(const struct chunk *chunk)
{
    return region_base() + chunk_number(chunk) * chunk_bytes();
}

/* acquire: pairs with the release in make_chunk. */
static struct slot *slots_of(const struct chunk *chunk)
{
    return atomic_load_explicit(&chunk->slots, memory_order_acquire);
}

static struct chunk *chunk_of_id(uint32_t id)
{
    return &fence.chunks[id >> CHUNK_SLOTS_SHIFT];
}

static struct slot *slot_of_id(uint32_t id)
{
    return &slots_of(chunk_of_id(id))[id & CHUNK_SLOTS_MAX];
}

static uint32_t id_of(const struct chunk *chunk, uint32_t index)
{
    return chunk_number(chunk) << CHUNK_SLOTS_SHIFT | index;
}

static uintptr_t data_of_id(uint32_t id)
{
    const struct chunk *chunk = chunk_of_id(id);
    size_t page = 1 + (id & CHUNK_SLOTS_MAX) * (data_pages(chunk->class_index) + 1);
    return chunk_address(chunk) + (page << fh_os_page_shift);
}

/* The pages that a block touches: all that is ever accessible of its slot. */
struct range {
    uintptr_t low, high;
};

static struct range touched(uintptr_t address, size_t requested)
{
    return (struct range){
        .low = fh_align_down(address, fh_os_page_size),
        .high = fh_align_up(address + fh_max(requested, 1), fh_os_page_size),
    };
}

static size_t pages_in(struct range range)
{
    return (range.high - range.low) >> fh_os_page_shift;
}

/* An object of this size needs no more, and the less, the nearer it is to the guard page. */
static size_t natural_align(size_t size)
{
    if (size >= 16 || size == 0)
        return 16;
    return size >= 8 ? 8 : size & (~size + 1);
}

static uintptr_t place(uint32_t id, size_t size, size_t align, bool is_left)
{
    uintptr_t low = data_of_id(id);
    uintptr_t high = low + (data_pages(chunk_of_id(id)->class_index) << fh_os_page_shift);
    return is_left ? fh_align_up(low, align) : fh_align_down(high - fh_max(size, 1), align);
}

/* The least class whose slots hold the block wherever they lie; CLASSES when none does. */
static unsigned class_for(size_t size, size_t align)
{
    size_t most = (size_t)SLOT_PAGES_MAX << fh_os_page_shift;
    if (size > most || align > most)
        return CLASSES;
    size_t bytes = fh_max(size, 1) + (align > fh_os_page_size ? align - fh_os_page_size : 0);
    size_t pages = (bytes + fh_os_page_size - 1) >> fh_os_page_shift;
    return pages > SLOT_PAGES_MAX ? CLASSES : fh_log2(fh_pow2_ceil(pages));
}

/* ---- records --------------------------------------------------------------------------------- */

static void write_words(struct slot *slot, const struct record *record)
{
    uint64_t words[RECORD_WORDS];
    memcpy(words, record, sizeof words);
    for (unsigned i = 0; i < RECORD_WORDS; i++)
        atomic_store_explicit(&slot->words[i], words[i], memory_order_relaxed);
}

static void read_words(const struct slot *slot, struct record *record)
{
    uint64_t words[RECORD_WORDS];
    for (unsigned i = 0; i < RECORD_WORDS; i++)
        words[i] = atomic_load_explicit(&slot->words[i], memory_order_relaxed);
    memcpy(record, words, sizeof *record);
}

/* The slot is CHANGING, by the caller, from the turn `before`. */
static void publish(struct slot *slot, uint32_t before, const struct record *record,
                    enum slot_state state)
{
    /* Whoever sees one of these words sees that the turn has changed: pairs with the fence in
     * read_slot. */
    atomic_thread_fence(memory_order_release);
    write_words(slot, record);
    /* release: pairs with the acquire in read_slot. */
    atomic_store_explicit(&slot->turn,
                          (before & ~(uint32_t)STATE_MASK) + 2 * TURN + (uint32_t)state,
                          memory_order_release);
}

static uint32_t changing(uint32_t turn)
{
    return (turn & ~(uint32_t)STATE_MASK) + TURN + CHANGING;
}

/* The record and the turn at which it was so; CHANGING when the writer did not get to an end. */
static uint32_t read_slot(const struct slot *slot, struct record *record)
{
    for (unsigned i = 0; i < READ_TRIES; i++) {
        /* acquire: pairs with the release in publish. */
        uint32_t turn = atomic_load_explicit(&slot->turn, memory_order_acquire);
        read_words(slot, record);
        atomic_thread_fence(memory_order_acquire);
        if ((turn & STATE_MASK) != CHANGING &&
            atomic_load_explicit(&slot->turn, memory_order_relaxed) == turn)
            return turn;
    }
    return CHANGING;
}

static enum fh_block_state block_state(uint32_t turn)
{
    static const enum fh_block_state states[] = {
        [NEVER] = FH_BLOCK_NEVER,
        [LIVE] = FH_BLOCK_LIVE,
        [FREED] = FH_BLOCK_FREED,
        [CHANGING] = FH_BLOCK_FREED,
    };
    return states[turn & STATE_MASK];
}

/* ---- canaries -------------------------------------------------------------------------------- */

static struct range gap_below(const struct record *record)
{
    return (struct range){touched(record->address, record->requested).low, record->address};
}

static struct range gap_above(const struct record *record)
{
    return (struct range){record->address + record->requested,
                          touched(record->address, record->requested).high};
}

static void fill_gap(struct range gap)
{
    fh_canary_fill(gap.low, gap.high);
}

/* From the first byte that is not the canary's to behind the last one; empty when all are. */
static struct range find_damage(struct range gap)
{
    struct range damage = {0, 0};
    (void)fh_canary_holds(gap.low, gap.high, &damage.low, &damage.high);
    return damage;
}

/* ---- opening and closing --------------------------------------------------------------------- */

static bool count_mappings(void)
{
    size_t before = atomic_fetch_add_explicit(&fence.mappings, HOLE_MAPPINGS, memory_order_relaxed);
    if (before + HOLE_MAPPINGS <= fence.mapping_limit)
        return true;
    atomic_fetch_sub_explicit(&fence.mappings, HOLE_MAPPINGS, memory_order_relaxed);
    return false;
}

static void discount_mappings(void)
{
    atomic_fetch_sub_explicit(&fence.mappings, HOLE_MAPPINGS, memory_order_relaxed);
}

static int fill_missing(struct range range)
{
    int faults = atomic_load_explicit(&fence.faults, memory_order_relaxed);
    return fh_os_faults_fill(faults, (void *)range.low, range.high - range.low);
}

static bool open_hole(struct range range)
{
    if (!count_mappings())
        return false;
    if (fh_os_commit((void *)range.low, range.high - range.low) == 0)
        return true;
    discount_mappings();
    return false;
}

static bool open_pages(const struct chunk *chunk, struct range range)
{
    switch (chunk->kind) {
    case MARKED:
        return fh_os_guard_remove((void *)range.low, range.high - range.low) == 0;
    case MISSING:
        return fill_missing(range) == 0;
    default:
        return open_hole(range);
    }
}

/* Not by mprotect, which would leave what merges with no neighbour (it remembers whose memory it
 * was). */
static bool make_hole(struct range range)
{
    if (fh_os_decommit((void *)range.low, range.high - range.low) == 0)
        return true;
    (void)fh_os_purge((void *)range.low, range.high - range.low); /* only saves memory */
    return false;
}

/* Whether the slot is as it was before it was opened; if not it can't be opened again. */
static bool close_pages(const struct chunk *chunk, struct range range)
{
    void *low = (void *)range.low;
    size_t size = range.high - range.low;
    if (chunk->kind == HOLE) {
        bool is_closed = make_hole(range);
        if (is_closed)
            discount_mappings();
        return is_closed;
    }
    if ((chunk->kind == MARKED ? fh_os_guard_install(low, size) : fh_os_purge(low, size)) == 0)
        return true;
    if (!count_mappings())
        (void)fh_os_purge(low, size);
    else if (!make_hole(range))
        discount_mappings();
    return false;
}

/* ---- lists and chunks; all under the lock ---------------------------------------------------- */

static void list_push(struct list *list, uint32_t id)
{
    slot_of_id(id)->next = NO_SLOT;
    if (list->count++ == 0)
        list->first = id;
    else
        slot_of_id(list->last)->next = id;
    list->last = id;
}

/* One of the first PICK_FROM; the list is not empty. */
static uint32_t list_take(struct list *list)
{
    uint32_t before = NO_SLOT, id = list->first;
    for (uint32_t n = fh_random_below(&fence.random, (uint32_t)fh_min(list->count, PICK_FROM));
         n > 0; n--) {
        before = id;
        id = slot_of_id(id)->next;
    }
    uint32_t next = slot_of_id(id)->next;
    if (before == NO_SLOT)
        list->first = next;
    else
        slot_of_id(before)->next = next;
    if (list->last == id)
        list->last = before;
    list->count--;
    return id;
}

static bool is_reserved(size_t bytes)
{
    char *base = fh_os_reserve_hidden(bytes, chunk_bytes());
    if (base == NULL)
        return false;
    /* Where address space is limited the heap's window is planned, not reserved. */
    if (fh_pages_contain(&fh_pages_main, base) ||
        fh_pages_contain(&fh_pages_main, base + bytes - 1)) {
        fh_os_release(base, bytes);
        return false;
    }
    atomic_store_explicit(&fence.base, (uintptr_t)base, memory_order_relaxed);
    /* release: who sees the size sees the base and the secret; pairs with fh_fence_owns. */
    atomic_store_explicit(&fence.bytes, bytes, memory_order_release);
    return true;
}

/* Once: whether there is a region. */
static bool begin(void)
{
    if (fence.has_begun)
        return atomic_load_explicit(&fence.bytes, memory_order_relaxed) != 0;
    if (atomic_load_explicit(&fh_root.is_confined, memory_order_relaxed))
        return false; /* what follows makes system calls that a filter may not know */
    fence.has_begun = true;
    fh_locks_register(&fence.lock, FH_FLOOR_GUARD);
    fh_random_seed(&fence.random, fh_os_random());
    fence.mapping_limit = fh_os_mapping_limit() / MAPPING_SHARE;
    size_t bytes = limits()->chunks * chunk_bytes();
    while (bytes > fh_os_limit_address_space() / LIMIT_SHARE)
        bytes /= 2;
    for (; bytes >= chunk_bytes(); bytes /= 2)
        if (is_reserved(fh_align_down(bytes, chunk_bytes())))
            return true;
    return false;
}

static bool mark_chunk(void *address)
{
    if (fh_os_commit(address, chunk_bytes()) != 0)
        return false;
    if (fh_os_guard_install(address, chunk_bytes()) == 0)
        return true;
    /* Should that fail, the pages are accessible, until a block has been there. */
    (void)fh_os_decommit(address, chunk_bytes());
    return false;
}

static bool register_chunk(void *address)
{
    int faults = atomic_load_explicit(&fence.faults, memory_order_relaxed);
    if (faults < 0)
        faults = fh_os_faults_open();
    atomic_store_explicit(&fence.faults, faults, memory_order_relaxed);
    return faults >= 0 && fh_os_faults_register(faults, address, chunk_bytes()) == 0;
}

/* Closes all pages of a chunk in the best way that there is; false: they can't be used. */
static bool close_chunk(void *address, enum chunk_kind *kind)
{
    if (fence.kind == MARKED && !mark_chunk(address))
        fence.kind = MISSING;
    if (fence.kind == MISSING && !register_chunk(address))
        fence.kind = HOLE;
    *kind = fence.kind;
    /* Accessible when they are registered, not before: what becomes accessible in locked memory is
     * filled, but for this. */
    return *kind != MISSING || fh_os_commit(address, chunk_bytes()) == 0;
}

static void shuffle_in(struct chunk *chunk)
{
    uint32_t count = slots_in_chunk(chunk->class_index);
    unsigned char order[CHUNK_SLOTS_MAX];
    for (uint32_t i = 0; i < count; i++) {
        uint32_t at = fh_random_below(&fence.random, i + 1);
        order[i] = order[at];
        order[at] = (unsigned char)i;
    }
    for (uint32_t i = 0; i < count; i++)
        list_push(&fence.fresh[chunk->class_index], id_of(chunk, order[i]));
}

static bool make_chunk(unsigned class_index)
{
    size_t bytes = atomic_load_explicit(&fence.bytes, memory_order_relaxed);
    if ((fence.chunk_count + 1) * chunk_bytes() > bytes)
        return false;
    struct chunk *chunk = &fence.chunks[fence.chunk_count];
    enum chunk_kind kind;
    if (!close_chunk((void *)chunk_address(chunk), &kind))
        return false;
    struct slot *slots = fh_meta_alloc(slots_in_chunk(class_index) * sizeof *slots);
    if (slots == NULL)
        return false;
    chunk->class_index = (uint8_t)class_index;
    chunk->kind = (uint8_t)kind;
    /* release: pairs with slots_of. */
    atomic_store_explicit(&chunk->slots, slots, memory_order_release);
    fence.chunk_count++;
    shuffle_in(chunk);
    return true;
}

static uint32_t take_slot(unsigned class_index)
{
    struct list *fresh = &fence.fresh[class_index], *waiting = &fence.waiting[class_index];
    /* Whoever waits with uaf=sweep is fresh again when nothing points to it:
     * fh_fences_release_swept. */
    if (fh_guard_settings.is_sweeping)
        return fresh->count != 0 || make_chunk(class_index) ? list_take(fresh) : NO_SLOT;
    bool is_patient = waiting->count < limits()->waiting_slots >> class_index;
    if (is_patient && (fresh->count != 0 || make_chunk(class_index)))
        return list_take(fresh);
    if (waiting->count != 0)
        return list_take(waiting);
    if (fresh->count != 0 || make_chunk(class_index))
        return list_take(fresh);
    return NO_SLOT;
}

static bool is_within_budget(size_t pages)
{
    const struct limits *most = limits();
    if (fence.live >= most->live_slots)
        return false;
    size_t heap = atomic_load_explicit(&fh_pages_main.footprint, memory_order_relaxed) >>
                  fh_os_page_shift >> most->heap_shift;
    return fence.live_pages + pages <= fh_max(most->live_pages, heap);
}

/* ---- alloc ----------------------------------------------------------------------------------- */

struct claim {
    uint32_t id;
    uintptr_t address; /* of the block */
    struct range range;
};

/* A slot that belongs to the caller and counts as live; false when there is none to be had. */
static bool claim_slot(size_t size, size_t align, bool is_left, struct claim *claim)
{
    unsigned class_index = class_for(size, align);
    if (class_index == CLASSES)
        return false;
    bool has_slot = false;
    fh_lock_acquire(&fence.lock);
    if (begin() && is_within_budget(data_pages(class_index))) {
        claim->id = take_slot(class_index);
        has_slot = claim->id != NO_SLOT;
    }
    if (has_slot) {
        claim->address = place(claim->id, size, align, is_left);
        claim->range = touched(claim->address, size);
        fence.live++;
        fence.live_pages += pages_in(claim->range);
    }
    fh_lock_release(&fence.lock);
    return has_slot;
}

enum fate { IS_UNUSED, IS_WAITING, IS_RETIRED };

static void give_slot(uint32_t id, struct range range, enum fate fate)
{
    unsigned class_index = chunk_of_id(id)->class_index;
    fh_lock_acquire(&fence.lock);
    fence.live--;
    fence.live_pages -= pages_in(range);
    if (fate == IS_RETIRED)
        fence.retired++;
    else
        list_push(fate == IS_UNUSED ? &fence.fresh[class_index] : &fence.waiting[class_index], id);
    fh_lock_release(&fence.lock);
}

void *fh_fence_alloc(size_t size, size_t align, unsigned how, uint32_t stack, bool is_left)
{
    struct claim claim;
    if (!claim_slot(size, align != 0 ? align : natural_align(size), is_left, &claim))
        return NULL;
    struct slot *slot = slot_of_id(claim.id);
    uint32_t turn = atomic_load_explicit(&slot->turn, memory_order_relaxed); /* ours */
    if (!open_pages(chunk_of_id(claim.id), claim.range)) {
        give_slot(claim.id, claim.range, (turn & STATE_MASK) == NEVER ? IS_UNUSED : IS_WAITING);
        return NULL;
    }
    struct record record = {
        .address = claim.address,
        .alloc_ns = fh_os_now_ns(),
        .requested = (uint32_t)size,
        .alloc_stack = stack,
        .alloc_thread = fh_heap_current->tid,
        .how = (uint16_t)(how & (FH_HOW_FAMILY | FH_HOW_ALIGNED)),
        .align_log = (uint16_t)(align != 0 ? fh_log2(align) + 1 : 0),
    };
    fill_gap(gap_below(&record));
    fill_gap(gap_above(&record));
    atomic_store_explicit(&slot->turn, changing(turn), memory_order_relaxed); /* ours */
    publish(slot, turn, &record, LIVE);
    return (void *)claim.address;
}

/* ---- fork ------------------------------------------------------------------------------------ */

/* Missing pages are the parent's business. Where the child can't register them as its own, freed
 * blocks are accessible, and there are no new ones. */
void fh_fence_forked(void)
{
    int inherited = atomic_load_explicit(&fence.faults, memory_order_relaxed);
    if (inherited < 0)
        return;
    fh_os_faults_close(inherited);
    int faults = fh_os_faults_open();
    for (uint32_t number = 0; number < fence.chunk_count && faults >= 0; number++) {
        const struct chunk *chunk = &fence.chunks[number];
        void *address = (void *)chunk_address(chunk);
        if (chunk->kind == MISSING && fh_os_faults_register(faults, address, chunk_bytes()) != 0) {
            fh_os_close(faults);
            faults = -EBADF;
        }
    }
    if (faults < 0)
        fence.kind = HOLE;
    atomic_store_explicit(&fence.faults, faults, memory_order_relaxed);
}

/* ---- from an address to a block -------------------------------------------------------------- */

/* What is known of a slot at one moment. */
struct view {
    struct record record;
    uint32_t id, turn;
};

bool fh_fence_owns(const void *address)
{
    /* acquire: pairs with the release in is_reserved. */
    size_t bytes = atomic_load_explicit(&fence.bytes, memory_order_acquire);
    return (uintptr_t)address - region_base() < bytes;
}

static bool has_slots(const struct chunk *chunk)
{
    return slots_of(chunk) != NULL;
}

/* The slots next to an address, at most two: the one whose data pages hold it; or those below and
 * above the guard page that does. */
static unsigned slots_at(uintptr_t address, uint32_t ids[2])
{
    uintptr_t offset = address - region_base();
    struct chunk *chunk = &fence.chunks[offset / chunk_bytes()];
    if (!has_slots(chunk))
        return 0;
    uint32_t count = slots_in_chunk(chunk->class_index);
    size_t page = offset % chunk_bytes() >> fh_os_page_shift;
    size_t stride = data_pages(chunk->class_index) + 1;
    size_t index = page / stride; /* of the slot above, when it is a guard page */
    unsigned found = 0;
    if (page % stride != 0 && index < count) {
        ids[0] = id_of(chunk, (uint32_t)index);
        return 1;
    }
    if (index > 0)
        ids[found++] = id_of(chunk, (uint32_t)fh_min(index, count) - 1);
    else if (chunk != fence.chunks && has_slots(chunk - 1))
        ids[found++] = id_of(chunk - 1, slots_in_chunk(chunk[-1].class_index) - 1);
    if (index < count)
        ids[found++] = id_of(chunk, (uint32_t)index);
    return found;
}

static struct view view_of(uint32_t id)
{
    struct view view = {.id = id};
    view.turn = read_slot(slot_of_id(id), &view.record);
    return view;
}

static size_t distance(const struct view *view, uintptr_t address)
{
    uintptr_t low = view->record.address, high = low + view->record.requested;
    return address < low ? low - address : address - high;
}

/* Whether b explains the address better than a below it: live ones first, then the nearer. */
static bool is_likelier(const struct view *a, const struct view *b, uintptr_t address)
{
    enum fh_block_state state_a = block_state(a->turn), state_b = block_state(b->turn);
    if (state_a != state_b)
        return state_b == FH_BLOCK_LIVE || state_a == FH_BLOCK_NEVER;
    return distance(b, address) < distance(a, address);
}

static bool find_view(const void *address, struct view *view)
{
    uint32_t ids[2];
    if (!fh_fence_owns(address))
        return false;
    unsigned count = slots_at((uintptr_t)address, ids);
    if (count == 0)
        return false;
    *view = view_of(ids[0]);
    if (count == 2) {
        struct view above = view_of(ids[1]);
        if (is_likelier(view, &above, (uintptr_t)address))
            *view = above;
    }
    return block_state(view->turn) != FH_BLOCK_NEVER;
}

static void describe(const struct view *view, struct fh_guard_block *out)
{
    const struct record *record = &view->record;
    *out = (struct fh_guard_block){
        .address = record->address,
        .requested = record->requested,
        .usable = touched(record->address, record->requested).high - record->address,
        .align = record->align_log != 0 ? (size_t)1 << (record->align_log - 1) : 0,
        .state = block_state(view->turn),
        .family = record->how & FH_HOW_FAMILY,
        .alloc_stack = record->alloc_stack,
        .free_stack = record->free_stack,
        .alloc_thread = record->alloc_thread,
        .free_thread = record->free_thread,
        .alloc_ns = record->alloc_ns,
        .free_ns = record->free_ns,
        .kind = "fenced",
    };
}

bool fh_fence_find(const void *address, struct fh_guard_block *out)
{
    struct view view;
    if (!find_view(address, &view))
        return false;
    describe(&view, out);
    return true;
}

static int walk_chunk(const struct chunk *chunk,
                      int (*visit)(void *context, const struct fh_guard_block *block),
                      void *context)
{
    for (uint32_t i = 0; i < slots_in_chunk(chunk->class_index); i++) {
        struct fh_guard_block block;
        struct view view = view_of(id_of(chunk, i));
        if (block_state(view.turn) != FH_BLOCK_LIVE)
            continue;
        describe(&view, &block);
        int result = visit(context, &block);
        if (result != 0)
            return result;
    }
    return 0;
}

int fh_fence_walk(int (*visit)(void *context, const struct fh_guard_block *block), void *context)
{
    int result = 0;
    for (uint32_t number = 0; number < CHUNKS_MAX && result == 0; number++)
        if (has_slots(&fence.chunks[number]))
            result = walk_chunk(&fence.chunks[number], visit, context);
    return result;
}

/* What is asked of every pointer that a checked function is given: only the words of a record that
 * say where the block is. False for what takes more: guard pages, and slots that change just now. */
static bool extent_inside(uintptr_t address, struct fh_extent *out)
{
    size_t page = (address - region_base()) >> fh_os_page_shift;
    const struct chunk *chunk = &fence.chunks[page / CHUNK_PAGES];
    const struct slot *slots = slots_of(chunk);
    if (slots == NULL)
        return false;
    uint32_t stride = (uint32_t)data_pages(chunk->class_index) + 1;
    uint32_t inside = (uint32_t)page % CHUNK_PAGES, index = inside / stride;
    if (inside == index * stride || (index + 1) * stride > CHUNK_PAGES - 1)
        return false;
    /* As read_slot does. */
    uint32_t turn = atomic_load_explicit(&slots[index].turn, memory_order_acquire);
    uintptr_t low = atomic_load_explicit(
        &slots[index].words[offsetof(struct record, address) / sizeof(uint64_t)],
        memory_order_relaxed);
    uint32_t requested = (uint32_t)atomic_load_explicit(
        &slots[index].words[offsetof(struct record, requested) / sizeof(uint64_t)],
        memory_order_relaxed);
    atomic_thread_fence(memory_order_acquire);
    uint32_t state = turn & STATE_MASK;
    if ((state != LIVE && state != FREED) ||
        atomic_load_explicit(&slots[index].turn, memory_order_relaxed) != turn)
        return false;
    *out = (struct fh_extent){.low = low,
                              .high = low + requested,
                              .is_live = state == LIVE,
                              .word = (const uint32_t *)&slots[index].turn,
                              .value = turn};
    return true;
}
_Static_assert(offsetof(struct record, requested) % sizeof(uint64_t) == 0,
               "the lower half of its word, on a little-endian machine");

bool fh_fence_extent(const void *address, struct fh_extent *out)
{
    struct view view;
    if (!fh_fence_owns(address))
        return false;
    if (FH_LIKELY(extent_inside((uintptr_t)address, out)))
        return true;
    if (!find_view(address, &view))
        return false;
    *out = (struct fh_extent){
        .low = view.record.address,
        .high = view.record.address + view.record.requested,
        .is_live = block_state(view.turn) == FH_BLOCK_LIVE,
    };
    return true;
}

static bool is_of(const struct view *view, int thread)
{
    return block_state(view->turn) == FH_BLOCK_LIVE &&
           (thread == 0 || view->record.alloc_thread == thread);
}

int fh_fence_walk_heap(int thread, int (*visit)(void *context, const struct fh_block *block),
                       void *context)
{
    int result = 0;
    for (struct chunk *chunk = fence.chunks;
         chunk < fence.chunks + CHUNKS_MAX && has_slots(chunk) && result == 0; chunk++)
        for (uint32_t i = 0; i < slots_in_chunk(chunk->class_index) && result == 0; i++) {
            struct view view = view_of(id_of(chunk, i));
            const struct record *record = &view.record;
            if (is_of(&view, thread))
                result = visit(
                    context, &(struct fh_block){(void *)record->address, record->requested, true});
        }
    return result;
}

/* ---- free ------------------------------------------------------------------------------------ */

static void report_invalid(void *address, const struct fh_guard_block *block, unsigned how,
                           const struct fh_call *call)
{
    const struct fh_error error = {
        .kind = "invalid-free",
        .address = (uintptr_t)address,
        .function = fh_free_name(how),
        .call = call,
        .block = block,
        .detail = "the address is in no block",
    };
    fh_error(&error);
}

static void report_damage(struct range damage, const char *kind, const struct fh_guard_block *block,
                          const char *function, const struct fh_call *call)
{
    const struct fh_error error = {
        .kind = kind,
        .address = damage.low,
        .size = damage.high - damage.low,
        .access = FH_ACCESS_WRITE,
        .function = function,
        .call = call,
        .block = block,
        .damage_low = damage.low,
        .damage_high = damage.high,
    };
    fh_error(&error);
}

static void check_gaps(const struct record *record, const struct fh_guard_block *block,
                       const char *function, const struct fh_call *call)
{
    struct range above = find_damage(gap_above(record)), below = find_damage(gap_below(record));
    if (above.low != 0)
        report_damage(above, "heap-buffer-overflow", block, function, call);
    if (below.low != 0)
        report_damage(below, "heap-buffer-underflow", block, function, call);
}

static void inspect_slot(uint32_t id)
{
    struct view view = view_of(id);
    if (block_state(view.turn) != FH_BLOCK_LIVE || (find_damage(gap_above(&view.record)).low == 0 &&
                                                    find_damage(gap_below(&view.record)).low == 0))
        return;
    /* Somebody may have freed it meanwhile: then what was read is not that block's. */
    if (view_of(id).turn != view.turn)
        return;
    struct fh_guard_block block;
    describe(&view, &block);
    check_gaps(&view.record, &block, NULL, NULL);
}

void fh_fence_inspect(void)
{
    for (uint32_t number = 0; number < CHUNKS_MAX; number++) {
        const struct chunk *chunk = &fence.chunks[number];
        for (uint32_t i = 0; has_slots(chunk) && i < slots_in_chunk(chunk->class_index); i++)
            inspect_slot(id_of(chunk, i));
    }
}

/* LIVE to FREED; false when somebody else was faster. */
static bool end_block(const struct view *view, uint32_t stack)
{
    struct slot *slot = slot_of_id(view->id);
    uint32_t turn = view->turn;
    /* acquire: what its threads wrote there before they handed it over is not read too early. */
    if (!atomic_compare_exchange_strong_explicit(&slot->turn, &turn, changing(turn),
                                                 memory_order_acquire, memory_order_relaxed))
        return false;
    struct record record = view->record;
    record.free_ns = fh_os_now_ns();
    record.free_stack = stack;
    record.free_thread = fh_heap_current->tid;
    publish(slot, view->turn, &record, FREED);
    return true;
}

void fh_fence_free(void *block, size_t size, size_t align, unsigned how, uint32_t stack,
                   const struct fh_call *call)
{
    struct view view;
    struct fh_guard_block described;
    bool is_known = find_view(block, &view);
    if (is_known)
        describe(&view, &described);
    if (!is_known || (uintptr_t)block - described.address >= fh_max(described.requested, 1)) {
        report_invalid(block, is_known ? &described : NULL, how, call);
        return;
    }
    if (fh_free_is_wrong(&described, block, size, align, how, call))
        return;
    if (!end_block(&view, stack)) {
        view = view_of(view.id);
        describe(&view, &described);
        (void)fh_free_is_wrong(&described, block, size, align, how, call);
        return;
    }
    check_gaps(&view.record, &described, fh_free_name(how), call);
    struct range range = touched(described.address, described.requested);
    bool is_closed = close_pages(chunk_of_id(view.id), range);
    give_slot(view.id, range, is_closed ? IS_WAITING : IS_RETIRED);
}

/* ---- budgets --------------------------------------------------------------------------------- */

/* The first ones; then SITE_IN_DOUBLING in each doubling of the count. */
static bool is_site_due(struct fh_site *site, const struct limits *most)
{
    uint32_t fenced = atomic_load_explicit(&site->fenced, memory_order_relaxed);
    if (fenced < most->site_first)
        return true;
    if (most->site_first == 0)
        return false; /* fast mode has samples only */
    uint64_t doublings = (fenced - most->site_first) / SITE_IN_DOUBLING + 1;
    return doublings < 32 && atomic_load_explicit(&site->count, memory_order_relaxed) >=
                                 (uint64_t)most->site_first << doublings;
}

bool fh_fence_wanted(struct fh_site *site, bool is_sample)
{
    const struct limits *most = limits();
    if (fh_guard_settings.guard == 0 || site == NULL)
        return false;
    if (fh_guard_settings.guard != 1 && !is_sample &&
        (!is_site_due(site, most) || !fh_budget_take(PAIR_NS)))
        return false;
    atomic_fetch_add_explicit(&site->fenced, 1, memory_order_relaxed);
    return true;
}

/* ---- counts and invariants ------------------------------------------------------------------- */

static size_t sum_of(const struct list *lists)
{
    size_t sum = 0;
    for (unsigned i = 0; i < CLASSES; i++)
        sum += lists[i].count;
    return sum;
}

void fh_fence_counts(struct fh_fence_counts *counts)
{
    fh_lock_acquire(&fence.lock);
    *counts = (struct fh_fence_counts){
        .live = fence.live,
        .freed = sum_of(fence.waiting),
        .retired = fence.retired,
        .never = sum_of(fence.fresh),
        .live_pages = fence.live_pages,
        .mappings = atomic_load_explicit(&fence.mappings, memory_order_relaxed),
        .chunks = fence.chunk_count,
    };
    fh_lock_release(&fence.lock);
}

static int is_broken(bool holds, const char *claim, size_t number)
{
    if (!holds)
        fh_message("fences: broken: %s (%zu)", claim, number);
    return holds ? 0 : 1;
}

/* Slots that a sweep has released are fresh though they were used. */
static bool may_be_fresh(uint32_t turn)
{
    uint32_t state = turn & STATE_MASK;
    return state == NEVER || (state == FREED && fh_guard_settings.is_sweeping);
}

static bool may_wait(uint32_t turn)
{
    return (turn & STATE_MASK) == FREED;
}

static int check_list(const struct list *list, unsigned class_index, bool (*may_be)(uint32_t turn))
{
    int broken = 0;
    uint32_t count = 0, last = NO_SLOT;
    for (uint32_t id = list->first; count < list->count && broken == 0; count++) {
        broken += is_broken(chunk_of_id(id)->class_index == class_index, "class of a slot", id);
        broken += is_broken(may_be(view_of(id).turn), "state of a slot in a list", id);
        last = id;
        id = slot_of_id(id)->next;
    }
    if (count != 0)
        broken += is_broken(last == list->last && slot_of_id(last)->next == NO_SLOT,
                            "the end of a list", class_index);
    return broken;
}

struct census {
    size_t slots, live, live_pages, accessible_holes;
};

static int check_slot(uint32_t id, struct census *census)
{
    struct view view = view_of(id);
    const struct record *record = &view.record;
    census->slots++;
    if (block_state(view.turn) != FH_BLOCK_LIVE)
        return 0;
    struct range range = touched(record->address, record->requested);
    census->live++;
    census->live_pages += pages_in(range);
    census->accessible_holes += chunk_of_id(id)->kind == HOLE;
    uintptr_t low = data_of_id(id);
    uintptr_t high = low + (data_pages(chunk_of_id(id)->class_index) << fh_os_page_shift);
    return is_broken(low <= range.low && range.high <= high, "a block lies in its slot", id) +
           is_broken(find_damage(gap_below(record)).low == 0, "what is below a block", id) +
           is_broken(find_damage(gap_above(record)).low == 0, "what is above a block", id);
}

int fh_fence_check(void)
{
    int broken = 0;
    struct census census = {0};
    fh_lock_acquire(&fence.lock);
    for (uint32_t number = 0; number < fence.chunk_count; number++)
        for (uint32_t i = 0; i < slots_in_chunk(fence.chunks[number].class_index); i++)
            broken += check_slot(id_of(&fence.chunks[number], i), &census);
    for (unsigned i = 0; i < CLASSES; i++) {
        broken += check_list(&fence.fresh[i], i, may_be_fresh);
        broken += check_list(&fence.waiting[i], i, may_wait);
    }
    size_t accounted = fence.live + fence.retired + sum_of(fence.fresh) + sum_of(fence.waiting);
    size_t mappings = atomic_load_explicit(&fence.mappings, memory_order_relaxed);
    broken += is_broken(census.slots == accounted, "each slot is somewhere", accounted);
    broken += is_broken(census.live == fence.live, "number of live blocks", fence.live);
    broken += is_broken(census.live_pages == fence.live_pages, "live pages", fence.live_pages);
    broken += is_broken(mappings >= census.accessible_holes * HOLE_MAPPINGS &&
                            mappings <= (census.accessible_holes + fence.retired) * HOLE_MAPPINGS,
                        "mappings that slots cost", mappings);
    fh_lock_release(&fence.lock);
    return broken;
}

/* ---- the sweep ------------------------------------------------------------------------------- */

static void list_chunk(struct fh_scan *scan, const struct chunk *chunk)
{
    uint32_t count = slots_in_chunk(chunk->class_index);
    size_t stride = (data_pages(chunk->class_index) + 1) << fh_os_page_shift;
    struct fh_scan_area *area =
        fh_scan_add(scan, chunk_address(chunk) + fh_os_page_size, stride, count);
    if (area == NULL)
        return;
    fh_scan_by_pages(area); /* its pages are inaccessible more often than not */
    for (uint32_t first = 0; first < count; first += 64) {
        uint64_t live = 0, waiting = 0;
        for (uint32_t i = first; i < count && i < first + 64; i++) {
            uint32_t turn = atomic_load_explicit(&slots_of(chunk)[i].turn, memory_order_relaxed);
            live |= (uint64_t)((turn & STATE_MASK) == LIVE) << (i - first);
            waiting |= (uint64_t)((turn & STATE_MASK) == FREED) << (i - first);
        }
        fh_scan_bits(area, first / 64, live, waiting);
    }
}

void fh_fences_list(struct fh_scan *scan)
{
    /* Nothing else of the region counts; page by page it would be told that it is inaccessible. */
    fh_scan_exclude(scan, region_base(),
                    region_base() + atomic_load_explicit(&fence.bytes, memory_order_relaxed));
    for (size_t i = 0; i < fence.chunk_count; i++)
        list_chunk(scan, &fence.chunks[i]);
}

/* The address of a slot's area, not of its block. */
static bool is_swept(const struct fh_scan *scan, uint32_t id)
{
    return scan == NULL || fh_scan_is_wanted(scan, data_of_id(id));
}

size_t fh_fences_release_swept(const struct fh_scan *scan)
{
    size_t released = 0;
    fh_lock_acquire(&fence.lock);
    for (unsigned class_index = 0; class_index < CLASSES; class_index++) {
        struct list before = fence.waiting[class_index];
        fence.waiting[class_index] = (struct list){NO_SLOT, NO_SLOT, 0};
        for (uint32_t id = before.first, next; before.count > 0; before.count--, id = next) {
            next = slot_of_id(id)->next;
            bool is_free = is_swept(scan, id);
            list_push(is_free ? &fence.fresh[class_index] : &fence.waiting[class_index], id);
            released += is_free;
        }
    }
    fh_lock_release(&fence.lock);
    return released * FH_FENCE_SWEPT;
}
