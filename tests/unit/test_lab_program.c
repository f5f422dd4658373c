/*
 * Traces compiled into programs: slots, resizes, and what a trace may hold that makes no sense
 * alone.
 */
#include "lab/program.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static struct fh_trace_event alloc_event(uint64_t address, uint64_t size)
{
    return (struct fh_trace_event){.kind = FH_TRACE_ALLOC, .address = address, .size = size};
}

static struct fh_trace_event free_event(uint64_t address)
{
    return (struct fh_trace_event){.kind = FH_TRACE_FREE, .address = address};
}

static struct fh_trace_event resize_event(uint64_t from, uint64_t to, uint64_t size)
{
    return (struct fh_trace_event){
        .kind = FH_TRACE_RESIZE, .old_address = from, .address = to, .size = size};
}

static struct lab_program compile(const struct fh_trace_event *events, size_t count)
{
    struct lab_program program;
    struct lab_compiler *compiler = lab_compiler_open();
    assert_non_null(compiler);
    assert_int_equal(lab_compiler_add(compiler, events, count), 0);
    assert_int_equal(lab_compiler_finish(compiler, &program), 0);
    assert_int_equal(program.facts.ops,
                     program.facts.allocs + program.facts.frees + program.facts.resizes);
    assert_int_equal(lseek(program.fd, 0, SEEK_END),
                     (off_t)(program.facts.ops * sizeof(struct lab_op)));
    return program;
}

static struct lab_op op_at(const struct lab_program *program, uint64_t index)
{
    struct lab_op op;
    assert_int_equal(pread(program->fd, &op, sizeof(op), (off_t)(index * sizeof(op))), sizeof(op));
    return op;
}

static void test_slots_are_used_again(void **state)
{
    const struct fh_trace_event events[] = {
        alloc_event(0x1000, 10), alloc_event(0x2000, 20), free_event(0x1000),
        alloc_event(0x3000, 30), free_event(0x2000),      free_event(0x3000),
    };
    struct lab_program program = compile(events, COUNT(events));
    (void)state;
    assert_int_equal(program.facts.slots, 2);
    assert_int_equal(op_at(&program, 3).slot, op_at(&program, 0).slot);
    assert_int_not_equal(op_at(&program, 1).slot, op_at(&program, 0).slot);
    close(program.fd);
}

static void test_a_free_knows_the_size_of_its_block(void **state)
{
    const struct fh_trace_event events[] = {
        alloc_event(0x1000, 10),
        resize_event(0x1000, 0x5000, 500),
        free_event(0x5000),
    };
    struct lab_program program = compile(events, COUNT(events));
    (void)state;
    assert_int_equal(op_at(&program, 2).kind, LAB_FREE);
    assert_int_equal(op_at(&program, 2).size, 500);
    close(program.fd);
}

static void test_a_resize_keeps_the_slot_when_the_block_moves(void **state)
{
    const struct fh_trace_event events[] = {
        alloc_event(0x1000, 10), alloc_event(0x2000, 10), resize_event(0x1000, 0x9000, 90),
        alloc_event(0x1000, 11), free_event(0x9000),
    };
    struct lab_program program = compile(events, COUNT(events));
    (void)state;
    assert_int_equal(program.facts.resizes, 1);
    assert_int_equal(op_at(&program, 2).slot, op_at(&program, 0).slot);
    assert_int_equal(op_at(&program, 4).slot, op_at(&program, 0).slot);
    assert_int_not_equal(op_at(&program, 3).slot, op_at(&program, 0).slot);
    assert_int_equal(program.facts.implied_frees, 0);
    close(program.fd);
}

static void test_the_peak_is_where_live_bytes_are_most(void **state)
{
    const struct fh_trace_event events[] = {
        alloc_event(0x1000, 100), alloc_event(0x2000, 50), resize_event(0x2000, 0x2000, 70),
        free_event(0x1000),       alloc_event(0x3000, 99), free_event(0x2000),
    };
    struct lab_program program = compile(events, COUNT(events));
    (void)state;
    assert_int_equal(program.facts.peak_live_bytes, 170);
    assert_int_equal(program.facts.peak_live_blocks, 2);
    assert_int_equal(program.facts.peak_op, 2);
    assert_int_equal(program.facts.end_live_bytes, 99);
    assert_int_equal(program.facts.end_live_blocks, 1);
    assert_int_equal(program.facts.total_bytes, 100 + 50 + 20 + 99);
    assert_int_equal(program.facts.largest, 100);
    close(program.fd);
}

static void test_unknown_frees_are_counted_and_left_out(void **state)
{
    const struct fh_trace_event events[] = {
        free_event(0x1000),
        alloc_event(0x2000, 20),
        free_event(0x1000),
    };
    struct lab_program program = compile(events, COUNT(events));
    (void)state;
    assert_int_equal(program.facts.ops, 1);
    assert_int_equal(program.facts.unknown_frees, 2);
    close(program.fd);
}

static void test_a_resize_of_an_unknown_block_allocates(void **state)
{
    const struct fh_trace_event events[] = {
        resize_event(0x1000, 0x2000, 20),
        free_event(0x2000),
    };
    struct lab_program program = compile(events, COUNT(events));
    (void)state;
    assert_int_equal(program.facts.unknown_resizes, 1);
    assert_int_equal(program.facts.allocs, 1);
    assert_int_equal(program.facts.frees, 1);
    assert_int_equal(op_at(&program, 0).kind, LAB_ALLOC);
    close(program.fd);
}

static void test_an_address_handed_out_twice_was_freed_between(void **state)
{
    const struct fh_trace_event events[] = {
        alloc_event(0x1000, 10),
        {.kind = FH_TRACE_LOST, .size = 7},
        alloc_event(0x1000, 30),
    };
    struct lab_program program = compile(events, COUNT(events));
    (void)state;
    assert_int_equal(program.facts.lost, 7);
    assert_int_equal(program.facts.implied_frees, 1);
    assert_int_equal(op_at(&program, 1).kind, LAB_FREE);
    assert_int_equal(op_at(&program, 2).kind, LAB_ALLOC);
    assert_int_equal(program.facts.end_live_bytes, 30);
    close(program.fd);
}

static void test_a_resize_onto_a_live_address_frees_it_first(void **state)
{
    const struct fh_trace_event events[] = {
        alloc_event(0x1000, 10),
        alloc_event(0x2000, 20),
        resize_event(0x1000, 0x2000, 30),
        free_event(0x2000),
    };
    struct lab_program program = compile(events, COUNT(events));
    (void)state;
    assert_int_equal(program.facts.implied_frees, 1);
    assert_int_equal(program.facts.end_live_blocks, 0);
    assert_int_equal(program.facts.ops, 5);
    close(program.fd);
}

static void test_failed_calls_are_nothing(void **state)
{
    const struct fh_trace_event events[] = {
        alloc_event(0, 10), alloc_event(0x1000, 10), resize_event(0x1000, 0, 1 << 30),
        free_event(0),      free_event(0x1000),
    };
    struct lab_program program = compile(events, COUNT(events));
    (void)state;
    assert_int_equal(program.facts.ops, 2);
    assert_int_equal(program.facts.peak_live_bytes, 10);
    close(program.fd);
}

static void test_alignment_and_zeroing_are_kept(void **state)
{
    struct fh_trace_event events[] = {
        alloc_event(0x1000, 10),
        alloc_event(0x2000, 10),
        alloc_event(0x3000, 10),
        free_event(0x1000),
    };
    struct lab_program program;
    (void)state;
    events[0].align = 4096;
    events[1].flags = FH_TRACE_ZEROED;
    events[2].align = 16;
    program = compile(events, COUNT(events));
    assert_int_equal(op_at(&program, 0).alignment, 12);
    assert_int_equal(op_at(&program, 1).alignment, LAB_ZEROED);
    assert_int_equal(op_at(&program, 2).alignment, 0);
    assert_int_equal(op_at(&program, 3).alignment, 12);
    assert_int_equal(program.facts.over_aligned, 1);
    assert_int_equal(program.facts.zeroed, 1);
    close(program.fd);
}

static void test_threads_and_their_frees_are_counted(void **state)
{
    struct fh_trace_event events[] = {
        alloc_event(0x1000, 10),
        alloc_event(0x2000, 10),
        free_event(0x1000),
        free_event(0x2000),
    };
    struct lab_program program;
    (void)state;
    events[1].thread = 3;
    events[2].thread = 3;
    events[3].thread = 3;
    program = compile(events, COUNT(events));
    assert_int_equal(program.facts.threads, 2);
    assert_int_equal(program.facts.remote_frees, 1);
    close(program.fd);
}

/* Thousands of blocks in random order, against an array indexed by address: the map grows, its
 * clusters wrap around and lose members in the middle. */
static void test_any_order_of_frees_finds_its_blocks(void **state)
{
    enum { ADDRESSES = 5000, EVENTS = 200000 };
    static uint64_t size_of[ADDRESSES];
    struct lab_program program;
    struct lab_compiler *compiler = lab_compiler_open();
    uint64_t live = 0;
    uint64_t blocks = 0;
    uint32_t random = 12345;
    (void)state;
    assert_non_null(compiler);
    for (int i = 0; i < EVENTS; i++) {
        random = random * 1664525 + 1013904223;
        const size_t which = (random >> 8) % ADDRESSES;
        const uint64_t address = (which + 1) << 4;
        struct fh_trace_event event = free_event(address);
        if (size_of[which] == 0) {
            size_of[which] = 1 + which % 100;
            event = alloc_event(address, size_of[which]);
            live += size_of[which];
            blocks++;
        } else {
            live -= size_of[which];
            blocks--;
            size_of[which] = 0;
        }
        assert_int_equal(lab_compiler_add(compiler, &event, 1), 0);
    }
    assert_int_equal(lab_compiler_finish(compiler, &program), 0);
    assert_int_equal(program.facts.ops, EVENTS);
    assert_int_equal(program.facts.unknown_frees, 0);
    assert_int_equal(program.facts.implied_frees, 0);
    assert_int_equal(program.facts.end_live_bytes, live);
    assert_int_equal(program.facts.end_live_blocks, blocks);
    close(program.fd);
}

/* What a replay relies on: an allocation's slot is empty, a free's and a resize's full. */
static void test_operations_fit_their_slots(void **state)
{
    enum { EVENTS = 100000, ADDRESSES = 300 };
    struct lab_program program;
    struct lab_compiler *compiler = lab_compiler_open();
    uint32_t random = 99;
    (void)state;
    assert_non_null(compiler);
    for (int i = 0; i < EVENTS; i++) {
        random = random * 1664525 + 1013904223;
        const uint64_t address = (((random >> 8) % ADDRESSES) + 1) << 4;
        const uint64_t other = (((random >> 20) % ADDRESSES) + 1) << 4;
        const struct fh_trace_event event = random >> 30 == 0   ? free_event(address)
                                            : random >> 30 == 1 ? resize_event(address, other, 7)
                                                                : alloc_event(address, 9);
        assert_int_equal(lab_compiler_add(compiler, &event, 1), 0);
    }
    assert_int_equal(lab_compiler_finish(compiler, &program), 0);
    uint64_t *size_in = calloc(program.facts.slots, sizeof(*size_in));
    assert_non_null(size_in);
    for (uint64_t i = 0; i < program.facts.ops; i++) {
        const struct lab_op op = op_at(&program, i);
        assert_true(op.slot < program.facts.slots);
        assert_int_equal(op.kind == LAB_ALLOC, size_in[op.slot] == 0);
        if (op.kind == LAB_FREE) {
            assert_int_equal(op.size, size_in[op.slot]);
        }
        size_in[op.slot] = op.kind == LAB_FREE ? 0 : op.size;
    }
    free(size_in);
    close(program.fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_slots_are_used_again),
        cmocka_unit_test(test_a_free_knows_the_size_of_its_block),
        cmocka_unit_test(test_a_resize_keeps_the_slot_when_the_block_moves),
        cmocka_unit_test(test_the_peak_is_where_live_bytes_are_most),
        cmocka_unit_test(test_unknown_frees_are_counted_and_left_out),
        cmocka_unit_test(test_a_resize_of_an_unknown_block_allocates),
        cmocka_unit_test(test_an_address_handed_out_twice_was_freed_between),
        cmocka_unit_test(test_a_resize_onto_a_live_address_frees_it_first),
        cmocka_unit_test(test_failed_calls_are_nothing),
        cmocka_unit_test(test_alignment_and_zeroing_are_kept),
        cmocka_unit_test(test_threads_and_their_frees_are_counted),
        cmocka_unit_test(test_any_order_of_frees_finds_its_blocks),
        cmocka_unit_test(test_operations_fit_their_slots),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
