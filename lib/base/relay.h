/*
 * relay.h: the memory through which messages reach `freehold run`: what both ends agree on.
 *
 * A program may do anything before it has something to tell: close every descriptor, change its
 * root folder or its user, forbid itself system calls, limit the size of its files, lie in a
 * stopped terminal. Its messages must arrive then too, and must neither block nor kill it when
 * nobody reads them. A write to memory does all that. So the command has a memfd, which each
 * process maps at its start (setting relay=PATH) and its forked children share: a ring of slots, a
 * message each.
 *
 *     head   slots ever claimed: a writer claims the next by compare-and-swap, if the ring is not full
 *     tail   slots ever read; the reader's alone
 *     state  of a slot in its lap around the ring: 2 × lap is open, 2 × lap + 1 is ready
 *
 * A writer fills its slot and makes it ready (release); the reader takes it and opens it for the
 * next lap. A writer that is killed, or stopped, in between leaves it open: after a while the
 * reader opens it for the next lap itself, and the writer, if it ever comes back, finds that its
 * message was not taken. A writer that finds the ring full waits a moment (os/relay.c); else no one
 * waits for anybody.
 *
 * `reader` is the thread that reads, in the form of a robust futex: the kernel sets
 * RELAY_READER_DIED in it when that thread dies, by whatever signal. The reader writes 0 when it
 * goes, before it looks for messages a last time. A writer that finds it gone after it has made its
 * slot ready takes the message back, unless it was read: so each message is either read or known to
 * its writer not to be, who then writes it where messages go without a relay.
 *
 * Source: the kernel's robust-futex-ABI; the state per lap is that of Vyukov's bounded queue.
 */
#ifndef FH_BASE_RELAY_H
#define FH_BASE_RELAY_H

#include <stdatomic.h>
#include <stdint.h>

enum {
    RELAY_MAGIC = 0x46484d31,
    /* A report is some 100 messages; ten processes at once are not more than a reader behind its
     * time can be. */
    RELAY_SLOTS = 1024,
    RELAY_TEXT = 1024,              /* the longest message of base/message.c */
    RELAY_READER_DIED = 0x40000000, /* FUTEX_OWNER_DIED */
};

struct relay_slot {
    _Atomic uint32_t state;
    uint32_t length;
    int32_t pid;
    char text[RELAY_TEXT];
};

struct relay {
    uint32_t magic;
    _Atomic uint32_t reader;    /* its thread id; 0 or RELAY_READER_DIED: nobody reads */
    _Atomic uint32_t is_asleep; /* a futex: 1 while the reader sleeps. Who sets it to 0 wakes it */
    _Alignas(64) _Atomic uint64_t head;
    _Alignas(64) _Atomic uint64_t tail;
    _Alignas(64) struct relay_slot slots[RELAY_SLOTS];
};

static inline uint32_t relay_open_state(uint64_t index)
{
    return 2 * (uint32_t)(index / RELAY_SLOTS);
}

#endif
