/*
 * fail_spec.h: which allocations shall fail, as a user writes it, and as it is decided.
 *
 *     nth=N, nth=N..M, nth=N..  by number, from 1, over all threads of a process
 *     rate=P                    with probability P (0.01 or 1%), repeatable by seed=S
 *     site=NAME, site=NAME:N    all whose stack holds the function NAME (* and ? as in file names);
 *                               the N-th
 *     site=0xHASH, …:N          all of that stack (site_table.h), as a sweep's command writes it
 *     after=SIZE                all once SIZE bytes were allocated
 *     persist                   all that come after the first that failed
 *
 * Several may be joined by +: an allocation fails when any of them says so. A program that tries
 * again, or in another way, meets a memory that is full for good only with persist. Pure but for
 * the counters, which are atomics.
 */
#ifndef FH_GUARD_FAIL_SPEC_H
#define FH_GUARD_FAIL_SPEC_H

#include "base/core/macros.h"

#include <stdatomic.h>

enum fh_fail_kind { FH_FAIL_NTH, FH_FAIL_RATE, FH_FAIL_SITE, FH_FAIL_FUNCTION, FH_FAIL_AFTER };

enum { FH_FAIL_RULES = 8, FH_FAIL_NAME = 96 };

struct fh_fail_rule {
    enum fh_fail_kind kind;
    uint64_t first,
        last; /* numbers: of allocations, or of those that match; last UINT64_MAX: no end */
    uint64_t threshold; /* rate: of a number drawn from 64 bits, below which it fails */
    uint64_t site;
    size_t bytes;
    char function[FH_FAIL_NAME];
    _Atomic uint64_t matched;
};

struct fh_fail_spec {
    struct fh_fail_rule rules[FH_FAIL_RULES];
    size_t count;
    uint64_t seed;
    bool has_seed;
    bool has_sites, has_functions, has_rates;
    bool is_persistent;
    _Atomic bool has_failed;
};

/* 0, or -EINVAL: then *spec is not to be used. */
int fh_fail_parse(const char *text, struct fh_fail_spec *spec);

/* A size with a suffix K, M, G or T, powers of 1024; false when it is none. */
bool fh_parse_size(const char *text, size_t *size);

/* * stands for anything, ? for one character. */
bool fh_glob_matches(const char *pattern, const char *text);

/* What is known of an allocation when it is decided. */
struct fh_fail_question {
    uint64_t number;    /* of the allocation, from 1 */
    uint64_t allocated; /* bytes before it */
    uint64_t site;      /* its stack's name; 0: none of the rules' */
    unsigned functions; /* bit i: its stack holds the function of rule i */
};

/* Whether it shall fail; each rule that matches counts it. */
bool fh_fail_decide(struct fh_fail_spec *spec, const struct fh_fail_question *question);

#endif
