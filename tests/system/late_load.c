/*
 * The malloc under test loaded by dlopen into a program that lives on another malloc: it must load
 * (thread-local data of the initial-exec kind is scarce then), keep out of the way (the program's
 * malloc stays bound to what it was) and unload.
 *
 * usage: late_load LIBRARY
 */
#include "common.h"

int main(int argc, char **argv)
{
    EXPECT(argc == 2, "usage: late_load LIBRARY");
    alarm(20);
    void *before = opaque(malloc(100));
    void *library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);

    EXPECT(library != NULL, "expected the library to load late: %s", dlerror());
    void *after = opaque(malloc(100));
    void *(*own_malloc)(size_t);
    void (*own_free)(void *);
    *(void **)&own_malloc = dlsym(library, "malloc");
    *(void **)&own_free = dlsym(library, "free");
    EXPECT(own_malloc != NULL && own_free != NULL, "expected the library to have malloc and free");
    for (size_t size = 1; size < 3000000; size = size * 3 / 2 + 1) {
        unsigned char *block = own_malloc(size);
        EXPECT(block != NULL, "expected %zu bytes of the library's malloc", size);
        memset(block, 1, size);
        own_free(block);
    }
    free(before);
    free(after);
    dlclose(library);
    free(opaque(malloc(1000)));
    say("late_load: the library was loaded late, used and closed");
    return 0;
}
