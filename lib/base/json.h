/*
 * json.h: a JSON object on one line, put together in a buffer that is given. Nothing is allocated;
 * what does not fit is dropped, and `is_cut` tells.
 */
#ifndef FH_BASE_JSON_H
#define FH_BASE_JSON_H

#include "base/core/macros.h"

struct fh_json {
    char *text;
    size_t size;
    size_t len; /* < size */
    bool is_cut;
    bool has_member; /* in the innermost object or array: a comma comes before the next */
};

void fh_json_begin(struct fh_json *json, char *text, size_t size);
/* key is NULL inside an array. */
void fh_json_open(struct fh_json *json, const char *key, char bracket);
void fh_json_close(struct fh_json *json, char bracket);
void fh_json_number(struct fh_json *json, const char *key, uint64_t value);
/* Quotes, control characters and what is no UTF-8 are escaped or replaced. */
void fh_json_string(struct fh_json *json, const char *key, const char *value);

#endif
