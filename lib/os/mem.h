/*
 * os/mem: memory from the kernel, by raw system calls (no libc, no errno, no thread-local storage:
 * the helper clone and signal handlers call these too). Results are 0 or a negative errno; pointers
 * are NULL on failure. Sizes and addresses are multiples of the OS page size unless said otherwise.
 *
 * This is the only place that maps, protects or advises memory. Fault injection (fh_os_fail_after)
 * sits here, so that a test can make any of these calls fail.
 */
#ifndef FH_OS_MEM_H
#define FH_OS_MEM_H

#include "base/core/macros.h"
#include "os/sys.h" /* the page size */

/* Address space without memory (PROT_NONE, no reserve). align is a power of two, ≥ page size; hint
 * may be NULL and is a wish. */
void *fh_os_reserve(void *hint, size_t size, size_t align);
/* Address space exactly at addr, or NULL when something is there already. */
void *fh_os_reserve_at(void *addr, size_t size);
/* Readable zero pages without memory behind them, exactly at addr (in place of what the caller has
 * reserved there) or (addr NULL) anywhere. */
void *fh_os_reserve_readable(void *addr, size_t size);
/* Readable and writable, zero, anywhere; or exactly at addr, in place of what the caller has
 * reserved there. */
void *fh_os_map(size_t size);
void *fh_os_map_at(void *addr, size_t size);
/* The same where nothing may be mapped yet; NULL when something is. */
void *fh_os_map_at_free(void *addr, size_t size);
void *fh_os_map_aligned(size_t size, size_t align);
/* Makes reserved address space readable and writable. */
int fh_os_commit(void *addr, size_t size);
/* Gives memory and access back; the address space stays reserved. */
int fh_os_decommit(void *addr, size_t size);
/* Gives the memory back; the pages read as zero at the next touch (MADV_DONTNEED, _LOCKED under
 * mlock). */
int fh_os_purge(void *addr, size_t size);
/* Touches pages ahead of use with one call (MADV_POPULATE_WRITE, Linux 5.14); -ENOSYS below. */
int fh_os_populate(void *addr, size_t size);
int fh_os_release(void *addr, size_t size);
/* mremap with MREMAP_MAYMOVE when may_move; new address or NULL. */
void *fh_os_remap(void *addr, size_t old_size, size_t new_size, bool may_move);
/* Moves pages onto a range that the caller has reserved (MREMAP_FIXED). Where they came from is
 * unmapped then: reserve it again with fh_os_reserve_at. NULL on failure: the pages are where they
 * were, the target is reserved. */
void *fh_os_remap_to(void *addr, size_t old_size, size_t new_size, void *to);

enum fh_os_access { FH_OS_NONE, FH_OS_READ, FH_OS_READ_WRITE, FH_OS_EXECUTE /* and read */ };
int fh_os_protect(void *addr, size_t size, enum fh_os_access access);
/* From now on the kernel refuses to unmap the range or to change its access, for as long as the
 * process lives (mseal, Linux 6.10); -ENOSYS below. */
int fh_os_seal(void *addr, size_t size);
/* Keeps the range in RAM (mlock): -ENOMEM or -EPERM when RLIMIT_MEMLOCK does not allow that. */
int fh_os_lock_in_ram(void *addr, size_t size);
/* Guard pages: MADV_GUARD_INSTALL where there, else mprotect. What the pages held is lost;
 * unguarded they can be read and written again. */
int fh_os_guard(void *addr, size_t size);
int fh_os_unguard(void *addr, size_t size);
/* The first way alone, for whoever has a second one of his own: -EINVAL where the kernel does not have it,
 * and in locked memory. remove is for pages that install has marked. */
int fh_os_guard_install(void *addr, size_t size);
int fh_os_guard_remove(void *addr, size_t size);
/* Another second way: a range whose missing pages can't be touched (SIGBUS, EFAULT) until they are
 * filled, by a userfaultfd; see faults.c. purge makes them missing again. A forked child must register
 * it anew. open: a descriptor or a negative errno. */
int fh_os_faults_open(void);
void fh_os_faults_close(int fd);
int fh_os_faults_register(int fd, void *addr, size_t size);
int fh_os_faults_fill(int fd, void *addr, size_t size);

enum fh_os_huge { FH_OS_HUGE_AUTO, FH_OS_HUGE_YES, FH_OS_HUGE_NO };
int fh_os_advise_huge(void *addr, size_t size, enum fh_os_huge want);
/* Splits the huge page that covers addr, so that parts of it can be purged: 174 µs. addr must lie
 * on a page that is resident (a purged one splits nothing). -EINVAL in locked memory. */
int fh_os_split_huge(void *addr);
/* Bytes of the range that are in RAM (mincore); negative errno on failure. */
int64_t fh_os_resident(const void *addr, size_t size);

int fh_os_memfd(const char *name, size_t size);
/* The same, from which code may be run (MFD_EXEC, which kernels before 6.3 take for granted);
 * -EACCES where the system forbids that (vm.memfd_noexec=2). */
int fh_os_memfd_of_code(const char *name, size_t size);
/* A forked child finds zeroes there (MADV_WIPEONFORK); a core dump does not have it. */
int fh_os_wipe_on_fork(void *addr, size_t size);
int fh_os_leave_out_of_dumps(void *addr, size_t size);
void *fh_os_map_fd(int fd, size_t size, size_t offset, bool is_shared);
/* The whole of a file, shared, with this access. */
void *fh_os_map_fd_for(int fd, size_t size, enum fh_os_access access);
/* The same exactly at addr, in place of what the caller has there. */
void *fh_os_map_fd_for_at(void *addr, int fd, size_t size, enum fh_os_access access);
/* A part of the file exactly at addr, shared, in place of what the caller has there: in one step, so
 * that a reader sees the one or the other. NULL on failure: addr is as it was. */
void *fh_os_map_fd_at(void *addr, int fd, size_t size, size_t offset);
/* Gives the memory of a part of a memfd back; it reads as zero then, wherever it is mapped. */
int fh_os_punch(int fd, size_t offset, size_t size);
/* Writes to a place in a memfd: memory to memory, without a fault for each page. Counts as a call that can
 * run out of memory. */
int fh_os_write_at(int fd, const void *buf, size_t size, size_t offset);
/* The next part of a memfd, at or after *offset, that has memory: its offset and size, or false. */
bool fh_os_next_data(int fd, size_t *offset, size_t *size);
/* A forked child won't have the range (MADV_DONTFORK). */
int fh_os_dont_fork(void *addr, size_t size);

/* The upper bits of pointers (tags.c). Loads and stores ignore them from now on (x86-64: Linear Address
 * Masking, for the process; aarch64: always so): 0, or -ENOTSUP. */
int fh_os_ignore_tags(void);
/* Memory tags (Arm MTE) are compared in this thread and those that it makes, at each access; `colours`
 * has a bit for each that irg may draw. 0 or -ENOTSUP. */
int fh_os_start_memory_tags(unsigned colours);
/* Whether that is so in this thread. */
bool fh_os_has_memory_tags(void);
/* Readable and writable pages that have memory tags. */
int fh_os_tag_memory(void *addr, size_t size);

/* What this kernel has; bits are probed at the first question, by system calls that a sandbox may
 * not know: for doctor and tests, not for allocation paths, whose calls step down by themselves.
 * FREEHOLD_FEATURES (tests only, read by fh_os_init) forces the mask down: "6.1" or "container" or
 * a list such as "-guard,-userfaultfd". */
enum fh_os_feature {
    FH_OS_GUARD_INSTALL = 1 << 0, /* MADV_GUARD_INSTALL, 6.13 */
    FH_OS_POPULATE = 1 << 1,      /* MADV_POPULATE_WRITE, 5.14 */
    FH_OS_USERFAULTFD = 1 << 2,   /* user-mode userfaultfd permitted */
    FH_OS_UFFD_MOVE = 1 << 3,     /* UFFDIO_MOVE, 6.8 */
    FH_OS_IO_URING = 1 << 4,      /* io_uring permitted */
    FH_OS_PAGEMAP_SCAN = 1 << 5,  /* PAGEMAP_SCAN, 6.7 */
    FH_OS_THP = 1 << 6,           /* transparent huge pages by madvise or always */
    FH_OS_MEMBARRIER = 1 << 7,    /* MEMBARRIER_CMD_PRIVATE_EXPEDITED */
    FH_OS_TASK_SYSCALL = 1 << 8,  /* /proc/self/task/TID/syscall can be read */
    FH_OS_SEAL = 1 << 9,          /* mseal, 6.10 */
};
unsigned fh_os_features(void);
void fh_os_force_features(unsigned mask);

/* Fault injection: the n-th call (1 = next) that could run out of memory fails with ENOMEM, and
 * with `and_all_after` each later one too. 0 switches it off. Returns the calls counted since the
 * last setting. */
uint64_t fh_os_fail_after(uint64_t n, bool and_all_after);

#endif
