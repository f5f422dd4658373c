/*
 * What could be changed at which sites: proposals, made from what was counted (sites.h), each with the change to
 * the trace that tries it (trial.h).
 */
#ifndef FH_LAB_FINDINGS_H
#define FH_LAB_FINDINGS_H

#include "sites.h"

enum lab_finding_kind {
    LAB_FIND_STACK =
        1, /* freed by the call that allocated them, few and small: arrays on the stack */
    LAB_FIND_SCRATCH, /* freed by the call that allocated them, too many or too large for the stack */
    LAB_FIND_ARENA,   /* blocks that die together */
    LAB_FIND_POOL,    /* many of one size that come and go singly */
    LAB_FIND_TINY,    /* many of less than 16 bytes: more overhead than content */
    LAB_FIND_GROWTH,   /* realloc again and again */
    LAB_FIND_CAPACITY, /* shrunk in the end: room that was never needed */
    LAB_FIND_SIZE,     /* a size that is rounded up by much */
    LAB_FIND_REMOTE,   /* freed by another thread */
    LAB_FIND_LEAK,     /* never freed */
};

/* How a trial changes what the finding's sites do. */
enum lab_change {
    LAB_CHANGE_NOTHING = 0, /* it can't be tried */
    LAB_CHANGE_REMOVE,      /* no allocation at all */
    LAB_CHANGE_ARENA,       /* of an arena that is reset when none of its blocks is live */
    LAB_CHANGE_POOL,        /* of a pool of blocks of `size` */
    LAB_CHANGE_RESERVE,     /* `size` bytes at once; resizes up to it are no more */
    LAB_CHANGE_DOUBLE,      /* the next power of two at once; resizes up to it are no more */
    LAB_CHANGE_LAST,        /* the size that the block has in the end, at once */
    LAB_CHANGE_SIZE,        /* blocks of `from` bytes get `size` */
};

struct lab_finding {
    enum lab_finding_kind kind;
    uint32_t site;   /* the one with the most blocks */
    uint32_t *sites; /* all of them */
    size_t site_count;
    enum lab_change change;
    uint64_t size, from;
    double weight;   /* what it may be worth, in events: for choosing what is tried */
    uint64_t blocks; /* of its sites that it is about */
    uint64_t
        bytes; /* copied (growth), never used (capacity), rounded up (size), never freed (leak) */
};

struct lab_findings {
    struct lab_finding *items; /* by weight, the heaviest first */
    size_t count;
};

/* What an allocator may be written to when so much is asked of it. */
typedef uint64_t lab_usable(void *context, uint64_t size);

/* has_ended: else blocks that were not freed are no leaks. False without memory. */
bool lab_findings_make(struct lab_findings *findings, const struct lab_sites *sites, bool has_ended,
                       lab_usable *usable, void *context);
void lab_findings_free(struct lab_findings *findings);

#endif
