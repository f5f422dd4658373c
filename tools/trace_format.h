/*
 * The layout of a trace, shared by reader and writers; docs/trace-format.md is its description.
 *
 * A trace is a head of 16 bytes and then chunks: a header of 64 bytes each and a payload. Both carry
 * a CRC-32C, so a flipped byte is found with certainty and a cut file ends at its last whole chunk.
 * Headers say all that a reader needs for its index (whose events, how many, from when to when), so
 * there is no index in the file: a scan of the headers is one.
 *
 * All numbers are little-endian. "Varint" is LEB128, 7 bits a byte, low ones first.
 */
#ifndef FH_TOOLS_TRACE_FORMAT_H
#define FH_TOOLS_TRACE_FORMAT_H

#include "freehold/trace.h"

#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
               "headers are written as they lie in memory");

#define TRACE_MAGIC "FHTRACE"

enum {
    TRACE_VERSION = 1,
    TRACE_CHUNK_MARK = 0x4b4e4843, /* "CHNK" */
    /* What a reader must be able to hold in memory at once for one chunk; writers stay far below. */
    TRACE_PAYLOAD_MAX = 64 << 20,
};

struct trace_head {
    char magic[8];
    uint32_t version;
    uint32_t crc; /* of the twelve bytes before it, in every version */
};
_Static_assert(sizeof(struct trace_head) == 16, "layout of the file");

enum trace_chunk_kind {
    TRACE_CHUNK_START = 1,   /* the first: clock, time of day, command */
    TRACE_CHUNK_PROCESS,     /* a process begins */
    TRACE_CHUNK_PROCESS_END, /* and ends */
    TRACE_CHUNK_STACKS,      /* nodes of the process's tree of stacks */
    TRACE_CHUNK_MODULES,     /* loaded and unloaded code */
    TRACE_CHUNK_EVENTS,      /* of one stream: usually a thread's */
    TRACE_CHUNK_MARK_TIME,   /* all events up to last_tick are in the file */
    TRACE_CHUNK_END,         /* the last: the file is whole */
};

enum { TRACE_FRESH = 1 }; /* flags of EVENTS: the stream's sites and predictions begin anew */

struct trace_chunk {
    uint32_t mark;
    uint8_t kind;
    uint8_t flags;
    uint16_t zero;
    uint32_t process; /* index; chunks of the whole file: 0 */
    uint32_t stream;  /* of EVENTS: counted within the process */
    uint32_t threads; /* of EVENTS: the highest number of a thread in it, plus one */
    uint32_t count;   /* of records in the payload */
    uint32_t calls;   /* of EVENTS: those of the kinds ALLOC, FREE, RESIZE */
    uint32_t stored;  /* bytes of the payload in the file */
    uint64_t first_tick, last_tick;
    uint64_t lost; /* of EVENTS: the sum over its events of the kind LOST */
    uint32_t payload_crc;
    uint32_t header_crc; /* of the sixty bytes before it */
};
_Static_assert(sizeof(struct trace_chunk) == 64, "layout of the file");

/* A payload is a packed part (zstd, where that is shorter) and a plain part behind it. */
struct trace_sections {
    uint32_t packed_raw;    /* bytes when unpacked */
    uint32_t packed_stored; /* bytes in the file; the same: not compressed */
};

/* The code of a process's PROCESS chunk for how it came to be. */
enum trace_origin { TRACE_ORIGIN_FIRST, TRACE_ORIGIN_FORK, TRACE_ORIGIN_EXEC };

/* Operations of a MODULES chunk. */
enum trace_module_op { TRACE_MODULE_LOAD, TRACE_MODULE_UNLOAD };

/* Op codes of events: below this the slot of a site, this itself: a site's number follows. */
enum { TRACE_SLOTS = 255 };

/* Time deltas of so many ticks and more do not fit into the half byte that each event has. */
enum { TRACE_LONG_DELTA = 15 };

uint32_t trace_crc32c(const void *data, size_t size);

static inline bool trace_has_size(unsigned kind)
{
    return kind == FH_TRACE_ALLOC || kind == FH_TRACE_RESIZE || kind == FH_TRACE_FORK ||
           kind == FH_TRACE_LOST;
}

static inline bool trace_is_call(unsigned kind)
{
    return kind == FH_TRACE_ALLOC || kind == FH_TRACE_FREE || kind == FH_TRACE_RESIZE;
}

static inline uint64_t trace_zigzag(int64_t value)
{
    return (uint64_t)value << 1 ^ (uint64_t)(value >> 63);
}

static inline int64_t trace_unzigzag(uint64_t value)
{
    return (int64_t)(value >> 1) ^ -(int64_t)(value & 1);
}

enum { TRACE_VARINT_MAX = 10 };

static inline uint8_t *trace_put(uint8_t *out, uint64_t value)
{
    while (value >= 0x80) {
        *out++ = (uint8_t)(value | 0x80);
        value >>= 7;
    }
    *out++ = (uint8_t)value;
    return out;
}

/* Bytes that are read from: after a read beyond the end, `at` is NULL and all reads give 0. */
struct trace_bytes {
    const uint8_t *at, *end;
};

static inline uint64_t trace_get(struct trace_bytes *bytes)
{
    uint64_t value = 0;
    const uint8_t *at = bytes->at;
    if (at == NULL)
        return 0;
    for (unsigned shift = 0; at < bytes->end && shift < 64; shift += 7) {
        const uint8_t byte = *at++;
        value |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80) {
            bytes->at = at;
            return value;
        }
    }
    bytes->at = NULL;
    return 0;
}

/* `size` bytes as they are, or NULL. */
static inline const uint8_t *trace_get_bytes(struct trace_bytes *bytes, uint64_t size)
{
    const uint8_t *start = bytes->at;
    if (start == NULL || size > (uint64_t)(bytes->end - start)) {
        bytes->at = NULL;
        return NULL;
    }
    bytes->at = start + size;
    return start;
}

#endif
