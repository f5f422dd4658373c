/*
 * The settings of this room: names and values of FREEHOLD that are not the heap's own (heap/settings.c calls here).
 *
 * One table: a name, how its value is read, how it is told. A mode sets what belongs to it; a setting that was given
 * by name stays, whichever comes first in the variable. They are read before anything is allocated and do not
 * change afterwards.
 */
#include "base/message.h"
#include "guard/pressure.h"
#include "os/sys.h"

#include <errno.h>
#include <string.h>

enum {
    QUARANTINE_HARDENED = 128 << 10, /* a thread; see quarantine.c */
    QUARANTINE_DEBUG = 4 << 20,
};

struct fh_guard_settings fh_guard_settings = {.guard = FH_GUARD_DEFAULT, .has_wrappers = true};

static bool is_quarantine_given;

static const char *const mode_names[] = {"fast", "hardened", "debug"};

/* "4096", "64K", "8M", "1G", with an optional "iB" or "B" behind the letter. */
static bool parse_size(const char *text, size_t *out)
{
    size_t value = 0;
    if (*text < '0' || *text > '9')
        return false;
    for (; *text >= '0' && *text <= '9'; text++)
        if (__builtin_mul_overflow(value, 10, &value) ||
            __builtin_add_overflow(value, (size_t)(*text - '0'), &value))
            return false;
    static const char letters[] = "KMGT";
    const char upper = (char)(*text & ~0x20);
    const char *letter = *text != 0 ? strchr(letters, upper) : NULL;
    if (letter != NULL && *letter != 0) {
        const unsigned shift = 10 * (unsigned)(letter - letters + 1);
        if (value > SIZE_MAX >> shift)
            return false;
        value <<= shift;
        text++;
        text += *text == 'i';
    }
    text += *text == 'B';
    *out = value;
    return *text == 0;
}

static int set_mode(const char *value)
{
    for (unsigned i = 0; i < FH_ARRAY_LEN(mode_names); i++)
        if (strcmp(value, mode_names[i]) == 0) {
            fh_guard_settings.mode = (enum fh_guard_mode)i;
            return 0;
        }
    return -EINVAL;
}

static size_t get_mode(char *text, size_t size)
{
    return fh_format(text, size, "%s", mode_names[fh_guard_settings.mode]);
}

static int set_guard(const char *value)
{
    if (strcmp(value, "off") == 0) {
        fh_guard_settings.guard = 0;
        return 0;
    }
    size_t bytes;
    if (!parse_size(value, &bytes) || bytes == 0)
        return -EINVAL;
    fh_guard_settings.guard = bytes;
    return 0;
}

static size_t get_guard(char *text, size_t size)
{
    return fh_guard_settings.guard != 0 ? fh_format(text, size, "%zu", fh_guard_settings.guard)
                                        : fh_format(text, size, "off");
}

static int set_quarantine(const char *value)
{
    if (!parse_size(value, &fh_guard_settings.quarantine))
        return -EINVAL;
    is_quarantine_given = true;
    return 0;
}

static size_t get_quarantine(char *text, size_t size)
{
    return fh_format(text, size, "%zu", fh_guard_settings.quarantine);
}

static int set_uaf(const char *value)
{
    if (strcmp(value, "sweep") != 0 && strcmp(value, "quarantine") != 0)
        return -EINVAL;
    fh_guard_settings.is_sweeping = *value == 's';
    return 0;
}

static size_t get_uaf(char *text, size_t size)
{
    return fh_format(text, size, "%s", fh_guard_settings.is_sweeping ? "sweep" : "quarantine");
}

static int set_wrappers(const char *value)
{
    if (strcmp(value, "on") != 0 && strcmp(value, "off") != 0)
        return -EINVAL;
    fh_guard_settings.has_wrappers = value[1] == 'n';
    return 0;
}

static size_t get_wrappers(char *text, size_t size)
{
    return fh_format(text, size, "%s", fh_guard_settings.has_wrappers ? "on" : "off");
}

static char report_path[512], suppress_path[512];

/* A path that is kept as it was given, when it could be used. */
static int set_path(char *kept, size_t size, const char *value, int (*use)(const char *path))
{
    if (strlen(value) >= size)
        return -EINVAL;
    const int error = use(value);
    if (error == 0)
        strcpy(kept, value);
    return error == -ENAMETOOLONG ? -EINVAL : 0; /* all else has been said */
}

static int set_report(const char *value)
{
    return set_path(report_path, sizeof report_path, value, fh_report_to);
}

static size_t get_report(char *text, size_t size)
{
    return fh_format(text, size, "%s", report_path);
}

static int set_suppress(const char *value)
{
    return set_path(suppress_path, sizeof suppress_path, value, fh_suppress_from);
}

static size_t get_suppress(char *text, size_t size)
{
    return fh_format(text, size, "%s", suppress_path);
}

static const struct setting {
    const char *name;
    int (*set)(const char *value);
    size_t (*get)(char *text, size_t size);
} settings[] = {
    {"mode", set_mode, get_mode},
    {"guard", set_guard, get_guard},
    {"quarantine", set_quarantine, get_quarantine},
    {"uaf", set_uaf, get_uaf},
    {"wrappers", set_wrappers, get_wrappers},
    {"report", set_report, get_report},
    {"suppress", set_suppress, get_suppress},
};

int fh_mode_set(const char *name, const char *value)
{
    for (size_t i = 0; i < FH_ARRAY_LEN(settings); i++)
        if (strcmp(name, settings[i].name) == 0)
            return settings[i].set(value);
    return fh_pressure_set(name, value);
}

int fh_mode_get(const char *name, char *value, size_t size)
{
    for (size_t i = 0; i < FH_ARRAY_LEN(settings); i++)
        if (strcmp(name, settings[i].name) == 0) {
            char text[sizeof report_path];
            const size_t length = settings[i].get(text, sizeof text);
            if (length >= size)
                return -ERANGE;
            memcpy(value, text, length + 1);
            return (int)length;
        }
    return fh_pressure_get(name, value, size);
}

void fh_guard_settle(void)
{
    struct fh_guard_settings *s = &fh_guard_settings;
    s->is_filling = s->mode == FH_MODE_DEBUG;
    s->is_zeroing = !s->is_filling && (s->mode == FH_MODE_HARDENED || s->is_sweeping);
    s->has_stacks = s->mode == FH_MODE_DEBUG || s->limit != 0 || s->is_failing;
    s->is_plain = s->mode == FH_MODE_HARDENED && !s->is_sweeping && !s->has_stacks;
    if (!is_quarantine_given)
        s->quarantine = s->mode == FH_MODE_DEBUG      ? QUARANTINE_DEBUG
                        : s->mode == FH_MODE_HARDENED ? QUARANTINE_HARDENED
                                                      : 0;
}
