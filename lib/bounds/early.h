/*
 * early.h: what may be called before its real function is known; see start.c.
 *
 * Slow and short: they serve some dozens of calls. What the loops read and write is volatile, or
 * the compiler would see what they are and make calls of the same names out of them.
 */
#ifndef FH_BOUNDS_EARLY_H
#define FH_BOUNDS_EARLY_H

#include "base/core/macros.h"

FH_INLINE void *fh_early_memcpy(void *to, const void *from, size_t size)
{
    char *into = to;
    const char *out_of = from;
#if defined(__x86_64__)
    __asm__ volatile("rep movsb" : "+D"(into), "+S"(out_of), "+c"(size) : : "memory");
#else
    for (size_t i = 0; i < size; i++)
        into[i] = out_of[i];
#endif
    return to;
}

FH_INLINE void *fh_early_memmove(void *to, const void *from, size_t size)
{
    volatile char *into = to;
    const volatile char *out_of = from;
    if ((uintptr_t)to - (uintptr_t)from >= size)
        return fh_early_memcpy(to, from, size);
    while (size-- > 0)
        into[size] = out_of[size];
    return to;
}

FH_INLINE void *fh_early_memset(void *to, int byte, size_t size)
{
    char *into = to;
#if defined(__x86_64__)
    __asm__ volatile("rep stosb" : "+D"(into), "+c"(size) : "a"(byte) : "memory");
#else
    for (size_t i = 0; i < size; i++)
        into[i] = (char)byte;
#endif
    return to;
}

FH_INLINE int fh_early_memcmp(const void *a, const void *b, size_t size)
{
    const volatile unsigned char *left = a, *right = b;
    for (size_t i = 0; i < size; i++) {
        if (left[i] != right[i])
            return left[i] - right[i];
    }
    return 0;
}

FH_INLINE size_t fh_early_strnlen(const char *s, size_t max)
{
    const volatile char *at = s;
    size_t len = 0;
    while (len < max && at[len] != 0)
        len++;
    return len;
}

FH_INLINE int fh_early_strncmp(const char *a, const char *b, size_t max)
{
    const volatile unsigned char *left = (const unsigned char *)a,
                                 *right = (const unsigned char *)b;
    for (size_t i = 0; i < max; i++) {
        int difference = left[i] - right[i];
        if (difference != 0 || left[i] == 0)
            return difference;
    }
    return 0;
}

FH_INLINE char *fh_early_strchr(const char *s, int c)
{
    const volatile char *at = s;
    for (; *at != (char)c; at++) {
        if (*at == 0)
            return NULL;
    }
    return (char *)(uintptr_t)at;
}

FH_INLINE char *fh_early_strrchr(const char *s, int c)
{
    const volatile char *at = s, *last = NULL;
    do {
        last = *at == (char)c ? at : last;
    } while (*at++ != 0);
    return (char *)(uintptr_t)last;
}

FH_INLINE char *fh_early_strstr(const char *s, const char *part)
{
    size_t len = fh_early_strnlen(part, SIZE_MAX);
    for (;; s++) {
        if (fh_early_strncmp(s, part, len) == 0)
            return (char *)(uintptr_t)s;
        if (*s == 0)
            return NULL;
    }
}

#endif
