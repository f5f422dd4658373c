/*
 * Objects of static storage, by their symbols.
 *
 * A *table* is made for each module when an address in it is first asked about: the data symbols of
 * the file that it was loaded from, sorted, as pairs of addresses. It never changes, and stays until
 * the end; a module that comes to lie where another did gets a table of its own, which takes the old
 * one's place (readers may still be in that one, so it is not unmapped; how many tables there can be
 * bounds what that costs). Which module holds an address is the loader's to say (module.h), so an
 * address that was a closed module's finds nothing.
 *
 * What a symbol says is believed only where it must be the whole truth about an object:
 *   - its section is one of the compiler's for data. Objects in sections with names of their own are
 *     often elements of an array that the linker makes (__start_NAME … __stop_NAME), and the array
 *     is what the program means;
 *   - its size is not 0. (What the assembler and the linker define has none.)
 *   - symbols that overlap are one object: an alias for a part must not bound the whole;
 *   - the file still begins as the module in memory does: it may have been replaced since.
 */
#include "stack/objects.h"

#include "base/core/bits.h"
#include "base/message.h"
#include "os/mem.h"
#include "os/sys.h"
#include "stack/module.h"
#include "stack/root.h"

#include <elf.h>
#include <link.h>
#include <string.h>

enum {
    BLOCK_SYMBOLS = 64,
    SECTIONS_MAX = 4096,
    COMPARED_BYTES = 1024, /* of the file's beginning: ELF header, segments, build id */
    PROBES = 8,
    NAME_MAX_BYTES = 128,
};
#define SYMBOLS_MAX ((size_t)1 << 22)

struct fh_static_table {
    uintptr_t start, end, identity; /* of the module, see module.h */
    uint64_t print;                 /* of its beginning: tells builds apart */
    uintptr_t bias;
    size_t mapped;
    size_t len;
    struct fh_static_object objects[];
};

/* ---- the file -------------------------------------------------------------------------------- */

struct file {
    int fd;
    ElfW(Ehdr) elf;
    ElfW(Shdr) symbols, names, strings; /* of the sections; of the symbols */
    uint64_t data_sections[SECTIONS_MAX / 64];
};

static bool read_exactly(const struct file *file, void *buf, size_t size, uint64_t offset)
{
    return fh_os_read_at(file->fd, buf, size, offset) == (int64_t)size;
}

static bool read_section(const struct file *file, size_t index, ElfW(Shdr) * section)
{
    return read_exactly(file, section, sizeof(*section),
                        file->elf.e_shoff + index * sizeof(*section));
}

/* Whether memory begins with the file's bytes: the ELF header is the first thing mapped. */
static bool is_file_of(const struct file *file, const struct fh_module_place *place)
{
    uint8_t bytes[128];
    for (uint64_t at = 0; at < COMPARED_BYTES; at += sizeof(bytes)) {
        if (!read_exactly(file, bytes, sizeof(bytes), at) ||
            memcmp(bytes, (const void *)(place->start + at), sizeof(bytes)) != 0)
            return false;
    }
    return true;
}

static bool is_data_section(const struct file *file, const ElfW(Shdr) * section)
{
    static const char *const families[] = {".data", ".bss",   ".rodata",
                                           ".lbss", ".ldata", ".lrodata"};
    char name[16] = {0};
    if ((section->sh_flags & SHF_ALLOC) == 0 || section->sh_name >= file->names.sh_size)
        return false;
    fh_os_read_at(file->fd, name, fh_min(sizeof(name) - 1, file->names.sh_size - section->sh_name),
                  file->names.sh_offset + section->sh_name);
    for (size_t i = 0; i < FH_ARRAY_LEN(families); i++) {
        size_t len = strlen(families[i]);
        if (memcmp(name, families[i], len) == 0 && (name[len] == 0 || name[len] == '.'))
            return true;
    }
    return false;
}

/* The sections, and the fullest table of symbols. */
static bool read_sections(struct file *file)
{
    ElfW(Shdr) section;
    const ElfW(Ehdr) *elf = &file->elf;
    if (elf->e_shentsize != sizeof(section) || elf->e_shnum > SECTIONS_MAX ||
        elf->e_shstrndx >= elf->e_shnum || !read_section(file, elf->e_shstrndx, &file->names))
        return false;
    for (size_t i = 0; i < elf->e_shnum; i++) {
        if (!read_section(file, i, &section))
            return false;
        if (is_data_section(file, &section))
            file->data_sections[i / 64] |= (uint64_t)1 << i % 64;
        if (section.sh_type == SHT_SYMTAB ||
            (section.sh_type == SHT_DYNSYM && file->symbols.sh_type != SHT_SYMTAB))
            file->symbols = section;
    }
    return file->symbols.sh_entsize == sizeof(ElfW(Sym)) && file->symbols.sh_link < elf->e_shnum &&
           file->symbols.sh_size / sizeof(ElfW(Sym)) <= SYMBOLS_MAX &&
           read_section(file, file->symbols.sh_link, &file->strings);
}

/* What is left open when this is false: nothing. */
static bool open_file(struct file *file, const struct fh_module_place *place, const char *name)
{
    file->fd = fh_os_open_read(*name != 0 ? name : "/proc/self/exe");
    if (file->fd < 0)
        return false;
    if (read_exactly(file, &file->elf, sizeof(file->elf), 0) &&
        memcmp(file->elf.e_ident, ELFMAG, SELFMAG) == 0 && is_file_of(file, place) &&
        read_sections(file))
        return true;
    fh_os_close(file->fd);
    return false;
}

static bool is_object(const struct file *file, const ElfW(Sym) * symbol)
{
    unsigned section = symbol->st_shndx;
    return ELF64_ST_TYPE(symbol->st_info) == STT_OBJECT && symbol->st_size != 0 &&
           section < file->elf.e_shnum && (file->data_sections[section / 64] >> section % 64 & 1);
}

/* Calls `each` for every symbol that is an object, until it returns false. */
static void for_objects(const struct file *file,
                        bool (*each)(void *context, const ElfW(Sym) * symbol), void *context)
{
    ElfW(Sym) block[BLOCK_SYMBOLS];
    for (uint64_t at = 0; at < file->symbols.sh_size; at += sizeof(block)) {
        size_t size = fh_min(sizeof(block), file->symbols.sh_size - at);
        if (!read_exactly(file, block, size, file->symbols.sh_offset + at))
            return;
        for (size_t i = 0; i < size / sizeof(block[0]); i++) {
            if (is_object(file, &block[i]) && !each(context, &block[i]))
                return;
        }
    }
}

/* ---- a table --------------------------------------------------------------------------------- */

static bool count_object(void *context, const ElfW(Sym) * symbol)
{
    (void)symbol;
    ++*(size_t *)context;
    return true;
}

struct filling {
    struct fh_static_table *table;
    size_t capacity;
};

static bool add_object(void *context, const ElfW(Sym) * symbol)
{
    struct filling *filling = context;
    struct fh_static_table *table = filling->table;
    if (table->len == filling->capacity)
        return false;
    uintptr_t low = table->bias + symbol->st_value;
    table->objects[table->len++] = (struct fh_static_object){low, low + symbol->st_size};
    return true;
}

/* Shell's method with Ciura's steps, continued: no recursion, no memory, and fast enough for the
 * 30,000 symbols of a compiler. */
static void sort_objects(struct fh_static_object *objects, size_t len)
{
    static const size_t steps[] = {1636000, 736200, 331311, 149090, 67092, 30191, 13586, 6114, 2751,
                                   1238,    557,    301,    132,    57,    23,    10,    4,    1};
    for (size_t s = 0; s < FH_ARRAY_LEN(steps); s++) {
        for (size_t i = steps[s]; i < len; i++) {
            struct fh_static_object moving = objects[i];
            size_t to = i;
            for (; to >= steps[s] && objects[to - steps[s]].low > moving.low; to -= steps[s])
                objects[to] = objects[to - steps[s]];
            objects[to] = moving;
        }
    }
}

static size_t join_overlapping(struct fh_static_object *objects, size_t len)
{
    size_t kept = 0;
    for (size_t i = 0; i < len; i++) {
        if (kept != 0 && objects[i].low < objects[kept - 1].high)
            objects[kept - 1].high = fh_max(objects[kept - 1].high, objects[i].high);
        else
            objects[kept++] = objects[i];
    }
    return kept;
}

static FH_NOINLINE struct fh_static_table *make_table(const struct fh_module_place *place,
                                                      uint64_t print)
{
    struct fh_module_details details;
    struct file file = {.fd = -1};
    size_t count = 0;
    bool is_open = fh_module_details(place, &details) && open_file(&file, place, details.name);
    if (is_open)
        for_objects(&file, count_object, &count);
    size_t mapped = fh_align_up(
        sizeof(struct fh_static_table) + count * sizeof(struct fh_static_object), fh_os_page_size);
    struct fh_static_table *table = fh_os_map(mapped);
    if (table != NULL) {
        *table = (struct fh_static_table){.start = place->start,
                                          .end = place->end,
                                          .identity = place->identity,
                                          .print = print,
                                          .bias = is_open ? details.bias : 0,
                                          .mapped = mapped};
        struct filling filling = {table, count};
        if (is_open)
            for_objects(&file, add_object, &filling);
        sort_objects(table->objects, table->len);
        table->len = join_overlapping(table->objects, table->len);
    }
    if (is_open)
        fh_os_close(file.fd);
    return table;
}

/* ---- all tables ------------------------------------------------------------------------------ */

/* A plugin that was built anew may come back at its old place: its build id is in here. */
static uint64_t print_of(const struct fh_module_place *place)
{
    const uint64_t *words = (const uint64_t *)place->start;
    uint64_t print = 0;
    for (size_t i = 0; i < COMPARED_BYTES / sizeof(*words); i++)
        print = (print ^ words[i]) * 0x9E3779B97F4A7C15u;
    return print;
}

static bool is_table_of(const struct fh_static_table *table, const struct fh_module_place *place,
                        uint64_t print)
{
    return table->start == place->start && table->end == place->end &&
           table->identity == place->identity && table->print == print;
}

/* NULL: no memory, or no place. Two threads may make the same table; one is kept. */
static const struct fh_static_table *table_of(const struct fh_module_place *place)
{
    size_t hash = (place->start >> 12) * 0x9E3779B97F4A7C15u >> 32;
    uint64_t print = print_of(place);
    struct fh_static_table *made = NULL;
    for (size_t i = 0; i < PROBES; i++) {
        _Atomic(struct fh_static_table *) *slot =
            &fh_stack_root.objects.tables[(hash + i) % FH_STATIC_TABLES];
        /* Pairs with the exchange below. */
        struct fh_static_table *table = atomic_load_explicit(slot, memory_order_acquire);
        if (table != NULL && is_table_of(table, place, print)) {
            if (made != NULL)
                fh_os_release(made, made->mapped);
            return table;
        }
        if (table != NULL && table->start != place->start)
            continue;
        if (made == NULL)
            made = make_table(place, print);
        if (made == NULL)
            return NULL;
        if (atomic_compare_exchange_strong_explicit(slot, &table, made, memory_order_release,
                                                    memory_order_relaxed))
            return made;
        i--; /* somebody was faster: look again */
    }
    if (made != NULL)
        fh_os_release(made, made->mapped);
    return NULL;
}

bool fh_static_object_at(uintptr_t address, struct fh_static_object *object)
{
    struct fh_module_place place;
    if (!fh_module_at(address, &place))
        return false;
    const struct fh_static_table *table = table_of(&place);
    if (table == NULL || table->len == 0)
        return false;
    const struct fh_static_object *objects = table->objects;
    size_t low = 0, high = table->len; /* the last that begins at or below the address */
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (objects[middle].low <= address)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == 0 || address >= objects[low - 1].high)
        return false;
    *object = objects[low - 1];
    return true;
}

/* ---- names ----------------------------------------------------------------------------------- */

struct naming {
    uintptr_t bias;
    const struct fh_static_object *wanted;
    uint64_t size; /* of the widest so far */
    size_t name;
};

static bool consider_name(void *context, const ElfW(Sym) * symbol)
{
    struct naming *naming = context;
    uintptr_t low = naming->bias + symbol->st_value;
    if (low == naming->wanted->low && symbol->st_size > naming->size) {
        naming->size = symbol->st_size;
        naming->name = symbol->st_name;
    }
    return true;
}

bool fh_static_object_name(char *name, size_t size, const struct fh_static_object *object)
{
    struct fh_module_place place;
    struct fh_module_details details;
    struct file file = {.fd = -1};
    char text[NAME_MAX_BYTES] = {0};
    if (!fh_module_at(object->low, &place) || !fh_module_details(&place, &details) ||
        !open_file(&file, &place, details.name))
        return false;
    struct naming naming = {.bias = details.bias, .wanted = object};
    for_objects(&file, consider_name, &naming);
    bool is_found = naming.size != 0 && naming.name < file.strings.sh_size;
    if (is_found)
        fh_os_read_at(file.fd, text, fh_min(sizeof(text) - 1, file.strings.sh_size - naming.name),
                      file.strings.sh_offset + naming.name);
    fh_os_close(file.fd);
    fh_format(name, size, "%s", text);
    return is_found && text[0] != 0;
}
