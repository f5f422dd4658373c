#!/bin/bash
# What a shared library exports, against its committed list: scripts/symbols.sh check|update LIBRARY LIST
#
# check prints the differences and exits 1 when there are any. update rewrites the list: a symbol keeps its version;
# a new one gets FREEHOLD_0.1 when include/freehold declares it, FREEHOLD_PRIVATE when it begins with fh_, and none
# otherwise (it takes the place of one of libc's or C++'s).
set -euo pipefail
verb=$1
library=$2
list=$3
root=$(dirname "$0")/..

exported() {
    nm -D --defined-only --with-symbol-versions "$1" | awk '$2 != "A" { split($3, s, "@@"); print s[1], s[2] }' |
        sed 's/ *$//' | LC_ALL=C sort
}
listed() {
    grep -E '^[A-Za-z_]' "$1" | LC_ALL=C sort || true
}

case $verb in
check)
    if ! difference=$(diff <(listed "$list") <(exported "$library")); then
        sed -n "s/^</listed in $(basename "$list"), not exported:/p; s/^>/exported, not listed:/p" <<<"$difference"
        echo "If the change is meant: scripts/symbols.sh update $library $list"
        exit 1
    fi
    ;;
update)
    touch "$list"
    old=$(listed "$list")
    new=$(exported "$library" | while read -r name version; do
        kept=$(awk -v name="$name" '$1 == name { print $0; exit }' <<<"$old")
        if [[ -n $kept ]]; then
            echo "$kept"
        elif [[ -n $version ]]; then
            echo "$name $version"
        elif [[ $name == fh_* ]] && grep -rqw -- "$name" "$root/include/freehold"; then
            echo "$name FREEHOLD_0.1"
        elif [[ $name == fh_* ]]; then
            echo "$name FREEHOLD_PRIVATE"
        else
            echo "$name"
        fi
    done)
    {
        echo "# Symbols that $(basename "$library") exports, with their versions; see cmake/Symbols.cmake."
        echo "$new"
    } >"$list"
    ;;
*)
    echo "usage: scripts/symbols.sh check|update LIBRARY LIST" >&2
    exit 2
    ;;
esac
