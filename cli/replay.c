/*
 * freehold replay: one recorded trace through many allocators.
 *
 * The order is what makes errors clear: first the command line, with every allocator's name; then
 * the files that will be written; then the trace. It is compiled once (lab/program.h) and replayed
 * in processes of its own for each allocator and round (lab/contest.h), which are this command
 * executed anew; what they found is reported at the end (replay_report.h).
 *
 * A trace that was cut off, as a recording that was killed leaves it, is replayed as far as it
 * goes, with a note. One that is damaged is too, but the command ends with 3.
 */
#include "cli.h"
#include "library.h"
#include "options.h"
#include "output.h"
#include "program.h"
#include "replay_report.h"
#include "term.h"

#include "lab/contest.h"
#include "lab/libraries.h"
#include "tools/page.h"

#include "freehold/trace.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    OPTION_ALLOCATORS = 1,
    OPTION_ROUNDS,
    OPTION_PROCESS,
    OPTION_LATENCY,
    OPTION_MINIMUM,
    OPTION_JSON,
    OPTION_HTML,
    OPTION_MAP,
    OPTION_LIST,
};

static const struct cli_option options[] = {
    {"allocators", "LIST",
     "only these, separated by commas: names of --list, or paths of\nmalloc libraries",
     OPTION_ALLOCATORS},
    {"rounds", "N", "replay N times (default 5, at most 99) and take the median", OPTION_ROUNDS},
    {"process", "N",
     "replay process N of the trace, counted from 0 (default: the one\nwith the most events)",
     OPTION_PROCESS},
    {"latency", NULL, "time each call: median, 99 %, 99.99 %, and the worst", OPTION_LATENCY},
    {"minimum", NULL,
     "search the least memory in which each allocator that lives in one\nrange serves the trace",
     OPTION_MINIMUM},
    {"json", "FILE", "write all figures to FILE (- for standard output)", OPTION_JSON},
    {"html", "FILE", "write a page for a browser to FILE: tables and charts, in one file",
     OPTION_HTML},
    {"map", "FILE",
     "draw the blocks of each manager's memory, at the end and over the\nreplay, to FILE.png or "
     "FILE.svg; several go to FILE-NAME.png",
     OPTION_MAP},
    {"list", NULL, "list the allocators, and end", OPTION_LIST},
};
enum { OPTIONS = sizeof(options) / sizeof(options[0]) };

enum {
    MOST_CONTESTANTS = 64,
    DEFAULT_ROUNDS = 5,
    NO_PROCESS = -1,
};

/* A malloc that is not in lab_libraries: it comes with this command. */
static const char own_malloc[] = "freehold";

struct request {
    const char *file;
    const char *json_file;
    const char *html_file;
    const char *map_file;
    long process; /* NO_PROCESS: choose */
    long rounds;
    bool wants_list, wants_latency, wants_minimum;
    const char *list;    /* of --allocators; NULL: all */
    bool is_one_missing; /* that was asked for by its name */
    struct lab_contestant *contestants;
    size_t count;
};

static int print_help(void)
{
    puts("Usage: freehold replay [OPTION...] FILE\n"
         "\n"
         "Runs the allocations that freehold record wrote to FILE through every allocator, each\n"
         "in a process of its own, and shows time, memory and fragmentation side by side.\n"
         "\n"
         "Options:");
    cli_print_options(options, OPTIONS);
    puts("\n"
         "Exit status: 0; 1 when an allocator died or there is nothing to replay; 2 for wrong\n"
         "arguments; 3 when FILE is damaged, no trace or of a newer version; 4 when an allocator\n"
         "that was asked for is not installed, or memory is lacking.\n"
         "\n"
         "Examples:\n"
         "  freehold replay run.fht\n"
         "  freehold replay --allocators tlsf,best-fit,glibc --minimum run.fht");
    return cli_finish_output(CLI_OK, CLI_USAGE);
}

/* ---- Allocators ---- */

static bool add_contestant(struct request *request, struct lab_contestant **added)
{
    if (request->count == MOST_CONTESTANTS) {
        cli_complain("--allocators: more than %d; name fewer", MOST_CONTESTANTS);
        return false;
    }
    *added = &request->contestants[request->count++];
    return true;
}

static void name_contestant(struct lab_contestant *who, const char *name)
{
    const size_t len = strlen(name);
    const size_t most = sizeof(who->name) - 1;
    /* Of a long path the end says more. */
    snprintf(who->name, sizeof(who->name), "%s", len > most ? name + len - most : name);
}

/* Of a path: its own name, without folder and version. */
static void name_after_file(struct lab_contestant *who, const char *path)
{
    const char *slash = strrchr(path, '/');
    name_contestant(who, slash != NULL ? slash + 1 : path);
    char *suffix = strstr(who->name, ".so");
    if (suffix != NULL && suffix != who->name) {
        *suffix = '\0';
    }
}

static bool find_malloc(const char *name, char *path, size_t size)
{
    if (strcmp(name, own_malloc) == 0) {
        return library_find("libfreehold-malloc", path, size);
    }
    return lab_library_find(lab_library_named(name), path, size);
}

static bool add_path(struct request *request, const char *path)
{
    struct lab_contestant *who;
    if (!add_contestant(request, &who)) {
        return false;
    }
    if (realpath(path, who->library) == NULL || access(who->library, R_OK) != 0) {
        cli_complain("--allocators: there is no library '%s' that can be read: %s", path,
                     strerror(errno));
        return false;
    }
    if (strpbrk(who->library, " :$") != NULL) {
        cli_complain("--allocators: the path '%s' holds a space, colon or dollar sign, which the "
                     "loader does not accept; name the library by another path",
                     who->library);
        return false;
    }
    const char *problem = program_malloc_problem(who->library);
    if (problem != NULL) {
        cli_complain("--allocators: '%s' %s; name a library that replaces malloc, or one of "
                     "freehold replay --list",
                     path, problem);
        return false;
    }
    name_after_file(who, path);
    return true;
}

static bool complain_unknown(const char *name)
{
    const char *names[MOST_CONTESTANTS];
    size_t count = 0;
    for (size_t i = 0; i < lab_manager_count && count < MOST_CONTESTANTS; i++) {
        names[count++] = lab_managers[i].name;
    }
    for (size_t i = 0; i < lab_library_count && count < MOST_CONTESTANTS; i++) {
        names[count++] = lab_libraries[i].name;
    }
    if (count < MOST_CONTESTANTS) {
        names[count++] = own_malloc;
    }
    const bool is_the_usual = strcmp(name, "malloc") == 0 || strcmp(name, "libc") == 0;
    const char *nearest = is_the_usual ? "glibc" : cli_nearest(name, names, count);
    if (nearest != NULL) {
        cli_complain(
            "unknown allocator '%s'; did you mean '%s'? (freehold replay --list lists all)", name,
            nearest);
    } else {
        cli_complain("unknown allocator '%s'; freehold replay --list lists what there is", name);
    }
    return false;
}

static bool add_named(struct request *request, const char *name)
{
    const struct lab_manager *manager = lab_manager_named(name);
    struct lab_contestant *who;
    if (strchr(name, '/') != NULL) {
        return add_path(request, name);
    }
    if (manager == NULL && lab_library_named(name) == NULL && strcmp(name, own_malloc) != 0) {
        return complain_unknown(name);
    }
    if (!add_contestant(request, &who)) {
        return false;
    }
    name_contestant(who, name);
    who->manager = manager;
    who->is_missing = manager == NULL && !find_malloc(name, who->library, sizeof(who->library));
    return true;
}

static bool add_list(struct request *request, const char *list)
{
    char name[PATH_MAX];
    while (*list != '\0') {
        const size_t len = strcspn(list, ",");
        if (len >= sizeof(name)) {
            cli_complain("--allocators: a name is too long");
            return false;
        }
        memcpy(name, list, len);
        name[len] = '\0';
        if (len > 0 && !add_named(request, name)) {
            return false;
        }
        list += len + (list[len] != '\0');
    }
    for (size_t i = 0; i < request->count; i++) {
        request->is_one_missing |= request->contestants[i].is_missing;
    }
    if (request->count == 0) {
        cli_complain("--allocators names none; freehold replay --list lists what there is");
        return false;
    }
    return true;
}

static bool add_all(struct request *request)
{
    bool is_added = true;
    for (size_t i = 0; i < lab_manager_count && is_added; i++) {
        is_added = add_named(request, lab_managers[i].name);
    }
    is_added = is_added && add_named(request, own_malloc);
    for (size_t i = 0; i < lab_library_count && is_added; i++) {
        is_added = add_named(request, lab_libraries[i].name);
    }
    return is_added;
}

static void print_library(const char *name, const char *description, const char *package)
{
    char path[PATH_MAX];
    printf("  %-12s %s", name, description);
    if (!find_malloc(name, path, sizeof(path))) {
        printf(" (not here%s%s)", package != NULL ? "; Debian: " : "",
               package != NULL ? package : "");
    } else if (path[0] != '\0') {
        printf(": %s", path);
    }
    putchar('\n');
}

static int print_list(void)
{
    puts("Freehold's, each over memory of its own:");
    for (size_t i = 0; i < lab_manager_count; i++) {
        printf("  %-12s %s\n", lab_managers[i].name, lab_managers[i].description);
    }
    puts("\nMalloc libraries (others by their path):");
    print_library(own_malloc, "Freehold's malloc", NULL);
    for (size_t i = 0; i < lab_library_count; i++) {
        print_library(lab_libraries[i].name, lab_libraries[i].description,
                      lab_libraries[i].package);
    }
    return cli_finish_output(CLI_OK, CLI_USAGE);
}

/* ---- Pictures ---- */

static bool has_suffix(const char *name, const char *suffix)
{
    const size_t len = strlen(name);
    const size_t suffix_len = strlen(suffix);
    return len > suffix_len && strcmp(name + len - suffix_len, suffix) == 0;
}

/* Gives each manager the file of its picture. */
static bool name_maps(struct request *request)
{
    const char *file = request->map_file;
    if (file == NULL) {
        return true;
    }
    if (!has_suffix(file, ".png") && !has_suffix(file, ".svg")) {
        cli_complain("--map: the name '%s' ends neither in .png nor in .svg; one of them says what "
                     "to draw",
                     file);
        return false;
    }
    size_t managers = 0;
    for (size_t i = 0; i < request->count; i++) {
        managers += request->contestants[i].manager != NULL;
    }
    if (managers == 0) {
        cli_complain("--map draws Freehold's managers, of which --allocators names none; a malloc "
                     "library does not show its blocks");
        return false;
    }
    const int stem = (int)(strlen(file) - strlen(".png"));
    for (size_t i = 0; i < request->count; i++) {
        struct lab_contestant *who = &request->contestants[i];
        if (who->manager == NULL) {
            continue;
        }
        const int len = managers == 1 ? snprintf(who->map, sizeof(who->map), "%s", file)
                                      : snprintf(who->map, sizeof(who->map), "%.*s-%s%s", stem,
                                                 file, who->name, file + stem);
        if (len >= (int)sizeof(who->map)) {
            cli_complain("--map: the name '%s' is too long", file);
            return false;
        }
    }
    return true;
}

/* The first picture that could not be made is told. */
static bool are_maps_drawn(const struct request *request)
{
    for (size_t i = 0; i < request->count; i++) {
        const struct lab_contestant *who = &request->contestants[i];
        if (who->map_error != 0) {
            cli_complain("--map: '%s' can't be written: %s", who->map, strerror(who->map_error));
            return false;
        }
    }
    return true;
}

/* ---- The command line ---- */

static bool read_number(const char *option, const char *value, long least, long most, long *number)
{
    char *end;
    errno = 0;
    *number = strtol(value, &end, 10);
    if (value[0] < '0' || value[0] > '9' || *end != '\0' || errno != 0 || *number < least ||
        *number > most) {
        cli_complain("--%s takes a number from %ld to %ld, not '%s'", option, least, most, value);
        return false;
    }
    return true;
}

static bool take_option(struct request *request, int id, const char *value)
{
    switch (id) {
    case OPTION_ALLOCATORS:
        request->list = value;
        return true;
    case OPTION_ROUNDS:
        return read_number("rounds", value, 1, LAB_MOST_ROUNDS, &request->rounds);
    case OPTION_PROCESS:
        return read_number("process", value, 0, INT_MAX, &request->process);
    case OPTION_LATENCY:
        request->wants_latency = true;
        return true;
    case OPTION_MINIMUM:
        request->wants_minimum = true;
        return true;
    case OPTION_JSON:
        request->json_file = value;
        return true;
    case OPTION_HTML:
        request->html_file = value;
        return true;
    case OPTION_MAP:
        request->map_file = value;
        return true;
    default:
        request->wants_list = true;
        return true;
    }
}

/* -1 when the request is complete, else the exit status. */
static int read_request(struct request *request, int argc, char **argv)
{
    struct cli_arguments arguments = {"freehold replay", options, OPTIONS, argc, argv, 1};
    for (;;) {
        const char *value;
        const int id = cli_next_option(&arguments, &value);
        if (id == CLI_HELP) {
            return print_help();
        }
        if (id == CLI_NO_MORE_OPTIONS) {
            if (request->file != NULL || arguments.next >= argc) {
                break;
            }
            request->file = argv[arguments.next++]; /* options may follow it */
            continue;
        }
        if (id == CLI_BAD_OPTION || !take_option(request, id, value)) {
            return CLI_USAGE;
        }
    }
    if (request->wants_list) {
        return print_list();
    }
    if (request->file == NULL) {
        cli_complain("no trace is given; write: freehold replay FILE (freehold record makes one)");
        return CLI_USAGE;
    }
    if (arguments.next < argc) {
        cli_complain("'%s' is one too many; one trace is replayed at a time", argv[arguments.next]);
        return CLI_USAGE;
    }
    const bool is_chosen =
        request->list != NULL ? add_list(request, request->list) : add_all(request);
    return is_chosen && name_maps(request) ? -1 : CLI_USAGE;
}

/* ---- Progress ---- */

/* One line on a terminal, from the second second on. */
struct progress {
    bool is_shown;
    bool has_line;
    struct timespec since;
};

static void progress_open(struct progress *progress)
{
    progress->is_shown = isatty(STDERR_FILENO) == 1;
    clock_gettime(CLOCK_MONOTONIC, &progress->since);
}

static bool progress_is_due(struct progress *progress)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    progress->has_line |= progress->is_shown && now.tv_sec - progress->since.tv_sec >= 1;
    return progress->has_line;
}

static void progress_close(struct progress *progress)
{
    if (progress->has_line) {
        fputs("\r\033[K", stderr);
    }
    progress->has_line = false;
}

static void show_pass(void *context, unsigned done, unsigned total, const char *name)
{
    if (progress_is_due(context)) {
        fprintf(stderr, "\r\033[Kreplaying: %u of %u, %s", done, total, name);
    }
}

static void show_events(void *context, uint64_t events)
{
    if (progress_is_due(context)) {
        fprintf(stderr, "\r\033[Kreading: %s events", figure_count(events).text);
    }
}

/* ---- The trace ---- */

static int complain_compile(const char *file, int error)
{
    if (error == -ENOSPC || error == -EDQUOT) {
        cli_complain("the trace '%s' needs 16 bytes an event in TMPDIR or /tmp, where there is no "
                     "room; set TMPDIR to a folder with more",
                     file);
    } else {
        cli_complain("the trace '%s' can't be prepared: %s", file, strerror(-error));
    }
    return CLI_LACKING;
}

/* The process of the trace that is replayed; NULL: there is no such one. */
static const struct fh_trace_process *choose_process(const struct request *request,
                                                     struct fh_trace *trace, unsigned *index)
{
    const struct fh_trace_info *info = fh_trace_info(trace);
    const struct fh_trace_process *chosen = fh_trace_process(trace, 0);
    *index = 0;
    if (info->process_count == 0) {
        return NULL;
    }
    if (request->process != NO_PROCESS) {
        chosen = fh_trace_process(trace, (unsigned)request->process);
        *index = (unsigned)request->process;
        return chosen;
    }
    for (unsigned i = 1; i < info->process_count; i++) {
        const struct fh_trace_process *process = fh_trace_process(trace, i);
        if (process->events > chosen->events) {
            chosen = process;
            *index = i;
        }
    }
    return chosen;
}

static int complain_no_process(const struct request *request, const struct fh_trace_info *info)
{
    if (info->process_count > 0) {
        cli_complain("--process: the trace '%s' has the processes 0 to %u", request->file,
                     info->process_count - 1);
        return CLI_USAGE;
    }
    if (info->is_whole) {
        cli_complain("nothing was allocated while '%s' was recorded; there is nothing to replay",
                     request->file);
        return CLI_FINDINGS;
    }
    cli_complain("the trace '%s' is damaged or was cut: no process in it can be read; record again",
                 request->file);
    return CLI_DAMAGED;
}

/* ---- The report ---- */

/* Files that the figures go to. */
struct outputs {
    struct output json, html;
};

/* 0, or the exit status after a complaint. */
static int open_outputs(struct outputs *outputs, const struct request *request)
{
    char page[PATH_MAX];
    *outputs = (struct outputs){0};
    if (request->html_file != NULL && !page_find(page, sizeof(page))) {
        cli_complain("--html: this build of Freehold has no page: %s", page);
        return CLI_LACKING;
    }
    return output_open(&outputs->json, "json", request->json_file) &&
                   output_open(&outputs->html, "html", request->html_file)
               ? 0
               : CLI_USAGE;
}

static void drop_outputs(struct outputs *outputs)
{
    output_drop(&outputs->json);
    output_drop(&outputs->html);
}

static bool write_json(struct output *output, struct json_object *root)
{
    if (output->stream == NULL) {
        return true;
    }
    fputs(json_object_to_json_string_ext(root,
                                         JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_NOSLASHESCAPE),
          output->stream);
    fputc('\n', output->stream);
    return output_finish(output);
}

/* The file as a data URI; NULL: it can't be read, is too large to be a part of a page, or there is no memory. */
static char *data_uri(const char *path)
{
    enum { MOST = 1 << 20 };
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    unsigned char *bytes = malloc(MOST + 2);
    char *uri = malloc(64 + MOST / 3 * 4 + 8);
    FILE *file = fopen(path, "re");
    const size_t size = bytes != NULL && file != NULL ? fread(bytes, 1, MOST, file) : 0;
    if (file != NULL) {
        fclose(file);
    }
    if (uri == NULL || size == 0 || size == MOST) {
        free(bytes);
        free(uri);
        return NULL;
    }
    char *out =
        uri + sprintf(uri, "data:image/%s;base64,", has_suffix(path, ".svg") ? "svg+xml" : "png");
    bytes[size] = bytes[size + 1] = 0;
    for (size_t i = 0; i < size; i += 3) {
        const unsigned three =
            (unsigned)bytes[i] << 16 | (unsigned)bytes[i + 1] << 8 | bytes[i + 2];
        *out++ = digits[three >> 18];
        *out++ = digits[three >> 12 & 63];
        *out++ = i + 1 < size ? digits[three >> 6 & 63] : '=';
        *out++ = i + 2 < size ? digits[three & 63] : '=';
    }
    *out = '\0';
    free(bytes);
    return uri;
}

/* The pictures of --map become part of the page. */
static void embed_maps(const struct request *request, struct json_object *root)
{
    struct json_object *allocators = json_object_object_get(root, "allocators");
    for (size_t i = 0; i < request->count; i++) {
        const struct lab_contestant *who = &request->contestants[i];
        const bool is_drawn = who->map[0] != '\0' && who->map_error == 0 && !who->is_missing &&
                              who->state == LAB_DONE;
        char *uri = is_drawn ? data_uri(who->map) : NULL;
        if (uri != NULL) {
            json_object_object_add(json_object_array_get_idx(allocators, i), "map",
                                   json_object_new_string(uri));
            free(uri);
        }
    }
}

static bool write_html(const struct request *request, struct output *output,
                       struct json_object *root)
{
    if (output->stream == NULL) {
        return true;
    }
    embed_maps(request, root);
    const int error = page_write(output->stream, "replay", root);
    if (error != 0) {
        cli_complain("--html: the page can't be written: %s", strerror(-error));
        return false;
    }
    return output_finish(output);
}

static int status_of(const struct request *request, const struct replay_report *report)
{
    if (report->damage != NULL) {
        return CLI_DAMAGED;
    }
    if (request->is_one_missing) {
        return CLI_LACKING;
    }
    for (size_t i = 0; i < request->count; i++) {
        const struct lab_contestant *who = &request->contestants[i];
        if (!who->is_missing && who->state != LAB_DONE) {
            return CLI_FINDINGS;
        }
    }
    return CLI_OK;
}

static int report_all(const struct request *request, const struct replay_report *report,
                      struct outputs *outputs)
{
    struct term term;
    const bool is_stdout_taken = outputs->json.stream == stdout || outputs->html.stream == stdout;
    term_open(&term, is_stdout_taken ? stderr : stdout);
    replay_print(&term, report);
    if (report->damage != NULL) {
        cli_complain("%s", report->damage);
    }
    struct json_object *root = replay_json(report);
    const bool is_written =
        write_json(&outputs->json, root) && write_html(request, &outputs->html, root);
    json_object_put(root);
    if (!is_written || !are_maps_drawn(request)) {
        return CLI_USAGE;
    }
    return cli_finish_output(status_of(request, report), CLI_USAGE);
}

/* ---- The whole ---- */

static int contest_and_report(const struct request *request, struct replay_report *report,
                              const struct lab_program *program, struct outputs *outputs)
{
    struct progress progress = {0};
    struct lab_contest contest = {
        .program = program,
        .rounds = (unsigned)request->rounds,
        .wants_latency = request->wants_latency,
        .wants_minimum = request->wants_minimum,
        .title = request->file,
        .available = lab_available_memory(),
        .contestants = request->contestants,
        .count = request->count,
        .tick = show_pass,
        .context = &progress,
    };
    progress_open(&progress);
    const int error = lab_contest_run(&contest);
    progress_close(&progress);
    if (error != 0) {
        cli_complain("no process for a replay could be started: %s", strerror(-error));
        return CLI_LACKING;
    }
    report->contest = &contest;
    return report_all(request, report, outputs);
}

static int replay(const struct request *request, struct fh_trace *trace, struct outputs *outputs)
{
    struct replay_report report = {.file = request->file, .trace = fh_trace_info(trace)};
    struct progress progress = {0};
    struct lab_program program;
    char damage[sizeof(((struct fh_trace_problem *)NULL)->text)];
    report.process = choose_process(request, trace, &report.process_index);
    if (report.process == NULL) {
        return complain_no_process(request, report.trace);
    }
    progress_open(&progress);
    const int error = lab_compile(trace, report.process_index, &program, show_events, &progress);
    progress_close(&progress);
    if (error != 0 && error != -EBADMSG) {
        return complain_compile(request->file, error);
    }
    if (error == -EBADMSG) {
        snprintf(damage, sizeof(damage), "%s", fh_trace_problem_of(trace)->text);
        report.damage = damage;
    }
    int status = CLI_FINDINGS;
    if (program.facts.ops > 0) {
        status = contest_and_report(request, &report, &program, outputs);
    } else if (report.damage != NULL) {
        cli_complain("%s", damage);
        status = CLI_DAMAGED;
    } else if (!report.trace->is_whole && report.process->events == 0) {
        cli_complain("the trace '%s' was cut before anything complete was written; record again",
                     request->file);
        status = CLI_DAMAGED;
    } else {
        cli_complain("process %u of the trace '%s' allocated nothing while it was recorded; there "
                     "is nothing to replay",
                     report.process_index, request->file);
    }
    close(program.fd);
    return status;
}

int cli_replay(int argc, char **argv)
{
    static struct lab_contestant contestants[MOST_CONTESTANTS];
    struct request request = {
        .process = NO_PROCESS, .rounds = DEFAULT_ROUNDS, .contestants = contestants};
    struct fh_trace_problem problem;
    struct outputs outputs;
    int status = read_request(&request, argc, argv);
    if (status >= 0) {
        return status;
    }
    struct fh_trace *trace = fh_trace_open(request.file, &problem);
    if (trace == NULL) {
        cli_complain("%s", problem.text);
        return problem.exit_status;
    }
    status = CLI_USAGE;
    status = open_outputs(&outputs, &request);
    if (status == 0) {
        status = replay(&request, trace, &outputs);
    }
    drop_outputs(&outputs);
    fh_trace_close(trace);
    return status;
}
