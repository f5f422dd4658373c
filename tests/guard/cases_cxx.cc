// C++'s half of the cases: its ways to allocate and to free, under names that C can call.
#include <cstddef>
#include <new>

extern "C" {
#include "cases.h"

void *cxx_new(size_t size)
{
    return ::operator new(size);
}

void *cxx_new_array(size_t size)
{
    return ::operator new[](size);
}

void *cxx_new_aligned(size_t size, size_t align)
{
    return ::operator new(size, std::align_val_t(align));
}

void cxx_delete(void *block)
{
    ::operator delete(block);
}

void cxx_delete_array(void *block)
{
    ::operator delete[](block);
}

void cxx_delete_sized(void *block, size_t size)
{
    ::operator delete(block, size);
}

void cxx_delete_array_sized(void *block, size_t size)
{
    ::operator delete[](block, size);
}

void cxx_delete_aligned(void *block, size_t align)
{
    ::operator delete(block, std::align_val_t(align));
}
}
