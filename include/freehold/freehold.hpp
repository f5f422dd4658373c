/*
 * freehold.hpp: Freehold's heaps for C++17 programs: a heap that ends with its scope, memory
 * resources for std::pmr containers, and an allocator for all others.
 *
 * Use it to keep a subsystem's containers together and to free them in one go, or to place
 * containers over any fh_allocator. Plain new and std::allocator are Freehold's already where
 * libfreehold-malloc is loaded: for them nothing of this is needed.
 *
 *     freehold::heap heap;
 *     freehold::heap_resource memory{heap};
 *     std::pmr::vector<std::pmr::string> names{&memory};
 *     std::map<int, long, std::less<>, freehold::allocator<std::pair<const int, long>>>
 * counts{heap}; names.emplace_back("…");                  // both live in `heap`
 *
 * Whatever was made from a heap must be destroyed before it. Everything throws std::bad_alloc for
 * want of memory. Heaps may be used by several threads at once, unless made with is_single_thread;
 * the objects here hold no state of their own but a pointer.
 */
#ifndef FREEHOLD_FREEHOLD_HPP
#define FREEHOLD_FREEHOLD_HPP

#include <freehold/allocator.h>
#include <freehold/heap.h>

#include <cstddef>
#include <limits>
#include <memory_resource>
#include <new>
#include <type_traits>
#include <utility>

namespace freehold
{

/* A first-class heap, destroyed with all its blocks at the end of its scope. Can be moved, not
 * copied. */
class heap
{
  public:
    heap() : heap_(fh_heap_create(nullptr))
    {
        check();
    }
    /* As fh_heap_create; options.size is filled in. A wrong option is std::bad_alloc too. */
    explicit heap(fh_heap_options options) : heap_(create(options))
    {
        check();
    }
    heap(heap &&other) noexcept : heap_(std::exchange(other.heap_, nullptr))
    {
    }
    heap &operator=(heap &&other) noexcept
    {
        std::swap(heap_, other.heap_);
        return *this;
    }
    heap(const heap &) = delete;
    heap &operator=(const heap &) = delete;
    ~heap()
    {
        fh_heap_destroy(heap_);
    }

    fh_heap *get() const noexcept
    {
        return heap_;
    }
    /* Frees all blocks and keeps the heap. O(runs). */
    void reset() noexcept
    {
        fh_heap_reset(heap_);
    }
    bool owns(const void *address) const noexcept
    {
        return fh_heap_owns(heap_, address);
    }

  private:
    static fh_heap *create(fh_heap_options &options)
    {
        options.size = sizeof options;
        return fh_heap_create(&options);
    }
    void check() const
    {
        if (heap_ == nullptr)
            throw std::bad_alloc();
    }

    fh_heap *heap_;
};

namespace detail
{

/* From a heap, or (nullptr) the calling thread's own. */
inline void *allocate(fh_heap *heap, std::size_t bytes, std::size_t align)
{
    void *block = heap != nullptr ? fh_heap_aligned_alloc(heap, align, bytes)
                                  : fh_aligned_alloc(align, bytes);
    if (block == nullptr)
        throw std::bad_alloc();
    return block;
}

inline void deallocate(fh_heap *heap, void *block) noexcept
{
    if (heap != nullptr)
        fh_heap_free(heap, block);
    else
        fh_free_any(block);
}

} // namespace detail

/* A memory resource over a heap; without one over each calling thread's own (any thread may
 * deallocate). Two are equal when they stand for the same heap. */
class heap_resource final : public std::pmr::memory_resource
{
  public:
    heap_resource() noexcept = default;
    explicit heap_resource(fh_heap *heap) noexcept : heap_(heap)
    {
    }
    explicit heap_resource(const heap &owner) noexcept : heap_(owner.get())
    {
    }

    fh_heap *get() const noexcept
    {
        return heap_;
    }

  private:
    void *do_allocate(std::size_t bytes, std::size_t align) override
    {
        return detail::allocate(heap_, bytes, align);
    }
    void do_deallocate(void *block, std::size_t, std::size_t) override
    {
        detail::deallocate(heap_, block);
    }
    bool do_is_equal(const std::pmr::memory_resource &other) const noexcept override
    {
        auto *same = dynamic_cast<const heap_resource *>(&other);
        return same != nullptr && same->heap_ == heap_;
    }

    fh_heap *heap_ = nullptr;
};

/* A memory resource over any manager that offers fh_allocator, which must outlive it. Thread-safe
 * if the manager is. */
class allocator_resource final : public std::pmr::memory_resource
{
  public:
    explicit allocator_resource(const fh_allocator &manager) noexcept : manager_(manager)
    {
    }

  private:
    void *do_allocate(std::size_t bytes, std::size_t align) override
    {
        void *block = fh_alloc_aligned(&manager_, bytes, align);
        if (block == nullptr)
            throw std::bad_alloc();
        return block;
    }
    void do_deallocate(void *block, std::size_t, std::size_t) override
    {
        fh_free(&manager_, block);
    }
    bool do_is_equal(const std::pmr::memory_resource &other) const noexcept override
    {
        auto *same = dynamic_cast<const allocator_resource *>(&other);
        return same != nullptr && same->manager_.self == manager_.self &&
               same->manager_.ops == manager_.ops;
    }

    fh_allocator manager_;
};

/* An allocator as the standard's containers want it. It goes with the elements when containers are
 * moved, swapped or assigned, so that none of these copies for the allocator's sake. */
template <class T> class allocator
{
  public:
    using value_type = T;
    using is_always_equal = std::false_type;
    using propagate_on_container_copy_assignment = std::true_type;
    using propagate_on_container_move_assignment = std::true_type;
    using propagate_on_container_swap = std::true_type;

    allocator() noexcept = default;
    allocator(fh_heap *heap) noexcept : heap_(heap)
    {
    }
    allocator(const heap &owner) noexcept : heap_(owner.get())
    {
    }
    template <class U> allocator(const allocator<U> &other) noexcept : heap_(other.get())
    {
    }

    T *allocate(std::size_t count)
    {
        if (count > std::numeric_limits<std::size_t>::max() / sizeof(T))
            throw std::bad_array_new_length();
        return static_cast<T *>(detail::allocate(heap_, count * sizeof(T), alignof(T)));
    }
    void deallocate(T *block, std::size_t) noexcept
    {
        detail::deallocate(heap_, block);
    }

    fh_heap *get() const noexcept
    {
        return heap_;
    }

  private:
    fh_heap *heap_ = nullptr;
};

template <class T, class U> bool operator==(const allocator<T> &a, const allocator<U> &b) noexcept
{
    return a.get() == b.get();
}

template <class T, class U> bool operator!=(const allocator<T> &a, const allocator<U> &b) noexcept
{
    return !(a == b);
}

} // namespace freehold

#endif
