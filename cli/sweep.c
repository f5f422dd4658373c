/*
 * freehold run --fail sweep: every allocation of a program fails once.
 *
 * First the program runs as it is, and each call stack from which it allocates is written down.
 * Then it runs once for each of them, with that allocation failing, and the rest of the run is
 * watched: what ends by itself has handled the failure; what crashes, reports a memory error or
 * does not end is a finding. The names of stacks are the same in every run
 * (lib/guard/site_table.h), so each finding can be repeated by one command.
 *
 * The state file makes a sweep of an hour survive its own end. Without --resume an old one is in
 * the way, and not overwritten: there is an hour's work in it.
 */
#include "sweep.h"

#include "cli.h"
#include "library.h"
#include "options.h"
#include "output.h"
#include "program.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    OPTION_FAIL = 1,
    OPTION_MODE,
    OPTION_TIMEOUT,
    OPTION_JOBS,
    OPTION_EACH,
    OPTION_PERSIST,
    OPTION_STDIN,
    OPTION_KEEP,
    OPTION_JSON,
    OPTION_STATE,
    OPTION_RESUME,
};

enum { JOBS_MOST = 1024, TIMEOUT_MOST = 1000000, EACH_MOST = 1000000 };

static const struct cli_option options[] = {
    {"fail", "sweep", "fail the program's allocations one after the other, a run for each",
     OPTION_FAIL},
    {"mode", "MODE", "fast (default), hardened or debug, as in other runs", OPTION_MODE},
    {"timeout", "SECONDS",
     "a run that takes longer hangs (default: ten times what the program takes\nwithout a failure, "
     "and at least 10)",
     OPTION_TIMEOUT},
    {"jobs", "N", "run N side by side (default: as many as there are processors)", OPTION_JOBS},
    {"each", "N", "fail each of the first N allocations of a call stack (default 1)", OPTION_EACH},
    {"persist", "WHEN",
     "let memory stay full after the failure (yes), or not (no: others succeed),\nor try the one "
     "and the other (both, default)",
     OPTION_PERSIST},
    {"stdin", "FILE", "let the program read FILE (default /dev/null)", OPTION_STDIN},
    {"keep", "DIR", "keep what each run writes in a file in DIR (default: nowhere)", OPTION_KEEP},
    {"json", "FILE", "write the findings to FILE as JSON, too (- for standard output)",
     OPTION_JSON},
    {"state", "FILE", "note in FILE how far it is (default PROG.sweep in this folder)",
     OPTION_STATE},
    {"resume", NULL, "go on with the sweep that the state file is about", OPTION_RESUME},
};
enum { OPTIONS = sizeof(options) / sizeof(options[0]) };

struct request {
    struct sweep_options sweep;
    const char *json_file;
    bool is_resumed;
    char state_file[PATH_MAX];
};

static int print_help(void)
{
    puts("Usage: freehold run --fail sweep [OPTION...] [--] PROG [ARG...]\n"
         "\n"
         "Runs PROG once for each call stack from which it allocates, lets that allocation fail,\n"
         "and reports the crashes and hangs, each with a command that repeats it.\n"
         "\n"
         "Options:");
    cli_print_options(options, OPTIONS);
    puts("\n"
         "Exit status: 0 when the program handled every failure, 1 when there are findings, 125\n"
         "for trouble of Freehold's own, 126 when PROG can't be executed or preloaded, 127 when\n"
         "it is not found; the signal's that ended the sweep.\n"
         "\n"
         "Example:\n"
         "  freehold run --fail sweep --stdin queries.sql -- sqlite3 :memory:");
    return cli_finish_output(CLI_OK, CLI_OWN_TROUBLE);
}

/* ---- The command line ------------------------------------------------------------------------ */

/* The argument that names no option and is none's value, or argc: where the program begins. */
static int first_operand(int argc, char **argv, int *fail)
{
    int i = 1;
    for (; i < argc && argv[i][0] == '-' && strcmp(argv[i], "--") != 0; i++) {
        if (strcmp(argv[i], "--fail=sweep") == 0 ||
            (strcmp(argv[i], "--fail") == 0 && i + 1 < argc && strcmp(argv[i + 1], "sweep") == 0)) {
            *fail = i;
        }
        /* A word behind an option that could be its value is taken for it: the programs of this
         * world are not called "sweep". */
        if (strchr(argv[i], '=') == NULL && i + 1 < argc && argv[i + 1][0] != '-') {
            i++;
        }
    }
    return i;
}

bool sweep_is_wanted(int argc, char **argv)
{
    int fail = 0;
    first_operand(argc, argv, &fail);
    return fail != 0;
}

static bool take_number(const char *option, const char *value, uint64_t most, uint64_t *number)
{
    char *end;
    errno = 0;
    const unsigned long long read = strtoull(value, &end, 10);
    if (value[0] < '0' || value[0] > '9' || *end != '\0' || errno != 0 || read == 0 ||
        read > most) {
        cli_complain("--%s takes a whole number from 1 to %" PRIu64 ", not '%s'", option, most,
                     value);
        return false;
    }
    *number = read;
    return true;
}

static bool take_mode(const char *value, const char **mode)
{
    static const char *const modes[] = {"fast", "hardened", "debug"};
    for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
        if (strcmp(value, modes[i]) == 0) {
            *mode = modes[i];
            return true;
        }
    }
    const char *nearest = cli_nearest(value, modes, sizeof(modes) / sizeof(modes[0]));
    cli_complain("--mode takes fast, hardened or debug, not '%s'%s%s%s", value,
                 nearest != NULL ? "; did you mean '" : "", nearest != NULL ? nearest : "",
                 nearest != NULL ? "'?" : "");
    return false;
}

static bool take_persist(const char *value, struct sweep_options *sweep)
{
    const bool is_both = strcmp(value, "both") == 0;
    sweep->fails_once = is_both || strcmp(value, "no") == 0;
    sweep->fails_on = is_both || strcmp(value, "yes") == 0;
    if (!sweep->fails_once && !sweep->fails_on) {
        cli_complain("--persist takes yes, no or both, not '%s'", value);
        return false;
    }
    return true;
}

static bool take_option(struct request *request, int id, const char *value)
{
    struct sweep_options *sweep = &request->sweep;
    uint64_t number = 0;
    bool is_right = true;
    switch (id) {
    case OPTION_FAIL:
        is_right = strcmp(value, "sweep") == 0;
        if (!is_right) {
            cli_complain("--fail sweep fails every allocation; '%s' beside it would say otherwise",
                         value);
        }
        return is_right;
    case OPTION_MODE:
        return take_mode(value, &sweep->mode);
    case OPTION_TIMEOUT:
        is_right = take_number("timeout", value, TIMEOUT_MOST, &number);
        sweep->timeout_ns = number * 1000000000U;
        return is_right;
    case OPTION_JOBS:
        is_right = take_number("jobs", value, JOBS_MOST, &number);
        sweep->jobs = (unsigned)number;
        return is_right;
    case OPTION_EACH:
        return take_number("each", value, EACH_MOST, &sweep->each);
    case OPTION_PERSIST:
        return take_persist(value, sweep);
    case OPTION_STDIN:
        sweep->input = value;
        return true;
    case OPTION_KEEP:
        sweep->output = value;
        return true;
    case OPTION_JSON:
        request->json_file = value;
        return true;
    case OPTION_STATE:
        snprintf(request->state_file, sizeof(request->state_file), "%s", value);
        return true;
    default:
        request->is_resumed = true;
        return true;
    }
}

/* -1 when the request is complete, else the exit status. */
static int read_request(struct request *request, int argc, char **argv)
{
    struct cli_arguments arguments = {"freehold run --fail sweep", options, OPTIONS, argc, argv, 1};
    for (;;) {
        const char *value;
        const int id = cli_next_option(&arguments, &value);
        if (id == CLI_HELP) {
            return print_help();
        }
        if (id == CLI_NO_MORE_OPTIONS) {
            break;
        }
        if (id == CLI_BAD_OPTION || !take_option(request, id, value)) {
            return CLI_OWN_TROUBLE;
        }
    }
    if (arguments.next >= argc) {
        cli_complain(
            "no program is given; write: freehold run --fail sweep [OPTION...] -- PROG [ARG...]");
        return CLI_OWN_TROUBLE;
    }
    request->sweep.program = argv + arguments.next;
    return -1;
}

/* ---- The files ------------------------------------------------------------------------------- */

static bool check_files(const struct request *request)
{
    const struct sweep_options *sweep = &request->sweep;
    if (access(sweep->input, R_OK) != 0) {
        cli_complain("--stdin: '%s' can't be read: %s", sweep->input, strerror(errno));
        return false;
    }
    if (sweep->output != NULL && mkdir(sweep->output, 0777) != 0 && errno != EEXIST) {
        cli_complain("--keep: '%s' can't be made: %s", sweep->output, strerror(errno));
        return false;
    }
    if (sweep->output != NULL && access(sweep->output, W_OK | X_OK) != 0) {
        cli_complain("--keep: '%s' can't be written to: %s", sweep->output, strerror(errno));
        return false;
    }
    if (!request->is_resumed && access(request->state_file, F_OK) == 0) {
        cli_complain(
            "'%s' is left of a sweep that did not end; add --resume to go on with it, or delete it",
            request->state_file);
        return false;
    }
    return true;
}

/* Debug mode's checked wrappers, which stand before malloc; as in other runs, it works without
 * them. */
static bool preload_checks(const struct request *request)
{
    char library[PATH_MAX];
    return strcmp(request->sweep.mode, "debug") != 0 ||
           !library_find("libfreehold-debug", library, sizeof(library)) || library_preload(library);
}

static void name_state_file(struct request *request)
{
    const char *path = request->sweep.program[0];
    const char *slash = strrchr(path, '/');
    if (request->state_file[0] == '\0') {
        snprintf(request->state_file, sizeof(request->state_file), "%.200s.sweep",
                 slash != NULL ? slash + 1 : path);
    }
    request->sweep.state_file = request->state_file;
}

static unsigned processors(void)
{
    cpu_set_t set;
    return sched_getaffinity(0, sizeof(set), &set) == 0 ? (unsigned)CPU_COUNT(&set) : 1;
}

/* ---- The sweep ------------------------------------------------------------------------------- */

void sweep_progress(const struct sweep *sweep, uint64_t elapsed_ns)
{
    size_t found = 0;
    char rest[64] = "";
    const size_t done = sweep->done - sweep->done_before;
    if (isatty(STDERR_FILENO) == 0) {
        return;
    }
    for (size_t i = 0; i < sweep->trial_count; i++) {
        found += sweep_is_finding(&sweep->trials[i]);
    }
    if (done > 0 && sweep->done < sweep->trial_count) {
        const double left = (double)(sweep->trial_count - sweep->done);
        snprintf(rest, sizeof(rest), ", %s left",
                 figure_duration((uint64_t)((double)elapsed_ns / (double)done * left)).text);
    }
    fprintf(stderr, "\r\033[Kfreehold: %zu of %zu runs, %zu findings%s", sweep->done,
            sweep->trial_count, found, rest);
    if (sweep->done == sweep->trial_count) {
        fputs("\r\033[K", stderr);
    }
    fflush(stderr);
}

static int by_first(const void *a, const void *b)
{
    const struct sweep_site *one = a;
    const struct sweep_site *other = b;
    if (one->first != other->first) {
        return one->first < other->first ? -1 : 1;
    }
    return (one->name > other->name) - (one->name < other->name);
}

/* The plain run and what follows from it, or what an earlier sweep has left. 0, or the exit
 * status. */
static int prepare(struct sweep *sweep, bool is_resumed)
{
    if (is_resumed) {
        return sweep_state_resume(sweep) ? 0 : CLI_OWN_TROUBLE;
    }
    const int status = sweep_record(sweep);
    if (status != 0) {
        return status;
    }
    qsort(sweep->sites, sweep->site_count, sizeof(*sweep->sites), by_first);
    if (!sweep_plan(sweep)) {
        cli_complain("no memory for the runs");
        return CLI_OWN_TROUBLE;
    }
    return sweep_state_begin(sweep) ? 0 : CLI_OWN_TROUBLE;
}

static void tell_begin(const struct sweep *sweep, bool is_resumed)
{
    cli_complain(
        "%s allocations from %s call stacks, %s; %s runs%s, %u side by side; '%s' notes how "
        "far it is",
        figure_count(sweep->allocations).text, figure_count(sweep->site_count).text,
        figure_duration(sweep->wall_ns).text, figure_count(sweep->trial_count - sweep->done).text,
        is_resumed ? " are left" : "", sweep->options.jobs, sweep->options.state_file);
}

/* Ends as a program does that the signal ends. */
static int end_early(const struct sweep *sweep, int signal)
{
    if (isatty(STDERR_FILENO) != 0) {
        fputc('\n', stderr);
    }
    cli_complain("%zu of %zu runs are done; add --resume to go on", sweep->done,
                 sweep->trial_count);
    return 128 + signal;
}

static int finish(struct sweep *sweep, struct output *json)
{
    struct term term;
    const bool has_json_on_stdout = json->stream == stdout;
    term_open(&term, has_json_on_stdout ? stderr : stdout);
    const size_t found = sweep_report(sweep, &term);
    const bool is_complete = sweep->done == sweep->trial_count;
    bool is_written = json->stream == NULL || sweep_write_json(sweep, json->stream);
    is_written = output_finish(json) && is_written;
    if (is_complete && is_written) {
        sweep_state_end(sweep);
    }
    if (!is_complete || !is_written) {
        return CLI_OWN_TROUBLE;
    }
    return cli_finish_output(found > 0 ? CLI_FINDINGS : CLI_OK, CLI_OWN_TROUBLE);
}

static int sweep_program(struct request *request)
{
    struct output json;
    struct sweep sweep = {.options = request->sweep, .state_fd = -1};
    if (!output_open(&json, "json", request->json_file)) {
        return CLI_OWN_TROUBLE;
    }
    int status = prepare(&sweep, request->is_resumed);
    if (status == 0) {
        tell_begin(&sweep, request->is_resumed);
        const int signal = sweep_try_all(&sweep);
        status = signal != 0 ? end_early(&sweep, signal) : finish(&sweep, &json);
    }
    output_drop(&json);
    return status;
}

int cli_sweep(int argc, char **argv)
{
    static struct request request = {
        .sweep =
            {.mode = "fast", .input = "/dev/null", .each = 1, .fails_once = true, .fails_on = true},
    };
    static struct program program;
    char library[PATH_MAX];
    int status = read_request(&request, argc, argv);
    if (status >= 0) {
        return status;
    }
    if (!library_find("libfreehold-malloc", library, sizeof(library))) {
        cli_complain(
            "libfreehold-malloc.so is neither beside this command nor in its library folder; "
            "install Freehold again");
        return CLI_OWN_TROUBLE;
    }
    status = program_check(&program, request.sweep.program[0]);
    if (status != 0) {
        return status;
    }
    request.sweep.path = program.path;
    request.sweep.jobs = request.sweep.jobs != 0 ? request.sweep.jobs : processors();
    name_state_file(&request);
    if (!check_files(&request) || !library_preload(library) || !preload_checks(&request)) {
        return CLI_OWN_TROUBLE;
    }
    return sweep_program(&request);
}
