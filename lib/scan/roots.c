/*
 * Roots: the memory whose words count whoever points to it.
 *
 * One reading of /proc/self/maps, when all threads stand still, says what there is; no list of modules is
 * asked of the dynamic linker, whose lock a stopped thread may hold. Of the mappings that can be read and
 * written and are private:
 *
 *   globals    those of a file (the .data of a module, and what else is mapped from a file privately),
 *              and anonymous ones that begin where such a one ends (.bss)
 *   mappings   all other anonymous ones
 *
 * less what is ours: the window of the page pool (its blocks are areas), metadata, the writable
 * segments of this library where it is one of its own, and what owners exclude. Mappings inside the window
 * that can't be read (the program took their access away) are remembered as holes.
 *
 * Stacks lie in such mappings, but only part of them counts. For a thread with the stack pointer sp it
 * is [sp - red zone, end), where the end is that of the mapping, or, when the thread pointer is known and
 * lies above sp in the same mapping (the C library puts a thread's descriptor at the top of its stack), the
 * end of the descriptor; neighbours of other stacks may be joined to the mapping. The rest of the mapping
 * below sp is dead. A thread that is on another stack than its own (a signal handler on the alternate one,
 * a coroutine) has its sp elsewhere; then all of its own stack counts, for where it left it nobody knows.
 * Of a stopped thread the handler's frame with all registers counts too, wherever it lies.
 *
 * Thread-local data: static TLS lies below the thread pointer (x86-64; above it on aarch64), the
 * descriptor with the first 32 pthread keys' values, and the pointer to the table of dynamic TLS, above it. For
 * threads of the C library both are in the stack's mapping. The main thread's are in a mapping of their own,
 * found by the thread pointer, which a constructor has noted.
 */
#include "base/core/bits.h"
#include "os/mem.h"
#include "os/sys.h"
#include "pages/pages.h"
#include "scan/internal.h"

#include <sys/auxv.h>

#define RED_ZONE        128u /* bytes below the stack pointer that leaf functions use (x86-64 ABI) */
#define DESCRIPTOR_MOST 8192u  /* struct pthread: 2,304 bytes in glibc 2.36 */
#define STATIC_TLS_MOST 65536u /* below the thread pointer (above it on aarch64) */

/* Of this module, from the linker. */
extern const char __ehdr_start[] __attribute__((weak, visibility("hidden")));
extern const char _end[] __attribute__((weak, visibility("hidden")));

static uintptr_t main_thread_pointer;

__attribute__((constructor)) static void note_main_thread(void)
{
    if (fh_os_gettid() == fh_os_getpid())
        main_thread_pointer = fh_stop_thread_pointer();
}

/* ---- what is ours --------------------------------------------------------------------------------- */

static void exclude(struct fh_scan *scan, uintptr_t low, uintptr_t high)
{
    if (low < high)
        fh_scan_ranges_add(scan, &scan->excluded, low, high);
}

void fh_scan_exclude(struct fh_scan *scan, uintptr_t low, uintptr_t high)
{
    exclude(scan, low, high);
}

static void exclude_meta(void *context, uintptr_t low, uintptr_t high)
{
    exclude(context, low, high);
}

/* Our variables hold addresses of blocks that are free. In a program that we are linked into they can't be told
 * from its own. */
static void exclude_this_module(struct fh_scan *scan)
{
    uintptr_t low = (uintptr_t)__ehdr_start, high = (uintptr_t)_end;
    uintptr_t headers = getauxval(AT_PHDR);
    if (low == 0 || high == 0 || headers - low < high - low)
        return;
    exclude(scan, low, fh_align_up(high, fh_os_page_size));
}

static void exclude_ours(struct fh_scan *scan)
{
    const struct fh_pages *pages = &fh_pages_main;
    if (pages->limit != 0)
        exclude(scan, fh_min(pages->base, pages->window.headers),
                pages->base + ((uintptr_t)pages->limit << FH_GRANULE_SHIFT));
    fh_meta_each(exclude_meta, scan);
    exclude_this_module(scan);
    exclude(scan, (uintptr_t)scan, (uintptr_t)scan + scan->mapped);
    fh_scan_ranges_sort(&scan->excluded);
}

/* ---- mappings --------------------------------------------------------------------------------------- */

/* [low, high) without what is excluded, as roots. */
static void add_without_excluded(struct fh_scan *scan, uintptr_t low, uintptr_t high)
{
    const struct fh_scan_ranges *excluded = &scan->excluded;
    for (unsigned i = fh_scan_ranges_above(excluded, low); low < high; i++) {
        bool has_more = i < excluded->count && excluded->items[i].low < high;
        uintptr_t end = has_more ? excluded->items[i].low : high;
        if (low < end)
            fh_scan_ranges_add(scan, &scan->roots, low, end);
        if (!has_more)
            return;
        low = fh_max(low, excluded->items[i].high);
    }
}

static void note_hole(struct fh_scan *scan, const struct fh_os_mapping *mapping)
{
    const struct fh_pages *pages = &fh_pages_main;
    uintptr_t end = pages->base + ((uintptr_t)pages->committed << FH_GRANULE_SHIFT);
    if (!mapping->is_readable && mapping->low >= pages->base && mapping->low < end)
        fh_scan_ranges_add(scan, &scan->holes, mapping->low, mapping->high);
}

static void note_mapping(void *context, const struct fh_os_mapping *mapping)
{
    struct fh_scan *scan = context;
    note_hole(scan, mapping);
    if (!mapping->is_readable || !mapping->is_writable)
        return;
    if (scan->mappings_count == scan->mappings_capacity) {
        scan->gaps |= FH_SCAN_GAP_SPACE;
        return;
    }
    scan->mappings[scan->mappings_count++] = (struct fh_scan_mapping){
        .low = mapping->low,
        .high = mapping->high,
        .is_private = mapping->is_private,
        .is_file = mapping->is_file,
        .is_main_stack = mapping->is_main_stack,
    };
}

/* The mapping that holds the address, or NULL; they come lowest first. */
static struct fh_scan_mapping *mapping_of(struct fh_scan *scan, uintptr_t address)
{
    unsigned low = 0, high = scan->mappings_count;
    while (low < high) {
        unsigned middle = low + (high - low) / 2;
        if (scan->mappings[middle].high <= address)
            low = middle + 1;
        else
            high = middle;
    }
    return low < scan->mappings_count && scan->mappings[low].low <= address ? &scan->mappings[low]
                                                                            : NULL;
}

static void add_mappings(struct fh_scan *scan)
{
    uintptr_t file_end = 0;
    for (unsigned i = 0; i < scan->mappings_count; i++) {
        const struct fh_scan_mapping *mapping = &scan->mappings[i];
        if (!mapping->is_private)
            continue;
        bool is_global = mapping->is_file || mapping->low == file_end;
        if (mapping->is_file)
            file_end = mapping->high;
        unsigned kind = is_global ? FH_SCAN_GLOBALS : FH_SCAN_MAPPINGS;
        bool has_dead_part = mapping->has_stack || mapping->is_main_stack;
        if ((scan->options.roots & kind) != 0 && (is_global || !has_dead_part))
            add_without_excluded(scan, mapping->low, mapping->high);
    }
}

/* ---- stacks and thread-local data ---------------------------------------------------------------------- */

/* From sp to the end of the stack that it lies in; returns that end. */
static uintptr_t add_stack(struct fh_scan *scan, uintptr_t sp, uintptr_t thread_pointer)
{
    const struct fh_scan_area *area = fh_scan_area_of(scan, sp);
    uintptr_t low = sp - RED_ZONE, end;
    if (area != NULL) { /* a block is the stack */
        end = area->base + (fh_scan_index(area, sp) + (uintptr_t)1) * area->stride;
    } else {
        struct fh_scan_mapping *mapping = mapping_of(scan, sp);
        if (mapping == NULL) {
            scan->gaps |= FH_SCAN_GAP_MEMORY;
            return sp;
        }
        mapping->has_stack = true;
        low = fh_max(low, mapping->low);
        end = mapping->high;
        if (thread_pointer >= sp && thread_pointer < end)
            end = fh_min(end, thread_pointer + DESCRIPTOR_MOST);
    }
    fh_scan_ranges_add(scan, &scan->roots, low, end);
    return end;
}

/* All of the thread's own stack: where the thread left it is not known. */
static void add_home_stack(struct fh_scan *scan, bool is_main, uintptr_t thread_pointer)
{
    for (unsigned i = 0; is_main && i < scan->mappings_count; i++)
        if (scan->mappings[i].is_main_stack)
            fh_scan_ranges_add(scan, &scan->roots, scan->mappings[i].low, scan->mappings[i].high);
    struct fh_scan_mapping *mapping = is_main ? NULL : mapping_of(scan, thread_pointer);
    if (mapping == NULL)
        return;
    mapping->has_stack = true;
    fh_scan_ranges_add(scan, &scan->roots, mapping->low,
                       fh_min(mapping->high, thread_pointer + DESCRIPTOR_MOST));
}

static bool is_on_main_stack(struct fh_scan *scan, uintptr_t sp)
{
    const struct fh_scan_mapping *mapping = mapping_of(scan, sp);
    return mapping != NULL && mapping->is_main_stack;
}

static void add_thread_local(struct fh_scan *scan, uintptr_t thread_pointer)
{
    const struct fh_scan_mapping *mapping = mapping_of(scan, thread_pointer);
    if (mapping != NULL)
        fh_scan_ranges_add(scan, &scan->roots,
                           fh_max(mapping->low, thread_pointer - STATIC_TLS_MOST),
                           fh_min(mapping->high, thread_pointer + STATIC_TLS_MOST));
}

/* What is above sp of a thread whose stack pointer is sp, and its own stack when that is another. */
static void add_stacks(struct fh_scan *scan, bool is_main, uintptr_t sp, uintptr_t thread_pointer)
{
    uintptr_t end = add_stack(scan, sp, thread_pointer);
    bool is_home = is_main ? is_on_main_stack(scan, sp)
                           : thread_pointer == 0 || (thread_pointer >= sp && thread_pointer < end);
    if (!is_home)
        add_home_stack(scan, is_main, thread_pointer);
}

static void add_stopped(struct fh_scan *scan, const struct fh_stop_thread *thread, bool is_main)
{
    bool is_alternate = thread->frame - thread->at.alternate_low <
                        thread->at.alternate_high - thread->at.alternate_low;
    if (is_alternate)
        fh_scan_ranges_add(scan, &scan->roots, thread->frame, thread->at.alternate_high);
    bool is_joined =
        !is_alternate || thread->at.sp - thread->frame < thread->at.alternate_high - thread->frame;
    if (!is_joined || !is_alternate)
        add_stacks(scan, is_main, is_joined ? thread->frame : thread->at.sp,
                   thread->thread_pointer);
    else
        add_home_stack(scan, is_main, thread->thread_pointer);
}

static void add_watched(struct fh_scan *scan, const struct fh_stop_thread *thread, bool is_main)
{
    const uintptr_t args = (uintptr_t)thread->seen.args;
    scan->counts.without_registers++;
    fh_scan_ranges_add(scan, &scan->roots, args, args + sizeof thread->seen.args);
    add_stacks(scan, is_main, thread->seen.sp, is_main ? main_thread_pointer : 0);
}

static void add_thread(struct fh_scan *scan, const struct fh_stop_thread *thread, int pid)
{
    /* relaxed: fh_stop_all has seen the state already. */
    uint32_t state = atomic_load_explicit(&thread->state, memory_order_relaxed);
    bool is_main = thread->tid == pid;
    if (state != FH_STOP_STOPPED && state != FH_STOP_WATCHED)
        return;
    scan->counts.threads++;
    if ((scan->options.roots & FH_SCAN_STACKS) != 0 && state == FH_STOP_STOPPED)
        add_stopped(scan, thread, is_main);
    else if ((scan->options.roots & FH_SCAN_STACKS) != 0)
        add_watched(scan, thread, is_main);
    if ((scan->options.roots & FH_SCAN_TLS) != 0 && thread->thread_pointer != 0)
        add_thread_local(scan, thread->thread_pointer);
}

void fh_scan_find_roots(struct fh_scan *scan)
{
    int pid = scan->process;
    exclude_ours(scan);
    if (fh_os_each_mapping(note_mapping, scan) != 0)
        scan->gaps |= FH_SCAN_GAP_MEMORY;
    fh_scan_ranges_sort(&scan->holes);
    for (unsigned i = 0; i < scan->stopped.count; i++)
        add_thread(scan, &scan->stopped.threads[i], pid);
    uintptr_t own = fh_stop_thread_pointer();
    /* What is below our own stack pointer are the scan's frames. */
    if ((scan->options.roots & FH_SCAN_STACKS) != 0)
        add_stacks(scan, scan->own_tid == pid, scan->own_sp + RED_ZONE, own);
    if ((scan->options.roots & FH_SCAN_TLS) != 0) {
        add_thread_local(scan, own);
        if (main_thread_pointer != 0)
            add_thread_local(scan, main_thread_pointer);
    }
    add_mappings(scan);
}
