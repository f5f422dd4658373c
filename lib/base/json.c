/*
 * JSON without allocation.
 *
 * A writer keeps a buffer and one bit: whether the innermost object or array has a member yet. That
 * bit is enough, since closing one makes it a member of the one around it. Invariant: len < size,
 * and text is what has been written so far without a terminator; when something did not fit, is_cut
 * is set and nothing more is written, so a cut text is a beginning of the whole and never a text
 * with a gap.
 *
 * Strings come from outside (program names). JSON is UTF-8 (RFC 8259, section 8.1); bytes that are
 * none become '?'.
 */
#include "base/json.h"

#include "base/message.h"

static void put_text(struct fh_json *json, const char *text, size_t len)
{
    if (json->is_cut || len >= json->size - json->len) {
        json->is_cut = true;
        return;
    }
    __builtin_memcpy(json->text + json->len, text, len);
    json->len += len;
}

static void put(struct fh_json *json, char c)
{
    put_text(json, &c, 1);
}

/* Length of the UTF-8 sequence at s (RFC 3629), 0 when it is none; overlong forms and surrogates
 * are none. */
static size_t sequence_length(const unsigned char *s)
{
    size_t len;
    uint32_t point;
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    if (s[0] < 0x80) {
        return 1;
    }
    if ((s[0] & 0xe0) == 0xc0) {
        len = 2;
        point = s[0] & 0x1f;
    } else if ((s[0] & 0xf0) == 0xe0) {
        len = 3;
        point = s[0] & 0x0f;
    } else if ((s[0] & 0xf8) == 0xf0) {
        len = 4;
        point = s[0] & 0x07;
    } else {
        return 0;
    }
    for (size_t i = 1; i < len; i++) {
        if ((s[i] & 0xc0) != 0x80) {
            return 0; /* the terminator too ends here */
        }
        point = point << 6 | (s[i] & 0x3f);
    }
    const bool is_point = point >= least[len] && point <= 0x10ffff && (point & ~0x7ffu) != 0xd800;
    return is_point ? len : 0;
}

static void put_quoted(struct fh_json *json, const char *text)
{
    put(json, '"');
    while (*text != '\0') {
        const unsigned char c = (unsigned char)*text;
        const size_t len = sequence_length((const unsigned char *)text);
        if (len == 0) {
            put(json, '?');
        } else if (c == '"' || c == '\\') {
            put(json, '\\');
            put(json, *text);
        } else if (c < ' ') {
            char escape[8];
            put_text(json, escape, fh_format(escape, sizeof(escape), "\\u%04x", c));
        } else {
            put_text(json, text, len);
        }
        text += len == 0 ? 1 : len;
    }
    put(json, '"');
}

static void begin_member(struct fh_json *json, const char *key)
{
    if (json->has_member) {
        put(json, ',');
    }
    json->has_member = true;
    if (key != NULL) {
        put_quoted(json, key);
        put(json, ':');
    }
}

void fh_json_begin(struct fh_json *json, char *text, size_t size)
{
    json->text = text;
    json->size = size;
    json->len = 0;
    json->is_cut = false;
    json->has_member = false;
}

void fh_json_open(struct fh_json *json, const char *key, char bracket)
{
    begin_member(json, key);
    put(json, bracket);
    json->has_member = false;
}

void fh_json_close(struct fh_json *json, char bracket)
{
    put(json, bracket);
    json->has_member = true;
}

void fh_json_number(struct fh_json *json, const char *key, uint64_t value)
{
    char digits[24];
    begin_member(json, key);
    put_text(json, digits, fh_format(digits, sizeof(digits), "%llu", (unsigned long long)value));
}

void fh_json_string(struct fh_json *json, const char *key, const char *value)
{
    begin_member(json, key);
    put_quoted(json, value);
}
