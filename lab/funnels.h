/*
 * Wrappers that nobody named: functions through which much of a program allocates.
 *
 *     struct lab_funnels *funnels = lab_funnels_open();
 *     while ((n = fh_trace_read(trace, events, 1024)) > 0) lab_funnels_add(funnels, events, n);
 *     lab_funnels_find(funnels, trace, &names);     // before the trace is begun again
 *     names.funnels = funnels;                      // for lab_sites_open
 *     lab_funnels_close(funnels);
 *
 * Names say of xmalloc what it is, but not of l_alloc, and nothing in a stripped program. Its stacks do.
 */
#ifndef FH_LAB_FUNNELS_H
#define FH_LAB_FUNNELS_H

#include "sites.h"

#include "freehold/trace.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct lab_funnels;

/* NULL without memory. */
struct lab_funnels *lab_funnels_open(void);
/* 0 or -ENOMEM. */
int lab_funnels_add(struct lab_funnels *funnels, const struct fh_trace_event *events, size_t count);
/* Judges what was added. names->funnels is not looked at. 0 or -ENOMEM. */
int lab_funnels_find(struct lab_funnels *funnels, struct fh_trace *trace,
                     const struct lab_names *names);
/* Whether the function (as names->function_of has it) is one. */
bool lab_funnels_has(const struct lab_funnels *funnels, uint64_t function);
void lab_funnels_close(struct lab_funnels *funnels);

#endif
