/*
 * The offline page: the template's bytes, and where it says FREEHOLD_DATA the data.
 *
 * The data stand in a script element of type application/json. What a browser looks for there is the
 * end of the element, and "<!--", so every '<' is written as \u003c: the same text to a JSON parser, and
 * nothing to the browser's (HTML standard, 4.12.1.3). A '<' can only be inside of a string of JSON.
 */
#include "page.h"

#include <errno.h>
#include <json-c/json.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char place[] = "FREEHOLD_DATA";

/* Folder of the running command, with a slash at its end; false when it has no name. */
static bool own_folder(char *path, size_t size)
{
    const ssize_t len = readlink("/proc/self/exe", path, size - 1);
    if (len <= 0) {
        return false;
    }
    path[len] = '\0';
    char *slash = strrchr(path, '/');
    if (slash == NULL) {
        return false;
    }
    slash[1] = '\0';
    return true;
}

/* Why the build made no page: one line that it left. */
static void read_reason(const char *folder, char *reason, size_t size)
{
    char path[PATH_MAX + 32];
    snprintf(path, sizeof(path), "%sreport/reason", folder);
    FILE *file = fopen(path, "re");
    if (file == NULL || fgets(reason, (int)size, file) == NULL) {
        snprintf(reason, size, "its template is not beside the command nor in %s",
                 FREEHOLD_DATADIR);
    }
    reason[strcspn(reason, "\n")] = '\0';
    if (file != NULL) {
        fclose(file);
    }
}

bool page_find(char *path, size_t size)
{
    static const char *const names[] = {
        "report/report.html",
        FREEHOLD_DATADIR_FROM_BINDIR "/freehold/report.html",
    };
    char folder[PATH_MAX] = "";
    const bool has_folder = own_folder(folder, sizeof(folder));
    for (size_t i = 0; has_folder && i < sizeof(names) / sizeof(names[0]); i++) {
        const int len = snprintf(path, size, "%s%s", folder, names[i]);
        if (len > 0 && (size_t)len < size && access(path, R_OK) == 0) {
            return true;
        }
    }
    snprintf(path, size, "%s/freehold/report.html", FREEHOLD_DATADIR);
    if (access(path, R_OK) == 0) {
        return true;
    }
    read_reason(folder, path, size);
    return false;
}

/* The whole file, with a NUL behind it; NULL and errno. */
static char *read_all(const char *path)
{
    FILE *file = fopen(path, "re");
    if (file == NULL) {
        return NULL;
    }
    char *text = NULL;
    long len = -1;
    if (fseek(file, 0, SEEK_END) == 0) {
        len = ftell(file);
    }
    if (len >= 0 && fseek(file, 0, SEEK_SET) == 0) {
        text = malloc((size_t)len + 1);
    }
    if (text != NULL) {
        const size_t got = fread(text, 1, (size_t)len, file);
        text[got] = '\0';
    }
    fclose(file);
    return text;
}

/* False, with the errno of the write that failed: the stream keeps only that one did. */
static bool write_bytes(FILE *out, const char *bytes, size_t size)
{
    return fwrite(bytes, 1, size, out) == size;
}

static bool write_escaped(FILE *out, const char *json)
{
    static const char escape[] = "\\u003c";
    while (*json != '\0') {
        const size_t plain = strcspn(json, "<");
        if (!write_bytes(out, json, plain)) {
            return false;
        }
        json += plain;
        if (*json == '<') {
            if (!write_bytes(out, escape, sizeof(escape) - 1)) {
                return false;
            }
            json++;
        }
    }
    return true;
}

static int write_parts(FILE *out, char *template, const char *kind, struct json_object *data)
{
    char *at = strstr(template, place);
    if (at == NULL) {
        return -EBADMSG;
    }
    const char *json = json_object_to_json_string_ext(data, JSON_C_TO_STRING_PLAIN |
                                                                JSON_C_TO_STRING_NOSLASHESCAPE);
    if (json == NULL) {
        return -ENOMEM;
    }
    const char *rest = at + sizeof(place) - 1;
    errno = 0;
    const bool is_written = write_bytes(out, template, (size_t)(at - template)) &&
                            fprintf(out, "{\"kind\":\"%s\",\"data\":", kind) >= 0 &&
                            write_escaped(out, json) && write_bytes(out, "}", 1) &&
                            write_bytes(out, rest, strlen(rest)) && fflush(out) == 0;
    return is_written ? 0 : errno != 0 ? -errno : -EIO;
}

int page_write(FILE *out, const char *kind, struct json_object *data)
{
    char path[PATH_MAX];
    if (!page_find(path, sizeof(path))) {
        return -ENOENT;
    }
    errno = ENOMEM;
    char *template = read_all(path);
    if (template == NULL) {
        return -errno;
    }
    const int result = write_parts(out, template, kind, data);
    free(template);
    return result;
}
