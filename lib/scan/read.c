/*
 * Reading memory that somebody else laid out.
 *
 * A mapping that may be read and written can still have pages that may not be touched: guard pages
 * (MADV_GUARD_INSTALL leaves the mapping as it was), pages of a private file mapping behind the file's
 * end (SIGBUS), pages that the program fills itself (userfaultfd). And pages that nobody has written
 * would come into being by being read. All of them show in the page table: what is present is read, what
 * is absent is zero or the file's own bytes and holds no address of a block, and what is elsewhere (swap,
 * or a marker) is copied by the kernel, which fails where we would crash.
 *
 * Without /proc/self/pagemap everything is copied.
 */
#include "os/mem.h"
#include "scan/internal.h"

#include <errno.h>

enum { BUFFER_WORDS = 512 };

/* A page or less, by a copy. */
static void read_copied(struct fh_scan *scan, uintptr_t low, uintptr_t high, fh_scan_read *read)
{
    uintptr_t buffer[BUFFER_WORDS];
    while (low < high) {
        size_t bytes = fh_min(high - low, sizeof buffer);
        int64_t got = fh_os_copy_memory(buffer, (const void *)low, bytes);
        if (got > 0)
            read(scan, buffer, buffer + (size_t)got / sizeof buffer[0]);
        else if (got != -EFAULT)
            scan->gaps |= FH_SCAN_GAP_MEMORY;
        low += bytes;
    }
}

/* Pages of one kind in a row, clipped to [low, high). */
static void read_row(struct fh_scan *scan, uint8_t kind, uintptr_t low, uintptr_t high,
                     fh_scan_read *read)
{
    if (kind == FH_OS_PAGE_PRESENT)
        read(scan, (const uintptr_t *)low, (const uintptr_t *)high);
    else if (kind == FH_OS_PAGE_ELSEWHERE)
        read_copied(scan, low, high, read);
}

static void read_by_table(struct fh_scan *scan, uintptr_t page, unsigned count, uintptr_t low,
                          uintptr_t high, const uint8_t *kinds, fh_scan_read *read)
{
    for (unsigned first = 0, end; first < count; first = end) {
        for (end = first + 1; end < count && kinds[end] == kinds[first];)
            end++;
        read_row(scan, kinds[first], fh_max(low, page + ((uintptr_t)first << fh_os_page_shift)),
                 fh_min(high, page + ((uintptr_t)end << fh_os_page_shift)), read);
    }
}

void fh_scan_read_paged(struct fh_scan *scan, uintptr_t low, uintptr_t high, fh_scan_read *read)
{
    low = fh_align_up(low, sizeof(uintptr_t));
    high = fh_align_down(high, sizeof(uintptr_t));
    for (uintptr_t page = fh_align_down(low, fh_os_page_size); page < high;) {
        uint8_t kinds[FH_OS_PAGEMAP_MOST];
        unsigned count = (unsigned)fh_min((high - page + fh_os_page_size - 1) >> fh_os_page_shift,
                                          FH_OS_PAGEMAP_MOST);
        if (scan->pagemap >= 0 && fh_os_read_pagemap(scan->pagemap, page, count, kinds) == 0)
            read_by_table(scan, page, count, low, high, kinds, read);
        else
            read_copied(scan, fh_max(low, page),
                        fh_min(high, page + ((uintptr_t)count << fh_os_page_shift)), read);
        page += (uintptr_t)count << fh_os_page_shift;
    }
}
