/*
 * Frees from other threads: the owner collects while two threads free blocks of two of its runs.
 *
 * Thread 1 frees block 1 (run 1), then block 2 (run 2); thread 2 frees blocks 3 and 4 (run 2) as one batch. With
 * -DREUSE the owner hands block 1 out again after it came home and thread 2 frees it a second time, so that
 * the same word {1, block 1} recurs (the ABA question). The owner collects twice while they run, and once after they
 * have ended: then every block is home, every word and the inbox are empty.
 */

#define BLOCKS 4
#define RUNS 2
#define HEAPS 1
#define CPUS 3
#define RUN_OF(b) ((b) == 1 -> 1 : 2)

/* The owner reads links and where its runs belong; the others only where a run belongs. */
#define SEES(cpu, x) ((cpu) == 0 || IS_HEAP(x))

#include "remote.pml"

#define OWNER_CPU 0
byte finished;
#ifdef REUSE
bit offered, may_offer = 1;
#endif

proctype Owner()
{
    byte taken, next, word, b, belongs, h, top, rounds;
    bool done;

    do
    :: rounds < 2 ->
#ifdef BUG_TAKE_WITHOUT_INBOX
        atomic { exchange(OWNER_CPU, REMOTE(2), 0, word, ACQ_REL); bring_home(OWNER_CPU, 2) }
#endif
        collect(OWNER_CPU, 1);
#ifdef REUSE
        atomic {
            if
            :: is_home[1] && may_offer && P[OWNER_CPU].count == 0 ->
                may_offer = 0;
                is_home[1] = 0;
                memory[NEXT(1)] = USER_DATA;
                offered = 1
            :: else
            fi
        }
#endif
        rounds++
    :: atomic { finished == 2 -> fence(OWNER_CPU); break }
    od;
    collect(OWNER_CPU, 1);
    assert(is_home[1] && is_home[2] && is_home[3] && is_home[4]);
    assert(memory[REMOTE(1)] == 0 && memory[REMOTE(2)] == 0 && memory[INBOX(1)] == 0)
}

proctype Thread1()
{
    byte old, h, top;
    bool done;

    push_batch(1, 1, 1, 1, 1);
    push_batch(1, 2, 2, 2, 1);
    atomic { P[1].count == 0 -> finished++ }
}

proctype Thread2()
{
    byte old, h, top;
    bool done;

    store(2, NEXT(3), 4);
    push_batch(2, 2, 3, 4, 2);
#ifdef REUSE
    if
    :: atomic { offered -> fence(2); offered = 0 }
        push_batch(2, 1, 1, 1, 1)
    :: atomic { !offered -> may_offer = 0 }
    fi;
#endif
    atomic { P[2].count == 0 -> finished++ }
}

init
{
    atomic {
        preset(NEXT(1), USER_DATA);
        preset(NEXT(2), USER_DATA);
        preset(NEXT(3), USER_DATA);
        preset(NEXT(4), USER_DATA);
        preset(HEAP(1), 1);
        preset(HEAP(2), 1);
        run Buffer(0);
        run Buffer(1);
        run Buffer(2);
        run Owner();
        run Thread1();
        run Thread2()
    }
}
