/*
 * mode.h: the seam between the heap and whoever checks its blocks (lib/guard).
 *
 * In hardened and debug mode (and with a limit, failures on purpose, or every block guarded) a thread's heap
 * is FH_HEAP_GUARDED: its bins stay empty and no run has its key, so that malloc and free miss in their fast
 * path, and the slow path hands each call over to the table below. In fast mode the table serves sampled blocks only: the
 * heap asks for one when its sampling gap is used up (refill.c), and gives back what is_mine says is the table's.
 *
 * The table is made by fh_mode_start(), which lib/guard defines and the linker finds: the heap is below that room.
 *
 * Whoever is called here runs inside fh_busy_begin: signals' handlers that allocate are served from the
 * emergency arena, and no lock of the heap is held.
 */
#ifndef FH_HEAP_MODE_H
#define FH_HEAP_MODE_H

#include "base/core/macros.h"
#include "freehold/allocator.h"

/* By which function a block is asked for, or given back. */
enum fh_how {
    FH_HOW_MALLOC = 0, /* malloc, calloc, realloc, posix_memalign, aligned_alloc …; free */
    FH_HOW_NEW = 1,    /* operator new, delete */
    FH_HOW_ARRAY = 2,  /* operator new[], delete[] */
    FH_HOW_ANY = 3,    /* of a free: not known */
    FH_HOW_FAMILY = 3, /* mask of the above */
    FH_HOW_ZEROED = 1 << 2,
    FH_HOW_ALIGNED =
        1
        << 3, /* the alignment was asked for: an aligned new or delete; aligned_alloc and its kind */
    FH_HOW_SIZED = 1 << 4,  /* a free that says the size */
    FH_HOW_RESIZE = 1 << 5, /* part of a realloc */
};

/* Who calls: where its stack is walked from. */
struct fh_call {
    uintptr_t pc; /* return address into the caller */
    uintptr_t sp; /* stack pointer of the caller, behind that address */
    uintptr_t fp; /* frame pointer of the caller */
};

/* The caller of the function that this is written in; it must keep a frame (not FH_FAST). */
#define FH_CALL_HERE()                                                                             \
    {                                                                                              \
        (uintptr_t) __builtin_return_address(0),                                                   \
            (uintptr_t)__builtin_frame_address(0) + 2 * sizeof(void *),                            \
            *(const uintptr_t *)__builtin_frame_address(0)                                         \
    }

struct fh_mode {
    /* Every call of the thread's heap comes here (FH_HEAP_GUARDED). */
    bool is_guarded;
    /* How many bytes are allocated from one sample to the next, in the mean; 0: nothing is sampled. Read at start. */
    size_t sample_bytes;
    /* size may be 0; align 0 or a power of two. NULL when there is no memory; errno is the caller's. */
    void *(*alloc)(size_t size, size_t align, unsigned how, const struct fh_call *call);
    /* block is not NULL. size and align count with FH_HOW_SIZED and FH_HOW_ALIGNED. False: it is none of the table's. */
    bool (*free)(void *block, size_t size, size_t align, unsigned how, const struct fh_call *call);
    /* From a handler that interrupted us: no lock, nothing of this thread. Whoever next works here frees it. */
    void (*free_later)(void *block);
    /* block is not NULL and is_mine; size may be 0 (a block of no bytes). NULL: the old block is as it was. */
    void *(*resize)(void *block, size_t size, const struct fh_call *call);
    /* A block in place of one from the heap, for sampling; NULL: the heap serves it. */
    void *(*sample)(size_t size, size_t align, unsigned how, const struct fh_call *call);
    /* Is it a block of the table's, or an address in one? Any address. */
    bool (*is_mine)(const void *address);
    /* What may be written. */
    size_t (*usable)(const void *block);
    /* At the process's end, when its own handlers have run: what only the end shows. */
    void (*finish)(void);
    /* Blocks handed out and freed so far, by class (FH_CLASS_LARGE last), added to the arrays. */
    void (*count)(uint64_t *allocs, uint64_t *frees);
    /* Sampled blocks that live, of the thread with this number (0: of all); as fh_heap_walk. NULL: there are none. */
    int (*walk)(int thread, int (*visit)(void *context, const struct fh_block *block),
                void *context);
    /* In the child of a fork, when all locks are free again. */
    void (*forked)(void);
};

/* Settings have been read; no lock is held but the start-up's. NULL: nothing is guarded or sampled. */
const struct fh_mode *fh_mode_start(void);
/* A setting that is not the heap's own: 0, -ENOENT, -EINVAL. */
int fh_mode_set(const char *name, const char *value);
int fh_mode_get(const char *name, char *value, size_t size);

#endif
