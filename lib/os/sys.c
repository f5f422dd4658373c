/*
 * Services of the kernel that are not memory: clocks, identity, files, limits, the end of the
 * process.
 *
 * Every function here is one or a few raw system calls, keeps no state and leaves errno alone, so
 * all of them may be called from a signal handler, from the helper clone and from inside malloc.
 */
#include "os/sys.h"

#include "base/core/bits.h"
#include "base/message.h"
#include "os/internal.h"
#include "os/syscall.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sysinfo.h>
#include <signal.h>
#include <string.h>
#include <sys/auxv.h>

enum {
    KERNEL_SIGSET_BYTES = 8,
    RANDOM_NONBLOCK = 1,
    RESOURCE_ADDRESS_SPACE = 9,
    MEMBARRIER_PRIVATE_EXPEDITED = 1 << 3,
    MEMBARRIER_REGISTER_PRIVATE_EXPEDITED = 1 << 4,
    MEMBARRIER_SYNC_CORE = 1 << 5,
    MEMBARRIER_REGISTER_SYNC_CORE = 1 << 6,
};

int fh_os_getpid(void)
{
    return (int)fh_syscall0(SYS_getpid);
}

int fh_os_gettid(void)
{
    return (int)fh_syscall0(SYS_gettid);
}

int fh_os_getppid(void)
{
    return (int)fh_syscall0(SYS_getppid);
}

uint64_t fh_os_random(void)
{
    uint64_t value = 0;
    long got = fh_syscall3(SYS_getrandom, (long)&value, sizeof(value), RANDOM_NONBLOCK);
    if (got == (long)sizeof(value))
        return value;
    /* The pool is not ready yet (early boot) or the call is refused: the kernel left 16 random
     * bytes on the stack of every program; the clock makes them differ between calls. */
    unsigned long bytes = fh_os_auxv(AT_RANDOM);
    if (bytes != 0)
        memcpy(&value, (const void *)bytes, sizeof(value));
    return (value ^ fh_os_now_ns()) * 0x9e3779b97f4a7c15u;
}

size_t fh_os_ram_bytes(void)
{
    struct sysinfo info;
    if (fh_syscall1(SYS_sysinfo, (long)&info) != 0)
        return 0;
    return (size_t)info.totalram * info.mem_unit;
}

size_t fh_os_limit_address_space(void)
{
    struct {
        uint64_t soft;
        uint64_t hard;
    } limit;
    if (fh_syscall4(SYS_prlimit64, 0, RESOURCE_ADDRESS_SPACE, 0, (long)&limit) != 0)
        return SIZE_MAX;
    return limit.soft; /* RLIM_INFINITY is all ones */
}

size_t fh_os_mapping_limit(void)
{
    char text[32];
    size_t limit = 0;
    if (fh_os_read_file("/proc/sys/vm/max_map_count", text, sizeof text) > 0)
        for (const char *digit = text; *digit >= '0' && *digit <= '9'; digit++)
            limit = limit * 10 + (size_t)(*digit - '0');
    return limit != 0 ? limit : 65530; /* what Linux has when nobody changed it */
}

unsigned fh_os_cpu_count(void)
{
    uint64_t mask[128]; /* 8,192 CPUs, the most that Linux is built for */
    long bytes = fh_syscall3(SYS_sched_getaffinity, 0, sizeof(mask), (long)mask);
    unsigned count = 0;
    for (long i = 0; i < bytes / (long)sizeof(mask[0]); i++)
        count += (unsigned)__builtin_popcountll(mask[i]);
    return count != 0 ? count : 1;
}

void fh_os_exit(int status)
{
    for (;;)
        fh_syscall1(SYS_exit_group, status);
}

void fh_os_abort(void)
{
    struct {
        void (*handler)(int);
        unsigned long flags;
        void (*restorer)(void);
        uint64_t mask;
    } default_action = {SIG_DFL, 0, NULL, 0};
    uint64_t only_abort = (uint64_t)1 << (SIGABRT - 1);
    fh_syscall4(SYS_rt_sigaction, SIGABRT, (long)&default_action, 0, KERNEL_SIGSET_BYTES);
    fh_syscall4(SYS_rt_sigprocmask, SIG_UNBLOCK, (long)&only_abort, 0, KERNEL_SIGSET_BYTES);
    fh_syscall3(SYS_tgkill, fh_os_getpid(), fh_os_gettid(), SIGABRT);
    /* Process 1 of a container ignores signals with the default action. */
    fh_os_exit(128 + SIGABRT);
}

void fh_os_block_signals(uint64_t set)
{
    fh_syscall4(SYS_rt_sigprocmask, SIG_BLOCK, (long)&set, 0, KERNEL_SIGSET_BYTES);
}

void fh_os_unblock_signals(uint64_t set)
{
    fh_syscall4(SYS_rt_sigprocmask, SIG_UNBLOCK, (long)&set, 0, KERNEL_SIGSET_BYTES);
}

uint64_t fh_os_set_signal_mask(uint64_t set)
{
    uint64_t before = 0;
    fh_syscall4(SYS_rt_sigprocmask, SIG_SETMASK, (long)&set, (long)&before, KERNEL_SIGSET_BYTES);
    return before;
}

int fh_os_alternate_stack(const void *stack, void *before)
{
    return (int)fh_syscall2(SYS_sigaltstack, (long)stack, (long)before);
}

size_t fh_os_alternate_stack_least(void)
{
    enum { AUXV_MINSIGSTKSZ = 51, BEFORE_5_14 = 6144 }; /* with all of AVX-512 */
    size_t least = fh_os_auxv(AUXV_MINSIGSTKSZ);
    return least != 0 ? least : BEFORE_5_14;
}

bool fh_os_is_writable(void *address)
{
    /* The kernel writes the old mask there, or says EFAULT. */
    return fh_syscall4(SYS_rt_sigprocmask, SIG_BLOCK, 0, (long)address, KERNEL_SIGSET_BYTES) == 0;
}

bool fh_os_is_thread_gone(int tid)
{
    return fh_syscall3(SYS_tgkill, fh_os_getpid(), tid, 0) == -ESRCH;
}

void fh_os_segment_bases(uint64_t *fs, uint64_t *gs)
{
    *fs = *gs = 0;
#if defined(__x86_64__)
    enum { GET_FS = 0x1003, GET_GS = 0x1004 };
    fh_syscall2(SYS_arch_prctl, GET_FS, (long)fs);
    fh_syscall2(SYS_arch_prctl, GET_GS, (long)gs);
#endif
}

int fh_os_signal_self(int number, const void *info)
{
    return (int)fh_syscall4(SYS_rt_tgsigqueueinfo, fh_os_getpid(), fh_os_gettid(), number,
                            (long)info);
}

int fh_os_open_read(const char *path)
{
    return (int)fh_syscall4(SYS_openat, AT_FDCWD, (long)path, O_RDONLY | O_CLOEXEC, 0);
}

int fh_os_open_write(const char *path)
{
    return (int)fh_syscall4(SYS_openat, AT_FDCWD, (long)path,
                            O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
}

int fh_os_open_read_write(const char *path)
{
    return (int)fh_syscall3(SYS_openat, AT_FDCWD, (long)path, O_RDWR | O_CLOEXEC);
}

int fh_os_open_append(const char *path)
{
    return (int)fh_syscall4(SYS_openat, AT_FDCWD, (long)path,
                            O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
}

int64_t fh_os_read(int fd, void *buf, size_t size)
{
    long got;
    do {
        got = fh_syscall3(SYS_read, fd, (long)buf, (long)size);
    } while (got == -EINTR);
    return got;
}

int64_t fh_os_read_at(int fd, void *buf, size_t size, uint64_t offset)
{
    size_t total = 0;
    while (total < size) {
        long got = fh_syscall4(SYS_pread64, fd, (long)((char *)buf + total), (long)(size - total),
                               (long)(offset + total));
        if (got == -EINTR)
            continue;
        if (got < 0)
            return got;
        if (got == 0)
            break;
        total += (size_t)got;
    }
    return (int64_t)total;
}

int64_t fh_os_write(int fd, const void *buf, size_t size)
{
    size_t done = 0;
    while (done < size) {
        long wrote = fh_syscall3(SYS_write, fd, (long)buf + (long)done, (long)(size - done));
        if (wrote == -EINTR)
            continue;
        if (wrote < 0)
            return wrote;
        done += (size_t)wrote;
    }
    return (int64_t)done;
}

void fh_os_close(int fd)
{
    fh_syscall1(SYS_close, fd);
}

int64_t fh_os_read_link(const char *path, char *buf, size_t size)
{
    if (size == 0)
        return -EINVAL;
    long got = fh_syscall4(SYS_readlinkat, AT_FDCWD, (long)path, (long)buf, (long)(size - 1));
    if (got >= 0)
        buf[got] = '\0';
    return got == (long)size - 1 ? -ENAMETOOLONG : got; /* the kernel cuts what does not fit */
}

int64_t fh_os_read_file(const char *path, char *buf, size_t size)
{
    if (size == 0)
        return -EINVAL;
    int fd = fh_os_open_read(path);
    if (fd < 0)
        return fd;
    size_t len = 0;
    int64_t got = 0;
    while (len < size - 1 && (got = fh_os_read(fd, buf + len, size - 1 - len)) > 0)
        len += (size_t)got;
    fh_os_close(fd);
    if (got < 0)
        return got;
    buf[len] = '\0';
    return (int64_t)len;
}

/*
 * The file says "running", or "-1 SP PC" for a thread that sleeps outside a system call (a page
 * fault), or the call's number and arguments. The kernel looks twice that the thread has not run in
 * between, so the answer was true at some moment after this function was called; by the time it
 * returns the thread may have woken.
 */
/* Calls in which a thread waits and nothing of it runs. Not: those that begin a child in the
 * caller's memory (vfork, clone), that
 * return into an interrupted frame (rt_sigreturn), or that work on memory. */
static bool is_waiting_call(unsigned long number)
{
    switch (number) {
    case SYS_read:
    case SYS_write:
    case SYS_readv:
    case SYS_writev:
    case SYS_pread64:
    case SYS_pwrite64:
    case SYS_recvfrom:
    case SYS_recvmsg:
    case SYS_recvmmsg:
    case SYS_sendto:
    case SYS_sendmsg:
    case SYS_accept:
    case SYS_accept4:
    case SYS_connect:
    case SYS_ppoll:
    case SYS_pselect6:
    case SYS_epoll_pwait:
    case SYS_futex:
    case SYS_nanosleep:
    case SYS_clock_nanosleep:
    case SYS_wait4:
    case SYS_waitid:
    case SYS_rt_sigsuspend:
    case SYS_rt_sigtimedwait:
    case SYS_fsync:
    case SYS_fdatasync:
    case SYS_io_getevents:
    case SYS_semtimedop:
    case SYS_msgrcv:
    case SYS_mq_timedreceive:
#ifdef SYS_poll
    case SYS_poll:
#endif
#ifdef SYS_select
    case SYS_select:
#endif
#ifdef SYS_epoll_wait
    case SYS_epoll_wait:
#endif
#ifdef SYS_pause
    case SYS_pause:
#endif
#ifdef SYS_futex_waitv
    case SYS_futex_waitv:
#endif
#ifdef SYS_epoll_pwait2
    case SYS_epoll_pwait2:
#endif
#ifdef SYS_io_uring_enter
    case SYS_io_uring_enter:
#endif
        return true;
    default:
        return false;
    }
}

/* After a change of identity /proc/self/task/TID/syscall is root's. The state in `stat` is for all:
 * S is a sleep that a signal
 * ends, which is how the calls above wait; a fault or a vfork waits as D. (Not so a fault on memory
 * that the program itself
 * has under userfaultfd.) */
static bool thread_sleeps(int tid)
{
    char path[64];
    char text[512];
    fh_format(path, sizeof(path), "/proc/self/task/%d/stat", tid);
    if (fh_os_read_file(path, text, sizeof(text)) <= 0)
        return false;
    const char *end = strrchr(text, ')'); /* the name may have any character */
    return end != NULL && end[1] == ' ' && end[2] == 'S';
}

bool fh_os_thread_in_syscall(int tid)
{
    if (!fh_os_may_use(FH_OS_TASK_SYSCALL))
        return false;
    char path[64];
    char text[256];
    fh_format(path, sizeof(path), "/proc/self/task/%d/syscall", tid);
    int64_t length = fh_os_read_file(path, text, sizeof(text));
    if (length == -EACCES || length == -EPERM)
        return thread_sleeps(tid);
    if (length <= 0 || text[0] < '0' || text[0] > '9')
        return false;
    unsigned long number = 0;
    for (const char *digit = text; *digit >= '0' && *digit <= '9'; digit++)
        number = number * 10 + (unsigned long)(*digit - '0');
    return is_waiting_call(number);
}

static int membarrier(int command, int registration)
{
    if (!fh_os_may_use(FH_OS_MEMBARRIER))
        return -ENOSYS;
    long result = fh_syscall3(SYS_membarrier, command, 0, 0);
    if (result == -EPERM) { /* not registered yet; the process says once that it will use it */
        result = fh_syscall3(SYS_membarrier, registration, 0, 0);
        if (result == 0)
            result = fh_syscall3(SYS_membarrier, command, 0, 0);
    }
    return (int)result;
}

int fh_os_membarrier(void)
{
    return membarrier(MEMBARRIER_PRIVATE_EXPEDITED, MEMBARRIER_REGISTER_PRIVATE_EXPEDITED);
}

int fh_os_refetch_code(void)
{
    return membarrier(MEMBARRIER_SYNC_CORE, MEMBARRIER_REGISTER_SYNC_CORE);
}
