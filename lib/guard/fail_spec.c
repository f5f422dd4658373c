/*
 * Reading and deciding which allocations fail (fail_spec.h).
 *
 * A rate is decided from the seed and the allocation's number alone, so that a run of one thread
 * repeats exactly, and a run of several fails the same numbers, whichever thread comes to have
 * them.
 */
#include "guard/fail_spec.h"

#include <errno.h>
#include <string.h>

/* ---- words ----------------------------------------------------------------------------------- */

/* The digits at *text, which is moved behind them; false without one, or beyond 64 bits. */
static bool take_number(const char **text, uint64_t *number)
{
    const char *at = *text;
    uint64_t value = 0;
    for (; *at >= '0' && *at <= '9'; at++)
        if (__builtin_mul_overflow(value, 10u, &value) ||
            __builtin_add_overflow(value, (uint64_t)(*at - '0'), &value))
            return false;
    bool is_there = at != *text;
    *text = at;
    *number = value;
    return is_there;
}

bool fh_parse_size(const char *text, size_t *size)
{
    static const char suffixes[] = "KMGT";
    uint64_t number;
    unsigned shift = 0;
    if (!take_number(&text, &number))
        return false;
    if (*text != 0) {
        char upper = (char)(*text & ~0x20);
        const char *suffix = strchr(suffixes, upper);
        if (upper == 0 || suffix == NULL)
            return false;
        shift = 10 * (unsigned)(suffix - suffixes + 1);
        text++;
        if (*text == 'i')
            text++;
        if (*text == 'B')
            text++;
    }
    if (*text != 0 || number > SIZE_MAX >> shift)
        return false;
    *size = (size_t)number << shift;
    return true;
}

bool fh_glob_matches(const char *pattern, const char *text)
{
    const char *star = NULL, *from = NULL;
    for (;;) {
        if (*pattern == '*') {
            star = pattern++;
            from = text;
        } else if (*text != 0 && (*pattern == *text || *pattern == '?')) {
            pattern++;
            text++;
        } else if (*pattern == 0 && *text == 0) {
            return true;
        } else if (star != NULL && *from != 0) {
            /* the last star takes one character more */
            pattern = star + 1;
            text = ++from;
        } else {
            return false;
        }
    }
}

/* N, N..M or N.. to the end of the text; numbers from 1. */
static bool parse_range(const char *text, bool may_be_range, struct fh_fail_rule *rule)
{
    if (!take_number(&text, &rule->first) || rule->first == 0)
        return false;
    rule->last = rule->first;
    if (*text == 0)
        return true;
    if (!may_be_range || text[0] != '.' || text[1] != '.')
        return false;
    text += 2;
    rule->last = UINT64_MAX;
    if (*text == 0)
        return true;
    return take_number(&text, &rule->last) && *text == 0 && rule->last >= rule->first;
}

/* A probability: 0.25 or 25%, at most 15 digits. */
static bool parse_rate(const char *text, uint64_t *threshold)
{
    uint64_t value = 0, scale = 1;
    size_t digits = 0;
    bool is_fraction = false;
    for (; (*text >= '0' && *text <= '9') || (*text == '.' && !is_fraction); text++) {
        if (*text == '.') {
            is_fraction = true;
            continue;
        }
        if (++digits > 15)
            return false;
        value = value * 10 + (uint64_t)(*text - '0');
        scale *= is_fraction ? 10 : 1;
    }
    if (*text == '%') {
        scale *= 100;
        text++;
    }
    if (digits == 0 || *text != 0 || value > scale)
        return false;
    *threshold = value == scale ? UINT64_MAX : (uint64_t)(((unsigned __int128)value << 64) / scale);
    return true;
}

static bool parse_hex(const char *text, uint64_t *number)
{
    size_t digits = 0;
    *number = 0;
    for (; *text != 0; text++) {
        char lower = (char)(*text | 0x20);
        unsigned digit = *text >= '0' && *text <= '9'   ? (unsigned)(*text - '0')
                         : lower >= 'a' && lower <= 'f' ? (unsigned)(lower - 'a' + 10)
                                                        : 16;
        if (digit == 16 || ++digits > 16)
            return false;
        *number = *number << 4 | digit;
    }
    return digits != 0 && *number != 0;
}

/* ---- rules ----------------------------------------------------------------------------------- */

static bool parse_site(char *text, struct fh_fail_rule *rule)
{
    char *colon = strrchr(text, ':');
    rule->first = 1;
    rule->last = UINT64_MAX;
    if (colon != NULL) {
        if (!parse_range(colon + 1, true, rule))
            return false;
        *colon = 0;
    }
    if (text[0] == '0' && text[1] == 'x') {
        rule->kind = FH_FAIL_SITE;
        return parse_hex(text + 2, &rule->site);
    }
    size_t len = strlen(text);
    if (len == 0 || len >= sizeof rule->function)
        return false;
    rule->kind = FH_FAIL_FUNCTION;
    memcpy(rule->function, text, len + 1);
    return true;
}

static bool parse_item(char *item, struct fh_fail_spec *spec)
{
    char *value = strchr(item, '=');
    if (strcmp(item, "persist") == 0)
        return spec->is_persistent = true;
    if (value == NULL)
        return false;
    *value++ = 0;
    if (strcmp(item, "seed") == 0) {
        const char *at = value;
        spec->has_seed = true;
        return take_number(&at, &spec->seed) && *at == 0;
    }
    if (spec->count == FH_FAIL_RULES)
        return false;
    struct fh_fail_rule *rule = &spec->rules[spec->count++];
    if (strcmp(item, "nth") == 0) {
        rule->kind = FH_FAIL_NTH;
        return parse_range(value, true, rule);
    }
    if (strcmp(item, "rate") == 0) {
        rule->kind = FH_FAIL_RATE;
        spec->has_rates = true;
        return parse_rate(value, &rule->threshold);
    }
    if (strcmp(item, "after") == 0) {
        rule->kind = FH_FAIL_AFTER;
        return fh_parse_size(value, &rule->bytes);
    }
    if (strcmp(item, "site") != 0 || !parse_site(value, rule))
        return false;
    spec->has_sites |= rule->kind == FH_FAIL_SITE;
    spec->has_functions |= rule->kind == FH_FAIL_FUNCTION;
    return true;
}

int fh_fail_parse(const char *text, struct fh_fail_spec *spec)
{
    char copy[512];
    size_t len = strlen(text);
    *spec = (struct fh_fail_spec){0};
    if (len >= sizeof copy)
        return -EINVAL;
    memcpy(copy, text, len + 1);
    for (char *item = copy; item != NULL;) {
        char *next = strchr(item, '+');
        if (next != NULL)
            *next++ = 0;
        if (!parse_item(item, spec))
            return -EINVAL;
        item = next;
    }
    /* A seed for nothing is a slip of who wrote it. */
    return spec->count == 0 || (spec->has_seed && !spec->has_rates) ? -EINVAL : 0;
}

/* ---- decisions ------------------------------------------------------------------------------- */

/* SplitMix64 (Steele, Lea, Flood 2014): the n-th number of the stream that begins with the seed. */
static uint64_t drawn(uint64_t seed, uint64_t n)
{
    uint64_t x = seed + n * 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

/* One more that matches the rule: is it among those that fail? Relaxed: a count, nothing hangs on
 * it. */
static bool is_in_range(struct fh_fail_rule *rule)
{
    uint64_t n = atomic_fetch_add_explicit(&rule->matched, 1, memory_order_relaxed) + 1;
    return n >= rule->first && n <= rule->last;
}

static bool applies(const struct fh_fail_spec *spec, struct fh_fail_rule *rule,
                    const struct fh_fail_question *question)
{
    switch (rule->kind) {
    case FH_FAIL_NTH:
        return question->number >= rule->first && question->number <= rule->last;
    case FH_FAIL_RATE:
        return rule->threshold == UINT64_MAX ||
               drawn(spec->seed, question->number) < rule->threshold;
    case FH_FAIL_SITE:
        return question->site == rule->site && is_in_range(rule);
    case FH_FAIL_FUNCTION:
        return (question->functions >> (rule - spec->rules) & 1) != 0 && is_in_range(rule);
    case FH_FAIL_AFTER:
        return question->allocated >= rule->bytes;
    }
    return false;
}

bool fh_fail_decide(struct fh_fail_spec *spec, const struct fh_fail_question *question)
{
    /* Relaxed: whoever comes to know a moment later fails a moment later. */
    bool fails =
        spec->is_persistent && atomic_load_explicit(&spec->has_failed, memory_order_relaxed);
    for (size_t i = 0; i < spec->count; i++)
        fails |= applies(spec, &spec->rules[i], question);
    if (fails)
        atomic_store_explicit(&spec->has_failed, true, memory_order_relaxed);
    return fails;
}
