/*
 * Fragmentation, measured from outside.
 *
 * A look is one walk: sums, the largest, the sum of squares, a histogram by powers of two. It uses what
 * measure says for what a walk can't see: metadata, footprint, peaks. Squares are added up as doubles: their
 * relative error (2^-53 a block) is far below what anybody prints.
 *
 * The account keeps {address, requested size, alignment} of each live block in a hash table with linear
 * probing over a ground of its own (Knuth, TAOCP 3, section 6.4, algorithms L and R). A slot is 16 bytes: the
 * address, and one word with the size in its lower 57 bits and the logarithm of the alignment above (32: the
 * caller said 0). An address of 0 is an empty slot. At two thirds full a table of twice the size is opened
 * beside it, filled, and the old one closed; in a buffer it can't grow. Removal moves later entries of the same
 * probe sequence back (R), so there are no tombstones and a table that breathes does not decay.
 *
 * Order in a call: the table makes room first, then the inner allocator acts, then the entry is written,
 * which can't fail; so a failing call has changed nothing.
 */
#include "freehold/fragmentation.h"

#include "base/core/adapter.h"
#include "base/core/bits.h"
#include "base/core/fail.h"
#include "base/core/misuse.h"
#include "base/core/plant.h"
#include "place/ground.h"

#define FIRST_SLOTS   ((size_t)4096) /* 64 KiB, one step of a ground */
#define SIZE_BITS     57u            /* no manager hands out 2^57 bytes */
#define SIZE_MASK     (((uint64_t)1 << SIZE_BITS) - 1)
#define ALIGN_NOT_SET 32u

/* ---- a look ------------------------------------------------------------------------------------ */

struct look {
    struct fh_fragmentation *out;
    double squares;
};

static int look_at(void *context, const struct fh_block *block)
{
    struct look *look = context;
    struct fh_fragmentation *out = look->out;
    if (block->is_live) {
        out->live_blocks++;
        out->usable_bytes += block->usable;
        return 0;
    }
    size_t bin = block->usable != 0 ? fh_min(fh_log2(block->usable), FH_FRAGMENTATION_BINS - 1) : 0;
    out->free_blocks++;
    out->free_bytes += block->usable;
    out->largest_free = fh_max(out->largest_free, block->usable);
    out->free_count[bin]++;
    out->free_sum[bin] += block->usable;
    look->squares += (double)block->usable * (double)block->usable;
    return 0;
}

/* By Newton's method, so that no libm is needed; x ≥ 0. Starts above the root and falls to it. */
static double square_root(double x)
{
    double root = x > 1 ? x : 1, before;
    do {
        before = root;
        root = (root + x / root) / 2;
    } while (root < before);
    return before;
}

static double share(size_t part, size_t whole)
{
    return whole != 0 ? (double)part / (double)whole : 0;
}

int fh_fragmentation_look(const struct fh_allocator *a, size_t requested,
                          struct fh_fragmentation *out)
{
    if (out->size != sizeof *out)
        return fh_error(FH_EINVAL);
    *out = (struct fh_fragmentation){.size = sizeof *out};
    struct look look = {.out = out};
    struct fh_measure measure = {.size = sizeof measure};
    int error = fh_allocator_measure(a, &measure);
    if (error != 0 || (error = fh_allocator_walk(a, look_at, &look)) != 0)
        return error;
    out->requested_bytes = requested;
    out->metadata = measure.metadata;
    out->footprint = measure.footprint;
    out->peak_footprint = measure.peak_footprint;
    out->internal =
        requested != 0 ? ((double)out->usable_bytes + (double)out->metadata) / (double)requested - 1
                       : 0;
    out->metadata_share = share(out->metadata, out->footprint);
    if (out->free_bytes != 0) {
        out->external = 1 - share(out->largest_free, out->free_bytes);
        out->scatter = 1 - square_root(look.squares) / (double)out->free_bytes;
    }
    return 0;
}

/* ---- the account's table ----------------------------------------------------------------------- */

struct entry {
    uintptr_t address;
    uint64_t what;
};

static struct entry *entries(const struct fh_account *account)
{
    return (struct entry *)(void *)account->table.base;
}

static uint64_t describe(size_t size, size_t align)
{
    uint64_t log = align != 0 ? fh_log2(align) : ALIGN_NOT_SET;
    return (size & SIZE_MASK) | log << SIZE_BITS;
}

static size_t size_of(const struct entry *entry)
{
    return (size_t)(entry->what & SIZE_MASK);
}

static size_t align_of(const struct entry *entry)
{
    uint64_t log = entry->what >> SIZE_BITS;
    return log == ALIGN_NOT_SET ? 0 : (size_t)1 << log;
}

/* Multiplication by 2^64 ÷ φ spreads addresses that differ in a few bits (Knuth, section 6.4). */
static size_t home_of(uintptr_t address, size_t slots)
{
    return (size_t)((uint64_t)address * 0x9e3779b97f4a7c15u >> 20) & (slots - 1);
}

/* The address's slot, or the empty one where it would go. */
static struct entry *find(const struct fh_account *account, uintptr_t address)
{
    struct entry *table = entries(account);
    size_t at = home_of(address, account->slots);
    while (table[at].address != 0 && table[at].address != address)
        at = (at + 1) & (account->slots - 1);
    return &table[at];
}

static void erase(struct fh_account *account, struct entry *entry)
{
    struct entry *table = entries(account);
    size_t mask = account->slots - 1, hole = (size_t)(entry - table);
    for (size_t at = (hole + 1) & mask; table[at].address != 0; at = (at + 1) & mask) {
        size_t home = home_of(table[at].address, account->slots);
        /* It may fill the hole unless its home lies behind the hole: then a search would miss it. */
        if (((at - home) & mask) >= ((at - hole) & mask)) {
            table[hole] = table[at];
            hole = at;
        }
    }
    table[hole] = (struct entry){0};
}

/* A table of `slots`, all empty. */
static int open_table(struct fh_account *account, size_t slots)
{
    struct fh_place_options options = account->table_options;
    if (options.memory == NULL)
        options.capacity = fh_align_up(slots * sizeof(struct entry), FH_GROUND_STEP);
    struct fh_ground ground;
    int error = fh_ground_open(&ground, &options, sizeof(struct entry), sizeof(struct entry));
    if (error != 0)
        return error;
    if (options.memory != NULL)
        slots = (size_t)1 << fh_log2(ground.bytes / sizeof(struct entry));
    else if (!fh_ground_grow(&ground, slots * sizeof(struct entry))) {
        fh_ground_close(&ground);
        return -FH_ENOMEM;
    }
    account->table = ground;
    account->slots = slots;
    __builtin_memset(ground.base, 0, slots * sizeof(struct entry));
    return 0;
}

/* Room for one more; false with ENOMEM. One slot is always empty, so searches end. */
static bool make_room(struct fh_account *account)
{
    if (account->live_blocks < account->slots - account->slots / 3)
        return true;
    if (account->table_options.memory != NULL) {
        if (account->live_blocks + 1 < account->slots)
            return true;
        fh_set_errno(FH_ENOMEM);
        return false;
    }
    struct fh_account old = *account;
    if (open_table(account, old.slots * 2) != 0)
        return false;
    for (size_t i = 0; i < old.slots; i++)
        if (entries(&old)[i].address != 0)
            *find(account, entries(&old)[i].address) = entries(&old)[i];
    fh_ground_close(&old.table);
    return true;
}

static void enter(struct fh_account *account, void *block, size_t size, size_t align)
{
    *find(account, (uintptr_t)block) = (struct entry){(uintptr_t)block, describe(size, align)};
    account->live_blocks++;
    account->live_requested += size;
    account->peak_requested = fh_max(account->peak_requested, account->live_requested);
    account->peak_blocks = fh_max(account->peak_blocks, account->live_blocks);
    account->requested += size;
}

static void leave(struct fh_account *account, struct entry *entry)
{
    account->live_blocks--;
    account->live_requested -= FH_PLANT(account_forgets_what_left, 0, size_of(entry));
    erase(account, entry);
}

/* ---- the account as an allocator --------------------------------------------------------------- */

static void *op_alloc(void *self, size_t size, size_t align, unsigned flags)
{
    struct fh_account *account = self;
    void *block = make_room(account) ? fh_alloc_with(&account->inner, size, align, flags) : NULL;
    if (block == NULL) {
        account->failures++;
        return NULL;
    }
    account->allocations++;
    enter(account, block, size, align);
    return block;
}

static bool op_resize_in_place(void *self, void *block, size_t old_size, size_t new_size)
{
    struct fh_account *account = self;
    struct entry *entry = find(account, (uintptr_t)block);
    size_t known = entry->address != 0 ? size_of(entry) : old_size;
    if (!fh_resize_in_place(&account->inner, block, known, new_size))
        return false;
    account->resizes++;
    if (entry->address == 0)
        return true;
    size_t align = align_of(entry);
    leave(account, entry);
    enter(account, block, new_size, align);
    return true;
}

static void *op_resize(void *self, void *block, size_t old_size, size_t new_size, size_t align)
{
    struct fh_account *account = self;
    struct entry *entry = block != NULL ? find(account, (uintptr_t)block) : NULL;
    bool is_known = entry != NULL && entry->address != 0;
    if (is_known)
        old_size = size_of(entry);
    size_t noted = align != 0 ? align : is_known ? align_of(entry) : 0;
    void *moved = make_room(account)
                      ? fh_resize_sized(&account->inner, block, old_size, new_size, align)
                      : NULL;
    if (moved == NULL) {
        account->failures++;
        return NULL;
    }
    if (is_known)
        leave(account, find(account, (uintptr_t)block)); /* making room may have moved the entry */
    if (block != NULL)
        account->resizes++;
    else
        account->allocations++;
    enter(account, moved, new_size, noted);
    return moved;
}

/* A block that is not in the account is the inner allocator's to complain about. */
static void op_free(void *self, void *block)
{
    struct fh_account *account = self;
    struct entry *entry = block != NULL ? find(account, (uintptr_t)block) : NULL;
    if (entry == NULL || entry->address == 0) {
        fh_free(&account->inner, block);
        return;
    }
    size_t size = size_of(entry), align = align_of(entry);
    leave(account, entry);
    account->frees++;
    fh_free_sized(&account->inner, block, size, align);
}

static void op_free_sized(void *self, void *block, size_t size, size_t align)
{
    struct fh_account *account = self;
    struct entry *entry = block != NULL ? find(account, (uintptr_t)block) : NULL;
    if (entry == NULL || entry->address == 0) {
        fh_free_sized(&account->inner, block, size, align);
    } else if (size_of(entry) != size) {
        fh_misuse("size-mismatch", block, "freed with another size than it was asked for");
    } else {
        op_free(self, block);
    }
}

static size_t op_usable_size(void *self, const void *block)
{
    struct fh_account *account = self;
    size_t usable = fh_allocator_usable_size(&account->inner, block);
    return usable != 0 ? usable : fh_account_requested(account, block);
}

static bool op_owns(void *self, const void *address)
{
    return fh_allocator_owns(&((struct fh_account *)self)->inner, address);
}

static void op_reset(void *self)
{
    struct fh_account *account = self;
    fh_allocator_reset(&account->inner);
    __builtin_memset(account->table.base, 0, account->slots * sizeof(struct entry));
    account->live_blocks = account->live_requested = 0;
}

static void op_destroy(void *self)
{
    fh_account_destroy(self);
}

static int op_measure(void *self, struct fh_measure *out)
{
    return fh_allocator_measure(&((struct fh_account *)self)->inner, out);
}

static int op_walk(void *self, int (*visit)(void *context, const struct fh_block *block),
                   void *context)
{
    return fh_allocator_walk(&((struct fh_account *)self)->inner, visit, context);
}

static int op_check(void *self)
{
    struct fh_account *account = self;
    size_t blocks = 0, bytes = 0;
    int broken = fh_allocator_check(&account->inner);
    for (size_t i = 0; i < account->slots; i++) {
        const struct entry *entry = &entries(account)[i];
        if (entry->address == 0)
            continue;
        blocks++;
        bytes += size_of(entry);
        if (find(account, entry->address) != entry) {
            fh_broken("account: the entry of %p can't be found", (const void *)entry->address);
            broken++;
        }
    }
    if (blocks != account->live_blocks || bytes != account->live_requested) {
        fh_broken("account: %zu blocks of %zu bytes counted, %zu of %zu in the table",
                  account->live_blocks, account->live_requested, blocks, bytes);
        broken++;
    }
    return broken;
}

int fh_account_init(struct fh_account *account, const struct fh_account_options *options)
{
    if (options == NULL || options->inner.ops == NULL)
        return fh_error(FH_EINVAL);
    *account = (struct fh_account){.inner = options->inner, .table_options = options->table};
    return open_table(account, FIRST_SLOTS);
}

static const struct fh_allocator_ops account_ops =
    FH_ADAPTER_OPS("account", FH_ALLOCATOR_MOVES, op_resize_in_place, op_usable_size);

struct fh_allocator fh_account_allocator(struct fh_account *account)
{
    return (struct fh_allocator){&account_ops, account};
}

int fh_account_look(struct fh_account *account, struct fh_fragmentation *out)
{
    int error = fh_fragmentation_look(&account->inner, account->live_requested, out);
    if (error != 0)
        return error;
    out->peak_requested = account->peak_requested;
    out->peak_ratio = share(out->peak_footprint, out->peak_requested);
    return 0;
}

size_t fh_account_requested(const struct fh_account *account, const void *block)
{
    return block != NULL ? size_of(find(account, (uintptr_t)block)) : 0;
}

void fh_account_destroy(struct fh_account *account)
{
    fh_allocator_destroy(&account->inner);
    fh_ground_close(&account->table);
    *account = (struct fh_account){0};
}

/* ---- the smallest arena, and the least possible ------------------------------------------------ */

int fh_minimum_capacity(fh_workload workload, void *context, size_t low, size_t high, size_t step,
                        size_t *out)
{
    if (step == 0 || low > high)
        return fh_error(FH_EINVAL);
    size_t fails = low / step, fits = high / step; /* in steps; `fails` may not have been tried */
    if (low % step != 0)
        fails++;
    if (fits < fails || !workload(context, fits * step))
        return fh_error(FH_ENOMEM);
    /* [fails, fits): not known, but for the upper end, which fits. */
    while (fails < fits) {
        size_t middle = fails + (fits - fails) / 2;
        if (workload(context, middle * step))
            fits = middle;
        else
            fails = middle + 1;
    }
    *out = fits * step;
    return 0;
}

size_t fh_robson_bound(size_t live, size_t largest, size_t unit)
{
    if (unit == 0 || largest < unit || live < largest)
        return 0;
    size_t n = largest / unit, m = live / unit;
    return (m + m * fh_log2(n) / 2 - n + 1) * unit;
}
