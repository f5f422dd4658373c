/*
 * How the wrappers find the functions that they stand in front of.
 *
 * The next definition of each name after ours, as dlsym says, is looked up once, by the constructor.
 * Others call us before it runs, in this order of a process's start:
 *
 *   while the loader relocates   resolvers of IFUNCs call memcpy and its like; our own relocations may
 *                                not be done, so nothing outside of this library can be called
 *   inside malloc's start        libfreehold calls memset and its like with its locks held, where dlsym
 *                                must not be called
 *   in other constructors        anything is called; dlsym may be
 *
 * So the functions of the first two kinds have loops of their own in memory.c and string.c for as long as
 * their real function is not known; all others look the real ones up when they are first called. No
 * check is made before the constructor has run: until then nobody has read the mode.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "bounds/bounds.h"

#include "stack/stack.h"

#include <dlfcn.h>
#include <stdlib.h>

/* libfreehold says that our checks are absent when it does not find this. */
FH_PUBLIC const int fh_debug_is_loaded = 1;

_Atomic int fh_debug_state;
struct fh_real fh_real;

/* Its value is its address as soon as our relocations are done. */
static const volatile uintptr_t *const volatile relocated = (const volatile uintptr_t *)&relocated;

static _Atomic bool is_resolved;

#define ROW(type, name, parameters) {#name, offsetof(struct fh_real, name)},
static const struct {
    char name[24];
    size_t offset;
} functions[] = {FH_REAL_ALL(ROW)};
#undef ROW

/*
 * dlsym allocates when it does not find a name, and a program that brings its own malloc may call us from inside of it: so
 * only what this C library has is asked for. glibc 2.38 brought C23's scanf and strtol.
 */
extern const char *gnu_get_libc_version(void); /* glibc's */

static bool is_known(const char *name)
{
    const char *version = gnu_get_libc_version(); /* "2.36" */
    unsigned minor = 0;
    for (size_t i = 2; version[i] >= '0' && version[i] <= '9'; i++)
        minor = minor * 10 + (unsigned)(version[i] - '0');
    const bool is_23 = name[0] == '_' && name[2] == 'i' && name[6] == '2'; /* __isoc23_… */
    return minor >= 38 || !is_23;
}

static void resolve(void)
{
    if (atomic_load_explicit(&is_resolved, memory_order_acquire)) /* pairs with the store below */
        return;
    for (size_t i = 0; i < FH_ARRAY_LEN(functions); i++)
        if (is_known(functions[i].name))
            *(void **)((char *)&fh_real + functions[i].offset) =
                dlsym(RTLD_NEXT, functions[i].name);
    dlerror(); /* the program shall not find what was not found here */
    atomic_store_explicit(&is_resolved, true, memory_order_release);
}

bool fh_debug_start(void)
{
    if (relocated == (const volatile uintptr_t *)&relocated)
        resolve();
    return fh_debug_state_now() == FH_DEBUG_ON;
}

bool fh_debug_is_own(uintptr_t pc)
{
    return fh_stack_in_module(pc, &fh_debug_state) || fh_stack_in_module(pc, &fh_guard_settings);
}

__attribute__((constructor)) static void begin(void)
{
    int mode = FH_DEBUG_OFF;
    resolve();
    free(malloc(1)); /* the heap reads its settings at the first call */
    if (fh_guard_settings.mode == FH_MODE_DEBUG && fh_guard_settings.has_wrappers)
        mode = FH_DEBUG_ON;
    atomic_store_explicit(&fh_debug_state, mode, memory_order_release);
}
