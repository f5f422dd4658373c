/* entry.h: what the files of the entry points share. */
#ifndef FH_PRELOAD_ENTRY_H
#define FH_PRELOAD_ENTRY_H

#include "pages/run.h"

/* An entry point; between its instructions a heap may be half changed (heap/handler.c). */
#define ENTRY FH_PUBLIC FH_FAST

/* Our copy of the window: closed until the first free that misses. */
extern FH_HIDDEN struct fh_window fh_entry_window;

#endif
