/*
 * Files of figures.
 *
 * They are written under a name of their own in the same folder and renamed when they are whole, so
 * a reader never sees half a file, and a run that fails leaves what was there before. What is no
 * regular file (a terminal, a pipe, /dev/null) can't be replaced and is written to directly.
 */
#include "output.h"

#include "cli.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { USUAL_MODE = 0666 };

static bool complain(const struct output *output, int error)
{
    cli_complain("--%s: '%s' can't be written: %s", output->option, output->path, strerror(error));
    return false;
}

static FILE *open_temporary(struct output *output)
{
    if (snprintf(output->temporary, sizeof(output->temporary), "%s.XXXXXX", output->path) >=
        (int)sizeof(output->temporary)) {
        output->temporary[0] = '\0';
        errno = ENAMETOOLONG;
        return NULL;
    }
    const int fd = mkstemp(output->temporary);
    if (fd < 0) {
        output->temporary[0] = '\0';
        return NULL;
    }
    const mode_t mask = umask(0);
    umask(mask);
    fchmod(fd, USUAL_MODE & ~mask);
    return fdopen(fd, "w");
}

bool output_open(struct output *output, const char *option, const char *path)
{
    struct stat info;
    *output = (struct output){.option = option, .path = path};
    if (path == NULL) {
        return true;
    }
    if (strcmp(path, "-") == 0) {
        output->stream = stdout;
        return true;
    }
    const bool is_there = stat(path, &info) == 0;
    if (is_there && S_ISDIR(info.st_mode)) {
        return complain(output, EISDIR);
    }
    output->stream =
        is_there && !S_ISREG(info.st_mode) ? fopen(path, "we") : open_temporary(output);
    return output->stream != NULL || complain(output, errno);
}

bool output_finish(struct output *output)
{
    FILE *stream = output->stream;
    output->stream = NULL;
    if (stream == NULL || stream == stdout) {
        return true; /* cli_finish_output looks after standard output */
    }
    const bool had_error = ferror(stream) != 0;
    errno = 0;
    const bool is_written = fclose(stream) == 0 && !had_error;
    if (is_written &&
        (output->temporary[0] == '\0' || rename(output->temporary, output->path) == 0)) {
        return true;
    }
    const int error = errno != 0 ? errno : EIO;
    if (output->temporary[0] != '\0') {
        unlink(output->temporary);
    }
    return complain(output, error);
}

void output_drop(struct output *output)
{
    if (output->stream != NULL && output->stream != stdout) {
        fclose(output->stream);
        if (output->temporary[0] != '\0') {
            unlink(output->temporary);
        }
    }
    output->stream = NULL;
}

bool output_expand_name(const char *file, pid_t pid, char *name, size_t size)
{
    size_t len = 0;
    while (*file != '\0' && len < size) {
        if (file[0] == '%' && file[1] == 'p') {
            len += (size_t)snprintf(name + len, size - len, "%ld", (long)pid);
            file += 2;
        } else {
            name[len++] = *file++;
        }
    }
    if (len >= size) {
        return false;
    }
    name[len] = '\0';
    return true;
}
