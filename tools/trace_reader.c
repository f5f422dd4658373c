/*
 * The reader: an index made by a scan of the chunk headers, and the streams of a process merged.
 *
 * Opening reads every header (64 bytes for some 80 KiB) and the payload of the few chunks that are
 * not events. The scan ends at the END chunk, at the first chunk that is not all there (the file is
 * cut), or at the first one that is damaged. In a file without END, events count up to its last MARK:
 * up to that moment all threads' events are in it, so that what is read is a beginning of what happened.
 *
 * Reading keeps a cursor for each stream and the cursors in a binary heap, by the tick of the next
 * event; at equal ticks frees come before allocations (times are taken before a free and after an
 * allocation, so a block cannot be handed out again in an earlier tick than that of its free). A cursor
 * whose next chunk has not been reached costs its header only: it is unpacked when its time comes.
 *
 * A forked process begins with its parent's blocks. The reader keeps the set of addresses that such a
 * process has allocated itself, and marks what else it frees as inherited.
 *
 * Nothing in the file is believed: sizes are bounded before they are allocated, every read of a
 * payload is checked, and numbers of sites, stacks and ordinals must have been given before.
 */
#include "trace_format.h"
#include "trace_model.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zstd.h>

enum {
    BATCH = 64, /* events decoded ahead of the merge */
    SITES_MAX = 1 << 26,
    PROCESSES_MAX = 1 << 20,
};

struct reference {
    uint64_t offset; /* of the chunk's header */
    struct trace_chunk chunk;
};

struct stream {
    struct reference *chunks;
    size_t count, capacity;
};

struct node {
    uint64_t frame;
    uint32_t parent;
};

struct process {
    struct fh_trace_process told;
    enum trace_origin origin;
    char *program;
    uint64_t begin_tick, end_tick;
    struct stream *streams;
    size_t stream_count, stream_capacity;
    struct node *nodes; /* 0 is nobody */
    size_t node_count, node_capacity;
    struct fh_trace_module *modules;
    size_t module_count, module_capacity;
};

struct site {
    uint64_t last_size;
    uint32_t stack, align, thread;
    uint8_t kind, flags;
};

/* Where reading stands in a stream. */
struct cursor {
    const struct stream *stream;
    size_t next_chunk;
    uint64_t tick;
    uint8_t *payload; /* of the open chunk, or NULL */
    uint64_t offset;  /* of the open chunk, for complaints */
    struct trace_bytes ops, sites_column, sizes, addresses, longs;
    const uint8_t *times;
    uint32_t index, count;
    uint64_t last_tick; /* what the open chunk's header says */
    struct trace_model *model;
    struct site *sites;
    uint32_t site_count, site_capacity;
    uint32_t slots[TRACE_SLOTS];
    struct fh_trace_event events[BATCH];
    uint64_t ticks[BATCH];
    unsigned at, end; /* of the batch */
};

/* Of the heap of cursors. */
struct entry {
    uint64_t tick;
    uint32_t rank; /* at equal ticks the lower one first */
    uint32_t cursor;
};

/* Addresses, by open addressing; 0 is no address. */
struct address_set {
    uint64_t *places;
    size_t count;
    unsigned bits;
};

struct fh_trace {
    int fd;
    uint64_t size;
    uint64_t tick_length; /* in 2^-32 ns */
    struct fh_trace_info info;
    char *command;
    struct process *processes;
    size_t process_count, process_capacity;
    struct fh_trace_problem damage; /* error 0: none */
    bool is_at_damage;
    uint64_t limit_tick; /* in a file that is not whole: later events are not given */
    bool has_mark;       /* without one none are */
    ZSTD_DCtx *unpacker;
    uint8_t *stored; /* for payloads as they are in the file */
    size_t stored_capacity;

    struct process *current; /* NULL: no process, or not begun */
    struct cursor *cursors;
    size_t cursor_count;
    struct entry *heap;
    size_t heap_len;
    struct address_set own; /* blocks of a forked process */
    char path[256];
};

/* ---- Small things --------------------------------------------------------------------------- */

static __attribute__((format(printf, 4, 5))) int say(struct fh_trace_problem *problem, int error,
                                                     int exit_status, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    problem->error = error;
    problem->exit_status = exit_status;
    vsnprintf(problem->text, sizeof(problem->text), format, args);
    va_end(args);
    return error;
}

static int say_no_memory(struct fh_trace_problem *problem)
{
    return say(problem, -ENOMEM, 4, "there is not enough memory to read the trace");
}

/* Room for one more element, or NULL: doubled when full. */
static void *grow(void *elements, size_t count, size_t *capacity, size_t size)
{
    if (count < *capacity)
        return elements;
    const size_t more = *capacity == 0 ? 8 : 2 * *capacity;
    void *moved = reallocarray(elements, more, size);
    if (moved != NULL)
        *capacity = more;
    return moved;
}

static int damaged(struct fh_trace *trace, uint64_t offset, const char *what)
{
    if (trace->damage.error == 0)
        say(&trace->damage, -EBADMSG, 3,
            "%s is damaged at byte %" PRIu64 " (%s); what was recorded before can be used, for the "
            "rest record again",
            trace->path, offset, what);
    return -EBADMSG;
}

static int no_memory(struct fh_trace *trace)
{
    return say_no_memory(&trace->damage);
}

static uint64_t to_ns(const struct fh_trace *trace, uint64_t tick)
{
    if (tick == UINT64_MAX)
        return UINT64_MAX;
    return (uint64_t)((__uint128_t)tick * trace->tick_length >> 32);
}

static bool read_at(const struct fh_trace *trace, uint64_t offset, void *out, size_t size)
{
    uint8_t *at = out;
    while (size > 0) {
        const ssize_t got = pread(trace->fd, at, size, (off_t)offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return false;
        at += got;
        offset += (uint64_t)got;
        size -= (size_t)got;
    }
    return true;
}

/* ---- Payloads ------------------------------------------------------------------------------- */

struct payload {
    uint8_t *data; /* owned by whoever asked */
    size_t packed, plain;
};

/* Reads and unpacks; 0, -EBADMSG (said) or -ENOMEM (said). */
static int load(struct fh_trace *trace, uint64_t offset, const struct trace_chunk *chunk,
                struct payload *payload)
{
    struct trace_sections sections;
    if (chunk->stored > trace->stored_capacity) {
        uint8_t *stored = realloc(trace->stored, chunk->stored);
        if (stored == NULL)
            return no_memory(trace);
        trace->stored = stored;
        trace->stored_capacity = chunk->stored;
    }
    if (!read_at(trace, offset + sizeof(*chunk), trace->stored, chunk->stored))
        return damaged(trace, offset, "it can't be read");
    if (trace_crc32c(trace->stored, chunk->stored) != chunk->payload_crc)
        return damaged(trace, offset, "a checksum is wrong");
    if (chunk->stored < sizeof(sections))
        return damaged(trace, offset, "a chunk is too short");
    memcpy(&sections, trace->stored, sizeof(sections));
    const size_t rest = chunk->stored - sizeof(sections);
    if (sections.packed_stored > rest || sections.packed_raw > TRACE_PAYLOAD_MAX ||
        sections.packed_stored > sections.packed_raw)
        return damaged(trace, offset, "a chunk has impossible sizes");
    payload->packed = sections.packed_raw;
    payload->plain = rest - sections.packed_stored;
    payload->data = malloc(payload->packed + payload->plain + 1);
    if (payload->data == NULL)
        return no_memory(trace);
    const uint8_t *packed = trace->stored + sizeof(sections);
    if (sections.packed_stored == sections.packed_raw)
        memcpy(payload->data, packed, payload->packed);
    else if (ZSTD_decompressDCtx(trace->unpacker, payload->data, payload->packed, packed,
                                 sections.packed_stored) != payload->packed) {
        free(payload->data);
        return damaged(trace, offset, "a chunk can't be unpacked");
    }
    memcpy(payload->data + payload->packed, packed + sections.packed_stored, payload->plain);
    return 0;
}

/* A copy of a text that a payload holds; NULL: damaged, or no memory. */
static char *get_text(struct trace_bytes *bytes)
{
    const uint64_t size = trace_get(bytes);
    const uint8_t *data = trace_get_bytes(bytes, size);
    return data != NULL ? strndup((const char *)data, (size_t)size) : NULL;
}

/* ---- Opening: chunks that are not events ---------------------------------------------------- */

static int take_start(struct fh_trace *trace, uint64_t offset, struct trace_bytes *bytes)
{
    trace->tick_length = trace_get(bytes);
    trace->info.started_unix_ns = trace_get(bytes);
    free(trace->command);
    trace->command = get_text(bytes);
    trace->info.command = trace->command;
    return trace->command != NULL ? 0 : damaged(trace, offset, "its first chunk is wrong");
}

static int take_process(struct fh_trace *trace, uint64_t offset, const struct trace_chunk *chunk,
                        struct trace_bytes *bytes)
{
    if (chunk->process != trace->process_count || chunk->process >= PROCESSES_MAX)
        return damaged(trace, offset, "processes are out of order");
    struct process *processes =
        grow(trace->processes, trace->process_count, &trace->process_capacity, sizeof(*processes));
    if (processes == NULL)
        return no_memory(trace);
    trace->processes = processes;
    struct process *process = &processes[trace->process_count];
    memset(process, 0, sizeof(*process));
    process->told.pid = (int)trace_get(bytes);
    const uint64_t parent = trace_get(bytes);
    process->origin = (enum trace_origin)trace_get(bytes);
    process->program = get_text(bytes);
    process->begin_tick = process->end_tick = chunk->first_tick;
    if (process->program == NULL || parent > chunk->process) {
        free(process->program);
        return damaged(trace, offset, "a process has an impossible parent");
    }
    process->told.parent = (int)parent - 1;
    process->told.program = process->program;
    trace->process_count++;
    return 0;
}

static int take_process_end(struct process *process, const struct trace_chunk *chunk,
                            struct trace_bytes *bytes)
{
    process->told.has_ended = true;
    const int wait_status = (int)((int64_t)trace_get(bytes) - 1);
    process->told.wait_status = wait_status > 0 ? wait_status : 0;
    process->told.lost += trace_get(bytes);
    if (chunk->last_tick > process->end_tick)
        process->end_tick = chunk->last_tick;
    return bytes->at == NULL ? -EBADMSG : 0;
}

static int take_stacks(struct fh_trace *trace, uint64_t offset, struct process *process,
                       const struct trace_chunk *chunk, struct trace_bytes *bytes)
{
    uint64_t frame = 0;
    if (process->node_count == 0)
        process->node_count = 1;
    if (trace_get(bytes) != process->node_count)
        return damaged(trace, offset, "stacks are out of order");
    for (uint32_t i = 0; i < chunk->count; i++) {
        const uint64_t id = process->node_count;
        const uint64_t distance = trace_get(bytes);
        frame += (uint64_t)trace_unzigzag(trace_get(bytes));
        if (bytes->at == NULL || distance == 0 || distance > id || id >= UINT32_MAX)
            return damaged(trace, offset, "a stack is wrong");
        struct node *nodes =
            grow(process->nodes, process->node_count, &process->node_capacity, sizeof(*nodes));
        if (nodes == NULL)
            return no_memory(trace);
        process->nodes = nodes;
        nodes[id] = (struct node){frame, (uint32_t)(id - distance)};
        process->node_count++;
    }
    return 0;
}

static int take_module_load(struct fh_trace *trace, uint64_t offset, struct process *process,
                            struct trace_bytes *bytes)
{
    struct fh_trace_module module = {
        .begin = trace_get(bytes), .end = trace_get(bytes), .bias = trace_get(bytes)};
    module.from_ns = trace_get(bytes); /* ticks, until the scan has found the last clock */
    module.until_ns = trace_get(bytes);
    struct fh_trace_module *modules =
        grow(process->modules, process->module_count, &process->module_capacity, sizeof(*modules));
    if (modules == NULL)
        return no_memory(trace);
    process->modules = modules;
    char *path = get_text(bytes);
    const uint64_t size = trace_get(bytes);
    const uint8_t *build_id = trace_get_bytes(bytes, size);
    uint8_t *copy = build_id != NULL ? malloc((size_t)size + 1) : NULL;
    if (path == NULL || copy == NULL) {
        free(path);
        free(copy);
        return damaged(trace, offset, "a module is wrong");
    }
    memcpy(copy, build_id, (size_t)size);
    module.path = path;
    module.build_id = copy;
    module.build_id_size = (size_t)size;
    modules[process->module_count++] = module;
    return 0;
}

static int take_modules(struct fh_trace *trace, uint64_t offset, struct process *process,
                        const struct trace_chunk *chunk, struct trace_bytes *bytes)
{
    for (uint32_t i = 0; i < chunk->count; i++) {
        const uint64_t op = trace_get(bytes);
        if (op == TRACE_MODULE_LOAD) {
            const int error = take_module_load(trace, offset, process, bytes);
            if (error != 0)
                return error;
            continue;
        }
        const uint64_t number = trace_get(bytes);
        const uint64_t until = trace_get(bytes);
        if (op != TRACE_MODULE_UNLOAD || bytes->at == NULL || number >= process->module_count)
            return damaged(trace, offset, "a module is wrong");
        process->modules[number].until_ns = until;
    }
    return 0;
}

static int take_events(struct fh_trace *trace, uint64_t offset, struct process *process,
                       const struct trace_chunk *chunk)
{
    if (chunk->stream > process->stream_count)
        return damaged(trace, offset, "streams are out of order");
    if (chunk->stream == process->stream_count) {
        struct stream *streams = grow(process->streams, process->stream_count,
                                      &process->stream_capacity, sizeof(*streams));
        if (streams == NULL)
            return no_memory(trace);
        process->streams = streams;
        streams[process->stream_count++] = (struct stream){0};
    }
    struct stream *stream = &process->streams[chunk->stream];
    struct reference *chunks =
        grow(stream->chunks, stream->count, &stream->capacity, sizeof(*chunks));
    if (chunks == NULL)
        return no_memory(trace);
    stream->chunks = chunks;
    chunks[stream->count++] = (struct reference){offset, *chunk};
    process->told.events += chunk->calls;
    process->told.lost += chunk->lost;
    if (chunk->threads > process->told.threads)
        process->told.threads = chunk->threads;
    if (chunk->last_tick > process->end_tick)
        process->end_tick = chunk->last_tick;
    return 0;
}

static int take_payload(struct fh_trace *trace, uint64_t offset, const struct trace_chunk *chunk)
{
    struct payload payload;
    const int error = load(trace, offset, chunk, &payload);
    if (error != 0)
        return error;
    struct trace_bytes bytes = {payload.data, payload.data + payload.packed};
    struct process *process =
        chunk->process < trace->process_count ? &trace->processes[chunk->process] : NULL;
    int result;
    if (chunk->kind == TRACE_CHUNK_START)
        result = take_start(trace, offset, &bytes);
    else if (chunk->kind == TRACE_CHUNK_PROCESS)
        result = take_process(trace, offset, chunk, &bytes);
    else if (chunk->kind == TRACE_CHUNK_END)
        trace->tick_length = trace_get(&bytes), result = 0;
    else if (chunk->kind == TRACE_CHUNK_MARK_TIME)
        result = 0;
    else if (process == NULL)
        result = damaged(trace, offset, "a process is not known");
    else if (chunk->kind == TRACE_CHUNK_PROCESS_END)
        result = take_process_end(process, chunk, &bytes);
    else if (chunk->kind == TRACE_CHUNK_STACKS)
        result = take_stacks(trace, offset, process, chunk, &bytes);
    else
        result = take_modules(trace, offset, process, chunk, &bytes);
    if (result == 0 && bytes.at == NULL)
        result = damaged(trace, offset, "a chunk is too short");
    free(payload.data);
    return result;
}

static int take_chunk(struct fh_trace *trace, uint64_t offset, const struct trace_chunk *chunk)
{
    switch (chunk->kind) {
    case TRACE_CHUNK_MARK_TIME:
        trace->limit_tick = chunk->last_tick;
        trace->has_mark = true;
        return take_payload(trace, offset, chunk);
    case TRACE_CHUNK_EVENTS:
        if (chunk->process >= trace->process_count)
            return damaged(trace, offset, "a process is not known");
        return take_events(trace, offset, &trace->processes[chunk->process], chunk);
    default:
        return take_payload(trace, offset, chunk);
    }
}

static bool is_sound(const struct trace_chunk *chunk)
{
    return chunk->mark == TRACE_CHUNK_MARK &&
           chunk->header_crc == trace_crc32c(chunk, offsetof(struct trace_chunk, header_crc)) &&
           chunk->kind >= TRACE_CHUNK_START && chunk->kind <= TRACE_CHUNK_END &&
           chunk->stored <= TRACE_PAYLOAD_MAX;
}

/* 0, or -ENOMEM; damage is noted and ends the scan. */
static int scan(struct fh_trace *trace)
{
    struct trace_chunk chunk;
    bool has_start = false;
    uint64_t offset = sizeof(struct trace_head);
    while (trace->size - offset >= sizeof(chunk) && !trace->info.is_whole) {
        int error = 0;
        if (!read_at(trace, offset, &chunk, sizeof(chunk)) || !is_sound(&chunk) ||
            (chunk.kind == TRACE_CHUNK_START) == has_start)
            error = damaged(trace, offset, "no chunk begins there");
        else if (chunk.stored > trace->size - offset - sizeof(chunk))
            return 0;
        else
            error = take_chunk(trace, offset, &chunk);
        if (error != 0)
            return error == -ENOMEM ? error : 0;
        has_start = true;
        trace->info.is_whole = chunk.kind == TRACE_CHUNK_END;
        offset += sizeof(chunk) + chunk.stored;
    }
    if (trace->info.is_whole && offset != trace->size)
        damaged(trace, offset, "something follows its end");
    return 0;
}

/* What only the whole scan can tell: times in ns, sums. */
static void settle(struct fh_trace *trace)
{
    if (trace->info.is_whole) {
        trace->limit_tick = UINT64_MAX;
        trace->has_mark = true;
        trace->info.is_whole = trace->damage.error == 0; /* END says that all is there before it */
    }
    trace->info.process_count = (unsigned)trace->process_count;
    for (size_t i = 0; i < trace->process_count; i++) {
        struct process *process = &trace->processes[i];
        process->told.begin_ns = to_ns(trace, process->begin_tick);
        process->told.end_ns = to_ns(trace, process->end_tick);
        for (size_t m = 0; m < process->module_count; m++) {
            process->modules[m].from_ns = to_ns(trace, process->modules[m].from_ns);
            process->modules[m].until_ns = to_ns(trace, process->modules[m].until_ns);
        }
        trace->info.events += process->told.events;
        trace->info.lost += process->told.lost;
    }
}

static int check_head(struct fh_trace *trace, struct fh_trace_problem *problem)
{
    struct trace_head head;
    if (trace->size < sizeof(head) || !read_at(trace, 0, &head, sizeof(head)) ||
        memcmp(head.magic, TRACE_MAGIC, sizeof(head.magic)) != 0)
        return say(problem, -EINVAL, 3, "%s is no trace; freehold record -o FILE -- PROG makes one",
                   trace->path);
    if (head.crc != trace_crc32c(&head, offsetof(struct trace_head, crc)))
        return say(problem, -EBADMSG, 3, "%s is damaged in its first 16 bytes; record again",
                   trace->path);
    if (head.version > TRACE_VERSION)
        return say(problem, -ENOTSUP, 3,
                   "%s has version %u of the trace format, this Freehold reads up to %d; use the "
                   "Freehold that recorded it, or a newer one",
                   trace->path, head.version, TRACE_VERSION);
    trace->info.version = head.version;
    return 0;
}

static int open_file(struct fh_trace *trace, const char *path, struct fh_trace_problem *problem)
{
    struct stat status;
    snprintf(trace->path, sizeof(trace->path), "%s", path);
    trace->fd = open(path, O_RDONLY | O_CLOEXEC);
    if (trace->fd < 0 || fstat(trace->fd, &status) != 0)
        return say(problem, -errno, 2, "%s can't be read: %s", path, strerror(errno));
    if (!S_ISREG(status.st_mode))
        return say(problem, -EINVAL, 2, "%s is no file; a trace is read from a file", path);
    trace->size = (uint64_t)status.st_size;
    trace->unpacker = ZSTD_createDCtx();
    if (trace->unpacker == NULL)
        return say_no_memory(problem);
    int error = check_head(trace, problem);
    if (error != 0)
        return error;
    error = scan(trace);
    if (error != 0)
        return say_no_memory(problem);
    if (trace->command == NULL) {
        if (trace->damage.error == 0)
            damaged(trace, sizeof(struct trace_head), "it is cut there");
        *problem = trace->damage;
        return problem->error;
    }
    settle(trace);
    return 0;
}

struct fh_trace *fh_trace_open(const char *path, struct fh_trace_problem *problem)
{
    struct fh_trace_problem unwanted;
    struct fh_trace *trace = calloc(1, sizeof(*trace));
    if (problem == NULL)
        problem = &unwanted;
    if (trace == NULL) {
        say_no_memory(problem);
        return NULL;
    }
    if (open_file(trace, path, problem) != 0) {
        fh_trace_close(trace);
        return NULL;
    }
    if (trace->process_count != 0 && fh_trace_begin(trace, 0) != 0) {
        say_no_memory(problem);
        fh_trace_close(trace);
        return NULL;
    }
    return trace;
}

/* ---- Cursors: a chunk is opened ------------------------------------------------------------- */

static void close_chunk(struct cursor *cursor)
{
    free(cursor->payload);
    cursor->payload = NULL;
}

static void free_model(struct trace_model *model)
{
    if (model != NULL) {
        free(model->slots);
        free(model->history);
        free(model);
    }
}

static void end_cursor(struct cursor *cursor)
{
    close_chunk(cursor);
    free_model(cursor->model);
    free(cursor->sites);
    cursor->model = NULL;
    cursor->sites = NULL;
}

static int make_model(struct fh_trace *trace, struct cursor *cursor, unsigned bits)
{
    free_model(cursor->model);
    struct trace_model *model = cursor->model = calloc(1, sizeof(*model));
    if (model != NULL) {
        model->bits = bits;
        model->slots = calloc((size_t)1 << bits, sizeof(*model->slots));
        model->history = calloc((size_t)2 << bits, sizeof(*model->history));
    }
    if (model == NULL || model->slots == NULL || model->history == NULL)
        return no_memory(trace);
    cursor->site_count = 0;
    memset(cursor->slots, 0xff, sizeof(cursor->slots));
    return 0;
}

static int cut_columns(struct fh_trace *trace, struct cursor *cursor,
                       const struct trace_chunk *chunk, const struct payload *payload)
{
    struct trace_bytes bytes = {payload->data, payload->data + payload->packed};
    struct trace_bytes *const columns[] = {&cursor->ops, &cursor->sites_column, &cursor->sizes,
                                           &cursor->addresses, &cursor->longs};
    enum { COLUMNS = sizeof(columns) / sizeof(columns[0]) };
    uint64_t sizes[COLUMNS];
    const uint64_t bits = trace_get(&bytes);
    for (size_t i = 0; i < COLUMNS; i++)
        sizes[i] = trace_get(&bytes);
    for (size_t i = 0; i < COLUMNS; i++) {
        columns[i]->at = trace_get_bytes(&bytes, sizes[i]);
        columns[i]->end = bytes.at;
    }
    if (bytes.at == NULL || sizes[0] != chunk->count ||
        payload->plain != ((size_t)chunk->count + 1) / 2 || bits < TRACE_MODEL_BITS_MIN ||
        bits > TRACE_MODEL_BITS_MAX)
        return damaged(trace, cursor->offset, "columns are wrong");
    cursor->times = payload->data + payload->packed;
    if ((chunk->flags & TRACE_FRESH) != 0)
        return make_model(trace, cursor, (unsigned)bits);
    if (cursor->model == NULL || cursor->model->bits != bits)
        return damaged(trace, cursor->offset, "a chunk goes on from one that is not there");
    return 0;
}

static int open_chunk(struct fh_trace *trace, struct cursor *cursor)
{
    const struct reference *reference = &cursor->stream->chunks[cursor->next_chunk++];
    struct payload payload;
    close_chunk(cursor);
    cursor->offset = reference->offset;
    const int error = load(trace, reference->offset, &reference->chunk, &payload);
    if (error != 0)
        return error;
    cursor->payload = payload.data;
    cursor->index = 0;
    cursor->count = reference->chunk.count;
    cursor->tick = reference->chunk.first_tick;
    cursor->last_tick = reference->chunk.last_tick;
    return cut_columns(trace, cursor, &reference->chunk, &payload);
}

/* ---- Cursors: events ------------------------------------------------------------------------ */

static bool add_site(const struct fh_trace *trace, struct cursor *cursor)
{
    struct trace_bytes *column = &cursor->sites_column;
    size_t capacity = cursor->site_capacity;
    struct site *sites = grow(cursor->sites, cursor->site_count, &capacity, sizeof(*sites));
    if (sites == NULL || cursor->site_count == SITES_MAX)
        return false;
    cursor->sites = sites;
    cursor->site_capacity = (uint32_t)capacity;
    const uint64_t kind = trace_get(column), flags = trace_get(column), align = trace_get(column),
                   stack = trace_get(column), thread = trace_get(column);
    const uint64_t stack_limit = trace->current->node_count > 0 ? trace->current->node_count : 1;
    if (column->at == NULL || kind < FH_TRACE_ALLOC || kind > FH_TRACE_LOST || flags > UINT8_MAX ||
        align > UINT32_MAX || stack >= stack_limit || thread >= trace->current->told.threads)
        return false;
    sites[cursor->site_count++] = (struct site){.stack = (uint32_t)stack,
                                                .align = (uint32_t)align,
                                                .thread = (uint32_t)thread,
                                                .kind = (uint8_t)kind,
                                                .flags = (uint8_t)flags};
    return true;
}

static struct site *get_site(const struct fh_trace *trace, struct cursor *cursor)
{
    const uint8_t op = *cursor->ops.at++;
    uint64_t number;
    if (op < TRACE_SLOTS) {
        number = cursor->slots[op];
    } else {
        number = trace_get(&cursor->sites_column);
        if (number == cursor->site_count && !add_site(trace, cursor))
            return NULL;
        if (number < cursor->site_count)
            cursor->slots[number % TRACE_SLOTS] = (uint32_t)number;
    }
    return number < cursor->site_count ? &cursor->sites[number] : NULL;
}

static uint64_t get_size(struct cursor *cursor, struct site *site)
{
    const uint64_t code = trace_get(&cursor->sizes);
    const uint64_t last = site->last_size;
    return site->last_size = code == 0 ? last : code == last ? 0 : code;
}

static uint64_t get_far(struct cursor *cursor)
{
    cursor->model->far += (uint64_t)trace_unzigzag(trace_get(&cursor->addresses));
    return trace_turn_back(cursor->model->far);
}

/* False: an ordinal that was not given. */
static bool get_known(struct cursor *cursor, uint64_t *address)
{
    struct trace_model *model = cursor->model;
    const uint64_t code = trace_get(&cursor->addresses);
    if (code == 0) {
        *address = get_far(cursor);
        return true;
    }
    const uint32_t ordinal = model->freed + (uint32_t)trace_unzigzag(code - 1);
    if (ordinal >= model->ordinal || model->ordinal - ordinal > 2u << model->bits)
        return false;
    model->freed = ordinal;
    *address = model->history[ordinal & ((2u << model->bits) - 1)];
    return true;
}

static uint64_t get_new(struct cursor *cursor, uint64_t size, uint64_t code)
{
    enum { NEXT, STRIDE, FAR, NEAR };
    struct trace_model *model = cursor->model;
    struct trace_class *c = trace_class_of(model, size);
    uint64_t address;
    if (code == NEXT)
        address = trace_model_next(c);
    else if (code == STRIDE)
        address = c->at + c->stride;
    else if (code == FAR)
        address = get_far(cursor);
    else
        address = c->at + ((uint64_t)trace_unzigzag(code - NEAR) << 4);
    model->history[model->ordinal & ((2u << model->bits) - 1)] = address;
    trace_model_alloc(model, c, address);
    return address;
}

static bool get_addresses(struct cursor *cursor, struct fh_trace_event *event)
{
    if (cursor->model->ordinal > (uint32_t)TRACE_ORDINALS_MAX + 2u * TRACE_PAYLOAD_MAX)
        return false;
    if (event->kind == FH_TRACE_ALLOC) {
        event->address = get_new(cursor, event->size, trace_get(&cursor->addresses));
        return true;
    }
    if (event->kind == FH_TRACE_FREE) {
        if (!get_known(cursor, &event->address))
            return false;
        trace_model_free(cursor->model, event->address);
        return true;
    }
    if (!get_known(cursor, &event->old_address))
        return false;
    const uint64_t code = trace_get(&cursor->addresses);
    if (code == 0) {
        event->address = event->old_address;
        return true;
    }
    trace_model_free(cursor->model, event->old_address);
    event->address = get_new(cursor, event->size, code - 1);
    return true;
}

static uint64_t get_tick(struct cursor *cursor)
{
    const uint8_t pair = cursor->times[cursor->index / 2];
    uint64_t delta = cursor->index % 2 == 0 ? pair & 15 : pair >> 4;
    if (delta == TRACE_LONG_DELTA)
        delta += trace_get(&cursor->longs);
    return cursor->tick += delta;
}

static bool decode(const struct fh_trace *trace, struct cursor *cursor,
                   struct fh_trace_event *event)
{
    struct site *site = get_site(trace, cursor);
    if (site == NULL)
        return false;
    *event = (struct fh_trace_event){
        .stack = site->stack,
        .align = site->align,
        .thread = site->thread,
        .kind = site->kind,
        .flags = site->flags,
        .size = trace_has_size(site->kind) ? get_size(cursor, site) : 0,
    };
    if (trace_is_call(site->kind) && !get_addresses(cursor, event))
        return false;
    event->time_ns = to_ns(trace, get_tick(cursor));
    cursor->index++;
    return cursor->addresses.at != NULL && cursor->sizes.at != NULL && cursor->longs.at != NULL;
}

/* The next batch of the open chunk, which is closed behind its last event. */
static int fill(struct fh_trace *trace, struct cursor *cursor)
{
    cursor->at = cursor->end = 0;
    while (cursor->end < BATCH && cursor->index < cursor->count) {
        if (!decode(trace, cursor, &cursor->events[cursor->end]))
            return damaged(trace, cursor->offset, "an event is wrong");
        cursor->ticks[cursor->end++] = cursor->tick;
    }
    if (cursor->index < cursor->count)
        return 0;
    close_chunk(cursor);
    return cursor->tick == cursor->last_tick ? 0
                                             : damaged(trace, cursor->offset, "times are wrong");
}

/* ---- The heap of cursors -------------------------------------------------------------------- */

static bool is_before(const struct entry *a, const struct entry *b)
{
    if (a->tick != b->tick)
        return a->tick < b->tick;
    return a->rank != b->rank ? a->rank < b->rank : a->cursor < b->cursor;
}

static void sift_down(struct entry *heap, size_t len, size_t at)
{
    const struct entry moving = heap[at];
    for (size_t child; (child = 2 * at + 1) < len; at = child) {
        if (child + 1 < len && is_before(&heap[child + 1], &heap[child]))
            child++;
        if (!is_before(&heap[child], &moving))
            break;
        heap[at] = heap[child];
    }
    heap[at] = moving;
}

static uint32_t rank_of(const struct fh_trace_event *event)
{
    return event->kind == FH_TRACE_ALLOC ? 2 : event->kind == FH_TRACE_RESIZE ? 1 : 0;
}

/* Gives the top its next event's place, or takes it out at its stream's end. At the end of a chunk the
 * next one has the place of its header's first tick, and is opened (fill) when that is reached. */
static int settle_top(struct fh_trace *trace)
{
    struct entry *top = &trace->heap[0];
    struct cursor *cursor = &trace->cursors[top->cursor];
    if (cursor->at == cursor->end && cursor->index < cursor->count) {
        const int error = fill(trace, cursor);
        if (error != 0)
            return error;
    }
    if (cursor->at < cursor->end) {
        top->tick = cursor->ticks[cursor->at];
        top->rank = rank_of(&cursor->events[cursor->at]);
    } else if (cursor->next_chunk < cursor->stream->count) {
        top->tick = cursor->stream->chunks[cursor->next_chunk].chunk.first_tick;
        top->rank = 0;
    } else {
        end_cursor(cursor);
        trace->heap[0] = trace->heap[--trace->heap_len];
    }
    if (trace->heap_len > 1)
        sift_down(trace->heap, trace->heap_len, 0);
    return 0;
}

/* ---- Blocks of a forked process ------------------------------------------------------------- */

static size_t place_of(const struct address_set *set, uint64_t address)
{
    size_t place = (size_t)((address >> 4) * 0x9e3779b97f4a7c15u >> (64 - set->bits));
    while (set->places[place] != 0 && set->places[place] != address)
        place = (place + 1) & (((size_t)1 << set->bits) - 1);
    return place;
}

static bool set_add(struct address_set *set, uint64_t address)
{
    if (set->places == NULL || set->count >= (size_t)1 << (set->bits - 1)) {
        struct address_set more = {.bits = set->places == NULL ? 10 : set->bits + 1};
        more.places = calloc((size_t)1 << more.bits, sizeof(*more.places));
        if (more.places == NULL)
            return false;
        for (size_t i = 0; set->places != NULL && i < (size_t)1 << set->bits; i++)
            if (set->places[i] != 0)
                more.places[place_of(&more, set->places[i])] = set->places[i];
        more.count = set->count;
        free(set->places);
        *set = more;
    }
    const size_t place = place_of(set, address);
    set->count += set->places[place] == 0;
    set->places[place] = address;
    return true;
}

/* Knuth, volume 3, section 6.4, algorithm R: what stands behind moves up. */
static bool set_remove(struct address_set *set, uint64_t address)
{
    if (set->places == NULL || address == 0)
        return false;
    const size_t mask = ((size_t)1 << set->bits) - 1;
    size_t hole = place_of(set, address);
    if (set->places[hole] == 0)
        return false;
    for (size_t next = (hole + 1) & mask; set->places[next] != 0; next = (next + 1) & mask) {
        const size_t home =
            (size_t)((set->places[next] >> 4) * 0x9e3779b97f4a7c15u >> (64 - set->bits));
        if (((next - home) & mask) >= ((next - hole) & mask)) {
            set->places[hole] = set->places[next];
            hole = next;
        }
    }
    set->places[hole] = 0;
    set->count--;
    return true;
}

static int mark_inherited(struct fh_trace *trace, struct fh_trace_event *event)
{
    const uint64_t freed = event->kind == FH_TRACE_FREE     ? event->address
                           : event->kind == FH_TRACE_RESIZE ? event->old_address
                                                            : 0;
    if (freed != 0 && !set_remove(&trace->own, freed))
        event->flags |= FH_TRACE_INHERITED;
    if ((event->kind == FH_TRACE_ALLOC || event->kind == FH_TRACE_RESIZE) && event->address != 0 &&
        !set_add(&trace->own, event->address))
        return no_memory(trace);
    return 0;
}

/* ---- Reading -------------------------------------------------------------------------------- */

static void end_reading(struct fh_trace *trace)
{
    for (size_t i = 0; i < trace->cursor_count; i++)
        end_cursor(&trace->cursors[i]);
    free(trace->cursors);
    free(trace->heap);
    free(trace->own.places);
    trace->own = (struct address_set){0};
    trace->cursors = NULL;
    trace->heap = NULL;
    trace->cursor_count = trace->heap_len = 0;
    trace->current = NULL;
}

int fh_trace_begin(struct fh_trace *trace, unsigned index)
{
    if (index >= trace->process_count)
        return -EINVAL;
    end_reading(trace);
    struct process *process = &trace->processes[index];
    const size_t count = process->stream_count;
    trace->cursors = calloc(count + 1, sizeof(*trace->cursors));
    trace->heap = calloc(count + 1, sizeof(*trace->heap));
    if (trace->cursors == NULL || trace->heap == NULL) {
        end_reading(trace);
        return -ENOMEM;
    }
    trace->current = process;
    trace->is_at_damage = false;
    trace->cursor_count = trace->heap_len = count;
    for (size_t i = 0; i < count; i++) {
        trace->cursors[i].stream = &process->streams[i];
        trace->heap[i] =
            (struct entry){process->streams[i].chunks[0].chunk.first_tick, 0, (uint32_t)i};
    }
    for (size_t i = count / 2; i-- > 0;)
        sift_down(trace->heap, count, i);
    return 0;
}

/* Where no more events come: why. */
static long end_of_events(const struct fh_trace *trace)
{
    return trace->damage.error;
}

long fh_trace_read(struct fh_trace *trace, struct fh_trace_event *events, size_t max)
{
    size_t n = 0;
    if (trace->current == NULL || trace->is_at_damage)
        return end_of_events(trace);
    while (n < max && trace->heap_len > 0) {
        const struct entry *top = &trace->heap[0];
        struct cursor *cursor = &trace->cursors[top->cursor];
        if (!trace->has_mark || top->tick > trace->limit_tick)
            break;
        int error = 0;
        if (cursor->at < cursor->end) {
            events[n] = cursor->events[cursor->at++];
            if (trace->current->origin == TRACE_ORIGIN_FORK)
                error = mark_inherited(trace, &events[n]);
            n++;
        } else {
            error = open_chunk(trace, cursor);
        }
        if (error == 0)
            error = settle_top(trace);
        if (error != 0) {
            trace->is_at_damage = true;
            break;
        }
    }
    return n > 0 || max == 0 ? (long)n : end_of_events(trace);
}

/* ---- What else there is to know ------------------------------------------------------------- */

const struct fh_trace_problem *fh_trace_problem_of(const struct fh_trace *trace)
{
    return trace->damage.error != 0 ? &trace->damage : NULL;
}

const struct fh_trace_info *fh_trace_info(const struct fh_trace *trace)
{
    return &trace->info;
}

const struct fh_trace_process *fh_trace_process(const struct fh_trace *trace, unsigned index)
{
    return index < trace->process_count ? &trace->processes[index].told : NULL;
}

size_t fh_trace_frames(struct fh_trace *trace, uint32_t stack, uint64_t *frames, size_t max)
{
    size_t n = 0;
    if (trace->current == NULL)
        return 0;
    for (; stack != 0 && stack < trace->current->node_count;
         stack = trace->current->nodes[stack].parent, n++)
        if (n < max)
            frames[n] = trace->current->nodes[stack].frame;
    return n;
}

uint32_t fh_trace_stack_limit(const struct fh_trace *trace)
{
    return trace->current != NULL && trace->current->node_count > 0
               ? (uint32_t)trace->current->node_count
               : 1;
}

const struct fh_trace_module *fh_trace_module(const struct fh_trace *trace, size_t index)
{
    return trace->current != NULL && index < trace->current->module_count
               ? &trace->current->modules[index]
               : NULL;
}

static void free_process(struct process *process)
{
    for (size_t i = 0; i < process->stream_count; i++)
        free(process->streams[i].chunks);
    for (size_t i = 0; i < process->module_count; i++) {
        free((void *)(uintptr_t)process->modules[i].path);
        free((void *)(uintptr_t)process->modules[i].build_id);
    }
    free(process->program);
    free(process->streams);
    free(process->nodes);
    free(process->modules);
}

void fh_trace_close(struct fh_trace *trace)
{
    if (trace == NULL)
        return;
    end_reading(trace);
    for (size_t i = 0; i < trace->process_count; i++)
        free_process(&trace->processes[i]);
    free(trace->processes);
    free(trace->command);
    free(trace->stored);
    ZSTD_freeDCtx(trace->unpacker);
    if (trace->fd >= 0)
        close(trace->fd);
    free(trace);
}
