/* guard/fence: blocks on pages of their own. Each claim is made in a process of its own, so that
 * each begins without a region; what fh_error is told is looked at here (the linker wraps it). */
#include "guard/thread.h"
#include "heap/heap.h"
#include "os/mem.h"
#include "os/sys.h"

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define PAGE fh_os_page_size

/* What kernels below 6.13 have, and what they have in a container. */
#define NO_MARKERS (~(unsigned)FH_OS_GUARD_INSTALL)
#define NEITHER    (~(unsigned)(FH_OS_GUARD_INSTALL | FH_OS_USERFAULTFD))

/* ---- what the tests are made of -------------------------------------------------------------- */

static struct fh_error told;
static struct fh_guard_block told_block;
static _Atomic unsigned told_count;

void __wrap_fh_error(const struct fh_error *error);
void __wrap_fh_error(const struct fh_error *error)
{
    told = *error;
    if (error->block != NULL)
        told_block = *error->block;
    atomic_fetch_add(&told_count, 1);
}

#define EXPECT(claim)                                                                              \
    do {                                                                                           \
        if (!(claim)) {                                                                            \
            fprintf(stderr, "%s:%d: expected %s\n", __FILE__, __LINE__, #claim);                   \
            _exit(1);                                                                              \
        }                                                                                          \
    } while (0)

static void alone(void (*body)(void))
{
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        body();
        EXPECT(fh_fence_check() == 0);
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
}

static void *take(size_t size)
{
    return fh_fence_alloc(size, 0, FH_HOW_MALLOC, 11, false);
}

static void give(void *block)
{
    fh_fence_free(block, 0, 0, FH_HOW_MALLOC, 22, NULL);
}

static bool was_told(const char *kind)
{
    return atomic_load(&told_count) == 1 && strcmp(told.kind, kind) == 0;
}

static sigjmp_buf trapped;
static void *volatile trap_address;

static void on_trap(int number, siginfo_t *info, void *context)
{
    (void)number;
    (void)context;
    trap_address = info->si_addr;
    siglongjmp(trapped, 1);
}

/* Whether an access to the byte there is trapped. */
static bool traps(const volatile void *address)
{
    struct sigaction action = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO | SA_NODEFER};
    sigaction(SIGSEGV, &action, NULL);
    sigaction(SIGBUS, &action, NULL); /* what missing pages give */
    if (sigsetjmp(trapped, 1) != 0)
        return trap_address == address;
    (void)*(const volatile char *)address;
    return false;
}

static size_t mappings_of_process(void)
{
    size_t lines = 0;
    FILE *maps = fopen("/proc/self/maps", "r");
    EXPECT(maps != NULL);
    for (int c; (c = fgetc(maps)) != EOF;)
        lines += c == '\n';
    fclose(maps);
    return lines;
}

/* ---- where blocks lie ------------------------------------------------------------------------ */

static void right_blocks_end_at_a_guard_page(void)
{
    static const size_t sizes[] = {1, 2, 3, 7, 8, 16, 48, 4096, 4112, 8192, 40960, 65536};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        char *block = take(sizes[i]);
        EXPECT(block != NULL);
        memset(block, 1, sizes[i]);
        EXPECT(traps(block + sizes[i]));
        EXPECT(!traps(block + sizes[i] - 1));
    }
}

static void left_blocks_begin_after_a_guard_page(void)
{
    for (size_t size = 1; size <= 65536; size = size * 3 + 1) {
        char *block = fh_fence_alloc(size, 0, FH_HOW_MALLOC, 0, true);
        EXPECT(block != NULL);
        memset(block, 1, size);
        EXPECT(traps(block - 1));
        EXPECT(!traps(block));
        EXPECT(traps((char *)fh_align_up((uintptr_t)block + size, PAGE)));
    }
}

static void blocks_are_aligned_as_objects_of_their_size(void)
{
    for (size_t size = 1; size <= 200; size++) {
        uintptr_t block = (uintptr_t)take(size), end = fh_align_up(block + size, PAGE);
        size_t align = size >= 16 ? 16 : size >= 8 ? 8 : size & (~size + 1);
        EXPECT(block % align == 0);
        EXPECT(end - (block + size) < align);
    }
}

static void blocks_are_aligned_as_asked_for(void)
{
    for (size_t align = 1; align <= 65536; align *= 2)
        for (int is_left = 0; is_left < 2; is_left++) {
            void *block = fh_fence_alloc(100, align, FH_HOW_ALIGNED, 0, is_left != 0);
            EXPECT(block != NULL);
            EXPECT((uintptr_t)block % align == 0);
            memset(block, 1, 100);
            fh_fence_free(block, 0, align, FH_HOW_ALIGNED, 0, NULL);
        }
    EXPECT(atomic_load(&told_count) == 0);
}

static void what_is_too_large_is_refused(void)
{
    EXPECT(take(16 * PAGE) != NULL);
    EXPECT(take(16 * PAGE + 1) == NULL);
    EXPECT(take(SIZE_MAX) == NULL);
    EXPECT(fh_fence_alloc(1, (size_t)1 << 40, 0, 0, false) == NULL);
}

static void only_touched_pages_have_memory(void)
{
    char *right = take(9 * PAGE), *left = fh_fence_alloc(9 * PAGE, 0, 0, 0, true);
    EXPECT(traps(right - 1));
    EXPECT(traps(left + 9 * PAGE));
    struct fh_fence_counts counts;
    fh_fence_counts(&counts);
    EXPECT(counts.live_pages == 18);
}

static void blocks_of_no_bytes_differ_and_are_freed(void)
{
    char *a = take(0), *b = take(0);
    EXPECT(a != NULL && b != NULL && a != b);
    give(a);
    give(b);
    EXPECT(atomic_load(&told_count) == 0);
    a = take(0);
    *a = 1;
    give(a);
    EXPECT(was_told("heap-buffer-overflow"));
}

static void blocks_are_zero_when_they_come_back(void)
{
    for (int round = 0; round < 2000; round++) { /* more than may wait in fast mode */
        fh_guard_settings.mode = FH_MODE_FAST;
        char *block = take(3000);
        EXPECT(block != NULL);
        for (size_t i = 0; i < 3000; i++)
            EXPECT(block[i] == 0);
        memset(block, 0xee, 3000);
        give(block);
    }
}

/* ---- what is found of an address ------------------------------------------------------------- */

static void addresses_lead_to_their_block(void)
{
    char *block = take(100);
    struct fh_guard_block found;
    EXPECT(fh_fence_find(block, &found));
    EXPECT(found.address == (uintptr_t)block && found.requested == 100 && found.align == 0);
    EXPECT(found.usable == 112 && found.state == FH_BLOCK_LIVE && found.alloc_stack == 11);
    EXPECT(found.alloc_thread == (int)gettid() && found.alloc_ns != 0 && found.free_stack == 0);
    EXPECT(fh_fence_find(block + 99, &found) && found.address == (uintptr_t)block);
    EXPECT(fh_fence_find(block - 3000, &found) && found.address == (uintptr_t)block);
    EXPECT(fh_fence_find(block + 112, &found) && found.address == (uintptr_t)block);
    struct fh_extent extent;
    EXPECT(fh_fence_extent(block + 5, &extent));
    EXPECT(extent.low == (uintptr_t)block && extent.high == (uintptr_t)block + 100);
    EXPECT(extent.is_live);
    give(block);
    EXPECT(fh_fence_find(block, &found) && found.state == FH_BLOCK_FREED);
    EXPECT(found.free_stack == 22 && found.free_thread == (int)gettid());
    EXPECT(fh_fence_extent(block, &extent) && !extent.is_live);
}

static void strangers_lead_nowhere(void)
{
    struct fh_guard_block found;
    int here = 0;
    EXPECT(!fh_fence_owns(&here) && !fh_fence_find(&here, &found));
    EXPECT(take(8) != NULL);
    EXPECT(!fh_fence_owns(&here) && !fh_fence_owns(NULL) && !fh_fence_find(&here, &found));
    EXPECT(!fh_fence_owns((void *)UINTPTR_MAX));
}

/* Each page of the region, whoever it belongs to: the look-up ends, and what it says is near. */
static void every_page_of_the_region_can_be_asked_about(void)
{
    char *blocks[600];
    for (int i = 0; i < 600; i++)
        blocks[i] = fh_fence_alloc((size_t)(i % 5) * 9000 + 1, 0, 0, 0, i % 2 != 0);
    for (int i = 0; i < 600; i += 3)
        give(blocks[i]);
    char *low = blocks[0], *high = blocks[0];
    struct fh_guard_block found;
    for (; fh_fence_owns(low); low -= PAGE)
        if (fh_fence_find(low, &found))
            EXPECT(found.address - (uintptr_t)low + 34 * PAGE < 68 * PAGE);
    for (; fh_fence_owns(high) && high < blocks[0] + 64 * 512 * PAGE; high += PAGE)
        if (fh_fence_find(high, &found))
            EXPECT(found.address - (uintptr_t)high + 34 * PAGE < 68 * PAGE);
}

static void a_guard_page_belongs_to_the_nearest_live_block(void)
{
    /* All slots of a chunk, so that neighbours are live. */
    char *blocks[255], *lowest = (char *)UINTPTR_MAX;
    for (int i = 0; i < 255; i++) {
        blocks[i] = take(PAGE);
        lowest = blocks[i] < lowest ? blocks[i] : lowest;
    }
    char *guard = lowest + PAGE, *above = lowest + 2 * PAGE;
    struct fh_guard_block found;
    EXPECT(fh_fence_find(guard, &found) && found.address == (uintptr_t)lowest);
    EXPECT(fh_fence_find(guard + PAGE - 1, &found) && found.address == (uintptr_t)above);
    give(above);
    EXPECT(fh_fence_find(guard + PAGE - 1, &found) && found.address == (uintptr_t)lowest);
    give(lowest);
    EXPECT(fh_fence_find(guard, &found) && found.address == (uintptr_t)lowest);
}

/* ---- misuse ---------------------------------------------------------------------------------- */

static void a_freed_block_traps(void)
{
    char *block = take(100);
    give(block);
    EXPECT(traps(block));
    EXPECT(traps(block + 99));
    EXPECT(atomic_load(&told_count) == 0);
}

static void a_write_behind_the_block_is_seen_when_it_is_freed(void)
{
    char *block = take(100); /* twelve bytes are left behind it */
    block[103] = 0;
    block[105] ^= 1;
    give(block);
    EXPECT(was_told("heap-buffer-overflow"));
    EXPECT(told.damage_low == (uintptr_t)block + 103 && told.damage_high == (uintptr_t)block + 106);
    EXPECT(told_block.address == (uintptr_t)block && told_block.state == FH_BLOCK_LIVE);
    EXPECT(told_block.alloc_stack == 11);
    EXPECT(traps(block));
}

static void a_write_before_the_block_is_seen_when_it_is_freed(void)
{
    char *block = take(100);
    block[-1] = 0;
    give(block);
    EXPECT(was_told("heap-buffer-underflow"));
    EXPECT(told.damage_low == (uintptr_t)block - 1 && told.damage_high == (uintptr_t)block);
}

static void each_byte_around_a_block_is_looked_at(void)
{
    for (size_t size = 1; size < 200; size += 13)
        for (int is_left = 0; is_left < 2; is_left++) {
            char *low = NULL, *block = NULL;
            for (size_t at = 0; at < PAGE; at += 61) {
                block = fh_fence_alloc(size, 0, 0, 0, is_left != 0);
                low = (char *)fh_align_down((uintptr_t)block, PAGE);
                bool is_outside = low + at < block || low + at >= block + size;
                low[at] = 0; /* no canary's byte is 0 */
                atomic_store(&told_count, 0);
                give(block);
                EXPECT(atomic_load(&told_count) == is_outside);
                EXPECT(!is_outside || told.damage_low == (uintptr_t)low + at);
            }
        }
}

static void what_was_asked_for_may_be_written(void)
{
    for (size_t size = 0; size < 9000; size += 7) {
        char *block = take(size);
        memset(block, 0, size);
        give(block);
    }
    EXPECT(atomic_load(&told_count) == 0);
}

static void a_second_free_is_told_with_the_first_ones_stack(void)
{
    char *block = take(100);
    give(block);
    give(block);
    EXPECT(was_told("double-free"));
    EXPECT(told.address == (uintptr_t)block && strcmp(told.function, "free") == 0);
    EXPECT(told_block.free_stack == 22 && told_block.alloc_stack == 11);
}

static void a_free_inside_a_block_is_told(void)
{
    char *block = take(100);
    give(block + 16);
    EXPECT(was_told("interior-free") && told_block.address == (uintptr_t)block);
    give(block); /* it is live still */
    EXPECT(atomic_load(&told_count) == 1);
}

static void a_free_beside_a_block_is_told(void)
{
    char *block = take(100);
    give(block - 64);
    EXPECT(was_told("invalid-free"));
    give(block + 4096);
    EXPECT(atomic_load(&told_count) == 2 && strcmp(told.kind, "invalid-free") == 0);
}

static void a_free_where_no_block_ever_was_is_told(void)
{
    char *block = take(100);
    while (fh_fence_owns(block + 512 * PAGE))
        block += 512 * PAGE;
    give(block);
    EXPECT(was_told("invalid-free") && told.block == NULL);
}

static void families_do_not_mix(void)
{
    static const struct {
        unsigned alloc, free;
        bool is_error;
    } cases[] = {
        {FH_HOW_MALLOC, FH_HOW_MALLOC, false},
        {FH_HOW_NEW, FH_HOW_NEW, false},
        {FH_HOW_ARRAY, FH_HOW_ARRAY, false},
        {FH_HOW_MALLOC, FH_HOW_NEW, true},
        {FH_HOW_MALLOC, FH_HOW_ARRAY, true},
        {FH_HOW_NEW, FH_HOW_MALLOC, true},
        {FH_HOW_NEW, FH_HOW_ARRAY, true},
        {FH_HOW_ARRAY, FH_HOW_NEW, true},
        {FH_HOW_ARRAY, FH_HOW_MALLOC, true},
        {FH_HOW_MALLOC | FH_HOW_ZEROED, FH_HOW_MALLOC | FH_HOW_RESIZE, false},
        {FH_HOW_MALLOC | FH_HOW_ALIGNED, FH_HOW_MALLOC, false},
        {FH_HOW_NEW | FH_HOW_ALIGNED, FH_HOW_NEW | FH_HOW_ALIGNED, false},
        {FH_HOW_NEW | FH_HOW_ALIGNED, FH_HOW_NEW, true},
        {FH_HOW_NEW, FH_HOW_ANY, false}, /* not known */
        {FH_HOW_ARRAY, FH_HOW_ANY | FH_HOW_RESIZE, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        atomic_store(&told_count, 0);
        size_t align = cases[i].alloc & FH_HOW_ALIGNED ? 64 : 0;
        void *block = fh_fence_alloc(64, align, cases[i].alloc, 0, false);
        fh_fence_free(block, 64, 64, cases[i].free, 0, NULL);
        EXPECT(atomic_load(&told_count) == cases[i].is_error);
        EXPECT(!cases[i].is_error || strcmp(told.kind, "alloc-dealloc-mismatch") == 0);
        struct fh_guard_block found;
        EXPECT(fh_fence_find(block, &found));
        EXPECT(found.state == (cases[i].is_error ? FH_BLOCK_LIVE : FH_BLOCK_FREED));
    }
}

static void sizes_must_agree(void)
{
    void *block = fh_fence_alloc(64, 0, FH_HOW_NEW, 0, false);
    fh_fence_free(block, 64, 0, FH_HOW_NEW | FH_HOW_SIZED, 0, NULL);
    EXPECT(atomic_load(&told_count) == 0);
    block = fh_fence_alloc(64, 0, FH_HOW_NEW, 0, false);
    fh_fence_free(block, 63, 0, FH_HOW_NEW | FH_HOW_SIZED, 0, NULL);
    EXPECT(was_told("size-mismatch"));
    EXPECT(strcmp(told.function, "operator delete") == 0);
    unsigned aligned = FH_HOW_NEW | FH_HOW_ALIGNED;
    block = fh_fence_alloc(64, 64, aligned, 0, false);
    fh_fence_free(block, 64, 32, aligned | FH_HOW_SIZED, 0, NULL);
    EXPECT(atomic_load(&told_count) == 2 && strcmp(told.kind, "size-mismatch") == 0);
}

/* ---- slots ----------------------------------------------------------------------------------- */

static void a_slot_comes_back_late(void)
{
    fh_guard_settings.mode = FH_MODE_HARDENED;
    char *first = take(100);
    give(first);
    for (int i = 0; i < 4096 - 1; i++) {
        char *block = take(100);
        EXPECT(block != first);
        give(block);
    }
    struct fh_fence_counts counts;
    fh_fence_counts(&counts);
    EXPECT(counts.freed == 4096);
    /* Now the first eight are candidates, and it does come back some time. */
    bool is_back = false;
    for (int i = 0; i < 500 && !is_back; i++) {
        char *block = take(100);
        is_back = block == first;
        give(block);
    }
    EXPECT(is_back);
}

static void the_order_of_slots_is_random(void)
{
    int steps_up = 0;
    char *last = take(100);
    for (int i = 0; i < 200; i++) {
        char *block = take(100);
        steps_up += block > last;
        last = block;
    }
    EXPECT(steps_up > 50 && steps_up < 150);
}

static void live_blocks_are_limited_in_fast_mode(void)
{
    fh_guard_settings.mode = FH_MODE_FAST;
    size_t count = 0;
    void *blocks[100];
    while (count < 100 && (blocks[count] = take(100)) != NULL)
        count++;
    EXPECT(count == 48);
    give(blocks[7]);
    EXPECT(take(100) != NULL);
}

static void live_pages_are_limited(void)
{
    fh_guard_settings.mode = FH_MODE_HARDENED;
    size_t pages = 0;
    while (pages < 5000 && take(10 * PAGE) != NULL)
        pages += 10;
    EXPECT(pages >= 480 && pages <= 512);
    EXPECT(take(100) != NULL);
}

/* ---- where there are no markers -------------------------------------------------------------- */

static bool has_userfaultfd(void)
{
    int fd = fh_os_faults_open();
    if (fd >= 0)
        fh_os_faults_close(fd);
    return fd >= 0;
}

static void all_of_it_works(void)
{
    right_blocks_end_at_a_guard_page();
    left_blocks_begin_after_a_guard_page();
    a_freed_block_traps();
    blocks_are_zero_when_they_come_back();
}

static void missing_pages_trap_too(void)
{
    fh_os_force_features(NO_MARKERS);
    all_of_it_works();
    struct fh_fence_counts counts;
    fh_fence_counts(&counts);
    EXPECT(!has_userfaultfd() || counts.mappings == 0);
}

static void holes_trap_too(void)
{
    fh_os_force_features(NEITHER);
    all_of_it_works();
    struct fh_fence_counts counts;
    fh_fence_counts(&counts);
    EXPECT(counts.mappings == 2 * counts.live);
}

static void holes_take_a_quarter_of_the_mappings(void)
{
    fh_os_force_features(NEITHER);
    size_t before = mappings_of_process(), limit = fh_os_mapping_limit() / 4, count = 0;
    static void *blocks[100000];
    while (count < 100000 && (blocks[count] = take(100)) != NULL)
        count++;
    EXPECT(count == limit / 2);
    EXPECT(mappings_of_process() <= before + limit + 100); /* records have some */
    for (size_t i = 0; i < count; i++)
        give(blocks[i]);
    EXPECT(mappings_of_process() < before + 200);
    EXPECT(take(100) != NULL);
    EXPECT(atomic_load(&told_count) == 0);
}

static void missing_pages_take_no_mapping(void)
{
    if (!has_userfaultfd())
        return;
    fh_os_force_features(NO_MARKERS);
    fh_guard_settings.guard = 1;
    size_t before = mappings_of_process();
    for (int i = 0; i < 20000; i++)
        EXPECT(take(24) != NULL);
    EXPECT(mappings_of_process() < before + 100);
}

static void a_forked_child_registers_its_missing_pages(void)
{
    if (!has_userfaultfd())
        return;
    fh_os_force_features(NO_MARKERS);
    char *block = take(100), *freed = take(100);
    strcpy(block, "parent");
    give(freed);
    pid_t child = fork();
    EXPECT(child >= 0);
    if (child == 0) {
        fh_fence_forked();
        EXPECT(traps(freed) && traps(block + 112) && strcmp(block, "parent") == 0);
        char *more = take(100);
        EXPECT(more != NULL && traps(more + 112));
        give(block);
        EXPECT(traps(block) && atomic_load(&told_count) == 0);
        _exit(fh_fence_check());
    }
    int status;
    EXPECT(waitpid(child, &status, 0) == child && status == 0);
    EXPECT(strcmp(block, "parent") == 0 && traps(freed));
    EXPECT(take(100) != NULL);
}

/* Daemons do. */
static void a_program_may_close_all_descriptors(void)
{
    fh_os_force_features(NO_MARKERS);
    char *block = take(100);
    for (int fd = 3; fd < 1024; fd++)
        close(fd);
    give(block);
    for (int i = 0; i < 100; i++) {
        block = take(100);
        if (block == NULL)
            continue;
        memset(block, 1, 100);
        give(block);
    }
    int own = dup(2);
    EXPECT(dup2(own, 500) == 500);
    fh_fence_forked();
    EXPECT(write(500, "", 0) == 0); /* the program's own file is still there */
    EXPECT(atomic_load(&told_count) == 0);
}

static void with_markers_no_mapping_is_used(void)
{
    size_t before = mappings_of_process();
    for (int i = 0; i < 2000; i++)
        EXPECT(take(100) != NULL);
    EXPECT(mappings_of_process() < before + 20);
}

static void in_locked_memory_blocks_are_retired(void)
{
    char *block = take(100), *later = NULL;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    return; /* their shadow memory is larger than the machine */
#endif
    if (syscall(SYS_mlockall, MCL_CURRENT) != 0)
        return; /* not permitted here: nothing to show */
    give(block);
    EXPECT(traps(block));
    struct fh_fence_counts counts;
    fh_fence_counts(&counts);
    EXPECT(counts.retired == 1 && counts.mappings == 2);
    for (int i = 0; i < 1000; i++) {
        later = take(100);
        EXPECT(later != NULL && later != block);
        memset(later, 1, 100);
        give(later);
        EXPECT(traps(later));
    }
    EXPECT(atomic_load(&told_count) == 0);
}

/* ---- memory runs out, address space is limited ----------------------------------------------- */

static void each_call_of_the_kernel_may_fail(void)
{
    void *block;
    for (uint64_t n = 1; n < 40; n++) {
        fh_os_fail_after(n, n % 2 != 0);
        for (int i = 0; i < 8; i++) {
            block = take(5000);
            if (block != NULL) {
                memset(block, 1, 5000);
                give(block);
            }
        }
        fh_os_fail_after(0, false);
        EXPECT(fh_fence_check() == 0);
    }
    EXPECT(atomic_load(&told_count) == 0);
}

static void a_failure_loses_nothing(void)
{
    EXPECT(take(100) != NULL);
    each_call_of_the_kernel_may_fail();
    EXPECT(take(5000) != NULL);
    fh_os_force_features(NO_MARKERS);
    EXPECT(take(20000) != NULL);
    each_call_of_the_kernel_may_fail();
    EXPECT(take(20000) != NULL);
    fh_os_force_features(NEITHER);
    EXPECT(take(50000) != NULL);
    each_call_of_the_kernel_may_fail();
    EXPECT(take(50000) != NULL);
}

/* ---- budgets --------------------------------------------------------------------------------- */

static unsigned count_wanted(struct fh_site *site, unsigned calls)
{
    unsigned wanted = 0;
    for (unsigned i = 0; i < calls; i++) {
        atomic_fetch_add(&site->count, 1);
        wanted += fh_fence_wanted(site, false);
    }
    return wanted;
}

static void a_site_gets_its_first_blocks_then_fewer(void)
{
    struct fh_site site = {0};
    fh_guard_settings.mode = FH_MODE_HARDENED;
    EXPECT(count_wanted(&site, 8) == 8);
    unsigned later = count_wanted(&site, 1000000);
    EXPECT(later >= 20 && later <= 100);
}

static void all_sites_together_get_a_burst(void)
{
    static struct fh_site sites[3000];
    unsigned wanted = 0;
    fh_guard_settings.mode = FH_MODE_HARDENED;
    for (int i = 0; i < 3000; i++)
        wanted += count_wanted(&sites[i], 1);
    EXPECT(wanted >= 1000 && wanted <= 1100); /* 2,000 more in a second */
}

static void tokens_come_back_with_time(void)
{
    static struct fh_site sites[30000];
    unsigned wanted = 0;
    all_sites_together_get_a_burst();
    fh_os_sleep_ns(100000000);
    for (int i = 0; i < 30000; i++)
        wanted += count_wanted(&sites[i], 1);
    EXPECT(wanted >= 150 && wanted <= 800);
}

static void a_site_that_came_too_late_gets_its_blocks_later(void)
{
    static struct fh_site late;
    all_sites_together_get_a_burst();
    EXPECT(count_wanted(&late, 10) < 10);
    fh_os_sleep_ns(100000000);
    EXPECT(count_wanted(&late, 1000) >= 8);
}

static void a_sample_needs_no_budget(void)
{
    struct fh_site site = {0};
    fh_guard_settings.mode = FH_MODE_HARDENED;
    (void)count_wanted(&site, 100000);
    EXPECT(fh_fence_wanted(&site, true));
    fh_guard_settings.guard = 0;
    EXPECT(!fh_fence_wanted(&site, true));
}

static void off_means_none_and_one_means_all(void)
{
    struct fh_site site = {0};
    fh_guard_settings.guard = 0;
    EXPECT(count_wanted(&site, 1000) == 0);
    fh_guard_settings.guard = 1;
    EXPECT(count_wanted(&site, 10000) == 10000);
    EXPECT(site.fenced == 10000); /* whose sides alternate */
}

/* ---- threads and forks ----------------------------------------------------------------------- */

enum { THREADS = 4, ROUNDS = 3000, KEPT = 32 };

static void *work(void *arg)
{
    char *kept[KEPT] = {0};
    unsigned state = (unsigned)(uintptr_t)arg;
    for (int i = 0; i < ROUNDS; i++) {
        state = state * 1664525 + 1013904223;
        char **at = &kept[state >> 27];
        if (*at != NULL)
            give(*at);
        size_t size = (state >> 10) % 9000;
        *at = take(size);
        EXPECT(*at != NULL);
        memset(*at, (int)state, size);
        struct fh_guard_block found;
        EXPECT(fh_fence_find(*at, &found) && found.address == (uintptr_t)*at);
    }
    for (int i = 0; i < KEPT; i++)
        if (kept[i] != NULL)
            give(kept[i]);
    return NULL;
}

static void threads_share_the_slots(void)
{
    pthread_t threads[THREADS];
    for (uintptr_t i = 0; i < THREADS; i++)
        EXPECT(pthread_create(&threads[i], NULL, work, (void *)(i + 1)) == 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    struct fh_fence_counts counts;
    fh_fence_counts(&counts);
    EXPECT(counts.live == 0 && counts.live_pages == 0 && atomic_load(&told_count) == 0);
}

static pthread_barrier_t both;

static void *free_too(void *block)
{
    pthread_barrier_wait(&both);
    give(block);
    return NULL;
}

static void of_two_frees_at_once_one_is_told(void)
{
    pthread_barrier_init(&both, NULL, 2);
    for (int i = 0; i < 200; i++) {
        pthread_t other;
        void *block = take(100);
        atomic_store(&told_count, 0);
        EXPECT(pthread_create(&other, NULL, free_too, block) == 0);
        free_too(block);
        pthread_join(other, NULL);
        EXPECT(was_told("double-free"));
    }
}

static void a_forked_child_has_its_own_blocks(void)
{
    char *block = take(100), *freed = take(100);
    strcpy(block, "parent");
    give(freed);
    pid_t child = fork();
    EXPECT(child >= 0);
    if (child == 0) {
        EXPECT(strcmp(block, "parent") == 0 && traps(freed) && traps(block + 112));
        strcpy(block, "child");
        give(block);
        EXPECT(traps(block) && take(100) != NULL && atomic_load(&told_count) == 0);
        _exit(fh_fence_check());
    }
    int status;
    EXPECT(waitpid(child, &status, 0) == child && status == 0);
    EXPECT(strcmp(block, "parent") == 0);
    give(block);
    EXPECT(atomic_load(&told_count) == 0);
}

/* Under ThreadSanitizer each page has four of shadow. */
#if defined(__SANITIZE_THREAD__)
enum { MANY = 5000 };
#else
enum { MANY = 100000 };
#endif

static void a_hundred_thousand_blocks_live(void)
{
    static char *blocks[MANY];
    fh_guard_settings.guard = 1;
    for (int i = 0; i < MANY; i++) {
        blocks[i] = take(24);
        EXPECT(blocks[i] != NULL);
        memset(blocks[i], 1, 24);
    }
    EXPECT(traps(blocks[MANY / 2] + 32));
    for (int i = 0; i < MANY; i++)
        give(blocks[i]);
    EXPECT(traps(blocks[MANY / 2]));
}

#define CLAIM(body)                                                                                \
    static void test_##body(void **state)                                                          \
    {                                                                                              \
        (void)state;                                                                               \
        alone(body);                                                                               \
    }
#define CLAIMS(X)                                                                                  \
    X(right_blocks_end_at_a_guard_page)                                                            \
    X(left_blocks_begin_after_a_guard_page)                                                        \
    X(blocks_are_aligned_as_objects_of_their_size)                                                 \
    X(blocks_are_aligned_as_asked_for)                                                             \
    X(what_is_too_large_is_refused)                                                                \
    X(only_touched_pages_have_memory)                                                              \
    X(blocks_of_no_bytes_differ_and_are_freed)                                                     \
    X(blocks_are_zero_when_they_come_back)                                                         \
    X(addresses_lead_to_their_block)                                                               \
    X(strangers_lead_nowhere)                                                                      \
    X(every_page_of_the_region_can_be_asked_about)                                                 \
    X(a_guard_page_belongs_to_the_nearest_live_block)                                              \
    X(a_freed_block_traps)                                                                         \
    X(a_write_behind_the_block_is_seen_when_it_is_freed)                                           \
    X(a_write_before_the_block_is_seen_when_it_is_freed)                                           \
    X(each_byte_around_a_block_is_looked_at)                                                       \
    X(what_was_asked_for_may_be_written)                                                           \
    X(a_second_free_is_told_with_the_first_ones_stack)                                             \
    X(a_free_inside_a_block_is_told)                                                               \
    X(a_free_beside_a_block_is_told)                                                               \
    X(a_free_where_no_block_ever_was_is_told)                                                      \
    X(families_do_not_mix)                                                                         \
    X(sizes_must_agree)                                                                            \
    X(a_slot_comes_back_late)                                                                      \
    X(the_order_of_slots_is_random)                                                                \
    X(live_blocks_are_limited_in_fast_mode)                                                        \
    X(live_pages_are_limited)                                                                      \
    X(missing_pages_trap_too)                                                                      \
    X(holes_trap_too)                                                                              \
    X(holes_take_a_quarter_of_the_mappings)                                                        \
    X(missing_pages_take_no_mapping)                                                               \
    X(a_forked_child_registers_its_missing_pages)                                                  \
    X(a_program_may_close_all_descriptors)                                                         \
    X(with_markers_no_mapping_is_used)                                                             \
    X(in_locked_memory_blocks_are_retired)                                                         \
    X(each_call_of_the_kernel_may_fail)                                                            \
    X(a_failure_loses_nothing)                                                                     \
    X(a_site_gets_its_first_blocks_then_fewer)                                                     \
    X(all_sites_together_get_a_burst)                                                              \
    X(tokens_come_back_with_time)                                                                  \
    X(a_site_that_came_too_late_gets_its_blocks_later)                                             \
    X(a_sample_needs_no_budget)                                                                    \
    X(off_means_none_and_one_means_all)                                                            \
    X(threads_share_the_slots)                                                                     \
    X(of_two_frees_at_once_one_is_told)                                                            \
    X(a_forked_child_has_its_own_blocks)                                                           \
    X(a_hundred_thousand_blocks_live)

CLAIMS(CLAIM)

static int start_up(void **state)
{
    (void)state;
    fh_os_init();
    fh_canary_start();
    assert_non_null(fh_malloc(1)); /* this thread has a heap, which knows its number */
    fh_guard_settings = (struct fh_guard_settings){.mode = FH_MODE_DEBUG, .guard = 8 << 20};
    return 0;
}

#define TEST(body) cmocka_unit_test_setup(test_##body, start_up),

int main(void)
{
    const struct CMUnitTest tests[] = {CLAIMS(TEST)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
