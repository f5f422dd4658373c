/*
 * Other threads, seen and stopped from inside the process, and copies of the process.
 *
 * What the kernel says of a thread. /proc/self/task/TID/syscall has the number, the arguments, the
 * stack pointer and the program counter of a thread that waits in a system call, and "running" for
 * one that does not. status beside it has its signal mask and how often it gave up its CPU. Two equal
 * counts of switches with a wait between them mean that the thread has not run in between: a thread
 * that sleeps has been switched away from, and can't run without being switched to; to sleep again it
 * must be switched away from once more.
 *
 * Signals. Raw rt_sigaction wants a restorer of ours on x86-64: the code to which a handler returns.
 * The frame that the kernel lays on the stack is the ucontext of the C library's headers, whose
 * register names need _GNU_SOURCE.
 *
 * Copies. A child whose end sends no signal (exit_signal 0) is a "clone child": wait() and waitpid()
 * of the program do not see it, and SIGCHLD does not come. Only __WCLONE finds it.
 */
#define _GNU_SOURCE 1 /* REG_RSP */
#include "os/task.h"

#include "base/core/bits.h"
#include "base/message.h"
#include "os/internal.h"
#include "os/syscall.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>

enum {
    KERNEL_SIGSET_BYTES = 8,
    NUMBERS_A_LINE = 9, /* the call, six arguments, stack pointer, program counter */
};

/* ---- reading /proc ------------------------------------------------------------------------------ */

/* getdents64's record; the name follows the type. */
struct directory_entry {
    uint64_t inode;
    int64_t offset;
    uint16_t length;
    uint8_t type;
    char name[];
};

static int number_of(const char *name)
{
    int number = 0;
    for (; *name >= '0' && *name <= '9'; name++)
        number = number * 10 + (*name - '0');
    return *name == '\0' ? number : 0;
}

int fh_os_each_thread(void (*visit)(void *context, int tid), void *context)
{
    _Alignas(8) char buffer[2048];
    long fd = fh_syscall4(SYS_openat, AT_FDCWD, (long)"/proc/self/task",
                          O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    if (fd < 0)
        return (int)fd;
    long got;
    while ((got = fh_syscall3(SYS_getdents64, fd, (long)buffer, sizeof buffer)) > 0) {
        for (long at = 0; at < got;) {
            const struct directory_entry *entry = (const void *)(buffer + at);
            int tid = number_of(entry->name);
            if (tid > 0)
                visit(context, tid);
            at += entry->length;
        }
    }
    fh_os_close((int)fd);
    return (int)got;
}

static const char *read_number(const char *text, unsigned base, uint64_t *value)
{
    *value = 0;
    for (;; text++) {
        unsigned digit = *text >= '0' && *text <= '9'   ? (unsigned)(*text - '0')
                         : *text >= 'a' && *text <= 'f' ? (unsigned)(*text - 'a') + 10
                                                        : base;
        if (digit >= base)
            return text;
        *value = *value * base + digit;
    }
}

/* The number behind "NAME:" in /proc's status; 0 when the line is not there. */
static uint64_t status_value(const char *text, const char *name, unsigned base)
{
    size_t length = strlen(name);
    for (const char *line = text; line != NULL; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (strncmp(line, name, length) != 0 || line[length] != ':')
            continue;
        uint64_t value;
        for (line += length + 1; *line == ' ' || *line == '\t';)
            line++;
        read_number(line, base, &value);
        return value;
    }
    return 0;
}

static int64_t read_task_file(int tid, const char *name, char *text, size_t size)
{
    char path[64];
    fh_format(path, sizeof path, "/proc/self/task/%d/%s", tid, name);
    int64_t length = fh_os_read_file(path, text, size);
    return length == -ENOENT ? -ESRCH : length;
}

/* "7 0x7f… 0x1 … SP PC"; "-1 SP PC" for a thread that sleeps outside a call. */
static void read_call(const char *text, struct fh_os_thread *out)
{
    uint64_t values[NUMBERS_A_LINE] = {0};
    if (*text < '0' || *text > '9')
        return;
    text = read_number(text, 10, &values[0]);
    for (unsigned i = 1; i < NUMBERS_A_LINE && strncmp(text, " 0x", 3) == 0; i++)
        text = read_number(text + 3, 16, &values[i]);
    out->is_blocked = values[NUMBERS_A_LINE - 1] != 0;
    out->number = values[0];
    for (unsigned i = 0; i < 6; i++)
        out->args[i] = values[1 + i];
    out->sp = values[7];
    out->pc = values[8];
}

int fh_os_look_at_thread(int tid, struct fh_os_thread *out)
{
    char text[4096];
    *out = (struct fh_os_thread){0};
    if (!fh_os_may_use(FH_OS_TASK_SYSCALL))
        return -EACCES;
    /* The switches first: a wait that is seen after them began with one that they count. */
    int64_t length = read_task_file(tid, "status", text, sizeof text);
    if (length <= 0)
        return length < 0 ? (int)length : -ESRCH;
    out->blocked_signals = status_value(text, "SigBlk", 16);
    out->switches = status_value(text, "voluntary_ctxt_switches", 10) +
                    status_value(text, "nonvoluntary_ctxt_switches", 10);
    length = read_task_file(tid, "syscall", text, sizeof text);
    if (length < 0)
        return (int)length;
    read_call(text, out);
    return 0;
}

/* ---- calls that a signal may interrupt ------------------------------------------------------------ */

static bool is_futex_repeatable(const struct fh_os_thread *thread)
{
    if (thread->args[3] == 0)
        return true; /* no limit */
    unsigned operation = (unsigned)thread->args[1] & (unsigned)FUTEX_CMD_MASK;
    return operation == FUTEX_WAIT_BITSET || operation == FUTEX_LOCK_PI ||
           operation == FUTEX_WAIT_REQUEUE_PI; /* a point in time */
}

bool fh_os_is_repeatable(const struct fh_os_thread *thread)
{
    const unsigned long *args = thread->args;
    switch (thread->number) {
    case SYS_read:
    case SYS_readv:
    case SYS_accept:
    case SYS_accept4:
    case SYS_wait4:
    case SYS_waitid:
    case SYS_pselect6: /* the kernel writes what is left of the limit */
    case SYS_ppoll:
    case SYS_flock:
    case SYS_rt_sigsuspend:
    case SYS_semop:
#ifdef SYS_select
    case SYS_select:
#endif
#ifdef SYS_pause
    case SYS_pause:
#endif
        return true;
    case SYS_recvfrom:
        return (args[3] & MSG_WAITALL) == 0;
    case SYS_recvmsg:
        return (args[2] & MSG_WAITALL) == 0;
    case SYS_futex:
        return is_futex_repeatable(thread);
    case SYS_clock_nanosleep:
        return (args[1] & TIMER_ABSTIME) != 0;
    case SYS_epoll_pwait:
#ifdef SYS_epoll_wait
    case SYS_epoll_wait:
#endif
        return (int)args[3] < 0;
#ifdef SYS_poll
    case SYS_poll:
        return (int)args[2] < 0;
#endif
    default:
        return false;
    }
}

/* ---- mappings ------------------------------------------------------------------------------------ */

static void read_mapping(const char *line, struct fh_os_mapping *out)
{
    uint64_t low, high, ignored, inode;
    line = read_number(line, 16, &low);
    line = read_number(line + 1, 16, &high);
    *out = (struct fh_os_mapping){.low = low,
                                  .high = high,
                                  .is_readable = line[1] == 'r',
                                  .is_writable = line[2] == 'w',
                                  .is_private = line[4] == 'p'};
    line = read_number(line + 6, 16, &ignored); /* offset */
    line = read_number(line + 1, 16, &ignored); /* device, major */
    line = read_number(line + 1, 16, &ignored); /* minor */
    line = read_number(line + 1, 10, &inode);
    out->is_file = inode != 0;
    while (*line == ' ')
        line++;
    out->is_main_stack = strcmp(line, "[stack]") == 0;
}

int fh_os_each_mapping(void (*visit)(void *context, const struct fh_os_mapping *mapping),
                       void *context)
{
    char buffer[4096];
    char line[256]; /* the numbers and the beginning of the name */
    size_t length = 0;
    int fd = fh_os_open_read("/proc/self/maps");
    if (fd < 0)
        return fd;
    int64_t got;
    while ((got = fh_os_read(fd, buffer, sizeof buffer)) > 0) {
        for (int64_t i = 0; i < got; i++) {
            if (buffer[i] != '\n') {
                if (length < sizeof line - 1)
                    line[length++] = buffer[i];
                continue;
            }
            line[length] = '\0';
            length = 0;
            struct fh_os_mapping mapping;
            read_mapping(line, &mapping);
            visit(context, &mapping);
        }
    }
    fh_os_close(fd);
    return (int)got;
}

/* ---- signals ------------------------------------------------------------------------------------- */

struct kernel_action {
    void (*handler)(int number, void *info, void *context);
    unsigned long flags;
    void (*restorer)(void);
    uint64_t mask;
};

#if defined(__x86_64__)
void fh_os_return_from_signal(void) __attribute__((visibility("hidden")));
__asm__(".text\n"
        ".align 16\n"
        ".hidden fh_os_return_from_signal\n"
        ".globl fh_os_return_from_signal\n"
        ".type fh_os_return_from_signal, @function\n"
        "fh_os_return_from_signal:\n\t"
        "mov $15, %eax\n\t" /* rt_sigreturn */
        "syscall\n"
        ".size fh_os_return_from_signal, . - fh_os_return_from_signal\n");
#define RESTORER      fh_os_return_from_signal
#define RESTORER_FLAG 0x04000000 /* SA_RESTORER of the kernel's headers */
#else
#define RESTORER      NULL /* the vdso has it */
#define RESTORER_FLAG 0
#endif

int fh_os_take_signal(int number, void (*handler)(int number, void *info, void *context))
{
    struct kernel_action before;
    long result = fh_syscall4(SYS_rt_sigaction, number, 0, (long)&before, KERNEL_SIGSET_BYTES);
    if (result != 0)
        return (int)result;
    if (before.handler == handler)
        return 0;
    if (before.handler != NULL) /* SIG_DFL is 0 */
        return -EBUSY;
    struct kernel_action ours = {.handler = handler,
                                 .flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK | RESTORER_FLAG,
                                 .restorer = RESTORER,
                                 .mask = ~(uint64_t)0};
    return (int)fh_syscall4(SYS_rt_sigaction, number, (long)&ours, 0, KERNEL_SIGSET_BYTES);
}

uint64_t fh_os_swap_signal_mask(uint64_t mask)
{
    uint64_t before = 0;
    fh_syscall4(SYS_rt_sigprocmask, SIG_SETMASK, (long)&mask, (long)&before, KERNEL_SIGSET_BYTES);
    return before;
}

int fh_os_signal_thread(int tid, int number, void *value)
{
    siginfo_t info;
    memset(&info, 0, sizeof info);
    info.si_signo = number;
    info.si_code = SI_QUEUE;
    info.si_pid = fh_os_getpid();
    info.si_value.sival_ptr = value;
    return (int)fh_syscall4(SYS_rt_tgsigqueueinfo, info.si_pid, tid, number, (long)&info);
}

void *fh_os_signal_value(const void *info_)
{
    const siginfo_t *info = info_;
    return info->si_code == SI_QUEUE && info->si_pid == fh_os_getpid() ? info->si_value.sival_ptr
                                                                       : NULL;
}

void fh_os_read_context(const void *context, struct fh_os_context *out)
{
    const ucontext_t *uc = context;
#if defined(__x86_64__)
    out->sp = (uintptr_t)uc->uc_mcontext.gregs[REG_RSP];
    out->pc = (uintptr_t)uc->uc_mcontext.gregs[REG_RIP];
    out->result = (uintptr_t)uc->uc_mcontext.gregs[REG_RAX];
#else
    out->sp = uc->uc_mcontext.sp;
    out->pc = uc->uc_mcontext.pc;
    out->result = uc->uc_mcontext.regs[0];
#endif
    bool has_alternate = (uc->uc_stack.ss_flags & SS_DISABLE) == 0;
    out->alternate_low = has_alternate ? (uintptr_t)uc->uc_stack.ss_sp : 0;
    out->alternate_high = has_alternate ? out->alternate_low + uc->uc_stack.ss_size : 0;
}

#if defined(__x86_64__)
/* The number of the call whose instruction ends at pc, from the instruction before it, mov $number, %eax; -1 when
 * that is another. */
static long number_of_call(uintptr_t pc)
{
    static const uint8_t load = 0xb8, call[2] = {0x0f, 0x05};
    const uint8_t *code = (const uint8_t *)pc;
    int32_t number;
    if (memcmp(code - 2, call, 2) != 0)
        return -1;
    memcpy(&number, code - 6, sizeof number);
    return code[-7] == load && number >= 0 ? number : -1;
}
#endif

bool fh_os_repeat_call(void *context, const struct fh_os_thread *call)
{
    ucontext_t *uc = context;
    struct fh_os_context at;
    fh_os_read_context(context, &at);
    if (at.result != (uintptr_t) - (long)EINTR)
        return false;
    bool is_seen = call->is_blocked && at.pc == call->pc && at.sp == call->sp;
#if defined(__x86_64__)
    long number = is_seen ? (long)call->number : number_of_call(at.pc);
    if (number < 0)
        return false;
    uc->uc_mcontext.gregs[REG_RIP] -= 2;
    uc->uc_mcontext.gregs[REG_RAX] = number;
#else
    if (!is_seen)
        return false;
    uc->uc_mcontext.pc -= 4;
    uc->uc_mcontext.regs[0] = call->args[0]; /* the result is where the first argument was */
#endif
    return true;
}

/* ---- copies of the process ------------------------------------------------------------------------ */

int fh_os_snapshot(void)
{
    uint64_t mask_before = fh_os_swap_signal_mask(~(uint64_t)0);
    int parent = fh_os_getpid();
    long pid = fh_syscall5(SYS_clone, 0, 0, 0, 0, 0);
    if (pid == 0) {
        fh_syscall5(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
        if (fh_os_getppid() != parent) /* it ended before that */
            fh_os_exit(1);
        return 0;
    }
    fh_os_swap_signal_mask(mask_before);
    return (int)pid;
}

int fh_os_snapshot_ended(int pid, bool is_waiting)
{
    int status = 0;
    long got;
    do {
        got = fh_syscall4(SYS_wait4, pid, (long)&status,
                          (long)(__WCLONE | (is_waiting ? 0U : (unsigned)WNOHANG)), 0);
    } while (got == -EINTR);
    if (got == 0)
        return -EAGAIN;
    return got < 0 ? (int)got : status;
}

void fh_os_snapshot_kill(int pid)
{
    fh_syscall2(SYS_kill, pid, SIGKILL);
}

/* ---- memory that may not be there ------------------------------------------------------------------ */

int64_t fh_os_copy_memory(void *to, const void *from, size_t size)
{
    const struct iovec local = {to, size};
    const struct iovec remote = {(void *)(uintptr_t)from, size};
    return fh_syscall6(SYS_process_vm_readv, fh_os_getpid(), (long)&local, 1, (long)&remote, 1, 0);
}

int fh_os_open_pagemap(void)
{
    return fh_os_open_read("/proc/self/pagemap");
}

int fh_os_read_pagemap(int fd, uintptr_t address, unsigned count, uint8_t *is_there)
{
    uint64_t entries[FH_OS_PAGEMAP_MOST];
    size_t bytes = fh_min(count, FH_OS_PAGEMAP_MOST) * sizeof entries[0];
    int64_t got =
        fh_os_read_at(fd, entries, bytes, (address >> fh_os_page_shift) * sizeof entries[0]);
    if (got < 0)
        return (int)got;
    for (unsigned i = 0; i < count; i++) {
        /* Bits 63 and 62 of proc(5): present, swapped. */
        uint64_t entry = i < (uint64_t)got / sizeof entries[0] ? entries[i] : 0;
        is_there[i] = (uint8_t)(entry >> 63 != 0         ? FH_OS_PAGE_PRESENT
                                : (entry >> 62 & 1) != 0 ? FH_OS_PAGE_ELSEWHERE
                                                         : 0);
    }
    return 0;
}

void *fh_os_map_shared(size_t size)
{
    if (fh_os_fails_on_purpose())
        return NULL;
    long result = fh_syscall6(SYS_mmap, 0, (long)size, PROT_READ | PROT_WRITE,
                              MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return fh_syscall_failed(result) ? NULL : (void *)result;
}
