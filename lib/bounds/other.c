/* Arrays that are sorted and searched, and functions that write a text somewhere. */
#include "bounds/bounds.h"

enum { TIME_BYTES = 26 }; /* asctime_r, ctime_r: "Thu Jan  1 00:00:00 1970\n" */

static size_t bytes_of(size_t count, size_t size)
{
    size_t bytes;
    return __builtin_mul_overflow(count, size, &bytes) ? FH_ROOM_NOWHERE - 1
                                                       : fh_min(bytes, FH_ROOM_NOWHERE - 1);
}

/* ---- arrays ----------------------------------------------------------------------------------- */

FH_WRAP(void, qsort, (void *base, size_t count, size_t size, fh_compare *compare))
{
    if (FH_IS_ON()) {
        FH_HERE(qsort);
        fh_check_write(here, base, bytes_of(count, size));
    }
    fh_real.qsort(base, count, size, compare);
}

FH_WRAP(void, qsort_r,
        (void *base, size_t count, size_t size, fh_compare_with *compare, void *context))
{
    if (FH_IS_ON()) {
        FH_HERE(qsort_r);
        fh_check_write(here, base, bytes_of(count, size));
    }
    fh_real.qsort_r(base, count, size, compare, context);
}

FH_WRAP(void *, bsearch,
        (const void *key, const void *base, size_t count, size_t size, fh_compare *compare))
{
    if (FH_IS_ON()) {
        FH_HERE(bsearch);
        fh_check_read(here, base, bytes_of(count, size));
    }
    return fh_real.bsearch(key, base, count, size, compare);
}

/* ---- texts ------------------------------------------------------------------------------------ */

/* What was written at `to` is a string. */
static void check_written(struct fh_here here, const char *to)
{
    fh_check_write(here, to, fh_real.strlen(to) + 1);
}

FH_WRAP(char *, realpath, (const char *path, char *to))
{
    if (!FH_IS_ON())
        return fh_real.realpath(path, to);
    FH_HERE(realpath);
    if (path != NULL)
        fh_check_string(here, path);
    char *result = fh_real.realpath(path, to);
    if (result != NULL && to != NULL)
        check_written(here, to);
    return result;
}

FH_WRAP(char *, __realpath_chk, (const char *path, char *to, size_t to_size))
{
    if (!FH_IS_ON())
        return fh_real.__realpath_chk(path, to, to_size);
    FH_HERE(realpath);
    if (path != NULL)
        fh_check_string(here, path);
    char *result = fh_real.__realpath_chk(path, to, to_size);
    if (result != NULL && to != NULL)
        check_written(here, to);
    return result;
}

/* GNU's may return a text of its own and leave the buffer alone. */
FH_WRAP(char *, strerror_r, (int number, char *to, size_t size))
{
    if (!FH_IS_ON())
        return fh_real.strerror_r(number, to, size);
    FH_HERE(strerror_r);
    char *text = fh_real.strerror_r(number, to, size);
    if (text == to && size != 0)
        check_written(here, to);
    return text;
}

FH_WRAP(int, __xpg_strerror_r, (int number, char *to, size_t size))
{
    if (FH_IS_ON()) {
        FH_HERE(strerror_r);
        fh_check_write(here, to, size);
    }
    return fh_real.__xpg_strerror_r(number, to, size);
}

FH_WRAP(const char *, inet_ntop, (int family, const void *from, char *to, socklen_t size))
{
    if (!FH_IS_ON())
        return fh_real.inet_ntop(family, from, to, size);
    FH_HERE(inet_ntop);
    const char *text = fh_real.inet_ntop(family, from, to, size);
    if (text != NULL)
        check_written(here, to);
    return text;
}

FH_WRAP(size_t, strftime, (char *to, size_t max, const char *format, const struct tm *tm))
{
    if (!FH_IS_ON())
        return fh_real.strftime(to, max, format, tm);
    FH_HERE(strftime);
    fh_check_string(here, format);
    size_t len = fh_real.strftime(to, max, format, tm);
    if (len != 0)
        fh_check_write(here, to, len + 1);
    return len;
}

FH_WRAP(char *, asctime_r, (const struct tm *tm, char *to))
{
    if (FH_IS_ON()) {
        FH_HERE(asctime_r);
        fh_check_write(here, to, TIME_BYTES);
    }
    return fh_real.asctime_r(tm, to);
}

FH_WRAP(char *, ctime_r, (const time_t *time, char *to))
{
    if (FH_IS_ON()) {
        FH_HERE(ctime_r);
        fh_check_write(here, to, TIME_BYTES);
    }
    return fh_real.ctime_r(time, to);
}
