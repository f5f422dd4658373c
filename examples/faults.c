/*
 * Memory errors, one each, to see how they are reported (docs/guard.md):
 *
 *     freehold run --mode debug -- build/release/examples/faults overflow
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct person {
    char name[16];
    struct person *next;
};

static __attribute__((noinline)) struct person *add(struct person *list, const char *name)
{
    struct person *person = malloc(sizeof *person);
    if (person == NULL)
        abort();
    snprintf(person->name, sizeof person->name, "%s", name);
    person->next = list;
    return person;
}

static __attribute__((noinline)) struct person *people(void)
{
    return add(add(add(NULL, "Ada"), "Barbara"), "Grace");
}

static __attribute__((noinline)) void remove_all(struct person *list)
{
    while (list != NULL) {
        struct person *next = list->next;
        free(list);
        list = next;
    }
}

/* The names in one line, with a blank after each. The size counts their letters, but neither blanks
 * nor the end. */
static __attribute__((noinline)) char *join(const struct person *list)
{
    size_t size = 0;
    for (const struct person *person = list; person != NULL; person = person->next)
        size += strlen(person->name);
    char *line = malloc(size);
    char *end = line;
    if (line == NULL)
        abort();
    for (const struct person *person = list; person != NULL; person = person->next) {
        for (const char *letter = person->name; *letter != '\0'; letter++)
            *end++ = *letter;
        *end++ = ' ';
    }
    *end = '\0';
    return line;
}

static __attribute__((noinline)) void overflow(void)
{
    struct person *list = people();
    char *line = join(list);
    printf("%s\n", line);
    free(line);
    remove_all(list);
}

static __attribute__((noinline)) void after_free(void)
{
    struct person *list = people();
    remove_all(list);
    printf("%s\n", list->name);
}

static __attribute__((noinline)) void double_free(void)
{
    struct person *list = people();
    struct person *first = list;
    remove_all(list);
    free(first);
    puts("freed twice");
}

static void unchecked(void)
{
    char *copy = strdup("a longer name");
    copy[0] = 'A'; /* and when there was no memory? */
    printf("%s\n", copy);
    free(copy);
}

static void good(void)
{
    struct person *list = people();
    for (const struct person *person = list; person != NULL; person = person->next)
        printf("%s\n", person->name);
    remove_all(list);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*commit)(void);
    } faults[] = {
        {"overflow", overflow},
        {"after-free", after_free},
        {"double-free", double_free},
        {"unchecked", unchecked},
        {"good", good},
    };
    for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++) {
        if (argc == 2 && strcmp(argv[1], faults[i].name) == 0) {
            faults[i].commit();
            return 0;
        }
    }
    fputs("usage: faults overflow|after-free|double-free|unchecked|good\n", stderr);
    return 2;
}
