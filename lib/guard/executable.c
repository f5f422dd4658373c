/*
 * Executable stacks.
 *
 * When a stack can be executed, an overflow into it is an attacker's program. A program gets one when its own
 * header of type PT_GNU_STACK says so, or is missing, or as soon as it loads a library that asks for one: the C library then
 * makes all stacks executable. It is nearly always an oversight: one assembly file without its note.
 *
 * So hardened mode looks at the program's headers when it starts, and at those of a module when code in it is seen
 * to allocate or free from a place that was not known yet (sites.c): that finds plugins that are loaded later,
 * without a lock of the loader's. A library that never calls us from its own code goes unnoticed. It says so
 * once, for the first module found.
 */
#include "base/core/bits.h"
#include "base/message.h"
#include "guard/guard.h"
#include "os/sys.h"
#include "stack/module.h"

#include <link.h>
#include <string.h>

static _Atomic bool is_told;
static _Atomic uintptr_t last_module; /* where the one begins that was looked at last */

static void warn(const char *who)
{
    /* relaxed: only one of those who come at once is to tell. */
    if (atomic_exchange_explicit(&is_told, true, memory_order_relaxed))
        return;
    fh_message(
        "WARNING: %s makes the stack executable: what is written there can be run as code. Link "
        "it with -Wl,-z,noexecstack, and give assembly files the section .note.GNU-stack",
        who);
}

/* -1: no header says anything. */
static int asks_for_execution(const ElfW(Phdr) * headers, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (headers[i].p_type == PT_GNU_STACK)
            return (headers[i].p_flags & PF_X) != 0;
    return -1;
}

void fh_executable_stack_start(void)
{
    size_t count;
    const ElfW(Phdr) *headers = fh_os_program_headers(&count);
    if (fh_guard_settings.mode == FH_MODE_HARDENED && headers != NULL &&
        asks_for_execution(headers, count) != 0)
        warn("the program");
}

/* Of a library only what it says counts: the vDSO says nothing. */
static bool is_library_asking(const struct fh_module_place *place)
{
    const ElfW(Ehdr) *elf = (const ElfW(Ehdr) *)place->start;
    size_t bytes = place->end - place->start;
    if (bytes < sizeof *elf || memcmp(elf->e_ident, ELFMAG, SELFMAG) != 0 ||
        elf->e_phentsize != sizeof(ElfW(Phdr)) ||
        elf->e_phoff + (size_t)elf->e_phnum * sizeof(ElfW(Phdr)) > fh_min(bytes, fh_os_page_size))
        return false;
    return asks_for_execution((const ElfW(Phdr) *)(place->start + elf->e_phoff), elf->e_phnum) == 1;
}

static void look_at(const struct fh_module_place *place)
{
    struct fh_module_details details;
    if (is_library_asking(place) && fh_module_details(place, &details))
        warn(details.name[0] != '\0' ? details.name : "the program");
}

void fh_executable_stack_look(uintptr_t pc)
{
    struct fh_module_place place;
    if (fh_guard_settings.mode != FH_MODE_HARDENED ||
        atomic_load_explicit(&is_told, memory_order_relaxed) || !fh_module_at(pc - 1, &place))
        return;
    /* relaxed: a module that is looked at twice does no harm. */
    if (atomic_load_explicit(&last_module, memory_order_relaxed) == place.start)
        return;
    atomic_store_explicit(&last_module, place.start, memory_order_relaxed);
    look_at(&place);
}
