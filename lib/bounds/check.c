/*
 * What may be accessed from a pointer on.
 *
 * The question is the same for every wrapper: how many bytes from p on belong to the object that
 * holds p? There are three who know; the blocks and objects asked about lately are remembered:
 *
 *   the stack    p lies between this frame and the end of the thread's stack: the object ends where its
 *                function saved registers at the latest (stack/bound.c). Where the stack ends is remembered
 *                in thread-local memory. On other stacks (coroutines, alternate ones) nothing is asked:
 *                they lie in blocks or mappings.
 *   the guard    p lies in a block, live or freed (guard.h); the last live ones are remembered by each thread, with
 *                the word that tells whether they still are
 *   the modules  p lies in a static object of known size (stack/objects.c). What was asked lately is
 *                remembered, exact addresses only: programs pass the same literals and tables over and
 *                over. An entry is two words of which one is the exclusive or of both, so that half a
 *                change is not believed.
 *
 * A pointer into none of them may still begin a range that reaches into a block, when a program has
 * gone below the block's beginning: asked only for these.
 *
 * Nothing here locks, allocates, or changes errno, so wrappers can be called in signal handlers,
 * inside malloc and in the child of a fork. What is remembered may be out of date when a module was
 * closed; so before anything is reported the question is asked anew.
 */
#include "bounds/bounds.h"

#include "base/message.h"
#include "stack/module.h"
#include "stack/objects.h"
#include "stack/region.h"
#include "stack/stack.h"

enum {
    NULL_PAGE = 4096,
    REMEMBERED = 2048,
    DETAIL_BYTES = 320,
    BLOCKS = 64,        /* what a loop works on; 2 KiB a thread */
    BOUNDS = 8,         /* frames whose variables a loop hands over */
    BOUND_BYTES = 64,   /* neighbours share an answer */
    FOREIGN_SHIFT = 16, /* a stack that is not the thread's is recognised by its 64 KiB */
};

/* ---- the stack -------------------------------------------------------------------------------- */

/* A live block [low, high), while the guard's word is what it was; low = high: none. */
struct known_block {
    uintptr_t low, high;
    const uint32_t *word;
    uint32_t value;
};

static _Thread_local struct {
    struct fh_stack_region own; /* low = high = 0: not asked yet */
    uintptr_t foreign;          /* sp >> FOREIGN_SHIFT when last it was not on the thread's stack */
    uintptr_t asking;           /* frame of the wrapper that asks just now; 0: none does */
    struct fh_stack_bound bounds[BOUNDS]; /* the last answers, by the address */
    struct known_block blocks[BLOCKS];    /* the guard's */
} stack;

static FH_NOINLINE bool find_stack(uintptr_t sp)
{
    struct fh_stack_region region;
    if (stack.own.high != 0 || stack.foreign == sp >> FOREIGN_SHIFT)
        return false;
    if (!fh_stack_region_own(sp, &region)) {
        stack.foreign = sp >> FOREIGN_SHIFT;
        return false;
    }
    stack.own = region;
    return true;
}

/* Whether the address is in use on the stack that the wrapper runs on. */
static bool is_on_stack(uintptr_t sp, uintptr_t address)
{
    if (FH_UNLIKELY(sp - stack.own.low >= stack.own.high - stack.own.low) && !find_stack(sp))
        return false;
    return address - sp < stack.own.high - sp;
}

static uintptr_t find_end(struct fh_here here, uintptr_t address, struct fh_stack_bound *bound)
{
    const struct fh_stack_frame caller = {here.frame[1], (uintptr_t)(here.frame + 2),
                                          here.frame[0]};
    if (address < caller.sp || !fh_stack_object_bound(&caller, stack.own, address, bound))
        return 0;
    return bound->saved;
}

/* Whether the frame stands as it did: it is one that has not returned, or one of the same call.
 * (What another function has left there by chance may look like it; then the range that seems too
 * long is looked at anew before it is reported. A signal's handler may meet an answer that is half
 * written: any word of it is one of this stack's, or 0.) */
static bool is_standing(const struct fh_stack_bound *bound, uintptr_t sp)
{
    return bound->low >= sp && bound->cfa > bound->saved &&
           fh_stack_load(bound->cfa - 8) == bound->frame;
}

/* ---- blocks ----------------------------------------------------------------------------------- */

static struct known_block *known_block_of(uintptr_t address)
{
    return &stack.blocks[(address >> 4 ^ address >> 10) % BLOCKS];
}

static bool is_as_it_was(const struct known_block *block)
{
    /* The program's own frees come before in its own order (relaxed). */
    return __atomic_load_n(block->word, __ATOMIC_RELAXED) == block->value;
}

/* Empty while it changes: a signal's handler may look. */
static void remember_block(uintptr_t address, const struct fh_extent *extent)
{
    struct known_block *block = known_block_of(address);
    if (extent->word == NULL)
        return;
    block->high = block->low = 0;
    atomic_signal_fence(memory_order_seq_cst);
    block->word = extent->word;
    block->value = extent->value;
    block->low = extent->low;
    atomic_signal_fence(memory_order_seq_cst);
    block->high = extent->high;
}

/* ---- static objects --------------------------------------------------------------------------- */

static struct {
    _Atomic uintptr_t key; /* address ^ room */
    _Atomic size_t room;
} remembered[REMEMBERED];

static size_t find_static_room(uintptr_t address)
{
    struct fh_static_object object;
    struct fh_module_place module;
    if (fh_static_object_at(address, &object))
        return object.high - address;
    return fh_module_at(address, &module) ? FH_ROOM_UNBOUNDED : FH_ROOM_NOWHERE;
}

static size_t index_of(uintptr_t address)
{
    return (address ^ address >> 11) % REMEMBERED;
}

static bool recall_static_room(uintptr_t address, size_t *room)
{
    size_t index = index_of(address);
    uintptr_t key = atomic_load_explicit(&remembered[index].key, memory_order_relaxed);
    *room = atomic_load_explicit(&remembered[index].room, memory_order_relaxed);
    return (key ^ *room) == address;
}

static void remember_static_room(uintptr_t address, size_t room)
{
    size_t index = index_of(address);
    atomic_store_explicit(&remembered[index].key, address ^ room, memory_order_relaxed);
    atomic_store_explicit(&remembered[index].room, room, memory_order_relaxed);
}

/* ---- rooms ------------------------------------------------------------------------------------ */

/* Those who know of stacks and modules copy and compare memory too. Their calls come from below the
 * frame of the wrapper that asked; a frame that a longjmp has left behind is so forgotten by the
 * next call from above it. */
static bool begin_asking(struct fh_here here)
{
    if (FH_UNLIKELY((uintptr_t)here.frame < stack.asking))
        return false;
    stack.asking = (uintptr_t)here.frame;
    atomic_signal_fence(memory_order_seq_cst); /* a handler of this thread sees it */
    return true;
}

static void end_asking(void)
{
    atomic_signal_fence(memory_order_seq_cst);
    stack.asking = 0;
}

static FH_NOINLINE size_t stack_room(struct fh_here here, uintptr_t address)
{
    struct fh_stack_bound *bound = &stack.bounds[address / BOUND_BYTES % BOUNDS];
    if (address - bound->low < bound->saved - bound->low &&
        is_standing(bound, (uintptr_t)(here.frame + 2)))
        return bound->saved - address;
    if (!begin_asking(here))
        return FH_ROOM_UNBOUNDED;
    uintptr_t end = find_end(here, address, bound);
    if (end == 0)
        *bound = (struct fh_stack_bound){0};
    end_asking();
    return end != 0 ? end - address : FH_ROOM_UNBOUNDED;
}

/* Of an address in no block. */
static FH_NOINLINE size_t find_other_room(struct fh_here here, uintptr_t address)
{
    if (address < NULL_PAGE)
        return 0;
    if (!begin_asking(here))
        return FH_ROOM_UNBOUNDED;
    size_t room = find_static_room(address);
    end_asking();
    if (room != FH_ROOM_NOWHERE) /* a block may be there one day */
        remember_static_room(address, room);
    return room;
}

/* Of an address whose block is not remembered. That of a static object is no block's: the guard's
 * addresses are its own as long as the process lives. */
static size_t room_slow(struct fh_here here, const void *p)
{
    uintptr_t address = (uintptr_t)p;
    struct fh_extent extent;
    size_t room;
    if (is_on_stack((uintptr_t)here.frame, address))
        return stack_room(here, address);
    if (recall_static_room(address, &room))
        return room;
    if (!fh_guard_extent(p, &extent))
        return find_other_room(here, address);
    bool is_inside = address - extent.low < extent.high - extent.low;
    if (!extent.is_live || !is_inside)
        return 0;
    remember_block(address, &extent);
    return extent.high - address;
}

FH_INLINE size_t room_at(struct fh_here here, const void *p)
{
    uintptr_t address = (uintptr_t)p;
    const struct known_block *block = known_block_of(address);
    if (address - block->low < block->high - block->low && is_as_it_was(block))
        return block->high - address;
    return room_slow(here, p);
}

size_t fh_room(struct fh_here here, const void *p)
{
    return room_at(here, p);
}

/* ---- reports ---------------------------------------------------------------------------------- */

static void report_static(struct fh_error *error, uintptr_t address)
{
    struct fh_static_object object;
    char detail[DETAIL_BYTES], name[DETAIL_BYTES / 2];
    if (!fh_static_object_at(address, &object) || error->size <= object.high - address)
        return;
    if (!fh_static_object_name(name, sizeof(name), &object))
        fh_format(name, sizeof(name), "an object");
    fh_format(detail, sizeof(detail),
              "the range begins %zu bytes into %s, which is %zu bytes at %p",
              (size_t)(address - object.low), name, (size_t)(object.high - object.low),
              (const void *)object.low);
    error->kind = "global-buffer-overflow";
    error->address = object.high;
    error->detail = detail;
    fh_error(error);
}

static void report_stack(struct fh_error *error, struct fh_here here, uintptr_t address)
{
    char detail[DETAIL_BYTES];
    struct fh_stack_bound bound;
    uintptr_t end = find_end(here, address, &bound);
    if (end == 0 || error->size <= end - address)
        return;
    fh_format(detail, sizeof(detail),
              "the range begins at %p and goes on over the saved registers and the return address "
              "of that frame, %zu bytes above",
              (const void *)address, (size_t)(end - address));
    error->kind = "stack-buffer-overflow";
    error->address = end;
    error->detail = detail;
    fh_error(error);
}

static void report_block(struct fh_error *error, uintptr_t address, const struct fh_extent *extent)
{
    struct fh_guard_block block;
    bool is_inside = address - extent->low < extent->high - extent->low;
    if (extent->is_live && is_inside && error->size <= extent->high - address)
        return; /* what was remembered was wrong */
    error->address = address;
    if (!extent->is_live) {
        error->kind = "heap-use-after-free";
    } else if (address < extent->low) {
        error->kind = "heap-buffer-underflow";
    } else {
        error->kind = "heap-buffer-overflow";
        error->address =
            address > extent->high ? address : extent->high; /* the first that is wrong */
    }
    if (fh_guard_find((const void *)extent->low, &block) && block.address == extent->low)
        error->block = &block;
    fh_error(error);
}

void fh_check_failed(struct fh_here here, const void *p, size_t size, enum fh_access access)
{
    uintptr_t address = (uintptr_t)p;
    const struct fh_call call = {here.frame[1], (uintptr_t)(here.frame + 2), here.frame[0]};
    struct fh_extent extent;
    struct fh_error error = {.address = address,
                             .size = size,
                             .access = access,
                             .function = here.function,
                             .call = &call};
    if (fh_debug_is_own(call.pc))
        return;
    if (address < NULL_PAGE) {
        error.kind = "null-dereference";
        fh_error(&error);
    } else if (is_on_stack((uintptr_t)here.frame, address)) {
        report_stack(&error, here, address);
    } else if (fh_guard_extent(p, &extent) ||
               fh_guard_extent((const char *)p + (size - 1), &extent)) {
        report_block(&error, address, &extent);
    } else {
        report_static(&error, address);
    }
}

/* ---- questions -------------------------------------------------------------------------------- */

/* Of a range that begins in no block: whether it ends in one. */
static bool reaches_into_block(const void *p, size_t size)
{
    struct fh_extent extent;
    return fh_guard_extent((const char *)p + (size - 1), &extent) && extent.low > (uintptr_t)p;
}

static FH_NOINLINE void check_slow(struct fh_here here, const void *p, size_t size,
                                   enum fh_access access)
{
    size_t room = room_slow(here, p);
    if (FH_UNLIKELY(size > room) ||
        (FH_UNLIKELY(room == FH_ROOM_NOWHERE) && reaches_into_block(p, size)))
        fh_check_failed(here, p, size, access);
}

/* Most ranges lie in a block that is known: a dozen instructions. */
FH_INLINE void check(struct fh_here here, const void *p, size_t size, enum fh_access access)
{
    const struct known_block *block = known_block_of((uintptr_t)p);
    uintptr_t into = (uintptr_t)p - block->low, len = block->high - block->low;
    if (size == 0 || (into < len && size <= len - into && is_as_it_was(block)))
        return;
    check_slow(here, p, size, access);
}

void fh_check_read(struct fh_here here, const void *p, size_t size)
{
    check(here, p, size, FH_ACCESS_READ);
}

void fh_check_write(struct fh_here here, const void *p, size_t size)
{
    check(here, p, size, FH_ACCESS_WRITE);
}

size_t fh_check_until(struct fh_here here, const void *p, int byte, size_t max)
{
    if (max == 0)
        return 0;
    size_t room = fh_room(here, p), within = fh_min(room, max);
    if (!fh_is_known(room)) /* memchr reads no further than it has to, whatever max is */
        within = max;
    const char *found = fh_real.memchr(p, byte, within);
    if (found != NULL)
        return (size_t)(found - (const char *)p) + 1;
    if (max > room)
        fh_check_failed(here, p, room + 1, FH_ACCESS_READ);
    return max;
}

size_t fh_check_string(struct fh_here here, const char *s)
{
    size_t room = room_at(here, s);
    if (fh_is_known(room)) {
        size_t len = fh_real.strnlen(s, room);
        if (FH_LIKELY(len < room))
            return len;
        fh_check_failed(here, s, room + 1, FH_ACCESS_READ);
    }
    return fh_real.strlen(s);
}

size_t fh_check_string_n(struct fh_here here, const char *s, size_t max)
{
    size_t room = fh_room(here, s);
    size_t len = fh_real.strnlen(s, fh_min(max, room));
    if (FH_LIKELY(len < room) || len == max)
        return len;
    fh_check_failed(here, s, room + 1, FH_ACCESS_READ);
    return fh_real.strnlen(s, max);
}
