/*
 * stack/objects: where an object that nobody allocated must end.
 *
 * For bounds checks of the library's functions (lib/bounds). Two kinds of objects: those on a
 * thread's stack, whose end is bounded by what their function saved above them, and those of static
 * storage, whose size the module's symbol table knows. Both answers are about what can't be right,
 * never guesses: an object of which nothing is known has no bound. No lock, no allocation by malloc,
 * errno kept.
 */
#ifndef FH_STACK_OBJECTS_H
#define FH_STACK_OBJECTS_H

#include "base/core/macros.h"
#include "stack/stack.h"

#include <stdatomic.h>

/* A return address, and the stack and frame pointers that its function had (as in
 * fh_stack_capture_at). */
struct fh_stack_frame {
    uintptr_t frame, sp, fp;
};

/* Where a function keeps its variables: [low, saved). Its return address is `frame`, below cfa. */
struct fh_stack_bound {
    uintptr_t low, saved, cfa, frame;
};

/*
 * The frame that holds `address`. No object there can reach beyond `saved`: in the words from there
 * to the CFA the function has saved registers and has its return address. `region` is the stack,
 * `from` the frame of the caller; address ≥ from->sp. False: not known (hand-written code, beyond a
 * signal's frame, among the saved words themselves). Some 5 ns a frame.
 */
FH_PUBLIC bool fh_stack_object_bound(const struct fh_stack_frame *from,
                                     struct fh_stack_region region, uintptr_t address,
                                     struct fh_stack_bound *bound);

/* An object of static storage; overlapping ones (aliases, parts that have names) are one. */
struct fh_static_object {
    uintptr_t low, high;
};

/*
 * The one that holds the address, as the symbol table of its module's file says; false: there is
 * none of known size. The first question about a module reads its file (milliseconds), later ones
 * take some 50 ns.
 */
FH_PUBLIC bool fh_static_object_at(uintptr_t address, struct fh_static_object *object);
/* Its name; false when it has none. Microseconds to milliseconds: for reports. */
FH_PUBLIC bool fh_static_object_name(char *name, size_t size,
                                     const struct fh_static_object *object);

/* ---- what the room keeps for them (root.h) ----------------------------------------------------
 */

enum {
    FH_FRAME_RULES = 4096,
    FH_STATIC_TABLES = 512,
};

/* Three words whose exclusive or is the frame: a reader that meets half of a change sees no frame it
 * asked for. */
struct fh_frame_rule {
    _Atomic uintptr_t key;
    _Atomic uint64_t rule; /* cfi.h's; high half: the module's ref (module.h) */
    _Atomic uint64_t saved;
};

struct fh_static_table;

struct fh_objects {
    struct fh_frame_rule rules[FH_FRAME_RULES];
    _Atomic(struct fh_static_table *) tables[FH_STATIC_TABLES];
};

#endif
