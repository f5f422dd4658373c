#!/bin/bash
# freehold record on what makes recording hard: threads that come and go and more of them than are recorded at
# a time, libraries that come and go, children of every kind, another user, filters of system calls, limits, closed
# descriptors, disks that stay full, and real programs.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
freehold=$BUILD_DIR/freehold
traced=$(program traced)
hard=$(program traced_hard)
trace=$work/trace

dump() { "$BUILD_DIR/tests/trace_dump" "$trace" "$@" >"$work/dumped" 2>&1 || true; }
says() { # CLAIM PATTERN
    holds "$1" grep -qE -- "$2" "$work/dumped"
    grep -qE -- "$2" "$work/dumped" || head -n 30 "$work/dumped" | sed 's/^/    | /' >&2
}
# records CLAIM COMMAND…: the command ends with status 0 and its trace is read.
records() {
    local claim=$1
    shift
    passes "$claim" "$freehold" record -o "$trace" -- "$@"
    dump modules
}

records "1,000 short threads are recorded" "$hard" short
says "each of them" 'threads 1001:'
says "with all calls, in order" 'of77 10000 .*wrong 0 back 0$'
says "and nothing is lost" '^whole 1 processes 1 lost 0$'

records "300 threads at a time run, with rings for 256" "$hard" crowd 300
holds "what is missing is said" grep -q 'calls are missing' "$work/out"
says "and counted" '^whole 1 processes 1 lost [1-9]'

records "a library that comes and goes" "$hard" plugin "$(program libplugin)"
says "is among the modules, unloaded" 'module .*/libplugin\.so until unloaded'
says "its calls are there" 'of5555 5 .*wrong 0 '

records "children of vfork" "$hard" vfork
says "leave the parent's calls whole" '^process 0: of111 1000 .*wrong 0 back 0$'

records "a spawned program" "$hard" spawn "$traced"
says "is a process of its own" '^process 1: of111 1000 of5555 1000 '
says "with the one that spawned it as its parent" '^process 1 parent 0 '
says "beside it" '^process 0: of111 200 '

records "faults that the program handles" "$hard" faults
says "and what the handlers allocate" '^process 0: of111 100 of5555 0 of77 1000 .*wrong 0 back 0$'

records "a program that closes all descriptors" "$hard" closes
says "goes on being recorded" '^process 0: of111 1000 '
says "with its children" '^process 1: of111 100 '

records "forks of a program whose threads allocate" "$hard" forks
says "are recorded, each" '^whole 1 processes 51 lost 0$'
holds "with all calls" test "$(grep -cE '^process [0-9]+: of111 100 ' "$work/dumped")" -eq 50
holds "and none of another's" test "$(grep -cE ' wrong 0 ' "$work/dumped")" -eq 51

if [[ $(id -u) == 0 ]]; then
    chmod 755 "$work"
    records "a program that becomes another user" "$hard" setuid
    says "goes on being recorded" '^process 0: of111 110 of5555 0 of77 10 '
    says "with its children" '^process 1: of111 100 '
else
    skip "only root can become another user"
fi

status=0
timeout 100 "$freehold" record -o "$trace" -- "$hard" filter >"$work/out" 2>&1 || status=$?
if ((status == 77)); then
    skip "no seccomp filter can be set here"
else
    holds "a program under a filter that knows what malloc calls goes on" test "$status" -eq 0
    dump
    says "and is recorded" '^process 0: of111 2000010 .*wrong 0 back 0$'
fi

# The memory that is shared with the program counts as a file.
status=0
(ulimit -f 64 && exec "$freehold" record -o "$work/limited" -- "$traced" calls) >"$work/out" 2>&1 || status=$?
holds "a limit on the size of files that leaves no room is refused" test "$status" -eq 125
holds "with what to do" grep -q 'ulimit -f' "$work/out"
holds "and no file is left" test ! -e "$work/limited"

mkdir "$work/small"
if mount -t tmpfs -o size=64k tmpfs "$work/small" 2>/dev/null; then
    trap 'umount "$work/small"; rm -rf "$work"' EXIT
    passes "a disk that is full for seconds stops nobody" "$freehold" record -o "$work/small/trace" -- \
        bash -c "for i in 1 2 3 4 5 6; do '$traced' flood 2000000; sleep 0.3; done"
    holds "it is said" grep -q "can't be written: No space" "$work/out"
    trace=$work/small/trace dump
    says "the file is readable" '^whole 0 '
else
    skip "no tmpfs can be mounted to be full"
fi

if command -v redis-server >/dev/null && command -v redis-benchmark >/dev/null; then
    socket=$work/redis.sock
    "$freehold" record -o "$trace" -- redis-server --port 0 --unixsocket "$socket" --save '' \
        --dir "$work" >"$work/out" 2>&1 &
    server=$!
    for _ in $(seq 100); do [[ -S $socket ]] && break; sleep 0.1; done
    passes "a recorded redis-server serves its benchmark" redis-benchmark -s "$socket" -n 5000 -c 20 -t set,get,lpush,lpop -q
    redis-cli -s "$socket" shutdown nosave >/dev/null 2>&1 || true
    status=0
    wait "$server" || status=$?
    holds "and ends as it does" test "$status" -eq 0
    dump
    says "its trace is whole" '^whole 1 .* lost 0$'
else
    skip "no redis-server here"
fi

cat >"$work/hello.c" <<'C'
#include <stdio.h>
int main(void) { return puts("hello") < 0; }
C
records "a compiler and what it starts" gcc -O2 -c "$work/hello.c" -o "$work/hello.o"
holds "compiles" test -s "$work/hello.o"
says "the trace is whole" '^whole 1 .* lost 0$'
says "the compiler proper is in it" 'program .*/cc1,'
says "and the assembler" 'program .*/[a-z0-9_-]*as,'
finish
