/*
 * Where malloc libraries lie. They are preloaded by their absolute path, so that it is known which
 * file was measured; nothing of them is loaded here. The folders are those of the loader's usual
 * search on Debian, Fedora and their relatives, after LD_LIBRARY_PATH.
 */
#include "libraries.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const struct lab_library lab_libraries[] = {
    {"glibc", "the C library's malloc", NULL, {NULL}},
    {"jemalloc",
     "jemalloc, where it is installed",
     "libjemalloc2",
     {"libjemalloc.so.2", "libjemalloc.so"}},
    {"mimalloc",
     "mimalloc, where it is installed",
     "libmimalloc2.0",
     {"libmimalloc.so.3", "libmimalloc.so.2", "libmimalloc.so"}},
    {"tcmalloc",
     "tcmalloc of gperftools, where it is installed",
     "libtcmalloc-minimal4",
     {"libtcmalloc_minimal.so.4", "libtcmalloc.so.4", "libtcmalloc_minimal.so"}},
};
const size_t lab_library_count = sizeof(lab_libraries) / sizeof(lab_libraries[0]);

static const char *const folders[] = {
#if defined(__x86_64__)
    "/usr/local/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
#elif defined(__aarch64__)
    "/usr/local/lib/aarch64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
#endif
    "/usr/local/lib",
    "/usr/lib64",
    "/usr/lib",
};

const struct lab_library *lab_library_named(const char *name)
{
    for (size_t i = 0; i < lab_library_count; i++) {
        if (strcmp(lab_libraries[i].name, name) == 0) {
            return &lab_libraries[i];
        }
    }
    return NULL;
}

static bool is_in(const char *folder, size_t folder_len, const char *file, char *path, size_t size)
{
    char candidate[PATH_MAX];
    char canonical[PATH_MAX];
    const int len =
        snprintf(candidate, sizeof(candidate), "%.*s/%s", (int)folder_len, folder, file);
    if (len < 0 || (size_t)len >= sizeof(candidate) || access(candidate, R_OK) != 0 ||
        realpath(candidate, canonical) == NULL || strlen(canonical) >= size) {
        return false;
    }
    strcpy(path, canonical);
    return true;
}

static bool find_file(const char *file, char *path, size_t size)
{
    const char *list = getenv("LD_LIBRARY_PATH");
    while (list != NULL && *list != '\0') {
        const size_t len = strcspn(list, ":;");
        if (list[0] == '/' && is_in(list, len, file, path, size)) {
            return true;
        }
        list += len + (list[len] != '\0');
    }
    for (size_t i = 0; i < sizeof(folders) / sizeof(folders[0]); i++) {
        if (is_in(folders[i], strlen(folders[i]), file, path, size)) {
            return true;
        }
    }
    return false;
}

bool lab_library_find(const struct lab_library *library, char *path, size_t size)
{
    path[0] = '\0';
    if (library->files[0] == NULL) {
        return true;
    }
    for (size_t i = 0; i < sizeof(library->files) / sizeof(library->files[0]); i++) {
        if (library->files[i] != NULL && find_file(library->files[i], path, size)) {
            return true;
        }
    }
    return false;
}
