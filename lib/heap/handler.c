/*
 * Signal handlers that interrupted the allocator.
 *
 * A handler that allocates may come between any two instructions of malloc and free. Most come
 * elsewhere: they run as if there had been no signal. The rest is told apart by two signs:
 *
 *   - the interrupted instruction lies in the section fh_fast of libfreehold or of the entry points
 * (FH_FAST): the fast paths, the quick refill, and whatever stands between them and the next sign;
 *     The signal may also have come when an earlier handler had returned and not yet left (its
 * restorer): then what that one interrupted counts;
 *   - the current heap's depth is not zero, or it is fh_heap_emergency: a slow path is under way
 * (fh_busy_begin), and may be anywhere, in libc or in the kernel too.
 *
 * Of a slow path, which takes locks, an asynchronous signal waits for the end: the trampoline sends
 * it to the thread again, blocked, and returns; the end of the slow path unblocks it
 * (fh_depth_leave). So a handler never holds up a lock, and may leave by a jump. What can't wait is
 * a fault of the slow path itself (a crash handler that allocates), an action with SA_RESETHAND
 * (spent when it arrives), and anything while the thread's heap is being made.
 *
 * A handler that can't wait, or that interrupted a fast path, is an *interruption*. For its time
 *
 *   - the current heap is fh_heap_emergency. Its bins are empty, so malloc goes the slow way, which
 * sees it and takes from the emergency arena (emergency.c);
 *   - the windows of the free paths are *closed*: the mask is 0, every address leads to the first
 * header, which fits no key (run.c sees to that), and free goes the slow way. That pushes the block
 * by the lock-free way that other threads use (remote.c), and large blocks on root.late (large.c):
 * no list that the interrupted code may be changing is touched, no lock is taken. A window is one
 * for all threads; the others take the slow way, which is right for them, for the handler's time.
 * The upper bits of the mask count the closings (an address shifted by 9 has 55 bits, so they never
 *     count as mask), and closing and opening are one atomic operation each. It is opened by the
 * next free that misses;
 *   - the interrupted heap's depth is one more, so that the decay helper leaves the heap alone
 * though the thread may block in a system call.
 *
 * The way back. A handler returns, and fh_handler_end restores all. Or it does not return:
 * siglongjmp, an exception, pthread_exit. Nobody tells us; but while an interruption lasts, every
 * malloc and free takes the slow way, and looks (fh_handler_settle): the stack pointer is above the
 * trampoline's frame, or off the alternate stack on which the handler ran, or the mark in the
 * trampoline's frame has been overwritten. Then the interruption is over. If it was a slow path
 * that will never be resumed, the heap is left as it is and not used any more (*condemned*): its
 * blocks stay valid and can be freed, to no avail. What can't be mended: a jump out of a fault
 * in a slow path that held the page pool's lock.
 *
 * Records lie in the emergency arena, not in the trampoline's frame, for they outlive it in the
 * second case. They are a stack; nested signals push theirs too while there is one, if only for the
 * bounds of their stack.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "heap/handler.h"

#include "base/message.h"
#include "os/sys.h"

#include <signal.h>
#include <ucontext.h>

#define MARK           ((uintptr_t)0x5f3c0de5a1e7b00fu)
/* The count of closings is the mask's upper byte; at its end the window stays closed. */
#define CLOSINGS_SHIFT 56
#define CLOSINGS_MOST  ((size_t)255)

/* The linker's: where the section begins and ends in this library, or in the static program. */
extern const char __start_fh_fast[] FH_HIDDEN;
extern const char __stop_fh_fast[] FH_HIDDEN;

static struct fh_run nobody;
struct fh_window fh_free_window = {.headers = (uintptr_t)&nobody};

static __thread struct fh_interruption *interruptions __attribute__((tls_model("initial-exec")));
static _Atomic bool is_told;

/* ---- windows
 * -------------------------------------------------------------------------------------------------------
 */

FH_FAST static void close_window(struct fh_window *window)
{
    size_t old = __atomic_load_n(&window->mask, __ATOMIC_RELAXED), closed;
    do {
        size_t count = old >> CLOSINGS_SHIFT;
        closed = (count < CLOSINGS_MOST ? count + 1 : count) << CLOSINGS_SHIFT;
    } while (!__atomic_compare_exchange_n(&window->mask, &old, closed, true, __ATOMIC_SEQ_CST,
                                          __ATOMIC_RELAXED));
}

FH_FAST static void uncount_window(struct fh_window *window)
{
    size_t old = __atomic_load_n(&window->mask, __ATOMIC_RELAXED), less;
    do {
        size_t count = old >> CLOSINGS_SHIFT;
        less = count < CLOSINGS_MOST ? (count - 1) << CLOSINGS_SHIFT : old;
    } while (!__atomic_compare_exchange_n(&window->mask, &old, less, true, __ATOMIC_SEQ_CST,
                                          __ATOMIC_RELAXED));
}

FH_FAST void fh_window_open(struct fh_window *window)
{
    size_t none = 0, mask = __atomic_load_n(&fh_pages_main.window.mask, __ATOMIC_ACQUIRE);
    if (mask == 0 || __atomic_load_n(&window->mask, __ATOMIC_RELAXED) != 0)
        return;
    __atomic_store_n(&window->headers, fh_pages_main.window.headers, __ATOMIC_RELAXED);
    /* release: the mask last; with 0 every address leads to the first header, and fits no key.
     * Fails when a handler closed it. */
    __atomic_compare_exchange_n(&window->mask, &none, mask, false, __ATOMIC_RELEASE,
                                __ATOMIC_RELAXED);
}

/* ---- interruptions
 * -------------------------------------------------------------------------------------------------
 */

FH_INLINE uintptr_t interrupted_pc(const ucontext_t *context)
{
#if defined(__x86_64__)
    return (uintptr_t)context->uc_mcontext.gregs[REG_RIP];
#elif defined(__aarch64__)
    return (uintptr_t)context->uc_mcontext.pc;
#endif
}

/* What a handler that has just returned goes back to, when the signal came on its last steps: in
 * the restorer, which calls rt_sigreturn with the stack pointer at that context. NULL anywhere
 * else. */
FH_INLINE const ucontext_t *outer_context(const ucontext_t *context)
{
#if defined(__x86_64__)
    static const unsigned char restorer[] = {0x48, 0xc7, 0xc0, 0x0f, 0,
                                             0,    0,    0x0f, 0x05}; /* mov $15, %rax; syscall */
    const unsigned char *code = (const unsigned char *)interrupted_pc(context);
    bool is_second = code[0] == restorer[7] && code[1] == restorer[8] &&
                     context->uc_mcontext.gregs[REG_RAX] == 15;
    for (size_t i = 0; i < sizeof restorer && !is_second; i++)
        if (code[i] != restorer[i])
            return NULL;
    return (const ucontext_t *)context->uc_mcontext.gregs[REG_RSP];
#else
    (void)context;
    return NULL;
#endif
}

FH_FAST bool fh_handler_is_inside(const void *ucontext, uintptr_t entry_begin, uintptr_t entry_end)
{
    struct fh_heap *heap = fh_heap_current;
    if (atomic_load_explicit(&heap->depth, memory_order_relaxed) != 0 || heap == &fh_heap_emergency)
        return true;
    for (const ucontext_t *context = ucontext; context != NULL; context = outer_context(context)) {
        uintptr_t pc = interrupted_pc(context);
        if (pc - entry_begin < entry_end - entry_begin ||
            pc - (uintptr_t)__start_fh_fast < (uintptr_t)(__stop_fh_fast - __start_fh_fast))
            return true;
    }
    return false;
}

static bool is_real(const struct fh_heap *heap)
{
    return heap != &fh_heap_none && heap != &fh_heap_emergency;
}

FH_FAST struct fh_interruption *fh_handler_begin(struct fh_interruption *own, uintptr_t *mark,
                                                 struct fh_window *window, int signal,
                                                 const void *ucontext)
{
    const ucontext_t *context = ucontext;
    uintptr_t here = (uintptr_t)mark, stack = (uintptr_t)context->uc_stack.ss_sp;
    bool is_alternate =
        (context->uc_stack.ss_flags & SS_DISABLE) == 0 && here - stack < context->uc_stack.ss_size;
    struct fh_heap *heap = fh_heap_current;
    fh_heap_current = &fh_heap_emergency; /* first: a signal that comes now sees it */
    atomic_signal_fence(memory_order_seq_cst);
    struct fh_interruption *it = fh_emergency_alloc(sizeof *it, 16);
    if (it == NULL)
        it = own;
    *mark = MARK;
    *it = (struct fh_interruption){
        .outer = interruptions,
        .heap = heap,
        .windows = {window, &fh_free_window},
        .low = is_alternate ? stack : 0,
        .high = here,
        .mark = is_alternate ? NULL : mark,
        .signal = signal,
    };
    close_window(it->windows[0]);
    close_window(it->windows[1]);
    if (is_real(heap)) {
        atomic_fetch_add_explicit(&heap->interruptions, 1, memory_order_seq_cst);
        atomic_fetch_add_explicit(&heap->depth, 1, memory_order_seq_cst);
    }
    interruptions = it;
    atomic_signal_fence(memory_order_seq_cst);
    return it;
}

FH_FAST static void take_back(struct fh_interruption *it)
{
    struct fh_interruption was = *it;
    atomic_signal_fence(memory_order_seq_cst);
    interruptions = was.outer;
    if (fh_emergency_owns(it))
        fh_emergency_free(it);
    uncount_window(was.windows[0]);
    uncount_window(was.windows[1]);
    if (is_real(was.heap)) {
        atomic_fetch_add_explicit(&was.heap->interruptions, 1, memory_order_seq_cst);
        atomic_fetch_sub_explicit(&was.heap->depth, 1, memory_order_seq_cst);
    }
    atomic_signal_fence(memory_order_seq_cst);
    fh_heap_current = was.heap; /* last, as it was set first */
}

FH_FAST bool fh_handler_postpone(int number, const void *info, void *ucontext)
{
    struct fh_heap *heap = fh_heap_current;
    const siginfo_t *about = info;
    ucontext_t *context = ucontext;
    bool is_fault =
        about->si_code > 0 && (number == SIGSEGV || number == SIGBUS || number == SIGFPE ||
                               number == SIGILL || number == SIGTRAP || number == SIGSYS);
    if (!is_real(heap) || atomic_load_explicit(&heap->depth, memory_order_relaxed) == 0 ||
        is_fault || number > 64 || atomic_load_explicit(&fh_root.is_confined, memory_order_relaxed))
        return false;
    uint64_t bit = (uint64_t)1 << (number - 1);
    fh_os_block_signals(bit);
    if (fh_os_signal_self(number, info) != 0)
        return false;
    atomic_fetch_or_explicit(&heap->postponed, bit, memory_order_relaxed);
    sigaddset(&context->uc_sigmask, number);
    return true;
}

FH_NOINLINE void fh_handler_let_in(struct fh_heap *heap)
{
    fh_os_unblock_signals(atomic_exchange_explicit(&heap->postponed, 0, memory_order_relaxed));
}

/* The handler's frame is gone, and with it what it interrupted. */
static void condemn_if_broken(struct fh_heap *heap)
{
    if (!is_real(heap) || atomic_load_explicit(&heap->depth, memory_order_relaxed) == 0)
        return;
    fh_heap_current = &fh_heap_none;
    if (!fh_lock_try_for(&heap->lock, 100000000))
        fh_lock_reset(&heap->lock); /* held by the slow path that will not come back */
    fh_heap_condemn(heap);
    fh_lock_release(&heap->lock);
}

static bool is_over(const struct fh_interruption *it, uintptr_t here)
{
    return here < it->low || here >= it->high || (it->mark != NULL && *it->mark != MARK);
}

FH_FAST void fh_handler_end(struct fh_interruption *interruption)
{
    /* Handlers inside of this one that did not return. */
    while (interruptions != interruption && interruptions != NULL)
        take_back(interruptions);
    if (interruptions == interruption)
        take_back(interruption);
}

struct fh_heap *fh_handler_settle(void)
{
    uintptr_t here = (uintptr_t)__builtin_frame_address(0);
    while (interruptions != NULL && is_over(interruptions, here)) {
        struct fh_heap *heap = interruptions->heap;
        take_back(interruptions);
        condemn_if_broken(heap);
    }
    return fh_heap_current;
}

void fh_handler_forget(void)
{
    while (interruptions != NULL) {
        struct fh_heap *heap = interruptions->heap;
        take_back(interruptions);
        condemn_if_broken(heap);
    }
}

bool fh_handler_is_under_way(void)
{
    return interruptions != NULL;
}

void fh_handler_tell(void)
{
    if (interruptions != NULL && !atomic_exchange_explicit(&is_told, true, memory_order_relaxed))
        fh_message("WARNING: the handler of signal %d allocates after it interrupted malloc or "
                   "free; served from a "
                   "reserve, though POSIX allows no allocation there (said once)",
                   interruptions->signal);
}
