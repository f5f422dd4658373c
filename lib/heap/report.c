/*
 * Reports of memory errors.
 *
 *     freehold: ERROR: interior-free of 0x7f1200010430: inside a block, not its beginning
 *         block: 0x7f1200010400, 64 bytes; the address is 48 bytes behind its beginning; heap of
 * thread 4711 #0 parse_line+0x1f (/usr/bin/program+0x1234) #1 main+0x80 (/usr/bin/program+0x1400)
 *
 * What happens then is the setting on_error: abort (default), go on, or exit with a status; before
 * the end the process's record is written.
 *
 * The process may be in ruins and this thread may hold any of our locks. So nothing here allocates,
 * takes a lock of the heap or follows a pointer that came out of a block: run headers are out of
 * line. One thread reports at a time; another waits for at most LIMIT_NS, then says its first line
 * and does what on_error says. A fault of this code itself (SIGSEGV or SIGBUS on the reporting
 * thread, or a report within the report) ends in one line and the end of the process; a fault of
 * another thread meanwhile finds the handler that the program had.
 *
 * #0 is who called malloc or free. Frames of libfreehold and of the entry points are left out, by
 * their modules; in a static program, where all is one module, by the names of the interface's
 * functions.
 */
#include "base/core/misuse.h"
#include "base/message.h"
#include "freehold/allocator.h"
#include "heap/heap.h"
#include "os/sys.h"
#include "stack/stack.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>

#define LIMIT_NS   ((uint64_t)1000000000) /* a report takes milliseconds */
#define FRAMES     48u
#define OWN_FRAMES 12u /* our deepest call path is shorter */

enum { FAULTS = 2 };

static const int fault_signals[FAULTS] = {SIGSEGV, SIGBUS};

static struct {
    struct fh_lock lock;
    _Atomic int reporter; /* thread id while its report is under way; else 0 */
    struct sigaction before[FAULTS];
} report = {.lock = FH_LOCK_INIT};

/* ---- the end
 * -------------------------------------------------------------------------------------------------------
 */

static _Noreturn void end(void)
{
    if (atomic_load_explicit(&fh_root.settings.on_error, memory_order_relaxed) == FH_ERROR_EXIT)
        fh_os_exit(atomic_load_explicit(&fh_root.settings.exit_status, memory_order_relaxed));
    fh_os_abort();
}

/* Returns when the program shall go on. */
static void finish(void)
{
    if (atomic_load_explicit(&fh_root.settings.on_error, memory_order_relaxed) == FH_ERROR_CONTINUE)
        return;
    if (fh_root.entry.write_record != NULL) {
        struct fh_heap *mine = fh_heap_current;
        /* Our own slow path found the error and holds the heap's lock; it will not go on. */
        if (mine != &fh_heap_none && atomic_load_explicit(&mine->depth, memory_order_relaxed) != 0)
            fh_lock_reset(&mine->lock);
        fh_root.entry.write_record("abort");
    }
    end();
}

static void on_fault(int number)
{
    if (atomic_load_explicit(&report.reporter, memory_order_relaxed) == fh_os_gettid()) {
        fh_message(
            "ERROR: a second fault (signal %d) while the first was reported; the process ends here",
            number);
        end();
    }
    /* Another thread's: it is repeated when this returns, and finds what the program had. */
    for (int i = 0; i < FAULTS; i++)
        if (fault_signals[i] == number)
            sigaction(number, &report.before[i], NULL);
}

static void catch_faults(void)
{
    struct sigaction action = {.sa_handler = on_fault, .sa_flags = SA_NODEFER | SA_ONSTACK};
    for (int i = 0; i < FAULTS; i++)
        sigaction(fault_signals[i], &action, &report.before[i]);
}

static void leave_faults(void)
{
    for (int i = 0; i < FAULTS; i++)
        sigaction(fault_signals[i], &report.before[i], NULL);
}

/* ---- the block
 * -----------------------------------------------------------------------------------------------------
 */

static void describe_heap(char *text, size_t size, const struct fh_heap *heap)
{
    if (heap == NULL) /* a large block of malloc's: nobody's in particular */
        fh_format(text, size, "a large block");
    else if (heap->name[0] != 0)
        fh_format(text, size, "heap \"%s\"", heap->name);
    else if (heap->modes & FH_HEAP_FIRST_CLASS)
        fh_format(text, size, "heap %p", (const void *)heap);
    else
        fh_format(text, size, "heap of thread %d%s", heap->tid,
                  atomic_load_explicit(&heap->thread, memory_order_relaxed) != 0 ? "" : " (ended)");
}

/* Which block the address belongs to, or lies behind. */
static void print_block(const void *address)
{
    struct fh_block block;
    char owner[80];
    const struct fh_run *run = fh_pages_find(address, NULL);
    if (run == NULL || run->manager == NULL ||
        !run->manager->resolve(run, (uintptr_t)address, &block))
        return;
    describe_heap(owner, sizeof owner, run->heap);
    size_t offset = (size_t)((uintptr_t)address - (uintptr_t)block.address);
    if (offset == 0)
        fh_message_raw("    block: %p, %zu bytes; %s\n", block.address, block.usable, owner);
    else
        fh_message_raw(
            "    block: %p, %zu bytes; the address is %zu bytes behind its beginning; %s\n",
            block.address, block.usable, offset, owner);
}

/* ---- the stack
 * -----------------------------------------------------------------------------------------------------
 */

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

static bool is_own(uintptr_t frame)
{
    const void *entry = fh_root.entry.code;
    return fh_stack_in_module(frame, (const void *)(uintptr_t)fh_report) ||
           (entry != NULL && fh_stack_in_module(frame, entry));
}

static void print_stack(void)
{
    uintptr_t frames[FRAMES];
    size_t count = fh_stack_capture(NULL, frames, FRAMES, 0), own = 0;
    while (own < count && is_own(frames[own]))
        own++;
    /* All of them: a static program. Its C library is in it, so nothing of its stack is elsewhere.
     */
    if (own == count || own > OWN_FRAMES)
        own = own_by_name(frames, count);
    fh_stack_print(frames + own, count - own);
    if (count == FRAMES)
        fh_message_raw("    (further frames are left out)\n");
}

/* ---- reporting
 * -----------------------------------------------------------------------------------------------------
 */

void fh_report(const char *kind, const void *address, const char *detail)
{
    int saved = errno, me = fh_os_gettid();
    fh_os_init(); /* messages go nowhere before */
    fh_settings_start();
    if (atomic_load_explicit(&report.reporter, memory_order_relaxed) == me) {
        fh_message("ERROR: %s of %p while another error was reported; the process ends here", kind,
                   address);
        end();
    }
    if (!fh_lock_try_for(&report.lock, LIMIT_NS)) {
        fh_message("ERROR: %s of %p: %s (another thread's report takes long)", kind, address,
                   detail);
        finish();
        errno = saved;
        return;
    }
    atomic_store_explicit(&report.reporter, me, memory_order_relaxed);
    catch_faults();
    fh_message("ERROR: %s of %p: %s", kind, address, detail);
    print_block(address);
    print_stack();
    finish();
    leave_faults();
    atomic_store_explicit(&report.reporter, 0, memory_order_relaxed);
    fh_lock_release(&report.lock);
    errno = saved;
}

/* What the rooms below the heap find (base/core/misuse.h). */
void fh_misuse(const char *kind, const void *address, const char *detail)
{
    fh_report(kind, address, detail);
}

void fh_broken(const char *format, ...)
{
    char text[256];
    va_list args;
    va_start(args, format);
    fh_vformat(text, sizeof text, format, args);
    va_end(args);
    fh_os_init(); /* messages go nowhere before */
    fh_message("check: %s", text);
}

/* ---- somebody else's pointers
 * -------------------------------------------------------------------------------------- */

void fh_entry_points_are(const struct fh_entry_points *entry)
{
    fh_root.entry = *entry;
}

static enum fh_on_foreign on_foreign(void)
{
    return (enum fh_on_foreign)atomic_load_explicit(&fh_root.settings.on_foreign,
                                                    memory_order_relaxed);
}

void fh_report_foreign(const void *address)
{
    switch (on_foreign()) {
    case FH_FOREIGN_IGNORE:
        return;
    case FH_FOREIGN_WARN:
        fh_message("WARNING: invalid-free of %p: not from this heap; ignored", address);
        return;
    case FH_FOREIGN_FORWARD:
        if (fh_root.entry.foreign_free != NULL) {
            fh_root.entry.foreign_free((void *)(uintptr_t)address);
            return;
        }
        fh_message("WARNING: invalid-free of %p: nobody to forward it to; ignored", address);
        return;
    case FH_FOREIGN_ABORT:
        fh_report("invalid-free", address, "not a block of this heap");
    }
}

/* A realloc of it: forwarded, or said like a free, and then NULL: its size is not known, so it
 * can't be copied. */
void *fh_report_foreign_realloc(void *address, size_t size)
{
    fh_start();
    errno = EINVAL;
    if (fh_report_own(address))
        return NULL;
    if (on_foreign() == FH_FOREIGN_FORWARD && fh_root.entry.foreign_realloc != NULL)
        return fh_root.entry.foreign_realloc(address, size);
    fh_report_foreign(address);
    return NULL;
}
