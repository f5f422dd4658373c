/*
 * Names of functions, for reports of a process that may be in ruins.
 *
 * dladdr takes the loader's lock and libdw allocates, so here a symbol is looked for by hand: first
 * among the module's dynamic symbols, which are in memory; if none covers the address, in the
 * symbol table of its file, read in small blocks (a static function is only there, and only while
 * the file is not stripped). Nothing is kept. The cost does not matter: the program is about to
 * end, or a person waits.
 */
#include "base/core/bits.h"
#include "base/message.h"
#include "os/sys.h"
#include "stack/module.h"
#include "stack/stack.h"

#include <elf.h>
#include <link.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/auxv.h>

enum {
    NAME_MAX_BYTES = sizeof(((struct fh_stack_place *)0)->function),
    BLOCK_SYMBOLS = 64,
    SECTIONS_MAX = 10000,
    LINE_MAX_BYTES = 640,
};

/* The function found so far: the last one that begins at or below the address and covers it. */
struct match {
    uintptr_t wanted; /* address in the file */
    uintptr_t value;
    size_t name; /* offset in the table's strings */
    bool is_found;
};

static void consider(struct match *match, const ElfW(Sym) * symbol)
{
    unsigned type = ELF64_ST_TYPE(symbol->st_info);
    if ((type != STT_FUNC && type != STT_GNU_IFUNC) || symbol->st_shndx == SHN_UNDEF)
        return;
    /* A size of 0 (assembly) reaches to the next symbol. */
    if (symbol->st_value > match->wanted ||
        (symbol->st_size != 0 && match->wanted - symbol->st_value >= symbol->st_size))
        return;
    if (!match->is_found || symbol->st_value >= match->value) {
        match->is_found = true;
        match->value = symbol->st_value;
        match->name = symbol->st_name;
    }
}

/* ---- Dynamic symbols ------------------------------------------------------------------------ */

struct dynamic_tables {
    const ElfW(Sym) * symbols;
    const char *strings;
    size_t strings_size;
    const uint32_t *gnu_hash, *hash;
};

/* The loader has made these entries addresses, but not in the vDSO. */
static uintptr_t pointer_in(const ElfW(Dyn) * entry, uintptr_t bias)
{
    return entry->d_un.d_ptr < bias ? bias + entry->d_un.d_ptr : entry->d_un.d_ptr;
}

static struct dynamic_tables read_dynamic(const ElfW(Dyn) * entry, uintptr_t bias)
{
    struct dynamic_tables tables = {0};
    for (; entry != NULL && entry->d_tag != DT_NULL; entry++) {
        if (entry->d_tag == DT_SYMTAB)
            tables.symbols = (const ElfW(Sym) *)pointer_in(entry, bias);
        else if (entry->d_tag == DT_STRTAB)
            tables.strings = (const char *)pointer_in(entry, bias);
        else if (entry->d_tag == DT_STRSZ)
            tables.strings_size = entry->d_un.d_val;
        else if (entry->d_tag == DT_GNU_HASH)
            tables.gnu_hash = (const uint32_t *)pointer_in(entry, bias);
        else if (entry->d_tag == DT_HASH)
            tables.hash = (const uint32_t *)pointer_in(entry, bias);
    }
    return tables;
}

/* Only the hash tables tell how many symbols there are. DT_GNU_HASH: {buckets, first symbol, bloom
 * words, shift}, the bloom filter, the buckets, then for each symbol its hash, the last of a bucket
 * marked by an odd one. */
static size_t count_symbols(const struct dynamic_tables *tables)
{
    if (tables->hash != NULL)
        return tables->hash[1];
    if (tables->gnu_hash == NULL)
        return 0;
    uint32_t buckets = tables->gnu_hash[0], first = tables->gnu_hash[1],
             bloom = tables->gnu_hash[2];
    const uint32_t *bucket = tables->gnu_hash + 4 + bloom * (sizeof(uintptr_t) / sizeof(uint32_t));
    const uint32_t *chain = bucket + buckets;
    uint32_t last = 0;
    for (uint32_t i = 0; i < buckets; i++)
        last = bucket[i] > last ? bucket[i] : last;
    if (last < first)
        return first;
    while ((chain[last - first] & 1) == 0)
        last++;
    return (size_t)last + 1;
}

static bool find_dynamic(const struct fh_module_details *module, struct match *match, char *name)
{
    struct dynamic_tables tables = read_dynamic(module->dynamic, module->bias);
    if (tables.symbols == NULL || tables.strings == NULL)
        return false;
    size_t count = count_symbols(&tables);
    for (size_t i = 0; i < count; i++)
        consider(match, &tables.symbols[i]);
    if (!match->is_found || match->name >= tables.strings_size)
        return false;
    fh_format(name, NAME_MAX_BYTES, "%s", tables.strings + match->name);
    return true;
}

/* ---- The file's symbol table ---------------------------------------------------------------- */

static bool read_exactly(int fd, void *buf, size_t size, uint64_t offset)
{
    return fh_os_read_at(fd, buf, size, offset) == (int64_t)size;
}

static bool find_table(int fd, ElfW(Shdr) * symbols, ElfW(Shdr) * strings)
{
    ElfW(Ehdr) elf;
    if (!read_exactly(fd, &elf, sizeof(elf), 0) || memcmp(elf.e_ident, ELFMAG, SELFMAG) != 0 ||
        elf.e_shentsize != sizeof(*symbols) || elf.e_shnum > SECTIONS_MAX)
        return false;
    for (size_t i = 0; i < elf.e_shnum; i++) {
        if (!read_exactly(fd, symbols, sizeof(*symbols), elf.e_shoff + i * sizeof(*symbols)))
            return false;
        if (symbols->sh_type == SHT_SYMTAB)
            return symbols->sh_entsize == sizeof(ElfW(Sym)) && symbols->sh_link < elf.e_shnum &&
                   read_exactly(fd, strings, sizeof(*strings),
                                elf.e_shoff + symbols->sh_link * sizeof(*strings));
    }
    return false;
}

static bool find_in_file(int fd, struct match *match, char *name)
{
    ElfW(Shdr) symbols, strings;
    ElfW(Sym) block[BLOCK_SYMBOLS];
    if (!find_table(fd, &symbols, &strings))
        return false;
    for (uint64_t at = 0; at < symbols.sh_size; at += sizeof(block)) {
        size_t size = fh_min(sizeof(block), symbols.sh_size - at);
        if (!read_exactly(fd, block, size, symbols.sh_offset + at))
            return false;
        for (size_t i = 0; i < size / sizeof(block[0]); i++)
            consider(match, &block[i]);
    }
    if (!match->is_found || match->name >= strings.sh_size)
        return false;
    size_t size = fh_min(NAME_MAX_BYTES - 1, strings.sh_size - match->name);
    if (!read_exactly(fd, name, size, strings.sh_offset + match->name))
        return false;
    name[size] = 0;
    return true;
}

static bool find_static(const struct fh_module_details *module, struct match *match, char *name)
{
    int fd = fh_os_open_read(*module->name != 0 ? module->name : "/proc/self/exe");
    if (fd < 0)
        return false;
    bool is_found = find_in_file(fd, match, name);
    fh_os_close(fd);
    return is_found;
}

/* ---- Lines ---------------------------------------------------------------------------------- */

/* The program's path, absolute: a report may be read from another folder than it was written in. The
 * first who asks finds it out; who comes meanwhile has the name that the program was called by. */
static const char *program_path(void)
{
    enum { UNKNOWN, BUSY, KNOWN, NONE };
    static char path[1024];
    static _Atomic int state;
    int now = UNKNOWN;
    if (atomic_compare_exchange_strong_explicit(&state, &now, BUSY, memory_order_acquire,
                                                memory_order_acquire)) {
        now = fh_os_read_link("/proc/self/exe", path, sizeof path) > 0 ? KNOWN : NONE;
        atomic_store_explicit(&state, now, memory_order_release); /* pairs with the acquire above */
    }
    if (now == KNOWN)
        return path;
    const char *name = (const char *)getauxval(AT_EXECFN);
    return name != NULL ? name : "the program";
}

static const char *path_of(const struct fh_module_details *module)
{
    return *module->name != 0 ? module->name : program_path();
}

/* The function around match->wanted: among the dynamic symbols, else in the file. */
static bool find_function(const struct fh_module_details *module, struct match *match, char *name)
{
    struct match begin = *match;
    if (find_dynamic(module, match, name))
        return true;
    *match = begin;
    return find_static(module, match, name);
}

void fh_stack_locate(uintptr_t frame, struct fh_stack_place *out)
{
    struct fh_module_place place;
    struct fh_module_details module;
    *out = (struct fh_stack_place){.address = frame - 1};
    if (frame == 0 || !fh_module_at(frame - 1, &place) || !fh_module_details(&place, &module))
        return;
    out->module = path_of(&module);
    out->offset = out->address - module.bias;
    out->build_id = module.build_id;
    out->build_id_len = module.build_id_len;
    struct match match = {.wanted = out->offset};
    if (find_function(&module, &match, out->function))
        out->function_offset = match.wanted - match.value;
    else
        out->function[0] = 0;
}

bool fh_stack_function(char *text, size_t size, uintptr_t frame)
{
    struct fh_stack_place place;
    fh_stack_locate(frame, &place);
    fh_format(text, size, "%s", place.function);
    return place.function[0] != 0;
}

const char *fh_stack_module(uintptr_t frame)
{
    struct fh_module_place place;
    struct fh_module_details module;
    if (frame == 0 || !fh_module_at(frame - 1, &place) || !fh_module_details(&place, &module))
        return NULL;
    return path_of(&module);
}

bool fh_stack_in_module(uintptr_t frame, const void *code)
{
    struct fh_module_place place;
    return frame != 0 && fh_module_at((uintptr_t)code, &place) &&
           frame - 1 - place.start < place.end - place.start;
}

size_t fh_stack_describe_place(char *text, size_t size, size_t index,
                               const struct fh_stack_place *place)
{
    void *address = (void *)place->address;
    if (place->module == NULL)
        return fh_format(text, size, "#%zu %p in ??", index, address);
    if (place->function[0] == 0)
        return fh_format(text, size, "#%zu %p in ?? (%s+0x%llx)", index, address, place->module,
                         (unsigned long long)place->offset);
    return fh_format(text, size, "#%zu %p in %s+0x%llx (%s+0x%llx)", index, address,
                     place->function, (unsigned long long)place->function_offset, place->module,
                     (unsigned long long)place->offset);
}

size_t fh_stack_describe(char *text, size_t size, size_t index, uintptr_t frame)
{
    struct fh_stack_place place;
    fh_stack_locate(frame, &place);
    return fh_stack_describe_place(text, size, index, &place);
}

void fh_stack_print(const uintptr_t *frames, size_t n)
{
    char line[LINE_MAX_BYTES];
    for (size_t i = 0; i < n; i++) {
        fh_stack_describe(line, sizeof(line), i, frames[i]);
        fh_message_raw("    %s\n", line);
    }
}
