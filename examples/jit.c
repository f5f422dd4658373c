/*
 * A compiler of one kind of function: `add n to the argument`. What it makes is executable where it is called,
 * and writable nowhere but for the moment in which it is written.
 */
#include <freehold/freehold.h>

#include <stdint.h>
#include <stdio.h>
#include <string.h>

typedef int (*adder)(int);

/* The instructions, and their size. */
static size_t compile(uint32_t n, unsigned char *out)
{
#if defined(__x86_64__)
    const unsigned char text[] = {0x8d, 0x87, (unsigned char)n, (unsigned char)(n >> 8), 0,
                                  0,    0xc3}; /* lea n(%rdi), %eax; ret */
#else
    const uint32_t text[] = {0x11000000u | n << 10, 0xd65f03c0u}; /* add w0, w0, #n; ret */
#endif
    memcpy(out, text, sizeof text);
    return sizeof text;
}

static adder make_adder(struct fh_code *code, uint32_t n)
{
    unsigned char text[16];
    size_t size = compile(n, text);
    void *block = fh_code_alloc(code, size);
    if (block == NULL || fh_code_write(code, block, text, size) != 0)
        return NULL;
    adder function;
    memcpy(&function, &block, sizeof function);
    return function;
}

int main(void)
{
    struct fh_code code;
    if (fh_code_init(&code, NULL) != 0)
        return 1;
    adder add_three = make_adder(&code, 3), add_thousand = make_adder(&code, 1000);
    if (add_three == NULL || add_thousand == NULL)
        return 1;
    printf("4 + 3 = %d, 4 + 1000 = %d\n", add_three(4), add_thousand(4));
    fh_code_free(&code, (void *)(uintptr_t)add_three);
    fh_code_free(&code, (void *)(uintptr_t)add_thousand);
    return fh_code_destroy(&code) == 0 ? 0 : 1;
}
