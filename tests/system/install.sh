#!/bin/bash
# An installed Freehold is found by pkg-config and by CMake, its command runs from where it lies, and consumers
# built with either work: linked to the API, with malloc replaced, shared and static, after the tree was moved. So does
# a reader of traces, and the command finds the recorder.
set -euo pipefail
build=${BUILD_DIR:?}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cmake --install "$build" --prefix "$work/first" >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
mv "$work/first" "$work/prefix"
prefix=$work/prefix

cat >"$work/consumer.c" <<'END'
#include <freehold/freehold.h>
#include <stdio.h>
#include <stdlib.h>

int main(void)
{
    char *block = malloc(100);
    struct fh_heap *heap = fh_heap_create(NULL);
    char *mine = fh_heap_alloc(heap, 100);
    printf("%s %d\n", fh_usable_size(mine) >= 100 ? "api" : "broken", fh_heap_owns(fh_heap_mine(), block));
    fh_heap_destroy(heap);
    free(block);
    return 0;
}
END
expect() { # WHAT EXPECTED ACTUAL
    if [[ $2 != "$3" ]]; then
        echo "$1: expected '$2', got '$3'"
        exit 1
    fi
}

PKG_CONFIG_PATH=$(dirname "$(find "$prefix" -name freehold.pc)")
export PKG_CONFIG_PATH
libdir=$(pkg-config --variable=libdir freehold)
flags() { pkg-config --cflags --libs "$@"; }
cd "$work"
# shellcheck disable=SC2046
{
    gcc consumer.c $(flags freehold) -o linked
    gcc consumer.c $(flags freehold-malloc) -o replaced
    gcc -static consumer.c $(flags --static freehold-malloc) -o static
}
expect "linked to libfreehold" "api 0" "$(LD_LIBRARY_PATH=$libdir ./linked)"
expect "linked to libfreehold-malloc" "api 1" "$(LD_LIBRARY_PATH=$libdir ./replaced)"
expect "static" "api 1" "$(./static)"
expect "preloaded" "api 1" "$(LD_LIBRARY_PATH=$libdir LD_PRELOAD=$libdir/libfreehold-malloc.so ./linked)"

cat >CMakeLists.txt <<'END'
cmake_minimum_required(VERSION 3.25)
project(consumer C)
find_package(Freehold 0.1 REQUIRED)
add_executable(api consumer.c)
target_link_libraries(api Freehold::freehold)
add_executable(malloc consumer.c)
target_link_libraries(malloc Freehold::freehold-malloc Freehold::freehold)
add_executable(malloc-static consumer.c)
target_link_libraries(malloc-static Freehold::freehold-malloc-static)
END
{ cmake -G Ninja -B out -DCMAKE_PREFIX_PATH="$prefix" . && cmake --build out; } >log 2>&1 || { cat log; exit 1; }
expect "CMake, libfreehold" "api 0" "$(out/api)"
expect "CMake, libfreehold-malloc" "api 1" "$(out/malloc)"
expect "CMake, static" "api 1" "$(out/malloc-static)"

expect "the installed command" "api 1" "$(LD_LIBRARY_PATH=$libdir "$prefix/bin/freehold" run -- "$work/linked")"

if [[ -e $build/libfreehold-trace.so ]]; then
    cat >reader.c <<'END'
#include <freehold/trace.h>
#include <stdio.h>

int main(int argc, char **argv)
{
    struct fh_trace_problem problem;
    struct fh_trace *trace = argc > 1 ? fh_trace_open(argv[1], &problem) : NULL;
    if (trace == NULL)
        return 1;
    const struct fh_trace_info *info = fh_trace_info(trace);
    printf("%s %u\n", info->is_whole ? "whole" : "cut", info->process_count);
    fh_trace_close(trace);
    return 0;
}
END
    # shellcheck disable=SC2046
    {
        gcc reader.c $(flags freehold-trace) -o reader
        gcc reader.c -I"$prefix/include" $(pkg-config --libs-only-L freehold-trace) -l:libfreehold-trace.a -lzstd -o reader-static
    }
    LD_LIBRARY_PATH=$libdir "$prefix/bin/freehold" record -o trace -- "$work/linked" >log 2>&1 || { cat log; exit 1; }
    expect "the installed recorder, and a reader of its trace" "whole 1" "$(LD_LIBRARY_PATH=$libdir ./reader trace)"
    expect "a static reader" "whole 1" "$(./reader-static trace)"
fi
