/*
 * What the rooms below find: the heap (heap.h) and the explicit allocators (base/core/misuse.h).
 *
 * They know kind, address and a sentence; the linker leads them here, and the report adds the rest.
 * What is nobody's block may be another allocator's: on_foreign says what a free of it does.
 */
#include "base/core/misuse.h"
#include "base/message.h"
#include "guard/guard.h"
#include "heap/heap.h"
#include "os/sys.h"

#include <errno.h>
#include <stdarg.h>

void fh_report(const char *kind, const void *address, const char *detail)
{
    fh_error(&(struct fh_error){.kind = kind, .address = (uintptr_t)address, .detail = detail});
}

void fh_misuse(const char *kind, const void *address, const char *detail)
{
    fh_report(kind, address, detail);
}

void fh_broken(const char *format, ...)
{
    char text[256];
    va_list args;
    va_start(args, format);
    fh_vformat(text, sizeof text, format, args);
    va_end(args);
    fh_os_init(); /* messages go nowhere before */
    fh_message("check: %s", text);
}

/* ---- Somebody else's pointers ---------------------------------------------------------------- */

void fh_entry_points_are(const struct fh_entry_points *entry)
{
    fh_root.entry = *entry;
}

static enum fh_on_foreign on_foreign(void)
{
    return (enum fh_on_foreign)atomic_load_explicit(&fh_root.settings.on_foreign,
                                                    memory_order_relaxed);
}

void fh_report_foreign(const void *address)
{
    switch (on_foreign()) {
    case FH_FOREIGN_IGNORE:
        return;
    case FH_FOREIGN_WARN:
        fh_message("WARNING: invalid-free of %p: not from this heap; ignored", address);
        return;
    case FH_FOREIGN_FORWARD:
        if (fh_root.entry.foreign_free != NULL) {
            fh_root.entry.foreign_free((void *)(uintptr_t)address);
            return;
        }
        fh_message("WARNING: invalid-free of %p: nobody to forward it to; ignored", address);
        return;
    case FH_FOREIGN_ABORT:
        fh_report("invalid-free", address, "not a block of this heap");
    }
}

/* A realloc of it: forwarded, or said like a free, and then NULL: its size is not known, so it
 * can't be copied. */
void *fh_report_foreign_realloc(void *address, size_t size)
{
    fh_start();
    errno = EINVAL;
    if (fh_report_own(address))
        return NULL;
    if (on_foreign() == FH_FOREIGN_FORWARD && fh_root.entry.foreign_realloc != NULL)
        return fh_root.entry.foreign_realloc(address, size);
    fh_report_foreign(address);
    return NULL;
}
