#!/bin/bash
# freehold replay: figures of a trace whose calls are known, every allocator by its name, traces and allocators that are
# not what they should be.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
freehold=$BUILD_DIR/freehold
model=$BUILD_DIR/tests/trace_model
mkdir "$work/tmp"
cd "$work"
export TMPDIR=$work/tmp

# figure FILE EXPRESSION: what a Python expression over the JSON object d says; a(NAME) is an allocator's object.
figure() {
    python3 - "$1" "$2" <<'PY'
import json, sys
d = json.load(open(sys.argv[1]))
def a(name):
    return next(x for x in d["allocators"] if x["name"] == name)
print(eval(sys.argv[2]))
PY
}

# says EXPECTED FILE EXPRESSION
says() {
    claims=$((claims + 1))
    local is
    is=$(figure "$2" "$3" 2>&1) || true
    [[ $is == "$1" ]] || not_so "$3 of $2 is $1" "it is $is"
}

# refuses STATUS TEXT ARG…: `freehold replay ARG…` ends so, with one line that holds TEXT, and prints nothing else.
refuses() {
    local expected=$1 text=$2 status=0
    shift 2
    claims=$((claims + 1))
    timeout 60 "$freehold" replay "$@" >out 2>err </dev/null || status=$?
    if ((status != expected)); then
        not_so "'replay $*' ends with $expected" "$(status_in_words $status)" err
    elif [[ $(wc -l <err) != 1 || $(head -c 10 err) != "freehold: " || -s out ]]; then
        not_so "'replay $*' says one line" "it says:" err
    elif ! grep -qF -- "$text" err; then
        not_so "'replay $*' says '$text'" "it says:" err
    fi
}

# ends STATUS TEXT ARG…: the same, but it reports all the same, and TEXT is somewhere.
ends() {
    local expected=$1 text=$2 status=0
    shift 2
    claims=$((claims + 1))
    timeout 100 "$freehold" replay "$@" >out 2>&1 </dev/null || status=$?
    if ((status != expected)); then
        not_so "'replay $*' ends with $expected" "$(status_in_words $status)" out
    elif ! grep -qF -- "$text" out; then
        not_so "'replay $*' says '$text'" "it says:" out
    fi
}

# ---- Known figures

"$model" small.fht small
passes "a small trace is replayed by all" "$freehold" replay --rounds 1 --json small.json small.fht
says 13 small.json 'd["program"]["events"]'
says "[6, 5, 2]" small.json '[d["program"][k] for k in ("allocs", "frees", "resizes")]'
says 5460 small.json 'd["program"]["peak_live_bytes"]'
says 4 small.json 'd["program"]["peak_live_blocks"]'
says 6 small.json 'd["program"]["peak_event"]'
says "[300, 1]" small.json '[d["program"]["end_live_" + k] for k in ("bytes", "blocks")]'
says 1 small.json 'd["program"]["unknown_frees"]'
says "[2, 1]" small.json '[d["program"][k] for k in ("over_aligned", "zeroed")]'
says "model of a program" small.json 'd["trace"]["command"]'
says True small.json 'd["trace"]["is_whole"]'
says 1 small.json 'd["rounds"]'

"$freehold" replay --list | sed -nE 's/^  ([a-z][a-z-]*) .*/\1/p' | sort >names
figure small.json '"\n".join(sorted(x["name"] for x in d["allocators"]))' >took-part
equal "every allocator of --list takes part" names took-part
says "[]" small.json '[x["name"] for x in d["allocators"] if x["status"] not in ("done", "not-installed")]'
says "[]" small.json '[x["name"] for x in d["allocators"] if x["kind"] == "manager" and x["status"] != "done"]'
says "[]" small.json '[x["name"] for x in d["allocators"] if x["status"] == "done" and x["memory"]["refused"] == 0
    and x["memory"]["at_peak"]["requested"] != 5460]'
says "[]" small.json '[x["name"] for x in d["allocators"] if x["status"] == "done" and x["memory"]["refused"] == 0
    and x["memory"]["at_end"]["requested"] != 300]'

"$model" mix.fht mix 300000 4000
passes "a mix is replayed in three rounds" "$freehold" replay --rounds 3 --json mix.json mix.fht
says 300000 mix.json 'd["program"]["events"]'
says "[]" mix.json '[x["name"] for x in d["allocators"] if x["status"] == "done" and len(x["time"]["rounds"]) != 3]'
says "[]" mix.json '[x["name"] for x in d["allocators"] if x["status"] == "done" and
    x["memory"]["peak_resident"] < d["program"]["peak_live_bytes"] * .9]'
says "[]" mix.json '[x["name"] for x in d["allocators"] if x["status"] == "done" and x["kind"] == "manager" and
    x["memory"]["peak_footprint"] < x["memory"]["at_peak"]["requested"]]'
says "[]" mix.json '[x["name"] for x in d["allocators"] if x["status"] == "done" and x["memory"].get("at_peak").get("internal", 0) < 0]'
says "[]" mix.json '[x["name"] for x in d["allocators"] if x["status"] == "done" and
    not (x["memory"]["course"]["events"][-1] == 300000 and len(x["memory"]["course"]["resident"]) == len(x["memory"]["course"]["events"]))]'
says True mix.json 'a("glibc")["time"]["ns_per_event"] > 0'
says True mix.json 'a("heap")["memory"]["at_peak"]["requested"] == d["program"]["peak_live_bytes"]'

"$model" grow.fht grow 100000 50
passes "resizes are replayed" "$freehold" replay --rounds 1 --json grow.json --allocators heap,glibc,freehold grow.fht
says True grow.json 'd["program"]["resizes"] > 99000'
says "[0, 0, 0]" grow.json '[x["memory"]["refused"] for x in d["allocators"]]'

"$model" threads.fht threads 50000
ends 0 "the calls of 4 threads are replayed by one" --rounds 1 --allocators heap threads.fht

passes "latencies are shown" "$freehold" replay --rounds 2 --latency --json latency.json --allocators heap,glibc mix.fht
says True latency.json 'all(0 < l["p50"] <= l["p99"] <= l["p9999"] <= l["worst"] for x in d["allocators"] for l in x["latency_ns"].values())'

passes "JSON goes to standard output" bash -c '"$1" replay --rounds 1 --allocators glibc --json - small.fht 2>table | python3 -m json.tool >/dev/null' - "$freehold"
holds "and the table to standard error then" grep -q '^glibc ' table

# ---- Pictures and pages

passes "heaps are drawn" "$freehold" replay --rounds 1 --allocators tlsf,best-fit,glibc --map heap.png mix.fht
holds "one picture a manager" test "$(echo heap-*)" = "heap-best-fit.png heap-tlsf.png"
holds "they are PNG files" bash -c '[[ $(head -c 4 heap-tlsf.png | tail -c 3) == PNG ]]'
passes "one manager's is the file that was named" "$freehold" replay --rounds 1 --allocators tlsf --map one.svg mix.fht
holds "and is SVG by its name" grep -q '<svg' one.svg
refuses 2 "neither in .png nor in .svg" --map heap.gif small.fht
refuses 2 "names none" --allocators glibc --map heap.png small.fht
ends 2 "can't be written" --rounds 1 --allocators tlsf --map no/where.png small.fht
if [[ -f $BUILD_DIR/report/report.html ]]; then
    passes "a page is written" "$freehold" replay --rounds 1 --allocators heap --html page.html small.fht
    holds "with the data in it" grep -q '"peak_live_bytes": *5460' page.html
    ends 2 "No space left on device" --rounds 1 --allocators heap --html /dev/full small.fht
else
    refuses 2 "has no page" --html page.html small.fht
    holds "and no page is left" test ! -e page.html
fi

passes "the least memory is found" "$freehold" replay --rounds 1 --minimum --json least.json --allocators best-fit,tlsf,arena small.fht
says True least.json 'all(5460 <= a(x)["minimum"]["bytes"] < 32768 for x in ("best-fit", "tlsf"))'
says False least.json '"minimum" in a("arena")'
says True mix.json 'a("arena")["memory"]["garbage_bytes"] == d["program"]["total_bytes"] - d["program"]["end_live_bytes"]'

# ---- Allocators

refuses 2 "did you mean 'glibc'?" --allocators heap,glib small.fht
refuses 2 "freehold replay --list" --allocators no-such-thing-at-all small.fht
refuses 2 "names none" --allocators , small.fht
refuses 2 "no library './libnothing.so'" --allocators ./libnothing.so small.fht
refuses 2 "did you mean 'glibc'?" --allocators malloc small.fht
refuses 2 "did you mean 'glibc'?" --allocators libc small.fht
refuses 2 "does not define malloc and free" --allocators "$(program libplugin),glibc" small.fht
refuses 2 "does not define malloc and free" --allocators /bin/true small.fht
echo "int x;" >file.c
refuses 2 "'./file.c' is no shared library" --allocators ./file.c small.fht
# A library of another machine: that field of the header is the only one that differs.
{ head -c 18 "$(program libplugin)"; printf '\1\0'; tail -c +21 "$(program libplugin)"; } >other.so
refuses 2 "'./other.so' is a library of another architecture" --allocators ./other.so small.fht
cat >libdies.c <<'END_OF_C'
#include <stdlib.h>
static char memory[1 << 20] __attribute__((aligned(16)));
static size_t used, calls;
void *malloc(size_t size)
{
    if (++calls > 5000)
        abort();
    used = (used + 15) & ~(size_t)15;
    void *block = memory + used;
    used = (used + size) % (sizeof memory / 2);
    return block;
}
void *calloc(size_t n, size_t size) { return malloc(n * size); }
void *realloc(void *block, size_t size) { (void)block; return malloc(size); }
void free(void *block) { (void)block; }
END_OF_C
cc -fPIC -shared -fno-builtin libdies.c -o libdies.so
ends 1 "died by SIGABRT" --rounds 1 --allocators ./libdies.so,glibc mix.fht
holds "an allocator that dies leaves the others alone" grep -q '^glibc  *[0-9]' out
# A command without its library beside it.
mkdir alone
cp "$freehold" "$BUILD_DIR"/libfreehold.so.0 alone
freehold_before=$freehold
freehold=$work/alone/freehold
if "$freehold" replay --list | grep -q 'freehold.*not here'; then
    ends 4 "freehold      not installed" --rounds 1 --allocators freehold,glibc small.fht
    ends 0 "freehold      not installed" --rounds 1 small.fht
else
    skip "a libfreehold-malloc is installed on this machine"
fi
freehold=$freehold_before

# ---- Traces

size=$(stat -c %s mix.fht)
head -c $((size * 2 / 3)) mix.fht >cut.fht
ends 0 "was cut off" --rounds 1 --allocators heap --json cut.json cut.fht
says False cut.json 'd["trace"]["is_whole"]'
says True cut.json '0 < d["program"]["events"] < 300000'
{ head -c $((size / 2)) mix.fht; head -c 64 /dev/zero | tr '\0' '\377'; tail -c +$((size / 2 + 65)) mix.fht; } >damaged.fht
ends 3 "damaged" --rounds 1 --allocators heap --json damaged.json damaged.fht
says False damaged.json 'd["trace"]["is_whole"]'
: >nothing.fht
refuses 3 "nothing.fht" nothing.fht
head -c 4096 /dev/urandom >noise.fht
refuses 3 "noise.fht" noise.fht
refuses 2 "missing.fht" missing.fht
refuses 3 "is no trace" "$SOURCE_DIR/tests/system/replay.sh"
# cut_at TRACE KIND: its bytes before the first chunk of that kind (tools/trace_format.h).
cut_at() {
    python3 - "$1" "$2" <<'PY'
import sys
data = open(sys.argv[1], "rb").read()
at = data.find(b"CHNK")
while data[at + 4] != int(sys.argv[2]):
    at = data.index(b"CHNK", at + 4)
sys.stdout.buffer.write(data[:at])
PY
}
cut_at small.fht 6 >unwritten.fht
refuses 3 "was cut before anything complete was written; record again" unwritten.fht
cut_at small.fht 2 >nobody.fht
refuses 3 "no process in it can be read" nobody.fht
refuses 3 "no process in it can be read" --process 1 nobody.fht
{ cat nobody.fht; tail -c +$(($(stat -c %s nobody.fht) + 1)) small.fht | tr '\2' '\3'; } >no-process.fht
refuses 3 "no process in it can be read" no-process.fht
"$model" empty.fht empty
refuses 1 "nothing to replay" empty.fht
refuses 2 "one too many" small.fht mix.fht
refuses 2 "no trace is given"
refuses 2 "processes 0 to 0" --process 1 small.fht
for rounds in 0 100 -1 x 1.5; do
    refuses 2 "--rounds takes a number from 1 to 99" --rounds "$rounds" small.fht
done
refuses 2 "can't be written" --json no/where small.fht
refuses 2 "Is a directory" --json tmp small.fht
echo before >kept.json
refuses 1 "nothing to replay" --json kept.json empty.fht
holds "an older file stays when there is nothing to write" grep -q before kept.json
holds "no file is left beside it" test -z "$(compgen -G 'kept.json.*')"
holds "nothing is left in TMPDIR" test -z "$(ls "$TMPDIR")"
finish
