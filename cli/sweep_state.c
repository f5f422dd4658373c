/*
 * What a sweep knows, in memory and in its state file.
 *
 * The file is text, a line a fact, written from top to bottom as the facts become known:
 *
 *     freehold-sweep 1
 *     command WORDS                        the first four lines: what a resumption must agree in
 *     file SIZE MTIME
 *     options MODE EACH ONCE ON INPUT
 *     plain STATUS NS ALLOCATIONS LOST     the run in which nothing failed
 *     module PATH                          count from 1; anywhere before their first use
 *     site NAME COUNT BYTES FIRST FUNCTION LEN FRAME…
 *     ready                                all sites are there
 *     done NAME NTH PERSISTENT VERDICT STATUS NS SIGNAL ADDRESS KIND LEN FRAME…
 *
 * Each line is one write to the end of the file, so that a sweep which is killed at any moment
 * leaves at most its last line cut: a line without its end is not read, and its trial is made
 * again. In texts, control characters, spaces and % are written as %XX. The file goes when the
 * sweep is complete.
 */
#include "sweep.h"

#include "cli.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { LINE_BYTES = 4096 + 20 * SWEEP_FRAMES };

static const char first_line[] = "freehold-sweep 1";

/* ---- In memory ------------------------------------------------------------------------------- */

void sweep_stack_set(struct sweep_stack *stack, const uint64_t *frames, size_t len)
{
    uint64_t *copy = len > 0 ? malloc(len * sizeof(*copy)) : NULL;
    free(stack->frames);
    *stack = (struct sweep_stack){0};
    if (copy != NULL) {
        memcpy(copy, frames, len * sizeof(*copy));
        *stack = (struct sweep_stack){len, copy};
    }
}

/* Room for one more in an array that has `count`; it doubles where count is a power of two. */
static void *with_room(void *array, size_t count, size_t size)
{
    const bool is_full = (count & (count - 1)) == 0;
    return is_full ? realloc(array, (count == 0 ? 1 : 2 * count) * size) : array;
}

bool sweep_site_add(struct sweep *sweep, const struct sweep_site *site)
{
    struct sweep_site *sites = with_room(sweep->sites, sweep->site_count, sizeof(*sites));
    if (sites == NULL) {
        return false;
    }
    sweep->sites = sites;
    sites[sweep->site_count++] = *site;
    return true;
}

static bool plan(struct sweep *sweep, uint64_t nth, bool is_persistent)
{
    for (size_t i = 0; i < sweep->site_count; i++) {
        if (sweep->sites[i].count < nth) {
            continue;
        }
        struct sweep_trial *trials = with_room(sweep->trials, sweep->trial_count, sizeof(*trials));
        if (trials == NULL) {
            return false;
        }
        sweep->trials = trials;
        trials[sweep->trial_count++] =
            (struct sweep_trial){.site = i, .nth = nth, .is_persistent = is_persistent};
    }
    return true;
}

bool sweep_plan(struct sweep *sweep)
{
    const struct sweep_options *wanted = &sweep->options;
    bool is_planned = true;
    for (uint64_t nth = 1; nth <= wanted->each && is_planned; nth++) {
        is_planned = (!wanted->fails_once || plan(sweep, nth, false)) &&
                     (!wanted->fails_on || plan(sweep, nth, true));
    }
    return is_planned;
}

char *sweep_quoted(char **argv)
{
    static const char plain[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./=:,+@%";
    char *text = NULL;
    size_t len;
    FILE *out = open_memstream(&text, &len);
    if (out == NULL) {
        return NULL;
    }
    for (char **word = argv; *word != NULL; word++) {
        const bool is_plain = **word != '\0' && (*word)[strspn(*word, plain)] == '\0';
        fputs(word != argv ? " " : "", out);
        fputs(is_plain ? "" : "'", out);
        for (const char *in = *word; *in != '\0'; in++) {
            fputs(*in == '\'' ? "'\\''" : (char[]){*in, '\0'}, out);
        }
        fputs(is_plain ? "" : "'", out);
    }
    fclose(out);
    return text;
}

/* ---- Lines ----------------------------------------------------------------------------------- */

struct line {
    char text[LINE_BYTES];
    size_t len;
};

static void __attribute__((format(printf, 2, 3))) add(struct line *line, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    const int written =
        vsnprintf(line->text + line->len, sizeof(line->text) - line->len, format, args);
    va_end(args);
    line->len += written > 0 ? (size_t)written : 0;
    line->len = line->len < sizeof(line->text) ? line->len : sizeof(line->text) - 1;
}

static void add_text(struct line *line, const char *text)
{
    add(line, " ");
    for (const unsigned char *in = (const unsigned char *)text; *in != '\0'; in++) {
        add(line, *in <= ' ' || *in == '%' || *in == 0x7f ? "%%%02X" : "%c", *in);
    }
}

static void add_stack(struct line *line, const struct sweep_stack *stack)
{
    add(line, " %zu", stack->len);
    for (size_t i = 0; i < stack->len; i++) {
        add(line, " %" PRIx64, stack->frames[i]);
    }
}

/* Trouble is told once; the sweep goes on, and can't be resumed. */
static void put_line(struct sweep *sweep, struct line *line)
{
    if (sweep->state_fd < 0) {
        return;
    }
    add(line, "\n");
    if (write(sweep->state_fd, line->text, line->len) != (ssize_t)line->len) {
        cli_complain("'%s' can't be written: %s; this sweep can't be resumed",
                     sweep->options.state_file, strerror(errno));
        close(sweep->state_fd);
        sweep->state_fd = -1;
    }
}

/* ---- Writing --------------------------------------------------------------------------------- */

/* What must be the same when a sweep is resumed. */
static void add_identity(const struct sweep *sweep, struct line *line)
{
    struct stat info = {0};
    char *command = sweep_quoted(sweep->options.program);
    stat(sweep->options.path, &info);
    add(line, "%s\ncommand", first_line);
    add_text(line, command != NULL ? command : "");
    add(line, "\nfile %lld %lld.%09ld\noptions", (long long)info.st_size,
        (long long)info.st_mtim.tv_sec, info.st_mtim.tv_nsec);
    add_text(line, sweep->options.mode);
    add(line, " %" PRIu64 " %d %d", sweep->options.each, sweep->options.fails_once,
        sweep->options.fails_on);
    add_text(line, sweep->options.input);
    free(command);
}

static void put_module(struct sweep *sweep, const char *path)
{
    struct line line = {.len = 0};
    add(&line, "module");
    add_text(&line, path);
    put_line(sweep, &line);
}

size_t sweep_module(struct sweep *sweep, const char *path, size_t size)
{
    for (size_t i = 0; i < sweep->module_count; i++) {
        if (strncmp(sweep->modules[i], path, size) == 0) {
            return i;
        }
    }
    char **modules = with_room(sweep->modules, sweep->module_count, sizeof(*modules));
    char *copy = strndup(path, size);
    if (modules != NULL) {
        sweep->modules = modules;
    }
    if (modules == NULL || copy == NULL) {
        free(copy);
        return SIZE_MAX;
    }
    modules[sweep->module_count] = copy;
    put_module(sweep, copy);
    return sweep->module_count++;
}

bool sweep_state_begin(struct sweep *sweep)
{
    struct line line = {.len = 0};
    sweep->state_fd =
        open(sweep->options.state_file, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0666);
    if (sweep->state_fd < 0) {
        cli_complain("--state: '%s' can't be written: %s; choose another FILE",
                     sweep->options.state_file, strerror(errno));
        return false;
    }
    add_identity(sweep, &line);
    add(&line, "\nplain %d %" PRIu64 " %" PRIu64 " %" PRIu64, sweep->wait_status, sweep->wall_ns,
        sweep->allocations, sweep->lost);
    put_line(sweep, &line);
    for (size_t i = 0; i < sweep->module_count; i++) {
        put_module(sweep, sweep->modules[i]);
    }
    for (size_t i = 0; i < sweep->site_count; i++) {
        const struct sweep_site *site = &sweep->sites[i];
        line.len = 0;
        add(&line, "site %" PRIx64 " %" PRIu64 " %" PRIu64 " %" PRIu64, site->name, site->count,
            site->bytes, site->first);
        add_text(&line, site->function);
        add_stack(&line, &site->stack);
        put_line(sweep, &line);
    }
    line.len = 0;
    add(&line, "ready");
    put_line(sweep, &line);
    return true;
}

void sweep_state_add(struct sweep *sweep, const struct sweep_trial *trial)
{
    struct line line = {.len = 0};
    add(&line, "done %" PRIx64 " %" PRIu64 " %d %d %d %" PRIu64 " %d %" PRIx64,
        sweep->sites[trial->site].name, trial->nth, trial->is_persistent, trial->verdict,
        trial->wait_status, trial->wall_ns, trial->signal, trial->address);
    add_text(&line, trial->kind[0] != '\0' ? trial->kind : "-");
    add_stack(&line, &trial->crash);
    put_line(sweep, &line);
}

void sweep_state_end(struct sweep *sweep)
{
    if (sweep->state_fd >= 0) {
        close(sweep->state_fd);
        sweep->state_fd = -1;
    }
    unlink(sweep->options.state_file);
}

/* ---- Reading --------------------------------------------------------------------------------- */

/* The words of a line, taken one by one; a word that is not there makes all that follow it fail. */
struct words {
    char *at;
    bool is_short;
};

static const char *take_word(struct words *words)
{
    char *word = strsep(&words->at, " ");
    words->is_short |= word == NULL;
    return word != NULL ? word : "";
}

static uint64_t take_number(struct words *words, int base)
{
    char *end;
    const char *word = take_word(words);
    const uint64_t number = strtoull(word, &end, base);
    words->is_short |= end == word || *end != '\0';
    return number;
}

/* The text as it was before add_text; owned by the line. */
static const char *take_text(struct words *words)
{
    char *text = (char *)take_word(words);
    char *to = text;
    for (const char *from = text; *from != '\0'; from++) {
        unsigned code;
        if (*from == '%' && sscanf(from + 1, "%2X", &code) == 1) {
            *to++ = (char)code;
            from += 2;
        } else {
            *to++ = *from;
        }
    }
    *to = '\0';
    return text;
}

static void take_stack(const struct sweep *sweep, struct words *words, struct sweep_stack *stack)
{
    uint64_t frames[SWEEP_FRAMES];
    const size_t len = take_number(words, 10);
    words->is_short |= len > SWEEP_FRAMES;
    for (size_t i = 0; i < len && !words->is_short; i++) {
        frames[i] = take_number(words, 16);
        words->is_short |= frames[i] >> SWEEP_MODULE_SHIFT > sweep->module_count;
    }
    if (!words->is_short) {
        sweep_stack_set(stack, frames, len);
    }
}

static bool read_plain(struct sweep *sweep, struct words *words)
{
    sweep->wait_status = (int)take_number(words, 10);
    sweep->wall_ns = take_number(words, 10);
    sweep->allocations = take_number(words, 10);
    sweep->lost = take_number(words, 10);
    return !words->is_short;
}

static bool read_site(struct sweep *sweep, struct words *words)
{
    struct sweep_site site = {.name = take_number(words, 16)};
    site.count = take_number(words, 10);
    site.bytes = take_number(words, 10);
    site.first = take_number(words, 10);
    snprintf(site.function, sizeof(site.function), "%s", take_text(words));
    take_stack(sweep, words, &site.stack);
    return !words->is_short && sweep_site_add(sweep, &site);
}

/* Trials come back in about the order in which they were planned: the search goes on where the last
 * one ended. */
static struct sweep_trial *find_trial(struct sweep *sweep, uint64_t name, uint64_t nth,
                                      bool is_persistent)
{
    static size_t last;
    for (size_t i = 0; i < sweep->trial_count; i++) {
        const size_t at = (last + i) % sweep->trial_count;
        struct sweep_trial *trial = &sweep->trials[at];
        if (trial->nth == nth && trial->is_persistent == is_persistent &&
            sweep->sites[trial->site].name == name) {
            last = at;
            return trial;
        }
    }
    return NULL;
}

static bool read_done(struct sweep *sweep, struct words *words)
{
    const uint64_t name = take_number(words, 16);
    const uint64_t nth = take_number(words, 10);
    struct sweep_trial *trial = find_trial(sweep, name, nth, take_number(words, 10) != 0);
    const uint64_t verdict = take_number(words, 10);
    if (trial == NULL || trial->verdict != SWEEP_WAITING || verdict <= SWEEP_WAITING ||
        verdict > SWEEP_MISSED) {
        return false;
    }
    trial->wait_status = (int)take_number(words, 10);
    trial->wall_ns = take_number(words, 10);
    trial->signal = (int)take_number(words, 10);
    trial->address = take_number(words, 16);
    const char *kind = take_text(words);
    snprintf(trial->kind, sizeof(trial->kind), "%s", strcmp(kind, "-") != 0 ? kind : "");
    take_stack(sweep, words, &trial->crash);
    if (words->is_short) {
        return false;
    }
    trial->verdict = (enum sweep_verdict)verdict;
    sweep->done++;
    return true;
}

/* One whole line behind the identity. */
static bool read_line(struct sweep *sweep, char *text, bool *is_ready)
{
    struct words words = {text, false};
    const char *what = take_word(&words);
    if (strcmp(what, "module") == 0) {
        const char *path = take_text(&words);
        return sweep_module(sweep, path, strlen(path) + 1) != SIZE_MAX;
    }
    if (strcmp(what, "plain") == 0) {
        return read_plain(sweep, &words);
    }
    if (strcmp(what, "site") == 0) {
        return !*is_ready && read_site(sweep, &words);
    }
    if (strcmp(what, "ready") == 0 && !*is_ready) {
        *is_ready = true;
        return sweep_plan(sweep);
    }
    return strcmp(what, "done") == 0 && *is_ready && read_done(sweep, &words);
}

/* The next line without its end; false at the end of the file, or when the line has none. */
static bool next_line(FILE *in, char **line, size_t *size)
{
    const ssize_t len = getline(line, size, in);
    if (len <= 0 || (*line)[len - 1] != '\n') {
        return false;
    }
    (*line)[len - 1] = '\0';
    return true;
}

static bool has_same_identity(const struct sweep *sweep, FILE *in)
{
    struct line line = {.len = 0};
    char *text = NULL;
    size_t size = 0;
    bool is_same = true;
    add_identity(sweep, &line);
    for (char *rest = line.text, *wanted; is_same && (wanted = strsep(&rest, "\n")) != NULL;) {
        is_same = next_line(in, &text, &size) && strcmp(text, wanted) == 0;
    }
    free(text);
    return is_same;
}

/* Opens it for what is to come, behind the last whole line. */
static bool continue_file(struct sweep *sweep, off_t whole)
{
    sweep->state_fd = open(sweep->options.state_file, O_WRONLY | O_APPEND | O_CLOEXEC);
    if (sweep->state_fd < 0 || ftruncate(sweep->state_fd, whole) != 0) {
        cli_complain("'%s' can't be written: %s", sweep->options.state_file, strerror(errno));
        return false;
    }
    return true;
}

static bool read_facts(struct sweep *sweep, FILE *in, off_t *whole)
{
    char *text = NULL;
    size_t size = 0;
    bool is_right = true;
    bool is_ready = false;
    *whole = ftello(in);
    while (is_right && next_line(in, &text, &size)) {
        is_right = read_line(sweep, text, &is_ready);
        *whole = ftello(in);
    }
    free(text);
    if (!is_right) {
        cli_complain("'%s' is damaged; delete it and begin again without --resume",
                     sweep->options.state_file);
    } else if (!is_ready) {
        cli_complain("'%s' ends before the first run; delete it and begin again without --resume",
                     sweep->options.state_file);
    }
    return is_right && is_ready;
}

bool sweep_state_resume(struct sweep *sweep)
{
    const char *file = sweep->options.state_file;
    FILE *in = fopen(file, "re");
    off_t whole;
    if (in == NULL) {
        cli_complain("--resume: '%s' can't be read: %s", file, strerror(errno));
        return false;
    }
    bool is_read = has_same_identity(sweep, in);
    if (!is_read) {
        cli_complain(
            "'%s' is about another command, other options, or the program's file has changed "
            "since; delete it and begin again without --resume",
            file);
    }
    is_read = is_read && read_facts(sweep, in, &whole) && continue_file(sweep, whole);
    fclose(in);
    sweep->done_before = sweep->done;
    return is_read;
}
