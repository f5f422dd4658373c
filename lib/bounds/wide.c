/*
 * wcscpy and its kind: memory.c and string.c once more, for wide characters. Sizes are numbers of
 * characters in the C library's interface, and in bytes where they are checked.
 */
#include "bounds/bounds.h"

enum { WIDE = sizeof(wchar_t) };

/* More than there is stays more than there is. */
static size_t bytes(size_t characters)
{
    return characters > FH_ROOM_NOWHERE / WIDE ? FH_ROOM_NOWHERE - 1 : characters * WIDE;
}

/* The length of at most max characters, which must lie in the object, with the end if it is
 * nearer. */
static size_t check_wide_n(struct fh_here here, const wchar_t *s, size_t max)
{
    size_t room = fh_room(here, s);
    size_t whole = fh_is_known(room) ? room / WIDE : SIZE_MAX;
    size_t len = fh_real.wcsnlen(s, fh_min(whole, max));
    if (len < whole || len == max)
        return len;
    fh_check_failed(here, s, bytes(whole + 1), FH_ACCESS_READ);
    return fh_real.wcsnlen(s, max);
}

static size_t check_wide(struct fh_here here, const wchar_t *s)
{
    return check_wide_n(here, s, SIZE_MAX);
}

/* What was read of s up to and with `found`, or all. */
static void check_found(struct fh_here here, const wchar_t *s, size_t room, const wchar_t *found)
{
    if (fh_is_known(room))
        fh_check_rest(here, s, room,
                      bytes(found != NULL ? (size_t)(found - s) + 1 : fh_real.wcslen(s) + 1));
}

/* ---- memory ----------------------------------------------------------------------------------- */

static void check_copy(struct fh_here here, wchar_t *to, const wchar_t *from, size_t len)
{
    fh_check_write(here, to, bytes(len));
    fh_check_read(here, from, bytes(len));
}

#define COPY(name, shown, ...)                                                                     \
    if (FH_IS_ON()) {                                                                              \
        FH_HERE(shown);                                                                            \
        check_copy(here, to, from, len);                                                           \
    }                                                                                              \
    return fh_real.name(__VA_ARGS__)

FH_WRAP(wchar_t *, wmemcpy, (wchar_t * to, const wchar_t *from, size_t len))
{
    COPY(wmemcpy, wmemcpy, to, from, len);
}

FH_WRAP(wchar_t *, wmemmove, (wchar_t * to, const wchar_t *from, size_t len))
{
    COPY(wmemmove, wmemmove, to, from, len);
}

FH_WRAP(wchar_t *, wmempcpy, (wchar_t * to, const wchar_t *from, size_t len))
{
    COPY(wmempcpy, wmempcpy, to, from, len);
}

FH_WRAP(wchar_t *, __wmemcpy_chk, (wchar_t * to, const wchar_t *from, size_t len, size_t to_len))
{
    COPY(__wmemcpy_chk, wmemcpy, to, from, len, to_len);
}

FH_WRAP(wchar_t *, __wmemmove_chk, (wchar_t * to, const wchar_t *from, size_t len, size_t to_len))
{
    COPY(__wmemmove_chk, wmemmove, to, from, len, to_len);
}

FH_WRAP(wchar_t *, __wmempcpy_chk, (wchar_t * to, const wchar_t *from, size_t len, size_t to_len))
{
    COPY(__wmempcpy_chk, wmempcpy, to, from, len, to_len);
}

FH_WRAP(wchar_t *, wmemset, (wchar_t * to, wchar_t c, size_t len))
{
    if (FH_IS_ON()) {
        FH_HERE(wmemset);
        fh_check_write(here, to, bytes(len));
    }
    return fh_real.wmemset(to, c, len);
}

FH_WRAP(wchar_t *, __wmemset_chk, (wchar_t * to, wchar_t c, size_t len, size_t to_len))
{
    if (FH_IS_ON()) {
        FH_HERE(wmemset);
        fh_check_write(here, to, bytes(len));
    }
    return fh_real.__wmemset_chk(to, c, len, to_len);
}

FH_WRAP(int, wmemcmp, (const wchar_t *a, const wchar_t *b, size_t len))
{
    if (FH_IS_ON()) {
        FH_HERE(wmemcmp);
        fh_check_read(here, a, bytes(len));
        fh_check_read(here, b, bytes(len));
    }
    return fh_real.wmemcmp(a, b, len);
}

FH_WRAP(wchar_t *, wmemchr, (const wchar_t *s, wchar_t c, size_t max))
{
    if (!FH_IS_ON() || max == 0)
        return fh_real.wmemchr(s, c, max);
    FH_HERE(wmemchr);
    size_t room = fh_check_first(here, s);
    wchar_t *found = fh_real.wmemchr(s, c, max);
    if (fh_is_known(room))
        fh_check_rest(here, s, room, bytes(found != NULL ? (size_t)(found - s) + 1 : max));
    return found;
}

/* ---- strings ---------------------------------------------------------------------------------- */

FH_WRAP(size_t, wcslen, (const wchar_t *s))
{
    if (FH_IS_ON()) {
        FH_HERE(wcslen);
        return check_wide(here, s);
    }
    return fh_real.wcslen(s);
}

FH_WRAP(size_t, wcsnlen, (const wchar_t *s, size_t max))
{
    if (FH_IS_ON()) {
        FH_HERE(wcsnlen);
        return check_wide_n(here, s, max);
    }
    return fh_real.wcsnlen(s, max);
}

/* wcscpy and those like it write a string with its end, */
#define COPY_STRING(name, shown, ...)                                                              \
    if (FH_IS_ON()) {                                                                              \
        FH_HERE(shown);                                                                            \
        fh_check_write(here, to, bytes(check_wide(here, from) + 1));                               \
    }                                                                                              \
    return fh_real.name(__VA_ARGS__)

/* wcsncpy a number of characters, */
#define COPY_STRING_N(name, shown, ...)                                                            \
    if (FH_IS_ON()) {                                                                              \
        FH_HERE(shown);                                                                            \
        check_wide_n(here, from, max);                                                             \
        fh_check_write(here, to, bytes(max));                                                      \
    }                                                                                              \
    return fh_real.name(__VA_ARGS__)

/* wcscat behind what is there. */
#define APPEND_STRING(name, shown, max, ...)                                                       \
    if (FH_IS_ON()) {                                                                              \
        FH_HERE(shown);                                                                            \
        size_t len = check_wide(here, to), more = check_wide_n(here, from, max);                   \
        fh_check_write(here, to + len, bytes(more + 1));                                           \
    }                                                                                              \
    return fh_real.name(__VA_ARGS__)

FH_WRAP(wchar_t *, wcscpy, (wchar_t * to, const wchar_t *from))
{
    COPY_STRING(wcscpy, wcscpy, to, from);
}

FH_WRAP(wchar_t *, wcpcpy, (wchar_t * to, const wchar_t *from))
{
    COPY_STRING(wcpcpy, wcpcpy, to, from);
}

FH_WRAP(wchar_t *, __wcscpy_chk, (wchar_t * to, const wchar_t *from, size_t to_len))
{
    COPY_STRING(__wcscpy_chk, wcscpy, to, from, to_len);
}

FH_WRAP(wchar_t *, __wcpcpy_chk, (wchar_t * to, const wchar_t *from, size_t to_len))
{
    COPY_STRING(__wcpcpy_chk, wcpcpy, to, from, to_len);
}

FH_WRAP(wchar_t *, wcsncpy, (wchar_t * to, const wchar_t *from, size_t max))
{
    COPY_STRING_N(wcsncpy, wcsncpy, to, from, max);
}

FH_WRAP(wchar_t *, wcpncpy, (wchar_t * to, const wchar_t *from, size_t max))
{
    COPY_STRING_N(wcpncpy, wcpncpy, to, from, max);
}

FH_WRAP(wchar_t *, __wcsncpy_chk, (wchar_t * to, const wchar_t *from, size_t max, size_t to_len))
{
    COPY_STRING_N(__wcsncpy_chk, wcsncpy, to, from, max, to_len);
}

FH_WRAP(wchar_t *, wcscat, (wchar_t * to, const wchar_t *from))
{
    APPEND_STRING(wcscat, wcscat, SIZE_MAX, to, from);
}

FH_WRAP(wchar_t *, __wcscat_chk, (wchar_t * to, const wchar_t *from, size_t to_len))
{
    APPEND_STRING(__wcscat_chk, wcscat, SIZE_MAX, to, from, to_len);
}

FH_WRAP(wchar_t *, wcsncat, (wchar_t * to, const wchar_t *from, size_t max))
{
    APPEND_STRING(wcsncat, wcsncat, max, to, from, max);
}

FH_WRAP(wchar_t *, __wcsncat_chk, (wchar_t * to, const wchar_t *from, size_t max, size_t to_len))
{
    APPEND_STRING(__wcsncat_chk, wcsncat, max, to, from, max, to_len);
}

FH_WRAP(wchar_t *, wcsdup, (const wchar_t *s))
{
    if (FH_IS_ON()) {
        FH_HERE(wcsdup);
        check_wide(here, s);
    }
    return fh_real.wcsdup(s);
}

/* ---- comparisons and searches ----------------------------------------------------------------- */

/* As check_comparison in string.c. */
static void check_comparison(struct fh_here here, const wchar_t *a, const wchar_t *b, size_t max)
{
    if (max == 0)
        return;
    size_t room_a = fh_room(here, a), room_b = fh_room(here, b), room = fh_min(room_a, room_b);
    size_t whole = room / WIDE;
    if (!fh_is_known(room) || max <= whole || fh_real.wcsncmp(a, b, whole) != 0 ||
        fh_real.wmemchr(a, 0, whole) != NULL)
        return;
    fh_check_failed(here, room == room_a ? a : b, bytes(whole + 1), FH_ACCESS_READ);
}

FH_WRAP(int, wcscmp, (const wchar_t *a, const wchar_t *b))
{
    if (FH_IS_ON()) {
        FH_HERE(wcscmp);
        check_comparison(here, a, b, SIZE_MAX);
    }
    return fh_real.wcscmp(a, b);
}

FH_WRAP(int, wcsncmp, (const wchar_t *a, const wchar_t *b, size_t max))
{
    if (FH_IS_ON()) {
        FH_HERE(wcsncmp);
        check_comparison(here, a, b, max);
    }
    return fh_real.wcsncmp(a, b, max);
}

FH_WRAP(wchar_t *, wcschr, (const wchar_t *s, wchar_t c))
{
    if (!FH_IS_ON())
        return fh_real.wcschr(s, c);
    FH_HERE(wcschr);
    size_t room = fh_check_first(here, s);
    wchar_t *found = fh_real.wcschr(s, c);
    check_found(here, s, room, found);
    return found;
}

FH_WRAP(wchar_t *, wcschrnul, (const wchar_t *s, wchar_t c))
{
    if (!FH_IS_ON())
        return fh_real.wcschrnul(s, c);
    FH_HERE(wcschrnul);
    size_t room = fh_check_first(here, s);
    wchar_t *found = fh_real.wcschrnul(s, c);
    check_found(here, s, room, found);
    return found;
}

FH_WRAP(wchar_t *, wcsrchr, (const wchar_t *s, wchar_t c))
{
    if (FH_IS_ON()) {
        FH_HERE(wcsrchr);
        check_wide(here, s);
    }
    return fh_real.wcsrchr(s, c);
}

FH_WRAP(wchar_t *, wcsstr, (const wchar_t *s, const wchar_t *part))
{
    if (!FH_IS_ON())
        return fh_real.wcsstr(s, part);
    FH_HERE(wcsstr);
    size_t part_len = check_wide(here, part), room = fh_check_first(here, s);
    wchar_t *found = fh_real.wcsstr(s, part);
    check_found(here, s, room, found != NULL && part_len != 0 ? found + part_len - 1 : found);
    return found;
}

FH_WRAP(wchar_t *, wcspbrk, (const wchar_t *s, const wchar_t *set))
{
    if (!FH_IS_ON())
        return fh_real.wcspbrk(s, set);
    FH_HERE(wcspbrk);
    check_wide(here, set);
    size_t room = fh_check_first(here, s);
    wchar_t *found = fh_real.wcspbrk(s, set);
    check_found(here, s, room, found);
    return found;
}

FH_WRAP(size_t, wcsspn, (const wchar_t *s, const wchar_t *set))
{
    if (!FH_IS_ON())
        return fh_real.wcsspn(s, set);
    FH_HERE(wcsspn);
    check_wide(here, set);
    size_t room = fh_check_first(here, s), len = fh_real.wcsspn(s, set);
    fh_check_rest(here, s, room, bytes(len + 1));
    return len;
}

FH_WRAP(size_t, wcscspn, (const wchar_t *s, const wchar_t *set))
{
    if (!FH_IS_ON())
        return fh_real.wcscspn(s, set);
    FH_HERE(wcscspn);
    check_wide(here, set);
    size_t room = fh_check_first(here, s), len = fh_real.wcscspn(s, set);
    fh_check_rest(here, s, room, bytes(len + 1));
    return len;
}

/* ---- numbers ---------------------------------------------------------------------------------- */

#define NUMBER(type, name, parameters, ...)                                                        \
    FH_WRAP(type, name, parameters)                                                                \
    {                                                                                              \
        if (!FH_IS_ON())                                                                           \
            return fh_real.name(s, end, ##__VA_ARGS__);                                            \
        FH_HERE(name);                                                                             \
        wchar_t *behind = NULL;                                                                    \
        size_t room = fh_check_first(here, s);                                                     \
        type value = fh_real.name(s, &behind, ##__VA_ARGS__);                                      \
        check_found(here, s, room, behind);                                                        \
        if (end != NULL)                                                                           \
            *end = behind;                                                                         \
        return value;                                                                              \
    }

NUMBER(long, wcstol, (const wchar_t *s, wchar_t **end, int base), base)
NUMBER(unsigned long, wcstoul, (const wchar_t *s, wchar_t **end, int base), base)
NUMBER(double, wcstod, (const wchar_t *s, wchar_t **end))

/* ---- between the two kinds -------------------------------------------------------------------- */

/* Converters write as much as the text needs, which the result says; without a buffer they count.
 * `unit` is the size of what they write, `max` and `result` are in these. */
static void check_converted(struct fh_here here, const void *to, size_t max, size_t result,
                            size_t unit)
{
    if (to != NULL && result != SIZE_MAX) /* an invalid sequence: what was written is not known */
        fh_check_write(here, to, fh_min(result + 1, max) * unit);
}

FH_WRAP(size_t, mbstowcs, (wchar_t * to, const char *from, size_t max))
{
    if (!FH_IS_ON())
        return fh_real.mbstowcs(to, from, max);
    FH_HERE(mbstowcs);
    fh_check_read(here, from, 1);
    size_t result = fh_real.mbstowcs(to, from, max);
    check_converted(here, to, max, result, WIDE);
    return result;
}

FH_WRAP(size_t, __mbstowcs_chk, (wchar_t * to, const char *from, size_t max, size_t to_len))
{
    if (!FH_IS_ON())
        return fh_real.__mbstowcs_chk(to, from, max, to_len);
    FH_HERE(mbstowcs);
    fh_check_read(here, from, 1);
    size_t result = fh_real.__mbstowcs_chk(to, from, max, to_len);
    check_converted(here, to, max, result, WIDE);
    return result;
}

FH_WRAP(size_t, wcstombs, (char *to, const wchar_t *from, size_t max))
{
    if (!FH_IS_ON())
        return fh_real.wcstombs(to, from, max);
    FH_HERE(wcstombs);
    fh_check_read(here, from, WIDE);
    size_t result = fh_real.wcstombs(to, from, max);
    check_converted(here, to, max, result, 1);
    return result;
}

FH_WRAP(size_t, __wcstombs_chk, (char *to, const wchar_t *from, size_t max, size_t to_size))
{
    if (!FH_IS_ON())
        return fh_real.__wcstombs_chk(to, from, max, to_size);
    FH_HERE(wcstombs);
    fh_check_read(here, from, WIDE);
    size_t result = fh_real.__wcstombs_chk(to, from, max, to_size);
    check_converted(here, to, max, result, 1);
    return result;
}

/* ---- printed text ----------------------------------------------------------------------------- */

/* Unlike snprintf it fails when the text does not fit, so the size given must be right. */
#define PRINT(name, variadic, parameters, ...)                                                     \
    FH_WRAP(int, name, (FH_UNPACK parameters const wchar_t *format, va_list args))                 \
    {                                                                                              \
        if (FH_IS_ON()) {                                                                          \
            FH_HERE(vswprintf);                                                                    \
            fh_check_write(here, to, bytes(max));                                                  \
        }                                                                                          \
        return fh_real.name(__VA_ARGS__);                                                          \
    }                                                                                              \
    FH_WRAP(int, variadic, (FH_UNPACK parameters const wchar_t *format, ...))                      \
    {                                                                                              \
        va_list args;                                                                              \
        va_start(args, format);                                                                    \
        if (FH_IS_ON()) {                                                                          \
            FH_HERE(swprintf);                                                                     \
            fh_check_write(here, to, bytes(max));                                                  \
        }                                                                                          \
        int len = fh_real.name(__VA_ARGS__);                                                       \
        va_end(args);                                                                              \
        return len;                                                                                \
    }
#define FH_UNPACK(...) __VA_ARGS__

PRINT(vswprintf, swprintf, (wchar_t * to, size_t max, ), to, max, format, args)
PRINT(__vswprintf_chk, __swprintf_chk, (wchar_t * to, size_t max, int flag, size_t to_len, ), to,
      max, flag, to_len, format, args)
