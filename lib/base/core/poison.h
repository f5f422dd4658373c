/*
 * What the allocators tell to AddressSanitizer and to valgrind's memcheck: which bytes may be touched.
 *
 * In a build with AddressSanitizer these are its calls; so they are when the program is built with it and
 * this library is not (weak references). Otherwise they are valgrind's client requests, a few instructions
 * that do nothing on a real processor. They sit behind fh_poison_is_on(), which managers ask in slow paths and when they open, so that a fast path pays at most one predicted branch.
 * Where the headers are absent, and freestanding, they are nothing.
 */
#ifndef FH_BASE_CORE_POISON_H
#define FH_BASE_CORE_POISON_H

#include "base/core/macros.h"

#if defined(__SANITIZE_ADDRESS__)
#define FH_POISON_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define FH_POISON_ASAN 1
#endif
#endif

#if defined(FH_POISON_ASAN) && !defined(FH_FREESTANDING)

void __asan_poison_memory_region(void const volatile *addr, size_t size);
void __asan_unpoison_memory_region(void const volatile *addr, size_t size);

FH_INLINE bool fh_poison_is_on(void)
{
    return true;
}
FH_INLINE void fh_poison(const void *addr, size_t size)
{
    __asan_poison_memory_region(addr, size);
}
FH_INLINE void fh_unpoison(const void *addr, size_t size)
{
    __asan_unpoison_memory_region(addr, size);
}
/* As unpoison, and the contents count as defined: for memory that the manager itself will read. */
FH_INLINE void fh_unpoison_defined(const void *addr, size_t size)
{
    __asan_unpoison_memory_region(addr, size);
}

#elif !defined(FH_FREESTANDING) && defined(__has_include) && __has_include(<valgrind/memcheck.h>)

#include <valgrind/memcheck.h>

/* There in a program that is built with AddressSanitizer while this library is not. */
extern void __asan_poison_memory_region(void const volatile *addr, size_t size)
    __attribute__((weak));
extern void __asan_unpoison_memory_region(void const volatile *addr, size_t size)
    __attribute__((weak));

/* Asked of valgrind once, at the first question. */
FH_INLINE bool fh_poison_is_on(void)
{
    static int known; /* 0 not asked, 1 no, 2 yes; relaxed: whoever asks gets the same answer */
    int answer = __atomic_load_n(&known, __ATOMIC_RELAXED);
    if (FH_UNLIKELY(answer == 0)) {
        answer = __asan_poison_memory_region != NULL || RUNNING_ON_VALGRIND ? 2 : 1;
        __atomic_store_n(&known, answer, __ATOMIC_RELAXED);
    }
    return FH_UNLIKELY(answer == 2);
}
FH_INLINE void fh_poison(const void *addr, size_t size)
{
    if (!fh_poison_is_on())
        return;
    if (__asan_poison_memory_region != NULL)
        __asan_poison_memory_region(addr, size);
    else
        (void)VALGRIND_MAKE_MEM_NOACCESS(addr, size);
}
FH_INLINE void fh_unpoison(const void *addr, size_t size)
{
    if (!fh_poison_is_on())
        return;
    if (__asan_unpoison_memory_region != NULL)
        __asan_unpoison_memory_region(addr, size);
    else
        (void)VALGRIND_MAKE_MEM_UNDEFINED(addr, size);
}
FH_INLINE void fh_unpoison_defined(const void *addr, size_t size)
{
    if (!fh_poison_is_on())
        return;
    if (__asan_unpoison_memory_region != NULL)
        __asan_unpoison_memory_region(addr, size);
    else
        (void)VALGRIND_MAKE_MEM_DEFINED(addr, size);
}

#else

FH_INLINE bool fh_poison_is_on(void)
{
    return false;
}
FH_INLINE void fh_poison(const void *addr, size_t size)
{
    (void)addr, (void)size;
}
FH_INLINE void fh_unpoison(const void *addr, size_t size)
{
    (void)addr, (void)size;
}
FH_INLINE void fh_unpoison_defined(const void *addr, size_t size)
{
    (void)addr, (void)size;
}

#endif
#endif
