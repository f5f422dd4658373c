/*
 * The command's end of the rings.
 *
 * A thread of its own goes round: in each *pass* it reads all rings up to where they were when it came
 * by, turns the calls into events of one stream for each owner, and sleeps until a program has filled
 * half a ring (it wakes us) or for NAP_NS. Each pass lets the heartbeat grow, which is what programs with
 * a full ring wait for. All streams are written out and a mark behind them ten times a second while
 * events come, and after FIRST_STEP events, twice as many, and so on up to LAST_STEP: a cut of a small
 * trace must leave something too. Up to there a pass reads no more than a step from a ring. The mark is
 * the beginning of the pass before this one, since every event that is older has come by now, or the
 * moment before the first event that a pass has left in a ring.
 *
 * A ring is given back when its owner is gone: the thread does not exist any more (tgkill), its process
 * became another program, and all is read. Owners that we never saw alive may be in another
 * process-id namespace, where the number means nothing: they keep their rings until all is done.
 *
 * Modules: when a site comes whose stack has an address that no known module of its process holds, and when
 * the process says that it loads or unloads, /proc/PID/maps is read and compared with what was there.
 *
 * Whatever is in the rings was written by a program that may be broken: indices and lengths are
 * checked, and a ring that makes no sense is left alone from there on.
 */
#include "consume.h"

#include "record/ring.h"
#include "tools/trace_encode.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <cpuid.h>
#include <x86intrin.h>
#endif

enum {
    NAP_NS = 20000000,
    /* Events between marks. Some 2.5 bytes each: the first mark comes at about 10 KiB; with 0.6 MiB between
     * marks their cost can't be measured any more. */
    FIRST_STEP = 4096,
    LAST_STEP = 1 << 18,
    FEW_RINGS = 16, /* free ones, at which ended owners are looked for in each pass */
};
static const uint64_t flush_ns = 100000000, tell_ns = 1000000000, reap_ns = 250000000,
                      look_again_ns = 50000000;

struct module {
    uint64_t begin, end;
    char *path;
    uint32_t number; /* in the trace */
    bool is_loaded;
};

struct process {
    uint32_t serial, index; /* of the rings; of the trace */
    int pid;
    bool has_ended;
    bool was_seen; /* it exists under this number in our namespace */
    struct trace_tree tree;
    struct module *modules;
    uint32_t module_count;
    uint32_t modules_written;
    uint64_t looked_ns; /* when its mappings were read */
    uint32_t stream_count, threads;
    uint64_t lost; /* events that no stream tells of */
    uint64_t last_tick;
    struct trace_stream forks; /* a stream of FORK events only, made at the first */
    bool has_forks, forks_has_number;
};

/* What is read from a ring for its present owner. */
struct feed {
    bool is_open, is_broken;
    bool has_number; /* its stream has one: it was written once */
    struct process *process;
    uint32_t thread;
    int pid, tid;
    struct trace_stream stream;
    uint32_t *sites; /* by the ring's number: the stream's index */
    uint32_t site_count, site_capacity;
    uint64_t base, tick;
    uint32_t lost_site;
};

struct consumer {
    int memory_fd;
    struct ring_control *control;
    struct trace_file file;
    struct feed feeds[RING_COUNT];
    struct process **processes;
    uint32_t process_count;
    pthread_t thread;
    _Atomic uint32_t is_stopping;
    int first_wait_status;
    bool tells_progress;
    bool has_progress_line;
    uint64_t pass_tick, mark_tick, flushed_ns, reaped_ns, told_ns;
    uint64_t unmarked, step;        /* events since the last mark, and so many at most */
    bool is_behind;                 /* the pass has left events in a ring */
    bool is_settled;                /* the last mark is later than all events */
    uint64_t behind_tick;           /* of the file: the earliest such event is not before this */
    uint64_t begin_clock, begin_ns; /* for the length of a tick */
    uint64_t events;
    uint64_t lost;
    uint32_t threads;
};

/* ---- Time ----------------------------------------------------------------------------------- */

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000U + (uint64_t)now.tv_nsec;
}

static uint64_t read_clock(const struct ring_control *control)
{
#if defined(__x86_64__)
    if (control->clock == RING_CLOCK_TSC) {
        return __rdtsc();
    }
#endif
    (void)control;
    return now_ns();
}

static uint64_t now_tick(const struct consumer *consumer)
{
    return read_clock(consumer->control) >> consumer->control->tick_shift;
}

/* Whether the counter runs at one rate in all states of the processor. */
static bool has_steady_counter(void)
{
#if defined(__x86_64__)
    unsigned a;
    unsigned b;
    unsigned c;
    unsigned d;
    return __get_cpuid(0x80000007, &a, &b, &c, &d) != 0 && (d & 1U << 8) != 0;
#else
    return false;
#endif
}

/* Ticks of 2 to 4 ns: a block is handed from one thread to another in some 10 ns at the least (two threads of one
 * core), and at equal ticks the order of a call of each is not known. */
static void choose_clock(struct consumer *consumer)
{
    struct ring_control *control = consumer->control;
    const struct timespec moment = {.tv_nsec = 2000000};
    control->clock = has_steady_counter() ? RING_CLOCK_TSC : RING_CLOCK_MONOTONIC;
    consumer->begin_ns = now_ns();
    consumer->begin_clock = read_clock(control);
    nanosleep(&moment, NULL);
    const uint64_t ns = now_ns() - consumer->begin_ns;
    const uint64_t units = read_clock(control) - consumer->begin_clock;
    while ((units >> (control->tick_shift + 1)) * 4 >= ns) {
        control->tick_shift++;
    }
}

/* In 2^-32 ns, by all the time since the start. */
static uint64_t tick_length(const struct consumer *consumer)
{
    const uint64_t ns = now_ns() - consumer->begin_ns;
    const uint64_t units = read_clock(consumer->control) - consumer->begin_clock;
    const __uint128_t wide = (__uint128_t)ns << 32;
    return (uint64_t)((wide << consumer->control->tick_shift) / (units != 0 ? units : 1));
}

/* Ticks in the trace count from its beginning. */
static uint64_t since_begin(const struct consumer *consumer, uint64_t tick)
{
    const uint64_t begin = consumer->begin_clock >> consumer->control->tick_shift;
    return tick > begin ? tick - begin : 0;
}

/* ---- Modules -------------------------------------------------------------------------------- */

struct elf_facts {
    uint64_t bias;
    uint8_t build_id[64];
    size_t build_id_size;
};

static void find_build_id(const uint8_t *notes, size_t size, struct elf_facts *facts)
{
    for (size_t at = 0; at + sizeof(Elf64_Nhdr) <= size;) {
        Elf64_Nhdr note;
        memcpy(&note, notes + at, sizeof(note));
        const size_t name = at + sizeof(note);
        const size_t data = name + ((note.n_namesz + 3U) & ~3U);
        if (data > size || note.n_descsz > size - data) {
            return;
        }
        if (note.n_type == NT_GNU_BUILD_ID && note.n_namesz == 4 &&
            memcmp(notes + name, "GNU", 4) == 0 && note.n_descsz <= sizeof(facts->build_id)) {
            memcpy(facts->build_id, notes + data, note.n_descsz);
            facts->build_id_size = note.n_descsz;
            return;
        }
        at = data + ((note.n_descsz + 3U) & ~3U);
    }
}

/* What the file says of itself: its mapping at `begin` is of the file's bytes from `offset` on. */
static void read_elf(const char *path, uint64_t begin, uint64_t offset, struct elf_facts *facts)
{
    enum { HEADERS_MAX = 64 };
    Elf64_Ehdr head;
    Elf64_Phdr headers[HEADERS_MAX];
    memset(facts, 0, sizeof(*facts));
    facts->bias = begin - offset;
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        return;
    }
    if (pread(fd, &head, sizeof(head), 0) == (ssize_t)sizeof(head) &&
        memcmp(head.e_ident, ELFMAG, SELFMAG) == 0 && head.e_ident[EI_CLASS] == ELFCLASS64 &&
        head.e_phentsize == sizeof(Elf64_Phdr) && head.e_phnum <= HEADERS_MAX) {
        const size_t size = head.e_phnum * sizeof(Elf64_Phdr);
        const bool has_headers = pread(fd, headers, size, (off_t)head.e_phoff) == (ssize_t)size;
        for (size_t i = 0; has_headers && i < head.e_phnum; i++) {
            const uint64_t page = ~(uint64_t)4095;
            uint8_t notes[4096];
            if (headers[i].p_type == PT_LOAD && (headers[i].p_offset & page) == offset) {
                facts->bias = begin - (headers[i].p_vaddr & page);
            } else if (headers[i].p_type == PT_NOTE && facts->build_id_size == 0 &&
                       headers[i].p_filesz <= sizeof(notes) &&
                       pread(fd, notes, headers[i].p_filesz, (off_t)headers[i].p_offset) ==
                           (ssize_t)headers[i].p_filesz) {
                find_build_id(notes, headers[i].p_filesz, facts);
            }
        }
    }
    close(fd);
}

static void add_module(struct consumer *consumer, struct process *process, uint64_t begin,
                       uint64_t end, uint64_t offset, const char *path)
{
    struct elf_facts facts;
    struct module *modules =
        reallocarray(process->modules, process->module_count + 1, sizeof(*modules));
    char *copy = strdup(path);
    if (modules != NULL) {
        process->modules = modules;
    }
    if (modules == NULL || copy == NULL) {
        free(copy);
        return;
    }
    read_elf(path, begin, offset, &facts);
    const struct trace_module_record record = {
        .begin = begin,
        .end = end,
        .bias = facts.bias,
        .from_tick = since_begin(consumer, now_tick(consumer)),
        .until_tick = UINT64_MAX,
        .path = path,
        .build_id = facts.build_id,
        .build_id_size = facts.build_id_size,
    };
    trace_file_module(&consumer->file, process->index, &record);
    modules[process->module_count++] =
        (struct module){begin, end, copy, process->modules_written++, true};
}

/* A mapped file, all its mappings together. */
struct mapped {
    uint64_t begin, end, offset;
    bool is_code;
    char path[1024];
};

/* Compares one of the mapped files with the list; `found` has a mark for each module. */
static void take_mapped(struct consumer *consumer, struct process *process,
                        const struct mapped *mapped, uint8_t *found, uint32_t known)
{
    if (!mapped->is_code) {
        return;
    }
    for (uint32_t i = 0; i < known; i++) {
        struct module *module = &process->modules[i];
        if (module->is_loaded && module->begin == mapped->begin &&
            strcmp(module->path, mapped->path) == 0) {
            found[i] = 1;
            module->end = mapped->end > module->end ? mapped->end : module->end;
            return;
        }
    }
    add_module(consumer, process, mapped->begin, mapped->end, mapped->offset, mapped->path);
}

static void look_at_mappings(struct consumer *consumer, struct process *process)
{
    char line[1400];
    char name[32];
    snprintf(name, sizeof(name), "/proc/%d/maps", process->pid);
    process->looked_ns = now_ns();
    FILE *maps = fopen(name, "re");
    if (maps == NULL) {
        return;
    }
    const uint32_t known = process->module_count;
    uint8_t *found = calloc(known + 1U, 1);
    struct mapped mapped = {0};
    bool has_lines = false;
    while (found != NULL && fgets(line, sizeof(line), maps) != NULL) {
        uint64_t begin;
        uint64_t end;
        uint64_t offset;
        char access[8];
        int path_at = 0;
        if (sscanf(line, "%lx-%lx %7s %lx %*s %*s %n", &begin, &end, access, &offset, &path_at) <
                4 ||
            path_at == 0 || line[path_at] != '/') {
            continue;
        }
        has_lines = true;
        char *path = line + path_at;
        path[strcspn(path, "\n")] = '\0';
        if (strncmp(path, "/memfd:freehold-record", 22) == 0) {
            process->was_seen = true;
            continue;
        }
        if (strcmp(path, mapped.path) != 0) {
            take_mapped(consumer, process, &mapped, found, known);
            mapped = (struct mapped){.begin = begin, .offset = offset};
            snprintf(mapped.path, sizeof(mapped.path), "%s", path);
        }
        mapped.end = end;
        mapped.is_code = mapped.is_code || access[2] == 'x';
    }
    if (found != NULL && has_lines) {
        take_mapped(consumer, process, &mapped, found, known);
        for (uint32_t i = 0; i < known; i++) {
            if (process->modules[i].is_loaded && found[i] == 0) {
                process->modules[i].is_loaded = false;
                trace_file_module_unload(&consumer->file, process->index,
                                         process->modules[i].number,
                                         since_begin(consumer, now_tick(consumer)));
            }
        }
    }
    free(found);
    fclose(maps);
}

static bool is_in_module(const struct process *process, uint64_t frame)
{
    for (uint32_t i = process->module_count; i-- > 0;) {
        const struct module *module = &process->modules[i];
        if (module->is_loaded && frame >= module->begin && frame < module->end) {
            return true;
        }
    }
    return false;
}

static void find_modules(struct consumer *consumer, struct process *process, const uint64_t *frames,
                         uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        if (!is_in_module(process, frames[i])) {
            /* Code that no file has (made at run time) must not make us read at every site. */
            if (now_ns() - process->looked_ns > look_again_ns) {
                look_at_mappings(consumer, process);
            }
            return;
        }
    }
}

/* ---- Processes ------------------------------------------------------------------------------ */

static struct process *process_by(struct consumer *consumer, uint32_t serial)
{
    for (uint32_t i = consumer->process_count; i-- > 0;) {
        if (consumer->processes[i]->serial == serial) {
            return consumer->processes[i];
        }
    }
    return NULL;
}

static struct process *living_process(struct consumer *consumer, int pid)
{
    for (uint32_t i = consumer->process_count; i-- > 0;) {
        if (consumer->processes[i]->pid == pid && !consumer->processes[i]->has_ended) {
            return consumer->processes[i];
        }
    }
    return NULL;
}

static void end_process(struct consumer *consumer, struct process *process, int wait_status)
{
    if (!process->has_ended) {
        process->has_ended = true;
        trace_file_process_end(&consumer->file, process->index, process->last_tick, wait_status,
                               process->lost);
        consumer->lost += process->lost;
    }
}

static void write_stream(struct consumer *consumer, struct process *process,
                         struct trace_stream *stream, bool *has_number)
{
    if (stream->count != 0 && !*has_number) {
        *has_number = true;
        stream->stream = process->stream_count++;
    }
    trace_tree_flush(&process->tree, &consumer->file, process->index);
    trace_stream_flush(stream, &consumer->file);
}

static void tell_fork(struct consumer *consumer, struct process *parent, uint32_t child,
                      uint64_t tick)
{
    if (!parent->has_forks && trace_stream_begin(&parent->forks, parent->index, 0) != 0) {
        return;
    }
    parent->has_forks = true;
    const struct trace_site site = {.kind = FH_TRACE_FORK};
    const uint32_t index = trace_stream_site(&parent->forks, &site);
    if (index == UINT32_MAX) {
        return;
    }
    if (trace_stream_is_full(&parent->forks)) {
        write_stream(consumer, parent, &parent->forks, &parent->forks_has_number);
    }
    trace_stream_add(&parent->forks, index, tick > parent->forks.tick ? tick : parent->forks.tick,
                     0, 0, child);
}

/* The process of a ring that is seen for the first time. */
static struct process *new_process(struct consumer *consumer, const struct ring *ring,
                                   uint64_t tick)
{
    char link[32];
    char program[1024];
    struct process **processes =
        reallocarray(consumer->processes, consumer->process_count + 1, sizeof(void *));
    struct process *process = calloc(1, sizeof(*process));
    if (processes != NULL) {
        consumer->processes = processes;
    }
    if (processes == NULL || process == NULL) {
        free(process);
        return NULL;
    }
    struct process *parent = ring->parent != UINT32_MAX ? process_by(consumer, ring->parent) : NULL;
    const bool is_forked = parent != NULL;
    if (parent == NULL) {
        parent = living_process(consumer, ring->pid); /* it became another program */
        if (parent != NULL) {
            end_process(consumer, parent, -1);
        } else {
            parent = living_process(consumer, ring->parent_pid);
        }
    }
    snprintf(link, sizeof(link), "/proc/%d/exe", ring->pid);
    const ssize_t len = readlink(link, program, sizeof(program) - 1);
    program[len > 0 ? len : 0] = '\0';
    process->serial = ring->process;
    process->index = consumer->process_count;
    process->pid = ring->pid;
    const struct trace_process_start start = {
        .process = process->index,
        .pid = ring->pid,
        .parent = parent != NULL ? (int)parent->index : -1,
        .origin = parent == NULL ? TRACE_ORIGIN_FIRST
                  : is_forked    ? TRACE_ORIGIN_FORK
                                 : TRACE_ORIGIN_EXEC,
        .tick = tick,
        .program = program,
    };
    trace_file_process(&consumer->file, &start);
    processes[consumer->process_count++] = process;
    if (is_forked) {
        tell_fork(consumer, parent, process->index, tick);
    }
    look_at_mappings(consumer, process);
    return process;
}

/* ---- Feeds ---------------------------------------------------------------------------------- */

static bool open_feed(struct consumer *consumer, struct feed *feed, const struct ring *ring)
{
    struct process *process = process_by(consumer, ring->process);
    if (process == NULL && ring->parent != UINT32_MAX &&
        process_by(consumer, ring->parent) == NULL && consumer->process_count != 0 &&
        consumer->is_stopping == 0) {
        return false; /* its parent's ring is further on: the next pass will know it */
    }
    if (process == NULL) {
        process = new_process(consumer, ring, since_begin(consumer, now_tick(consumer)));
    }
    memset(feed, 0, sizeof(*feed));
    if (process == NULL || trace_stream_begin(&feed->stream, process->index, 0) != 0) {
        return false;
    }
    feed->is_open = true;
    feed->process = process;
    feed->thread = ring->thread;
    feed->pid = ring->pid;
    feed->tid = ring->tid;
    const struct trace_site lost = {.kind = FH_TRACE_LOST, .thread = ring->thread};
    feed->lost_site = trace_stream_add_site(&feed->stream, &lost);
    if (ring->thread >= process->threads) {
        process->threads = ring->thread + 1;
        consumer->threads++;
    }
    return true;
}

static void flush_feed(struct consumer *consumer, struct feed *feed)
{
    write_stream(consumer, feed->process, &feed->stream, &feed->has_number);
}

static void add_event(struct consumer *consumer, struct feed *feed, uint32_t site, uint64_t address,
                      uint64_t old_address, uint64_t size)
{
    trace_stream_add(&feed->stream, site, feed->tick, address, old_address, size);
    consumer->unmarked++;
    if (trace_stream_is_full(&feed->stream)) {
        flush_feed(consumer, feed);
    }
}

static void tell_thread(struct consumer *consumer, struct feed *feed, uint8_t kind)
{
    const struct trace_site site = {.kind = kind, .thread = feed->thread};
    const uint32_t index = trace_stream_add_site(&feed->stream, &site);
    if (index != UINT32_MAX) {
        add_event(consumer, feed, index, 0, 0, 0);
    }
}

static bool take_site(struct consumer *consumer, struct feed *feed, const uint64_t *words,
                      uint32_t count)
{
    if (count == 0 || count > RING_FRAMES_MAX + 1) {
        return false;
    }
    const uint64_t how = words[0];
    const unsigned align = how >> RING_HOW_ALIGN_SHIFT & 63;
    const struct trace_site site = {
        .stack = trace_tree_id(&feed->process->tree, words + 1, count - 1),
        .thread = feed->thread,
        .kind = (uint8_t)(how & RING_HOW_KIND),
        .flags = (uint8_t)(how >> RING_HOW_FLAGS_SHIFT),
        .align = align == 0   ? 0
                 : align > 32 ? 1U << 31
                              : 1U << (align - 1),
    };
    if (feed->site_count == feed->site_capacity) {
        const uint32_t capacity = feed->site_capacity == 0 ? 256 : 2 * feed->site_capacity;
        uint32_t *sites = reallocarray(feed->sites, capacity, sizeof(*sites));
        if (sites == NULL) {
            return false;
        }
        feed->sites = sites;
        feed->site_capacity = capacity;
    }
    const uint32_t index =
        trace_is_call(site.kind) ? trace_stream_add_site(&feed->stream, &site) : UINT32_MAX;
    feed->sites[feed->site_count++] = index;
    find_modules(consumer, feed->process, words + 1, count - 1);
    return index != UINT32_MAX;
}

static void set_tick(struct consumer *consumer, struct feed *feed, uint64_t tick)
{
    const uint64_t ours = since_begin(consumer, tick);
    if (ours > feed->tick) {
        feed->tick = ours;
    }
}

static bool take_special(struct consumer *consumer, struct feed *feed, uint32_t kind,
                         const uint64_t *words, uint32_t count)
{
    if (kind == RING_SITE) {
        return take_site(consumer, feed, words, count);
    }
    if (kind == RING_MODULES) {
        look_at_mappings(consumer, feed->process);
        return true;
    }
    if (count != 1) {
        return false;
    }
    if (kind == RING_BASE) {
        const bool is_first = feed->base == 0;
        feed->base = words[0];
        set_tick(consumer, feed, words[0]);
        if (is_first) {
            tell_thread(consumer, feed, FH_TRACE_THREAD_START);
        }
        return true;
    }
    if (kind != RING_LOST) {
        return false;
    }
    add_event(consumer, feed, feed->lost_site, 0, 0, words[0]);
    consumer->lost += words[0];
    return true;
}

/* The record of kind special at `tail`, its words made contiguous; its length, 0 when broken. */
static uint64_t read_special(struct consumer *consumer, struct feed *feed, const uint64_t *words,
                             uint64_t tail, uint64_t head)
{
    uint64_t copy[RING_RECORD_MAX];
    const uint64_t first = words[tail & (RING_WORDS - 1)];
    const uint32_t count = (uint32_t)first;
    if (count >= RING_RECORD_MAX || tail + 1 + count > head) {
        return 0;
    }
    for (uint32_t i = 0; i < count; i++) {
        copy[i] = words[(tail + 1 + i) & (RING_WORDS - 1)];
    }
    return take_special(consumer, feed, (uint32_t)(first >> 32), copy, count) ? 1 + count : 0;
}

/* The record of a call; its length, 0 when broken. */
static inline uint64_t read_call(struct consumer *consumer, struct feed *feed,
                                 const uint64_t *words, uint64_t tail, uint64_t head)
{
    const uint64_t first = words[tail & (RING_WORDS - 1)];
    const uint64_t number = first >> 32;
    if (number >= feed->site_count) {
        return 0;
    }
    const uint32_t site = feed->sites[number];
    const unsigned kind = feed->stream.sites[site].kind;
    const uint64_t second = words[(tail + 1) & (RING_WORDS - 1)];
    uint64_t length = 2;
    uint64_t size = second >> 48;
    uint64_t old_address = 0;
    if (size == RING_SIZE_FAR) {
        size = words[(tail + length++) & (RING_WORDS - 1)];
    }
    if (kind == FH_TRACE_RESIZE) {
        old_address = words[(tail + length++) & (RING_WORDS - 1)];
    }
    if (tail + length > head) {
        return 0;
    }
    set_tick(consumer, feed, (feed->base & ~(uint64_t)UINT32_MAX) | (uint32_t)first);
    add_event(consumer, feed, site, second & 0xffffffffffffU, old_address, size);
    return length;
}

/* Reads up to where the ring is now, or some `words_max`. */
static void drain(struct consumer *consumer, struct feed *feed, struct ring *ring,
                  uint64_t words_max)
{
    enum { RELEASE_EVERY = RING_WORDS / 8, AHEAD = 24 };
    const uint64_t *words = ring_words(ring);
    /* acquire: pairs with the owner's release */
    const uint64_t head = atomic_load_explicit(&ring->head, memory_order_acquire);
    uint64_t tail = atomic_load_explicit(&ring->tail, memory_order_relaxed);
    const uint64_t stop = head - tail > words_max ? tail + words_max : head;
    uint64_t released = tail;
    if (head - tail > RING_WORDS) {
        feed->is_broken = true;
    }
    while (tail < stop && !feed->is_broken) {
        /* Each call's address leads to a place in the stream's table that no cache holds. Most records are
         * two words, so this is the address of the call a dozen records on; if it isn't, nothing is lost. */
        trace_stream_expect(&feed->stream, words[(tail + AHEAD + 1) & (RING_WORDS - 1)]);
        const uint64_t number = words[tail & (RING_WORDS - 1)] >> 32;
        const uint64_t length = number < RING_SPECIAL
                                    ? read_call(consumer, feed, words, tail, head)
                                    : read_special(consumer, feed, words, tail, head);
        if (length == 0) {
            feed->is_broken = true;
            break;
        }
        tail += length;
        if (tail - released >= RELEASE_EVERY) {
            /* release: pairs with the owner's acquire */
            atomic_store_explicit(&ring->tail, tail, memory_order_release);
            released = tail;
        }
    }
    if (feed->is_broken) {
        tail = head;
    }
    if (tail != head) {
        consumer->is_behind = true;
        consumer->behind_tick =
            feed->tick < consumer->behind_tick ? feed->tick : consumer->behind_tick;
    }
    atomic_store_explicit(&ring->tail, tail, memory_order_release);
    if (feed->tick > feed->process->last_tick) {
        feed->process->last_tick = feed->tick;
    }
    if (feed->process->looked_ns != 0) {
        atomic_store_explicit(&ring->is_seen, 1, memory_order_relaxed);
    }
}

static void close_feed(struct consumer *consumer, struct feed *feed, struct ring *ring)
{
    const uint64_t lost = atomic_load_explicit(&ring->lost, memory_order_relaxed);
    if (lost != 0) {
        add_event(consumer, feed, feed->lost_site, 0, 0, lost);
        consumer->lost += lost;
    }
    if (feed->base != 0 && !feed->is_broken) {
        tell_thread(consumer, feed, FH_TRACE_THREAD_END);
    }
    flush_feed(consumer, feed);
    consumer->events += feed->stream.total_calls;
    trace_stream_free(&feed->stream);
    free(feed->sites);
    memset(feed, 0, sizeof(*feed));
    atomic_store_explicit(&ring->is_ready, 0, memory_order_relaxed);
    /* release: pairs with the next owner's acquire */
    atomic_store_explicit(&ring->state, RING_FREE, memory_order_release);
}

/* ---- Passes --------------------------------------------------------------------------------- */

/* How many rings are free. */
static uint32_t drain_all(struct consumer *consumer)
{
    uint32_t free_rings = 0;
    const uint64_t words_max = consumer->step < LAST_STEP ? 2 * consumer->step : UINT64_MAX;
    consumer->is_behind = false;
    consumer->behind_tick = UINT64_MAX;
    for (uint32_t i = 0; i < RING_COUNT; i++) {
        struct ring *ring = ring_at(consumer->control, i);
        struct feed *feed = &consumer->feeds[i];
        if (atomic_load_explicit(&ring->state, memory_order_acquire) == RING_FREE) {
            free_rings++;
            continue;
        }
        /* acquire: pairs with the owner's release of what it said about itself */
        if (!feed->is_open && (atomic_load_explicit(&ring->is_ready, memory_order_acquire) == 0 ||
                               !open_feed(consumer, feed, ring))) {
            continue;
        }
        drain(consumer, feed, ring, words_max);
    }
    return free_rings;
}

static bool is_gone(const struct feed *feed)
{
    return feed->process->has_ended ||
           (feed->process->was_seen && syscall(SYS_tgkill, feed->pid, feed->tid, 0) != 0 &&
            errno == ESRCH);
}

static void reap(struct consumer *consumer)
{
    for (uint32_t i = 0; i < RING_COUNT; i++) {
        struct feed *feed = &consumer->feeds[i];
        struct ring *ring = ring_at(consumer->control, i);
        if (feed->is_open && is_gone(feed)) {
            drain(consumer, feed, ring, UINT64_MAX); /* what it did since the pass */
            close_feed(consumer, feed, ring);
        }
    }
    for (uint32_t i = 0; i < consumer->process_count; i++) {
        struct process *process = consumer->processes[i];
        /* The first one's end is told by whoever waits for it. */
        if (i != 0 && process->was_seen && !process->has_ended && kill(process->pid, 0) != 0 &&
            errno == ESRCH) {
            end_process(consumer, process, -1);
        }
    }
    consumer->reaped_ns = now_ns();
}

static void write_all(struct consumer *consumer)
{
    for (uint32_t i = 0; i < RING_COUNT; i++) {
        if (consumer->feeds[i].is_open) {
            flush_feed(consumer, &consumer->feeds[i]);
        }
    }
    for (uint32_t i = 0; i < consumer->process_count; i++) {
        struct process *process = consumer->processes[i];
        if (process->has_forks) {
            write_stream(consumer, process, &process->forks, &process->forks_has_number);
        }
    }
    uint64_t mark = since_begin(consumer, consumer->mark_tick);
    if (consumer->is_behind && consumer->behind_tick <= mark) {
        mark = consumer->behind_tick != 0 ? consumer->behind_tick - 1 : 0;
    }
    trace_file_mark(&consumer->file, mark);
    consumer->is_settled = consumer->unmarked == 0;
    if (consumer->unmarked >= consumer->step && consumer->step < LAST_STEP) {
        consumer->step *= 2;
    }
    consumer->unmarked = 0;
    consumer->flushed_ns = now_ns();
}

static uint64_t events_so_far(const struct consumer *consumer)
{
    uint64_t events = consumer->events;
    for (uint32_t i = 0; i < RING_COUNT; i++) {
        const struct trace_stream *stream = &consumer->feeds[i].stream;
        events += consumer->feeds[i].is_open ? stream->total_calls + stream->calls : 0;
    }
    return events;
}

static void tell_progress(struct consumer *consumer)
{
    const double millions = (double)events_so_far(consumer) / 1e6;
    const double mib = (double)consumer->file.bytes / (1 << 20);
    fprintf(stderr, "\r\033[Kfreehold: recording: %.1f million events, %.1f MiB", millions, mib);
    fflush(stderr);
    consumer->has_progress_line = true;
}

static void nap(struct consumer *consumer)
{
    const struct timespec longest = {.tv_nsec = NAP_NS};
    _Atomic uint32_t *word = &consumer->control->is_asleep;
    atomic_store(word, 1);
    if (atomic_load(&consumer->is_stopping) == 0) {
        syscall(SYS_futex, word, FUTEX_WAIT, 1, &longest, NULL, 0);
    }
    atomic_store_explicit(word, 0, memory_order_relaxed);
}

static void pass(struct consumer *consumer)
{
    consumer->mark_tick = consumer->pass_tick;
    consumer->pass_tick = now_tick(consumer);
    atomic_fetch_add_explicit(&consumer->control->heartbeat, 1, memory_order_relaxed);
    const uint32_t free_rings = drain_all(consumer);
    const uint64_t now = now_ns();
    /* The rings of ended owners are read to their ends then: not before the marks are far apart. */
    if (!consumer->is_behind && (free_rings < FEW_RINGS || now - consumer->reaped_ns > reap_ns)) {
        reap(consumer);
    }
    if (consumer->unmarked >= consumer->step ||
        (now - consumer->flushed_ns > flush_ns &&
         (consumer->unmarked != 0 || !consumer->is_settled))) {
        write_all(consumer);
    }
    if (consumer->tells_progress && now - consumer->told_ns > tell_ns) {
        consumer->told_ns = now;
        tell_progress(consumer);
    }
    /* A full disk ends recording, not the program. */
    if (consumer->file.error != 0) {
        atomic_store_explicit(&consumer->control->is_closed, 1, memory_order_relaxed);
    }
}

static void *consume(void *argument)
{
    struct consumer *consumer = argument;
    while (atomic_load(&consumer->is_stopping) == 0) {
        pass(consumer);
        if (!consumer->is_behind) {
            nap(consumer);
        }
    }
    do {
        pass(consumer);
    } while (consumer->is_behind);
    /* Once more: a process that came between may have waited for its parent's ring. */
    consumer->step = LAST_STEP;
    drain_all(consumer);
    return NULL;
}

/* ---- From outside --------------------------------------------------------------------------- */

static int make_memory(struct consumer *consumer)
{
    consumer->memory_fd = memfd_create("freehold-record", MFD_CLOEXEC);
    if (consumer->memory_fd < 0 || ftruncate(consumer->memory_fd, RING_TOTAL_BYTES) != 0) {
        return -errno;
    }
    void *memory =
        mmap(NULL, RING_TOTAL_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, consumer->memory_fd, 0);
    if (memory == MAP_FAILED) {
        return -errno;
    }
    consumer->control = memory;
    consumer->control->page = RING_PAGE;
    consumer->control->magic = RING_MAGIC;
    choose_clock(consumer);
    return 0;
}

static void destroy(struct consumer *consumer)
{
    for (uint32_t i = 0; i < consumer->process_count; i++) {
        struct process *process = consumer->processes[i];
        for (uint32_t m = 0; m < process->module_count; m++) {
            free(process->modules[m].path);
        }
        free(process->modules);
        trace_tree_free(&process->tree);
        if (process->has_forks) {
            trace_stream_free(&process->forks);
        }
        free(process);
    }
    free(consumer->processes);
    if (consumer->control != NULL) {
        munmap(consumer->control, RING_TOTAL_BYTES);
    }
    if (consumer->memory_fd >= 0) {
        close(consumer->memory_fd);
    }
    free(consumer);
}

struct consumer *consumer_start(int fd, const char *command, bool tells_progress, int *error)
{
    sigset_t all;
    sigset_t before;
    struct consumer *consumer = calloc(1, sizeof(*consumer));
    /* Signals are the main thread's; here a limit on file sizes is an error, not a signal. */
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    *error = consumer == NULL ? -ENOMEM : make_memory(consumer);
    if (*error == 0) {
        *error = trace_file_begin(&consumer->file, fd, tick_length(consumer), command);
    }
    if (*error == 0) {
        consumer->tells_progress = tells_progress;
        consumer->flushed_ns = consumer->told_ns = now_ns();
        consumer->step = FIRST_STEP;
        *error = -pthread_create(&consumer->thread, NULL, consume, consumer);
    }
    if (*error == -EFBIG) {
        const struct timespec none = {0};
        sigset_t limit;
        sigemptyset(&limit);
        sigaddset(&limit, SIGXFSZ);
        sigtimedwait(&limit, NULL, &none);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (*error != 0 && consumer != NULL) {
        destroy(consumer);
        consumer = NULL;
    }
    return consumer;
}

bool consumer_configure(const struct consumer *consumer)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int)getpid(), consumer->memory_fd);
    return setenv(RING_VARIABLE, path, 1) == 0;
}

static void stop(struct consumer *consumer)
{
    atomic_store(&consumer->is_stopping, 1);
    atomic_store(&consumer->control->is_asleep, 0);
    syscall(SYS_futex, &consumer->control->is_asleep, FUTEX_WAKE, 1, NULL, NULL, 0);
    pthread_join(consumer->thread, NULL);
    if (consumer->has_progress_line) {
        fputs("\r\033[K", stderr);
    }
}

void consumer_finish(struct consumer *consumer, int wait_status, struct consumed *consumed)
{
    stop(consumer);
    reap(consumer);
    atomic_store_explicit(&consumer->control->is_closed, 1, memory_order_relaxed);
    memset(consumed, 0, sizeof(*consumed));
    const uint64_t untold = atomic_load_explicit(&consumer->control->lost, memory_order_relaxed);
    if (consumer->process_count != 0) {
        consumer->processes[0]->lost += untold;
        end_process(consumer, consumer->processes[0], wait_status);
    }
    for (uint32_t i = 0; i < RING_COUNT; i++) {
        if (consumer->feeds[i].is_open) {
            close_feed(consumer, &consumer->feeds[i], ring_at(consumer->control, i));
        }
    }
    for (uint32_t i = 0; i < consumer->process_count; i++) {
        struct process *process = consumer->processes[i];
        if (!process->has_ended && kill(process->pid, 0) != 0 && errno == ESRCH) {
            end_process(consumer, process, -1);
        }
        consumed->running += !process->has_ended;
    }
    write_all(consumer);
    trace_file_end(&consumer->file, tick_length(consumer));
    consumed->bytes = consumer->file.bytes;
    consumed->error = trace_file_close(&consumer->file);
    consumed->events = consumer->events;
    consumed->lost = consumer->lost;
    consumed->processes = consumer->process_count;
    consumed->threads = consumer->threads;
    destroy(consumer);
}
