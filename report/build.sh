#!/bin/bash
# Builds the page: report/build.sh TARGET_FOLDER makes TARGET_FOLDER/report.html. Works in a copy below that folder, so the
# source tree stays as it is. Where it can't be built (no npm, no network) it leaves TARGET_FOLDER/reason, a line that
# says why, and succeeds: the command then says so when a page is asked for, and the next build tries again.
set -euo pipefail
source=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
target=$(cd "$1" && pwd)
page=$target/report.html

if [[ -f $page && -z $(find "$source" -name node_modules -prune -o -type f -newer "$page" -print -quit) ]]; then
    exit 0
fi
rm -f "$page"
give_up() {
    echo "$*" >"$target/reason"
    echo "report: no page is built: $*"
    exit 0
}
command -v node >/dev/null && command -v npm >/dev/null ||
    give_up "nodejs and npm were not installed when it was built"
major=$(node -p 'process.versions.node.split(".")[0]')
((major >= 18)) || give_up "nodejs is of version $major, and 18 or newer is needed"

mkdir -p "$target/work"
cp -r "$source/package.json" "$source/package-lock.json" "$source/build.js" "$source/src" "$target/work/"
cd "$target/work"
# Few and short retries: a build without network should not stand still.
if ! cmp -s package-lock.json node_modules/.built-from; then
    npm ci --prefer-offline --no-audit --no-fund --fetch-retries=1 --fetch-timeout=30000 >"$target/npm.log" 2>&1 ||
        give_up "npm could not get the packages it is made of ($target/npm.log says more)"
    cp package-lock.json node_modules/.built-from
fi
node build.js "$page" >"$target/npm.log" 2>&1 || give_up "its build failed ($target/npm.log says more)"
rm -f "$target/reason"
