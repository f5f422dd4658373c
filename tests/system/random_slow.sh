#!/bin/bash
# Where the heap lies can't be guessed: in 10,000 starts of a program few first blocks have the same address, with the
# kernel's own randomisation of addresses and without it.
#
# Of n addresses drawn from 2^24 equally likely ones, n² / 2^25 pairs are expected to be equal: 3 for 10,000; the
# probability of more than 8 is 0.4 %, with the 2^25 that there are at least (pages/window.c) 10^-5.
. "$(dirname "$0")/lib.sh"
is_freehold || exit 77

starts=10000
most=8

# pairs FILE: how many pairs of its lines are equal.
pairs() {
    sort "$1" | uniq -c | awk '{ pairs += $1 * ($1 - 1) / 2 } END { print pairs + 0 }'
}

# spreads CLAIM COMMAND…: the addresses that the command starts with are spread out.
spreads() {
    local claim=$1 found
    shift
    claims=$((claims + 1))
    for ((i = 0; i < starts; i++)); do
        "$@"
    done >"$work/addresses" 2>"$work/errors" || true
    found=$(pairs "$work/addresses")
    echo "$claim: $found of $(wc -l <"$work/addresses") starts' addresses are pairs"
    if [[ $(wc -l <"$work/addresses") != "$starts" ]]; then
        not_so "$claim" "not every start printed an address" "$work/errors"
    elif ((found > most)); then
        not_so "$claim" "$found pairs of addresses are the same, at most $most should be"
    fi
}

printf '%s\n' a b a c b a >"$work/known"
claims=$((claims + 1))
[[ $(pairs "$work/known") == 4 ]] || not_so "pairs are counted" "$(pairs "$work/known") of a known file, not 4"

placed=$(program placed)
export FREEHOLD=mode=hardened
spreads "hardened" env LD_PRELOAD="$FREEHOLD_LIB" "$placed"
if setarch -R true 2>/dev/null; then
    spreads "hardened, the kernel not randomising" setarch -R env LD_PRELOAD="$FREEHOLD_LIB" "$placed"
fi
export FREEHOLD=mode=fast
spreads "fast" env LD_PRELOAD="$FREEHOLD_LIB" "$placed"
finish
