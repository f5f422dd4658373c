/*
 * What every subcommand shares: how it is named and entered, how it ends, and how it complains.
 */
#ifndef FH_CLI_CLI_H
#define FH_CLI_CLI_H

/* A subcommand: `enter` gets its own arguments (argv[0] is the subcommand's name) and returns the
 * exit status. */
struct cli_subcommand {
    const char *name;
    const char *summary; /* one line for `freehold --help` */
    int (*enter)(int argc, char **argv);
};

/* Exit statuses of tools that start no program. */
enum {
    CLI_OK = 0,
    CLI_FINDINGS = 1, /* it worked, and what it found is bad news */
    CLI_USAGE = 2,
    CLI_DAMAGED = 3,
    CLI_LACKING = 4, /* this machine does not have what the tool needs */
};

/* Exit statuses of subcommands that start a program, while it has not started. */
enum {
    CLI_OWN_TROUBLE = 125,
    CLI_CANNOT_RUN = 126,
    CLI_NOT_FOUND = 127,
};

int cli_run(int argc, char **argv);
/* What `freehold run` does with --fail sweep. */
int cli_sweep(int argc, char **argv);
int cli_record(int argc, char **argv);
int cli_replay(int argc, char **argv);
int cli_advise(int argc, char **argv);
int cli_symbolize(int argc, char **argv);
int cli_doctor(int argc, char **argv);

/* Writes one line, "freehold: " and the message, on standard error. */
void cli_complain(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Flushes standard output; `status` when all of it was written, else `failure`, after a complaint.
 */
int cli_finish_output(int status, int failure);

#endif
