/*
 * Writes a trace of a modelled program:  trace_model FILE PATTERN [EVENTS [LIVE]]
 *
 *   small    14 calls whose figures are known: see replay.sh
 *   mix      EVENTS calls that allocate and free at random, about half of LIVE blocks live, 16 to
 *            4096 bytes, as many of each power of two
 *   grow     resizes of LIVE blocks up to 64 KiB, each in small steps
 *   queue    first in, first out, LIVE blocks of 16 to 256 bytes: what an arena could serve in
 *            rounds
 *   threads  mix, each call by one of four threads
 *   empty    no calls
 */
#include "freehold/trace.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct fh_trace_writer *writer;
static uint64_t now_ns;

static void write_event(struct fh_trace_event event)
{
    event.time_ns = now_ns += 100;
    if (fh_trace_write(writer, &event) != 0) {
        fputs("trace_model: the trace can't be written\n", stderr);
        exit(1);
    }
}

static void allocate(uint64_t address, uint64_t size, uint32_t align, uint8_t flags,
                     uint32_t thread)
{
    write_event((struct fh_trace_event){.kind = FH_TRACE_ALLOC,
                                        .address = address,
                                        .size = size,
                                        .align = align,
                                        .flags = flags,
                                        .thread = thread});
}

static void release(uint64_t address, uint32_t thread)
{
    write_event(
        (struct fh_trace_event){.kind = FH_TRACE_FREE, .address = address, .thread = thread});
}

static void resize(uint64_t from, uint64_t to, uint64_t size)
{
    write_event((struct fh_trace_event){
        .kind = FH_TRACE_RESIZE, .old_address = from, .address = to, .size = size});
}

static uint64_t random_number(void)
{
    static uint64_t state = 0x9e3779b97f4a7c15U;
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return state * 0x2545f4914f6cdd1dU;
}

/* As many below each power of two as below the next, between 2^low and 2^high. */
static uint64_t random_size(unsigned low, unsigned high)
{
    const unsigned log = low + (unsigned)((random_number() >> 33) % (high - low));
    return ((uint64_t)1 << log) + (random_number() >> 20) % ((uint64_t)1 << log);
}

/* Peak: 1000 + 300 + 64 + 4096 = 5460 bytes in 4 blocks after the 7th call; at the end 300 in
 * one. */
static void write_small(void)
{
    enum { A = 0x1000, B = 0x2000, C = 0x3000, D = 0x4000, E = 0x10000, FOREIGN = 0x9000 };
    allocate(A, 100, 0, 0, 0);
    allocate(B, 300, 0, FH_TRACE_ZEROED, 0);
    resize(A, D, 1000);
    release(FOREIGN, 0);
    allocate(C, 64, 64, 0, 0);
    allocate(A, 40, 0, 0, 0);
    release(A, 0);
    allocate(E, 4096, 4096, 0, 0);
    release(E, 0);
    release(D, 0);
    allocate(D, 0, 0, 0, 0);
    resize(D, D, 10);
    release(D, 0);
    release(C, 0);
}

static void write_mix(uint64_t events, uint64_t live, uint32_t threads)
{
    unsigned char *is_live = calloc(live, 1);
    for (uint64_t i = 0; i < events && is_live != NULL; i++) {
        const uint64_t which = (random_number() >> 16) % live;
        const uint64_t address = (which + 1) << 13;
        const uint32_t thread = (uint32_t)((random_number() >> 40) % threads);
        if (is_live[which]) {
            release(address, thread);
        } else {
            allocate(address, random_size(4, 12), 0, 0, thread);
        }
        is_live[which] ^= 1;
    }
    free(is_live);
}

static void write_growth(uint64_t events, uint64_t live)
{
    uint64_t *sizes = calloc(live, sizeof(*sizes));
    for (uint64_t i = 0; i < events && sizes != NULL; i++) {
        const uint64_t which = i % live;
        const uint64_t address = (which + 1) << 17;
        if (sizes[which] == 0) {
            sizes[which] = 16;
            allocate(address, sizes[which], 0, 0, 0);
        } else if (sizes[which] > 65536 - 512) {
            sizes[which] = 0;
            release(address, 0);
        } else {
            sizes[which] += random_size(4, 9);
            resize(address, address, sizes[which]);
        }
    }
    free(sizes);
}

static void write_queue(uint64_t events, uint64_t live)
{
    for (uint64_t i = 0; i < events; i++) {
        const uint64_t turn = i / 2;
        if (i % 2 == 0 || turn < live) {
            allocate(((i % 2 == 0 ? turn : turn + events) + 1) << 9, random_size(4, 8), 0, 0, 0);
        } else {
            release((turn - live + 1) << 9, 0);
        }
    }
}

int main(int argc, char **argv)
{
    struct fh_trace_problem problem;
    const uint64_t events = argc > 3 ? strtoull(argv[3], NULL, 0) : 10000;
    const uint64_t live = argc > 4 ? strtoull(argv[4], NULL, 0) : 1000;
    if (argc < 3 || events == 0 || live == 0) {
        fputs("usage: trace_model FILE PATTERN [EVENTS [LIVE]]\n", stderr);
        return 2;
    }
    writer = fh_trace_create(argv[1], "model of a program", &problem);
    if (writer == NULL) {
        fprintf(stderr, "trace_model: %s\n", problem.text);
        return 1;
    }
    if (strcmp(argv[2], "small") == 0) {
        write_small();
    } else if (strcmp(argv[2], "mix") == 0) {
        write_mix(events, live, 1);
    } else if (strcmp(argv[2], "threads") == 0) {
        write_mix(events, live, 4);
    } else if (strcmp(argv[2], "grow") == 0) {
        write_growth(events, live);
    } else if (strcmp(argv[2], "queue") == 0) {
        write_queue(events, live);
    } else if (strcmp(argv[2], "empty") != 0) {
        fprintf(stderr, "trace_model: no pattern '%s'\n", argv[2]);
        return 2;
    }
    if (fh_trace_finish(writer) != 0) {
        fputs("trace_model: the trace can't be written\n", stderr);
        return 1;
    }
    return 0;
}
