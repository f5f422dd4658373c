#!/bin/bash
# uaf=sweep: what an attacker makes of a use after free. Each case is exploited without the sweep (or the case
# would prove nothing) and harmless with it; programs without an error run as ever, and memory is used again.
. "$(dirname "$0")/lib.sh"

if ! is_freehold; then
    skip "the modes are Freehold's own"
    exit 77
fi
attack=$(program sweep_uaf)

# ends STATUS SETTINGS CASE
ends() {
    local status=0
    claims=$((claims + 1))
    FREEHOLD=$2 timeout 100 "${under[@]}" "$attack" "$3" >"$work/out" 2>&1 || status=$?
    ((status == $1)) ||
        not_so "case $3 under FREEHOLD=$2 to end with status $1" "$(status_in_words $status)" "$work/out"
}

# Page guards would catch some of them first; they have their own tests.
without=mode=hardened,guard=off,on_error=continue
swept=$without,uaf=sweep

for case in global thread-local stack heap next inside realloc twice thread; do
    ends 3 "$without" "$case"
done
for case in global thread-local stack heap next inside large realloc twice thread beside-much; do
    ends 0 "$swept" "$case"
done
ends 0 mode=hardened,uaf=sweep,on_error=continue large
ends 0 mode=debug,wrappers=off,uaf=sweep,guard=off,on_error=continue global
ends 0 uaf=sweep,guard=off,on_error=continue global

for case in reuse reuse-large good fork; do
    ends 0 "$swept" "$case"
    holds "a program without an error to be told nothing: $(head -c 300 "$work/out")" test ! -s "$work/out"
done
finish
