/*
 * What kernel and processor do about the upper bits of pointers.
 *
 * x86-64: Linear Address Masking, asked for by arch_prctl for the whole address space, before there
 * are threads. aarch64: the top byte is always ignored by loads and stores; a thread says by prctl
 * whether system calls may be given such pointers, and whether memory tags (MTE) are compared. That is
 * inherited by the threads and processes that it makes.
 *
 * Constants that older headers lack are spelled out.
 */
#include "os/mem.h"

#include "os/internal.h"
#include "os/syscall.h"

#include <errno.h>

#if defined(__x86_64__)

enum {
    ARCH_ENABLE_TAGGED_ADDRESSES = 0x4002,
    LAM_U57_BITS = 6,
};

int fh_os_ignore_tags(void)
{
    return fh_syscall2(SYS_arch_prctl, ARCH_ENABLE_TAGGED_ADDRESSES, LAM_U57_BITS) == 0 ? 0
                                                                                        : -ENOTSUP;
}

int fh_os_start_memory_tags(unsigned colours)
{
    (void)colours;
    return -ENOTSUP;
}

bool fh_os_has_memory_tags(void)
{
    return false;
}

int fh_os_tag_memory(void *addr, size_t size)
{
    (void)addr, (void)size;
    return -ENOTSUP;
}

#else

#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>

enum {
    HAS_MTE = 1 << 18, /* HWCAP2_MTE */
    SET_TAGGED_ADDRESSES = 55,
    GET_TAGGED_ADDRESSES = 56,
    TAGGED_ADDRESSES = 1 << 0,
    CHECK_SYNCHRONOUSLY = 1 << 1,
    COLOURS_SHIFT = 3, /* a bit for each colour that irg may draw */
    PROT_TAGS = 0x20,  /* PROT_MTE */
};

int fh_os_ignore_tags(void)
{
    return 0;
}

int fh_os_start_memory_tags(unsigned colours)
{
    if ((fh_os_auxv(AT_HWCAP2) & HAS_MTE) == 0)
        return -ENOTSUP;
    long how = TAGGED_ADDRESSES | CHECK_SYNCHRONOUSLY | (long)colours << COLOURS_SHIFT;
    return fh_syscall6(SYS_prctl, SET_TAGGED_ADDRESSES, how, 0, 0, 0, 0) == 0 ? 0 : -ENOTSUP;
}

bool fh_os_has_memory_tags(void)
{
    long how = fh_syscall6(SYS_prctl, GET_TAGGED_ADDRESSES, 0, 0, 0, 0, 0);
    return how >= 0 && (how & CHECK_SYNCHRONOUSLY) != 0;
}

int fh_os_tag_memory(void *addr, size_t size)
{
    if ((fh_os_auxv(AT_HWCAP2) & HAS_MTE) == 0)
        return -ENOTSUP;
    if (fh_os_fails_on_purpose())
        return -ENOMEM;
    return (int)fh_syscall3(SYS_mprotect, (long)addr, (long)size,
                            PROT_READ | PROT_WRITE | PROT_TAGS);
}

#endif
