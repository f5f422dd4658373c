/*
 * Heaps of exited threads: abandoned and adopted under the heaps lock while blocks come home from other threads.
 *
 * Thread 1 owns heap 1 with runs 1 and 2, frees block 3 (run 1), exits: under the lock it gives up its runs and
 * marks the heap abandoned. With -DLATE it frees block 3 after that (destructors of other libraries do). Thread 3
 * never owns anything; it frees block 1 (run 1) and block 2 (run 2). Thread 2 frees block 4 (run 1), before or after
 * it has taken the heap over, which it does in one of two ways:
 *
 *   merge (default)   the runs move to its own heap 2; heap 1 is dissolved: its inbox is SHUT in the exchange that
 *                     takes what is on it. With -DREUSE thread 4 then makes the dissolved heap its own and opens the
 *                     inbox again: threads that still have its address push there, and it forwards.
 *   -DWHOLE           heap 1 becomes a heap of thread 2, runs and inbox unchanged. With -DHELPER the decay helper also
 *                     comes by: finding the heap abandoned, under the lock, it purges a block of run 1.
 *
 * At the end, after a last collect of every live heap, all four blocks are home.
 */

#define BLOCKS 4
#define RUNS 2
#define HEAPS 4 /* 1 and 2 are heaps; the inboxes of 3 and 4 are the heaps lock and heap 1's state */
#if defined(REUSE) || defined(HELPER)
#define CPUS 4
#else
#define CPUS 3
#endif
#define RUN_OF(b) ((b) == 2 -> 2 : 1)
#define HEAPS_LOCK INBOX(3)
#define STATE INBOX(4)

/* Thread 2 reads all; thread 1 where runs belong, owners, local lists; thread 4 links; 3 and 4 where runs belong. */
#define SEES(cpu, x)                                                                                          \
    ((cpu) == 1 || IS_HEAP(x) || ((cpu) == 0 && (x) > BLOCKS + 2 * RUNS) ||                                   \
     ((cpu) == 3 && SEEN_BY_4(x)))
#ifdef HELPER
#define SEEN_BY_4(x) true
#else
#define SEEN_BY_4(x) ((x) > BLOCKS && (x) <= BLOCKS + RUNS)
#endif

#include "remote.pml"

#define LIVE 0
#define ABANDONED 1
#define DISSOLVED 2
#define REUSED 3

byte finished;

#ifdef BUG_NO_HEAPS_LOCK
inline lock_heaps(cpu) { skip }
inline unlock_heaps(cpu) { skip }
#else
inline lock_heaps(cpu)
{
    atomic {
        RMW_READY(cpu, HEAPS_LOCK, ACQUIRE) && memory[HEAPS_LOCK] == 0;
        memory[HEAPS_LOCK] = 1;
        see_all(cpu)
    }
}
#ifdef BUG_UNLOCK_RELAXED
inline unlock_heaps(cpu) { store(cpu, HEAPS_LOCK, 0) }
#else
inline unlock_heaps(cpu) { store_release(cpu, HEAPS_LOCK, 0) }
#endif
#endif

/* free(block) of thread cpu, whose mark as an owner is `me`. */
inline free_block(cpu, me, block)
{
    load(cpu, OWNER(RUN_OF(block)), owner);
    if
    :: owner == me ->
        load(cpu, LOCAL(RUN_OF(block)), old);
        store(cpu, NEXT(block), old);
        store(cpu, LOCAL(RUN_OF(block)), block);
        old = 0
    :: else -> push_batch(cpu, RUN_OF(block), block, block, 1)
    fi;
    owner = 0
}

inline finish(cpu) { atomic { P[cpu].count == 0 -> finished++ } }

proctype Thread1()
{
    byte owner, old, h, top;
    bool done;

#ifndef LATE
    free_block(0, 1, 3);
#endif
    lock_heaps(0);
#ifndef BUG_OWNER_KEPT
    store(0, OWNER(1), 0);
    store(0, OWNER(2), 0);
#endif
    store(0, STATE, ABANDONED);
    unlock_heaps(0);
#ifdef LATE
    free_block(0, 1, 3);
#endif
    finish(0)
}

proctype Thread3()
{
    byte old, h, top;
    bool done;

    push_batch(2, 1, 1, 1, 1);
    push_batch(2, 2, 2, 2, 1);
    finish(2)
}

inline walk_local(r)
{
    b = memory[LOCAL(r)];
    do
    :: b == 0 -> break
    :: else ->
        assert(b <= BLOCKS && RUN_OF(b) == r && !is_home[b]);
        is_home[b] = true;
        b = memory[NEXT(b)]
    od
}

#ifdef WHOLE
#define MINE 1
#else
#define MINE 2
#endif

proctype Thread2()
{
    byte owner, old, h, top, taken, next, word, b, belongs, state;
    bool done, has_freed;

    do
    :: !has_freed -> has_freed = true; free_block(1, 2, 4)
    :: state != ABANDONED ->
        lock_heaps(1);
        load(1, STATE, state);
        if
        :: state == ABANDONED ->
            store(1, OWNER(1), 2);
            store(1, OWNER(2), 2);
#ifdef WHOLE
            store(1, STATE, LIVE);
#else
            store(1, HEAP(1), 2);
            store(1, HEAP(2), 2);
#ifdef BUG_INBOX_LEFT_OPEN
            take_inbox(1, 1, 0, ACQ_REL);
#else
            take_inbox(1, 1, SHUT, ACQ_REL);
#endif
            store(1, STATE, DISSOLVED);
            collect_taken(1, 2);
#endif
            unlock_heaps(1)
        :: else -> unlock_heaps(1)
        fi
    :: state == ABANDONED && has_freed -> break
    od;
    collect(1, MINE);
#if defined(REUSE) || defined(HELPER)
    atomic { finished == 3 -> fence(1) }
#else
    atomic { finished == 2 -> fence(1) }
#endif
    collect(1, MINE);
    atomic {
        P[1].count == 0;
        walk_local(1);
        walk_local(2);
        assert(is_home[1] && is_home[2] && is_home[3] && is_home[4]);
        assert(memory[REMOTE(1)] == 0 && memory[REMOTE(2)] == 0 && memory[INBOX(MINE)] == 0)
    }
}

#ifdef REUSE
proctype Thread4()
{
    byte h, top, taken, next, word, b, belongs, state;
    bool done;

    do
    :: lock_heaps(3);
        load(3, STATE, state);
        if
        :: state == DISSOLVED ->
            store(3, STATE, REUSED);
            store(3, INBOX(1), 0);
            unlock_heaps(3);
            break
        :: else -> unlock_heaps(3)
        fi
    od;
    collect(3, 1);
    atomic { finished == 2 -> fence(3) }
    collect(3, 1);
    finish(3)
}
#endif

#ifdef HELPER
proctype Helper()
{
    byte state, b, next;

#ifdef BUG_STATE_BEFORE_LOCK
    load(3, STATE, state);
    lock_heaps(3);
#else
    lock_heaps(3);
    load(3, STATE, state);
#endif
    if
    :: state == ABANDONED -> load(3, LOCAL(1), b)
    :: else
    fi;
    if
    :: b != 0 ->
        load(3, NEXT(b), next);
        store(3, LOCAL(1), next);
        atomic { P[3].count == 0 -> assert(!is_home[b]); is_home[b] = true } /* purged: the heap's again */
    :: else
    fi;
    unlock_heaps(3);
    finish(3)
}
#endif

init
{
    atomic {
        preset(NEXT(1), USER_DATA);
        preset(NEXT(2), USER_DATA);
        preset(NEXT(3), USER_DATA);
        preset(NEXT(4), USER_DATA);
        preset(HEAP(1), 1);
        preset(HEAP(2), 1);
        preset(OWNER(1), 1);
        preset(OWNER(2), 1);
        run Buffer(0);
        run Buffer(1);
        run Buffer(2);
        run Thread1();
        run Thread2();
        run Thread3();
#ifdef REUSE
        run Buffer(3);
        run Thread4()
#endif
#ifdef HELPER
        run Buffer(3);
        run Helper()
#endif
    }
}
