/*
 * Messages on their way to `freehold run`: the writers' end of base/relay.h.
 *
 * The memory is mapped once, at start, and stays: after that a message needs no system call but
 * getpid, and one to wake the reader if it sleeps. What can't be put there (no relay, nobody reads,
 * the ring is full, the reader had given the slot up) is the caller's to write elsewhere. The
 * memory is shared with every process of the run, any of which may have scribbled on it: nothing
 * here depends on more than that a slot's index is within the ring.
 *
 * A ring that is full is waited for, PATIENCE_NS at the most: a message that went past the others
 * would stand in the middle of a report. Who has waited in vain once does not wait again until
 * there was room: a reader that is stopped costs the program that time, not that time for each
 * message.
 */
#include "os/relay.h"

#include "base/core/bits.h"
#include "base/relay.h"
#include "os/mem.h"
#include "os/sys.h"
#include "os/syscall.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define PATIENCE_NS                                                                                \
    ((uint64_t)100000000) /* the reader looks symbols up meanwhile: of a large file some 100 ms */
#define LOOK_NS ((uint64_t)1000000)

/* Set once, while the process has one thread; read by all. */
static _Atomic(struct relay *) relay;
/* A guess, shared by all threads: the reader is not worth waiting for. */
static _Atomic bool is_stuck;

int fh_os_relay(const char *path)
{
    int fd = fh_os_open_read_write(path);
    if (fd < 0)
        return fd;
    /* What is shorter could not be touched: the setting may name any file. */
    long size = fh_syscall3(SYS_lseek, fd, 0, SEEK_END);
    struct relay *memory =
        size == (long)sizeof(struct relay)
            ? fh_os_map_fd(fd, fh_align_up(sizeof(struct relay), fh_os_page_size), 0, true)
            : NULL;
    fh_os_close(fd);
    if (memory == NULL)
        return -EINVAL;
    if (memory->magic != RELAY_MAGIC) {
        fh_os_release(memory, fh_align_up(sizeof(struct relay), fh_os_page_size));
        return -EINVAL;
    }
    /* release, with relay_write's acquire: the memory is there. */
    atomic_store_explicit(&relay, memory, memory_order_release);
    return 0;
}

static bool has_reader(struct relay *memory)
{
    /* seq_cst, with the reader's store before its last look: of the two, one sees the other. */
    uint32_t reader = atomic_load_explicit(&memory->reader, memory_order_seq_cst);
    return reader != 0 && (reader & RELAY_READER_DIED) == 0;
}

/* Claims a slot; false when the ring is full. */
static bool claim(struct relay *memory, uint64_t *index)
{
    /* acquire, with the reader's release: the slot has been read. */
    uint64_t head = atomic_load_explicit(&memory->head, memory_order_relaxed);
    do {
        if (head - atomic_load_explicit(&memory->tail, memory_order_acquire) >= RELAY_SLOTS)
            return false;
    } while (!atomic_compare_exchange_weak_explicit(&memory->head, &head, head + 1,
                                                    memory_order_relaxed, memory_order_relaxed));
    *index = head;
    return true;
}

/* The same, when there is room soon. */
static bool claim_soon(struct relay *memory, uint64_t *index)
{
    for (uint64_t waited = 0; !claim(memory, index); waited += LOOK_NS) {
        if (atomic_load_explicit(&is_stuck, memory_order_relaxed) || !has_reader(memory))
            return false;
        if (waited >= PATIENCE_NS) {
            atomic_store_explicit(&is_stuck, true, memory_order_relaxed);
            return false;
        }
        /* The reader is awake, and nobody wakes us: a call that a program without other rights
         * may still make. */
        fh_os_wait_shared(&memory->is_asleep, 0, LOOK_NS);
    }
    atomic_store_explicit(&is_stuck, false, memory_order_relaxed);
    return true;
}

static void wake_reader(struct relay *memory)
{
    /* seq_cst, with the reader's: it sets the word, then looks for messages, then sleeps. */
    if (atomic_exchange_explicit(&memory->is_asleep, 0, memory_order_seq_cst) != 0)
        fh_os_wake_shared(&memory->is_asleep);
}

static bool put(struct relay *memory, const char *text, size_t length)
{
    uint64_t index;
    if (!has_reader(memory) || !claim_soon(memory, &index))
        return false;
    struct relay_slot *slot = &memory->slots[index % RELAY_SLOTS];
    uint32_t state = relay_open_state(index);
    slot->pid = fh_os_getpid();
    slot->length = (uint32_t)length;
    memcpy(slot->text, text, length);
    if (!atomic_compare_exchange_strong_explicit(&slot->state, &state, state + 1,
                                                 memory_order_seq_cst, memory_order_relaxed))
        return false;
    if (!has_reader(memory)) {
        /* Nobody will read it, unless that was its last look. */
        state++;
        return !atomic_compare_exchange_strong_explicit(&slot->state, &state, state + 1,
                                                        memory_order_seq_cst, memory_order_relaxed);
    }
    wake_reader(memory);
    return true;
}

size_t fh_os_relay_write(const char *text, size_t length)
{
    struct relay *memory = atomic_load_explicit(&relay, memory_order_acquire);
    size_t written = 0;
    while (memory != NULL && written < length) {
        size_t part = fh_min(length - written, (size_t)RELAY_TEXT);
        if (!put(memory, text + written, part))
            break;
        written += part;
    }
    return written;
}
