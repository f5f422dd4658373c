/*
 * The summary of a run, for a person.
 */
#ifndef FH_CLI_SUMMARY_H
#define FH_CLI_SUMMARY_H

#include "records.h"
#include "supervise.h"
#include "term.h"

/* Writes it on the terminal or file; argv is the program's. */
void summary_print(const struct term *term, const struct records *records,
                   const struct outcome *outcome, char **argv);

#endif
