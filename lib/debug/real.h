/*
 * real.h: the C library's own functions that this library stands in front of, by name and type.
 *
 * One list, of which the compiler makes the structure that holds their addresses, and start.c the
 * table by which they are looked up. A function that this C library does not have stays NULL; nobody
 * calls our wrapper of it.
 */
#ifndef FH_DEBUG_REAL_H
#define FH_DEBUG_REAL_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Opaque here: wrappers hand them on. */
struct fh_file;   /* FILE */
struct fh_locale; /* locale_t points to it */
struct iovec;
struct msghdr;
struct tm;

#define FH_REAL_MEMORY(X)                                                                          \
    X(void *, memcpy, (void *, const void *, size_t))                                              \
    X(void *, memmove, (void *, const void *, size_t))                                             \
    X(void *, mempcpy, (void *, const void *, size_t))                                             \
    X(void *, __mempcpy, (void *, const void *, size_t))                                           \
    X(void *, memset, (void *, int, size_t))                                                       \
    X(void *, memchr, (const void *, int, size_t))                                                 \
    X(void *, memrchr, (const void *, int, size_t))                                                \
    X(void *, rawmemchr, (const void *, int))                                                      \
    X(void *, __rawmemchr, (const void *, int))                                                    \
    X(int, memcmp, (const void *, const void *, size_t))                                           \
    X(int, bcmp, (const void *, const void *, size_t))                                             \
    X(void, bcopy, (const void *, void *, size_t))                                                 \
    X(void, bzero, (void *, size_t))                                                               \
    X(void, explicit_bzero, (void *, size_t))                                                      \
    X(void *, memccpy, (void *, const void *, int, size_t))                                        \
    X(void *, memmem, (const void *, size_t, const void *, size_t))                                \
    X(void, swab, (const void *, void *, ssize_t))                                                 \
    X(void *, __memcpy_chk, (void *, const void *, size_t, size_t))                                \
    X(void *, __memmove_chk, (void *, const void *, size_t, size_t))                               \
    X(void *, __mempcpy_chk, (void *, const void *, size_t, size_t))                               \
    X(void *, __memset_chk, (void *, int, size_t, size_t))                                         \
    X(void, __explicit_bzero_chk, (void *, size_t, size_t))

#define FH_REAL_STRING(X)                                                                          \
    X(size_t, strlen, (const char *))                                                              \
    X(size_t, strnlen, (const char *, size_t))                                                     \
    X(char *, strcpy, (char *, const char *))                                                      \
    X(char *, strncpy, (char *, const char *, size_t))                                             \
    X(char *, stpcpy, (char *, const char *))                                                      \
    X(char *, __stpcpy, (char *, const char *))                                                    \
    X(char *, stpncpy, (char *, const char *, size_t))                                             \
    X(char *, strcat, (char *, const char *))                                                      \
    X(char *, strncat, (char *, const char *, size_t))                                             \
    X(int, strcmp, (const char *, const char *))                                                   \
    X(int, strncmp, (const char *, const char *, size_t))                                          \
    X(int, strcasecmp, (const char *, const char *))                                               \
    X(int, strncasecmp, (const char *, const char *, size_t))                                      \
    X(char *, strchr, (const char *, int))                                                         \
    X(char *, index, (const char *, int))                                                          \
    X(char *, strrchr, (const char *, int))                                                        \
    X(char *, rindex, (const char *, int))                                                         \
    X(char *, strchrnul, (const char *, int))                                                      \
    X(char *, strstr, (const char *, const char *))                                                \
    X(char *, strcasestr, (const char *, const char *))                                            \
    X(size_t, strspn, (const char *, const char *))                                                \
    X(size_t, strcspn, (const char *, const char *))                                               \
    X(char *, strpbrk, (const char *, const char *))                                               \
    X(char *, strtok, (char *, const char *))                                                      \
    X(char *, strtok_r, (char *, const char *, char **))                                           \
    X(char *, __strtok_r, (char *, const char *, char **))                                         \
    X(char *, strsep, (char **, const char *))                                                     \
    X(char *, strdup, (const char *))                                                              \
    X(char *, __strdup, (const char *))                                                            \
    X(char *, strndup, (const char *, size_t))                                                     \
    X(char *, __strndup, (const char *, size_t))                                                   \
    X(int, strcoll, (const char *, const char *))                                                  \
    X(size_t, strxfrm, (char *, const char *, size_t))                                             \
    X(char *, __strcpy_chk, (char *, const char *, size_t))                                        \
    X(char *, __strncpy_chk, (char *, const char *, size_t, size_t))                               \
    X(char *, __stpcpy_chk, (char *, const char *, size_t))                                        \
    X(char *, __stpncpy_chk, (char *, const char *, size_t, size_t))                               \
    X(char *, __strcat_chk, (char *, const char *, size_t))                                        \
    X(char *, __strncat_chk, (char *, const char *, size_t, size_t))

#define FH_REAL_ALL(X)                                                                             \
    FH_REAL_MEMORY(X)                                                                              \
    FH_REAL_STRING(X)

#define FH_REAL_MEMBER(type, name, parameters) type(*name) parameters;
struct fh_real {
    FH_REAL_ALL(FH_REAL_MEMBER)
};
#undef FH_REAL_MEMBER

#endif
