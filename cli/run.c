/*
 * freehold run: starts a program with libfreehold-malloc in it.
 *
 * The order is what makes errors clear: first the command line; then our own library; then the
 * program file, which is looked at before it is started (program.c), because afterwards nobody
 * could say why the library was not loaded; then the files that we or the library will write. Only
 * then the environment is changed and the program started. What goes wrong before that ends with
 * 125 (ours), 126 or 127 (the program's), as under env(1).
 *
 * With nothing to collect afterwards this process becomes the program; else it stands by
 * (supervise.c), then reads the records that the processes left (records.c) and reports. Settings
 * travel in FREEHOLD, after what the user has there, so that the command line wins; children
 * inherit both variables and are followed.
 */
#include "cli.h"
#include "guard/fail_spec.h"
#include "library.h"
#include "options.h"
#include "output.h"
#include "program.h"
#include "records.h"
#include "relay.h"
#include "settings.h"
#include "summary.h"
#include "supervise.h"
#include "sweep.h"
#include "term.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    OPTION_STATS = 1,
    OPTION_JSON,
    OPTION_LOG,
    OPTION_ON_ERROR,
    OPTION_ON_FOREIGN,
    OPTION_DECAY,
    OPTION_HUGE,
    OPTION_MODE,
    OPTION_GUARD,
    OPTION_LIMIT,
    OPTION_OOM,
    OPTION_FAIL,
    OPTION_FAIL_LOG,
    OPTION_SUPPRESS,
    OPTION_QUARANTINE,
    OPTION_UAF,
    OPTION_REPORT,
};

static const struct cli_option options[] = {
    {"mode", "MODE",
     "fast (default), hardened (for production: memory errors are stopped or\nmade harmless), or "
     "debug (for developers: they are found and explained)",
     OPTION_MODE},
    {"guard", "SIZE",
     "guard one block in SIZE allocated bytes, on average (default 8M;\n1: every block; off: none)",
     OPTION_GUARD},
    {"stats", NULL, "print a summary of the program's memory on standard error when it ends",
     OPTION_STATS},
    {"json", "FILE", "write the figures of all its processes to FILE (- for standard output)",
     OPTION_JSON},
    {"log", "FILE", "write Freehold's messages to FILE instead of standard error", OPTION_LOG},
    {"on-error", "ACTION",
     "after the report of a memory error: abort (default), continue,\nor exit=N with status N",
     OPTION_ON_ERROR},
    {"on-foreign", "ACTION",
     "when a pointer of another allocator is freed: abort (default), warn,\nignore, or forward to "
     "that allocator",
     OPTION_ON_FOREIGN},
    {"decay", "MS",
     "give unused memory back after MS milliseconds (default 500;\n0 at once, -1 never)",
     OPTION_DECAY},
    {"huge", "WHEN", "use huge pages: auto (default), always or never", OPTION_HUGE},
    {"uaf", "HOW",
     "how freed memory waits until its reuse is harmless: quarantine (default),\nor sweep, until "
     "no pointer to it is left",
     OPTION_UAF},
    {"quarantine", "SIZE", "let up to SIZE bytes of freed memory wait for their reuse",
     OPTION_QUARANTINE},
    {"limit", "SIZE", "let the heap refuse memory beyond SIZE bytes, and tell who has it",
     OPTION_LIMIT},
    {"oom", "ACTION", "at an allocation beyond the limit: warn (default) or abort", OPTION_OOM},
    {"fail", "SPEC",
     "fail allocations on purpose: nth=N the Nth, rate=P each with probability P,\nsite=F those of "
     "function F, after=SIZE all beyond SIZE bytes; sweep lets each\nplace fail once, in a run of "
     "its own (freehold run --fail sweep --help)",
     OPTION_FAIL},
    {"fail-log", NULL, "tell each failure that is made on purpose", OPTION_FAIL_LOG},
    {"suppress", "FILE", "leave out the errors that FILE names", OPTION_SUPPRESS},
    {"report", "FILE", "write each error to FILE, too, as one JSON object a line", OPTION_REPORT},
};
enum { OPTIONS = sizeof(options) / sizeof(options[0]) };

struct request {
    bool wants_summary;
    const char *json_file; /* NULL: none */
    const char *log_file;  /* NULL: none */
    const char *report_file;
    const char *suppress_file;
    struct settings settings;
    char **program; /* argv of the program */
};

static bool wants_figures(const struct request *request)
{
    return request->wants_summary || request->json_file != NULL;
}

static int print_help(void)
{
    puts("Usage: freehold run [OPTION...] [--] PROG [ARG...]\n"
         "\n"
         "Runs PROG, unmodified, with Freehold as its memory allocator. Processes that PROG\n"
         "starts have it too. FILE may hold %p, the process id.\n"
         "\n"
         "Options:");
    cli_print_options(options, OPTIONS);
    puts("\n"
         "Exit status: PROG's own (or the signal that killed it); before PROG starts 125 for\n"
         "trouble of Freehold's own, 126 when PROG can't be executed or preloaded, 127 when it\n"
         "is not found.\n"
         "\n"
         "Examples:\n"
         "  freehold run -- python3 script.py\n"
         "  freehold run --stats --decay 100 -- redis-server --port 7000");
    return cli_finish_output(CLI_OK, CLI_OWN_TROUBLE);
}

/* ---- The command line ---- */

static bool add_on_error(struct settings *settings, const char *value)
{
    static const char *const choices[] = {"abort", "continue", "exit=N"};
    static const char exit_prefix[] = "exit=";
    const size_t prefix_len = sizeof(exit_prefix) - 1;
    if (strncmp(value, exit_prefix, prefix_len) == 0) {
        if (!settings_parse_number(value + prefix_len, 0, 255)) {
            cli_complain("--on-error exit=N takes a status from 0 to 255, not '%s'",
                         value + prefix_len);
            return false;
        }
        return settings_add(settings, "on_error", value);
    }
    return settings_add_choice(settings, "on-error", "on_error", value, choices, 3);
}

static bool add_guard(struct settings *settings, const char *value)
{
    if (strcmp(value, "off") == 0) {
        return settings_add(settings, "guard", value);
    }
    return settings_add_size(
        settings, "guard", "guard", value, 1,
        "the mean number of bytes between guarded blocks, such as 8M (1: every "
        "block), or off");
}

/* The first of the conditions whose name is none: what it was meant to be; NULL when all names are right. */
static const char *meant_condition(const char *value)
{
    static const char *const names[] = {"nth", "rate", "site", "after", "seed", "persist", "sweep"};
    while (*value != '\0') {
        char name[32];
        bool is_known = false;
        snprintf(name, sizeof(name), "%.*s", (int)strcspn(value, "=+"), value);
        for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
            is_known = is_known || strcmp(name, names[i]) == 0;
        }
        if (!is_known) {
            return cli_nearest(name, names, sizeof(names) / sizeof(names[0]));
        }
        value += strcspn(value, "+");
        value += *value == '+';
    }
    return NULL;
}

static bool add_fail(struct settings *settings, const char *value)
{
    struct fh_fail_spec spec;
    if (strchr(value, ',') != NULL) {
        cli_complain("--fail takes conditions joined by +, and '%s' holds a comma", value);
        return false;
    }
    if (fh_fail_parse(value, &spec) == 0) {
        return settings_add(settings, "fail", value);
    }
    const char *meant = meant_condition(value);
    cli_complain("--fail takes nth=N, rate=P, site=FUNCTION, after=SIZE or sweep, not '%s'%s%s%s",
                 value, meant != NULL ? "; did you mean '" : "", meant != NULL ? meant : "",
                 meant != NULL ? "'?" : "");
    return false;
}

static bool take_option(struct request *request, int id, const char *value)
{
    static const char *const modes[] = {"fast", "hardened", "debug"};
    static const char *const foreign[] = {"abort", "warn", "ignore", "forward"};
    static const char *const huge[] = {"auto", "always", "never"};
    static const char *const uaf[] = {"quarantine", "sweep"};
    static const char *const oom[] = {"warn", "abort"};
    struct settings *settings = &request->settings;
    switch (id) {
    case OPTION_STATS:
        request->wants_summary = true;
        return true;
    case OPTION_JSON:
        request->json_file = value;
        return true;
    case OPTION_LOG:
        request->log_file = value;
        return true;
    case OPTION_SUPPRESS:
        request->suppress_file = value;
        return true;
    case OPTION_REPORT:
        request->report_file = value;
        return true;
    case OPTION_MODE:
        return settings_add_choice(settings, "mode", "mode", value, modes, 3);
    case OPTION_GUARD:
        return add_guard(settings, value);
    case OPTION_LIMIT:
        return settings_add_size(settings, "limit", "limit", value, 1,
                                 "a number of bytes, such as 64K or 8M");
    case OPTION_OOM:
        return settings_add_choice(settings, "oom", "oom", value, oom, 2);
    case OPTION_FAIL:
        return add_fail(settings, value);
    case OPTION_FAIL_LOG:
        return settings_add(settings, "fail_log", "on");
    case OPTION_QUARANTINE:
        return settings_add_size(settings, "quarantine", "quarantine", value, 0,
                                 "a number of bytes, such as 64K or 8M");
    case OPTION_UAF:
        return settings_add_choice(settings, "uaf", "uaf", value, uaf, 2);
    case OPTION_ON_ERROR:
        return add_on_error(settings, value);
    case OPTION_ON_FOREIGN:
        return settings_add_choice(settings, "on-foreign", "on_foreign", value, foreign, 4);
    case OPTION_DECAY:
        return settings_add_number(settings, "decay", "decay", value, -1, INT_MAX,
                                   "milliseconds (0: at once, -1: never)");
    default:
        return settings_add_choice(settings, "huge", "huge", value, huge, 3);
    }
}

/* -1 when the request is complete, else the exit status. */
static int read_request(struct request *request, int argc, char **argv)
{
    struct cli_arguments arguments = {"freehold run", options, OPTIONS, argc, argv, 1};
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
        cli_complain("no program is given; write: freehold run [OPTION...] -- PROG [ARG...]");
        return CLI_OWN_TROUBLE;
    }
    request->program = argv + arguments.next;
    return -1;
}

/* ---- The files ---- */

/* Whether FILE can be written; found out now, not after a long run. A name with %p is still to be
 * made. */
static bool can_be_written(const char *option, const char *file)
{
    if (strstr(file, "%p") != NULL) {
        return true;
    }
    const int fd = open(file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NONBLOCK, 0644);
    if (fd < 0 && errno != ENXIO) {
        cli_complain("--%s: '%s' can't be written: %s", option, file, strerror(errno));
        return false;
    }
    if (fd >= 0) {
        close(fd);
    }
    return true;
}

static bool can_be_read(const char *option, const char *file)
{
    if (access(file, R_OK) != 0) {
        cli_complain("--%s: '%s' can't be read: %s", option, file, strerror(errno));
        return false;
    }
    return true;
}

/* A file that the library writes to: its name is checked first, so that a refused one is not
 * made. */
static bool add_output(struct settings *settings, const char *option, const char *name,
                       const char *file)
{
    return file == NULL ||
           (settings_add_file(settings, option, name, file) && can_be_written(option, file));
}

static bool prepare_files(struct request *request)
{
    struct settings *settings = &request->settings;
    const char *json_file = request->json_file;
    const char *suppress_file = request->suppress_file;
    if (json_file != NULL && strcmp(json_file, "-") != 0 && !can_be_written("json", json_file)) {
        return false;
    }
    if (suppress_file != NULL &&
        (!can_be_read("suppress", suppress_file) ||
         !settings_add_file(settings, "suppress", "suppress", suppress_file))) {
        return false;
    }
    return add_output(settings, "report", "report", request->report_file) &&
           add_output(settings, "log", "log", request->log_file);
}

/* ---- The program ---- */

static void write_json(const struct request *request, const struct records *records,
                       const struct outcome *outcome)
{
    char name[PATH_MAX] = "";
    int fd = STDOUT_FILENO;
    if (strcmp(request->json_file, "-") != 0) {
        if (!output_expand_name(request->json_file, outcome->pid, name, sizeof(name))) {
            cli_complain("--json: the name '%s' is too long", request->json_file);
            return;
        }
        fd = open(name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
        if (fd < 0) {
            cli_complain("--json: '%s' can't be written: %s", name, strerror(errno));
            return;
        }
    }
    const int error = records_write_json(records, outcome, request->program, fd);
    if (error != 0) {
        cli_complain("--json: '%s' can't be written: %s", name, strerror(error));
    }
    if (fd != STDOUT_FILENO) {
        close(fd);
    }
}

/* After the program's end its status is what matters; trouble with the report is told, and changes
 * nothing. */
static void report(const struct request *request, const struct record_file *file,
                   const struct outcome *outcome)
{
    struct records records;
    const int error = records_read(&records, file->path);
    if (error != 0) {
        cli_complain("the statistics can't be read: %s", strerror(error));
    }
    if (request->json_file != NULL) {
        write_json(request, &records, outcome);
    }
    if (request->wants_summary) {
        struct term term;
        term_open(&term, stderr);
        summary_print(&term, &records, outcome, request->program);
    }
    records_free(&records);
}

/* Whether processes may have stacks to tell of, in which addresses are to become functions and
 * lines. */
static bool has_reports(const struct settings *settings)
{
    static const char *const makers[] = {"guard", "limit", "fail"};
    char value[64];
    settings_value(settings, "mode", value, sizeof(value));
    if (strcmp(value, "hardened") == 0 || strcmp(value, "debug") == 0) {
        return true;
    }
    for (size_t i = 0; i < sizeof(makers) / sizeof(makers[0]); i++) {
        settings_value(settings, makers[i], value, sizeof(value));
        if (value[0] != '\0' && strcmp(value, "off") != 0) {
            return true;
        }
    }
    return false;
}

/* What stands between the program and its user while it runs. */
struct attendance {
    struct record_file records;
    bool has_records;
    struct relay_reader *messages; /* NULL: they go where the processes write them */
    char log_file[PATH_MAX];
};

static void end_attendance(struct attendance *attendance)
{
    relay_finish(attendance->messages);
    attendance->messages = NULL;
    if (attendance->has_records) {
        records_close(&attendance->records);
        attendance->has_records = false;
    }
}

/* Without it nothing is lost: messages are then written by the processes, with addresses. */
static bool read_messages(struct attendance *attendance, struct settings *settings)
{
    int error;
    char *log_file = attendance->log_file;
    settings_value(settings, "log", log_file, sizeof(attendance->log_file));
    attendance->messages = relay_start(log_file[0] != '\0' ? log_file : NULL, &error);
    if (attendance->messages == NULL) {
        cli_complain("stacks will have addresses, not lines: %s", strerror(error));
        return true;
    }
    return settings_add(settings, "relay", relay_path(attendance->messages));
}

static bool collect_records(struct attendance *attendance, struct settings *settings)
{
    const int error = records_open(&attendance->records);
    if (error != 0) {
        cli_complain("no file for the statistics can be made in TMPDIR or /tmp: %s",
                     strerror(error));
        return false;
    }
    attendance->has_records = true;
    return settings_add(settings, "stats", attendance->records.path);
}

static bool begin_attendance(struct attendance *attendance, struct request *request)
{
    return read_messages(attendance, &request->settings) &&
           (!wants_figures(request) || collect_records(attendance, &request->settings)) &&
           library_configure(request->settings.text);
}

static int run_attended(struct request *request, const char *path)
{
    static struct attendance attendance;
    struct outcome outcome;
    if (!begin_attendance(&attendance, request)) {
        end_attendance(&attendance);
        return CLI_OWN_TROUBLE;
    }
    const int start_error = supervise(path, request->program, &outcome);
    relay_finish(attendance.messages);
    attendance.messages = NULL;
    if (start_error == 0 && attendance.has_records) {
        report(request, &attendance.records, &outcome);
    }
    end_attendance(&attendance);
    if (start_error != 0) {
        return program_complain_not_started(path, start_error);
    }
    end_like(&outcome);
}

/* Debug mode's checked wrappers of memcpy and its kind stand before malloc. Without them the
 * mode finds less, and works. */
static bool preload_checks(struct request *request)
{
    char mode[16];
    char library[PATH_MAX];
    if (strcmp(settings_value(&request->settings, "mode", mode, sizeof(mode)), "debug") != 0) {
        return true;
    }
    if (!library_find("libfreehold-debug", library, sizeof(library))) {
        cli_complain(
            "libfreehold-debug.so is not there; what memcpy, strcpy, read and their kind do "
            "is not checked");
        return settings_add(&request->settings, "wrappers", "off"); /* said once is enough */
    }
    return library_preload(library);
}

int cli_run(int argc, char **argv)
{
    static struct request request;
    static struct program program;
    char library[PATH_MAX];
    if (sweep_is_wanted(argc, argv)) {
        return cli_sweep(argc, argv);
    }
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
    status = program_check(&program, request.program[0]);
    if (status != 0) {
        return status;
    }
    if (!prepare_files(&request) || !library_preload(library) || !preload_checks(&request)) {
        return CLI_OWN_TROUBLE;
    }
    if (wants_figures(&request) || has_reports(&request.settings)) {
        return run_attended(&request, program.path);
    }
    if (!library_configure(request.settings.text)) {
        return CLI_OWN_TROUBLE;
    }
    return program_complain_not_started(program.path, replace_by(program.path, request.program));
}
