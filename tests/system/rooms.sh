#!/bin/bash
# The floor plan holds: each room includes only what it may, public headers include nothing private, and only os/
# (and preload/, which stands in libc's place) calls the kernel. Each room has its README.
set -uo pipefail
cd "${SOURCE_DIR:?}" || exit 1
status=0

# What a room may include beside the C library, itself and the public headers.
declare -A may=(
    [base]="" [os]="base" [pages]="base os" [stack]="base os" [scan]="base os pages"
    [heap]="base os/sys pages" [place]="base os/sys pages" [collect]="base os pages scan"
    [paging]="base os pages place" [image]="base os pages" [share]="base os pages image"
    [store]="base os pages image" [watch]="base os pages stack scan" [guard]="base os pages stack scan heap"
    [measure]="base os pages"
    [preload]="base os pages stack scan heap place collect paging image share store watch guard measure")
foreign="json-c|elfutils|dwarf|zstd|lz4|hiredis|liburing|cmocka|clang"

complain() {
    echo "$1"
    status=1
}

includes() { # FILE: what it includes, one a line, as quoted or <>
    sed -nE 's/^[[:space:]]*#[[:space:]]*include[[:space:]]*([<"][^>"]*)[>"].*/\1/p' "$1"
}

for folder in lib/*/; do
    room=$(basename "$folder")
    [[ -n ${may[$room]+known} ]] || complain "lib/$room is no room of the house"
    [[ -f $folder/README.md ]] || complain "lib/$room has no README.md"
    while read -r file; do
        while read -r name; do
            case $name in
            \<*)
                grep -qE "^<($foreign)" <<<"$name" && complain "$file includes $name>: rooms use libc alone"
                continue
                ;;
            \"freehold/* | \"$room/*) continue ;;
            \"*/*) ;;
            *) continue ;;
            esac
            name=${name#\"}
            allowed=no
            for other in ${may[$room]:-}; do
                [[ $name == "$other"/* || $name == "$other".h ]] && allowed=yes
            done
            [[ $allowed == yes ]] || complain "$file includes $name, which lib/$room may not"
        done < <(includes "$file")
        if [[ $room != os && $room != preload ]]; then
            calls=$(grep -nwE '(mmap|munmap|mremap|madvise|mprotect|syscall|futex|clone|memfd_create) *\(' "$file" |
                grep -vE '^[0-9]+: *(/?\*|//)' | grep -vE '/\*.*\b(mmap|munmap|mremap|madvise|mprotect|syscall|futex|clone)\b' || true)
            [[ -z $calls ]] || complain "$file calls the kernel itself: $calls"
        fi
    done < <(find "$folder" -name '*.[ch]' -o -name '*.cc' | sort)
done

while read -r file; do
    while read -r name; do
        [[ $name == \<* || $name == \"freehold/* ]] || complain "$file, a public header, includes $name\""
    done < <(includes "$file")
done < <(find include -name '*.h' -o -name '*.hpp')

for folder in cli tools; do
    [[ -d $folder ]] || continue
    while read -r file; do
        while read -r name; do
            [[ $name == \"lib/* || $name =~ ^\"(base|os|pages|stack|heap|watch|preload)/ ]] &&
                complain "$file includes $name\": $folder/ sees public headers and tools/ only"
        done < <(includes "$file")
    done < <(find "$folder" -name '*.[ch]')
done
exit $status
