/*
 * The public writer: one process, one stream for all its threads, so that the order of the events is
 * the order in which they were given. A tick is a nanosecond.
 */
#include "trace_encode.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { THREADS_MAX = 1 << 20 };

/* A tick in units of 2^-32 ns. */
static const uint64_t nanosecond = (uint64_t)1 << 32;

struct fh_trace_writer {
    struct trace_file file;
    struct trace_tree tree;
    struct trace_stream stream;
    bool has_stream;
    uint64_t last_ns;
};

static void tell(struct fh_trace_problem *problem, const char *path, int error)
{
    if (problem == NULL)
        return;
    problem->error = error;
    problem->exit_status = error == -ENOMEM ? 4 : 2;
    snprintf(problem->text, sizeof(problem->text), "%s can't be written: %s", path,
             strerror(-error));
}

struct fh_trace_writer *fh_trace_create(const char *path, const char *command,
                                        struct fh_trace_problem *problem)
{
    struct fh_trace_writer *writer = calloc(1, sizeof(*writer));
    if (writer == NULL) {
        tell(problem, path, -ENOMEM);
        return NULL;
    }
    const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0) {
        tell(problem, path, -errno);
        free(writer);
        return NULL;
    }
    const struct trace_process_start start = {.pid = getpid(), .parent = -1, .program = command};
    trace_file_begin(&writer->file, fd, nanosecond, command);
    trace_file_process(&writer->file, &start);
    writer->has_stream = trace_stream_begin(&writer->stream, 0, 0) == 0;
    const int error = writer->has_stream ? writer->file.error : -ENOMEM;
    if (error != 0) {
        tell(problem, path, error);
        writer->file.error = error;
        fh_trace_finish(writer);
        return NULL;
    }
    return writer;
}

static int flush(struct fh_trace_writer *writer)
{
    const bool has_events = writer->stream.count != 0;
    trace_tree_flush(&writer->tree, &writer->file, 0);
    trace_stream_flush(&writer->stream, &writer->file);
    return has_events ? trace_file_mark(&writer->file, writer->last_ns) : writer->file.error;
}

static bool is_valid(const struct fh_trace_writer *writer, const struct fh_trace_event *event)
{
    return event->kind >= FH_TRACE_ALLOC && event->kind <= FH_TRACE_LOST &&
           event->thread < THREADS_MAX && event->time_ns >= writer->last_ns &&
           event->stack <= writer->tree.nodes.len / sizeof(struct trace_node);
}

int fh_trace_write(struct fh_trace_writer *writer, const struct fh_trace_event *event)
{
    if (writer->file.error != 0)
        return writer->file.error;
    if (!is_valid(writer, event))
        return -EINVAL;
    const struct trace_site site = {
        .stack = event->stack,
        .align = event->align,
        .thread = event->thread,
        .kind = event->kind,
        .flags = event->flags,
    };
    const uint32_t index = trace_stream_site(&writer->stream, &site);
    if (index == UINT32_MAX)
        return writer->file.error = -ENOMEM;
    writer->last_ns = event->time_ns;
    trace_stream_add(&writer->stream, index, event->time_ns, event->address, event->old_address,
                     event->size);
    return trace_stream_is_full(&writer->stream) ? flush(writer) : 0;
}

uint32_t fh_trace_write_stack(struct fh_trace_writer *writer, const uint64_t *frames, size_t count)
{
    return trace_tree_id(&writer->tree, frames, count);
}

int fh_trace_write_module(struct fh_trace_writer *writer, const struct fh_trace_module *module)
{
    const struct trace_module_record record = {
        .begin = module->begin,
        .end = module->end,
        .bias = module->bias,
        .from_tick = module->from_ns,
        .until_tick = module->until_ns,
        .path = module->path,
        .build_id = module->build_id,
        .build_id_size = module->build_id_size,
    };
    return trace_file_module(&writer->file, 0, &record);
}

int fh_trace_finish(struct fh_trace_writer *writer)
{
    if (writer->has_stream) {
        flush(writer);
        trace_file_process_end(&writer->file, 0, writer->last_ns, 0, 0);
        trace_file_end(&writer->file, nanosecond);
        trace_stream_free(&writer->stream);
    }
    trace_tree_free(&writer->tree);
    const int error = trace_file_close(&writer->file);
    free(writer);
    return error;
}
