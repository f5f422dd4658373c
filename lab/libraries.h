/*
 * Malloc libraries of this machine.
 */
#ifndef FH_LAB_LIBRARIES_H
#define FH_LAB_LIBRARIES_H

#include <stdbool.h>
#include <stddef.h>

struct lab_library {
    const char *name;
    const char *description; /* one line, for --list */
    const char *package;     /* of Debian, that has it */
    const char *files[4]; /* the first that is there is taken; none: the C library's own malloc */
};

extern const struct lab_library lab_libraries[];
extern const size_t lab_library_count;

/* NULL when there is none of that name. */
const struct lab_library *lab_library_named(const char *name);
/* Its absolute path, empty for the C library's; false when it is not installed. */
bool lab_library_find(const struct lab_library *library, char *path, size_t size);

#endif
