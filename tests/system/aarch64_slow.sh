#!/bin/bash
# The libraries' sources compile for aarch64 without a warning, but for those that know the registers of x86-64: two that
# walk call stacks, and one that explains faults.
FREEHOLD_LIB= . "$(dirname "$0")/lib.sh"

cross=aarch64-linux-gnu-gcc
if ! command -v "$cross" >/dev/null; then
    echo "$cross is not installed (Debian: gcc-aarch64-linux-gnu)"
    exit 77
fi
cd "$SOURCE_DIR"
for source in lib/*/*.c; do
    case $source in
    lib/stack/region.c | lib/stack/exact.c | lib/guard/fault.c) continue ;;
    esac
    passes "$source compiles for aarch64" "$cross" -std=gnu17 -O2 -Wall -Wextra -Wshadow -Wconversion \
        -Wstrict-prototypes -Werror -ftls-model=initial-exec -fPIC -Iinclude -Ilib -c "$source" -o /dev/null
done
finish
