/*
 * What a stream can show, and figures as people read them.
 *
 * A report goes to a person's terminal or into a file. On a terminal it may be coloured (unless
 * NO_COLOR is set, see no-color.org, or TERM is "dumb") and drawn with block elements where the
 * locale's encoding is UTF-8; in a file it is plain ASCII, so that it can be compared, searched and
 * mailed.
 *
 * Figures have three significant digits or are exact; bytes are in powers of 1024 with the unit's
 * binary name.
 */
#include "term.h"

#include <langinfo.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

void term_open(struct term *term, FILE *out)
{
    const int fd = fileno(out);
    const bool is_terminal = fd >= 0 && isatty(fd) == 1;
    const char *kind = getenv("TERM");
    const char *no_colour = getenv("NO_COLOR");
    struct winsize size;
    term->out = out;
    term->has_unicode = is_terminal && strcmp(nl_langinfo(CODESET), "UTF-8") == 0;
    term->has_colour = is_terminal && (no_colour == NULL || *no_colour == '\0') && kind != NULL &&
                       strcmp(kind, "dumb") != 0;
    term->width = 80;
    if (is_terminal && ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) {
        term->width = size.ws_col;
    }
}

const char *term_style(const struct term *term, enum term_style style)
{
    static const char *const sequences[] = {
        [TERM_PLAIN] = "\033[0m",   [TERM_BOLD] = "\033[1m",  [TERM_DIM] = "\033[2m",
        [TERM_GOOD] = "\033[32m",   [TERM_WARN] = "\033[33m", [TERM_BAD] = "\033[31m",
        [TERM_ACCENT] = "\033[36m",
    };
    return term->has_colour ? sequences[style] : "";
}

const char *term_pick(const struct term *term, const char *unicode, const char *ascii)
{
    return term->has_unicode ? unicode : ascii;
}

void term_bar(const struct term *term, double share, int cells)
{
    /* U+258F to U+2588: one eighth of a cell to a whole one. */
    static const char *const eighths[] = {"", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
    const double clamped = share < 0 ? 0 : share > 1 ? 1 : share;
    const int steps = term->has_unicode ? 8 : 1;
    const int filled = (int)(clamped * cells * steps + 0.5);
    int column = 0;
    for (; column < filled / steps; column++) {
        fputs(term_pick(term, "█", "#"), term->out);
    }
    if (filled % steps != 0) {
        fputs(eighths[filled % steps], term->out);
        column++;
    }
    fprintf(term->out, "%*s", cells - column, "");
}

struct figure figure_count(uint64_t count)
{
    struct figure figure;
    char digits[24];
    const int len = snprintf(digits, sizeof(digits), "%llu", (unsigned long long)count);
    char *to = figure.text;
    for (int i = 0; i < len; i++) {
        if (i > 0 && (len - i) % 3 == 0) {
            *to++ = ',';
        }
        *to++ = digits[i];
    }
    *to = '\0';
    return figure;
}

/* Three significant digits: 9.99, 99.9, 999; and plainly 0. */
static int decimals(double value)
{
    return value == 0 ? 0 : value < 9.995 ? 2 : value < 99.95 ? 1 : 0;
}

struct figure figure_bytes(uint64_t bytes)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    struct figure figure;
    double value = (double)bytes;
    size_t unit = 0;
    while (value >= 999.5 && unit + 1 < sizeof(units) / sizeof(units[0])) {
        value /= 1024;
        unit++;
    }
    snprintf(figure.text, sizeof(figure.text), "%.*f %s", unit == 0 ? 0 : decimals(value), value,
             units[unit]);
    return figure;
}

struct figure figure_duration(uint64_t ns)
{
    struct figure figure;
    const double seconds = (double)ns / 1e9;
    const unsigned long long minutes = ns / 60000000000U;
    if (minutes >= 60) {
        snprintf(figure.text, sizeof(figure.text), "%llu h %02llu min", minutes / 60, minutes % 60);
    } else if (minutes > 0) {
        snprintf(figure.text, sizeof(figure.text), "%llu min %02llu s", minutes,
                 (unsigned long long)ns / 1000000000U % 60);
    } else if (seconds >= 1) {
        snprintf(figure.text, sizeof(figure.text), "%.*f s", decimals(seconds), seconds);
    } else {
        const double ms = seconds * 1e3;
        snprintf(figure.text, sizeof(figure.text), "%.*f ms", decimals(ms), ms);
    }
    return figure;
}

struct figure figure_rate(double per_second)
{
    struct figure figure;
    if (per_second >= 1e6) {
        const double millions = per_second / 1e6;
        snprintf(figure.text, sizeof(figure.text), "%.*f million a second", decimals(millions),
                 millions);
    } else {
        const struct figure count = figure_count((uint64_t)per_second);
        snprintf(figure.text, sizeof(figure.text), "%.27s a second", count.text);
    }
    return figure;
}

struct figure figure_share(double share)
{
    struct figure figure;
    snprintf(figure.text, sizeof(figure.text), "%.1f %%", share * 100);
    return figure;
}
