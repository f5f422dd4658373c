/*
 * Which functions only pass on what others ask for.
 *
 * A *funnel* is a function whose callers decide: it asks for many sizes, from few places in it, on behalf of
 * several callers. l_alloc of Lua, sqlite3MemMalloc and PyMem_RawMalloc are; a parser that makes its nodes is not (one
 * size), nor is an interpreter's loop, which allocates from many places, most of them through other functions: places
 * are counted wherever the function is in a stack. A site in a funnel would mix blocks that have nothing in
 * common, so a site is further out.
 *
 * What it keeps: for each stack of an allocation how often it came, and which sizes, as a set of 64 bits by a
 * hash of the size. Callers and places are counted in the same way: linear counting (Whang, Vander-Zanden and Taylor
 * 1990) is right to one or two up to the ten that thresholds ask for, and the union of two sets is an or.
 *
 * The search goes outwards in rounds. In each, all stacks are grouped by the function of their innermost frame
 * that is no wrapper and no funnel so far; the groups that are funnels are added; the next round begins one
 * function further out. It ends when a round finds none, and after MOST_ROUNDS, which is deeper than wrappers are nested.
 * Nothing is proportional to events but the count by stack.
 *
 * A *passage* is like a funnel, with a single caller: the function behind a table of allocation functions,
 * mostly. The search goes through it, and when it is over, a passage stays only if it led to a funnel: so a
 * program's one loop that reads its input in one place keeps its site.
 */
#include "funnels.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
    MOST_FRAMES = 256,
    MOST_ROUNDS = 8,
    FIRST_STACKS = 1024,
    /* A funnel has */
    LEAST_BLOCKS = 64,    /* passed on: fewer are not worth a look */
    LEAST_SHARE = 64,     /* of all allocations one in so many */
    LEAST_SIZES = 8,      /* different */
    MOST_PLACES = 4,      /* in it that allocate */
    LEAST_CALLERS = 4,    /* different places that call it; */
    LARGE_SHARE = 5,      /* when one allocation in so many goes through it, */
    CALLERS_OF_LARGE = 2, /* so many are enough, and one makes a passage */
};

struct use {
    uint64_t count, sizes, time_ns;
};

/* What one stack says of the function that is innermost in it, once the wrappers around malloc are taken off. */
struct sight {
    uint64_t function, count, sizes, callers;
    uint64_t outer; /* function that called it; 0: a wrapper */
};

/* A function, and the set of places in it that something is called from. */
struct body {
    uint64_t function, places;
};

struct funnel {
    uint64_t function;
    uint64_t outer; /* of a passage */
    bool is_passage;
};

struct lab_funnels {
    struct use *uses; /* by stack id */
    size_t capacity;
    uint64_t allocations;
    struct funnel *items; /* by function */
    size_t count;
    struct body *bodies; /* by function; one of each */
    size_t body_count, body_capacity;
};

static uint64_t bit_of(uint64_t value)
{
    return (uint64_t)1 << ((value * 0x9e3779b97f4a7c15U) >> 58);
}

struct lab_funnels *lab_funnels_open(void)
{
    return calloc(1, sizeof(struct lab_funnels));
}

void lab_funnels_close(struct lab_funnels *funnels)
{
    if (funnels != NULL) {
        free(funnels->uses);
        free(funnels->items);
        free(funnels->bodies);
        free(funnels);
    }
}

static bool make_room(struct lab_funnels *funnels, uint32_t stack)
{
    size_t capacity = funnels->capacity == 0 ? FIRST_STACKS : funnels->capacity;
    while (capacity <= stack) {
        capacity *= 2;
    }
    if (capacity == funnels->capacity) {
        return true;
    }
    struct use *uses = reallocarray(funnels->uses, capacity, sizeof(*uses));
    if (uses == NULL) {
        return false;
    }
    memset(uses + funnels->capacity, 0, (capacity - funnels->capacity) * sizeof(*uses));
    funnels->uses = uses;
    funnels->capacity = capacity;
    return true;
}

int lab_funnels_add(struct lab_funnels *funnels, const struct fh_trace_event *events, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const struct fh_trace_event *event = &events[i];
        if (event->kind != FH_TRACE_ALLOC &&
            (event->kind != FH_TRACE_RESIZE || event->old_address != 0)) {
            continue;
        }
        if (!make_room(funnels, event->stack)) {
            return -ENOMEM;
        }
        struct use *use = &funnels->uses[event->stack];
        use->time_ns = use->count == 0 ? event->time_ns : use->time_ns;
        use->count++;
        use->sizes |= bit_of(event->size);
        funnels->allocations++;
    }
    return 0;
}

static int by_function(const void *a, const void *b)
{
    const uint64_t one = *(const uint64_t *)a;
    const uint64_t other = *(const uint64_t *)b;
    return (one > other) - (one < other);
}

static const struct funnel *find(const struct lab_funnels *funnels, uint64_t function)
{
    return funnels->count > 0 ? bsearch(&function, funnels->items, funnels->count,
                                        sizeof(funnels->items[0]), by_function)
                              : NULL;
}

bool lab_funnels_has(const struct lab_funnels *funnels, uint64_t function)
{
    return find(funnels, function) != NULL;
}

/* Whether it only passes on; how many call it is for the caller to ask. */
static bool passes_on(const struct lab_funnels *funnels, const struct sight *sum)
{
    const struct body *body = /* there is one: the function is in a stack */
        bsearch(&sum->function, funnels->bodies, funnels->body_count, sizeof(*body), by_function);
    return sum->function != 0 && sum->count >= LEAST_BLOCKS &&
           sum->count * LEAST_SHARE >= funnels->allocations &&
           __builtin_popcountll(sum->sizes) >= LEAST_SIZES && body != NULL &&
           __builtin_popcountll(body->places) <= MOST_PLACES;
}

/* Makes one of the bodies of each function. */
static void unite_bodies(struct lab_funnels *funnels)
{
    size_t count = 0;
    if (funnels->body_count == 0) {
        return;
    }
    qsort(funnels->bodies, funnels->body_count, sizeof(funnels->bodies[0]), by_function);
    for (size_t i = 0; i < funnels->body_count; i++) {
        if (count > 0 && funnels->bodies[count - 1].function == funnels->bodies[i].function) {
            funnels->bodies[count - 1].places |= funnels->bodies[i].places;
        } else {
            funnels->bodies[count++] = funnels->bodies[i];
        }
    }
    funnels->body_count = count;
}

/* False without memory. */
static bool add_bodies(struct lab_funnels *funnels, const uint64_t *frames, size_t count,
                       const struct lab_names *names, uint64_t time_ns)
{
    if (funnels->body_count + count > funnels->body_capacity) {
        unite_bodies(funnels);
        const size_t capacity = 2 * (funnels->body_count + count) + FIRST_STACKS;
        struct body *bodies = reallocarray(funnels->bodies, capacity, sizeof(*bodies));
        if (bodies == NULL) {
            return false;
        }
        funnels->bodies = bodies;
        funnels->body_capacity = capacity;
    }
    for (size_t i = 0; i < count; i++) {
        funnels->bodies[funnels->body_count++] = (struct body){
            names->function_of(names->context, frames[i], time_ns), bit_of(frames[i])};
    }
    return true;
}

/* False when the stack has no frame that is the program's own and has a caller. */
static bool look_at(const struct lab_funnels *funnels, uint32_t stack, struct fh_trace *trace,
                    const struct lab_names *names, struct sight *sight)
{
    const struct use *use = &funnels->uses[stack];
    uint64_t frames[MOST_FRAMES];
    size_t count = fh_trace_frames(trace, stack, frames, MOST_FRAMES);
    count = count < MOST_FRAMES ? count : MOST_FRAMES;
    for (size_t depth = 0; depth + 1 < count; depth++) {
        const uint64_t function = names->function_of(names->context, frames[depth], use->time_ns);
        if (!names->is_wrapper(names->context, frames[depth], use->time_ns) &&
            !lab_funnels_has(funnels, function)) {
            const uint64_t outer = frames[depth + 1];
            *sight = (struct sight){
                .function = function,
                .count = use->count,
                .sizes = use->sizes,
                .callers = bit_of(outer),
                .outer = names->is_wrapper(names->context, outer, use->time_ns)
                             ? 0
                             : names->function_of(names->context, outer, use->time_ns)};
            return true;
        }
    }
    return false;
}

/* Adds the funnels and passages among the sights; how many, or -ENOMEM. */
static int judge(struct lab_funnels *funnels, struct sight *sights, size_t count)
{
    const size_t before = funnels->count;
    qsort(sights, count, sizeof(*sights), by_function);
    for (size_t i = 0; i < count;) {
        struct sight sum = sights[i];
        for (i++; i < count && sights[i].function == sum.function; i++) {
            sum.count += sights[i].count;
            sum.sizes |= sights[i].sizes;
            sum.callers |= sights[i].callers;
        }
        const int callers = __builtin_popcountll(sum.callers);
        const bool is_large = sum.count * LARGE_SHARE >= funnels->allocations;
        if (!passes_on(funnels, &sum) || (callers < LEAST_CALLERS && !is_large)) {
            continue;
        }
        struct funnel *items = reallocarray(funnels->items, funnels->count + 1, sizeof(*items));
        if (items == NULL) {
            return -ENOMEM;
        }
        funnels->items = items;
        items[funnels->count++] =
            (struct funnel){sum.function, sum.outer, callers < CALLERS_OF_LARGE};
    }
    const size_t found = funnels->count - before;
    if (found > 0) {
        qsort(funnels->items, funnels->count, sizeof(funnels->items[0]), by_function);
    }
    return (int)found;
}

/* Takes out one passage that leads to no funnel; false: there is none. */
static bool drop_passage(struct lab_funnels *funnels)
{
    for (size_t i = 0; i < funnels->count; i++) {
        struct funnel *item = &funnels->items[i];
        if (item->is_passage && item->outer != 0 &&
            (item->outer == item->function || find(funnels, item->outer) == NULL)) {
            funnels->count--;
            memmove(item, item + 1, (funnels->count - i) * sizeof(*item));
            return true;
        }
    }
    return false;
}

int lab_funnels_find(struct lab_funnels *funnels, struct fh_trace *trace,
                     const struct lab_names *names)
{
    struct sight *sights = calloc(funnels->capacity + 1, sizeof(*sights));
    uint64_t frames[MOST_FRAMES];
    int found = sights != NULL ? 1 : -ENOMEM;
    for (uint32_t stack = 1; stack < funnels->capacity && found > 0; stack++) {
        const struct use *use = &funnels->uses[stack];
        const size_t count =
            use->count > 0 ? fh_trace_frames(trace, stack, frames, MOST_FRAMES) : 0;
        if (!add_bodies(funnels, frames, count < MOST_FRAMES ? count : MOST_FRAMES, names,
                        use->time_ns)) {
            found = -ENOMEM;
        }
    }
    unite_bodies(funnels);
    for (int round = 0; round < MOST_ROUNDS && found > 0; round++) {
        size_t count = 0;
        for (uint32_t stack = 1; stack < funnels->capacity; stack++) {
            if (funnels->uses[stack].count > 0) {
                count += look_at(funnels, stack, trace, names, &sights[count]);
            }
        }
        found = count > 0 ? judge(funnels, sights, count) : 0;
    }
    while (drop_passage(funnels)) {
    }
    free(sights);
    return found < 0 ? found : 0;
}
