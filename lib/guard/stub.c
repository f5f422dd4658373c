#include "base/message.h"
#include "guard/guard.h"
#include "heap/heap.h"
bool fh_fence_owns(const void *a)
{
    (void)a;
    return false;
}
bool fh_fence_find(const void *a, struct fh_guard_block *o)
{
    (void)a;
    (void)o;
    return false;
}
bool fh_fence_wanted(struct fh_site *s)
{
    (void)s;
    return false;
}
void *fh_fence_alloc(size_t a, size_t b, unsigned c, uint32_t d, bool e)
{
    (void)a;
    (void)b;
    (void)c;
    (void)d;
    (void)e;
    return 0;
}
void fh_fence_free(void *b, uint32_t s)
{
    (void)b;
    (void)s;
}
void fh_fence_start(void)
{
}
void fh_fault_start(void)
{
}
void fh_fault_thread(void)
{
}
bool fh_pressure_refuses(size_t a, unsigned b, const struct fh_call *c)
{
    (void)a;
    (void)b;
    (void)c;
    return false;
}
void fh_error(const struct fh_error *e)
{
    fh_message("block %p req %zu state %d", (void *)(e->block ? e->block->address : 0),
               e->block ? e->block->requested : 0, e->block ? (int)e->block->state : -1);
    fh_report(e->kind, (void *)e->address, e->detail ? e->detail : "");
}
