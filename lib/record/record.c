/*
 * The recorder: what a thread of a recorded program does at each allocation and free.
 *
 * A thread has a *recorder* (private memory) and a *ring* (ring.h). A call becomes two or three words in the
 * ring: site, tick, address, size. The work is in finding the site, since a stack belongs to it:
 *
 *   known    Stacks that were walked before are recognised by their words (stack/known.h).
 *   sites    When that fails the stack is walked (lib/stack, which has its own cache of rules and of the last
 *            walk), frames of this library are left out, and a hash of the rest (64 bits) finds the site or makes
 *            one, which is told with its frames in the ring.
 *
 * Time. A tick is taken after an allocation and before a free, so that in the merged order a block is freed
 * before it is handed out again. The counter's instruction costs as much as the rest of a call, and with one
 * thread the order is that of the ring: such a process reads it at every fourth call while calls come quickly
 * (within HOT_TICKS); a call right after a pause may so be dated before it. With more threads
 * it is read each time, behind a fence, since the processor may else read it before what it waited for.
 *
 * Room. `limit` is how far the ring may be written without asking: first to its half, where the command
 * is woken if it sleeps, then to its end, where the thread waits, while the command's heartbeat goes on.
 * When that has stood still for DEAD_NS events are dropped and counted, until there is room again.
 *
 * Signals. `is_busy` is set while a recorder is at work. A handler that comes then and allocates uses the
 * recorder's `nested` one, with a ring of its own; a second handler on top of that is lost, and
 * counted.
 *
 * Fork. Recorders are wiped in the child (MADV_WIPEONFORK): its first call finds no ring and no room, comes to
 * record_slow, and starts over as a process of its own, however it was forked. A vfork child shares our memory
 * and goes on as the thread that it is.
 *
 * No lock, no libc that may allocate: this runs before constructors and after destructors, inside
 * signal handlers, and in children of fork.
 */
#include "record/record.h"

#include "base/core/bits.h"
#include "os/mem.h"
#include "stack/known.h"

#include <errno.h>

enum {
    KNOWN_BITS = 10, /* entries: more than the call sites of a busy phase of most programs */
    KNOWN_AREA = 1 << 19,
    SITES_FIRST_BITS = 10,
    TICK_EVERY = 4,  /* calls */
    HOT_TICKS = 512, /* some 1.6 µs between two readings */
    NAP_NS = 100000, /* when the ring is full */
};
static const uint64_t dead_ns = 1000000000; /* a heartbeat is due every 20 ms */

struct site {
    uint64_t hash; /* 0: nobody's */
    uint32_t number;
};

struct recorder {
    /* Where the next word goes and how far it may; both 0 in a forked child, and before the first call. */
    uint64_t head, limit;
    uint64_t *ring_words;
    struct ring *ring;
    volatile uint32_t is_busy;
    uint32_t calls_until_tick;
    uint64_t tick;         /* the last one */
    uint64_t base;         /* its upper half is what the ring's reader knows */
    struct fh_known known; /* its area, as all that follows, is made when first needed */
    uint32_t site_count, site_bits;
    struct site *sites;
    struct recorder *nested;
    uint64_t lost;           /* dropped since the last record */
    uint32_t dead_heartbeat; /* with is_dead: where the heartbeat stood */
    bool is_dead;            /* the command did not answer: do not wait */
    struct fh_known_entry entries[1 << KNOWN_BITS];
    struct fh_stack_cache stack;
};

/* The process's. */
static struct {
    _Atomic uint32_t state; /* enum state */
    struct ring_control *control;
    uint32_t serial;          /* of this process */
    uint32_t parent;          /* of the one that forked it, or UINT32_MAX */
    int pid;                  /* to see that it is a forked child */
    _Atomic uint32_t threads; /* numbers given out */
    _Atomic bool has_threads; /* more than one recorder was made: order is by time */
    _Atomic(struct recorder *) recorders[RING_COUNT]; /* by ring: its owner's, used again */
    _Atomic uint64_t crowded_until;                   /* when to wait for a ring again */
    uint32_t tick_shift;
    bool has_counter; /* the time stamp counter is the clock */
} self;

enum state { UNKNOWN, STARTING, RECORDING, OFF };

static __thread struct recorder *mine __attribute__((tls_model("initial-exec")));

/* ---- Time ----------------------------------------------------------------------------------- */

static uint64_t now(bool is_fenced)
{
#if defined(__x86_64__)
    if (FH_LIKELY(self.has_counter)) {
        if (is_fenced)
            __builtin_ia32_lfence();
        return __builtin_ia32_rdtsc() >> self.tick_shift;
    }
#endif
    (void)is_fenced;
    return fh_os_now_ns() >> self.tick_shift;
}

FH_INLINE uint64_t tick_of(struct recorder *recorder)
{
    if (atomic_load_explicit(&self.has_threads, memory_order_relaxed))
        return recorder->tick = fh_max(recorder->tick, now(true));
    if (recorder->calls_until_tick != 0) {
        recorder->calls_until_tick--;
        return recorder->tick;
    }
    const uint64_t tick = fh_max(recorder->tick, now(false));
    if (tick - recorder->tick < HOT_TICKS)
        recorder->calls_until_tick = TICK_EVERY - 1;
    return recorder->tick = tick;
}

/* ---- The start ------------------------------------------------------------------------------ */

/* The command's memory, by the path in the environment. */
static struct ring_control *map_control(void)
{
    const char *path = fh_os_is_secure() ? NULL : fh_os_getenv(RING_VARIABLE);
    const int fd = path != NULL ? fh_os_open_read_write(path) : -1;
    if (fd < 0)
        return NULL;
    struct ring_control *control = fh_os_map_fd(fd, RING_TOTAL_BYTES, 0, true);
    fh_os_close(fd);
    if (control == NULL)
        return NULL;
    fh_os_leave_out_of_dumps(control, RING_TOTAL_BYTES);
    if (control->magic == RING_MAGIC && control->page == RING_PAGE)
        return control;
    fh_os_release(control, RING_TOTAL_BYTES);
    return NULL;
}

static void become_process(uint32_t parent)
{
    self.parent = parent;
    self.pid = fh_os_getpid();
    self.serial = atomic_fetch_add_explicit(&self.control->processes, 1, memory_order_relaxed);
    atomic_store_explicit(&self.threads, 0, memory_order_relaxed);
    atomic_store_explicit(&self.has_threads, false, memory_order_relaxed);
}

static bool start(void)
{
    uint32_t state = UNKNOWN;
    /* acquire: pairs with the release of whoever has started */
    if (!atomic_compare_exchange_strong_explicit(&self.state, &state, STARTING,
                                                 memory_order_acquire, memory_order_acquire)) {
        while (state == STARTING) {
            fh_os_sleep_ns(NAP_NS);
            state = atomic_load_explicit(&self.state, memory_order_acquire);
        }
        return state == RECORDING;
    }
    fh_os_init();
    self.control = map_control();
    if (self.control != NULL) {
        self.tick_shift = self.control->tick_shift;
        self.has_counter = self.control->clock == RING_CLOCK_TSC;
        become_process(UINT32_MAX);
    }
    atomic_store_explicit(&self.state, self.control != NULL ? RECORDING : OFF,
                          memory_order_release);
    return self.control != NULL;
}

/* ---- Room in the ring ----------------------------------------------------------------------- */

static void publish(struct recorder *recorder)
{
    /* release: pairs with the command's acquire; the words before it are written */
    atomic_store_explicit(&recorder->ring->head, recorder->head, memory_order_release);
}

static void wake_command(void)
{
    uint32_t asleep = 1;
    if (atomic_load_explicit(&self.control->is_asleep, memory_order_relaxed) == 1 &&
        atomic_compare_exchange_strong_explicit(&self.control->is_asleep, &asleep, 0,
                                                memory_order_relaxed, memory_order_relaxed))
        fh_os_wake_shared(&self.control->is_asleep);
}

static bool is_closed(void)
{
    return atomic_load_explicit(&self.control->is_closed, memory_order_relaxed) != 0;
}

/* Until the next heartbeat or for NAP_NS. A futex, as filters of system calls let them pass that know what a malloc
 * does; they need not know of sleeping. */
static void nap(uint32_t heartbeat)
{
    fh_os_wait_shared(&self.control->heartbeat, heartbeat, NAP_NS);
}

/* Waits while `is_blocked`, as long as the command lives; whether it does no more. */
static bool wait_for_command(struct recorder *recorder,
                             bool (*is_blocked)(struct recorder *recorder))
{
    uint32_t heartbeat = atomic_load_explicit(&self.control->heartbeat, memory_order_relaxed);
    uint64_t since = fh_os_now_ns();
    if (recorder->is_dead && heartbeat == recorder->dead_heartbeat)
        return is_blocked(recorder);
    recorder->is_dead = false;
    while (is_blocked(recorder)) {
        if (is_closed())
            return true;
        wake_command();
        nap(heartbeat);
        const uint32_t beat = atomic_load_explicit(&self.control->heartbeat, memory_order_relaxed);
        const uint64_t time = fh_os_now_ns();
        if (beat != heartbeat) {
            heartbeat = beat;
            since = time;
        } else if (time - since > dead_ns) {
            recorder->is_dead = true;
            recorder->dead_heartbeat = heartbeat;
            return true;
        }
    }
    return false;
}

static uint64_t tail_of(const struct ring *ring)
{
    /* acquire: pairs with the command's release: it has read what is written over now */
    return atomic_load_explicit(&ring->tail, memory_order_acquire);
}

static bool is_full(struct recorder *recorder)
{
    return recorder->head + RING_RECORD_MAX > tail_of(recorder->ring) + RING_WORDS;
}

static void put(struct recorder *recorder, uint64_t word)
{
    recorder->ring_words[recorder->head++ & (RING_WORDS - 1)] = word;
}

static void put_special(struct recorder *recorder, enum ring_special kind, const void *words,
                        uint32_t count)
{
    put(recorder, (uint64_t)kind << 32 | count);
    for (uint32_t i = 0; i < count; i++)
        put(recorder, ((const uint64_t *)words)[i]);
    publish(recorder);
}

static void put_base(struct recorder *recorder)
{
    recorder->base = recorder->tick;
    put_special(recorder, RING_BASE, &recorder->tick, 1);
}

/* Room for a record of any kind; false: there is none, and the event is to be dropped. Everything that is not
 * a call's own record is written from here, so the quick way knows two words and a limit. */
static FH_NOINLINE bool make_room(struct recorder *recorder)
{
    if (is_closed())
        return false;
    if (is_full(recorder) && wait_for_command(recorder, is_full))
        return false;
    const uint64_t tail = tail_of(recorder->ring);
    const uint64_t half = tail + RING_WORDS / 2;
    if (recorder->head >= half)
        wake_command();
    recorder->limit = recorder->head < half ? half : tail + RING_WORDS - RING_RECORD_MAX;
    if (recorder->lost != 0) {
        put_base(recorder);
        put_special(recorder, RING_LOST, &recorder->lost, 1);
        recorder->lost = 0;
        atomic_store_explicit(&recorder->ring->lost, 0, memory_order_relaxed);
    }
    return true;
}

/* ---- Rings and recorders -------------------------------------------------------------------- */

/* A free ring, or RING_COUNT. */
static uint32_t claim_free(void)
{
    for (uint32_t i = 0; i < RING_COUNT; i++) {
        struct ring *ring = ring_at(self.control, i);
        uint32_t state = RING_FREE;
        /* acquire: pairs with the command's release: it is through with the ring */
        if (atomic_load_explicit(&ring->state, memory_order_relaxed) == RING_FREE &&
            atomic_compare_exchange_strong_explicit(&ring->state, &state, RING_OWNED,
                                                    memory_order_acquire, memory_order_relaxed))
            return i;
    }
    return RING_COUNT;
}

/* When all rings have owners: the command gives back those of ended threads in its next passes. If that
 * has not helped, as with more threads than rings, nobody waits again for a while: each call of a thread that
 * has no ring comes here. */
static uint32_t claim(void)
{
    const uint64_t longest = 100000000;
    uint32_t index = claim_free();
    if (index != RING_COUNT)
        return index;
    const uint64_t begin = fh_os_now_ns();
    if (begin < atomic_load_explicit(&self.crowded_until, memory_order_relaxed))
        return RING_COUNT;
    while (index == RING_COUNT && fh_os_now_ns() - begin < longest && !is_closed()) {
        wake_command();
        nap(atomic_load_explicit(&self.control->heartbeat, memory_order_relaxed));
        index = claim_free();
    }
    if (index == RING_COUNT)
        atomic_store_explicit(&self.crowded_until, begin + dead_ns, memory_order_relaxed);
    return index;
}

/* The recorder that goes with a ring: its last owner's, if that was a thread of this process. */
static struct recorder *recorder_for(uint32_t index)
{
    struct recorder *recorder = atomic_load_explicit(&self.recorders[index], memory_order_acquire);
    const size_t size = fh_align_up(sizeof(*recorder), fh_os_page_size);
    if (recorder == NULL) {
        recorder = fh_os_map(size);
        if (recorder == NULL)
            return NULL;
        fh_os_wipe_on_fork(recorder, size);
        atomic_store_explicit(&self.recorders[index], recorder, memory_order_release);
        return recorder;
    }
    if (recorder->known.area != NULL)
        fh_os_release(recorder->known.area, KNOWN_AREA);
    if (recorder->sites != NULL)
        fh_os_release(recorder->sites,
                      fh_align_up(sizeof(struct site) << recorder->site_bits, fh_os_page_size));
    fh_os_purge(recorder, size);
    return recorder;
}

static struct recorder *make_recorder(struct recorder *outer)
{
    const uint32_t index = claim();
    if (index == RING_COUNT)
        return NULL;
    struct ring *ring = ring_at(self.control, index);
    struct recorder *recorder = recorder_for(index);
    if (recorder == NULL) {
        atomic_store_explicit(&ring->state, RING_FREE, memory_order_release);
        return NULL;
    }
    ring->process = self.serial;
    ring->pid = self.pid;
    ring->tid = fh_os_gettid();
    ring->parent = self.parent;
    ring->parent_pid = fh_os_getppid();
    atomic_store_explicit(&ring->is_seen, 0, memory_order_relaxed);
    ring->thread = outer != NULL
                       ? outer->ring->thread
                       : atomic_fetch_add_explicit(&self.threads, 1, memory_order_relaxed);
    if (ring->thread != 0 || outer != NULL)
        atomic_store_explicit(&self.has_threads, true, memory_order_relaxed);
    recorder->head = recorder->limit = tail_of(ring);
    recorder->ring = ring;
    recorder->ring_words = ring_words(ring);
    recorder->tick = now(false);
    atomic_store_explicit(&ring->head, recorder->head, memory_order_relaxed);
    atomic_store_explicit(&ring->lost, 0, memory_order_relaxed);
    put_base(recorder);
    /* release: pairs with the command's acquire */
    atomic_store_explicit(&ring->is_ready, 1, memory_order_release);
    return recorder;
}

static void count_lost(void)
{
    if (self.control != NULL)
        atomic_fetch_add_explicit(&self.control->lost, 1, memory_order_relaxed);
}

/* The calling thread's recorder where it has none yet, or had it before a fork. */
static FH_COLD struct recorder *begin_thread(void)
{
    if (atomic_load_explicit(&self.state, memory_order_acquire) != RECORDING && !start())
        return NULL;
    if (is_closed())
        return NULL;
    if (self.pid != fh_os_getpid()) {
        for (uint32_t i = 0; i < RING_COUNT; i++)
            atomic_store_explicit(&self.recorders[i], NULL, memory_order_relaxed);
        fh_stack_reset_in_child();
        become_process(self.serial);
    }
    struct recorder *recorder = make_recorder(NULL);
    mine = recorder;
    /* It reads the mappings of a process that it has not seen: soon, before that may have ended. */
    if (recorder != NULL && recorder->ring->thread == 0)
        wake_command();
    if (recorder == NULL)
        count_lost();
    return recorder;
}

/* ---- Sites ---------------------------------------------------------------------------------- */

static uint64_t hash_of(uint32_t how, const uintptr_t *frames, size_t count)
{
    uint64_t hash = how * 0x9e3779b97f4a7c15u + count;
    for (size_t i = 0; i < count; i++) {
        hash = (hash ^ frames[i]) * 0xbf58476d1ce4e5b9u;
        hash ^= hash >> 29;
    }
    return hash | 1;
}

static size_t site_bytes(uint32_t bits)
{
    return fh_align_up(sizeof(struct site) << bits, fh_os_page_size);
}

static bool grow_sites(struct recorder *recorder)
{
    const uint32_t bits = recorder->sites == NULL ? SITES_FIRST_BITS : recorder->site_bits + 1;
    struct site *sites = fh_os_map(site_bytes(bits));
    if (sites == NULL)
        return false;
    const size_t mask = ((size_t)1 << bits) - 1;
    for (size_t i = 0; recorder->sites != NULL && i < (size_t)1 << recorder->site_bits; i++) {
        if (recorder->sites[i].hash == 0)
            continue;
        size_t place = recorder->sites[i].hash >> 20 & mask;
        while (sites[place].hash != 0)
            place = (place + 1) & mask;
        sites[place] = recorder->sites[i];
    }
    if (recorder->sites != NULL)
        fh_os_release(recorder->sites, site_bytes(recorder->site_bits));
    recorder->sites = sites;
    recorder->site_bits = bits;
    return true;
}

/* The number of a site, told to the command if it is new; UINT32_MAX: no memory, or no room. */
static uint32_t site_of(struct recorder *recorder, uint32_t how, const uintptr_t *frames,
                        size_t count)
{
    if ((recorder->sites == NULL || recorder->site_count >= 1u << (recorder->site_bits - 1)) &&
        !grow_sites(recorder))
        return UINT32_MAX;
    const uint64_t hash = hash_of(how, frames, count);
    const size_t mask = ((size_t)1 << recorder->site_bits) - 1;
    size_t place = hash >> 20 & mask;
    for (; recorder->sites[place].hash != 0; place = (place + 1) & mask)
        if (recorder->sites[place].hash == hash)
            return recorder->sites[place].number;
    if (is_full(recorder) && !make_room(recorder))
        return UINT32_MAX;
    put(recorder, (uint64_t)RING_SITE << 32 | (count + 1));
    put(recorder, how);
    for (size_t i = 0; i < count; i++)
        put(recorder, frames[i]);
    publish(recorder);
    recorder->sites[place] = (struct site){hash, recorder->site_count};
    return recorder->site_count++;
}

/* ---- Known stacks --------------------------------------------------------------------------- */

/* The section that the entry points are in: the only code of ours below which a call can be told. */
extern const char __start_fh_fast[] FH_HIDDEN, __stop_fh_fast[] FH_HIDDEN;

static bool is_ours(uintptr_t frame)
{
    return frame >= (uintptr_t)__start_fh_fast && frame < (uintptr_t)__stop_fh_fast;
}

static bool has_known(struct recorder *recorder)
{
    if (recorder->known.area == NULL)
        recorder->known = (struct fh_known){
            .area = fh_os_map(KNOWN_AREA),
            .area_words = KNOWN_AREA / 8,
            .bits = KNOWN_BITS,
            .entries = recorder->entries,
        };
    return recorder->known.area != NULL;
}

static FH_NOINLINE uint32_t walk(struct recorder *recorder, uint32_t how, const uintptr_t *frame,
                                 uintptr_t fp)
{
    uintptr_t frames[RING_FRAMES_MAX];
    const uintptr_t sp = (uintptr_t)(frame + 2);
    size_t count = fh_stack_capture_at(&recorder->stack, frame[1], sp, fp, frames, RING_FRAMES_MAX);
    size_t skip = 0;
    while (skip < count && is_ours(frames[skip]))
        skip++;
    const uint32_t site = site_of(recorder, how, frames + skip, count - skip);
    if (site != UINT32_MAX && has_known(recorder))
        fh_known_keep(&recorder->known, &recorder->stack, sp, frames, count, RING_FRAMES_MAX, how,
                      site);
    return site;
}

FH_INLINE uint32_t find_site(struct recorder *recorder, uint32_t how, const uintptr_t *frame,
                             uintptr_t fp)
{
    const uintptr_t sp = (uintptr_t)(frame + 2);
    uint32_t site;
    if (FH_LIKELY(recorder->known.area != NULL) &&
        FH_LIKELY(fh_known_find(&recorder->known, frame[1], sp, fp, how, FH_KNOWN_ALL, &site)))
        return site;
    return walk(recorder, how, frame, fp);
}

/* ---- Calls ---------------------------------------------------------------------------------- */

/* The recorder to use, busy from now on; NULL: the event is lost, or nothing is recorded. */
static FH_NOINLINE struct recorder *enter_slow(struct recorder *recorder)
{
    if (recorder == NULL || recorder->ring == NULL) {
        if (atomic_load_explicit(&self.state, memory_order_relaxed) == OFF)
            return NULL;
        recorder = begin_thread();
    } else if (recorder->is_busy != 0) {
        if (recorder->nested == NULL)
            recorder->nested = make_recorder(recorder);
        recorder = recorder->nested;
        if (recorder == NULL || recorder->is_busy != 0) {
            count_lost();
            return NULL;
        }
    }
    if (recorder != NULL)
        recorder->is_busy = 1;
    return recorder;
}

FH_INLINE struct recorder *enter(void)
{
    struct recorder *recorder = mine;
    if (FH_UNLIKELY(recorder == NULL || recorder->is_busy != 0 || recorder->ring == NULL))
        return enter_slow(recorder);
    recorder->is_busy = 1;
    atomic_signal_fence(memory_order_seq_cst);
    return recorder;
}

FH_INLINE void leave(struct recorder *recorder)
{
    atomic_signal_fence(memory_order_seq_cst);
    recorder->is_busy = 0;
}

static FH_COLD void drop(struct recorder *recorder)
{
    recorder->lost++;
    atomic_store_explicit(&recorder->ring->lost, recorder->lost, memory_order_relaxed);
}

/* The site and room for the call's record; UINT32_MAX: dropped. */
FH_INLINE uint32_t prepare(struct recorder *recorder, uint32_t how, const uintptr_t *frame,
                           uintptr_t fp)
{
    if (FH_UNLIKELY(recorder->head >= recorder->limit) && !make_room(recorder)) {
        drop(recorder);
        return UINT32_MAX;
    }
    const uint32_t site = find_site(recorder, how, frame, fp);
    if (FH_UNLIKELY(site == UINT32_MAX))
        drop(recorder);
    return site;
}

FH_INLINE void put_call(struct recorder *recorder, uint32_t site, uint64_t tick, const void *block,
                        uint64_t size)
{
    if (FH_UNLIKELY(tick >> 32 != recorder->base >> 32))
        put_base(recorder);
    put(recorder, (uint64_t)site << 32 | (uint32_t)tick);
    put(recorder, (uintptr_t)block | fh_min(size, (uint64_t)RING_SIZE_FAR) << 48);
    if (FH_UNLIKELY(size >= RING_SIZE_FAR))
        put(recorder, size);
}

void *fh_record_alloc(void *block, size_t size, uint32_t how, const uintptr_t *frame, uintptr_t fp)
{
    struct recorder *recorder = block != NULL ? enter() : NULL;
    if (FH_UNLIKELY(recorder == NULL))
        return block;
    const uint32_t site = prepare(recorder, how, frame, fp);
    if (FH_LIKELY(site != UINT32_MAX)) {
        put_call(recorder, site, tick_of(recorder), block, size);
        publish(recorder);
    }
    leave(recorder);
    return block;
}

void fh_record_free(void *block, uint32_t how, const uintptr_t *frame, uintptr_t fp)
{
    struct recorder *recorder = enter();
    if (FH_UNLIKELY(recorder == NULL))
        return;
    const uint32_t site = prepare(recorder, how, frame, fp);
    if (FH_LIKELY(site != UINT32_MAX)) {
        put_call(recorder, site, tick_of(recorder), block, 0);
        publish(recorder);
    }
    leave(recorder);
}

void fh_record_resize(void *block, void *old, size_t size, uint32_t how, const uintptr_t *frame,
                      uintptr_t fp)
{
    struct recorder *recorder = enter();
    if (FH_UNLIKELY(recorder == NULL))
        return;
    const uint32_t site = prepare(recorder, how, frame, fp);
    if (FH_LIKELY(site != UINT32_MAX)) {
        put_call(recorder, site, tick_of(recorder), block, size);
        put(recorder, (uintptr_t)old);
        publish(recorder);
    }
    leave(recorder);
}

/* Whether the command has not yet come to the end of the ring. */
static bool is_unread(struct recorder *recorder)
{
    return tail_of(recorder->ring) != recorder->head;
}

void fh_record_modules(void)
{
    struct recorder *recorder = enter();
    if (recorder == NULL)
        return;
    if (recorder->head < recorder->limit || make_room(recorder)) {
        put_special(recorder, RING_MODULES, NULL, 0);
        wait_for_command(recorder, is_unread);
    }
    leave(recorder);
}

static bool is_unseen(struct recorder *recorder)
{
    return atomic_load_explicit(&recorder->ring->is_seen, memory_order_relaxed) == 0;
}

void fh_record_end(void)
{
    struct recorder *recorder = mine;
    if (recorder != NULL && recorder->ring != NULL && is_unseen(recorder))
        wait_for_command(recorder, is_unseen);
}
