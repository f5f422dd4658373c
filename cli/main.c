/*
 * The `freehold` command: finds the subcommand and enters it.
 *
 * A subcommand is one file with one `cli_<name>` function and a line in the table below. What is
 * not in the table does not exist: help, version and suggestions are made from it. Exit statuses
 * follow two conventions (cli.h): tools of their own end with 0 to 4; those that start a program
 * keep to what env, nice and timeout do, 125 to 127 before it starts and the program's own after.
 */
#include "cli.h"
#include "options.h"

#include "lab/job.h"
#include "lab/trial.h"

#include <locale.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static const struct cli_subcommand subcommands[] = {
    {"run", "run a program with Freehold as its memory allocator", cli_run},
    {"record", "write down every allocation of a program, with its stack", cli_record},
    {"replay", "run a recorded trace through every allocator, side by side", cli_replay},
    {"advise", "say what a program could change, with the saving as replayed", cli_advise},
    {"symbolize", "show functions and lines in a saved report", cli_symbolize},
    {"doctor", "say what this machine and a program allow, and what to do about it", cli_doctor},
};
enum { SUBCOMMANDS = sizeof(subcommands) / sizeof(subcommands[0]) };

void cli_complain(const char *format, ...)
{
    char line[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    fflush(stdout);
    fprintf(stderr, "freehold: %s\n", line);
}

int cli_finish_output(int status, int failure)
{
    const bool had_error = ferror(stdout) != 0;
    if (fflush(stdout) != 0 || had_error) {
        cli_complain("standard output can't be written; is the disk full?");
        return failure;
    }
    return status;
}

static int print_help(void)
{
    puts("Usage: freehold SUBCOMMAND [OPTION...] [PROG [ARG...]]\n"
         "\n"
         "Memory management for C and C++ programs, without rebuilding them.\n"
         "\n"
         "Subcommands:");
    for (size_t i = 0; i < SUBCOMMANDS; i++) {
        printf("  %-9s  %s\n", subcommands[i].name, subcommands[i].summary);
    }
    puts("\n"
         "Options:\n"
         "  --help     show this help; freehold SUBCOMMAND --help shows a subcommand's\n"
         "  --version  show the version\n"
         "\n"
         "Example: freehold run --stats -- sqlite3 my.db 'select count(*) from t'\n"
         "The manual is in freehold(1).");
    return cli_finish_output(CLI_OK, CLI_USAGE);
}

static int complain_unknown(const char *word)
{
    const char *names[SUBCOMMANDS + 2];
    const bool is_option = word[0] == '-';
    size_t count = 0;
    if (is_option) {
        names[count++] = "--help";
        names[count++] = "--version";
    } else {
        for (size_t i = 0; i < SUBCOMMANDS; i++) {
            names[count++] = subcommands[i].name;
        }
    }
    const char *kind = is_option ? "option" : "subcommand";
    const char *nearest = cli_nearest(word, names, count);
    if (nearest != NULL) {
        cli_complain("unknown %s '%s'; did you mean '%s'? (freehold --help lists all)", kind, word,
                     nearest);
    } else if (is_option) {
        cli_complain("unknown option '%s'; freehold --help lists what there is", word);
    } else {
        cli_complain(
            "unknown subcommand '%s'; freehold --help lists them, and a program is started "
            "by: freehold run -- PROG",
            word);
    }
    return CLI_USAGE;
}

int main(int argc, char **argv)
{
    /* Before anything that allocates: a worker's malloc is what is measured. */
    if (argc == 1 && strcmp(argv[0], LAB_WORKER_NAME) == 0) {
        return lab_worker();
    }
    if (argc == 1 && strcmp(argv[0], LAB_TRIAL_NAME) == 0) {
        return lab_trial_worker();
    }
    setlocale(LC_CTYPE, "");
    if (argc < 2) {
        cli_complain("a subcommand is missing; freehold --help lists them");
        return CLI_USAGE;
    }
    const char *word = argv[1];
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0) {
        return print_help();
    }
    if (strcmp(word, "--version") == 0) {
        puts("freehold " FREEHOLD_VERSION);
        return cli_finish_output(CLI_OK, CLI_USAGE);
    }
    for (size_t i = 0; i < SUBCOMMANDS; i++) {
        if (strcmp(word, subcommands[i].name) == 0) {
            return subcommands[i].enter(argc - 1, argv + 1);
        }
    }
    return complain_unknown(word);
}
