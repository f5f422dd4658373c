/*
 * Slots: guarded blocks of the heap's size classes.
 *
 * A run (pages/run.h, kind GUARDED) is cut into slots of one size. What is known of them lies out
 * of line, in the run's *slab*: for each slot a word (state, family, alignment, how much of it was
 * not asked for, the sites that allocated and freed it) and a bit that says that it is free.
 * Nothing is kept in a free slot, so nothing that a program writes there leads us astray.
 *
 *     run    | slot 0 | slot 1 | …                          slab   | free bits | word 0 | word 1 | …
 *            | requested … | canary, at least 8 bytes |
 *
 * A slot's way:
 *
 *     FREE, bit set, in its run  --refill-->  FREE, at hand of a thread  --alloc-->  LIVE
 *       ^                                          ^                                   | free
 *       +---------- too many at hand --------------+----- the budget is used up --- FREE, in quarantine
 *
 * With uaf=sweep a freed slot is SWEPT, waits in no ring, and comes back to its run's free bits when a sweep
 * (sweep.c) has found that nothing points to it.
 *
 * Checks. free: does the address begin a slot, is it LIVE (else double-free: it can't be missed,
 * the word is out of the program's reach), do family, size and alignment agree, is the canary
 * whole. alloc: is the slot as free left it (zero in hardened mode, a pattern in debug mode), else
 * somebody wrote to it after the free. Both again, where neither comes, in small steps at the
 * heartbeat of debug mode (fh_slots_inspect) and at the end of the process.
 *
 * Randomness. A refill takes free slots of a run, neighbours from a random place on, and they are
 * handed out in the order of their addresses; later come those that waited in quarantine. Runs come
 * from the page pool, whose window begins at a random place. (A random pick for each allocation
 * scatters what a program makes together and goes through together: Python's collector took twice
 * the time.)
 *
 * Locks. A class's lock guards its lists and the bits of its runs; at hand and quarantine are the thread's own. A
 * LIVE slot's word belongs to whoever holds the block. Two threads that free one block at the same moment both see LIVE:
 * then it waits twice, and when it is handed out for the second time it is LIVE already, which is told.
 *
 * Following: hardened_malloc (out-of-line slabs, canaries, zeroing), Bonwick and Adams 2001
 * (magazines), Novark and Berger, "DieHarder", CCS 2010 (random placement, delayed reuse).
 */
#include "base/lock.h"
#include "freehold/misuse.h"
#include "guard/thread.h"
#include "heap/heap.h"
#include "os/sys.h"
#include "scan/scan.h"

#include <string.h>

enum {
    CANARY_LEAST = 8,
    REFILL_BYTES = 4096, /* a refill takes so much, … */
    REFILL_LEAST = 2,    /* … but so many */
    REFILL_MOST = FH_AT_HAND / 2,
    DAMAGE_SHOWN = 64,   /* bytes that a report may show of what is damaged */
    CHECKED_MOST = 1024, /* hardened: bytes of a slot that are checked when it is used again */
};

struct slot {
    uint64_t state : 2; /* enum state */
    uint64_t family : 2;
    uint64_t align_log : 4; /* 0: not asked for */
    uint64_t slack : 15;    /* bytes of the slot that were not asked for */
    uint64_t is_used : 1;   /* has been a block before */
    uint64_t alloc_site : FH_SITE_BITS;
    uint64_t free_site : FH_SITE_BITS;
};
_Static_assert(sizeof(struct slot) == 8, "a slot's word is one store");

/* CHANGING: being filled, by its holder; an inspection passes it over. FREE: at hand, in its run, or in quarantine. SWEPT: waits until a sweep finds that nobody points there. */
enum state { FREE, LIVE, SWEPT, CHANGING };

/* Debug mode keeps more. Times in units of 2^20 ns. */
struct note {
    int alloc_thread, free_thread;
    uint32_t alloc_time, free_time;
};

struct slab {
    struct slab *next_spare;
    uint64_t *free_bits;
    struct note *notes; /* debug mode; else NULL */
    uint32_t free_count, opened;
    bool is_listed;
    struct slot slots[];
};

struct slot_class {
    struct fh_lock lock;
    uint32_t first;     /* runs with free or unopened slots, by `next` */
    uint32_t all_first; /* all runs, by `heap_next` */
    uint32_t runs;
    struct slab *spare; /* of runs that were given back */
} FH_CACHE_ALIGNED;

static struct slot_class classes[FH_CLASS_COUNT];

#define PAGES (&fh_pages_main)

/* ---- geometry -------------------------------------------------------------------------------- */

FH_INLINE struct slab *slab_of(const struct fh_run *run)
{
    return run->local;
}

FH_INLINE uint32_t index_of(const struct fh_run *run, size_t offset)
{
    return run->span == 1 ? (uint32_t)((uint64_t)offset * run->reciprocal >> 32)
                          : (uint32_t)((uint64_t)(offset >> 10) * run->coarse >> 32);
}

FH_INLINE void *slot_at(const struct fh_run *run, uint32_t index)
{
    return (void *)(run->base + (size_t)index * run->block_size);
}

FH_INLINE struct fh_run *run_of(const void *block)
{
    struct fh_run *run = fh_window_run(&PAGES->window, block);
    return FH_LIKELY(run->kind != FH_RUN_REST) ? run : fh_run_at(PAGES, run->head);
}

static unsigned class_for(size_t size, size_t align)
{
    unsigned index = fh_class_of(size);
    if (align > 16)
        while (index < FH_CLASS_COUNT && fh_class_size(index) % align != 0)
            index++;
    return index;
}

/* The clock is read at one call in 32: what notes say may be so much older. */
static uint32_t now_short(struct fh_guard_thread *mine)
{
    if ((mine->ticks++ & 31) == 0)
        mine->now = (uint32_t)(fh_os_now_ns() >> 20);
    return mine->now;
}

/* ---- runs ------------------------------------------------------------------------------------ */

static size_t slab_bytes(uint32_t capacity, bool has_notes)
{
    return sizeof(struct slab) + capacity * sizeof(struct slot) + (capacity + 63) / 64 * 8 +
           (has_notes ? capacity * sizeof(struct note) : 0);
}

static struct slab *make_slab(struct slot_class *class, uint32_t capacity)
{
    const bool has_notes = fh_guard_settings.has_stacks;
    struct slab *slab = class->spare;
    if (slab != NULL) {
        class->spare = slab->next_spare;
        memset(slab, 0, slab_bytes(capacity, has_notes));
    } else {
        slab = fh_meta_alloc(slab_bytes(capacity, has_notes));
        if (slab == NULL)
            return NULL;
    }
    slab->free_bits = (uint64_t *)(slab->slots + capacity);
    slab->notes = has_notes ? (struct note *)(slab->free_bits + (capacity + 63) / 64) : NULL;
    return slab;
}

static void list_run(struct slot_class *class, struct fh_run *run)
{
    run->next = class->first;
    class->first = fh_run_index(PAGES, run);
    slab_of(run)->is_listed = true;
}

static void unlist_run(struct slot_class *class, const struct fh_run *run)
{
    const uint32_t index = fh_run_index(PAGES, run);
    uint32_t *link = &class->first;
    while (*link != index)
        link = &fh_run_at(PAGES, *link)->next;
    *link = run->next;
    slab_of(run)->is_listed = false;
}

static const struct fh_owner slot_owner;

static struct fh_run *new_run(struct slot_class *class, unsigned class_index)
{
    const uint32_t granules = fh_class_granules(class_index), size = fh_class_size(class_index);
    const uint32_t capacity = (uint32_t)(granules * FH_GRANULE / size);
    struct slab *slab = make_slab(class, capacity);
    if (slab == NULL)
        return NULL;
    struct fh_run *run = class->runs == 0 && granules == 1
                             ? fh_pages_alloc_sparse(PAGES)
                             : fh_pages_alloc(PAGES, granules, 1, NULL);
    if (run == NULL) {
        slab->next_spare = class->spare;
        class->spare = slab;
        return NULL;
    }
    fh_run_gather_dirty(PAGES, run);
    fh_run_shape(run, size);
    run->local = slab;
    run->base = (uintptr_t)fh_run_address(PAGES, run);
    run->capacity = capacity;
    run->available = 0;
    run->countdown = run->used_floor = 0;
    run->class_index = (uint8_t)class_index;
    run->flags = FH_RUN_SLOW;
    run->heap = NULL;
    run->carved = 0;
    run->manager = &slot_owner;
    atomic_store_explicit(&run->remote, 0, memory_order_relaxed);
    atomic_store_explicit(&run->key, FH_KEY_NOBODY, memory_order_relaxed);
    run->heap_next = class->all_first;
    run->heap_prev = FH_NO_RUN;
    if (class->all_first != FH_NO_RUN)
        fh_run_at(PAGES, class->all_first)->heap_prev = fh_run_index(PAGES, run);
    class->all_first = fh_run_index(PAGES, run);
    class->runs++;
    list_run(class, run);
    fh_run_set_kind(run, FH_RUN_GUARDED);
    return run;
}

/* All slots are free. */
static void give_run_back(struct slot_class *class, struct fh_run *run)
{
    struct slab *slab = slab_of(run);
    unlist_run(class, run);
    if (run->heap_prev != FH_NO_RUN)
        fh_run_at(PAGES, run->heap_prev)->heap_next = run->heap_next;
    else
        class->all_first = run->heap_next;
    if (run->heap_next != FH_NO_RUN)
        fh_run_at(PAGES, run->heap_next)->heap_prev = run->heap_prev;
    class->runs--;
    slab->next_spare = class->spare;
    class->spare = slab;
    run->local = NULL;
    fh_run_spread_dirty(PAGES, run);
    fh_run_set_kind(run, FH_RUN_NONE);
    fh_pages_free(PAGES, run);
}

/* One page more, or as many as one slot needs. */
static void open_slots(struct fh_run *run)
{
    struct slab *slab = slab_of(run);
    const size_t used = (size_t)slab->opened * run->block_size;
    const size_t page = fh_os_page_size;
    size_t end = fh_align_down(used + page, page);
    uint32_t opened = (uint32_t)fh_min(end / run->block_size, run->capacity);
    if (opened == slab->opened)
        opened++;
    end = fh_align_up((size_t)opened * run->block_size, page);
    size_t more = 0;
    for (size_t at = fh_align_down(used, page); at < end; at += page) {
        const uint64_t bit = (uint64_t)1 << (at >> fh_os_page_shift);
        const bool is_new = at >= used;
        if ((run->dirty & bit) == 0) {
            more++;
            run->dirty |= bit;
        } else if (is_new) {
            memset((void *)(run->base + at), 0, page); /* somebody had it before */
        }
    }
    fh_pages_count(PAGES, more, 0);
    for (uint32_t i = slab->opened; i < opened; i++)
        slab->free_bits[i / 64] |= (uint64_t)1 << (i & 63);
    slab->free_count += opened - slab->opened;
    slab->opened = opened;
    run->available = opened;
}

/* ---- at hand --------------------------------------------------------------------------------- */

static uint32_t refill_size(unsigned class_index)
{
    const uint32_t count = REFILL_BYTES / fh_class_size(class_index);
    return count < REFILL_LEAST ? REFILL_LEAST : count > REFILL_MOST ? REFILL_MOST : count;
}

static void take_bits(struct fh_at_hand *hand, struct fh_run *run, uint32_t want,
                      struct fh_random *random)
{
    struct slab *slab = slab_of(run);
    const uint32_t words = (slab->opened + 63) / 64, before = hand->count;
    const uint64_t draw = fh_random_next(random);
    uint32_t word = (uint32_t)((draw >> 32) * words >> 32);
    const unsigned turn = (unsigned)draw & 63; /* where the first word is entered */
    uint64_t allowed = ~(uint64_t)0 << turn;
    for (uint32_t n = 0; n <= words && want > 0; n++, word = word + 1 < words ? word + 1 : 0) {
        for (uint64_t bits = slab->free_bits[word] & allowed; bits != 0 && want > 0; want--) {
            const unsigned bit = (unsigned)__builtin_ctzll(bits);
            bits &= bits - 1;
            slab->free_bits[word] &= ~((uint64_t)1 << bit);
            slab->free_count--;
            hand->slots[hand->count++] = slot_at(run, word * 64 + bit);
        }
        allowed = ~(uint64_t)0;
    }
    for (uint32_t low = before, high = hand->count; low + 1 < high; low++, high--) {
        void *other = hand->slots[low]; /* the last is the first that is handed out */
        hand->slots[low] = hand->slots[high - 1];
        hand->slots[high - 1] = other;
    }
}

static void inspect_some(struct fh_guard_thread *mine);

/* What is known of a run agrees with itself; a program can't reach it, but a bug might. */
static bool is_sound(const struct fh_run *run)
{
    const struct slab *slab = slab_of(run);
    return slab->opened <= run->capacity && slab->free_count <= slab->opened &&
           slab->free_bits == (const uint64_t *)(slab->slots + run->capacity);
}

static void tell_damage(const struct fh_run *run)
{
    const struct fh_error error = {
        .kind = "heap-corruption",
        .address = run->base,
        .detail = "what is known of a run's free blocks has been overwritten",
    };
    fh_error(&error);
}

/* False: no memory. */
static FH_NOINLINE bool refill(struct fh_guard_thread *mine, unsigned class_index)
{
    struct slot_class *class = &classes[class_index];
    struct fh_at_hand *hand = &mine->at_hand[class_index];
    inspect_some(mine);
    fh_lock_acquire(&class->lock);
    const uint32_t want = refill_size(class_index);
    while (hand->count < want) {
        struct fh_run *run = class->first != FH_NO_RUN ? fh_run_at(PAGES, class->first) : NULL;
        if (run == NULL && (hand->count > 0 || (run = new_run(class, class_index)) == NULL))
            break;
        if (!is_sound(run)) {
            tell_damage(run);
            unlist_run(class, run);
            continue;
        }
        struct slab *slab = slab_of(run);
        if (slab->free_count < want && slab->opened < run->capacity)
            open_slots(run);
        const uint32_t before = hand->count;
        take_bits(hand, run, want - before, &mine->random);
        /* A listed run has free slots or unopened ones; if not, its bits are not what they were. */
        if (hand->count == before)
            tell_damage(run);
        if (hand->count == before || (slab->free_count == 0 && slab->opened == run->capacity))
            unlist_run(class, run);
    }
    fh_lock_release(&class->lock);
    return hand->count > 0;
}

/* Half of what is at hand, back to the runs. */
static FH_NOINLINE void flush(struct fh_at_hand *hand, unsigned class_index)
{
    struct slot_class *class = &classes[class_index];
    fh_lock_acquire(&class->lock);
    while (hand->count > FH_AT_HAND / 2) {
        const void *block = hand->slots[--hand->count];
        struct fh_run *run = run_of(block);
        struct slab *slab = slab_of(run);
        const uint32_t index = index_of(run, (uintptr_t)block - run->base);
        slab->free_bits[index / 64] |= (uint64_t)1 << (index & 63);
        slab->free_count++;
        if (!slab->is_listed)
            list_run(class, run);
        if (slab->free_count == slab->opened && class->runs > 1)
            give_run_back(class, run);
    }
    fh_lock_release(&class->lock);
}

/* ---- what a report says of a slot ------------------------------------------------------------ */

static void describe(const struct fh_run *run, uint32_t index, struct fh_guard_block *out)
{
    const struct slab *slab = slab_of(run);
    const struct slot slot = slab->slots[index];
    *out = (struct fh_guard_block){
        .address = (uintptr_t)slot_at(run, index),
        .requested = run->block_size - slot.slack,
        .usable = run->block_size,
        .align = slot.align_log != 0 ? (size_t)1 << slot.align_log : 0,
        .state = slot.state == LIVE ? FH_BLOCK_LIVE
                 : slot.is_used     ? FH_BLOCK_FREED
                                    : FH_BLOCK_NEVER,
        .family = slot.family,
        .alloc_stack = fh_site_stack(slot.alloc_site),
        .free_stack = slot.state != LIVE ? fh_site_stack(slot.free_site) : 0,
        .kind = "slot",
    };
    if (slab->notes == NULL)
        return;
    const struct note *note = &slab->notes[index];
    out->alloc_thread = note->alloc_thread;
    out->alloc_ns = (uint64_t)note->alloc_time << 20;
    if (slot.state == LIVE)
        return;
    out->free_thread = note->free_thread;
    out->free_ns = (uint64_t)note->free_time << 20;
}

bool fh_slot_find(const struct fh_run *run, uintptr_t address, struct fh_guard_block *out)
{
    const struct slab *slab = slab_of(run);
    if (slab == NULL || address < run->base)
        return false;
    const uint32_t index = index_of(run, address - run->base);
    if (index >= slab->opened)
        return false;
    describe(run, index, out);
    return true;
}

bool fh_slot_extent(const struct fh_run *run, uintptr_t address, struct fh_extent *out)
{
    const struct slab *slab = slab_of(run);
    if (slab == NULL || address < run->base)
        return false;
    const uint32_t index = index_of(run, address - run->base);
    if (index >= slab->opened)
        return false;
    const struct slot slot = slab->slots[index];
    const uintptr_t low = (uintptr_t)slot_at(run, index);
    const uint32_t *word = (const uint32_t *)&slab->slots[index]; /* state and slack are in it */
    *out = (struct fh_extent){low, low + run->block_size - slot.slack, slot.state == LIVE, word,
                              *word};
    return slot.state == LIVE || slot.is_used;
}

static bool resolve(const struct fh_run *run, uintptr_t address, struct fh_block *out)
{
    struct fh_guard_block block;
    if (!fh_slot_find(run, address, &block))
        return false;
    *out = (struct fh_block){
        .address = (void *)block.address,
        .usable = block.requested,
        .is_live = block.state == FH_BLOCK_LIVE,
    };
    return true;
}

static const struct fh_owner slot_owner = {.name = "guarded", .resolve = resolve};

/* A slot's bytes [low, high) are not what they must be. */
/* Damage nearer to the end of what nobody may write than to its beginning, when the next slot is a block: somebody
 * wrote before that one. */
static bool is_from_above(const struct fh_run *run, uint32_t index, uintptr_t low, uintptr_t high)
{
    const struct slab *slab = slab_of(run);
    const struct slot slot = slab->slots[index];
    const uintptr_t end = (uintptr_t)slot_at(run, index) + run->block_size;
    const uintptr_t begin = slot.state == LIVE ? end - slot.slack : end - run->block_size;
    return index + 1 < slab->opened && slab->slots[index + 1].state == LIVE &&
           end - high < low - begin;
}

static FH_COLD void report_damage(const struct fh_run *run, uint32_t index, uintptr_t low,
                                  uintptr_t high, const uint8_t *expected,
                                  const struct fh_call *call, const char *function)
{
    struct fh_guard_block block;
    describe(run, index, &block);
    const bool is_above = is_from_above(run, index, low, high);
    if (is_above)
        describe(run, index + 1, &block);
    const bool is_live = block.state == FH_BLOCK_LIVE;
    const struct fh_error error = {
        .kind = is_above  ? "heap-buffer-underflow"
                : is_live ? "heap-buffer-overflow"
                          : "heap-use-after-free",
        .address = low,
        .size = high - low,
        .access = FH_ACCESS_WRITE,
        .function = function,
        .call = call,
        .block = &block,
        .damage_low = low,
        .damage_high = high,
        .expected = expected,
        .detail = is_above  ? "the bytes before the block were overwritten"
                  : is_live ? "the bytes behind the block were overwritten"
                            : "the block was written to after it was freed",
    };
    fh_error(&error);
}

/* The canary of a live slot. */
static FH_COLD void report_canary(const struct fh_run *run, uint32_t index, uintptr_t low,
                                  uintptr_t high, const struct fh_call *call, const char *function)
{
    uint8_t expected[DAMAGE_SHOWN];
    fh_canary_tell(low, expected, sizeof expected);
    report_damage(run, index, low, high, expected, call, function);
}

/* ---- the fill of free slots ------------------------------------------------------------------ */

static uint64_t fill_of_freed(const struct slot *slot)
{
    return fh_guard_settings.is_filling ? FH_FILL_FREED(fh_site_stack(slot->free_site)) : 0;
}

static void fill_words(void *block, size_t size, uint64_t word)
{
    uint64_t *words = block;
    for (size_t i = 0; i < size / 8; i++)
        words[i] = word;
    memcpy((char *)block + size / 8 * 8, &word, size & 7);
}

/* Whether the first `size` bytes (a multiple of 16) are as the free left them; else where they are not. */
static bool is_untouched(const void *block, size_t size, uint64_t word, uintptr_t *low,
                         uintptr_t *high)
{
    typedef uint64_t pair __attribute__((vector_size(16), may_alias));
    const pair *pairs = block;
    pair difference = {0, 0};
    for (size_t i = 0; i < size / 16; i++)
        difference |= pairs[i] ^ word;
    if (FH_LIKELY((difference[0] | difference[1]) == 0))
        return true;
    const unsigned char *bytes = block, *expected = (const unsigned char *)&word;
    *low = 0;
    for (size_t i = 0; i < size; i++)
        if (bytes[i] != expected[i & 7]) {
            *low = *low != 0 ? *low : (uintptr_t)(bytes + i);
            *high = (uintptr_t)(bytes + i + 1);
        }
    return false;
}

/* Such an error, told: `word` is what the free had left there. */
static FH_COLD void report_touched(const struct fh_run *run, uint32_t index, uintptr_t low,
                                   uintptr_t high, uint64_t word)
{
    uint8_t expected[DAMAGE_SHOWN];
    for (size_t i = 0; i < sizeof expected; i++)
        expected[i] = (uint8_t)(word >> ((low + i) & 7) * 8);
    report_damage(run, index, low, high, expected, NULL, NULL);
}

/* ---- allocation ------------------------------------------------------------------------------ */

static size_t checked_bytes(const struct fh_run *run)
{
    return fh_guard_settings.is_filling ? run->block_size
                                        : fh_min(run->block_size, (uint32_t)CHECKED_MOST);
}

static void report_free(const char *kind, const struct fh_guard_block *block, const void *address,
                        size_t size, const struct fh_call *call, const char *function,
                        const char *detail);
static void *alloc_slot_again(struct fh_guard_thread *mine, size_t size, size_t align, unsigned how,
                              uint32_t site);

/* At least CANARY_LEAST bytes, the end at a multiple of 16. */
FH_INLINE void fill_canary(uintptr_t from, uintptr_t to)
{
    const uint64_t value = fh_canary_at(from), last = fh_canary_word;
    for (uintptr_t at = from; at + 8 <= to; at += 8)
        memcpy((void *)at, &value, 8);
    memcpy((void *)(to - 8), &last, 8);
}

FH_INLINE bool is_canary_whole(uintptr_t from, uintptr_t to)
{
    const uint64_t value = fh_canary_at(from);
    uint64_t found, difference;
    memcpy(&difference, (const void *)(to - 8), 8);
    difference ^= fh_canary_word;
    for (uintptr_t at = from; at + 8 <= to; at += 8) {
        memcpy(&found, (const void *)at, 8);
        difference |= found ^ value;
    }
    return difference == 0;
}

static struct slot live_slot(size_t slack, size_t align, unsigned how, uint32_t site)
{
    return (struct slot){
        .state = LIVE,
        .family = how & FH_HOW_FAMILY,
        .align_log = (align != 0 ? fh_log2(fh_max(align, 2)) : 0) & 15,
        .slack = slack & 0x7fff,
        .is_used = 1,
        .alloc_site = site & FH_SITES_MOST,
    };
}

/* A slot at hand that is free; NULL: no memory. */
FH_INLINE void *pick(struct fh_guard_thread *mine, unsigned class_index)
{
    struct fh_at_hand *hand = &mine->at_hand[class_index];
    if (FH_UNLIKELY(hand->count == 0) && !refill(mine, class_index))
        return NULL;
    const uint32_t at = hand->count - 1;
    void *block = hand->slots[at];
    hand->slots[at] = hand->slots[--hand->count];
    return block;
}

static FH_COLD void report_twice(const struct fh_run *run, uint32_t index)
{
    struct fh_guard_block block;
    describe(run, index, &block);
    report_free("double-free", &block, (const void *)block.address, 0, NULL, "free",
                "two threads freed the block at the same moment");
}

/* What was at hand, or in quarantine, is no slot of its class. */
static FH_COLD void report_stray(const void *address)
{
    const struct fh_error error = {
        .kind = "heap-corruption",
        .address = (uintptr_t)address,
        .function = "malloc",
        .detail = "the allocator's list of free slots was overwritten",
    };
    fh_error(&error);
}

/* `is_plain` is a constant where this is used: what the mode can't ask for is not there. */
FH_INLINE void *alloc_slot(struct fh_guard_thread *mine, unsigned class_index, size_t size,
                           size_t align, unsigned how, uint32_t site, bool is_plain)
{
    void *block = pick(mine, class_index);
    if (FH_UNLIKELY(block == NULL))
        return NULL;
    const struct fh_run *run = run_of(block);
    struct slab *slab = slab_of(run);
    const size_t offset = (uintptr_t)block - run->base;
    const uint32_t index = index_of(run, offset);
    if (FH_UNLIKELY(run->kind != FH_RUN_GUARDED || run->class_index != class_index ||
                    (size_t)index * run->block_size != offset || index >= slab->opened)) {
        report_stray(block);
        return alloc_slot_again(mine, size, align, how, site);
    }
    struct slot *slot = &slab->slots[index];
    const struct slot before = *slot;
    uintptr_t low = 0, high = 0;
    const bool is_filling = !is_plain && fh_guard_settings.is_filling;
    if (FH_UNLIKELY(before.state != FREE)) {
        report_twice(run, index);
        return alloc_slot_again(mine, size, align, how, site);
    }
    if (before.is_used && (is_plain || is_filling || fh_guard_settings.is_zeroing) &&
        FH_UNLIKELY(!is_untouched(block, is_plain ? run->block_size : checked_bytes(run),
                                  is_plain ? 0 : fill_of_freed(&before), &low, &high))) {
        report_touched(run, index, low, high, fill_of_freed(&before));
        memset(block, 0, run->block_size);
    }
    if (is_filling) {
        slot->state = CHANGING;
        atomic_thread_fence(memory_order_release); /* before the fill; pairs with inspect_slot */
    }
    if (!is_plain && (how & FH_HOW_ZEROED)) {
        if (is_filling || !fh_guard_settings.is_zeroing || run->block_size > CHECKED_MOST)
            memset(block, 0, size);
    } else if (is_filling) {
        fill_words(block, size, FH_FILL_NEW(fh_site_stack(site)));
    }
    fill_canary((uintptr_t)block + size, (uintptr_t)block + run->block_size);
    *slot = live_slot(run->block_size - size, !is_plain && (how & FH_HOW_ALIGNED) ? align : 0, how,
                      site);
    if (!is_plain && slab->notes != NULL)
        slab->notes[index] =
            (struct note){.alloc_thread = mine->tid, .alloc_time = now_short(mine)};
    mine->allocs[class_index]++;
    return block;
}

void *fh_slot_alloc(struct fh_guard_thread *mine, size_t size, size_t align, unsigned how,
                    uint32_t site)
{
    return alloc_slot(mine, class_for(size + CANARY_LEAST, align), size, align, how, site, false);
}

static FH_COLD void *alloc_slot_again(struct fh_guard_thread *mine, size_t size, size_t align,
                                      unsigned how, uint32_t site)
{
    return fh_slot_alloc(mine, size, align, how, site);
}

void *fh_slot_alloc_plain(struct fh_guard_thread *mine, size_t size, unsigned how, uint32_t site)
{
    return alloc_slot(mine, fh_class_of(size + CANARY_LEAST), size, 0, how, site, true);
}

/* ---- free -------------------------------------------------------------------------------------- */

static FH_COLD void report_free(const char *kind, const struct fh_guard_block *block,
                                const void *address, size_t size, const struct fh_call *call,
                                const char *function, const char *detail)
{
    const struct fh_error error = {
        .kind = kind,
        .address = (uintptr_t)address,
        .size = size,
        .function = function,
        .call = call,
        .block = block,
        .detail = detail,
    };
    fh_error(&error);
}

/* The name of what was called, for reports. */
const char *fh_free_name(unsigned how)
{
    if (how & FH_HOW_RESIZE)
        return "realloc";
    switch (how & FH_HOW_FAMILY) {
    case FH_HOW_NEW:
        return "operator delete";
    case FH_HOW_ARRAY:
        return "operator delete[]";
    default:
        return "free";
    }
}

/* Everything that can be wrong with a free; false: it was told, and nothing is to be done. `block`
 * is described when it is no slot. */
FH_COLD bool fh_free_is_wrong(const struct fh_guard_block *block, const void *address, size_t size,
                              size_t align, unsigned how, const struct fh_call *call)
{
    const char *function = fh_free_name(how);
    if (block->address != (uintptr_t)address) {
        report_free(block->state == FH_BLOCK_LIVE ? "interior-free" : "invalid-free", block,
                    address, 0, call, function, "the address is inside a block, not its beginning");
        return true;
    }
    if (block->state != FH_BLOCK_LIVE) {
        report_free(block->state == FH_BLOCK_FREED ? "double-free" : "invalid-free", block, address,
                    0, call, function,
                    block->state == FH_BLOCK_FREED ? "the block is free already"
                                                   : "the address was never a block");
        return true;
    }
    if ((how & FH_HOW_FAMILY) == FH_HOW_ANY)
        return false;
    if ((how & FH_HOW_FAMILY) != block->family) {
        report_free("alloc-dealloc-mismatch", block, address, 0, call, function, NULL);
        return true;
    }
    if ((how & FH_HOW_SIZED) && size != block->requested) {
        report_free("size-mismatch", block, address, size, call, function,
                    "the size given is not that of the block");
        return true;
    }
    if ((how & FH_HOW_FAMILY) != FH_HOW_MALLOC && (how & FH_HOW_ALIGNED) != 0 &&
        align != block->align) {
        report_free("size-mismatch", block, address, align, call, function,
                    "the alignment given is not that of the block");
        return true;
    }
    if ((how & FH_HOW_FAMILY) != FH_HOW_MALLOC && (how & FH_HOW_ALIGNED) == 0 &&
        block->align != 0) {
        report_free("alloc-dealloc-mismatch", block, address, 0, call, function,
                    "the block has an alignment of its own, which the operator was not told");
        return true;
    }
    return false;
}

FH_INLINE bool is_suspect(const struct fh_run *run, const struct slot *slot, size_t size,
                          unsigned how)
{
    if (slot->state != LIVE || (how & FH_HOW_FAMILY) != slot->family)
        return true;
    if ((how & FH_HOW_SIZED) && size != run->block_size - slot->slack)
        return true;
    return (how & FH_HOW_FAMILY) != FH_HOW_MALLOC &&
           ((how & FH_HOW_ALIGNED) != 0 || slot->align_log != 0);
}

void fh_slot_release(struct fh_guard_thread *mine, void *block, unsigned class_index)
{
    struct fh_at_hand *hand = &mine->at_hand[class_index];
    if (FH_UNLIKELY(hand->count == FH_AT_HAND))
        flush(hand, class_index);
    hand->slots[hand->count++] = block;
}

static FH_COLD void report_overflow(const struct fh_run *run, uint32_t index, unsigned how,
                                    const struct fh_call *call)
{
    const struct slot slot = slab_of(run)->slots[index];
    const uintptr_t end = (uintptr_t)slot_at(run, index) + run->block_size;
    uintptr_t low, high;
    if (!fh_canary_holds(end - slot.slack, end, &low, &high))
        report_canary(run, index, low, high, call, fh_free_name(how));
}

FH_INLINE void clear(void *block, size_t size)
{
    typedef uint64_t pair __attribute__((vector_size(16), may_alias));
    if (size > 256) {
        memset(block, 0, size);
        return;
    }
    char *end = (char *)block + size;
    do {
        end -= sizeof(pair);
        *(pair *)end = (pair){0, 0};
        __asm__("" : "+r"(end)); /* or the loop becomes a call of memset */
    } while (end != block);
}

FH_INLINE void free_slot(struct fh_guard_thread *mine, struct fh_run *run, void *block, size_t size,
                         size_t align, unsigned how, uint32_t site, const struct fh_call *call,
                         bool is_plain)
{
    struct slab *slab = slab_of(run);
    const size_t offset = (uintptr_t)block - run->base;
    const uint32_t index = index_of(run, offset);
    struct slot *slot = &slab->slots[index];
    if (FH_UNLIKELY(index >= slab->opened || (size_t)index * run->block_size != offset ||
                    is_suspect(run, slot, size, how))) {
        struct fh_guard_block described = {.address = (uintptr_t)block, .state = FH_BLOCK_NEVER};
        if (index < slab->opened)
            describe(run, index, &described);
        if (fh_free_is_wrong(&described, block, size, align, how, call))
            return;
    }
    const uintptr_t end = (uintptr_t)block + run->block_size;
    struct slot freed = *slot;
    if (FH_UNLIKELY(!is_canary_whole(end - freed.slack, end)))
        report_overflow(run, index, how, call);
    freed.state = is_plain ? FREE : CHANGING;
    freed.free_site = site & FH_SITES_MOST;
    *slot = freed;
    if (!is_plain && slab->notes != NULL) {
        slab->notes[index].free_thread = mine->tid;
        slab->notes[index].free_time = now_short(mine);
    }
    if (!is_plain && fh_guard_settings.is_filling)
        fill_words(block, run->block_size, fill_of_freed(slot));
    else if (is_plain || fh_guard_settings.is_zeroing)
        clear(block, run->block_size);
    mine->frees[run->class_index]++;
    if (!is_plain)
        mine->live -= (int64_t)(run->block_size - freed.slack);
    if (!is_plain && fh_guard_settings.is_sweeping) {
        slot->state =
            SWEPT; /* from here on a sweep may take it: nothing of it is touched any more */
        fh_sweep_count(mine, run->block_size);
        return;
    }
    if (!is_plain) {
        atomic_thread_fence(memory_order_release); /* the fill first; pairs with inspect_slot */
        slot->state = FREE;
    }
    fh_quarantine_put(mine, block, run->class_index);
}

void fh_slot_free(struct fh_guard_thread *mine, struct fh_run *run, void *block, size_t size,
                  size_t align, unsigned how, uint32_t site, const struct fh_call *call)
{
    free_slot(mine, run, block, size, align, how, site, call, false);
}

void fh_slot_free_plain(struct fh_guard_thread *mine, struct fh_run *run, void *block, unsigned how,
                        uint32_t site, const struct fh_call *call)
{
    free_slot(mine, run, block, 0, 0, how, site, call, true);
}

bool fh_slot_resize(struct fh_run *run, void *block, size_t size)
{
    const uint32_t index = index_of(run, (uintptr_t)block - run->base);
    struct slot *slot = &slab_of(run)->slots[index];
    const size_t old = run->block_size - slot->slack;
    if (size + CANARY_LEAST > run->block_size || size < run->block_size / 2)
        return false;
    if (size > old) /* what was canary must not tell the program its secret */
        memset((char *)block + old, 0, size - old);
    fh_canary_fill((uintptr_t)block + size, (uintptr_t)block + run->block_size);
    slot->slack = (run->block_size - size) & 0x7fff;
    return true;
}

/* ---- inspection ------------------------------------------------------------------------------ */

/* Lock held: the run stays. Other threads may be in the middle of an allocation or a free; what
 * they change meanwhile is looked at twice before it is told. */
static bool is_damaged(const struct fh_run *run, uint32_t index, struct slot slot, uintptr_t *low,
                       uintptr_t *high)
{
    const uintptr_t block = (uintptr_t)slot_at(run, index), end = block + run->block_size;
    if (slot.state == LIVE)
        return !fh_canary_holds(end - slot.slack, end, low, high);
    return slot.state == FREE && slot.is_used &&
           !is_untouched((void *)block, checked_bytes(run), fill_of_freed(&slot), low, high);
}

/* The slot's thread is not stopped. What is found is told only if the slot's word is the same after
 * the look, and then if a second look finds it too: in between the slot may have been freed and
 * handed out again, to the same word; but not twice just when it was looked at, for a freed slot
 * waits. */
static void inspect_slot(const struct fh_run *run, uint32_t index)
{
    volatile struct slot *slot = &slab_of(run)->slots[index];
    const struct slot before = *slot;
    const uintptr_t block = (uintptr_t)slot_at(run, index);
    uintptr_t low, high;
    atomic_thread_fence(memory_order_acquire); /* pairs with the release in fh_slot_free */
    if (!is_damaged(run, index, before, &low, &high))
        return;
    atomic_thread_fence(memory_order_seq_cst);
    const struct slot after = *slot;
    if (memcmp(&before, &after, sizeof before) != 0 || !is_damaged(run, index, before, &low, &high))
        return;
    if (before.state == LIVE) { /* told once: what was damaged is right again */
        report_canary(run, index, low, high, NULL, NULL);
        fh_canary_fill(low, high);
    } else {
        report_touched(run, index, low, high, fill_of_freed(&before));
        fill_words((void *)block, run->block_size, fill_of_freed(&before));
    }
}

static void inspect_run(const struct fh_run *run)
{
    for (uint32_t i = 0; i < slab_of(run)->opened; i++)
        inspect_slot(run, i);
}

/* Where the last inspection ended. */
static struct {
    struct fh_lock lock;
    unsigned class_index;
    uint32_t run; /* granule; FH_NO_RUN: the next class's first */
} inspection;

void fh_slots_inspect(unsigned runs)
{
    if (!fh_guard_settings.is_filling || !fh_lock_try(&inspection.lock))
        return;
    for (unsigned looked = 0, turns = 0; looked < runs && turns <= FH_CLASS_COUNT;) {
        struct slot_class *class = &classes[inspection.class_index];
        fh_lock_acquire(&class->lock);
        uint32_t index = class->all_first;
        /* The run may be gone: then from the class's beginning. */
        for (uint32_t i = index; i != FH_NO_RUN; i = fh_run_at(PAGES, i)->heap_next)
            if (i == inspection.run)
                index = i;
        if (index != FH_NO_RUN) {
            inspect_run(fh_run_at(PAGES, index));
            index = fh_run_at(PAGES, index)->heap_next;
            looked++;
        }
        inspection.run = index;
        if (index == FH_NO_RUN) {
            inspection.class_index = (inspection.class_index + 1) % FH_CLASS_COUNT;
            turns++;
        }
        fh_lock_release(&class->lock);
    }
    fh_lock_release(&inspection.lock);
}

/* A run's inspection takes microseconds; one in so many refills of a thread. */
static void inspect_some(struct fh_guard_thread *mine)
{
    if (fh_guard_settings.is_filling && (++mine->beat & 15) == 0)
        fh_slots_inspect(1);
}

/* ---- the sweep ------------------------------------------------------------------------------- */

/* Of up to 64 slots: which are in this state. */
static uint64_t bits_in_state(const struct slab *slab, uint32_t first, enum state state)
{
    const uint32_t count = (uint32_t)fh_min(slab->opened - first, 64);
    uint64_t bits = 0;
    for (uint32_t i = 0; i < count; i++)
        bits |= (uint64_t)(slab->slots[first + i].state == state) << i;
    return bits;
}

void fh_slots_list(struct fh_scan *scan)
{
    for (unsigned c = 1; c < FH_CLASS_COUNT; c++)
        for (uint32_t i = classes[c].all_first; i != FH_NO_RUN;
             i = fh_run_at(PAGES, i)->heap_next) {
            const struct fh_run *run = fh_run_at(PAGES, i);
            const struct slab *slab = slab_of(run);
            struct fh_scan_area *area =
                fh_scan_add(scan, run->base, run->block_size, run->capacity);
            for (uint32_t n = 0; area != NULL && n < slab->opened; n += 64)
                fh_scan_bits(area, n / 64, bits_in_state(slab, n, LIVE),
                             bits_in_state(slab, n, SWEPT));
        }
}

/* Lock held. Returns the bytes of the slots that are free now; the run may be gone then. */
static size_t release_swept(struct slot_class *class, struct fh_run *run,
                            const struct fh_scan *scan)
{
    struct slab *slab = slab_of(run);
    uint32_t count = 0;
    for (uint32_t n = 0; n < slab->opened; n++) {
        if (slab->slots[n].state != SWEPT ||
            (scan != NULL && !fh_scan_is_wanted(scan, (uintptr_t)slot_at(run, n))))
            continue;
        slab->slots[n].state = FREE;
        slab->free_bits[n / 64] |= (uint64_t)1 << (n & 63);
        count++;
    }
    const size_t bytes = (size_t)count * run->block_size;
    slab->free_count += count;
    if (count != 0 && !slab->is_listed)
        list_run(class, run);
    if (count != 0 && slab->free_count == slab->opened && class->runs > 1)
        give_run_back(class, run);
    return bytes;
}

size_t fh_slots_release_swept(const struct fh_scan *scan)
{
    size_t bytes = 0;
    for (unsigned c = 1; c < FH_CLASS_COUNT; c++) {
        fh_lock_acquire(&classes[c].lock);
        for (uint32_t i = classes[c].all_first; i != FH_NO_RUN;) {
            struct fh_run *run = fh_run_at(PAGES, i);
            i = run->heap_next;
            bytes += release_swept(&classes[c], run, scan);
        }
        fh_lock_release(&classes[c].lock);
    }
    return bytes;
}

/* ---- all of them ----------------------------------------------------------------------------- */

int fh_slots_walk(int (*visit)(void *context, const struct fh_guard_block *block), void *context,
                  bool is_all)
{
    int result = 0;
    for (unsigned c = 1; c < FH_CLASS_COUNT && result == 0; c++) {
        fh_lock_acquire(&classes[c].lock);
        for (uint32_t i = classes[c].all_first; i != FH_NO_RUN && result == 0;
             i = fh_run_at(PAGES, i)->heap_next) {
            const struct fh_run *run = fh_run_at(PAGES, i);
            for (uint32_t n = 0; n < slab_of(run)->opened && result == 0; n++) {
                struct fh_guard_block block;
                describe(run, n, &block);
                if (block.state == FH_BLOCK_LIVE || (is_all && block.state == FH_BLOCK_FREED))
                    result = visit(context, &block);
            }
        }
        fh_lock_release(&classes[c].lock);
    }
    return result;
}

int fh_slots_check(void)
{
    int broken = 0;
    for (unsigned c = 1; c < FH_CLASS_COUNT; c++) {
        fh_lock_acquire(&classes[c].lock);
        uint32_t runs = 0;
        for (uint32_t i = classes[c].all_first; i != FH_NO_RUN;
             i = fh_run_at(PAGES, i)->heap_next, runs++) {
            const struct fh_run *run = fh_run_at(PAGES, i);
            const struct slab *slab = slab_of(run);
            uint32_t free_count = 0;
            for (uint32_t n = 0; n < slab->opened; n++)
                if (slab->free_bits[n / 64] >> (n & 63) & 1) {
                    free_count++;
                    if (slab->slots[n].state != FREE) {
                        fh_broken("slot %u of run %u is in state %u and in its free bits", n, i,
                                  (unsigned)slab->slots[n].state);
                        broken++;
                    }
                }
            if (free_count != slab->free_count ||
                (slab->is_listed != (free_count > 0 || slab->opened < run->capacity))) {
                fh_broken("run %u has %u free slots, not %u, or is in the wrong list", i,
                          free_count, slab->free_count);
                broken++;
            }
        }
        if (runs != classes[c].runs) {
            fh_broken("class %u has %u runs, not %u", c, runs, classes[c].runs);
            broken++;
        }
        fh_lock_release(&classes[c].lock);
    }
    return broken;
}

void fh_slots_start(void)
{
    fh_locks_register(&inspection.lock,
                      FH_FLOOR_GUARD); /* first: it is held while classes are taken */
    for (unsigned c = 1; c < FH_CLASS_COUNT; c++)
        fh_locks_register(&classes[c].lock, FH_FLOOR_GUARD);
}
