/*
 * /proc/self/maps, a character at a time through a small buffer: the reader may be on a signal stack. Lines are
 *
 *     7f12a000-7f12b000 rw-p 00000000 00:00 0          [stack]
 *
 * in the order of addresses, so the first that ends above the address decides.
 */
#include "guard/mappings.h"

#include "os/sys.h"

#include <string.h>

enum { BUFFER_BYTES = 512, FIELD_LOW = 0, FIELD_HIGH = 1, FIELD_ACCESS = 2, FIELD_NAME = 6 };

struct reader {
    int fd;
    size_t at, len;
    char buffer[BUFFER_BYTES];
};

/* The next character, or 0 at the end. */
static char next(struct reader *r)
{
    if (r->at == r->len) {
        int64_t got = fh_os_read(r->fd, r->buffer, sizeof r->buffer);
        r->at = 0;
        r->len = got > 0 ? (size_t)got : 0;
        if (r->len == 0)
            return 0;
    }
    return r->buffer[r->at++];
}

static void add_to(char *text, size_t size, char c)
{
    size_t len = strlen(text);
    if (len + 1 == size) {
        memmove(text, text + 1, len);
        len--;
    }
    text[len] = c;
    text[len + 1] = 0;
}

static void add_digit(uintptr_t *number, char c)
{
    *number = *number << 4 | (uintptr_t)(c <= '9' ? c - '0' : c - 'a' + 10);
}

/* One line; false at the end. */
static bool read_line(struct reader *r, struct fh_mapping *out)
{
    memset(out, 0, sizeof *out);
    unsigned field = FIELD_LOW;
    char before = 0;
    for (char c = next(r); c != '\n'; before = c, c = next(r)) {
        if (c == 0)
            return false;
        bool ends = (c == '-' && field == FIELD_LOW) || (c == ' ' && field < FIELD_NAME);
        if (ends || (c == ' ' && before == ' '))
            field += ends && before != ' ';
        else if (field == FIELD_LOW || field == FIELD_HIGH)
            add_digit(field == FIELD_LOW ? &out->low : &out->high, c);
        else if (field == FIELD_ACCESS)
            add_to(out->access, sizeof out->access, c);
        else if (field == FIELD_NAME)
            add_to(out->name, sizeof out->name, c);
    }
    return true;
}

bool fh_mappings_look(uintptr_t address, struct fh_mapping *at, struct fh_mapping *above)
{
    struct reader reader = {.fd = fh_os_open_read("/proc/self/maps")};
    memset(at, 0, sizeof *at);
    memset(above, 0, sizeof *above);
    if (reader.fd < 0)
        return false;
    struct fh_mapping line;
    while (read_line(&reader, &line)) {
        if (line.high <= address)
            continue;
        if (line.low > address) {
            *above = line;
            break;
        }
        *at = line;
    }
    fh_os_close(reader.fd);
    return true;
}
