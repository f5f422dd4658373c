/*
 * Reports of memory errors: one at a time, from any place, in a process that may be in ruins.
 *
 *     freehold: ERROR: heap-use-after-free on address 0x7f… at pc 0x55… bp 0x7f… sp 0x7f…
 *     READ of size 4 at 0x7f… thread 4711
 *         #0 0x55… in parse_line+0x1f (/usr/bin/program+0x1234)
 *     …
 *
 * The shape is AddressSanitizer's, which people and tools know; the words are report_text.c's, the same for
 * programs report_json.c's. This file is about when and where they are written, and what happens then.
 *
 * Whoever reports may hold any of our locks, stand in a signal handler, or have no stack left. So:
 *   - nothing here allocates or takes a lock of the heap; blocks are looked up by what is marked lock-free in guard.h,
 *     metadata lie out of line, and no pointer that came out of a block is followed;
 *   - all but the beginning and the end runs on a stack of its own, of which there is one: `lock` is held for
 *     the time. The end (abort) runs on the thread's stack again, so that a core dump shows how the program got there;
 *   - another thread waits for the lock for at most LIMIT_NS, then says its first line and does what on_error says.
 *     A report can hang only where it reads the program's files;
 *   - asynchronous signals are blocked for the time: a handler of the program's that allocates or jumps away would
 *     leave the lock behind;
 *   - a fault of this code itself (SIGSEGV or SIGBUS on the reporting thread, or a report within the report) ends in
 *     one line and the end of the process. Who catches it is fault.c when it has been started, else this file for the
 *     time of the report; a fault of another thread meanwhile finds what the program had.
 *
 * What happens then is the setting on_error: abort (default; before the end the process's record is
 * written), exit with a status, or go on. For those who go on an error is told once for each place, which is the kind and
 * the stacks, and TOLD_MOST in all: a loop of a thousand errors is not a log of a thousand reports. The rest is
 * counted, and the count told at the process's end. A setting that is changed while running begins the counts anew.
 *
 * #0 is who called malloc or free, or the instruction that faulted. Frames of our libraries are left out, by their
 * modules; in a static program, where all is one module, by the names of the interface's functions.
 */
#include "guard/report.h"

#include "base/core/bits.h"
#include "base/message.h"
#include "guard/fault.h"
#include "guard/report_stack.h"
#include "heap/heap.h"
#include "os/mem.h"
#include "os/sys.h"
#include "stack/stack.h"

#include <errno.h>
#include <signal.h>
#include <string.h>

#define LIMIT_NS ((uint64_t)1000000000) /* a report takes milliseconds */

enum {
    FAULTS = 2,
    OWN_FRAMES = 12,   /* our deepest call path is shorter */
    TOLD_MOST = 100,   /* reports of one process: more are not read */
    PLACES_MOST = 256, /* that are remembered; suppressed ones too */
    /* The deepest call, the search for a symbol, takes 5 KiB. */
    STACK_BYTES = 64 << 10,
};

static const int fault_signals[FAULTS] = {SIGSEGV, SIGBUS};

/* Where an error was found before. */
struct place {
    uint64_t key;    /* of kind and stacks */
    int suppression; /* that covers it; -1: none, so it was told */
};

static struct {
    struct fh_lock lock;
    _Atomic int reporter; /* thread id while its report is under way; else 0 */
    int pid;              /* whose lock it is: a forked child's is free */
    uintptr_t stack_top;  /* 0: none could be had yet */
    struct sigaction before[FAULTS];
    struct fh_report now;
    uint32_t settings_seen; /* generation under which the places were found */
    size_t places_len;
    struct place places[PLACES_MOST];
    size_t told;
    uint64_t repeated; /* errors at places that were told */
    uint64_t beyond;   /* errors at new places when enough was told */
} reports = {.lock = FH_LOCK_INIT};

/* ---- The end ----------------------------------------------------------------------------------------- */

static int on_error(void)
{
    return atomic_load_explicit(&fh_root.settings.on_error, memory_order_relaxed);
}

static _Noreturn void end(void)
{
    if (on_error() == FH_ERROR_EXIT)
        fh_os_exit(atomic_load_explicit(&fh_root.settings.exit_status, memory_order_relaxed));
    fh_os_abort();
}

/* Of a process that is about to end. */
static void write_record(void)
{
    if (on_error() == FH_ERROR_CONTINUE || fh_root.entry.write_record == NULL)
        return;
    struct fh_heap *mine = fh_heap_current;
    /* Our own slow path found the error and holds the heap's lock; it will not go on. */
    if (mine != &fh_heap_none && atomic_load_explicit(&mine->depth, memory_order_relaxed) != 0)
        fh_lock_reset(&mine->lock);
    fh_root.entry.write_record("abort");
}

/* ---- Faults of the report itself ----------------------------------------------------------------------- */

bool fh_report_is_mine(void)
{
    return atomic_load_explicit(&reports.reporter, memory_order_relaxed) == fh_os_gettid();
}

void fh_report_fault(int number)
{
    fh_message(
        "ERROR: a second fault (signal %d) while the first was reported; the process ends here",
        number);
    end();
}

static void on_fault(int number)
{
    if (fh_report_is_mine())
        fh_report_fault(number);
    /* Another thread's: it is repeated when this returns, and finds what the program had. */
    for (int i = 0; i < FAULTS; i++)
        if (fault_signals[i] == number)
            sigaction(number, &reports.before[i], NULL);
}

static void catch_faults(void)
{
    struct sigaction action = {.sa_handler = on_fault, .sa_flags = SA_NODEFER | SA_ONSTACK};
    for (int i = 0; i < FAULTS && !fh_fault_is_started(); i++)
        sigaction(fault_signals[i], &action, &reports.before[i]);
}

static void leave_faults(void)
{
    for (int i = 0; i < FAULTS && !fh_fault_is_started(); i++)
        sigaction(fault_signals[i], &reports.before[i], NULL);
}

/* ---- Stacks -------------------------------------------------------------------------------------------- */

/* A function of the interface: whoever calls it is not us. */
static bool is_interface(const char *name)
{
    static const char *const family[] = {
        "malloc",
        "free",
        "calloc",
        "realloc",
        "reallocarray",
        "aligned_alloc",
        "posix_memalign",
        "memalign",
        "valloc",
        "pvalloc",
        "cfree",
        "free_sized",
        "free_aligned_sized",
        "malloc_usable_size",
        "malloc_trim",
    };
    for (size_t i = 0; i < FH_ARRAY_LEN(family); i++)
        if (strcmp(name, family[i]) == 0)
            return true;
    /* operator new, new[], delete, delete[] */
    return strncmp(name, "fh_", 3) == 0 || strncmp(name, "_Znw", 4) == 0 ||
           strncmp(name, "_Zna", 4) == 0 || strncmp(name, "_Zdl", 4) == 0 ||
           strncmp(name, "_Zda", 4) == 0;
}

/* How many frames are ours, when the heap and the program are one module: up to the last function
 * of the interface, with at most one other between two of them. */
static size_t own_by_name(const uintptr_t *frames, size_t count)
{
    char name[64];
    size_t own = 0;
    for (size_t i = 0; i < count && i < OWN_FRAMES && i <= own + 1; i++)
        if (fh_stack_function(name, sizeof name, frames[i]) && is_interface(name))
            own = i + 1;
    return own;
}

/* libfreehold, the entry points, and what else we preload. */
static bool is_own(uintptr_t frame)
{
    if (fh_stack_in_module(frame, (const void *)(uintptr_t)fh_error) ||
        (fh_root.entry.code != NULL && fh_stack_in_module(frame, fh_root.entry.code)))
        return true;
    const char *module = fh_stack_module(frame);
    const char *slash = module != NULL ? strrchr(module, '/') : NULL;
    return slash != NULL && strncmp(slash, "/libfreehold-", strlen("/libfreehold-")) == 0;
}

static void leave_out_own(struct fh_report_stack *stack)
{
    size_t own = 0;
    while (own < stack->len && is_own(stack->frames[own]))
        own++;
    /* All of them: a static program. Its C library is in it, so nothing of its stack is elsewhere. */
    if (own == stack->len || own > OWN_FRAMES)
        own = own_by_name(stack->frames, stack->len);
    stack->len -= own;
    memmove(stack->frames, stack->frames + own, stack->len * sizeof stack->frames[0]);
}

static void capture(struct fh_report *report, const struct fh_call *call)
{
    struct fh_report_stack *stack = &report->access;
    if (report->error->context != NULL) {
        fh_fault_place(report->error->context, &report->pc, &report->sp, &report->fp);
        stack->len =
            fh_stack_capture_from(NULL, report->error->context, stack->frames, FH_REPORT_FRAMES, 0);
        leave_out_own(stack);
        return;
    }
    stack->len =
        fh_stack_capture_at(NULL, call->pc, call->sp, call->fp, stack->frames, FH_REPORT_FRAMES);
    leave_out_own(stack);
    report->pc = stack->len != 0 ? stack->frames[0] - 1 : call->pc;
    report->sp = call->sp;
    report->fp = call->fp;
}

static void recall(struct fh_report_stack *stack, uint32_t id)
{
    stack->len = id != 0 ? fh_stack_frames(id, stack->frames, FH_REPORT_FRAMES) : 0;
    if (stack->len != 0)
        leave_out_own(stack);
}

/* ---- What is known ------------------------------------------------------------------------------------- */

static void relate(struct fh_report *report)
{
    const struct fh_guard_block *block = &report->block;
    uintptr_t address = report->error->address, high = block->address + block->requested;
    if (address < block->address) {
        report->relation = FH_BEFORE;
        report->distance = block->address - address;
    } else if (address >= high && address != block->address) {
        report->relation = FH_AFTER;
        report->distance = address - high;
    } else {
        report->relation = FH_INSIDE;
        report->distance = address - block->address;
    }
}

static void gather(const struct fh_error *error, const struct fh_call *here)
{
    struct fh_report *report = &reports.now;
    report->error = error;
    report->pid = fh_os_getpid();
    report->tid = fh_os_gettid();
    report->now_ns = fh_os_now_ns();
    capture(report, error->call != NULL ? error->call : here);
    report->has_block =
        error->block != NULL || fh_guard_find((const void *)error->address, &report->block);
    if (error->block != NULL)
        report->block = *error->block;
    if (report->has_block)
        relate(report);
    recall(&report->allocation, report->has_block ? report->block.alloc_stack : 0);
    recall(&report->release, report->has_block ? report->block.free_stack : 0);
    recall(&report->origin, error->origin_stack);
}

/* ---- Told before? -------------------------------------------------------------------------------------- */

static uint64_t mix(uint64_t hash, uint64_t word)
{
    return (hash ^ word) * 0x9e3779b97f4a7c15u ^ hash >> 29;
}

static uint64_t key_of(const struct fh_report *report)
{
    uint64_t hash = 1;
    for (const char *c = report->error->kind; *c != 0; c++)
        hash = mix(hash, (unsigned char)*c);
    for (size_t i = 0; i < report->access.len; i++)
        hash = mix(hash, report->access.frames[i]);
    return mix(hash, report->has_block ? report->block.alloc_stack : 0);
}

static struct place *find_place(uint64_t key)
{
    for (size_t i = 0; i < reports.places_len; i++)
        if (reports.places[i].key == key)
            return &reports.places[i];
    return NULL;
}

static void follow_settings(void)
{
    uint32_t now = atomic_load_explicit(&fh_root.settings.generation, memory_order_relaxed);
    if (now != reports.settings_seen)
        reports.places_len = reports.told = 0;
    reports.settings_seen = now;
}

/* Whether the error is to be told; counts it where it is not. */
static bool is_wanted(const struct fh_report *report)
{
    follow_settings();
    uint64_t key = key_of(report);
    struct place *place = find_place(key);
    int suppression = place != NULL ? place->suppression : fh_suppress_find(report);
    bool is_told = place != NULL && suppression < 0;
    if (place == NULL && reports.places_len < PLACES_MOST) {
        place = &reports.places[reports.places_len++];
        *place = (struct place){.key = key, .suppression = suppression};
    }
    if (suppression >= 0 && fh_suppress_count(suppression))
        return false;
    if (place != NULL)
        place->suppression = -1;
    if (is_told) {
        reports.repeated++;
        return on_error() != FH_ERROR_CONTINUE;
    }
    if (reports.told >= TOLD_MOST && on_error() == FH_ERROR_CONTINUE) {
        reports.beyond++;
        return false;
    }
    reports.told++;
    return true;
}

/* ---- Reporting ----------------------------------------------------------------------------------------- */

struct task {
    const struct fh_error *error;
    struct fh_call here;
    bool is_told;
};

static void tell(void *arg)
{
    struct task *task = arg;
    gather(task->error, &task->here);
    task->is_told = is_wanted(&reports.now);
    if (!task->is_told)
        return;
    fh_report_write_text(&reports.now);
    fh_report_write_json(&reports.now);
    write_record();
}

/* The report's own stack, between inaccessible pages; once. */
static void have_stack(void)
{
    size_t page = fh_os_page_size, size = fh_align_up(STACK_BYTES, page);
    if (reports.stack_top != 0)
        return;
    char *low = fh_os_reserve(NULL, size + 2 * page, page);
    if (low != NULL && fh_os_commit(low + page, size) == 0)
        reports.stack_top = (uintptr_t)low + page + size;
}

static void tell_on_own_stack(struct task *task)
{
    have_stack();
    if (reports.stack_top != 0)
        fh_call_on_stack(reports.stack_top, tell, task);
    else
        tell(task);
}

/* A forked child begins anew: the thread that was reporting is the parent's. */
static void forget_the_parents(void)
{
    int pid = fh_os_getpid();
    if (reports.pid != pid && reports.pid != 0) {
        fh_lock_reset(&reports.lock);
        atomic_store_explicit(&reports.reporter, 0, memory_order_relaxed);
    }
    reports.pid = pid;
}

static void tell_in_turn(struct task *task)
{
    const struct fh_error *error = task->error;
    if (!fh_lock_try_for(&reports.lock, LIMIT_NS)) {
        fh_message("ERROR: %s on address %p (another thread's report takes long)", error->kind,
                   (const void *)error->address);
        task->is_told = true;
        return;
    }
    atomic_store_explicit(&reports.reporter, fh_os_gettid(), memory_order_relaxed);
    catch_faults();
    tell_on_own_stack(task);
    leave_faults();
    atomic_store_explicit(&reports.reporter, 0, memory_order_relaxed);
    /* Kept when the process ends: nobody else's report shall come between. */
    if (!task->is_told || on_error() == FH_ERROR_CONTINUE)
        fh_lock_release(&reports.lock);
}

void fh_error(const struct fh_error *error)
{
    struct task task = {.error = error, .here = FH_CALL_HERE()};
    int saved = errno;
    fh_os_init(); /* messages go nowhere before */
    fh_settings_start();
    forget_the_parents();
    if (fh_report_is_mine()) {
        fh_message(
            "ERROR: %s on address %p while another error was reported; the process ends here",
            error->kind, (const void *)error->address);
        end();
    }
    uint64_t mask = fh_os_set_signal_mask(~FH_FAULT_SIGNALS);
    tell_in_turn(&task);
    if (task.is_told && on_error() != FH_ERROR_CONTINUE)
        end();
    fh_os_set_signal_mask(mask);
    errno = saved;
}

void fh_error_sum_up(void)
{
    uint64_t suppressed = fh_suppress_total();
    if (reports.repeated != 0)
        fh_message("%llu further errors at places that were told already",
                   (unsigned long long)reports.repeated);
    if (reports.beyond != 0)
        fh_message("%llu further errors at other places; only the first %d are told",
                   (unsigned long long)reports.beyond, TOLD_MOST);
    if (suppressed != 0)
        fh_message("%llu errors were suppressed", (unsigned long long)suppressed);
}
