/*
 * The contest: which passes run, in which order.
 *
 * Rounds are interleaved: each round times every allocator once, the replay itself without an
 * allocator first, and starts one further in the list than the round before, so that what else the
 * machine does meets all alike. Figures are medians over the rounds with the distance of the
 * quartiles. Memory is the same in each round and is looked at once, in a pass of its own.
 *
 * A worker is this very program, executed anew with the name that says so, and with the job, the
 * operations and the file of latencies at fixed descriptors. LD_PRELOAD is the library under test
 * and nothing else. An allocator that failed once takes no further part.
 */
#include "contest.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    /* Room that managers with freeing get, in multiples of the live peak. Robson's bound for
     * requests of up to n bytes is higher for every policy; recorded programs stay below 2
     * (Johnstone and Wilson 1998), and buddy systems may double. */
    ROOM = 8,
    PER_BLOCK = 64, /* of bookkeeping and alignment, generously */
};
/* Beside it: what chunks and tables of a manager take before the first block. More would show as bookkeeping in those
 * that keep a bit for each granule of their range. */
static const uint64_t least_room = (uint64_t)4 << 20;

uint64_t lab_available_memory(void)
{
    char line[128];
    unsigned long long kib = 0;
    FILE *file = fopen("/proc/meminfo", "re");
    while (file != NULL && fgets(line, sizeof(line), file) != NULL) {
        if (sscanf(line, "MemAvailable: %llu kB", &kib) == 1) {
            break;
        }
    }
    if (file != NULL) {
        fclose(file);
    }
    const uint64_t bytes = kib > 0 ? (uint64_t)kib << 10 : (uint64_t)1 << 30;
    return bytes / 4 * 3;
}

/* ---- One worker ---- */

/* To `number`, open across exec. */
static bool give(int fd, int number)
{
    return fd == number ? fcntl(fd, F_SETFD, 0) == 0 : dup2(fd, number) >= 0;
}

static _Noreturn void become_worker(int job, int program, int latencies, const char *library)
{
    char *const argv[] = {LAB_WORKER_NAME, NULL};
    /* First out of the way of the fixed numbers. */
    job = fcntl(job, F_DUPFD_CLOEXEC, LAB_LATENCY_FD + 1);
    program = fcntl(program, F_DUPFD_CLOEXEC, LAB_LATENCY_FD + 1);
    if (latencies >= 0) {
        latencies = fcntl(latencies, F_DUPFD_CLOEXEC, LAB_LATENCY_FD + 1);
    }
    const bool is_given = give(job, LAB_JOB_FD) && give(program, LAB_PROGRAM_FD) &&
                          (latencies < 0 || give(latencies, LAB_LATENCY_FD));
    const bool is_set =
        library[0] == '\0' ? unsetenv("LD_PRELOAD") == 0 : setenv("LD_PRELOAD", library, 1) == 0;
    if (is_given && is_set) {
        execv("/proc/self/exe", argv);
    }
    _exit(127);
}

/* One pass; 0, or a negative errno when there was no worker. */
static int run_worker(const struct lab_task *task, int latencies, struct lab_result *result)
{
    const int fd = memfd_create("freehold-replay", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, sizeof(struct lab_job)) != 0) {
        return -errno;
    }
    struct lab_job *job = mmap(NULL, sizeof(*job), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (job == MAP_FAILED) {
        const int error = errno;
        close(fd);
        return -error;
    }
    job->task = *task;
    const pid_t pid = fork();
    if (pid == 0) {
        become_worker(fd, task->program.fd, latencies, task->library);
    }
    int error = pid < 0 ? -errno : 0;
    int status = 0;
    while (error == 0 && waitpid(pid, &status, 0) < 0) {
        error = errno == EINTR ? 0 : -errno;
    }
    if (error == 0) {
        job->result.wait_status = status;
        *result = job->result;
    }
    munmap(job, sizeof(*job));
    close(fd);
    /* 127 is nobody's status but become_worker's. */
    return error == 0 && WIFEXITED(status) && WEXITSTATUS(status) == 127 ? -ENOEXEC : error;
}

static uint64_t room_of(const struct lab_contest *contest, const struct lab_manager *manager)
{
    const struct lab_program_facts *facts = &contest->program->facts;
    uint64_t room = ROOM * facts->peak_live_bytes + PER_BLOCK * facts->slots + least_room;
    if (manager != NULL && (manager->traits & LAB_KEEPS_ALL) != 0) {
        room = facts->total_bytes + facts->total_bytes / 4 +
               PER_BLOCK * (facts->allocs + facts->resizes) + least_room;
    }
    room = room < contest->available ? room : contest->available;
    return manager != NULL && manager->most != 0 && room > manager->most ? manager->most : room;
}

/* Notes what went wrong, if anything. */
static int run_pass(struct lab_contest *contest, struct lab_contestant *who, enum lab_pass pass,
                    int latencies, struct lab_result *result)
{
    struct lab_task task = {.pass = pass, .program = *contest->program};
    const char *manager = who == &contest->loop  ? "none"
                          : who->manager != NULL ? who->manager->name
                                                 : "";
    snprintf(task.manager, sizeof(task.manager), "%s", manager);
    snprintf(task.library, sizeof(task.library), "%s", who->library);
    snprintf(task.map, sizeof(task.map), "%s", who->map);
    snprintf(task.map_title, sizeof(task.map_title), "%s: %s", who->name,
             contest->title != NULL ? contest->title : "");
    task.capacity = room_of(contest, who->manager);
    const int error = run_worker(&task, latencies, result);
    if (error == 0 && result->state != LAB_DONE) {
        who->state = result->state;
        who->failure = *result;
    }
    return error;
}

static bool is_in_the_running(const struct lab_contestant *who)
{
    return !who->is_missing && who->state == LAB_DONE;
}

/* ---- Latencies ---- */

static int by_value(const void *a, const void *b)
{
    const uint32_t x = *(const uint32_t *)a;
    const uint32_t y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static double at_share(const uint32_t *sorted, uint64_t count, double share, double ticks_per_ns)
{
    const uint64_t index = (uint64_t)(share * (double)(count - 1) + 0.5);
    return (double)sorted[index] / ticks_per_ns;
}

static void summarise(struct lab_latencies *out, uint32_t *ticks, uint64_t count,
                      double ticks_per_ns)
{
    if (count == 0) {
        return;
    }
    qsort(ticks, count, sizeof(*ticks), by_value);
    out->p50 = at_share(ticks, count, 0.5, ticks_per_ns);
    out->p99 = at_share(ticks, count, 0.99, ticks_per_ns);
    out->p9999 = at_share(ticks, count, 0.9999, ticks_per_ns);
    out->worst = at_share(ticks, count, 1, ticks_per_ns);
}

/* Divides the operations' latencies by kind. 0 or a negative errno. */
static int divide_latencies(const struct lab_program *program, struct lab_contestant *who,
                            const uint32_t *latencies, double ticks_per_ns)
{
    const uint64_t ops = program->facts.ops;
    const struct lab_op *op = mmap(NULL, ops * sizeof(*op), PROT_READ, MAP_SHARED, program->fd, 0);
    uint32_t *of_allocs = malloc(ops * sizeof(*of_allocs));
    uint32_t *of_frees = malloc(ops * sizeof(*of_frees));
    int error = 0;
    if (op == MAP_FAILED || of_allocs == NULL || of_frees == NULL) {
        error = -ENOMEM;
    } else {
        uint64_t allocs = 0;
        uint64_t frees = 0;
        for (uint64_t i = 0; i < ops; i++) {
            if (latencies[i] == 0) {
                continue; /* the free of a block that was refused */
            }
            if (op[i].kind == LAB_FREE) {
                of_frees[frees++] = latencies[i];
            } else {
                of_allocs[allocs++] = latencies[i];
            }
        }
        summarise(&who->alloc_latency, of_allocs, allocs, ticks_per_ns);
        summarise(&who->free_latency, of_frees, frees, ticks_per_ns);
    }
    free(of_allocs);
    free(of_frees);
    if (op != MAP_FAILED) {
        munmap((void *)(uintptr_t)op, ops * sizeof(*op));
    }
    return error;
}

static int measure_latencies(struct lab_contest *contest, struct lab_contestant *who)
{
    const size_t bytes = contest->program->facts.ops * sizeof(uint32_t);
    const int fd = memfd_create("freehold-latencies", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, (off_t)bytes) != 0) {
        return -errno;
    }
    struct lab_result result = {.state = LAB_DONE};
    int error = 0;
    for (unsigned i = 0; i < contest->rounds && error == 0 && is_in_the_running(who); i++) {
        error = run_pass(contest, who, LAB_PASS_LATENCY, fd, &result);
    }
    if (error == 0 && is_in_the_running(who)) {
        uint32_t *latencies = mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0);
        error = latencies == MAP_FAILED
                    ? -errno
                    : divide_latencies(contest->program, who, latencies, result.ticks_per_ns);
        if (latencies != MAP_FAILED) {
            munmap(latencies, bytes);
        }
    }
    close(fd);
    return error;
}

/* ---- Rounds ---- */

static int time_once(struct lab_contest *contest, struct lab_contestant *who)
{
    struct lab_result result;
    const int error = run_pass(contest, who, LAB_PASS_TIME, -1, &result);
    if (error == 0 && is_in_the_running(who)) {
        who->wall_ns[who->rounds] = result.wall_ns;
        who->cpu_ns[who->rounds++] = result.cpu_ns;
    }
    return error;
}

static int search_minimum(struct lab_contest *contest, struct lab_contestant *who)
{
    struct lab_result result;
    const int error = run_pass(contest, who, LAB_PASS_MINIMUM, -1, &result);
    if (error == 0 && is_in_the_running(who)) {
        who->minimum = result.minimum;
        who->minimum_replays = (unsigned)result.progress;
    }
    return error;
}

static int draw_map(struct lab_contest *contest, struct lab_contestant *who)
{
    struct lab_result result;
    const int error = run_pass(contest, who, LAB_PASS_MAP, -1, &result);
    if (error == 0 && result.state == LAB_NO_MAP) {
        /* The figures are good all the same. */
        who->map_error = result.error;
        who->state = LAB_DONE;
    }
    return error;
}

static bool has_minimum(const struct lab_contestant *who)
{
    return who->manager != NULL && (who->manager->traits & LAB_CONTIGUOUS) != 0;
}

struct progress {
    unsigned done, total;
};

static void tick(const struct lab_contest *contest, struct progress *progress, const char *name)
{
    if (contest->tick != NULL) {
        contest->tick(contest->context, progress->done, progress->total, name);
    }
    progress->done++;
}

/* How often tick() will be called when nobody fails. */
static unsigned count_passes(const struct lab_contest *contest)
{
    unsigned passes = contest->rounds;
    for (size_t i = 0; i < contest->count; i++) {
        const struct lab_contestant *who = &contest->contestants[i];
        if (is_in_the_running(who)) {
            passes += 1 + contest->rounds + contest->wants_latency + (who->map[0] != '\0') +
                      (contest->wants_minimum && has_minimum(who));
        }
    }
    return passes;
}

static int run_rounds(struct lab_contest *contest, struct progress *progress)
{
    int error = 0;
    for (unsigned round = 0; round < contest->rounds && error == 0; round++) {
        tick(contest, progress, contest->loop.name);
        error = time_once(contest, &contest->loop);
        for (size_t i = 0; i < contest->count && error == 0; i++) {
            struct lab_contestant *who = &contest->contestants[(i + round) % contest->count];
            if (is_in_the_running(who)) {
                tick(contest, progress, who->name);
                error = time_once(contest, who);
            }
        }
    }
    return error;
}

/* What is measured only if it is asked for. */
static int run_extras(struct lab_contest *contest, struct lab_contestant *who,
                      struct progress *progress)
{
    int error = 0;
    if (contest->wants_latency && is_in_the_running(who)) {
        tick(contest, progress, who->name);
        error = measure_latencies(contest, who);
    }
    if (error == 0 && contest->wants_minimum && is_in_the_running(who) && has_minimum(who)) {
        tick(contest, progress, who->name);
        error = search_minimum(contest, who);
    }
    if (error == 0 && who->map[0] != '\0' && is_in_the_running(who)) {
        tick(contest, progress, who->name);
        error = draw_map(contest, who);
    }
    return error;
}

int lab_contest_run(struct lab_contest *contest)
{
    contest->loop = (struct lab_contestant){.name = "(loop)", .state = LAB_DONE};
    for (size_t i = 0; i < contest->count; i++) {
        contest->contestants[i].state = LAB_DONE;
    }
    struct progress progress = {0, count_passes(contest)};
    int error = 0;
    /* Memory first: who fails here is not timed, and the program's pages are in memory then. */
    for (size_t i = 0; i < contest->count && error == 0; i++) {
        struct lab_contestant *who = &contest->contestants[i];
        if (is_in_the_running(who)) {
            tick(contest, &progress, who->name);
            error = run_pass(contest, who, LAB_PASS_MEMORY, -1, &who->memory);
        }
    }
    if (error == 0) {
        error = run_rounds(contest, &progress);
    }
    if (error == 0 && contest->wants_latency) {
        error = measure_latencies(contest, &contest->loop);
    }
    for (size_t i = 0; i < contest->count && error == 0; i++) {
        error = run_extras(contest, &contest->contestants[i], &progress);
    }
    return error;
}

/* ---- Statistics ---- */

static int by_size(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a;
    const uint64_t y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* Between the values around the place, linearly. */
static double quantile(const uint64_t *values, unsigned count, double share)
{
    uint64_t sorted[LAB_MOST_ROUNDS];
    if (count == 0 || count > LAB_MOST_ROUNDS) {
        return 0;
    }
    memcpy(sorted, values, count * sizeof(*values));
    qsort(sorted, count, sizeof(*sorted), by_size);
    const double place = share * (count - 1);
    const unsigned below = (unsigned)place;
    const unsigned next = below + 1 < count ? below + 1 : below;
    const double part = place - below;
    return (double)sorted[below] * (1 - part) + (double)sorted[next] * part;
}

double lab_median(const uint64_t *values, unsigned count)
{
    return quantile(values, count, 0.5);
}

double lab_quartile_distance(const uint64_t *values, unsigned count)
{
    return quantile(values, count, 0.75) - quantile(values, count, 0.25);
}
