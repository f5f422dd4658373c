#!/bin/bash
# The same model for longer, with a new seed each time.
. "$(dirname "$0")/lib.sh"

stress=$(program stress)
passes "two threads, four million calls" "${under[@]}" "$stress" --threads 2 --ops 4000000 --rounds 8
passes "eight threads that come and go" "${under[@]}" "$stress" --threads 8 --ops 1500000 --rounds 200 --max-size 1M
passes "tiny live set" "${under[@]}" "$stress" --threads 4 --ops 1500000 --live 1M --max-size 64K
finish
