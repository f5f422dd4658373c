#!/bin/bash
# The offline page opens from disk without a network and shows its data: tables sort, search and open by mouse and
# keyboard, light and dark change, markup in data stays text. Run in a headless Chromium; skipped without one.
FREEHOLD_LIB= . "$(dirname "$0")/lib.sh"
template=$BUILD_DIR/report/report.html
browser=$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)
if [[ ! -f $template ]]; then
    skip "this build has no page: $(cat "$BUILD_DIR/report/reason" 2>/dev/null || echo 'it was not built')"
    exit 77
fi
size=$(stat -c %s "$template")
holds "the page has at most 120,000 bytes before its data" test "$size" -le 120000
holds "it names no other file to load" bash -c "! grep -qiE '<(script|img|iframe)[^>]* src=|<link|@import|url\(http' '$template'"
if [[ -z $browser ]]; then
    skip "there is no Chromium"
    exit 77
fi

# Two allocators and one that is missing; the name of one is markup that must not become any.
cat >"$work/replay.json" <<'END'
{"freehold": 1, "kind": "replay", "rounds": 2,
 "trace": {"file": "run.fht", "command": "prog", "program": "/bin/prog", "is_whole": true},
 "program": {"events": 100, "allocs": 50, "frees": 50, "resizes": 0, "peak_live_bytes": 1000,
  "peak_live_blocks": 10, "total_bytes": 5000, "largest": 200, "end_live_bytes": 0, "end_live_blocks": 0, "lost": 0},
 "allocators": [
  {"name": "slow", "kind": "malloc", "status": "done", "time": {"ns_per_event": 40, "spread": 0.1},
   "memory": {"peak_resident": 2000, "over_live": 1, "at_peak": {"requested": 1000, "usable": 1100}}},
  {"name": "<img src=x onerror=alert(1)>", "kind": "manager", "status": "done", "time": {"ns_per_event": 10, "spread": 0.1},
   "memory": {"peak_footprint": 3000, "over_live": 2}},
  {"name": "gone", "kind": "malloc", "status": "not-installed", "problem": "install it"}]}
END
cat >"$work/advise.json" <<'END'
{"rounds": 3,
 "trace": {"command": "prog", "program": "/bin/prog", "duration_ns": 1000000, "threads": 1, "events": 60, "lost": 0, "is_whole": true},
 "totals": {"allocations": 30, "frees": 30, "resizes": 0, "requested_bytes": 900, "peak_live_bytes": 300,
  "peak_live_blocks": 9, "peak_ns": 500, "end_live_bytes": 0, "end_live_blocks": 0, "sites": 2},
 "timeline": {"time_ns": [0, 500, 1000], "live_bytes": [0, 300, 10]},
 "sites": [
  {"id": 0, "function": "parse", "file": "parse.c", "line": 7, "frame": 0, "stack": [{"function": "parse"}, {"function": "main"}],
   "count": 10, "bytes": 100, "peak_bytes": 300, "end_bytes": 0, "frees": 10, "remote_frees": 0, "size": {"median": 10},
   "lifetime_ns": {"median": 100, "p90": 200}, "sizes": [{"low": 9, "high": 16, "count": 10}]},
  {"id": 1, "function": "store", "file": "store.c", "line": 9, "frame": 0, "stack": [{"function": "store"}, {"function": "main"}],
   "count": 20, "bytes": 800, "peak_bytes": 100, "end_bytes": 0, "frees": 20, "remote_frees": 0, "size": {"median": 40},
   "lifetime_ns": {"median": 9000, "p90": 9000}, "sizes": [{"low": 33, "high": 64, "count": 20}]}],
 "proposals": [{"kind": "arena", "site": 0, "title": "Use an arena", "evidence": "They die together.", "change": "fh_arena_reset(&arena);",
  "measured": {"rounds": 3, "before_ns": 9000, "after_ns": 4000, "saved_ns": 5000, "noise_ns": 10, "is_time_noise": false,
   "is_noise": false, "before_bytes": 900, "after_bytes": 800, "saved_bytes": 100}}],
 "unseen": ["What was written."]}
END
echo '{}' >"$work/newer.json"

# What a reader does, done in the page itself; each line of `said` is a claim that came true or did not.
cat >"$work/reader.js" <<'END'
const claim = (what, is) => said.push(`${is ? "ok" : "NO"} ${what}`);
const rows = () => [...document.querySelectorAll(".table tbody tr:not(.detail)")];
const names = () => rows().map((row) => row.querySelector(".function").textContent);
const heading = (key) => document.querySelector(`th[data-key="${key}"]`);
const press = (key, at) => at.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
const theme = () => document.documentElement.dataset.theme;
const before = theme();
document.getElementById("theme").click();
claim("the button changes light and dark", theme() !== before);
END
cat "$work/reader.js" - >"$work/replay.js" <<'END'
claim("the quickest allocator comes first, the missing one last", names().join() === "<img src=x onerror=alert(1)>,slow,gone");
claim("markup in a name stays text", document.querySelectorAll("img").length === 0);
heading("time").querySelector("button").click();
claim("a heading clicked again turns the order around", names()[0] === "slow" && heading("time").getAttribute("aria-sort") === "descending");
heading("peak").querySelector("button").click();
claim("another heading sorts by its column, largest first", names()[0].startsWith("<img"));
claim("bars follow the figures", rows()[1].querySelectorAll(".fill")[1].style.width === "66.67%");
claim("why an allocator is missing is said", rows()[2].textContent.includes("install it"));
END
cat "$work/reader.js" - >"$work/advise.js" <<'END'
const proposal = document.querySelector(".proposal").textContent;
claim("a proposal shows the time and the bytes that were saved", proposal.includes("5 µs") && proposal.includes("100 B"));
claim("the chart of live bytes is drawn", document.querySelector(".uplot canvas") !== null);
claim("sites come by their bytes at the peak", names().join() === "parse,store");
const box = document.querySelector('input[type="search"]');
press("/", document.body);
claim("a slash goes to the search", document.activeElement === box);
box.value = "store.c";
box.dispatchEvent(new Event("input"));
claim("the search finds by file", names().join() === "store");
box.value = "main";
box.dispatchEvent(new Event("input"));
claim("and by any function of the stack", names().length === 2);
rows()[0].focus();
press("ArrowDown", document.activeElement);
claim("arrow keys walk over rows", document.activeElement === rows()[1]);
press("Enter", document.activeElement);
claim("Enter opens a row, with its stack", document.querySelector("tr.detail .stack")?.textContent.includes("main"));
press("Enter", rows()[1]);
claim("and closes it", document.querySelector("tr.detail") === null);
END
cat >"$work/newer.js" <<'END'
const words = document.querySelector(".trouble")?.textContent ?? "";
said.push(`${words.includes("newer") ? "ok" : "NO"} data of an unknown kind are said to be of a newer Freehold`);
END

# shows NAME: the page with the data of $work/NAME.json, read by $work/NAME.js; its claims are this test's.
shows() {
    python3 - "$template" "$1" "$work/$1" <<'END'
import json, sys
template, kind, name = sys.argv[1:]
data = {"kind": kind, "data": json.load(open(name + ".json"))}
page = open(template, encoding="utf-8").read()
page = page.replace("FREEHOLD_DATA", json.dumps(data).replace("<", "\\u003c"))
reader = """<script>const said = []; onload = () => setTimeout(() => {
try { READER } catch (error) { said.push("NO error: " + error); }
document.body.append(Object.assign(document.createElement("pre"), { id: "said", textContent: said.join("\\n") }));
}, 200);</script></body>""".replace("READER", open(name + ".js", encoding="utf-8").read())
open(name + ".html", "w", encoding="utf-8").write(page.replace("</body>", reader))
END
    timeout 60 "$browser" --headless --no-sandbox --disable-gpu --user-data-dir="$work/profile" --virtual-time-budget=4000 \
        --host-resolver-rules='MAP * ~NOTFOUND' --dump-dom "file://$work/$1.html" >"$work/$1.dom" 2>"$work/browser" || true
    sed -n '/<pre id="said">/,/<\/pre>/p' "$work/$1.dom" | sed 's/.*<pre id="said">//; s/<\/pre>.*//' >"$work/$1.said"
    holds "the page of $1 is read to its end" test -s "$work/$1.said"
    while read -r verdict what; do
        claims=$((claims + 1))
        [[ $verdict == ok ]] || not_so "$1: $what" "it does not"
    done <"$work/$1.said"
}

shows replay
shows advise
shows newer
finish
