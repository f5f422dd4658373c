/*
 * misuse.h: what a program without libc defines for the explicit allocators.
 *
 * libfreehold-freestanding.a holds fixed, arena, pool, first/next/best/worst fit, buddy, TLSF and half-fit for firmware
 * and kernels. It needs memcpy, memset and memmove, and the two functions below, which tell of errors and
 * which only the program knows how to show. libfreehold defines them itself (a report with the stack of the call,
 * and on_error): do not define them in a program that links it.
 *
 *     void fh_misuse(const char *kind, const void *address, const char *detail)
 *     {
 *         uart_puts(kind);
 *         halt();
 *     }
 *     void fh_broken(const char *format, ...) { uart_puts(format); }
 *
 *     gcc -ffreestanding -nostdlib firmware.c -lfreehold-freestanding
 *
 * There is no errno then: a failure is NULL, false or a negative number. The default source (the system's memory)
 * does not exist: name a buffer, a parent or a source.
 */
#ifndef FREEHOLD_MISUSE_H
#define FREEHOLD_MISUSE_H

#include "freehold/types.h"

FH_BEGIN_DECLS

/* An allocator was called wrongly, or finds its state overwritten. kind: a report's word (double-free, invalid-free,
 * interior-free, size-mismatch, heap-corruption, …); address: the pointer in question; detail: a sentence. May
 * return: then the call has changed nothing. Called with no lock held but that of a wrapper. */
void fh_misuse(const char *kind, const void *address, const char *detail);

/* One broken invariant, found by a *_check: printf's format with %s %d %u %x %p %zu %lu %llu. */
void fh_broken(const char *format, ...)
#if defined(__GNUC__)
    __attribute__((format(printf, 1, 2)))
#endif
    ;

FH_END_DECLS
#endif
