/*
 * freehold record: starts a program with libfreehold-record in it, and writes what it allocates.
 *
 * The order is that of `freehold run` (run.c): the command line, our library, the program file, the trace file,
 * and only then the program. The trace file is made before the program starts, so that a name that
 * cannot be written costs nobody a run; from then on nothing that happens to the recording changes how the
 * program runs or ends. A thread of this process writes the trace (consume.c) while the main thread
 * stands by the program (supervise.c).
 */
#include "cli.h"
#include "consume.h"
#include "library.h"
#include "options.h"
#include "output.h"
#include "program.h"
#include "supervise.h"
#include "term.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { OPTION_OUTPUT = 1 };

static const struct cli_option options[] = {
    {"output", "FILE", "write the trace to FILE; -o FILE is the same", OPTION_OUTPUT},
};
enum { OPTIONS = sizeof(options) / sizeof(options[0]) };

struct request {
    const char *file;
    char **program;
};

static int print_help(void)
{
    puts("Usage: freehold record -o FILE [--] PROG [ARG...]\n"
         "\n"
         "Runs PROG, unmodified, and writes every allocation, free and resize of it, of its\n"
         "threads and of the processes that it starts to FILE, each with its time and stack.\n"
         "freehold replay and freehold advise read that file. PROG runs on Freehold's heap.\n"
         "\n"
         "Options:");
    cli_print_options(options, OPTIONS);
    puts(
        "\n"
        "Recording is for the time until PROG ends: what its children do after that is not in\n"
        "FILE. If recording is killed, FILE is readable up to its last moments. FILE may hold %p,\n"
        "the process id of PROG; until PROG has ended it is that of the recording command.\n"
        "\n"
        "Exit status: PROG's own (or the signal that killed it); before PROG starts 125 for\n"
        "trouble of Freehold's own, 126 when PROG can't be executed or preloaded, 127 when it\n"
        "is not found.\n"
        "\n"
        "Example:\n"
        "  freehold record -o sqlite.fht -- sqlite3 my.db 'select count(*) from t'");
    return cli_finish_output(CLI_OK, CLI_OWN_TROUBLE);
}

/* "-o FILE" and "-oFILE" become "--output FILE", which the table knows. */
static const char *short_output(struct cli_arguments *arguments)
{
    const char *word = arguments->next < arguments->argc ? arguments->argv[arguments->next] : "";
    if (strncmp(word, "-o", 2) != 0) {
        return NULL;
    }
    arguments->next++;
    if (word[2] != '\0') {
        return word + 2;
    }
    return arguments->next < arguments->argc ? arguments->argv[arguments->next++] : "";
}

/* -1 when the request is complete, else the exit status. */
static int read_request(struct request *request, int argc, char **argv)
{
    struct cli_arguments arguments = {"freehold record", options, OPTIONS, argc, argv, 1};
    for (;;) {
        const char *value = short_output(&arguments);
        if (value == NULL) {
            const int id = cli_next_option(&arguments, &value);
            if (id == CLI_HELP) {
                return print_help();
            }
            if (id == CLI_BAD_OPTION) {
                return CLI_OWN_TROUBLE;
            }
            if (id == CLI_NO_MORE_OPTIONS) {
                break;
            }
        }
        request->file = value;
    }
    if (request->file == NULL || *request->file == '\0' || strcmp(request->file, "--") == 0) {
        cli_complain(
            "no file is given for the trace; write: freehold record -o FILE -- PROG [ARG...]");
        return CLI_OWN_TROUBLE;
    }
    if (arguments.next >= argc) {
        cli_complain("no program is given; write: freehold record -o FILE -- PROG [ARG...]");
        return CLI_OWN_TROUBLE;
    }
    request->program = argv + arguments.next;
    return -1;
}

/* The arguments as a shell would be given them. */
static char *quote_command(char **argv)
{
    size_t size = 1;
    for (char **word = argv; *word != NULL; word++) {
        size += 4 * strlen(*word) + 3;
    }
    char *command = malloc(size);
    char *out = command;
    if (command == NULL) {
        return NULL;
    }
    for (char **word = argv; *word != NULL; word++) {
        const char *plain =
            "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./=:,+@%";
        const bool needs_quotes = **word == '\0' || (*word)[strspn(*word, plain)] != '\0';
        if (word != argv) {
            *out++ = ' ';
        }
        if (needs_quotes) {
            *out++ = '\'';
        }
        for (const char *in = *word; *in != '\0'; in++) {
            if (*in == '\'') {
                out = stpcpy(out, "'\\''");
            } else {
                *out++ = *in;
            }
        }
        if (needs_quotes) {
            *out++ = '\'';
        }
    }
    *out = '\0';
    return command;
}

/* The trace's descriptor, or -1 after a complaint. */
static int open_trace(const char *file)
{
    struct stat status;
    const int fd = open(file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NONBLOCK, 0666);
    if (fd < 0) {
        cli_complain("'%s' can't be written: %s", file, strerror(errno));
        return -1;
    }
    if (fstat(fd, &status) == 0 && !S_ISREG(status.st_mode)) {
        cli_complain("'%s' is no file; a trace is read from its beginning, so give a file", file);
        close(fd);
        return -1;
    }
    return fd;
}

static void report(const char *file, const struct consumed *consumed)
{
    const double per_event =
        consumed->events != 0 ? (double)consumed->bytes / (double)consumed->events : 0;
    if (consumed->processes == 0) {
        cli_complain(
            "'%s' is empty: the program never allocated, or its memory limit left no room for "
            "the recorder",
            file);
        return;
    }
    cli_complain("recorded %s calls of %u thread%s in %u process%s: %s in %s, %.2f bytes a call",
                 figure_count(consumed->events).text, consumed->threads,
                 consumed->threads == 1 ? "" : "s", consumed->processes,
                 consumed->processes == 1 ? "" : "es", figure_bytes(consumed->bytes).text, file,
                 per_event);
    if (consumed->error != 0) {
        cli_complain("'%s' can't be written: %s; what was written before can be read", file,
                     strerror(-consumed->error));
    } else if (consumed->lost != 0) {
        cli_complain("%s calls are missing in it, which came faster than they could be written",
                     figure_count(consumed->lost).text);
    }
    if (consumed->running != 0) {
        cli_complain(
            "%u process%s went on after the program's end; what they did then is not recorded",
            consumed->running, consumed->running == 1 ? "" : "es");
    }
}

/* Gives the file the program's process id in place of ours; the name that it has then. */
static const char *rename_trace(const char *file, const char *pattern, pid_t pid, char *name,
                                size_t size)
{
    if (strstr(pattern, "%p") == NULL) {
        return file;
    }
    if (!output_expand_name(pattern, pid, name, size) || rename(file, name) != 0) {
        cli_complain("'%s' can't get the name '%s' with the program's process id", file, pattern);
        return file;
    }
    return name;
}

static int record(const struct request *request, const struct program *program, const char *library)
{
    struct outcome outcome;
    struct consumed consumed;
    char file[PATH_MAX];
    char name[PATH_MAX];
    int error = 0;
    if (!output_expand_name(request->file, getpid(), file, sizeof(file))) {
        cli_complain("the name '%s' is too long", request->file);
        return CLI_OWN_TROUBLE;
    }
    char *command = quote_command(request->program);
    const int fd = command != NULL ? open_trace(file) : -1;
    if (fd < 0) {
        free(command);
        return CLI_OWN_TROUBLE;
    }
    /* A line that is written over again would disturb what the program itself shows on the terminal. */
    const bool has_quiet_terminal = isatty(STDERR_FILENO) != 0 && isatty(STDOUT_FILENO) == 0;
    struct consumer *consumer = consumer_start(fd, command, has_quiet_terminal, &error);
    free(command);
    if (consumer == NULL) {
        cli_complain("recording can't begin: %s%s", strerror(-error),
                     error == -EFBIG ? "; it shares 129 MiB of memory with the program, which the "
                                       "limit on file sizes (ulimit -f) must allow"
                                     : "");
        close(fd);
        unlink(file);
        return CLI_OWN_TROUBLE;
    }
    if (!library_preload(library) || !consumer_configure(consumer)) {
        consumer_finish(consumer, -1, &consumed);
        unlink(file);
        return CLI_OWN_TROUBLE;
    }
    const int start_error = supervise(program->path, request->program, &outcome);
    consumer_finish(consumer, start_error == 0 ? outcome.wait_status : -1, &consumed);
    if (start_error != 0) {
        unlink(file);
        return program_complain_not_started(program->path, start_error);
    }
    report(rename_trace(file, request->file, outcome.pid, name, sizeof(name)), &consumed);
    end_like(&outcome);
}

int cli_record(int argc, char **argv)
{
    static struct request request;
    static struct program program;
    char library[PATH_MAX];
    int status = read_request(&request, argc, argv);
    if (status >= 0) {
        return status;
    }
    if (!library_find("libfreehold-record", library, sizeof(library))) {
        cli_complain(
            "libfreehold-record.so is neither beside this command nor in its library folder; "
            "install Freehold again");
        return CLI_OWN_TROUBLE;
    }
    status = program_check(&program, request.program[0]);
    return status != 0 ? status : record(&request, &program, library);
}
