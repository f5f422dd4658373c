/* Prints where a first block of 64 bytes lies. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int main(void)
{
    void *block = malloc(64);
    printf("%016llx\n", (unsigned long long)(uintptr_t)block);
    free(block);
    return block == NULL;
}
