/* The file: chunks, one after the other, each compressed and with its checksums. */
#include "trace_encode.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
#include <zstd.h>

/* Level 1 packs columns nearly as well as level 3 does, in half the time (measured on Lua and SQLite
 * runs); what it costs is part of what recording costs. */
enum { LEVEL = 1 };

/* ---- Buffers -------------------------------------------------------------------------------- */

uint8_t *trace_buffer_room(struct trace_buffer *buffer, size_t size)
{
    if (buffer->failed || size > SIZE_MAX / 4 - buffer->len) {
        buffer->failed = true;
        return NULL;
    }
    if (buffer->len + size > buffer->capacity) {
        size_t capacity = buffer->capacity < 256 ? 256 : buffer->capacity;
        while (capacity < buffer->len + size)
            capacity *= 2;
        uint8_t *data = realloc(buffer->data, capacity);
        if (data == NULL) {
            buffer->failed = true;
            return NULL;
        }
        buffer->data = data;
        buffer->capacity = capacity;
    }
    return buffer->data + buffer->len;
}

void trace_buffer_add(struct trace_buffer *buffer, const void *data, size_t size)
{
    uint8_t *room = trace_buffer_room(buffer, size);
    if (room != NULL && size != 0) {
        memcpy(room, data, size);
        buffer->len += size;
    }
}

void trace_buffer_varint(struct trace_buffer *buffer, uint64_t value)
{
    uint8_t *room = trace_buffer_room(buffer, TRACE_VARINT_MAX);
    if (room != NULL)
        buffer->len = (size_t)(trace_put(room, value) - buffer->data);
}

void trace_buffer_text(struct trace_buffer *buffer, const void *data, size_t size)
{
    trace_buffer_varint(buffer, size);
    trace_buffer_add(buffer, data, size);
}

void trace_buffer_free(struct trace_buffer *buffer)
{
    free(buffer->data);
    memset(buffer, 0, sizeof(*buffer));
}

/* ---- Chunks --------------------------------------------------------------------------------- */

static int fail(struct trace_file *file, int error)
{
    if (file->error == 0)
        file->error = error;
    return file->error;
}

static int write_all(struct trace_file *file, const uint8_t *data, size_t size)
{
    while (size > 0) {
        const ssize_t written = write(file->fd, data, size);
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0)
            return fail(file, written == 0 ? -ENOSPC : -errno);
        data += written;
        size -= (size_t)written;
        file->bytes += (uint64_t)written;
    }
    return 0;
}

/* Adds the packed part to `stored`, compressed if that makes it shorter. */
static void add_packed(struct trace_file *file, const void *packed, size_t size)
{
    struct trace_buffer *stored = &file->stored;
    struct trace_sections *sections = (void *)trace_buffer_room(stored, sizeof(*sections));
    const size_t sections_at = stored->len;
    if (sections == NULL)
        return;
    stored->len += sizeof(*sections);
    uint8_t *room = trace_buffer_room(stored, ZSTD_compressBound(size));
    if (room == NULL)
        return;
    size_t packed_stored =
        ZSTD_compress2(file->compressor, room, ZSTD_compressBound(size), packed, size);
    if (ZSTD_isError(packed_stored) || packed_stored >= size) {
        packed_stored = size;
        if (size != 0)
            memcpy(room, packed, size);
    }
    stored->len += packed_stored;
    const struct trace_sections said = {(uint32_t)size, (uint32_t)packed_stored};
    memcpy(stored->data + sections_at, &said, sizeof(said));
}

int trace_file_chunk(struct trace_file *file, struct trace_chunk *chunk, const void *packed,
                     size_t packed_size, const void *plain, size_t plain_size)
{
    if (file->error != 0)
        return file->error;
    if (packed_size > TRACE_PAYLOAD_MAX / 2 || plain_size > TRACE_PAYLOAD_MAX / 4)
        return fail(file, -EFBIG);
    file->stored.len = sizeof(*chunk);
    if (trace_buffer_room(&file->stored, 0) == NULL)
        return fail(file, -ENOMEM);
    add_packed(file, packed, packed_size);
    trace_buffer_add(&file->stored, plain, plain_size);
    if (file->stored.failed)
        return fail(file, -ENOMEM);
    uint8_t *payload = file->stored.data + sizeof(*chunk);
    chunk->mark = TRACE_CHUNK_MARK;
    chunk->stored = (uint32_t)(file->stored.len - sizeof(*chunk));
    chunk->payload_crc = trace_crc32c(payload, chunk->stored);
    chunk->header_crc = trace_crc32c(chunk, offsetof(struct trace_chunk, header_crc));
    memcpy(file->stored.data, chunk, sizeof(*chunk));
    return write_all(file, file->stored.data, file->stored.len);
}

static int chunk_of(struct trace_file *file, struct trace_chunk chunk, struct trace_buffer *payload)
{
    const int error = payload->failed
                          ? fail(file, -ENOMEM)
                          : trace_file_chunk(file, &chunk, payload->data, payload->len, NULL, 0);
    trace_buffer_free(payload);
    return error;
}

int trace_file_begin(struct trace_file *file, int fd, uint64_t tick, const char *command)
{
    struct timespec now;
    struct trace_head head = {.magic = TRACE_MAGIC, .version = TRACE_VERSION};
    struct trace_buffer payload = {0};
    *file = (struct trace_file){.fd = fd, .compressor = ZSTD_createCCtx()};
    if (file->compressor == NULL)
        return fail(file, -ENOMEM);
    ZSTD_CCtx_setParameter(file->compressor, ZSTD_c_compressionLevel, LEVEL);
    /* The file must exist with a head from the first moment: an empty one could be anything. */
    if (trace_buffer_room(&file->stored, sizeof(struct trace_chunk)) == NULL)
        return fail(file, -ENOMEM);
    head.crc = trace_crc32c(&head, offsetof(struct trace_head, crc));
    clock_gettime(CLOCK_REALTIME, &now);
    trace_buffer_varint(&payload, tick);
    trace_buffer_varint(&payload, (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec);
    trace_buffer_text(&payload, command, strlen(command));
    if (write_all(file, (const uint8_t *)&head, sizeof(head)) != 0) {
        trace_buffer_free(&payload);
        return file->error;
    }
    return chunk_of(file, (struct trace_chunk){.kind = TRACE_CHUNK_START}, &payload);
}

int trace_file_mark(struct trace_file *file, uint64_t tick)
{
    struct trace_chunk chunk = {
        .kind = TRACE_CHUNK_MARK_TIME, .first_tick = tick, .last_tick = tick};
    return trace_file_chunk(file, &chunk, NULL, 0, NULL, 0);
}

int trace_file_end(struct trace_file *file, uint64_t tick)
{
    struct trace_buffer payload = {0};
    trace_buffer_varint(&payload, tick);
    return chunk_of(file, (struct trace_chunk){.kind = TRACE_CHUNK_END}, &payload);
}

int trace_file_close(struct trace_file *file)
{
    if (close(file->fd) != 0)
        fail(file, -errno);
    ZSTD_freeCCtx(file->compressor);
    trace_buffer_free(&file->stored);
    return file->error;
}

/* ---- Processes and modules ------------------------------------------------------------------ */

int trace_file_process(struct trace_file *file, const struct trace_process_start *start)
{
    struct trace_buffer payload = {0};
    trace_buffer_varint(&payload, (uint64_t)start->pid);
    trace_buffer_varint(&payload, (uint64_t)start->parent + 1);
    trace_buffer_varint(&payload, start->origin);
    trace_buffer_text(&payload, start->program, strlen(start->program));
    return chunk_of(file,
                    (struct trace_chunk){.kind = TRACE_CHUNK_PROCESS,
                                         .process = start->process,
                                         .first_tick = start->tick,
                                         .last_tick = start->tick},
                    &payload);
}

int trace_file_process_end(struct trace_file *file, uint32_t process, uint64_t tick,
                           int wait_status, uint64_t lost)
{
    struct trace_buffer payload = {0};
    trace_buffer_varint(&payload, (uint64_t)((int64_t)wait_status + 1));
    trace_buffer_varint(&payload, lost);
    return chunk_of(file,
                    (struct trace_chunk){.kind = TRACE_CHUNK_PROCESS_END,
                                         .process = process,
                                         .first_tick = tick,
                                         .last_tick = tick},
                    &payload);
}

int trace_file_module(struct trace_file *file, uint32_t process,
                      const struct trace_module_record *module)
{
    struct trace_buffer payload = {0};
    trace_buffer_varint(&payload, TRACE_MODULE_LOAD);
    trace_buffer_varint(&payload, module->begin);
    trace_buffer_varint(&payload, module->end);
    trace_buffer_varint(&payload, module->bias);
    trace_buffer_varint(&payload, module->from_tick);
    trace_buffer_varint(&payload, module->until_tick);
    trace_buffer_text(&payload, module->path, strlen(module->path));
    trace_buffer_text(&payload, module->build_id, module->build_id_size);
    return chunk_of(file,
                    (struct trace_chunk){.kind = TRACE_CHUNK_MODULES,
                                         .process = process,
                                         .count = 1,
                                         .first_tick = module->from_tick,
                                         .last_tick = module->from_tick},
                    &payload);
}

int trace_file_module_unload(struct trace_file *file, uint32_t process, uint32_t number,
                             uint64_t tick)
{
    struct trace_buffer payload = {0};
    trace_buffer_varint(&payload, TRACE_MODULE_UNLOAD);
    trace_buffer_varint(&payload, number);
    trace_buffer_varint(&payload, tick);
    return chunk_of(file,
                    (struct trace_chunk){.kind = TRACE_CHUNK_MODULES,
                                         .process = process,
                                         .count = 1,
                                         .first_tick = tick,
                                         .last_tick = tick},
                    &payload);
}

/* ---- Stacks --------------------------------------------------------------------------------- */

static uint32_t hash_of(uint64_t frame, uint32_t parent)
{
    const uint64_t mixed = (frame ^ (uint64_t)parent << 40 ^ parent) * 0x9e3779b97f4a7c15u;
    return (uint32_t)((mixed ^ mixed >> 29) * 0xbf58476d1ce4e5b9u >> 32);
}

static uint32_t node_count(const struct trace_tree *tree)
{
    return (uint32_t)(tree->nodes.len / sizeof(struct trace_node));
}

static const struct trace_node *node_at(const struct trace_tree *tree, uint32_t id)
{
    return (const struct trace_node *)(const void *)tree->nodes.data + (id - 1);
}

/* Twice the places, or the first ones. */
static bool grow_table(struct trace_tree *tree)
{
    const uint32_t bits = tree->table == NULL ? 8 : tree->table_bits + 1;
    uint32_t *table = bits <= 30 ? calloc((size_t)1 << bits, sizeof(*table)) : NULL;
    if (table == NULL)
        return false;
    for (uint32_t id = 1; id <= node_count(tree); id++) {
        uint32_t place = node_at(tree, id)->hash >> (32 - bits);
        while (table[place] != 0)
            place = (place + 1) & ((1u << bits) - 1);
        table[place] = id;
    }
    free(tree->table);
    tree->table = table;
    tree->table_bits = bits;
    return true;
}

static uint32_t intern(struct trace_tree *tree, uint32_t parent, uint64_t frame)
{
    if ((tree->table == NULL || node_count(tree) >= 1u << (tree->table_bits - 1)) &&
        !grow_table(tree))
        return 0;
    const uint32_t hash = hash_of(frame, parent);
    uint32_t place = hash >> (32 - tree->table_bits);
    for (; tree->table[place] != 0; place = (place + 1) & ((1u << tree->table_bits) - 1)) {
        const struct trace_node *node = node_at(tree, tree->table[place]);
        if (node->frame == frame && node->parent == parent)
            return tree->table[place];
    }
    const struct trace_node node = {frame, parent, hash};
    trace_buffer_add(&tree->nodes, &node, sizeof(node));
    if (tree->nodes.failed) {
        tree->nodes.failed = false; /* the next stack may find memory again */
        return 0;
    }
    return tree->table[place] = node_count(tree);
}

uint32_t trace_tree_id(struct trace_tree *tree, const uint64_t *frames, size_t count)
{
    uint32_t id = 0;
    for (size_t i = count; i-- > 0;) {
        id = intern(tree, id, frames[i]);
        if (id == 0)
            return 0;
    }
    return id;
}

int trace_tree_flush(struct trace_tree *tree, struct trace_file *file, uint32_t process)
{
    enum { PER_CHUNK = 1 << 20 }; /* so that a payload stays below what a reader takes */
    while (tree->written < node_count(tree)) {
        const uint32_t first = tree->written + 1;
        const uint32_t left = node_count(tree) - tree->written;
        const uint32_t count = left < PER_CHUNK ? left : PER_CHUNK;
        struct trace_buffer payload = {0};
        uint64_t before = 0;
        trace_buffer_varint(&payload, first);
        for (uint32_t id = first; id < first + count; id++) {
            const struct trace_node *node = node_at(tree, id);
            trace_buffer_varint(&payload, id - node->parent);
            trace_buffer_varint(&payload, trace_zigzag((int64_t)(node->frame - before)));
            before = node->frame;
        }
        const int error = chunk_of(
            file,
            (struct trace_chunk){.kind = TRACE_CHUNK_STACKS, .process = process, .count = count},
            &payload);
        if (error != 0)
            return error;
        tree->written += count;
    }
    return 0;
}

void trace_tree_free(struct trace_tree *tree)
{
    trace_buffer_free(&tree->nodes);
    free(tree->table);
    memset(tree, 0, sizeof(*tree));
}
