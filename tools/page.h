/*
 * The offline page (report/): a template that was built with Freehold, with data put into it.
 */
#ifndef FH_TOOLS_PAGE_H
#define FH_TOOLS_PAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

struct json_object;

/* The template: beside the command in a build, in its data folder when installed. False: this build
 * has none, and `path` holds the reason, which continues the sentence "this build of Freehold has no
 * page: …". */
bool page_find(char *path, size_t size);

/* Writes the page that shows data of a kind ("replay", "advise"; report/src/main.js lists them). 0;
 * -ENOENT no template; -EBADMSG it has no place for data; another negative errno: out can't be
 * written, or the template not read. */
int page_write(FILE *out, const char *kind, struct json_object *data);

#endif
