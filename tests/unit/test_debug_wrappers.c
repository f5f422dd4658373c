/*
 * Each wrapper of lib/bounds, twice: given an object that is just large enough it says nothing; given
 * one that is a byte (or a wide character) less it reports an overflow of the right kind of access.
 *
 * A case is a row of CASES: a name, the access, and a call that needs all SIZE bytes of `o`, which
 * holds a string of SIZE − 1 characters. Memory goes on behind the object, so that a call that was reported can
 * be made. The test stands in place of the guard and of start.c.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "bounds/bounds.h"

#include <setjmp.h>
#include <stdarg.h>

#include <arpa/inet.h>
#include <cmocka.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>
#include <wchar.h>

#define DECLARE(type, name, parameters) type fh_wrapped_##name parameters;
FH_REAL_ALL(DECLARE)
int fh_wrapped_printf(const char *format, ...);
int fh_wrapped_fprintf(FILE *file, const char *format, ...);
int fh_wrapped_dprintf(int fd, const char *format, ...);
int fh_wrapped_asprintf(char **to, const char *format, ...);
int fh_wrapped_sprintf(char *to, const char *format, ...);
int fh_wrapped_snprintf(char *to, size_t max, const char *format, ...);
int fh_wrapped___sprintf_chk(char *to, int flag, size_t to_size, const char *format, ...);
int fh_wrapped___snprintf_chk(char *to, size_t max, int flag, size_t to_size, const char *format,
                              ...);
int fh_wrapped___printf_chk(int flag, const char *format, ...);
int fh_wrapped_sscanf(const char *s, const char *format, ...);
int fh_wrapped___isoc99_sscanf(const char *s, const char *format, ...);
int fh_wrapped_fscanf(FILE *file, const char *format, ...);
int fh_wrapped_swprintf(wchar_t *to, size_t max, const wchar_t *format, ...);

/* ---- in place of start.c ---------------------------------------------------------------------- */

_Atomic int fh_debug_state = FH_DEBUG_ON;
struct fh_real fh_real;

bool fh_debug_start(void)
{
    return fh_debug_state == FH_DEBUG_ON;
}

bool fh_debug_is_own(uintptr_t pc)
{
    (void)pc;
    return false;
}

static void find_real_functions(void)
{
#define FIND(type, name, parameters) *(void **)&fh_real.name = dlsym(RTLD_DEFAULT, #name);
    FH_REAL_ALL(FIND)
}

/* ---- in place of the guard -------------------------------------------------------------------- */

static struct fh_extent block; /* the one there is */

static struct {
    int count;
    const char *kind;
    struct fh_error first;
} told;

bool fh_test_extent(const void *address, struct fh_extent *out)
{
    /* As the guard does: what lies just behind a block is asked about as part of it. */
    if ((uintptr_t)address - block.low > block.high - block.low + 8)
        return false;
    *out = block;
    return true;
}

bool fh_test_find(const void *address, struct fh_guard_block *out)
{
    (void)address;
    (void)out;
    return false;
}

void fh_test_error(const struct fh_error *error)
{
    if (told.count++ == 0) {
        told.first = *error;
        told.kind = error->kind;
    }
}

/* ---- cases ------------------------------------------------------------------------------------ */

enum { SIZE = 64, WIDE_LEN = SIZE / sizeof(wchar_t), MEMORY = 4096 };

static char *memory, *other;
static FILE *zeros, *sink, *text_file;
static int zero_fd, null_fd, sockets[2];

static int compare_chars(const void *a, const void *b)
{
    return *(const char *)a - *(const char *)b;
}

static char *fill_text(size_t len)
{
    memset(other, 'y', len);
    other[len] = 0;
    return other;
}

static wchar_t *fill_wide(size_t len)
{
    wchar_t *wide = (wchar_t *)other;
    wmemset(wide, L'y', len);
    wide[len] = 0;
    return wide;
}

static int print_v(int (*print)(char *to, size_t max, const char *format, va_list args), char *to,
                   size_t max, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int len = print(to, max, format, args);
    va_end(args);
    return len;
}

static void rewind_text(void)
{
    rewind(text_file);
}

#define W(name) fh_wrapped_##name
#define READ    FH_ACCESS_READ
#define WRITE   FH_ACCESS_WRITE
#define F(file) ((struct fh_file *)(file))
#define WO      ((wchar_t *)(void *)o)

#define CASES(X)                                                                                   \
    X(memcpy_to, WRITE, W(memcpy)(o, other, SIZE))                                                 \
    X(memcpy_from, READ, W(memcpy)(other, o, SIZE))                                                \
    X(memmove_to, WRITE, W(memmove)(o, other, SIZE))                                               \
    X(memmove_from, READ, W(memmove)(other, o, SIZE))                                              \
    X(mempcpy_to, WRITE, W(mempcpy)(o, other, SIZE))                                               \
    X(mempcpy_from, READ, W(__mempcpy)(other, o, SIZE))                                            \
    X(memset_to, WRITE, W(memset)(o, 1, SIZE))                                                     \
    X(bzero_to, WRITE, W(bzero)(o, SIZE))                                                          \
    X(explicit_bzero_to, WRITE, W(explicit_bzero)(o, SIZE))                                        \
    X(bcopy_to, WRITE, W(bcopy)(other, o, SIZE))                                                   \
    X(bcopy_from, READ, W(bcopy)(o, other, SIZE))                                                  \
    X(memcmp_left, READ, W(memcmp)(o, other, SIZE))                                                \
    X(memcmp_right, READ, W(memcmp)(other, o, SIZE))                                               \
    X(bcmp_left, READ, W(bcmp)(o, other, SIZE))                                                    \
    X(memchr_all, READ, W(memchr)(o, 'z', SIZE))                                                   \
    X(memchr_last, READ, W(memchr)(o, 0, MEMORY))                                                  \
    X(memrchr_all, READ, W(memrchr)(o, 'z', SIZE))                                                 \
    X(rawmemchr_last, READ, W(rawmemchr)(o, 0))                                                    \
    X(memccpy_to, WRITE, W(memccpy)(o, fill_text(SIZE - 1), 0, MEMORY))                            \
    X(memccpy_from, READ, W(memccpy)(other, o, 0, MEMORY))                                         \
    X(memmem_in, READ, W(memmem)(o, SIZE, "z", 1))                                                 \
    X(memmem_part, READ, W(memmem)(other, MEMORY, o, SIZE))                                        \
    X(swab_to, WRITE, W(swab)(other, o, SIZE))                                                     \
    X(swab_from, READ, W(swab)(o, other, SIZE))                                                    \
    X(memcpy_chk_to, WRITE, W(__memcpy_chk)(o, other, SIZE, SIZE_MAX))                             \
    X(memmove_chk_from, READ, W(__memmove_chk)(other, o, SIZE, SIZE_MAX))                          \
    X(mempcpy_chk_to, WRITE, W(__mempcpy_chk)(o, other, SIZE, SIZE_MAX))                           \
    X(memset_chk_to, WRITE, W(__memset_chk)(o, 1, SIZE, SIZE_MAX))                                 \
    X(strlen_of, READ, W(strlen)(o))                                                               \
    X(strnlen_of, READ, W(strnlen)(o, MEMORY))                                                     \
    X(strcpy_to, WRITE, W(strcpy)(o, fill_text(SIZE - 1)))                                         \
    X(strcpy_from, READ, W(strcpy)(other, o))                                                      \
    X(stpcpy_to, WRITE, W(stpcpy)(o, fill_text(SIZE - 1)))                                         \
    X(strncpy_to, WRITE, W(strncpy)(o, "short", SIZE))                                             \
    X(strncpy_from, READ, W(strncpy)(other, o, MEMORY))                                            \
    X(stpncpy_to, WRITE, W(stpncpy)(o, "short", SIZE))                                             \
    X(strcat_to, WRITE, (o[10] = 0, W(strcat)(o, fill_text(SIZE - 11))))                           \
    X(strcat_from, READ, (other[0] = 0, W(strcat)(other, o)))                                      \
    X(strncat_to, WRITE, (o[10] = 0, W(strncat)(o, fill_text(MEMORY / 2), SIZE - 11)))             \
    X(strncat_from, READ, (other[0] = 0, W(strncat)(other, o, MEMORY)))                            \
    X(strdup_of, READ, free(W(strdup)(o)))                                                         \
    X(strndup_of, READ, free(W(strndup)(o, MEMORY)))                                               \
    X(strxfrm_to, WRITE, W(strxfrm)(o, fill_text(SIZE - 1), SIZE))                                 \
    X(strcpy_chk_to, WRITE, W(__strcpy_chk)(o, fill_text(SIZE - 1), SIZE_MAX))                     \
    X(stpcpy_chk_to, WRITE, W(__stpcpy_chk)(o, fill_text(SIZE - 1), SIZE_MAX))                     \
    X(strncpy_chk_to, WRITE, W(__strncpy_chk)(o, "short", SIZE, SIZE_MAX))                         \
    X(stpncpy_chk_to, WRITE, W(__stpncpy_chk)(o, "short", SIZE, SIZE_MAX))                         \
    X(strcat_chk_to, WRITE, (o[10] = 0, W(__strcat_chk)(o, fill_text(SIZE - 11), SIZE_MAX)))       \
    X(strncat_chk_to, WRITE,                                                                       \
      (o[10] = 0, W(__strncat_chk)(o, fill_text(MEMORY / 2), SIZE - 11, SIZE_MAX)))                \
    X(strcmp_left, READ, W(strcmp)(o, memcpy(other, o, SIZE)))                                     \
    X(strcmp_right, READ, W(strcmp)(memcpy(other, o, SIZE), o))                                    \
    X(strncmp_left, READ, W(strncmp)(o, memcpy(other, o, SIZE), MEMORY))                           \
    X(strcasecmp_left, READ, W(strcasecmp)(o, memcpy(other, o, SIZE)))                             \
    X(strncasecmp_left, READ, W(strncasecmp)(o, memcpy(other, o, SIZE), MEMORY))                   \
    X(strcoll_left, READ, W(strcoll)(o, "x"))                                                      \
    X(strchr_missing, READ, W(strchr)(o, 'z'))                                                     \
    X(index_missing, READ, W(index)(o, 'z'))                                                       \
    X(strchrnul_missing, READ, W(strchrnul)(o, 'z'))                                               \
    X(strrchr_of, READ, W(strrchr)(o, 'z'))                                                        \
    X(rindex_of, READ, W(rindex)(o, 'z'))                                                          \
    X(strstr_missing, READ, W(strstr)(o, "z"))                                                     \
    X(strstr_part, READ, W(strstr)("abc", o))                                                      \
    X(strcasestr_missing, READ, W(strcasestr)(o, "z"))                                             \
    X(strspn_all, READ, W(strspn)(o, "x"))                                                         \
    X(strspn_set, READ, W(strspn)("abc", o))                                                       \
    X(strcspn_all, READ, W(strcspn)(o, "z"))                                                       \
    X(strpbrk_missing, READ, W(strpbrk)(o, "z"))                                                   \
    X(strtok_of, READ, W(strtok)(o, " "))                                                          \
    X(strtok_r_of, READ, W(strtok_r)(o, " ", (char **)other))                                      \
    X(strsep_of, READ, (*(char **)other = o, W(strsep)((char **)other, " ")))                      \
    X(strtol_of, READ, W(strtol)(memset(o, '0', SIZE - 1), NULL, 10))                              \
    X(strtoul_of, READ, W(strtoul)(memset(o, '0', SIZE - 1), NULL, 10))                            \
    X(strtoll_of, READ, W(strtoll)(memset(o, '0', SIZE - 1), NULL, 10))                            \
    X(strtoull_of, READ, W(strtoull)(memset(o, '0', SIZE - 1), NULL, 10))                          \
    X(strtoimax_of, READ, W(strtoimax)(memset(o, '0', SIZE - 1), NULL, 10))                        \
    X(strtoumax_of, READ, W(strtoumax)(memset(o, '0', SIZE - 1), NULL, 10))                        \
    X(strtod_of, READ, W(strtod)(memset(o, '0', SIZE - 1), NULL))                                  \
    X(strtof_of, READ, W(strtof)(memset(o, '0', SIZE - 1), NULL))                                  \
    X(strtold_of, READ, W(strtold)(memset(o, '0', SIZE - 1), NULL))                                \
    X(atoi_of, READ, W(atoi)(memset(o, '0', SIZE - 1)))                                            \
    X(atol_of, READ, W(atol)(memset(o, '0', SIZE - 1)))                                            \
    X(atoll_of, READ, W(atoll)(memset(o, '0', SIZE - 1)))                                          \
    X(atof_of, READ, W(atof)(memset(o, '0', SIZE - 1)))                                            \
    X(sprintf_to, WRITE, W(sprintf)(o, "%s", fill_text(SIZE - 1)))                                 \
    X(snprintf_to, WRITE, W(snprintf)(o, MEMORY, "%s", fill_text(SIZE - 1)))                       \
    X(snprintf_cut, WRITE, W(snprintf)(o, SIZE, "%s", fill_text(SIZE * 2)))                        \
    X(vsnprintf_to, WRITE, print_v(W(vsnprintf), o, MEMORY, "%s", fill_text(SIZE - 1)))            \
    X(sprintf_chk_to, WRITE, W(__sprintf_chk)(o, 1, SIZE_MAX, "%s", fill_text(SIZE - 1)))          \
    X(snprintf_chk_to, WRITE,                                                                      \
      W(__snprintf_chk)(o, MEMORY, 1, SIZE_MAX, "%s", fill_text(SIZE - 1)))                        \
    X(fprintf_string, READ, W(fprintf)(sink, "%d %5.1f %s", 1, 2.0, o))                            \
    X(fprintf_format, READ, W(fprintf)(sink, o))                                                   \
    X(fprintf_precision, READ, W(fprintf)(sink, "%Lf %-*.*s", 1.0L, 2, SIZE, o))                   \
    X(dprintf_string, READ, W(dprintf)(null_fd, "%lld %zu %s", 1LL, sizeof(int), o))               \
    X(snprintf_string, READ, W(snprintf)(other, MEMORY, "%c%%%p%s", 'c', other, o))                \
    X(asprintf_string, READ, (W(asprintf)((char **)other, "%s", o), free(*(char **)other)))        \
    X(sscanf_from, READ, W(sscanf)(o, "%*s"))                                                      \
    X(sscanf_string, WRITE, W(sscanf)(fill_text(SIZE - 1), "%s", o))                               \
    X(sscanf_set, WRITE, W(__isoc99_sscanf)(fill_text(SIZE - 1), "%[^z]", o))                      \
    X(sscanf_second, WRITE,                                                                        \
      W(sscanf)(fill_text(SIZE), "%1c%n%s", other + SIZE * 2, (int *)(other + SIZE * 3), o))       \
    X(sscanf_number, WRITE, W(sscanf)("1", "%d", (int *)(o + SIZE - 4)))                           \
    X(fread_to, WRITE, W(fread)(o, 4, SIZE / 4, F(zeros)))                                         \
    X(fread_chk_to, WRITE, W(__fread_chk)(o, SIZE_MAX, 1, SIZE, F(zeros)))                         \
    X(fwrite_from, READ, W(fwrite)(o, 8, SIZE / 8, F(sink)))                                       \
    X(fgets_to, WRITE, (rewind_text(), W(fgets)(o, SIZE, F(text_file))))                           \
    X(fgets_chk_to, WRITE, (rewind_text(), W(__fgets_chk)(o, SIZE_MAX, SIZE, F(text_file))))       \
    X(fputs_of, READ, W(fputs)(o, F(sink)))                                                        \
    X(getline_to, WRITE, (rewind_text(), W(getline)(&(char *){o}, &(size_t){SIZE}, F(text_file)))) \
    X(setvbuf_to, WRITE, W(setvbuf)(F(sink), o, _IONBF, SIZE))                                     \
    X(read_to, WRITE, W(read)(zero_fd, o, SIZE))                                                   \
    X(pread_to, WRITE, W(pread)(zero_fd, o, SIZE, 0))                                              \
    X(read_chk_to, WRITE, W(__read_chk)(zero_fd, o, SIZE, SIZE_MAX))                               \
    X(readv_to, WRITE, W(readv)(zero_fd, &(struct iovec){o, SIZE}, 1))                             \
    X(write_from, READ, W(write)(null_fd, o, SIZE))                                                \
    X(pwrite_from, READ, W(pwrite)(null_fd, o, SIZE, 0))                                           \
    X(writev_from, READ, W(writev)(null_fd, &(struct iovec){o, SIZE}, 1))                          \
    X(send_from, READ, W(send)(sockets[0], o, SIZE, MSG_DONTWAIT))                                 \
    X(sendto_from, READ, W(sendto)(sockets[0], o, SIZE, MSG_DONTWAIT, NULL, 0))                    \
    X(sendmsg_from, READ,                                                                          \
      W(sendmsg)(sockets[0],                                                                       \
                 &(struct msghdr){.msg_iov = &(struct iovec){o, SIZE}, .msg_iovlen = 1},           \
                 MSG_DONTWAIT))                                                                    \
    X(recv_to, WRITE, W(recv)(sockets[1], o, SIZE, MSG_DONTWAIT))                                  \
    X(recvfrom_to, WRITE, W(recvfrom)(sockets[1], o, SIZE, MSG_DONTWAIT, NULL, NULL))              \
    X(recvmsg_to, WRITE,                                                                           \
      W(recvmsg)(sockets[1],                                                                       \
                 &(struct msghdr){.msg_iov = &(struct iovec){o, SIZE}, .msg_iovlen = 1},           \
                 MSG_DONTWAIT))                                                                    \
    X(getrandom_to, WRITE, W(getrandom)(o, SIZE, 0))                                               \
    X(getcwd_to, WRITE, W(getcwd)(o, SIZE))                                                        \
    X(readlink_to, WRITE, W(readlink)("/proc/self/exe", o, SIZE))                                  \
    X(gethostname_to, WRITE, W(gethostname)(o, SIZE))                                              \
    X(qsort_of, WRITE, W(qsort)(o, SIZE, 1, compare_chars))                                        \
    X(bsearch_in, READ, W(bsearch)("x", o, SIZE, 1, compare_chars))                                \
    X(realpath_to, WRITE, W(realpath)("/usr", o + SIZE - sizeof("/usr")))                          \
    X(strerror_r_to, WRITE, W(__xpg_strerror_r)(1, o, SIZE))                                       \
    X(inet_ntop_to, WRITE, W(inet_ntop)(AF_INET, "\1\1\1\1", o + SIZE - sizeof("1.1.1.1"), SIZE))  \
    X(strftime_to, WRITE, W(strftime)(o + SIZE - 5, MEMORY, "%Y", &(struct tm){.tm_year = 90}))    \
    X(ctime_r_to, WRITE, W(ctime_r)(&(time_t){0}, o + SIZE - 26))                                  \
    X(asctime_r_to, WRITE, W(asctime_r)(&(struct tm){.tm_mday = 1}, o + SIZE - 26))

#define WIDE_CASES(X)                                                                              \
    X(wmemcpy_to, WRITE, W(wmemcpy)(WO, (wchar_t *)other, WIDE_LEN))                               \
    X(wmemmove_from, READ, W(wmemmove)((wchar_t *)other, WO, WIDE_LEN))                            \
    X(wmempcpy_to, WRITE, W(wmempcpy)(WO, (wchar_t *)other, WIDE_LEN))                             \
    X(wmemset_to, WRITE, W(wmemset)(WO, 1, WIDE_LEN))                                              \
    X(wmemcmp_left, READ, W(wmemcmp)(WO, (wchar_t *)other, WIDE_LEN))                              \
    X(wmemchr_all, READ, W(wmemchr)(WO, L'z', WIDE_LEN))                                           \
    X(wcslen_of, READ, W(wcslen)(WO))                                                              \
    X(wcsnlen_of, READ, W(wcsnlen)(WO, MEMORY))                                                    \
    X(wcscpy_to, WRITE, W(wcscpy)(WO, fill_wide(WIDE_LEN - 1)))                                    \
    X(wcscpy_from, READ, W(wcscpy)((wchar_t *)other, WO))                                          \
    X(wcpcpy_to, WRITE, W(wcpcpy)(WO, fill_wide(WIDE_LEN - 1)))                                    \
    X(wcsncpy_to, WRITE, W(wcsncpy)(WO, L"short", WIDE_LEN))                                       \
    X(wcscat_to, WRITE, (WO[2] = 0, W(wcscat)(WO, fill_wide(WIDE_LEN - 3))))                       \
    X(wcsncat_to, WRITE, (WO[2] = 0, W(wcsncat)(WO, fill_wide(100), WIDE_LEN - 3)))                \
    X(wcscpy_chk_to, WRITE, W(__wcscpy_chk)(WO, fill_wide(WIDE_LEN - 1), MEMORY))                  \
    X(wcsdup_of, READ, free(W(wcsdup)(WO)))                                                        \
    X(wcscmp_left, READ, W(wcscmp)(WO, memcpy(other, o, SIZE)))                                    \
    X(wcsncmp_left, READ, W(wcsncmp)(WO, memcpy(other, o, SIZE), 200))                             \
    X(wcschr_missing, READ, W(wcschr)(WO, L'z'))                                                   \
    X(wcsrchr_of, READ, W(wcsrchr)(WO, L'z'))                                                      \
    X(wcsstr_missing, READ, W(wcsstr)(WO, L"z"))                                                   \
    X(wcspbrk_missing, READ, W(wcspbrk)(WO, L"z"))                                                 \
    X(wcsspn_all, READ, W(wcsspn)(WO, L"x"))                                                       \
    X(wcscspn_all, READ, W(wcscspn)(WO, L"z"))                                                     \
    X(wcstol_of, READ, W(wcstol)(wmemset(WO, L'0', WIDE_LEN - 1), NULL, 10))                       \
    X(wcstod_of, READ, W(wcstod)(wmemset(WO, L'0', WIDE_LEN - 1), NULL))                           \
    X(mbstowcs_to, WRITE, W(mbstowcs)(WO, fill_text(WIDE_LEN - 1), WIDE_LEN * 2))                  \
    X(wcstombs_to, WRITE, W(wcstombs)(o, fill_wide(SIZE - 1), SIZE * 2))                           \
    X(swprintf_to, WRITE, W(swprintf)(WO, WIDE_LEN, L"%d", 1))

struct call {
    const char *name;
    enum fh_access access;
    bool is_wide;
    void (*make)(char *o);
};

#define DEFINE(name, access, call)                                                                 \
    static void name(char *o)                                                                      \
    {                                                                                              \
        (void)(call);                                                                              \
    }
CASES(DEFINE)
WIDE_CASES(DEFINE)

#define ROW(name, access, call)      {#name, access, false, name},
#define WIDE_ROW(name, access, call) {#name, access, true, name},
static const struct call calls[] = {CASES(ROW) WIDE_CASES(WIDE_ROW)};

enum { CALLS = sizeof(calls) / sizeof(calls[0]) };

static void prepare(const struct call *call, size_t missing)
{
    memset(memory, 0, MEMORY);
    memset(other, 'x', MEMORY);
    other[MEMORY - 4] = other[MEMORY - 3] = other[MEMORY - 2] = other[MEMORY - 1] = 0;
    if (call->is_wide)
        wmemset((wchar_t *)memory, L'x', WIDE_LEN - 1);
    else
        memset(memory, 'x', SIZE - 1);
    memset(&told, 0, sizeof told);
    block = (struct fh_extent){
        .low = (uintptr_t)memory, .high = (uintptr_t)memory + SIZE - missing, .is_live = true};
}

static void says_nothing_of_a_right_call(void **state)
{
    const struct call *call = *state;
    prepare(call, 0);
    call->make(memory);
    if (told.count != 0)
        fail_msg("%s: %s of %zu bytes at +%zu", call->name, told.kind, told.first.size,
                 (size_t)(told.first.address - block.low));
}

static void reports_a_byte_too_much(void **state)
{
    const struct call *call = *state;
    prepare(call, call->is_wide ? sizeof(wchar_t) : 1);
    call->make(memory);
    if (told.count == 0)
        fail_msg("%s: nothing was reported", call->name);
    assert_string_equal(told.kind, "heap-buffer-overflow");
    assert_int_equal(told.first.access, call->access);
    assert_int_equal(told.first.address, block.high);
    assert_non_null(told.first.function);
}

static void reports_a_freed_block(void **state)
{
    const struct call *call = *state;
    prepare(call, 0);
    block.is_live = false;
    call->make(memory);
    if (told.count == 0)
        fail_msg("%s: nothing was reported", call->name);
    assert_string_equal(told.kind, "heap-use-after-free");
}

/* ---- kinds of objects and of errors ----------------------------------------------------------- */

static void begin(void)
{
    prepare(&calls[0], 0);
}

static void test_a_range_that_reaches_into_a_block_from_below_is_an_underflow(void **state)
{
    (void)state;
    begin();
    block.low += 16;
    W(memset)(memory, 0, 20);
    assert_int_equal(told.count, 1);
    assert_string_equal(told.kind, "heap-buffer-underflow");
}

static void test_null_is_told_by_the_name_of_the_function(void **state)
{
    (void)state;
    begin();
    fh_check_write((struct fh_here){"memset", __builtin_frame_address(0)}, NULL, 1);
    assert_int_equal(told.count, 1);
    assert_string_equal(told.kind, "null-dereference");
    assert_string_equal(told.first.function, "memset");
}

static void test_no_bytes_are_right_with_any_pointer(void **state)
{
    (void)state;
    begin();
    W(memcpy)(NULL, memory + SIZE, 0);
    W(memset)(memory + SIZE + 4, 0, 0);
    assert_int_equal(W(memcmp)(NULL, NULL, 0), 0);
    assert_int_equal(told.count, 0);
}

static void test_the_kernel_refuses_null_itself(void **state)
{
    (void)state;
    begin();
    assert_int_equal(W(read)(zero_fd, NULL, 10), -1);
    assert_int_equal(errno, EFAULT);
    assert_int_equal(told.count, 0);
}

static void test_printf_prints_null(void **state)
{
    (void)state;
    begin();
    const char *volatile nothing = NULL;
    assert_int_equal(W(snprintf)(memory, SIZE, "%s", nothing), 6);
    assert_int_equal(told.count, 0);
}

/* Where AddressSanitizer watches, nothing may be read beyond an object, and variables lie elsewhere. */
static void skip_under_asan(void)
{
#ifdef __SANITIZE_ADDRESS__
    skip();
#endif
}

static char table[40];
static const char constants[12] = "constants";
static char element[8] __attribute__((section("own_section"), used));

static void test_a_range_that_leaves_a_static_object_is_reported(void **state)
{
    (void)state;
    skip_under_asan();
    begin();
    W(memcpy)(other, table, sizeof table);
    W(memcpy)(other, table + 30, 10);
    W(memcpy)(other, constants, sizeof constants);
    assert_int_equal(told.count, 0);
    W(memcpy)(other, table + 30, 11);
    assert_int_equal(told.count, 1);
    assert_string_equal(told.kind, "global-buffer-overflow");
    assert_int_equal(told.first.address, (uintptr_t)table + sizeof table);
    W(memcpy)(other, constants, sizeof constants + 1);
    assert_int_equal(told.count, 2);
}

static void test_an_object_in_a_section_of_its_own_has_no_bound(void **state)
{
    (void)state;
    skip_under_asan();
    begin();
    W(memcpy)(other, element, sizeof element + 1);
    assert_int_equal(told.count, 0);
}

static __attribute__((noinline)) void fill_on_stack(char *to, size_t size)
{
    W(memset)(to, 0, size);
    __asm__ volatile("" : : : "memory");
}

/* Reads, so that nothing breaks: from an object of its caller's and from one of its own. */
static __attribute__((noinline)) void read_from_stack(const char *from, size_t size)
{
    W(memcpy)(other, from, size);
    __asm__ volatile("" : : : "memory");
}

static __attribute__((noinline)) uintptr_t read_own(size_t more)
{
    char own[48];
    fill_on_stack(own, sizeof own);
    uintptr_t size = (uintptr_t)__builtin_frame_address(0) + 8 - (uintptr_t)own;
    read_from_stack(own, sizeof own);
    if (more != 0)
        read_from_stack(own, size + more);
    return size;
}

static void test_a_range_over_a_return_address_is_reported(void **state)
{
    (void)state;
    skip_under_asan();
    begin();
    read_own(0);
    assert_int_equal(told.count, 0);
    read_own(8);
    assert_int_equal(told.count, 1);
    assert_string_equal(told.kind, "stack-buffer-overflow");
}

static void test_an_object_of_a_caller_further_out_is_whole(void **state)
{
    (void)state;
    char far[512];
    begin();
    fill_on_stack(far, sizeof far);
    read_from_stack(far, sizeof far);
    read_own(0);
    assert_int_equal(told.count, 0);
}

static void test_comparisons_end_at_the_difference(void **state)
{
    (void)state;
    begin();
    block.high = block.low + 10; /* "xxxxxxxxxx", not terminated */
    assert_true(W(strcmp)(memory, "xxa") > 0);
    assert_true(W(strncmp)(memory, "xxxxxxxxxxxxx", 10) == 0);
    assert_ptr_equal(W(strchr)(memory, 'x'), memory);
    assert_ptr_equal(W(strstr)(memory, "xx"), memory);
    assert_int_equal(W(strncasecmp)(memory, "XX", 2), 0);
    assert_int_equal(told.count, 0);
}

static void test_a_precision_bounds_a_string(void **state)
{
    (void)state;
    begin();
    block.high = block.low + 10;
    W(snprintf)(other, MEMORY, "%.10s %.*s", memory, 10, memory);
    assert_int_equal(told.count, 0);
    W(snprintf)(other, MEMORY, "%.11s", memory);
    assert_int_equal(told.count, 1);
}

static void test_errno_is_kept(void **state)
{
    (void)state;
    begin();
    block.high--;
    errno = 4711;
    W(memset)(memory, 1, SIZE);
    W(strlen)("text");
    W(memset)(table, 1, sizeof table);
    assert_int_equal(errno, 4711);
}

static void test_nothing_is_checked_when_off(void **state)
{
    (void)state;
    begin();
    block.is_live = false;
    fh_debug_state = FH_DEBUG_OFF;
    for (size_t i = 0; i < CALLS; i++)
        calls[i].make(memory);
    fh_debug_state = FH_DEBUG_ON;
    assert_int_equal(told.count, 0);
}

static void test_results_are_those_of_the_real_functions(void **state)
{
    (void)state;
    begin();
    char *rest, text[] = "one,two";
    wchar_t wide[8];
    rest = text;
    assert_int_equal(W(strlen)("four"), 4);
    assert_ptr_equal(W(mempcpy)(memory, "abc", 4), memory + 4);
    assert_ptr_equal(W(stpcpy)(memory, "abc"), memory + 3);
    assert_ptr_equal(W(strcpy)(memory, "abc"), memory);
    assert_string_equal(W(strcat)(memory, "def"), "abcdef");
    assert_ptr_equal(W(strchr)(memory, 'd'), memory + 3);
    assert_null(W(strchr)(memory, 'z'));
    assert_string_equal(W(strsep)(&rest, ","), "one");
    assert_string_equal(rest, "two");
    assert_int_equal(W(strtol)("0x1fg", &rest, 0), 31);
    assert_string_equal(rest, "g");
    assert_int_equal(W(atoi)(" -12a"), -12);
    assert_int_equal(W(sprintf)(memory, "%s %d %.2f %ld", "s", 1, 2.5, 3L), 10);
    assert_string_equal(memory, "s 1 2.50 3");
    assert_int_equal(W(snprintf)(memory, 4, "%s", "longer"), 6);
    assert_string_equal(memory, "lon");
    assert_int_equal(W(swprintf)(wide, 8, L"%d", 12), 2);
    assert_int_equal(W(mbstowcs)(wide, "abc", 8), 3);
    assert_int_equal(told.count, 0);
}

/* ---- all of them ------------------------------------------------------------------------------ */

static int open_all(void **state)
{
    (void)state;
    find_real_functions();
    memory = malloc(MEMORY);
    other = malloc(MEMORY);
    zero_fd = open("/dev/zero", O_RDONLY);
    null_fd = open("/dev/null", O_WRONLY);
    zeros = fopen("/dev/zero", "r");
    sink = fopen("/dev/null", "w");
    text_file = tmpfile();
    fprintf(text_file, "a line\n");
    return memory == NULL || other == NULL || zeros == NULL || sink == NULL ||
           socketpair(AF_UNIX, SOCK_DGRAM, 0, sockets) != 0;
}

int main(void)
{
    static struct CMUnitTest tests[3 * CALLS + 32];
    static char names[3 * CALLS][64];
    const struct CMUnitTest others[] = {
        cmocka_unit_test(test_a_range_that_reaches_into_a_block_from_below_is_an_underflow),
        cmocka_unit_test(test_null_is_told_by_the_name_of_the_function),
        cmocka_unit_test(test_no_bytes_are_right_with_any_pointer),
        cmocka_unit_test(test_the_kernel_refuses_null_itself),
        cmocka_unit_test(test_printf_prints_null),
        cmocka_unit_test(test_a_range_that_leaves_a_static_object_is_reported),
        cmocka_unit_test(test_an_object_in_a_section_of_its_own_has_no_bound),
        cmocka_unit_test(test_a_range_over_a_return_address_is_reported),
        cmocka_unit_test(test_an_object_of_a_caller_further_out_is_whole),
        cmocka_unit_test(test_comparisons_end_at_the_difference),
        cmocka_unit_test(test_a_precision_bounds_a_string),
        cmocka_unit_test(test_errno_is_kept),
        cmocka_unit_test(test_nothing_is_checked_when_off),
        cmocka_unit_test(test_results_are_those_of_the_real_functions),
    };
    static const struct {
        const char *what;
        CMUnitTestFunction test;
    } claims[] = {{"is_silent_when_right", says_nothing_of_a_right_call},
                  {"reports_a_byte_too_much", reports_a_byte_too_much},
                  {"reports_a_freed_block", reports_a_freed_block}};
    size_t count = 0;
    for (size_t i = 0; i < CALLS; i++) {
        for (size_t claim = 0; claim < 3; claim++, count++) {
            snprintf(names[count], sizeof names[count], "test_%s_%s", calls[i].name,
                     claims[claim].what);
            tests[count] = (struct CMUnitTest){.name = names[count],
                                               .test_func = claims[claim].test,
                                               .initial_state = (void *)(uintptr_t)&calls[i]};
        }
    }
    memcpy(&tests[count], others, sizeof others);
    return _cmocka_run_group_tests("debug_wrappers", tests, count + FH_ARRAY_LEN(others), open_all,
                                   NULL);
}
