#!/bin/bash
# The main job: an unmodified SQLite with a workload on Freehold's heap. scripts/demo.sh BUILD_DIR
set -euo pipefail
cd "$(dirname "$0")/.."
echo "sqlite3 :memory: < examples/workload.sql, its malloc replaced by Freehold's:"
echo
"$1"/freehold run --stats -- sqlite3 -batch :memory: <examples/workload.sql
