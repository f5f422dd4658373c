#!/bin/bash
# freehold run --fail sweep: each planted bug is found, each handled failure is none, every finding repeats by its command, a
# killed sweep goes on where it was, nothing is left behind.
. "$(dirname "$0")/lib.sh"

freehold=$BUILD_DIR/freehold
if ! is_freehold; then
    skip "the sweep is Freehold's own"
    exit 77
fi
command -v python3 >/dev/null || {
    skip "python3 is missing"
    exit 77
}
planted=$(program planted)
cd "$work"

# sweeps CLAIM STATUS ARGUMENTS…: the sweep ends with that status; its output is in $work/out, its messages in $work/errors.
sweeps() {
    local claim=$1 expected=$2 status=0
    shift 2
    claims=$((claims + 1))
    timeout 100 "$freehold" run --fail sweep "$@" >"$work/out" 2>"$work/errors" </dev/null || status=$?
    if ((status != expected)); then
        not_so "$claim" "status $status, not $expected: $*" "$work/errors"
    fi
}

# query FILE PYTHON: what the sweep's JSON (j) has; where(x): which of the program's functions asked for what failed.
query() {
    python3 -c 'import json, sys
j = json.load(open(sys.argv[1]))
where = lambda x: next(f["function"] for f in x["allocation"]["stack"] if "checked_" in f["function"])
exec(sys.argv[2])' "$@"
}

# ---- what is found ----

sweeps "findings to give status 1" 1 --persist no --timeout 1 --json all.json -- "$planted"
query all.json 'print("\n".join(sorted({where(x) for x in j["findings"]})))' >found
printf 'unchecked_%d\n' {1..12} | sort >expected
equal "each of 12 planted bugs to be found, and no other" expected found
holds "the hang to be one" test "$(query all.json 'print({where(x) for x in j["findings"] if x["verdict"] == "hang"})')" = "{'unchecked_11'}"
holds "a double free in the way out to be named" test "$(query all.json 'print({where(x) for x in j["findings"] if x["kind"] == "double-free"})')" = "{'unchecked_10'}"
holds "the text to say where it crashed" grep -q '#0 unchecked_1 planted.c:[0-9]' out
holds "every allocation of the program to be tried" test "$(query all.json 'print(j["waiting"], j["missed"], j["runs"] == j["plain"]["sites"])')" = "0 0 True"
holds "nothing to be left of a sweep that is complete" test ! -e planted.sweep

# Each command, as it is told, does again what it did. The hang's is left out.
query all.json 'print("\n".join(x["reproduce"] + "\t" + str(128 + x["signal"]) for x in j["findings"] if x["verdict"] == "crash"))' >commands
while IFS=$'\t' read -r command status; do
    claims=$((claims + 1))
    got=0
    { (ulimit -c 0; PATH=$BUILD_DIR:$PATH exec timeout 20 bash -c "$command" >repeated 2>&1); } 2>/dev/null || got=$?
    # A report of Freehold's ends by SIGABRT, whatever signal was noted.
    ((got == status || (got == 134 && status == 128))) ||
        not_so "'$command' to end as it did ($status)" "$(status_in_words $got)" repeated
done <commands

sweeps "the same sweep to find the same, one after the other" 1 --persist no --timeout 1 --jobs 1 --json again.json -- "$planted"
query all.json 'print(sorted((x["fail"], x["verdict"], x["signal"]) for x in j["findings"]))' >first
query again.json 'print(sorted((x["fail"], x["verdict"], x["signal"]) for x in j["findings"]))' >second
equal "a sweep to be the same every time" first second
# ---- what is not ----

sweeps "a program that handles all to give status 0" 0 --keep kept -- "$planted" good
holds "each run's output to be kept" test "$(ls kept | wc -l)" -eq "$(($(grep -o '[0-9]* runs, ' errors | grep -o '[0-9]*') + 1))"
holds "the plain run's too" grep -qx "the end" kept/plain.txt
holds "twice for each stack: alone, and with all after it" test "$(grep -oE 'from [0-9]+|[0-9]+ runs,' errors | grep -o '[0-9]*' | tr '\n' ' ')" = "$(grep -o 'from [0-9]*' errors | awk '{print $2, 2 * $2}') "
sweeps "standard input to be empty without --stdin" 125 -- "$planted" input
printf 'abcd' >four
sweeps "each run to have its input from the beginning" 0 --stdin four --json input.json -- "$planted" input
holds "so that each stack is there" test "$(query input.json 'print(j["plain"]["sites"], j["missed"])')" = "4 0"
sweeps "each of the first allocations of a stack to fail, as --each says" 0 --each 3 --persist no --json each.json -- "$planted" good
holds "where there are as many" test "$(query each.json 'print(j["runs"] - j["plain"]["sites"], j["missed"])')" = "0 0"

# ---- what is left behind ----

sweeps "a program with a child that stays to be swept" 0 --persist no -- "$planted" child
holds "the child to end with its run" test -z "$(ps -eo args= | grep -F "$planted child" | grep -vF grep || true)"

"$freehold" run --fail sweep --jobs 1 --persist no -- "$planted" slow >out 2>errors &
sweep=$!
for ((i = 0; i < 200; i++)); do
    [[ -e planted.sweep ]] && (($(grep -c '^done' planted.sweep || true) >= 2)) && break
    sleep 0.01
done
kill -KILL $sweep
{ wait $sweep || true; } 2>/dev/null
done_before=$(grep -c '^done' planted.sweep)
holds "a killed sweep to leave what it knows" test "$done_before" -ge 2
sleep 0.1
holds "and no program running" test -z "$(ps -eo args= | grep -F "$planted slow" | grep -vF grep || true)"
sweeps "an unfinished sweep not to be lost by accident" 125 --persist no -- "$planted" slow
holds "the message to say what to do" grep -q -- '--resume' errors
sweeps "a sweep not to be resumed with another program" 125 --resume --persist no -- "$planted" good
sweeps "nor with other options" 125 --resume -- "$planted" slow
printf 'done 12' >>planted.sweep # a line that was cut
sweeps "it to go on" 0 --resume --persist no --json resumed.json -- "$planted" slow
holds "and to be complete then" test "$(query resumed.json 'print(j["waiting"], j["missed"], j["handled"] == j["plain"]["sites"])')" = "0 0 True"
holds "with the runs that were left" grep -qE "[0-9]+ runs are left" errors
"$freehold" run --fail sweep --jobs 1 --persist no -- "$planted" slow >out 2>errors &
sweep=$!
sleep 0.3
kill -INT $sweep
status=0
wait $sweep || status=$?
holds "an interrupted sweep to end by that, not: $(status_in_words $status)" test $status -eq 130
rm -f planted.sweep

# ---- bad input ----

sweeps "a program that is not there to be told" 127 -- ./nowhere
sweeps "no program to be told" 125
sweeps "nonsense to be refused" 125 --timeout soon -- "$planted"
sweeps "two wishes to be refused" 125 --fail nth=3 -- "$planted"
sweeps "an option that does not exist to be refused" 125 --timout 3 -- "$planted"
holds "with the nearest name" grep -q -- "--timeout" errors
sweeps "an input that is not there to be refused" 125 --stdin nowhere -- "$planted"
sweeps "a program that crashes by itself not to be swept" 125 -- bash -c 'kill -SEGV $$'
printf 'nonsense\n' >planted.sweep
sweeps "a state file that is none to be refused" 125 --resume -- "$planted"
finish
