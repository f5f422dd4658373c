#!/bin/bash
# Draws the README's picture anew from what `make run` prints on a terminal: scripts/picture.sh BUILD_DIR
set -euo pipefail
cd "$(dirname "$0")/.."
output=$(mktemp)
trap 'rm -f "$output"' EXIT
script -qc "scripts/demo.sh '$1'" /dev/null | tr -d '\r' >"$output"
{
    printf '$ \033[1mfreehold run --stats -- sqlite3 -batch :memory: < examples/workload.sql\033[0m\n...\n'
    sed -n '/^sales_left/,$p' "$output"
} | scripts/terminal-svg.sh 'freehold run --stats' >docs/img/run.svg
