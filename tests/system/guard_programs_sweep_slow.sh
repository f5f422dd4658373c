#!/bin/bash
# With freed memory held back until nobody points to it real programs do what they do without the library, and nothing is reported: the scripts that run them, in this mode.
. "$(dirname "$0")/lib.sh"
is_freehold || exit 77
export FREEHOLD_MODE=mode=hardened,uaf=sweep
for script in programs; do
    LIMIT=500 passes "the real programs of $script.sh to run clean with $FREEHOLD_MODE" \
        bash "$SOURCE_DIR/tests/system/$script.sh"
done
finish
