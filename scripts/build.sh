#!/bin/bash
# Configures and builds one preset, quietly unless something is wrong: scripts/build.sh PRESET
set -euo pipefail
cd "$(dirname "$0")/.."
preset=$1
log=build/$preset.log
mkdir -p build
[[ -t 1 ]] && printf 'Building %s ...\r' "$preset"
if ! { cmake --preset "$preset" && cmake --build --preset "$preset" -j "${JOBS:-$(nproc)}"; } >"$log" 2>&1; then
    tail -60 "$log" >&2
    echo "The build of '$preset' failed; all of its output is in $log" >&2
    exit 1
fi
[[ -t 1 ]] && printf '%*s\r' 40 ''
exit 0
