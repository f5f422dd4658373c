/*
 * What a trace says of each place in a program that allocates.
 *
 *     struct lab_sites *sites = lab_sites_open(&names);
 *     while ((n = fh_trace_read(trace, events, 1024)) > 0) lab_sites_add(sites, trace, events, n);
 *     lab_sites_finish(sites);
 *     for (size_t i = 0; i < sites->count; i++) … sites->site[i] …
 *     lab_sites_close(sites);
 *
 * A site is a return address: that of the innermost frame of an allocation's stack that is the program's own, outside of
 * allocators and their wrappers. What is a wrapper, and which function an address is in, the caller
 * says (struct lab_names), so that nothing here reads files; wrappers that have no telling name are found by funnels.h.
 */
#ifndef FH_LAB_SITES_H
#define FH_LAB_SITES_H

#include "program.h"

#include "freehold/trace.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct lab_funnels;

/* `frame` is a return address. */
struct lab_names {
    void *context;
    bool (*is_wrapper)(void *context, uint64_t frame, uint64_t time_ns);
    uint64_t (*function_of)(void *context, uint64_t frame, uint64_t time_ns);
    const struct lab_funnels *funnels; /* functions that are wrappers, too; NULL: none */
};

enum {
    LAB_OCTAVE = 4,                /* buckets from a power of two to the next */
    LAB_BUCKETS = 64 * LAB_OCTAVE, /* of a distribution */
    LAB_COMMON = 8,                /* sizes that a site counts singly */
    LAB_MOMENTS = 512,             /* of the timeline */
    LAB_DIE_TOGETHER = 8,          /* blocks that make a group */
    LAB_NO_SITE = UINT32_MAX,
};

/* Counts by logarithm: a quantile of it is right to a fifth, and exact where all values are equal. */
struct lab_distribution {
    uint64_t total, least, most;
    uint32_t buckets[LAB_BUCKETS];
};

void lab_distribution_add(struct lab_distribution *distribution, uint64_t value);
/* The value below which `share` of all lie; 0 of nothing. */
uint64_t lab_distribution_quantile(const struct lab_distribution *distribution, double share);

struct lab_common_size {
    uint64_t size, count;
};

struct lab_site {
    uint64_t frame;   /* return address; 0: stacks of these blocks are not known */
    uint64_t time_ns; /* of its first allocation, for looking up the address */
    uint32_t stack;   /* of its first allocation */
    uint32_t depth;   /* of `frame` in it */

    uint64_t count, bytes; /* allocations, and what they asked for */
    uint64_t frees, remote_frees;
    uint64_t live_blocks, live_bytes; /* now; after the last event: never freed */
    uint64_t peak_blocks, peak_bytes; /* live when the program's live bytes were at their peak */
    uint64_t most_blocks;             /* live at any time */
    uint64_t smallest, largest;       /* request */
    uint64_t zeroed;
    struct lab_common_size common[LAB_COMMON]; /* the commonest first, after finish */
    struct lab_distribution sizes, lifetimes_ns, lifetimes_events;

    /* Of resizes: */
    uint64_t grows, grown_blocks; /* grown_blocks: at least once */
    uint64_t moved_bytes;         /* that grows copied, because the block moved */
    uint64_t shrunk_blocks,
        shrunk_bytes; /* last resized to less than 3/4 of what they once had, and what that was */
    struct lab_distribution first_of_grown, last_of_grown, last_of_shrunk; /* sizes */

    /* Blocks of groups die together: a group begins when the site has no live block and ends when it has none again. */
    uint64_t groups;         /* of LAB_DIE_TOGETHER blocks or more */
    uint64_t grouped_blocks; /* in them */
    uint64_t mixed;          /* allocations while others of the group were being freed already */
    uint64_t
        in_frame; /* freed by the function call that allocated them, as far as stacks can tell */
    uint64_t most_in_call;  /* live at a time of those that one call allocated */
    uint64_t free_function; /* that freed most of them */
    uint64_t free_votes;    /* majority vote (Boyer and Moore 1981) */

    /* State of the pass. */
    uint64_t epoch, group;
    bool is_freeing;
};

/* Of an allocation, by its number in the trace. */
struct lab_allocation {
    uint64_t last; /* size it had in the end */
    uint64_t most; /* largest size it had */
    uint32_t site;
};

struct lab_totals {
    uint64_t allocations, frees, resizes, bytes;
    uint64_t live_bytes, live_blocks;
    uint64_t peak_bytes, peak_blocks, peak_ns;
    uint64_t unknown; /* frees and resizes of blocks whose allocation is not in the trace */
};

struct lab_sites {
    struct lab_site *site;
    size_t count;
    struct lab_totals totals;
    uint64_t
        live_at[LAB_MOMENTS]; /* the most live bytes in each part of the time from begin to end */
    uint64_t begin_ns, end_ns;

    /* The trace as operations (program.h), and what is known of the allocation that each LAB_ALLOC is, in
     * their order. `thread` of an operation is 0. */
    struct lab_op *ops;
    size_t op_count;
    struct lab_allocation *allocations;
    size_t allocation_count;
    uint32_t slots; /* the most that are in use at a time */
    size_t peak_op; /* after which live bytes are at their peak */

    struct lab_sites_state *state;
};

/* For a process of those times. NULL without memory. */
struct lab_sites *lab_sites_open(const struct lab_names *names, uint64_t begin_ns, uint64_t end_ns);
/* 0 or -ENOMEM. The trace is where the events were just read from; it may be NULL: then stacks have no frames. */
int lab_sites_add(struct lab_sites *sites, struct fh_trace *trace,
                  const struct fh_trace_event *events, size_t count);
void lab_sites_finish(struct lab_sites *sites);
void lab_sites_close(struct lab_sites *sites);

/* How many of its blocks have the commonest size, as a share. */
double lab_site_one_size(const struct lab_site *site);

#endif
