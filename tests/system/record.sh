#!/bin/bash
# freehold record: a program whose calls are known gives just these, with their stacks; threads, forks, execs and
# handlers are in the trace; kills, full disks and a command that stands still leave readable files and a
# program that goes on.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
freehold=$BUILD_DIR/freehold
traced=$(program traced)
trace=$work/trace

dump() { "$BUILD_DIR/tests/trace_dump" "$trace" "$@" >"$work/dumped" 2>&1 || true; }
says() { # CLAIM PATTERN
    holds "$1" grep -qE -- "$2" "$work/dumped"
    grep -qE -- "$2" "$work/dumped" || sed 's/^/    | /' "$work/dumped" >&2
}

lacks() { ! grep -q -- "$1" "$2"; }

passes "a program is recorded" "$freehold" record -o "$trace" -- "$traced" calls
holds "the summary says how much" grep -qE 'recorded [0-9,]+ calls of 1 thread in 1 process' "$work/out"
dump
says "the file is whole and nothing is lost" '^whole 1 processes 1 lost 0$'
says "each call is there once" '^process 0: of111 1000 of5555 1000 of77 0 zeroed 1000 aligned 1000 inherited 0 wrong 0 back 0$'
says "each resize too" 'resize 1000 fork 0'
dump first
read -r address module < <(tail -n 1 "$work/dumped") || true
addr2line -f -e "$module" "$address" >"$work/function" 2>&1 || true
holds "the innermost frame is the caller's" grep -q allocates_111 "$work/function"

# A name with the process id.
passes "a name may hold the process id" "$freehold" record -o "$work/p%p.fht" -- \
    bash -c "echo \$\$ >'$work/pid'; exec '$traced' calls"
holds "which is the program's" test -s "$work/p$(cat "$work/pid").fht"

passes "threads are recorded" "$freehold" record -o "$trace" -- "$traced" threads
dump
says "both threads are there" 'threads 2:'
says "a block is freed before it is handed out again" 'of77 20000 .*wrong 0 back 0$'

passes "a program of a second or two is recorded" "$freehold" record -o "$trace" -- \
    bash -c "sqlite3 :memory: <'$SOURCE_DIR/examples/workload.sql'"
truncate -s $(($(stat -c %s "$trace") / 2)) "$trace"
dump
says "half of its trace is not whole" '^whole 0 '
says "but has events of SQLite, not only of the shell" '^process 2 .*: alloc [0-9]{5,}'

passes "a fork is recorded" "$freehold" record -o "$trace" -- "$traced" fork
dump
says "the child is a process of its own" '^process 1 parent 0'
says "the parent's fork is an event" '^process 0 .*fork 1$'
says "what the child inherited is marked" '^process 1: of111 100 .*inherited 1 wrong 0'

passes "a new program in the same process is recorded" "$freehold" record -o "$trace" -- "$traced" exec
dump
says "as a process that follows" '^process 1: of111 1000 .* wrong 0 back 0$'

passes "handlers that allocate are recorded" "$freehold" record -o "$trace" -- "$traced" signals
dump
says "in order" 'whole 1 .*lost 0$'
says "and nothing is freed that was not allocated" 'wrong 0 back 0$'

status=0
"$freehold" record -o "$trace" -- "$traced" kill >"$work/out" 2>&1 || status=$?
holds "the command dies by the program's signal" test "$status" -eq 137
dump
says "what a killed program did is all there" '^whole 1 .*lost 0$'
says "to the last call" 'of111 50000 '

# The command killed: the file holds what it had written, the program goes on to its end.
rm -f "$trace"
"$freehold" record -o "$trace" -- bash -c "'$traced' flood 20000000; echo ended >'$work/ended'" >/dev/null 2>&1 &
command=$!
# In the middle of it: something is in the file, and the flood is not over.
for _ in $(seq 500); do
    size=$(stat -c %s "$trace" 2>/dev/null || echo 0)
    ((size > 100000)) && break
    sleep 0.01
done
holds "the program is still at work then" test ! -e "$work/ended"
kill -KILL "$command" || true
wait "$command" 2>/dev/null || true
for _ in $(seq 100); do [[ -e $work/ended ]] && break; sleep 0.1; done
holds "a program whose recorder was killed goes on" test -e "$work/ended"
dump
says "the file is readable up to its last flush" '^whole 0 '
says "without an error at its end" '^end 0$'

# The command stopped: the program drops its calls and does not wait for ever.
"$freehold" record -o "$trace" -- bash -c "sleep 0.5; '$traced' flood 3000000; echo ended >'$work/stopped'" >"$work/out" 2>&1 &
command=$!
sleep 0.3
kill -STOP "$command"
for _ in $(seq 150); do [[ -e $work/stopped ]] && break; sleep 0.1; done
holds "a program whose recorder stands still goes on" test -e "$work/stopped"
kill -CONT "$command"
wait "$command" || true
holds "what was dropped is said" grep -q 'calls are missing' "$work/out"
dump
says "and is in the file" 'lost [1-9]'

mkdir "$work/small"
if mount -t tmpfs -o size=64k tmpfs "$work/small" 2>/dev/null; then
    trap 'umount "$work/small"; rm -rf "$work"' EXIT
    status=0
    "$freehold" record -o "$work/small/trace" -- bash -c "'$traced' flood 3000000; '$traced' threads; exit 5" \
        >"$work/out" 2>&1 || status=$?
    holds "a full disk does not change how the program ends" test "$status" -eq 5
    holds "it is said" grep -q "can't be written: No space" "$work/out"
    holds "speed is not blamed then" lacks 'came faster' "$work/out"
    trace=$work/small/trace dump
    says "the file is readable" '^whole 0 '
    says "and has events of the flood, not only of the shell" 'of111 [0-9]{4,} '
else
    skip "no tmpfs can be mounted to be full"
fi

# refuses STATUS PATTERN ARG…
refuses() {
    local expected=$1 pattern=$2 status=0
    shift 2
    "$freehold" record "$@" >"$work/out" 2>&1 || status=$?
    holds "record $* ends with $expected" test "$status" -eq "$expected"
    holds "and says why" grep -qE "$pattern" "$work/out"
    holds "in one line" test "$(wc -l <"$work/out")" -eq 1
}
echo 'int main(void) { return 0; }' >"$work/static.c"
cc -static "$work/static.c" -o "$work/static"
refuses 126 static -o "$work/none" -- "$work/static"
refuses 127 'missing' -o "$work/none" -- "$work/missing"
refuses 125 "can't be written" -o /no/such/folder/file -- "$traced" calls
refuses 125 'no file is given' -- "$traced" calls
refuses 125 'no program is given' -o "$work/none"
holds "nothing is written then" test ! -e "$work/none"
finish
