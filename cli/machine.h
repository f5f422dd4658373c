/*
 * What this machine gives a memory manager: a list of findings, each with what it means and how to
 * better it.
 */
#ifndef FH_CLI_MACHINE_H
#define FH_CLI_MACHINE_H

#include <stdbool.h>
#include <stddef.h>

enum finding_status {
    FINDING_GOOD,
    FINDING_PLAIN,   /* neither good nor bad */
    FINDING_LIMITED, /* Freehold works, less well */
    FINDING_MISSING, /* something does not work at all */
};

struct finding {
    const char *group; /* consecutive findings of one group stand under one heading */
    const char *name;
    enum finding_status status;
    char state[128];
    const char *meaning;
    const char *remedy; /* how to get it; NULL when nothing needs doing or nothing can be done */
};

enum { MOST_FINDINGS = 48 };

struct findings {
    struct finding items[MOST_FINDINGS];
    size_t count;
};

/* Adds one; its state is formatted. */
struct finding *findings_add(struct findings *findings, const char *group, const char *name,
                             enum finding_status status, const char *state, ...)
    __attribute__((format(printf, 5, 6)));

/* Looks at kernel, CPU, memory and limits. Changes nothing on the machine. */
void machine_inspect(struct findings *findings);

#endif
