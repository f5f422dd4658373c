/*
 * A limit on live bytes (setting limit), and the report when the program wants more.
 *
 * What counts is what was requested and not yet freed, as guard.c accounts it thread by thread.
 * Threads that allocate at the same moment may each find room that only one of them has: then the
 * limit is passed by what they ask for.
 *
 * The report says who has the memory: the live blocks are walked once and added up by allocation
 * stack in a table of fixed size (open addressing; blocks whose stack finds no place are told as a
 * sum), then the biggest are picked one after the other. One report at a time, by a lock that is
 * only tried: whoever finds it held is refused without a report, as all are who come within a
 * second of the last one, or after the tenth. So a program that meets its limit a million times
 * goes on at its own speed.
 */
#include "base/lock.h"
#include "base/message.h"
#include "guard/pressure.h"
#include "heap/heap.h"
#include "os/sys.h"
#include "stack/stack.h"

enum {
    STACKS = 8192, /* 192 KiB that nobody touches before the first report */
    PROBES = 32,
    BIGGEST = 10,
    FRAMES = 16, /* of each, in the report */
    REPORTS = 10,
};
#define PAUSE_NS ((uint64_t)1000000000)

_Atomic int fh_pressure_oom;

struct holder {
    uint32_t stack;
    uint32_t is_used;
    size_t bytes, blocks;
};

static struct {
    struct fh_lock lock;
    unsigned told;
    uint64_t last_ns;
    struct holder holders[STACKS];
    struct holder all, unplaced;
} limit = {.lock = FH_LOCK_INIT};

bool fh_limit_is_passed(size_t size, size_t freed)
{
    size_t live = fh_guard_live(), most = fh_guard_settings.limit;
    live -= fh_min(freed, live);
    return live > most || size > most - live;
}

/* ---- Who has it ------------------------------------------------------------------------------ */

static struct holder *holder_of(uint32_t stack)
{
    size_t at = stack * 0x9e3779b1u >> 19;
    for (size_t i = 0; i < PROBES; i++) {
        struct holder *holder = &limit.holders[(at + i) % STACKS];
        if (!holder->is_used)
            *holder = (struct holder){.stack = stack, .is_used = 1};
        if (holder->stack == stack)
            return holder;
    }
    return &limit.unplaced;
}

static int add_block(void *context, const struct fh_guard_block *block)
{
    (void)context;
    if (block->state != FH_BLOCK_LIVE)
        return 0;
    struct holder *const sums[] = {holder_of(block->alloc_stack), &limit.all};
    for (size_t i = 0; i < FH_ARRAY_LEN(sums); i++) {
        sums[i]->bytes += block->requested;
        sums[i]->blocks++;
    }
    return 0;
}

/* The one with the most bytes, taken out. */
static struct holder take_biggest(void)
{
    struct holder *biggest = &limit.holders[0];
    for (size_t i = 1; i < STACKS; i++)
        if (limit.holders[i].bytes > biggest->bytes)
            biggest = &limit.holders[i];
    struct holder taken = *biggest;
    biggest->bytes = 0;
    return taken;
}

static void print_holders(void)
{
    for (size_t i = 0; i < STACKS; i++)
        limit.holders[i] = (struct holder){0};
    limit.all = limit.unplaced = (struct holder){0};
    fh_guard_walk(add_block, NULL);
    fh_message_raw("    the biggest sites of %zu bytes in %zu live blocks:\n", limit.all.bytes,
                   limit.all.blocks);
    for (size_t i = 0; i < BIGGEST; i++) {
        uintptr_t frames[FRAMES];
        struct holder holder = take_biggest();
        if (holder.bytes == 0)
            break;
        fh_message_raw("    %zu bytes in %zu blocks (%zu %%), allocated at\n", holder.bytes,
                       holder.blocks,
                       (size_t)((unsigned __int128)holder.bytes * 100 / limit.all.bytes));
        fh_stack_print(frames, fh_stack_frames(holder.stack, frames, FRAMES));
    }
    if (limit.unplaced.blocks != 0)
        fh_message_raw("    %zu bytes in %zu blocks of further sites\n", limit.unplaced.bytes,
                       limit.unplaced.blocks);
}

/* ---- The report ------------------------------------------------------------------------------ */

static bool is_time_for_report(void)
{
    uint64_t now = fh_os_now_ns();
    if (limit.told == REPORTS || (limit.told != 0 && now - limit.last_ns < PAUSE_NS))
        return false;
    limit.told++;
    limit.last_ns = now;
    return true;
}

static bool is_deadly(void)
{
    return atomic_load_explicit(&fh_pressure_oom, memory_order_relaxed) == FH_OOM_ABORT;
}

void fh_limit_tell(size_t size, const uintptr_t *frames, size_t n)
{
    if (!fh_lock_try(&limit.lock))
        return;
    if (is_time_for_report()) {
        fh_message("%s: out-of-memory: %zu bytes more than the limit of %zu allows (%zu are live)",
                   is_deadly() ? "ERROR" : "WARNING", size, fh_guard_settings.limit,
                   fh_guard_live());
        fh_stack_print(frames, n);
        print_holders();
        if (limit.told == REPORTS)
            fh_message("further allocations that pass the limit are not told");
    }
    fh_lock_release(&limit.lock);
    if (is_deadly())
        fh_error(&(struct fh_error){.kind = "out-of-memory",
                                    .size = size,
                                    .detail = "the limit is passed, and oom=abort is set"});
}
