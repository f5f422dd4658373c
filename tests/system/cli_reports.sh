#!/bin/bash
# Reports reach the user with functions, files and lines, whatever their program did before, and neither a missing reader
# nor a busy one does anything to the program. freehold symbolize does the same for saved ones.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
freehold=$BUILD_DIR/freehold
reporter=$(program reporter)
mkdir "$work/tmp"
export TMPDIR=$work/tmp
cd "$work"

line_of() { # the line of reporter.c with this mark
    grep -n "line: $1 " "$SOURCE_DIR/tests/system/reporter.c" | cut -d: -f1
}

# run STATUS ARG…: `freehold run ARG…` ends with the status; what it says is in err.
run() {
    local expected=$1 status=0
    shift
    claims=$((claims + 1))
    { timeout 60 "$freehold" run "$@" >out 2>err </dev/null; } 2>/dev/null || status=$?
    ((status == expected)) || not_so "'freehold run $*' ends with $expected" "$(status_in_words $status)" err
}

# shows CLAIM [FILE]: the whole stack, inlined functions with their lines and all numbers in order, is in FILE.
shows() {
    local file=${2-err} name number=0
    claims=$((claims + 1))
    for name in innermost in_between commit; do
        grep -qE "^    #$number (0x[0-9a-f]+ in )?$name .*reporter\.c:$(line_of $name)$" "$file" || {
            not_so "$1: #$number $name with its line" "it says:" "$file"
            return 0
        }
        number=$((number + 1))
    done
    grep -qE "^    #$number (0x[0-9a-f]+ in )?main .*reporter\.c:[0-9]+$" "$file" || not_so "$1: #$number main" "it says:" "$file"
}

run 134 --mode hardened -- "$reporter"
shows "a report has lines"
run 134 --mode debug -- "$reporter"
shows "in debug mode too"
run 3 --mode hardened --on-error exit=3 -- "$reporter"
shows "whatever is done after the report"
run 0 --mode hardened --on-error continue -- "$reporter"
shows "when the program goes on"
run 134 --mode hardened --stats -- "$reporter"
shows "with figures asked for as well"
holds "which come after the report" bash -c 'grep -nE "ERROR|SIGABRT|Allocations|allocations" err | sort -n | head -1 | grep -q ERROR'

run 134 --mode hardened -- "$reporter" close-all
shows "after all descriptors were closed"
run 134 --mode hardened -- "$reporter" limit-files
shows "when no file may be written"
cp "$reporter" there
run 134 --mode hardened -- bash -c 'cd / && exec "$1"' - "$work/there"
shows "from another folder"

run 134 --mode hardened --log log -- "$reporter"
holds "nothing of a report goes to standard error with --log" bash -c '! grep -q "#0" err'
shows "and all of it to the log" log
run 134 --mode hardened --log log-%p -- "$reporter"
shows "also one for each process" log-[0-9]*
holds "and only to one" bash -c 'test "$(ls log-* | wc -l)" = 1'
FREEHOLD=log=$work/users run 134 --mode hardened -- "$reporter"
shows "and to the log that is set in FREEHOLD" users

run 134 --mode hardened --on-error continue -- bash -c '"$1" children; kill -ABRT $$' - "$reporter"
holds "eight processes at once are all heard" bash -c 'test "$(grep -c "ERROR: invalid-free" err)" = 9'
holds "each with the whole of its stack" bash -c "test \"\$(grep -c 'in_between .*reporter\.c:$(line_of in_between)\$' err)\" = 9"
holds "and none within another's" bash -c '! grep -oE "ERROR|^SUMMARY" err | uniq -d | grep -q .'
run 0 --mode hardened --on-foreign warn -- "$reporter" often
holds "no message of thousands is lost" bash -c 'test "$(grep -c "WARNING: invalid-free" err)" = 3001'

# A process that is killed in the middle: what it said is there, in whole lines, and the command ends.
for delay in 0.01 0.02 0.03 0.05; do
    run 137 --mode hardened --on-foreign warn -- bash -c '"$1" often often often often often often often often & sleep '$delay'; kill -9 $! $$ 2>/dev/null' - "$reporter"
    holds "a process killed after $delay s leaves whole lines" bash -c '! grep -v "^freehold: WARNING: .*; ignored$" err'
done

# The command is gone: the program says it itself.
status=0
{ timeout 60 "$freehold" run --mode hardened --on-error exit=7 -- "$reporter" lose-parent >out 2>err </dev/null; } 2>/dev/null || status=$?
holds "the command was killed" test "$status" = 137
claims=$((claims + 1))
for i in $(seq 100); do grep -q "main" err && break; sleep 0.05; done
grep -q "ERROR: invalid-free" err || not_so "its program goes on, and says itself what there is to say" "it says:" err
holds "with addresses" grep -qE 'commit\+0x[0-9a-f]+ \(/.*reporter\+0x[0-9a-f]+\)' err
run 0 --mode hardened -- "$reporter" daemon
claims=$((claims + 1))
for i in $(seq 100); do grep -q "main" err && break; sleep 0.05; done
grep -q "ERROR: invalid-free" err || not_so "a daemon that outlives the command is heard" "it says:" err
holds "nothing is left in TMPDIR" test -z "$(ls "$TMPDIR")"

# A slow reader of standard error: the program waits for nobody.
mkfifo slow
sleep 5 <slow &
sleeper=$!
claims=$((claims + 1))
status=0
timeout 4 bash -c '"$1" run --mode hardened --on-foreign warn --log log-slow -- "$2" often 2>slow' - "$freehold" "$reporter" || status=$?
((status == 0)) || not_so "a log does not wait for who reads standard error" "$(status_in_words $status)"
kill "$sleeper" 2>/dev/null || true

# Saved reports.
{ "${under[@]}" "$reporter" 2>saved || true; } 2>/dev/null
passes "a saved report is read" "$freehold" symbolize saved
cp out symbolized
shows "and has lines then" symbolized
holds "the rest of it stays" bash -c 'diff <(grep -v "^ *#\|^SUMMARY" saved) <(grep -v "^ *#\|^SUMMARY" symbolized)'
holds "and its summary has the line" grep -qE "^SUMMARY: freehold: invalid-free .*reporter.c:$(line_of innermost) in innermost\$" symbolized
passes "from standard input as well" bash -c '"$1" symbolize - <saved | diff - symbolized' - "$freehold"
passes "a second time it stays" bash -c '"$1" symbolize symbolized | diff - symbolized' - "$freehold"
passes "JSON is written on demand" "$freehold" symbolize --json stacks.json saved
cat >check.py <<'END'
import json, sys
stack = json.load(open(sys.argv[1]))["stacks"][0]
names = [frame["function"] for frame in stack["frames"]]
assert names[:4] == ["innermost", "in_between", "commit", "main"], names
assert [frame["is_inlined"] for frame in stack["frames"][:4]] == [True, True, False, False], stack
assert all(frame["line"] > 0 and frame["file"].endswith("reporter.c") for frame in stack["frames"][:4])
assert "invalid-free" in stack["title"]
END
passes "with title, functions, files and lines" python3 check.py stacks.json

# Damaged lines pass through: each prefix of a frame, bytes that are no text, JSON that is cut off.
frame=$(grep -m1 '#0' saved)
{
    for len in $(seq 0 $((${#frame} - 1))); do printf '%s\n' "${frame:0:len}"; done
    printf '    #0 main+0x1 (/no/such/file+0x12)\n    #1 x (+0x)\n#999999999999 f+0x1 (/bin/sh+0x1)\n'
    printf '    #0 f (/bin/sh+0x11112222333344445555)\n\0\377\376\n{"module":"/bin/sh","offset":\n{"a":1}\n{}\n    #'
} >damaged
passes "damaged lines are no obstacle" bash -c '"$1" symbolize damaged 2>/dev/null' - "$freehold"
holds "and pass through unchanged" cmp damaged out
printf '{"stack":[{"module":"%s","offset":"0x%s","n":1}]}\n{"stack":\n' "$reporter" "$(sed -nE 's/.*#0.*\+0x([0-9a-f]+)\).*/\1/p' saved)" >lines
passes "JSON lines get functions" "$freehold" symbolize lines
holds "inlined ones too" grep -q "\"inlined\":\[{\"function\":\"innermost\",\"file\":\"[^\"]*reporter.c\",\"line\":$(line_of innermost)}" out
holds "and keep what they had" grep -q '"n":1' out
holds "a damaged one passes through" bash -c 'test "$(tail -n 1 out)" = "{\"stack\":"'

cat >mutate.py <<'END'
import random, sys
random.seed(7)
lines = open(sys.argv[1], "rb").read().splitlines(True)
for _ in range(300):
    text = bytearray(b"".join(lines))
    for _ in range(random.randrange(1, 12)):
        at = random.randrange(len(text))
        what = random.randrange(3)
        if what == 0:
            text[at] = random.choice(b"0123456789abcdef#+()xX \n/{}\0\xff" + bytes([random.randrange(256)]))
        elif what == 1:
            del text[at : at + random.randrange(1, 40)]
        else:
            text[at:at] = text[random.randrange(len(text)) :][: random.randrange(60)]
    sys.stdout.buffer.write(text)
END
python3 mutate.py saved >mutated
passes "reports with random damage are read" bash -c '"$1" symbolize mutated >/dev/null 2>&1' - "$freehold"
passes "as JSON too" bash -c '"$1" symbolize --json /dev/null mutated 2>&1' - "$freehold"

# Functions of C++ by their names.
cat >widgets.cc <<'END'
namespace app {
template <class T> struct Box {
    T *content;
    __attribute__((noinline)) void drop() { delete content; __asm__ volatile(""); }
};
}
int main() { app::Box<int> box{new int}; box.drop(); box.drop(); }
END
if c++ -g -O1 widgets.cc -o widgets 2>/dev/null; then
    run 134 --mode hardened -- ./widgets
    holds "a method has its class and its line" grep -qE '#0 0x[0-9a-f]+ in app::Box<int>::drop\(\) .*widgets\.cc:4$' err
fi

# Libraries and programs that are gone, or other ones now.
cp "$reporter" moved
{ "${under[@]}" ./moved 2>saved || true; } 2>/dev/null
rm moved
passes "a program that is gone is no obstacle" "$freehold" symbolize saved
holds "its frames stay as they are" bash -c 'diff <(grep moved saved) <(grep -v "is gone" out | grep moved)'
mkfifo pipe
printf '    #0 f+0x1 (%s/pipe+0x12)\n    #1 g+0x1 (/dev/zero+0x12)\n' "$work" >strange
LIMIT=10 passes "what is no file is not opened" bash -c '"$1" symbolize strange 2>/dev/null' - "$freehold"
holds "and its frames stay as they are" cmp strange out
cp "$reporter" stripped
strip stripped
run 134 --mode hardened -- ./stripped
holds "without debug information frames have addresses" grep -qE '#0 .*\(.*stripped\+0x[0-9a-f]+\)' err
holds "and one line says what to do" bash -c 'test "$(grep -c "build it with -g" err)" = 1'
build_id=$(readelf -n "$reporter" | sed -n 's/.*Build ID: //p')
place=$(sed -nE 's/.*#0.*\((.*\+0x[0-9a-f]+)\)$/\1/p' err | sed 's/.*+/+/')
printf '    #0 ?? (%s%s) (BuildId: %s)\n' "$reporter" "$place" "$build_id" >with-id
passes "a file is taken when it has the build id" "$freehold" symbolize with-id
holds "and gives the line" grep -q "reporter.c:$(line_of innermost)" out
printf '    #0 ?? (%s%s) (BuildId: %s)\n' "$reporter" "$place" "${build_id//[0-9]/a}" >with-id
passes "another one is not" "$freehold" symbolize with-id
holds "and gives none" bash -c '! grep -q reporter.c: out'

# A report whose end says which build its modules are.
report_of() { # report_of PATH BUILD_ID
    printf 'freehold: ERROR: double-free on address 0x1\n    #0 0x1 in ?? (%s%s)\n    #1 0x2 in ??\n' "$1" "$place"
    printf 'module %s build-id %s\nSUMMARY: freehold: double-free (%s%s) in ??\n' "$1" "$2" "$1" "$place"
}
cp "$reporter" "$work/other one"
report_of "$work/other one" "$build_id" >named
passes "a report that names its builds is read" "$freehold" symbolize named
holds "and has lines" grep -qE "^    #2 0x1 in commit .*reporter.c:$(line_of commit)\$" out
holds "frames that are not known are counted on" grep -qx '    #3 0x2 in ??' out
holds "so has its summary" grep -qE "^SUMMARY: freehold: double-free /.*reporter.c:$(line_of innermost) in innermost\$" out
report_of "$work/other one" "${build_id//[0-9]/a}" >named
passes "a report of another build is read" "$freehold" symbolize named
holds "and stays as it is" bash -c 'diff named <(grep -v ^freehold:.*replaced out)'
{ report_of "$work/other one" "${build_id//[0-9]/a}" && report_of "$work/other one" "$build_id"; } >named
passes "two reports, one of each" "$freehold" symbolize named
holds "do not touch each other" test "$(grep -c "reporter.c:$(line_of innermost)" out)" = 2
finish
