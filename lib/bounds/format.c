/*
 * printf and scanf, and what their formats say about the arguments.
 *
 * Output into a buffer is charged with what is written: a program that says more than it has, and then
 * writes less, runs correctly. Where the buffer's end is known the text is made by vsnprintf with
 * that bound, in one go; only when it does not fit, which is the error, is it made a second time, as the
 * program asked for it (then %n counts twice).
 *
 * A format is read once before the call for the strings that it names: each must end in its object, or
 * be as long as its precision. scanf's format is read after the call, when it is known how many of
 * the conversions were stored and how long the strings are. What a format holds that is not known
 * here (numbered arguments, conversions that a program has registered) ends the reading: what the
 * further arguments are can't be known then.
 */
#include "bounds/bounds.h"

/* ---- a conversion ----------------------------------------------------------------------------- */

enum length {
    LENGTH_NONE,
    LENGTH_CHAR,
    LENGTH_SHORT,
    LENGTH_LONG,
    LENGTH_LONG_LONG,
    LENGTH_MAX,
    LENGTH_SIZE,
    LENGTH_DIFFERENCE,
};

struct number {
    bool is_given, is_argument; /* "*" */
    size_t value;
};

struct conversion {
    struct number width, precision;
    bool is_skipped, is_allocating; /* scanf's * and m */
    enum length length;
    char kind;             /* 0: not understood */
    const char *set, *end; /* %[…]; behind it all */
};

static const char *take_digits(const char *at, struct number *number)
{
    for (; *at >= '0' && *at <= '9'; at++) {
        number->is_given = true;
        if (number->value < SIZE_MAX / 20)
            number->value = number->value * 10 + (size_t)(*at - '0');
    }
    return at;
}

static const char *take_number(const char *at, struct number *number)
{
    if (*at != '*')
        return take_digits(at, number);
    number->is_given = number->is_argument = true;
    return at + 1;
}

static const char *take_length(const char *at, enum length *length)
{
    switch (*at) {
    case 'h':
        *length = at[1] == 'h' ? LENGTH_CHAR : LENGTH_SHORT;
        return at + (at[1] == 'h' ? 2 : 1);
    case 'l':
        *length = at[1] == 'l' ? LENGTH_LONG_LONG : LENGTH_LONG;
        return at + (at[1] == 'l' ? 2 : 1);
    case 'q':
    case 'L':
        *length = LENGTH_LONG_LONG;
        return at + 1;
    case 'j':
        *length = LENGTH_MAX;
        return at + 1;
    case 'z':
    case 'Z':
        *length = LENGTH_SIZE;
        return at + 1;
    case 't':
        *length = LENGTH_DIFFERENCE;
        return at + 1;
    default:
        return at;
    }
}

static const char *next_percent(const char *at)
{
    at = fh_real.strchrnul(at, '%');
    return *at == 0 ? NULL : at;
}

/* printf's, behind its '%'. */
static struct conversion read_print(const char *at)
{
    struct conversion it = {0};
    while (*at == '-' || *at == '+' || *at == ' ' || *at == '#' || *at == '0' || *at == '\'' ||
           *at == 'I')
        at++;
    at = take_number(at, &it.width);
    if (*at == '.') {
        it.precision.is_given = true;
        at = take_number(at + 1, &it.precision);
    }
    at = take_length(at, &it.length);
    it.kind = *at;
    it.end = *at != 0 ? at + 1 : at;
    return it;
}

/* ---- printf's arguments ----------------------------------------------------------------------- */

static size_t size_of_integer(enum length length)
{
    switch (length) {
    case LENGTH_NONE:
        return sizeof(int);
    case LENGTH_CHAR:
        return sizeof(char);
    case LENGTH_SHORT:
        return sizeof(short);
    default:
        return sizeof(long);
    }
}

/* A string's bytes up to its end or its precision; a null pointer is printed as "(null)". */
static void check_printed(struct fh_here here, const char *s, const struct conversion *it)
{
    if (s == NULL || it->length != LENGTH_NONE)
        return;
    fh_check_string_n(here, s, it->precision.is_given ? it->precision.value : SIZE_MAX);
}

static void take_integer(enum length length, va_list *args)
{
    long value = size_of_integer(length) == sizeof(long) ? va_arg(*args, long) : va_arg(*args, int);
    (void)value;
}

static void take_float(enum length length, va_list *args)
{
    long double value =
        length == LENGTH_LONG_LONG ? va_arg(*args, long double) : va_arg(*args, double);
    (void)value;
}

/* Takes the conversion's argument; false when nobody knows its type. */
static bool take_printed(struct fh_here here, const struct conversion *it, va_list *args)
{
    switch (it->kind) {
    case 'd':
    case 'i':
    case 'o':
    case 'u':
    case 'x':
    case 'X':
    case 'c':
    case 'C':
        take_integer(it->length, args);
        return true;
    case 'a':
    case 'A':
    case 'e':
    case 'E':
    case 'f':
    case 'F':
    case 'g':
    case 'G':
        take_float(it->length, args);
        return true;
    case 's':
        check_printed(here, va_arg(*args, const char *), it);
        return true;
    case 'n':
        fh_check_write(here, va_arg(*args, void *), size_of_integer(it->length));
        return true;
    case 'p':
    case 'S':
        (void)va_arg(*args, void *);
        return true;
    case 'm':
    case '%':
        return true;
    default:
        return false;
    }
}

static void take_numbers(struct conversion *it, va_list *args)
{
    if (it->width.is_argument)
        (void)va_arg(*args, int);
    if (it->precision.is_argument) {
        int value = va_arg(*args, int);
        it->precision.is_given = value >= 0;
        it->precision.value = (size_t)value;
    }
}

/* Its own copy of args: the callers' is still to be used. */
static FH_NOINLINE void check_print(struct fh_here here, const char *format, va_list args)
{
    va_list copy;
    fh_check_string(here, format);
    const char *at = next_percent(format);
    if (at == NULL)
        return;
    va_copy(copy, args);
    while (at != NULL) {
        struct conversion it = read_print(at + 1);
        take_numbers(&it, &copy);
        if (!take_printed(here, &it, &copy))
            break;
        at = next_percent(it.end);
    }
    va_end(copy);
}

/* ---- printf to files -------------------------------------------------------------------------- */

/* Two wrappers: of `name`, which takes a va_list, and of `variadic`. */
#define PRINT(name, variadic, shown, parameters, ...)                                              \
    FH_WRAP(int, name, (FH_UNPACK parameters const char *format, va_list args))                    \
    {                                                                                              \
        if (FH_IS_ON()) {                                                                          \
            FH_HERE(v##shown);                                                                     \
            check_print(here, format, args);                                                       \
        }                                                                                          \
        return fh_real.name(__VA_ARGS__);                                                          \
    }                                                                                              \
    FH_WRAP(int, variadic, (FH_UNPACK parameters const char *format, ...))                         \
    {                                                                                              \
        va_list args;                                                                              \
        va_start(args, format);                                                                    \
        if (FH_IS_ON()) {                                                                          \
            FH_HERE(shown);                                                                        \
            check_print(here, format, args);                                                       \
        }                                                                                          \
        int len = fh_real.name(__VA_ARGS__);                                                       \
        va_end(args);                                                                              \
        return len;                                                                                \
    }
#define FH_UNPACK(...) __VA_ARGS__

PRINT(vprintf, printf, printf, (), format, args)
PRINT(vfprintf, fprintf, fprintf, (struct fh_file * file, ), file, format, args)
PRINT(vdprintf, dprintf, dprintf, (int fd, ), fd, format, args)
PRINT(vasprintf, asprintf, asprintf, (char **to, ), to, format, args)
PRINT(__vprintf_chk, __printf_chk, printf, (int flag, ), flag, format, args)
PRINT(__vfprintf_chk, __fprintf_chk, fprintf, (struct fh_file * file, int flag, ), file, flag,
      format, args)
PRINT(__vdprintf_chk, __dprintf_chk, dprintf, (int fd, int flag, ), fd, flag, format, args)
PRINT(__vasprintf_chk, __asprintf_chk, asprintf, (char **to, int flag, ), to, flag, format, args)

/* ---- printf into buffers ---------------------------------------------------------------------- */

/* What the program asked for. max: SIZE_MAX for sprintf. */
struct request {
    char *to;
    size_t max;
    bool is_checked; /* __…_chk, with these: */
    int flag;
    size_t to_size;
};

static int print_as_asked(const struct request *it, const char *format, va_list args)
{
    if (it->is_checked && it->max == SIZE_MAX)
        return fh_real.__vsprintf_chk(it->to, it->flag, it->to_size, format, args);
    if (it->is_checked)
        return fh_real.__vsnprintf_chk(it->to, it->max, it->flag, it->to_size, format, args);
    if (it->max == SIZE_MAX)
        return fh_real.vsprintf(it->to, format, args);
    return fh_real.vsnprintf(it->to, it->max, format, args);
}

static int print_within(const struct request *it, size_t room, const char *format, va_list args)
{
    if (it->is_checked)
        return fh_real.__vsnprintf_chk(it->to, room, it->flag, room, format, args);
    return fh_real.vsnprintf(it->to, room, format, args);
}

static int print_into(struct fh_here here, const struct request *it, const char *format,
                      va_list args)
{
    check_print(here, format, args);
    size_t room = it->max == 0 ? FH_ROOM_UNBOUNDED : fh_room(here, it->to);
    /* The last: the C library's own check is still to be made. */
    if (!fh_is_known(room) || room >= it->max ||
        (it->is_checked && (room >= it->to_size || (it->max != SIZE_MAX && it->max > it->to_size))))
        return print_as_asked(it, format, args);
    va_list again;
    va_copy(again, args);
    int len = print_within(it, room, format, args);
    if (len >= 0 && (size_t)len >= room) {
        fh_check_failed(here, it->to, fh_min((size_t)len + 1, it->max), FH_ACCESS_WRITE);
        len = print_as_asked(it, format, again);
    }
    va_end(again);
    return len;
}

#define PRINT_INTO(name, variadic, shown, parameters, ...)                                         \
    FH_WRAP(int, name, (FH_UNPACK parameters const char *format, va_list args))                    \
    {                                                                                              \
        const struct request it = {__VA_ARGS__};                                                   \
        if (!FH_IS_ON())                                                                           \
            return print_as_asked(&it, format, args);                                              \
        FH_HERE(v##shown);                                                                         \
        return print_into(here, &it, format, args);                                                \
    }                                                                                              \
    FH_WRAP(int, variadic, (FH_UNPACK parameters const char *format, ...))                         \
    {                                                                                              \
        const struct request it = {__VA_ARGS__};                                                   \
        va_list args;                                                                              \
        va_start(args, format);                                                                    \
        FH_HERE(shown);                                                                            \
        int len =                                                                                  \
            FH_IS_ON() ? print_into(here, &it, format, args) : print_as_asked(&it, format, args);  \
        va_end(args);                                                                              \
        return len;                                                                                \
    }

PRINT_INTO(vsprintf, sprintf, sprintf, (char *to, ), to, SIZE_MAX, false, 0, 0)
PRINT_INTO(vsnprintf, snprintf, snprintf, (char *to, size_t max, ), to, max, false, 0, 0)
PRINT_INTO(__vsprintf_chk, __sprintf_chk, sprintf, (char *to, int flag, size_t to_size, ), to,
           SIZE_MAX, true, flag, to_size)
PRINT_INTO(__vsnprintf_chk, __snprintf_chk, snprintf,
           (char *to, size_t max, int flag, size_t to_size, ), to, max, true, flag, to_size)

/* ---- scanf ------------------------------------------------------------------------------------ */

/* Behind the ']' that ends the set; NULL when there is none. */
static const char *skip_set(const char *at)
{
    if (*at == '^')
        at++;
    if (*at == ']')
        at++;
    at = fh_real.strchrnul(at, ']');
    return *at == 0 ? NULL : at + 1;
}

static struct conversion read_scan(const char *at)
{
    struct conversion it = {0};
    for (; *at == '*' || *at == '\'' || *at == 'I'; at++)
        it.is_skipped = it.is_skipped || *at == '*';
    at = take_digits(at, &it.width);
    if (*at == 'm') {
        it.is_allocating = true;
        at++;
    }
    at = take_length(at, &it.length);
    it.kind = *at;
    it.end = *at != 0 ? at + 1 : at;
    if (it.kind == '[' && (it.end = skip_set(it.end)) == NULL)
        it.kind = 0;
    return it;
}

/* How much was written for a conversion that succeeded. */
static size_t size_of_scanned(const struct conversion *it, const void *to)
{
    switch (it->kind) {
    case 's':
    case '[':
        return it->length == LENGTH_LONG ? sizeof(wchar_t) * (fh_real.wcslen(to) + 1)
                                         : fh_real.strlen(to) + 1;
    case 'c':
        return (it->width.is_given ? it->width.value : 1) *
               (it->length == LENGTH_LONG ? sizeof(wchar_t) : 1);
    case 'd':
    case 'i':
    case 'o':
    case 'u':
    case 'x':
    case 'X':
    case 'n':
        return size_of_integer(it->length);
    case 'a':
    case 'e':
    case 'f':
    case 'g':
    case 'A':
    case 'E':
    case 'F':
    case 'G':
        return it->length == LENGTH_LONG_LONG ? sizeof(long double)
               : it->length == LENGTH_LONG    ? sizeof(double)
                                              : sizeof(float);
    case 'p':
        return sizeof(void *);
    default:
        return 0;
    }
}

static FH_NOINLINE void check_scan(struct fh_here here, const char *format, int stored,
                                   va_list args)
{
    const char *at = next_percent(format);
    while (at != NULL && stored > 0) {
        struct conversion it = read_scan(at + 1);
        bool is_stored = !it.is_skipped && it.kind != '%';
        const void *to = is_stored ? va_arg(args, void *) : NULL;
        size_t size = is_stored && !it.is_allocating ? size_of_scanned(&it, to) : sizeof(void *);
        if (it.kind == 0 || size == 0)
            return;
        if (is_stored)
            fh_check_write(here, to, size);
        stored -= is_stored && it.kind != 'n';
        at = next_percent(it.end);
    }
}

#define SCAN(name, variadic, shown, parameters, before, ...)                                       \
    FH_WRAP(int, name, (FH_UNPACK parameters const char *format, va_list args))                    \
    {                                                                                              \
        if (!FH_IS_ON())                                                                           \
            return fh_real.name(__VA_ARGS__);                                                      \
        FH_HERE(v##shown);                                                                         \
        va_list again;                                                                             \
        va_copy(again, args);                                                                      \
        before;                                                                                    \
        int stored = fh_real.name(__VA_ARGS__);                                                    \
        check_scan(here, format, stored, again);                                                   \
        va_end(again);                                                                             \
        return stored;                                                                             \
    }                                                                                              \
    FH_WRAP(int, variadic, (FH_UNPACK parameters const char *format, ...))                         \
    {                                                                                              \
        FH_HERE(shown);                                                                            \
        va_list args, again;                                                                       \
        va_start(args, format);                                                                    \
        va_copy(again, args);                                                                      \
        bool is_on = FH_IS_ON();                                                                   \
        if (is_on) {                                                                               \
            before;                                                                                \
        }                                                                                          \
        int stored = fh_real.name(__VA_ARGS__);                                                    \
        if (is_on)                                                                                 \
            check_scan(here, format, stored, again);                                               \
        va_end(again);                                                                             \
        va_end(args);                                                                              \
        return stored;                                                                             \
    }

SCAN(vscanf, scanf, scanf, (), (void)0, format, args)
SCAN(vfscanf, fscanf, fscanf, (struct fh_file * file, ), (void)0, file, format, args)
SCAN(vsscanf, sscanf, sscanf, (const char *s, ), fh_check_string(here, s), s, format, args)
SCAN(__isoc99_vscanf, __isoc99_scanf, scanf, (), (void)0, format, args)
SCAN(__isoc99_vfscanf, __isoc99_fscanf, fscanf, (struct fh_file * file, ), (void)0, file, format,
     args)
SCAN(__isoc99_vsscanf, __isoc99_sscanf, sscanf, (const char *s, ), fh_check_string(here, s), s,
     format, args)
SCAN(__isoc23_vscanf, __isoc23_scanf, scanf, (), (void)0, format, args)
SCAN(__isoc23_vfscanf, __isoc23_fscanf, fscanf, (struct fh_file * file, ), (void)0, file, format,
     args)
SCAN(__isoc23_vsscanf, __isoc23_sscanf, sscanf, (const char *s, ), fh_check_string(here, s), s,
     format, args)
