/*
 * Messages without allocation.
 *
 * A line is formatted into a buffer on the stack and handed to os/ as one write, so that lines of
 * several threads or processes on one descriptor do not mix (a write of up to PIPE_BUF = 4096 bytes
 * to a pipe is atomic). LINE_BYTES is far below that and below what a 16 KiB thread stack or a
 * small signal stack can spare; longer lines are cut.
 *
 * The formatter keeps a sink {buf, size, len}: put() writes while there is room for one more
 * character and the terminator, and drops the rest. Invariant: len < size whenever size > 0.
 * Nothing here is shared but the descriptor, which is an atomic integer; so messages are safe in
 * signal handlers and in the helper clone.
 */
#include "base/message.h"

#include <stdatomic.h>

enum { LINE_BYTES = 1024, STDERR_FD = 2 };

static void write_nothing(int fd, const char *text, size_t len)
{
    (void)fd;
    (void)text;
    (void)len;
}

void (*fh_message_write_hook)(int fd, const char *text, size_t len) = write_nothing;

static _Atomic int message_fd = STDERR_FD;

struct sink {
    char *buf;
    size_t size; /* > 0 */
    size_t len;  /* < size */
};

struct spec {
    size_t width;
    bool is_left;
    bool is_zero_padded;
    enum { LENGTH_INT, LENGTH_LONG, LENGTH_LONG_LONG, LENGTH_SIZE } length;
};

static void put(struct sink *sink, char c)
{
    if (sink->len + 1 < sink->size)
        sink->buf[sink->len++] = c;
}

static void put_repeated(struct sink *sink, char c, size_t count)
{
    while (count-- > 0 && sink->len + 1 < sink->size)
        put(sink, c);
}

static void put_padded(struct sink *sink, const struct spec *spec, const char *text, size_t len)
{
    size_t padding = spec->width > len ? spec->width - len : 0;
    if (!spec->is_left)
        put_repeated(sink, ' ', padding);
    for (size_t i = 0; i < len; i++)
        put(sink, text[i]);
    if (spec->is_left)
        put_repeated(sink, ' ', padding);
}

static size_t bounded_length(const char *text, size_t limit)
{
    size_t len = 0;
    while (len < limit && text[len] != '\0')
        len++;
    return len;
}

/* prefix is "", "-" or "0x"; zeros go between it and the digits. */
static void put_number(struct sink *sink, const struct spec *spec, uint64_t value, unsigned base,
                       const char *prefix)
{
    char text[2 + 64];
    size_t at = sizeof(text);
    do {
        text[--at] = "0123456789abcdef"[value % base];
        value /= base;
    } while (value != 0);
    size_t prefix_len = bounded_length(prefix, 2);
    size_t digits = sizeof(text) - at;
    if (spec->is_zero_padded && !spec->is_left && spec->width > digits + prefix_len) {
        for (size_t i = 0; i < prefix_len; i++)
            put(sink, prefix[i]);
        put_repeated(sink, '0', spec->width - digits - prefix_len);
        struct spec bare = {.width = 0};
        put_padded(sink, &bare, text + at, digits);
        return;
    }
    while (prefix_len > 0)
        text[--at] = prefix[--prefix_len];
    put_padded(sink, spec, text + at, sizeof(text) - at);
}

static const char *parse_spec(const char *at, struct spec *spec)
{
    *spec = (struct spec){.length = LENGTH_INT};
    for (;; at++) {
        if (*at == '-')
            spec->is_left = true;
        else if (*at == '0')
            spec->is_zero_padded = true;
        else
            break;
    }
    for (; *at >= '0' && *at <= '9'; at++)
        if (spec->width < 10000)
            spec->width = spec->width * 10 + (size_t)(*at - '0');
    if (*at == 'z') {
        spec->length = LENGTH_SIZE;
        at++;
    } else if (*at == 'l') {
        spec->length = LENGTH_LONG;
        at++;
        if (*at == 'l') {
            spec->length = LENGTH_LONG_LONG;
            at++;
        }
    }
    return at;
}

/* A va_list passed to a function is an array or a struct, as the ABI likes; in a struct it can be
 * passed on. */
struct arguments {
    va_list list;
};

static uint64_t next_unsigned(struct arguments *args, const struct spec *spec)
{
    switch (spec->length) {
    case LENGTH_INT:
        return va_arg(args->list, unsigned);
    case LENGTH_LONG:
        return va_arg(args->list, unsigned long);
    case LENGTH_LONG_LONG:
        return va_arg(args->list, unsigned long long);
    case LENGTH_SIZE:
        return va_arg(args->list, size_t);
    }
    return 0;
}

static int64_t next_signed(struct arguments *args, const struct spec *spec)
{
    if (spec->length == LENGTH_INT)
        return va_arg(args->list, int);
    return (int64_t)next_unsigned(args, spec);
}

static void put_signed(struct sink *sink, const struct spec *spec, int64_t value)
{
    uint64_t magnitude = value < 0 ? 0 - (uint64_t)value : (uint64_t)value;
    put_number(sink, spec, magnitude, 10, value < 0 ? "-" : "");
}

/* Writes one conversion; false when it is none of ours. */
static bool put_conversion(struct sink *sink, const struct spec *spec, char conversion,
                           struct arguments *args)
{
    switch (conversion) {
    case 's': {
        const char *text = va_arg(args->list, const char *);
        if (text == NULL)
            text = "(null)";
        put_padded(sink, spec, text, bounded_length(text, sink->size));
        return true;
    }
    case 'c': {
        char c = (char)va_arg(args->list, int);
        put_padded(sink, spec, &c, 1);
        return true;
    }
    case 'd':
        put_signed(sink, spec, next_signed(args, spec));
        return true;
    case 'u':
        put_number(sink, spec, next_unsigned(args, spec), 10, "");
        return true;
    case 'x':
        put_number(sink, spec, next_unsigned(args, spec), 16, "");
        return true;
    case 'p':
        put_number(sink, spec, (uintptr_t)va_arg(args->list, void *), 16, "0x");
        return true;
    case '%':
        put(sink, '%');
        return true;
    default:
        return false;
    }
}

size_t fh_vformat(char *buf, size_t size, const char *format, va_list list)
{
    if (size == 0)
        return 0;
    struct sink sink = {.buf = buf, .size = size, .len = 0};
    struct arguments args;
    va_copy(args.list, list);
    for (const char *at = format; *at != '\0'; at++) {
        if (*at != '%') {
            put(&sink, *at);
            continue;
        }
        struct spec spec;
        const char *conversion = parse_spec(at + 1, &spec);
        if (!put_conversion(&sink, &spec, *conversion, &args)) {
            /* The arguments behind an unknown conversion can't be found: show the rest as it is. */
            for (; *at != '\0'; at++)
                put(&sink, *at);
            break;
        }
        at = conversion;
    }
    va_end(args.list);
    buf[sink.len] = '\0';
    return sink.len;
}

size_t fh_format(char *buf, size_t size, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    size_t len = fh_vformat(buf, size, format, args);
    va_end(args);
    return len;
}

/* relaxed: the descriptor guards no other data. */
static void write_line(const char *line, size_t len)
{
    int fd = atomic_load_explicit(&message_fd, memory_order_relaxed);
    if (fd >= 0)
        fh_message_write_hook(fd, line, len);
}

void fh_message(const char *format, ...)
{
    char line[LINE_BYTES];
    /* One byte is kept for the newline, so that a line that was cut still ends. */
    size_t len = fh_format(line, sizeof(line) - 1, "freehold: ");
    va_list args;
    va_start(args, format);
    len += fh_vformat(line + len, sizeof(line) - 1 - len, format, args);
    va_end(args);
    line[len++] = '\n';
    write_line(line, len);
}

void fh_message_raw(const char *format, ...)
{
    char line[LINE_BYTES];
    va_list args;
    va_start(args, format);
    size_t len = fh_vformat(line, sizeof(line), format, args);
    va_end(args);
    write_line(line, len);
}

void fh_message_to(int fd)
{
    atomic_store_explicit(&message_fd, fd, memory_order_relaxed);
}
