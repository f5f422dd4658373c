#!/bin/bash
# The fast path has not grown: instructions a malloc/free pair, counted by callgrind, are within 2 % of
# bench/baseline/instructions.txt. Only a release build by gcc is compared: the baseline is one's.
. "$(dirname "$0")/lib.sh"

cache=$BUILD_DIR/CMakeCache.txt
if ! is_freehold || ! grep -qs '^CMAKE_BUILD_TYPE:.*=Release' "$cache" || ! grep -qs '^CMAKE_C_COMPILER:.*cc' "$cache"; then
    skip "not a release build of Freehold by gcc"
    exit 77
fi
if ! command -v valgrind >/dev/null; then
    skip "valgrind is not installed"
    exit 77
fi
VERBOSE=1 FREEHOLD_BENCH_BUILD=$work/bench \
    passes "a malloc/free pair takes no more instructions than it did" \
    "$SOURCE_DIR/bench/instructions.sh" --check "$FREEHOLD_LIB"
finish
