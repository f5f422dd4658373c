#!/bin/bash
# Where memory is scarce or the kernel says no: address space limits, locked memory, valgrind, old kernels and containers (by the
# feature mask), no overcommit.
#
# TEST_OVERCOMMIT=1 lets the script switch the machine to vm.overcommit_memory=2 for a moment (root; with a limit of ten times RAM,
# put back at the end).
. "$(dirname "$0")/lib.sh"

limited=$(program limited)
stress=$(program stress)

# ---- ulimit -v ----

passes "exhaustion under 48 MiB of address space is clean" prlimit --as=$((49152 * 1024)) "${under[@]}" "$limited" exhaust 49152 30
passes "exhaustion under 128 MiB of address space is clean" prlimit --as=$((131072 * 1024)) "${under[@]}" "$limited" exhaust 131072
passes "exhaustion by threads under 200 MiB is clean" prlimit --as=$((204800 * 1024)) "${under[@]}" "$limited" threads 204800
passes "a growing block under 512 MiB fails cleanly" prlimit --as=$((524288 * 1024)) "${under[@]}" "$limited" grow 524288
passes "the shadow model under 300 MiB, where calls fail" \
    prlimit --as=$((307200 * 1024)) "${under[@]}" "$stress" --threads 2 --ops 60000 --max-size 32M --live 400M --may-fail
for kib in 65536 1048576 8388608; do
    passes "a real program runs under ulimit -v $kib" prlimit --as=$((kib * 1024)) "${under[@]}" perl -e \
        'my %h; $h{$_ % 5000} .= "x$_" for 1 .. 50000; print length(join("", values %h)), "\n";'
done

# ---- mlockall ----

passes "all memory locked, now and for the future" "${under[@]}" "$limited" locked

# ---- valgrind: 64 GiB of address space can't be had under it, and it replaces malloc unless told not to ----

if command -v valgrind >/dev/null; then
    small=(--threads 1 --ops 4000 --max-size 256K --live 8M)
    passes "runs under valgrind's bare simulation" "${under[@]}" valgrind -q --tool=none "$stress" "${small[@]}"
    passes "runs under memcheck, whose malloc takes over" \
        "${under[@]}" valgrind -q --error-exitcode=9 "$stress" "${small[@]}"
else
    skip "valgrind is not installed"
fi

# ---- what older kernels and containers lack ----

if is_freehold; then
    for features in 6.1 container 6.1,container; do
        export FREEHOLD_FEATURES=$features
        passes "entry points with features of '$features'" "${under[@]}" "$(program entry)"
        passes "the shadow model with features of '$features'" "${under[@]}" "$stress" --threads 2 --ops 80000
        passes "a locked heap with features of '$features'" "${under[@]}" "$limited" locked
        passes "exhaustion with features of '$features'" prlimit --as=$((131072 * 1024)) "${under[@]}" "$limited" exhaust 131072
        passes "forks with features of '$features'" "${under[@]}" "$(program forks)" 100 2
    done
    unset FREEHOLD_FEATURES
fi

# ---- no overcommit ----

overcommit=/proc/sys/vm/overcommit_memory
if [[ -z ${TEST_OVERCOMMIT-} ]]; then
    skip "no overcommit: TEST_OVERCOMMIT=1 is not set (it changes a setting of the machine for a moment)"
elif [[ ! -w $overcommit ]]; then
    skip "no overcommit: $overcommit can't be changed here"
else
    mode_before=$(cat $overcommit) ratio_before=$(cat /proc/sys/vm/overcommit_ratio)
    restore() {
        echo "$mode_before" >$overcommit
        echo "$ratio_before" >/proc/sys/vm/overcommit_ratio
    }
    trap 'restore; rm -rf "$work"' EXIT
    echo 1000 >/proc/sys/vm/overcommit_ratio
    echo 2 >$overcommit
    passes "the shadow model without overcommit" "${under[@]}" "$stress" --threads 2 --ops 50000
    passes "entry points without overcommit" "${under[@]}" "$(program entry)"
    passes "forks without overcommit" "${under[@]}" "$(program forks)" 100 2
    restore
fi
finish
