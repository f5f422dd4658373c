/* entry.h: what the files of the entry points share. */
#ifndef FH_PRELOAD_ENTRY_H
#define FH_PRELOAD_ENTRY_H

#include "base/core/bits.h"
#include "freehold/trace.h"
#include "pages/run.h"

/* An entry point; between its instructions a heap may be half changed (heap/handler.c). */
#define ENTRY FH_PUBLIC FH_FAST

/* Our copy of the window: closed until the first free that misses. */
extern FH_HIDDEN struct fh_window fh_entry_window;

/*
 * What the recorder is told (lib/record). The same sources make libfreehold-malloc, where these are the
 * bare call, and libfreehold-record. `flags` are of enum fh_trace_flag.
 */
#ifdef FH_RECORD
#include "record/record.h"

#define FH_IS_RECORDER 1

#define FH_TELL_ALLOC(call, size, align, flags)                                                    \
    fh_record_alloc(call, size,                                                                    \
                    FH_RECORD_HOW(FH_TRACE_ALLOC, flags) |                                         \
                        (uint32_t)((align) == 0 ? 0 : fh_log2(align) + 1) << RING_HOW_ALIGN_SHIFT, \
                    __builtin_frame_address(0))
#define FH_TELL_FREE(block, flags)                                                                 \
    do {                                                                                           \
        if ((block) != NULL)                                                                       \
            fh_record_free(block, FH_RECORD_HOW(FH_TRACE_FREE, flags),                             \
                           __builtin_frame_address(0));                                            \
    } while (0)
#define FH_TELL_RESIZE(block, old, size)                                                           \
    do {                                                                                           \
        if ((block) != NULL && (old) != NULL)                                                      \
            fh_record_resize(block, old, size, FH_RECORD_HOW(FH_TRACE_RESIZE, 0),                  \
                             __builtin_frame_address(0));                                          \
    } while (0)

/* For operator new and delete: what malloc, aligned_alloc and free do, told by whoever calls them. */
FH_HIDDEN void *fh_entry_malloc(size_t size);
FH_HIDDEN void *fh_entry_aligned(size_t align, size_t size);
FH_HIDDEN void fh_entry_free(void *block);
#else
#define FH_IS_RECORDER                          0
#define FH_TELL_ALLOC(call, size, align, flags) (call)
#define FH_TELL_FREE(block, flags)              (void)0
#define FH_TELL_RESIZE(block, old, size)        (void)0
#define fh_entry_malloc                         malloc
#define fh_entry_aligned                        aligned_alloc
#define fh_entry_free                           free
#endif

#endif
