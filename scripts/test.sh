#!/bin/bash
# Builds and tests: scripts/test.sh [quick|all]. The last line is `N passed, N failed`; the status is 1 when
# anything failed, and a build that breaks is one failure.
#
#   quick  the release build and its quick tests
#   all    also its slow tests, builds by gcc and clang where a warning is an error, the quick unit tests under
#          AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer, and a short round of each fuzzer
set -uo pipefail
cd "$(dirname "$0")/.."
tier=${1:-quick}
case $tier in quick | all) ;; *)
    echo "test: '$tier' is neither quick nor all" >&2
    exit 2
    ;;
esac
jobs=${JOBS:-$(nproc)}
passed=0
failed=0
failures=()

fail() {
    failed=$((failed + 1))
    failures+=("$1")
}

# build PRESET [CMAKE OPTION...]
build() {
    local preset=$1 log=build/$1.log
    shift
    mkdir -p build
    echo "== building $preset"
    if ! { cmake --preset "$preset" "$@" && cmake --build --preset "$preset" -j "$jobs"; } >"$log" 2>&1; then
        tail -60 "$log"
        fail "build $preset"
        return 1
    fi
}

# Reads one count of the <testsuite> line that ctest wrote.
count() {
    tr '\n' ' ' <"$1" | grep -o '<testsuite [^>]*' | grep -o "$2=\"[0-9]*\"" | grep -o '[0-9]*' || echo 0
}

# test_preset PRESET [CTEST OPTION...]
test_preset() {
    local preset=$1 report=$PWD/build/$1/junit.xml
    shift
    rm -f "$report"
    echo "== testing $preset"
    ctest --preset "$preset" -j "$jobs" --output-junit "$report" "$@"
    if [[ ! -f $report ]]; then
        fail "ctest $preset left no report"
        return
    fi
    local all bad skipped
    all=$(count "$report" tests)
    bad=$(count "$report" failures)
    skipped=$(($(count "$report" skipped) + $(count "$report" disabled)))
    passed=$((passed + all - bad - skipped))
    failed=$((failed + bad))
    if ((bad > 0)); then
        failures+=("$bad of $preset")
    fi
}

if [[ $tier == quick ]]; then
    build release && test_preset release -L quick
else
    build release -DFREEHOLD_WERROR=ON && test_preset release
    build clang && passed=$((passed + 1))
    for preset in asan ubsan tsan; do
        build "$preset" && test_preset "$preset" -L quick
    done
    if build fuzz; then
        scripts/fuzz.sh build/fuzz "${FUZZ_SECONDS:-10}"
        status=$?
        if ((status == 0)); then passed=$((passed + 1)); else fail fuzz; fi
    fi
fi

for name in "${failures[@]}"; do
    echo "failed: $name"
done
echo "$passed passed, $failed failed"
((failed == 0 && passed > 0))
