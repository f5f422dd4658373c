#!/bin/bash
# freehold run --mode and its kind: what reaches the program's environment, in which order libraries are preloaded, and that
# what can't be preloaded is refused in each mode as without one.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
freehold=$BUILD_DIR/freehold
cd "$work"

# settings CLAIM EXPECTED OPTION…: FREEHOLD as the program finds it, without what belongs to the run.
settings() {
    local claim=$1 expected=$2 found
    shift 2
    claims=$((claims + 1))
    found=$("$freehold" run "$@" -- printenv FREEHOLD 2>err | sed -E 's/(,|^)(relay|stats)=[^,]*//g') || true
    [[ $found == "$expected" ]] || not_so "$claim: $expected" "it is $found" err
}

settings "the mode travels" mode=hardened --mode hardened
settings "so does each option" \
    "mode=debug,guard=1,uaf=sweep,quarantine=1048576,limit=4294967296,fail=nth=99999999" \
    --mode=debug --guard 1 --uaf sweep --quarantine 1M --limit 4GiB --fail nth=99999999
settings "sizes travel in bytes" guard=65536 --guard 64k
settings "no guard is off" guard=off --guard off
echo "double-free:nobody" >known
settings "files travel with their folders" "suppress=$work/known,report=$work/errors" --suppress known --report errors
FREEHOLD=mode=debug,decay=7 settings "what the user has comes first" mode=debug,decay=7,mode=hardened --mode hardened

# The command of a folder that has both libraries, and of one that lacks the wrappers.
mkdir both lacking
cp "$freehold" both/freehold
cp "$freehold" lacking/freehold
cp "$FREEHOLD_LIB" "$BUILD_DIR"/libfreehold.so* both/
cp "$FREEHOLD_LIB" "$BUILD_DIR"/libfreehold.so* lacking/
echo 'int checked_by_freehold;' >debug.c
cc -shared -fPIC debug.c -o both/libfreehold-debug.so
export LD_LIBRARY_PATH=$work/both
passes "debug mode runs with its wrappers" ./both/freehold run --mode debug -- printenv LD_PRELOAD
holds "which stand before malloc" grep -qx "$work/both/libfreehold-debug.so:$work/both/$(basename "$FREEHOLD_LIB")" out
passes "hardened mode has none" ./both/freehold run --mode hardened -- printenv LD_PRELOAD
holds "and preloads malloc alone" grep -qx "$work/both/$(basename "$FREEHOLD_LIB")" out
passes "the mode may come from FREEHOLD" env FREEHOLD=mode=debug ./both/freehold run -- printenv LD_PRELOAD
holds "and brings the wrappers too" grep -q "libfreehold-debug.so:" out
if [[ ! -e $("$freehold" run -- sh -c 'dirname "$LD_PRELOAD"')/libfreehold-debug.so.0 ]]; then
    passes "without the wrappers debug mode runs" ./lacking/freehold run --mode debug -- true
    [[ ! -s out ]] || holds "and says so in one line" bash -c '(($(wc -l <out) == 1)) && grep -q "libfreehold-debug.so is not there" out'
fi
unset LD_LIBRARY_PATH

# refuses TEXT MODE PROG: ends with 126 and one line.
refuses() {
    local text=$1 mode=$2 status=0
    claims=$((claims + 1))
    "$freehold" run --mode "$mode" -- "$3" >out 2>err </dev/null || status=$?
    ((status == 126)) && grep -qF "$text" err && (($(wc -l <err) == 1)) ||
        not_so "'$3' is refused in mode $mode: $text" "$(status_in_words $status)" err
}

echo 'int main(void) { return 0; }' >main.c
cc -static main.c -o static 2>/dev/null
cc -fsanitize=address main.c -o sanitized 2>/dev/null
cc main.c -o foreign && printf '\267' | dd of=foreign bs=1 seek=18 conv=notrunc 2>/dev/null
for mode in fast hardened debug; do
    [[ ! -x static ]] || refuses "statically linked" $mode ./static
    [[ ! -x sanitized ]] || refuses "was built with AddressSanitizer" $mode ./sanitized
    [[ $(uname -m) != x86_64 ]] || refuses "is for AArch64" $mode ./foreign
done
finish
