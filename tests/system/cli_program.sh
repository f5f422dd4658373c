#!/bin/bash
# The command knows before it starts a program whether a library can be preloaded into it: real files, files with one field
# of their header changed, scripts. `run` refuses with 126 and one line with the reason, `doctor` comes to the same verdict.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
freehold=$BUILD_DIR/freehold
cd "$work"
chmod 711 "$work"
echo 'int main(void) { return 0; }' >main.c
cc main.c -o plain

# verdict TEXT PROG [DOCTOR_STATUS]: cannot be preloaded, for this reason.
verdict() {
    local status=0
    claims=$((claims + 2))
    timeout 20 "${as[@]}" "$freehold" run -- "$2" >out 2>err </dev/null || status=$?
    if [[ $status != 126 || $(wc -l <err) != 1 ]] || ! grep -qF -- "$1" err; then
        not_so "run refuses $2 by 126 and '$1'" "$(status_in_words "$status")" err
    fi
    status=0
    timeout 20 "${as[@]}" "$freehold" doctor "$2" >out 2>&1 </dev/null || status=$?
    if [[ $status != "${3:-1}" ]] || ! grep -qF -- "$1" out || ! grep -q "can't be preloaded" out; then
        not_so "doctor says of $2 '$1' and ends with ${3:-1}" "$(status_in_words "$status")" out
    fi
}

# fine PROG: runs under the command and is fine for the doctor.
fine() {
    passes "$1 runs" "${as[@]}" "$freehold" run -- "$1"
    passes "the doctor finds $1 fine" "${as[@]}" "$freehold" doctor "$1"
    holds "its verdict says so" grep -q 'verdict  *can be preloaded' "$work/out"
}

# patched NAME OFFSET BYTES: a copy of plain with these bytes there, as printf writes them.
patched() {
    cp plain "$1"
    printf "$3" | dd of="$1" bs=1 seek="$2" conv=notrunc status=none
}

as=(env)
fine ./plain
cc -no-pie main.c -o no-pie
fine ./no-pie
cc -static main.c -o static
verdict "is statically linked" ./static
cc -static-pie main.c -o static-pie 2>/dev/null && verdict "is statically linked" ./static-pie

# ---- Another architecture: e_ident's class and byte order, e_machine ----
patched arm64 18 '\267\000'
verdict "is for AArch64" ./arm64
patched riscv 18 '\363\000'
verdict "is for RISC-V" ./riscv
patched unheard 18 '\377\376'
verdict "is for machine type" ./unheard
patched x32 4 '\001'
verdict "with 32-bit pointers" ./x32
printf '\177ELF\001\001\001\0\0\0\0\0\0\0\0\0\002\0\003\0\001\0\0\0' >i386
chmod +x i386
verdict "32-bit x86" ./i386
printf '\177ELF\002\002\001\0\0\0\0\0\0\0\0\0\0\002\0\025\0\0\0\001' >ppc64
chmod +x ppc64
verdict "PowerPC 64" ./ppc64

# ---- Damage: each is said to be that, and none crashes the command ----
for size in 4 15 20 40 63 64 100 400; do
    head -c "$size" plain >"cut$size"
    chmod +x "cut$size"
    verdict "damaged or cut-off" "./cut$size" 3
done
patched no-headers 56 '\000\000'
verdict "damaged or cut-off" ./no-headers 3
patched far-headers 32 '\377\377\377\377\377\377\377\177'
verdict "damaged or cut-off" ./far-headers 3
patched object 16 '\001\000'
verdict "damaged or cut-off" ./object 3
# Whatever stands in the headers, the command comes to an answer.
RANDOM=7
for ((i = 0; i < 60; i++)); do
    cp plain broken
    for ((k = 0; k < 8; k++)); do
        printf "\\x$(printf %02x $((RANDOM % 256)))" |
            dd of=broken bs=1 seek=$((16 + RANDOM % 1000)) conv=notrunc status=none
    done
    claims=$((claims + 1))
    status=0
    timeout 20 "$freehold" doctor ./broken >out 2>&1 || status=$?
    ((status == 0 || status == 1 || status == 3)) ||
        not_so "the doctor answers whatever the headers hold (round $i)" "$(status_in_words $status)" out
done

# ---- Loaders ----
cc main.c -Wl,--dynamic-linker=/nowhere/ld-linux.so -o no-loader
verdict "needs the loader '/nowhere/ld-linux.so'" ./no-loader
cp /bin/true ld-musl-x86_64.so.1
cc main.c -Wl,--dynamic-linker="$work/ld-musl-x86_64.so.1" -o musl
verdict "not glibc's" ./musl

# ---- Sanitizers, linked dynamically (gcc) and statically (clang) ----
for kind in address thread leak; do
    cc -fsanitize=$kind main.c -o "gcc-$kind" 2>/dev/null && verdict "Sanitizer" "./gcc-$kind"
done
cc -fsanitize=undefined main.c -o gcc-undefined 2>/dev/null && fine ./gcc-undefined
if command -v clang >/dev/null; then
    for kind in address thread memory; do
        clang -fsanitize=$kind main.c -o "clang-$kind" 2>/dev/null && verdict "Sanitizer" "./clang-$kind"
    done
fi

# ---- Privileges: what matters is whether this user gains any ----
if [[ $(id -u) == 0 && ! $(findmnt -no OPTIONS -T "$work" 2>/dev/null) =~ nosuid ]]; then
    cp plain suid-nobody
    chown 65534:65534 suid-nobody
    chmod u+s suid-nobody
    verdict "is setuid" ./suid-nobody
    cp plain sgid-nobody
    chgrp 65534 sgid-nobody
    chmod g+s sgid-nobody
    verdict "is setgid" ./sgid-nobody
    cp plain suid-root
    chmod u+s suid-root
    fine ./suid-root

    # The build may lie where only root looks: nobody gets a copy.
    mkdir nobody
    cp -L "$freehold" "$BUILD_DIR"/libfreehold*.so.0 nobody/
    chmod -R a+rX nobody
    freehold=$work/nobody/freehold
    as=(setpriv --reuid=65534 --regid=65534 --clear-groups)
    chmod 733 "$work" && chmod a+rw out err
    verdict "is setuid (it runs as user root)" ./suid-root
    cp plain capable
    if python3 -c "import os; os.setxattr('capable', 'security.capability', bytes.fromhex('0100000200040000000000000000000000000000'))" 2>/dev/null; then
        verdict "has file capabilities" ./capable
    else
        skip "no file capabilities on this file system"
    fi
    cp plain unreadable
    chmod 711 unreadable
    passes "what may be run but not read is run" "${as[@]}" "$freehold" run -- ./unreadable
    as=(env)
    freehold=$BUILD_DIR/freehold
else
    skip "set-id files of another user need root and a file system that honours them"
fi

# ---- Scripts ----
script() { # NAME TEXT
    printf "$2" >"$1"
    chmod +x "$1"
}
script by-sh '#!/bin/sh\nexit 0\n'
fine ./by-sh
script bare 'exit 0\n'
fine ./bare
script by-env '#!/usr/bin/env sh\nexit 0\n'
fine ./by-env
script by-static "#!$work/static\n"
verdict "which runs the script './by-static'" ./by-static
script by-script "#!$work/by-static\n"
verdict "is statically linked" ./by-script
PATH=$work:$PATH
script env-static '#!/usr/bin/env static\n'
verdict "is statically linked" ./env-static
script by-nothing '#!/no/interpreter\n'
verdict "'./by-nothing' asks for the interpreter /no/interpreter" ./by-nothing
script by-dos '#!/bin/sh\r\nexit 0\r\n'
verdict "carriage return" ./by-dos
script itself "#!$work/itself\n"
verdict "scripts too deep" ./itself
script noise 'ab\000cd\001'
verdict "neither an ELF program nor a script" ./noise

# ---- A malloc of its own is warned of and run ----
cat >own.c <<'END'
#include <stddef.h>
static char pool[1 << 20];
static size_t used;
void *malloc(size_t size) { char *block = pool + used; used += (size + 15) & ~(size_t)15; return block; }
void free(void *block) { (void)block; }
int main(void) { free(malloc(1)); return 0; }
END
cc -fno-builtin -rdynamic own.c -o own
passes "a program with a malloc of its own runs" "$freehold" run -- ./own
holds "with a warning" grep -q "^freehold: warning: './own' defines a malloc of its own" "$work/out"
finish
