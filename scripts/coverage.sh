#!/bin/bash
# Lines and branches of lib/ that the quick unit tests reach, file by file, least covered first: scripts/coverage.sh
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/build.sh coverage
build=$PWD/build/coverage
find "$build" -name '*.gcda' -delete
ctest --preset coverage -R '^unit\.' -L quick -j "$(nproc)" --quiet || echo "coverage: some tests failed"
printf '%-32s %8s %8s\n' file lines branches
find "$build/CMakeFiles/freehold-objects.dir" -name '*.gcda' -print0 | xargs -0 gcov -n -b 2>/dev/null | awk -v root="$PWD/" '
    /^File / { file = $2; gsub(/\047/, "", file); sub(root, "", file); lines = ""; next }
    /^Lines executed:/ { split($0, part, /[:%]/); lines = part[2]; next }
    /^Taken at least once:/ { split($0, part, /[:%]/); branches[file] = part[2] }
    /^(No branches|Taken at least once:)/ && file ~ /^lib\// { percent[file] = lines }
    END { for (file in percent)
              printf "%-32s %7.1f%% %8s\n", file, percent[file], file in branches ? sprintf("%.1f%%", branches[file]) : "-" }
' | LC_ALL=C sort -k2n
