#!/bin/bash
# The table of capabilities in docs/place/README.md is what the allocators say of themselves.
set -uo pipefail
source_dir=${SOURCE_DIR:?} build=${BUILD_DIR:?}
[[ -x $build/tests/test_place_conformance ]] || exit 77
if ! diff <(sed -n '/<!-- capabilities -->/,/<!-- end -->/p' "$source_dir/docs/place/README.md" | grep '^|') \
    <("$build/tests/test_place_conformance" --capabilities); then
    echo "docs/place/README.md and the code disagree about capabilities (< page, > code);"
    echo "the right table is printed by tests/test_place_conformance --capabilities"
    exit 1
fi
