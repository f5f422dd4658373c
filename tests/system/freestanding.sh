#!/bin/bash
# The freestanding allocators run in a program without libc, and need nothing from outside but what its header says.
set -uo pipefail
build=${BUILD_DIR:?}
status=0
if [[ ! -x $build/tests/freestanding ]]; then
    echo "the freestanding program was not built"
    exit 77
fi
"$build/tests/freestanding"
result=$?
if ((result != 0)); then
    echo "the freestanding program ends with $result; tests/freestanding/freestanding.c says which allocator that is"
    status=1
fi
# Each object is in the program, and its init answers there: what the archive leaves out would be linked nowhere.
linked=$(nm --defined-only "$build/tests/freestanding")
for name in fh_fixed_init fh_arena_init fh_pool_init fh_fit_init fh_buddy_init fh_tlsf_init fh_half_fit_init; do
    if ! grep -q " T $name\$" <<<"$linked"; then
        echo "the freestanding program has no $name"
        status=1
    fi
done
nm --defined-only "$build/libfreehold-freestanding.a" 2>/dev/null | awk 'NF == 3 { print $3 }' | sort -u >"$build/freestanding.defined"
needed=$(nm --undefined-only "$build/libfreehold-freestanding.a" 2>/dev/null | awk '$1 == "U" { print $2 }' | sort -u |
    comm -23 - "$build/freestanding.defined" | grep -vxE 'memcpy|memset|memmove|fh_misuse|fh_broken')
if [[ -n $needed ]]; then
    echo "the freestanding allocators need from outside:" $needed
    status=1
fi
exit $status
