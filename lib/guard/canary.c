/*
 * Canaries: bytes behind (and around) blocks that nobody may write.
 *
 * Byte i of memory has the value of byte i mod 8 of a word drawn at start. So any range is filled and compared eight
 * bytes at a time whatever its alignment, a word's stores may overlap, and a copy of a block to another place that
 * takes its canary along (realloc by hand) is not a false alarm as long as both have the same offset. No byte is 0: the
 * commonest error writes a string's end there.
 *
 * The word is not in the image and not the same in two runs: who overflows a block without reading past it first
 * can't write what is expected.
 */
#include "guard/thread.h"
#include "os/sys.h"

#include <string.h>

static uint64_t word; /* for addresses that are multiples of 8 */

void fh_canary_start(void)
{
    word = fh_os_random();
    for (unsigned i = 0; i < 8; i++)
        if ((word >> (8 * i) & 0xff) == 0)
            word |= (uint64_t)0xb5 << (8 * i);
}

/* What eight bytes from `address` on are: the machine is little-endian where this is used. */
static uint64_t word_at(uintptr_t address)
{
    const unsigned shift = (unsigned)(address & 7) * 8;
    return shift == 0 ? word : word >> shift | word << (64 - shift);
}

void fh_canary_fill(uintptr_t from, uintptr_t to)
{
    if (to - from < 8) {
        const uint64_t value = word_at(from);
        memcpy((void *)from, &value, to - from);
        return;
    }
    const uint64_t value = word_at(from), last = word_at(to - 8);
    for (uintptr_t at = from; at + 8 <= to; at += 8)
        memcpy((void *)at, &value, 8);
    memcpy((void *)(to - 8), &last, 8);
}

void fh_canary_tell(uintptr_t from, uint8_t *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++)
        bytes[i] = (uint8_t)word_at(from + i);
}

static FH_COLD bool find_damage(uintptr_t from, uintptr_t to, uintptr_t *low, uintptr_t *high)
{
    *low = *high = 0;
    for (uintptr_t at = from; at < to; at++) {
        if (*(const unsigned char *)at == (unsigned char)word_at(at))
            continue;
        if (*low == 0)
            *low = at;
        *high = at + 1;
    }
    return *low == 0;
}

bool fh_canary_holds(uintptr_t from, uintptr_t to, uintptr_t *low, uintptr_t *high)
{
    uint64_t found, difference = 0;
    if (to - from < 8)
        return find_damage(from, to, low, high);
    const uint64_t value = word_at(from);
    for (uintptr_t at = from; at + 8 <= to; at += 8) {
        memcpy(&found, (const void *)at, 8);
        difference |= found ^ value;
    }
    memcpy(&found, (const void *)(to - 8), 8);
    difference |= found ^ word_at(to - 8);
    return FH_LIKELY(difference == 0) || find_damage(from, to, low, high);
}
