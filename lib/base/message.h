/*
 * Messages without allocation: a line is built in a caller's buffer and written with one write(2)
 * to the diagnostic descriptor (standard error, or the log that was configured). Safe in signal
 * handlers, in the helper clone, and inside malloc.
 *
 * The format knows %s %c %d %u %x %p %zu %lu %llu %ld %lld %%, with an optional width and '-' or
 * '0' flag for numbers and strings. Longer output is cut, never overrun.
 */
#ifndef FH_BASE_MESSAGE_H
#define FH_BASE_MESSAGE_H

#include "base/core/macros.h"

#include <stdarg.h>

/* Formats into buf (always terminated when size > 0); returns the length written, without the
 * terminator. */
FH_PUBLIC size_t fh_format(char *buf, size_t size, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
size_t fh_vformat(char *buf, size_t size, const char *format, va_list args);

/* "freehold: " + the text + newline, one write. */
void fh_message(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* The text as it is, one write. */
void fh_message_raw(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Where messages go; -1 silences them. Standard error at start. */
void fh_message_to(int fd);

/* os/ fills this: write all of it, errors ignored, errno kept. */
extern void (*fh_message_write_hook)(int fd, const char *text, size_t len);

#endif
