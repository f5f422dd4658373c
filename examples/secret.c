/*
 * A key that can be read only while it is used, is left out of core dumps, swap and forked
 * children, and is zeroed when it is given back.
 */
#include <freehold/freehold.h>

#include <stdio.h>
#include <string.h>

enum { KEY_BYTES = 32 };

static unsigned checksum(const unsigned char *key, const char *message)
{
    unsigned sum = 0;
    for (size_t i = 0; message[i] != '\0'; i++)
        sum = sum * 31 + (key[i % KEY_BYTES] ^ (unsigned char)message[i]);
    return sum;
}

static unsigned sign(struct fh_protected *vault, const unsigned char *key, const char *message)
{
    if (fh_protect_begin_read(vault) != 0)
        return 0;
    unsigned sum = checksum(key, message);
    fh_protect_end_read(vault);
    return sum;
}

int main(void)
{
    struct fh_protected vault;
    unsigned char *key = fh_protected_alloc(&vault, KEY_BYTES, FH_PROTECT_SECRET);
    if (key == NULL)
        return 1;
    memset(key, 0x5a, KEY_BYTES); /* from a file, as a rule */
    if (fh_protect(&vault, FH_PROTECT_NONE) != 0)
        return 1;

    printf("signed: %s\n",
           sign(&vault, key, "hello") == sign(&vault, key, "hello") ? "the same twice" : "unlike");
    printf("at rest: %s\n", fh_protect_now(&vault) == FH_PROTECT_NONE ? "inaccessible" : "open");
    return fh_protected_free(&vault) == 0 ? 0 : 1;
}
