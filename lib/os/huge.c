/*
 * Huge pages: where they are wanted, and how one is taken apart.
 *
 * A transparent huge page is one unit of memory (a folio of 2 MiB on x86-64). MADV_DONTNEED of a
 * part of it lowers the process's resident size and gives the system nothing: the page tables are
 * split, the folio waits on a list until memory is short. So whoever purges parts splits first.
 */
#include "os/mem.h"

#include "base/bits.h"
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
