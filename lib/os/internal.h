/* What the files of os/ share among themselves and nobody else includes. */
#ifndef FH_OS_INTERNAL_H
#define FH_OS_INTERNAL_H

#include "os/mem.h"

/* Whether the forced mask lets us use the feature. Asks the kernel nothing: the caller tries the
 * call and has a tier below it. */
bool fh_os_may_use(enum fh_os_feature feature);

/* Applies a FREEHOLD_FEATURES value to the forced mask; false when it has a word that means
 * nothing. */
bool fh_os_force_features_by_name(const char *words);

/* True when fault injection wants this call to fail. */
bool fh_os_fails_on_purpose(void);

/* An entry of the auxiliary vector; 0 when it has none of that type. */
unsigned long fh_os_auxv(unsigned long type);

/* Finds the clock that needs no system call; until then, and where there is none, the clock is a
 * system call. */
void fh_os_find_clock(void);

#endif
