#!/bin/bash
# freehold advise on a recorded program: it finds what examples/advised.c does, at its lines, measures each change,
# writes JSON and a page, and says clearly what is wrong with a bad command or trace.
. "$(dirname "$0")/lib.sh"
freehold=$BUILD_DIR/freehold
program=$BUILD_DIR/examples/advised
"$freehold" --help | grep -q '^  record ' || { skip "this build can't record"; exit 77; }
[[ -x $program ]] || { skip "there is no example to record"; exit 77; }

# refused STATUS TEXT ARG…: ends with that status and one line that holds TEXT.
refused() {
    local status=0 expected=$1 text=$2
    shift 2
    claims=$((claims + 1))
    "$freehold" advise "$@" >"$work/out" 2>&1 || status=$?
    [[ $status == "$expected" ]] && grep -qF -- "$text" "$work/out" && [[ $(wc -l <"$work/out") == 1 ]] ||
        not_so "advise $* to end with $expected and say '$text'" "$(status_in_words $status)" "$work/out"
}

passes "a program is recorded" "$freehold" record --output "$work/run.fht" -- "$program"
passes "a trace is advised on" "$freehold" advise --rounds 3 --json "$work/advice.json" "$work/run.fht"
cp "$work/out" "$work/text"
holds "blocks that die together are found where they are made" grep -qE 'parse_header .*advised.c:.*arena|arena +parse_header .*advised.c' "$work/text"
holds "with who frees them" grep -q 'freed by free_request' "$work/advice.json"
holds "a list that grows is found" grep -qE 'append .*realloc|realloc +append' "$work/text"
holds "a block that never leaves its function is found" grep -qE 'format_answer .*stack|stack +format_answer' "$work/text"
holds "each comes with what was measured" test "$(grep -cE '(saves|costs|as before).*memory|at the peak' "$work/text")" -ge 3
holds "JSON has the counts" python3 - "$work/advice.json" <<'PY'
import json, sys
advice = json.load(open(sys.argv[1]))
sites = {site["function"]: site for site in advice["sites"]}
assert sites["parse_header"]["count"] == 32000, sites["parse_header"]["count"]
assert sites["parse_header"]["size"]["median"] == 48
assert {p["kind"] for p in advice["proposals"]} >= {"arena", "realloc", "stack"}
arena = next(p for p in advice["proposals"] if p["kind"] == "arena")
assert arena["measured"]["rounds"] == 3 and arena["measured"]["before_ns"] > 0
PY
passes "a program can be advised on at once" "$freehold" advise --rounds 1 --top 1 -- "$program"
holds "and what it prints is its own" grep -q 'bytes answered' "$work/out"
if [[ -f $BUILD_DIR/report/report.html ]]; then
    passes "a page is written" "$freehold" advise --rounds 1 --top 1 --html "$work/page.html" "$work/run.fht"
    holds "with the data in it" grep -q '"kind":"advise"' "$work/page.html"
fi

refused 2 "no trace and no program is given"
refused 2 "did you mean '--rounds'?" --round 3 x
refused 2 "takes a number from 1 to 99" --rounds 0 x
refused 2 "libc or freehold" --malloc nosuch x
refused 2 "$work/nowhere" "$work/nowhere"
echo "no trace" >"$work/text.fht"
refused 3 "text.fht" "$work/text.fht"
# Cut before its first chunk of events (6, tools/trace_format.h), and before its first process (2).
for kind in 6 2; do
    python3 - "$work/run.fht" $kind >"$work/cut-$kind.fht" <<'PY'
import sys
data = open(sys.argv[1], "rb").read()
at = data.find(b"CHNK")
while data[at + 4] != int(sys.argv[2]):
    at = data.index(b"CHNK", at + 4)
sys.stdout.buffer.write(data[:at])
PY
done
refused 3 "was cut before anything complete was written; record again" "$work/cut-6.fht"
refused 3 "no process in it can be read" "$work/cut-2.fht"
cat >"$work/list.c" <<'END'
#include <stdlib.h>
struct node { struct node *next; long value[2]; };
int main(void)
{
    struct node *list = NULL;
    for (long i = 0; i < 20000; i++) {
        struct node *node = malloc(sizeof *node);
        *node = (struct node){list, {i, i}};
        list = node;
    }
    while (list != NULL) {
        struct node *next = list->next;
        free(list);
        list = next;
    }
    char *text = malloc(16);
    for (size_t size = 16; size < 3015; size++)
        text = realloc(text, size + 1);
    free(text);
    return 0;
}
END
cc -O1 -g -fno-builtin "$work/list.c" -o "$work/list"
passes "a list that main builds and frees is advised on" "$freehold" advise --rounds 1 --json "$work/list.json" -- "$work/list"
holds "it is no block for the stack, and one that grows is one" python3 - "$work/list.json" <<'PY'
import json, sys
advice = json.load(open(sys.argv[1]))
proposals = {p["kind"]: p for p in advice["proposals"]}
assert "stack" not in proposals and proposals["scratch"]["blocks"] == 20000, proposals
assert "1 block grows 2,999 times," in proposals["realloc"]["evidence"], proposals["realloc"]
PY
finish
