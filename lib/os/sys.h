/*
 * os/sys: what is not memory: clocks, futex, threads, files, limits, by raw system calls. Safe in
 * signal handlers and in the helper clone. Negative errno on failure.
 */
#ifndef FH_OS_SYS_H
#define FH_OS_SYS_H

#include "base/core/macros.h"

/* Fills base/'s hooks, page size, feature override. Idempotent, called by whatever starts first.
 * `auxv` is found by getauxval. */
void fh_os_init(void);

/* The OS page size, read once from the auxiliary vector; and its logarithm. */
extern size_t fh_os_page_size;
extern unsigned fh_os_page_shift;

uint64_t fh_os_now_ns(void); /* CLOCK_MONOTONIC */
uint64_t fh_os_cpu_ns(void); /* CLOCK_PROCESS_CPUTIME_ID */
void fh_os_cpu_split_ns(uint64_t *user_ns,
                        uint64_t *system_ns); /* RUSAGE_SELF; 0 and 0 on failure */
void fh_os_sleep_ns(uint64_t ns);
int fh_os_getpid(void);
int fh_os_gettid(void);
int fh_os_getppid(void);
uint64_t fh_os_random(void); /* getrandom, never blocks; AT_RANDOM mixed with the clock below it */
uintptr_t fh_os_program_entry(void); /* AT_ENTRY: an address in the program's own code */
/* AT_PHDR: the program's headers (ElfW(Phdr)) and how many there are; NULL: not known. */
const void *fh_os_program_headers(size_t *count);
bool fh_os_is_secure(void);             /* AT_SECURE: setuid and the like */
size_t fh_os_ram_bytes(void);           /* sysinfo: total RAM */
size_t fh_os_limit_address_space(void); /* RLIMIT_AS soft, SIZE_MAX when none */
/* How many mappings the process may have (vm.max_map_count). */
size_t fh_os_mapping_limit(void);
unsigned fh_os_cpu_count(void); /* CPUs in the affinity mask */
_Noreturn void
fh_os_abort(void); /* SIGABRT with the default action, whatever the program installed */
_Noreturn void fh_os_exit(int status); /* exit_group */

int fh_os_open_read(const char *path);
int fh_os_open_write(const char *path);      /* create, truncate, 0644, O_CLOEXEC */
int fh_os_open_read_write(const char *path); /* of what is there, O_CLOEXEC */
int fh_os_open_append(const char *path);     /* create, each write at the end, 0644, O_CLOEXEC */
int64_t fh_os_read(int fd, void *buf, size_t size);
/* At a place in the file; the descriptor's own position stays. Short only at the end of the file.
 */
int64_t fh_os_read_at(int fd, void *buf, size_t size, uint64_t offset);
int64_t fh_os_write(int fd, const void *buf, size_t size); /* all of it, EINTR retried */
void fh_os_close(int fd);
/* What a symbolic link says, terminated; length or negative errno. */
int64_t fh_os_read_link(const char *path, char *buf, size_t size);
/* Reads a small file whole, terminated; length or negative errno. */
int64_t fh_os_read_file(const char *path, char *buf, size_t size);

/* Whether the thread is blocked inside a system call right now: /proc/self/task/TID/syscall. False
 * when it runs, or when that can't be told; true for the caller itself, which is then reading that
 * file. Some 7 µs. Beware: the call may be a signal handler's that interrupted the thread anywhere,
 * also in our own code. */
bool fh_os_thread_in_syscall(int tid);
/* A full barrier on every running thread of the process; 0 or negative errno. */
int fh_os_membarrier(void);
/* Every running thread of the process fetches its instructions anew (membarrier's SYNC_CORE): after
 * code was written. 0 or negative errno. */
int fh_os_refetch_code(void);

/* Blocks or unblocks signals of the calling thread; bit n - 1 for signal n. */
void fh_os_block_signals(uint64_t set);
void fh_os_unblock_signals(uint64_t set);
/* Makes the set the thread's; returns what it was. */
uint64_t fh_os_set_signal_mask(uint64_t set);
/* sigaltstack(2), its structures as libc has them; 0 or a negative errno. */
int fh_os_alternate_stack(const void *stack, void *before);
/* The least size of one on this processor: what the kernel saves of its registers, and 2 KiB. */
size_t fh_os_alternate_stack_least(void);
/* Whether 8 bytes can be written there: what they are is lost. Grows a stack that can grow. */
bool fh_os_is_writable(void *address);
/* Whether a thread of this process has ended. */
bool fh_os_is_thread_gone(int tid);
/* The thread's bases of the fs and gs segments (x86-64; 0 elsewhere). */
void fh_os_segment_bases(uint64_t *fs, uint64_t *gs);
/* Sends the calling thread a signal with this siginfo_t; 0 or a negative errno. */
int fh_os_signal_self(int number, const void *info);

/* A helper: a raw clone that shares the address space, has every signal blocked, no libc, no TLS of
 * its own (it must touch neither). Returns its tid or a negative errno. The stack is the caller's
 * and must outlive it: when it has ended the kernel writes 0 to *alive and wakes a futex waiter on
 * it. -ENOSYS under ThreadSanitizer, whose instrumentation is thread-local. */
int fh_os_helper_start(void (*run)(void *), void *arg, void *stack, size_t stack_size,
                       _Atomic uint32_t *alive);
/* Wakes who waits on a futex in memory that processes share. */
void fh_os_wake_shared(_Atomic uint32_t *word);
/* Waits there while the word has this value, `ns` at the most; a signal may end it before. */
void fh_os_wait_shared(_Atomic uint32_t *word, uint32_t value, uint64_t ns);
/* Waits until *alive is 0, at most ns nanoseconds (0: for ever); whether it is. Only this wakes in
 * time: the kernel's wake-up reaches shared futexes, not the private ones of base/lock.h. */
bool fh_os_helper_wait(_Atomic uint32_t *alive, uint64_t ns);

/* The environment of the process, read without libc where libc isn't up yet; NULL when unset. */
const char *fh_os_getenv(const char *name);

#endif
