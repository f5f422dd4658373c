/*
 * strtol and its kind read what they convert, and one character more: the rest of the string is not
 * theirs, and may be long (numbers are read out of texts one after another).
 */
#include "bounds/bounds.h"

#define NUMBER(type, name, shown, real, parameters, ...)                                           \
    FH_WRAP(type, name, parameters)                                                                \
    {                                                                                              \
        if (!FH_IS_ON())                                                                           \
            return fh_real.real(s, end, ##__VA_ARGS__);                                            \
        FH_HERE(shown);                                                                            \
        char *behind = NULL;                                                                       \
        size_t room = fh_check_first(here, s);                                                     \
        type value = fh_real.real(s, &behind, ##__VA_ARGS__);                                      \
        if (fh_is_known(room))                                                                     \
            fh_check_rest(here, s, room, (size_t)(behind - s) + 1);                                \
        if (end != NULL)                                                                           \
            *end = behind;                                                                         \
        return value;                                                                              \
    }
#define INTEGER(type, name, shown)                                                                 \
    NUMBER(type, name, shown, name, (const char *s, char **end, int base), base)

INTEGER(long, strtol, strtol)
INTEGER(unsigned long, strtoul, strtoul)
INTEGER(long long, strtoll, strtoll)
INTEGER(unsigned long long, strtoull, strtoull)
INTEGER(intmax_t, strtoimax, strtoimax)
INTEGER(uintmax_t, strtoumax, strtoumax)
INTEGER(long, __isoc23_strtol, strtol)
INTEGER(unsigned long, __isoc23_strtoul, strtoul)
INTEGER(long long, __isoc23_strtoll, strtoll)
INTEGER(unsigned long long, __isoc23_strtoull, strtoull)
INTEGER(intmax_t, __isoc23_strtoimax, strtoimax)
INTEGER(uintmax_t, __isoc23_strtoumax, strtoumax)
NUMBER(double, strtod, strtod, strtod, (const char *s, char **end))
NUMBER(float, strtof, strtof, strtof, (const char *s, char **end))
NUMBER(long double, strtold, strtold, strtold, (const char *s, char **end))

/* atoi is what strtol says, in the C library too. */
#define SHORT_NUMBER(type, name, call)                                                             \
    FH_WRAP(type, name, (const char *s))                                                           \
    {                                                                                              \
        if (!FH_IS_ON())                                                                           \
            return fh_real.name(s);                                                                \
        FH_HERE(name);                                                                             \
        char *behind = NULL;                                                                       \
        size_t room = fh_check_first(here, s);                                                     \
        type value = (type)fh_real.call;                                                           \
        if (fh_is_known(room))                                                                     \
            fh_check_rest(here, s, room, (size_t)(behind - s) + 1);                                \
        return value;                                                                              \
    }

SHORT_NUMBER(int, atoi, strtol(s, &behind, 10))
SHORT_NUMBER(long, atol, strtol(s, &behind, 10))
SHORT_NUMBER(long long, atoll, strtoll(s, &behind, 10))
SHORT_NUMBER(double, atof, strtod(s, &behind))
