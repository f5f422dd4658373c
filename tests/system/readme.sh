#!/bin/bash
# The documents tell the truth: each command in a ```sh block of README.md, TESTING.md, CONTRIBUTING.md and docs/ is
# run and has to succeed. A block preceded by <!-- not tested: REASON --> is left out; <!-- expect: TEXT --> asks
# for TEXT in the output, <!-- status: N --> for that exit status.
set -uo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# The commands run in a copy of the tree without build/, with the built things at their documented place.
cd "${SOURCE_DIR:?}" || exit 1
tar -c --exclude=./build --exclude=./.git --exclude=./out . | tar -x -C "$work"
mkdir -p "$work/build"
ln -s "${BUILD_DIR:?}" "$work/build/release"
cd "$work" || exit 1
# What the tests run on is built already: make finds its `build` done.
mkdir bin
printf '#!/bin/sh\nexec %s -o build "$@"\n' "$(command -v make)" >bin/make
chmod +x bin/make
export PATH=$work/bin:$PATH
unset MAKEFLAGS MAKELEVEL MFLAGS

awk '
    function forget() { skip = 0; expect = ""; code = 0 }
    FNR == 1 { in_block = 0; forget() }
    !in_block && /^<!-- not tested: / { skip = 1 }
    !in_block && /^<!-- status: / { code = $3 }
    !in_block && /^<!-- expect: / { expect = $0; sub(/^<!-- expect: /, "", expect); sub(/ -->$/, "", expect) }
    !in_block && /^```/ {
        in_block = 1
        is_command = $0 == "```sh" && !skip
        if (is_command) {
            file = sprintf("block-%03d", ++count)
            print FILENAME ":" FNR > (file ".where")
            print expect > (file ".expect")
            print code > (file ".status")
        }
        next
    }
    in_block && /^```/ { in_block = 0; forget(); next }
    in_block && is_command { print > file }
' README.md TESTING.md CONTRIBUTING.md $(find docs -name '*.md' 2>/dev/null | sort)

status=0
count=0
for block in block-???; do
    [[ -f $block ]] || continue
    count=$((count + 1))
    timeout 100 bash -eu "$block" >"$block.out" 2>&1 </dev/null
    got=$?
    if [[ $got != "$(cat "$block.status")" ]] || ! grep -qF -- "$(cat "$block.expect")" "$block.out"; then
        echo "$(cat "$block.where"): exit $got, expected $(cat "$block.status") and '$(cat "$block.expect")'"
        cat "$block"
        tail -20 "$block.out"
        status=1
    fi
done
((count > 0)) || { echo "no command found in the documents"; status=1; }
exit $status
