#!/bin/bash
# Runs each fuzzer of a build for some seconds: scripts/fuzz.sh BUILD_DIR SECONDS. Starts from the committed inputs
# in fuzz/corpus/NAME; what is found new stays in BUILD_DIR/fuzz/corpus, a crash in BUILD_DIR/fuzz/crash-*.
set -euo pipefail
build=$1
seconds=$2
cd "$(dirname "$0")/.."
status=0
for fuzzer in "$build"/fuzz/*; do
    [[ -x $fuzzer && -f $fuzzer ]] || continue
    name=$(basename "$fuzzer")
    found=$build/fuzz/corpus/$name
    mkdir -p "$found"
    seeds=()
    [[ -d fuzz/corpus/$name ]] && seeds=("fuzz/corpus/$name")
    echo "== fuzzing $name for $seconds s"
    if ! "$fuzzer" -max_total_time="$seconds" -print_final_stats=1 -artifact_prefix="$build/fuzz/" \
        "$found" "${seeds[@]}" >"$found.log" 2>&1; then
        tail -40 "$found.log"
        status=1
    fi
    grep -a 'number_of_executed_units' "$found.log" || true
done
exit $status
