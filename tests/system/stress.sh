#!/bin/bash
# The shadow model over calls of the whole family: alone, in two threads, in more threads than processors, and with nothing
# but small or large blocks. SEED=N repeats a run.
. "$(dirname "$0")/lib.sh"

stress=$(program stress)
seed=(${SEED:+--seed $SEED})
passes "one thread as modelled" "${under[@]}" "$stress" "${seed[@]}" --threads 1 --ops 200000
passes "two threads as modelled" "${under[@]}" "$stress" "${seed[@]}" --threads 2 --ops 300000
passes "16 threads in many rounds as modelled" \
    "${under[@]}" "$stress" "${seed[@]}" --threads 16 --rounds 10 --ops 300000
passes "small blocks as modelled" \
    "${under[@]}" "$stress" "${seed[@]}" --threads 2 --ops 800000 --max-size 1K --live 8M
passes "large blocks as modelled" \
    "${under[@]}" "$stress" "${seed[@]}" --threads 2 --ops 6000 --max-size 64M --live 256M
finish
