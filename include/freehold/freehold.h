/*
 * freehold.h: all of Freehold's public interface. Each header is the manual of its part.
 */
#ifndef FREEHOLD_FREEHOLD_H
#define FREEHOLD_FREEHOLD_H

#include "freehold/allocator.h"
#include "freehold/arena.h"
#include "freehold/context.h"
#include "freehold/event.h"
#include "freehold/fit.h"
#include "freehold/fixed.h"
#include "freehold/half_fit.h"
#include "freehold/heap.h"
#include "freehold/mesh.h"
#include "freehold/movable.h"
#include "freehold/place.h"
#include "freehold/pool.h"
#include "freehold/scratch.h"
#include "freehold/small.h"
#include "freehold/source.h"
#include "freehold/stats.h"
#include "freehold/tlsf.h"
#include "freehold/types.h"

#endif
