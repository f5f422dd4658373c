/*
 * From counts to proposals.
 *
 * Of STACK, SCRATCH, ARENA, TINY and POOL a site gets the first that holds, since each says where its blocks should come
 * from; the others are about sizes and ends and come besides. A threshold here decides what is tried and
 * what isn't; what is worth doing the trial decides.
 *
 *   STACK     19 of 20 blocks are freed by the call that allocated them, on its thread. A call has at most one
 *             of them at a time, or at most eight, and these have at most 4 KiB together: an array has a size that the
 *             compiler knows, and a list has none. They are not resized.
 *   SCRATCH   the same of blocks that are more or larger: an arena that the call rewinds before it returns.
 *   ARENA     9 of 10 blocks die in groups of at least LAB_DIE_TOGETHER, and at most one in 20 was allocated while its
 *             group was dying already. Sites whose groups are as many and freed by the same function are one proposal:
 *             they are parts of one thing.
 *   TINY      9 of 10 blocks are of less than 16 bytes, a thousand are live at a time.
 *   POOL      19 of 20 blocks have one size, of at most 1 KiB, and are not resized; 32 are live at a time.
 *   GROWTH    blocks that grow do so three times in the mean. Where their last sizes are alike (nine of ten
 *             within twice the median) the change is to reserve that; else, or when that is more than the
 *             program needed by much, to double.
 *   CAPACITY  a quarter or more given back by a block's last resize: by 16 blocks, or by every second one and
 *             1 KiB in all.
 *   SIZE      the commonest size costs a tenth more than one that is at most an eighth (or 16 bytes) smaller.
 *   REMOTE    every second block is freed by another thread.
 *   LEAK      16 blocks, or 1 KiB in more than one, not freed when the program ended: a single block is one that
 *             lives as long as its program.
 */
#include "findings.h"

#include <stdlib.h>
#include <string.h>

enum {
    WORTH_A_LOOK = 64,   /* blocks; fewer are not worth a change of a program */
    ON_THE_STACK = 4096, /* bytes, of all blocks of a call */
    MANY_ON_THE_STACK =
        8, /* blocks of a call; of more the number is rarely a constant of the program */
    TINY = 16,
    MANY_TINY = 1000,
    IN_A_POOL = 1024,
    MANY_IN_A_POOL = 256,
    LIVE_IN_A_POOL = 32,
    MANY_GROWS = 16,
    MANY_SHRUNK = 16,
    MANY_REMOTE = 1000,
    LEAKED_BLOCKS = 16,
    LEAKED_BYTES = 1024,
    BYTES_AN_EVENT = 64, /* of copying or holding weigh as much as a call */
};

static bool is_share(uint64_t part, uint64_t whole, unsigned percent)
{
    return part * 100 >= whole * percent;
}

static bool is_in_frame(const struct lab_site *site)
{
    return site->count >= WORTH_A_LOOK && is_share(site->in_frame, site->count, 95);
}

static bool is_stack(const struct lab_site *site)
{
    return is_in_frame(site) && site->grows == 0 && site->most_in_call <= MANY_ON_THE_STACK &&
           site->most_in_call * site->largest <= ON_THE_STACK;
}

static bool is_arena(const struct lab_site *site)
{
    return site->count >= WORTH_A_LOOK && is_share(site->grouped_blocks, site->count, 90) &&
           !is_share(site->mixed, site->count, 5);
}

static bool is_tiny(const struct lab_site *site)
{
    return site->most_blocks >= MANY_TINY && lab_distribution_quantile(&site->sizes, 0.9) < TINY &&
           site->grows == 0;
}

static bool is_pool(const struct lab_site *site)
{
    return site->count >= MANY_IN_A_POOL && site->most_blocks >= LIVE_IN_A_POOL &&
           lab_site_one_size(site) >= 0.95 && site->common[0].size <= IN_A_POOL && site->grows == 0;
}

/* The largest size up to `size` that costs less, or 0 when it is too far below. */
static uint64_t cheaper_size(uint64_t size, lab_usable *usable, void *context)
{
    const uint64_t room = usable(context, size);
    const uint64_t most = size / 8 > 16 ? size / 8 : 16;
    for (uint64_t less = 1; less <= most && less < size; less++) {
        if (usable(context, size - less) < room) {
            return room - usable(context, size - less) >= size / 10 ? size - less : 0;
        }
    }
    return 0;
}

static struct lab_finding *add(struct lab_findings *findings, enum lab_finding_kind kind,
                               uint32_t site, enum lab_change change, double weight)
{
    struct lab_finding *items = reallocarray(findings->items, findings->count + 1, sizeof(*items));
    uint32_t *sites = malloc(sizeof(*sites));
    if (items != NULL) {
        findings->items = items;
    }
    if (items == NULL || sites == NULL) {
        free(sites);
        return NULL;
    }
    sites[0] = site;
    struct lab_finding *finding = &items[findings->count++];
    *finding = (struct lab_finding){.kind = kind,
                                    .site = site,
                                    .sites = sites,
                                    .site_count = 1,
                                    .change = change,
                                    .weight = weight};
    return finding;
}

/* An arena that the site's blocks belong to as well; NULL: none. */
static struct lab_finding *arena_like(struct lab_findings *findings, const struct lab_sites *sites,
                                      const struct lab_site *site)
{
    for (size_t i = 0; i < findings->count; i++) {
        const struct lab_finding *finding = &findings->items[i];
        const struct lab_site *other = &sites->site[finding->site];
        if (finding->kind == LAB_FIND_ARENA && other->free_function == site->free_function &&
            other->groups == site->groups && site->free_function != 0) {
            return &findings->items[i];
        }
    }
    return NULL;
}

static bool join(struct lab_finding *finding, const struct lab_sites *sites, uint32_t number)
{
    uint32_t *list =
        reallocarray(finding->sites, finding->site_count + 1, sizeof(finding->sites[0]));
    if (list == NULL) {
        return false;
    }
    finding->sites = list;
    list[finding->site_count++] = number;
    finding->blocks += sites->site[number].grouped_blocks;
    finding->weight += (double)sites->site[number].frees + (double)sites->site[number].count / 2;
    if (sites->site[number].count > sites->site[finding->site].count) {
        finding->site = number;
    }
    return true;
}

/* Where blocks should come from. False without memory, as below. */
static bool find_place(struct lab_findings *findings, const struct lab_sites *sites,
                       uint32_t number)
{
    const struct lab_site *site = &sites->site[number];
    const double calls = (double)(site->count + site->frees);
    struct lab_finding *finding = NULL;
    if (is_in_frame(site)) {
        finding = is_stack(site) ? add(findings, LAB_FIND_STACK, number, LAB_CHANGE_REMOVE, calls)
                                 : add(findings, LAB_FIND_SCRATCH, number, LAB_CHANGE_ARENA, calls);
        if (finding != NULL) {
            finding->size = site->largest;
            finding->blocks = site->in_frame;
        }
    } else if (is_arena(site)) {
        struct lab_finding *other = arena_like(findings, sites, site);
        if (other != NULL) {
            return join(other, sites, number);
        }
        finding = add(findings, LAB_FIND_ARENA, number, LAB_CHANGE_ARENA,
                      (double)site->frees + (double)site->count / 2);
        if (finding != NULL) {
            finding->blocks = site->grouped_blocks;
        }
    } else if (is_tiny(site) || is_pool(site)) {
        const bool is_one_tiny = is_tiny(site);
        finding = add(findings, is_one_tiny ? LAB_FIND_TINY : LAB_FIND_POOL, number,
                      LAB_CHANGE_POOL, is_one_tiny ? calls / 2 : calls / 4);
        if (finding != NULL) {
            finding->size = is_one_tiny ? TINY : site->common[0].size;
            finding->blocks = is_one_tiny ? site->count : site->common[0].count;
        }
    } else {
        return true;
    }
    return finding != NULL;
}

static bool find_growth(struct lab_findings *findings, const struct lab_sites *sites,
                        uint32_t number)
{
    const struct lab_site *site = &sites->site[number];
    if (site->grows < MANY_GROWS || site->grows < 3 * site->grown_blocks || is_in_frame(site)) {
        return true;
    }
    const uint64_t most = lab_distribution_quantile(&site->last_of_grown, 0.9);
    const uint64_t median = lab_distribution_quantile(&site->last_of_grown, 0.5);
    const bool is_alike = site->last_of_grown.total > 0 && most <= 2 * median;
    struct lab_finding *finding =
        add(findings, LAB_FIND_GROWTH, number, is_alike ? LAB_CHANGE_RESERVE : LAB_CHANGE_DOUBLE,
            3 * (double)site->grows + (double)site->moved_bytes / BYTES_AN_EVENT);
    if (finding == NULL) {
        return false;
    }
    finding->size = (most + 15) / 16 * 16;
    finding->blocks = site->grown_blocks;
    finding->bytes = site->moved_bytes;
    return true;
}

static bool find_capacity(struct lab_findings *findings, const struct lab_sites *sites,
                          uint32_t number)
{
    const struct lab_site *site = &sites->site[number];
    if (site->shrunk_blocks == 0 ||
        (site->shrunk_blocks < MANY_SHRUNK &&
         !(is_share(site->shrunk_blocks, site->count, 50) && site->shrunk_bytes >= LEAKED_BYTES))) {
        return true;
    }
    struct lab_finding *finding =
        add(findings, LAB_FIND_CAPACITY, number, LAB_CHANGE_LAST,
            (double)site->shrunk_blocks + (double)site->shrunk_bytes / BYTES_AN_EVENT);
    if (finding == NULL) {
        return false;
    }
    finding->size = lab_distribution_quantile(&site->last_of_shrunk, 0.9);
    finding->blocks = site->shrunk_blocks;
    finding->bytes = site->shrunk_bytes;
    return true;
}

static bool find_size(struct lab_findings *findings, const struct lab_sites *sites, uint32_t number,
                      lab_usable *usable, void *context)
{
    const struct lab_site *site = &sites->site[number];
    const uint64_t size = site->common[0].size;
    if (site->most_blocks < WORTH_A_LOOK || lab_site_one_size(site) < 0.5 || size <= TINY) {
        return true;
    }
    const uint64_t cheaper = cheaper_size(size, usable, context);
    if (cheaper == 0) {
        return true;
    }
    const uint64_t saved = usable(context, size) - usable(context, cheaper);
    const uint64_t bytes =
        (uint64_t)((double)(saved * site->peak_blocks) * lab_site_one_size(site));
    if (bytes < LEAKED_BYTES) {
        return true;
    }
    struct lab_finding *finding =
        add(findings, LAB_FIND_SIZE, number, LAB_CHANGE_SIZE, (double)bytes / BYTES_AN_EVENT);
    if (finding == NULL) {
        return false;
    }
    finding->size = cheaper;
    finding->from = size;
    finding->blocks = site->common[0].count;
    finding->bytes = bytes;
    return true;
}

static bool find_ends(struct lab_findings *findings, const struct lab_sites *sites, uint32_t number,
                      bool has_ended)
{
    const struct lab_site *site = &sites->site[number];
    if (site->remote_frees >= MANY_REMOTE && is_share(site->remote_frees, site->frees, 50)) {
        struct lab_finding *finding =
            add(findings, LAB_FIND_REMOTE, number, LAB_CHANGE_NOTHING, (double)site->remote_frees);
        if (finding == NULL) {
            return false;
        }
        finding->blocks = site->remote_frees;
    }
    if (has_ended && (site->live_blocks >= LEAKED_BLOCKS ||
                      (site->live_bytes >= LEAKED_BYTES && site->live_blocks > 1))) {
        struct lab_finding *finding = add(findings, LAB_FIND_LEAK, number, LAB_CHANGE_NOTHING,
                                          (double)site->live_bytes / BYTES_AN_EVENT);
        if (finding == NULL) {
            return false;
        }
        finding->blocks = site->live_blocks;
        finding->bytes = site->live_bytes;
    }
    return true;
}

static int by_weight(const void *a, const void *b)
{
    const struct lab_finding *one = a;
    const struct lab_finding *other = b;
    return one->weight != other->weight
               ? (one->weight < other->weight) - (one->weight > other->weight)
           : one->site != other->site ? (one->site > other->site) - (one->site < other->site)
                                      : (one->kind > other->kind) - (one->kind < other->kind);
}

bool lab_findings_make(struct lab_findings *findings, const struct lab_sites *sites, bool has_ended,
                       lab_usable *usable, void *context)
{
    *findings = (struct lab_findings){NULL, 0};
    for (uint32_t i = 0; i < sites->count; i++) {
        if (!find_place(findings, sites, i) || !find_growth(findings, sites, i) ||
            !find_capacity(findings, sites, i) || !find_size(findings, sites, i, usable, context) ||
            !find_ends(findings, sites, i, has_ended)) {
            lab_findings_free(findings);
            return false;
        }
    }
    if (findings->count > 0) {
        qsort(findings->items, findings->count, sizeof(findings->items[0]), by_weight);
    }
    return true;
}

void lab_findings_free(struct lab_findings *findings)
{
    for (size_t i = 0; i < findings->count; i++) {
        free(findings->items[i].sites);
    }
    free(findings->items);
    *findings = (struct lab_findings){NULL, 0};
}
