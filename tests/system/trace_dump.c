/*
 * What is in a trace, in lines that tests can look for: trace_dump FILE [first | modules]
 *
 * Frees of what is not live and allocations of what is live already are counted as wrong.
 *
 *   first    instead: address and module of the innermost frame of the first call of 111 bytes
 *   modules  as well: the modules of each process, with the time for which they were loaded
 */
#include "freehold/trace.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PLACES = 1 << 22, EVENTS = 256, FRAMES = 128, KINDS = 8 };

struct counts {
    unsigned long of_kind[KINDS];
    unsigned long of_111, of_5555, of_77, zeroed, aligned;
    unsigned long inherited, wrong, backwards, without_stack;
};

/* Open addressing by the address; one that was freed stays, with its lowest bit set. */
static uint64_t live[PLACES];

static size_t place_of(uint64_t address)
{
    size_t i = (address >> 4) * 0x9e3779b97f4a7c15u >> 42;
    while (live[i] != 0 && (live[i] & ~UINT64_C(1)) != address)
        i = (i + 1) % PLACES;
    return i;
}

static bool is_live(uint64_t address)
{
    return live[place_of(address)] == address;
}

static void take(const struct fh_trace_event *event, struct counts *counts)
{
    const bool is_freed = event->kind == FH_TRACE_FREE;
    const uint64_t freed = is_freed ? event->address : event->old_address;
    counts->of_kind[event->kind % KINDS]++;
    counts->of_111 += event->size == 111;
    counts->of_5555 += event->size == 5555;
    counts->of_77 += event->size == 77;
    counts->zeroed += (event->flags & FH_TRACE_ZEROED) != 0 && event->size == 133;
    counts->aligned += event->align == 256 && event->size == 512;
    counts->inherited += (event->flags & FH_TRACE_INHERITED) != 0;
    if (freed != 0) {
        counts->wrong += !is_live(freed) && (event->flags & FH_TRACE_INHERITED) == 0;
        live[place_of(freed)] = freed | 1;
    }
    if (event->kind == FH_TRACE_ALLOC || event->kind == FH_TRACE_RESIZE) {
        counts->wrong += is_live(event->address);
        live[place_of(event->address)] = event->address;
    }
}

static const struct fh_trace_module *module_of(const struct fh_trace *trace, uint64_t frame)
{
    const struct fh_trace_module *module;
    for (size_t i = 0; (module = fh_trace_module(trace, i)) != NULL; i++) {
        if (frame >= module->begin && frame < module->end)
            return module;
    }
    return NULL;
}

static void print_place(const struct fh_trace *trace, uint64_t frame)
{
    const struct fh_trace_module *module = module_of(trace, frame);
    if (module != NULL)
        printf("0x%lx %s\n", (unsigned long)(frame - 1 - module->bias), module->path);
}

static void print_modules(const struct fh_trace *trace, unsigned process)
{
    const struct fh_trace_module *module;
    for (size_t i = 0; (module = fh_trace_module(trace, i)) != NULL; i++)
        printf("process %u: module %s until %s\n", process, module->path,
               module->until_ns == UINT64_MAX ? "its end" : "unloaded");
}

int main(int argc, char **argv)
{
    static struct fh_trace_event events[EVENTS];
    struct fh_trace_problem problem;
    const char *mode = argc > 2 ? argv[2] : "";
    struct fh_trace *trace = argc > 1 ? fh_trace_open(argv[1], &problem) : NULL;
    if (trace == NULL) {
        puts(argc > 1 ? problem.text : "usage: trace_dump FILE [first | modules]");
        return argc > 1 ? problem.exit_status : 2;
    }
    const struct fh_trace_info *info = fh_trace_info(trace);
    printf("whole %d processes %u lost %lu\n", info->is_whole, info->process_count,
           (unsigned long)info->lost);
    for (unsigned p = 0; p < info->process_count; p++) {
        struct counts n = {0};
        uint64_t before = 0;
        memset(live, 0, sizeof(live));
        fh_trace_begin(trace, p);
        for (long got; (got = fh_trace_read(trace, events, EVENTS)) > 0;) {
            for (long i = 0; i < got; i++) {
                uint64_t frames[FRAMES];
                const size_t depth = fh_trace_frames(trace, events[i].stack, frames, FRAMES);
                take(&events[i], &n);
                n.backwards += events[i].time_ns < before;
                before = events[i].time_ns;
                n.without_stack += events[i].kind <= FH_TRACE_RESIZE && depth == 0;
                if (strcmp(mode, "first") == 0 && events[i].size == 111 && depth > 0) {
                    print_place(trace, frames[0]);
                    return 0;
                }
            }
        }
        const struct fh_trace_process *process = fh_trace_process(trace, p);
        printf("process %u parent %d threads %u: alloc %lu free %lu resize %lu fork %lu\n", p,
               process->parent, process->threads, n.of_kind[FH_TRACE_ALLOC],
               n.of_kind[FH_TRACE_FREE], n.of_kind[FH_TRACE_RESIZE], n.of_kind[FH_TRACE_FORK]);
        printf("process %u: of111 %lu of5555 %lu of77 %lu zeroed %lu aligned %lu inherited %lu "
               "wrong %lu back %lu\n",
               p, n.of_111, n.of_5555, n.of_77, n.zeroed, n.aligned, n.inherited, n.wrong,
               n.backwards);
        printf("process %u: program %s, calls without a stack %lu\n", p, process->program,
               n.without_stack);
        if (strcmp(mode, "modules") == 0)
            print_modules(trace, p);
    }
    printf("end %ld\n", fh_trace_read(trace, events, 1));
    fh_trace_close(trace);
    return 0;
}
