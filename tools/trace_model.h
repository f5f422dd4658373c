/*
 * What writer and reader of a stream both know about the program's blocks, so that an address is
 * usually written as a small number.
 *
 * Frees. Blocks tend to be freed in the order, or in the opposite order, in which they were
 * allocated. Each allocation of the stream has an *ordinal*; a free is written as the distance
 * between the ordinals of its block and of the block freed before.
 *
 * Allocations. A heap hands out blocks of one size either one behind the other, or from a list of
 * freed blocks, last one first. Requests are sorted into classes of like size. After block p the next
 * of the class is expected to be p's *link*, the block that was freed before p was freed in p's 64 KiB;
 * or, without a link, as far from p as p was from the one before it (the class's stride).
 *
 * All this lives in one table of slots, found by a hash of the address; a slot that is needed for
 * another address forgets. What the table does not know is written as a distance. So nothing
 * depends on the allocator: where its order is another one, the file is longer.
 *
 * Both sides perform the same steps in the same order; every function here is one of them. The
 * reader also keeps which address an ordinal was (history), for as many ordinals as the writer
 * may refer to.
 */
#ifndef FH_TOOLS_TRACE_MODEL_H
#define FH_TOOLS_TRACE_MODEL_H

#include <stdbool.h>
#include <stdint.h>

enum {
    TRACE_MODEL_BITS_MIN = 8,
    /* 2^17 slots of 16 bytes: 2 MiB, what a core's own cache may hold. */
    TRACE_MODEL_BITS_MAX = 17,
    TRACE_CLASSES = 512,
    TRACE_REGIONS = 1024, /* of 64 KiB, in which the last freed block is remembered */
    /* A writer begins anew before ordinals wrap. */
    TRACE_ORDINALS_MAX = 1 << 30,
    TRACE_NO_ORDINAL = UINT32_MAX,
};

struct trace_slot {
    uint64_t address;
    uint32_t ordinal; /* TRACE_NO_ORDINAL: allocated before this stream knew of it */
    int32_t link;     /* distance to the block freed before this one, in 16 bytes; 0: none */
};

struct trace_class {
    uint64_t at;   /* the last block */
    uint64_t next; /* the block that its link leads to, or 0 */
    uint64_t stride;
};

struct trace_model {
    struct trace_slot *slots;
    unsigned bits;
    uint32_t ordinal;  /* of the next allocation */
    uint32_t freed;    /* ordinal of the last block that was freed and known */
    uint64_t far;      /* the last address that was written as a distance, turned */
    uint64_t *history; /* reader: 2^(bits + 1) addresses by ordinal */
    uint64_t freed_in[TRACE_REGIONS];
    struct trace_class classes[TRACE_CLASSES];
};

/* Distances of far addresses are between addresses turned by four bits: half a byte less, since blocks are
 * at multiples of 16. */
static inline uint64_t trace_turn(uint64_t address)
{
    return address >> 4 | address << 60;
}

static inline uint64_t trace_turn_back(uint64_t turned)
{
    return turned << 4 | turned >> 60;
}

static inline struct trace_slot *trace_slot_of(const struct trace_model *model, uint64_t address)
{
    return &model->slots[(address >> 4) * 0x9e3779b97f4a7c15u >> (64 - model->bits)];
}

/* Steps of 16 bytes up to 1 KiB, then eight for each doubling. */
static inline struct trace_class *trace_class_of(struct trace_model *model, uint64_t size)
{
    if (size <= 1024)
        return &model->classes[(size + 15) >> 4];
    const unsigned log = 63 - (unsigned)__builtin_clzll(size - 1);
    return &model->classes[65 + (log - 10) * 8 + ((size - 1) >> (log - 3) & 7)];
}

/* Whether the ordinal of a slot may be written: the reader still has its address. */
static inline bool trace_model_knows(const struct trace_model *model, const struct trace_slot *slot,
                                     uint64_t address)
{
    return slot->address == address && slot->ordinal != TRACE_NO_ORDINAL &&
           model->ordinal - slot->ordinal <= 2u << model->bits;
}

static inline uint64_t trace_model_next(const struct trace_class *c)
{
    return c->next != 0 ? c->next : c->at + c->stride;
}

/* A block was handed out. */
static inline void trace_model_alloc(struct trace_model *model, struct trace_class *c,
                                     uint64_t address)
{
    struct trace_slot *slot = trace_slot_of(model, address);
    if (slot->address != address) {
        slot->address = address;
        slot->link = 0;
    }
    if (address != c->next)
        c->stride = address - c->at;
    c->at = address;
    c->next = slot->link != 0 ? address + (uint64_t)((int64_t)slot->link * 16) : 0;
    slot->ordinal = model->ordinal++;
}

/* And given back. */
static inline void trace_model_free(struct trace_model *model, uint64_t address)
{
    struct trace_slot *slot = trace_slot_of(model, address);
    uint64_t *last = &model->freed_in[address >> 16 & (TRACE_REGIONS - 1)];
    const uint64_t before = *last;
    *last = address;
    if (slot->address != address) {
        slot->address = address;
        slot->ordinal = TRACE_NO_ORDINAL;
    }
    slot->link = before >> 16 == address >> 16 && before != 0 && (before & 15) == (address & 15)
                     ? (int32_t)(((int64_t)before - (int64_t)address) / 16)
                     : 0;
}

#endif
