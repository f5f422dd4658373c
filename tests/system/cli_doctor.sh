#!/bin/bash
# freehold doctor: each finding has a state and a meaning, limits in force are seen, and what is piped is plain ASCII.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
freehold=$BUILD_DIR/freehold

passes "the doctor ends well on this machine" "$freehold" doctor
cp "$work/out" "$work/report"
holds "a piped report is plain ASCII" bash -c '! LC_ALL=C grep -qP "[^\x20-\x7e\n]" "$1"' - "$work/report"
for name in kernel "page size" "huge pages" userfaultfd "guard pages" "populate ahead" process_madvise "tagged memory" \
    "protection keys" "address space" "locked memory" stack mappings overcommit "memory cgroup" tracing \
    "address randomisation" rseq membarrier; do
    holds "the doctor reports on $name" grep -qE "^  (ok| -| !|XX) $name  " "$work/report"
done

passes "a limited address space is no obstacle" bash -c 'ulimit -v 4000000; exec "$1" doctor' - "$freehold"
holds "and is seen" grep -qE '^   ! address space +3.81 GiB' "$work/out"
holds "with what to do" grep -q 'ulimit -v unlimited' "$work/out"
passes "randomisation switched off is no obstacle" setarch -R "$freehold" doctor
holds "and is seen" grep -qE '^   ! address randomisation +off in this shell' "$work/out"

passes "the findings come as JSON" "$freehold" doctor --json "$work/findings.json" sh
holds "and nothing on standard output" test ! -s "$work/out"
cat >"$work/check.py" <<'END'
import json, sys
report = json.load(open(sys.argv[1]))
assert report["freehold"] == 1 and report["program"]["can_be_preloaded"] is True, report["program"]
assert any(name.startswith("libc.so") for name in report["program"]["needed"])
for finding in report["findings"]:
    assert finding["status"] in ("good", "plain", "limited", "missing"), finding
    for key in ("group", "name", "state", "meaning"):
        assert finding[key], finding
END
passes "each finding has its fields" python3 "$work/check.py" "$work/findings.json"

mkdir "$work/alone"
cp "$freehold" "$work/alone/freehold"
claims=$((claims + 1))
status=0
"$work/alone/freehold" doctor >"$work/out" 2>&1 || status=$?
# Where Freehold is installed the copy finds that library, rightly.
if ((status != 0)); then
    holds "a command without its library says so" grep -qE '^  XX library +not found' "$work/out"
    holds "and ends with 1" test "$status" = 1
    status=0
    "$work/alone/freehold" run -- true >"$work/out" 2>&1 || status=$?
    holds "and run ends with 125" test "$status" = 125
fi
finish
