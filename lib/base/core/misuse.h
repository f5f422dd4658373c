/*
 * Misuse of an allocator, told upwards. Whoever finds it knows what is wrong; how it is said and what
 * happens then is the business of whoever composes the program: heap/report.c in the libraries (stack
 * and on_error), the program itself where the allocators are linked without libc. The seam is the
 * linker's: these functions are declared in the public header and defined there.
 */
#ifndef FH_BASE_CORE_MISUSE_H
#define FH_BASE_CORE_MISUSE_H

#include "freehold/misuse.h"

#endif
