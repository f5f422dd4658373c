/*
 * What advise found, for a person and for programs.
 */
#ifndef FH_CLI_ADVISE_REPORT_H
#define FH_CLI_ADVISE_REPORT_H

#include "term.h"

#include "lab/findings.h"
#include "lab/trial.h"
#include "tools/symbols.h"

struct json_object;

/* A finding, and what its trial said. */
struct proposal {
    const struct lab_finding *finding;
    bool is_tried; /* else `trial` says nothing */
    struct lab_trial trial;
};

struct advice {
    const struct fh_trace_info *info;
    const struct fh_trace_process *process;
    struct fh_trace *trace; /* for stacks */
    const struct lab_sites *sites;
    struct symbols *symbols;
    struct proposal *proposals;
    size_t proposal_count;
    size_t finding_count; /* of which the proposals are the heaviest */
    unsigned rounds;
    const char *allocator; /* that was replayed through */
};

/* The best savings first; then what was not tried; what is noise or worse last. */
void advise_rank(struct proposal *proposals, size_t count);
void advise_print(const struct term *term, const struct advice *advice);
/* NULL without memory. */
struct json_object *advise_json(const struct advice *advice);

#endif
