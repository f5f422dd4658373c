/*
 * Settings: FREEHOLD="name=value,…" at start, fh_ctl_set() while running.
 *
 * Values are atomics read where they are used; `generation` tells threads at their next refill that
 * something changed which they must act on. Nonsense never stops somebody's program: one line says
 * what was ignored and what the default is. Privileged (setuid) programs ignore the variable.
 */
#include "base/message.h"
#include "freehold/stats.h"
#include "heap/heap.h"
#include "os/relay.h"
#include "os/sys.h"

#include <errno.h>
#include <string.h>

static char stats_path[512]; /* setting stats=PATH: where the record goes at exit */

static const char *const on_foreign_names[] = {"abort", "warn", "ignore", "forward", NULL};
static const char *const huge_names[] = {"auto", "always", "never", NULL};

static int index_of(const char *const *names, const char *value)
{
    for (int i = 0; names[i] != NULL; i++)
        if (strcmp(names[i], value) == 0)
            return i;
    return -1;
}

static bool parse_int(const char *text, int *out)
{
    bool is_negative = *text == '-';
    long value = 0;
    text += is_negative;
    if (*text == 0)
        return false;
    for (; *text != 0; text++) {
        if (*text < '0' || *text > '9' || value > 100000000)
            return false;
        value = value * 10 + (*text - '0');
    }
    *out = (int)(is_negative ? -value : value);
    return true;
}

static void changed(void)
{
    atomic_fetch_add_explicit(&fh_root.settings.generation, 1, memory_order_release);
}

static int set_on_error(const char *value)
{
    int status;
    if (strcmp(value, "abort") == 0) {
        atomic_store(&fh_root.settings.on_error, FH_ERROR_ABORT);
    } else if (strcmp(value, "continue") == 0) {
        atomic_store(&fh_root.settings.on_error, FH_ERROR_CONTINUE);
    } else if (strncmp(value, "exit=", 5) == 0 && parse_int(value + 5, &status) && status >= 0 &&
               status < 256) {
        atomic_store(&fh_root.settings.exit_status, status);
        atomic_store(&fh_root.settings.on_error, FH_ERROR_EXIT);
    } else {
        return -EINVAL;
    }
    return 0;
}

int fh_ctl_set(const char *name, const char *value)
{
    int number;
    if (strcmp(name, "decay") == 0) {
        if (!parse_int(value, &number) || number < -1)
            return -EINVAL;
        atomic_store(&fh_root.settings.decay_ms, number);
    } else if (strcmp(name, "huge") == 0) {
        if ((number = index_of(huge_names, value)) < 0)
            return -EINVAL;
        atomic_store(&fh_root.settings.huge, number);
        atomic_store(&fh_pages_main.huge, number);
    } else if (strcmp(name, "on_foreign") == 0) {
        if ((number = index_of(on_foreign_names, value)) < 0)
            return -EINVAL;
        atomic_store(&fh_root.settings.on_foreign, number);
    } else if (strcmp(name, "on_error") == 0) {
        if ((number = set_on_error(value)) < 0)
            return number;
    } else {
        return -ENOENT;
    }
    changed();
    return 0;
}

int fh_ctl_get(const char *name, char *value, size_t size)
{
    char text[32];
    size_t length;
    fh_start();
    if (strcmp(name, "decay") == 0) {
        length = fh_format(text, sizeof text, "%d", atomic_load(&fh_root.settings.decay_ms));
    } else if (strcmp(name, "huge") == 0) {
        length =
            fh_format(text, sizeof text, "%s", huge_names[atomic_load(&fh_root.settings.huge)]);
    } else if (strcmp(name, "on_foreign") == 0) {
        length = fh_format(text, sizeof text, "%s",
                           on_foreign_names[atomic_load(&fh_root.settings.on_foreign)]);
    } else if (strcmp(name, "on_error") == 0) {
        int on_error = atomic_load(&fh_root.settings.on_error);
        if (on_error == FH_ERROR_EXIT)
            length =
                fh_format(text, sizeof text, "exit=%d", atomic_load(&fh_root.settings.exit_status));
        else
            length = fh_format(text, sizeof text, "%s",
                               on_error == FH_ERROR_ABORT ? "abort" : "continue");
    } else if (strcmp(name, "stats") == 0) {
        length = strlen(stats_path);
        if (length >= size)
            return -ERANGE;
        memcpy(value, stats_path, length + 1);
        return (int)length;
    } else {
        return fh_mode_get(name, value, size);
    }
    if (length >= size)
        return -ERANGE;
    memcpy(value, text, length + 1);
    return (int)length;
}

/* Opens the log; %p in its name is the process id. Appending: the processes of a run share it. */
static int open_log(const char *name)
{
    char path[512];
    size_t length = 0;
    for (; *name != 0 && length + 12 < sizeof path; name++) {
        if (name[0] == '%' && name[1] == 'p') {
            length += fh_format(path + length, sizeof path - length, "%d", fh_os_getpid());
            name++;
        } else {
            path[length++] = *name;
        }
    }
    path[length] = 0;
    return *name != 0 ? -ENAMETOOLONG : fh_os_open_append(path);
}

/* What a message can show of text that may be anything: one line, not long. */
struct shown {
    char text[64];
};

static struct shown shown(const char *text)
{
    struct shown out;
    size_t length = 0;
    for (; text[length] != 0 && length + 4 < sizeof out.text; length++)
        out.text[length] = text[length] >= ' ' && text[length] != 127 ? text[length] : '?';
    strcpy(out.text + length, text[length] != 0 ? "..." : "");
    return out;
}

/* One "name=value" of the variable; at start only. */
static void apply(char *item)
{
    char *value = strchr(item, '=');
    if (value != NULL)
        *value++ = 0;
    for (char *c = item; *c != 0; c++)
        if (*c == '-')
            *c = '_';
    if (value == NULL) {
        fh_message("FREEHOLD: \"%s\" has no value; it is ignored", shown(item).text);
        return;
    }
    if (strcmp(item, "stats") == 0) {
        if (strlen(value) >= sizeof stats_path)
            fh_message("FREEHOLD: the path of stats is too long; no statistics are written");
        else
            strcpy(stats_path, value);
        return;
    }
    if (strcmp(item, "log") == 0) {
        int fd = open_log(value);
        if (fd < 0)
            fh_message("FREEHOLD: log=%s can't be opened (error %d); messages go to standard error",
                       shown(value).text, -fd);
        else
            fh_message_to(fd);
        return;
    }
    if (strcmp(item, "relay") == 0) {
        /* Of freehold run, which may be gone already when a process that it left behind starts another. */
        (void)fh_os_relay(value);
        return;
    }
    int error = fh_mode_set(item, value);
    if (error == -ENOENT)
        error = fh_ctl_set(item, value);
    if (error == -ENOENT)
        fh_message("FREEHOLD: there is no setting \"%s\"; it is ignored", shown(item).text);
    else if (error != 0)
        fh_message("FREEHOLD: %s=%s is not a value of it; the default stays", item,
                   shown(value).text);
}

void fh_settings_start(void)
{
    /* Whoever needs a setting first: the heap, or the report of an allocator in a program that has not used
     * the heap. Another thread that comes meanwhile goes on with the defaults. */
    static _Atomic bool has_begun;
    if (atomic_exchange_explicit(&has_begun, true, memory_order_relaxed))
        return;
    const char *text = fh_os_getenv("FREEHOLD");
    if (text == NULL || *text == 0 || fh_os_is_secure())
        return;
    static char copy[4096]; /* the names of some files; a thread's stack may be 16 KiB */
    size_t length = strlen(text);
    if (length >= sizeof copy) {
        fh_message("FREEHOLD is longer than %zu bytes; all of it is ignored", sizeof copy - 1);
        return;
    }
    memcpy(copy, text, length + 1);
    for (char *item = copy; item != NULL;) {
        char *next = strchr(item, ',');
        if (next != NULL)
            *next++ = 0;
        if (*item != 0)
            apply(item);
        item = next;
    }
}
