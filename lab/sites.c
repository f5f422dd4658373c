/*
 * One pass over a trace, from events to sites.
 *
 * What it keeps while it reads: a table from address to live block (open addressing, deletion by moving back,
 * Knuth volume 3, 6.4 R), for each stack id which frame of it is the program's, and for each pair of an
 * allocation's and a free's stack whether they meet in one call. Each event costs a lookup and some
 * additions; nothing is proportional to the number of sites.
 *
 * Live at the peak. The peak of the program's live bytes is known only at the end, and to note every site's
 * share at each new maximum would cost a walk over all of them. A site's share changes only with its
 * own events: so each new maximum begins an epoch, and a site whose live bytes are about to change
 * notes what they were, if it has not yet in this epoch. That note is what it had at the epoch's maximum.
 *
 * Which function freed. The stacks of an allocation and of a free *meet in one call* when, outside of
 * allocators and wrappers, the innermost frames are in the same function and all frames further out are equal.
 * That is necessary for "freed in the frame that allocated it", not sufficient: a loop may call the function again and
 * again from one place, and the second call may free what the first allocated. A trace has no frame addresses, so the
 * report says so.
 *
 * How many in one call. Freed by the call that allocated it is a whole list, too, that main builds and frees. So the live
 * blocks of each call of a site are counted: a call is a thread, the site's frame, and all frames outside of it,
 * known by a hash of 64 bits. Calls that can't be told apart count as one, so the number is never too small.
 *
 * An address handed out twice without a free in between, which only lost events explain, ends the older block there.
 */
#include "sites.h"

#include "funnels.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_FRAMES = 256, FIRST_TABLE = 1024 };

struct block {
    uint64_t address; /* 0: empty */
    uint64_t size, first, most, time_ns;
    uint64_t event; /* number of the allocation */
    uint64_t call;  /* key of the call that allocated it */
    uint64_t allocation;
    uint32_t site, stack, thread, slot;
    uint32_t grows;
    bool has_shrunk; /* by its last resize */
};

struct stack {
    bool is_known;
    uint32_t depth;
    uint64_t frame, function;
    uint64_t call; /* hash of the frame and all outside of it */
};

struct call {
    uint64_t key; /* 0: empty */
    uint64_t live;
};

/* A pair of stacks, and whether they meet in one call. */
struct meeting {
    uint64_t pair; /* allocation's << 32 | free's; 0: empty */
    bool is_one_call;
};

struct lab_sites_state {
    struct lab_names names;
    struct fh_trace *trace;
    struct block *blocks;
    size_t block_count, block_capacity;
    struct stack *stacks;
    size_t stack_capacity;
    struct meeting *meetings;
    size_t meeting_count, meeting_capacity;
    struct call *calls;
    size_t call_count, call_capacity;
    uint32_t *site_table; /* by frame; LAB_NO_SITE: empty */
    size_t site_table_capacity, site_capacity;
    size_t op_capacity, allocation_capacity;
    uint32_t *free_slots;
    size_t free_slot_count, free_slot_capacity;
    uint64_t epoch;
    size_t moment;
};

/* ---- Distributions ---- */

static unsigned bucket_of(uint64_t value)
{
    if (value < LAB_OCTAVE) {
        return (unsigned)value;
    }
    const unsigned log = 63U - (unsigned)__builtin_clzll(value);
    return LAB_OCTAVE * (log - 1) + (unsigned)((value >> (log - 2)) & (LAB_OCTAVE - 1));
}

/* The middle of what a bucket holds. */
static uint64_t value_of(unsigned bucket)
{
    if (bucket < 2 * LAB_OCTAVE) {
        return bucket < LAB_OCTAVE ? bucket : LAB_OCTAVE + bucket % LAB_OCTAVE;
    }
    const unsigned log = bucket / LAB_OCTAVE + 1;
    const uint64_t low = (uint64_t)(LAB_OCTAVE + bucket % LAB_OCTAVE) << (log - 2);
    return low + (((uint64_t)1 << (log - 2)) - 1) / 2;
}

void lab_distribution_add(struct lab_distribution *distribution, uint64_t value)
{
    distribution->buckets[bucket_of(value)]++;
    if (distribution->total == 0 || value < distribution->least) {
        distribution->least = value;
    }
    distribution->most = value > distribution->most ? value : distribution->most;
    distribution->total++;
}

uint64_t lab_distribution_quantile(const struct lab_distribution *distribution, double share)
{
    const double wanted = share * (double)distribution->total;
    uint64_t seen = 0;
    for (unsigned i = 0; i < LAB_BUCKETS; i++) {
        seen += distribution->buckets[i];
        if (distribution->buckets[i] > 0 && (double)seen >= wanted) {
            const uint64_t value = value_of(i);
            return value < distribution->least  ? distribution->least
                   : value > distribution->most ? distribution->most
                                                : value;
        }
    }
    return 0;
}

/* ---- Arrays and tables ---- */

/* Room for `count` + 1 elements; false without memory. */
static bool make_room(void *array, size_t count, size_t *capacity, size_t size)
{
    if (count < *capacity) {
        return true;
    }
    void **at = array;
    const size_t wanted = *capacity == 0 ? FIRST_TABLE : 2 * *capacity;
    void *larger = reallocarray(*at, wanted, size);
    if (larger == NULL) {
        return false;
    }
    *at = larger;
    *capacity = wanted;
    return true;
}

static size_t spread(uint64_t key)
{
    key *= 0x9e3779b97f4a7c15U;
    return (size_t)(key ^ (key >> 32));
}

/* Where the address is, or would be. */
static size_t block_at(const struct block *blocks, size_t capacity, uint64_t address)
{
    size_t i = spread(address) & (capacity - 1);
    while (blocks[i].address != 0 && blocks[i].address != address) {
        i = (i + 1) & (capacity - 1);
    }
    return i;
}

static bool make_block_room(struct lab_sites_state *state)
{
    if (2 * (state->block_count + 1) <= state->block_capacity) {
        return true;
    }
    const size_t capacity = state->block_capacity == 0 ? FIRST_TABLE : 2 * state->block_capacity;
    struct block *blocks = calloc(capacity, sizeof(*blocks));
    if (blocks == NULL) {
        return false;
    }
    for (size_t i = 0; i < state->block_capacity; i++) {
        if (state->blocks[i].address != 0) {
            blocks[block_at(blocks, capacity, state->blocks[i].address)] = state->blocks[i];
        }
    }
    free(state->blocks);
    state->blocks = blocks;
    state->block_capacity = capacity;
    return true;
}

/* NULL: no live block is there. */
static struct block *find_block(struct lab_sites_state *state, uint64_t address)
{
    if (state->block_capacity == 0 || address == 0) {
        return NULL;
    }
    struct block *block = &state->blocks[block_at(state->blocks, state->block_capacity, address)];
    return block->address != 0 ? block : NULL;
}

/* Blocks behind it that would not be found across the gap move into it. */
static void remove_block(struct lab_sites_state *state, struct block *block)
{
    const size_t mask = state->block_capacity - 1;
    size_t gap = (size_t)(block - state->blocks);
    for (size_t i = (gap + 1) & mask; state->blocks[i].address != 0; i = (i + 1) & mask) {
        const size_t home = spread(state->blocks[i].address) & mask;
        if (((i - home) & mask) >= ((i - gap) & mask)) {
            state->blocks[gap] = state->blocks[i];
            gap = i;
        }
    }
    state->blocks[gap].address = 0;
    state->block_count--;
}

/* ---- Stacks ---- */

static size_t frames_of(const struct lab_sites_state *state, uint32_t id,
                        uint64_t frames[MOST_FRAMES])
{
    const size_t count = state->trace != NULL && id != 0
                             ? fh_trace_frames(state->trace, id, frames, MOST_FRAMES)
                             : 0;
    return count < MOST_FRAMES ? count : MOST_FRAMES;
}

static bool is_wrapper(const struct lab_names *names, uint64_t frame, uint64_t time_ns)
{
    return names->is_wrapper(names->context, frame, time_ns) ||
           (names->funnels != NULL &&
            lab_funnels_has(names->funnels, names->function_of(names->context, frame, time_ns)));
}

/* NULL without memory. */
static const struct stack *stack_of(struct lab_sites_state *state, uint32_t id, uint64_t time_ns)
{
    while (id >= state->stack_capacity) {
        const size_t before = state->stack_capacity;
        if (!make_room(&state->stacks, before, &state->stack_capacity, sizeof(struct stack))) {
            return NULL;
        }
        memset(state->stacks + before, 0, (state->stack_capacity - before) * sizeof(struct stack));
    }
    struct stack *stack = &state->stacks[id];
    if (stack->is_known) {
        return stack;
    }
    uint64_t frames[MOST_FRAMES];
    const struct lab_names *names = &state->names;
    const size_t count = frames_of(state, id, frames);
    size_t depth = 0;
    while (depth < count && is_wrapper(names, frames[depth], time_ns)) {
        depth++;
    }
    depth = depth < count ? depth : 0; /* wrappers all the way: then the first of them */
    stack->is_known = true;
    stack->depth = (uint32_t)depth;
    stack->frame = count > 0 ? frames[depth] : 0;
    stack->function = count > 0 ? names->function_of(names->context, frames[depth], time_ns) : 0;
    for (size_t i = depth; i < count; i++) {
        stack->call = spread(stack->call + frames[i]);
    }
    return stack;
}

static bool meet_in_one_call(struct lab_sites_state *state, uint32_t one, uint32_t other)
{
    uint64_t a[MOST_FRAMES];
    uint64_t b[MOST_FRAMES];
    const struct stack *of_one = &state->stacks[one];
    const struct stack *of_other = &state->stacks[other];
    if (of_one->function == 0 || of_one->function != of_other->function) {
        return false;
    }
    const size_t a_count = frames_of(state, one, a);
    const size_t b_count = frames_of(state, other, b);
    const size_t outer = a_count - of_one->depth - 1;
    return outer == b_count - of_other->depth - 1 &&
           memcmp(a + of_one->depth + 1, b + of_other->depth + 1, outer * sizeof(a[0])) == 0;
}

static struct meeting *meeting_at(struct meeting *meetings, size_t capacity, uint64_t pair)
{
    size_t i = spread(pair) & (capacity - 1);
    while (meetings[i].pair != 0 && meetings[i].pair != pair) {
        i = (i + 1) & (capacity - 1);
    }
    return &meetings[i];
}

/* Both stacks are known ones. *is_one_call is false without memory, too. */
static bool look_up_meeting(struct lab_sites_state *state, uint32_t one, uint32_t other,
                            bool *is_one_call)
{
    const uint64_t pair = (uint64_t)one << 32 | other;
    *is_one_call = false;
    if (one == 0 || other == 0) {
        return true;
    }
    if (2 * (state->meeting_count + 1) > state->meeting_capacity) {
        const size_t capacity =
            state->meeting_capacity == 0 ? FIRST_TABLE : 2 * state->meeting_capacity;
        struct meeting *meetings = calloc(capacity, sizeof(*meetings));
        if (meetings == NULL) {
            return false;
        }
        for (size_t i = 0; i < state->meeting_capacity; i++) {
            if (state->meetings[i].pair != 0) {
                *meeting_at(meetings, capacity, state->meetings[i].pair) = state->meetings[i];
            }
        }
        free(state->meetings);
        state->meetings = meetings;
        state->meeting_capacity = capacity;
    }
    struct meeting *meeting = meeting_at(state->meetings, state->meeting_capacity, pair);
    if (meeting->pair == 0) {
        *meeting = (struct meeting){pair, meet_in_one_call(state, one, other)};
        state->meeting_count++;
    }
    *is_one_call = meeting->is_one_call;
    return true;
}

static struct call *call_at(struct call *calls, size_t capacity, uint64_t key)
{
    size_t i = spread(key) & (capacity - 1);
    while (calls[i].key != 0 && calls[i].key != key) {
        i = (i + 1) & (capacity - 1);
    }
    return &calls[i];
}

/* The call that allocates by a known stack, added when it is new; NULL without memory. */
static struct call *call_of(struct lab_sites_state *state, uint32_t stack, uint32_t thread)
{
    const uint64_t key = spread(state->stacks[stack].call + thread) | 1;
    if (2 * (state->call_count + 1) > state->call_capacity) {
        const size_t capacity = state->call_capacity == 0 ? FIRST_TABLE : 2 * state->call_capacity;
        struct call *calls = calloc(capacity, sizeof(*calls));
        if (calls == NULL) {
            return NULL;
        }
        for (size_t i = 0; i < state->call_capacity; i++) {
            if (state->calls[i].key != 0) {
                *call_at(calls, capacity, state->calls[i].key) = state->calls[i];
            }
        }
        free(state->calls);
        state->calls = calls;
        state->call_capacity = capacity;
    }
    struct call *call = call_at(state->calls, state->call_capacity, key);
    state->call_count += call->key == 0;
    call->key = key;
    return call;
}

/* ---- Sites ---- */

static uint32_t *site_slot(uint32_t *table, size_t capacity, const struct lab_site *sites,
                           uint64_t frame)
{
    size_t i = spread(frame) & (capacity - 1);
    while (table[i] != LAB_NO_SITE && sites[table[i]].frame != frame) {
        i = (i + 1) & (capacity - 1);
    }
    return &table[i];
}

static bool make_site_room(struct lab_sites *sites)
{
    struct lab_sites_state *state = sites->state;
    if (!make_room(&sites->site, sites->count, &state->site_capacity, sizeof(struct lab_site))) {
        return false;
    }
    if (2 * (sites->count + 1) <= state->site_table_capacity) {
        return true;
    }
    const size_t capacity =
        state->site_table_capacity == 0 ? FIRST_TABLE : 2 * state->site_table_capacity;
    uint32_t *table = malloc(capacity * sizeof(*table));
    if (table == NULL) {
        return false;
    }
    memset(table, 0xff, capacity * sizeof(*table));
    for (size_t i = 0; i < sites->count; i++) {
        *site_slot(table, capacity, sites->site, sites->site[i].frame) = (uint32_t)i;
    }
    free(state->site_table);
    state->site_table = table;
    state->site_table_capacity = capacity;
    return true;
}

/* LAB_NO_SITE without memory. */
static uint32_t site_of(struct lab_sites *sites, const struct fh_trace_event *event)
{
    struct lab_sites_state *state = sites->state;
    const struct stack *stack = stack_of(state, event->stack, event->time_ns);
    if (stack == NULL || !make_site_room(sites)) {
        return LAB_NO_SITE;
    }
    uint32_t *slot =
        site_slot(state->site_table, state->site_table_capacity, sites->site, stack->frame);
    if (*slot == LAB_NO_SITE) {
        struct lab_site *site = &sites->site[sites->count];
        memset(site, 0, sizeof(*site));
        site->frame = stack->frame;
        site->time_ns = event->time_ns;
        site->stack = event->stack;
        site->depth = stack->depth;
        site->smallest = UINT64_MAX;
        *slot = (uint32_t)sites->count++;
    }
    return *slot;
}

static void note_peak(struct lab_site *site, uint64_t epoch)
{
    if (site->epoch != epoch) {
        site->epoch = epoch;
        site->peak_blocks = site->live_blocks;
        site->peak_bytes = site->live_bytes;
    }
}

/* Moments that time has passed begin with what is live. */
static void pass_time(struct lab_sites *sites, uint64_t time_ns)
{
    const uint64_t span = sites->end_ns > sites->begin_ns ? sites->end_ns - sites->begin_ns : 1;
    const uint64_t since = time_ns > sites->begin_ns ? time_ns - sites->begin_ns : 0;
    const size_t moment = (size_t)((double)since / (double)span * LAB_MOMENTS);
    while (sites->state->moment < moment && sites->state->moment < LAB_MOMENTS - 1) {
        sites->live_at[++sites->state->moment] = sites->totals.live_bytes;
    }
}

static void note_live(struct lab_sites *sites, uint64_t time_ns)
{
    struct lab_totals *totals = &sites->totals;
    uint64_t *most = &sites->live_at[sites->state->moment];
    *most = totals->live_bytes > *most ? totals->live_bytes : *most;
    if (totals->live_bytes > totals->peak_bytes) {
        totals->peak_bytes = totals->live_bytes;
        totals->peak_blocks = totals->live_blocks;
        totals->peak_ns = time_ns;
        sites->peak_op = sites->op_count - 1;
        sites->state->epoch++;
    }
}

static void count_size(struct lab_site *site, uint64_t size)
{
    lab_distribution_add(&site->sizes, size);
    site->smallest = size < site->smallest ? size : site->smallest;
    site->largest = size > site->largest ? size : site->largest;
    /* The rarest gives way to a new size and leaves it its count (Metwally, Agrawal and El Abbadi 2005): a
     * size of more than an eighth of the blocks is always there. */
    struct lab_common_size *rarest = &site->common[0];
    for (size_t i = 0; i < LAB_COMMON; i++) {
        struct lab_common_size *common = &site->common[i];
        if (common->count > 0 && common->size == size) {
            common->count++;
            return;
        }
        rarest = common->count < rarest->count ? common : rarest;
    }
    rarest->size = size;
    rarest->count++;
}

/* ---- Events ---- */

static bool add_op(struct lab_sites *sites, const struct fh_trace_event *event,
                   enum lab_op_kind kind, uint32_t slot)
{
    if (!make_room(&sites->ops, sites->op_count, &sites->state->op_capacity,
                   sizeof(struct lab_op))) {
        return false;
    }
    const uint32_t align = event->align > 16 ? event->align : 0;
    const unsigned log = align > 0 ? 31U - (unsigned)__builtin_clz(align) : 0;
    sites->ops[sites->op_count++] = (struct lab_op){
        .size = event->size,
        .slot = slot,
        .kind = (uint8_t)kind,
        .alignment = (uint8_t)(log | ((event->flags & FH_TRACE_ZEROED) != 0 ? LAB_ZEROED : 0))};
    return true;
}

static uint32_t take_slot(struct lab_sites *sites)
{
    struct lab_sites_state *state = sites->state;
    return state->free_slot_count > 0 ? state->free_slots[--state->free_slot_count]
                                      : sites->slots++;
}

/* How its sizes ended. */
static void note_end(struct lab_site *site, const struct block *block)
{
    if (block->grows > 0) {
        lab_distribution_add(&site->first_of_grown, block->first);
        lab_distribution_add(&site->last_of_grown, block->size);
    }
    if (block->has_shrunk && block->size < block->most / 4 * 3) {
        site->shrunk_blocks++;
        site->shrunk_bytes += block->most - block->size;
        lab_distribution_add(&site->last_of_shrunk, block->size);
    }
}

static int end_block(struct lab_sites *sites, const struct fh_trace_event *event,
                     struct block *block)
{
    struct lab_sites_state *state = sites->state;
    struct lab_site *site = &sites->site[block->site];
    if (!make_room(&state->free_slots, state->free_slot_count, &state->free_slot_capacity,
                   sizeof(uint32_t)) ||
        !add_op(sites, event, LAB_FREE, block->slot)) {
        return -ENOMEM;
    }
    sites->ops[sites->op_count - 1].size = block->size;
    state->free_slots[state->free_slot_count++] = block->slot;
    note_peak(site, state->epoch);
    site->frees++;
    site->live_blocks--;
    site->live_bytes -= block->size;
    sites->totals.frees++;
    sites->totals.live_blocks--;
    sites->totals.live_bytes -= block->size;
    lab_distribution_add(&site->lifetimes_ns,
                         event->time_ns > block->time_ns ? event->time_ns - block->time_ns : 0);
    lab_distribution_add(&site->lifetimes_events, sites->totals.allocations - block->event);
    note_end(site, block);
    call_at(state->calls, state->call_capacity, block->call)->live--;
    site->is_freeing = true;
    if (site->live_blocks == 0) {
        if (site->group >= LAB_DIE_TOGETHER) {
            site->groups++;
            site->grouped_blocks += site->group;
        }
        site->group = 0;
        site->is_freeing = false;
    }
    remove_block(state, block);
    return 0;
}

/* What only a free can tell: by whom. */
static int judge_free(struct lab_sites *sites, const struct fh_trace_event *event,
                      const struct block *block)
{
    struct lab_sites_state *state = sites->state;
    struct lab_site *site = &sites->site[block->site];
    const struct stack *stack = stack_of(state, event->stack, event->time_ns);
    bool is_one_call;
    if (stack == NULL || !look_up_meeting(state, block->stack, event->stack, &is_one_call)) {
        return -ENOMEM;
    }
    site->remote_frees += event->thread != block->thread;
    site->in_frame += is_one_call && event->thread == block->thread;
    if (site->free_votes == 0) {
        site->free_function = stack->function;
    }
    site->free_votes += site->free_function == stack->function ? 1U : UINT64_MAX;
    return 0;
}

static int begin_block(struct lab_sites *sites, const struct fh_trace_event *event)
{
    struct lab_sites_state *state = sites->state;
    struct block *older = find_block(state, event->address);
    if (older != NULL) {
        const int error = end_block(sites, event, older);
        if (error != 0) {
            return error;
        }
    }
    const uint32_t number = site_of(sites, event);
    if (number == LAB_NO_SITE || !make_block_room(state) ||
        !make_room(&sites->allocations, sites->allocation_count, &state->allocation_capacity,
                   sizeof(struct lab_allocation))) {
        return -ENOMEM;
    }
    struct call *call = call_of(state, event->stack, event->thread);
    const uint32_t slot = take_slot(sites);
    if (call == NULL || !add_op(sites, event, LAB_ALLOC, slot)) {
        return -ENOMEM;
    }
    struct lab_site *site = &sites->site[number];
    call->live++;
    site->most_in_call = call->live > site->most_in_call ? call->live : site->most_in_call;
    note_peak(site, state->epoch);
    site->count++;
    site->bytes += event->size;
    site->live_blocks++;
    site->live_bytes += event->size;
    site->most_blocks =
        site->live_blocks > site->most_blocks ? site->live_blocks : site->most_blocks;
    site->zeroed += (event->flags & FH_TRACE_ZEROED) != 0;
    site->mixed += site->is_freeing;
    site->group++;
    count_size(site, event->size);
    sites->totals.allocations++;
    sites->totals.bytes += event->size;
    sites->totals.live_blocks++;
    sites->totals.live_bytes += event->size;
    state->blocks[block_at(state->blocks, state->block_capacity, event->address)] =
        (struct block){.address = event->address,
                       .size = event->size,
                       .first = event->size,
                       .most = event->size,
                       .time_ns = event->time_ns,
                       .event = sites->totals.allocations,
                       .call = call->key,
                       .allocation = sites->allocation_count,
                       .site = number,
                       .stack = event->stack,
                       .thread = event->thread,
                       .slot = slot};
    state->block_count++;
    sites->allocations[sites->allocation_count++] =
        (struct lab_allocation){event->size, event->size, number};
    note_live(sites, event->time_ns);
    return 0;
}

static int resize_block(struct lab_sites *sites, const struct fh_trace_event *event)
{
    struct lab_sites_state *state = sites->state;
    struct block *block = find_block(state, event->old_address);
    if (block == NULL) {
        sites->totals.unknown += event->old_address != 0;
        return begin_block(sites, event);
    }
    if (event->address != event->old_address) {
        struct block *older = find_block(state, event->address);
        const int error = older != NULL ? end_block(sites, event, older) : 0;
        if (error != 0) {
            return error;
        }
        block = find_block(state, event->old_address);
    }
    if (!add_op(sites, event, LAB_RESIZE, block->slot)) {
        return -ENOMEM;
    }
    struct lab_site *site = &sites->site[block->site];
    struct lab_allocation *allocation = &sites->allocations[block->allocation];
    note_peak(site, state->epoch);
    site->live_bytes += event->size - block->size;
    sites->totals.live_bytes += event->size - block->size;
    sites->totals.resizes++;
    if (event->size > block->size) {
        site->bytes += event->size - block->size;
        sites->totals.bytes += event->size - block->size;
        site->grows++;
        site->grown_blocks += block->grows == 0;
        site->moved_bytes += event->address != event->old_address ? block->size : 0;
        block->grows++;
    }
    block->has_shrunk = event->size < block->size;
    block->size = event->size;
    block->most = event->size > block->most ? event->size : block->most;
    allocation->last = block->size;
    allocation->most = block->most;
    if (event->address != event->old_address) {
        struct block moved = *block;
        remove_block(state, block);
        moved.address = event->address;
        state->blocks[block_at(state->blocks, state->block_capacity, event->address)] = moved;
        state->block_count++;
    }
    note_live(sites, event->time_ns);
    return 0;
}

static int free_block(struct lab_sites *sites, const struct fh_trace_event *event)
{
    struct block *block = find_block(sites->state, event->address);
    if (block == NULL) {
        sites->totals.unknown++;
        return 0;
    }
    const int error = judge_free(sites, event, block);
    if (error != 0) {
        return error;
    }
    return end_block(sites, event, block);
}

int lab_sites_add(struct lab_sites *sites, struct fh_trace *trace,
                  const struct fh_trace_event *events, size_t count)
{
    sites->state->trace = trace;
    for (size_t i = 0; i < count; i++) {
        const struct fh_trace_event *event = &events[i];
        int error = 0;
        pass_time(sites, event->time_ns);
        if (event->kind == FH_TRACE_ALLOC) {
            error = begin_block(sites, event);
        } else if (event->kind == FH_TRACE_FREE) {
            error = free_block(sites, event);
        } else if (event->kind == FH_TRACE_RESIZE) {
            error = resize_block(sites, event);
        }
        if (error != 0) {
            return error;
        }
    }
    return 0;
}

static int by_count(const void *a, const void *b)
{
    const struct lab_common_size *one = a;
    const struct lab_common_size *other = b;
    return (one->count < other->count) - (one->count > other->count);
}

void lab_sites_finish(struct lab_sites *sites)
{
    const struct lab_sites_state *state = sites->state;
    for (size_t i = 0; i < state->block_capacity; i++) {
        if (state->blocks[i].address != 0) {
            note_end(&sites->site[state->blocks[i].site], &state->blocks[i]);
        }
    }
    for (size_t i = 0; i < sites->count; i++) {
        note_peak(&sites->site[i], state->epoch);
        qsort(sites->site[i].common, LAB_COMMON, sizeof(struct lab_common_size), by_count);
    }
    pass_time(sites, sites->end_ns);
}

double lab_site_one_size(const struct lab_site *site)
{
    return site->count > 0 ? (double)site->common[0].count / (double)site->count : 0;
}

struct lab_sites *lab_sites_open(const struct lab_names *names, uint64_t begin_ns, uint64_t end_ns)
{
    struct lab_sites *sites = calloc(1, sizeof(*sites));
    struct lab_sites_state *state = calloc(1, sizeof(*state));
    if (sites == NULL || state == NULL) {
        free(sites);
        free(state);
        return NULL;
    }
    state->names = *names;
    sites->state = state;
    sites->begin_ns = begin_ns;
    sites->end_ns = end_ns;
    return sites;
}

void lab_sites_close(struct lab_sites *sites)
{
    if (sites == NULL) {
        return;
    }
    struct lab_sites_state *state = sites->state;
    free(state->blocks);
    free(state->stacks);
    free(state->meetings);
    free(state->calls);
    free(state->site_table);
    free(state->free_slots);
    free(state);
    free(sites->site);
    free(sites->ops);
    free(sites->allocations);
    free(sites);
}
