/*
 * The forms of operator new that must not throw, when memory has run out: the new_handler may throw std::bad_alloc,
 * and then the answer is a null pointer. Only C++ can catch, so this one function is C++; what the
 * compiler needs of the C++ runtime for it is made weak: a C program has none of it and never comes here.
 */
#include <stddef.h>
#include <stdlib.h>

__asm__(".weak __gxx_personality_v0\n\t.weak __cxa_begin_catch\n\t.weak __cxa_end_catch\n\t.weak "
        "_ZSt9terminatev");

extern "C" {
bool fh_new_call_handler(void);
#ifdef FH_RECORD /* as in entry.h */
void *fh_entry_malloc(size_t size);
void *fh_entry_aligned(size_t align, size_t size);
#else
#define fh_entry_malloc  malloc
#define fh_entry_aligned aligned_alloc
#endif

__attribute__((visibility("hidden"))) void *fh_new_without_throwing(size_t size, size_t align)
{
    void *block = nullptr;
    try {
        while (block == nullptr && fh_new_call_handler())
            block = align == 0 ? fh_entry_malloc(size) : fh_entry_aligned(align, size);
    } catch (...) {
    }
    return block;
}
}
