/*
 * The register of managers. A row is all that a new one needs to take part in replays: its name, a
 * line for the list, and how it is opened over a place.
 *
 * The handles are static, since a worker process holds one manager: so the replay's own memory does
 * not move when a manager's handle is large.
 */
#include "allocators.h"

#include "freehold/freehold.h"

#include <errno.h>
#include <string.h>

static int open_heap(const struct fh_place_options *place, struct fh_allocator *out)
{
    const struct fh_heap_options options = {
        .size = sizeof(options), .source = place->source, .is_single_thread = true};
    struct fh_heap *heap = fh_heap_create(&options);
    if (heap == NULL) {
        return -errno;
    }
    *out = fh_heap_allocator(heap);
    return 0;
}

const struct lab_manager lab_managers[] = {
    {"heap", "the general-purpose heap, one of its own (fh_heap_create)", 0, open_heap},
};
const size_t lab_manager_count = sizeof(lab_managers) / sizeof(lab_managers[0]);

const struct lab_manager *lab_manager_named(const char *name)
{
    for (size_t i = 0; i < lab_manager_count; i++) {
        if (strcmp(lab_managers[i].name, name) == 0) {
            return &lab_managers[i];
        }
    }
    return NULL;
}
