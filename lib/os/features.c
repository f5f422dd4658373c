/*
 * What this kernel has.
 *
 * Users run kernels from 6.1 on, and containers that refuse calls the kernel knows. Each feature is
 * one bit. `permitted` is the mask that tests force down; `probed` is what the kernel answered,
 * asked once, at the first question (a dozen system calls; under seccomp a program may allow none
 * of them, so the allocation paths never ask: they try the call and step down, see fh_os_may_use).
 *
 * A probe has no effect that outlives it: madvise with length 0 validates the advice and does
 * nothing; io_uring_setup without parameters is refused for lack of permission before it is refused
 * for the pointer.
 */
#include "os/mem.h"

#include "os/internal.h"
#include "os/sys.h"
#include "os/syscall.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#ifndef SYS_mseal
#define SYS_mseal 462
#endif

enum {
    ALL_FEATURES = (1 << 10) - 1,
    /* userfaultfd(2) and its handshake, as linux/userfaultfd.h has them from 6.8 on. */
    UFFD_USER_MODE = 1,
    MEMBARRIER_QUERY = 0,
    MEMBARRIER_PRIVATE_EXPEDITED_BIT = 1 << 3,
};

struct uffd_handshake {
    uint64_t api;
    uint64_t features;
    uint64_t ioctls;
};

static const uint64_t uffd_api_version = 0xaa;
static const uint64_t uffd_feature_move = (uint64_t)1 << 16;
static const unsigned long uffd_ioctl_handshake = 0xc018aa3f;

/* struct pm_scan_arg of linux/fs.h, 6.7. */
struct pagemap_scan {
    uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
    uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};
static const unsigned long pagemap_ioctl_scan = 0xc0606610;

static _Atomic unsigned permitted = ALL_FEATURES;
static _Atomic unsigned probed;
static _Atomic bool is_probed; /* release after `probed`, acquire before it is read */

static bool knows_advice(int advice)
{
    return fh_syscall3(SYS_madvise, 0, 0, advice) == 0;
}

static unsigned probe_userfaultfd(void)
{
    long fd = fh_syscall1(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE);
    if (fd < 0)
        return 0;
    struct uffd_handshake handshake = {.api = uffd_api_version};
    bool is_there = fh_syscall3(SYS_ioctl, fd, (long)uffd_ioctl_handshake, (long)&handshake) == 0;
    fh_os_close((int)fd);
    if (!is_there)
        return 0;
    /* Without requested features the kernel answers with all that it has. */
    return FH_OS_USERFAULTFD | (handshake.features & uffd_feature_move ? FH_OS_UFFD_MOVE : 0);
}

static unsigned probe_pagemap_scan(void)
{
    int fd = fh_os_open_read("/proc/self/pagemap");
    if (fd < 0)
        return 0;
    struct pagemap_scan scan = {.size = sizeof(scan)};
    long result = fh_syscall3(SYS_ioctl, fd, (long)pagemap_ioctl_scan, (long)&scan);
    fh_os_close(fd);
    return result == -ENOTTY ? 0 : FH_OS_PAGEMAP_SCAN;
}

static unsigned probe_io_uring(void)
{
    return fh_syscall2(SYS_io_uring_setup, 1, 0) == -EFAULT ? FH_OS_IO_URING : 0;
}

static unsigned probe_huge_pages(void)
{
    char text[64];
    if (fh_os_read_file("/sys/kernel/mm/transparent_hugepage/enabled", text, sizeof(text)) <= 0)
        return 0;
    if (fh_syscall6(SYS_prctl, PR_GET_THP_DISABLE, 0, 0, 0, 0, 0) == 1)
        return 0;
    for (const char *at = text; *at != '\0'; at++)
        if (at[0] == '[')
            return at[1] == 'n' ? 0 : FH_OS_THP; /* [always], [madvise] or [never] */
    return 0;
}

static unsigned probe_membarrier(void)
{
    long commands = fh_syscall3(SYS_membarrier, MEMBARRIER_QUERY, 0, 0);
    return commands > 0 && (commands & MEMBARRIER_PRIVATE_EXPEDITED_BIT) ? FH_OS_MEMBARRIER : 0;
}

static unsigned probe_task_syscall(void)
{
    char text[256];
    return fh_os_read_file("/proc/thread-self/syscall", text, sizeof(text)) > 0 ? FH_OS_TASK_SYSCALL
                                                                                : 0;
}

static unsigned probe(void)
{
    unsigned found = 0;
    if (fh_syscall3(SYS_mseal, 0, 0, 0) == 0) /* of no bytes */
        found |= FH_OS_SEAL;
    if (knows_advice(MADV_GUARD_INSTALL))
        found |= FH_OS_GUARD_INSTALL;
    if (knows_advice(MADV_POPULATE_WRITE))
        found |= FH_OS_POPULATE;
    return found | probe_userfaultfd() | probe_pagemap_scan() | probe_io_uring() |
           probe_huge_pages() | probe_membarrier() | probe_task_syscall();
}

unsigned fh_os_features(void)
{
    if (!atomic_load_explicit(&is_probed, memory_order_acquire)) {
        /* Two threads that come here at once find the same. */
        atomic_store_explicit(&probed, probe(), memory_order_relaxed);
        atomic_store_explicit(&is_probed, true, memory_order_release);
    }
    return atomic_load_explicit(&probed, memory_order_relaxed) &
           atomic_load_explicit(&permitted, memory_order_relaxed);
}

void fh_os_force_features(unsigned mask)
{
    /* relaxed: set at start-up or by a test, guards nothing. */
    atomic_store_explicit(&permitted, mask, memory_order_relaxed);
}

bool fh_os_may_use(enum fh_os_feature feature)
{
    return (atomic_load_explicit(&permitted, memory_order_relaxed) & (unsigned)feature) != 0;
}

static const struct {
    const char *name;
    unsigned refused;
} words_known[] = {
    {"6.1", FH_OS_GUARD_INSTALL | FH_OS_UFFD_MOVE | FH_OS_PAGEMAP_SCAN | FH_OS_SEAL},
    {"container", FH_OS_USERFAULTFD | FH_OS_UFFD_MOVE | FH_OS_IO_URING},
    {"-guard", FH_OS_GUARD_INSTALL},
    {"-populate", FH_OS_POPULATE},
    {"-userfaultfd", FH_OS_USERFAULTFD | FH_OS_UFFD_MOVE},
    {"-uffd-move", FH_OS_UFFD_MOVE},
    {"-io-uring", FH_OS_IO_URING},
    {"-pagemap-scan", FH_OS_PAGEMAP_SCAN},
    {"-thp", FH_OS_THP},
    {"-membarrier", FH_OS_MEMBARRIER},
    {"-task-syscall", FH_OS_TASK_SYSCALL},
    {"-seal", FH_OS_SEAL},
};

/* Whether text begins with name and then ends or goes on with a comma; *after is set behind the
 * word. */
static bool is_word(const char *text, const char *name, const char **after)
{
    while (*name != '\0' && *text == *name) {
        text++;
        name++;
    }
    if (*name != '\0' || (*text != '\0' && *text != ','))
        return false;
    *after = *text == ',' ? text + 1 : text;
    return true;
}

bool fh_os_force_features_by_name(const char *words)
{
    unsigned mask = ALL_FEATURES;
    while (*words != '\0') {
        const char *after = NULL;
        for (size_t i = 0; i < FH_ARRAY_LEN(words_known) && after == NULL; i++)
            if (is_word(words, words_known[i].name, &after))
                mask &= ~words_known[i].refused;
        if (after == NULL)
            return false;
        words = after;
    }
    fh_os_force_features(mask);
    return true;
}
