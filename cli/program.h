/*
 * A program file, looked at before it is started: what it is, and whether a library can be
 * preloaded into it.
 */
#ifndef FH_CLI_PROGRAM_H
#define FH_CLI_PROGRAM_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>

/* What stands in the way of starting a program with Freehold in it, the first one found. */
enum program_obstacle {
    PROGRAM_IS_FINE,
    PROGRAM_NOT_FOUND,
    PROGRAM_IS_DIRECTORY,
    PROGRAM_NOT_EXECUTABLE,
    PROGRAM_OF_NO_KNOWN_KIND,
    PROGRAM_DAMAGED,
    PROGRAM_OTHER_ARCHITECTURE,
    PROGRAM_STATIC,
    PROGRAM_LOADER_MISSING,
    PROGRAM_OTHER_LIBC,
    PROGRAM_GAINS_PRIVILEGES,
    PROGRAM_SANITIZED,
    PROGRAM_INTERPRETER_MISSING,
    PROGRAM_INTERPRETERS_NESTED,
};

enum { PROGRAM_MOST_NEEDED = 64, PROGRAM_NAME_LENGTH = 96 };

struct program {
    char name[PATH_MAX];   /* as the user wrote it */
    char path[PATH_MAX];   /* the file that exec will be given */
    char binary[PATH_MAX]; /* the file whose code will run: `path`, or the interpreter of that
                              script */
    bool is_script;        /* so binary differs from path */

    enum program_obstacle obstacle;
    char detail[PATH_MAX]; /* what the obstacle's sentence names: an architecture, a loader, a user
                            */

    bool was_read; /* the fields below are valid: binary is readable and an ELF file of this
                      architecture */
    bool is_pie;
    bool is_static;
    bool has_relro;
    bool binds_now; /* with has_relro: full RELRO */
    bool has_canaries;
    bool has_executable_stack;
    bool has_branch_marks; /* indirect branches land on marks only: CET's IBT, Arm's BTI */
    bool has_return_marks; /* returns are checked: CET's SHSTK, Arm's PAC */
    bool has_symbols;      /* a dynamic symbol table was found; has_canaries and has_own_malloc mean
                            something */
    unsigned
        fortified; /* functions of libc that it calls in their checking form (FORTIFY_SOURCE) */
    unsigned unfortified; /* and those that have one, and are called without */
    bool has_own_free;
    bool has_own_malloc; /* the program file defines malloc: its own comes before a preloaded one */
    const char *sanitizer;  /* its name, or NULL */
    char loader[PATH_MAX];  /* PT_INTERP; empty when static */
    char runpath[PATH_MAX]; /* DT_RUNPATH, or the older DT_RPATH; empty when it has none */
    size_t needed_count;
    char needed[PROGRAM_MOST_NEEDED][PROGRAM_NAME_LENGTH];
};

/* Finds `name` as execvp would and looks at it; all that is found out is in *program. */
void program_inspect(struct program *program, const char *name);

/* One sentence: what is in the way, and what to do. Empty for PROGRAM_IS_FINE. */
void program_explain(const struct program *program, char *sentence, size_t size);

/* For subcommands that start a program: looks at it; 0, or the exit status after a complaint. */
int program_check(struct program *program, const char *name);
/* The program could not be started after all; the exit status, after a complaint. */
int program_complain_not_started(const char *path, int error);

/* NULL when the file is a library that replaces malloc by being preloaded, as far as its dynamic
 * symbols tell; else what is wrong with it, as the end of a sentence that begins with its name. */
const char *program_malloc_problem(const char *path);

/* The architecture this command (so its library) was built for: "x86-64". */
const char *program_our_architecture(void);

#endif
