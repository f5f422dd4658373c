/*
 * What a person reads of an error.
 *
 *     freehold: ERROR: heap-buffer-overflow on address 0x… at pc 0x… bp 0x… sp 0x…
 *     WRITE of size 1 at 0x… thread 4711
 *         #0 0x55… in parse_line+0x1f (/usr/bin/program+0x1234)
 *     0x… is located 0 bytes after 10-byte block [0x…,0x…)
 *     allocated by thread 4711 here:
 *         #0 …
 *     freed by thread 4712 here:
 *         #0 …
 *     module /usr/bin/program build-id 0123abcd…
 *     SUMMARY: freehold: heap-buffer-overflow (/usr/bin/program+0x1234) in parse_line
 *
 * Each line is one write: what was told before the process fell over is there. A frame's line is
 * made for programs too (freehold symbolize): four blanks, "#N 0xADDRESS in NAME+0xOFFSET
 * (MODULE+0xOFFSET)", where the addresses lie in the call, and "??" is what is not known; "module"
 * lines name the build of each module in the stacks.
 */
#include "base/core/bits.h"
#include "base/message.h"
#include "guard/report.h"
#include "heap/heap.h"
#include "stack/stack.h"

#include <string.h>

enum {
    ROW = 16,           /* bytes in a line of a dump */
    ROWS_MOST = 8,      /* longer damage is cut: its beginning says what wrote it */
    EXPECTED_MOST = 64, /* bytes of fh_error.expected */
    MODULES_MOST = 24,
    LINE_BYTES = 896, /* of a frame: two paths' worth; a message has 1,023 */
};

const char *fh_report_family(unsigned how)
{
    switch (how & FH_HOW_FAMILY) {
    case FH_HOW_NEW:
        return "operator new";
    case FH_HOW_ARRAY:
        return "operator new[]";
    default:
        return "malloc";
    }
}

void fh_report_digits(char digits[FH_REPORT_DIGITS], const uint8_t *id, size_t len)
{
    size_t bytes = fh_min(len, (FH_REPORT_DIGITS - 1) / 2);
    digits[0] = 0;
    for (size_t i = 0; i < bytes; i++)
        fh_format(digits + 2 * i, 3, "%02x", id[i]);
}

static bool is_kind(const struct fh_report *report, const char *kind)
{
    return strcmp(report->error->kind, kind) == 0;
}

/* ---- Head ------------------------------------------------------------------------------------ */

static void write_head(const struct fh_report *report)
{
    const struct fh_error *error = report->error;
    char pair[96] = "";
    if (is_kind(report, "alloc-dealloc-mismatch") && report->has_block && error->function != NULL)
        fh_format(pair, sizeof pair, " (%s vs %s)", fh_report_family(report->block.family),
                  error->function);
    fh_message("ERROR: %s%s on address %p at pc %p bp %p sp %p", error->kind, pair,
               (const void *)error->address, (const void *)report->pc, (const void *)report->fp,
               (const void *)report->sp);
}

static const char *name_of(enum fh_access access)
{
    return access == FH_ACCESS_READ ? "READ" : access == FH_ACCESS_WRITE ? "WRITE" : "ACCESS";
}

static void write_access(const struct fh_report *report)
{
    const struct fh_error *error = report->error;
    char size[48] = "";
    if (error->size != 0)
        fh_format(size, sizeof size, " of size %zu", error->size);
    fh_message_raw("%s%s at %p thread %d%s%s\n", name_of(error->access), size,
                   (const void *)error->address, report->tid, error->function != NULL ? " by " : "",
                   error->function != NULL ? error->function : "");
    if (error->detail != NULL)
        fh_message_raw("%s\n", error->detail);
}

/* What was called, where it was no access. */
static void write_call(const struct fh_report *report)
{
    const struct fh_error *error = report->error;
    const char *detail = error->detail != NULL ? error->detail : error->kind;
    if (error->function != NULL)
        fh_message_raw("%s of %p thread %d: %s\n", error->function, (const void *)error->address,
                       report->tid, detail);
    else
        fh_message_raw("thread %d: %s\n", report->tid, detail);
    if (is_kind(report, "size-mismatch") && report->has_block && error->size != 0)
        fh_message_raw("the size said is %zu, the block's %zu\n", error->size,
                       report->block.requested);
}

/* ---- Stacks ---------------------------------------------------------------------------------- */

static void write_stack(const struct fh_report_stack *stack)
{
    char line[LINE_BYTES];
    for (size_t i = 0; i < stack->len; i++) {
        fh_stack_describe(line, sizeof line, i, stack->frames[i]);
        fh_message_raw("    %s\n", line);
    }
    if (stack->len == FH_REPORT_FRAMES)
        fh_message_raw("    (further frames are left out)\n");
    if (stack->len == 0)
        fh_message_raw("    (no stack is known)\n");
}

static void write_event(const char *what, int thread, const struct fh_report_stack *stack)
{
    if (thread != 0)
        fh_message_raw("%s by thread %d here:\n", what, thread);
    else
        fh_message_raw("%s here:\n", what);
    write_stack(stack);
}

/* ---- The block ------------------------------------------------------------------------------- */

/* Whose heap a block of the plain heap is in. */
static void write_heap(const struct fh_report *report)
{
    const struct fh_run *run = fh_pages_find((const void *)report->block.address, NULL);
    const struct fh_heap *heap = run != NULL && run->manager != NULL ? run->heap : NULL;
    if (heap == NULL)
        return;
    if (heap->name[0] != 0)
        fh_message_raw("in heap \"%s\"\n", heap->name);
    else if (heap->modes & FH_HEAP_FIRST_CLASS)
        fh_message_raw("in heap %p\n", (const void *)heap);
    else
        fh_message_raw("in the heap of thread %d%s\n", heap->tid,
                       atomic_load_explicit(&heap->thread, memory_order_relaxed) != 0
                           ? ""
                           : ", which has ended");
}

static void write_block(const struct fh_report *report)
{
    static const char *const relations[] = {"inside of", "before", "after"};
    const struct fh_guard_block *block = &report->block;
    uintptr_t end = report->error->address + report->error->size, high;
    high = block->address + block->requested;
    fh_message_raw("%p is located %zu bytes %s %zu-byte block [%p,%p)\n",
                   (const void *)report->error->address, report->distance,
                   relations[report->relation], block->requested, (const void *)block->address,
                   (const void *)high);
    if (report->error->access != FH_ACCESS_NONE && report->relation == FH_INSIDE &&
        block->state == FH_BLOCK_LIVE && end > high)
        fh_message_raw("the access ends %zu bytes after it\n", (size_t)(end - high));
    write_heap(report);
    if (report->allocation.len != 0 || block->alloc_thread != 0)
        write_event("allocated", block->alloc_thread, &report->allocation);
    if (report->release.len != 0 || block->free_thread != 0)
        write_event("freed", block->free_thread, &report->release);
}

/* ---- Damage found later ---------------------------------------------------------------------- */

static uint64_t since(uint64_t from, uint64_t to)
{
    return to > from ? to - from : 0;
}

static void format_seconds(char text[32], uint64_t ns)
{
    fh_format(text, 32, "%llu.%06llu s", (unsigned long long)(ns / 1000000000),
              (unsigned long long)(ns / 1000 % 1000000));
}

/* Between when and when it happened, counted from the block's last known event. */
static void write_period(const struct fh_report *report)
{
    const struct fh_error *error = report->error;
    const struct fh_guard_block *block = &report->block;
    bool is_freed = block->state == FH_BLOCK_FREED;
    uint64_t event = is_freed ? block->free_ns : block->alloc_ns;
    const char *name = is_freed ? "free" : "allocation";
    char from[32], to[32];
    format_seconds(to, since(event, report->now_ns));
    if (event != 0 && error->damaged_after_ns != 0) {
        format_seconds(from, since(event, error->damaged_after_ns));
        fh_message_raw("corrupted between %s and %s after its %s\n", from, to, name);
    } else if (event != 0) {
        fh_message_raw("corrupted between its %s and now, %s later\n", name, to);
    } else if (error->damaged_after_ns != 0) {
        format_seconds(to, since(error->damaged_after_ns, report->now_ns));
        fh_message_raw("corrupted between %s ago, when it was whole, and now\n", to);
    } else {
        fh_message_raw("corrupted between its %s and now\n", name);
    }
}

struct text {
    size_t len;
    char bytes[128];
};

/* A byte of a dump, with brackets around what is damaged. */
static void add_byte(struct text *text, uint8_t byte, bool begins, bool ends)
{
    text->len += fh_format(text->bytes + text->len, sizeof text->bytes - text->len, "%s%02x%s",
                           begins                                                ? "["
                           : text->len != 0 && text->bytes[text->len - 1] == ']' ? ""
                                                                                 : " ",
                           byte, ends ? "]" : "");
}

static void add_blank(struct text *text)
{
    text->len += fh_format(text->bytes + text->len, sizeof text->bytes - text->len, "   ");
}

/* Not for the sanitizers' eyes: a freed block is read on purpose. */
__attribute__((no_sanitize("address"))) static uint8_t byte_at(uintptr_t address)
{
    return *(const volatile uint8_t *)address;
}

static void write_row(const struct fh_error *error, uintptr_t row)
{
    struct text is = {0}, should = {0};
    uintptr_t first = fh_max(error->damage_low, row);
    uintptr_t last = fh_min(error->damage_high, row + ROW) - 1;
    for (uintptr_t at = row; at < row + ROW; at++) {
        add_byte(&is, byte_at(at), at == first, at == last);
        if (error->expected == NULL || at < first || at > last ||
            at - error->damage_low >= EXPECTED_MOST)
            add_blank(&should);
        else
            add_byte(&should, error->expected[at - error->damage_low], false, false);
    }
    fh_message_raw("    %p:%s\n", (const void *)row, is.bytes);
    if (error->expected != NULL && first - error->damage_low < EXPECTED_MOST)
        fh_message_raw("    %-14s:%s\n", "was", should.bytes);
}

static void write_damage(const struct fh_report *report)
{
    const struct fh_error *error = report->error;
    uintptr_t row = fh_align_down(error->damage_low, ROW);
    write_period(report);
    fh_message_raw("damaged: %zu bytes at %p\n", (size_t)(error->damage_high - error->damage_low),
                   (const void *)error->damage_low);
    for (unsigned i = 0; i < ROWS_MOST && row < error->damage_high; i++, row += ROW)
        write_row(error, row);
    if (row < error->damage_high)
        fh_message_raw("    …\n");
}

/* ---- Foot ------------------------------------------------------------------------------------ */

struct modules {
    size_t len;
    const char *paths[MODULES_MOST];
};

static void write_modules(struct modules *told, const struct fh_report_stack *stack)
{
    struct fh_stack_place place;
    char digits[FH_REPORT_DIGITS];
    for (size_t i = 0; i < stack->len; i++) {
        const char *path = fh_stack_module(stack->frames[i]);
        size_t known = 0;
        while (known < told->len && told->paths[known] != path)
            known++;
        if (path == NULL || known < told->len || told->len == MODULES_MOST)
            continue;
        told->paths[told->len++] = path;
        fh_stack_locate(stack->frames[i], &place);
        fh_report_digits(digits, place.build_id, place.build_id_len);
        if (place.build_id_len != 0)
            fh_message_raw("module %s build-id %s\n", path, digits);
    }
}

/* The C library's functions are where errors of their callers show. */
static bool is_c_library(const char *module)
{
    const char *slash = strrchr(module, '/');
    const char *name = slash != NULL ? slash + 1 : module;
    return strncmp(name, "libc.", 5) == 0 || strncmp(name, "ld-linux", 8) == 0 ||
           strncmp(name, "libstdc++.", 10) == 0 || strncmp(name, "libpthread", 10) == 0;
}

static void write_summary(const struct fh_report *report)
{
    struct fh_stack_place place;
    for (size_t i = 0; i < report->access.len; i++) {
        fh_stack_locate(report->access.frames[i], &place);
        if (place.module == NULL || is_c_library(place.module))
            continue;
        fh_message_raw("SUMMARY: freehold: %s (%s+0x%llx) in %s\n", report->error->kind,
                       place.module, (unsigned long long)place.offset,
                       place.function[0] != 0 ? place.function : "??");
        return;
    }
    fh_message_raw("SUMMARY: freehold: %s\n", report->error->kind);
}

void fh_report_write_text(const struct fh_report *report)
{
    struct modules told = {0};
    const struct fh_error *error = report->error;
    write_head(report);
    if (error->access != FH_ACCESS_NONE)
        write_access(report);
    else
        write_call(report);
    write_stack(&report->access);
    if (error->origin != NULL)
        write_event(error->origin, 0, &report->origin);
    if (report->has_block)
        write_block(report);
    if (error->damage_low < error->damage_high)
        write_damage(report);
    write_modules(&told, &report->access);
    write_modules(&told, &report->allocation);
    write_modules(&told, &report->release);
    write_modules(&told, &report->origin);
    write_summary(report);
}
