/*
 * The records of a run.
 *
 * Each process that has Freehold in it appends one line to a file when it exits: a JSON object, in
 * one write to a descriptor opened for appending, so lines of processes that end together do not
 * mix. The file is named in the environment, because that is what survives everything a program may
 * do between its start and its end: closing all descriptors, forking, executing, changing folders.
 * What it does not survive is chroot; then there is no record, and the summary says so.
 *
 * The file lies in a folder made for this run in TMPDIR. The folder vanishes when the run ends, so
 * a process that outlives the program (a daemon) finds nothing to append to, and leaves nothing
 * behind. Started by root, a program may become another user before it ends: then anybody may
 * append (the folder can't be listed, and the file's name can't be guessed); otherwise only its
 * owner.
 *
 * What is read is not trusted: a line that is no record is counted and left out, a missing figure
 * is 0.
 */
#include "records.h"

#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { RECORD_FORMAT = 1 };

int records_open(struct record_file *file)
{
    const char *directory = getenv("TMPDIR");
    /* A comma would end the setting that names the file. */
    if (directory == NULL || directory[0] != '/' || strchr(directory, ',') != NULL ||
        access(directory, W_OK | X_OK) != 0) {
        directory = "/tmp";
    }
    if (snprintf(file->directory, sizeof(file->directory), "%s/freehold-XXXXXX", directory) >=
        (int)sizeof(file->directory)) {
        return ENAMETOOLONG;
    }
    if (mkdtemp(file->directory) == NULL) {
        return errno;
    }
    snprintf(file->path, sizeof(file->path), "%s/records-XXXXXX", file->directory);
    const int fd = mkostemp(file->path, O_CLOEXEC);
    if (fd < 0) {
        const int error = errno;
        rmdir(file->directory);
        return error;
    }
    int error = 0;
    if (geteuid() == 0 && (chmod(file->directory, 0711) != 0 || fchmod(fd, 0622) != 0)) {
        error = errno;
        records_close(file);
    }
    close(fd);
    return error;
}

void records_close(const struct record_file *file)
{
    unlink(file->path);
    rmdir(file->directory);
}

/* ---- Reading ---- */

static uint64_t figure_of(struct json_object *object, const char *key)
{
    struct json_object *value;
    return json_object_object_get_ex(object, key, &value) ? json_object_get_uint64(value) : 0;
}

static const char *text_of(struct json_object *object, const char *key)
{
    struct json_object *value;
    if (!json_object_object_get_ex(object, key, &value) ||
        !json_object_is_type(value, json_type_string)) {
        return "";
    }
    return json_object_get_string(value);
}

/* The array under the key, or NULL. */
static struct json_object *array_of(struct json_object *object, const char *key)
{
    struct json_object *value;
    if (!json_object_object_get_ex(object, key, &value) ||
        !json_object_is_type(value, json_type_array)) {
        return NULL;
    }
    return value;
}

static void read_heap(struct heap_figures *heap, struct json_object *record)
{
    struct json_object *object = NULL;
    if (!json_object_object_get_ex(record, "heap", &object)) {
        return;
    }
    heap->mallocs = figure_of(object, "mallocs");
    heap->frees = figure_of(object, "frees");
    heap->remote_frees = figure_of(object, "remote_frees");
    heap->live_blocks = figure_of(object, "live_blocks");
    heap->live_bytes = figure_of(object, "live_bytes");
    heap->peak_bytes = figure_of(object, "peak_bytes");
    heap->mapped = figure_of(object, "mapped");
    heap->committed = figure_of(object, "committed");
    heap->purged_bytes = figure_of(object, "purged_bytes");
}

static uint64_t larger(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

static void add_heap(struct heap_figures *total, const struct heap_figures *heap)
{
    total->mallocs += heap->mallocs;
    total->frees += heap->frees;
    total->remote_frees += heap->remote_frees;
    total->live_blocks += heap->live_blocks;
    total->live_bytes += heap->live_bytes;
    total->purged_bytes += heap->purged_bytes;
    total->peak_bytes = larger(total->peak_bytes, heap->peak_bytes);
    total->mapped = larger(total->mapped, heap->mapped);
    total->committed = larger(total->committed, heap->committed);
}

/* The total of the class of that size, made when it is not there yet; NULL without memory. */
static struct class_figures *class_total(struct records *records, uint64_t size)
{
    for (size_t i = 0; i < records->class_count; i++) {
        if (records->classes[i].size == size) {
            return &records->classes[i];
        }
    }
    struct class_figures *classes =
        reallocarray(records->classes, records->class_count + 1, sizeof(*classes));
    if (classes == NULL) {
        return NULL;
    }
    records->classes = classes;
    classes[records->class_count] = (struct class_figures){.size = size};
    return &classes[records->class_count++];
}

static int add_classes(struct records *records, struct json_object *json)
{
    struct json_object *classes = array_of(json, "classes");
    const size_t count = classes != NULL ? json_object_array_length(classes) : 0;
    for (size_t i = 0; i < count; i++) {
        struct json_object *object = json_object_array_get_idx(classes, i);
        if (!json_object_is_type(object, json_type_object)) {
            continue;
        }
        struct class_figures *total = class_total(records, figure_of(object, "size"));
        if (total == NULL) {
            return ENOMEM;
        }
        total->mallocs += figure_of(object, "mallocs");
        total->frees += figure_of(object, "frees");
        total->live += figure_of(object, "live");
        total->runs += figure_of(object, "runs");
    }
    return 0;
}

static int read_threads(struct record *record)
{
    struct json_object *threads = array_of(record->json, "threads");
    const size_t count = threads != NULL ? json_object_array_length(threads) : 0;
    if (count == 0) {
        return 0;
    }
    record->threads = calloc(count, sizeof(*record->threads));
    if (record->threads == NULL) {
        return ENOMEM;
    }
    for (size_t i = 0; i < count; i++) {
        struct json_object *object = json_object_array_get_idx(threads, i);
        if (json_object_is_type(object, json_type_object)) {
            record->threads[record->thread_count++] = (struct thread_figures){
                .tid = figure_of(object, "tid"),
                .mallocs = figure_of(object, "mallocs"),
                .frees = figure_of(object, "frees"),
                .remote = figure_of(object, "remote"),
            };
        }
    }
    return 0;
}

/* Takes json over. */
static int add_record(struct records *records, struct json_object *json)
{
    struct record *items = reallocarray(records->items, records->count + 1, sizeof(*items));
    if (items == NULL) {
        json_object_put(json);
        return ENOMEM;
    }
    records->items = items;
    struct record *record = &items[records->count++];
    *record = (struct record){
        .json = json,
        .pid = (pid_t)figure_of(json, "pid"),
        .program = text_of(json, "prog"),
        .exit = text_of(json, "exit"),
        .wall_ns = figure_of(json, "wall_ns"),
        .peak_rss = figure_of(json, "peak_rss"),
    };
    read_heap(&record->heap, json);
    add_heap(&records->total, &record->heap);
    const int error = read_threads(record);
    return error != 0 ? error : add_classes(records, json);
}

static int compare_classes(const void *left, const void *right)
{
    /* Large blocks have size 0 and come last: 0 - 1 is the largest number. */
    const uint64_t a = ((const struct class_figures *)left)->size - 1;
    const uint64_t b = ((const struct class_figures *)right)->size - 1;
    return (a > b) - (a < b);
}

int records_read(struct records *records, const char *path)
{
    memset(records, 0, sizeof(*records));
    FILE *file = fopen(path, "re");
    if (file == NULL) {
        return errno;
    }
    char *line = NULL;
    size_t capacity = 0;
    int error = 0;
    while (error == 0 && getline(&line, &capacity, file) >= 0) {
        struct json_object *json = json_tokener_parse(line);
        if (json_object_is_type(json, json_type_object) &&
            figure_of(json, "freehold") == RECORD_FORMAT) {
            error = add_record(records, json);
        } else {
            json_object_put(json);
            records->damaged++;
        }
    }
    if (error == 0 && ferror(file)) {
        error = EIO;
    }
    free(line);
    fclose(file);
    if (records->class_count > 1) {
        qsort(records->classes, records->class_count, sizeof(*records->classes), compare_classes);
    }
    return error;
}

void records_free(struct records *records)
{
    for (size_t i = 0; i < records->count; i++) {
        free(records->items[i].threads);
        json_object_put(records->items[i].json);
    }
    free(records->items);
    free(records->classes);
    memset(records, 0, sizeof(*records));
}

const struct record *records_of(const struct records *records, pid_t pid)
{
    /* The last one: a process that executed another program wrote no record before. */
    for (size_t i = records->count; i > 0; i--) {
        if (records->items[i - 1].pid == pid) {
            return &records->items[i - 1];
        }
    }
    return NULL;
}

/* ---- Writing ---- */

static void put(struct json_object *object, const char *key, uint64_t figure)
{
    json_object_object_add(object, key, json_object_new_uint64(figure));
}

static struct json_object *heap_as_json(const struct heap_figures *heap)
{
    struct json_object *object = json_object_new_object();
    put(object, "mallocs", heap->mallocs);
    put(object, "frees", heap->frees);
    put(object, "remote_frees", heap->remote_frees);
    put(object, "live_blocks", heap->live_blocks);
    put(object, "live_bytes", heap->live_bytes);
    put(object, "peak_bytes", heap->peak_bytes);
    put(object, "mapped", heap->mapped);
    put(object, "committed", heap->committed);
    put(object, "purged_bytes", heap->purged_bytes);
    return object;
}

static struct json_object *classes_as_json(const struct records *records)
{
    struct json_object *array = json_object_new_array();
    for (size_t i = 0; i < records->class_count; i++) {
        const struct class_figures *figures = &records->classes[i];
        struct json_object *object = json_object_new_object();
        put(object, "size", figures->size);
        put(object, "mallocs", figures->mallocs);
        put(object, "frees", figures->frees);
        put(object, "live", figures->live);
        put(object, "runs", figures->runs);
        json_object_array_add(array, object);
    }
    return array;
}

static uint64_t ns_of(struct timeval time)
{
    return (uint64_t)time.tv_sec * 1000000000U + (uint64_t)time.tv_usec * 1000U;
}

static struct json_object *outcome_as_json(const struct outcome *outcome)
{
    struct json_object *object = json_object_new_object();
    put(object, "pid", (uint64_t)outcome->pid);
    if (WIFSIGNALED(outcome->wait_status)) {
        put(object, "signal", (uint64_t)WTERMSIG(outcome->wait_status));
    } else {
        put(object, "status", (uint64_t)WEXITSTATUS(outcome->wait_status));
    }
    put(object, "wall_ns", outcome->wall_ns);
    put(object, "cpu_user_ns", ns_of(outcome->usage.ru_utime));
    put(object, "cpu_sys_ns", ns_of(outcome->usage.ru_stime));
    put(object, "peak_rss", (uint64_t)outcome->usage.ru_maxrss * 1024U);
    return object;
}

static int write_all(int fd, const char *text, size_t len)
{
    while (len > 0) {
        const ssize_t written = write(fd, text, len);
        if (written < 0 && errno != EINTR) {
            return errno;
        }
        if (written > 0) {
            text += written;
            len -= (size_t)written;
        }
    }
    return 0;
}

int records_write_json(const struct records *records, const struct outcome *outcome, char **argv,
                       int fd)
{
    struct json_object *all = json_object_new_object();
    put(all, "freehold", RECORD_FORMAT);
    json_object_object_add(all, "version", json_object_new_string(FREEHOLD_VERSION));
    struct json_object *command = json_object_new_array();
    for (; *argv != NULL; argv++) {
        json_object_array_add(command, json_object_new_string(*argv));
    }
    json_object_object_add(all, "command", command);
    json_object_object_add(all, "outcome", outcome_as_json(outcome));
    json_object_object_add(all, "heap", heap_as_json(&records->total));
    json_object_object_add(all, "classes", classes_as_json(records));
    struct json_object *processes = json_object_new_array();
    for (size_t i = 0; i < records->count; i++) {
        json_object_array_add(processes, json_object_get(records->items[i].json));
    }
    json_object_object_add(all, "processes", processes);

    size_t len;
    const char *text = json_object_to_json_string_length(
        all, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_NOSLASHESCAPE, &len);
    int error = text == NULL ? ENOMEM : write_all(fd, text, len);
    if (error == 0) {
        error = write_all(fd, "\n", 1);
    }
    json_object_put(all);
    return error;
}
