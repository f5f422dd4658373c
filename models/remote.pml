/*
 * The protocol of frees from other threads, shared by remote_free.pml and adoption.pml.
 *
 * A run's word REMOTE(r) holds {count, head} of the list of blocks that other threads have freed; NEXT(b) is
 * the link inside a free block. Who turns the word from 0 to something, and nobody else, puts the run on the
 * inbox of the heap that HEAP(r) names (a stack through INBOX_NEXT(r)). The owner takes the whole inbox, and for
 * each run reads the link BEFORE it takes the word: from that moment the run may be put on an inbox again.
 * A run found on the inbox of a heap to which it no longer belongs is forwarded to the one it belongs to. An inbox
 * whose heap was dissolved holds SHUT: who meets that reads HEAP(r) again.
 *
 * The model defines: BLOCKS, RUNS, HEAPS, RUN_OF(b). Blocks, runs and heaps count from 1.
 *
 * Claims, checked at the step that would break them:
 *   - a run is on at most one inbox, and on none while the owner holds it between inbox and word (where_is);
 *   - the links of a taken list lead through `count` blocks of this run and end in 0;
 *   - no block comes home twice (is_home).
 */

#define NEXT(b) (b)
#define INBOX_NEXT(r) (BLOCKS + (r))
#define HEAP(r) (BLOCKS + RUNS + (r))
#define OWNER(r) (BLOCKS + 2 * RUNS + (r))
#define LOCAL(r) (BLOCKS + 3 * RUNS + (r))
#define VIEWED (BLOCKS + 4 * RUNS + 1)
#define REMOTE(r) (BLOCKS + 4 * RUNS + (r))
#define INBOX(h) (BLOCKS + 5 * RUNS + (h))
#define LOCS (BLOCKS + 5 * RUNS + HEAPS + 1)
#define IS_HEAP(x) ((x) > BLOCKS + RUNS && (x) <= BLOCKS + 2 * RUNS)

#define USER_DATA 15 /* what a block's first bytes hold while it is in use: not a link */
#define SHUT 15      /* the inbox of a dissolved heap */
#define NOWHERE 0    /* where_is[r]: NOWHERE, on the inbox of heap h, or IN_HAND of an owner */
#define IN_HAND 14

#include "memory.pml"

/* The orders of the C code, and their planted weakenings. */
#ifdef BUG_PUSH_RELAXED
#define PUSH_ORDER RELAXED
#else
#define PUSH_ORDER ACQ_REL
#endif
#ifdef BUG_INBOX_PUSH_RELAXED
#define INBOX_PUSH_ORDER RELAXED
#else
#define INBOX_PUSH_ORDER RELEASE
#endif
#ifdef BUG_INBOX_TAKE_RELAXED
#define INBOX_TAKE_ORDER RELAXED
#else
#define INBOX_TAKE_ORDER ACQUIRE
#endif
#if defined(BUG_TAKE_RELAXED)
#define TAKE_ORDER RELAXED
#elif defined(BUG_TAKE_NOT_RELEASE)
#define TAKE_ORDER ACQUIRE
#else
#define TAKE_ORDER ACQ_REL
#endif

byte where_is[RUNS + 1];
bit is_home[BLOCKS + 1];

/* inbox_push: the run goes on the inbox of its heap. Uses the caller's h, top, done. */
inline push_inbox(cpu, r)
{
    load(cpu, HEAP(r), h);
    load_acquire(cpu, INBOX(h), top);
    do
    :: top == SHUT ->
        load(cpu, HEAP(r), h);
        load_acquire(cpu, INBOX(h), top)
    :: else ->
        store(cpu, INBOX_NEXT(r), top);
        atomic {
            compare_swap(cpu, INBOX(h), top, r, done, INBOX_PUSH_ORDER);
            if
            :: done ->
                assert(where_is[r] == NOWHERE);
                where_is[r] = h;
                done = false;
                top = 0;
                h = 0;
                break
            :: else ->
                if
                :: top == SHUT -> see_all(cpu) /* failure order: acquire */
                :: else
                fi
            fi
        }
    od
}

/* fh_remote_push: a batch first..last of n blocks of run r, linked already but for last. */
inline push_batch(cpu, r, first, last, n)
{
    load(cpu, REMOTE(r), old);
    do
    :: store(cpu, NEXT(last), old & 15);
        compare_swap(cpu, REMOTE(r), old, (first) | (((old >> 4) + (n)) << 4), done, PUSH_ORDER);
        if
        :: done -> done = false; break
        :: else
        fi
    od;
#ifdef BUG_ALWAYS_PUSH_INBOX
    push_inbox(cpu, r);
#else
    if
    :: old == 0 -> push_inbox(cpu, r)
    :: else
    fi;
#endif
    old = 0
}

/* The owner puts the blocks of a taken word back. One step: after a correct take nobody else writes these links. */
inline bring_home(cpu, r)
{
    atomic {
        b = word & 15;
        word = word >> 4;
        do
        :: word == 0 -> break
        :: else ->
            assert(b >= 1 && b <= BLOCKS);
            assert(RUN_OF(b) == r);
            assert(!is_home[b]);
            is_home[b] = true;
            load(cpu, NEXT(b), b);
            word--
        od;
        assert(b == 0);
        b = 0
    }
}

inline take_word(cpu, r)
{
    atomic {
        exchange(cpu, REMOTE(r), 0, word, TAKE_ORDER);
        where_is[r] = NOWHERE
    }
}

inline read_link_then_take(cpu, r)
{
    load(cpu, INBOX_NEXT(r), next);
    take_word(cpu, r)
}
inline take_then_read_link(cpu, r)
{
    take_word(cpu, r);
    load(cpu, INBOX_NEXT(r), next)
}

/*
 * Without RELEASE in the take, the load of the link written before it may still happen after it (aarch64 does
 * that: a load, then a store-exclusive to another location, nothing between).
 */
inline read_link_and_take(cpu, r)
{
#if defined(BUG_NEXT_AFTER_TAKE)
    take_then_read_link(cpu, r)
#elif defined(WEAK) && (defined(BUG_TAKE_NOT_RELEASE) || defined(BUG_TAKE_RELAXED))
    if
    :: read_link_then_take(cpu, r)
    :: take_then_read_link(cpu, r)
    fi
#else
    read_link_then_take(cpu, r)
#endif
}

/* The inbox of heap `mine` becomes `left`; its runs are in hand, their chain in `taken`. */
inline take_inbox(cpu, mine, left, order)
{
    atomic {
        exchange(cpu, INBOX(mine), left, taken, order);
        step_i = 1;
        do
        :: step_i <= RUNS ->
            if
            :: where_is[step_i] == mine -> where_is[step_i] = IN_HAND
            :: else
            fi;
            step_i++
        :: else -> break
        od;
        step_i = 0
    }
}

/* Runs of the chain `taken`: collected, or forwarded when their heap is another one. */
inline collect_taken(cpu, mine)
{
    do
    :: taken == 0 -> break
    :: else ->
        assert(taken <= RUNS);
        load(cpu, HEAP(taken), belongs);
        if
        :: belongs != mine ->
            load(cpu, INBOX_NEXT(taken), next);
            where_is[taken] = NOWHERE;
#ifndef BUG_NO_FORWARD
            push_inbox(cpu, taken)
#endif
        :: else ->
            read_link_and_take(cpu, taken);
            bring_home(cpu, taken)
        fi;
        belongs = 0;
        taken = next;
        next = 0
    od
}

/* fh_heap_collect_inbox */
inline collect(cpu, mine)
{
    take_inbox(cpu, mine, 0, INBOX_TAKE_ORDER);
    collect_taken(cpu, mine)
}
