/*
 * stack/module: the loaded modules and their tables of rules.
 *
 * A *module* is the program, a shared library or the vDSO. Which module holds an address is asked
 * of the dynamic loader's own lock-free index (_dl_find_object, glibc ≥ 2.35), or below that of a
 * list that was read with dl_iterate_phdr when nothing was locked.
 *
 * For each module in use there is a *slot*; from the slot hang *chunks*: the compact rules (cfi.h)
 * of 16 KiB of code each, sorted by address, built from .eh_frame when an address in them is first
 * asked for. So a large library costs what is used of it: 6 bytes a row, about 4 KiB and 25 µs a
 * chunk.
 *
 * Life of a slot, one atomic word {generation, phase}:
 *
 *     free ──claim──▶ busy ──publish──▶ live ──module closed──▶ retired ──no reader left──▶ busy
 * ──▶ free
 *
 * Nobody waits: whoever wins the compare-and-swap does the work, a signal handler that interrupts
 * it claims another slot (a module in two slots is harmless). Invariants:
 *   - all but `state` and the key changes only while busy;
 *   - whoever reads a slot's other fields or chunks is counted in `readers` from before it looked
 * at `state`;
 *   - a retired slot's memory goes only after `readers` was seen 0 later than the retirement;
 *   - a module is noticed to be closed when the next new one is met, so the garbage is bounded by
 * that. A plugin that was rebuilt may come back at the same addresses with the same sizes: its
 * build id (or, without one, the end of its file) tells the new one from the old.
 *
 * A cached rule names its slot and generation (a *ref*), and is checked once in each walk against
 * the loader. Modules that can never be closed (the program, libc, this library) have ref 0 and are
 * not checked.
 */
#ifndef FH_STACK_MODULE_H
#define FH_STACK_MODULE_H

#include "stack/cfi.h"

#include <stdatomic.h>

enum {
    FH_MODULE_SLOTS = 4096,
    FH_CHUNK_SHIFT = 14,
    FH_MODULE_HINTS = 256,
};

/* What the loader says about one module. */
struct fh_module_place {
    uintptr_t start, end; /* all of its mappings */
    uintptr_t header;     /* .eh_frame_hdr, 0 when it has none */
    uintptr_t identity;   /* its struct link_map; in the list the address of its name */
};

/* Rows of FH_CHUNK_SHIFT bytes of code: rules[i] holds from begins[i] to begins[i + 1]. begins[0]
 * is 0. */
struct fh_chunk {
    size_t mapped; /* bytes, for the release */
    uint32_t rows;
    uint32_t rules[]; /* then uint16_t begins[rows] */
};

struct fh_module {
    _Atomic uint64_t state;
    _Atomic uintptr_t start, end, header,
        identity; /* the key: read by anyone, trusted with state unchanged */
    _Atomic uintptr_t
        print_at; /* eight bytes in its first page that tell builds apart, and their value: */
    _Atomic uint64_t print;
    bool is_permanent;
    uintptr_t text_low, text_high; /* executable bytes */
    struct fh_cfi_image image;     /* table NULL: no usable .eh_frame */
    _Atomic(struct fh_chunk *) *chunks;
    size_t chunks_len;
};

/* The list for loaders without an index; immutable once published, the last one read wins. */
struct fh_module_list {
    size_t len, capacity, mapped;
    struct fh_module_place places[];
};

struct fh_modules {
    struct fh_module slots[FH_MODULE_SLOTS];
    _Atomic uint32_t slots_used;             /* slots from here on were never claimed */
    _Atomic uint16_t hints[FH_MODULE_HINTS]; /* by hash of identity: where it was last found */
    _Atomic uint32_t readers;
    _Atomic uint64_t table_bytes;
    _Atomic(struct fh_module_list *) list;
    _Atomic bool use_list; /* tests: as if the loader had no index */
};

/* The module around an address, or false. Safe anywhere. */
FH_PUBLIC bool fh_module_at(uintptr_t addr, struct fh_module_place *place);

/* The rule for an instruction's address. *ref is 0 or what fh_module_is_current must be asked.
 * False: not executable code of any module. */
bool fh_module_rule(uintptr_t addr, uint32_t *rule, uint32_t *ref);

/* Whether the module of a cached rule is still the one loaded at addr. */
bool fh_module_is_current(uint32_t ref, uintptr_t addr);

/* Whether `frame` lies in executable code right after a call instruction. */
bool fh_module_is_return_address(uintptr_t frame);

/* The description of the function at addr, for walks that need all registers. The module must be
 * pinned (a frame of it is on the caller's stack). */
bool fh_module_function(uintptr_t addr, struct fh_cfi_function *fn);

/* What a report needs of a module; `place` as fh_module_at gave it, the module pinned. */
struct fh_module_details {
    uintptr_t bias;      /* run-time address − address in the file */
    const void *dynamic; /* its dynamic section (ElfW(Dyn)), NULL when there is none */
    const char *name;    /* its path as the loader knows it; "" is the program */
    uint64_t print; /* begins its build id; without one, the end of its file: tells builds apart */
    const uint8_t *build_id;
    size_t build_id_len; /* 0: it has none that is in its first page */
};
bool fh_module_details(const struct fh_module_place *place, struct fh_module_details *details);

void fh_module_read_list(void);
void fh_module_reset_in_child(void);

#endif
