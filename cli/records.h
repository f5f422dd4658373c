/*
 * What the processes of a run left behind: one JSON object a process (docs/stats-json.md), read and
 * added up.
 */
#ifndef FH_CLI_RECORDS_H
#define FH_CLI_RECORDS_H

#include "supervise.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct json_object;

/* A file for records, which exists from records_open to records_close. */
struct record_file {
    char directory[512];
    char path[640];
};

struct heap_figures {
    uint64_t mallocs;
    uint64_t frees;
    uint64_t remote_frees; /* by another thread than the one that allocated */
    uint64_t live_blocks;  /* at exit */
    uint64_t live_bytes;
    uint64_t peak_bytes; /* held of the system; in totals the largest process's */
    uint64_t mapped;     /* address space; in totals the largest process's */
    uint64_t committed;  /* held at exit; in totals the largest process's */
    uint64_t purged_bytes;
};

struct class_figures {
    uint64_t size; /* 0: large blocks, each of its own size */
    uint64_t mallocs;
    uint64_t frees;
    uint64_t live;
    uint64_t runs;
};

struct thread_figures {
    uint64_t tid;
    uint64_t mallocs;
    uint64_t frees;
    uint64_t remote;
};

struct record {
    struct json_object *json; /* owned; the strings below are inside */
    pid_t pid;
    const char *program;
    const char *exit;
    uint64_t wall_ns;
    uint64_t peak_rss;
    struct heap_figures heap;
    struct thread_figures *threads; /* owned */
    size_t thread_count;
};

struct records {
    struct record *items; /* in the order in which the processes ended */
    size_t count;
    size_t damaged; /* lines that were no record */
    struct heap_figures total;
    struct class_figures *classes; /* of all processes together, by size; large ones last */
    size_t class_count;
};

/* Makes an empty file where processes, whatever user they become, can append. 0 or an errno. */
int records_open(struct record_file *file);
void records_close(const struct record_file *file);

/* Reads all. 0 or an errno; *records is valid either way. */
int records_read(struct records *records, const char *path);
void records_free(struct records *records);

/* The record of the program itself, or NULL when it left none. */
const struct record *records_of(const struct records *records, pid_t pid);

/* Everything as one JSON object on the descriptor. 0 or an errno. */
int records_write_json(const struct records *records, const struct outcome *outcome, char **argv,
                       int fd);

#endif
