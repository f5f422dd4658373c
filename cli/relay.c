/*
 * The reader's end of base/relay.h.
 *
 * A thread of its own reads the ring, lets frames.c put each process's lines together and look
 * their addresses up, and writes them: every signal is blocked in it, and the main thread stands by
 * the program meanwhile (supervise.c). It is the owner of the ring's robust futex: when the command
 * is killed, the kernel marks the ring, and the program's messages go where they would have gone
 * without us.
 *
 * The memory is shared with processes that may be in ruins. What is read there is checked: a head
 * that can't be ends the reading, a length is cut, the tail is our own copy. A slot that was
 * claimed and does not become ready is its writer's death, or a debugger; it is given up after
 * STUCK_NS.
 *
 * Messages of processes that speak at the same time mix as they do on a terminal, line by line;
 * reports do not mix (frames.c).
 */
#include "relay.h"

#include "base/relay.h"
#include "cli.h"
#include "frames.h"
#include "output.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define STUCK_NS 200000000 /* a message is copied in less than a microsecond */
#define NAP_NS   1000000
#define KEEP_S   1 /* a report takes milliseconds, on a slow machine some more */

enum {
    LOWEST_FD = 10,    /* standard input, output and error may be closed, and stay so */
    MOST_WRITERS = 64, /* processes with half a report each */
};

/* A process that has sent something. */
struct writer {
    pid_t pid;
    uint64_t used; /* when: the oldest gives way */
    struct frames_writer lines;
};

struct relay_reader {
    struct relay *memory;
    int fd; /* of the memory */
    char path[64];
    pthread_t thread;
    _Atomic bool is_ending;
    uint64_t tail;
    bool is_damaged;
    struct frames *frames; /* NULL: there was no memory */
    const char *log_file;
    pid_t log_pid; /* whose log is open, where each process has one */
    int log_fd;
    uint64_t time; /* counts messages */
    struct writer writers[MOST_WRITERS];
    size_t writer_count;
};

/* ---- Writing ---- */

static void write_all(int fd, const char *text, size_t len)
{
    while (len > 0) {
        const ssize_t written = write(fd, text, len);
        if (written > 0) {
            text += written;
            len -= (size_t)written;
        } else if (written < 0 && errno == EAGAIN) {
            /* Somebody made the terminal non-blocking. */
            struct pollfd wait = {.fd = fd, .events = POLLOUT};
            poll(&wait, 1, -1);
        } else if (written < 0 && errno != EINTR) {
            return; /* there is nobody left to tell */
        }
    }
}

/* Where the messages of the process go. */
static int log_of(struct relay_reader *reader, pid_t pid)
{
    char name[PATH_MAX];
    if (reader->log_file == NULL) {
        return STDERR_FILENO;
    }
    const bool is_shared = strstr(reader->log_file, "%p") == NULL;
    if (reader->log_fd >= 0 && (is_shared || reader->log_pid == pid)) {
        return reader->log_fd;
    }
    if (reader->log_fd >= 0) {
        close(reader->log_fd);
    }
    reader->log_fd = -1;
    reader->log_pid = pid;
    if (output_expand_name(reader->log_file, pid, name, sizeof(name))) {
        reader->log_fd = open(name, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    }
    return reader->log_fd >= 0 ? reader->log_fd : STDERR_FILENO;
}

/* Writes what frames.c makes of the text, or (text NULL) what it has kept back. */
static void show(struct relay_reader *reader, struct writer *writer, const char *text, size_t len)
{
    char *shown = NULL;
    size_t shown_len = 0;
    FILE *out = reader->frames != NULL ? open_memstream(&shown, &shown_len) : NULL;
    if (out == NULL) {
        write_all(log_of(reader, writer->pid), text, len);
        return;
    }
    if (text != NULL) {
        frames_take(reader->frames, &writer->lines, text, len, out);
    } else {
        frames_flush(reader->frames, &writer->lines, out);
    }
    if (fclose(out) == 0 && shown_len > 0) {
        write_all(log_of(reader, writer->pid), shown, shown_len);
    }
    free(shown);
}

static bool has_kept(const struct relay_reader *reader)
{
    for (size_t i = 0; i < reader->writer_count; i++) {
        if (reader->writers[i].lines.len > 0) {
            return true;
        }
    }
    return false;
}

/* Whatever is missing there does not come any more. */
static void show_kept(struct relay_reader *reader)
{
    for (size_t i = 0; i < reader->writer_count; i++) {
        if (reader->writers[i].lines.len > 0) {
            show(reader, &reader->writers[i], NULL, 0);
        }
    }
}

static struct writer *writer_of(struct relay_reader *reader, pid_t pid)
{
    struct writer *oldest = &reader->writers[0];
    for (size_t i = 0; i < reader->writer_count; i++) {
        struct writer *writer = &reader->writers[i];
        if (writer->pid == pid) {
            return writer;
        }
        oldest = writer->used < oldest->used ? writer : oldest;
    }
    if (reader->writer_count < MOST_WRITERS) {
        oldest = &reader->writers[reader->writer_count++];
    } else {
        show(reader, oldest, NULL, 0);
    }
    oldest->pid = pid;
    return oldest;
}

static void take_text(struct relay_reader *reader, pid_t pid, const char *text, size_t len)
{
    struct writer *writer = writer_of(reader, pid);
    writer->used = ++reader->time;
    show(reader, writer, text, len);
}

/* ---- Reading ---- */

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000U + (uint64_t)now.tv_nsec;
}

static bool has_claimed_slots(const struct relay_reader *reader)
{
    /* seq_cst, with a writer's look at `reader` after it has made its slot ready. */
    return atomic_load_explicit(&reader->memory->head, memory_order_seq_cst) != reader->tail;
}

/* The next slot may be written again. */
static void advance(struct relay_reader *reader)
{
    reader->tail++;
    /* release: what was read comes before what is written there next. */
    atomic_store_explicit(&reader->memory->tail, reader->tail, memory_order_release);
}

/* Takes the next slot's message; false when it is not ready. */
static bool take_slot(struct relay_reader *reader)
{
    struct relay_slot *slot = &reader->memory->slots[reader->tail % RELAY_SLOTS];
    const uint32_t open = relay_open_state(reader->tail);
    uint32_t state = atomic_load_explicit(&slot->state, memory_order_acquire);
    if (state == open) {
        return false;
    }
    char text[RELAY_TEXT];
    const size_t len = slot->length < sizeof(text) ? slot->length : sizeof(text);
    const pid_t pid = slot->pid;
    memcpy(text, slot->text, len);
    /* Its writer may have taken it back when it saw us go, or do so now. */
    const bool is_ours = state == open + 1 && atomic_compare_exchange_strong_explicit(
                                                  &slot->state, &state, open + 2,
                                                  memory_order_seq_cst, memory_order_relaxed);
    advance(reader);
    if (is_ours) {
        take_text(reader, pid, text, len);
    }
    return true;
}

/* The next slot's writer does not come back: whatever it does now, the slot is open for the next
 * lap. */
static void give_slot_up(struct relay_reader *reader)
{
    struct relay_slot *slot = &reader->memory->slots[reader->tail % RELAY_SLOTS];
    uint32_t state = relay_open_state(reader->tail);
    if (atomic_compare_exchange_strong_explicit(&slot->state, &state, state + 2,
                                                memory_order_seq_cst, memory_order_relaxed)) {
        advance(reader);
    }
}

/* Reads all that there is. */
static void drain(struct relay_reader *reader)
{
    static const struct timespec nap = {.tv_nsec = NAP_NS};
    uint64_t stuck_since = 0;
    while (!reader->is_damaged && has_claimed_slots(reader)) {
        const uint64_t head = atomic_load_explicit(&reader->memory->head, memory_order_relaxed);
        reader->is_damaged = head - reader->tail > RELAY_SLOTS;
        if (reader->is_damaged) {
            return;
        }
        if (take_slot(reader)) {
            stuck_since = 0;
            continue;
        }
        const uint64_t now = now_ns();
        stuck_since = stuck_since != 0 ? stuck_since : now;
        if (now - stuck_since < STUCK_NS) {
            nanosleep(&nap, NULL);
        } else {
            give_slot_up(reader);
            stuck_since = 0;
        }
    }
}

/* What the killed have left half is shown when nothing has come for KEEP_S. */
static void sleep_until_woken(struct relay_reader *reader)
{
    static const struct timespec keep = {.tv_sec = KEEP_S};
    _Atomic uint32_t *is_asleep = &reader->memory->is_asleep;
    const bool is_waiting = has_kept(reader);
    /* seq_cst, with a writer's exchange: either it sees the 1, or we see its slot. */
    atomic_store_explicit(is_asleep, 1, memory_order_seq_cst);
    if (!has_claimed_slots(reader) &&
        !atomic_load_explicit(&reader->is_ending, memory_order_seq_cst)) {
        const long result =
            syscall(SYS_futex, is_asleep, FUTEX_WAIT, 1, is_waiting ? &keep : NULL, NULL, 0);
        if (result != 0 && errno == ETIMEDOUT) {
            show_kept(reader);
        }
    }
    atomic_store_explicit(is_asleep, 0, memory_order_relaxed);
}

/* Makes the kernel mark the ring when this thread dies. It uses no other robust futex. */
static void own(struct relay *memory, struct robust_list_head *head, struct robust_list *entry)
{
    head->list.next = entry;
    entry->next = &head->list;
    head->futex_offset = (char *)&memory->reader - (char *)entry;
    head->list_op_pending = NULL;
    syscall(SYS_set_robust_list, head, sizeof(*head));
    atomic_store_explicit(&memory->reader, (uint32_t)gettid(), memory_order_seq_cst);
}

static void *read_messages(void *argument)
{
    struct relay_reader *reader = argument;
    struct robust_list_head head;
    struct robust_list entry;
    own(reader->memory, &head, &entry);
    while (!atomic_load_explicit(&reader->is_ending, memory_order_seq_cst) && !reader->is_damaged) {
        drain(reader);
        sleep_until_woken(reader);
    }
    atomic_store_explicit(&reader->memory->reader, 0, memory_order_seq_cst);
    drain(reader);
    return NULL;
}

/* ---- Its life ---- */

static int open_memory(struct relay_reader *reader)
{
    const int low = memfd_create("freehold-relay", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (low < 0) {
        return errno;
    }
    reader->fd = fcntl(low, F_DUPFD_CLOEXEC, LOWEST_FD);
    close(low);
    if (reader->fd < 0) {
        return errno;
    }
    /* Whoever shortened it would kill all who write to it. */
    if (ftruncate(reader->fd, sizeof(struct relay)) != 0 ||
        fcntl(reader->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
        return errno;
    }
    reader->memory =
        mmap(NULL, sizeof(struct relay), PROT_READ | PROT_WRITE, MAP_SHARED, reader->fd, 0);
    if (reader->memory == MAP_FAILED) {
        reader->memory = NULL;
        return errno;
    }
    reader->memory->magic = RELAY_MAGIC;
    snprintf(reader->path, sizeof(reader->path), "/proc/%d/fd/%d", (int)getpid(), reader->fd);
    return 0;
}

static void drop(struct relay_reader *reader)
{
    if (reader->memory != NULL) {
        munmap(reader->memory, sizeof(struct relay));
    }
    if (reader->fd >= 0) {
        close(reader->fd);
    }
    if (reader->log_fd >= 0) {
        close(reader->log_fd);
    }
    for (size_t i = 0; i < reader->writer_count; i++) {
        frames_forget(&reader->writers[i].lines);
    }
    frames_close(reader->frames);
    free(reader);
}

static int start_thread(struct relay_reader *reader)
{
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    const int error = pthread_create(&reader->thread, NULL, read_messages, reader);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    /* The program must find a reader. */
    while (error == 0 && atomic_load_explicit(&reader->memory->reader, memory_order_acquire) == 0) {
        sched_yield();
    }
    return error;
}

struct relay_reader *relay_start(const char *log_file, int *error)
{
    struct relay_reader *reader = calloc(1, sizeof(*reader));
    if (reader == NULL) {
        *error = ENOMEM;
        return NULL;
    }
    reader->fd = -1;
    reader->log_fd = -1;
    reader->log_file = log_file;
    reader->frames = frames_open();
    *error = open_memory(reader);
    if (*error == 0) {
        *error = start_thread(reader);
    }
    if (*error != 0) {
        drop(reader);
        return NULL;
    }
    return reader;
}

const char *relay_path(const struct relay_reader *reader)
{
    return reader->path;
}

void relay_finish(struct relay_reader *reader)
{
    if (reader == NULL) {
        return;
    }
    atomic_store_explicit(&reader->is_ending, true, memory_order_seq_cst);
    atomic_store_explicit(&reader->memory->is_asleep, 0, memory_order_seq_cst);
    syscall(SYS_futex, &reader->memory->is_asleep, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
    pthread_join(reader->thread, NULL);
    show_kept(reader);
    const char *hint = reader->frames != NULL ? frames_hint(reader->frames) : NULL;
    if (hint != NULL) {
        cli_complain("%s", hint);
    }
    drop(reader);
}
