/*
 * A malloc with planted faults, on top of glibc's: what the shadow model must find. FAULT picks
 * one, it strikes at every hundredth call that qualifies.
 *
 *   overlap    a second block inside a live one          dirty      calloc that does not clear
 *   align      aligned_alloc a little beside             lost       realloc that loses the last
 * bytes usable     malloc_usable_size says too much          write      free writes into a
 * neighbour errno      fails without saying ENOMEM
 */
#pragma GCC visibility push(default) /* the build hides symbols */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <malloc.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *ptr, size_t size);
extern void *__libc_memalign(size_t align, size_t size);

static _Atomic unsigned calls;

static int strikes(const char *fault)
{
    static const char *wanted;

    if (wanted == NULL) {
        wanted = getenv("FAULT");
        if (wanted == NULL)
            wanted = "";
    }
    return strcmp(wanted, fault) == 0 && atomic_fetch_add(&calls, 1) % 100 == 99;
}

void *malloc(size_t size)
{
    static void *_Atomic last;
    static _Atomic size_t last_size;

    if (size < 4096 && size > 64 && strikes("errno"))
        return NULL;
    if (size > 64 && size < 4096 && strikes("overlap") && last_size > 128 && last != NULL)
        return (char *)last + 64;
    void *ptr = __libc_malloc(size);
    if (size > 256 && size < 4096) {
        last = ptr;
        last_size = size;
    }
    return ptr;
}

void *calloc(size_t count, size_t size)
{
    void *ptr = __libc_calloc(count, size);

    if (count * size > 300 && strikes("dirty"))
        ((char *)ptr)[count * size - 200] = 1;
    return ptr;
}

void *realloc(void *ptr, size_t size)
{
    size_t old = ptr == NULL ? 0 : malloc_usable_size(ptr);
    void *moved = __libc_realloc(ptr, size);

    if (ptr != NULL && moved != NULL && old > 40 && size > old && old < 16000 && strikes("lost"))
        memset((char *)moved + 32, 0, 8);
    return moved;
}

void *aligned_alloc(size_t align, size_t size)
{
    char *ptr = __libc_memalign(align, size + 16);

    return align > 16 && strikes("align") ? ptr + 16 : ptr;
}

size_t malloc_usable_size(void *ptr)
{
    static size_t (*real)(void *);

    if (real == NULL)
        *(void **)&real = dlsym(RTLD_NEXT, "malloc_usable_size");
    size_t usable = real(ptr);
    return usable > 100 && usable < 4096 && strikes("usable") ? usable - 48 : usable;
}
