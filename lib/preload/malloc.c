/*
 * libc's allocation family over the heap. The fast paths are inlined here; all else is a call into
 * libfreehold.
 *
 * What the standards leave open is decided as glibc does: malloc(0) and realloc(NULL, 0) give a
 * block of their own, realloc(p, 0) frees p and gives NULL, memalign rounds a wrong alignment up,
 * aligned_alloc wants a power of two and takes any size. errno is kept by free, set to ENOMEM by
 * whatever fails for want of memory.
 *
 * malloc, free, realloc and memalign are not inlined into the others: tools that put their own in
 * place of these (valgrind's --soname-synonyms) then see every block, however it was asked for or
 * given back.
 *
 * The whole family is defined, so that a static program takes none of glibc's (duplicates would not
 * link).
 */
#include <errno.h>
#include <malloc.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static void free_miss(void *block);
#define FH_FREE_MISS free_miss
#include "freehold/stats.h"
#include "heap/fast.h"
#include "preload/entry.h"

static struct fh_run nobody;
struct fh_window fh_entry_window = {.headers = (uintptr_t)&nobody};

FH_FAST static FH_NOINLINE void free_miss(void *block)
{
    if (FH_UNLIKELY(fh_entry_window.mask == 0))
        fh_window_open(&fh_entry_window);
    fh_free_slow(block);
}

ENTRY FH_NOINLINE void *malloc(size_t size)
{
    return FH_TELL_ALLOC(fh_malloc_fast(size), size, 0, 0);
}

ENTRY FH_NOINLINE void free(void *block)
{
    FH_TELL_FREE(block, 0);
    fh_free_fast(&fh_entry_window, block);
}

ENTRY void *calloc(size_t count, size_t size)
{
    return FH_TELL_ALLOC(fh_calloc_fast(count, size), count * size, 0, FH_TRACE_ZEROED);
}

ENTRY FH_NOINLINE void *realloc(void *block, size_t size)
{
    if (FH_UNLIKELY(size == 0 && block != NULL)) {
        free(block);
        return NULL;
    }
    if (FH_IS_RECORDER && block == NULL)
        return malloc(size);
    void *resized = fh_realloc_fast(&fh_entry_window, block, size);
    FH_TELL_RESIZE(resized, block, size);
    return resized;
}

ENTRY void *reallocarray(void *block, size_t count, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes)) {
        errno = ENOMEM;
        return NULL;
    }
    return realloc(block, bytes);
}

ENTRY FH_NOINLINE void *memalign(size_t align, size_t size)
{
    if (align > ((size_t)1 << 62)) {
        errno = EINVAL;
        return NULL;
    }
    align = fh_pow2_ceil(align);
    return FH_TELL_ALLOC(fh_aligned_alloc(align, size), size, align, 0);
}

#ifdef FH_RECORD
void *fh_entry_malloc(size_t size)
{
    return fh_malloc_fast(size);
}

void *fh_entry_aligned(size_t align, size_t size)
{
    if (fh_is_pow2(align))
        return fh_aligned_alloc(align, size);
    errno = EINVAL;
    return NULL;
}

void fh_entry_free(void *block)
{
    fh_free_fast(&fh_entry_window, block);
}
#endif

ENTRY void *aligned_alloc(size_t align, size_t size)
{
    if (!fh_is_pow2(align)) {
        errno = EINVAL;
        return NULL;
    }
    return memalign(align, size);
}

ENTRY int posix_memalign(void **out, size_t align, size_t size)
{
    if (!fh_is_pow2(align) || align % sizeof(void *) != 0)
        return EINVAL;
    int saved = errno;
    void *block = memalign(align, size);
    errno = saved;
    if (block == NULL)
        return ENOMEM;
    *out = block;
    return 0;
}

ENTRY void *valloc(size_t size)
{
    return memalign((size_t)sysconf(_SC_PAGESIZE), size);
}

ENTRY void *pvalloc(size_t size)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), rounded;
    if (!fh_align_up_checked(size, page, &rounded)) {
        errno = ENOMEM;
        return NULL;
    }
    return memalign(page, rounded);
}

ENTRY void cfree(void *block)
{
    free(block);
}

static FH_COLD void free_guarded(void *block, size_t size, size_t align, unsigned how)
{
    const struct fh_call call = FH_CALL_HERE();
    fh_guarded_free_as(block, size, align, FH_HOW_MALLOC | FH_HOW_SIZED | how, &call);
}

ENTRY void free_sized(void *block, size_t size)
{
    if (fh_may_be_guarded())
        free_guarded(block, size, 0, 0);
    else
        free(block);
}

ENTRY void free_aligned_sized(void *block, size_t align, size_t size)
{
    if (fh_may_be_guarded())
        free_guarded(block, size, align, FH_HOW_ALIGNED);
    else
        free(block);
}

ENTRY size_t malloc_usable_size(void *block)
{
    return fh_usable_size(block);
}

ENTRY int malloc_trim(size_t keep)
{
    return fh_heap_trim(keep) > 0;
}

/* Tuning glibc's heap means nothing here; yes is what programs expect to hear. */
ENTRY int mallopt(int parameter, int value)
{
    (void)parameter;
    (void)value;
    return 1;
}

ENTRY struct mallinfo2 mallinfo2(void)
{
    struct fh_stats stats = {.size = sizeof stats};
    struct mallinfo2 info = {0};
    if (fh_stats(&stats) != 0)
        return info;
    info.arena = stats.footprint;
    info.uordblks = stats.live_bytes;
    info.fordblks = stats.footprint > stats.live_bytes ? stats.footprint - stats.live_bytes : 0;
    info.keepcost = info.fordblks;
    info.hblks = (size_t)(stats.large_allocs - stats.large_frees);
    return info;
}

ENTRY struct mallinfo mallinfo(void)
{
    struct mallinfo2 wide = mallinfo2();
    return (struct mallinfo){.arena = (int)wide.arena,
                             .uordblks = (int)wide.uordblks,
                             .fordblks = (int)wide.fordblks,
                             .keepcost = (int)wide.keepcost,
                             .hblks = (int)wide.hblks};
}

ENTRY int malloc_info(int options, FILE *stream)
{
    struct fh_stats stats = {.size = sizeof stats};
    if (options != 0)
        return EINVAL;
    if (fh_stats(&stats) != 0)
        return ENOMEM;
    fprintf(stream, "<malloc version=\"freehold-1\">\n<heap nr=\"0\">\n<sizes>\n");
    for (unsigned i = 0; i < stats.class_count; i++)
        if (stats.classes[i].allocs != 0)
            fprintf(stream, "  <size from=\"1\" to=\"%zu\" total=\"%llu\" count=\"%llu\"/>\n",
                    stats.classes[i].block_size,
                    stats.classes[i].block_size *
                        (unsigned long long)(stats.classes[i].allocs - stats.classes[i].frees),
                    (unsigned long long)(stats.classes[i].allocs - stats.classes[i].frees));
    fprintf(stream,
            "</sizes>\n<total type=\"rest\" count=\"%zu\" size=\"%zu\"/>\n<system type=\"current\" "
            "size=\"%zu\"/>\n"
            "<system type=\"max\" size=\"%zu\"/>\n</heap>\n</malloc>\n",
            stats.live_blocks, stats.live_bytes, stats.footprint, stats.peak_footprint);
    return 0;
}

ENTRY void malloc_stats(void)
{
    fh_stats_print(STDERR_FILENO);
}
