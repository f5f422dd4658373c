#!/bin/sh
# Counts the instructions that a malloc/free pair takes, loop included, with callgrind.
#
#   instructions.sh NAME=LIBRARY…        a table: 8 blocks live; queue of 1000
#   instructions.sh --check LIBRARY      compares with baseline/instructions.txt; fails when a count is more than
#                                        2 % over. Fewer is reported so that the baseline can follow.
#   instructions.sh --update LIBRARY     writes the baseline
#
# A count is the difference of two runs of different length divided by the difference of their lengths, so
# start-up and the first touches of everything cancel out. Counts repeat to the instruction on one machine and
# compiler; they say nothing of cache misses, which is what the nanoseconds of bench/run are for.
#
# Exit: 0, 1 a count is over its baseline, 2 usage, 4 no valgrind here.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
programs=${FREEHOLD_BENCH_BUILD:-$here/../build/bench}
baseline=$here/baseline/instructions.txt
patterns='pair8 fifo1000'
short=100000
long=500000

usage() {
    sed -n '4,7s/^#   //p' "$0" >&2
    exit 2
}

[ $# -ge 1 ] || usage
if ! command -v valgrind >/dev/null; then
    echo 'instructions.sh: valgrind is not installed (apt install valgrind)' >&2
    exit 4
fi
"$here/build.sh" "$programs"

# collected LIBRARY PATTERN COUNT: all instructions of one run
# Without sampled guarding: the first block that is guarded, after some 8 MiB, has the tables of call frames built, which
# is half a million instructions once and no part of a pair.
collected() {
    FREEHOLD=guard=off LD_PRELOAD=$1 valgrind --tool=callgrind --callgrind-out-file=/dev/null "$programs/micro" "$2" "$3" 2>&1 |
        awk '/Collected *:/ { print $NF; found = 1 } END { exit !found }'
}

# cost LIBRARY PATTERN: instructions a pair, or "failed" for an allocator that does not run under valgrind
cost() {
    if low=$(collected "$1" "$2" $short) && high=$(collected "$1" "$2" $long); then
        awk -v low="$low" -v high="$high" -v pairs=$((long - short)) 'BEGIN {
            count = (high - low) / pairs
            if (count < 5) print "failed"; else printf "%.2f\n", count }'
    else
        echo failed
    fi
}

case $1 in
--check | --update)
    if [ $# -ne 2 ] || [ ! -e "$2" ]; then
        usage
    fi
    status=0
    new=''
    for pattern in $patterns; do
        count=$(cost "$2" "$pattern")
        new="$new$pattern $count
"
        if [ "$1" = --check ]; then
            awk -v pattern="$pattern" -v count="$count" '
                $1 == pattern {
                    known = 1
                    over = (count / $2 - 1) * 100
                    printf "%-9s %s instructions a pair, baseline %s (%+.1f %%)\n", pattern, count, $2, over
                    if (count == "failed" || over > 2) bad = 1
                }
                END {
                    if (!known) print pattern " has no baseline"
                    exit bad || !known
                }' "$baseline" || status=1
        fi
    done
    if [ "$1" = --update ]; then
        case $new in
        *failed*)
            echo "instructions.sh: $2 does not run under valgrind" >&2
            exit 1
            ;;
        esac
        { sed -n '/^#/p' "$baseline" && printf %s "$new"; } >"$baseline.new"
        mv "$baseline.new" "$baseline"
        cat "$baseline"
    fi
    exit $status
    ;;
-*) usage ;;
esac

printf '%-12s' allocator
for pattern in $patterns; do
    printf '%12s' "$pattern"
done
echo
for argument; do
    printf '%-12s' "${argument%%=*}"
    for pattern in $patterns; do
        printf '%12s' "$(cost "${argument#*=}" "$pattern")"
    done
    echo
done
