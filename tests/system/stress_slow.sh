#!/bin/bash
# The same model for longer, with a new seed each time.
. "$(dirname "$0")/lib.sh"

stress=$(program stress)
passes "two threads, two million calls" "${under[@]}" "$stress" --threads 2 --ops 2000000 --rounds 8
passes "eight threads that come and go" "${under[@]}" "$stress" --threads 8 --ops 700000 --rounds 200 --max-size 1M
passes "tiny live set" "${under[@]}" "$stress" --threads 4 --ops 700000 --live 1M --max-size 64K
finish
