/*
 * cases.h: one bad act each, told by its coordinates.
 *
 * A case is a point in a table (cases.def): what is done wrong, to a block of which size and
 * alignment, how far from it, by which kind of access, by which thread, to the first block of its
 * call site or to a later one. Its good twin does the same within bounds.
 */
#ifndef FH_TESTS_GUARD_CASES_H
#define FH_TESTS_GUARD_CASES_H

#include <stdbool.h>
#include <stddef.h>

enum access {
    BY_STORE, /* one byte, by an instruction */
    BY_WIDE,  /* eight bytes at once that straddle the bound */
    BY_LOOP,  /* byte after byte, across the bound */
    BY_MEMSET,
    BY_MEMCPY,
    BY_MEMMOVE,
    BY_STRCPY,
    BY_STRNCPY,
    BY_STRCAT,
    BY_SPRINTF,
    BY_WCSCPY,
    BY_KERNEL, /* read(2) into the block, write(2) out of it */
    BY_STRLEN,
    BY_MEMCMP,
    BY_STRDUP,
    BY_FREE,
    BY_REALLOC,
    BY_DELETE,
    BY_DELETE_ARRAY,
    ACCESSES
};

struct trial {
    const char *kind;
    size_t size, align;
    size_t distance; /* bytes outside; of use after free: blocks allocated in between */
    enum access access;
    unsigned variant; /* what a kind makes of it */
    bool is_threaded; /* the bad act is another thread's */
    bool is_warm;     /* the call site has made many blocks before */
    bool is_good;
};

/* C++ (cases_cxx.cc). */
void *cxx_new(size_t size);
void *cxx_new_array(size_t size);
void *cxx_new_aligned(size_t size, size_t align);
void cxx_delete(void *block);
void cxx_delete_array(void *block);
void cxx_delete_sized(void *block, size_t size);
void cxx_delete_array_sized(void *block, size_t size);
void cxx_delete_aligned(void *block, size_t align);

#endif
