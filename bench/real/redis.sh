#!/bin/sh
# redis-server under redis-benchmark, over a Unix socket in a directory of its own; no port, no disk.
# Usage: redis.sh LAUNCH REPORT PRELOAD REQUESTS. LAUNCH measures the server alone.
set -eu
launch=$1 report=$2 preload=$3 requests=$4
folder=$(mktemp -d)
socket=$folder/socket
trap 'redis-cli -s "$socket" shutdown nosave >"$folder/end" 2>&1 || true; rm -rf "$folder"' EXIT
(cd "$folder" && exec "$launch" "$report" "$preload" redis-server --port 0 --unixsocket "$socket" --save '' \
    --appendonly no --daemonize no >"$folder/log" 2>&1) &
server=$!
tries=0
until redis-cli -s "$socket" ping >"$folder/ping" 2>&1; do
    tries=$((tries + 1))
    if [ "$tries" -gt 200 ]; then
        echo "redis.sh: redis-server did not start" >&2
        cat "$folder/log" >&2
        exit 1
    fi
    sleep 0.05
done
for size in 16 300; do
    redis-benchmark -s "$socket" -q -c 20 -P 8 -n "$requests" -r 30000 -d "$size" \
        -t set,get,incr,lpush,rpop,sadd,hset,zadd,lrange_100 >"$folder/benchmark"
done
redis-cli -s "$socket" eval 'for i = 1, 20000 do redis.call("set", "key" .. i, string.rep("x", i % 900)) end' 0 \
    >"$folder/eval"
redis-cli -s "$socket" flushall >"$folder/flush"
redis-cli -s "$socket" shutdown nosave >"$folder/end" 2>&1 || true
wait "$server"
