# What the system tests share; sourced, not run.
#
# BUILD_DIR     where the programs of tests/system are built ($BUILD_DIR/tests); one that is missing is compiled here
# SOURCE_DIR    the source tree
# FREEHOLD_LIB  the malloc under test: Freehold's, or any other that LD_PRELOAD takes; empty: the C library's own
#
# FREEHOLD_MODE settings of Freehold's for all that runs under it, as FREEHOLD takes them; what the debug mode brings is
#               preloaded with mode=debug
#
# A script states claims with `passes` and `equal`, and ends with `finish`. A claim that does not hold prints what
# was expected of whom, the exit status in words and the output, and the script goes on with the next claim.

set -eu

SOURCE_DIR=${SOURCE_DIR:-$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)}
BUILD_DIR=${BUILD_DIR:-$SOURCE_DIR/build}
FREEHOLD_LIB=${FREEHOLD_LIB-$BUILD_DIR/libfreehold-malloc.so}
work=$(mktemp -d "${TMPDIR:-/tmp}/freehold-test.XXXXXX")
trap 'rm -rf "$work"' EXIT
unset FREEHOLD FREEHOLD_FEATURES LD_PRELOAD
export LC_ALL=C
claims=0
failures=0

if [[ -n $FREEHOLD_LIB && ! -f $FREEHOLD_LIB ]]; then
    echo "$(basename "$0"): FAILED: expected the library under test at $FREEHOLD_LIB" >&2
    exit 1
fi

# Whether the malloc under test is Freehold's: claims about its messages and settings hold for no other.
is_freehold() {
    [[ $(basename "$FREEHOLD_LIB") == libfreehold* ]]
}

# Prints the path of a program of tests/system (libNAME: a shared object), compiled now if the build has none.
program() {
    local name=$1 kind=() path=$BUILD_DIR/tests/$1
    [[ $name == lib* ]] && path=$path.so && kind=(-shared -fPIC)
    if [[ ! -x $path ]]; then
        path=$work/$name
        if [[ ! -x $path ]]; then
            if [[ -f $SOURCE_DIR/tests/system/$name.cc ]]; then
                c++ -std=c++17 -O2 -g -fno-builtin -pthread "$SOURCE_DIR/tests/system/$name.cc" -o "$path"
            else
                cc -std=gnu17 -O2 -g -fno-builtin -pthread "${kind[@]}" "$SOURCE_DIR/tests/system/$name.c" -o "$path"
            fi
        fi
    fi
    echo "$path"
}

preloaded() {
    local debug=${FREEHOLD_LIB/libfreehold-malloc/libfreehold-debug}
    if [[ ${FREEHOLD_MODE-} == *mode=debug* && $debug != "$FREEHOLD_LIB" && -f $debug ]]; then
        echo "$FREEHOLD_LIB:$debug"
    else
        echo "$FREEHOLD_LIB"
    fi
}

# "${under[@]}" COMMAND… runs a command under the malloc under test.
under=(env)
[[ -z $FREEHOLD_LIB ]] || under=(env LD_PRELOAD="$(preloaded)")
[[ -z ${FREEHOLD_MODE-} ]] || under+=(FREEHOLD="$FREEHOLD_MODE")

# Seconds that a real program may take; in the modes it may take longer.
patience=60
[[ -z ${FREEHOLD_MODE-} ]] || patience=200

status_in_words() {
    case $1 in
    124 | 142) echo "hung: ended by its time limit" ;;
    126 | 127) echo "could not be run" ;;
    12[89] | 1[3-9][0-9]) echo "died by signal SIG$(kill -l $(($1 - 128)))" ;;
    *) echo "ended with status $1" ;;
    esac
}

# not_so CLAIM EXPLANATION [FILE]: a claim does not hold.
not_so() {
    failures=$((failures + 1))
    echo "$(basename "$0"): FAILED: expected: $1" >&2
    echo "    but: $2" >&2
    if [[ -n ${3-} && -s $3 ]]; then
        tail -n 40 "$3" | sed 's/^/    | /' >&2
    fi
}

# passes CLAIM COMMAND…: the command ends with status 0 within LIMIT seconds (default 100). Its output stays in $work/out.
passes() {
    local claim=$1 status=0
    shift
    claims=$((claims + 1))
    # The braces keep the shell's own line about a death by signal out of the way.
    { timeout "${LIMIT:-100}" "$@" >"$work/out" 2>&1 </dev/null; } 2>/dev/null || status=$?
    if ((status != 0)); then
        not_so "$claim" "$(status_in_words $status): $*" "$work/out"
        return 0
    fi
    [[ -z ${VERBOSE-} ]] || cat "$work/out"
}

# equal CLAIM FILE FILE: both files hold the same, the first being how it should be.
equal() {
    claims=$((claims + 1))
    if ! cmp -s "$2" "$3"; then
        diff "$2" "$3" >"$work/difference" 2>&1 || true
        not_so "$1" "they differ (< as it should be, > as it is)" "$work/difference"
    fi
}

# holds CLAIM COMMAND…: a plain condition of the shell.
holds() {
    local claim=$1
    shift
    claims=$((claims + 1))
    "$@" >"$work/holds" 2>&1 || not_so "$claim" "false: $*" "$work/holds"
}

skip() {
    echo "$(basename "$0"): skipped: $*"
}

finish() {
    echo "$(basename "$0"): $claims claims, $failures failed"
    ((failures == 0))
}
