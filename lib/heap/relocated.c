/*
 * Allocation before thread-local data is ready: a program's IFUNC resolvers run while the loader
 * relocates.
 *
 * The main thread's thread-local data is there by then, but zero; the loader copies its image into
 * it only after the last relocation. fh_heap_current would be NULL, which the fast path must never
 * see and has no instruction to test for. So our own relocations put it right: among them is an
 * IFUNC whose resolver stores what the image will store again. They are done before those of
 * whatever depends on us, and the linker places those of IFUNCs after the one that finds the
 * thread-local offset. A heap that is made so early loses the pointer to it when the image is
 * copied, and is found again by its thread pointer (find_or_make).
 *
 * Left out of the static library: a static program runs its resolvers before its thread pointer is
 * set, glibc's own malloc can't be called there either.
 *
 * No sanitizer may put calls of its own here: it is not relocated yet.
 */
#include "heap/heap.h"

static void do_nothing(void)
{
}

__attribute__((used,
               no_sanitize("address", "thread", "undefined"))) static void (*begin(void))(void)
{
    fh_heap_current = &fh_heap_none;
    return do_nothing;
}

static void relocated(void) __attribute__((ifunc("begin")));
/* Its address must be wanted, or there is no relocation. */
__attribute__((used)) static void (*const wanted)(void) = relocated;
