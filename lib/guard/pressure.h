/*
 * pressure.h: memory that runs out: because of a limit, or made to fail on purpose.
 *
 * Settings: limit=SIZE, oom=warn|abort; fail=SPEC (fail_spec.h), fail_log=on|off; fail_table=PATH,
 * by which `freehold run --fail sweep` hears of sites and failures (site_table.h). limit and fail
 * work in every mode: they make the heap guarded.
 */
#ifndef FH_GUARD_PRESSURE_H
#define FH_GUARD_PRESSURE_H

#include "freehold/types.h"
#include "guard/guard.h"

/* One of the settings above, at start: 0, -ENOENT when it is none of them, -EINVAL (nothing has
 * changed). */
int fh_pressure_set(const char *name, const char *value);
/* The value as it was set; the length, -ENOENT, -ERANGE. */
int fh_pressure_get(const char *name, char *value, size_t size);

/*
 * Whether an allocation of `size` bytes shall fail: then it does as if there were no memory. Asked
 * once for each, before it is made, when fh_guard_settings.is_failing or .limit says so; for a
 * realloc (FH_HOW_RESIZE) only when it asks for more than the block has, since no allocator fails
 * to make one smaller. `freed` bytes are given back if it succeeds. Any thread; holds no lock on
 * return; may write messages.
 */
bool fh_pressure_refuses(size_t size, size_t freed, unsigned how, const struct fh_call *call);

/* The same of an anonymous mmap. */
FH_API bool fh_pressure_refuses_mapping(size_t size, const struct fh_call *call);

/* The last failure that was made on purpose; false when none was. Lock-free. While several threads
 * fail at once the fields may be of two of them. */
struct fh_pressure_failure {
    uint64_t number; /* of the allocation in this process, from 1 */
    uint64_t made;   /* failures so far */
    size_t size;
    const char *function; /* "malloc", "calloc", "operator new" … */
    uint32_t stack;       /* id of lib/stack; 0: not known */
};
bool fh_pressure_last(struct fh_pressure_failure *last);

/* Tells that failure, once, in a report of whatever came after it; nothing when none was made since
 * it was last told. Lock-free. */
void fh_pressure_tell_last(void);

/* Of guard.c: requested bytes of live blocks; and a visit of every one of them, which ends when
 * visit returns non-zero. */
size_t fh_guard_live(void);
int fh_guard_walk(int (*visit)(void *context, const struct fh_guard_block *block), void *context);

/* ---- limit.c --------------------------------------------------------------------------------- */

enum fh_oom { FH_OOM_WARN, FH_OOM_ABORT };
extern _Atomic int
    fh_pressure_oom; /* enum fh_oom: what the first allocation beyond the limit does */

/* Whether `size` more bytes, `freed` less, are beyond the limit. */
bool fh_limit_is_passed(size_t size, size_t freed);
/* Tells that an allocation of `size` bytes failed for that, with the caller's stack and the
 * program's biggest sites; seldom. */
void fh_limit_tell(size_t size, const uintptr_t *frames, size_t n);

#endif
