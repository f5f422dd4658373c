/*
 * What a recorded process does around the calls: its mappings are looked at before a library is unloaded
 * (stacks in it were told by address only), after that, and before a short process ends.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "record/record.h"

#include <dlfcn.h>
#include <stdatomic.h>

FH_PUBLIC int dlclose(void *handle)
{
    static _Atomic(void *) next;
    void *found = atomic_load_explicit(&next, memory_order_relaxed);
    if (found == NULL) {
        found = dlsym(RTLD_NEXT, "dlclose");
        atomic_store_explicit(&next, found, memory_order_relaxed);
    }
    if (found == NULL)
        return -1;
    fh_record_modules();
    const int result = ((int (*)(void *))(uintptr_t)found)(handle);
    fh_record_modules();
    return result;
}

__attribute__((destructor)) static void end(void)
{
    fh_record_end();
}
