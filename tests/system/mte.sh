#!/bin/bash
# aarch64: the libraries' sources compile for it, and what is made for it works, under qemu's user emulation of a
# processor that has everything: memory tags catch what they should (the rates are in tests/aarch64/mte.c), and
# code that was just written runs.
FREEHOLD_LIB= . "$(dirname "$0")/lib.sh"

cross=aarch64-linux-gnu-gcc
for tool in "$cross" qemu-aarch64; do
    if ! command -v "$tool" >/dev/null; then
        echo "$tool is not installed (Debian: gcc-aarch64-linux-gnu, qemu-user)"
        exit 77
    fi
done

cd "$SOURCE_DIR"
flags=(-std=gnu17 -O2 -Wall -Wextra -Wshadow -Wconversion -Wstrict-prototypes -Werror -Iinclude -Ilib)

# Two files walk call stacks by what x86-64 keeps in them.
sources=$(ls lib/*/*.c | grep -v -e lib/stack/exact.c -e lib/stack/region.c)
# shellcheck disable=SC2086
passes "the sources compile for aarch64 without a warning" \
    bash -c 'status=0; sources=$1; shift; for source in $sources; do "$@" -fsyntax-only "$source" || status=1; done; exit $status' \
    - "$sources" "$cross" "${flags[@]}"

# build NAME SOURCE…: tests/aarch64/NAME.c with some of the library.
build() {
    local name=$1
    shift
    passes "tests/aarch64/$name.c builds" "$cross" "${flags[@]}" -g -static "tests/aarch64/$name.c" "$@" \
        lib/os/*.c lib/base/*.c lib/place/buddy.c lib/place/ground.c lib/pages/source.c -o "$work/$name"
}
build mte lib/guard/tag.c
LIMIT=300 passes "wrong accesses to coloured blocks trap as often as they should" \
    qemu-aarch64 -cpu max "$work/mte"
grep -v "^$" "$work/out"
passes "without memory tags the program says so" \
    bash -c "qemu-aarch64 -cpu cortex-a57 '$work/mte'; test \$? = 77"

build code lib/guard/code.c lib/guard/regions.c lib/pages/window.c
passes "code that was just written runs" qemu-aarch64 -cpu max "$work/code"
finish
