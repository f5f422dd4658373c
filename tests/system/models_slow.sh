#!/bin/bash
# The protocols between threads hold in every interleaving that the models in models/ have, on strong and on weak
# memory, and the models are sharp enough to see each planted bug.
set -uo pipefail
if ! command -v spin >/dev/null; then
    echo "spin is not installed, so the models were not searched; scripts/setup.sh test installs it"
    exit 77
fi
exec "${SOURCE_DIR:?}/models/run.sh"
