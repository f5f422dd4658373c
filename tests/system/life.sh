#!/bin/bash
# The life of a process: early and late allocation, forks, threads, signals, loaded libraries.
. "$(dirname "$0")/lib.sh"

cat >"$work/moments" <<'END'
preinit
constructor 101
constructor
resolver's block freed in main
thread
thread_local destructor
key destructor, round 1
key destructor, round 2
key destructor, round 3
main ends
main thread's thread_local destructor
atexit
on_exit, status 0
destructor
destructor 101
all moments passed
END
early_late=$(program early_late)
for bound in lazy now; do
    variables=()
    [[ $bound == lazy ]] || variables=(LD_BIND_NOW=1)
    passes "a program can allocate at each moment of its life (binding: $bound)" \
        "${under[@]}" "${variables[@]}" "$early_late"
    equal "each moment to come, in order (binding: $bound)" "$work/moments" "$work/out"
done

forks=$(program forks)
passes "1,000 forks beside allocating threads, none hangs" "${under[@]}" "$forks" 900 2
passes "forks of a process with one thread" "${under[@]}" "$forks" 100 0

threads=$(program threads)
passes "10,000 threads come and go in bounded memory" "${under[@]}" "$threads" 10000 8
passes "threads with the smallest stack" "${under[@]}" "$threads" 2000 64 small
passes "threads whose thread pointers are near" "${under[@]}" "$(program near)"
passes "detached threads" "${under[@]}" "$threads" 2000 16 detached

signals=$(program signals)
passes "signals whose handlers do not allocate" "${under[@]}" "$signals" 500 2 quiet
if is_freehold; then
    passes "handlers that allocate in a process with one thread" "${under[@]}" "$signals" 2000 0
    passes "handlers that allocate beside threads" "${under[@]}" "$signals" 2000 2
fi

passes "a library loaded and unloaded while others allocate" \
    "${under[@]}" "$(program loading)" "$(program libplugin)" 500 2
if [[ -n $FREEHOLD_LIB ]]; then
    passes "the malloc itself can be loaded late" "$(program late_load)" "$FREEHOLD_LIB"
fi
finish
