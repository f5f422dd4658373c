#!/bin/bash
# Installs what a purpose needs and is missing: scripts/setup.sh [run|test|bench]...
#
# On Debian and its like, as root, the packages are installed; without root the exact command is printed. On
# another system the tools are looked for and the missing ones named. Exit 1 when something is missing still.
set -euo pipefail

packages_build="gcc g++ libc6-dev make cmake ninja-build pkg-config libcmocka-dev libdw-dev libjson-c-dev
  libzstd-dev libpng-dev systemtap-sdt-dev valgrind"
# The page of report/ is built by npm, which may have come with another nodejs package.
command -v npm >/dev/null || packages_build+=" nodejs npm"
packages_run="sqlite3"
packages_test="sqlite3 clang llvm clang-format clang-tidy binutils file valgrind git perl
  python3 lua5.4 redis-server redis-tools spin procps man-db xz-utils chromium libtalloc-dev
  gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user"
packages_bench="sqlite3 clang perl python3 lua5.4 redis-server redis-tools valgrind libjemalloc2
  libtcmalloc-minimal4 libtalloc-dev"
# Named after a version: wanted where the distribution has just that one.
packages_of_a_version="libclang-rt-14-dev libpython3.11-testsuite libmimalloc2.0"
commands_build="cc c++ make cmake ninja pkg-config"
modules_build="cmocka libdw json-c libzstd libpng"

if [[ ${1:-} == --help ]]; then
    sed -n '2,5s/^# \{0,1\}//p' "$0"
    exit 0
fi

wanted=$packages_build
for purpose in "${@:-run}"; do
    case $purpose in
    run) wanted+=" $packages_run" ;;
    test) wanted+=" $packages_test $packages_of_a_version" ;;
    bench) wanted+=" $packages_bench $packages_of_a_version" ;;
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

# Of the wanted packages, those that are not installed and that, if named after a version, the archive has.
missing_packages() {
    local package state
    for package in $(tr ' ' '\n' <<<"$wanted" | sort -u); do
        state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
        [[ $state != installed ]] || continue
        if [[ " $packages_of_a_version " == *" $package "* ]]; then
            apt-cache show "$package" >/dev/null 2>&1 || continue
        fi
        printf ' %s' "$package"
    done
}

missing=$(missing_packages)
[[ -n $missing ]] || exit 0

if [[ $(id -u) != 0 ]]; then
    echo "setup: some packages are missing; install them with" >&2
    echo "  sudo apt-get install --no-install-recommends$missing" >&2
    exit 1
fi
log=$(mktemp)
trap 'rm -f "$log"' EXIT
quietly() {
    if ! "$@" >"$log" 2>&1; then
        tail -20 "$log" >&2
        echo "setup: '$1 $2' failed; the lines above say why" >&2
        exit 1
    fi
}
export DEBIAN_FRONTEND=noninteractive
quietly apt-get update
missing=$(missing_packages)
echo "setup: installing$missing"
# shellcheck disable=SC2086
quietly apt-get install -qy --no-install-recommends $missing
