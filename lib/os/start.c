/*
 * Start-up, and what a process is told about itself: auxiliary vector and environment.
 *
 * fh_os_init runs when the first allocation does, which may be before libc has initialised itself
 * (a preloaded library that is linked with -z initfirst). Then `environ` is still NULL and the
 * auxiliary vector may be too; both are read from /proc instead. The page size, the hooks of base/
 * and the feature mask are all it sets, each to the same value however often it runs: two threads
 * may run it at once.
 *
 * Variables found in /proc/self/environ are kept as NAME=VALUE in `early`, because callers keep the
 * pointer. The store is small: only our own variables are asked for, and one that does not fit
 * counts as unset.
 */
#include "os/relay.h"
#include "os/sys.h"

#include "base/core/bits.h"
#include "base/lock.h"
#include "base/message.h"
#include "os/internal.h"
#include "os/syscall.h"

#include <errno.h>
#include <linux/futex.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/auxv.h>

extern char **environ; /* unistd.h has it for _GNU_SOURCE only */

enum { EARLY_BYTES = 4096, CHUNK_BYTES = 1024 };

static struct {
    struct fh_lock lock; /* taken under any other, takes none */
    size_t used;         /* bytes of text, whole entries only */
    char text[EARLY_BYTES];
} early;

/* What nearly every machine has, until fh_os_init reads the truth. */
size_t fh_os_page_size = 4096;
unsigned fh_os_page_shift = 12;

static _Atomic bool is_initialised;

static unsigned long auxv_from_proc(unsigned long type)
{
    int fd = fh_os_open_read("/proc/self/auxv");
    if (fd < 0)
        return 0;
    unsigned long entry[2];
    unsigned long value = 0;
    while (fh_os_read(fd, entry, sizeof(entry)) == (int64_t)sizeof(entry) && entry[0] != AT_NULL) {
        if (entry[0] == type) {
            value = entry[1];
            break;
        }
    }
    fh_os_close(fd);
    return value;
}

/* libc has the vector where it is up at all; AT_PAGESZ is never absent, so its absence says that
 * libc is not. */
unsigned long fh_os_auxv(unsigned long type)
{
    return getauxval(AT_PAGESZ) != 0 ? getauxval(type) : auxv_from_proc(type);
}

uintptr_t fh_os_program_entry(void)
{
    return fh_os_auxv(AT_ENTRY);
}

const void *fh_os_program_headers(size_t *count)
{
    *count = fh_os_auxv(AT_PHNUM);
    return (const void *)fh_os_auxv(AT_PHDR);
}

bool fh_os_is_secure(void)
{
    return fh_os_auxv(AT_SECURE) != 0;
}

/* The value when entry is NAME=VALUE. */
static const char *value_of(const char *entry, const char *name)
{
    size_t len = strlen(name);
    return strncmp(entry, name, len) == 0 && entry[len] == '=' ? entry + len + 1 : NULL;
}

static const char *find_kept(const char *name)
{
    for (size_t at = 0; at < early.used; at += strlen(early.text + at) + 1) {
        const char *value = value_of(early.text + at, name);
        if (value != NULL)
            return value;
    }
    return NULL;
}

/* Reads entry after entry into the free end of the store and keeps the one that is asked for. */
static const char *find_in_proc(const char *name)
{
    int fd = fh_os_open_read("/proc/self/environ");
    if (fd < 0)
        return NULL;
    char chunk[CHUNK_BYTES];
    char *entry = early.text + early.used;
    size_t room = EARLY_BYTES - early.used;
    size_t len = 0; /* of the entry so far, also beyond the room */
    const char *value = NULL;
    int64_t got;
    while (value == NULL && (got = fh_os_read(fd, chunk, sizeof(chunk))) > 0) {
        for (int64_t i = 0; i < got && value == NULL; i++) {
            if (len < room)
                entry[len] = chunk[i];
            len++;
            if (chunk[i] != '\0')
                continue;
            if (len <= room)
                value = value_of(entry, name);
            if (value != NULL)
                early.used += len;
            len = 0;
        }
    }
    fh_os_close(fd);
    return value;
}

const char *fh_os_getenv(const char *name)
{
    if (environ != NULL) {
        for (char **entry = environ; *entry != NULL; entry++) {
            const char *value = value_of(*entry, name);
            if (value != NULL)
                return value;
        }
        return NULL;
    }
    fh_lock_acquire(&early.lock);
    const char *value = find_kept(name);
    if (value == NULL)
        value = find_in_proc(name);
    fh_lock_release(&early.lock);
    return value;
}

static void wait_in_kernel(_Atomic uint32_t *word, uint32_t expected, uint64_t ns)
{
    struct {
        int64_t seconds;
        int64_t nanoseconds;
    } limit = {(int64_t)(ns / 1000000000), (int64_t)(ns % 1000000000)};
    fh_syscall4(SYS_futex, (long)word, FUTEX_WAIT_PRIVATE, (long)expected,
                ns != 0 ? (long)&limit : 0);
}

static void wake_in_kernel(_Atomic uint32_t *word, int count)
{
    fh_syscall3(SYS_futex, (long)word, FUTEX_WAKE_PRIVATE, count);
}

static void write_message(int fd, const char *text, size_t len)
{
    size_t relayed = fh_os_relay_write(text, len);
    if (relayed < len)
        (void)fh_os_write(fd, text + relayed, len - relayed); /* there is nobody left to tell */
}

void fh_os_init(void)
{
    /* acquire, with the release below: who sees true sees all that was set. */
    if (atomic_load_explicit(&is_initialised, memory_order_acquire))
        return;
    fh_os_find_clock();
    fh_message_write_hook = write_message;
    fh_lock_now_hook = fh_os_now_ns;
    fh_lock_wake_hook = wake_in_kernel;
    fh_lock_wait_hook = wait_in_kernel;

    size_t page_size = fh_os_auxv(AT_PAGESZ);
    if (fh_is_pow2(page_size)) {
        fh_os_page_size = page_size;
        fh_os_page_shift = fh_log2(page_size);
    }
    const char *features = fh_os_is_secure() ? NULL : fh_os_getenv("FREEHOLD_FEATURES");
    if (features != NULL && !fh_os_force_features_by_name(features))
        fh_message(
            "FREEHOLD_FEATURES=%s is not understood and ignored; it is a list of 6.1, container, "
            "-guard, -populate, -userfaultfd, -uffd-move, -io-uring, -pagemap-scan, -thp, "
            "-membarrier, -task-syscall, -seal",
            features);
    atomic_store_explicit(&is_initialised, true, memory_order_release);
}
