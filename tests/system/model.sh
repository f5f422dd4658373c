#!/bin/bash
# The shadow model finds what it is for: planted faults in another malloc, and none where there is none.
. "$(dirname "$0")/lib.sh"

stress=$(program stress)
faulty=$(program libfaulty)
small=(--seed 7 --threads 1 --ops 60000 --max-size 20K)
passes "the malloc without a fault to pass" env LD_PRELOAD="$faulty" FAULT=none "$stress" "${small[@]}"

# finds FAULT WORDS: the model must end with a failure that names what is wrong, before the heap breaks down over it.
finds() {
    local status=0
    claims=$((claims + 1))
    { (ulimit -c 0; FAULT=$1 LD_PRELOAD=$faulty exec timeout 60 "$stress" "${small[@]}" >"$work/out" 2>&1); } 2>/dev/null ||
        status=$?
    if ((status != 1)) || ! grep -q "FAILED: .*$2" "$work/out" || ! grep -q 'repeat with: .*--seed 7' "$work/out"; then
        not_so "the model to find the planted fault '$1' as '$2', and to print its seed" "$(status_in_words $status)" "$work/out"
    fi
}
finds overlap "overlaps a live block"
finds dirty "expected calloc to hand out zeroes"
finds align "aligned to"
finds lost "over realloc"
finds usable "malloc_usable_size >="
finds errno "to succeed"
finish
