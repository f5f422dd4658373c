/*
 * The shared buddy system: two orders over four units, threads that allocate and free without a lock.
 *
 * As in lib/place/buddy.c: a pair of marks lies in one word, and one compare-and-swap of the word decides whether a
 * block that is freed is coalesced with its buddy or becomes free by itself; who clears a mark owns the block. `avail`
 * says where marks may be: a marker reads it after the mark, a searcher clears it and then looks at the marks again.
 * (orders 0 and 1; order 2, the root, is what everything must coalesce to in the end.)
 *
 *     word 0   the marks of units 0 to 3: two pairs in one word
 *     word 1   the marks of the halves
 *     word 2   the mark of the whole
 *
 * Every access is sequentially consistent in C (on x86-64 and by __ATOMIC_SEQ_CST elsewhere), so memory is plain
 * here; what is interleaved are the steps between them.
 *
 * Asserted: no unit has two owners; at the end all is one free block again (nothing lost, no two free buddies
 * left), and its avail bit is set.
 */

#ifndef THREADS
#define THREADS 3
#endif

byte marks[3];
bit avail[3];  /* one an order */
byte owner[4]; /* of each unit: the thread, 0 for nobody */
byte finished;

#define ORDER_BIT(order, unit) (1 << ((unit) >> (order)))
#define BUDDY_BIT(order, unit) (1 << (((unit) >> (order)) ^ 1))
#define SIZE(order) (1 << (order))

/* The caller owns a node. Its mark is set; then searches are told. */
inline note_free(order)
{
#ifdef BUG_AVAIL_NEVER_SET
    skip
#else
    if
    :: avail[order] == 0 -> avail[order] = 1
    :: else
    fi
#endif
}

inline give(unit, order, seen, coalesces)
{
    do
    :: true ->
        seen = marks[order];
        do
        :: true ->
            coalesces = (seen & BUDDY_BIT(order, unit)) != 0;
#ifdef BUG_LOOK_THEN_SET
            /* The decision and the mark are two steps. */
            if
            :: coalesces -> marks[order] = marks[order] & (255 - BUDDY_BIT(order, unit))
            :: else -> marks[order] = marks[order] | ORDER_BIT(order, unit)
            fi;
            break
#else
            atomic {
                if
                :: marks[order] == seen ->
                    marks[order] =
                        (coalesces -> seen & (255 - BUDDY_BIT(order, unit)) : seen | ORDER_BIT(order, unit));
                    break
                :: else -> seen = marks[order]
                fi
            }
#endif
        od;
        if
        :: coalesces -> unit = unit & (255 - SIZE(order)); order++
        :: else -> break
        fi
    od;
    note_free(order)
}

/* Claims a block of just this order: got is its first unit, or 4. */
inline claim(order, got, seen, i)
{
    got = 4;
    if
    :: avail[order] == 1 ->
        i = 0;
        do
        :: got == 4 && i < 4 ->
            seen = marks[order];
            do
            :: (seen & ORDER_BIT(order, i)) != 0 ->
#ifdef BUG_CLAIM_WITHOUT_SWAP
                marks[order] = marks[order] & (255 - ORDER_BIT(order, i));
                got = i;
                break
#else
                atomic {
                    if
                    :: marks[order] == seen ->
                        marks[order] = seen & (255 - ORDER_BIT(order, i));
                        got = i;
                        break
                    :: else -> seen = marks[order]
                    fi
                }
#endif
            :: else -> break
            od;
            i = i + SIZE(order)
        :: else -> break
        od;
        if
        :: got == 4 ->
            avail[order] = 0;
#ifndef BUG_NO_SECOND_LOOK
            if
            :: marks[order] != 0 -> avail[order] = 1
            :: else
            fi
#endif
        :: else
        fi
    :: else
    fi;
    i = 0;
    seen = 0
}

inline own(unit, order, who)
{
    d_step {
        j = unit;
        do
        :: j < unit + SIZE(order) -> assert(owner[j] == (who == 0 -> _pid : 0)); owner[j] = who; j++
        :: else -> break
        od;
        j = 0
    }
}

/* Takes a block of the order `want`, splitting a larger one when there is none, and gives it back. */
inline once(want)
{
    order = want;
    do
    :: order <= 2 -> claim(order, got, seen, i); if :: got < 4 -> break :: else -> order++ fi
    :: else -> break
    od;
    if
    :: got < 4 ->
        do
        :: order > want ->
            order--;
#ifdef BUG_SPLIT_BY_STORE
            seen = marks[order];
            marks[order] = seen | ORDER_BIT(order, got + SIZE(order));
            seen = 0;
#else
            atomic { marks[order] = marks[order] | ORDER_BIT(order, got + SIZE(order)) };
#endif
            note_free(order)
        :: else -> break
        od;
        own(got, order, _pid);
        own(got, order, 0);
        give(got, order, seen, coalesces)
    :: else
    fi;
    got = 0;
    order = 0;
    seen = 0;
    coalesces = 0
}

proctype Thread(byte want)
{
    byte order, got, seen, i, j;
    bit coalesces;
    once(want);
    if
    :: THREADS == 2 -> once(0)
    :: else
    fi;
    finished++
}

init
{
    atomic {
        marks[2] = 1;
        avail[2] = 1;
        run Thread(0);
        run Thread(1);
        if
        :: THREADS > 2 -> run Thread(0)
        :: else
        fi
    };
    finished == THREADS;
    assert(marks[2] == 1 && marks[1] == 0 && marks[0] == 0);
    assert(avail[2] == 1)
}
