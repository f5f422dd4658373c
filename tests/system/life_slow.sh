#!/bin/bash
# More of the same: 10,000 forks, 30,000 threads, a minute's worth of signals in a quarter of it.
. "$(dirname "$0")/lib.sh"

passes "9,000 forks beside an allocating thread, none hangs" "${under[@]}" "$(program forks)" 9000 1
passes "1,000 forks beside eight" "${under[@]}" "$(program forks)" 1000 8
passes "30,000 threads come and go in bounded memory" "${under[@]}" "$(program threads)" 30000 32
if is_freehold; then
    passes "handlers that allocate, for long" "${under[@]}" "$(program signals)" 8000 1
fi
finish
