/*
 * Reports of memory errors. Written without allocating, one thread at a time; the others wait for the end. What happens then is
 * the setting on_error: abort (default), go on, or exit with a status.
 */
#include "base/message.h"
#include "heap/heap_internal.h"
#include "os/sys.h"

static struct fh_lock report_lock = FH_LOCK_INIT;

static void finish(void)
{
    switch (atomic_load_explicit(&fh_root.settings.on_error, memory_order_relaxed)) {
    case FH_ERROR_CONTINUE:
        return;
    case FH_ERROR_EXIT:
        fh_os_exit(atomic_load_explicit(&fh_root.settings.exit_status, memory_order_relaxed));
    default:
        fh_os_abort();
    }
}

void fh_report(const char *kind, const void *address, const char *detail)
{
    bool is_held = fh_lock_try_for(&report_lock, 1000000000);
    fh_message("ERROR: %s of %p: %s", kind, address, detail);
    finish();
    if (is_held)
        fh_lock_release(&report_lock);
}

void fh_report_foreign(const void *address)
{
    switch (atomic_load_explicit(&fh_root.settings.on_foreign, memory_order_relaxed)) {
    case FH_FOREIGN_IGNORE:
        return;
    case FH_FOREIGN_WARN:
        fh_message("WARNING: invalid-free of %p: not from this heap; ignored", address);
        return;
    case FH_FOREIGN_FORWARD:
        if (fh_root.foreign_free != NULL) {
            fh_root.foreign_free((void *)address);
            return;
        }
        fh_message("WARNING: invalid-free of %p: nobody to forward it to; ignored", address);
        return;
    default:
        fh_report("invalid-free", address, "not a block of this heap");
    }
}
