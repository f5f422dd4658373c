/*
 * Bits of the metadata of guarded blocks flip, one in each child process; then the child goes on
 * allocating and freeing and watches over its blocks. Detected or harmless: a report, or nobody is
 * the worse for it. Never may two blocks share memory, may contents change, or calloc's block not
 * be zero.
 *
 * FH_FLIPS=N flips N bits of each kind instead of a few hundred.
 */
#include "freehold/heap.h"
#include "guard/thread.h"
#include "heap/heap.h"
#include "pages/pages.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum {
    LIVE = 160,
    STEPS = 1500,
    SMALL = 48,
    OTHER = 208,
    LARGE = 40000,
    FLIPS = 60,
    STATUS_HARM = 10,
    LIMIT_S = 2,
};

static struct {
    unsigned char *at;
    size_t size;
    unsigned char fill;
} live[LIVE];
static uint64_t seed = 1;

static uint64_t next_random(void)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return seed >> 33;
}

/* ---- the program that goes on --------------------------------------------------------- */

_Noreturn static void harmed(void)
{
    _exit(STATUS_HARM);
}

static void check_fill(size_t index)
{
    for (size_t i = 0; i < live[index].size; i++)
        if (live[index].at[i] != live[index].fill)
            harmed();
}

static void make(size_t index, size_t size)
{
    const bool is_zeroed = next_random() % 2 == 0;
    unsigned char *block = is_zeroed ? fh_calloc(1, size) : fh_malloc(size);
    if (block == NULL)
        return;
    for (size_t i = 0; is_zeroed && i < size; i++)
        if (block[i] != 0)
            harmed();
    for (size_t i = 0; i < LIVE; i++)
        if (live[i].at != NULL && block < live[i].at + live[i].size && live[i].at < block + size)
            harmed();
    live[index].at = block;
    live[index].size = size;
    live[index].fill = (unsigned char)(next_random() % 255 + 1);
    memset(block, live[index].fill, size);
}

static void drop(size_t index)
{
    check_fill(index);
    fh_free_any(live[index].at);
    live[index].at = NULL;
}

static size_t some_size(void)
{
    const uint64_t kind = next_random() % 40;
    return kind == 0 ? LARGE : kind % 2 == 0 ? SMALL : OTHER;
}

static void go_on(unsigned steps)
{
    for (unsigned step = 0; step < steps; step++) {
        const size_t index = next_random() % LIVE;
        if (live[index].at != NULL)
            drop(index);
        else
            make(index, some_size());
    }
    for (size_t i = 0; i < LIVE; i++)
        if (live[i].at != NULL)
            check_fill(i);
}

/* ---- one bit -------------------------------------------------------------------------- */

struct outcome {
    unsigned harmless, reported, stopped, hung, harmed;
};

static void flip_and_go_on(unsigned char *byte, unsigned bit)
{
    const int nowhere = open("/dev/null", O_WRONLY);
    const struct rlimit none = {0, 0};
    static const int ends[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT};
    setrlimit(RLIMIT_CORE, &none);
    /* Else cmocka's handlers would make the child go on with the tests. */
    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++)
        signal(ends[i], SIG_DFL);
    dup2(nowhere, STDERR_FILENO);
    alarm(LIMIT_S);
    *byte = (unsigned char)(*byte ^ 1u << bit);
    go_on(STEPS);
    _exit(0);
}

static void count(struct outcome *outcome, int status)
{
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        outcome->harmless++;
    else if (WIFEXITED(status) && WEXITSTATUS(status) == STATUS_HARM)
        outcome->harmed++;
    else if (WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT)
        outcome->reported++;
    else if (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM)
        outcome->hung++;
    else
        outcome->stopped++;
}

/* Bits all over [memory, memory + size), each in a child of its own. */
static void expect_no_harm(const char *what, void *memory, size_t size)
{
    const char *asked = getenv("FH_FLIPS");
    const size_t bits = size * 8, wanted = asked != NULL ? strtoul(asked, NULL, 10) : FLIPS;
    const size_t flips = wanted < bits ? wanted : bits;
    struct outcome outcome = {0};
    assert_true(size != 0);
    for (size_t i = 0; i < flips; i++) {
        const size_t at = flips == bits ? i : (i * (bits / flips) + next_random() % (bits / flips));
        const pid_t child = fork();
        int status = 0;
        assert_true(child >= 0);
        if (child == 0)
            flip_and_go_on((unsigned char *)memory + at / 8, at % 8);
        assert_int_equal(waitpid(child, &status, 0), child);
        const unsigned before = outcome.harmed + outcome.hung;
        count(&outcome, status);
        if (outcome.harmed + outcome.hung != before)
            print_message("%s: status %d by bit %zu of byte %zu\n", what, status, at % 8, at / 8);
    }
    print_message("%s: of %zu bits %u were harmless, %u reported, %u ended the process, %u hung, "
                  "%u did harm\n",
                  what, flips, outcome.harmless, outcome.reported, outcome.stopped, outcome.hung,
                  outcome.harmed);
    assert_int_equal(outcome.harmed + outcome.hung, 0);
}

/* ---- what is flipped ------------------------------------------------------------------ */

static struct fh_run *run_with(size_t size)
{
    for (size_t i = 0; i < LIVE; i++) {
        struct fh_run *run = live[i].at == NULL || live[i].size != size
                                 ? NULL
                                 : (struct fh_run *)(uintptr_t)fh_pages_find_guarded(live[i].at);
        if (run != NULL)
            return run;
    }
    return NULL;
}

/* Slots' words and the bits of free ones: a slab (slots.c) is a head of five words, a word a
 * slot, a bit a slot. */
static void test_words_of_slots(void **state)
{
    (void)state;
    const struct fh_run *run = run_with(SMALL);
    assert_non_null(run);
    expect_no_harm("slots", (unsigned char *)run->local + 40,
                   run->capacity * 8 + (run->capacity + 63) / 64 * 8);
}

static void test_words_of_slots_in_use(void **state)
{
    (void)state;
    const struct fh_run *run = run_with(OTHER);
    assert_non_null(run);
    expect_no_harm("slots in use", (unsigned char *)run->local + 40, 80 * 8);
}

static void test_the_head_of_a_slab(void **state)
{
    (void)state;
    const struct fh_run *run = run_with(SMALL);
    assert_non_null(run);
    expect_no_harm("slab", run->local, 40);
}

static void test_what_is_known_of_a_large_block(void **state)
{
    (void)state;
    const struct fh_run *run = run_with(LARGE);
    assert_non_null(run);
    expect_no_harm("large block", run->local, 128);
}

static void test_the_quarantine(void **state)
{
    (void)state;
    struct fh_quarantine *quarantine = &fh_guard_mine()->quarantine;
    assert_true(quarantine->count != 0);
    expect_no_harm("quarantine", quarantine->ring, (quarantine->count + 1) * sizeof(void *));
}

static void test_slots_at_hand(void **state)
{
    (void)state;
    struct fh_at_hand *hand = &fh_guard_mine()->at_hand[fh_class_of(SMALL)];
    expect_no_harm("at hand", hand, sizeof *hand);
}

/* ---- start ---------------------------------------------------------------------------- */

/* Settings are read when the process's first block is asked for, so the test is a program of its
 * own with them. */
static void begin_again_hardened(char **argv)
{
    setenv("FREEHOLD", "mode=hardened", 1);
    execv("/proc/self/exe", argv);
    exit(2);
}

int main(int argc, char **argv)
{
    (void)argc;
    if (getenv("FREEHOLD") == NULL)
        begin_again_hardened(argv);
    for (size_t i = 0; i < LIVE; i++)
        make(i, i % 20 == 0 ? LARGE : some_size());
    go_on(STEPS);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_words_of_slots),
        cmocka_unit_test(test_words_of_slots_in_use),
        cmocka_unit_test(test_the_head_of_a_slab),
        cmocka_unit_test(test_what_is_known_of_a_large_block),
        cmocka_unit_test(test_the_quarantine),
        cmocka_unit_test(test_slots_at_hand),
    };
    return cmocka_run_group_tests_name("guard: metadata", tests, NULL, NULL);
}
