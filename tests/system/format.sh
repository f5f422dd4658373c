#!/bin/bash
# Every C file is formatted as .clang-format says. Skipped where another clang-format than 14 is installed: they differ.
set -uo pipefail
cd "${SOURCE_DIR:?}" || exit 1
clang-format --version 2>/dev/null | grep -q 'version 14\.' || exit 77
find include lib cli tools tests bench fuzz examples \( -name '*.[ch]' -o -name '*.cc' -o -name '*.hpp' \) 2>/dev/null |
    xargs clang-format --dry-run -Werror 2>&1 | sed -nE 's/^([^: ]+):[0-9]+:[0-9]+: (error|warning):.*/\1/p' | sort -u >"${BUILD_DIR:?}/unformatted"
if [[ -s $BUILD_DIR/unformatted ]]; then
    echo "not formatted (clang-format -i does it):"
    cat "$BUILD_DIR/unformatted"
    exit 1
fi
