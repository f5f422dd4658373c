/*
 * bounds.h: what the wrappers of libfreehold-debug share.
 *
 * A wrapper has the C library's name and type, asks check.c about the ranges that its contract
 * reads and writes, and calls the C library's function:
 *
 *     FH_WRAP(void *, memcpy, (void *to, const void *from, size_t size))
 *     {
 *         if (FH_IS_ON()) {
 *             FH_HERE(memcpy);
 *             fh_check_write(here, to, size);
 *             fh_check_read(here, from, size);
 *         }
 *         return fh_real.memcpy(to, from, size);
 *     }
 *
 * No file of this room includes string.h, stdio.h or their kind: their declarations would let the
 * compiler believe that a null pointer can't come in, and replace one function by another.
 */
#ifndef FH_BOUNDS_BOUNDS_H
#define FH_BOUNDS_BOUNDS_H

#include "base/core/bits.h"
#include "bounds/real.h"
#include "guard/guard.h"

#include <stdatomic.h>

/* ---- names ------------------------------------------------------------------------------------
 */

/* The unit test calls wrappers by names of their own, and is asked in the guard's place. */
#ifdef FH_DEBUG_TEST
#define FH_WRAPPER(name)              fh_wrapped_##name
#define fh_guard_extent(address, out) fh_test_extent(address, out)
#define fh_guard_find(address, out)   fh_test_find(address, out)
#define fh_error(error)               fh_test_error(error)
bool fh_test_extent(const void *address, struct fh_extent *out);
bool fh_test_find(const void *address, struct fh_guard_block *out);
void fh_test_error(const struct fh_error *error);
#else
#define FH_WRAPPER(name) name
#endif

#define FH_WRAP(type, name, parameters)                                                            \
    FH_PUBLIC type FH_WRAPPER(name) parameters;                                                    \
    FH_PUBLIC type FH_WRAPPER(name) parameters

/* ---- start (start.c) --------------------------------------------------------------------------
 */

enum fh_debug_state {
    FH_DEBUG_UNSTARTED, /* real functions not looked up yet */
    FH_DEBUG_OFF,
    FH_DEBUG_ON,
};
/* Written by the start; a wrapper may miss the change for a while (relaxed). */
extern FH_HIDDEN _Atomic int fh_debug_state;
extern FH_HIDDEN struct fh_real fh_real;

/* Makes the real functions known, once; whether checks are on. */
FH_HIDDEN bool fh_debug_start(void);

FH_INLINE int fh_debug_state_now(void)
{
    return atomic_load_explicit(&fh_debug_state, memory_order_relaxed);
}

/* Whether to check. Afterwards fh_real can be called. */
#define FH_IS_ON()                                                                                 \
    (FH_LIKELY(fh_debug_state_now() == FH_DEBUG_ON) ||                                             \
     (fh_debug_state_now() == FH_DEBUG_UNSTARTED && fh_debug_start()))
/* The same for functions that are called before anything is relocated, and inside malloc while it
 * starts: fh_real's member may be NULL after it. */
#define FH_IS_ON_EARLY() FH_LIKELY(fh_debug_state_now() == FH_DEBUG_ON)

/* Whether the caller is libfreehold or this library: they write where nobody else may. */
FH_HIDDEN bool fh_debug_is_own(uintptr_t pc);

/* ---- checks (check.c) -------------------------------------------------------------------------
 */

/* Who asks: the function's name, and the frame of its wrapper. */
struct fh_here {
    const char *function;
    const uintptr_t *frame; /* [0] the caller's frame pointer, [1] the return address */
};
#define FH_HERE(name) const struct fh_here here = {#name, __builtin_frame_address(0)}

/*
 * How many bytes from p on may be accessed: to the end of the block, static object or stack frame
 * that holds it; 0 in a freed block, behind the end of a block and in the null page. The two
 * largest values say that nothing is known.
 */
#define FH_ROOM_NOWHERE   (SIZE_MAX - 1) /* in no block, stack or module */
#define FH_ROOM_UNBOUNDED SIZE_MAX
FH_HIDDEN size_t fh_room(struct fh_here here, const void *p);
FH_INLINE bool fh_is_known(size_t room)
{
    return room < FH_ROOM_NOWHERE;
}

/* Reports when [p, p + size) is more than may be accessed there. size 0 is always right. */
FH_HIDDEN void fh_check_read(struct fh_here here, const void *p, size_t size);
FH_HIDDEN void fh_check_write(struct fh_here here, const void *p, size_t size);
/* That the access of `size` bytes at p does not fit. */
FH_HIDDEN void fh_check_failed(struct fh_here here, const void *p, size_t size,
                               enum fh_access access);
/* For functions that stop at what they find: they are called first, since reading too far harms nobody, and
 * what they read is looked at then (checking all that they might read would make a loop over a text
 * quadratic). Begins with the room at p; an access of one byte must be right. */
FH_INLINE size_t fh_check_first(struct fh_here here, const void *p)
{
    size_t room = fh_room(here, p);
    if (FH_LIKELY(room != 0))
        return room;
    fh_check_failed(here, p, 1, FH_ACCESS_READ);
    return FH_ROOM_UNBOUNDED;
}
FH_INLINE void fh_check_rest(struct fh_here here, const void *p, size_t room, size_t size)
{
    if (FH_UNLIKELY(size > room))
        fh_check_failed(here, p, size, FH_ACCESS_READ);
}
/* Of the first `max` bytes at p, up to and with the first that equals `byte`, which must lie in the
 * object: their number. */
FH_HIDDEN size_t fh_check_until(struct fh_here here, const void *p, int byte, size_t max);
/* The length of a string that must end in its object. */
FH_HIDDEN size_t fh_check_string(struct fh_here here, const char *s);
/* The same of at most `max` bytes. */
FH_HIDDEN size_t fh_check_string_n(struct fh_here here, const char *s, size_t max);

#endif
