/*
 * The statistics as a table for people, where no command stands by: malloc_stats() and
 * fh_stats_print().
 *
 * Written line by line without allocation, since whoever asks may be looking for the reason why
 * there is no memory. `freehold run --stats` tells more, and with bars.
 */
#include "base/message.h"
#include "freehold/stats.h"
#include "os/sys.h"

enum { LINE_BYTES = 160, KIB = 1024 };

/* 0, or the first error. */
struct table {
    int fd;
    int error;
};

static void write_line(struct table *table, const char *line, size_t len)
{
    int64_t written = table->error == 0 ? fh_os_write(table->fd, line, len) : 0;
    if (written < 0) {
        table->error = (int)written;
    }
}

static void write_totals(struct table *table, const struct fh_stats *stats)
{
    char line[LINE_BYTES];
    write_line(table, line,
               fh_format(line, sizeof(line),
                         "freehold: %llu allocations, %llu frees (%llu of them remote)\n",
                         (unsigned long long)stats->allocs, (unsigned long long)stats->frees,
                         (unsigned long long)stats->remote_frees));
    write_line(table, line,
               fh_format(line, sizeof(line), "freehold: %zu blocks live, %zu KiB\n",
                         stats->live_blocks, stats->live_bytes / KIB));
    write_line(
        table, line,
        fh_format(line, sizeof(line),
                  "freehold: %zu KiB held of the system, %zu at the peak, %llu given back so far\n",
                  stats->footprint / KIB, stats->peak_footprint / KIB,
                  (unsigned long long)stats->purged_bytes / KIB));
}

static void write_class(struct table *table, const struct fh_stats_class *class)
{
    char line[LINE_BYTES];
    char size[24] = "large";
    if (class->block_size != 0) {
        fh_format(size, sizeof(size), "%zu", class->block_size);
    }
    write_line(table, line,
               fh_format(line, sizeof(line), "%10s %14llu %14llu %14llu %8zu\n", size,
                         (unsigned long long)class->allocs, (unsigned long long)class->frees,
                         (unsigned long long)(class->allocs - class->frees), class->runs));
}

int fh_stats_print(int fd)
{
    static const char heading[] =
        "      size    allocations          frees           live     runs\n";
    struct table table = {.fd = fd};
    struct fh_stats stats = {.size = sizeof(stats)};
    int error = fh_stats(&stats);
    if (error != 0) {
        return error;
    }
    write_totals(&table, &stats);
    write_line(&table, heading, sizeof(heading) - 1);
    for (unsigned i = 0; i < stats.class_count; i++) {
        if (stats.classes[i].allocs != 0) {
            write_class(&table, &stats.classes[i]);
        }
    }
    return table.error;
}
