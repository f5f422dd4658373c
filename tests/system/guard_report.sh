#!/bin/bash
# What is told of an error, and what happens then: each fault is named and explained in debug mode and its twin is silent; programs that
# handle faults themselves find in every mode what the kernel would give them; JSON, suppressions, on_error.
. "$(dirname "$0")/lib.sh"

faults=$(program faults)
handlers=$(program fault_handlers)

# ends STATUS CLAIM SETTINGS PROGRAM…: it does so under the settings; its output is in $work/out, its errors in $work/errors.
ends() {
    local expected=$1 claim=$2 settings=$3 status=0
    [[ $settings != mode=debug* ]] || settings+=,wrappers=off
    shift 3
    claims=$((claims + 1))
    { (ulimit -c 0; FREEHOLD=$settings exec timeout 60 "${under[@]}" "$@" >"$work/out" 2>"$work/errors" </dev/null); } 2>/dev/null ||
        status=$?
    ((status == expected)) || not_so "$claim" "$(status_in_words $status)" "$work/errors"
}

# says CLAIM REGEX [COUNT]: lines of the errors match.
says() {
    local found wanted=${3-}
    found=$(grep -cE -- "$2" "$work/errors") || true
    claims=$((claims + 1))
    if [[ -n $wanted ]] && ((found != wanted)) || ((found == 0)); then
        not_so "$1" "$found lines match '$2'" "$work/errors"
    fi
}

# ---- Programs that handle faults themselves ----

for mode in "" mode=hardened mode=debug; do
    [[ -z $mode ]] || is_freehold || continue
    while read -r name; do
        ends 0 "$name to work with '$mode'" "$mode" "$handlers" "$name"
        holds "$name to say nothing with '$mode'" test ! -s "$work/errors"
    done < <("$handlers" --list)
done

# ---- Faults ----

while read -r name kind line; do
    ends 0 "the good twin of $name to end well" mode=debug "$faults" "$name" good
    holds "the good twin of $name to say nothing" test ! -s "$work/errors"
    is_freehold || continue
    ends 134 "$name to end by SIGABRT" mode=debug "$faults" "$name"
    says "$name to be called $kind" "^freehold: ERROR: $kind on address 0x[0-9a-f]+ at pc 0x[0-9a-f]+ bp 0x[0-9a-f]+ sp 0x[0-9a-f]+$" 1
    says "the report of $name to explain" "$line"
    says "the report of $name to have a stack of the program" '^    #[0-9]+ 0x[0-9a-f]+ in [A-Za-z_]+\+0x[0-9a-f]+ \(.*/faults\+0x[0-9a-f]+\)$'
    says "the report of $name to have a summary" "^SUMMARY: freehold: $kind \(.*/faults\+0x[0-9a-f]+\) in [a-z_]+$" 1
done < <("$faults" --list)

if ! is_freehold; then
    finish
    exit
fi

# ---- Blocks ----

ends 134 "a use after free to end by SIGABRT" mode=debug "$faults" after_free
says "the block to be described" '^0x[0-9a-f]+ is located 8 bytes inside of 64-byte block \[0x[0-9a-f]+,0x[0-9a-f]+\)$' 1
says "the allocation's stack" '^allocated by thread [0-9]+ here:$' 1
says "the free's stack" '^freed by thread [0-9]+ here:$' 1
says "the function that allocated" ' in allocated_here\+' 1
says "the function that freed" ' in freed_here\+' 1
says "the build of the program" '^module /.*/faults build-id [0-9a-f]{40}$' 1

# ---- Static programs ----

if [[ -f $BUILD_DIR/libfreehold-malloc.a ]]; then
    passes "a static program links" cc -std=gnu17 -static-pie -fPIE -O1 -g -fno-builtin -pthread -w "$SOURCE_DIR/tests/system/faults.c" \
        "$BUILD_DIR/libfreehold-malloc.a" "$BUILD_DIR/libfreehold.a" -o "$work/static_faults"
    under_before=("${under[@]}")
    under=(env)
    ends 134 "a static program's use after free to end by SIGABRT" mode=debug "$work/static_faults" after_free
    says "its functions" '#0 0x[0-9a-f]+ in allocated_here\+'
    says "its main" '#[1-9] 0x[0-9a-f]+ in main\+'
    ends 134 "a static program's thread without a stack to end by SIGABRT" mode=debug "$work/static_faults" endless_small_thread
    says "its kind" '^freehold: ERROR: stack-overflow'
    ends 0 "its good twin to end well" mode=debug "$work/static_faults" endless_small_thread good
    under=("${under_before[@]}")
fi

# ---- A fast program's faults are its own ----

ends 139 "a fault in fast mode to end as without us" "" "$faults" null_write
holds "a fault in fast mode to say nothing" test ! -s "$work/errors"

# ---- on_error ----

ends 42 "on_error=exit=42 to be heeded" mode=debug,on_error=exit=42 "$faults" after_free
says "the report before the exit" '^SUMMARY: ' 1
ends 0 "a program to go on after a heap error with on_error=continue" mode=debug,on_error=continue "$faults" after_free
says "the report once" '^SUMMARY: ' 1
ends 139 "a null pointer to end it by the signal with on_error=continue" mode=debug,on_error=continue "$faults" null_write
says "its report" '^SUMMARY: ' 1

# ---- Many of them ----

repeats=$(program repeats)
ends 0 "a program to go on after a thousand errors" mode=debug,on_error=continue "$repeats" same
says "the place once" '^SUMMARY: freehold: double-free ' 1
says "how often it was met again" '^freehold: errors where one was told already: 999$' 1
ends 0 "a program to go on after errors at 512 places" mode=debug,on_error=continue "$repeats" places
says "a hundred of them" '^SUMMARY: ' 100
says "how many more there were" '^freehold: errors at other places, beyond the 100 that are told: 412$' 1
ends 134 "eight threads that fault at once to end by SIGABRT" mode=debug "$repeats" together
says "one report" '^SUMMARY: freehold: null-dereference ' 1
ends 0 "children of a process with threads to report their own errors" mode=debug "$repeats" child
says "one report a child" '^SUMMARY: freehold: double-free ' 20
ends 134 "an error of a signal handler to end by SIGABRT" mode=debug "$repeats" handler
says "the handler" '#[0-9]+ 0x[0-9a-f]+ in on_signal'

# ---- JSON ----

ends 134 "a run with report=PATH to end by SIGABRT" "mode=debug,report=$work/%p.json" "$faults" after_free
json=("$work"/*.json)
holds "one line of JSON" test "$(wc -l <"${json[0]}")" -eq 1
if command -v python3 >/dev/null; then
    cat >"$work/look.py" <<'END'
import json, sys
e = json.loads(open(sys.argv[1]).read())
assert e["kind"] == "heap-use-after-free" and e["access"] == "read" and e["size"] == 4, e
assert e["block"]["size"] == 64 and e["block"]["state"] == "freed" and e["block"]["distance"] == 8, e
assert e["stack"][0]["function"] == "read_int" and e["stack"][0]["module"].endswith("/faults"), e
assert len(e["stack"][0]["build_id"]) == 40 and e["pid"] > 0, e
assert e["allocation"][0]["function"] == "allocated_here" and e["free"][0]["function"] == "freed_here", e
END
    passes "the JSON to say what the text says" python3 "$work/look.py" "${json[0]}"
fi
ends 134 "a report that can't be written to be told all the same" "mode=debug,report=/nonexistent/x" "$faults" after_free
says "that it can't be written" '^freehold: report=/nonexistent/x can' 1

# ---- Suppressions ----

cat >"$work/suppressions" <<'END'
# a comment, and an empty line

heap-use-after-free:read_*  max=1
null-dereference:*nowhere*
nonsense
double-free:x  most=3
END
ends 0 "a suppressed error to be passed over" "mode=debug,suppress=$work/suppressions" "$faults" after_free
holds "no report of a suppressed error" test "$(grep -c SUMMARY "$work/errors")" -eq 0
says "that one was suppressed" '^freehold: errors suppressed: 1$' 1
says "the line that can't be understood" 'suppressions:5: expected KIND:GLOB; the line is ignored' 1
says "the option that can't be understood" 'suppressions:6: after KIND:GLOB only max=N' 1
ends 134 "an error that is not suppressed to be told" "mode=debug,suppress=$work/suppressions" "$faults" null_write
echo "heap-use-after-free:*/faults max=0" >"$work/none"
ends 134 "a suppression that is used up to tell" "mode=debug,suppress=$work/none" "$faults" after_free
echo "*:allocated_here" >"$work/allocation"
ends 0 "a suppression to hold for the allocation's stack" "mode=debug,suppress=$work/allocation" "$faults" after_free
ends 0 "a file that can't be read to stop nobody" "mode=debug,suppress=/nonexistent/y" "$faults" after_free good
says "that it can't be read" '^freehold: suppress=/nonexistent/y can' 1
finish
