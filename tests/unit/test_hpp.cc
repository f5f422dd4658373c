/* freehold.hpp: containers live where they were told to, survive moves between heaps, and fail by
 * std::bad_alloc. */
#include <freehold/freehold.hpp>

#include <cstdint>
#include <list>
#include <map>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

extern "C" {
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
}

namespace
{

void test_pmr_containers_live_in_their_heap(void **)
{
    freehold::heap heap;
    freehold::heap_resource memory{heap};
    std::pmr::vector<std::pmr::string> names{&memory};
    for (int i = 0; i < 10000; i++)
        names.emplace_back("a name too long for the string itself, number " + std::to_string(i));
    assert_true(heap.owns(names.data()));
    assert_true(heap.owns(names[9999].data()));
    assert_string_equal(names[1234].c_str(), "a name too long for the string itself, number 1234");
    assert_int_equal(fh_heap_check(heap.get()), 0);
}

void test_allocator_suits_every_container(void **)
{
    freehold::heap heap;
    using pair = std::pair<const int, std::string>;
    std::map<int, std::string, std::less<>, freehold::allocator<pair>> tree{std::less<>{}, heap};
    std::unordered_map<int, std::string, std::hash<int>, std::equal_to<>, freehold::allocator<pair>>
        table{8, std::hash<int>{}, std::equal_to<>{}, heap};
    std::list<int, freehold::allocator<int>> list{freehold::allocator<int>{heap}};
    for (int i = 0; i < 5000; i++) {
        tree[i] = std::to_string(i);
        table[i] = std::to_string(-i);
        list.push_back(i);
    }
    assert_true(heap.owns(&tree[17]));
    assert_true(heap.owns(&table[17]));
    assert_true(heap.owns(&list.front()));
    assert_string_equal(tree[4999].c_str(), "4999");
    assert_string_equal(table[4999].c_str(), "-4999");
}

void test_allocator_goes_with_moved_and_swapped_contents(void **)
{
    freehold::heap one, two;
    using numbers = std::vector<int, freehold::allocator<int>>;
    numbers a(1000, 1, one), b(1000, 2, two);
    const int *data = a.data();
    b = std::move(a);
    assert_ptr_equal(b.data(), data); /* moved, not copied */
    assert_true(one.owns(b.data()));
    numbers c(10, 3, two);
    swap(b, c);
    assert_true(two.owns(b.data()) && one.owns(c.data()));
    numbers copy = c;
    assert_true(copy == c && one.owns(copy.data()));
    assert_true(freehold::allocator<int>{one} != freehold::allocator<char>{two});
    assert_true(freehold::allocator<int>{one} == freehold::allocator<char>{one});
}

struct alignas(256) wide {
    char bytes[256];
};

void test_alignment_is_kept(void **)
{
    freehold::heap heap;
    std::vector<wide, freehold::allocator<wide>> blocks(100, heap);
    assert_int_equal(reinterpret_cast<std::uintptr_t>(blocks.data()) % 256, 0);
    freehold::heap_resource memory{heap};
    for (std::size_t align = 1; align <= 65536; align *= 2) {
        void *block = memory.allocate(10, align);
        assert_int_equal(reinterpret_cast<std::uintptr_t>(block) % align, 0);
        memory.deallocate(block, 10, align);
    }
}

void test_exhaustion_is_bad_alloc(void **)
{
    fh_heap_options options = {};
    options.limit = 8 << 20;
    freehold::heap heap{options};
    std::vector<char, freehold::allocator<char>> bytes{freehold::allocator<char>{heap}};
    bool is_thrown = false;
    try {
        bytes.resize(64 << 20);
    } catch (const std::bad_alloc &) {
        is_thrown = true;
    }
    assert_true(is_thrown);
    is_thrown = false;
    try {
        (void)freehold::allocator<long>{heap}.allocate(SIZE_MAX / 2);
    } catch (const std::bad_array_new_length &) {
        is_thrown = true;
    }
    assert_true(is_thrown);
    is_thrown = false;
    options.canary_bytes = 17;
    try {
        freehold::heap wrong{options};
    } catch (const std::bad_alloc &) {
        is_thrown = true;
    }
    assert_true(is_thrown);
}

void test_resource_over_any_manager(void **)
{
    freehold::heap heap;
    freehold::allocator_resource memory{fh_heap_allocator(heap.get())},
        same{fh_heap_allocator(heap.get())};
    freehold::heap_resource other{heap};
    assert_true(memory.is_equal(same));
    assert_false(memory.is_equal(other));
    std::pmr::list<int> list{&memory};
    list.assign(1000, 7);
    assert_true(heap.owns(&list.back()));
}

void test_without_a_heap_each_thread_uses_its_own(void **)
{
    std::vector<int, freehold::allocator<int>> filled_elsewhere;
    std::thread([&] { filled_elsewhere.assign(100000, 5); }).join();
    assert_int_equal(filled_elsewhere[99999], 5);
    freehold::heap_resource one, two;
    assert_true(one.is_equal(two));
    std::pmr::string text("longer than the small buffer of a string", &one);
    assert_int_equal(text.size(), 40);
}

void test_heap_moves(void **)
{
    freehold::heap heap;
    fh_heap *plain = heap.get();
    freehold::heap moved{std::move(heap)};
    assert_ptr_equal(moved.get(), plain);
    freehold::heap third;
    third = std::move(moved);
    assert_ptr_equal(third.get(), plain);
    void *block = fh_heap_alloc(third.get(), 100);
    assert_non_null(block);
    third.reset();
    fh_measure measure = {};
    measure.size = sizeof measure;
    assert_int_equal(fh_heap_measure(third.get(), &measure), 0);
    assert_int_equal(measure.live_blocks, 0);
}

} // namespace

int main()
{
    const CMUnitTest tests[] = {
        cmocka_unit_test(test_pmr_containers_live_in_their_heap),
        cmocka_unit_test(test_allocator_suits_every_container),
        cmocka_unit_test(test_allocator_goes_with_moved_and_swapped_contents),
        cmocka_unit_test(test_alignment_is_kept),
        cmocka_unit_test(test_exhaustion_is_bad_alloc),
        cmocka_unit_test(test_resource_over_any_manager),
        cmocka_unit_test(test_without_a_heap_each_thread_uses_its_own),
        cmocka_unit_test(test_heap_moves),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
