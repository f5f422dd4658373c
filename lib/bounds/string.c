/*
 * strcpy and its kind: ranges that end where the string does.
 *
 * What counts as read is what must be read for the result: a comparison ends at the first
 * difference, a search where it finds; a program whose string is not terminated behind that point
 * is not accused. What is copied, measured or printed must be a string to its end.
 *
 * Copies are made by memmove once the lengths are known: a string is walked no more often than by the C
 * library's own functions.
 */
#include "bounds/bounds.h"
#include "bounds/early.h"

/* ---- lengths ---------------------------------------------------------------------------------- */

FH_WRAP(size_t, strlen, (const char *s))
{
    if (FH_IS_ON_EARLY()) {
        FH_HERE(strlen);
        return fh_check_string(here, s);
    }
    return fh_real.strlen != NULL ? fh_real.strlen(s) : fh_early_strnlen(s, SIZE_MAX);
}

FH_WRAP(size_t, strnlen, (const char *s, size_t max))
{
    if (FH_IS_ON_EARLY()) {
        FH_HERE(strnlen);
        return fh_check_string_n(here, s, max);
    }
    return fh_real.strnlen != NULL ? fh_real.strnlen(s, max) : fh_early_strnlen(s, max);
}

/* ---- copies ----------------------------------------------------------------------------------- */

/* Copies the string with its end; returns where that lies in the copy. */
FH_INLINE char *copy(struct fh_here here, char *to, const char *from)
{
    size_t len = fh_check_string(here, from);
    fh_check_write(here, to, len + 1);
    fh_real.memmove(to, from, len + 1);
    return to + len;
}

/* What strncpy reads and writes. */
FH_INLINE void check_copy_n(struct fh_here here, char *to, const char *from, size_t size)
{
    fh_check_string_n(here, from, size);
    fh_check_write(here, to, size);
}

FH_WRAP(char *, strcpy, (char *to, const char *from))
{
    if (FH_IS_ON_EARLY()) {
        FH_HERE(strcpy);
        copy(here, to, from);
        return to;
    }
    return fh_real.strcpy != NULL
               ? fh_real.strcpy(to, from)
               : fh_early_memmove(to, from, fh_early_strnlen(from, SIZE_MAX) + 1);
}

FH_WRAP(char *, stpcpy, (char *to, const char *from))
{
    if (FH_IS_ON()) {
        FH_HERE(stpcpy);
        return copy(here, to, from);
    }
    return fh_real.stpcpy(to, from);
}

FH_WRAP(char *, __stpcpy, (char *to, const char *from))
{
    if (FH_IS_ON()) {
        FH_HERE(stpcpy);
        return copy(here, to, from);
    }
    return fh_real.__stpcpy(to, from);
}

FH_WRAP(char *, strncpy, (char *to, const char *from, size_t size))
{
    if (FH_IS_ON_EARLY()) {
        FH_HERE(strncpy);
        check_copy_n(here, to, from, size);
    } else if (fh_real.strncpy == NULL) {
        size_t len = fh_early_strnlen(from, size);
        fh_early_memset(to + len, 0, size - len);
        return fh_early_memmove(to, from, len);
    }
    return fh_real.strncpy(to, from, size);
}

FH_WRAP(char *, stpncpy, (char *to, const char *from, size_t size))
{
    if (FH_IS_ON()) {
        FH_HERE(stpncpy);
        check_copy_n(here, to, from, size);
    }
    return fh_real.stpncpy(to, from, size);
}

FH_INLINE void check_append(struct fh_here here, char *to, const char *from, size_t max)
{
    size_t len = fh_check_string(here, to);
    size_t more = fh_check_string_n(here, from, max);
    fh_check_write(here, to + len, more + 1);
}

FH_WRAP(char *, strcat, (char *to, const char *from))
{
    if (FH_IS_ON()) {
        FH_HERE(strcat);
        copy(here, to + fh_check_string(here, to), from);
        return to;
    }
    return fh_real.strcat(to, from);
}

FH_WRAP(char *, strncat, (char *to, const char *from, size_t max))
{
    if (FH_IS_ON()) {
        FH_HERE(strncat);
        check_append(here, to, from, max);
    }
    return fh_real.strncat(to, from, max);
}

FH_WRAP(char *, strdup, (const char *s))
{
    if (FH_IS_ON()) {
        FH_HERE(strdup);
        fh_check_string(here, s);
    }
    return fh_real.strdup(s);
}

FH_WRAP(char *, __strdup, (const char *s))
{
    if (FH_IS_ON()) {
        FH_HERE(strdup);
        fh_check_string(here, s);
    }
    return fh_real.__strdup(s);
}

FH_WRAP(char *, strndup, (const char *s, size_t max))
{
    if (FH_IS_ON()) {
        FH_HERE(strndup);
        fh_check_string_n(here, s, max);
    }
    return fh_real.strndup(s, max);
}

FH_WRAP(char *, __strndup, (const char *s, size_t max))
{
    if (FH_IS_ON()) {
        FH_HERE(strndup);
        fh_check_string_n(here, s, max);
    }
    return fh_real.__strndup(s, max);
}

FH_WRAP(size_t, strxfrm, (char *to, const char *from, size_t size))
{
    if (!FH_IS_ON())
        return fh_real.strxfrm(to, from, size);
    FH_HERE(strxfrm);
    fh_check_string(here, from);
    /* It writes only as much as it has, so its size may be a guess. */
    size_t room = size == 0 ? 0 : fh_room(here, to);
    size_t len = fh_real.strxfrm(to, from, fh_min(size, room));
    if (room >= size || len < room)
        return len;
    fh_check_failed(here, to, fh_min(size, len + 1), FH_ACCESS_WRITE);
    return fh_real.strxfrm(to, from, size);
}

/* ---- copies that the compiler knows the size of ----------------------------------------------- */

FH_WRAP(char *, __strcpy_chk, (char *to, const char *from, size_t to_size))
{
    if (FH_IS_ON()) {
        FH_HERE(strcpy);
        fh_check_write(here, to, fh_check_string(here, from) + 1);
    }
    return fh_real.__strcpy_chk(to, from, to_size);
}

FH_WRAP(char *, __stpcpy_chk, (char *to, const char *from, size_t to_size))
{
    if (FH_IS_ON()) {
        FH_HERE(stpcpy);
        fh_check_write(here, to, fh_check_string(here, from) + 1);
    }
    return fh_real.__stpcpy_chk(to, from, to_size);
}

FH_WRAP(char *, __strncpy_chk, (char *to, const char *from, size_t size, size_t to_size))
{
    if (FH_IS_ON()) {
        FH_HERE(strncpy);
        check_copy_n(here, to, from, size);
    }
    return fh_real.__strncpy_chk(to, from, size, to_size);
}

FH_WRAP(char *, __stpncpy_chk, (char *to, const char *from, size_t size, size_t to_size))
{
    if (FH_IS_ON()) {
        FH_HERE(stpncpy);
        check_copy_n(here, to, from, size);
    }
    return fh_real.__stpncpy_chk(to, from, size, to_size);
}

FH_WRAP(char *, __strcat_chk, (char *to, const char *from, size_t to_size))
{
    if (FH_IS_ON()) {
        FH_HERE(strcat);
        check_append(here, to, from, SIZE_MAX);
    }
    return fh_real.__strcat_chk(to, from, to_size);
}

FH_WRAP(char *, __strncat_chk, (char *to, const char *from, size_t max, size_t to_size))
{
    if (FH_IS_ON()) {
        FH_HERE(strncat);
        check_append(here, to, from, max);
    }
    return fh_real.__strncat_chk(to, from, max, to_size);
}

/* ---- comparisons ------------------------------------------------------------------------------ */

typedef int compare_n(const char *a, const char *b, size_t max);

/* Within the smaller room there must be a difference or the end. */
static void check_comparison(struct fh_here here, const char *a, const char *b, size_t max,
                             compare_n *compare)
{
    if (max == 0)
        return;
    size_t room_a = fh_room(here, a), room_b = fh_room(here, b), room = fh_min(room_a, room_b);
    if (!fh_is_known(room) || max <= room || compare(a, b, room) != 0 ||
        fh_real.memchr(a, 0, room) != NULL)
        return;
    fh_check_failed(here, room == room_a ? a : b, room + 1, FH_ACCESS_READ);
}

FH_WRAP(int, strcmp, (const char *a, const char *b))
{
    if (FH_IS_ON_EARLY()) {
        FH_HERE(strcmp);
        check_comparison(here, a, b, SIZE_MAX, fh_real.strncmp);
    }
    return fh_real.strcmp != NULL ? fh_real.strcmp(a, b) : fh_early_strncmp(a, b, SIZE_MAX);
}

FH_WRAP(int, strncmp, (const char *a, const char *b, size_t max))
{
    if (FH_IS_ON_EARLY()) {
        FH_HERE(strncmp);
        check_comparison(here, a, b, max, fh_real.strncmp);
    }
    return fh_real.strncmp != NULL ? fh_real.strncmp(a, b, max) : fh_early_strncmp(a, b, max);
}

FH_WRAP(int, strcasecmp, (const char *a, const char *b))
{
    if (FH_IS_ON()) {
        FH_HERE(strcasecmp);
        check_comparison(here, a, b, SIZE_MAX, fh_real.strncasecmp);
    }
    return fh_real.strcasecmp(a, b);
}

FH_WRAP(int, strncasecmp, (const char *a, const char *b, size_t max))
{
    if (FH_IS_ON()) {
        FH_HERE(strncasecmp);
        check_comparison(here, a, b, max, fh_real.strncasecmp);
    }
    return fh_real.strncasecmp(a, b, max);
}

FH_WRAP(int, strcoll, (const char *a, const char *b))
{
    if (FH_IS_ON()) {
        FH_HERE(strcoll);
        fh_check_string(here, a);
        fh_check_string(here, b);
    }
    return fh_real.strcoll(a, b);
}

/* ---- searches --------------------------------------------------------------------------------- */

static void check_search(struct fh_here here, const char *s, int c)
{
    size_t room = fh_check_first(here, s);
    if (fh_is_known(room))
        fh_check_rest(here, s, room, (size_t)(fh_real.strchrnul(s, c) - s) + 1);
}

FH_WRAP(char *, strchr, (const char *s, int c))
{
    if (FH_IS_ON_EARLY()) {
        FH_HERE(strchr);
        check_search(here, s, c);
    }
    return fh_real.strchr != NULL ? fh_real.strchr(s, c) : fh_early_strchr(s, c);
}

FH_WRAP(char *, index, (const char *s, int c))
{
    if (FH_IS_ON_EARLY()) {
        FH_HERE(index);
        check_search(here, s, c);
    }
    return fh_real.strchr != NULL ? fh_real.strchr(s, c) : fh_early_strchr(s, c);
}

FH_WRAP(char *, strchrnul, (const char *s, int c))
{
    if (FH_IS_ON()) {
        FH_HERE(strchrnul);
        check_search(here, s, c);
    }
    return fh_real.strchrnul(s, c);
}

FH_WRAP(char *, strrchr, (const char *s, int c))
{
    if (FH_IS_ON_EARLY()) {
        FH_HERE(strrchr);
        fh_check_string(here, s);
    }
    return fh_real.strrchr != NULL ? fh_real.strrchr(s, c) : fh_early_strrchr(s, c);
}

FH_WRAP(char *, rindex, (const char *s, int c))
{
    if (FH_IS_ON_EARLY()) {
        FH_HERE(rindex);
        fh_check_string(here, s);
    }
    return fh_real.strrchr != NULL ? fh_real.strrchr(s, c) : fh_early_strrchr(s, c);
}

/* A search for a part reads up to its end, or all. */
static void check_found(struct fh_here here, const char *s, size_t room, const char *found,
                        size_t part_len)
{
    if (fh_is_known(room))
        fh_check_rest(here, s, room,
                      found != NULL ? (size_t)(found - s) + part_len
                                    : fh_real.strnlen(s, room) + 1);
}

FH_WRAP(char *, strstr, (const char *s, const char *part))
{
    if (!FH_IS_ON_EARLY())
        return fh_real.strstr != NULL ? fh_real.strstr(s, part) : fh_early_strstr(s, part);
    FH_HERE(strstr);
    size_t part_len = fh_check_string(here, part), room = fh_check_first(here, s);
    char *found = fh_real.strstr(s, part);
    check_found(here, s, room, found, part_len);
    return found;
}

FH_WRAP(char *, strcasestr, (const char *s, const char *part))
{
    if (!FH_IS_ON())
        return fh_real.strcasestr(s, part);
    FH_HERE(strcasestr);
    size_t part_len = fh_check_string(here, part), room = fh_check_first(here, s);
    char *found = fh_real.strcasestr(s, part);
    check_found(here, s, room, found, part_len);
    return found;
}

FH_WRAP(size_t, strspn, (const char *s, const char *set))
{
    if (!FH_IS_ON())
        return fh_real.strspn(s, set);
    FH_HERE(strspn);
    fh_check_string(here, set);
    size_t room = fh_check_first(here, s), len = fh_real.strspn(s, set);
    fh_check_rest(here, s, room, len + 1);
    return len;
}

FH_WRAP(size_t, strcspn, (const char *s, const char *set))
{
    if (!FH_IS_ON())
        return fh_real.strcspn(s, set);
    FH_HERE(strcspn);
    fh_check_string(here, set);
    size_t room = fh_check_first(here, s), len = fh_real.strcspn(s, set);
    fh_check_rest(here, s, room, len + 1);
    return len;
}

FH_WRAP(char *, strpbrk, (const char *s, const char *set))
{
    if (!FH_IS_ON())
        return fh_real.strpbrk(s, set);
    FH_HERE(strpbrk);
    fh_check_string(here, set);
    size_t room = fh_check_first(here, s);
    char *found = fh_real.strpbrk(s, set);
    check_found(here, s, room, found, 1);
    return found;
}

/* ---- tokens ----------------------------------------------------------------------------------- */

/* The text is looked at when it is given, not again for each of its tokens. */
FH_INLINE void check_tokens(struct fh_here here, const char *s, const char *set)
{
    if (s != NULL)
        fh_check_string(here, s);
    fh_check_string(here, set);
}

FH_WRAP(char *, strtok, (char *s, const char *set))
{
    if (FH_IS_ON()) {
        FH_HERE(strtok);
        check_tokens(here, s, set);
    }
    return fh_real.strtok(s, set);
}

FH_WRAP(char *, strtok_r, (char *s, const char *set, char **rest))
{
    if (FH_IS_ON()) {
        FH_HERE(strtok_r);
        check_tokens(here, s, set);
        fh_check_write(here, rest, sizeof(*rest));
    }
    return fh_real.strtok_r(s, set, rest);
}

FH_WRAP(char *, __strtok_r, (char *s, const char *set, char **rest))
{
    if (FH_IS_ON()) {
        FH_HERE(strtok_r);
        check_tokens(here, s, set);
        fh_check_write(here, rest, sizeof(*rest));
    }
    return fh_real.__strtok_r(s, set, rest);
}

FH_WRAP(char *, strsep, (char **rest, const char *set))
{
    if (!FH_IS_ON())
        return fh_real.strsep(rest, set);
    FH_HERE(strsep);
    fh_check_write(here, rest, sizeof(*rest));
    fh_check_string(here, set);
    char *s = *rest;
    if (s == NULL)
        return fh_real.strsep(rest, set);
    size_t room = fh_check_first(here, s);
    char *token = fh_real.strsep(rest, set);
    if (fh_is_known(room))
        fh_check_rest(here, s, room,
                      *rest != NULL ? (size_t)(*rest - s) : fh_real.strnlen(s, room) + 1);
    return token;
}
