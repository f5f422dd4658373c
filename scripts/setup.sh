#!/bin/bash
# Installs what a purpose needs and is missing: scripts/setup.sh [run|test|bench]...
#
# On Debian and its like, as root, the packages are installed; without root the exact command is printed. On
# another system the tools are looked for and the missing ones named. Exit 1 when something is missing still.
set -euo pipefail

packages_build="gcc g++ libc6-dev make cmake ninja-build pkg-config libcmocka-dev libdw-dev libjson-c-dev"
packages_run="sqlite3"
packages_test="sqlite3 clang libclang-rt-14-dev llvm clang-format clang-tidy binutils file valgrind git perl
  python3 lua5.4 redis-server redis-tools spin procps man-db"
packages_bench="sqlite3 clang perl python3 lua5.4 redis-server redis-tools valgrind libjemalloc2
  libmimalloc2.0 libtcmalloc-minimal4"
commands_build="cc c++ make cmake ninja pkg-config"
modules_build="cmocka libdw json-c"

if [[ ${1:-} == --help ]]; then
    sed -n '2,5s/^# \{0,1\}//p' "$0"
    exit 0
fi

wanted=$packages_build
for purpose in "${@:-run}"; do
    case $purpose in
    run) wanted+=" $packages_run" ;;
    test) wanted+=" $packages_test" ;;
    bench) wanted+=" $packages_bench" ;;
    *)
        echo "setup: '$purpose' is none of run, test, bench" >&2
        exit 2
        ;;
    esac
done

if ! command -v dpkg-query >/dev/null; then
    missing=""
    for name in $commands_build; do
        command -v "$name" >/dev/null || missing+=" $name"
    done
    for module in $modules_build; do
        pkg-config --exists "$module" 2>/dev/null || missing+=" $module"
    done
    if [[ -n $missing ]]; then
        echo "setup: this is no Debian system; please install:$missing" >&2
        exit 1
    fi
    exit 0
fi

missing=""
for package in $(tr ' ' '\n' <<<"$wanted" | sort -u); do
    state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
    [[ $state == installed ]] || missing+=" $package"
done
[[ -n $missing ]] || exit 0

if [[ $(id -u) != 0 ]]; then
    echo "setup: some packages are missing; install them with" >&2
    echo "  sudo apt-get install --no-install-recommends$missing" >&2
    exit 1
fi
echo "setup: installing$missing"
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# shellcheck disable=SC2086
if ! { apt-get -q update && apt-get -qy install --no-install-recommends $missing; } >"$log" 2>&1; then
    tail -20 "$log" >&2
    echo "setup: apt-get failed; the lines above say why" >&2
    exit 1
fi
