/*
 * ring.h: the memory between recorded programs and `freehold record`: what both ends agree on.
 *
 * One memfd of the command's, which every recorded process maps whole (it is sparse): a control page
 * and RING_COUNT rings. A ring belongs to one thread of one process at a time, its *owner*:
 *
 *     free  --a thread claims it (compare-and-swap, acquire)-->  owned
 *     owned --the owner is gone and all is read (the command, release)-->  free
 *
 * The owner alone writes `head` and the words before it (release); the command alone writes `tail`
 * (release), up to which the words may be written again. Both only grow, and count words.
 *
 * Records are one or more words of 64 bits. The first one of a call:
 *
 *     bits 0–31   tick, its low half
 *     bits 32–63  the call's site (kind, flags, alignment, stack) as told before in a SITE record
 *
 * The second one has the address in its low 48 bits and the size above, if it is less than
 * RING_SIZE_FAR; else the size is one more word. A resize has the old address as its last word. Ticks are
 * the time stamp counter shifted right; where their upper half changes a BASE record says it. Others
 * have a number from RING_SPECIAL on in place of the site, and in the low half how many words follow.
 */
#ifndef FH_RECORD_RING_H
#define FH_RECORD_RING_H

#include <stdatomic.h>
#include <stdint.h>

/* The name of the environment variable that has the memfd's path. */
#define RING_VARIABLE "FREEHOLD_RECORD"

enum {
    RING_MAGIC = 0x46485232,
    /* Threads recorded at a time, of all processes. 129 MiB of address space. */
    RING_COUNT = 256,
    /* 512 KiB: 32,768 calls, some milliseconds of a program that does nothing else, so the command may
     * sleep so long; and it stays in the processor's cache on its way. */
    RING_WORDS = 1 << 16,
    RING_SIZE_FAR = 0xffff,
    RING_FRAMES_MAX = 100, /* of a stack; frames further out are left out */
    RING_RECORD_MAX = 512, /* words of the longest record */
};

enum ring_special {
    RING_SPECIAL = 0x7fffff00,
    RING_BASE = RING_SPECIAL, /* the tick, whole */
    RING_SITE,                /* a new site: `how`, then its frames; sites count from 0 */
    RING_LOST,                /* the number of events that are missing here */
    RING_MODULES,             /* the process's mappings are changing: look again */
};

/* What a site is, besides its stack. */
enum {
    RING_HOW_KIND = 7,         /* enum fh_trace_kind */
    RING_HOW_FLAGS_SHIFT = 3,  /* enum fh_trace_flag */
    RING_HOW_ALIGN_SHIFT = 11, /* log2 of the alignment, plus one; 0: none */
};

enum ring_clock { RING_CLOCK_TSC, RING_CLOCK_MONOTONIC };

struct ring_control {
    uint32_t magic;
    uint32_t clock;      /* enum ring_clock */
    uint32_t tick_shift; /* clock units to ticks */
    uint32_t page; /* bytes of the control area, and of a ring's header: fixed, for both ends */
    _Atomic uint32_t heartbeat; /* grows as long as the command reads */
    _Atomic uint32_t is_closed; /* nothing is recorded any more */
    _Atomic uint32_t processes; /* serial numbers given out */
    /* A futex that the command sleeps on: 1 while it does. Who sets it to 0 wakes it. */
    _Atomic uint32_t is_asleep;
    _Atomic uint64_t lost; /* events of threads that have no ring */
};

enum ring_state { RING_FREE, RING_OWNED };

struct ring {
    _Atomic uint32_t state;
    _Atomic uint32_t is_ready; /* what follows is valid */
    uint32_t process;          /* serial number of the owner's process */
    uint32_t parent;           /* of the one that forked it; UINT32_MAX: a new program */
    uint32_t thread;           /* counted in the process */
    int32_t pid, parent_pid, tid;
    _Atomic uint32_t is_seen; /* the command has looked at the process's modules */
    _Atomic uint64_t lost;    /* not told by a LOST record yet */
    _Alignas(64) _Atomic uint64_t head;
    _Alignas(64) _Atomic uint64_t tail;
};

enum {
    RING_PAGE = 4096,
    RING_BYTES = RING_PAGE + RING_WORDS * 8,
    RING_TOTAL_BYTES = RING_PAGE + RING_COUNT * RING_BYTES,
};

static inline struct ring *ring_at(void *memory, uint32_t index)
{
    return (struct ring *)((char *)memory + RING_PAGE + (uint64_t)index * RING_BYTES);
}

static inline uint64_t *ring_words(struct ring *ring)
{
    return (uint64_t *)((char *)ring + RING_PAGE);
}

#endif
