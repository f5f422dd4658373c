/*
 * The summary of a run.
 *
 * It answers, in this order, what one asks: how did it end and what did it take; how much was
 * allocated and what was left; of which sizes; by which threads; in which processes (the last two
 * only when there is more than one); and one sentence on what stands out, with what it means. The
 * sentence is the first of a list of claims that holds, ordered by how much a person would want to
 * know it.
 *
 * Bytes are usable bytes (what the blocks hold), not requested ones; "resident" is the kernel's
 * count of the process's memory in RAM. Rows are sorted by what they took, and few: the whole is in
 * --json.
 */
#include "summary.h"

#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

enum {
    MOST_CLASSES = 8,
    MOST_THREADS = 8,
    MOST_PROCESSES = 8,
    BAR_CELLS = 28,
    NAME_CELLS = 20,
};

static void print_heading(const struct term *term, const char *title, const char *rest)
{
    fprintf(term->out, "\n  %s%s%s%s\n", term_style(term, TERM_BOLD), title,
            term_style(term, TERM_PLAIN), rest);
}

/* ---- How it ended ---- */

/* The command line, cut to the terminal's width. */
static void print_title(const struct term *term, char **argv)
{
    char line[512] = "";
    size_t len = 0;
    for (size_t i = 0; argv[i] != NULL && len < sizeof(line) - 1; i++) {
        const int written =
            snprintf(line + len, sizeof(line) - len, "%s%s", i > 0 ? " " : "", argv[i]);
        len += written > 0 ? (size_t)written : 0;
    }
    for (char *c = line; *c != '\0'; c++) {
        if ((unsigned char)*c < ' ' || *c == 0x7f) {
            *c = ' ';
        }
    }
    const size_t room = term->width > 20 ? (size_t)term->width - 12 : 8;
    const bool is_cut = strlen(line) > room;
    if (is_cut) {
        size_t end = room - 3;
        /* Not between the bytes of one UTF-8 character. */
        while (end > 0 && ((unsigned char)line[end] & 0xc0) == 0x80) {
            end--;
        }
        line[end] = '\0';
    }
    fprintf(term->out, "\n%sfreehold%s %s %s%s\n", term_style(term, TERM_ACCENT),
            term_style(term, TERM_PLAIN), term_pick(term, "·", "-"), line, is_cut ? "..." : "");
}

static struct figure duration_of(struct timeval time)
{
    return figure_duration((uint64_t)time.tv_sec * 1000000000U + (uint64_t)time.tv_usec * 1000U);
}

static void print_outcome(const struct term *term, const struct outcome *outcome, uint64_t peak_rss)
{
    const char *dot = term_pick(term, " · ", ", ");
    const int status = outcome->wait_status;
    if (WIFSIGNALED(status)) {
        const char *name = sigabbrev_np(WTERMSIG(status));
        fprintf(term->out, "  %skilled by SIG%s%s", term_style(term, TERM_BAD),
                name != NULL ? name : "?", term_style(term, TERM_PLAIN));
    } else {
        const bool is_good = WEXITSTATUS(status) == 0;
        fprintf(term->out, "  %sstatus %d%s", term_style(term, is_good ? TERM_GOOD : TERM_WARN),
                WEXITSTATUS(status), term_style(term, TERM_PLAIN));
    }
    fprintf(term->out, "%s%s wall%s%s user%s%s system%s%s peak resident\n", dot,
            figure_duration(outcome->wall_ns).text, dot, duration_of(outcome->usage.ru_utime).text,
            dot, duration_of(outcome->usage.ru_stime).text, dot, figure_bytes(peak_rss).text);
}

/* ---- What was allocated ---- */

static void print_line(const struct term *term, const char *label, const char *value,
                       const char *rest)
{
    fprintf(term->out, "  %-13s%14s  %s%s%s\n", label, value, term_style(term, TERM_DIM), rest,
            term_style(term, TERM_PLAIN));
}

static void print_heap(const struct term *term, const struct heap_figures *heap, uint64_t wall_ns)
{
    char rest[160];
    const double seconds = (double)wall_ns / 1e9;
    fputc('\n', term->out);
    print_line(term, "allocations", figure_count(heap->mallocs).text,
               seconds > 0 ? figure_rate((double)heap->mallocs / seconds).text : "");
    rest[0] = '\0';
    if (heap->remote_frees > 0 && heap->frees > 0) {
        snprintf(rest, sizeof(rest), "%s of them by another thread than the one that allocated",
                 figure_share((double)heap->remote_frees / (double)heap->frees).text);
    }
    print_line(term, "frees", figure_count(heap->frees).text, rest);
    snprintf(rest, sizeof(rest), "in %s block%s", figure_count(heap->live_blocks).text,
             heap->live_blocks == 1 ? "" : "s");
    print_line(term, "live at exit", figure_bytes(heap->live_bytes).text, rest);
    rest[0] = '\0';
    if (heap->purged_bytes > 0) {
        snprintf(rest, sizeof(rest), "%s given back to the system on the way",
                 figure_bytes(heap->purged_bytes).text);
    }
    print_line(term, "held at peak", figure_bytes(heap->peak_bytes).text, rest);
}

/* ---- Of which sizes ---- */

static int by_mallocs(const void *left, const void *right)
{
    const struct class_figures *a = left;
    const struct class_figures *b = right;
    return (a->mallocs < b->mallocs) - (a->mallocs > b->mallocs);
}

/* Sizes of small blocks are known by heart as numbers of bytes. */
static struct figure figure_class(uint64_t size)
{
    enum { SMALL = 10 << 10 };
    struct figure figure = {"large"};
    if (size >= SMALL) {
        return figure_bytes(size);
    }
    if (size > 0) {
        snprintf(figure.text, sizeof(figure.text), "%.30s B", figure_count(size).text);
    }
    return figure;
}

static int by_size(const void *left, const void *right)
{
    /* Large blocks (size 0) come last: 0 - 1 is the largest number. */
    const uint64_t a = ((const struct class_figures *)left)->size - 1;
    const uint64_t b = ((const struct class_figures *)right)->size - 1;
    return (a > b) - (a < b);
}

/* The classes that were used most, in order of size, and the rest in one line. */
static void print_classes(const struct term *term, const struct records *records)
{
    const uint64_t all = records->total.mallocs;
    struct class_figures *top = calloc(records->class_count + 1, sizeof(*top));
    if (top == NULL || all == 0) {
        free(top);
        return;
    }
    memcpy(top, records->classes, records->class_count * sizeof(*top));
    qsort(top, records->class_count, sizeof(*top), by_mallocs);
    size_t shown = 0;
    while (shown < records->class_count && shown < MOST_CLASSES && top[shown].mallocs > 0) {
        shown++;
    }
    const uint64_t most = shown > 0 ? top[0].mallocs : 0;
    qsort(top, shown, sizeof(*top), by_size);

    uint64_t rest = all;
    print_heading(term, "sizes", ", by number of allocations");
    for (size_t i = 0; i < shown; i++) {
        const struct class_figures *figures = &top[i];
        fprintf(term->out, "  %10s  %s", figure_class(figures->size).text,
                term_style(term, TERM_ACCENT));
        term_bar(term, (double)figures->mallocs / (double)most, BAR_CELLS);
        fprintf(term->out, "%s %8s %14s\n", term_style(term, TERM_PLAIN),
                figure_share((double)figures->mallocs / (double)all).text,
                figure_count(figures->mallocs).text);
        rest -= figures->mallocs < rest ? figures->mallocs : rest;
    }
    if (rest > 0 && shown < records->class_count) {
        fprintf(term->out, "  %10s  %*s %8s %14s\n", "others", BAR_CELLS, "",
                figure_share((double)rest / (double)all).text, figure_count(rest).text);
    }
    free(top);
}

/* ---- By which threads and processes ---- */

static int threads_by_mallocs(const void *left, const void *right)
{
    const struct thread_figures *a = left;
    const struct thread_figures *b = right;
    return (a->mallocs < b->mallocs) - (a->mallocs > b->mallocs);
}

static void print_more(const struct term *term, size_t count, size_t shown, const char *what)
{
    if (count > shown) {
        fprintf(term->out, "  %sand %zu more %s%s\n", term_style(term, TERM_DIM), count - shown,
                what, term_style(term, TERM_PLAIN));
    }
}

static void print_threads(const struct term *term, const struct record *record)
{
    if (record->thread_count < 2) {
        return;
    }
    struct thread_figures *threads = calloc(record->thread_count, sizeof(*threads));
    if (threads == NULL) {
        return;
    }
    memcpy(threads, record->threads, record->thread_count * sizeof(*threads));
    qsort(threads, record->thread_count, sizeof(*threads), threads_by_mallocs);
    print_heading(term, "threads", "");
    fprintf(term->out, "  %s%10s %16s %16s %20s%s\n", term_style(term, TERM_DIM), "tid",
            "allocations", "frees", "frees of others'", term_style(term, TERM_PLAIN));
    for (size_t i = 0; i < record->thread_count && i < MOST_THREADS; i++) {
        fprintf(term->out, "  %10llu %16s %16s %20s\n", (unsigned long long)threads[i].tid,
                figure_count(threads[i].mallocs).text, figure_count(threads[i].frees).text,
                figure_count(threads[i].remote).text);
    }
    print_more(term, record->thread_count, MOST_THREADS, "threads");
    free(threads);
}

static int records_by_mallocs(const void *left, const void *right)
{
    const struct record *a = left;
    const struct record *b = right;
    return (a->heap.mallocs < b->heap.mallocs) - (a->heap.mallocs > b->heap.mallocs);
}

static void print_processes(const struct term *term, const struct records *records)
{
    if (records->count < 2) {
        return;
    }
    struct record *items = calloc(records->count, sizeof(*items));
    if (items == NULL) {
        return;
    }
    memcpy(items, records->items, records->count * sizeof(*items));
    qsort(items, records->count, sizeof(*items), records_by_mallocs);
    print_heading(term, "processes", ", the figures above are of all of them together");
    fprintf(term->out, "  %s%10s  %-*s %14s %12s %10s%s\n", term_style(term, TERM_DIM), "pid",
            NAME_CELLS, "program", "allocations", "peak held", "wall",
            term_style(term, TERM_PLAIN));
    for (size_t i = 0; i < records->count && i < MOST_PROCESSES; i++) {
        const char *slash = strrchr(items[i].program, '/');
        fprintf(term->out, "  %10ld  %-*.*s %14s %12s %10s\n", (long)items[i].pid, NAME_CELLS,
                NAME_CELLS, slash != NULL ? slash + 1 : items[i].program,
                figure_count(items[i].heap.mallocs).text,
                figure_bytes(items[i].heap.peak_bytes).text,
                figure_duration(items[i].wall_ns).text);
    }
    print_more(term, records->count, MOST_PROCESSES, "processes");
    free(items);
}

/* ---- What stands out ---- */

static double share_up_to(const struct records *records, uint64_t size)
{
    uint64_t mallocs = 0;
    for (size_t i = 0; i < records->class_count; i++) {
        if (records->classes[i].size != 0 && records->classes[i].size <= size) {
            mallocs += records->classes[i].mallocs;
        }
    }
    return (double)mallocs / (double)records->total.mallocs;
}

/* The class size that half of all allocations do not exceed; 0 when the median block is a large
 * one. */
static uint64_t median_size(const struct records *records)
{
    uint64_t passed = 0;
    for (size_t i = 0; i < records->class_count; i++) {
        passed += records->classes[i].mallocs;
        if (passed >= (records->total.mallocs + 1) / 2) {
            return records->classes[i].size;
        }
    }
    return 0;
}

static void print_insight(const struct term *term, const struct records *records)
{
    enum { SMALL = 64, WORTH_MENTIONING = 1 << 20 };
    const struct heap_figures *heap = &records->total;
    char text[256];
    if (heap->mallocs == 0) {
        snprintf(text, sizeof(text), "The program allocated nothing through malloc.");
    } else if (heap->frees > 1000 && heap->remote_frees > heap->frees / 5) {
        snprintf(
            text, sizeof(text),
            "%s of all frees came from another thread than the one that allocated: memory travels "
            "between threads, and Freehold sends it home in batches.",
            figure_share((double)heap->remote_frees / (double)heap->frees).text);
    } else if (heap->purged_bytes > WORTH_MENTIONING && heap->purged_bytes > heap->peak_bytes / 4) {
        snprintf(
            text, sizeof(text),
            "%s went back to the system while the program ran: %.1f times the peak of what it held "
            "live.",
            figure_bytes(heap->purged_bytes).text,
            (double)heap->purged_bytes / (double)(heap->peak_bytes + 1));
    } else if (heap->live_bytes > WORTH_MENTIONING && heap->live_bytes > heap->peak_bytes / 2) {
        snprintf(text, sizeof(text),
                 "%s of the peak was still live at exit: kept for good reason, or never freed.",
                 figure_share((double)heap->live_bytes / (double)(heap->peak_bytes + 1)).text);
    } else if (share_up_to(records, SMALL) >= 0.5) {
        snprintf(
            text, sizeof(text),
            "%s of all allocations are of %d bytes or less: here the time of each call counts, not "
            "the bytes.",
            figure_share(share_up_to(records, SMALL)).text, SMALL);
    } else if (median_size(records) > 0) {
        snprintf(
            text, sizeof(text),
            "Half of all allocations are of %s or less, and %s of all blocks were freed again.",
            figure_class(median_size(records)).text,
            figure_share((double)heap->frees / (double)heap->mallocs).text);
    } else {
        snprintf(text, sizeof(text), "%s of all blocks were freed again.",
                 figure_share((double)heap->frees / (double)heap->mallocs).text);
    }
    fprintf(term->out, "\n  %s%s\n", term_pick(term, "→ ", "> "), text);
}

/* ---- The whole ---- */

void summary_print(const struct term *term, const struct records *records,
                   const struct outcome *outcome, char **argv)
{
    const struct record *own = records_of(records, outcome->pid);
    const uint64_t peak_rss = own != NULL && own->peak_rss > 0
                                  ? own->peak_rss
                                  : (uint64_t)outcome->usage.ru_maxrss * 1024U;
    print_title(term, argv);
    print_outcome(term, outcome, peak_rss);
    if (records->count > 0) {
        print_heap(term, &records->total, outcome->wall_ns);
        print_classes(term, records);
        if (own != NULL) {
            print_threads(term, own);
        }
        print_processes(term, records);
        print_insight(term, records);
    }
    if (own == NULL) {
        fprintf(
            term->out, "\n  %sThe program itself left no statistics: %s.%s\n",
            term_style(term, TERM_WARN),
            WIFSIGNALED(outcome->wait_status)
                ? "a signal ended it before it could write them"
                : "it ended by _exit or exec, changed its root folder, or did not load Freehold",
            term_style(term, TERM_PLAIN));
    }
    if (records->damaged > 0) {
        fprintf(term->out, "  %zu damaged record%s left out.\n", records->damaged,
                records->damaged == 1 ? " was" : "s were");
    }
    fflush(term->out);
}
