/*
 * protect.h: memory whose access can be switched: writable while it is being written, read-only or
 * inaccessible the rest of the time.
 *
 * Use it for what must not change or leak by accident or attack: configuration that is sealed when
 * start-up is over, tables of function pointers, keys that nobody needs between two handshakes. A
 * stray write (or read) then traps at the instruction that does it. Do not use it for memory that
 * is written all the time: each switch is a system call of 1 to 9 microseconds, it counts for all
 * threads at once, and a region is at least three pages.
 *
 *     struct fh_protected settings;                          // sealed after start-up
 *     struct fh_arena arena;
 *     fh_arena_init(&arena, &(struct fh_arena_options){
 *         .place = FH_PLACE_SOURCE(fh_protected_source(&settings, 0), 1 << 20)});
 *     struct config *config = read_config(&arena);
 *     fh_protect(&settings, FH_PROTECT_READ);
 *     fh_protect_seal(&settings);
 *
 *     struct fh_protected vault;                             // a secret, inaccessible while unused
 *     unsigned char *key = fh_protected_alloc(&vault, 32, FH_PROTECT_SECRET);
 *     fill(key);
 *     fh_protect(&vault, FH_PROTECT_NONE);
 *     fh_protect_begin_read(&vault);
 *     use(key);
 *     fh_protect_end_read(&vault);
 *     fh_protected_free(&vault);                             // zeroed first
 *
 * A region is one range of pages with an inaccessible page on each side, its contents zeroed when it
 * is given back. It serves either one block, at whose end the upper guard page begins
 * (fh_protected_alloc), or as the source of one manager (fh_protected_source). What the manager
 * keeps in the range is protected with its blocks, so call it between begin_write and end_write only:
 * its state then can't be overwritten in between either. Take a manager that keeps all it knows in its
 * handle and range (arena, pool, fits, TLSF), not a fh_heap, whose threads read its run headers at any
 * time.
 *
 * Who may do what. Access *at rest* is what fh_protect says, at first FH_PROTECT_WRITE. begin and end
 * open a region beyond that, for any number of threads, nested any number of times: writable while a
 * writer has begun, else readable while a reader has, else as at rest. Access is the process's, not the
 * thread's: while one thread has begun, all can. All functions of a region may be called by any
 * thread at any time, but alloc, source and free. None may be called by a signal handler. A forked child
 * has a copy of the region with the access that it had.
 *
 * The handle (struct fh_protected) is the caller's and must stay where it is; what it holds would let an
 * attacker who can write anywhere make a region writable, which sealing takes from him, too.
 *
 * Sources: mprotect(2), mseal(2); the guarded allocations of libsodium (sodium_malloc) for secrets.
 */
#ifndef FREEHOLD_PROTECT_H
#define FREEHOLD_PROTECT_H

#include "freehold/source.h"
#include "freehold/types.h"

FH_BEGIN_DECLS

enum fh_protection {
    FH_PROTECT_NONE,  /* no access */
    FH_PROTECT_READ,  /* read only */
    FH_PROTECT_WRITE, /* read and write */
};

/* Wishes: what the system refuses is gone without, fh_protected_is_locked tells. */
enum fh_protect_flags {
    FH_PROTECT_NO_DUMP = 1 << 0,      /* left out of core dumps */
    FH_PROTECT_WIPE_ON_FORK = 1 << 1, /* a forked child finds zeroes */
    FH_PROTECT_LOCKED = 1 << 2,       /* never written to swap (RLIMIT_MEMLOCK; not in children) */
    FH_PROTECT_SECRET = FH_PROTECT_NO_DUMP | FH_PROTECT_WIPE_ON_FORK | FH_PROTECT_LOCKED,
};

/* The caller's; its fields are for protect.c. */
struct fh_protected {
    struct fh_source source;
    unsigned char *base; /* behind the lower guard page; NULL: no memory yet, or none any more */
    size_t capacity;     /* bytes between the guard pages */
    size_t committed;    /* of them, from base on, that access is switched for */
    size_t block;        /* bytes asked for by fh_protected_alloc */
    uint64_t canary;     /* fills what was not asked for */
    unsigned flags;
    uint32_t readers, writers; /* begun and not ended */
    enum fh_protection at_rest, now;
    int process; /* that the memory was taken in */
    int note;    /* its number among the regions that reports know */
    bool is_locked, is_sealed;
};

/* `size` zero bytes, at least 1, aligned to 16, in a region of their own, writable at rest until
 * fh_protect says otherwise; flags of enum fh_protect_flags. An access behind the block (from the next
 * multiple of 16 on) or in front of its first page traps at once; writes to the rest of its pages are
 * reported by fh_protected_free. NULL and ENOMEM; EINVAL for unknown flags or size 0. */
FH_API void *fh_protected_alloc(struct fh_protected *region, size_t size, unsigned flags);

/* The region as source of one manager, whose capacity it is (0: 1 GiB of address space). Nothing is asked
 * of the system before the manager opens; then it is writable at rest until fh_protect says otherwise.
 * Taking more memory while it is not writable fails. It is given back, zeroed, when the manager is
 * destroyed, which wants it writable; a sealed one stays. NULL and EINVAL for unknown flags. */
FH_API const struct fh_source *fh_protected_source(struct fh_protected *region, unsigned flags);

/* Sets the access at rest. 0; -EINVAL for one that is none or a region without memory, -EPERM when it is
 * sealed, -ENOMEM when the process has too many mappings (vm.max_map_count): then nothing has changed.
 * One system call unless the access stays what it is. */
FH_API int fh_protect(struct fh_protected *region, enum fh_protection at_rest);

/* Opens the region beyond its access at rest. 0, and to be ended once; or as fh_protect (to write
 * to what is sealed: -EPERM). */
FH_API int fh_protect_begin_read(struct fh_protected *region);
FH_API int fh_protect_begin_write(struct fh_protected *region);
/* 0; -EINVAL when none has begun; the system's error when access could not be taken back: then the
 * region is still open, and end may be called once more. */
FH_API int fh_protect_end_read(struct fh_protected *region);
FH_API int fh_protect_end_write(struct fh_protected *region);

/* Read-only for good, until the process ends. 0 when the kernel sees to that (mseal, Linux 6.10: mprotect
 * and munmap of the range fail, whoever calls them); 1 when only the functions above refuse. -EINVAL
 * when the region is not FH_PROTECT_READ at rest, -EBUSY while somebody has begun to write. */
FH_API int fh_protect_seal(struct fh_protected *region);

/* What may be done with the memory now. */
FH_API enum fh_protection fh_protect_now(const struct fh_protected *region);
/* Whether all of it is kept out of swap. */
FH_API bool fh_protected_is_locked(const struct fh_protected *region);

/* Zeroes the memory of fh_protected_alloc and gives it back, whatever its access. Damage in front of or
 * behind the block is reported (heap-buffer-underflow, heap-buffer-overflow). 0; -EPERM when sealed, -EBUSY
 * while somebody has begun, -EINVAL for a region without memory or of a manager. */
FH_API int fh_protected_free(struct fh_protected *region);

FH_END_DECLS
#endif
