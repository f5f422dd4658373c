/*
 * The sweep (uaf=sweep): freed blocks are not handed out again while something may still point to them.
 *
 * A freed slot is cleared and waits. When what waits has grown by a quarter of what is live (and by WAIT_LEAST at
 * least), one pass over all roots and all live blocks (scan/scan.h) takes every word for an address and strikes the
 * waiting blocks out that one points to. Those that are left nobody can reach any more, and they are free. The
 * others wait for the next sweep; a pointer that dangles for ever costs its block, and no more. They don't count
 * towards the next quarter, or else a program with many would sweep all the time.
 *
 * Why that makes a use after free harmless: an attacker needs the block to become another one while the old pointer is
 * there. Here the old pointer finds zeroes as long as it exists: a call through them, or an access, traps at
 * address zero; a length is zero; what is written is lost. Blocks are cleared so that they don't point to one another.
 *
 * One pass, no tracing. What a waiting block pointed to is gone with its zeroes, so it is enough to ask of each word
 * that is there whether it points to a block that waits. The answer at one instant stays true: nobody can get an
 * address from where it is not. A pointer that is hidden (XORed, compressed) is not seen; its block comes back after
 * a wait of a quarter of the heap.
 *
 * While it is small (IN_PLACE_MOST) the program stands still for the pass, at some GB/s; more is read by a
 * copy of the process, and the program stands still only for the fork. Blocks freed meanwhile were live in the copy, so
 * they are not among its answers. When twice as much has come to wait before the copy is done, who frees waits for it.
 *
 * Where threads can't be stopped or not all memory can be seen (scan gaps), nothing is released. After FAILED_MOST
 * such sweeps in a row, or where the process has locked itself in (seccomp), all that waits is released, a
 * quarantine as without the sweep, and that is said once.
 *
 * Who may touch what. `sweep.lock` is held by whoever looks after the sweep; others go on. It is not registered: it
 * is held while all registered locks are taken. A forked child resets it and forgets the copy, which is its
 * parent's.
 *
 * Follows: M. Erdős, S. Ainsworth, T. Jones, "MineSweeper: a clean sweep for drop-in use-after-free prevention"
 * (ASPLOS 2022); S. Ainsworth, T. Jones, "MarkUs" (S&P 2020), for when to sweep.
 */
#include "base/lock.h"
#include "base/message.h"
#include "guard/pressure.h"
#include "guard/thread.h"
#include "heap/heap.h"
#include "os/sys.h"
#include "scan/scan.h"

#define COUNT_STEP                                                                                 \
    ((size_t)64 << 10) /* a thread's own count is added to the common one in such steps */
#define WAIT_LEAST ((size_t)4 << 20) /* a sweep of a small process takes 0.5 ms */
#define WAIT_SHARE 4                 /* of what is live */
#define IN_PLACE_MOST                                                                              \
    ((size_t)64 << 20) /* 15 ms; forking that takes 1, and the faults after it 10 */
#define FAILED_MOST 4

static struct {
    struct fh_lock lock;
    _Atomic size_t waiting; /* bytes */
    size_t kept;            /* of these: pointed to at the last sweep */
    size_t at_begin;        /* waiting when the sweep that is under way began */
    struct fh_scan *copy;   /* it is under way in a copy of the process; or NULL */
    unsigned failed;        /* sweeps in a row that could not be complete */
    bool has_told;
} sweep;

static const struct fh_scan_options options = {.roots = FH_SCAN_ALL_ROOTS};

static void list_blocks(struct fh_scan *scan)
{
    fh_slots_list(scan);
    fh_wides_list(scan);
    fh_fences_list(scan);
}

static struct fh_scan_owner owner = {.name = "guard", .list = list_blocks};

void fh_sweep_start(void)
{
    fh_scan_register(&owner);
}

static void do_sweep(struct fh_scan *scan, void *context)
{
    (void)context;
    fh_scan_sweep(scan);
}

/* ---- its end ------------------------------------------------------------------------------------- */

static void tell_once(const char *why)
{
    if (!sweep.has_told)
        fh_message("uaf=sweep: %s; freed blocks wait for a while, as without the sweep", why);
    sweep.has_told = true;
}

/* What the scan wants; all that waits when it is NULL. Returns what it counted. */
static size_t release(const struct fh_scan *scan)
{
    const size_t bytes =
        fh_slots_release_swept(scan) + fh_wides_release_swept(scan) + fh_fences_release_swept(scan);
    atomic_fetch_sub_explicit(&sweep.waiting, bytes, memory_order_relaxed);
    return bytes;
}

static void release_all(void)
{
    release(NULL);
    sweep.kept = 0;
}

static void fail(const char *why)
{
    if (++sweep.failed < FAILED_MOST) {
        sweep.kept = sweep.at_begin;
        return;
    }
    tell_once(why);
    release_all();
}

static void finish(struct fh_scan *scan)
{
    if (fh_scan_gaps(scan) != 0) {
        fail("not all threads could be stopped, or not all memory be read");
    } else {
        const size_t bytes = release(scan);
        sweep.kept = sweep.at_begin > bytes ? sweep.at_begin - bytes : 0;
        sweep.failed = 0;
    }
    fh_scan_forget(scan, false);
}

/* ---- its beginning --------------------------------------------------------------------------------- */

static void begin(size_t live)
{
    int error = 0;
    sweep.at_begin = atomic_load_explicit(&sweep.waiting, memory_order_relaxed);
    if (live > IN_PLACE_MOST) {
        sweep.copy = fh_scan_snapshot(&options, do_sweep, NULL, &error);
        if (sweep.copy != NULL)
            return;
    }
    struct fh_scan *scan = fh_scan_run(&options, do_sweep, NULL, &error);
    if (scan != NULL)
        finish(scan);
    else
        fail("the threads of this process can't be stopped");
}

/* A child of vfork works in this memory, but its parent's threads are not in its /proc/self/task; they would run on. So it
 * lets what it frees wait for the parent's next sweep. */
static bool is_in_other_process(void)
{
    return fh_os_getpid() != fh_root.pid;
}

/* Lock held. */
static void look_after(void)
{
    if (is_in_other_process())
        return;
    const size_t live = fh_guard_live();
    const size_t limit = fh_max(live / WAIT_SHARE, WAIT_LEAST);
    const size_t waiting = atomic_load_explicit(&sweep.waiting, memory_order_relaxed);
    const size_t more = waiting > sweep.kept ? waiting - sweep.kept : 0;
    if (sweep.copy != NULL) {
        if (more >= 2 * limit)
            fh_scan_wait(sweep.copy);
        else if (!fh_scan_is_done(sweep.copy))
            return;
        struct fh_scan *done = sweep.copy;
        sweep.copy = NULL;
        finish(done);
        return;
    }
    if (more < limit)
        return;
    if (atomic_load_explicit(&fh_root.is_confined, memory_order_relaxed)) {
        tell_once("after seccomp the threads of this process can't be stopped");
        release_all();
        return;
    }
    begin(live);
}

void fh_sweep_count(struct fh_guard_thread *mine, size_t bytes)
{
    mine->swept += bytes;
    if (FH_LIKELY(mine->swept < COUNT_STEP))
        return;
    atomic_fetch_add_explicit(&sweep.waiting, mine->swept, memory_order_relaxed);
    mine->swept = 0;
    if (!fh_lock_try(&sweep.lock))
        return;
    look_after();
    fh_lock_release(&sweep.lock);
}

void fh_sweep_forked(void)
{
    fh_lock_reset(&sweep.lock);
    if (sweep.copy != NULL)
        fh_scan_forget(sweep.copy, true);
    sweep.copy = NULL;
}
