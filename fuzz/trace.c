#define _GNU_SOURCE
/*
 * libFuzzer target: the reader of traces on any bytes. Checksums keep random changes out of the
 * parser, so the input is taken as a file whose checksums are made right first: every chunk header
 * that is found gets the checksums that its bytes ask for.
 *
 *     fuzz/trace -max_len=16384 -max_total_time=60 CORPUS
 */
#include "tools/trace_format.h"

#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

enum { BYTES_MAX = 1 << 20 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void make_checksums_right(uint8_t *bytes, size_t size)
{
    struct trace_head head;
    struct trace_chunk chunk;
    memcpy(&head, bytes, sizeof(head));
    head.crc = trace_crc32c(&head, offsetof(struct trace_head, crc));
    memcpy(bytes, &head, sizeof(head));
    for (size_t at = sizeof(head); size - at >= sizeof(chunk); at += sizeof(chunk) + chunk.stored) {
        memcpy(&chunk, bytes + at, sizeof(chunk));
        chunk.mark = TRACE_CHUNK_MARK;
        if (chunk.stored > size - at - sizeof(chunk))
            chunk.stored = (uint32_t)(size - at - sizeof(chunk));
        chunk.payload_crc = trace_crc32c(bytes + at + sizeof(chunk), chunk.stored);
        chunk.header_crc = trace_crc32c(&chunk, offsetof(struct trace_chunk, header_crc));
        memcpy(bytes + at, &chunk, sizeof(chunk));
    }
}

static void read_all(struct fh_trace *trace)
{
    struct fh_trace_event events[100];
    uint64_t frames[32];
    for (unsigned i = 0; i < fh_trace_info(trace)->process_count && i < 8; i++) {
        fh_trace_begin(trace, i);
        for (long n; (n = fh_trace_read(trace, events, 100)) > 0;)
            fh_trace_frames(trace, events[n - 1].stack, frames, 32);
        for (size_t m = 0; fh_trace_module(trace, m) != NULL; m++)
            continue;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t bytes[BYTES_MAX];
    static int fd = -1;
    static char path[32];
    struct fh_trace *trace;
    if (fd < 0) {
        fd = memfd_create("trace", MFD_CLOEXEC);
        snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    }
    if (size < sizeof(struct trace_head) || size > sizeof(bytes))
        return 0;
    memcpy(bytes, data, size);
    make_checksums_right(bytes, size);
    if (ftruncate(fd, 0) != 0 || pwrite(fd, bytes, size, 0) != (ssize_t)size)
        return 0;
    trace = fh_trace_open(path, NULL);
    if (trace != NULL)
        read_all(trace);
    fh_trace_close(trace);
    return 0;
}
