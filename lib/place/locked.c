/*
 * Locks around an allocator: a mutex, or a mutex behind magazines of small blocks for each thread.
 *
 * Mutex. Every call takes the lock. The thread that holds it may call again (an `exhausted`
 * callback that frees, a visitor that asks for a size): `holder` names it, and only the thread
 * itself can find itself there.
 *
 * Magazines. Sizes up to `largest` belong to classes, a quarter apart at most; a thread keeps up to
 * KEPT free blocks of each class and serves allocations from them. A class that is empty gets half
 * a magazine in one go, under the lock. A free can't know its class without asking the inner
 * allocator, whose bookkeeping other threads may be changing; so it only writes the block down, and
 * when PENDING are written down one holding of the lock serves them all: the block's usable size is
 * asked for, and it goes into its class's magazine or back. A sized free knows its class and needs
 * no lock at all.
 *
 * So that each block with a class is large enough for it, whoever allocated it, small requests are
 * always rounded up to their class, in resize too; blocks with an alignment of their own, and
 * larger ones, go under the lock. A block of `usable` bytes goes into the largest class that it can
 * serve.
 *
 * A block in a magazine is live to the inner allocator; a second free of it shows when both lie in
 * one magazine, or when the inner allocator gets it twice.
 *
 * Under the lock: the inner allocator and the list of what threads have. What a thread has is its
 * own; others touch it when nobody else may call (reset, close) and in a forked child, where the
 * counts, written after the entries, tell the truth at any moment.
 */
#include "freehold/locked.h"

#include "base/core/adapter.h"
#include "base/core/bits.h"
#include "base/core/fail.h"
#include "base/core/misuse.h"
#include "base/core/plant.h"
#include "pages/pages.h"
#include "place/move.h"
#include "place/process.h"

enum {
    CLASSES = 20, /* 16 … 128 by 16, then four to a doubling, up to 1024 */
    CLASS_MOST = 1024,
    KEPT = 32, /* of a class: half of it is taken under one holding of the lock */
    PENDING = 32,
};

struct magazine {
    uint32_t count;
    void *blocks[KEPT];
};

/* What one thread has of one wrapper. */
struct mine {
    struct mine *next, **link;
    uintptr_t thread;
    uint32_t pending_count;
    void *pending[PENDING];
    struct magazine magazines[CLASSES];
};

/* Never freed, since metadata is not: kept for the next thread of any wrapper. */
static struct {
    struct fh_lock lock;
    struct mine *first;
} spare;

static unsigned class_of(size_t size)
{
    if (size <= 128)
        return size <= 16 ? 0 : (unsigned)((size - 1) / 16);
    unsigned shift = fh_log2(size - 1) - 2; /* the quarter that size - 1 is in */
    return 8 + 4 * (shift - 5) + (unsigned)((size - 1) >> shift) - 4;
}

static size_t class_size(unsigned index)
{
    if (index < 8)
        return 16 * (size_t)(index + 1);
    return (size_t)((index - 8) % 4 + 5) << ((index - 8) / 4 + 5);
}

/* ---- the lock -------------------------------------------------------------------------------- */

/* True when it was taken: the holder calls again without. */
static bool enter(struct fh_locked *locked)
{
    if (__atomic_load_n(&locked->holder, __ATOMIC_RELAXED) == fh_thread_id())
        return false;
    struct fh_lock *lock = fh_fork_lock_word(&locked->lock);
    if (!fh_lock_try(lock)) {
        fh_lock_acquire(lock);
        locked->contended++;
    }
    __atomic_store_n(&locked->holder, fh_thread_id(), __ATOMIC_RELAXED);
    return true;
}

static void leave(struct fh_locked *locked, bool was_taken)
{
    if (!was_taken)
        return;
    __atomic_store_n(&locked->holder, 0, __ATOMIC_RELAXED);
    fh_lock_release(fh_fork_lock_word(&locked->lock));
}

/* ---- magazines ------------------------------------------------------------------------------- */

static void give_inner(struct fh_locked *locked, void *block, size_t size)
{
    if (fh_allocator_can(&locked->inner, FH_ALLOCATOR_NEEDS_SIZE))
        fh_free_sized(&locked->inner, block, size, 0);
    else
        fh_free(&locked->inner, block);
}

/* Locked: the `count` oldest blocks of a class go back. */
static void drain_class(struct fh_locked *locked, struct mine *mine, unsigned index, uint32_t count)
{
    struct magazine *magazine = &mine->magazines[index];
    for (uint32_t i = 0; i < count; i++)
        give_inner(locked, magazine->blocks[i], class_size(index));
    magazine->count -= count;
    for (uint32_t i = 0; i < magazine->count; i++)
        magazine->blocks[i] = magazine->blocks[i + count];
}

/* Locked: one block of a class is kept, unless it is there already. */
static void keep(struct fh_locked *locked, struct mine *mine, unsigned index, void *block)
{
    struct magazine *magazine = &mine->magazines[index];
    for (uint32_t i = 0; i < magazine->count; i++)
        if (magazine->blocks[i] == block) {
            fh_misuse("double-free", block, "the block is free already");
            return;
        }
    if (magazine->count == KEPT)
        drain_class(locked, mine, index, KEPT / 2);
    magazine->blocks[magazine->count] = block;
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    magazine->count++;
}

/* Locked: what was written down is looked at. */
static void settle(struct fh_locked *locked, struct mine *mine)
{
    uint32_t count = mine->pending_count;
    mine->pending_count = 0;
    for (uint32_t i = 0; i < count; i++) {
        void *block = mine->pending[i];
        size_t usable = fh_allocator_usable_size(&locked->inner, block);
        unsigned index = usable >= 16 && usable <= CLASS_MOST ? class_of(usable) : CLASSES;
        if (index < CLASSES && FH_PLANT(magazines_round_up, false, class_size(index) > usable))
            index = index == 0 ? CLASSES : index - 1;
        if (index < CLASSES && class_size(index) <= locked->largest)
            keep(locked, mine, index, block);
        else if (usable != 0 || locked->inner.ops->usable_size == NULL)
            fh_free(&locked->inner, block);
        /* else: the inner allocator has reported it */
    }
}

/* Locked: all goes back; false when there was nothing. */
static bool drain_all(struct fh_locked *locked, struct mine *mine)
{
    uint32_t blocks = mine->pending_count;
    settle(locked, mine);
    for (unsigned index = 0; index < CLASSES; index++) {
        uint32_t count = mine->magazines[index].count;
        drain_class(locked, mine, index, count);
        blocks += count;
    }
    return blocks > 0;
}

/* Locked. */
static void retire(struct fh_locked *locked, struct mine *mine)
{
    *mine->link = mine->next;
    if (mine->next != NULL)
        mine->next->link = mine->link;
    (void)drain_all(locked, mine);
    fh_lock_acquire(&spare.lock);
    mine->next = spare.first;
    spare.first = mine;
    fh_lock_release(&spare.lock);
}

static void thread_ends(void *self, void *mine)
{
    struct fh_locked *locked = self;
    bool was_taken = enter(locked);
    retire(locked, mine);
    leave(locked, was_taken);
}

/* Nobody else is there. */
static void forked(void *self)
{
    struct fh_locked *locked = self;
    fh_lock_reset(&spare.lock);
    locked->holder = 0;
    bool was_taken = enter(locked);
    for (struct mine *mine = locked->threads, *next; mine != NULL; mine = next) {
        next = mine->next;
        if (mine->thread != fh_thread_id())
            retire(locked, mine);
    }
    leave(locked, was_taken);
}

static struct mine *find_mine(struct fh_locked *locked)
{
    struct mine *mine = fh_thread_mine(&locked->owner);
    if (mine != NULL || locked->kind != FH_LOCKED_MAGAZINES || !fh_thread_can_have(&locked->owner))
        return mine;
    fh_lock_acquire(&spare.lock);
    mine = spare.first;
    if (mine != NULL)
        spare.first = mine->next;
    fh_lock_release(&spare.lock);
    if (mine == NULL && (mine = fh_meta_alloc(sizeof *mine)) == NULL)
        return NULL;
    mine->thread = fh_thread_id();
    bool was_taken = enter(locked);
    mine->next = locked->threads;
    mine->link = (struct mine **)&locked->threads;
    if (mine->next != NULL)
        mine->next->link = &mine->next;
    locked->threads = mine;
    leave(locked, was_taken);
    fh_thread_set_mine(&locked->owner, mine);
    return mine;
}

/* The class is empty: settle, then take half a magazine. */
static void refill(struct fh_locked *locked, struct mine *mine, unsigned index, unsigned flags)
{
    struct magazine *magazine = &mine->magazines[index];
    bool was_taken = enter(locked);
    settle(locked, mine);
    while (magazine->count < KEPT / 2) {
        /* Only the first is worth growing or asking for. */
        unsigned how = magazine->count == 0 ? flags : flags | FH_ALLOC_NO_GROWTH;
        void *block = fh_alloc_with(&locked->inner, class_size(index), 0, how);
        if (block == NULL)
            break;
        magazine->blocks[magazine->count++] = block;
    }
    if (magazine->count == 0 && drain_all(locked, mine)) {
        void *block = fh_alloc_with(&locked->inner, class_size(index), 0, flags);
        if (block != NULL)
            magazine->blocks[magazine->count++] = block;
    }
    leave(locked, was_taken);
}

/* ---- the interface --------------------------------------------------------------------------- */

static bool has_class(const struct fh_locked *locked, size_t size)
{
    return locked->kind == FH_LOCKED_MAGAZINES && size <= locked->largest;
}

static bool is_small(const struct fh_locked *locked, size_t size, size_t align)
{
    return has_class(locked, size) && align <= FH_ALIGN_DEFAULT;
}

/* Asked of the inner allocator: whatever the alignment, since a resize does not know it. */
static size_t rounded(const struct fh_locked *locked, size_t size)
{
    return has_class(locked, size) ? class_size(class_of(size)) : size;
}

/* Of a block that is to be resized; 0 stays "you know". */
static size_t rounded_old(const struct fh_locked *locked, size_t size)
{
    return size == 0 ? 0 : rounded(locked, size);
}

static void *alloc_locked(struct fh_locked *locked, size_t size, size_t align, unsigned flags)
{
    struct mine *mine = find_mine(locked);
    bool was_taken = enter(locked);
    size_t whole = rounded(locked, size);
    void *block = fh_alloc_with(&locked->inner, whole, align, flags);
    if (block == NULL && mine != NULL && was_taken && drain_all(locked, mine))
        block = fh_alloc_with(&locked->inner, whole, align, flags);
    leave(locked, was_taken);
    return block;
}

static void *op_alloc(void *self, size_t size, size_t align, unsigned flags)
{
    struct fh_locked *locked = self;
    struct mine *mine = is_small(locked, size, align) && (align == 0 || fh_is_pow2(align))
                            ? find_mine(locked)
                            : NULL;
    if (mine == NULL)
        return alloc_locked(locked, size, align, flags);
    unsigned index = class_of(size);
    struct magazine *magazine = &mine->magazines[index];
    if (FH_UNLIKELY(magazine->count == 0)) {
        refill(locked, mine, index, flags & ~(unsigned)FH_ALLOC_ZEROED);
        if (magazine->count == 0)
            return fh_fail(FH_ENOMEM);
    }
    void *block = magazine->blocks[magazine->count - 1];
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    magazine->count--;
    if ((flags & FH_ALLOC_ZEROED) != 0)
        __builtin_memset(block, 0, FH_PLANT(magazines_zeroes_half, size / 2, size));
    return block;
}

static void op_free(void *self, void *block)
{
    struct fh_locked *locked = self;
    if (block == NULL)
        return;
    struct mine *mine = locked->ops.usable_size != NULL ? find_mine(locked) : NULL;
    if (mine == NULL) {
        bool was_taken = enter(locked);
        fh_free(&locked->inner, block);
        leave(locked, was_taken);
        return;
    }
    if (FH_UNLIKELY(mine->pending_count == PENDING)) {
        bool was_taken = enter(locked);
        settle(locked, mine);
        leave(locked, was_taken);
    }
    mine->pending[mine->pending_count] = block;
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    mine->pending_count++;
}

static void op_free_sized(void *self, void *block, size_t size, size_t align)
{
    struct fh_locked *locked = self;
    if (block == NULL)
        return;
    struct mine *mine = is_small(locked, size, align) ? find_mine(locked) : NULL;
    if (mine == NULL) {
        bool was_taken = enter(locked);
        /* A block out of a magazine may be larger than its class. */
        if (has_class(locked, size) && !fh_allocator_can(&locked->inner, FH_ALLOCATOR_NEEDS_SIZE))
            fh_free(&locked->inner, block);
        else
            fh_free_sized(&locked->inner, block, rounded(locked, size), align);
        leave(locked, was_taken);
        return;
    }
    struct magazine *magazine = &mine->magazines[class_of(size)];
    if (FH_UNLIKELY(magazine->count == KEPT ||
                    (magazine->count > 0 && magazine->blocks[magazine->count - 1] == block))) {
        bool was_taken = enter(locked);
        keep(locked, mine, class_of(size), block);
        leave(locked, was_taken);
        return;
    }
    magazine->blocks[magazine->count] = block;
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    magazine->count++;
}

static bool op_resize_in_place(void *self, void *block, size_t old_size, size_t new_size)
{
    struct fh_locked *locked = self;
    bool was_taken = enter(locked);
    bool is_done = fh_resize_in_place(&locked->inner, block, rounded_old(locked, old_size),
                                      rounded(locked, new_size));
    leave(locked, was_taken);
    return is_done;
}

static void *op_resize(void *self, void *block, size_t old_size, size_t new_size, size_t align)
{
    struct fh_locked *locked = self;
    if (block == NULL)
        return op_alloc(self, new_size, align, 0);
    size_t old = rounded_old(locked, old_size), size = rounded(locked, new_size);
    struct mine *mine = find_mine(locked);
    bool was_taken = enter(locked);
    void *moved = fh_resize_sized(&locked->inner, block, old, size, align);
    if (moved == NULL && mine != NULL && was_taken && drain_all(locked, mine))
        moved = fh_resize_sized(&locked->inner, block, old, size, align);
    leave(locked, was_taken);
    return moved;
}

static size_t op_usable_size(void *self, const void *block)
{
    struct fh_locked *locked = self;
    bool was_taken = enter(locked);
    size_t usable = fh_allocator_usable_size(&locked->inner, block);
    leave(locked, was_taken);
    return usable;
}

static bool op_owns(void *self, const void *address)
{
    struct fh_locked *locked = self;
    bool was_taken = enter(locked);
    bool is_owned = fh_allocator_owns(&locked->inner, address);
    leave(locked, was_taken);
    return is_owned;
}

/* Nobody else may call: all threads' magazines are forgotten with the blocks in them. */
static void op_reset(void *self)
{
    struct fh_locked *locked = self;
    bool was_taken = enter(locked);
    for (struct mine *mine = locked->threads; mine != NULL; mine = mine->next) {
        mine->pending_count = 0;
        for (unsigned index = 0; index < CLASSES; index++)
            mine->magazines[index].count = 0;
    }
    fh_allocator_reset(&locked->inner);
    leave(locked, was_taken);
}

static void op_destroy(void *self)
{
    struct fh_locked *locked = self;
    struct fh_allocator inner = locked->inner;
    op_reset(self);
    fh_locked_close(locked);
    fh_allocator_destroy(&inner);
}

void fh_locked_drain(struct fh_locked *locked)
{
    struct mine *mine = fh_thread_mine(&locked->owner);
    if (mine == NULL)
        return;
    bool was_taken = enter(locked);
    (void)drain_all(locked, mine);
    leave(locked, was_taken);
}

static int op_measure(void *self, struct fh_measure *out)
{
    struct fh_locked *locked = self;
    fh_locked_drain(locked);
    bool was_taken = enter(locked);
    int error = fh_allocator_measure(&locked->inner, out);
    leave(locked, was_taken);
    return error;
}

static int op_walk(void *self, int (*visit)(void *, const struct fh_block *), void *context)
{
    struct fh_locked *locked = self;
    fh_locked_drain(locked);
    bool was_taken = enter(locked);
    int result = fh_allocator_walk(&locked->inner, visit, context);
    leave(locked, was_taken);
    return result;
}

static int op_check(void *self)
{
    struct fh_locked *locked = self;
    fh_locked_drain(locked);
    bool was_taken = enter(locked);
    int broken = fh_allocator_check(&locked->inner);
    leave(locked, was_taken);
    return broken;
}

/* ---- opening --------------------------------------------------------------------------------- */

int fh_locked_init(struct fh_locked *locked, const struct fh_locked_options *options)
{
    if (options == NULL || options->inner.ops == NULL || options->kind > FH_LOCKED_MAGAZINES ||
        options->largest > CLASS_MOST)
        return fh_error(FH_EINVAL);
    *locked = (struct fh_locked){.inner = options->inner, .kind = options->kind};
    const struct fh_allocator_ops *inner = options->inner.ops;
    if (locked->kind == FH_LOCKED_MAGAZINES &&
        fh_allocator_can(&options->inner, FH_ALLOCATOR_ONE_SIZE))
        locked->kind = FH_LOCKED_MUTEX;
    bool has_magazines = locked->kind == FH_LOCKED_MAGAZINES;
    size_t largest = options->largest == 0 ? CLASS_MOST : fh_max(options->largest, 16);
    /* Down to a class: rounding up must not lead beyond it. */
    unsigned index = class_of(largest);
    locked->largest = class_size(index) <= largest ? class_size(index) : class_size(index - 1);
    unsigned lost =
        FH_ALLOCATOR_RELOCATABLE |
        (has_magazines ? FH_ALLOCATOR_SEES_DOUBLE_FREE | FH_ALLOCATOR_CONSTANT_TIME : 0);
    locked->ops = (struct fh_allocator_ops)FH_ADAPTER_OPS(
        has_magazines ? "magazines" : "locked",
        (inner->capabilities & ~lost) | FH_ALLOCATOR_THREAD_SAFE,
        inner->resize_in_place != NULL ? op_resize_in_place : NULL,
        inner->usable_size != NULL ? op_usable_size : NULL);
    locked->owner = (struct fh_thread_owner){.serial = UINT64_MAX,
                                             .index = FH_THREAD_OWNERS,
                                             .thread_ends = thread_ends,
                                             .self = locked};
    if (locked->kind == FH_LOCKED_NONE)
        return 0;
    fh_fork_lock_open(&locked->lock, forked, locked);
    if (has_magazines)
        fh_thread_owner_open(&locked->owner);
    return 0;
}

void fh_locked_close(struct fh_locked *locked)
{
    if (locked->kind == FH_LOCKED_MAGAZINES)
        fh_thread_owner_close(&locked->owner);
    bool was_taken = locked->kind != FH_LOCKED_NONE && enter(locked);
    while (locked->threads != NULL)
        retire(locked, locked->threads);
    leave(locked, was_taken);
    fh_fork_lock_close(&locked->lock);
    *locked = (struct fh_locked){0};
}

struct fh_allocator fh_locked_allocator(struct fh_locked *locked)
{
    if (locked->kind == FH_LOCKED_NONE)
        return locked->inner;
    return (struct fh_allocator){&locked->ops, locked};
}
