#!/bin/bash
# What each mode makes of memory errors: one in 41 of the cases of tests/guard with its good twin, against floor.txt. A fall below
# it, or one good twin that does not run in silence, fails. guard_cases_slow.sh runs them all.
. "$(dirname "$0")/lib.sh"
every=${EVERY:-41}
floor=$SOURCE_DIR/tests/guard/floor.txt
judge=$(program judge)
cases=$(program cases)
columns=()
column() {
    FREEHOLD_MODE=$2
    columns+=(--column "$1=$(preloaded);FREEHOLD=$2")
}
if is_freehold; then
    column fast guard=off
    column hardened mode=hardened
    column debug mode=debug
    column sweep mode=hardened,uaf=sweep
    column all guard=1
    LIMIT=550 passes "the modes to catch what they caught" \
        "$judge" --cases "$cases" --every "$every" "${columns[@]}" --floor "$floor" --misses "$work/misses"
    grep 'FALSE ALARM' "$work/misses" | head -n 20 || true
    # Resolving stacks takes time, so fewer of them: are they all there, with their lines?
    LIMIT=300 passes "reports to hold all stacks with their lines" \
        "$judge" --cases "$cases" --every $((every * 3)) --no-good --floor "$floor" \
        --column "lines=;run=$BUILD_DIR/freehold run --mode debug --"
else
    passes "the good twins to run in silence" "$judge" --cases "$cases" --every "$every" --floor /dev/null \
        --column "other=$FREEHOLD_LIB"
fi
finish
