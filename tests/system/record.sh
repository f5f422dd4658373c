#!/bin/bash
# freehold record: a program whose calls are known gives just these, with their stacks; threads, forks, execs and
# handlers are in the trace; kills, full disks and a command that stands still leave readable files and a
# program that goes on.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
freehold=$BUILD_DIR/freehold
traced=$(program traced)
trace=$work/trace

# What is in a trace, as lines "PROCESS KIND SIZE COUNT FLAGS"; frees of nothing live and allocations of what is live
# already are told as such.
cat >"$work/dump.c" <<'C'
#include <freehold/trace.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
enum { PLACES = 1 << 20 };
static uint64_t live[PLACES];
static size_t place_of(uint64_t a)
{
    size_t i = (a >> 4) * 0x9e3779b97f4a7c15u >> 44;
    while (live[i] != 0 && live[i] != a) i = (i + 1) % PLACES;
    return i;
}
int main(int argc, char **argv)
{
    struct fh_trace_problem problem;
    struct fh_trace *trace = fh_trace_open(argv[1], &problem);
    static struct fh_trace_event e[256];
    if (trace == NULL) { puts(problem.text); return problem.exit_status; }
    const struct fh_trace_info *info = fh_trace_info(trace);
    printf("whole %d processes %u lost %lu\n", info->is_whole, info->process_count, (unsigned long)info->lost);
    for (unsigned p = 0; p < info->process_count; p++) {
        unsigned long n[8] = {0}, of[4] = {0}, wrong = 0, inherited = 0, zeroed = 0, aligned = 0, backwards = 0;
        unsigned long in_modules = 0, without = 0; uint64_t before = 0;
        memset(live, 0, sizeof live);
        fh_trace_begin(trace, p);
        for (long got; (got = fh_trace_read(trace, e, 256)) > 0;)
            for (long i = 0; i < got; i++) {
                uint64_t frames[128];
                n[e[i].kind]++;
                of[0] += e[i].size == 111; of[1] += e[i].size == 5555; of[2] += e[i].size == 77;
                zeroed += (e[i].flags & FH_TRACE_ZEROED) != 0 && e[i].size == 133;
                aligned += e[i].align == 256 && e[i].size == 512;
                inherited += (e[i].flags & FH_TRACE_INHERITED) != 0;
                backwards += e[i].time_ns < before;
                before = e[i].time_ns;
                uint64_t freed = e[i].kind == FH_TRACE_FREE ? e[i].address : e[i].old_address;
                if (freed != 0) { /* addresses stay in the table, marked by an odd one */
                    size_t at = place_of(freed);
                    if (live[at] == 0) wrong += !(e[i].flags & FH_TRACE_INHERITED);
                    else live[at] = freed | 1;
                }
                if (e[i].kind == FH_TRACE_ALLOC) {
                    size_t at = (e[i].address >> 4) * 0x9e3779b97f4a7c15u >> 44;
                    while (live[at] != 0 && (live[at] & ~1ul) != e[i].address) at = (at + 1) % PLACES;
                    wrong += live[at] == e[i].address;
                    live[at] = e[i].address;
                }
                size_t depth = fh_trace_frames(trace, e[i].stack, frames, 128);
                const struct fh_trace_module *m;
                bool found = false;
                for (size_t k = 0; depth > 0 && (m = fh_trace_module(trace, k)) != NULL; k++)
                    found |= frames[0] >= m->begin && frames[0] < m->end;
                in_modules += found; without += depth == 0;
                if (argc > 2 && depth > 0 && strcmp(argv[2], "first") == 0 && e[i].size == 111) {
                    for (size_t k = 0; (m = fh_trace_module(trace, k)) != NULL; k++)
                        if (frames[0] >= m->begin && frames[0] < m->end)
                            printf("0x%lx %s\n", (unsigned long)(frames[0] - 1 - m->bias), m->path);
                    return 0;
                }
            }
        printf("process %u parent %d threads %u: alloc %lu free %lu resize %lu fork %lu\n", p,
               fh_trace_process(trace, p)->parent, fh_trace_process(trace, p)->threads, n[1], n[2], n[3], n[6]);
        printf("process %u: of111 %lu of5555 %lu of77 %lu zeroed %lu aligned %lu inherited %lu wrong %lu back %lu\n", p, of[0],
               of[1], of[2], zeroed, aligned, inherited, wrong, backwards);
        (void)in_modules; (void)without;
    }
    printf("end %ld\n", fh_trace_read(trace, e, 1));
    return 0;
}
C
cc -O1 -I "$SOURCE_DIR/include" "$work/dump.c" -o "$work/dump" -L "$BUILD_DIR" -lfreehold-trace -Wl,-rpath,"$BUILD_DIR"
dump() { "$work/dump" "$trace" "$@" >"$work/dumped" 2>&1 || true; }
says() { # CLAIM PATTERN
    holds "$1" grep -qE -- "$2" "$work/dumped"
    grep -qE -- "$2" "$work/dumped" || sed 's/^/    | /' "$work/dumped" >&2
}

passes "a program is recorded" "$freehold" record -o "$trace" -- "$traced" calls
holds "the summary says how much" grep -qE 'recorded [0-9,]+ calls of 1 thread in 1 process' "$work/out"
dump
says "the file is whole and nothing is lost" '^whole 1 processes 1 lost 0$'
says "each call is there once" '^process 0: of111 1000 of5555 1000 of77 0 zeroed 1000 aligned 1000 inherited 0 wrong 0 back 0$'
says "each resize too" 'resize 1000 fork 0'
dump first
read -r address module <"$work/dumped"
addr2line -f -e "$module" "$address" >"$work/function" 2>&1
holds "the innermost frame is the caller's" grep -q allocates_111 "$work/function"

passes "threads are recorded" "$freehold" record -o "$trace" -- "$traced" threads
dump
says "both threads are there" 'threads 2:'
says "a block is freed before it is handed out again" 'of77 20000 .*wrong 0 back 0$'

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
"$freehold" record -o "$trace" -- bash -c "'$traced' flood 20000000; echo ended >'$work/ended'" >/dev/null 2>&1 &
command=$!
sleep 2.5
kill -KILL "$command"
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

status=0
(ulimit -f 64; "$freehold" record -o "$trace" -- bash -c "trap '' XFSZ; '$traced' signals; '$traced' flood 9000000; exit 5") \
    >"$work/out" 2>&1 || status=$?
holds "a full disk does not change how the program ends" test "$status" -eq 5
if grep -q "can't be written" "$work/out"; then
    dump
    says "the file is readable" '^whole 0 '
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
refuses 127 'not found|no such|No such' -o "$work/none" -- "$work/missing"
refuses 125 "can't be written" -o /no/such/folder/file -- "$traced" calls
refuses 125 'no file is given' -- "$traced" calls
refuses 125 'no program is given' -o "$work/none"
holds "nothing is written then" test ! -e "$work/none"
finish
