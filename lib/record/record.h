/*
 * record.h: the calls by which the entry points tell what they did.
 *
 * `frame` is __builtin_frame_address(0) of the entry point: from there the stack is found. `how` is made
 * of ring.h's RING_HOW_*. Each is some 20 ns when the caller's stack was seen before.
 */
#ifndef FH_RECORD_RECORD_H
#define FH_RECORD_RECORD_H

#include "base/core/macros.h"
#include "freehold/trace.h"
#include "record/ring.h"

/* After an allocation; returns the block. NULL is told to nobody. */
FH_HIDDEN void *fh_record_alloc(void *block, size_t size, uint32_t how, const uintptr_t *frame);
/* Before a free, of no NULL. */
FH_HIDDEN void fh_record_free(void *block, uint32_t how, const uintptr_t *frame);
/* After a block was resized from `old` to `block`; neither is NULL. */
FH_HIDDEN void fh_record_resize(void *block, void *old, size_t size, uint32_t how,
                                const uintptr_t *frame);
/* The mappings of the process are about to change, or have changed; returns when they were looked at. */
FH_HIDDEN void fh_record_modules(void);
/* The process ends: returns when its mappings were looked at. */
FH_HIDDEN void fh_record_end(void);

#define FH_RECORD_HOW(kind, flags) ((uint32_t)(kind) | (uint32_t)(flags) << RING_HOW_FLAGS_SHIFT)

#endif
