/*
 * Guard pages: pages that fault when touched.
 *
 * Two tiers. MADV_GUARD_INSTALL (Linux 6.13) marks page table entries: 28-31 ns a page in bulk and
 * no mapping of its own. It is refused with EINVAL by older kernels and in locked mappings; then
 * mprotect does it, for 3-9 µs and up to two of the process's 65,530 mappings.
 *
 * Both tiers discard what the pages held, so that a guard costs no memory whichever made it.
 *
 * A guard does not say how it was made. As long as `is_any_protected` is false all were made by
 * madvise; from the first mprotect on, unguard undoes both ways, which is right for a page made
 * either way.
 */
#include "os/mem.h"

#include "os/internal.h"
#include "os/syscall.h"

#include <errno.h>
#include <stdatomic.h>
#include <sys/mman.h>

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#define MADV_GUARD_REMOVE  103
#endif

/* Goes from false to true once. release/acquire: an unguard of a page that another thread guarded
 * by mprotect must see true; handing the page over orders the rest. */
static _Atomic bool is_any_protected;

static int guard_by_protection(void *addr, size_t size)
{
    atomic_store_explicit(&is_any_protected, true, memory_order_release);
    int result = fh_os_protect(addr, size, FH_OS_NONE);
    if (result == 0)
        (void)fh_os_purge(
            addr, size); /* only saves memory: below Linux 5.18 locked pages can't be purged */
    return result;
}

int fh_os_guard_install(void *addr, size_t size)
{
    if (!fh_os_may_use(FH_OS_GUARD_INSTALL))
        return -EINVAL;
    if (fh_os_fails_on_purpose())
        return -ENOMEM;
    return (int)fh_syscall3(SYS_madvise, (long)addr, (long)size, MADV_GUARD_INSTALL);
}

int fh_os_guard_remove(void *addr, size_t size)
{
    return (int)fh_syscall3(SYS_madvise, (long)addr, (long)size, MADV_GUARD_REMOVE);
}

int fh_os_guard(void *addr, size_t size)
{
    int result = fh_os_guard_install(addr, size);
    return result != -EINVAL ? result : guard_by_protection(addr, size);
}

int fh_os_unguard(void *addr, size_t size)
{
    bool is_protected = atomic_load_explicit(&is_any_protected, memory_order_acquire);
    if (fh_os_may_use(FH_OS_GUARD_INSTALL)) {
        int result = fh_os_guard_remove(addr, size);
        if (!is_protected || (result != 0 && result != -EINVAL))
            return result;
    }
    return fh_os_protect(addr, size, FH_OS_READ_WRITE);
}
