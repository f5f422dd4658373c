#!/bin/bash
# A quarter of the cases of tests/guard in every mode (all: bench/guard/run), as guard_cases.sh does with some.
EVERY=4 exec bash "$(dirname "$0")/guard_cases.sh"
