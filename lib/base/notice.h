/*
 * base/notice: the lower half of the event seam. What pages/ and the decay helper do to memory is
 * noted here, under whatever locks they hold, and told to listeners later by a thread that holds
 * none (heap/event.c).
 */
#ifndef FH_BASE_NOTICE_H
#define FH_BASE_NOTICE_H

#include "base/core/macros.h"

#include <stdatomic.h>

enum fh_notice_kind { FH_NOTICE_PURGE, FH_NOTICE_GROW };

struct fh_notice {
    enum fh_notice_kind kind;
    int tid;
    uint64_t time_ns;
    void *address;
    size_t size;
};

/* Whether anybody listens; relaxed: a notice more or less at the change is no matter. */
extern _Atomic bool fh_notices_wanted;

/* Keeps a notice; when too many wait, its bytes are added to the newest. Any thread, any lock held
 * but another notice's. */
void fh_notice_put(enum fh_notice_kind kind, void *address, size_t size, int tid);
/* The oldest one; false when none waits. */
bool fh_notice_take(struct fh_notice *out);

FH_INLINE bool fh_notice_is_wanted(void)
{
    return FH_UNLIKELY(atomic_load_explicit(&fh_notices_wanted, memory_order_relaxed));
}

#endif
