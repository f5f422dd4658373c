/*
 * Suppressions: errors that somebody knows and can't mend today, such as those of a library.
 *
 *     # one a line
 *     heap-buffer-overflow:parse_legacy_*  max=20
 *     double-free:*libvendor.so*
 *
 * KIND:GLOB [max=N]. KIND is the word that begins a report, or a glob of it. GLOB is held against
 * the name of each function and the path of each module, in the stack of the access and in that of
 * the allocation; * stands for any characters, ? for one; C++ names are as the linker knows them.
 * What is suppressed is counted; beyond max it is reported after all, for a suppression that hides
 * more than it was written for is a danger.
 *
 * The file is read once, when the setting is, into pages of its own. After that nothing changes but
 * the counts, which are the report's, under its lock.
 */
#include "base/core/bits.h"
#include "base/message.h"
#include "guard/report.h"
#include "os/mem.h"
#include "os/sys.h"
#include "stack/stack.h"

#include <errno.h>
#include <string.h>

enum {
    FILE_MOST = 256 << 10,
    SUPPRESSIONS_MOST = 1000,
};

struct suppression {
    const char *kind, *glob;
    uint64_t most, count;
};

static struct {
    char *text; /* the file; names point into it */
    size_t len; /* of list */
    struct suppression *list;
} known;

/* ---- Matching -------------------------------------------------------------------------------- */

/* Greedy with one point to come back to: a later * makes an earlier one's choice final. */
static bool matches(const char *glob, const char *text)
{
    const char *star = NULL, *mark = NULL;
    while (*text != 0) {
        if (*glob == '*') {
            star = ++glob;
            mark = text;
        } else if (*glob == '?' || *glob == *text) {
            glob++;
            text++;
        } else if (star != NULL) {
            glob = star;
            text = ++mark;
        } else {
            return false;
        }
    }
    while (*glob == '*')
        glob++;
    return *glob == 0;
}

static bool matches_place(const struct suppression *it, const struct fh_stack_place *place)
{
    return place->module != NULL &&
           (matches(it->glob, place->module) ||
            (place->function[0] != 0 && matches(it->glob, place->function)));
}

static int find_in(const struct fh_report_stack *stack, const char *kind)
{
    struct fh_stack_place place;
    for (size_t frame = 0; frame < stack->len; frame++) {
        fh_stack_locate(stack->frames[frame], &place);
        for (size_t i = 0; i < known.len; i++)
            if (matches(known.list[i].kind, kind) && matches_place(&known.list[i], &place))
                return (int)i;
    }
    return -1;
}

int fh_suppress_find(const struct fh_report *report)
{
    if (known.len == 0)
        return -1;
    int found = find_in(&report->access, report->error->kind);
    return found >= 0 ? found : find_in(&report->allocation, report->error->kind);
}

bool fh_suppress_count(int suppression)
{
    struct suppression *it = &known.list[suppression];
    if (it->count >= it->most)
        return false;
    it->count++;
    return true;
}

uint64_t fh_suppress_total(void)
{
    uint64_t total = 0;
    for (size_t i = 0; i < known.len; i++)
        total += known.list[i].count;
    return total;
}

/* ---- Reading --------------------------------------------------------------------------------- */

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r';
}

/* Ends the word that begins at *at, and moves on to the next. */
static char *take_word(char **at)
{
    char *word = *at;
    while (is_blank(*word))
        word++;
    char *end = word;
    while (*end != 0 && !is_blank(*end))
        end++;
    *at = *end != 0 ? end + 1 : end;
    *end = 0;
    return word;
}

static bool parse_most(const char *text, uint64_t *out)
{
    uint64_t value = 0;
    if (strncmp(text, "max=", 4) != 0 || text[4] == 0)
        return false;
    for (text += 4; *text != 0; text++) {
        if (*text < '0' || *text > '9' || value > UINT32_MAX)
            return false;
        value = value * 10 + (uint64_t)(*text - '0');
    }
    *out = value;
    return true;
}

/* What is wrong with the line, or NULL. A line without a suppression leaves glob NULL. */
static const char *parse_line(char *line, struct suppression *out)
{
    *out = (struct suppression){.most = UINT64_MAX};
    char *word = take_word(&line), *colon = strchr(word, ':');
    if (*word == 0 || *word == '#')
        return NULL;
    if (colon == NULL || colon == word || colon[1] == 0)
        return "expected KIND:GLOB";
    *colon = 0;
    const char *option = take_word(&line);
    if (*option != 0 && *option != '#' && !parse_most(option, &out->most))
        return "after KIND:GLOB only max=N may follow";
    out->kind = word;
    out->glob = colon + 1;
    return NULL;
}

static void add_lines(const char *path)
{
    unsigned number = 1;
    for (char *line = known.text; line != NULL; number++) {
        char *next = strchr(line, '\n');
        if (next != NULL)
            *next++ = 0;
        struct suppression it;
        const char *wrong = parse_line(line, &it);
        if (wrong != NULL)
            fh_message("suppress: %s:%u: %s; the line is ignored", path, number, wrong);
        else if (it.glob != NULL && known.len == SUPPRESSIONS_MOST)
            fh_message("suppress: %s:%u: more than %d suppressions; the line is ignored", path,
                       number, SUPPRESSIONS_MOST);
        else if (it.glob != NULL)
            known.list[known.len++] = it;
        line = next;
    }
}

int fh_suppress_from(const char *path)
{
    if (known.text != NULL)
        return -EBUSY;
    size_t list_bytes = SUPPRESSIONS_MOST * sizeof(struct suppression);
    char *memory = fh_os_map(fh_align_up(list_bytes + FILE_MOST, fh_os_page_size));
    if (memory == NULL)
        return -ENOMEM;
    known.list = (struct suppression *)memory;
    known.text = memory + list_bytes;
    int64_t got = fh_os_read_file(path, known.text, FILE_MOST);
    if (got == FILE_MOST - 1)
        got = -EFBIG;
    if (got < 0) {
        fh_message("suppress=%s can't be read (error %d); nothing is suppressed", path, (int)-got);
        known.text[0] = 0;
        return (int)got;
    }
    add_lines(path);
    return 0;
}
