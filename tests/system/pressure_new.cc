/* operator new in all its forms while memory fails: throws, gives null, asks the new_handler. */
#include <cstdio>
#include <cstdlib>
#include <new>

static int handled;

static void handler()
{
    handled++;
    std::set_new_handler(nullptr);
}

struct alignas(128) aligned {
    char bytes[256];
};

#define TRY(name, expression)                                                                      \
    extern "C" __attribute__((noinline, used)) void try_##name()                                   \
    {                                                                                              \
        try {                                                                                      \
            void *volatile block = expression;                                                     \
            std::printf("%s: %s\n", #name, block != nullptr ? "ok" : "null");                      \
        } catch (const std::bad_alloc &) {                                                         \
            std::printf("%s: bad_alloc\n", #name);                                                 \
        }                                                                                          \
    }

TRY(one, new int)
TRY(array, new int[100])
TRY(nothrow, new (std::nothrow) int)
TRY(array_nothrow, new (std::nothrow) int[100])
TRY(aligned, new aligned)
TRY(aligned_nothrow, new (std::nothrow) aligned)

int main()
{
    static char buffer[4096];
    std::setvbuf(stdout, buffer, _IOFBF, sizeof buffer);
    try_one();
    try_array();
    try_nothrow();
    try_array_nothrow();
    try_aligned();
    try_aligned_nothrow();
    std::set_new_handler(handler);
    try_one();
    std::printf("handled: %d\n", handled);
    return 0;
}
