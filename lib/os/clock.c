/*
 * Clocks.
 *
 * The kernel maps a small shared object into every process (the vDSO) whose clock_gettime reads the
 * time without a system call: 30 ns here against 260. It uses neither libc nor thread-local
 * storage, so it suits signal handlers and the helper, and it works after seccomp. libc would find
 * it for us, but libc's wrapper is not to be called before libc is up; so it is looked up in the
 * object's own symbol table, once, at start.
 *
 * The object is laid out as on disk: addresses in its dynamic section are not relocated, and all of
 * it lies at one distance (`bias`) from the addresses it was linked for. It carries a classic hash
 * table, whose chain count is the number of symbols, or a GNU one, whose last chain ends with the
 * last symbol. A dozen names: a linear search.
 *
 * Where it is absent (valgrind hides it, some kernels are built without) the clock is a system
 * call.
 *
 * Follows: System V ABI, chapter 5 (dynamic linking); vdso(7).
 */
#include "base/core/macros.h"
#include "os/internal.h"
#include "os/sys.h"
#include "os/syscall.h"

#include <elf.h>
#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/auxv.h>
#include <time.h>

#if defined(__x86_64__)
#define CLOCK_SYMBOL "__vdso_clock_gettime"
#else
#define CLOCK_SYMBOL "__kernel_clock_gettime"
#endif

/* The kernel's struct timespec on 64-bit machines. */
struct kernel_time {
    int64_t seconds;
    int64_t nanoseconds;
};

enum { SECOND = 1000000000 };

typedef int clock_function(int clock, struct kernel_time *now);

/* Set once; relaxed, for the code it points to was there before the process ran. */
static clock_function *_Atomic vdso_clock;

struct symbols {
    const Elf64_Sym *table;
    const char *names;
    const uint32_t *hash;     /* {buckets, chains, …} or NULL */
    const uint32_t *gnu_hash; /* {buckets, first symbol, bloom words, shift, bloom…, buckets…,
                                 chains…} or NULL */
};

static struct symbols find_symbols(const Elf64_Dyn *dynamic, uintptr_t bias)
{
    struct symbols symbols = {NULL, NULL, NULL, NULL};
    for (; dynamic->d_tag != DT_NULL; dynamic++) {
        const void *at = (const void *)(bias + dynamic->d_un.d_ptr);
        if (dynamic->d_tag == DT_SYMTAB)
            symbols.table = at;
        else if (dynamic->d_tag == DT_STRTAB)
            symbols.names = at;
        else if (dynamic->d_tag == DT_HASH)
            symbols.hash = at;
        else if (dynamic->d_tag == DT_GNU_HASH)
            symbols.gnu_hash = at;
    }
    return symbols;
}

static uint32_t count_by_gnu_hash(const uint32_t *hash)
{
    uint32_t bucket_count = hash[0];
    uint32_t first = hash[1];
    const uint32_t *buckets = hash + 4 + 2 * (size_t)hash[2]; /* bloom words are 64 bits wide */
    const uint32_t *chains = buckets + bucket_count;
    uint32_t last = 0;
    for (uint32_t i = 0; i < bucket_count; i++)
        if (buckets[i] > last)
            last = buckets[i];
    if (last < first)
        return first;
    while ((chains[last - first] & 1) == 0)
        last++;
    return last + 1;
}

static uint32_t count_symbols(const struct symbols *symbols)
{
    if (symbols->table == NULL || symbols->names == NULL)
        return 0;
    if (symbols->hash != NULL)
        return symbols->hash[1];
    return symbols->gnu_hash != NULL ? count_by_gnu_hash(symbols->gnu_hash) : 0;
}

void fh_os_find_clock(void)
{
    uintptr_t image = fh_os_auxv(AT_SYSINFO_EHDR);
    if (image == 0)
        return;
    const Elf64_Ehdr *header = (const Elf64_Ehdr *)image;
    const Elf64_Phdr *segments = (const Elf64_Phdr *)(image + header->e_phoff);
    uintptr_t bias = 0;
    const Elf64_Dyn *dynamic = NULL;
    for (unsigned i = 0; i < header->e_phnum; i++) {
        if (segments[i].p_type == PT_LOAD && bias == 0)
            bias = image + segments[i].p_offset - segments[i].p_vaddr;
        else if (segments[i].p_type == PT_DYNAMIC)
            dynamic = (const Elf64_Dyn *)(image + segments[i].p_offset);
    }
    if (bias == 0 || dynamic == NULL)
        return;
    struct symbols symbols = find_symbols(dynamic, bias);
    uint32_t count = count_symbols(&symbols);
    for (uint32_t i = 0; i < count; i++) {
        const Elf64_Sym *symbol = &symbols.table[i];
        if (symbol->st_shndx == SHN_UNDEF ||
            strcmp(symbols.names + symbol->st_name, CLOCK_SYMBOL) != 0)
            continue;
        clock_function *function = (clock_function *)(bias + symbol->st_value);
        atomic_store_explicit(&vdso_clock, function, memory_order_relaxed);
        return;
    }
}

static uint64_t in_ns(struct kernel_time time)
{
    return (uint64_t)time.seconds * SECOND + (uint64_t)time.nanoseconds;
}

uint64_t fh_os_now_ns(void)
{
    struct kernel_time now = {0, 0};
    clock_function *function = atomic_load_explicit(&vdso_clock, memory_order_relaxed);
    if (function == NULL || function(CLOCK_MONOTONIC, &now) != 0)
        fh_syscall2(SYS_clock_gettime, CLOCK_MONOTONIC, (long)&now);
    return in_ns(now);
}

uint64_t fh_os_cpu_ns(void)
{
    struct kernel_time now = {0, 0};
    fh_syscall2(SYS_clock_gettime, CLOCK_PROCESS_CPUTIME_ID, (long)&now);
    return in_ns(now);
}

/* The head of the kernel's struct rusage: microseconds in user mode and in the kernel. */
struct kernel_usage {
    struct {
        int64_t seconds;
        int64_t microseconds;
    } user, system;
    int64_t others[14];
};

void fh_os_cpu_split_ns(uint64_t *user_ns, uint64_t *system_ns)
{
    struct kernel_usage usage = {0};
    fh_syscall2(SYS_getrusage, 0, (long)&usage);
    *user_ns = (uint64_t)usage.user.seconds * SECOND + (uint64_t)usage.user.microseconds * 1000;
    *system_ns =
        (uint64_t)usage.system.seconds * SECOND + (uint64_t)usage.system.microseconds * 1000;
}

void fh_os_sleep_ns(uint64_t ns)
{
    struct kernel_time left = {(int64_t)(ns / SECOND), (int64_t)(ns % SECOND)};
    while (fh_syscall2(SYS_nanosleep, (long)&left, (long)&left) == -EINTR)
        continue;
}
