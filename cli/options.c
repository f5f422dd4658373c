/*
 * Command lines.
 *
 * The grammar is the usual one: options begin with two dashes, an option's argument follows after
 * '=' or as the next word, the first word that is no option ends them, and "--" ends them
 * explicitly. There are no abbreviations: a script that says `--st` today would change its meaning
 * with the next option that starts so. What helps a person instead is the suggestion: the word that
 * is fewest edits away.
 *
 * Nearness is the restricted Damerau-Levenshtein distance (Damerau 1964; Wagner and Fischer 1974
 * for the table): insertions, deletions, substitutions and swaps of neighbours cost one each, since
 * these four make most typing errors. A suggestion is offered up to a third of the longer word's
 * length, at least one edit: beyond that it would be a guess and would mislead.
 */
#include "options.h"

#include "cli.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* Longer words are nobody's misspelling of an option; bounds the table on the stack. */
enum { LONGEST_WORD = 40 };

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

static size_t edit_distance(const char *a, const char *b)
{
    const size_t a_len = strlen(a);
    const size_t b_len = strlen(b);
    if (a_len > LONGEST_WORD || b_len > LONGEST_WORD) {
        return LONGEST_WORD;
    }
    /* Three rows of the table are enough: a swap looks two rows back. */
    size_t row[3][LONGEST_WORD + 1];
    size_t *before = row[0];
    size_t *above = row[1];
    size_t *here = row[2];
    for (size_t j = 0; j <= b_len; j++) {
        above[j] = j;
        before[j] = j;
    }
    for (size_t i = 1; i <= a_len; i++) {
        here[0] = i;
        for (size_t j = 1; j <= b_len; j++) {
            const size_t substitution = above[j - 1] + (a[i - 1] != b[j - 1]);
            here[j] = least(substitution, least(above[j], here[j - 1]) + 1);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
                here[j] = least(here[j], before[j - 2] + 1);
            }
        }
        size_t *recycled = before;
        before = above;
        above = here;
        here = recycled;
    }
    return above[b_len];
}

const char *cli_nearest(const char *word, const char *const *candidates, size_t count)
{
    const char *nearest = NULL;
    size_t shortest = LONGEST_WORD;
    for (size_t i = 0; i < count; i++) {
        const size_t word_len = strlen(word);
        const size_t candidate_len = strlen(candidates[i]);
        const size_t longer = word_len > candidate_len ? word_len : candidate_len;
        const size_t allowed = longer >= 6 ? longer / 3 : 1;
        const size_t distance = edit_distance(word, candidates[i]);
        if (distance <= allowed && distance < shortest) {
            shortest = distance;
            nearest = candidates[i];
        }
    }
    return nearest;
}

static void complain_unknown(const struct cli_arguments *arguments, const char *name, size_t len)
{
    enum { MOST = 32 };
    const char *names[MOST];
    size_t count = 0;
    for (size_t i = 0; i < arguments->option_count && count < MOST - 1; i++) {
        names[count++] = arguments->options[i].name;
    }
    names[count++] = "help";

    char word[LONGEST_WORD + 1] = "";
    const char *nearest = NULL;
    if (len <= LONGEST_WORD) {
        memcpy(word, name, len);
        nearest = cli_nearest(word, names, count);
    }
    if (nearest != NULL) {
        cli_complain("unknown option '--%.*s'; did you mean '--%s'? (%s --help lists all)",
                     (int)len, name, nearest, arguments->command);
    } else {
        cli_complain("unknown option '--%.*s'; %s --help lists the options", (int)len, name,
                     arguments->command);
    }
}

static const struct cli_option *find(const struct cli_arguments *arguments, const char *name,
                                     size_t len)
{
    for (size_t i = 0; i < arguments->option_count; i++) {
        const struct cli_option *option = &arguments->options[i];
        if (strlen(option->name) == len && memcmp(option->name, name, len) == 0) {
            return option;
        }
    }
    return NULL;
}

int cli_next_option(struct cli_arguments *arguments, const char **value)
{
    *value = NULL;
    if (arguments->next >= arguments->argc) {
        return CLI_NO_MORE_OPTIONS;
    }
    const char *word = arguments->argv[arguments->next];
    if (word[0] != '-' || word[1] == '\0') {
        return CLI_NO_MORE_OPTIONS;
    }
    arguments->next++;
    if (strcmp(word, "--") == 0) {
        return CLI_NO_MORE_OPTIONS;
    }
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0) {
        return CLI_HELP;
    }
    if (word[1] != '-') {
        cli_complain("unknown option '%s'; options are long, as in --help (%s --help lists them)",
                     word, arguments->command);
        return CLI_BAD_OPTION;
    }

    const char *name = word + 2;
    const size_t len = strcspn(name, "=");
    const bool has_inline_value = name[len] == '=';
    const struct cli_option *option = find(arguments, name, len);
    if (option == NULL) {
        complain_unknown(arguments, name, len);
        return CLI_BAD_OPTION;
    }
    if (option->argument == NULL) {
        if (has_inline_value) {
            cli_complain("option '--%s' takes no argument; write it without '%s'", option->name,
                         name + len);
            return CLI_BAD_OPTION;
        }
        return option->id;
    }
    if (has_inline_value) {
        *value = name + len + 1;
    } else if (arguments->next < arguments->argc) {
        *value = arguments->argv[arguments->next++];
    }
    if (*value == NULL || **value == '\0' || strcmp(*value, "--") == 0) {
        cli_complain("option '--%s' needs an argument; write --%s %s", option->name, option->name,
                     option->argument);
        return CLI_BAD_OPTION;
    }
    return option->id;
}

/* The text after the option, each line of it starting in the same column. */
static void print_option(const struct cli_option *option, size_t column)
{
    const bool has_argument = option->argument != NULL;
    const size_t width = (size_t)printf("  --%s%s%s", option->name, has_argument ? " " : "",
                                        has_argument ? option->argument : "");
    size_t padding = column - width;
    for (const char *line = option->help;;) {
        const size_t len = strcspn(line, "\n");
        printf("%*s%.*s\n", (int)padding, "", (int)len, line);
        if (line[len] == '\0') {
            return;
        }
        line += len + 1;
        padding = column;
    }
}

void cli_print_options(const struct cli_option *options, size_t count)
{
    static const struct cli_option help = {"help", NULL, "show this help", 0};
    size_t widest = strlen("  --help");
    for (size_t i = 0; i < count; i++) {
        const size_t argument_len =
            options[i].argument != NULL ? strlen(options[i].argument) + 1 : 0;
        const size_t width = strlen("  --") + strlen(options[i].name) + argument_len;
        widest = width > widest ? width : widest;
    }
    for (size_t i = 0; i < count; i++) {
        print_option(&options[i], widest + 2);
    }
    print_option(&help, widest + 2);
}
