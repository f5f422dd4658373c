/*
 * What a replay found: as a table for a person, and as JSON (docs/replay-json.md).
 */
#ifndef FH_CLI_REPLAY_REPORT_H
#define FH_CLI_REPLAY_REPORT_H

#include "lab/contest.h"
#include "term.h"

#include "freehold/trace.h"

struct json_object;

struct replay_report {
    const char *file;
    const struct fh_trace_info *trace;
    const struct fh_trace_process *process;
    unsigned process_index;
    const char *damage; /* where the trace can't be read any further, in a sentence; NULL: it can */
    const struct lab_contest *contest;
};

void replay_print(const struct term *term, const struct replay_report *report);
/* The caller puts it. */
struct json_object *replay_json(const struct replay_report *report);

/* Why a contestant has no figures, in a few words; empty when it has. */
void replay_explain(const struct replay_report *report, const struct lab_contestant *who,
                    char *sentence, size_t size);

#endif
