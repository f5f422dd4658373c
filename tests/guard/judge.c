/*
 * The judge: runs bad programs and their good twins under one malloc after another and says what
 * came of each.
 *
 *     judge --cases PROGRAM --column NAME[=LIB[:LIB…]][;VAR=VALUE]…[;run=COMMAND
 *     …][;programs=PATH] … judge --programs DIR [--classes FILE] --column …
 *
 * The programs are the cases of one program (cases.c), or the pairs NAME_bad and NAME_good of a
 * folder. A column is a malloc: what is preloaded, variables of its environment, a command before
 * the program (`freehold run`, valgrind), another path where the same programs lie, recompiled.
 * Verdicts on a bad program:
 *
 *     message    it said something on its standard error
 *     right      the message names one of the kinds that the case allows ("freehold: ERROR: KIND")
 *     stopped    it did not come to its end: a signal, or a status that the case does not use
 *     harmed     its own oracle says so (status 10, or "harm: " in what it printed)
 *     safe       not harmed: stopped before, or ran on and did nobody harm. A public program has
 *     no oracle; with --with LIB one
 *                is preloaded, and a read that ran on is not called safe
 *     lines      each stack that the report can hold is there, with source lines
 *
 * A good twin must end well and say nothing; whatever else is a false alarm. Everything runs
 * --jobs at a time; a program that takes longer than --limit seconds is killed and counts as
 * missed.
 *
 * --floor FILE compares with what is expected, lines of `COLUMN KIND message% right% safe%
 * lines%`, and fails when one falls below; --write-floor FILE writes it. Status: 0; 1 a false
 * alarm, or below the floor; 2 usage.
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
    COLUMNS = 32,
    KINDS = 64,
    JOBS = 64,
    ARGUMENTS = 64,
    CLASSES = 256,
    OUTPUT = 256 << 10, /* what is looked at of a program's words */
    STATUS_HARM = 10,
    STATUS_NOT_HERE = 77,
};

struct column {
    const char *name, *libraries, *run, *programs;
    const char *variables[16];
    size_t variable_count;
};

struct item {
    char *name, *reports, *number; /* number: of a case; NULL: a program of its own */
    unsigned kind, stacks;
};

struct tally {
    unsigned total, message, right, stopped, safe, harmed, lines;
    unsigned good, alarms;
};

struct class
{
    char prefix[128], kind[64], reports[256];
    unsigned stacks;
    bool is_untold, is_out;
};

struct job {
    pid_t pid;
    size_t column, item;
    bool is_good;
    int out, err;
    uint64_t started;
};

static struct column columns[COLUMNS];
static size_t column_count;
static struct item *items;
static size_t item_count;
static char kinds[KINDS][64];
static bool kind_is_untold[KINDS], kind_is_out[KINDS];
static size_t kind_count;
static struct class classes[CLASSES];
static size_t class_count;
static struct tally tallies[COLUMNS][KINDS];
static struct job jobs[JOBS];
static unsigned job_limit, limit_s = 30, every = 1, first;
static const char *cases_program, *programs_folder, *json_path, *misses_path, *floor_path,
    *new_floor_path, *only, *with_library;
static bool has_good = true, is_quiet;
static FILE *misses, *json;

_Noreturn static void die(const char *format, ...) __attribute__((format(printf, 1, 2)));
_Noreturn static void die(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    fprintf(stderr, "judge: ");
    vfprintf(stderr, format, args);
    fprintf(stderr, "\n");
    va_end(args);
    exit(2);
}

static uint64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static char *copy_of(const char *text)
{
    char *copy = strdup(text);

    if (copy == NULL)
        die("no memory");
    return copy;
}

/* ---- what there is to run ------------------------------------------------------------- */

static unsigned kind_of(const char *name, bool is_untold, bool is_out)
{
    for (size_t i = 0; i < kind_count; i++) {
        if (strcmp(kinds[i], name) == 0)
            return (unsigned)i;
    }
    if (kind_count == KINDS)
        die("more than %d kinds", KINDS);
    snprintf(kinds[kind_count], sizeof kinds[0], "%s", name);
    kind_is_untold[kind_count] = is_untold;
    kind_is_out[kind_count] = is_out;
    return (unsigned)kind_count++;
}

/* --only: a list of beginnings, with commas between them. */
static bool is_wanted(const char *name)
{
    size_t length;

    if (only == NULL)
        return true;
    for (const char *at = only; *at != '\0'; at += length + (at[length] == ',')) {
        length = strcspn(at, ",");
        if (strncmp(name, at, length) == 0)
            return true;
    }
    return false;
}

static void add_item(const char *number, const char *name, const struct class *class)
{
    items = reallocarray(items, item_count + 1, sizeof *items);
    if (items == NULL)
        die("no memory");
    items[item_count++] = (struct item){
        .name = copy_of(name),
        .reports = copy_of(class->reports),
        .number = number == NULL ? NULL : copy_of(number),
        .kind = kind_of(class->kind, class->is_untold, class->is_out),
        .stacks = class->stacks,
    };
}

/* number, kind, name, stacks, reports */
static void add_case(char *const fields[5])
{
    struct class class = {.stacks = (unsigned)atoi(fields[3])};

    snprintf(class.kind, sizeof class.kind, "%s", fields[1]);
    snprintf(class.reports, sizeof class.reports, "%s", fields[4]);
    add_item(fields[0], fields[2], &class);
}

static void read_cases(void)
{
    char command[4096], line[1024];
    unsigned seen = 0;

    snprintf(command, sizeof command, "'%s' --list", cases_program);
    FILE *list = popen(command, "re");
    if (list == NULL)
        die("%s can't be run", cases_program);
    while (fgets(line, sizeof line, list) != NULL) {
        char *fields[5], *at = line;
        line[strcspn(line, "\n")] = '\0';
        for (int i = 0; i < 5; i++)
            fields[i] = at == NULL ? "" : strsep(&at, "\t");
        if (is_wanted(fields[2]) && seen++ % every == first)
            add_case(fields);
    }
    if (pclose(list) != 0 || item_count == 0)
        die("%s --list told no case", cases_program);
}

/* Lines as bench/guard/classes.txt explains them. */
static void read_classes(const char *path)
{
    char line[512], how[16];
    FILE *file = fopen(path, "re");
    int used;

    if (file == NULL)
        die("%s: %s", path, strerror(errno));
    while (fgets(line, sizeof line, file) != NULL && class_count < CLASSES) {
        struct class *class = &classes[class_count];
        if (line[0] == '#' || sscanf(line, "%127s %63s %15s %u %n", class->prefix, class->kind, how,
                                     &class->stacks, &used) != 4)
            continue;
        snprintf(class->reports, sizeof class->reports, "%.*s", (int)strcspn(line + used, "\n"),
                 line + used);
        class->is_untold = strcmp(how, "heap") != 0;
        class->is_out = strcmp(how, "out") == 0;
        class_count++;
    }
    fclose(file);
}

/* The first class whose prefix fits; * in it stands for anything. */
static const struct class *class_of(const char *name)
{
    static struct class other = {.kind = "other"};

    for (size_t i = 0; i < class_count; i++) {
        const char *star = strchr(classes[i].prefix, '*');
        size_t length =
            star == NULL ? strlen(classes[i].prefix) : (size_t)(star - classes[i].prefix);
        if (strncmp(name, classes[i].prefix, length) == 0 &&
            (star == NULL || strstr(name + length, star + 1) != NULL))
            return &classes[i];
    }
    return &other;
}

static int is_bad(const struct dirent *entry)
{
    size_t length = strlen(entry->d_name);

    return length > 4 && strcmp(entry->d_name + length - 4, "_bad") == 0;
}

static void read_folder(void)
{
    struct dirent **entries;
    int count = scandir(programs_folder, &entries, is_bad, alphasort);
    unsigned seen = 0;

    if (count < 0)
        die("%s: %s", programs_folder, strerror(errno));
    for (int i = 0; i < count; i++) {
        entries[i]->d_name[strlen(entries[i]->d_name) - 4] = '\0';
        const struct class *class = class_of(entries[i]->d_name);
        if (is_wanted(entries[i]->d_name) && seen++ % every == first)
            add_item(NULL, entries[i]->d_name, class);
        free(entries[i]);
    }
    free(entries);
}

/* The dynamic linker only warns of a library that is not there, and every program would pass. */
static void check_libraries(const struct column *column)
{
    char list[4096], *rest = list, *library;

    snprintf(list, sizeof list, "%s", column->libraries);
    while ((library = strsep(&rest, ":")) != NULL) {
        if (*library != '\0' && access(library, R_OK) != 0)
            die("column %s: %s: %s", column->name, library, strerror(errno));
    }
}

/* NAME[=LIBS][;VAR=VALUE]…[;run=COMMAND][;programs=PATH] */
static void add_column(char *text)
{
    if (column_count == COLUMNS)
        die("more than %d columns", COLUMNS);
    struct column *column = &columns[column_count++];
    char *name = strsep(&text, ";"), *field;

    column->name = strsep(&name, "=");
    column->libraries = name == NULL ? "" : name;
    check_libraries(column);
    while ((field = strsep(&text, ";")) != NULL) {
        if (strncmp(field, "run=", 4) == 0)
            column->run = field + 4;
        else if (strncmp(field, "programs=", 9) == 0)
            column->programs = field + 9;
        else if (strchr(field, '=') != NULL && column->variable_count < 16)
            column->variables[column->variable_count++] = field;
        else
            die("column %s: %s is neither VAR=VALUE, run=COMMAND nor programs=PATH", column->name,
                field);
    }
}

/* ---- one run -------------------------------------------------------------------------- */

static void preload(const struct column *column)
{
    char list[8192];

    snprintf(list, sizeof list, "%s%s%s", column->libraries,
             with_library != NULL && column->libraries[0] != '\0' ? ":" : "",
             with_library != NULL ? with_library : "");
    /* Under a command, the command says what is preloaded. */
    if (list[0] != '\0')
        setenv("LD_PRELOAD", list, 1);
}

static void program_of(const struct job *job, char *path, size_t size)
{
    const struct column *column = &columns[job->column];
    const struct item *item = &items[job->item];
    const char *place = item->number != NULL ? cases_program : programs_folder;

    if (column->programs != NULL)
        place = column->programs;
    if (item->number != NULL)
        snprintf(path, size, "%s", place);
    else
        snprintf(path, size, "%s/%s_%s", place, item->name, job->is_good ? "good" : "bad");
}

/* In the child. */
_Noreturn static void execute(const struct job *job)
{
    const struct column *column = &columns[job->column];
    const struct item *item = &items[job->item];
    char *arguments[ARGUMENTS], path[4096], input[8192], command[4096] = "";
    size_t count = 0;
    char *rest = command, *word;
    struct rlimit none = {0, 0}, output = {64 << 20, 64 << 20};

    program_of(job, path, sizeof path);
    snprintf(input, sizeof input, "%s/%s.in", programs_folder != NULL ? programs_folder : "",
             item->name);
    int in = open(input, O_RDONLY);
    if (in < 0)
        in = open("/dev/null", O_RDONLY);
    dup2(in, 0);
    dup2(job->out, 1);
    dup2(job->err, 2);
    setpgid(0, 0);
    setrlimit(RLIMIT_CORE, &none);
    setrlimit(RLIMIT_FSIZE, &output);
    for (size_t i = 0; i < column->variable_count; i++)
        putenv((char *)(uintptr_t)column->variables[i]);
    if (column->run != NULL)
        snprintf(command, sizeof command, "%s", column->run);
    while ((word = strsep(&rest, " ")) != NULL && count < ARGUMENTS - 4) {
        if (*word != '\0')
            arguments[count++] = word;
    }
    arguments[count++] = path;
    if (item->number != NULL)
        arguments[count++] = item->number;
    if (item->number != NULL && job->is_good)
        arguments[count++] = (char *)(uintptr_t) "good";
    arguments[count] = NULL;
    preload(column);
    execvp(arguments[0], arguments);
    _exit(126);
}

/* Whether there is such a program: some bad ones have no good twin. */
static bool start(struct job *job)
{
    char path[4096];

    program_of(job, path, sizeof path);
    if (access(path, X_OK) != 0)
        return false;
    job->out = memfd_create("out", MFD_CLOEXEC);
    job->err = memfd_create("err", MFD_CLOEXEC);
    if (job->out < 0 || job->err < 0)
        die("memfd_create: %s", strerror(errno));
    job->started = now_ms();
    job->pid = fork();
    if (job->pid < 0)
        die("fork: %s", strerror(errno));
    if (job->pid == 0)
        execute(job);
    return true;
}

/* ---- what it said --------------------------------------------------------------------- */

static char *words_of(int file)
{
    static char buffers[2][OUTPUT + 1];
    static unsigned turn;
    char *text = buffers[turn++ & 1];
    ssize_t size = pread(file, text, OUTPUT, 0);

    text[size > 0 ? size : 0] = '\0';
    for (ssize_t i = 0; i < size; i++) {
        if (text[i] == '\0')
            text[i] = ' ';
    }
    return text;
}

/* A line that is no message about memory: banners, what libstdc++ says of an exception,
 * warnings. */
static bool is_small_talk(const char *line)
{
    static const char *const beginnings[] = {
        "DUMA, built",
        "Copyright (C)",
        "terminate called",
        "  what():",
        "freehold: WARNING",
        "qemu: uncaught",
        "\n",
        "",
    };

    for (size_t i = 0; beginnings[i][0] != '\0'; i++) {
        if (strncmp(line, beginnings[i], strlen(beginnings[i])) == 0)
            return true;
    }
    return false;
}

static bool has_message(const char *text)
{
    for (const char *line = text; *line != '\0';
         line += strcspn(line, "\n"), line += *line == '\n') {
        if (!is_small_talk(line))
            return true;
    }
    return false;
}

/* Does "ERROR: KIND" name one of the kinds? */
static bool is_right(const char *text, const char *reports)
{
    const char *error = strstr(text, "ERROR: ");
    size_t length;

    if (error == NULL)
        return false;
    error += strlen("ERROR: ");
    if (strncmp(error, "AddressSanitizer: ", 18) == 0)
        error += 18;
    for (const char *at = reports; *at != '\0'; at += length + (at[length] == ' ')) {
        length = strcspn(at, " ");
        if (strncmp(error, at, length) == 0 && !isalnum((unsigned char)error[length]) &&
            error[length] != '-')
            return true;
    }
    return false;
}

static bool has_source_line(const char *frame, size_t length)
{
    for (size_t i = 0; i + 2 < length; i++) {
        if (frame[i] == ':' && isdigit((unsigned char)frame[i + 1]) && i > 2 &&
            (memcmp(frame + i - 2, ".c", 2) == 0 || memcmp(frame + i - 3, ".cc", 3) == 0 ||
             memcmp(frame + i - 3, "cpp", 3) == 0))
            return true;
    }
    return false;
}

/* How many stacks there are of which some frame has its source line. */
static unsigned stacks_with_lines(const char *text)
{
    unsigned stacks = 0;
    bool is_counted = true;

    for (const char *line = text; *line != '\0';
         line += strcspn(line, "\n"), line += *line == '\n') {
        const char *frame = line + strspn(line, " \t");
        size_t length = strcspn(frame, "\n");
        if (frame[0] != '#')
            continue;
        if (strncmp(frame, "#0", 2) == 0)
            is_counted = false;
        if (!is_counted && has_source_line(frame, length)) {
            stacks++;
            is_counted = true;
        }
    }
    return stacks;
}

/* ---- verdicts ------------------------------------------------------------------------- */

static void tell_miss(const struct job *job, const char *verdict, int status, const char *text)
{
    if (misses == NULL)
        return;
    fprintf(misses, "%s\t%s\t%s%s%s\t%s\tstatus 0x%x\t%.*s\n", columns[job->column].name, verdict,
            items[job->item].name, items[job->item].number != NULL ? " #" : "",
            items[job->item].number != NULL ? items[job->item].number : "",
            kinds[items[job->item].kind], status, (int)strcspn(text, "\n"), text);
}

static void tell_json(const struct job *job, const char *verdict, bool is_message,
                      bool is_right_kind, bool is_safe)
{
    static bool is_further;

    if (json == NULL)
        return;
    fprintf(json,
            "%s\n  {\"column\": \"%s\", \"kind\": \"%s\", \"name\": \"%s\", \"twin\": \"%s\", "
            "\"verdict\": \"%s\", "
            "\"message\": %s, \"right\": %s, \"safe\": %s}",
            is_further ? "," : "", columns[job->column].name, kinds[items[job->item].kind],
            items[job->item].name, job->is_good ? "good" : "bad", verdict,
            is_message ? "true" : "false", is_right_kind ? "true" : "false",
            is_safe ? "true" : "false");
    is_further = true;
}

static void judge_good(const struct job *job, struct tally *tally, int status, bool is_late,
                       const char *err)
{
    bool is_well = WIFEXITED(status) && !is_late &&
                   (WEXITSTATUS(status) == 0 ||
                    (items[job->item].number == NULL && WEXITSTATUS(status) < 10) ||
                    WEXITSTATUS(status) == STATUS_NOT_HERE);

    tally->good++;
    is_well = is_well && !has_message(err);
    if (!is_well) {
        tally->alarms++;
        tell_miss(job, "FALSE ALARM", status, err);
    }
    tell_json(job, is_well ? "well" : "false alarm", !is_well, false, true);
}

static void judge_bad(const struct job *job, struct tally *tally, int status, bool is_late,
                      const char *err, const char *out)
{
    const struct item *item = &items[job->item];
    /* A case has two statuses of its own; a public program may end with any. */
    bool is_end = WIFEXITED(status) && (item->number == NULL || WEXITSTATUS(status) == 0 ||
                                        WEXITSTATUS(status) == STATUS_HARM);
    bool is_message = has_message(err), is_right_kind = is_message && is_right(err, item->reports);
    bool is_harmed =
        (WIFEXITED(status) && WEXITSTATUS(status) == STATUS_HARM) || strstr(out, "harm: ") != NULL;
    bool is_stopped = !is_end && !is_late;
    bool is_safe =
        !is_harmed && !is_late && (is_stopped || is_message || !kind_is_untold[item->kind]);

    if (WIFEXITED(status) && WEXITSTATUS(status) == STATUS_NOT_HERE)
        return;
    /* A public program without an oracle that ran on. */
    if (item->number == NULL && with_library == NULL && !is_stopped && !is_message)
        is_safe = false;
    tally->total++;
    tally->message += is_message;
    tally->right += is_right_kind;
    tally->stopped += is_stopped;
    tally->harmed += is_harmed;
    tally->safe += is_safe;
    tally->lines += is_message && stacks_with_lines(err) >= item->stacks;
    const char *verdict = is_message && is_right_kind ? "named"
                          : is_message                ? "message"
                          : is_stopped                ? "stopped"
                          : is_safe                   ? "harmless"
                                                      : "missed";
    if (is_harmed && is_message)
        verdict = "named too late";
    if (!is_right_kind || is_harmed)
        tell_miss(job, verdict, status, err);
    tell_json(job, verdict, is_message, is_right_kind, is_safe);
}

static void finish(struct job *job, int status, bool is_late)
{
    const struct item *item = &items[job->item];
    struct tally *tally = &tallies[job->column][item->kind];
    const char *err = words_of(job->err), *out = words_of(job->out);

    /* What is not an error at all is judged like a good twin. */
    if (job->is_good || (item->number != NULL && item->reports[0] == '\0'))
        judge_good(job, tally, status, is_late, err);
    else
        judge_bad(job, tally, status, is_late, err, out);
    close(job->out);
    close(job->err);
    job->pid = 0;
}

/* ---- all of them ---------------------------------------------------------------------- */

static struct job *job_of(pid_t pid)
{
    for (unsigned i = 0; i < job_limit; i++) {
        if (jobs[i].pid == pid)
            return &jobs[i];
    }
    return NULL;
}

/* Waits for one to end, and ends those that take too long. */
static void wait_for_one(void)
{
    static bool is_late[JOBS];
    sigset_t child;
    int status;

    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    for (;;) {
        pid_t pid = waitpid(-1, &status, WNOHANG);
        if (pid > 0) {
            struct job *job = job_of(pid);
            if (job == NULL)
                continue;
            kill(-pid, SIGKILL); /* what it has left running */
            finish(job, status, is_late[job - jobs]);
            is_late[job - jobs] = false;
            return;
        }
        struct timespec pause = {0, 200000000};
        sigtimedwait(&child, NULL, &pause);
        for (unsigned i = 0; i < job_limit; i++) {
            if (jobs[i].pid > 0 && now_ms() - jobs[i].started > limit_s * 1000) {
                is_late[i] = true;
                kill(-jobs[i].pid, SIGKILL);
                kill(jobs[i].pid, SIGKILL);
            }
        }
    }
}

static void run_all(void)
{
    size_t twins = has_good ? 2 : 1, total = column_count * item_count * twins;
    unsigned running = 0;
    sigset_t child;

    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    sigprocmask(SIG_BLOCK, &child, NULL);
    for (size_t done = 0; done < total || running > 0;) {
        struct job *job = running < job_limit && done < total ? job_of(0) : NULL;
        if (job == NULL) {
            wait_for_one();
            running--;
            continue;
        }
        job->column =
            done / twins %
            column_count; /* columns side by side: what else the machine does falls on all */
        job->item = done / twins / column_count;
        job->is_good = done % twins == 1;
        done++;
        if (!start(job))
            continue;
        running++;
        if (!is_quiet && isatty(2) && done % 64 == 0)
            fprintf(stderr, "\r%zu of %zu ", done, total);
    }
}

/* ---- tables --------------------------------------------------------------------------- */

/* What chance decides is expected five points lower than it was. */
static unsigned floor_of(unsigned part, unsigned whole)
{
    unsigned reached = part * 100 / whole;

    return reached == 100 || reached < 5 ? reached : reached - 5;
}

static unsigned percent(unsigned part, unsigned whole)
{
    return whole == 0 ? 100 : part * 100 / whole;
}

static struct tally sum_of(size_t column)
{
    struct tally sum = {0};

    for (size_t i = 0; i < kind_count; i++) {
        const struct tally *tally = &tallies[column][i];
        sum.good += tally->good;
        sum.alarms += tally->alarms;
        if (kind_is_out[i])
            continue;
        sum.total += tally->total;
        sum.message += tally->message;
        sum.right += tally->right;
        sum.stopped += tally->stopped;
        sum.safe += tally->safe;
        sum.harmed += tally->harmed;
        sum.lines += tally->lines;
    }
    return sum;
}

static void print_cell(const struct tally *tally)
{
    if (tally->total == 0)
        printf(" – |");
    else
        printf(" %u %u %u |", tally->message, tally->right, tally->safe);
}

static void print_tables(void)
{
    printf("With a message, of the right kind, stopped or harmless:\n\n| kind | bad |");
    for (size_t c = 0; c < column_count; c++)
        printf(" %s |", columns[c].name);
    printf("\n|---|---:|");
    for (size_t c = 0; c < column_count; c++)
        printf("---:|");
    for (size_t k = 0; k < kind_count; k++) {
        printf("\n| %s | %u |", kinds[k], tallies[0][k].total);
        for (size_t c = 0; c < column_count; c++)
            print_cell(&tallies[c][k]);
    }
    printf("\n| all | %u |", sum_of(0).total);
    for (size_t c = 0; c < column_count; c++) {
        struct tally sum = sum_of(c);
        print_cell(&sum);
    }
    printf("\n\n| | bad | with a message | of the right kind | with all stacks and lines | stopped "
           "or harmless | good | false "
           "alarms |\n|---|---:|---:|---:|---:|---:|---:|---:|\n");
    for (size_t c = 0; c < column_count; c++) {
        struct tally sum = sum_of(c);
        printf("| %s | %u | %u (%u %%) | %u | %u | %u (%u %%) | %u | %u |\n", columns[c].name,
               sum.total, sum.message, percent(sum.message, sum.total), sum.right, sum.lines,
               sum.safe, percent(sum.safe, sum.total), sum.good, sum.alarms);
    }
}

static void write_floor(void)
{
    FILE *file = fopen(new_floor_path, "we");

    if (file == NULL)
        die("%s: %s", new_floor_path, strerror(errno));
    fprintf(file, "# Per cent of the bad cases, at least: with a message, of the right kind, "
                  "stopped or harmless.\n");
    for (size_t c = 0; c < column_count; c++) {
        for (size_t k = 0; k < kind_count; k++) {
            const struct tally *tally = &tallies[c][k];
            if (tally->total != 0)
                fprintf(file, "%s %s %u %u %u %u\n", columns[c].name, kinds[k],
                        floor_of(tally->message, tally->total),
                        floor_of(tally->right, tally->total), floor_of(tally->safe, tally->total),
                        floor_of(tally->lines, tally->total));
        }
    }
    fclose(file);
}

/* Of a sample, chance may miss twice as many and one more; what is always caught is caught there
 * too. */
static unsigned allowed_misses(unsigned whole, unsigned least)
{
    unsigned misses_of_all = (whole * (100 - least) + 99) / 100;

    return least == 100 || every == 1 ? misses_of_all : 2 * misses_of_all + 1;
}

static bool is_below(const char *column, const char *kind, const char *what, unsigned part,
                     unsigned whole, unsigned least)
{
    if (whole - part <= allowed_misses(whole, least))
        return false;
    printf("FAILED: %s: expected %u %% of the %u cases of %s to be %s, it was %u\n", column, least,
           whole, kind, what, part);
    return true;
}

static bool falls_below_floor(void)
{
    char line[256], column[64], kind[64];
    unsigned message, right, safe, lines;
    bool is_low = false;
    FILE *file = fopen(floor_path, "re");

    if (file == NULL)
        die("%s: %s", floor_path, strerror(errno));
    while (fgets(line, sizeof line, file) != NULL) {
        if (line[0] == '#' || sscanf(line, "%63s %63s %u %u %u %u", column, kind, &message, &right,
                                     &safe, &lines) != 6)
            continue;
        for (size_t c = 0; c < column_count; c++) {
            for (size_t k = 0; k < kind_count && strcmp(columns[c].name, column) == 0; k++) {
                const struct tally *tally = &tallies[c][k];
                if (strcmp(kinds[k], kind) != 0 || tally->total == 0)
                    continue;
                is_low |= is_below(column, kind, "reported", tally->message, tally->total, message);
                is_low |= is_below(column, kind, "reported as what they are", tally->right,
                                   tally->total, right);
                is_low |=
                    is_below(column, kind, "stopped or harmless", tally->safe, tally->total, safe);
                is_low |= is_below(column, kind, "reported with all stacks and lines", tally->lines,
                                   tally->total, lines);
            }
        }
    }
    fclose(file);
    return is_low;
}

/* ---- options -------------------------------------------------------------------------- */

enum {
    OPTION_CASES = 256,
    OPTION_PROGRAMS,
    OPTION_CLASSES,
    OPTION_COLUMN,
    OPTION_JOBS,
    OPTION_LIMIT,
    OPTION_ONLY,
    OPTION_EVERY,
    OPTION_FIRST,
    OPTION_NO_GOOD,
    OPTION_WITH,
    OPTION_JSON,
    OPTION_MISSES,
    OPTION_FLOOR,
    OPTION_WRITE_FLOOR,
    OPTION_QUIET,
};

static void read_options(int argc, char **argv)
{
    static const struct option options[] = {
        {"cases", required_argument, NULL, OPTION_CASES},
        {"programs", required_argument, NULL, OPTION_PROGRAMS},
        {"classes", required_argument, NULL, OPTION_CLASSES},
        {"column", required_argument, NULL, OPTION_COLUMN},
        {"jobs", required_argument, NULL, OPTION_JOBS},
        {"limit", required_argument, NULL, OPTION_LIMIT},
        {"only", required_argument, NULL, OPTION_ONLY},
        {"every", required_argument, NULL, OPTION_EVERY},
        {"first", required_argument, NULL, OPTION_FIRST},
        {"no-good", no_argument, NULL, OPTION_NO_GOOD},
        {"with", required_argument, NULL, OPTION_WITH},
        {"json", required_argument, NULL, OPTION_JSON},
        {"misses", required_argument, NULL, OPTION_MISSES},
        {"floor", required_argument, NULL, OPTION_FLOOR},
        {"write-floor", required_argument, NULL, OPTION_WRITE_FLOOR},
        {"quiet", no_argument, NULL, OPTION_QUIET},
        {NULL, 0, NULL, 0},
    };
    int option;

    job_limit = (unsigned)sysconf(_SC_NPROCESSORS_ONLN);
    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (option) {
        case OPTION_CASES:
            cases_program = optarg;
            break;
        case OPTION_PROGRAMS:
            programs_folder = optarg;
            break;
        case OPTION_CLASSES:
            read_classes(optarg);
            break;
        case OPTION_COLUMN:
            add_column(optarg);
            break;
        case OPTION_JOBS:
            job_limit = (unsigned)atoi(optarg);
            break;
        case OPTION_LIMIT:
            limit_s = (unsigned)atoi(optarg);
            break;
        case OPTION_ONLY:
            only = optarg;
            break;
        case OPTION_EVERY:
            every = (unsigned)atoi(optarg);
            break;
        case OPTION_FIRST:
            first = (unsigned)atoi(optarg);
            break;
        case OPTION_NO_GOOD:
            has_good = false;
            break;
        case OPTION_WITH:
            with_library = optarg;
            break;
        case OPTION_JSON:
            json_path = optarg;
            break;
        case OPTION_MISSES:
            misses_path = optarg;
            break;
        case OPTION_FLOOR:
            floor_path = optarg;
            break;
        case OPTION_WRITE_FLOOR:
            new_floor_path = optarg;
            break;
        case OPTION_QUIET:
            is_quiet = true;
            break;
        default:
            exit(2);
        }
    }
    if ((cases_program == NULL) == (programs_folder == NULL) || column_count == 0 || every == 0 ||
        job_limit == 0 || job_limit > JOBS)
        die("usage: judge --cases PROGRAM | --programs DIR, and at least one --column; see the "
            "beginning of judge.c");
}

static FILE *written(const char *path)
{
    FILE *file = path == NULL ? NULL : fopen(path, "we");

    if (path != NULL && file == NULL)
        die("%s: %s", path, strerror(errno));
    return file;
}

int main(int argc, char **argv)
{
    unsigned alarms = 0;

    read_options(argc, argv);
    misses = written(misses_path);
    json = written(json_path);
    if (cases_program != NULL)
        read_cases();
    else
        read_folder();
    if (json != NULL)
        fprintf(json, "[");
    run_all();
    if (json != NULL) {
        fprintf(json, "\n]\n");
        fclose(json);
    }
    if (misses != NULL)
        fclose(misses);
    if (!is_quiet)
        print_tables();
    if (new_floor_path != NULL)
        write_floor();
    bool is_low = floor_path != NULL && falls_below_floor();
    for (size_t c = 0; c < column_count; c++) {
        unsigned here = sum_of(c).alarms;
        if (here != 0 && floor_path != NULL)
            printf("FAILED: %s: expected no false alarm, there were %u\n", columns[c].name, here);
        alarms += here;
    }
    return is_low || (floor_path != NULL && alarms != 0) ? 1 : 0;
}
