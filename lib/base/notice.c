/*
 * Notices: a ring of what happened to memory, waiting to be told.
 *
 * A page is purged or committed deep inside the heap, with locks held, perhaps on the decay helper,
 * which has no thread-local storage and a small stack: no place to call a listener. So it is noted,
 * and whoever tells the next event (with no lock held) takes the notices first. Between two such
 * moments there may be more than NOTICES: then the newest one stands for all further ones, with
 * their bytes added; none is lost from the sums.
 *
 * One lock, the last of all floors, held for a few instructions.
 */
#include "base/notice.h"

#include "base/lock.h"

#define NOTICES 128u

_Atomic bool fh_notices_wanted;

static struct {
    struct fh_lock lock;
    unsigned first, count; /* first waiting, how many */
    struct fh_notice ring[NOTICES];
} notices = {.lock = FH_LOCK_INIT};

void fh_notice_put(enum fh_notice_kind kind, void *address, size_t size, int tid)
{
    fh_locks_register(&notices.lock, FH_FLOOR_STACK);
    uint64_t now = fh_lock_now_hook();
    fh_lock_acquire(&notices.lock);
    struct fh_notice *newest = &notices.ring[(notices.first + notices.count - 1) % NOTICES];
    if (notices.count == NOTICES) {
        newest->size += size;
    } else {
        notices.ring[(notices.first + notices.count) % NOTICES] =
            (struct fh_notice){kind, tid, now, address, size};
        notices.count++;
    }
    fh_lock_release(&notices.lock);
}

bool fh_notice_take(struct fh_notice *out)
{
    bool is_there = false;
    fh_lock_acquire(&notices.lock);
    if (notices.count > 0) {
        *out = notices.ring[notices.first];
        notices.first = (notices.first + 1) % NOTICES;
        notices.count--;
        is_there = true;
    }
    fh_lock_release(&notices.lock);
    return is_there;
}
