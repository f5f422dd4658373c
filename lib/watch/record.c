/*
 * The record of a process: its statistics as one line of JSON, appended to a file when it exits.
 *
 * When. A program ends by exit() (a destructor calls us then, after the program's own exit
 * handlers) or by _exit() (which preload/ defines for this). Whoever comes first writes; `pid` says
 * for which process that holds:
 *
 *   - a forked child tells us by fork's handler, and what its parent had counted until then is kept
 * in `before` and taken off: a call is counted in one process;
 *   - a child of vfork shares our memory and calls _exit when exec failed: there is no handler, the
 * process id is not `pid`, and nothing is written;
 *   - a program that executes another writes nothing: the new image has a record of its own.
 *
 * How. _exit may be called in a signal handler that interrupted an allocation, so locks are only
 * tried for a while (fh_stats_try), and nothing is allocated: the line is put together in pages of
 * its own, and written by one write to a descriptor opened for appending, so that lines of several
 * processes do not mix. If anything fails there is no record; the program ends as it would have.
 *
 * A thread's heap serves later threads when the thread has ended. Figures by thread are therefore
 * of those that are alive, and of all that have ended together (tid 0). A forked child has none:
 * they would be its parent's.
 */
#include "watch/record.h"

#include "base/core/bits.h"
#include "base/json.h"
#include "freehold/stats.h"
#include "os/sys.h"
#include "pages/pages.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>

enum {
    PATH_BYTES = 512,
    LINE_BYTES = 64 << 10,    /* 80 classes of 100 bytes and 500 threads of 70 fit */
    MOST_THREADS = 500,       /* the others would make the line too long for one write */
    LOCK_WAIT_NS = 100000000, /* far longer than any lock is held; short enough for an exit */
};

static struct {
    char path[PATH_BYTES];
    _Atomic int pid; /* whose record is still to be written; 0: nobody's */
    bool is_forked;
    uint64_t started_ns;
    struct fh_stats before; /* what was counted in the process that forked this one */
} record;

/* The stack may be a signal handler's, so what is large lies in pages of its own. */
struct scratch {
    struct fh_stats now;
    char status[4096];
    char command[4096];
    char line[LINE_BYTES];
};

/* ---- Figures of the process ---------------------------------------------------------------------
 */

/* The number after "\nname:" in /proc/self/status; 0 when it is not there. */
static uint64_t status_number(const char *status, const char *name)
{
    const size_t len = strlen(name);
    for (const char *line = status; line != NULL; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (strncmp(line, name, len) == 0 && line[len] == ':') {
            uint64_t number = 0;
            for (line += len + 1; *line == ' ' || *line == '\t';) {
                line++;
            }
            for (; *line >= '0' && *line <= '9'; line++) {
                number = number * 10 + (uint64_t)(*line - '0');
            }
            return number;
        }
    }
    return 0;
}

static void write_process(struct fh_json *json, struct scratch *scratch, const char *exit)
{
    static const size_t kib = 1024;
    const char *status = scratch->status;
    uint64_t user_ns;
    uint64_t system_ns;
    fh_os_read_file("/proc/self/status", scratch->status, sizeof(scratch->status));
    /* Arguments end with a zero byte, so this is the first of them: the program's name as it was
     * called. */
    fh_os_read_file("/proc/self/cmdline", scratch->command, sizeof(scratch->command));
    fh_os_cpu_split_ns(&user_ns, &system_ns);
    fh_json_number(json, "freehold", 1);
    fh_json_number(json, "pid", (uint64_t)fh_os_getpid());
    fh_json_number(json, "ppid", status_number(status, "PPid"));
    fh_json_string(json, "prog", scratch->command);
    fh_json_string(json, "exit", exit);
    fh_json_number(json, "wall_ns", fh_os_now_ns() - record.started_ns);
    fh_json_number(json, "cpu_user_ns", user_ns);
    fh_json_number(json, "cpu_sys_ns", system_ns);
    fh_json_number(json, "peak_rss", status_number(status, "VmHWM") * kib);
}

/* ---- Figures of the heap ------------------------------------------------------------------------
 */

/* What has been counted since; figures of other threads lag, so a difference may be below zero. */
static uint64_t since(uint64_t now, uint64_t before)
{
    return now > before ? now - before : 0;
}

static void write_heap(struct fh_json *json, const struct fh_stats *now,
                       const struct fh_stats *before)
{
    fh_json_open(json, "heap", '{');
    fh_json_number(json, "mallocs", since(now->allocs, before->allocs));
    fh_json_number(json, "frees", since(now->frees, before->frees));
    fh_json_number(json, "remote_frees", since(now->remote_frees, before->remote_frees));
    fh_json_number(json, "live_blocks", since(now->live_blocks, before->live_blocks));
    fh_json_number(json, "live_bytes", since(now->live_bytes, before->live_bytes));
    fh_json_number(json, "peak_bytes", now->peak_footprint);
    fh_json_number(json, "mapped", now->reserved);
    fh_json_number(json, "committed", now->footprint);
    fh_json_number(json, "purged_bytes", since(now->purged_bytes, before->purged_bytes));
    fh_json_number(json, "threads", now->threads);
    fh_json_close(json, '}');
}

static void write_classes(struct fh_json *json, const struct fh_stats *now,
                          const struct fh_stats *before)
{
    fh_json_open(json, "classes", '[');
    for (unsigned i = 0; i < now->class_count; i++) {
        const struct fh_stats_class *class = &now->classes[i];
        const struct fh_stats_class *old = &before->classes[i];
        const uint64_t allocs = since(class->allocs, old->allocs);
        const uint64_t frees = since(class->frees, old->frees);
        if (class->allocs == 0) {
            continue;
        }
        fh_json_open(json, NULL, '{');
        fh_json_number(json, "size", class->block_size);
        fh_json_number(json, "mallocs", allocs);
        fh_json_number(json, "frees", frees);
        fh_json_number(json, "live", since(allocs, frees));
        fh_json_number(json, "runs", class->runs);
        fh_json_close(json, '}');
    }
    fh_json_close(json, ']');
}

struct threads {
    struct fh_json *json;
    unsigned count;
    struct fh_stats_thread ended; /* all of them together */
};

static void write_thread(struct fh_json *json, const struct fh_stats_thread *thread)
{
    fh_json_open(json, NULL, '{');
    fh_json_number(json, "tid", (uint64_t)thread->tid);
    fh_json_number(json, "mallocs", thread->allocs);
    fh_json_number(json, "frees", thread->frees);
    fh_json_number(json, "remote", thread->remote_frees);
    fh_json_close(json, '}');
}

static int visit_thread(void *context, const struct fh_stats_thread *thread)
{
    struct threads *threads = context;
    if (thread->is_alive && threads->count < MOST_THREADS) {
        threads->count++;
        write_thread(threads->json, thread);
    } else {
        threads->ended.allocs += thread->allocs;
        threads->ended.frees += thread->frees;
        threads->ended.remote_frees += thread->remote_frees;
    }
    return 0;
}

static void write_threads(struct fh_json *json)
{
    struct threads threads = {.json = json};
    fh_json_open(json, "threads", '[');
    if (!record.is_forked) {
        fh_stats_threads(visit_thread, &threads);
        if (threads.ended.allocs != 0) {
            write_thread(json, &threads.ended);
        }
    }
    fh_json_close(json, ']');
}

/* ---- The record ---------------------------------------------------------------------------------
 */

/* Puts the line together and writes it; 0 or a negative errno. */
static int write_line(int fd, struct scratch *scratch, const char *exit)
{
    struct fh_stats *now = &scratch->now;
    struct fh_json json;
    now->size = sizeof(*now);
    int error = fh_stats_try(now, LOCK_WAIT_NS);
    if (error != 0) {
        return error;
    }
    fh_json_begin(&json, scratch->line, sizeof(scratch->line));
    fh_json_open(&json, NULL, '{');
    write_process(&json, scratch, exit);
    write_heap(&json, now, &record.before);
    write_classes(&json, now, &record.before);
    write_threads(&json);
    fh_json_close(&json, '}');
    if (json.is_cut) {
        return -ENOSPC;
    }
    scratch->line[json.len] = '\n'; /* in the place that the writer keeps for a terminator */
    int64_t written = fh_os_write(fd, scratch->line, json.len + 1);
    return written < 0 ? (int)written : 0;
}

static int write_record(int fd, const char *exit)
{
    size_t size = fh_align_up(sizeof(struct scratch), fh_os_page_size);
    struct scratch *scratch = fh_meta_map(size);
    if (scratch == NULL) {
        return -ENOMEM;
    }
    int error = write_line(fd, scratch, exit);
    fh_meta_unmap(scratch, size);
    return error;
}

int fh_stats_json(int fd)
{
    return write_record(fd, "running");
}

bool fh_record_start(void)
{
    if (fh_ctl_get("stats", record.path, sizeof(record.path)) <= 0) {
        return false;
    }
    record.started_ns = fh_os_now_ns();
    atomic_store_explicit(&record.pid, fh_os_getpid(), memory_order_relaxed);
    return true;
}

void fh_record_forked(void)
{
    atomic_store_explicit(&record.pid, fh_os_getpid(), memory_order_relaxed);
    record.is_forked = true;
    record.started_ns = fh_os_now_ns();
    record.before.size = sizeof(record.before);
    fh_stats(&record.before);
}

void fh_record_write(const char *exit)
{
    /* Nothing to write, and no system call to find that out: a filter may allow none. */
    if (atomic_load_explicit(&record.pid, memory_order_relaxed) == 0)
        return;
    int own = fh_os_getpid();
    /* Only one thread of this very process finds its id there; no memory is published with it. */
    if (!atomic_compare_exchange_strong_explicit(&record.pid, &own, 0, memory_order_relaxed,
                                                 memory_order_relaxed)) {
        return;
    }
    int fd = fh_os_open_append(record.path);
    if (fd >= 0) {
        write_record(fd, exit);
        fh_os_close(fd);
    }
}

void fh_record_exit(int status)
{
    fh_record_write("_exit");
    fh_os_exit(status);
}
