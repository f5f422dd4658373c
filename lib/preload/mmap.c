/*
 * Anonymous mappings that fail on purpose (setting fail).
 *
 * A program that maps memory itself has to expect ENOMEM as it has from malloc. So mmap is here,
 * and asks for MAP_ANONYMOUS what malloc asks for each block; anything else, and everything while
 * nothing is to fail, is one test more and the C library's own call, found by dlsym when first
 * needed. What the C library maps for itself (stacks of threads, buffers of stdio) goes by a name
 * of its own that nobody can take, and is not seen; nor are raw system calls.
 *
 * Not in the static archive, as identity.c: there is no next function to find in a static program.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "guard/pressure.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>
#include <sys/mman.h>

typedef void *mapper(void *address, size_t size, int protection, int flags, int fd, off_t offset);

static void *next_mmap(void *address, size_t size, int protection, int flags, int fd, off_t offset)
{
    static _Atomic(void *) next;
    /* Relaxed: whoever finds it anew finds the same. */
    void *found = atomic_load_explicit(&next, memory_order_relaxed);
    if (found == NULL) {
        found = dlsym(RTLD_NEXT, "mmap");
        atomic_store_explicit(&next, found, memory_order_relaxed);
    }
    if (found != NULL)
        return ((mapper *)(uintptr_t)found)(address, size, protection, flags, fd, offset);
    errno = ENOSYS;
    return MAP_FAILED;
}

static bool is_refused(size_t size, int flags, const struct fh_call *call)
{
    if ((flags & MAP_ANONYMOUS) == 0 || !fh_pressure_refuses_mapping(size, call))
        return false;
    errno = ENOMEM;
    return true;
}

FH_PUBLIC void *mmap(void *address, size_t size, int protection, int flags, int fd, off_t offset)
{
    const struct fh_call call = FH_CALL_HERE();
    if (is_refused(size, flags, &call))
        return MAP_FAILED;
    return next_mmap(address, size, protection, flags, fd, offset);
}

FH_PUBLIC void *mmap64(void *address, size_t size, int protection, int flags, int fd, off_t offset)
{
    const struct fh_call call = FH_CALL_HERE();
    if (is_refused(size, flags, &call))
        return MAP_FAILED;
    return next_mmap(address, size, protection, flags, fd, offset);
}
