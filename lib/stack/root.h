/*
 * stack/root: the one root of the room's lasting state. Zero is its valid first state, so that a
 * capture may come before any initialisation.
 */
#ifndef FH_STACK_ROOT_H
#define FH_STACK_ROOT_H

#include "stack/ids.h"
#include "stack/module.h"
#include "stack/objects.h"

struct fh_stack_root {
    struct fh_modules modules;
    struct fh_ids ids;
    struct fh_objects objects;
    _Atomic uint64_t exact_walks;
    _Atomic uint64_t broken_walks;
    _Atomic uint64_t guessed_frames;
};

extern FH_HIDDEN struct fh_stack_root fh_stack_root;

#endif
