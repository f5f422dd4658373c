/*
 * Symbols: addresses of a recorded process, looked up in the files that it had loaded.
 *
 * What it keeps:
 *   files    one for each path and build id among the modules, with a libdwfl session of its own in which the
 *            file lies at its own addresses. So several modules may have lain at the same address, one after another,
 *            and a file loaded twice is read once. A file is opened when an address in it is first asked for.
 *   modules  address range, times and bias; an address belongs to the module that was loaded last among those that
 *            hold it at that time.
 *   units    for each compilation unit in use, its functions' address ranges, sorted. libdw would walk the unit
 *            from its beginning for each address (dwarf_getscopes), which takes milliseconds in a unit like
 *            SQLite's; here that walk is done once, and inlined functions are looked for below the one
 *            function only.
 *   cache    file and address to frames: a hash table, open addressing. Frames never move.
 *
 * A file is believed when its build id is the recorded one. If it is gone or was replaced, the debug file of the
 * recorded build id is taken (libdwfl's search: /usr/lib/debug/.build-id, and debuginfod exactly where
 * DEBUGINFOD_URLS is set); else frames are module+offset, and a hint says why. Without DWARF, names come from the symbol
 * tables, the compressed one of .gnu_debugdata too; without a name, a function still has a begin, of .eh_frame_hdr.
 *
 * Names of C++ are demangled by __cxa_demangle of libstdc++, which is loaded when the first such name comes: a
 * machine that has none shows them as they are.
 *
 * Sources: DWARF 5, 2.17 (ranges), 3.3.8 (inlined functions).
 */
#include "symbols.h"

#include <dlfcn.h>
#include <dwarf.h>
#include <elfutils/libdwfl.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Stacks of inlined functions deeper than this lose their outer ones. */
enum { MOST_INLINED = 32, FIRST_CACHE = 1024 };

struct function {
    uint64_t begin, end; /* one of its ranges, in the DWARF's addresses */
    Dwarf_Die die;
};

/* The functions of a compilation unit by address. */
struct unit {
    Dwarf_Off offset; /* of its DIE: which unit it is */
    Dwarf_Die die;
    struct function *functions;
    size_t count, capacity;
};

struct file {
    char *path;
    uint8_t *build_id;
    size_t build_id_size;
    bool is_opened; /* it was tried */
    Dwfl *session;  /* NULL: there is nothing to look into */
    Dwfl_Module *dwfl;
    struct unit **units;
    size_t unit_count;
    char *hint; /* NULL: all is well */
};

struct module {
    uint64_t begin, end, bias, from_ns, until_ns;
    uint32_t file;
};

/* What is known of an address in a file. */
struct place {
    uint64_t address; /* the file's own */
    uint32_t file;    /* UINT32_MAX: in no module */
    uint32_t count;
    uint64_t begin; /* of the function; the file's own address */
    struct symbols_frame *frames;
};

/* Everything that lives until the end, in one list. */
struct owned {
    struct owned *next;
    _Alignas(16) char bytes[];
};

struct symbols {
    struct file *files;
    size_t file_count, file_capacity;
    struct module *modules;
    size_t module_count, module_capacity;
    struct place *places; /* open addressing; count 0: empty */
    size_t place_count, place_capacity;
    struct owned *owned;
    char *(*demangle)(const char *mangled, char *buffer, size_t *size, int *status);
    bool has_looked_for_demangle;
};

/* ---- Memory ---- */

/* Room for one more element; NULL without memory. */
static void *grown(void *array, size_t count, size_t *capacity, size_t size)
{
    if (count < *capacity) {
        return array;
    }
    const size_t wanted = *capacity == 0 ? 16 : 2 * *capacity;
    void *larger = reallocarray(array, wanted, size);
    if (larger != NULL) {
        *capacity = wanted;
    }
    return larger;
}

static void *own(struct symbols *symbols, size_t size)
{
    struct owned *owned = malloc(sizeof(*owned) + size);
    if (owned == NULL) {
        return NULL;
    }
    owned->next = symbols->owned;
    symbols->owned = owned;
    return owned->bytes;
}

static const char *own_text(struct symbols *symbols, const char *text)
{
    const size_t size = strlen(text) + 1;
    char *copy = own(symbols, size);
    return copy == NULL ? "?" : memcpy(copy, text, size);
}

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash != NULL && slash[1] != '\0' ? slash + 1 : path;
}

/* ---- Files and modules ---- */

static bool has_build_id(const struct file *file, const uint8_t *id, size_t size)
{
    return file->build_id_size == size && (size == 0 || memcmp(file->build_id, id, size) == 0);
}

/* Its number, added when it is new; -1 without memory. */
static int64_t file_of(struct symbols *symbols, const struct fh_trace_module *module)
{
    const char *path = module->path != NULL ? module->path : "";
    for (size_t i = 0; i < symbols->file_count; i++) {
        if (strcmp(symbols->files[i].path, path) == 0 &&
            has_build_id(&symbols->files[i], module->build_id, module->build_id_size)) {
            return (int64_t)i;
        }
    }
    struct file *files =
        grown(symbols->files, symbols->file_count, &symbols->file_capacity, sizeof(*files));
    if (files == NULL) {
        return -1;
    }
    symbols->files = files;
    struct file file = {.path = strdup(path), .build_id_size = module->build_id_size};
    file.build_id = malloc(file.build_id_size + 1);
    if (file.path == NULL || file.build_id == NULL) {
        free(file.path);
        free(file.build_id);
        return -1;
    }
    if (file.build_id_size > 0) {
        memcpy(file.build_id, module->build_id, file.build_id_size);
    }
    files[symbols->file_count] = file;
    return (int64_t)symbols->file_count++;
}

int symbols_add_module(struct symbols *symbols, const struct fh_trace_module *module)
{
    const int64_t file = file_of(symbols, module);
    struct module *modules =
        grown(symbols->modules, symbols->module_count, &symbols->module_capacity, sizeof(*modules));
    if (modules == NULL || file < 0) {
        symbols->modules = modules != NULL ? modules : symbols->modules;
        return -ENOMEM;
    }
    symbols->modules = modules;
    modules[symbols->module_count++] =
        (struct module){module->begin,   module->end,      module->bias,
                        module->from_ns, module->until_ns, (uint32_t)file};
    return 0;
}

int symbols_add_modules(struct symbols *symbols, const struct fh_trace *trace)
{
    const struct fh_trace_module *module;
    for (size_t i = 0; (module = fh_trace_module(trace, i)) != NULL; i++) {
        const int error = symbols_add_module(symbols, module);
        if (error != 0) {
            return error;
        }
    }
    return 0;
}

/* NULL: in none. A file is mapped for a while before the recorder notices and after it forgets, so the
 * times only choose between modules at one address. */
static const struct module *module_at(const struct symbols *symbols, uint64_t address,
                                      uint64_t time_ns)
{
    const struct module *best = NULL;
    bool is_in_time = false;
    for (size_t i = symbols->module_count; i-- > 0;) {
        const struct module *module = &symbols->modules[i];
        if (address < module->begin || address >= module->end) {
            continue;
        }
        const bool fits = time_ns >= module->from_ns && time_ns <= module->until_ns;
        if (best == NULL || (fits && !is_in_time)) {
            best = module;
            is_in_time = fits;
        }
    }
    return best;
}

/* ---- Opening a file ---- */

static const Dwfl_Callbacks callbacks = {
    .find_elf = dwfl_build_id_find_elf,
    .find_debuginfo = dwfl_standard_find_debuginfo,
    .section_address = dwfl_offline_section_address,
};

static void __attribute__((format(printf, 2, 3)))
give_hint(struct file *file, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    free(file->hint);
    if (vasprintf(&file->hint, format, args) < 0) {
        file->hint = NULL;
    }
    va_end(args);
}

/* Opens the file at path when it is the recorded one. */
static bool open_path(struct file *file, const char *path)
{
    Dwfl *session = dwfl_begin(&callbacks);
    if (session == NULL) {
        return false;
    }
    dwfl_report_begin(session);
    Dwfl_Module *module = dwfl_report_elf(session, base_name(file->path), path, -1, 0, true);
    dwfl_report_end(session, NULL, NULL);
    const unsigned char *id = NULL;
    GElf_Addr note;
    GElf_Addr bias;
    bool is_same = module != NULL && dwfl_module_getelf(module, &bias) != NULL;
    if (is_same && file->build_id_size > 0) {
        const int size = dwfl_module_build_id(module, &id, &note);
        is_same = size > 0 && has_build_id(file, id, (size_t)size);
    }
    if (!is_same) {
        dwfl_end(session);
        return false;
    }
    file->session = session;
    file->dwfl = module;
    return true;
}

static bool open_debug_file(struct file *file)
{
    char path[512];
    if (file->build_id_size < 2 || file->build_id_size > 64) {
        return false;
    }
    int len = snprintf(path, sizeof(path), "/usr/lib/debug/.build-id/%02x/", file->build_id[0]);
    for (size_t i = 1; i < file->build_id_size; i++) {
        len += snprintf(path + len, sizeof(path) - (size_t)len, "%02x", file->build_id[i]);
    }
    snprintf(path + len, sizeof(path) - (size_t)len, ".debug");
    return access(path, R_OK) == 0 && open_path(file, path);
}

static void open_file(struct file *file)
{
    Dwarf_Addr bias;
    file->is_opened = true;
    if (file->path[0] != '/') {
        return; /* the kernel's vdso and the like: nothing that could be done about it */
    }
    if (!open_path(file, file->path) && !open_debug_file(file)) {
        if (access(file->path, R_OK) != 0) {
            give_hint(file, "%s is gone or can't be read: its frames are shown as addresses",
                      file->path);
        } else {
            give_hint(file,
                      "%s was replaced since: its frames are shown as addresses; run the program "
                      "again",
                      file->path);
        }
        return;
    }
    if (dwfl_module_getdwarf(file->dwfl, &bias) == NULL) {
        give_hint(file,
                  "%s has no debug information: its frames have no lines; build it with -g, or "
                  "install its -dbgsym package (or set DEBUGINFOD_URLS)",
                  file->path);
    }
}

/* ---- Units ---- */

static bool add_function(struct unit *unit, uint64_t begin, uint64_t end, const Dwarf_Die *die)
{
    struct function *functions =
        grown(unit->functions, unit->count, &unit->capacity, sizeof(*functions));
    if (functions == NULL) {
        return false;
    }
    unit->functions = functions;
    functions[unit->count++] = (struct function){begin, end, *die};
    return true;
}

static bool add_ranges(struct unit *unit, Dwarf_Die *die)
{
    ptrdiff_t offset = 0;
    Dwarf_Addr base;
    Dwarf_Addr begin;
    Dwarf_Addr end;
    while ((offset = dwarf_ranges(die, offset, &base, &begin, &end)) > 0) {
        if (!add_function(unit, begin, end, die)) {
            return false;
        }
    }
    return true;
}

/* Adds what is below a DIE; functions may stand inside of namespaces and types. The tree of types is as deep as
 * somebody wrote it. */
static bool add_functions_below(struct unit *unit, Dwarf_Die *parent)
{
    Dwarf_Die die;
    if (dwarf_child(parent, &die) != 0) {
        return true;
    }
    do {
        const int tag = dwarf_tag(&die);
        const bool is_room = tag == DW_TAG_namespace || tag == DW_TAG_module ||
                             tag == DW_TAG_structure_type || tag == DW_TAG_class_type;
        if ((tag == DW_TAG_subprogram && !add_ranges(unit, &die)) ||
            (is_room && !add_functions_below(unit, &die))) {
            return false;
        }
    } while (dwarf_siblingof(&die, &die) == 0);
    return true;
}

static int by_begin(const void *a, const void *b)
{
    const struct function *one = a;
    const struct function *other = b;
    return (one->begin > other->begin) - (one->begin < other->begin);
}

/* NULL without memory. */
static const struct unit *unit_of(struct file *file, Dwarf_Die *die)
{
    const Dwarf_Off offset = dwarf_dieoffset(die);
    for (size_t i = 0; i < file->unit_count; i++) {
        if (file->units[i]->offset == offset) {
            return file->units[i];
        }
    }
    struct unit **units = reallocarray(file->units, file->unit_count + 1, sizeof(void *));
    struct unit *unit = calloc(1, sizeof(*unit));
    if (units != NULL) {
        file->units = units;
    }
    if (units == NULL || unit == NULL) {
        free(unit);
        return NULL;
    }
    unit->offset = offset;
    unit->die = *die;
    if (!add_functions_below(unit, &unit->die)) {
        unit->count = 0; /* names will come from the symbol table */
    }
    if (unit->count > 0) {
        qsort(unit->functions, unit->count, sizeof(unit->functions[0]), by_begin);
    }
    units[file->unit_count++] = unit;
    return unit;
}

static const struct function *function_at(const struct unit *unit, uint64_t address)
{
    size_t low = 0;
    size_t high = unit->count;
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        if (unit->functions[middle].begin <= address) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low > 0 && address < unit->functions[low - 1].end ? &unit->functions[low - 1] : NULL;
}

/* ---- Names and lines ---- */

static const char *demangled(struct symbols *symbols, const char *name)
{
    if (strncmp(name, "_Z", 2) != 0) {
        return name;
    }
    if (!symbols->has_looked_for_demangle) {
        symbols->has_looked_for_demangle = true;
        void *library = dlopen("libstdc++.so.6", RTLD_LAZY | RTLD_LOCAL);
        if (library != NULL) {
            *(void **)&symbols->demangle = dlsym(library, "__cxa_demangle");
        }
    }
    if (symbols->demangle == NULL) {
        return name;
    }
    int status = -1;
    char *text = symbols->demangle(name, NULL, NULL, &status);
    const char *result = status == 0 && text != NULL ? own_text(symbols, text) : name;
    free(text);
    return result;
}

/* NULL: it has none. */
static const char *name_of(struct symbols *symbols, Dwarf_Die *die)
{
    Dwarf_Attribute attribute;
    Dwarf_Attribute *linkage = dwarf_attr_integrate(die, DW_AT_linkage_name, &attribute);
    const char *name = linkage != NULL ? dwarf_formstring(linkage) : NULL;
    return name != NULL ? demangled(symbols, name) : dwarf_diename(die);
}

/* From where an inlined function was called: the place in the function that has it. */
static void read_call(Dwarf_Die *unit, Dwarf_Die *inlined, struct symbols_frame *caller)
{
    Dwarf_Attribute attribute;
    Dwarf_Files *files;
    Dwarf_Word number;
    size_t count;
    if (dwarf_formudata(dwarf_attr(inlined, DW_AT_call_line, &attribute), &number) == 0) {
        caller->line = (unsigned)number;
    }
    if (dwarf_formudata(dwarf_attr(inlined, DW_AT_call_file, &attribute), &number) == 0 &&
        dwarf_getsrcfiles(unit, &files, &count) == 0) {
        caller->file = dwarf_filesrc(files, number, NULL, NULL);
    }
}

/* The inlined function below `die` that has the address, or false. Blocks are looked through. */
static bool inlined_at(Dwarf_Die *die, Dwarf_Addr address, Dwarf_Die *found)
{
    Dwarf_Die child;
    if (dwarf_child(die, &child) != 0) {
        return false;
    }
    do {
        const int tag = dwarf_tag(&child);
        if (tag != DW_TAG_inlined_subroutine && tag != DW_TAG_lexical_block) {
            continue;
        }
        const bool has_address = dwarf_haspc(&child, address) == 1;
        if (has_address && tag == DW_TAG_inlined_subroutine) {
            *found = child;
            return true;
        }
        /* A block may come without ranges, and then says nothing. */
        if ((has_address || !dwarf_hasattr(&child, DW_AT_low_pc)) && tag == DW_TAG_lexical_block &&
            inlined_at(&child, address, found)) {
            return true;
        }
    } while (dwarf_siblingof(&child, &child) == 0);
    return false;
}

/* ---- Looking up ---- */

/* Fills frames from outermost to innermost, then turns them; how many, 0 where DWARF knows no function. */
static size_t read_dwarf(struct symbols *symbols, struct file *file, struct place *place,
                         struct symbols_frame frames[MOST_INLINED])
{
    Dwarf_Addr bias = 0;
    Dwarf_Die *unit_die = dwfl_module_addrdie(file->dwfl, place->address, &bias);
    const struct unit *unit = unit_die != NULL ? unit_of(file, unit_die) : NULL;
    const Dwarf_Addr address = place->address - bias;
    const struct function *function = unit != NULL ? function_at(unit, address) : NULL;
    if (function == NULL) {
        return 0;
    }
    Dwarf_Die die = function->die;
    Dwarf_Die unit_copy = unit->die;
    Dwarf_Addr entry = function->begin;
    dwarf_entrypc(&die, &entry);
    place->begin = entry + bias;
    size_t count = 0;
    for (;;) {
        struct symbols_frame *frame = &frames[count++];
        const char *name = name_of(symbols, &die);
        Dwarf_Die inner;
        *frame = (struct symbols_frame){
            .function = name, .has_name = name != NULL, .is_inlined = count > 1};
        if (count == MOST_INLINED || !inlined_at(&die, address, &inner)) {
            break;
        }
        read_call(&unit_copy, &inner, frame);
        die = inner;
    }
    for (size_t i = 0; i < count / 2; i++) {
        const struct symbols_frame frame = frames[i];
        frames[i] = frames[count - 1 - i];
        frames[count - 1 - i] = frame;
    }
    return count;
}

static void read_line(struct file *file, uint64_t address, struct symbols_frame *frame)
{
    Dwfl_Line *line = dwfl_module_getsrc(file->dwfl, address);
    int number = 0;
    const char *source = line != NULL ? dwfl_lineinfo(line, NULL, &number, NULL, NULL, NULL) : NULL;
    if (source != NULL) {
        frame->file = source;
        frame->line = number > 0 ? (unsigned)number : 0;
    }
}

static uint32_t read_32(const unsigned char *bytes)
{
    uint32_t value;
    memcpy(&value, bytes, sizeof(value));
    return value;
}

/* Where the function begins that .eh_frame_hdr has for the address, or 0. A stripped file has that table, since unwinding
 * needs it: sorted pairs of a function's begin and its frame description, both relative to the table's section (LSB 5.0,
 * 10.6.2; other encodings than the linkers' are left alone). */
static uint64_t begin_by_unwinding(struct file *file, uint64_t address)
{
    enum { HEADER = 12, PAIR = 8, RELATIVE = 0x3b, COUNT = 0x03, POINTER = 0x1b };
    GElf_Addr bias;
    Elf *elf = dwfl_module_getelf(file->dwfl, &bias);
    size_t headers = 0;
    GElf_Phdr header = {0};
    if (elf == NULL || elf_getphdrnum(elf, &headers) != 0) {
        return 0;
    }
    for (size_t i = 0; i < headers && header.p_type != PT_GNU_EH_FRAME; i++) {
        gelf_getphdr(elf, (int)i, &header);
    }
    const Elf_Data *data =
        header.p_type == PT_GNU_EH_FRAME
            ? elf_getdata_rawchunk(elf, (int64_t)header.p_offset, header.p_filesz, ELF_T_BYTE)
            : NULL;
    const unsigned char *table = data != NULL ? data->d_buf : NULL;
    if (table == NULL || data->d_size < HEADER || table[0] != 1 || table[1] != POINTER ||
        table[2] != COUNT || table[3] != RELATIVE) {
        return 0;
    }
    const uint64_t wanted = address - bias - header.p_vaddr;
    size_t low = 0;
    size_t high = read_32(table + 8);
    high = high < (data->d_size - HEADER) / PAIR ? high : (data->d_size - HEADER) / PAIR;
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        if ((int64_t)(int32_t)read_32(table + HEADER + middle * PAIR) <= (int64_t)wanted) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low == 0 ? 0
                    : header.p_vaddr + bias +
                          (uint64_t)(int64_t)(int32_t)read_32(table + HEADER + (low - 1) * PAIR);
}

/* The symbol table's word: for functions without DWARF. */
static const char *read_symbol(struct symbols *symbols, struct file *file, struct place *place)
{
    GElf_Off offset = 0;
    GElf_Sym symbol;
    const char *name =
        dwfl_module_addrinfo(file->dwfl, place->address, &offset, &symbol, NULL, NULL, NULL);
    if (name == NULL || name[0] == '\0') {
        const uint64_t begin = begin_by_unwinding(file, place->address);
        place->begin = begin != 0 ? begin : place->begin;
        return NULL;
    }
    place->begin = place->address - offset;
    return demangled(symbols, name);
}

static const char *address_name(struct symbols *symbols, const struct file *file, uint64_t address)
{
    char text[256];
    if (file == NULL) {
        snprintf(text, sizeof(text), "0x%" PRIx64, address);
    } else {
        snprintf(text, sizeof(text), "%.200s+0x%" PRIx64,
                 file->path[0] != '\0' ? base_name(file->path) : "[vdso]", address);
    }
    return own_text(symbols, text);
}

static size_t read_frames(struct symbols *symbols, struct file *file, struct place *place,
                          struct symbols_frame frames[MOST_INLINED])
{
    size_t count = 0;
    if (file != NULL && !file->is_opened) {
        open_file(file);
    }
    if (file != NULL && file->dwfl != NULL) {
        count = read_dwarf(symbols, file, place, frames);
        if (count == 0) {
            const char *name = read_symbol(symbols, file, place);
            frames[0] = (struct symbols_frame){.function = name, .has_name = name != NULL};
            count = 1;
        }
        read_line(file, place->address, &frames[0]);
    } else {
        frames[0] = (struct symbols_frame){0};
        count = 1;
    }
    for (size_t i = 0; i < count; i++) {
        frames[i].module = file != NULL ? file->path : NULL;
        if (frames[i].function == NULL) {
            frames[i].function = address_name(symbols, file, place->address);
        }
    }
    return count;
}

static size_t hash_of(const struct place *place)
{
    uint64_t hash = (place->address ^ ((uint64_t)place->file << 48)) * 0x9e3779b97f4a7c15U;
    return (size_t)(hash ^ (hash >> 32));
}

static struct place *slot_of(struct place *places, size_t capacity, const struct place *wanted)
{
    for (size_t i = hash_of(wanted);; i++) {
        struct place *place = &places[i & (capacity - 1)];
        if (place->count == 0 ||
            (place->address == wanted->address && place->file == wanted->file)) {
            return place;
        }
    }
}

/* Half of the table is empty, always. */
static bool make_room(struct symbols *symbols)
{
    if (2 * (symbols->place_count + 1) <= symbols->place_capacity) {
        return true;
    }
    const size_t capacity =
        symbols->place_capacity == 0 ? FIRST_CACHE : 2 * symbols->place_capacity;
    struct place *places = calloc(capacity, sizeof(*places));
    if (places == NULL) {
        return false;
    }
    for (size_t i = 0; i < symbols->place_capacity; i++) {
        if (symbols->places[i].count > 0) {
            *slot_of(places, capacity, &symbols->places[i]) = symbols->places[i];
        }
    }
    free(symbols->places);
    symbols->places = places;
    symbols->place_capacity = capacity;
    return true;
}

/* NULL without memory. *bias is to be added to the file's own addresses. */
static const struct place *place_of(struct symbols *symbols, uint64_t address, uint64_t time_ns,
                                    uint64_t *bias)
{
    const struct module *module = module_at(symbols, address, time_ns);
    *bias = module != NULL ? module->bias : 0;
    struct place wanted = {.address = address - *bias,
                           .file = module != NULL ? module->file : UINT32_MAX};
    if (!make_room(symbols)) {
        return NULL;
    }
    struct place *place = slot_of(symbols->places, symbols->place_capacity, &wanted);
    if (place->count > 0) {
        return place;
    }
    struct symbols_frame frames[MOST_INLINED];
    struct file *file = module != NULL ? &symbols->files[module->file] : NULL;
    wanted.begin = wanted.address;
    wanted.count = (uint32_t)read_frames(symbols, file, &wanted, frames);
    wanted.frames = own(symbols, wanted.count * sizeof(frames[0]));
    if (wanted.frames == NULL) {
        return NULL;
    }
    memcpy(wanted.frames, frames, wanted.count * sizeof(frames[0]));
    *place = wanted;
    symbols->place_count++;
    return place;
}

size_t symbols_look_up(struct symbols *symbols, uint64_t address, uint64_t time_ns,
                       const struct symbols_frame **frames)
{
    uint64_t bias;
    const struct place *place = place_of(symbols, address, time_ns, &bias);
    *frames = place != NULL ? place->frames : NULL;
    return place != NULL ? place->count : 0;
}

uint64_t symbols_function_begin(struct symbols *symbols, uint64_t address, uint64_t time_ns)
{
    uint64_t bias;
    const struct place *place = place_of(symbols, address, time_ns, &bias);
    return place != NULL ? place->begin + bias : address;
}

const char *symbols_hint(const struct symbols *symbols, size_t index)
{
    for (size_t i = 0; i < symbols->file_count; i++) {
        if (symbols->files[i].hint != NULL && index-- == 0) {
            return symbols->files[i].hint;
        }
    }
    return NULL;
}

struct symbols *symbols_open(void)
{
    return calloc(1, sizeof(struct symbols));
}

void symbols_close(struct symbols *symbols)
{
    if (symbols == NULL) {
        return;
    }
    for (size_t i = 0; i < symbols->file_count; i++) {
        struct file *file = &symbols->files[i];
        for (size_t k = 0; k < file->unit_count; k++) {
            free(file->units[k]->functions);
            free(file->units[k]);
        }
        free(file->units);
        if (file->session != NULL) {
            dwfl_end(file->session);
        }
        free(file->hint);
        free(file->path);
        free(file->build_id);
    }
    while (symbols->owned != NULL) {
        struct owned *next = symbols->owned->next;
        free(symbols->owned);
        symbols->owned = next;
    }
    free(symbols->places);
    free(symbols->files);
    free(symbols->modules);
    free(symbols);
}
