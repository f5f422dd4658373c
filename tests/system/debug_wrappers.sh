#!/bin/bash
# libfreehold-debug: calls of the C library's functions that leave a block, a frame of a stack or a static object are reported
# before they are made, with the function's name and the caller's stack; their good twins, and what is unusual but right, are
# not; and without the debug mode the library does nothing.
. "$(dirname "$0")/lib.sh"

is_freehold || { skip "the malloc under test is not Freehold's"; exit 77; }
debug=${FREEHOLD_LIB/libfreehold-malloc/libfreehold-debug}
bounds=$(program bounds)
checked=(env LD_PRELOAD="$debug:$FREEHOLD_LIB" FREEHOLD=mode=debug)

# reports NAME KIND FUNCTION
reports() {
    local status=0
    claims=$((claims + 1))
    { (ulimit -c 0; exec timeout 30 "${checked[@]}" "$bounds" "$1" >"$work/out" 2>&1); } 2>/dev/null || status=$?
    if ((status != 134)); then
        not_so "$1 to end by SIGABRT" "$(status_in_words $status)" "$work/out"
    elif ! grep -q "^freehold: ERROR: $2 " "$work/out"; then
        not_so "$1 to be reported as $2" "it was not" "$work/out"
    elif ! grep -qw "by $3" "$work/out"; then
        not_so "the report of $1 to name $3" "it does not" "$work/out"
    elif ! grep -q "#[0-9]* .*/bounds+" "$work/out"; then
        not_so "the report of $1 to have the caller's stack" "there is no frame of the program" "$work/out"
    fi
}

while read -r name kind function; do
    passes "the good twin of $name to end well" "${checked[@]}" "$bounds" "$name" good
    holds "the good twin of $name to say nothing" test ! -s "$work/out"
    reports "$name" "$kind" "$function"
done < <("$bounds" --list)

passes "what is unusual but right to be left alone" "${checked[@]}" "$bounds" right
holds "what is unusual but right to be passed over in silence" test ! -s "$work/out"

for mode in fast hardened; do
    passes "no check in mode $mode" env LD_PRELOAD="$debug:$FREEHOLD_LIB" FREEHOLD=mode=$mode "$bounds" memcpy_from_table
    holds "silence in mode $mode" test ! -s "$work/out"
done
passes "no check under another malloc" env LD_PRELOAD="$debug" "$bounds" memcpy_from_table
finish
