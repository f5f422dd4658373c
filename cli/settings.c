/*
 * Settings for FREEHOLD, built up piece by piece.
 *
 * The library ignores what it does not understand, since it must never stop somebody's program; so
 * what is said on the command line is checked here. Sizes are handed on in bytes and names of files
 * in full: the library's own parser, which may run before libc is ready, is spared both.
 */
#include "settings.h"

#include "cli.h"
#include "options.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

bool settings_add(struct settings *settings, const char *name, const char *value)
{
    const size_t room = sizeof(settings->text) - settings->len;
    const int written = snprintf(settings->text + settings->len, room, "%s%s=%s",
                                 settings->len > 0 ? "," : "", name, value);
    if (written < 0 || (size_t)written >= room) {
        cli_complain("the settings are too long; use shorter file names");
        return false;
    }
    settings->len += (size_t)written;
    return true;
}

bool settings_add_choice(struct settings *settings, const char *option, const char *name,
                         const char *value, const char *const *choices, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (strcmp(value, choices[i]) == 0) {
            return settings_add(settings, name, value);
        }
    }
    char list[128] = "";
    size_t len = 0;
    for (size_t i = 0; i < count; i++) {
        const char *separator = i == 0 ? "" : i + 1 == count ? " or " : ", ";
        const int written = snprintf(list + len, sizeof(list) - len, "%s%s", separator, choices[i]);
        len += written > 0 ? (size_t)written : 0;
    }
    const char *nearest = cli_nearest(value, choices, count);
    if (nearest != NULL) {
        cli_complain("--%s takes %s, not '%s'; did you mean '%s'?", option, list, value, nearest);
    } else {
        cli_complain("--%s takes %s, not '%s'", option, list, value);
    }
    return false;
}

bool settings_parse_number(const char *text, long least, long most)
{
    char *end;
    errno = 0;
    const long value = strtol(text, &end, 10);
    return (text[0] == '-' || (text[0] >= '0' && text[0] <= '9')) && *end == '\0' && errno == 0 &&
           value >= least && value <= most;
}

bool settings_add_number(struct settings *settings, const char *option, const char *name,
                         const char *value, long least, long most, const char *meaning)
{
    if (!settings_parse_number(value, least, most)) {
        cli_complain("--%s takes %s, not '%s'", option, meaning, value);
        return false;
    }
    return settings_add(settings, name, value);
}

bool settings_parse_size(const char *text, uint64_t *bytes)
{
    static const char units[] = "kmgt";
    char *end;
    if (text[0] < '0' || text[0] > '9') {
        return false;
    }
    errno = 0;
    const unsigned long long number = strtoull(text, &end, 10);
    unsigned shift = 0;
    if (*end != '\0' && strcasecmp(end, "b") != 0) {
        const char *unit = strchr(units, *end | 0x20); /* in lower case */
        if (unit == NULL || (end[1] != '\0' && strcasecmp(end + 1, "ib") != 0)) {
            return false;
        }
        shift = 10 * (unsigned)(unit - units + 1);
    }
    *bytes = (uint64_t)number << shift;
    return errno == 0 && (*bytes >> shift) == number && *bytes <= INT64_MAX;
}

bool settings_add_size(struct settings *settings, const char *option, const char *name,
                       const char *value, uint64_t least, const char *meaning)
{
    uint64_t bytes;
    char text[32];
    if (!settings_parse_size(value, &bytes) || bytes < least) {
        cli_complain("--%s takes %s, not '%s'", option, meaning, value);
        return false;
    }
    snprintf(text, sizeof(text), "%llu", (unsigned long long)bytes);
    return settings_add(settings, name, text);
}

bool settings_add_file(struct settings *settings, const char *option, const char *name,
                       const char *file)
{
    char folder[PATH_MAX] = "";
    char path[2 * PATH_MAX];
    if (file[0] != '/' && getcwd(folder, sizeof(folder) - 1) == NULL) {
        cli_complain("--%s: the current folder has no name: %s; give an absolute FILE", option,
                     strerror(errno));
        return false;
    }
    snprintf(path, sizeof(path), "%s%s%s", folder, file[0] != '/' ? "/" : "", file);
    if (strchr(path, ',') != NULL) {
        cli_complain("--%s: the name '%s' holds a comma, which separates settings; choose another",
                     option, path);
        return false;
    }
    return settings_add(settings, name, path);
}

/* The last value of the name in "name=value,…", as the library takes it. */
static bool find(const char *text, const char *name, char *value, size_t size)
{
    const size_t name_len = strlen(name);
    bool is_found = false;
    while (*text != '\0') {
        const size_t len = strcspn(text, ",");
        if (len > name_len && strncmp(text, name, name_len) == 0 && text[name_len] == '=') {
            snprintf(value, size, "%.*s", (int)(len - name_len - 1), text + name_len + 1);
            is_found = true;
        }
        text += len + (text[len] == ',');
    }
    return is_found;
}

const char *settings_value(const struct settings *settings, const char *name, char *value,
                           size_t size)
{
    const char *users = getenv("FREEHOLD");
    value[0] = '\0';
    if (!find(settings->text, name, value, size) && users != NULL) {
        find(users, name, value, size);
    }
    return value;
}
