/*
 * Code written and run on aarch64. Run by tests/system/mte.sh; ends with 0 when each number comes back.
 *
 * Each number has a block of its own: qemu's user emulation before 8.2 does not notice that code it has run already is
 * written through another mapping.
 */
#include "freehold/code.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void fh_misuse(const char *kind, const void *address, const char *detail)
{
    fprintf(stderr, "%s at %p: %s\n", kind, address, detail);
    abort();
}

void fh_broken(const char *format, ...)
{
    fputs(format, stderr);
    abort();
}

int main(void)
{
    struct fh_code code;
    if (fh_code_init(&code, NULL) != 0 || !fh_code_is_two_mapped(&code))
        return 1;
    for (unsigned number = 0; number < 2000; number++) {
        void *block = fh_code_alloc(&code, 8);
        /* mov w0, #number; ret */
        const uint32_t text[] = {0x52800000u | number << 5, 0xd65f03c0u};
        unsigned (*run)(void);
        memcpy(&run, &block, sizeof run);
        if (fh_code_write(&code, block, text, sizeof text) != 0 || run() != number) {
            printf("%u was not what came back\n", number);
            return 1;
        }
    }
    return fh_code_destroy(&code) == 0 ? 0 : 1;
}
