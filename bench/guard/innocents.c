/*
 * innocents.c: a harm oracle for programs that have none, preloaded behind the malloc under test.
 *
 * Before the program's main it allocates blocks of many sizes, fills them with what it knows
 * again, and frees every second one, so that the program's own blocks come to lie between them.
 * When the program ends by itself it looks whether they are as they were, and whether the
 * allocator still gives out each piece of memory once. If not, it says "harm: …" on standard
 * output, and the judge knows.
 *
 * Two fills, by turns: 'Z' after 'Z', and 'Z' as wide characters, so that a program that prints
 * what it reads beyond a block shows them; the judge does not rely on it.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SIZES = 32, MOST = 5120, FEWEST = 8, PROBES = 8 };

static struct {
    unsigned char *at[MOST];
} innocents[SIZES];

/* 16, 32 … 256, then wider apart, up to 8 KiB. */
static size_t size_of(int index)
{
    return index < 16 ? 16 + (size_t)index * 16
                      : ((size_t)256 << (index - 16) / 3) / 3 * (size_t)(4 + (index - 16) % 3);
}

/* More than a slab of them: what is freed among them is what the program gets. */
static int count_of(int index)
{
    size_t count = ((size_t)80 << 10) / size_of(index);
    return count < FEWEST ? FEWEST : (int)count;
}

static unsigned char fill_of(int turn, size_t index)
{
    return (turn & 2) != 0 && index % 4 != 0 ? 0 : 'Z';
}

static void harm(const char *what)
{
    ssize_t ignored = write(STDOUT_FILENO, what, strlen(what));
    (void)ignored;
    _exit(10);
}

__attribute__((constructor)) static void make(void)
{
    for (int s = 0; s < SIZES; s++) {
        for (int i = 0; i < count_of(s); i++) {
            unsigned char *block = innocents[s].at[i] = malloc(size_of(s));
            if (block == NULL)
                _exit(4);
            for (size_t k = 0; k < size_of(s); k++)
                block[k] = fill_of(i, k);
        }
        for (int i = 1; i < count_of(s); i += 2) {
            free(innocents[s].at[i]);
            innocents[s].at[i] = NULL;
        }
    }
}

static void check_contents(void)
{
    for (int s = 0; s < SIZES; s++) {
        for (int i = 0; i < count_of(s); i += 2) {
            for (size_t k = 0; k < size_of(s); k++) {
                if (innocents[s].at[i][k] != fill_of(i, k))
                    harm("harm: an innocent block's contents have changed\n");
            }
        }
    }
}

static int overlap(const unsigned char *a, const unsigned char *b, size_t size)
{
    return (uintptr_t)a < (uintptr_t)b + size && (uintptr_t)b < (uintptr_t)a + size;
}

static void check_allocator(void)
{
    for (int s = 0; s < SIZES; s++) {
        unsigned char *blocks[PROBES];
        size_t size = size_of(s);
        for (int i = 0; i < PROBES; i++) {
            blocks[i] = (i & 1) != 0 ? malloc(size) : calloc(1, size);
            for (size_t k = 0; (i & 1) == 0 && k < size; k++) {
                if (blocks[i][k] != 0)
                    harm("harm: calloc's block is not zero\n");
            }
            for (int k = 0; k < i; k++) {
                if (overlap(blocks[i], blocks[k], size))
                    harm("harm: the allocator gives out the same memory twice\n");
            }
            memset(blocks[i], 'P', size);
        }
    }
}

__attribute__((destructor)) static void look(void)
{
    check_contents();
    check_allocator();
    check_contents();
}
