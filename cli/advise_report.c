/*
 * The report of advise.
 *
 * Each finding is four things: a title, which says what to do; the evidence, which says what was counted; the change, as
 * lines of C; and what its trial measured. The words for all kinds are here, once, for the terminal, JSON and the page.
 *
 * On the terminal the savings come first, each with all four. What was never freed is a list, a line a site; so is what
 * was tried in vain, because that it was tried is worth knowing and its words are not. Where nothing saves anything, the
 * largest sites are shown instead: what the program does with its memory.
 *
 * The rank: a trial's saving is its share of the time plus its share of the memory, each 0 within its noise. Positive
 * sums come first, then what can't be tried (leaks, frees by other threads), then sums of zero and less.
 */
#include "advise_report.h"

#include "advise_names.h"

#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_FRAMES = 64, MOST_SITES = 2000, MOST_CHAIN = 4, MOST_LARGEST = 5 };

struct words {
    char title[200];
    char evidence[400];
    char change[400];
};

/* What a trace has no word of. */
static const char *const unseen[] = {
    ("Whether the bytes of a block were ever read or written: a large calloc that is used by half "
     "looks used. What is seen of capacity is what resizes took and gave back."),
    ("Whether two calls of a function from one place are one call: a block freed \"by the call "
     "that "
     "allocated it\" may have been freed by the next one. Look at the function before its block "
     "moves to the stack."),
    ("What happens to a pointer between allocation and free: where it is kept, and who else reads "
     "it."),
    "Contention: a replay runs in one thread, in the order of the trace.",
};

/* ---- Names ---- */

static const struct symbols_frame *frame_of(const struct advice *advice,
                                            const struct lab_site *site)
{
    return site->frame != 0 ? advise_frame(advice->symbols, site->frame, site->time_ns) : NULL;
}

static const char *function_of(const struct advice *advice, const struct lab_site *site)
{
    const struct symbols_frame *frame = frame_of(advice, site);
    return frame != NULL ? frame->function : "(no stack)";
}

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash != NULL ? slash + 1 : path;
}

static void place_of(const struct symbols_frame *frame, char *text, size_t size)
{
    if (frame != NULL && frame->file != NULL) {
        snprintf(text, size, "%s:%u", base_name(frame->file), frame->line);
    } else {
        snprintf(text, size, "%s",
                 frame != NULL && frame->module != NULL ? base_name(frame->module) : "");
    }
}

static const char *kind_name(enum lab_finding_kind kind)
{
    static const char *const names[] = {
        [LAB_FIND_STACK] = "stack",       [LAB_FIND_SCRATCH] = "scratch",
        [LAB_FIND_ARENA] = "arena",       [LAB_FIND_POOL] = "pool",
        [LAB_FIND_TINY] = "tiny",         [LAB_FIND_GROWTH] = "realloc",
        [LAB_FIND_CAPACITY] = "capacity", [LAB_FIND_SIZE] = "size",
        [LAB_FIND_REMOTE] = "remote",     [LAB_FIND_LEAK] = "leak"};
    return names[kind];
}

/* ---- Words ---- */

static void say_stack(struct words *words, const struct lab_finding *finding,
                      const struct lab_site *site)
{
    const unsigned long long size = site->largest;
    const unsigned long long most = site->most_in_call;
    char array[64];
    snprintf(words->title, sizeof(words->title),
             "Keep it on the stack: it is freed by the call that allocates it");
    snprintf(words->evidence, sizeof(words->evidence),
             "%s of its %s blocks are freed by the function call that allocated them, which has at "
             "most %s at a time; the largest has %s.",
             figure_count(finding->blocks).text, figure_count(site->count).text,
             figure_count(most).text, figure_bytes(size).text);
    if (most > 1) {
        snprintf(array, sizeof(array), "char blocks[%llu][%llu];", most, size);
    } else {
        snprintf(array, sizeof(array), "char block[%llu];", size);
    }
    snprintf(words->change, sizeof(words->change), "%s  /* %s */", array,
             site->smallest == size ? "instead of malloc, and no free"
                                    : "the largest seen; or FH_SMALL_BUFFER, which goes to an "
                                      "arena beyond it");
}

static void say_scratch(struct words *words, const struct lab_finding *finding,
                        const struct lab_site *site)
{
    snprintf(words->title, sizeof(words->title),
             "Take it from an arena of the call that allocates and frees it");
    snprintf(words->evidence, sizeof(words->evidence),
             "%s of its %s blocks are freed by the function call that allocated them, which has up "
             "to %s at a time; the largest has %s.",
             figure_count(finding->blocks).text, figure_count(site->count).text,
             figure_count(site->most_in_call).text, figure_bytes(site->largest).text);
    snprintf(words->change, sizeof(words->change),
             "struct fh_arena_mark mark = fh_arena_mark(&arena);  /* where the call begins */\n"
             "void *block = fh_arena_alloc(&arena, size);         /* and no free */\n"
             "fh_arena_rewind(&arena, mark);                      /* where it returns */");
}

static void say_arena(struct words *words, const struct advice *advice,
                      const struct lab_finding *finding, const struct lab_site *site)
{
    const uint64_t groups = site->groups > 0 ? site->groups : 1;
    const struct symbols_frame *freer =
        site->free_function != 0
            ? advise_frame(advice->symbols, site->free_function + 1, site->time_ns)
            : NULL;
    char others[64] = "";
    if (finding->site_count > 1) {
        snprintf(others, sizeof(others), " of this and %zu other sites", finding->site_count - 1);
    }
    snprintf(words->title, sizeof(words->title), "Allocate from an arena and reset it once");
    snprintf(words->evidence, sizeof(words->evidence),
             "%s blocks%s die together, %s at a time, %s time%s%s%.120s.",
             figure_count(finding->blocks).text, others,
             figure_count(finding->blocks / groups).text, figure_count(groups).text,
             groups == 1 ? "" : "s", freer != NULL ? ", freed by " : "",
             freer != NULL ? freer->function : "");
    snprintf(words->change, sizeof(words->change),
             "void *block = fh_arena_alloc(&arena, size);  /* and no free */\n"
             "fh_arena_reset(&arena);                      /* where they all were freed%s%.80s */",
             freer != NULL ? ": " : "", freer != NULL ? freer->function : "");
}

static void say_pool(struct words *words, const struct lab_finding *finding,
                     const struct lab_site *site)
{
    const unsigned long long size = finding->size;
    if (finding->kind == LAB_FIND_TINY) {
        snprintf(words->title, sizeof(words->title),
                 "Put these bytes into what points to them, or take them from a pool");
        snprintf(words->evidence, sizeof(words->evidence),
                 "%s blocks of %s in the mean, up to %s live at a time: an allocator needs more "
                 "for each than it holds.",
                 figure_count(site->count).text, figure_bytes(site->bytes / site->count).text,
                 figure_count(site->most_blocks).text);
    } else {
        snprintf(words->title, sizeof(words->title), "Take its blocks of %llu bytes from a pool",
                 size);
        snprintf(
            words->evidence, sizeof(words->evidence),
            "%s of %s blocks have %llu bytes; they come and go singly, up to %s live at a time.",
            figure_count(finding->blocks).text, figure_count(site->count).text, size,
            figure_count(site->most_blocks).text);
    }
    snprintf(words->change, sizeof(words->change),
             "fh_pool_init(&pool, &(struct fh_pool_options){.size = %llu%s});\n"
             "void *block = fh_pool_alloc(&pool);\n"
             "fh_pool_free(&pool, block);",
             size, size % 16 == 0 ? "" : ", .align = 8");
}

static void say_growth(struct words *words, const struct lab_finding *finding,
                       const struct lab_site *site)
{
    const double each = (double)site->grows / (double)site->grown_blocks;
    const uint64_t first = lab_distribution_quantile(&site->first_of_grown, 0.5);
    const uint64_t last = lab_distribution_quantile(&site->last_of_grown, 0.5);
    const bool is_one = site->grown_blocks == 1;
    char times[sizeof(struct figure)];
    if (is_one || each >= 100) {
        snprintf(times, sizeof(times), "%s", figure_count((uint64_t)(each + 0.5)).text);
    } else {
        snprintf(times, sizeof(times), "%.1f", each);
    }
    snprintf(words->evidence, sizeof(words->evidence),
             "%s block%s %s times%s, from %s to %s%s; growing copied %s.",
             figure_count(site->grown_blocks).text, is_one ? " grows" : "s grow", times,
             is_one ? "" : " each", figure_bytes(first).text, figure_bytes(last).text,
             is_one ? "" : " (medians)", figure_bytes(finding->bytes).text);
    if (finding->change == LAB_CHANGE_RESERVE) {
        snprintf(words->title, sizeof(words->title), "Ask for %s at once instead of growing to it",
                 figure_bytes(finding->size).text);
        snprintf(words->change, sizeof(words->change),
                 "block = malloc(%llu);  /* nine of ten need no more */",
                 (unsigned long long)finding->size);
    } else {
        snprintf(words->title, sizeof(words->title), "Double the capacity when it is full");
        snprintf(words->change, sizeof(words->change),
                 "capacity = capacity > 0 ? 2 * capacity : 16;\nblock = realloc(block, capacity);");
    }
}

static void say_rest(struct words *words, const struct lab_finding *finding,
                     const struct lab_site *site)
{
    switch (finding->kind) {
    case LAB_FIND_CAPACITY:
        snprintf(words->title, sizeof(words->title),
                 "Ask for what is needed: the rest is given back");
        snprintf(words->evidence, sizeof(words->evidence),
                 "%s of %s blocks are shrunk in the end, to at most %s in nine of ten; %s were "
                 "never used for long.",
                 figure_count(finding->blocks).text, figure_count(site->count).text,
                 figure_bytes(finding->size).text, figure_bytes(finding->bytes).text);
        snprintf(words->change, sizeof(words->change),
                 "block = malloc(%llu);  /* and grow the few that need more */",
                 (unsigned long long)finding->size);
        break;
    case LAB_FIND_SIZE:
        snprintf(words->title, sizeof(words->title), "Ask for %llu bytes instead of %llu",
                 (unsigned long long)finding->size, (unsigned long long)finding->from);
        snprintf(
            words->evidence, sizeof(words->evidence),
            "%s blocks of %llu bytes are just too large for their size class: %s more at the peak.",
            figure_count(finding->blocks).text, (unsigned long long)finding->from,
            figure_bytes(finding->bytes).text);
        snprintf(words->change, sizeof(words->change),
                 "_Static_assert(sizeof(struct it) <= %llu, \"one size class less\");",
                 (unsigned long long)finding->size);
        break;
    case LAB_FIND_REMOTE:
        snprintf(words->title, sizeof(words->title),
                 "Give blocks back to the thread that made them, many at a time");
        snprintf(words->evidence, sizeof(words->evidence),
                 "%s of its %s frees come from another thread than the allocation.",
                 figure_count(finding->blocks).text, figure_count(site->frees).text);
        snprintf(words->change, sizeof(words->change),
                 "/* an arena a message: the receiver resets it, whole */");
        break;
    default:
        snprintf(words->title, sizeof(words->title), "Free it: it was live when the program ended");
        snprintf(words->evidence, sizeof(words->evidence),
                 "%s of its %s blocks were never freed, %s in all.",
                 figure_count(finding->blocks).text, figure_count(site->count).text,
                 figure_bytes(finding->bytes).text);
        snprintf(words->change, sizeof(words->change), "free(block);");
        break;
    }
}

static void say(struct words *words, const struct advice *advice, const struct lab_finding *finding)
{
    const struct lab_site *site = &advice->sites->site[finding->site];
    *words = (struct words){{0}, {0}, {0}};
    if (finding->kind == LAB_FIND_STACK) {
        say_stack(words, finding, site);
    } else if (finding->kind == LAB_FIND_SCRATCH) {
        say_scratch(words, finding, site);
    } else if (finding->kind == LAB_FIND_ARENA) {
        say_arena(words, advice, finding, site);
    } else if (finding->kind == LAB_FIND_POOL || finding->kind == LAB_FIND_TINY) {
        say_pool(words, finding, site);
    } else if (finding->kind == LAB_FIND_GROWTH) {
        say_growth(words, finding, site);
    } else {
        say_rest(words, finding, site);
    }
}

/* ---- Ranks ---- */

static double share(double part, double whole)
{
    return whole > 0 ? part / whole : 0;
}

static double gain_of(const struct proposal *proposal)
{
    const struct lab_trial *trial = &proposal->trial;
    return (trial->is_time_noise ? 0 : share(trial->saved_ns, trial->before_ns)) +
           (trial->is_bytes_noise ? 0
                                  : share((double)trial->saved_bytes, (double)trial->before_bytes));
}

static int class_of(const struct proposal *proposal)
{
    return !proposal->is_tried ? 1 : gain_of(proposal) > 0 ? 0 : 2;
}

static int by_gain(const void *a, const void *b)
{
    const struct proposal *one = a;
    const struct proposal *other = b;
    const int classes = class_of(one) - class_of(other);
    if (classes != 0) {
        return classes;
    }
    const double gain = one->is_tried ? gain_of(one) : one->finding->weight;
    const double other_gain = other->is_tried ? gain_of(other) : other->finding->weight;
    return (gain < other_gain) - (gain > other_gain);
}

void advise_rank(struct proposal *proposals, size_t count)
{
    if (count > 0) {
        qsort(proposals, count, sizeof(proposals[0]), by_gain);
    }
}

/* ---- For a person ---- */

/* figure_duration's unit below a millisecond, where trials of small traces live. */
static struct figure figure_time(double ns)
{
    struct figure figure = figure_duration((uint64_t)ns);
    if (ns < 1e6) {
        snprintf(figure.text, sizeof(figure.text), "%.*f us",
                 ns < 1e4   ? 2
                 : ns < 1e5 ? 1
                            : 0,
                 ns / 1e3);
    }
    return figure;
}

static const char *place_word(const struct advice *advice, const struct lab_site *site, char *text,
                              size_t size)
{
    place_of(frame_of(advice, site), text, size);
    return text;
}

/* "saves 1.2 ms of 8.9 ms (13.5 %, +-0.3 ms), memory as before" */
static void print_saving(const struct term *term, const struct lab_trial *trial)
{
    const char *plain = term_style(term, TERM_PLAIN);
    if (trial->is_time_noise) {
        fprintf(term->out, "%stime as before (within %s)%s", term_style(term, TERM_DIM),
                figure_time(trial->noise_ns).text, plain);
    } else {
        const bool is_better = trial->saved_ns > 0;
        const double saved = is_better ? trial->saved_ns : -trial->saved_ns;
        fprintf(term->out, "%s%s %s %s %s of %s (%.1f %%)%s",
                term_style(term, is_better ? TERM_GOOD : TERM_BAD), is_better ? "saves" : "costs",
                figure_time(saved).text, term_pick(term, "±", "+-"),
                figure_time(trial->noise_ns).text, figure_time(trial->before_ns).text,
                100 * share(saved, trial->before_ns), plain);
    }
    if (trial->is_bytes_noise) {
        fprintf(term->out, ", %smemory as before%s", term_style(term, TERM_DIM), plain);
    } else {
        const bool is_better = trial->saved_bytes > 0;
        fprintf(term->out, ", %s%s %s of %s at the peak%s",
                term_style(term, is_better ? TERM_GOOD : TERM_BAD), is_better ? "saves" : "costs",
                figure_bytes((uint64_t)(is_better ? trial->saved_bytes : -trial->saved_bytes)).text,
                figure_bytes(trial->before_bytes).text, plain);
    }
}

static void print_change(const struct term *term, const char *change)
{
    while (*change != '\0') {
        const int len = (int)strcspn(change, "\n");
        fprintf(term->out, "      %s%.*s%s\n", term_style(term, TERM_ACCENT), len, change,
                term_style(term, TERM_PLAIN));
        change += len + (change[len] == '\n');
    }
}

/* The functions between the site and the allocator, and those that called it, by the site's first stack. */
static void print_chain(const struct term *term, const struct advice *advice,
                        const struct lab_site *site)
{
    uint64_t frames[MOST_FRAMES];
    size_t count = fh_trace_frames(advice->trace, site->stack, frames, MOST_FRAMES);
    count = count < MOST_FRAMES ? count : MOST_FRAMES;
    if (site->frame == 0 || site->depth >= count) {
        return;
    }
    int shown = 0;
    fprintf(term->out, "    %s", term_style(term, TERM_DIM));
    for (size_t i = site->depth; i-- > 0 && shown < MOST_CHAIN;) {
        const struct symbols_frame *frame = advise_frame(advice->symbols, frames[i], site->time_ns);
        if (frame != NULL && !advise_is_allocator(frame)) {
            fprintf(term->out, "%s%s", shown++ == 0 ? "through " : ", ", frame->function);
        }
    }
    const char *between = shown > 0 ? "; called by " : "called by ";
    shown = 0;
    for (size_t i = site->depth + 1; i < count && shown < MOST_CHAIN; i++) {
        const struct symbols_frame *frame = advise_frame(advice->symbols, frames[i], site->time_ns);
        if (frame != NULL) {
            fprintf(term->out, "%s%s", shown++ == 0 ? between : " < ", frame->function);
        }
    }
    fprintf(term->out, "%s\n", term_style(term, TERM_PLAIN));
}

static void print_proposal(const struct term *term, const struct advice *advice,
                           const struct proposal *proposal, size_t number)
{
    const struct lab_site *site = &advice->sites->site[proposal->finding->site];
    struct words words;
    char place[200];
    say(&words, advice, proposal->finding);
    fprintf(term->out, "\n%2zu. %s%s%s  %s  %s%s%s\n", number, term_style(term, TERM_BOLD),
            function_of(advice, site), term_style(term, TERM_PLAIN),
            place_word(advice, site, place, sizeof(place)), term_style(term, TERM_DIM),
            kind_name(proposal->finding->kind), term_style(term, TERM_PLAIN));
    print_chain(term, advice, site);
    fprintf(term->out, "    %s%s%s: ", term_style(term, TERM_BOLD), words.title,
            term_style(term, TERM_PLAIN));
    if (proposal->is_tried) {
        print_saving(term, &proposal->trial);
    } else {
        fprintf(term->out, "%snot replayed%s", term_style(term, TERM_DIM),
                term_style(term, TERM_PLAIN));
    }
    fprintf(term->out, "\n    %s\n", words.evidence);
    print_change(term, words.change);
}

static void print_leaks(const struct term *term, const struct advice *advice)
{
    bool is_first = true;
    for (size_t i = 0; i < advice->proposal_count; i++) {
        const struct lab_finding *finding = advice->proposals[i].finding;
        const struct lab_site *site = &advice->sites->site[finding->site];
        char place[200];
        if (finding->kind != LAB_FIND_LEAK) {
            continue;
        }
        if (is_first) {
            fprintf(term->out, "\n%sNever freed%s, live when the program ended:\n",
                    term_style(term, TERM_BOLD), term_style(term, TERM_PLAIN));
            is_first = false;
        }
        fprintf(term->out, "  %10s in %9s of %9s blocks  %s  %s\n",
                figure_bytes(finding->bytes).text, figure_count(finding->blocks).text,
                figure_count(site->count).text, function_of(advice, site),
                place_word(advice, site, place, sizeof(place)));
    }
}

static void print_vain(const struct term *term, const struct advice *advice)
{
    bool is_first = true;
    for (size_t i = 0; i < advice->proposal_count; i++) {
        const struct proposal *proposal = &advice->proposals[i];
        const struct lab_site *site = &advice->sites->site[proposal->finding->site];
        char place[200];
        if (class_of(proposal) != 2) {
            continue;
        }
        if (is_first) {
            fprintf(term->out, "\n%sTried, and not worth it:%s\n", term_style(term, TERM_BOLD),
                    term_style(term, TERM_PLAIN));
            is_first = false;
        }
        fprintf(term->out, "  %-8s  %s  %s: ", kind_name(proposal->finding->kind),
                function_of(advice, site), place_word(advice, site, place, sizeof(place)));
        print_saving(term, &proposal->trial);
        fputc('\n', term->out);
    }
}

static int by_requests(const void *a, const void *b)
{
    const struct lab_site *one = *(const struct lab_site *const *)a;
    const struct lab_site *other = *(const struct lab_site *const *)b;
    return (one->count < other->count) - (one->count > other->count);
}

/* Nothing without memory: the list is an extra. */
static void print_largest(const struct term *term, const struct advice *advice)
{
    const size_t count = advice->sites->count;
    const struct lab_site **sites = calloc(count + 1, sizeof(void *));
    if (sites == NULL) {
        return;
    }
    for (size_t i = 0; i < count; i++) {
        sites[i] = &advice->sites->site[i];
    }
    qsort(sites, count, sizeof(void *), by_requests);
    fprintf(term->out, "\n%sThe sites that allocate most:%s\n", term_style(term, TERM_BOLD),
            term_style(term, TERM_PLAIN));
    for (size_t i = 0; i < count && i < MOST_LARGEST; i++) {
        const struct lab_site *site = sites[i];
        char place[200];
        fprintf(term->out, "  %7s  %9s blocks of %9s, %9s live at the peak  %s  %s\n",
                figure_share(share((double)site->count, (double)advice->sites->totals.allocations))
                    .text,
                figure_count(site->count).text,
                figure_bytes(lab_distribution_quantile(&site->sizes, 0.5)).text,
                figure_bytes(site->peak_bytes).text, function_of(advice, site),
                place_word(advice, site, place, sizeof(place)));
        print_chain(term, advice, site);
    }
    free(sites);
}

static void print_head(const struct term *term, const struct advice *advice)
{
    const struct lab_totals *totals = &advice->sites->totals;
    fprintf(term->out, "%s%s%s\n", term_style(term, TERM_BOLD), advice->info->command,
            term_style(term, TERM_PLAIN));
    fprintf(term->out, "%s allocations at %s sites, %s live at the peak, %s never freed\n",
            figure_count(totals->allocations).text, figure_count(advice->sites->count).text,
            figure_bytes(totals->peak_bytes).text, figure_bytes(totals->live_bytes).text);
    if (advice->process->lost > 0) {
        fprintf(term->out,
                "%s events were lost while recording: figures are too small by as much\n",
                figure_count(advice->process->lost).text);
    }
}

void advise_print(const struct term *term, const struct advice *advice)
{
    size_t worthy = 0;
    for (size_t i = 0; i < advice->proposal_count; i++) {
        worthy += class_of(&advice->proposals[i]) == 0;
    }
    print_head(term, advice);
    if (worthy > 0) {
        fprintf(term->out,
                "\nWhat to change, the best first; replayed %u times with and without each change, "
                "over %s\n",
                advice->rounds, advice->allocator);
    } else {
        fputs("\nNothing was found that a change would make faster or smaller.\n", term->out);
    }
    size_t number = 0;
    for (size_t i = 0; i < advice->proposal_count; i++) {
        const struct proposal *proposal = &advice->proposals[i];
        if (class_of(proposal) == 0 ||
            (class_of(proposal) == 1 && proposal->finding->kind != LAB_FIND_LEAK)) {
            print_proposal(term, advice, proposal, ++number);
        }
    }
    if (worthy == 0) {
        print_largest(term, advice);
    }
    print_leaks(term, advice);
    print_vain(term, advice);
    if (advice->finding_count > advice->proposal_count) {
        fprintf(term->out, "\n%zu smaller findings are left out; --top %zu shows all\n",
                advice->finding_count - advice->proposal_count, advice->finding_count);
    }
    const char *hint;
    for (size_t i = 0; i < 3 && (hint = symbols_hint(advice->symbols, i)) != NULL; i++) {
        fprintf(term->out, "%s%snote: %s%s\n", i == 0 ? "\n" : "", term_style(term, TERM_DIM), hint,
                term_style(term, TERM_PLAIN));
    }
}

/* ---- For programs ---- */

static void put(struct json_object *object, const char *key, struct json_object *value)
{
    json_object_object_add(object, key, value);
}

static void put_count(struct json_object *object, const char *key, uint64_t value)
{
    put(object, key, json_object_new_uint64(value));
}

static void put_text(struct json_object *object, const char *key, const char *text)
{
    if (text != NULL) {
        put(object, key, json_object_new_string(text));
    }
}

static void put_frame(struct json_object *object, const struct symbols_frame *frame)
{
    put_text(object, "function", frame->function);
    put_text(object, "file", frame->file);
    if (frame->line > 0) {
        put_count(object, "line", frame->line);
    }
    put_text(object, "module", frame->module);
}

/* Frames with the inlined ones; *at is which of them the site's is. */
static struct json_object *stack_json(const struct advice *advice, const struct lab_site *site,
                                      size_t *at)
{
    uint64_t addresses[MOST_FRAMES];
    size_t count = fh_trace_frames(advice->trace, site->stack, addresses, MOST_FRAMES);
    struct json_object *stack = json_object_new_array();
    const struct symbols_frame *own = frame_of(advice, site);
    *at = 0;
    count = count < MOST_FRAMES ? count : MOST_FRAMES;
    for (size_t i = 0; i < count; i++) {
        const struct symbols_frame *frames;
        const size_t here =
            symbols_look_up(advice->symbols, addresses[i] - 1, site->time_ns, &frames);
        for (size_t k = 0; k < here; k++) {
            struct json_object *frame = json_object_new_object();
            put_frame(frame, &frames[k]);
            if (&frames[k] == own && i == site->depth) {
                *at = json_object_array_length(stack);
            }
            json_object_array_add(stack, frame);
        }
    }
    return stack;
}

/* Powers of two: the distribution is four times as fine. */
static struct json_object *sizes_json(const struct lab_distribution *distribution)
{
    struct json_object *list = json_object_new_array();
    for (unsigned octave = 0; octave < LAB_BUCKETS / LAB_OCTAVE; octave++) {
        uint64_t count = 0;
        for (unsigned i = 0; i < LAB_OCTAVE; i++) {
            count += distribution->buckets[octave * LAB_OCTAVE + i];
        }
        if (count > 0) {
            struct json_object *bucket = json_object_new_object();
            put_count(bucket, "low", octave == 0 ? 0 : (uint64_t)2 << octave);
            put_count(bucket, "high", ((uint64_t)4 << octave) - 1);
            put_count(bucket, "count", count);
            json_object_array_add(list, bucket);
        }
    }
    return list;
}

static struct json_object *quantiles_json(const struct lab_distribution *distribution)
{
    struct json_object *object = json_object_new_object();
    put_count(object, "median", lab_distribution_quantile(distribution, 0.5));
    put_count(object, "p90", lab_distribution_quantile(distribution, 0.9));
    return object;
}

static struct json_object *site_json(const struct advice *advice, size_t index)
{
    const struct lab_site *site = &advice->sites->site[index];
    const struct symbols_frame *frame = frame_of(advice, site);
    struct json_object *object = json_object_new_object();
    size_t at;
    put_count(object, "id", index);
    if (frame != NULL) {
        put_frame(object, frame);
    } else {
        put_text(object, "function", function_of(advice, site));
    }
    put(object, "stack", stack_json(advice, site, &at));
    put_count(object, "frame", at);
    put_count(object, "count", site->count);
    put_count(object, "bytes", site->bytes);
    put_count(object, "frees", site->frees);
    put_count(object, "remote_frees", site->remote_frees);
    put_count(object, "peak_blocks", site->peak_blocks);
    put_count(object, "peak_bytes", site->peak_bytes);
    put_count(object, "most_blocks", site->most_blocks);
    put_count(object, "end_blocks", site->live_blocks);
    put_count(object, "end_bytes", site->live_bytes);
    put_count(object, "grows", site->grows);
    put_count(object, "moved_bytes", site->moved_bytes);
    put_count(object, "shrunk_bytes", site->shrunk_bytes);
    struct json_object *size = quantiles_json(&site->sizes);
    if (lab_site_one_size(site) >= 0.5) {
        put_count(size, "median", site->common[0].size);
    }
    put_count(size, "least", site->smallest);
    put_count(size, "most", site->largest);
    put(object, "size", size);
    put(object, "sizes", sizes_json(&site->sizes));
    put(object, "lifetime_ns", quantiles_json(&site->lifetimes_ns));
    put(object, "lifetime_allocations", quantiles_json(&site->lifetimes_events));
    return object;
}

static struct json_object *measured_json(const struct lab_trial *trial, double gain)
{
    struct json_object *object = json_object_new_object();
    put_count(object, "rounds", trial->rounds);
    put(object, "before_ns", json_object_new_double(trial->before_ns));
    put(object, "after_ns", json_object_new_double(trial->after_ns));
    put(object, "saved_ns", json_object_new_double(trial->saved_ns));
    put(object, "noise_ns", json_object_new_double(trial->noise_ns));
    put(object, "is_time_noise", json_object_new_boolean(trial->is_time_noise));
    put_count(object, "before_bytes", trial->before_bytes);
    put_count(object, "after_bytes", trial->after_bytes);
    put(object, "saved_bytes", json_object_new_int64(trial->saved_bytes));
    put(object, "is_bytes_noise", json_object_new_boolean(trial->is_bytes_noise));
    put(object, "is_noise", json_object_new_boolean(gain <= 0));
    return object;
}

static struct json_object *proposal_json(const struct advice *advice,
                                         const struct proposal *proposal)
{
    struct json_object *object = json_object_new_object();
    struct json_object *sites = json_object_new_array();
    struct words words;
    say(&words, advice, proposal->finding);
    put_text(object, "kind", kind_name(proposal->finding->kind));
    put_count(object, "site", proposal->finding->site);
    for (size_t i = 0; i < proposal->finding->site_count; i++) {
        json_object_array_add(sites, json_object_new_uint64(proposal->finding->sites[i]));
    }
    put(object, "sites", sites);
    put_text(object, "title", words.title);
    put_text(object, "evidence", words.evidence);
    put_text(object, "change", words.change);
    put_count(object, "blocks", proposal->finding->blocks);
    put_count(object, "bytes", proposal->finding->bytes);
    if (proposal->is_tried) {
        put(object, "measured", measured_json(&proposal->trial, gain_of(proposal)));
    }
    return object;
}

static struct json_object *trace_json(const struct advice *advice)
{
    const struct fh_trace_process *process = advice->process;
    struct json_object *object = json_object_new_object();
    put_text(object, "command", advice->info->command);
    put_text(object, "program", process->program);
    put_count(object, "pid", (uint64_t)process->pid);
    put_count(object, "events", process->events);
    put_count(object, "lost", process->lost);
    put_count(object, "threads", process->threads);
    put_count(object, "duration_ns", advice->sites->end_ns - advice->sites->begin_ns);
    put(object, "is_whole", json_object_new_boolean(advice->info->is_whole));
    return object;
}

static struct json_object *totals_json(const struct lab_sites *sites)
{
    const struct lab_totals *totals = &sites->totals;
    struct json_object *object = json_object_new_object();
    put_count(object, "allocations", totals->allocations);
    put_count(object, "frees", totals->frees);
    put_count(object, "resizes", totals->resizes);
    put_count(object, "requested_bytes", totals->bytes);
    put_count(object, "peak_live_bytes", totals->peak_bytes);
    put_count(object, "peak_live_blocks", totals->peak_blocks);
    put_count(object, "peak_ns",
              totals->peak_ns > sites->begin_ns ? totals->peak_ns - sites->begin_ns : 0);
    put_count(object, "end_live_bytes", totals->live_bytes);
    put_count(object, "end_live_blocks", totals->live_blocks);
    put_count(object, "unknown", totals->unknown);
    put_count(object, "sites", sites->count);
    return object;
}

static struct json_object *timeline_json(const struct lab_sites *sites)
{
    struct json_object *object = json_object_new_object();
    struct json_object *times = json_object_new_array();
    struct json_object *bytes = json_object_new_array();
    const uint64_t span = sites->end_ns - sites->begin_ns;
    for (size_t i = 0; i < LAB_MOMENTS; i++) {
        json_object_array_add(times, json_object_new_uint64(span / (LAB_MOMENTS - 1) * i));
        json_object_array_add(bytes, json_object_new_uint64(sites->live_at[i]));
    }
    put(object, "time_ns", times);
    put(object, "live_bytes", bytes);
    return object;
}

/* Beyond MOST_SITES only those that a proposal names: a page has to be opened. */
static struct json_object *sites_json(const struct advice *advice)
{
    struct json_object *list = json_object_new_array();
    for (size_t i = 0; i < advice->sites->count; i++) {
        bool is_named = i < MOST_SITES;
        for (size_t k = 0; k < advice->proposal_count && !is_named; k++) {
            is_named = advice->proposals[k].finding->site == i;
        }
        if (is_named) {
            json_object_array_add(list, site_json(advice, i));
        }
    }
    return list;
}

struct json_object *advise_json(const struct advice *advice)
{
    struct json_object *root = json_object_new_object();
    struct json_object *proposals = json_object_new_array();
    struct json_object *limits = json_object_new_array();
    put_count(root, "freehold", 1);
    put_text(root, "kind", "advise");
    put_text(root, "version", FREEHOLD_VERSION);
    put_count(root, "rounds", advice->rounds);
    put_text(root, "allocator", advice->allocator);
    put(root, "trace", trace_json(advice));
    put(root, "totals", totals_json(advice->sites));
    put(root, "timeline", timeline_json(advice->sites));
    put(root, "sites", sites_json(advice));
    for (size_t i = 0; i < advice->proposal_count; i++) {
        json_object_array_add(proposals, proposal_json(advice, &advice->proposals[i]));
    }
    put(root, "proposals", proposals);
    for (size_t i = 0; i < sizeof(unseen) / sizeof(unseen[0]); i++) {
        json_object_array_add(limits, json_object_new_string(unseen[i]));
    }
    put(root, "unseen", limits);
    return root;
}
