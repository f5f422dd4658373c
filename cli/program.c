/*
 * Looking at a program file before it is started.
 *
 * A preloaded library that can't be loaded is no error to the dynamic linker: it prints a line (or,
 * for a privileged program, nothing) and starts the program without it. So the command looks first,
 * and says no with a reason. It follows the file as the kernel would: `#!` to the interpreter (five
 * deep, as in fs/binfmt_script), through `env` to the program that it will find, and in the end to
 * an ELF file. Of that it reads (System V gABI, chapters 4 and 5):
 *
 *   - the header: class, byte order, machine: must be ours;
 *   - the program headers: PT_INTERP names the loader; without one nobody honours LD_PRELOAD
 * (static);
 *   - the dynamic section: needed libraries, from which a sanitizer's runtime is recognised;
 *   - the dynamic symbols: a sanitizer linked in statically (clang's habit), a malloc of its own,
 * canaries. They are found through the section headers; a file stripped of those is taken as having
 * none of these.
 *
 * Everything is read by pread with checked bounds, never mapped: the file may be damaged or may
 * change while we look. A file that may be run but not read is no obstacle: nothing is known of it,
 * and the dynamic linker will preload into it.
 *
 * Privileges: the kernel sets AT_SECURE, and the loader then ignores LD_PRELOAD with a slash in it,
 * when the file's set-id bits change an id or its capabilities add some (to anyone but root); not
 * on nosuid mounts and not under no_new_privs. The same is asked here, so that root may run a
 * setuid-root program.
 */
#include "program.h"

#include "cli.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#if defined(__x86_64__)
enum { OUR_MACHINE = EM_X86_64 };
#define OUR_FEATURES 0xc0000002U /* GNU_PROPERTY_X86_FEATURE_1_AND */
#elif defined(__aarch64__)
enum { OUR_MACHINE = EM_AARCH64 };
#define OUR_FEATURES 0xc0000000U /* GNU_PROPERTY_AARCH64_FEATURE_1_AND */
#elif defined(__riscv)
enum { OUR_MACHINE = EM_RISCV };
#define OUR_FEATURES 0U
#else
#error "name this architecture's ELF machine here"
#endif

enum {
    DEEPEST_SCRIPT = 5, /* interpreters that are scripts, as the kernel limits them */
    SCRIPT_LINE = 256,  /* what the kernel reads of a `#!` line */
    MOST_HEADERS =
        512, /* program headers of a sane file; the kernel's own limit is 64 KiB of them */
    LARGEST_TABLE = 256 << 20, /* a string or symbol table beyond this is damage */
};

/* ---- Names ---- */

static const char *machine_name(unsigned machine)
{
    switch (machine) {
    case EM_X86_64:
        return "x86-64";
    case EM_386:
        return "32-bit x86";
    case EM_AARCH64:
        return "AArch64";
    case EM_ARM:
        return "32-bit ARM";
    case EM_RISCV:
        return "RISC-V";
    case EM_PPC64:
        return "PowerPC 64";
    case EM_PPC:
        return "PowerPC";
    case EM_S390:
        return "S/390";
    case EM_MIPS:
        return "MIPS";
    case EM_SPARC:
    case EM_SPARCV9:
        return "SPARC";
    default:
        return NULL;
    }
}

const char *program_our_architecture(void)
{
    return machine_name(OUR_MACHINE);
}

static const char *last_component(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash != NULL ? slash + 1 : path;
}

/* Copies what fits; a longer path than PATH_MAX can't be opened anyway. */
static void copy(char *to, size_t size, const char *from)
{
    snprintf(to, size, "%s", from);
}

static void set_obstacle(struct program *program, enum program_obstacle obstacle,
                         const char *detail)
{
    program->obstacle = obstacle;
    copy(program->detail, sizeof(program->detail), detail);
}

/* ---- Finding ---- */

/* Whether path is a file that may be executed; else *why says what is wrong with it. */
static bool may_execute(const char *path, enum program_obstacle *why)
{
    struct stat status;
    if (stat(path, &status) != 0) {
        *why = errno == EACCES ? PROGRAM_NOT_EXECUTABLE : PROGRAM_NOT_FOUND;
        return false;
    }
    if (S_ISDIR(status.st_mode)) {
        *why = PROGRAM_IS_DIRECTORY;
        return false;
    }
    if (!S_ISREG(status.st_mode) || faccessat(AT_FDCWD, path, X_OK, AT_EACCESS) != 0) {
        *why = PROGRAM_NOT_EXECUTABLE;
        return false;
    }
    *why = PROGRAM_IS_FINE;
    return true;
}

/* Looks through PATH as execvp does: an entry that may not be executed is remembered, and the
 * search goes on. */
static enum program_obstacle search_path(const char *name, char *found, size_t size)
{
    const char *directories = getenv("PATH");
    char fallback[256];
    if (directories == NULL) {
        confstr(_CS_PATH, fallback, sizeof(fallback));
        directories = fallback;
    }
    enum program_obstacle worst = PROGRAM_NOT_FOUND;
    for (const char *start = directories;;) {
        const size_t len = strcspn(start, ":");
        char path[PATH_MAX];
        const int written = len == 0
                                ? snprintf(path, sizeof(path), "./%s", name)
                                : snprintf(path, sizeof(path), "%.*s/%s", (int)len, start, name);
        enum program_obstacle why;
        if (written > 0 && (size_t)written < sizeof(path)) {
            if (may_execute(path, &why)) {
                copy(found, size, path);
                return PROGRAM_IS_FINE;
            }
            if (why == PROGRAM_NOT_EXECUTABLE && worst == PROGRAM_NOT_FOUND) {
                worst = why;
                copy(found, size, path);
            }
        }
        if (start[len] == '\0') {
            return worst;
        }
        start += len + 1;
    }
}

static enum program_obstacle find(const char *name, char *found, size_t size)
{
    if (name[0] == '\0') {
        return PROGRAM_NOT_FOUND;
    }
    if (strchr(name, '/') == NULL) {
        return search_path(name, found, size);
    }
    enum program_obstacle why;
    copy(found, size, name);
    may_execute(name, &why);
    return why;
}

/* ---- Privileges ---- */

static void name_of_user(uid_t uid, char *name, size_t size)
{
    const struct passwd *entry = getpwuid(uid);
    if (entry != NULL) {
        copy(name, size, entry->pw_name);
    } else {
        snprintf(name, size, "%u", (unsigned)uid);
    }
}

static void look_at_privileges(struct program *program)
{
    struct stat status;
    struct statvfs mount;
    if (stat(program->binary, &status) != 0 ||
        (statvfs(program->binary, &mount) == 0 && (mount.f_flag & ST_NOSUID) != 0) ||
        prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1) {
        return;
    }
    if ((status.st_mode & S_ISUID) != 0 && status.st_uid != getuid()) {
        char user[128];
        char detail[192];
        name_of_user(status.st_uid, user, sizeof(user));
        snprintf(detail, sizeof(detail), "is setuid (it runs as user %s)", user);
        set_obstacle(program, PROGRAM_GAINS_PRIVILEGES, detail);
        return;
    }
    /* Without group execution the bit means mandatory locking, not privileges. */
    const mode_t setgid = S_ISGID | S_IXGRP;
    if ((status.st_mode & setgid) == setgid && status.st_gid != getgid()) {
        set_obstacle(program, PROGRAM_GAINS_PRIVILEGES, "is setgid");
        return;
    }
    if (getuid() != 0 && getxattr(program->binary, "security.capability", NULL, 0) > 0) {
        set_obstacle(program, PROGRAM_GAINS_PRIVILEGES, "has file capabilities");
    }
}

/* ---- ELF ---- */

/* An ELF file being read; the tables are allocated. */
struct image {
    int fd;
    Elf64_Ehdr header;
    Elf64_Phdr segments[MOST_HEADERS];
    size_t segment_count;
};

static bool read_at(const struct image *image, uint64_t offset, void *into, size_t size)
{
    char *cursor = into;
    while (size > 0) {
        const ssize_t got = pread(image->fd, cursor, size, (off_t)offset);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            return false;
        }
        cursor += got;
        offset += (uint64_t)got;
        size -= (size_t)got;
    }
    return true;
}

/* A table of the file in memory of its own, with a zero byte after it; NULL when it does not fit
 * the file. */
static void *read_table(const struct image *image, uint64_t offset, uint64_t size)
{
    if (size == 0 || size > LARGEST_TABLE || offset > INT64_MAX - size) {
        return NULL;
    }
    struct stat status;
    if (fstat(image->fd, &status) != 0 || offset + size > (uint64_t)status.st_size) {
        return NULL;
    }
    char *table = malloc(size + 1);
    if (table == NULL || !read_at(image, offset, table, size)) {
        free(table);
        return NULL;
    }
    table[size] = '\0';
    return table;
}

static const Elf64_Phdr *segment_of_type(const struct image *image, uint32_t type)
{
    for (size_t i = 0; i < image->segment_count; i++) {
        if (image->segments[i].p_type == type) {
            return &image->segments[i];
        }
    }
    return NULL;
}

/* Where in the file the byte lies that will be at `address`. */
static bool offset_of_address(const struct image *image, uint64_t address, uint64_t *offset)
{
    for (size_t i = 0; i < image->segment_count; i++) {
        const Elf64_Phdr *segment = &image->segments[i];
        if (segment->p_type == PT_LOAD && address >= segment->p_vaddr &&
            address - segment->p_vaddr < segment->p_filesz) {
            *offset = segment->p_offset + (address - segment->p_vaddr);
            return true;
        }
    }
    return false;
}

struct sanitizer {
    const char *library; /* prefix of its runtime's name */
    const char *symbol;
    const char *name;
};

/* Those that replace malloc themselves; UndefinedBehaviorSanitizer does not. */
static const struct sanitizer sanitizers[] = {
    {"libasan.", "__asan_init", "AddressSanitizer"},
    {"libclang_rt.asan", "__asan_init", "AddressSanitizer"},
    {"libtsan.", "__tsan_init", "ThreadSanitizer"},
    {"libclang_rt.tsan", "__tsan_init", "ThreadSanitizer"},
    {"liblsan.", "__lsan_init", "LeakSanitizer"},
    {"libhwasan.", "__hwasan_init", "HWAddressSanitizer"},
    {"libclang_rt.hwasan", "__hwasan_init", "HWAddressSanitizer"},
    {"libclang_rt.msan", "__msan_init", "MemorySanitizer"},
};
enum { SANITIZERS = sizeof(sanitizers) / sizeof(sanitizers[0]) };

static void look_at_needed(struct program *program, const char *library)
{
    for (size_t i = 0; i < SANITIZERS; i++) {
        if (strncmp(library, sanitizers[i].library, strlen(sanitizers[i].library)) == 0) {
            program->sanitizer = sanitizers[i].name;
        }
    }
    if (program->needed_count < PROGRAM_MOST_NEEDED) {
        copy(program->needed[program->needed_count++], PROGRAM_NAME_LENGTH, library);
    }
}

static void look_at_string(struct program *program, const Elf64_Dyn *entry, const char *string)
{
    if (entry->d_tag == DT_NEEDED) {
        look_at_needed(program, string);
    } else if (entry->d_tag == DT_RUNPATH ||
               (entry->d_tag == DT_RPATH && program->runpath[0] == '\0')) {
        copy(program->runpath, sizeof(program->runpath), string);
    }
}

/* False when the section is damaged. */
static bool look_at_dynamic(struct program *program, const struct image *image)
{
    const Elf64_Phdr *segment = segment_of_type(image, PT_DYNAMIC);
    if (segment == NULL) {
        return true;
    }
    Elf64_Dyn *entries = read_table(image, segment->p_offset, segment->p_filesz);
    if (entries == NULL) {
        return false;
    }
    const size_t count = segment->p_filesz / sizeof(*entries);
    uint64_t strings_address = 0;
    uint64_t strings_size = 0;
    for (size_t i = 0; i < count && entries[i].d_tag != DT_NULL; i++) {
        const uint64_t value = entries[i].d_un.d_val;
        switch (entries[i].d_tag) {
        case DT_STRTAB:
            strings_address = value;
            break;
        case DT_STRSZ:
            strings_size = value;
            break;
        case DT_BIND_NOW:
            program->binds_now = true;
            break;
        case DT_FLAGS:
            program->binds_now |= (value & DF_BIND_NOW) != 0;
            break;
        case DT_FLAGS_1:
            program->binds_now |= (value & DF_1_NOW) != 0;
            break;
        default:
            break;
        }
    }
    uint64_t offset = 0;
    char *strings = NULL;
    if (strings_size > 0 && offset_of_address(image, strings_address, &offset)) {
        strings = read_table(image, offset, strings_size);
    }
    for (size_t i = 0; strings != NULL && i < count && entries[i].d_tag != DT_NULL; i++) {
        if (entries[i].d_un.d_val < strings_size) {
            look_at_string(program, &entries[i], strings + entries[i].d_un.d_val);
        }
    }
    const bool is_whole = strings != NULL || strings_size == 0;
    free(strings);
    free(entries);
    return is_whole;
}

/* Functions that FORTIFY_SOURCE replaces, the most used of them: the checking form of NAME is
 * __NAME_chk. */
static const char *const fortifiable[] = {
    "memcpy",  "memmove",  "memset",   "mempcpy",  "strcpy",      "strncpy",   "strcat",
    "strncat", "stpcpy",   "sprintf",  "snprintf", "vsprintf",    "vsnprintf", "printf",
    "fprintf", "vprintf",  "vfprintf", "fgets",    "read",        "recv",      "recvfrom",
    "pread",   "readlink", "getcwd",   "realpath", "gethostname", "fread",     "wcscpy",
    "wcscat",  "wmemcpy",  "syslog",   "confstr",
};

static void look_at_fortification(struct program *program, const char *name)
{
    const size_t len = strlen(name);
    const bool is_checking =
        len > 6 && strncmp(name, "__", 2) == 0 && strcmp(name + len - 4, "_chk") == 0;
    const char *plain = is_checking ? name + 2 : name;
    const size_t plain_len = is_checking ? len - 6 : len;
    for (size_t i = 0; i < sizeof(fortifiable) / sizeof(fortifiable[0]); i++) {
        if (strlen(fortifiable[i]) == plain_len && memcmp(fortifiable[i], plain, plain_len) == 0) {
            program->fortified += is_checking;
            program->unfortified += !is_checking;
        }
    }
}

static void look_at_symbol(struct program *program, const Elf64_Sym *symbol, const char *name)
{
    if (symbol->st_shndx == SHN_UNDEF) {
        look_at_fortification(program, name);
    }
    if (strcmp(name, "malloc") == 0 && symbol->st_shndx != SHN_UNDEF) {
        program->has_own_malloc = true;
    } else if (strcmp(name, "free") == 0 && symbol->st_shndx != SHN_UNDEF) {
        program->has_own_free = true;
    } else if (strcmp(name, "__stack_chk_fail") == 0) {
        program->has_canaries = true;
    } else if (name[0] == '_' && name[1] == '_') {
        for (size_t i = 0; i < SANITIZERS; i++) {
            if (strcmp(name, sanitizers[i].symbol) == 0) {
                program->sanitizer = sanitizers[i].name;
            }
        }
    }
}

static void look_at_symbols(struct program *program, const struct image *image)
{
    const size_t section_count = image->header.e_shnum;
    if (image->header.e_shoff == 0 || section_count == 0 ||
        image->header.e_shentsize != sizeof(Elf64_Shdr)) {
        return;
    }
    Elf64_Shdr *sections =
        read_table(image, image->header.e_shoff, section_count * sizeof(Elf64_Shdr));
    for (size_t i = 0; sections != NULL && i < section_count; i++) {
        if (sections[i].sh_type != SHT_DYNSYM || sections[i].sh_link >= section_count) {
            continue;
        }
        const Elf64_Shdr *names_section = &sections[sections[i].sh_link];
        Elf64_Sym *symbols = read_table(image, sections[i].sh_offset, sections[i].sh_size);
        char *names = read_table(image, names_section->sh_offset, names_section->sh_size);
        if (symbols != NULL && names != NULL) {
            program->has_symbols = true;
            for (size_t k = 0; k < sections[i].sh_size / sizeof(Elf64_Sym); k++) {
                if (symbols[k].st_name < names_section->sh_size) {
                    look_at_symbol(program, &symbols[k], names + symbols[k].st_name);
                }
            }
        }
        free(symbols);
        free(names);
        break;
    }
    free(sections);
}

/* What the linker found all object files to have: an array of {type, size, data padded to 8} in
 * a note (gABI for Linux, program properties). */
static void look_at_properties(struct program *program, const struct image *image)
{
    enum { LARGEST_NOTE = 4096, PROPERTY_TYPE_0 = 5, BRANCHES = 1, RETURNS = 2 };
    const Elf64_Phdr *segment = segment_of_type(image, PT_GNU_PROPERTY);
    if (segment == NULL || segment->p_filesz > LARGEST_NOTE) {
        return;
    }
    char *note = read_table(image, segment->p_offset, segment->p_filesz);
    Elf64_Nhdr header;
    const size_t begin = sizeof(header) + sizeof("GNU");
    if (note == NULL || segment->p_filesz < begin) {
        free(note);
        return;
    }
    memcpy(&header, note, sizeof(header));
    const bool is_ours = header.n_namesz == sizeof("GNU") && header.n_type == PROPERTY_TYPE_0 &&
                         memcmp(note + sizeof(header), "GNU", sizeof("GNU")) == 0;
    const size_t end =
        is_ours && header.n_descsz <= segment->p_filesz - begin ? begin + header.n_descsz : 0;
    for (size_t at = begin; at + 12 <= end;) {
        uint32_t property[3];
        memcpy(property, note + at, sizeof(property));
        if (property[0] == OUR_FEATURES && property[1] == sizeof(uint32_t)) {
            program->has_branch_marks = (property[2] & BRANCHES) != 0;
            program->has_return_marks = (property[2] & RETURNS) != 0;
        }
        at += 8 + (((size_t)property[1] + 7) & ~(size_t)7);
    }
    free(note);
}

/* Says which machine a file of another one is for. The fields up to e_machine lie the same in both
 * classes. */
static void set_other_architecture(struct program *program, const Elf64_Ehdr *header)
{
    unsigned machine = header->e_machine;
    const int our_order = __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? ELFDATA2LSB : ELFDATA2MSB;
    if (header->e_ident[EI_DATA] != our_order) {
        machine = __builtin_bswap16(header->e_machine);
    }
    const char *name = machine_name(machine);
    char detail[64];
    if (name == NULL) {
        snprintf(detail, sizeof(detail), "machine type %u", machine);
    } else {
        const bool is_half = machine == OUR_MACHINE && header->e_ident[EI_CLASS] == ELFCLASS32;
        snprintf(detail, sizeof(detail), "%s%s", name, is_half ? " with 32-bit pointers" : "");
    }
    set_obstacle(program, PROGRAM_OTHER_ARCHITECTURE, detail);
}

static bool is_ours(const Elf64_Ehdr *header)
{
    const int our_order = __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? ELFDATA2LSB : ELFDATA2MSB;
    return header->e_ident[EI_CLASS] == ELFCLASS64 && header->e_ident[EI_DATA] == our_order &&
           header->e_machine == OUR_MACHINE;
}

static bool read_segments(struct image *image)
{
    const size_t count = image->header.e_phnum;
    if (image->header.e_phentsize != sizeof(Elf64_Phdr) || count == 0 || count > MOST_HEADERS ||
        !read_at(image, image->header.e_phoff, image->segments, count * sizeof(Elf64_Phdr))) {
        return false;
    }
    image->segment_count = count;
    return true;
}

static bool read_loader(struct program *program, const struct image *image)
{
    const Elf64_Phdr *segment = segment_of_type(image, PT_INTERP);
    program->is_static = segment == NULL;
    if (program->is_static) {
        return true;
    }
    if (segment->p_filesz < 2 || segment->p_filesz >= sizeof(program->loader) ||
        !read_at(image, segment->p_offset, program->loader, segment->p_filesz)) {
        return false;
    }
    program->loader[segment->p_filesz] = '\0';
    return true;
}

/* The whole of an ELF file: facts first, then the first obstacle among them. */
static void look_at_image(struct program *program, struct image *image)
{
    const size_t least = offsetof(Elf64_Ehdr, e_version);
    memset(&image->header, 0, sizeof(image->header));
    if (!read_at(image, 0, &image->header, least)) {
        set_obstacle(program, PROGRAM_DAMAGED, "");
        return;
    }
    if (!is_ours(&image->header)) {
        set_other_architecture(program, &image->header);
        return;
    }
    const bool is_whole = read_at(image, 0, &image->header, sizeof(image->header)) &&
                          (image->header.e_type == ET_EXEC || image->header.e_type == ET_DYN) &&
                          read_segments(image) && read_loader(program, image) &&
                          look_at_dynamic(program, image);
    if (!is_whole) {
        set_obstacle(program, PROGRAM_DAMAGED, "");
        return;
    }
    look_at_symbols(program, image);
    look_at_properties(program, image);
    const Elf64_Phdr *stack = segment_of_type(image, PT_GNU_STACK);
    program->is_pie = image->header.e_type == ET_DYN;
    program->has_relro = segment_of_type(image, PT_GNU_RELRO) != NULL;
    program->has_executable_stack = stack == NULL || (stack->p_flags & PF_X) != 0;
    program->was_read = true;

    if (program->is_static) {
        set_obstacle(program, PROGRAM_STATIC, "");
    } else if (access(program->loader, F_OK) != 0) {
        set_obstacle(program, PROGRAM_LOADER_MISSING, program->loader);
    } else if (strncmp(last_component(program->loader), "ld-linux", strlen("ld-linux")) != 0) {
        set_obstacle(program, PROGRAM_OTHER_LIBC, program->loader);
    } else if (program->sanitizer != NULL) {
        set_obstacle(program, PROGRAM_SANITIZED, program->sanitizer);
    }
}

/* ---- Following scripts ---- */

static void look_at_file(struct program *program, const char *path, int depth);

/* The program that `env` will start, from the one argument that a `#!` line gives it. */
static bool word_for_env(const char *argument, char *word, size_t size)
{
    if (strncmp(argument, "-S", 2) == 0) {
        argument += 2;
    }
    for (;;) {
        argument += strspn(argument, " \t");
        const size_t len = strcspn(argument, " \t");
        if (len == 0 || len >= size || argument[0] == '-') {
            return false;
        }
        memcpy(word, argument, len);
        word[len] = '\0';
        if (strchr(word, '=') == NULL) {
            return true;
        }
        argument += len;
    }
}

static void look_at_interpreter(struct program *program, char *line, int depth)
{
    line[strcspn(line, "\n")] = '\0';
    char *interpreter = line + 2 + strspn(line + 2, " \t");
    const size_t len = strcspn(interpreter, " \t");
    char *argument = interpreter + len;
    if (*argument != '\0') {
        *argument++ = '\0';
        argument += strspn(argument, " \t");
    }
    enum program_obstacle why;
    program->is_script = true;
    if (depth >= DEEPEST_SCRIPT) {
        set_obstacle(program, PROGRAM_INTERPRETERS_NESTED, interpreter);
        return;
    }
    if (!may_execute(interpreter, &why)) {
        /* A carriage return at the line's end is the usual cause, and can't be seen in the message.
         */
        const bool is_dos = len > 0 && interpreter[len - 1] == '\r';
        interpreter[is_dos ? len - 1 : len] = '\0';
        char detail[SCRIPT_LINE + 64];
        snprintf(detail, sizeof(detail), "%s%s", interpreter,
                 is_dos ? " with a carriage return after it (lines end as on DOS)" : "");
        set_obstacle(program, PROGRAM_INTERPRETER_MISSING, detail);
        return;
    }
    look_at_file(program, interpreter, depth + 1);
    char word[SCRIPT_LINE];
    char found[PATH_MAX];
    if (program->obstacle == PROGRAM_IS_FINE && strcmp(last_component(interpreter), "env") == 0 &&
        word_for_env(argument, word, sizeof(word)) &&
        find(word, found, sizeof(found)) == PROGRAM_IS_FINE) {
        look_at_file(program, found, depth + 1);
    }
}

static void forget_binary(struct program *program)
{
    program->was_read = false;
    program->is_pie = false;
    program->is_static = false;
    program->has_relro = false;
    program->binds_now = false;
    program->has_canaries = false;
    program->has_executable_stack = false;
    program->has_branch_marks = false;
    program->has_return_marks = false;
    program->fortified = 0;
    program->unfortified = 0;
    program->runpath[0] = '\0';
    program->has_symbols = false;
    program->has_own_malloc = false;
    program->sanitizer = NULL;
    program->loader[0] = '\0';
    program->needed_count = 0;
}

static void look_at_file(struct program *program, const char *path, int depth)
{
    forget_binary(program);
    copy(program->binary, sizeof(program->binary), path);
    struct image image = {.fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
    if (image.fd < 0) {
        look_at_privileges(program);
        return;
    }
    char start[SCRIPT_LINE] = "";
    const ssize_t got = pread(image.fd, start, sizeof(start) - 1, 0);
    if (got >= SELFMAG && memcmp(start, ELFMAG, SELFMAG) == 0) {
        look_at_image(program, &image);
        if (program->obstacle == PROGRAM_IS_FINE) {
            look_at_privileges(program);
        }
    } else if (got >= 2 && start[0] == '#' && start[1] == '!') {
        look_at_interpreter(program, start, depth);
    } else if (got < 0 || memchr(start, '\0', (size_t)got) != NULL) {
        set_obstacle(program, PROGRAM_OF_NO_KNOWN_KIND, "");
    } else {
        /* Text without `#!`: execvp gives it to the shell, so this is a script too. */
        program->is_script = true;
        if (depth < DEEPEST_SCRIPT) {
            look_at_file(program, "/bin/sh", depth + 1);
        }
    }
    close(image.fd);
}

void program_inspect(struct program *program, const char *name)
{
    memset(program, 0, sizeof(*program));
    copy(program->name, sizeof(program->name), name);
    const enum program_obstacle why = find(name, program->path, sizeof(program->path));
    if (why != PROGRAM_IS_FINE) {
        set_obstacle(program, why, "");
        return;
    }
    look_at_file(program, program->path, 0);
}

/* Into *program, of which only the fields of symbols are of interest; NULL or why nothing can
 * preload it. */
static const char *look_at_library(struct program *program, int fd)
{
    struct image image = {.fd = fd};
    if (!read_at(&image, 0, &image.header, sizeof(image.header)) ||
        memcmp(image.header.e_ident, ELFMAG, SELFMAG) != 0) {
        return "is no shared library (no ELF file)";
    }
    if (!is_ours(&image.header)) {
        return "is a library of another architecture";
    }
    if (image.header.e_type != ET_DYN) {
        return "is no shared library";
    }
    if (!read_segments(&image) || segment_of_type(&image, PT_DYNAMIC) == NULL) {
        return "is damaged";
    }
    look_at_symbols(program, &image);
    return program->has_symbols && !(program->has_own_malloc && program->has_own_free)
               ? "does not define malloc and free"
               : NULL;
}

const char *program_malloc_problem(const char *path)
{
    struct program *program = calloc(1, sizeof(*program));
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    const char *problem = "can't be read";
    if (program != NULL && fd >= 0) {
        problem = look_at_library(program, fd);
    }
    if (fd >= 0) {
        close(fd);
    }
    free(program);
    return problem;
}

/* ---- Saying it ---- */

void program_explain(const struct program *program, char *sentence, size_t size)
{
    const char *name = program->name;
    /* For a script, the sentence must say whose fault it is. */
    char about[2 * PATH_MAX + 64] = "";
    snprintf(about, sizeof(about), "'%s'", name);
    if (program->is_script) {
        snprintf(about, sizeof(about), "'%s', which runs the script '%s',", program->binary, name);
    }
    switch (program->obstacle) {
    case PROGRAM_IS_FINE:
        sentence[0] = '\0';
        break;
    case PROGRAM_NOT_FOUND:
        if (strchr(name, '/') != NULL) {
            snprintf(sentence, size, "there is no file '%s'; check the path", name);
        } else {
            snprintf(sentence, size,
                     "there is no program '%s' in PATH; check the name or give its path", name);
        }
        break;
    case PROGRAM_IS_DIRECTORY:
        snprintf(sentence, size, "'%s' is a directory; name a program in it", name);
        break;
    case PROGRAM_NOT_EXECUTABLE:
        snprintf(sentence, size, "'%s' may not be executed; chmod +x makes a file a program",
                 program->path);
        break;
    case PROGRAM_OF_NO_KNOWN_KIND:
        snprintf(sentence, size, "'%s' is neither an ELF program nor a script; name a program",
                 name);
        break;
    case PROGRAM_DAMAGED:
        snprintf(sentence, size, "%s is a damaged or cut-off ELF file; build or install it again",
                 about);
        break;
    case PROGRAM_OTHER_ARCHITECTURE:
        snprintf(sentence, size,
                 "%s is for %s, Freehold here for %s; build both for one architecture", about,
                 program->detail, program_our_architecture());
        break;
    case PROGRAM_STATIC:
        snprintf(
            sentence, size,
            "%s is statically linked, nothing can be preloaded into it; link it dynamically, or "
            "with libfreehold-malloc.a",
            about);
        break;
    case PROGRAM_LOADER_MISSING:
        snprintf(sentence, size,
                 "%s needs the loader '%s', which is not here; install its C library", about,
                 program->detail);
        break;
    case PROGRAM_OTHER_LIBC:
        snprintf(
            sentence, size,
            "%s uses the loader '%s', not glibc's, for which Freehold is built; build it for glibc",
            about, program->detail);
        break;
    case PROGRAM_GAINS_PRIVILEGES:
        snprintf(
            sentence, size,
            "%s %s, so the system ignores preloaded libraries; run a copy without that, or start "
            "freehold as that user",
            about, program->detail);
        break;
    case PROGRAM_SANITIZED:
        snprintf(sentence, size,
                 "%s was built with %s, which brings its own malloc; build it without -fsanitize",
                 about, program->detail);
        break;
    case PROGRAM_INTERPRETER_MISSING:
        snprintf(
            sentence, size,
            "the script '%s' asks for the interpreter %s, which can't be executed; correct its "
            "first line or install it",
            name, program->detail);
        break;
    case PROGRAM_INTERPRETERS_NESTED:
        snprintf(
            sentence, size,
            "'%s' is a script whose interpreters are scripts too deep; name a program in its first "
            "line",
            name);
        break;
    }
}

/* ---- In a subcommand ---- */

int program_check(struct program *program, const char *name)
{
    program_inspect(program, name);
    if (program->obstacle != PROGRAM_IS_FINE) {
        char sentence[2 * PATH_MAX];
        program_explain(program, sentence, sizeof(sentence));
        cli_complain("%s", sentence);
        return program->obstacle == PROGRAM_NOT_FOUND ? CLI_NOT_FOUND : CLI_CANNOT_RUN;
    }
    if (program->has_own_malloc) {
        cli_complain(
            "warning: '%s' defines a malloc of its own, which comes before Freehold's; its "
            "memory is not Freehold's to manage",
            name);
    }
    return 0;
}

int program_complain_not_started(const char *path, int error)
{
    cli_complain("'%s' could not be started: %s", path, strerror(error));
    return error == ENOENT ? CLI_NOT_FOUND : CLI_CANNOT_RUN;
}
