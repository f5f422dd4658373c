#!/bin/bash
# freehold run --fail sweep over real programs: it comes to an end in its time, and what it finds repeats; in every mode what is
# planted is found.
. "$(dirname "$0")/lib.sh"

freehold=$BUILD_DIR/freehold
if ! is_freehold || ! command -v python3 >/dev/null; then
    skip "the sweep is Freehold's own, and its JSON is read by python3"
    exit 77
fi
planted=$(program planted)
cd "$work"

# sweeps CLAIM NAME ARGUMENTS…: the sweep comes to its end, whatever it finds; JSON in NAME.json.
sweeps() {
    local claim=$1 name=$2 status=0
    shift 2
    claims=$((claims + 1))
    timeout 600 "$freehold" run --fail sweep --json "$name.json" "$@" >"$work/out" 2>"$work/errors" </dev/null || status=$?
    ((status <= 1)) || not_so "$claim" "$(status_in_words $status): $*" "$work/errors"
}

query() {
    python3 -c 'import json, sys
j = json.load(open(sys.argv[1]))
exec(sys.argv[2])' "$@"
}

# The first command of each group of findings ends by a signal, or by a report.
repeats() {
    query "$1.json" 'print("\n".join({x["group"]: x["reproduce"] for x in reversed(j["findings"]) if x["verdict"] == "crash"}.values()))' >commands
    while read -r command; do
        [[ -n $command ]] || continue
        claims=$((claims + 1))
        local status=0
        { (ulimit -c 0; PATH=$BUILD_DIR:$PATH exec timeout 60 bash -c "$command" >repeated 2>&1); } 2>/dev/null || status=$?
        ((status >= 128)) || not_so "'$command' to crash again" "$(status_in_words $status)" repeated
    done <commands
}

for mode in fast hardened debug; do
    sweeps "the planted bugs to be swept in mode $mode" planted --mode "$mode" --persist no --timeout 2 -- "$planted"
    holds "12 to be found in mode $mode" test "$(query planted.json 'print(len(j["findings"]), j["missed"])')" = "12 0"
done

if command -v sqlite3 >/dev/null; then
    cat >statements.sql <<'END'
create table t(a integer primary key, b text, c real);
create index tb on t(b);
insert into t(b,c) with recursive n(i) as (select 1 union all select i+1 from n where i<300) select 'row '||i, i*1.5 from n;
select count(*), sum(c), max(b) from t;
create view v as select b, c from t where c > 100;
select b from v order by c desc limit 3;
begin; update t set b = b || '!' where a % 7 = 0; delete from t where a % 11 = 0; rollback;
select group_concat(b, ',') from (select b from t where b like 'row 1%' limit 5);
pragma integrity_check;
END
    sweeps "sqlite3's sites to be swept in ten minutes" sqlite3 --stdin statements.sql -- sqlite3 :memory:
    holds "all of them" test "$(query sqlite3.json 'print(j["waiting"], j["missed"], j["plain"]["sites"] > 300)')" = "0 0 True"
    repeats sqlite3
fi
if command -v lua5.4 >/dev/null; then
    cat >program.lua <<'END'
local t = {}
for i = 1, 100 do t[i] = ("x"):rep(i) .. i end
local u = {}
for w in table.concat(t, ","):gmatch("[^,]+") do u[#u + 1] = w:upper() end
table.sort(u)
print(#u, load("return 1 + 1")(), pcall(error, {}), string.format("%q", "a\nb"))
local co = coroutine.wrap(function() for i = 1, 10 do coroutine.yield(i) end end)
for i = 1, 10 do co() end
END
    sweeps "Lua to be swept" lua -- lua5.4 program.lua
    holds "which handles all failures" test "$(query lua.json 'print(j["crashes"], j["hangs"], j["missed"])')" = "0 0 0"
fi
finish
