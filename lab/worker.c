/*
 * A worker: one allocator, one pass over the program, one process.
 *
 * The command executes itself anew for each pass, so that what one allocator leaves behind (free
 * lists, mapped pages, a fragmented address space) is not what the next begins with, a malloc
 * library can be preloaded, and a crash is the allocator's alone. The job comes and goes in a page
 * of shared memory: a worker that dies has said how far it came.
 *
 * Passes:
 *   time     nothing but the operations between two looks at the clocks. The program is mapped and
 *            its pages are present before, as is the array of slots: page faults that are counted
 *            are the allocator's.
 *   memory   stops after the operation at which the program's live bytes peak, and at the end, and
 *            looks: the manager's own measure, a walk over its free blocks, malloc_usable_size of
 *            every live block, the process's proportional set size. Footprint and resident memory
 *            are sampled in between; peaks between samples come from the manager (peak_footprint)
 *            and the kernel (VmHWM, set back before the first operation). All memory figures are
 *            differences to the moment before the allocator was opened.
 *   latency  the clock is read around every call; a shared file keeps the least each call took over
 *            all passes, which filters out interrupts and other programs.
 *   minimum  the manager over a buffer, whose size is searched by bisection between the peak of the
 *            live bytes, which no manager can undercut, and the first doubling that is enough. A
 *            larger buffer may in theory refuse what a smaller one served; the answer is a
 *            size that does serve, next to one that doesn't.
 *   map      the manager is walked at moments spread over the replay, and drawn (tools/heapmap.h).
 *
 * Where malloc is what is replayed nothing else here calls it once the replay has begun, and
 * nothing writes to the standard streams.
 */
#include "allocators.h"
#include "loop.h"

#include "freehold/source.h"
#include "tools/heapmap.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum {
    STEP = 1 << 16,                    /* operations between two notes of progress */
    PRECISION = 2000,                  /* the minimum is searched to 1/PRECISION of itself */
    MAP_SAMPLES = 2 * HEAPMAP_COLUMNS, /* columns of the strip, each a walk over all blocks */
};

struct worker {
    struct lab_job *job;
    struct lab_replay replay;
    struct fh_allocator manager; /* ops is NULL when it is malloc or nothing */
    bool needs_size;
    uint64_t resident_before;
    uint64_t high_water_before;
};

/* ---- The three kinds of calls ---- */

static void *malloc_alloc(void *self, size_t size, size_t align, bool is_zeroed)
{
    void *block = NULL;
    (void)self;
    if (align != 0) {
        if (posix_memalign(&block, align, size) != 0) {
            return NULL;
        }
        return is_zeroed ? memset(block, 0, size) : block;
    }
    return is_zeroed ? calloc(1, size) : malloc(size);
}

static void *malloc_resize(void *self, void *block, size_t old_size, size_t size)
{
    (void)self;
    (void)old_size;
    /* realloc to 0 is a free in some libraries and not in others; the trace has a live block. */
    return realloc(block, size > 0 ? size : 1);
}

static void malloc_free(void *self, void *block, size_t size, size_t align)
{
    (void)self;
    (void)size;
    (void)align;
    free(block);
}

static void *manager_alloc(void *self, size_t size, size_t align, bool is_zeroed)
{
    const struct fh_allocator *manager = &((const struct worker *)self)->manager;
    return fh_alloc_with(manager, size, align, is_zeroed ? FH_ALLOC_ZEROED : 0);
}

static void *manager_resize(void *self, void *block, size_t old_size, size_t size)
{
    const struct fh_allocator *manager = &((const struct worker *)self)->manager;
    return fh_resize_sized(manager, block, old_size, size, 0);
}

static void manager_free(void *self, void *block, size_t size, size_t align)
{
    const struct worker *worker = self;
    if (worker->needs_size) {
        fh_free_sized(&worker->manager, block, size, align);
    } else {
        fh_free(&worker->manager, block);
    }
}

static unsigned char nothing[1];

static void *nothing_alloc(void *self, size_t size, size_t align, bool is_zeroed)
{
    (void)self;
    (void)size;
    (void)align;
    (void)is_zeroed;
    return nothing;
}

static void *nothing_resize(void *self, void *block, size_t old_size, size_t size)
{
    (void)self;
    (void)old_size;
    (void)size;
    return block;
}

static void nothing_free(void *self, void *block, size_t size, size_t align)
{
    (void)self;
    (void)block;
    (void)size;
    (void)align;
}

static const struct lab_calls malloc_calls = {malloc_alloc, malloc_resize, malloc_free, true};
static const struct lab_calls manager_calls = {manager_alloc, manager_resize, manager_free, true};
static const struct lab_calls untouched_calls = {manager_alloc, manager_resize, manager_free,
                                                 false};
static const struct lab_calls no_calls = {nothing_alloc, nothing_resize, nothing_free, false};

/* An instance of the loop: `calls` is a constant, so the compiler sees through its pointers. */
#define LOOP(name, calls, style)                                                                   \
    static __attribute__((noinline)) void name(struct lab_replay *replay, size_t begin,            \
                                               size_t end)                                         \
    {                                                                                              \
        lab_loop(replay, begin, end, &(calls), (style));                                           \
    }

LOOP(malloc_plain, malloc_calls, LAB_PLAIN)
LOOP(malloc_counted, malloc_calls, LAB_COUNTED)
LOOP(malloc_timed, malloc_calls, LAB_TIMED)
LOOP(manager_plain, manager_calls, LAB_PLAIN)
LOOP(manager_counted, manager_calls, LAB_COUNTED)
LOOP(manager_timed, manager_calls, LAB_TIMED)
LOOP(manager_untouched, untouched_calls, LAB_PLAIN)
LOOP(nothing_plain, no_calls, LAB_PLAIN)
LOOP(nothing_counted, no_calls, LAB_COUNTED)
LOOP(nothing_timed, no_calls, LAB_TIMED)

typedef void loop_function(struct lab_replay *replay, size_t begin, size_t end);

static loop_function *loop_of(const struct worker *worker, enum lab_style style)
{
    static loop_function *const of_malloc[] = {malloc_plain, malloc_counted, malloc_timed};
    static loop_function *const of_manager[] = {manager_plain, manager_counted, manager_timed};
    static loop_function *const of_nothing[] = {nothing_plain, nothing_counted, nothing_timed};
    const char *name = worker->job->task.manager;
    return name[0] == '\0'             ? of_malloc[style]
           : strcmp(name, "none") == 0 ? of_nothing[style]
                                       : of_manager[style];
}

static void run(struct worker *worker, loop_function *loop, size_t begin, size_t end)
{
    for (size_t i = begin; i < end;) {
        const size_t next = end - i > STEP ? i + STEP : end;
        loop(&worker->replay, i, next);
        i = next;
        worker->job->result.progress = i;
    }
}

/* ---- Looks at the process ---- */

/* The number after `key` in a file of /proc, which is in KiB there; 0 when it can't be read. */
static uint64_t proc_bytes(const char *path, const char *key)
{
    char text[8192];
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return 0;
    }
    const ssize_t len = read(fd, text, sizeof(text) - 1);
    close(fd);
    if (len <= 0) {
        return 0;
    }
    text[len] = '\0';
    const char *at = strstr(text, key);
    return at == NULL ? 0 : strtoull(at + strlen(key), NULL, 10) << 10;
}

static uint64_t resident_now(void)
{
    return proc_bytes("/proc/self/smaps_rollup", "\nPss:");
}

/* Makes the kernel's high-water mark of resident memory what is resident now. */
static void reset_high_water(void)
{
    const int fd = open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC);
    if (fd >= 0) {
        const ssize_t written = write(fd, "5", 1);
        (void)written;
        close(fd);
    }
}

static uint64_t high_water(void)
{
    return proc_bytes("/proc/self/status", "\nVmHWM:");
}

static uint64_t clock_ns(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000U + (uint64_t)now.tv_nsec;
}

static uint64_t above(uint64_t value, uint64_t base)
{
    return value > base ? value - base : 0;
}

/* ---- Looks at the allocator ---- */

struct free_sum {
    double bytes;
    double squares;
};

static int add_free_block(void *context, const struct fh_block *block)
{
    struct free_sum *sum = context;
    if (!block->is_live) {
        const double bytes = (double)block->usable;
        sum->bytes += bytes;
        sum->squares += bytes * bytes;
    }
    return 0;
}

/* malloc_usable_size is the library's own where both come from one file. */
static bool has_usable_size(void)
{
    Dl_info of_malloc;
    Dl_info of_usable;
    void *usable = dlsym(RTLD_DEFAULT, "malloc_usable_size");
    return usable != NULL && dladdr((void *)(uintptr_t)malloc, &of_malloc) != 0 &&
           dladdr(usable, &of_usable) != 0 && of_malloc.dli_fbase == of_usable.dli_fbase;
}

static uint64_t usable_of_slots(const struct worker *worker)
{
    uint64_t usable = 0;
    for (uint64_t i = 0; i < worker->job->task.program.facts.slots; i++) {
        usable += malloc_usable_size(worker->replay.slots[i].block);
    }
    return usable;
}

static void note_peak(struct lab_result *result, const struct fh_measure *measure)
{
    const uint64_t peak =
        measure->peak_footprint > measure->footprint ? measure->peak_footprint : measure->footprint;
    result->peak_footprint = peak > result->peak_footprint ? peak : result->peak_footprint;
}

static void look(struct worker *worker, struct lab_look *out)
{
    struct lab_result *result = &worker->job->result;
    out->requested = worker->replay.held_bytes;
    out->blocks = worker->replay.held_blocks;
    out->resident = above(resident_now(), worker->resident_before);
    if (worker->manager.ops == NULL) {
        result->has_usable = worker->job->task.manager[0] == '\0' && has_usable_size();
        out->usable = result->has_usable ? usable_of_slots(worker) : 0;
        return;
    }
    struct fh_measure measure = {.size = sizeof(measure)};
    struct free_sum sum = {0, 0};
    if (fh_allocator_measure(&worker->manager, &measure) != 0 ||
        fh_allocator_walk(&worker->manager, add_free_block, &sum) != 0) {
        return;
    }
    result->has_measure = true;
    result->has_usable = true;
    out->usable = measure.live_bytes;
    out->metadata = measure.metadata;
    out->footprint = measure.footprint;
    out->free_bytes = measure.free_bytes;
    out->free_blocks = measure.free_blocks;
    out->largest_free = measure.largest_free;
    out->scatter = sum.bytes > 0 ? 1 - sqrt(sum.squares) / sum.bytes : 0;
    note_peak(result, &measure);
}

/* ---- Passes ---- */

static void pass_time(struct worker *worker)
{
    struct lab_result *result = &worker->job->result;
    loop_function *loop = loop_of(worker, LAB_PLAIN);
    const uint64_t cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
    const uint64_t wall = clock_ns(CLOCK_MONOTONIC);
    run(worker, loop, 0, worker->job->task.program.facts.ops);
    result->wall_ns = clock_ns(CLOCK_MONOTONIC) - wall;
    result->cpu_ns = clock_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu;
}

static void take_sample(struct worker *worker, uint64_t op)
{
    struct lab_result *result = &worker->job->result;
    struct lab_sample *sample = &result->samples[result->sample_count++];
    struct fh_measure measure = {.size = sizeof(measure)};
    sample->op = op;
    sample->requested = worker->replay.held_bytes;
    sample->resident = above(resident_now(), worker->resident_before);
    if (worker->manager.ops != NULL && fh_allocator_measure(&worker->manager, &measure) == 0) {
        sample->footprint = measure.footprint;
        note_peak(result, &measure);
    }
}

static void pass_memory(struct worker *worker)
{
    struct lab_result *result = &worker->job->result;
    const struct lab_program_facts *facts = &worker->job->task.program.facts;
    loop_function *loop = loop_of(worker, LAB_COUNTED);
    uint64_t done = 0;
    for (uint64_t i = 1; i <= LAB_MOST_SAMPLES; i++) {
        const uint64_t next =
            i == LAB_MOST_SAMPLES ? facts->ops : facts->ops / LAB_MOST_SAMPLES * i;
        if (done <= facts->peak_op && facts->peak_op < next) {
            run(worker, loop, done, facts->peak_op + 1);
            look(worker, &result->at_peak);
            done = facts->peak_op + 1;
        }
        run(worker, loop, done, next);
        if (next > done || i == LAB_MOST_SAMPLES) {
            take_sample(worker, next);
        }
        done = next > done ? next : done;
    }
    result->peak_resident = above(high_water(), worker->high_water_before);
    look(worker, &result->at_end);
    if (result->peak_resident < result->at_peak.resident) {
        result->peak_resident = result->at_peak.resident;
    }
}

static void pass_latency(struct worker *worker)
{
    struct lab_result *result = &worker->job->result;
    const uint64_t ops = worker->job->task.program.facts.ops;
    loop_function *loop = loop_of(worker, LAB_TIMED);
    const size_t bytes = ops * sizeof(uint32_t);
    uint32_t *latencies =
        mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, LAB_LATENCY_FD, 0);
    if (latencies == MAP_FAILED) {
        result->state = LAB_NO_MEMORY;
        return;
    }
    worker->replay.latencies = latencies;
    const uint64_t wall = clock_ns(CLOCK_MONOTONIC);
    const uint64_t ticks = lab_ticks();
    run(worker, loop, 0, ops);
    const double taken = (double)(lab_ticks() - ticks);
    result->ticks_per_ns = taken / (double)(clock_ns(CLOCK_MONOTONIC) - wall);
}

/* Memory that is there when it is touched. */
static void *map_room(size_t bytes)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

/* Whether a manager over `bytes` at `memory` serves the whole program. */
static bool serves_all(struct worker *worker, const struct lab_manager *manager, void *memory,
                       size_t bytes)
{
    const struct fh_place_options place = FH_PLACE_BUFFER(memory, bytes);
    const struct lab_program_facts *facts = &worker->job->task.program.facts;
    if (manager->open(&place, &worker->manager) != 0) {
        return false;
    }
    memset(worker->replay.slots, 0, facts->slots * sizeof(struct lab_slot));
    worker->replay.refused = 0;
    for (uint64_t i = 0; i < facts->ops && worker->replay.refused == 0; i += STEP) {
        const uint64_t next = facts->ops - i > STEP ? i + STEP : facts->ops;
        manager_untouched(&worker->replay, i, next);
    }
    fh_allocator_destroy(&worker->manager);
    worker->job->result.progress++;
    return worker->replay.refused == 0;
}

static void pass_minimum(struct worker *worker)
{
    struct lab_result *result = &worker->job->result;
    const struct lab_task *task = &worker->job->task;
    const struct lab_manager *manager = lab_manager_named(task->manager);
    const size_t most = task->capacity;
    void *memory = map_room(most);
    if (memory == NULL) {
        result->state = LAB_NO_MEMORY;
        return;
    }
    size_t too_little = task->program.facts.peak_live_bytes;
    size_t enough = too_little + too_little / 4 + 4096;
    while (enough < most && !serves_all(worker, manager, memory, enough)) {
        too_little = enough;
        enough *= 2;
    }
    if (enough >= most) {
        enough = most;
        if (!serves_all(worker, manager, memory, most)) {
            return;
        }
    }
    while (enough - too_little > enough / PRECISION + 16) {
        const size_t middle = too_little + (enough - too_little) / 2;
        if (serves_all(worker, manager, memory, middle)) {
            enough = middle;
        } else {
            too_little = middle;
        }
    }
    result->minimum = enough;
}

static void pass_map(struct worker *worker)
{
    struct lab_result *result = &worker->job->result;
    const struct lab_task *task = &worker->job->task;
    const uint64_t ops = task->program.facts.ops;
    loop_function *loop = loop_of(worker, LAB_PLAIN);
    struct heapmap *map = heapmap_create(task->map_title, 0);
    int error = map == NULL ? -ENOMEM : 0;
    for (uint64_t i = 1; i <= MAP_SAMPLES && error == 0; i++) {
        run(worker, loop, ops * (i - 1) / MAP_SAMPLES, ops * i / MAP_SAMPLES);
        error = heapmap_sample(map, &worker->manager, NULL, 0);
    }
    if (error == 0) {
        heapmap_set_axis(map, "calls", (double)ops);
        error = heapmap_write(map, task->map);
    }
    if (map != NULL) {
        heapmap_destroy(map);
    }
    if (error != 0) {
        result->state = LAB_NO_MAP;
        result->error = -error;
    }
}

/* ---- Opening ---- */

/* Whether malloc is the library's that was asked for, and not one that the loader preferred. */
static bool is_loaded(const char *library)
{
    Dl_info of_malloc;
    struct stat wanted;
    struct stat found;
    if (library[0] == '\0') {
        return true;
    }
    return dladdr((void *)(uintptr_t)malloc, &of_malloc) != 0 && stat(library, &wanted) == 0 &&
           stat(of_malloc.dli_fname, &found) == 0 && wanted.st_dev == found.st_dev &&
           wanted.st_ino == found.st_ino;
}

static bool map_program(struct worker *worker)
{
    const struct lab_program_facts *facts = &worker->job->task.program.facts;
    /* Slots that do not exist are never used; a mapping can't be empty. */
    const size_t slots = (facts->slots + 1) * sizeof(struct lab_slot);
    worker->replay.page = (size_t)sysconf(_SC_PAGESIZE);
    worker->replay.slots = mmap(NULL, slots, PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (worker->replay.slots == MAP_FAILED) {
        return false;
    }
    if (facts->ops == 0) {
        return true;
    }
    worker->replay.ops = mmap(NULL, facts->ops * sizeof(struct lab_op), PROT_READ,
                              MAP_SHARED | MAP_POPULATE, LAB_PROGRAM_FD, 0);
    return worker->replay.ops != MAP_FAILED;
}

static int open_in_its_place(const struct lab_manager *manager, size_t room,
                             struct fh_allocator *out)
{
    struct fh_place_options place = FH_PLACE_SOURCE(fh_source_system(), room);
    if ((manager->traits & LAB_IN_BUFFER) != 0) {
        void *memory = map_room(room);
        if (memory == NULL) {
            return -ENOMEM;
        }
        place = FH_PLACE_BUFFER(memory, room);
    }
    return manager->open(&place, out);
}

static bool open_manager(struct worker *worker)
{
    const struct lab_task *task = &worker->job->task;
    const struct lab_manager *manager = lab_manager_named(task->manager);
    if (manager == NULL) {
        return true;
    }
    const int error = open_in_its_place(manager, task->capacity, &worker->manager);
    if (error != 0) {
        worker->job->result.state = LAB_NOT_OPENED;
        worker->job->result.error = -error;
        return false;
    }
    worker->needs_size = fh_allocator_can(&worker->manager, FH_ALLOCATOR_NEEDS_SIZE);
    return true;
}

static void work(struct worker *worker)
{
    struct lab_result *result = &worker->job->result;
    const enum lab_pass pass = worker->job->task.pass;
    if (!is_loaded(worker->job->task.library)) {
        result->state = LAB_NOT_LOADED;
        return;
    }
    if (!map_program(worker)) {
        result->state = LAB_NO_MEMORY;
        return;
    }
    /* Files of /proc are read once before they count: reading makes pages resident too. */
    resident_now();
    high_water();
    reset_high_water();
    worker->high_water_before = high_water();
    worker->resident_before = resident_now();
    if (pass == LAB_PASS_MINIMUM) {
        worker->manager.ops = NULL;
        pass_minimum(worker);
    } else if (open_manager(worker)) {
        result->frees = worker->manager.ops == NULL ||
                        !fh_allocator_can(&worker->manager, FH_ALLOCATOR_NO_FREE);
        if (pass == LAB_PASS_TIME) {
            pass_time(worker);
        } else if (pass == LAB_PASS_MEMORY) {
            pass_memory(worker);
        } else if (pass == LAB_PASS_MAP) {
            pass_map(worker);
        } else {
            pass_latency(worker);
        }
    }
    result->refused = worker->replay.refused;
    result->refused_bytes = worker->replay.refused_bytes;
    if (result->state == LAB_STARTED) {
        result->state = LAB_DONE;
    }
}

int lab_worker(void)
{
    static struct worker worker;
    /* An interrupted command leaves no workers behind. */
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    worker.job = mmap(NULL, sizeof(struct lab_job), PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_POPULATE, LAB_JOB_FD, 0);
    if (worker.job == MAP_FAILED) {
        return 1;
    }
    worker.replay.self = &worker;
    work(&worker);
    return 0;
}
