#!/bin/bash
# Real programs, unmodified: with the malloc under test they write the same as without it. What is not installed is skipped and
# said. The longer runs of the same programs are in programs_slow.sh.
. "$(dirname "$0")/lib.sh"

export PYTHONHASHSEED=0 GIT_CONFIG_NOSYSTEM=1 HOME=$work
export GIT_AUTHOR_NAME=A GIT_AUTHOR_EMAIL=a@example.org GIT_COMMITTER_NAME=A GIT_COMMITTER_EMAIL=a@example.org
export GIT_AUTHOR_DATE="2001-02-03 04:05:06 +0000" GIT_COMMITTER_DATE="2001-02-03 04:05:06 +0000"

# same NAME COMMAND…: in a fresh directory each, the command's status, output and what it left in `result` are the same.
same() {
    local name=$1 run
    shift
    if ! command -v "$name" >/dev/null; then
        skip "$name is not installed"
        return 0
    fi
    for run in without with; do
        local status=0 prefix=(env)
        [[ $run == without ]] || prefix=("${under[@]}")
        rm -rf "$work/directory"
        mkdir "$work/directory"
        (cd "$work/directory" && exec timeout $patience "${prefix[@]}" "$@") >"$work/$run" 2>&1 </dev/null || status=$?
        printf '\n%s\n' "$(status_in_words $status)" >>"$work/$run"
        cat "$work/directory/result" >>"$work/$run" 2>/dev/null || true
    done
    equal "$name to do as it does without the library" "$work/without" "$work/with"
    holds "$name to end well without the library: $(tail -n 3 "$work/without" | tr -cd '[:print:]' | cut -c 1-200)" \
        grep -aq '^ended with status 0$' "$work/without"
}

cat >"$work/work.sql" <<'END'
PRAGMA cache_size = 2000;
CREATE TABLE item(id INTEGER PRIMARY KEY, name TEXT, price REAL, tags TEXT);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 60000)
INSERT INTO item SELECT i, printf('item %d of %s', i * 7919 % 60000, hex(i * i)), i * 0.25, substr('abcdefghij', i % 10 + 1, 4) FROM n;
CREATE INDEX by_name ON item(name);
CREATE INDEX by_tags ON item(tags, price);
SELECT count(*), sum(length(name)), total(price) FROM item;
SELECT tags, count(*), round(avg(price), 3), max(name) FROM item GROUP BY tags ORDER BY tags;
SELECT a.id, b.id FROM item a JOIN item b ON a.id = b.id * 2 WHERE a.tags = 'cdef' ORDER BY a.name LIMIT 20;
UPDATE item SET name = upper(name) || tags WHERE id % 3 = 0;
DELETE FROM item WHERE id % 7 = 0;
SELECT length(group_concat(name, ',')) FROM (SELECT name FROM item ORDER BY name LIMIT 20000);
SELECT id, row_number() OVER (PARTITION BY tags ORDER BY price DESC) AS place FROM item ORDER BY place, id LIMIT 10;
VACUUM;
PRAGMA integrity_check;
END
same sqlite3 sqlite3 work.db ".read $work/work.sql"

cat >"$work/work.lua" <<'END'
local sum, parts, objects = 0, {}, {}
for i = 1, 200000 do
  objects[i % 5000 + 1] = {id = i, name = "object " .. i, next = objects[i % 4999 + 1] and objects[i % 4999 + 1].id}
  sum = (sum * 31 + #objects[i % 5000 + 1].name + (objects[i % 5000 + 1].next or 0)) % 1000000007
end
for i = 1, 20000 do parts[#parts + 1] = string.rep(string.char(97 + i % 26), i % 50) end
local text = table.concat(parts)
print(sum, #text, (text:gsub("(%a)%1+", "%1")):sub(1, 60))
local workers = {}
for i = 1, 2000 do workers[i] = coroutine.wrap(function() for j = 1, 20 do coroutine.yield({i, j}) end end) end
local total = 0
for j = 1, 20 do for i = 1, 2000 do local v = workers[i](); total = total + v[1] * v[2] end end
collectgarbage()
print(total)
END
same lua5.4 lua5.4 "$work/work.lua"

cat >"$work/work.pl" <<'END'
my (%seen, @list);
for my $i (1 .. 120000) { my $key = "key" . ($i * 7919 % 5003); push @{$seen{$key}}, $i; delete $seen{$key} if @{$seen{$key}} > 20; }
for my $key (sort keys %seen) { push @list, $key . "=" . join(",", reverse @{$seen{$key}}); }
my $text = join(";", @list);
(my $other = $text) =~ s/(\d+),(\d+)/$2-$1/g;
printf "%d %d %s\n", length($text), length($other), substr($other, 1000, 60);
my $sum = 0; $sum += unpack("%32C*", $_) for split /;/, $other; print "$sum\n";
my $pid = fork; if (!$pid) { my @many = map { "x" x $_ } 1 .. 2000; exit(@many == 2000 ? 7 : 1); } waitpid($pid, 0); print $? >> 8, "\n";
END
same perl perl "$work/work.pl"

cat >"$work/work.py" <<'END'
import collections, hashlib, json, queue, re, threading, zlib
data = {str(i): [i, i / 3, None, {"name": "n%d" % i, "list": list(range(i % 30))}] for i in range(6000)}
text = json.dumps(data, sort_keys=True)
assert json.loads(text) == data
print(len(text), hashlib.sha256(text.encode()).hexdigest(), zlib.crc32(zlib.compress(text.encode())))
print(len(re.findall(r'"name": "n(\d*[05])"', text)), len(re.sub(r"\d+", lambda m: m.group()[::-1], text)))
jobs, results = queue.Queue(), queue.Queue()
def work():
    while (job := jobs.get()) is not None:
        results.put((job, sum(len(str(i) * (i % 40)) for i in range(job))))
threads = [threading.Thread(target=work) for _ in range(4)]
[thread.start() for thread in threads]
[jobs.put(i) for i in range(0, 4000, 10)]
[jobs.put(None) for _ in threads]
[thread.join() for thread in threads]
print(sum(value for _, value in sorted(results.queue)))
tree = collections.defaultdict(list)
for i in range(100000): tree[i * 7919 % 1009].append((i, str(i)))
print(sum(len(v) for v in tree.values()), max(tree[5]))
END
python=/usr/bin/python3
[[ -x $python ]] || python=python3
same "$python" "$python" -I "$work/work.py"
same "$python" env PYTHONMALLOC=malloc "$python" "$work/work.py"

for compiler in cc c++ clang-14; do
    source=$SOURCE_DIR/tests/system/stress.c
    [[ $compiler != c++ ]] || source=$SOURCE_DIR/tests/system/entry_cxx.cc
    same "$compiler" "$compiler" -O1 -g -c "$source" -o result
done

cat >"$work/work.git" <<'END'
set -e
git init -q -b main .
for i in 1 2 3 4 5 6; do
    mkdir -p d$i
    for j in $(seq 60); do seq $((i * j)) $((i * j + 200)) >d$i/f$j; done
    git add . && git commit -q -m "commit $i"
    sed -i "s/^1\(.*\)$/line $i \1/" d1/f*
done
git checkout -q -b side HEAD~3 && echo side >d2/f1 && git commit -q -am side && git merge -q -m merge main -X ours
git log --stat --format=%H | tail -n 400
git diff HEAD~2 | sha256sum
git gc -q && git fsck --full && git blame d1/f3 | sha256sum
git clone -q . copy && git -C copy rev-parse HEAD
END
same git bash "$work/work.git"

seq 300000 -1 1 | awk '{print $1 * 7919 % 300007, "line", $1}' >"$work/lines"
same sort sort --parallel=2 -S 8M "$work/lines"
same awk awk '{n[$1 % 1000] = n[$1 % 1000] substr($0, 1, 8)} END {for (i = 0; i < 1000; i++) print n[i]}' "$work/lines"
same xz xz -k -T2 -2 -c "$work/lines"
same tar tar -C "$SOURCE_DIR" --sort=name --mtime=@0 --owner=0 --group=0 -cf result tests
same bash bash -c 'for ((i = 0; i < 20000; i++)); do a[i % 500]=${a[i % 499]:0:40}x$i; done; echo "${a[@]}"; (echo $BASH_SUBSHELL)'
finish
