/*
 * stack: call stacks of the running thread, from inside malloc.
 *
 * For whoever wants to know who called: profiles, traces, error reports. A capture allocates
 * nothing, takes no lock, calls nothing in libc that could, and keeps errno: it may run inside
 * malloc, inside a signal handler and on the stack of a helper clone. It works on code with and
 * without frame pointers and reads nothing outside the stack it walks.
 *
 *     static struct fh_stack_cache *cache;            // zeroed memory, one for each thread
 *     uintptr_t frames[64];
 *     size_t n = fh_stack_capture(cache, frames, 64, 0);
 *     uint32_t id = fh_stack_id(frames, n);           // the same number for the same stack, for
 * ever
 *
 * A frame is a *return address*: subtract 1 to be inside the call. The address of an interrupted
 * instruction (the frame below a signal handler, or where a ucontext starts) is given plus 1, so
 * that one rule serves all.
 *
 * Method: README.md. Sources: DWARF 5 section 6.4 (call frame information); split-ordered lists,
 * Shalev and Shavit 2006 (the ids).
 */
#ifndef FH_STACK_STACK_H
#define FH_STACK_STACK_H

#include "base/core/macros.h"

/* Addresses [low, high) that belong to one stack. */
struct fh_stack_region {
    uintptr_t low, high;
};

enum {
    FH_STACK_CACHE_RULES = 512,  /* programs sample a few hundred call sites */
    FH_STACK_CACHE_FRAMES = 100, /* frames of the last walk that can be recognised */
};

/* Where a walk stood: a frame, the stack and frame pointers of its function at that place, and the
 * address from which that frame pointer was read (0: it was the callee's). */
struct fh_stack_state {
    uintptr_t frame, sp, fp, saved;
};

/*
 * What one thread remembers between captures. The caller owns the memory (sizeof is about 14 KiB)
 * and zeroes it once; zero is the empty cache. Only one thread uses it at a time, but a signal
 * handler may use the cache of the thread that it interrupts: is_busy then sends it the long way
 * round.
 */
struct fh_stack_cache {
    uintptr_t thread;             /* whose regions these are (the thread pointer) */
    struct fh_stack_region own;   /* the thread's stack; or the caller's bounds when is_bounded */
    struct fh_stack_region other; /* the last alternate or coroutine stack */
    volatile bool is_busy;
    bool is_bounded;
    struct {
        uintptr_t frame;
        uint64_t
            rule; /* low half: cfi.h's rule; high half: the module it was valid for, 0: for ever */
    } rules[FH_STACK_CACHE_RULES];
    /* The last walk, innermost state first, and the one that is being made; see walk.c. */
    struct fh_stack_state walks[2][FH_STACK_CACHE_FRAMES + 1];
    size_t last_len;
    unsigned last; /* which of the two */
};

/* Reads the list of loaded modules where the C library has no _dl_find_object (glibc < 2.35), and
 * settles what needs settling once. Call at start, holding no lock, outside of malloc's own locks;
 * again after dlopen on such systems. Everything else works without it on glibc ≥ 2.35. */
void fh_stack_init(void);
/* For the child of a fork: what other threads were doing is forgotten. */
void fh_stack_reset_in_child(void);

/* Tells the cache which stack its thread runs on: for helper clones, whose thread pointer is not
 * theirs. */
void fh_stack_cache_bound(struct fh_stack_cache *cache, uintptr_t low, uintptr_t high);

/*
 * The stack of the caller, innermost first: frames[0] is the address in the caller of this
 * function, after the first `skip` frames are left out. At most max frames. Returns how many; cache
 * may be NULL (slower). Cost on the reference machine, 20 frames: see README.md.
 */
size_t fh_stack_capture(struct fh_stack_cache *cache, uintptr_t *frames, size_t max, size_t skip);

/*
 * The same of a caller whose return address, stack pointer (behind that address) and frame pointer are given: what
 * __builtin_frame_address(0) of the function that it called leads to.
 */
size_t fh_stack_capture_at(struct fh_stack_cache *cache, uintptr_t frame, uintptr_t sp,
                           uintptr_t fp, uintptr_t *frames, size_t max);

/*
 * The states of the walk that gave these frames just now, if a later walk from `sp` would be the same as long
 * as the words are that the states name (return addresses below sp, saved frame pointers): all of
 * its steps were plain, on the thread's own stack, and it came to the outermost frame or to `max` frames.
 * Else NULL. The outermost frame has no state: its function was not called by anything. *len is their number.
 */
const struct fh_stack_state *fh_stack_last_walk(const struct fh_stack_cache *cache, uintptr_t sp,
                                                const uintptr_t *frames, size_t count, size_t max,
                                                size_t *len);

/* The same from where a signal interrupted (the handler's third argument) or getcontext stood. */
size_t fh_stack_capture_from(struct fh_stack_cache *cache, const void *ucontext, uintptr_t *frames,
                             size_t max, size_t skip);

/* How walks ended, since start; for `doctor` and the profiles' own honesty. */
struct fh_stack_counts {
    uint64_t exact;   /* walks that needed every register (see exact.h) */
    uint64_t broken;  /* walks that ended before the outermost frame: no valid return address */
    uint64_t guessed; /* frames without description found by their frame pointer */
    uint64_t tables;  /* bytes of tables built from .eh_frame */
    uint64_t modules; /* modules known now */
};
void fh_stack_counts(struct fh_stack_counts *counts);

/* ---- Ids ------------------------------------------------------------------------------------ */

/*
 * A number for a stack: equal stacks have equal numbers, from any thread, for the life of the
 * process. Stacks share their outer frames in memory (16 bytes for each frame that is new below its
 * caller). 0 is the empty stack, and what is returned when memory or the 2^26 nodes run out.
 * Lock-free; n steps of a hash lookup.
 */
uint32_t fh_stack_id(const uintptr_t *frames, size_t n);
/* The frames of an id, innermost first; returns how many were written (at most max). Wait-free. */
size_t fh_stack_frames(uint32_t id, uintptr_t *frames, size_t max);
/* The caller of an id's innermost frame, as an id; and that innermost frame. For walks over the
 * tree. */
uint32_t fh_stack_parent(uint32_t id);
uintptr_t fh_stack_innermost(uint32_t id);
/* Nodes in use: the ids are 1 … fh_stack_nodes() (a few are nobody's). */
uint32_t fh_stack_nodes(void);

/* ---- Reports -------------------------------------------------------------------------------- */

/*
 * Where a frame is, as far as it can be known without allocating: symbols come from the module's
 * dynamic symbols and, when its file can be read, from its symbol table. Takes microseconds to
 * milliseconds: for reports, not for profiles.
 */
struct fh_stack_place {
    uintptr_t address;  /* in the call, or of the interrupted instruction: the frame - 1 */
    const char *module; /* its path; NULL: the address is in none, and the rest is 0 */
    uintptr_t offset;   /* of the address in the module's file */
    const uint8_t *build_id;
    size_t build_id_len; /* 0: the module has none */
    uintptr_t function_offset;
    char function[160]; /* "": not known; a longer (mangled) name is cut */
};
void fh_stack_locate(uintptr_t frame, struct fh_stack_place *place);

/* "#index 0xADDRESS in function+0x12 (module+0x1234)" of it; "??" stands for what is not known. Always
 * terminated; returns the length. */
size_t fh_stack_describe_place(char *text, size_t size, size_t index,
                               const struct fh_stack_place *place);
size_t fh_stack_describe(char *text, size_t size, size_t index, uintptr_t frame);
/* The name of the function at a frame, as far as above; false when there is none. */
bool fh_stack_function(char *name, size_t size, uintptr_t frame);
/* The path of the module of a frame; NULL when it is in none. */
const char *fh_stack_module(uintptr_t frame);
/* Whether a frame lies in the module (the program or a library) that holds the code at `code`. */
FH_PUBLIC bool fh_stack_in_module(uintptr_t frame, const void *code);
/* Writes "    " and that, a line for each frame, as messages (base/message). */
void fh_stack_print(const uintptr_t *frames, size_t n);

#endif
