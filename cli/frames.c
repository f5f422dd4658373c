/*
 * Symbols for the lines of reports.
 *
 * A dying process writes frames as it can without memory and locks: the nearest symbol, and the
 * module's path with the address in its file (less 1 for return addresses, so that it lies in the
 * call). Here that file is looked into with libdw (tools/symbols.h). Its interface is that of a
 * process: modules at addresses. A report may be of many processes, each with modules elsewhere, so
 * each file gets a place of its own in an address space that nobody lives in: file number n is at n
 * << FILE_SHIFT.
 *
 * The grammar of a frame, read from both ends, since a path may hold anything and a name nearly so:
 *
 *     blanks '#' number ' ' [address " in "] name ' (' path '+0x' offset ')' [' (BuildId: ' hex ')']
 *
 * The name is what stands before the first " (", the offset behind the last "+0x". A line that is
 * cut off or damaged is no frame and passes through. Two more lines are understood, which stand at
 * the end of a report:
 *
 *     "module " path " build-id " hex            which build the frames are of
 *     "SUMMARY: " words " (" path "+0x" offset ") in " name
 *                                         becomes "SUMMARY: words FILE:LINE in FUNCTION"
 *
 * Since the builds are named last, the lines of a report, from "freehold: ERROR:" to its summary,
 * are kept until it is whole. So reports of several processes do not mix either. A report that is
 * never finished is written by who notices that (frames_flush).
 *
 * Functions that were inlined get a frame each, as in every debugger, so the numbers of the frames
 * further out grow.
 */
#include "frames.h"

#include "tools/symbols.h"

#include <ctype.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <limits.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum {
    FILE_SHIFT = 44, /* no file reaches so far; a million files fit */
    MOST_FILES = 1 << 12,
    MOST_BUILDS = 64, /* of one report; it names 24 at most */
    LONGEST_BUILD_ID = 64,
    LONGEST_REPORT = 1 << 20, /* what is longer is written in parts: it is no report */
};

/* A file, and which build of it. */
struct module {
    char *path; /* as the report has it */
    uint8_t build_id[LONGEST_BUILD_ID];
    size_t build_id_size;
};

struct frames {
    struct symbols *symbols;
    struct module modules[MOST_FILES];
    size_t module_count;
    size_t last; /* the module of the last frame: that of the next one, mostly */
    /* The builds that the report's end names, for frames that do not name theirs. */
    struct module builds[MOST_BUILDS];
    size_t build_count;
    const char *without_lines;  /* the module of the first stack that begins without a line */
    struct json_object *stacks; /* NULL: nobody wants them */
    struct json_object *stack;  /* the one that is being read: its frames */
    char *title;                /* the last line that was no frame, or that began the report */
    bool has_head;              /* a report has begun, and no stack of it yet */
};

/* A frame as it stands in a line: ranges of it. */
struct frame {
    const char *number; /* behind the '#' */
    const char *name;
    size_t name_len;
    const char *path;
    size_t path_len;
    uint64_t offset;
    const char *build_id; /* hexadecimal digits */
    size_t build_id_len;
    const char *end;
};

struct frames *frames_open(void)
{
    struct frames *frames = calloc(1, sizeof(*frames));
    if (frames != NULL) {
        frames->symbols = symbols_open();
    }
    if (frames != NULL && frames->symbols == NULL) {
        free(frames);
        return NULL;
    }
    return frames;
}

static void forget_builds(struct frames *frames)
{
    for (size_t i = 0; i < frames->build_count; i++) {
        free(frames->builds[i].path);
    }
    frames->build_count = 0;
}

void frames_close(struct frames *frames)
{
    if (frames == NULL) {
        return;
    }
    for (size_t i = 0; i < frames->module_count; i++) {
        free(frames->modules[i].path);
    }
    forget_builds(frames);
    symbols_close(frames->symbols);
    free(frames->title);
    free(frames);
}

/* ---- Reading a line ---- */

static bool take(const char **at, const char *end, const char *text)
{
    const size_t len = strlen(text);
    if ((size_t)(end - *at) < len || memcmp(*at, text, len) != 0) {
        return false;
    }
    *at += len;
    return true;
}

/* Cuts `text` off the end. */
static bool take_last(const char *begin, const char **end, const char *text)
{
    const size_t len = strlen(text);
    if ((size_t)(*end - begin) < len || memcmp(*end - len, text, len) != 0) {
        return false;
    }
    *end -= len;
    return true;
}

/* Cuts hexadecimal digits off the end; where they begin, or NULL when there are none or too
 * many. */
static const char *take_last_digits(const char *begin, const char **end, size_t most)
{
    const char *at = *end;
    while (at > begin && isxdigit((unsigned char)at[-1])) {
        at--;
    }
    const size_t len = (size_t)(*end - at);
    if (len == 0 || len > most) {
        return NULL;
    }
    *end = at;
    return at;
}

static void take_build_id(const char *begin, struct frame *frame)
{
    const char *end = frame->end;
    if (!take_last(begin, &end, ")")) {
        return;
    }
    const char *digits_end = end;
    const char *digits = take_last_digits(begin, &end, (size_t)LONGEST_BUILD_ID * 2);
    if (digits != NULL && take_last(begin, &end, " (BuildId: ")) {
        frame->build_id = digits;
        frame->build_id_len = (size_t)(digits_end - digits);
        frame->end = end;
    }
}

/* "NAME (PATH+0xOFFSET)" and what may follow, up to the line's end. */
static bool read_place(const char *begin, const char *end, struct frame *frame)
{
    frame->end = end;
    take_build_id(begin, frame);
    const char *at = frame->end;
    if (!take_last(begin, &at, ")")) {
        return false;
    }
    const char *digits = take_last_digits(begin, &at, 16);
    if (digits == NULL || !take_last(begin, &at, "+0x")) {
        return false;
    }
    frame->offset = strtoull(digits, NULL, 16);
    const char *path = memmem(begin, (size_t)(at - begin), " (", 2);
    if (path == NULL || path + 2 >= at) {
        return false;
    }
    frame->name = begin;
    frame->name_len = (size_t)(path - begin);
    frame->path = path + 2;
    frame->path_len = (size_t)(at - frame->path);
    return frame->path_len < PATH_MAX;
}

static bool read_frame(const char *line, const char *end, struct frame *frame)
{
    const char *at = line;
    while (at < end && *at == ' ') {
        at++;
    }
    if (!take(&at, end, "#") || at == end || !isdigit((unsigned char)*at)) {
        return false;
    }
    frame->number = at;
    while (at < end && isdigit((unsigned char)*at)) {
        at++;
    }
    return at - frame->number <= 9 && take(&at, end, " ") && read_place(at, end, frame);
}

/* ---- Modules ---- */

static size_t read_digits(const char *digits, size_t len, uint8_t id[LONGEST_BUILD_ID])
{
    for (size_t i = 0; i < len / 2; i++) {
        const char pair[] = {digits[2 * i], digits[2 * i + 1], '\0'};
        id[i] = (uint8_t)strtoul(pair, NULL, 16);
    }
    return len / 2;
}

static bool has_path(const struct module *module, const struct frame *frame)
{
    return strncmp(module->path, frame->path, frame->path_len) == 0 &&
           module->path[frame->path_len] == '\0';
}

/* The frame's own build id, else that of the report's end; its size, 0 when neither is there. */
static size_t build_of(const struct frames *frames, const struct frame *frame,
                       uint8_t id[LONGEST_BUILD_ID])
{
    if (frame->build_id_len != 0) {
        return read_digits(frame->build_id, frame->build_id_len, id);
    }
    for (size_t i = 0; i < frames->build_count; i++) {
        const struct module *build = &frames->builds[i];
        if (has_path(build, frame)) {
            memcpy(id, build->build_id, build->build_id_size);
            return build->build_id_size;
        }
    }
    return 0;
}

/* "module PATH build-id HEX" */
static void note_build(struct frames *frames, const char *line, const char *end)
{
    static const char word[] = " build-id ";
    while (line < end && *line == ' ') {
        line++;
    }
    if (!take(&line, end, "module ") || frames->build_count == MOST_BUILDS) {
        return;
    }
    const char *path_end = end;
    const char *digits = take_last_digits(line, &path_end, (size_t)LONGEST_BUILD_ID * 2);
    if (digits == NULL || !take_last(line, &path_end, word)) {
        return;
    }
    struct module *build = &frames->builds[frames->build_count];
    build->path = strndup(line, (size_t)(path_end - line));
    if (build->path != NULL) {
        build->build_id_size = read_digits(digits, (size_t)(end - digits), build->build_id);
        frames->build_count++;
    }
}

static bool is_module(const struct module *module, const struct frame *frame, const uint8_t *id,
                      size_t id_size)
{
    return has_path(module, frame) && module->build_id_size == id_size &&
           memcmp(module->build_id, id, id_size) == 0;
}

/* Its number; MOST_FILES when there are too many, or no memory. */
static size_t module_of(struct frames *frames, const struct frame *frame)
{
    uint8_t id[LONGEST_BUILD_ID];
    const size_t id_size = build_of(frames, frame, id);
    const size_t count = frames->module_count;
    if (frames->last < count && is_module(&frames->modules[frames->last], frame, id, id_size)) {
        return frames->last;
    }
    for (size_t i = 0; i < count; i++) {
        if (is_module(&frames->modules[i], frame, id, id_size)) {
            return frames->last = i;
        }
    }
    struct module *module = &frames->modules[count];
    if (count == MOST_FILES || (module->path = strndup(frame->path, frame->path_len)) == NULL) {
        return MOST_FILES;
    }
    memcpy(module->build_id, id, id_size);
    module->build_id_size = id_size;
    /* A program that was started by a relative name: from where we are, as far as we know. */
    char *absolute = module->path[0] != '/' ? realpath(module->path, NULL) : NULL;
    const struct fh_trace_module known = {
        .begin = (uint64_t)count << FILE_SHIFT,
        .end = ((uint64_t)count + 1) << FILE_SHIFT,
        .bias = (uint64_t)count << FILE_SHIFT,
        .until_ns = UINT64_MAX,
        .path = absolute != NULL ? absolute : module->path,
        .build_id = module->build_id,
        .build_id_size = id_size,
    };
    const int error = symbols_add_module(frames->symbols, &known);
    free(absolute);
    if (error != 0) {
        free(module->path);
        return MOST_FILES;
    }
    frames->module_count++;
    return frames->last = count;
}

static size_t look_up(struct frames *frames, const struct frame *frame,
                      const struct symbols_frame **found)
{
    const size_t number =
        frame->offset >> FILE_SHIFT == 0 ? module_of(frames, frame) : (size_t)MOST_FILES;
    return number == MOST_FILES
               ? 0
               : symbols_look_up(frames->symbols, ((uint64_t)number << FILE_SHIFT) + frame->offset,
                                 0, found);
}

/* ---- Writing a line ---- */

/* "NAME+0x12" has the offset in the function, and "0x7f… in NAME" the address: both stay. */
static void write_frame(const struct frame *frame, const char *line, unsigned number,
                        const struct symbols_frame *found, FILE *out)
{
    static const char in[] = " in ";
    const char *name_end = frame->name + frame->name_len;
    const char *prefix = memmem(frame->name, frame->name_len, in, sizeof(in) - 1);
    const char *name = prefix != NULL ? prefix + sizeof(in) - 1 : frame->name;
    fprintf(out, "%.*s%u %.*s", (int)(frame->number - line), line, number,
            (int)(name - frame->name), frame->name);
    if (found->has_name) {
        fputs(found->function, out);
    } else {
        fprintf(out, "%.*s", (int)(name_end - name), name);
    }
    if (found->file != NULL && found->line != 0) {
        fprintf(out, " %s:%u", found->file, found->line);
        return;
    }
    const char *plus = found->has_name ? memmem(name, (size_t)(name_end - name), "+0x", 3) : NULL;
    if (plus != NULL) {
        fprintf(out, "%.*s", (int)(name_end - plus), plus);
    }
    fprintf(out, " (%.*s+0x%" PRIx64 ")", (int)frame->path_len, frame->path, frame->offset);
}

/* ---- Collecting ---- */

void frames_collect(struct frames *frames, struct json_object *stacks)
{
    frames->stacks = stacks;
}

static void collect_title(struct frames *frames, const char *line, const char *end)
{
    const char *at = line;
    const bool is_head = take(&at, end, "freehold: ERROR:");
    if (frames->has_head && !is_head) {
        return;
    }
    while (line < end && *line == ' ') {
        line++;
    }
    frames->has_head = is_head;
    free(frames->title);
    frames->title = strndup(line, (size_t)(end - line));
}

static void collect_stack(struct frames *frames)
{
    struct json_object *stack = json_object_new_object();
    frames->has_head = false;
    frames->stack = json_object_new_array();
    json_object_object_add(stack, "title",
                           json_object_new_string(frames->title != NULL ? frames->title : ""));
    json_object_object_add(stack, "frames", frames->stack);
    json_object_array_add(frames->stacks, stack);
}

static void add_place(struct json_object *object, const struct symbols_frame *found)
{
    if (found->has_name) {
        json_object_object_add(object, "function", json_object_new_string(found->function));
    }
    if (found->file != NULL && found->line != 0) {
        json_object_object_add(object, "file", json_object_new_string(found->file));
        json_object_object_add(object, "line", json_object_new_int64(found->line));
    }
}

static void collect_frame(struct frames *frames, const struct frame *frame,
                          const struct symbols_frame *found)
{
    struct json_object *object = json_object_new_object();
    add_place(object, found);
    json_object_object_add(object, "module",
                           json_object_new_string_len(frame->path, (int)frame->path_len));
    json_object_object_add(object, "offset", json_object_new_uint64(frame->offset));
    json_object_object_add(object, "is_inlined", json_object_new_boolean(found->is_inlined));
    json_object_array_add(frames->stack, object);
}

/* ---- A line ---- */

/* The first frame of a stack is what its reader looks at. */
static void begin_stack(struct frames *frames, struct frames_writer *writer,
                        const struct symbols_frame *innermost)
{
    writer->is_in_stack = true;
    if (innermost->line == 0 && frames->without_lines == NULL) {
        frames->without_lines = frames->modules[frames->last].path;
    }
    if (frames->stacks != NULL) {
        collect_stack(frames);
    }
}

/* A frame of which no more is known: only its number changes, behind inlined ones. */
static bool write_renumbered(const struct frames_writer *writer, const char *line, const char *end,
                             FILE *out)
{
    const char *number = line;
    while (number < end && *number == ' ') {
        number++;
    }
    const char *rest = number + 1;
    if (writer->added == 0 || !take(&number, end, "#")) {
        return false;
    }
    while (rest < end && isdigit((unsigned char)*rest)) {
        rest++;
    }
    if (rest == number || rest - number > 9) {
        return false;
    }
    const unsigned grown = (unsigned)strtoul(number, NULL, 10) + writer->added;
    fprintf(out, "%.*s%u", (int)(number - line), line, grown);
    fwrite(rest, 1, (size_t)(end - rest), out);
    return true;
}

static void write_frames(struct frames *frames, struct frames_writer *writer,
                         const struct frame *frame, const char *line,
                         const struct symbols_frame *found, size_t count, FILE *out)
{
    const unsigned number = (unsigned)strtoul(frame->number, NULL, 10) + writer->added;
    for (size_t i = 0; i < count; i++) {
        write_frame(frame, line, number + (unsigned)i, &found[i], out);
        if (frames->stacks != NULL) {
            collect_frame(frames, frame, &found[i]);
        }
        if (i + 1 < count) {
            fputc('\n', out);
        }
    }
    writer->added += (unsigned)count - 1;
}

static bool write_as_frame(struct frames *frames, struct frames_writer *writer, const char *line,
                           const char *end, FILE *out)
{
    struct frame frame = {0};
    const struct symbols_frame *found = NULL;
    if (!read_frame(line, end, &frame)) {
        return write_renumbered(writer, line, end, out);
    }
    if (strtoul(frame.number, NULL, 10) == 0) {
        writer->is_in_stack = false;
        writer->added = 0;
    }
    const size_t count = look_up(frames, &frame, &found);
    if (count == 0) {
        return write_renumbered(writer, line, end, out);
    }
    if (!writer->is_in_stack) {
        begin_stack(frames, writer, found);
    }
    write_frames(frames, writer, &frame, line, found, count, out);
    return true;
}

static bool write_as_summary(struct frames *frames, const char *line, const char *end, FILE *out)
{
    struct frame frame = {0};
    const struct symbols_frame *found = NULL;
    const char *at = line;
    if (!take(&at, end, "SUMMARY:")) {
        return false;
    }
    const char *name = memmem(at, (size_t)(end - at), ") in ", 5);
    if (name == NULL || !read_place(at, name + 1, &frame) || look_up(frames, &frame, &found) == 0 ||
        found->line == 0) {
        return false;
    }
    fprintf(out, "%.*s %s:%u in %s", (int)(frame.name + frame.name_len - line), line, found->file,
            found->line, found->function);
    return true;
}

static void write_line(struct frames *frames, struct frames_writer *writer, const char *line,
                       size_t len, FILE *out)
{
    const char *end = line + len;
    const bool has_newline = len > 0 && end[-1] == '\n';
    end -= has_newline;
    if (!write_as_frame(frames, writer, line, end, out)) {
        writer->is_in_stack = false;
        writer->added = 0;
        if (frames->stacks != NULL && end > line) {
            collect_title(frames, line, end);
        }
        if (!write_as_summary(frames, line, end, out)) {
            fwrite(line, 1, (size_t)(end - line), out);
        }
    }
    if (has_newline) {
        fputc('\n', out);
    }
}

/* ---- Lines of a writer ---- */

static size_t line_length(const char *line, const char *end)
{
    const char *newline = memchr(line, '\n', (size_t)(end - line));
    return (size_t)((newline != NULL ? newline + 1 : end) - line);
}

static void note_builds(struct frames *frames, const char *text, const char *end)
{
    forget_builds(frames);
    for (const char *line = text; line < end;) {
        const size_t len = line_length(line, end);
        note_build(frames, line, line + len - (line[len - 1] == '\n'));
        line += len;
    }
}

/* Writes the first `len` bytes of what was kept back: whole lines, unless it is all. */
static void write_kept(struct frames *frames, struct frames_writer *writer, size_t len, FILE *out)
{
    const char *end = writer->text + len;
    if (len == 0) {
        return;
    }
    note_builds(frames, writer->text, end);
    for (const char *line = writer->text; line < end;) {
        const size_t line_len = line_length(line, end);
        write_line(frames, writer, line, line_len, out);
        line += line_len;
    }
    memmove(writer->text, end, writer->len - len);
    writer->len -= len;
    writer->line -= writer->line < len ? writer->line : len;
}

void frames_flush(struct frames *frames, struct frames_writer *writer, FILE *out)
{
    write_kept(frames, writer, writer->len, out);
    writer->is_in_report = false;
    writer->is_in_stack = false;
    writer->added = 0;
}

void frames_forget(struct frames_writer *writer)
{
    free(writer->text);
    *writer = (struct frames_writer){0};
}

/* The last line is whole. */
static void end_line(struct frames *frames, struct frames_writer *writer, FILE *out)
{
    const char *line = writer->text + writer->line;
    const char *end = writer->text + writer->len;
    const bool begins = take(&line, end, "freehold: ERROR:");
    const bool ends = take(&line, end, "SUMMARY:");
    if (begins) {
        write_kept(frames, writer, writer->line, out);
        writer->is_in_report = true;
    }
    writer->line = writer->len;
    if (ends || !writer->is_in_report) {
        write_kept(frames, writer, writer->len, out);
        writer->is_in_report = false;
    }
}

/* Room for so much more; false without memory. */
static bool make_room(struct frames_writer *writer, size_t len)
{
    enum { FIRST_ROOM = 4096 };
    size_t room = writer->room != 0 ? writer->room : FIRST_ROOM;
    while (room - writer->len < len) {
        room *= 2;
    }
    char *text = room != writer->room ? realloc(writer->text, room) : writer->text;
    if (text == NULL) {
        return false;
    }
    writer->text = text;
    writer->room = room;
    return true;
}

void frames_take(struct frames *frames, struct frames_writer *writer, const char *text, size_t len,
                 FILE *out)
{
    const char *end = text + len;
    while (text < end) {
        const size_t part = line_length(text, end);
        if (writer->len >= LONGEST_REPORT || !make_room(writer, part)) {
            frames_flush(frames, writer, out);
        }
        if (!make_room(writer, part)) {
            fwrite(text, 1, part, out);
            return;
        }
        memcpy(writer->text + writer->len, text, part);
        writer->len += part;
        text += part;
        if (text[-1] == '\n') {
            end_line(frames, writer, out);
        }
    }
}

/* ---- JSON ---- */

static const char *text_of(struct json_object *object, const char *key)
{
    struct json_object *value;
    return json_object_object_get_ex(object, key, &value) &&
                   json_object_is_type(value, json_type_string)
               ? json_object_get_string(value)
               : NULL;
}

/* Offsets are numbers, or text with hexadecimal digits. */
static bool offset_of(struct json_object *object, uint64_t *offset)
{
    struct json_object *value;
    if (!json_object_object_get_ex(object, "offset", &value)) {
        return false;
    }
    const char *text = text_of(object, "offset");
    *offset = text != NULL ? strtoull(text, NULL, 16) : json_object_get_uint64(value);
    return true;
}

static bool add_to_frame(struct frames *frames, struct json_object *object)
{
    struct frame frame = {.path = text_of(object, "module")};
    const struct symbols_frame *found = NULL;
    if (frame.path == NULL || !offset_of(object, &frame.offset)) {
        return false;
    }
    frame.path_len = strlen(frame.path);
    frame.build_id = text_of(object, "build_id");
    frame.build_id_len = frame.build_id != NULL ? strlen(frame.build_id) : 0;
    if (frame.path_len >= PATH_MAX || frame.build_id_len > 2 * (size_t)LONGEST_BUILD_ID) {
        return false;
    }
    const size_t count = look_up(frames, &frame, &found);
    if (count == 0) {
        return false;
    }
    /* The frame is that of the function; what was inlined into it comes with it, innermost first. */
    add_place(object, &found[count - 1]);
    if (count > 1) {
        struct json_object *inlined = json_object_new_array();
        for (size_t i = 0; i + 1 < count; i++) {
            struct json_object *one = json_object_new_object();
            add_place(one, &found[i]);
            json_object_array_add(inlined, one);
        }
        json_object_object_add(object, "inlined", inlined);
    }
    return true;
}

bool frames_add_to_json(struct frames *frames, struct json_object *value)
{
    bool has_frames = false;
    if (json_object_is_type(value, json_type_array)) {
        for (size_t i = 0; i < json_object_array_length(value); i++) {
            has_frames |= frames_add_to_json(frames, json_object_array_get_idx(value, i));
        }
    } else if (json_object_is_type(value, json_type_object)) {
        json_object_object_foreach(value, key, member)
        {
            (void)key;
            has_frames |= frames_add_to_json(frames, member);
        }
        has_frames |= add_to_frame(frames, value);
    }
    return has_frames;
}

/* ---- The hint ---- */

const char *frames_hint(const struct frames *frames)
{
    const char *hint;
    for (size_t i = 0;
         frames->without_lines != NULL && (hint = symbols_hint(frames->symbols, i)) != NULL; i++) {
        const char *file = strrchr(frames->without_lines, '/');
        if (strstr(hint, file != NULL ? file : frames->without_lines) != NULL) {
            return hint;
        }
    }
    return NULL;
}
