/* Claims about messages through shared memory: each is read, or its writer knows that it is not. */
#define _GNU_SOURCE
#include "os/relay.h"

#include "base/relay.h"
#include "os/sys.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

enum { WRITERS = 4, MESSAGES = 20000 };

#define PATIENCE_NS ((uint64_t)30000000000) /* on a busy machine the two rarely run at once */

static struct relay *memory;

static int start(void **state)
{
    (void)state;
    char path[64];
    const int fd = memfd_create("relay", MFD_CLOEXEC);
    assert_int_equal(ftruncate(fd, sizeof(struct relay)), 0);
    memory = mmap(NULL, sizeof(struct relay), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    assert_ptr_not_equal(memory, MAP_FAILED);
    memory->magic = RELAY_MAGIC;
    memory->reader = 1;
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    fh_os_init();
    assert_int_equal(fh_os_relay(path), 0);
    close(fd);
    return 0;
}

static int stop(void **state)
{
    (void)state;
    munmap(memory, sizeof(struct relay)); /* the writers' own mapping stays */
    return 0;
}

/* The next message's length, which is in text then; -1: there is none. Where its writer has
 * taken it back the next one counts; where it is not ready yet that is waited for, or not. */
static int take(char text[RELAY_TEXT], bool waits)
{
    while (memory->tail != memory->head) {
        const uint64_t tail = memory->tail;
        struct relay_slot *slot = &memory->slots[tail % RELAY_SLOTS];
        uint32_t state = slot->state;
        if (state == relay_open_state(tail)) {
            if (!waits)
                return -1;
            sched_yield();
            continue;
        }
        const int length = (int)slot->length;
        memcpy(text, slot->text, RELAY_TEXT);
        const bool is_ours = state == relay_open_state(tail) + 1 &&
                             atomic_compare_exchange_strong(&slot->state, &state, state + 1);
        memory->tail = tail + 1;
        if (is_ours)
            return length;
    }
    return -1;
}

static void test_a_message_arrives_with_its_process(void **state)
{
    (void)state;
    char text[RELAY_TEXT];
    assert_int_equal(fh_os_relay_write("hello\n", 6), 6);
    assert_int_equal(memory->slots[0].pid, getpid());
    assert_int_equal(take(text, false), 6);
    assert_memory_equal(text, "hello\n", 6);
    assert_int_equal(take(text, false), -1);
}

static void test_a_long_text_takes_several_slots(void **state)
{
    (void)state;
    static char text[3 * RELAY_TEXT - 5];
    char part[RELAY_TEXT];
    memset(text, 'x', sizeof(text));
    assert_int_equal(fh_os_relay_write(text, sizeof(text)), sizeof(text));
    assert_int_equal(take(part, false), RELAY_TEXT);
    assert_int_equal(take(part, false), RELAY_TEXT);
    assert_int_equal(take(part, false), RELAY_TEXT - 5);
}

static void test_a_full_ring_refuses_and_goes_on_when_it_is_read(void **state)
{
    (void)state;
    char text[RELAY_TEXT];
    for (unsigned i = 0; i < RELAY_SLOTS; i++)
        assert_int_equal(fh_os_relay_write("x", 1), 1);
    assert_int_equal(fh_os_relay_write("y", 1), 0);
    assert_int_equal(take(text, false), 1);
    assert_int_equal(fh_os_relay_write("y", 1), 1);
}

static void test_without_a_reader_nothing_is_taken(void **state)
{
    (void)state;
    memory->reader = 0;
    assert_int_equal(fh_os_relay_write("x", 1), 0);
    memory->reader = 7 | (uint32_t)RELAY_READER_DIED;
    assert_int_equal(fh_os_relay_write("x", 1), 0);
    assert_int_equal(memory->head, 0);
}

static void test_a_slot_that_was_given_up_is_known_not_to_be_read(void **state)
{
    (void)state;
    char text[RELAY_TEXT];
    memory->slots[0].state = relay_open_state(RELAY_SLOTS); /* by the reader, who waited in vain */
    assert_int_equal(fh_os_relay_write("late", 4), 0);
    memory->tail = 1;
    assert_int_equal(fh_os_relay_write("next", 4), 4);
    assert_int_equal(take(text, false), 4);
    assert_memory_equal(text, "next", 4);
}

static void test_what_is_no_relay_is_refused(void **state)
{
    (void)state;
    char path[] = "/tmp/freehold-relay-XXXXXX";
    const int fd = mkstemp(path);
    assert_int_equal(fh_os_relay("/no/such/file"), -ENOENT);
    assert_int_equal(fh_os_relay(path), -EINVAL); /* shorter than what would be touched */
    assert_int_equal(ftruncate(fd, sizeof(struct relay)), 0);
    assert_int_equal(fh_os_relay(path), -EINVAL);
    close(fd);
    unlink(path);
    assert_int_equal(fh_os_relay_write("x", 1), 1); /* the one before is still in use */
}

struct count {
    _Atomic unsigned read, refused;
    _Atomic unsigned writers;
};

static void *write_messages(void *argument)
{
    struct count *count = argument;
    for (unsigned i = 0; i < MESSAGES; i++)
        if (fh_os_relay_write("message\n", 8) == 0)
            count->refused++;
    count->writers--;
    return NULL;
}

/* The reader goes in the middle, looks once more, and then never again. */
static void test_each_message_is_read_or_known_not_to_be(void **state)
{
    (void)state;
    struct count count = {.writers = WRITERS};
    pthread_t threads[WRITERS];
    char text[RELAY_TEXT];
    for (unsigned i = 0; i < WRITERS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, write_messages, &count), 0);
    while (count.read + count.refused < WRITERS * MESSAGES / 2 && count.writers > 0) {
        if (take(text, false) >= 0)
            count.read++;
        else
            sched_yield();
    }
    memory->reader = 0;
    while (take(text, true) >= 0)
        count.read++;
    for (unsigned i = 0; i < WRITERS; i++)
        pthread_join(threads[i], NULL);
    assert_true(count.read > 0);
    assert_true(count.refused > 0);
    /* A slot that was claimed before the reader went and filled after its last look is the
     * writer's again. */
    assert_int_equal(count.read + count.refused, WRITERS * MESSAGES);
}

static void *come_and_go(void *argument)
{
    struct count *count = argument;
    while (count->writers > 0)
        memory->reader ^= 1;
    return NULL;
}

/* A reader that comes and goes all the time is often there before a message and gone after it. */
static void test_a_message_is_taken_back_when_its_reader_has_gone(void **state)
{
    (void)state;
    struct count count = {.writers = 1};
    pthread_t reader;
    unsigned taken_back = 0;
    assert_int_equal(pthread_create(&reader, NULL, come_and_go, &count), 0);
    const uint64_t limit = fh_os_now_ns() + PATIENCE_NS;
    while (taken_back == 0 && fh_os_now_ns() < limit) {
        const bool is_read = fh_os_relay_write("message\n", 8) != 0;
        for (; memory->tail != memory->head; memory->tail++) {
            const uint32_t open = relay_open_state(memory->tail);
            struct relay_slot *slot = &memory->slots[memory->tail % RELAY_SLOTS];
            assert_int_equal(slot->state, is_read ? open + 1 : open + 2);
            slot->state = open + 2;
            taken_back += !is_read;
        }
    }
    count.writers = 0;
    pthread_join(reader, NULL);
    assert_true(taken_back > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_message_arrives_with_its_process, start, stop),
        cmocka_unit_test_setup_teardown(test_a_long_text_takes_several_slots, start, stop),
        cmocka_unit_test_setup_teardown(test_a_full_ring_refuses_and_goes_on_when_it_is_read, start,
                                        stop),
        cmocka_unit_test_setup_teardown(test_without_a_reader_nothing_is_taken, start, stop),
        cmocka_unit_test_setup_teardown(test_a_slot_that_was_given_up_is_known_not_to_be_read,
                                        start, stop),
        cmocka_unit_test_setup_teardown(test_what_is_no_relay_is_refused, start, stop),
        cmocka_unit_test_setup_teardown(test_a_message_is_taken_back_when_its_reader_has_gone,
                                        start, stop),
        cmocka_unit_test_setup_teardown(test_each_message_is_read_or_known_not_to_be, start, stop),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
