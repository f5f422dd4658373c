/* Loaded modules and their tables: see module.h for the life of a slot and who may touch what. */
#define _GNU_SOURCE 1 /* _dl_find_object, dl_iterate_phdr */

#include "stack/module.h"

#include "base/core/bits.h"
#include "os/mem.h"
#include "stack/root.h"

#include <dlfcn.h>
#include <elf.h>
#include <link.h>
#include <string.h>
#include <sys/auxv.h>

struct fh_stack_root fh_stack_root;

#define modules (fh_stack_root.modules)

#if defined(__GLIBC__) && __GLIBC_PREREQ(2, 35)
extern __attribute__((weak)) int _dl_find_object(void *addr, struct dl_find_object *result);
#define HAVE_LOADER_INDEX (&_dl_find_object != NULL)
#else
#define HAVE_LOADER_INDEX false
#endif

enum {
    PHASE_FREE = 0,
    PHASE_BUSY = 1,
    PHASE_LIVE = 2,
    PHASE_RETIRED = 3,
    PHASE_BITS = 2,
    REF_SLOT_BITS = 12,
    REF_GENERATION_MASK = (1 << 20) - 1,
    CHUNK_BYTES = 1 << FH_CHUNK_SHIFT,
    /* A row covers at least one byte, so no chunk has more rows than this. */
    CHUNK_ROWS_MAX = CHUNK_BYTES,
    HEADERS_MAX = 64, /* program headers that are looked at; linkers write about a dozen */
};
/* Beyond this, rules are read from .eh_frame each time. A large program (LLVM) uses some 3 MiB. */
#define TABLE_BYTES_MAX ((uint64_t)64 << 20)

static size_t phase_of(uint64_t state)
{
    return state & ((1 << PHASE_BITS) - 1);
}

/* ---- What the loader knows ------------------------------------------------------------------- */

/* A dynamic loader has made its index before any other code runs. In a static program libc makes it
 * on its way to the constructors, and allocates meanwhile: it must not be asked before ours has
 * run. */
static _Atomic bool is_index_made;

__attribute__((constructor)) static void note_that_libc_is_up(void)
{
    atomic_store_explicit(&is_index_made, true, memory_order_relaxed);
}

static bool can_ask_index(void)
{
    if (atomic_load_explicit(&is_index_made, memory_order_relaxed))
        return true;
    bool is_dynamic = getauxval(AT_BASE) != 0; /* where the loader is */
    if (is_dynamic)
        atomic_store_explicit(&is_index_made, true, memory_order_relaxed);
    return is_dynamic;
}

static bool has_loader_index(void)
{
    return HAVE_LOADER_INDEX && !atomic_load_explicit(&modules.use_list, memory_order_relaxed) &&
           can_ask_index();
}

static bool find_in_list(uintptr_t addr, struct fh_module_place *place)
{
    /* acquire: pairs with the release in fh_module_read_list */
    const struct fh_module_list *list = atomic_load_explicit(&modules.list, memory_order_acquire);
    for (size_t i = 0; list != NULL && i < list->len; i++) {
        if (addr - list->places[i].start < list->places[i].end - list->places[i].start) {
            *place = list->places[i];
            return true;
        }
    }
    return false;
}

/* Where the module that holds this code begins: the linker's. */
extern const ElfW(Ehdr) __ehdr_start __attribute__((weak, visibility("hidden")));

/* In a static program libc's index has the program's code and no more: not the header, by which
 * names are found, and not the segment of .eh_frame_hdr (linked in with --eh-frame-hdr). */
static void complete_static(struct fh_module_place *place)
{
    const uintptr_t here = (uintptr_t)fh_module_at, start = (uintptr_t)&__ehdr_start;
    if (here - place->start >= place->end - place->start || start == 0 || start >= place->start)
        return;
    const ElfW(Phdr) *headers = (const ElfW(Phdr) *)(start + __ehdr_start.e_phoff);
    uintptr_t first = UINTPTR_MAX;
    for (size_t i = 0; i < __ehdr_start.e_phnum; i++)
        if (headers[i].p_type == PT_LOAD)
            first = fh_min(first, headers[i].p_vaddr);
    const uintptr_t bias = start - fh_align_down(first, fh_os_page_size);
    place->start = start;
    for (size_t i = 0; i < __ehdr_start.e_phnum; i++) {
        if (headers[i].p_type == PT_LOAD)
            place->end = fh_max(place->end, bias + headers[i].p_vaddr + headers[i].p_memsz);
        else if (headers[i].p_type == PT_GNU_EH_FRAME)
            place->header = bias + headers[i].p_vaddr;
    }
}

bool fh_module_at(uintptr_t addr, struct fh_module_place *place)
{
#if defined(__GLIBC__) && __GLIBC_PREREQ(2, 35)
    if (has_loader_index()) {
        struct dl_find_object found;
        if (_dl_find_object((void *)addr, &found) != 0)
            return false;
        place->start = (uintptr_t)found.dlfo_map_start;
        place->end = (uintptr_t)found.dlfo_map_end;
        place->header = (uintptr_t)found.dlfo_eh_frame;
        place->identity = (uintptr_t)found.dlfo_link_map;
        complete_static(place);
        return true;
    }
#endif
    return find_in_list(addr, place);
}

static int add_to_list(struct dl_phdr_info *info, size_t size, void *arg)
{
    struct fh_module_list *list = arg;
    (void)size;
    struct fh_module_place place = {UINTPTR_MAX, 0, 0, (uintptr_t)info->dlpi_name};
    for (size_t i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *header = &info->dlpi_phdr[i];
        uintptr_t low = info->dlpi_addr + header->p_vaddr;
        if (header->p_type == PT_LOAD) {
            place.start = fh_min(place.start, fh_align_down(low, fh_os_page_size));
            place.end = fh_max(place.end, low + header->p_memsz);
        } else if (header->p_type == PT_GNU_EH_FRAME) {
            place.header = low;
        }
    }
    if (list->len < list->capacity && place.start < place.end)
        list->places[list->len++] = place;
    return 0;
}

/* An older list is left mapped: some walk may be reading it, and lists are read only after dlopen.
 */
void fh_module_read_list(void)
{
    if (has_loader_index())
        return;
    size_t mapped = fh_align_up(sizeof(struct fh_module_list) +
                                    FH_MODULE_SLOTS * sizeof(struct fh_module_place),
                                fh_os_page_size);
    struct fh_module_list *list = fh_os_map(mapped);
    if (list == NULL)
        return;
    list->capacity = FH_MODULE_SLOTS;
    list->mapped = mapped;
    dl_iterate_phdr(add_to_list, list);
    atomic_store_explicit(&modules.list, list, memory_order_release); /* pairs with find_in_list */
}

/* ---- Reading a module's headers -------------------------------------------------------------- */

struct layout {
    bool is_elf;
    uintptr_t bias;
    const ElfW(Dyn) * dynamic;
    uintptr_t text_low, text_high;
    uintptr_t frame_low, frame_high; /* the segment that holds .eh_frame_hdr */
    uintptr_t print_at;              /* see struct fh_module */
    const uint8_t *build_id;
    size_t build_id_len;
};

/* The build id in a PT_NOTE segment; without one all stays as it is. */
static void find_build_id(struct layout *layout, uintptr_t low, uintptr_t high)
{
    while (high - low >= sizeof(ElfW(Nhdr))) {
        const ElfW(Nhdr) *note = (const ElfW(Nhdr) *)low;
        uintptr_t description = low + sizeof(*note) + fh_align_up(note->n_namesz, 4);
        uintptr_t next = description + fh_align_up(note->n_descsz, 4);
        if (next > high)
            return;
        if (note->n_type == NT_GNU_BUILD_ID && note->n_namesz == sizeof("GNU") &&
            note->n_descsz >= sizeof(uint64_t) && memcmp(note + 1, "GNU", sizeof("GNU")) == 0) {
            layout->print_at = description;
            layout->build_id = (const uint8_t *)description;
            layout->build_id_len = note->n_descsz;
            return;
        }
        low = next;
    }
}

static bool is_nodelete(const ElfW(Dyn) * dynamic)
{
    for (; dynamic != NULL && dynamic->d_tag != DT_NULL; dynamic++) {
        if (dynamic->d_tag == DT_FLAGS_1)
            return (dynamic->d_un.d_val & DF_1_NODELETE) != 0;
    }
    return false;
}

/* The ELF header is the first thing mapped of any module that the usual linkers make. Without it
 * the whole mapping is taken for code, and nothing for .eh_frame. */
static struct layout read_layout(const struct fh_module_place *place)
{
    struct layout layout = {
        .text_low = place->start, .text_high = place->end, .print_at = place->start};
    const ElfW(Ehdr) *elf = (const ElfW(Ehdr) *)place->start;
    if (place->end - place->start < sizeof(*elf) || memcmp(elf->e_ident, ELFMAG, SELFMAG) != 0 ||
        elf->e_phentsize != sizeof(ElfW(Phdr)) || elf->e_phnum > HEADERS_MAX ||
        elf->e_phoff > place->end - place->start - elf->e_phnum * sizeof(ElfW(Phdr)))
        return layout;
    const ElfW(Phdr) *headers = (const ElfW(Phdr) *)(place->start + elf->e_phoff);
    uintptr_t first = UINTPTR_MAX;
    for (size_t i = 0; i < elf->e_phnum; i++) {
        if (headers[i].p_type == PT_LOAD)
            first = fh_min(first, headers[i].p_vaddr);
    }
    uintptr_t bias = place->start - fh_align_down(first, fh_os_page_size);
    layout.is_elf = true;
    layout.bias = bias;
    layout.text_low = UINTPTR_MAX;
    layout.text_high = 0;
    layout.print_at = place->start + offsetof(ElfW(Ehdr), e_shoff);
    for (size_t i = 0; i < elf->e_phnum; i++) {
        uintptr_t low = bias + headers[i].p_vaddr, high = low + headers[i].p_memsz;
        if (low < place->start || high > place->end || low > high)
            continue;
        if (headers[i].p_type == PT_LOAD && (headers[i].p_flags & PF_X) != 0) {
            layout.text_low = fh_min(layout.text_low, low);
            layout.text_high = fh_max(layout.text_high, high);
        }
        if (headers[i].p_type == PT_LOAD && place->header - low < high - low) {
            layout.frame_low = low;
            layout.frame_high = high;
        }
        if (headers[i].p_type == PT_NOTE && high <= place->start + fh_os_page_size)
            find_build_id(&layout, low, high);
        if (headers[i].p_type == PT_DYNAMIC)
            layout.dynamic = (const ElfW(Dyn) *)low;
    }
    return layout;
}

static bool starts_with(const char *text, const char *prefix)
{
    return strncmp(text, prefix, strlen(prefix)) == 0;
}

/* The program, the loader, libc and we ourselves stay as long as any walk can run. */
static bool is_permanent(const struct fh_module_place *place, const struct layout *layout)
{
    uintptr_t here = (uintptr_t)&fh_stack_root;
    if (is_nodelete(layout->dynamic) || here - place->start < place->end - place->start)
        return true;
    if (!has_loader_index())
        return false;
    const struct link_map *map = (const struct link_map *)place->identity;
    if (map == NULL || map->l_name == NULL)
        return false;
    const char *slash = strrchr(map->l_name, '/');
    const char *name = slash != NULL ? slash + 1 : map->l_name;
    if (map->l_prev == NULL && *name == 0)
        return true;
    return starts_with(name, "libc.so") || starts_with(name, "ld-linux") ||
           starts_with(name, "linux-vdso");
}

/* ---- Chunks ---------------------------------------------------------------------------------- */

static uint32_t rule_from_description(const struct fh_cfi_image *image, uintptr_t addr)
{
    struct fh_cfi_function fn;
    struct fh_cfi_run run;
    if (!fh_cfi_find(image, addr, &fn))
        return FH_RULE_NONE;
    fh_cfi_start(&run, &fn);
    while (fh_cfi_next(&run)) {
        if (addr < run.row.end)
            return fh_cfi_rule(&run.row, fn.is_signal_frame);
    }
    return FH_RULE_NONE;
}

/* A chunk that is being filled. `begins` starts out behind room for the most rules there can be. */
struct chunk_builder {
    struct fh_chunk *chunk;
    uint16_t *begins;
    uintptr_t low;
    uintptr_t filled; /* rows cover [low, filled) */
};

static void append_row(struct chunk_builder *builder, uintptr_t begin, uint32_t rule)
{
    struct fh_chunk *chunk = builder->chunk;
    if (chunk->rows != 0 && chunk->rules[chunk->rows - 1] == rule)
        return;
    chunk->rules[chunk->rows] = rule;
    builder->begins[chunk->rows] = (uint16_t)(begin - builder->low);
    chunk->rows++;
}

/* Rows come in the order of their addresses; what lies between them has no description, what
 * overlaps is cut. */
static void add_row(struct chunk_builder *builder, uintptr_t begin, uintptr_t end, uint32_t rule)
{
    uintptr_t high = builder->low + CHUNK_BYTES;
    begin = fh_max(begin, builder->filled);
    end = fh_min(end, high);
    if (begin >= end)
        return;
    if (begin > builder->filled)
        append_row(builder, builder->filled, FH_RULE_NONE);
    append_row(builder, begin, rule);
    builder->filled = end;
}

static void fill_chunk(struct chunk_builder *builder, const struct fh_cfi_image *image)
{
    struct fh_cfi_run run;
    struct fh_cfi_function fn;
    uintptr_t high = builder->low + CHUNK_BYTES;
    size_t index = fh_cfi_search(image, builder->low);
    if (index == image->table_len)
        index = 0;
    for (; index < image->table_len && builder->filled < high; index++) {
        uintptr_t begins_at = image->header + (uintptr_t)(intptr_t)image->table[2 * index];
        if (begins_at >= high)
            break;
        if (!fh_cfi_function_at(image, index, &fn) || fn.begin != begins_at)
            continue;
        fh_cfi_start(&run, &fn);
        while (builder->filled < high && fh_cfi_next(&run)) {
            if (run.row.end > builder->filled)
                add_row(builder, run.row.begin, run.row.end,
                        fh_cfi_rule(&run.row, fn.is_signal_frame));
        }
    }
    if (builder->filled < high)
        append_row(builder, builder->filled, FH_RULE_NONE);
}

static struct fh_chunk *build_chunk(const struct fh_cfi_image *image, uintptr_t low)
{
    size_t mapped = fh_align_up(sizeof(struct fh_chunk) +
                                    CHUNK_ROWS_MAX * (sizeof(uint32_t) + sizeof(uint16_t)),
                                fh_os_page_size);
    struct fh_chunk *chunk = fh_os_map(mapped);
    if (chunk == NULL)
        return NULL;
    struct chunk_builder builder = {chunk, (uint16_t *)&chunk->rules[CHUNK_ROWS_MAX], low, low};
    fill_chunk(&builder, image);
    memmove(&chunk->rules[chunk->rows], builder.begins, chunk->rows * sizeof(uint16_t));
    chunk->mapped =
        fh_align_up(sizeof(struct fh_chunk) + chunk->rows * (sizeof(uint32_t) + sizeof(uint16_t)),
                    fh_os_page_size);
    if (chunk->mapped < mapped &&
        fh_os_release((char *)chunk + chunk->mapped, mapped - chunk->mapped) != 0)
        chunk->mapped = mapped;
    return chunk;
}

static void release_chunk(struct fh_chunk *chunk)
{
    atomic_fetch_sub_explicit(&modules.table_bytes, chunk->mapped, memory_order_relaxed);
    fh_os_release(chunk, chunk->mapped);
}

/* The chunk of an address, built when it is missing; NULL when that is impossible. */
static const struct fh_chunk *chunk_of(const struct fh_module *module, uintptr_t addr)
{
    if (module->chunks == NULL)
        return NULL;
    size_t index = (addr - module->text_low) >> FH_CHUNK_SHIFT;
    /* acquire: pairs with the release below: a chunk is complete before it is seen */
    struct fh_chunk *chunk = atomic_load_explicit(&module->chunks[index], memory_order_acquire);
    if (chunk != NULL)
        return chunk;
    if (atomic_load_explicit(&modules.table_bytes, memory_order_relaxed) >= TABLE_BYTES_MAX)
        return NULL;
    struct fh_chunk *built =
        build_chunk(&module->image, module->text_low + (index << FH_CHUNK_SHIFT));
    if (built == NULL)
        return NULL;
    atomic_fetch_add_explicit(&modules.table_bytes, built->mapped, memory_order_relaxed);
    if (atomic_compare_exchange_strong_explicit(&module->chunks[index], &chunk, built,
                                                memory_order_acq_rel, memory_order_acquire))
        return built;
    release_chunk(built); /* somebody else was first */
    return chunk;
}

static uint32_t rule_from_chunk(const struct fh_chunk *chunk, size_t offset)
{
    const uint16_t *begins = (const uint16_t *)&chunk->rules[chunk->rows];
    size_t low = 0, len = chunk->rows;
    while (len > 1) { /* begins[low] ≤ offset; the row is one of the len from low on */
        size_t half = len / 2;
        low = begins[low + half] <= offset ? low + half : low;
        len -= half;
    }
    return chunk->rules[low];
}

/* ---- Slots ----------------------------------------------------------------------------------- */

/* The seq_cst of readers and of the retiring exchange order a reader's look at a slot against the
 * collector's look at `readers`: one of the two sees the other. */
static void enter_readers(void)
{
    atomic_fetch_add_explicit(&modules.readers, 1, memory_order_seq_cst);
}

static void leave_readers(void)
{
    atomic_fetch_sub_explicit(&modules.readers, 1, memory_order_release);
}

static bool has_key(const struct fh_module *module, const struct fh_module_place *place)
{
    return atomic_load_explicit(&module->identity, memory_order_relaxed) == place->identity &&
           atomic_load_explicit(&module->start, memory_order_relaxed) == place->start &&
           atomic_load_explicit(&module->end, memory_order_relaxed) == place->end &&
           atomic_load_explicit(&module->header, memory_order_relaxed) == place->header;
}

/* The module must be loaded and pinned: its memory is read. */
static bool has_print(const struct fh_module *module)
{
    uint64_t print;
    memcpy(&print, (const void *)atomic_load_explicit(&module->print_at, memory_order_relaxed),
           sizeof(print));
    return print == atomic_load_explicit(&module->print, memory_order_relaxed);
}

static bool is_live(const struct fh_module *module, const struct fh_module_place *place)
{
    uint64_t state = atomic_load_explicit(&module->state, memory_order_seq_cst);
    return phase_of(state) == PHASE_LIVE && has_key(module, place) && has_print(module);
}

static _Atomic uint16_t *hint_of(uintptr_t identity)
{
    return &modules.hints[(identity >> 5 ^ identity >> 13) % FH_MODULE_HINTS];
}

static struct fh_module *find_slot(const struct fh_module_place *place)
{
    _Atomic uint16_t *hint = hint_of(place->identity);
    struct fh_module *hinted = &modules.slots[atomic_load_explicit(hint, memory_order_relaxed)];
    if (is_live(hinted, place))
        return hinted;
    uint32_t used = atomic_load_explicit(&modules.slots_used, memory_order_acquire);
    for (uint32_t i = 0; i < used; i++) {
        if (is_live(&modules.slots[i], place)) {
            atomic_store_explicit(hint, (uint16_t)i, memory_order_relaxed);
            return &modules.slots[i];
        }
    }
    return NULL;
}

static bool change_phase(struct fh_module *module, uint64_t from, uint64_t to)
{
    return atomic_compare_exchange_strong_explicit(&module->state, &from, to, memory_order_seq_cst,
                                                   memory_order_relaxed);
}

/* A free slot made busy; NULL when all are taken. */
static struct fh_module *claim_slot(void)
{
    for (uint32_t i = 0; i < FH_MODULE_SLOTS; i++) {
        struct fh_module *module = &modules.slots[i];
        uint64_t state = atomic_load_explicit(&module->state, memory_order_relaxed);
        uint64_t next = ((state >> PHASE_BITS) + 1) << PHASE_BITS | PHASE_BUSY;
        if (phase_of(state) != PHASE_FREE || !change_phase(module, state, next))
            continue;
        uint32_t used = atomic_load_explicit(&modules.slots_used, memory_order_relaxed);
        while (used <= i && !atomic_compare_exchange_weak_explicit(
                                &modules.slots_used, &used, i + 1, memory_order_release,
                                memory_order_relaxed)) /* release: pairs with find_slot */
            continue;
        return module;
    }
    return NULL;
}

static size_t chunk_index_bytes(size_t len)
{
    return fh_align_up(len * sizeof(_Atomic(struct fh_chunk *)), fh_os_page_size);
}

static void fill_slot(struct fh_module *module, const struct fh_module_place *place)
{
    struct layout layout = read_layout(place);
    atomic_store_explicit(&module->identity, place->identity, memory_order_relaxed);
    atomic_store_explicit(&module->start, place->start, memory_order_relaxed);
    atomic_store_explicit(&module->end, place->end, memory_order_relaxed);
    atomic_store_explicit(&module->header, place->header, memory_order_relaxed);
    uint64_t print;
    memcpy(&print, (const void *)layout.print_at, sizeof(print));
    atomic_store_explicit(&module->print_at, layout.print_at, memory_order_relaxed);
    atomic_store_explicit(&module->print, print, memory_order_relaxed);
    module->is_permanent = is_permanent(place, &layout);
    module->text_low = layout.text_low;
    module->text_high = layout.text_high;
    module->chunks = NULL;
    module->chunks_len = 0;
    if (place->header == 0 || layout.frame_low == 0 || layout.text_low >= layout.text_high ||
        !fh_cfi_open(&module->image, layout.frame_low, layout.frame_high, place->header)) {
        module->image.table = NULL;
        module->image.table_len = 0;
        return;
    }
    size_t len = ((layout.text_high - layout.text_low - 1) >> FH_CHUNK_SHIFT) + 1;
    module->chunks = fh_os_map(chunk_index_bytes(len));
    module->chunks_len = module->chunks != NULL ? len : 0;
}

static void empty_slot(struct fh_module *module)
{
    for (size_t i = 0; i < module->chunks_len; i++) {
        struct fh_chunk *chunk = atomic_load_explicit(&module->chunks[i], memory_order_relaxed);
        if (chunk != NULL)
            release_chunk(chunk);
    }
    if (module->chunks != NULL)
        fh_os_release((void *)module->chunks, chunk_index_bytes(module->chunks_len));
    module->chunks = NULL;
    module->chunks_len = 0;
}

static void publish_slot(struct fh_module *module, size_t phase)
{
    uint64_t state = atomic_load_explicit(&module->state, memory_order_relaxed);
    state = state >> PHASE_BITS << PHASE_BITS | phase;
    atomic_store_explicit(&module->state, state, memory_order_seq_cst); /* pairs with is_live */
}

/* Retires the slots of modules that are gone and empties those that nobody can be reading. The
 * caller is no reader. Runs when a new module is met: rarely. */
static void sweep_slots(void)
{
    uint32_t used = atomic_load_explicit(&modules.slots_used, memory_order_acquire);
    for (uint32_t i = 0; i < used; i++) {
        struct fh_module *module = &modules.slots[i];
        struct fh_module_place place;
        uint64_t state = atomic_load_explicit(&module->state, memory_order_seq_cst);
        uint64_t base = state >> PHASE_BITS << PHASE_BITS;
        if (phase_of(state) == PHASE_LIVE) {
            uintptr_t start = atomic_load_explicit(&module->start, memory_order_relaxed);
            if (!fh_module_at(start, &place) || !has_key(module, &place))
                change_phase(module, state, base | PHASE_RETIRED);
            continue;
        }
        if (phase_of(state) != PHASE_RETIRED || !change_phase(module, state, base | PHASE_BUSY))
            continue;
        if (atomic_load_explicit(&modules.readers, memory_order_seq_cst) == 0) {
            empty_slot(module);
            publish_slot(module, PHASE_FREE);
        } else {
            publish_slot(module, PHASE_RETIRED);
        }
    }
}

static uint32_t ref_of(const struct fh_module *module)
{
    if (module->is_permanent)
        return 0;
    uint64_t state = atomic_load_explicit(&module->state, memory_order_relaxed);
    return (uint32_t)(module - modules.slots) |
           (uint32_t)(state >> PHASE_BITS & REF_GENERATION_MASK) << REF_SLOT_BITS;
}

bool fh_module_is_current(uint32_t ref, uintptr_t addr)
{
    const struct fh_module *module = &modules.slots[ref % FH_MODULE_SLOTS];
    struct fh_module_place place;
    uint64_t state = atomic_load_explicit(&module->state, memory_order_seq_cst);
    return phase_of(state) == PHASE_LIVE &&
           (state >> PHASE_BITS & REF_GENERATION_MASK) == ref >> REF_SLOT_BITS &&
           fh_module_at(addr, &place) && has_key(module, &place) && has_print(module) &&
           atomic_load_explicit(&module->state, memory_order_seq_cst) == state;
}

/* ---- The question ---------------------------------------------------------------------------- */

/* Code that returns from a signal without saying so in .eh_frame: `mov $15,%rax; syscall`. */
static bool is_signal_return(const struct fh_module *module, uintptr_t addr)
{
    static const uint8_t code[] = {0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05};
    return addr + 1 >= module->text_low && module->text_high - (addr + 1) >= sizeof(code) &&
           memcmp((const void *)(addr + 1), code, sizeof(code)) == 0;
}

/* No call comes back to a function's first instruction: the address was put there by hand, as
 * makecontext does at the end of a coroutine's stack. */
static bool is_planted(const struct fh_module *module, uintptr_t addr)
{
    struct fh_cfi_function fn;
    return fh_cfi_find(&module->image, addr + 1, &fn) && fn.begin == addr + 1;
}

static bool rule_in(const struct fh_module *module, uintptr_t addr, uint32_t *rule)
{
    if (addr - module->text_low >= module->text_high - module->text_low)
        return false;
    *rule = FH_RULE_NONE;
    if (module->image.table != NULL) {
        const struct fh_chunk *chunk = chunk_of(module, addr);
        *rule = chunk != NULL
                    ? rule_from_chunk(chunk, (addr - module->text_low) & (CHUNK_BYTES - 1))
                    : rule_from_description(&module->image, addr);
    }
    if (fh_rule_kind(*rule) == FH_RULE_NONE) {
        if (is_signal_return(module, addr))
            *rule = FH_RULE_SIGNAL;
        else if (is_planted(module, addr))
            *rule = FH_RULE_END;
    }
    *rule = fh_cfi_rule_at(*rule, addr);
    return true;
}

static struct fh_module *register_module(const struct fh_module_place *place)
{
    struct fh_module *module = claim_slot();
    if (module == NULL)
        return NULL;
    fill_slot(module, place);
    publish_slot(module, PHASE_LIVE);
    atomic_store_explicit(hint_of(place->identity), (uint16_t)(module - modules.slots),
                          memory_order_relaxed);
    return module;
}

bool fh_module_rule(uintptr_t addr, uint32_t *rule, uint32_t *ref)
{
    struct fh_module_place place;
    if (!fh_module_at(addr, &place))
        return false;
    enter_readers();
    const struct fh_module *module = find_slot(&place);
    if (module == NULL) {
        leave_readers();
        sweep_slots();
        enter_readers();
        module = register_module(&place);
    }
    bool is_code = false;
    if (module != NULL) {
        is_code = rule_in(module, addr, rule);
        *ref = ref_of(module);
    }
    leave_readers();
    return is_code;
}

bool fh_module_function(uintptr_t addr, struct fh_cfi_function *fn)
{
    struct fh_module_place place;
    struct fh_cfi_image image;
    if (!fh_module_at(addr, &place) || place.header == 0)
        return false;
    struct layout layout = read_layout(&place);
    return addr - layout.text_low < layout.text_high - layout.text_low && layout.frame_low != 0 &&
           fh_cfi_open(&image, layout.frame_low, layout.frame_high, place.header) &&
           fh_cfi_find(&image, addr, fn);
}

/* Lengths of the call instructions: e8 rel32; ff /2 with ModRM, SIB, displacement; a REX prefix or
 * a segment override before it changes nothing, they come first. */
static bool ends_with_call(const uint8_t *end, size_t available)
{
    if (available >= 5 && end[-5] == 0xe8)
        return true;
    for (size_t len = 2; len <= 7 && len <= available; len++) {
        if (end[-(ptrdiff_t)len] == 0xff && (end[1 - (ptrdiff_t)len] & 0x38) == 0x10)
            return true;
    }
    return false;
}

bool fh_module_is_return_address(uintptr_t frame)
{
    struct fh_module_place place;
    if (frame == 0 || !fh_module_at(frame - 1, &place))
        return false;
    struct layout layout = read_layout(&place);
    return frame - 1 - layout.text_low < layout.text_high - layout.text_low &&
           ends_with_call((const uint8_t *)frame, frame - layout.text_low);
}

bool fh_module_details(const struct fh_module_place *place, struct fh_module_details *details)
{
    struct layout layout = read_layout(place);
    const char *name = has_loader_index() ? ((const struct link_map *)place->identity)->l_name
                                          : (const char *)place->identity;
    *details = (struct fh_module_details){.bias = layout.bias,
                                          .dynamic = layout.dynamic,
                                          .name = name != NULL ? name : "",
                                          .build_id = layout.build_id,
                                          .build_id_len = layout.build_id_len};
    memcpy(&details->print, (const void *)layout.print_at, sizeof(details->print));
    return layout.is_elf;
}

void fh_module_reset_in_child(void)
{
    atomic_store_explicit(&modules.readers, 0, memory_order_relaxed);
}
