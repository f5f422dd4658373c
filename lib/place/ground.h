/*
 * ground: the contiguous range under an allocator, wherever it comes from.
 *
 * Three kinds. A caller's buffer is all there from the start. A block of a parent allocator is taken
 * whole (`capacity` bytes) when the manager opens: a parent can't promise to lengthen a block in place. A
 * source's range is reserved once and committed from its beginning in steps, so it grows in place and
 * offsets stay what they are.
 *
 * Steps are a sixteenth of what is there, at least 64 KiB (no page of any Linux is larger): few calls of the
 * kernel for large heaps, little unused for small ones. A manager asks to grow only when nothing free
 * fits.
 *
 * Freestanding: the source is a table of function pointers, so nothing here needs libc; only the default
 * source does.
 */
#ifndef FH_PLACE_GROUND_H
#define FH_PLACE_GROUND_H

#include "base/core/macros.h"
#include "freehold/place.h"

#define FH_GROUND_STEP ((size_t)64 << 10)

/* Opens a range of at least `least` usable bytes, its base a multiple of `align` (a power of two). 0,
 * -EINVAL (no memory named where one must be, a buffer smaller than `least`), or -ENOMEM; errno says the
 * same. Memory of a source reads as zero where the source says so; other memory is as it was. */
int fh_ground_open(struct fh_ground *ground, const struct fh_place_options *options, size_t least,
                   size_t align);
/* Over memory that a manager lives in already: no options, cannot grow. */
void fh_ground_attach(struct fh_ground *ground, void *memory, size_t bytes);
/* Makes at least `bytes` usable in all (ground->bytes says how many there are then); false, errno ENOMEM,
 * and as before when that is more than capacity or the source has no more. */
bool fh_ground_grow(struct fh_ground *ground, size_t bytes);
/* Gives back the memory of whole pages (64 KiB steps of base + offset) inside a free part; it reads as zero
 * when touched again. Returns the bytes given back, 0 where the source can't. The manager keeps
 * ground->purged. */
size_t fh_ground_purge(struct fh_ground *ground, size_t offset, size_t bytes);
/* The range goes back to where it came from. */
void fh_ground_close(struct fh_ground *ground);

/* Asks the program for help; true: try once more. */
FH_INLINE bool fh_ground_ask(const struct fh_ground *ground, size_t size)
{
    return ground->exhausted != NULL && ground->exhausted(ground->exhausted_context, size);
}

#endif
