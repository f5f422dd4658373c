/*
 * Weak memory for the models: every processor has a buffer of stores that the others do not see yet.
 *
 * A model defines CPUS and LOCS (numbers of processors and of one-byte locations; location 0 is never used), VIEWED
 * and SEES (below), and includes this file. It then touches shared memory only through
 *
 *     store(cpu, where, what)  store_release(cpu, where, what)      leave through cpu's buffer, at any later time
 *     load(cpu, where, dest)  load_acquire(cpu, where, dest)  see cpu's own newest buffered store first
 *     exchange(cpu, where, what, old, order)                 read-modify-write, on memory itself
 *     compare_swap(cpu, where, expected, what, done, order)  as in C: a failure leaves the value read in expected
 *     fence(cpu)                                      full barrier
 *
 * Two machines:
 *
 *   TSO (default; x86-64). A buffer is emptied in order. A load reads memory. A read-modify-write waits until
 *   the buffer is empty, whatever order it names.
 *
 *   WEAK (-DWEAK; what C17 and aarch64 may do with these orders). Stores to different locations leave the
 *   buffer in any order; a release store leaves only when it is the oldest. A read-modify-write waits for all
 *   older stores if its order has RELEASE, else only for those to its own location. Each processor keeps
 *   its own view of every location, possibly old: a plain load reads the view or brings it up to date,
 *   ACQUIRE (and a fence) brings all of them up to date. So loads pass loads, stores pass stores, and
 *   loads pass stores, unless ordered. To keep the search small, views exist for locations below VIEWED only, and
 *   for a processor for which SEES(cpu, where) holds: it must hold for what that processor reads by plain load. The
 *   words that are changed by compare-and-swap need none: an old value there only makes the swap fail.
 *
 * What WEAK does not do by itself is let a load happen after a later store (load buffering). Where that
 * matters a model says so and takes both orders (read_link_and_take in remote.pml).
 *
 * Coherence holds: a view only moves forward to what memory holds now, and stores to one location leave in order.
 */

#define DEPTH 3 /* stores in one buffer; a full buffer makes the processor wait */

#define RELAXED 0
#define ACQUIRE 1
#define RELEASE 2
#define ACQ_REL 3

typedef Processor {
    byte count;
    byte loc[DEPTH];
    byte val[DEPTH];
    bit rel[DEPTH];
#ifdef WEAK
    byte view[VIEWED];
#endif
};

byte memory[LOCS];
Processor P[CPUS];

hidden byte step_i; /* scratch of d_steps: never part of the state */

#define HOLDS(cpu, where)                                                                                        \
    ((P[cpu].count > 0 && P[cpu].loc[0] == (where)) || (P[cpu].count > 1 && P[cpu].loc[1] == (where)) ||             \
     (P[cpu].count > 2 && P[cpu].loc[2] == (where)))

#define FORWARDED(cpu, where)                                                                                    \
    ((P[cpu].count > 2 && P[cpu].loc[2] == (where))                                                              \
         -> P[cpu].val[2]                                                                                    \
         : ((P[cpu].count > 1 && P[cpu].loc[1] == (where)) -> P[cpu].val[1] : P[cpu].val[0]))

#ifdef WEAK
#define SEE(cpu, where) P[cpu].view[where] = (SEES(cpu, where) -> memory[where] : 0)
#define HAS_VIEW(cpu, where) ((where) < VIEWED && SEES(cpu, where))
#define RMW_READY(cpu, where, order) (((order) & RELEASE) -> P[cpu].count == 0 : !HOLDS(cpu, where))
inline see_own(cpu, where)
{
    if
    :: (where) < VIEWED -> SEE(cpu, where)
    :: else
    fi
}
inline see_all(cpu)
{
    d_step {
        step_i = 0;
        do
        :: step_i < VIEWED -> SEE(cpu, step_i); step_i++
        :: else -> break
        od;
        step_i = 0
    }
}
#else
#define RMW_READY(cpu, where, order) (P[cpu].count == 0)
inline see_own(cpu, where) { skip }
inline see_all(cpu) { skip }
#endif

inline buffer_store(cpu, where, what, is_release)
{
    d_step {
        P[cpu].count < DEPTH;
        P[cpu].loc[P[cpu].count] = (where);
        P[cpu].val[P[cpu].count] = (what);
        P[cpu].rel[P[cpu].count] = is_release;
        P[cpu].count++
    }
}
inline store(cpu, where, what) { buffer_store(cpu, where, what, 0) }
inline store_release(cpu, where, what) { buffer_store(cpu, where, what, 1) }

/* Entry i of cpu's buffer reaches memory; the younger ones move up. Unused entries stay zero, so that equal
 * states compare equal. */
inline commit(cpu, i)
{
    d_step {
        memory[P[cpu].loc[i]] = P[cpu].val[i];
        see_own(cpu, P[cpu].loc[i]);
        step_i = i;
        do
        :: step_i + 1 < P[cpu].count ->
            P[cpu].loc[step_i] = P[cpu].loc[step_i + 1];
            P[cpu].val[step_i] = P[cpu].val[step_i + 1];
            P[cpu].rel[step_i] = P[cpu].rel[step_i + 1];
            step_i++
        :: else -> break
        od;
        P[cpu].loc[step_i] = 0;
        P[cpu].val[step_i] = 0;
        P[cpu].rel[step_i] = 0;
        P[cpu].count--;
        step_i = 0
    }
}

#ifdef WEAK
#define FREE_TO_PASS_1(cpu) (P[cpu].count > 1 && !P[cpu].rel[1] && P[cpu].loc[1] != P[cpu].loc[0])
#define FREE_TO_PASS_2(cpu)                                                                                  \
    (P[cpu].count > 2 && !P[cpu].rel[2] && P[cpu].loc[2] != P[cpu].loc[0] && P[cpu].loc[2] != P[cpu].loc[1])
#else
#define FREE_TO_PASS_1(cpu) false
#define FREE_TO_PASS_2(cpu) false
#endif

/* The hardware: one such process a processor empties its buffer whenever it likes. */
proctype Buffer(byte cpu)
{
end:
    do
    :: atomic { P[cpu].count > 0 -> commit(cpu, 0) }
    :: atomic { FREE_TO_PASS_1(cpu) -> commit(cpu, 1) }
    :: atomic { FREE_TO_PASS_2(cpu) -> commit(cpu, 2) }
    od
}

#ifdef WEAK
inline load(cpu, where, dest)
{
    atomic {
        if
        :: HOLDS(cpu, where) -> dest = FORWARDED(cpu, where)
        :: !HOLDS(cpu, where) && !HAS_VIEW(cpu, where) -> dest = memory[where]
        :: !HOLDS(cpu, where) && HAS_VIEW(cpu, where) -> dest = P[cpu].view[where]
        :: !HOLDS(cpu, where) && HAS_VIEW(cpu, where) && P[cpu].view[where] != memory[where] ->
            SEE(cpu, where);
            dest = P[cpu].view[where]
        fi
    }
}
inline load_acquire(cpu, where, dest)
{
    atomic {
        if
        :: HOLDS(cpu, where) -> dest = FORWARDED(cpu, where)
        :: else -> dest = memory[where]
        fi;
        see_all(cpu)
    }
}
#else
inline load(cpu, where, dest)
{
    d_step {
        if
        :: HOLDS(cpu, where) -> dest = FORWARDED(cpu, where)
        :: else -> dest = memory[where]
        fi
    }
}
inline load_acquire(cpu, where, dest) { load(cpu, where, dest) }
#endif

inline after_rmw(cpu, where, order)
{
    if
    :: (order) & ACQUIRE -> see_all(cpu)
    :: else /* read-modify-writes are only done on locations without views */
    fi
}

inline exchange(cpu, where, what, old, order)
{
    atomic {
        RMW_READY(cpu, where, order);
        old = memory[where];
        memory[where] = (what);
        after_rmw(cpu, where, order)
    }
}

inline compare_swap(cpu, where, expected, what, done, order)
{
    atomic {
        RMW_READY(cpu, where, order);
        if
        :: memory[where] == expected -> memory[where] = (what); done = true
        :: else -> expected = memory[where]; done = false
        fi;
        after_rmw(cpu, where, order)
    }
}

inline fence(cpu)
{
    atomic {
        P[cpu].count == 0;
        see_all(cpu)
    }
}

/* A value put in place before any processor runs. */
#ifdef WEAK
inline preset(where, what)
{
    d_step {
        memory[where] = (what);
        step_i = 0;
        do
        :: step_i < CPUS -> SEE(step_i, where); step_i++
        :: else -> break
        od;
        step_i = 0
    }
}
#else
inline preset(where, what) { memory[where] = (what) }
#endif
