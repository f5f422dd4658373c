/* The table of known stacks: what a walk leaves there. The theory is in known.h. */
#include "stack/known.h"

enum { WORDS_MOST = 2 * FH_STACK_CACHE_FRAMES };

/* Room for an entry's words; what there is is forgotten when there is none left. */
static uint64_t *take_area(struct fh_known *known, uint32_t words)
{
    if (words > known->area_words)
        return NULL;
    if (known->area_used + words > known->area_words) {
        __builtin_memset(known->entries, 0, sizeof(known->entries[0]) << known->bits);
        known->area_used = 0;
    }
    uint64_t *area = known->area + known->area_used;
    known->area_used += words;
    return area;
}

/* Whether the frame pointer of state i leads to the next state, or on to one that it leads to: only then
 * the word that it was read from decides about the walk. */
static bool is_followed(const struct fh_stack_state *states, size_t count, size_t i)
{
    for (; i + 1 < count; i++) {
        if (states[i + 1].sp == states[i].fp + 16)
            return true;
        if (states[i + 1].saved != 0)
            return false;
    }
    return true;
}

void fh_known_keep(struct fh_known *known, const struct fh_stack_cache *cache, uintptr_t sp,
                   const uintptr_t *frames, size_t count, size_t max, uint32_t salt,
                   uint32_t number)
{
    size_t state_count;
    const struct fh_stack_state *states =
        fh_stack_last_walk(cache, sp, frames, count, max, &state_count);
    if (states == NULL || state_count == 0 || state_count > FH_STACK_CACHE_FRAMES)
        return;
    uint64_t values[WORDS_MOST];
    uint32_t offsets[WORDS_MOST];
    uint32_t n = 0;
    for (size_t i = 1; i < state_count;
         i++) { /* the first one's words are the caller's registers */
        values[n] = states[i].frame;
        offsets[n++] = (uint32_t)(states[i].sp - 8 - sp);
        if (states[i].saved != 0 && is_followed(states, state_count, i)) {
            values[n] = states[i].fp;
            offsets[n++] = (uint32_t)(states[i].saved - sp);
        }
    }
    uint64_t *area = take_area(known, n + (n + 1) / 2);
    if (area == NULL)
        return;
    __builtin_memcpy(area, values, n * sizeof(values[0]));
    __builtin_memcpy(area + n, offsets, n * sizeof(offsets[0]));
    struct fh_known_entry *ways = fh_known_at(known, states[0].frame, sp, salt);
    ways[known->turn++ & ((1u << FH_KNOWN_WAY_BITS) - 1)] = (struct fh_known_entry){
        .sp = sp,
        .pc = states[0].frame,
        .fp = states[0].fp,
        .fp_mask = is_followed(states, state_count, 0) ? UINTPTR_MAX : 0,
        .salt = salt,
        .number = number,
        .count = n,
        .words = (uint32_t)(area - known->area),
    };
}
