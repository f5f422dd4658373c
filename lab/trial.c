/*
 * Trials.
 *
 * Both replays of a round run the same loop over as many operations: what a change takes away stays as an operation that
 * does nothing, so the loop's own cost is in both and cancels. A round is one replay of each kind, and
 * rounds begin with one and the other in turn; the saving is the median of the differences within rounds, since what
 * disturbs the machine lasts longer than a round and disturbs both. A last replay of each looks at memory
 * only: what the kernel counts as resident (smaps_rollup), at 64 moments of the trace and at the
 * peak of its live bytes, beyond what there was before the first operation.
 *
 * Each replay is a process of its own, this command executed anew, for the reasons of worker.c: it begins with a heap that nobody
 * used, and the malloc library under test can be preloaded. The operations travel as a file without a name,
 * the task and its result in a page of shared memory.
 *
 * How a change is replayed (lab_trial_change):
 *   REMOVE          the site's operations are gone
 *   ARENA           a fh_arena serves the site's blocks. Its frees only count; when none of its blocks is live, it is
 *                   reset: what a program does that resets at the end of each phase, and no earlier than it could
 *   POOL            a fh_pool does; larger blocks of the site stay malloc's
 *   RESERVE, DOUBLE the first size is raised, and resizes within it are gone
 *   LAST            the first size is the last one, and resizes are gone
 *   SIZE            one size is replaced by another
 */
#include "trial.h"

#include "contest.h"
#include "loop.h"

#include "freehold/arena.h"
#include "freehold/pool.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
    MOMENTS = 64,
    JOB_FD = 3,
    OPS_FD = 4,
    FEW_ROUNDS = 5,
    BEYOND_BELIEF =
        10, /* times what the changed calls cost at the mean: that is the machine's doing */
    NOISE_PERCENT = 1, /* of time: what replays of one program differ by on a quiet machine */
    NOISE_BYTES = 200, /* parts of memory */
    NOISE_PAGES = 4,
};

struct trial_job {
    uint64_t ops, slots, peak_op;
    enum lab_change change;
    uint64_t size; /* of the pool's blocks */
    bool wants_memory;
    /* The worker's answer: */
    bool is_done;
    uint64_t cpu_ns, peak_bytes;
};

/* ---- The changed trace ---- */

struct changer {
    const struct lab_finding *finding;
    const bool *is_meant;    /* by site */
    uint64_t *room;          /* by slot: bytes that the block was given, of RESERVE and DOUBLE */
    uint32_t *allocation_of; /* by slot */
};

static uint64_t next_power(uint64_t size)
{
    return size <= 16 ? 16 : (uint64_t)1 << (64 - __builtin_clzll(size - 1));
}

static uint64_t first_room(const struct lab_finding *finding,
                           const struct lab_allocation *allocation, uint64_t size)
{
    switch (finding->change) {
    case LAB_CHANGE_RESERVE:
        /* Blocks that never grow get what they asked for: their caller knows. */
        return allocation->most > size && finding->size > size ? finding->size : size;
    case LAB_CHANGE_DOUBLE:
        return allocation->most > size ? next_power(size) : size;
    case LAB_CHANGE_LAST:
        return allocation->last < allocation->most ? allocation->last : size;
    case LAB_CHANGE_SIZE:
        return size == finding->from ? finding->size : size;
    default:
        return size;
    }
}

/* A resize of a block whose room was chosen by the change. */
static void change_resize(const struct changer *changer, const struct lab_allocation *allocation,
                          struct lab_op *op)
{
    uint64_t *room = &changer->room[op->slot];
    switch (changer->finding->change) {
    case LAB_CHANGE_RESERVE:
    case LAB_CHANGE_DOUBLE:
        if (op->size <= *room) {
            op->kind = LAB_GONE;
            return;
        }
        *room = changer->finding->change == LAB_CHANGE_DOUBLE ? next_power(op->size) : op->size;
        op->size = *room;
        return;
    case LAB_CHANGE_LAST:
        op->kind = allocation->last < allocation->most ? LAB_GONE : op->kind;
        return;
    default:
        return;
    }
}

static void change_op(const struct changer *changer, const struct lab_allocation *allocation,
                      struct lab_op *op)
{
    const enum lab_change change = changer->finding->change;
    if (change == LAB_CHANGE_REMOVE) {
        op->kind = LAB_GONE;
    } else if (change == LAB_CHANGE_ARENA || change == LAB_CHANGE_POOL) {
        op->thread = 1;
    } else if (op->kind == LAB_ALLOC) {
        op->size = first_room(changer->finding, allocation, op->size);
        changer->room[op->slot] = op->size;
    } else if (op->kind == LAB_RESIZE) {
        change_resize(changer, allocation, op);
    }
}

bool lab_trial_change(const struct lab_sites *sites, const struct lab_finding *finding,
                      struct lab_op *ops)
{
    bool *is_meant = calloc(sites->count + 1, sizeof(bool));
    uint64_t *room = calloc((size_t)sites->slots + 1, sizeof(uint64_t));
    uint32_t *allocation_of = calloc((size_t)sites->slots + 1, sizeof(uint32_t));
    const bool has_memory = is_meant != NULL && room != NULL && allocation_of != NULL;
    if (has_memory) {
        const struct changer changer = {finding, is_meant, room, allocation_of};
        uint32_t next = 0;
        for (size_t i = 0; i < finding->site_count; i++) {
            is_meant[finding->sites[i]] = true;
        }
        memcpy(ops, sites->ops, sites->op_count * sizeof(struct lab_op));
        for (size_t i = 0; i < sites->op_count; i++) {
            if (ops[i].kind == LAB_ALLOC) {
                allocation_of[ops[i].slot] = next++;
            }
            const struct lab_allocation *allocation =
                &sites->allocations[allocation_of[ops[i].slot]];
            if (is_meant[allocation->site]) {
                change_op(&changer, allocation, &ops[i]);
            }
        }
    }
    free(is_meant);
    free(room);
    free(allocation_of);
    return has_memory;
}

/* ---- The worker ---- */

struct slot {
    unsigned char *block; /* NULL: empty, or refused */
    uint64_t size;
    bool is_part; /* of the arena or pool */
};

struct worker {
    struct trial_job *job;
    const struct lab_op *ops;
    struct slot *slots;
    size_t page;
    size_t live_parts;
    struct fh_arena arena;
    struct fh_pool pool;
};

/* `change` is a constant where this is instantiated: a replay pays for one kind of part. */
LAB_INLINE void *part_alloc(struct worker *worker, enum lab_change change, size_t size,
                            size_t align, bool is_zeroed)
{
    if (change == LAB_CHANGE_ARENA) {
        void *block = align != 0 ? fh_arena_alloc_with(&worker->arena, size, align, 0)
                                 : fh_arena_alloc(&worker->arena, size);
        return is_zeroed && block != NULL ? memset(block, 0, size) : block;
    }
    void *block = fh_pool_alloc(&worker->pool);
    return is_zeroed && block != NULL ? memset(block, 0, size) : block;
}

LAB_INLINE void *own_alloc(size_t size, size_t align, bool is_zeroed)
{
    void *block = NULL;
    if (align == 0) {
        return is_zeroed ? calloc(1, size) : malloc(size);
    }
    if (posix_memalign(&block, align, size) != 0) {
        return NULL;
    }
    return is_zeroed ? memset(block, 0, size) : block;
}

LAB_INLINE void free_slot(struct worker *worker, enum lab_change change, struct slot *slot)
{
    if (change == LAB_CHANGE_NOTHING || !slot->is_part) {
        free(slot->block);
    } else if (change == LAB_CHANGE_POOL) {
        fh_pool_free(&worker->pool, slot->block);
    } else if (--worker->live_parts == 0) {
        fh_arena_reset(&worker->arena);
    }
    slot->block = NULL;
}

LAB_INLINE void alloc_slot(struct worker *worker, enum lab_change change, const struct lab_op *op,
                           struct slot *slot)
{
    const unsigned log = op->alignment & LAB_ALIGN_MASK;
    const size_t align = log == 0 ? 0 : (size_t)1 << log;
    const bool is_zeroed = (op->alignment & LAB_ZEROED) != 0;
    const bool is_part =
        change != LAB_CHANGE_NOTHING && op->thread != 0 &&
        (change != LAB_CHANGE_POOL || (op->size <= worker->job->size && align == 0));
    slot->block = is_part ? part_alloc(worker, change, op->size, align, is_zeroed)
                          : own_alloc(op->size, align, is_zeroed);
    slot->size = op->size;
    slot->is_part = is_part;
    if (change == LAB_CHANGE_ARENA && is_part) {
        worker->live_parts += slot->block != NULL;
    }
    if (slot->block != NULL) {
        lab_touch(slot->block, 0, op->size, worker->page);
    }
}

/* A pool's block that outgrows the pool becomes malloc's. */
static void *leave_pool(struct worker *worker, struct slot *slot, size_t size)
{
    void *block = malloc(size);
    if (block != NULL) {
        memcpy(block, slot->block, slot->size);
        fh_pool_free(&worker->pool, slot->block);
        slot->is_part = false;
    }
    return block;
}

LAB_INLINE void resize_slot(struct worker *worker, enum lab_change change, const struct lab_op *op,
                            struct slot *slot)
{
    const size_t size = op->size > 0 ? op->size : 1;
    void *block;
    if (slot->block == NULL) {
        alloc_slot(worker, change, op, slot);
        return;
    }
    if (change == LAB_CHANGE_NOTHING || !slot->is_part) {
        block = realloc(slot->block, size);
    } else if (change == LAB_CHANGE_ARENA) {
        block = fh_arena_resize(&worker->arena, slot->block, slot->size, size, 0);
    } else {
        block = size <= worker->job->size ? slot->block : leave_pool(worker, slot, size);
    }
    if (block != NULL) {
        slot->block = block;
        lab_touch(slot->block, slot->size, op->size, worker->page);
        slot->size = op->size;
    }
}

LAB_INLINE void replay(struct worker *worker, enum lab_change change, size_t begin, size_t end)
{
    for (size_t i = begin; i < end; i++) {
        const struct lab_op *op = &worker->ops[i];
        struct slot *slot = &worker->slots[op->slot];
        if (op->kind == LAB_ALLOC) {
            alloc_slot(worker, change, op, slot);
        } else if (op->kind == LAB_RESIZE) {
            resize_slot(worker, change, op, slot);
        } else if (op->kind == LAB_FREE && slot->block != NULL) {
            free_slot(worker, change, slot);
        }
    }
}

static __attribute__((noinline)) void replay_plain(struct worker *worker, size_t begin, size_t end)
{
    replay(worker, LAB_CHANGE_NOTHING, begin, end);
}

static __attribute__((noinline)) void replay_arena(struct worker *worker, size_t begin, size_t end)
{
    replay(worker, LAB_CHANGE_ARENA, begin, end);
}

static __attribute__((noinline)) void replay_pool(struct worker *worker, size_t begin, size_t end)
{
    replay(worker, LAB_CHANGE_POOL, begin, end);
}

static void replay_part(struct worker *worker, size_t begin, size_t end)
{
    if (worker->job->change == LAB_CHANGE_ARENA) {
        replay_arena(worker, begin, end);
    } else if (worker->job->change == LAB_CHANGE_POOL) {
        replay_pool(worker, begin, end);
    } else {
        replay_plain(worker, begin, end);
    }
}

/* Bytes; no allocation, since the heap is what is looked at. */
static uint64_t resident_now(void)
{
    char text[4096];
    const int fd = open("/proc/self/smaps_rollup", O_RDONLY | O_CLOEXEC);
    const ssize_t len = fd >= 0 ? read(fd, text, sizeof(text) - 1) : -1;
    if (fd >= 0) {
        close(fd);
    }
    text[len > 0 ? len : 0] = '\0';
    const char *line = strstr(text, "\nPss:");
    return line != NULL ? strtoull(line + 5, NULL, 10) << 10 : 0;
}

static uint64_t processor_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (uint64_t)now.tv_sec * 1000000000U + (uint64_t)now.tv_nsec;
}

static void look_at_memory(struct worker *worker)
{
    struct trial_job *job = worker->job;
    resident_now(); /* its own pages come first */
    const uint64_t before = resident_now();
    uint64_t most = before;
    size_t done = 0;
    for (size_t moment = 1; moment <= MOMENTS; moment++) {
        const size_t next = job->ops / MOMENTS * moment + job->ops % MOMENTS * moment / MOMENTS;
        if (job->peak_op >= done && job->peak_op < next) {
            replay_part(worker, done, job->peak_op + 1);
            done = job->peak_op + 1;
            const uint64_t now = resident_now();
            most = now > most ? now : most;
        }
        replay_part(worker, done, next);
        done = next;
        const uint64_t now = resident_now();
        most = now > most ? now : most;
    }
    job->peak_bytes = most - before;
}

/* The parts are the place's of a system source, as a program would open them. */
static bool open_part(struct worker *worker)
{
    if (worker->job->change == LAB_CHANGE_ARENA) {
        return fh_arena_init(&worker->arena, NULL) == 0;
    }
    return worker->job->change != LAB_CHANGE_POOL ||
           fh_pool_init(&worker->pool, &(struct fh_pool_options){
                                           .size = worker->job->size,
                                           .align = worker->job->size % 16 == 0 ? 16 : 8}) == 0;
}

int lab_trial_worker(void)
{
    static struct worker worker;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    worker.job = mmap(NULL, sizeof(struct trial_job), PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_POPULATE, JOB_FD, 0);
    if (worker.job == MAP_FAILED) {
        return 1;
    }
    worker.page = (size_t)sysconf(_SC_PAGESIZE);
    worker.slots = mmap(NULL, (worker.job->slots + 1) * sizeof(struct slot), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    worker.ops = mmap(NULL, (worker.job->ops + 1) * sizeof(struct lab_op), PROT_READ,
                      MAP_SHARED | MAP_POPULATE, OPS_FD, 0);
    if (worker.slots == MAP_FAILED || worker.ops == MAP_FAILED || !open_part(&worker)) {
        return 1;
    }
    if (worker.job->wants_memory) {
        look_at_memory(&worker);
    } else {
        const uint64_t begin = processor_ns();
        replay_part(&worker, 0, worker.job->ops);
        worker.job->cpu_ns = processor_ns() - begin;
    }
    worker.job->is_done = true;
    return 0;
}

/* ---- The command's side ---- */

static _Noreturn void become_worker(int job, int ops, const char *library)
{
    char *const argv[] = {LAB_TRIAL_NAME, NULL};
    job = fcntl(job, F_DUPFD_CLOEXEC, OPS_FD + 1);
    ops = fcntl(ops, F_DUPFD_CLOEXEC, OPS_FD + 1);
    const bool is_set =
        library[0] == '\0' ? unsetenv("LD_PRELOAD") == 0 : setenv("LD_PRELOAD", library, 1) == 0;
    if (is_set && dup2(job, JOB_FD) >= 0 && dup2(ops, OPS_FD) >= 0) {
        execv("/proc/self/exe", argv);
    }
    _exit(127);
}

/* One replay; 0 or a negative errno. */
static int run_worker(struct trial_job *job, int ops, const char *library)
{
    const int fd = memfd_create("freehold-trial", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, sizeof(*job)) != 0 ||
        pwrite(fd, job, sizeof(*job), 0) != (ssize_t)sizeof(*job)) {
        const int error = -errno;
        if (fd >= 0) {
            close(fd);
        }
        return error;
    }
    const pid_t pid = fork();
    if (pid == 0) {
        become_worker(fd, ops, library);
    }
    int error = pid < 0 ? -errno : 0;
    int status = 0;
    while (error == 0 && waitpid(pid, &status, 0) < 0) {
        error = errno == EINTR ? 0 : -errno;
    }
    if (error == 0 && pread(fd, job, sizeof(*job), 0) != (ssize_t)sizeof(*job)) {
        error = -EIO;
    }
    close(fd);
    return error != 0 ? error : job->is_done ? 0 : -ECHILD;
}

/* A file without a name that holds the operations; *ops is mapped, for writing. Its descriptor, or a negative errno. */
static int make_ops(size_t count, struct lab_op **ops)
{
    const size_t bytes = (count + 1) * sizeof(struct lab_op);
    const int fd = memfd_create("freehold-operations", MFD_CLOEXEC);
    if (fd < 0) {
        return -errno;
    }
    *ops = MAP_FAILED;
    if (ftruncate(fd, (off_t)bytes) == 0) {
        *ops = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    }
    if (*ops == MAP_FAILED) {
        const int error = -errno;
        close(fd);
        return error;
    }
    return fd;
}

struct both {
    struct trial_job job[2]; /* without the change, with it */
    int ops[2];
    const char *library;
};

static int ascending(const void *a, const void *b)
{
    const double one = *(const double *)a;
    const double other = *(const double *)b;
    return (one > other) - (one < other);
}

/* Between the two nearest values. */
static double quantile(const double *sorted, unsigned count, double share)
{
    const double at = share * (count - 1);
    const unsigned low = (unsigned)at;
    const unsigned high = low + 1 < count ? low + 1 : low;
    return sorted[low] + (at - low) * (sorted[high] - sorted[low]);
}

/* What the change is about, of all calls or of all bytes: the larger share. A resize may copy, and cost like thousands. */
static double share_of(const struct lab_sites *sites, const struct lab_finding *finding)
{
    double calls = 0;
    double bytes = 0;
    for (size_t i = 0; i < finding->site_count; i++) {
        const struct lab_site *site = &sites->site[finding->sites[i]];
        calls += (double)(site->count + site->frees);
        bytes += (double)site->bytes;
        if (site->grows > 0) {
            return 1;
        }
    }
    return fmax(calls / (double)sites->op_count,
                sites->totals.bytes > 0 ? bytes / (double)sites->totals.bytes : 0);
}

static void judge(struct lab_trial *trial, double *before, double *after, double *saved,
                  size_t page, double part)
{
    const unsigned count = trial->rounds;
    qsort(before, count, sizeof(double), ascending);
    qsort(after, count, sizeof(double), ascending);
    qsort(saved, count, sizeof(double), ascending);
    trial->before_ns = quantile(before, count, 0.5);
    trial->after_ns = quantile(after, count, 0.5);
    trial->saved_ns = quantile(saved, count, 0.5);
    /* Of few rounds the quartiles are guesses: then all of them have to agree. */
    const double spread = count < FEW_ROUNDS
                              ? saved[count - 1] - saved[0]
                              : quantile(saved, count, 0.75) - quantile(saved, count, 0.25);
    trial->noise_ns = fmax(spread, trial->before_ns * NOISE_PERCENT / 100);
    trial->is_time_noise = fabs(trial->saved_ns) <= trial->noise_ns ||
                           fabs(trial->saved_ns) > BEYOND_BELIEF * part * trial->before_ns;
    trial->saved_bytes = (int64_t)trial->before_bytes - (int64_t)trial->after_bytes;
    const double difference = fabs((double)trial->saved_bytes);
    trial->is_bytes_noise = difference <= (double)trial->before_bytes / NOISE_BYTES ||
                            difference <= (double)(NOISE_PAGES * page);
}

static int replay_both(struct both *both, struct lab_trial *trial, unsigned rounds, double part,
                       void (*tick)(void *context), void *context)
{
    double before[LAB_MOST_TRIALS];
    double after[LAB_MOST_TRIALS];
    double saved[LAB_MOST_TRIALS];
    for (unsigned pass = 0; pass <= rounds; pass++) {
        const bool is_memory = pass == rounds;
        for (unsigned turn = 0; turn < 2; turn++) {
            const unsigned which = (pass + turn) % 2;
            if (tick != NULL) {
                tick(context);
            }
            both->job[which].is_done = false;
            both->job[which].wants_memory = is_memory;
            const int error = run_worker(&both->job[which], both->ops[which], both->library);
            if (error != 0) {
                return error;
            }
        }
        if (!is_memory) {
            before[pass] = (double)both->job[0].cpu_ns;
            after[pass] = (double)both->job[1].cpu_ns;
            saved[pass] = before[pass] - after[pass];
        }
    }
    trial->rounds = rounds;
    trial->before_bytes = both->job[0].peak_bytes;
    trial->after_bytes = both->job[1].peak_bytes;
    judge(trial, before, after, saved, (size_t)sysconf(_SC_PAGESIZE), part);
    return 0;
}

void lab_trial_run(struct lab_trial *trial, const struct lab_sites *sites,
                   const struct lab_finding *finding, unsigned rounds, const char *library,
                   void (*tick)(void *context), void *context)
{
    const size_t bytes = (sites->op_count + 1) * sizeof(struct lab_op);
    struct lab_op *plain = NULL;
    struct lab_op *changed = NULL;
    struct both both = {.library = library};
    *trial = (struct lab_trial){0};
    both.ops[0] = make_ops(sites->op_count, &plain);
    both.ops[1] = make_ops(sites->op_count, &changed);
    trial->error = both.ops[0] < 0 ? both.ops[0] : both.ops[1] < 0 ? both.ops[1] : 0;
    if (trial->error == 0 && !lab_trial_change(sites, finding, changed)) {
        trial->error = -ENOMEM;
    }
    if (trial->error == 0) {
        memcpy(plain, sites->ops, sites->op_count * sizeof(struct lab_op));
        both.job[0] = (struct trial_job){
            .ops = sites->op_count, .slots = sites->slots, .peak_op = sites->peak_op};
        both.job[1] = both.job[0];
        both.job[1].change = finding->change;
        both.job[1].size = finding->size;
        trial->error = replay_both(&both, trial, rounds, share_of(sites, finding), tick, context);
    }
    for (unsigned i = 0; i < 2; i++) {
        struct lab_op *ops = i == 0 ? plain : changed;
        if (both.ops[i] >= 0) {
            munmap(ops, bytes);
            close(both.ops[i]);
        }
    }
}
