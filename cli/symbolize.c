/*
 * freehold symbolize: a saved report or log, with functions, files and lines in place of addresses.
 *
 * The same filter that `freehold run` has between a program and the terminal (frames.c), for what
 * was written without it: by a daemon, in a container, with FREEHOLD alone, or on another machine
 * whose files are here. Lines of text and JSON objects, one a line, may come mixed; what is
 * neither, or damaged, passes through byte by byte.
 */
#include "cli.h"
#include "frames.h"
#include "options.h"
#include "output.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OPTION_JSON = 1 };

static const struct cli_option options[] = {
    {"json", "FILE", "write the stacks and the errors to FILE (- for standard output) instead",
     OPTION_JSON},
};
enum { OPTIONS = sizeof(options) / sizeof(options[0]) };

struct request {
    const char *file;
    const char *json_file; /* NULL: none */
};

static int print_help(void)
{
    puts("Usage: freehold symbolize [OPTION...] FILE\n"
         "\n"
         "Prints FILE (- for standard input), a report or log of Freehold as text or as JSON\n"
         "lines, with function, file and line in place of addresses; inlined functions get a\n"
         "frame each. All else stays as it is. The programs and libraries that FILE names must\n"
         "be here, or the files with their debug information.\n"
         "\n"
         "Options:");
    cli_print_options(options, OPTIONS);
    puts("\n"
         "Exit status: 0 it worked, 2 wrong arguments or a file that can't be read or written.\n"
         "\n"
         "Examples:\n"
         "  freehold symbolize /var/log/server.freehold\n"
         "  FREEHOLD=mode=hardened ./server 2>&1 | freehold symbolize -");
    return cli_finish_output(CLI_OK, CLI_USAGE);
}

/* -1 when the request is complete, else the exit status. */
static int read_request(struct request *request, int argc, char **argv)
{
    struct cli_arguments arguments = {"freehold symbolize", options, OPTIONS, argc, argv, 1};
    const char *value;
    int id;
    while ((id = cli_next_option(&arguments, &value)) > 0) {
        request->json_file = value;
    }
    if (id == CLI_HELP) {
        return print_help();
    }
    if (id == CLI_BAD_OPTION) {
        return CLI_USAGE;
    }
    if (argc - arguments.next != 1) {
        cli_complain("symbolize reads one file; write: freehold symbolize FILE (- for standard "
                     "input)");
        return CLI_USAGE;
    }
    request->file = argv[arguments.next];
    return -1;
}

/* The line as a JSON object, or NULL. */
static struct json_object *parse(const char *line, size_t len)
{
    if (len == 0 || line[0] != '{' || len > INT32_MAX) {
        return NULL;
    }
    struct json_tokener *tokener = json_tokener_new();
    struct json_object *object =
        tokener != NULL ? json_tokener_parse_ex(tokener, line, (int)len) : NULL;
    json_tokener_free(tokener);
    return object;
}

static void write_as_json(struct frames *frames, struct json_object *object, const char *line,
                          size_t len, FILE *out)
{
    const int flags = JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE;
    if (frames_add_to_json(frames, object)) {
        fprintf(out, "%s\n", json_object_to_json_string_ext(object, flags));
    } else {
        fwrite(line, 1, len, out);
    }
}

/* In the array, when it is wanted. */
static void keep(struct json_object *errors, struct json_object *object)
{
    if (errors != NULL) {
        json_object_array_add(errors, object);
    } else {
        json_object_put(object);
    }
}

static bool copy(struct frames *frames, FILE *in, struct json_object *errors, FILE *out)
{
    struct frames_writer writer = {0};
    char *line = NULL;
    size_t size = 0;
    ssize_t len;
    while ((len = getline(&line, &size, in)) > 0) {
        struct json_object *object = parse(line, (size_t)len);
        if (object != NULL) {
            frames_flush(frames, &writer, out);
            write_as_json(frames, object, line, (size_t)len, out);
            keep(errors, object);
        } else {
            frames_take(frames, &writer, line, (size_t)len, out);
        }
    }
    frames_flush(frames, &writer, out);
    frames_forget(&writer);
    free(line);
    return ferror(in) == 0;
}

static void write_document(struct json_object *stacks, struct json_object *errors, const char *hint,
                           FILE *out)
{
    const int flags = JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_NOSLASHESCAPE;
    struct json_object *all = json_object_new_object();
    json_object_object_add(all, "freehold", json_object_new_int(1));
    json_object_object_add(all, "version", json_object_new_string(FREEHOLD_VERSION));
    json_object_object_add(all, "errors", errors);
    json_object_object_add(all, "stacks", stacks);
    if (hint != NULL) {
        json_object_object_add(all, "hint", json_object_new_string(hint));
    }
    fprintf(out, "%s\n", json_object_to_json_string_ext(all, flags));
    json_object_put(all);
}

/* The text is not wanted then, but writing it is how it is read. */
static bool copy_as_json(struct frames *frames, FILE *in, const struct output *output)
{
    FILE *nowhere = fopen("/dev/null", "we");
    if (nowhere == NULL) {
        return false;
    }
    struct json_object *errors = json_object_new_array();
    struct json_object *stacks = json_object_new_array();
    frames_collect(frames, stacks);
    const bool is_read = copy(frames, in, errors, nowhere);
    fclose(nowhere);
    write_document(stacks, errors, frames_hint(frames), output->stream);
    return is_read;
}

static int symbolize(const struct request *request, FILE *in)
{
    struct output output;
    struct frames *frames = frames_open();
    if (frames == NULL) {
        cli_complain("no memory");
        return CLI_USAGE;
    }
    if (!output_open(&output, "json", request->json_file)) {
        frames_close(frames);
        return CLI_USAGE;
    }
    const bool is_read = request->json_file != NULL ? copy_as_json(frames, in, &output)
                                                    : copy(frames, in, NULL, stdout);
    if (!is_read) {
        cli_complain("'%s' can't be read: %s", request->file, strerror(errno));
    }
    const bool is_written = output_finish(&output);
    const int status = cli_finish_output(is_read && is_written ? CLI_OK : CLI_USAGE, CLI_USAGE);
    const char *hint = frames_hint(frames);
    if (hint != NULL && request->json_file == NULL) {
        cli_complain("%s", hint);
    }
    frames_close(frames);
    return status;
}

int cli_symbolize(int argc, char **argv)
{
    struct request request = {0};
    int status = read_request(&request, argc, argv);
    if (status >= 0) {
        return status;
    }
    FILE *in = strcmp(request.file, "-") == 0 ? stdin : fopen(request.file, "re");
    if (in == NULL) {
        cli_complain("'%s' can't be read: %s", request.file, strerror(errno));
        return CLI_USAGE;
    }
    status = symbolize(&request, in);
    if (in != stdin) {
        fclose(in);
    }
    return status;
}
