#!/bin/bash
# Searches the models: models/run.sh [WORD]. With WORD only the lines below that contain it.
#
# Two claims a model: as it is, every reachable state of every interleaving holds its assertions and no process
# hangs; and with a planted bug the search finds a broken assertion or a hang. A search that was cut short (depth,
# memory) holds nothing and counts as a failure. Ends with 0 when all claims hold, 1 when not, 4 without spin.
set -uo pipefail

depth=100000  # steps in one interleaving; the deepest search needs under 1,000
megabytes=900 # for one search; they run one after another
# -O0: most searches take less time than the compiler; optimising would cost more than it saves.
build=(-O0 -w -DSAFETY "-DMEMLIM=$megabytes")
seconds=200   # for one search (some take 5): a model that has grown fails instead of hanging

if ! command -v spin >/dev/null; then
    echo "models: spin is not installed (Debian: apt-get install spin); scripts/setup.sh test installs it" >&2
    exit 4
fi
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d "${TMPDIR:-/tmp}/freehold-models.XXXXXX")
trap 'rm -rf "$work"' EXIT
cp "$here"/*.pml "$work"
cd "$work" || exit 1
claims=0
failures=0
wanted=${1-}

# search MODEL FLAG…: output in `out`; sets errors, states.
search() {
    local model=$1 log=$work/out
    shift
    rm -f pan pan.*
    if ! { spin -a "$@" "$model.pml" && cc "${build[@]}" -o pan pan.c; } >"$log" 2>&1; then
        errors="none: it does not compile" states=0
        return
    fi
    timeout $seconds ./pan -m$depth -w22 >"$log" 2>&1
    errors=$(sed -n 's/.*errors: \([0-9]*\).*/\1/p' "$log")
    states=$(sed -n 's/^ *\([0-9e+.]*\) states, stored.*/\1/p' "$log")
    if [[ -z $errors ]]; then
        errors="none: it took over $seconds s"
    elif [[ $errors == 0 ]] && grep -qE 'not completed|too small|out of memory|memory limit' "$log"; then
        errors="none: the search was cut short"
    fi
}

judge() { # EXPECTED(0|found) MODEL FLAG…
    local expected=$1 verdict
    shift
    [[ "$*" == *"$wanted"* ]] || return 0
    search "$@"
    claims=$((claims + 1))
    case $expected:$errors in
    0:0) verdict="holds in all $states states" ;;
    found:[1-9]*) verdict="found: $(sed -n 's/^pan:1: \(.*\) (at depth .*/\1/p' "$work/out" | cut -c1-72)" ;;
    found:0) verdict="FAILED: the planted bug was not found in $states states" failures=$((failures + 1)) ;;
    *) verdict="FAILED: expected no error, got $errors" failures=$((failures + 1)) && tail -n 20 "$work/out" ;;
    esac
    printf '%-62s %s\n' "$*" "$verdict"
}
holds() { judge 0 "$@"; }
finds() { judge found "$@"; }

holds remote_free
holds remote_free -DREUSE
holds remote_free -DWEAK
holds remote_free -DWEAK -DREUSE
finds remote_free -DBUG_NEXT_AFTER_TAKE
finds remote_free -DBUG_ALWAYS_PUSH_INBOX
finds remote_free -DBUG_TAKE_WITHOUT_INBOX
finds remote_free -DWEAK -DBUG_PUSH_RELAXED
finds remote_free -DWEAK -DBUG_INBOX_PUSH_RELAXED
finds remote_free -DWEAK -DBUG_INBOX_TAKE_RELAXED
finds remote_free -DWEAK -DBUG_TAKE_RELAXED
finds remote_free -DWEAK -DBUG_TAKE_NOT_RELEASE

holds adoption
holds adoption -DLATE
holds adoption -DREUSE
holds adoption -DLATE -DWHOLE
holds adoption -DWHOLE -DHELPER
holds adoption -DWEAK
holds adoption -DWEAK -DREUSE
holds adoption -DWEAK -DWHOLE
finds adoption -DBUG_INBOX_LEFT_OPEN
finds adoption -DREUSE -DBUG_NO_FORWARD
finds adoption -DLATE -DBUG_OWNER_KEPT
finds adoption -DWHOLE -DHELPER -DBUG_STATE_BEFORE_LOCK
finds adoption -DWEAK -DWHOLE -DBUG_NO_HEAPS_LOCK
finds adoption -DWEAK -DWHOLE -DBUG_UNLOCK_RELAXED

holds handover
holds handover -DFORK -DEVENTS=1
holds handover -DWEAK
holds handover -DWEAK -DFORK -DEVENTS=1
finds handover -DBUG_NO_CHECK
finds handover -DBUG_CHECK_FIRST
finds handover -DBUG_NO_FENCE
finds handover -DBUG_LOCAL_BEFORE_OWNER
finds handover -DBUG_SLOW_WITHOUT_LOCK
finds handover -DBUG_ACCEPT_FAULT
finds handover -DBUG_ACCEPT_SIGRETURN
finds handover -DBUG_ACCEPT_VFORK
finds handover -DBUG_NO_INTERRUPTION_COUNT
finds handover -DBUG_COUNTER_ONLY_BEFORE
finds handover -DBUG_COUNTER_ONLY_AFTER
finds handover -DBUG_WRAPPER_NOT_COVERED
finds handover -DFORK -DEVENTS=1 -DBUG_PURGE_BEFORE_DETACH
finds handover -DWEAK -DBUG_OWNER_LOAD_RELAXED
finds handover -DWEAK -DBUG_RETURN_RELAXED
finds handover -DWEAK -DFORK -DEVENTS=1 -DBUG_LINK_LATE

holds buddy -DTHREADS=2
holds buddy
finds buddy -DBUG_LOOK_THEN_SET
finds buddy -DBUG_CLAIM_WITHOUT_SWAP
finds buddy -DBUG_NO_SECOND_LOOK
finds buddy -DBUG_SPLIT_BY_STORE
finds buddy -DBUG_AVAIL_NEVER_SET

echo "models: $claims claims, $failures failed"
((claims > 0 && failures == 0))
