/*
 * Compiling a trace.
 *
 * A trace names blocks by their addresses, and an address is reused as soon as it is free. Looking
 * each of them up while replaying would cost more than the fastest allocators do and would fill the
 * caches with the map. So the map is used once, here: every live block has a slot, a small number
 * that is reused when the block dies, and a replay keeps blocks in an array of as many entries as
 * there were blocks at a time. The last slot that became free is used first: what the program holds
 * in its cache is near what the replay does.
 *
 * The map is an open-addressing hash table with linear probing, at most half full, whose entries
 * are (address, slot). Deletion moves later entries back (Knuth, TAOCP vol. 3, 6.4, algorithm R),
 * so there are no tombstones, and a trace of any length needs memory for its live blocks only.
 *
 * What a program can't hold:
 *   - A free of a block that was allocated before recording began has no counterpart: counted,
 *     left out. A resize of one is an allocation of the new size.
 *   - Where events were lost an address can be handed out twice. The first block must have been
 *     freed between: a free is put in (and counted) just before the second allocation. Blocks whose
 *     free was lost and whose address never returns stay live to the end, as a leak would.
 *   - A failed call (address 0) allocated nothing.
 *
 * Operations are written through a buffer to a file without a name, of 16 bytes each, and
 * mapped by those who replay it: a program of hundreds of millions of operations need not fit into
 * memory.
 */
#include "program.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    BUFFERED_OPS = 1 << 16, /* 1 MiB a write: large against the cost of a system call */
    FIRST_SLOTS = 1 << 10,
    EVENTS_AT_ONCE = 1 << 12,
    DEFAULT_ALIGN = 16, /* every allocator aligns so: no operation need say it */
};

/* No program has that many blocks at a time: 4 billion of them would be 64 GiB of slots. */
static const uint64_t most_slots = UINT32_MAX;

struct entry {
    uint64_t address; /* 0: empty */
    uint32_t slot;
};

struct slot {
    uint64_t size;
    uint32_t thread; /* that allocated it */
    uint8_t alignment;
};

struct lab_compiler {
    struct lab_program program;
    struct entry *entries; /* mask + 1 of them */
    size_t mask;
    size_t used;
    struct slot *slots;
    uint32_t *free_slots; /* a stack, as large as slots */
    size_t slot_capacity;
    size_t free_count;
    uint64_t live_bytes;
    unsigned char threads_seen[(UINT16_MAX + 1) / 8]; /* a bit each, of numbers modulo 65,536 */
    size_t buffered;
    struct lab_op buffer[BUFFERED_OPS];
};

/* ---- The file ---- */

static int open_nameless_file(void)
{
    const char *folder = getenv("TMPDIR");
    if (folder == NULL || *folder == '\0') {
        folder = "/tmp";
    }
    const int fd = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR && errno != ENOENT)) {
        return fd;
    }
    /* File systems without O_TMPFILE. */
    char name[4096];
    if (snprintf(name, sizeof(name), "%s/freehold-XXXXXX", folder) >= (int)sizeof(name)) {
        errno = ENAMETOOLONG;
        return -1;
    }
    const int named = mkostemp(name, O_CLOEXEC);
    if (named >= 0) {
        unlink(name);
    }
    return named;
}

static int flush(struct lab_compiler *compiler)
{
    const char *from = (const char *)compiler->buffer;
    size_t left = compiler->buffered * sizeof(struct lab_op);
    while (left > 0) {
        const ssize_t written = write(compiler->program.fd, from, left);
        if (written < 0 && errno != EINTR) {
            return -errno;
        }
        if (written > 0) {
            from += written;
            left -= (size_t)written;
        }
    }
    compiler->buffered = 0;
    return 0;
}

/* ---- The map ---- */

static size_t home_of(const struct lab_compiler *compiler, uint64_t address)
{
    /* Fibonacci hashing: the high bits of the product depend on all bits of the address. */
    return (size_t)((address * 0x9e3779b97f4a7c15U) >> 20) & compiler->mask;
}

/* The entry of the address, or the empty one where it belongs. */
static struct entry *find(const struct lab_compiler *compiler, uint64_t address)
{
    size_t i = home_of(compiler, address);
    while (compiler->entries[i].address != 0 && compiler->entries[i].address != address) {
        i = (i + 1) & compiler->mask;
    }
    return &compiler->entries[i];
}

static void erase(struct lab_compiler *compiler, struct entry *entry)
{
    size_t hole = (size_t)(entry - compiler->entries);
    compiler->used--;
    for (size_t i = hole;;) {
        i = (i + 1) & compiler->mask;
        if (compiler->entries[i].address == 0) {
            break;
        }
        const size_t home = home_of(compiler, compiler->entries[i].address);
        /* It may move into the hole if its home is not between the hole and it, cyclically. */
        if (((i - home) & compiler->mask) >= ((i - hole) & compiler->mask)) {
            compiler->entries[hole] = compiler->entries[i];
            hole = i;
        }
    }
    compiler->entries[hole].address = 0;
}

static int grow_map(struct lab_compiler *compiler)
{
    const size_t old_count = compiler->mask + 1;
    struct entry *old = compiler->entries;
    struct entry *entries = calloc(2 * old_count, sizeof(*entries));
    if (entries == NULL) {
        return -ENOMEM;
    }
    compiler->entries = entries;
    compiler->mask = 2 * old_count - 1;
    for (size_t i = 0; i < old_count; i++) {
        if (old[i].address != 0) {
            *find(compiler, old[i].address) = old[i];
        }
    }
    free(old);
    return 0;
}

/* ---- Slots ---- */

static int grow_slots(struct lab_compiler *compiler)
{
    const size_t capacity = 2 * compiler->slot_capacity;
    struct slot *slots = realloc(compiler->slots, capacity * sizeof(*slots));
    if (slots == NULL) {
        return -ENOMEM;
    }
    compiler->slots = slots;
    uint32_t *stack = realloc(compiler->free_slots, capacity * sizeof(*stack));
    if (stack == NULL) {
        return -ENOMEM;
    }
    compiler->free_slots = stack;
    compiler->slot_capacity = capacity;
    return 0;
}

static int take_slot(struct lab_compiler *compiler, uint32_t *slot)
{
    struct lab_program_facts *facts = &compiler->program.facts;
    if (compiler->free_count > 0) {
        *slot = compiler->free_slots[--compiler->free_count];
        return 0;
    }
    if (facts->slots == most_slots) {
        return -EOVERFLOW;
    }
    if (facts->slots == compiler->slot_capacity) {
        const int error = grow_slots(compiler);
        if (error != 0) {
            return error;
        }
    }
    *slot = (uint32_t)facts->slots++;
    return 0;
}

/* Maps the address to a slot that holds nothing yet. */
static int add_block(struct lab_compiler *compiler, uint64_t address, uint32_t *slot)
{
    int error = take_slot(compiler, slot);
    if (error == 0 && 2 * (compiler->used + 1) > compiler->mask + 1) {
        error = grow_map(compiler);
    }
    if (error == 0) {
        *find(compiler, address) = (struct entry){address, *slot};
        compiler->used++;
    }
    return error;
}

/* ---- Operations ---- */

static void count_thread(struct lab_compiler *compiler, uint16_t thread)
{
    unsigned char *byte = &compiler->threads_seen[thread / 8];
    const unsigned char bit = (unsigned char)(1U << (thread % 8));
    compiler->program.facts.threads += (*byte & bit) == 0;
    *byte |= bit;
}

static int emit(struct lab_compiler *compiler, enum lab_op_kind kind, uint32_t slot, uint64_t size,
                uint8_t alignment, uint32_t thread)
{
    struct lab_program_facts *facts = &compiler->program.facts;
    compiler->buffer[compiler->buffered++] =
        (struct lab_op){size, slot, (uint16_t)thread, (uint8_t)kind, alignment};
    if (compiler->live_bytes > facts->peak_live_bytes || facts->ops == 0) {
        facts->peak_live_bytes = compiler->live_bytes;
        facts->peak_live_blocks = compiler->used;
        facts->peak_op = facts->ops;
    }
    facts->ops++;
    return compiler->buffered == BUFFERED_OPS ? flush(compiler) : 0;
}

/* Zeroing and alignment of an event in a byte. */
static uint8_t alignment_of(const struct fh_trace_event *event)
{
    uint8_t alignment = (event->flags & FH_TRACE_ZEROED) != 0 ? LAB_ZEROED : 0;
    if (event->align > DEFAULT_ALIGN && (event->align & (event->align - 1)) == 0) {
        alignment |= (uint8_t)__builtin_ctz(event->align);
    }
    return alignment;
}

static int free_block(struct lab_compiler *compiler, struct entry *entry, uint32_t thread)
{
    struct lab_program_facts *facts = &compiler->program.facts;
    const uint32_t number = entry->slot;
    const struct slot slot = compiler->slots[number];
    erase(compiler, entry);
    compiler->free_slots[compiler->free_count++] = number;
    compiler->live_bytes -= slot.size;
    facts->frees++;
    facts->remote_frees += slot.thread != thread;
    return emit(compiler, LAB_FREE, number, slot.size, slot.alignment & LAB_ALIGN_MASK, thread);
}

static int add_alloc(struct lab_compiler *compiler, const struct fh_trace_event *event)
{
    struct lab_program_facts *facts = &compiler->program.facts;
    const uint8_t alignment = alignment_of(event);
    uint32_t slot;
    if (event->address == 0) {
        return 0;
    }
    struct entry *stale = find(compiler, event->address);
    if (stale->address != 0) {
        facts->implied_frees++;
        const int error = free_block(compiler, stale, event->thread);
        if (error != 0) {
            return error;
        }
    }
    const int error = add_block(compiler, event->address, &slot);
    if (error != 0) {
        return error;
    }
    compiler->slots[slot] = (struct slot){event->size, event->thread, alignment};
    compiler->live_bytes += event->size;
    facts->allocs++;
    facts->total_bytes += event->size;
    facts->over_aligned += (alignment & LAB_ALIGN_MASK) != 0;
    facts->zeroed += (alignment & LAB_ZEROED) != 0;
    facts->largest = event->size > facts->largest ? event->size : facts->largest;
    return emit(compiler, LAB_ALLOC, slot, event->size, alignment, event->thread);
}

static int add_free(struct lab_compiler *compiler, const struct fh_trace_event *event)
{
    if (event->address == 0) {
        return 0;
    }
    struct entry *entry = find(compiler, event->address);
    if (entry->address == 0) {
        compiler->program.facts.unknown_frees++;
        return 0;
    }
    return free_block(compiler, entry, event->thread);
}

static int add_resize(struct lab_compiler *compiler, const struct fh_trace_event *event)
{
    struct lab_program_facts *facts = &compiler->program.facts;
    if (event->old_address == 0) {
        return add_alloc(compiler, event);
    }
    if (event->address == 0) {
        return 0;
    }
    struct entry *old = find(compiler, event->old_address);
    if (old->address == 0) {
        facts->unknown_resizes++;
        return add_alloc(compiler, event);
    }
    const uint32_t number = old->slot;
    if (event->address != event->old_address) {
        erase(compiler, old);
        struct entry *stale = find(compiler, event->address);
        if (stale->address != 0) {
            facts->implied_frees++;
            const int error = free_block(compiler, stale, event->thread);
            if (error != 0) {
                return error;
            }
        }
        *find(compiler, event->address) = (struct entry){event->address, number};
        compiler->used++;
    }
    struct slot *slot = &compiler->slots[number];
    facts->total_bytes += event->size > slot->size ? event->size - slot->size : 0;
    facts->largest = event->size > facts->largest ? event->size : facts->largest;
    compiler->live_bytes += event->size - slot->size;
    slot->size = event->size;
    slot->thread = event->thread;
    facts->resizes++;
    return emit(compiler, LAB_RESIZE, number, event->size, slot->alignment & LAB_ALIGN_MASK,
                event->thread);
}

static int add_event(struct lab_compiler *compiler, const struct fh_trace_event *event)
{
    int error = 0;
    switch (event->kind) {
    case FH_TRACE_ALLOC:
        error = add_alloc(compiler, event);
        break;
    case FH_TRACE_FREE:
        error = add_free(compiler, event);
        break;
    case FH_TRACE_RESIZE:
        error = add_resize(compiler, event);
        break;
    case FH_TRACE_LOST:
        compiler->program.facts.lost += event->size;
        return 0;
    default:
        return 0;
    }
    count_thread(compiler, (uint16_t)event->thread);
    return error;
}

/* ---- The interface ---- */

struct lab_compiler *lab_compiler_open(void)
{
    struct lab_compiler *compiler = calloc(1, sizeof(*compiler));
    if (compiler == NULL) {
        return NULL;
    }
    compiler->program.fd = open_nameless_file();
    compiler->mask = 2 * FIRST_SLOTS - 1;
    compiler->entries = calloc(2 * FIRST_SLOTS, sizeof(*compiler->entries));
    compiler->slots = calloc(FIRST_SLOTS, sizeof(*compiler->slots));
    compiler->free_slots = calloc(FIRST_SLOTS, sizeof(*compiler->free_slots));
    compiler->slot_capacity = FIRST_SLOTS;
    if (compiler->program.fd < 0 || compiler->entries == NULL || compiler->slots == NULL ||
        compiler->free_slots == NULL) {
        const int error = errno;
        lab_compiler_drop(compiler);
        errno = error;
        return NULL;
    }
    return compiler;
}

int lab_compiler_add(struct lab_compiler *compiler, const struct fh_trace_event *events,
                     size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const int error = add_event(compiler, &events[i]);
        if (error != 0) {
            return error;
        }
    }
    return 0;
}

void lab_compiler_drop(struct lab_compiler *compiler)
{
    if (compiler->program.fd >= 0) {
        close(compiler->program.fd);
    }
    free(compiler->entries);
    free(compiler->slots);
    free(compiler->free_slots);
    free(compiler);
}

int lab_compiler_finish(struct lab_compiler *compiler, struct lab_program *program)
{
    const int error = flush(compiler);
    if (error == 0) {
        *program = compiler->program;
        program->facts.end_live_bytes = compiler->live_bytes;
        program->facts.end_live_blocks = compiler->used;
        compiler->program.fd = -1;
    }
    lab_compiler_drop(compiler);
    return error;
}

int lab_compile(struct fh_trace *trace, unsigned index, struct lab_program *program,
                void (*tick)(void *context, uint64_t events), void *context)
{
    struct fh_trace_event events[EVENTS_AT_ONCE];
    struct lab_compiler *compiler = lab_compiler_open();
    if (compiler == NULL) {
        return -errno;
    }
    int error = fh_trace_begin(trace, index);
    long count = 0;
    for (uint64_t total = 0; error == 0; total += (uint64_t)count) {
        count = fh_trace_read(trace, events, EVENTS_AT_ONCE);
        if (count <= 0) {
            break;
        }
        error = lab_compiler_add(compiler, events, (size_t)count);
        if (tick != NULL) {
            tick(context, total);
        }
    }
    if (error != 0 || (count < 0 && count != -EBADMSG)) {
        lab_compiler_drop(compiler);
        return error != 0 ? error : (int)count;
    }
    error = lab_compiler_finish(compiler, program);
    return error != 0 ? error : (int)count;
}
