/*
 * What `freehold run` tells the library: "name=value,…" for the variable FREEHOLD, checked here,
 * where a complaint reaches the user before the program has started.
 *
 * Every settings_add_… is false after a complaint that names the option.
 */
#ifndef FH_CLI_SETTINGS_H
#define FH_CLI_SETTINGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* As much as the library reads of FREEHOLD, the end of the string included. */
enum { SETTINGS_LENGTH = 4096 };

struct settings {
    char text[SETTINGS_LENGTH];
    size_t len;
};

/* The value may hold anything but a comma. */
bool settings_add(struct settings *settings, const char *name, const char *value);
/* One of a list of words. */
bool settings_add_choice(struct settings *settings, const char *option, const char *name,
                         const char *value, const char *const *choices, size_t count);
/* A whole number. `meaning` follows "--option takes " in the complaint. */
bool settings_add_number(struct settings *settings, const char *option, const char *name,
                         const char *value, long least, long most, const char *meaning);
/* A number of bytes of at least `least`, with or without a unit: "8M", "64KiB", "100". */
bool settings_add_size(struct settings *settings, const char *option, const char *name,
                       const char *value, uint64_t least, const char *meaning);
/* A file's name, made absolute: the program, and its children, may change folders. */
bool settings_add_file(struct settings *settings, const char *option, const char *name,
                       const char *file);

/* The value that the library will find for the name: of these settings, else of the FREEHOLD
 * that the user has. "" when it is nowhere. */
const char *settings_value(const struct settings *settings, const char *name, char *value,
                           size_t size);

/* Bytes in text like "8M"; false when it is none. K, M, G and T (KiB, MiB, … are the same) are
 * powers of 1024. */
bool settings_parse_size(const char *text, uint64_t *bytes);
bool settings_parse_number(const char *text, long least, long most);

#endif
