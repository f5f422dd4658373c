/*
 * Misuse of an allocator, told upwards. Whoever finds it knows what is wrong; how it is said and what
 * happens then is the business of whoever composes the program: heap/report.c in the libraries (stack
 * and on_error), the program itself where the allocators are linked without libc. The seam is the
 * linker's: this function is declared here and defined there.
 */
#ifndef FH_BASE_CORE_MISUSE_H
#define FH_BASE_CORE_MISUSE_H

/* kind: one of the words of a report (double-free, invalid-free, interior-free, size-mismatch,
 * heap-corruption, heap-buffer-overflow). Returns only with on_error=continue: then the caller leaves all as
 * it was. */
void fh_misuse(const char *kind, const void *address, const char *detail);

/* One broken invariant, found by a check: a line on the diagnostic descriptor (base/message's format). */
void fh_broken(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
