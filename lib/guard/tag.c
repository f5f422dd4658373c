/*
 * Colours of memory: see pointer_tag.h.
 *
 * A block gets its colour when it is first handed out, a new one at each free, and keeps that when it is
 * handed out again. So the colour changes once a life, and at the moment that matters: pointers to the
 * freed block are wrong at once, and still are after the next allocation has taken its place.
 *
 * Invariant: adjacent blocks differ in colour, because each draws one that its neighbours do not have
 * at that moment, whoever draws later. irg is given the colours to leave out: 0 (the colour of
 * memory and pointers that were never coloured), the block's own, the two neighbours'. At least 12 of 16
 * are left, so that a pointer to an earlier life than the last is caught with probability 11/12, and any
 * other wrong one, whose colour is any of 15, with 14/15.
 *
 * The instructions are written out, because the file is compiled for processors that need not have them: they
 * are reached only where fh_mte_prepare or _start has found them.
 */
#include "freehold/pointer_tag.h"

#include "base/core/bits.h"
#include "os/mem.h"

#include <errno.h>

static int error(int code)
{
    if (code < 0)
        errno = -code;
    return code;
}

int fh_tags_ignore(void)
{
    return error(fh_os_ignore_tags());
}

int fh_mte_start(void)
{
    enum { ALL_BUT_0 = 0xfffe };
    fh_os_init();
    return error(fh_os_start_memory_tags(ALL_BUT_0));
}

bool fh_mte_is_on(void)
{
    return fh_os_has_memory_tags();
}

int fh_mte_prepare(void *memory, size_t bytes)
{
    fh_os_init();
    if (((uintptr_t)memory | bytes) % fh_os_page_size != 0)
        return error(-EINVAL);
    return error(fh_os_tag_memory(memory, bytes));
}

#if defined(__aarch64__)

#define MTE ".arch armv8.5-a+memtag\n\t"
enum { COLOUR_SHIFT = 56, COLOUR_MASK = 15 };

static unsigned colour_of(const void *pointer)
{
    return (unsigned)((uintptr_t)pointer >> COLOUR_SHIFT) & COLOUR_MASK;
}

/* The pointer with the colour of its granule; 0 where memory has none. */
static unsigned char *with_colour_of_memory(const void *address)
{
    uintptr_t pointer = (uintptr_t)fh_mte_plain(address);
    __asm__ volatile(MTE "ldg %0, [%0]" : "+r"(pointer) : : "memory");
    return (unsigned char *)pointer;
}

static unsigned char *draw(const unsigned char *plain, unsigned left_out)
{
    unsigned char *pointer;
    __asm__ volatile(MTE "irg %0, %1, %2" : "=r"(pointer) : "r"(plain), "r"((uintptr_t)left_out));
    return pointer;
}

static void store_colour(unsigned char *pointer, size_t bytes)
{
    for (unsigned char *at = pointer; at < pointer + bytes; at += FH_MTE_GRANULE)
        __asm__ volatile(MTE "stg %0, [%0]" : : "r"(at) : "memory");
}

void *fh_mte_colour(const struct fh_mte_range *range, void *block, size_t size)
{
    unsigned char *plain = fh_mte_plain(block);
    size_t bytes = fh_align_up(fh_max(size, 1), FH_MTE_GRANULE);
    unsigned left_out = 1u | 1u << colour_of(with_colour_of_memory(plain));
    if (plain > range->low)
        left_out |= 1u << colour_of(with_colour_of_memory(plain - FH_MTE_GRANULE));
    if (plain + bytes < range->high)
        left_out |= 1u << colour_of(with_colour_of_memory(plain + bytes));
    unsigned char *pointer = draw(plain, left_out);
    store_colour(pointer, bytes);
    return pointer;
}

void *fh_mte_pointer(const void *block)
{
    return with_colour_of_memory(block);
}

#else

void *fh_mte_colour(const struct fh_mte_range *range, void *block, size_t size)
{
    (void)range, (void)size;
    return block;
}

void *fh_mte_pointer(const void *block)
{
    return (void *)(uintptr_t)block;
}

#endif
