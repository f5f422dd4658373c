/*
 * What the programs of the system tests share. They are ordinary programs: they know nothing of
 * Freehold and run under whatever malloc is preloaded, glibc's own too, so a test that fails under
 * each of them is the test's fault.
 *
 * Nothing here allocates by malloc: tables come from mmap, messages are formatted on the stack and
 * written by write(2), so that a program can say what is wrong with a heap that is broken. The one
 * thing taken from Freehold, its check of all heaps, is looked up at run time and left out where it
 * is missing.
 *
 * A failure says what was expected of whom and ends the process with status 1; alarm() bounds every
 * program, and death by SIGALRM is how a script recognises a hang.
 */
#ifndef FH_TESTS_COMMON_H
#define FH_TESTS_COMMON_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define UNUSED __attribute__((unused))

/* How to repeat the run; filled by programs that have a seed, printed with each failure. */
static char repeat_with[256] UNUSED;

UNUSED static void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void say(const char *format, ...)
{
    char line[1024];
    va_list args;

    va_start(args, format);
    int len = vsnprintf(line, sizeof(line) - 1, format, args);
    va_end(args);
    if (len < 0)
        return;
    size_t size = (size_t)len < sizeof(line) - 1 ? (size_t)len : sizeof(line) - 2;
    line[size++] = '\n';
    if (write(STDOUT_FILENO, line, size) < 0)
        _exit(4);
}

UNUSED _Noreturn static void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
_Noreturn static void fail(const char *format, ...)
{
    char line[1024];
    va_list args;

    va_start(args, format);
    vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    dprintf(STDERR_FILENO, "%s: FAILED: %s\n", program_invocation_short_name, line);
    if (repeat_with[0] != '\0')
        dprintf(STDERR_FILENO, "%s: repeat with: %s\n", program_invocation_short_name, repeat_with);
    _exit(1);
}

#define EXPECT(claim, ...)                                                                         \
    do {                                                                                           \
        if (!(claim))                                                                              \
            fail(__VA_ARGS__);                                                                     \
    } while (0)

/* A claim among many: a false one is said and counted, the program goes on; claims_result() is its
 * exit status. */
static unsigned claims_made UNUSED, claims_failed UNUSED;

#define CLAIM(claim, ...)                                                                          \
    do {                                                                                           \
        claims_made++;                                                                             \
        if (!(claim)) {                                                                            \
            claims_failed++;                                                                       \
            dprintf(STDERR_FILENO, "%s:%d: FAILED: ", program_invocation_short_name, __LINE__);    \
            dprintf(STDERR_FILENO, __VA_ARGS__);                                                   \
            dprintf(STDERR_FILENO, "\n");                                                          \
        }                                                                                          \
    } while (0)

UNUSED static int claims_result(void)
{
    say("%s: %u claims, %u failed", program_invocation_short_name, claims_made, claims_failed);
    return claims_failed == 0 ? 0 : 1;
}

/* Hides where a value comes from, so that the compiler can't remove or foresee calls of malloc. */
UNUSED static inline void *opaque(void *ptr)
{
    __asm__ volatile("" : "+r"(ptr) : : "memory");
    return ptr;
}

UNUSED static inline size_t opaque_size(size_t size)
{
    __asm__ volatile("" : "+r"(size));
    return size;
}

/* Zeroed memory that no malloc knows of. */
UNUSED static void *table_map(size_t size)
{
    void *table = mmap(NULL, size, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    EXPECT(table != MAP_FAILED, "expected %zu bytes for the test's own tables, got none (errno %d)",
           size, errno);
    return table;
}

/* splitmix64 (Steele, Lea, Flood 2014): any seed is good, the state is one word. */
UNUSED static inline uint64_t random_next(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

UNUSED static inline size_t random_below(uint64_t *state, size_t bound)
{
    return (size_t)(random_next(state) % bound);
}

/* Log-uniform in [0, max]: each power of two is as likely as the next, its edges (2^k - 1, 2^k, 2^k
 * + 1) more so. */
UNUSED static size_t random_size(uint64_t *state, size_t max)
{
    unsigned octaves = (unsigned)(64 - __builtin_clzll((unsigned long long)max | 1));
    unsigned octave = (unsigned)random_below(state, octaves + 1);
    size_t low = octave == 0 ? 0 : (size_t)1 << (octave - 1);
    size_t size;

    if (random_below(state, 8) == 0)
        size = low + random_below(state, 3) - (low > 0 ? 1 : 0);
    else
        size = low + random_below(state, low + 1);
    return size < max ? size : max;
}

/* The address of a symbol that the malloc under test may have, NULL when it hasn't. A static
 * program (compiled with FH_TESTS_STATIC) asks the linker instead of the loader. */
#ifdef FH_TESTS_STATIC
#define OPTIONAL_SYMBOL(name)                                                                      \
    ({                                                                                             \
        extern char name[] __attribute__((weak));                                                  \
        (void *)name;                                                                              \
    })
#else
#define OPTIONAL_SYMBOL(name) dlsym(RTLD_DEFAULT, #name)
#endif

UNUSED static bool is_freehold(void)
{
    return OPTIONAL_SYMBOL(fh_heap_check) != NULL;
}

/* Freehold's check of all heaps, where the malloc under test has one. */
UNUSED static void heap_check(const char *when)
{
    static int (*check)(void *heap);
    static bool is_looked_up;

    if (!is_looked_up) {
        *(void **)&check = OPTIONAL_SYMBOL(fh_heap_check);
        is_looked_up = true;
    }
    if (check == NULL)
        return;
    int result = check(NULL);
    EXPECT(result == 0, "expected fh_heap_check to find all heaps sound %s, it returned %d", when,
           result);
}

/* Resident bytes of this process, 0 when /proc can't be read. */
UNUSED static size_t resident_bytes(void)
{
    char text[128] = "";
    unsigned long pages = 0;
    int fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        return 0;
    ssize_t len = read(fd, text, sizeof(text) - 1);
    close(fd);
    if (len <= 0 || sscanf(text, "%*u %lu", &pages) != 1)
        return 0;
    return pages * (size_t)sysconf(_SC_PAGESIZE);
}

#endif
