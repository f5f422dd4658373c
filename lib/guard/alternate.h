/* alternate.h: alternate signal stacks of ours, for threads that have none. See alternate.c. */
#ifndef FH_GUARD_ALTERNATE_H
#define FH_GUARD_ALTERNATE_H

#include "base/core/macros.h"

/* Gives the calling thread one, unless it has one already. */
void fh_alternate_have(void);
/* Whether this is where one of ours begins. */
bool fh_alternate_owns(const void *stack);

#endif
