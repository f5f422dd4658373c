#!/bin/bash
# Draws the README's pictures anew from what commands print on a terminal: scripts/picture.sh BUILD_DIR [run|replay|advise]…
# All without a name. The figures are this machine's: draw on one that does nothing else.
set -euo pipefail
cd "$(dirname "$0")/.."
build=$1
shift
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# on_terminal COMMAND: what it prints when it sees a wide terminal.
on_terminal() {
    script -qec "stty cols 120; { $1; } 2>/dev/null" /dev/null </dev/null | tr -d '\r' | sed '/^[0-9]* bytes answered$/d; /recorded .* calls of/d'
}

draw_run() {
    {
        printf '$ \033[1mfreehold run --stats -- sqlite3 -batch :memory: < examples/workload.sql\033[0m\n...\n'
        on_terminal "scripts/demo.sh '$build'" | sed -n '/^sales_left/,$p'
    } | scripts/terminal-svg.sh 'freehold run --stats' >docs/img/run.svg
}

draw_replay() {
    local some=freehold,glibc,jemalloc,mimalloc,tcmalloc,heap,tlsf,slab,arena
    "$build/freehold" record -o "$work/run.fht" -- sqlite3 -batch :memory: <examples/workload.sql >/dev/null 2>&1
    {
        printf '$ \033[1mfreehold record -o run.fht -- sqlite3 :memory: < examples/workload.sql\033[0m\n'
        printf '$ \033[1mfreehold replay run.fht --allocators %s\033[0m\n' "$some"
        on_terminal "cd '$work' && '$(realpath "$build")/freehold' replay run.fht --allocators $some"
    } | scripts/terminal-svg.sh 'freehold replay' >docs/img/replay.svg
}

draw_advise() {
    {
        printf '$ \033[1mfreehold advise -- build/release/examples/advised\033[0m\n'
        on_terminal "'$build/freehold' advise -- '$build/examples/advised'"
    } | scripts/terminal-svg.sh 'freehold advise' >docs/img/advise.svg
}

for picture in "${@:-run replay advise}"; do
    for name in $picture; do
        "draw_$name"
    done
done
