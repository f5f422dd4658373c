/*
 * Writing traces, for the two that do: the public writer (trace_writer.c) and the recorder of the
 * command. A file takes chunks; a stream turns events into chunks; a tree gives stacks their ids.
 * Nothing here is thread-safe.
 */
#ifndef FH_TOOLS_TRACE_ENCODE_H
#define FH_TOOLS_TRACE_ENCODE_H

#include "trace_format.h"
#include "trace_model.h"

/* Bytes that grow; after memory ran out `failed` says so and nothing more is added. */
struct trace_buffer {
    uint8_t *data;
    size_t len, capacity;
    bool failed;
};

/* Room for `size` more bytes at the end, or NULL. */
uint8_t *trace_buffer_room(struct trace_buffer *buffer, size_t size);
void trace_buffer_add(struct trace_buffer *buffer, const void *data, size_t size);
void trace_buffer_varint(struct trace_buffer *buffer, uint64_t value);
/* A varint length and the bytes. */
void trace_buffer_text(struct trace_buffer *buffer, const void *data, size_t size);
void trace_buffer_free(struct trace_buffer *buffer);

/* ---- The file ------------------------------------------------------------------------------- */

struct trace_file {
    int fd;
    int error;      /* the first one, a negative errno; nothing is written after it */
    uint64_t bytes; /* written so far */
    void *compressor;
    struct trace_buffer stored; /* of the chunk that is being written */
};

/* Writes head and START chunk to the descriptor, which the file then owns. `tick` is the length of a
 * tick in 2^-32 ns. */
int trace_file_begin(struct trace_file *file, int fd, uint64_t tick, const char *command);
/* One chunk; `chunk` says all but sizes and checksums. The packed part is compressed. */
int trace_file_chunk(struct trace_file *file, struct trace_chunk *chunk, const void *packed,
                     size_t packed_size, const void *plain, size_t plain_size);
/* All events up to this tick are in the file. */
int trace_file_mark(struct trace_file *file, uint64_t tick);
/* The END chunk, with the last word on the length of a tick. */
int trace_file_end(struct trace_file *file, uint64_t tick);
/* Closes the descriptor and frees; the first error. */
int trace_file_close(struct trace_file *file);

struct trace_process_start {
    uint32_t process;
    int pid, parent;
    enum trace_origin origin;
    uint64_t tick;
    const char *program;
};
int trace_file_process(struct trace_file *file, const struct trace_process_start *start);
/* wait_status -1: not known. `lost`: events that no stream could tell of. */
int trace_file_process_end(struct trace_file *file, uint32_t process, uint64_t tick,
                           int wait_status, uint64_t lost);
struct trace_module_record {
    uint64_t begin, end, bias;
    uint64_t from_tick, until_tick; /* until UINT64_MAX: not unloaded yet */
    const char *path;
    const uint8_t *build_id;
    size_t build_id_size;
};
/* Times in ticks; returns the error of the file. Modules of a process are numbered from 0 in the order
 * of these calls. */
int trace_file_module(struct trace_file *file, uint32_t process,
                      const struct trace_module_record *module);
int trace_file_module_unload(struct trace_file *file, uint32_t process, uint32_t number,
                             uint64_t tick);

/* ---- Stacks --------------------------------------------------------------------------------- */

/* A process's stacks as a tree of {caller, return address}; nodes are numbered from 1. */
struct trace_tree {
    struct trace_buffer nodes; /* of struct trace_node, node 1 first */
    uint32_t *table;           /* open addressing by hash: node numbers, 0 empty */
    uint32_t table_bits;
    uint32_t written; /* nodes that are in the file */
};
struct trace_node {
    uint64_t frame;
    uint32_t parent;
    uint32_t hash;
};

/* The id of a stack, innermost frame first; 0 for none, or without memory. */
uint32_t trace_tree_id(struct trace_tree *tree, const uint64_t *frames, size_t count);
/* Writes what is not in the file yet: before the events that name it. */
int trace_tree_flush(struct trace_tree *tree, struct trace_file *file, uint32_t process);
void trace_tree_free(struct trace_tree *tree);

/* ---- Streams -------------------------------------------------------------------------------- */

enum {
    /* A chunk has so many events at most: some 80 KiB packed, which is enough for zstd, and little
     * enough for a reader to hold one for each thread. */
    TRACE_CHUNK_EVENTS_MAX = 32768,
};

/* What is the same for many events: a thread's calls from one place. */
struct trace_site {
    uint64_t last_size;
    uint32_t stack;
    uint32_t align;
    uint32_t thread;
    uint8_t kind, flags;
    uint32_t number; /* in the file since the stream's last fresh start; UINT32_MAX: none yet */
};

struct trace_stream {
    uint32_t process, stream;
    uint32_t threads; /* highest number of a thread in the open chunk, plus one */
    struct trace_site *sites;
    uint32_t site_count, site_capacity;
    uint32_t *site_table; /* by hash, for trace_stream_site; NULL until first used */
    uint32_t site_table_bits;
    uint32_t numbered; /* sites with a number */
    uint32_t slots[TRACE_SLOTS];
    struct trace_model model;
    bool is_fresh; /* the chunk begins anew */
    uint64_t tick; /* of the last event */
    uint64_t first_tick;
    uint32_t count, calls; /* events in the open chunk */
    uint64_t lost;
    uint64_t total_calls;
    uint8_t *ops, *times, *ops_end;
    uint8_t *memory; /* one piece for all columns */
    uint8_t *sites_column, *sites_end;
    uint8_t *sizes_column, *sizes_end;
    uint8_t *addresses_column, *addresses_end;
    uint8_t *longs_column, *longs_end;
};

/* 0 or -ENOMEM. */
int trace_stream_begin(struct trace_stream *stream, uint32_t process, uint32_t index);
void trace_stream_free(struct trace_stream *stream);
/* A site's index for trace_stream_add; UINT32_MAX without memory. _add_site makes one without looking
 * whether it is there. */
uint32_t trace_stream_site(struct trace_stream *stream, const struct trace_site *site);
uint32_t trace_stream_add_site(struct trace_stream *stream, const struct trace_site *site);
/* Adds an event; the stream must not be full. Ticks must not decrease. */
void trace_stream_add(struct trace_stream *stream, uint32_t site, uint64_t tick, uint64_t address,
                      uint64_t old_address, uint64_t size);
/* An event with this address (its lower 48 bits) comes soon: what adding it will read is fetched. */
static inline void trace_stream_expect(const struct trace_stream *stream, uint64_t address)
{
    __builtin_prefetch(trace_slot_of(&stream->model, address & 0xffffffffffffu), 1);
}
static inline bool trace_stream_is_full(const struct trace_stream *stream)
{
    return stream->count == TRACE_CHUNK_EVENTS_MAX;
}
/* Writes the open chunk, if it has events. */
int trace_stream_flush(struct trace_stream *stream, struct trace_file *file);

#endif
