/*
 * Heap memory that the program makes executable (hardened mode warns: guard/executable.c).
 *
 * One test more than the C library's own call, which is found by dlsym when first needed. Raw
 * system calls are not seen. Not in the static archive, as mmap.c.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "guard/guard.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>
#include <sys/mman.h>

FH_PUBLIC int mprotect(void *address, size_t size, int protection)
{
    static _Atomic(void *) next;
    if ((protection & PROT_EXEC) != 0)
        fh_executable_heap_look(address);
    /* Relaxed: whoever finds it anew finds the same. */
    void *found = atomic_load_explicit(&next, memory_order_relaxed);
    if (found == NULL) {
        found = dlsym(RTLD_NEXT, "mprotect");
        atomic_store_explicit(&next, found, memory_order_relaxed);
    }
    if (found != NULL)
        return ((int (*)(void *, size_t, int))(uintptr_t)found)(address, size, protection);
    errno = ENOSYS;
    return -1;
}
