/*
 * Looking at the machine.
 *
 * What a kernel can do is asked by doing it, on a page or a descriptor of our own: a version number
 * says little where distributions backport and containers forbid. What is forbidden is told apart
 * from what is not there, since only the first can be had by asking somebody. The questions:
 *
 *   - pages: their size, huge ones by advice, guard pages without a mapping each
 * (MADV_GUARD_INSTALL, Linux 6.13), touching ahead (MADV_POPULATE_WRITE, 5.14), faults served in
 * user space (userfaultfd with UFFD_USER_MODE_ONLY, 5.11), advice to other processes
 * (process_madvise, 5.10);
 *   - threads: barriers on all of a process (membarrier), restartable sequences, and whether a
 * process may read the state of its own threads in /proc, without which idle threads' memory isn't
 * given back by Freehold's helper;
 *   - tags: pointers with spare bits (LAM, TBI), tagged memory (MTE), protection keys;
 *   - limits: what setrlimit, the memory cgroup, and vm.* sysctls leave; the tightest cgroup up to
 * the root counts;
 *   - seclusion: address randomisation and who may trace whom.
 *
 * The constants that older headers lack are given here with the kernel version that brought them.
 */
#include "machine.h"

#include "term.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#include <errno.h>
#include <fcntl.h>
#include <linux/membarrier.h>
#include <linux/userfaultfd.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/uio.h>
#include <sys/utsname.h>
#include <unistd.h>

enum {
    ADVICE_POPULATE_WRITE = 23, /* 5.14 */
    ADVICE_GUARD_INSTALL = 102, /* 6.13 */
    AUX_RSEQ_FEATURE_SIZE = 27, /* 6.3 */
    ARCH_MAX_TAG_BITS = 0x4003, /* arch_prctl, x86 LAM, 6.4 */
    HWCAP2_MEMORY_TAGGING = 1 << 18,
};
#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif
static const uint64_t uffd_feature_move = UINT64_C(1) << 16; /* 6.8 */

struct finding *findings_add(struct findings *findings, const char *group, const char *name,
                             enum finding_status status, const char *state, ...)
{
    static struct finding surplus;
    struct finding *finding =
        findings->count < MOST_FINDINGS ? &findings->items[findings->count++] : &surplus;
    va_list args;
    *finding = (struct finding){.group = group, .name = name, .status = status, .meaning = ""};
    va_start(args, state);
    vsnprintf(finding->state, sizeof(finding->state), state, args);
    va_end(args);
    return finding;
}

/* ---- Small files ---- */

/* The first line of a file, without its end; false when it can't be read. */
static bool read_line(const char *path, char *line, size_t size)
{
    FILE *file = fopen(path, "re");
    if (file == NULL) {
        return false;
    }
    const bool is_read = fgets(line, (int)size, file) != NULL;
    fclose(file);
    if (is_read) {
        line[strcspn(line, "\n")] = '\0';
    }
    return is_read;
}

static bool read_number(const char *path, long long *number)
{
    char line[64];
    char *end;
    if (!read_line(path, line, sizeof(line))) {
        return false;
    }
    *number = strtoll(line, &end, 10);
    return end != line;
}

/* The word in brackets of a sysfs choice: "always [madvise] never". */
static bool read_choice(const char *path, char *choice, size_t size)
{
    char line[128];
    if (!read_line(path, line, sizeof(line))) {
        return false;
    }
    const char *open = strchr(line, '[');
    const char *close = open != NULL ? strchr(open, ']') : NULL;
    if (close == NULL) {
        return false;
    }
    snprintf(choice, size, "%.*s", (int)(close - open - 1), open + 1);
    return true;
}

/* ---- The machine ---- */

static const char group_machine[] = "Machine";

static void look_at_kernel(struct findings *findings)
{
    struct utsname names;
    unsigned major = 0;
    unsigned minor = 0;
    uname(&names);
    sscanf(names.release, "%u.%u", &major, &minor); /* NOLINT: both stay 0 on a strange release */
    const bool is_known = major > 5 || (major == 5 && minor >= 10);
    struct finding *finding =
        findings_add(findings, group_machine, "kernel", is_known ? FINDING_GOOD : FINDING_LIMITED,
                     "%s %.60s", names.sysname, names.release);
    finding->meaning = is_known ? "new enough for all that Freehold does today"
                                : "older than 5.10, the oldest that Freehold is made for";
    finding->remedy = is_known ? NULL : "install a newer kernel";
}

static void look_at_size(struct findings *findings)
{
    const long page = sysconf(_SC_PAGESIZE);
    struct sysinfo info;
    findings_add(findings, group_machine, "page size", FINDING_GOOD, "%ld KiB", page / 1024)
        ->meaning = "memory is taken and given back in pages";
    if (sysinfo(&info) == 0) {
        findings_add(findings, group_machine, "memory", FINDING_PLAIN, "%s RAM, %s swap, %ld CPUs",
                     figure_bytes((uint64_t)info.totalram * info.mem_unit).text,
                     figure_bytes((uint64_t)info.totalswap * info.mem_unit).text,
                     sysconf(_SC_NPROCESSORS_ONLN))
            ->meaning = "shared by all that runs here";
    }
}

/* ---- Pages ---- */

static const char group_pages[] = "Pages";

static void look_at_huge_pages(struct findings *findings)
{
    static const char root[] = "/sys/kernel/mm/transparent_hugepage";
    char enabled[32];
    char defrag[32];
    char path[128];
    snprintf(path, sizeof(path), "%s/enabled", root);
    if (!read_choice(path, enabled, sizeof(enabled))) {
        struct finding *finding = findings_add(findings, group_pages, "huge pages", FINDING_LIMITED,
                                               "not in this kernel");
        finding->meaning = "large heaps cost more TLB misses";
        finding->remedy = "needs a kernel with CONFIG_TRANSPARENT_HUGEPAGE";
        return;
    }
    const bool is_never = strcmp(enabled, "never") == 0;
    struct finding *finding =
        findings_add(findings, group_pages, "huge pages", is_never ? FINDING_LIMITED : FINDING_GOOD,
                     "%s", enabled);
    if (is_never) {
        finding->meaning = "large heaps cost more TLB misses";
        finding->remedy = "as root: echo madvise >/sys/kernel/mm/transparent_hugepage/enabled";
    } else if (strcmp(enabled, "always") == 0) {
        finding->meaning = "the kernel gives them unasked; Freehold declines them where they bloat";
    } else {
        finding->meaning = "Freehold asks for them where they pay";
    }

    snprintf(path, sizeof(path), "%s/defrag", root);
    if (!is_never && read_choice(path, defrag, sizeof(defrag))) {
        const bool stalls = strcmp(defrag, "always") == 0;
        finding = findings_add(findings, group_pages, "huge page defrag",
                               stalls ? FINDING_LIMITED : FINDING_GOOD, "%s", defrag);
        finding->meaning = stalls ? "any first touch may wait while memory is compacted"
                                  : "first touches do not wait unless it was asked for";
        finding->remedy =
            stalls ? "as root: echo defer+madvise >/sys/kernel/mm/transparent_hugepage/defrag"
                   : NULL;
    }
}

/* Tries an advice on one fresh page: 0 or the errno. */
static int try_advice(int advice)
{
    const size_t size = (size_t)sysconf(_SC_PAGESIZE);
    void *page = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED) {
        return errno;
    }
    const int error = madvise(page, size, advice) == 0 ? 0 : errno;
    munmap(page, size);
    return error;
}

static void look_at_advice(struct findings *findings)
{
    const bool has_guards = try_advice(ADVICE_GUARD_INSTALL) == 0;
    struct finding *finding = findings_add(
        findings, group_pages, "guard pages", has_guards ? FINDING_GOOD : FINDING_LIMITED, "%s",
        has_guards ? "by MADV_GUARD_INSTALL" : "by mprotect only");
    finding->meaning = has_guards ? "a guard costs no mapping of its own"
                                  : "each guard takes two of the process's mappings";
    finding->remedy = has_guards ? NULL : "comes with Linux 6.13";

    const bool can_populate = try_advice(ADVICE_POPULATE_WRITE) == 0;
    finding = findings_add(findings, group_pages, "populate ahead",
                           can_populate ? FINDING_GOOD : FINDING_LIMITED, "%s",
                           can_populate ? "by MADV_POPULATE_WRITE" : "no");
    finding->meaning = can_populate ? "many pages come with one system call"
                                    : "each page comes by a fault of its own";
    finding->remedy = can_populate ? NULL : "comes with Linux 5.14";
}

static void look_at_process_madvise(struct findings *findings)
{
    const int self = (int)syscall(SYS_pidfd_open, getpid(), 0);
    long page = sysconf(_SC_PAGESIZE);
    void *memory =
        mmap(NULL, (size_t)page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    bool is_there = false;
    if (self >= 0 && memory != MAP_FAILED) {
        const struct iovec range = {memory, (size_t)page};
        is_there = syscall(SYS_process_madvise, self, &range, 1, MADV_COLD, 0) == page;
    }
    if (memory != MAP_FAILED) {
        munmap(memory, (size_t)page);
    }
    if (self >= 0) {
        close(self);
    }
    struct finding *finding =
        findings_add(findings, group_pages, "process_madvise",
                     is_there ? FINDING_GOOD : FINDING_PLAIN, "%s", is_there ? "yes" : "no");
    finding->meaning = "advice for many ranges, or another process, in one call";
    finding->remedy = is_there ? NULL : "comes with Linux 5.10; some containers forbid it";
}

static void look_at_userfaultfd(struct findings *findings)
{
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
    if (fd < 0) {
        const bool is_forbidden = errno == EPERM || errno == EACCES;
        struct finding *finding =
            findings_add(findings, group_pages, "userfaultfd", FINDING_LIMITED, "%s",
                         is_forbidden ? "forbidden" : "not in this kernel");
        finding->meaning = "page faults can't be served by a program";
        finding->remedy = is_forbidden ? "the container's seccomp profile must allow userfaultfd"
                                       : "comes with Linux 5.11 and CONFIG_USERFAULTFD";
        return;
    }
    struct uffdio_api api = {.api = UFFD_API};
    const bool is_answered = ioctl(fd, UFFDIO_API, &api) == 0;
    const bool has_move = is_answered && (api.features & uffd_feature_move) != 0;
    close(fd);
    struct finding *finding = findings_add(findings, group_pages, "userfaultfd", FINDING_GOOD, "%s",
                                           has_move ? "yes, can move pages" : "yes, copies pages");
    finding->meaning = "page faults can be served by a program";
    finding->remedy = has_move ? NULL : "moving pages comes with Linux 6.8";
}

/* ---- Threads ---- */

static const char group_threads[] = "Threads";

static void look_at_threads(struct findings *findings)
{
    const long commands = syscall(SYS_membarrier, MEMBARRIER_CMD_QUERY, 0, 0);
    const bool has_barrier = commands > 0 && (commands & MEMBARRIER_CMD_PRIVATE_EXPEDITED) != 0;
    struct finding *finding = findings_add(findings, group_threads, "membarrier",
                                           has_barrier ? FINDING_GOOD : FINDING_LIMITED, "%s",
                                           has_barrier ? "expedited" : "no");
    finding->meaning = has_barrier ? "one thread orders the memory of all: the others pay nothing"
                                   : "memory of idle threads is given back later";
    finding->remedy = has_barrier ? NULL : "needs Linux 4.14, and a seccomp profile that allows it";

    char line[256];
    const bool can_read = read_line("/proc/thread-self/syscall", line, sizeof(line));
    finding = findings_add(findings, group_threads, "thread states",
                           can_read ? FINDING_GOOD : FINDING_LIMITED, "%s",
                           can_read ? "readable" : "not readable");
    finding->meaning = can_read
                           ? "memory of threads that sleep in the kernel is given back for them"
                           : "an idle thread's free memory stays until it runs again";
    finding->remedy =
        can_read ? NULL
                 : "needs /proc with CONFIG_HAVE_ARCH_TRACEHOOK, and ptrace rights on oneself";

    const bool has_rseq = getauxval(AUX_RSEQ_FEATURE_SIZE) != 0;
    findings_add(findings, group_threads, "rseq", FINDING_PLAIN, "%s",
                 has_rseq ? "yes" : "not announced")
        ->meaning = "left to the C library; Freehold does not need it";
}

/* ---- Tags ---- */

static const char group_tags[] = "Tags and keys";

#if defined(__x86_64__)
/* Intel's linear address masking, which Linux gives to programs that ask (arch_prctl), and AMD's
 * upper address ignore, which it gives to none. Where the CPU has one and the call is refused,
 * the kernel is what is missing. */
static void look_at_pointer_tags(struct findings *findings)
{
    enum { LAM_LEAF = 7, LAM_SUBLEAF = 1, LAM_BIT = 26, UAI_BIT = 7 };
    const unsigned uai_leaf = 0x80000021U;
    unsigned eax = 0;
    unsigned ebx = 0;
    unsigned ecx = 0;
    unsigned edx = 0;
    unsigned long bits = 0;
    const bool has_lam = syscall(SYS_arch_prctl, ARCH_MAX_TAG_BITS, &bits) == 0 && bits > 0;
    const bool could_lam = __get_cpuid_count(LAM_LEAF, LAM_SUBLEAF, &eax, &ebx, &ecx, &edx) != 0 &&
                           (eax >> LAM_BIT & 1) != 0;
    struct finding *finding = findings_add(findings, group_tags, "pointer tags (LAM)",
                                           has_lam ? FINDING_GOOD : FINDING_PLAIN, "%s",
                                           has_lam     ? "yes"
                                           : could_lam ? "refused by the kernel"
                                                       : "not in this CPU");
    finding->meaning = has_lam ? "pointers have spare bits that the CPU ignores"
                               : "the upper bits of a pointer count; tags must be taken off first";
    finding->remedy =
        could_lam && !has_lam ? "comes with Linux 6.4 and CONFIG_ADDRESS_MASKING" : NULL;

    const bool could_uai =
        __get_cpuid_count(uai_leaf, 0, &eax, &ebx, &ecx, &edx) != 0 && (eax >> UAI_BIT & 1) != 0;
    findings_add(findings, group_tags, "pointer tags (UAI)", FINDING_PLAIN, "%s",
                 could_uai ? "refused by the kernel" : "not in this CPU")
        ->meaning = could_uai ? "AMD's; Linux gives it to no program; nothing to be done"
                              : "AMD's way to ignore upper bits of pointers; nothing to be done";
}
#endif

static void look_at_tags(struct findings *findings)
{
#if defined(__x86_64__)
    look_at_pointer_tags(findings);
    const bool has_mte = false;
#else
    const bool has_mte = (getauxval(AT_HWCAP2) & HWCAP2_MEMORY_TAGGING) != 0;
#endif
    findings_add(findings, group_tags, "tagged memory", has_mte ? FINDING_GOOD : FINDING_PLAIN,
                 "%s", has_mte ? "MTE" : "no")
        ->meaning = has_mte ? "the CPU can check that a pointer fits its block"
                            : "needs an Arm CPU with MTE; nothing to be done here";

    const int key = pkey_alloc(0, 0);
    const bool has_keys = key >= 0;
    if (has_keys) {
        pkey_free(key);
    }
    findings_add(findings, group_tags, "protection keys", has_keys ? FINDING_GOOD : FINDING_PLAIN,
                 "%s", has_keys ? "yes" : "no")
        ->meaning = has_keys ? "memory can be closed and opened without a system call"
                             : "this CPU or kernel has none; nothing to be done";
}

/* ---- Limits ---- */

static const char group_limits[] = "Limits";

static struct figure figure_limit(rlim_t limit)
{
    struct figure figure = {"unlimited"};
    return limit == RLIM_INFINITY ? figure : figure_bytes(limit);
}

static void look_at_rlimits(struct findings *findings)
{
    struct rlimit limit;
    struct finding *finding;
    if (getrlimit(RLIMIT_AS, &limit) == 0) {
        const bool is_free = limit.rlim_cur == RLIM_INFINITY;
        finding = findings_add(findings, group_limits, "address space",
                               is_free ? FINDING_GOOD : FINDING_LIMITED, "%s",
                               figure_limit(limit.rlim_cur).text);
        finding->meaning = is_free ? "Freehold reserves one large window"
                                   : "Freehold reserves small windows, as far as the limit goes";
        finding->remedy = is_free ? NULL : "ulimit -v unlimited";
    }
    if (getrlimit(RLIMIT_MEMLOCK, &limit) == 0) {
        finding = findings_add(findings, group_limits, "locked memory", FINDING_PLAIN, "%s",
                               figure_limit(limit.rlim_cur).text);
        finding->meaning = "matters to programs that lock their memory: it can't be given back";
    }
    if (getrlimit(RLIMIT_STACK, &limit) == 0) {
        finding = findings_add(findings, group_limits, "stack", FINDING_PLAIN, "%s",
                               figure_limit(limit.rlim_cur).text);
        finding->meaning = "what a thread gets when its program does not say";
    }
}

static void look_at_sysctls(struct findings *findings)
{
    enum { USUAL_MAPPINGS = 65530 };
    long long value;
    struct finding *finding;
    if (read_number("/proc/sys/vm/max_map_count", &value)) {
        const bool is_enough = value >= USUAL_MAPPINGS;
        finding = findings_add(findings, group_limits, "mappings",
                               is_enough ? FINDING_GOOD : FINDING_LIMITED, "%s a process",
                               figure_count((uint64_t)value).text);
        finding->meaning = is_enough ? "enough for guard pages and many threads"
                                     : "less than usual: guard pages by mprotect may run out";
        finding->remedy = is_enough ? NULL : "as root: sysctl vm.max_map_count=65530";
    }
    if (read_number("/proc/sys/vm/overcommit_memory", &value)) {
        static const char *const names[] = {"heuristic", "always", "strict"};
        const bool is_strict = value == 2;
        finding = findings_add(findings, group_limits, "overcommit",
                               is_strict ? FINDING_LIMITED : FINDING_GOOD, "%s",
                               value >= 0 && value <= 2 ? names[value] : "unknown");
        finding->meaning = is_strict ? "memory is refused when promised, not when touched"
                                     : "address space costs nothing until it is touched";
        finding->remedy = is_strict ? "as root: sysctl vm.overcommit_memory=0" : NULL;
    }
}

/* The tightest limit on the way from this process's cgroup to the root; false when there is none.
 */
static bool tightest_limit(char *group, const char *mount, const char *file, long long *tightest)
{
    bool is_limited = false;
    for (;;) {
        char path[1024];
        long long value;
        snprintf(path, sizeof(path), "%s%s/%s", mount, group, file);
        /* "max" is no number; version 1 says "unlimited" by a number near the largest. */
        if (read_number(path, &value) && value < INT64_MAX / 2 &&
            (!is_limited || value < *tightest)) {
            *tightest = value;
            is_limited = true;
        }
        char *slash = strrchr(group, '/');
        if (slash == NULL) {
            return is_limited;
        }
        *slash = '\0';
    }
}

static void look_at_cgroup(struct findings *findings)
{
    FILE *file = fopen("/proc/self/cgroup", "re");
    char line[512];
    bool is_limited = false;
    long long tightest = 0;
    while (file != NULL && fgets(line, sizeof(line), file) != NULL) {
        line[strcspn(line, "\n")] = '\0';
        char *controllers = strchr(line, ':');
        char *group = controllers != NULL ? strchr(controllers + 1, ':') : NULL;
        if (group == NULL) {
            continue;
        }
        *group++ = '\0';
        long long limit;
        const bool has_limit = controllers[1] == '\0'
                                   ? tightest_limit(group, "/sys/fs/cgroup", "memory.max", &limit)
                                   : strstr(controllers, "memory") != NULL &&
                                         tightest_limit(group, "/sys/fs/cgroup/memory",
                                                        "memory.limit_in_bytes", &limit);
        if (has_limit && (!is_limited || limit < tightest)) {
            tightest = limit;
            is_limited = true;
        }
    }
    if (file != NULL) {
        fclose(file);
    }
    struct finding *finding =
        findings_add(findings, group_limits, "memory cgroup", FINDING_PLAIN, "%s",
                     is_limited ? figure_bytes((uint64_t)tightest).text : "no limit");
    finding->meaning = is_limited ? "beyond it the kernel ends a process of the group"
                                  : "only the machine's memory is the limit";
}

/* ---- Seclusion ---- */

static const char group_seclusion[] = "Seclusion";

static void look_at_seclusion(struct findings *findings)
{
    long long value;
    struct finding *finding;
    if (read_number("/proc/sys/kernel/randomize_va_space", &value)) {
        const bool is_switched_off = (personality(0xffffffff) & ADDR_NO_RANDOMIZE) != 0;
        const bool is_full = value == 2 && !is_switched_off;
        finding = findings_add(findings, group_seclusion, "address randomisation",
                               is_full ? FINDING_GOOD : FINDING_LIMITED, "%s",
                               is_switched_off ? "off in this shell"
                               : value == 2    ? "full"
                               : value == 1    ? "without the heap"
                                               : "off");
        finding->meaning = is_full ? "addresses can't be guessed" : "addresses can be guessed";
        finding->remedy = is_full           ? NULL
                          : is_switched_off ? "start without setarch -R, outside a debugger"
                                            : "as root: sysctl kernel.randomize_va_space=2";
    }
    if (read_number("/proc/sys/kernel/yama/ptrace_scope", &value)) {
        static const char *const names[] = {"same user", "descendants only", "root only", "nobody"};
        finding = findings_add(findings, group_seclusion, "tracing", FINDING_PLAIN, "%s",
                               value >= 0 && value <= 3 ? names[value] : "unknown");
        finding->meaning = "who may look into a running process (a debugger, for one)";
    } else {
        finding = findings_add(findings, group_seclusion, "tracing", FINDING_PLAIN, "same user");
        finding->meaning = "who may look into a running process (a debugger, for one)";
    }
}

void machine_inspect(struct findings *findings)
{
    look_at_kernel(findings);
    look_at_size(findings);
    look_at_huge_pages(findings);
    look_at_advice(findings);
    look_at_process_madvise(findings);
    look_at_userfaultfd(findings);
    look_at_threads(findings);
    look_at_tags(findings);
    look_at_rlimits(findings);
    look_at_sysctls(findings);
    look_at_cgroup(findings);
    look_at_seclusion(findings);
}
