/*
 * What libfreehold-malloc tells libfreehold about itself.
 *
 * The heap starts itself at the first allocation, which is usually before any constructor. What is
 * left for the constructor: where the entry points' code is, libc's own free and realloc for
 * pointers that came from there (on_foreign=forward; weak references, which another C library or a
 * static program may not have), and who writes the process's record when a memory error ends it.
 */
#include "heap/heap.h"
#include "watch/record.h"

extern void __libc_free(void *block) __attribute__((weak));
extern void *__libc_realloc(void *block, size_t size) __attribute__((weak));

__attribute__((constructor)) static void begin(void)
{
    const struct fh_entry_points entry = {
        .code = (const void *)(uintptr_t)begin,
        .foreign_free = __libc_free,
        .foreign_realloc = __libc_realloc,
        .write_record = fh_record_write,
    };
    fh_entry_points_are(&entry);
}
