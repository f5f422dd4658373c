/*
 * How freestanding code fails: as the rest of the house, but for errno, which is libc's. A build with
 * FH_FREESTANDING has none and says NULL or false alone.
 */
#ifndef FH_BASE_CORE_FAIL_H
#define FH_BASE_CORE_FAIL_H

#include "base/core/macros.h"

#ifdef FH_FREESTANDING
enum { FH_ENOMEM = 12, FH_EINVAL = 22, FH_ENOTSUP = 95 };
#define fh_set_errno(code) ((void)(code))
#else
#include <errno.h>
enum { FH_ENOMEM = ENOMEM, FH_EINVAL = EINVAL, FH_ENOTSUP = ENOTSUP };
#define fh_set_errno(code) (errno = (code))
#endif

FH_INLINE void *fh_fail(int code)
{
    fh_set_errno(code);
    return NULL;
}

/* For functions that return 0 or a negative errno. */
FH_INLINE int fh_error(int code)
{
    fh_set_errno(code);
    return -code;
}

#endif
