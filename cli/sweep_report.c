/*
 * What a sweep has found, with names.
 *
 * Many sites lead to one mistake: a helper that does not check is called from everywhere. So
 * findings of one kind that crash at the same place are told as one, with the first of its sites in
 * full and the others by what repeats them. The place is the innermost frame that is the program's,
 * and what it called of the C and C++ libraries, where nobody's mistake is looked for. JSON has
 * every finding whole, and the number of its group.
 */
#include "sweep.h"

#include "tools/symbols.h"

#include <inttypes.h>
#include <json-c/json.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

enum {
    SAME_FRAMES =
        3, /* at the crash: the faulting function, often the C library's, and who called it */
    SHOWN_FRAMES = 16,
    SHOWN_SITES = 5, /* of a group, besides the first */
    FORMAT = 1,
};

bool sweep_is_finding(const struct sweep_trial *trial)
{
    return trial->verdict == SWEEP_CRASH || trial->verdict == SWEEP_HANG;
}

/* ---- Groups ---------------------------------------------------------------------------------- */

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash != NULL ? slash + 1 : path;
}

/* Whether the frame lies in a library of the language's. */
static bool is_in_library(const struct sweep *sweep, uint64_t frame)
{
    static const char *const libraries[] = {"libc.so.", "libstdc++.so.", "libm.so.", "ld-linux"};
    const uint64_t module = frame >> SWEEP_MODULE_SHIFT;
    for (size_t i = 0; module != 0 && i < sizeof(libraries) / sizeof(libraries[0]); i++) {
        if (strncmp(base_name(sweep->modules[module - 1]), libraries[i], strlen(libraries[i])) ==
            0) {
            return true;
        }
    }
    return false;
}

/* How many of the innermost frames say where it crashed. */
static size_t place_len(const struct sweep *sweep, const struct sweep_stack *stack)
{
    size_t len = 0;
    while (len < stack->len && is_in_library(sweep, stack->frames[len])) {
        len++;
    }
    return len < stack->len ? len + 1 : len;
}

static bool is_same(const struct sweep *sweep, const struct sweep_trial *one,
                    const struct sweep_trial *other)
{
    const size_t len = place_len(sweep, &one->crash);
    /* Of a crash at no known place, each is one of its own. */
    return len != 0 && one->verdict == other->verdict && one->signal == other->signal &&
           strcmp(one->kind, other->kind) == 0 && len == place_len(sweep, &other->crash) &&
           memcmp(one->crash.frames, other->crash.frames, len * sizeof(uint64_t)) == 0;
}

/* For each trial the index of the first one of its group. Owned by the caller; NULL without
 * memory. */
static size_t *find_groups(const struct sweep *sweep)
{
    size_t *groups = calloc(sweep->trial_count + 1, sizeof(*groups));
    for (size_t i = 0; groups != NULL && i < sweep->trial_count; i++) {
        groups[i] = i;
        for (size_t j = 0; j < i && sweep_is_finding(&sweep->trials[i]); j++) {
            if (groups[j] == j && is_same(sweep, &sweep->trials[j], &sweep->trials[i])) {
                groups[i] = j;
                break;
            }
        }
    }
    return groups;
}

/* ---- Words ----------------------------------------------------------------------------------- */

static void describe(const struct sweep_trial *trial, char *text, size_t size)
{
    const char *signal = trial->signal != 0 ? sigabbrev_np(trial->signal) : NULL;
    if (trial->verdict == SWEEP_HANG) {
        snprintf(text, size, "hang: not over after %s", figure_duration(trial->wall_ns).text);
    } else if (trial->kind[0] != '\0') {
        snprintf(text, size, "crash: %s", trial->kind);
    } else if (signal != NULL && (trial->signal == SIGSEGV || trial->signal == SIGBUS) &&
               trial->crash.len > 0) {
        snprintf(text, size, "crash: SIG%s at address 0x%" PRIx64, signal, trial->address);
    } else {
        snprintf(text, size, "crash: SIG%s", signal != NULL ? signal : "?");
    }
}

static void reproduce(const struct sweep *sweep, const struct sweep_trial *trial, char *text,
                      size_t size)
{
    char condition[96];
    char *command = sweep_quoted(sweep->options.program);
    char *input = sweep_quoted((char *[]){(char *)sweep->options.input, NULL});
    const bool has_mode = strcmp(sweep->options.mode, "fast") != 0;
    sweep_condition(sweep, trial, condition, sizeof(condition));
    snprintf(text, size, "freehold run%s%s --fail %s -- %s < %s", has_mode ? " --mode " : "",
             has_mode ? sweep->options.mode : "", condition, command != NULL ? command : "?",
             input != NULL ? input : "?");
    free(command);
    free(input);
}

static struct symbols *open_symbols(const struct sweep *sweep)
{
    struct symbols *symbols = symbols_open();
    for (size_t i = 0; symbols != NULL && i < sweep->module_count; i++) {
        const uint64_t begin = (uint64_t)(i + 1) << SWEEP_MODULE_SHIFT;
        const struct fh_trace_module module = {
            .begin = begin,
            .end = begin + ((uint64_t)1 << SWEEP_MODULE_SHIFT) - 1,
            .bias = begin,
            .until_ns = UINT64_MAX,
            .path = sweep->modules[i],
        };
        symbols_add_module(symbols, &module);
    }
    return symbols;
}

/* ---- For people ------------------------------------------------------------------------------ */

static void print_frame(FILE *out, size_t number, const struct symbols_frame *frame)
{
    fprintf(out, "      #%zu %s", number, frame->function);
    if (frame->file != NULL) {
        fprintf(out, " %s:%u", base_name(frame->file), frame->line);
    } else if (frame->has_name && frame->module != NULL) {
        fprintf(out, " (%s)", base_name(frame->module));
    }
    fputc('\n', out);
}

static void print_stack(FILE *out, struct symbols *symbols, const struct sweep_stack *stack)
{
    size_t number = 0;
    for (size_t i = 0; i < stack->len && number < SHOWN_FRAMES; i++) {
        const struct symbols_frame *frames;
        const size_t count = symbols_look_up(symbols, stack->frames[i] - 1, 0, &frames);
        for (size_t j = 0; j < count && number < SHOWN_FRAMES; j++) {
            print_frame(out, number++, &frames[j]);
            if (strcmp(frames[j].function, "main") == 0) {
                return; /* what started the program is in every stack */
            }
        }
    }
}

static void print_others(const struct sweep *sweep, const size_t *groups, size_t first, FILE *out)
{
    size_t others = 0;
    char condition[96];
    for (size_t i = first + 1; i < sweep->trial_count; i++) {
        if (groups[i] != first || !sweep_is_finding(&sweep->trials[i])) {
            continue;
        }
        if (others++ < SHOWN_SITES) {
            sweep_condition(sweep, &sweep->trials[i], condition, sizeof(condition));
            fprintf(out, "%s%s", others == 1 ? "    also with --fail " : ", ", condition);
        }
    }
    if (others > SHOWN_SITES) {
        fprintf(out, " and %zu more", others - SHOWN_SITES);
    }
    fputs(others > 0 ? "\n" : "", out);
}

static void print_finding(const struct sweep *sweep, struct symbols *symbols, const size_t *groups,
                          size_t index, size_t number, const struct term *term)
{
    const struct sweep_trial *trial = &sweep->trials[index];
    const struct sweep_site *site = &sweep->sites[trial->site];
    char text[8192];
    FILE *out = term->out;
    describe(trial, text, sizeof(text));
    fprintf(out, "\n%s%zu. %s%s\n", term_style(term, TERM_BAD), number, text,
            term_style(term, TERM_PLAIN));
    fprintf(out, "    when %s failed%s (call %" PRIu64 " of %" PRIu64 ") in\n", site->function,
            trial->is_persistent ? ", and all after it," : "", trial->nth, site->count);
    print_stack(out, symbols, &site->stack);
    if (trial->crash.len > 0) {
        fprintf(out, "    %s\n", trial->verdict == SWEEP_HANG ? "it was then at" : "it crashed at");
        print_stack(out, symbols, &trial->crash);
    }
    reproduce(sweep, trial, text, sizeof(text));
    fprintf(out, "    to repeat: %s\n", text);
    print_others(sweep, groups, index, out);
}

struct tally {
    size_t of[SWEEP_MISSED + 1];
    size_t same_status; /* handled, and it ended as the plain run did */
};

static struct tally tally_of(const struct sweep *sweep)
{
    struct tally tally = {0};
    for (size_t i = 0; i < sweep->trial_count; i++) {
        const struct sweep_trial *trial = &sweep->trials[i];
        tally.of[trial->verdict]++;
        tally.same_status +=
            trial->verdict == SWEEP_HANDLED && trial->wait_status == sweep->wait_status;
    }
    return tally;
}

static void print_summary(const struct sweep *sweep, size_t group_count, const struct term *term)
{
    const struct tally tally = tally_of(sweep);
    FILE *out = term->out;
    fprintf(
        out,
        "\n%s%zu crashes and %zu hangs%s in %zu runs, %zu different; %zu runs handled the failure "
        "(%zu ended with status %d as without it)",
        term_style(term, TERM_BOLD), tally.of[SWEEP_CRASH], tally.of[SWEEP_HANG],
        term_style(term, TERM_PLAIN), sweep->done, group_count, tally.of[SWEEP_HANDLED],
        tally.same_status, WEXITSTATUS(sweep->wait_status));
    if (tally.of[SWEEP_MISSED] > 0) {
        fprintf(out, "; %zu runs did not come to their allocation", tally.of[SWEEP_MISSED]);
    }
    if (tally.of[SWEEP_WAITING] > 0) {
        fprintf(out, "; %zu runs are still to be made", tally.of[SWEEP_WAITING]);
    }
    fputc('\n', out);
    if (sweep->lost > 0) {
        fprintf(out,
                "The program has more sites than can be told apart: %" PRIu64
                " allocations belong to none of those tried.\n",
                sweep->lost);
    }
}

size_t sweep_report(const struct sweep *sweep, struct term *term)
{
    struct symbols *symbols = open_symbols(sweep);
    size_t *groups = find_groups(sweep);
    size_t found = 0;
    size_t group_count = 0;
    for (size_t i = 0; groups != NULL && symbols != NULL && i < sweep->trial_count; i++) {
        if (!sweep_is_finding(&sweep->trials[i])) {
            continue;
        }
        found++;
        if (groups[i] == i) {
            print_finding(sweep, symbols, groups, i, ++group_count, term);
        }
    }
    print_summary(sweep, group_count, term);
    for (size_t i = 0; symbols != NULL && symbols_hint(symbols, i) != NULL && i < SHOWN_SITES;
         i++) {
        fprintf(term->out, "note: %s\n", symbols_hint(symbols, i));
    }
    if (symbols != NULL) {
        symbols_close(symbols);
    }
    free(groups);
    return found;
}

/* ---- For programs ---------------------------------------------------------------------------- */

static void put(struct json_object *object, const char *key, uint64_t value)
{
    json_object_object_add(object, key, json_object_new_uint64(value));
}

static void put_text(struct json_object *object, const char *key, const char *text)
{
    json_object_object_add(object, key, text != NULL ? json_object_new_string(text) : NULL);
}

static struct json_object *stack_as_json(struct symbols *symbols, const struct sweep_stack *stack)
{
    struct json_object *array = json_object_new_array();
    for (size_t i = 0; i < stack->len; i++) {
        const struct symbols_frame *frames;
        const size_t count = symbols_look_up(symbols, stack->frames[i] - 1, 0, &frames);
        for (size_t j = 0; j < count; j++) {
            struct json_object *frame = json_object_new_object();
            put_text(frame, "function", frames[j].function);
            put_text(frame, "file", frames[j].file);
            put(frame, "line", frames[j].line);
            put_text(frame, "module", frames[j].module);
            put(frame, "offset", stack->frames[i] & (((uint64_t)1 << SWEEP_MODULE_SHIFT) - 1));
            json_object_array_add(array, frame);
        }
    }
    return array;
}

static struct json_object *end_as_json(int wait_status)
{
    struct json_object *object = json_object_new_object();
    if (WIFSIGNALED(wait_status)) {
        put(object, "signal", (uint64_t)WTERMSIG(wait_status));
    } else {
        put(object, "status", (uint64_t)WEXITSTATUS(wait_status));
    }
    return object;
}

static struct json_object *site_as_json(struct symbols *symbols, const struct sweep_site *site)
{
    struct json_object *object = json_object_new_object();
    char name[32];
    snprintf(name, sizeof(name), "0x%016" PRIx64, site->name);
    put_text(object, "site", name);
    put_text(object, "function", site->function);
    put(object, "count", site->count);
    put(object, "bytes", site->bytes);
    json_object_object_add(object, "stack", stack_as_json(symbols, &site->stack));
    return object;
}

static struct json_object *finding_as_json(const struct sweep *sweep, struct symbols *symbols,
                                           const struct sweep_trial *trial, size_t group)
{
    struct json_object *object = json_object_new_object();
    char text[8192];
    put_text(object, "verdict", trial->verdict == SWEEP_HANG ? "hang" : "crash");
    put(object, "group", group);
    put_text(object, "kind", trial->kind[0] != '\0' ? trial->kind : NULL);
    put(object, "signal", (uint64_t)trial->signal);
    put(object, "address", trial->address);
    put(object, "wall_ns", trial->wall_ns);
    json_object_object_add(object, "end", end_as_json(trial->wait_status));
    put(object, "nth", trial->nth);
    json_object_object_add(object, "persist", json_object_new_boolean(trial->is_persistent));
    json_object_object_add(object, "allocation", site_as_json(symbols, &sweep->sites[trial->site]));
    json_object_object_add(object, "crash", stack_as_json(symbols, &trial->crash));
    sweep_condition(sweep, trial, text, sizeof(text));
    put_text(object, "fail", text);
    reproduce(sweep, trial, text, sizeof(text));
    put_text(object, "reproduce", text);
    return object;
}

static struct json_object *plain_as_json(const struct sweep *sweep)
{
    struct json_object *object = json_object_new_object();
    json_object_object_add(object, "end", end_as_json(sweep->wait_status));
    put(object, "wall_ns", sweep->wall_ns);
    put(object, "allocations", sweep->allocations);
    put(object, "sites", sweep->site_count);
    put(object, "lost", sweep->lost);
    return object;
}

static struct json_object *findings_as_json(const struct sweep *sweep, struct symbols *symbols,
                                            const size_t *groups)
{
    struct json_object *array = json_object_new_array();
    for (size_t i = 0; i < sweep->trial_count; i++) {
        if (sweep_is_finding(&sweep->trials[i])) {
            json_object_array_add(array,
                                  finding_as_json(sweep, symbols, &sweep->trials[i], groups[i]));
        }
    }
    return array;
}

static struct json_object *sweep_as_json(const struct sweep *sweep, struct symbols *symbols,
                                         const size_t *groups)
{
    const struct tally tally = tally_of(sweep);
    struct json_object *all = json_object_new_object();
    struct json_object *command = json_object_new_array();
    for (char **word = sweep->options.program; *word != NULL; word++) {
        json_object_array_add(command, json_object_new_string(*word));
    }
    put(all, "freehold", FORMAT);
    put_text(all, "kind", "sweep");
    put_text(all, "version", FREEHOLD_VERSION);
    json_object_object_add(all, "command", command);
    put_text(all, "mode", sweep->options.mode);
    put_text(all, "input", sweep->options.input);
    json_object_object_add(all, "plain", plain_as_json(sweep));
    put(all, "runs", sweep->trial_count);
    put(all, "crashes", tally.of[SWEEP_CRASH]);
    put(all, "hangs", tally.of[SWEEP_HANG]);
    put(all, "handled", tally.of[SWEEP_HANDLED]);
    put(all, "handled_with_same_status", tally.same_status);
    put(all, "missed", tally.of[SWEEP_MISSED]);
    put(all, "waiting", tally.of[SWEEP_WAITING]);
    json_object_object_add(all, "findings", findings_as_json(sweep, symbols, groups));
    return all;
}

bool sweep_write_json(const struct sweep *sweep, FILE *out)
{
    struct symbols *symbols = open_symbols(sweep);
    size_t *groups = find_groups(sweep);
    bool is_written = symbols != NULL && groups != NULL;
    if (is_written) {
        struct json_object *all = sweep_as_json(sweep, symbols, groups);
        const char *text = json_object_to_json_string_ext(all, JSON_C_TO_STRING_PRETTY |
                                                                   JSON_C_TO_STRING_NOSLASHESCAPE);
        is_written = text != NULL && fputs(text, out) >= 0 && fputc('\n', out) != EOF;
        json_object_put(all);
    }
    if (symbols != NULL) {
        symbols_close(symbols);
    }
    free(groups);
    return is_written;
}
