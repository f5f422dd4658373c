/*
 * Hand-over of a run to the decay helper, against the owner's fast path, which is not atomic.
 *
 * The owner T frees blocks: it compares run->owner with itself, reads run->local, writes the link into the block,
 * writes run->local; no lock, no barrier. The helper takes T's heap lock, makes the run LOCKED, full barrier, reads T's
 * interruption counter, asks the kernel whether T is blocked in a system call in which a thread waits, reads the
 * counter again. Only if T is so blocked and the counter is even and unchanged does it touch the run: it takes the
 * list, purges its first block and puts the others back. Then the owner is T again and the lock free. T, finding
 * LOCKED, waits for the lock.
 *
 * What may happen to T between any two of its steps (at most EVENTS times in a search):
 *   - it waits in a system call, on its way from one free to the next (never inside the fast path);
 *   - it blocks in a page fault: the kernel says "-1", not the number of a call;
 *   - a signal: the wrapper counts (odd: a handler runs on top of allocator code), the handler waits in a system call,
 *     the wrapper counts again, and rt_sigreturn itself may block, on reading the signal frame. Before the wrapper
 *     has counted, and after it has counted back, a second signal may come, whose handler waits: its
 *     wrapper finds the first one's code interrupted, and must count too;
 *   - vfork: T waits for a child that runs in the same memory, with T's thread pointer, and frees a block.
 *
 * Assumed of the kernel: an answer "blocked in call n" means that T was off its processor at some moment of the
 * question; all T's earlier stores are visible to the asker then, and T passes a full barrier before it executes user
 * code again. (Linux: wait_task_inactive holds T's run-queue lock, which the switch back to T takes.) The question
 * itself is not assumed to empty the asker's store buffer.
 *
 * With -DFORK a fork that runs no handlers (_Fork, raw clone) takes a snapshot of memory, without the store buffers,
 * at any moment: the list in it is sound at every such moment, though the helper is gone and T may be in mid-free. On
 * WEAK that costs T a release store of run->local.
 *
 * At the end each freed block is on run->local or purged, and none is both.
 */

#define BLOCKS 3
#define CPUS 2
#define NEXT(b) (b)
#define LOCAL (BLOCKS + 1)
#define OWNER (BLOCKS + 2)
#define COUNTER (BLOCKS + 3)
#define VIEWED (BLOCKS + 4)
#define LOCK (BLOCKS + 4)
#define LOCS (BLOCKS + 5)
/* T reads run->local and the owner; the helper links, run->local and the counter. */
#define SEES(cpu, x) ((cpu) == 0 -> ((x) == LOCAL || (x) == OWNER) : (x) != OWNER)

#include "memory.pml"

#define USER_DATA 15
#define OWNED 1
#define LOCKED 2

/* What the kernel answers about T. */
#define RUNNING 0
#define WAITING 1   /* in a call in which threads wait: read, poll, futex, nanosleep, ... */
#define FAULT 2     /* blocked, but in no call */
#define SIGRETURN 3 /* in rt_sigreturn */
#define FORKING 4   /* in vfork, clone, ... */

#ifndef EVENTS
#define EVENTS 2
#endif
#ifndef BORROWS
#define BORROWS 2
#endif

byte kernel = RUNNING;
byte events;
byte finished;
bit is_freed[BLOCKS + 1];
bit is_purged[BLOCKS + 1];

#ifdef BUG_NO_INTERRUPTION_COUNT
#define COUNT(c) skip
#else
#define COUNT(c) c = c + 1; store(0, COUNTER, c)
#endif
#ifdef BUG_WRAPPER_NOT_COVERED
#define COUNT_SECOND(c) skip
#else
#define COUNT_SECOND(c) COUNT(c)
#endif

inline blocks(call)
{
    atomic { P[0].count == 0 -> kernel = call };
    atomic { kernel = RUNNING; see_all(0) }
}

inline second_signal()
{
    if
    :: atomic { events < EVENTS -> events++ };
        COUNT_SECOND(count);
        blocks(WAITING);
        COUNT_SECOND(count)
    :: true
    fi
}

/* Between two steps of the fast path. */
inline interrupted_or_not()
{
    if
    :: atomic { events < EVENTS -> events++ }; blocks(FAULT)
    :: atomic { events < EVENTS -> events++ };
        second_signal();
        COUNT(count);
        blocks(WAITING);
        COUNT(count);
        second_signal();
        blocks(SIGRETURN)
    :: true
    fi
}

#if defined(BUG_OWNER_LOAD_RELAXED)
#define load_owner(dest) load(0, OWNER, dest)
#else
#define load_owner(dest) load_acquire(0, OWNER, dest)
#endif
#if defined(FORK) && !defined(BUG_LINK_LATE)
#define store_local(block) store_release(0, LOCAL, block)
#else
#define store_local(block) store(0, LOCAL, block)
#endif

inline lock(cpu)
{
    atomic {
        RMW_READY(cpu, LOCK, ACQUIRE) && memory[LOCK] == 0;
        memory[LOCK] = 1;
        see_all(cpu)
    }
}

inline free_block(block)
{
    is_freed[block] = true;
#ifdef BUG_LOCAL_BEFORE_OWNER
    load(0, LOCAL, head);
    load_owner(owner);
#else
    load_owner(owner);
#endif
    interrupted_or_not();
    if
    :: owner == OWNED ->
#ifndef BUG_LOCAL_BEFORE_OWNER
        load(0, LOCAL, head);
#endif
        interrupted_or_not();
        store(0, NEXT(block), head);
        interrupted_or_not();
        store_local(block)
    :: else ->
#ifndef BUG_SLOW_WITHOUT_LOCK
        lock(0);
#endif
        load(0, LOCAL, head);
        store(0, NEXT(block), head);
        store_local(block);
#ifndef BUG_SLOW_WITHOUT_LOCK
        store_release(0, LOCK, 0)
#endif
    fi;
    owner = 0;
    head = 0
}

proctype T()
{
    byte owner, head, block, count;

    block = 1;
    do
    :: block <= BLOCKS ->
        if
        :: atomic { events < EVENTS -> events++ }; blocks(WAITING)
        :: atomic { block < BLOCKS && events < EVENTS && P[0].count == 0 -> events++; kernel = FORKING };
            free_block(block); /* the child */
            block++;
            atomic { P[0].count == 0 -> kernel = RUNNING; see_all(0) }
        :: true
        fi;
        free_block(block);
        block++
    :: else -> break
    od;
    atomic { P[0].count == 0 -> finished++ }
}

inline ask_kernel()
{
    atomic {
        answer = kernel;
        see_all(1)
    }
}

#if defined(BUG_NO_CHECK)
#define IS_WAITING true
#elif defined(BUG_ACCEPT_FAULT)
#define IS_WAITING (answer == WAITING || answer == FAULT)
#elif defined(BUG_ACCEPT_SIGRETURN)
#define IS_WAITING (answer == WAITING || answer == SIGRETURN)
#elif defined(BUG_ACCEPT_VFORK)
#define IS_WAITING (answer == WAITING || answer == FORKING)
#else
#define IS_WAITING (answer == WAITING)
#endif
#if defined(BUG_COUNTER_ONLY_BEFORE)
#define IS_CLEAN ((before & 1) == 0)
#elif defined(BUG_COUNTER_ONLY_AFTER)
#define IS_CLEAN ((after & 1) == 0)
#else
#define IS_CLEAN ((before & 1) == 0 && before == after)
#endif

inline return_run()
{
#ifdef BUG_RETURN_RELAXED
    store(1, OWNER, OWNED);
#else
    store_release(1, OWNER, OWNED);
#endif
}

proctype Helper()
{
    byte answer, before, after, head, next, rounds;

    do
    :: rounds < BORROWS ->
        rounds++;
        lock(1); /* the real one only tries; a failed try is a round less */
#ifdef BUG_CHECK_FIRST
        load(1, COUNTER, before);
        ask_kernel();
        load(1, COUNTER, after);
        store(1, OWNER, LOCKED);
        fence(1);
#else
        store(1, OWNER, LOCKED);
#ifndef BUG_NO_FENCE
        fence(1);
#endif
        load(1, COUNTER, before);
        ask_kernel();
        load(1, COUNTER, after);
#endif
        if
        :: IS_WAITING && IS_CLEAN ->
            load(1, LOCAL, head);
            if
            :: head != 0 ->
                load(1, NEXT(head), next);
                assert(is_freed[head] && !is_purged[head] && next <= BLOCKS);
#ifdef BUG_PURGE_BEFORE_DETACH
                is_purged[head] = true;
#else
                store(1, LOCAL, 0);
                atomic { P[1].count == 0 -> is_purged[head] = true } /* madvise: a full barrier; the page is gone */
#endif
                store(1, LOCAL, next)
            :: else
            fi
        :: else
        fi;
        atomic { answer = 0; before = 0; after = 0; head = 0; next = 0 };
        return_run();
        store_release(1, LOCK, 0)
    :: else -> break
    od;
    atomic { P[1].count == 0 -> finished++ }
}

/* The list in memory as it is: freed blocks, none purged, none twice, and an end. */
inline walk(steps)
{
    steps = 0;
    at = memory[LOCAL];
    do
    :: at == 0 -> break
    :: else ->
        assert(at <= BLOCKS && steps < BLOCKS);
        assert(is_freed[at] && !is_purged[at]);
        steps++;
        at = memory[NEXT(at)]
    od
}

#ifdef FORK
proctype Fork()
{
    byte at, steps;
    atomic { walk(steps); at = 0; steps = 0 }
}
#endif

proctype Check()
{
    byte at, steps;
    atomic {
        finished == 2;
        walk(steps);
        assert(steps + is_purged[1] + is_purged[2] + is_purged[3] == BLOCKS);
        assert(memory[OWNER] == OWNED && memory[LOCK] == 0)
    }
}

init
{
    atomic {
        preset(NEXT(1), USER_DATA);
        preset(NEXT(2), USER_DATA);
        preset(NEXT(3), USER_DATA);
        preset(OWNER, OWNED);
        run Buffer(0);
        run Buffer(1);
        run T();
        run Helper();
#ifdef FORK
        run Fork();
#endif
        run Check()
    }
}
