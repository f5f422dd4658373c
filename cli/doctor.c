/*
 * freehold doctor: what this machine, and a program, allow.
 *
 * Two lists of findings of the same form: one of the machine (machine.c) and, when a program is
 * named, one of its file (program.c), ending in a verdict. A finding is a state, what it means, and
 * what to do where something can be done. The report goes to standard output; --json writes the
 * same findings for other programs.
 *
 * The exit status is 1 when something needed is missing: our library, or a program that can't be
 * preloaded; a machine that only lacks a convenience is well. A program that is not found is 2 (the
 * command line is wrong), a damaged one 3.
 */
#include "cli.h"
#include "library.h"
#include "machine.h"
#include "options.h"
#include "program.h"
#include "term.h"

#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { OPTION_JSON = 1 };

static const struct cli_option options[] = {
    {"json", "FILE", "write the findings to FILE (- for standard output) instead", OPTION_JSON},
};
enum { OPTIONS = sizeof(options) / sizeof(options[0]) };

enum { NAME_CELLS = 22, STATE_CELLS = 24 };

static int print_help(void)
{
    puts("Usage: freehold doctor [OPTION...] [PROG]\n"
         "\n"
         "Says what this machine allows a memory manager, what each thing means and how to\n"
         "get it; and whether PROG can be run with Freehold.\n"
         "\n"
         "Options:");
    cli_print_options(options, OPTIONS);
    puts("\n"
         "Exit status: 0 all is well, 1 PROG can't be preloaded or Freehold is incomplete,\n"
         "2 wrong arguments, 3 PROG is damaged.\n"
         "\n"
         "Examples:\n"
         "  freehold doctor\n"
         "  freehold doctor /usr/bin/python3");
    return cli_finish_output(CLI_OK, CLI_USAGE);
}

/* ---- Freehold itself ---- */

static void look_at_freehold(struct findings *findings)
{
    char path[PATH_MAX];
    const bool is_there = library_find("libfreehold-malloc", path, sizeof(path));
    struct finding *finding =
        findings_add(findings, "Freehold", "library", is_there ? FINDING_GOOD : FINDING_MISSING,
                     "%s", is_there ? "found" : "not found");
    finding->meaning = is_there
                           ? "freehold run can preload it"
                           : "libfreehold-malloc.so is not beside this command nor in its library "
                             "folder";
    finding->remedy = is_there ? NULL : "install Freehold again";
}

/* ---- A program ---- */

static const char group_program[] = "Program";

/* A property of the file, good or not; then `remedy` says what to do, or is NULL. */
static void add_fact(struct findings *findings, const char *name, bool is_good, const char *state,
                     const char *meaning, const char *remedy)
{
    struct finding *finding = findings_add(findings, group_program, name,
                                           is_good ? FINDING_GOOD : FINDING_LIMITED, "%s", state);
    finding->meaning = meaning;
    finding->remedy = is_good ? NULL : remedy;
}

static void add_needed(struct findings *findings, const struct program *program)
{
    findings_add(findings, group_program, "libraries", FINDING_PLAIN, "%zu needed",
                 program->needed_count)
        ->meaning = "named in the file itself; --json lists them";
    for (size_t i = 0; i < program->needed_count; i++) {
        static const char *const allocators[] = {"libjemalloc", "libtcmalloc", "libmimalloc",
                                                 "libsnmalloc", "librpmalloc", "libhoard"};
        for (size_t k = 0; k < sizeof(allocators) / sizeof(allocators[0]); k++) {
            if (strncmp(program->needed[i], allocators[k], strlen(allocators[k])) == 0) {
                findings_add(findings, group_program, "allocator", FINDING_PLAIN, "%s",
                             program->needed[i])
                    ->meaning = "is linked, and Freehold, being preloaded, comes before it";
            }
        }
    }
}

/* Whether a folder of the list depends on where the program is started, or is one that everybody
 * writes to. */
static bool has_open_folder(const char *list)
{
    for (const char *folder = list;;) {
        const size_t len = strcspn(folder, ":");
        if ((*folder != '/' && *folder != '$') || strncmp(folder, "/tmp", 4) == 0 ||
            strncmp(folder, "/var/tmp", 8) == 0) {
            return true;
        }
        if (folder[len] == '\0') {
            return false;
        }
        folder += len + 1;
    }
}

static void look_at_runpath(struct findings *findings, const struct program *program)
{
    if (program->runpath[0] == '\0') {
        add_fact(findings, "library path", true, "the system's", "libraries come from its folders",
                 NULL);
        return;
    }
    const bool is_open = has_open_folder(program->runpath);
    struct finding *finding =
        findings_add(findings, group_program, "library path",
                     is_open ? FINDING_LIMITED : FINDING_PLAIN, "%.120s", program->runpath);
    finding->meaning = is_open ? "libraries may come from folders that anybody writes to"
                               : "libraries are looked for there first (RUNPATH)";
    finding->remedy = is_open ? "link with absolute folders, or $ORIGIN, in -rpath" : NULL;
}

/* What the linker decided. */
static void look_at_layout(struct findings *findings, const struct program *program)
{
    add_fact(findings, "position independent", program->is_pie, program->is_pie ? "yes" : "no",
             program->is_pie ? "its own code and data are placed at random"
                             : "its code and data lie where everybody knows",
             "build with -fPIE, link with -pie");
    const bool is_full = program->has_relro && program->binds_now;
    add_fact(findings, "relocations read-only", is_full,
             is_full              ? "full"
             : program->has_relro ? "partial"
                                  : "none",
             is_full ? "the table of function addresses can't be overwritten"
                     : "the table of function addresses stays writable",
             "link with -z relro -z now");
    add_fact(findings, "stack", !program->has_executable_stack,
             program->has_executable_stack ? "executable" : "not executable",
             program->has_executable_stack ? "what overflows onto the stack can be run as code"
                                           : "data on the stack can't be run as code",
             "link with -z noexecstack; an assembly file needs a .note.GNU-stack section");
    look_at_runpath(findings, program);
}

static void look_at_fortification(struct findings *findings, const struct program *program)
{
    const unsigned all = program->fortified + program->unfortified;
    if (all == 0) {
        findings_add(findings, group_program, "fortified functions", FINDING_PLAIN, "none to do")
            ->meaning = "it calls no function that has a checking form";
        return;
    }
    struct finding *finding = findings_add(findings, group_program, "fortified functions",
                                           program->fortified > 0 ? FINDING_GOOD : FINDING_LIMITED,
                                           "%u of %u", program->fortified, all);
    finding->meaning = program->fortified > 0
                           ? "copies into blocks of known size are checked (FORTIFY_SOURCE)"
                           : "no copy is checked against the size of its target";
    finding->remedy = program->fortified > 0 ? NULL : "build with -O2 -D_FORTIFY_SOURCE=3";
}

/* Neither good nor bad: most distributions build without, and most kernels do not ask. */
static void look_at_control_flow(struct findings *findings, const struct program *program)
{
#if defined(__aarch64__)
    static const char *const names[] = {"none", "BTI", "PAC", "BTI and PAC"};
    static const char remedy[] = "build all of it with -mbranch-protection=standard";
#else
    static const char *const names[] = {"none", "IBT", "SHSTK", "IBT and SHSTK"};
    static const char remedy[] = "build all of it with -fcf-protection=full";
#endif
    const unsigned marks =
        (program->has_branch_marks ? 1U : 0U) + (program->has_return_marks ? 2U : 0U);
    struct finding *finding =
        findings_add(findings, group_program, "control flow marks",
                     marks == 3 ? FINDING_GOOD : FINDING_PLAIN, "%s", names[marks]);
    finding->meaning = marks == 3 ? "a CPU and kernel that check jumps and returns may do so"
                                  : "jumps or returns can't be checked by the CPU (CET, BTI)";
    finding->remedy = marks == 3 ? NULL : remedy;
}

/* What the compiler decided. */
static void look_at_instructions(struct findings *findings, const struct program *program)
{
    look_at_control_flow(findings, program);
    if (!program->has_symbols) {
        return;
    }
    add_fact(findings, "stack canaries", program->has_canaries,
             program->has_canaries ? "yes" : "none seen",
             program->has_canaries ? "overflows of arrays on the stack end the program"
                                   : "overflows of arrays on the stack may pass",
             "build with -fstack-protector-strong");
    look_at_fortification(findings, program);
    if (program->has_own_malloc) {
        add_fact(findings, "malloc of its own", false, "yes",
                 "comes before a preloaded one: Freehold gets only what it leaves",
                 "build it without, if it has such an option");
    }
}

static void look_at_binary(struct findings *findings, const struct program *program)
{
    if (program->is_script && program->binary[0] != '\0') {
        findings_add(findings, group_program, "script", FINDING_PLAIN, "%.120s", program->binary)
            ->meaning = "is the program that runs it";
    }
    if (!program->was_read) {
        return;
    }
    findings_add(findings, group_program, "architecture", FINDING_GOOD, "%s",
                 program_our_architecture())
        ->meaning = "the same as Freehold's";
    add_fact(findings, "linking", !program->is_static, program->is_static ? "static" : "dynamic",
             program->is_static ? "there is no loader that could preload"
                                : "the loader can preload",
             "link it dynamically, or with libfreehold-malloc.a");
    if (!program->is_static) {
        findings_add(findings, group_program, "loader", FINDING_PLAIN, "%.120s", program->loader)
            ->meaning = "loads it, and what is to be preloaded";
        add_needed(findings, program);
    }
    look_at_layout(findings, program);
    look_at_instructions(findings, program);
    const bool gains = program->obstacle == PROGRAM_GAINS_PRIVILEGES;
    add_fact(findings, "privileges", !gains, gains ? program->detail : "none gained",
             gains ? "the system ignores what its user wants preloaded"
                   : "the loader obeys its user",
             "run a copy without them, or start freehold as that user");
    add_fact(findings, "sanitizer", program->sanitizer == NULL,
             program->sanitizer == NULL ? "none" : program->sanitizer,
             program->sanitizer == NULL ? "malloc is free to be replaced"
                                        : "it brings its own malloc",
             "build it without -fsanitize");
}

/* The sentence lives as long as the findings. */
static void add_verdict(struct findings *findings, const struct program *program, char *sentence,
                        size_t size)
{
    program_explain(program, sentence, size);
    const bool is_fine = program->obstacle == PROGRAM_IS_FINE;
    struct finding *finding =
        findings_add(findings, group_program, "verdict", is_fine ? FINDING_GOOD : FINDING_MISSING,
                     "%s", is_fine ? "can be preloaded" : "can't be preloaded");
    finding->meaning = is_fine ? "start it by: freehold run -- PROG" : sentence;
}

/* ---- The report ---- */

static void print_mark(const struct term *term, enum finding_status status)
{
    static const struct {
        enum term_style style;
        const char *unicode;
        const char *ascii;
    } marks[] = {
        [FINDING_GOOD] = {TERM_GOOD, "✓", "ok"},
        [FINDING_PLAIN] = {TERM_DIM, "·", " -"},
        [FINDING_LIMITED] = {TERM_WARN, "!", " !"},
        [FINDING_MISSING] = {TERM_BAD, "✗", "XX"},
    };
    fprintf(term->out, "  %s%s%s ", term_style(term, marks[status].style),
            term_pick(term, marks[status].unicode, marks[status].ascii),
            term_style(term, TERM_PLAIN));
}

static void print_findings(const struct term *term, const struct findings *findings)
{
    const char *group = "";
    for (size_t i = 0; i < findings->count; i++) {
        const struct finding *finding = &findings->items[i];
        if (strcmp(group, finding->group) != 0) {
            group = finding->group;
            fprintf(term->out, "%s%s%s%s\n", i > 0 ? "\n" : "", term_style(term, TERM_BOLD), group,
                    term_style(term, TERM_PLAIN));
        }
        print_mark(term, finding->status);
        fprintf(term->out, "%-*s %-*s %s%s%s\n", NAME_CELLS, finding->name, STATE_CELLS,
                finding->state, term_style(term, TERM_DIM), finding->meaning,
                term_style(term, TERM_PLAIN));
        if (finding->remedy != NULL) {
            fprintf(term->out, "    %*s %s%s\n", NAME_CELLS, "", term_pick(term, "→ ", "-> "),
                    finding->remedy);
        }
    }
}

static struct json_object *findings_as_json(const struct findings *findings)
{
    static const char *const statuses[] = {[FINDING_GOOD] = "good",
                                           [FINDING_PLAIN] = "plain",
                                           [FINDING_LIMITED] = "limited",
                                           [FINDING_MISSING] = "missing"};
    struct json_object *array = json_object_new_array();
    for (size_t i = 0; i < findings->count; i++) {
        const struct finding *finding = &findings->items[i];
        struct json_object *object = json_object_new_object();
        json_object_object_add(object, "group", json_object_new_string(finding->group));
        json_object_object_add(object, "name", json_object_new_string(finding->name));
        json_object_object_add(object, "status", json_object_new_string(statuses[finding->status]));
        json_object_object_add(object, "state", json_object_new_string(finding->state));
        json_object_object_add(object, "meaning", json_object_new_string(finding->meaning));
        if (finding->remedy != NULL) {
            json_object_object_add(object, "remedy", json_object_new_string(finding->remedy));
        }
        json_object_array_add(array, object);
    }
    return array;
}

/* The needed libraries' names, which the text only counts. */
static struct json_object *program_as_json(const struct program *program)
{
    struct json_object *object = json_object_new_object();
    struct json_object *needed = json_object_new_array();
    json_object_object_add(object, "path", json_object_new_string(program->path));
    json_object_object_add(object, "binary", json_object_new_string(program->binary));
    json_object_object_add(object, "can_be_preloaded",
                           json_object_new_boolean(program->obstacle == PROGRAM_IS_FINE));
    for (size_t i = 0; i < program->needed_count; i++) {
        json_object_array_add(needed, json_object_new_string(program->needed[i]));
    }
    json_object_object_add(object, "needed", needed);
    return object;
}

static bool write_json(const char *file, const struct findings *findings,
                       const struct program *program)
{
    struct json_object *all = json_object_new_object();
    json_object_object_add(all, "freehold", json_object_new_int(1));
    json_object_object_add(all, "version", json_object_new_string(FREEHOLD_VERSION));
    json_object_object_add(all, "findings", findings_as_json(findings));
    if (program != NULL) {
        json_object_object_add(all, "program", program_as_json(program));
    }
    const int flags = JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_NOSLASHESCAPE;
    FILE *out = strcmp(file, "-") == 0 ? stdout : fopen(file, "we");
    bool is_written = out != NULL;
    if (is_written) {
        is_written = fprintf(out, "%s\n", json_object_to_json_string_ext(all, flags)) > 0;
        is_written = (out == stdout ? fflush(out) : fclose(out)) == 0 && is_written;
    }
    if (!is_written) {
        cli_complain("--json: '%s' can't be written: %s", file, strerror(errno));
    }
    json_object_put(all);
    return is_written;
}

/* ---- The whole ---- */

static int status_of(const struct findings *findings, const struct program *program)
{
    if (program != NULL && program->obstacle == PROGRAM_DAMAGED) {
        return CLI_DAMAGED;
    }
    for (size_t i = 0; i < findings->count; i++) {
        if (findings->items[i].status == FINDING_MISSING) {
            return CLI_FINDINGS;
        }
    }
    return CLI_OK;
}

/* -1 when the arguments are read, else the exit status. */
static int read_arguments(int argc, char **argv, const char **json_file, const char **name)
{
    struct cli_arguments arguments = {"freehold doctor", options, OPTIONS, argc, argv, 1};
    const char *value;
    int id;
    while ((id = cli_next_option(&arguments, &value)) > 0) {
        *json_file = value;
    }
    if (id == CLI_HELP) {
        return print_help();
    }
    if (id == CLI_BAD_OPTION) {
        return CLI_USAGE;
    }
    if (argc - arguments.next > 1) {
        cli_complain("doctor looks at one program at a time, and '%s' is one too many",
                     argv[arguments.next + 1]);
        return CLI_USAGE;
    }
    if (arguments.next < argc) {
        *name = argv[arguments.next];
    }
    return -1;
}

int cli_doctor(int argc, char **argv)
{
    static struct program inspected;
    static struct findings findings;
    static char sentence[3 * PATH_MAX];
    const struct program *program = NULL;
    const char *json_file = NULL;
    const char *name = NULL;
    const int status = read_arguments(argc, argv, &json_file, &name);
    if (status >= 0) {
        return status;
    }
    if (name != NULL) {
        program = &inspected;
        program_inspect(&inspected, name);
        if (program->obstacle == PROGRAM_NOT_FOUND) {
            program_explain(program, sentence, sizeof(sentence));
            cli_complain("%s", sentence);
            return CLI_USAGE;
        }
    }
    look_at_freehold(&findings);
    machine_inspect(&findings);
    if (program != NULL) {
        look_at_binary(&findings, program);
        add_verdict(&findings, program, sentence, sizeof(sentence));
    }
    if (json_file != NULL) {
        return write_json(json_file, &findings, program) ? status_of(&findings, program)
                                                         : CLI_USAGE;
    }
    struct term term;
    term_open(&term, stdout);
    print_findings(&term, &findings);
    return cli_finish_output(status_of(&findings, program), CLI_USAGE);
}
