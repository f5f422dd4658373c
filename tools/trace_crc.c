/*
 * CRC-32C (Castagnoli; RFC 3720, appendix B.4), by the processor's instruction where it has one.
 */
#include "trace_format.h"

enum { POLYNOMIAL = 0x82f63b78 }; /* reflected */

__attribute__((target("sse4.2"))) static uint32_t by_instruction(uint32_t crc, const uint8_t *data,
                                                                 size_t size)
{
    uint64_t wide = crc;
    for (; size >= 8; size -= 8, data += 8) {
        uint64_t word;
        memcpy(&word, data, 8);
        wide = __builtin_ia32_crc32di(wide, word);
    }
    crc = (uint32_t)wide;
    for (; size > 0; size--)
        crc = __builtin_ia32_crc32qi(crc, *data++);
    return crc;
}

static uint32_t by_bits(uint32_t crc, const uint8_t *data, size_t size)
{
    for (; size > 0; size--) {
        crc ^= *data++;
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? (uint32_t)POLYNOMIAL : 0);
    }
    return crc;
}

uint32_t trace_crc32c(const void *data, size_t size)
{
    return ~(__builtin_cpu_supports("sse4.2") ? by_instruction(UINT32_MAX, data, size)
                                              : by_bits(UINT32_MAX, data, size));
}
