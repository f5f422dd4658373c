#!/bin/sh
# Builds the benchmark's own programs into a folder: build.sh FOLDER. Compiler: $CC, else cc.
# No -O3 and no -march: what distributions ship. Without builtins, so that no pair of calls is optimised away;
# without PLT, so that a call is one indirect jump.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
folder=${1:?usage: build.sh FOLDER}
mkdir -p "$folder"
build() {
    name=$1
    shift
    # Nothing to do if the program is newer than its source and the harness.
    if [ -e "$folder/$name" ] &&
        [ -z "$(find "$here/$name.c" "$here/harness.h" -newer "$folder/$name")" ]; then
        return
    fi
    # shellcheck disable=SC2086 # $CC may hold options
    ${CC:-cc} -std=c17 -D_GNU_SOURCE -O2 -g -fno-builtin -fno-plt -Wall -Wextra -Wshadow -Wconversion \
        -Wstrict-prototypes -o "$folder/$name" "$here/$name.c" "$@"
}
build micro
build threads -pthread
build work
build memory -pthread
build forks -pthread
build launch -static
