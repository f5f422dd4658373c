/*
 * Huge pages: where they are wanted, and how one is taken apart.
 *
 * A transparent huge page is one piece of memory (2 MiB on x86-64). When a part of it is given back
 * by MADV_DONTNEED the resident size falls, but the kernel only takes the page tables apart; the
 * piece stays whole until memory is short. So whoever purges parts splits first. What splits,
 * measured on Linux 6.18 over 128 huge pages (256 MiB), then every second 4 KiB page purged (half
 * of the memory):
 *
 *     call on one 4 KiB page of each   µs each   AnonHugePages after   free memory of the system
 * gained none                                   -             0 (tables)                     0 of
 * 128 MiB mprotect                              15             0 (tables)                     0
 *     MADV_COLD on a page purged before     14             0 (tables)                     0
 *     MADV_COLD                            174             0                            118
 *     MADV_FREE                            163             0                            118
 *     MADV_PAGEOUT                         187             0                            111
 *
 * MADV_COLD (Linux 5.4) changes no content and reads nothing, so it is the one. It must name a page
 * that is still there; it works as well when other parts were purged already (their memory comes
 * back at that moment). It fails with EINVAL in locked memory: there only whole huge pages can be
 * purged. A page shared by fork is not split.
 *
 * The kernel's collapser puts pages together again in ranges that were advised huge (16 of 256 MiB
 * within a second, holes filled with zeros): advise FH_OS_HUGE_NO for what has been split.
 */
#include "os/mem.h"

#include "base/core/bits.h"
#include "os/internal.h"
#include "os/syscall.h"

#include <sys/mman.h>

#ifndef MADV_COLD
#define MADV_COLD 20
#endif

int fh_os_advise_huge(void *addr, size_t size, enum fh_os_huge want)
{
    /* The kernel knows no advice that takes an earlier one back; auto means that none was given. */
    if (want == FH_OS_HUGE_AUTO)
        return 0;
    return (int)fh_syscall3(SYS_madvise, (long)addr, (long)size,
                            want == FH_OS_HUGE_YES ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
}

int fh_os_split_huge(void *addr)
{
    uintptr_t page = fh_align_down((uintptr_t)addr, fh_os_page_size);
    return (int)fh_syscall3(SYS_madvise, (long)page, (long)fh_os_page_size, MADV_COLD);
}
