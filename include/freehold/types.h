/*
 * types.h: what every Freehold header needs: linkage, visibility, version.
 */
#ifndef FREEHOLD_TYPES_H
#define FREEHOLD_TYPES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FH_VERSION_MAJOR 0
#define FH_VERSION_MINOR 1
#define FH_VERSION_PATCH 0

#if defined(__GNUC__)
#define FH_API           __attribute__((visibility("default")))
#define FH_MALLOC_LIKE   __attribute__((malloc, warn_unused_result))
#define FH_ALLOC_SIZE(n) __attribute__((alloc_size(n)))
#else
#define FH_API
#define FH_MALLOC_LIKE
#define FH_ALLOC_SIZE(n)
#endif

#ifdef __cplusplus
#define FH_BEGIN_DECLS extern "C" {
#define FH_END_DECLS   }
#else
#define FH_BEGIN_DECLS
#define FH_END_DECLS
#endif

#endif
