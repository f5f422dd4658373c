#!/bin/bash
# The command and the modes together: planted errors of examples/faults.c are reported with the right word and with the lines of
# access, allocation and free; the good twin runs in silence; figures, logs and JSON go with it.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
freehold=$BUILD_DIR/freehold
faults=$BUILD_DIR/examples/faults
source_file=$SOURCE_DIR/examples/faults.c
[[ -x $faults ]] || exit 77
cd "$work"

line_of() { # of the first line of faults.c with this text
    grep -nF -- "$1" "$source_file" | head -1 | cut -d: -f1
}

# finds MODE FAULT KIND: the report's first word.
finds() {
    local status=0
    claims=$((claims + 1))
    { timeout 60 "$freehold" run --mode "$1" --report "errors-$1-$2" -- "$faults" "$2" >out 2>err </dev/null; } 2>/dev/null || status=$?
    ((status == 134)) && grep -qE "^freehold: ERROR: $3 " err ||
        not_so "$2 in $1 mode is reported as $3" "$(status_in_words $status)" err
    holds "and its summary says so" grep -qE "^SUMMARY: freehold: $3 .*faults\.c:[0-9]+ in " err
}

# at CLAIM TITLE FUNCTION LINE: in the stack below the line with TITLE the function stands at that line.
at() {
    claims=$((claims + 1))
    sed -nE "/$2/,/(here:|is located .*)$|^SUMMARY/p" err | grep -qE "^    #[0-9]+ 0x[0-9a-f]+ in $3 .*faults\.c:$4$" ||
        not_so "$1: $3 at line $4" "it says:" err
}
second=$(line_of "free(first);")

for mode in hardened debug; do
    finds $mode double-free double-free
    at "the second free" "^free of" double_free "$second"
    at "the first free" "^freed by thread" remove_all "$(line_of "free(list);")"
    at "what called it" "^freed by thread" double_free $((second - 1))
    at "the allocation" "^allocated by thread" add "$(line_of "malloc(sizeof *person)")"
    finds $mode after-free heap-use-after-free
    at "the access" "^READ of size" after_free "$(line_of "puts(list->name);")"
    at "the free before" "^freed by thread" remove_all "$(line_of "free(list);")"
    finds $mode overflow heap-buffer-overflow
    at "the write itself" "^WRITE of size 1 " join "$(line_of "*end++ = *letter;")"
    at "the block" "^allocated by thread" join "$(line_of "char *line = malloc(size);")"
    passes "the good twin runs" "$freehold" run --mode $mode -- "$faults" good
    printf '%s\n' Grace Barbara Ada >good
    equal "and says nothing more" good out
done
passes "the JSON is read" "$freehold" symbolize --json read errors-debug-double-free
cat >check.py <<'END'
import json, sys
error = json.load(open("read"))["errors"][0]
assert error["kind"] == "double-free", error
for stack, function in (("stack", "double_free"), ("allocation", "add"), ("free", "remove_all")):
    frame = error[stack][0]
    assert frame["function"] == function and frame["file"].endswith("faults.c") and frame["line"] > 0, frame
END
passes "and has functions and lines" python3 check.py

# Suppressed, it is counted and the program goes on.
echo "double-free:double_free" >known
passes "a known error is no error" "$freehold" run --mode hardened --suppress known -- "$faults" double-free
holds "and is not reported" bash -c '! grep -q "ERROR: double-free" out'
finish
