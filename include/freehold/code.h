/*
 * code.h: memory for code that is made at run time, never writable where it is executable.
 *
 * Use it in a just-in-time compiler, for trampolines and patched calls: W^X is kept for you, caches and
 * processors learn of new code, freed code is not reused at once and traps when it is called. Do not use
 * it for data (constants beside their code excepted: code memory can be read), nor for code that comes
 * from a file (dlopen).
 *
 *     struct fh_code code;
 *     fh_code_init(&code, NULL);
 *     int (*answer)(void) = (int (*)(void))fh_code_alloc(&code, sizeof instructions);
 *     fh_code_write(&code, (void *)answer, instructions, sizeof instructions);
 *     answer();
 *     fh_code_free(&code, (void *)answer);
 *     fh_code_destroy(&code);
 *
 * Two kinds, by what the system allows. With *two mappings* the same memory (a memfd) is mapped twice:
 * where it is executed it is never writable, and where it is written never executable, nor accessible at
 * all unless somebody writes; the places of the two tell nothing of each other. Other threads
 * go on executing meanwhile. Where code can't be mapped from a memfd (vm.memfd_noexec=2, a sandbox), there is *one
 * mapping* that is writable or executable by turns: all of it stops being executable while
 * somebody writes, so no other thread may be in it (is_two_mapped tells; FH_CODE_TWO_MAPPINGS refuses).
 *
 * Blocks are powers of two of at least 64 bytes, so that no two share a cache line. What is allocated and not
 * yet written consists of trapping instructions; so does what was freed, and it waits until as many
 * bytes as the quarantine holds have been freed after it.
 *
 * Writes open the second mapping and close it again, 2 to 10 microseconds; many in a row are quicker between one
 * fh_code_begin_write and its end, which nest. Thread-safe but for init and destroy; two threads must not
 * write the same bytes. Publish the address to other threads as you would publish data. A fork copies the
 * memory in use, 0.7 ms a MiB, so that parent and child do not write each other's code; not for
 * vfork and raw clone.
 *
 * Sources: W^X as in OpenBSD; two mappings as in libffi's closures and in SELinux's execmem advice.
 */
#ifndef FREEHOLD_CODE_H
#define FREEHOLD_CODE_H

#include "freehold/buddy.h"
#include "freehold/types.h"

FH_BEGIN_DECLS

enum fh_code_flags {
    FH_CODE_TWO_MAPPINGS = 1 << 0, /* or else -ENOTSUP */
};

struct fh_code_options {
    size_t capacity;   /* bytes of address space, rounded up to pages; 0: 16 MiB; at most 1 GiB */
    size_t quarantine; /* bytes that wait after their free; 0: 64 KiB */
    const void *near;  /* code should lie within 2 GiB of this address (a wish); NULL: anywhere */
    unsigned flags;
};

/* The caller's, which must stay where it is; its fields are for code.c. */
struct fh_code {
    unsigned char *code;     /* where it is executed */
    unsigned char *writable; /* where it is written; the same when there is one mapping */
    size_t capacity;
    size_t used;      /* from the beginning: beyond it nothing was ever handed out */
    uint32_t writers; /* begun and not ended */
    struct fh_buddy blocks;
    void *metadata;
    size_t metadata_bytes;
    struct fh_code_wait *waiting; /* freed blocks, a ring */
    size_t waiting_bytes, quarantine;
    uint32_t waiting_first, waiting_count;
    struct fh_code *next, **link; /* of all, for fork */
    int child_file;
    int note;
    bool is_two_mapped, is_sealed;
};

/* 0; -EINVAL, -ENOMEM, -ENOTSUP (neither kind is allowed here, or not the one demanded). */
FH_API int fh_code_init(struct fh_code *code, const struct fh_code_options *options);
/* Gives all of it back. 0; -EPERM when sealed: the code stays. */
FH_API int fh_code_destroy(struct fh_code *code);

/* Where `size` bytes of code will be executed; at a multiple of 64. NULL with ENOMEM, or EPERM when
 * sealed. Blocks that wait in quarantine are handed out when there is nothing else. */
FH_API void *fh_code_alloc(struct fh_code *code, size_t size) FH_MALLOC_LIKE;
/* What is no block is reported (invalid-free, interior-free, double-free). Nobody may execute it any
 * more. */
FH_API void fh_code_free(struct fh_code *code, void *block);

/* Copies `size` bytes to `to`, an address in a block: they may be executed then. 0; -EINVAL when they
 * are not all in this memory, -EPERM when it is sealed, -ENOMEM when the kernel refuses. Other threads
 * that execute just these bytes may see the old and the new mixed. */
FH_API int fh_code_write(struct fh_code *code, void *to, const void *from, size_t size);
/* Where the bytes of `block` (any address in it) can be written until the end; NULL with errno as
 * above. */
FH_API void *fh_code_begin_write(struct fh_code *code, void *block);
/* Ends what begin has begun: the `size` bytes from `block` on are new and may be executed. -EINVAL when
 * nothing has begun. */
FH_API int fh_code_end_write(struct fh_code *code, void *block, size_t size);

/* No more code: nothing is allocated, written or freed from now on. 0 when the kernel sees to that, too
 * (mseal, Linux 6.10), 1 when it is older; -EBUSY while somebody has begun to write, -EINVAL when it
 * is sealed. */
FH_API int fh_code_seal(struct fh_code *code);

/* Whether an address lies in this memory. */
FH_API bool fh_code_owns(const struct fh_code *code, const void *address);
/* Whether other threads may execute while one writes. */
FH_API bool fh_code_is_two_mapped(const struct fh_code *code);

FH_END_DECLS
#endif
