/*
 * A program without libc, linked with the freestanding allocators: each one is filled, checked, emptied and
 * filled again. Exit 0, or the number of the allocator that failed. The three functions that a compiler
 * expects, and the two that the allocators call for misuse, are here.
 */
#include "freehold/arena.h"
#include "freehold/buddy.h"
#include "freehold/fit.h"
#include "freehold/fixed.h"
#include "freehold/half_fit.h"
#include "freehold/pool.h"
#include "freehold/tlsf.h"

void *memcpy(void *to, const void *from, size_t bytes);
void *memmove(void *to, const void *from, size_t bytes);
void *memset(void *to, int value, size_t bytes);
void fh_misuse(const char *kind, const void *address, const char *detail);
void fh_broken(const char *format, ...);
_Noreturn void _start(void);

/* The barriers keep the compiler from making calls of these functions out of them. */
void *memcpy(void *to, const void *from, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        ((unsigned char *)to)[i] = ((const unsigned char *)from)[i];
        __asm__ volatile("" : : : "memory");
    }
    return to;
}

void *memmove(void *to, const void *from, size_t bytes)
{
    if ((uintptr_t)to <= (uintptr_t)from)
        return memcpy(to, from, bytes);
    while (bytes-- > 0) {
        ((unsigned char *)to)[bytes] = ((const unsigned char *)from)[bytes];
        __asm__ volatile("" : : : "memory");
    }
    return to;
}

void *memset(void *to, int value, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        ((unsigned char *)to)[i] = (unsigned char)value;
        __asm__ volatile("" : : : "memory");
    }
    return to;
}

static _Noreturn void leave(int status)
{
    for (;;)
        __asm__ volatile("syscall"
                         :
                         : "a"(231L), "D"((long)status) /* exit_group */
                         : "rcx", "r11", "memory");
}

void fh_misuse(const char *kind, const void *address, const char *detail)
{
    (void)kind, (void)address, (void)detail;
    leave(100);
}

void fh_broken(const char *format, ...)
{
    (void)format;
    leave(101);
}

static _Alignas(4096) unsigned char memory[64 << 10];
static unsigned char *blocks[256];

/* Blocks of 100 bytes till the end; how many. */
static unsigned fill(const struct fh_allocator *a)
{
    unsigned count = 0;
    while (count < 256 && (blocks[count] = fh_alloc_zeroed(a, 100)) != NULL) {
        memset(blocks[count], (int)count, 100);
        count++;
    }
    return count;
}

static int works(const struct fh_allocator *a)
{
    unsigned count = fill(a);
    for (unsigned i = 0; i < count; i++)
        for (unsigned at = 0; at < 100; at++)
            if (blocks[i][at] != (unsigned char)i)
                return 0;
    if (count < 64 || fh_allocator_check(a) != 0)
        return 0;
    for (unsigned i = 0; i < count; i++)
        fh_free_sized(a, blocks[i], 100, 0);
    if (fh_allocator_can(a, FH_ALLOCATOR_NO_FREE))
        fh_allocator_reset(a);
    int is_fine = fill(a) == count && fh_allocator_check(a) == 0;
    fh_allocator_destroy(a);
    return is_fine;
}

static void try_all(void)
{
    const struct fh_place_options place = FH_PLACE_BUFFER(memory, sizeof memory);
    struct fh_allocator a;
    struct fh_fixed fixed;
    struct fh_arena arena;
    struct fh_pool pool;
    struct fh_buddy buddy;
    struct fh_tlsf tlsf;
    struct fh_half_fit half_fit;
    if (fh_fixed_init(&fixed, &(struct fh_fixed_options){.place = place}) != 0 ||
        (a = fh_fixed_allocator(&fixed), !works(&a)))
        leave(1);
    if (fh_arena_init(&arena, &(struct fh_arena_options){.place = place}) != 0 ||
        (a = fh_arena_allocator(&arena), !works(&a)))
        leave(2);
    if (fh_pool_init(&pool, &(struct fh_pool_options){.place = place, .size = 100}) != 0 ||
        (a = fh_pool_allocator(&pool), !works(&a)))
        leave(3);
    if (fh_buddy_init(&buddy, &(struct fh_buddy_options){.place = place}) != 0 ||
        (a = fh_buddy_allocator(&buddy), !works(&a)))
        leave(4);
    if (fh_tlsf_init(&tlsf, &(struct fh_tlsf_options){.place = place}) != 0 ||
        (a = fh_tlsf_allocator(&tlsf), !works(&a)))
        leave(5);
    for (unsigned policy = FH_FIT_FIRST; policy <= FH_FIT_WORST; policy++) {
        struct fh_fit fit;
        if (fh_fit_init(&fit, &(struct fh_fit_options){.place = place,
                                                       .policy = (enum fh_fit_policy)policy}) !=
                0 ||
            (a = fh_fit_allocator(&fit), !works(&a)))
            leave(6 + (int)policy);
    }
    if (fh_half_fit_init(&half_fit, &(struct fh_half_fit_options){.place = place}) != 0 ||
        (a = fh_half_fit_allocator(&half_fit), !works(&a)))
        leave(10);
    /* Without a buffer, parent or source there is no memory here. */
    if (fh_arena_init(&arena, NULL) != -22)
        leave(20);
}

/* The kernel enters with the stack at a multiple of 16; a function expects to have been called. */
__attribute__((force_align_arg_pointer)) _Noreturn void _start(void)
{
    try_all();
    leave(0);
}
