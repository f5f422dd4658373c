/*
 * freehold.h: all of libfreehold's public interface. Each header is the manual of its part; trace.h, which
 * needs a library of its own, stands apart.
 */
#ifndef FREEHOLD_FREEHOLD_H
#define FREEHOLD_FREEHOLD_H

#include "freehold/allocator.h"
#include "freehold/arena.h"
#include "freehold/buddy.h"
#include "freehold/code.h"
#include "freehold/context.h"
#include "freehold/event.h"
#include "freehold/fit.h"
#include "freehold/fixed.h"
#include "freehold/fragmentation.h"
#include "freehold/half_fit.h"
#include "freehold/heap.h"
#include "freehold/locked.h"
#include "freehold/mesh.h"
#include "freehold/movable.h"
#include "freehold/place.h"
#include "freehold/pointer_tag.h"
#include "freehold/pool.h"
#include "freehold/protect.h"
#include "freehold/scratch.h"
#include "freehold/slab.h"
#include "freehold/small.h"
#include "freehold/source.h"
#include "freehold/stats.h"
#include "freehold/tlsf.h"
#include "freehold/types.h"

#endif
