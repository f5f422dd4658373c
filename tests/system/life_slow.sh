#!/bin/bash
# More of the same: with the quick tier's 10,000 forks; 30,000 threads; signals for longer.
. "$(dirname "$0")/lib.sh"

passes "9,000 forks beside an allocating thread, none hangs" "${under[@]}" "$(program forks)" 9000 1
passes "300 forks beside eight" "${under[@]}" "$(program forks)" 300 8
passes "30,000 threads come and go in bounded memory" "${under[@]}" "$(program threads)" 30000 32
if is_freehold; then
    passes "handlers that allocate, for long" "${under[@]}" "$(program signals)" 4000 1
fi
finish
