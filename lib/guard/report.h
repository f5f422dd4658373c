/* report.h: one error, as the files that tell it see it. */
#ifndef FH_GUARD_REPORT_H
#define FH_GUARD_REPORT_H

#include "guard/guard.h"

enum {
    FH_REPORT_FRAMES = 48, /* of a stack; deeper ones are cut */
    FH_REPORT_DIGITS = 41, /* of a build id: a SHA-1's, and the terminator */
};

struct fh_report_stack {
    size_t len;
    uintptr_t frames[FH_REPORT_FRAMES]; /* innermost first, without our own */
};

/* Where the address lies, seen from the block. */
enum fh_relation { FH_INSIDE, FH_BEFORE, FH_AFTER };

struct fh_report {
    const struct fh_error *error;
    bool has_block;
    struct fh_guard_block block;
    enum fh_relation relation;
    size_t distance; /* bytes from the block's beginning, or from its end when it lies after */
    uintptr_t pc, sp, fp;
    int pid, tid;
    uint64_t now_ns;
    struct fh_report_stack access, allocation, release, origin;
};

/* report_text.c: what a person reads. */
void fh_report_write_text(const struct fh_report *report);
/* "operator new[]" and so on, of an enum fh_how. */
const char *fh_report_family(unsigned how);
/* The build id in hexadecimal. */
void fh_report_digits(char digits[FH_REPORT_DIGITS], const uint8_t *id, size_t len);
/* report_json.c: a line for programs, if there is a file for it. */
void fh_report_write_json(const struct fh_report *report);
/* suppress.c: the suppression that covers it, or -1. */
int fh_suppress_find(const struct fh_report *report);
/* Counts an error of it: true as long as it has not reached its maximum. */
bool fh_suppress_count(int suppression);
uint64_t fh_suppress_total(void);

/* Whether the calling thread is telling an error; a fault is the report's own then. */
bool fh_report_is_mine(void);
/* Says so in a line, and ends the process. */
_Noreturn void fh_report_fault(int signal);

#endif
