/*
 * trace.h: what a program allocated, call by call: the one trace format of Freehold.
 *
 * `freehold record` writes these files; replay, advise and the profiles read them through this header, and
 * so may your own tools: link libfreehold-trace (it needs libzstd). The layout of the file is in
 * docs/trace-format.md. A file holds one or more processes (the program, and what it forked or
 * executed); events of one process come merged over its threads in the order in which they can have
 * happened: an address is freed before it is handed out again.
 *
 *     struct fh_trace_problem problem;
 *     struct fh_trace *trace = fh_trace_open("run.fht", &problem);
 *     if (trace == NULL) { fprintf(stderr, "%s\n", problem.text); exit(problem.exit_status); }
 *     struct fh_trace_event events[1024];
 *     for (long n; (n = fh_trace_read(trace, events, 1024)) > 0;) …
 *     fh_trace_close(trace);
 *
 * None of it is thread-safe on one struct fh_trace; two of the same file are independent.
 *
 * Not for counting in a running program (stats.h) nor for acting on what it does (event.h): a trace is
 * read when the program has ended, or as far as it was flushed.
 */
#ifndef FREEHOLD_TRACE_H
#define FREEHOLD_TRACE_H

#include "freehold/types.h"

FH_BEGIN_DECLS

enum fh_trace_kind {
    FH_TRACE_ALLOC = 1, /* malloc, calloc (FH_TRACE_ZEROED), aligned_alloc (align), new … */
    FH_TRACE_FREE,
    FH_TRACE_RESIZE,       /* realloc of old_address; address may be the same */
    FH_TRACE_THREAD_START, /* the thread's first event */
    FH_TRACE_THREAD_END,
    FH_TRACE_FORK, /* `size` is the child's index among the trace's processes, or UINT64_MAX */
    FH_TRACE_LOST, /* `size` events of this thread are missing here */
};

enum fh_trace_flag {
    FH_TRACE_ZEROED = 1 << 0,
    FH_TRACE_CPP = 1 << 1,       /* operator new or delete */
    FH_TRACE_CPP_ARRAY = 1 << 2, /* with CPP: new[] or delete[] */
    FH_TRACE_INHERITED =
        1 << 3, /* the block was allocated before recording began, or by the process
                                     * that this one was forked from */
};

struct fh_trace_event {
    uint64_t time_ns;     /* since the trace began */
    uint64_t address;     /* block; of a resize the new one */
    uint64_t old_address; /* of a resize; else 0 */
    uint64_t size;        /* bytes asked for; 0 for a free */
    uint32_t align;       /* asked for; 0: none in particular */
    uint32_t stack;       /* for fh_trace_frames; 0: not known */
    uint32_t thread;      /* 0 is the process's first one; counted in order of appearance */
    uint8_t kind;         /* enum fh_trace_kind */
    uint8_t flags;        /* of enum fh_trace_flag */
};

struct fh_trace_process {
    int pid;
    int parent;          /* index of the process that forked it; -1 for the first */
    bool has_ended;      /* else recording ended before it, or the file is cut */
    int wait_status;     /* as wait(2) gives it; only of the first process, else 0 */
    const char *program; /* path */
    uint64_t events;     /* of the kinds ALLOC, FREE, RESIZE in the file */
    uint64_t lost;       /* dropped while recording */
    uint32_t threads;
    uint64_t begin_ns, end_ns; /* since the trace began */
};

struct fh_trace_module {
    uint64_t begin, end;        /* addresses of its code and data */
    uint64_t bias;              /* address − this = address in the file's own terms */
    uint64_t from_ns, until_ns; /* when it was loaded and unloaded; until UINT64_MAX: never */
    const char *path;
    const uint8_t *build_id;
    size_t build_id_size;
};

struct fh_trace_info {
    unsigned version;    /* of the format */
    const char *command; /* the arguments, shell-quoted */
    uint64_t started_unix_ns;
    unsigned process_count;
    uint64_t events, lost; /* of all processes */
    bool is_whole;         /* it was closed in order; else it is readable up to its last flush */
};

/* Why a file can't be read, in a sentence that says what to do. */
struct fh_trace_problem {
    int error; /* negative errno: -ENOENT …, -EBADMSG damaged, -ENOTSUP newer version, -EINVAL no trace */
    int exit_status; /* what a tool should end with: 2 (usage: no such file), 3 (damaged or newer), 4 (memory) */
    char text[512];
};

struct fh_trace;

/* Opens, checks the header and the index (made by a scan where the file was cut). NULL: *problem says why;
 * problem may be NULL. A cut file opens: is_whole is false. */
FH_API struct fh_trace *fh_trace_open(const char *path, struct fh_trace_problem *problem);
FH_API void fh_trace_close(struct fh_trace *trace);
FH_API const struct fh_trace_info *fh_trace_info(const struct fh_trace *trace);
/* NULL beyond the last. */
FH_API const struct fh_trace_process *fh_trace_process(const struct fh_trace *trace,
                                                       unsigned index);

/* Reading begins at the first event of process `index` (0 when never called). 0 or -EINVAL. */
FH_API int fh_trace_begin(struct fh_trace *trace, unsigned index);
/* The next events, at most max; 0 at the end; -EBADMSG where the file is damaged (fh_trace_problem_of says
 * where): all events before it have been given. */
FH_API long fh_trace_read(struct fh_trace *trace, struct fh_trace_event *events, size_t max);
FH_API const struct fh_trace_problem *fh_trace_problem_of(const struct fh_trace *trace);

/* Frames of a stack of the current process, innermost first, as return addresses (subtract 1 to be inside the
 * call); returns how many there are, writes at most max. */
FH_API size_t fh_trace_frames(struct fh_trace *trace, uint32_t stack, uint64_t *frames, size_t max);
/* Stack ids of the current process are below this. */
FH_API uint32_t fh_trace_stack_limit(const struct fh_trace *trace);
/* Modules of the current process in order of loading; NULL beyond the last. */
FH_API const struct fh_trace_module *fh_trace_module(const struct fh_trace *trace, size_t index);

/* ---- Writing: modelled workloads, converters, tests. `freehold record` has its own, quicker way. */

struct fh_trace_writer;

/* One process, in one file. NULL: *problem says why. */
FH_API struct fh_trace_writer *fh_trace_create(const char *path, const char *command,
                                               struct fh_trace_problem *problem);
/* Times must not decrease. 0 or a negative errno (kept until close). */
FH_API int fh_trace_write(struct fh_trace_writer *writer, const struct fh_trace_event *event);
/* The id for a stack, the same for the same frames; 0 for none or without memory. */
FH_API uint32_t fh_trace_write_stack(struct fh_trace_writer *writer, const uint64_t *frames,
                                     size_t count);
FH_API int fh_trace_write_module(struct fh_trace_writer *writer,
                                 const struct fh_trace_module *module);
/* Ends the file; 0 or the first error. Without this call the file reads as cut. */
FH_API int fh_trace_finish(struct fh_trace_writer *writer);

FH_END_DECLS
#endif
