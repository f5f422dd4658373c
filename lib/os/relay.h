/*
 * os/relay: messages to `freehold run`, which shows them with functions and lines. Safe in signal
 * handlers and in a process that may do nothing any more.
 */
#ifndef FH_OS_RELAY_H
#define FH_OS_RELAY_H

#include "base/core/macros.h"

/* From now on messages go through the memory at path (base/relay.h) as long as somebody reads
 * it. 0 or a negative errno. */
int fh_os_relay(const char *path);

/* How much of the text somebody will read; the rest is to be written elsewhere. */
size_t fh_os_relay_write(const char *text, size_t length);

#endif
