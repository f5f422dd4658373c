#!/bin/bash
# Blocks between inaccessible pages: 100,000 of them on every kernel, little address space, locked memory, forks; and samples
# of fast mode, which find what is wrong, cost nothing before 8 MiB and little after.
. "$(dirname "$0")/lib.sh"

is_freehold || { skip "it is Freehold's"; exit 77; }

fences=$(program fences)
every=("${under[@]}" FREEHOLD=mode=hardened,guard=1)

# ---- many, everywhere ----

for features in "" 6.1 6.1,container; do
    on="with features '$features'"
    passes "100,000 guarded blocks live $on" "${every[@]}" FREEHOLD_FEATURES="$features" "$fences" live 100000
    passes "forks beside allocating threads, every block guarded, $on" \
        "${every[@]}" FREEHOLD_FEATURES="$features" "$(program forks)" 20 2
done
passes "all memory locked, every block guarded" "${every[@]}" "$(program limited)" locked
for kib in 131072 1048576; do
    passes "20,000 blocks under ulimit -v $kib" prlimit --as=$((kib * 1024)) "${every[@]}" "$fences" live 20000
done

# ---- samples ----

# finds CLASS HOW: a report of this class, and the end by SIGABRT.
finds() {
    local status=0
    claims=$((claims + 1))
    { "${under[@]}" FREEHOLD=guard=16K "$fences" "$2" 100000 >"$work/out" 2>&1 </dev/null; } 2>/dev/null || status=$?
    if ((status != 134)) || ! grep -q "^freehold: ERROR: $1 " "$work/out"; then
        not_so "a sample shows $1" "$(status_in_words $status)" "$work/out"
    fi
}

finds heap-buffer-overflow overflow
finds heap-buffer-underflow underflow
finds heap-use-after-free late

# of BYTES SIZE GUARD: resident KiB, mappings, whether SIGSEGV is caught.
of() {
    "${under[@]}" FREEHOLD=guard="$3" "$fences" churn "$1" "$2"
}

read -r resident before is_caught < <(of 6000000 1000 off)
read -r early mappings is_caught_early < <(of 6000000 1000 8M)
holds "no mapping before 8 MiB" [ "$mappings" = "$before" ]
holds "no handler before 8 MiB" [ "$is_caught_early$is_caught" = 00 ]
# The kernel's fault-around makes one start's memory differ from another's: the least of some counts.
for _ in 1 2 3 4; do
    read -r again _ < <(of 6000000 1000 8M)
    ((again >= early)) || early=$again
done
holds "no memory before 8 MiB ($early KiB, without samples $resident)" [ "$early" -le $((resident + 64)) ]

read -r resident _ _ < <(of 2000000000 1000 off)
read -r sampled _ is_caught < <(of 2000000000 1000 8M)
holds "samples were taken" [ "$is_caught" = 1 ]
holds "they take at most a MiB ($sampled KiB, without $resident)" [ "$sampled" -le $((resident + 1024)) ]

finish
