/*
 * The slab allocator: objects of one type, constructed once, with magazines for each thread.
 *
 * Slabs. Memory is cut into slabs of one size, a power of two, aligned to it (in a buffer or
 * source: counted from its base), so an object's slab is a mask away. A slab is a header, some
 * colour, and objects:
 *
 *     owner | links | count of free ones | a bit each, set when free || colour | object | object …
 *
 * The size is chosen so that there are at least 8 objects and less than an eighth is lost; large
 * objects get by with less. What is lost is used for colour: the first objects of successive slabs
 * begin 64 bytes later each time, so that not all of them fall into the same sets of a cache
 * (Bonwick 1994, section 4). Slabs are full, partial or empty and lie in the list of that name;
 * allocation prefers partial ones, so that empty ones stay empty.
 *
 * Free objects stay constructed: nothing is written into them; free or not is one bit in the
 * header.
 *
 * Magazines (Bonwick and Adams 2001, section 3). Each thread has two of them, arrays of free
 * objects: `loaded`, which serves allocations and takes frees, and `previous`, which is full or
 * empty. When loaded can't serve, the two are exchanged; when that does not help, previous is
 * exchanged with the depot, under the lock. So of a magazine's worth of calls one meets other
 * threads, whatever the pattern. Objects in magazines are allocated as far as the slabs know. A
 * depot without full magazines has half a magazine filled from the slabs in one go; more than
 * DEPOT_FULL full ones are emptied into the slabs, so that these can become empty.
 *
 * The size of magazines grows when the depot's lock was found held in more than one of 16 visits
 * (3.4): magazines have room for MAGAZINE objects, `magazine_size` is how many they take now.
 *
 * Which pointer is an object? In a buffer or source: one in the range whose slab names this cache
 * as owner. Of slabs that are a parent's blocks the addresses are in a hash table, which frees read
 * without a lock: entries are added and removed under the lock; a table that is too small is
 * replaced and kept until the end, since a reader may still be in it. Then the offset must be a
 * multiple of the stride: a multiplication by 2^32/stride is exact for multiples, and what it gives
 * for others does not multiply back.
 *
 * Locks. The lock guards lists, slabs' headers, the depot, the list of threads. No constructor and
 * no destructor is called under it, and no parent that is thread-safe. `loaded` and `previous` are
 * their thread's alone. When a thread ends they go to the depot; in the child of a fork those of
 * all other threads do: the counts are written after the entries, so at any moment a magazine that
 * is cut off holds only free objects.
 *
 * Pressure. When the parent or source has no more, the other caches over it are reaped: depot
 * emptied, empty slabs given back.
 */
#include "freehold/slab.h"

#include "base/core/adapter.h"
#include "base/core/bits.h"
#include "base/core/fail.h"
#include "base/core/misuse.h"
#include "base/core/plant.h"
#include "base/core/poison.h"
#include "base/core/probe.h"
#include "place/ground.h"
#include "place/process.h"

#include <pthread.h>

enum {
    MAGAZINE = 126,     /* objects, so that it is 1 KiB */
    CHUNKS_LEFT = 8,    /* slabs that must still fit before memory is taken for magazines */
    DEPOT_FULL = 32,    /* full magazines: at most 4,000 objects wait there */
    SLAB_LEAST = 4096,  /* bytes: a page */
    SLAB_USUAL = 65536, /* beyond that only for objects that need it; those have no magazines */
    OBJECT_MOST = 16 << 20,
    COLOUR = FH_CACHE_LINE,
    ADAPT_VISITS = 256, /* of the depot between two looks at how often its lock was held */
    ADAPT_SHARE = 16,   /* one in so many is too often: a wait costs as much as 16 visits */
};

#define TOMBSTONE ((uintptr_t)1)

struct slab {
    struct fh_slab *owner; /* NULL when it is not, or no longer, a slab */
    struct slab *next, **link;
    uint32_t free;
    uint32_t first; /* bytes from here to the first object */
    uint64_t bits[];
};

/* Memory of a slab's size that holds no objects: unused, or cut into magazines. */
struct chunk {
    void *owner; /* NULL: where a slab has its cache */
    struct chunk *next;
};

struct magazine {
    struct magazine *next;
    size_t count; /* while it is in the depot or is somebody's previous one */
    void *objects[MAGAZINE];
};

/* What one thread has of one cache; in a magazine's place. */
struct mine {
    void **objects; /* of loaded */
    uint32_t rounds, size;
    struct magazine *loaded, *previous;
    struct mine *next, **link;
    uintptr_t thread;
    bool is_exchanging; /* the two are not in order just now; a forked child must not look */
};

struct table {
    struct table *older;
    size_t capacity, used; /* a power of two; entries that are not 0, tombstones too */
    uintptr_t entries[];
};

static void lock(struct fh_slab *cache)
{
    if (!cache->is_single_thread)
        fh_lock_acquire(fh_fork_lock_word(&cache->lock));
}

static void unlock(struct fh_slab *cache)
{
    if (!cache->is_single_thread)
        fh_lock_release(fh_fork_lock_word(&cache->lock));
}

/* ---- lists ----------------------------------------------------------------------------------- */

static void push(struct fh_slab_list *list, struct slab *slab)
{
    slab->next = list->first;
    slab->link = (struct slab **)&list->first;
    if (slab->next != NULL)
        slab->next->link = &slab->next;
    list->first = slab;
}

static void pull(struct slab *slab)
{
    *slab->link = slab->next;
    if (slab->next != NULL)
        slab->next->link = slab->link;
}

/* ---- addresses ------------------------------------------------------------------------------- */

static size_t slab_bytes(const struct fh_slab *cache)
{
    return cache->slab_mask + 1;
}

FH_INLINE size_t place_in_table(uintptr_t address, size_t capacity)
{
    return (size_t)((address >> 12) * 0x9e3779b97f4a7c15u >> 32) & (capacity - 1);
}

FH_INLINE bool is_in_table(const struct fh_slab *cache, uintptr_t address)
{
    /* acquire: pairs with the release that published the table; entries are checked for equality
     * only. */
    const struct table *table =
        __atomic_load_n((struct table *const *)&cache->table, __ATOMIC_ACQUIRE);
    if (table == NULL)
        return false;
    size_t i = place_in_table(address, table->capacity);
    for (;; i = (i + 1) & (table->capacity - 1)) {
        uintptr_t entry = __atomic_load_n(&table->entries[i], __ATOMIC_RELAXED);
        if (entry == 0) /* before the comparison: the first page's address is 0 */
            return false;
        if (entry == address)
            return true;
    }
}

/* Where an address would be in which slab; NULL when it is in none. */
FH_INLINE struct slab *slab_of(const struct fh_slab *cache, const void *address)
{
    uintptr_t offset = (uintptr_t)address - cache->range_base;
    struct slab *slab = (struct slab *)((uintptr_t)address - (offset & cache->slab_mask));
    /* relaxed: of a valid object's slab the caller knows anyway, by whatever told it of the
     * object. */
    if (FH_LIKELY(cache->is_range ? offset < __atomic_load_n(&cache->range_bytes, __ATOMIC_RELAXED)
                                  : is_in_table(cache, (uintptr_t)slab)))
        if (FH_LIKELY(slab->owner == cache))
            return slab;
    return NULL;
}

/* The number of an object in its slab; at least `objects` when there is none at the address. */
FH_INLINE uint32_t index_of(const struct fh_slab *cache, const struct slab *slab,
                            const void *address)
{
    size_t offset = (uintptr_t)address - (uintptr_t)slab - slab->first;
    uint64_t index = (uint64_t)(uint32_t)offset * cache->inverse >> 32;
    return index * cache->stride == offset ? (uint32_t)index : UINT32_MAX;
}

static void *object_at(const struct fh_slab *cache, struct slab *slab, uint32_t index)
{
    return (char *)slab + slab->first + (size_t)index * cache->stride;
}

static void report(const struct fh_slab *cache, const void *address)
{
    const struct slab *slab = slab_of(cache, address);
    size_t offset = slab == NULL ? 0 : (uintptr_t)address - (uintptr_t)slab;
    if (slab == NULL)
        fh_misuse("invalid-free", address, "in no slab of this cache");
    else if (offset < slab->first || offset >= slab->first + (size_t)cache->objects * cache->stride)
        fh_misuse("invalid-free", address, "in a slab, but not in an object");
    else
        fh_misuse("interior-free", address, "inside an object");
}

/* ---- the table of slab addresses ------------------------------------------------------------- */

static void add_to(struct table *table, uintptr_t address)
{
    size_t i = place_in_table(address, table->capacity);
    while (table->entries[i] > TOMBSTONE)
        i = (i + 1) & (table->capacity - 1);
    table->used += table->entries[i] == 0;
    __atomic_store_n(&table->entries[i], address, __ATOMIC_RELAXED);
}

static bool is_crowded(const struct table *table)
{
    return table == NULL || (table->used + 1) * 2 > table->capacity;
}

static size_t table_bytes(size_t capacity)
{
    return sizeof(struct table) + capacity * sizeof(uintptr_t);
}

/* Lock held (but for a table that nobody knows yet): `larger` takes over from the present one. */
static void replace_table(struct fh_slab *cache, struct table *larger)
{
    struct table *table = cache->table;
    larger->older = table;
    for (size_t i = 0; table != NULL && i < table->capacity; i++)
        if (table->entries[i] > TOMBSTONE)
            add_to(larger, table->entries[i]);
    __atomic_store_n((struct table **)&cache->table, larger, __ATOMIC_RELEASE);
}

static void remove_from_table(struct fh_slab *cache, uintptr_t address)
{
    struct table *table = cache->table;
    size_t i = place_in_table(address, table->capacity);
    while (table->entries[i] != address)
        i = (i + 1) & (table->capacity - 1);
    __atomic_store_n(&table->entries[i], TOMBSTONE, __ATOMIC_RELAXED);
}

/* ---- memory ---------------------------------------------------------------------------------- */

static bool locks_parent(const struct fh_slab *cache)
{
    return !fh_allocator_can(cache->options.place.parent, FH_ALLOCATOR_THREAD_SAFE);
}

static void *parent_alloc(struct fh_slab *cache, size_t bytes, size_t align)
{
    bool is_locked = locks_parent(cache);
    if (is_locked)
        lock(cache);
    void *block = fh_alloc_with(cache->options.place.parent, bytes, align, 0);
    if (is_locked)
        unlock(cache);
    return block;
}

static void parent_free(struct fh_slab *cache, void *block, size_t bytes, size_t align)
{
    bool is_locked = locks_parent(cache);
    if (is_locked)
        lock(cache);
    fh_free_sized(cache->options.place.parent, block, bytes, align);
    if (is_locked)
        unlock(cache);
}

/* A slab's worth of memory, from what was given back or from the place. */
static void *take_chunk(struct fh_slab *cache, bool may_grow)
{
    size_t bytes = slab_bytes(cache);
    lock(cache);
    struct chunk *chunk = cache->chunks.first;
    if (chunk != NULL) {
        cache->chunks.first = chunk->next;
    } else if (cache->is_range && (may_grow || cache->carved + bytes <= cache->ground.bytes) &&
               cache->carved + bytes <= cache->ground.capacity &&
               fh_ground_grow(&cache->ground, cache->carved + bytes)) {
        chunk = (struct chunk *)(void *)(cache->ground.base + cache->carved);
        /* What is carved was never a slab; old contents could look like one. */
        chunk->owner = NULL;
        cache->carved += bytes;
        __atomic_store_n(&cache->range_bytes, cache->carved, __ATOMIC_RELAXED);
        cache->chunk_count++;
    }
    unlock(cache);
    if (chunk != NULL || cache->is_range || !may_grow)
        return chunk;
    size_t limit = cache->options.place.capacity;
    lock(cache);
    bool is_allowed = limit == 0 || (cache->chunk_count + 1) * bytes <= limit;
    if (is_allowed) {
        cache->chunk_count++;
        cache->peak_chunks = fh_max(cache->peak_chunks, cache->chunk_count);
    }
    unlock(cache);
    if (!is_allowed)
        return NULL;
    chunk = parent_alloc(cache, bytes, bytes);
    if (chunk == NULL) {
        lock(cache);
        cache->chunk_count--;
        unlock(cache);
        return NULL;
    }
    chunk->owner = NULL;
    return chunk;
}

/* Lock held: kept for the next slab. */
static void keep_chunk(struct fh_slab *cache, void *memory)
{
    struct chunk *chunk = memory;
    if (cache->is_poisoning)
        fh_unpoison_defined(memory, slab_bytes(cache));
    *chunk = (struct chunk){NULL, cache->chunks.first};
    cache->chunks.first = chunk;
}

/* ---- slabs ----------------------------------------------------------------------------------- */

static void destruct_all(struct fh_slab *cache, struct slab *slab)
{
    if (cache->options.destruct == NULL)
        return;
    if (cache->is_poisoning)
        fh_unpoison_defined(slab, slab_bytes(cache));
    for (uint32_t i = 0; i < cache->objects; i++)
        cache->options.destruct(cache->options.context, object_at(cache, slab, i));
}

/* False: a constructor failed, and those made before are destructed. */
static bool construct_all(struct fh_slab *cache, struct slab *slab)
{
    for (uint32_t i = 0; cache->options.construct != NULL && i < cache->objects; i++) {
        if (cache->options.construct(cache->options.context, object_at(cache, slab, i)) == 0)
            continue;
        while (cache->options.destruct != NULL && i-- > 0)
            cache->options.destruct(cache->options.context, object_at(cache, slab, i));
        return false;
    }
    return true;
}

/* Room for one more slab in the table; no lock held. */
static bool make_room_in_table(struct fh_slab *cache)
{
    if (cache->is_range)
        return true;
    lock(cache);
    struct table *table = cache->table;
    bool is_full = is_crowded(table);
    size_t capacity = table == NULL ? 32 : table->capacity * 2;
    unlock(cache);
    if (!is_full)
        return true;
    struct table *larger = parent_alloc(cache, table_bytes(capacity), 0);
    if (larger == NULL)
        return false;
    __builtin_memset(larger, 0, table_bytes(capacity));
    larger->capacity = capacity;
    lock(cache);
    bool is_wanted = cache->table == table;
    if (is_wanted)
        replace_table(cache, larger);
    unlock(cache);
    if (!is_wanted) /* another thread was quicker */
        parent_free(cache, larger, table_bytes(capacity), 0);
    return true;
}

/* One more slab, all its objects free; no lock held. */
static bool make_slab(struct fh_slab *cache)
{
    if (!make_room_in_table(cache))
        return false;
    struct slab *slab = take_chunk(cache, true);
    if (slab == NULL)
        return false;
    lock(cache);
    size_t colour = cache->next_colour;
    cache->next_colour = colour + 1 < cache->colours ? colour + 1 : 0;
    unlock(cache);
    slab->first = (uint32_t)(cache->header + colour * COLOUR);
    slab->free = cache->objects;
    for (uint32_t i = 0; i < (cache->objects + 63) / 64; i++)
        slab->bits[i] = ~(uint64_t)0;
    if (cache->objects % 64 != 0)
        slab->bits[cache->objects / 64] = ((uint64_t)1 << cache->objects % 64) - 1;
    bool is_made = construct_all(cache, slab);
    if (is_made && cache->is_poisoning)
        fh_poison((char *)slab + slab->first, (size_t)cache->objects * cache->stride);
    lock(cache);
    if (is_made) {
        slab->owner = cache;
        if (!cache->is_range)
            add_to(cache->table, (uintptr_t)slab);
        push(&cache->empty, slab);
        cache->empty_count++;
        cache->free_objects += cache->objects;
        cache->stats.slabs_made++;
    } else {
        keep_chunk(cache, slab);
    }
    unlock(cache);
    FH_PROBE2(slab_made, cache, slab);
    return is_made;
}

/* Lock held: an object out of the slabs, or NULL. */
static void *take_object(struct fh_slab *cache)
{
    struct slab *slab = cache->partial.first;
    if (slab == NULL) {
        slab = cache->empty.first;
        if (slab == NULL)
            return NULL;
        pull(slab);
        push(&cache->partial, slab);
        cache->empty_count--;
        cache->partial_count++;
    }
    uint32_t word = 0;
    while (slab->bits[word] == 0)
        word++;
    uint32_t index = word * 64 + (uint32_t)__builtin_ctzll(slab->bits[word]);
    slab->bits[word] &= slab->bits[word] - 1;
    cache->free_objects--;
    if (--slab->free == 0) {
        pull(slab);
        push(&cache->full, slab);
        cache->partial_count--;
        cache->full_count++;
    }
    return object_at(cache, slab, index);
}

/* Lock held: an object of this cache back into its slab. False when it is there already. */
static bool give_object(struct fh_slab *cache, void *object)
{
    struct slab *slab = slab_of(cache, object);
    uint32_t index = index_of(cache, slab, object);
    uint64_t *word = &slab->bits[index / 64], bit = (uint64_t)1 << index % 64;
    if ((*word & bit) != 0)
        return false;
    *word |= FH_PLANT(slab_forgets_free_bit, 0, bit);
    cache->free_objects++;
    slab->free++;
    if (slab->free == 1 && cache->objects > 1) {
        pull(slab);
        push(&cache->partial, slab);
        cache->full_count--;
        cache->partial_count++;
    } else if (slab->free == cache->objects) {
        pull(slab);
        push(&cache->empty, slab);
        if (cache->objects > 1)
            cache->partial_count--;
        else
            cache->full_count--;
        cache->empty_count++;
    }
    return true;
}

/* ---- magazines ------------------------------------------------------------------------------- */

static uint32_t magazine_least(const struct fh_slab *cache)
{
    return cache->stride <= 256 ? 64 : cache->stride <= 1024 ? 32 : 16;
}

static uint32_t magazine_most(const struct fh_slab *cache)
{
    return (uint32_t)fh_min(2 * (size_t)magazine_least(cache), MAGAZINE);
}

/* An empty magazine's memory: one that was used, or a part of a new chunk, unless what is left of a
 * small place is better used for objects. No lock held. */
static struct magazine *take_magazine(struct fh_slab *cache, bool may_grow)
{
    lock(cache);
    struct magazine *magazine = cache->empty_magazines;
    if (magazine != NULL)
        cache->empty_magazines = magazine->next;
    size_t most = cache->is_range ? cache->ground.capacity : cache->options.place.capacity;
    size_t taken = cache->chunk_count * slab_bytes(cache);
    bool is_scarce = most != 0 && most - taken < CHUNKS_LEFT * slab_bytes(cache);
    unlock(cache);
    if (magazine != NULL || is_scarce)
        return magazine;
    struct chunk *chunk = take_chunk(cache, may_grow);
    if (chunk == NULL)
        return NULL;
    char *at = (char *)chunk + FH_CACHE_LINE, *end = (char *)chunk + slab_bytes(cache);
    lock(cache);
    *chunk = (struct chunk){NULL, cache->spare_threads};
    cache->spare_threads = chunk;
    for (; at + sizeof *magazine <= end; at += sizeof *magazine) {
        magazine = (struct magazine *)(void *)at;
        magazine->next = cache->empty_magazines;
        magazine->count = 0;
        cache->empty_magazines = magazine;
    }
    magazine = cache->empty_magazines;
    cache->empty_magazines = magazine->next;
    unlock(cache);
    return magazine;
}

/* Lock held. */
static void keep_magazine(struct fh_slab *cache, struct magazine *magazine)
{
    magazine->count = 0;
    magazine->next = cache->empty_magazines;
    cache->empty_magazines = magazine;
}

/* Lock held: what the magazine holds goes into the slabs. Second frees show here: the first is
 * appended to `twice`, to be told when no lock is held. */
static void empty_magazine(struct fh_slab *cache, void **objects, size_t count, void **twice)
{
    for (size_t i = 0; i < count; i++)
        if (!give_object(cache, objects[i]))
            *twice = objects[i];
}

static void tell(void *twice)
{
    if (twice != NULL)
        fh_misuse("double-free", twice,
                  "the object was freed twice; seen when its magazine was emptied");
}

/* Lock held: full or partly full magazines go to the depot, or into the slabs when it has
 * enough. */
static void put_in_depot(struct fh_slab *cache, struct magazine *magazine, void **twice)
{
    if (magazine->count == 0) {
        keep_magazine(cache, magazine);
    } else if (cache->full_magazine_count >= DEPOT_FULL) {
        empty_magazine(cache, magazine->objects, magazine->count, twice);
        keep_magazine(cache, magazine);
    } else {
        magazine->next = cache->full_magazines;
        cache->full_magazines = magazine;
        cache->full_magazine_count++;
    }
}

static void lock_depot(struct fh_slab *cache)
{
    bool is_contended = !fh_lock_try(fh_fork_lock_word(&cache->lock));
    if (is_contended)
        fh_lock_acquire(fh_fork_lock_word(&cache->lock));
    cache->stats.depot_visits++;
    cache->stats.depot_contended += is_contended;
    cache->contended_since += is_contended;
    if (++cache->visits_since < ADAPT_VISITS)
        return;
    if (cache->contended_since > ADAPT_VISITS / ADAPT_SHARE)
        cache->magazine_size =
            (uint32_t)fh_min(cache->magazine_size + cache->magazine_size / 4, magazine_most(cache));
    cache->visits_since = cache->contended_since = 0;
}

/* The calling thread's magazines, made when there are none; NULL when it can't have any, or only by
 * growing. */
static struct mine *find_mine(struct fh_slab *cache, bool may_grow)
{
    struct mine *mine = fh_thread_mine(&cache->owner);
    if (mine != NULL || cache->is_single_thread || slab_bytes(cache) > SLAB_USUAL ||
        !fh_thread_can_have(&cache->owner))
        return mine;
    struct magazine *loaded = take_magazine(cache, may_grow),
                    *previous = take_magazine(cache, may_grow);
    mine = (struct mine *)(void *)take_magazine(cache, may_grow);
    lock(cache);
    if (loaded == NULL || previous == NULL || mine == NULL) {
        if (loaded != NULL)
            keep_magazine(cache, loaded);
        if (previous != NULL)
            keep_magazine(cache, previous);
        if (mine != NULL)
            keep_magazine(cache, (struct magazine *)(void *)mine);
        unlock(cache);
        return NULL;
    }
    *mine = (struct mine){
        .objects = loaded->objects,
        .size = cache->magazine_size,
        .loaded = loaded,
        .previous = previous,
        .next = cache->threads,
        .link = (struct mine **)&cache->threads,
        .thread = fh_thread_id(),
    };
    previous->count = 0;
    if (mine->next != NULL)
        mine->next->link = &mine->next;
    cache->threads = mine;
    unlock(cache);
    fh_thread_set_mine(&cache->owner, mine);
    return mine;
}

/* Lock held: the thread has ended, or is not in this process. */
static void retire(struct fh_slab *cache, struct mine *mine, void **twice)
{
    *mine->link = mine->next;
    if (mine->next != NULL)
        mine->next->link = mine->link;
    if (mine->is_exchanging)
        return; /* cut off by fork: what is in them is lost to the child */
    mine->loaded->count = mine->rounds;
    put_in_depot(cache, mine->loaded, twice);
    put_in_depot(cache, mine->previous, twice);
    keep_magazine(cache, (struct magazine *)(void *)mine);
}

static void thread_ends(void *self, void *value)
{
    struct fh_slab *cache = self;
    void *twice = NULL;
    lock(cache);
    retire(cache, value, &twice);
    unlock(cache);
    tell(twice);
}

static void forked(void *self)
{
    struct fh_slab *cache = self;
    void *twice = NULL;
    for (struct mine *mine = cache->threads, *next; mine != NULL; mine = next) {
        next = mine->next;
        if (mine->thread != fh_thread_id())
            retire(cache, mine, &twice);
    }
    tell(twice);
}

static void exchange(struct mine *mine)
{
    struct magazine *loaded = mine->loaded;
    mine->is_exchanging = true;
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    loaded->count = mine->rounds;
    mine->loaded = mine->previous;
    mine->previous = loaded;
    mine->objects = mine->loaded->objects;
    mine->rounds = (uint32_t)mine->loaded->count;
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    mine->is_exchanging = false;
}

/* ---- allocation ------------------------------------------------------------------------------ */

FH_INLINE void *pop(struct mine *mine)
{
    uint32_t rounds = mine->rounds - 1;
    void *object = mine->objects[rounds];
    mine->rounds = rounds;
    return object;
}

/* An object without a new slab. */
static void *take_without_growth(struct fh_slab *cache, struct mine *mine)
{
    if (mine == NULL) {
        lock(cache);
        void *object = take_object(cache);
        unlock(cache);
        return object;
    }
    if (mine->rounds > 0)
        return pop(mine);
    if (mine->previous->count > 0) {
        exchange(mine);
        return pop(mine);
    }
    lock_depot(cache);
    mine->size = cache->magazine_size;
    struct magazine *full = cache->full_magazines;
    if (full != NULL) {
        cache->full_magazines = full->next;
        cache->full_magazine_count--;
        keep_magazine(cache, mine->previous);
        mine->previous = full;
        exchange(mine);
        mine->previous->count = 0;
    } else {
        void *object;
        while (mine->rounds < mine->size / 2 && (object = take_object(cache)) != NULL)
            mine->objects[mine->rounds++] = object;
    }
    unlock(cache);
    return mine->rounds > 0 ? pop(mine) : NULL;
}

static struct {
    struct fh_fork_lock lock;
    struct fh_slab *caches[FH_THREAD_OWNERS]; /* those that may be reaped by others */
} all;

static pthread_once_t once = PTHREAD_ONCE_INIT;

static void reap_neighbours(struct fh_slab *cache);

static FH_NOINLINE void *alloc_slow(struct fh_slab *cache, unsigned flags)
{
    bool may_grow = (flags & FH_ALLOC_NO_GROWTH) == 0;
    struct mine *mine = find_mine(cache, may_grow);
    void *object = take_without_growth(cache, mine);
    bool has_reaped = false, has_asked = false;
    while (object == NULL && may_grow) {
        if (make_slab(cache)) {
            object = take_without_growth(cache, mine);
        } else if (!has_reaped) {
            has_reaped = true;
            reap_neighbours(cache);
        } else if (!has_asked && fh_ground_ask(&cache->ground, cache->options.object_size)) {
            has_asked = true;
            object = take_without_growth(cache, mine);
        } else {
            break;
        }
    }
    if (object == NULL)
        return fh_fail(FH_ENOMEM);
    if (cache->is_poisoning) {
        if (cache->options.construct != NULL)
            fh_unpoison_defined(object, cache->options.object_size);
        else
            fh_unpoison(object, cache->options.object_size);
    }
    return object;
}

void *fh_slab_alloc(struct fh_slab *cache)
{
    struct mine *mine = fh_thread_mine(&cache->owner);
    if (FH_LIKELY(mine != NULL) && FH_LIKELY(mine->rounds > 0) && FH_LIKELY(!cache->is_poisoning))
        return pop(mine);
    return alloc_slow(cache, 0);
}

void *fh_slab_alloc_with(struct fh_slab *cache, size_t size, size_t align, unsigned flags)
{
    if (align != 0 && (!fh_is_pow2(align) || align > FH_ALIGN_MAX))
        return fh_fail(FH_EINVAL);
    if (size > cache->options.object_size || align > cache->options.align)
        return fh_fail(FH_ENOMEM);
    if ((flags & FH_ALLOC_ZEROED) != 0 && cache->options.construct != NULL)
        return fh_fail(FH_ENOTSUP);
    void *object =
        (flags & FH_ALLOC_NO_GROWTH) != 0 ? alloc_slow(cache, flags) : fh_slab_alloc(cache);
    if (object != NULL && (flags & FH_ALLOC_ZEROED) != 0)
        __builtin_memset(object, 0, FH_PLANT(slab_zeroes_half, size / 2, size));
    return object;
}

/* ---- freeing --------------------------------------------------------------------------------- */

/* Neither of the thread's magazines takes one more: the depot gives an empty one. */
static void make_room(struct fh_slab *cache, struct mine *mine)
{
    void *twice = NULL;
    if (mine->previous->count == 0) {
        exchange(mine);
        return;
    }
    struct magazine *empty = take_magazine(cache, true);
    lock_depot(cache);
    mine->size = cache->magazine_size;
    if (empty != NULL) {
        put_in_depot(cache, mine->previous, &twice);
        mine->previous = empty;
        empty->count = 0;
    } else {
        empty_magazine(cache, mine->previous->objects, mine->previous->count, &twice);
        mine->previous->count = 0;
    }
    unlock(cache);
    exchange(mine);
    tell(twice);
}

static FH_NOINLINE void free_slow(struct fh_slab *cache, void *object)
{
    if (object == NULL)
        return;
    const struct slab *slab = slab_of(cache, object);
    if (slab == NULL || index_of(cache, slab, object) >= cache->objects) {
        report(cache, object);
        return;
    }
    struct mine *mine = find_mine(cache, true);
    if (mine != NULL && mine->rounds > 0 && mine->objects[mine->rounds - 1] == object) {
        fh_misuse("double-free", object, "the object is free already");
        return;
    }
    if (mine == NULL) {
        lock(cache);
        bool is_given = give_object(cache, object);
        unlock(cache);
        if (!is_given) {
            fh_misuse("double-free", object, "the object is free already");
            return;
        }
    } else {
        if (mine->rounds >= mine->size)
            make_room(cache, mine);
        mine->objects[mine->rounds] = object;
        __atomic_signal_fence(__ATOMIC_SEQ_CST);
        mine->rounds++;
    }
    if (cache->is_poisoning)
        fh_poison(object, cache->stride);
}

void fh_slab_free(struct fh_slab *cache, void *object)
{
    struct mine *mine = fh_thread_mine(&cache->owner);
    const struct slab *slab = slab_of(cache, object);
    if (FH_UNLIKELY(mine == NULL || slab == NULL ||
                    index_of(cache, slab, object) >= cache->objects || cache->is_poisoning)) {
        free_slow(cache, object);
        return;
    }
    uint32_t rounds = mine->rounds;
    /* An empty magazine's place 0 may hold anything: then it was not the last one freed. */
    if (FH_UNLIKELY(rounds >= mine->size || (rounds > 0 && mine->objects[rounds - 1] == object))) {
        free_slow(cache, object);
        return;
    }
    mine->objects[rounds] = object;
    __atomic_signal_fence(
        __ATOMIC_SEQ_CST); /* fork may cut us off here: entries first, then the count */
    mine->rounds = rounds + 1;
}

/* ---- reaping --------------------------------------------------------------------------------- */

/* Lock held: the depot's objects, and with `mine` the thread's, go back to their slabs. */
static void flush(struct fh_slab *cache, struct mine *mine, void **twice)
{
    struct magazine *magazine;
    while ((magazine = cache->full_magazines) != NULL) {
        cache->full_magazines = magazine->next;
        empty_magazine(cache, magazine->objects, magazine->count, twice);
        keep_magazine(cache, magazine);
    }
    cache->full_magazine_count = 0;
    if (mine == NULL)
        return;
    empty_magazine(cache, mine->objects, mine->rounds, twice);
    mine->rounds = 0;
    empty_magazine(cache, mine->previous->objects, mine->previous->count, twice);
    mine->previous->count = 0;
}

static void flush_now(struct fh_slab *cache)
{
    void *twice = NULL;
    lock(cache);
    flush(cache, fh_thread_mine(&cache->owner), &twice);
    unlock(cache);
    tell(twice);
}

/* Lock held: a slab without live objects is a slab no more. */
static void unmake(struct fh_slab *cache, struct slab *slab)
{
    pull(slab);
    slab->owner = NULL;
    if (!cache->is_range)
        remove_from_table(cache, (uintptr_t)slab);
}

size_t fh_slab_reap(struct fh_slab *cache)
{
    flush_now(cache);
    size_t bytes = 0;
    for (;;) {
        lock(cache);
        struct slab *slab = cache->empty.first;
        if (slab != NULL) {
            unmake(cache, slab);
            cache->empty_count--;
            cache->free_objects -= cache->objects;
            cache->stats.slabs_given_back++;
        }
        unlock(cache);
        if (slab == NULL)
            break;
        destruct_all(cache, slab);
        lock(cache);
        keep_chunk(cache, slab);
        unlock(cache);
        bytes += slab_bytes(cache);
    }
    for (;;) {
        lock(cache);
        struct chunk *chunk = cache->is_range ? NULL : cache->chunks.first;
        if (chunk != NULL) {
            cache->chunks.first = chunk->next;
            cache->chunk_count--;
        }
        unlock(cache);
        if (chunk == NULL)
            break;
        parent_free(cache, chunk, slab_bytes(cache), slab_bytes(cache));
    }
    FH_PROBE2(slab_reap, cache, bytes);
    return bytes;
}

static void reap_neighbours(struct fh_slab *cache)
{
    if (cache->is_single_thread || cache->is_range)
        return;
    /* Only tried: a destructor that is called below may itself exhaust a cache. */
    if (!fh_lock_try(fh_fork_lock_word(&all.lock)))
        return;
    for (unsigned i = 0; i < FH_THREAD_OWNERS; i++) {
        struct fh_slab *other = all.caches[i];
        if (other != NULL && other != cache && !other->is_range &&
            other->options.place.parent->self == cache->options.place.parent->self)
            (void)fh_slab_reap(other);
    }
    fh_lock_release(fh_fork_lock_word(&all.lock));
}

/* ---- opening and closing --------------------------------------------------------------------- */

static size_t header_bytes(size_t objects, size_t align)
{
    return fh_align_up(sizeof(struct slab) + (objects + 63) / 64 * sizeof(uint64_t), align);
}

static size_t objects_in(size_t bytes, size_t stride, size_t align)
{
    size_t objects = bytes / stride;
    while (objects > 0 && header_bytes(objects, align) + objects * stride > bytes)
        objects--;
    return objects;
}

/* The size of slabs: see the theory. 0 when no object fits in `most` bytes. */
static size_t choose_bytes(size_t stride, size_t align, size_t most)
{
    size_t best = 0;
    for (size_t bytes = SLAB_LEAST; bytes <= most; bytes *= 2) {
        size_t objects = objects_in(bytes, stride, align);
        if (objects == 0)
            continue;
        best = bytes;
        size_t lost = bytes - objects * stride;
        if ((objects >= 8 && lost <= bytes / 8) || (bytes >= SLAB_USUAL && lost <= bytes / 4) ||
            bytes >= 4 * (size_t)OBJECT_MOST)
            break;
    }
    return best;
}

static int open_place(struct fh_slab *cache)
{
    const struct fh_place_options *place = &cache->options.place;
    if (place->memory == NULL && place->parent != NULL) {
        cache->ground = (struct fh_ground){.parent = *place->parent,
                                           .exhausted = place->exhausted,
                                           .exhausted_context = place->exhausted_context};
        cache->options.place.parent = &cache->ground.parent; /* the copy */
        return 0;
    }
    cache->is_range = true;
    int error = fh_ground_open(&cache->ground, place, slab_bytes(cache),
                               fh_max(cache->options.align, place->memory != NULL ? 1 : 4096));
    cache->range_base = (uintptr_t)cache->ground.base;
    return error;
}

static void open_all(void)
{
    fh_fork_lock_open(&all.lock, NULL, NULL);
}

int fh_slab_init(struct fh_slab *cache, const struct fh_slab_options *options)
{
    if (options == NULL) /* there is no default for the size of an object */
        return fh_error(FH_EINVAL);
    *cache = (struct fh_slab){.options = *options, .is_single_thread = options->is_single_thread};
    const struct fh_allocator *parent = options->place.parent;
    size_t align = options->align == 0 ? FH_ALIGN_DEFAULT : options->align;
    if (options->object_size == 0 || options->object_size > OBJECT_MOST || !fh_is_pow2(align) ||
        align > OBJECT_MOST)
        return fh_error(FH_EINVAL);
    align = fh_max(align, sizeof(void *));
    cache->options.align = align;
    cache->stride = (uint32_t)fh_align_up(options->object_size, align);
    cache->inverse = (((uint64_t)1 << 32) + cache->stride - 1) / cache->stride;
    size_t most = options->place.memory != NULL ? options->place.bytes : options->place.capacity;
    size_t bytes = choose_bytes(cache->stride, align, most == 0 ? SIZE_MAX / 2 : most);
    if (bytes == 0 || (parent != NULL && options->place.memory == NULL && align > bytes))
        return fh_error(FH_EINVAL);
    cache->slab_mask = bytes - 1;
    cache->objects = (uint32_t)objects_in(bytes, cache->stride, align);
    cache->header = (uint32_t)header_bytes(cache->objects, align);
    size_t rest = bytes - cache->header - (size_t)cache->objects * cache->stride;
    cache->colours = align <= COLOUR ? rest / COLOUR + 1 : 1;
    cache->magazine_size = magazine_least(cache);
    cache->is_poisoning = fh_poison_is_on();
    int error = open_place(cache);
    if (error != 0)
        return error;
    cache->owner = (struct fh_thread_owner){
        .serial = UINT64_MAX, .index = FH_THREAD_OWNERS, .thread_ends = thread_ends, .self = cache};
    if (cache->is_single_thread)
        return 0;
    fh_fork_lock_open(&cache->lock, forked, cache);
    fh_thread_owner_open(&cache->owner);
    pthread_once(&once, open_all);
    if (cache->owner.index < FH_THREAD_OWNERS) {
        fh_lock_acquire(fh_fork_lock_word(&all.lock));
        all.caches[cache->owner.index] = cache;
        fh_lock_release(fh_fork_lock_word(&all.lock));
    }
    return 0;
}

/* Every slab of a list is destructed; its memory is kept. */
static void unmake_all(struct fh_slab *cache, struct fh_slab_list *list)
{
    struct slab *slab;
    while ((slab = list->first) != NULL) {
        unmake(cache, slab);
        destruct_all(cache, slab);
        keep_chunk(cache, slab);
    }
}

/* Nobody else is inside. */
static void drop_objects(struct fh_slab *cache)
{
    struct magazine *magazine;
    while ((magazine = cache->full_magazines) != NULL) {
        cache->full_magazines = magazine->next;
        keep_magazine(cache, magazine);
    }
    cache->full_magazine_count = 0;
    for (struct mine *mine = cache->threads; mine != NULL; mine = mine->next) {
        mine->rounds = 0;
        mine->previous->count = 0;
    }
    unmake_all(cache, &cache->full);
    unmake_all(cache, &cache->partial);
    unmake_all(cache, &cache->empty);
    cache->full_count = cache->partial_count = cache->empty_count = cache->free_objects = 0;
}

void fh_slab_reset(struct fh_slab *cache)
{
    lock(cache);
    drop_objects(cache);
    unlock(cache);
    cache->peak_chunks = cache->chunk_count;
}

static void free_chunks(struct fh_slab *cache, struct chunk *chunk)
{
    while (chunk != NULL) {
        struct chunk *next = chunk->next;
        parent_free(cache, chunk, slab_bytes(cache), slab_bytes(cache));
        chunk = next;
    }
}

void fh_slab_destroy(struct fh_slab *cache)
{
    if (cache->stride == 0)
        return;
    if (!cache->is_single_thread) {
        if (cache->owner.index < FH_THREAD_OWNERS) {
            fh_lock_acquire(fh_fork_lock_word(&all.lock));
            all.caches[cache->owner.index] = NULL;
            fh_lock_release(fh_fork_lock_word(&all.lock));
        }
        fh_thread_owner_close(&cache->owner);
        fh_fork_lock_close(&cache->lock);
    }
    drop_objects(cache);
    if (cache->is_range) {
        if (cache->is_poisoning)
            fh_unpoison(cache->ground.base, cache->carved);
        fh_ground_close(&cache->ground);
    } else {
        free_chunks(cache, cache->chunks.first);
        free_chunks(cache, cache->spare_threads);
        for (struct table *table = cache->table, *older; table != NULL; table = older) {
            older = table->older;
            parent_free(cache, table, table_bytes(table->capacity), 0);
        }
    }
    *cache = (struct fh_slab){0};
}

/* ---- looking --------------------------------------------------------------------------------- */

bool fh_slab_owns(struct fh_slab *cache, const void *address)
{
    return slab_of(cache, address) != NULL;
}

size_t fh_slab_usable_size(struct fh_slab *cache, const void *object)
{
    if (object == NULL)
        return 0;
    const struct slab *slab = slab_of(cache, object);
    if (slab == NULL || index_of(cache, slab, object) >= cache->objects) {
        report(cache, object);
        return 0;
    }
    return cache->options.object_size;
}

void fh_slab_statistics(struct fh_slab *cache, struct fh_slab_stats *out)
{
    lock(cache);
    *out = cache->stats;
    out->slabs = cache->partial_count + cache->full_count + cache->empty_count;
    out->objects = out->slabs * cache->objects;
    out->free_in_slabs = cache->free_objects;
    out->full_magazines = cache->full_magazine_count;
    out->magazine_size = cache->magazine_size;
    unlock(cache);
}

int fh_slab_measure(struct fh_slab *cache, struct fh_measure *out)
{
    if (out->size != sizeof *out)
        return fh_error(FH_EINVAL);
    flush_now(cache);
    lock(cache);
    size_t bytes = slab_bytes(cache), size = cache->options.object_size;
    size_t slabs = cache->partial_count + cache->full_count + cache->empty_count;
    *out = (struct fh_measure){.size = sizeof *out};
    out->live_blocks = slabs * cache->objects - cache->free_objects;
    out->live_bytes = out->live_blocks * size;
    out->free_blocks = cache->free_objects;
    out->free_bytes = cache->free_objects * size;
    out->largest_free = cache->free_objects > 0 ? size : 0;
    out->metadata = slabs * (bytes - (size_t)cache->objects * size);
    for (const struct chunk *chunk = cache->spare_threads; chunk != NULL; chunk = chunk->next)
        out->metadata += bytes;
    for (const struct table *table = cache->table; table != NULL; table = table->older) {
        out->metadata += table_bytes(table->capacity);
        out->footprint += table_bytes(table->capacity);
    }
    if (cache->is_range) {
        out->footprint = cache->ground.bytes;
        out->reserved = cache->ground.capacity;
        out->peak_footprint = cache->ground.peak_bytes;
    } else {
        out->reserved = out->footprint += cache->chunk_count * bytes;
        out->peak_footprint = out->footprint + (cache->peak_chunks - cache->chunk_count) * bytes;
    }
    unlock(cache);
    return 0;
}

static int walk_slab(struct fh_slab *cache, struct slab *slab,
                     int (*visit)(void *, const struct fh_block *), void *context)
{
    for (uint32_t i = 0; i < cache->objects; i++) {
        bool is_free = (slab->bits[i / 64] >> i % 64 & 1) != 0;
        struct fh_block block = {object_at(cache, slab, i), cache->options.object_size, !is_free};
        int result = visit(context, &block);
        if (result != 0)
            return result;
    }
    return 0;
}

static int walk_list(struct fh_slab *cache, const struct fh_slab_list *list,
                     int (*visit)(void *, const struct fh_block *), void *context)
{
    int result = 0;
    for (struct slab *slab = list->first; slab != NULL && result == 0; slab = slab->next)
        result = walk_slab(cache, slab, visit, context);
    return result;
}

int fh_slab_walk(struct fh_slab *cache, int (*visit)(void *, const struct fh_block *),
                 void *context)
{
    flush_now(cache);
    lock(cache);
    int result = 0;
    if (cache->is_range) {
        /* One range: in the order of addresses. */
        for (size_t at = 0; at < cache->carved && result == 0; at += slab_bytes(cache)) {
            struct slab *slab = (struct slab *)(void *)(cache->ground.base + at);
            if (slab->owner == cache)
                result = walk_slab(cache, slab, visit, context);
        }
    } else {
        result = walk_list(cache, &cache->full, visit, context);
        if (result == 0)
            result = walk_list(cache, &cache->partial, visit, context);
        if (result == 0)
            result = walk_list(cache, &cache->empty, visit, context);
    }
    unlock(cache);
    return result;
}

static int check_list(const struct fh_slab *cache, const struct fh_slab_list *list,
                      const char *name, size_t count, size_t least, size_t most,
                      size_t *free_objects)
{
    int broken = 0;
    size_t seen = 0;
    for (const struct slab *slab = list->first; slab != NULL; slab = slab->next, seen++) {
        size_t bits = 0;
        for (uint32_t i = 0; i < (cache->objects + 63) / 64; i++)
            bits += (size_t)__builtin_popcountll(slab->bits[i]);
        *free_objects += bits;
        if (slab->owner != cache || slab_of(cache, slab) != slab || bits != slab->free ||
            bits < least || bits > most) {
            fh_broken("slab %p in the %s list of cache %p: %u free, %zu bits set",
                      (const void *)slab, name, (const void *)cache, slab->free, bits);
            broken++;
        }
    }
    if (seen != count) {
        fh_broken("cache %p: %zu slabs in its %s list, %zu counted", (const void *)cache, seen,
                  name, count);
        broken++;
    }
    return broken;
}

static int check_magazine(const struct fh_slab *cache, void *const *objects, size_t count)
{
    int broken = 0;
    for (size_t i = 0; i < count; i++) {
        const struct slab *slab = slab_of(cache, objects[i]);
        uint32_t index = slab == NULL ? UINT32_MAX : index_of(cache, slab, objects[i]);
        if (index >= cache->objects || (slab->bits[index / 64] >> index % 64 & 1) != 0) {
            fh_broken("cache %p: a magazine holds %p, which its slab does not have out",
                      (const void *)cache, objects[i]);
            broken++;
        }
    }
    return broken;
}

int fh_slab_check(struct fh_slab *cache)
{
    size_t free_objects = 0;
    lock(cache);
    int broken = check_list(cache, &cache->full, "full", cache->full_count, 0, 0, &free_objects);
    broken += check_list(cache, &cache->partial, "partial", cache->partial_count, 1,
                         cache->objects - 1, &free_objects);
    broken += check_list(cache, &cache->empty, "empty", cache->empty_count, cache->objects,
                         cache->objects, &free_objects);
    if (free_objects != cache->free_objects) {
        fh_broken("cache %p: %zu objects free in its slabs, %zu counted", (const void *)cache,
                  free_objects, cache->free_objects);
        broken++;
    }
    size_t magazines = 0;
    for (const struct magazine *magazine = cache->full_magazines; magazine != NULL;
         magazine = magazine->next, magazines++)
        broken += check_magazine(cache, magazine->objects, magazine->count);
    if (magazines != cache->full_magazine_count) {
        fh_broken("cache %p: %zu full magazines, %zu counted", (const void *)cache, magazines,
                  cache->full_magazine_count);
        broken++;
    }
    const struct mine *mine = fh_thread_mine(&cache->owner);
    if (mine != NULL) {
        broken += check_magazine(cache, mine->objects, mine->rounds);
        broken += check_magazine(cache, mine->previous->objects, mine->previous->count);
    }
    unlock(cache);
    return broken;
}

/* ---- the interface --------------------------------------------------------------------------- */

FH_ADAPT_ALLOC(slab)
FH_ADAPT_FREE(slab)
FH_ADAPT_USABLE_SIZE(slab)
FH_ADAPT_WHOLE(slab)

/* An object is as large as it is. */
static bool op_resize_in_place(void *self, void *object, size_t old_size, size_t new_size)
{
    (void)old_size;
    size_t usable = fh_slab_usable_size(self, object);
    return usable != 0 && new_size <= usable;
}

static void *op_resize(void *self, void *object, size_t old_size, size_t new_size, size_t align)
{
    const struct fh_slab *cache = self;
    if (object == NULL)
        return fh_slab_alloc_with(self, new_size, align, 0);
    if (align != 0 && (!fh_is_pow2(align) || align > FH_ALIGN_MAX))
        return fh_fail(FH_EINVAL);
    if (align <= cache->options.align && op_resize_in_place(self, object, old_size, new_size))
        return object;
    return fh_fail(FH_ENOMEM);
}

static void op_free_sized(void *self, void *object, size_t size, size_t align)
{
    const struct fh_slab *cache = self;
    if (object != NULL && (size > cache->options.object_size || align > cache->options.align))
        fh_misuse("size-mismatch", object,
                  "freed with a size that objects of this cache don't have");
    else
        fh_slab_free(self, object);
}

static const struct fh_allocator_ops shared_ops = FH_ADAPTER_OPS(
    "slab", FH_ALLOCATOR_ONE_SIZE | FH_ALLOCATOR_THREAD_SAFE, op_resize_in_place, op_usable_size);
static const struct fh_allocator_ops single_ops =
    FH_ADAPTER_OPS("slab-single", FH_ALLOCATOR_ONE_SIZE | FH_ALLOCATOR_SEES_DOUBLE_FREE,
                   op_resize_in_place, op_usable_size);

struct fh_allocator fh_slab_allocator(struct fh_slab *cache)
{
    return (struct fh_allocator){cache->is_single_thread ? &single_ops : &shared_ops, cache};
}
