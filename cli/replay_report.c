/*
 * The report of a replay.
 *
 * Figures and their words (DESIGN.md): requested is what the program asked for, usable what it may
 * write, footprint what the allocator has taken from its source, resident what the kernel has
 * given. A malloc library tells nobody its footprint, so what stands against the live peak is
 * resident memory there, and the table says so.
 *
 * Time a call is processor time of the whole process, helper threads and page faults included,
 * less that of the same loop without an allocator; each is a median over the rounds.
 */
#include "replay_report.h"

#include <json-c/json.h>
#include <string.h>
#include <sys/wait.h>

enum { REPORT_FORMAT = 1 };

/* ---- Figures ---- */

/* What `part` is more than `whole`, in parts of it. */
static double excess(uint64_t part, uint64_t whole)
{
    return whole == 0 ? 0 : (double)part / (double)whole - 1;
}

static double internal_fragmentation(const struct lab_look *look)
{
    return excess(look->usable + look->metadata, look->requested);
}

static double external_fragmentation(const struct lab_look *look)
{
    return look->free_bytes == 0 ? 0 : 1 - (double)look->largest_free / (double)look->free_bytes;
}

static bool has_figures(const struct lab_contestant *who)
{
    return !who->is_missing && who->state == LAB_DONE && who->rounds > 0;
}

/* Of the loop nothing is taken off. */
static double net_ns(const struct lab_contest *contest, const struct lab_contestant *who)
{
    const double net = lab_median(who->cpu_ns, who->rounds) -
                       lab_median(contest->loop.cpu_ns, contest->loop.rounds);
    return net > 0 ? net : 0;
}

static double per_event(const struct lab_contest *contest, double ns)
{
    const uint64_t ops = contest->program->facts.ops;
    return ops == 0 ? 0 : ns / (double)ops;
}

static double spread(const struct lab_contestant *who)
{
    const double median = lab_median(who->cpu_ns, who->rounds);
    return median > 0 ? lab_quartile_distance(who->cpu_ns, who->rounds) / median : 0;
}

/* The footprint where it is known, else what was resident. */
static uint64_t peak_held(const struct lab_contestant *who)
{
    return who->memory.has_measure ? who->memory.peak_footprint : who->memory.peak_resident;
}

/* Bytes that the program freed and the manager could not. */
static uint64_t garbage(const struct lab_contest *contest, const struct lab_contestant *who)
{
    const struct lab_program_facts *facts = &contest->program->facts;
    return who->memory.frees ? 0 : facts->total_bytes - facts->end_live_bytes;
}

void replay_explain(const struct replay_report *report, const struct lab_contestant *who,
                    char *sentence, size_t size)
{
    const struct lab_result *failure = &who->failure;
    sentence[0] = '\0';
    if (who->is_missing) {
        snprintf(sentence, size, "not installed");
        return;
    }
    switch (who->state) {
    case LAB_DONE:
        return;
    case LAB_NOT_OPENED:
        snprintf(sentence, size, "could not be opened: %s", strerror(failure->error));
        return;
    case LAB_NOT_LOADED:
        snprintf(sentence, size, "'%s' does not replace malloc", who->library);
        return;
    case LAB_NO_MEMORY:
        snprintf(sentence, size, "not enough memory for the replay itself");
        return;
    case LAB_NO_MAP:
    case LAB_STARTED:
        break;
    }
    if (WIFSIGNALED(failure->wait_status)) {
        snprintf(sentence, size, "died by SIG%s after %s of %s operations",
                 sigabbrev_np(WTERMSIG(failure->wait_status)), figure_count(failure->progress).text,
                 figure_count(report->contest->program->facts.ops).text);
    } else {
        snprintf(sentence, size, "ended by itself, with status %d",
                 WEXITSTATUS(failure->wait_status));
    }
}

/* ---- The table ---- */

static void print_trace(const struct term *term, const struct replay_report *report)
{
    const struct lab_program_facts *facts = &report->contest->program->facts;
    FILE *out = term->out;
    fprintf(out, "%s%s%s  %s\n", term_style(term, TERM_BOLD), report->file,
            term_style(term, TERM_PLAIN), report->trace->command);
    fprintf(out, "  %s events: %s allocations, %s frees, %s resizes", figure_count(facts->ops).text,
            figure_count(facts->allocs).text, figure_count(facts->frees).text,
            figure_count(facts->resizes).text);
    if (report->trace->process_count > 1) {
        fprintf(out, " (process %u of %u, pid %d)", report->process_index,
                report->trace->process_count, report->process->pid);
    }
    fprintf(out, "\n  peak live: %s requested in %s blocks; at the end %s\n",
            figure_bytes(facts->peak_live_bytes).text, figure_count(facts->peak_live_blocks).text,
            figure_bytes(facts->end_live_bytes).text);
}

static void print_note(const struct term *term, const char *text)
{
    fprintf(term->out, "  %snote:%s %s\n", term_style(term, TERM_WARN),
            term_style(term, TERM_PLAIN), text);
}

static void print_notes(const struct term *term, const struct replay_report *report)
{
    const struct lab_program_facts *facts = &report->contest->program->facts;
    char text[640];
    if (report->damage != NULL) {
        snprintf(text, sizeof(text), "%s; replayed is what comes before", report->damage);
        print_note(term, text);
    } else if (!report->trace->is_whole) {
        print_note(term, "the trace was cut off while it was recorded; replayed is what is there");
    }
    if (facts->threads > 1) {
        snprintf(text, sizeof(text), "the calls of %s threads are replayed by one, in their order",
                 figure_count(facts->threads).text);
        print_note(term, text);
    }
    if (facts->lost > 0) {
        snprintf(text, sizeof(text),
                 "%s events were lost while recording; %s frees that must have been among them "
                 "are put in",
                 figure_count(facts->lost).text, figure_count(facts->implied_frees).text);
        print_note(term, text);
    } else if (facts->implied_frees > 0) {
        snprintf(text, sizeof(text), "%s frees are missing in the trace and are put in",
                 figure_count(facts->implied_frees).text);
        print_note(term, text);
    }
    if (facts->unknown_frees + facts->unknown_resizes > 0) {
        snprintf(text, sizeof(text),
                 "%s frees and %s resizes of blocks from before the recording: the frees are left "
                 "out, the resizes allocate",
                 figure_count(facts->unknown_frees).text,
                 figure_count(facts->unknown_resizes).text);
        print_note(term, text);
    }
}

enum { NAME_WIDTH = 12 };

static void print_heading(const struct term *term, const struct lab_contest *contest)
{
    fprintf(term->out, "\n%s%-*s %8s %7s %9s %10s %10s %9s %8s %8s %8s%s\n",
            term_style(term, TERM_BOLD), NAME_WIDTH, "allocator", "ns/call", "spread", "time",
            "footprint", "resident", "over live", "internal", "external", "at end",
            term_style(term, TERM_PLAIN));
    fprintf(term->out, "%s%-*s %8.2f %6.1f%% %9s%s\n", term_style(term, TERM_DIM), NAME_WIDTH,
            contest->loop.name,
            per_event(contest, lab_median(contest->loop.cpu_ns, contest->loop.rounds)),
            spread(&contest->loop) * 100,
            figure_duration((uint64_t)lab_median(contest->loop.wall_ns, contest->loop.rounds)).text,
            term_style(term, TERM_PLAIN));
}

static void print_share(FILE *out, int width, bool is_known, double share)
{
    if (is_known) {
        fprintf(out, " %*.1f%%", width - 1, share * 100);
    } else {
        fprintf(out, " %*s", width, "-");
    }
}

static void print_row(const struct term *term, const struct replay_report *report,
                      const struct lab_contestant *who)
{
    const struct lab_contest *contest = report->contest;
    const struct lab_result *memory = &who->memory;
    const bool frees = memory->frees;
    FILE *out = term->out;
    char why[PATH_MAX + 64];
    fprintf(out, "%-*s", NAME_WIDTH, who->name);
    if (!has_figures(who)) {
        replay_explain(report, who, why, sizeof(why));
        fprintf(out, "  %s%s%s\n", term_style(term, who->is_missing ? TERM_DIM : TERM_BAD), why,
                term_style(term, TERM_PLAIN));
        return;
    }
    fprintf(out, " %8.2f %6.1f%% %9s %10s %10s", per_event(contest, net_ns(contest, who)),
            spread(who) * 100,
            figure_duration((uint64_t)lab_median(who->wall_ns, who->rounds)).text,
            memory->has_measure ? figure_bytes(memory->peak_footprint).text : "-",
            figure_bytes(memory->peak_resident).text);
    print_share(out, 9, true, excess(peak_held(who), contest->program->facts.peak_live_bytes));
    print_share(out, 8, memory->has_usable && frees, internal_fragmentation(&memory->at_peak));
    print_share(out, 8, memory->has_measure && frees, external_fragmentation(&memory->at_peak));
    print_share(out, 8, memory->has_measure && frees, external_fragmentation(&memory->at_end));
    fputc('\n', out);
}

static void print_asides(const struct term *term, const struct lab_contest *contest)
{
    FILE *out = term->out;
    for (size_t i = 0; i < contest->count; i++) {
        const struct lab_contestant *who = &contest->contestants[i];
        if (!has_figures(who)) {
            continue;
        }
        if (who->memory.refused > 0) {
            fprintf(out, "  %s refused %s calls (%s)\n", who->name,
                    figure_count(who->memory.refused).text,
                    figure_bytes(who->memory.refused_bytes).text);
        }
        if (garbage(contest, who) > 0) {
            fprintf(out, "  %s keeps %s that the program freed\n", who->name,
                    figure_bytes(garbage(contest, who)).text);
        }
    }
}

static void print_latency(FILE *out, const struct lab_contestant *who)
{
    const struct lab_latencies *a = &who->alloc_latency;
    const struct lab_latencies *f = &who->free_latency;
    fprintf(out, "%-*s %9.0f %8.0f %8.0f %9.0f %9.0f %8.0f %8.0f %9.0f\n", NAME_WIDTH, who->name,
            a->p50, a->p99, a->p9999, a->worst, f->p50, f->p99, f->p9999, f->worst);
}

static void print_latencies(const struct term *term, const struct lab_contest *contest)
{
    fprintf(term->out, "\n%s%-*s %9s %8s %8s %9s %9s %8s %8s %9s%s\n", term_style(term, TERM_BOLD),
            NAME_WIDTH, "ns", "alloc p50", "p99", "p99.99", "worst", "free p50", "p99", "p99.99",
            "worst", term_style(term, TERM_PLAIN));
    fputs(term_style(term, TERM_DIM), term->out);
    print_latency(term->out, &contest->loop);
    fputs(term_style(term, TERM_PLAIN), term->out);
    for (size_t i = 0; i < contest->count; i++) {
        if (has_figures(&contest->contestants[i])) {
            print_latency(term->out, &contest->contestants[i]);
        }
    }
    fprintf(term->out,
            "  each call counts with the least it took in %u replays; (loop) is what the clock "
            "takes\n",
            contest->rounds);
}

static void print_minima(const struct term *term, const struct lab_contest *contest)
{
    fprintf(term->out, "\n%sleast memory that serves all    over live  replays%s\n",
            term_style(term, TERM_BOLD), term_style(term, TERM_PLAIN));
    for (size_t i = 0; i < contest->count; i++) {
        const struct lab_contestant *who = &contest->contestants[i];
        if (who->minimum > 0) {
            fprintf(term->out, "%-*s %18s %10.1f%% %8u\n", NAME_WIDTH, who->name,
                    figure_bytes(who->minimum).text,
                    excess(who->minimum, contest->program->facts.peak_live_bytes) * 100,
                    who->minimum_replays);
        }
    }
}

void replay_print(const struct term *term, const struct replay_report *report)
{
    const struct lab_contest *contest = report->contest;
    print_trace(term, report);
    print_notes(term, report);
    print_heading(term, contest);
    for (size_t i = 0; i < contest->count; i++) {
        print_row(term, report, &contest->contestants[i]);
    }
    print_asides(term, contest);
    fprintf(term->out,
            "  ns/call: processor time less the loop's, every page of each block touched; median "
            "of %u rounds\n"
            "  over live: peak footprint (mallocs: peak resident) over peak live requested bytes\n",
            contest->rounds);
    if (contest->wants_latency) {
        print_latencies(term, contest);
    }
    if (contest->wants_minimum) {
        print_minima(term, contest);
    }
}

/* ---- JSON ---- */

static void add_number(struct json_object *object, const char *key, uint64_t value)
{
    json_object_object_add(object, key, json_object_new_uint64(value));
}

static void add_double(struct json_object *object, const char *key, double value)
{
    struct json_object *number = json_object_new_double(value);
    json_object_set_serializer(number, json_object_double_to_json_string, "%.6g", NULL);
    json_object_object_add(object, key, number);
}

static void add_text(struct json_object *object, const char *key, const char *value)
{
    if (value != NULL && value[0] != '\0') {
        json_object_object_add(object, key, json_object_new_string(value));
    }
}

static void add_bool(struct json_object *object, const char *key, bool value)
{
    json_object_object_add(object, key, json_object_new_boolean(value));
}

static struct json_object *add_object(struct json_object *object, const char *key)
{
    struct json_object *added = json_object_new_object();
    json_object_object_add(object, key, added);
    return added;
}

static void add_trace(struct json_object *root, const struct replay_report *report)
{
    struct json_object *trace = add_object(root, "trace");
    add_text(trace, "file", report->file);
    add_text(trace, "command", report->trace->command);
    add_text(trace, "program", report->process->program);
    add_number(trace, "pid", (uint64_t)report->process->pid);
    add_number(trace, "process", report->process_index);
    add_number(trace, "processes", report->trace->process_count);
    add_bool(trace, "is_whole", report->trace->is_whole && report->damage == NULL);
    add_text(trace, "damage", report->damage);
}

static void add_facts(struct json_object *root, const struct lab_program_facts *facts)
{
    struct json_object *program = add_object(root, "program");
    add_number(program, "events", facts->ops);
    add_number(program, "allocs", facts->allocs);
    add_number(program, "frees", facts->frees);
    add_number(program, "resizes", facts->resizes);
    add_number(program, "peak_live_bytes", facts->peak_live_bytes);
    add_number(program, "peak_live_blocks", facts->peak_live_blocks);
    add_number(program, "peak_event", facts->peak_op);
    add_number(program, "most_live_blocks", facts->slots);
    add_number(program, "end_live_bytes", facts->end_live_bytes);
    add_number(program, "end_live_blocks", facts->end_live_blocks);
    add_number(program, "total_bytes", facts->total_bytes);
    add_number(program, "largest", facts->largest);
    add_number(program, "over_aligned", facts->over_aligned);
    add_number(program, "zeroed", facts->zeroed);
    add_number(program, "threads", facts->threads);
    add_number(program, "remote_frees", facts->remote_frees);
    add_number(program, "unknown_frees", facts->unknown_frees);
    add_number(program, "unknown_resizes", facts->unknown_resizes);
    add_number(program, "implied_frees", facts->implied_frees);
    add_number(program, "lost", facts->lost);
}

static void add_times(struct json_object *object, const struct lab_contest *contest,
                      const struct lab_contestant *who, double net)
{
    struct json_object *time = add_object(object, "time");
    struct json_object *rounds = json_object_new_array();
    add_double(time, "ns_per_event", per_event(contest, net));
    add_double(time, "spread", spread(who));
    add_number(time, "wall_ns", (uint64_t)lab_median(who->wall_ns, who->rounds));
    add_number(time, "cpu_ns", (uint64_t)lab_median(who->cpu_ns, who->rounds));
    for (unsigned i = 0; i < who->rounds; i++) {
        struct json_object *round = json_object_new_object();
        add_number(round, "wall_ns", who->wall_ns[i]);
        add_number(round, "cpu_ns", who->cpu_ns[i]);
        json_object_array_add(rounds, round);
    }
    json_object_object_add(time, "rounds", rounds);
}

static void add_look(struct json_object *memory, const char *key, const struct lab_result *result,
                     const struct lab_look *look)
{
    struct json_object *object = add_object(memory, key);
    add_number(object, "requested", look->requested);
    add_number(object, "blocks", look->blocks);
    add_number(object, "resident", look->resident);
    if (result->has_usable) {
        add_number(object, "usable", look->usable);
    }
    if (result->has_usable && result->frees) {
        add_double(object, "internal", internal_fragmentation(look));
    }
    if (!result->has_measure) {
        return;
    }
    add_number(object, "metadata", look->metadata);
    add_number(object, "footprint", look->footprint);
    add_number(object, "free_bytes", look->free_bytes);
    add_number(object, "free_blocks", look->free_blocks);
    add_number(object, "largest_free", look->largest_free);
    if (result->frees) {
        add_double(object, "external", external_fragmentation(look));
        add_double(object, "scatter", look->scatter);
    }
}

/* Columns instead of points: shorter, and what drawing wants. */
static void add_course(struct json_object *memory, const struct lab_result *result)
{
    struct json_object *course = add_object(memory, "course");
    struct json_object *events = json_object_new_array();
    struct json_object *requested = json_object_new_array();
    struct json_object *footprint = json_object_new_array();
    struct json_object *resident = json_object_new_array();
    for (unsigned i = 0; i < result->sample_count; i++) {
        const struct lab_sample *sample = &result->samples[i];
        json_object_array_add(events, json_object_new_uint64(sample->op));
        json_object_array_add(requested, json_object_new_uint64(sample->requested));
        json_object_array_add(footprint, json_object_new_uint64(sample->footprint));
        json_object_array_add(resident, json_object_new_uint64(sample->resident));
    }
    json_object_object_add(course, "events", events);
    json_object_object_add(course, "requested", requested);
    json_object_object_add(course, "resident", resident);
    if (result->has_measure) {
        json_object_object_add(course, "footprint", footprint);
    } else {
        json_object_put(footprint);
    }
}

static void add_memory(struct json_object *object, const struct lab_contest *contest,
                       const struct lab_contestant *who)
{
    struct json_object *memory = add_object(object, "memory");
    const struct lab_result *result = &who->memory;
    if (result->has_measure) {
        add_number(memory, "peak_footprint", result->peak_footprint);
    }
    add_number(memory, "peak_resident", result->peak_resident);
    add_double(memory, "over_live",
               excess(peak_held(who), contest->program->facts.peak_live_bytes));
    add_number(memory, "garbage_bytes", garbage(contest, who));
    add_number(memory, "refused", result->refused);
    add_number(memory, "refused_bytes", result->refused_bytes);
    add_look(memory, "at_peak", result, &result->at_peak);
    add_look(memory, "at_end", result, &result->at_end);
    add_course(memory, result);
}

static void add_latency(struct json_object *object, const char *key,
                        const struct lab_latencies *latencies)
{
    struct json_object *latency = add_object(object, key);
    add_double(latency, "p50", latencies->p50);
    add_double(latency, "p99", latencies->p99);
    add_double(latency, "p9999", latencies->p9999);
    add_double(latency, "worst", latencies->worst);
}

static void add_latencies(struct json_object *object, const struct lab_contestant *who)
{
    struct json_object *latency = add_object(object, "latency_ns");
    add_latency(latency, "alloc", &who->alloc_latency);
    add_latency(latency, "free", &who->free_latency);
}

static const char *status_of(const struct lab_contestant *who)
{
    if (who->is_missing) {
        return "not-installed";
    }
    switch (who->state) {
    case LAB_DONE:
        return "done";
    case LAB_NOT_OPENED:
        return "not-opened";
    case LAB_NOT_LOADED:
        return "not-loaded";
    case LAB_NO_MEMORY:
        return "no-memory";
    case LAB_NO_MAP:
    case LAB_STARTED:
        break;
    }
    return "died";
}

static struct json_object *contestant_json(const struct replay_report *report,
                                           const struct lab_contestant *who)
{
    const struct lab_contest *contest = report->contest;
    struct json_object *object = json_object_new_object();
    char problem[PATH_MAX + 64];
    add_text(object, "name", who->name);
    add_text(object, "kind", who->manager != NULL ? "manager" : "malloc");
    add_text(object, "library", who->library);
    add_text(object, "status", status_of(who));
    replay_explain(report, who, problem, sizeof(problem));
    add_text(object, "problem", problem);
    if (!has_figures(who)) {
        return object;
    }
    add_times(object, contest, who, net_ns(contest, who));
    add_memory(object, contest, who);
    if (contest->wants_latency) {
        add_latencies(object, who);
    }
    if (who->minimum > 0) {
        struct json_object *minimum = add_object(object, "minimum");
        add_number(minimum, "bytes", who->minimum);
        add_double(minimum, "over_live",
                   excess(who->minimum, contest->program->facts.peak_live_bytes));
        add_number(minimum, "replays", who->minimum_replays);
    }
    return object;
}

struct json_object *replay_json(const struct replay_report *report)
{
    const struct lab_contest *contest = report->contest;
    struct json_object *root = json_object_new_object();
    struct json_object *allocators = json_object_new_array();
    add_number(root, "freehold", REPORT_FORMAT);
    add_text(root, "kind", "replay");
    add_text(root, "version", FREEHOLD_VERSION);
    add_trace(root, report);
    add_facts(root, &contest->program->facts);
    add_number(root, "rounds", contest->rounds);
    struct json_object *loop = add_object(root, "loop");
    add_times(loop, contest, &contest->loop,
              lab_median(contest->loop.cpu_ns, contest->loop.rounds));
    if (contest->wants_latency) {
        add_latencies(loop, &contest->loop);
    }
    for (size_t i = 0; i < contest->count; i++) {
        json_object_array_add(allocators, contestant_json(report, &contest->contestants[i]));
    }
    json_object_object_add(root, "allocators", allocators);
    return root;
}
