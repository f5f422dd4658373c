/*
 * The helper: a thread that libc does not know.
 *
 * A pthread would make single-threaded programs' stdio several times slower (libc gives up its
 * shortcuts when a second thread exists), so background work runs in a raw clone. It shares address
 * space, files and signal actions, and is a thread of the process, but:
 *
 *  - its thread pointer leads to `struct thread_area` at the top of its own stack, not to a libc
 * descriptor, and not to its creator's either: the creator may exit first and libc unmap its
 * descriptor. The area holds what compiled code reads by itself: the pointer to itself at offset 0
 * and a stack protector's canary (offset 40 on x86-64; 0 there). Thread-local variables and
 * whatever of libc uses them (errno!) are out of bounds;
 *  - every signal is blocked, for a handler would run without libc's descriptor: the creator blocks
 * them all around the clone, which hands the mask on;
 *  - it ends with exit(2), not exit_group; the kernel then writes 0 to *alive and wakes one waiter
 *    (CLONE_CHILD_CLEARTID). From then on the stack is the caller's again.
 *
 * The wake-up comes through the shared kind of futex (the kernel can't know better), so waiting for
 * the end must use that kind too: fh_os_helper_wait does.
 *
 * ThreadSanitizer puts a call that reads thread-local state into every function, also those that
 * the helper would run; so there is no helper in such a build.
 *
 * A fork copies only the forking thread: in the child *alive still says 1 and nobody clears it;
 * whoever started the helper resets it there.
 */
#include "os/sys.h"

#include "base/core/bits.h"
#include "os/syscall.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdatomic.h>

#if defined(__SANITIZE_THREAD__)
#define IS_THREAD_SANITIZED true
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define IS_THREAD_SANITIZED true
#endif
#endif
#ifndef IS_THREAD_SANITIZED
#define IS_THREAD_SANITIZED false
#endif

enum {
    KERNEL_SIGSET_BYTES = 8,
    STACK_ALIGN = 16,
    STACK_LEAST = 1024, /* the area, a few frames and a system call */
    FLAGS = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM |
            CLONE_SETTLS | CLONE_CHILD_CLEARTID,
};

struct thread_area {
    void *self;
    unsigned long zero[31];
};

/* Never returns in the child: it has no frame to return to. In the parent the result of clone(2).
 */
static FH_NOINLINE long clone_and_run(void (*run)(void *), void *arg, void *stack_top,
                                      struct thread_area *area, _Atomic uint32_t *alive)
{
#if defined(__x86_64__)
    long result = SYS_clone;
    register long r10 __asm__("r10") = (long)alive;
    register long r8 __asm__("r8") = (long)area;
    register void (*r12)(void *) __asm__("r12") = run;
    register void *r13 __asm__("r13") = arg;
    __asm__ volatile("syscall\n\t"
                     "test %%rax, %%rax\n\t"
                     "jnz 1f\n\t"
                     "xor %%ebp, %%ebp\n\t" /* frame pointers end here */
                     "mov %%r13, %%rdi\n\t"
                     "call *%%r12\n\t"
                     "mov %[exit], %%eax\n\t"
                     "xor %%edi, %%edi\n\t"
                     "syscall\n\t"
                     "ud2\n"
                     "1:"
                     : "+a"(result)
                     : "D"((long)FLAGS), "S"(stack_top), "d"(0L), "r"(r10), "r"(r8), "r"(r12),
                       "r"(r13), [exit] "i"(SYS_exit)
                     : "rcx", "r11", "memory", "cc");
    return result;
#elif defined(__aarch64__)
    register long x8 __asm__("x8") = SYS_clone;
    register long x0 __asm__("x0") = FLAGS;
    register void *x1 __asm__("x1") = stack_top;
    register long x2 __asm__("x2") = 0;
    register struct thread_area *x3 __asm__("x3") = area;
    register _Atomic uint32_t *x4 __asm__("x4") = alive;
    register void (*x19)(void *) __asm__("x19") = run;
    register void *x20 __asm__("x20") = arg;
    __asm__ volatile("svc 0\n\t"
                     "cbnz x0, 1f\n\t"
                     "mov x29, xzr\n\t" /* frame pointers end here */
                     "mov x0, x20\n\t"
                     "blr x19\n\t"
                     "mov x8, %[exit]\n\t"
                     "mov x0, xzr\n\t"
                     "svc 0\n\t"
                     "brk 1\n"
                     "1:"
                     : "+r"(x0)
                     : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x19),
                       "r"(x20), [exit] "i"(SYS_exit)
                     : "memory", "cc");
    return x0;
#endif
}

int fh_os_helper_start(void (*run)(void *), void *arg, void *stack, size_t stack_size,
                       _Atomic uint32_t *alive)
{
    if (IS_THREAD_SANITIZED)
        return -ENOSYS;
    if (stack_size < STACK_LEAST)
        return -EINVAL;
    uintptr_t top = fh_align_down((uintptr_t)stack + stack_size, STACK_ALIGN);
    struct thread_area *area = (struct thread_area *)(top - sizeof(struct thread_area));
    *area = (struct thread_area){.self = area};

    uint64_t every_signal = ~(uint64_t)0;
    uint64_t mask_before = 0;
    fh_syscall4(SYS_rt_sigprocmask, SIG_BLOCK, (long)&every_signal, (long)&mask_before,
                KERNEL_SIGSET_BYTES);
    /* relaxed: the clone orders it before anything that the helper does. */
    atomic_store_explicit(alive, 1, memory_order_relaxed);
    long tid = clone_and_run(run, arg, area, area, alive);
    if (tid < 0)
        atomic_store_explicit(alive, 0, memory_order_relaxed);
    fh_syscall4(SYS_rt_sigprocmask, SIG_SETMASK, (long)&mask_before, 0, KERNEL_SIGSET_BYTES);
    return (int)tid;
}

void fh_os_wake_shared(_Atomic uint32_t *word)
{
    fh_syscall3(SYS_futex, (long)word, FUTEX_WAKE, INT_MAX);
}

void fh_os_wait_shared(_Atomic uint32_t *word, uint32_t value, uint64_t ns)
{
    const struct {
        int64_t seconds;
        int64_t nanoseconds;
    } longest = {(int64_t)(ns / 1000000000u), (int64_t)(ns % 1000000000u)};
    fh_syscall4(SYS_futex, (long)word, FUTEX_WAIT, (long)value, (long)&longest);
}

bool fh_os_helper_wait(_Atomic uint32_t *alive, uint64_t ns)
{
    uint64_t start = ns != 0 ? fh_os_now_ns() : 0;
    /* acquire: the kernel clears the word after the helper's last store. */
    while (atomic_load_explicit(alive, memory_order_acquire) != 0) {
        struct {
            int64_t seconds;
            int64_t nanoseconds;
        } left = {0, 0};
        if (ns != 0) {
            uint64_t elapsed = fh_os_now_ns() - start;
            if (elapsed >= ns)
                return false;
            left.seconds = (int64_t)((ns - elapsed) / 1000000000u);
            left.nanoseconds = (int64_t)((ns - elapsed) % 1000000000u);
        }
        fh_syscall4(SYS_futex, (long)alive, FUTEX_WAIT, 1, ns != 0 ? (long)&left : 0);
    }
    return true;
}
