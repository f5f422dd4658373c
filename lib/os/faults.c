/*
 * Missing pages that fault for good: guard pages for kernels that have no guard markers.
 *
 * A range that is registered with a userfaultfd in SIGBUS mode (Linux 4.14) is an ordinary readable
 * and writable mapping, but a page of it that is not there stays away: whoever touches it gets
 * SIGBUS, a system call gets EFAULT. So a page is opened by filling it (UFFDIO_ZEROPAGE) and closed
 * by purging it, and however many are closed, the range is one mapping.
 *
 * The descriptor is the registration: when the last copy of it is closed the pages read as zero
 * like any others. A forked child has the range without the registration, and a descriptor that
 * still leads to its parent's memory: it opens one of its own. Programs that close every descriptor
 * they don't know take the registration with them; from then on filling fails. The descriptor lies
 * above those that programs count on.
 *
 * Unprivileged processes may have one for faults of user space only (5.11), which is asked for.
 * Containers' filters refuse the call as a rule.
 *
 * Follows: userfaultfd(2), ioctl_userfaultfd(2).
 */
#include "base/core/bits.h"
#include "os/internal.h"
#include "os/mem.h"
#include "os/syscall.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>

#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif

enum { LEAST_DESCRIPTOR = 500 }; /* half of the limit that most processes have */

static int moved_up(int fd)
{
    long higher = fh_syscall3(SYS_fcntl, fd, F_DUPFD_CLOEXEC, LEAST_DESCRIPTOR);
    if (higher < 0)
        return fd;
    fh_os_close(fd);
    return (int)higher;
}

int fh_os_faults_open(void)
{
    if (!fh_os_may_use(FH_OS_USERFAULTFD))
        return -ENOSYS;
    if (fh_os_fails_on_purpose())
        return -ENOMEM;
    long fd = fh_syscall1(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
    if (fd < 0)
        return (int)fd;
    struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_SIGBUS};
    long result = fh_syscall3(SYS_ioctl, fd, (long)UFFDIO_API, (long)&api);
    if (result != 0) {
        fh_os_close((int)fd);
        return (int)result;
    }
    return moved_up((int)fd);
}

void fh_os_faults_close(int fd)
{
    /* Waking nobody succeeds on a userfaultfd and on nothing else: the program may have closed it
     * and have a file of its own by that number. */
    struct uffdio_range range = {
        .start = fh_align_down(fh_os_program_entry(), fh_os_page_size),
        .len = fh_os_page_size,
    };
    if (fh_syscall3(SYS_ioctl, fd, (long)UFFDIO_WAKE, (long)&range) == 0)
        fh_os_close(fd);
}

int fh_os_faults_register(int fd, void *addr, size_t size)
{
    struct uffdio_register range = {
        .range = {.start = (uintptr_t)addr, .len = size},
        .mode = UFFDIO_REGISTER_MODE_MISSING,
    };
    if (fh_os_fails_on_purpose())
        return -ENOMEM;
    return (int)fh_syscall3(SYS_ioctl, fd, (long)UFFDIO_REGISTER, (long)&range);
}

int fh_os_faults_fill(int fd, void *addr, size_t size)
{
    if (fh_os_fails_on_purpose())
        return -ENOMEM;
    for (size_t done = 0; done < size;) {
        struct uffdio_zeropage zero = {
            .range = {.start = (uintptr_t)addr + done, .len = size - done},
        };
        long result = fh_syscall3(SYS_ioctl, fd, (long)UFFDIO_ZEROPAGE, (long)&zero);
        if (result == 0)
            return 0;
        /* A page is there after all, with who knows what in it: the registration was away. */
        if (result == -EEXIST && fh_os_purge((char *)addr + done, size - done) == 0)
            continue;
        /* EAGAIN: the mappings are changing; what was filled before is said. */
        if (result != -EAGAIN)
            return (int)result;
        if (zero.zeropage > 0)
            done += (size_t)zero.zeropage;
    }
    return 0;
}
