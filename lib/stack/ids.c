/* Numbers for stacks: see ids.h for the tree, the list and what may change. */
#include "stack/ids.h"

#include "base/core/bits.h"
#include "os/mem.h"
#include "stack/root.h"
#include "stack/stack.h"

#define ids (fh_stack_root.ids)

enum {
    NODE_CHUNK = 1 << FH_NODE_CHUNK_SHIFT,
    BUCKET_CHUNK = 1 << FH_BUCKET_CHUNK_SHIFT,
    LOAD = 2, /* nodes for each bucket before the buckets double */
};

static struct fh_stack_node *node_at(uint32_t id)
{
    /* acquire: pairs with the release when a chunk is published; an id comes to another thread only
     * through something that orders it after that */
    struct fh_stack_node *chunk =
        atomic_load_explicit(&ids.nodes[id >> FH_NODE_CHUNK_SHIFT], memory_order_acquire);
    return &chunk[id & (NODE_CHUNK - 1)];
}

/* A chunk of zeroes at *place if there is none yet. */
static bool ensure_chunk(_Atomic(void *) *place, size_t size)
{
    if (atomic_load_explicit(place, memory_order_acquire) != NULL)
        return true;
    size = fh_align_up(size, fh_os_page_size);
    void *chunk = fh_os_map(size), *none = NULL;
    if (chunk == NULL)
        return atomic_load_explicit(place, memory_order_acquire) != NULL;
    if (!atomic_compare_exchange_strong_explicit(place, &none, chunk, memory_order_acq_rel,
                                                 memory_order_acquire))
        fh_os_release(chunk, size);
    return true;
}

/* A new node's number, or 0. A number whose chunk cannot be mapped is lost, so that the next one
 * tries anew. */
static uint32_t new_node(uintptr_t frame, uint32_t parent)
{
    uint32_t id = atomic_load_explicit(&ids.nodes_len, memory_order_relaxed);
    do {
        if (id + 1 >= (uint32_t)FH_NODE_CHUNKS << FH_NODE_CHUNK_SHIFT)
            return 0;
        if (!ensure_chunk(&ids.nodes[(id + 1) >> FH_NODE_CHUNK_SHIFT],
                          NODE_CHUNK * sizeof(struct fh_stack_node)))
            return 0;
    } while (!atomic_compare_exchange_weak_explicit(&ids.nodes_len, &id, id + 1,
                                                    memory_order_relaxed, memory_order_relaxed));
    struct fh_stack_node *node = node_at(id + 1);
    node->frame = frame;
    node->parent = parent;
    return id + 1;
}

static uint32_t reverse_bits(uint32_t x)
{
    x = (x >> 1 & 0x55555555u) | (x & 0x55555555u) << 1;
    x = (x >> 2 & 0x33333333u) | (x & 0x33333333u) << 2;
    x = (x >> 4 & 0x0f0f0f0fu) | (x & 0x0f0f0f0fu) << 4;
    return __builtin_bswap32(x);
}

static uint32_t hash_of(uintptr_t frame, uint32_t parent)
{
    uint64_t mixed = (frame ^ (uint64_t)parent << 40 ^ parent) * 0x9e3779b97f4a7c15u;
    return (uint32_t)((mixed ^ mixed >> 29) * 0xbf58476d1ce4e5b9u >> 32);
}

/* The place in the list: a frame's key is odd, a dummy's is even and comes before all of its
 * bucket. */
static uint32_t frame_key(uint32_t hash)
{
    return reverse_bits(hash) | 1;
}

static uint32_t node_key(const struct fh_stack_node *node)
{
    return node->frame == 0 ? reverse_bits(node->parent)
                            : frame_key(hash_of(node->frame, node->parent));
}

/* Finds {frame, parent} in the list behind node `from`, or inserts it behind what sorts equal. A
 * node that was made and then found to be there already stays unused: that takes two threads at the
 * same new frame. */
static uint32_t find_or_insert(uint32_t from, uint32_t key, uintptr_t frame, uint32_t parent)
{
    uint32_t made = 0;
    struct fh_stack_node *before = node_at(from);
    for (;;) {
        /* acquire: pairs with the insertion's release: a linked node is complete */
        uint32_t next = atomic_load_explicit(&before->next, memory_order_acquire);
        struct fh_stack_node *node = next != 0 ? node_at(next) : NULL;
        if (node != NULL && node->frame == frame && node->parent == parent)
            return next;
        if (node != NULL && node_key(node) <= key) {
            before = node;
            continue;
        }
        if (made == 0)
            made = new_node(frame, parent);
        if (made == 0)
            return 0;
        atomic_store_explicit(&node_at(made)->next, next, memory_order_relaxed);
        if (atomic_compare_exchange_strong_explicit(&before->next, &next, made,
                                                    memory_order_release, memory_order_relaxed))
            return made;
    }
}

static _Atomic uint32_t *bucket_at(uint32_t bucket)
{
    _Atomic(void *) *place = &ids.buckets[bucket >> FH_BUCKET_CHUNK_SHIFT];
    if (!ensure_chunk(place, BUCKET_CHUNK * sizeof(uint32_t)))
        return NULL;
    _Atomic uint32_t *chunk = atomic_load_explicit(place, memory_order_acquire);
    return &chunk[bucket & (BUCKET_CHUNK - 1)];
}

/* Bucket 0's dummy is the list's head. Two threads may make two heads; the loser's stays unused. */
static uint32_t head_of_list(_Atomic uint32_t *entry)
{
    uint32_t none = 0, head = new_node(0, 0);
    if (head == 0)
        return atomic_load_explicit(entry, memory_order_acquire);
    return atomic_compare_exchange_strong_explicit(entry, &none, head, memory_order_acq_rel,
                                                   memory_order_acquire)
               ? head
               : none;
}

/* The dummy of a bucket; made behind that of the bucket it was split from. At most 24 deep. */
static uint32_t dummy_of(uint32_t bucket)
{
    _Atomic uint32_t *entry = bucket_at(bucket);
    if (entry == NULL)
        return 0;
    uint32_t dummy = atomic_load_explicit(entry, memory_order_acquire);
    if (FH_LIKELY(dummy != 0))
        return dummy;
    if (bucket == 0)
        return head_of_list(entry);
    uint32_t parent = dummy_of(bucket & ~(1u << fh_log2(bucket)));
    dummy = parent != 0 ? find_or_insert(parent, reverse_bits(bucket), 0, bucket) : 0;
    if (dummy != 0)
        atomic_store_explicit(entry, dummy, memory_order_release);
    return dummy;
}

static void grow_buckets(uint32_t bits)
{
    uint32_t used = atomic_load_explicit(&ids.nodes_len, memory_order_relaxed);
    if ((1 << bits) < FH_BUCKET_CHUNKS && used >> (bits + FH_BUCKET_CHUNK_SHIFT) >= LOAD)
        atomic_compare_exchange_strong_explicit(&ids.bucket_bits, &bits, bits + 1,
                                                memory_order_relaxed, memory_order_relaxed);
}

static uint32_t intern(uint32_t parent, uintptr_t frame)
{
    uint32_t hash = hash_of(frame, parent);
    uint32_t bits = atomic_load_explicit(&ids.bucket_bits, memory_order_relaxed);
    uint32_t dummy = dummy_of(hash & ((1u << (bits + FH_BUCKET_CHUNK_SHIFT)) - 1));
    if (dummy == 0)
        return 0;
    uint32_t before = atomic_load_explicit(&ids.nodes_len, memory_order_relaxed);
    uint32_t id = find_or_insert(dummy, frame_key(hash), frame, parent);
    if (id > before)
        grow_buckets(bits);
    return id;
}

uint32_t fh_stack_id(const uintptr_t *frames, size_t n)
{
    uint32_t id = 0;
    for (size_t i = n; i-- > 0;) {
        if (frames[i] == 0)
            continue; /* no code lies there, and 0 marks dummies */
        id = intern(id, frames[i]);
        if (id == 0)
            return 0;
    }
    return id;
}

static bool is_stack(uint32_t id)
{
    return id != 0 && id <= atomic_load_explicit(&ids.nodes_len, memory_order_relaxed) &&
           atomic_load_explicit(&ids.nodes[id >> FH_NODE_CHUNK_SHIFT], memory_order_acquire) !=
               NULL &&
           node_at(id)->frame != 0;
}

size_t fh_stack_frames(uint32_t id, uintptr_t *frames, size_t max)
{
    size_t n = 0;
    for (; n < max && is_stack(id); id = node_at(id)->parent)
        frames[n++] = node_at(id)->frame;
    return n;
}

uint32_t fh_stack_parent(uint32_t id)
{
    return is_stack(id) ? node_at(id)->parent : 0;
}

uintptr_t fh_stack_innermost(uint32_t id)
{
    return is_stack(id) ? node_at(id)->frame : 0;
}

uint32_t fh_stack_nodes(void)
{
    return atomic_load_explicit(&ids.nodes_len, memory_order_relaxed);
}
