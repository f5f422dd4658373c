/*
 * memcpy and its kind: ranges whose sizes are given.
 *
 * The real memcpy is memmove: programs linked long ago ask for a memcpy that copes with overlap, and
 * one name stands for both. Functions that stop at a byte they look for (memchr, memccpy) may be given
 * any size, so they are wrong only when the byte is not in the object.
 */
#include "bounds/bounds.h"
#include "bounds/early.h"

/* ---- copies ----------------------------------------------------------------------------------- */

FH_INLINE void *move(void *to, const void *from, size_t size)
{
    return FH_LIKELY(fh_real.memmove != NULL) ? fh_real.memmove(to, from, size)
                                              : fh_early_memmove(to, from, size);
}

FH_INLINE void check_copy(struct fh_here here, void *to, const void *from, size_t size)
{
    fh_check_write(here, to, size);
    fh_check_read(here, from, size);
}

FH_WRAP(void *, memcpy, (void *to, const void *from, size_t size))
{
    if (FH_IS_ON_EARLY()) {
        FH_HERE(memcpy);
        check_copy(here, to, from, size);
    }
    return move(to, from, size);
}

FH_WRAP(void *, memmove, (void *to, const void *from, size_t size))
{
    if (FH_IS_ON_EARLY()) {
        FH_HERE(memmove);
        check_copy(here, to, from, size);
    }
    return move(to, from, size);
}

FH_WRAP(void *, mempcpy, (void *to, const void *from, size_t size))
{
    if (FH_IS_ON_EARLY()) {
        FH_HERE(mempcpy);
        check_copy(here, to, from, size);
    }
    return (char *)move(to, from, size) + size;
}

FH_WRAP(void *, __mempcpy, (void *to, const void *from, size_t size))
{
    if (FH_IS_ON_EARLY()) {
        FH_HERE(mempcpy);
        check_copy(here, to, from, size);
    }
    return (char *)move(to, from, size) + size;
}

FH_WRAP(void, bcopy, (const void *from, void *to, size_t size))
{
    if (FH_IS_ON_EARLY()) {
        FH_HERE(bcopy);
        check_copy(here, to, from, size);
    }
    move(to, from, size);
}

FH_WRAP(void *, memccpy, (void *to, const void *from, int byte, size_t max))
{
    if (FH_IS_ON()) {
        FH_HERE(memccpy);
        size_t size = fh_check_until(here, from, byte, max);
        fh_check_write(here, to, size);
    }
    return fh_real.memccpy(to, from, byte, max);
}

FH_WRAP(void, swab, (const void *from, void *to, ssize_t size))
{
    if (FH_IS_ON() && size > 0) {
        FH_HERE(swab);
        check_copy(here, to, from, (size_t)size & ~(size_t)1);
    }
    fh_real.swab(from, to, size);
}

FH_WRAP(void *, __memcpy_chk, (void *to, const void *from, size_t size, size_t to_size))
{
    if (FH_IS_ON()) {
        FH_HERE(memcpy);
        check_copy(here, to, from, size);
    }
    return fh_real.__memcpy_chk(to, from, size, to_size);
}

FH_WRAP(void *, __memmove_chk, (void *to, const void *from, size_t size, size_t to_size))
{
    if (FH_IS_ON()) {
        FH_HERE(memmove);
        check_copy(here, to, from, size);
    }
    return fh_real.__memmove_chk(to, from, size, to_size);
}

FH_WRAP(void *, __mempcpy_chk, (void *to, const void *from, size_t size, size_t to_size))
{
    if (FH_IS_ON()) {
        FH_HERE(mempcpy);
        check_copy(here, to, from, size);
    }
    return fh_real.__mempcpy_chk(to, from, size, to_size);
}

/* ---- fills ------------------------------------------------------------------------------------ */

FH_INLINE void *fill(void *to, int byte, size_t size)
{
    return FH_LIKELY(fh_real.memset != NULL) ? fh_real.memset(to, byte, size)
                                             : fh_early_memset(to, byte, size);
}

FH_WRAP(void *, memset, (void *to, int byte, size_t size))
{
    if (FH_IS_ON_EARLY()) {
        FH_HERE(memset);
        fh_check_write(here, to, size);
    }
    return fill(to, byte, size);
}

FH_WRAP(void, bzero, (void *to, size_t size))
{
    if (FH_IS_ON_EARLY()) {
        FH_HERE(bzero);
        fh_check_write(here, to, size);
    }
    fill(to, 0, size);
}

FH_WRAP(void, explicit_bzero, (void *to, size_t size))
{
    if (FH_IS_ON_EARLY()) {
        FH_HERE(explicit_bzero);
        fh_check_write(here, to, size);
    }
    fill(to, 0, size);
}

FH_WRAP(void *, __memset_chk, (void *to, int byte, size_t size, size_t to_size))
{
    if (FH_IS_ON()) {
        FH_HERE(memset);
        fh_check_write(here, to, size);
    }
    return fh_real.__memset_chk(to, byte, size, to_size);
}

FH_WRAP(void, __explicit_bzero_chk, (void *to, size_t size, size_t to_size))
{
    if (FH_IS_ON()) {
        FH_HERE(explicit_bzero);
        fh_check_write(here, to, size);
    }
    fh_real.__explicit_bzero_chk(to, size, to_size);
}

/* ---- comparisons ------------------------------------------------------------------------------ */

FH_WRAP(int, memcmp, (const void *a, const void *b, size_t size))
{
    if (FH_IS_ON_EARLY()) {
        FH_HERE(memcmp);
        fh_check_read(here, a, size);
        fh_check_read(here, b, size);
    }
    return FH_LIKELY(fh_real.memcmp != NULL) ? fh_real.memcmp(a, b, size)
                                             : fh_early_memcmp(a, b, size);
}

FH_WRAP(int, bcmp, (const void *a, const void *b, size_t size))
{
    if (FH_IS_ON_EARLY()) {
        FH_HERE(bcmp);
        fh_check_read(here, a, size);
        fh_check_read(here, b, size);
    }
    return FH_LIKELY(fh_real.memcmp != NULL) ? fh_real.memcmp(a, b, size)
                                             : fh_early_memcmp(a, b, size);
}

/* ---- searches --------------------------------------------------------------------------------- */

FH_WRAP(void *, memchr, (const void *in, int byte, size_t max))
{
    if (FH_IS_ON()) {
        FH_HERE(memchr);
        fh_check_until(here, in, byte, max);
    }
    return fh_real.memchr(in, byte, max);
}

FH_WRAP(void *, rawmemchr, (const void *in, int byte))
{
    if (FH_IS_ON()) {
        FH_HERE(rawmemchr);
        fh_check_until(here, in, byte, SIZE_MAX);
    }
    return fh_real.rawmemchr(in, byte);
}

FH_WRAP(void *, __rawmemchr, (const void *in, int byte))
{
    if (FH_IS_ON()) {
        FH_HERE(rawmemchr);
        fh_check_until(here, in, byte, SIZE_MAX);
    }
    return fh_real.__rawmemchr(in, byte);
}

FH_WRAP(void *, memrchr, (const void *in, int byte, size_t size))
{
    if (FH_IS_ON()) {
        FH_HERE(memrchr);
        fh_check_read(here, in, size);
    }
    return fh_real.memrchr(in, byte, size);
}

FH_WRAP(void *, memmem, (const void *in, size_t size, const void *part, size_t part_size))
{
    if (FH_IS_ON()) {
        FH_HERE(memmem);
        fh_check_read(here, in, size);
        fh_check_read(here, part, part_size);
    }
    return fh_real.memmem(in, size, part, part_size);
}
