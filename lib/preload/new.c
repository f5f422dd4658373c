/*
 * C++'s allocation functions, in C under their mangled names, so that no C++ runtime is needed
 * (new_nothrow.cc apart).
 *
 * operator new calls the new_handler in a loop when memory runs out, and throws std::bad_alloc when
 * there is none. Both live in libstdc++: weak references, absent in C programs, which never come
 * here.
 */
#include <stdlib.h>

#include "base/core/bits.h"
#include "heap/heap.h"
#include "preload/entry.h"

extern void (*_ZSt15get_new_handlerv(void))(void)
    __attribute__((weak));                                        /* std::get_new_handler() */
extern void _ZSt17__throw_bad_allocv(void) __attribute__((weak)); /* std::__throw_bad_alloc() */

/* In new_nothrow.cc: new_slow for the forms that must not throw. */
void *fh_new_without_throwing(size_t size, size_t align);

/* True when a handler ran and the caller shall try again. */
FH_HIDDEN bool fh_new_call_handler(void);
bool fh_new_call_handler(void)
{
    void (*handler)(void) = _ZSt15get_new_handlerv != NULL ? _ZSt15get_new_handlerv() : NULL;
    if (handler != NULL)
        handler();
    return handler != NULL;
}

static void out_of_memory(void)
{
    if (_ZSt17__throw_bad_allocv != NULL)
        _ZSt17__throw_bad_allocv();
    fh_report("out-of-memory", NULL, "operator new failed, and there is no C++ library to throw");
    abort();
}

static FH_COLD void *new_slow(size_t size, size_t align, bool may_throw)
{
    if (!may_throw)
        return fh_new_without_throwing(size, align);
    while (fh_new_call_handler()) {
        void *block = align == 0 ? fh_entry_malloc(size) : fh_entry_aligned(align, size);
        if (block != NULL)
            return block;
    }
    out_of_memory();
    return NULL;
}

FH_INLINE void *new_block(size_t size, bool may_throw)
{
    void *block = fh_entry_malloc(size);
    return FH_LIKELY(block != NULL) ? block : new_slow(size, 0, may_throw);
}

FH_INLINE void *new_aligned(size_t size, size_t align, bool may_throw)
{
    void *block = fh_entry_aligned(align, size);
    return FH_LIKELY(block != NULL) ? block : new_slow(size, align, may_throw);
}

/*
 * A program may replace operator new and delete and leave the arrays' alone: those are made of its own then, as the
 * standard says. The dynamic linker knows whose it is.
 */
void *_Znwm(size_t size);
void _ZdlPv(void *block);
extern FH_HIDDEN void *own_new(size_t size) __asm__("fh_own_new");
extern FH_HIDDEN void own_delete(void *block) __asm__("fh_own_delete");
static void *(*const volatile the_new)(size_t size) = _Znwm;
static void (*const volatile the_delete)(void *block) = _ZdlPv;

FH_INLINE bool is_new_replaced(unsigned how)
{
    return (how & FH_HOW_FAMILY) == FH_HOW_ARRAY && the_new != own_new;
}

/* Guarded blocks know by which operator they were made, and by which they are given back. */
static FH_COLD void *new_guarded(size_t size, size_t align, unsigned how, bool may_throw)
{
    const struct fh_call call = FH_CALL_HERE();
    if (is_new_replaced(how) && align == 0)
        return the_new(size);
    const struct fh_heap *heap = fh_heap_mine();
    if (heap == NULL || !fh_is_guarded(heap))
        return align == 0 ? new_block(size, may_throw) : new_aligned(size, align, may_throw);
    void *block = fh_guarded_alloc(size, align, how, &call);
    return block != NULL ? block : new_slow(size, align, may_throw);
}

static FH_COLD void delete_guarded(void *block, size_t size, size_t align, unsigned how)
{
    const struct fh_call call = FH_CALL_HERE();
    if ((how & (FH_HOW_FAMILY | FH_HOW_ALIGNED)) == FH_HOW_ARRAY && the_delete != own_delete) {
        the_delete(block);
        return;
    }
    fh_guarded_free_as(block, size, align, how, &call);
}

enum { ONE = FH_TRACE_CPP, ARRAY = FH_TRACE_CPP | FH_TRACE_CPP_ARRAY };

#define HOW(flags) ((flags) == ONE ? FH_HOW_NEW : FH_HOW_ARRAY)

#define NEW(name, flags)                                                                           \
    ENTRY void *name(size_t size);                                                                 \
    ENTRY void *name(size_t size)                                                                  \
    {                                                                                              \
        if (fh_may_be_guarded())                                                                   \
            return new_guarded(size, 0, HOW(flags), true);                                         \
        return FH_TELL_ALLOC(new_block(size, true), size, 0, flags);                               \
    }
#define NEW_NOTHROW(name, flags)                                                                   \
    ENTRY void *name(size_t size, const void *nothrow);                                            \
    ENTRY void *name(size_t size, const void *nothrow)                                             \
    {                                                                                              \
        (void)nothrow;                                                                             \
        if (fh_may_be_guarded())                                                                   \
            return new_guarded(size, 0, HOW(flags), false);                                        \
        return FH_TELL_ALLOC(new_block(size, false), size, 0, flags);                              \
    }
#define NEW_ALIGNED(name, flags)                                                                   \
    ENTRY void *name(size_t size, size_t align);                                                   \
    ENTRY void *name(size_t size, size_t align)                                                    \
    {                                                                                              \
        if (fh_may_be_guarded())                                                                   \
            return new_guarded(size, align, HOW(flags) | FH_HOW_ALIGNED, true);                    \
        return FH_TELL_ALLOC(new_aligned(size, align, true), size, align, flags);                  \
    }
#define NEW_ALIGNED_NOTHROW(name, flags)                                                           \
    ENTRY void *name(size_t size, size_t align, const void *nothrow);                              \
    ENTRY void *name(size_t size, size_t align, const void *nothrow)                               \
    {                                                                                              \
        (void)nothrow;                                                                             \
        if (fh_may_be_guarded())                                                                   \
            return new_guarded(size, align, HOW(flags) | FH_HOW_ALIGNED, false);                   \
        return FH_TELL_ALLOC(new_aligned(size, align, false), size, align, flags);                 \
    }
/* Every delete is free: size and alignment are in the run's header. Guarded blocks compare. */
#define DELETE(name, flags, more, size_, align_, ...)                                              \
    ENTRY void name(void *block __VA_ARGS__);                                                      \
    ENTRY void name(void *block __VA_ARGS__)                                                       \
    {                                                                                              \
        if (fh_may_be_guarded()) {                                                                 \
            delete_guarded(block, size_, align_, HOW(flags) | (more));                             \
            return;                                                                                \
        }                                                                                          \
        FH_TELL_FREE(block, flags);                                                                \
        fh_entry_free(block);                                                                      \
    }

#pragma GCC diagnostic ignored "-Wunused-parameter"

NEW(_Znwm, ONE)
NEW(_Znam, ARRAY)
NEW_NOTHROW(_ZnwmRKSt9nothrow_t, ONE)
NEW_NOTHROW(_ZnamRKSt9nothrow_t, ARRAY)
NEW_ALIGNED(_ZnwmSt11align_val_t, ONE)
NEW_ALIGNED(_ZnamSt11align_val_t, ARRAY)
NEW_ALIGNED_NOTHROW(_ZnwmSt11align_val_tRKSt9nothrow_t, ONE)
NEW_ALIGNED_NOTHROW(_ZnamSt11align_val_tRKSt9nothrow_t, ARRAY)
DELETE(_ZdlPv, ONE, 0, 0, 0)
DELETE(_ZdaPv, ARRAY, 0, 0, 0)
DELETE(_ZdlPvm, ONE, FH_HOW_SIZED, size, 0, , size_t size)
DELETE(_ZdaPvm, ARRAY, FH_HOW_SIZED, size, 0, , size_t size)
DELETE(_ZdlPvRKSt9nothrow_t, ONE, 0, 0, 0, , const void *nothrow)
DELETE(_ZdaPvRKSt9nothrow_t, ARRAY, 0, 0, 0, , const void *nothrow)
DELETE(_ZdlPvSt11align_val_t, ONE, FH_HOW_ALIGNED, 0, align, , size_t align)
DELETE(_ZdaPvSt11align_val_t, ARRAY, FH_HOW_ALIGNED, 0, align, , size_t align)
DELETE(_ZdlPvmSt11align_val_t, ONE, FH_HOW_SIZED | FH_HOW_ALIGNED, size, align, , size_t size,
       size_t align)
DELETE(_ZdaPvmSt11align_val_t, ARRAY, FH_HOW_SIZED | FH_HOW_ALIGNED, size, align, , size_t size,
       size_t align)
DELETE(_ZdlPvSt11align_val_tRKSt9nothrow_t, ONE, FH_HOW_ALIGNED, 0, align, , size_t align,
       const void *nothrow)
DELETE(_ZdaPvSt11align_val_tRKSt9nothrow_t, ARRAY, FH_HOW_ALIGNED, 0, align, , size_t align,
       const void *nothrow)

/* The names by which this file knows its own. */
__asm__(".globl fh_own_new\n\t.hidden fh_own_new\n\t.set fh_own_new, _Znwm\n\t"
        ".globl fh_own_delete\n\t.hidden fh_own_delete\n\t.set fh_own_delete, _ZdlPv");
