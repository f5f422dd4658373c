/*
 * Stopping the other threads, without ptrace.
 *
 * Which threads there are is read from /proc/self/task, again and again until a reading shows no new
 * one: from then on every thread is stopped or waits, so none can make another.
 *
 * A thread that runs gets a signal. Its handler notes where the thread was, says so, and waits on a
 * futex until the round is over. The registers are in the frame that the kernel laid on the stack.
 *
 * A thread that waits in a system call is a matter of tact: many calls (poll, nanosleep,
 * epoll_wait, …) end with EINTR when a handler has run, SA_RESTART or not, and many programs are not
 * ready for it. So:
 *
 *   - calls that the kernel begins again by itself, and those that can be made once more by us
 *     without the program noticing: the thread is signalled, and where the kernel has given up the
 *     call with EINTR, the handler sets the thread back to the call's instruction
 *     (fh_os_repeat_call). That is so for calls that wait without a limit, until a point in time, or
 *     with a limit that the kernel counts down in the caller's memory;
 *   - calls with a relative limit (it would begin anew each time), those that may have done half of
 *     their work, and those that we don't know: the thread is *watched*. /proc gives its stack
 *     pointer and the call's arguments. The registers that the caller's callers have in rbx, rbp and
 *     r12 to r15 are not known. When all is done, the count of its switches says whether it has slept
 *     all the time (os/task.c); if not, the stop was not complete.
 *
 * A signal that the thread blocks is not sent: it would stay pending and come at any later time,
 * through exec too. Such a thread is watched if it waits, and looked at again until the limit if it
 * runs.
 *
 * The signal is the highest of the real-time signals that nobody uses: what the program has an action for is
 * left to it. Its action stays ours from the first stop on, for a handler may still be on its way out.
 *
 * Between looking and signalling the thread may begin another call. It has waited there for some
 * microseconds only, so whatever it is it is begun again (on aarch64, where the result has overwritten the first
 * argument, it ends with EINTR).
 *
 * Who may touch what. One stop at a time (the caller's lock). A thread's slot is written by the stopper
 * until it sends the signal and after the thread has said STOPPED, by the handler in between. The slots are
 * never unmapped, and the next round begins when every handler of the last has left.
 */
#include "scan/stop.h"

#include "base/core/bits.h"
#include "base/lock.h"
#include "os/mem.h"
#include "os/sys.h"
#include "pages/pages.h"

#include <errno.h>

enum {
    SLOTS = 32768,         /* threads: 6 MiB of address space, touched as needed */
    SIGNAL_HIGHEST = 63,   /* 64 is what debuggers and runtimes reach for first */
    SIGNAL_LOWEST = 48,    /* below, programs begin to count from SIGRTMIN */
    LOOK_AGAIN_NS = 50000, /* between two looks at a thread that runs with the signal blocked */
    WAIT_NS = 2000000,     /* for handlers, before the threads are looked at again */
};

#define LEAVE_NS 1000000000u /* handlers of the last round, on a machine that is busy */

static struct {
    struct fh_stop_thread *threads; /* SLOTS; NULL before the first stop */
    unsigned count;
    unsigned new_ones; /* found by the last reading */
    bool is_full;
    int signal;
    int self;
    bool (*is_helper)(int tid);
    _Atomic uint32_t round;   /* counted up by go: handlers wait while it is as they found it */
    _Atomic uint32_t stopped; /* counts handlers that have come; the stopper sleeps on it */
} world;

/* ---- the handler ------------------------------------------------------------------------------- */

/* It runs in the middle of anything, on any thread of the program: nothing of libc, nothing thread-local. */
__attribute__((no_sanitize("thread", "address"))) static void stop_here(int number, void *info,
                                                                        void *context)
{
    (void)number;
    struct fh_stop_thread *self = fh_os_signal_value(info);
    /* acquire pairs with the stopper's release of state: what it wrote of us is seen. */
    if (self == NULL || self < world.threads || self >= world.threads + SLOTS ||
        atomic_load_explicit(&self->state, memory_order_acquire) != FH_STOP_SENT)
        return;
    uint32_t round = atomic_load_explicit(&world.round, memory_order_relaxed);
    fh_os_read_context(context, &self->at);
    self->frame = (uintptr_t)__builtin_frame_address(0);
    self->thread_pointer = fh_stop_thread_pointer();
    fh_os_repeat_call(context, &self->seen);
    uint32_t sent = FH_STOP_SENT;
    /* release pairs with the acquire in state_of. It fails when the stopper has given up waiting. */
    if (!atomic_compare_exchange_strong_explicit(&self->state, &sent, FH_STOP_STOPPED,
                                                 memory_order_release, memory_order_relaxed))
        return;
    atomic_fetch_add_explicit(&world.stopped, 1, memory_order_release);
    fh_lock_wake_hook(&world.stopped, 1);
    /* acquire pairs with the release in go: what was done meanwhile is seen. */
    while (atomic_load_explicit(&world.round, memory_order_acquire) == round)
        fh_lock_wait_hook(&world.round, round, 0);
    atomic_store_explicit(&self->has_left, true, memory_order_release);
}

static int choose_signal(void)
{
    if (world.signal != 0 && fh_os_take_signal(world.signal, stop_here) == 0)
        return 0;
    for (int number = SIGNAL_HIGHEST; number >= SIGNAL_LOWEST; number--) {
        int result = fh_os_take_signal(number, stop_here);
        if (result == 0) {
            world.signal = number;
            return 0;
        }
        if (result != -EBUSY)
            return result;
    }
    return -EBUSY;
}

/* ---- finding threads --------------------------------------------------------------------------- */

static void note_thread(void *context, int tid)
{
    (void)context;
    if (tid == world.self)
        return;
    for (unsigned i = world.count; i-- > 0;)
        if (world.threads[i].tid == tid)
            return;
    if (world.is_helper(tid))
        return;
    if (world.count == SLOTS) {
        world.is_full = true;
        return;
    }
    struct fh_stop_thread *thread = &world.threads[world.count++];
    *thread = (struct fh_stop_thread){.tid = tid};
    world.new_ones++;
}

/* ---- what to do with a thread ------------------------------------------------------------------- */

static void set_state(struct fh_stop_thread *thread, enum fh_stop_state state)
{
    /* release pairs with the acquire in the handler: `seen` is seen. */
    atomic_store_explicit(&thread->state, state, memory_order_release);
}

static enum fh_stop_state state_of(const struct fh_stop_thread *thread)
{
    /* acquire pairs with the release in the handler: what it wrote is seen. */
    return (enum fh_stop_state)atomic_load_explicit(&thread->state, memory_order_acquire);
}

static void send(struct fh_stop_thread *thread)
{
    set_state(thread, FH_STOP_SENT);
    int result = fh_os_signal_thread(thread->tid, world.signal, thread);
    if (result == -ESRCH)
        set_state(thread, FH_STOP_GONE);
    else if (result != 0) /* the queue of signals is full: later */
        set_state(thread, FH_STOP_NEW);
}

/* False when /proc does not say. */
static bool treat(struct fh_stop_thread *thread, bool is_undisturbed)
{
    int result = fh_os_look_at_thread(thread->tid, &thread->seen);
    if (result == -ESRCH) {
        set_state(thread, FH_STOP_GONE);
        return true;
    }
    if (result != 0)
        return false;
    bool is_deaf = (thread->seen.blocked_signals >> (world.signal - 1) & 1) != 0;
    if (!thread->seen.is_blocked) {
        if (!is_deaf)
            send(thread);
        return true;
    }
    if (is_deaf || is_undisturbed || !fh_os_is_repeatable(&thread->seen))
        set_state(thread, FH_STOP_WATCHED);
    else
        send(thread);
    return true;
}

/* A thread to which the signal was sent and that has not come: it may have ended, or blocked the signal just
 * before and sleep now. What is pending then stops nobody: the handler finds another state. */
static void look_after(struct fh_stop_thread *thread)
{
    struct fh_os_thread now;
    int result = fh_os_look_at_thread(thread->tid, &now);
    uint32_t sent = FH_STOP_SENT;
    if (result == -ESRCH)
        set_state(thread, FH_STOP_GONE);
    else if (result == 0 && now.is_blocked &&
             (now.blocked_signals >> (world.signal - 1) & 1) != 0 &&
             atomic_compare_exchange_strong_explicit(&thread->state, &sent, FH_STOP_WATCHED,
                                                     memory_order_relaxed, memory_order_relaxed))
        thread->seen = now;
}

/* ---- stopping ----------------------------------------------------------------------------------- */

static unsigned count_in(enum fh_stop_state state)
{
    unsigned count = 0;
    for (unsigned i = 0; i < world.count; i++)
        count += state_of(&world.threads[i]) == state;
    return count;
}

/* Until all that were sent the signal have come; false when the limit is over. */
static bool wait_for_sent(uint64_t deadline)
{
    for (;;) {
        uint32_t stopped = atomic_load_explicit(&world.stopped, memory_order_acquire);
        if (count_in(FH_STOP_SENT) == 0)
            return true;
        uint64_t begin = fh_os_now_ns();
        if (begin >= deadline)
            return false;
        fh_lock_wait_hook(&world.stopped, stopped, WAIT_NS);
        if (fh_os_now_ns() - begin < WAIT_NS)
            continue;
        for (unsigned i = 0; i < world.count; i++)
            if (state_of(&world.threads[i]) == FH_STOP_SENT)
                look_after(&world.threads[i]);
    }
}

/* One look at everybody who is new: 0, or why /proc can't be read. */
static int treat_new(bool is_undisturbed)
{
    for (unsigned i = 0; i < world.count; i++)
        if (state_of(&world.threads[i]) == FH_STOP_NEW && !treat(&world.threads[i], is_undisturbed))
            return -EACCES;
    return 0;
}

static int stop_round(bool is_undisturbed, uint64_t deadline, bool *is_complete)
{
    for (;;) {
        world.new_ones = 0;
        int result = fh_os_each_thread(note_thread, NULL);
        if (result == 0)
            result = treat_new(is_undisturbed);
        if (result != 0)
            return result;
        *is_complete = wait_for_sent(deadline) && count_in(FH_STOP_NEW) == 0 && !world.is_full;
        if (*is_complete && world.new_ones == 0)
            return 0;
        if (fh_os_now_ns() >= deadline) {
            *is_complete = false;
            return 0;
        }
        if (!*is_complete)
            fh_os_sleep_ns(LOOK_AGAIN_NS);
    }
}

/* The handlers of the last round are out; false when one is not, in LEAVE_NS. */
static bool has_everybody_left(void)
{
    uint64_t deadline = fh_os_now_ns() + LEAVE_NS;
    for (unsigned i = 0; i < world.count; i++) {
        const struct fh_stop_thread *thread = &world.threads[i];
        /* acquire pairs with the release in the handler. */
        while (state_of(thread) == FH_STOP_STOPPED &&
               !atomic_load_explicit(&thread->has_left, memory_order_acquire)) {
            if (fh_os_now_ns() >= deadline)
                return false;
            fh_os_sleep_ns(LOOK_AGAIN_NS);
        }
    }
    return true;
}

int fh_stop_all(bool (*is_helper)(int tid), bool is_undisturbed, uint64_t limit_ns,
                struct fh_stop_threads *out)
{
    if (world.threads == NULL)
        world.threads = fh_meta_map(SLOTS * sizeof world.threads[0]);
    if (world.threads == NULL)
        return -ENOMEM;
    if (!has_everybody_left())
        return -EBUSY;
    int result = choose_signal();
    if (result != 0)
        return result;
    world.count = 0;
    world.is_full = false;
    world.self = fh_os_gettid();
    world.is_helper = is_helper;
    result = stop_round(is_undisturbed, fh_os_now_ns() + limit_ns, &out->is_complete);
    if (result != 0) {
        fh_stop_go();
        return result;
    }
    out->threads = world.threads;
    out->count = world.count;
    return 0;
}

bool fh_stop_was_still(const struct fh_stop_threads *threads)
{
    for (unsigned i = 0; i < threads->count; i++) {
        const struct fh_stop_thread *thread = &threads->threads[i];
        if (state_of(thread) != FH_STOP_WATCHED)
            continue;
        struct fh_os_thread now;
        if (fh_os_look_at_thread(thread->tid, &now) != 0 || !now.is_blocked ||
            now.switches != thread->seen.switches)
            return false;
    }
    return true;
}

void fh_stop_go(void)
{
    /* A signal that is still on its way finds its slot's state another and stops nobody. */
    for (unsigned i = 0; i < world.count; i++) {
        uint32_t sent = FH_STOP_SENT;
        atomic_compare_exchange_strong_explicit(&world.threads[i].state, &sent, FH_STOP_GONE,
                                                memory_order_relaxed, memory_order_relaxed);
    }
    /* release pairs with the acquire in the handler. */
    atomic_fetch_add_explicit(&world.round, 1, memory_order_release);
    fh_lock_wake_hook(&world.round, INT32_MAX);
}

void fh_stop_forked(void)
{
    /* The handlers that were on their way out are threads of the parent. */
    world.count = 0;
}
