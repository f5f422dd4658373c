#!/bin/bash
# What is found in blocks that no guard page surrounds (guard=off), by canaries, states and fills, in hardened and debug mode; and that
# their good twins are silent.
. "$(dirname "$0")/lib.sh"
is_freehold || exit 77
slots=$(program slots)

for mode in hardened debug; do
    for row in overflow:heap-buffer-overflow overflow_large:heap-buffer-overflow after_free:heap-use-after-free twice:double-free \
        inside:interior-free; do
        name=${row%:*} kind=${row#*:} status=0
        claims=$((claims + 2))
        settings=mode=$mode,guard=off,wrappers=off
        { (ulimit -c 0; FREEHOLD=$settings exec timeout 60 "${under[@]}" "$slots" "$name" >"$work/out" 2>"$work/errors"); } 2>/dev/null ||
            status=$?
        { ((status == 134)) && grep -q "ERROR: $kind on address" "$work/errors"; } ||
            not_so "$mode: $name to be told as $kind" "$(status_in_words $status)" "$work/errors"
        status=0
        FREEHOLD=$settings timeout 60 "${under[@]}" "$slots" "$name" good >"$work/out" 2>"$work/errors" || status=$?
        { ((status == 0)) && [[ ! -s $work/errors ]]; } ||
            not_so "$mode: the good twin of $name to be silent" "$(status_in_words $status)" "$work/errors"
    done
done
finish
