/*
 * A stream: events in the order in which they happened, in columns. The recorder has one for each
 * thread, so that the threads' events can be merged; other writers one for all.
 *
 * Each event is one byte in the column of ops: the slot of its *site* (kind, flags, alignment,
 * stack, thread).
 * Sites are numbered as they come; site n has slot n modulo 255, and takes it from another one by
 * an op of 255 with its number in the column of sites. Sizes are 0 where they are what the site had
 * last; addresses are what the model of trace_model.h leaves to be said; times are half a byte each,
 * in ticks since the event before. Columns are of one kind of number each and compress better so than
 * in a row: zstd packs all but the times, which look random to it.
 */
#include "trace_encode.h"

#include <errno.h>
#include <stdlib.h>

enum {
    SITE_BYTES_MAX = 6 * TRACE_VARINT_MAX,
    ADDRESS_BYTES_MAX = 4 * TRACE_VARINT_MAX,
    NO_NUMBER = -1,
};

/* Begins anew: nothing that was said before will be referred to. */
static int start_fresh(struct trace_stream *stream, unsigned bits)
{
    struct trace_model *model = &stream->model;
    struct trace_slot *slots = calloc((size_t)1 << bits, sizeof(*slots));
    if (slots == NULL)
        return -ENOMEM;
    free(model->slots);
    memset(model, 0, sizeof(*model));
    model->slots = slots;
    model->bits = bits;
    memset(stream->slots, 0xff, sizeof(stream->slots));
    for (uint32_t i = 0; i < stream->site_count; i++) {
        stream->sites[i].number = (uint32_t)NO_NUMBER;
        stream->sites[i].last_size = 0;
    }
    stream->numbered = 0;
    stream->is_fresh = true;
    return 0;
}

static void start_chunk(struct trace_stream *stream)
{
    stream->count = stream->calls = 0;
    stream->lost = 0;
    stream->threads = 0;
    stream->ops_end = stream->ops;
    stream->sites_end = stream->sites_column;
    stream->sizes_end = stream->sizes_column;
    stream->addresses_end = stream->addresses_column;
    stream->longs_end = stream->longs_column;
}

int trace_stream_begin(struct trace_stream *stream, uint32_t process, uint32_t index)
{
    /* As much as the worst chunk needs; only what is used is ever touched. */
    const size_t events = TRACE_CHUNK_EVENTS_MAX;
    const size_t sizes[] = {events,
                            events / 2,
                            events * SITE_BYTES_MAX,
                            events * TRACE_VARINT_MAX,
                            events * ADDRESS_BYTES_MAX,
                            events * TRACE_VARINT_MAX};
    size_t total = 0;
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
        total += sizes[i];
    memset(stream, 0, sizeof(*stream));
    stream->process = process;
    stream->stream = index;
    stream->memory = malloc(total);
    if (stream->memory == NULL || start_fresh(stream, TRACE_MODEL_BITS_MIN) != 0) {
        free(stream->memory);
        return -ENOMEM;
    }
    stream->ops = stream->memory;
    stream->times = stream->ops + sizes[0];
    stream->sites_column = stream->times + sizes[1];
    stream->sizes_column = stream->sites_column + sizes[2];
    stream->addresses_column = stream->sizes_column + sizes[3];
    stream->longs_column = stream->addresses_column + sizes[4];
    start_chunk(stream);
    return 0;
}

void trace_stream_free(struct trace_stream *stream)
{
    free(stream->memory);
    free(stream->model.slots);
    free(stream->sites);
    free(stream->site_table);
    memset(stream, 0, sizeof(*stream));
}

/* ---- Sites ---------------------------------------------------------------------------------- */

uint32_t trace_stream_add_site(struct trace_stream *stream, const struct trace_site *site)
{
    if (stream->site_count == stream->site_capacity) {
        const uint32_t capacity = stream->site_capacity == 0 ? 64 : 2 * stream->site_capacity;
        struct trace_site *sites = realloc(stream->sites, capacity * sizeof(*sites));
        if (sites == NULL)
            return UINT32_MAX;
        stream->sites = sites;
        stream->site_capacity = capacity;
    }
    stream->sites[stream->site_count] = *site;
    stream->sites[stream->site_count].number = (uint32_t)NO_NUMBER;
    stream->sites[stream->site_count].last_size = 0;
    return stream->site_count++;
}

static uint32_t site_hash(const struct trace_site *site)
{
    const uint64_t key = ((uint64_t)site->stack << 32 | site->align) ^
                         (uint64_t)(site->kind << 8 | site->flags) << 13 ^
                         (uint64_t)site->thread << 40;
    return (uint32_t)(key * 0x9e3779b97f4a7c15u >> 32);
}

static bool is_same_site(const struct trace_site *a, const struct trace_site *b)
{
    return a->stack == b->stack && a->thread == b->thread && a->align == b->align &&
           a->kind == b->kind && a->flags == b->flags;
}

static bool grow_site_table(struct trace_stream *stream)
{
    const uint32_t bits = stream->site_table == NULL ? 7 : stream->site_table_bits + 1;
    uint32_t *table = bits <= 30 ? calloc((size_t)1 << bits, sizeof(*table)) : NULL;
    if (table == NULL)
        return false;
    for (uint32_t i = 0; i < stream->site_count; i++) {
        uint32_t place = site_hash(&stream->sites[i]) >> (32 - bits);
        while (table[place] != 0)
            place = (place + 1) & ((1u << bits) - 1);
        table[place] = i + 1;
    }
    free(stream->site_table);
    stream->site_table = table;
    stream->site_table_bits = bits;
    return true;
}

uint32_t trace_stream_site(struct trace_stream *stream, const struct trace_site *site)
{
    if ((stream->site_table == NULL || stream->site_count >= 1u << (stream->site_table_bits - 1)) &&
        !grow_site_table(stream))
        return UINT32_MAX;
    const uint32_t mask = (1u << stream->site_table_bits) - 1;
    uint32_t place = site_hash(site) >> (32 - stream->site_table_bits);
    for (; stream->site_table[place] != 0; place = (place + 1) & mask)
        if (is_same_site(&stream->sites[stream->site_table[place] - 1], site))
            return stream->site_table[place] - 1;
    const uint32_t index = trace_stream_add_site(stream, site);
    if (index != UINT32_MAX)
        stream->site_table[place] = index + 1;
    return index;
}

/* The op of a site that has not the slot, or no number yet. */
static __attribute__((noinline)) uint8_t op_slow(struct trace_stream *stream,
                                                 struct trace_site *site)
{
    uint8_t *out = stream->sites_end;
    const bool is_new = site->number == (uint32_t)NO_NUMBER;
    if (is_new)
        site->number = stream->numbered++;
    out = trace_put(out, site->number);
    if (is_new) {
        out = trace_put(out, site->kind);
        out = trace_put(out, site->flags);
        out = trace_put(out, site->align);
        out = trace_put(out, site->stack);
        out = trace_put(out, site->thread);
    }
    stream->slots[site->number % TRACE_SLOTS] = site->number;
    stream->sites_end = out;
    return TRACE_SLOTS;
}

static inline uint8_t op_of(struct trace_stream *stream, struct trace_site *site)
{
    const uint32_t slot = site->number % TRACE_SLOTS;
    if (site->number != (uint32_t)NO_NUMBER && stream->slots[slot] == site->number)
        return (uint8_t)slot;
    return op_slow(stream, site);
}

/* ---- Columns -------------------------------------------------------------------------------- */

/* 0 where the size is the last one; that one where the size is 0. */
static inline void add_size(struct trace_stream *stream, struct trace_site *site, uint64_t size)
{
    const uint64_t last = site->last_size;
    stream->sizes_end = trace_put(stream->sizes_end, size == last ? 0 : size == 0 ? last : size);
    site->last_size = size;
}

static inline uint8_t *put_far(struct trace_model *model, uint8_t *out, uint64_t address)
{
    const uint64_t turned = trace_turn(address);
    out = trace_put(out, trace_zigzag((int64_t)(turned - model->far)));
    model->far = turned;
    return out;
}

static inline uint8_t *put_known(struct trace_model *model, uint8_t *out, uint64_t address)
{
    const struct trace_slot *slot = trace_slot_of(model, address);
    if (trace_model_knows(model, slot, address)) {
        const int32_t distance = (int32_t)(slot->ordinal - model->freed);
        model->freed = slot->ordinal;
        return trace_put(out, trace_zigzag(distance) + 1);
    }
    return put_far(model, trace_put(out, 0), address);
}

/* `base` is the first code that may be used. */
static inline uint8_t *put_new(struct trace_model *model, uint8_t *out, uint64_t address,
                               uint64_t size, unsigned base)
{
    enum { NEXT, STRIDE, FAR, NEAR };
    struct trace_class *c = trace_class_of(model, size);
    const int64_t distance = (int64_t)(address - c->at);
    if (address == trace_model_next(c))
        out = trace_put(out, base + NEXT);
    else if (address == c->at + c->stride)
        out = trace_put(out, base + STRIDE);
    else if ((distance & 15) == 0 && distance < INT32_MAX && distance > INT32_MIN)
        out = trace_put(out, base + NEAR + trace_zigzag(distance >> 4));
    else
        out = put_far(model, trace_put(out, base + FAR), address);
    trace_model_alloc(model, c, address);
    return out;
}

static inline void add_addresses(struct trace_stream *stream, unsigned kind, uint64_t address,
                                 uint64_t old_address, uint64_t size)
{
    struct trace_model *model = &stream->model;
    uint8_t *out = stream->addresses_end;
    if (kind == FH_TRACE_ALLOC) {
        out = put_new(model, out, address, size, 0);
    } else if (kind == FH_TRACE_FREE) {
        out = put_known(model, out, address);
        trace_model_free(model, address);
    } else {
        out = put_known(model, out, old_address);
        if (address == old_address) {
            *out++ = 0;
        } else {
            trace_model_free(model, old_address);
            out = put_new(model, out, address, size, 1);
        }
    }
    stream->addresses_end = out;
}

static inline void add_time(struct trace_stream *stream, uint64_t tick)
{
    if (stream->count == 0)
        stream->tick = stream->first_tick = tick;
    uint64_t delta = tick - stream->tick;
    stream->tick = tick;
    if (delta >= TRACE_LONG_DELTA) {
        stream->longs_end = trace_put(stream->longs_end, delta - TRACE_LONG_DELTA);
        delta = TRACE_LONG_DELTA;
    }
    uint8_t *pair = &stream->times[stream->count / 2];
    *pair = (uint8_t)(stream->count % 2 == 0 ? delta : *pair | delta << 4);
}

void trace_stream_add(struct trace_stream *stream, uint32_t index, uint64_t tick, uint64_t address,
                      uint64_t old_address, uint64_t size)
{
    struct trace_site *site = &stream->sites[index];
    const unsigned kind = site->kind;
    *stream->ops_end++ = op_of(stream, site);
    if (site->thread >= stream->threads)
        stream->threads = site->thread + 1;
    add_time(stream, tick);
    if (trace_has_size(kind))
        add_size(stream, site, size);
    if (trace_is_call(kind)) {
        add_addresses(stream, kind, address, old_address, size);
        stream->calls++;
    } else if (kind == FH_TRACE_LOST) {
        stream->lost += size;
    }
    stream->count++;
}

/* ---- Chunks --------------------------------------------------------------------------------- */

/* The table follows the number of blocks that the stream sees: a thread with ten calls needs no
 * megabytes, on either side. */
static int prepare_next(struct trace_stream *stream)
{
    struct trace_model *model = &stream->model;
    unsigned bits = model->bits;
    while (bits < TRACE_MODEL_BITS_MAX && model->ordinal >= 1u << bits)
        bits++;
    stream->is_fresh = false;
    start_chunk(stream);
    if (bits == model->bits && model->ordinal < TRACE_ORDINALS_MAX)
        return 0;
    return start_fresh(stream, bits);
}

int trace_stream_flush(struct trace_stream *stream, struct trace_file *file)
{
    if (stream->count == 0)
        return file->error;
    const uint8_t *const columns[][2] = {
        {stream->ops, stream->ops_end},
        {stream->sites_column, stream->sites_end},
        {stream->sizes_column, stream->sizes_end},
        {stream->addresses_column, stream->addresses_end},
        {stream->longs_column, stream->longs_end},
    };
    enum { COLUMNS = sizeof(columns) / sizeof(columns[0]) };
    struct trace_buffer packed = {0};
    trace_buffer_varint(&packed, stream->model.bits);
    for (size_t i = 0; i < COLUMNS; i++)
        trace_buffer_varint(&packed, (uint64_t)(columns[i][1] - columns[i][0]));
    for (size_t i = 0; i < COLUMNS; i++)
        trace_buffer_add(&packed, columns[i][0], (size_t)(columns[i][1] - columns[i][0]));
    struct trace_chunk chunk = {
        .kind = TRACE_CHUNK_EVENTS,
        .flags = stream->is_fresh ? TRACE_FRESH : 0,
        .process = stream->process,
        .stream = stream->stream,
        .threads = stream->threads,
        .count = stream->count,
        .calls = stream->calls,
        .first_tick = stream->first_tick,
        .last_tick = stream->tick,
        .lost = stream->lost,
    };
    if (packed.failed && file->error == 0)
        file->error = -ENOMEM;
    const int error = trace_file_chunk(file, &chunk, packed.data, packed.len, stream->times,
                                       (stream->count + 1) / 2);
    trace_buffer_free(&packed);
    stream->total_calls += stream->calls;
    const int memory = prepare_next(stream);
    if (memory != 0 && file->error == 0)
        file->error = memory;
    return error != 0 ? error : memory;
}
