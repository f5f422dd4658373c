/*
 * freehold advise: what to change in a program, with the saving that was measured.
 *
 * One pass over the trace groups it by sites (lab/sites.h), thresholds pick what may be worth a change
 * (lab/findings.h), and each of the heaviest is tried: the trace is replayed with the change and without
 * it (lab/trial.h). What is printed is what the replays saved.
 *
 * With a program instead of a file, `freehold record` is run first, as a process of its own that has this one's
 * terminal, into a file that is gone afterwards. What it complains of is its own words, and its status is ours
 * when there is no trace.
 */
#include "advise_names.h"
#include "advise_report.h"
#include "cli.h"
#include "library.h"
#include "options.h"
#include "output.h"
#include "term.h"

#include "lab/funnels.h"
#include "tools/page.h"

#include "freehold/heap.h"
#include "freehold/trace.h"

#include <errno.h>
#include <json-c/json.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { OPTION_TOP = 1, OPTION_ROUNDS, OPTION_PROCESS, OPTION_MALLOC, OPTION_JSON, OPTION_HTML };

static const struct cli_option options[] = {
    {"top", "N", "try and show the N heaviest findings (default 10)", OPTION_TOP},
    {"rounds", "N", "replay each change N times (default 7, at most 99)", OPTION_ROUNDS},
    {"process", "N",
     "look at process N of the trace, counted from 0 (default: the one\nwith the most events)",
     OPTION_PROCESS},
    {"malloc", "NAME",
     "replay over the C library's malloc (libc, default) or Freehold's\n(freehold)", OPTION_MALLOC},
    {"json", "FILE", "write everything that was found to FILE (- for standard output)",
     OPTION_JSON},
    {"html", "FILE", "write a page to FILE that shows it in a browser, without network",
     OPTION_HTML},
};
enum { OPTIONS = sizeof(options) / sizeof(options[0]) };

enum { DEFAULT_TOP = 10, MOST_TOP = 1000, DEFAULT_ROUNDS = 7, NO_PROCESS = -1, BATCH = 4096 };

struct request {
    const char *file; /* NULL: a program is recorded first */
    char **program;
    const char *json_file, *html_file;
    long top, rounds, process;
    const char *allocator;
    char library[PATH_MAX]; /* of the allocator; empty: the C library's */
};

static int print_help(void)
{
    puts("Usage: freehold advise [OPTION...] FILE\n"
         "       freehold advise [OPTION...] -- PROG [ARG...]\n"
         "\n"
         "Says what a program could change about its memory, where, and what that saves: the\n"
         "trace that freehold record wrote to FILE (or a recording of PROG) is replayed with\n"
         "each change and without it.\n"
         "\n"
         "Options:");
    cli_print_options(options, OPTIONS);
    puts("\n"
         "Exit status: 0, whether there is something to change or not; 1 when nothing was\n"
         "allocated; 2 for wrong arguments; 3 when FILE is damaged, no trace or of a newer\n"
         "version; 4 when memory or the page is lacking. When PROG can't be recorded: as\n"
         "freehold record.\n"
         "\n"
         "Examples:\n"
         "  freehold advise run.fht\n"
         "  freehold advise --html advice.html -- ./server --once");
    return cli_finish_output(CLI_OK, CLI_USAGE);
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

static bool take_malloc(struct request *request, const char *name)
{
    static const char *const names[] = {"libc", "freehold"};
    if (strcmp(name, names[0]) == 0) {
        return true;
    }
    if (strcmp(name, names[1]) != 0) {
        const char *nearest = cli_nearest(name, names, 2);
        cli_complain("--malloc takes libc or freehold, not '%s'%s%s%s", name,
                     nearest != NULL ? "; did you mean '" : "", nearest != NULL ? nearest : "",
                     nearest != NULL ? "'?" : "");
        return false;
    }
    if (!library_find("libfreehold-malloc", request->library, sizeof(request->library))) {
        cli_complain("--malloc: libfreehold-malloc.so is neither beside this command nor in its "
                     "library folder; install Freehold again");
        return false;
    }
    request->allocator = "Freehold's malloc";
    return true;
}

static bool take_option(struct request *request, int id, const char *value)
{
    switch (id) {
    case OPTION_TOP:
        return read_number("top", value, 1, MOST_TOP, &request->top);
    case OPTION_ROUNDS:
        return read_number("rounds", value, 1, LAB_MOST_TRIALS, &request->rounds);
    case OPTION_PROCESS:
        return read_number("process", value, 0, INT_MAX, &request->process);
    case OPTION_MALLOC:
        return take_malloc(request, value);
    case OPTION_JSON:
        request->json_file = value;
        return true;
    default:
        request->html_file = value;
        return true;
    }
}

/* -1 when the request is complete, else the exit status. */
static int read_request(struct request *request, int argc, char **argv)
{
    struct cli_arguments arguments = {"freehold advise", options, OPTIONS, argc, argv, 1};
    for (;;) {
        const char *value;
        const int id = cli_next_option(&arguments, &value);
        if (id == CLI_HELP) {
            return print_help();
        }
        if (id == CLI_NO_MORE_OPTIONS) {
            const bool is_program = strcmp(argv[arguments.next - 1], "--") == 0;
            if (is_program || request->file != NULL || arguments.next >= argc) {
                break;
            }
            request->file = argv[arguments.next++]; /* options may follow it */
            continue;
        }
        if (id == CLI_BAD_OPTION || !take_option(request, id, value)) {
            return CLI_USAGE;
        }
    }
    if (request->file == NULL && arguments.next < argc) {
        request->program = argv + arguments.next;
        return -1;
    }
    if (request->file == NULL) {
        cli_complain("no trace and no program is given; write: freehold advise FILE, or: freehold "
                     "advise -- PROG [ARG...]");
        return CLI_USAGE;
    }
    if (arguments.next < argc) {
        cli_complain("'%s' is one too many; a program is named after --: freehold advise -- PROG",
                     argv[arguments.next]);
        return CLI_USAGE;
    }
    return -1;
}

/* ---- Recording ---- */

static _Noreturn void become_record(const char *file, char **program)
{
    size_t count = 0;
    while (program[count] != NULL) {
        count++;
    }
    char **argv = calloc(count + 6, sizeof(*argv));
    if (argv != NULL) {
        char name[] = "freehold";
        char record[] = "record";
        char output[] = "--output";
        char dashes[] = "--";
        argv[0] = name;
        argv[1] = record;
        argv[2] = output;
        argv[3] = strdup(file);
        argv[4] = dashes;
        memcpy(argv + 5, program, count * sizeof(*argv));
        execv("/proc/self/exe", argv);
    }
    _exit(CLI_OWN_TROUBLE);
}

/* Makes the file `path`. -1, or the exit status when there is nothing to look at. */
static int record(char *path, size_t size, char **program)
{
    const char *folder = getenv("TMPDIR");
    struct stat info;
    snprintf(path, size, "%s/freehold-advise.XXXXXX",
             folder != NULL && folder[0] != '\0' ? folder : "/tmp");
    const int fd = mkstemp(path);
    if (fd < 0) {
        cli_complain("no file for the recording can be made in '%s': %s; set TMPDIR to a folder "
                     "that can be written",
                     path, strerror(errno));
        return CLI_LACKING;
    }
    close(fd);
    const pid_t pid = fork();
    if (pid == 0) {
        become_record(path, program);
    }
    int status = 0;
    while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    if (pid < 0) {
        cli_complain("freehold record can't be started: %s", strerror(errno));
        return CLI_LACKING;
    }
    if (stat(path, &info) == 0 && info.st_size > 0) {
        return -1; /* how the program ended is its own affair: what it did is recorded */
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* ---- Sizes ---- */

static uint64_t libc_usable(void *context, uint64_t size)
{
    void *block = malloc(size);
    const uint64_t usable = malloc_usable_size(block);
    (void)context;
    free(block);
    return usable;
}

static uint64_t heap_usable(void *context, uint64_t size)
{
    void *block = fh_heap_alloc(context, size);
    const uint64_t usable = fh_usable_size(block);
    fh_heap_free(context, block);
    return usable;
}

/* ---- Progress ---- */

struct progress {
    bool is_shown, has_line;
    unsigned done, total;
    struct timespec since;
};

static void show_replay(void *context)
{
    struct progress *progress = context;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    progress->done++;
    if (progress->is_shown && now.tv_sec - progress->since.tv_sec >= 1) {
        progress->has_line = true;
        fprintf(stderr, "\r\033[Kreplaying: %u of %u", progress->done, progress->total);
    }
}

/* ---- The work ---- */

/* NULL: there is no such process. */
static const struct fh_trace_process *choose_process(const struct request *request,
                                                     struct fh_trace *trace, unsigned *index)
{
    const struct fh_trace_info *info = fh_trace_info(trace);
    *index = request->process != NO_PROCESS ? (unsigned)request->process : 0;
    for (unsigned i = 1; request->process == NO_PROCESS && i < info->process_count; i++) {
        if (fh_trace_process(trace, i)->events > fh_trace_process(trace, *index)->events) {
            *index = i;
        }
    }
    return fh_trace_process(trace, *index);
}

static int complain_no_process(const struct fh_trace_info *info)
{
    if (info->process_count > 0) {
        cli_complain("--process: the trace has the processes 0 to %u", info->process_count - 1);
        return CLI_USAGE;
    }
    if (info->is_whole) {
        cli_complain("nothing was allocated while it was recorded; there is nothing to advise on");
        return CLI_FINDINGS;
    }
    cli_complain("the trace is damaged or was cut: no process in it can be read; record again");
    return CLI_DAMAGED;
}

/* 0 or a negative errno; damage is left to read_sites to find. */
static int find_funnels(struct fh_trace *trace, unsigned index, struct lab_funnels *funnels,
                        const struct lab_names *names)
{
    static struct fh_trace_event events[BATCH];
    int error = fh_trace_begin(trace, index);
    long count;
    while (error == 0 && (count = fh_trace_read(trace, events, BATCH)) > 0) {
        error = lab_funnels_add(funnels, events, (size_t)count);
    }
    return error != 0 ? error : lab_funnels_find(funnels, trace, names);
}

/* 0, -EBADMSG (the sites are those before the damage), or another negative errno. */
static int read_sites(struct fh_trace *trace, unsigned index, struct lab_sites *sites)
{
    static struct fh_trace_event events[BATCH];
    int error = fh_trace_begin(trace, index);
    long count = 0;
    while (error == 0 && (count = fh_trace_read(trace, events, BATCH)) > 0) {
        error = lab_sites_add(sites, trace, events, (size_t)count);
    }
    lab_sites_finish(sites);
    return error != 0 ? error : (int)count;
}

static void try_all(const struct request *request, struct advice *advice)
{
    struct progress progress = {.is_shown = isatty(STDERR_FILENO) == 1};
    clock_gettime(CLOCK_MONOTONIC, &progress.since);
    for (size_t i = 0; i < advice->proposal_count; i++) {
        progress.total += advice->proposals[i].finding->change != LAB_CHANGE_NOTHING
                              ? 2 * (advice->rounds + 1)
                              : 0;
    }
    for (size_t i = 0; i < advice->proposal_count; i++) {
        struct proposal *proposal = &advice->proposals[i];
        if (proposal->finding->change == LAB_CHANGE_NOTHING) {
            continue;
        }
        lab_trial_run(&proposal->trial, advice->sites, proposal->finding, advice->rounds,
                      request->library, show_replay, &progress);
        proposal->is_tried = proposal->trial.error == 0;
    }
    if (progress.has_line) {
        fputs("\r\033[K", stderr);
    }
}

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

static bool write_outputs(struct outputs *outputs, const struct advice *advice)
{
    bool is_written = true;
    struct json_object *root = NULL;
    if (outputs->json.stream != NULL || outputs->html.stream != NULL) {
        root = advise_json(advice);
    }
    if (outputs->json.stream != NULL) {
        fputs(json_object_to_json_string_ext(root, JSON_C_TO_STRING_PRETTY |
                                                       JSON_C_TO_STRING_NOSLASHESCAPE),
              outputs->json.stream);
        fputc('\n', outputs->json.stream);
        is_written = output_finish(&outputs->json);
    }
    if (outputs->html.stream != NULL && is_written) {
        const int error = page_write(outputs->html.stream, "advise", root);
        if (error != 0) {
            cli_complain("--html: the page can't be written: %s", strerror(-error));
        }
        is_written = error == 0 && output_finish(&outputs->html);
    }
    json_object_put(root);
    return is_written;
}

static int report(const struct request *request, struct advice *advice, struct outputs *outputs,
                  const struct lab_findings *findings)
{
    struct term term;
    const bool is_stdout_taken = outputs->json.stream == stdout || outputs->html.stream == stdout;
    advice->finding_count = findings->count;
    advice->proposal_count =
        findings->count < (size_t)request->top ? findings->count : (size_t)request->top;
    advice->proposals = calloc(advice->proposal_count + 1, sizeof(struct proposal));
    if (advice->proposals == NULL) {
        cli_complain("there is not enough memory");
        return CLI_LACKING;
    }
    for (size_t i = 0; i < advice->proposal_count; i++) {
        advice->proposals[i].finding = &findings->items[i];
    }
    try_all(request, advice);
    advise_rank(advice->proposals, advice->proposal_count);
    term_open(&term, is_stdout_taken ? stderr : stdout);
    advise_print(&term, advice);
    const bool is_written = write_outputs(outputs, advice);
    free(advice->proposals);
    return is_written ? cli_finish_output(CLI_OK, CLI_USAGE) : CLI_USAGE;
}

static int look(const struct request *request, struct advice *advice, struct lab_sites *sites,
                unsigned index, struct outputs *outputs)
{
    struct lab_findings findings;
    const int error = read_sites(advice->trace, index, sites);
    if (error != 0 && error != -EBADMSG) {
        cli_complain("the trace can't be read: %s", strerror(-error));
        return CLI_LACKING;
    }
    if (sites->op_count == 0 && error == 0 && !advice->info->is_whole &&
        advice->process->events == 0) {
        cli_complain("the trace was cut before anything complete was written; record again");
        return CLI_DAMAGED;
    }
    if (sites->op_count == 0 && error == 0) {
        cli_complain("process %u of the trace allocated nothing while it was recorded; there is "
                     "nothing to advise on",
                     index);
        return CLI_FINDINGS;
    }
    struct fh_heap *heap = request->library[0] != '\0' ? fh_heap_create(NULL) : NULL;
    const bool is_made =
        lab_findings_make(&findings, sites, advice->process->has_ended && advice->info->is_whole,
                          heap != NULL ? heap_usable : libc_usable, heap);
    if (heap != NULL) {
        fh_heap_destroy(heap);
    }
    if (!is_made) {
        cli_complain("there is not enough memory");
        return CLI_LACKING;
    }
    const int status = report(request, advice, outputs, &findings);
    lab_findings_free(&findings);
    if (error == -EBADMSG) {
        cli_complain("%s", fh_trace_problem_of(advice->trace)->text);
        return CLI_DAMAGED;
    }
    return status;
}

static int advise(const struct request *request, struct fh_trace *trace, struct outputs *outputs)
{
    struct advice advice = {.trace = trace,
                            .info = fh_trace_info(trace),
                            .rounds = (unsigned)request->rounds,
                            .allocator = request->allocator};
    unsigned index;
    advice.process = choose_process(request, trace, &index);
    if (advice.process == NULL) {
        return complain_no_process(advice.info);
    }
    advice.symbols = symbols_open();
    /* Modules are those of the process that reading has begun with. */
    int status = CLI_LACKING;
    if (advice.symbols != NULL && fh_trace_begin(trace, index) == 0 &&
        symbols_add_modules(advice.symbols, trace) == 0) {
        struct lab_names names = advise_names(advice.symbols);
        struct lab_funnels *funnels = lab_funnels_open();
        const bool is_found = funnels != NULL && find_funnels(trace, index, funnels, &names) == 0;
        names.funnels = is_found ? funnels : NULL;
        struct lab_sites *sites =
            lab_sites_open(&names, advice.process->begin_ns, advice.process->end_ns);
        advice.sites = sites;
        status = sites != NULL ? look(request, &advice, sites, index, outputs) : CLI_LACKING;
        lab_sites_close(sites);
        lab_funnels_close(funnels);
    }
    symbols_close(advice.symbols);
    return status;
}

static int open_and_advise(const struct request *request, const char *file)
{
    struct fh_trace_problem problem;
    struct outputs outputs;
    int status = open_outputs(&outputs, request);
    if (status == 0) {
        struct fh_trace *trace = fh_trace_open(file, &problem);
        if (trace == NULL) {
            cli_complain("%s", problem.text);
            status = problem.exit_status;
        } else {
            status = advise(request, trace, &outputs);
            fh_trace_close(trace);
        }
    }
    output_drop(&outputs.json);
    output_drop(&outputs.html);
    return status;
}

int cli_advise(int argc, char **argv)
{
    struct request request = {.top = DEFAULT_TOP,
                              .rounds = DEFAULT_ROUNDS,
                              .process = NO_PROCESS,
                              .allocator = "the C library's malloc"};
    int status = read_request(&request, argc, argv);
    if (status >= 0) {
        return status;
    }
    if (request.program == NULL) {
        return open_and_advise(&request, request.file);
    }
    char path[PATH_MAX] = "";
    status = record(path, sizeof(path), request.program);
    if (status < 0) {
        status = open_and_advise(&request, path);
    }
    unlink(path);
    return status;
}
