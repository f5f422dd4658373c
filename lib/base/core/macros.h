/* What the compiler is told: branch expectations, inlining, visibility. Nothing here has state. */
#ifndef FH_BASE_MACROS_H
#define FH_BASE_MACROS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FH_LIKELY(x)                       __builtin_expect(!!(x), 1)
#define FH_UNLIKELY(x)                     __builtin_expect(!!(x), 0)
#define FH_INLINE                          static inline __attribute__((always_inline))
#define FH_NOINLINE                        __attribute__((noinline))
#define FH_COLD                            __attribute__((noinline, cold))
#define FH_HIDDEN                          __attribute__((visibility("hidden")))
#define FH_PUBLIC                          __attribute__((visibility("default")))
/* Code between whose instructions a heap may be half changed without a note of it: gathered in one
 * section per program or
 * library, so that a signal handler can tell by the program counter that it interrupted it
 * (heap/handler.c). */
#define FH_FAST                            __attribute__((section("fh_fast")))
#define FH_CACHE_LINE                      64
#define FH_CACHE_ALIGNED                   __attribute__((aligned(FH_CACHE_LINE)))
#define FH_ARRAY_LEN(a)                    (sizeof(a) / sizeof((a)[0]))
#define FH_CONTAINER_OF(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

#endif
