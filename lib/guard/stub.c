#include "base/message.h"
#include "guard/guard.h"
#include "heap/heap.h"
void fh_fault_start(void)
{
}
void fh_fault_thread(void)
{
}
void fh_error(const struct fh_error *e)
{
    fh_message("block %p req %zu state %d", (void *)(e->block ? e->block->address : 0),
               e->block ? e->block->requested : 0, e->block ? (int)e->block->state : -1);
    fh_report(e->kind, (void *)e->address, e->detail ? e->detail : "");
}
