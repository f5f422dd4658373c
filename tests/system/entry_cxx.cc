/*
 * What each form of C++ operator new and delete promises ([new.delete] of C++17, sized forms of
 * C++14): alignment, bad_alloc, nothrow, the new_handler loop, and that each form of delete takes
 * what the matching new gave.
 *
 * The operators are called by name: a new-expression may be left out by the compiler, a call may
 * not.
 */
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <map>
#include <memory>
#include <new>
#include <string>
#include <thread>
#include <unistd.h>
#include <vector>

static unsigned claims_made, claims_failed;

#define CLAIM(claim, text)                                                                         \
    do {                                                                                           \
        claims_made++;                                                                             \
        if (!(claim)) {                                                                            \
            claims_failed++;                                                                       \
            std::fprintf(stderr, "entry_cxx:%d: FAILED: expected %s\n", __LINE__, text);           \
        }                                                                                          \
    } while (0)

static std::size_t opaque(std::size_t size)
{
    __asm__ volatile("" : "+r"(size));
    return size;
}

static bool is_aligned(void *ptr, std::size_t align)
{
    return ptr != nullptr && reinterpret_cast<std::uintptr_t>(ptr) % align == 0;
}

static void every_form_allocates_and_frees()
{
    for (std::size_t size = 0; size < 300000; size = size * 2 + 1) {
        void *plain = ::operator new(opaque(size));
        void *array = ::operator new[](opaque(size));
        void *quiet = ::operator new(opaque(size), std::nothrow);
        void *quiet_array = ::operator new[](opaque(size), std::nothrow);

        CLAIM(is_aligned(plain, size > 8 ? 16 : 8), "new aligned");
        CLAIM(is_aligned(array, size > 8 ? 16 : 8), "new[] aligned");
        CLAIM(is_aligned(quiet, size > 8 ? 16 : 8), "nothrow new aligned");
        CLAIM(is_aligned(quiet_array, size > 8 ? 16 : 8), "nothrow new[] aligned");
        CLAIM(plain != array && quiet != quiet_array,
              "each new to give a block of its own, also of no bytes");
        std::memset(plain, 1, size);
        std::memset(array, 2, size);
        std::memset(quiet, 3, size);
        std::memset(quiet_array, 4, size);
        CLAIM(size == 0 || static_cast<unsigned char *>(plain)[size - 1] == 1,
              "blocks not to overlap");
        ::operator delete(plain);
        ::operator delete[](array, size);
        ::operator delete(quiet, std::nothrow);
        ::operator delete[](quiet_array, std::nothrow);
        ::operator delete(::operator new(opaque(size)), size);
    }
    ::operator delete(nullptr);
    ::operator delete[](nullptr);
    ::operator delete (nullptr, std::size_t{10});
    ::operator delete (nullptr, std::align_val_t{64});
}

static void every_aligned_form_aligns()
{
    for (std::size_t align = 32; align <= 1 << 20; align *= 2) {
        for (std::size_t size :
             {std::size_t{0}, std::size_t{1}, std::size_t{100}, align, std::size_t{100000}}) {
            std::align_val_t wanted{align};
            void *plain = ::operator new(opaque(size), wanted);
            void *array = ::operator new[](opaque(size), wanted);
            void *quiet = ::operator new(opaque(size), wanted, std::nothrow);
            void *quiet_array = ::operator new[](opaque(size), wanted, std::nothrow);

            CLAIM(is_aligned(plain, align), "aligned new aligned");
            CLAIM(is_aligned(array, align), "aligned new[] aligned");
            CLAIM(is_aligned(quiet, align), "aligned nothrow new aligned");
            CLAIM(is_aligned(quiet_array, align), "aligned nothrow new[] aligned");
            std::memset(plain, 1, size);
            std::memset(array, 2, size);
            std::memset(quiet, 3, size);
            std::memset(quiet_array, 4, size);
            ::operator delete(plain, wanted);
            ::operator delete[](array, size, wanted);
            ::operator delete(quiet, wanted, std::nothrow);
            ::operator delete[](quiet_array, wanted, std::nothrow);
            ::operator delete(::operator new(opaque(size), wanted), size, wanted);
            ::operator delete[](::operator new[](opaque(size), wanted), wanted);
        }
    }
}

static bool is_freehold()
{
#ifdef FH_TESTS_STATIC
    return true;
#else
    return dlsym(RTLD_DEFAULT, "fh_heap_check") != nullptr;
#endif
}

template <typename Call> static bool throws_bad_alloc(Call call)
{
    try {
        call();
    } catch (const std::bad_alloc &) {
        return true;
    }
    return false;
}

static void impossible_sizes_throw_or_give_null()
{
    for (std::size_t size :
         {SIZE_MAX, SIZE_MAX - 100, SIZE_MAX / 2 + 1, SIZE_MAX / 2, SIZE_MAX >> 8}) {
        /* libstdc++ rounds the size of its aligned forms up past the end of size_t. */
        std::align_val_t align{size > SIZE_MAX / 2 + 1 && !is_freehold() ? 1U : 64U};
        CLAIM(throws_bad_alloc([=] { return ::operator new(opaque(size)); }),
              "new of too much to throw bad_alloc");
        CLAIM(throws_bad_alloc([=] { return ::operator new[](opaque(size)); }),
              "new[] of too much to throw bad_alloc");
        CLAIM(throws_bad_alloc([=] { return ::operator new(opaque(size), align); }),
              "aligned new of too much to throw bad_alloc");
        CLAIM(throws_bad_alloc([=] { return ::operator new[](opaque(size), align); }),
              "aligned new[] of too much to throw bad_alloc");
        CLAIM(::operator new(opaque(size), std::nothrow) == nullptr,
              "nothrow new of too much to give null");
        CLAIM(::operator new[](opaque(size), std::nothrow) == nullptr,
              "nothrow new[] of too much to give null");
        CLAIM(::operator new(opaque(size), align, std::nothrow) == nullptr,
              "aligned nothrow new of too much to give null");
        CLAIM(::operator new[](opaque(size), align, std::nothrow) == nullptr,
              "aligned nothrow new[] of too much to give null");
    }
}

static int handler_calls;

static void handler_that_gives_up()
{
    if (++handler_calls == 3)
        std::set_new_handler(nullptr);
}

struct own_error : std::bad_alloc {
};

static void handler_that_throws()
{
    handler_calls++;
    throw own_error();
}

static void the_new_handler_is_called_until_it_gives_up()
{
    std::align_val_t align{256};

    handler_calls = 0;
    std::set_new_handler(handler_that_gives_up);
    CLAIM(throws_bad_alloc([] { return ::operator new(opaque(SIZE_MAX / 2)); }),
          "new to throw bad_alloc when the handler is gone");
    CLAIM(handler_calls == 3, "the handler to be called as long as it stays installed");
    handler_calls = 0;
    std::set_new_handler(handler_that_gives_up);
    CLAIM(::operator new(opaque(SIZE_MAX / 2), std::nothrow) == nullptr,
          "nothrow new to give null in the end");
    CLAIM(handler_calls == 3, "nothrow new to call the handler too");
    handler_calls = 0;
    std::set_new_handler(handler_that_gives_up);
    CLAIM(throws_bad_alloc([=] { return ::operator new(opaque(SIZE_MAX / 2), align); }),
          "aligned new to throw bad_alloc when the handler is gone");
    CLAIM(handler_calls == 3, "aligned new to call the handler too");

    handler_calls = 0;
    std::set_new_handler(handler_that_throws);
    bool is_own = false;
    try {
        ::operator delete(::operator new(opaque(SIZE_MAX / 2)));
    } catch (const own_error &) {
        is_own = true;
    }
    CLAIM(is_own && handler_calls == 1, "what the handler throws to come out of new");
    CLAIM(::operator new(opaque(SIZE_MAX / 2), std::nothrow) == nullptr,
          "nothrow new to give null when the handler throws");
    std::set_new_handler(nullptr);
}

static void the_standard_library_works()
{
    std::map<std::string, std::vector<int>> table;
    std::vector<std::thread> threads;

    for (int i = 0; i < 2000; i++)
        table["a key that is too long for the short string " + std::to_string(i % 97)].push_back(i);
    std::size_t total = 0;
    for (const auto &entry : table)
        total += entry.second.size();
    CLAIM(table.size() == 97 && total == 2000,
          "a map of strings and vectors to hold what was put in");
    for (int i = 0; i < 4; i++) {
        threads.emplace_back([] {
            for (int round = 0; round < 1000; round++) {
                auto shared =
                    std::make_shared<std::vector<std::string>>(round % 50, std::string(100, 'x'));
                if (shared->size() != static_cast<std::size_t>(round % 50))
                    std::abort();
            }
        });
    }
    for (auto &thread : threads)
        thread.join();
    struct alignas(128) wide {
        char bytes[128];
    };
    std::vector<wide> wides(100);
    CLAIM(is_aligned(wides.data(), 128), "a vector of over-aligned objects to be aligned");
}

int main()
{
    alarm(60);
    every_form_allocates_and_frees();
    every_aligned_form_aligns();
    impossible_sizes_throw_or_give_null();
    the_new_handler_is_called_until_it_gives_up();
    the_standard_library_works();
    std::printf("entry_cxx: %u claims, %u failed\n", claims_made, claims_failed);
    return claims_failed == 0 ? 0 : 1;
}
