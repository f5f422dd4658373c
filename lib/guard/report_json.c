/*
 * What a program reads of an error: the setting report=PATH, where each one is appended as a line
 * of JSON.
 *
 *     {"kind":"heap-buffer-overflow","access":"write","address":"0x…","size":1,"pc":"0x…",
 *      "pid":4711,"thread":4711,"block":{"address":"0x…","size":10,"state":"live","kind":"slot",
 *      "relation":"after","distance":0,…},"stack":[{"pc":"0x…","module":"/usr/bin/program",
 *      "offset":"0x1234","build_id":"…","function":"parse_line","function_offset":31}, …],
 *      "allocation":[…],"free":[…]}
 *
 * Addresses and offsets are strings, for JSON's numbers are doubles to many. A member that is not
 * known is left out. The line is put together whole and written at once to a file opened for
 * appending, so that the lines of several processes don't mix; one that is too long is made again
 * with fewer frames.
 */
#include "base/core/bits.h"
#include "base/json.h"
#include "base/message.h"
#include "guard/report.h"
#include "os/sys.h"
#include "stack/stack.h"

#include <errno.h>
#include <string.h>

enum {
    PATH_BYTES = 512,
    /* Three stacks of 48 frames with names of usual length. */
    LINE_BYTES = 96 << 10,
    FEW_FRAMES = 12,
};

static char path_pattern[PATH_BYTES];
static char line[LINE_BYTES]; /* under the report's lock */

int fh_report_to(const char *path)
{
    if (strlen(path) >= sizeof path_pattern)
        return -ENAMETOOLONG;
    strcpy(path_pattern, path);
    return 0;
}

/* %p in the name is the process id: asked now, for the process may have forked. */
static bool expand(char path[PATH_BYTES], const char *pattern)
{
    size_t len = 0;
    for (const char *c = pattern; *c != 0; c++) {
        if (len + 12 >= PATH_BYTES)
            return false;
        if (c[0] == '%' && c[1] == 'p') {
            len += fh_format(path + len, PATH_BYTES - len, "%d", fh_os_getpid());
            c++;
        } else {
            path[len++] = *c;
        }
    }
    path[len] = 0;
    return true;
}

static void put_hex(struct fh_json *json, const char *key, uint64_t value)
{
    char text[24];
    fh_format(text, sizeof text, "0x%llx", (unsigned long long)value);
    fh_json_string(json, key, text);
}

static void put_count(struct fh_json *json, const char *key, uint64_t value)
{
    if (value != 0)
        fh_json_number(json, key, value);
}

static void put_text(struct fh_json *json, const char *key, const char *text)
{
    if (text != NULL && *text != 0)
        fh_json_string(json, key, text);
}

static void put_frame(struct fh_json *json, uintptr_t frame)
{
    struct fh_stack_place place;
    char digits[FH_REPORT_DIGITS];
    fh_stack_locate(frame, &place);
    fh_json_open(json, NULL, '{');
    put_hex(json, "pc", place.address);
    if (place.module != NULL) {
        fh_report_digits(digits, place.build_id, place.build_id_len);
        fh_json_string(json, "module", place.module);
        put_hex(json, "offset", place.offset);
        put_text(json, "build_id", digits);
        put_text(json, "function", place.function);
        if (place.function[0] != 0)
            fh_json_number(json, "function_offset", place.function_offset);
    }
    fh_json_close(json, '}');
}

static void put_stack(struct fh_json *json, const char *key, const struct fh_report_stack *stack,
                      size_t most)
{
    if (stack->len == 0)
        return;
    fh_json_open(json, key, '[');
    for (size_t i = 0; i < fh_min(stack->len, most); i++)
        put_frame(json, stack->frames[i]);
    fh_json_close(json, ']');
}

static void put_block(struct fh_json *json, const struct fh_report *report)
{
    static const char *const states[] = {"never", "live", "freed"};
    static const char *const relations[] = {"inside", "before", "after"};
    const struct fh_guard_block *block = &report->block;
    fh_json_open(json, "block", '{');
    put_hex(json, "address", block->address);
    fh_json_number(json, "size", block->requested);
    fh_json_number(json, "usable", block->usable);
    put_count(json, "align", block->align);
    fh_json_string(json, "state", states[block->state]);
    put_text(json, "kind", block->kind);
    fh_json_string(json, "family", fh_report_family(block->family));
    fh_json_string(json, "relation", relations[report->relation]);
    fh_json_number(json, "distance", report->distance);
    put_count(json, "alloc_thread", (uint64_t)block->alloc_thread);
    put_count(json, "free_thread", (uint64_t)block->free_thread);
    fh_json_close(json, '}');
}

static void put_report(struct fh_json *json, const struct fh_report *report, size_t frames)
{
    static const char *const accesses[] = {NULL, "read", "write", "unknown"};
    const struct fh_error *error = report->error;
    fh_json_open(json, NULL, '{');
    fh_json_string(json, "kind", error->kind);
    put_text(json, "access", accesses[error->access]);
    put_hex(json, "address", error->address);
    put_count(json, "size", error->size);
    put_text(json, "call", error->function);
    put_text(json, "detail", error->detail);
    put_hex(json, "pc", report->pc);
    fh_json_number(json, "pid", (uint64_t)report->pid);
    fh_json_number(json, "thread", (uint64_t)report->tid);
    fh_json_number(json, "monotonic_ns", report->now_ns);
    if (report->has_block)
        put_block(json, report);
    if (error->damage_low < error->damage_high) {
        fh_json_open(json, "damage", '{');
        put_hex(json, "address", error->damage_low);
        fh_json_number(json, "size", error->damage_high - error->damage_low);
        put_count(json, "whole_until_ns", error->damaged_after_ns);
        fh_json_close(json, '}');
    }
    put_stack(json, "stack", &report->access, frames);
    put_stack(json, "allocation", &report->allocation, frames);
    put_stack(json, "free", &report->release, frames);
    put_stack(json, "origin", &report->origin, frames);
    fh_json_close(json, '}');
}

static bool make_line(struct fh_json *json, const struct fh_report *report, size_t frames)
{
    fh_json_begin(json, line, sizeof line - 1);
    put_report(json, report, frames);
    return !json->is_cut;
}

void fh_report_write_json(const struct fh_report *report)
{
    char path[PATH_BYTES];
    struct fh_json json;
    if (path_pattern[0] == 0)
        return;
    if (!make_line(&json, report, FH_REPORT_FRAMES) && !make_line(&json, report, FEW_FRAMES))
        return;
    line[json.len++] = '\n';
    int fd = expand(path, path_pattern) ? fh_os_open_append(path) : -ENAMETOOLONG;
    if (fd < 0) {
        fh_message("report=%s can't be opened (error %d); the error is not written there",
                   path_pattern, -fd);
        return;
    }
    fh_os_write(fd, line, json.len);
    fh_os_close(fd);
}
