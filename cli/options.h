/*
 * Options of the command line: one table per subcommand, from which parsing, `--help` and the
 * suggestion for a misspelt option all follow, so they cannot disagree.
 */
#ifndef FH_CLI_OPTIONS_H
#define FH_CLI_OPTIONS_H

#include <stddef.h>

struct cli_option {
    const char *name;     /* without the dashes */
    const char *argument; /* as help names it; NULL when the option takes none */
    const char *help;     /* one or more lines, separated by '\n' */
    int id;               /* what cli_next_option returns; > 0 */
};

/* A walk over the arguments. `next` is the index of the first argument not yet consumed. */
struct cli_arguments {
    const char *command; /* for complaints: "freehold run" */
    const struct cli_option *options;
    size_t option_count;
    int argc;
    char **argv;
    int next;
};

enum {
    CLI_NO_MORE_OPTIONS = 0, /* `next` is at the first operand; "--" has been skipped */
    CLI_BAD_OPTION = -1,     /* a complaint has been written */
    CLI_HELP = -2,           /* --help or -h was given */
};

/* The id of the next option; *value is its argument or NULL. */
int cli_next_option(struct cli_arguments *arguments, const char **value);

/* The table as aligned text on standard output, with --help added at the end. */
void cli_print_options(const struct cli_option *options, size_t count);

/* The candidate nearest to `word`, or NULL when none is near enough to be what was meant. */
const char *cli_nearest(const char *word, const char *const *candidates, size_t count);

#endif
