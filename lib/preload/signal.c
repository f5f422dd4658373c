/*
 * Signal handlers that may allocate.
 *
 * A program that installs a handler gets our trampoline installed instead; the trampoline asks
 * whether the signal interrupted allocator code (heap/handler.c) and calls the program's handler,
 * as if the kernel had: on the same stack, with the same mask, the same three arguments (handlers
 * without SA_SIGINFO get them from this kernel too, and look at the first). The trampoline leaves
 * no frame of its own unless it has something to restore.
 *
 * What the program's handler is, is one word for each signal: its address, and in the top bits
 * (which no address of a program has) whether it asked for SA_SIGINFO, without which the kernel
 * shall not call us, and for SA_RESETHAND, with which a signal can't be put off. The rest of the
 * action — flags, mask — is the kernel's to keep, and so what sigaction returns is what the kernel
 * says, with handler and SA_SIGINFO put back. SIG_DFL and SIG_IGN go through to the kernel; the
 * word keeps what it was, nobody asks for it then. What SA_RESETHAND, exec and fork do needs
 * nothing: the kernel's action decides.
 *
 * No lock: sigaction is called by handlers, between vfork and exec, and by children of fork. A
 * handler's word is exchanged before the kernel hears of it, so in between the new handler may be
 * called with the old one's mask; two threads that install different handlers for a signal at once
 * may get one's handler with the other's mask. Neither is more than what the program itself had
 * allowed.
 *
 * Faults (SIGSEGV, SIGBUS) are seen first by guard/fault.c where blocks are guarded. Then it keeps the program's action in
 * the kernel's place, and calls the trampoline as the kernel would.
 *
 * Not covered: actions by a raw rt_sigaction, and handlers installed before we were loaded.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "guard/fault.h"
#include "heap/handler.h"
#include "preload/entry.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>

#define WANTS_INFO ((uintptr_t)1 << 63)
#define IS_SPENT   ((uintptr_t)1 << 62) /* SA_RESETHAND: the kernel forgets it when it calls us */
#define FLAGS      (WANTS_INFO | IS_SPENT)

extern const char __start_fh_fast[] FH_HIDDEN;
extern const char __stop_fh_fast[] FH_HIDDEN;

typedef void handler_call(int number, siginfo_t *info, void *context);

static _Atomic uintptr_t handlers[NSIG];
/* Signals that siginterrupt wants to interrupt system calls; bit n - 1. */
static _Atomic uint64_t interrupting;

FH_FAST static FH_NOINLINE void call_inside(uintptr_t word, int number, siginfo_t *info,
                                            void *context)
{
    handler_call *handler = (handler_call *)(word & ~FLAGS); /* NOLINT: an address that was one */
    if (!(word & IS_SPENT) && fh_handler_postpone(number, info, context))
        return;
    struct fh_interruption own;
    uintptr_t mark;
    struct fh_interruption *it = fh_handler_begin(&own, &mark, &fh_entry_window, number, context);
    handler(number, info, context);
    fh_handler_end(it);
}

FH_FAST static void trampoline(int number, siginfo_t *info, void *context)
{
    uintptr_t word = atomic_load_explicit(&handlers[number], memory_order_relaxed);
    handler_call *handler = (handler_call *)(word & ~FLAGS); /* NOLINT: an address that was one */
    if (FH_UNLIKELY(
            fh_handler_is_inside(context, (uintptr_t)__start_fh_fast, (uintptr_t)__stop_fh_fast)))
        call_inside(word, number, info, context);
    else
        handler(number, info, context);
}

static bool is_ours(const struct sigaction *action)
{
    return (action->sa_flags & SA_SIGINFO) && action->sa_sigaction == trampoline;
}

static bool is_a_handler(const struct sigaction *action)
{
    return action->sa_handler != SIG_DFL && action->sa_handler != SIG_IGN &&
           action->sa_handler != SIG_ERR;
}

FH_PUBLIC int sigaction(int number, const struct sigaction *action, struct sigaction *old)
{
    if (number < 1 || number >= NSIG)
        return fh_fault_sigaction(number, action, old);
    uintptr_t before = atomic_load_explicit(&handlers[number], memory_order_relaxed);
    struct sigaction mine, was;
    int result;
    if (action != NULL && is_a_handler(action) && !is_ours(action)) {
        uintptr_t word = (uintptr_t)action->sa_sigaction |
                         (action->sa_flags & SA_SIGINFO ? WANTS_INFO : 0) |
                         (action->sa_flags & (int)SA_RESETHAND ? IS_SPENT : 0);
        mine = *action;
        mine.sa_sigaction = trampoline;
        mine.sa_flags |= SA_SIGINFO;
        before = atomic_exchange_explicit(&handlers[number], word, memory_order_relaxed);
        result = fh_fault_sigaction(number, &mine, &was);
        if (result != 0)
            atomic_compare_exchange_strong_explicit(&handlers[number], &word, before,
                                                    memory_order_relaxed, memory_order_relaxed);
    } else {
        result = fh_fault_sigaction(number, action, &was);
    }
    if (result != 0 || old == NULL)
        return result;
    if (is_ours(&was)) {
        was.sa_sigaction = (handler_call *)(before & ~FLAGS); /* NOLINT: as above */
        if ((before & WANTS_INFO) == 0)
            was.sa_flags &= ~SA_SIGINFO;
    }
    *old = was;
    return 0;
}

FH_PUBLIC int sigaltstack(const stack_t *restrict stack, stack_t *restrict old)
{
    return fh_fault_sigaltstack(stack, old);
}

static sighandler_t install(int number, sighandler_t handler, int flags, bool is_masked)
{
    struct sigaction action = {.sa_flags = flags}, old;
    if (handler == SIG_ERR || number < 1 || number >= NSIG) {
        errno = EINVAL;
        return SIG_ERR;
    }
    action.sa_handler = handler;
    sigemptyset(&action.sa_mask);
    if (is_masked)
        sigaddset(&action.sa_mask, number);
    return sigaction(number, &action, &old) == 0 ? old.sa_handler : SIG_ERR;
}

/* BSD's: the handler stays, system calls are restarted (unless siginterrupt said otherwise), the
 * signal is blocked meanwhile. */
FH_PUBLIC sighandler_t signal(int number, sighandler_t handler)
{
    bool may_interrupt =
        number >= 1 && number <= 64 &&
        (atomic_load_explicit(&interrupting, memory_order_relaxed) >> (number - 1) & 1) != 0;
    return install(number, handler, may_interrupt ? 0 : SA_RESTART, true);
}

FH_PUBLIC sighandler_t bsd_signal(int number, sighandler_t handler);
FH_PUBLIC sighandler_t bsd_signal(int number, sighandler_t handler)
{
    return signal(number, handler);
}

FH_PUBLIC sighandler_t ssignal(int number, sighandler_t handler)
{
    return signal(number, handler);
}

/* System V's: once, and not blocked. */
FH_PUBLIC sighandler_t sysv_signal(int number, sighandler_t handler)
{
    return install(number, handler, (int)(SA_RESETHAND | SA_NODEFER), false);
}

FH_PUBLIC sighandler_t __sysv_signal(int number, sighandler_t handler);
FH_PUBLIC sighandler_t __sysv_signal(int number, sighandler_t handler)
{
    return sysv_signal(number, handler);
}

FH_PUBLIC int siginterrupt(int number, int may_interrupt)
{
    struct sigaction action;
    if (number < 1 || number > 64) {
        errno = EINVAL;
        return -1;
    }
    if (sigaction(number, NULL, &action) != 0)
        return -1;
    uint64_t bit = (uint64_t)1 << (number - 1);
    if (may_interrupt) {
        atomic_fetch_or_explicit(&interrupting, bit, memory_order_relaxed);
        action.sa_flags &= ~SA_RESTART;
    } else {
        atomic_fetch_and_explicit(&interrupting, ~bit, memory_order_relaxed);
        action.sa_flags |= SA_RESTART;
    }
    return sigaction(number, &action, NULL);
}

/* XSI's: SIG_HOLD blocks the signal; anything else unblocks it. The old disposition, or SIG_HOLD if
 * it was blocked. */
FH_PUBLIC sighandler_t sigset(int number, sighandler_t handler)
{
    sigset_t set, before;
    struct sigaction old;
    sigemptyset(&set);
    if (handler == SIG_ERR || sigaddset(&set, number) != 0) {
        errno = EINVAL;
        return SIG_ERR;
    }
    bool is_held = handler == SIG_HOLD;
    if (sigaction(number, NULL, &old) != 0)
        return SIG_ERR;
    if (!is_held && install(number, handler, 0, false) == SIG_ERR)
        return SIG_ERR;
    if (sigprocmask(is_held ? SIG_BLOCK : SIG_UNBLOCK, &set, &before) != 0)
        return SIG_ERR;
    return sigismember(&before, number) ? SIG_HOLD : old.sa_handler;
}
