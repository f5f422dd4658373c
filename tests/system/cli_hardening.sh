#!/bin/bash
# freehold doctor PROG tells how a program was hardened: each property is seen in a program that has it and missed in its
# twin that has not, with what to do; a damaged note is no property. The bad twins only warn: they can be preloaded.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
freehold=$BUILD_DIR/freehold
cd "$work"

cat >copy.c <<'END'
#include <stdio.h>
#include <string.h>
int main(int argc, char **argv)
{
    char text[64] = "";
    strncpy(text, argv[argc - 1], sizeof(text) - (size_t)argc);
    return printf("%s\n", text) < 0;
}
END

# build NAME FLAG…: a program, or a skipped claim where the compiler does not know the flags.
build() {
    local name=$1
    shift
    cc -w -O2 copy.c -o "$name" "$@" 2>"$work/cc"
}

# doctor_says NAME FINDING MARK STATE: of the program NAME.
doctor_says() {
    "$freehold" doctor "./$1" >"$work/report" || true
    claims=$((claims + 1))
    grep -qE "^  $3 $2 +$4( |$)" "$work/report" || not_so "'$2' of $1 is '$3 $4'" "it is:" <(grep " $2 " "$work/report")
}

# advice NAME FINDING TEXT: the line after the finding says what to do.
advice() {
    claims=$((claims + 1))
    grep -A1 " $2 " "$work/report" | grep -qF -- "$3" || not_so "$2 of $1: '$3'" "it says:" <(grep -A1 " $2 " "$work/report")
}

build pie -fPIE -pie && doctor_says pie "position independent" ok yes
build fixed -fno-PIE -no-pie && doctor_says fixed "position independent" " !" no && advice fixed "position independent" -pie

build full -Wl,-z,relro,-z,now && doctor_says full "relocations read-only" ok full
build partial -Wl,-z,relro,-z,lazy && doctor_says partial "relocations read-only" " !" partial &&
    advice partial "relocations read-only" "-z now"
build writable -Wl,-z,norelro && doctor_says writable "relocations read-only" " !" none

build plain_stack -Wl,-z,noexecstack && doctor_says plain_stack stack ok "not executable"
build open_stack -Wl,-z,execstack && doctor_says open_stack stack " !" executable && advice open_stack stack noexecstack

build canaries -fstack-protector-all && doctor_says canaries "stack canaries" ok yes
build bare -fno-stack-protector && doctor_says bare "stack canaries" " !" "none seen" &&
    advice bare "stack canaries" -fstack-protector-strong

build fortified -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2 && doctor_says fortified "fortified functions" ok "[1-9] of [1-9]"
build unfortified -U_FORTIFY_SOURCE -fno-builtin && doctor_says unfortified "fortified functions" " !" "0 of [1-9]" &&
    advice unfortified "fortified functions" _FORTIFY_SOURCE

build marked -nostartfiles -Wl,-e,main -fcf-protection=full && doctor_says marked "control flow marks" ok "IBT and SHSTK"
build unmarked -nostartfiles -Wl,-e,main -fcf-protection=none && doctor_says unmarked "control flow marks" " -" none &&
    advice unmarked "control flow marks" -fcf-protection

build usual && doctor_says usual "library path" ok "the system's"
build origin '-Wl,-rpath,$ORIGIN/lib' && doctor_says origin "library path" " -" '\$ORIGIN/lib'
build relative -Wl,-rpath,lib && doctor_says relative "library path" " !" lib && advice relative "library path" -rpath
build shared_folder -Wl,-rpath,/tmp/lib && doctor_says shared_folder "library path" " !" /tmp/lib
build empty_folder -Wl,-rpath,/usr/lib: && doctor_says empty_folder "library path" " !" /usr/lib:

passes "a program that lacks all of it can be preloaded" "$freehold" doctor ./open_stack
passes "and has its findings as JSON" "$freehold" doctor --json findings.json ./open_stack
holds "with the advice" grep -q noexecstack findings.json

if [[ -f marked ]]; then
    # Each byte of the note's size fields made the largest: nothing but "no marks" or damage is said, and nothing breaks.
    offset=$(readelf -lW marked | awk '$1 == "GNU_PROPERTY" || $1 == "LOOS+0x474e553" { print $2 }')
    for at in 4 5 6 7 20 21 22 23; do
        cp marked broken
        printf '\377' | dd of=broken bs=1 seek=$((offset + at)) conv=notrunc 2>/dev/null
        status=0
        "$freehold" doctor ./broken >"$work/report" 2>&1 || status=$?
        holds "a note with byte $at damaged is no property" \
            bash -c '(($1 <= 3)) && ! grep -q "IBT and SHSTK" "$2"' - "$status" "$work/report"
    done
fi
finish
