/*
 * The library that is preloaded, and the environment that makes a program load it.
 */
#ifndef FH_CLI_LIBRARY_H
#define FH_CLI_LIBRARY_H

#include <stdbool.h>
#include <stddef.h>

/* The path of the library `name` ("libfreehold-malloc") that belongs to this command; false when there is
 * none. */
bool library_find(const char *name, char *path, size_t size);

/* Puts it first in LD_PRELOAD and keeps what the user has there; false (and a complaint) when that
 * can't be. */
bool library_preload(const char *path);

/* Appends ",settings" to the environment's FREEHOLD; later ones win over the user's. False without
 * memory. */
bool library_configure(const char *settings);

#endif
