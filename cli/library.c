/*
 * Finding and preloading libfreehold-malloc, or libfreehold-record.
 *
 * The library belongs to the command: the one built or installed with it, found from where the
 * command's own file lies, so that a build tree, a moved tree and several versions beside each
 * other all work, and nothing in the environment can put another library in its place. The places,
 * in this order: the command's own folder (a build tree); the library folder at the same distance
 * as at installation (../lib or, on Debian,
 * ../lib/<triplet>); and the library folder configured at build time.
 *
 * LD_PRELOAD is a list separated by spaces or colons, without quoting, in which '$' begins a token
 * that the loader expands (ld.so(8)): a path with one of these can't be named and is refused. The
 * user's entries stay, after ours: the first definition of a symbol wins. When ours is the first
 * already (a `freehold run` inside another) nothing is added.
 */
#include "library.h"

#include "cli.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The versioned name is what an installation without development files has. */
static const char *const suffixes[] = {".so.0", ".so"};

static bool is_in(const char *directory, const char *below, const char *name, char *path,
                  size_t size)
{
    for (size_t i = 0; i < sizeof(suffixes) / sizeof(suffixes[0]); i++) {
        char directory_below[PATH_MAX];
        char canonical[PATH_MAX];
        if (snprintf(directory_below, sizeof(directory_below), "%s/%s", directory, below) >=
                (int)sizeof(directory_below) ||
            realpath(directory_below, canonical) == NULL) {
            return false;
        }
        if (snprintf(path, size, "%s/%s%s", canonical, name, suffixes[i]) < (int)size &&
            access(path, R_OK) == 0) {
            return true;
        }
    }
    return false;
}

bool library_find(const char *name, char *path, size_t size)
{
    char own[PATH_MAX];
    const ssize_t len = readlink("/proc/self/exe", own, sizeof(own) - 1);
    if (len > 0) {
        own[len] = '\0';
        *strrchr(own, '/') = '\0';
        if (is_in(own, ".", name, path, size) ||
            is_in(own, FREEHOLD_LIBDIR_FROM_BINDIR, name, path, size)) {
            return true;
        }
    }
    return is_in(FREEHOLD_LIBDIR, ".", name, path, size);
}

static bool is_first_entry(const char *list, const char *path)
{
    list += strspn(list, " :");
    const size_t len = strcspn(list, " :");
    return len == strlen(path) && memcmp(list, path, len) == 0;
}

/* name=first SEPARATOR second; just the one that is there when the other is empty. */
static bool set_joined(const char *name, const char *first, char separator, const char *second)
{
    char *joined = NULL;
    if (*first == '\0' || *second == '\0') {
        return setenv(name, *first == '\0' ? second : first, 1) == 0;
    }
    if (asprintf(&joined, "%s%c%s", first, separator, second) < 0) {
        return false;
    }
    const bool is_set = setenv(name, joined, 1) == 0;
    free(joined);
    return is_set;
}

bool library_preload(const char *path)
{
    if (strpbrk(path, " :$") != NULL) {
        cli_complain(
            "the library's path '%s' holds a space, colon or dollar sign, which the loader does "
            "not accept; move Freehold to a folder without",
            path);
        return false;
    }
    const char *entries = getenv("LD_PRELOAD");
    if (entries == NULL) {
        entries = "";
    }
    if (is_first_entry(entries, path)) {
        return true;
    }
    if (!set_joined("LD_PRELOAD", path, ':', entries)) {
        cli_complain("no memory for the environment");
        return false;
    }
    return true;
}

bool library_configure(const char *settings)
{
    const char *before = getenv("FREEHOLD");
    if (*settings == '\0') {
        return true;
    }
    if (!set_joined("FREEHOLD", before != NULL ? before : "", ',', settings)) {
        cli_complain("no memory for the environment");
        return false;
    }
    return true;
}
