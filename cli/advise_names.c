/*
 * Which frames are the program's own.
 *
 * A stack of an allocation begins inside of the recorder and the C library, often goes on through a wrapper
 * (xmalloc, g_malloc, operator new, std::vector's growth), and only then comes to code whose author can change something.
 * Left out are all functions of the libraries that allocate for others (by module), and functions by their names: C and
 * C++'s own, the C++ library's, and the usual wrappers, which people name after what they wrap.
 */
#include "advise_names.h"

#include <string.h>

static const char *const modules[] = {"libc.so",     "libc-2",      "ld-linux",    "libstdc++.so",
                                      "libc++",      "libfreehold", "libjemalloc", "libtcmalloc",
                                      "libmimalloc", "libasan"};

static const char *const whole_names[] = {"malloc",
                                          "calloc",
                                          "realloc",
                                          "reallocarray",
                                          "free",
                                          "cfree",
                                          "memalign",
                                          "valloc",
                                          "pvalloc",
                                          "aligned_alloc",
                                          "posix_memalign",
                                          "strdup",
                                          "strndup",
                                          "asprintf",
                                          "vasprintf",
                                          "free_sized",
                                          "free_aligned_sized"};

/* After these names people call their wrappers: xmalloc, my_realloc, mem_free, zstrdup. */
static const char *const endings[] = {"malloc",    "calloc",   "realloc",      "strdup",
                                      "strndup",   "Malloc",   "Realloc",      "Calloc",
                                      "mem_alloc", "mem_free", "reallocarray", "realloc_"};

static const char *const beginnings[] = {
    "operator new", "operator delete", "std::", "__gnu_cxx::", "void std::", "_Zn",
    "_Zd",          "_ZNSt",           "_ZSt",  "g_free",      "xfree"};

static bool begins(const char *text, const char *with)
{
    return strncmp(text, with, strlen(with)) == 0;
}

static bool ends(const char *text, const char *with)
{
    const size_t len = strlen(text);
    const size_t with_len = strlen(with);
    return len >= with_len && strcmp(text + len - with_len, with) == 0;
}

bool advise_is_wrapper_name(const char *function)
{
    for (size_t i = 0; i < sizeof(whole_names) / sizeof(whole_names[0]); i++) {
        if (strcmp(function, whole_names[i]) == 0) {
            return true;
        }
    }
    for (size_t i = 0; i < sizeof(endings) / sizeof(endings[0]); i++) {
        if (ends(function, endings[i])) {
            return true;
        }
    }
    for (size_t i = 0; i < sizeof(beginnings) / sizeof(beginnings[0]); i++) {
        if (begins(function, beginnings[i])) {
            return true;
        }
    }
    return false;
}

bool advise_is_allocator(const struct symbols_frame *frame)
{
    const char *slash = frame->module != NULL ? strrchr(frame->module, '/') : NULL;
    for (size_t i = 0; slash != NULL && i < sizeof(modules) / sizeof(modules[0]); i++) {
        if (begins(slash + 1, modules[i])) {
            return true;
        }
    }
    return false;
}

static bool is_wrapper_frame(const struct symbols_frame *frame)
{
    return advise_is_allocator(frame) ||
           (frame->has_name && advise_is_wrapper_name(frame->function));
}

const struct symbols_frame *advise_frame(struct symbols *symbols, uint64_t frame, uint64_t time_ns)
{
    const struct symbols_frame *frames;
    const size_t count = symbols_look_up(symbols, frame - 1, time_ns, &frames);
    for (size_t i = 0; i < count; i++) {
        if (!is_wrapper_frame(&frames[i]) || i + 1 == count) {
            return &frames[i];
        }
    }
    return NULL;
}

static bool is_wrapper(void *context, uint64_t frame, uint64_t time_ns)
{
    const struct symbols_frame *found = advise_frame(context, frame, time_ns);
    return found != NULL && is_wrapper_frame(found);
}

static uint64_t function_of(void *context, uint64_t frame, uint64_t time_ns)
{
    return symbols_function_begin(context, frame - 1, time_ns);
}

struct lab_names advise_names(struct symbols *symbols)
{
    return (struct lab_names){symbols, is_wrapper, function_of, NULL};
}
