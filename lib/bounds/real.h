/*
 * real.h: the C library's own functions that this library stands in front of, by name and type.
 *
 * One list, of which the compiler makes the structure that holds their addresses, and start.c the
 * table by which they are looked up. A function that this C library does not have stays NULL; nobody
 * calls our wrapper of it.
 */
#ifndef FH_BOUNDS_REAL_H
#define FH_BOUNDS_REAL_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Opaque here: wrappers hand them on. */
struct fh_file; /* FILE */
struct iovec;
struct msghdr;
struct sockaddr;
struct tm;
#ifndef __socklen_t_defined
typedef unsigned socklen_t;
#define __socklen_t_defined
#endif

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

#define FH_REAL_NUMBER(X)                                                                          \
    X(long, strtol, (const char *, char **, int))                                                  \
    X(unsigned long, strtoul, (const char *, char **, int))                                        \
    X(long long, strtoll, (const char *, char **, int))                                            \
    X(unsigned long long, strtoull, (const char *, char **, int))                                  \
    X(intmax_t, strtoimax, (const char *, char **, int))                                           \
    X(uintmax_t, strtoumax, (const char *, char **, int))                                          \
    X(long, __isoc23_strtol, (const char *, char **, int))                                         \
    X(unsigned long, __isoc23_strtoul, (const char *, char **, int))                               \
    X(long long, __isoc23_strtoll, (const char *, char **, int))                                   \
    X(unsigned long long, __isoc23_strtoull, (const char *, char **, int))                         \
    X(intmax_t, __isoc23_strtoimax, (const char *, char **, int))                                  \
    X(uintmax_t, __isoc23_strtoumax, (const char *, char **, int))                                 \
    X(double, strtod, (const char *, char **))                                                     \
    X(float, strtof, (const char *, char **))                                                      \
    X(long double, strtold, (const char *, char **))                                               \
    X(int, atoi, (const char *))                                                                   \
    X(long, atol, (const char *))                                                                  \
    X(long long, atoll, (const char *))                                                            \
    X(double, atof, (const char *))

#define FH_REAL_WIDE(X)                                                                            \
    X(size_t, wcslen, (const wchar_t *))                                                           \
    X(size_t, wcsnlen, (const wchar_t *, size_t))                                                  \
    X(wchar_t *, wcscpy, (wchar_t *, const wchar_t *))                                             \
    X(wchar_t *, wcsncpy, (wchar_t *, const wchar_t *, size_t))                                    \
    X(wchar_t *, wcpcpy, (wchar_t *, const wchar_t *))                                             \
    X(wchar_t *, wcpncpy, (wchar_t *, const wchar_t *, size_t))                                    \
    X(wchar_t *, wcscat, (wchar_t *, const wchar_t *))                                             \
    X(wchar_t *, wcsncat, (wchar_t *, const wchar_t *, size_t))                                    \
    X(int, wcscmp, (const wchar_t *, const wchar_t *))                                             \
    X(int, wcsncmp, (const wchar_t *, const wchar_t *, size_t))                                    \
    X(wchar_t *, wcschr, (const wchar_t *, wchar_t))                                               \
    X(wchar_t *, wcschrnul, (const wchar_t *, wchar_t))                                            \
    X(wchar_t *, wcsrchr, (const wchar_t *, wchar_t))                                              \
    X(wchar_t *, wcsstr, (const wchar_t *, const wchar_t *))                                       \
    X(size_t, wcsspn, (const wchar_t *, const wchar_t *))                                          \
    X(size_t, wcscspn, (const wchar_t *, const wchar_t *))                                         \
    X(wchar_t *, wcspbrk, (const wchar_t *, const wchar_t *))                                      \
    X(wchar_t *, wcsdup, (const wchar_t *))                                                        \
    X(wchar_t *, wmemcpy, (wchar_t *, const wchar_t *, size_t))                                    \
    X(wchar_t *, wmemmove, (wchar_t *, const wchar_t *, size_t))                                   \
    X(wchar_t *, wmempcpy, (wchar_t *, const wchar_t *, size_t))                                   \
    X(wchar_t *, wmemset, (wchar_t *, wchar_t, size_t))                                            \
    X(wchar_t *, wmemchr, (const wchar_t *, wchar_t, size_t))                                      \
    X(int, wmemcmp, (const wchar_t *, const wchar_t *, size_t))                                    \
    X(long, wcstol, (const wchar_t *, wchar_t **, int))                                            \
    X(unsigned long, wcstoul, (const wchar_t *, wchar_t **, int))                                  \
    X(double, wcstod, (const wchar_t *, wchar_t **))                                               \
    X(size_t, mbstowcs, (wchar_t *, const char *, size_t))                                         \
    X(size_t, wcstombs, (char *, const wchar_t *, size_t))                                         \
    X(int, vswprintf, (wchar_t *, size_t, const wchar_t *, va_list))                               \
    X(wchar_t *, __wcscpy_chk, (wchar_t *, const wchar_t *, size_t))                               \
    X(wchar_t *, __wcsncpy_chk, (wchar_t *, const wchar_t *, size_t, size_t))                      \
    X(wchar_t *, __wcpcpy_chk, (wchar_t *, const wchar_t *, size_t))                               \
    X(wchar_t *, __wcscat_chk, (wchar_t *, const wchar_t *, size_t))                               \
    X(wchar_t *, __wcsncat_chk, (wchar_t *, const wchar_t *, size_t, size_t))                      \
    X(wchar_t *, __wmemcpy_chk, (wchar_t *, const wchar_t *, size_t, size_t))                      \
    X(wchar_t *, __wmemmove_chk, (wchar_t *, const wchar_t *, size_t, size_t))                     \
    X(wchar_t *, __wmempcpy_chk, (wchar_t *, const wchar_t *, size_t, size_t))                     \
    X(wchar_t *, __wmemset_chk, (wchar_t *, wchar_t, size_t, size_t))                              \
    X(int, __vswprintf_chk, (wchar_t *, size_t, int, size_t, const wchar_t *, va_list))            \
    X(size_t, __mbstowcs_chk, (wchar_t *, const char *, size_t, size_t))                           \
    X(size_t, __wcstombs_chk, (char *, const wchar_t *, size_t, size_t))

#define FH_REAL_FORMAT(X)                                                                          \
    X(int, vprintf, (const char *, va_list))                                                       \
    X(int, vfprintf, (struct fh_file *, const char *, va_list))                                    \
    X(int, vdprintf, (int, const char *, va_list))                                                 \
    X(int, vsprintf, (char *, const char *, va_list))                                              \
    X(int, vsnprintf, (char *, size_t, const char *, va_list))                                     \
    X(int, vasprintf, (char **, const char *, va_list))                                            \
    X(int, __vprintf_chk, (int, const char *, va_list))                                            \
    X(int, __vfprintf_chk, (struct fh_file *, int, const char *, va_list))                         \
    X(int, __vdprintf_chk, (int, int, const char *, va_list))                                      \
    X(int, __vsprintf_chk, (char *, int, size_t, const char *, va_list))                           \
    X(int, __vsnprintf_chk, (char *, size_t, int, size_t, const char *, va_list))                  \
    X(int, __vasprintf_chk, (char **, int, const char *, va_list))

#define FH_REAL_SCAN(X)                                                                            \
    X(int, vscanf, (const char *, va_list))                                                        \
    X(int, vfscanf, (struct fh_file *, const char *, va_list))                                     \
    X(int, vsscanf, (const char *, const char *, va_list))                                         \
    X(int, __isoc99_vscanf, (const char *, va_list))                                               \
    X(int, __isoc99_vfscanf, (struct fh_file *, const char *, va_list))                            \
    X(int, __isoc99_vsscanf, (const char *, const char *, va_list))                                \
    X(int, __isoc23_vscanf, (const char *, va_list))                                               \
    X(int, __isoc23_vfscanf, (struct fh_file *, const char *, va_list))                            \
    X(int, __isoc23_vsscanf, (const char *, const char *, va_list))

#define FH_REAL_STDIO(X)                                                                           \
    X(char *, gets, (char *))                                                                      \
    X(char *, fgets, (char *, int, struct fh_file *))                                              \
    X(char *, fgets_unlocked, (char *, int, struct fh_file *))                                     \
    X(size_t, fread, (void *, size_t, size_t, struct fh_file *))                                   \
    X(size_t, fread_unlocked, (void *, size_t, size_t, struct fh_file *))                          \
    X(size_t, fwrite, (const void *, size_t, size_t, struct fh_file *))                            \
    X(size_t, fwrite_unlocked, (const void *, size_t, size_t, struct fh_file *))                   \
    X(int, fputs, (const char *, struct fh_file *))                                                \
    X(int, fputs_unlocked, (const char *, struct fh_file *))                                       \
    X(int, puts, (const char *))                                                                   \
    X(void, perror, (const char *))                                                                \
    X(ssize_t, getline, (char **, size_t *, struct fh_file *))                                     \
    X(ssize_t, getdelim, (char **, size_t *, int, struct fh_file *))                               \
    X(ssize_t, __getdelim, (char **, size_t *, int, struct fh_file *))                             \
    X(int, setvbuf, (struct fh_file *, char *, int, size_t))                                       \
    X(char *, __gets_chk, (char *, size_t))                                                        \
    X(char *, __fgets_chk, (char *, size_t, int, struct fh_file *))                                \
    X(char *, __fgets_unlocked_chk, (char *, size_t, int, struct fh_file *))                       \
    X(size_t, __fread_chk, (void *, size_t, size_t, size_t, struct fh_file *))                     \
    X(size_t, __fread_unlocked_chk, (void *, size_t, size_t, size_t, struct fh_file *))

#define FH_REAL_SYSTEM(X)                                                                          \
    X(ssize_t, read, (int, void *, size_t))                                                        \
    X(ssize_t, pread, (int, void *, size_t, off_t))                                                \
    X(ssize_t, pread64, (int, void *, size_t, int64_t))                                            \
    X(ssize_t, readv, (int, const struct iovec *, int))                                            \
    X(ssize_t, preadv, (int, const struct iovec *, int, off_t))                                    \
    X(ssize_t, preadv64, (int, const struct iovec *, int, int64_t))                                \
    X(ssize_t, write, (int, const void *, size_t))                                                 \
    X(ssize_t, pwrite, (int, const void *, size_t, off_t))                                         \
    X(ssize_t, pwrite64, (int, const void *, size_t, int64_t))                                     \
    X(ssize_t, writev, (int, const struct iovec *, int))                                           \
    X(ssize_t, pwritev, (int, const struct iovec *, int, off_t))                                   \
    X(ssize_t, pwritev64, (int, const struct iovec *, int, int64_t))                               \
    X(ssize_t, recv, (int, void *, size_t, int))                                                   \
    X(ssize_t, recvfrom, (int, void *, size_t, int, struct sockaddr *, socklen_t *))               \
    X(ssize_t, recvmsg, (int, struct msghdr *, int))                                               \
    X(ssize_t, send, (int, const void *, size_t, int))                                             \
    X(ssize_t, sendto, (int, const void *, size_t, int, const struct sockaddr *, socklen_t))       \
    X(ssize_t, sendmsg, (int, const struct msghdr *, int))                                         \
    X(ssize_t, getrandom, (void *, size_t, unsigned))                                              \
    X(int, getentropy, (void *, size_t))                                                           \
    X(char *, getcwd, (char *, size_t))                                                            \
    X(ssize_t, readlink, (const char *, char *, size_t))                                           \
    X(ssize_t, readlinkat, (int, const char *, char *, size_t))                                    \
    X(int, gethostname, (char *, size_t))                                                          \
    X(int, getdomainname, (char *, size_t))                                                        \
    X(int, ttyname_r, (int, char *, size_t))                                                       \
    X(int, getlogin_r, (char *, size_t))                                                           \
    X(ssize_t, __read_chk, (int, void *, size_t, size_t))                                          \
    X(ssize_t, __pread_chk, (int, void *, size_t, off_t, size_t))                                  \
    X(ssize_t, __pread64_chk, (int, void *, size_t, int64_t, size_t))                              \
    X(ssize_t, __recv_chk, (int, void *, size_t, size_t, int))                                     \
    X(ssize_t, __recvfrom_chk, (int, void *, size_t, size_t, int, struct sockaddr *, socklen_t *)) \
    X(char *, __getcwd_chk, (char *, size_t, size_t))                                              \
    X(ssize_t, __readlink_chk, (const char *, char *, size_t, size_t))                             \
    X(ssize_t, __readlinkat_chk, (int, const char *, char *, size_t, size_t))                      \
    X(int, __gethostname_chk, (char *, size_t, size_t))

typedef int fh_compare(const void *, const void *);
typedef int fh_compare_with(const void *, const void *, void *);

#define FH_REAL_OTHER(X)                                                                           \
    X(void, qsort, (void *, size_t, size_t, fh_compare *))                                         \
    X(void, qsort_r, (void *, size_t, size_t, fh_compare_with *, void *))                          \
    X(void *, bsearch, (const void *, const void *, size_t, size_t, fh_compare *))                 \
    X(char *, realpath, (const char *, char *))                                                    \
    X(char *, __realpath_chk, (const char *, char *, size_t))                                      \
    X(char *, strerror_r, (int, char *, size_t))                                                   \
    X(int, __xpg_strerror_r, (int, char *, size_t))                                                \
    X(const char *, inet_ntop, (int, const void *, char *, socklen_t))                             \
    X(size_t, strftime, (char *, size_t, const char *, const struct tm *))                         \
    X(char *, asctime_r, (const struct tm *, char *))                                              \
    X(char *, ctime_r, (const time_t *, char *))

/* printf and its kind are missing: their wrappers call the functions that take a va_list. */
#define FH_REAL_ALL(X)                                                                             \
    FH_REAL_MEMORY(X)                                                                              \
    FH_REAL_STRING(X)                                                                              \
    FH_REAL_NUMBER(X)                                                                              \
    FH_REAL_WIDE(X)                                                                                \
    FH_REAL_FORMAT(X)                                                                              \
    FH_REAL_SCAN(X)                                                                                \
    FH_REAL_STDIO(X)                                                                               \
    FH_REAL_SYSTEM(X)                                                                              \
    FH_REAL_OTHER(X)

#define FH_REAL_MEMBER(type, name, parameters) type(*name) parameters;
struct fh_real {
    FH_REAL_ALL(FH_REAL_MEMBER)
};
#undef FH_REAL_MEMBER

#endif
