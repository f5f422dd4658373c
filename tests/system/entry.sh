#!/bin/bash
# The entry points: the C family and C++'s operators by preload, and both in statically linked programs.
. "$(dirname "$0")/lib.sh"

passes "each C entry point keeps its promises" "${under[@]}" "$(program entry)"
passes "each operator new and delete keeps its promises" "${under[@]}" "$(program entry_cxx)"

if is_freehold; then
    # The whole family or glibc's malloc.o comes in too and the linker sees names twice.
    static=("$BUILD_DIR/libfreehold-malloc.a" "$BUILD_DIR/libfreehold.a")
    whole=(-Wl,--whole-archive "${static[0]}" -Wl,--no-whole-archive "${static[1]}")
    flags=(-DFH_TESTS_STATIC -O1 -g -fno-builtin -static -pthread -I"$SOURCE_DIR/include")
    for order in archives whole; do
        libraries=("${static[@]}")
        [[ $order == whole ]] && libraries=("${whole[@]}")
        for name in entry stress; do
            passes "a static C program links ($name, $order)" \
                cc -std=gnu17 "${flags[@]}" "$SOURCE_DIR/tests/system/$name.c" "${libraries[@]}" -o "$work/static_$name"
        done
        passes "a static C++ program links ($order)" \
            c++ -std=c++17 "${flags[@]}" "$SOURCE_DIR/tests/system/entry_cxx.cc" "${libraries[@]}" -o "$work/static_cxx"
        passes "the static C program keeps its promises ($order)" "$work/static_entry"
        passes "the static C++ program keeps its promises ($order)" "$work/static_cxx"
        passes "the static program stands the stress ($order)" "$work/static_stress" --ops 50000
        holds "the static program's malloc is Freehold's ($order)" \
            bash -c "nm '$work/static_entry' | grep -q ' [Tt] fh_heap_check'"
        holds "glibc's malloc is not in the static program ($order)" \
            bash -c "! nm '$work/static_entry' | grep -q '_int_malloc'"
    done
    for name in malloc free calloc realloc reallocarray aligned_alloc posix_memalign memalign valloc pvalloc cfree \
        malloc_usable_size malloc_trim mallinfo mallinfo2 malloc_info mallopt malloc_stats free_sized \
        free_aligned_sized _Znwm _Znam _ZdlPv _ZdaPv _ZdlPvm _ZdaPvm _ZnwmRKSt9nothrow_t _ZnamRKSt9nothrow_t \
        _ZdlPvRKSt9nothrow_t _ZdaPvRKSt9nothrow_t _ZnwmSt11align_val_t _ZnamSt11align_val_t \
        _ZnwmSt11align_val_tRKSt9nothrow_t _ZnamSt11align_val_tRKSt9nothrow_t _ZdlPvSt11align_val_t \
        _ZdaPvSt11align_val_t _ZdlPvmSt11align_val_t _ZdaPvmSt11align_val_t \
        _ZdlPvSt11align_val_tRKSt9nothrow_t _ZdaPvSt11align_val_tRKSt9nothrow_t; do
        holds "the library exports $name" \
            bash -c "nm -D --defined-only '$FREEHOLD_LIB' | grep -qE ' [TWi] $name(@|\$)'"
    done
    holds "the library needs nothing of C++" bash -c "! readelf -d '$FREEHOLD_LIB' | grep -q 'libstdc'"
fi
finish
