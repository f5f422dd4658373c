/*
 * A listener sees every allocation and free of the process while it is registered. Here it counts
 * what a piece of code allocates.
 */
#include <freehold/freehold.h>

#include <stdio.h>
#include <string.h>

struct tally {
    size_t allocs, frees, requested;
};

static void count(void *context, const struct fh_event *event)
{
    struct tally *tally = context;
    if (event->kind == FH_EVENT_ALLOC) {
        tally->allocs++;
        tally->requested += event->requested;
    } else {
        tally->frees++;
    }
}

int main(void)
{
    struct tally tally = {0};
    int id = fh_event_listen(FH_EVENT_ALLOC | FH_EVENT_FREE, count, &tally);
    if (id < 0) {
        fprintf(stderr, "listen: %s\n", strerror(-id));
        return 1;
    }
    for (size_t size = 100; size <= 1000; size += 100)
        fh_free_any(fh_malloc(size));
    fh_event_unlisten(id);
    printf("%zu allocations of %zu bytes, %zu frees\n", tally.allocs, tally.requested, tally.frees);
    return 0;
}
