/*
 * record.h: the record that a process leaves when it exits (docs/stats-json.md), when the setting
 * stats=PATH asks.
 */
#ifndef FH_WATCH_RECORD_H
#define FH_WATCH_RECORD_H

#include "base/core/macros.h"

/* Notes when and as which process the program began; false when no record is wanted. */
FH_PUBLIC bool fh_record_start(void);
/* In a forked child: what was counted so far is its parent's. */
FH_PUBLIC void fh_record_forked(void);
/* Appends the record, once a process; `exit` says by which way it ended. Safe in signal handlers.
 */
FH_PUBLIC void fh_record_write(const char *exit);
/* The same, and the end of the process as by _exit. */
FH_PUBLIC _Noreturn void fh_record_exit(int status);

#endif
