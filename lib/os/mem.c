/*
 * Memory from the kernel: address space, commitment, purging, remapping.
 *
 * Three states of a page of address space, and the calls that lead between them:
 *
 *     nothing --reserve--> reserved (PROT_NONE) --commit--> usable, zero --touch--> resident
 *        ^--------release------|  ^-------------decommit------|<-----------purge-------|
 *
 * Reserving costs no memory and is not accounted even when overcommit is off (private PROT_NONE
 * mappings are not); committing accounts. decommit maps fresh PROT_NONE space over the range: one
 * call that gives back memory, access and accounting at once, where mprotect would leave the
 * accounting. purge keeps the range usable.
 *
 * Locked memory (mlockall): MADV_DONTNEED is refused with EINVAL, MADV_DONTNEED_LOCKED (Linux 5.18)
 * does it. Under MCL_FUTURE the kernel fills a range when it becomes writable; that is what the
 * program asked for.
 *
 * Alignment: the kernel aligns to pages only, so an aligned range is first asked for as it is
 * (since Linux 6.7 mappings of 2 MiB and more are aligned to 2 MiB, a hit), then cut out of a
 * larger one.
 *
 * Nothing here has state but the fault injection, which is atomic.
 */
#include "os/mem.h"

#include "base/core/bits.h"
#include "os/internal.h"
#include "os/syscall.h"

#include <errno.h>
#include <linux/falloc.h>
#include <linux/memfd.h>
#include <linux/mman.h>
#include <stdatomic.h>
#include <sys/mman.h>

/* Numbers that older C library headers lack. */
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24
#endif
#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif
#ifndef MFD_EXEC
#define MFD_EXEC 0x10
#endif
#ifndef SYS_mseal
#define SYS_mseal 462
#endif

enum {
    SEEK_TO_DATA = 3,
    SEEK_TO_HOLE = 4,
};

enum {
    ANONYMOUS = MAP_PRIVATE | MAP_ANONYMOUS,
    UNBACKED = ANONYMOUS | MAP_NORESERVE,
};

static struct {
    _Atomic uint64_t calls;   /* since the last setting */
    _Atomic uint64_t fail_at; /* 0: never */
    _Atomic bool and_all_after;
} injection;

uint64_t fh_os_fail_after(uint64_t n, bool and_all_after)
{
    /* relaxed throughout: a test sets this while nobody else allocates, or does not care which call
     * it hits. */
    atomic_store_explicit(&injection.fail_at, 0, memory_order_relaxed);
    uint64_t calls = atomic_exchange_explicit(&injection.calls, 0, memory_order_relaxed);
    atomic_store_explicit(&injection.and_all_after, and_all_after, memory_order_relaxed);
    atomic_store_explicit(&injection.fail_at, n, memory_order_relaxed);
    return calls;
}

bool fh_os_fails_on_purpose(void)
{
    uint64_t call = atomic_fetch_add_explicit(&injection.calls, 1, memory_order_relaxed) + 1;
    uint64_t fail_at = atomic_load_explicit(&injection.fail_at, memory_order_relaxed);
    if (FH_LIKELY(fail_at == 0))
        return false;
    return call == fail_at ||
           (call > fail_at && atomic_load_explicit(&injection.and_all_after, memory_order_relaxed));
}

static void *map(void *addr, size_t size, int protection, int flags, int fd, size_t offset)
{
    long result =
        fh_syscall6(SYS_mmap, (long)addr, (long)size, protection, flags, fd, (long)offset);
    return fh_syscall_failed(result) ? NULL : (void *)result;
}

static void *map_counted(void *addr, size_t size, int protection, int flags)
{
    if (fh_os_fails_on_purpose())
        return NULL;
    return map(addr, size, protection, flags, -1, 0);
}

static int advise(const void *addr, size_t size, int advice)
{
    return (int)fh_syscall3(SYS_madvise, (long)addr, (long)size, advice);
}

static bool is_aligned(const void *addr, size_t align)
{
    return ((uintptr_t)addr & (align - 1)) == 0;
}

/* Cuts [addr, addr + size) out of a mapping that is larger; false when the kernel would not (its
 * limit of mappings), then all of it is still there. */
static bool trim(char *mapping, size_t mapping_size, char *addr, size_t size)
{
    size_t before = (size_t)(addr - mapping);
    size_t after = mapping_size - before - size;
    if (before != 0 && fh_os_release(mapping, before) != 0)
        return false;
    if (after != 0 && fh_os_release(addr + size, after) != 0) {
        fh_os_release(addr, size + after);
        return false;
    }
    return true;
}

static void *map_aligned(void *hint, size_t size, size_t align, int protection, int flags)
{
    char *direct = map_counted(hint, size, protection, flags);
    if (direct == NULL || is_aligned(direct, align))
        return direct;
    fh_os_release(direct, size);

    size_t larger;
    if (__builtin_add_overflow(size, align - fh_os_page_size, &larger))
        return NULL;
    char *mapping = map(NULL, larger, protection, flags, -1, 0);
    if (mapping == NULL)
        return NULL;
    char *addr = mapping + (fh_align_up((uintptr_t)mapping, align) - (uintptr_t)mapping);
    if (!trim(mapping, larger, addr, size))
        return NULL;
    return addr;
}

void *fh_os_reserve(void *hint, size_t size, size_t align)
{
    return map_aligned(hint, size, align, PROT_NONE, UNBACKED);
}

void *fh_os_reserve_at(void *addr, size_t size)
{
    char *got = map_counted(addr, size, PROT_NONE, UNBACKED | MAP_FIXED_NOREPLACE);
    if (got == NULL || got == addr)
        return got;
    fh_os_release(got, size); /* before Linux 4.17 the flag is unknown and the address a wish */
    return NULL;
}

void *fh_os_reserve_readable(void *addr, size_t size)
{
    return map_counted(addr, size, PROT_READ, UNBACKED | (addr != NULL ? MAP_FIXED : 0));
}

void *fh_os_map(size_t size)
{
    return map_counted(NULL, size, PROT_READ | PROT_WRITE, ANONYMOUS);
}

void *fh_os_map_at(void *addr, size_t size)
{
    return map_counted(addr, size, PROT_READ | PROT_WRITE, ANONYMOUS | MAP_FIXED);
}

void *fh_os_map_at_free(void *addr, size_t size)
{
    void *got = map_counted(addr, size, PROT_READ | PROT_WRITE, ANONYMOUS | MAP_FIXED_NOREPLACE);
    if (got == NULL || got == addr)
        return got;
    fh_os_release(got, size); /* as in fh_os_reserve_at */
    return NULL;
}

void *fh_os_map_aligned(size_t size, size_t align)
{
    return map_aligned(NULL, size, align, PROT_READ | PROT_WRITE, ANONYMOUS);
}

int fh_os_commit(void *addr, size_t size)
{
    return fh_os_protect(addr, size, FH_OS_READ_WRITE);
}

int fh_os_decommit(void *addr, size_t size)
{
    return map_counted(addr, size, PROT_NONE, UNBACKED | MAP_FIXED) != NULL ? 0 : -ENOMEM;
}

int fh_os_purge(void *addr, size_t size)
{
    int result = advise(addr, size, MADV_DONTNEED);
    if (FH_UNLIKELY(result == -EINVAL))
        result = advise(addr, size, MADV_DONTNEED_LOCKED);
    return result;
}

int fh_os_populate(void *addr, size_t size)
{
    if (!fh_os_may_use(FH_OS_POPULATE))
        return -ENOSYS;
    if (fh_os_fails_on_purpose())
        return -ENOMEM;
    int result = advise(addr, size, MADV_POPULATE_WRITE);
    return result == -EINVAL ? -ENOSYS : result;
}

int fh_os_release(void *addr, size_t size)
{
    return (int)fh_syscall2(SYS_munmap, (long)addr, (long)size);
}

void *fh_os_remap(void *addr, size_t old_size, size_t new_size, bool may_move)
{
    if (fh_os_fails_on_purpose())
        return NULL;
    long result = fh_syscall4(SYS_mremap, (long)addr, (long)old_size, (long)new_size,
                              may_move ? MREMAP_MAYMOVE : 0);
    return fh_syscall_failed(result) ? NULL : (void *)result;
}

void *fh_os_remap_to(void *addr, size_t old_size, size_t new_size, void *to)
{
    if (fh_os_fails_on_purpose()) { /* as kernels before 6.17 do, see below */
        map(to, new_size, PROT_NONE, UNBACKED | MAP_FIXED, -1, 0);
        return NULL;
    }
    long result = fh_syscall6(SYS_mremap, (long)addr, (long)old_size, (long)new_size,
                              MREMAP_MAYMOVE | MREMAP_FIXED, (long)to, 0);
    if (!fh_syscall_failed(result))
        return (void *)result;
    /* The kernel may have emptied the target before it failed. If so, reserve it again, so that
     * nobody else's mapping lands in our range; if not, this call fails and changes nothing. */
    map(to, new_size, PROT_NONE, UNBACKED | MAP_FIXED_NOREPLACE, -1, 0);
    return NULL;
}

static const int protections[] = {
    [FH_OS_NONE] = PROT_NONE,
    [FH_OS_READ] = PROT_READ,
    [FH_OS_READ_WRITE] = PROT_READ | PROT_WRITE,
    [FH_OS_EXECUTE] = PROT_READ | PROT_EXEC,
};

int fh_os_protect(void *addr, size_t size, enum fh_os_access access)
{
    if (fh_os_fails_on_purpose())
        return -ENOMEM;
    return (int)fh_syscall3(SYS_mprotect, (long)addr, (long)size, protections[access]);
}

int fh_os_seal(void *addr, size_t size)
{
    if (!fh_os_may_use(FH_OS_SEAL))
        return -ENOSYS;
    return (int)fh_syscall3(SYS_mseal, (long)addr, (long)size, 0);
}

int fh_os_lock_in_ram(void *addr, size_t size)
{
    if (fh_os_fails_on_purpose())
        return -ENOMEM;
    return (int)fh_syscall2(SYS_mlock, (long)addr, (long)size);
}

int64_t fh_os_resident(const void *addr, size_t size)
{
    enum { PAGES_A_CALL = 1024 };
    unsigned char is_present[PAGES_A_CALL];
    int64_t bytes = 0;
    for (size_t done = 0; done < size;) {
        size_t part = fh_min(size - done, PAGES_A_CALL * fh_os_page_size);
        long result =
            fh_syscall3(SYS_mincore, (long)addr + (long)done, (long)part, (long)is_present);
        if (result != 0)
            return result;
        for (size_t page = 0; page < part >> fh_os_page_shift; page++)
            if (is_present[page] & 1)
                bytes += (int64_t)fh_os_page_size;
        done += part;
    }
    return bytes;
}

static int memfd(const char *name, size_t size, unsigned flags)
{
    if (fh_os_fails_on_purpose())
        return -ENOMEM;
    long fd = fh_syscall2(SYS_memfd_create, (long)name, (long)flags);
    if (fd < 0)
        return (int)fd;
    long result = fh_syscall2(SYS_ftruncate, fd, (long)size);
    if (result != 0) {
        fh_syscall1(SYS_close, fd);
        return (int)result;
    }
    return (int)fd;
}

int fh_os_memfd(const char *name, size_t size)
{
    return memfd(name, size, MFD_CLOEXEC);
}

int fh_os_memfd_of_code(const char *name, size_t size)
{
    int fd = memfd(name, size, MFD_CLOEXEC | MFD_EXEC);
    return fd == -EINVAL ? memfd(name, size, MFD_CLOEXEC) : fd;
}

int fh_os_wipe_on_fork(void *addr, size_t size)
{
    return advise(addr, size, MADV_WIPEONFORK);
}

int fh_os_leave_out_of_dumps(void *addr, size_t size)
{
    return advise(addr, size, MADV_DONTDUMP);
}

void *fh_os_map_fd(int fd, size_t size, size_t offset, bool is_shared)
{
    if (fh_os_fails_on_purpose())
        return NULL;
    return map(NULL, size, PROT_READ | PROT_WRITE, is_shared ? MAP_SHARED : MAP_PRIVATE, fd,
               offset);
}

void *fh_os_map_fd_for(int fd, size_t size, enum fh_os_access access)
{
    if (fh_os_fails_on_purpose())
        return NULL;
    return map(NULL, size, protections[access], MAP_SHARED, fd, 0);
}

void *fh_os_map_fd_for_at(void *addr, int fd, size_t size, enum fh_os_access access)
{
    if (fh_os_fails_on_purpose())
        return NULL;
    return map(addr, size, protections[access], MAP_SHARED | MAP_FIXED, fd, 0);
}

void *fh_os_map_fd_at(void *addr, int fd, size_t size, size_t offset)
{
    if (fh_os_fails_on_purpose())
        return NULL;
    return map(addr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, offset);
}

int fh_os_punch(int fd, size_t offset, size_t size)
{
    long result;
    do {
        result = fh_syscall4(SYS_fallocate, fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                             (long)offset, (long)size);
    } while (result == -EINTR);
    return (int)result;
}

int fh_os_write_at(int fd, const void *buf, size_t size, size_t offset)
{
    if (fh_os_fails_on_purpose())
        return -ENOMEM;
    for (size_t done = 0; done < size;) {
        long wrote = fh_syscall4(SYS_pwrite64, fd, (long)buf + (long)done, (long)(size - done),
                                 (long)(offset + done));
        if (wrote == -EINTR)
            continue;
        if (wrote <= 0)
            return wrote < 0 ? (int)wrote : -ENOMEM;
        done += (size_t)wrote;
    }
    return 0;
}

bool fh_os_next_data(int fd, size_t *offset, size_t *size)
{
    long begin = fh_syscall3(SYS_lseek, fd, (long)*offset, SEEK_TO_DATA);
    if (begin < 0)
        return false;
    long end = fh_syscall3(SYS_lseek, fd, begin, SEEK_TO_HOLE);
    if (end <= begin)
        return false;
    *offset = (size_t)begin;
    *size = (size_t)(end - begin);
    return true;
}

int fh_os_dont_fork(void *addr, size_t size)
{
    return advise(addr, size, MADV_DONTFORK);
}
