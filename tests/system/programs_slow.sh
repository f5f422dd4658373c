#!/bin/bash
# Real programs at length: a redis server under its own benchmark, Python's test suite for what allocates most, a compiler on a
# large source. Where the result can be compared with a run without the library, it is.
. "$(dirname "$0")/lib.sh"

export HOME=$work
python=/usr/bin/python3
[[ -x $python ]] || python=python3

# ---- redis ----

# A port of the loopback that nobody listens on.
free_port() {
    "$python" -I -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# redis NAME PREFIX…: a server started under PREFIX gets a fixed workload; answers and digests go to $work/NAME.
redis() {
    local name=$1 port server tries=0
    shift
    port=$(free_port)
    mkdir -p "$work/$name.directory"
    "$@" redis-server --port "$port" --bind 127.0.0.1 --dir "$work/$name.directory" --save "" --appendonly no \
        --enable-debug-command yes --io-threads 2 --hash-max-listpack-entries 32 >"$work/$name.log" 2>&1 &
    server=$!
    until redis-cli -p "$port" ping >/dev/null 2>&1; do
        tries=$((tries + 1))
        if ((tries > 100)) || ! kill -0 $server 2>/dev/null; then
            not_so "redis-server ($name) to start" "it does not answer" "$work/$name.log"
            kill -9 $server 2>/dev/null || true
            return 0
        fi
        sleep 0.1
    done
    {
        timeout $patience redis-cli -p "$port" <"$work/commands"
        # Random keys and values, so its figures aren't compared: it must end, and the server must live.
        timeout $patience redis-benchmark -p "$port" -q -n 20000 -c 20 -P 8 -r 10000 -d 100 \
            -t set,get,incr,lpush,lpop,sadd,hset,spop,zadd,lrange_100,mset >"$work/$name.benchmark" 2>&1 &&
            echo "the benchmark ended well"
        redis-cli -p "$port" debug change-repl-id
        redis-cli -p "$port" flushall
        timeout $patience redis-cli -p "$port" <"$work/commands"
        redis-cli -p "$port" save
        redis-cli -p "$port" bgsave >/dev/null
        redis-cli -p "$port" debug reload
        redis-cli -p "$port" debug digest
        redis-cli -p "$port" dbsize
    } >"$work/$name" 2>&1 || true
    redis-cli -p "$port" shutdown nosave >/dev/null 2>&1 || true
    local status=0
    wait $server || status=$?
    echo "the server: $(status_in_words $status)" >>"$work/$name"
}

if command -v redis-server >/dev/null && command -v redis-benchmark >/dev/null; then
    awk 'BEGIN {
        for (i = 0; i < 6000; i++) {
            printf "SET key:%d %0*d\n", i * 7919 % 5003, i % 900 + 1, i
            printf "APPEND key:%d tail%d\n", i % 5003, i
            printf "RPUSH list:%d element%d %0*d\n", i % 50, i, i % 300 + 1, i
            printf "HSET hash:%d field%d %0*d\n", i % 40, i, i % 200 + 1, i
            printf "ZADD sorted:%d %d member%d\n", i % 20, i * 31 % 1000, i
            printf "SADD set:%d %d text%d\n", i % 30, i, i
            if (i % 5 == 0) printf "DEL key:%d\n", i * 3 % 5003
            if (i % 7 == 0) printf "LPOP list:%d\n", i % 50
            if (i % 11 == 0) printf "GET key:%d\n", i % 5003
            if (i % 97 == 0) printf "LRANGE list:%d 0 10\n", i % 50
        }
        print "DEBUG DIGEST"
    }' </dev/null >"$work/commands"
    redis without env
    redis with "${under[@]}"
    equal "redis to answer as it does without the library" "$work/without" "$work/with"
    holds "redis to stand its benchmark" grep -q '^the benchmark ended well$' "$work/with"
else
    skip "redis is not installed"
fi

# ---- Python's own tests ----

for module in test_json test_re test_threading; do
    if ! "$python" -c "import test.$module" 2>/dev/null; then
        skip "Python's $module is not installed (Debian: libpython3-testsuite)"
        continue
    fi
    # A test that fails here without the library says nothing about it.
    if ! timeout 100 env PYTHONMALLOC=malloc "$python" -m test -q "$module" >"$work/out" 2>&1 </dev/null; then
        skip "Python's $module fails without the library too"
        continue
    fi
    passes "Python's $module to pass" "${under[@]}" PYTHONMALLOC=malloc "$python" -m test -q "$module"
done

# ---- a compiler on a large source, a larger database ----

awk 'BEGIN {
    print "#include <map>\n#include <string>\n#include <vector>\n#include <functional>"
    for (i = 0; i < 150; i++)
        printf "template <int N> struct s%d { std::map<std::string, std::vector<s%d<N / 2> *>> m; int f(int x) { return x < N ? f(x + %d) : %d; } };\nint g%d(int x) { s%d<%d> s; std::function<int(int)> h = [&](int y) { return s.f(y); }; return h(x); }\n", i, i, i, i * i, i, i, i + 3
}' </dev/null >"$work/large.cc"
for run in without with; do
    prefix=(env)
    [[ $run == without ]] || prefix=("${under[@]}")
    LIMIT=$((2 * patience)) passes "the compiler to compile a large source ($run the library)" \
        "${prefix[@]}" c++ -std=c++17 -O1 -g -c "$work/large.cc" -o "$work/large.o"
    mv "$work/large.o" "$work/$run.o"
    if command -v sqlite3 >/dev/null; then
        passes "sqlite to work ($run the library)" "${prefix[@]}" sqlite3 :memory: "
            CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT, c TEXT);
            WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300000)
                INSERT INTO t SELECT i, hex(i * i), printf('%0*d', i % 80, i) FROM n;
            CREATE INDEX x ON t(b); CREATE INDEX y ON t(c, b);
            SELECT count(*), sum(length(b)), max(c) FROM t;
            DELETE FROM t WHERE a % 3 = 1; UPDATE t SET c = b || c WHERE a % 5 = 0;
            SELECT sum(length(c)) FROM (SELECT c FROM t ORDER BY c DESC, b); PRAGMA integrity_check;"
        cp "$work/out" "$work/$run.sql"
    fi
done
equal "the compiler to write the same object" "$work/without.o" "$work/with.o"
[[ ! -f $work/with.sql ]] || equal "sqlite to answer as it does without the library" "$work/without.sql" "$work/with.sql"
finish
