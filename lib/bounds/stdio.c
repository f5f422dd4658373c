/* Reading and writing files: buffers of a given size, lines, strings. */
#include "bounds/bounds.h"

/* Bytes of an array; more than there is stays more than there is. */
static size_t bytes_of(size_t count, size_t size)
{
    size_t bytes;
    return __builtin_mul_overflow(count, size, &bytes) ? FH_ROOM_NOWHERE - 1
                                                       : fh_min(bytes, FH_ROOM_NOWHERE - 1);
}

/* ---- into the program ------------------------------------------------------------------------- */

#define READ_ARRAY(name, shown, parameters, ...)                                                   \
    FH_WRAP(size_t, name, parameters)                                                              \
    {                                                                                              \
        if (FH_IS_ON()) {                                                                          \
            FH_HERE(shown);                                                                        \
            fh_check_write(here, to, bytes_of(count, size));                                       \
        }                                                                                          \
        return fh_real.name(__VA_ARGS__);                                                          \
    }

READ_ARRAY(fread, fread, (void *to, size_t size, size_t count, struct fh_file *file), to, size,
           count, file)
READ_ARRAY(fread_unlocked, fread_unlocked,
           (void *to, size_t size, size_t count, struct fh_file *file), to, size, count, file)
READ_ARRAY(__fread_chk, fread,
           (void *to, size_t to_size, size_t size, size_t count, struct fh_file *file), to, to_size,
           size, count, file)
READ_ARRAY(__fread_unlocked_chk, fread_unlocked,
           (void *to, size_t to_size, size_t size, size_t count, struct fh_file *file), to, to_size,
           size, count, file)

#define READ_LINE(name, shown, parameters, ...)                                                    \
    FH_WRAP(char *, name, parameters)                                                              \
    {                                                                                              \
        if (FH_IS_ON() && max > 0) {                                                               \
            FH_HERE(shown);                                                                        \
            fh_check_write(here, to, (size_t)max);                                                 \
        }                                                                                          \
        return fh_real.name(__VA_ARGS__);                                                          \
    }

READ_LINE(fgets, fgets, (char *to, int max, struct fh_file *file), to, max, file)
READ_LINE(fgets_unlocked, fgets_unlocked, (char *to, int max, struct fh_file *file), to, max, file)
READ_LINE(__fgets_chk, fgets, (char *to, size_t to_size, int max, struct fh_file *file), to,
          to_size, max, file)
READ_LINE(__fgets_unlocked_chk, fgets_unlocked,
          (char *to, size_t to_size, int max, struct fh_file *file), to, to_size, max, file)

/* Nobody knows how long the line will be: it is looked at when it is there. */
FH_WRAP(char *, gets, (char *to))
{
    if (!FH_IS_ON())
        return fh_real.gets(to);
    FH_HERE(gets);
    fh_check_write(here, to, 1);
    char *line = fh_real.gets(to);
    if (line != NULL)
        fh_check_write(here, to, fh_real.strlen(to) + 1);
    return line;
}

FH_WRAP(char *, __gets_chk, (char *to, size_t to_size))
{
    if (FH_IS_ON()) {
        FH_HERE(gets);
        fh_check_write(here, to, 1);
    }
    return fh_real.__gets_chk(to, to_size);
}

/* *size bytes at *line are the function's to write or to resize. */
static void check_line(struct fh_here here, char **line, size_t *size)
{
    fh_check_write(here, line, sizeof(*line));
    fh_check_write(here, size, sizeof(*size));
    if (*line != NULL)
        fh_check_write(here, *line, *size);
}

FH_WRAP(ssize_t, getline, (char **line, size_t *size, struct fh_file *file))
{
    if (FH_IS_ON()) {
        FH_HERE(getline);
        check_line(here, line, size);
    }
    return fh_real.getline(line, size, file);
}

FH_WRAP(ssize_t, getdelim, (char **line, size_t *size, int end, struct fh_file *file))
{
    if (FH_IS_ON()) {
        FH_HERE(getdelim);
        check_line(here, line, size);
    }
    return fh_real.getdelim(line, size, end, file);
}

FH_WRAP(ssize_t, __getdelim, (char **line, size_t *size, int end, struct fh_file *file))
{
    if (FH_IS_ON()) {
        FH_HERE(getdelim);
        check_line(here, line, size);
    }
    return fh_real.__getdelim(line, size, end, file);
}

/* The file's buffer from now on. */
FH_WRAP(int, setvbuf, (struct fh_file * file, char *buffer, int kind, size_t size))
{
    if (FH_IS_ON() && buffer != NULL) {
        FH_HERE(setvbuf);
        fh_check_write(here, buffer, size);
    }
    return fh_real.setvbuf(file, buffer, kind, size);
}

/* ---- out of the program ----------------------------------------------------------------------- */

FH_WRAP(size_t, fwrite, (const void *from, size_t size, size_t count, struct fh_file *file))
{
    if (FH_IS_ON()) {
        FH_HERE(fwrite);
        fh_check_read(here, from, bytes_of(count, size));
    }
    return fh_real.fwrite(from, size, count, file);
}

FH_WRAP(size_t, fwrite_unlocked,
        (const void *from, size_t size, size_t count, struct fh_file *file))
{
    if (FH_IS_ON()) {
        FH_HERE(fwrite_unlocked);
        fh_check_read(here, from, bytes_of(count, size));
    }
    return fh_real.fwrite_unlocked(from, size, count, file);
}

FH_WRAP(int, fputs, (const char *s, struct fh_file *file))
{
    if (FH_IS_ON()) {
        FH_HERE(fputs);
        fh_check_string(here, s);
    }
    return fh_real.fputs(s, file);
}

FH_WRAP(int, fputs_unlocked, (const char *s, struct fh_file *file))
{
    if (FH_IS_ON()) {
        FH_HERE(fputs_unlocked);
        fh_check_string(here, s);
    }
    return fh_real.fputs_unlocked(s, file);
}

FH_WRAP(int, puts, (const char *s))
{
    if (FH_IS_ON()) {
        FH_HERE(puts);
        fh_check_string(here, s);
    }
    return fh_real.puts(s);
}

FH_WRAP(void, perror, (const char *s))
{
    if (FH_IS_ON() && s != NULL) {
        FH_HERE(perror);
        fh_check_string(here, s);
    }
    fh_real.perror(s);
}
