/*
 * Traces written and read back: what comes out is what went in, and what a damaged, cut or newer file
 * gives is a beginning of it or a sentence, never a crash.
 */
#include "freehold/trace.h"
#include "tools/trace_encode.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>

enum { EVENTS = 100000, SMALL = 400 };

static char path[64], other_path[64];

static int make_names(void **state)
{
    (void)state;
    snprintf(path, sizeof(path), "/tmp/freehold-trace-%d", (int)getpid());
    snprintf(other_path, sizeof(other_path), "/tmp/freehold-trace-%d-other", (int)getpid());
    return 0;
}

static int remove_files(void **state)
{
    (void)state;
    unlink(path);
    unlink(other_path);
    return 0;
}

/* ---- A program's life, made up ---- */

static uint64_t random_state;
static uint64_t next_random(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

struct life {
    struct fh_trace_event *events;
    size_t count;
    uint64_t live[1024], sizes[1024];
};

/* Blocks come and go at random, from a few hundred stacks and seven threads; addresses are reused. */
static void live(struct life *life, struct fh_trace_writer *writer, size_t count)
{
    uint64_t time = 0, fresh = 0x7f0000000000;
    random_state = 88172645463325252u;
    life->events = calloc(count, sizeof(*life->events));
    life->count = count;
    memset(life->live, 0, sizeof(life->live));
    for (size_t i = 0; i < count; i++) {
        struct fh_trace_event *event = &life->events[i];
        const size_t slot = next_random() % 1024;
        const uint64_t frames[] = {0x401000 + next_random() % 40 * 16, 0x500000 + next_random() % 9,
                                   0x600000};
        time += next_random() % 100 == 0 ? next_random() % 1000000 : next_random() % 20;
        event->time_ns = time;
        event->thread = (uint32_t)(next_random() % 7);
        event->stack = writer != NULL ? fh_trace_write_stack(writer, frames, 3) : 0;
        if (i % 1000 == 999) {
            event->kind = FH_TRACE_LOST;
            event->size = UINT64_MAX - i;
        } else if (life->live[slot] == 0) {
            event->kind = FH_TRACE_ALLOC;
            event->size = next_random() % 5 == 0 ? next_random() % 100000 : 16 * (slot % 20);
            event->address = fresh += 16 + next_random() % 64 * 8;
            event->align = slot % 50 == 0 ? 4096 : 0;
            event->flags = slot % 7 == 0 ? FH_TRACE_CPP : 0;
            life->live[slot] = event->address;
        } else if (slot % 11 == 0) {
            event->kind = FH_TRACE_RESIZE;
            event->old_address = life->live[slot];
            event->size = next_random() % 3000;
            event->address = i % 2 == 0 ? event->old_address : (fresh += 3008);
            life->live[slot] = event->address;
        } else {
            event->kind = FH_TRACE_FREE;
            event->address = life->live[slot];
            event->flags = slot == 1 ? FH_TRACE_INHERITED : 0;
            life->live[slot] = 0;
        }
        if (writer != NULL)
            assert_int_equal(fh_trace_write(writer, event), 0);
    }
}

static void write_life(struct life *life, size_t count)
{
    struct fh_trace_writer *writer = fh_trace_create(path, "prog 'an argument'", NULL);
    assert_non_null(writer);
    live(life, writer, count);
    assert_int_equal(fh_trace_finish(writer), 0);
}

static void assert_same_event(const struct fh_trace_event *a, const struct fh_trace_event *b)
{
    assert_int_equal(a->time_ns, b->time_ns);
    assert_int_equal(a->address, b->address);
    assert_int_equal(a->old_address, b->old_address);
    assert_int_equal(a->size, b->size);
    assert_int_equal(a->align, b->align);
    assert_int_equal(a->stack, b->stack);
    assert_int_equal(a->thread, b->thread);
    assert_int_equal(a->kind, b->kind);
    assert_int_equal(a->flags, b->flags);
}

/* Reads to the end, expecting a beginning of that life; how many events there were. */
static size_t read_beginning(struct fh_trace *trace, const struct life *life, long *end)
{
    struct fh_trace_event events[777];
    size_t n = 0;
    for (;;) {
        const long got = fh_trace_read(trace, events, sizeof(events) / sizeof(events[0]));
        if (got <= 0) {
            *end = got;
            return n;
        }
        for (long i = 0; i < got; i++, n++) {
            assert_true(n < life->count);
            assert_same_event(&events[i], &life->events[n]);
        }
    }
}

/* ---- Round trips ---- */

static void test_events_come_back_as_they_were_written(void **state)
{
    struct life life;
    long end;
    (void)state;
    write_life(&life, EVENTS);
    struct fh_trace *trace = fh_trace_open(path, NULL);
    assert_non_null(trace);
    assert_int_equal(read_beginning(trace, &life, &end), EVENTS);
    assert_int_equal(end, 0);
    assert_int_equal(fh_trace_begin(trace, 0), 0);
    assert_int_equal(read_beginning(trace, &life, &end), EVENTS);
    fh_trace_close(trace);
    free(life.events);
}

static void test_info_tells_what_is_in_the_file(void **state)
{
    struct life life;
    (void)state;
    write_life(&life, 5000);
    struct fh_trace *trace = fh_trace_open(path, NULL);
    const struct fh_trace_info *info = fh_trace_info(trace);
    const struct fh_trace_process *process = fh_trace_process(trace, 0);
    assert_int_equal(info->version, 1);
    assert_string_equal(info->command, "prog 'an argument'");
    assert_int_equal(info->process_count, 1);
    assert_int_equal(info->events, 4995); /* 5 of the kind LOST */
    assert_true(info->is_whole);
    assert_int_equal(process->pid, getpid());
    assert_int_equal(process->parent, -1);
    assert_true(process->has_ended);
    assert_int_equal(process->threads, 7);
    assert_int_equal(process->end_ns, life.events[4999].time_ns);
    assert_null(fh_trace_process(trace, 1));
    assert_int_equal(fh_trace_begin(trace, 1), -EINVAL);
    fh_trace_close(trace);
    free(life.events);
}

static void test_stacks_are_numbered_once_and_come_back(void **state)
{
    const uint64_t a[] = {3, 2, 1}, b[] = {4, 2, 1}, c[] = {2, 1};
    uint64_t frames[3];
    (void)state;
    struct fh_trace_writer *writer = fh_trace_create(path, "x", NULL);
    const uint32_t id_a = fh_trace_write_stack(writer, a, 3);
    const uint32_t id_b = fh_trace_write_stack(writer, b, 3);
    const uint32_t id_c = fh_trace_write_stack(writer, c, 2);
    assert_int_equal(fh_trace_write_stack(writer, a, 3), id_a);
    assert_int_equal(fh_trace_write_stack(writer, a, 0), 0);
    assert_true(id_a != id_b && id_b != id_c);
    assert_int_equal(fh_trace_finish(writer), 0);
    struct fh_trace *trace = fh_trace_open(path, NULL);
    assert_int_equal(fh_trace_stack_limit(trace), 5);
    assert_int_equal(fh_trace_frames(trace, id_a, frames, 3), 3);
    assert_memory_equal(frames, a, sizeof(a));
    assert_int_equal(fh_trace_frames(trace, id_b, frames, 3), 3);
    assert_memory_equal(frames, b, sizeof(b));
    assert_int_equal(fh_trace_frames(trace, id_c, frames, 1), 2);
    assert_int_equal(frames[0], 2);
    assert_int_equal(fh_trace_frames(trace, 0, frames, 3), 0);
    assert_int_equal(fh_trace_frames(trace, 99, frames, 3), 0);
    fh_trace_close(trace);
}

static void test_modules_come_back(void **state)
{
    const uint8_t id[] = {1, 2, 3};
    const struct fh_trace_module module = {0x1000,     0x2000,      0xfff, 5,
                                           UINT64_MAX, "/lib/x.so", id,    3};
    (void)state;
    struct fh_trace_writer *writer = fh_trace_create(path, "x", NULL);
    assert_int_equal(fh_trace_write_module(writer, &module), 0);
    assert_int_equal(fh_trace_finish(writer), 0);
    struct fh_trace *trace = fh_trace_open(path, NULL);
    const struct fh_trace_module *read = fh_trace_module(trace, 0);
    assert_non_null(read);
    assert_int_equal(read->begin, 0x1000);
    assert_int_equal(read->end, 0x2000);
    assert_int_equal(read->bias, 0xfff);
    assert_int_equal(read->from_ns, 5);
    assert_int_equal(read->until_ns, UINT64_MAX);
    assert_string_equal(read->path, "/lib/x.so");
    assert_int_equal(read->build_id_size, 3);
    assert_memory_equal(read->build_id, id, 3);
    assert_null(fh_trace_module(trace, 1));
    fh_trace_close(trace);
}

static void test_extreme_values_come_back(void **state)
{
    static const uint64_t values[] = {
        0, 1, 15, 16, 17, UINT32_MAX, UINT64_MAX / 2, UINT64_MAX - 1, UINT64_MAX};
    enum { VALUES = sizeof(values) / sizeof(values[0]) };
    struct life life = {.events = calloc(VALUES * VALUES * 3, sizeof(*life.events))};
    long end;
    (void)state;
    struct fh_trace_writer *writer = fh_trace_create(path, "", NULL);
    for (size_t i = 0; i < VALUES; i++)
        for (size_t j = 0; j < VALUES; j++)
            for (uint8_t kind = FH_TRACE_ALLOC; kind <= FH_TRACE_RESIZE; kind++) {
                struct fh_trace_event *event = &life.events[life.count++];
                event->kind = kind;
                event->address = values[i];
                event->size = kind == FH_TRACE_FREE ? 0 : values[j];
                event->old_address = kind == FH_TRACE_RESIZE ? values[j] : 0;
                event->align = (uint32_t)values[i];
                event->flags = (uint8_t)values[j];
                event->time_ns = values[i];
                assert_int_equal(fh_trace_write(writer, event), 0);
            }
    assert_int_equal(fh_trace_finish(writer), 0);
    struct fh_trace *trace = fh_trace_open(path, NULL);
    assert_int_equal(read_beginning(trace, &life, &end), life.count);
    assert_int_equal(end, 0);
    fh_trace_close(trace);
    free(life.events);
}

static void test_regular_calls_take_less_than_two_bytes(void **state)
{
    struct fh_trace_event event = {.kind = FH_TRACE_ALLOC};
    struct fh_trace_writer *writer = fh_trace_create(path, "x", NULL);
    (void)state;
    for (unsigned i = 0; i < 200000; i++) {
        event.kind = i % 2 == 0 ? FH_TRACE_ALLOC : FH_TRACE_FREE;
        event.address = 0x7f0000000000 + i / 2 * 48;
        event.size = event.kind == FH_TRACE_ALLOC ? 40 : 0;
        event.time_ns += i % 7;
        assert_int_equal(fh_trace_write(writer, &event), 0);
    }
    assert_int_equal(fh_trace_finish(writer), 0);
    const int fd = open(path, O_RDONLY);
    assert_true(lseek(fd, 0, SEEK_END) < 200000 * 2);
    close(fd);
}

/* ---- Several streams and processes, as the recorder writes them ---- */

static uint32_t site_of(struct trace_stream *stream, uint8_t kind, uint32_t thread)
{
    const struct trace_site site = {.kind = kind, .thread = thread};
    return trace_stream_site(stream, &site);
}

static void begin_file(struct trace_file *file)
{
    const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_int_equal(trace_file_begin(file, fd, (uint64_t)8 << 32, "x"), 0);
}

static void begin_process(struct trace_file *file, uint32_t index, int parent,
                          enum trace_origin origin)
{
    const struct trace_process_start start = {.process = index,
                                              .pid = 100 + (int)index,
                                              .parent = parent,
                                              .origin = origin,
                                              .program = "x"};
    assert_int_equal(trace_file_process(file, &start), 0);
}

static void test_streams_are_merged_by_time_and_frees_come_first(void **state)
{
    struct trace_file file;
    struct trace_stream a, b;
    struct fh_trace_event events[10];
    (void)state;
    begin_file(&file);
    begin_process(&file, 0, -1, TRACE_ORIGIN_FIRST);
    assert_int_equal(trace_stream_begin(&a, 0, 0), 0);
    assert_int_equal(trace_stream_begin(&b, 0, 1), 0);
    trace_stream_add(&a, site_of(&a, FH_TRACE_ALLOC, 0), 10, 0x1000, 0, 16);
    trace_stream_add(&a, site_of(&a, FH_TRACE_ALLOC, 0), 30, 0x2000, 0, 16);
    trace_stream_add(&b, site_of(&b, FH_TRACE_FREE, 1), 20, 0x1000, 0, 0);
    trace_stream_add(&b, site_of(&b, FH_TRACE_FREE, 1), 30, 0x2000, 0, 0);
    assert_int_equal(trace_stream_flush(&a, &file), 0);
    assert_int_equal(trace_stream_flush(&b, &file), 0);
    trace_stream_add(&a, site_of(&a, FH_TRACE_FREE, 0), 40, 0x2000, 0, 0);
    assert_int_equal(trace_stream_flush(&a, &file), 0);
    trace_file_end(&file, (uint64_t)8 << 32);
    trace_stream_free(&a);
    trace_stream_free(&b);
    assert_int_equal(trace_file_close(&file), 0);
    struct fh_trace *trace = fh_trace_open(path, NULL);
    assert_int_equal(fh_trace_read(trace, events, 10), 5);
    assert_int_equal(events[0].time_ns, 80);
    assert_int_equal(events[1].thread, 1);
    assert_int_equal(events[2].kind, FH_TRACE_FREE);
    assert_int_equal(events[2].time_ns, 240);
    assert_int_equal(events[3].kind, FH_TRACE_ALLOC);
    assert_int_equal(events[4].time_ns, 320);
    assert_int_equal(fh_trace_process(trace, 0)->threads, 2);
    fh_trace_close(trace);
}

static void test_frees_of_a_parents_blocks_are_marked_inherited(void **state)
{
    struct trace_file file;
    struct trace_stream stream;
    struct fh_trace_event events[10];
    (void)state;
    begin_file(&file);
    begin_process(&file, 0, -1, TRACE_ORIGIN_FIRST);
    begin_process(&file, 1, 0, TRACE_ORIGIN_FORK);
    assert_int_equal(trace_stream_begin(&stream, 1, 0), 0);
    const uint32_t alloc = site_of(&stream, FH_TRACE_ALLOC, 0);
    const uint32_t free_ = site_of(&stream, FH_TRACE_FREE, 0);
    const uint32_t resize = site_of(&stream, FH_TRACE_RESIZE, 0);
    trace_stream_add(&stream, alloc, 1, 0x5000, 0, 16);
    trace_stream_add(&stream, free_, 2, 0x5000, 0, 0);
    trace_stream_add(&stream, free_, 3, 0x6000, 0, 0);
    trace_stream_add(&stream, resize, 4, 0x8000, 0x7000, 99);
    trace_stream_add(&stream, resize, 5, 0x9000, 0x8000, 99);
    trace_stream_flush(&stream, &file);
    trace_file_end(&file, (uint64_t)8 << 32);
    trace_stream_free(&stream);
    assert_int_equal(trace_file_close(&file), 0);
    struct fh_trace *trace = fh_trace_open(path, NULL);
    assert_int_equal(fh_trace_process(trace, 1)->parent, 0);
    assert_int_equal(fh_trace_read(trace, events, 10), 0);
    assert_int_equal(fh_trace_begin(trace, 1), 0);
    assert_int_equal(fh_trace_read(trace, events, 10), 5);
    assert_int_equal(events[1].flags, 0);
    assert_int_equal(events[2].flags, FH_TRACE_INHERITED);
    assert_int_equal(events[3].flags, FH_TRACE_INHERITED);
    assert_int_equal(events[4].flags, 0);
    fh_trace_close(trace);
}

static void test_events_behind_the_last_mark_of_a_cut_file_are_not_given(void **state)
{
    struct trace_file file;
    struct trace_stream a;
    struct fh_trace_event events[10];
    (void)state;
    begin_file(&file);
    begin_process(&file, 0, -1, TRACE_ORIGIN_FIRST);
    assert_int_equal(trace_stream_begin(&a, 0, 0), 0);
    trace_stream_add(&a, site_of(&a, FH_TRACE_ALLOC, 0), 0, 0x1000, 0, 16);
    trace_stream_add(&a, site_of(&a, FH_TRACE_ALLOC, 0), 9, 0x2000, 0, 16);
    trace_stream_flush(&a, &file);
    trace_file_mark(&file, 5);
    trace_stream_free(&a);
    assert_int_equal(trace_file_close(&file), 0);
    struct fh_trace *trace = fh_trace_open(path, NULL);
    assert_int_equal(fh_trace_read(trace, events, 10), 1);
    assert_int_equal(events[0].address, 0x1000);
    assert_int_equal(fh_trace_read(trace, events, 10), 0);
    assert_false(fh_trace_info(trace)->is_whole);
    fh_trace_close(trace);
}

/* ---- Bad files ---- */

static uint8_t *bytes_of(const char *name, size_t *size)
{
    const int fd = open(name, O_RDONLY);
    *size = (size_t)lseek(fd, 0, SEEK_END);
    uint8_t *bytes = malloc(*size);
    assert_int_equal(pread(fd, bytes, *size, 0), *size);
    close(fd);
    return bytes;
}

static void put_bytes(const uint8_t *bytes, size_t size)
{
    const int fd = open(other_path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_int_equal(write(fd, bytes, size), size);
    close(fd);
}

static void test_every_cut_gives_a_beginning_and_is_not_whole(void **state)
{
    struct life life;
    size_t size, most = 0;
    (void)state;
    write_life(&life, SMALL);
    uint8_t *bytes = bytes_of(path, &size);
    put_bytes(bytes, size);
    for (size_t cut = size; cut-- > 0;) {
        struct fh_trace_problem problem = {0};
        assert_int_equal(truncate(other_path, (off_t)cut), 0);
        struct fh_trace *trace = fh_trace_open(other_path, &problem);
        if (trace == NULL) {
            assert_true(problem.error < 0);
            assert_int_equal(problem.exit_status, 3);
            assert_true(strlen(problem.text) > 20);
            continue;
        }
        long end;
        const size_t n = read_beginning(trace, &life, &end);
        most = n > most ? n : most;
        assert_int_equal(end, 0);
        assert_false(fh_trace_info(trace)->is_whole);
        fh_trace_close(trace);
    }
    assert_int_equal(most, SMALL); /* a cut in the END chunk loses nothing */
    free(bytes);
    free(life.events);
}

static void test_every_flipped_byte_gives_a_beginning_and_a_sentence(void **state)
{
    struct life life;
    size_t size;
    (void)state;
    write_life(&life, SMALL);
    uint8_t *bytes = bytes_of(path, &size);
    for (size_t at = 0; at < size; at++) {
        struct fh_trace_problem problem = {0};
        bytes[at] ^= (uint8_t)(1 << at % 8);
        put_bytes(bytes, size);
        bytes[at] ^= (uint8_t)(1 << at % 8);
        struct fh_trace *trace = fh_trace_open(other_path, &problem);
        if (trace == NULL) {
            assert_true(problem.error == -EBADMSG || problem.error == -EINVAL);
            assert_int_equal(problem.exit_status, 3);
            continue;
        }
        long end;
        read_beginning(trace, &life, &end);
        assert_int_equal(end, -EBADMSG);
        assert_int_equal(fh_trace_read(trace, &life.events[0], 1), -EBADMSG);
        assert_non_null(strstr(fh_trace_problem_of(trace)->text, "damaged"));
        assert_int_equal(fh_trace_problem_of(trace)->exit_status, 3);
        fh_trace_close(trace);
    }
    free(bytes);
    free(life.events);
}

static void test_damage_in_a_late_chunk_costs_only_what_follows(void **state)
{
    struct life life;
    size_t size;
    long end;
    (void)state;
    write_life(&life, EVENTS);
    uint8_t *bytes = bytes_of(path, &size);
    bytes[size * 9 / 10] ^= 1;
    put_bytes(bytes, size);
    struct fh_trace *trace = fh_trace_open(other_path, NULL);
    /* three chunks are full, and the third ends behind nine tenths of the file */
    assert_int_equal(read_beginning(trace, &life, &end), TRACE_CHUNK_EVENTS_MAX * 2);
    assert_int_equal(end, -EBADMSG);
    fh_trace_close(trace);
    free(bytes);
    free(life.events);
}

static void test_bytes_behind_the_end_are_damage_behind_all_events(void **state)
{
    struct life life;
    size_t size;
    long end;
    (void)state;
    write_life(&life, SMALL);
    uint8_t *bytes = bytes_of(path, &size);
    uint8_t *longer = calloc(size + 1, 1);
    memcpy(longer, bytes, size);
    put_bytes(longer, size + 1);
    struct fh_trace *trace = fh_trace_open(other_path, NULL);
    assert_non_null(trace);
    assert_false(fh_trace_info(trace)->is_whole);
    assert_int_equal(read_beginning(trace, &life, &end), SMALL);
    assert_int_equal(end, -EBADMSG);
    fh_trace_close(trace);
    free(longer);
    free(bytes);
    free(life.events);
}

static void test_newer_version_is_named(void **state)
{
    struct trace_head head = {.magic = TRACE_MAGIC, .version = 7};
    struct fh_trace_problem problem;
    (void)state;
    head.crc = trace_crc32c(&head, offsetof(struct trace_head, crc));
    put_bytes((const uint8_t *)&head, sizeof(head));
    assert_null(fh_trace_open(other_path, &problem));
    assert_int_equal(problem.error, -ENOTSUP);
    assert_int_equal(problem.exit_status, 3);
    assert_non_null(strstr(problem.text, "version 7"));
}

static void test_what_is_no_trace_is_refused(void **state)
{
    struct fh_trace_problem problem;
    (void)state;
    put_bytes((const uint8_t *)"#!/bin/sh\necho hello, world\n", 28);
    assert_null(fh_trace_open(other_path, &problem));
    assert_int_equal(problem.error, -EINVAL);
    assert_int_equal(problem.exit_status, 3);
    assert_null(fh_trace_open("/tmp", &problem));
    assert_int_equal(problem.exit_status, 2);
    assert_null(fh_trace_open("/tmp/there/is/none", &problem));
    assert_int_equal(problem.error, -ENOENT);
    assert_int_equal(problem.exit_status, 2);
}

static void test_checksum_is_crc32c(void **state)
{
    (void)state;
    assert_int_equal(trace_crc32c("123456789", 9), 0xe3069283u); /* RFC 3720's test value */
}

/* ---- Writers in trouble ---- */

static void test_wrong_events_are_refused_and_change_nothing(void **state)
{
    const struct fh_trace_event good = {.kind = FH_TRACE_ALLOC, .address = 16, .time_ns = 50};
    struct fh_trace_event bad = good, read[3];
    struct fh_trace_writer *writer = fh_trace_create(path, "x", NULL);
    (void)state;
    assert_int_equal(fh_trace_write(writer, &good), 0);
    bad.kind = 0;
    assert_int_equal(fh_trace_write(writer, &bad), -EINVAL);
    bad.kind = FH_TRACE_LOST + 1;
    assert_int_equal(fh_trace_write(writer, &bad), -EINVAL);
    bad = good;
    bad.time_ns = 49;
    assert_int_equal(fh_trace_write(writer, &bad), -EINVAL);
    bad = good;
    bad.stack = 1;
    assert_int_equal(fh_trace_write(writer, &bad), -EINVAL);
    assert_int_equal(fh_trace_write(writer, &good), 0);
    assert_int_equal(fh_trace_finish(writer), 0);
    struct fh_trace *trace = fh_trace_open(path, NULL);
    assert_int_equal(fh_trace_read(trace, read, 3), 2);
    fh_trace_close(trace);
}

static void test_files_that_cannot_be_made_are_said(void **state)
{
    struct fh_trace_problem problem;
    (void)state;
    assert_null(fh_trace_create("/tmp/there/is/none", "x", &problem));
    assert_int_equal(problem.error, -ENOENT);
    assert_int_equal(problem.exit_status, 2);
}

static void test_full_disk_is_told_and_leaves_no_whole_file(void **state)
{
    const struct rlimit small = {20000, RLIM_INFINITY};
    struct rlimit before;
    struct fh_trace_event event = {.kind = FH_TRACE_ALLOC};
    int error = 0;
    (void)state;
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &before);
    struct fh_trace_writer *writer = fh_trace_create(path, "x", NULL);
    setrlimit(RLIMIT_FSIZE, &small);
    random_state = 1;
    for (unsigned i = 0; i < 100000 && error == 0; i++) {
        event.address = next_random() >> 17;
        error = fh_trace_write(writer, &event);
    }
    const int at_end = fh_trace_finish(writer);
    setrlimit(RLIMIT_FSIZE, &before);
    assert_int_equal(error, -EFBIG);
    assert_int_equal(at_end, -EFBIG);
    struct fh_trace *trace = fh_trace_open(path, NULL);
    assert_non_null(trace);
    assert_false(fh_trace_info(trace)->is_whole);
    fh_trace_close(trace);
}

static void test_unfinished_files_are_not_whole(void **state)
{
    struct fh_trace_event event = {.kind = FH_TRACE_ALLOC, .address = 32}, read;
    (void)state;
    struct fh_trace_writer *writer = fh_trace_create(path, "x", NULL);
    for (unsigned i = 0; i < TRACE_CHUNK_EVENTS_MAX + 10; i++)
        fh_trace_write(writer, &event);
    size_t size, n = 0;
    uint8_t *bytes = bytes_of(path, &size);
    put_bytes(bytes, size);
    struct fh_trace *trace = fh_trace_open(other_path, NULL);
    assert_false(fh_trace_info(trace)->is_whole);
    while (fh_trace_read(trace, &read, 1) == 1)
        n++;
    assert_int_equal(n, TRACE_CHUNK_EVENTS_MAX);
    fh_trace_close(trace);
    free(bytes);
    assert_int_equal(fh_trace_finish(writer), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_events_come_back_as_they_were_written),
        cmocka_unit_test(test_info_tells_what_is_in_the_file),
        cmocka_unit_test(test_stacks_are_numbered_once_and_come_back),
        cmocka_unit_test(test_modules_come_back),
        cmocka_unit_test(test_extreme_values_come_back),
        cmocka_unit_test(test_regular_calls_take_less_than_two_bytes),
        cmocka_unit_test(test_streams_are_merged_by_time_and_frees_come_first),
        cmocka_unit_test(test_frees_of_a_parents_blocks_are_marked_inherited),
        cmocka_unit_test(test_events_behind_the_last_mark_of_a_cut_file_are_not_given),
        cmocka_unit_test(test_every_cut_gives_a_beginning_and_is_not_whole),
        cmocka_unit_test(test_every_flipped_byte_gives_a_beginning_and_a_sentence),
        cmocka_unit_test(test_damage_in_a_late_chunk_costs_only_what_follows),
        cmocka_unit_test(test_bytes_behind_the_end_are_damage_behind_all_events),
        cmocka_unit_test(test_newer_version_is_named),
        cmocka_unit_test(test_what_is_no_trace_is_refused),
        cmocka_unit_test(test_checksum_is_crc32c),
        cmocka_unit_test(test_wrong_events_are_refused_and_change_nothing),
        cmocka_unit_test(test_files_that_cannot_be_made_are_said),
        cmocka_unit_test(test_full_disk_is_told_and_leaves_no_whole_file),
        cmocka_unit_test(test_unfinished_files_are_not_whole),
    };
    return cmocka_run_group_tests(tests, make_names, remove_files);
}
