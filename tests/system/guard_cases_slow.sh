#!/bin/bash
# All cases of tests/guard in every mode, as guard_cases.sh does with some.
EVERY=1 exec bash "$(dirname "$0")/guard_cases.sh"
