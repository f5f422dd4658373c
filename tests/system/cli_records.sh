#!/bin/bash
# What a run reports: records of all its processes, added up, in JSON and in the summary; and what stays where it was: the
# program's output, TMPDIR, the user's LD_PRELOAD and FREEHOLD.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
freehold=$BUILD_DIR/freehold
mkdir "$work/tmp"
export TMPDIR=$work/tmp
cd "$work"
cat >blocks.c <<'END'
/* blocks N: mallocs N blocks of 100 bytes and frees all but one. */
#include <stdlib.h>
int main(int argc, char **argv)
{
    int count = argc > 1 ? atoi(argv[1]) : 0;
    void *volatile *blocks = malloc(sizeof(void *) * (size_t)(count + 1));
    for (int i = 0; i < count; i++) blocks[i] = malloc(100);
    for (int i = 1; i < count; i++) free(blocks[i]);
    return 0;
}
END
cc -fno-builtin blocks.c -o blocks
cat >figures.py <<'END'
# figures.py FILE EXPRESSION: the expression over the run's figures holds.
import json, sys
run = json.load(open(sys.argv[1]))
heap, processes, outcome = run["heap"], run["processes"], run["outcome"]
if not eval(sys.argv[2]):
    print(json.dumps(run, indent=1)[:3000])
    sys.exit(1)
END
figures() { # CLAIM EXPRESSION
    passes "$1" python3 figures.py figures.json "$2"
}

passes "a run with --json" "$freehold" run --json figures.json -- ./blocks 10000
holds "prints nothing itself" test ! -s out
figures "the figures name their format and command" 'run["freehold"] == 1 and run["command"] == ["./blocks", "10000"]'
figures "allocations are counted" '10000 <= heap["mallocs"] <= 11000'
figures "frees are counted" '9999 <= heap["frees"] <= 11000'
figures "what is live at exit is" 'heap["live_bytes"] >= 100 and heap["live_blocks"] >= 1'
figures "the peak is" '10000 * 100 <= heap["peak_bytes"] <= 4 << 20'
figures "classes add up" 'sum(c["mallocs"] for c in run["classes"]) == heap["mallocs"]'
figures "the class of 100 bytes has the blocks" 'any(c["mallocs"] >= 10000 for c in run["classes"] if 100 <= c["size"] <= 112)'
figures "one process, which is the program" 'len(processes) == 1 and processes[0]["pid"] == outcome["pid"]'
figures "with time and status" 'outcome["status"] == 0 and outcome["wall_ns"] > 0 and outcome["peak_rss"] > 1 << 19'

passes "a run with --json on standard output" bash -c '"$1" run --json - -- ./blocks 5 | python3 -m json.tool' - "$freehold"
passes "a name with %p" "$freehold" run --json figures-%p.json -- ./blocks
holds "is the program's process id" bash -c 'f=(figures-[0-9]*.json); grep -q "\"pid\": *${f//[^0-9]/}," "$f"'

passes "children are followed" "$freehold" run --json figures.json -- bash -c './blocks 2000 & ./blocks 3000; wait; exit 0'
figures "each in a record of its own" 'len(processes) >= 3 and sum(p["prog"].endswith("blocks") for p in processes) == 2'
figures "and added up" 'heap["mallocs"] == sum(p["heap"]["mallocs"] for p in processes) >= 5000'
cat >forks.py <<'END'
import os
kept = [bytes(1000 + i) for i in range(5000)]
for i in range(4):
    if os.fork() == 0:
        os._exit(0)
    os.wait()
END
passes "forked children" env PYTHONMALLOC=malloc "$freehold" run --json figures.json -- "$(readlink -f /usr/bin/python3)" -S forks.py
figures "count from the fork on" 'len(processes) == 5 and all(p["heap"]["mallocs"] < 2000 and p["heap"]["live_bytes"] < 1 << 20 for p in processes if p["pid"] != outcome["pid"])'
figures "and their parent all of it" '[p for p in processes if p["pid"] == outcome["pid"]][0]["heap"]["mallocs"] >= 5000'
passes "a vfork whose exec fails" "$freehold" run --json figures.json -- "$(program vforks)"
figures "leaves no second record" 'len(processes) == 1 and processes[0]["heap"]["mallocs"] >= 100'
passes "_exit in handlers that interrupt allocations" bash -c '"$1" run --json figures.json -- "$2"; (($? == 7))' - "$freehold" "$(program exits)"
figures "ends well, with or without a record" 'outcome["status"] == 7'
passes "the program is followed through exec" "$freehold" run --json figures.json -- bash -c 'exec ./blocks 2000'
figures "and its last image counts" 'processes[-1]["pid"] == outcome["pid"] and heap["mallocs"] >= 2000'
passes "many processes ending together" "$freehold" run --json figures.json -- bash -c 'for i in {1..50}; do ./blocks 10 & done; wait'
figures "leave whole records" 'sum(p["prog"].endswith("blocks") for p in processes) == 50'
passes "descriptors closed by the program" "$freehold" run --json figures.json -- python3 -c 'import os; os.closerange(0, 100)'
figures "do not lose the record" 'len(processes) >= 1'
passes "a child that ends by _exit" "$freehold" run --json figures.json -- sh -c "./blocks 100; exit 0"
figures "leaves its record too" 'any(p["exit"] == "_exit" and p["pid"] == outcome["pid"] for p in processes)'
passes "another folder" "$freehold" run --json figures.json -- bash -c 'cd /; exec "$0" 7' "$work/blocks"
figures "does not lose the record" 'len(processes) >= 1'

passes "a run inside a run" "$freehold" run --json outer.json -- "$freehold" run --json figures.json -- ./blocks 1234
figures "has the program's figures" 'len(processes) == 1 and heap["mallocs"] >= 1234'
holds "and the library once in LD_PRELOAD" bash -c \
    '[[ $("$1" run -- "$1" run -- sh -c "echo \$LD_PRELOAD" | grep -o libfreehold-malloc | wc -l) == 1 ]]' - "$freehold"

# ---- What is the user's stays ----
passes "LD_PRELOAD is kept, after ours" bash -c 'LD_PRELOAD=libm.so.6 "$1" run -- sh -c "echo \$LD_PRELOAD"' - "$freehold"
holds "in this order" grep -qE '/libfreehold-malloc\.so(\.0)?:libm\.so\.6$' out
passes "FREEHOLD is kept, before ours" env FREEHOLD=decay=7 "$freehold" run --decay 9 --huge never --on-error exit=3 \
    --on-foreign warn --log log -- sh -c 'echo "$FREEHOLD"'
holds "in this order" grep -qxF "decay=7,decay=9,huge=never,on_error=exit=3,on_foreign=warn,log=$work/log" out
passes "nothing is set that was not asked for" "$freehold" run -- sh -c 'echo "[${FREEHOLD-none}]"'
holds "FREEHOLD is unset" grep -qxF "[none]" out
passes "arguments and output pass through" "$freehold" run -- printf '%s|' --stats 'a b' '' --
holds "as they are" grep -qxF -- '--stats|a b||--|' out

cat >misuse.c <<'END'
#include <stdlib.h>
int main(void)
{
    char *volatile block = malloc(100);
    free(block + 16);
    return 0;
}
END
cc -w -fno-builtin misuse.c -o misuse
passes "messages go to the log" "$freehold" run --on-error continue --log messages -- bash -c 'cd /; "$1"/misuse; "$1"/misuse' - "$work"
holds "those of all processes" test "$(grep -c 'freehold: ERROR' messages)" = 2
holds "and not to standard error" test ! -s out
passes "a log with %p" "$freehold" run --on-error continue --log messages-%p -- ./misuse
holds "is each process's own" bash -c 'grep -q "freehold: ERROR" messages-[0-9]*'

# ---- The summary ----
passes "a run with --stats" bash -c '"$1" run --stats -- ./blocks 10000 2>summary' - "$freehold"
holds "keeps standard output clean" test ! -s out
holds "the summary is plain ASCII in a file" bash -c '! LC_ALL=C grep -qP "[^\x20-\x7e\n]" summary'
for text in "freehold - ./blocks 10000" "status 0" "allocations  " "live at exit" "sizes" "#######" "  > "; do
    holds "the summary says '$text'" grep -qF -- "$text" summary
done
(bash -c '"$1" run --stats -- bash -c "kill -9 \$\$" 2>summary; exit 0' - "$freehold") 2>/dev/null
holds "a killed program's summary says so" grep -q 'killed by SIGKILL' summary
holds "and that there are no figures" grep -q 'left no statistics: a signal ended it' summary
printf 'not a record\n{"freehold":2}\n[]\n{"freehold":1,"pid":"x","heap":7,"classes":{"a":1},"threads":[1,null]}\n' >junk
passes "what is appended by others" bash -c '"$1" run --stats -- bash -c "cat junk >>\"\${FREEHOLD##*stats=}\"" 2>summary' - "$freehold"
holds "is left out" grep -q '3 damaged records were left out' summary
if command -v script >/dev/null; then
    TERM=xterm LC_ALL=C.UTF-8 script -qec "$freehold run --stats -- ./blocks 10000" /dev/null >terminal </dev/null
    holds "on a terminal there are bars and colours" bash -c 'grep -q "█" terminal && grep -q "$(printf "\033")\[" terminal'
    NO_COLOR=1 TERM=xterm LC_ALL=C.UTF-8 script -qec "$freehold run --stats -- ./blocks 10000" /dev/null >terminal </dev/null
    holds "none with NO_COLOR" bash -c '! grep -q "$(printf "\033")" terminal'
fi

holds "nothing is left in TMPDIR" test -z "$(ls "$TMPDIR")"
passes "a TMPDIR that can't be used is not used" env TMPDIR=/no/where "$freehold" run --json figures.json -- ./blocks
finish
