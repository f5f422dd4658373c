/*
 * Memory for code: see code.h for what it promises.
 *
 *     | guard | code: read and execute ............ | guard |     where blocks have their addresses
 *                 \ the same memory
 *     | guard | writable: nothing, or read and write | guard |  elsewhere, while writers != 0
 *
 * The memfd behind both is closed as soon as it is mapped: no descriptor is left by which code
 * could be written. With one mapping `writable` is `code`, and its access toggles. In either case
 * the kernel is told twice for each outermost write, under the lock, for the reasons that protect.c
 * gives.
 *
 * Which bytes are whose is kept by a buddy system whose metadata lies apart: it never touches the
 * memory that it hands out. A freed block stays live there while it waits in the ring, so the buddy
 * system sees bad addresses, and the ring second frees. When the ring is full, or too many bytes
 * wait, the oldest goes back; when memory is short, all do.
 *
 * All that is in `code` and was never written or was freed are trapping instructions: a jump that
 * is wrong or late ends at once. (Beyond `used` nothing was ever handed out and pages have no
 * memory; there a jump finds zeroes, which trap on aarch64 and do not on x86-64, where they add to
 * memory at rax.)
 *
 * New code. x86-64 keeps its caches coherent, by physical address; aarch64 is told by the
 * instructions that __builtin___clear_cache holds: data caches behave there as if by physical
 * address too, so the executable addresses do for both. Other processors may have fetched ahead
 * what was there before; they are made to fetch anew (membarrier) before end returns.
 *
 * Fork. A shared mapping would stay shared. So before a fork the used part is copied to a second
 * memfd, which the child maps in place of the first; as in pages/memfd.c the copy is made in the
 * parent, the one moment when it is right. The lock is held from then till after the fork. Sealed
 * code can't change and stays shared. A child for which there was no memory finds nothing at its
 * addresses.
 *
 * Lock: one for all, over the list, the handles and the buddy systems. What is called under it: the
 * kernel, and the buddy system (which reports misuse under it, as under a wrapper's lock).
 */
#include "freehold/code.h"

#include "base/core/bits.h"
#include "base/core/misuse.h"
#include "base/lock.h"
#include "guard/regions.h"
#include "os/mem.h"
#include "pages/pages.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

#define CAPACITY_DEFAULT   ((size_t)16 << 20)
#define CAPACITY_MOST      ((size_t)1 << 30) /* half of what a relative branch reaches */
#define QUARANTINE_DEFAULT ((size_t)64 << 10)
#define BLOCK_LEAST        ((size_t)FH_CACHE_LINE)
/* A thousand blocks of 64 bytes are the default quarantine. */
#define WAITING_MOST       1024u

struct fh_code_wait {
    unsigned char *block;
    size_t bytes;
};

static struct {
    struct fh_lock lock;
    struct fh_code *first;
    bool has_handlers;
} all = {.lock = FH_LOCK_INIT};

static void fill_with_traps(unsigned char *at, size_t bytes)
{
#if defined(__x86_64__)
    memset(at, 0xcc, bytes); /* int3 */
#else
    memset(at, 0, bytes); /* udf #0 */
#endif
}

static bool is_two_mapped(const struct fh_code *code)
{
    return code->writable != code->code;
}

/* ---- mappings -------------------------------------------------------------------------------- */

/* A place for `bytes` between guard pages, near an address when that is free; nothing is there yet.
 * */
static unsigned char *reserve(size_t bytes, const void *near)
{
    /* 64 MiB apart, 15 to each side: all of a gigabyte's neighbourhood is looked at. */
    enum { STEPS = 15, STEP_SHIFT = 26 };
    size_t guard = fh_os_page_size, total = bytes + 2 * guard;
    uintptr_t wish = fh_align_down((uintptr_t)near, fh_os_page_size);
    for (uintptr_t step = 1; near != NULL && step <= STEPS; step++) {
        uintptr_t away = step << STEP_SHIFT;
        unsigned char *range = fh_os_reserve_at((void *)(wish + away), total);
        if (range == NULL && wish > away + total)
            range = fh_os_reserve_at((void *)(wish - away - total), total);
        if (range != NULL)
            return range + guard;
    }
    unsigned char *range = fh_os_reserve_hidden(total, guard);
    return range != NULL ? range + guard : NULL;
}

static void release(unsigned char *base, size_t bytes)
{
    if (base != NULL)
        fh_os_release(base - fh_os_page_size, bytes + 2 * fh_os_page_size);
}

/* One file at two places; false when that is not to be had. */
static bool map_twice(struct fh_code *code, const void *near)
{
    int file = fh_os_memfd_of_code("freehold-code", code->capacity);
    if (file < 0)
        return false;
    code->code = reserve(code->capacity, near);
    code->writable = reserve(code->capacity, NULL);
    bool is_mapped = code->code != NULL && code->writable != NULL &&
                     fh_os_map_fd_for_at(code->code, file, code->capacity, FH_OS_EXECUTE) != NULL &&
                     fh_os_map_fd_for_at(code->writable, file, code->capacity, FH_OS_NONE) != NULL;
    fh_os_close(file);
    if (is_mapped)
        return true;
    release(code->code, code->capacity);
    release(code->writable, code->capacity);
    code->code = code->writable = NULL;
    return false;
}

static bool map_once(struct fh_code *code, const void *near)
{
    code->code = reserve(code->capacity, near);
    if (code->code == NULL)
        return false;
    /* Committed as memory first: the kernel accounts what was ever writable. */
    if (fh_os_commit(code->code, code->capacity) == 0 &&
        fh_os_protect(code->code, code->capacity, FH_OS_EXECUTE) == 0) {
        code->writable = code->code;
        return true;
    }
    release(code->code, code->capacity);
    code->code = NULL;
    return false;
}

static int open_writing(struct fh_code *code)
{
    int result = code->is_sealed ? -EPERM
                 : code->writers == 0
                     ? fh_os_protect(code->writable, code->capacity, FH_OS_READ_WRITE)
                     : 0;
    if (result == 0)
        code->writers++;
    return result;
}

static int close_writing(struct fh_code *code)
{
    int result = code->writers == 0 ? -EINVAL
                 : code->writers == 1
                     ? fh_os_protect(code->writable, code->capacity,
                                     is_two_mapped(code) ? FH_OS_NONE : FH_OS_EXECUTE)
                     : 0;
    if (result == 0)
        code->writers--;
    return result;
}

static unsigned char *writable_at(const struct fh_code *code, const void *address)
{
    return code->writable + ((const unsigned char *)address - code->code);
}

/* ---- fork ------------------------------------------------------------------------------------ */

static int copy_for_child(const struct fh_code *code)
{
    int file = fh_os_memfd_of_code("freehold-code", code->capacity);
    if (file < 0 || fh_os_write_at(file, code->code, code->used, 0) == 0)
        return file;
    fh_os_close(file);
    return -ENOMEM;
}

static void before_fork(void)
{
    fh_lock_acquire(&all.lock);
    for (struct fh_code *code = all.first; code != NULL; code = code->next)
        if (is_two_mapped(code))
            code->child_file = copy_for_child(code);
}

static void close_child_file(struct fh_code *code)
{
    if (code->child_file >= 0)
        fh_os_close(code->child_file);
    code->child_file = -1;
}

static void after_fork_in_parent(void)
{
    for (struct fh_code *code = all.first; code != NULL; code = code->next)
        close_child_file(code);
    fh_lock_release(&all.lock);
}

/* The parent's memory must be nowhere in the child. */
static void map_copy(unsigned char *at, const struct fh_code *code, enum fh_os_access access)
{
    if (code->child_file >= 0 &&
        fh_os_map_fd_for_at(at, code->child_file, code->capacity, access) != NULL)
        return;
    fh_os_release(at, code->capacity);
    (void)fh_os_reserve_at(at, code->capacity);
}

static void after_fork_in_child(void)
{
    for (struct fh_code *code = all.first; code != NULL; code = code->next) {
        if (!is_two_mapped(code))
            continue;
        map_copy(code->code, code, FH_OS_EXECUTE);
        map_copy(code->writable, code, code->writers != 0 ? FH_OS_READ_WRITE : FH_OS_NONE);
        close_child_file(code);
    }
    fh_lock_reset(&all.lock);
}

static void list(struct fh_code *code)
{
    fh_lock_acquire(&all.lock);
    bool is_first = !all.has_handlers;
    all.has_handlers = true;
    code->next = all.first;
    code->link = &all.first;
    if (code->next != NULL)
        code->next->link = &code->next;
    all.first = code;
    fh_lock_release(&all.lock);
    if (is_first) /* outside the lock: it allocates */
        pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

static void unlist(struct fh_code *code)
{
    *code->link = code->next;
    if (code->next != NULL)
        code->next->link = code->link;
}

/* ---- opening and closing --------------------------------------------------------------------- */

static int open_blocks(struct fh_code *code)
{
    struct fh_buddy_options options = {
        .place = FH_PLACE_BUFFER(code->code, code->capacity),
        .unit = BLOCK_LEAST,
    };
    size_t ring = WAITING_MOST * sizeof(struct fh_code_wait);
    options.metadata_bytes = fh_buddy_metadata_size(&options);
    code->metadata_bytes = fh_align_up(ring + options.metadata_bytes, fh_os_page_size);
    code->metadata = fh_meta_map(code->metadata_bytes);
    if (code->metadata == NULL)
        return -ENOMEM;
    code->waiting = code->metadata;
    options.metadata = (unsigned char *)code->metadata + ring;
    int result = fh_buddy_init(&code->blocks, &options);
    if (result != 0)
        fh_meta_unmap(code->metadata, code->metadata_bytes);
    return result;
}

static void release_mappings(struct fh_code *code)
{
    if (is_two_mapped(code))
        release(code->writable, code->capacity);
    release(code->code, code->capacity);
    code->code = code->writable = NULL;
}

int fh_code_init(struct fh_code *code, const struct fh_code_options *options)
{
    static const struct fh_code_options defaults;
    if (options == NULL)
        options = &defaults;
    *code = (struct fh_code){.child_file = -1, .note = -1};
    if (options->capacity > CAPACITY_MOST ||
        (options->flags & ~(unsigned)FH_CODE_TWO_MAPPINGS) != 0)
        return fh_region_error(-EINVAL);
    fh_os_init();
    size_t capacity = options->capacity != 0 ? options->capacity : CAPACITY_DEFAULT;
    code->capacity = fh_align_up(capacity, fh_os_page_size);
    code->quarantine = options->quarantine != 0 ? options->quarantine : QUARANTINE_DEFAULT;
    if (!map_twice(code, options->near) &&
        ((options->flags & FH_CODE_TWO_MAPPINGS) != 0 || !map_once(code, options->near)))
        return fh_region_error(-ENOTSUP);
    int result = open_blocks(code);
    if (result != 0) {
        release_mappings(code);
        return fh_region_error(result);
    }
    code->is_two_mapped = is_two_mapped(code);
    uintptr_t base = (uintptr_t)code->code;
    code->note = fh_region_note(base - fh_os_page_size, base + code->capacity + fh_os_page_size,
                                fh_os_page_size, FH_REGION_CODE);
    list(code);
    return 0;
}

int fh_code_destroy(struct fh_code *code)
{
    if (code->code == NULL)
        return fh_region_error(-EINVAL);
    if (code->is_sealed)
        return fh_region_error(-EPERM);
    fh_lock_acquire(&all.lock);
    unlist(code);
    fh_lock_release(&all.lock);
    fh_region_forget(code->note);
    fh_buddy_destroy(&code->blocks);
    fh_meta_unmap(code->metadata, code->metadata_bytes);
    release_mappings(code);
    code->capacity = 0; /* it owns no address any more */
    return 0;
}

/* ---- blocks ---------------------------------------------------------------------------------- */

static void take_back_oldest(struct fh_code *code)
{
    struct fh_code_wait *oldest = &code->waiting[code->waiting_first];
    code->waiting_first = (code->waiting_first + 1) % WAITING_MOST;
    code->waiting_count--;
    code->waiting_bytes -= oldest->bytes;
    fh_buddy_free(&code->blocks, oldest->block);
}

static void wait_in_quarantine(struct fh_code *code, unsigned char *block, size_t bytes)
{
    if (code->waiting_count == WAITING_MOST)
        take_back_oldest(code);
    code->waiting[(code->waiting_first + code->waiting_count++) % WAITING_MOST] =
        (struct fh_code_wait){block, bytes};
    code->waiting_bytes += bytes;
    while (code->waiting_bytes > code->quarantine)
        take_back_oldest(code);
}

static bool is_waiting(const struct fh_code *code, const unsigned char *block)
{
    for (uint32_t i = 0; i < code->waiting_count; i++)
        if (code->waiting[(code->waiting_first + i) % WAITING_MOST].block == block)
            return true;
    return false;
}

/* What is all traps; the caller has the lock. */
static int make_traps(struct fh_code *code, unsigned char *block, size_t bytes)
{
    int result = open_writing(code);
    if (result != 0)
        return result;
    fill_with_traps(writable_at(code, block), bytes);
    __builtin___clear_cache((char *)block, (char *)block + bytes);
    return close_writing(code);
}

static unsigned char *take(struct fh_code *code, size_t size)
{
    unsigned char *block = fh_buddy_alloc(&code->blocks, size);
    while (block == NULL && code->waiting_count != 0) {
        take_back_oldest(code);
        block = fh_buddy_alloc(&code->blocks, size);
    }
    return block;
}

static void *alloc_locked(struct fh_code *code, size_t size)
{
    if (code->is_sealed)
        return fh_region_fail(EPERM);
    unsigned char *block = take(code, size);
    if (block == NULL)
        return fh_region_fail(ENOMEM);
    size_t bytes = fh_buddy_usable_size(&code->blocks, block);
    if (make_traps(code, block, bytes) != 0) {
        fh_buddy_free(&code->blocks, block);
        return fh_region_fail(ENOMEM);
    }
    code->used = fh_max(code->used, (size_t)(block - code->code) + bytes);
    return block;
}

void *fh_code_alloc(struct fh_code *code, size_t size)
{
    fh_lock_acquire(&all.lock);
    void *block = alloc_locked(code, size);
    fh_lock_release(&all.lock);
    return block;
}

static void free_locked(struct fh_code *code, unsigned char *block)
{
    size_t bytes = fh_buddy_usable_size(&code->blocks, block); /* reports what is none */
    if (bytes == 0)
        return;
    if (is_waiting(code, block)) {
        fh_misuse("double-free", block, "the code was freed already");
        return;
    }
    /* What can't be made traps is not handed out again either. */
    if (make_traps(code, block, bytes) == 0)
        wait_in_quarantine(code, block, bytes);
}

void fh_code_free(struct fh_code *code, void *block)
{
    if (block == NULL)
        return;
    fh_lock_acquire(&all.lock);
    free_locked(code, block);
    fh_lock_release(&all.lock);
}

/* ---- writing --------------------------------------------------------------------------------- */

bool fh_code_owns(const struct fh_code *code, const void *address)
{
    return (uintptr_t)address - (uintptr_t)code->code < code->capacity;
}

static bool is_inside(const struct fh_code *code, const void *address, size_t size)
{
    uintptr_t offset = (uintptr_t)address - (uintptr_t)code->code;
    return offset <= code->capacity && size <= code->capacity - offset;
}

void *fh_code_begin_write(struct fh_code *code, void *block)
{
    if (!fh_code_owns(code, block))
        return fh_region_fail(EINVAL);
    fh_lock_acquire(&all.lock);
    int result = open_writing(code);
    fh_lock_release(&all.lock);
    return result == 0 ? writable_at(code, block) : fh_region_fail(-result);
}

int fh_code_end_write(struct fh_code *code, void *block, size_t size)
{
    if (!is_inside(code, block, size))
        return fh_region_error(-EINVAL);
    fh_lock_acquire(&all.lock);
    int result = close_writing(code);
    fh_lock_release(&all.lock);
    if (result != 0)
        return fh_region_error(result);
    __builtin___clear_cache((char *)block, (char *)block + size);
    (void)fh_os_refetch_code(); /* where it is refused, the caller's publication has to do */
    return 0;
}

int fh_code_write(struct fh_code *code, void *to, const void *from, size_t size)
{
    if (!is_inside(code, to, size))
        return fh_region_error(-EINVAL);
    void *at = fh_code_begin_write(code, to);
    if (at == NULL)
        return -errno;
    memcpy(at, from, size);
    return fh_code_end_write(code, to, size);
}

/* ---- the end of writing ---------------------------------------------------------------------- */

static int seal(struct fh_code *code)
{
    if (code->code == NULL || code->is_sealed)
        return -EINVAL;
    if (code->writers != 0)
        return -EBUSY;
    if (is_two_mapped(code)) {
        release(code->writable, code->capacity);
        code->writable = code->code;
    }
    code->is_sealed = true;
    unlist(code); /* fork need not know it any more, nor the handle be kept */
    return fh_os_seal(code->code - fh_os_page_size, code->capacity + 2 * fh_os_page_size) == 0 ? 0
                                                                                               : 1;
}

int fh_code_seal(struct fh_code *code)
{
    fh_lock_acquire(&all.lock);
    int result = seal(code);
    fh_lock_release(&all.lock);
    return fh_region_error(result);
}

bool fh_code_is_two_mapped(const struct fh_code *code)
{
    return code->is_two_mapped;
}
