/*
 * What was reported: runs a call that misuses a manager with on_error=continue and the diagnostic
 * descriptor in a temporary file, and says whether a word of the report was among what was written.
 */
#ifndef FH_TESTS_TOLD_H
#define FH_TESTS_TOLD_H

#include "base/message.h"
#include "freehold/stats.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct told {
    FILE *file;
};

static inline struct told told_begin(void)
{
    struct told told = {tmpfile()};
    if (told.file == NULL || fh_ctl_set("on_error", "continue") != 0)
        abort();
    fh_message_to(fileno(told.file));
    return told;
}

/* Ends it. `word` NULL: whether nothing was said at all. */
static inline bool told_end(struct told told, const char *word)
{
    static char text[1 << 16];
    fh_message_to(STDERR_FILENO);
    fh_ctl_set("on_error", "abort");
    rewind(told.file);
    size_t length = fread(text, 1, sizeof text - 1, told.file);
    text[length] = 0;
    fclose(told.file);
    return word == NULL ? length == 0 : strstr(text, word) != NULL;
}

#define TOLD(word, call)                                                                           \
    do {                                                                                           \
        struct told told_ = told_begin();                                                          \
        call;                                                                                      \
        assert_true(told_end(told_, word));                                                        \
    } while (0)

#endif
