#!/bin/bash
# Memory that runs out: allocations that fail on purpose (setting fail) and beyond a limit (setting limit), in every mode; and
# what a program is told.
. "$(dirname "$0")/lib.sh"

if ! is_freehold; then
    skip "the settings are Freehold's own"
    exit 77
fi
pressure=$(program pressure)
new=$(program pressure_new)

# gives CLAIM SETTINGS EXPECTED COMMAND…: the program's output under the settings; its messages are left in $work/errors.
gives() {
    local claim=$1 settings=$2 expected=$3 status=0
    shift 3
    claims=$((claims + 1))
    { (ulimit -c 0; FREEHOLD=$settings exec timeout 60 "${under[@]}" "$@" >"$work/out" 2>"$work/errors"); } 2>/dev/null ||
        status=$?
    if ((status != 0)); then
        not_so "$claim" "$(status_in_words $status) with FREEHOLD=$settings" "$work/errors"
    elif [[ $(<"$work/out") != "$expected" ]]; then
        not_so "$claim" "with FREEHOLD=$settings it printed otherwise than: $expected" "$work/out"
    fi
}

family=(malloc calloc realloc reallocarray memalign aligned_alloc valloc pvalloc posix_memalign strdup large mmap growing)
all_fail=$(printf '%s: ENOMEM\n' "${family[@]}" && echo "mmap of a file: ok")
none_fails=$(printf '%s: ok\n' "${family[@]}" && echo "mmap of a file: ok")
for mode in fast hardened debug; do
    gives "each function to fail from try_* in mode $mode" "mode=$mode,fail=site=try_*" "$all_fail" "$pressure" family
    gives "none to fail when nothing shall, in mode $mode" "mode=$mode,fail=nth=1000000" "$none_fails" "$pressure" family
    gives "the limit to be kept in mode $mode" "mode=$mode,limit=10M" 10 "$pressure" fill $((1 << 20)) 100
done
gives "a site's function to be taken whole" "fail=site=try_mallo" "$none_fails" "$pressure" family
gives "operator new to throw, and its quiet forms to give null" "fail=site=try_*" \
    "$(printf '%s\n' "one: bad_alloc" "array: bad_alloc" "nothrow: null" "array_nothrow: null" "aligned: bad_alloc" \
        "aligned_nothrow: null" "one: bad_alloc" "handled: 1")" "$new"

# ---- which ones ----

gives "nth=3 to fail the third" fail=nth=3 "3 " "$pressure" row 10
gives "a range to fail all of it" fail=nth=3..5 "3 4 5 " "$pressure" row 10
gives "an open range to go on" fail=nth=8.. "8 9 10 " "$pressure" row 10
gives "two rules to fail what either says" fail=nth=2+nth=9 "2 9 " "$pressure" row 10
gives "persist to go on after the first" fail=nth=7+persist "7 8 9 10 " "$pressure" row 10
gives "after=500 to fail from the sixth block of 100 bytes" fail=after=500 "6 7 8 9 10 " "$pressure" row 10
gives "a function's third to fail" fail=site=row:3 "3 " "$pressure" row 10
gives "a fork's child to count on" fail=nth=5 "----f-" "$pressure" fork
gives "no realloc to less to fail" fail=nth=2.. "0 failed" "$pressure" shrink

FREEHOLD=fail=rate=0.1 "${under[@]}" "$pressure" row 500 >"$work/one" 2>"$work/errors"
holds "a rate to tell the seed that it draws" grep -q 'seed=[0-9]' "$work/errors"
seed=$(sed -n 's/.*add +seed=\([0-9]*\).*/\1/p' "$work/errors")
gives "that seed to repeat it" "fail=rate=0.1+seed=$seed" "$(<"$work/one")" "$pressure" row 500
holds "a seed that is given not to be told" test ! -s "$work/errors"
passes "threads to get whole blocks or none" env "FREEHOLD=fail=rate=0.05+seed=7" "${under[@]}" "$pressure" threads

# ---- what is told ----

gives "fail_log=on to change nothing else" fail=nth=3,fail_log=on "3 " "$pressure" row 10
holds "it to tell the failure in one line" test "$(wc -l <"$work/errors")" -eq 1
holds "with function, number, size, site and stack" \
    grep -qE '^freehold: failed malloc of 100 bytes, allocation 3, site=0x[0-9a-f]{16}: row < main' "$work/errors"
site=$(sed -n 's/.*\(site=0x[0-9a-f]*\).*/\1/p' "$work/errors")
gives "that site to name all from there" "fail=$site" "1 2 3 4 5 6 7 8 9 10 " "$pressure" row 10
gives "and its second" "fail=$site:2" "2 " "$pressure" row 10
for value in fail= fail=nth fail=nth=0 fail=rate=7 fail=site= fail=often fail=nth=1+ fail_log=maybe limit= limit=much \
    limit=12Q oom=perhaps fail_table=/nowhere; do
    gives "nonsense in $value to fail nothing" "$value" "" "$pressure" row 10
    holds "one line to say what is wrong with $value" test "$(wc -l <"$work/errors")" -eq 1
done

# ---- the limit ----

gives "what was freed to be had again" limit=10M "10 10" "$pressure" reuse $((1 << 20))
gives "small blocks to be limited as well" limit=1M 10485 "$pressure" fill 100 100000
gives "a block to grow within the limit" limit=10M grown "$pressure" grow 6000000 9000000
gives "and not beyond it" limit=10M refused "$pressure" grow 6000000 11000000
gives "requests beyond the limit to get ENOMEM, however many" limit=10M "100000 failed" "$pressure" storm 100000
holds "a storm of them to be told seldom" test "$(grep -c out-of-memory "$work/errors")" -le 10
gives "the report not to be in the program's way" limit=1M refused "$pressure" sites
holds "it to say how much was asked for" \
    grep -q '^freehold: WARNING: out-of-memory: 1073741824 bytes more than the limit of 1048576 allows (78000 are live)' "$work/errors"
holds "and who has the memory, the biggest ten first" test \
    "$(grep -oE '#0 site_[0-9]+' "$work/errors" | tr '\n' ' ')" = "$(printf '#0 site_%d ' 12 11 10 9 8 7 6 5 4 3)"
holds "with bytes and blocks" grep -q '^ *12000 bytes in 12 blocks' "$work/errors"
status=0
{ (ulimit -c 0; FREEHOLD=limit=1M,oom=abort exec timeout 30 "${under[@]}" "$pressure" sites >"$work/out" 2>&1); } 2>/dev/null || status=$?
holds "oom=abort to end the program, not: $(status_in_words $status)" test $status -eq 134
holds "with an error" grep -q '^freehold: ERROR: out-of-memory' "$work/out"
finish
