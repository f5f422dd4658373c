#!/bin/bash
# The libraries export what their committed lists say, no more and no less, and depend on libc alone; that of the traces
# on libzstd too.
set -uo pipefail
source_dir=${SOURCE_DIR:?} build=${BUILD_DIR:?}
status=0

expect_needed() { # LIBRARY NEEDED...
    local library=$1 found
    shift
    found=$(readelf -d "$build/$library" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' | sort | xargs)
    if [[ $found != "$(printf '%s\n' "$@" | sort | xargs)" ]]; then
        echo "$library needs '$found', expected '$*'"
        status=1
    fi
}

for name in libfreehold libfreehold-malloc libfreehold-debug libfreehold-record libfreehold-trace; do
    if [[ ! -e $build/$name.so ]]; then
        echo "$name.so was not built"
        exit 1
    fi
    "$source_dir/scripts/symbols.sh" check "$build/$name.so" "$source_dir/cmake/symbols/${name#lib}.list" || status=1
    if readelf -d "$build/$name.so" | grep -q TEXTREL; then
        echo "$name.so has text relocations"
        status=1
    fi
    # What is undefined must be libc's (it has a GLIBC version), ours, or weak.
    nm -D --undefined-only --with-symbol-versions "$build/$name.so" |
        awk '$1 != "w" && $1 != "v" && $2 !~ /@(GLIBC|FREEHOLD)_|^ZSTD_/ { print $2 }' >"$build/$name.undefined"
    if [[ -s $build/$name.undefined ]]; then
        echo "$name.so needs symbols that are neither libc's nor zstd's nor ours:"
        cat "$build/$name.undefined"
        status=1
    fi
done
expect_needed libfreehold.so libc.so.6
expect_needed libfreehold-malloc.so libfreehold.so.0 libc.so.6
expect_needed libfreehold-debug.so libfreehold.so.0 libc.so.6
expect_needed libfreehold-record.so libc.so.6
expect_needed libfreehold-trace.so libzstd.so.1 libc.so.6
exit $status
