/*
 * The system call instruction itself, inline.
 *
 * libc's wrappers write errno, which is thread-local, and some are cancellation points that change
 * the thread's descriptor. The helper clone runs on the thread-local storage of the thread that
 * started it, and a signal handler may interrupt anything, so os/ goes to the kernel directly: a
 * result between -4095 and -1 is a negative errno, anything else a success.
 *
 * One instruction sequence per architecture serves all argument counts: clearing registers that a
 * call does not read costs under a nanosecond, the call itself more than a hundred.
 */
#ifndef FH_OS_SYSCALL_H
#define FH_OS_SYSCALL_H

#include "base/core/macros.h"

#include <sys/syscall.h>

#if defined(__x86_64__)

FH_INLINE long fh_syscall6(long number, long a, long b, long c, long d, long e, long f)
{
    long result;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "0"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

#elif defined(__aarch64__)

FH_INLINE long fh_syscall6(long number, long a, long b, long c, long d, long e, long f)
{
    register long x8 __asm__("x8") = number;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    register long x4 __asm__("x4") = e;
    register long x5 __asm__("x5") = f;
    __asm__ volatile("svc 0"
                     : "+r"(x0)
                     : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
                     : "memory");
    return x0;
}

#else
#error "freehold knows the system calls of x86-64 and aarch64"
#endif

FH_INLINE long fh_syscall0(long number)
{
    return fh_syscall6(number, 0, 0, 0, 0, 0, 0);
}

FH_INLINE long fh_syscall1(long number, long a)
{
    return fh_syscall6(number, a, 0, 0, 0, 0, 0);
}

FH_INLINE long fh_syscall2(long number, long a, long b)
{
    return fh_syscall6(number, a, b, 0, 0, 0, 0);
}

FH_INLINE long fh_syscall3(long number, long a, long b, long c)
{
    return fh_syscall6(number, a, b, c, 0, 0, 0);
}

FH_INLINE long fh_syscall4(long number, long a, long b, long c, long d)
{
    return fh_syscall6(number, a, b, c, d, 0, 0);
}

FH_INLINE long fh_syscall5(long number, long a, long b, long c, long d, long e)
{
    return fh_syscall6(number, a, b, c, d, e, 0);
}

FH_INLINE bool fh_syscall_failed(long result)
{
    return (unsigned long)result > -4096UL;
}

#endif
