/*
 * Calls that change who a thread is: the helper ends first.
 *
 * The decay helper is a thread that libc does not know (os/helper.c). libc carries a setuid to all
 * the threads it knows, so the helper would keep the old identity; unshare(CLONE_NEWUSER) and setns
 * refuse a process with two threads; and a seccomp filter may forbid what the helper calls. So
 * these calls come here: the helper is ended and kept from starting again, the call is made, and
 * then it may start again. After a filter was installed it may not, for good, and the heap makes no
 * system call any more that glibc's malloc does not make.
 *
 * libc's own function does the work (it knows its threads), found by dlsym when first needed: never
 * inside malloc. A child of vfork, which shares our memory but not our threads, changes nothing
 * here (fh_decay_stop sees that).
 *
 * `syscall` is here because seccomp has no other name in libc. It is written in assembly: who forks
 * by it must find no frame of ours.
 *
 * Not in the static archive: there is no next function to find in a static program.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "heap/heap.h"

#include <dlfcn.h>
#include <errno.h>
#include <grp.h>
#include <sched.h>
#include <stdarg.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define NEXT(name)                                                                                 \
    static _Atomic(void *) next;                                                                   \
    void *found = find(&next, name)

static void *find(_Atomic(void *) *next, const char *name)
{
    void *found = atomic_load_explicit(next, memory_order_relaxed);
    if (found == NULL) {
        found = dlsym(RTLD_NEXT, name);
        atomic_store_explicit(next, found, memory_order_relaxed);
    }
    return found;
}

static int absent(void)
{
    errno = ENOSYS;
    return -1;
}

/* An int function of libc's, with the helper ended. */
#define ALONE(name, parameters, arguments)                                                         \
    FH_PUBLIC int name parameters                                                                  \
    {                                                                                              \
        NEXT(#name);                                                                               \
        bool is_stopped = fh_decay_stop();                                                         \
        int result = found != NULL ? ((int(*) parameters)found)arguments : absent();               \
        if (is_stopped)                                                                            \
            fh_decay_resume();                                                                     \
        return result;                                                                             \
    }

struct __user_cap_header_struct;
struct __user_cap_data_struct;
int capset(struct __user_cap_header_struct *header, const struct __user_cap_data_struct *data);

ALONE(setuid, (uid_t user), (user))
ALONE(setgid, (gid_t group), (group))
ALONE(seteuid, (uid_t user), (user))
ALONE(setegid, (gid_t group), (group))
ALONE(setreuid, (uid_t real, uid_t effective), (real, effective))
ALONE(setregid, (gid_t real, gid_t effective), (real, effective))
ALONE(setresuid, (uid_t real, uid_t effective, uid_t saved), (real, effective, saved))
ALONE(setresgid, (gid_t real, gid_t effective, gid_t saved), (real, effective, saved))
ALONE(setgroups, (size_t count, const gid_t *groups), (count, groups))
ALONE(initgroups, (const char *user, gid_t group), (user, group))
ALONE(setfsuid, (uid_t user), (user))
ALONE(setfsgid, (gid_t group), (group))
ALONE(unshare, (int flags), (flags))
ALONE(setns, (int fd, int type), (fd, type))
ALONE(capset, (struct __user_cap_header_struct * header, const struct __user_cap_data_struct *data),
      (header, data))

static bool is_about_identity(int option)
{
    switch (option) {
    case PR_SET_SECCOMP:
    case PR_SET_NO_NEW_PRIVS:
    case PR_SET_SECUREBITS:
    case PR_SET_KEEPCAPS:
    case PR_CAPBSET_DROP:
    case PR_CAP_AMBIENT:
        return true;
    default:
        return false;
    }
}

FH_PUBLIC int prctl(int option, ...)
{
    va_list list;
    va_start(list, option);
    unsigned long argument[4];
    for (unsigned i = 0; i < 4; i++)
        argument[i] = va_arg(list, unsigned long);
    va_end(list);
    NEXT("prctl");
    if (found == NULL)
        return absent();
    int (*real)(int, ...) = (int (*)(int, ...))found;
    if (!is_about_identity(option))
        return real(option, argument[0], argument[1], argument[2], argument[3]);
    bool is_stopped = fh_decay_stop();
    int result = real(option, argument[0], argument[1], argument[2], argument[3]);
    if (option == PR_SET_SECCOMP && result == 0)
        fh_decay_confine();
    else if (is_stopped)
        fh_decay_resume();
    return result;
}

#if defined(__x86_64__)

/* The few numbers that mean one of the above, called raw; anything else goes straight to the
 * kernel. */
FH_HIDDEN long fh_syscall_failed_with(long result);
FH_HIDDEN bool fh_syscall_before(long number);
FH_HIDDEN void fh_syscall_after(long number, long result, bool is_stopped);

bool fh_syscall_before(long number)
{
    (void)number;
    return fh_decay_stop();
}

void fh_syscall_after(long number, long result, bool is_stopped)
{
    if (number == SYS_seccomp && result == 0)
        fh_decay_confine();
    else if (is_stopped)
        fh_decay_resume();
}

long fh_syscall_failed_with(long result)
{
    errno = (int)-result;
    return -1;
}

#define STRING(x)  #x
#define NUMBER(x)  STRING(x)
#define IS(number) "cmp $" NUMBER(number) ", %edi\n\tje 2f\n\t"

__asm__(".text\n\t"
        ".globl syscall\n\t"
        ".type syscall, @function\n"
        "syscall:\n\t"
        ".cfi_startproc\n\t" IS(SYS_seccomp) IS(SYS_unshare) IS(SYS_setns) IS(SYS_capset)
            IS(SYS_setuid) IS(SYS_setgid) IS(SYS_setreuid) IS(SYS_setregid) IS(SYS_setresuid)
                IS(SYS_setresgid)
                    IS(SYS_setgroups) "mov %rdi, %rax\n\t"
                                      "mov %rsi, %rdi\n\t"
                                      "mov %rdx, %rsi\n\t"
                                      "mov %rcx, %rdx\n\t"
                                      "mov %r8, %r10\n\t"
                                      "mov %r9, %r8\n\t"
                                      "mov 8(%rsp), %r9\n\t"
                                      "syscall\n\t"
                                      "cmp $-4095, %rax\n\t"
                                      "jae 1f\n\t"
                                      "ret\n"
                                      "1:\n\t"
                                      "mov %rax, %rdi\n\t"
                                      "jmp fh_syscall_failed_with\n"
                                      "2:\n\t" /* none of these takes more than three arguments */
                                      "push %rdi\n\t.cfi_adjust_cfa_offset 8\n\t"
                                      "push %rsi\n\t.cfi_adjust_cfa_offset 8\n\t"
                                      "push %rdx\n\t.cfi_adjust_cfa_offset 8\n\t"
                                      "push %rcx\n\t.cfi_adjust_cfa_offset 8\n\t"
                                      "sub $8, %rsp\n\t.cfi_adjust_cfa_offset 8\n\t"
                                      "call fh_syscall_before\n\t"
                                      "mov %rax, (%rsp)\n\t"
                                      "mov 32(%rsp), %rax\n\t"
                                      "mov 24(%rsp), %rdi\n\t"
                                      "mov 16(%rsp), %rsi\n\t"
                                      "mov 8(%rsp), %rdx\n\t"
                                      "syscall\n\t"
                                      "mov (%rsp), %rdx\n\t"
                                      "mov 32(%rsp), %rdi\n\t"
                                      "mov %rax, %rsi\n\t"
                                      "mov %rax, 24(%rsp)\n\t"
                                      "call fh_syscall_after\n\t"
                                      "mov 24(%rsp), %rax\n\t"
                                      "add $40, %rsp\n\t.cfi_adjust_cfa_offset -40\n\t"
                                      "cmp $-4095, %rax\n\t"
                                      "jae 1b\n\t"
                                      "ret\n\t"
                                      ".cfi_endproc\n\t"
                                      ".size syscall, .-syscall");

#endif
