#!/bin/bash
# Checks that are always on: each misuse ends the process with a report of its kind and the stack of the call, each good twin is
# silent; and what on_foreign makes of pointers of somebody else's allocator.
. "$(dirname "$0")/lib.sh"

misuse=$(program misuse)

# reports NAME KIND: the misuse is reported as KIND and ends by SIGABRT.
reports() {
    local status=0
    claims=$((claims + 1))
    { (ulimit -c 0; exec timeout 30 "${under[@]}" "$misuse" "$1" >"$work/out" 2>&1); } 2>/dev/null ||
        status=$?
    if ((status != 134)); then
        not_so "$1 to end by SIGABRT" "$(status_in_words $status)" "$work/out"
    elif ! grep -q "^freehold: ERROR: $2" "$work/out"; then
        not_so "$1 to be reported as 'freehold: ERROR: $2 …'" "it was not" "$work/out"
    elif ! grep -q '#0 ' "$work/out" || ! grep -q "#[0-9]* .*misuse" "$work/out"; then
        not_so "$1 to be reported with the stack of the call" "there is no frame of the program" "$work/out"
    fi
}

# foreign NAME SETTING STATUS LINES…: ends with the status and prints those lines, the report apart.
foreign() {
    local name=$1 setting=$2 expected=$3 status=0
    shift 3
    claims=$((claims + 1))
    printf '%s\n' "$@" | sed '/^$/d' >"$work/expected"
    { (ulimit -c 0; FREEHOLD=on_foreign=$setting exec timeout 30 "${under[@]}" "$misuse" "$name" >"$work/out" 2>"$work/errors"); } 2>/dev/null ||
        status=$?
    if ((status != expected)); then
        not_so "$name with on_foreign=$setting to end with status $expected" "$(status_in_words $status)" "$work/errors"
    elif ! cmp -s "$work/expected" "$work/out"; then
        not_so "$name with on_foreign=$setting to print: $*" "it printed otherwise" "$work/out"
    fi
}

while read -r name kind; do
    passes "the good twin of $name to end well" "${under[@]}" "$misuse" "$name" good
    holds "the good twin of $name to say nothing" test ! -s "$work/out"
    ! is_freehold || reports "$name" "$kind"
done < <("$misuse" --list)

if is_freehold; then
    went_on="went on after a foreign free"
    foreign foreign_free abort 134 ""
    foreign foreign_free warn 0 "$went_on"
    holds "on_foreign=warn to say so in one line" test "$(grep -c '^freehold: ' "$work/errors")" -eq 1
    foreign foreign_free ignore 0 "$went_on"
    holds "on_foreign=ignore to say nothing" test ! -s "$work/errors"
    foreign foreign_free forward 0 "$went_on" "libc got its block back"
    holds "on_foreign=forward to say nothing" test ! -s "$work/errors"
    foreign foreign_realloc abort 134 ""
    foreign foreign_realloc forward 0 "went on after a foreign realloc" "the contents were kept"
fi
finish
