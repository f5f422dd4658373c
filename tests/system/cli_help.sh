#!/bin/bash
# --help, the man pages and the completion list the same subcommands and options; man pages are well formed.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
freehold=$BUILD_DIR/freehold
man=$SOURCE_DIR/docs/man
completion=$SOURCE_DIR/cli/completion/freehold.bash

options_of() { # options at the start of a line or paragraph, sorted
    grep -oE -- '--[a-z][a-z-]*' | sort -u
}

# What completes "freehold WORD…", the last word being incomplete.
complete_words() {
    bash -c 'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _freehold; printf "%s\n" "${COMPREPLY[@]}"' \
        - "$completion" "$@" | sort -u
}

passes "freehold --version ends well" "$freehold" --version
holds "and names the version" grep -qE '^freehold [0-9]+\.[0-9]+\.[0-9]+$' "$work/out"
passes "freehold --help ends well" "$freehold" --help
sed -nE '/^Subcommands:/,/^$/s/^  ([a-z]+) .*/\1/p' "$work/out" | sort >"$work/subcommands"
holds "there are subcommands" test -s "$work/subcommands"
sed -nE 's/.*freehold-([a-z]+) \(1\)$/\1/p' "$man/freehold.1" | sort -u >"$work/in-man"
equal "freehold(1) lists the subcommands of --help" "$work/subcommands" "$work/in-man"
{ cat "$work/subcommands"; printf '%s\n' --help --version; } | sort >"$work/expected"
complete_words freehold "" >"$work/completed"
equal "the completion offers them" "$work/expected" "$work/completed"

while read -r name; do
    passes "freehold $name --help ends well" "$freehold" "$name" --help
    sed -n '/^Options:/,/^$/p' "$work/out" | grep -oE -- '^  --[a-z-]+( [A-Z]+)?' | sed 's/^  //' | sort >"$work/in-help"
    cut -d' ' -f1 "$work/in-help" >"$work/names"
    sed -n '/^\.SH OPTIONS/,/^\.SH "EXIT/p' "$man/freehold-$name.1" | sed 's/\\-/-/g' |
        sed -nE 's/^\.BI? (--[a-z-]+)( " ([A-Z]+)")?$/\1 \3/p' | sed 's/ $//' | sort >"$work/in-man"
    equal "freehold-$name(1) has the options of --help, with their arguments" "$work/in-help" "$work/in-man"
    complete_words freehold "$name" -- >"$work/completed"
    equal "the completion offers the options of $name" "$work/names" "$work/completed"
done <"$work/subcommands"

printf '%s\n' always auto never >"$work/expected"
complete_words freehold run --huge "" >"$work/completed"
equal "the completion offers an option's values" "$work/expected" "$work/completed"

if command -v man >/dev/null && man --version >/dev/null 2>&1; then
    for page in "$man"/*.1; do
        MANWIDTH=80 man --warnings -l "$page" >"$work/page" 2>"$work/warnings" || true
        holds "$(basename "$page") is well formed" test ! -s "$work/warnings"
    done
fi
finish
