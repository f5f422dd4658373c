/*
 * The process's side of the site table (site_table.h has the theory).
 *
 * Everything here is lock-free and allocates nothing; a crash handler may call it.
 */
#include "guard/site_table.h"

#include "base/core/bits.h"
#include "os/mem.h"
#include "os/sys.h"
#include "stack/module.h"

#include <string.h>

/* Finaliser of MurmurHash3 (Appleby 2011): each bit of x changes half of the bits of the result. */
static uint64_t mixed(uint64_t x)
{
    x ^= x >> 33;
    x *= 0xff51afd7ed558ccdu;
    x ^= x >> 33;
    x *= 0xc4ceb9fe1a85ec53u;
    return x ^ x >> 33;
}

/* A frame as every run sees it; outside of all modules (code made at run time) only that it is
 * there. */
struct place {
    uint64_t print;
    uint64_t offset;
};

static struct place place_of(uintptr_t frame, struct fh_module_details *details)
{
    struct fh_module_place module;
    if (frame == 0 || !fh_module_at(frame - 1, &module) || !fh_module_details(&module, details))
        return (struct place){0, 0};
    return (struct place){details->print, frame - details->bias};
}

static uint64_t hash_of(struct place place)
{
    return mixed(mixed(place.print) + place.offset);
}

uint16_t fh_site_name_begin(uintptr_t frame)
{
    struct fh_module_details details;
    return (uint16_t)hash_of(place_of(frame, &details));
}

uint64_t fh_site_name(const uintptr_t *frames, size_t n)
{
    struct fh_module_details details;
    uint64_t name = 0, first = 0;
    for (size_t i = 0; i < n && i < FH_TABLE_FRAMES; i++) {
        uint64_t hash = hash_of(place_of(frames[i], &details));
        first = i == 0 ? hash : first;
        name = mixed(name + hash);
    }
    name = (name & ~(uint64_t)0xffff) | (first & 0xffff);
    return name != 0 ? name : 1;
}

struct fh_site_table *fh_site_table_map(const char *path)
{
    int fd = fh_os_open_read_write(path);
    if (fd < 0)
        return NULL;
    struct fh_site_table *table = fh_os_map_fd(fd, sizeof *table, 0, true);
    fh_os_close(fd);
    if (table == NULL || table->magic == FH_TABLE_MAGIC)
        return table;
    fh_os_release(table, sizeof *table);
    return NULL;
}

/* The program itself has no name among the loader's. */
static void write_path(struct fh_table_module *module, const char *name)
{
    size_t len = strlen(name);
    if (len == 0) {
        (void)fh_os_read_link("/proc/self/exe", module->path, sizeof module->path);
        return;
    }
    if (len < sizeof module->path)
        memcpy(module->path, name, len);
}

/* Its index + 1, or 0 when there is no place. */
static uint64_t module_index(struct fh_site_table *table, const struct fh_module_details *details)
{
    for (size_t i = 0; i < FH_TABLE_PROBES; i++) {
        size_t index = (mixed(details->print) + i) % FH_TABLE_MODULES;
        struct fh_table_module *module = &table->modules[index];
        uint64_t is = 0;
        if (atomic_compare_exchange_strong_explicit(&module->print, &is, details->print,
                                                    memory_order_relaxed, memory_order_relaxed)) {
            write_path(module, details->name);
            /* pairs with the command's acquire */
            atomic_store_explicit(&module->is_ready, 1, memory_order_release);
            return index + 1;
        }
        if (is == details->print)
            return index + 1;
    }
    return 0;
}

static void write_stack(struct fh_site_table *table, struct fh_table_stack *stack,
                        const uintptr_t *frames, size_t n)
{
    struct fh_module_details details;
    stack->len = (uint32_t)fh_min(n, FH_TABLE_FRAMES);
    for (size_t i = 0; i < stack->len; i++) {
        struct place place = place_of(frames[i], &details);
        uint64_t module = place.print != 0 ? module_index(table, &details) : 0;
        stack->frames[i] =
            module << FH_TABLE_MODULE_SHIFT | (module != 0 ? place.offset : frames[i]);
    }
}

/* The place of a site, claimed when it is new; NULL when there is none. */
static struct fh_table_site *find_site(struct fh_site_table *table, uint64_t name, bool *is_new)
{
    for (size_t i = 0; i < FH_TABLE_PROBES; i++) {
        struct fh_table_site *site = &table->sites[(mixed(name) + i) % FH_TABLE_SITES];
        uint64_t is = 0;
        *is_new = atomic_compare_exchange_strong_explicit(
            &site->site, &is, name, memory_order_relaxed, memory_order_relaxed);
        if (*is_new || is == name)
            return site;
    }
    return NULL;
}

void fh_site_table_count(struct fh_site_table *table, const uintptr_t *frames, size_t n,
                         uint64_t number, size_t bytes, const char *function)
{
    bool is_new;
    atomic_fetch_add_explicit(&table->allocations, 1, memory_order_relaxed);
    struct fh_table_site *site = find_site(table, fh_site_name(frames, n), &is_new);
    if (site == NULL) {
        atomic_fetch_add_explicit(&table->lost, 1, memory_order_relaxed);
        return;
    }
    atomic_fetch_add_explicit(&site->count, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&site->bytes, bytes, memory_order_relaxed);
    if (!is_new)
        return;
    atomic_store_explicit(&site->first, number, memory_order_relaxed);
    memcpy(site->function, function, fh_min(strlen(function), sizeof site->function - 1));
    write_stack(table, &site->stack, frames, n);
    /* pairs with the command's acquire */
    atomic_store_explicit(&site->is_ready, 1, memory_order_release);
}

void fh_site_table_crashed(struct fh_site_table *table, int signal, uintptr_t address,
                           bool is_handled, const uintptr_t *frames, size_t n)
{
    struct fh_table_crash *crash = &table->crash;
    if (atomic_exchange_explicit(&crash->is_claimed, 1, memory_order_relaxed) != 0)
        return;
    crash->signal = signal;
    crash->pid = fh_os_getpid();
    crash->address = address;
    crash->is_handled = is_handled;
    write_stack(table, &crash->stack, frames, n);
    /* pairs with the command's acquire */
    atomic_store_explicit(&crash->is_ready, 1, memory_order_release);
}
